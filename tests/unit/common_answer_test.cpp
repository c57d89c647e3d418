// The file servers' answers: heads to the byte, ranges at all their edges, one code for each errno.

#include <doctest/doctest.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include "servers/common/error_class.hpp"
#include "servers/common/file_answer.hpp"
#include "servers/common/file_wire.hpp"

using common::Answer;
using common::Request;

namespace {

constexpr std::uint64_t u64_max = std::numeric_limits<std::uint64_t>::max();

Request parsed(const std::string& bytes) {
  common::RequestParser parser;
  common::TextBuffer text;
  Request request;
  const auto result = parser.consume(std::as_bytes(std::span(bytes)), request, text);
  REQUIRE(result.complete);
  REQUIRE(result.used == bytes.size());
  request.text = {};
  return request;
}

Request line(const std::string& numbers = "") { return parsed("GET f" + numbers + "\n"); }
Request http(const std::string& header_lines = "", const std::string& version = "1.1") {
  return parsed("GET /f HTTP/" + version + "\r\n" + header_lines + "\r\n");
}
Request head_method(const std::string& header_lines = "") {
  return parsed("HEAD /f HTTP/1.1\r\n" + header_lines + "\r\n");
}

// "206 10+5 of the file", and the head where `with_head`.
std::string part(const Answer& answer) {
  return std::to_string(answer.code) + " " + std::to_string(answer.offset) + "+" +
         std::to_string(answer.length);
}
std::string range(const std::string& value, std::uint64_t size) {
  return part(common::answer_file(http("Range: bytes=" + value + "\r\n"), size));
}

}  // namespace

TEST_CASE("the line form: OK and the number of bytes that follow") {
  const Answer answer = common::answer_file(line(), 1000);
  CHECK(answer.text() == "OK 1000\n");
  CHECK(part(answer) == "200 0+1000");
  CHECK(answer.keep);
  CHECK(common::answer_file(line(), 0).text() == "OK 0\n");
  CHECK(common::answer_file(line(), u64_max).text() == "OK 18446744073709551615\n");
}

TEST_CASE("a part of a file: cut at its end; behind its end, or at it with something wanted, is 416") {
  struct Row {
    const char* numbers;
    std::uint64_t size;
    const char* part;
    const char* head;
  };
  const char* const refused = "ERR 416 range not satisfiable\n";
  for (const Row& row : {
           Row{" 0 10", 100, "200 0+10", "OK 10\n"},
           Row{" 90 10", 100, "200 90+10", "OK 10\n"},
           Row{" 90 11", 100, "200 90+10", "OK 10\n"},
           Row{" 99 1", 100, "200 99+1", "OK 1\n"},
           Row{" 100 0", 100, "200 100+0", "OK 0\n"},
           Row{" 100 1", 100, "416 0+0", refused},
           Row{" 101 0", 100, "416 0+0", refused},
           Row{" 50 0", 100, "200 50+0", "OK 0\n"},
           Row{" 0 0", 0, "200 0+0", "OK 0\n"},
           Row{" 0 1", 0, "416 0+0", refused},
           Row{" 1 9223372036854775807", 100, "200 1+99", "OK 99\n"},
           Row{" 9223372036854775807 9223372036854775807", 100, "416 0+0", refused},
           Row{" 5000000000 10", 5000000005, "200 5000000000+5", "OK 5\n"},
       }) {
    INFO(row.numbers, " of ", row.size);
    const Answer answer = common::answer_file(line(row.numbers), row.size);
    CHECK(part(answer) == row.part);
    CHECK(answer.text() == row.head);
    CHECK(answer.keep);
  }
}

TEST_CASE("HTTP heads, to the byte") {
  CHECK(common::answer_file(http(), 1000).text() ==
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nAccept-Ranges: bytes\r\n\r\n");
  CHECK(common::answer_file(http("Connection: close\r\n"), 0).text() ==
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n");
  CHECK(common::answer_file(http("", "1.0"), 1).text() ==
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n");
  CHECK(common::answer_file(http("Connection: Keep-Alive\r\n", "1.0"), 1).text() ==
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nAccept-Ranges: bytes\r\nConnection: keep-alive\r\n\r\n");
  CHECK(common::answer_file(http("Range: bytes=10-19\r\n"), 1000).text() ==
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 10-19/1000\r\n\r\n");
  CHECK(common::answer_file(http("Range: bytes=1000-\r\n"), 1000).text() ==
        "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 22\r\nContent-Range: bytes */1000\r\n\r\n"
        "range not satisfiable\n");
  CHECK(common::answer_error(http(), ENOENT).text() ==
        "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\nno such file\n");
  CHECK(common::answer_error(http(), EIO).text() ==
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 24\r\nConnection: close\r\n\r\n"
        "the file cannot be read\n");
}

TEST_CASE("an HTTP range is 206, also when it is the whole file; unsatisfiable is 416") {
  CHECK(range("0-99", 100) == "206 0+100");
  CHECK(range("0-0", 100) == "206 0+1");
  CHECK(range("99-99", 100) == "206 99+1");
  CHECK(range("99-200", 100) == "206 99+1");
  CHECK(range("100-200", 100) == "416 0+0");
  CHECK(range("50-", 100) == "206 50+50");
  CHECK(range("100-", 100) == "416 0+0");
  CHECK(range("-1", 100) == "206 99+1");
  CHECK(range("-100", 100) == "206 0+100");
  CHECK(range("-200", 100) == "206 0+100");
  CHECK(range("-0", 100) == "416 0+0");
  CHECK(range("0-", 0) == "416 0+0");
  CHECK(range("-5", 0) == "416 0+0");
  CHECK(range("99999999999999999999-", 100) == "416 0+0");
  CHECK(range("0-99999999999999999999", 100) == "206 0+100");
  CHECK(range("-99999999999999999999", 100) == "206 0+100");
  CHECK(range("1-2,4-5", 100) == "200 0+100");
  CHECK(range("4294967296-", u64_max) == "206 4294967296+" + std::to_string(u64_max - 4294967296));
}

TEST_CASE("HEAD has the head of GET and nothing behind it, refusals included") {
  const Answer answer = common::answer_file(head_method(), 1000);
  CHECK(answer.text() == common::answer_file(http(), 1000).text());
  CHECK(answer.length == 0);
  CHECK(common::answer_error(head_method(), ENOENT).text() ==
        "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n");
}

TEST_CASE("one code for each errno, and which of them keep the connection") {
  struct Row {
    int error;
    int code;
    bool keeps;
    const char* line;
  };
  for (const Row& row : {
           Row{EACCES, 403, true, "ERR 403 permission denied\n"},
           Row{EPERM, 403, true, "ERR 403 permission denied\n"},
           Row{EXDEV, 403, true, "ERR 403 outside the served folder\n"},
           Row{ELOOP, 403, true, "ERR 403 too many symbolic links\n"},
           Row{EISDIR, 403, true, "ERR 403 not a regular file\n"},
           Row{ENXIO, 403, true, "ERR 403 not a regular file\n"},
           Row{ENODEV, 403, true, "ERR 403 not a regular file\n"},
           Row{ENOENT, 404, true, "ERR 404 no such file\n"},
           Row{ENOTDIR, 404, true, "ERR 404 no such file\n"},
           Row{ESTALE, 404, true, "ERR 404 no such file\n"},
           Row{ENAMETOOLONG, 414, false, "ERR 414 name too long\n"},
           Row{EIO, 500, false, "ERR 500 the file cannot be read\n"},
           Row{EINVAL, 500, false, "ERR 500 the file cannot be read\n"},
           Row{EMFILE, 503, true, "ERR 503 out of resources, try again\n"},
           Row{ENFILE, 503, true, "ERR 503 out of resources, try again\n"},
           Row{ENOMEM, 503, true, "ERR 503 out of resources, try again\n"},
           Row{ENOBUFS, 503, true, "ERR 503 out of resources, try again\n"},
           Row{EAGAIN, 503, true, "ERR 503 out of resources, try again\n"},
       }) {
    INFO("errno ", row.error);
    const Answer answer = common::answer_error(line(), row.error);
    CHECK(answer.code == row.code);
    CHECK(answer.keep == row.keeps);
    CHECK(answer.text() == row.line);
    CHECK(common::keeps_connection(answer.code) == row.keeps);
    CHECK(!common::answer_error(http("Connection: close\r\n"), row.error).keep);
  }
}

TEST_CASE("a refusal says why, in the form of the request") {
  struct Row {
    const char* bytes;
    const char* head;
  };
  for (const Row& row : {
           Row{"\n", "ERR 400 malformed request\n"},
           Row{"PUT a\n", "ERR 501 no such method\n"},
           Row{"GET //a\n", "ERR 403 the path is not relative\n"},
           Row{"GET a 1\n", "ERR 400 an offset needs a length\n"},
           Row{"POST /a HTTP/1.1\r\n\r\n",
               "HTTP/1.1 501 Not Implemented\r\nContent-Length: 18\r\nConnection: close\r\n\r\nGET and HEAD "
               "only\n"},
           Row{"GET // HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
               "HTTP/1.1 403 Forbidden\r\nContent-Length: 25\r\nConnection: keep-alive\r\n\r\nthe path is "
               "not relative\n"},
       }) {
    CHECK(common::answer_refusal(parsed(row.bytes)).text() == row.head);
  }
}

TEST_CASE("ECHO answers with the length of what follows") {
  const Answer answer = common::answer_echo(parsed("ECHO 4096\n" + std::string(4096, 'x')));
  CHECK(answer.text() == "OK 4096\n");
  CHECK(answer.length == 0);
  CHECK(answer.keep);
}

TEST_CASE("the longest heads fit") {
  Request request = http("Range: bytes=0-\r\nConnection: keep-alive\r\n", "1.0");
  request.offset = u64_max / 2;  // 19 digits wherever there can be any
  CHECK(common::answer_file(request, u64_max).text().size() == 177);
  request.offset = u64_max;
  CHECK(common::answer_file(request, u64_max).text().size() == 149);
  // The longest reason of all, with the longest of phrases.
  Request refused = http("X: " + std::string(8182, 'x') + "\r\n");
  refused.refusal = 431;
  refused.why = "a header of more than 8192 bytes";
  refused.keep = false;
  CHECK(common::answer_refusal(refused).text().size() < 256);
}

TEST_CASE("one errno, one class") {
  using common::ErrorClass;
  for (const int error :
       {ENOENT, EINVAL, EBADF, EPIPE, ECONNRESET, ECONNABORTED, ETIMEDOUT, EACCES, 0, 4095}) {
    CHECK(common::classify(error) == ErrorClass::application);
  }
  for (const int error : {EAGAIN, EWOULDBLOCK, EINTR, EBUSY, ECANCELED}) {
    CHECK(common::classify(error) == ErrorClass::transient);
  }
  for (const int error : {ENOBUFS, ENOMEM, EMFILE, ENFILE})
    CHECK(common::classify(error) == ErrorClass::resource);
  for (const int error : {EIO, EFAULT, ENOSPC, ENODEV, ENXIO})
    CHECK(common::classify(error) == ErrorClass::fatal);
  CHECK(std::string_view(common::name_of(common::classify(EIO))) == "fatal");
}

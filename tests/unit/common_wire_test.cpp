// The request parser of the file servers: every edge of the wire formats, each of them cut in every way.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "servers/common/file_wire.hpp"

using namespace std::string_view_literals;
using common::Extent;
using common::Form;
using common::Method;
using common::Request;
using common::RequestParser;
using common::TextBuffer;

namespace {

// One request in a line: "http get a/b 10+90 close", "line 404 close".
std::string summary(const Request& request) {
  std::string text = request.form == Form::http ? "http " : "line ";
  if (request.refusal != 0) {
    text += std::to_string(request.refusal);
    if (request.method == Method::head) text += " head";
  } else {
    constexpr const char* methods[] = {"get ", "head ", "echo "};
    text += methods[static_cast<int>(request.method)];
    text += request.text;
  }
  if (request.extent == Extent::part) {
    text += " " + std::to_string(request.offset) + "+" + std::to_string(request.length);
  }
  if (request.extent == Extent::last) text += " last " + std::to_string(request.length);
  if (!request.keep) text += " close";
  if (request.say_keep_alive) text += " keep-alive";
  return text;
}

// A connection that is fed piece by piece. Each piece lies in memory of its own size, so that ASan sees a
// step beyond it.
class Connection {
 public:
  void feed(std::string_view piece) {
    const auto copy = std::make_unique<char[]>(piece.size());
    std::copy(piece.begin(), piece.end(), copy.get());
    std::span<const std::byte> left = std::as_bytes(std::span(copy.get(), piece.size()));
    while (!left.empty()) {
      Request request;
      TextBuffer text;
      const auto [used, complete] = parser_.consume(left, request, text);
      if (used > left.size() || (complete ? used == 0 : used < left.size()))
        FAIL("used ", used, " of ", left.size());
      left = left.subspan(used);
      if (!complete) continue;
      if (!seen_.empty()) seen_ += " | ";
      seen_ += summary(request);
      if (request.refusal == 0 && request.method != Method::echo)
        REQUIRE(request.text.data()[request.text.size()] == '\0');
    }
  }
  /// All requests so far, and " ..." if another has begun.
  std::string seen() const { return seen_ + (parser_.started() ? " ..." : ""); }
  bool deaf() const { return parser_.deaf(); }

 private:
  RequestParser parser_;
  std::string seen_;
};

std::string whole(std::string_view bytes) {
  Connection connection;
  connection.feed(bytes);
  return connection.seen();
}

// The first 20,000 bytes that is: no request is longer, so a refusal has come by then.
std::string byte_by_byte(std::string_view bytes) {
  Connection connection;
  const std::size_t alone = std::min<std::size_t>(bytes.size(), 20'000);
  for (const char& byte : bytes.substr(0, alone)) connection.feed({&byte, 1});
  connection.feed(bytes.substr(alone));
  return connection.seen();
}

std::string cut_at_random(std::string_view bytes, std::mt19937& random, std::size_t longest) {
  Connection connection;
  while (!bytes.empty()) {
    const std::size_t size =
        std::min(bytes.size(), std::uniform_int_distribution<std::size_t>(1, longest)(random));
    connection.feed(bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
  return connection.seen();
}

struct Row {
  std::string bytes;
  std::string_view expected;
};

void check(const std::vector<Row>& rows) {
  std::mt19937 random(1);
  for (const Row& row : rows) {
    INFO("bytes: ", row.bytes.substr(0, 200));
    CHECK(whole(row.bytes) == row.expected);
    CHECK(byte_by_byte(row.bytes) == row.expected);
    for (const std::size_t longest : {3U, 20U, 5000U})
      CHECK(cut_at_random(row.bytes, random, longest) == row.expected);
  }
}

// An HTTP/1.1 GET of /f with these header lines.
std::string get(std::string_view header_lines) {
  return "GET /f HTTP/1.1\r\n" + std::string(header_lines) + "\r\n";
}

std::string with_nul(std::string_view text) { return std::string(text); }

}  // namespace

TEST_CASE("the line form: GET path, GET path offset length, LF or CR LF") {
  check({
      {"GET a\n", "line get a"},
      {"GET a\r\n", "line get a"},
      {"GET /a/b.txt\n", "line get a/b.txt"},
      {"GET a 0 0\n", "line get a 0+0"},
      {"GET a 10 90\r\n", "line get a 10+90"},
      {"GET a 007 010\n", "line get a 7+10"},
      {"GET a 9223372036854775807 9223372036854775807\n",
       "line get a 9223372036854775807+9223372036854775807"},
      {"GET a%20b?c#d\n", "line get a%20b?c#d"},
      {"GET \xc3\xa4\t\x01\r!\n", "line get \xc3\xa4\t\x01\r!"},
      {"GET ../x\n", "line get ../x"},
      {"GET GET\n", "line get GET"},
      {"GET a/HTTP/1.1\n", "line get a/HTTP/1.1"},
      {"GET a", " ..."},
      {"", ""},
  });
}

TEST_CASE("a malformed line is 400 and the last that is read") {
  check({
      {"\n", "line 400 close"},
      {"\r\n", "line 400 close"},
      {"GET\n", "line 400 close"},
      {"GET \n", "line 400 close"},
      {"GET  a\n", "line 400 close"},
      {"GET a \n", "line 400 close"},
      {"GET a 1\n", "line 400 close"},
      {"GET a 1 \n", "line 400 close"},
      {"GET a  1\n", "line 400 close"},
      {"GET a 1  2\n", "line 400 close"},
      {"GET a 1 2 \n", "line 400 close"},
      {"GET a 1 2 3\n", "line 400 close"},
      {"GET a -1 2\n", "line 400 close"},
      {"GET a 1 -2\n", "line 400 close"},
      {"GET a +1 2\n", "line 400 close"},
      {"GET a 0x1 2\n", "line 400 close"},
      {"GET a 1.0 2\n", "line 400 close"},
      {"GET a 9223372036854775808 0\n", "line 400 close"},
      {"GET a 0 9223372036854775808\n", "line 400 close"},
      {"GET a 0 18446744073709551616\n", "line 400 close"},
      {"GET a 99999999999999999999999999999999 1\n", "line 400 close"},
      {"get a\n", "line 400 close"},
      {"hello there\n", "line 400 close"},
      {" GET a\n", "line 400 close"},
      {with_nul("GET a\0b\n"sv), "line 400 close"},
      {with_nul("GET a\0 1 2\n"sv), "line 400 close"},
      {with_nul("\0\0\0\n"sv), "line 400 close"},
      {"GET b 1\nGET a\n", "line 400 close"},
      {"GET a\nGET\nGET a\n", "line get a | line 400 close"},
  });
}

TEST_CASE("a method that we do not have is 501 in either form") {
  check({
      {"PUT a\n", "line 501 close"},
      {"HEAD a\n", "line 501 close"},
      {"POST /f HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "http 501 close"},
      {"get /f HTTP/1.1\r\n\r\n", "http 501 close"},
      {"M-SEARCH * HTTP/1.1\r\n\r\n", "http 501 close"},
      {"OPTIONS * HTTP/1.1\r\n\r\n", "http 501 close"},
      {"ECHO 5 HTTP/1.1\r\n\r\n", "http 501 close"},
  });
}

TEST_CASE(
    "exactly one leading slash is stripped; what remains must be relative, or it is 403 and the connection "
    "stays") {
  check({
      {"GET //etc/passwd\n", "line 403"},
      {"GET /\n", "line 403"},
      {"GET // 0 1\nGET a\n", "line 403 0+1 | line get a"},
      {"GET / HTTP/1.1\r\n\r\n", "http 403"},
      {"GET //etc/passwd HTTP/1.1\r\n\r\n", "http 403"},
      {"GET /%2fetc/passwd HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n", "http 403 | http get a"},
      {"GET / HTTP/1.0\r\n\r\n", "http 403 close"},
      {"HEAD /?x HTTP/1.1\r\n\r\n", "http 403 head"},
      {"GET a/\n", "line get a/"},
      {"GET a//b\n", "line get a//b"},
  });
}

TEST_CASE("ECHO gives its bytes, whatever they are, and nothing behind them") {
  check({
      {"ECHO 5\nhelloGET a\n", "line echo hello | line get a"},
      {"ECHO 5\r\nhello", "line echo hello"},
      {"ECHO 0\n", "line echo "},
      {"ECHO 0\nECHO 1\nx", "line echo  | line echo x"},
      {"ECHO 3\n\n\n\n", "line echo \n\n\n"},
      {"ECHO 5\nhell", " ..."},
      {"ECHO 0005\nhello", "line echo hello"},
      {"ECHO 4096\n" + std::string(4096, 'x'), "line echo " + std::string(4096, 'x')},
      {"ECHO 4097\n" + std::string(4097, 'x'), "line 400 close"},
      {"ECHO\nx", "line 400 close"},
      {"ECHO \nx", "line 400 close"},
      {"ECHO -1\nx", "line 400 close"},
      {"ECHO 1 2\nx", "line 400 close"},
      {"ECHO 18446744073709551616\nx", "line 400 close"},
      {"ECHO 99999999999999999999999999999\nx", "line 400 close"},
      {with_nul("ECHO 3\na\0b"sv), "line echo a\0b"sv},
  });
}

TEST_CASE("the HTTP form: a line that ends in HTTP/1.0 or HTTP/1.1, complete with its empty line") {
  check({
      {"GET /a HTTP/1.1\r\n\r\n", "http get a"},
      {"GET /a HTTP/1.1\n\n", "http get a"},
      {"GET /a HTTP/1.1\r\n\n", "http get a"},
      {"GET /a HTTP/1.1\n\r\n", "http get a"},
      {"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", "http head a"},
      {"GET /a HTTP/1.1\r\n", " ..."},
      {"GET /a HTTP/1.1\r\nHost: x\r\n", " ..."},
      {"GET /a HTTP/1.1\r\nHost: x\r\n\r", " ..."},
      {"GET /a HTTP/1.1\r\n\r\nGET b\nGET /c HTTP/1.1\n\n", "http get a | line get b | http get c"},
      {"GET http://host/a/b HTTP/1.1\r\n\r\n", "http get a/b"},
      {"GET HTTP://host:80/a?q HTTP/1.1\r\n\r\n", "http get a"},
      {"GET http://host HTTP/1.1\r\n\r\n", "http 403"},
      {"GET http://host?q HTTP/1.1\r\n\r\n", "http 403"},
      {"GET http:///a HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET https://host/a HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET a HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET * HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET  HTTP/1.1\r\n\r\n", "http 400 close"},
      {" HTTP/1.1\r\n\r\n", "http 400 close"},
      {" /a HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET  /a HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a  HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a b HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a\tb HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a\rb HTTP/1.1\r\n\r\n", "http 400 close"},
      {with_nul("GET /a\0b HTTP/1.1\r\n\r\n"sv), "http 400 close"},
      {"G(T /a HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a HTTP/1.2\r\n\r\n", "http 400 close"},
      {"GET /a HTTP/2.0\r\n\r\n", "http 400 close"},
      {"GET /a HTTP/0.9\r\n\r\n", "http 400 close"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http 400 close"},
      {"GET /a HTTP/1.11\r\n\r\n", "line 400 close"},
      {"GET /a http/1.1\r\n\r\n", "line 400 close"},
      {"GET /a HTTP/1.1 \r\n\r\n", "line 400 close"},
  });
}

TEST_CASE("%XX is decoded once, the query is dropped before that, a bad escape or %00 is 400") {
  check({
      {"GET /a%20b HTTP/1.1\r\n\r\n", "http get a b"},
      {"GET /%61%2Fb%2fc HTTP/1.1\r\n\r\n", "http get a/b/c"},
      {"GET /a%252e HTTP/1.1\r\n\r\n", "http get a%2e"},
      {"GET /%2e%2e/x HTTP/1.1\r\n\r\n", "http get ../x"},
      {"GET /a%3Fb?c HTTP/1.1\r\n\r\n", "http get a?b"},
      {"GET /a?b?c%zz%00 HTTP/1.1\r\n\r\n", "http get a"},
      {"GET /%0a HTTP/1.1\r\n\r\n", "http get \n"},
      {"GET /%ff%C3%A4 HTTP/1.1\r\n\r\n", "http get \xff\xc3\xa4"},
      {"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", "http get \xc3\xa4"},
      {"GET /a%00 HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a% HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a%2 HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a%2g HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a%g2 HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a%+1 HTTP/1.1\r\n\r\n", "http 400 close"},
      {"GET /a%%20 HTTP/1.1\r\n\r\n", "http 400 close"},
      {"HEAD /a%zz HTTP/1.1\r\n\r\n", "http 400 head close"},
  });
}

TEST_CASE("HTTP/1.1 stays unless told to close, HTTP/1.0 closes unless told to stay; close wins") {
  check({
      {get("Connection: close\r\n"), "http get f close"},
      {get("connection: Keep-Alive\r\n"), "http get f"},
      {get("CONNECTION:CLOSE\r\n"), "http get f close"},
      {get("Connection: \t keep-alive , Upgrade,close\t\r\n"), "http get f close"},
      {get("Connection: upgrade\r\nConnection: close\r\n"), "http get f close"},
      {get("Connection: closed\r\n"), "http get f"},
      {get("Connection:\r\n"), "http get f"},
      {get("Connection: ,,\r\n"), "http get f"},
      {get("Connection: close\r\n") + "GET a\n", "http get f close"},
      {"GET /f HTTP/1.0\r\n\r\n", "http get f close"},
      {"GET /f HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "http get f keep-alive"},
      {"GET /f HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET a\n", "http get f keep-alive | line get a"},
      {"GET /f HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "http get f close"},
      {"GET /f HTTP/1.0\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", "http get f close"},
  });
}

TEST_CASE("one range is taken; several, malformed or in another unit are as if not there") {
  check({
      {get("Range: bytes=0-99\r\n"), "http get f 0+100"},
      {get("range:bytes=5-5 \r\n"), "http get f 5+1"},
      {get("Range: BYTES=10-\r\n"), "http get f 10+18446744073709551615"},
      {get("Range: bytes=-7\r\n"), "http get f last 7"},
      {get("Range: bytes=-0\r\n"), "http get f last 0"},
      {get("Range: bytes=0-18446744073709551615\r\n"), "http get f 0+18446744073709551615"},
      {get("Range: bytes=99999999999999999999999-\r\n"),
       "http get f 18446744073709551615+18446744073709551615"},
      {get("Range: bytes=1-99999999999999999999999\r\n"), "http get f 1+18446744073709551615"},
      {get("Range: bytes=-99999999999999999999999\r\n"), "http get f last 18446744073709551615"},
      {get("Range: bytes=5-4\r\n"), "http get f"},
      {get("Range: bytes=0-1,3-4\r\n"), "http get f"},
      {get("Range: bytes=0-1,\r\n"), "http get f"},
      {get("Range: bytes=\r\n"), "http get f"},
      {get("Range: bytes=-\r\n"), "http get f"},
      {get("Range: bytes=--1\r\n"), "http get f"},
      {get("Range: bytes=a-b\r\n"), "http get f"},
      {get("Range: bytes=1\r\n"), "http get f"},
      {get("Range: bytes= 0-1\r\n"), "http get f"},
      {get("Range: bytes =0-1\r\n"), "http get f"},
      {get("Range: bytes=0 - 1\r\n"), "http get f"},
      {get("Range: lines=0-1\r\n"), "http get f"},
      {get("Range: 0-1\r\n"), "http get f"},
      {get("Range:\r\n"), "http get f"},
      {get("Range: bytes=0-1\r\nRange: bytes=0-1\r\n"), "http get f"},
      {get("Range: bytes=0-1\r\nIf-Range: \"x\"\r\n"), "http get f"},
      {get("Ranges: bytes=0-1\r\n"), "http get f"},
      {"HEAD /f HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n", "http head f"},
  });
}

TEST_CASE("a body is 400, except one of no bytes") {
  check({
      {get("Content-Length: 0\r\n") + "GET a\n", "http get f | line get a"},
      {get("content-length:  00 \r\n"), "http get f"},
      {get("Content-Length: 5\r\n") + "hello", "http 400 close"},
      {get("Content-Length: 0\r\nContent-Length: 1\r\n"), "http 400 close"},
      {get("Content-Length: 0, 0\r\n"), "http 400 close"},
      {get("Content-Length: -0\r\n"), "http 400 close"},
      {get("Content-Length: x\r\n"), "http 400 close"},
      {get("Content-Length:\r\n"), "http 400 close"},
      {get("Content-Length: 18446744073709551616\r\n"), "http 400 close"},
      {get("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", "http 400 close"},
      {get("transfer-encoding: identity\r\n"), "http 400 close"},
      {get("Expect: 100-continue\r\nUpgrade: h2c\r\n"), "http get f"},
  });
}

TEST_CASE("a header line that is none is 400") {
  check({
      {get("Host\r\n"), "http 400 close"},
      {get(": x\r\n"), "http 400 close"},
      {get("Host : x\r\n"), "http 400 close"},
      {get(" Host: x\r\n"), "http 400 close"},
      {get("Host: x\r\n folded\r\n"), "http 400 close"},
      {get("Host: x\r\n\tfolded\r\n"), "http 400 close"},
      {get("Ho\xc3st: x\r\n"), "http 400 close"},
      {get("Host: a\rb\r\n"), "http 400 close"},
      {get("Host: a\r\r\n"), "http 400 close"},
      {get("\rHost: a\r\n"), "http 400 close"},
      {get(with_nul("Host: a\0b\r\n"sv)), "http 400 close"},
      {get("Host: \xff\x01\t\r\n"), "http get f"},
      {get("Host: a\nAccept: b\n"), "http get f"},
      {get("X:\r\n"), "http get f"},
      {"GET // HTTP/1.1\r\nHost\r\n\r\n", "http 400 close"},
      {"HEAD /f HTTP/1.1\r\nHost\r\n\r\n", "http 400 head close"},
  });
}

TEST_CASE("a line has at most 4096 bytes, its end included: 414 in its own form") {
  const std::string longest_path(4096 - 5, 'a');
  const std::string http_path(4096 - 16, 'b');
  check({
      {"GET " + longest_path + "\n", "line get " + longest_path},
      {"GET " + longest_path + "a\n", "line 414 close"},
      {"GET " + longest_path + "\r\n", "line 414 close"},
      {"GET /" + http_path + " HTTP/1.1\r\n\r\n", "http get " + http_path},
      {"GET /" + http_path + "b HTTP/1.1\r\n\r\n", "http 414 close"},
      {"GET /" + std::string(8000, 'b') + " HTTP/1.1\r\n\r\n", "http 414 close"},
      {"HEAD /" + http_path + "b HTTP/1.1\r\n\r\n", "http 414 head close"},
      {std::string(8191, 'a'), " ..."},
      {std::string(8191, 'a') + "\n", "line 414 close"},
      {std::string(8192, 'a'), "line 414 close"},
      {"GET /" + std::string(8192, 'b') + " HTTP/1.1\r\n\r\n", "line 414 close"},
      {"GET /f HTTP/1.1\r\n\r\nGET /" + std::string(8192, 'b') + " HTTP/1.1\r\n\r\n",
       "http get f | http 414 close"},
      {std::string(1 << 20, 'a') + "\nGET a\n", "line 414 close"},
      {std::string(1 << 20, '\0'), "line 414 close"},
  });
}

TEST_CASE("a header has at most 8192 bytes, its empty line included: 431") {
  const auto filler = [](std::size_t bytes) { return "X: " + std::string(bytes - 5, 'x') + "\r\n"; };
  std::string many;
  while (many.size() < 100'000) many += "Name: value\r\n";
  check({
      {get(filler(8190)), "http get f"},
      {get(filler(8191)), "http 431 close"},
      {get(filler(4000) + "Connection: close\r\n" + filler(4190 - 19)), "http get f close"},
      {"GET /" + std::string(4080, 'a') + " HTTP/1.1\r\n" + filler(8190) + "\r\n",
       "http get " + std::string(4080, 'a')},
      {"GET /f HTTP/1.1\r\n" + many + "\r\nGET a\n", "http 431 close"},
      {"GET /f HTTP/1.1\r\nX: " + std::string(1 << 17, 'x'), "http 431 close"},
      {"GET /f HTTP/1.1\r\n" + std::string(8192, '\r'), "http 431 close"},
  });
}

TEST_CASE("pipelined requests come out one by one, and what follows a refusal is taken and not read") {
  check({
      {"GET a\nGET b 1 2\r\nECHO 2\nhiGET /c HTTP/1.1\r\n\r\nGET d\n",
       "line get a | line get b 1+2 | line echo hi | http get c | line get d"},
      {"GET a\nFOO b\nGET c\n", "line get a | line 501 close"},
  });
  Connection connection;
  connection.feed("BAD\n");
  CHECK(connection.deaf());
  connection.feed(std::string(100'000, '\n'));
  CHECK(connection.seen() == "line 400 close");
}

TEST_CASE("what curl, ab and wrk send is understood") {
  check({
      {"GET /f HTTP/1.1\r\nHost: 127.0.0.1:9000\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
       "http get f"},
      {"GET /f HTTP/1.1\r\nHost: 127.0.0.1:9000\r\nRange: bytes=0-9\r\nUser-Agent: curl/7.88.1\r\nAccept: "
       "*/*\r\n\r\n",
       "http get f 0+10"},
      {"GET /f HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: 127.0.0.1:9000\r\nUser-Agent: ApacheBench/2.3\r\n"
       "Accept: */*\r\n\r\n",
       "http get f keep-alive"},
      {"GET /f HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n\r\n", "http get f"},
  });
}

TEST_CASE("cutting never changes the result: random streams of good, bad and broken pieces") {
  std::mt19937 random(20);
  const std::vector<std::string> pieces = {"GET ",
                                           "/a",
                                           "b ",
                                           " 1 2",
                                           "\n",
                                           "\r\n",
                                           "\r\n\r\n",
                                           "ECHO ",
                                           "3",
                                           "HEAD ",
                                           "/%41",
                                           " HTTP/1.1",
                                           " HTTP/1.0",
                                           "Range: bytes=1-2\r\n",
                                           "Connection: close\r\n",
                                           "Content-Length: 0\r\n",
                                           "X: y\r\n",
                                           std::string(1, '\0'),
                                           std::string(1500, 'z'),
                                           "GET a\n",
                                           "GET /b HTTP/1.1\r\n\r\n",
                                           "ECHO 3\nabc",
                                           "GET // 0 1\n",
                                           "GET /c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"};
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 24; ++i) {
      // Mostly whole requests first, so that streams live long enough to have a second one.
      const std::size_t first = random() % 3 == 0 ? 0 : 19;
      bytes += pieces[first + random() % (pieces.size() - first)];
    }
    const std::string expected = whole(bytes);
    INFO("bytes: ", bytes);
    REQUIRE(byte_by_byte(bytes) == expected);
    REQUIRE(cut_at_random(bytes, random, 40) == expected);
    REQUIRE(cut_at_random(bytes, random, 2000) == expected);
  }
}

TEST_CASE("the text of a request is good until the next consume, in a buffer that connections share") {
  RequestParser one;
  RequestParser two;
  Request request;
  TextBuffer text;
  const auto bytes = [](std::string_view s) { return std::as_bytes(std::span(s)); };
  CHECK(!one.consume(bytes("GET fir"), request, text).complete);
  CHECK(one.started());
  CHECK(two.consume(bytes("GET other\n"), request, text).complete);
  CHECK(request.text == "other");
  CHECK(one.consume(bytes("st\n"), request, text).complete);
  CHECK(request.text == "first");
  CHECK(!one.started());
  CHECK(one.consume({}, request, text).used == 0);
}

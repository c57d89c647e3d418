#include "servers/common/file_answer.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "servers/common/error_class.hpp"

namespace common {
namespace {

// Appends to the head. Everything that goes in has a bound, and together they fit; a test writes the longest
// of all.
class Writer {
 public:
  explicit Writer(Answer& answer) noexcept : answer_(answer) {}

  Writer& operator<<(std::string_view text) noexcept {
    assert(text.size() <= answer_.head.size() - answer_.head_size);
    std::memcpy(end(), text.data(), text.size());
    return moved_to(end() + text.size());
  }
  Writer& operator<<(std::uint64_t number) noexcept {
    return moved_to(std::to_chars(end(), answer_.head.data() + answer_.head.size(), number).ptr);
  }

 private:
  char* end() const noexcept { return answer_.head.data() + answer_.head_size; }
  Writer& moved_to(const char* end) noexcept {
    answer_.head_size = static_cast<std::uint16_t>(end - answer_.head.data());
    return *this;
  }

  Answer& answer_;
};

std::string_view phrase_of(std::uint16_t code) {
  switch (code) {
    case 200:
      return "200 OK";
    case 206:
      return "206 Partial Content";
    case 400:
      return "400 Bad Request";
    case 403:
      return "403 Forbidden";
    case 404:
      return "404 Not Found";
    case 414:
      return "414 URI Too Long";
    case 416:
      return "416 Range Not Satisfiable";
    case 431:
      return "431 Request Header Fields Too Large";
    case 501:
      return "501 Not Implemented";
    case 503:
      return "503 Service Unavailable";
    default:
      return "500 Internal Server Error";
  }
}

std::string_view reason_of(int error) {
  switch (error) {
    case EACCES:
    case EPERM:
      return "permission denied";
    case EXDEV:
      return "outside the served folder";
    case ELOOP:
      return "too many symbolic links";
    case ENAMETOOLONG:
      return "name too long";
    default:
      break;
  }
  switch (code_of(error)) {
    case 403:
      return "not a regular file";
    case 404:
      return "no such file";
    case 503:
      return "out of resources, try again";
    default:
      return "the file cannot be read";
  }
}

// The members that do not depend on the head; `head` itself stays as it is until it is written.
Answer begin(const Request& request, std::uint16_t code) noexcept {
  Answer answer;
  answer.code = code;
  answer.head_size = 0;
  answer.keep = request.keep && keeps_connection(code);
  answer.offset = 0;
  answer.length = 0;
  return answer;
}

void write_connection(Writer& head, const Request& request, const Answer& answer) {
  if (!answer.keep) head << "Connection: close\r\n";
  if (answer.keep && request.say_keep_alive) head << "Connection: keep-alive\r\n";
}

// `file_size` is for Content-Range of 416.
Answer refuse(const Request& request, std::uint16_t code, std::string_view why,
              std::uint64_t file_size) noexcept {
  Answer answer = begin(request, code);
  Writer head(answer);
  if (request.form == Form::line) {
    head << "ERR " << code << " " << why << "\n";
    return answer;
  }
  head << "HTTP/1.1 " << phrase_of(code) << "\r\nContent-Length: " << why.size() + 1 << "\r\n";
  if (code == 416) head << "Content-Range: bytes */" << file_size << "\r\n";
  write_connection(head, request, answer);
  head << "\r\n";
  if (request.method != Method::head) head << why << "\n";
  return answer;
}

}  // namespace

std::uint16_t code_of(int error) noexcept {
  switch (error) {
    case EACCES:
    case EPERM:
    case EXDEV:  // the path leads out of the root
    case ELOOP:  // or through a magic link
    case EISDIR:
    case ENXIO:   // a Unix-domain socket
    case ENODEV:  // a device without a driver
      return 403;
    case ENOENT:
    case ENOTDIR:
    case ESTALE:
      return 404;
    case ENAMETOOLONG:
      return 414;
    default:
      break;
  }
  const ErrorClass error_class = classify(error);
  return error_class == ErrorClass::resource || error_class == ErrorClass::transient ? 503 : 500;
}

Answer answer_file(const Request& request, std::uint64_t size) noexcept {
  std::uint64_t offset = 0;
  std::uint64_t length = size;
  if (request.extent == Extent::part) {
    offset = request.offset;
    if (offset > size || (offset == size && request.length > 0))
      return refuse(request, 416, "range not satisfiable", size);
    length = std::min(request.length, size - offset);
  } else if (request.extent == Extent::last) {
    length = std::min(request.length, size);
    offset = size - length;
    if (length == 0) return refuse(request, 416, "range not satisfiable", size);
  }
  const bool partial = request.form == Form::http && request.extent != Extent::whole;
  Answer answer = begin(request, partial ? 206 : 200);
  answer.offset = offset;
  answer.length = request.method == Method::head ? 0 : length;
  Writer head(answer);
  if (request.form == Form::line) {
    head << "OK " << length << "\n";
    return answer;
  }
  head << "HTTP/1.1 " << phrase_of(answer.code) << "\r\nContent-Length: " << length << "\r\n";
  if (partial) {
    head << "Content-Range: bytes " << offset << "-" << offset + length - 1 << "/" << size << "\r\n";
  } else {
    head << "Accept-Ranges: bytes\r\n";
  }
  write_connection(head, request, answer);
  head << "\r\n";
  return answer;
}

Answer answer_error(const Request& request, int error) noexcept {
  return refuse(request, code_of(error), reason_of(error), 0);
}

Answer answer_refusal(const Request& request) noexcept {
  assert(request.refusal != 0);
  return refuse(request, request.refusal, request.why, 0);
}

Answer answer_echo(const Request& request) noexcept {
  Answer answer = begin(request, 200);
  Writer(answer) << "OK " << request.length << "\n";
  return answer;
}

}  // namespace common

// The file servers' requests: from a stream of bytes, cut anywhere, to one Request after another.
//
//   GET path\n                            line form; the path in raw bytes, without space or NUL
//   GET path offset length\n              the same, a part of the file
//   ECHO length\n<bytes>                  up to 4096 bytes that come back
//   GET /path?query HTTP/1.1\r\n          HTTP form: every line that ends in HTTP/1.0 or HTTP/1.1
//   Range: bytes=0-99\r\n  ...  \r\n
//
// The parser finds the end of a request, and only then reads it, as one piece: how the bytes were cut cannot
// matter. In the usual case the whole request lies in what was received and is read there; a beginning
// without its end is kept until the end comes, bounded by the limits below. Between two requests a connection
// holds 1 KiB of memory at most, and none if no request was cut.
//
//   bytes ──► consume ──► Request (what is wanted, or the refusal)   ──► file_answer.hpp
//                │            └── text: the path, in a TextBuffer that all connections of a thread share
//                └── how many bytes it took; what is left is the next request: call again
//
// Limits: a line is at most 4096 bytes, end included (414); the header lines of HTTP at most 8192, the empty
// line included (431). A line is refused when its end has come, so that the refusal has the form of the
// request, or when 8192 bytes came without one; then in the form that this connection spoke last, at first
// the line form.
//
// A refusal that ends the connection (all but 403, see file_answer.hpp) makes the parser deaf: it takes
// everything that still comes and completes nothing, which is what a lingering close needs. So does a request
// that asked for the end.
//
// Both forms
//   lines end in LF or CR LF. An empty line before a request is malformed, in the line form: nobody sends one.
//   exactly one leading `/` is stripped; what remains must be relative and not empty (that is the root
//   itself), else 403. `..` is the kernel's business: served_root.hpp.
// Line form
//   one space between the parts, none at the end. Numbers are digits only, below 2^63. An offset without a
//   length is malformed.
//   a word in capitals that is neither GET nor ECHO is a method that we do not have: 501. Anything else: 400.
//   ECHO with a length that is none, or above 4096: 400, and the bytes behind it are never looked at.
// HTTP form, as RFC 9110 and 9112 have it; where they leave a choice, the stricter one that curl, ab and wrk
// can live with
//   other versions  HTTP/1.2, HTTP/2.0: 400, in the HTTP form
//   method          GET, HEAD; any other token 501; case matters
//   target          /path, or http://host/path (RFC 9112 wants that accepted); all else 400. Two spaces: 400.
//                   Controls in it: 400. `?` ends the path; the query is not looked at. %XX is decoded once,
//                   behind that, so %3F and %2F are part of the path; a bad escape or %00: 400.
//   Host            not looked at and not missed: there is one site here. (RFC 9112: 400 without it. A
//                   reader with netcat should not have to type it.)
//   header line     name, colon, value; names in any case. A folded line, a space before the colon, a name
//                   that is no token, a NUL or a lonely CR anywhere: 400. Names not listed here are skipped.
//   Connection      all its lines and tokens together; `close` wins over `keep-alive`
//   Content-Length  0 is no body. Anything else announces one: 400. Every Transfer-Encoding, too.
//   Expect          skipped, like Upgrade; there is no body to expect and nothing to upgrade to
//   Range           one of a-b, a-, -n, unit in any case. Several, two lines, malformed, b < a: ignored, as
//                   RFC 9110 allows. A number too large for 64 bits lies behind every end. -0 can never be
//                   satisfied. Ignored for HEAD.
//   If-Range        its validator cannot be ours, as we send none: the range is ignored
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace common {

inline constexpr std::size_t max_line_bytes = 4096;
inline constexpr std::size_t max_header_bytes = 8192;
inline constexpr std::size_t max_echo_bytes = 4096;

enum class Form : std::uint8_t { line, http };
enum class Method : std::uint8_t { get, head, echo };

/// Which bytes of the file: all; `length` of them from `offset` (cut at its end); the last `length`.
enum class Extent : std::uint8_t { whole, part, last };

/// One request. Small, so that a server can keep it while the file is opened; `text` is the exception.
struct Request {
  Form form = Form::line;
  Method method = Method::get;
  Extent extent = Extent::whole;
  bool keep = true;             // the connection stays after a good answer
  bool say_keep_alive = false;  // HTTP/1.0 has to be told so
  std::uint16_t refusal = 0;    // 0: well-formed. Else the code to answer with (400, 403, 414, 431, 501)
  const char* why = "";         // of a refusal, for the client
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  /// GET and HEAD: the path beneath the root, with a NUL behind it that is not counted; ECHO: the bytes.
  /// Points into the TextBuffer: use it before the next consume().
  std::string_view text{};
};

/// Where consume() puts the text of the request it completes. One for each thread is enough.
struct TextBuffer {
  char bytes[4096];
};

class RequestParser {
 public:
  struct Consumed {
    std::size_t used;  // of the bytes given; all of them if nothing is complete
    bool complete;     // `request` is filled
  };

  /// Takes bytes until a request is complete or none are left. O(bytes), whatever the cuts; allocates only to
  /// keep a beginning, and keeps up to 1 KiB of that for the next one.
  Consumed consume(std::span<const std::byte> bytes, Request& request, TextBuffer& text);

  /// Half a request is here. A connection that stops in this state was not idle.
  bool started() const noexcept { return !kept_.empty(); }

  /// Nothing that comes will be read any more.
  bool deaf() const noexcept { return deaf_; }

 private:
  enum class Stage : std::uint8_t { line, header, body };

  std::size_t find_end(std::string_view input);
  std::size_t end_of_line(std::string_view input);
  std::size_t end_of_header(std::string_view input);
  std::size_t cut_short(std::uint16_t code, const char* why, std::size_t bytes) noexcept;
  std::size_t room() const noexcept;
  void finish(std::string_view input, Request& request, TextBuffer& text);

  std::string kept_{};          // the beginning of a request whose end has not come
  std::size_t scanned_ = 0;     // bytes of it in which no more line ends are to be found
  std::size_t line_bytes_ = 0;  // length of its first line, end included
  std::size_t body_end_ = 0;    // ECHO: where its bytes end
  const char* why_ = "";
  std::uint16_t refusal_ = 0;  // found before the end
  Stage stage_ = Stage::line;
  Form form_ = Form::line;  // of this request; between requests, of the last one
  bool deaf_ = false;
};

}  // namespace common

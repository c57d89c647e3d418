// What goes over the connection.
//
//   PUT <length>\n<bytes>   ──►   OK <offset>\n              durable, at this offset of the file
//                                 ERR <code> <reason>\n
//
//   400  no PUT, or no number; then the connection ends, because nobody knows where the next request begins
//   413  more than 1 MiB; likewise
//   500  the disk failed
//   503  the log is unusable: an earlier failure could not be repaired
//   507  no space (ENOSPC, EDQUOT, EFBIG)
//
// Whoever gets ERR knows that the record is not in the log and never will be. The exception is 503: it may be.
#pragma once

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "servers/common/start_error.hpp"
#include "servers/m4_ordered_log/record.hpp"

namespace ordered_log {

/// What a line asks for: `code` 0 and a length, or the code of the error.
struct Asked {
  int code = 0;
  std::uint32_t length = 0;
};

/// `line` without its newline.
inline Asked parse_line(std::string_view line) noexcept {
  constexpr std::string_view verb = "PUT ";
  if (!line.starts_with(verb) || line.size() == verb.size()) return {.code = 400};
  std::uint64_t length = 0;
  bool too_long = false;
  for (const char digit : line.substr(verb.size())) {
    if (digit < '0' || digit > '9') return {.code = 400};
    length = length * 10 + static_cast<std::uint64_t>(digit - '0');
    too_long = too_long || length > max_length;
    if (too_long) length = 0;
  }
  if (too_long) return {.code = 413};
  return {.length = static_cast<std::uint32_t>(length)};
}

/// The code that answers a write or an fsync that failed.
constexpr int code_of(int error) noexcept {
  return error == ENOSPC || error == EDQUOT || error == EFBIG ? 507 : 500;
}

inline std::string ok_text(std::uint64_t offset) { return "OK " + std::to_string(offset) + "\n"; }

/// `error` is the errno behind it, where there is one.
inline std::string error_text(int code, int error) {
  switch (code) {
    case 400:
      return "ERR 400 expected: PUT <length>, a newline, and so many bytes\n";
    case 413:
      return "ERR 413 a record has at most " + std::to_string(max_length) + " bytes\n";
    case 503:
      return "ERR 503 the log is unusable: " + common::errno_text(error) + "\n";
    default:
      return "ERR " + std::to_string(code) + " " + common::errno_text(error) + "\n";
  }
}

}  // namespace ordered_log

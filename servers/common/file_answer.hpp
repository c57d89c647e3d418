// The file servers' answers: from a request, and what became of it, to what goes in front of the file's bytes.
//
//   request, file of 1000 bytes ──► "OK 1000\n"                                       + bytes 0 to 999
//   request, ENOENT             ──► "ERR 404 no such file\n"
//   HTTP request, 1000 bytes    ──► "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n..."   + bytes 0 to 999
//
// Pure functions: they open nothing, read nothing, send nothing and allocate nothing. The head is at most 256
// bytes.
//
//   code  what it means here                                            connection
//   200   the file, or the part that a line-form request named          as the request wants
//   206   one HTTP range                                                as the request wants
//   400   malformed                                                     closes
//   403   outside the root, not permitted, not a regular file           as the request wants
//   404   no such file                                                  as the request wants
//   414   the line, or a name in it, is too long                        closes
//   416   the range begins behind the end                               as the request wants
//   431   the header is too long                                        closes
//   500   the file cannot be read                                       closes
//   501   no such method                                                closes
//   503   out of descriptors or memory: later, perhaps                  as the request wants
//
// "Closes" is the lingering close: all answers that are due, shutdown(WR), then read and discard for up to a
// second or 1 MiB. Closing with input unread makes the kernel send RST in place of the rest of the answer.
//
// Which part of a file: offset > size, or offset = size with length > 0, is 416; a part that reaches beyond
// the end is cut; length 0 is `OK 0`. An HTTP range has a length above 0, so the same rule gives what RFC
// 9110 asks. The last n bytes of a shorter file are the whole file; of an empty one there are none: 416.
//
// HTTP heads are minimal: Content-Length; Accept-Ranges on 200; Content-Range on 206 and 416; Connection
// where silence would be misread (1.1 closing, 1.0 staying). No Content-Type: the server does not know it,
// and a browser guesses. No Date and no validators: nothing here is meant to be cached. A refusal carries its
// reason as a line of text; HEAD has the same head, and no body.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "servers/common/file_wire.hpp"

namespace common {

struct Answer {
  std::uint16_t code;
  std::uint16_t head_size;
  bool keep;             // the connection stays; else lingering close after this answer
  std::uint64_t offset;  // of the file's bytes that follow the head
  std::uint64_t length;  // 0: none follow
  std::array<char, 256> head;

  std::string_view text() const noexcept { return {head.data(), head_size}; }
};

/// The answer with bytes of a file of `size` bytes; or 416.
Answer answer_file(const Request& request, std::uint64_t size) noexcept;

/// The answer when opening or reading the file failed with `error`, a positive errno.
Answer answer_error(const Request& request, int error) noexcept;

/// The answer to a request with request.refusal != 0.
Answer answer_refusal(const Request& request) noexcept;

/// The head of the answer to ECHO: request.text follows it.
Answer answer_echo(const Request& request) noexcept;

/// 403, 404, 414, 500 or 503 for a positive errno of opening or reading a file.
std::uint16_t code_of(int error) noexcept;

/// Whether a connection survives this code: 200, 206, 403, 404, 416, 503.
constexpr bool keeps_connection(std::uint16_t code) noexcept {
  return code == 200 || code == 206 || code == 403 || code == 404 || code == 416 || code == 503;
}

}  // namespace common

// What goes over the wire: message number n of connection c, on its way out and on its way back, computed
// from (seed, c, n) whenever it is needed and stored nowhere.
//
//   kind         goes out                              must come back
//   ─────────    ───────────────────────────────────   ──────────────────────────────────────────────────
//   echo         <size bytes of c's stream>            the same bytes
//   echo_line    ECHO size\n<size bytes of it>         OK size\n<the same bytes>
//   get          GET path [offset length]\n            OK length\n<the bytes of the file>
//   get, http    GET /path HTTP/1.1\r\n...             200 or 206, Content-Length, <the bytes of the file>
//
// Each connection has an endless stream of bytes of its own, and message n of an echo is bytes n * size to (n
// + 1) * size - 1 of it. So each word says to which connection and to which message it belongs; what comes
// twice, too early, from a neighbour or not at all is a wrong byte.
//
// Which file: a list is walked in its order, message 0 of connections 0, 1, 2, ..., then message 1 of each,
// over and over. Random ranges are whole blocks of one file, drawn by a hash of (seed, c, n).
#pragma once

#include <cassert>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "servers/common/file_content.hpp"

namespace load {

enum class Kind : std::uint8_t { echo, echo_line, get };
enum class CloseBy : std::uint8_t { rst, fin };

struct File {
  std::string path{};  // without a leading slash
  std::uint64_t size = 0;
  std::uint64_t seed = 0;                   // of its contents,
  std::optional<std::uint32_t> checksum{};  // unless this is known instead
  std::string request{};                    // for the whole file, in the form that is spoken
  std::string answer{};                     // the head of its answer, line form
  std::string range_request{};              // the same up to where the numbers begin
};

/// One kind of traffic on its own connections.
struct Traffic {
  Kind kind = Kind::echo;
  bool http = false;             // kind get: which of the two forms
  bool churn = false;            // a connection for each message
  CloseBy close = CloseBy::rst;  // churn: how
  std::uint32_t connections = 1;
  std::uint32_t depth = 1;  // messages under way on a connection at once, at most
  std::uint64_t rate = 0;   // a second, all connections together; 0: closed loop
  std::uint64_t size = 64;  // of an echo, in bytes
  std::uint64_t block = 0;  // of random ranges; 0: whole files
  std::uint64_t seed = 1;
  std::vector<File> files{};   // kind get: at least one
  std::string request_head{};  // kind echo_line
  std::string answer_head{};   // kind echo_line, and get with a block
};

inline const char* name_of(const Traffic& traffic) { return traffic.kind == Kind::get ? "get" : "echo"; }

/// What must come back for one message: bytes [offset, offset + length) of the stream or file with this seed.
struct Message {
  const File* file;  // null: an echo
  std::uint64_t seed;
  std::uint64_t offset;
  std::uint64_t length;
};

/// Message `number` of connection `connection`.
inline Message message_at(const Traffic& traffic, std::uint32_t connection, std::uint64_t number) noexcept {
  const std::uint64_t own_seed = common::content_word(traffic.seed, connection);
  if (traffic.kind != Kind::get) return {nullptr, own_seed, number * traffic.size, traffic.size};
  if (traffic.block == 0) {
    const std::uint64_t index = number * traffic.connections + connection;
    const File& file = traffic.files[index % traffic.files.size()];
    return {&file, file.seed, 0, file.size};
  }
  const File& file = traffic.files.front();
  const std::uint64_t drawn = common::content_word(own_seed, number) % (file.size / traffic.block);
  return {&file, file.seed, drawn * traffic.block, traffic.block};
}

/// How many bytes of content go out behind the head of a request.
inline std::uint64_t payload_of(const Message& message) noexcept {
  return message.file == nullptr ? message.length : 0;
}

/// Where the head of a random range is put together.
using HeadBuffer = std::vector<char>;

/// The request's head; it lives in `traffic` or in `buffer`.
inline std::string_view request_head(const Traffic& traffic, const Message& message, HeadBuffer& buffer) {
  if (message.file == nullptr) return traffic.request_head;
  if (traffic.block == 0) return message.file->request;
  const std::string& begin = message.file->range_request;
  buffer.resize(begin.size() + 64);
  std::memcpy(buffer.data(), begin.data(), begin.size());
  char* at = buffer.data() + begin.size();
  char* const end = buffer.data() + buffer.size();
  const std::uint64_t last = message.offset + message.length - 1;
  at = std::to_chars(at, end, message.offset).ptr;
  *at++ = traffic.http ? '-' : ' ';
  at = std::to_chars(at, end, traffic.http ? last : message.length).ptr;
  const std::string_view rest = traffic.http ? "\r\n\r\n" : "\n";
  std::memcpy(at, rest.data(), rest.size());
  return {buffer.data(), static_cast<std::size_t>(at - buffer.data()) + rest.size()};
}

/// Writes the bytes of a request from byte `from` on: as many as there are, or as `out` takes. Returns how
/// many.
inline std::size_t write_request(std::span<std::byte> out, const Message& message, std::string_view head,
                                 std::uint64_t from) noexcept {
  std::size_t written = 0;
  if (from < head.size()) {
    const std::string_view rest = head.substr(from);
    written = std::min(rest.size(), out.size());
    std::memcpy(out.data(), rest.data(), written);
    from += written;
  }
  const std::uint64_t left = head.size() + payload_of(message) - from;
  const std::size_t fits = std::min<std::uint64_t>(left, out.size() - written);
  if (fits == 0) return written;
  common::fill_content(out.subspan(written, fits), message.seed, message.offset + (from - head.size()));
  return written + fits;
}

/// The head of the answer in the forms where it can only be one: all but HTTP.
inline std::string_view answer_head(const Traffic& traffic, const Message& message) noexcept {
  return message.file == nullptr || traffic.block != 0 ? traffic.answer_head : message.file->answer;
}

/// For the eyes of a person: "GET made.2G.0 8192 4096", "64 bytes".
inline std::string describe(const Traffic& traffic, const Message& message) {
  if (message.file == nullptr) return std::to_string(message.length) + " bytes";
  std::string text = "GET " + message.file->path;
  if (traffic.block != 0) text += " " + std::to_string(message.offset) + " " + std::to_string(message.length);
  return text;
}

/// Fills in the texts that every request and answer of `traffic` has in common. `host` is for HTTP.
void prepare(Traffic& traffic, const std::string& host);

/// The files of a list: a line is a name from make-files, or "PATH SIZE CKSUM". Throws StartError.
std::vector<File> read_list(const std::string& list);

/// One file: its name says it all, or `checksum` is "CKSUM SIZE" as cksum(1) prints it. Throws StartError.
File file_from(const std::string& path, const std::string& checksum);

}  // namespace load

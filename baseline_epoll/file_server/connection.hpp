// One connection: what it asked for and has not got, in order, and how far each answer has come.
//
//   pending   [ answer 0 ][ answer 1 ][ answer 2 ]              at most 16; then receiving stops
//               head, file    head       head, file
//   chunks    [0: a][0: b]            [2: a]                    read or being read, in the order of the answers
//              '-- sent up to here     '-- planned up to here
//
// An answer is a stream of bytes: its head, then its part of the file (or, for ECHO, what was sent). Sending
// takes from the front whatever is there; planning runs ahead of it by a window and starts the reads. When
// the socket takes no more, the chunks are dropped and planning goes back to where sending stopped.
//
// Nothing here makes a system call. A connection costs 5 KiB, of which one that does not pipeline touches less
// than one. Requests that came and do not fit into `pending` add up to 16 KiB (one receive), ECHOs up to 40.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "baseline_epoll/file_server/chunk.hpp"
#include "baseline_epoll/file_server/file_cache.hpp"
#include "servers/common/file_answer.hpp"
#include "servers/common/file_wire.hpp"
#include "servers/common/lingering.hpp"

namespace file_server {

inline constexpr unsigned max_pending = 16;
inline constexpr std::size_t max_echoed = 16 << 10;  // bytes of ECHO pending: then receiving stops as well

/// One answer on its way. Without initial values: a connection has room for sixteen and seldom needs more than
/// one, so the others must not be touched.
struct Pending {
  common::Answer answer;
  OpenFile* file;       // nullptr: nothing of a file follows the head
  std::uint64_t total;  // bytes, head included
  std::uint64_t sent;
  std::uint32_t echo;  // bytes of Connection::echoed that follow the head
  common::Form form;
  common::Method method;
};

enum class Phase : std::uint8_t { open, lingering, closed };

struct Connection {
  explicit Connection(int socket, Time now) : fd(socket), last_active(now) {}

  int fd;
  Phase phase = Phase::open;
  bool readable = false;        // recv may have something for us
  bool writable = true;         // send may take something
  bool hung_up = false;         // the end of input, or an error, is known to wait behind what is there
  bool watches_output = false;  // epoll reports EPOLLOUT: from the first full socket buffer on
  bool finished = false;        // the peer sent its FIN
  bool ending = false;          // the last answer ends the connection: nothing behind it is looked at
  bool in_ready = false;        // in the server's list of connections with something to do
  bool in_line = false;         // in the line for a buffer
  std::uint32_t index = 0;      // in the server's list of all
  Time last_active;
  std::optional<common::Lingering> lingering{};

  common::RequestParser parser{};
  std::vector<std::byte> unparsed{};  // received; no room for its requests yet
  std::size_t unparsed_at = 0;
  std::string echoed{};  // the bodies of pending ECHOs, one behind the other
  std::size_t echoed_at = 0;

  unsigned first = 0;
  unsigned count = 0;
  unsigned planned = 0;             // answers whose reads are all started, or that need none
  std::uint64_t planned_bytes = 0;  // of the next one
  Chunk* first_chunk = nullptr;
  Chunk* last_chunk = nullptr;
  std::uint64_t chunk_bytes = 0;
  std::array<Pending, max_pending> slots;

  bool has_room() const noexcept {
    return count < max_pending && !ending && echoed.size() - echoed_at < max_echoed;
  }
  Pending& at(unsigned i) noexcept { return slots[(first + i) % max_pending]; }
  const Pending& at(unsigned i) const noexcept { return slots[(first + i) % max_pending]; }

  /// Something was begun that deserves an end.
  bool is_unfinished() const noexcept {
    return count > 0 || unparsed.size() > unparsed_at || parser.started();
  }

  /// Bytes of the answers that are still to be sent.
  std::uint64_t queued_bytes() const noexcept {
    std::uint64_t bytes = 0;
    for (unsigned i = 0; i < count; ++i) bytes += at(i).total - at(i).sent;
    return bytes;
  }

  Pending& push() noexcept { return slots[(first + count++) % max_pending]; }
  /// Forgets the first answer. Slot 0 is next when there are no more: the one that is in the cache.
  void pop() noexcept {
    echoed_at += at(0).echo;
    first = --count == 0 ? 0 : (first + 1) % max_pending;
    planned_bytes = planned > 0 ? planned_bytes : 0;
    planned -= planned > 0 ? 1 : 0;
    if (echoed_at < echoed.size()) return;
    echoed.clear();
    echoed_at = 0;
  }

  void append(Chunk& chunk) noexcept {
    (first_chunk == nullptr ? first_chunk : last_chunk->next) = &chunk;
    last_chunk = &chunk;
    chunk_bytes += chunk.size;
  }
  Chunk& take_chunk() noexcept {
    Chunk& chunk = *first_chunk;
    first_chunk = chunk.next;
    chunk.next = nullptr;
    chunk_bytes -= chunk.size;
    return chunk;
  }
};

/// What one send can take.
struct Gathered {
  static constexpr std::size_t max_pieces = std::size_t{2} * max_pending;

  std::array<::iovec, max_pieces> pieces;
  std::size_t count = 0;
  std::size_t bytes = 0;
  bool file_follows = false;  // behind the last piece, by sendfile

  void add(const void* data, std::size_t size) noexcept {
    pieces[count++] = {const_cast<void*>(data), size};
    bytes += size;
  }
};

}  // namespace file_server

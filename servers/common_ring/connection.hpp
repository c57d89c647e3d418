// One client: its connection, the requests it has asked, and the pieces of files on their way to it.
//
//   Connection ──► Job ──► Job ──► Job           requests, answered in this order
//                   │       └── Chunk            up to two pieces of its file in memory:
//                   ├── Chunk  (being sent)      while one is sent, the next is read
//                   └── Chunk  (being read)
//
// What each of them holds, and until when:
//
//   Connection   a descriptor, 2 KiB to receive into, half a request; until the CQE of its close
//   Job          a reference to a file that is open; until its last byte is sent
//   Chunk        a buffer of the pool; until its last byte is sent, or the client turns out to be stalled
//                (and after a zero-copy send, the kernel holds it longer still: loans.hpp)
//
// A connection is driven by completions (and by the clock, when it lingers or others wait for its buffers),
// and `pending` counts those that are still to come. Closing means: cancel what can be cancelled, wait until
// `pending` is zero, then close the descriptor. Nothing is ever freed while the kernel may write to it.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "servers/common/file_answer.hpp"
#include "servers/common/file_wire.hpp"
#include "servers/common/intrusive_list.hpp"
#include "servers/common/lingering.hpp"
#include "servers/common_ring/file_cache.hpp"
#include "uring/fixed_buffers.hpp"

namespace common_ring {

struct Job;

/// A piece of a file in a buffer.
///
///      headroom          | skip |  contents wanted         | read for alignment
///                   head |      |==========================|
///                   ▲ at (first unsent byte)           end ▲
struct Chunk {
  enum class State : std::uint8_t { none, reading, ready };

  State state = State::none;
  Job* job = nullptr;
  uring::Buffer buffer{};
  std::uint64_t offset = 0;  // in the file, of the buffer's first byte
  std::uint32_t skip = 0;    // bytes in front of the wanted ones: O_DIRECT begins at a multiple
  std::uint32_t size = 0;    // bytes to be read, `skip` included; beyond the last wanted one: alignment
  std::uint32_t wanted = 0;  // contents
  std::uint32_t filled = 0;  // bytes that were read
  std::byte* at = nullptr;   // ready: what is not sent yet
  std::byte* end = nullptr;
  bool again = false;  // a read said EAGAIN

  /// Where the wanted bytes begin.
  std::byte* contents() const noexcept { return buffer.data() + skip; }
};

/// One request and its answer.
struct Job : FileWaiter {
  Connection* connection = nullptr;
  Job* next = nullptr;
  File* file = nullptr;      // with a reference; null while waiting for it
  bool waiting = false;      // for its file
  bool answered = false;     // `answer` is there: the head, and which bytes follow
  bool in_send = false;      // some of it is in the send in flight
  bool begun = false;        // some of it is out, so it can only be finished or cut off
  bool opened_anew = false;  // the file was shorter than thought, and asked for its size once more
  bool abandoned = false;    // nobody wants the answer; lives until its last completion
  int trouble = 0;           // a read failed with this errno, or came up short (ENODATA)
  common::Request request{};
  common::Answer answer{};
  std::string echo{};             // ECHO: head and bytes
  std::uint32_t unsent_head = 0;  // the last so many bytes of text() are neither sent nor in a chunk
  std::uint64_t read_at = 0;      // in the file: the next byte to be read
  std::uint64_t read_end = 0;
  std::array<Chunk, 2> chunks{};
  unsigned first_chunk = 0;
  unsigned chunk_count = 0;

  Chunk& chunk(unsigned place) noexcept { return chunks[(first_chunk + place) % chunks.size()]; }

  /// What stands in front of the contents.
  std::string_view text() const noexcept { return echo.empty() ? answer.text() : std::string_view(echo); }

  bool has_contents() const noexcept { return chunk_count > 0 || read_at < read_end; }
  bool finished() const noexcept { return answered && unsent_head == 0 && !has_contents(); }
  bool is_reading() const noexcept {
    return chunks[0].state == Chunk::State::reading || chunks[1].state == Chunk::State::reading;
  }
};

inline constexpr std::size_t input_bytes = 2048;
inline constexpr unsigned max_jobs = 16;    // requests under way on one connection; more wait in its socket
inline constexpr unsigned max_pieces = 16;  // of memory that one send gathers

struct Connection {
  enum class State : std::uint8_t {
    open,
    answering,  // takes no more requests, answers those it has
    lingering,  // all is said; reads and discards until the client has seen it (lingering.hpp)
    closing,    // waits for the last completions
    closed,     // waits for the CQE of its close
  };

  int fd = -1;
  State state = State::open;
  unsigned pending = 0;  // completions and file waits that are still to come
  unsigned reads = 0;    // chunks that are being read

  std::optional<uring::Token> receiving{};
  std::optional<uring::Token> sending{};
  std::optional<uring::Token> polling{};
  bool more_waits = true;      // in the socket, said the last receive
  bool polled_first = false;   // the receive in flight does not try at once
  bool peer_finished = false;  // it sent FIN
  bool preempted = false;      // its send is being cancelled: others need the buffer
  bool stalled = false;        // holds no buffers, until its socket takes more
  bool takes_more = false;     // which it does; the poll that said so is being cancelled
  bool copy_next = false;      // its next send copies: the kernel had no memory to do without
  bool reset = false;          // to be closed by RST
  std::size_t send_size = 0;   // bytes of the send in flight
  Chunk* lending = nullptr;    // what it sends without copying; only while the send is prepared

  common::RequestParser parser{};
  std::unique_ptr<std::byte[]> input = std::make_unique_for_overwrite<std::byte[]>(input_bytes);
  std::size_t input_begin = 0;
  std::size_t input_end = 0;

  Job* first = nullptr;
  Job* last = nullptr;
  unsigned jobs = 0;

  // What the send in flight points to.
  std::array<iovec, max_pieces> pieces{};
  msghdr message{};

  Time last_active{};
  Time send_began{};
  std::optional<common::Lingering> linger{};
  std::list<Connection>::iterator self{};
  common::Link<Connection> idle{};
  common::Link<Connection> line{};  // for a buffer
  common::Link<Connection> sends{};
  common::Link<Connection> lingers{};
};

/// For the table that SIGUSR1 prints.
constexpr const char* name_of(Connection::State state) noexcept {
  switch (state) {
    case Connection::State::open:
      return "open";
    case Connection::State::answering:
      return "answering";
    case Connection::State::lingering:
      return "lingering";
    case Connection::State::closing:
      return "closing";
    case Connection::State::closed:
      return "closed";
  }
  return "?";
}

}  // namespace common_ring

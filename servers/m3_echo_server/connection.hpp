// One client of the echo server, and the bytes on their way back to it.
//
//   recv ──► CQE: bytes in buffer 7 ──► queue:  [ 7 | 2 | 9 | 4 ]  ──► send ──► CQE: buffer 7 is free
//                                                 └── in the send in flight: up to 16 of them, in order
//
// The bytes never move: what the kernel received into a buffer of the group is sent from there. The buffer
// goes back into the group when it is sent. Two exceptions: a connection without the group receives into a
// buffer of its own, one receive, then one send; and a connection whose client does not read, while others
// find the group empty, is moved to private memory (it *spills*).
//
//                    recv says 0               queue is empty
//        open ───────────────────► draining ─────────────────► closing ──► closed
//          │        (FIN came)         │                          ▲           (CQE of the close)
//          └───── error, reset, stop ──┴──────────────────────────┘
//
// closing: everything in flight is cancelled, and each operation's *last* CQE is awaited; only then is the
// descriptor closed, and only then may its number come back as another client.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "servers/common/intrusive_list.hpp"
#include "servers/common_ring/frame.hpp"
#include "servers/m3_echo_server/peer.hpp"
#include "uring/token.hpp"

namespace echo {

/// Where receiving stops: so many bytes are queued for one client. It is a mark and not a limit: what the
/// kernel has received by then is queued behind it.
///
/// It is one buffer of the group. More would keep a client's next bytes waiting in memory of ours instead of in
/// the socket, and by the time they are sent they are no longer in the processor's cache: with 256 KiB, messages
/// of 64 KiB cost 5 to 10 % more.
inline constexpr std::uint32_t high_water = 64 << 10;
/// Where it goes on.
inline constexpr std::uint32_t low_water = 16 << 10;

/// Ten milliseconds more or less do not matter to who was idle longest, and a busy connection is spared the
/// stores to its neighbours in the list.
inline constexpr std::chrono::milliseconds activity_grain{10};

/// Pieces of memory in one send.
inline constexpr std::size_t max_pieces = 16;

/// Bytes that wait to be sent.
struct Segment {
  std::byte* at;
  std::uint32_t size;
  std::int32_t buffer;  // of the group; none: other memory
};
inline constexpr std::int32_t no_buffer = -1;

/// What a sendmsg points to, until its CQE.
struct Pieces {
  msghdr message{};
  std::array<iovec, max_pieces> piece{};
};

/// What a receive asks of the kernel. (When it says EINVAL, this tells what it does not know.) one: a single
/// receive into a buffer of the group.
enum class Form : std::uint8_t { single, one, multishot, capped };

/// It stays armed when it has brought something.
constexpr bool is_multishot(Form form) noexcept { return form == Form::multishot || form == Form::capped; }

struct Connection {
  enum class State : std::uint8_t { open, draining, closing, closed };

  int fd = -1;  // or the slot
  State state = State::open;
  bool full = false;           // receiving has stopped until the queue is low
  Form form = Form::single;    // of the receive in flight
  bool preempted = false;      // its send is being cancelled: others need the buffers
  bool fills_buffers = false;  // the last receive did
  bool deaf = false;           // the multishot receive did not bring what it had promised
  bool hung_up = false;        // the peer sends no more; what it has sent may still be in the socket
  bool reset = false;          // to be closed by RST
  bool cut = false;            // which has been seen to
  bool must_look = false;      // at the stop: for what has come and was not received
  std::uint16_t pending = 0;
  std::uint32_t queued = 0;    // bytes in the queue
  std::uint32_t first = 0;     // of the queue; what stands before it is sent
  std::uint32_t spoke_in = 0;  // see gathering.hpp
  int untaken = -1;            // by the peer, when it seemed to be idle

  std::optional<uring::Token> receiving{};
  std::optional<uring::Token> sending{};
  std::optional<uring::Token> watching{};  // for the hang-up, see watch_for_hangup
  std::vector<Segment> queue{};
  std::unique_ptr<std::byte[]> memory{};  // its own: to receive into, or spilled
  Pieces* pieces = nullptr;
  std::unique_ptr<PeerAddress> peer{};  // of a slot, while the table that SIGUSR1 asked for is made

  common_ring::Time last_active{};  // up to activity_grain ago
  common_ring::Time send_began{};
  common_ring::Time promise_made{};
  common::Link<Connection> active{};    // not when closing; the one silent longest first
  common::Link<Connection> starving{};  // found the group empty
  common::Link<Connection> promised{};  // its multishot receive has said that it will bring more
  common::Link<Connection> sends{};     // a send is in flight, oldest first
  std::list<Connection>::iterator self{};
};

constexpr const char* name_of(Connection::State state) noexcept {
  constexpr const char* names[] = {"open", "draining", "closing", "closed"};
  return names[static_cast<std::size_t>(state)];
}

}  // namespace echo

// A chain: all that is done for one client, handed to the kernel before there is a client.
//
//            ──link──►                 ──link──►                 ──link──►
//     ACCEPT           RECV (or READ)             SEND                      CLOSE
//     into slot k      into the buffer of k       out of it                 of slot k
//        │                │                          │
//        fails            fails, or is short         fails, or is short
//        ▼                ▼                          ▼
//     nothing is       SEND and CLOSE are         CLOSE is cancelled: the answer is cut short,
//     open             cancelled: slot k is       and slot k is still open, we reset and repair
//                      still open, we repair
//
//     the repair, when there is somebody to reset:
//                                            CONNECT to nowhere ──hard link──► CLOSE
//
// A later SQE cannot know what an earlier one returned. So everything is said in advance: the descriptor is a
// slot of the ring's own table, since a slot has its number before there is a file in it; and the length is
// fixed, with MSG_WAITALL, since SEND sends as many bytes as its SQE says, whatever RECV received.
//
// Why none of the chain's links is a hard one: behind a hard link SEND would run after a short RECV as well, and
// send what the buffer holds from the client before: another client's bytes. And CLOSE would run after a short
// SEND, and end with a FIN an answer that is not whole: nobody could tell. So both are soft, and what they leave
// open is closed by the repair. There the hard link is: TCP is reset by a CONNECT to nowhere, and the slot is
// closed whether or not that succeeds. (It does not on a Unix-domain socket, which knows no reset: who is cut
// off there sees the end of the stream, and must know the length.)
//
// Who keeps the books: the chain, not the SQE. With CQE_SKIP_SUCCESS on all but CLOSE a chain that goes well is
// one CQE; one that breaks is the CQE of the link that broke it, and the cancelled ones behind it are silent.
// So a chain is over
//
//     without the flag    when as many CQEs have come as there were SQEs
//     with it             when CLOSE says how it went, or ACCEPT, RECV, READ or SEND says that it failed
//
// Behind RECV and SEND there may be a LINK_TIMEOUT each, since a client that is silent, or does not read,
// holds its chain; and the chains are all that there is.
//
// Where a closed slot does not let go of its socket while other slots are in use (common_ring/slots_let_go.hpp), CLOSE
// sends no FIN. There a SHUTDOWN stands in front of it, in the chain and in the repair, with a hard link: a peer that
// has gone already makes it fail. The peer sees the end; the socket itself stays until the operations have ended that
// were under way when it was closed. A chain needs slots; driven by completions it does not, so there it has ordinary
// descriptors on such a kernel.
#pragma once

#include <linux/time_types.h>
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/token.hpp"

namespace linked {

/// What an SQE does. In its token this is the kind, the chain's number the slot, its round the generation.
enum class Step : std::uint8_t {
  accept,
  fetch,        // the bytes that are then sent: RECV, or READ
  fetch_timer,  // LINK_TIMEOUT
  send,
  send_timer,
  reset,     // of a repair: CONNECT to nowhere, upon which TCP resets the connection
  shutdown,  // only where a closed slot does not let go
  close,
  // These are of no chain:
  signal,
  cancel,
  stop_listening,  // the cancellation behind which nobody accepts any more
  audit,           // of a slot, at the end: CLOSE, which must fail
};
inline constexpr std::size_t steps_of_chain = 8;

/// The longest message, and file: each chain has a buffer for a whole one.
inline constexpr std::uint32_t longest = 1 << 20;

/// ACCEPT, RECV, LINK_TIMEOUT, SEND, LINK_TIMEOUT, SHUTDOWN, CLOSE.
inline constexpr unsigned most_sqes = 7;

/// What all chains have in common.
struct Work {
  bool linked = true;         // false: each step is prepared when the one before it has completed
  bool skip_success = false;  // CQE_SKIP_SUCCESS on all links but the last
  int listener = -1;
  int file = -1;                 // READ from it; -1: RECV from the client
  std::uint32_t length = 0;      // of each message, or of the file
  __kernel_timespec patience{};  // with a silent client; zero: no LINK_TIMEOUT
  bool in_slots = true;          // false, not for linked chains: clients have ordinary descriptors
  bool slots_let_go = true;      // false: SHUTDOWN in front of CLOSE

  bool from_file() const noexcept { return file >= 0; }
  bool has_timers() const noexcept { return patience.tv_sec > 0; }
  bool has_shutdown() const noexcept { return in_slots && !slots_let_go; }
};

struct Chain {
  enum class State : std::uint8_t {
    idle,    // the server stops, or it waits to be queued again
    queued,  // with the kernel
    repair,  // the kernel closes what a broken chain has left open
  };
  static constexpr int not_yet = std::numeric_limits<int>::min();

  uring::DirectSlot slot{};  // its number, too
  int fd = -1;               // of its client, where that is in no slot
  std::byte* buffer = nullptr;
  std::uint32_t round = 0;  // how often it was queued: a CQE of another round is not ours
  State state = State::idle;
  bool must_repair = false;   // when there is room for the SQEs
  bool must_reset = false;    // the client must see that its answer is not whole
  Step stage = Step::accept;  // driven: what is being done
  unsigned missing = 0;       // CQEs
  std::uint32_t length = 0;   // as Work said when it was queued
  std::array<int, steps_of_chain> results{};

  int& result(Step step) noexcept { return results[static_cast<std::size_t>(step)]; }
  int result(Step step) const noexcept { return results[static_cast<std::size_t>(step)]; }
  bool is_whole(int bytes) const noexcept {
    return bytes >= 0 && static_cast<std::uint32_t>(bytes) == length;
  }
  uring::Token token(Step step) const noexcept {
    return uring::make_token(static_cast<std::uint8_t>(step), slot.index, round);
  }
};

// ---- One SQE for each step --------------------------------------------------------------------------------

inline void prepare_accept(io_uring_sqe& sqe, const Work& work, const Chain& chain) noexcept {
  if (work.in_slots) {
    uring::prep::accept_direct(sqe, work.listener, 0, chain.slot, chain.token(Step::accept));
  } else {
    uring::prep::accept(sqe, work.listener, nullptr, nullptr, SOCK_CLOEXEC, chain.token(Step::accept));
  }
}

/// What names the client in an SQE, which then must be told what kind of name it is.
inline int client_of(const Work& work, const Chain& chain) noexcept {
  return work.in_slots ? static_cast<int>(chain.slot.index) : chain.fd;
}
inline void mark_client(io_uring_sqe& sqe, const Work& work) noexcept {
  if (work.in_slots) uring::prep::fixed_file(sqe);
}

/// Whole, or it has failed: MSG_WAITALL for a socket; a read needs no flag for it.
inline void prepare_fetch(io_uring_sqe& sqe, const Work& work, const Chain& chain) noexcept {
  if (work.from_file()) {
    uring::prep::read(sqe, work.file, chain.buffer, chain.length, 0, chain.token(Step::fetch));
  } else {
    uring::prep::recv(sqe, client_of(work, chain), chain.buffer, chain.length, MSG_WAITALL,
                      chain.token(Step::fetch));
    mark_client(sqe, work);
  }
}

inline void prepare_send(io_uring_sqe& sqe, const Work& work, const Chain& chain) noexcept {
  uring::prep::send(sqe, client_of(work, chain), chain.buffer, chain.length, MSG_WAITALL,
                    chain.token(Step::send));
  mark_client(sqe, work);
}

inline void prepare_timer(io_uring_sqe& sqe, const Work& work, const Chain& chain, Step step) noexcept {
  uring::prep::link_timeout(sqe, &work.patience, 0, chain.token(step));
}

/// Sends FIN. A hard link belongs behind it.
inline void prepare_shutdown(io_uring_sqe& sqe, const Work& work, const Chain& chain) noexcept {
  uring::prep::shutdown(sqe, client_of(work, chain), SHUT_RDWR, chain.token(Step::shutdown));
  mark_client(sqe, work);
}

inline void prepare_close(io_uring_sqe& sqe, const Work& work, const Chain& chain) noexcept {
  if (work.in_slots) {
    uring::prep::close_direct(sqe, chain.slot, chain.token(Step::close));
  } else {
    uring::prep::close(sqe, chain.fd, chain.token(Step::close));
  }
}

// ---- The chain --------------------------------------------------------------------------------------------

/// Prepares it as a whole, in a batch that has room for most_sqes: then it is in one submission, and nowhere
/// else would it be a chain. Returns how many SQEs it is.
template <class Batch>
unsigned prepare_chain(Batch& batch, const Work& work, const Chain& chain) noexcept {
  unsigned sqes = 0;
  const auto next = [&](auto prepare, auto link) {
    io_uring_sqe& sqe = batch.take();
    prepare(sqe);
    link(sqe);
    if (work.skip_success) uring::prep::skip_success(sqe);
    ++sqes;
  };
  const auto timer = [&](Step step) {
    return [&, step](io_uring_sqe& sqe) { prepare_timer(sqe, work, chain, step); };
  };
  next([&](io_uring_sqe& sqe) { prepare_accept(sqe, work, chain); }, uring::prep::link);
  next([&](io_uring_sqe& sqe) { prepare_fetch(sqe, work, chain); }, uring::prep::link);
  if (work.has_timers() && !work.from_file()) next(timer(Step::fetch_timer), uring::prep::link);
  next([&](io_uring_sqe& sqe) { prepare_send(sqe, work, chain); }, uring::prep::link);
  if (work.has_timers()) next(timer(Step::send_timer), uring::prep::link);
  if (work.has_shutdown()) {
    next([&](io_uring_sqe& sqe) { prepare_shutdown(sqe, work, chain); }, uring::prep::hardlink);
  }
  prepare_close(batch.take(), work, chain);
  return sqes + 1;
}

/// One step with its LINK_TIMEOUT, if it has one: what a driven chain submits at a time.
template <class Batch>
unsigned prepare_step(Batch& batch, const Work& work, const Chain& chain) noexcept {
  io_uring_sqe& sqe = batch.take();
  switch (chain.stage) {
    case Step::accept:
      prepare_accept(sqe, work, chain);
      return 1;
    case Step::fetch:
      prepare_fetch(sqe, work, chain);
      break;
    case Step::send:
      prepare_send(sqe, work, chain);
      break;
    default:
      prepare_close(sqe, work, chain);
      return 1;
  }
  const bool has_timer = work.has_timers() && !(chain.stage == Step::fetch && work.from_file());
  if (!has_timer) return 1;
  uring::prep::link(sqe);
  prepare_timer(batch.take(), work, chain, chain.stage == Step::fetch ? Step::fetch_timer : Step::send_timer);
  return 2;
}

}  // namespace linked

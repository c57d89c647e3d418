// What a server has in flight: one entry for each operation that the kernel will still complete.
//
//   operations.start(Kind::receive, subject, [&](io_uring_sqe& sqe, uring::Token token) {
//     uring::prep::recv(sqe, c.fd, ..., token);
//   });
//        │ names the operation, prepares its SQE                  (the loop submits it with all others)
//        ▼
//   cqe ──► operations.complete(cqe, ...) ──► on_completion(kind, subject, result, flags)
//
// A completion carries the operation's name and nothing else; what it was about, its subject, stands in the
// table. So the rule "nothing dies while the kernel may still write to it" is a number: size() is zero, or we
// are not done. It is also the leak check at exit.
//
// When the kernel has no memory for another request, there is no SQE. The operation then fails with ENOMEM
// like any other failure, by way of a completion of our own making in a later turn: whoever started it need
// not know the difference. Two kinds must not fail for such a reason. A cancellation is tried until it has
// been heard; and who closes a descriptor looks for -ENOMEM.
#pragma once

#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "uring/loop.hpp"
#include "uring/prep_control.hpp"
#include "uring/token.hpp"

namespace common_ring {

enum class Kind : std::uint8_t {
  signal,
  accept,
  receive,
  send,
  lend,      // a send out of memory that the kernel keeps until its notification
  writable,  // poll, until a socket takes more
  hangup,    // poll, until a peer sends no more
  look,      // recv, which takes nothing: is there something?
  peer,      // who is at the other end
  cut_off,   // connect to nowhere: TCP resets the connection
  close,
  cancel,
  read,
  open_file,
  look_at_file,
  close_file,
};

/// `Subject` says whom a completion concerns; its default is nobody: the server itself. What it points to
/// lives at least until then.
template <class Loop, class Subject>
class Operations {
 public:
  explicit Operations(Loop& loop) noexcept : loop_(loop) {}

  /// `fill(sqe, token)` prepares the SQE; anything it points to obeys the rules of prep_fill.hpp.
  template <class Fill>
  uring::Token start(Kind kind, Subject subject, Fill&& fill) {
    return start({.subject = subject}, kind, fill);
  }

  /// Gives up `target`: its own completion comes as well, with -ECANCELED or as if nothing had happened.
  void cancel(uring::Token target, Subject subject) {
    start({.subject = subject, .target = target}, Kind::cancel,
          [&](io_uring_sqe& sqe, uring::Token token) { uring::prep::async_cancel(sqe, target, token); });
  }

  /// One CQE to `dispatch(kind, subject, res, flags)`. The operation has left the table by then, unless more
  /// is to come.
  template <class Dispatch>
  void complete(const io_uring_cqe& cqe, Dispatch&& dispatch) {
    const uring::Token token{cqe.user_data};
    const Entry* const found = in_flight_.find(token);
    if (found == nullptr) {
      // A zero-copy send that was cancelled by its link says that nothing more will come, and then notifies.
      if ((cqe.flags & IORING_CQE_F_NOTIF) == 0) ++stale_;
      return;
    }
    const Subject subject = found->subject;
    if ((cqe.flags & IORING_CQE_F_MORE) == 0) in_flight_.finish(token);
    dispatch(static_cast<Kind>(token.kind()), subject, cqe.res, cqe.flags);
  }

  /// The operations that got no SQE, each as a failure with -ENOMEM. Once a turn; what they start may be
  /// refused as well, so do not wait while some are.
  template <class Dispatch>
  void fail_refused(Dispatch&& dispatch) {
    for (const uring::Token token : std::exchange(refused_, {})) {
      const Entry* const found = in_flight_.find(token);
      if (found == nullptr) continue;  // cannot be: it has had no other completion
      const Entry entry = *found;
      in_flight_.finish(token);
      if (static_cast<Kind>(token.kind()) == Kind::cancel) {
        cancel(entry.target, entry.subject);
      } else {
        dispatch(static_cast<Kind>(token.kind()), entry.subject, -ENOMEM, 0u);
      }
    }
  }
  bool some_are_refused() const noexcept { return !refused_.empty(); }

  std::size_t size() const noexcept { return in_flight_.size(); }
  /// Completions of operations that are not in the table. There should be none: every operation is awaited.
  std::uint64_t stale() const noexcept { return stale_; }

 private:
  struct Entry {
    Subject subject{};
    uring::Token target{};  // of a cancellation
  };

  template <class Fill>
  uring::Token start(const Entry& entry, Kind kind, Fill&& fill) {
    const uring::Token token = *in_flight_.start(static_cast<std::uint8_t>(kind), entry);
    if (io_uring_sqe* const sqe = loop_.next_sqe()) [[likely]] {
      fill(*sqe, token);
    } else {
      refused_.push_back(token);
    }
    return token;
  }

  Loop& loop_;
  uring::InFlight<Entry> in_flight_;
  std::vector<uring::Token> refused_{};
  std::uint64_t stale_ = 0;
};

}  // namespace common_ring

// Accepting: one multishot accept for all clients to come, and what to do when it ends.
//
//   arm() ──► ACCEPT, multishot ──► CQE: a descriptor, F_MORE
//                │                  CQE: a descriptor, F_MORE ...
//                └── it ends, and a CQE without F_MORE says why:
//                      a result ≥ 0     the CQ was full: arm again
//                      EINVAL           before 5.19 there is no multishot: accepts one at a time from now on
//                      EMFILE, ENFILE   no descriptor (or ENOMEM, ENOBUFS: no memory): somebody must go first;
//                                       arm again when one is free
//                      EBADF, ENOTSOCK, and EINVAL once more: the listener is broken, the server stops
//                      ECONNABORTED, EINTR: the affair of the client that is gone, arm again
//                      all else         perhaps it lasts (a security module says no): arm again, but not at once
//
// Not to arm again is the bug that goes unnoticed for weeks: the server is up, and deaf.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <optional>

#include "servers/common/error_class.hpp"
#include "servers/common_ring/operations.hpp"
#include "uring/prep_sockets.hpp"

namespace common_ring {

/// Where accepted clients go: into the process's table of descriptors, or into the ring's (which must have
/// been registered; 5.19 for the multishot).
enum class Sockets : std::uint8_t { descriptors, slots };

/// What the completion of an accept says. connection: `result` is its descriptor, or its slot.
enum class Outcome : std::uint8_t { connection, nothing, later, shortage, broken };

/// `Operations` as in operations.hpp.
template <class Operations>
class Acceptor {
 public:
  Acceptor(Operations& operations, int listener, Sockets sockets) noexcept
      : operations_(operations), listener_(listener), sockets_(sockets) {}

  bool armed() const noexcept { return accepting_.has_value(); }

  /// Does nothing if it is armed, or stopped.
  void arm() {
    if (armed() || stopped_) return;
    ++times_armed_;
    accepting_ = operations_.start(Kind::accept, {}, [&](io_uring_sqe& sqe, uring::Token token) {
      if (sockets_ == Sockets::slots) {
        uring::prep::accept_multishot_direct(sqe, listener_, 0, token);
      } else if (multishot_) {
        uring::prep::accept_multishot(sqe, listener_, SOCK_CLOEXEC, token);
      } else {
        uring::prep::accept(sqe, listener_, nullptr, nullptr, SOCK_CLOEXEC, token);
      }
    });
  }

  /// What a completion of kind accept says. The listener may be closed when it says nothing or broken, and
  /// armed() is false: close(2) alone would not end the accept.
  Outcome completed(int result, std::uint32_t flags) noexcept {
    if ((flags & IORING_CQE_F_MORE) == 0) accepting_.reset();
    if (result >= 0) return Outcome::connection;
    if (stopped_) return Outcome::nothing;
    if (result == -EINVAL && multishot_) {
      multishot_ = false;
      return Outcome::nothing;
    }
    switch (-result) {
      case EINVAL:
      case EBADF:
      case ENOTSOCK:
      case EACCES:  // restrictions or a filter of this task (7.0), a security module: nobody will ever come
        return Outcome::broken;
      case ECONNABORTED:
        return Outcome::nothing;
      default:
        break;
    }
    switch (common::classify(-result)) {
      case common::ErrorClass::resource:
        return Outcome::shortage;
      case common::ErrorClass::transient:
        return Outcome::nothing;
      default:
        return Outcome::later;
    }
  }

  std::uint64_t times_armed() const noexcept { return times_armed_; }

  /// How often the multishot had ended.
  std::uint64_t rearms() const noexcept { return times_armed_ > 0 && multishot_ ? times_armed_ - 1 : 0; }

  /// For good. Its last completion comes later.
  void stop() {
    stopped_ = true;
    if (armed()) operations_.cancel(*accepting_, {});
  }

 private:
  Operations& operations_;
  int listener_;
  Sockets sockets_;
  std::optional<uring::Token> accepting_{};
  std::uint64_t times_armed_ = 0;
  bool multishot_ = true;
  bool stopped_ = false;
};

}  // namespace common_ring

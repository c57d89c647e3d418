// Signals as something to read, and what the first and the second one mean.
//
// SIGINT, SIGTERM and SIGUSR1 are blocked and arrive in a signalfd instead, which an io_uring server reads
// with a READ and an epoll server when epoll says so: no handler runs in the middle of anything. SIGPIPE is
// ignored: a peer that has gone is an errno (EPIPE) of one send.
//
//            SIGINT, SIGTERM                        SIGINT, SIGTERM, or 5 s
//   serving ─────────────────► finishing ───────────────────────────────────► ending
//   accepts, serves            no accepting; idle connections close;          what is left is reset
//                              unfinished answers go on
//
// A server leaves its loop when the last connection has gone, in `finishing` as in `ending`.
#pragma once

#include <sys/signalfd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>

#include "servers/common/descriptor.hpp"
#include "servers/common/start_error.hpp"

namespace common {

/// Blocks the three signals in this thread and in those that it starts from now on, so call it before the
/// first; ignores SIGPIPE. Returns the signalfd: 128 bytes (signalfd_siginfo) a signal. Children inherit
/// both, mask and dispositions.
inline Descriptor open_signals(bool nonblocking) {
  std::signal(SIGPIPE, SIG_IGN);
  ::sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::sigaddset(&set, signal);
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) {
    throw StartError(exit_failed, "cannot block signals: " + errno_text(error));
  }
  Descriptor fd(::signalfd(-1, &set, SFD_CLOEXEC | (nonblocking ? SFD_NONBLOCK : 0)));
  if (!fd) throw StartError(exit_failed, "cannot open a signalfd: " + errno_text(errno));
  return fd;
}

/// What the operator wants of us.
enum class SignalMeaning : std::uint8_t { stop, tables };

/// SIGUSR1 asks for the ring and connection tables on stderr; the other two stop.
constexpr SignalMeaning meaning_of(std::uint32_t signal) noexcept {
  return signal == SIGUSR1 ? SignalMeaning::tables : SignalMeaning::stop;
}

inline constexpr std::chrono::seconds stop_grace{5};

/// The way from serving to the end. It has no clock: the caller says what time it is.
class StopProtocol {
 public:
  using Time = std::chrono::steady_clock::time_point;
  enum class State : std::uint8_t { serving, finishing, ending };

  State state() const noexcept { return state_; }
  bool serving() const noexcept { return state_ == State::serving; }

  /// SIGINT or SIGTERM came.
  void stop(Time now) noexcept {
    state_ = serving() ? State::finishing : State::ending;
    deadline_ = now + stop_grace;
  }

  /// Ends the grace when it is over. Call it once a turn.
  void look_at_clock(Time now) noexcept {
    if (state_ == State::finishing && now >= deadline_) state_ = State::ending;
  }

  /// For how long a loop may wait before it must look at the clock again: at most `longest`.
  std::chrono::nanoseconds wait(Time now, std::chrono::nanoseconds longest) const noexcept {
    if (state_ != State::finishing) return longest;
    const std::chrono::nanoseconds left = deadline_ - now;
    if (left < std::chrono::nanoseconds::zero()) return std::chrono::nanoseconds::zero();
    return left < longest ? left : longest;
  }

 private:
  State state_ = State::serving;
  Time deadline_{};
};

}  // namespace common

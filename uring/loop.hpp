// The event loop: prepare, one enter, harvest, dispatch.
//
//      ┌────────────────────────────────────────────────────────────────┐
//      │  handlers prepare SQEs ──► submit_and_wait(1, timeout)         │
//      │        ▲                    one system call for the whole turn │
//      │        └──────────────── harvest: one handler call per CQE     │
//      └────────────────────────────────────────────────────────────────┘
//
// The shape is the performance: everything that the handlers of one turn prepared goes to the kernel in the
// same call that waits for the next completions. A program that submits after every SQE pays a system call
// per operation and gains nothing over read(2).
//
// How to wait is a policy: block at once, or spin for some microseconds first (lower latency when completions
// are frequent, a busy CPU when they are not), then block.
//
// How to stop: a flag set elsewhere does not wake a blocked enter. So a signal comes *through the ring*, as
// the read of a signalfd (SignalWatch), like any other completion; and a handler calls stop().
#pragma once

#include <sys/signalfd.h>

#include <chrono>
#include <csignal>
#include <ctime>
#include <initializer_list>
#include <system_error>

#include "uring/owned.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace uring {

struct WaitPolicy {
  /// How long to spin before blocking; 0: block at once.
  std::chrono::microseconds busy_wait{0};
  /// Let completions gather for that long before waking up (6.12; ignored before). 0: wake for the first.
  std::chrono::microseconds gather{0};
  /// So many end the gathering early; 0: only a full CQ does.
  unsigned enough = 0;
};

/// What the loop's ring did since its start.
struct LoopStatistics {
  std::uint64_t sqe_submitted;
  std::uint64_t cqe_processed;
  std::uint64_t io_enter_calls;
  std::uint64_t batches_submitted;  // enters that carried at least one SQE
  double cqes_per_enter;
  std::uint64_t short_submits;
  std::uint64_t overflows;
};

template <bool Sqpoll>
class BasicLoop {
 public:
  /// The ring must outlive the loop.
  explicit BasicLoop(BasicRing<Sqpoll>& ring, WaitPolicy policy = {}) noexcept
      : ring_(ring), policy_(policy) {}

  BasicRing<Sqpoll>& ring() noexcept { return ring_; }

  /// How to wait, from the next turn on.
  void wait_by(WaitPolicy policy) noexcept { policy_ = policy; }

  /// A free SQE. If the SQ is full, what is in it is submitted first, also in the middle of a harvest: it is
  /// the one case where a turn takes more than one enter, so size the SQ for it to be rare. nullptr only if
  /// the kernel took nothing (out of memory for requests): treat the operation as failed with ENOMEM.
  io_uring_sqe* next_sqe() noexcept {
    io_uring_sqe* const sqe = ring_.next_sqe();
    if (sqe != nullptr) [[likely]]
      return sqe;
    make_room();
    return ring_.next_sqe();
  }

  /// A batch with room for a chain of `need` SQEs, at most sq_entries(); empty only if the kernel took
  /// nothing. See BasicRing::batch.
  typename BasicRing<Sqpoll>::Batch batch(unsigned need) noexcept {
    assert(need <= ring_.sq_entries());
    while (ring_.sq_space() < need && need <= ring_.sq_entries() && make_room()) {
    }
    return ring_.batch(need);
  }

  /// One turn: submits what was prepared, waits for a completion or until `timeout`, and calls `handler(cqe)`
  /// for those that are there. Returns how many (0: the time-out passed, or the kernel was out of memory for
  /// a moment), or -errno if the ring cannot be used any more.
  template <class Handler>
  int run_once(Handler&& handler, std::chrono::nanoseconds timeout = forever) {
    if (policy_.busy_wait.count() > 0) timeout = spin(timeout);
    // Gathering means to ask for more than the first: whoever wants one gets it at once, min_wait or not.
    const unsigned enough = policy_.enough > 0 ? policy_.enough : ring_.cq_entries();
    const unsigned want = policy_.gather.count() > 0 ? enough : 1;
    const Waited waited = ring_.submit_and_wait(want, timeout, policy_.gather);
    const int harvested = ring_.harvest(handler);
    if (harvested < 0) return harvested;
    switch (waited.error) {
      case 0:
      case -ETIME:
        return harvested;
      case -EAGAIN:
      case -EBUSY:
        // No memory for requests. If no completion freed some either, trying again at once would be a spin.
        if (harvested == 0) pause();
        return harvested;
      default:
        return waited.error;
    }
  }

  /// Turns until a handler calls stop(). 0, or the -errno that ended it.
  template <class Handler>
  int run(Handler&& handler) {
    while (!stopping_) {
      if (const int result = run_once(handler); result < 0) return result;
    }
    return 0;
  }

  void stop() noexcept { stopping_ = true; }
  bool stopping() const noexcept { return stopping_; }

  LoopStatistics statistics() const noexcept {
    const Counters counters = ring_.counters();
    return {.sqe_submitted = counters.sqes,
            .cqe_processed = counters.cqes,
            .io_enter_calls = counters.enters,
            .batches_submitted = counters.batches,
            .cqes_per_enter = counters.enters != 0
                                  ? static_cast<double>(counters.cqes) / static_cast<double>(counters.enters)
                                  : 0,
            .short_submits = counters.short_submits,
            .overflows = counters.overflows};
  }

 private:
  /// Some room, or more than there was; false: the kernel took nothing. (An SQPOLL thread takes them when it
  /// likes.)
  bool make_room() noexcept {
    if constexpr (Sqpoll) {
      return ring_.wait_for_sq_space() == 0;
    } else {
      return ring_.submit() > 0;
    }
  }

  static void pause() noexcept {
    const timespec millisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
    ::nanosleep(&millisecond, nullptr);
  }

  /// Spins until there is something to harvest, for busy_wait or `timeout`. Submits first: nothing completes
  /// that was not submitted. Returns what is left of `timeout`.
  std::chrono::nanoseconds spin(std::chrono::nanoseconds timeout) noexcept {
    if (ring_.submit() < 0) return timeout;  // the wait that follows meets the same error and reports it
    const auto start = std::chrono::steady_clock::now();
    const std::chrono::nanoseconds limit = std::min<std::chrono::nanoseconds>(policy_.busy_wait, timeout);
    std::chrono::nanoseconds spent{};
    while (!ring_.pending() && spent < limit) spent = std::chrono::steady_clock::now() - start;
    return timeout == forever ? forever : std::max(timeout - spent, spent.zero());
  }

  BasicRing<Sqpoll>& ring_;
  WaitPolicy policy_;
  bool stopping_ = false;
};

using Loop = BasicLoop<false>;
using SqpollLoop = BasicLoop<true>;

/// Turns signals into completions. The signals are blocked for the calling thread (and threads it starts
/// later), so that they arrive nowhere else, and become readable on a signalfd.
class SignalWatch {
 public:
  /// Throws std::system_error. Make it before any thread, and before the ring's first wait.
  SignalWatch(std::initializer_list<int> signals) {
    ::sigset_t set;
    ::sigemptyset(&set);
    for (const int signal : signals) ::sigaddset(&set, signal);
    if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, &old_mask_); error != 0) {
      throw std::system_error(error, std::system_category(), "cannot block signals");
    }
    fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC));
    if (!fd_) {
      const int error = errno;
      ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
      throw std::system_error(error, std::system_category(), "cannot open a signalfd");
    }
  }
  SignalWatch(const SignalWatch&) = delete;  // the kernel writes into info_ while a read is in flight
  SignalWatch& operator=(const SignalWatch&) = delete;
  ~SignalWatch() { ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr); }

  /// Prepares the read of the next signal; one at a time. It stays in flight until a signal comes: cancel it
  /// by `token` before the loop's end, or count one operation in flight.
  void prepare(io_uring_sqe& sqe, Token token) noexcept {
    prep::read(sqe, fd_.get(), &info_, sizeof info_, 0, token);
  }

  /// Which signal came: after the completion of that read.
  int signal() const noexcept { return static_cast<int>(info_.ssi_signo); }

 private:
  FileDescriptor fd_;
  ::signalfd_siginfo info_{};
  ::sigset_t old_mask_{};
};

}  // namespace uring

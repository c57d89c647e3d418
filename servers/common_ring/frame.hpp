// What every server on one ring does besides its job: it accepts, hears signals, stops in order, looks at the
// clock, and says what it is doing.
//
//        ┌── turn: submit and wait, until a completion or the next deadline ──► completions ──► Host::dispatch ─┐
//   run  │                                                                └──► accept, signal: here             │
//        └── Host::keep_house ◄──────────────────────────────────────────────────────────────────────────────────┘
//
// The Host is the server itself; it knows connections, and the Frame does not. What it must have:
//
//   dispatch(kind, subject, result, flags)   a completion of one of its own operations
//   add_client(fd)                           a connection was accepted (a descriptor, or a slot)
//   free_a_descriptor()                      descriptors ran out: close somebody, unless somebody is leaving
//   keep_house()                             at the end of each turn: what depends on the time
//   next_deadline(Deadline&)                 until when a wait may last
//   begin_stop(), reset_all()                the two stages of stopping (signals.hpp)
//   client_count()                           those who are served; no more than --max-connections
//   connection_count(), release_idle()       zero ends the loop; then what is kept without a client goes, too
//   print_tables(), counters(), gauges()     SIGUSR1, --stats
//   lent()                                   if it sends without copying: operations that only wait for their
//                                            notification
//
// Running out of descriptors: the accept ends with EMFILE or ENFILE. The host closes what is idle; the close,
// or at the latest the clock after 100 ms, arms the accept again. Never at once, which would be a spin, and
// never not at all, which would be a server that is up and deaf.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <new>
#include <optional>
#include <utility>

#include "servers/common/counters.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/common/signals.hpp"
#include "servers/common_ring/acceptor.hpp"
#include "servers/common_ring/operations.hpp"
#include "uring/prep_files.hpp"

namespace common_ring {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

/// When to try to accept again if nothing was closed meanwhile: others may have returned descriptors.
inline constexpr std::chrono::milliseconds accept_again_after{100};

/// How long the end waits for what the host has lent to the kernel.
inline constexpr std::chrono::milliseconds patience_with_loans{1000};

/// For how long the loop may wait: until the first of several moments.
class Deadline {
 public:
  Deadline(Time now, std::chrono::nanoseconds longest) noexcept : now_(now), wait_(longest) {}
  void at_most_until(Time then) noexcept {
    wait_ = std::min(wait_, std::max<std::chrono::nanoseconds>(then - now_, {}));
  }
  std::chrono::nanoseconds wait() const noexcept { return wait_; }

 private:
  Time now_;
  std::chrono::nanoseconds wait_;
};

template <class Host, class Loop, class Subject>
class Frame {
 public:
  /// All of them must outlive the frame. `signals` is a signalfd.
  Frame(Host& host, Loop& loop, common::Listener& listener, int signals, const common::ServerOptions& options,
        Sockets sockets = Sockets::descriptors)
      : host_(host),
        loop_(loop),
        listener_(listener),
        signals_(signals),
        options_(options),
        operations_(loop),
        acceptor_(operations_, listener.fd(), sockets) {}

  Operations<Loop, Subject>& operations() noexcept { return operations_; }
  const Operations<Loop, Subject>& operations() const noexcept { return operations_; }

  /// One look at the clock a turn, after the wait: all that follows happens "now".
  Time now() const noexcept { return now_; }
  bool serving() const noexcept { return stop_.serving(); }
  bool is_full() const noexcept { return !serving() || host_.client_count() >= options_.max_connections; }

  /// Serves until a signal says stop, and the last connection has gone. 0, or -errno if the ring or the
  /// listener failed for good, or there was no memory: then operations are still in flight.
  int run() try {
    now_ = stats_from_ = Clock::now();
    stats_at_ = now_ + std::chrono::seconds(options_.stats_seconds);
    acceptor_.arm();
    read_signal();
    while (stop_.serving() || host_.connection_count() > 0) {
      if (const int result = turn(wait_time()); result < 0) return result;
      keep_house();
    }
    return end();
  } catch (const std::bad_alloc&) {
    return -ENOMEM;  // and not further: on its way out it would free what the kernel may still write to
  }

  /// The host has closed something.
  void descriptor_is_free() {
    if (!accept_again_at_ || !stop_.serving()) return;
    accept_again_at_.reset();
    acceptor_.arm();
  }

  /// What ring and frame have counted.
  void add_to(common::Counters& counters) const noexcept {
    const uring::LoopStatistics ring = loop_.statistics();
    counters.sqes = ring.sqe_submitted;
    counters.cqes = ring.cqe_processed;
    counters.enters = ring.io_enter_calls;
    counters.short_submits = ring.short_submits;
    counters.overflows = ring.overflows;
    counters.accept_sqes = acceptor_.times_armed();
    counters.rearms += acceptor_.rearms();
    counters.syscalls += ring.io_enter_calls;
  }

 private:
  int turn(std::chrono::nanoseconds time) {
    const auto handler = [this](Kind kind, const Subject& subject, int result, std::uint32_t flags) {
      dispatch(kind, subject, result, flags);
    };
    clock_was_read_ = false;
    const int result = loop_.run_once(
        [&](const io_uring_cqe& cqe) {
          if (!std::exchange(clock_was_read_, true)) now_ = Clock::now();
          operations_.complete(cqe, handler);
        },
        operations_.some_are_refused() ? std::chrono::nanoseconds::zero() : time);
    if (result < 0) return result;
    if (!clock_was_read_) now_ = Clock::now();
    operations_.fail_refused(handler);
    return 0;
  }

  void dispatch(Kind kind, const Subject& subject, int result, std::uint32_t flags) {
    if (kind == Kind::accept) {
      on_accept(result, flags);
    } else if (kind == Kind::signal) {
      on_signal(result);
    } else {
      host_.dispatch(kind, subject, result, flags);
    }
  }

  std::chrono::nanoseconds wait_time() const {
    Deadline deadline(now_, stop_.wait(now_, uring::forever));
    if (options_.stats_seconds > 0) deadline.at_most_until(stats_at_);
    if (accept_again_at_) deadline.at_most_until(*accept_again_at_);
    host_.next_deadline(deadline);
    return deadline.wait();
  }

  void keep_house() {
    host_.keep_house();
    if (accept_again_at_ && now_ >= *accept_again_at_) descriptor_is_free();
    const bool was_ending = stop_.state() == common::StopProtocol::State::ending;
    stop_.look_at_clock(now_);
    if (!was_ending && stop_.state() == common::StopProtocol::State::ending) host_.reset_all();
    if (options_.stats_seconds > 0 && now_ >= stats_at_) print_stats();
  }

  // The connections are gone. The signal's read is given up, what was kept for later is let go, and then
  // nothing is in flight any more.
  int end() {
    ended_ = true;
    host_.release_idle();
    if (signal_read_) operations_.cancel(*signal_read_, {});
    while (operations_.size() > lent()) {
      if (const int result = turn(uring::forever); result < 0) return result;
    }
    // The rest comes when the last peers have acknowledged what they got; and peers may be dead.
    const Time last = now_ + patience_with_loans;
    while (operations_.size() > 0 && now_ < last) {
      if (const int result = turn(last - now_); result < 0) return result;
    }
    return failure_;
  }

  std::size_t lent() const noexcept {
    if constexpr (requires { host_.lent(); }) {
      return host_.lent();
    } else {
      return 0;
    }
  }

  void on_accept(int result, std::uint32_t flags) {
    switch (acceptor_.completed(result, flags)) {
      case Outcome::connection:
        host_.add_client(result);
        break;
      case Outcome::shortage:
        accept_again_at_ = now_ + accept_again_after;
        return host_.free_a_descriptor();
      case Outcome::later:
        accept_again_at_ = now_ + accept_again_after;
        return;
      case Outcome::broken:
        failure_ = result;
        stop_.stop(now_);
        begin_stop();
        break;
      case Outcome::nothing:
        break;
    }
    if (!stop_.serving() && !acceptor_.armed()) listener_.close();
    if (stop_.serving() && !accept_again_at_) acceptor_.arm();
  }

  void read_signal() {
    signal_read_ = operations_.start(Kind::signal, {}, [&](io_uring_sqe& sqe, uring::Token token) {
      uring::prep::read(sqe, signals_, &signal_, sizeof signal_, 0, token);
    });
  }

  void on_signal(int result) {
    signal_read_.reset();
    if (result == static_cast<int>(sizeof signal_)) {
      if (common::meaning_of(signal_.ssi_signo) == common::SignalMeaning::tables) {
        print_ring();
        host_.print_tables();
      } else {
        stop_.stop(now_);
        if (stop_.state() == common::StopProtocol::State::finishing) begin_stop();
        if (stop_.state() == common::StopProtocol::State::ending) host_.reset_all();
      }
    }
    if (!ended_) read_signal();
  }

  void begin_stop() {
    accept_again_at_.reset();
    acceptor_.stop();
    if (!acceptor_.armed()) listener_.close();
    host_.begin_stop();
  }

  void print_ring() const {
    const uring::RingSnapshot ring = loop_.ring().snapshot();
    std::fprintf(stderr,
                 "ring: sq head %u tail %u of %u, cq head %u tail %u of %u, %zu operations in flight\n",
                 ring.sq_head, ring.sq_tail, ring.sq_entries, ring.cq_head, ring.cq_tail, ring.cq_entries,
                 operations_.size());
  }

  void print_stats() {
    const common::Counters now = host_.counters();
    const std::chrono::duration<double> seconds = now_ - stats_from_;
    std::fprintf(stderr, "%s\n",
                 common::stats_line(stats_before_, now, seconds.count(), host_.gauges()).c_str());
    stats_before_ = now;
    stats_from_ = now_;
    stats_at_ = now_ + std::chrono::seconds(options_.stats_seconds);
  }

  Host& host_;
  Loop& loop_;
  common::Listener& listener_;
  int signals_;
  common::ServerOptions options_;
  Operations<Loop, Subject> operations_;
  Acceptor<Operations<Loop, Subject>> acceptor_;
  common::StopProtocol stop_{};
  ::signalfd_siginfo signal_{};
  std::optional<uring::Token> signal_read_{};

  Time now_{};
  bool clock_was_read_ = false;
  std::optional<Time> accept_again_at_{};
  Time stats_at_{};
  Time stats_from_{};
  common::Counters stats_before_{};
  bool ended_ = false;
  int failure_ = 0;
};

}  // namespace common_ring

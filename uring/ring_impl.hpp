// The parts of BasicRing that are not in the hot path: life and death, waiting, and the unlucky cases.
// ring.hpp includes it.
#pragma once

#include <ctime>
#include <limits>

#include "uring/ring.hpp"

namespace uring {

template <bool Sqpoll>
BasicRing<Sqpoll>::BasicRing(const RingOptions& options, const Kernel& kernel)
    : wants_registration_(options.register_ring_fd),
      kernel_(kernel),
      memory_(create_ring(options, Sqpoll, kernel)) {
  words_ = memory_.words;
  sqes_ = memory_.sqes;
  cqes_ = memory_.cqes;
  sq_mask_ = memory_.params.sq_entries - 1;
  cq_mask_ = memory_.params.cq_entries - 1;
  // All zero on a new ring; the mock kernel of the tests starts just below 2^32.
  sq_tail_ = load_own_sq_tail(words_);
  sq_limit_ = load_sq_head(words_) + sq_entries();
  cq_head_ = load_own_cq_head(words_);
  reported_lost_ = load_cq_overflow(words_);
  enter_fd_ = memory_.fd.get();
  // A disabled ring may yet move to another thread, and the registration would not move with it: enable()
  // does it.
  if ((memory_.params.flags & IORING_SETUP_R_DISABLED) == 0) register_ring_fd();
}

template <bool Sqpoll>
BasicRing<Sqpoll>::~BasicRing() {
  // The index means something on the registering thread only; if that is another one, its end unregisters
  // too.
  if (!memory_.fd || !ring_fd_registered() || registered_by_ != std::this_thread::get_id()) return;
  io_uring_rsrc_update update{};
  update.offset = static_cast<std::uint32_t>(enter_fd_);
  kernel_.register_(kernel_.self, memory_.fd.get(), IORING_UNREGISTER_RING_FDS, &update, 1);
}

template <bool Sqpoll>
int BasicRing<Sqpoll>::enable() noexcept {
  const int result =
      kernel_.register_(kernel_.self, memory_.fd.get(), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  if (result < 0) return result;
  register_ring_fd();
  return 0;
}

/// Linux 5.18: the calling thread gets a small table of rings, and io_uring_enter with
/// IORING_ENTER_REGISTERED_RING takes an index into it instead of a descriptor. A kernel without it, or a
/// full table (16), costs nothing but the saving.
template <bool Sqpoll>
void BasicRing<Sqpoll>::register_ring_fd() noexcept {
  if (!wants_registration_) return;
  io_uring_rsrc_update update{};
  update.offset = ~std::uint32_t{0};  // any free index
  update.data = static_cast<__u64>(memory_.fd.get());
  if (kernel_.register_(kernel_.self, memory_.fd.get(), IORING_REGISTER_RING_FDS, &update, 1) != 1) return;
  enter_fd_ = static_cast<int>(update.offset);
  enter_flags_ = IORING_ENTER_REGISTERED_RING;
  registered_by_ = std::this_thread::get_id();
}

/// The kernel took fewer than it was offered, or none. -EINTR took none: say it again.
template <bool Sqpoll>
int BasicRing<Sqpoll>::after_short_submit(int taken) noexcept {
  while (taken == -EINTR) taken = enter(unsubmitted(), 0, 0, nullptr);
  if (taken >= 0 && unsubmitted() != 0) ++counters_.short_submits;
  return taken;
}

/// SQPOLL: from this store on the kernel's thread may take the SQEs. Returns how many are new to it.
template <bool Sqpoll>
unsigned BasicRing<Sqpoll>::publish_for_sqpoll() noexcept {
  const unsigned published = sq_tail_ - load_own_sq_tail(words_);
  publish_sq_tail(words_, sq_tail_);
  if (published != 0) ++counters_.batches;
  return published;
}

template <bool Sqpoll>
int BasicRing<Sqpoll>::publish_and_wake() noexcept {
  const unsigned published = publish_for_sqpoll();
  // Nothing is waiting: no reason to wake anyone. (A thread that is awake has often taken the SQEs by now.)
  if (unsubmitted() != 0 && needs_wakeup(words_)) {
    // What the call returns is the number it was passed, whatever the thread has taken: it is of no use.
    int result;
    do {
      result = enter(0, 0, IORING_ENTER_SQ_WAKEUP, nullptr);
    } while (result == -EINTR);
    if (result < 0) return result;
  }
  return static_cast<int>(published);
}

/// One call that waits for nothing moves the kernel's overflow backlog into the CQ and runs deferred task
/// work. (Harvesting alone does not refill the CQ, nor does a call that only submits.)
template <bool Sqpoll>
int BasicRing<Sqpoll>::fetch_held_back() noexcept {
  if ((load_sq_flags(words_) & IORING_SQ_CQ_OVERFLOW) != 0) ++counters_.overflows;
  int result;
  do {
    result = enter(0, 0, IORING_ENTER_GETEVENTS, nullptr);
  } while (result == -EINTR);
  return std::min(result, 0);
}

/// Completions were lost since this was asked last.
template <bool Sqpoll>
bool BasicRing<Sqpoll>::lost_some() noexcept {
  const std::uint32_t lost = load_cq_overflow(words_);
  return lost != std::exchange(reported_lost_, lost);
}

namespace detail {

/// The argument of a wait that only completions end: there is none. A type of its own, so that such a wait
/// does not pay for what it does not have.
struct NoWaitArgument {
  static constexpr unsigned flags() noexcept { return 0; }
  static constexpr const abi::getevents_arg* get() noexcept { return nullptr; }
  static constexpr bool collects() noexcept { return false; }
  static constexpr bool collected() noexcept { return false; }
  static constexpr bool renew() noexcept { return true; }
};

/// The argument of a timed wait (IORING_ENTER_EXT_ARG, 5.11). The kernel takes a duration, which a signal
/// would restart from its beginning; so the deadline is kept here, and what is left of it is passed.
class WaitArgument {
 public:
  WaitArgument(std::chrono::nanoseconds timeout, std::chrono::microseconds min_wait) noexcept
      : collects_(min_wait > min_wait.zero()) {
    // For ever, but with a min_wait: without any time-out the kernel would give up, with -ETIME, when *that*
    // is over.
    if (timeout == forever) timeout = std::chrono::hours(24 * 365 * 100);
    const auto now = Clock::now();
    deadline_ = after(now, timeout);
    collect_until_ = std::min(after(now, min_wait), deadline_);  // in the kernel a longer min_wait would win
    set(timeout, now);
    argument_.ts = reinterpret_cast<std::uint64_t>(&left_);
  }
  WaitArgument(const WaitArgument&) = delete;  // argument_ points into this object
  WaitArgument& operator=(const WaitArgument&) = delete;

  static constexpr unsigned flags() noexcept { return IORING_ENTER_EXT_ARG; }
  const abi::getevents_arg* get() const noexcept { return &argument_; }

  bool collects() const noexcept { return collects_; }
  /// Nothing of the min_wait is left: from now on one completion is enough.
  bool collected() const noexcept { return collects_ && argument_.min_wait_usec == 0; }

  /// Before waiting again: what is left of the time. False: nothing is.
  bool renew() noexcept {
    const auto now = Clock::now();
    if (now >= deadline_) return false;
    set(deadline_ - now, now);
    return true;
  }

 private:
  using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC, as the kernel's

  static Clock::time_point after(Clock::time_point now, std::chrono::nanoseconds time) noexcept {
    return time < Clock::time_point::max() - now ? now + time : Clock::time_point::max();
  }

  void set(std::chrono::nanoseconds left, Clock::time_point now) noexcept {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
    left_ = {.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
    if (!collects_) return;
    const std::chrono::microseconds most(std::numeric_limits<std::uint32_t>::max());
    const auto collecting =
        std::chrono::ceil<std::chrono::microseconds>(std::max(collect_until_ - now, Clock::duration{}));
    argument_.min_wait_usec = static_cast<std::uint32_t>(std::min(collecting, most).count());
  }

  bool collects_;
  Clock::time_point deadline_{};
  Clock::time_point collect_until_{};
  __kernel_timespec left_{};
  abi::getevents_arg argument_{};
};

}  // namespace detail

template <bool Sqpoll>
inline Waited BasicRing<Sqpoll>::submit_and_wait(unsigned want, std::chrono::nanoseconds timeout,
                                                 std::chrono::microseconds min_wait) noexcept {
  assert(!harvesting_);
  want = timeout > timeout.zero() ? std::min(want, cq_entries()) : 0;
  if (min_wait > min_wait.zero() && (features() & abi::feat_min_timeout) == 0) {
    min_wait = {};
    want = std::min(want, 1U);  // cannot collect here: do not make the first completion wait for the others
  }
  // If enough is ready, nothing needs a deadline: harvesting is up to the caller, so `ready` cannot fall.
  if ((timeout == forever && min_wait <= min_wait.zero()) || ready() >= want) {
    return submit_and_wait_with(want, detail::NoWaitArgument());
  }
  return submit_and_wait_with(want, detail::WaitArgument(timeout, min_wait));
}

/// Publishes what was prepared. Returns how many SQEs the enter of the wait has to offer; with SQPOLL none,
/// but it may have to wake the thread.
template <bool Sqpoll>
inline unsigned BasicRing<Sqpoll>::publish_for_wait(Waited& waited, unsigned& flags) noexcept {
  if constexpr (Sqpoll) {
    waited.submitted += publish_for_sqpoll();
    if (unsubmitted() != 0 && needs_wakeup(words_)) flags |= IORING_ENTER_SQ_WAKEUP;
    return 0;
  } else {
    const std::uint32_t tail = sq_tail_;
    publish_sq_tail(words_, tail);
    return tail - load_sq_head(words_);
  }
}

template <bool Sqpoll>
template <class Argument>
Waited BasicRing<Sqpoll>::submit_and_wait_with(unsigned want, Argument&& argument) noexcept {
  Waited waited;
  waited.ready = ready();
  for (;;) {
    unsigned flags = IORING_ENTER_GETEVENTS;
    const unsigned offered = publish_for_wait(waited, flags);
    const bool enough = waited.ready >= want;
    const bool polls = want == 0 && held_back();
    if (enough && offered == 0 && !polls && (flags & IORING_ENTER_SQ_WAKEUP) == 0) break;
    if ((load_sq_flags(words_) & IORING_SQ_CQ_OVERFLOW) != 0) ++counters_.overflows;
    const int result = enter(offered, enough ? 0 : want, flags | argument.flags(), argument.get());
    // Neither 0 nor a positive result says that the wait was met: the kernel does not wait after a short
    // submit, and after a time-out or a signal it returns the number of SQEs, or 0 if any completion is
    // there. So: look.
    waited.ready = ready();
    const bool met = waited.ready >= want;
    // (An SQPOLL thread that has been woken takes them in its own time: one wake-up is enough.)
    const bool all_taken = Sqpoll || result == static_cast<int>(offered);
    if (result > 0) {
      waited.submitted += static_cast<unsigned>(result);
      if (!all_taken) ++counters_.short_submits;
    }
    if (result < 0 && result != -EINTR) {
      if (result != -ETIME || !met) waited.error = result;
      if (result == -EBADR) lost_some();
      break;
    }
    if (met && all_taken) break;
    if (argument.collects() && waited.ready != 0 && all_taken && result != -EINTR) break;
    if (lost_some()) {
      // The kernel had no memory for a completion. It says -EBADR only when the CQ is empty, and until then
      // does not wait any more: to ask again would be a spin.
      waited.error = -EBADR;
      break;
    }
    if (result == 0 && offered != 0) break;  // no progress: leave it to the caller
    if (!argument.renew()) {
      if (!met) waited.error = -ETIME;
      break;
    }
    if (argument.collected()) want = std::min(want, 1U);
  }
  return waited;
}

}  // namespace uring

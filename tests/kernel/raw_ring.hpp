// A ring without a ring layer, for facts that a layer exists to hide.
//
// Nothing is decided here and nothing is recovered: setup flags go to the kernel as they are, enter is called
// when a test calls it, the tails can be written by hand. Whatever enter returns, the test sees it.
//
// Limits: one thread; errors of setup fail the test (try_setup is for those that are wanted).
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/kernel/kernel_support.hpp"
#include "uring/indices.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"

namespace tests::kernel {

/// io_uring_setup(2), and the ring is gone again: 0 or -errno.
inline int try_setup(unsigned entries, io_uring_params& params) {
  const int result = uring::real_kernel.setup(nullptr, entries, &params);
  if (result >= 0) ::close(result);
  return std::min(result, 0);
}

inline int try_setup(unsigned entries, std::uint32_t flags) {
  io_uring_params params{};
  params.flags = flags;
  return try_setup(entries, params);
}

/// A time-out for enter; lives where the test puts it, as long as the call lasts.
class WaitLimit {
 public:
  explicit WaitLimit(std::chrono::nanoseconds time)
      : time_{.tv_sec = time / 1s, .tv_nsec = (time % 1s).count()} {
    argument_.ts = reinterpret_cast<std::uint64_t>(&time_);
  }
  WaitLimit(const WaitLimit&) = delete;
  WaitLimit& operator=(const WaitLimit&) = delete;
  const uring::abi::getevents_arg* get() const { return &argument_; }

 private:
  __kernel_timespec time_;
  uring::abi::getevents_arg argument_{};
};

class RawRing {
 public:
  /// `flags` as they are; `cq_entries` 0: whatever the kernel takes; `idle_ms` means something with SQPOLL
  /// only.
  explicit RawRing(unsigned entries, std::uint32_t flags = 0, unsigned cq_entries = 0,
                   unsigned idle_ms = 10) {
    params.flags = flags | (cq_entries != 0 ? std::uint32_t{IORING_SETUP_CQSIZE} : 0);
    params.cq_entries = cq_entries;
    params.sq_thread_idle = idle_ms;
    const int result = uring::real_kernel.setup(nullptr, entries, &params);
    REQUIRE(result >= 0);
    fd.reset(result);
    map();
  }

  // --- Submitting ------------------------------------------------------------------------------------------

  /// The next SQE; nothing is published.
  io_uring_sqe& prepare() { return sqes[tail++ & (params.sq_entries - 1)]; }
  void prepare_nops(std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t name = first; name <= last; ++name) uring::prep::nop(prepare(), uring::Token{name});
  }
  void publish() { uring::publish_sq_tail(words, tail); }
  int enter(unsigned to_submit, unsigned min_complete = 0, unsigned flags = 0,
            const uring::abi::getevents_arg* argument = nullptr) {
    return uring::real_kernel.enter(nullptr, fd.get(), to_submit, min_complete, flags, argument);
  }
  /// SQEs that are published and that the kernel has not taken.
  unsigned queued() const { return uring::load_own_sq_tail(words) - uring::load_sq_head(words); }
  /// Publishes and enters with everything there is.
  int submit() {
    publish();
    return enter(queued());
  }

  // --- Completing ------------------------------------------------------------------------------------------

  unsigned ready() const { return uring::load_cq_tail(words) - uring::load_own_cq_head(words); }
  bool flag(std::uint32_t sq_flag) const { return (uring::load_sq_flags(words) & sq_flag) != 0; }
  int get_events() { return enter(0, 0, IORING_ENTER_GETEVENTS); }
  /// enter(GETEVENTS) for `count` completions and a time.
  int wait(unsigned count, std::chrono::nanoseconds time) {
    const WaitLimit limit(time);
    return enter(0, count, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, limit.get());
  }
  /// Consumes what is in the CQ now.
  std::vector<Completion> reap() {
    std::vector<Completion> taken;
    std::uint32_t head = uring::load_own_cq_head(words);
    for (; head != uring::load_cq_tail(words); ++head) {
      taken.push_back(copy_of(cqes[head & (params.cq_entries - 1)]));
    }
    uring::publish_cq_head(words, head);
    return taken;
  }
  /// Waits until `count` completions have come (or patience ends), overflow included, and consumes them.
  std::vector<Completion> take(std::size_t count) {
    std::vector<Completion> taken;
    for (const auto deadline = Clock::now() + patience; taken.size() < count && Clock::now() < deadline;) {
      const std::size_t missing = std::min<std::size_t>(count - taken.size(), params.cq_entries);
      if (ready() < missing) wait(static_cast<unsigned>(missing), patience);
      for (const Completion& completion : reap()) taken.push_back(completion);
    }
    return taken;
  }
  std::string results(std::size_t count) { return text_of(take(count)); }
  /// What came without being waited for.
  std::string results_now() { return text_of(reap()); }

  // --- The rest --------------------------------------------------------------------------------------------

  int register_(unsigned opcode, void* argument = nullptr, unsigned count = 0) {
    return uring::real_kernel.register_(nullptr, fd.get(), opcode, argument, count);
  }

  /// Maps the ring as `params` describes it, in place of what was mapped before.
  void map() {
    const std::size_t cqes_end = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
    const std::size_t array_end = params.sq_off.array + params.sq_entries * sizeof(std::uint32_t);
    rings = mapping(std::max(cqes_end, array_end), IORING_OFF_SQ_RING);
    sqe_memory = mapping(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
    const io_sqring_offsets& sq = params.sq_off;
    const io_cqring_offsets& cq = params.cq_off;
    words = {.sq_head = word(sq.head),
             .sq_tail = word(sq.tail),
             .sq_flags = word(sq.flags),
             .sq_dropped = word(sq.dropped),
             .cq_head = word(cq.head),
             .cq_tail = word(cq.tail),
             .cq_overflow = word(cq.overflow)};
    cq_flags = word(cq.flags);
    sqes = reinterpret_cast<io_uring_sqe*>(sqe_memory.data());
    cqes = reinterpret_cast<io_uring_cqe*>(rings.data() + cq.cqes);
    array = sq.array != 0 ? word(sq.array) : nullptr;
    if (array != nullptr) uring::fill_identity_array(array, params.sq_entries);
    tail = uring::load_own_sq_tail(words);
  }

  io_uring_params params{};
  uring::FileDescriptor fd;
  uring::Mapping rings, sqe_memory;
  uring::SharedWords words;
  std::uint32_t* cq_flags = nullptr;
  std::uint32_t* array = nullptr;  // null under IORING_SETUP_NO_SQARRAY
  io_uring_sqe* sqes = nullptr;
  io_uring_cqe* cqes = nullptr;
  std::uint32_t tail = 0;  // ours: the next SQE to prepare

 private:
  std::uint32_t* word(std::uint32_t offset) const {
    return reinterpret_cast<std::uint32_t*>(rings.data() + offset);
  }
  uring::Mapping mapping(std::size_t bytes, std::uint64_t offset) const {
    void* address = nullptr;
    REQUIRE(uring::real_kernel.map(nullptr, fd.get(), bytes, offset, &address) == 0);
    return {address, bytes};
  }
};

}  // namespace tests::kernel

// Ordinary memory in the shape of a ring, and a thread that plays the kernel over it with correct orders.
//
//   application thread                                           "kernel" thread
//   the real SqpollRing, over ──► one anonymous mapping ◄── the functions of MockRing, named after
//   the real uring/indices.hpp                               those of the Linux kernel that they stand for
//
// A ThreadSanitizer build of the two shows what no real ring can show: the kernel's reads and writes. TSan
// knows nothing of CPUs and reorders nothing. It follows the happens-before edges that acquire and release
// make, and reports two accesses of one entry, one of them a write, that no such edge orders. So a missing
// order is reported in the very first exchange, on any machine, x86 included.
//
// Invariant: in each harness the order under test is the *only* edge in its direction. That is why there is a
// harness per order: where one thread both submits and harvests, the release of the SQ tail also publishes
// that its reads of CQEs are over, and a relaxed CQ head goes unnoticed. For the same reason the mock
// kernel's `enter` must not be called (a system call would be an edge too), and the threads share nothing
// else: no lock, no stop flag, no counter.
//
// Limits: the kernel's own side is taken to be right, and is written with C++ orders. Where Linux gets by
// with a control dependency (it reads the CQ head before it decides to write a CQE), C++ has no name for
// that, and the mock uses an acquire. TSan ignores fences altogether: for the one fence of the ring layer see
// relacy_models.cpp.
#pragma once

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string_view>
#include <thread>

#include "uring/ring.hpp"

namespace barriers {

class MockRing {
 public:
  /// Both rings have `entries` entries (a power of two), and all four indices begin at `start`.
  MockRing(std::uint32_t start, unsigned entries) : start_(start), entries_(entries) {}
  MockRing(const MockRing&) = delete;
  MockRing& operator=(const MockRing&) = delete;

  /// What the application's ring is created with. The memory belongs to that ring: join the kernel thread
  /// first.
  uring::Kernel kernel() {
    return {[](void* self, unsigned, io_uring_params* params) {
              return static_cast<MockRing*>(self)->setup(*params);
            },
            [](void*, int, unsigned, unsigned, unsigned, const uring::abi::getevents_arg*) -> int {
              std::puts("the application made a system call, which hides what is to be seen");
              std::_Exit(2);
            },
            [](void*, int, unsigned, void*, unsigned) { return -EINVAL; },  // no registered ring descriptor
            [](void* self, int, std::size_t bytes, std::uint64_t offset, void** address) {
              return static_cast<MockRing*>(self)->map(bytes, offset, *address);
            },
            this};
  }

  // --- The kernel's side: io_uring/io_uring.c and io_uring.h of Linux 6.18 ---------------------------------

  /// SQEs that the application has published and the kernel not taken yet (cached_sq_head is the kernel's own
  /// copy).
  std::uint32_t io_sqring_entries(std::uint32_t cached_sq_head) const {
    return std::atomic_ref(word(sq_tail)).load(std::memory_order_acquire) - cached_sq_head;
  }
  /// The SQEs before `cached_sq_head` are read: their slots may be filled again.
  void io_commit_sqring(std::uint32_t cached_sq_head) {
    std::atomic_ref(word(sq_head)).store(cached_sq_head, std::memory_order_release);
  }
  /// How many CQEs fit. Linux loads the head without an order (READ_ONCE): its writes depend on what it read.
  std::uint32_t io_cqe_cache_refill(std::uint32_t cached_cq_tail) const {
    return entries_ - (cached_cq_tail - std::atomic_ref(word(cq_head)).load(std::memory_order_acquire));
  }
  /// The CQEs before `cached_cq_tail` are written: the application may read them.
  void io_commit_cqring(std::uint32_t cached_cq_tail) {
    std::atomic_ref(word(cq_tail)).store(cached_cq_tail, std::memory_order_release);
  }
  const io_uring_sqe& sqe(std::uint32_t index) const { return sqes_[index & (entries_ - 1)]; }
  io_uring_cqe& cqe(std::uint32_t index) const {
    return reinterpret_cast<io_uring_cqe*>(rings_ + cqes)[index & (entries_ - 1)];
  }

 private:
  // The layout of Linux: the four indices in one cache line, then constants and counters, then the CQEs.
  enum Offset : std::uint32_t {
    sq_head = 0,
    sq_tail = 4,
    cq_head = 8,
    cq_tail = 12,
    sq_ring_mask = 16,
    cq_ring_mask = 20,
    sq_dropped = 32,
    sq_flags = 36,
    cq_overflow = 44,
    cqes = 64
  };

  std::uint32_t& word(Offset offset) const { return *reinterpret_cast<std::uint32_t*>(rings_ + offset); }

  int setup(io_uring_params& params) {
    params.sq_entries = params.cq_entries = entries_;
    params.features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
    params.sq_off.head = sq_head;
    params.sq_off.tail = sq_tail;
    params.sq_off.ring_mask = sq_ring_mask;
    params.sq_off.flags = sq_flags;
    params.sq_off.dropped = sq_dropped;
    params.cq_off.head = cq_head;
    params.cq_off.tail = cq_tail;
    params.cq_off.ring_mask = cq_ring_mask;
    params.cq_off.overflow = cq_overflow;
    params.cq_off.cqes = cqes;
    return ::open("/dev/null", O_CLOEXEC);  // something to close
  }

  int map(std::size_t bytes, std::uint64_t offset, void*& address) {
    address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) return -errno;
    if (offset == IORING_OFF_SQES) {
      sqes_ = static_cast<io_uring_sqe*>(address);
      return 0;
    }
    rings_ = static_cast<char*>(address);
    word(sq_head) = word(sq_tail) = word(cq_head) = word(cq_tail) = start_;
    word(sq_ring_mask) = word(cq_ring_mask) = entries_ - 1;
    return 0;
  }

  std::uint32_t start_;
  std::uint32_t entries_;
  char* rings_ = nullptr;
  io_uring_sqe* sqes_ = nullptr;
};

/// The application's ring over `mock`: SQPOLL, as only there the kernel works while the application does.
inline uring::SqpollRing application_ring(MockRing& mock) {
  return uring::SqpollRing({.entries = 1}, mock.kernel());
}

/// Runs both sides at once. Each returns how many entries were not what they should be.
template <class Kernel, class Application>
unsigned run_both(Kernel kernel, Application application) {
  unsigned wrong_in_kernel = 0;
  std::thread thread([&] { wrong_in_kernel = kernel(); });
  const unsigned wrong_in_application = application();
  thread.join();
  return wrong_in_kernel + wrong_in_application;
}

/// main() of a harness: several rounds of `exchange(start)` for each start index, or for the one named as
/// argument.
template <class Exchange>
int run_harness(int argc, char** argv, std::initializer_list<std::uint32_t> starts, Exchange exchange) {
  constexpr unsigned rounds = 5;
  unsigned wrong = 0;
  const auto run = [&](std::uint32_t start) {
    for (unsigned round = 0; round < rounds; ++round) wrong += exchange(start);
    std::printf("%u rounds from index %u\n", rounds, start);
  };
  if (argc > 1) {
    const std::string_view text = argv[1];
    std::uint32_t start = 0;
    std::from_chars(text.data(), text.data() + text.size(), start);
    run(start);
  } else {
    for (const std::uint32_t start : starts) run(start);
  }
  std::printf("%u entries were not what they should be\n", wrong);
  return wrong == 0 ? 0 : 1;
}

}  // namespace barriers

// Waits under unlucky stars: a thread that is slow to wake up, a completion that is lost, a signal while collecting.

#include <doctest/doctest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "tests/kernel/kernel_support.hpp"
#include "tests/support/skip.hpp"
#include "tests/support/sqe.hpp"
#include "uring/loop.hpp"
#include "uring/prep_files.hpp"

namespace {

using namespace std::chrono_literals;
using uring::Token;

TEST_CASE("one call wakes a sleeping SQPOLL thread; that it takes its time costs no more calls") {
  SKIP_WITHOUT_IO_URING();
  uring::SqpollRing ring({.entries = 4, .sq_thread_idle_ms = 1});
  for (int round = 0; round < 5; ++round) {
    const auto end = std::chrono::steady_clock::now() + tests::kernel::patience;
    while ((ring.snapshot().sq_flags & IORING_SQ_NEED_WAKEUP) == 0 &&
           std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(1ms);
    }
    REQUIRE((ring.snapshot().sq_flags & IORING_SQ_NEED_WAKEUP) != 0);
    uring::prep::nop(tests::must(ring.next_sqe()), Token{1});
    const std::uint64_t enters = ring.counters().enters;
    CHECK(ring.submit_and_wait(0).submitted == 1);
    CHECK(ring.counters().enters == enters + 1);
    CHECK(ring.submit_and_wait(1, tests::kernel::patience).ready == 1);
    CHECK(ring.harvest([](const io_uring_cqe&) {}) == 1);
  }
}

/// The real kernel, until `losing`: then every enter returns 0 at once, as the kernel's does once it has lost a completion
/// and the CQ is not empty, and the first of them counts that loss.
struct LosingKernel {
  bool losing = false;
  int enters_while_losing = 0;
  std::byte* rings = nullptr;
  io_uring_params params{};

  static LosingKernel& of(void* self) { return *static_cast<LosingKernel*>(self); }

  uring::Kernel kernel() {
    uring::Kernel seam = uring::real_kernel;
    seam.self = this;
    seam.setup = [](void* self, unsigned entries, io_uring_params* filled) {
      const int fd = uring::real_kernel.setup(nullptr, entries, filled);
      of(self).params = *filled;
      return fd;
    };
    seam.map = [](void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
      const int result = uring::real_kernel.map(nullptr, fd, bytes, offset, address);
      if (offset == IORING_OFF_SQ_RING) of(self).rings = static_cast<std::byte*>(*address);
      return result;
    };
    seam.enter = [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                    const uring::abi::getevents_arg* argument) {
      LosingKernel& k = of(self);
      if (!k.losing) return uring::real_kernel.enter(nullptr, fd, to_submit, min_complete, flags, argument);
      if (k.enters_while_losing++ == 0)
        ++*reinterpret_cast<std::uint32_t*>(k.rings + k.params.cq_off.overflow);
      return 0;
    };
    return seam;
  }
};

TEST_CASE(
    "a wait for what was lost ends with EBADR, though the kernel hides it behind the completions that are "
    "there") {
  SKIP_WITHOUT_IO_URING();
  LosingKernel losing;
  uring::Ring ring({.entries = 4}, losing.kernel());
  for (std::uint64_t i = 0; i < 2; ++i) uring::prep::nop(tests::must(ring.next_sqe()), Token{i});
  CHECK(ring.submit() == 2);
  losing.losing = true;
  const uring::Waited waited = ring.submit_and_wait(4);
  CHECK(waited.error == -EBADR);
  CHECK(waited.ready == 2);
  CHECK(losing.enters_while_losing == 1);
  losing.losing = false;
  CHECK(ring.harvest([](const io_uring_cqe&) {}) == 2);
  uring::prep::nop(tests::must(ring.next_sqe()), Token{9});
  CHECK(ring.submit_and_wait(1, tests::kernel::patience).error == 0);  // reported once
}

TEST_CASE("a signal does not begin the collecting of a min_wait anew: what is left of it is passed") {
  SKIP_WITHOUT_IO_URING();
  struct Interrupting {
    std::vector<std::uint32_t> min_waits{};
  } seen;
  uring::Kernel kernel = uring::real_kernel;
  kernel.self = &seen;
  kernel.enter = [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                    const uring::abi::getevents_arg* argument) {
    auto& min_waits = static_cast<Interrupting*>(self)->min_waits;
    if (argument != nullptr) min_waits.push_back(argument->min_wait_usec);
    if (min_waits.size() > 2)
      return uring::real_kernel.enter(nullptr, fd, to_submit, min_complete, flags, argument);
    std::this_thread::sleep_for(30ms);
    return -EINTR;
  };
  uring::Ring ring({.entries = 4}, kernel);
  SKIP_UNLESS((ring.features() & uring::abi::feat_min_timeout) != 0, "min-wait needs Linux 6.12");
  CHECK(ring.submit_and_wait(4, 100ms, 50ms).error == -ETIME);
  REQUIRE(seen.min_waits.size() >= 3);
  CHECK(seen.min_waits[0] == 50'000);
  CHECK(seen.min_waits[1] <= 20'000);
  CHECK(seen.min_waits[2] == 0);
}

}  // namespace

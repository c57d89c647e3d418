// SqpollRing on the real kernel: no system call while the kernel's thread is awake, a wake-up whenever it is
// not, room when the SQ is full. That the wake-up needs a full fence is shown elsewhere (tests/barriers): on
// a real machine a missing one loses a wake-up too seldom to be caught.

#include <doctest/doctest.h>

#include <string>

#include "tests/kernel/kernel_support.hpp"
#include "uring/loop.hpp"
#include "uring/prep_files.hpp"

namespace {

using namespace tests::kernel;
using uring::current_position;
using uring::SqpollRing;
using uring::Token;
using uring::Waited;
namespace prep = uring::prep;

constexpr unsigned never_sleeps = 600'000;  // milliseconds
constexpr unsigned sleeps_at_once = 1;      // rounded up to a tick of the kernel's clock

/// Returns when the ring's thread sleeps (or patience ends).
void wait_until_idle(const SqpollRing& ring) {
  eventually([&] { return (ring.snapshot().sq_flags & IORING_SQ_NEED_WAKEUP) != 0; });
}

/// On a busy machine both spinners, we and the kernel's thread, may have to share a CPU.
void give_way() { std::this_thread::yield(); }

/// Spins until `count` completions have come, without a call to the ring.
std::string spin_for(SqpollRing& ring, std::size_t count) {
  std::vector<Completion> taken;
  for (const auto deadline = Clock::now() + patience; taken.size() < count && Clock::now() < deadline;) {
    if (ring.harvest([&](const io_uring_cqe& cqe) { taken.push_back(copy_of(cqe)); }) == 0) give_way();
  }
  return text_of(taken);
}

/// A fresh thread sleeps at once: it spins only from its first work on.
void wake(SqpollRing& ring) {
  prep::nop(next(ring), Token{1});
  REQUIRE(ring.submit() == 1);
  REQUIRE(spin_for(ring, 1) == "1:0");
}

TEST_CASE("while the SQPOLL thread is awake a thousand submits and their completions cost no system call") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  SqpollRing ring({.entries = 64, .cq_entries = 1024, .sq_thread_idle_ms = never_sleeps}, watched.kernel());
  wake(ring);
  const unsigned before = watched.enters;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  bool in_order = true;
  for (const auto deadline = Clock::now() + patience; received < 1000 && Clock::now() < deadline;) {
    if (io_uring_sqe* const sqe = sent < 1000 ? ring.next_sqe() : nullptr) {
      prep::nop(*sqe, Token{sent++});
      REQUIRE(ring.submit() == 1);
    }
    const int harvested =
        ring.harvest([&](const io_uring_cqe& cqe) { in_order &= cqe.user_data == received++; });
    if (harvested == 0) give_way();
  }
  CHECK(received == 1000);
  CHECK(in_order);
  CHECK(watched.enters == before);
  CHECK(ring.counters().enters == before);
  CHECK(ring.counters().batches == 1001);
  CHECK(ring.counters().sqes == 1001);
  CHECK(ring.counters().cqes == 1001);
}

TEST_CASE("the SQPOLL thread sleeps when it was idle; the next submit wakes it by one system call") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  SqpollRing ring({.entries = 4, .sq_thread_idle_ms = sleeps_at_once}, watched.kernel());
  wake(ring);
  wait_until_idle(ring);
  const unsigned before = watched.enters;
  prep::nop(next(ring), Token{1});
  CHECK(ring.submit() == 1);
  CHECK(watched.enters == before + 1);
  CHECK((watched.last_flags & IORING_ENTER_SQ_WAKEUP) != 0);
  CHECK(spin_for(ring, 1) == "1:0");
}

TEST_CASE("nothing to submit, nobody to wake") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  SqpollRing ring({.entries = 4, .sq_thread_idle_ms = sleeps_at_once}, watched.kernel());
  wait_until_idle(ring);
  CHECK(ring.submit() == 0);
  CHECK(ring.submit_and_wait(0).error == 0);
  CHECK(watched.enters == 0);
}

TEST_CASE("whenever a submit meets the SQPOLL thread falling asleep, its SQE is not left behind") {
  SKIP_WITHOUT_IO_URING();
  SqpollRing ring({.entries = 4, .sq_thread_idle_ms = sleeps_at_once});
  const auto start = Clock::now();
  std::uint64_t cycles = 0;
  for (; cycles < 3000 && Clock::now() - start < 1500ms; ++cycles) {
    // Pauses from none to 9 ms, in steps of 3 us: the thread gives up somewhere in between.
    std::this_thread::sleep_for(std::chrono::microseconds(cycles * 937 % 3000 * 3));
    prep::nop(next(ring), Token{cycles});
    REQUIRE(ring.submit() == 1);
    REQUIRE(spin_for(ring, 1) == std::to_string(cycles) + ":0");
  }
  CHECK(cycles > 0);
}

TEST_CASE("submit_and_wait on an SqpollRing publishes, wakes the thread and waits, in one system call") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  SqpollRing ring({.entries = 4, .sq_thread_idle_ms = sleeps_at_once}, watched.kernel());
  wait_until_idle(ring);
  prep::nop(next(ring), Token{1});
  prep::nop(next(ring), Token{2});
  const Waited waited = ring.submit_and_wait(2, patience);
  CHECK(waited.submitted == 2);
  CHECK(waited.ready == 2);
  CHECK(waited.error == 0);
  CHECK(watched.enters == 1);
  CHECK(text_of(harvest_all(ring)) == "1:0 2:0");
  CHECK(ring.submit_and_wait(1, 10ms).error == -ETIME);
}

TEST_CASE("a full SQ on an SqpollRing: after wait_for_sq_space there is room") {
  SKIP_WITHOUT_IO_URING();
  for (const unsigned idle : {sleeps_at_once, never_sleeps}) {
    CAPTURE(idle);
    SqpollRing ring({.entries = 4, .sq_thread_idle_ms = idle});
    std::uint64_t name = 0;
    std::uint64_t harvested = 0;
    for (int lap = 0; lap < 20; ++lap) {
      if (lap % 5 == 0 && idle == sleeps_at_once) wait_until_idle(ring);
      while (io_uring_sqe* const sqe = ring.next_sqe()) {
        prep::nop(*sqe, Token{name++});
        if (name % 100 == 0) break;  // the thread may be as fast as we are
      }
      CHECK(ring.wait_for_sq_space() == 0);
      CHECK(ring.sq_space() > 0);
      harvested += harvest_all(ring).size();
    }
    harvested += take(ring, name - harvested).size();
    CHECK(harvested == name);
  }
}

TEST_CASE("wait_for_sq_space goes on waiting when its call ended without room, as a signal makes it do") {
  SKIP_WITHOUT_IO_URING();
  struct Interrupted : WatchedKernel {
    int left = 3;  // so many waits end at once
    uring::Kernel kernel() {
      uring::Kernel kernel = WatchedKernel::kernel();
      kernel.enter = [](void* self, int fd, unsigned, unsigned, unsigned flags,
                        const uring::abi::getevents_arg*) {
        auto& interrupted = *static_cast<Interrupted*>(static_cast<WatchedKernel*>(self));
        if ((flags & IORING_ENTER_SQ_WAIT) != 0 && interrupted.left-- > 0) return 0;
        return uring::real_kernel.enter(nullptr, fd, 0, 0, flags, nullptr);
      };
      return kernel;
    }
  };
  for (int lap = 0; lap < 20; ++lap) {
    Interrupted interrupted;
    SqpollRing ring({.entries = 4, .sq_thread_idle_ms = sleeps_at_once}, interrupted.kernel());
    wait_until_idle(ring);
    for (std::uint64_t name = 1; name <= 4; ++name) prep::nop(next(ring), Token{name});
    CHECK(ring.wait_for_sq_space() == 0);
    CHECK(ring.sq_space() > 0);
    CHECK(spin_for(ring, 4) == "1:0 2:0 3:0 4:0");
  }
}

TEST_CASE("an SqpollLoop waits for the room that a chain needs, not only for any") {
  SKIP_WITHOUT_IO_URING();
  SqpollRing ring({.entries = 4, .cq_entries = 1024, .sq_thread_idle_ms = sleeps_at_once});
  uring::SqpollLoop loop(ring);
  for (int lap = 0; lap < 50; ++lap) {
    wait_until_idle(ring);
    prep::nop(next(ring), Token{1});
    prep::nop(next(ring), Token{2});
    auto chain = loop.batch(4);
    REQUIRE(static_cast<bool>(chain));
    for (std::uint64_t name = 3; name <= 6; ++name) prep::nop(next(chain), Token{name});
    chain.commit();
    CHECK(text_of(sorted(take(ring, 6))) == "1:0 2:0 3:0 4:0 5:0 6:0");
  }
}

TEST_CASE("an SqpollRing fetches what overflowed, like any other") {
  SKIP_WITHOUT_IO_URING();
  SqpollRing ring({.entries = 4, .cq_entries = 4, .sq_thread_idle_ms = sleeps_at_once});
  for (std::uint64_t name = 1; name <= 12; ++name) {
    if (ring.sq_space() == 0) REQUIRE(ring.wait_for_sq_space() == 0);
    prep::nop(next(ring), Token{name});
  }
  CHECK(results(ring, 12) == "1:0 2:0 3:0 4:0 5:0 6:0 7:0 8:0 9:0 10:0 11:0 12:0");
}

TEST_CASE("operations that wait are completed by the SQPOLL thread, without any call of ours") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  SqpollRing ring({.entries = 4, .sq_thread_idle_ms = never_sleeps}, watched.kernel());
  wake(ring);
  const unsigned before = watched.enters;
  const Pipe pipe;
  char byte = 0;
  prep::read(next(ring), pipe.read_end.get(), &byte, 1, current_position, Token{1});
  CHECK(ring.submit() == 1);
  pipe.put(1);
  CHECK(spin_for(ring, 1) == "1:1");
  CHECK(watched.enters == before);
}

TEST_CASE("sq_thread_cpu pins the SQPOLL thread to that CPU") {
  SKIP_WITHOUT_IO_URING();
  const SqpollRing ring({.entries = 4, .sq_thread_idle_ms = sleeps_at_once, .sq_thread_cpu = 0});
  wait_until_idle(ring);
  CHECK(cpus_of_sqpoll_thread(ring.fd()) == "0");
}

}  // namespace

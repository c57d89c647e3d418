// SqpollRing: when the kernel's thread must be told, and when a system call would be wasted. The mock's
// thread runs when the test says so; what two threads do to each other is the matter of tests/barriers/.

#include <doctest/doctest.h>

#include <chrono>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "tests/mock/worlds.hpp"
#include "uring/ring.hpp"

namespace {

using namespace std::chrono_literals;
using mock::add;
using mock::CallKind;
using mock::in_every_world;
using mock::MockKernel;
using mock::numbers;
using mock::Wake;
using uring::SqpollRing;
using List = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("SQPOLL: while the thread is awake, submitting and harvesting make no system call") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    REQUIRE((ring.setup_flags() & IORING_SETUP_SQPOLL) != 0);
    std::uint64_t next = 0;
    for (int round = 0; round < 1000; ++round) {
      const unsigned count = 1 + static_cast<unsigned>(round) % 4;
      for (unsigned i = 0; i < count; ++i) REQUIRE(add(ring, next++));
      REQUIRE(ring.submit() == static_cast<int>(count));
      REQUIRE(ring.unsubmitted() == count);
      kernel.sq_thread_runs();
      REQUIRE(ring.unsubmitted() == 0);
      REQUIRE(mock::harvest(ring) == numbers(next - count, count));
    }
    CHECK(kernel.enters() == 0);
    CHECK(kernel.taken_user_data() == numbers(0, next));
    CHECK(ring.counters().batches == 1000);
    CHECK(ring.counters().enters == 0);
    CHECK(ring.counters().sqes == next);
    CHECK(ring.counters().short_submits == 0);
  });
}

TEST_CASE("SQPOLL: a sleeping thread is woken by one call, behind the publication") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    for (int round = 0; round < 10; ++round) {
      kernel.sq_thread_sleeps();
      REQUIRE(add(ring, 1));
      REQUIRE(add(ring, 2));
      const unsigned before = kernel.enters();
      CHECK(ring.submit() == 2);
      CHECK(kernel.enters() == before + 1);
      const mock::Call& wake = kernel.last_call();
      CHECK((wake.flags & IORING_ENTER_SQ_WAKEUP) != 0);
      CHECK((wake.flags & (IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAIT)) == 0);
      CHECK(wake.to_submit == 0);
      CHECK(ring.unsubmitted() == 0);  // it saw them when it woke: the tail was there before the call
      CHECK(mock::harvest(ring) == List{1, 2});
    }
  });
}

TEST_CASE("SQPOLL: nobody is woken for nothing") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    kernel.sq_thread_sleeps();
    CHECK(ring.submit() == 0);
    CHECK(kernel.enters() == 0);
    CHECK(ring.submit_and_wait(0).submitted == 0);
    CHECK(kernel.enters() == 0);
  });
}

TEST_CASE(
    "SQPOLL: a thread that fell asleep with published SQEs left is woken by the next submit, new SQEs or "
    "none") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    REQUIRE(add(ring, 1));
    CHECK(ring.submit() == 1);
    kernel.sq_thread_sleeps();
    CHECK(ring.submit() == 0);  // nothing new, and yet
    CHECK(kernel.enters() == 1);
    CHECK(ring.unsubmitted() == 0);
    CHECK(kernel.taken_user_data() == List{1});
  });
}

TEST_CASE("SQPOLL: submit says how many SQEs are new to the thread, whatever it has taken") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1));
    CHECK(ring.submit() == 1);
    REQUIRE(add(ring, 2));
    REQUIRE(add(ring, 3));
    CHECK(ring.submit() == 2);
    CHECK(ring.submit() == 0);
    CHECK(ring.unsubmitted() == 3);
    CHECK(ring.counters().sqes == 0);  // this counts what was taken
    kernel.sq_thread_runs();
    CHECK(ring.counters().sqes == 3);
    CHECK(kernel.taken_user_data() == List{1, 2, 3});
  });
}

TEST_CASE("SQPOLL: a slot is free when the thread has taken its SQE, and not before") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4, .cq_entries = 64}, kernel.seam());
    std::uint64_t next = 0;
    for (int lap = 0; lap < 5; ++lap) {
      while (add(ring, next)) ++next;
      CHECK(ring.sq_space() == 0);
      CHECK(ring.submit() == 4);
      CHECK(ring.next_sqe() == nullptr);  // published, not taken
      CHECK_FALSE(static_cast<bool>(ring.batch()));
      kernel.sq_thread_runs();
      CHECK(ring.sq_space() == 4);
      CHECK(static_cast<bool>(ring.batch(4)));
    }
    CHECK(next == 20);
    CHECK(kernel.taken_user_data() == numbers(0, next));
    CHECK(mock::harvest_all(ring) == numbers(0, next));
  });
}

TEST_CASE("SQPOLL: waiting for room in the SQ publishes, asks with SQ_WAIT, and finds room") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(add(ring, i));
    CHECK(ring.wait_for_sq_space() == 0);
    CHECK(kernel.enters() == 1);
    CHECK((kernel.last_call().flags & IORING_ENTER_SQ_WAIT) != 0);
    CHECK(ring.next_sqe() != nullptr);
    CHECK(kernel.taken_user_data() == numbers(0, 4));
  });
}

TEST_CASE("SQPOLL: waiting for room wakes a sleeping thread, and that may be all it takes") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    kernel.sq_thread_sleeps();
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(add(ring, i));
    CHECK(ring.wait_for_sq_space() == 0);
    CHECK(kernel.enters() == 1);
    CHECK((kernel.last_call().flags & IORING_ENTER_SQ_WAKEUP) != 0);
    CHECK(ring.sq_space() == 4);
    CHECK(ring.wait_for_sq_space() == 0);  // there is room: no call
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE("SQPOLL: waiting for room does not believe a call that came back early") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(add(ring, i));
    kernel.fail(CallKind::enter, 1, 0);  // what it says after a signal
    kernel.fail(CallKind::enter, 2, -EINTR);
    CHECK(ring.wait_for_sq_space() == 0);
    CHECK(kernel.enters() == 3);
    CHECK(ring.sq_space() == 4);
  });
}

TEST_CASE("SQPOLL: waiting for room passes errors on, from the wake-up and from the wait") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(add(ring, i));
    kernel.fail(CallKind::enter, 1, -EOWNERDEAD);
    CHECK(ring.wait_for_sq_space() == -EOWNERDEAD);
    CHECK((kernel.last_call().flags & IORING_ENTER_SQ_WAIT) != 0);
    kernel.sq_thread_sleeps();
    kernel.fail(CallKind::enter, 2, -EOWNERDEAD);
    CHECK(ring.wait_for_sq_space() == -EOWNERDEAD);
    CHECK((kernel.last_call().flags & IORING_ENTER_SQ_WAKEUP) != 0);
    CHECK(ring.unsubmitted() == 4);
    CHECK(ring.wait_for_sq_space() == 0);
    CHECK(kernel.taken_user_data() == numbers(0, 4));
  });
}

TEST_CASE(
    "SQPOLL: a signal does not keep the thread asleep; an error of the wake-up is returned, the SQEs stay") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    kernel.sq_thread_sleeps();
    REQUIRE(add(ring, 1));
    kernel.fail(CallKind::enter, 1, -EINTR);
    kernel.fail(CallKind::enter, 2, -EOWNERDEAD);
    CHECK(ring.submit() == -EOWNERDEAD);
    CHECK(ring.unsubmitted() == 1);
    CHECK(ring.submit() == 0);  // published before; the thread is awake now
    CHECK(kernel.enters() == 3);
    CHECK(kernel.taken_user_data() == List{1});
  });
}

TEST_CASE("SQPOLL: a wait wakes the thread in the same call") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    kernel.sq_thread_sleeps();
    REQUIRE(add(ring, 1));
    REQUIRE(add(ring, 2));
    const uring::Waited waited = ring.submit_and_wait(2, 1h);
    CHECK(waited.submitted == 2);
    CHECK(waited.ready == 2);
    CHECK(waited.error == 0);
    CHECK(kernel.enters() == 1);
    CHECK((kernel.last_call().flags & IORING_ENTER_SQ_WAKEUP) != 0);
    CHECK((kernel.last_call().flags & IORING_ENTER_GETEVENTS) != 0);
    CHECK(kernel.last_call().to_submit == 0);
    CHECK(kernel.last_call().min_complete == 2);
  });
}

TEST_CASE("SQPOLL: with the thread awake a wait only waits") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    REQUIRE(add(ring, 1));
    kernel.on_sleep = [&] {
      kernel.sq_thread_runs();
      return Wake::look_again;
    };
    const uring::Waited waited = ring.submit_and_wait(1);
    CHECK(waited.submitted == 1);
    CHECK(waited.ready == 1);
    CHECK(kernel.enters() == 1);
    CHECK((kernel.last_call().flags & IORING_ENTER_SQ_WAKEUP) == 0);
    CHECK(ring.counters().sqes == 1);
  });
}

TEST_CASE("SQPOLL: with enough ready, a wait publishes and makes a call only to wake") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    REQUIRE(add(ring, 1));
    REQUIRE(ring.submit() == 1);
    kernel.sq_thread_runs();
    REQUIRE(add(ring, 2));
    CHECK(ring.submit_and_wait(1).submitted == 1);
    CHECK(kernel.enters() == 0);
    kernel.sq_thread_sleeps();
    CHECK(ring.submit_and_wait(1).ready == 2);
    CHECK(kernel.enters() == 1);
    CHECK(kernel.last_call().min_complete == 0);
    CHECK(mock::harvest(ring) == List{1, 2});
  });
}

TEST_CASE("SQPOLL: a thread that takes its time to get up is called once per wait, not in a loop") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    kernel.post(1, 0);
    kernel.sq_thread_sleeps();
    kernel.sq_thread_is_slow = true;
    REQUIRE(add(ring, 2));
    const uring::Waited waited = ring.submit_and_wait(1);
    CHECK(waited.submitted == 1);
    CHECK(waited.ready == 1);
    CHECK(kernel.enters() == 1);
    CHECK((kernel.last_call().flags & IORING_ENTER_SQ_WAKEUP) != 0);
    CHECK(ring.unsubmitted() == 1);
    kernel.sq_thread_runs();
    CHECK(kernel.taken_user_data() == List{2});
  });
}

TEST_CASE("SQPOLL: collecting ends with min_wait, whether or not the thread has taken everything") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4}, kernel.seam());
    kernel.post(7, 0);
    REQUIRE(add(ring, 1));
    const uring::Waited waited = ring.submit_and_wait(4, uring::forever, 300us);
    CHECK(waited.submitted == 1);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    CHECK(ring.unsubmitted() == 1);
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE("SQPOLL: an overflowing CQ loses nothing") {
  in_every_world([](MockKernel& kernel) {
    SqpollRing ring({.entries = 4, .cq_entries = 4}, kernel.seam());
    for (std::uint64_t i = 0; i < 12; ++i) {
      REQUIRE(add(ring, i));
      REQUIRE(ring.submit() == 1);
      kernel.sq_thread_runs();
    }
    CHECK(mock::harvest_all(ring) == numbers(0, 12));
    CHECK(ring.counters().overflows == 2);
  });
}

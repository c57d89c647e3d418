// The event loop on the real kernel: one enter a turn, waiting, spinning, stopping by a signal.

#include "uring/loop.hpp"

#include <doctest/doctest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>
#include <vector>

#include "tests/support/skip.hpp"
#include "tests/support/sqe.hpp"
#include "uring/prep_control.hpp"

namespace {

using namespace std::chrono_literals;
using uring::Token;

TEST_CASE("one turn of the loop is one system call, however many operations its handlers prepared") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 32});
  uring::Loop loop(ring);
  for (std::uint64_t i = 0; i < 16; ++i) uring::prep::nop(tests::must(loop.next_sqe()), Token{i});
  int harvested =
      loop.run_once([&](const io_uring_cqe&) { uring::prep::nop(tests::must(loop.next_sqe()), Token{100}); });
  CHECK(harvested == 16);
  CHECK(loop.statistics().io_enter_calls == 1);
  harvested = loop.run_once([](const io_uring_cqe&) {});
  CHECK(harvested == 16);
  const uring::LoopStatistics statistics = loop.statistics();
  CHECK(statistics.io_enter_calls == 2);
  CHECK(statistics.batches_submitted == 2);
  CHECK(statistics.sqe_submitted == 32);
  CHECK(statistics.cqe_processed == 32);
  CHECK(statistics.cqes_per_enter == 16);
  CHECK(statistics.short_submits == 0);
  CHECK(statistics.overflows == 0);
}

TEST_CASE("handlers may ask for more SQEs than the SQ has: the loop submits in between and loses none") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4, .cq_entries = 256});
  uring::Loop loop(ring);
  uring::prep::nop(tests::must(loop.next_sqe()), Token{~std::uint64_t{0}});
  std::vector<int> seen(100, 0);
  const auto handler = [&](const io_uring_cqe& cqe) {
    if (cqe.user_data < seen.size()) {
      ++seen[cqe.user_data];
      return;
    }
    for (std::uint64_t i = 0; i < seen.size(); ++i) {
      uring::prep::nop(tests::must(loop.next_sqe()), Token{i});
    }
  };
  while (loop.run_once(handler, 100ms) > 0) {
  }
  CHECK(seen == std::vector<int>(100, 1));
}

TEST_CASE("a chain that does not fit behind what is prepared goes into the next submit, whole") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4});
  uring::Loop loop(ring);
  for (std::uint64_t i = 0; i < 3; ++i) uring::prep::nop(tests::must(loop.next_sqe()), Token{i});
  {
    auto chain = loop.batch(3);
    REQUIRE(chain);
    for (std::uint64_t i = 3; i < 6; ++i) {
      io_uring_sqe& sqe = tests::must(chain.next());
      uring::prep::nop(sqe, Token{i});
      if (i < 5) uring::prep::link(sqe);
    }
    chain.commit();
  }
  CHECK(ring.counters().batches == 1);  // the three before the chain
  CHECK(ring.unsubmitted() == 3);
  std::vector<std::uint64_t> order;
  while (order.size() < 6 &&
         loop.run_once([&](const io_uring_cqe& cqe) { order.push_back(cqe.user_data); }, 1s) > 0) {
  }
  // The order of the chain is promised, and no other.
  const auto chain =
      std::stable_partition(order.begin(), order.end(), [](std::uint64_t name) { return name < 3; });
  std::sort(order.begin(), chain);
  CHECK(order == std::vector<std::uint64_t>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("a turn without a completion ends at its time-out and says 0") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4});
  uring::Loop loop(ring);
  const auto start = std::chrono::steady_clock::now();
  CHECK(loop.run_once([](const io_uring_cqe&) {}, 20ms) == 0);
  CHECK(std::chrono::steady_clock::now() - start >= 20ms);
}

TEST_CASE("busy-waiting finds a completion that DEFER_TASKRUN holds back, and blocks when nothing comes") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4});
  uring::Loop loop(ring, {.busy_wait = 10s});
  const uring::FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
  std::uint64_t value = 0;
  uring::prep::read(tests::must(loop.next_sqe()), event.get(), &value, sizeof value, 0, Token{1});
  std::thread writer([&] {
    std::this_thread::sleep_for(30ms);
    const std::uint64_t one = 1;
    CHECK(::write(event.get(), &one, sizeof one) == sizeof one);
  });
  const auto start = std::chrono::steady_clock::now();
  const int harvested = loop.run_once([](const io_uring_cqe& cqe) { CHECK(cqe.res == 8); });
  writer.join();
  CHECK(harvested == 1);
  CHECK(std::chrono::steady_clock::now() - start <
        9s);  // the spin saw it; otherwise it would have lasted 10 s

  uring::Loop impatient(ring, {.busy_wait = 1000us});
  CHECK(impatient.run_once([](const io_uring_cqe&) {}, 10ms) == 0);
}

TEST_CASE("a loop that gathers wakes up once for completions that come apart") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4});
  SKIP_UNLESS((ring.features() & uring::abi::feat_min_timeout) != 0, "min-wait needs Linux 6.12");
  uring::Loop loop(ring, {.gather = 2s});
  const uring::FileDescriptor first(::eventfd(0, EFD_CLOEXEC));
  const uring::FileDescriptor second(::eventfd(0, EFD_CLOEXEC));
  std::uint64_t values[2] = {};
  uring::prep::read(tests::must(loop.next_sqe()), first.get(), &values[0], sizeof values[0], 0, Token{1});
  uring::prep::read(tests::must(loop.next_sqe()), second.get(), &values[1], sizeof values[1], 0, Token{2});
  std::thread writer([&] {
    const std::uint64_t one = 1;
    for (const int fd : {first.get(), second.get()}) {
      std::this_thread::sleep_for(20ms);
      CHECK(::write(fd, &one, sizeof one) == sizeof one);
    }
  });
  CHECK(loop.run_once([](const io_uring_cqe& cqe) { CHECK(cqe.res == 8); }) == 2);
  writer.join();
}

TEST_CASE("a signal arrives as a completion and stops the loop") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4});
  uring::Loop loop(ring);
  uring::SignalWatch watch({SIGUSR2});
  constexpr Token signal_token{42};
  watch.prepare(tests::must(loop.next_sqe()), signal_token);
  std::thread sender([] {
    std::this_thread::sleep_for(20ms);
    ::kill(::getpid(), SIGUSR2);
  });
  int signals = 0;
  const int result = loop.run([&](const io_uring_cqe& cqe) {
    REQUIRE(cqe.user_data == signal_token.bits);
    CHECK(cqe.res == static_cast<int>(sizeof(signalfd_siginfo)));
    CHECK(watch.signal() == SIGUSR2);
    ++signals;
    loop.stop();
  });
  sender.join();
  CHECK(result == 0);
  CHECK(signals == 1);
}

TEST_CASE("a signal watch that never fired is cancelled before it goes, and the signal mask is back") {
  SKIP_WITHOUT_IO_URING();
  sigset_t before;
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  {
    uring::Ring ring({.entries = 4});
    uring::Loop loop(ring);
    uring::SignalWatch watch({SIGUSR2});
    watch.prepare(tests::must(loop.next_sqe()), Token{1});
    uring::prep::async_cancel(tests::must(loop.next_sqe()), Token{1}, Token{2});
    int left = 2;
    while (left > 0) {
      REQUIRE(loop.run_once(
                  [&](const io_uring_cqe& cqe) {
                    CHECK(cqe.res == (cqe.user_data == 1 ? -ECANCELED : 0));
                    --left;
                  },
                  10s) > 0);
    }
  }
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  CHECK(sigismember(&before, SIGUSR2) == sigismember(&after, SIGUSR2));
}

TEST_CASE("the loop says which error ended it: a ring that was never enabled") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4, .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED});
  uring::Loop loop(ring);
  uring::prep::nop(tests::must(loop.next_sqe()), Token{1});
  CHECK(loop.run([](const io_uring_cqe&) {}) == -EBADFD);
  CHECK(ring.unsubmitted() == 1);
  CHECK(ring.enable() == 0);
  CHECK(loop.run_once([](const io_uring_cqe& cqe) { CHECK(cqe.user_data == 1); }, 1s) == 1);
}

TEST_CASE("the same loop runs on an SQPOLL ring") {
  SKIP_WITHOUT_IO_URING();
  uring::SqpollRing ring({.entries = 4, .cq_entries = 256, .sq_thread_idle_ms = 1});
  uring::SqpollLoop loop(ring);
  constexpr int total = 200;
  int done = 0;
  for (std::uint64_t i = 0; i < total; ++i) {
    uring::prep::nop(tests::must(loop.next_sqe()), Token{i});
  }
  while (done < total) REQUIRE(loop.run_once([&](const io_uring_cqe&) { ++done; }, 10s) > 0);
  CHECK(loop.statistics().sqe_submitted == total);
  CHECK(loop.statistics().cqe_processed == total);
}

}  // namespace

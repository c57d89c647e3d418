// The ring layer on the real kernel: submit_and_wait. The kernel's own answers to a wait are ambiguous (see
// kernel_facts_rings_test.cpp), so what counts here is what the layer makes of them: how many were sent, how
// many are ready, and whether the time ran out.
//
// Times have lower limits, which hold on any machine, and upper limits that are generous on purpose.

#include <doctest/doctest.h>

#include <string>

#include "tests/kernel/kernel_support.hpp"
#include "uring/loop.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"

namespace {

using namespace tests::kernel;
using uring::current_position;
using uring::Ring;
using uring::Token;
using uring::Waited;
namespace abi = uring::abi;
namespace prep = uring::prep;

/// One byte per name in first..last, pending until somebody writes to the other end.
struct PendingReads {
  SocketPair pipe{};
  std::array<char, 16> bytes{};

  void prepare(Ring& ring, std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t name = first; name <= last; ++name) {
      prep::read(next(ring), pipe.read_end.get(), &bytes.at(name), 1, current_position, Token{name});
    }
  }
};

/// How long `body` takes.
template <class Body>
Clock::duration time_of(Body body) {
  const auto start = Clock::now();
  body();
  return Clock::now() - start;
}

// ---- Enough -----------------------------------------------------------------------------------------------

TEST_CASE("a wait for four returns when four are ready, and not for the first") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  PendingReads reads;
  reads.prepare(ring, 1, 4);
  std::thread writer([&] {
    for (int i = 0; i < 4; ++i) {
      std::this_thread::sleep_for(2ms);
      reads.pipe.put(1);
    }
  });
  const Waited waited = ring.submit_and_wait(4, patience);
  writer.join();
  CHECK(waited.submitted == 4);
  CHECK(waited.ready == 4);
  CHECK(waited.error == 0);
  CHECK(text_of(sorted(harvest_all(ring))) == "1:1 2:1 3:1 4:1");
}

TEST_CASE("a wait without a time-out ends with the completion it waits for") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  PendingReads reads;
  reads.prepare(ring, 1, 1);
  const pid_t waiter = this_thread();
  std::thread writer([&] {
    wait_until_asleep(waiter);
    reads.pipe.put(1);
  });
  CHECK(ring.submit_and_wait(1).ready == 1);
  writer.join();
}

TEST_CASE("if enough completions are there and nothing is to be sent, a wait makes no system call") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  Ring ring({.entries = 4}, watched.kernel());
  for (std::uint64_t name = 1; name <= 3; ++name) prep::nop(next(ring), Token{name});
  REQUIRE(ring.submit() == 3);
  const unsigned before = watched.enters;
  CHECK(ring.submit_and_wait(2, patience).ready == 3);
  CHECK(ring.submit_and_wait(3).ready == 3);
  CHECK(watched.enters == before);
}

TEST_CASE("a wait for more than the CQ can hold is a wait for a full CQ") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 4});
  for (std::uint64_t name = 1; name <= 4; ++name) prep::nop(next(ring), Token{name});
  const Waited waited = ring.submit_and_wait(1000, patience);
  CHECK(waited.ready == 4);
  CHECK(waited.error == 0);
}

// ---- Not enough -------------------------------------------------------------------------------------------

TEST_CASE("a wait on an empty CQ ends with ETIME, after its time-out and not before") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  Waited waited;
  const auto time = time_of([&] { waited = ring.submit_and_wait(1, 30ms); });
  CHECK(waited.submitted == 0);
  CHECK(waited.ready == 0);
  CHECK(waited.error == -ETIME);
  CHECK(time >= 30ms);
  CHECK(time < 3s);
}

TEST_CASE("a wait that times out with too few completions says both: how many there are, and ETIME") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  PendingReads reads;
  reads.prepare(ring, 1, 3);
  REQUIRE(ring.submit() == 3);
  reads.pipe.put(2);
  Waited waited;
  const auto time = time_of([&] { waited = ring.submit_and_wait(3, 30ms); });
  CHECK(waited.ready == 2);
  CHECK(waited.error == -ETIME);
  CHECK(time >= 30ms);
  CHECK(harvest_all(ring).size() == 2);
  reads.pipe.put(1);
  CHECK(take(ring, 1).size() == 1);
}

TEST_CASE("SQEs count as submitted even if the wait behind them times out; both are one system call") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  Ring ring({.entries = 8}, watched.kernel());
  PendingReads reads;
  reads.prepare(ring, 1, 2);
  Waited waited;
  const auto time = time_of([&] { waited = ring.submit_and_wait(1, 30ms); });
  CHECK(waited.submitted == 2);
  CHECK(waited.ready == 0);
  CHECK(waited.error == -ETIME);
  CHECK(watched.enters == 1);  // so it cannot have waited twice
  CHECK(time >= 30ms);
  CHECK(time < 3s);
  CHECK(ring.unsubmitted() == 0);
  CHECK(ring.counters().sqes == 2);
  reads.pipe.put(2);
  CHECK(text_of(sorted(take(ring, 2))) == "1:1 2:1");
}

TEST_CASE("a time-out of centuries is a long one: it neither overflows nor spins") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  Ring ring({.entries = 4}, watched.kernel());
  PendingReads reads;
  for (const std::chrono::nanoseconds timeout :
       {uring::forever - 1ns, std::chrono::nanoseconds(24h * 365 * 200)}) {
    const unsigned before = watched.enters;
    reads.prepare(ring, 1, 1);
    std::thread writer([&] {
      std::this_thread::sleep_for(20ms);
      reads.pipe.put(1);
    });
    const Waited waited = ring.submit_and_wait(1, timeout);
    writer.join();
    CHECK(waited.error == 0);
    CHECK(take(ring, 1).size() == 1);
    CHECK(watched.enters == before + 1);
  }
}

// ---- Signals ----------------------------------------------------------------------------------------------

TEST_CASE("signals every few milliseconds neither end a wait nor stretch it") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  PendingReads reads;
  std::size_t pending = 0;
  for (const bool submits : {true, false}) {  // a call that submitted reports a count instead of the signal
    int signals = 0;
    for (int tries = 0; tries < 20 && signals == 0; ++tries) {  // the storm needs a CPU to blow
      if (submits) {
        reads.prepare(ring, 1, 1);
        ++pending;
      }
      const SignalStorm storm;  // goes on for two seconds if the wait does
      Waited waited;
      const auto time = time_of([&] { waited = ring.submit_and_wait(1, 100ms); });
      signals = storm.received();
      CHECK(waited.submitted == (submits ? 1 : 0));
      CHECK(waited.error == -ETIME);
      CHECK(time >= 100ms);
      CHECK(time < 1500ms);
    }
    CHECK(signals > 0);
  }
  reads.pipe.put(pending);
  CHECK(take(ring, pending).size() == pending);
}

TEST_CASE("a completion ends a wait in a storm of signals, time-out or not") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  PendingReads reads;
  for (const std::chrono::nanoseconds timeout : {patience, uring::forever}) {
    const SignalStorm storm;
    reads.prepare(ring, 1, 1);
    std::thread writer([&] {
      std::this_thread::sleep_for(20ms);
      reads.pipe.put(1);
    });
    const Waited waited = ring.submit_and_wait(1, timeout);
    writer.join();
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    CHECK(harvest_all(ring).size() == 1);
  }
}

// ---- No waiting at all ------------------------------------------------------------------------------------

TEST_CASE("a zero time-out is a poll: nothing is waited for, and it is no error if nothing is there") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  PendingReads reads;
  reads.prepare(ring, 1, 1);
  Waited waited = ring.submit_and_wait(1, 0ns);
  CHECK(waited.submitted == 1);
  CHECK(waited.ready == 0);
  CHECK(waited.error == 0);
  waited = ring.submit_and_wait(1, 0ns);
  CHECK(waited.ready == 0);
  CHECK(waited.error == 0);
}

TEST_CASE("a zero time-out, or a wait for none, lets the kernel post what it holds back") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 4});
  PendingReads reads;
  reads.prepare(ring, 1, 2);
  REQUIRE(ring.submit() == 2);
  reads.pipe.put(1);
  CHECK(ring.submit_and_wait(1, 0ns).ready == 1);
  CHECK(harvest_all(ring).size() == 1);
  reads.pipe.put(1);
  CHECK(ring.submit_and_wait(0).ready == 1);
  CHECK(harvest_all(ring).size() == 1);

  for (std::uint64_t name = 1; name <= 8; ++name) {
    if (ring.sq_space() == 0) REQUIRE(ring.submit() == 4);
    prep::nop(next(ring), Token{name});
  }
  REQUIRE(ring.submit() == 4);
  ring.harvest([](const io_uring_cqe&) {});
  CHECK(ring.ready() == 0);
  CHECK(ring.submit_and_wait(0).ready == 4);
}

// ---- Collecting -------------------------------------------------------------------------------------------

TEST_CASE("min_wait collects: when its time is over, one completion is enough") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  SKIP_UNLESS((ring.features() & abi::feat_min_timeout) != 0, "min_wait needs Linux 6.12");
  PendingReads reads;
  reads.prepare(ring, 1, 4);
  REQUIRE(ring.submit() == 4);
  reads.pipe.put(1);
  Waited waited;
  const auto time = time_of([&] { waited = ring.submit_and_wait(4, patience, 30ms); });
  CHECK(waited.ready == 1);
  CHECK(waited.error == 0);
  CHECK(time >= 30ms);
  CHECK(time < 3s);
  reads.pipe.put(3);
  CHECK(take(ring, 4).size() == 4);
}

TEST_CASE("min_wait ends early when as many are ready as were wanted") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  SKIP_UNLESS((ring.features() & abi::feat_min_timeout) != 0, "min_wait needs Linux 6.12");
  PendingReads reads;
  reads.prepare(ring, 1, 2);
  REQUIRE(ring.submit() == 2);
  reads.pipe.put(2);
  Waited waited;
  const auto time = time_of([&] { waited = ring.submit_and_wait(2, patience, 10s); });
  CHECK(waited.ready == 2);
  CHECK(time < 9s);
}

TEST_CASE("a min_wait that is longer than the time-out does not stretch it") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  SKIP_UNLESS((ring.features() & abi::feat_min_timeout) != 0, "min_wait needs Linux 6.12");
  for (const bool one_ready : {false, true}) {
    if (one_ready) prep::nop(next(ring), Token{1});
    Waited waited;
    const auto time = time_of([&] { waited = ring.submit_and_wait(4, 30ms, 5s); });
    CHECK(waited.ready == (one_ready ? 1 : 0));
    CHECK(waited.error == (one_ready ? 0 : -ETIME));
    CHECK(time >= 30ms);
    CHECK(time < 3s);
  }
}

TEST_CASE("a loop that gathers wakes up once for completions that come one after the other") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 4});
  SKIP_UNLESS((ring.features() & abi::feat_min_timeout) != 0, "min_wait needs Linux 6.12");
  uring::Loop loop(ring, {.gather = 10s});
  PendingReads reads;
  reads.prepare(ring, 1, 4);
  std::thread writer([&] {
    for (int i = 0; i < 4; ++i) {
      std::this_thread::sleep_for(2ms);
      reads.pipe.put(1);
    }
  });
  CHECK(loop.run_once([](const io_uring_cqe&) {}, patience) == 4);
  writer.join();
  CHECK(loop.statistics().io_enter_calls == 1);
}

TEST_CASE("a min_wait in which nothing came goes on until the first completion, or the time-out") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  SKIP_UNLESS((ring.features() & abi::feat_min_timeout) != 0, "min_wait needs Linux 6.12");
  PendingReads reads;
  reads.prepare(ring, 1, 4);
  REQUIRE(ring.submit() == 4);
  for (const std::chrono::nanoseconds timeout : {patience, uring::forever}) {
    std::thread writer([&] {
      std::this_thread::sleep_for(30ms);
      reads.pipe.put(1);
    });
    const Waited waited = ring.submit_and_wait(4, timeout, 5ms);
    writer.join();
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    CHECK(harvest_all(ring).size() == 1);
  }
  const Waited waited = ring.submit_and_wait(4, 30ms, 5ms);
  CHECK(waited.ready == 0);
  CHECK(waited.error == -ETIME);
  reads.pipe.put(2);
  CHECK(take(ring, 2).size() == 2);
}

}  // namespace

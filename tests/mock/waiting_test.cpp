// submit_and_wait: what it asks the kernel, and what it makes of answers that never say how many completions
// there are.

#include <doctest/doctest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "tests/mock/worlds.hpp"
#include "uring/ring.hpp"

namespace {

using namespace std::chrono_literals;
using mock::add;
using mock::CallKind;
using mock::in_every_world;
using mock::malformed;
using mock::MockKernel;
using mock::numbers;
using mock::pending;
using mock::Wake;
using uring::Ring;
using uring::Waited;
using List = std::vector<std::uint64_t>;

std::vector<mock::Call> enters_of(const MockKernel& kernel) {
  std::vector<mock::Call> enters;
  for (const mock::Call& call : kernel.calls()) {
    if (call.kind == CallKind::enter) enters.push_back(call);
  }
  return enters;
}

// A sleep in which one operation completes each time.
auto completing(MockKernel& kernel, std::uint64_t first) {
  return [&kernel, next = first]() mutable {
    kernel.post(next++, 0);
    return Wake::look_again;
  };
}

}  // namespace

TEST_CASE("a wait returns when what was wanted is there, not when something is") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 0, pending));
    kernel.on_sleep = completing(kernel, 0);
    const Waited waited = ring.submit_and_wait(5);
    CHECK(waited.submitted == 1);
    CHECK(waited.ready == 5);
    CHECK(waited.error == 0);
    CHECK(kernel.enters() == 1);
    CHECK(kernel.last_call().to_submit == 1);
    CHECK(kernel.last_call().min_complete == 5);
    CHECK(mock::harvest(ring) == numbers(0, 5));
  });
}

TEST_CASE("a wait with nothing to submit and enough ready makes no system call") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(add(ring, i));
    REQUIRE(ring.submit() == 3);
    for (unsigned want = 0; want <= 3; ++want) {
      const Waited waited = ring.submit_and_wait(want, 1h);
      CHECK(waited.submitted == 0);
      CHECK(waited.ready == 3);
      CHECK(waited.error == 0);
    }
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE("with enough ready, what was prepared is still submitted, and nobody waits for its completions") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1));
    REQUIRE(ring.submit() == 1);
    REQUIRE(add(ring, 2, pending));
    const Waited waited = ring.submit_and_wait(1, 1h);
    CHECK(waited.submitted == 1);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    CHECK(kernel.last_call().min_complete == 0);
    CHECK_FALSE(kernel.last_call().timed);
  });
}

TEST_CASE("the kernel does not wait behind a short submit, so the wait goes on with the rest") {
  in_every_world(mock::linux_5_11, [](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 0));
    REQUIRE(add(ring, 1, malformed));
    REQUIRE(add(ring, 2));
    const Waited waited = ring.submit_and_wait(3);
    CHECK(waited.submitted == 3);
    CHECK(waited.ready == 3);
    CHECK(waited.error == 0);
    const auto enters = enters_of(kernel);
    REQUIRE(enters.size() == 2);
    CHECK(enters[0].result == 2);
    CHECK(enters[1].to_submit == 1);
    CHECK(enters[1].min_complete == 3);
    CHECK(mock::harvest(ring) == List{0, 1, 2});
  });
}

TEST_CASE("a short submit goes on even when enough completions are there already") {
  in_every_world(mock::linux_5_11, [](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (std::uint64_t i = 0; i < 6; ++i) REQUIRE(add(ring, i, malformed));
    const Waited waited = ring.submit_and_wait(1);
    CHECK(waited.submitted == 6);
    CHECK(waited.ready == 6);
    CHECK(ring.unsubmitted() == 0);
    CHECK(kernel.enters() == 6);
  });
}

TEST_CASE("submitting nothing of what was offered is not waited out: it is the caller's to decide") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1));
    kernel.fail(CallKind::enter, 1, 0);
    const Waited waited = ring.submit_and_wait(1);
    CHECK(waited.submitted == 0);
    CHECK(waited.ready == 0);
    CHECK(waited.error == 0);
    CHECK(ring.unsubmitted() == 1);
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE("want more than the CQ holds, and you wait for a full CQ") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 4}, kernel.seam());
    REQUIRE(add(ring, 0, pending));
    kernel.on_sleep = completing(kernel, 0);
    const Waited waited = ring.submit_and_wait(1000);
    CHECK(kernel.last_call().min_complete == 4);
    CHECK(waited.ready == 4);
    CHECK(waited.error == 0);
    CHECK(ring.submit_and_wait(1000).ready == 4);  // satisfied: no call
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE("a wait that is met from the backlog needs one call") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 4}, kernel.seam());
    for (std::uint64_t i = 0; i < 7; ++i) {
      REQUIRE(add(ring, i));
      REQUIRE(ring.submit() == 1);
    }
    CHECK(mock::harvest(ring) == numbers(0, 4));
    const Waited waited = ring.submit_and_wait(3);
    CHECK(waited.ready == 3);
    CHECK(waited.error == 0);
    CHECK(ring.counters().overflows == 1);
    CHECK(kernel.enters() == 8);
    CHECK(mock::harvest(ring) == numbers(4, 3));
  });
}

// --- Time-outs ---------------------------------------------------------------------------------------------

TEST_CASE("a wait for ever passes no argument; a wait with a time-out passes exactly that") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1));
    ring.submit_and_wait(1);
    CHECK((kernel.last_call().flags & IORING_ENTER_EXT_ARG) == 0);
    mock::harvest(ring);
    for (const std::chrono::nanoseconds timeout :
         {std::chrono::nanoseconds(1'999'999'999), 3'600'000'000'001ns, std::chrono::nanoseconds(1h),
          std::chrono::nanoseconds(24h * 365 * 100)}) {
      REQUIRE(add(ring, 1));
      CHECK(ring.submit_and_wait(1, timeout).error == 0);
      CHECK((kernel.last_call().flags & IORING_ENTER_EXT_ARG) != 0);
      CHECK(kernel.last_call().timed);
      CHECK(kernel.last_call().timeout == timeout);
      CHECK(kernel.last_call().min_wait == 0us);
      mock::harvest(ring);
    }
    // More than the clock can count to: cut to what it can, and a valid timespec.
    REQUIRE(add(ring, 1));
    CHECK(ring.submit_and_wait(1, std::chrono::nanoseconds::max() - 1ns).error == 0);
    CHECK(kernel.last_call().timeout > 24h * 365 * 100);
  });
}

TEST_CASE("nothing came in time: ETIME, and nothing was submitted") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    const Waited waited = ring.submit_and_wait(1, 1ms);
    CHECK(waited.submitted == 0);
    CHECK(waited.ready == 0);
    CHECK(waited.error == -ETIME);
    CHECK(kernel.last_call().result == -ETIME);
  });
}

TEST_CASE("a wait that times out still reports how many SQEs it submitted") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1, pending));
    REQUIRE(add(ring, 2, pending));
    kernel.on_sleep = [] {
      std::this_thread::sleep_for(2ms);
      return Wake::timeout;
    };
    const Waited waited = ring.submit_and_wait(1, 1ms);
    CHECK(waited.submitted == 2);
    CHECK(waited.ready == 0);
    CHECK(waited.error == -ETIME);
    CHECK(kernel.enters() == 1);
    CHECK(kernel.last_call().result == 2);  // the kernel's answer hides the time-out
  });
}

TEST_CASE("some came in time, but fewer than wanted: ETIME, and they are there") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    kernel.post(7, 0);
    kernel.on_sleep = [] {
      std::this_thread::sleep_for(2ms);
      return Wake::timeout;
    };
    const Waited waited = ring.submit_and_wait(2, 1ms);
    CHECK(kernel.last_call().result == 0);  // the kernel's answer to "something is there" is no error
    CHECK(waited.ready == 1);
    CHECK(waited.error == -ETIME);
    CHECK(mock::harvest(ring) == List{7});
  });
}

TEST_CASE("after a kernel that gave up too early the wait goes on for what is left of the time") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1, pending));
    int sleeps = 0;
    kernel.on_sleep = [&] {
      if (++sleeps == 1) return Wake::timeout;  // at once, and hidden by the SQE count
      kernel.complete(1, 0);
      return Wake::look_again;
    };
    const Waited waited = ring.submit_and_wait(1, 1h);
    CHECK(waited.submitted == 1);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    CHECK(kernel.enters() == 2);
  });
}

TEST_CASE("ETIME is not reported when enough completions came just then") {
  // The kernel looked, found nothing and returned -ETIME; the completions came before we looked.
  MockKernel kernel;
  uring::Kernel seam = kernel.seam();
  seam.enter = [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                  const uring::abi::getevents_arg* argument) {
    MockKernel& inner = *static_cast<MockKernel*>(self);
    const int result = inner.seam().enter(self, fd, to_submit, min_complete, flags, argument);
    inner.post(1, 0);
    return result;
  };
  Ring ring({.entries = 8, .flags = IORING_SETUP_SUBMIT_ALL}, seam);
  Waited waited = ring.submit_and_wait(1, 1ms);
  CHECK(kernel.last_call().result == -ETIME);
  CHECK(waited.error == 0);
  CHECK(waited.ready == 1);
  mock::harvest(ring);
  waited = ring.submit_and_wait(2, 1ms);
  CHECK(waited.error == -ETIME);
  CHECK(waited.ready == 1);
}

TEST_CASE("a zero or negative time-out never waits") {
  for (const std::chrono::nanoseconds timeout : {0ns, -1ns, std::chrono::nanoseconds::min()}) {
    in_every_world([&](MockKernel& kernel) {
      Ring ring({.entries = 8}, kernel.seam());
      bool slept = false;
      kernel.on_sleep = [&] {
        slept = true;
        return Wake::never;
      };
      CHECK(ring.submit_and_wait(4, timeout).error == 0);
      CHECK(kernel.enters() == 0);
      REQUIRE(add(ring, 1, pending));
      const Waited waited = ring.submit_and_wait(4, timeout);
      CHECK(waited.submitted == 1);
      CHECK(waited.ready == 0);
      CHECK(waited.error == 0);
      CHECK(kernel.enters() == 1);
      CHECK(kernel.last_call().min_complete == 0);
      CHECK_FALSE(slept);
    });
  }
}

TEST_CASE("without waiting, the kernel still posts what it holds back") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 4}, kernel.seam());
    kernel.post(1, 0);  // task work, under DEFER_TASKRUN
    CHECK(ring.ready() == 0);
    CHECK(ring.submit_and_wait(1, 0ns).ready == 1);
    CHECK(kernel.enters() == 1);
    CHECK(ring.submit_and_wait(0).ready == 1);  // something is there: no reason to ask for more
    CHECK(kernel.enters() == 1);
    CHECK(mock::harvest(ring) == List{1});
    for (std::uint64_t i = 0; i < 6; ++i) {
      REQUIRE(add(ring, i));
      REQUIRE(ring.submit() == 1);
    }
    CHECK(mock::harvest(ring) == numbers(0, 4));
    CHECK(ring.submit_and_wait(0).ready == 2);  // the backlog
    CHECK(mock::harvest(ring) == numbers(4, 2));
    const unsigned before = kernel.enters();
    CHECK(ring.submit_and_wait(0).ready == 0);  // nothing anywhere: no call
    CHECK(kernel.enters() == before);
  });
}

// --- Signals -----------------------------------------------------------------------------------------------

TEST_CASE("a signal does not end a wait, and the SQEs that it kept back go with the next call") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1));
    REQUIRE(add(ring, 2));
    kernel.fail(CallKind::enter, 1, -EINTR);
    kernel.fail(CallKind::enter, 2, -EINTR);
    const Waited waited = ring.submit_and_wait(2);
    CHECK(waited.submitted == 2);
    CHECK(waited.ready == 2);
    CHECK(waited.error == 0);
    CHECK(kernel.enters() == 3);
    CHECK(kernel.taken_user_data() == List{1, 2});
  });
}

TEST_CASE("a signal during the wait is hidden by the SQE count: the wait goes on without submitting again") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(add(ring, 1, pending));
    int sleeps = 0;
    kernel.on_sleep = [&] {
      if (++sleeps < 4) return Wake::signal;
      kernel.complete(1, 0);
      return Wake::look_again;
    };
    const Waited waited = ring.submit_and_wait(1);
    CHECK(waited.submitted == 1);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    const auto enters = enters_of(kernel);
    REQUIRE(enters.size() == 4);
    CHECK(enters[0].result == 1);
    CHECK(enters[1].result == -EINTR);
    CHECK(enters[1].to_submit == 0);
    CHECK(kernel.taken_user_data() == List{1});
  });
}

TEST_CASE("signals do not stretch a wait: each further call gets what is left of the time") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    kernel.on_sleep = [] {
      std::this_thread::sleep_for(5ms);
      return Wake::signal;
    };
    const auto started = std::chrono::steady_clock::now();
    const Waited waited = ring.submit_and_wait(1, 20ms);
    CHECK(std::chrono::steady_clock::now() - started >= 20ms);
    CHECK(waited.error == -ETIME);
    CHECK(waited.ready == 0);
    const auto enters = enters_of(kernel);
    REQUIRE(!enters.empty());
    CHECK(enters.size() <= 4);
    CHECK(enters[0].timeout == 20ms);
    for (std::size_t i = 1; i < enters.size(); ++i) {
      CHECK(enters[i].timed);
      CHECK(enters[i].timeout > 0ns);
      CHECK(enters[i].timeout <= enters[i - 1].timeout - 5ms);
    }
  });
}

// --- Errors ------------------------------------------------------------------------------------------------

TEST_CASE("an error comes with what was done before it") {
  for (const int error : {EAGAIN, EBUSY, ENXIO, EBADR}) {
    in_every_world(mock::linux_5_11, [&](MockKernel& kernel) {
      Ring ring({.entries = 8}, kernel.seam());
      REQUIRE(add(ring, 0));
      REQUIRE(add(ring, 1, malformed));
      REQUIRE(add(ring, 2));
      REQUIRE(add(ring, 3));
      kernel.fail(CallKind::enter, 2, -error);
      const Waited waited = ring.submit_and_wait(4);
      CHECK(waited.submitted == 2);
      CHECK(waited.ready == 2);
      CHECK(waited.error == -error);
      CHECK(ring.unsubmitted() == 2);
      const Waited again = ring.submit_and_wait(4);
      CHECK(again.submitted == 2);
      CHECK(again.ready == 4);
      CHECK(again.error == 0);
      CHECK(kernel.taken_user_data() == numbers(0, 4));
    });
  }
}

TEST_CASE(
    "a lost completion is EBADR even where the kernel hides it behind those that are there, and only once") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 4, .flags = IORING_SETUP_SUBMIT_ALL}, kernel.seam());
    kernel.memory_for_backlog(0);
    for (std::uint64_t i = 0; i < 6; ++i) kernel.post(i, 0);  // the last two are lost
    int handled = 0;
    ring.harvest([&](const io_uring_cqe&) { return ++handled < 3; });
    Waited waited = ring.submit_and_wait(2);  // one is there; the kernel will not sleep before it has said it
    CHECK(kernel.last_call().result == 0);
    CHECK(waited.error == -EBADR);
    CHECK(waited.ready == 1);
    CHECK(kernel.enters() == 1);
    CHECK(mock::harvest(ring) == List{3});
    kernel.on_sleep = completing(kernel, 10);
    waited = ring.submit_and_wait(1, 1h);  // the kernel's own report, now that the CQ is empty
    CHECK(waited.error == -EBADR);
    waited = ring.submit_and_wait(1, 1h);
    CHECK(waited.error == 0);
    CHECK(mock::harvest(ring) == List{10});
  });
}

TEST_CASE("another thread than the owner cannot wait: EEXIST, not a hang") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8, .register_ring_fd = false}, kernel.seam());
    std::thread([&] { CHECK(ring.submit_and_wait(1).error == -EEXIST); }).join();
  });
}

// --- min_wait: collect for a while, then be content with one -----------------------------------------------

TEST_CASE("min_wait is passed to a kernel that has it, in microseconds, with or without a time-out") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE((ring.features() & uring::abi::feat_min_timeout) != 0);
    kernel.post(1, 0);
    Waited waited = ring.submit_and_wait(8, uring::forever, 300us);
    CHECK(kernel.last_call().min_wait == 300us);
    // For ever must be said as a number here: without a time-out the kernel would give up when min_wait is
    // over.
    CHECK(kernel.last_call().timed);
    CHECK(kernel.last_call().timeout > 24h);
    CHECK((kernel.last_call().flags & IORING_ENTER_EXT_ARG) != 0);
    CHECK(kernel.last_call().min_complete == 8);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    waited = ring.submit_and_wait(8, 1h, 7ms);
    CHECK(kernel.last_call().min_wait == 7000us);
    CHECK(kernel.last_call().timeout == 1h);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    CHECK(kernel.enters() == 2);
  });
}

TEST_CASE("min_wait over and nothing there: the wait goes on for one completion") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    int sleeps = 0;
    kernel.on_sleep = [&] {
      if (++sleeps == 1) return Wake::min_wait_over;
      kernel.post(1, 0);
      return Wake::look_again;
    };
    const Waited waited = ring.submit_and_wait(8, uring::forever, 300us);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    CHECK(sleeps == 2);
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE(
    "a kernel without min_wait gets a wait for one: the first completion must not wait for the others") {
  in_every_world(mock::linux_6_6, [](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    kernel.on_sleep = completing(kernel, 1);
    const Waited waited = ring.submit_and_wait(8, 1h, 300us);
    CHECK(kernel.last_call().min_wait == 0us);
    CHECK(kernel.last_call().min_complete == 1);
    CHECK(kernel.last_call().timeout == 1h);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
  });
}

TEST_CASE("no min_wait, or a negative one, is none") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (const std::chrono::microseconds none : {0us, -1us}) {
      ring.submit_and_wait(1, 1ms, none);
      CHECK(kernel.last_call().min_wait == 0us);
      CHECK(kernel.last_call().timeout == 1ms);
    }
  });
}

TEST_CASE(
    "signals do not stretch a min_wait: each further call gets what is left, in the end a wait for one") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    kernel.on_sleep = [&] {
      if (kernel.last_call().min_wait == 0us) {
        kernel.post(1, 0);
        return Wake::look_again;
      }
      std::this_thread::sleep_for(5ms);
      return Wake::signal;
    };
    const Waited waited = ring.submit_and_wait(8, 1h, 12ms);
    CHECK(waited.ready == 1);
    CHECK(waited.error == 0);
    const auto enters = enters_of(kernel);
    REQUIRE(enters.size() >= 2);
    CHECK(enters.size() <= 4);
    CHECK(enters.front().min_wait == 12ms);
    for (std::size_t i = 1; i + 1 < enters.size(); ++i)
      CHECK(enters[i].min_wait <= enters[i - 1].min_wait - 4ms);
    CHECK(enters.back().min_wait == 0us);
    CHECK(enters.back().min_complete == 1);
  });
}

TEST_CASE("a min_wait beyond the time-out is cut to it") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    kernel.post(1, 0);
    ring.submit_and_wait(8, 5ms, 1s);
    CHECK(kernel.last_call().timeout == 5ms);
    CHECK(kernel.last_call().min_wait == 5ms);
  });
}

TEST_CASE("a min_wait of hours is a long one, not what is left of it in 32 bits") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    kernel.on_sleep = completing(kernel, 1);
    for (const std::chrono::microseconds hours : {2h, 24h * 365}) {
      CHECK(ring.submit_and_wait(2, uring::forever, hours).error == 0);
      CHECK(kernel.last_call().min_wait >= 1h);
      mock::harvest(ring);
    }
  });
}

TEST_CASE("collecting does not stop behind a short submit: the rest is sent first") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (std::uint64_t i = 0; i < 5; ++i) REQUIRE(add(ring, i));
    kernel.short_submit(1, 2);
    const Waited waited = ring.submit_and_wait(8, uring::forever, 300us);
    CHECK(waited.submitted == 5);
    CHECK(waited.ready == 5);
    CHECK(waited.error == 0);
    CHECK(ring.unsubmitted() == 0);
    CHECK(kernel.enters() == 2);
  });
}

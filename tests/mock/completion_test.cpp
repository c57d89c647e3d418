// From the kernel to the handler: every CQE once, in order, and the slots given back once, at the end.

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "tests/mock/worlds.hpp"
#include "uring/ring.hpp"

namespace {

using mock::add;
using mock::CallKind;
using mock::in_every_world;
using mock::MockKernel;
using mock::numbers;
using mock::pending;
using uring::Ring;
using List = std::vector<std::uint64_t>;

// Completions without task work, so that they show up in the CQ at once.
constexpr std::uint32_t plain_flags = IORING_SETUP_SUBMIT_ALL;

void post_numbers(MockKernel& kernel, std::uint64_t first, unsigned count) {
  for (unsigned i = 0; i < count; ++i) kernel.post(first + i, static_cast<int>(i));
}

}  // namespace

TEST_CASE("CQEs are harvested in the order in which they were posted, across the end of the array and 2^32") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 8, .flags = plain_flags}, kernel.seam());
    std::uint64_t next = 0;
    for (unsigned round = 0; round < 30; ++round) {
      const unsigned count = 1 + round % 8;
      post_numbers(kernel, next, count);
      CHECK(ring.ready() == count);
      CHECK(ring.pending());
      CHECK(mock::harvest(ring) == numbers(next, count));
      CHECK(ring.ready() == 0);
      CHECK_FALSE(ring.pending());
      next += count;
    }
    CHECK(ring.counters().cqes == next);
    CHECK(kernel.enters() == 0);
  });
}

TEST_CASE("a CQ that is full to the brim is not an overflow") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 8, .flags = plain_flags}, kernel.seam());
    for (int lap = 0; lap < 3; ++lap) {
      post_numbers(kernel, 0, 8);
      CHECK(ring.ready() == 8);
      CHECK(kernel.backlog() == 0);
      CHECK(mock::harvest(ring) == numbers(0, 8));
    }
    CHECK(kernel.enters() == 0);
    CHECK(ring.counters().overflows == 0);
  });
}

TEST_CASE("res and flags come with the user_data they belong to") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .flags = plain_flags}, kernel.seam());
    kernel.post(7, -ECANCELED, IORING_CQE_F_MORE | 5U << IORING_CQE_BUFFER_SHIFT);
    kernel.post(8, 4096, 0);
    std::vector<MockKernel::Cqe> seen;
    CHECK(ring.harvest([&](const io_uring_cqe& cqe) {
      seen.push_back({cqe.user_data, cqe.res, cqe.flags});
    }) == 2);
    CHECK(seen == kernel.posted());
  });
}

TEST_CASE("an empty harvest with no hint from the kernel makes no system call") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    for (int i = 0; i < 10; ++i) CHECK(mock::harvest(ring).empty());
    CHECK(kernel.enters() == 0);
  });
}

TEST_CASE("the CQ head is published once per harvest, behind the last handler") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 8, .flags = plain_flags}, kernel.seam());
    post_numbers(kernel, 0, 8);
    const std::uint32_t before = kernel.memory().cq_head();
    int handled = 0;
    ring.harvest([&](const io_uring_cqe&) {
      CHECK(kernel.memory().cq_head() == before);
      ++handled;
    });
    CHECK(handled == 8);
    CHECK(kernel.memory().cq_head() == before + 8);
  });
}

TEST_CASE("a harvest handles what was visible when it began: what arrives meanwhile waits for the next") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 8, .flags = plain_flags}, kernel.seam());
    post_numbers(kernel, 0, 3);
    std::uint64_t next = 100;
    List seen;
    CHECK(ring.harvest([&](const io_uring_cqe& cqe) {
      seen.push_back(cqe.user_data);
      kernel.post(next++, 0);  // from outside
      REQUIRE(add(ring, next++));
      CHECK(ring.submit() == 1);  // and by our own doing; both have room in the CQ only at first
    }) == 3);
    CHECK(seen == numbers(0, 3));
    CHECK(mock::harvest_all(ring) == numbers(100, 6));
  });
}

// --- Leaving early -----------------------------------------------------------------------------------------

TEST_CASE(
    "a handler that returns false stops behind its CQE: K of N leaves N - K, in order, across the wrap") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 8, .flags = plain_flags}, kernel.seam());
    std::uint64_t next = 0;
    std::uint64_t expected = 0;
    for (int round = 0; round < 20; ++round) {
      for (; next < expected + 8; ++next) kernel.post(next, 0);
      const unsigned stop_after = 1 + static_cast<unsigned>(round) % 5;
      unsigned handled = 0;
      const int result = ring.harvest([&](const io_uring_cqe& cqe) {
        CHECK(cqe.user_data == expected++);
        return ++handled < stop_after;
      });
      CHECK(result == static_cast<int>(stop_after));
      CHECK(ring.ready() == 8 - stop_after);
      CHECK(kernel.memory().cq_head() == kernel.memory().cq_tail() - (8 - stop_after));
    }
    CHECK(mock::harvest(ring) == numbers(expected, 8 - (1 + 19 % 5)));
  });
}

TEST_CASE("a handler that always returns true gets all") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .flags = plain_flags}, kernel.seam());
    post_numbers(kernel, 0, 5);
    CHECK(ring.harvest([](const io_uring_cqe&) { return true; }) == 5);
    CHECK(ring.ready() == 0);
  });
}

TEST_CASE("a CQE whose handler throws is consumed, the rest stay, and the ring goes on") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 8, .flags = plain_flags}, kernel.seam());
    for (int lap = 0; lap < 3; ++lap) {
      post_numbers(kernel, 0, 8);
      List seen;
      CHECK_THROWS_AS(ring.harvest([&](const io_uring_cqe& cqe) {
        seen.push_back(cqe.user_data);
        if (cqe.user_data == 2) throw std::runtime_error("enough");
      }),
                      std::runtime_error);
      CHECK(seen == List{0, 1, 2});
      CHECK(ring.ready() == 5);
      CHECK(kernel.memory().cq_tail() - kernel.memory().cq_head() == 5);
      CHECK(mock::harvest(ring) == numbers(3, 5));
    }
    CHECK(ring.counters().cqes == 24);
  });
}

// --- Handlers that work with the ring ----------------------------------------------------------------------

TEST_CASE("a handler may prepare SQEs, and the loop submits them") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    List seen;
    REQUIRE(add(ring, 0));
    for (int round = 0; round < 20; ++round) {
      CHECK(ring.submit() == 1);
      CHECK(ring.harvest([&](const io_uring_cqe& cqe) {
        seen.push_back(cqe.user_data);
        CHECK(add(ring, cqe.user_data + 1));
      }) == 1);
    }
    CHECK(seen == numbers(0, 20));
    CHECK(kernel.taken_user_data() == numbers(0, 20));
  });
}

TEST_CASE("a handler may submit when the SQ is full, even into a CQ that is not given back yet") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 2, .cq_entries = 4}, kernel.seam());
    std::uint64_t next = 0;
    List seen;
    for (; next < 2; ++next) REQUIRE(add(ring, next));
    REQUIRE(ring.submit() == 2);
    for (int round = 0; seen.size() < 60; ++round) {
      REQUIRE(round < 1000);
      const int handled = ring.harvest([&](const io_uring_cqe& cqe) {
        seen.push_back(cqe.user_data);
        for (int two = 0; two < 2 && next < 60; ++two) {
          if (!add(ring, next)) {
            CHECK(ring.submit() == 2);
            REQUIRE(add(ring, next));
          }
          ++next;
        }
      });
      REQUIRE(handled >= 0);
      REQUIRE(ring.submit() >= 0);
    }
    CHECK(seen == numbers(0, 60));
    CHECK(kernel.taken_user_data() == numbers(0, 60));
  });
}

TEST_CASE("a handler may open a batch of its own") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .flags = plain_flags}, kernel.seam());
    post_numbers(kernel, 0, 2);
    ring.harvest([&](const io_uring_cqe& cqe) {
      auto batch = ring.batch(2);
      REQUIRE(static_cast<bool>(batch));
      REQUIRE(add(batch, 10 + cqe.user_data));
      batch.commit();
      REQUIRE(add(batch, 666));
    });
    CHECK(ring.submit() == 2);
    CHECK(kernel.taken_user_data() == List{10, 11});
  });
}

// --- What the kernel holds back ----------------------------------------------------------------------------

TEST_CASE(
    "three times as many completions as the CQ has room for all arrive, in order, by harvesting alone") {
  for (const mock::Version& version : {mock::linux_6_18, mock::linux_5_19, mock::linux_5_11}) {
    in_every_world(version, [](MockKernel& kernel) {
      Ring ring({.entries = 4, .cq_entries = 4}, kernel.seam());
      for (std::uint64_t i = 0; i < 12; ++i) {
        REQUIRE(add(ring, i));
        REQUIRE(ring.submit() == 1);
      }
      CHECK(ring.ready() == 4);
      CHECK(kernel.backlog() == 8);
      CHECK(ring.snapshot().cq_overflow == 0);  // nothing is lost: it is in the kernel's list
      const unsigned before = kernel.enters();
      CHECK(mock::harvest(ring) == numbers(0, 4));
      CHECK(ring.ready() == 0);
      CHECK(ring.pending());  // nothing to see, but the flag says so
      CHECK(kernel.enters() == before);
      CHECK(mock::harvest(ring) == numbers(4, 4));
      CHECK(kernel.enters() == before + 1);
      CHECK(mock::harvest(ring) == numbers(8, 4));
      CHECK(kernel.enters() == before + 2);
      CHECK_FALSE(ring.pending());
      CHECK(mock::harvest(ring).empty());
      CHECK(kernel.enters() == before + 2);
      CHECK(ring.counters().overflows == 2);
    });
  }
}

TEST_CASE("completions that come while there is a backlog go behind it") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 4, .flags = plain_flags}, kernel.seam());
    post_numbers(kernel, 0, 6);
    CHECK(mock::harvest(ring) == numbers(0, 4));
    post_numbers(kernel, 6, 3);  // there is room now, and two before them in the list
    CHECK(mock::harvest_all(ring) == numbers(4, 5));
  });
}

TEST_CASE("under DEFER_TASKRUN an empty-looking CQ has completions behind it, and a harvest finds them") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    REQUIRE(add(ring, 1, pending));
    REQUIRE(ring.submit() == 1);
    CHECK_FALSE(ring.pending());
    REQUIRE(kernel.complete(1, 99));
    CHECK(ring.ready() == 0);  // the tail alone never moves
    CHECK(ring.pending());
    const unsigned before = kernel.enters();
    int res = 0;
    CHECK(ring.harvest([&](const io_uring_cqe& cqe) { res = cqe.res; }) == 1);
    CHECK(res == 99);
    CHECK(kernel.enters() == before + 1);
    const mock::Call& fetch = kernel.last_call();
    CHECK(fetch.to_submit == 0);
    CHECK(fetch.min_complete == 0);  // never blocks
    CHECK((fetch.flags & IORING_ENTER_GETEVENTS) != 0);
    CHECK_FALSE(ring.pending());
    CHECK(ring.counters().overflows == 0);
  });
}

TEST_CASE("COOP_TASKRUN holds completions back too, and says so") {
  in_every_world(mock::linux_6_0, [](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    REQUIRE((ring.setup_flags() & IORING_SETUP_COOP_TASKRUN) != 0);
    kernel.post(5, 0);
    CHECK(ring.ready() == 0);
    CHECK(ring.pending());
    CHECK(mock::harvest(ring) == List{5});
  });
}

TEST_CASE("the kernel runs some of much task work per call: harvests go on until all is there") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 64}, kernel.seam());
    post_numbers(kernel, 0, 50);
    CHECK(mock::harvest(ring) == numbers(0, 20));
    CHECK(ring.pending());
    CHECK(mock::harvest(ring) == numbers(20, 20));
    CHECK(mock::harvest(ring) == numbers(40, 10));
    CHECK_FALSE(ring.pending());
  });
}

TEST_CASE("a CQ that is not empty is harvested first, without a call, whatever the flags say") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    REQUIRE(add(ring, 1));
    REQUIRE(ring.submit() == 1);
    kernel.post(2, 0);
    CHECK(mock::harvest(ring) == List{1});
    CHECK(kernel.enters() == 1);
    CHECK(mock::harvest(ring) == List{2});
    CHECK(kernel.enters() == 2);
  });
}

TEST_CASE("fetching what is held back may fail: the error is returned, and the next harvest tries again") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    kernel.post(1, 0);
    int handled = 0;
    for (const int error : {EEXIST, EBUSY, EAGAIN}) {
      kernel.fail_next(CallKind::enter, -error);
      CHECK(ring.harvest([&](const io_uring_cqe&) { ++handled; }) == -error);
    }
    CHECK(handled == 0);
    CHECK(mock::harvest(ring) == List{1});
  });
}

TEST_CASE("a signal does not keep a harvest from what is held back") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    kernel.post(1, 0);
    kernel.fail(CallKind::enter, 1, -EINTR);
    kernel.fail(CallKind::enter, 2, -EINTR);
    CHECK(mock::harvest(ring) == List{1});
    CHECK(kernel.enters() == 3);
  });
}

TEST_CASE("a hint that comes to nothing is an empty harvest") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    kernel.memory().set_sq_flag(IORING_SQ_TASKRUN);
    CHECK(mock::harvest(ring).empty());
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE("completions for which the kernel had no memory are lost, counted, and reported once as EBADR") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4, .cq_entries = 4, .flags = plain_flags}, kernel.seam());
    kernel.memory_for_backlog(2);
    post_numbers(kernel, 0, 9);
    CHECK(mock::harvest_all(ring) == numbers(0, 6));
    CHECK(ring.snapshot().cq_overflow == 3);
    kernel.on_sleep = [] { return mock::Wake::look_again; };
    CHECK(ring.submit_and_wait(1).error == -EBADR);
    kernel.on_sleep = [&] {
      kernel.post(9, 0);
      return mock::Wake::look_again;
    };
    const uring::Waited waited = ring.submit_and_wait(1);
    CHECK(waited.error == 0);
    CHECK(waited.ready == 1);
  });
}

// --- What must not be done: death by assert ----------------------------------------------------------------

#ifndef NDEBUG
namespace {

// Runs `wrong` in a child. True if it died of an assert.
template <class Wrong>
bool dies(Wrong wrong) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    std::signal(SIGABRT, SIG_DFL);
    if (std::freopen("/dev/null", "w", stderr) == nullptr) ::_exit(2);
    wrong();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

}  // namespace

TEST_CASE("to harvest or to wait inside a handler is a mistake, caught by an assert") {
  MockKernel kernel;
  Ring ring({.entries = 4, .flags = plain_flags}, kernel.seam());
  kernel.post(1, 0);
  kernel.post(2, 0);
  CHECK(dies([&] { ring.harvest([&](const io_uring_cqe&) { ring.harvest([](const io_uring_cqe&) {}); }); }));
  CHECK(dies([&] { ring.harvest([&](const io_uring_cqe&) { ring.submit_and_wait(0); }); }));
  CHECK_FALSE(dies([&] {
    ring.harvest([&](const io_uring_cqe&) { add(ring, 3); });
    ring.submit();
    ring.harvest([](const io_uring_cqe&) {});
  }));
}

TEST_CASE("a handler that threw has ended its harvest: the next one is allowed") {
  MockKernel kernel;
  Ring ring({.entries = 4, .flags = plain_flags}, kernel.seam());
  kernel.post(1, 0);
  CHECK_THROWS(ring.harvest([](const io_uring_cqe&) { throw 1; }));
  CHECK_FALSE(dies([&] { ring.harvest([](const io_uring_cqe&) {}); }));
}

TEST_CASE("to prepare beside an open batch is a mistake, caught by an assert") {
  MockKernel kernel;
  Ring ring({.entries = 4}, kernel.seam());
  {
    auto batch = ring.batch(2);
    REQUIRE(static_cast<bool>(batch));
    CHECK(dies([&] { ring.next_sqe(); }));
    CHECK(dies([&] { ring.batch(1); }));
  }
  CHECK_FALSE(dies([&] { ring.next_sqe(); }));
  CHECK(dies([&] { ring.batch(5); }));  // more than the ring will ever have
}

TEST_CASE("to enter a registered ring on another thread is a mistake, caught by an assert") {
  MockKernel kernel;
  Ring ring({.entries = 4}, kernel.seam());
  REQUIRE(add(ring, 1));
  CHECK(dies([&] { std::thread([&] { ring.submit(); }).join(); }));
}
#endif

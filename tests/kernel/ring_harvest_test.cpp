// The ring layer on the real kernel: reading completions. In order, each once, whatever the handler does; and
// without blocking or a needless system call, but not blind for what the kernel holds back.

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>

#include "tests/kernel/kernel_support.hpp"
#include "uring/prep_files.hpp"

namespace {

using namespace tests::kernel;
using uring::current_position;
using uring::Ring;
using uring::Token;
namespace prep = uring::prep;

/// A ring with NOPs named first..last completed and unread.
void complete_nops(Ring& ring, std::uint64_t first, std::uint64_t last) {
  for (std::uint64_t name = first; name <= last; ++name) {
    if (ring.sq_space() == 0) REQUIRE(ring.submit() > 0);
    prep::nop(next(ring), Token{name});
  }
  REQUIRE(ring.submit() >= 0);
  REQUIRE(ring.unsubmitted() == 0);
}

/// Harvests at most `limit`.
std::string harvest_some(Ring& ring, std::size_t limit) {
  std::vector<Completion> taken;
  ring.harvest([&](const io_uring_cqe& cqe) {
    taken.push_back(copy_of(cqe));
    return taken.size() < limit;
  });
  return text_of(taken);
}

// ---- Order and count --------------------------------------------------------------------------------------

TEST_CASE("harvest hands out what is there, oldest first, and says how many") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  complete_nops(ring, 1, 5);
  CHECK(ring.ready() == 5);
  std::vector<Completion> taken;
  CHECK(ring.harvest([&](const io_uring_cqe& cqe) { taken.push_back(copy_of(cqe)); }) == 5);
  CHECK(text_of(taken) == "1:0 2:0 3:0 4:0 5:0");
  CHECK(ring.ready() == 0);
  CHECK(ring.counters().cqes == 5);
}

TEST_CASE("the kernel gets all slots of a harvest back at its end, by one store") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  complete_nops(ring, 1, 3);
  ring.harvest([&](const io_uring_cqe&) { CHECK(ring.snapshot().cq_head == 0); });
  CHECK(ring.snapshot().cq_head == 3);
}

TEST_CASE("a handler that returns false stops behind its CQE; the rest stays, in order, across the wrap") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 4});
  std::uint64_t first = 1;
  for (int lap = 0; lap < 6; ++lap) {
    complete_nops(ring, first, first + 2);
    const auto text = [](std::uint64_t name) { return std::to_string(name) + ":0"; };
    CHECK(harvest_some(ring, 1) == text(first));
    CHECK(ring.ready() == 2);
    CHECK(harvest_some(ring, 100) == text(first + 1) + ' ' + text(first + 2));
    first += 3;
  }
}

TEST_CASE("a CQ filled to the brim is not an overflow") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 8});
  for (int lap = 0; lap < 3; ++lap) {
    complete_nops(ring, 1, 8);
    CHECK(ring.ready() == 8);
    CHECK((ring.snapshot().sq_flags & IORING_SQ_CQ_OVERFLOW) == 0);
    CHECK(harvest_some(ring, 100) == "1:0 2:0 3:0 4:0 5:0 6:0 7:0 8:0");
  }
  CHECK(ring.counters().overflows == 0);
}

TEST_CASE("what completes during a harvest is for the next one, so a busy ring cannot starve the loop") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  complete_nops(ring, 1, 2);
  std::uint64_t name = 2;
  const auto completes_another = [&](const io_uring_cqe&) {
    complete_nops(ring, name + 1, name + 1), ++name;
  };
  CHECK(ring.harvest(completes_another) == 2);
  CHECK(ring.ready() == 2);
  CHECK(harvest_some(ring, 100) == "3:0 4:0");
}

// ---- Handlers ---------------------------------------------------------------------------------------------

TEST_CASE("a handler may prepare SQEs: the next submit sends them") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  complete_nops(ring, 1, 3);
  CHECK(ring.harvest([&](const io_uring_cqe& cqe) { prep::nop(next(ring), Token{cqe.user_data + 10}); }) ==
        3);
  CHECK(ring.ready() == 0);
  CHECK(ring.unsubmitted() == 3);
  CHECK(results(ring, 3) == "11:0 12:0 13:0");
}

TEST_CASE("a handler that submits into a full CQ loses and repeats nothing") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 4});
  complete_nops(ring, 1, 4);
  std::string seen;
  ring.harvest([&](const io_uring_cqe& cqe) {
    seen += std::to_string(cqe.user_data) + ' ';
    complete_nops(ring, cqe.user_data + 10, cqe.user_data + 10);  // no slot is free yet: these overflow
  });
  CHECK(seen == "1 2 3 4 ");
  CHECK(results(ring, 4) == "11:0 12:0 13:0 14:0");
  CHECK(harvest_all(ring).empty());
}

TEST_CASE("a handler that throws has consumed its CQE; the others stay, and the ring goes on") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  complete_nops(ring, 1, 4);
  const auto throws_at_two = [](const io_uring_cqe& cqe) {
    if (cqe.user_data == 2) throw std::runtime_error("two");
  };
  CHECK_THROWS_WITH(ring.harvest(throws_at_two), "two");
  CHECK(ring.ready() == 2);
  CHECK(ring.counters().cqes == 2);
  complete_nops(ring, 5, 5);
  CHECK(harvest_some(ring, 100) == "3:0 4:0 5:0");
}

// ---- What the kernel holds back ---------------------------------------------------------------------------

TEST_CASE("completions for three times the CQ all arrive, in order, by harvesting alone") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8, .cq_entries = 8});
  complete_nops(ring, 1, 24);
  std::vector<Completion> taken;
  int harvests = 0;
  while (ring.harvest([&](const io_uring_cqe& cqe) { taken.push_back(copy_of(cqe)); }) > 0) ++harvests;
  CHECK(harvests == 3);
  CHECK(taken.size() == 24);
  CHECK(std::is_sorted(taken.begin(), taken.end(),
                       [](const Completion& a, const Completion& b) { return a.user_data < b.user_data; }));
  CHECK(ring.counters().overflows == 2);  // twice something had to be fetched from the backlog
  CHECK(ring.snapshot().cq_overflow == 0);
  CHECK_FALSE(ring.pending());
}

TEST_CASE("a wait, too, fetches what overflowed") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 4});
  complete_nops(ring, 1, 10);
  CHECK(harvest_some(ring, 100) == "1:0 2:0 3:0 4:0");
  CHECK(ring.ready() == 0);
  CHECK(ring.pending());
  CHECK(ring.submit_and_wait(2, patience).ready >= 2);
  CHECK(results(ring, 6) == "5:0 6:0 7:0 8:0 9:0 10:0");
}

TEST_CASE("an empty CQ without a hint costs no system call; one with a hint costs exactly one") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  Ring ring({.entries = 4, .cq_entries = 4}, watched.kernel());
  for (int i = 0; i < 100; ++i) CHECK(harvest_some(ring, 1) == "");
  CHECK(watched.enters == 0);
  complete_nops(ring, 1, 8);
  CHECK(harvest_some(ring, 100) == "1:0 2:0 3:0 4:0");
  const unsigned before = watched.enters;
  CHECK(harvest_some(ring, 100) == "5:0 6:0 7:0 8:0");
  CHECK(watched.enters == before + 1);
  CHECK(harvest_some(ring, 100) == "");
  CHECK(watched.enters == before + 1);
}

TEST_CASE("what waits for its thread under DEFER_TASKRUN is found by an empty harvest, without blocking") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  Ring ring({.entries = 4}, watched.kernel());
  SKIP_UNLESS((ring.setup_flags() & IORING_SETUP_DEFER_TASKRUN) != 0, "DEFER_TASKRUN needs Linux 6.1");
  const SocketPair pipe;
  char byte = 0;
  prep::read(next(ring), pipe.read_end.get(), &byte, 1, current_position, Token{1});
  REQUIRE(ring.submit() == 1);
  CHECK_FALSE(ring.pending());
  pipe.put(1);
  CHECK(ring.ready() == 0);  // the CQ tail alone never moves
  CHECK(ring.pending());     // what a busy-wait must spin on
  const unsigned before = watched.enters;
  CHECK(harvest_some(ring, 100) == "1:1");
  CHECK(watched.enters == before + 1);
  CHECK_FALSE(ring.pending());
}

TEST_CASE("on a COOP_TASKRUN ring, too, pending task work is found by an empty harvest") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_setup_flag(IORING_SETUP_COOP_TASKRUN), "COOP_TASKRUN needs Linux 5.19");
  Ring ring({.entries = 4, .flags = IORING_SETUP_COOP_TASKRUN});
  CHECK((ring.setup_flags() & IORING_SETUP_TASKRUN_FLAG) != 0);  // the layer always asks for the hint
  const SocketPair pipe;
  char byte = 0;
  prep::read(next(ring), pipe.read_end.get(), &byte, 1, current_position, Token{1});
  REQUIRE(ring.submit() == 1);
  std::thread([&] { pipe.put(1); }).join();
  for (const auto deadline = Clock::now() + patience; !ring.pending() && Clock::now() < deadline;) {
  }
  CHECK(harvest_some(ring, 100) == "1:1");
}

}  // namespace

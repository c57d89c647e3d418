// Facts about completions: what happens when the CQ is too small, when they are posted, and what survives the
// ring's own changes. No ring layer; docs/kernel-facts.md says what is commonly believed instead.

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <string>

#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace tests::kernel;
using uring::Token;
namespace abi = uring::abi;
namespace prep = uring::prep;

/// "first:0 first+1:0 ... last:0"
std::string all_zero(std::uint64_t first, std::uint64_t last) {
  std::vector<Completion> expected;
  for (std::uint64_t name = first; name <= last; ++name) expected.push_back({name, 0, 0});
  return text_of(expected);
}

/// A ring with CQ 4 and 12 completions for it: 4 are in the CQ, 8 in the kernel's backlog.
struct Overflown : RawRing {
  Overflown() : RawRing(4, 0, 4) {
    for (std::uint64_t first = 1; first <= 12; first += 4) {
      prepare_nops(first, first + 3);
      REQUIRE(submit() == 4);
    }
    REQUIRE(ready() == 4);
  }
};

FACT("an overflow is announced in the SQ's flags; the CQ's flags and the overflow counter stay 0") {
  SKIP_WITHOUT_IO_URING();
  const Overflown ring;
  CHECK(ring.flag(IORING_SQ_CQ_OVERFLOW));
  CHECK(*ring.cq_flags == 0);
  CHECK(uring::load_cq_overflow(ring.words) == 0);  // it counts what is lost, and nothing is (FEAT_NODROP)
}

FACT("a full CQ does not hinder submission") {
  SKIP_WITHOUT_IO_URING();
  Overflown ring;
  ring.prepare_nops(13, 13);
  ring.publish();
  CHECK(ring.enter(1, 1, IORING_ENTER_GETEVENTS) == 1);
  CHECK(ring.take(13).size() == 13);
}

FACT("an overflow loses nothing: reap, enter(GETEVENTS), repeat until the flag clears; order is kept") {
  SKIP_WITHOUT_IO_URING();
  Overflown ring;
  CHECK(ring.results_now() == all_zero(1, 4));
  CHECK(ring.get_events() == 0);
  CHECK(ring.results_now() == all_zero(5, 8));
  CHECK(ring.flag(IORING_SQ_CQ_OVERFLOW));
  CHECK(ring.get_events() == 0);
  CHECK_FALSE(ring.flag(IORING_SQ_CQ_OVERFLOW));
  CHECK(ring.results_now() == all_zero(9, 12));
}

FACT("a backlog of thousands comes out in order, and nobody has to be terminated") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(64, 0, 64);
  constexpr std::uint64_t total = 64 * 100;
  for (std::uint64_t first = 1; first <= total; first += 64) {
    ring.prepare_nops(first, first + 63);
    REQUIRE(ring.submit() == 64);
  }
  CHECK(ring.results(total) == all_zero(1, total));
  CHECK_FALSE(ring.flag(IORING_SQ_CQ_OVERFLOW));
}

FACT("neither reaping nor submitting fetches the backlog") {
  SKIP_WITHOUT_IO_URING();
  Overflown ring;
  ring.reap();
  CHECK(ring.ready() == 0);
  ring.prepare_nops(13, 13);
  CHECK(ring.submit() == 1);
  CHECK(ring.flag(IORING_SQ_CQ_OVERFLOW));
  if (ring.ready() == 1) {
    CHECK(ring.get_events() == 0);
    CHECK(ring.results_now() == "13:0 5:0 6:0 7:0");
    return tests::differs("they do not, but a new completion is posted in front of the backlog");
  }
  CHECK(ring.ready() == 0);
  CHECK(ring.get_events() == 0);
  CHECK(ring.results_now() == all_zero(5, 8));
}

FACT("an overflow ends a multishot: its last CQE is a success like any other, but lacks F_MORE") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_poll(), "multishot poll needs Linux 5.13");
  RawRing ring(2, 0, 2);
  const uring::FileDescriptor counter(::eventfd(0, EFD_CLOEXEC));
  prep::poll_multishot(ring.prepare(), counter.get(), POLLIN, Token{1});
  REQUIRE(ring.submit() == 1);
  const auto signal = [&] {
    REQUIRE(::eventfd_write(counter.get(), 1) == 0);
    REQUIRE(ring.get_events() == 0);
  };
  for (int i = 0; i < 5; ++i) signal();
  std::vector<Completion> completions = ring.take(3);
  if (completions.size() > 3) {
    // Each signal has its CQE, those that did not fit at first included.
    while (completions.size() < 5) completions.push_back(ring.take(1).at(0));
    CHECK(std::all_of(completions.begin(), completions.end(), [](const Completion& c) { return c.more(); }));
    signal();
    CHECK(ring.results(1) == "1:1");
    return tests::differs("it goes on");
  }
  REQUIRE(completions.size() == 3);
  CHECK(completions[0].more());
  CHECK(completions[1].more());
  CHECK(completions[2].res == POLLIN);
  CHECK_FALSE(completions[2].more());
  signal();
  CHECK(ring.ready() == 0);  // over: the room in the CQ does not start it again

  prep::poll_multishot(ring.prepare(), counter.get(), POLLIN, Token{2});
  REQUIRE(ring.submit() == 1);
  CHECK(ring.results(1) == "2:1");
}

// ---- user_data --------------------------------------------------------------------------------------------

FACT("user_data comes back bit for bit; no value is reserved, 0 and ~0 included") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  for (const std::uint64_t name : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    prep::nop(ring.prepare(), Token{name});
    REQUIRE(ring.submit() == 1);
    const std::vector<Completion> completions = ring.take(1);
    REQUIRE(completions.size() == 1);
    CHECK(completions[0].user_data == name);
  }
}

// ---- The ring's own life ----------------------------------------------------------------------------------

FACT("a ring can be resized while it lives: completions and operations in flight survive") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_setup_flag(abi::setup_no_sqarray), "RESIZE_RINGS needs Linux 6.13");
  const auto resize = [](RawRing& ring, unsigned entries, unsigned cq_entries) {
    io_uring_params params{};
    params.sq_entries = entries;
    params.cq_entries = cq_entries;
    params.flags = IORING_SETUP_CQSIZE;
    const int result = ring.register_(abi::register_resize_rings, &params, 1);
    if (result < 0) return result;
    ring.params.sq_entries = params.sq_entries;
    ring.params.cq_entries = params.cq_entries;
    ring.params.sq_off = params.sq_off;
    ring.params.cq_off = params.cq_off;
    ring.map();
    return 0;
  };
  RawRing ring(8, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | abi::setup_no_sqarray);
  const Pipe pipe;
  char byte = 0;
  prep::read(ring.prepare(), pipe.read_end.get(), &byte, 1, uring::current_position, Token{77});
  ring.prepare_nops(1, 5);
  REQUIRE(ring.submit() == 6);

  const int refused = resize(ring, 4, 4);
  SKIP_UNLESS(refused != -EINVAL, "RESIZE_RINGS needs Linux 6.13");
  CHECK(refused == -EOVERFLOW);  // not enough room for what is there
  CHECK(resize(ring, 64, 256) == 0);
  CHECK(ring.params.sq_entries == 64);
  CHECK(ring.params.cq_entries == 256);
  CHECK(ring.results_now() == all_zero(1, 5));
  pipe.put(1);
  CHECK(ring.results(1) == "77:1");
  ring.prepare_nops(100, 163);
  CHECK(ring.submit() == 64);
  CHECK(ring.results(64) == all_zero(100, 163));

  RawRing not_deferred(8, abi::setup_no_sqarray);
  CHECK(resize(not_deferred, 64, 256) == -EINVAL);
}

FACT("closing a ring cancels nothing while its memory is mapped: a read still lands in its buffer") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  const Pipe pipe;
  char byte = 0;
  prep::read(ring.prepare(), pipe.read_end.get(), &byte, 1, uring::current_position, Token{1});
  REQUIRE(ring.submit() == 1);
  ring.fd.reset();
  std::this_thread::sleep_for(a_while);
  CHECK(ring.ready() == 0);
  pipe.put(1);
  eventually([&] { return ring.ready() != 0; });
  CHECK(byte == 'x');
  CHECK(ring.results_now() == "1:1");
}

FACT("a forked child inherits the ring: what it submits completes in the parent's CQ") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  CHECK(in_child([&] {
          ring.prepare_nops(1, 1);
          return ring.submit();
        }) == 1);
  CHECK(ring.results_now() == "1:0");
}

FACT("a restricted ring refuses everything that was not allowed to it, with EACCES") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4, IORING_SETUP_R_DISABLED);
  std::array<io_uring_restriction, 1> allowed{};
  allowed[0].opcode = IORING_RESTRICTION_SQE_OP;
  allowed[0].sqe_op = IORING_OP_NOP;
  REQUIRE(ring.register_(IORING_REGISTER_RESTRICTIONS, allowed.data(), allowed.size()) == 0);
  REQUIRE(ring.register_(IORING_REGISTER_ENABLE_RINGS) == 0);
  ring.prepare_nops(1, 1);
  char byte = 0;
  prep::read(ring.prepare(), 0, &byte, 1, 0, Token{2});
  CHECK(ring.submit() == 2);
  CHECK(text_of(sorted(ring.reap())) == "1:0 2:-EACCES");
  iovec buffer{&byte, 1};
  const int registered = ring.register_(IORING_REGISTER_BUFFERS, &buffer, 1);
  if (registered == 0) return tests::differs("a list of opcodes restricts SQEs only: registering stays free");
  CHECK(registered == -EACCES);
}

}  // namespace

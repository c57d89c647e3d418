// Facts about the two rings: their indices and their sizes. No ring layer; each title is a sentence to
// remember, and docs/kernel-facts.md says what is commonly believed instead.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <string>

#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace tests::kernel;
using uring::Token;
namespace abi = uring::abi;
namespace prep = uring::prep;

// ---- Indices ----------------------------------------------------------------------------------------------

FACT("the application consumes by advancing the CQ head; a CQ tail it writes invents a completion") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  ring.prepare_nops(1, 1);
  REQUIRE(ring.submit() == 1);
  REQUIRE(ring.ready() == 1);
  uring::publish_cq_head(ring.words, 1);
  CHECK(ring.ready() == 0);

  *ring.words.cq_tail = 2;  // the mistake
  CHECK(ring.ready() == 1);
  CHECK(ring.results_now() == "0:0");  // nobody asked for that one

  ring.prepare_nops(2, 2);
  REQUIRE(ring.submit() == 1);
  CHECK(uring::load_cq_tail(ring.words) == 2);  // the kernel stored its own tail over ours, so that
  CHECK(ring.ready() == 0);  // the real completion lies in a slot which we have consumed already
}

FACT("the four indices share a cache line") {
  SKIP_WITHOUT_IO_URING();
  io_uring_params params{};
  REQUIRE(try_setup(8, params) == 0);
  CHECK(params.sq_off.array != 0);
  const std::array<unsigned, 4> at{params.sq_off.head, params.sq_off.tail, params.cq_off.head,
                                   params.cq_off.tail};
  if (at == std::array{0U, 64U, 128U, 192U}) return tests::differs("each has a cache line of its own");
  CHECK(at == std::array{0U, 4U, 8U, 12U});
}

FACT("with NO_SQARRAY there is no SQ array: its offset is 0, which is where the SQ head lies") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_setup_flag(abi::setup_no_sqarray), "NO_SQARRAY needs Linux 6.6");
  io_uring_params without{};
  without.flags = abi::setup_no_sqarray;
  REQUIRE(try_setup(8, without) == 0);
  CHECK(without.sq_off.array == 0);  // where SQ head lies: who fills the array anyway destroys the indices
  CHECK(without.sq_off.head == 0);
}

FACT("nothing is read from the SQ before io_uring_enter") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  ring.prepare_nops(1, 1);
  ring.publish();
  std::this_thread::sleep_for(a_while);
  CHECK(ring.queued() == 1);
  CHECK(ring.ready() == 0);
  CHECK(ring.enter(1) == 1);
  CHECK(ring.results_now() == "1:0");
}

FACT("advancing the SQ tail publishes; to drop a prepared SQE, do not publish it") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  ring.prepare_nops(1, 2);
  --ring.tail;  // the second was never published
  CHECK(ring.submit() == 1);
  CHECK(ring.results_now() == "1:0");
}

FACT("a bad index in the SQ array costs its entry: no completion, but `dropped` counts it") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  ring.prepare_nops(1, 1);
  ring.array[0] = 4;
  ring.publish();
  CHECK(ring.enter(1) == 0);
  CHECK(ring.queued() == 0);
  CHECK(uring::load_sq_dropped(ring.words) == 1);
  CHECK(ring.get_events() == 0);
  CHECK(ring.ready() == 0);
}

FACT("a full SQ is noticed in user space; the kernel takes each batch, 1600 operations in flight") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8, 0, 16);
  const Pipe pipe;
  std::array<char, 1600> bytes{};
  for (std::uint64_t batch = 0; batch < 200; ++batch) {
    for (std::uint64_t i = batch * 8; i < batch * 8 + 8; ++i) {
      prep::read(ring.prepare(), pipe.read_end.get(), &bytes[i], 1, uring::current_position, Token{i});
    }
    REQUIRE(ring.submit() == 8);  // never -EBUSY
    REQUIRE(ring.queued() == 0);
  }
  CHECK(ring.ready() == 0);
  pipe.put(bytes.size());
  const std::vector<Completion> completions = ring.take(bytes.size());
  CHECK(completions.size() == bytes.size());
  CHECK(std::all_of(completions.begin(), completions.end(), [](const Completion& c) { return c.res == 1; }));
}

FACT("waiting frees no SQ slot, submitting does") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  ring.prepare_nops(1, 1);
  REQUIRE(ring.submit() == 1);  // something to find for the wait
  ring.prepare_nops(2, 5);
  ring.publish();
  CHECK(ring.enter(0, 1, IORING_ENTER_GETEVENTS) == 0);
  CHECK(ring.queued() == 4);
  CHECK(ring.enter(4) == 4);
  CHECK(ring.queued() == 0);
}

// ---- Sizes ------------------------------------------------------------------------------------------------

FACT("sizes round up to powers of two; 0 is refused; cq_entries means nothing without CQSIZE") {
  SKIP_WITHOUT_IO_URING();
  struct Case {
    unsigned entries, cq_entries;
    std::uint32_t flags;
    std::string expected;
  };
  constexpr std::uint32_t cqsize = IORING_SETUP_CQSIZE;
  constexpr std::uint32_t clamp = IORING_SETUP_CLAMP;
  for (const Case& c : {Case{0, 0, 0, "EINVAL"},
                        {1, 0, 0, "1/2"},
                        {3, 0, 0, "4/8"},
                        {5, 0, 0, "8/16"},
                        {32768, 0, 0, "32768/65536"},
                        {32769, 0, 0, "EINVAL"},
                        {32769, 0, clamp, "32768/65536"},
                        {8, 4096, 0, "8/16"},
                        {8, 4096, cqsize, "8/4096"},
                        {8, 9, cqsize, "8/16"},
                        {8, 8, cqsize, "8/8"},
                        {8, 0, cqsize, "EINVAL"},
                        {8, 4, cqsize, "EINVAL"},
                        {5, 5, cqsize, "8/8"},
                        {8, 65537, cqsize, "EINVAL"},
                        {8, 65537, cqsize | clamp, "8/65536"}}) {
    io_uring_params params{};
    params.flags = c.flags;
    params.cq_entries = c.cq_entries;
    const int result = try_setup(c.entries, params);
    const std::string got = result < 0
                                ? uring::errno_name(-result)
                                : std::to_string(params.sq_entries) + '/' + std::to_string(params.cq_entries);
    CAPTURE(c.entries);
    CAPTURE(c.cq_entries);
    CAPTURE(uring::setup_flag_names(c.flags));
    CHECK(got == c.expected);
  }
}

}  // namespace

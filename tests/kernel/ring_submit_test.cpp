// The ring layer on the real kernel: preparing SQEs and handing them over. Exact capacity, clean slots,
// counts that can be believed, and nothing lost or sent twice when the kernel takes fewer than it was
// offered.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <cstring>
#include <string>

#include "tests/kernel/kernel_support.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"

namespace {

using namespace tests::kernel;
using uring::current_position;
using uring::Ring;
using uring::Token;
namespace abi = uring::abi;
namespace prep = uring::prep;

/// Without SUBMIT_ALL the kernel stops behind an SQE that it cannot parse: the honest way to a short submit.
constexpr std::uint32_t stops_at_bad_sqes =
    uring::default_setup_flags & ~std::uint32_t{IORING_SETUP_SUBMIT_ALL};

void prepare_nops(Ring& ring, std::uint64_t first, std::uint64_t last) {
  for (std::uint64_t name = first; name <= last; ++name) prep::nop(next(ring), Token{name});
}

void prepare_unparsable(Ring& ring, std::uint64_t name) {
  prep::fill(next(ring), 255, -1, 0, 0, 0, Token{name});
}

// ---- Room -------------------------------------------------------------------------------------------------

TEST_CASE("a fresh ring is empty: every slot is free, nothing to submit, nothing to harvest") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  CHECK(ring.sq_space() == 8);
  CHECK(ring.unsubmitted() == 0);
  CHECK(ring.ready() == 0);
  CHECK_FALSE(ring.pending());
  CHECK(ring.submit() == 0);
  CHECK(harvest_all(ring).empty());
}

TEST_CASE("exactly `entries` SQEs can be prepared, lap after lap; the next one is refused with nullptr") {
  SKIP_WITHOUT_IO_URING();
  for (const unsigned entries : {1u, 2u, 8u}) {
    CAPTURE(entries);
    Ring ring({.entries = entries});
    for (int lap = 0; lap < 3; ++lap) {
      prepare_nops(ring, 1, entries);
      CHECK(ring.next_sqe() == nullptr);
      CHECK(ring.sq_space() == 0);
      CHECK(ring.unsubmitted() == entries);
      CHECK(ring.submit() == static_cast<int>(entries));
      CHECK(take(ring, entries).size() == entries);
    }
  }
}

TEST_CASE("a submit frees all slots at once, although not one operation has completed") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .cq_entries = 16});
  const Pipe pipe;
  std::array<char, 16> bytes{};
  for (std::uint64_t batch = 0; batch < 16; batch += 4) {
    for (std::uint64_t i = batch; i < batch + 4; ++i) {
      prep::read(next(ring), pipe.read_end.get(), &bytes[i], 1, current_position, Token{i});
    }
    CHECK(ring.submit() == 4);
    CHECK(ring.sq_space() == 4);
    CHECK(ring.ready() == 0);
  }
  pipe.put(16);
  CHECK(take(ring, 16).size() == 16);
}

TEST_CASE("preparing moves nothing that the kernel can see; submit does, once") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  prepare_nops(ring, 1, 3);
  CHECK(ring.snapshot().sq_tail == 0);
  CHECK(ring.snapshot().private_sq_tail == 3);
  CHECK(ring.submit() == 3);
  CHECK(ring.snapshot().sq_tail == 3);
  CHECK(ring.snapshot().sq_head == 3);
}

TEST_CASE("rings of one and two entries run ten thousand operations, in order") {
  SKIP_WITHOUT_IO_URING();
  for (const unsigned entries : {1u, 2u}) {
    Ring ring({.entries = entries});
    std::uint64_t expected = 0;
    bool in_order = true;
    for (std::uint64_t name = 0; name < 10'000; name += entries) {
      prepare_nops(ring, name, name + entries - 1);
      REQUIRE(ring.submit_and_wait(entries, patience).ready == entries);
      ring.harvest([&](const io_uring_cqe& cqe) { in_order &= cqe.user_data == expected++; });
    }
    CHECK(in_order);
    CHECK(expected == 10'000);
  }
}

// ---- What is in a slot ------------------------------------------------------------------------------------

TEST_CASE("user_data comes back bit for bit, 0 and ~0 included") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  for (const std::uint64_t name :
       {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{0x0123'4567'89ab'cdef}}) {
    prep::nop(next(ring), Token{name});
    const std::vector<Completion> completions = take(ring, 1);
    REQUIRE(completions.size() == 1);
    CHECK(completions[0].user_data == name);
  }
}

TEST_CASE("an SQE is as good as new whatever an earlier lap left in its slot") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 1});
  const auto dirty = [&]() -> io_uring_sqe& {
    io_uring_sqe& sqe = next(ring);
    std::memset(&sqe, 0xff, sizeof sqe);
    return sqe;
  };
  const Pipe pipe;
  char byte = 0;
  iovec piece{&byte, 1};
  const __kernel_timespec soon{.tv_sec = 0, .tv_nsec = 1000};
  for (int lap = 0; lap < 3; ++lap) {
    prep::nop(dirty(), Token{1});
    CHECK(results(ring, 1) == "1:0");
    prep::write(dirty(), pipe.write_end.get(), "xyz", 3, current_position, Token{2});
    CHECK(results(ring, 1) == "2:3");
    prep::read(dirty(), pipe.read_end.get(), &byte, 1, current_position, Token{3});
    CHECK(results(ring, 1) == "3:1");
    prep::readv(dirty(), pipe.read_end.get(), &piece, 1, current_position, Token{4});
    CHECK(results(ring, 1) == "4:1");
    prep::poll_add(dirty(), pipe.read_end.get(), POLLIN, Token{5});
    CHECK(results(ring, 1) == "5:1");
    prep::timeout(dirty(), &soon, 0, 0, Token{6});
    CHECK(results(ring, 1) == "6:-ETIME");
    prep::async_cancel(dirty(), Token{99}, Token{7});
    CHECK(results(ring, 1) == "7:-ENOENT");
    prep::read(dirty(), pipe.read_end.get(), &byte, 1, current_position, Token{8});
    CHECK(results(ring, 1) == "8:1");
  }
}

TEST_CASE("iovec arrays and timespecs may be overwritten as soon as submit has returned") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  const Pipe pipe;
  std::array<char, 2> bytes{};
  std::array<iovec, 2> pieces{iovec{&bytes[0], 1}, iovec{&bytes[1], 1}};
  __kernel_timespec soon{.tv_sec = 0, .tv_nsec = 1'000'000};
  prep::readv(next(ring), pipe.read_end.get(), pieces.data(), 2, current_position, Token{1});
  prep::timeout(next(ring), &soon, 0, 0, Token{2});
  REQUIRE(ring.submit() == 2);
  pieces = {};
  soon = {.tv_sec = 1'000'000, .tv_nsec = 0};
  CHECK(results(ring, 1) == "2:-ETIME");
  pipe.put(2);
  CHECK(results(ring, 1) == "1:2");
  CHECK(bytes == std::array<char, 2>{'x', 'x'});
}

// ---- What submit says -------------------------------------------------------------------------------------

TEST_CASE("submit returns how many SQEs the kernel took; for none it makes no system call") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  Ring ring({.entries = 8}, watched.kernel());
  CHECK(ring.submit() == 0);
  CHECK(watched.enters == 0);
  prepare_nops(ring, 1, 5);
  CHECK(ring.submit() == 5);
  CHECK(watched.enters == 1);
  CHECK(ring.submit() == 0);
  CHECK(watched.enters == 1);
  CHECK(ring.counters().sqes == 5);
  CHECK(ring.counters().batches == 1);
}

TEST_CASE("thirty-two operations and the wait for them are one system call") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  Ring ring({.entries = 32}, watched.kernel());
  // Not a file: what goes to a worker thread may make the kernel start one, and that interrupts the wait.
  const uring::FileDescriptor null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  for (std::uint64_t i = 0; i < 32; ++i) prep::write(next(ring), null.get(), "12345678", 8, 0, Token{i});
  const uring::Waited waited = ring.submit_and_wait(32, patience);
  CHECK(waited.submitted == 32);
  CHECK(waited.ready == 32);
  CHECK(waited.error == 0);
  CHECK(harvest_all(ring).size() == 32);
  CHECK(watched.enters == 1);
  CHECK(ring.counters().batches == 1);
  CHECK(ring.counters().enters == 1);
}

// ---- Short submits ----------------------------------------------------------------------------------------

TEST_CASE("behind a bad SQE the rest of a batch stays in the ring, in order, and the next submit sends it") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8, .flags = stops_at_bad_sqes});
  prepare_nops(ring, 1, 2);
  prepare_unparsable(ring, 3);
  prepare_nops(ring, 4, 5);
  CHECK(ring.submit() == 3);
  CHECK(ring.unsubmitted() == 2);
  CHECK(ring.sq_space() == 6);
  CHECK(ring.counters().short_submits == 1);
  prepare_nops(ring, 6, 7);  // behind what is left
  CHECK(ring.submit() == 4);
  CHECK(text_of(sorted(take(ring, 7))) == "1:0 2:0 3:-EINVAL 4:0 5:0 6:0 7:0");
  CHECK(ring.counters().sqes == 7);
  CHECK(harvest_all(ring).empty());
}

TEST_CASE("a full ring in which every second SQE is bad is sent completely, each SQE once") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8, .flags = stops_at_bad_sqes});
  for (std::uint64_t lap = 0; lap < 3; ++lap) {
    for (std::uint64_t name = 1; name <= 8; name += 2) {
      prepare_nops(ring, name, name);
      prepare_unparsable(ring, name + 1);
    }
    CHECK(ring.next_sqe() == nullptr);
    int sent = 0;
    while (ring.unsubmitted() != 0) {
      const int taken = ring.submit();
      REQUIRE(taken > 0);
      sent += taken;
    }
    CHECK(sent == 8);
    CHECK(text_of(sorted(take(ring, 8))) == "1:0 2:-EINVAL 3:0 4:-EINVAL 5:0 6:-EINVAL 7:0 8:-EINVAL");
  }
}

TEST_CASE("with SUBMIT_ALL, a default, a bad SQE holds up nobody") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_setup_flag(IORING_SETUP_SUBMIT_ALL), "SUBMIT_ALL needs Linux 5.18");
  Ring ring({.entries = 8});
  prepare_nops(ring, 1, 1);
  prepare_unparsable(ring, 2);
  prepare_nops(ring, 3, 3);
  CHECK(ring.submit() == 3);
  CHECK(text_of(sorted(take(ring, 3))) == "1:0 2:-EINVAL 3:0");
  CHECK(ring.counters().short_submits == 0);
}

TEST_CASE("submit_and_wait does not take a short submit for a met wait: it sends the rest, and waits") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8, .flags = stops_at_bad_sqes});
  prepare_nops(ring, 1, 1);
  prepare_unparsable(ring, 2);
  prepare_nops(ring, 3, 3);
  prepare_unparsable(ring, 4);
  prepare_nops(ring, 5, 5);
  const uring::Waited waited = ring.submit_and_wait(5, patience);
  CHECK(waited.submitted == 5);
  CHECK(waited.ready == 5);
  CHECK(waited.error == 0);
  CHECK(text_of(sorted(harvest_all(ring))) == "1:0 2:-EINVAL 3:0 4:-EINVAL 5:0");
}

// ---- Batches ----------------------------------------------------------------------------------------------

TEST_CASE("a batch that is not committed never existed; what was committed goes out with the next submit") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8});
  prepare_nops(ring, 1, 1);
  {
    auto batch = ring.batch(2);
    REQUIRE(static_cast<bool>(batch));
    prep::nop(next(batch), Token{100});
    prep::nop(next(batch), Token{101});
  }
  CHECK(ring.unsubmitted() == 1);
  {
    auto batch = ring.batch(3);
    REQUIRE(static_cast<bool>(batch));
    prep::nop(next(batch), Token{2});
    prep::nop(next(batch), Token{3});
    batch.commit();
    prep::nop(next(batch), Token{102});  // behind the commit, and so never handed over
  }
  CHECK(ring.unsubmitted() == 3);
  prepare_nops(ring, 4, 4);
  CHECK(results(ring, 4) == "1:0 2:0 3:0 4:0");
  CHECK(harvest_all(ring).empty());
}

TEST_CASE("a batch takes all that is free, and says nullptr then") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  for (int lap = 0; lap < 3; ++lap) {
    auto batch = ring.batch(4);
    REQUIRE(static_cast<bool>(batch));
    std::uint64_t name = 1;
    while (io_uring_sqe* const sqe = batch.next()) prep::nop(*sqe, Token{name++});
    batch.commit();
    CHECK(name == 5);
    CHECK(ring.submit() == 4);
    CHECK(take(ring, 4).size() == 4);
  }
}

TEST_CASE("a chain for which there is no room is refused as a whole, and so never split across two submits") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  char byte = 0;
  for (std::uint64_t lap = 0; lap < 3; ++lap) {  // the chain begins at another slot each time
    prepare_nops(ring, 1, 2);
    CHECK_FALSE(static_cast<bool>(ring.batch(3)));
    CHECK(ring.submit() == 2);
    {
      auto batch = ring.batch(3);
      REQUIRE(static_cast<bool>(batch));
      io_uring_sqe& first = next(batch);
      prep::read(first, -1, &byte, 1, 0, Token{3});
      prep::link(first);
      io_uring_sqe& second = next(batch);
      prep::nop(second, Token{4});
      prep::link(second);
      prep::nop(next(batch), Token{5});
      batch.commit();
    }
    CHECK(results(ring, 5) == "1:0 2:0 3:-EBADF 4:-ECANCELED 5:-ECANCELED");
  }
}

}  // namespace

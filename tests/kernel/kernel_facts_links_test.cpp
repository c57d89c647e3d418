// Facts about order: linked SQEs, IOSQE_IO_DRAIN, and completions that are skipped. No ring layer;
// docs/kernel-facts.md says what is commonly believed instead.
//
// Links are given an operation that fails (a close of descriptor -1), one that takes time (a timeout), or
// one that the kernel cannot parse (opcode 255): these three fail in three different ways.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <string>

#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace tests::kernel;
using uring::Token;
namespace prep = uring::prep;

char scratch[64];

io_uring_sqe& nop(RawRing& ring, std::uint64_t name) {
  io_uring_sqe& sqe = ring.prepare();
  prep::nop(sqe, Token{name});
  return sqe;
}

/// Fails when it runs: -EBADF. A read from descriptor -1 would do the same from Linux 6.1 on; 5.10 refuses that one while
/// it parses, as it looks for its file there.
io_uring_sqe& failing(RawRing& ring, std::uint64_t name) {
  io_uring_sqe& sqe = ring.prepare();
  prep::close(sqe, -1, Token{name});
  return sqe;
}

/// Fails before it runs: -EINVAL.
io_uring_sqe& unparsable(RawRing& ring, std::uint64_t name) {
  io_uring_sqe& sqe = ring.prepare();
  prep::fill(sqe, 255, -1, 0, 0, 0, Token{name});
  return sqe;
}

/// Pending until somebody writes into the pipe.
io_uring_sqe& pending(RawRing& ring, const Pipe& pipe, std::uint64_t name) {
  io_uring_sqe& sqe = ring.prepare();
  prep::read(sqe, pipe.read_end.get(), scratch, 1, uring::current_position, Token{name});
  return sqe;
}

/// A file of `bytes` bytes, without a name.
uring::FileDescriptor file_of(const std::string& bytes) {
  uring::FileDescriptor file(::memfd_create("kernel_facts", MFD_CLOEXEC));
  REQUIRE(::write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  return file;
}

// ---- Links ------------------------------------------------------------------------------------------------

FACT("every SQE of a broken chain has its CQE: -ECANCELED for all behind the one that failed") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  prep::link(nop(ring, 1));
  prep::link(failing(ring, 2));
  prep::link(nop(ring, 3));
  nop(ring, 4);
  CHECK(ring.submit() == 4);
  CHECK(ring.results(4) == "1:0 2:-EBADF 3:-ECANCELED 4:-ECANCELED");
}

FACT("a hard link goes on after a failure") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  prep::hardlink(failing(ring, 1));
  prep::hardlink(failing(ring, 2));
  nop(ring, 3);
  CHECK(ring.submit() == 3);
  CHECK(ring.results(3) == "1:-EBADF 2:-EBADF 3:0");
}

FACT("links roll nothing back: what was written before the chain broke stays written") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  const uring::FileDescriptor file = file_of("");
  prep::write(ring.prepare(), file.get(), "hello", 5, 0, Token{1});
  prep::link(ring.sqes[0]);
  failing(ring, 2);
  CHECK(ring.submit() == 2);
  CHECK(ring.results(2) == "1:5 2:-EBADF");
  std::array<char, 8> content{};
  CHECK(::pread(file.get(), content.data(), content.size(), 0) == 5);
}

FACT("an SQE that cannot be parsed cancels the earlier links of its chain too, hard links included") {
  SKIP_WITHOUT_IO_URING();
  for (const bool hard : {false, true}) {
    CAPTURE(hard);
    RawRing ring(8);
    const auto link = hard ? prep::hardlink : prep::link;
    link(nop(ring, 1));
    link(unparsable(ring, 2));
    nop(ring, 3);
    while (ring.submit() > 0) {
    }
    CHECK(text_of(sorted(ring.take(3))) == "1:-ECANCELED 2:-EINVAL 3:-ECANCELED");
  }
}

FACT("each link of a chain posts its CQE when it completes, not all at the end") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  const Pipe pipe;
  prep::link(nop(ring, 1));
  prep::link(pending(ring, pipe, 2));
  nop(ring, 3);
  CHECK(ring.submit() == 3);
  CHECK(ring.results(1) == "1:0");
  std::this_thread::sleep_for(a_while);
  CHECK(ring.ready() == 0);
  pipe.put(1);
  CHECK(ring.results(2) == "2:1 3:0");
}

FACT("LINK belongs on all SQEs of a chain but the last; there it drags a stranger into the chain") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  const Pipe pipe;
  SUBCASE("on all but the last") {
    prep::link(pending(ring, pipe, 1));
    prep::link(failing(ring, 2));
    nop(ring, 3);
    nop(ring, 4);  // has nothing to do with it
    CHECK(ring.submit() == 4);
    CHECK(ring.results(1) == "4:0");
    pipe.put(1);
    CHECK(ring.results(3) == "1:1 2:-EBADF 3:-ECANCELED");
  }
  SUBCASE("on all but the first") {
    pending(ring, pipe, 1);
    prep::link(failing(ring, 2));
    prep::link(nop(ring, 3));
    nop(ring, 4);
    CHECK(ring.submit() == 4);
    CHECK(ring.results(3) == "2:-EBADF 3:-ECANCELED 4:-ECANCELED");  // before the first has even completed
    pipe.put(1);
    CHECK(ring.results(1) == "1:1");
  }
}

FACT("a chain ends where the submission ends") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  prep::link(failing(ring, 1));
  CHECK(ring.submit() == 1);
  nop(ring, 2);
  CHECK(ring.submit() == 1);
  CHECK(text_of(sorted(ring.take(2))) == "1:-EBADF 2:0");
}

FACT("a short read breaks a chain, so that a CLOSE at its end leaks the file unless it is hard-linked") {
  SKIP_WITHOUT_IO_URING();
  for (const bool hard : {false, true}) {
    CAPTURE(hard);
    RawRing ring(8);
    uring::FileDescriptor file = file_of("short");
    const int fd = file.get();
    prep::read(ring.prepare(), fd, scratch, 10, 0, Token{1});
    hard ? prep::hardlink(ring.sqes[0]) : prep::link(ring.sqes[0]);
    prep::close(ring.prepare(), fd, Token{2});
    CHECK(ring.submit() == 2);
    CHECK(ring.results(2) == (hard ? "1:5 2:0" : "1:5 2:-ECANCELED"));
    CHECK((::fcntl(fd, F_GETFD) >= 0) == !hard);
    if (hard) file.release();
  }
}

FACT("a timeout that expires has failed, for its link, unless it carries ETIME_SUCCESS") {
  SKIP_WITHOUT_IO_URING();
  const __kernel_timespec soon{.tv_sec = 0, .tv_nsec = 1'000'000};
  SKIP_UNLESS(understands([&](io_uring_sqe& sqe) {
                prep::timeout(sqe, &soon, 0, IORING_TIMEOUT_ETIME_SUCCESS, Token{1});
              }),
              "ETIME_SUCCESS needs Linux 5.16");
  for (const std::uint32_t flags : {0u, unsigned{IORING_TIMEOUT_ETIME_SUCCESS}}) {
    RawRing ring(8);
    prep::timeout(ring.prepare(), &soon, 0, flags, Token{1});
    prep::link(ring.sqes[0]);
    nop(ring, 2);
    CHECK(ring.submit() == 2);
    CHECK(ring.results(2) == (flags == 0 ? "1:-ETIME 2:-ECANCELED" : "1:-ETIME 2:0"));
  }
}

FACT("a chain that waits holds no SQ slot and nobody up") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  const Pipe pipe;
  prep::link(pending(ring, pipe, 1));
  nop(ring, 2);
  REQUIRE(ring.submit() == 2);
  CHECK(ring.queued() == 0);
  for (std::uint64_t name = 10; name < 50; name += 4) {
    ring.prepare_nops(name, name + 3);
    CHECK(ring.submit() == 4);
    CHECK(ring.take(4).size() == 4);
  }
  pipe.put(1);
  CHECK(ring.results(2) == "1:1 2:0");
}

// ---- Drain ------------------------------------------------------------------------------------------------

FACT("DRAIN waits for all that was submitted before, and all that is submitted later waits for it") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  const Pipe pipe;
  pending(ring, pipe, 1);
  prep::drain(nop(ring, 2));
  nop(ring, 3);
  CHECK(ring.submit() == 3);  // submitting goes on; it is the execution that waits
  nop(ring, 4);
  CHECK(ring.submit() == 1);
  std::this_thread::sleep_for(a_while);
  CHECK(ring.get_events() == 0);
  CHECK(ring.ready() == 0);
  pipe.put(1);
  CHECK(text_of(sorted(ring.take(4))) == "1:1 2:0 3:0 4:0");
}

FACT("one idle read stalls a ring with a DRAIN in it, a cancel SQE included; SYNC_CANCEL gets through") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  io_uring_sync_cancel_reg cancel{};
  cancel.addr = 1;
  cancel.fd = -1;
  cancel.timeout = {.tv_sec = -1, .tv_nsec = -1};
  SKIP_UNLESS(ring.register_(IORING_REGISTER_SYNC_CANCEL, &cancel, 1) == -ENOENT,
              "SYNC_CANCEL needs Linux 6.0");
  const Pipe pipe;
  pending(ring, pipe, 1);
  prep::drain(nop(ring, 2));
  prep::async_cancel(ring.prepare(), Token{1}, Token{3});
  CHECK(ring.submit() == 3);
  std::this_thread::sleep_for(a_while);
  CHECK(ring.get_events() == 0);
  CHECK(ring.ready() == 0);
  CHECK(ring.register_(IORING_REGISTER_SYNC_CANCEL, &cancel, 1) == 0);
  CHECK(text_of(sorted(ring.take(3))) == "1:-ECANCELED 2:0 3:-ENOENT");
}

FACT("a ring that has once skipped a CQE refuses DRAIN for good") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  SKIP_UNLESS((ring.params.features & IORING_FEAT_CQE_SKIP) != 0, "CQE_SKIP_SUCCESS needs Linux 5.17");
  prep::drain(nop(ring, 1));
  CHECK(ring.submit() == 1);
  CHECK(ring.results(1) == "1:0");
  prep::skip_success(nop(ring, 2));
  CHECK(ring.submit() == 1);
  prep::drain(nop(ring, 3));
  CHECK(ring.submit() == 1);
  CHECK(ring.results(1) == "3:-EOPNOTSUPP");
}

// ---- Skipped completions ----------------------------------------------------------------------------------

FACT("CQE_SKIP_SUCCESS: no CQE on success, one on failure, and then none for the links behind it") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  SKIP_UNLESS((ring.params.features & IORING_FEAT_CQE_SKIP) != 0, "CQE_SKIP_SUCCESS needs Linux 5.17");
  prep::skip_success(nop(ring, 1));
  prep::skip_success(failing(ring, 2));
  CHECK(ring.submit() == 2);
  CHECK(ring.results(1) == "2:-EBADF");

  io_uring_sqe& first = failing(ring, 3);
  prep::skip_success(first);
  prep::link(first);
  prep::link(nop(ring, 4));
  nop(ring, 5);
  nop(ring, 6);  // outside the chain
  CHECK(ring.submit() == 4);
  CHECK(text_of(sorted(ring.take(2))) == "3:-EBADF 6:0");
  std::this_thread::sleep_for(a_while);
  CHECK(ring.get_events() == 0);
  CHECK(ring.ready() == 0);
}

}  // namespace

// Facts about io_uring_enter: what it takes, what it returns, how long it waits. No ring layer; each title is
// a sentence to remember, and docs/kernel-facts.md says what is commonly believed instead.

#include <doctest/doctest.h>

#include <string>

#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace tests::kernel;
using uring::Token;
namespace abi = uring::abi;
namespace prep = uring::prep;

/// An SQE that the kernel cannot parse: there is no such opcode.
void bad_opcode(io_uring_sqe& sqe, Token token) { prep::fill(sqe, 255, -1, 0, 0, 0, token); }

// ---- Submitting -------------------------------------------------------------------------------------------

FACT("enter returns how many SQEs it took, and never how many completions there are") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  ring.prepare_nops(1, 8);
  ring.publish();
  CHECK(ring.enter(8, 8, IORING_ENTER_GETEVENTS) == 8);
  CHECK(ring.enter(0, 8, IORING_ENTER_GETEVENTS) == 0);
  CHECK(ring.ready() == 8);
  ring.reap();
  ring.prepare_nops(1, 4);
  ring.publish();
  CHECK(ring.enter(4, 1, IORING_ENTER_GETEVENTS) == 4);
  CHECK(ring.enter(4) == 0);  // more than there is: no error
}

FACT("a batch stops after a bad SQE, which counts as taken and has its CQE; the rest stays in the SQ") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  ring.prepare_nops(1, 2);
  bad_opcode(ring.prepare(), Token{3});
  ring.prepare_nops(4, 5);
  CHECK(ring.submit() == 3);
  CHECK(ring.queued() == 2);
  CHECK(text_of(sorted(ring.reap())) == "1:0 2:0 3:-EINVAL");
  CHECK(ring.submit() == 2);
  CHECK(text_of(sorted(ring.reap())) == "4:0 5:0");
}

FACT("the CQE of a bad SQE comes behind those of the SQEs that were submitted before it") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  ring.prepare_nops(1, 2);
  bad_opcode(ring.prepare(), Token{3});
  CHECK(ring.submit() == 3);
  // The kernel gathers the CQEs of a batch and posts them at its end. Older kernels posted that of a bad SQE on the way.
  const std::string order = ring.results_now();
  if (order == "3:-EINVAL 1:0 2:0") return tests::differs("it comes first");
  CHECK(order == "1:0 2:0 3:-EINVAL");
}

FACT("with SUBMIT_ALL the batch goes on behind a bad SQE") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_setup_flag(IORING_SETUP_SUBMIT_ALL), "SUBMIT_ALL needs Linux 5.18");
  RawRing ring(8, IORING_SETUP_SUBMIT_ALL);
  ring.prepare_nops(1, 2);
  bad_opcode(ring.prepare(), Token{3});
  ring.prepare_nops(4, 5);
  CHECK(ring.submit() == 5);
  CHECK(text_of(sorted(ring.reap())) == "1:0 2:0 3:-EINVAL 4:0 5:0");
}

FACT("a bad descriptor is an error of the operation, not of the SQE: the batch goes on") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  char byte = 0;
  prep::read(ring.prepare(), -1, &byte, 1, 0, Token{1});
  ring.prepare_nops(2, 2);
  const int taken = ring.submit();
  if (taken == 1) {  // this kernel looks a descriptor up while it parses
    CHECK(ring.results_now() == "1:-EBADF");
    CHECK(ring.queued() == 1);
    return tests::differs("the batch stops behind it");
  }
  CHECK(taken == 2);
  CHECK(text_of(sorted(ring.reap())) == "1:-EBADF 2:0");
}

FACT("enter does not wait after a short submit") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  const Pipe pipe;
  char byte = 0;
  bad_opcode(ring.prepare(), Token{1});
  prep::read(ring.prepare(), pipe.read_end.get(), &byte, 1, uring::current_position, Token{2});
  ring.publish();
  const WaitLimit limit(patience);
  const auto start = Clock::now();
  CHECK(ring.enter(2, 2, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, limit.get()) == 1);
  CHECK(Clock::now() - start < patience / 2);
  CHECK(ring.results_now() == "1:-EINVAL");
  CHECK(ring.queued() == 1);
}

// ---- Waiting ----------------------------------------------------------------------------------------------

FACT("a wait that times out reports ETIME only if it submitted nothing and the CQ is empty") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  CHECK(ring.wait(1, 10ms) == -ETIME);

  ring.prepare_nops(1, 1);
  ring.publish();
  const WaitLimit limit(10ms);
  CHECK(ring.enter(1, 2, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, limit.get()) == 1);  // what it took
  CHECK(ring.wait(2, 10ms) == 0);  // one completion is there, two were wanted: no error, and no news either
}

FACT("a signal ends a wait with EINTR, SA_RESTART or not") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  const SignalStorm storm;
  CHECK(ring.wait(1, patience) == -EINTR);
}

FACT("a signal during a wait goes unreported if the call submitted something, or if a CQE is there") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  const Pipe pipe;
  char byte = 0;
  prep::read(ring.prepare(), pipe.read_end.get(), &byte, 1, uring::current_position, Token{1});
  ring.publish();
  const WaitLimit limit(patience);
  const auto start = Clock::now();
  {
    const SignalStorm storm;
    CHECK(ring.enter(1, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, limit.get()) == 1);
    CHECK(ring.ready() == 0);
  }
  ring.prepare_nops(2, 2);
  REQUIRE(ring.submit() == 1);
  {
    const SignalStorm storm;
    CHECK(ring.wait(2, patience) == 0);
    CHECK(ring.ready() == 1);
  }
  CHECK(Clock::now() - start < patience / 2);
}

FACT("a flag that another thread sets does not wake a waiting enter") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  std::atomic<bool> stop{false};
  const pid_t waiter = this_thread();
  std::thread other([&] {
    wait_until_asleep(waiter);
    stop = true;
  });
  const auto start = Clock::now();
  CHECK(ring.wait(1, 100ms) == -ETIME);
  CHECK(Clock::now() - start >= 100ms);
  other.join();
  CHECK(stop);
}

FACT("a min_wait without a time-out is one: if nothing came in that time, the wait fails with ETIME") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  SKIP_UNLESS((ring.params.features & abi::feat_min_timeout) != 0, "min_wait needs Linux 6.12");
  abi::getevents_arg argument{};
  argument.min_wait_usec = 10'000;
  CHECK(ring.enter(0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument) == -ETIME);
}

FACT("a min_wait that is longer than the time-out wins") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  SKIP_UNLESS((ring.params.features & abi::feat_min_timeout) != 0, "min_wait needs Linux 6.12");
  const WaitLimit limit(1ms);
  abi::getevents_arg argument = *limit.get();
  argument.min_wait_usec = 50'000;
  const auto start = Clock::now();
  CHECK(ring.enter(0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument) == -ETIME);
  CHECK(Clock::now() - start >= 50ms);
}

// ---- Errors -----------------------------------------------------------------------------------------------

FACT("each errno of enter means one thing") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  const Pipe pipe;
  const auto enter = [](int fd, unsigned flags, const abi::getevents_arg* argument = nullptr) {
    return uring::real_kernel.enter(nullptr, fd, 0, 0, flags, argument);
  };
  CHECK(enter(-1, 0) == -EBADF);                        // no descriptor
  CHECK(enter(pipe.read_end.get(), 0) == -EOPNOTSUPP);  // not an io_uring
  CHECK(enter(ring.fd.get(), 1u << 31) == -EINVAL);     // unknown flag
  abi::getevents_arg unreadable{};
  unreadable.ts = 8;  // no memory there
  CHECK(ring.enter(0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &unreadable) == -EFAULT);
  RawRing disabled(4, IORING_SETUP_R_DISABLED);
  disabled.prepare_nops(1, 1);
  CHECK(disabled.submit() == -EBADFD);
  CHECK(disabled.queued() == 1);
  CHECK(disabled.register_(IORING_REGISTER_ENABLE_RINGS) == 0);
  CHECK(disabled.register_(IORING_REGISTER_ENABLE_RINGS) == -EBADFD);
  CHECK(disabled.submit() == 1);
}

/// Registers the ring on this thread: its index, or -errno.
int register_here(RawRing& ring) {
  io_uring_rsrc_update update{};
  update.offset = ~0u;  // any free place
  update.data = static_cast<__u64>(ring.fd.get());
  const int result = ring.register_(IORING_REGISTER_RING_FDS, &update, 1);
  return result < 0 ? result : static_cast<int>(update.offset);
}

FACT("a registered ring's index means nothing on another thread") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().registered_ring_fd, "registered rings need Linux 5.18");
  elsewhere([] {
    RawRing ring(4);
    const int index = register_here(ring);
    const auto enter = [index] {
      return uring::real_kernel.enter(nullptr, index, 0, 0, IORING_ENTER_REGISTERED_RING, nullptr);
    };
    CHECK(enter() == 0);
    CHECK(elsewhere(enter) == -EINVAL);  // not -EEXIST, not even with SINGLE_ISSUER
    CHECK(elsewhere([&] {
            const RawRing own(1);
            return enter();
          }) == -EBADF);
  });
}

FACT("a thread can register sixteen rings; the next is EBUSY, and closing one frees no place") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().registered_ring_fd, "registered rings need Linux 5.18");
  elsewhere([] {  // what is registered there ends with the thread
    for (int i = 0; i < 16; ++i) {
      RawRing ring(1);
      CHECK(register_here(ring) == i);
    }
    RawRing ring(1);
    CHECK(register_here(ring) == -EBUSY);
    io_uring_rsrc_update update{};
    update.offset = 5;
    CHECK(ring.register_(IORING_UNREGISTER_RING_FDS, &update, 1) == 1);
    CHECK(register_here(ring) == 5);
  });
}

}  // namespace

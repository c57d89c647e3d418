// Facts about who may use a ring, and who runs the work that completes an operation: task-run modes, threads,
// messages between rings. No ring layer; docs/kernel-facts.md says what is commonly believed instead.

#include <doctest/doctest.h>
#include <sys/epoll.h>

#include <string>
#include <vector>

#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace tests::kernel;
using uring::Token;
namespace abi = uring::abi;
namespace prep = uring::prep;

constexpr std::uint32_t single_issuer = IORING_SETUP_SINGLE_ISSUER;
constexpr std::uint32_t deferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

void prepare_read(RawRing& ring, const SocketPair& pipe, char* byte) {
  prep::read(ring.prepare(), pipe.read_end.get(), byte, 1, uring::current_position, Token{1});
}

FACT("task-run modes exclude each other where they contradict") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  CHECK(try_setup(4, deferred) == 0);
  CHECK(try_setup(4, std::uint32_t{IORING_SETUP_DEFER_TASKRUN}) == -EINVAL);
  CHECK(try_setup(4, deferred | IORING_SETUP_SQPOLL) == -EINVAL);
  CHECK(try_setup(4, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SQPOLL) == -EINVAL);
  CHECK(try_setup(4, std::uint32_t{IORING_SETUP_TASKRUN_FLAG}) == -EINVAL);
  CHECK(try_setup(4, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG) == 0);
  CHECK(try_setup(4, std::uint32_t{IORING_SETUP_SQ_AFF}) == -EINVAL);
}

FACT("under SINGLE_ISSUER another thread's enter and register are refused with EEXIST") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_setup_flag(IORING_SETUP_SINGLE_ISSUER), "SINGLE_ISSUER needs Linux 6.0");
  RawRing ring(4, single_issuer);
  ring.prepare_nops(1, 1);
  CHECK(elsewhere([&] { return ring.submit(); }) == -EEXIST);
  CHECK(elsewhere([&] { return ring.register_(IORING_UNREGISTER_BUFFERS); }) == -EEXIST);
  CHECK(ring.queued() == 1);
  CHECK(ring.submit() == 1);
  CHECK(elsewhere([&] { return ring.wait(1, patience); }) ==
        0);  // waiting is allowed; DEFER_TASKRUN forbids it, too

  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  RawRing deferring(4, deferred);
  CHECK(elsewhere([&] { return deferring.get_events(); }) == -EEXIST);
}

FACT("the issuer is who created the ring, or who enabled it: a disabled ring can be handed over") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  RawRing ring(4, deferred | IORING_SETUP_R_DISABLED);
  ring.prepare_nops(1, 1);
  CHECK(elsewhere([&] {
          REQUIRE(ring.register_(IORING_REGISTER_ENABLE_RINGS) == 0);
          return ring.submit();
        }) == 1);
  ring.prepare_nops(2, 2);
  CHECK(ring.submit() == -EEXIST);
}

FACT("under DEFER_TASKRUN completions are posted in enter(GETEVENTS) and nowhere else") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  RawRing ring(4, deferred | IORING_SETUP_TASKRUN_FLAG);
  const SocketPair pipe;
  char byte = 0;
  prepare_read(ring, pipe, &byte);
  REQUIRE(ring.submit() == 1);
  CHECK_FALSE(ring.flag(IORING_SQ_TASKRUN));
  pipe.put(1);
  std::this_thread::sleep_for(a_while);
  CHECK(ring.ready() == 0);
  CHECK(ring.flag(IORING_SQ_TASKRUN));  // the hint that there is something to ask for
  CHECK(ring.enter(0) == 0);
  CHECK(ring.ready() == 0);
  CHECK(ring.get_events() == 0);
  CHECK(ring.results_now() == "1:1");
  CHECK_FALSE(ring.flag(IORING_SQ_TASKRUN));
}

FACT("under DEFER_TASKRUN task work runs in the order in which it came") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  RawRing ring(4, deferred);
  const std::vector<SocketPair> pairs(4);
  char bytes[4];
  for (const std::uint64_t name : {1U, 2U, 3U, 4U}) {
    prep::read(ring.prepare(), pairs[name - 1].read_end.get(), &bytes[name - 1], 1, uring::current_position,
               Token{name});
  }
  REQUIRE(ring.submit() == 4);
  for (const SocketPair& pair : pairs) pair.put(1);
  const std::string order = ring.results(4);
  if (order == "4:1 3:1 2:1 1:1") return tests::differs("the last comes first");
  CHECK(order == "1:1 2:1 3:1 4:1");
}

FACT("under DEFER_TASKRUN a wait for one makes some 20 completions, a wait for more makes as many") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  constexpr unsigned count = 100;
  RawRing ring(128, deferred);
  const std::vector<SocketPair> pipes(count);
  char bytes[count];
  for (unsigned i = 0; i < count; ++i) prepare_read(ring, pipes[i], &bytes[i]);
  REQUIRE(ring.submit() == static_cast<int>(count));
  for (const SocketPair& pipe : pipes) pipe.put(1);
  REQUIRE(ring.wait(1, patience) >= 0);
  const unsigned of_one = ring.ready();
  if (of_one == count) return tests::differs("a wait for one makes all that is ready");
  CHECK(of_one >= 1);
  CHECK(of_one <= 40);
  REQUIRE(ring.wait(of_one + 50, patience) >= 0);
  CHECK(ring.ready() >= of_one + 50);
}

FACT("a read that waits for a pipe needs no worker thread, neither while it waits nor when bytes come") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_feature(IORING_FEAT_NATIVE_WORKERS),
              "before Linux 5.12 workers are not among the process's threads");
  // In a child, which has no workers yet: how many there are while the read waits, times ten, and at its end.
  const auto workers_of = [](auto ends) {
    return in_child([] {
      RawRing ring(4);
      const decltype(ends) pair;
      char byte = 0;
      prep::read(ring.prepare(), pair.read_end.get(), &byte, 1, uring::current_position, Token{1});
      if (ring.submit() != 1) return 255;
      std::this_thread::sleep_for(a_while);
      const int waiting = workers_here();
      pair.put(1);
      if (ring.results(1) != "1:1") return 255;
      return 10 * waiting + workers_here();
    });
  };
  CHECK(workers_of(SocketPair()) == 0);
  const int of_pipe = workers_of(Pipe());
  if (of_pipe == 1) return tests::differs("when bytes come, a worker reads them");
  CHECK(of_pipe == 0);
}

FACT("without DEFER_TASKRUN a completion is posted by whatever system call the thread makes next") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4);
  const SocketPair pipe;
  char byte = 0;
  prepare_read(ring, pipe, &byte);
  REQUIRE(ring.submit() == 1);
  pipe.put(1);  // on its way back to user space
  CHECK(ring.results_now() == "1:1");
}

/// Blocks in epoll_wait (of nothing) while a read on this thread's ring completes; what epoll_wait returned,
/// or -errno. On a thread of its own, because of the fact below.
int wait_while_a_read_completes(std::uint32_t ring_flags, int milliseconds) {
  return elsewhere([=] {
    const uring::FileDescriptor nothing(::epoll_create1(EPOLL_CLOEXEC));
    RawRing ring(4, ring_flags);
    const SocketPair pipe;
    char byte = 0;
    prepare_read(ring, pipe, &byte);
    REQUIRE(ring.submit() == 1);
    const pid_t waiter = this_thread();
    std::thread writer([&] {
      wait_until_asleep(waiter);
      pipe.put(1);
    });
    epoll_event event{};
    const int result = ::epoll_wait(nothing.get(), &event, 1, milliseconds);
    const int error = errno;
    writer.join();
    CHECK(ring.results(1) == "1:1");
    return result < 0 ? -error : result;
  });
}

FACT("a completion interrupts other blocking system calls of its thread, but not with DEFER_TASKRUN") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  CHECK(wait_while_a_read_completes(0, 20'000) == -EINTR);  // and no signal far and wide
  CHECK(wait_while_a_read_completes(IORING_SETUP_COOP_TASKRUN, 20'000) == -EINTR);
  CHECK(wait_while_a_read_completes(deferred, 200) == 0);
}

FACT("a ring that is torn down interrupts its threads once more: a blocking call ends with EINTR") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const auto interrupted = [] {
    const uring::FileDescriptor nothing(::epoll_create1(EPOLL_CLOEXEC));
    {
      RawRing ring(4, deferred);
      ring.prepare_nops(1, 1);
      CHECK(ring.submit() == 1);
      CHECK(ring.results(1) == "1:0");
    }
    epoll_event event{};
    return ::epoll_wait(nothing.get(), &event, 1, 1000) < 0 ? errno : 0;
  };
  int seen = 0;
  for (int tries = 0; tries < 10 && seen == 0; ++tries)
    seen = elsewhere(interrupted);  // it may come too early
  CHECK(seen == EINTR);
}

// ---- Several rings ----------------------------------------------------------------------------------------

FACT("a descriptor works on any number of rings at once, and none of them needs to be told") {
  SKIP_WITHOUT_IO_URING();
  RawRing reader(4);
  RawRing writer(4);
  const SocketPair pipe;
  char byte = 0;
  prepare_read(reader, pipe, &byte);
  REQUIRE(reader.submit() == 1);
  prep::write(writer.prepare(), pipe.write_end.get(), "y", 1, uring::current_position, Token{2});
  REQUIRE(writer.submit() == 1);
  CHECK(writer.results(1) == "2:1");
  CHECK(reader.results(1) == "1:1");
  CHECK(byte == 'y');
}

FACT("MSG_RING wakes the thread that waits on another ring: between rings no eventfd is needed") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  RawRing sender(4);
  std::atomic<pid_t> waiter{0};
  std::atomic<int> target{-1};
  std::string received;
  std::thread other([&] {
    RawRing ring(4, deferred);
    target = ring.fd.get();
    waiter = this_thread();
    received = ring.results(1);
  });
  while (waiter == 0) std::this_thread::yield();
  wait_until_asleep(waiter);
  prep::msg_ring(sender.prepare(), target, 42, Token{7}, Token{1});
  CHECK(sender.submit() == 1);
  CHECK(sender.results(1) == "1:0");
  other.join();
  CHECK(received == "7:42");
}

FACT("a message to a ring whose CQ is full is not lost") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_MSG_RING), "MSG_RING needs Linux 5.18");
  RawRing sender(8);
  RawRing receiver(2, 0, 2);
  for (std::uint64_t i = 1; i <= 5; ++i) {
    prep::msg_ring(sender.prepare(), receiver.fd.get(), static_cast<int>(i), Token{i}, Token{i});
  }
  CHECK(sender.submit() == 5);
  CHECK(sender.results(5) == "1:0 2:0 3:0 4:0 5:0");
  CHECK(receiver.results(5) == "1:1 2:2 3:3 4:4 5:5");
}

FACT("a message can be sent without having a ring") {
  SKIP_WITHOUT_IO_URING();
  RawRing receiver(2);
  io_uring_sqe message{};
  prep::msg_ring(message, receiver.fd.get(), 42, Token{7}, Token{});
  const int sent = uring::real_kernel.register_(nullptr, -1, abi::register_send_msg_ring, &message, 1);
  SKIP_UNLESS(sent != -EINVAL && sent != -EBADF, "REGISTER_SEND_MSG_RING needs Linux 6.13");
  CHECK(sent == 0);
  CHECK(receiver.results(1) == "7:42");
}

// ---- SQPOLL -----------------------------------------------------------------------------------------------

/// Returns when the SQPOLL thread of `ring` sleeps (or patience ends).
void wait_until_idle(const RawRing& ring) {
  eventually([&] { return ring.flag(IORING_SQ_NEED_WAKEUP); });
}

FACT("a tail stored while the SQPOLL thread sleeps is not seen until somebody wakes it") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4, IORING_SETUP_SQPOLL);
  wait_until_idle(ring);
  ring.prepare_nops(1, 1);
  ring.publish();
  std::this_thread::sleep_for(a_while);
  CHECK(ring.queued() == 1);
  CHECK(ring.ready() == 0);
  CHECK(ring.enter(0, 0, IORING_ENTER_SQ_WAKEUP) == 0);
  CHECK(ring.results(1) == "1:0");
}

FACT("an SQPOLL thread sleeps until its first work, then spins, on the process's account") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4, IORING_SETUP_SQPOLL, 0, 600'000);
  CHECK(eventually([&] { return ring.flag(IORING_SQ_NEED_WAKEUP); }));
  ring.prepare_nops(1, 1);
  ring.publish();
  REQUIRE(ring.enter(0, 0, IORING_ENTER_SQ_WAKEUP) == 0);
  const auto cpu_time = [](clockid_t clock) {
    timespec time{};
    ::clock_gettime(clock, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  const auto of_others = [&] {
    return cpu_time(CLOCK_PROCESS_CPUTIME_ID) - cpu_time(CLOCK_THREAD_CPUTIME_ID);
  };
  const auto before = of_others();
  CHECK(eventually([&] { return of_others() - before >= 30ms; }));
  CHECK_FALSE(ring.flag(IORING_SQ_NEED_WAKEUP));
}

FACT("on an SQPOLL ring enter returns the number it was passed, whatever there was to take") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4, IORING_SETUP_SQPOLL);
  CHECK(ring.queued() == 0);
  CHECK(ring.enter(5) == 5);
  CHECK(ring.ready() == 0);
}

FACT("SQ_WAIT waits until the SQPOLL thread made room; it may end early, like any wait") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(4, IORING_SETUP_SQPOLL);
  wait_until_idle(ring);
  ring.prepare_nops(1, 4);
  ring.publish();
  REQUIRE(ring.queued() == 4);
  CHECK(ring.enter(0, 0, IORING_ENTER_SQ_WAKEUP) == 0);
  int calls = 0;
  for (; ring.queued() == 4 && calls < 1000; ++calls) CHECK(ring.enter(0, 0, IORING_ENTER_SQ_WAIT) == 0);
  CHECK(ring.queued() < 4);
  CHECK(ring.take(4).size() == 4);
}

FACT("sq_thread_cpu means nothing without SQ_AFF") {
  SKIP_WITHOUT_IO_URING();
  const auto allowed_cpus = [](std::uint32_t flags) {
    const RawRing ring(4, flags);  // sq_thread_cpu is 0
    wait_until_idle(ring);         // the thread sets its affinity itself
    return cpus_of_sqpoll_thread(ring.fd.get());
  };
  SKIP_UNLESS(std::thread::hardware_concurrency() > 1, "there is one CPU only");
  CHECK(allowed_cpus(IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF) == "0");
  const std::string without = allowed_cpus(IORING_SETUP_SQPOLL);
  CHECK(without != "");
  CHECK(without != "0");
}

}  // namespace

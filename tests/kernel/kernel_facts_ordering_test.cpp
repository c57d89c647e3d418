// Facts about order and task work: what waits for the thread that owns a DEFER_TASKRUN ring, although it looks as if the
// kernel would go on by itself. docs/kernel-facts.md says what is commonly believed instead.
//
// Under DEFER_TASKRUN everything that happens after an operation has done its work happens in io_uring_enter of the
// ring's owner: its CQE, and whatever begins when it is complete.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <string>
#include <thread>

#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace tests::kernel;
using uring::Token;
namespace prep = uring::prep;

constexpr std::uint32_t deferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

/// Whether poll(2) says within a while that there is something to read.
bool is_readable(int fd) {
  ::pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&ready, 1, static_cast<int>(a_while.count())) == 1;
}

/// Completes on a worker thread, after the submission.
void write_by_worker(io_uring_sqe& sqe, int file, const char* byte, std::uint64_t offset,
                     std::uint64_t name) {
  prep::write(sqe, file, byte, 1, offset, Token{name});
  prep::force_async(sqe);
}

/// What is in the file, after a while in which nobody enters.
std::string content_after_a_while(int file) {
  std::this_thread::sleep_for(a_while);
  char bytes[8];
  const ssize_t size = ::pread(file, bytes, sizeof bytes, 0);
  return {bytes, static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

FACT("a poll of a DEFER_TASKRUN ring sleeps through its completions; an eventfd is signalled") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const uring::FileDescriptor file(::memfd_create("ordering", MFD_CLOEXEC));
  const uring::FileDescriptor bell(::eventfd(0, EFD_CLOEXEC));
  RawRing ring(8, deferred);
  int bell_fd = bell.get();
  CHECK(ring.register_(IORING_REGISTER_EVENTFD, &bell_fd, 1) == 0);

  // Somebody waits on the ring's descriptor, as an event loop would, before the write is submitted by its owner.
  std::atomic<bool> polls{false};
  auto polled = std::async(std::launch::async, [&] {
    polls = true;
    ::pollfd ready{.fd = ring.fd.get(), .events = POLLIN, .revents = 0};
    const auto start = Clock::now();
    ::poll(&ready, 1, 500);  // at its end it looks once more, and then it sees it
    return Clock::now() - start;
  });
  CHECK(eventually([&] { return polls.load(); }));
  std::this_thread::sleep_for(a_while);
  write_by_worker(ring.prepare(), file.get(), "a", 0, 1);
  CHECK(ring.submit() == 1);
  CHECK(is_readable(bell.get()));
  const bool slept = polled.get() >= 500ms;
  if (slept) CHECK(ring.ready() == 0);  // there is no CQE yet, only the work of making one
  CHECK(ring.results(1) == "1:1");

  RawRing plain(8);
  write_by_worker(plain.prepare(), file.get(), "a", 0, 2);
  CHECK(plain.submit() == 1);
  CHECK(is_readable(plain.fd.get()));
  CHECK(plain.results(1) == "2:1");
  if (!slept) tests::differs("the poll wakes, too");
}

FACT("under DEFER_TASKRUN an eventfd is signalled once for all task work that waits") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const uring::FileDescriptor file(::memfd_create("ordering", MFD_CLOEXEC));
  const uring::FileDescriptor bell(::eventfd(0, EFD_CLOEXEC));
  RawRing ring(8, deferred);
  int bell_fd = bell.get();
  CHECK(ring.register_(IORING_REGISTER_EVENTFD, &bell_fd, 1) == 0);
  for (std::uint64_t name = 1; name <= 4; ++name) {
    write_by_worker(ring.prepare(), file.get(), "a", name, name);
  }
  CHECK(ring.submit() == 4);
  CHECK(content_after_a_while(file.get()).size() == 5);
  std::uint64_t rung = 0;
  CHECK(::read(bell.get(), &rung, sizeof rung) == sizeof rung);
  const unsigned posted = ring.ready();
  CHECK(text_of(sorted(ring.take(4))) == "1:1 2:1 3:1 4:1");
  if (rung == 4 && posted == 4) return tests::differs("a worker posts its CQE itself: one signal for each");
  CHECK(rung == 1);
  CHECK(posted == 0);
}

FACT("under DEFER_TASKRUN the next link of a chain begins when the ring's owner enters") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const auto chain = [](RawRing& ring, int file) {
    io_uring_sqe& first = ring.prepare();
    write_by_worker(first, file, "a", 0, 1);
    prep::link(first);
    write_by_worker(ring.prepare(), file, "b", 1, 2);
    CHECK(ring.submit() == 2);
  };
  const uring::FileDescriptor file(::memfd_create("ordering", MFD_CLOEXEC));
  RawRing ring(8, deferred);
  chain(ring, file.get());
  const std::string begun = content_after_a_while(file.get());
  CHECK(ring.results(2) == "1:1 2:1");
  CHECK(content_after_a_while(file.get()) == "ab");

  const uring::FileDescriptor other(::memfd_create("ordering", MFD_CLOEXEC));
  RawRing plain(8);
  chain(plain, other.get());
  CHECK(content_after_a_while(other.get()) == "ab");
  CHECK(plain.results(2) == "1:1 2:1");
  if (begun == "ab") return tests::differs("the worker that ran the first link begins the next");
  CHECK(begun == "a");
}

FACT("under DEFER_TASKRUN what has DRAIN begins when the ring's owner enters") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const uring::FileDescriptor file(::memfd_create("ordering", MFD_CLOEXEC));
  RawRing ring(8, deferred);
  write_by_worker(ring.prepare(), file.get(), "a", 0, 1);
  io_uring_sqe& drained = ring.prepare();
  write_by_worker(drained, file.get(), "b", 1, 2);
  prep::drain(drained);
  CHECK(ring.submit() == 2);
  CHECK(content_after_a_while(file.get()) == "a");
  CHECK(ring.results(2) == "1:1 2:1");
  CHECK(content_after_a_while(file.get()) == "ab");
}

FACT("under DEFER_TASKRUN a wait for two can sleep for ever if DRAIN stands between them") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const auto wait_for_two = [](std::uint32_t flags) {
    const SocketPair pipe;
    RawRing ring(8, flags);
    static char byte;
    prep::read(ring.prepare(), pipe.read_end.get(), &byte, 1, uring::current_position, Token{1});
    io_uring_sqe& drained = ring.prepare();
    prep::nop(drained, Token{2});
    prep::drain(drained);
    CHECK(ring.submit() == 2);
    // What the read waits for comes while somebody waits for both, and wakes nobody: it is one of two.
    std::thread writer([&] {
      std::this_thread::sleep_for(a_while);
      pipe.put(1);
    });
    const auto start = Clock::now();
    ring.wait(2, 1s);
    const auto time = Clock::now() - start;
    writer.join();
    CHECK(ring.results(2) == "1:1 2:0");
    return time;
  };
  CHECK(wait_for_two(0) < 1s);
  const auto time = wait_for_two(deferred);
  if (time < 500ms) return tests::differs("the first wakes it, and the second begins");
  CHECK(time >= 1s);
}

FACT("after a DRAIN a ring goes on draining, as long as anything is in flight") {
  SKIP_WITHOUT_IO_URING();
  const SocketPair first;
  const SocketPair second;
  RawRing ring(8);
  static char bytes[2];
  const auto pending = [&](const SocketPair& pipe, std::uint64_t name) {
    prep::read(ring.prepare(), pipe.read_end.get(), &bytes[name - 1], 1, uring::current_position,
               Token{name});
  };
  const auto nop = [&](std::uint64_t name) { prep::nop(ring.prepare(), Token{name}); };
  pending(first, 1);
  io_uring_sqe& drained = ring.prepare();
  prep::nop(drained, Token{3});
  prep::drain(drained);
  pending(second, 2);
  CHECK(ring.submit() == 3);
  first.put(1);
  CHECK(ring.results(2) == "1:1 3:0");  // the DRAIN is over; the second read is in flight
  nop(4);
  CHECK(ring.submit() == 1);
  std::this_thread::sleep_for(a_while);
  CHECK(ring.get_events() == 0);
  const std::string beside = ring.results_now();
  second.put(1);
  if (beside == "4:0") {
    CHECK(ring.results(1) == "2:1");
    return tests::differs("it goes on like any other ring when the drained operation is over");
  }
  CHECK(beside.empty());  // the read that is in flight holds up a NOP without any flag
  CHECK(ring.results(2) == "2:1 4:0");
  // When nothing is in flight, it is a ring like any other again.
  pending(first, 1);
  nop(5);
  CHECK(ring.submit() == 2);
  CHECK(ring.results(1) == "5:0");
  first.put(1);
  CHECK(ring.results(1) == "1:1");
}

}  // namespace

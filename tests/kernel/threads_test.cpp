// Rings and threads on the real kernel: whose ring it is, what a child may do with it, several rings side by
// side, messages between them, and the end: cancel everything, then wait for every operation's own
// completion.

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <map>
#include <mutex>
#include <set>
#include <string>

#include "tests/kernel/kernel_support.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"

namespace {

using namespace tests::kernel;
using uring::current_position;
using uring::Ring;
using uring::Token;
namespace prep = uring::prep;

// ---- Whose ring it is -------------------------------------------------------------------------------------

TEST_CASE("the wrong thread hears EEXIST, whatever it tries, and nothing is lost by it") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .register_ring_fd = false});
  SKIP_UNLESS((ring.setup_flags() & IORING_SETUP_DEFER_TASKRUN) != 0, "DEFER_TASKRUN needs Linux 6.1");
  prep::nop(next(ring), Token{1});
  CHECK(elsewhere([&] { return ring.submit(); }) == -EEXIST);
  CHECK(elsewhere([&] { return ring.submit_and_wait(1, patience).error; }) == -EEXIST);
  CHECK(ring.unsubmitted() == 1);
  CHECK(results(ring, 1) == "1:0");

  // Of a socket, so that it completes by task work: what is read of a pipe, 6.1 leaves to a worker, and that posts it.
  std::array<int, 2> ends{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
  const uring::FileDescriptor ours(ends[0]);
  const uring::FileDescriptor peer(ends[1]);
  char byte = 0;
  prep::recv(next(ring), ours.get(), &byte, 1, 0, Token{2});
  REQUIRE(ring.submit() == 1);
  REQUIRE(::send(peer.get(), "x", 1, 0) == 1);
  REQUIRE(ring.pending());
  CHECK(elsewhere([&] { return ring.harvest([](const io_uring_cqe&) {}); }) == -EEXIST);
  CHECK(results(ring, 1) == "2:1");
}

#ifndef NDEBUG
TEST_CASE("a registered ring on the wrong thread is an assertion: its index would mean another ring there") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(linux_at_least(5, 18), "registered rings need Linux 5.18");
  CHECK(in_child([] {
          ::close(STDERR_FILENO);  // what assert has to say is expected
          Ring ring({.entries = 4});
          prep::nop(next(ring), Token{1});
          std::thread([&] { ring.submit(); }).join();
          return 0;
        }) == 256 + SIGABRT);
}
#endif

TEST_CASE("a disabled ring belongs to the thread that enables it") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(linux_at_least(6, 1), "DEFER_TASKRUN needs Linux 6.1");
  Ring ring({.entries = 4,
             .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED,
             .register_ring_fd = false});
  CHECK(elsewhere([&] {
          CHECK(ring.enable() == 0);
          prep::nop(next(ring), Token{1});
          return results(ring, 1);
        }) == "1:0");
  prep::nop(next(ring), Token{2});
  CHECK(ring.submit() == -EEXIST);
}

TEST_CASE("enabled by a worker, a ring is registered there, and may be destroyed by another thread") {
  SKIP_WITHOUT_IO_URING();
  const std::size_t descriptors = open_descriptors();
  {
    Ring ring({.entries = 4, .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED});
    elsewhere([&] {
      CHECK(ring.enable() == 0);
      CHECK(ring.ring_fd_registered() == linux_at_least(5, 18));
      prep::nop(next(ring), Token{1});
      CHECK(results(ring, 1) == "1:0");
    });
    Ring own({.entries = 4});  // may well have the same index, on this thread
  }
  CHECK(open_descriptors() == descriptors);
}

TEST_CASE("without SINGLE_ISSUER, and unregistered, threads may take turns on a ring") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 8, .flags = 0, .register_ring_fd = false});
  std::mutex turn;
  std::multiset<std::uint64_t> seen;
  const auto work = [&](std::uint64_t first) {
    for (std::uint64_t name = first; name < first + 200; ++name) {
      const std::lock_guard lock(turn);
      prep::nop(next(ring), Token{name});
      for (const Completion& completion : take(ring, 1)) seen.insert(completion.user_data);
    }
  };
  std::thread one(work, 0);
  std::thread two(work, 1000);
  one.join();
  two.join();
  CHECK(seen.size() == 400);
  CHECK(std::set(seen.begin(), seen.end()).size() == 400);
}

TEST_CASE("a forked child that uses the ring is refused, and the parent goes on unharmed") {
  SKIP_WITHOUT_IO_URING();
  for (const bool registered : {true, false}) {
    CAPTURE(registered);
    Ring ring({.entries = 4, .register_ring_fd = registered});
    SKIP_UNLESS((ring.setup_flags() & IORING_SETUP_SINGLE_ISSUER) != 0, "SINGLE_ISSUER needs Linux 6.0");
    const Pipe pipe;
    char byte = 0;
    prep::read(next(ring), pipe.read_end.get(), &byte, 1, current_position, Token{1});
    REQUIRE(ring.submit() == 1);
    const int in_the_child = in_child([&] {
      prep::nop(next(ring), Token{99});
      const int result = -ring.submit();
      ring.~Ring();  // as a child would on its way out; the process ends before anybody can notice
      return result;
    });
    CHECK(in_the_child == (registered && linux_at_least(5, 18) ? EINVAL : EEXIST));
    pipe.put(1);
    CHECK(results(ring, 1) == "1:1");
    prep::nop(next(ring), Token{2});
    CHECK(results(ring, 1) == "2:0");
  }
}

// ---- Several rings ----------------------------------------------------------------------------------------

TEST_CASE("two rings on one thread do not mix, although the same descriptors are in use on both") {
  SKIP_WITHOUT_IO_URING();
  Ring readers({.entries = 4});
  Ring writers({.entries = 4});
  const Pipe pipe;
  std::array<char, 4> bytes{};
  for (std::uint64_t i = 0; i < 4; ++i) {
    prep::read(next(readers), pipe.read_end.get(), &bytes[i], 1, current_position, Token{i});
    prep::write(next(writers), pipe.write_end.get(), "w", 1, current_position, Token{i + 10});
  }
  CHECK(readers.submit() == 4);
  CHECK(text_of(sorted(take(writers, 4))) == "10:1 11:1 12:1 13:1");
  CHECK(text_of(sorted(take(readers, 4))) == "0:1 1:1 2:1 3:1");
  CHECK(harvest_all(writers).empty());
  CHECK(bytes == std::array<char, 4>{'w', 'w', 'w', 'w'});
}

TEST_CASE("a message wakes the thread that waits on another ring; value and user_data arrive intact") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(linux_at_least(5, 18), "MSG_RING needs Linux 5.18");
  std::atomic<int> target{-1};
  std::atomic<pid_t> waiter{0};
  std::vector<Completion> received;
  std::thread receiver([&] {
    Ring ring({.entries = 4});
    target = ring.fd();
    waiter = this_thread();
    received = take(ring, 1);
  });
  while (waiter == 0) std::this_thread::yield();
  wait_until_asleep(waiter);
  Ring sender({.entries = 4});
  prep::msg_ring(next(sender), target, -7, Token{~std::uint64_t{0}}, Token{1});
  CHECK(results(sender, 1) == "1:0");
  receiver.join();
  REQUIRE(received.size() == 1);
  CHECK(received[0].user_data == ~std::uint64_t{0});
  CHECK(received[0].res == -7);
}

TEST_CASE("messages to a full ring arrive all the same, in order; a target that is no ring is EBADFD") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(linux_at_least(5, 18), "MSG_RING needs Linux 5.18");
  Ring sender({.entries = 8});
  Ring receiver({.entries = 2, .cq_entries = 2});
  for (int i = 1; i <= 6; ++i) {
    prep::msg_ring(next(sender), receiver.fd(), i, Token{100}, Token{static_cast<std::uint64_t>(i)});
  }
  CHECK(text_of(sorted(take(sender, 6))) == "1:0 2:0 3:0 4:0 5:0 6:0");
  CHECK(results(receiver, 6) == "100:1 100:2 100:3 100:4 100:5 100:6");
  const Pipe pipe;
  prep::msg_ring(next(sender), pipe.read_end.get(), 1, Token{100}, Token{7});
  CHECK(results(sender, 1) == "7:-EBADFD");
}

// ---- The end ----------------------------------------------------------------------------------------------

TEST_CASE("cancel everything: then every operation completes once, by its own CQE, and the ring is empty") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(linux_at_least(5, 19), "CANCEL_ANY needs Linux 5.19");
  Ring ring({.entries = 16, .cq_entries = 64});
  const Pipe pipe;
  const uring::FileDescriptor counter(::eventfd(0, EFD_CLOEXEC));
  const __kernel_timespec long_time{.tv_sec = 1000, .tv_nsec = 0};
  std::array<char, 4> bytes{};
  std::uint64_t value = 0;
  for (std::uint64_t i = 0; i < 4; ++i) {
    prep::read(next(ring), pipe.read_end.get(), &bytes[i], 1, current_position, Token{i});
  }
  prep::read(next(ring), counter.get(), &value, sizeof value, current_position, Token{4});
  prep::poll_add(next(ring), counter.get(), POLLIN, Token{5});
  prep::poll_multishot(next(ring), pipe.read_end.get(), POLLIN, Token{6});
  prep::timeout(next(ring), &long_time, 0, 0, Token{7});
  REQUIRE(ring.submit() == 8);

  prep::async_cancel_any(next(ring), Token{100});
  std::map<std::uint64_t, std::vector<Completion>> by_name;
  for (const Completion& completion : take(ring, 9)) by_name[completion.user_data].push_back(completion);
  CHECK(by_name.size() == 9);
  REQUIRE(by_name[100].size() == 1);
  CHECK(by_name[100][0].res == 8);  // how many it found
  for (std::uint64_t name = 0; name < 8; ++name) {
    CAPTURE(name);
    REQUIRE(by_name[name].size() == 1);
    CHECK(by_name[name][0].res == -ECANCELED);
    CHECK_FALSE(by_name[name][0].more());
  }
  prep::async_cancel_any(next(ring), Token{101});
  CHECK(results(ring, 1) == "101:0");
  CHECK(harvest_all(ring).empty());
}

}  // namespace

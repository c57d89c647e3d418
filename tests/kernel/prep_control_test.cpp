// SQEs about other operations, and the flags of every SQE, on the running kernel: what prep_control.hpp and
// prep_fill.hpp say, seen to be so.

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <memory>
#include <thread>

#include "tests/kernel/prep_helpers.hpp"
#include "tests/support/fact.hpp"

using namespace prep_tests;

namespace {

constexpr __kernel_timespec milliseconds(long count) { return {.tv_sec = 0, .tv_nsec = count * 1'000'000}; }
constexpr __kernel_timespec one_hour{.tv_sec = 3600, .tv_nsec = 0};

constexpr int erestartsys = 512;  // not in <errno.h>: it was never meant to leave the kernel

FileDescriptor counter() { return FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

void add_one(const FileDescriptor& counter) {
  const std::uint64_t one = 1;
  REQUIRE(::write(counter.get(), &one, sizeof one) == sizeof one);
}

/// What a cancellation says of an operation on a worker thread that it ends. ENOENT is rare, and was seen on 6.18: the
/// operation was running when the kernel found it, and had ended when the kernel looked for the reason.
bool is_interrupting(int result) { return result == -EALREADY || result == -ENOENT; }

/// Puts `fd` under another number of our choice, that of a descriptor which is closed by it.
void take_over(const FileDescriptor& fd, int number) { REQUIRE(dup3(fd.get(), number, O_CLOEXEC) == number); }

}  // namespace

TEST_CASE("poll_add: res is the set of events that are there, once") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Pair pair = unix_pair();
  prep::poll_add(ring.sqe(), pair.here.get(), POLLIN | POLLOUT, Token{1});
  CHECK(ring.result(1) == POLLOUT);
  prep::poll_add(ring.sqe(), pair.here.get(), POLLIN, Token{2});
  CHECK(ring.quiet());
  write_all(pair.there, "x");
  const Completion readable = ring.of(2);
  CHECK(readable.res == POLLIN);
  CHECK_FALSE(readable.more());
  pair.there.reset();
  prep::poll_add(ring.sqe(), pair.here.get(), POLLPRI, Token{3});
  CHECK((ring.result(3) & POLLHUP) != 0);
  prep::poll_add(ring.sqe(), -1, POLLIN, Token{4});
  CHECK(ring.result(4) == -EBADF);
}

TEST_CASE("an epoll descriptor can be polled through the ring: one loop for both worlds") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor event = counter();
  const FileDescriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event interest{.events = EPOLLIN, .data = {.u64 = 1}};
  REQUIRE(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &interest) == 0);
  prep::poll_add(ring.sqe(), epoll.get(), POLLIN, Token{1});
  CHECK(ring.quiet());
  add_one(event);
  CHECK(ring.result(1) == POLLIN);
}

TEST_CASE("poll_multishot tells of each change, not of the state") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::kernel::has_multishot_poll(), "multishot poll needs Linux 5.13");
  TestRing ring;
  const FileDescriptor event = counter();
  prep::poll_multishot(ring.sqe(), event.get(), POLLIN, Token{1});
  for (int i = 0; i < 3; ++i) {
    add_one(event);  // and never read: the counter stays readable
    const Completion changed = ring.of(1);
    CHECK(changed.res == POLLIN);
    CHECK(changed.more());
    CHECK(ring.quiet());
  }
  prep::poll_remove(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == 0);
  const Completion ended = ring.of(1);
  CHECK(ended.res == -ECANCELED);
  CHECK_FALSE(ended.more());
}

TEST_CASE("poll_remove ends polls and nothing else") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  char byte;
  prep::recv(ring.sqe(), pair.here.get(), &byte, 1, 0, Token{1});
  prep::poll_remove(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == -ENOENT);
  CHECK(ring.quiet());
}

TEST_CASE("a timeout that expires says ETIME, one whose count is reached says 0; the timespec may die") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  auto soon = std::make_unique<__kernel_timespec>(milliseconds(20));
  prep::timeout(ring.sqe(), soon.get(), 0, 0, Token{1});
  CHECK(ring.submit() == 0);
  *soon = one_hour;
  soon.reset();
  CHECK(ring.result(1) == -ETIME);
  prep::timeout(ring.sqe(), &one_hour, 2, 0, Token{2});
  prep::nop(ring.sqe(), Token{3});
  CHECK(ring.result(3) == 0);
  CHECK(ring.quiet());
  prep::nop(ring.sqe(), Token{4});
  CHECK(ring.result(2) == 0);
  CHECK(ring.result(4) == 0);
}

FACT("timeouts: an absolute one in the past is over, a negative one is no time, boot time is a clock") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const __kernel_timespec after_boot{.tv_sec = 1, .tv_nsec = 0};
  prep::timeout(ring.sqe(), &after_boot, 0, IORING_TIMEOUT_ABS, Token{1});
  CHECK(ring.result(1) == -ETIME);
  const __kernel_timespec negative{.tv_sec = -1, .tv_nsec = 0};
  prep::timeout(ring.sqe(), &negative, 0, 0, Token{2});
  if (ring.quiet(std::chrono::seconds(1))) return tests::differs("a negative timeout never ends");
  CHECK(ring.result(2) == -EINVAL);
  SKIP_UNLESS(understands([&](io_uring_sqe& sqe) {
                prep::timeout(sqe, &after_boot, 0, IORING_TIMEOUT_ABS | IORING_TIMEOUT_BOOTTIME, Token{1});
              }),
              "the other clocks need Linux 5.15");
  for (const std::uint32_t clock : {IORING_TIMEOUT_BOOTTIME, IORING_TIMEOUT_REALTIME}) {
    prep::timeout(ring.sqe(), &after_boot, 0, IORING_TIMEOUT_ABS | clock, Token{3});
    CHECK(ring.result(3) == -ETIME);
  }
}

TEST_CASE("timeout_multishot ticks as often as it was told, the last time without F_MORE") {
  SKIP_WITHOUT_IO_URING();
  const __kernel_timespec interval = milliseconds(2);
  SKIP_UNLESS(
      understands([&](io_uring_sqe& sqe) { prep::timeout_multishot(sqe, &interval, 3, 0, Token{1}); }),
      "multishot timeouts need Linux 6.4");
  TestRing ring;
  prep::timeout_multishot(ring.sqe(), &interval, 3, 0, Token{1});
  for (const bool more : {true, true, false}) {
    const Completion tick = ring.of(1);
    CHECK(tick.res == -ETIME);
    CHECK(tick.more() == more);
  }
  CHECK(ring.quiet());
  prep::timeout_multishot(ring.sqe(), &interval, 0, 0, Token{2});
  for (int i = 0; i < 5; ++i) CHECK(ring.of(2).more());
  prep::async_cancel(ring.sqe(), Token{2}, Token{3});
  ring.result(3);
  Completion tick = ring.of(2);
  // A slow machine has many ticks behind it by now.
  const auto deadline = tests::kernel::Clock::now() + tests::kernel::patience;
  while (tick.more() && tests::kernel::Clock::now() < deadline) tick = ring.of(2);
  CHECK_FALSE(tick.more());
  CHECK(tick.res == -ECANCELED);
  prep::timeout_multishot(ring.sqe(), &interval, 3, IORING_TIMEOUT_ABS, Token{4});
  CHECK(ring.result(4) == -EINVAL);
}

TEST_CASE("timeout_remove: the timeout completes with ECANCELED, its own result is 0, or ENOENT") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  prep::timeout(ring.sqe(), &one_hour, 0, 0, Token{1});
  prep::timeout_remove(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == 0);
  CHECK(ring.result(1) == -ECANCELED);
  prep::timeout_remove(ring.sqe(), Token{1}, Token{3});
  CHECK(ring.result(3) == -ENOENT);
}

TEST_CASE("link_timeout: two CQEs whichever of the two wins; the timespec may die") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  char byte;
  const auto recv_before = [&](const __kernel_timespec* deadline) {
    io_uring_sqe& sqe = ring.sqe();
    prep::recv(sqe, pair.here.get(), &byte, 1, 0, Token{1});
    prep::link(sqe);
    prep::link_timeout(ring.sqe(), deadline, 0, Token{2});
    CHECK(ring.submit() == 0);
  };
  auto soon = std::make_unique<__kernel_timespec>(milliseconds(20));
  recv_before(soon.get());
  *soon = one_hour;
  soon.reset();
  CHECK(ring.result(1) == -ECANCELED);
  CHECK(ring.result(2) == -ETIME);
  recv_before(&one_hour);
  write_all(pair.there, "x");
  CHECK(ring.result(1) == 1);
  CHECK(ring.result(2) == -ECANCELED);
  prep::link_timeout(ring.sqe(), &one_hour, 0, Token{3});
  CHECK(ring.result(3) == -EINVAL);
}

TEST_CASE("the clock of a link_timeout starts with the operation before it, not with submit") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  const __kernel_timespec shorter_than_the_delay = milliseconds(25);
  char byte;
  write_all(pair.there, "x");
  run_the_next_one_later(ring, Token{1});
  io_uring_sqe& sqe = ring.sqe();
  prep::recv(sqe, pair.here.get(), &byte, 1, 0, Token{2});
  prep::link(sqe);
  prep::link_timeout(ring.sqe(), &shorter_than_the_delay, 0, Token{3});
  CHECK(ring.result(2) == 1);
  CHECK(ring.result(3) == -ECANCELED);
}

TEST_CASE("async_cancel by token: 0 and the target's ECANCELED, or ENOENT when nothing waits by that name") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  char byte;
  prep::recv(ring.sqe(), pair.here.get(), &byte, 1, 0, Token{1});
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == 0);
  CHECK(ring.result(1) == -ECANCELED);
  prep::async_cancel(ring.sqe(), Token{1}, Token{3});
  CHECK(ring.result(3) == -ENOENT);
  // A descriptor's number where the token belongs is a token that nobody has.
  prep::recv(ring.sqe(), pair.here.get(), &byte, 1, 0, Token{1000});
  prep::async_cancel(ring.sqe(), Token{static_cast<std::uint64_t>(pair.here.get())}, Token{4});
  CHECK(ring.result(4) == -ENOENT);
  prep::timeout(ring.sqe(), &one_hour, 0, 0, Token{5});
  prep::async_cancel(ring.sqe(), Token{5}, Token{6});
  CHECK(ring.result(6) == 0);
  CHECK(ring.result(5) == -ECANCELED);
}

TEST_CASE("what a worker thread runs is interrupted: EALREADY, and the operation ends by itself soon") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair from = pipe_pair();
  const Pair to = pipe_pair();
  prep::splice(ring.sqe(), from.here.get(), uring::current_position, to.there.get(), uring::current_position,
               10, 0, Token{1});
  CHECK(ring.quiet());
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  CHECK(is_interrupting(ring.result(2)));
  const int interrupted = ring.result(1);
  CHECK((interrupted == -EINTR || interrupted == -erestartsys || interrupted == -ECANCELED));
}

FACT("a link_timeout does not stop what blocks on a worker thread; cancelling does") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair from = pipe_pair();
  const Pair to = pipe_pair();
  const __kernel_timespec soon = milliseconds(40);  // the splice has begun by then
  io_uring_sqe& sqe = ring.sqe();
  prep::splice(sqe, from.here.get(), uring::current_position, to.there.get(), uring::current_position, 10, 0,
               Token{1});
  prep::link(sqe);
  prep::link_timeout(ring.sqe(), &soon, 0, Token{2});
  if (!ring.quiet(std::chrono::milliseconds(200))) {
    const int stopped = ring.result(1);
    const int timer = ring.result(2);
    CHECK(((stopped == -EINTR && timer == -ENOENT) || (stopped == -erestartsys && timer == -EALREADY)));
    return tests::differs("it does, and says that it found nothing to stop, or EALREADY");
  }
  prep::async_cancel(ring.sqe(), Token{1}, Token{3});
  CHECK(is_interrupting(ring.result(3)));
  CHECK(ring.result(1) < 0);
  // The timer starts when the splice returns; on a loaded machine it may even fire, and finds nothing to stop.
  const int timer = ring.result(2);
  CHECK((timer == -ECANCELED || timer == -ENOENT));
}

FACT("a send that had begun when it was cancelled completes with the bytes it has sent") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  const std::string large(1 << 22, 'x');
  prep::send(ring.sqe(), pair.here.get(), large.data(), 1 << 22, MSG_WAITALL, Token{1});
  CHECK(ring.quiet());
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == 0);
  const int sent = ring.result(1);
  if (sent == -ECANCELED) {
    CHECK_FALSE(nothing_to_read(pair.there));
    tests::differs("ECANCELED, although bytes went out");
  } else {
    CHECK(sent > 0);
    CHECK(sent < 1 << 22);
  }
  // Where nothing went out, nothing is lost.
  prep::send(ring.sqe(), pair.here.get(), "x", 1, 0, Token{3});
  CHECK(ring.quiet());
  prep::async_cancel(ring.sqe(), Token{3}, Token{4});
  CHECK(ring.result(4) == 0);
  CHECK(ring.result(3) == -ECANCELED);
}

TEST_CASE("cancelling all of a token, of a descriptor, of the ring: res is how many") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SOCKET), "cancelling by descriptor needs Linux 5.19");
  TestRing ring;
  const Pair pair = unix_pair();
  const Pair other = unix_pair();
  char byte;
  const auto recv_on = [&](const Pair& which, std::uint64_t token) {
    prep::recv(ring.sqe(), which.here.get(), &byte, 1, 0, Token{token});
  };
  for (const std::uint64_t token : {1u, 1u, 2u}) recv_on(pair, token);
  recv_on(other, 3);
  prep::async_cancel_all(ring.sqe(), Token{1}, Token{10});
  CHECK(ring.result(10) == 2);
  CHECK(ring.result(1) == -ECANCELED);
  CHECK(ring.result(1) == -ECANCELED);
  recv_on(pair, 4);
  prep::async_cancel_fd(ring.sqe(), pair.here.get(), Token{11});
  CHECK(ring.result(11) == 0);
  CHECK(ring.next().res == -ECANCELED);  // one of the two on this descriptor
  CHECK(ring.quiet());
  recv_on(pair, 5);
  prep::async_cancel_all_fd(ring.sqe(), pair.here.get(), Token{12});
  CHECK(ring.result(12) == 2);
  CHECK(ring.next().res == -ECANCELED);
  CHECK(ring.next().res == -ECANCELED);
  CHECK(ring.quiet());  // the one on the other descriptor is still there
  prep::async_cancel_all_fd(ring.sqe(), pair.here.get(), Token{13});
  CHECK(ring.result(13) == 0);
  prep::async_cancel_fd(ring.sqe(), pair.here.get(), Token{14});
  CHECK(ring.result(14) == -ENOENT);
  prep::async_cancel_fd(ring.sqe(), -1, Token{15});
  CHECK(ring.result(15) == -EBADF);
  prep::timeout(ring.sqe(), &one_hour, 0, 0, Token{6});
  prep::async_cancel_any(ring.sqe(), Token{16});
  CHECK(ring.result(16) == 2);
  CHECK(ring.result(3) == -ECANCELED);
  CHECK(ring.result(6) == -ECANCELED);
  prep::async_cancel_any(ring.sqe(), Token{17});
  CHECK(ring.result(17) == 0);
}

TEST_CASE("cancelling by descriptor after close hits whoever has the number now") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SOCKET), "cancelling by descriptor needs Linux 5.19");
  TestRing ring;
  Pair dead = unix_pair();
  const Pair live = unix_pair();
  char byte;
  prep::recv(ring.sqe(), dead.here.get(), &byte, 1, 0, Token{1});
  CHECK(ring.submit() == 0);
  take_over(live.here, dead.here.get());
  const int number = dead.here.get();
  prep::recv(ring.sqe(), number, &byte, 1, 0, Token{2});
  prep::async_cancel_all_fd(ring.sqe(), number, Token{3});
  CHECK(ring.result(3) == 1);
  CHECK(ring.result(2) == -ECANCELED);
  CHECK(ring.quiet());
  prep::async_cancel(ring.sqe(), Token{1}, Token{4});  // by token there is no doubt
  CHECK(ring.result(4) == 0);
  CHECK(ring.result(1) == -ECANCELED);
}

TEST_CASE("msg_ring posts a completion on another ring, and a full queue there loses nothing") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_MSG_RING), "IORING_OP_MSG_RING needs Linux 5.18");
  TestRing sender;
  TestRing receiver({.entries = 2, .cq_entries = 2});
  for (std::uint64_t i = 0; i < 5; ++i) {
    prep::msg_ring(sender.sqe(), receiver.ring().fd(), -static_cast<int>(i), Token{100 + i}, Token{1});
  }
  for (std::uint64_t i = 0; i < 5; ++i) {
    CHECK(sender.result(1) == 0);
    const Completion message = receiver.of(100 + i);
    CHECK(message.res == -static_cast<int>(i));
    CHECK(message.flags == 0);
  }
  const FileDescriptor no_ring = counter();
  prep::msg_ring(sender.sqe(), no_ring.get(), 0, Token{0}, Token{2});
  CHECK(sender.result(2) == -EBADFD);
  const uring::Ring disabled({.entries = 2, .flags = IORING_SETUP_R_DISABLED});
  prep::msg_ring(sender.sqe(), disabled.fd(), 0, Token{0}, Token{3});
  CHECK(sender.result(3) == -EBADFD);
}

TEST_CASE("msg_ring wakes whoever waits on the other ring") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_MSG_RING), "IORING_OP_MSG_RING needs Linux 5.18");
  uring::Ring receiver({.entries = 2});
  std::thread sender([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    uring::Ring ring({.entries = 2});
    prep::msg_ring(free_sqe(ring), receiver.fd(), 42, Token{7}, Token{1});
    ring.submit_and_wait(1, std::chrono::seconds(5));
  });
  CHECK(receiver.submit_and_wait(1, std::chrono::seconds(30)).ready == 1);
  sender.join();
  receiver.harvest([](const io_uring_cqe& cqe) {
    CHECK(cqe.res == 42);
    CHECK(cqe.user_data == 7);
  });
}

// ---- The 64 bytes, and sqe->flags -----------------------------------------------------------------------------------

TEST_CASE("a stale byte where an operation has no field is EINVAL, or obeyed") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  char byte;
  io_uring_sqe& with_offset = ring.sqe();
  prep::recv(with_offset, pair.here.get(), &byte, 1, 0, Token{1});
  with_offset.off = 1;
  CHECK(ring.result(1) == -EINVAL);
  io_uring_sqe& with_slot = ring.sqe();
  prep::shutdown(with_slot, pair.here.get(), SHUT_WR, Token{2});
  with_slot.file_index = 1;
  CHECK(ring.result(2) == -EINVAL);
  io_uring_sqe& with_slot_too = ring.sqe();
  prep::openat(with_slot_too, AT_FDCWD, "/dev/null", O_RDONLY, 0, Token{3});
  with_slot_too.file_index = 1;
  CHECK(ring.result(3) == -ENXIO);  // into slot 0 of a table that is not there
}

TEST_CASE("link: a short read breaks the chain, hardlink goes on; each operation has its CQE") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor file = file_with("short");
  char buffer[64];
  const auto read_then_two_nops = [&](void (*linked)(io_uring_sqe&) noexcept) {
    io_uring_sqe& first = ring.sqe();
    prep::read(first, file.get(), buffer, sizeof buffer, 0, Token{1});
    linked(first);
    io_uring_sqe& second = ring.sqe();
    prep::nop(second, Token{2});
    prep::link(second);
    prep::nop(ring.sqe(), Token{3});
    CHECK(ring.result(1) == 5);
  };
  read_then_two_nops(prep::link);
  CHECK(ring.result(2) == -ECANCELED);
  CHECK(ring.result(3) == -ECANCELED);
  read_then_two_nops(prep::hardlink);
  CHECK(ring.result(2) == 0);
  CHECK(ring.result(3) == 0);
}

FACT(
    "an SQE that cannot be parsed cancels the links before it too, hard or soft; a bad descriptor does not") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const auto nop_then = [&](void (*linked)(io_uring_sqe&) noexcept, std::uint8_t opcode, int fd) {
    io_uring_sqe& first = ring.sqe();
    prep::nop(first, Token{1});
    linked(first);
    char byte;
    prep::fill(ring.sqe(), opcode, fd, prep::address(&byte), 1, 0, Token{2});
  };
  for (const auto linked : {prep::link, prep::hardlink}) {
    nop_then(linked, 250, -1);
    CHECK(ring.result(1) == -ECANCELED);
    CHECK(ring.result(2) == -EINVAL);
  }
  nop_then(prep::link, IORING_OP_READ, -1);
  const int before = ring.result(1);
  CHECK(ring.result(2) == -EBADF);
  if (before == -ECANCELED) return tests::differs("a bad descriptor cancels the links before it as well");
  CHECK(before == 0);
}

TEST_CASE("prep::link: a chain ends where the submission ends") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  char byte;
  io_uring_sqe& failing = ring.sqe();
  prep::read(failing, -1, &byte, 1, 0, Token{1});
  prep::link(failing);
  ring.submit();
  prep::nop(ring.sqe(), Token{2});
  CHECK(ring.result(1) == -EBADF);
  CHECK(ring.result(2) == 0);
}

TEST_CASE("skip_success: silence on success, a CQE on failure, and then silence of the links behind it") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS((ring.ring().features() & IORING_FEAT_CQE_SKIP) != 0,
              "IOSQE_CQE_SKIP_SUCCESS needs Linux 5.17");
  io_uring_sqe& silent = ring.sqe();
  prep::nop(silent, Token{1});
  prep::skip_success(silent);
  prep::link(silent);
  prep::nop(ring.sqe(), Token{2});
  CHECK(ring.next().token == 2);
  char byte;
  io_uring_sqe& failing = ring.sqe();
  prep::read(failing, -1, &byte, 1, 0, Token{3});
  prep::skip_success(failing);
  prep::link(failing);
  prep::nop(ring.sqe(), Token{4});
  const Completion only = ring.next();
  CHECK(only.token == 3);
  CHECK(only.res == -EBADF);
  CHECK(ring.quiet());
  // And from now on this ring knows no drain.
  io_uring_sqe& drained = ring.sqe();
  prep::nop(drained, Token{5});
  prep::drain(drained);
  CHECK(ring.result(5) == -EOPNOTSUPP);
}

TEST_CASE("drain: waits for all before it, holds up all behind it, a cancellation included") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair idle = unix_pair();
  char byte;
  prep::recv(ring.sqe(), idle.here.get(), &byte, 1, 0, Token{1});
  io_uring_sqe& drained = ring.sqe();
  prep::nop(drained, Token{2});
  prep::drain(drained);
  prep::nop(ring.sqe(), Token{3});
  prep::async_cancel(ring.sqe(), Token{1}, Token{4});
  CHECK(ring.quiet());
  write_all(idle.there, "x");
  CHECK(ring.result(1) == 1);
  CHECK(ring.result(2) == 0);
  CHECK(ring.result(3) == 0);
  CHECK(ring.result(4) == -ENOENT);
}

TEST_CASE("fixed_file: the descriptor is an index of the ring's table, which keeps the file open by itself") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Pair pair = unix_pair();
  int table[2] = {-1, pair.here.get()};
  SKIP_UNLESS(ring.register_(IORING_REGISTER_FILES, table, 2) == 0, "sparse file tables need Linux 5.5");
  pair.here.reset();
  for (const int index : {0, 1, 2}) {
    io_uring_sqe& sqe = ring.sqe();
    prep::send(sqe, index, "x", 1, 0, Token{1});
    prep::fixed_file(sqe);
    CHECK(ring.result(1) == (index == 1 ? 1 : -EBADF));
  }
  CHECK(read_some(pair.there) == "x");
}

// SQEs for sockets on the running kernel: what prep_sockets.hpp says, seen to be so. Loopback and socket pairs only.

#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

#include "tests/kernel/prep_helpers.hpp"
#include "tests/support/fact.hpp"

using namespace prep_tests;

namespace {

constexpr BufferGroup group{7};

/// Closes with a reset instead of a FIN.
void reset(FileDescriptor& socket) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  REQUIRE(setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
  socket.reset();
}

std::string read_exactly(const FileDescriptor& socket, std::size_t size) {
  std::string all;
  while (all.size() < size) {
    const std::string some = read_some(socket, size - all.size());
    if (some.empty()) break;
    all += some;
  }
  return all;
}

/// One message with one piece.
struct Message {
  explicit Message(char* bytes, std::size_t size) : piece{bytes, size} {
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  iovec piece;
  msghdr header{};
};

}  // namespace

TEST_CASE("accept: the descriptor in res, the peer's address written at completion") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor listener = bound(SOCK_STREAM);
  sockaddr_in peer{};
  socklen_t size = sizeof peer;
  prep::accept(ring.sqe(), listener.get(), generic(peer), &size, SOCK_CLOEXEC | SOCK_NONBLOCK, Token{1});
  CHECK(ring.submit() == 0);
  const FileDescriptor client = connected_to(listener);
  const FileDescriptor served(ring.result(1));
  REQUIRE(served.get() >= 0);
  CHECK(size == sizeof peer);
  CHECK(peer.sin_port == local_name(client.get()).sin_port);
  CHECK(fcntl(served.get(), F_GETFD) == FD_CLOEXEC);
  CHECK((fcntl(served.get(), F_GETFL) & O_NONBLOCK) != 0);
  prep::accept(ring.sqe(), client.get(), nullptr, nullptr, 0, Token{2});
  CHECK(ring.result(2) == -EINVAL);
  prep::accept(ring.sqe(), 0, nullptr, nullptr, 0, Token{3});
  CHECK(ring.result(3) == -ENOTSOCK);
}

TEST_CASE("one multishot accept takes all clients; its flag lives in ioprio and nowhere else") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_accept(), "multishot accept needs Linux 5.19");
  TestRing ring;
  const FileDescriptor listener = bound(SOCK_STREAM);
  prep::accept_multishot(ring.sqe(), listener.get(), SOCK_CLOEXEC, Token{1});
  std::vector<FileDescriptor> open;
  std::set<int> numbers;
  for (int i = 0; i < 4; ++i) {
    open.push_back(connected_to(listener));
    const Completion accepted = ring.of(1);
    CHECK(accepted.more());
    REQUIRE(accepted.res >= 0);
    CHECK(numbers.insert(accepted.res).second);
    open.emplace_back(accepted.res);
  }
  io_uring_sqe& in_flags = ring.sqe();
  prep::accept(in_flags, listener.get(), nullptr, nullptr, 0, Token{2});
  in_flags.flags = IORING_ACCEPT_MULTISHOT;  // which is IOSQE_FIXED_FILE there
  CHECK(ring.result(2) == -EBADF);
  prep::accept(ring.sqe(), listener.get(), nullptr, nullptr, IORING_ACCEPT_MULTISHOT, Token{3});
  CHECK(ring.result(3) == -EINVAL);
}

TEST_CASE("a multishot accept with an address has one address for all: the last client wins") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_accept(), "multishot accept needs Linux 5.19");
  TestRing ring;
  const FileDescriptor listener = bound(SOCK_STREAM);
  const FileDescriptor first = connected_to(listener);
  const FileDescriptor second = connected_to(listener);
  sockaddr_in peer{};
  socklen_t size = sizeof peer;
  io_uring_sqe& sqe = ring.sqe();
  prep::accept(sqe, listener.get(), generic(peer), &size, SOCK_CLOEXEC, Token{1});
  sqe.ioprio = IORING_ACCEPT_MULTISHOT;
  const FileDescriptor served(ring.result(1));
  const FileDescriptor served_too(ring.result(1));
  CHECK(peer.sin_port == local_name(second.get()).sin_port);
  sockaddr_in asked{};
  REQUIRE(getpeername(served.get(), generic(asked), &size) == 0);
  CHECK(asked.sin_port == local_name(first.get()).sin_port);
}

FACT("closing a listener does not end its multishot accept; shutdown does, and so does cancelling") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_accept(), "multishot accept needs Linux 5.19");
  TestRing ring;
  FileDescriptor listener = bound(SOCK_STREAM);
  sockaddr_in address = local_name(listener.get());
  prep::accept_multishot(ring.sqe(), listener.get(), SOCK_CLOEXEC, Token{1});
  CHECK(ring.submit() == 0);
  listener.reset();
  const auto try_to_connect = [&](const FileDescriptor& client) {
    return ::connect(client.get(), generic(address), sizeof address) == 0 ? 0 : errno;
  };
  const FileDescriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(try_to_connect(client) == 0);
  const FileDescriptor served(ring.result(1));
  CHECK(served.get() >= 0);
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == 0);
  const Completion ended = ring.of(1);
  CHECK(ended.res == -ECANCELED);
  CHECK_FALSE(ended.more());
  const FileDescriptor late(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(try_to_connect(late) == ECONNREFUSED);

  listener = bound(SOCK_STREAM);
  prep::accept_multishot(ring.sqe(), listener.get(), SOCK_CLOEXEC, Token{3});
  prep::shutdown(ring.sqe(), listener.get(), SHUT_RDWR, Token{4});
  CHECK(ring.result(4) == 0);
  const Completion shut = ring.of(3);
  CHECK(shut.res == -EINVAL);
  CHECK_FALSE(shut.more());
}

FACT("an accept reads RLIMIT_NOFILE when it is submitted, not when the client comes") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_accept(), "multishot accept needs Linux 5.19");
  TestRing ring;
  const FileDescriptor listener = bound(SOCK_STREAM);
  prep::accept_multishot(ring.sqe(), listener.get(), SOCK_CLOEXEC, Token{1});
  CHECK(ring.submit() == 0);
  const FileDescriptor client = connected_to(listener);
  const FileDescriptor other = connected_to(listener);
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit lowered = before;
  lowered.rlim_cur = 3;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &lowered) == 0);
  const Completion armed_before = ring.of(1);
  const Completion also_before = ring.of(1);
  prep::accept_multishot(ring.sqe(), listener.get(), SOCK_CLOEXEC, Token{2});
  const Completion armed_after = ring.of(2);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
  const FileDescriptor served(armed_before.res);
  const FileDescriptor served_too(also_before.res);
  CHECK(armed_before.res >= 0);
  CHECK(also_before.res >= 0);
  CHECK(armed_after.res == -EMFILE);
  CHECK_FALSE(armed_after.more());
}

TEST_CASE("a completion queue that overflows ends a multishot accept with an ordinary result and no F_MORE") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_accept(), "multishot accept needs Linux 5.19");
  TestRing ring({.entries = 2, .cq_entries = 4});
  const FileDescriptor listener = bound(SOCK_STREAM);
  std::vector<FileDescriptor> open;
  for (int i = 0; i < 6; ++i) open.push_back(connected_to(listener));
  prep::accept_multishot(ring.sqe(), listener.get(), SOCK_CLOEXEC, Token{1});
  int accepted = 0;
  bool more = true;
  while (more && accepted < 6) {
    const Completion client = ring.of(1);
    REQUIRE(client.res >= 0);
    open.emplace_back(client.res);
    more = client.more();
    ++accepted;
  }
  CHECK(accepted == 5);
  CHECK_FALSE(more);
  CHECK(ring.quiet());
  prep::accept_multishot(ring.sqe(), listener.get(), SOCK_CLOEXEC, Token{2});
  const Completion last = ring.of(2);
  CHECK(last.more());
  open.emplace_back(last.res);
}

TEST_CASE("direct accept: into a slot of our choice, any slot, or one after the other") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(ring.make_file_table(2), "sparse file tables need Linux 5.19");
  const FileDescriptor listener = bound(SOCK_STREAM);
  prep::accept_direct(ring.sqe(), listener.get(), SOCK_CLOEXEC, DirectSlot{0}, Token{1});
  CHECK(ring.result(1) == -EINVAL);
  const FileDescriptor first = connected_to(listener);
  prep::accept_direct(ring.sqe(), listener.get(), 0, DirectSlot{1}, Token{2});
  CHECK(ring.result(2) == 0);
  io_uring_sqe& sqe = ring.sqe();
  prep::send(sqe, 1, "hello", 5, 0, Token{3});
  prep::fixed_file(sqe);
  CHECK(ring.result(3) == 5);
  CHECK(read_some(first) == "hello");

  io_uring_sqe& fixed_slot = ring.sqe();
  prep::accept_multishot_direct(fixed_slot, listener.get(), 0, Token{4});
  fixed_slot.file_index = prep::file_index(DirectSlot{0});
  CHECK(ring.result(4) == -EINVAL);
  prep::accept_multishot_direct(ring.sqe(), listener.get(), 0, Token{5});
  const FileDescriptor second = connected_to(listener);
  const Completion into_free = ring.of(5);
  CHECK(into_free.res == 0);
  CHECK(into_free.more());
  const FileDescriptor third = connected_to(listener);
  const Completion full = ring.of(5);
  CHECK(full.res == -ENFILE);
  CHECK_FALSE(full.more());
}

TEST_CASE("connect: decided when it completes; the address may die after submit") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  FileDescriptor listener = bound(SOCK_STREAM);
  sockaddr_in address = local_name(listener.get());
  const FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  auto peer = std::make_unique<sockaddr_in>(address);
  run_the_next_one_later(ring, Token{1});
  prep::connect(ring.sqe(), socket.get(), generic(*peer), sizeof *peer, Token{2});
  CHECK(ring.submit() == 0);
  peer->sin_port = 0;
  peer.reset();
  CHECK(ring.result(2) == 0);
  const FileDescriptor served(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  CHECK(served.get() >= 0);
  listener.reset();
  const FileDescriptor refused(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  prep::connect(ring.sqe(), refused.get(), generic(address), sizeof address, Token{3});
  CHECK(ring.result(3) == -ECONNREFUSED);
}

TEST_CASE("socket: the new descriptor in res") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SOCKET), "IORING_OP_SOCKET needs Linux 5.19");
  TestRing ring;
  prep::socket(ring.sqe(), AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, Token{1});
  const FileDescriptor made(ring.result(1));
  REQUIRE(made.get() >= 0);
  CHECK(fcntl(made.get(), F_GETFD) == FD_CLOEXEC);
  int type = 0;
  socklen_t size = sizeof type;
  CHECK(getsockopt(made.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0);
  CHECK(type == SOCK_DGRAM);
  prep::socket(ring.sqe(), 9999, SOCK_STREAM, 0, Token{2});
  CHECK(ring.result(2) == -EAFNOSUPPORT);
  prep::socket(ring.sqe(), AF_INET, SOCK_STREAM, IPPROTO_UDP, Token{3});
  CHECK(ring.result(3) == -EPROTONOSUPPORT);
}

TEST_CASE("shutdown does what close does not: the pending recv gets 0, the peer its FIN") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = tcp_pair();
  char buffer[8];
  prep::recv(ring.sqe(), pair.here.get(), buffer, 8, 0, Token{1});
  prep::shutdown(ring.sqe(), pair.here.get(), SHUT_RDWR, Token{2});
  const unsigned inside = ring.submit();
  if (workers_leave_the_cqe_to_the_owner()) CHECK(inside == 0);
  CHECK(ring.result(2) == 0);
  CHECK(ring.result(1) == 0);
  CHECK(read_some(pair.there) == "");
  const FileDescriptor idle(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  prep::shutdown(ring.sqe(), idle.get(), SHUT_WR, Token{3});
  CHECK(ring.result(3) == -ENOTCONN);
}

TEST_CASE("recv waits, blocking socket or not; EAGAIN is for those who ask for it") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  for (const int mode : {0, int{SOCK_NONBLOCK}}) {
    const Pair pair = unix_pair(SOCK_STREAM | mode);
    char buffer[8];
    prep::recv(ring.sqe(), pair.here.get(), buffer, 8, 0, Token{1});
    CHECK(ring.quiet());
    write_all(pair.there, "four");
    CHECK(ring.result(1) == 4);
    prep::recv(ring.sqe(), pair.here.get(), buffer, 8, MSG_DONTWAIT, Token{2});
    CHECK(ring.result(2) == -EAGAIN);
  }
}

TEST_CASE("a recv says 0 at the peer's end, and F_SOCK_NONEMPTY when more was there") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SOCKET), "IORING_CQE_F_SOCK_NONEMPTY needs Linux 5.19");
  TestRing ring;
  Pair pair = tcp_pair();
  write_all(pair.there, "0123456789");
  char buffer[8];
  prep::recv(ring.sqe(), pair.here.get(), buffer, 6, 0, Token{1});
  const Completion part = ring.of(1);
  CHECK(part.res == 6);
  CHECK((part.flags & IORING_CQE_F_SOCK_NONEMPTY) != 0);
  prep::recv(ring.sqe(), pair.here.get(), buffer, 8, 0, Token{2});
  CHECK(ring.result(2) == 4);
  pair.there.reset();
  prep::recv(ring.sqe(), pair.here.get(), buffer, 8, 0, Token{3});
  CHECK(ring.result(3) == 0);
  prep::recv(ring.sqe(), 0, buffer, 8, 0, Token{4});
  CHECK(ring.result(4) == -ENOTSOCK);
}

FACT("a short recv does not break a link; with MSG_WAITALL it waits for all, and less breaks it") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Pair pair = unix_pair();
  char buffer[8];
  const auto recv_then_nop = [&](int flags) {
    io_uring_sqe& sqe = ring.sqe();
    prep::recv(sqe, pair.here.get(), buffer, 8, flags, Token{1});
    prep::link(sqe);
    prep::nop(ring.sqe(), Token{2});
    ring.submit();
  };
  write_all(pair.there, "abc");
  recv_then_nop(0);
  CHECK(ring.result(1) == 3);
  CHECK(ring.result(2) == 0);
  write_all(pair.there, "abc");
  recv_then_nop(MSG_WAITALL);
  CHECK(ring.quiet());
  write_all(pair.there, "defgh");
  CHECK(ring.result(1) == 8);
  const int behind_all = ring.result(2);
  if (behind_all == -ECANCELED) {  // 6.17 takes the first part for the whole
    tests::differs("with MSG_WAITALL, all in two parts breaks it, too");
  } else {
    CHECK(behind_all == 0);
  }
  write_all(pair.there, "abc");
  pair.there.reset();
  recv_then_nop(MSG_WAITALL);
  CHECK(ring.result(1) == 3);
  CHECK(ring.result(2) == -ECANCELED);
}

TEST_CASE("a hundred idle receives occupy no worker thread") {
  SKIP_WITHOUT_IO_URING();
  const int before = tests::kernel::workers_here();
  TestRing ring({.entries = 128});
  std::vector<Pair> pairs;
  std::array<char, 100> bytes{};
  for (char& byte : bytes) {
    pairs.push_back(unix_pair());
    prep::recv(ring.sqe(), pairs.back().here.get(), &byte, 1, 0, Token{1});
  }
  CHECK(ring.quiet());
  CHECK(tests::kernel::workers_here() <= before);
}

FACT("a reset by the peer is reported once: ECONNRESET to one operation, 0 to the others") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Pair pair = tcp_pair();
  char buffer[8];
  for (const std::uint64_t token : {1u, 2u, 3u})
    prep::recv(ring.sqe(), pair.here.get(), buffer, 8, 0, Token{token});
  CHECK(ring.submit() == 0);
  reset(pair.there);
  std::multiset<int> results{ring.result(1), ring.result(2), ring.result(3)};
  CHECK(results == std::multiset<int>{-ECONNRESET, 0, 0});
}

FACT("recv_select takes a buffer only when data is there, and no more of it than asked for") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Buffers buffers(ring, group, 2, 16);
  SKIP_UNLESS(buffers.registered(), "buffer rings need Linux 5.19");
  const Pair idle = unix_pair();
  const Pair pair = unix_pair();
  const Pair other = unix_pair();
  prep::recv_select(ring.sqe(), idle.here.get(), group, 0, 0, Token{1});
  prep::recv_select(ring.sqe(), pair.here.get(), group, 3, 0, Token{2});
  prep::recv_select(ring.sqe(), other.here.get(), group, 0, 0, Token{3});
  CHECK(ring.submit() == 0);  // three wait, for two buffers
  write_all(pair.there, "abcdef");
  const Completion capped = ring.of(2);
  CHECK(buffers.text(capped) == "abc");
  write_all(other.there, "0123456789abcdefXYZ");
  const Completion filled = ring.of(3);
  CHECK(buffers.text(filled) == "0123456789abcdef");
  CHECK(filled.buffer() != capped.buffer());
  write_all(idle.there, "waits");
  const Completion empty = ring.of(1);
  CHECK(empty.res == -ENOBUFS);
  CHECK_FALSE(empty.has_buffer());
  buffers.give(capped.buffer());
  prep::recv_select(ring.sqe(), idle.here.get(), group, 0, 0, Token{4});
  CHECK(buffers.text(ring.of(4)) == "waits");
}

TEST_CASE("multishot recv needs a buffer group and refuses MSG_WAITALL") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Buffers buffers(ring, group, 1, 16);
  SKIP_UNLESS(buffers.registered() && has_multishot_recv(), "multishot recv needs Linux 6.0");
  const Pair pair = unix_pair();
  io_uring_sqe& without_group = ring.sqe();
  prep::recv_multishot(without_group, pair.here.get(), group, Token{1});
  without_group.flags = 0;
  CHECK(ring.result(1) == -EINVAL);
  io_uring_sqe& wait_all = ring.sqe();
  prep::recv_multishot(wait_all, pair.here.get(), group, Token{2});
  wait_all.msg_flags = MSG_WAITALL;
  CHECK(ring.result(2) == -EINVAL);
}

FACT("multishot recv goes on while F_MORE is set; an empty group ends it at once and loses nothing") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Buffers buffers(ring, group, 2, 4);
  SKIP_UNLESS(buffers.registered() && has_multishot_recv(), "multishot recv needs Linux 6.0");
  Pair pair = unix_pair();
  prep::recv_multishot(ring.sqe(), pair.here.get(), group, Token{1});
  CHECK(ring.quiet());
  write_all(pair.there, "abcdefghij");
  const Completion first = ring.of(1);
  const Completion second = ring.of(1);
  const Completion ended = ring.of(1);
  CHECK(first.more());
  CHECK(second.more());
  CHECK(buffers.text(first) == "abcd");
  CHECK(buffers.text(second) == "efgh");
  CHECK(ended.res == -ENOBUFS);
  CHECK_FALSE(ended.more());
  // The group is empty: armed again, it ends again, whether data waits or not.
  const Pair silent = unix_pair();
  prep::recv_multishot(ring.sqe(), silent.here.get(), group, Token{2});
  CHECK(ring.result(2) == -ENOBUFS);
  buffers.give(first.buffer());
  buffers.give(second.buffer());
  prep::recv_multishot(ring.sqe(), pair.here.get(), group, Token{3});
  CHECK(buffers.text(ring.of(3)) == "ij");
  pair.there.reset();
  const Completion end = ring.of(3);
  CHECK(end.res == 0);
  CHECK_FALSE(end.more());
}

FACT("a multishot recv that has used the last buffer goes on: it ends when bytes come that find none") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_recv(), "multishot recv needs Linux 6.0");
  const auto ends_early = [](bool armed_first) {
    TestRing ring;
    Buffers buffers(ring, group, 4, 16);
    REQUIRE(buffers.registered());
    const Pair pair = unix_pair();
    prep::recv_multishot(ring.sqe(), pair.here.get(), group, Token{1});
    if (armed_first) CHECK(ring.submit() == 0);
    write_all(pair.there, std::string(64, 'x'));  // four buffers, to the byte
    for (int i = 0; i < 4; ++i) {
      const Completion full = ring.of(1);
      CHECK(full.res == 16);
      CHECK(full.more());
    }
    const bool early = !ring.quiet();
    if (!early) write_all(pair.there, "y");
    const Completion ended = ring.of(1);
    CHECK(ended.res == -ENOBUFS);
    CHECK_FALSE(ended.more());
    return early;
  };
  const bool when_it_had_waited = ends_early(true);
  const bool when_bytes_were_there = ends_early(false);
  CHECK(when_it_had_waited == when_bytes_were_there);
  if (when_it_had_waited) tests::differs("it ends with ENOBUFS at once, although the socket is empty");
}

FACT("a capped multishot recv ends by itself, at the first CQE that reaches or passes the total") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Buffers buffers(ring, group, 8, 4);
  const Pair pair = unix_pair();
  prep::recv_multishot_capped(ring.sqe(), pair.here.get(), group, 10, Token{1});
  write_all(pair.there, "0123456789ABCDEF");
  std::string received;
  Completion last{};
  do {
    last = ring.of(1);
    SKIP_UNLESS(last.res != -EINVAL, "the total cap of a multishot recv needs Linux 6.17");
    REQUIRE(last.res > 0);
    received += buffers.text(last);
  } while (last.more());
  CHECK(received == "0123456789AB");  // 4, 8, 12: the last receive is not cut to 10
  CHECK(ring.quiet());
  prep::recv_multishot_capped(ring.sqe(), pair.here.get(), group, 4, Token{2});
  const Completion next = ring.of(2);
  CHECK(buffers.text(next) == "CDEF");
  CHECK_FALSE(next.more());
}

FACT("cancelling a multishot recv loses nothing: bytes are in its CQEs or still in the socket") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Buffers buffers(ring, group, 8, 4);
  SKIP_UNLESS(buffers.registered() && has_multishot_recv(), "multishot recv needs Linux 6.0");
  const Pair pair = unix_pair();
  prep::recv_multishot(ring.sqe(), pair.here.get(), group, Token{1});
  CHECK(ring.submit() == 0);
  write_all(pair.there, "0123456");
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  write_all(pair.there, "789");
  std::string received;
  Completion last = ring.of(1);
  for (; last.more(); last = ring.of(1)) received += buffers.text(last);
  if (last.res > 0) received += buffers.text(last);
  CHECK(ring.of(2).res <= 0);
  received += nothing_to_read(pair.here) ? "" : read_some(pair.here);
  CHECK(received == "0123456789");
}

FACT("a multishot accept into a full table of slots loses the client that it has accepted") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(ring.make_file_table(1), "sparse file tables need Linux 5.19");
  const FileDescriptor listener = bound(SOCK_STREAM);
  prep::accept_multishot_direct(ring.sqe(), listener.get(), 0, Token{1});
  const FileDescriptor first = connected_to(listener);
  CHECK(ring.of(1).res == 0);
  const FileDescriptor second = connected_to(listener);
  const Completion full = ring.of(1);
  CHECK(full.res == -ENFILE);
  CHECK_FALSE(full.more());
  CHECK(read_some(second) == "");  // its end: nobody has it
  const FileDescriptor third = connected_to(listener);
  CHECK(ring.quiet());
  const FileDescriptor accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  write_all(accepted, "third");
  CHECK(read_some(third) == "third");
}

TEST_CASE("recvmsg: the iovec array may die after submit, the msghdr is written to at completion") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor receiver = bound(SOCK_DGRAM);
  const FileDescriptor sender = bound(SOCK_DGRAM);
  char bytes[8] = {};
  sockaddr_in name{};
  auto piece = std::make_unique<iovec>(iovec{bytes, 4});
  msghdr header{};
  header.msg_iov = piece.get();
  header.msg_iovlen = 1;
  header.msg_name = &name;
  header.msg_namelen = sizeof name + 100;
  prep::recvmsg(ring.sqe(), receiver.get(), &header, 0, Token{1});
  CHECK(ring.submit() == 0);
  *piece = {nullptr, 0};
  piece.reset();
  sockaddr_in to = local_name(receiver.get());
  REQUIRE(sendto(sender.get(), "datagram", 8, 0, generic(to), sizeof to) == 8);
  CHECK(ring.result(1) == 4);
  CHECK(std::string(bytes) == "data");
  CHECK(header.msg_namelen == sizeof name);
  CHECK(name.sin_port == local_name(sender.get()).sin_port);
  CHECK((header.msg_flags & MSG_TRUNC) != 0);
}

TEST_CASE("recvmsg_multishot: each buffer holds a header, the sender and the payload; the msghdr may die") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Buffers buffers(ring, group, 4, 64);
  SKIP_UNLESS(buffers.registered() && has_multishot_recv(), "multishot recvmsg needs Linux 6.0");
  const FileDescriptor receiver = bound(SOCK_DGRAM);
  const FileDescriptor sender = bound(SOCK_DGRAM);
  sockaddr_in to = local_name(receiver.get());
  auto header = std::make_unique<msghdr>();
  header->msg_namelen = sizeof(sockaddr_in);
  prep::recvmsg_multishot(ring.sqe(), receiver.get(), header.get(), group, 0, Token{1});
  CHECK(ring.submit() == 0);
  header->msg_namelen = 60000;
  header.reset();
  for (const std::string payload : {"one", "another"}) {
    REQUIRE(sendto(sender.get(), payload.data(), payload.size(), 0, generic(to), sizeof to) > 0);
    const Completion datagram = ring.of(1);
    CHECK(datagram.more());
    const std::string text = buffers.text(datagram);
    io_uring_recvmsg_out out;
    sockaddr_in from;
    REQUIRE(text.size() == sizeof out + sizeof from + payload.size());
    std::memcpy(&out, text.data(), sizeof out);
    std::memcpy(&from, text.data() + sizeof out, sizeof from);
    CHECK(out.namelen == sizeof from);
    CHECK(out.controllen == 0);
    CHECK(out.payloadlen == payload.size());
    CHECK(from.sin_port == local_name(sender.get()).sin_port);
    CHECK(text.substr(sizeof out + sizeof from) == payload);
  }
  msghdr too_large{};
  too_large.msg_namelen = 60;
  prep::recvmsg_multishot(ring.sqe(), sender.get(), &too_large, group, 0, Token{2});
  CHECK(ring.result(2) == -EFAULT);
  // The multishot bit or-ed to the opcode does nothing at all.
  CHECK((IORING_OP_RECVMSG | IORING_RECV_MULTISHOT) == IORING_OP_RECVMSG);
}

TEST_CASE("send stops short when the socket is full, blocking or not; with MSG_WAITALL it sends it all") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  const std::string large(1 << 22, 'x');
  const auto size = static_cast<std::uint32_t>(large.size());
  prep::send(ring.sqe(), pair.here.get(), large.data(), size, 0, Token{1});
  const int sent = ring.result(1);
  CHECK(sent > 0);
  CHECK(sent < static_cast<int>(size));
  CHECK(read_exactly(pair.there, static_cast<std::size_t>(sent)).size() == static_cast<std::size_t>(sent));
  prep::send(ring.sqe(), pair.here.get(), large.data(), size, MSG_WAITALL, Token{2});
  CHECK(ring.submit() == 0);
  std::size_t got = 0;
  while (got < large.size()) {
    const std::string some = read_some(pair.there);
    REQUIRE(!some.empty());
    got += some.size();
    ring.pump();
  }
  CHECK(ring.result(2) == static_cast<int>(size));
}

FACT("two sends in flight on one socket mix their bytes") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  const std::string a(1 << 21, 'a');
  const std::string b(1 << 21, 'b');
  prep::send(ring.sqe(), pair.here.get(), a.data(), 1 << 21, MSG_WAITALL, Token{1});
  prep::send(ring.sqe(), pair.here.get(), b.data(), 1 << 21, MSG_WAITALL, Token{2});
  CHECK(ring.submit() == 0);
  int changes = 0;
  std::size_t got = 0;
  char previous = 'a';
  while (got < a.size() + b.size()) {
    const std::string some = read_some(pair.there);
    REQUIRE(!some.empty());
    for (const char byte : some) changes += byte != std::exchange(previous, byte);
    got += some.size();
    ring.pump();
  }
  CHECK(ring.result(1) == 1 << 21);
  CHECK(ring.result(2) == 1 << 21);
  // One change, a to b, is what order looks like. No kernel promises it.
  if (changes == 1)
    return tests::differs("they did not, in this test: the first was through before the second began");
  CHECK(changes > 1);
}

TEST_CASE("sendmsg: msghdr, iovec and name may die after submit") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor receiver = bound(SOCK_DGRAM);
  const FileDescriptor sender = bound(SOCK_DGRAM);
  char bytes[] = "datagram";
  auto name = std::make_unique<sockaddr_in>(local_name(receiver.get()));
  auto message = std::make_unique<Message>(bytes, 8);
  message->header.msg_name = name.get();
  message->header.msg_namelen = sizeof *name;
  run_the_next_one_later(ring, Token{1});
  prep::sendmsg(ring.sqe(), sender.get(), &message->header, 0, Token{2});
  CHECK(ring.submit() == 0);
  name->sin_port = 0;
  message->piece = {nullptr, 99};
  message->header = {};
  name.reset();
  message.reset();
  CHECK(ring.result(2) == 8);
  CHECK(read_some(receiver) == "datagram");
}

TEST_CASE("the control data of a sendmsg is read when it runs, not when it is submitted") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  const FileDescriptor a = file_with("AAAA");
  const FileDescriptor b = file_with("BBBB");
  char byte = 'x';
  Message message(&byte, 1);
  alignas(cmsghdr) std::array<unsigned char, CMSG_SPACE(sizeof(int))> control{};
  message.header.msg_control = control.data();
  message.header.msg_controllen = control.size();
  cmsghdr* const first = CMSG_FIRSTHDR(&message.header);
  first->cmsg_level = SOL_SOCKET;
  first->cmsg_type = SCM_RIGHTS;
  first->cmsg_len = CMSG_LEN(sizeof(int));
  const auto pass = [&](int fd) { std::memcpy(CMSG_DATA(first), &fd, sizeof fd); };
  pass(a.get());
  run_the_next_one_later(ring, Token{1});
  prep::sendmsg(ring.sqe(), pair.here.get(), &message.header, 0, Token{2});
  CHECK(ring.submit() == 0);
  pass(b.get());
  CHECK(ring.result(2) == 1);

  prep::recvmsg(ring.sqe(), pair.there.get(), &message.header, MSG_CMSG_CLOEXEC, Token{3});
  CHECK(ring.result(3) == 1);
  int passed = -1;
  std::memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&message.header)), sizeof passed);
  const FileDescriptor received(passed);
  char content[5] = {};
  CHECK(::pread(received.get(), content, 4, 0) == 4);
  CHECK(std::string(content) == "BBBB");
}

TEST_CASE("a destination makes send a sendto; the address may die after submit") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SENDMSG_ZC),
              "a destination for IORING_OP_SEND needs Linux 6.1");
  TestRing ring;
  const FileDescriptor receiver = bound(SOCK_DGRAM);
  const FileDescriptor sender = bound(SOCK_DGRAM);
  auto to = std::make_unique<sockaddr_in>(local_name(receiver.get()));
  run_the_next_one_later(ring, Token{1});
  io_uring_sqe& sqe = ring.sqe();
  prep::send(sqe, sender.get(), "by send", 7, 0, Token{2});
  prep::set_destination(sqe, generic(*to), sizeof *to);
  CHECK(ring.submit() == 0);
  to->sin_port = 0;
  to.reset();
  CHECK(ring.result(2) == 7);
  CHECK(read_some(receiver) == "by send");
  sockaddr_in address = local_name(receiver.get());
  io_uring_sqe& zero_copy = ring.sqe();
  prep::send_zc(zero_copy, sender.get(), "by send_zc", 10, 0, 0, Token{3});
  prep::set_destination(zero_copy, generic(address), sizeof address);
  CHECK(ring.result(3) == 10);
  CHECK(read_some(receiver) == "by send_zc");
  CHECK(ring.of(3).notification());
}

FACT("send_zc: two CQEs under one token, the second says that the buffer is free; loopback copies") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  const Pair pair = tcp_pair();
  prep::send_zc(ring.sqe(), pair.here.get(), "hello", 5, 0, abi::send_zc_report_usage, Token{1});
  const Completion sent = ring.of(1);
  SKIP_UNLESS(sent.res != -EINVAL, "IORING_SEND_ZC_REPORT_USAGE needs Linux 6.2");
  CHECK(sent.res == 5);
  CHECK(sent.more());
  CHECK_FALSE(sent.notification());
  CHECK(read_some(pair.there) == "hello");
  const Completion notified = ring.of(1);
  CHECK(notified.notification());
  CHECK_FALSE(notified.more());
  CHECK(static_cast<std::uint32_t>(notified.res) == abi::notif_usage_zc_copied);

  char text[] = "by message";
  Message message(text, 10);
  prep::sendmsg_zc(ring.sqe(), pair.here.get(), &message.header, 0, 0, Token{2});
  CHECK(ring.result(2) == 10);
  CHECK(read_some(pair.there) == "by message");
  const Completion freed = ring.of(2);
  CHECK(freed.notification());
  CHECK(freed.res == 0);
}

TEST_CASE("send_zc out of a registered buffer; EFAULT for a bad index or an address outside") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  const Pair pair = tcp_pair();
  char memory[64] = "0123456789";
  char elsewhere[8] = "x";
  iovec buffer{memory, sizeof memory};
  REQUIRE(ring.register_(IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
  const auto send = [&](const char* bytes, std::uint16_t index, std::uint64_t token) {
    prep::send_zc_fixed(ring.sqe(), pair.here.get(), bytes, 4, 0, 0, index, Token{token});
    return ring.result(token);
  };
  CHECK(send(memory + 3, 0, 1) == 4);
  CHECK(read_some(pair.there) == "3456");
  CHECK(send(memory + 3, 5, 2) == -EFAULT);
  CHECK(send(elsewhere, 0, 3) == -EFAULT);
}

FACT("a send_zc that fails notifies too; a Unix-domain socket cannot, and skip_success may not") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  const Pair local = unix_pair();
  const auto both = [&](int fd, bool skip) {
    io_uring_sqe& sqe = ring.sqe();
    prep::send_zc(sqe, fd, "x", 1, 0, 0, Token{1});
    if (skip) prep::skip_success(sqe);
    const Completion failed = ring.of(1);
    if (failed.more()) CHECK(ring.of(1).notification());
    return failed;
  };
  const Completion bad_descriptor = both(-1, false);
  CHECK(bad_descriptor.res == -EBADF);
  CHECK(bad_descriptor.more());
  const Completion on_unix = both(local.here.get(), false);
  CHECK(on_unix.res == -EOPNOTSUPP);
  CHECK(on_unix.more());
  const Completion skipping = both(local.here.get(), true);
  CHECK(skipping.res == -EINVAL);
  CHECK(ring.quiet());
}

FACT("the bytes of a send_zc count against RLIMIT_MEMLOCK, for those without CAP_IPC_LOCK") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  const Pair pair = tcp_pair();
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(2);
    uring::Ring ring({.entries = 4});
    const rlimit nothing{0, 0};
    if (setrlimit(RLIMIT_MEMLOCK, &nothing) != 0) _exit(3);
    static char bytes[262144];
    prep::send_zc(free_sqe(ring), pair.here.get(), bytes, sizeof bytes, 0, 0, Token{1});
    ring.submit_and_wait(2, std::chrono::seconds(5));
    int result = 0;
    ring.harvest([&](const io_uring_cqe& cqe) { result = std::min(result, cqe.res); });
    _exit(result == -ENOMEM ? 0 : 4);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

FACT("a send_zc cancelled by the link before it: no F_MORE, and a notification all the same") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  const Pair pair = tcp_pair();
  char byte;
  io_uring_sqe& sqe = ring.sqe();
  prep::read(sqe, -1, &byte, 1, 0, Token{1});
  prep::link(sqe);
  prep::send_zc(ring.sqe(), pair.here.get(), "x", 1, 0, 0, Token{2});
  CHECK(ring.result(1) == -EBADF);
  const Completion cancelled = ring.of(2);
  CHECK(cancelled.res == -ECANCELED);
  CHECK_FALSE(cancelled.more());
  CHECK(ring.of(2).notification());
}

FACT("what changes in a send_zc buffer before the notification goes out changed; a send has copied it") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  const auto bytes_changed = [&](bool zero_copy) {
    const FileDescriptor listener = bound(SOCK_STREAM);
    const int small = 4096;
    REQUIRE(setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    const FileDescriptor sender = connected_to(listener);
    const FileDescriptor receiver(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    // The receiver's window is full and the rest waits on our side: what is sent now has not left.
    const std::string first(65536, '-');
    write_all(sender, first);
    std::string second(4096, 'a');
    if (zero_copy) {
      prep::send_zc(ring.sqe(), sender.get(), second.data(), 4096, 0, 0, Token{1});
    } else {
      prep::send(ring.sqe(), sender.get(), second.data(), 4096, 0, Token{1});
    }
    CHECK(ring.result(1) == 4096);
    std::fill(second.begin(), second.end(), 'Z');
    CHECK(read_exactly(receiver, first.size()) == first);
    const std::string got = read_exactly(receiver, second.size());
    if (zero_copy) CHECK(ring.of(1).notification());
    return std::count(got.begin(), got.end(), 'Z');
  };
  CHECK(bytes_changed(true) == 4096);
  CHECK(bytes_changed(false) == 0);
}

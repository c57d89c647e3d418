// Facts about chains that serve a client whole: ACCEPT into a slot, RECV, SEND, CLOSE, queued before there is a
// client; their time-outs, their silence, their end; and SPLICE, whose chains have no fixed length. No ring layer;
// docs/kernel-facts.md says what is commonly believed instead.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <string>
#include <vector>

#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"
#include "uring/prep_sockets.hpp"

namespace {

using namespace tests::kernel;
using uring::DirectSlot;
using uring::Token;
namespace prep = uring::prep;

/// A socket on loopback that listens, and its clients.
class Listening {
 public:
  Listening() {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ::socklen_t size = sizeof address_;
    REQUIRE(::bind(fd_.get(), address(), size) == 0);
    REQUIRE(::getsockname(fd_.get(), address(), &size) == 0);
    REQUIRE(::listen(fd_.get(), 16) == 0);
  }
  int fd() const { return fd_.get(); }
  uring::FileDescriptor client() {
    uring::FileDescriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(client.get(), address(), sizeof address_) == 0);
    return client;
  }
  uring::FileDescriptor accept() const {
    uring::FileDescriptor accepted(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    REQUIRE(accepted.get() >= 0);
    return accepted;
  }

 private:
  ::sockaddr* address() {
    void* const any = &address_;
    return static_cast<::sockaddr*>(any);
  }
  ::sockaddr_in address_{};
  uring::FileDescriptor fd_{};
};

void say(const uring::FileDescriptor& client, const std::string& text) {
  CHECK(::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<::ssize_t>(text.size()));
}

int last_errno = 0;

/// What comes until the end of the connection, or for a second; last_errno tells how it ended.
std::string hear(const uring::FileDescriptor& client) {
  const ::timeval second{.tv_sec = 1, .tv_usec = 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
  std::string text;
  std::array<char, 64> bytes{};
  errno = 0;
  for (::ssize_t n; (n = ::recv(client.get(), bytes.data(), bytes.size(), 0)) > 0;) {
    text.append(bytes.data(), static_cast<std::size_t>(n));
  }
  last_errno = errno;
  return text;
}

void reset(uring::FileDescriptor& client) {
  const ::linger at_once{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  client.reset();
}

/// Whether slot 0 had anything in it; it has not any more.
bool was_in_use(RawRing& ring) {
  prep::close_direct(ring.prepare(), DirectSlot{0}, Token{99});
  CHECK(ring.submit() == 1);
  return ring.results(1) == "99:0";
}

struct ChainRing : RawRing {
  ChainRing() : RawRing(16) {
    io_uring_rsrc_register sparse{};
    sparse.nr = 1;
    sparse.flags = IORING_RSRC_REGISTER_SPARSE;
    REQUIRE(register_(IORING_REGISTER_FILES2, &sparse, sizeof sparse) == 0);
  }
};

struct How {
  bool skip = false;                            // CQE_SKIP_SUCCESS on all but CLOSE
  const __kernel_timespec* deadline = nullptr;  // of RECV and of SEND
  unsigned send_length = 5;
};

std::array<char, 8 << 20> bytes_of_chain;

/// 1: ACCEPT, 2: RECV of five bytes, 3: LINK_TIMEOUT, 4: SEND, 5: LINK_TIMEOUT, 6: CLOSE.
void queue_chain(RawRing& ring, const Listening& listening, const How& how = {}) {
  const auto finish = [&](io_uring_sqe& sqe, auto link, bool fixed) {
    link(sqe);
    if (fixed) prep::fixed_file(sqe);
    if (how.skip) prep::skip_success(sqe);
  };
  unsigned count = 4;
  io_uring_sqe& accept = ring.prepare();
  prep::accept_direct(accept, listening.fd(), 0, DirectSlot{0}, Token{1});
  finish(accept, prep::link, false);
  io_uring_sqe& recv = ring.prepare();
  prep::recv(recv, 0, bytes_of_chain.data(), 5, MSG_WAITALL, Token{2});
  finish(recv, prep::link, true);
  const auto timer = [&](std::uint64_t name, auto link) {
    io_uring_sqe& sqe = ring.prepare();
    prep::link_timeout(sqe, how.deadline, 0, Token{name});
    finish(sqe, link, false);
    ++count;
  };
  if (how.deadline != nullptr) timer(3, prep::link);
  io_uring_sqe& send = ring.prepare();
  prep::send(send, 0, bytes_of_chain.data(), how.send_length, MSG_WAITALL, Token{4});
  finish(send, prep::hardlink, true);
  if (how.deadline != nullptr) timer(5, prep::hardlink);
  prep::close_direct(ring.prepare(), DirectSlot{0}, Token{6});
  REQUIRE(ring.submit() == static_cast<int>(count));
}

/// The results of so many, sorted by name; and no more come.
std::string all_of(RawRing& ring, std::size_t count) {
  std::string text = text_of(sorted(ring.take(count)));
  std::this_thread::sleep_for(a_while);
  ring.get_events();
  CHECK(ring.ready() == 0);
  return text;
}

constexpr __kernel_timespec soon{.tv_sec = 0, .tv_nsec = 20'000'000};
constexpr __kernel_timespec late{.tv_sec = 3600, .tv_nsec = 0};

// ---- A client, served by a chain ------------------------------------------------------------------------------

FACT("a chain can use a slot that is empty when it is queued: ACCEPT into it, RECV, SEND, CLOSE") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  Listening listening;
  queue_chain(ring, listening);
  const uring::FileDescriptor client = listening.client();
  say(client, "hello");
  CHECK(all_of(ring, 4) == "1:0 2:5 4:5 6:0");
  CHECK(hear(client) == "hello");
  CHECK(!was_in_use(ring));
}

FACT("ACCEPT into a slot that is in use replaces what was in it, without a word") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  Listening listening;
  const uring::FileDescriptor first = listening.client();
  const uring::FileDescriptor second = listening.client();
  for (const std::uint64_t name : {1UL, 2UL}) {
    prep::accept_direct(ring.prepare(), listening.fd(), 0, DirectSlot{0}, Token{name});
    CHECK(ring.submit() == 1);
    CHECK(ring.results(1) == std::to_string(name) + ":0");
  }
  std::array<char, 1> byte{};
  CHECK(::recv(first.get(), byte.data(), 1, 0) == 0);  // it was closed
  CHECK(::recv(second.get(), byte.data(), 1, MSG_DONTWAIT) == -1);
}

FACT("a short RECV with MSG_WAITALL breaks a chain; its CLOSE is cancelled, and the slot stays in use") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  Listening listening;
  queue_chain(ring, listening);
  uring::FileDescriptor client = listening.client();
  SUBCASE("the client finishes early") {
    say(client, "he");
    ::shutdown(client.get(), SHUT_WR);
    CHECK(all_of(ring, 4) == "1:0 2:2 4:-ECANCELED 6:-ECANCELED");
  }
  SUBCASE("the client resets") {
    reset(client);
    CHECK(all_of(ring, 4) == "1:0 2:-ECONNRESET 4:-ECANCELED 6:-ECANCELED");
  }
  CHECK(was_in_use(ring));
}

FACT("a SEND that fails does not keep the CLOSE behind its hard link from running") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  Listening listening;
  queue_chain(ring, listening, {.send_length = bytes_of_chain.size()});  // more than two sockets hold
  uring::FileDescriptor client = listening.client();
  say(client, "hello");
  CHECK(text_of(ring.take(2)) == "1:0 2:5");
  std::this_thread::sleep_for(a_while);
  reset(client);
  const std::vector<Completion> rest = ring.take(2);
  REQUIRE(rest.size() == 2);
  CHECK(rest[0].user_data == 4);
  CHECK(rest[0].res < static_cast<int>(bytes_of_chain.size()));
  CHECK(text_of({rest[1]}) == "6:0");
  CHECK(!was_in_use(ring));
}

FACT("one ASYNC_CANCEL with the listener's descriptor ends all ACCEPTs, and with them their chains") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  Listening listening;
  queue_chain(ring, listening);
  queue_chain(ring, listening);
  prep::async_cancel_all_fd(ring.prepare(), listening.fd(), Token{9});
  CHECK(ring.submit() == 1);
  CHECK(all_of(ring, 9) ==
        "1:-ECANCELED 1:-ECANCELED 2:-ECANCELED 2:-ECANCELED 4:-ECANCELED 4:-ECANCELED 6:-ECANCELED "
        "6:-ECANCELED 9:2");
  CHECK(!was_in_use(ring));
}

FACT("CLOSE of a connection with unread input ends it with a RST and not with a FIN") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  Listening listening;
  const uring::FileDescriptor client = listening.client();
  say(client, "hello, and more");
  queue_chain(ring, listening);
  CHECK(all_of(ring, 4) == "1:0 2:5 4:5 6:0");
  CHECK(hear(client) == "hello");  // Linux still hands out what it had received
  CHECK(last_errno == ECONNRESET);
}

// ---- Time -----------------------------------------------------------------------------------------------------

FACT("a chain goes on behind a LINK_TIMEOUT that carries a link, and is cancelled when it fires") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  Listening listening;
  SUBCASE("in time: both timers are cancelled") {
    queue_chain(ring, listening, {.deadline = &late});
    const uring::FileDescriptor client = listening.client();
    say(client, "hello");
    CHECK(all_of(ring, 6) == "1:0 2:5 3:-ECANCELED 4:5 5:-ECANCELED 6:0");
    CHECK(!was_in_use(ring));
  }
  SUBCASE("a client that says nothing") {
    queue_chain(ring, listening, {.deadline = &soon});
    const uring::FileDescriptor client = listening.client();
    CHECK(all_of(ring, 6) == "1:0 2:-ECANCELED 3:-ETIME 4:-ECANCELED 5:-ECANCELED 6:-ECANCELED");
    CHECK(was_in_use(ring));
  }
  SUBCASE("a client that says too little: RECV tells how much") {
    queue_chain(ring, listening, {.deadline = &soon});
    const uring::FileDescriptor client = listening.client();
    say(client, "he");
    CHECK(all_of(ring, 6) == "1:0 2:2 3:-ETIME 4:-ECANCELED 5:-ECANCELED 6:-ECANCELED");
    CHECK(was_in_use(ring));
  }
  SUBCASE("a client that does not read: behind the hard link CLOSE runs") {
    queue_chain(ring, listening, {.deadline = &soon, .send_length = bytes_of_chain.size()});
    const uring::FileDescriptor client = listening.client();
    say(client, "hello");
    const std::vector<Completion> results = sorted(ring.take(6));
    REQUIRE(results.size() == 6);
    CHECK(text_of({results[4], results[5]}) == "5:-ETIME 6:0");
    CHECK(results[3].res < static_cast<int>(bytes_of_chain.size()));
    CHECK(!was_in_use(ring));
  }
}

// ---- Silence --------------------------------------------------------------------------------------------------

FACT("a chain that skips successes is one CQE: of its CLOSE, or of the soft link that failed") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  SKIP_UNLESS((ring.params.features & IORING_FEAT_CQE_SKIP) != 0, "CQE_SKIP_SUCCESS needs Linux 5.17");
  Listening listening;
  SUBCASE("all is well") {
    queue_chain(ring, listening, {.skip = true});
    const uring::FileDescriptor client = listening.client();
    say(client, "hello");
    CHECK(all_of(ring, 1) == "6:0");
    CHECK(hear(client) == "hello");
  }
  SUBCASE("RECV is short: CLOSE is cancelled, and silent, though it did not ask for silence") {
    queue_chain(ring, listening, {.skip = true});
    const uring::FileDescriptor client = listening.client();
    say(client, "he");
    ::shutdown(client.get(), SHUT_WR);
    CHECK(all_of(ring, 1) == "2:2");
    CHECK(was_in_use(ring));
  }
  SUBCASE("ACCEPT is cancelled") {
    queue_chain(ring, listening, {.skip = true});
    prep::async_cancel(ring.prepare(), Token{1}, Token{9});
    CHECK(ring.submit() == 1);
    CHECK(all_of(ring, 2) == "1:-ECANCELED 9:0");
  }
  SUBCASE("SEND, with its hard link, is the exception: two CQEs") {
    queue_chain(ring, listening, {.skip = true, .send_length = bytes_of_chain.size()});
    uring::FileDescriptor client = listening.client();
    say(client, "hello");
    std::this_thread::sleep_for(a_while);
    ring.get_events();
    reset(client);
    const std::vector<Completion> results = ring.take(2);
    REQUIRE(results.size() == 2);
    CHECK(results[0].user_data == 4);
    CHECK(text_of({results[1]}) == "6:0");
  }
}

FACT("a LINK_TIMEOUT that skips successes says nothing, even when it fires: only its operation does") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "ACCEPT into a slot of an empty table needs Linux 5.19");
  ChainRing ring;
  SKIP_UNLESS((ring.params.features & IORING_FEAT_CQE_SKIP) != 0, "CQE_SKIP_SUCCESS needs Linux 5.17");
  Listening listening;
  SUBCASE("it does not fire") {
    queue_chain(ring, listening, {.skip = true, .deadline = &late});
    const uring::FileDescriptor client = listening.client();
    say(client, "hello");
    CHECK(all_of(ring, 1) == "6:0");
  }
  SUBCASE("it fires") {
    queue_chain(ring, listening, {.skip = true, .deadline = &soon});
    const uring::FileDescriptor client = listening.client();
    CHECK(all_of(ring, 1) == "2:-ECANCELED");
  }
}

// ---- Splice ---------------------------------------------------------------------------------------------------

constexpr unsigned more_than_there_is = 1 << 20;

/// 1: POLL, 2: SPLICE from the socket into the pipe, 3: SPLICE from the pipe into the socket.
void queue_splices(RawRing& ring, const uring::FileDescriptor& socket, const Pipe& pipe, unsigned flags) {
  io_uring_sqe& poll = ring.prepare();
  prep::poll_add(poll, socket.get(), POLLIN | POLLRDHUP, Token{1});
  prep::link(poll);
  io_uring_sqe& in = ring.prepare();
  prep::splice(in, socket.get(), uring::current_position, pipe.write_end.get(), uring::current_position,
               more_than_there_is, flags, Token{2});
  prep::hardlink(in);
  prep::splice(ring.prepare(), pipe.read_end.get(), uring::current_position, socket.get(),
               uring::current_position, more_than_there_is, flags, Token{3});
  REQUIRE(ring.submit() == 3);
}

FACT("splice, hardlink, splice at the end of input: the second waits for bytes, unless told not to") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  Listening listening;
  const uring::FileDescriptor client = listening.client();
  const uring::FileDescriptor socket = listening.accept();
  const Pipe pipe;
  ::shutdown(client.get(), SHUT_WR);
  SUBCASE("it waits; a cancel interrupts its worker thread, and its result is no errno") {
    queue_splices(ring, socket, pipe, 0);
    const std::vector<Completion> first = ring.take(2);
    REQUIRE(first.size() == 2);
    CHECK(text_of({first[1]}) == "2:0");
    std::this_thread::sleep_for(a_while);
    ring.get_events();
    CHECK(ring.ready() == 0);
    prep::async_cancel(ring.prepare(), Token{3}, Token{9});
    CHECK(ring.submit() == 1);
    const std::vector<Completion> last = sorted(ring.take(2));
    REQUIRE(last.size() == 2);
    CHECK((last[0].res == -512 || last[0].res == -EINTR || last[0].res == -ECANCELED));
    CHECK(last[1].user_data == 9);
    CHECK((last[1].res == -EALREADY || last[1].res == -ENOENT));  // ENOENT: rare, seen on 6.18
  }
  SUBCASE("SPLICE_F_NONBLOCK") {
    queue_splices(ring, socket, pipe, SPLICE_F_NONBLOCK);
    const std::vector<Completion> all = ring.take(3);
    REQUIRE(all.size() == 3);
    CHECK(text_of({all[1], all[2]}) == "2:0 3:-EAGAIN");
  }
}

/// The client sends, and does not read, until a round of splices moves less than came in. The server's socket must be
/// O_NONBLOCK.
struct Flood {
  std::uint64_t in = 0, out = 0;

  Flood(RawRing& ring, const uring::FileDescriptor& client, const uring::FileDescriptor& socket,
        const Pipe& pipe) {
    const std::string piece(32 << 10, 'x');
    for (bool full = false; !full;) {
      ::send(client.get(), piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      queue_splices(ring, socket, pipe, SPLICE_F_NONBLOCK);
      const std::vector<Completion> round = ring.take(3);
      REQUIRE(round.size() == 3);
      in += static_cast<std::uint64_t>(std::max(round[1].res, 0));
      out += static_cast<std::uint64_t>(std::max(round[2].res, 0));
      full = round[2].res < round[1].res;
    }
  }
};

FACT("a splice into a full socket that is O_NONBLOCK is short, or EAGAIN, and the rest stays in the pipe") {
  SKIP_WITHOUT_IO_URING();
  RawRing ring(8);
  Listening listening;
  uring::FileDescriptor client = listening.client();
  const uring::FileDescriptor socket = listening.accept();
  const Pipe pipe;
  REQUIRE(::fcntl(socket.get(), F_SETFL, O_NONBLOCK) == 0);
  const Flood flood(ring, client, socket, pipe);
  int in_pipe = 0;
  CHECK(::ioctl(pipe.read_end.get(), FIONREAD, &in_pipe) == 0);
  CHECK(in_pipe > 0);
  CHECK(static_cast<std::uint64_t>(in_pipe) == flood.in - flood.out);
}

}  // namespace

// The io_uring echo server on a kernel that has bad luck in store for it: completions that come late, twice, or in the
// name of somebody who has gone; operations that an old kernel does not know; and no memory for requests (seam.hpp says
// how).

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "servers/common/listener.hpp"
#include "servers/common_ring/slots_let_go.hpp"
#include "servers/m3_echo_server/echo_server.hpp"
#include "tests/kernel/seam.hpp"
#include "tests/support/client.hpp"
#include "tests/support/shell.hpp"
#include "uring/buffer_ring.hpp"
#include "uring/direct_files.hpp"

namespace {

using namespace std::chrono_literals;
using tests::kernel::eventually;
using tests::kernel::Outcome;
using tests::kernel::pointer;
using tests::kernel::Seam;

// ---- The server on top of it -----------------------------------------------------------------------------------

/// A buffer of the group, in most of these tests.
constexpr std::uint32_t buffer_bytes = 64;

struct Setup {
  unsigned sq_entries = 64;
  std::size_t buffers = 64;
  std::size_t bytes = buffer_bytes;  // of each
  std::uint32_t slots = 0;           // of the ring's table; 0: ordinary descriptors
  std::uint32_t max_connections = 1000;
  std::string unix_path{};  // of the socket to listen on; empty: TCP
};

/// An EchoServer on a Seam.
class Server : public tests::kernel::ServerThread {
 public:
  explicit Server(Seam& seam, const Setup& setup = {}) : ServerThread(seam), setup_(setup) {
    seam.at_enter = [this] { buffers_in_use_ = group_->in_use(); };
    start([this] { return serve(); });
  }
  ~Server() { stop_at_last(); }

  /// When the server entered the kernel last.
  std::size_t buffers_in_use() const { return buffers_in_use_; }

  /// Performs the first bytes of a send that was held back, and completes it with their number.
  void perform_send(const io_uring_sqe& sqe, std::size_t bytes = SIZE_MAX) {
    const std::string all = bytes_of(sqe);
    bytes = std::min(bytes, all.size());
    CHECK(::send(sqe.fd, all.data(), bytes, MSG_NOSIGNAL) == static_cast<::ssize_t>(bytes));
    complete(sqe.user_data, static_cast<int>(bytes));
  }

  static std::string bytes_of(const io_uring_sqe& sqe) {
    if (sqe.opcode == IORING_OP_SEND) return {pointer<const char>(sqe.addr), sqe.len};
    const auto& message = *pointer<const ::msghdr>(sqe.addr);
    std::string bytes;
    for (std::size_t i = 0; i < message.msg_iovlen; ++i) {
      const ::iovec& piece = message.msg_iov[i];
      bytes.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
    }
    return bytes;
  }

 private:
  Outcome serve() {
    Outcome outcome;
    const bool unix_sockets = !setup_.unix_path.empty();
    std::optional<common::Listener> listener(
        unix_sockets ? common::listen_unix(setup_.unix_path, /*nonblocking=*/false)
                     : common::listen_tcp("127.0.0.1", 0, /*nonblocking=*/false));
    uring::BufferRing group(setup_.buffers, setup_.bytes);
    group_ = &group;
    const uring::RingOptions options{.entries = setup_.sq_entries, .cq_entries = 1024};
    std::optional<uring::Ring> ring(std::in_place, options, seam().kernel());
    if (group.register_with(*ring, uring::BufferGroup{0}) < 0) throw std::runtime_error("no buffers");
    uring::DirectFiles slots;
    if (setup_.slots > 0 && slots.register_with(*ring, setup_.slots) < 0) {
      throw std::runtime_error("no table of files");
    }
    uring::Loop loop(*ring);
    common::ServerOptions server_options;
    server_options.max_connections = setup_.max_connections;
    echo::EchoServer<false> server(loop, &group, *listener, signals(), server_options,
                                   {.slots = setup_.slots, .unix_sockets = unix_sockets});
    listens(listener->name(), ring->fd());
    outcome.result = server.run();
    outcome.counters = server.counters();
    outcome.leaks = server.count_leaks();
    listener.reset();
    ring.reset();
    // After a failure the kernel cancels what was in flight, but a moment later.
    if (outcome.result < 0) std::this_thread::sleep_for(200ms);
    return outcome;
  }

  Setup setup_;
  uring::BufferRing* group_ = nullptr;
  std::atomic<std::size_t> buffers_in_use_{0};
};

bool is_send(const io_uring_sqe& sqe) {
  return sqe.opcode == IORING_OP_SEND || sqe.opcode == IORING_OP_SENDMSG;
}
bool is_receive(const io_uring_sqe& sqe) { return sqe.opcode == IORING_OP_RECV; }
bool is_multishot(const io_uring_sqe& sqe) { return (sqe.ioprio & IORING_RECV_MULTISHOT) != 0; }

/// It brings one buffer, and is the last completion of its receive.
void make_single(io_uring_sqe& receive) {
  receive.ioprio = static_cast<std::uint16_t>(receive.ioprio & ~IORING_RECV_MULTISHOT);
  uring::abi::sqe_optlen(receive) = 0;
}

bool echoes(tests::Client& client, std::string_view bytes = "hello") {
  client.send_all(bytes);
  return client.receive_exactly(bytes.size()) == bytes;
}

/// A server learns from a first refusal which receives this kernel has (the cap is 6.17's). For tests that count them:
/// with the first client that is over, and its receives are counted out.
unsigned receives_of_the_first_client(const Seam& seam, const Server& server) {
  {
    tests::Client client(server.where());
    CHECK(echoes(client));
  }
  REQUIRE(eventually([&] { return seam.seen(IORING_OP_CLOSE) == 1; }));
  return seam.seen(IORING_OP_RECV);
}

/// No two of its numbers are the same, so that a piece in the wrong place shows.
std::string numbered(std::size_t size) {
  std::string text;
  for (int i = 10'000; text.size() < size; ++i) text += std::to_string(i);
  return text.substr(0, size);
}

}  // namespace

#define SKIP_WITHOUT_MULTISHOT() \
  SKIP_WITHOUT_SEAM();           \
  SKIP_UNLESS(tests::kernel::linux_at_least(6, 0), "multishot receives need Linux 6.0")

// ---- Completions of those who have gone ------------------------------------------------------------------------

TEST_CASE("echo server: completions from an earlier life of their slot are counted, and touch nobody") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  Server server(seam);
  std::vector<uring::Token> earlier, now;
  {
    tests::Client client(server.where());
    CHECK(echoes(client));
    for (const std::uint8_t opcode : {IORING_OP_RECV, IORING_OP_SEND}) {
      earlier.push_back({seam.last(opcode).user_data});
    }
    client.half_close();
    CHECK(client.receive_to_end() == "");
  }
  REQUIRE(eventually([&] { return seam.seen(IORING_OP_CLOSE) == 1; }));
  earlier.push_back({seam.last(IORING_OP_CLOSE).user_data});
  REQUIRE(eventually([&] { return seam.has_handled(earlier.back().bits); }));

  seam.rule([&](const io_uring_sqe& sqe) {
    if (is_receive(sqe)) now.push_back({sqe.user_data});
    return false;
  });
  std::vector<tests::Client> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back(server.where());
    CHECK(echoes(clients.back()));
  }
  seam.rule(nullptr);
  unsigned forged = 0;
  for (const uring::Token token : earlier) {
    CAPTURE(token.bits);
    CHECK(std::ranges::any_of(now, [&](uring::Token other) {
      return other.slot() == token.slot() && other.generation() != token.generation();
    }));
    for (const int result : {0, 5, -ECONNRESET}) {
      server.complete(token.bits, result);
      ++forged;
      for (tests::Client& client : clients) CHECK(echoes(client));
    }
  }
  for (tests::Client& client : clients) client.close();
  const Outcome outcome = server.stop();
  CHECK(outcome.result == 0);
  CHECK(outcome.leaks == forged);  // somebody was not awaited, and that is said; nothing else is wrong
  CHECK(outcome.descriptors_left == 0);
  CHECK(outcome.counters.errors == 0);
}

// ---- Completions in another order, with other flags --------------------------------------------------------------

TEST_CASE("echo server: in whatever order completions come, and with whatever flags, every byte goes back") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  seam.reverses = true;
  seam.unknown_flags = tests::kernel::flags_of_the_future;
  Server server(seam);
  std::vector<tests::Client> clients;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 8; ++i) clients.emplace_back(server.where());
    const std::string bytes = numbered(20 * buffer_bytes);
    for (tests::Client& client : clients) client.send_all(bytes);
    for (std::size_t i = 0; i < clients.size(); i += 2) clients[i].half_close();
    for (std::size_t i = 0; i < clients.size(); ++i) {
      CHECK(clients[i].receive_exactly(bytes.size()) == bytes);
      if (i % 2 == 0) CHECK(clients[i].receive_to_end() == "");
    }
    for (std::size_t i = 1; i < clients.size(); i += 4) clients[i].reset();
    clients.clear();
  }
  const Outcome outcome = server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.bytes_in == outcome.counters.bytes_out);
}

// ---- The last completion of a multishot ------------------------------------------------------------------------

TEST_CASE("echo server: a receive whose last completion brings bytes is armed again") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  seam.rule([](io_uring_sqe& sqe) {
    if (is_receive(sqe)) make_single(sqe);
    return false;
  });
  Server server(seam);
  {
    tests::Client client(server.where());
    for (int i = 0; i < 10; ++i) REQUIRE(echoes(client));
    client.send_all("good bye");
    client.half_close();
    CHECK(client.receive_to_end() == "good bye");
  }
  const Outcome outcome = server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.rearms == 11);
}

// It can go deaf in front of an urgent byte (docs/kernel-facts.md). Here there is nothing behind that byte, which looks
// the same.
TEST_CASE(
    "echo server: a multishot receive that does not bring what it has promised is asked anew, and once") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  Server server(seam);
  const unsigned before = receives_of_the_first_client(seam, server);
  std::atomic<bool> all_is_there{false};
  seam.rule([&](const io_uring_sqe& sqe) {
    while (is_receive(sqe) && !all_is_there) std::this_thread::sleep_for(1ms);
    return false;
  });
  tests::Client client(server.where());
  client.send_all("before");
  client.send_urgent('!');
  all_is_there = true;
  CHECK(client.receive_exactly(6) == "before");
  const io_uring_sqe promising = seam.last(IORING_OP_RECV);
  CHECK(is_multishot(promising));
  REQUIRE(eventually([&] { return seam.seen(IORING_OP_RECV) == before + 2; }));
  CHECK(seam.last(IORING_OP_ASYNC_CANCEL).addr == promising.user_data);
  CHECK(!is_multishot(seam.last(IORING_OP_RECV)));
  const std::uint64_t enters = seam.enters;
  std::this_thread::sleep_for(200ms);  // It is not doubted again and again.
  CHECK(seam.enters - enters <= 1);
  CHECK(seam.seen(IORING_OP_RECV) == before + 2);

  client.send_all("behind");
  CHECK(client.receive_exactly(6) == "behind");
  for (int i = 0; i < 10; ++i) CHECK(echoes(client));
  CHECK(is_multishot(seam.last(IORING_OP_RECV)));
  CHECK(seam.seen(IORING_OP_RECV) == before + 3);
  CHECK(seam.seen(IORING_OP_ASYNC_CANCEL) == 1);
  client.close();
  server.check_clean_end();
}

TEST_CASE("echo server: who goes while a promise is open is forgotten") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  seam.rule([](const io_uring_sqe& sqe) {
    if (is_receive(sqe)) std::this_thread::sleep_for(2ms);  // so that all is there
    return false;
  });
  Server server(seam);
  for (int i = 0; i < 20; ++i) {
    CAPTURE(i);
    tests::Client client(server.where());
    client.send_all("before");
    client.send_urgent('!');
    CHECK(client.receive_exactly(6) == "before");
    i % 2 == 0 ? client.reset() : client.half_close();
    if (i % 2 == 1) CHECK(client.receive_to_end() == "");
  }
  server.check_clean_end();
}

TEST_CASE("echo server: an accept whose last completion brings a client is armed again") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  seam.rule([](io_uring_sqe& sqe) {
    if (sqe.opcode == IORING_OP_ACCEPT) sqe.ioprio = 0;
    return false;
  });
  Server server(seam);
  for (int i = 0; i < 10; ++i) {
    tests::Client client(server.where());
    REQUIRE(echoes(client));
  }
  const Outcome outcome = server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.accepted == 10);
  CHECK(outcome.counters.accept_sqes == 11);
  CHECK(outcome.counters.rearms == 10);
}

// ---- Those who do not read, and those who find no buffer -------------------------------------------------------

namespace {

/// The stage for the tests below: a group of four buffers, all of which lie in front of a client that does not read.
/// The first has been sent; two are in the send in flight, which is held back, and two stand behind it.
///
/// The group is full only at the end: on 6.1 a receive that has used the last buffer ends with ENOBUFS at once, although
/// nothing more has come. Then its own client is one that found no buffer, and the send may be cancelled for that.
struct DryGroup {
  static constexpr std::size_t sent = buffer_bytes, in_flight = 2 * buffer_bytes, all = 5 * buffer_bytes;

  Seam seam{};
  Server server{seam, {.buffers = 4}};
  tests::Client stalled{server.where()};
  tests::Client other{server.where()};
  std::string bytes = numbered(all);

  DryGroup() {
    hold_sends(2);
    stalled.send_all(bytes.substr(0, sent));
    const io_uring_sqe first = seam.held(0);
    stalled.send_all(bytes.substr(sent, in_flight));
    REQUIRE(are_in_use(3));
    server.perform_send(first);
    REQUIRE(are_in_use(2));
    stalled.send_all(bytes.substr(sent + in_flight));
    REQUIRE(are_in_use(4));
    REQUIRE(Server::bytes_of(send()) == bytes.substr(sent, in_flight));
  }

  /// The send in flight.
  io_uring_sqe send() const { return seam.held(1); }
  /// The first sends so many are held back, all others not.
  void hold_sends(unsigned count) {
    seam.rule([count](const io_uring_sqe& sqe) mutable { return is_send(sqe) && count > 0 && count-- > 0; });
  }
  bool are_in_use(std::size_t count) {
    return eventually([&] { return server.buffers_in_use() == count; });
  }
  /// Whether the send has been cancelled, which happens when somebody needs the buffers.
  bool is_cancelled(const io_uring_sqe& sqe) {
    return eventually([&] {
      return seam.seen(IORING_OP_ASYNC_CANCEL) > 0 && seam.last(IORING_OP_ASYNC_CANCEL).addr == sqe.user_data;
    });
  }
  Outcome check_all_is_well() {
    CHECK(other.receive_exactly(5) == "hello");
    CHECK(stalled.receive_exactly(all) == bytes);
    CHECK(echoes(stalled));
    CHECK(echoes(other));
    stalled.close();
    other.close();
    const Outcome outcome = server.stop();
    Server::check_clean(outcome);
    CHECK(outcome.counters.enobufs >= 1);
    CHECK(outcome.counters.buffers_in_use_max == 4);
    return outcome;
  }
};

}  // namespace

TEST_CASE("echo server: a send that is cancelled for its buffers loses no byte and doubles none") {
  SKIP_WITHOUT_MULTISHOT();
  DryGroup stage;
  stage.other.send_all("hello");
  REQUIRE(stage.is_cancelled(stage.send()));
  SUBCASE("nothing was sent") { stage.server.complete(stage.send().user_data, -ECANCELED); }
  SUBCASE("a byte was sent") { stage.server.perform_send(stage.send(), 1); }
  SUBCASE("a buffer was sent") { stage.server.perform_send(stage.send(), buffer_bytes); }
  SUBCASE("a part of the second buffer was sent") { stage.server.perform_send(stage.send(), 100); }
  SUBCASE("all was sent") { stage.server.perform_send(stage.send()); }
  const Outcome outcome = stage.check_all_is_well();
  CHECK(outcome.counters.bytes_in == outcome.counters.bytes_out);
  CHECK(outcome.counters.errors == 0);
}

TEST_CASE("echo server: who met ENOBUFS receives again when buffers came back, and not before") {
  SKIP_WITHOUT_MULTISHOT();
  DryGroup stage;
  const unsigned receives = stage.seam.seen(IORING_OP_RECV);
  stage.other.send_all("hello");
  REQUIRE(stage.is_cancelled(stage.send()));
  const std::uint64_t enters = stage.seam.enters;
  std::this_thread::sleep_for(200ms);
  CHECK(stage.seam.seen(IORING_OP_RECV) == receives);
  CHECK(stage.seam.enters - enters < 10);
  CHECK(!stage.other.has_something(0ms));
  stage.server.perform_send(stage.send());
  stage.check_all_is_well();
}

TEST_CASE("echo server: who met ENOBUFS may leave before there are buffers") {
  SKIP_WITHOUT_MULTISHOT();
  DryGroup stage;
  std::vector<tests::Client> more;
  for (int i = 0; i < 4; ++i) {
    more.emplace_back(stage.server.where());
    more.back().send_all("hello");
  }
  stage.other.send_all("hello");
  REQUIRE(stage.is_cancelled(stage.send()));
  more[0].reset();
  more[1].close();
  more[2].half_close();
  std::this_thread::sleep_for(tests::kernel::a_while);
  stage.server.perform_send(stage.send(), 1);
  CHECK(more[2].receive_to_end() == "hello");
  CHECK(more[3].receive_exactly(5) == "hello");
  CHECK(echoes(more[3]));
  more.clear();
  stage.check_all_is_well();
}

TEST_CASE("echo server: buffers that stand behind spilled memory come back as well") {
  SKIP_WITHOUT_MULTISHOT();
  DryGroup stage;
  stage.hold_sends(2);
  stage.other.send_all("hello");
  REQUIRE(stage.is_cancelled(stage.send()));
  stage.server.perform_send(stage.send(), 1);
  // What is left goes on from private memory. The client reads a little of it, and sends more.
  const io_uring_sqe spilled = stage.seam.held(2);
  REQUIRE(is_send(spilled));
  const bool is_stalled = spilled.fd == stage.send().fd;
  const io_uring_sqe reply = is_stalled ? stage.seam.held(3) : spilled;
  const io_uring_sqe rest = is_stalled ? spilled : stage.seam.held(3);
  stage.hold_sends(1);
  stage.server.perform_send(reply);
  CHECK(stage.other.receive_exactly(5) == "hello");
  stage.server.perform_send(rest, 1);
  const io_uring_sqe last = stage.seam.held(4);
  const std::string more = numbered(4 * buffer_bytes);
  stage.stalled.send_all(more);
  REQUIRE(stage.are_in_use(4));
  // Again the group is dry, and the client that has it reads nothing more.
  stage.other.send_all("hello");
  REQUIRE(stage.is_cancelled(last));
  stage.server.complete(last.user_data, -ECANCELED);
  CHECK(stage.stalled.receive_exactly(DryGroup::all) == stage.bytes);
  CHECK(stage.other.receive_exactly(5) == "hello");
  CHECK(stage.stalled.receive_exactly(more.size()) == more);
  stage.stalled.close();
  stage.other.close();
  stage.server.check_clean_end();
}

// ---- Connections that break ------------------------------------------------------------------------------------

TEST_CASE(
    "echo server: a reset that one operation reports and the others do not closes once, and late enough") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  // The first receive brings what is to be sent; the second, and the send, end when the test says so.
  unsigned receives = 0;
  seam.rule([receives](io_uring_sqe& sqe) mutable {
    if (!is_receive(sqe)) return is_send(sqe) || sqe.opcode == IORING_OP_ASYNC_CANCEL;
    if (++receives > 1) return true;
    make_single(sqe);
    return false;
  });
  Server server(seam);
  tests::Client client(server.where());
  client.send_all("hello");
  const io_uring_sqe first = seam.held(0), second = seam.held(1);
  const io_uring_sqe receive = is_receive(first) ? first : second, send = is_receive(first) ? second : first;
  REQUIRE(is_receive(receive));
  REQUIRE(is_send(send));
  std::optional<io_uring_sqe> cancel;
  const auto is_open = [&] {
    std::this_thread::sleep_for(tests::kernel::a_while);
    return seam.seen(IORING_OP_CLOSE) == 0;
  };
  SUBCASE("the receive says it, and the send was cancelled") {
    server.complete(receive.user_data, -ECONNRESET);
    cancel = seam.held(2);
    CHECK(cancel->addr == send.user_data);
    CHECK(is_open());
    server.complete(send.user_data, -ECANCELED);
  }
  SUBCASE("the receive says it, and the send says 0") {
    server.complete(receive.user_data, -ECONNRESET);
    cancel = seam.held(2);
    CHECK(is_open());
    server.complete(send.user_data, 0);
  }
  SUBCASE("the send says it, and the receive says 0") {
    server.complete(send.user_data, -ECONNRESET);
    cancel = seam.held(2);
    CHECK(cancel->addr == receive.user_data);
    CHECK(is_open());
    server.complete(receive.user_data, 0);
  }
  SUBCASE("the receive says 0 first") {
    server.complete(receive.user_data, 0);
    CHECK(is_open());
    server.complete(send.user_data, -EPIPE);
  }
  SUBCASE("the send says it, and the receive has bytes") {
    server.complete(send.user_data, -ECONNRESET);
    cancel = seam.held(2);
    CHECK(is_open());
    server.complete(receive.user_data, -ECANCELED);
  }
  if (cancel) {
    CHECK(is_open());  // the completion of the cancellation is still to come
    server.complete(cancel->user_data, -ENOENT);
  }
  CHECK(client.receive_to_end() == "");
  client.close();
  seam.rule(nullptr);
  tests::Client next(server.where());
  CHECK(echoes(next));
  next.close();
  const Outcome outcome = server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.errors == 1);
}

// The server has received all that came, so a close by itself would be a FIN.
TEST_CASE(
    "echo server: a failure that leaves bytes unsent is a reset, and not an end that looks like a good one") {
  SKIP_WITHOUT_MULTISHOT();
  Setup setup;
  SUBCASE("ordinary descriptors") {}
  SUBCASE("slots") { setup.slots = 100; }
  for (const int error : {ENOMEM, EIO}) {
    for (const bool send_fails : {true, false}) {
      CAPTURE(error);
      CAPTURE(send_fails);
      Seam seam;
      // The first receive brings what is to be sent; the second, and the send, end when the test says so.
      unsigned receives = 0;
      seam.rule([receives](io_uring_sqe& sqe) mutable {
        if (!is_receive(sqe)) return is_send(sqe);
        if (++receives > 1) return true;
        make_single(sqe);
        return false;
      });
      Server server(seam, setup);
      tests::Client client(server.where());
      client.send_all("hello");
      const io_uring_sqe first = seam.held(0), second = seam.held(1);
      const io_uring_sqe receive = is_receive(first) ? first : second,
                         send = is_receive(first) ? second : first;
      REQUIRE(is_receive(receive));
      REQUIRE(is_send(send));
      server.complete((send_fails ? send : receive).user_data, -error);
      server.complete((send_fails ? receive : send).user_data, -ECANCELED);
      CHECK(client.receive_to_end() == "");
      CHECK(client.end() == tests::End::reset);
      client.close();
      const Outcome outcome = server.stop();
      Server::check_clean(outcome);
      CHECK(outcome.counters.errors == 1);
    }
  }
}

// Otherwise the end of the stream may be missed later (see watch_for_hangup).
TEST_CASE("echo server: a watch for the hang-up that the kernel has no memory for is set again") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  unsigned polls = 0;
  seam.rule(
      [polls](const io_uring_sqe& sqe) mutable { return sqe.opcode == IORING_OP_POLL_ADD && ++polls <= 3; });
  const tests::TemporaryFolder folder;
  Server server(seam, {.unix_path = (folder.path() / "socket").string()});
  tests::Client client(server.where());
  CHECK(echoes(client));
  for (std::size_t i = 0; i < 3; ++i) {
    REQUIRE(eventually([&] { return seam.count_held() > i; }));
    server.complete(seam.held(i).user_data, -ENOMEM);
  }
  CHECK(eventually([&] { return seam.seen(IORING_OP_POLL_ADD) == 4; }));
  const std::string bytes = numbered(100 * buffer_bytes);
  client.send_all(bytes);
  client.half_close();
  CHECK(client.receive_to_end() == bytes);
  CHECK(client.end() == tests::End::fin);
  client.close();
  server.check_clean_end();
}

// A kernel whose receive misses the end behind many buffers (6.18, 7.3) needs the watch; one that sees it (6.1, 6.12)
// hears of it twice, in either order. Nothing may be lost or doubled on any.
TEST_CASE("echo server: the end of a Unix stream is seen, once, whatever lies in front of it") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  std::atomic<bool> all_is_there{true};
  seam.rule([&](const io_uring_sqe& sqe) {
    while (is_receive(sqe) && !all_is_there) std::this_thread::sleep_for(1ms);
    return false;
  });
  const tests::TemporaryFolder folder;
  Server server(seam, {.buffers = 256, .unix_path = (folder.path() / "socket").string()});
  const unsigned counts[] = {0, 1, 2, 31, 32, 33, 34, 40, 64, 65, 100};
  for (const unsigned buffers : counts) {
    for (const bool together : {true, false}) {
      CAPTURE(buffers);
      CAPTURE(together);
      all_is_there = !together;
      tests::Client client(server.where());
      const std::string bytes = numbered(buffers * std::size_t{buffer_bytes});
      client.send_all(bytes);
      client.half_close();
      all_is_there = true;
      CHECK(client.receive_to_end() == bytes);
      CHECK(client.end() == tests::End::fin);
    }
  }
  const Outcome outcome = server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.bytes_in == outcome.counters.bytes_out);
  CHECK(outcome.counters.errors == 0);
}

namespace {

/// A client goes, and its close is not reported; the next one comes. True if that has the same descriptor.
bool next_client_has_the_same_number() {
  Seam seam;
  seam.rule([](const io_uring_sqe& sqe) { return sqe.opcode == IORING_OP_CLOSE; });
  Server server(seam);
  {
    tests::Client client(server.where());
    CHECK(echoes(client));
  }
  const io_uring_sqe close = seam.held(0);
  seam.rule(nullptr);
  CHECK(::close(close.fd) == 0);
  tests::Client next(server.where());
  CHECK(echoes(next));
  const bool is_same = seam.last(IORING_OP_SEND).fd == close.fd;
  server.complete(close.user_data, -EIO);  // of which the descriptor is gone all the same
  CHECK(echoes(next));
  next.close();
  server.check_clean_end();
  return is_same;
}

}  // namespace

// It is the lowest free number, as a rule. But a multishot accept takes one before it looks whether there is a client,
// and gives it back: meanwhile somebody else gets the next.
TEST_CASE("echo server: a number that comes again while its old close is not reported is a new client") {
  SKIP_WITHOUT_MULTISHOT();
  unsigned tries = 0;
  while (!next_client_has_the_same_number() && ++tries < 20) {
  }
  CHECK(tries < 20);
}

// ---- Old kernels, and no memory --------------------------------------------------------------------------------

TEST_CASE("echo server: nobody is lost when many receives are refused at once") {
  SKIP_WITHOUT_MULTISHOT();
  constexpr std::size_t count = 6;
  Seam seam;
  // An old kernel says EINVAL to what it does not know; to the first six that is said late, when there are others.
  bool refuses_multishot = false;
  SUBCASE("before 6.17 they have no cap") {}
  SUBCASE("before 6.0 there is no multishot") { refuses_multishot = true; }
  std::size_t capped = 0, multishot = 0;
  seam.rule([=](io_uring_sqe& sqe) mutable {
    if (!is_receive(sqe)) return false;
    const bool has_cap = uring::abi::sqe_optlen(sqe) != 0;
    if (!has_cap && !(refuses_multishot && is_multishot(sqe))) return false;
    sqe.opcode = 255;  // no kernel knows it
    return ++(has_cap ? capped : multishot) <= count;
  });
  Server server(seam);
  std::vector<tests::Client> clients;
  for (std::size_t i = 0; i < count; ++i) clients.emplace_back(server.where());
  for (tests::Client& client : clients) client.send_all("hello");
  const std::size_t refusals = refuses_multishot ? 2 * count : count;
  for (std::size_t i = 0; i < refusals; ++i) {
    seam.held(i < count ? count - 1
                        : refusals - 1);  // all of them have been asked for before the first is refused
    server.complete(seam.held(i).user_data, -EINVAL);
  }
  for (tests::Client& client : clients) CHECK(client.receive_exactly(5) == "hello");
  for (tests::Client& client : clients) CHECK(echoes(client));
  clients.emplace_back(server.where());
  CHECK(echoes(clients.back()));
  CHECK(is_multishot(seam.last(IORING_OP_RECV)) != refuses_multishot);
  clients.clear();
  server.check_clean_end();
}

TEST_CASE(
    "echo server: without a cap a receive is cancelled when its client does not read, and goes on later") {
  SKIP_WITHOUT_MULTISHOT();
  Seam seam;
  seam.rule([](io_uring_sqe& sqe) {
    if (is_receive(sqe) && uring::abi::sqe_optlen(sqe) != 0) sqe.opcode = 255;
    return false;
  });
  Server server(seam, {.buffers = 256, .bytes = 4096});
  tests::Client client(server.where(), 64 << 10);
  const std::string bytes = numbered(16 << 20);
  const std::size_t sent = client.send_what_fits(bytes, 300ms);
  CHECK(sent < bytes.size());
  CHECK(seam.seen(IORING_OP_ASYNC_CANCEL) > 0);
  client.limit_receive_buffer(1 << 20);
  CHECK(client.receive_exactly(sent) == bytes.substr(0, sent));
  CHECK(echoes(client));
  client.close();
  server.check_clean_end();
}

TEST_CASE("echo server: operations that the kernel has no memory for fail one by one, and the rest goes on") {
  SKIP_WITHOUT_MULTISHOT();
  constexpr std::uint32_t most = 40;
  Setup setup{.sq_entries = 8, .max_connections = most};
  SUBCASE("ordinary descriptors") {}
  SUBCASE("slots") {
    SKIP_UNLESS(common_ring::slots_let_go(), "where closed slots are kept, the server has none");
    setup.slots = 2 * most;
  }
  Seam seam;
  Server server(seam, setup);
  tests::Client waker(server.where());
  CHECK(echoes(waker));
  std::vector<tests::Client> clients;
  // In one turn so many come that eight of their receives find room; those who are too many are closed, and eight of
  // these closes find room.
  // The server must pause in the turn that has received from the waker: an enter before that would let the waker be one
  // of those for whom there is no room.
  const auto come_at_once = [&](std::size_t count) {
    tests::kernel::wait_until_quiet(seam);
    seam.pauses = true;
    waker.send_all("x");
    REQUIRE(eventually([&] { return seam.is_paused.load(); }));
    for (std::size_t i = 0; i < count; ++i) clients.emplace_back(server.where());
    seam.refused = 0;
    seam.refuses = true;
    seam.pauses = false;
    REQUIRE(eventually([&] { return seam.refused > 0; }));
    seam.refuses = false;
    CHECK(waker.receive_exactly(1) == "x");
  };
  come_at_once(20);
  std::size_t served = 0;
  for (tests::Client& client : clients) {
    served += echoes(client) ? 1U : 0U;
    CHECK(client.end() != tests::End::timeout);
  }
  CHECK(served > 0);
  clients.clear();
  while (clients.size() + 1 < most) {
    clients.emplace_back(server.where());
    if (!echoes(clients.back())) clients.pop_back();
  }
  come_at_once(20);
  for (std::size_t i = most - 1; i < clients.size(); ++i) {
    REQUIRE(clients[i].has_something(20s));
    CHECK(clients[i].receive_to_end() == "");
  }
  clients.clear();
  waker.close();
  for (int i = 0; i < 20; ++i) {
    clients.emplace_back(server.where());
    CHECK(echoes(clients.back()));
  }
  // The stop, which must cancel twenty receives and close twenty sockets, has no memory either.
  seam.refused = 0;
  seam.refuses = true;
  const Outcome outcome = server.stop();
  Server::check_clean(outcome, clients.size());
  CHECK(seam.refused > 0);
  REQUIRE(!outcome.by_force);  // or they would wait for what nobody closes
  for (tests::Client& client : clients) CHECK(client.receive_to_end() == "");
}

TEST_CASE("a server that may not accept ends and says why, instead of listening for nobody") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  seam.rule([](const io_uring_sqe& sqe) { return sqe.opcode == IORING_OP_ACCEPT; });
  Server server(seam);
  server.complete(seam.held(0).user_data, -EACCES);
  const Outcome outcome = server.wait();
  CHECK(!outcome.by_force);
  CHECK(outcome.result == -EACCES);
  CHECK(outcome.leaks == 0);
  CHECK(seam.count_held() == 1);
}

// ---- The table that SIGUSR1 prints -----------------------------------------------------------------------------

namespace {

/// What the process writes to stderr while it lives.
class Heard {
 public:
  Heard() : file_(::memfd_create("stderr", MFD_CLOEXEC)), kept_(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) {
    std::fflush(stderr);
    ::dup2(file_.get(), STDERR_FILENO);
  }
  Heard(const Heard&) = delete;
  Heard& operator=(const Heard&) = delete;
  ~Heard() { ::dup2(kept_.get(), STDERR_FILENO); }

  std::string text() const {
    std::string text(65536, '\0');
    const ::ssize_t size = ::pread(file_.get(), text.data(), text.size(), 0);
    text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return text;
  }
  bool hears(const std::string& part) const {
    return eventually([&] { return text().find(part) != std::string::npos; });
  }

 private:
  uring::FileDescriptor file_;
  uring::FileDescriptor kept_;
};

bool asks_for_peer(const io_uring_sqe& sqe) {
  return sqe.opcode == IORING_OP_URING_CMD && sqe.cmd_op == uring::abi::socket_getsockname;
}

}  // namespace

TEST_CASE("slots: SIGUSR1 asks who the peers are, and the table waits for the answer (Linux 6.19)") {
  SKIP_WITHOUT_SEAM();
  const Heard heard;
  Seam seam;
  seam.rule(asks_for_peer);
  Server server(seam, {.slots = 8});
  tests::Client client(server.where());
  CHECK(echoes(client));
  server.signal(SIGUSR1);
  const io_uring_sqe question = seam.held(0);
  CHECK((question.flags & IOSQE_FIXED_FILE) != 0);
  CHECK(uring::abi::sqe_optlen(question) == 1);
  // Again, before the answer is there: one table is enough. The server has heard of it when it reads for a third signal;
  // an echo would not tell, since on 6.1 a worker may read signals, and later.
  server.signal(SIGUSR1);
  REQUIRE(eventually([&] { return seam.seen(IORING_OP_READ) == 3; }));
  CHECK(echoes(client));
  CHECK(heard.text().find("1 connections") == std::string::npos);
  ::sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(4242);
  peer.sin_addr.s_addr = htonl(0xc0000207);
  std::memcpy(pointer(question.addr), &peer, sizeof peer);
  server.complete(question.user_data, 0);
  CHECK(heard.hears("192.0.2.7:4242"));
  CHECK(seam.count_held() == 1);
  CHECK(echoes(client));
  Server::check_clean(server.stop(), 1);
}

TEST_CASE(
    "slots: a kernel that cannot say who the peers are is asked once, and the table is printed without") {
  SKIP_WITHOUT_SEAM();
  const Heard heard;
  Seam seam;
  seam.rule(asks_for_peer);
  Server server(seam, {.slots = 8});
  tests::Client client(server.where());
  CHECK(echoes(client));
  server.signal(SIGUSR1);
  server.complete(seam.held(0).user_data, -EOPNOTSUPP);
  CHECK(heard.hears(" ?  "));
  server.signal(SIGUSR1);
  CHECK(eventually([&] {
    const std::string text = heard.text();
    return text.find(" ?  ", text.find(" ?  ") + 1) != std::string::npos;  // a second table
  }));
  CHECK(seam.count_held() == 1);
  CHECK(echoes(client));
  Server::check_clean(server.stop(), 1);
}

TEST_CASE("descriptors: the table of SIGUSR1 says who the peers are") {
  SKIP_WITHOUT_SEAM();
  const Heard heard;
  Seam seam;
  Server server(seam);
  tests::Client client(server.where());
  CHECK(echoes(client));
  server.signal(SIGUSR1);
  CHECK(heard.hears(" 127.0.0.1:"));
  Server::check_clean(server.stop(), 1);
}

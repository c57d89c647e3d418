// The zero-copy file server, and notifications that come when they like: late, twice, for nothing, never (seam.hpp says
// how). What is checked each time: the client got its bytes, and the buffer came back when the kernel let go, not before.

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <chrono>
#include <csignal>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernel/file_server_on_seam.hpp"

namespace {

using namespace std::chrono_literals;
using tests::kernel::echoes;
using tests::kernel::get;
using tests::kernel::Outcome;
using tests::kernel::Seam;
using Server = tests::kernel::FileServerOnSeam;

constexpr std::uint32_t more = IORING_CQE_F_MORE;
constexpr std::uint32_t notification = IORING_CQE_F_NOTIF;
const std::string contents(20'000, 'x');
const std::string answer = "OK 20000\n" + contents;

#define SKIP_WITHOUT_FLAGS() \
  SKIP_WITHOUT_SEAM();       \
  SKIP_UNLESS(tests::kernel::linux_at_least(6, 3), "posts flags by MSG_RING, which needs Linux 6.3")

/// Every zero-copy send is held back, or only the first `count`.
struct Stage {
  Seam seam{};
  Server server;
  explicit Stage(std::size_t count = 1000, std::uint32_t buffers = 8)
      : server(seam, {.buffers = buffers, .zero_copy_from = 4096}) {
    server.folder().write("file", contents);
    seam.rule([count, held = std::size_t{0}](const io_uring_sqe& sqe) mutable {
      return sqe.opcode == IORING_OP_SEND_ZC && held++ < count;
    });
  }

  bool buffers_come_to(std::size_t count) {
    return tests::kernel::eventually([&] { return server.buffers_in_use() == count; });
  }
  /// The server has done all that it has to do: it answers somebody else.
  void let_it_come_round() {
    tests::Client other(server.where());
    for (int i = 0; i < 3; ++i) CHECK(echoes(other));
  }
  /// Nothing is read into a buffer until the end of this scope.
  void notify(const io_uring_sqe& sqe, int result = 0) {
    server.complete(sqe.user_data, result, notification);
  }
};

}  // namespace

TEST_CASE("zero copy: a buffer comes back with its notification, long after the connection is gone") {
  SKIP_WITHOUT_FLAGS();
  Stage stage;
  tests::Client client(stage.server.where());
  client.send_all("GET file\n");
  const io_uring_sqe send = stage.seam.held(0);
  const auto bytes = static_cast<int>(answer.size());
  CHECK(static_cast<int>(send.len) == bytes);
  CHECK((send.ioprio & IORING_RECVSEND_FIXED_BUF) == 0);  // this pool is not registered
  CHECK((send.ioprio & uring::abi::send_zc_report_usage) != 0);
  REQUIRE(::send(send.fd, tests::kernel::pointer(send.addr), send.len, MSG_NOSIGNAL) == bytes);
  stage.server.complete(send.user_data, bytes, more);
  CHECK(client.receive_exactly(answer.size()) == answer);
  client.close();
  stage.let_it_come_round();
  CHECK(stage.server.buffers_in_use() == 1);
  // Everybody else is served out of the others.
  tests::Client next(stage.server.where());
  next.send_all("GET file\n");
  const io_uring_sqe second = stage.seam.held(1);
  CHECK(second.addr != send.addr);
  stage.server.perform(second);
  CHECK(next.receive_exactly(answer.size()) == answer);
  next.close();
  stage.let_it_come_round();
  CHECK(stage.server.buffers_in_use() == 1);  // the second had no F_MORE, so nothing is to come
  stage.notify(send);
  CHECK(stage.buffers_come_to(0));
  const Outcome outcome = stage.server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.zc_sends == 2);
  CHECK(outcome.counters.zc_copied == 0);
}

TEST_CASE(
    "zero copy: a failed send ends the connection, and its buffer waits for the notification if there is "
    "one") {
  SKIP_WITHOUT_FLAGS();
  for (const bool notifies : {true, false}) {  // 6.18, and 6.0
    CAPTURE(notifies);
    Stage stage;
    tests::Client client(stage.server.where());
    client.send_all("GET file\n");
    const io_uring_sqe send = stage.seam.held(0);
    stage.server.complete(send.user_data, -EPIPE, notifies ? more : 0);
    CHECK(client.receive_to_end() == "");
    stage.let_it_come_round();
    CHECK(stage.server.buffers_in_use() == (notifies ? 1 : 0));
    if (notifies) stage.notify(send, static_cast<int>(uring::abi::notif_usage_zc_copied));
    CHECK(stage.buffers_come_to(0));
    client.close();
    const Outcome outcome = stage.server.stop();
    Server::check_clean(outcome);
    CHECK(outcome.counters.zc_sends == 0);
    CHECK(outcome.counters.zc_copied == 0);  // what never began was not copied either
    CHECK(outcome.counters.errors == 1);
  }
}

TEST_CASE("zero copy: a notification after a completion without F_MORE is nobody's, and no leak") {
  SKIP_WITHOUT_FLAGS();
  Stage stage;
  tests::Client client(stage.server.where());
  client.send_all("GET file\n");
  const io_uring_sqe send = stage.seam.held(0);
  stage.server.complete(send.user_data, -ECANCELED);  // as a broken link does it; so it is sent once more
  const io_uring_sqe again = stage.seam.held(1);
  stage.notify(send);
  CHECK(again.addr == send.addr);
  stage.server.perform(again);
  CHECK(client.receive_exactly(answer.size()) == answer);
  CHECK(stage.buffers_come_to(0));
  client.close();
  stage.server.check_clean_end();
}

TEST_CASE("zero copy: what is left of a short send goes out of the same buffer, which then waits for both") {
  SKIP_WITHOUT_FLAGS();
  Stage stage;
  tests::Client client(stage.server.where());
  client.send_all("GET file\n");
  const io_uring_sqe first = stage.seam.held(0);
  REQUIRE(::send(first.fd, tests::kernel::pointer(first.addr), 5000, MSG_NOSIGNAL) == 5000);
  stage.server.complete(first.user_data, 5000, more);
  const io_uring_sqe second = stage.seam.held(1);
  CHECK(second.addr == first.addr + 5000);
  CHECK(second.len == first.len - 5000);
  REQUIRE(::send(second.fd, tests::kernel::pointer(second.addr), second.len, MSG_NOSIGNAL) ==
          static_cast<ssize_t>(second.len));
  stage.server.complete(second.user_data, static_cast<int>(second.len), more);
  CHECK(client.receive_exactly(answer.size()) == answer);
  stage.notify(second, static_cast<int>(uring::abi::notif_usage_zc_copied));
  stage.let_it_come_round();
  CHECK(stage.server.buffers_in_use() == 1);
  stage.notify(first);
  CHECK(stage.buffers_come_to(0));
  client.close();
  const Outcome outcome = stage.server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.zc_sends == 2);
  CHECK(outcome.counters.zc_copied == 1);
}

TEST_CASE("zero copy: without memory for it, that piece is copied, and the next is tried again") {
  SKIP_WITHOUT_FLAGS();
  for (const int error : {-ENOMEM, -ENOBUFS}) {
    Stage stage(1);
    tests::Client client(stage.server.where());
    client.send_all("GET file\n");
    const io_uring_sqe refused = stage.seam.held(0);
    stage.server.complete(refused.user_data, error, more);
    stage.notify(refused, static_cast<int>(uring::abi::notif_usage_zc_copied));
    CHECK(client.receive_exactly(answer.size()) == answer);
    const unsigned plain = stage.seam.seen(IORING_OP_SEND);
    CHECK(plain == 1);
    CHECK(get(client, "file") == contents);
    CHECK(stage.seam.seen(IORING_OP_SEND) == plain);
    CHECK(stage.seam.seen(IORING_OP_SEND_ZC) == 2);
    client.close();
    CHECK(stage.buffers_come_to(0));
    const Outcome outcome = stage.server.stop();
    Server::check_clean(outcome);
    CHECK(outcome.counters.zc_refused == 1);
    CHECK(outcome.counters.zc_sends == 1);
  }
}

TEST_CASE("zero copy: where the socket cannot, everything is copied from then on") {
  SKIP_WITHOUT_FLAGS();
  Stage stage;
  tests::Client client(stage.server.where());
  client.send_all("GET file\n");
  const io_uring_sqe refused = stage.seam.held(0);
  stage.server.complete(refused.user_data, -EOPNOTSUPP, more);
  stage.notify(refused);
  CHECK(client.receive_exactly(answer.size()) == answer);
  for (int i = 0; i < 3; ++i) CHECK(get(client, "file") == contents);
  CHECK(stage.seam.seen(IORING_OP_SEND_ZC) == 1);
  client.close();
  const Outcome outcome = stage.server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.zc_refused == 1);
}

TEST_CASE(
    "zero copy: a kernel that cannot report its copies is asked once more without, and one that cannot send "
    "so is not") {
  SKIP_WITHOUT_FLAGS();
  Stage stage;
  tests::Client client(stage.server.where());
  client.send_all("GET file\n");
  const io_uring_sqe first = stage.seam.held(0);
  CHECK((first.ioprio & uring::abi::send_zc_report_usage) != 0);
  stage.server.complete(first.user_data, -EINVAL);
  const io_uring_sqe second = stage.seam.held(1);
  CHECK((second.ioprio & uring::abi::send_zc_report_usage) == 0);
  stage.server.complete(second.user_data, -EINVAL);
  CHECK(client.receive_exactly(answer.size()) == answer);
  CHECK(get(client, "file") == contents);
  CHECK(stage.seam.seen(IORING_OP_SEND_ZC) == 2);
  client.close();
  const Outcome outcome = stage.server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.zc_refused == 1);
}

TEST_CASE("zero copy: half of the pool is lent at most; beyond it sends copy, and everybody is served") {
  SKIP_WITHOUT_FLAGS();
  Stage stage(1000, 8);
  std::vector<tests::Client> clients;
  for (std::size_t i = 0; i < 6; ++i) {
    clients.emplace_back(stage.server.where());
    clients.back().send_all("GET file\n");
    if (i < 4) {
      const io_uring_sqe send = stage.seam.held(i);
      const auto bytes = static_cast<int>(send.len);
      REQUIRE(::send(send.fd, tests::kernel::pointer(send.addr), send.len, MSG_NOSIGNAL) == bytes);
      stage.server.complete(send.user_data, bytes, more);
    }
    CHECK(clients.back().receive_exactly(answer.size()) == answer);
  }
  CHECK(stage.seam.count_held() == 4);
  CHECK(stage.seam.seen(IORING_OP_SEND) == 2);
  stage.let_it_come_round();
  CHECK(stage.server.buffers_in_use() == 4);
  stage.notify(stage.seam.held(2));  // and one more is lent
  CHECK(stage.buffers_come_to(3));
  clients[0].send_all("GET file\n");
  stage.server.perform(stage.seam.held(4));
  CHECK(clients[0].receive_exactly(answer.size()) == answer);
  for (const std::size_t i : {0U, 1U, 3U}) stage.notify(stage.seam.held(i));
  CHECK(stage.buffers_come_to(0));
  clients.clear();
  stage.server.check_clean_end();
}

TEST_CASE("zero copy: a stop does not wait for ever for peers that acknowledge nothing") {
  SKIP_WITHOUT_FLAGS();
  Stage stage;
  tests::Client client(stage.server.where());
  client.send_all("GET file\n");
  const io_uring_sqe send = stage.seam.held(0);
  const auto bytes = static_cast<int>(answer.size());
  REQUIRE(::send(send.fd, tests::kernel::pointer(send.addr), send.len, MSG_NOSIGNAL) == bytes);
  stage.server.complete(send.user_data, bytes, more);
  CHECK(client.receive_exactly(answer.size()) == answer);
  client.close();
  const auto begin = std::chrono::steady_clock::now();
  const Outcome outcome = stage.server.stop();  // clean, though the notification never comes
  Server::check_clean(outcome);
  CHECK(std::chrono::steady_clock::now() - begin >= common_ring::patience_with_loans);
}

TEST_CASE(
    "zero copy: a kernel before 6.2 that refuses the report of several sends at once sends without it") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  Server server(seam, {.buffers = 8, .zero_copy_from = 4096});
  server.folder().write("file", contents);
  seam.rule([](const io_uring_sqe& sqe) {
    return sqe.opcode == IORING_OP_SEND_ZC && (sqe.ioprio & uring::abi::send_zc_report_usage) != 0;
  });
  std::list<tests::Client> clients;
  for (std::size_t i = 0; i < 2; ++i) {
    clients.emplace_back(server.where());
    clients.back().send_all("GET file\n");
    seam.held(i);
  }
  for (std::size_t i = 0; i < 2; ++i) server.complete(seam.held(i).user_data, -EINVAL);
  for (tests::Client& client : clients) CHECK(client.receive_exactly(answer.size()) == answer);
  CHECK(seam.seen(IORING_OP_SEND_ZC) == 4);  // each of them once more, without the flag
  clients.clear();
  const Outcome outcome = server.stop();
  server.check_clean(outcome);
  CHECK(outcome.counters.zc_refused == 0);
}

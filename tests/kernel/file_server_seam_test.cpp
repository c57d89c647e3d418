// The io_uring file server on a kernel that has bad luck in store for it: completions that come late and in another
// order than usual, operations that an old kernel does not know, and no memory for requests (seam.hpp says how).

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <future>
#include <list>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernel/file_server_on_seam.hpp"

namespace {

using namespace std::chrono_literals;
using tests::kernel::echoes;
using tests::kernel::get;
using tests::kernel::Outcome;
using tests::kernel::pointer;
using tests::kernel::Seam;
using Server = tests::kernel::FileServerOnSeam;

std::string path_of(const io_uring_sqe& sqe) { return pointer<const char>(sqe.addr); }

bool is_read(const io_uring_sqe& sqe) {
  return sqe.opcode == IORING_OP_READ || sqe.opcode == IORING_OP_READ_FIXED;
}

}  // namespace

// ---- Completions that come late --------------------------------------------------------------------------------

namespace {

constexpr std::size_t large = 16 << 20;

/// The stage for both tests below: four buffers. The client has a large answer that is stalled (two of them); behind it
/// a request that will end the connection when its open has failed; behind that one that is being read (the third).
struct StalledConnection {
  Seam seam{};
  Server server{seam, {.buffers = 4, .send_buffer = 64 << 10}};
  std::optional<tests::Client> client{}, reader{}, in_line{};
  std::uint64_t poll = 0;  // the user_data of what waits until the client reads

  StalledConnection() {
    server.folder().write("large", std::string(large, 'x'));
    server.folder().write("small", "small");
    unsigned reads = 0;
    seam.rule([reads](const io_uring_sqe& sqe) mutable {
      if (sqe.opcode == IORING_OP_OPENAT2) return path_of(sqe).size() == 300;
      return is_read(sqe) && sqe.len == 5 && ++reads <= 2;
    });
    client.emplace(server.where(), 64 << 10);
    client->send_all("GET large\n");
    // It is sent as far as it goes.
    std::uint64_t enters = 0;
    REQUIRE(tests::kernel::eventually([&] {
      std::this_thread::sleep_for(50ms);
      return server.buffers_in_use() == 2 && std::exchange(enters, seam.enters.load()) == seam.enters;
    }));
    client->send_all("GET " + std::string(300, 'x') + "\n");
    const std::uint64_t open = seam.held(0).user_data;
    client->send_all("GET small\n");
    seam.held(1);
    // The last buffer is in use as well; and there comes one who needs one.
    reader.emplace(server.where());
    reader->send_all("GET small\n");
    seam.held(2);
    in_line.emplace(server.where());
    in_line->send_all("GET small\n");
    // So the large answer is preempted. Its buffers cannot go yet: something is read for this connection.
    REQUIRE(tests::kernel::eventually([&] { return seam.seen(IORING_OP_POLL_ADD) == 1; }));
    poll = seam.last(IORING_OP_POLL_ADD).user_data;
    server.complete(open, -ENAMETOOLONG);
  }

  void end_reads() {
    server.perform(seam.held(1));
    server.perform(seam.held(2));
  }

  void check_all_is_well() {
    CHECK(reader->receive_exactly(10) == "OK 5\nsmall");
    CHECK(in_line->receive_exactly(10) == "OK 5\nsmall");
    for (auto* const each : {&client, &reader, &in_line}) each->reset();
    server.check_clean_end();
  }
};

void check_large_answer_and_end(const std::string& text) {
  const std::string head = "OK " + std::to_string(large) + "\n";
  CHECK(text.starts_with(head));
  CHECK(text.find_first_not_of('x', head.size()) == head.size() + large);
  CHECK(text.substr(std::min(text.size(), head.size() + large)).starts_with("ERR 414 "));
}

}  // namespace

TEST_CASE(
    "file server: in whatever order completions come, and with whatever flags, answers are whole and in "
    "order") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  seam.reverses = true;
  seam.unknown_flags = tests::kernel::flags_of_the_future;
  // Lent buffers come back when the client reads, and these clients read one after another: so what is lent must leave
  // buffers for the others' first chunks, also if later files are open before the first.
  tests::kernel::FileServerSetup setup{};
  SUBCASE("sends copy") {}
  SUBCASE("sends borrow") { setup.zero_copy_from = 0; }
  Server server(seam, setup);
  std::string all;
  for (char name = 'a'; name < 'e'; ++name) {
    const std::string content(std::size_t{200} << 10, name);
    server.folder().write(std::string(1, name), content);
    all += "OK " + std::to_string(content.size()) + "\n" + content;
  }
  std::vector<tests::Client> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back(server.where());
    clients.back().send_all("GET a\nGET b\nGET c\nGET d\n");
  }
  for (tests::Client& client : clients) {
    const bool is_same = client.receive_exactly(all.size()) == all;  // too long to be printed
    CHECK(is_same);
  }
  clients.clear();
  server.check_clean_end();
}

TEST_CASE("file server: a stalled connection goes on when the last of its reads was for nothing") {
  SKIP_WITHOUT_SEAM();
  StalledConnection stage;
  std::future<std::string> text =
      std::async(std::launch::async, [&] { return stage.client->receive_to_end(); });
  CHECK(tests::kernel::eventually([&] { return stage.seam.has_handled(stage.poll); }));
  stage.end_reads();
  check_large_answer_and_end(text.get());
  CHECK(stage.client->end() == tests::End::fin);
  stage.check_all_is_well();
}

TEST_CASE(
    "file server: a stalled connection gives its buffers back when the last of its reads was for nothing") {
  SKIP_WITHOUT_SEAM();
  StalledConnection stage;
  stage.end_reads();
  CHECK(tests::kernel::eventually([&] { return stage.server.buffers_in_use() == 0; }));
  check_large_answer_and_end(stage.client->receive_to_end());
  CHECK(stage.client->end() == tests::End::fin);
  stage.check_all_is_well();
}

TEST_CASE("file server: a file replaced between its open and its statx is not served for ever") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  Server server(seam, {.slots = true});  // in a slot it has no descriptor, so statx goes by path
  server.folder().write("file", "old");
  server.folder().write("next", "new");
  unsigned looks = 0;
  seam.rule(
      [looks](const io_uring_sqe& sqe) mutable { return sqe.opcode == IORING_OP_STATX && ++looks == 1; });
  tests::Client client(server.where());
  client.send_all("GET file\n");
  const io_uring_sqe look = seam.held(0);
  std::filesystem::rename(server.folder().path() / "next", server.folder().path() / "file");
  server.perform(look);
  CHECK(client.receive_line() == "OK 3\n");
  client.receive_exactly(3);  // one of the two
  std::this_thread::sleep_for(1200ms);
  CHECK(get(client, "file") == "new");
  CHECK(get(client, "file") == "new");
  client.close();
  server.check_clean_end();
}

TEST_CASE("file server: an answer that was sent to its end counts, also if the client reset before we knew") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  Server server(seam);
  seam.rule([](const io_uring_sqe& sqe) { return sqe.opcode == IORING_OP_SEND; });
  tests::Client client(server.where());
  client.send_all("ECHO 5\nhello");
  const io_uring_sqe send = seam.held(0);
  client.reset();
  // Before it cancels that send, it has met the reset.
  CHECK(tests::kernel::eventually([&] { return seam.seen(IORING_OP_ASYNC_CANCEL) > 0; }));
  server.complete(send.user_data, static_cast<int>(send.len));
  const Outcome outcome = server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.requests == 1);
  CHECK(outcome.counters.bytes_out == 10);
}

// ---- Reads that fail, or come up short -------------------------------------------------------------------------

/// Whether it reads a file; the signals are read by the same operation, 128 bytes at a time.
bool reads_a_file(const io_uring_sqe& sqe) { return sqe.opcode == IORING_OP_READ && sqe.len > 128; }

std::string ask(const Server& server, const std::string& request) {
  tests::Client client(server.where());
  client.send_all(request);
  client.half_close();
  return client.receive_to_end();
}

TEST_CASE("file server: a file that gave EIO is answered with 500, and not read again before it changes") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  Server server(seam);
  server.folder().write("file", std::string(1000, 'a'));
  seam.rule(reads_a_file);
  {
    tests::Client client(server.where());
    client.send_all("GET file\nECHO 1\nx");
    server.complete(seam.held(0).user_data, -EIO);
    CHECK(client.receive_to_end().starts_with("ERR 500 "));
    CHECK(client.end() == tests::End::fin);
  }
  const std::string refusal = ask(server, "GET file\n");
  CHECK(refusal.starts_with("ERR 500 "));
  CHECK(refusal.find('\n') == refusal.size() - 1);  // and nothing behind it
  std::this_thread::sleep_for(1100ms);              // it is opened anew, and is the same
  CHECK(ask(server, "GET file\n") == refusal);
  CHECK(seam.count_held() == 1);
  seam.rule(nullptr);
  server.folder().write("file", std::string(1000, 'b'));
  std::this_thread::sleep_for(1100ms);
  CHECK(ask(server, "GET file\n") == "OK 1000\n" + std::string(1000, 'b'));
  server.check_clean_end();
}

TEST_CASE("file server: when a read fails behind the head, the connection is reset and never padded") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  Server server(seam);
  constexpr std::size_t chunk = 64 << 10;
  server.folder().write("file", std::string(4 * chunk, 'a'));
  seam.rule([](const io_uring_sqe& sqe) { return reads_a_file(sqe) && sqe.off == 3 * chunk; });
  tests::Client client(server.where());
  client.send_all("GET file\n");
  const std::string head = "OK " + std::to_string(4 * chunk) + "\n";
  CHECK(client.receive_exactly(head.size() + chunk) == head + std::string(chunk, 'a'));
  server.complete(seam.held(0).user_data, -EIO);
  CHECK(client.receive_to_end().size() <= 2 * chunk);
  CHECK(client.end() == tests::End::reset);
  const Outcome outcome = server.stop();
  Server::check_clean(outcome, 1);
  CHECK(outcome.counters.errors == 1);
}

TEST_CASE("file server: a read that brings less than it was asked for is continued, not taken for the end") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  Server server(seam);
  std::string contents;
  for (int i = 0; i < 20'000; ++i) contents += std::to_string(i);
  server.folder().write("file", contents);
  seam.rule([](io_uring_sqe& sqe) {
    if (reads_a_file(sqe)) sqe.len = std::min<std::uint32_t>(sqe.len, 1777);
    return false;
  });
  CHECK(ask(server, "GET file\n") == "OK " + std::to_string(contents.size()) + "\n" + contents);
  server.check_clean_end();
}

// ---- Descriptors run out ---------------------------------------------------------------------------------------

TEST_CASE("file server: accepts that found no descriptor are armed again, and counted") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  unsigned accepts = 0;
  seam.rule([accepts](const io_uring_sqe& sqe) mutable {
    return sqe.opcode == IORING_OP_ACCEPT && ++accepts <= 2;
  });
  Server server(seam);
  server.complete(seam.held(0).user_data, -EMFILE);
  server.complete(seam.held(1).user_data, -ENFILE);
  tests::Client client(server.where());
  CHECK(echoes(client));
  client.close();
  const Outcome outcome = server.stop();
  Server::check_clean(outcome);
  CHECK(outcome.counters.rearms == 2);
  CHECK(outcome.counters.requests == 1);
}

TEST_CASE("file server: a stop while descriptors are short waits for the others without a spin") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  // The first accept brings one client and ends; all others end when the test says so.
  unsigned accepts = 0;
  seam.rule([accepts](io_uring_sqe& sqe) mutable {
    if (sqe.opcode != IORING_OP_ACCEPT) return is_read(sqe) && sqe.len == 8;
    if (++accepts > 1) return true;
    sqe.ioprio = 0;  // not multishot
    return false;
  });
  Server server(seam);
  server.folder().write("file", "contents");
  tests::Client client(server.where());
  const std::uint64_t second = seam.held(0).user_data;
  client.send_all("GET file\n");
  const io_uring_sqe read = seam.held(1);
  REQUIRE(is_read(read));  // so the client is busy
  server.complete(second, -EMFILE);
  const std::uint64_t third = seam.held(2).user_data;
  SUBCASE("while it waits to try again") { server.complete(third, -EMFILE); }
  SUBCASE("while it tries again") {}
  server.signal(SIGTERM);
  std::this_thread::sleep_for(200ms);
  if (seam.seen(IORING_OP_ASYNC_CANCEL) > 0) server.complete(third, -ECANCELED);
  // A turn that must not wait makes no system call if nothing is prepared: it is the CPU that would tell.
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(300ms);
  CHECK(std::clock() - before < CLOCKS_PER_SEC / 20);
  CHECK(!server.has_ended(0ms));
  server.perform(read);
  CHECK(client.receive_exactly(13) == "OK 8\ncontents");
  client.close();
  Server::check_clean(server.wait());
}

TEST_CASE("file server: a second signal while it closes its last files changes nothing") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  Server server(seam);
  server.folder().write("file", "contents");
  tests::Client client(server.where());
  CHECK(get(client, "file") == "contents");
  client.close();
  CHECK(tests::kernel::eventually([&] { return seam.seen(IORING_OP_CLOSE) == 1; }));  // the connection
  // Cancelled are the accept, and in the end the read of signals, which is held back.
  unsigned cancels = 0;
  seam.rule([cancels](const io_uring_sqe& sqe) mutable {
    return sqe.opcode == IORING_OP_CLOSE || (sqe.opcode == IORING_OP_ASYNC_CANCEL && ++cancels == 2);
  });
  server.signal(SIGTERM);
  const io_uring_sqe first = seam.held(0);
  const io_uring_sqe second = seam.held(1);
  server.signal(SIGTERM);
  CHECK(!server.has_ended(50ms));
  for (const io_uring_sqe* const sqe : {&first, &second}) {
    if (sqe->opcode == IORING_OP_CLOSE) server.perform(*sqe);
    if (sqe->opcode == IORING_OP_ASYNC_CANCEL) server.complete(sqe->user_data, -ENOENT);
  }
  Server::check_clean(server.wait());
}

// ---- Old kernels, and no memory --------------------------------------------------------------------------------

TEST_CASE("file server: before Linux 5.19 nobody is lost when many receives are refused at once") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  constexpr std::size_t count = 6;
  // An old kernel says EINVAL to flags in ioprio that it does not know; for the first six that is said at once.
  std::size_t polled_first = 0;
  seam.rule([polled_first](io_uring_sqe& sqe) mutable {
    if (sqe.opcode != IORING_OP_RECV || sqe.ioprio == 0) return false;
    sqe.ioprio = 1U << 14;
    return ++polled_first <= count;
  });
  Server server(seam);
  std::vector<tests::Client> clients;
  for (std::size_t i = 0; i < count; ++i) {
    clients.emplace_back(server.where());
    CHECK(echoes(clients.back()));
  }
  seam.held(count - 1);  // all of them have been asked for before the first is refused
  for (std::size_t i = 0; i < count; ++i) server.complete(seam.held(i).user_data, -EINVAL);
  for (tests::Client& client : clients) {
    CHECK(echoes(client));
    CHECK(echoes(client));
    client.close();
  }
  server.check_clean_end();
}

TEST_CASE("file server: operations that the kernel has no memory for fail one by one, and the rest goes on") {
  SKIP_WITHOUT_SEAM();
  tests::kernel::FileServerSetup setup{.sq_entries = 8};
  SUBCASE("ordinary descriptors") {}
  SUBCASE("slots") { setup.slots = true; }
  Seam seam;
  Server server(seam, setup);
  for (int i = 0; i < 20; ++i) server.folder().write("f" + std::to_string(i), "contents");
  std::vector<tests::Client> clients;
  {
    tests::Client first(server.where());
    for (int i = 0; i < 20; ++i) CHECK(get(first, "f" + std::to_string(i)) == "contents");
    // Twenty clients come in one turn, and eight of their receives find room.
    seam.pauses = true;
    first.close();
    REQUIRE(tests::kernel::eventually([&] { return seam.is_paused.load(); }));
    for (int i = 0; i < 20; ++i) clients.emplace_back(server.where());
    seam.refuses = true;
    seam.pauses = false;
  }
  int served = 0;
  for (tests::Client& client : clients) {
    served += echoes(client) ? 1 : 0;
    CHECK(client.end() != tests::End::timeout);
  }
  CHECK(served > 0);
  CHECK(seam.refused > 0);
  seam.refuses = false;
  // When there is memory again, nothing is left of it.
  clients.clear();
  for (int i = 0; i < 20; ++i) {
    clients.emplace_back(server.where());
    CHECK(echoes(clients.back()));
  }
  CHECK(get(clients.back(), "f3") == "contents");
  // And the stop, which must cancel twenty receives and close twenty files, has none.
  seam.refused = 0;
  seam.refuses = true;
  const Outcome outcome = server.stop();
  Server::check_clean(outcome, clients.size());
  CHECK(seam.refused > 0);
  REQUIRE(!outcome.by_force);  // or they would wait for what nobody closes
  for (tests::Client& client : clients) CHECK(client.receive_to_end() == "");
}

TEST_CASE(
    "file server: a cancellation that comes a moment too soon is tried again, and nothing spins meanwhile") {
  SKIP_WITHOUT_SEAM();
  const std::string contents(20'000, 'x');
  Seam seam;
  Server server(seam, {.buffers = 2});
  server.folder().write("file", contents);
  seam.rule([sends = 0](const io_uring_sqe& sqe) mutable {
    if (sqe.opcode == IORING_OP_SEND && sqe.len > 10'000) return sends++ < 2;
    return sqe.opcode == IORING_OP_ASYNC_CANCEL;
  });
  std::list<tests::Client> clients;
  for (std::size_t i = 0; i < 2; ++i) {
    clients.emplace_back(server.where());
    clients.back().send_all("GET file\n");
    seam.held(i);
  }
  clients.emplace_back(server.where());
  clients.back().send_all("GET file\n");
  // The send is between two polls, so there is nothing to cancel; then it waits again.
  server.complete(seam.held(2).user_data, -ENOENT);
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(500ms);
  const std::clock_t spent = std::clock() - before;
  CHECK(spent < CLOCKS_PER_SEC / 20);
  CHECK(seam.count_held() > 3);  // one of the two is asked for its buffer again
  for (std::size_t i = 3; i < seam.count_held(); ++i) server.complete(seam.held(i).user_data, -ENOENT);
  seam.rule(nullptr);
  for (std::size_t i = 0; i < 2; ++i) server.perform(seam.held(i));
  for (tests::Client& client : clients) CHECK(client.receive_line() == "OK 20000\n");
  clients.clear();
  server.stop();
}

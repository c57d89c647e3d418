// m4_linked, --mode echo and --mode file: chains that go well, and chains that clients break. Whatever a client does, the
// next one is served, by as many chains as before; at the end the server asks the kernel whether a slot is still in use.

#include <doctest/doctest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <list>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "servers/m4_linked/chain_server.hpp"
#include "tests/integration/linked_support.hpp"
#include "tests/kernel/seam.hpp"
#include "uring/direct_files.hpp"

namespace {

using namespace std::chrono_literals;
using namespace linked_test;
using tests::Client;
using tests::End;

// ---- Messages -------------------------------------------------------------------------------------------------

TEST_CASE("linked: one client, as many as there are chains, and four times as many are answered") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 --chains 8 ") + way);
    for (const std::size_t count : {1U, 8U, 32U}) {
      CAPTURE(count);
      std::list<Client> clients;
      for (std::size_t i = 0; i < count; ++i) clients.emplace_back(server.where());
      for (const Client& client : clients) CHECK(client.send_all("hello"));
      for (Client& client : clients) {
        CHECK(client.receive_to_end() == "hello");
        CHECK(client.end() == End::fin);
      }
    }
    const tests::Ended ended = server.check_clean_end();
    CHECK(ended.counters.requests == 41);
    CHECK(ended.counters.accepted == 41);
    CHECK(ended.counters.bytes_in == 5 * 41);
    CHECK(ended.counters.bytes_out == 5 * 41);
    CHECK(ended.counters.errors == 0);
  }
}

TEST_CASE(
    "linked: who is served sees the end although another is silent; where slots are kept, that is said") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 --client-timeout 0 ") + way);
    Client silent(server.where());
    for (int i = 0; i < 3; ++i) CHECK(serves(server));
    silent.close();
    CHECK(contains(server.check_clean_end().errors, "keeps the socket") != common_ring::slots_let_go());
  }
}

TEST_CASE("linked: messages of 1 byte to 1 MiB") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    for (const std::size_t length : {std::size_t{1}, std::size_t{64} << 10, std::size_t{1} << 20}) {
      CAPTURE(length);
      Server server("--chains 2 --message " + std::to_string(length) + " " + way);
      for (std::uint64_t seed = 0; seed < 4; ++seed) CHECK(serves(server, stream(seed, 0, length)));
      CHECK(server.check_clean_end().counters.requests == 4);
    }
  }
}

TEST_CASE("linked: a message may come in pieces") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 --chains 1 ") + way);
    Client client(server.where());
    for (const char* piece : {"h", "el", "lo"}) {
      CHECK(client.send_all(piece));
      std::this_thread::sleep_for(10ms);
    }
    CHECK(client.receive_to_end() == "hello");
    server.check_clean_end();
  }
}

TEST_CASE("linked: over a Unix-domain socket") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 --unix ") + (folder.path() / "socket").string() + " " + way);
    CHECK(serves(server));
    server.check_clean_end();
  }
}

// ---- Clients that break their chain ---------------------------------------------------------------------------

TEST_CASE("linked: a client that finishes early gets nothing, and never what was in the buffer before") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 6 --chains 2 ") + way);
    for (int i = 0; i < 6; ++i) CHECK(serves(server, "secret"));
    for (int i = 0; i < 10; ++i) {
      Client client(server.where());
      client.send_all(i % 2 == 0 ? "abc" : "");
      client.half_close();
      CHECK(client.receive_to_end() == "");
      CHECK(client.end() == End::fin);
    }
    CHECK(serves(server, "secret"));
    const tests::Ended ended = server.check_clean_end();
    CHECK(ended.counters.requests == 7);
    CHECK(ended.counters.accepted == 17);
    CHECK(ended.counters.errors == 5);  // who leaves without a word is none
  }
}

TEST_CASE("linked: clients that reset, before a byte, in the middle of a message, and instead of reading") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 256K --chains 2 ") + way);
    for (int i = 0; i < 30; ++i) {
      Client client(server.where());
      const std::size_t bytes =
          std::array<std::size_t, 3>{0, 100'000, 256 << 10}[static_cast<std::size_t>(i % 3)];
      client.send_what_fits(stream(1, 0, bytes), 100ms);
      if (i % 2 == 0) std::this_thread::sleep_for(2ms);
      client.reset();
    }
    CHECK(serves(server, stream(2, 0, 256 << 10)));
    CHECK(serves(server, stream(3, 0, 256 << 10)));
    server.check_clean_end();
  }
}

TEST_CASE("linked: a client that sends more than a message is answered, and its connection ends") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 --chains 1 ") + way);
    Client client(server.where());
    client.send_all("hello, and more");
    CHECK(client.receive_to_end() == "hello");
    CHECK(
        (client.end() == End::reset || client.end() == End::fin));  // a RST, when the rest was there in time
    CHECK(serves(server));
    CHECK(server.check_clean_end().counters.requests == 2);
  }
}

TEST_CASE("linked: silent clients hold all chains for --client-timeout, and then others are served") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 --chains 2 --client-timeout 1 ") + way);
    Client silent(server.where());
    Client almost_silent(server.where());
    almost_silent.send_all("hell");
    const auto start = std::chrono::steady_clock::now();
    Client third(server.where());
    CHECK(answers(third, "hello"));
    CHECK(std::chrono::steady_clock::now() - start > 500ms);  // the chain's clock began a little before ours
    CHECK(silent.receive_to_end() == "");
    CHECK(almost_silent.receive_to_end() == "");
    const tests::Ended ended = server.check_clean_end();
    CHECK(ended.counters.requests == 1);
    CHECK(ended.counters.accepted == 3);
    CHECK(ended.counters.errors == 2);
  }
}

TEST_CASE("linked: a client that does not read its answer holds its chain for --client-timeout") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  for (const char* way : all_ways) {
    CAPTURE(way);
    // A Unix-domain socket holds less than a message; two sockets of TCP would take all of it.
    Server server("--message 1M --chains 1 --client-timeout 1 --unix " + (folder.path() / "socket").string() +
                  " " + way);
    Client deaf(server.where());
    CHECK(deaf.send_all(stream(1, 0, 1 << 20)));
    CHECK(serves(server, stream(2, 0, 1 << 20)));
    const std::string part = deaf.receive_to_end();
    CHECK(part.size() < (1 << 20));
    CHECK(is_stream(part, 1));
    const tests::Ended ended = server.check_clean_end();
    CHECK(ended.counters.requests == 1);
    CHECK(ended.counters.errors == 1);
  }
}

// ---- Stopping -------------------------------------------------------------------------------------------------

TEST_CASE("linked: SIGTERM ends a server whose chains wait for clients, at once") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--chains 100 ") + way);
    const auto start = std::chrono::steady_clock::now();
    const tests::Ended ended = server.check_clean_end();
    CHECK(std::chrono::steady_clock::now() - start < 4s);  // not after the grace of five
    CHECK(ended.counters.accepted == 0);
  }
}

/// A client whose chain waits for the rest of its message.
Client begun(const Server& server) {
  Client client(server.where());
  client.send_all("hel");
  std::this_thread::sleep_for(50ms);
  return client;
}

TEST_CASE("linked: SIGTERM lets a chain that has a client finish; nobody else is accepted") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 ") + way);
    Client client = begun(server);
    server.signal(SIGTERM);
    CHECK(tests::eventually([&] {
      try {
        Client late(server.where());
        return false;  // it was not that far yet
      } catch (const std::system_error&) {
        return true;
      }
    }));
    CHECK(server.runs());
    client.send_all("lo");
    CHECK(client.receive_to_end() == "hello");
    CHECK(client.end() == End::fin);
    CHECK(server.check_clean_end().counters.requests == 1);
  }
}

TEST_CASE("linked: a second SIGTERM cuts the chains that are left, with a reset") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 ") + way);
    Client client = begun(server);
    server.signal(SIGTERM);
    std::this_thread::sleep_for(100ms);
    CHECK(server.runs());
    server.signal(SIGTERM);
    CHECK(client.receive_to_end() == "");
    CHECK(client.end() == End::reset);
    const tests::Ended ended = server.wait();
    CHECK(ended.status == 0);
    CHECK(ended.counters.leaks == 0);
    CHECK(ended.counters.errors == 1);
  }
}

TEST_CASE("linked: a second SIGTERM cuts a chain that sends to somebody who does not read") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server("--message 1M --client-timeout 0 --unix " + (folder.path() / "socket").string() + " " +
                  way);
    Client deaf(server.where());
    CHECK(deaf.send_all(stream(1, 0, 1 << 20)));
    CHECK(deaf.has_something());
    server.signal(SIGTERM);
    std::this_thread::sleep_for(100ms);
    CHECK(server.runs());
    server.signal(SIGTERM);
    const tests::Ended ended = server.wait();
    CHECK(ended.status == 0);
    CHECK(ended.counters.leaks == 0);
  }
}

TEST_CASE("linked: after the grace of five seconds who is still silent is reset") {
  SKIP_WITHOUT_IO_URING();
  std::list<Server> servers;
  std::vector<Client> clients;
  for (const char* way : all_ways) {
    servers.emplace_back(std::string("--message 5 --client-timeout 0 ") + way);
    clients.push_back(begun(servers.back()));
  }
  for (const Server& server : servers) server.signal(SIGTERM);
  for (Client& client : clients) {
    CHECK(client.receive_to_end() == "");
    CHECK(client.end() == End::reset);
  }
  for (Server& server : servers) CHECK(server.check_clean_end().counters.errors == 1);
}

// ---- Limits, words --------------------------------------------------------------------------------------------

TEST_CASE(
    "linked: RLIMIT_NOFILE limits the table of slots, and so the chains; that is said, and they serve") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(std::string("--message 5 --chains 64 ") + way, {.descriptors = 16});
    std::list<Client> clients;
    for (int i = 0; i < 40; ++i) clients.emplace_back(server.where());
    for (const Client& client : clients) client.send_all("hello");
    for (Client& client : clients) CHECK(client.receive_to_end() == "hello");
    const tests::Ended ended = server.check_clean_end();
    CHECK(contains(ended.errors, "16 chains instead of 64"));
    CHECK(ended.counters.requests == 40);
  }
}

TEST_CASE("linked: clients cost no descriptors") {
  SKIP_WITHOUT_IO_URING();
  Server server("--message 5 --chains 64", {.descriptors = 64});
  std::list<Client> clients;
  for (int i = 0; i < 64; ++i) clients.push_back(Client(server.where()));
  for (const Client& client : clients) client.send_all("hell");
  std::this_thread::sleep_for(50ms);
  const std::filesystem::path folder = "/proc/" + std::to_string(server.pid()) + "/fd";
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) < 16);
  for (const Client& client : clients) client.send_all("o");
  for (Client& client : clients) CHECK(client.receive_to_end() == "hello");
  server.check_clean_end();
}

TEST_CASE("linked: skipping completions makes a request one of them, and far fewer enters") {
  SKIP_WITHOUT_IO_URING();
  std::vector<tests::Ended> ends;
  for (const char* way : all_ways) {
    Server server(std::string("--message 5 --chains 1 --client-timeout 0 ") + way);
    for (int i = 0; i < 200; ++i) CHECK(serves(server));
    ends.push_back(server.check_clean_end());
  }
  const auto& [linked, silent, driven] = std::tie(ends[0].counters, ends[1].counters, ends[2].counters);
  CHECK(linked.cqes >= 4 * 200);
  CHECK(driven.cqes >= 4 * 200);
  CHECK(silent.cqes < 200 + 20);
  CHECK(silent.enters < linked.enters);
  CHECK(silent.enters < driven.enters);
}

TEST_CASE("linked: SIGUSR1 prints the chains that have clients") {
  SKIP_WITHOUT_IO_URING();
  Server server("--message 5 --chains 3");
  Client client = begun(server);
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] { return contains(server.errors(), "receives"); }));
  CHECK(contains(server.errors(), "3 chains, 3 with the kernel"));
  CHECK(contains(server.errors(), "ring: sq head"));
  client.close();
  server.check_clean_end();
}

TEST_CASE("linked: options that contradict each other are exit code 2, with the reason") {
  const auto refused = [](const std::string& arguments, const char* why) {
    CAPTURE(arguments);
    const tests::ShellResult result = tests::shell(std::string(program) + " --port 0 " + arguments);
    CHECK(result.status == 2);
    CHECK(contains(result.output, why));
  };
  refused("--chain driven --skip-success", "--skip-success is for --chain linked");
  refused("--mode splice --skip-success", "for --mode echo and file");
  refused("--mode splice --chain driven", "for --mode echo and file");
  refused("--mode file", "belong together");
  refused("--file /etc/hostname", "belong together");
  refused("--mode file --file /nowhere/at/all", "No such file or directory");
  refused("--mode file --file /proc", "not a regular file");
  refused("--message 0", "--message");
  refused("--chains 4096 --message 1M", "must not exceed 1 GiB");
}

// ---- A file ---------------------------------------------------------------------------------------------------

/// What the next client gets.
std::string fetch(const Server& server, End* end = nullptr) {
  Client client(server.where());
  std::string bytes = client.receive_to_end();
  if (end != nullptr) *end = client.end();
  return bytes;
}

TEST_CASE("linked file: whoever connects gets the whole file; also an empty one, and one of 1 MiB") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  for (const char* way : all_ways) {
    for (const std::size_t size : {std::size_t{0}, std::size_t{10}, std::size_t{1} << 20}) {
      CAPTURE(way);
      CAPTURE(size);
      folder.write("file", stream(7, 0, size));
      Server server("--mode file --chains 4 --file " + (folder.path() / "file").string() + " " + way);
      for (int i = 0; i < 10; ++i) {
        End end = End::open;
        const std::string bytes = fetch(server, &end);
        CHECK(bytes.size() == size);
        CHECK(is_stream(bytes, 7));
        CHECK(end == End::fin);
      }
      const tests::Ended ended = server.check_clean_end();
      CHECK(ended.counters.requests == 10);
      CHECK(ended.counters.bytes_out == 10 * size);
      CHECK(ended.counters.errors == 0);
    }
  }
}

TEST_CASE(
    "linked file: who asks for a file that was cut short is reset, or gets the new one whole; never "
    "padding") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  const std::string path = (folder.path() / "file").string();
  for (const char* way : all_ways) {
    CAPTURE(way);
    folder.write("file", std::string(100'000, 'a'));
    Server server("--mode file --chains 4 --file " + path + " " + way);
    CHECK(fetch(server).size() == 100'000);
    REQUIRE(::truncate(path.c_str(), 10) == 0);
    std::uint64_t resets = 0;
    for (int i = 0; i < 20; ++i) {
      End end = End::open;
      const std::string bytes = fetch(server, &end);
      resets += end == End::reset ? 1 : 0;
      CHECK(bytes == (end == End::fin ? std::string(10, 'a') : ""));
    }
    CHECK(resets < 20);
    CHECK(fetch(server) == std::string(10, 'a'));
    CHECK(server.check_clean_end().counters.errors == resets);
  }
}

TEST_CASE("linked file: what is added is served within a second or so, also by chains that had waited") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  for (const char* way : all_ways) {
    CAPTURE(way);
    folder.write("file", "short");
    Server server("--mode file --chains 4 --file " + (folder.path() / "file").string() + " " + way);
    CHECK(fetch(server) == "short");
    folder.write("file", "not so short");
    // Nobody asks meanwhile: the chains are called back by the clock.
    std::this_thread::sleep_for(2500ms);
    for (int i = 0; i < 8; ++i) CHECK(fetch(server) == "not so short");
    server.check_clean_end();
  }
}

TEST_CASE("linked file: a file that was removed is served on: the server has it open") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  folder.write("file", "here");
  Server server("--mode file --file " + (folder.path() / "file").string());
  std::filesystem::remove(folder.path() / "file");
  CHECK(fetch(server) == "here");
  server.check_clean_end();
}

TEST_CASE("linked file: a file that grows beyond what a chain can serve ends the server, which says why") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  folder.write("file", "small");
  Server server("--mode file --file " + (folder.path() / "file").string());
  REQUIRE(::truncate((folder.path() / "file").c_str(), (1 << 20) + 1) == 0);
  const tests::Ended ended = server.wait();
  CHECK(ended.status == 1);
  CHECK(ended.counters.leaks == 0);
  CHECK(contains(ended.errors, "longer than one chain can serve"));
}

// ---- Answers that are cut short ------------------------------------------------------------------------------

/// A ChainServer for one file, whose connections have little room for what is sent.
class SmallSender : public tests::kernel::ServerThread {
 public:
  SmallSender(tests::kernel::Seam& seam, std::string file, bool linked, bool skip, int patience)
      : ServerThread(seam), file_(std::move(file)), linked_(linked), skip_(skip), patience_(patience) {
    start([this] { return serve(); });
  }
  ~SmallSender() { stop_at_last(); }

 private:
  tests::kernel::Outcome serve() {
    tests::kernel::Outcome outcome;
    std::optional<common::Listener> listener(common::listen_tcp("127.0.0.1", 0, /*nonblocking=*/false));
    const int little = 8192;
    ::setsockopt(listener->fd(), SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
    linked::ServedFile file(file_);
    std::optional<uring::Ring> ring(std::in_place,
                                    uring::RingOptions{.entries = linked::ChainServer::sq_entries_for(2)},
                                    seam().kernel());
    if (uring::DirectFiles().register_with(*ring, 2) < 0) throw std::runtime_error("no table");
    uring::Loop loop(*ring);
    const linked::Work work{.linked = linked_,
                            .skip_success = skip_,
                            .listener = listener->fd(),
                            .file = file.fd(),
                            .length = file.length(),
                            .patience = {.tv_sec = patience_, .tv_nsec = 0}};
    linked::ChainServer server(loop, *listener, signals(), &file, work, 2, 0);
    listens(listener->name(), ring->fd());
    outcome.result = server.run();
    outcome.counters = server.counters();
    outcome.leaks = server.count_leaks();
    listener.reset();
    ring.reset();
    return outcome;
  }

  std::string file_;
  bool linked_;
  bool skip_;
  int patience_;
};

TEST_CASE(
    "linked file: an answer that is cut short ends with a reset, never with a FIN as if it were whole") {
  SKIP_WITHOUT_SEAM();
  const tests::TemporaryFolder folder;
  folder.write("file", std::string(1 << 20, 'a'));
  for (const auto& way : {std::pair{true, false}, {true, true}, {false, false}}) {
    const bool linked = way.first, skip = way.second;
    for (const bool by_signal : {false, true}) {
      CAPTURE(linked);
      CAPTURE(skip);
      CAPTURE(by_signal);
      tests::kernel::Seam seam;
      SmallSender server(seam, (folder.path() / "file").string(), linked, skip, by_signal ? 0 : 1);
      Client slow(server.where(), 4096);
      CHECK(slow.has_something());
      if (by_signal) {
        std::this_thread::sleep_for(100ms);
        server.signal(SIGTERM);
        std::this_thread::sleep_for(100ms);
        server.signal(SIGTERM);
        tests::kernel::eventually([&] { return server.has_ended(0ms); });
      } else {
        std::this_thread::sleep_for(1500ms);  // longer than --client-timeout
      }
      CHECK(slow.receive_to_end().size() < (1 << 20));
      CHECK(slow.end() == End::reset);
      slow.close();
      server.check_clean_end();
    }
  }
}

}  // namespace

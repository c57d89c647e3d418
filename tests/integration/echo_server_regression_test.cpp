// Bugs that the echo servers have had, and what their twins could have had as well: one test each, through the network.
// What takes a completion that comes at the right moment is in tests/kernel/echo_server_seam_test.cpp.

#include <algorithm>
#include <memory>

#include "tests/integration/echo_server_support.hpp"

namespace {

using namespace echo_server_test;
using namespace std::chrono_literals;

/// A server on a Unix-domain socket, where all that was sent has reached it.
struct LocalServer {
  explicit LocalServer(const Variant& variant)
      : server(variant, "--unix " + (folder.path() / "socket").string()) {}

  tests::TemporaryFolder folder{};
  EchoServer server;
};

/// A client that gets back neither all that it has sent, because it reads nothing, nor has it sent anything that the
/// server has not received. So nothing lies unread in the server's socket, whose close would be a reset for that alone.
class Owed {
 public:
  Owed(const tests::ServerProcess& server, std::uint64_t seed)
      : client_(server.where(), small_window), seed_(seed) {
    CHECK(echoes(client_, stream(seed_, 0, sent_)));  // it has been accepted
    constexpr std::size_t step = 32 << 10, most = 16 << 20;
    bool is_owed = false;
    while (!is_owed && sent_ < most) {
      CHECK(client_.send_all(stream(seed_, sent_, step)));
      sent_ += step;
      const std::uint64_t queued = queued_on(server);
      if (queued == 0) continue;
      std::this_thread::sleep_for(300ms);  // what is on its way has left by then, or the next look tells
      is_owed = queued_on(server) == queued;
    }
    CHECK(is_owed);
  }

  /// What came until the end is right, and the end is a reset.
  bool is_reset() {
    const std::string bytes = client_.receive_to_end();
    CHECK(is_stream(bytes, seed_, 1));
    return 1 + bytes.size() < sent_ && client_.end() == tests::End::reset;
  }

 private:
  static std::uint64_t queued_on(const tests::ServerProcess& server) {
    const std::size_t lines = table_of(server.errors()).size();
    server.signal(SIGUSR1);
    std::vector<std::vector<std::string>> table;
    CHECK(tests::eventually([&] {
      table = table_of(server.errors());
      return table.size() > lines && server.errors().ends_with('\n');
    }));
    return table.empty() ? 0 : queued_in(table.back());
  }

  tests::Client client_;
  std::uint64_t seed_;
  std::size_t sent_ = 1;
};

/// Bytes that come back within a time that is long, but not as long as tests wait for what cannot fail to come.
bool echoes_within(tests::Client& client, std::chrono::seconds time) {
  return client.send_all("hello") && client.has_something(time) && client.receive_exactly(5) == "hello";
}

}  // namespace

// ---- Stopping --------------------------------------------------------------------------------------------------

ECHO_SERVER_TEST("echo servers: what has reached the server before SIGTERM comes back, however much it is",
                 ALL_ECHO_SERVERS) {
  LocalServer local(variant);
  std::vector<tests::Client> clients;
  std::vector<std::size_t> sent;
  for (std::uint64_t i = 0; i < 16; ++i) {
    // Until the kernel takes no more: then much of it lies in the server's socket.
    clients.emplace_back(local.server.where());
    sent.push_back(0);
    constexpr std::size_t piece = 8 << 10, most = 600'000;
    for (int refused = 0; refused < 5 && sent[i] < most;) {
      const std::size_t taken = clients[i].send_what_fits(stream(i, sent[i], piece), 5ms);
      sent[i] += taken;
      refused = taken > 0 ? 0 : refused + 1;
    }
  }
  local.server.signal(SIGTERM);
  std::this_thread::sleep_for(300ms);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    // In large pieces: it makes much room at once.
    const std::string bytes = clients[i].receive_exactly(sent[i]);
    CHECK(bytes.size() == sent[i]);
    CHECK(is_stream(bytes, i));
    CHECK(clients[i].receive_to_end() == "");
    CHECK(clients[i].end() == tests::End::fin);
  }
  local.server.wait();
  CHECK(local.server.check_clean_end().counters.errors == 0);
}

ECHO_SERVER_TEST("echo servers: who speaks again right before SIGTERM is answered", ALL_ECHO_SERVERS) {
  for (int round = 0; round < 20; ++round) {
    CAPTURE(round);
    LocalServer local(variant);
    const bool at_once = round % 2 == 1;  // the server finds the bytes and the signal together
    tests::Client client(local.server.where());
    CHECK(echoes(client));  // who has not been accepted has not reached the server
    if (at_once) local.server.stand_still();
    client.send_all("0123456789");
    local.server.signal(SIGTERM);
    if (at_once) local.server.go_on();
    CHECK(client.receive_to_end() == "0123456789");
    CHECK(client.end() == tests::End::fin);
    local.server.wait();
    local.server.check_clean_end();
  }
}

// ---- Resets ----------------------------------------------------------------------------------------------------

ECHO_SERVER_TEST("echo servers: a second signal resets who is owed something, although all was received",
                 ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  Owed owed(server, 1);
  server.signal(SIGTERM);
  server.signal(SIGINT);
  server.wait();  // Who reads before it has seen the signals gets all that is owed to him.
  CHECK(owed.is_reset());
  CHECK(server.check_clean_end().counters.errors == 1);
}

// Here and below one test for those that differ in it: they wait for the same seconds.
constexpr Variant that_reset[] = {Epoll::variant, M3::variant, M3Direct::variant};

TEST_CASE("echo servers: --idle-timeout resets who is owed something, although all was received") {
  SKIP_WITHOUT_IO_URING();
  std::vector<std::unique_ptr<EchoServer>> servers;
  std::vector<std::unique_ptr<Owed>> owed;
  for (const Variant& variant : that_reset) {
    servers.push_back(std::make_unique<EchoServer>(variant, "--idle-timeout 1"));
    owed.push_back(std::make_unique<Owed>(*servers.back(), 1));
  }
  for (std::size_t i = 0; i < servers.size(); ++i) {
    CAPTURE(that_reset[i].program);
    CAPTURE(that_reset[i].arguments);
    // Not to read is what makes it idle.
    CHECK(tests::eventually([&] {
      servers[i]->signal(SIGUSR1);
      std::this_thread::sleep_for(50ms);
      return contains(servers[i]->errors(), "\n0 connections");
    }));
    CHECK(owed[i]->is_reset());
    CHECK(servers[i]->check_clean_end().counters.errors == 1);
  }
}

TEST_CASE(
    "echo servers: the end of the grace after SIGTERM resets who is owed something, although all was "
    "received") {
  SKIP_WITHOUT_IO_URING();
  std::vector<std::unique_ptr<EchoServer>> servers;
  std::vector<std::unique_ptr<Owed>> owed;
  for (const Variant& variant : that_reset) {
    servers.push_back(std::make_unique<EchoServer>(variant));
    owed.push_back(std::make_unique<Owed>(*servers.back(), 1));
  }
  for (const auto& server : servers) server->signal(SIGTERM);
  for (std::size_t i = 0; i < servers.size(); ++i) {
    CAPTURE(that_reset[i].program);
    CAPTURE(that_reset[i].arguments);
    servers[i]->wait();
    CHECK(owed[i]->is_reset());
    CHECK(servers[i]->check_clean_end().counters.errors == 1);
  }
}

// ---- Too many --------------------------------------------------------------------------------------------------

ECHO_SERVER_TEST(
    "echo servers: a burst over --max-connections costs nobody his place, however low the limit is",
    ALL_ECHO_SERVERS) {
  constexpr std::size_t most = 10, burst = 100;
  EchoServer server(variant, "--max-connections 10", {.descriptors = 74});
  std::vector<tests::Client> clients, refused;
  for (std::size_t i = 0; i < most; ++i) {
    clients.emplace_back(server.where());
    CHECK(echoes(clients.back()));
  }
  server.stand_still();
  for (std::size_t i = 0; i < burst; ++i) refused.emplace_back(server.where());
  std::this_thread::sleep_for(200ms);
  server.go_on();
  for (tests::Client& client : refused) {
    REQUIRE(client.has_something(20s));
    CHECK(client.receive_to_end() == "");
  }
  for (tests::Client& client : clients) CHECK(echoes(client));
  CHECK(server.comes_to_rest());
  clients.clear();
  CHECK(tests::eventually([&] { return serves(server); }));
  CHECK(server.check_clean_end().counters.accepted == most + 1);
}

ECHO_SERVER_TEST("echo servers: who comes behind one that has left gets his place, both found together",
                 ALL_ECHO_SERVERS) {
  EchoServer server(variant, "--max-connections 2");
  tests::Client stays(server.where());
  CHECK(echoes(stays));
  for (int round = 0; round < 5; ++round) {
    CAPTURE(round);
    tests::Client leaves(server.where());
    REQUIRE(tests::eventually([&] {
      if (echoes(leaves)) return true;
      leaves = tests::Client(server.where());  // the place of the last round's client was not free yet
      return false;
    }));
    std::this_thread::sleep_for(50ms);  // it waits for both of them again
    server.stand_still();
    leaves.close();
    tests::Client comes(server.where());
    server.go_on();
    CHECK(echoes(comes));
    CHECK(echoes(stays));
  }
  server.check_clean_end(stays);
}

ECHO_SERVER_TEST("echo servers: when nobody reads and descriptors run out, those who come are served",
                 ALL_ECHO_SERVERS) {
  constexpr ::rlim_t low = 28;
  EchoServer server(variant, "", {.descriptors = low});
  std::vector<std::unique_ptr<Stalled>> stalled;
  for (std::uint64_t i = 0; i < low; ++i) stalled.push_back(std::make_unique<Stalled>(server, i));
  CHECK(server.comes_to_rest());
  for (int i = 0; i < 5; ++i) {
    CAPTURE(i);
    tests::Client newcomer(server.where());
    REQUIRE(echoes_within(newcomer, 20s));
    std::this_thread::sleep_for(300ms);  // nobody else comes, so nobody has to go
    REQUIRE(echoes_within(newcomer, 20s));
  }
  CHECK(server.comes_to_rest());
  // Some had to go, and know it. The others lack nothing.
  std::size_t resets = 0;
  for (const auto& each : stalled) {
    each->client().half_close();
    each->client().limit_receive_buffer(1 << 20);
    const std::string bytes = each->client().receive_to_end();
    CHECK(is_stream(bytes, static_cast<std::uint64_t>(&each - stalled.data())));
    if (each->client().end() == tests::End::reset) {
      ++resets;
    } else {
      CHECK(bytes.size() == each->sent());
    }
  }
  CHECK(resets > 0);
  CHECK(resets < stalled.size());
  stalled.clear();
  server.check_clean_end();
}

// ---- Slow ones -------------------------------------------------------------------------------------------------

// The server's own sends show nothing of it: the kernel asks for more when a third of its buffer is empty, and for such
// a client that is a matter of half a minute. (Of a socket in a slot the kernel cannot be asked how full it is.)
// One test for all variants: they wait for the same seconds.
TEST_CASE("echo servers: --idle-timeout keeps who reads slowly, but steadily") {
  SKIP_WITHOUT_IO_URING();
  std::vector<std::unique_ptr<EchoServer>> servers;
  std::vector<std::unique_ptr<Stalled>> slow;
  std::vector<Variant> variants;
  std::ranges::copy_if(all_variants, std::back_inserter(variants),
                       [](const Variant& v) { return !v.has_slots(); });
  for (const Variant& variant : variants) {
    servers.push_back(std::make_unique<EchoServer>(variant, "--idle-timeout 3"));
    slow.push_back(std::make_unique<Stalled>(*servers.back(), 1));
  }
  constexpr std::size_t step = 8 << 10, steps = 50;
  for (std::size_t at = 0; at < steps; ++at) {
    for (std::size_t i = 0; i < slow.size(); ++i) {
      CAPTURE(variants[i].program);
      CAPTURE(variants[i].arguments);
      REQUIRE(is_stream(slow[i]->client().receive_exactly(step), 1, at * step));
    }
    std::this_thread::sleep_for(100ms);
  }
  for (std::size_t i = 0; i < slow.size(); ++i) {
    CAPTURE(variants[i].program);
    CAPTURE(variants[i].arguments);
    slow[i]->client().limit_receive_buffer(1 << 20);
    const std::size_t rest = slow[i]->sent() - steps * step;
    const std::string bytes = slow[i]->client().receive_exactly(rest);
    CHECK(bytes.size() == rest);
    CHECK(is_stream(bytes, 1, steps * step));
    servers[i]->check_clean_end(slow[i]->client());
  }
}

// ---- Old kernels -----------------------------------------------------------------------------------------

TEST_CASE("echo servers: slots where they let go of closed sockets, else descriptors, which is said") {
  SKIP_WITHOUT_IO_URING();
  EchoServer server(M3Direct::variant);
  tests::Client silent(server.where());
  CHECK(echoes(silent));
  for (int i = 0; i < 3; ++i) {  // beside somebody from whom something is awaited all the time
    tests::Client client(server.where());
    CHECK(echoes(client));
    client.half_close();
    CHECK(client.receive_to_end() == "");
    CHECK(client.end() == tests::End::fin);
  }
  silent.close();
  CHECK(contains(server.check_clean_end().errors, "keeps the socket") != common_ring::slots_let_go());
}

TEST_CASE("echo servers: what a pretended kernel lacks is said, with sockets in slots as well") {
  SKIP_WITHOUT_IO_URING();
  struct Pretended {
    const char* kernel;
    bool has_slots, has_multishot;
  };
  for (const Pretended& pretended : {Pretended{"5.15", false, false}, Pretended{"5.19", true, false},
                                     Pretended{"6.0", true, true}, Pretended{"6.1", true, true}}) {
    CAPTURE(pretended.kernel);
    EchoServer server(M3Direct::variant, "--pretend-kernel " + std::string(pretended.kernel));
    std::vector<tests::Client> clients;
    for (int i = 0; i < 4; ++i) clients.emplace_back(server.where());
    for (tests::Client& client : clients) CHECK(echoes(client));
    clients.clear();
    const std::string said = server.check_clean_end().errors;
    CHECK(contains(said, "no direct descriptors") != pretended.has_slots);
    CHECK(contains(said, "no multishot receive") == (pretended.has_slots && !pretended.has_multishot));
    CHECK(contains(said, "no cap") == pretended.has_slots);
  }
}

// The echo servers: every byte comes back, whoever is slow, gone, silent or too many.

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "servers/common/limits.hpp"
#include "tests/integration/echo_server_support.hpp"

namespace {

using namespace echo_server_test;
using namespace std::chrono_literals;

bool is_refused(const std::string& where) {
  try {
    tests::Client client(where);
    return false;
  } catch (const std::system_error& error) {
    return error.code().value() == ECONNREFUSED ||
           error.code().value() == ENOENT;  // the latter: a Unix-domain socket
  }
}

struct Run {
  int status;
  std::string out, err;
};

/// A program that is not expected to serve. Its stdout must stay clean of complaints, so the two are apart.
Run run(const Variant& variant, const std::string& arguments) {
  const tests::TemporaryFolder folder;
  const std::string errors = (folder.path() / "stderr").string();
  const tests::ShellResult result = tests::shell("timeout 60 '" + program_of(variant) + "' " +
                                                 variant.arguments + " " + arguments + " 2>'" + errors + "'");
  std::string said;
  std::ifstream stream(errors);
  std::getline(stream, said, '\0');  // all of it
  return {result.status, result.output, said};
}

}  // namespace

// ---- Bytes -----------------------------------------------------------------------------------------------------

ECHO_SERVER_TEST("echo servers: messages of 1 byte to 16 MiB come back as they were", ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client client(server.where());
  std::uint64_t seed = 0;
  for (const std::size_t size : {1U, 2U, 63U, 64U, 65U, 4095U, 4096U, 16384U, 65535U, 65536U, 65537U, 262143U,
                                 262144U, 262145U, (1U << 20) + 3, 16U << 20, 1U}) {
    CAPTURE(size);
    CHECK(echoes(client, stream(++seed, 0, size)));
  }
  server.check_clean_end(client);
}

ECHO_SERVER_TEST("echo servers: byte by byte, each awaited, then in a hurry", ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client client(server.where());
  const std::string bytes = stream(1, 0, 3000);
  for (std::size_t i = 0; i < 300; ++i) REQUIRE(echoes(client, std::string_view(bytes).substr(i, 1)));
  for (const char& byte : bytes) client.send_all({&byte, 1});
  CHECK(client.receive_exactly(bytes.size()) == bytes);
  server.check_clean_end(client);
}

ECHO_SERVER_TEST("echo servers: pipelined messages keep their order", ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  std::vector<tests::Client> clients;
  for (int i = 0; i < 8; ++i) clients.emplace_back(server.where());
  for (std::size_t message = 0; message < 500; ++message) {
    for (std::size_t i = 0; i < clients.size(); ++i) clients[i].send_all(stream(i, message * 100, 100));
  }
  for (std::size_t i = 0; i < clients.size(); ++i) {
    CHECK(is_stream(clients[i].receive_exactly(50'000), i));
    clients[i].half_close();
    CHECK(clients[i].receive_to_end() == "");
    CHECK(clients[i].end() == tests::End::fin);
  }
  const tests::Ended ended = server.check_clean_end();
  CHECK(ended.counters.bytes_in == 400'000);
  CHECK(ended.counters.bytes_out == 400'000);
}

// A recv ends at the urgent byte, although there is more behind it. And at the byte itself it says EAGAIN, although
// there is more, if its thread has a signal pending: so it does now and then where task work is announced by one.
ECHO_SERVER_TEST("echo servers: an urgent byte in the stream holds nothing up", ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  std::vector<tests::Client> clients;
  for (int i = 0; i < 64; ++i) {
    clients.emplace_back(server.where());
    REQUIRE(echoes(clients.back()));
  }
  for (int round = 0; round < 4; ++round) {
    server.stand_still();
    for (tests::Client& client : clients) {
      client.send_all("before");
      client.send_urgent('!');
      client.send_all("behind");
    }
    server.go_on();
    for (tests::Client& client : clients) REQUIRE(client.receive_exactly(12) == "beforebehind");
  }
  server.stand_still();
  for (tests::Client& client : clients) {
    client.send_all("before");
    client.send_urgent('!');
    client.half_close();
  }
  server.go_on();
  for (tests::Client& client : clients) CHECK(client.receive_to_end() == "before");
  CHECK(server.check_clean_end().counters.errors == 0);
}

// ---- Connections that end --------------------------------------------------------------------------------------

ECHO_SERVER_TEST("echo servers: after the client's FIN everything comes back, then the server's",
                 ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client silent(server.where()), brief(server.where()), waiting(server.where());
  silent.half_close();
  CHECK(silent.receive_to_end() == "");
  CHECK(silent.end() == tests::End::fin);
  brief.send_all("hello");
  brief.half_close();
  CHECK(brief.receive_to_end() == "hello");
  CHECK(brief.end() == tests::End::fin);

  // Bytes and FIN are there when the server first looks.
  CHECK(echoes(waiting));
  server.stand_still();
  waiting.send_all("good ");
  waiting.send_all("bye");
  waiting.half_close();
  tests::Client hasty(server.where());
  hasty.send_all("hasty");
  hasty.half_close();
  server.go_on();
  CHECK(waiting.receive_to_end() == "good bye");
  CHECK(waiting.end() == tests::End::fin);
  CHECK(hasty.receive_to_end() == "hasty");
  CHECK(hasty.end() == tests::End::fin);

  Stalled stalled(server, 1);
  CHECK(stalled.sent() < Stalled::wanted);
  stalled.client().half_close();
  CHECK(serves(server));
  stalled.client().limit_receive_buffer(1 << 20);
  CHECK(stalled.ends_well(tests::End::fin));
  CHECK(server.check_clean_end(silent, brief, waiting, hasty).counters.errors == 0);
}

ECHO_SERVER_TEST("echo servers: 200 clients reset at one stage or another, and nobody else notices",
                 ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client witness(server.where());
  const std::string large = stream(1, 0, 1 << 20);
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    tests::Client client(server.where(), small_window);
    const int stage = i % 8;
    if (stage == 1 || stage == 2) client.send_all("hello");
    if (stage == 2) CHECK(client.receive_exactly(5) == "hello");
    if (stage == 3 || stage == 4) client.send_what_fits(large, 0ms);
    if (stage == 4) CHECK(is_stream(client.receive_exactly(1000), 1));
    if (stage == 5) {
      client.send_all("hello");
      client.half_close();
    }
    if (stage == 6) {
      client.send_what_fits(large, 0ms);
      client.half_close();
    }
    if (stage == 7) server.stand_still();
    if (stage == 7) client.send_all("hello");
    client.reset();
    if (stage == 7) server.go_on();
    CHECK(echoes(witness, stream(2, 0, 100)));
  }
  CHECK(serves(server));
  const tests::Ended ended = server.check_clean_end(witness);
  CHECK(ended.counters.accepted >= 2);  // one that was reset before it was accepted is nobody's
  CHECK(ended.counters.accepted <= 202);
}

ECHO_SERVER_TEST(
    "echo servers: connections that go and others that come in the same instant are not mixed up",
    ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  std::vector<tests::Client> clients;
  for (std::uint64_t round = 0; round < 20; ++round) {
    std::vector<tests::Client> next;
    server.stand_still();
    // What the server finds: half of the old ones reset, the others speak, and as many new ones do.
    for (std::size_t i = 0; i < clients.size(); ++i) {
      clients[i].send_all(stream(round, i * 10, 10));
      if (i % 2 == 0) clients[i].reset();
    }
    for (std::size_t i = 0; i < 40; ++i) {
      next.emplace_back(server.where());
      next.back().send_all(stream(round + 100, i * 10, 10));
    }
    server.go_on();
    for (std::size_t i = 1; i < clients.size(); i += 2) {
      CHECK(is_stream(clients[i].receive_exactly(10), round, i * 10));
    }
    for (std::size_t i = 0; i < next.size(); ++i) {
      CHECK(is_stream(next[i].receive_exactly(10), round + 100, i * 10));
    }
    clients = std::move(next);
  }
  clients.clear();
  CHECK(serves(server));
  server.check_clean_end();
}

// ---- Those who do not read, and those who send too much ---------------------------------------------------------

// But for Linux 6.0 to 6.16: there a multishot has no cap, and may bring up to 2 MiB of a burst at once, of each client,
// before it hears that it should end (docs/echo.md).
ECHO_SERVER_TEST("echo servers: tens of megabytes that nobody reads are not held in the server's memory",
                 echo_server_test::Epoll, echo_server_test::M3, echo_server_test::M3Each,
                 echo_server_test::M3Single, echo_server_test::M3Direct, echo_server_test::M3On515,
                 echo_server_test::M3Sqpoll) {
  const std::string program = release_program_of(variant);
  SKIP_UNLESS(std::filesystem::exists(program), "needs the release binary");
  EchoServer server(variant, program, "", {});
  CHECK(serves(server));
  const std::uint64_t before = server.peak_memory();
  std::vector<std::unique_ptr<Stalled>> stalled;
  std::size_t pending = 0;
  for (std::uint64_t i = 0; i < 16; ++i) {
    stalled.push_back(std::make_unique<Stalled>(server, i));
    CHECK(stalled.back()->sent() < Stalled::wanted);
    pending += stalled.back()->sent();
  }
  CHECK(pending > (32 << 20));
  // What is queued for each is far less than what is pending: that lies in the sockets.
  CHECK(server.peak_memory() < before + 16 * 1024);
  for (auto& each : stalled) CHECK(each->catch_up());
  CHECK(server.peak_memory() < before + 16 * 1024);
  stalled.clear();
  server.check_clean_end();
}

ECHO_SERVER_TEST("echo servers: a client beside 32 that do not read is served throughout", ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client victim(server.where());
  std::vector<std::unique_ptr<Stalled>> stalled;
  for (std::uint64_t i = 0; i < 32; ++i) {
    stalled.push_back(std::make_unique<Stalled>(server, i, 4 << 20));
    CHECK(echoes(victim));
  }
  for (std::uint64_t i = 0; i < 50; ++i) {
    for (const std::size_t size : {1U, 4096U, 65536U}) REQUIRE(echoes(victim, stream(i, 0, size)));
  }
  for (auto& each : stalled) CHECK(each->catch_up());
  CHECK(echoes(stalled.front()->client()));
  stalled.clear();
  server.check_clean_end(victim);
}

ECHO_SERVER_TEST("echo servers: one that floods does not silence the others", ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client flooder(server.where());
  std::vector<tests::Client> quiet;
  for (int i = 0; i < 16; ++i) quiet.emplace_back(server.where());
  std::atomic<bool> enough = false;
  std::uint64_t sent = 0;
  const std::string piece = stream(1, 0, 1 << 20);
  std::thread sender([&] {
    while (!enough && flooder.send_all(piece)) sent += piece.size();
    flooder.half_close();
  });
  std::atomic<std::uint64_t> received = 0;
  std::thread receiver([&] {
    for (std::string back; !(back = flooder.receive_exactly(piece.size())).empty();) {
      if (back != piece) break;
      received += back.size();
    }
  });
  // How much the flooder gets back while a quiet one waits. A few times it may be much: threads of the test have to
  // share a processor as well.
  std::vector<std::uint64_t> meanwhile;
  for (std::uint64_t i = 0; i < 50; ++i) {
    for (tests::Client& client : quiet) {
      const std::uint64_t before = received;
      CHECK(echoes(client, stream(i, 0, 64)));
      meanwhile.push_back(received - before);
    }
  }
  enough = true;
  sender.join();
  receiver.join();
  std::ranges::sort(meanwhile);
  CHECK(meanwhile[meanwhile.size() / 2] <= 16 << 20);
  CHECK(sent > 0);
  CHECK(received == sent);
  CHECK(flooder.end() == tests::End::fin);
  quiet.clear();
  server.check_clean_end(flooder);
}

// The group of provided buffers runs dry again and again: each of these clients would keep more than one for ever. Over a
// Unix-domain socket, because TCP takes megabytes on behalf of a client that does not read.
ECHO_SERVER_TEST(
    "echo servers: twice as many that do not read as there are buffers, and one who is served throughout",
    echo_server_test::Epoll, echo_server_test::M3, echo_server_test::M3Direct, echo_server_test::M3On60,
    echo_server_test::M3Sqpoll) {
  constexpr std::size_t count = 2 * buffers_of_group;
  SKIP_UNLESS(common::raise_descriptor_limit(count + 500) >= count + 100, "needs more descriptors");
  // More than the kernel takes on their behalf (this much, and what one send can add to it), and not so much more that
  // the server stops to receive.
  std::size_t size = 0;
  std::ifstream("/proc/sys/net/core/wmem_default") >> size;
  REQUIRE(size > 0);
  size += size / 2 + (16 << 10);
  const tests::TemporaryFolder folder;
  EchoServer server(variant, "--unix " + (folder.path() / "socket").string());
  tests::Client victim(server.where());
  const auto victim_is_served = [&](std::uint64_t round) {
    for (const std::size_t bytes : {1U, 4096U, 40'000U}) REQUIRE(echoes(victim, stream(round, 0, bytes)));
  };
  std::vector<tests::Client> stalled;
  for (std::size_t i = 0; i < count; ++i) {
    stalled.emplace_back(server.where());
    REQUIRE(stalled.back().send_all(stream(i, 0, size)));
    if (i % 32 == 0) victim_is_served(i);
  }
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] { return table_of(server.errors()).size() > count; }));
  std::size_t owed = 0;
  for (const auto& line : table_of(server.errors())) owed += queued_in(line) > 0 ? 1U : 0U;
  CHECK(owed > buffers_of_group);
  while (!stalled.empty()) {
    const std::size_t i = stalled.size() - 1;
    if (i % 32 == 0) victim_is_served(i);
    if (i % 3 == 0) stalled.back().half_close();
    REQUIRE(is_stream(stalled.back().receive_exactly(size), i));
    if (i % 3 == 0) REQUIRE(stalled.back().receive_to_end() == "");
    if (i % 3 == 1) REQUIRE(echoes(stalled.back()));
    stalled.pop_back();
  }
  const common::Counters counters = server.check_clean_end(victim).counters;
  CHECK(counters.bytes_in == counters.bytes_out);
  CHECK(counters.errors == 0);
  CHECK(counters.overflows == 0);
  if (variant.has_group) {
    CHECK(counters.enobufs > 0);
    CHECK(counters.buffers_in_use_max <= buffers_of_group);
  }
}

// ---- Many of them ------------------------------------------------------------------------------------------------

ECHO_SERVER_TEST("echo servers: 1,300 idle connections cost nothing and still answer", ALL_ECHO_SERVERS) {
  SKIP_UNLESS(common::raise_descriptor_limit(3000) >= 1500, "needs more descriptors");
  EchoServer server(variant);
  std::vector<tests::Client> clients;
  for (int i = 0; i < 1300; ++i) clients.emplace_back(server.where());
  for (tests::Client& client : clients) REQUIRE(echoes(client));
  CHECK(server.comes_to_rest());
  for (std::size_t i = 0; i < clients.size(); ++i) clients[i].send_all(stream(i, 0, 100));
  for (std::size_t i = 0; i < clients.size(); ++i) REQUIRE(is_stream(clients[i].receive_exactly(100), i));
  for (tests::Client& client : clients) client.reset();
  CHECK(serves(server));
  CHECK(server.check_clean_end().counters.accepted == 1301);
}

// They come while the server stands still, so the kernel finds no buffer for some of them.
ECHO_SERVER_TEST("echo servers: 1,300 messages at once are answered, also those that found no buffer",
                 ALL_ECHO_SERVERS) {
  SKIP_UNLESS(common::raise_descriptor_limit(3000) >= 1500, "needs more descriptors");
  EchoServer server(variant);
  std::vector<tests::Client> clients;
  for (int i = 0; i < 1300; ++i) clients.emplace_back(server.where());
  for (tests::Client& client : clients) REQUIRE(echoes(client));
  constexpr std::size_t size = 5000;
  for (std::uint64_t round = 0; round < 2; ++round) {
    server.stand_still();
    for (std::size_t i = 0; i < clients.size(); ++i) clients[i].send_all(stream(i, round * size, size));
    if (round == 1) {
      for (std::size_t i = 0; i < clients.size(); i += 3) clients[i].half_close();
      for (std::size_t i = 1; i < clients.size(); i += 3) clients[i].reset();
    }
    server.go_on();
    for (std::size_t i = 0; i < clients.size(); ++i) {
      if (round == 0 || i % 3 != 1) REQUIRE(is_stream(clients[i].receive_exactly(size), i, round * size));
      if (round == 1 && i % 3 == 0) REQUIRE(clients[i].receive_to_end() == "");
    }
  }
  for (std::size_t i = 2; i < clients.size(); i += 3) REQUIRE(echoes(clients[i]));
  CHECK(serves(server));
  clients.clear();
  const common::Counters counters = server.check_clean_end().counters;
  CHECK(counters.accepted == 1301);
  CHECK(counters.overflows == 0);
  CHECK((counters.enobufs > 0) == variant.has_group);
  CHECK(counters.buffers_in_use_max <= buffers_of_group);
}

ECHO_SERVER_TEST("echo servers: more than --max-connections are accepted, closed and counted",
                 ALL_ECHO_SERVERS) {
  EchoServer server(variant, "--max-connections 3");
  std::vector<tests::Client> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back(server.where());
    CHECK(echoes(clients.back()));
  }
  std::uint64_t refused = 0;
  for (; refused < 5; ++refused) {
    tests::Client more(server.where());
    CHECK(more.receive_to_end() == "");
    CHECK(more.end() != tests::End::timeout);
  }
  // Now many at once.
  server.stand_still();
  std::vector<tests::Client> more;
  for (int i = 0; i < 10; ++i) more.emplace_back(server.where());
  server.go_on();
  for (tests::Client& one : more) {
    CHECK(one.receive_to_end() == "");
    CHECK(one.end() != tests::End::timeout);
  }
  refused += more.size();
  for (tests::Client& client : clients) CHECK(echoes(client));
  clients.pop_back();
  CHECK(tests::eventually([&] {
    const bool served = serves(server);
    refused += served ? 0 : 1;
    return served;
  }));
  clients.clear();
  const tests::Ended ended = server.check_clean_end();
  CHECK(ended.counters.refused == refused);
  CHECK(ended.counters.accepted == 4);
}

// The limit is low from the start: an accept that was armed while it was high would go on under the old one.
ECHO_SERVER_TEST("echo servers: when descriptors run out the longest-idle connection goes",
                 ALL_ECHO_SERVERS) {
  constexpr ::rlim_t low = 40;
  EchoServer server(variant, "", {.descriptors = low});
  std::vector<tests::Client> clients;
  const auto come = [&](int count) {
    for (int i = 0; i < count; ++i) {
      CAPTURE(i);
      clients.emplace_back(server.where());
      CHECK(echoes(clients.back()));
    }
  };
  come(20);
  std::this_thread::sleep_for(50ms);
  CHECK(echoes(clients.front()));  // not idle for long any more
  come(20);
  CHECK(echoes(clients.front()));
  CHECK(clients[1].receive_to_end() == "");
  CHECK(clients[1].end() == tests::End::fin);
  for (std::size_t i = 20; i < clients.size(); ++i) CHECK(echoes(clients[i]));
  CHECK(server.comes_to_rest());  // neither does it try again and again
  const rlimit high{.rlim_cur = 1000, .rlim_max = 1000};
  if (!variant.has_slots() && ::prlimit(server.pid(), RLIMIT_NOFILE, &high, nullptr) == 0) {
    come(2);  // the accept that is armed still knows the old limit
    const std::size_t here = clients.size();
    come(60);
    for (std::size_t i = here - 20; i < clients.size(); ++i) CHECK(echoes(clients[i]));  // all of them stay
  }
  const std::size_t all = clients.size();
  clients.clear();
  CHECK(server.check_clean_end().counters.accepted == all);
}

// One test for all variants: they wait for the same seconds.
TEST_CASE("echo servers: --idle-timeout closes who is silent and keeps who is not") {
  SKIP_WITHOUT_IO_URING();
  std::vector<std::unique_ptr<EchoServer>> servers;
  std::vector<std::unique_ptr<Stalled>> stalled;
  std::vector<tests::Client> silent, active;
  const auto start = std::chrono::steady_clock::now();
  for (const Variant& variant : all_variants) {
    servers.push_back(std::make_unique<EchoServer>(variant, "--idle-timeout 1 --stats 1"));
    silent.emplace_back(servers.back()->where());
    active.emplace_back(servers.back()->where());
    stalled.push_back(std::make_unique<Stalled>(*servers.back(), 1));
    for (tests::Client& client : active) CHECK(echoes(client));
  }
  for (int i = 0; i < 25; ++i) {
    for (tests::Client& client : active) CHECK(echoes(client));
    std::this_thread::sleep_for(100ms);
  }
  CHECK(std::chrono::steady_clock::now() - start > 2s);
  for (std::size_t i = 0; i < servers.size(); ++i) {
    CAPTURE(all_variants[i].program);
    CAPTURE(all_variants[i].arguments);
    CHECK(silent[i].receive_to_end() == "");
    CHECK(silent[i].end() == tests::End::fin);
    CHECK(echoes(active[i]));
    CHECK(stalled[i]->ends_well(tests::End::reset));  // nothing moved there either, and bytes were owed
    CHECK(contains(servers[i]->check_clean_end(active[i]).errors, " requests/s, "));
  }
}

// ---- Stopping --------------------------------------------------------------------------------------------------

// Over a Unix-domain socket, where all that was sent has reached the server.
ECHO_SERVER_TEST("echo servers: SIGTERM closes what is idle and finishes what was started",
                 ALL_ECHO_SERVERS) {
  const tests::TemporaryFolder folder;
  EchoServer server(variant, "--unix " + (folder.path() / "socket").string());
  tests::Client idle(server.where()), served(server.where());
  CHECK(echoes(served));
  Stalled one(server, 1), two(server, 2);
  two.client().half_close();
  server.signal(SIGTERM);
  for (tests::Client* const client : {&idle, &served}) {
    CHECK(client->receive_to_end() == "");
    CHECK(client->end() == tests::End::fin);
  }
  CHECK(tests::eventually([&] { return is_refused(server.where()); }));
  CHECK(server.runs());
  for (Stalled* const each : {&one, &two}) CHECK(each->ends_well(tests::End::fin));
  server.wait();
  CHECK(server.check_clean_end().counters.errors == 0);
}

ECHO_SERVER_TEST("echo servers: a second SIGTERM, or SIGINT, ends it at once", ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client idle(server.where());
  CHECK(echoes(idle));
  Stalled stalled(server, 1);
  const auto start = std::chrono::steady_clock::now();
  server.signal(SIGTERM);
  CHECK(idle.receive_to_end() == "");
  CHECK(server.runs());
  server.signal(SIGINT);
  const tests::Ended ended = server.wait();
  CHECK(std::chrono::steady_clock::now() - start < 4500ms);  // without it: 5 s
  CHECK(ended.status == 0);
  CHECK(ended.counters.leaks == 0);
  CHECK(stalled.ends_well(tests::End::reset));
}

// One test for all variants: they wait for the same five seconds.
TEST_CASE("echo servers: a client that does not read is reset five seconds after SIGTERM") {
  SKIP_WITHOUT_IO_URING();
  std::vector<std::unique_ptr<EchoServer>> servers;
  std::vector<std::unique_ptr<Stalled>> stalled;
  for (const Variant& variant : all_variants) {
    servers.push_back(std::make_unique<EchoServer>(variant));
    stalled.push_back(std::make_unique<Stalled>(*servers.back(), 1));
  }
  const auto start = std::chrono::steady_clock::now();
  for (const auto& server : servers) server->signal(SIGTERM);
  std::this_thread::sleep_for(4s);
  for (std::size_t i = 0; i < servers.size(); ++i) {
    CAPTURE(all_variants[i].program);
    CAPTURE(all_variants[i].arguments);
    if (std::chrono::steady_clock::now() - start < 4900ms) CHECK(servers[i]->runs());
    servers[i]->wait();
    CHECK(servers[i]->check_clean_end().counters.errors == 1);
    CHECK(stalled[i]->ends_well(tests::End::reset));
  }
  CHECK(std::chrono::steady_clock::now() - start > 4900ms);
}

// ---- The program -------------------------------------------------------------------------------------------------

ECHO_SERVER_TEST("echo servers: SIGUSR1 prints the connections on stderr, and serving goes on",
                 ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client client(server.where());
  CHECK(echoes(client));
  Stalled stalled(server, 1);
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] { return table_of(server.errors()).size() >= 2; }));
  for (const char* const word : {variant.has_slots() ? "slot" : "fd", "state", "queued bytes", "idle"}) {
    CAPTURE(word);
    CHECK(contains(server.errors(), word));
  }
  std::vector<std::uint64_t> queued;
  for (const auto& line : table_of(server.errors())) {
    REQUIRE(line.size() >= 4);
    queued.push_back(queued_in(line));
  }
  REQUIRE(queued.size() == 2);
  CHECK(std::min(queued[0], queued[1]) == 0);
  CHECK(std::max(queued[0], queued[1]) > 0);
  CHECK(stalled.catch_up());
  CHECK(echoes(client));
  server.check_clean_end(client, stalled.client());
}

ECHO_SERVER_TEST("echo servers: SIGINT is as good as SIGTERM, and what was counted is right",
                 ALL_ECHO_SERVERS) {
  EchoServer server(variant);
  tests::Client client(server.where());
  for (int i = 0; i < 10; ++i) CHECK(echoes(client));
  server.signal(SIGINT);
  const common::Counters counters = server.check_clean_end().counters;
  CHECK(counters.requests == 10);
  CHECK(counters.bytes_in == 50);
  CHECK(counters.bytes_out == 50);
  CHECK(counters.accepted == 1);
  CHECK(counters.refused == 0);
  CHECK(counters.errors == 0);
  CHECK(counters.syscalls > 0);
  CHECK((counters.enters > 0) == variant.uses_io_uring);
  CHECK((counters.sqes > 0) == variant.uses_io_uring);
  CHECK((counters.cqes > 0) == variant.uses_io_uring);
}

ECHO_SERVER_TEST("echo servers: a Unix-domain socket, which goes away with the server", ALL_ECHO_SERVERS) {
  const tests::TemporaryFolder folder;
  const std::string path = (folder.path() / "socket").string();
  EchoServer server(variant, "--unix " + path);
  CHECK(server.where() == "unix:" + path);
  CHECK(serves(server));
  tests::Client client(server.where()), gone(server.where());
  for (const std::size_t size : {1U, 4096U, 65537U, 4U << 20}) CHECK(echoes(client, stream(1, 0, size)));
  gone.send_all("hello");
  gone.close();
  Stalled stalled(server, 1), left(server, 2);
  CHECK(stalled.sent() < Stalled::wanted);
  left.client().close();
  stalled.client().half_close();
  CHECK(stalled.ends_well(tests::End::fin));
  CHECK(echoes(client));
  server.check_clean_end(client);
  CHECK_FALSE(std::filesystem::exists(path));
}

ECHO_SERVER_TEST("echo servers: IPv6", ALL_ECHO_SERVERS) {
  SKIP_UNLESS(std::filesystem::exists("/proc/net/if_inet6"), "no IPv6 here");
  EchoServer server(variant, "--bind ::1");
  CHECK(server.where() == "[::1]:" + server.port());
  CHECK(serves(server));
  server.check_clean_end();
}

ECHO_SERVER_TEST("echo servers: --help says how, and what makes no sense is exit code 2 and one sentence",
                 ALL_ECHO_SERVERS) {
  const Run help = run(variant, "--help");
  CHECK(help.status == 0);
  CHECK(help.err == "");
  for (const char* const option :
       {"--port", "--bind", "--unix", "--max-connections", "--stats", "--idle-timeout", "(9001)"}) {
    CAPTURE(option);
    CHECK(contains(help.out, option));
  }
  for (const char* const arguments : {"--unknown", "word", "--port 65536", "--port x", "--bind nowhere",
                                      "--max-connections 0", "--idle-timeout -1", "--root /"}) {
    CAPTURE(arguments);
    const Run refused = run(variant, arguments);
    CAPTURE(refused.err);
    CHECK(refused.status == 2);
    CHECK(refused.out == "");
    CHECK(contains(refused.err, variant.program));
    CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
  }
  EchoServer server(variant);
  const Run taken = run(variant, "--port " + server.port());
  CHECK(taken.status == 1);
  CHECK(contains(taken.err, "EADDRINUSE"));
  server.check_clean_end();
}

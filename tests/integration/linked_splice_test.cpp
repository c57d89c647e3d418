// m4_linked --mode splice: an echo server like the others, so the suite of the echo servers' conformance is run against it;
// and what is its own: that bytes wait in a pipe, and that nothing but a POLL ever waits.

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/linked_support.hpp"

namespace {

using namespace std::chrono_literals;
using namespace linked_test;
using echo_server_test::echoes;
using echo_server_test::small_window;
using echo_server_test::Stalled;
using tests::Client;
using tests::End;

constexpr const char* splice = "--mode splice";

/// A new client is served, for more than one message.
bool still_echoes(const Server& server) {
  Client client(server.where());
  return echoes(client, "hello") && echoes(client, "and again");
}

TEST_CASE("linked splice: it passes the conformance suite, with its descriptors watched") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  const tests::ShellResult result = tests::shell(BUILD_DIR "/conformance 127.0.0.1 " + server.port() +
                                                 " --pid " + std::to_string(server.pid()));
  CAPTURE(result.output);
  CHECK(result.status == 0);
  CHECK(contains(result.output, "12 ok, 0 FAILED, 0 skipped"));
  server.check_clean_end();
}

TEST_CASE("linked splice: messages of any length, on one connection, pipelined") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  Client client(server.where());
  std::uint64_t at = 0;
  for (const std::size_t length : {1U, 7U, 4096U, 65536U, 65537U, 100'000U, 1U << 20}) {
    CAPTURE(length);
    CHECK(echoes(client, stream(1, at, length)));
    at += length;
  }
  for (int i = 0; i < 100; ++i) client.send_all(stream(2, static_cast<std::uint64_t>(i) * 100, 100));
  CHECK(is_stream(client.receive_exactly(10'000), 2));
  client.close();
  const tests::Ended ended = server.check_clean_end();
  CHECK(ended.counters.bytes_in == at + 10'000);
  CHECK(ended.counters.bytes_out == at + 10'000);
  CHECK(ended.counters.errors == 0);
}

TEST_CASE("linked splice: over a Unix-domain socket") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  Server server("--mode splice --unix " + (folder.path() / "socket").string());
  Client client(server.where());
  CHECK(echoes(client, stream(1, 0, 1 << 20)));
  client.half_close();
  CHECK(client.receive_to_end() == "");
  CHECK(client.end() == End::fin);
  server.check_clean_end();
}

TEST_CASE("linked splice: after a half-close everything comes back, then FIN") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  for (const std::size_t length : {0U, 1U, 100'000U}) {
    Client client(server.where());
    const std::string bytes = stream(3, 0, length);
    client.send_all(bytes);
    client.half_close();
    CHECK(client.receive_to_end() == bytes);
    CHECK(client.end() == End::fin);
  }
  server.check_clean_end();
}

TEST_CASE("linked splice: resets at any moment end one connection each") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  for (int i = 0; i < 50; ++i) {
    Client client(server.where());
    client.send_what_fits(stream(4, 0, static_cast<std::size_t>(i) * 5000), 20ms);
    if (i % 3 == 0) std::this_thread::sleep_for(1ms);
    client.reset();
  }
  CHECK(still_echoes(server));
  server.check_clean_end();
}

TEST_CASE("linked splice: a slow reader holds up nobody, holds 64 KiB of ours, and gets it all") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  Stalled stalled(server, 5);
  CHECK(stalled.sent() < Stalled::wanted);
  for (int i = 0; i < 20; ++i) CHECK(still_echoes(server));
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] { return contains(server.errors(), " full "); }));
  for (const std::vector<std::string>& line : echo_server_test::table_of(server.errors())) {
    CHECK(echo_server_test::queued_in(line) <= 64 << 10);
  }
  CHECK(stalled.catch_up());
  stalled.client().close();
  server.check_clean_end();
}

TEST_CASE("linked splice: many slow readers need no more threads than one, and do not spin") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  std::list<Stalled> stalled;
  for (std::uint64_t i = 0; i < 8; ++i) stalled.emplace_back(server, i, 4 << 20);
  const std::filesystem::path tasks = "/proc/" + std::to_string(server.pid()) + "/task";
  CHECK(std::distance(std::filesystem::directory_iterator(tasks), {}) <= 8);
  const double before = server.cpu_seconds();
  std::this_thread::sleep_for(300ms);
  CHECK(server.cpu_seconds() - before < 0.2);
  CHECK(still_echoes(server));
  for (Stalled& one : stalled) one.client().reset();
  server.check_clean_end();
}

TEST_CASE("linked splice: a slow reader who has finished sending does not make the server spin") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  // Over a Unix-domain socket the FIN is seen though bytes are in front of it.
  Server server("--mode splice --unix " + (folder.path() / "socket").string());
  Client slow(server.where());
  slow.send_what_fits(stream(1, 0, 4 << 20), 300ms);
  slow.half_close();
  std::this_thread::sleep_for(500ms);
  CHECK(is_stream(slow.receive_to_end(), 1));
  CHECK(slow.end() == End::fin);
  // Its turns are spent waiting for a worker thread, so the calls tell, and not the CPU.
  CHECK(server.check_clean_end().counters.enters < 2000);
}

TEST_CASE("linked splice: an urgent byte neither makes the server spin nor keeps what comes behind it") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  Client client(server.where());
  client.send_all("before");
  client.send_urgent('!');
  CHECK(client.receive_exactly(6) == "before");
  std::this_thread::sleep_for(300ms);  // the urgent byte, and nothing behind it
  client.send_all("behind");
  CHECK(client.receive_exactly(6) == "behind");
  client.send_urgent('?');
  client.send_all("end");
  CHECK(client.receive_exactly(3) == "end");
  server.signal(SIGSTOP);  // until the FIN is there as well: then SPLICE says 0 in front of an urgent byte
  std::this_thread::sleep_for(50ms);
  client.send_urgent('!');
  client.send_all("last");
  client.half_close();
  server.signal(SIGCONT);
  CHECK(client.receive_to_end() == "last");
  CHECK(client.end() == tests::End::fin);
  CHECK(server.check_clean_end().counters.enters < 1000);
}

TEST_CASE("linked splice: SIGTERM lets a slow reader who has finished sending have what is in the pipe") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  Server server("--mode splice --unix " + (folder.path() / "socket").string());
  Client slow(server.where());
  slow.send_what_fits(stream(1, 0, 4 << 20), 300ms);
  slow.half_close();
  std::this_thread::sleep_for(100ms);
  server.signal(SIGTERM);
  std::this_thread::sleep_for(100ms);
  CHECK(server.runs());
  CHECK(is_stream(slow.receive_to_end(), 1));
  server.check_clean_end();
}

TEST_CASE(
    "linked splice: SIGTERM closes who is idle at once, and lets a slow reader have what is in the pipe") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  Client idle(server.where());
  CHECK(echoes(idle));
  Stalled stalled(server, 6);
  server.signal(SIGTERM);
  CHECK(idle.receive_to_end() == "");
  CHECK(idle.end() == End::fin);
  CHECK(server.runs());
  stalled.client().limit_receive_buffer(1 << 20);
  // What the server had not read is lost with the connection: so it ends with a RST.
  CHECK(is_stream(stalled.client().receive_to_end(), 6));
  server.check_clean_end();
}

TEST_CASE("linked splice: a second SIGTERM resets who does not read, though a splice was under way") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice);
  Stalled stalled(server, 7);
  server.signal(SIGTERM);
  std::this_thread::sleep_for(100ms);
  CHECK(server.runs());
  server.signal(SIGTERM);
  const tests::Ended ended = server.wait();
  CHECK(ended.status == 0);
  CHECK(ended.counters.leaks == 0);
  CHECK(stalled.ends_well(End::reset));
}

TEST_CASE("linked splice: with few descriptors the idlest give way, and accepting goes on") {
  SKIP_WITHOUT_IO_URING();
  Server server(splice, {.descriptors = 40});
  std::list<Client> clients;
  for (int i = 0; i < 40; ++i) clients.emplace_back(server.where());
  CHECK(tests::eventually([&] { return still_echoes(server); }));
  CHECK(server.cpu_seconds() < 5);
  clients.clear();
  CHECK(tests::eventually([&] { return still_echoes(server); }));
  server.check_clean_end();
}

TEST_CASE("linked splice: over --max-connections clients are accepted and closed, and counted") {
  SKIP_WITHOUT_IO_URING();
  Server server("--mode splice --max-connections 2");
  Client first(server.where());
  Client second(server.where());
  CHECK(echoes(first));
  CHECK(echoes(second));
  Client third(server.where());
  CHECK(third.receive_to_end() == "");
  first.close();
  CHECK(tests::eventually([&] { return still_echoes(server); }));
  second.close();
  const tests::Ended ended = server.check_clean_end();
  CHECK(ended.counters.refused >= 1);
}

}  // namespace

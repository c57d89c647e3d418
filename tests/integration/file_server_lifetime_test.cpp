// The file servers over time: files that change while they are served, connections that end in the middle, many of
// them, slow ones, and the way to stop.

#include <memory>

#include "servers/common/limits.hpp"
#include "tests/integration/file_server_support.hpp"

namespace {

using namespace file_server_test;
using namespace std::chrono_literals;

// Far more than fits between the two sockets, so that the server must wait for the client.
constexpr std::uint64_t large = 10 << 20;

/// Asks for the large file, and reads no more than its head and a little.
void begin_large(tests::Client& client) {
  client.send_all("GET " + file_of(large) + "\n");
  CHECK(client.receive_line() == "OK " + std::to_string(large) + "\n");
  CHECK(is_content(client.receive_exactly(1000), file_of(large)));
}

/// Reads what begin_large() left.
bool finish_large(tests::Client& client) {
  client.limit_receive_buffer(1 << 20);
  const std::string rest = client.receive_exactly(large - 1000);
  return rest.size() == large - 1000 && is_content(rest, file_of(large), 1000);
}

bool is_refused(const std::string& where) {
  try {
    tests::Client client(where);
    return false;
  } catch (const std::system_error& error) {
    return error.code().value() == ECONNREFUSED;
  }
}

}  // namespace

// ---- Files that change ---------------------------------------------------------------------------------------

// One test for all variants: they wait for the same second.
TEST_CASE("file servers: a file that was replaced, changed or removed is noticed within a second") {
  SKIP_WITHOUT_IO_URING();
  const ServedFolder folder;
  for (const char* const name : {"replaced", "grown", "overwritten", "removed"}) folder.write(name, "old");
  std::vector<std::unique_ptr<FileServer>> servers;
  std::vector<tests::Client> clients;
  for (const Variant& variant : all_variants) {
    servers.push_back(std::make_unique<FileServer>(variant, "", folder.root()));
    clients.emplace_back(servers.back()->where());
    for (const char* const name : {"replaced", "grown", "overwritten", "removed"}) {
      CHECK(ask(clients.back(), "GET " + std::string(name)).body == "old");
    }
    CHECK(ask(clients.back(), "GET appeared").code == 404);
  }
  folder.write("new", "replaced, and longer");
  std::filesystem::rename(folder.path() / "new", folder.path() / "replaced");
  std::ofstream(folder.file("grown"), std::ios::app) << " and new";
  folder.write("overwritten", "new");
  std::filesystem::remove(folder.path() / "removed");
  folder.write("appeared", "new");
  for (tests::Client& client : clients) {
    const std::string body = ask(client, "GET replaced").body;
    CHECK((body == "old" || body == "replaced, and longer"));
  }
  std::this_thread::sleep_for(1200ms);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    CAPTURE(all_variants[i].program);
    CAPTURE(all_variants[i].arguments);
    CHECK(ask(clients[i], "GET replaced").body == "replaced, and longer");
    CHECK(ask(clients[i], "GET grown").body == "old and new");
    CHECK(ask(clients[i], "GET overwritten").body == "new");
    CHECK(ask(clients[i], "GET removed").code == 404);
    CHECK(ask(clients[i], "GET appeared").body == "new");
    clients[i].close();
    servers[i]->check_clean_end();
  }
}

FILE_SERVER_TEST("file servers: a file that shrinks while it is served ends in a reset, and is not padded",
                 ALL_FILE_SERVERS, file_server_test::M2FixedODirect) {
  const ServedFolder folder;
  folder.make(large);
  FileServer server(variant, "", folder.root());
  tests::Client client(server.where(), small_window);
  begin_large(client);
  // What sendfile has put into the socket are references to the page cache. Where a file ends in the middle of a folio
  // (a page; much more where the file system has large ones), truncation zeroes the rest of it, so old bytes on their
  // way turn into zeros, and the server can do nothing about that. A file that ends at 0 has no such folio.
  const bool by_reference = contains(variant.arguments, "sendfile");
  std::filesystem::resize_file(folder.path() / file_of(large), by_reference ? 0 : 5000);
  client.limit_receive_buffer(1 << 20);
  const std::string rest = client.receive_to_end();
  CHECK(client.end() == tests::End::reset);
  CHECK(rest.size() < large - 1000);
  CHECK(is_content(rest, file_of(large), 1000));
  tests::Client next(server.where());
  CHECK(echoes(next));
  CHECK(server.check_clean_end(client, next).counters.errors == 1);
}

FILE_SERVER_TEST("file servers: a file that is shorter than it says ends in a reset, too", ALL_FILE_SERVERS) {
  // Files of sysfs say that they have a page of contents; this one is a number.
  std::error_code none;
  SKIP_UNLESS(std::filesystem::file_size("/sys/kernel/uevent_seqnum", none) == 4096, "no such file here");
  FileServer server(variant, "", "/sys/kernel");
  tests::Client client(server.where()), next(server.where());
  client.send_all("ECHO 2\nokGET uevent_seqnum\n");
  CHECK(line_answer(client).body == "ok");
  CHECK(client.receive_to_end().size() < 100);  // the head and the number at most
  CHECK(client.end() == tests::End::reset);
  CHECK(echoes(next));
  CHECK(server.check_clean_end(client, next).counters.errors == 1);
}

FILE_SERVER_TEST("file servers: of a file that grows while it is served comes what was promised",
                 ALL_FILE_SERVERS) {
  const ServedFolder folder;
  folder.make(large);
  FileServer server(variant, "", folder.root());
  tests::Client client(server.where(), small_window);
  begin_large(client);
  std::ofstream(folder.file(file_of(large)), std::ios::app) << "more";
  client.send_all("ECHO 5\nhello");
  CHECK(finish_large(client));
  CHECK(line_answer(client).body == "hello");
  server.check_clean_end(client);
}

// ---- Connections that end, and many of them --------------------------------------------------------------------

FILE_SERVER_TEST("file servers: who says that it will ask no more gets all its answers", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  client.send_all("GET " + file_of(large) + "\nGET absent\nGET " + file_of(1) + "\nECHO 2\nok");
  client.half_close();
  CHECK(line_answer(client).body.size() == large);
  CHECK(line_answer(client).code == 404);
  CHECK(line_answer(client).body == content(file_of(1)));
  CHECK(line_answer(client).body == "ok");
  CHECK(client.receive_to_end() == "");
  CHECK(client.end() == tests::End::fin);

  tests::Client half(server.where());  // and who stops in the middle of a request gets none
  half.send_all("ECHO 1\nxGET made");
  half.half_close();
  CHECK(line_answer(half).body == "x");
  CHECK(half.receive_to_end() == "");
  CHECK(half.end() == tests::End::fin);
  server.check_clean_end(client, half);
}

FILE_SERVER_TEST("file servers: 2,000 idle connections and one that is served", ALL_FILE_SERVERS) {
  SKIP_UNLESS(common::raise_descriptor_limit(4500) >= 2200, "needs more descriptors");
  FileServer server(variant);
  std::vector<tests::Client> idle;
  for (int i = 0; i < 2000; ++i) idle.emplace_back(server.where());
  tests::Client client(server.where());
  for (int i = 0; i < 100; ++i) CHECK(serves(client, file_of(4096)));
  CHECK(echoes(idle.front()));
  CHECK(echoes(idle.back()));
  const double before = server.cpu_seconds();
  std::this_thread::sleep_for(200ms);
  CHECK(server.cpu_seconds() - before < 0.1);  // they cost nothing
  for (tests::Client& each : idle) each.reset();
  CHECK(serves(server));
  CHECK(server.check_clean_end(client).counters.accepted == 2002);
}

FILE_SERVER_TEST("file servers: more than --max-connections are accepted, closed and counted",
                 ALL_FILE_SERVERS) {
  FileServer server(variant, "--max-connections 3");
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
  CHECK(echoes(clients.front()));
  clients.pop_back();
  CHECK(tests::eventually([&] {
    tests::Client again(server.where());
    const bool served = echoes(again);
    refused += served ? 0 : 1;
    return served;
  }));
  clients.clear();
  const tests::Ended ended = server.check_clean_end();
  CHECK(ended.counters.refused == refused);
  CHECK(ended.counters.accepted == 4);
}

FILE_SERVER_TEST("file servers: when descriptors run out the longest-idle connection goes",
                 ALL_FILE_SERVERS) {
  FileServer server(variant, "", made_files().root(), {.descriptors = 40});
  std::vector<tests::Client> clients;
  for (int i = 0; i < 100; ++i) {
    CAPTURE(i);
    clients.emplace_back(server.where());
    // ECHO needs no file, so nothing but the connection itself can be refused.
    CHECK(echoes(clients.back()));
  }
  CHECK(clients.front().receive_to_end() == "");
  CHECK(clients.front().end() != tests::End::timeout);
  CHECK(echoes(clients.back()));
  // A file that is not open yet: there is a way to open it, or a refusal that keeps the connection.
  const Answer answer = ask(clients.back(), "GET " + file_of(255));
  CHECK((answer.code == 200 || answer.code == 503));
  if (answer.code == 200) CHECK(answer.body == content(file_of(255)));
  CHECK(echoes(clients.back()));
  // Neither does it try again and again.
  const double before = server.cpu_seconds();
  std::this_thread::sleep_for(300ms);
  CHECK(server.cpu_seconds() - before < 0.15);
  clients.clear();
  CHECK(tests::eventually([&] { return serves(server); }));
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: stalled readers, twice as many as buffers, starve nobody", ALL_FILE_SERVERS) {
  FileServer server(variant, variant.has_pool ? "--buffers 8" : "");
  std::vector<tests::Client> stalled;
  for (int i = 0; i < 16; ++i) {
    stalled.emplace_back(server.where(), small_window);
    stalled.back().send_all("GET " + file_of(large) + "\n");
  }
  // Each has got the beginning of its answer, and now does not read it.
  for (tests::Client& client : stalled) CHECK(client.has_something());
  tests::Client victim(server.where());
  for (int i = 0; i < 50; ++i) {
    for (const std::uint64_t size : {1U, 4096U, 65536U}) REQUIRE(serves(victim, file_of(size)));
  }
  for (tests::Client& client : stalled) {
    CHECK(client.receive_line() == "OK " + std::to_string(large) + "\n");
    client.limit_receive_buffer(1 << 20);
    const std::string body = client.receive_exactly(large);
    CHECK(body.size() == large);
    CHECK(is_content(body, file_of(large)));
  }
  CHECK(echoes(stalled.front()));
  stalled.clear();
  const tests::Ended ended = server.check_clean_end(victim);
  if (variant.has_pool) CHECK(ended.counters.buffers_in_use_max <= 8);
}

FILE_SERVER_TEST("file servers: who asks and does not read is not listened to for ever", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where(), small_window);
  const std::string request = "ECHO 4096\n" + content("echo", 0, 4096);
  std::string requests;
  while (requests.size() < (64 << 20)) requests += request;
  // The sockets take megabytes; the server's memory is not one of them.
  const std::size_t sent = client.send_what_fits(requests, 300ms);
  CHECK(sent < requests.size());
  CHECK(serves(server));
  client.limit_receive_buffer(1 << 20);
  for (std::size_t i = 0; i < sent / request.size(); ++i) REQUIRE(line_answer(client).body.size() == 4096);
  client.send_all(std::string_view(request).substr(sent % request.size()));
  CHECK(line_answer(client).body == request.substr(request.find('\n') + 1));
  server.check_clean_end(client);
}

// ---- Stopping --------------------------------------------------------------------------------------------------

FILE_SERVER_TEST("file servers: SIGTERM closes what is idle and finishes what was started",
                 ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client idle(server.where()), served(server.where());
  std::vector<tests::Client> slow;
  CHECK(echoes(served));
  CHECK(echoes(idle));
  for (int i = 0; i < 4; ++i) {
    slow.emplace_back(server.where(), small_window);
    begin_large(slow.back());
  }
  server.signal(SIGTERM);
  for (tests::Client* const client : {&idle, &served}) {
    CHECK(client->receive_to_end() == "");
    CHECK(client->end() == tests::End::fin);
  }
  CHECK(tests::eventually([&] { return is_refused(server.where()); }));
  CHECK(server.runs());
  for (tests::Client& client : slow) {
    CHECK(finish_large(client));
    CHECK(client.receive_to_end() == "");
    CHECK(client.end() == tests::End::fin);
  }
  slow.clear();
  server.wait();
  CHECK(server.check_clean_end().counters.errors == 0);
}

FILE_SERVER_TEST("file servers: a second SIGTERM, or SIGINT, ends it at once", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client idle(server.where()), slow(server.where(), small_window);
  CHECK(echoes(idle));
  begin_large(slow);
  const auto start = std::chrono::steady_clock::now();
  server.signal(SIGTERM);
  CHECK(idle.receive_to_end() == "");
  CHECK(server.runs());
  server.signal(SIGINT);
  const tests::Ended ended = server.wait();
  CHECK(std::chrono::steady_clock::now() - start < 4500ms);  // without it: 5 s
  CHECK(ended.status == 0);
  CHECK(ended.counters.leaks == 0);
  CHECK(is_content(slow.receive_to_end(), file_of(large), 1000));
  CHECK(slow.end() == tests::End::reset);
}

// One test for all variants: they wait for the same five seconds.
TEST_CASE("file servers: a client that does not read is reset five seconds after SIGTERM") {
  SKIP_WITHOUT_IO_URING();
  std::vector<std::unique_ptr<FileServer>> servers;
  std::vector<tests::Client> clients;
  for (const Variant& variant : all_variants) {
    servers.push_back(std::make_unique<FileServer>(variant));
    clients.emplace_back(servers.back()->where(), small_window);
    begin_large(clients.back());
  }
  const auto start = std::chrono::steady_clock::now();
  for (const auto& server : servers) server->signal(SIGTERM);
  std::this_thread::sleep_for(4s);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    CAPTURE(all_variants[i].program);
    CAPTURE(all_variants[i].arguments);
    if (std::chrono::steady_clock::now() - start < 4900ms) CHECK(servers[i]->runs());
    servers[i]->wait();
    servers[i]->check_clean_end();
    CHECK(is_content(clients[i].receive_to_end(), file_of(large), 1000));
    CHECK(clients[i].end() == tests::End::reset);
  }
  CHECK(std::chrono::steady_clock::now() - start > 4900ms);
}

// Bugs that the file servers have had, and what their twins could have had as well: one test each, through the network.
// What takes a completion that comes at the right moment is in tests/kernel/file_server_seam_test.cpp.

#include <sys/statfs.h>

#include <chrono>
#include <list>
#include <memory>
#include <thread>

#include "tests/integration/file_server_support.hpp"

namespace {

using namespace file_server_test;
using namespace std::chrono_literals;

constexpr std::uint64_t large = 10 << 20;

/// A request whose last component is too long for a file name: 414, which ends the connection, but only when the kernel
/// has been asked.
const std::string too_long = "GET " + std::string(300, 'x') + "\n";

/// A folder on tmpfs; none where there is no tmpfs.
class MemoryFolder {
 public:
  MemoryFolder() {
    struct ::statfs facts {};
    constexpr auto tmpfs = 0x01021994;  // <linux/magic.h>
    if (::statfs("/dev/shm", &facts) != 0 || facts.f_type != tmpfs) return;
    std::string name = "/dev/shm/uring_test_XXXXXX";
    if (::mkdtemp(name.data()) != nullptr) root_ = name;
  }
  MemoryFolder(const MemoryFolder&) = delete;
  MemoryFolder& operator=(const MemoryFolder&) = delete;
  ~MemoryFolder() {
    std::error_code ignored;
    if (!root_.empty()) std::filesystem::remove_all(root_, ignored);
  }
  const std::string& root() const { return root_; }

 private:
  std::string root_{};
};

}  // namespace

FILE_SERVER_TEST("file servers: behind a stalled answer one ends the connection, and others were asked for",
                 POOL_FILE_SERVERS, file_server_test::M2FixedODirect) {
  // Few buffers, so that stalled readers must give theirs back, in the middle of all that the first client wants.
  FileServer server(variant, "--buffers 6");
  tests::Client first(server.where(), small_window);
  first.send_all("GET " + file_of(large) + "\n");
  CHECK(first.has_something());
  std::string more = too_long;
  for (int i = 0; i < 13; ++i) more += "GET " + file_of(65537) + "\n";
  first.send_all(more);
  std::vector<tests::Client> stalled;
  for (int i = 0; i < 8; ++i) {
    stalled.emplace_back(server.where(), small_window);
    stalled.back().send_all("GET " + file_of(large) + "\n");
  }
  for (tests::Client& client : stalled) CHECK(client.has_something());
  for (int i = 0; i < 5; ++i) CHECK(serves(server));
  first.limit_receive_buffer(1 << 20);
  const Answer answer = line_answer(first);
  CHECK(answer.body.size() == large);
  CHECK(is_content(answer.body, file_of(large)));
  CHECK(line_answer(first).code == 414);
  CHECK(first.receive_to_end() == "");
  CHECK(first.end() == tests::End::fin);
  for (tests::Client& client : stalled) client.reset();
  CHECK(serves(server));
  server.check_clean_end(first);
}

// One test for all variants: they wait for the same seconds.
TEST_CASE(
    "file servers: no descriptor is left and everybody is busy: no spin, neither before SIGTERM nor after "
    "it") {
  SKIP_WITHOUT_IO_URING();
  std::vector<std::unique_ptr<FileServer>> servers;
  std::vector<tests::Client> clients;
  for (const Variant& variant : all_variants) {
    servers.push_back(
        std::make_unique<FileServer>(variant, "", made_files().root(), tests::Rights{.descriptors = 24}));
    // One after the other: who has not asked yet would be idle, and so the one to go.
    bool served = true;
    for (int i = 0; i < 24 && served; ++i) {
      clients.emplace_back(servers.back()->where(), small_window);
      clients.back().send_all("GET " + file_of(large) + "\n");
      served = clients.back().has_something(i == 0 ? tests::long_enough : 200ms) &&
               clients.back().receive_exactly(1) == "O";
    }
    CHECK(!served);  // it waits to be accepted, or was sent away
  }
  const auto cpu_of_a_second = [&] {
    std::vector<double> spent;
    for (const auto& server : servers) spent.push_back(server->cpu_seconds());
    std::this_thread::sleep_for(1s);
    for (std::size_t i = 0; i < servers.size(); ++i) spent[i] = servers[i]->cpu_seconds() - spent[i];
    return spent;
  };
  const std::vector<double> serving = cpu_of_a_second();
  for (const auto& server : servers) server->signal(SIGTERM);
  std::this_thread::sleep_for(200ms);
  const std::vector<double> finishing = cpu_of_a_second();
  for (std::size_t i = 0; i < servers.size(); ++i) {
    CAPTURE(all_variants[i].program);
    CAPTURE(all_variants[i].arguments);
    CHECK(serving[i] < 0.1);
    CHECK(finishing[i] < 0.1);
    CHECK(servers[i]->runs());
    servers[i]->signal(SIGTERM);
    servers[i]->wait();
    const tests::Ended ended = servers[i]->check_clean_end();
    if (all_variants[i].uses_io_uring) CHECK(ended.counters.rearms > 0);
  }
}

// One test for all variants: they wait for the same second.
TEST_CASE("file servers: a file that may not be served any more is not, even if it is open") {
  SKIP_WITHOUT_IO_URING();
  const ServedFolder folder, outside;
  for (const char* const name : {"moved", "forbidden", "as_before"}) folder.write(name, "contents");
  std::vector<std::unique_ptr<FileServer>> servers;
  std::vector<tests::Client> clients;
  for (const Variant& variant : all_variants) {
    servers.push_back(
        std::make_unique<FileServer>(variant, "", folder.root(), tests::Rights{.nobody = true}));
    clients.emplace_back(servers.back()->where());
    for (const char* const name : {"moved", "forbidden", "as_before"}) {
      CHECK(ask(clients.back(), "GET " + std::string(name)).body == "contents");
    }
  }
  // The same file, but the path to it leads out of the root now.
  std::filesystem::rename(folder.path() / "moved", outside.path() / "moved");
  std::filesystem::create_symlink(outside.path() / "moved", folder.path() / "moved");
  std::filesystem::permissions(folder.path() / "forbidden", std::filesystem::perms::none);
  std::this_thread::sleep_for(1300ms);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    CAPTURE(all_variants[i].program);
    CAPTURE(all_variants[i].arguments);
    for (int twice = 0; twice < 2; ++twice) {
      CHECK(ask(clients[i], "GET moved").code == 403);
      CHECK(ask(clients[i], "GET forbidden").code == 403);
      CHECK(ask(clients[i], "GET as_before").body == "contents");
    }
    servers[i]->check_clean_end(clients[i]);
  }
}

FILE_SERVER_TEST("file servers: one connection may need more files at once than there are connections",
                 POOL_FILE_SERVERS) {
  const ServedFolder folder;
  std::string requests;
  for (int i = 0; i < 16; ++i) {
    folder.write("f" + std::to_string(i), "contents of " + std::to_string(i));
    requests += "GET f" + std::to_string(i) + "\n";
  }
  FileServer server(variant, "--open-files 0 --max-connections 2", folder.root());
  tests::Client client(server.where());
  for (int round = 0; round < 3; ++round) {
    client.send_all(requests);
    for (int i = 0; i < 16; ++i) CHECK(line_answer(client).body == "contents of " + std::to_string(i));
  }
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: files in memory", ALL_FILE_SERVERS, O_DIRECT_FILE_SERVERS) {
  // A tmpfs cannot read without blocking, or could not for long: what says "do not block" to it may wait for ever.
  const MemoryFolder folder;
  SKIP_UNLESS(!folder.root().empty(), "/dev/shm is no tmpfs");
  const std::uint64_t shown[] = {0, 1, 4096, 65537, (1 << 20) + 3};
  for (const std::uint64_t size : shown) {
    std::ofstream(folder.root() + "/" + file_of(size)) << content(file_of(size));
  }
  FileServer server(variant, "", folder.root());
  tests::Client client(server.where());
  for (int round = 0; round < 2; ++round) {
    for (const std::uint64_t size : shown) CHECK(serves(client, file_of(size)));
  }
  CHECK(ask(client, "GET " + file_of(65537) + " 65530 7").body == content(file_of(65537), 65530, 7));
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: what is counted as a request is an answer that was sent to its end",
                 ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  CHECK(serves(client, file_of(0)));
  CHECK(ask(client, "GET absent").code == 404);
  CHECK(ask_http(client, file_of(4097)).body.size() == 4097);
  client.send_all("HEAD /" + file_of(large) + " HTTP/1.1\r\nHost: x\r\n\r\n");
  CHECK(http_answer(client, true).code == 200);
  client.send_all("GET " + file_of(1) + "\nECHO 2\nokGET " + file_of(65537) + "\n" + too_long + "ECHO 2\nno");
  CHECK(line_answer(client).code == 200);
  CHECK(line_answer(client).body == "ok");
  CHECK(line_answer(client).code == 200);
  CHECK(line_answer(client).code == 414);
  CHECK(client.receive_to_end() == "");
  // Who gets only the beginning, and leaves.
  tests::Client leaves(server.where(), small_window);
  leaves.send_all("ECHO 2\nokGET " + file_of(large) + "\n" + "GET " + file_of(1) + "\n");
  CHECK(line_answer(leaves).body == "ok");
  CHECK(leaves.receive_exactly(1000).size() == 1000);
  leaves.reset();
  CHECK(server.check_clean_end(client).counters.requests == 9);
}

// A poll for POLLOUT ends for who has half-closed, too. Such a reader took a buffer, blocked, was preempted, and so on.
FILE_SERVER_TEST("file servers: slow readers who have finished sending starve nobody either",
                 POOL_FILE_SERVERS) {
  FileServer server(variant, "--buffers 2 --buffer-size 4K");
  std::list<tests::Client> stalled;
  for (int i = 0; i < 6; ++i) {
    stalled.emplace_back(server.where(), small_window);
    stalled.back().send_all("GET " + file_of(large) + "\nGET " + file_of(large) + "\n");
    stalled.back().half_close();
    CHECK(stalled.back().has_something());
  }
  std::this_thread::sleep_for(500ms);  // until their sockets are full
  tests::Client victim(server.where());
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 60; ++i) REQUIRE(serves(victim, file_of(65536)));  // a thousand buffers
  CHECK(std::chrono::steady_clock::now() - begin < 12s);  // half a minute, when they took turns
  for (tests::Client& one : stalled) one.reset();
  server.check_clean_end(victim);
}

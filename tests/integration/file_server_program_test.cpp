// The file servers as programs: options and exit codes, signals, addresses, memory, and the tools that people hold
// against a file server.

#include <future>
#include <memory>

#include "tests/integration/file_server_support.hpp"

namespace {

using namespace file_server_test;

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
  std::ifstream stream(errors);
  return {result.status, result.output, {std::istreambuf_iterator<char>(stream), {}}};
}

bool is_installed(const std::string& tool) { return tests::shell("command -v " + tool).status == 0; }

std::string url(const FileServer& server, const std::string& path) {
  return " 'http://" + server.where() + "/" + path + "' ";
}

}  // namespace

// ---- Options and exit codes ------------------------------------------------------------------------------------

FILE_SERVER_TEST("file servers: --help says how, and that is no error", THREE_FILE_SERVERS) {
  const Run help = run(variant, "--help");
  CHECK(help.status == 0);
  CHECK(help.err == "");
  for (const char* const option : {"--root", "--port", "--bind", "--unix", "--max-connections", "--stats",
                                   "--buffer-size", "--direct", "--help"}) {
    CAPTURE(option);
    CHECK(contains(help.out, option));
  }
  if (!variant.has_pool) return;
  CHECK(contains(help.out, "--buffers"));
  CHECK(contains(help.out, "--open-files"));
  CHECK(contains(help.out, "--io"));
}

FILE_SERVER_TEST("file servers: what makes no sense is exit code 2 and one sentence", THREE_FILE_SERVERS) {
  const ServedFolder folder;
  folder.write("file", "");
  const std::string root = "--root '" + folder.root() + "' ";
  std::vector<std::string> wrong = {"",
                                    "--root",
                                    "--root '" + folder.file("file") + "'",
                                    "--root '" + folder.file("absent") + "'",
                                    root + "--unknown",
                                    root + "word",
                                    root + "--port 65536",
                                    root + "--port x",
                                    root + "--bind nowhere",
                                    root + "--buffer-size 5000",
                                    root + "--buffer-size 0",
                                    root + "--max-connections 0",
                                    root + "--unix /" + std::string(200, 'a')};
  if (variant.has_pool) {
    for (const char* const more : {"--io telepathy", "--buffers 0", "--open-files -1"}) {
      wrong.push_back(root + more);
    }
  } else {
    wrong.push_back(root + "--io inline");
  }
  if (std::string_view(variant.program) == "epoll_file_server") {
    wrong.push_back(root + "--io sendfile --direct");
    wrong.push_back(root + "--io pool --threads 0");
  }
  for (const std::string& arguments : wrong) {
    CAPTURE(arguments);
    const Run refused = run(variant, arguments);
    CAPTURE(refused.err);
    CHECK(refused.status == 2);
    CHECK(refused.out == "");
    CHECK(lines_with(refused.err, variant.program) == 1);
    CHECK(lines_with(refused.err, "") == 1);
  }
}

FILE_SERVER_TEST("file servers: a port that is taken is exit code 1", THREE_FILE_SERVERS) {
  FileServer server(variant);
  const Run refused = run(variant, "--root / --port " + server.port());
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "EADDRINUSE"));
  CHECK(serves(server));
  server.check_clean_end();
}

// ---- Addresses -------------------------------------------------------------------------------------------------

FILE_SERVER_TEST("file servers: IPv6", THREE_FILE_SERVERS) {
  SKIP_UNLESS(std::filesystem::exists("/proc/net/if_inet6"), "no IPv6 here");
  FileServer server(variant, "--bind ::1");
  CHECK(server.where() == "[::1]:" + server.port());
  CHECK(serves(server));
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: a Unix-domain socket, which goes away with the server", ALL_FILE_SERVERS) {
  const tests::TemporaryFolder folder;
  const std::string path = (folder.path() / "socket").string();
  FileServer server(variant, "--unix " + path);
  CHECK(server.where() == "unix:" + path);
  CHECK(serves(server));
  tests::Client client(server.where());
  CHECK(serves(client, file_of(10 << 20)));
  client.send_all("nonsense\n" + std::string(100'000, 'x'));
  CHECK(line_answer(client).code == 400);
  CHECK(client.receive_to_end() == "");
  server.check_clean_end(client);
  CHECK_FALSE(std::filesystem::exists(path));
}

// ---- Signals and statistics --------------------------------------------------------------------------------------

FILE_SERVER_TEST("file servers: SIGUSR1 prints tables on stderr, and serving goes on", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where()), stalled(server.where(), small_window);
  CHECK(serves(client, file_of(1)));
  stalled.send_all("GET " + file_of(10 << 20) + "\n");
  CHECK(stalled.has_something());
  const std::size_t before = server.errors().size();
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] { return server.errors().size() > before; }));
  CHECK(serves(client, file_of(65537)));
  stalled.reset();
  // More than fits into nothing: a line for each of two connections.
  CHECK(lines_with(server.check_clean_end(client).errors, "") >= 2);
}

FILE_SERVER_TEST("file servers: --stats prints a line a second", THREE_FILE_SERVERS) {
  FileServer server(variant, "--stats 1");
  CHECK(serves(server));
  CHECK(tests::eventually([&] { return contains(server.errors(), "stats: "); }));
  CHECK(serves(server));
  const tests::Ended ended = server.check_clean_end();
  CHECK(contains(ended.errors, " requests/s, "));
  CHECK(contains(ended.errors, " of 256 buffers") == variant.has_pool);
}

FILE_SERVER_TEST("file servers: SIGINT is as good as SIGTERM, and what was counted is right",
                 ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  CHECK(serves(client, file_of(4096)));
  CHECK(ask(client, "GET absent").head == "ERR 404 no such file\n");
  CHECK(echoes(client));
  server.signal(SIGINT);
  const common::Counters counters = server.check_clean_end().counters;
  CHECK(counters.requests == 3);
  CHECK(counters.accepted == 1);
  CHECK(counters.refused == 0);
  CHECK(counters.errors == 0);
  CHECK(counters.bytes_in == std::string("GET made.4K.0\nGET absent\nECHO 5\nhello").size());
  CHECK(counters.bytes_out == std::string("OK 4096\nERR 404 no such file\nOK 5\nhello").size() + 4096);
  CHECK(counters.syscalls > 0);
  CHECK((counters.enters > 0) == variant.uses_io_uring);
  CHECK((counters.sqes > 0) == variant.uses_io_uring);
  CHECK((counters.cqes > 0) == variant.uses_io_uring);
}

// ---- Memory ------------------------------------------------------------------------------------------------------

FILE_SERVER_TEST("file servers: 100 answers of 10 MiB under way take the buffers and little more",
                 ALL_FILE_SERVERS) {
  // Under AddressSanitizer freed memory stays: this asks the release binary.
  const std::string program = std::string(BUILD_DIR "/../") + variant.program;
  SKIP_UNLESS(std::filesystem::exists(program), "needs the release binary");
  const std::string more = variant.has_pool ? "--buffers 64 --buffer-size 64K" : "--buffer-size 64K";
  tests::ServerProcess server(program, arguments_of(variant, made_files().root(), more));
  const std::string large = file_of(10 << 20);
  std::vector<tests::Client> clients;
  for (int i = 0; i < 100; ++i) {
    clients.emplace_back(server.where(), small_window);
    clients.back().send_all("GET " + large + "\n");
  }
  for (tests::Client& client : clients) {
    CHECK(client.receive_line() == "OK " + std::to_string(10 << 20) + "\n");
    CHECK(is_content(client.receive_exactly(50'000), large));
  }
  // 4 MiB of buffers, or 6 MiB where each connection has its own; the program itself; stacks.
  CHECK(server.peak_memory() < 24 * 1024);
  for (tests::Client& client : clients) client.reset();
  const tests::Ended ended = server.stop();
  CHECK(ended.status == 0);
  CHECK(ended.counters.leaks == 0);
}

FILE_SERVER_TEST("file servers: buffers that may not be locked are not registered, and serve all the same",
                 file_server_test::M2Fixed, file_server_test::M2FixedODirect) {
  // Enough for the ring, which counts too since Linux 6.14, and far less than 256 buffers of 64 KiB. Root is not bound
  // by it.
  FileServer server(variant, "", made_files().root(), {.locked_memory = 2 << 20, .nobody = true});
  CHECK(contains(server.errors(), "ulimit -l"));
  tests::Client client(server.where());
  for (const std::uint64_t size : sizes) CHECK(serves(client, file_of(size)));
  server.check_clean_end(client);

  FileServer modest(variant, "--buffers 8", made_files().root(), {.locked_memory = 2 << 20, .nobody = true});
  CHECK(modest.errors() == "");
  CHECK(serves(modest));
  modest.check_clean_end();
}

FILE_SERVER_TEST("file servers: --direct where the file system cannot is said once, and read as usual",
                 O_DIRECT_FILE_SERVERS) {
  FileServer server(variant, "", "/proc");
  tests::Client client(server.where());
  for (const char* const path : {"version", "uptime", "version", "loadavg"}) {
    CHECK(ask(client, "GET " + std::string(path)).code == 200);
  }
  CHECK(lines_with(server.check_clean_end(client).errors, "O_DIRECT") == 1);
}

// ---- Tools -------------------------------------------------------------------------------------------------------

FILE_SERVER_TEST("file servers: curl gets files, ranges, heads and refusals", ALL_FILE_SERVERS) {
  SKIP_UNLESS(is_installed("curl"), "curl is not installed");
  FileServer server(variant);
  const tests::TemporaryFolder folder;
  const std::string curl = "cd '" + folder.path().string() + "' && curl -sS --max-time 60 ";
  const auto received = [&](const std::string& name) {
    std::ifstream stream(folder.path() / name, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(stream), {}};
  };
  // All sizes by one curl, and on one connection.
  std::string names;
  for (const std::uint64_t size : sizes) names += (names.empty() ? "" : ",") + file_of(size);
  const tests::ShellResult all =
      tests::shell(curl + "-f -o '#1' -w '%{num_connects}'" + url(server, "{" + names + "}"));
  CHECK(all.output == "1" + std::string(std::size(sizes) - 1, '0'));
  for (const std::uint64_t size : sizes) {
    CAPTURE(size);
    CHECK((received(file_of(size)) == content(file_of(size))));
  }
  CHECK(tests::shell(curl + "-f -r 4000-70000 -o part" + url(server, file_of(10 << 20))).status == 0);
  CHECK((received("part") == content(file_of(10 << 20), 4000, 66001)));
  CHECK(tests::shell(curl + "-f -r -10 -0 -o end" + url(server, file_of(4097))).status == 0);
  CHECK((received("end") == content(file_of(4097), 4087, 10)));
  const std::string head = tests::shell(curl + "-I" + url(server, file_of(4097))).output;
  CHECK(contains(head, "HTTP/1.1 200 OK"));
  CHECK(contains(head, "Content-Length: 4097"));
  const std::string code = curl + "--path-as-is -o /dev/null -w '%{http_code}' ";
  CHECK(tests::shell(code + url(server, "absent")).output == "404");
  CHECK(tests::shell(code + url(server, "../../etc/passwd")).output == "403");
  CHECK(tests::shell(code + url(server, "%2e%2e/%2e%2e/etc/passwd")).output == "403");
  CHECK(tests::shell(code + "-r 5000-" + url(server, file_of(4097))).output == "416");
  CHECK(tests::shell(code + "-d body" + url(server, file_of(1))).output == "501");
  CHECK(server.check_clean_end().counters.errors == 0);
}

FILE_SERVER_TEST("file servers: ab, with and without keep-alive", ALL_FILE_SERVERS) {
  SKIP_UNLESS(is_installed("ab"), "ab (apache2-utils) is not installed");
  FileServer server(variant);
  for (const char* const keep : {"-k ", ""}) {
    CAPTURE(keep);
    const tests::ShellResult result =
        tests::shell("timeout 60 ab -q -n 300 -c 10 " + std::string(keep) + url(server, file_of(4097)));
    CAPTURE(result.output);
    CHECK(result.status == 0);
    CHECK(contains(result.output, "Complete requests:      300\n"));
    CHECK(contains(result.output, "Failed requests:        0\n"));
    CHECK_FALSE(contains(result.output, "Non-2xx"));
    CHECK(contains(result.output, "Document Length:        4097 bytes\n"));
    if (*keep != '\0') CHECK(contains(result.output, "Keep-Alive requests:    300\n"));
  }
  server.check_clean_end();
}

// All variants in the same second, which is the shortest that wrk knows.
TEST_CASE("file servers: wrk") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_installed("wrk"), "wrk is not installed");
  std::vector<std::unique_ptr<FileServer>> servers;
  std::vector<std::future<tests::ShellResult>> results;
  for (const Variant& variant : all_variants) {
    servers.push_back(std::make_unique<FileServer>(variant));
  }
  for (const auto& server : servers) {
    results.push_back(std::async(std::launch::async, [&server] {
      return tests::shell("timeout 60 wrk -t 1 -c 10 -d 1s --timeout 30s " + url(*server, file_of(65536)));
    }));
  }
  for (std::size_t i = 0; i < servers.size(); ++i) {
    const tests::ShellResult result = results[i].get();
    CAPTURE(all_variants[i].program);
    CAPTURE(all_variants[i].arguments);
    CAPTURE(result.output);
    CHECK(result.status == 0);
    CHECK(contains(result.output, "Requests/sec:"));
    CHECK_FALSE(contains(result.output, "Requests/sec:      0.00"));
    CHECK_FALSE(contains(result.output, "Non-2xx"));
    CHECK_FALSE(contains(result.output, "Socket errors"));
    servers[i]->check_clean_end();
  }
}

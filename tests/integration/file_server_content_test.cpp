// The file servers: the right bytes in the right order, whatever is asked for and however it is cut.

#include "servers/common/file_wire.hpp"
#include "tests/integration/file_server_support.hpp"

namespace {

using namespace file_server_test;

constexpr std::uint64_t big = 10 << 20;

/// The load generator as a client: it verifies every byte. Fails the test with what it found.
void check_load(const FileServer& server, const std::string& arguments) {
  const tests::ShellResult result = tests::shell(
      "'" BUILD_DIR "/load' file --warmup 0 --timeout 60 --json --port " + server.port() + " " + arguments);
  CAPTURE(arguments);
  CAPTURE(result.output);
  CHECK(result.status == 0);
  CHECK(contains(result.output, "\"ok\": true"));
}

const std::string whole_files() { return " --paths '" + made_files().file("list") + "' "; }
const std::string random_ranges = " --path " + file_of(big) + " --random-ranges 4K ";

std::string http_get(const std::string& name) { return "GET /" + name + " HTTP/1.1\r\nHost: x\r\n\r\n"; }

}  // namespace

FILE_SERVER_TEST("file servers: every size, one request at a time, in both forms", ALL_FILE_SERVERS,
                 O_DIRECT_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  for (const std::uint64_t size : sizes) {
    CAPTURE(size);
    CHECK(serves(client, file_of(size)));
    const Answer answer = ask_http(client, file_of(size));
    CHECK(answer.code == 200);
    CHECK(answer.body.size() == size);
    CHECK(is_content(answer.body, file_of(size)));
  }
  const tests::Ended ended = server.check_clean_end(client);
  CHECK(ended.counters.requests == 2 * std::size(sizes));
  CHECK(ended.counters.accepted == 1);
  CHECK(ended.counters.errors == 0);
}

FILE_SERVER_TEST("file servers: pipelined requests of mixed sizes and forms are answered in their order",
                 ALL_FILE_SERVERS, O_DIRECT_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  std::string requests;
  // The largest first and last, small ones behind it: what is ready early waits for its turn.
  for (std::size_t i = 0; i < std::size(sizes); ++i) {
    const std::uint64_t size = sizes[i], other = sizes[std::size(sizes) - 1 - i];
    requests += "GET " + file_of(other) + "\n" + http_get(file_of(size)) + "GET absent\nECHO 3\na\nb";
  }
  REQUIRE(client.send_all(requests));
  for (std::size_t i = 0; i < std::size(sizes); ++i) {
    const std::uint64_t size = sizes[i], other = sizes[std::size(sizes) - 1 - i];
    CAPTURE(size);
    const Answer line = line_answer(client);
    CHECK(line.body.size() == other);
    CHECK(is_content(line.body, file_of(other)));
    const Answer http = http_answer(client);
    CHECK(http.body.size() == size);
    CHECK(is_content(http.body, file_of(size)));
    CHECK(line_answer(client).code == 404);
    CHECK(line_answer(client).body == "a\nb");
  }
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: 1,000 requests are sent before the first answer is read", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  std::string requests;
  for (int i = 0; i < 1000; ++i) requests += "GET " + file_of(65537) + " " + std::to_string(i) + " 4096\n";
  REQUIRE(client.send_all(requests));
  for (unsigned i = 0; i < 1000; ++i) {
    CAPTURE(i);
    const Answer answer = line_answer(client);
    REQUIRE(answer.body.size() == 4096);
    REQUIRE(is_content(answer.body, file_of(65537), i));
  }
  CHECK(server.check_clean_end(client).counters.requests == 1000);
}

FILE_SERVER_TEST("file servers: 64 clients at once, whole files, pipelined and not, in both forms",
                 ALL_FILE_SERVERS) {
  FileServer server(variant);
  check_load(server, whole_files() + "--connections 64 --messages 400");
  check_load(server, whole_files() + "--connections 64 --messages 400 --depth 16 --http");
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: 64 clients at once, random ranges, pipelined and not, in both forms",
                 ALL_FILE_SERVERS, O_DIRECT_FILE_SERVERS) {
  FileServer server(variant);
  check_load(server, random_ranges + "--connections 64 --messages 2000 --http");
  check_load(server, random_ranges + "--connections 64 --messages 4000 --depth 16");
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: two small buffers and two open files for 64 clients, and no cache at all",
                 POOL_FILE_SERVERS) {
  for (const char* const scarce : {"--buffers 2 --buffer-size 4K --open-files 2", "--open-files 0"}) {
    CAPTURE(scarce);
    FileServer server(variant, scarce);
    check_load(server, whole_files() + "--connections 64 --messages 150 --depth 4");
    check_load(server, random_ranges + "--connections 64 --messages 500");
    const tests::Ended ended = server.check_clean_end();
    if (contains(scarce, "--buffers 2")) CHECK(ended.counters.buffers_in_use_max <= 2);
  }
}

FILE_SERVER_TEST("file servers: ranges in the line form, at all the edges", ALL_FILE_SERVERS,
                 O_DIRECT_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  const std::string max = "9223372036854775807";
  for (const std::uint64_t size : sizes) {
    CAPTURE(size);
    const std::string get = "GET " + file_of(size) + " ";
    const std::string end = std::to_string(size);
    CHECK(ask(client, get + end + " 0").head == "OK 0\n");
    CHECK(ask(client, get + "0 0").head == "OK 0\n");
    CHECK(ask(client, get + end + " 1").code == 416);
    CHECK(ask(client, get + end + " " + max).code == 416);
    CHECK(ask(client, get + std::to_string(size + 1) + " 0").code == 416);
    CHECK(ask(client, get + max + " 1").code == 416);
    CHECK(ask(client, get + max + " " + max).code == 416);
    if (size == 0) continue;
    const struct {
      std::uint64_t offset, length;
    } ranges[] = {{0, 1},        {0, size},     {0, size + 1}, {size - 1, 1},          {size - 1, 2},
                  {size / 2, 9}, {size / 3, 1}, {1, size},     {1, (1ULL << 63) - 1},  {size / 2, size},
                  {511, 2},      {512, 512},    {4095, 2},     {4096, 4096},           {4097, 65536},
                  {65535, 1},    {65535, 2},    {1000, 70000}, {size - size % 4096, 5}};
    for (const auto& range : ranges) {
      const std::uint64_t offset = range.offset, length = range.length;
      if (size == big && length >= size / 2 && offset != 1) continue;  // O_DIRECT really reads all of it
      CAPTURE(offset);
      CAPTURE(length);
      const Answer answer = ask(client, get + std::to_string(offset) + " " + std::to_string(length));
      if (offset >= size) {
        CHECK(answer.code == 416);
        continue;
      }
      CHECK(answer.body.size() == std::min(length, size - offset));
      CHECK(is_content(answer.body, file_of(size), offset));
    }
  }
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: ranges in HTTP", ALL_FILE_SERVERS, O_DIRECT_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  constexpr std::uint64_t size = 65537;
  struct Row {
    const char* range;
    int code;
    std::uint64_t first, length;
  };
  const Row rows[] = {{"0-0", 206, 0, 1},
                      {"0-", 206, 0, size},
                      {"1-1000", 206, 1, 1000},
                      {"4095-4096", 206, 4095, 2},
                      {"65536-", 206, 65536, 1},
                      {"65536-99999999", 206, 65536, 1},
                      {"-1", 206, 65536, 1},
                      {"-65537", 206, 0, size},
                      {"-99999999", 206, 0, size},
                      {"5-18446744073709551615", 206, 5, size - 5},
                      {"65537-", 416, 0, 0},
                      {"65537-65538", 416, 0, 0},
                      {"99999999999999999999-", 416, 0, 0},
                      {"-0", 416, 0, 0},
                      {"0-1,5-6", 200, 0, size},
                      {"6-5", 200, 0, size},
                      {"x-", 200, 0, size},
                      {"-", 200, 0, size},
                      {"1 -2", 200, 0, size}};
  for (const Row& row : rows) {
    CAPTURE(row.range);
    const Answer answer = ask_http(client, file_of(size), "Range: bytes=" + std::string(row.range) + "\r\n");
    CHECK(answer.code == row.code);
    if (row.code == 416) {
      CHECK(header_of(answer, "Content-Range") == "bytes */65537");
      continue;
    }
    CHECK(answer.body.size() == row.length);
    CHECK(is_content(answer.body, file_of(size), row.first));
    const std::string stands =
        "bytes " + std::to_string(row.first) + "-" + std::to_string(row.first + row.length - 1) + "/65537";
    CHECK(header_of(answer, "Content-Range") == (row.code == 206 ? stands : ""));
  }
  CHECK(ask_http(client, file_of(0), "Range: bytes=0-0\r\n").code == 416);
  CHECK(ask_http(client, file_of(0), "Range: bytes=-5\r\n").code == 416);
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: HEAD, HTTP/1.0 and Connection", ALL_FILE_SERVERS) {
  FileServer server(variant);
  const std::string name = file_of(4097);
  tests::Client client(server.where());
  client.send_all("HEAD /" + name + " HTTP/1.1\r\nRange: bytes=0-0\r\n\r\nHEAD /absent HTTP/1.1\r\n\r\n");
  const Answer head = http_answer(client, true);
  CHECK(head.code == 200);
  CHECK(header_of(head, "Content-Length") == "4097");
  CHECK(http_answer(client, true).code == 404);
  CHECK(ask_http(client, name + "?query%zz").body == content(name));
  CHECK(ask_http(client, "%6dade%2e4097.0").body == content(name));
  client.send_all("GET /" + name + " HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const Answer kept = http_answer(client);
  CHECK(kept.body == content(name));
  CHECK(header_of(kept, "Connection") == "keep-alive");
  client.send_all("GET /" + name + " HTTP/1.1\r\nConnection: close\r\n\r\n" + http_get(name));
  const Answer last = http_answer(client);
  CHECK(last.body == content(name));
  CHECK(header_of(last, "Connection") == "close");
  CHECK(client.receive_to_end() == "");
  CHECK(client.end() == tests::End::fin);

  tests::Client old(server.where());
  old.send_all("GET /" + name + " HTTP/1.0\r\n\r\n");
  CHECK(http_answer(old).body == content(name));
  CHECK(old.receive_to_end() == "");
  CHECK(old.end() == tests::End::fin);
  server.check_clean_end(client, old);
}

FILE_SERVER_TEST("file servers: ECHO gives back what came, NULs and newlines too", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  for (const std::size_t size : {0UL, 1UL, 5UL, 4095UL, 4096UL}) {
    CAPTURE(size);
    std::string bytes = content("echo", 0, size);
    if (size >= 5) bytes.replace(0, 5, std::string("\0\nGET", 5));
    client.send_all("ECHO " + std::to_string(size) + "\n" + bytes);
    const Answer answer = line_answer(client);
    CHECK(answer.head == "OK " + std::to_string(size) + "\n");
    CHECK(answer.body == bytes);
  }
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: requests that come byte by byte", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  const std::string name = file_of(256);
  const std::string requests =
      "GET /" + name + " 3 20\r\nECHO 2\n\n\n" + http_get(name) + "GET " + name + "\n";
  for (const char& byte : requests) REQUIRE(client.send_all({&byte, 1}));
  CHECK(line_answer(client).body == content(name, 3, 20));
  CHECK(line_answer(client).body == "\n\n");
  CHECK(http_answer(client).body == content(name));
  CHECK(line_answer(client).body == content(name));
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: the end of a file of 5 GiB, most of which is a hole", ALL_FILE_SERVERS,
                 O_DIRECT_FILE_SERVERS) {
  const ServedFolder folder;
  constexpr std::uint64_t size = (5ULL << 30) + 7, written = 100'000;
  {
    std::ofstream file(folder.file("sparse"));
    file.seekp(size - written);
    file << content("sparse", size - written, written);
  }
  FileServer server(variant, "", folder.root());
  tests::Client client(server.where());
  const auto range = [&](std::uint64_t offset, std::uint64_t length) {
    return ask(client, "GET sparse " + std::to_string(offset) + " " + std::to_string(length));
  };
  CHECK(range(size - written, written).body == content("sparse", size - written, written));
  CHECK(range(size - 5, 1000).body == content("sparse", size - 5, 5));
  CHECK(range((1ULL << 32) - 2, 5).body == std::string(5, '\0'));
  CHECK(range(size, 1).code == 416);
  const Answer http = ask_http(client, "sparse", "Range: bytes=-9\r\n");
  CHECK(http.body == content("sparse", size - 9, 9));
  CHECK(header_of(http, "Content-Range") == "bytes 5368709118-5368709126/5368709127");
  client.send_all("GET sparse\n");  // all of it: the head, and a little of what follows
  CHECK(client.receive_line() == "OK 5368709127\n");
  CHECK(client.receive_exactly(100'000) == std::string(100'000, '\0'));
  client.reset();
  server.check_clean_end();
}

// The file servers: what is malformed, forbidden or hostile gets the code that it must get, the client can read it, and
// the next client is served.

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/integration/file_server_support.hpp"

namespace {

using namespace file_server_test;
using namespace std::string_literals;

struct Refused {
  std::string request;
  int code;
};

std::string http(const std::string& first, const std::string& headers = "") {
  return first + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n";
}

// What is malformed, in each of the two forms, and the code that it gets.
const std::vector<Refused>& malformed_lines() {
  static const std::vector<Refused> table = {
      {"\n", 400},
      {"\r\n", 400},
      {"GET\n", 400},
      {"GET \n", 400},
      {"GET  a\n", 400},
      {"GET a \n", 400},
      {"GET a 1\n", 400},
      {"GET a 1 \n", 400},
      {"GET a 1 2 3\n", 400},
      {"GET a -1 5\n", 400},
      {"GET a 5 -1\n", 400},
      {"GET a +1 5\n", 400},
      {"GET a 0x1 5\n", 400},
      {"GET a 0 9223372036854775808\n", 400},
      {"GET a 9223372036854775808 0\n", 400},
      {"GET a 0 99999999999999999999999999999999999\n", 400},
      {"GET a\0b\n"s, 400},
      {"GET a 1 \0002\n"s, 400},
      {"\0\0\0\0\n"s, 400},
      {"get a\n", 400},
      {"\x16\x03\x01\x02 hello\n", 400},
      {"PUT a\n", 501},
      {"QUIT now\n", 501},
      {"ECHO\n", 400},
      {"ECHO x\n", 400},
      {"ECHO -1\n", 400},
      {"ECHO 4097\n", 400},
      {"ECHO 99999999999999999999\n", 400},
      {"GET " + std::string(4092, 'a') + "\n", 414},
      {"GET " + std::string(8000, 'a') + "\n", 414},
      {"GET " + std::string(256, 'a') + "\n", 414},  // the file system finds this one
  };
  return table;
}

const std::vector<Refused>& malformed_http() {
  static const std::vector<Refused> table = {
      {http("POST /a", "Content-Length: 3\r\n") + "abc", 501},
      {http("DELETE /a"), 501},
      {http("get /a"), 501},
      {http("GET  /a"), 400},
      {http("GET a"), 400},
      {http("GET /a b"), 400},
      {http("GET /%"), 400},
      {http("GET /%4"), 400},
      {http("GET /%zz"), 400},
      {http("GET /a%00b"), 400},
      {http("GET /a\0b"s), 400},
      {"GET /a HTTP/1.2\r\n\r\n", 400},
      {"GET /a HTTP/2.0\r\n\r\n", 400},
      {http("GET /a", "Content-Length: 5\r\n") + "abcde", 400},
      {http("GET /a", "Transfer-Encoding: chunked\r\n"), 400},
      {http("GET /a", "no colon\r\n"), 400},
      {http("GET /a", "name : value\r\n"), 400},
      {http("GET /a", " folded\r\n"), 400},
      {http("GET /a", "name: a\0b\r\n"s), 400},
      {http("GET /a", "name: " + std::string(8300, 'b') + "\r\n"), 431},
      {http("GET /" + std::string(256, 'a')), 414},
      {http("GET /" + std::string(5000, 'a')), 414},
  };
  return table;
}

std::string readable(const std::string& request) {
  std::string text;
  for (const char c : request.substr(0, 60)) {
    text += c >= ' ' && c != 0x7f ? std::string(1, c) : "<" + std::to_string(c) + ">";
  }
  return text;
}

/// The refusal ends the connection, so it must arrive whole, with nothing behind it: not even where the client
/// had more to say.
void check_refused(const FileServer& server, const Refused& row, bool is_http, const std::string& behind) {
  CAPTURE(readable(row.request));
  CAPTURE(behind.size());
  tests::Client client(server.where());
  client.send_all("ECHO 2\nok" + row.request + behind);
  CHECK(line_answer(client).body == "ok");
  const Answer answer = is_http ? http_answer(client) : line_answer(client);
  CHECK(answer.code == row.code);
  CHECK(client.receive_to_end() == "");
  CHECK(client.end() == tests::End::fin);
  if (is_http) CHECK(header_of(answer, "Connection") == "close");
}

/// A folder with everything that must not be served in it, and beside it what must not be reached.
class TrapFolder : public ServedFolder {
 public:
  TrapFolder() {
    namespace fs = std::filesystem;
    write("secret", "secret");
    write("root/good", "good");
    write("root/sub/inside", "inside");
    write("root/unreadable", "unreadable");
    write("root/locked/file", "locked");
    fs::permissions(path() / "root/unreadable", fs::perms::none);
    fs::permissions(path() / "root/locked", fs::perms::none);
    for (const auto& [to, name] : {std::pair{"../secret", "out"},
                                   {"sub/inside", "in"},
                                   {"../good", "sub/up"},
                                   {"/etc/passwd", "absolute"},
                                   {"loop", "loop"},
                                   {"nowhere", "dangling"},
                                   {"sub", "folder_link"}}) {
      fs::create_symlink(to, path() / "root" / name);
    }
    fs::create_symlink(path() / "root/good", path() / "root/absolute_in");
    mkfifo((path() / "root/fifo").c_str(), 0666);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string socket_path = (path() / "root/socket").string();
    std::memcpy(address.sun_path, socket_path.c_str(), std::min(socket_path.size(), sizeof address.sun_path));
    const common::Descriptor fd(socket(AF_UNIX, SOCK_STREAM, 0));
    const void* const any = &address;
    bind(fd.get(), static_cast<const sockaddr*>(any), sizeof address);
  }
  ~TrapFolder() { std::filesystem::permissions(path() / "root/locked", std::filesystem::perms{0700}); }
  TrapFolder(const TrapFolder&) = delete;
  TrapFolder& operator=(const TrapFolder&) = delete;

  std::string root() const { return (path() / "root").string(); }
};

const Refused refused_paths[] = {{"../secret", 403},
                                 {"..", 403},
                                 {"../root/good", 403},
                                 {"sub/../../secret", 403},
                                 {"/etc/passwd", 403},  // a `/` stands in front of all of these, too
                                 {"", 403},
                                 {".", 403},
                                 {"sub", 403},
                                 {"sub/", 403},
                                 {"folder_link", 403},
                                 {"out", 403},
                                 {"absolute", 403},
                                 {"absolute_in", 403},
                                 {"loop", 403},
                                 {"fifo", 403},
                                 {"socket", 403},
                                 {"unreadable", 403},
                                 {"locked/file", 403},
                                 {"dangling", 404},
                                 {"absent", 404},
                                 {"absent/good", 404},
                                 {"good/more", 404},
                                 {"good/", 404}};

}  // namespace

FILE_SERVER_TEST("file servers: malformed lines are refused, readable, and the end", ALL_FILE_SERVERS) {
  FileServer server(variant);
  for (const Refused& row : malformed_lines()) {
    check_refused(server, row, false, "");
    check_refused(server, row, false, "GET " + file_of(1) + "\nECHO 1\nx");
  }
  CHECK(serves(server));
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: malformed HTTP is refused, readable, and the end", ALL_FILE_SERVERS) {
  FileServer server(variant);
  for (const Refused& row : malformed_http()) {
    check_refused(server, row, true, "");
    check_refused(server, row, true, http("GET /" + file_of(1)));
  }
  CHECK(serves(server));
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: a client that has much more to say can read the refusal", ALL_FILE_SERVERS) {
  FileServer server(variant);
  const std::string much(500'000, 'x');
  check_refused(server, {"GET a -1 5\n", 400}, false, much);
  check_refused(server, {"PUT a\n", 501}, false, much);
  check_refused(server, {"GET " + std::string(256, 'a') + "\n", 414}, false, much);
  check_refused(server, {http("POST /a"), 501}, true, much);
  check_refused(server, {http("GET /a", "Content-Length: 500000\r\n"), 400}, true, much);
  check_refused(server, {http("GET /a", "name: ") + much, 431}, true, much);
  CHECK(serves(server));
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: a line of a megabyte, and one that never ends", ALL_FILE_SERVERS) {
  FileServer server(variant);
  for (const std::string& start : {""s, "GET "s, http("GET /" + file_of(1))}) {
    CAPTURE(start);
    tests::Client client(server.where());
    client.send_all(start + std::string(1'000'000, 'a') + "\n");
    if (contains(start, "HTTP")) CHECK(http_answer(client).code == 200);
    const Answer answer = contains(start, "HTTP") ? http_answer(client) : line_answer(client);
    CHECK(answer.code == 414);
    CHECK(client.receive_to_end() == "");
  }
  for (const char byte : {'a', '\0', ' ', '\r'}) {
    tests::Client client(server.where());
    const std::string piece(1000, byte);
    // It goes on until it is told to stop, and finds out why.
    while (!client.has_something(std::chrono::milliseconds(0)) && client.send_all(piece)) {
    }
    CHECK(line_answer(client).code == 414);
  }
  {
    // Headers without end, line by line.
    tests::Client client(server.where());
    client.send_all("GET /a HTTP/1.1\r\n");
    while (!client.has_something(std::chrono::milliseconds(0)) && client.send_all("name: value\r\n")) {
    }
    CHECK(http_answer(client).code == 431);
  }
  CHECK(serves(server));
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: what is not a readable regular file beneath the root", ALL_FILE_SERVERS) {
  const TrapFolder folder;
  FileServer server(variant, "", folder.root(), {.nobody = true});
  tests::Client client(server.where());
  // All on one connection: these refusals keep it.
  for (const Refused& row : refused_paths) {
    CAPTURE(row.request);
    const Answer line = ask(client, "GET /" + row.request);
    CHECK(line.code == row.code);
    const Answer plain = ask_http(client, row.request);
    CHECK(plain.code == row.code);
    CHECK(header_of(plain, "Connection") == "");
    std::string escaped;
    for (const char c : row.request) {
      char text[4];
      std::snprintf(text, sizeof text, "%%%02x", static_cast<unsigned>(c));
      escaped += text;
    }
    CHECK(ask_http(client, escaped).code == row.code);
  }
  CHECK(ask(client, "GET %2e%2e/secret").code == 404);  // no escapes in the line form
  CHECK(ask(client, "GET //etc/passwd").code == 403);
  const std::pair<std::string, std::string> good[] = {
      {"good", "good"},   {"in", "inside"},        {"folder_link/inside", "inside"},
      {"sub/up", "good"}, {"sub/../good", "good"}, {"./sub/./inside", "inside"}};
  for (const auto& each : good) {
    CAPTURE(each.first);
    CHECK(ask(client, "GET " + each.first).body == each.second);
    CHECK(ask_http(client, each.first).body == each.second);
  }
  const tests::Ended ended = server.check_clean_end(client);
  CHECK(ended.counters.errors == 0);
}

FILE_SERVER_TEST("file servers: the magic links of /proc", ALL_FILE_SERVERS) {
  FileServer server(variant, "", "/proc");
  tests::Client client(server.where());
  for (const char* const path : {"self/root/etc/passwd", "self/cwd/Makefile", "self/exe", "self/fd/0",
                                 "thread-self/root/etc/passwd", "1/root/etc/passwd"}) {
    CAPTURE(path);
    CHECK(ask(client, "GET "s + path).code == 403);
  }
  CHECK(ask(client, "GET self/absent").code == 404);
  CHECK(ask(client, "GET version").head == "OK 0\n");  // it says that it is empty, and we believe it
  CHECK(echoes(client));
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: refusals among good requests keep their order, until one ends it",
                 ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  const std::string good = "GET " + file_of(65537) + "\n";
  client.send_all(good + "GET absent\n" + good + "GET ..\n" + "GET " + file_of(1) + " 2 0\n" + good + "GET " +
                  std::string(300, 'n') + "\n" + good + "ECHO 1\nx");
  CHECK(line_answer(client).body == content(file_of(65537)));
  CHECK(line_answer(client).code == 404);
  CHECK(line_answer(client).body == content(file_of(65537)));
  CHECK(line_answer(client).code == 403);
  CHECK(line_answer(client).code == 416);
  CHECK(line_answer(client).body == content(file_of(65537)));
  CHECK(line_answer(client).code == 414);
  CHECK(client.receive_to_end() == "");
  CHECK(client.end() == tests::End::fin);
  CHECK(serves(server));
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: resets at every stage, 200 of them", ALL_FILE_SERVERS) {
  FileServer server(variant);
  const std::string large = "GET " + file_of(10 << 20) + "\n";
  for (int i = 0; i < 50; ++i) {
    tests::Client(server.where()).reset();
    tests::Client half(server.where());
    half.send_all("GET made");
    half.reset();
    tests::Client asked(server.where());
    asked.send_all(large + large + "GET " + file_of(1) + "\n");
    asked.reset();
    tests::Client receiving(server.where(), small_window);
    receiving.send_all(large + large);
    CHECK(receiving.receive_exactly(10'000).size() == 10'000);
    receiving.reset();
  }
  CHECK(serves(server));
  CHECK(server.runs());
  server.check_clean_end();
}

FILE_SERVER_TEST("file servers: who stays silent behind a refusal is closed after a second",
                 THREE_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  client.send_all("nonsense\n");
  CHECK(line_answer(client).code == 400);
  CHECK(client.receive_to_end() == "");
  CHECK(client.end() == tests::End::fin);
  // Half of the connection is still open. When the server closes it, what we send is answered by a reset.
  CHECK(tests::eventually([&] { return !client.send_all("x"); }));
  CHECK(serves(server));
  server.check_clean_end(client);
}

FILE_SERVER_TEST("file servers: who never stops behind a refusal is cut off", ALL_FILE_SERVERS) {
  FileServer server(variant);
  tests::Client client(server.where());
  client.send_all("nonsense\n");
  const std::string piece(10'000, 'x');
  std::uint64_t sent = 0;
  while (sent < (1U << 30) && client.send_all(piece)) sent += piece.size();
  CHECK(sent < (1U << 30));
  CHECK(line_answer(client).code == 400);
  CHECK(serves(server));
  server.check_clean_end(client);
}

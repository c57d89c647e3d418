// The load generator against servers that are right, and against servers that are wrong in one way each. None
// of them has a file: what they answer they compute, as the generator does.
//
// A stand-in is a forked child with a thread for each connection; what it does to a connection is a function.

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "bench/load/made_files.hpp"
#include "servers/common/file_content.hpp"
#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

using namespace std::chrono_literals;

// ---- A server for a test -----------------------------------------------------------------------------------

/// Serves one connection until it returns; `number` counts them from 0. The descriptor is closed behind it.
using Serve = std::function<void(int fd, unsigned number)>;

class StandIn {
 public:
  explicit StandIn(const Serve& serve, const std::string& unix_path = "") {
    const int listener = unix_path.empty() ? listen_tcp() : listen_unix(unix_path);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) run(listener, serve);
    close(listener);
  }
  StandIn(const StandIn&) = delete;
  StandIn& operator=(const StandIn&) = delete;
  ~StandIn() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  [[nodiscard]] std::string where() const { return "--port " + std::to_string(port_); }
  [[nodiscard]] std::string port() const { return std::to_string(port_); }
  [[nodiscard]] std::string pid() const { return std::to_string(pid_); }

 private:
  int listen_tcp() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    void* const any = &address;
    REQUIRE(bind(fd, static_cast<sockaddr*>(any), length) == 0);
    REQUIRE(listen(fd, 1024) == 0);
    REQUIRE(getsockname(fd, static_cast<sockaddr*>(any), &length) == 0);
    port_ = ntohs(address.sin_port);
    return fd;
  }

  static int listen_unix(const std::string& path) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    REQUIRE(path.size() < sizeof address.sun_path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    void* const any = &address;
    REQUIRE(bind(fd, static_cast<sockaddr*>(any), sizeof address) == 0);
    REQUIRE(listen(fd, 2) == 0);  // so short that connect(2) meets a full queue
    return fd;
  }

  [[noreturn]] static void run(int listener, const Serve& serve) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    for (unsigned number = 0;; ++number) {
      const int fd = accept(listener, nullptr, nullptr);
      if (fd < 0) _exit(1);
      std::thread([fd, number, &serve] {
        serve(fd, number);
        close(fd);
      }).detach();
    }
  }

  pid_t pid_ = -1;
  int port_ = 0;
};

bool send_all(int fd, const std::string& text) {
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t n = send(fd, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

/// Up to `most` bytes; empty at the end.
std::string receive(int fd, std::size_t most = 65536) {
  std::string text(most, '\0');
  const ssize_t n = recv(fd, text.data(), most, 0);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

/// Exactly `size` bytes; empty when the end comes before.
std::string receive_exactly(int fd, std::size_t size) {
  std::string text;
  while (text.size() < size) {
    const std::string more = receive(fd, size - text.size());
    if (more.empty()) return "";
    text += more;
  }
  return text;
}

void reset(int fd) {
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void echo(int fd, unsigned) {
  for (std::string text = receive(fd); !text.empty(); text = receive(fd)) {
    if (!send_all(fd, text)) return;
  }
}

/// An echo server that gets message `number` of a connection (64 bytes each) from its hands and returns what
/// to answer.
Serve echo_but(
    const std::function<std::string(std::string message, unsigned number, unsigned connection)>& change) {
  return [change](int fd, unsigned connection) {
    for (unsigned number = 0;; ++number) {
      const std::string message = receive_exactly(fd, 64);
      if (message.empty() || !send_all(fd, change(message, number, connection))) return;
    }
  };
}

// ---- A file server without files -------------------------------------------------------------------------------

struct Asked {
  bool http = false;
  bool echo = false;
  bool range = false;
  std::string path{};  // or what to echo
  std::uint64_t size = 0, offset = 0, length = 0;
};

std::string content_of(const Asked& asked) {
  if (asked.echo) return asked.path;
  std::string content(asked.length, '\0');
  common::fill_content(std::as_writable_bytes(std::span(content)),
                       common::content_seed(load::last_component(asked.path)), asked.offset);
  return content;
}

std::string head_of(const Asked& asked) {
  const std::string length = std::to_string(asked.length);
  if (!asked.http) return "OK " + length + "\n";
  if (!asked.range)
    return "HTTP/1.1 200 OK\r\nContent-Length: " + length + "\r\nAccept-Ranges: bytes\r\n\r\n";
  return "HTTP/1.1 206 Partial Content\r\nContent-Length: " + length + "\r\nContent-Range: bytes " +
         std::to_string(asked.offset) + "-" + std::to_string(asked.offset + asked.length - 1) + "/" +
         std::to_string(asked.size) + "\r\n\r\n";
}

/// The next request of `input`, if it is complete; takes it out.
bool next_request(std::string& input, Asked& asked) {
  asked = {};
  const std::size_t line = input.find('\n');
  if (line == std::string::npos) return false;
  std::size_t end = line + 1;
  char path[4096] = "";
  unsigned long long first = 0, last = 0;
  if (std::sscanf(input.c_str(), "ECHO %llu", &first) == 1) {
    if (input.size() < end + first) return false;
    asked.echo = true;
    asked.length = first;
    asked.path = input.substr(end, first);
    input.erase(0, end + first);
    return true;
  }
  const int words = std::sscanf(input.c_str(), "GET %4095s %llu %llu", path, &first, &last);
  asked.http = input.substr(0, line).find(" HTTP/1.1") != std::string::npos;
  if (asked.http) {
    end = input.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    end += 4;
    const std::size_t range = input.find("Range: bytes=");
    asked.range =
        range < end && std::sscanf(input.c_str() + range, "Range: bytes=%llu-%llu", &first, &last) == 2;
    if (asked.range) last = last - first + 1;
  } else {
    asked.range = words == 3;
  }
  asked.path = path[0] == '/' ? path + 1 : path;
  asked.size = load::made_size(asked.path).value_or(0);
  asked.offset = asked.range ? first : 0;
  asked.length = asked.range ? last : asked.size;
  input.erase(0, end);
  return true;
}

using Change = std::function<std::string(const Asked& asked, unsigned number)>;

std::string right(const Asked& asked, unsigned) { return head_of(asked) + content_of(asked); }

Serve files_but(const Change& answer) {
  return [answer](int fd, unsigned) {
    std::string input;
    Asked asked;
    for (unsigned number = 0;;) {
      if (next_request(input, asked)) {
        if (!send_all(fd, answer(asked, number++))) return;
        continue;
      }
      const std::string more = receive(fd);
      if (more.empty()) return;
      input += more;
    }
  };
}

// ---- The generator, and what it says ---------------------------------------------------------------------------

const std::string load_program = "'" BUILD_DIR "/load' ";

struct Run {
  int status;
  std::string out, err;
};

Run run_load(const std::string& arguments) {
  const tests::TemporaryFolder folder;
  const std::string errors = (folder.path() / "stderr").string();
  const tests::ShellResult result = tests::shell(load_program + arguments + " 2>'" + errors + "'");
  std::ifstream stream(errors);
  return {result.status, result.output, {std::istreambuf_iterator<char>(stream), {}}};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// The number behind the first `"key": ` after `from` of a JSON text.
double number_of(const std::string& json, const std::string& key, const std::string& from = "") {
  const std::string name = "\"" + key + "\": ";
  const std::size_t start = json.find(from);
  REQUIRE(start != std::string::npos);
  const std::size_t at = json.find(name, start);
  REQUIRE_MESSAGE(at != std::string::npos, key << " is not in " << json);
  return std::strtod(json.c_str() + at + name.size(), nullptr);
}

void check_fine(const Run& run, double verified) {
  CAPTURE(run.out);
  CAPTURE(run.err);
  CHECK(run.status == 0);
  CHECK(run.err == "");
  CHECK(number_of(run.out, "verified") == verified);
  CHECK(contains(run.out, "\"ok\": true"));
}

/// It has found something, says what, and claims no rate.
void check_found(const Run& run, const std::string& what) {
  CAPTURE(run.out);
  CAPTURE(run.err);
  CAPTURE(what);
  CHECK(run.status == 1);
  CHECK(contains(run.err, what));
  CHECK_FALSE(contains(run.out, "/s  "));
  CHECK_FALSE(contains(run.err, "/s  "));
}

const std::string soon = " --warmup 0 --timeout 20 ";

}  // namespace

// ---- Right servers ---------------------------------------------------------------------------------------------

TEST_CASE("every echoed message is counted once: all sizes, pipelined or not") {
  const StandIn server(echo);
  for (const char* const shape : {"--size 1 --depth 1", "--size 7 --depth 16", "--size 64 --depth 3",
                                  "--size 4096 --depth 8", "--size 300K"}) {
    CAPTURE(shape);
    const Run run = run_load("echo --json --connections 5 --messages 203 " + server.where() + soon + shape);
    check_fine(run, 203);
    CHECK(number_of(run.out, "verified_all") == 208);  // and one on each connection before the clock
    CHECK(number_of(run.out, "bytes") == 203 * number_of(run.out, "size"));
    CHECK(number_of(run.out, "count", "latency_us") == 203);
    CHECK(number_of(run.out, "left_open") == 0);
  }
}

TEST_CASE("messages that fit into no buffer: 8 MiB, two under way on each connection") {
  const StandIn server(echo);
  check_fine(
      run_load("echo --json --connections 2 --size 8M --depth 2 --messages 6 " + server.where() + soon), 6);
}

TEST_CASE("a Unix-domain socket, with more connections than its queue takes") {
  const tests::TemporaryFolder folder;
  const std::string path = (folder.path() / "socket").string();
  const StandIn server(echo, path);
  check_fine(run_load("echo --json --connections 40 --messages 400 --unix " + path + soon), 400);
  check_fine(run_load("churn --json --connections 8 --messages 100 --unix " + path + soon), 100);
}

TEST_CASE("files: whole ones in turn and random ranges, in both forms") {
  const tests::TemporaryFolder folder;
  folder.write("list", "made.4K.0\nsub/made.100K.1\n\nmade.0.0\n/made.1000.0\n");
  const StandIn server(files_but(right));
  const std::string list = " --paths " + (folder.path() / "list").string() + " ";
  const std::string ranges = " --path made.1G.0 --random-ranges 4K ";
  for (const std::string& what : {list, list + "--http ", ranges, ranges + "--http --depth 4 "}) {
    CAPTURE(what);
    const Run run = run_load("file --json --connections 4 --messages 100 " + server.where() + soon + what);
    check_fine(run, 100);
  }
  // Messages 1 to 100 of one connection: 25 walks through the list.
  const Run run = run_load("file --json --connections 1 --messages 100 " + server.where() + soon + list);
  CHECK(number_of(run.out, "bytes") == 25 * (4096 + 102400 + 0 + 1000));
}

TEST_CASE("churn makes one connection for each message, ended by RST or by FIN") {
  const StandIn echo_server(echo);
  const StandIn file_server(files_but(right));
  for (const std::string& what :
       {echo_server.where() + " --close rst", echo_server.where() + " --close fin",
        file_server.where() + " --path made.4K.0", file_server.where() + " --path made.4K.0 --http"}) {
    CAPTURE(what);
    check_fine(run_load("churn --json --connections 3 --messages 150 " + what + soon), 150);
  }
}

TEST_CASE("mixed: echoes on a timetable and files as fast as they come, counted apart") {
  const StandIn server(files_but(right));
  const Run run = run_load(
      "mixed --json --connections 2 --rate 400 --get-connections 3 --path made.64K.0 --seconds 0.5 " +
      server.where() + soon);
  CAPTURE(run.out);
  CHECK(run.status == 0);
  CHECK(number_of(run.out, "count", "\"echo\"") == 200);
  CHECK(number_of(run.out, "verified", "\"get\"") > 0);
  CHECK(number_of(run.out, "bytes", "\"get\"") == 65536 * number_of(run.out, "verified", "\"get\""));
}

TEST_CASE("a file that nobody made is verified by its checksum") {
  const std::string content = "The quick brown fox jumps over the lazy dog\n";
  const StandIn server(files_but([content](const Asked&, unsigned) { return "OK 44\n" + content; }));
  const std::string sum =
      tests::shell("printf 'The quick brown fox jumps over the lazy dog\\n' | cksum").output;
  const std::string path =
      "file --json --connections 1 --messages 20 --path fox.txt " + server.where() + soon;
  check_fine(run_load(path + "--checksum \"" + sum.substr(0, sum.find('\n')) + "\""), 20);
  check_found(run_load(path + "--checksum '1 44'"),
              "wrong checksum: connection 0, message 0 (GET fox.txt): expected 1, got ");
  check_found(run_load(path + "--checksum '1 45'"),
              "wrong length: connection 0, message 0 (GET fox.txt): expected 'OK 45', got 'OK 44'");
}

// ---- Wrong bytes -----------------------------------------------------------------------------------------------

TEST_CASE("one wrong bit, and there is no rate, but the place of the bit") {
  const StandIn server(echo_but([](std::string message, unsigned number, unsigned) {
    if (number == 17) message[40] = static_cast<char>(message[40] ^ 4);
    return message;
  }));
  const std::string arguments = "echo --connections 1 --messages 100 " + server.where() + soon;
  const Run text = run_load(arguments);
  check_found(text, "wrong byte: connection 0, message 17 (64 bytes), byte 40 of 64: expected 0x");
  CHECK(text.out == "");
  const Run json = run_load(arguments + "--json");
  CHECK(json.status == 1);
  CHECK(contains(json.out,
                 "\"ok\": false, \"wrong\": {\"kind\": \"wrong byte\", \"connection\": 0, \"message\": 17, "
                 "\"offset\": 40"));
  CHECK_FALSE(contains(json.out, "per_second"));
}

TEST_CASE("pipelined answers in the wrong order") {
  const StandIn server([](int fd, unsigned) {
    if (!send_all(fd, receive_exactly(fd, 64))) return;
    for (;;) {
      const std::string two = receive_exactly(fd, 128);
      if (two.empty() || !send_all(fd, two.substr(64) + two.substr(0, 64))) return;
    }
  });
  const Run run = run_load("echo --connections 1 --depth 2 --messages 100 " + server.where() + soon);
  check_found(run, "wrong byte: connection 0, message 1 (64 bytes), byte 0 of 64: ");
  check_found(run, "these bytes belong to message 2 of the same connection");
}

TEST_CASE("lost bytes, repeated bytes, and a neighbour's bytes are told apart") {
  const StandIn loses(echo_but([](const std::string& message, unsigned number, unsigned) {
    return number == 3 ? message.substr(8) + message.substr(0, 8) : message;
  }));
  check_found(run_load("echo --connections 1 --messages 100 " + loses.where() + soon),
              "these bytes belong 8 bytes later: some are missing");
  const StandIn repeats(echo_but([](const std::string& message, unsigned number, unsigned) {
    return number == 3 ? message.substr(0, 32) + message.substr(0, 32) : message;
  }));
  check_found(run_load("echo --connections 1 --messages 100 " + repeats.where() + soon),
              "these bytes belong 32 bytes earlier: some came twice");

  static std::atomic<bool> first_is_here;
  static std::string of_the_first;
  const StandIn mixes_up(echo_but([](const std::string& message, unsigned, unsigned connection) {
    if (connection == 0) {
      of_the_first = message;
      first_is_here = true;
      return message;
    }
    while (!first_is_here) std::this_thread::sleep_for(1ms);
    return of_the_first;
  }));
  check_found(run_load("echo --connections 2 --messages 100 " + mixes_up.where() + soon),
              "these bytes belong to message 0 of connection 0");
}

TEST_CASE("bytes that nobody asked for, at once or after our FIN") {
  const StandIn adds(echo_but([](const std::string& message, unsigned number, unsigned) {
    return number == 5 ? message + "x" : message;
  }));
  check_found(run_load("echo --connections 1 --messages 100 " + adds.where() + soon),
              "trailing bytes: connection 0, message 6 (64 bytes) was not asked for, or not yet, and 1 byte "
              "came: 'x'");
  const StandIn says_goodbye([](int fd, unsigned number) {
    echo(fd, number);
    send_all(fd, "bye");
  });
  check_found(run_load("echo --connections 1 --messages 5 " + says_goodbye.where() + soon),
              "and 3 bytes came: 'bye'");
}

TEST_CASE("a file server's wrong answers: status, length, contents, range") {
  struct Wrong {
    const char* what;
    std::string (*answer)(const Asked& asked);
    const char* arguments;
    const char* found;
  };
  const Wrong wrongs[] = {
      {"not found", [](const Asked&) { return std::string("ERR 404 no such file\n"); }, "",
       "wrong status: connection 0, message 3 (GET made.4K.0): expected 'OK 4096', got 'ERR 404 no such "
       "file'"},
      {"a shorter file", [](const Asked& asked) { return "OK 4000\n" + content_of(asked).substr(96); }, "",
       "wrong length: connection 0, message 3 (GET made.4K.0): expected 'OK 4096', got 'OK 4000'"},
      {"fewer bytes than promised",
       [](const Asked& asked) { return "OK 4096\n" + content_of(asked).substr(96); }, "",
       "these bytes belong 96 bytes later: some are missing"},
      {"the end missing",
       [](const Asked& asked) { return "OK 4096\n" + content_of(asked).substr(0, 4000) + "OK 4096\n"; }, "",
       "byte 4000 of 4096: expected 0x"},
      {"the end missing, the next answer behind it",
       [](const Asked& asked) { return "OK 4096\n" + content_of(asked).substr(0, 4000) + "OK 4096\n"; }, "",
       "these bytes are the head of an answer: this one was too short"},
      {"another file's contents",
       [](const Asked& asked) {
         Asked other = asked;
         other.path = "made.4K.1";
         return right(other, 0);
       },
       "", "these bytes belong to message "},
      {"a range from one byte later",
       [](const Asked& asked) {
         Asked other = asked;
         ++other.offset;
         return head_of(asked) + content_of(other);
       },
       "--random-ranges 512", "these bytes belong 1 bytes later: some are missing"},
      {"HTTP: status",
       [](const Asked&) { return std::string("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"); },
       "--http",
       "wrong status: connection 0, message 3 (GET made.4K.0): expected 'HTTP/1.1 200 ...', got 'HTTP/1.1 "
       "404 Not Found'"},
      {"HTTP: length",
       [](const Asked&) { return std::string("HTTP/1.1 200 OK\r\nContent-Length: 4095\r\n\r\n"); }, "--http",
       "expected 'Content-Length: 4096', got 'Content-Length: 4095'"},
      {"HTTP: the whole file for a range",
       [](const Asked& asked) {
         Asked other = asked;
         other.range = false;
         return right(other, 0);
       },
       "--http --random-ranges 512", "expected 'HTTP/1.1 206 ...', got 'HTTP/1.1 200 OK'"},
      {"no HTTP at all", [](const Asked&) { return std::string("SSH-2.0-OpenSSH\r\n"); }, "--http",
       "expected 'HTTP/1.1 200 OK', got 'SSH-2.0-OpenSSH\\x0d'"},
  };
  for (const Wrong& wrong : wrongs) {
    CAPTURE(wrong.what);
    const StandIn server(files_but([&](const Asked& asked, unsigned number) {
      return number == 3 ? wrong.answer(asked) : right(asked, number);
    }));
    const bool ranges = contains(wrong.arguments, "ranges");
    const tests::TemporaryFolder folder;
    folder.write("list", "made.4K.0\nmade.4K.1\nmade.4K.0\n");
    const std::string files = ranges || contains(wrong.arguments, "http") || !contains(wrong.what, "another")
                                  ? " --path made.4K.0 "
                                  : " --depth 3 --paths " + (folder.path() / "list").string() + " ";
    check_found(
        run_load("file --connections 1 --messages 50 " + server.where() + soon + files + wrong.arguments),
        wrong.found);
  }
}

// ---- Connections that fail -------------------------------------------------------------------------------------

TEST_CASE("a port where nobody listens") {
  std::string port;
  {
    const StandIn gone(echo);
    port = gone.port();
  }
  check_found(run_load("echo --port " + port), "1 refused), so there is no rate. The first: connection 0");
  const tests::TemporaryFolder folder;
  check_found(run_load("echo --unix " + (folder.path() / "none").string()), "refused), so there is no rate");
}

TEST_CASE("a server that closes too early, with or without a reset") {
  const StandIn closes([](int fd, unsigned number) {
    for (int i = 0; i < 5; ++i) {
      if (!send_all(fd, receive_exactly(fd, 64))) return;
    }
    if (number == 1) send_all(fd, receive_exactly(fd, 64).substr(0, 40));
    if (number != 1) echo(fd, number);
  });
  const Run run = run_load("echo --connections 3 --messages 200 " + closes.where() + soon);
  check_found(run,
              "1 connection failed (1 closed), so there is no rate. The first: connection 1 (127.0.0.1:");
  check_found(run,
              "closed by the server before it had answered; message 5 (64 bytes): 40 of 64 bytes had come");

  const StandIn resets([](int fd, unsigned) {
    send_all(fd, receive_exactly(fd, 64));
    receive_exactly(fd, 64);
    reset(fd);
  });
  check_found(run_load("echo --connections 2 --messages 200 " + resets.where() + soon),
              "2 connections failed (2 reset)");
  const StandIn refuses([](int fd, unsigned) { reset(fd); });
  check_found(run_load("echo --connections 2 " + refuses.where() + soon), "so there is no rate");
}

TEST_CASE("a server that falls silent in the middle of an answer is given up after the time-out") {
  const StandIn silent([](int fd, unsigned) {
    send_all(fd, receive_exactly(fd, 64));
    send_all(fd, receive_exactly(fd, 64).substr(0, 40));
    std::this_thread::sleep_for(1h);
  });
  const Run run = run_load("echo --json --connections 2 --messages 100 --timeout 0.3 " + silent.where());
  check_found(run, "2 connections failed (2 timed out), so there is no rate");
  check_found(run, "nothing came or went for 300 ms; message 1 (64 bytes): 40 of 64 bytes had come");
  CHECK(number_of(run.out, "timed_out") == 2);
  CHECK(contains(run.out, "\"per_second\": null"));
}

// ---- Time ------------------------------------------------------------------------------------------------------

TEST_CASE(
    "a server that stalls once for 200 ms: an open loop sees how many that would have hit, a closed loop "
    "does not") {
  const auto stalls_at = [](unsigned at) {
    return echo_but([at](const std::string& message, unsigned number, unsigned) {
      if (number == at) std::this_thread::sleep_for(200ms);
      return message;
    });
  };
  const StandIn for_open(stalls_at(100)), for_closed(stalls_at(100));
  const std::string shape = "echo --json --connections 1 ";
  // 500 messages, one every 2 ms: the stall makes a hundred of them late, the first by 200 ms and the last by
  // 2 ms.
  const Run open = run_load(shape + "--rate 500 --seconds 1 " + for_open.where() + soon);
  CAPTURE(open.out);
  CHECK(open.status == 0);
  CHECK(number_of(open.out, "count", "latency_us") == 500);
  CHECK(number_of(open.out, "p90", "latency_us") > 50e3);
  CHECK(number_of(open.out, "p99", "latency_us") > 150e3);
  CHECK(number_of(open.out, "max", "latency_us") >= 200e3);
  const Run closed = run_load(shape + "--messages 500 " + for_closed.where() + soon);
  CAPTURE(closed.out);
  CHECK(number_of(closed.out, "max", "latency_us") >= 200e3);
  CHECK(number_of(closed.out, "p99", "latency_us") < 150e3);
}

TEST_CASE("more is asked for than the server can do: what could not be sent counts with what it waited") {
  const StandIn slow(echo_but([](const std::string& message, unsigned, unsigned) {
    std::this_thread::sleep_for(20ms);
    return message;
  }));
  const Run run = run_load("echo --json --connections 1 --rate 500 --seconds 0.4 " + slow.where() + soon);
  CAPTURE(run.out);
  CHECK(run.status == 0);
  CHECK(number_of(run.out, "count", "latency_us") == 200);
  CHECK(number_of(run.out, "unsent") > 50);
  CHECK(number_of(run.out, "max", "latency_us") > 1e6);
}

TEST_CASE("a generator that was stopped for a while says that it was late itself") {
  const StandIn server(echo);
  const tests::ShellResult result =
      tests::shell(load_program + "echo --json --connections 4 --rate 1000 --seconds 1.5 " + server.where() +
                   soon + "& pid=$!; sleep 0.5; kill -STOP $pid; sleep 0.3; kill -CONT $pid; wait $pid");
  CAPTURE(result.output);
  CHECK(result.status == 0);
  CHECK(contains(result.output, "\"late\": true"));
  CHECK(number_of(result.output, "max", "lag_us") > 200e3);
  CHECK(number_of(result.output, "max", "latency_us") > 200e3);
}

TEST_CASE("the server's CPU time and context switches, in the window") {
  const StandIn server(echo);
  const Run run = run_load("echo --json --connections 4 --seconds 0.3 --server-pid " + server.pid() + " " +
                           server.where() + soon);
  CAPTURE(run.out);
  CHECK(run.status == 0);
  CHECK(number_of(run.out, "cpu_seconds", "\"server\"") > 0);
  CHECK(number_of(run.out, "cpu_seconds", "\"generator\"") > 0);
  CHECK(number_of(run.out, "context_switches", "\"server\"") > 0);
  CHECK(
      number_of(run.out, "server_cpu_us_per_message") ==
      doctest::Approx(number_of(run.out, "cpu_seconds", "\"server\"") * 1e6 / number_of(run.out, "verified"))
          .epsilon(0.001));
  CHECK(run_load("echo --server-pid 999999999 " + server.where()).status == 2);
}

TEST_CASE("two servers in turns, A B B A, and the ratios with their direction in words") {
  const StandIn first(echo), second(echo);
  const std::string arguments = "echo --connections 2 --seconds 0.1 --blocks 3 --against " + second.port() +
                                " --server-pid " + first.pid() + " --against-pid " + second.pid() + " " +
                                first.where() + soon;
  const Run text = run_load(arguments);
  CAPTURE(text.out);
  CHECK(text.status == 0);
  CHECK(contains(text.out, "ratios, above 1: A (127.0.0.1:" + first.port() + ") is better"));
  for (const char* const figure :
       {"server CPU a message", "echo messages/s", "echo latency p50", "echo latency p99"}) {
    CHECK(contains(text.out, figure));
  }
  const Run json = run_load(arguments + "--json");
  CHECK(json.status == 0);
  CHECK(number_of(json.out, "low", "echo_rate") <= number_of(json.out, "median", "echo_rate"));
  CHECK(number_of(json.out, "median", "echo_rate") <= number_of(json.out, "high", "echo_rate"));
  CHECK(number_of(json.out, "median", "server_cpu") > 0);
}

// ---- Words -----------------------------------------------------------------------------------------------------

TEST_CASE("every JSON text is JSON") {
  SKIP_UNLESS(tests::shell("command -v python3").status == 0, "python3 is missing");
  const StandIn good(echo),
      bad(echo_but([](const std::string&, unsigned, unsigned) { return std::string("\"\\\n\t\x01..."); }));
  const std::string parse =
      " 2>/dev/null | python3 -c 'import json, sys; print(sorted(json.load(sys.stdin)))'";
  for (const std::string& arguments :
       {"--messages 20 " + good.where(), "--messages 20 " + bad.where(), std::string("--port 1"),
        "--seconds 0.1 --blocks 3 --against " + good.port() + " " + good.where()}) {
    CAPTURE(arguments);
    const tests::ShellResult result =
        tests::shell(load_program + "echo --json --connections 2 --warmup 0 " + arguments + parse);
    CHECK(result.status == 0);
    CHECK(contains(result.output, "'mode', 'ok'"));
  }
}

TEST_CASE("what cannot be meant is refused in a sentence, exit code 2") {
  struct Case {
    const char* arguments;
    const char* sentence;
  };
  const Case cases[] = {
      {"", "the first word says what to do"},
      {"dance", "the first word says what to do"},
      {"echo", "--port PORT or --unix PATH is needed"},
      {"echo --port 1 --unix x", "--port PORT or --unix PATH is needed, one of them"},
      {"echo --port 1 --host 10.1.2.3", "10.1.2.3 is not a loopback address. This is a load generator"},
      {"echo --port 1 --host ::2", "::2 is not a loopback address"},
      {"echo --port 1 --host localhost", "an address is needed"},
      {"echo --port 1 --path x", "unknown option --path"},
      {"echo --port 1 --seconds x", "--seconds x: a number of seconds is needed"},
      {"echo --port 1 --seconds 0", "--seconds must be above 0"},
      {"echo --port 1 --connections 500000 --depth 65536", "messages under way at once"},
      {"echo --port 1 --against-pid 1", "--against-pid belongs to --against"},
      {"echo --port 1 --against 2 --server-pid 1", "--server-pid and --against-pid go together"},
      {"echo --port 1 --against x", "--against x: a port"},
      {"file --port 1", "--paths FILE or --path PATH is needed"},
      {"file --port 1 --path index.html", "how would the bytes of index.html be verified?"},
      {"file --port 1 --path 'a b' --checksum '1 2'", "a path with white space"},
      {"file --port 1 --path a --checksum '1'", "is not a checksum and a size"},
      {"file --port 1 --path a --checksum '1 8192' --random-ranges 4096",
       "a checksum says nothing about a range"},
      {"file --port 1 --path made.4K.0 --random-ranges 8K", "smaller than one block"},
      {"file --port 1 --paths /nonexistent/list", "cannot read the list of paths"},
      {"make-files", "make-files needs one folder"},
      {"make-files x --sizes 4K,huge", "'huge' is no size"},
  };
  for (const Case& one : cases) {
    CAPTURE(one.arguments);
    const Run run = run_load(one.arguments);
    CAPTURE(run.err);
    CHECK(run.status == 2);
    CHECK(contains(run.err, one.sentence));
    CHECK(run.out == "");
  }
  for (const char* const mode : {"", "echo ", "file ", "mixed ", "churn ", "make-files "}) {
    const Run run = run_load(std::string(mode) + "--help");
    CHECK(run.status == 0);
    CHECK(contains(run.out, "usage: load"));
  }
}

TEST_CASE("make-files writes what their names say, keeps what is there, and prints the list") {
  const tests::TemporaryFolder folder;
  const std::string where = (folder.path() / "new").string();
  const std::string arguments = "make-files " + where + " --sizes 1000,4K --count 2 --big 3M";
  const Run first = run_load(arguments);
  CHECK(first.status == 0);
  CHECK(first.out == "made.1000.0\nmade.1000.1\nmade.4K.0\nmade.4K.1\n");
  CHECK(first.err == "for random ranges: --path made.3M.0\n5 files written, 0 were there\n");
  for (const char* const name : {"made.1000.0", "made.1000.1", "made.4K.0", "made.4K.1", "made.3M.0"}) {
    CAPTURE(name);
    std::ifstream stream(where + "/" + name, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(stream), {}};
    CHECK(content.size() == load::made_size(name));
    CHECK(common::verify_content(std::as_bytes(std::span(content)), common::content_seed(name), 0) ==
          content.size());
  }
  std::filesystem::resize_file(where + "/made.4K.1", 100);  // as if it had been interrupted
  CHECK(run_load(arguments).err == "for random ranges: --path made.3M.0\n1 files written, 4 were there\n");
  CHECK(run_load("make-files /proc/nowhere").status == 1);
}

// What the tests of the echo servers share: every variant that must behave alike, bytes that follow from a seed and
// their place in the stream, and a round trip.
//
//   ECHO_SERVER_TEST("one byte comes back", ALL_ECHO_SERVERS) {
//     EchoServer server(variant);
//     tests::Client client(server.where());
//     CHECK(echoes(client, stream(1, 0, 1)));
//     server.check_clean_end(client);
//   }
//
// defines one test case for each variant, named after it. There is no second truth about what is right: what the
// io_uring server must do, its twin must do.

#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "servers/common/file_content.hpp"
#include "servers/common_ring/slots_let_go.hpp"
#include "tests/support/client.hpp"
#include "tests/support/server_process.hpp"
#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace echo_server_test {

// ---- The variants --------------------------------------------------------------------------------------------

struct Variant {
  const char* program;
  const char* arguments;
  bool uses_io_uring = true;
  bool has_group = true;     // of provided buffers
  bool wants_slots = false;  // for its connections

  /// Its connections are in a table of the ring, whose size is fixed at the start.
  bool has_slots() const { return wants_slots && common_ring::slots_let_go(); }
};

struct Epoll {
  static constexpr Variant variant{
      .program = "epoll_echo_server", .arguments = "", .uses_io_uring = false, .has_group = false};
};
struct M3 {
  static constexpr Variant variant{.program = "m3_echo_server", .arguments = ""};
};
struct M3Each {
  static constexpr Variant variant{.program = "m3_echo_server",
                                   .arguments = "--submit each --taskrun default --recv single",
                                   .has_group = false};
};
struct M3Single {
  static constexpr Variant variant{
      .program = "m3_echo_server", .arguments = "--recv single", .has_group = false};
};
struct M3Direct {
  static constexpr Variant variant{
      .program = "m3_echo_server", .arguments = "--files direct", .wants_slots = true};
};
struct M3On515 {
  static constexpr Variant variant{
      .program = "m3_echo_server", .arguments = "--pretend-kernel 5.15", .has_group = false};
};
struct M3On60 {
  static constexpr Variant variant{.program = "m3_echo_server", .arguments = "--pretend-kernel 6.0"};
};
struct M3Sqpoll {
  static constexpr Variant variant{.program = "m3_echo_server_sqpoll", .arguments = ""};
};

/// For a test that runs all of them side by side, because it waits for something.
inline constexpr Variant all_variants[] = {Epoll::variant,    M3::variant,       M3Each::variant,
                                           M3Single::variant, M3Direct::variant, M3On515::variant,
                                           M3On60::variant,   M3Sqpoll::variant};

/// How many provided buffers m3_echo_server has.
inline constexpr std::uint64_t buffers_of_group = 1024;

}  // namespace echo_server_test

TYPE_TO_STRING_AS("epoll", echo_server_test::Epoll);
TYPE_TO_STRING_AS("m3", echo_server_test::M3);
TYPE_TO_STRING_AS("m3 each", echo_server_test::M3Each);
TYPE_TO_STRING_AS("m3 single", echo_server_test::M3Single);
TYPE_TO_STRING_AS("m3 direct", echo_server_test::M3Direct);
TYPE_TO_STRING_AS("m3 on 5.15", echo_server_test::M3On515);
TYPE_TO_STRING_AS("m3 on 6.0", echo_server_test::M3On60);
TYPE_TO_STRING_AS("m3 sqpoll", echo_server_test::M3Sqpoll);

// For each variant: a struct, an entry in all_variants, a line above, and a word here.
#define ALL_ECHO_SERVERS                                                                               \
  echo_server_test::Epoll, echo_server_test::M3, echo_server_test::M3Each, echo_server_test::M3Single, \
      echo_server_test::M3Direct, echo_server_test::M3On515, echo_server_test::M3On60,                 \
      echo_server_test::M3Sqpoll

#define ECHO_SERVER_TEST(title, ...) \
  ECHO_SERVER_TEST_AS(DOCTEST_ANONYMOUS(echo_server_test_body_), title, __VA_ARGS__)
#define ECHO_SERVER_TEST_AS(body, title, ...)                             \
  static void body(const echo_server_test::Variant& variant);             \
  TEST_CASE_TEMPLATE(title, Server, __VA_ARGS__) {                        \
    if constexpr (Server::variant.uses_io_uring) SKIP_WITHOUT_IO_URING(); \
    body(Server::variant);                                                \
  }                                                                       \
  static void body([[maybe_unused]] const echo_server_test::Variant& variant)

namespace echo_server_test {

inline std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// ---- Bytes ---------------------------------------------------------------------------------------------------

/// A part of the endless stream of this seed.
inline std::string stream(std::uint64_t seed, std::uint64_t offset, std::size_t length) {
  std::string bytes(length, '\0');
  common::fill_content(std::as_writable_bytes(std::span(bytes)), seed, offset);
  return bytes;
}

/// Compares without printing megabytes.
inline bool is_stream(std::string_view bytes, std::uint64_t seed, std::uint64_t offset = 0) {
  return common::verify_content(std::as_bytes(std::span(bytes)), seed, offset) == bytes.size();
}

/// Sends it all and receives it all, both at the same time: a server need not hold what is not read.
inline bool echoes(tests::Client& client, std::string_view bytes = "hello") {
  std::thread sender;
  if (bytes.size() > (16 << 10)) {
    sender = std::thread([&] { client.send_all(bytes); });
  } else {
    client.send_all(bytes);
  }
  const bool same = client.receive_exactly(bytes.size()) == bytes;
  if (sender.joinable()) sender.join();
  return same;
}

// ---- The table that SIGUSR1 prints -----------------------------------------------------------------------------

/// The fields of each connection's line in the table that SIGUSR1 has made: the lines that begin with a number. Not the
/// last line while it is being written.
inline std::vector<std::vector<std::string>> table_of(const std::string& text) {
  std::vector<std::vector<std::string>> table;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line) && !stream.eof();) {
    const std::vector<std::string> words = words_of(line);
    if (line.starts_with(" ") && !words.empty() &&
        words.front().find_first_not_of("0123456789") == std::string::npos) {
      table.push_back(words);
    }
  }
  return table;
}

/// Queued bytes: behind them stands how long the connection was idle.
inline std::uint64_t queued_in(const std::vector<std::string>& line) {
  return std::stoull(line.at(line.size() - 2));
}

// ---- Servers -------------------------------------------------------------------------------------------------

inline std::string program_of(const Variant& variant) { return std::string(BUILD_DIR "/") + variant.program; }

/// The binary without sanitizers: in the other one freed memory stays.
inline std::string release_program_of(const Variant& variant) {
  return std::string(BUILD_DIR "/../") + variant.program;
}

/// A server of a variant, with `more` arguments.
class EchoServer : public tests::ServerProcess {
 public:
  explicit EchoServer(const Variant& variant, const std::string& more = "", const tests::Rights& rights = {})
      : EchoServer(variant, program_of(variant), more, rights) {}
  EchoServer(const Variant& variant, const std::string& program, const std::string& more,
             const tests::Rights& rights)
      : ServerProcess(program, words_of(std::string(variant.arguments) + " " + more), rights) {}

  /// It does nothing until go_on(): what happens meanwhile, it finds all at once.
  void stand_still() const {
    signal(SIGSTOP);
    const std::string stat = "/proc/" + std::to_string(pid()) + "/stat";
    CHECK(tests::eventually([&] {
      std::ifstream file(stat);
      std::string text;
      return std::getline(file, text) && contains(text, ") T ");
    }));
  }
  void go_on() const { signal(SIGCONT); }

  /// Sooner or later it does nothing. (Not at once: an SQPOLL thread looks for work for another second, and its time is
  /// the server's.)
  bool comes_to_rest() const {
    return tests::eventually([&] {
      const double before = cpu_seconds();
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      return cpu_seconds() - before < 0.1;
    });
  }

  /// The clients leave, then SIGTERM, unless it has ended already: exit code 0, nothing leaked, the last line as it
  /// must be.
  template <class... Clients>
  tests::Ended check_clean_end(Clients&... clients) {
    (clients.close(), ...);
    tests::Ended ended = stop();
    CAPTURE(ended.errors);
    CAPTURE(ended.last_line);
    CHECK(ended.status == 0);
    CHECK(ended.has_counters);
    CHECK(ended.counters.leaks == 0);
    return ended;
  }
};

/// A new client is served: the server lives.
inline bool serves(const tests::ServerProcess& server) {
  tests::Client client(server.where());
  return echoes(client);
}

/// The receive buffer of a client that reads slowly: with it, a server soon has more than it can send. Not smaller than
/// a segment on loopback (64 KiB), or the kernel's way of avoiding silly windows makes every read wait.
inline constexpr int small_window = 64 << 10;

/// A client that has sent more than its server can send back, and reads nothing.
class Stalled {
 public:
  static constexpr std::size_t wanted = 16 << 20;

  /// `most`: what it sends at most. Less than `wanted` may fit between the two sockets.
  Stalled(const tests::ServerProcess& server, std::uint64_t seed, std::size_t most = wanted)
      : client_(server.where(), small_window), seed_(seed) {
    // In pieces, until the server does not receive any more.
    for (bool full = false; !full && sent_ < most;) {
      const std::string piece = stream(seed, sent_, 1 << 20);
      const std::size_t sent = client_.send_what_fits(piece, std::chrono::milliseconds(30));
      sent_ += sent;
      full = sent < piece.size();
    }
  }

  tests::Client& client() noexcept { return client_; }
  std::size_t sent() const noexcept { return sent_; }

  /// Everything comes back now.
  bool catch_up() {
    client_.limit_receive_buffer(1 << 20);
    const std::string bytes = client_.receive_exactly(sent_);
    return bytes.size() == sent_ && is_stream(bytes, seed_);
  }
  /// What comes until the end is right, be it all or a part.
  bool ends_well(tests::End end) {
    const std::string bytes = client_.receive_to_end();
    const bool all = end != tests::End::fin || bytes.size() == sent_;
    return client_.end() == end && all && is_stream(bytes, seed_);
  }

 private:
  tests::Client client_;
  std::uint64_t seed_;
  std::size_t sent_ = 0;
};

}  // namespace echo_server_test

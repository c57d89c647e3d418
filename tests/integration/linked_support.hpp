// What the tests of m4_linked share: its three ways to do a chain, which must not differ in what a client sees, and
// the file that it serves.

#pragma once

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <thread>

#include "tests/integration/echo_server_support.hpp"

namespace linked_test {

using echo_server_test::contains;
using echo_server_test::is_stream;
using echo_server_test::stream;
using echo_server_test::words_of;

inline constexpr const char* program = BUILD_DIR "/m4_linked";

/// Linked, linked and silent, driven.
inline constexpr const char* all_ways[] = {"", "--skip-success", "--chain driven"};

class Server : public tests::ServerProcess {
 public:
  explicit Server(const std::string& arguments, const tests::Rights& rights = {})
      : ServerProcess(program, words_of(arguments), rights) {}

  /// SIGTERM, unless it has ended already: exit code 0, nothing leaked, the last line as it must be.
  tests::Ended check_clean_end() {
    tests::Ended ended = stop();
    CAPTURE(ended.errors);
    CAPTURE(ended.last_line);
    CHECK(ended.status == 0);
    CHECK(ended.has_counters);
    CHECK(ended.counters.leaks == 0);
    return ended;
  }
};

/// One message of so many bytes, the same back, and then the server's FIN.
inline bool answers(tests::Client& client, std::string_view bytes) {
  return echo_server_test::echoes(client, bytes) && client.receive_to_end().empty() &&
         client.end() == tests::End::fin;
}

inline bool serves(const Server& server, std::string_view message = "hello") {
  tests::Client client(server.where());
  return answers(client, message);
}

}  // namespace linked_test

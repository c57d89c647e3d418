// The conformance suite against servers that are wrong in one way each (tests/conformance/broken_server.cpp): the check
// that is meant for a mistake must catch it and say what it saw; a server without a mistake must pass all of them.

#include <doctest/doctest.h>

#include <string>

#include "tests/support/server_process.hpp"
#include "tests/support/shell.hpp"

namespace {

tests::ShellResult run_conformance(const std::string& arguments) {
  return tests::shell(BUILD_DIR "/conformance " + arguments);
}

tests::ShellResult check_server(const tests::ServerProcess& server, const std::string& arguments) {
  const std::string pid = std::to_string(server.pid());
  return run_conformance("127.0.0.1 " + server.port() + " --pid " + pid + " " + arguments);
}

// The row of a check, without what stands before its name; empty if there is none.
std::string row_of(const std::string& output, const std::string& check) {
  const std::size_t begin = output.find("\n  " + check + " ");
  if (begin == std::string::npos) return "";
  return output.substr(begin + 3, output.find('\n', begin + 1) - begin - 3);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

struct Mistake {
  const char* name;
  const char* checks;    // what runs, the last of which
  const char* catches;   // must fail
  const char* sentence;  // and say this
};

constexpr Mistake mistakes[] = {
    {"reorders", "slow-readers", "slow-readers", "others are lost or late"},
    {"loses", "slow-readers", "slow-readers", "wrong bytes: its own byte"},
    {"repeats", "slow-readers", "slow-readers", "again or late"},
    {"swaps", "talkers", "talkers", "of connection"},
    {"cuts", "half-close", "half-close", " and a FIN"},
    {"lingers", "half-close --limit 3", "half-close", "the time limit of 3 s is over"},
    {"hoards", "flooders", "flooders", "no bound"},
    {"blocks", "slow-readers", "slow-readers", "a quiet client waited"},
    {"leaks", "storms,descriptors", "descriptors", "at the start"},
    {"dies", "resets", "resets", "connection"},
    {"selects", "crowd", "crowd", "connection"},
    {"tires", "crowd", "crowd", "nobody had asked for that"},
    {"stops", "sizes --limit 3", "sizes", "the time limit of 3 s is over"},
};

}  // namespace

TEST_CASE("conformance: each mistake of an echo server is caught by the check that is meant for it") {
  for (const Mistake& mistake : mistakes) {
    CAPTURE(mistake.name);
    const tests::ServerProcess server(BUILD_DIR "/broken_echo_server", {mistake.name});
    const tests::ShellResult result = check_server(server, std::string("--only ") + mistake.checks);
    CAPTURE(result.output);
    CHECK(result.status == 1);
    const std::string row = row_of(result.output, mistake.catches);
    CHECK(contains(row, " FAILED "));
    CHECK(contains(row, mistake.sentence));
  }
}

TEST_CASE("conformance: a server without a mistake passes every check") {
  tests::ServerProcess server(BUILD_DIR "/broken_echo_server", {"right"});
  const tests::ShellResult result = check_server(server, "--connections 1100 --seed 7");
  CAPTURE(result.output);
  CHECK(result.status == 0);
  CHECK(contains(result.output, "conformance: 12 ok, 0 FAILED, 0 skipped"));
  CHECK(contains(result.output, "memory of the server: "));
  CHECK(server.runs());
}

TEST_CASE("conformance: a server that is not there fails every check, and quickly") {
  std::string port;
  {
    const tests::ServerProcess server(BUILD_DIR "/broken_echo_server", {"right"});
    port = server.port();
  }
  const tests::ShellResult result = run_conformance("127.0.0.1 " + port);
  CAPTURE(result.output);
  CHECK(result.status == 1);
  CHECK(contains(row_of(result.output, "hello"), "ECONNREFUSED"));
  CHECK(contains(result.output, "0 ok, 11 FAILED, 1 skipped"));
}

TEST_CASE("conformance: what cannot be checked here is skipped with the reason") {
  const tests::ServerProcess server(BUILD_DIR "/broken_echo_server", {"right"});
  const tests::ShellResult result = tests::shell("ulimit -n 200; " BUILD_DIR "/conformance 127.0.0.1 " +
                                                 server.port() + " --only crowd,descriptors");
  CAPTURE(result.output);
  CHECK(result.status == 0);
  CHECK(contains(row_of(result.output, "crowd"), "skipped"));
  CHECK(contains(row_of(result.output, "crowd"), "may have 200 descriptors"));
  CHECK(contains(row_of(result.output, "descriptors"), "--pid"));
}

TEST_CASE("conformance: a command line that makes no sense is exit code 2") {
  for (const char* arguments :
       {"", "127.0.0.1", "127.0.0.1 0", "127.0.0.1 99999", "127.0.0.1 7x", "--unix /tmp/socket 127.0.0.1 7",
        "192.0.2.1 7", "127.0.0.1 7 --only nothing"}) {
    CAPTURE(arguments);
    CHECK(run_conformance(arguments).status == 2);
  }
  CHECK(run_conformance("--help").status == 0);
}

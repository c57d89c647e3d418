// Does an echo server echo? Asked from outside, of any server that sends back what it gets, over TCP or a
// Unix-domain socket. The answer is a table: a row for each check, ok, FAILED or skipped, and what was seen.
//
//   crowd.hpp      clients that know every byte that must come back, and whose a wrong one is
//   checks.hpp     the checks, each a function that can be read like a story
//   process.hpp    the server's descriptors and memory, with --pid
//
// Exit code: 0 nothing failed; 1 something did; 2 usage.

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "servers/common/options.hpp"
#include "servers/common/start_error.hpp"
#include "tests/conformance/checks.hpp"

namespace {

using namespace conformance;

[[noreturn]] void refuse(const std::string& sentence) {
  throw common::StartError(common::exit_usage, sentence);
}

std::uint16_t port_from(const std::string& word) {
  char* end = nullptr;
  const unsigned long port = std::strtoul(word.c_str(), &end, 10);
  if (*end != '\0' || port == 0 || port > 65535) refuse(word + " is no port");
  return static_cast<std::uint16_t>(port);
}

// False: --help was asked for.
bool parse(int argc, char** argv, Suite& suite, std::string& only) {
  std::string unix_path;
  bool allow_remote = false;
  const std::vector<common::Option> table = {
      common::text("--unix", "PATH", unix_path, "a Unix-domain socket, instead of HOST PORT"),
      common::number("--pid", "P", suite.pid, 1, 1U << 30, "the server: watch its descriptors and memory"),
      common::number("--connections", "N", suite.connections, 1, 1'000'000, "how many at once"),
      common::number("--limit", "SECONDS", suite.limit, 1, 3600, "a check that takes longer has failed"),
      common::number("--seed", "N", suite.seed, 0, UINT32_MAX, "of all that is random"),
      common::text("--only", "CHECK,...", only, "these checks and no others"),
      common::flag("--allow-remote", allow_remote, "HOST is another machine, and yours"),
  };
  std::vector<std::string> where;
  const common::Program about{"conformance", "Checks an echo server from outside.", "HOST PORT"};
  if (!common::parse_options({argv + 1, argv + argc}, about, table, &where)) return false;
  if (where.size() != (unix_path.empty() ? 2U : 0U)) refuse("either HOST PORT or --unix PATH; see --help");
  suite.target = unix_path.empty() ? load::tcp_target(where[0], port_from(where[1]), allow_remote)
                                   : load::unix_target(unix_path);
  return true;
}

// One row. Returns the word of it.
std::string_view run(const Check& check, Suite& suite) {
  const auto began = Clock::now();
  const char* word = "ok";
  std::string sentence;
  try {
    sentence = check.run(suite);
  } catch (const Failed& failed) {
    word = "FAILED", sentence = failed.what();
  } catch (const Skipped& skipped) {
    word = "skipped", sentence = skipped.what();
  }
  std::printf("  %-13s %-7s %6.2f s  %s\n", check.name, word, seconds(Clock::now() - began),
              sentence.c_str());
  std::fflush(stdout);
  return word;
}

bool run_all(Suite& suite, const std::string& only) {
  std::printf("conformance of the echo server at %s\n", suite.target.name.c_str());
  suite.descriptors_at_start = descriptors_of(suite.pid);
  const double memory_at_start = memory_of(suite.pid, "VmRSS");
  const auto start = Clock::now();
  std::map<std::string_view, int> rows;
  for (const Check& check : checks) {
    if (only.empty() || ("," + only + ",").find("," + std::string(check.name) + ",") != std::string::npos) {
      ++rows[run(check, suite)];
    }
  }
  if (rows.empty()) refuse("--only " + only + ": there is no such check");
  if (memory_at_start > 0) {
    std::printf("memory of the server: %.1f MiB at the start, %.1f at its peak, %.1f at the end\n",
                memory_at_start, memory_of(suite.pid, "VmHWM"), memory_of(suite.pid, "VmRSS"));
  }
  std::printf("conformance: %d ok, %d FAILED, %d skipped, %.1f s\n", rows["ok"], rows["FAILED"],
              rows["skipped"], seconds(Clock::now() - start));
  return rows["FAILED"] == 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Suite suite;
    std::string only;
    if (!parse(argc, argv, suite, only)) return common::exit_clean;
    return run_all(suite, only) ? common::exit_clean : common::exit_failed;
  } catch (const common::StartError& error) {
    std::fprintf(stderr, "conformance: %s\n", error.what());
    return error.exit_code();
  }
}

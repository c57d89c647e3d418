// What the orders compile to, checked in the listings that `make asm` prints: on x86-64 nothing, but for the
// one fence; on arm64 the instructions that acquire and release, in the functions that ask for them and in no
// other.

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/barriers/proofs.hpp"
#include "tests/support/skip.hpp"

namespace {

using Function = std::vector<std::string>;  // its instructions, operands included
using Listing = std::map<std::string, Function>;

bool has_listing(const std::string& architecture) {
  return std::filesystem::exists(barriers::built("asm_" + architecture + "_correct"));
}

Listing listing(const std::string& architecture, const std::string& mutant = "correct") {
  std::ifstream file(barriers::built("asm_" + architecture + "_" + mutant));
  Listing functions;
  std::string name;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("    ")) {
      functions[name].push_back(line.substr(4));
    } else if (line.ends_with(":") && !line.starts_with(".")) {
      name = line.substr(0, line.size() - 1);
    }
  }
  return functions;
}

/// How many instructions of the function have one of these mnemonics.
long count(const Function& function, const std::set<std::string>& mnemonics) {
  return std::count_if(function.begin(), function.end(), [&](const std::string& instruction) {
    return mnemonics.count(instruction.substr(0, instruction.find(' '))) != 0;
  });
}

const std::set<std::string> x86_orders{"mfence", "lfence", "sfence", "lock", "xchg"};
const std::set<std::string> arm64_barriers{"dmb", "dsb", "isb"};
const std::set<std::string> arm64_acquires{"ldar", "ldarh", "ldarb", "ldapr", "ldaprh", "ldapur", "ldaxr"};
const std::set<std::string> arm64_releases{"stlr", "stlrh", "stlrb", "stlur", "stlxr"};

constexpr const char* no_x86_64 = "no compiler for x86-64 here: make deps";
constexpr const char* no_arm64 = "no compiler for arm64 here: make deps (g++-aarch64-linux-gnu)";

/// The mutants that make an acquire or a release relaxed; the others weaken the fence.
std::vector<std::string> relaxed_mutants() {
  std::vector<std::string> names = barriers::mutants();
  std::erase_if(names, [](const std::string& name) { return !name.ends_with("_relaxed"); });
  return names;
}

}  // namespace

TEST_CASE("the listing shows every function of uring/indices.hpp, and the rings' own three in both modes") {
  const std::string architecture = has_listing("x86_64") ? "x86_64" : "arm64";
  SKIP_UNLESS(has_listing(architecture), "there is no listing for any machine");
  std::set<std::string> expected = barriers::functions_of_header();
  CHECK(expected.size() == 12);
  for (const std::string ring : {"ring", "sqpoll"}) {
    for (const std::string function : {"next_sqe", "submit", "harvest"})
      expected.insert(ring + "_" + function);
  }
  std::set<std::string> shown;
  for (const auto& [name, function] : listing(architecture)) {
    shown.insert(name);
    CHECK(!function.empty());
  }
  CHECK(shown == expected);
}

TEST_CASE(
    "x86-64: one full fence before NEED_WAKEUP is read, and no other fence, locked instruction or xchg") {
  SKIP_UNLESS(has_listing("x86_64"), no_x86_64);
  for (const auto& shown : listing("x86_64")) {
    const std::string& name = shown.first;
    CAPTURE(name);
    CHECK(count(shown.second, x86_orders) == (name == "needs_wakeup" || name == "sqpoll_submit" ? 1 : 0));
  }
}

TEST_CASE("arm64: one dmb before NEED_WAKEUP is read, and no other barrier") {
  SKIP_UNLESS(has_listing("arm64"), no_arm64);
  for (const auto& shown : listing("arm64")) {
    const std::string& name = shown.first;
    CAPTURE(name);
    CHECK(count(shown.second, arm64_barriers) == (name == "needs_wakeup" || name == "sqpoll_submit" ? 1 : 0));
    if (name == "needs_wakeup") CHECK(shown.second.front() == "dmb     ish");
  }
}

TEST_CASE("arm64: each release is one stlr, each acquire one ldar, and nothing else orders anything") {
  SKIP_UNLESS(has_listing("arm64"), no_arm64);
  const std::map<std::string, std::pair<long, long>> expected{{"publish_sq_tail", {1, 0}},
                                                              {"publish_cq_head", {1, 0}},
                                                              {"publish_buffer_tail", {1, 0}},
                                                              {"load_sq_head", {0, 1}},
                                                              {"load_cq_tail", {0, 1}}};
  const Listing functions = listing("arm64");
  for (const std::string& name : barriers::functions_of_header()) {
    CAPTURE(name);
    const auto found = expected.find(name);
    const auto [releases, acquires] = found != expected.end() ? found->second : std::pair{0L, 0L};
    CHECK(count(functions.at(name), arm64_releases) == releases);
    CHECK(count(functions.at(name), arm64_acquires) == acquires);
  }
}

TEST_CASE("arm64: next_sqe acquires at most once, submit and harvest release once, in both modes") {
  SKIP_UNLESS(has_listing("arm64"), no_arm64);
  Listing functions = listing("arm64");
  for (const std::string ring : {"ring", "sqpoll"}) {
    CAPTURE(ring);
    CHECK(count(functions[ring + "_next_sqe"], arm64_acquires) == 1);  // the refill; the way past it has none
    CHECK(count(functions[ring + "_next_sqe"], arm64_releases) == 0);
    CHECK(count(functions[ring + "_submit"], arm64_releases) == 1);
    CHECK(count(functions[ring + "_submit"], arm64_acquires) >= 1);
    CHECK(count(functions[ring + "_harvest"], arm64_releases) == 1);
    CHECK(count(functions[ring + "_harvest"], arm64_acquires) >= 1);
  }
}

TEST_CASE("x86-64 cannot show a relaxed order at run time: the instructions of indices.hpp are the same") {
  SKIP_UNLESS(has_listing("x86_64"), no_x86_64);
  const Listing correct = listing("x86_64");
  for (const std::string& mutant : relaxed_mutants()) {
    const Listing weakened = listing("x86_64", mutant);
    REQUIRE_MESSAGE(weakened.size() == correct.size(), "no listing of " << mutant);
    for (const std::string& name : barriers::functions_of_header()) {
      CAPTURE(mutant);
      CAPTURE(name);
      CHECK(weakened.at(name) == correct.at(name));
    }
  }
}

TEST_CASE("arm64: a relaxed order changes the one function that it belongs to") {
  SKIP_UNLESS(has_listing("arm64"), no_arm64);
  const Listing correct = listing("arm64");
  for (const std::string& mutant : relaxed_mutants()) {
    const Listing weakened = listing("arm64", mutant);
    REQUIRE_MESSAGE(weakened.size() == correct.size(), "no listing of " << mutant);
    std::vector<std::string> changed;
    for (const std::string& name : barriers::functions_of_header()) {
      if (weakened.at(name) != correct.at(name)) changed.push_back(name);
    }
    CAPTURE(mutant);
    REQUIRE(changed.size() == 1);
    const std::string word = mutant.substr(0, mutant.rfind('_'));
    CHECK(changed.front().ends_with("_" + word));
  }
}

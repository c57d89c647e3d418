// The ring layer's budget of instructions, held against what bench_instructions counts. Counts are exact, so there is no
// tolerance: the next instruction in a hot path fails here.

#include <doctest/doctest.h>

#include <sstream>
#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

constexpr int no_valgrind = 77;

/// Counted once for all test cases.
const tests::ShellResult& counted() {
  static const tests::ShellResult result = tests::shell(BUILD_DIR "/bench_instructions");
  return result;
}

/// The number behind `word` in the line that begins with `name`; -1 if there is none.
double number(const std::string& name, const std::string& word) {
  std::istringstream lines(counted().output);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(name + ' ', 0) != 0) continue;
    const std::size_t found = line.find(' ' + word + ' ');
    if (found != std::string::npos) return std::stod(line.substr(found + word.size() + 2));
  }
  return -1;
}

void check_at_most(const std::string& name, const std::string& word, double limit) {
  const double value = number(name, word);
  CAPTURE(name);
  CAPTURE(word);
  CHECK(value >= 0);
  CHECK(value <= limit);
}

bool built_by_gcc_12() { return counted().output.find("built by g++ 12.") != std::string::npos; }

}  // namespace

TEST_CASE(
    "a recv SQE costs 15 instructions in a batch and 18 by next_sqe, a CQE 8 and its handler, a submit 20") {
  SKIP_UNLESS(counted().status != no_valgrind, "valgrind is not installed");
  INFO(counted().output);
  REQUIRE(counted().status == 0);
  SKIP_UNLESS(built_by_gcc_12(), "the budget is stated for g++ 12");
  check_at_most("sqe batch", "ours", 15);
  check_at_most("sqe next_sqe", "ours", 18);
  check_at_most("cqe harvest", "ours", 8);
  check_at_most("submit", "ours", 20);
}

TEST_CASE("an SQE is written with nine stores, all 64 bytes once, and a batch loads nothing per SQE") {
  SKIP_UNLESS(counted().status != no_valgrind, "valgrind is not installed");
  INFO(counted().output);
  REQUIRE(counted().status == 0);
  SKIP_UNLESS(built_by_gcc_12(), "the budget is stated for g++ 12");
  check_at_most("sqe batch", "stores", 9.5);  // the half: opening and committing, shared by 32 SQEs
  check_at_most("sqe batch", "loads", 0.5);
  check_at_most("sqe next_sqe", "stores", 10.5);  // and the private tail
  check_at_most("sqe next_sqe", "loads", 4.5);    // private tail, limit, mask and address; nothing shared
}

TEST_CASE("the counts are exact: a second run prints the same table") {
  SKIP_UNLESS(counted().status != no_valgrind, "valgrind is not installed");
  const tests::ShellResult again = tests::shell(BUILD_DIR "/bench_instructions");
  CHECK(again.status == 0);
  CHECK(again.output == counted().output);
}

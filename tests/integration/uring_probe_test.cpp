// build/uring_probe as a reader runs it.

#include <doctest/doctest.h>

#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

const std::string program = std::string(BUILD_DIR) + "/uring_probe";

TEST_CASE(
    "uring_probe prints a table that says for each thing since when, whether it is here, and what happens "
    "without") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult result = tests::shell(program);
  CHECK(result.status == 0);
  CHECK(result.output.find("WITHOUT IT") != std::string::npos);
  CHECK(result.output.find("no SQ array") != std::string::npos);
  CHECK(result.output.find("multishot recv") != std::string::npos);
}

TEST_CASE("uring_probe --json is JSON, and agrees with the table's kernel") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("command -v python3").status == 0, "python3 is not installed");
  const tests::ShellResult result =
      tests::shell(program +
                   " --json | python3 -c 'import json,sys; d=json.load(sys.stdin); "
                   "print(d[\"opcodes\"][\"IORING_OP_NOP\"], "
                   "d[\"features\"][\"IORING_FEAT_EXT_ARG\"], len(d[\"setup_flags\"]))'");
  CHECK(result.status == 0);
  CHECK(result.output == "True True 21\n");
}

TEST_CASE("uring_probe refuses what it does not know with exit code 2") {
  CHECK(tests::shell(program + " --frobnicate").status == 2);
  CHECK(tests::shell(program + " --json --json").status == 2);
  CHECK(tests::shell(program + " --help").status == 0);
}

}  // namespace

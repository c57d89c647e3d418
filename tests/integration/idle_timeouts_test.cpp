// build/idle_timeouts, as `make bench-idle` runs it.

#include <doctest/doctest.h>

#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

TEST_CASE("idle_timeouts prints what a list and linked time-outs cost, and every linked one was stopped") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult result = tests::shell(BUILD_DIR "/../idle_timeouts 3");
  INFO(result.output);
  REQUIRE(result.status == 0);
  for (const char* const way : {"\nnone ", "\nlist ", "\nlinked "}) {
    CHECK(result.output.find(way) != std::string::npos);
  }
}

}  // namespace

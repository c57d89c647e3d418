// make bench-linked, in small: it measures all four ways, believes no run that went wrong, and says what it found.

#include <doctest/doctest.h>

#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

TEST_CASE(
    "linked: the benchmark of chains runs, counts enters and completions, and judges nothing from two "
    "ratios") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  const tests::ShellResult result =
      tests::shell("python3 -B " SOURCE_DIR "/bench/linked.py --build " BUILD_DIR " --results " +
                   folder.path().string() + " --transport unix --blocks 1 --seconds 0.1 --connections 4");
  CAPTURE(result.output);
  CHECK(result.status == 0);
  for (const char* way : {"  driven  ", "  linked  ", "  silent  ", "  timed   "}) {
    CAPTURE(way);
    CHECK(result.output.find(way) != std::string::npos);
  }
  CHECK(result.output.find("not judged") != std::string::npos);
  CHECK(result.output.find("FAILED") == std::string::npos);
  CHECK(std::filesystem::exists(folder.path() / "results.json"));
}

}  // namespace

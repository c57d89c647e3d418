// Leaving a test case because this machine cannot run it: said aloud, counted, never mistaken for a pass.
//
//   TEST_CASE("a ring can be created") {
//     SKIP_WITHOUT_IO_URING();
//     SKIP_UNLESS(features & IORING_FEAT_MIN_TIMEOUT, "min-wait needs Linux 6.12");
//     …
//
// Both print why and return from the enclosing function, so they belong into the body of the test case itself. Inside a
// SUBCASE they leave out the subcases after it too: doctest finds a subcase only by running past the ones before. A test
// case that skipped anywhere counts as skipped, or as failed if something failed as well: tests/support/main.cpp keeps
// the count.
//
// io_uring itself may be missing for good reasons on a reader's machine (a container's seccomp filter, a sysctl) but not
// where the project is checked: with REQUIRE_IO_URING=1 in the environment SKIP_WITHOUT_IO_URING() fails the test.

#pragma once

#include <string_view>

namespace tests {

/// Marks the running test case as skipped and prints why.
void skip(const char* file, int line, std::string_view why);

/// True when the kernel refuses to create a ring here; the test case is then marked as skipped, or has failed (and is
/// left by doctest's exception) under REQUIRE_IO_URING=1. The kernel is asked once per process.
bool skips_without_io_uring(const char* file, int line);

}  // namespace tests

#define SKIP_UNLESS(condition, why)           \
  do {                                        \
    if (!(condition)) {                       \
      tests::skip(__FILE__, __LINE__, (why)); \
      return;                                 \
    }                                         \
  } while (false)

#define SKIP_WITHOUT_IO_URING()                                    \
  do {                                                             \
    if (tests::skips_without_io_uring(__FILE__, __LINE__)) return; \
  } while (false)

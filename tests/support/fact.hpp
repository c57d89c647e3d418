// Tests that state a fact about the kernel, on whichever kernel they run.
//
//   FACT("a poll of a ring wakes when something has completed") {
//     SKIP_UNLESS(has_poll, "POLL_ADD needs Linux 5.1");            this kernel is too old to have the thing at all
//     …
//     if (woken_late) return tests::differs("sleeps until the next enter");
//     CHECK(woken);                                                  this kernel does as the title says
//   }
//
// A fact test does not ask for the kernel's version. It looks at what happens, and knows each way that was seen: the one
// in its title, and the others by a differs() with words. Anything else fails, so a fact cannot become untrue in
// silence. The words stand in the kernel's column of docs/kernel-facts.md, where each FACT has its row.
//
// On a kernel that is newer than any that these tests were run on (`newest_known_kernel`), a fact that no longer holds is
// news and no fault of ours: it is reported as "changed", counted as skipped, and does not fail the suite.

#pragma once

#include <doctest/doctest.h>

#include <string_view>

#define FACT(title) TEST_CASE(title* doctest::test_suite(tests::fact_suite))

namespace tests {

inline constexpr const char* fact_suite = "kernel fact";

/// The newest series of which the results are kept in the tree (tests/kernels/results).
struct KernelSeries {
  int major, minor;
};
inline constexpr KernelSeries newest_known_kernel{7, 3};

/// Notes that this kernel behaves in another way than the title says, and that this way has been seen before. The test
/// case passes; `how` says what happens instead, in a few words that make sense behind "differs: ".
void differs(std::string_view how);

}  // namespace tests

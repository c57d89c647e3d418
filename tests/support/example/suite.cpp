// A suite with one test case of each outcome: tests/integration/counting_test.cpp runs it and looks at the count.

#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/support/fact.hpp"
#include "tests/support/skip.hpp"

TEST_CASE("passes") { CHECK(1 + 1 == 2); }

TEST_CASE("fails") { CHECK(1 + 1 == 3); }

TEST_CASE("skips") { SKIP_UNLESS(1 + 1 == 3, "arithmetic is as usual"); }

TEST_CASE("skips in the first of its subcases") {
  SUBCASE("first") { SKIP_UNLESS(false, "the first"); }
  SUBCASE("second") { CHECK(false); }
}

TEST_CASE("passes in one subcase and skips in the other") {
  SUBCASE("first") { CHECK(true); }
  SUBCASE("second") { SKIP_UNLESS(false, "the second"); }
}

TEST_CASE("fails in one subcase and skips in the other") {
  SUBCASE("first") { CHECK(false); }
  SUBCASE("second") { SKIP_UNLESS(false, "the second"); }
}

TEST_CASE("needs io_uring") {
  SKIP_WITHOUT_IO_URING();
  CHECK(true);
}

FACT("a fact that holds") { CHECK(true); }

FACT("a fact that differs") { tests::differs("it is the other way round"); }

FACT("a fact that is none") { CHECK(false); }

TEST_CASE("dies, with --no-skip" * doctest::skip()) { std::abort(); }

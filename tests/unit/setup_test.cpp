// The parts of a setup that need no kernel: names, judgements, the ladder. Whole setups are in
// tests/mock/setup_test.cpp.

#include "uring/setup.hpp"

#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

namespace {

// Why these options are refused; "" if they are not.
std::string refusal(const uring::RingOptions& options, std::uint32_t flags, bool sqpoll = false) {
  try {
    uring::detail::check_options(options, flags, sqpoll);
  } catch (const uring::SetupError& error) {
    CHECK(error.code().value() == EINVAL);
    return error.what();
  }
  return "";
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

}  // namespace

TEST_CASE("the table of setup flags has each bit up to the newest once, lowest first") {
  std::uint32_t all = 0;
  std::uint32_t last = 0;
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    CHECK(std::has_single_bit(flag.bit));
    CHECK(flag.bit > last);
    CHECK(std::string(flag.name).starts_with("IORING_SETUP_"));
    all |= flag.bit;
    last = flag.bit;
  }
  CHECK(all == (uring::abi::setup_sq_rewind << 1) - 1);
}

TEST_CASE("setup flags are said by name, and unknown ones by number") {
  CHECK(uring::setup_flag_names(0) == "none");
  CHECK(uring::setup_flag_names(IORING_SETUP_CLAMP) == "IORING_SETUP_CLAMP");
  CHECK(uring::setup_flag_names(IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | std::uint32_t{1} << 27) ==
        "IORING_SETUP_CQSIZE|IORING_SETUP_CLAMP|bit 27");
  CHECK(uring::setup_flag_names(std::uint32_t{1} << 31) == "bit 31");
  CHECK(mentions(uring::setup_flag_names(uring::default_setup_flags), "IORING_SETUP_NO_SQARRAY"));
}

TEST_CASE("the default flags are what the documents say, and pass their own check") {
  CHECK(uring::default_setup_flags ==
        (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
         IORING_SETUP_SUBMIT_ALL | uring::abi::setup_no_sqarray | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP));
  CHECK(refusal({}, uring::default_setup_flags) == "");
  CHECK(refusal({}, uring::default_sqpoll_flags, true) == "");
  CHECK((uring::default_sqpoll_flags & (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN)) == 0);
}

TEST_CASE("every flag is either implemented or refused with a reason of its own") {
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    if (flag.refused == nullptr) continue;
    const std::string why = refusal({}, flag.bit);
    CHECK(mentions(why, flag.name));
    CHECK(mentions(why, flag.refused));
  }
}

TEST_CASE("sizes: what is judged here, and where the limits are") {
  constexpr std::uint32_t clamp = IORING_SETUP_CLAMP;
  struct Row {
    unsigned entries, cq_entries;
    std::uint32_t flags;
    const char* why;  // "" if it is fine
  };
  const std::array<Row, 14> rows{Row{0, 0, clamp, "at least one entry"},
                                 Row{1, 0, 0, ""},
                                 Row{32768, 0, 0, ""},
                                 Row{32769, 0, 0, "IORING_SETUP_CLAMP"},
                                 Row{32769, 0, clamp, ""},
                                 Row{~0U, 0, clamp, ""},
                                 Row{8, 8, 0, ""},
                                 Row{8, 7, 0, ""},  // rounded up to 8
                                 Row{8, 4, 0, "smaller"},
                                 Row{9, 8, 0, "smaller"},
                                 Row{8, 65536, 0, ""},
                                 Row{8, 65537, 0, "IORING_SETUP_CLAMP"},
                                 Row{8, ~0U, clamp, ""},
                                 Row{~0U, 32768, clamp, ""}};
  for (const Row& row : rows) {
    CAPTURE(row.entries);
    CAPTURE(row.cq_entries);
    const std::string why = refusal({.entries = row.entries, .cq_entries = row.cq_entries}, row.flags);
    if (*row.why == '\0') {
      CHECK(why == "");
    } else {
      CHECK(mentions(why, row.why));
    }
  }
}

TEST_CASE("the ladder drops one thing at a time, newest first, and ends") {
  constexpr std::uint32_t kept = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  std::vector<std::uint32_t> rungs;
  for (std::uint32_t flags = uring::default_setup_flags; flags != 0;
       flags = uring::detail::without_newest(flags)) {
    REQUIRE(rungs.size() < 10);
    CHECK((flags & kept) == kept);
    CHECK(refusal({}, flags) == "");  // each rung is a valid combination
    rungs.push_back(flags);
  }
  CHECK(rungs.size() == 6);
  CHECK(rungs.back() == kept);
}

TEST_CASE("what is not optional is never dropped") {
  for (const std::uint32_t flags :
       {std::uint32_t{0}, std::uint32_t{IORING_SETUP_CQSIZE}, std::uint32_t{IORING_SETUP_SQPOLL},
        std::uint32_t{IORING_SETUP_R_DISABLED}, std::uint32_t{IORING_SETUP_CLAMP},
        std::uint32_t{IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF}}) {
    CHECK(uring::detail::without_newest(flags) == 0);
  }
}

TEST_CASE("from every combination of optional flags the ladder reaches the ground by valid rungs") {
  const std::array<std::uint32_t, 6> optional{uring::abi::setup_no_sqarray, IORING_SETUP_DEFER_TASKRUN,
                                              IORING_SETUP_SINGLE_ISSUER,   IORING_SETUP_COOP_TASKRUN,
                                              IORING_SETUP_TASKRUN_FLAG,    IORING_SETUP_SUBMIT_ALL};
  for (unsigned choice = 0; choice < 64; ++choice) {
    std::uint32_t flags = IORING_SETUP_CQSIZE;
    for (std::size_t i = 0; i < optional.size(); ++i) flags |= (choice >> i & 1) != 0 ? optional[i] : 0;
    if (refusal({}, flags) != "") continue;
    int rungs = 0;
    for (; flags != 0; flags = uring::detail::without_newest(flags)) {
      CHECK(refusal({}, flags) == "");
      REQUIRE(++rungs < 10);
      if (uring::detail::without_newest(flags) == 0) CHECK(flags == IORING_SETUP_CQSIZE);
    }
  }
}

TEST_CASE("features: all three are needed, and the one that is missing is named with its version") {
  constexpr std::uint32_t all = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
  CHECK_NOTHROW(uring::detail::require_features(all));
  CHECK_THROWS_WITH_AS(uring::detail::require_features(all & ~IORING_FEAT_SINGLE_MMAP),
                       doctest::Contains("IORING_FEAT_SINGLE_MMAP (5.4)"), uring::SetupError);
  CHECK_THROWS_WITH_AS(uring::detail::require_features(all & ~IORING_FEAT_NODROP),
                       doctest::Contains("IORING_FEAT_NODROP (5.5)"), uring::SetupError);
  CHECK_THROWS_WITH_AS(uring::detail::require_features(all & ~IORING_FEAT_EXT_ARG),
                       doctest::Contains("IORING_FEAT_EXT_ARG (5.11)"), uring::SetupError);
}

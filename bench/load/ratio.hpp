// Two servers compared: ratios of turns that lie next to each other in time, their median, and how sure that
// is.
//
//   A B   B A   A B   B A   A B   B A   ...      in each pair of turns both servers meet the same machine
//    r     r     r     r     r     r             one ratio for each pair
//
// The order changes from pair to pair: what drifts makes one ratio too high and the next one too low, so it
// widens the interval and does not move its middle.
//
// A ratio is always written so that above 1 means: the first server is better. For a rate it is the first's
// divided by the second's, for a cost (CPU time, latency) the second's divided by the first's.
//
// The interval is the percentile bootstrap: draw as many ratios as there were, with repetition, take the
// median, do that 10,000 times, and cut 2.5 % off each end. An interval that contains 1 says that no
// difference was seen, and no more.
//
// How often equal servers are called different depends on the number of ratios, whatever the bootstrap calls
// itself: two of them lie on the same side of 1 every second time, four in one comparison of eight. From six
// on it is 6 or 7 %, near the 5 % of the name. So six is the least that are judged: three blocks of A B B A.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "servers/common/file_content.hpp"

namespace load {

struct Interval {
  double low = 0;
  double median = 0;
  double high = 0;
};

/// Of at least one value.
inline double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 != 0) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

/// The median of `ratios` (at least one) with its 95 % bootstrap interval. The same numbers give the same
/// interval.
inline Interval bootstrap(std::span<const double> ratios, std::uint64_t seed = 1) {
  constexpr std::size_t replicas = 10'000;
  std::vector<double> medians(replicas);
  std::vector<double> drawn(ratios.size());
  std::uint64_t draw = 0;
  for (double& median : medians) {
    for (double& value : drawn) value = ratios[common::content_word(seed, draw++) % ratios.size()];
    median = median_of(drawn);
  }
  std::sort(medians.begin(), medians.end());
  return {.low = medians[replicas * 25 / 1000],
          .median = median_of({ratios.begin(), ratios.end()}),
          .high = medians[replicas - 1 - replicas * 25 / 1000]};
}

enum class Verdict : std::uint8_t { first_is_better, second_is_better, no_difference };

inline Verdict judge(const Interval& ratio) noexcept {
  if (ratio.low > 1) return Verdict::first_is_better;
  if (ratio.high < 1) return Verdict::second_is_better;
  return Verdict::no_difference;
}

}  // namespace load

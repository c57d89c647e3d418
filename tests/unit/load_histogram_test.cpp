// The load generator's histogram: what it may be wrong by, held against the sorted values themselves.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "bench/load/histogram.hpp"

namespace {

using load::Histogram;

// The definition: the smallest value that at least this part of all values do not exceed.
std::uint64_t true_quantile(std::vector<std::uint64_t> values, std::uint64_t per_million) {
  std::sort(values.begin(), values.end());
  const std::uint64_t rank = (values.size() * per_million + 999'999) / 1'000'000;
  return values[rank == 0 ? 0 : rank - 1];
}

void check_bounds(const std::vector<std::uint64_t>& values) {
  Histogram histogram;
  for (const std::uint64_t value : values) histogram.record(value);
  for (const std::uint64_t per_million :
       {1U, 1000U, 250'000U, 500'000U, 900'000U, 990'000U, 999'000U, 999'999U}) {
    const std::uint64_t truth = true_quantile(values, per_million);
    const std::uint64_t reported = histogram.quantile(per_million);
    CAPTURE(per_million);
    CAPTURE(truth);
    REQUIRE(reported >= truth);
    REQUIRE(static_cast<double>(reported - truth) <= static_cast<double>(truth) * Histogram::relative_error);
  }
  CHECK(histogram.quantile(1'000'000) == *std::max_element(values.begin(), values.end()));
  CHECK(histogram.max() == *std::max_element(values.begin(), values.end()));
  CHECK(histogram.count() == values.size());
}

}  // namespace

TEST_CASE("a quantile is never reported too low, and at most 1/128 too high, for values of every size") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::uint64_t> values(1 + random() % 3000);
    for (std::uint64_t& value : values) value = random() >> (random() % 64);
    check_bounds(values);
  }
}

TEST_CASE("every single value, and the edges of all buckets, are within the bound") {
  std::vector<std::uint64_t> edges;
  for (std::uint64_t value = 0; value < 5000; ++value) edges.push_back(value);
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t power = std::uint64_t{1} << bit;
    for (const std::uint64_t value :
         {power - 1, power, power + 1, power + power / 128, power + power / 128 - 1}) {
      edges.push_back(value);
    }
  }
  edges.push_back(UINT64_MAX);
  for (const std::uint64_t value : edges) {
    Histogram histogram;
    histogram.record(value);
    histogram.record(UINT64_MAX);  // so that the exact maximum does not hide the bucket's edge
    CAPTURE(value);
    const std::uint64_t reported = histogram.quantile(500'000);
    REQUIRE(reported >= value);
    REQUIRE(static_cast<double>(reported - value) <= static_cast<double>(value) / 128);
  }
}

TEST_CASE("values below 256 are exact") {
  Histogram histogram;
  for (std::uint64_t value = 0; value < 256; ++value) histogram.record(value);
  for (std::uint64_t rank = 1; rank <= 256; ++rank) {
    CHECK(histogram.quantile(rank * 1'000'000 / 256) == rank - 1);
  }
}

TEST_CASE("one slow message in ten thousand is the maximum and not the 99th percentile") {
  Histogram histogram;
  for (int i = 0; i < 9999; ++i) histogram.record(100);
  histogram.record(200'000'000);
  CHECK(histogram.max() == 200'000'000);
  CHECK(histogram.quantile(999'900) == 100);
  CHECK(histogram.quantile(999'901) == 200'000'000);
  CHECK(histogram.mean() == doctest::Approx((9999 * 100 + 200'000'000) / 10'000.0));
}

TEST_CASE("a histogram without values has only zeros, and adding two is counting in one") {
  Histogram empty;
  CHECK(empty.quantile(500'000) == 0);
  CHECK(empty.max() == 0);
  CHECK(empty.mean() == 0);
  Histogram one, other, both;
  std::mt19937_64 random(2);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t value = random() % 1'000'000;
    (i % 3 == 0 ? one : other).record(value);
    both.record(value);
  }
  one.add(other);
  CHECK(one.count() == both.count());
  CHECK(one.max() == both.max());
  CHECK(one.mean() == doctest::Approx(both.mean()));
  for (const std::uint64_t per_million : {500'000U, 990'000U}) {
    CHECK(one.quantile(per_million) == both.quantile(per_million));
  }
}

// A histogram of durations whose error is bounded everywhere: fine where values are small, coarse where they
// are large.
//
//   values    0 ... 255     256 ... 511    512 ... 1023    1024 ... 2047      ... up to 2^64 - 1
//   buckets   256 of 1      128 of 2       128 of 4        128 of 8           128 for each power of two
//
// This is HdrHistogram's idea. Counting a value is a few instructions and touches one word, so every message
// can be counted: nothing is sampled, and the slowest of ten million is in there like any other.
//
// Invariant: a quantile is never reported below its true value, nor more than 1/128 of it (0.8 %) above. The
// maximum and the mean are exact.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace load {

class Histogram {
 public:
  /// What a quantile may be too high by, as a part of itself.
  static constexpr double relative_error = 1.0 / 128;

  /// Counts `value` (nanoseconds, everywhere in this program).
  void record(std::uint64_t value) noexcept {
    ++buckets_[bucket_of(value)];
    ++count_;
    sum_ += static_cast<double>(value);
    max_ = std::max(max_, value);
  }

  std::uint64_t count() const noexcept { return count_; }
  std::uint64_t max() const noexcept { return max_; }
  double mean() const noexcept { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

  /// The smallest value that at least `per_million` / 1,000,000 of all values do not exceed:
  /// quantile(990'000) is the 99th percentile. 0 when nothing was counted.
  std::uint64_t quantile(std::uint64_t per_million) const noexcept {
    const std::uint64_t rank = std::max<std::uint64_t>(1, (count_ * per_million + 999'999) / 1'000'000);
    std::uint64_t seen = 0;
    for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
      seen += buckets_[bucket];
      if (seen >= rank) return std::min(highest_of(bucket), max_);
    }
    return max_;
  }

  /// As if everything that `other` counted had been counted here.
  void add(const Histogram& other) noexcept {
    for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
      buckets_[bucket] += other.buckets_[bucket];
    }
    count_ += other.count_;
    sum_ += other.sum_;
    max_ = std::max(max_, other.max_);
  }

 private:
  static constexpr std::size_t halves = 128;  // buckets for each power of two
  static constexpr int exact_bits = 8;        // 2 * halves = 2^8: below, each value has its own
  static constexpr std::size_t bucket_count = (64 - exact_bits) * halves + 2 * halves;

  static std::size_t bucket_of(std::uint64_t value) noexcept {
    const int shift = std::max(0, static_cast<int>(std::bit_width(value)) - exact_bits);
    return static_cast<std::size_t>(shift) * halves + (value >> shift);
  }

  static std::uint64_t highest_of(std::size_t bucket) noexcept {
    if (bucket < 2 * halves) return bucket;
    const std::size_t shift = bucket / halves - 1;
    const std::uint64_t lowest = (bucket - shift * halves) << shift;
    return lowest + ((std::uint64_t{1} << shift) - 1);
  }

  std::vector<std::uint64_t> buckets_ = std::vector<std::uint64_t>(bucket_count);
  std::uint64_t count_ = 0;
  std::uint64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace load

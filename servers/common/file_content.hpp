// What stands in a benchmark file: a function of (seed, offset), computed wherever it is needed.
//
//   offset   0         8         16        24
//   file     | word 0  | word 1  | word 2  | ...        word n = mix(mix(seed + step) + n * step)
//
// The load generator knows what the bytes 1,000,000 to 1,004,095 of a file must be without having read it, so
// that verifying warms no cache, and a byte from another file, another offset or another connection's buffer
// is seen at once: every word depends on all bits of its seed and of its number. Words are little-endian.
//
// mix is a bijection of 64-bit numbers made of two multiplications and three shifted XORs. It is for telling
// blocks apart, not for secrets.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace common {

static_assert(std::endian::native == std::endian::little, "words are copied as they are in memory");

namespace detail {

constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 27)) * 0x3c79ac492ba7b653;
  x = (x ^ (x >> 33)) * 0x1c69b3f74ac4ae35;
  return x ^ (x >> 27);
}

inline constexpr std::uint64_t content_step = 0x9e3779b97f4a7c15;

// Word 0, before the last mix. Without the step, file 0 would begin with the one number that mix leaves
// alone, 0.
constexpr std::uint64_t content_base(std::uint64_t seed) noexcept { return mix(seed + content_step); }

}  // namespace detail

/// A seed for the file of this name, so that a list of paths is all that two programs must share (FNV-1a).
constexpr std::uint64_t content_seed(std::string_view name) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// The eight bytes at offset 8 * `index` of the file with this seed.
constexpr std::uint64_t content_word(std::uint64_t seed, std::uint64_t index) noexcept {
  return detail::mix(detail::content_base(seed) + index * detail::content_step);
}

/// Writes what stands at `offset` of the file with this seed. Any alignment, any length.
inline void fill_content(std::span<std::byte> bytes, std::uint64_t seed, std::uint64_t offset) noexcept {
  std::uint64_t index = offset / 8;
  if (const std::size_t skip = offset % 8; skip != 0 && !bytes.empty()) {
    const std::uint64_t word = content_word(seed, index++) >> (8 * skip);
    const std::size_t n = std::min(8 - skip, bytes.size());
    std::memcpy(bytes.data(), &word, n);
    bytes = bytes.subspan(n);
  }
  std::uint64_t place = detail::content_base(seed) + index * detail::content_step;
  const std::size_t words = bytes.size() / 8;
  for (std::size_t i = 0; i < words; ++i, place += detail::content_step) {
    const std::uint64_t word = detail::mix(place);
    std::memcpy(bytes.data() + 8 * i, &word, 8);
  }
  if (const std::size_t rest = bytes.size() % 8; rest != 0) {
    const std::uint64_t word = detail::mix(place);
    std::memcpy(bytes.data() + 8 * words, &word, rest);
  }
}

/// The index of the first byte that differs from what stands at `offset` of the file with this seed;
/// bytes.size() if all are right.
inline std::size_t verify_content(std::span<const std::byte> bytes, std::uint64_t seed,
                                  std::uint64_t offset) noexcept {
  constexpr std::size_t block_words = 8;
  std::byte expected[8 * block_words];
  std::size_t right = 0;
  // To the next word, then block by block: one comparison for eight words.
  while (right < bytes.size()) {
    const std::uint64_t at = offset + right;
    const std::byte* const data = bytes.data() + right;
    if (at % 8 == 0 && bytes.size() - right >= sizeof expected) {
      std::uint64_t place = detail::content_base(seed) + at / 8 * detail::content_step;
      std::uint64_t wrong = 0;
      for (std::size_t i = 0; i < block_words; ++i, place += detail::content_step) {
        std::uint64_t word;
        std::memcpy(&word, data + 8 * i, 8);
        wrong |= word ^ detail::mix(place);
      }
      if (wrong == 0) {
        right += sizeof expected;
        continue;
      }
    }
    const std::size_t until_word = at % 8 == 0 ? sizeof expected : 8 - at % 8;
    const std::size_t n = std::min(until_word, bytes.size() - right);
    fill_content({expected, n}, seed, at);
    for (std::size_t i = 0; i < n; ++i) {
      if (data[i] != expected[i]) return right + i;
    }
    right += n;
  }
  return right;
}

}  // namespace common

// The contents of servers/common/file_content.hpp, compared four words at a time.
//
// The receiving half of a file at 2 GB/s is a copy by the kernel and this. Word n is a function of n alone,
// so four words can be computed side by side: with AVX2 (found out at run time) twice as fast as one by one,
// and the generator stays ahead of the server that it measures. Elsewhere the
// same code compiles to what the processor has.
//
// It only ever says "all of these are right" about blocks of 256 bytes. The first block that is not, what
// lies before a word begins and what is left at the end are common::verify_content's, which knows which byte
// it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "servers/common/file_content.hpp"

namespace load {

namespace content_detail {

inline constexpr std::size_t block_bytes = 256;

// As common::detail::mix, for four numbers. A test holds the two against each other.
using FourWords [[gnu::vector_size(32)]] = std::uint64_t;

[[gnu::always_inline]] inline std::size_t right_blocks(std::span<const std::byte> bytes, std::uint64_t seed,
                                                       std::uint64_t offset) noexcept {
  constexpr std::uint64_t step = common::detail::content_step;
  const std::uint64_t first = common::detail::content_base(seed) + offset / 8 * step;
  FourWords place{first, first + step, first + 2 * step, first + 3 * step};
  std::size_t right = 0;
  for (; bytes.size() - right >= block_bytes; right += block_bytes) {
    FourWords wrong{};
    for (std::size_t at = 0; at < block_bytes; at += sizeof(FourWords)) {
      FourWords word = (place ^ (place >> 27)) * 0x3c79ac492ba7b653U;
      word = (word ^ (word >> 33)) * 0x1c69b3f74ac4ae35U;
      word ^= word >> 27;
      FourWords came;
      std::memcpy(&came, bytes.data() + right + at, sizeof came);
      wrong |= word ^ came;
      place += 4 * step;
    }
    if ((wrong[0] | wrong[1] | wrong[2] | wrong[3]) != 0) break;
  }
  return right;
}

inline std::size_t right_blocks_anywhere(std::span<const std::byte> bytes, std::uint64_t seed,
                                         std::uint64_t offset) noexcept {
  return right_blocks(bytes, seed, offset);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] inline std::size_t right_blocks_avx2(std::span<const std::byte> bytes,
                                                             std::uint64_t seed,
                                                             std::uint64_t offset) noexcept {
  return right_blocks(bytes, seed, offset);
}

inline const auto best_right_blocks =
    __builtin_cpu_supports("avx2") != 0 ? right_blocks_avx2 : right_blocks_anywhere;
#else
inline constexpr auto best_right_blocks = right_blocks_anywhere;
#endif

}  // namespace content_detail

/// What common::verify_content says: the index of the first byte that differs from what stands at `offset` of
/// the contents with this seed; bytes.size() if all are right.
inline std::size_t check_content(std::span<const std::byte> bytes, std::uint64_t seed,
                                 std::uint64_t offset) noexcept {
  std::size_t right = 0;
  if (bytes.size() >= 4 * content_detail::block_bytes) {
    const std::size_t until_word = (8 - offset % 8) % 8;
    right = common::verify_content(bytes.first(until_word), seed, offset);
    if (right != until_word) return right;
    right += content_detail::best_right_blocks(bytes.subspan(until_word), seed, offset + until_word);
  }
  return right + common::verify_content(bytes.subspan(right), seed, offset + right);
}

}  // namespace load

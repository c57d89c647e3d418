// Benchmark files: what the generator computes is what the file has, at any alignment, and one wrong bit is
// found.

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "servers/common/file_content.hpp"

namespace {

std::vector<std::byte> content(std::size_t size, std::uint64_t seed, std::uint64_t offset) {
  std::vector<std::byte> bytes(size);
  common::fill_content(bytes, seed, offset);
  return bytes;
}

}  // namespace

TEST_CASE("byte i of a file is byte i % 8 of word i / 8, however it is asked for") {
  for (const std::uint64_t base : {std::uint64_t{0}, std::uint64_t{1} << 32, (std::uint64_t{1} << 63) - 64}) {
    for (std::size_t offset = 0; offset < 20; ++offset) {
      for (std::size_t size = 0; size < 40; ++size) {
        const auto bytes = content(size, 7, base + offset);
        for (std::size_t i = 0; i < size; ++i) {
          const std::uint64_t at = base + offset + i;
          REQUIRE(bytes[i] == static_cast<std::byte>(common::content_word(7, at / 8) >> (8 * (at % 8))));
        }
      }
    }
  }
}

TEST_CASE("verifying finds the first wrong bit, wherever it is") {
  std::mt19937_64 random(3);
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t seed = random();
    const std::uint64_t offset = random() >> (random() % 64);
    auto bytes = content(random() % 400, seed, offset);
    REQUIRE(common::verify_content(bytes, seed, offset) == bytes.size());
    if (bytes.empty()) continue;
    const std::size_t first = random() % bytes.size();
    bytes[first] ^= static_cast<std::byte>(1U << (random() % 8));
    const std::size_t later = first + random() % (bytes.size() - first);
    if (later != first) bytes[later] ^= std::byte{0x80};
    REQUIRE(common::verify_content(bytes, seed, offset) == first);
  }
}

TEST_CASE("another file, or the same file elsewhere, is wrong within a word") {
  const auto bytes = content(4096, 1, 8192);
  CHECK(common::verify_content(bytes, 2, 8192) < 8);
  for (const std::uint64_t offset : {0U, 1U, 512U, 4096U, 8191U, 8193U, 8200U, 12288U}) {
    CHECK(common::verify_content(bytes, 1, offset) < 8);
  }
  const std::vector<std::byte> zeros(4096);
  CHECK(common::verify_content(zeros, 0, 0) < 8);
  CHECK(common::verify_content(zeros, 1, 1 << 20) < 8);
}

TEST_CASE("words do not repeat: neither within a file nor between files of neighbouring seeds") {
  std::set<std::uint64_t> words;
  constexpr std::uint64_t files = 64;
  constexpr std::uint64_t per_file = 1024;
  for (std::uint64_t seed = 0; seed < files; ++seed) {
    for (std::uint64_t index = 0; index < per_file; ++index) words.insert(common::content_word(seed, index));
  }
  CHECK(words.size() == files * per_file);
  CHECK(common::content_seed("4k/0") != common::content_seed("4k/1"));
  CHECK(common::content_seed("") == 0xcbf29ce484222325);
}

TEST_CASE("about half of all bits are set, in each place of a word") {
  int ones[64] = {};
  constexpr int words = 20'000;
  for (std::uint64_t index = 0; index < words; ++index) {
    const std::uint64_t word = common::content_word(0, index);
    for (int bit = 0; bit < 64; ++bit) ones[bit] += static_cast<int>(word >> bit & 1);
  }
  for (const int count : ones) {
    CHECK(count > words * 47 / 100);
    CHECK(count < words * 53 / 100);
  }
}

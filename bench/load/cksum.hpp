// The checksum that cksum(1) prints, for files whose contents cannot be computed.
//
//   $ cksum index.html
//   3015617425 1256 index.html          checksum, size, name
//
// POSIX: a CRC of 32 bits, polynomial 0x04c11db7, highest bit first, over the bytes and then the length (as
// few bytes as it has, lowest first), inverted. Any tool can produce it, every system has the tool, and a
// burst of up to 32 wrong bits never passes. Eight bytes are taken at a time, with a table for the place of
// each ("slicing by eight").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace load {

namespace cksum_detail {

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

// tables[k][b]: what byte b does to the CRC when k bytes follow it.
constexpr Tables make_tables() noexcept {
  Tables made{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte << 24;
    for (int bit = 0; bit < 8; ++bit) crc = (crc << 1) ^ ((crc >> 31) != 0 ? 0x04c11db7U : 0U);
    made[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t crc = made[k - 1][byte];
      made[k][byte] = (crc << 8) ^ made[0][crc >> 24];
    }
  }
  return made;
}
inline constexpr Tables tables = make_tables();

}  // namespace cksum_detail

class Cksum {
 public:
  void add(std::span<const std::byte> bytes) noexcept {
    length_ += bytes.size();
    while (bytes.size() >= 8) {
      std::uint32_t next = 0;
      for (std::size_t i = 0; i < 8; ++i) {
        const auto byte = std::to_integer<std::uint32_t>(bytes[i]);
        next ^= cksum_detail::tables[7 - i][i < 4 ? ((crc_ >> (24 - 8 * i)) & 0xff) ^ byte : byte];
      }
      crc_ = next;
      bytes = bytes.subspan(8);
    }
    for (const std::byte byte : bytes) crc_ = with(crc_, std::to_integer<std::uint32_t>(byte));
  }

  std::uint32_t value() const noexcept {
    std::uint32_t crc = crc_;
    for (std::uint64_t left = length_; left != 0; left >>= 8) {
      crc = with(crc, static_cast<std::uint32_t>(left & 0xff));
    }
    return ~crc;
  }

 private:
  static std::uint32_t with(std::uint32_t crc, std::uint32_t byte) noexcept {
    return (crc << 8) ^ cksum_detail::tables[0][(crc >> 24) ^ byte];
  }

  std::uint32_t crc_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace load

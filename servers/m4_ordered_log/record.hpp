// One record: what is written for a PUT, and how it is known again after the power was gone.
//
//      0         4         8                   16        20
//     +---------+---------+-------------------+---------+---------------------+
//     |  magic  | length  |  offset in file   | CRC32C  |  the bytes          |     little endian
//     +---------+---------+-------------------+---------+---------------------+
//      └──────────── the checksum covers this ┘         └── and this ─────────┘
//
// A write that was under way when the power went can be there wholly, in part, or not at all, sector by sector and
// in any order. So a record must be able to prove itself:
//
//   magic     the file was extended and these sectors were not written: they are zeros
//   length    how much the checksum is about, and where the next record begins
//   offset    these bytes were a whole record once, but of another place (a copied file, a block that came back)
//   CRC32C    all the rest
//
// Invariant: record_at() says yes to what seal() made, at the offset it was made for, and to nothing else that an
// accident produces. It is no defence against somebody who means it: a checksum is no signature.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace ordered_log {

inline constexpr std::size_t header_bytes = 20;
inline constexpr std::size_t checksum_at = 16;
inline constexpr std::uint32_t magic = 0x474f4c52;  // "RLOG"
inline constexpr std::uint32_t max_length = 1u << 20;

namespace detail {

/// Eight tables of the polynomial 0x1edc6f41, bit-reversed: table k is what a byte does to the sum when k more bytes
/// follow it. So eight bytes are eight look-ups that do not wait for each other.
inline constexpr auto crc_tables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t sum = byte;
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0x82f63b78u : 0u);
    tables[0][byte] = sum;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}();

}  // namespace detail

/// CRC32C (Castagnoli), as iSCSI and most storage has it: of "123456789" it is 0xe3069283. `sum` is that of the bytes
/// before. In software, for every machine; SSE 4.2 has an instruction for it.
inline std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t sum = 0) noexcept {
  const auto& table = detail::crc_tables;
  const auto at = [&](std::size_t i) { return std::to_integer<std::uint32_t>(bytes[i]); };
  sum = ~sum;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    sum = table[7][(sum ^ at(0)) & 0xff] ^ table[6][((sum >> 8) ^ at(1)) & 0xff] ^
          table[5][((sum >> 16) ^ at(2)) & 0xff] ^ table[4][(sum >> 24) ^ at(3)] ^ table[3][at(4)] ^
          table[2][at(5)] ^ table[1][at(6)] ^ table[0][at(7)];
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) sum = (sum >> 8) ^ table[0][(sum ^ at(i)) & 0xff];
  return ~sum;
}

/// Integers as they stand in the file, whatever the machine.
template <class T>
void store_little(std::byte* to, T value) noexcept {
  for (std::size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
}
template <class T>
T load_little(const std::byte* from) noexcept {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::to_integer<T>(from[i]) << (8 * i);
  return value;
}

/// The checksum that belongs to a record.
inline std::uint32_t checksum_of(std::span<const std::byte> record) noexcept {
  return crc32c(record.subspan(header_bytes), crc32c(record.first(checksum_at)));
}

/// Writes the header in front of the bytes, for this place in the file. `record` is both: 20 bytes and the rest.
inline void seal(std::span<std::byte> record, std::uint64_t offset) noexcept {
  store_little(record.data(), magic);
  store_little(record.data() + 4, static_cast<std::uint32_t>(record.size() - header_bytes));
  store_little(record.data() + 8, offset);
  store_little(record.data() + checksum_at, checksum_of(record));
}

/// The size, header included, of the record with which `bytes`, found at `offset`, begin; nothing if they do not begin
/// with a whole and valid one.
inline std::optional<std::size_t> record_at(std::span<const std::byte> bytes, std::uint64_t offset) noexcept {
  if (bytes.size() < header_bytes || load_little<std::uint32_t>(bytes.data()) != magic) return std::nullopt;
  const auto length = load_little<std::uint32_t>(bytes.data() + 4);
  if (length > max_length || length > bytes.size() - header_bytes) return std::nullopt;
  if (load_little<std::uint64_t>(bytes.data() + 8) != offset) return std::nullopt;
  const std::span<const std::byte> record = bytes.first(header_bytes + length);
  if (load_little<std::uint32_t>(bytes.data() + checksum_at) != checksum_of(record)) return std::nullopt;
  return record.size();
}

}  // namespace ordered_log

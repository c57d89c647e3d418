// What statx(2) says about a served file, and what follows from it for a reader.
//
//   identity    device and inode, change time and size: the same four, the same contents. A file that was
//               written, replaced or renamed over differs in at least one. (The change time and not the
//               modification time: touch -d sets that one back, and nothing sets the other.)
//   alignment   what O_DIRECT asks of offsets and lengths (one number) and of memory (another):
//               STATX_DIOALIGN, Linux 6.1. Where the kernel cannot say, 4096 satisfies every disk there is.
//
// A range of a file is read with O_DIRECT by reading the aligned range around it:
//
//         file   ..|........|........|........|........|..        | every `alignment` bytes
//       wanted               [-----------]                       offset, length
//         read            [-----------------)                    covering(): skip bytes in front are not wanted
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdint>

namespace common {

/// What to ask statx for.
inline constexpr unsigned file_facts_mask = STATX_BASIC_STATS | STATX_DIOALIGN;

struct FileFacts {
  std::uint64_t size = 0;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t changed_seconds = 0;
  std::uint32_t changed_nanoseconds = 0;
  std::uint32_t mode = 0;
  std::uint32_t offset_alignment = 1;  // what O_DIRECT needs; 0: this file cannot be read with it
  std::uint32_t memory_alignment = 1;

  /// The same file with the same contents, as far as the file system tells.
  friend bool operator==(const FileFacts&, const FileFacts&) = default;

  /// The same file, whatever was written to it meanwhile.
  bool same_file(const FileFacts& other) const noexcept {
    return device == other.device && inode == other.inode;
  }
};

inline FileFacts facts_of(const struct ::statx& from) noexcept {
  const bool knows_alignment = (from.stx_mask & STATX_DIOALIGN) != 0;
  return {.size = from.stx_size,
          .device = std::uint64_t{from.stx_dev_major} << 32 | from.stx_dev_minor,
          .inode = from.stx_ino,
          .changed_seconds = from.stx_ctime.tv_sec,
          .changed_nanoseconds = from.stx_ctime.tv_nsec,
          .mode = from.stx_mode,
          .offset_alignment = knows_alignment ? from.stx_dio_offset_align : 4096,
          .memory_alignment = knows_alignment ? from.stx_dio_mem_align : 4096};
}

/// What to read for a wanted range.
struct AlignedRange {
  std::uint64_t offset;
  std::uint32_t length;
  std::uint32_t skip;  // bytes read in front of the wanted ones
};

/// The aligned range around `length` bytes at `offset`. `alignment` is a power of two, 1 changes nothing;
/// `length` and twice that fit into 32 bits together.
inline AlignedRange covering(std::uint64_t offset, std::uint32_t length, std::uint32_t alignment) noexcept {
  const std::uint64_t mask = alignment - 1;
  const std::uint64_t first = offset & ~mask;
  const std::uint64_t last = (offset + length + mask) & ~mask;
  return {.offset = first,
          .length = static_cast<std::uint32_t>(last - first),
          .skip = static_cast<std::uint32_t>(offset - first)};
}

}  // namespace common

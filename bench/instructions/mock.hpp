// Ordinary memory in the shape of a ring, and the part of the kernel that moves its indices.
//
//   byte 0        4         8         12        16 ... 47                64
//        SQ head | SQ tail | CQ head | CQ tail | masks, sizes, flags |   CQEs ...      (no SQ array)
//
// These are the offsets of the kernel's struct io_rings. callgrind does not look into the functions named
// mock_kernel_* (--toggle-collect): what they do is the kernel's work, and only the call is the caller's. They are
// extern "C", so that callgrind knows them by the names written here.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "bench/instructions/paths.hpp"

namespace bench {

struct MockWords {
  std::uint32_t sq_head, sq_tail, cq_head, cq_tail;
  std::uint32_t sq_mask, cq_mask, sq_entries, cq_entries;
  std::uint32_t sq_dropped, sq_flags, cq_flags, cq_overflow;
};

inline constexpr std::size_t cqes_offset = 64;
inline constexpr std::size_t rings_bytes = cqes_offset + cq_size * 16;
inline constexpr std::size_t sqes_bytes = sq_size * 64;

/// Zeroed pages, which munmap(2) takes back.
inline void* pages(std::size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  return memory;
}

/// The first mapping of a new ring: both queues empty.
inline MockWords* mock_rings() {
  auto* const words = static_cast<MockWords*>(pages(rings_bytes));
  words->sq_mask = sq_size - 1;
  words->cq_mask = cq_size - 1;
  words->sq_entries = sq_size;
  words->cq_entries = cq_size;
  return words;
}

}  // namespace bench

// In a file of their own (mock.cpp): a compiler that sees their bodies makes use of what it sees, inlined or not.
extern "C" {

/// The ring that the calls below are about. Each list of paths has its own, and says so before it runs.
extern bench::MockWords* mock_kernel_ring;

void mock_kernel_takes_one() noexcept;      // it has copied one SQE more
void mock_kernel_takes_a_batch() noexcept;  // ... or a batch of them
void mock_kernel_posts_a_batch() noexcept;  // it has posted a batch of CQEs: all zero, as the mapping came
void mock_kernel_takes_and_posts_one() noexcept;
void mock_kernel_idles() noexcept;  // it was called, and that is all
}

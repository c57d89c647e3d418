// What is counted: a list of loops, the same ones over our ring layer and over liburing.
//
//   mock.hpp      ordinary memory laid out as the kernel lays out a ring, and a kernel that moves its indices
//   ours.cpp      the loops over uring::Ring
//   liburing.cpp  the loops over liburing's struct io_uring, filled by hand; an empty list where there is no liburing
//   main.cpp      runs them under callgrind, subtracts, prints
//   budget_test.cpp  holds the printed numbers against what the ring layer promises
//
// ours.cpp and liburing.cpp are two files because each brings its own copy of <linux/io_uring.h>. This header needs
// neither.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bench {

/// A loop to be counted. `run(n)` does the same thing n times, and nothing that depends on n before or after.
struct Path {
  std::string_view name;
  unsigned operations;  // SQEs, CQEs or calls per turn of the loop
  void (*run)(std::uint64_t turns);
};

/// SQEs or CQEs per turn, where a loop works in batches.
inline constexpr unsigned batch = 32;

/// Sizes of both rings. The SQ is larger than a batch: not every batch finds it full.
inline constexpr unsigned sq_size = 128;
inline constexpr unsigned cq_size = 256;

std::span<const Path> our_paths();
std::span<const Path> liburing_paths();

/// "2.3"; empty if there is none.
std::string_view liburing_version();

/// Who compiled this.
#ifdef __clang__
inline constexpr const char* compiler = __VERSION__;
#else
inline constexpr const char* compiler = "g++ " __VERSION__;
#endif

/// Forgets where a value comes from: the optimizer must take it as it finds it.
template <class Value>
Value opaque(Value value) {
  asm volatile("" : "+r"(value));
  return value;
}

/// The smallest use of something: no instruction, but its address must be known, and the compiler must assume that any
/// memory was written. So this is a handler that could do anything, and costs nothing.
template <class Thing>
void touch(const Thing& thing) {
  asm volatile("" : : "r"(&thing) : "memory");
}

}  // namespace bench

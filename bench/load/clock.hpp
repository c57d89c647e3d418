// The one clock of the load generator: nanoseconds since some moment in the past, never set back.
#pragma once

#include <cstdint>
#include <ctime>

namespace load {

inline constexpr std::uint64_t second = 1'000'000'000;
inline constexpr std::uint64_t millisecond = 1'000'000;

/// 25 ns or so: the vDSO answers without a system call.
inline std::uint64_t now_ns() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * second + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace load

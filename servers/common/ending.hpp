// The last words of a server: which descriptors leaked, what it counted, and with which code it exits.
#pragma once

#include <cstdint>
#include <cstdio>

#include "servers/common/counters.hpp"
#include "servers/common/limits.hpp"
#include "servers/common/start_error.hpp"

namespace common {

/// Compares with the `descriptors` that were open before the listener was, adds to `counters.leaks` what is
/// more, and prints the counters as the last line on stdout. Returns the exit code: exit_failed if anything
/// leaked.
inline int end_with(Counters counters, std::uint64_t descriptors, const char* program) {
  const std::uint64_t left = open_descriptors();
  if (left > descriptors) {
    std::fprintf(stderr, "%s: %llu descriptors have leaked\n", program,
                 static_cast<unsigned long long>(left - descriptors));
    counters.leaks += left - descriptors;
  }
  print_counters(counters);
  return counters.leaks == 0 ? exit_clean : exit_failed;
}

}  // namespace common

// How a server's program begins and ends, around what it serves: what was thrown becomes a sentence and an exit
// code, and so does what it ended with.
#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>

#include "servers/common/ending.hpp"
#include "servers/common/start_error.hpp"
#include "uring/setup.hpp"

namespace common_ring {

/// Runs `body`, which returns an exit code. What it throws is said on stderr, and is exit code 1, or the
/// StartError's, or 3 where there can be no ring.
template <class Body>
int run_program(const char* program, Body&& body) {
  try {
    return body();
  } catch (const common::StartError& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return error.exit_code();
  } catch (const uring::SetupError& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return common::exit_no_io_uring;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return common::exit_failed;
  }
}

/// The last words, and the exit code. `result` is what the server's run ended with: 0 or -errno; `descriptors` were
/// open before its listener was.
inline int end_program(const char* program, const common::Counters& counters, std::uint64_t descriptors,
                       int result) {
  const int code = common::end_with(counters, descriptors, program);
  if (result < 0) std::fprintf(stderr, "%s: stopped by %s\n", program, common::errno_text(-result).c_str());
  return result < 0 ? common::exit_failed : code;
}

}  // namespace common_ring

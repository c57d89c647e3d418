// How many descriptors this process may have. A connection costs one, a file that is open another, and the
// soft limit of a login shell is 1024 on most hosts, for the sake of select(2). Nobody here uses select, so
// every server lifts the soft limit towards the hard one before it listens.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <cstdint>

namespace common {

/// Lifts RLIMIT_NOFILE to `wanted` descriptors, or to the hard limit if that is lower; never lowers it.
/// Returns the limit that is then in force. With fewer than `wanted` a server runs, and says at start what it
/// can hold.
inline std::uint64_t raise_descriptor_limit(std::uint64_t wanted) noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  if (limit.rlim_cur >= wanted) return limit.rlim_cur;
  const rlimit lifted{.rlim_cur = std::min<rlim_t>(wanted, limit.rlim_max), .rlim_max = limit.rlim_max};
  return ::setrlimit(RLIMIT_NOFILE, &lifted) == 0 ? lifted.rlim_cur : limit.rlim_cur;
}

}  // namespace common

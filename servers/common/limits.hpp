// How many descriptors this process may have. A connection costs one, a file that is open another, and the
// soft limit of a login shell is 1024 on most hosts, for the sake of select(2). Nobody here uses select, so
// every server lifts the soft limit towards the hard one before it listens.
//
// And how many it has: a server counts before the first connection and after the last one, and what is more
// by then has leaked.
#pragma once

#include <dirent.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>

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

/// The same, and says on stderr when it is fewer: `wanted_for` names the options that ask for so many.
inline std::uint64_t raise_descriptor_limit_or_say(std::uint64_t wanted, const char* program,
                                                   const char* wanted_for) {
  const std::uint64_t limit = raise_descriptor_limit(wanted);
  if (limit < wanted) {
    std::fprintf(
        stderr, "%s: %llu descriptors are allowed, %llu would be needed for all of %s (ulimit -Hn)\n",
        program, static_cast<unsigned long long>(limit), static_cast<unsigned long long>(wanted), wanted_for);
  }
  return limit;
}

/// Descriptors that are open in this process now; 0 without /proc.
inline std::uint64_t open_descriptors() noexcept {
  ::DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  std::uint64_t entries = 0;
  while (::readdir(folder) != nullptr) ++entries;
  ::closedir(folder);
  return entries - std::min<std::uint64_t>(entries, 3);  // ".", ".." and the folder itself
}

}  // namespace common

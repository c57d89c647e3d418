// What the command line asks for, checked as a whole: what cannot be meant is refused before anything is
// sent.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bench/load/made_files.hpp"
#include "bench/load/target.hpp"
#include "bench/load/traffic.hpp"

namespace load {

struct Options {
  std::string mode{};              // "file", "echo", "mixed", "churn", "make-files"
  std::vector<Traffic> traffic{};  // one kind; two if mixed
  Target target{};
  ::pid_t server_pid = 0;  // 0: not known
  std::optional<Target> against{};
  ::pid_t against_pid = 0;
  unsigned blocks = 4;         // of A B B A
  std::uint64_t warm_up = 0;   // ns
  std::uint64_t duration = 0;  // ns
  std::uint64_t messages = 0;  // instead of a duration; 0: the duration counts
  std::uint64_t timeout = 0;   // ns
  bool json = false;
  MakeFiles make_files{};
};

/// `arguments` without argv[0]. Empty when help was asked for, and printed. Throws StartError with exit code
/// 2.
std::optional<Options> parse(std::span<const char* const> arguments);

/// All connections of all traffic.
std::uint64_t connections_of(const Options& options);

}  // namespace load

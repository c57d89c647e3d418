// What /proc says about the server, where it may be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

namespace conformance {

/// How many descriptors it has open; 0 if we may not know.
inline std::size_t descriptors_of(std::uint32_t pid) {
  std::error_code error;
  const std::filesystem::directory_iterator folder("/proc/" + std::to_string(pid) + "/fd", error);
  return error ? 0 : static_cast<std::size_t>(std::distance(begin(folder), end(folder)));
}

/// In MiB: "VmRSS" is the memory that it has now, "VmHWM" the most that it ever had. 0 if we may not know.
inline double memory_of(std::uint32_t pid, const std::string& key) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; status >> word;) {
    double in_kib = 0;
    if (word == key + ":" && status >> in_kib) return in_kib / 1024;
  }
  return 0;
}

}  // namespace conformance

// What every server of files understands beside ServerOptions.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "servers/common/options.hpp"
#include "servers/common/start_error.hpp"

namespace common {

/// An open file that was last looked at this long ago is looked at again before its next answer, so a change
/// is noticed within a second.
inline constexpr std::chrono::seconds recheck_after{1};

struct FileOptions {
  std::uint32_t buffers = 256;
  std::uint32_t buffer_size = 64 << 10;
  std::uint32_t open_files = 1024;
  bool direct = false;
};

/// --buffer-size and --direct.
inline std::vector<Option> chunk_options(FileOptions& options) {
  return {
      bytes("--buffer-size", "BYTES", options.buffer_size, 4 << 10, 16 << 20,
            "how much of a file is read at a time; a multiple of 4K"),
      flag("--direct", options.direct, "read with O_DIRECT, past the page cache, where the file system can"),
  };
}

/// --buffers and --open-files.
inline std::vector<Option> pool_options(FileOptions& options) {
  return {
      number("--buffers", "N", options.buffers, 2, 16384,
             "buffers to read into; a request waits for a free one"),
      number("--open-files", "N", options.open_files, 0, 1'000'000,
             "files that stay open while nobody reads them; 0: every request opens and closes"),
  };
}

/// Throws StartError for what the table cannot say.
inline void check(const FileOptions& options) {
  if (options.buffer_size % 4096 != 0) {
    throw StartError(exit_usage, "--buffer-size " + std::to_string(options.buffer_size) +
                                     ": not a multiple of 4096, which O_DIRECT and registration want");
  }
}

}  // namespace common

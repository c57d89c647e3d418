// Files whose name says everything about them: `made.64K.7` is 65,536 bytes, and which bytes follows from the
// name.
//
//   made . 64K . 7            size: 64K (or M, G, or plain bytes); then a number, for more files of one size
//   content_seed("made.64K.7"), offset ──► servers/common/file_content.hpp ──► the byte at that offset
//
// So a list of names is all that the generator needs to know what must come back. It never opens the files:
// reading them to compare would bring them into the page cache, and a measurement of cold reads would measure
// warm ones. Only the last component of a path counts, so that the folder may be served from anywhere.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace load {

inline constexpr std::string_view made_prefix = "made.";

/// "64K" for 65536; K, M and G where the size is a multiple, else plain bytes.
inline std::string size_text(std::uint64_t size) {
  for (const auto& [shift, suffix] : {std::pair{30, 'G'}, std::pair{20, 'M'}, std::pair{10, 'K'}}) {
    if (size != 0 && size % (std::uint64_t{1} << shift) == 0) return std::to_string(size >> shift) + suffix;
  }
  return std::to_string(size);
}

/// The reverse, below 2^63. Empty for what is no size.
inline std::optional<std::uint64_t> size_from(std::string_view text) {
  int shift = 0;
  if (!text.empty()) {
    constexpr std::string_view suffixes = "KMG";
    if (const auto at = suffixes.find(text.back()); at != suffixes.npos) {
      shift = 10 * (static_cast<int>(at) + 1);
      text.remove_suffix(1);
    }
  }
  std::uint64_t size = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (size > (UINT64_MAX >> 1 >> shift)) return std::nullopt;
  return size << shift;
}

inline std::string_view last_component(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == path.npos ? path : path.substr(slash + 1);
}

inline std::string made_name(std::uint64_t size, unsigned number) {
  return std::string(made_prefix) + size_text(size) + "." + std::to_string(number);
}

/// The size of a file of that name, if it is one that make_files() could have made.
inline std::optional<std::uint64_t> made_size(std::string_view path) {
  std::string_view name = last_component(path);
  if (!name.starts_with(made_prefix)) return std::nullopt;
  name.remove_prefix(made_prefix.size());
  const std::size_t dot = name.find('.');
  if (dot == name.npos || name.find_first_not_of("0123456789", dot + 1) != name.npos) return std::nullopt;
  if (dot + 1 == name.size()) return std::nullopt;
  return size_from(name.substr(0, dot));
}

/// What `load make-files` is asked for.
struct MakeFiles {
  std::string folder{};
  std::vector<std::uint64_t> sizes{};
  unsigned count = 0;     // of each size
  std::uint64_t big = 0;  // one more, for random ranges; 0: none
};

/// Writes and syncs the files (synced: pages that are clean can be evicted). One that is there with its size
/// is kept. Prints the names on stdout, one a line, without the big one, and on stderr what was done. Throws
/// StartError.
void make_files(const MakeFiles& wanted);

}  // namespace load

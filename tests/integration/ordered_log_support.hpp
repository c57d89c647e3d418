// What the tests of m4_ordered_log share: a folder for the log, the server in all its ways, a client that PUTs, and what
// is in the file afterwards, read by the same code that recovers it.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "servers/common/file_content.hpp"
#include "servers/m4_ordered_log/recovery.hpp"
#include "tests/support/client.hpp"
#include "tests/support/server_process.hpp"
#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace ordered_log_test {

inline const std::string program = BUILD_DIR "/m4_ordered_log";

/// The ways that serve. (The sixth is the one that stalls.)
inline constexpr const char* all_ways[] = {"--order wait", "--order drain", "--order link",
                                           "--order wait --log-ring serving",
                                           "--order link --log-ring serving"};

inline std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// A folder that goes with the test, and the log in it.
class Folder : public tests::TemporaryFolder {
 public:
  std::string name() const { return path().string(); }
  std::string log() const { return name() + "/log"; }
};

class Server : public tests::ServerProcess {
 public:
  explicit Server(const std::string& log, const std::string& arguments = "", const tests::Rights& rights = {})
      : ServerProcess(program, words_of("--file " + log + " " + arguments), rights) {}

  /// SIGTERM: exit code 0, nothing leaked.
  tests::Ended check_clean_end() {
    tests::Ended ended = stop();
    CAPTURE(ended.errors);
    CAPTURE(ended.last_line);
    CHECK(ended.status == 0);
    CHECK(ended.has_counters);
    CHECK(ended.counters.leaks == 0);
    return ended;
  }

  /// The file can grow to this size and no further (RLIMIT_FSIZE): a write behind it is short, or EFBIG.
  void limit_file_size(::rlim_t bytes) const {
    const ::rlimit limit{.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
    CHECK(::prlimit(pid(), RLIMIT_FSIZE, &limit, nullptr) == 0);
  }
};

inline std::string put(std::string_view bytes) {
  return "PUT " + std::to_string(bytes.size()) + "\n" + std::string(bytes);
}

/// Bytes that follow from a number.
inline std::string content(std::uint64_t number, std::size_t length) {
  std::string bytes(length, '\0');
  common::fill_content(std::as_writable_bytes(std::span(bytes)), number, 0);
  return bytes;
}

/// The offset in "OK <offset>\n"; -1 for anything else.
inline std::int64_t offset_in(const std::string& answer) {
  if (!answer.starts_with("OK ") || answer.back() != '\n') return -1;
  return std::strtoll(answer.c_str() + 3, nullptr, 10);
}

/// One record, and its answer.
inline std::string ask(tests::Client& client, std::string_view bytes) {
  if (!client.send_all(put(bytes))) return "the connection is gone";
  return client.receive_line();
}

using Records = std::map<std::uint64_t, std::string>;

/// What is in a log, by offset. It must be whole to its end.
inline Records records_in(const std::string& path) {
  const common::Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Records records;
  const ordered_log::Found found =
      ordered_log::scan(file.get(), [&](std::uint64_t offset, std::span<const std::byte> record) {
        std::string& bytes = records[offset];
        bytes.resize(record.size() - ordered_log::header_bytes);
        std::copy(record.begin() + ordered_log::header_bytes, record.end(),
                  std::as_writable_bytes(std::span(bytes)).begin());
      });
  CHECK(found.end == found.size);
  return records;
}

}  // namespace ordered_log_test

// Files that stay open between requests: a request costs a look into a table, not openat2, statx and close.
//
//   open(path) ──► in the table, opened less than a second ago ──► the same file
//                  in the table, older: forgotten, opened anew
//                  not in the table: openat2 beneath the root, statx of what was opened
//
// So a file that was replaced, written, removed, or may not be opened any more, is noticed within a second, by
// the request that comes then. Only openat2 can tell all of that: a path can come to lead out of the root.
// Who is reading the old one goes on reading it: an open file is closed when its last user has released it
// and the table has forgotten it, or when it is the one unused longest of more than `capacity` unused ones.
//
// A file that gave EIO is broken: it answers EIO without being tried, until its facts change.
//
// No descriptor left (EMFILE, ENFILE): the file unused longest is closed, then the open is tried once more.
//
// Opening blocks the loop, in all modes. It takes from the directory cache what it needs, as a rule, and a
// thread pool for it would cost every request for a file that is not open two context switches.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

#include "servers/common/counters.hpp"
#include "servers/common/descriptor.hpp"
#include "servers/common/file_facts.hpp"

namespace file_server {

using Time = std::chrono::steady_clock::time_point;

struct OpenFile {
  std::string path{};
  common::Descriptor fd{};
  common::FileFacts facts{};
  Time checked{};
  std::list<OpenFile>::iterator self{};
  std::uint32_t users = 0;
  bool direct = false;  // open with O_DIRECT
  bool known = false;   // the table finds it by its path
  bool broken = false;  // it gave EIO
};

class FileCache {
 public:
  struct Result {
    OpenFile* file;  // release() it; nullptr: not to be had
    int error;       // then: a positive errno
  };

  /// `root` is the served folder and stays the caller's. capacity 0: every request opens and closes.
  FileCache(int root, std::uint32_t capacity, bool direct, common::Counters& counters)
      : root_(root), capacity_(capacity), direct_(direct), counters_(counters) {}

  /// `path` is relative and has a NUL behind it.
  Result open(std::string_view path, Time now);

  /// One more user of a file that is in use.
  void share(OpenFile& file) noexcept { ++file.users; }
  void release(OpenFile& file) noexcept;

  /// Closes the file that is unused longest. False: there is none.
  bool close_unused() noexcept;

  std::size_t in_use() const noexcept { return used_.size(); }
  std::size_t unused() const noexcept { return unused_.size(); }

 private:
  Result use(OpenFile& file) noexcept;
  Result open_new(const char* path, Time now);
  int open_path(const char* path, bool direct) noexcept;
  int look_at(OpenFile& file) noexcept;
  void forget(OpenFile& file) noexcept;
  void close(OpenFile& file) noexcept;
  void say_not_direct(const char* path) noexcept;

  int root_;
  std::size_t capacity_;
  bool direct_;
  bool said_not_direct_ = false;
  common::Counters& counters_;
  std::unordered_map<std::string_view, OpenFile*> table_{};  // the keys are the files' own paths
  std::list<OpenFile> used_{};
  std::list<OpenFile> unused_{};  // the one unused longest in front
};

}  // namespace file_server

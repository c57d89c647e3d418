// Open files, by path: opened once, kept while they are in use and some time longer, looked at again when a
// second has passed.
//
//            get(path)
//               │ not there              ┌──────────── older than a second ───────────┐
//               ▼                        ▼                                            │
//            opening ── OPENAT2 ──► looking ── STATX ──► open ── get ── release ──► idle, in the order of use
//               │                        │                 │                          │
//               └── failed ◄─────────────┘          the path now leads to             │ the cache is full,
//                  (answered, forgotten)            another file: a new File          │ or descriptors are short
//                                                   takes its place                   ▼
//                                                                                  closing ── CLOSE ──► gone
//
// Everything goes through the ring, so get() does not wait. A file that is not ready yet has waiters, and
// what `completed` returns says who need not wait any longer.
//
// Who uses a file holds a reference, and a file with references is never closed: not when it is replaced, not
// when the cache is full. So there are at most `capacity` idle files, and besides them those in use.
//
// What is promised about change: an answer that begins more than a second after a file was written, replaced
// or removed shows it. (A second, because the check costs a STATX, which always runs on a worker thread of
// the kernel.) A failure is never kept: the next request tries again. A file that gave EIO is the exception:
// it stays unusable until it changes.
//
// With direct descriptors the file is opened into a slot of the ring's table, and STATX, which cannot name
// such a file, goes by path. Somebody who can rename files within the root can make the two disagree; then a
// length is wrong (and the connection is reset when the file turns out shorter), but what is read is always
// the file that OPENAT2 has vetted.
#pragma once

#include <linux/openat2.h>

#include <chrono>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "servers/common/counters.hpp"
#include "servers/common/file_facts.hpp"
#include "servers/common/intrusive_list.hpp"
#include "servers/common_ring/operations.hpp"
#include "uring/direct_files.hpp"

namespace common_ring {

using Time = std::chrono::steady_clock::time_point;

/// Somebody who waits for a file to be ready. Derive from it.
struct FileWaiter {
  FileWaiter* next_waiter = nullptr;
};

struct File {
  enum class State : std::uint8_t { opening, looking, open, failed, closing };

  explicit File(std::string_view name) : path(name) {}

  /// Whether an answer can be given: from the file, or from `error`.
  bool settled() const noexcept { return state == State::open || state == State::failed; }
  /// Reads begin and end at multiples of this.
  std::uint32_t alignment() const noexcept { return through_cache ? 1 : facts.offset_alignment; }

  std::string path;
  State state = State::opening;
  bool listed = true;                       // found by its path; else replaced, or failed
  bool through_cache = true;                // false: opened with O_DIRECT
  int error = 0;                            // positive errno: answer with that
  int fd = -1;                              // the descriptor, or
  std::optional<uring::DirectSlot> slot{};  // the slot of the ring's table
  std::uint32_t references = 0;
  std::uint32_t tries = 0;
  common::FileFacts facts{};
  Time looked_at{};
  FileWaiter* first_waiter = nullptr;
  FileWaiter* last_waiter = nullptr;
  common::Link<File> idle{};
  common::Link<File> line{};  // for a descriptor
  struct ::statx status {};   // the kernel writes here while we look
  std::list<File>::iterator self{};
};

class FileCache {
 public:
  struct Options {
    int root = -1;                        // files are opened beneath this folder
    std::uint32_t capacity = 0;           // idle files that stay open
    bool past_page_cache = false;         // O_DIRECT where the file system can
    uring::DirectFiles* slots = nullptr;  // null: ordinary descriptors
  };

  FileCache(Operations& operations, const Options& options) noexcept;

  /// The file at `path`, which has no NUL in it. Counts a reference: release() it. If it is not settled(),
  /// wait() for it.
  File& get(std::string_view path, Time now);

  /// `waiter` is handed out by the completed() that settles `file`.
  static void wait(File& file, FileWaiter& waiter) noexcept;

  void release(File& file);

  /// A read came up short: looks at the file at once. Follow it by wait().
  void look_again(File& file);

  /// A read failed with `error` (EIO): every request is answered with it until the file changes.
  static void mark_unusable(File& file, int error) noexcept { file.error = error; }

  struct Settled {
    File* file = nullptr;           // null: nothing to do
    FileWaiter* waiters = nullptr;  // in order, each with one of the file's references
  };
  /// A completion of kind open_file, look_at_file or close_file. The waiters' file may be another one than
  /// they waited for: the one that is at the path now.
  Settled completed(Kind kind, File& file, int result, Time now);

  /// Closes a file that nobody uses, the longest idle one; false: there is none.
  bool close_one();
  void close_idle() {
    while (close_one()) {
    }
  }

  std::size_t open_files() const noexcept { return files_.size(); }
  std::size_t idle_files() const noexcept { return idle_.size(); }

 private:
  File& add(std::string_view path);
  void start_open(File& file);
  void start_look(File& file, bool by_path);
  void start_close(File& file);
  void forget(File& file);
  void trim();
  Settled opened(File& file, int result);
  Settled open_failed(File& file, int error);
  Settled looked(File& file, int result, Time now);
  Settled looked_again(File& file, int result, Time now);
  Settled replaced(File& file);
  Settled settle(File& file, File::State state, int error);
  void closed(File& file);
  void give_slot_back(File& file) noexcept;
  bool accept_facts(File& file);

  Operations& operations_;
  Options options_;
  open_how how_through_cache_;
  open_how how_past_cache_;
  std::list<File> files_{};
  std::unordered_map<std::string_view, File*> by_path_{};
  common::List<File, &File::idle> idle_{};
  common::List<File, &File::line> line_{};  // those that found no descriptor
  std::size_t closing_ = 0;
  bool said_buffered_ = false;
};

}  // namespace common_ring

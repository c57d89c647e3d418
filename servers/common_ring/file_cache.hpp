// Open files, by path: opened once, kept while they are in use and some time longer, opened anew when a second
// has passed.
//
//            get(path)
//               │ not there, or older than a second
//               ▼
//            opening ── OPENAT2 ──► looking ── STATX ──► open ── get ── release ──► idle, in the order of use
//               │                        │                                            │ the cache is full,
//               └── failed ◄─────────────┘                                            │ descriptors are short,
//                  (answered, forgotten)                                              ▼ or it is too old
//                                                                                  closing ── CLOSE ──► gone
//
// Everything goes through the ring, so get() does not wait. A file that is not ready yet has waiters, and
// what `completed` returns says who need not wait any longer.
//
// Who uses a file holds a reference, and a file with references is never closed: not when a newer one has its
// path, not when the cache is full. So there are at most `capacity` idle files, and besides them those in
// use.
//
// What is promised about change: an answer that begins more than a second after a file was written, replaced,
// removed, or had its permissions changed, shows it. To be sure of all of these the path is walked again, by
// OPENAT2 with its rules; a mere STATX of the path would not notice that it has come to lead out of the root.
// (Once a second for each file that is asked for, because a STATX always runs on a worker thread of the
// kernel.) A failure is never kept: the next request tries again. A file that gave EIO is the exception: it
// stays unusable until it changes.
//
// With direct descriptors the file is opened into a slot of the ring's table, and STATX, which cannot name
// such a file, goes by path. Somebody who renames files at that very moment can make the two disagree: then,
// until the next look a second later, a length is wrong, and a connection is reset if the file is shorter.
// What is read is always the file that OPENAT2 has vetted.
#pragma once

#include <linux/openat2.h>

#include <chrono>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "servers/common/file_facts.hpp"
#include "servers/common/intrusive_list.hpp"
#include "servers/common_ring/frame.hpp"
#include "uring/direct_files.hpp"

namespace common_ring {

struct Connection;
struct Chunk;
struct File;
struct Loan;

/// What an operation of a file server is about: the first member that is set says it.
struct Subject {
  Connection* connection = nullptr;
  Chunk* chunk = nullptr;
  File* file = nullptr;
  Loan* loan = nullptr;
};
using FileOperations = Operations<uring::Loop, Subject>;

/// Somebody who waits for a file to be ready. Derive from it.
struct FileWaiter {
  FileWaiter* next_waiter = nullptr;
};

struct File {
  enum class State : std::uint8_t { opening, looking, open, failed, closing };

  File(std::string_view name, Time now) : path(name), asked_at(now) {}

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
  std::optional<common::FileFacts> unusable{};  // the facts of a predecessor that could not be read
  Time asked_at;                                // what is known of it is not older than this
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

  FileCache(FileOperations& operations, const Options& options) noexcept;

  /// The file at `path`, which has no NUL in it. Counts a reference: release() it. If it is not settled(),
  /// wait() for it.
  File& get(std::string_view path, Time now);

  /// `waiter` is handed out by the completed() that settles `file`.
  static void wait(File& file, FileWaiter& waiter) noexcept;

  void release(File& file);

  /// What is known of `file` is not true any more: the next get() opens its path anew.
  void expire(File& file);

  /// A read failed with `error` (EIO): every request is answered with it until the file changes.
  static void mark_unusable(File& file, int error) noexcept { file.error = error; }

  /// A completion of kind open_file, look_at_file or close_file. Returns those who waited for the file, in
  /// order, each with one of its references; null: there is nothing to do.
  FileWaiter* completed(Kind kind, File& file, int result);

  /// Closes a file that nobody uses, the longest idle one; false: there is none.
  bool close_one();
  void close_idle() {
    while (close_one()) {
    }
  }

  std::size_t open_files() const noexcept { return files_.size(); }
  std::size_t idle_files() const noexcept { return idle_.size(); }

  /// Direct system calls.
  std::uint64_t syscalls() const noexcept { return syscalls_; }

 private:
  File& add(std::string_view path, Time now);
  void start_open(File& file);
  void start_look(File& file);
  void start_close(File& file);
  void close(File& file);
  void forget(File& file);
  FileWaiter* opened(File& file, int result);
  FileWaiter* open_failed(File& file, int error);
  FileWaiter* looked(File& file, int result);
  static FileWaiter* settle(File& file, File::State state, int error) noexcept;
  void closed(File& file, int result);
  void give_slot_back(File& file) noexcept;
  int examine(File& file);
  void say_buffered(const File& file);

  FileOperations& operations_;
  Options options_;
  open_how how_through_cache_;
  open_how how_past_cache_;
  std::list<File> files_{};
  std::unordered_map<std::string_view, File*> by_path_{};
  common::List<File, &File::idle> idle_{};
  common::List<File, &File::line> line_{};  // those that found no descriptor
  std::size_t closing_ = 0;
  std::uint64_t syscalls_ = 0;
  bool said_buffered_ = false;
};

}  // namespace common_ring

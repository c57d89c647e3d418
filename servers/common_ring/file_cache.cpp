#include "servers/common_ring/file_cache.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "servers/common/error_class.hpp"
#include "servers/common/file_options.hpp"
#include "servers/common/served_root.hpp"
#include "uring/prep_files.hpp"

namespace common_ring {

namespace {

using uring::Token;

// EAGAIN of openat2 means that something was renamed during the walk; a path that is renamed all the time
// must not keep us for ever.
constexpr std::uint32_t max_tries = 16;

// Buffers begin at a page and are whole pages long.
constexpr std::uint32_t largest_alignment = 4096;

bool is_shortage(int error) noexcept { return error == EMFILE || error == ENFILE; }

}  // namespace

FileCache::FileCache(FileOperations& operations, const Options& options) noexcept
    : operations_(operations),
      options_(options),
      how_through_cache_(common::served_open_how()),
      how_past_cache_(common::served_open_how(O_DIRECT)) {
  if (options_.slots == nullptr) return;
  // A direct descriptor cannot survive an exec, so the kernel refuses to be told that it should not.
  how_through_cache_.flags &= ~std::uint64_t{O_CLOEXEC};
  how_past_cache_.flags &= ~std::uint64_t{O_CLOEXEC};
}

// ---- Getting and giving back -----------------------------------------------------------------------------

File& FileCache::get(std::string_view path, Time now) {
  const auto found = by_path_.find(path);
  File* file = found != by_path_.end() ? found->second : nullptr;
  if (file == nullptr) {
    file = &add(path, now);
  } else if (file->state == File::State::open && now - file->asked_at >= common::recheck_after) {
    File& newer = add(path, now);  // in the place of the old one, which lives on while somebody reads it
    if (file->error != 0) newer.unusable = file->facts;
    if (file->references == 0) close(*file);
    file = &newer;
  }
  ++file->references;
  idle_.remove(*file);
  return *file;
}

File& FileCache::add(std::string_view path, Time now) {
  File& file = files_.emplace_front(path, now);
  file.self = files_.begin();
  file.through_cache = !options_.past_page_cache;
  if (const auto old = by_path_.find(path); old != by_path_.end()) forget(*old->second);
  by_path_.emplace(file.path, &file);
  start_open(file);
  return file;
}

void FileCache::wait(File& file, FileWaiter& waiter) noexcept {
  waiter.next_waiter = nullptr;
  FileWaiter*& place = file.last_waiter != nullptr ? file.last_waiter->next_waiter : file.first_waiter;
  place = &waiter;
  file.last_waiter = &waiter;
}

void FileCache::release(File& file) {
  if (--file.references > 0) return;
  if (!line_.empty()) forget(file);  // its descriptor is wanted more than its contents
  if (!file.listed) return close(file);
  idle_.push_back(file);
  while (idle_.size() > options_.capacity) close_one();
}

void FileCache::expire(File& file) {
  forget(file);
  if (file.references == 0) close(file);
}

bool FileCache::close_one() {
  File* const file = idle_.first();
  if (file == nullptr) return false;
  forget(*file);
  close(*file);
  return true;
}

// No request finds it any more. Those that use it go on.
void FileCache::forget(File& file) {
  if (!std::exchange(file.listed, false)) return;
  by_path_.erase(file.path);
}

void FileCache::close(File& file) {
  idle_.remove(file);
  file.state = File::State::closing;
  ++closing_;
  start_close(file);
}

// ---- What goes into the ring -----------------------------------------------------------------------------

void FileCache::start_open(File& file) {
  file.state = File::State::opening;
  if (options_.slots != nullptr) file.slot = options_.slots->take();
  operations_.start(Kind::open_file, {.file = &file}, [&](io_uring_sqe& sqe, Token token) {
    const open_how* const how = file.through_cache ? &how_through_cache_ : &how_past_cache_;
    if (options_.slots != nullptr && !file.slot) {
      uring::prep::nop(sqe, token);  // no slot is free: opened() makes ENFILE of it, a turn later
    } else if (file.slot) {
      uring::prep::openat2_direct(sqe, options_.root, file.path.c_str(), how, *file.slot, token);
    } else {
      uring::prep::openat2(sqe, options_.root, file.path.c_str(), how, token);
    }
  });
}

void FileCache::start_look(File& file) {
  file.state = File::State::looking;
  operations_.start(Kind::look_at_file, {.file = &file}, [&](io_uring_sqe& sqe, Token token) {
    const int folder = file.slot ? options_.root : file.fd;
    const char* const path = file.slot ? file.path.c_str() : "";
    const int flags = file.slot ? 0 : AT_EMPTY_PATH;
    uring::prep::statx(sqe, folder, path, flags, common::file_facts_mask, &file.status, token);
  });
}

void FileCache::start_close(File& file) {
  operations_.start(Kind::close_file, {.file = &file}, [&](io_uring_sqe& sqe, Token token) {
    if (file.slot) {
      uring::prep::close_direct(sqe, *file.slot, token);
    } else if (file.fd >= 0) {
      uring::prep::close(sqe, file.fd, token);
    } else {
      uring::prep::nop(sqe, token);  // it never opened
    }
  });
}

// ---- What comes out of it --------------------------------------------------------------------------------

FileWaiter* FileCache::completed(Kind kind, File& file, int result) {
  if (kind == Kind::open_file) return opened(file, result);
  if (kind == Kind::look_at_file) return looked(file, result);
  closed(file, result);
  return nullptr;
}

FileWaiter* FileCache::opened(File& file, int result) {
  if (result < 0) return open_failed(file, -result);
  if (options_.slots != nullptr && !file.slot) return open_failed(file, ENFILE);
  if (!file.slot) file.fd = result;
  start_look(file);
  return nullptr;
}

FileWaiter* FileCache::open_failed(File& file, int error) {
  give_slot_back(file);
  if (common::classify(error) == common::ErrorClass::transient && ++file.tries < max_tries) {
    start_open(file);
    return nullptr;
  }
  if (error == EINVAL && !file.through_cache) {
    say_buffered(file);
    file.through_cache = true;
    start_open(file);
    return nullptr;
  }
  // A descriptor that is about to be closed, or can be, will do for this one.
  if (is_shortage(error) && ++file.tries < max_tries && (close_one() || closing_ > 0)) {
    line_.push_back(file);
    return nullptr;
  }
  forget(file);
  return settle(file, File::State::failed, error);
}

FileWaiter* FileCache::looked(File& file, int result) {
  const int error = result < 0 ? -result : examine(file);
  if (error != 0) {
    forget(file);
    return settle(file, File::State::failed, error);
  }
  // What could not be read, and has not changed, cannot be read now.
  const bool unusable = file.unusable && *file.unusable == file.facts;
  return settle(file, File::State::open, unusable ? EIO : 0);
}

// What statx said: 0, or the errno of what is not served.
int FileCache::examine(File& file) {
  file.facts = common::facts_of(file.status);
  if (const int refusal = common::refusal_of_mode(file.facts.mode); refusal != 0) return refusal;
  std::uint32_t& alignment = file.facts.offset_alignment;
  if (!file.through_cache) {
    if (alignment == 0) {  // the kernel took the flag, and goes through its cache all the same
      say_buffered(file);
      alignment = largest_alignment;
    }
    if (alignment > largest_alignment || file.facts.memory_alignment > largest_alignment) return EINVAL;
  }
  // O_NONBLOCK has done its work. To io_uring it would say that no read of this file blocks, and on a file
  // system that cannot read without blocking the whole loop would wait. (A slot's flags cannot be changed.)
  if (!file.slot) {
    ++syscalls_;
    ::fcntl(file.fd, F_SETFL, file.through_cache ? 0 : O_DIRECT);
  }
  return 0;
}

void FileCache::say_buffered(const File& file) {
  if (std::exchange(said_buffered_, true)) return;
  std::fprintf(stderr, "%s cannot be read with O_DIRECT: through the page cache, as all others of its kind\n",
               file.path.c_str());
}

FileWaiter* FileCache::settle(File& file, File::State state, int error) noexcept {
  file.state = state;
  file.error = error;
  file.last_waiter = nullptr;
  return std::exchange(file.first_waiter, nullptr);
}

void FileCache::closed(File& file, int result) {
  if (result == -ENOMEM) {  // it got no SQE, so it was not even tried
    if (file.slot) return start_close(file);
    ++syscalls_;
    ::close(file.fd);
  }
  give_slot_back(file);
  --closing_;
  files_.erase(file.self);
  // One descriptor is free, so one may try again; and all of them when no other will become free.
  do {
    if (File* const next = line_.pop_front()) start_open(*next);
  } while (closing_ == 0 && !line_.empty());
}

void FileCache::give_slot_back(File& file) noexcept {
  if (file.slot) options_.slots->give_back(*std::exchange(file.slot, std::nullopt));
}

}  // namespace common_ring

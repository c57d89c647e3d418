#include "servers/common_ring/file_cache.hpp"

#include <fcntl.h>

#include <algorithm>
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

FileCache::FileCache(Operations& operations, const Options& options) noexcept
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
  File& file = found != by_path_.end() ? *found->second : add(path);
  ++file.references;
  idle_.remove(file);
  if (file.state == File::State::open && now - file.looked_at >= common::recheck_after) look_again(file);
  return file;
}

File& FileCache::add(std::string_view path) {
  File& file = files_.emplace_front(path);
  file.self = files_.begin();
  file.through_cache = !options_.past_page_cache;
  by_path_.emplace(file.path, &file);
  start_open(file);
  return file;
}

void FileCache::wait(File& file, FileWaiter& waiter) noexcept {
  waiter.next_waiter = nullptr;
  (file.last_waiter != nullptr ? file.last_waiter->next_waiter : file.first_waiter) = &waiter;
  file.last_waiter = &waiter;
}

void FileCache::release(File& file) {
  if (--file.references > 0) return;
  if (!line_.empty()) forget(file);  // its descriptor is wanted more than its contents
  if (!file.listed) return start_close(file);
  idle_.push_back(file);
  trim();
}

void FileCache::trim() {
  while (idle_.size() > options_.capacity) close_one();
}

bool FileCache::close_one() {
  File* const file = idle_.pop_front();
  if (file == nullptr) return false;
  forget(*file);
  start_close(*file);
  return true;
}

// No request finds it any more. Those that use it go on.
void FileCache::forget(File& file) {
  if (!std::exchange(file.listed, false)) return;
  by_path_.erase(file.path);
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

void FileCache::start_look(File& file, bool by_path) {
  file.state = File::State::looking;
  operations_.start(Kind::look_at_file, {.file = &file}, [&](io_uring_sqe& sqe, Token token) {
    if (by_path) {
      uring::prep::statx(sqe, options_.root, file.path.c_str(), 0, common::file_facts_mask, &file.status,
                         token);
    } else {
      uring::prep::statx(sqe, file.fd, "", AT_EMPTY_PATH, common::file_facts_mask, &file.status, token);
    }
  });
}

void FileCache::look_again(File& file) {
  // Somebody else may have asked already.
  if (file.state == File::State::open) start_look(file, true);
}

void FileCache::start_close(File& file) {
  file.state = File::State::closing;
  ++closing_;
  if (file.fd < 0 && !file.slot) return closed(file);
  operations_.start(Kind::close_file, {.file = &file}, [&](io_uring_sqe& sqe, Token token) {
    if (file.slot) {
      uring::prep::close_direct(sqe, *file.slot, token);
    } else {
      uring::prep::close(sqe, file.fd, token);
    }
  });
}

// ---- What comes out of it --------------------------------------------------------------------------------

FileCache::Settled FileCache::completed(Kind kind, File& file, int result, Time now) {
  switch (kind) {
    case Kind::open_file:
      return opened(file, result);
    case Kind::look_at_file:
      // facts are there already when this was not the first look
      return file.looked_at == Time{} ? looked(file, result, now) : looked_again(file, result, now);
    default:
      closed(file);
      return {};
  }
}

FileCache::Settled FileCache::opened(File& file, int result) {
  if (result < 0) return open_failed(file, -result);
  if (options_.slots != nullptr && !file.slot) return open_failed(file, ENFILE);
  if (!file.slot) file.fd = result;
  start_look(file, file.slot.has_value());
  return {};
}

FileCache::Settled FileCache::open_failed(File& file, int error) {
  give_slot_back(file);
  if (common::classify(error) == common::ErrorClass::transient && ++file.tries < max_tries) {
    start_open(file);
    return {};
  }
  if (error == EINVAL && !file.through_cache) {
    if (!std::exchange(said_buffered_, true)) {
      std::fprintf(stderr, "%s cannot be opened with O_DIRECT (EINVAL): read through the page cache\n",
                   file.path.c_str());
    }
    file.through_cache = true;
    start_open(file);
    return {};
  }
  // A descriptor that is about to be closed, or can be, will do for this one.
  if (is_shortage(error) && ++file.tries < max_tries && (close_one() || closing_ > 0)) {
    line_.push_back(file);
    return {};
  }
  return settle(file, File::State::failed, error);
}

FileCache::Settled FileCache::looked(File& file, int result, Time now) {
  if (result < 0) return settle(file, File::State::failed, -result);
  file.looked_at = now;
  if (!accept_facts(file)) return settle(file, File::State::failed, file.error);
  return settle(file, File::State::open, 0);
}

// Takes over what statx said; false: it is nothing that is served.
bool FileCache::accept_facts(File& file) {
  file.facts = common::facts_of(file.status);
  file.error = common::refusal_of_mode(file.facts.mode);
  if (file.error != 0) return false;
  const std::uint32_t alignment = std::max(file.facts.offset_alignment, file.facts.memory_alignment);
  if (file.through_cache || (alignment > 0 && alignment <= largest_alignment)) return true;
  // It was opened with O_DIRECT, and cannot be read that way after all.
  if (file.slot) file.error = EINVAL;
  if (!file.slot) ::fcntl(file.fd, F_SETFL, O_NONBLOCK);
  file.through_cache = true;
  return file.error == 0;
}

FileCache::Settled FileCache::looked_again(File& file, int result, Time now) {
  const common::FileFacts now_there = common::facts_of(file.status);
  if (result < 0 || !now_there.same_file(file.facts)) return replaced(file);
  const bool changed = now_there != file.facts;
  const int error = changed ? 0 : file.error;  // what could not be read may be readable now
  file.looked_at = now;
  file.facts = now_there;
  return settle(file, File::State::open, error);
}

// The path leads elsewhere, or nowhere. Who reads the old file goes on; who waits wants the new one.
FileCache::Settled FileCache::replaced(File& file) {
  file.state = File::State::open;
  forget(file);
  // It may have been replaced before, while somebody was still reading it; then its successor is there.
  const auto found = by_path_.find(file.path);
  File& successor = found != by_path_.end() ? *found->second : add(file.path);
  idle_.remove(successor);
  FileWaiter* const waiters = std::exchange(file.first_waiter, nullptr);
  file.last_waiter = nullptr;
  for (FileWaiter* next = waiters; next != nullptr;) {
    FileWaiter& waiter = *std::exchange(next, next->next_waiter);
    ++successor.references;
    --file.references;
    if (!successor.settled()) wait(successor, waiter);
  }
  if (file.references == 0) start_close(file);
  if (!successor.settled()) return {};
  return {.file = &successor, .waiters = waiters};
}

FileCache::Settled FileCache::settle(File& file, File::State state, int error) {
  file.state = state;
  file.error = error;
  if (state == File::State::failed) forget(file);
  file.last_waiter = nullptr;
  return {.file = &file, .waiters = std::exchange(file.first_waiter, nullptr)};
}

void FileCache::closed(File& file) {
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

#include "baseline_epoll/file_server/file_cache.hpp"

#include <cerrno>
#include <cstdio>
#include <optional>

#include "servers/common/file_options.hpp"
#include "servers/common/served_root.hpp"

namespace file_server {
namespace {

// What O_DIRECT may ask for: chunk.hpp has that much room around a buffer.
constexpr std::uint32_t max_alignment = 4096;

}  // namespace

FileCache::Result FileCache::open(std::string_view path, Time now) {
  const auto found = table_.find(path);
  if (found == table_.end()) return open_new(path.data(), now);
  OpenFile& old = *found->second;
  if (now - old.checked < common::recheck_after) return use(old);
  const std::optional<common::FileFacts> unusable =
      old.broken ? std::optional(old.facts) : std::optional<common::FileFacts>();
  forget(old);
  const Result opened = open_new(path.data(), now);
  if (opened.file == nullptr || opened.file->facts != unusable) return opened;
  opened.file->broken = true;
  release(*opened.file);
  return {nullptr, EIO};
}

FileCache::Result FileCache::use(OpenFile& file) noexcept {
  if (file.broken) return {nullptr, EIO};
  if (file.users++ == 0) used_.splice(used_.end(), unused_, file.self);
  return {&file, 0};
}

void FileCache::release(OpenFile& file) noexcept {
  if (--file.users > 0) return;
  unused_.splice(unused_.end(), used_, file.self);
  if (!file.known) return close(file);
  if (unused_.size() > capacity_) close_unused();
}

bool FileCache::close_unused() noexcept {
  if (unused_.empty()) return false;
  forget(unused_.front());
  return true;
}

// Its path leads elsewhere now. Who reads it goes on.
void FileCache::forget(OpenFile& file) noexcept {
  table_.erase(file.path);
  file.known = false;
  if (file.users == 0) close(file);
}

void FileCache::close(OpenFile& file) noexcept {
  ++counters_.syscalls;
  unused_.erase(file.self);
}

FileCache::Result FileCache::open_new(const char* path, Time now) {
  bool direct = direct_;
  int fd = open_path(path, direct);
  if ((fd == -EMFILE || fd == -ENFILE) && close_unused()) fd = open_path(path, direct);
  if (fd == -EINVAL && direct) {
    direct = false;
    fd = open_path(path, direct);
  }
  if (fd < 0) return {nullptr, -fd};
  OpenFile& file = used_.emplace_back();
  file.self = std::prev(used_.end());
  file.path = path;
  file.fd.reset(fd);
  file.checked = now;
  file.direct = direct;
  if (const int error = look_at(file); error != 0) {
    ++counters_.syscalls;
    used_.pop_back();
    return {nullptr, error};
  }
  file.users = 1;
  file.known = capacity_ > 0;
  if (file.known) table_.emplace(file.path, &file);
  return {&file, 0};
}

// A descriptor, or -errno. EAGAIN: something was renamed during the walk; the next one meets the new name.
int FileCache::open_path(const char* path, bool direct) noexcept {
  int fd = -EAGAIN;
  for (int tries = 0; tries < 4 && fd == -EAGAIN; ++tries) {
    ++counters_.syscalls;
    fd = common::open_served(root_, path, direct ? O_DIRECT : 0);
  }
  return fd;
}

// Fills in the facts of a file that was just opened; 0, or the errno to answer with.
int FileCache::look_at(OpenFile& file) noexcept {
  struct ::statx status;
  ++counters_.syscalls;
  if (::statx(file.fd.get(), "", AT_EMPTY_PATH, common::file_facts_mask, &status) != 0) return errno;
  file.facts = common::facts_of(status);
  if (const int refusal = common::refusal_of_mode(file.facts.mode); refusal != 0) return refusal;
  const std::uint32_t alignment = file.facts.offset_alignment;
  if (file.direct &&
      (alignment == 0 || alignment > max_alignment || file.facts.memory_alignment > max_alignment)) {
    file.direct = false;
    ++counters_.syscalls;
    if (::fcntl(file.fd.get(), F_SETFL, O_NONBLOCK) != 0) return errno;
  }
  if (direct_ && !file.direct) say_not_direct(file.path.c_str());
  return 0;
}

void FileCache::say_not_direct(const char* path) noexcept {
  if (said_not_direct_) return;
  said_not_direct_ = true;
  std::fprintf(stderr, "%s cannot be read with O_DIRECT; such files are read through the page cache\n", path);
}

}  // namespace file_server

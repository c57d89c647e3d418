// Opening a log: whose it is, what is in it, and where it goes on.
//
//      0                                      end            size
//     +----------+-------+-----------------+--------------+
//     | record   | rec.  | record          | torn tail    |      what nobody was told of: cut off
//     +----------+-------+-----------------+--------------+
//
// What was acknowledged lies in front of everything that was not, because the server acknowledges in order, and only
// when a record and all before it are on disk. So the first record that is not valid at its place is the end of what
// anybody was promised. Valid records behind a gap, if there are any, were never acknowledged; they go with the tail.
//
// Before the log goes on, the cut is made durable, and so is what stays: after a crash of the process alone, records
// may be read from the page cache that no disk has seen.
//
// All of it by plain blocking calls, before the first client: there is nothing yet that could wait meanwhile.
//
// Limits: a bit that rots in the middle looks like a torn tail, and what is behind it is cut with it. Who wants to
// tell the two apart must keep a second copy.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "servers/common/descriptor.hpp"
#include "servers/common/start_error.hpp"
#include "servers/m4_ordered_log/record.hpp"

namespace ordered_log {

/// What was found in a log.
struct Found {
  std::uint64_t records = 0;
  std::uint64_t end = 0;   // of the last of them: here the log goes on
  std::uint64_t size = 0;  // of the file, as it was
  bool strange = false;    // what stands at the end is neither zeros nor the beginning of a record
};

[[noreturn]] inline void fail_to(const std::string& what, int error) {
  throw common::StartError(common::exit_failed, "cannot " + what + ": " + common::errno_text(error));
}

/// As many bytes from `offset` on as fit into `buffer`, or as there are.
inline std::span<const std::byte> read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset) {
  std::size_t have = 0;
  while (have < buffer.size()) {
    const ::ssize_t n =
        ::pread(fd, buffer.data() + have, buffer.size() - have, static_cast<::off_t>(offset + have));
    if (n == 0) break;
    if (n < 0 && errno != EINTR) fail_to("read the log", errno);
    have += n > 0 ? static_cast<std::size_t>(n) : 0;
  }
  return buffer.first(have);
}

/// Goes through the log from its beginning: `visit(offset, record)` for each record, header included.
template <class Visit>
Found scan(int fd, Visit&& visit) {
  Found found;
  std::vector<std::byte> buffer(header_bytes + max_length);  // the longest record fits in
  for (;;) {
    const std::span<const std::byte> window = read_at(fd, buffer, found.end);
    std::size_t used = 0;
    while (const auto size = record_at(window.subspan(used), found.end + used)) {
      visit(found.end + used, window.subspan(used, *size));
      used += *size;
      ++found.records;
    }
    found.end += used;
    if (used > 0) continue;
    for (std::size_t i = 0; i < std::min(window.size(), sizeof magic); ++i) {
      const auto byte = std::to_integer<std::uint32_t>(window[i]);
      if (byte != 0 && byte != (magic >> (8 * i) & 0xff)) found.strange = true;
    }
    break;
  }
  struct ::stat facts {};
  if (::fstat(fd, &facts) != 0) fail_to("look at the log", errno);
  found.size = static_cast<std::uint64_t>(facts.st_size);
  return found;
}

/// Cuts off the torn tail, and makes what stays durable.
inline Found recover(int fd) {
  const Found found = scan(fd, [](std::uint64_t, std::span<const std::byte>) {});
  // A torn first record begins with its magic, with zeros, or with one and then the other. Anything else is somebody's file, named by mistake.
  if (found.records == 0 && found.strange) {
    throw common::StartError(common::exit_failed, "this is no log: it does not begin with a record");
  }
  if (found.size > found.end && ::ftruncate(fd, static_cast<::off_t>(found.end)) != 0) {
    fail_to("cut off the torn tail", errno);
  }
  if (::fsync(fd) != 0) fail_to("fsync the log", errno);
  return found;
}

/// Makes the name durable: a file that was created is an entry in its directory, and fsync of the file does not
/// cover that. Done at each start: who created it may have crashed in between.
inline void sync_directory_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const common::Descriptor directory(
      ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) fail_to("open the directory of " + path, errno);
  if (::fsync(directory.get()) != 0) fail_to("fsync the directory of " + path, errno);
}

struct OpenLog {
  common::Descriptor fd{};
  Found found{};
};

/// Opens the log, or creates it; no other process may have it open. Says on stderr what was found. Throws StartError.
inline OpenLog open_log(const std::string& path, const char* program) {
  // O_NONBLOCK: a FIFO of that name would wait here for a reader. It means nothing for a file.
  common::Descriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
  if (!fd) fail_to("open " + path, errno);
  struct ::stat facts {};
  if (::fstat(fd.get(), &facts) != 0) fail_to("look at " + path, errno);
  if (!S_ISREG(facts.st_mode)) throw common::StartError(common::exit_usage, path + " is not a regular file");
  // The lock goes with the descriptor, however the process ends. Two servers that append would overwrite each other.
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) fail_to("lock " + path, errno);
    throw common::StartError(
        common::exit_failed,
        path + " is open in another process: one log, one server (see fuser " + path + ")");
  }
  const Found found = recover(fd.get());
  sync_directory_of(path);
  std::fprintf(stderr, "%s: %s holds %llu records, %llu bytes\n", program, path.c_str(),
               static_cast<unsigned long long>(found.records), static_cast<unsigned long long>(found.end));
  if (found.size > found.end) {
    std::fprintf(stderr, "%s: cut off a torn tail of %llu bytes at %llu: no one was told that it is there\n",
                 program, static_cast<unsigned long long>(found.size - found.end),
                 static_cast<unsigned long long>(found.end));
  }
  return {.fd = std::move(fd), .found = found};
}

}  // namespace ordered_log

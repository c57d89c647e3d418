// What may be opened: regular files beneath --root, and nothing else, whatever the path says.
//
// The kernel does the checking while it walks, so there is no gap between a check and the open, and no string
// surgery on "..": RESOLVE_BENEATH refuses every step that leaves the root ("../", an absolute path, a
// symbolic link outwards) with EXDEV; a link that stays inside works. RESOLVE_NO_MAGICLINKS refuses
// /proc/<pid>/fd and its like with ELOOP, should somebody serve a tree that holds a proc. An io_uring server
// hands the same open_how to OPENAT2. Needs Linux 5.6.
//
// O_NONBLOCK is for what turns out not to be a regular file: a FIFO without a writer would park the open for
// ever (in io_uring: a worker thread). What was opened is then looked at, and given back if it is a directory,
// a FIFO, a device: nothing of it has been read. To read(2) of a regular file the flag means nothing; to
// io_uring it does, so its server takes it off again (file_cache.cpp says why).
#pragma once

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "servers/common/descriptor.hpp"
#include "servers/common/start_error.hpp"

namespace common {

/// How a served file is opened; `extra_flags` may be O_DIRECT.
inline open_how served_open_how(int extra_flags = 0) noexcept {
  open_how how{};
  how.flags = static_cast<unsigned>(O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | extra_flags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return how;
}

/// Opens the folder that is served. Throws StartError, exit code 2: the path was the caller's.
inline Descriptor open_root(const std::string& path) {
  Descriptor root(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) throw StartError(exit_usage, "--root " + path + ": " + errno_text(errno));
  return root;
}

/// Opens `path` (relative, NUL-terminated) beneath `root` the synchronous way. Returns the descriptor, or
/// -errno. -EAGAIN: something was renamed during the walk and the kernel could not vouch for it; the next try
/// usually can.
inline int open_served(int root, const char* path, int extra_flags = 0) noexcept {
  open_how how = served_open_how(extra_flags);
  const long fd = ::syscall(SYS_openat2, root, path, &how, sizeof how);
  return fd >= 0 ? static_cast<int>(fd) : -errno;
}

/// Whether an open file with this st_mode (stx_mode) is served: 0, or the errno to answer with.
inline int refusal_of_mode(unsigned mode) noexcept {
  if (S_ISREG(mode)) return 0;
  return S_ISDIR(mode) ? EISDIR : EACCES;
}

}  // namespace common

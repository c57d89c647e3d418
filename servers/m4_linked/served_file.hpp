// The file of --mode file: open from the start to the end, and looked at now and then for its length.
//
// Its length stands in the SQEs of chains that wait for their clients. So whoever changes it changes what they
// must say; that is found out by looking (fstat, once a second) and by a READ that came up short.
//
// Limits: the file is the one that was opened, under whatever name it lives now. A regular file of at most
// `longest` bytes.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "servers/common/descriptor.hpp"
#include "servers/common/start_error.hpp"
#include "servers/m4_linked/chain.hpp"

namespace linked {

class ServedFile {
 public:
  /// Throws StartError, exit code 2: there is no such file, or it is not one that a chain can serve.
  explicit ServedFile(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {  // a FIFO must not hold us up
    if (!fd_) refuse("cannot open " + path + ": " + common::errno_text(errno));
    if (!look()) refuse(path + " is not a regular file of at most 1 MiB");
    // And now it must go: to io_uring it says that no READ of this file blocks, and on a file system that cannot
    // read without blocking the whole loop would wait.
    ::fcntl(fd_.get(), F_SETFL, 0);
  }

  int fd() const noexcept { return fd_.get(); }
  std::uint32_t length() const noexcept { return length_; }

  /// Reads the length again. False: it is none that a chain can serve.
  bool look() noexcept {
    struct ::stat facts {};
    if (::fstat(fd_.get(), &facts) != 0 || !S_ISREG(facts.st_mode) || facts.st_size > longest) return false;
    length_ = static_cast<std::uint32_t>(facts.st_size);
    return true;
  }

 private:
  [[noreturn]] static void refuse(const std::string& why) {
    throw common::StartError(common::exit_usage, why);
  }

  common::Descriptor fd_;
  std::uint32_t length_ = 0;
};

}  // namespace linked

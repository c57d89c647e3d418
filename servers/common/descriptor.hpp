// One owned file descriptor, for servers of both kinds: a listener, a signalfd, a connection, a file.
//
// Move-only; a moved-from owner holds nothing. close(2) of something we own has no error that anyone could
// act on here. The ring layer has an owner of its own: it knows the kernel and nothing else, so it cannot
// borrow this one.
#pragma once

#include <unistd.h>

#include <utility>

namespace common {

/// Owns one file descriptor; -1 when empty.
class Descriptor {
 public:
  Descriptor() noexcept = default;
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }

  /// Closes what is held, then holds `fd`.
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }
  /// Hands the descriptor to the caller, who closes it.
  int release() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

}  // namespace common

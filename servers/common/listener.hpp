// A socket that listens, and the line that says where.
//
//   common::Listener listener = common::listen_on(options, /*nonblocking=*/false);
//   listener.announce();      // stdout, the first line, flushed: `listening 127.0.0.1:9000`
//
// Addresses are literals: no name is looked up, because looking up blocks and may answer differently
// tomorrow. SO_REUSEADDR lets a server come back while connections of its former self are in TIME_WAIT.
// TCP_NODELAY is set here once and inherited by every accepted socket, which saves a system call a
// connection. `--bind ::` serves IPv4 as well (V6ONLY is off).
//
// An epoll server wants the listener non-blocking: it accepts until EAGAIN. io_uring waits for the connection
// itself, so its servers leave it blocking; older kernels took O_NONBLOCK to mean that EAGAIN is wanted.
//
// A Unix-domain socket is a file that outlives its process. One that nobody answers any more is removed
// first; ours is removed when the listener closes, if it is still ours.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "servers/common/descriptor.hpp"
#include "servers/common/options.hpp"

namespace common {

/// What the kernel queues for us between two accepts; net.core.somaxconn (4096 by default) caps it.
inline constexpr int listen_backlog = 4096;

class Listener {
 public:
  Listener(Descriptor fd, std::string name) noexcept : fd_(std::move(fd)), name_(std::move(name)) {}
  Listener(Descriptor fd, const std::string& path, ::dev_t device, ::ino_t inode)
      : fd_(std::move(fd)), name_("unix:" + path), path_(path), device_(device), inode_(inode) {}
  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) = delete;
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() { close(); }

  /// -1 after close().
  int fd() const noexcept { return fd_.get(); }
  /// "127.0.0.1:9000", "[::1]:9000", "unix:/tmp/echo"
  const std::string& name() const noexcept { return name_; }

  void announce() const;

  /// Stops listening. In io_uring cancel the accept first: close(2) does not end it.
  void close() noexcept;

 private:
  Descriptor fd_;
  std::string name_;
  std::string path_{};  // of a Unix-domain socket; else empty
  ::dev_t device_ = 0;
  ::ino_t inode_ = 0;
};

/// Listens on `address` (IPv4 or IPv6 literal) and `port` (0: the kernel picks one). Throws StartError: exit
/// code 2 for an address that is none, 1 for what the system refuses.
Listener listen_tcp(const std::string& address, std::uint16_t port, bool nonblocking);

/// Listens on a Unix-domain stream socket at `path`. Throws StartError likewise.
Listener listen_unix(const std::string& path, bool nonblocking);

/// Whichever of the two the options ask for.
Listener listen_on(const ServerOptions& options, bool nonblocking);

}  // namespace common

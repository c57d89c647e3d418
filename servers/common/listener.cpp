#include "servers/common/listener.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace common {
namespace {

// What to do about an errno of socket, bind or listen; "" if there is nothing to say beyond its name.
const char* advice(int error) {
  switch (error) {
    case EADDRINUSE:
      return "; somebody listens there already (--port 0 picks a free port)";
    case EACCES:
      return "; the path is not writable, or the port is below 1024 and this is not root";
    case EADDRNOTAVAIL:
      return "; no interface of this host has that address";
    case EAFNOSUPPORT:
      return "; this kernel was built or booted without IPv6";
    default:
      return "";
  }
}

[[noreturn]] void refuse(const std::string& where, int error) {
  throw StartError(exit_failed, "cannot listen on " + where + ": " + errno_text(error) + advice(error));
}

// Either kind of address in the form that the socket calls take.
struct Address {
  union {
    sockaddr any;
    sockaddr_in v4;
    sockaddr_in6 v6;
    sockaddr_un path;
  };
  socklen_t size = 0;

  Address() noexcept : path{} {}
};

Address tcp_address(const std::string& literal, std::uint16_t port) {
  Address address;
  if (::inet_pton(AF_INET, literal.c_str(), &address.v4.sin_addr) == 1) {
    address.v4.sin_family = AF_INET;
    address.v4.sin_port = htons(port);
    address.size = sizeof address.v4;
    return address;
  }
  address = Address();
  if (::inet_pton(AF_INET6, literal.c_str(), &address.v6.sin6_addr) == 1) {
    address.v6.sin6_family = AF_INET6;
    address.v6.sin6_port = htons(port);
    address.size = sizeof address.v6;
    return address;
  }
  throw StartError(exit_usage,
                   "--bind " + literal + ": an IPv4 or IPv6 address is needed (names are not looked up)");
}

std::string tcp_name(const std::string& literal, std::uint16_t port) {
  const bool v6 = literal.find(':') != literal.npos;
  return (v6 ? "[" + literal + "]" : literal) + ":" + std::to_string(port);
}

Address unix_address(const std::string& path) {
  Address address;
  if (path.empty() || path.size() >= sizeof address.path.sun_path) {
    throw StartError(exit_usage, "--unix " + path + ": a path of 1 to " +
                                     std::to_string(sizeof address.path.sun_path - 1) + " bytes is needed");
  }
  address.path.sun_family = AF_UNIX;
  std::memcpy(address.path.sun_path, path.c_str(), path.size() + 1);
  address.size = sizeof address.path;
  return address;
}

Descriptor open_socket(int family, bool nonblocking, const std::string& where) {
  Descriptor fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0));
  if (!fd) refuse(where, errno);
  return fd;
}

void set_option(int fd, int level, int name, int value, const std::string& where) {
  if (::setsockopt(fd, level, name, &value, sizeof value) != 0) refuse(where, errno);
}

// The port that the kernel picked, or the one that was asked for.
std::uint16_t port_of(int fd, const std::string& where) {
  Address bound;
  socklen_t size = sizeof bound.path;
  if (::getsockname(fd, &bound.any, &size) != 0) refuse(where, errno);
  return ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
}

// A socket file whose server has died: connecting is refused, while a living one would let us in (or be too
// busy to).
bool is_stale(const Address& address) {
  struct stat status {};
  if (::lstat(address.path.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe && ::connect(probe.get(), &address.any, address.size) != 0 && errno == ECONNREFUSED;
}

}  // namespace

void Listener::announce() const {
  std::printf("listening %s\n", name_.c_str());
  std::fflush(stdout);
}

void Listener::close() noexcept {
  if (!fd_) return;
  struct stat status {};
  if (!path_.empty() && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
      status.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
  fd_.reset();
}

Listener listen_tcp(const std::string& address, std::uint16_t port, bool nonblocking) {
  const Address wanted = tcp_address(address, port);
  const std::string where = tcp_name(address, port);
  Descriptor fd = open_socket(wanted.any.sa_family, nonblocking, where);
  set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1, where);
  set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1, where);
  if (wanted.any.sa_family == AF_INET6) set_option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0, where);
  if (::bind(fd.get(), &wanted.any, wanted.size) != 0) refuse(where, errno);
  if (::listen(fd.get(), listen_backlog) != 0) refuse(where, errno);
  std::string name = tcp_name(address, port_of(fd.get(), where));
  return {std::move(fd), std::move(name)};
}

Listener listen_unix(const std::string& path, bool nonblocking) {
  const Address wanted = unix_address(path);
  const std::string where = "unix:" + path;
  Descriptor fd = open_socket(AF_UNIX, nonblocking, where);
  int error = ::bind(fd.get(), &wanted.any, wanted.size) == 0 ? 0 : errno;
  if (error == EADDRINUSE && is_stale(wanted)) {
    ::unlink(path.c_str());
    error = ::bind(fd.get(), &wanted.any, wanted.size) == 0 ? 0 : errno;
  }
  if (error != 0) refuse(where, error);
  struct stat status {};
  if (::listen(fd.get(), listen_backlog) != 0 || ::lstat(path.c_str(), &status) != 0) {
    error = errno;
    ::unlink(path.c_str());
    refuse(where, error);
  }
  return {std::move(fd), path, status.st_dev, status.st_ino};
}

Listener listen_on(const ServerOptions& options, bool nonblocking) {
  return options.unix_path.empty() ? listen_tcp(options.bind, options.port, nonblocking)
                                   : listen_unix(options.unix_path, nonblocking);
}

}  // namespace common

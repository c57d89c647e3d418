// Whom the load is for: a Unix-domain socket, or a port of a loopback address. And from where.
//
// A TCP connection is four numbers: our address, our port, theirs, theirs. Three of them are given, and the
// kernel picks ours among 28,232 ports (32768 to 60999). For more connections than that our address must
// vary: the whole of 127.0.0.0/8 is this machine, so connection number i comes from 127.0.0.(1 + i / 28,000).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

namespace load {

struct Target {
  ::sockaddr_storage address{};
  ::socklen_t length = 0;
  std::string name{};  // "127.0.0.1:9001", "[::1]:9001", "unix:/tmp/echo"

  int family() const noexcept { return address.ss_family; }
  const ::sockaddr* socket_address() const noexcept {
    const void* const any = &address;
    return static_cast<const ::sockaddr*>(any);
  }
};

/// `host` is an IPv4 or IPv6 literal. Throws StartError if it is not, or if it is another machine and
/// `allow_remote` is not set.
Target tcp_target(const std::string& host, std::uint16_t port, bool allow_remote);

/// Throws StartError when the path does not fit into an address.
Target unix_target(const std::string& path);

inline constexpr std::uint32_t connections_per_source = 28'000;
inline constexpr std::uint32_t sources = 250;

/// The address, in host byte order, that the connection numbered `number` comes from when `each` of them
/// share one. Turns round after 250 addresses.
inline std::uint32_t source_address(std::uint64_t number, std::uint32_t each) noexcept {
  return INADDR_LOOPBACK + static_cast<std::uint32_t>(number / each % sources);
}

}  // namespace load

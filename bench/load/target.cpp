#include "bench/load/target.hpp"

#include <arpa/inet.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>

#include "servers/common/start_error.hpp"

namespace load {
namespace {

template <class Address>
Target target_from(const Address& address, std::size_t length, std::string name) {
  static_assert(sizeof(Address) <= sizeof(::sockaddr_storage));
  Target target;
  std::memcpy(&target.address, &address, length);
  target.length = static_cast<::socklen_t>(length);
  target.name = std::move(name);
  return target;
}

void refuse_remote(const std::string& host, bool is_loopback, bool allow_remote) {
  if (is_loopback || allow_remote) return;
  throw common::StartError(common::exit_usage,
                           host +
                               " is not a loopback address. This is a load generator: pointed at someone "
                               "else's machine it is an attack. For a machine of yours, add --allow-remote");
}

}  // namespace

Target tcp_target(const std::string& host, std::uint16_t port, bool allow_remote) {
  ::sockaddr_in v4{};
  ::sockaddr_in6 v6{};
  if (::inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    refuse_remote(host, (ntohl(v4.sin_addr.s_addr) >> 24) == 127, allow_remote);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    return target_from(v4, sizeof v4, host + ":" + std::to_string(port));
  }
  if (::inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    refuse_remote(host, std::memcmp(&v6.sin6_addr, &in6addr_loopback, sizeof in6addr_loopback) == 0,
                  allow_remote);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    return target_from(v6, sizeof v6, "[" + host + "]:" + std::to_string(port));
  }
  throw common::StartError(common::exit_usage,
                           "--host " + host + ": an address is needed (names are not looked up)");
}

Target unix_target(const std::string& path) {
  ::sockaddr_un address{};
  if (path.size() >= sizeof address.sun_path) {
    throw common::StartError(common::exit_usage, "--unix " + path + ": too long for a socket's path");
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return target_from(address, offsetof(::sockaddr_un, sun_path) + path.size() + 1, "unix:" + path);
}

}  // namespace load

// Who is at the other end of a connection, for the table that SIGUSR1 prints.
//
//      fd     ── getpeername(2) ──────────────────────────► address          when the table is printed
//      slot   ── SOCKET_URING_OP_GETSOCKNAME (6.19) ──► CQE ──► address      asked first; the table waits for the CQEs
//
// A multishot accept cannot say who came, since it has one buffer for all. For a descriptor the question is a system
// call; a slot of the ring's table is known to no system call, and before 6.19 no operation answers it either: then
// "?" is printed.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <string>

namespace echo {

/// What a getpeername writes into, until its CQE.
struct PeerAddress {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
};

/// "127.0.0.1:4242", "[::1]:4242"; "?" for what has no such address, a Unix-domain socket for one.
inline std::string text_of(const PeerAddress& peer) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (peer.address.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &peer.address, sizeof v4);
    ::inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    return std::string(text.data()) + ":" + std::to_string(ntohs(v4.sin_port));
  }
  if (peer.address.ss_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &peer.address, sizeof v6);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
    return "[" + std::string(text.data()) + "]:" + std::to_string(ntohs(v6.sin6_port));
  }
  return "?";
}

/// Of a descriptor; "?" also when its peer has gone.
inline std::string peer_of(int fd) {
  PeerAddress peer;
  void* const address = &peer.address;
  if (::getpeername(fd, static_cast<sockaddr*>(address), &peer.length) != 0) return "?";
  return text_of(peer);
}

}  // namespace echo

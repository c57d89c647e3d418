// A network of one device that takes packets and throws them away, without copying them: what zero copy can
// save, and nothing else.
//
//      a network namespace of this thread's own: unshare(CLONE_NEWNET), with CLONE_NEWUSER where that is refused
//      ┌────────────────────────────────────────────────────────────────┐
//      │  lo                 up                                         │
//      │  zerocopy0          ifb, MTU 65536, fe80::1/64                 │
//      │      fe80::2 ──►    a neighbour that is nowhere (static entry) │
//      └────────────────────────────────────────────────────────────────┘
//
// An ifb is made to take packets that traffic control redirects to it. One that was simply sent there it
// counts and frees, on the way out of the very system call that sent it. It offers scatter/gather and
// checksums, as a network card does, so the stack hands it the pages of a SEND_ZC as they are. (Over loopback
// somebody could receive them, and so the kernel copies.) It counts what is sent into it as *received*, and
// then as dropped.
//
// What is missing in comparison with a card: the DMA, and the interrupt that says when a packet has left.
//
// rtnetlink is asked directly, so no `ip` program is needed. A namespace and what lies in it disappear with
// their last process. Nothing here is undone, and the machine's own network is not touched.
#pragma once

#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "uring/errors.hpp"
#include "uring/owned.hpp"

namespace bench {

/// Which step failed, and why.
struct NoNetwork : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr const char* ifb_name = "zerocopy0";
inline constexpr std::uint32_t ifb_mtu = 65536;

// ---- rtnetlink --------------------------------------------------------------------------------------------

template <class Value>
std::string bytes_of(const Value& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// One attribute: length, type, value, and zeros up to a multiple of four.
inline std::string attribute(std::uint16_t type, const std::string& value) {
  const rtattr head{.rta_len = static_cast<std::uint16_t>(RTA_LENGTH(value.size())), .rta_type = type};
  std::string all = bytes_of(head) + value;
  all.resize(RTA_ALIGN(all.size()));
  return all;
}

class Netlink {
 public:
  Netlink() : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) {
    if (!fd_) throw NoNetwork("a netlink socket: " + uring::errno_text(errno));
  }

  /// One request and its acknowledgement. Throws NoNetwork, which says `step` and why.
  template <class Body>
  void ask(const std::string& step, std::uint16_t type, unsigned flags, const Body& body,
           const std::string& attributes = "") {
    nlmsghdr head{};
    head.nlmsg_len = static_cast<std::uint32_t>(sizeof head + sizeof body + attributes.size());
    head.nlmsg_type = type;
    head.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
    const std::string request = bytes_of(head) + bytes_of(body) + attributes;
    if (::send(fd_.get(), request.data(), request.size(), 0) < 0) refuse(step, errno);
    char answer[1024];
    struct {
      nlmsghdr head;
      nlmsgerr error;
    } said{};
    const ::ssize_t size = ::recv(fd_.get(), answer, sizeof answer, 0);
    if (size < static_cast<::ssize_t>(sizeof said.head + sizeof said.error.error)) refuse(step, EPROTO);
    std::memcpy(&said, answer, std::min(sizeof said, static_cast<std::size_t>(size)));
    if (said.head.nlmsg_type != NLMSG_ERROR) refuse(step, EPROTO);
    if (said.error.error != 0) refuse(step, -said.error.error);
  }

 private:
  [[noreturn]] static void refuse(const std::string& step, int error) {
    throw NoNetwork(step + ": " + uring::errno_text(error));
  }

  uring::FileDescriptor fd_;
};

// ---- The namespace and the device -------------------------------------------------------------------------

inline void set_up(Netlink& netlink, const char* device) {
  ifinfomsg link{};
  link.ifi_index = static_cast<int>(::if_nametoindex(device));
  link.ifi_flags = IFF_UP;
  link.ifi_change = IFF_UP;
  netlink.ask(std::string("setting up ") + device, RTM_NEWLINK, 0, link);
}

inline in6_addr link_local(unsigned char last) {
  in6_addr address{};
  address.s6_addr[0] = 0xfe;
  address.s6_addr[1] = 0x80;
  address.s6_addr[15] = last;
  return address;
}

/// Moves the calling thread into a network namespace of its own. The process must have no other thread yet:
/// CLONE_NEWUSER is refused to one that has.
inline void enter_private_network() {
  if (::unshare(CLONE_NEWNET) != 0) {
    const std::string alone = uring::errno_text(errno);
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
      throw NoNetwork("unshare(CLONE_NEWNET): " + alone +
                      "; unshare(CLONE_NEWUSER | CLONE_NEWNET): " + uring::errno_text(errno));
    }
  }
  Netlink netlink;
  set_up(netlink, "lo");
}

/// The device, its address and its neighbour, in the namespace where we are.
inline void make_ifb() {
  Netlink netlink;
  ifinfomsg link{};
  const std::string kind = attribute(IFLA_INFO_KIND, "ifb");
  const std::string name(ifb_name, std::strlen(ifb_name) + 1);
  netlink.ask(
      "creating an ifb device (CONFIG_IFB)", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link,
      attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, bytes_of(ifb_mtu)) + attribute(IFLA_LINKINFO, kind));
  set_up(netlink, ifb_name);

  const unsigned index = ::if_nametoindex(ifb_name);
  ifaddrmsg address{};
  address.ifa_family = AF_INET6;
  address.ifa_prefixlen = 64;
  address.ifa_flags =
      IFA_F_NODAD;  // nobody is there who could have it too; without, it cannot be used for a second
  address.ifa_scope = RT_SCOPE_LINK;
  address.ifa_index = index;
  netlink.ask("giving it the address fe80::1 (IPv6)", RTM_NEWADDR, NLM_F_CREATE, address,
              attribute(IFA_LOCAL, bytes_of(link_local(1))));

  ndmsg neighbour{};
  neighbour.ndm_family = AF_INET6;
  neighbour.ndm_ifindex = static_cast<int>(index);
  neighbour.ndm_state = NUD_PERMANENT;
  netlink.ask("giving it the neighbour fe80::2", RTM_NEWNEIGH, NLM_F_CREATE, neighbour,
              attribute(NDA_DST, bytes_of(link_local(2))) + attribute(NDA_LLADDR, {2, 0, 0, 0, 0, 2}));
}

/// A UDP socket that sends to the neighbour. Throws NoNetwork.
inline uring::FileDescriptor socket_to_neighbour() {
  uring::FileDescriptor socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 peer{};
  peer.sin6_family = AF_INET6;
  peer.sin6_port = htons(9);  // discard
  peer.sin6_addr = link_local(2);
  peer.sin6_scope_id = ::if_nametoindex(ifb_name);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&peer), sizeof peer) != 0) {
    throw NoNetwork("a socket to the neighbour: " + uring::errno_text(errno));
  }
  return socket;
}

/// What the device has counted since it was made.
struct Taken {
  std::uint64_t packets = 0;
  std::uint64_t dropped = 0;
};

inline Taken taken_by_ifb() {
  std::ifstream devices(
      "/proc/thread-self/net/dev");  // of the namespace of the thread that asks; /sys is not
  for (std::string line; std::getline(devices, line);) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t bytes = 0;
    std::uint64_t errors = 0;
    Taken taken;
    if (words >> name >> bytes >> taken.packets >> errors >> taken.dropped &&
        name == ifb_name + std::string(":"))
      return taken;
  }
  return {};
}

}  // namespace bench

// How much of what was sent to a peer it has not taken yet.
//
// A client that reads slowly is not silent, and yet nothing completes here for a long time: TCP reports room
// in the send buffer only when a third of it is free, which can be a megabyte. What the peer has acknowledged
// is known all the same.
#pragma once

#include <linux/sockios.h>
#include <sys/ioctl.h>

namespace common {

/// In bytes, of a stream socket (TCP: not acknowledged; Unix domain: not read). -1: it cannot be asked.
inline int untaken_bytes(int fd) noexcept {
  int bytes = 0;
  return ::ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : -1;
}

}  // namespace common

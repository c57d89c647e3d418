// Whether a slot that was closed lets go of its socket: tried once, at the start of a server that wants slots.
//
//      slot 0   RECV, for which nothing comes     peer 0
//      slot 1   CLOSE: its CQE says 0             peer 1: does it see the end of the stream?
//
// On Linux 6.1 and 6.12, and from 6.17 on no more, the ring's table counts references for all of its slots together. An
// operation on any slot holds the table as it was when the operation began, and with it every file that is taken out
// later. So while one client is silent, and a receive waits for it, no socket that was closed in another slot is
// released: its peer gets no FIN, and its memory is not freed. The CQE of the CLOSE says 0, the slot is empty and can
// be used again; nothing tells the server. (6.1 takes another second, also when nothing is in flight.)
//
// A server that receives from all its clients always has such an operation in flight. Where slots do not let go,
// ordinary descriptors do.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>

#include "uring/owned.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"
#include "uring/setup.hpp"

namespace common_ring {

/// Two sockets that are connected: the one for the server's slot, and its peer.
struct TriedSocket {
  uring::FileDescriptor ours{};
  uring::FileDescriptor peer{};

  bool open() noexcept {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) return false;
    ours.reset(ends[0]);
    peer.reset(ends[1]);
    return true;
  }
};

/// True if the peer of a closed slot sees the end of the stream although a receive waits on another slot. False also
/// where that could not be tried (no memory, no table of slots, before 5.17): then ordinary descriptors are the safe
/// choice as well.
///
/// On a ring of its own, without flags: CLOSE runs inside the submission, and the file is released on the way out of
/// that system call or not at all. So nothing here depends on how long it takes.
inline bool slots_let_go(const uring::Kernel& kernel = uring::real_kernel) try {
  uring::Ring ring({.entries = 4, .flags = 0, .register_ring_fd = false}, kernel);
  // Before 5.15 CLOSE does not know slots, and would close descriptor 0. The first feature bit after that is 5.17's.
  if ((ring.features() & IORING_FEAT_CQE_SKIP) == 0) return false;
  std::array<TriedSocket, 2> sockets{};
  if (!sockets[0].open() || !sockets[1].open()) return false;
  std::array<int, 2> table{sockets[0].ours.get(), sockets[1].ours.get()};
  const auto slots = static_cast<unsigned>(table.size());
  if (kernel.register_(kernel.self, ring.fd(), IORING_REGISTER_FILES, table.data(), slots) < 0) return false;
  for (TriedSocket& socket : sockets) socket.ours.reset();  // the slots have references of their own

  constexpr uring::Token receive{1}, close{2}, cancel{3};
  std::byte byte{};
  if (auto batch = ring.batch(2)) {
    io_uring_sqe& sqe = batch.take();
    uring::prep::recv(sqe, 0, &byte, 1, 0, receive);
    uring::prep::fixed_file(sqe);
    uring::prep::close_direct(batch.take(), {1}, close);
    batch.commit();
  }
  int closed = -EBUSY;
  bool waits = true;
  const auto take = [&](const io_uring_cqe& cqe) {
    if (cqe.user_data == close.bits) closed = cqe.res;
    if (cqe.user_data == receive.bits) waits = false;
  };
  ring.submit_and_wait(1);
  ring.harvest(take);
  ::pollfd end{.fd = sockets[1].peer.get(), .events = POLLIN, .revents = 0};
  const bool released = closed == 0 && waits && ::poll(&end, 1, 0) == 1;

  // The receive writes into this frame: it must have ended before we return.
  if (auto batch = ring.batch(1)) {
    uring::prep::async_cancel(batch.take(), receive, cancel);
    batch.commit();
  }
  while (waits) {
    if (ring.submit_and_wait(1).error != 0) return false;
    ring.harvest(take);
  }
  return released;
} catch (const uring::SetupError&) {
  return false;
}

}  // namespace common_ring

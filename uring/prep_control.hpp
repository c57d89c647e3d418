// SQEs that are about other operations: waiting for readiness, for time, giving up, and talking to another ring.
//
// Read prep_fill.hpp first: which 64 bytes these functions write, and what "parameters" and "data" mean below.
//
//      sqe ── link ──► link_timeout       a deadline for one operation
//      timeout                            a timer of its own; multishot: a clock tick
//      async_cancel ──► its target        two CQEs in any order: the cancellation's, and the target's -ECANCELED
//      msg_ring ──► another ring          a CQE over there, without a system call of theirs
//
// Invariant: cancelling never replaces the target's CQE. Whatever was submitted completes by a CQE of its own, once
// (or, for multishots, a last time), so memory and descriptors are released there and nowhere else.
//
// Limits: no updates of polls and timeouts (IORING_POLL_UPDATE_*, IORING_TIMEOUT_UPDATE): cancel, and arm anew.
#pragma once

#include <linux/time_types.h>

#include <bit>
#include <chrono>
#include <cstdint>

#include "uring/abi.hpp"
#include "uring/prep_fill.hpp"
#include "uring/token.hpp"

namespace uring::prep {

// ---- Readiness ------------------------------------------------------------------------------------------------------

/// poll(2) of one descriptor, once. `events`: POLLIN, POLLOUT, ..., and the EPOLL* bits beyond 16. Needs Linux 5.1 (32
/// bits: 5.9). CQE: res = the events that are there, POLLERR and POLLHUP included; -EBADF, -ECANCELED.
/// An epoll descriptor can be polled too, which is how one loop serves both worlds.
inline void poll_add(io_uring_sqe& sqe, int fd, std::uint32_t events, Token token) noexcept {
  // The kernel reads a u32 here whose halves are swapped on big-endian machines: the field began as a u16 at byte 28.
  if constexpr (std::endian::native == std::endian::big) events = events << 16 | events >> 16;
  fill(sqe, IORING_OP_POLL_ADD, fd, 0, 0, 0, token);
  sqe.poll32_events = events;
}

/// poll_add that goes on: a CQE with F_MORE each time the descriptor *becomes* ready (edge-triggered, like EPOLLET, so
/// read until it is empty). Needs Linux 5.13. Ends without F_MORE: error, cancellation, full completion queue.
inline void poll_multishot(io_uring_sqe& sqe, int fd, std::uint32_t events, Token token) noexcept {
  poll_add(sqe, fd, events, token);
  sqe.len = IORING_POLL_ADD_MULTI;
}

/// Ends the poll that was submitted with `target`; nothing but polls. Needs Linux 5.1.
/// CQE: res = 0, and the poll completes with -ECANCELED; -ENOENT: there is none; -EALREADY: it is completing just now.
inline void poll_remove(io_uring_sqe& sqe, Token target, Token token) noexcept {
  fill(sqe, IORING_OP_POLL_REMOVE, -1, target.bits, 0, 0, token);
}

// ---- Time -----------------------------------------------------------------------------------------------------------

/// Completes when `time` has passed, or when `count` completions were posted after it was submitted (0: only time
/// counts). Needs Linux 5.4. Parameter: `time`.
/// `flags`: IORING_TIMEOUT_ABS (5.5: a point in time), _BOOTTIME, _REALTIME (5.15; else CLOCK_MONOTONIC),
/// _ETIME_SUCCESS (5.16: expiry does not break a link).
/// CQE: res = -ETIME when the time has passed (that is its success), 0 when the count was reached, -ECANCELED; -EINVAL
/// for negative times.
/// To wait with a deadline, no timeout is needed: Ring::submit_and_wait passes one to io_uring_enter for nothing.
inline void timeout(io_uring_sqe& sqe, const __kernel_timespec* time, std::uint32_t count,
                    std::uint32_t flags, Token token) noexcept {
  fill(sqe, IORING_OP_TIMEOUT, -1, address(time), 1, count, token);
  sqe.timeout_flags = flags;
}

/// The same with the time in the SQE itself, so that there is no parameter that must live. Needs Linux 7.1
/// (IORING_TIMEOUT_IMMEDIATE_ARG); -EINVAL before, and for a negative time. With IORING_TIMEOUT_ABS in `flags`: the
/// nanoseconds since the clock's beginning. CQE: as above. Source: <linux/io_uring.h> of 7.1, and the fact test.
inline void timeout(io_uring_sqe& sqe, std::chrono::nanoseconds time, std::uint32_t count,
                    std::uint32_t flags, Token token) noexcept {
  fill(sqe, IORING_OP_TIMEOUT, -1, static_cast<std::uint64_t>(time.count()), 1, count, token);
  sqe.timeout_flags = flags | abi::timeout_immediate_arg;
}

/// A clock tick: a CQE with -ETIME and F_MORE every `interval`, `repeats` times (0: for ever), the last without
/// F_MORE. Needs Linux 6.4. Parameter: `interval`. `flags` as timeout, without _ABS (-EINVAL).
inline void timeout_multishot(io_uring_sqe& sqe, const __kernel_timespec* interval, std::uint32_t repeats,
                              std::uint32_t flags, Token token) noexcept {
  timeout(sqe, interval, repeats, flags | abi::timeout_multishot, token);
}

/// Ends the timeout that was submitted with `target`. Needs Linux 5.5. CQE: res = 0, and the timeout completes with
/// -ECANCELED; -ENOENT: there is none (any more); -EALREADY: it is expiring just now.
inline void timeout_remove(io_uring_sqe& sqe, Token target, Token token) noexcept {
  fill(sqe, IORING_OP_TIMEOUT_REMOVE, -1, target.bits, 0, 0, token);
}

/// A deadline for the operation prepared directly before it, which must have been given to `link` (or hardlink); the
/// timer starts when that operation starts. Needs Linux 5.5. Parameter: `time`. `flags` as timeout.
/// Always two CQEs. In time: the operation's result, and -ECANCELED here. Too late: -ECANCELED there, and -ETIME here.
/// Without a link before it: -EINVAL.
/// For operations that wait by poll (sockets, pipes). What blocks on a worker thread (splice, the open of a FIFO) is
/// not stopped from Linux 6.12 on: its timer starts when it returns. A timeout of its own and async_cancel can do it.
inline void link_timeout(io_uring_sqe& sqe, const __kernel_timespec* time, std::uint32_t flags,
                         Token token) noexcept {
  fill(sqe, IORING_OP_LINK_TIMEOUT, -1, address(time), 1, 0, token);
  sqe.timeout_flags = flags;
}

/// The same with the time in the SQE itself. Needs Linux 7.1; -EINVAL before, and then the operation before it is
/// cancelled, like that of any link that cannot be parsed.
inline void link_timeout(io_uring_sqe& sqe, std::chrono::nanoseconds time, std::uint32_t flags,
                         Token token) noexcept {
  fill(sqe, IORING_OP_LINK_TIMEOUT, -1, static_cast<std::uint64_t>(time.count()), 1, 0, token);
  sqe.timeout_flags = flags | abi::timeout_immediate_arg;
}

// ---- Giving up ------------------------------------------------------------------------------------------------------

/// Cancels one operation that was submitted with `target`, of whatever kind. Needs Linux 5.5.
/// CQE: res = 0: found, and it completes with -ECANCELED (a send that had begun: with the bytes sent). -ENOENT:
/// nothing of that name is waiting, so its CQE is there or on its way. -EALREADY: a worker thread runs it and is
/// interrupted; its CQE comes when it stops: -EINTR. (Some kernels, 6.18.44 among them, show a number of their own
/// instead, -512, ERESTARTSYS, for splice and open. 7.3 and the newest 6.12 do not. Take both for "interrupted".)
inline void async_cancel(io_uring_sqe& sqe, Token target, Token token) noexcept {
  fill(sqe, IORING_OP_ASYNC_CANCEL, -1, target.bits, 0, 0, token);
}

/// Cancels *all* operations that were submitted with `target`. Needs Linux 5.19. CQE: res = how many; 0 is none.
inline void async_cancel_all(io_uring_sqe& sqe, Token target, Token token) noexcept {
  async_cancel(sqe, target, token);
  sqe.cancel_flags = IORING_ASYNC_CANCEL_ALL;
}

/// Cancels one operation on descriptor `fd`. Needs Linux 5.19. CQE: as async_cancel; -EBADF.
/// The descriptor's number is looked up *now*. Before close(2) that is the file you mean; after it, it is nothing or,
/// if the number was given out again, somebody else's connection. Where in doubt, cancel by token.
inline void async_cancel_fd(io_uring_sqe& sqe, int fd, Token token) noexcept {
  fill(sqe, IORING_OP_ASYNC_CANCEL, fd, 0, 0, 0, token);
  sqe.cancel_flags = IORING_ASYNC_CANCEL_FD;
}

/// Cancels all operations on descriptor `fd`: what comes before a close. Needs Linux 5.19. See async_cancel_fd.
/// CQE: res = how many, 0 is none; -EBADF.
inline void async_cancel_all_fd(io_uring_sqe& sqe, int fd, Token token) noexcept {
  async_cancel_fd(sqe, fd, token);
  sqe.cancel_flags = IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL;
}

/// Cancels everything in flight on this ring: the beginning of the end of a server. Needs Linux 5.19.
/// CQE: res = how many, 0 is none.
inline void async_cancel_any(io_uring_sqe& sqe, Token token) noexcept {
  fill(sqe, IORING_OP_ASYNC_CANCEL, -1, 0, 0, 0, token);
  sqe.cancel_flags = IORING_ASYNC_CANCEL_ANY;
}

// ---- Another ring ---------------------------------------------------------------------------------------------------

/// Posts a CQE on the ring whose descriptor is `ring_fd` (a real one, not a registered index): its res will be
/// `result`, its user_data `message`. Wakes whoever waits there. Needs Linux 5.18.
/// CQE here: res = 0; -EBADFD: not a ring, or still disabled; -EOVERFLOW. A full queue over there loses nothing.
/// Often with skip_success: who sends a message seldom wants a receipt.
inline void msg_ring(io_uring_sqe& sqe, int ring_fd, std::int32_t result, Token message,
                     Token token) noexcept {
  fill(sqe, IORING_OP_MSG_RING, ring_fd, IORING_MSG_DATA, static_cast<std::uint32_t>(result), message.bits,
       token);
}

}  // namespace uring::prep

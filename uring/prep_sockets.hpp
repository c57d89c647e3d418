// SQEs for sockets: connections, receiving, sending.
//
// Read prep_fill.hpp first: which 64 bytes these functions write, and what "parameters" and "data" mean below.
//
//      one-shot      1 SQE ──► 1 CQE           the buffer is yours, and is occupied while nothing happens
//      multishot     1 SQE ──► CQE, CQE, CQE   each with F_MORE until the last; buffers are taken from a group (recv)
//      zero copy     1 SQE ──► 2 CQEs          "sent" (F_MORE), later "your buffer is free again" (F_NOTIF)
//
// What holds for all of them:
//   - whether the socket is blocking or not makes no difference (5.10 to 7.3): an operation waits until it can go on.
//     -EAGAIN comes from MSG_DONTWAIT or abi::accept_dontwait only.
//   - an operation that waits is armed with poll, not with a thread: idle receives cost memory, not threads.
//   - a multishot has ended when a CQE lacks IORING_CQE_F_MORE, whatever its res is. A full completion queue, for one,
//     ends it with an ordinary result. Then, and only then, arm it again.
//   - the flags of io_uring itself (multishot, ...) lie in sqe->ioprio. In sqe->flags the multishot bit of accept
//     would read IOSQE_FIXED_FILE, in accept_flags it is -EINVAL.
//   - a reset by the peer is reported once: one of the receives in flight sees -ECONNRESET, the others 0.
//
// Limits: no bundles (6.10) and no zero-copy receive.
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "uring/abi.hpp"
#include "uring/prep_fill.hpp"
#include "uring/token.hpp"

namespace uring::prep {

// ---- Connections ----------------------------------------------------------------------------------------------------

/// accept4(2). Needs Linux 5.5. `flags`: SOCK_CLOEXEC, SOCK_NONBLOCK. Results: `peer` and `peer_length` (in and out;
/// both may be null), until the CQE.
/// CQE: res = the new descriptor; -EMFILE, -ENFILE, -EINVAL (not listening, or shutdown of the listener), -ENOTSOCK.
/// The limit RLIMIT_NOFILE is read when the SQE is consumed, not when the client comes.
inline void accept(io_uring_sqe& sqe, int fd, sockaddr* peer, socklen_t* peer_length, int flags,
                   Token token) noexcept {
  fill(sqe, IORING_OP_ACCEPT, fd, address(peer), 0, address(peer_length), token);
  sqe.accept_flags = static_cast<std::uint32_t>(flags);
}

/// One accept for all clients to come. Needs Linux 5.19. CQE: as accept, with F_MORE while it goes on; it ends with an
/// error (-EMFILE), with shutdown(2) of the listener, or with a full completion queue.
/// No peer address: there would be one buffer for all of them, and the last would win. getpeername(2) knows.
/// Closing the listener does not stop it: clients can still connect. Cancel it first.
inline void accept_multishot(io_uring_sqe& sqe, int fd, int flags, Token token) noexcept {
  accept(sqe, fd, nullptr, nullptr, flags, token);
  sqe.ioprio = IORING_ACCEPT_MULTISHOT;
}

/// accept into a direct descriptor (5.15). `flags` without SOCK_CLOEXEC (-EINVAL). A slot in use is replaced.
/// CQE: res = 0 for a slot of your choice, its index for any_slot (-ENFILE when none is free).
inline void accept_direct(io_uring_sqe& sqe, int fd, int flags, DirectSlot slot, Token token) noexcept {
  accept(sqe, fd, nullptr, nullptr, flags, token);
  sqe.file_index = file_index(slot);
}

/// accept_multishot into direct descriptors, each in a slot that the kernel picks (a fixed slot would be -EINVAL).
/// Needs Linux 5.19. CQE: res = the slot's index; -ENFILE ends it when the table is full.
inline void accept_multishot_direct(io_uring_sqe& sqe, int fd, int flags, Token token) noexcept {
  accept_direct(sqe, fd, flags, any_slot, token);
  sqe.ioprio = IORING_ACCEPT_MULTISHOT;
}

/// connect(2), never -EINPROGRESS: the CQE comes when it is decided. Needs Linux 5.5. Parameter: `peer`.
/// CQE: res = 0; -ECONNREFUSED, -ETIMEDOUT, -ENETUNREACH. To give up sooner, link a link_timeout behind it.
inline void connect(io_uring_sqe& sqe, int fd, const sockaddr* peer, socklen_t peer_length,
                    Token token) noexcept {
  fill(sqe, IORING_OP_CONNECT, fd, address(peer), 0, peer_length, token);
}

/// socket(2); SOCK_CLOEXEC and SOCK_NONBLOCK in `type`. Needs Linux 5.19. CQE: res = the new descriptor; -EMFILE,
/// -EAFNOSUPPORT, -EPROTONOSUPPORT.
inline void socket(io_uring_sqe& sqe, int domain, int type, int protocol, Token token) noexcept {
  fill(sqe, IORING_OP_SOCKET, domain, 0, static_cast<std::uint32_t>(protocol),
       static_cast<std::uint32_t>(type), token);
}

/// getsockname(2), also of a direct descriptor, which getsockname(2) cannot name. Needs Linux 6.19
/// (SOCKET_URING_OP_GETSOCKNAME); -EOPNOTSUPP before. Results: `address` and `length` (in: the room there is, out: the
/// true length, which may be more), until the CQE. CQE: res = 0; -EOPNOTSUPP also for what is no socket, -EFAULT.
/// Source: <linux/io_uring.h> of 6.19; liburing's io_uring_prep_cmd_getsockname(3).
inline void getsockname(io_uring_sqe& sqe, int fd, sockaddr_storage* own, socklen_t* length,
                        Token token) noexcept {
  fill(sqe, IORING_OP_URING_CMD, fd, address(own), 0, abi::socket_getsockname, token);
  sqe.addr3 = address(length);
}

/// getpeername(2) in the same way: what accept_multishot_direct cannot tell. Needs Linux 6.19. CQE: as getsockname;
/// -ENOTCONN.
inline void getpeername(io_uring_sqe& sqe, int fd, sockaddr_storage* peer, socklen_t* length,
                        Token token) noexcept {
  getsockname(sqe, fd, peer, length, token);
  abi::sqe_optlen(sqe) = 1;  // 0: the own address
}

/// shutdown(2). `how`: SHUT_RD, SHUT_WR, SHUT_RDWR. Needs Linux 5.11. CQE: res = 0; -ENOTCONN.
/// What close(2) does not do while operations are in flight, this does: pending receives complete with 0, a pending
/// accept of a listener with -EINVAL, and the peer gets its FIN at once. Runs on a worker thread, always.
inline void shutdown(io_uring_sqe& sqe, int fd, int how, Token token) noexcept {
  fill(sqe, IORING_OP_SHUTDOWN, fd, 0, static_cast<std::uint32_t>(how), 0, token);
}

// ---- Receiving ------------------------------------------------------------------------------------------------------

/// recv(2). Needs Linux 5.6. `flags`: MSG_*. Data: `buffer`, until the CQE.
/// CQE: res = bytes; 0 = the peer has finished (or `length` was 0); -ECONNRESET, -ENOTCONN, -ENOTSOCK. Fewer bytes
/// than `length` are normal and no failure of a link; with MSG_WAITALL it waits for all of them, and fewer are one.
/// In cqe->flags, IORING_CQE_F_SOCK_NONEMPTY (5.19) says that more was there already.
inline void recv(io_uring_sqe& sqe, int fd, void* buffer, std::uint32_t length, int flags,
                 Token token) noexcept {
  fill(sqe, IORING_OP_RECV, fd, address(buffer), length, 0, token);
  sqe.msg_flags = static_cast<std::uint32_t>(flags);
}

/// recv into a buffer that the kernel takes from `group` when data is there: an idle connection occupies none. Needs
/// Linux 5.19 (buffer rings). At most `length` bytes; 0: as many as the buffer holds.
/// CQE: as recv; flags >> 16 = buffer id where IORING_CQE_F_BUFFER is set. -ENOBUFS: the group was empty, and nothing
/// was lost: the bytes wait in the socket.
inline void recv_select(io_uring_sqe& sqe, int fd, BufferGroup group, std::uint32_t length, int flags,
                        Token token) noexcept {
  recv(sqe, fd, nullptr, length, flags, token);
  buffer_select(sqe, group);
}

/// Receives into buffers of `group`, again and again, until a CQE lacks F_MORE. Needs Linux 6.0.
/// CQE: res = bytes, flags >> 16 = buffer id; ends with 0 (the peer has finished), -ENOBUFS (group empty: give buffers
/// back, then arm again; at once even if no data waits), -ECONNRESET, -ECANCELED, or a full completion queue.
/// Without a group, or with MSG_WAITALL, it would be -EINVAL.
inline void recv_multishot(io_uring_sqe& sqe, int fd, BufferGroup group, Token token) noexcept {
  recv_select(sqe, fd, group, 0, 0, token);
  sqe.ioprio = IORING_RECV_MULTISHOT;
}

/// recv_multishot that ends by itself once it has received `total` bytes (not 0) or a little more: the brake for a
/// peer that sends faster than we pass on. Needs Linux 6.17; -EINVAL before. CQE: the first that reaches or passes
/// `total` has res > 0 and no F_MORE. Its receive is not cut to fit, so the excess may be one buffer less a byte.
inline void recv_multishot_capped(io_uring_sqe& sqe, int fd, BufferGroup group, std::uint32_t total,
                                  Token token) noexcept {
  recv_multishot(sqe, fd, group, token);
  abi::sqe_optlen(sqe) = total;
}

/// recv into registered buffer number `buffer_index`, inside which `buffer` must lie. Needs Linux 7.2; -EINVAL before,
/// and -EFAULT for a bad index or an address outside. The bytes are copied as ever; what is saved is the look-up of the
/// pages. Data and CQE: as recv. Source: <linux/io_uring.h> (IORING_RECVSEND_FIXED_BUF), and the fact test.
inline void recv_fixed(io_uring_sqe& sqe, int fd, void* buffer, std::uint32_t length, int flags,
                       std::uint16_t buffer_index, Token token) noexcept {
  recv(sqe, fd, buffer, length, flags, token);
  sqe.ioprio = IORING_RECVSEND_FIXED_BUF;
  sqe.buf_index = buffer_index;
}

/// recvmsg(2). Needs Linux 5.3. Parameter: the iovec array of `message`. Data and results, until the CQE: the buffers,
/// msg_name, msg_control, and `message` itself: the kernel writes msg_namelen, msg_controllen and msg_flags into it.
/// CQE: as recv.
inline void recvmsg(io_uring_sqe& sqe, int fd, msghdr* message, int flags, Token token) noexcept {
  fill(sqe, IORING_OP_RECVMSG, fd, address(message), 1, 0, token);
  sqe.msg_flags = static_cast<std::uint32_t>(flags);
}

/// recvmsg again and again into buffers of `group`: what a UDP server wants, with the sender of each datagram. Needs
/// Linux 6.0. Parameter: `message`, of which msg_namelen and msg_controllen count: the room for them in each buffer.
///
///      buffer:   io_uring_recvmsg_out | msg_namelen bytes | msg_controllen bytes | payload ...
///
/// CQE: res = bytes of all four parts; flags and end as recv_multishot, but here -EFAULT: the buffers are too small
/// for the first three. (RECVMSG with the multishot bit or-ed to the *opcode* is a plain RECVMSG: 10 | 2 is 10.)
inline void recvmsg_multishot(io_uring_sqe& sqe, int fd, const msghdr* message, BufferGroup group, int flags,
                              Token token) noexcept {
  fill(sqe, IORING_OP_RECVMSG, fd, address(message), 1, 0, token);
  sqe.msg_flags = static_cast<std::uint32_t>(flags);
  sqe.ioprio = IORING_RECV_MULTISHOT;
  buffer_select(sqe, group);
}

// ---- Sending --------------------------------------------------------------------------------------------------------

/// send(2), always with MSG_NOSIGNAL: a peer that is gone is -EPIPE and no signal. Needs Linux 5.6. Data: `buffer`,
/// unchanged until the CQE.
/// CQE: res = bytes, fewer than `length` when the socket buffer fills up, even on a blocking socket. With MSG_WAITALL
/// it goes on until all is sent, and fewer means that it was cancelled or failed on the way. -EPIPE, -ECONNRESET,
/// -ENOTCONN. One send in flight per socket: two of them mix their bytes.
inline void send(io_uring_sqe& sqe, int fd, const void* buffer, std::uint32_t length, int flags,
                 Token token) noexcept {
  fill(sqe, IORING_OP_SEND, fd, address(buffer), length, 0, token);
  sqe.msg_flags = static_cast<std::uint32_t>(flags);
}

/// send out of registered buffer number `buffer_index`, with a copy: see recv_fixed. Needs Linux 7.2; -EINVAL before.
inline void send_fixed(io_uring_sqe& sqe, int fd, const void* buffer, std::uint32_t length, int flags,
                       std::uint16_t buffer_index, Token token) noexcept {
  send(sqe, fd, buffer, length, flags, token);
  sqe.ioprio = IORING_RECVSEND_FIXED_BUF;
  sqe.buf_index = buffer_index;
}

/// sendmsg(2), with MSG_NOSIGNAL. Needs Linux 5.3. Parameters: `message`, its iovec array, msg_name.
/// Data, until the CQE: the buffers, and msg_control, which is read when the operation *runs*: behind a link, the
/// control message that counts is the one that lies there then.
/// CQE: as send.
inline void sendmsg(io_uring_sqe& sqe, int fd, const msghdr* message, int flags, Token token) noexcept {
  fill(sqe, IORING_OP_SENDMSG, fd, address(message), 1, 0, token);
  sqe.msg_flags = static_cast<std::uint32_t>(flags);
}

/// send without copying the bytes: the network card reads `buffer` itself. Needs Linux 6.0. `zc_flags`: 0 or
/// abi::send_zc_report_usage (6.2).
/// Two CQEs with the same user_data: first res = bytes, with F_MORE; then one with IORING_CQE_F_NOTIF, when nobody
/// reads the buffer any more. Data: `buffer`, unchanged until the *notification*; what is changed earlier goes out
/// changed. Failures notify as well, and one that was cancelled by a link before it even does so after a CQE without
/// F_MORE: keep the token valid. Not behind a link that can fail, never with drain, and skip_success is -EINVAL.
/// -EOPNOTSUPP on Unix-domain sockets, -ENOMEM over RLIMIT_MEMLOCK. Over loopback it always copies.
inline void send_zc(io_uring_sqe& sqe, int fd, const void* buffer, std::uint32_t length, int flags,
                    std::uint16_t zc_flags, Token token) noexcept {
  fill(sqe, IORING_OP_SEND_ZC, fd, address(buffer), length, 0, token);
  sqe.ioprio = zc_flags;
  sqe.msg_flags = static_cast<std::uint32_t>(flags);
}

/// send_zc out of registered buffer number `buffer_index`, inside which `buffer` must lie: saves pinning its pages for
/// every send. Needs Linux 6.0. -EFAULT for a bad index or an address outside.
inline void send_zc_fixed(io_uring_sqe& sqe, int fd, const void* buffer, std::uint32_t length, int flags,
                          std::uint16_t zc_flags, std::uint16_t buffer_index, Token token) noexcept {
  send_zc(sqe, fd, buffer, length, flags, static_cast<std::uint16_t>(zc_flags | IORING_RECVSEND_FIXED_BUF),
          token);
  sqe.buf_index = buffer_index;
}

/// sendmsg without copying. Needs Linux 6.1. Memory as sendmsg, except that the buffers must stay unchanged until the
/// notification. CQEs as send_zc.
inline void sendmsg_zc(io_uring_sqe& sqe, int fd, const msghdr* message, int flags, std::uint16_t zc_flags,
                       Token token) noexcept {
  fill(sqe, IORING_OP_SENDMSG_ZC, fd, address(message), 1, 0, token);
  sqe.ioprio = zc_flags;
  sqe.msg_flags = static_cast<std::uint32_t>(flags);
}

/// Gives a prepared send_zc, send_zc_fixed or sendmsg_zc a token of its own for its notification: no two CQEs share one
/// then, and a token says what it stands for without a look at cqe->flags. Needs Linux 7.1; -EINVAL before, in one CQE
/// without F_MORE. `notification` must not be Token{0}, which means "the operation's own, as ever". F_MORE and F_NOTIF
/// are set as without it. Source: the fact test.
inline void set_notification_token(io_uring_sqe& sqe, Token notification) noexcept {
  sqe.addr3 = notification.bits;
}

/// Gives a prepared send or send_zc a destination: sendto(2), for UDP. Needs Linux 6.1 (send) or 6.0 (send_zc).
/// Parameter: `peer`.
inline void set_destination(io_uring_sqe& sqe, const sockaddr* peer, std::uint16_t peer_length) noexcept {
  sqe.addr2 = address(peer);
  sqe.addr_len = peer_length;
}

}  // namespace uring::prep

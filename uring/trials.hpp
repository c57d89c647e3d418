// What only an SQE can tell: one small operation for each question, on a ring that is made for it.
//
//      a field or flag inside an SQE ──► submit it, in a form that does nothing ──► -EINVAL: unknown to this kernel
//                                                                                   the error expected: known
//
// capabilities.hpp asks the kernel. These are the things that it lists nowhere, because they are a bit in a field that
// was there before. Each trial is an operation that ends at once and changes nothing, whatever the kernel thinks of it.
// A program that can use the thing asks once, when it starts, and takes the older way after a no. uring_probe asks all.
//
// The answers hold for the kernel, not for the ring, so a ring of a few entries will do that is thrown away. Nothing
// else may be in flight on it. An answer is `false`, too, where the operation is unknown or forbidden here.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>

#include "uring/abi.hpp"
#include "uring/owned.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

namespace uring::trials {

namespace detail {

/// A personality that no ring of ours has registered.
inline constexpr std::uint16_t nobody = 0xffff;

/// Submits what `prepare` puts into an SQE, and takes in all its completions. The result of the first; -ETIME if none
/// comes within a second.
template <class Prepare>
int result_of(Ring& ring, const Prepare& prepare) {
  io_uring_sqe* const sqe = ring.next_sqe();
  if (sqe == nullptr) return -EBUSY;
  prepare(*sqe);
  int result = -ETIME;
  bool first = true;
  bool more = true;
  while (more && ring.submit_and_wait(1, std::chrono::seconds(1)).ready > 0) {
    ring.harvest([&](const io_uring_cqe& cqe) {
      if (first) result = cqe.res;
      first = false;
      more = (cqe.flags & IORING_CQE_F_MORE) != 0;
    });
  }
  return result;
}

}  // namespace detail

/// A SEND_ZC may give its notification a token of its own (7.1). The trial sends to a descriptor that is none.
inline bool notification_token(Ring& ring) {
  const int result = detail::result_of(ring, [](io_uring_sqe& sqe) {
    prep::send_zc(sqe, -1, nullptr, 0, 0, 0, Token{0});
    prep::set_notification_token(sqe, Token{1});
  });
  return result == -EBADF;
}

/// A timeout may carry its nanoseconds itself (7.1). The trial is one that is over at once.
inline bool timeout_nanoseconds(Ring& ring) {
  const int result = detail::result_of(
      ring, [](io_uring_sqe& sqe) { prep::timeout(sqe, std::chrono::nanoseconds(0), 0, 0, Token{0}); });
  return result == -ETIME;
}

/// A socket can be asked for its addresses (6.19). The trial asks one that has no peer. (Of TCP: on 6.18.15
/// Unix-domain sockets know no commands.)
inline bool socket_addresses(Ring& ring) {
  const FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return false;
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  const int result = detail::result_of(
      ring, [&](io_uring_sqe& sqe) { prep::getpeername(sqe, socket.get(), &address, &length, Token{0}); });
  return result == -ENOTCONN;
}

/// SEND and RECV can use registered buffers (7.2). The trial sends to the ring itself, which is no socket. (No descriptor
/// at all is -EBADF on Linux 5.10 whatever the SQE says: it looks for the file before it parses.)
inline bool registered_sends(Ring& ring) {
  const int result = detail::result_of(
      ring, [&](io_uring_sqe& sqe) { prep::send_fixed(sqe, ring.fd(), nullptr, 0, 0, 0, Token{0}); });
  return result == -ENOTSOCK;
}

/// A write can do without SIGPIPE (6.18). The trial writes a byte into a pipe that nobody else knows.
inline bool writes_without_signal(Ring& ring) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  const FileDescriptor read_end(ends[0]);
  const FileDescriptor write_end(ends[1]);
  const int result = detail::result_of(ring, [&](io_uring_sqe& sqe) {
    prep::write(sqe, write_end.get(), "", 1, current_position, Token{0});
    prep::no_signal(sqe);
  });
  return result == 1;
}

/// A buffer ring may say when a buffer counts as finished (7.1, 6.18.44, 6.12.90). The trial registers one, and takes
/// it away.
inline bool buffer_min_left(Ring& ring) {
  const std::size_t bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* const page = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  const Mapping memory(page, bytes);
  abi::buf_reg registration{};
  registration.ring_addr = prep::address(page);
  registration.ring_entries = 1;
  registration.flags = abi::pbuf_ring_inc;
  registration.min_left = 1;
  const Kernel& kernel = ring.kernel();
  if (kernel.register_(kernel.self, ring.fd(), IORING_REGISTER_PBUF_RING, &registration, 1) < 0) return false;
  abi::buf_reg unregistration{};
  kernel.register_(kernel.self, ring.fd(), IORING_UNREGISTER_PBUF_RING, &unregistration, 1);
  return true;
}

/// A task can restrict all rings that it will create (7.0). The trial passes no restrictions: a kernel that knows the
/// call misses them, or a permission (-EPERM: it has restricted itself already); any other misses the ring.
inline bool task_restrictions(const Kernel& kernel = real_kernel) {
  const int result = kernel.register_(kernel.self, -1, IORING_REGISTER_RESTRICTIONS, nullptr, 1);
  return result == -EFAULT || result == -EACCES || result == -EPERM;
}

/// A BPF program can judge SQEs (7.0). The trial passes none.
inline bool bpf_filters(const Kernel& kernel = real_kernel) {
  const int result = kernel.register_(kernel.self, -1, abi::register_bpf_filter, nullptr, 1);
  return result == -EFAULT || result == -EACCES || result == -EPERM;
}

/// Not even a NOP may be issued: restrictions, or a BPF filter (7.0), refuse it.
inline bool refuses_nop(Ring& ring) {
  return detail::result_of(ring, [](io_uring_sqe& sqe) { prep::nop(sqe, Token{0}); }) == -EACCES;
}

/// Which opcodes restrictions refuse here: of the ring (5.10), or of the task that created it (7.0). `known` says up to
/// which opcode to ask. What a BPF filter (7.0) refuses is not among them: it judges only what would really be issued.
///
/// The trial is an SQE under a personality that was never registered. The kernel looks at restrictions first (-EACCES),
/// then for the personality (-EINVAL), and only then at what the operation wants: so nothing is ever done. (Opcodes of
/// 128 bytes are -EINVAL even before that, on a ring for 64.)
inline std::array<bool, 256> refused_opcodes(Ring& ring, unsigned last_opcode) {
  std::array<bool, 256> refused{};
  for (unsigned opcode = 0; opcode <= last_opcode && opcode < refused.size(); ++opcode) {
    const int result = detail::result_of(ring, [opcode](io_uring_sqe& sqe) {
      prep::fill(sqe, static_cast<std::uint8_t>(opcode), -1, 0, 0, 0, Token{0});
      sqe.personality = detail::nobody;
    });
    refused[opcode] = result == -EACCES;
  }
  return refused;
}

}  // namespace uring::trials

// What every SQE has in common: 64 bytes, all of them written, and eight bits of sqe->flags.
//
//      0        1       2         4        8        16       24       28            32
//     +--------+-------+---------+--------+--------+--------+--------+-------------+
//     | opcode | flags | ioprio  |   fd   |  off   |  addr  |  len   | the op's own |
//     +--------+-------+---------+--------+--------+--------+--------+-------------+
//      32          40         42            44             48       56            64
//     +-----------+----------+-------------+--------------+--------+-------------+
//     | user_data | buf_index| personality | file_index   | addr3  |      0      |
//     +-----------+----------+-------------+--------------+--------+-------------+
//
// A slot of the SQE array is reused without being cleared, so what an operation does not use still holds what the last
// one left there. The kernel refuses many operations whose unused fields are not zero (-EINVAL), and otherwise a stale
// byte is worse: an old buf_index or IOSQE_IO_LINK is obeyed.
//
// Therefore: one function, `fill`, that writes every field in ascending order, and per opcode a function (prep_files,
// prep_sockets, prep_control) that calls it and then sets what is special. All of it is inlined, and the compiler
// merges double stores: a recv comes to nine stores, 11 instructions with g++ 12 -O2. (To fill an SQE of one's own on
// the stack and copy it says the same and costs 17: narrow stores, wide loads, and the stores that were wanted.)
//
// Memory. What an SQE points to is one of two things, and each prep function says which:
//   - parameters (paths, iovec arrays, socket addresses, timespecs): the kernel copies them when it consumes the SQE,
//     so they may die once `submit` has returned (IORING_FEAT_SUBMIT_STABLE, 5.5). With SQPOLL that is when the
//     kernel's thread has moved the SQ head past the SQE; to keep them until the CQE is always right.
//   - data and results (buffers, and whatever the operation writes): these belong to the kernel until the CQE. There
//     is no error if they die earlier; the kernel writes into what is there then, and no sanitizer sees it.
//
// Invariant: after `fill`, and after every function of uring::prep named like an opcode, no byte of the SQE depends on
// what was there before. The flag setters (link, drain, ...) only add: call them behind the prep function.
#pragma once

#include <cassert>
#include <cstdint>

#include "uring/abi.hpp"
#include "uring/token.hpp"

namespace uring {

/// Names a group of provided buffers: the `bgid` with which its buffer ring was registered (5.19).
struct BufferGroup {
  std::uint16_t id;
};

/// Names a direct descriptor: an entry of the ring's own file table (5.15), not a number that read(2) understands.
struct DirectSlot {
  std::uint32_t index;
};

/// "The kernel picks a free slot and returns its index in cqe->res" (5.19; -ENFILE when there is none).
inline constexpr DirectSlot any_slot{IORING_FILE_INDEX_ALLOC - 1};

}  // namespace uring

namespace uring::prep {

/// How an SQE spells an address.
inline std::uint64_t address(const void* pointer) noexcept {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

/// How an SQE spells "put the new file into this slot": one more than the index, since 0 means "an ordinary
/// descriptor, please". any_slot thereby becomes IORING_FILE_INDEX_ALLOC, all ones.
constexpr std::uint32_t file_index(DirectSlot slot) noexcept { return slot.index + 1; }

/// Writes all 64 bytes: the seven arguments where the picture says, zero everywhere else.
inline void fill(io_uring_sqe& sqe, std::uint8_t opcode, int fd, std::uint64_t addr, std::uint32_t len,
                 std::uint64_t off, Token token) noexcept {
  sqe.opcode = opcode;
  sqe.flags = 0;
  sqe.ioprio = 0;
  sqe.fd = fd;
  sqe.off = off;
  sqe.addr = addr;
  sqe.len = len;
  sqe.msg_flags = 0;
  sqe.user_data = token.bits;
  sqe.buf_index = 0;
  sqe.personality = 0;
  sqe.file_index = 0;
  sqe.addr3 = 0;
  sqe.__pad2[0] = 0;
}

// ---- sqe->flags: what may be said about any operation ---------------------------------------------------------------

/// The next SQE starts when this one has succeeded; if it fails, the rest of the chain completes with -ECANCELED.
/// Needs Linux 5.3. On all SQEs of a chain but the last; and a chain ends where the submission ends.
/// A short read counts as failure here, a short recv does not (with MSG_WAITALL it does). Nothing is rolled back, and
/// an SQE that the kernel cannot even parse cancels the *earlier* links too.
inline void link(io_uring_sqe& sqe) noexcept { sqe.flags |= IOSQE_IO_LINK; }

/// Like link, but the next SQE starts however this one ended: what a CLOSE at the end of a chain wants, or the
/// descriptor leaks whenever a read comes up short. Needs Linux 5.5. Does not help against SQEs that cannot be parsed.
inline void hardlink(io_uring_sqe& sqe) noexcept { sqe.flags |= IOSQE_IO_HARDLINK; }

/// Whether DRAIN is possible with the operation of `sqe`: with any but a send that has a notification. The notification
/// is a request, too, and one that DRAIN waits for on some kernels ("Known, and not run here" in docs/kernel-facts.md).
inline bool can_drain(const io_uring_sqe& sqe) noexcept {
  return sqe.opcode != IORING_OP_SEND_ZC && sqe.opcode != IORING_OP_SENDMSG_ZC;
}

/// Starts when everything submitted before has completed, and everything submitted later waits for it. Needs 5.2.
/// Never on a ring that serves clients: the recv of one idle client, or an armed multishot accept, holds up the whole
/// ring, a cancellation included. Only where can_drain. And -EOPNOTSUPP on a ring that has once used skip_success.
inline void drain(io_uring_sqe& sqe) noexcept {
  assert(can_drain(sqe));
  sqe.flags |= IOSQE_IO_DRAIN;
}

/// Runs on a worker thread from the start, without the attempt to do it at once. Needs Linux 5.6. For the operation
/// that is known to take long and would hold up io_uring_enter, such as a large read out of the page cache.
inline void force_async(io_uring_sqe& sqe) noexcept { sqe.flags |= IOSQE_ASYNC; }

/// No CQE if it succeeds; one if it fails. Needs Linux 5.17 (IORING_FEAT_CQE_SKIP). For links in a chain whose end
/// tells enough. What res would have said is lost; if a link with this flag fails, the later links are silent too.
inline void skip_success(io_uring_sqe& sqe) noexcept { sqe.flags |= IOSQE_CQE_SKIP_SUCCESS; }

/// sqe->fd is an index of the ring's file table, not a descriptor. Needs Linux 5.1 (direct descriptors: 5.15).
/// It has nothing to do with registered *buffers*: for those, see read_fixed.
inline void fixed_file(io_uring_sqe& sqe) noexcept { sqe.flags |= IOSQE_FIXED_FILE; }

/// The kernel takes the buffer out of `group` when there is something to put in: an idle connection occupies none.
/// Needs Linux 5.19 (buffer rings). CQE: flags >> 16 is the buffer id, valid if IORING_CQE_F_BUFFER is set.
inline void buffer_select(io_uring_sqe& sqe, BufferGroup group) noexcept {
  sqe.flags |= IOSQE_BUFFER_SELECT;
  sqe.buf_group = group.id;
}

}  // namespace uring::prep

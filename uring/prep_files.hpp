// SQEs for files: one function per opcode, each with what it takes, how long memory must live, and what cqe->res says.
//
// Read prep_fill.hpp first: which 64 bytes these functions write, and what "parameters" and "data" mean below.
//
// What holds for all of them:
//   - `token` comes back as cqe->user_data; it is always the last argument.
//   - cqe->res is what the system call of the same name returns, or -errno. errno itself is never touched.
//   - nothing is checked here: a bad descriptor is a CQE with -EBADF, an SQE that the kernel cannot parse one with
//     -EINVAL. ENOENT can come from an open or a statx, never from a read: a read has a descriptor, not a name.
//   - short reads and writes are as normal as with read(2): res < len, and the rest is a new operation.
//   - a read of what the page cache has happens inside io_uring_enter, before it returns; a miss is asynchronous. Not
//     every file system takes part: on 6.18, buffered writes to ext4 go to a worker thread, and on tmpfs reads too.
//
// Limits: of the RWF_* flags no_signal only; the others by hand: abi::sqe_op_flags(sqe) of reads and writes.
#pragma once

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>

#include "uring/abi.hpp"
#include "uring/prep_fill.hpp"
#include "uring/token.hpp"

namespace uring {

/// Offset of a read or write: "where the file position is, and move it" (5.6). Right for pipes, sockets and terminals,
/// which have no offsets. For a file with several operations in flight it is a race: give each its own offset.
inline constexpr std::uint64_t current_position = ~std::uint64_t{0};

}  // namespace uring

namespace uring::prep {

/// Does nothing, and completes: the cheapest way to see a ring move. Needs Linux 5.1. CQE: res = 0.
inline void nop(io_uring_sqe& sqe, Token token) noexcept { fill(sqe, IORING_OP_NOP, -1, 0, 0, 0, token); }

// ---- Reading and writing --------------------------------------------------------------------------------------------

/// pread(2) of `length` bytes at `offset`. Needs Linux 5.6. Data: `buffer`, until the CQE.
/// CQE: res = bytes, fewer at the end of the file, 0 behind it. -EBADF, -EISDIR, -EFAULT, -EINVAL (O_DIRECT and not
/// aligned). On a socket the offset must be 0 or current_position, anything else is -ESPIPE; prefer recv there.
inline void read(io_uring_sqe& sqe, int fd, void* buffer, std::uint32_t length, std::uint64_t offset,
                 Token token) noexcept {
  fill(sqe, IORING_OP_READ, fd, address(buffer), length, offset, token);
}

/// pwrite(2) of `length` bytes at `offset`. Needs Linux 5.6. Data: `buffer`, unchanged until the CQE.
/// CQE: res = bytes. -EBADF, -ENOSPC, -EFBIG, -EFAULT.
/// Not for sockets: if the peer is gone, this raises SIGPIPE in the submitting thread like write(2), and the default
/// action is death. send (prep_sockets.hpp) never does. For a pipe there is no_signal.
inline void write(io_uring_sqe& sqe, int fd, const void* buffer, std::uint32_t length, std::uint64_t offset,
                  Token token) noexcept {
  fill(sqe, IORING_OP_WRITE, fd, address(buffer), length, offset, token);
}

/// Makes a prepared write, writev or write_fixed to a pipe or socket that nobody reads any more -EPIPE without SIGPIPE,
/// as MSG_NOSIGNAL does for a send. Needs Linux 6.18 (RWF_NOSIGNAL); -EOPNOTSUPP before, and nothing is written.
/// Where it is missing: ignore SIGPIPE for the whole process. Source: pwritev2(2), and the fact test of the same name.
inline void no_signal(io_uring_sqe& sqe) noexcept { abi::sqe_op_flags(sqe) |= abi::rwf_nosignal; }

/// preadv(2) into `count` pieces. Needs Linux 5.1. Parameter: the array `pieces`; data: what it points to, until the
/// CQE. CQE: as read; res counts the bytes of all pieces together.
inline void readv(io_uring_sqe& sqe, int fd, const iovec* pieces, std::uint32_t count, std::uint64_t offset,
                  Token token) noexcept {
  fill(sqe, IORING_OP_READV, fd, address(pieces), count, offset, token);
}

/// pwritev(2) of `count` pieces. Needs Linux 5.1. Parameter: the array `pieces`; data: what it points to, until the
/// CQE. CQE: as write.
inline void writev(io_uring_sqe& sqe, int fd, const iovec* pieces, std::uint32_t count, std::uint64_t offset,
                   Token token) noexcept {
  fill(sqe, IORING_OP_WRITEV, fd, address(pieces), count, offset, token);
}

/// Like read, into registered buffer number `buffer_index`: its pages were looked up and pinned once, at registration
/// (IORING_REGISTER_BUFFERS), so this saves that work, and no system call. Needs Linux 5.1.
/// `buffer` is an ordinary address that must lie, with all `length` bytes, inside the registered one; 0 is no
/// abbreviation. Data: until the CQE; and the pages stay pinned after munmap(2), so a read then succeeds into memory
/// that nobody sees any more.
/// CQE: as read; -EFAULT for a bad index as well as for an address outside. (A plain read ignores buf_index, and
/// fixed_file is about descriptors: neither makes a read "fixed".)
inline void read_fixed(io_uring_sqe& sqe, int fd, void* buffer, std::uint32_t length, std::uint64_t offset,
                       std::uint16_t buffer_index, Token token) noexcept {
  fill(sqe, IORING_OP_READ_FIXED, fd, address(buffer), length, offset, token);
  sqe.buf_index = buffer_index;
}

/// Like write, out of registered buffer number `buffer_index`. Needs Linux 5.1. See read_fixed and write.
inline void write_fixed(io_uring_sqe& sqe, int fd, const void* buffer, std::uint32_t length,
                        std::uint64_t offset, std::uint16_t buffer_index, Token token) noexcept {
  fill(sqe, IORING_OP_WRITE_FIXED, fd, address(buffer), length, offset, token);
  sqe.buf_index = buffer_index;
}

/// fsync(2), or fdatasync(2) with IORING_FSYNC_DATASYNC in `flags`. Needs Linux 5.1. CQE: res = 0; -EBADF, -EINVAL (a
/// socket), -EIO, -ENOSPC.
/// Covers what has *completed* before it starts. It may overtake writes in flight: link them to it.
inline void fsync(io_uring_sqe& sqe, int fd, std::uint32_t flags, Token token) noexcept {
  fill(sqe, IORING_OP_FSYNC, fd, 0, 0, 0, token);
  sqe.fsync_flags = flags;
}

/// ftruncate(2): the file is `length` bytes long from now on. Needs Linux 6.9; before, the CQE says -EINVAL.
/// CQE: res = 0; -EBADF, -EINVAL (not open for writing, or a length that is negative), -EFBIG, -ETXTBSY. Runs on a
/// worker thread, always. It waits for no write in flight, and a write behind the new end makes the file longer again.
inline void ftruncate(io_uring_sqe& sqe, int fd, std::uint64_t length, Token token) noexcept {
  fill(sqe, abi::op_ftruncate, fd, 0, 0, length, token);
}

/// splice(2): moves up to `length` bytes between two descriptors without passing them through user space. One of them
/// must be a pipe (else -EINVAL). The offset of a pipe must be current_position (else -ESPIPE), and so must a socket's
/// (-EINVAL). Needs Linux 5.7.
/// `flags`: SPLICE_F_*; with SPLICE_F_FD_IN_FIXED, fd_in is a direct descriptor. (fixed_file speaks of fd_out.)
/// CQE: res = bytes, 0 at the end of input. Runs on a worker thread, always. A short splice breaks a link, so socket
/// to pipe to socket needs hardlink. A socket that is spliced into must be O_NONBLOCK: SPLICE_F_NONBLOCK is about the
/// pipe, and a worker that waits for the socket holds the pipe's lock.
inline void splice(io_uring_sqe& sqe, int fd_in, std::uint64_t offset_in, int fd_out,
                   std::uint64_t offset_out, std::uint32_t length, std::uint32_t flags,
                   Token token) noexcept {
  fill(sqe, IORING_OP_SPLICE, fd_out, offset_in, length, offset_out, token);
  sqe.splice_flags = flags;
  sqe.splice_fd_in = fd_in;
}

// ---- Opening, asking, closing ---------------------------------------------------------------------------------------

/// openat(2) relative to `directory` (or AT_FDCWD). Needs Linux 5.6. Parameter: `path`.
/// CQE: res = the new descriptor; -ENOENT, -EACCES, -EMFILE, -ELOOP.
/// Give O_NONBLOCK for files that are not your own. It is how the kernel tries the open inside io_uring_enter anyway,
/// where a FIFO opens at once for reading, and for writing only if somebody reads (-ENXIO); but when the path is not
/// cached a worker thread repeats it as you said it, and without O_NONBLOCK waits there for the other end of the FIFO.
inline void openat(io_uring_sqe& sqe, int directory, const char* path, int flags, mode_t mode,
                   Token token) noexcept {
  fill(sqe, IORING_OP_OPENAT, directory, address(path), mode, 0, token);
  sqe.open_flags = static_cast<std::uint32_t>(flags);
}

/// openat into a direct descriptor (5.15): no number is taken from the process's table; the file is reached by slot
/// and fixed_file. `flags` without O_CLOEXEC (-EINVAL: there is nothing to survive an exec). A slot in use is
/// replaced. CQE: res = 0 for a slot of your choice, its index for any_slot; -ENXIO without a file table, -EINVAL or
/// -ENFILE when the slot does not exist or none is free.
inline void openat_direct(io_uring_sqe& sqe, int directory, const char* path, int flags, mode_t mode,
                          DirectSlot slot, Token token) noexcept {
  openat(sqe, directory, path, flags, mode, token);
  sqe.file_index = file_index(slot);
}

/// openat2(2): like openat, with rules on how the path may be resolved. Needs Linux 5.6. Parameters: `path`, `how`.
/// CQE: res = the new descriptor; -EXDEV when RESOLVE_BENEATH stops a path that leads out of `directory`, -ELOOP for a
/// link that RESOLVE_NO_* forbids, -EINVAL for a mode without O_CREAT (openat ignores that, openat2 does not).
inline void openat2(io_uring_sqe& sqe, int directory, const char* path, const open_how* how,
                    Token token) noexcept {
  fill(sqe, IORING_OP_OPENAT2, directory, address(path), sizeof(*how), address(how), token);
}

/// openat2 into a direct descriptor (5.15): see openat_direct.
inline void openat2_direct(io_uring_sqe& sqe, int directory, const char* path, const open_how* how,
                           DirectSlot slot, Token token) noexcept {
  openat2(sqe, directory, path, how, token);
  sqe.file_index = file_index(slot);
}

/// statx(2) of `path` relative to `directory`, or with AT_EMPTY_PATH and "" of `directory` itself. Needs Linux 5.6.
/// Parameter: `path` (on Linux 5.10 it must live until the CQE); data: `result`, until the CQE. `mask`: STATX_*.
/// CQE: res = 0; -ENOENT, -EACCES, -ENOTDIR.
/// Runs on a worker thread, always. (fstat(2) of a file that is open already needs none.)
inline void statx(io_uring_sqe& sqe, int directory, const char* path, int flags, std::uint32_t mask,
                  struct ::statx* result, Token token) noexcept {
  fill(sqe, IORING_OP_STATX, directory, address(path), mask, address(result), token);
  sqe.statx_flags = static_cast<std::uint32_t>(flags);
}

/// close(2). Needs Linux 5.6. CQE: res = 0; -EBADF.
/// It cancels nothing: an operation in flight holds the file open, a socket sends no FIN and a recv still completes,
/// into its buffer, after the close. Cancel and harvest first, then close.
inline void close(io_uring_sqe& sqe, int fd, Token token) noexcept {
  fill(sqe, IORING_OP_CLOSE, fd, 0, 0, 0, token);
}

/// Empties a slot of the ring's file table (5.15). Not `close` with fixed_file: that is -EBADF. CQE: res = 0; -EBADF
/// when the slot is empty, -ENXIO without a file table. Cancels nothing, like close.
inline void close_direct(io_uring_sqe& sqe, DirectSlot slot, Token token) noexcept {
  fill(sqe, IORING_OP_CLOSE, 0, 0, 0, 0, token);
  sqe.file_index = file_index(slot);
}

/// Puts `count` descriptors into the ring's file table from slot `first` on; -1 empties a slot, -2
/// (IORING_REGISTER_FILES_SKIP, 5.12) leaves it. With any_slot (5.19) the kernel looks for free slots and writes their
/// indices into `descriptors`. Needs Linux 5.6. The table keeps its own reference: closing the descriptor is fine.
/// Data: `descriptors`, until the CQE. (The exception among the inputs: it is read when the operation *runs*.)
/// CQE: res = how many slots were done, fewer if one failed; the error if it was the first. -ENXIO without a table,
/// -EBADF, -EINVAL (behind the end). The slot that failed is empty now, whatever was in it.
inline void files_update(io_uring_sqe& sqe, int* descriptors, std::uint32_t count, DirectSlot first,
                         Token token) noexcept {
  const std::uint64_t offset = first.index == any_slot.index ? IORING_FILE_INDEX_ALLOC : first.index;
  fill(sqe, IORING_OP_FILES_UPDATE, -1, address(descriptors), count, offset, token);
}

}  // namespace uring::prep

// The three system calls of io_uring, the mapping, and the one seam of this project.
//
//     io_uring_setup     a ring: returns its descriptor, and in `params` where everything lies
//     mmap               the two rings (one mapping since 5.4) and the array of SQEs
//     io_uring_enter     "look at my SQEs", "wait for CQEs", or both at once
//     io_uring_register  everything that is not I/O: buffers, files, probing, enabling
//
// Nothing else is needed, and libc has wrappers for none of the three: glibc offers syscall(2), and that is
// what we use, but for the one call that is made all the time (enter_kernel).
//
// A ring never calls these directly. It calls through a `Kernel`: four plain function pointers and a context.
// The real kernel is one; the tests have others (one that plays the kernel over ordinary memory, one that
// fails at step N, one that pretends to be old), and the narrator of Milestone 1 is a Kernel that tells what
// it sees and passes the call on (observer.hpp). So production and test run the same code, and watching costs
// nothing when nobody watches.
//
// Error convention, here and in the whole ring layer: the result is >= 0, or it is -errno. `errno` itself is
// read once, below, directly behind the call that set it.
#pragma once

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "uring/abi.hpp"

namespace uring {

/// The seam. `self` is passed back to each function; the real kernel needs none.
struct Kernel {
  /// io_uring_setup(2): the ring's descriptor, or -errno. Fills `params` (120 bytes, in and out).
  int (*setup)(void* self, unsigned entries, io_uring_params* params);

  /// io_uring_enter(2): how many SQEs the kernel consumed, or -errno. It *never* says how many completions
  /// there are. `argument` is null or, with IORING_ENTER_EXT_ARG in `flags` (5.11), points to the signal mask
  /// and time-out. `fd` is a descriptor, or an index with IORING_ENTER_REGISTERED_RING (5.18).
  int (*enter)(void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const abi::getevents_arg* argument);

  /// io_uring_register(2): >= 0, or -errno. `argument` and `count` mean what `opcode` says.
  int (*register_)(void* self, int fd, unsigned opcode, void* argument, unsigned count);

  /// mmap(2) of `bytes` at `offset` of the ring's descriptor, shared and writable, faulted in at once: 0 and
  /// the address in `*address`, or -errno. What it returns must be something that munmap(2) can release.
  int (*map)(void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address);

  void* self = nullptr;
};

namespace detail {

inline int result_or_errno(long result) noexcept { return result < 0 ? -errno : static_cast<int>(result); }

inline int real_setup(void*, unsigned entries, io_uring_params* params) noexcept {
  return result_or_errno(::syscall(__NR_io_uring_setup, entries, params));
}

/// io_uring_enter(2) as the kernel knows it: six registers in, and out comes a number >= 0 or -errno. That is
/// the whole convention; errno is libc's invention. Written out because it is measurable: through syscall(2)
/// a NOP at batch 1 took about 2 % longer (`make bench`), and liburing does the same. Other machines go
/// through libc.
inline long enter_kernel(long fd, long to_submit, long min_complete, long flags, const void* argument,
                         std::size_t size) noexcept {
#if defined(__x86_64__)
  long result = __NR_io_uring_enter;
  register long r10 asm("r10") = flags;
  register const void* r8 asm("r8") = argument;
  register std::size_t r9 asm("r9") = size;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(fd), "S"(to_submit), "d"(min_complete), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
#else
  return result_or_errno(::syscall(__NR_io_uring_enter, fd, to_submit, min_complete, flags, argument, size));
#endif
}

inline int real_enter(void*, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                      const abi::getevents_arg* argument) noexcept {
  // Without IORING_ENTER_EXT_ARG the null pointer is a signal mask, "leave it as it is", and its size is not
  // looked at.
  return static_cast<int>(enter_kernel(fd, to_submit, min_complete, flags, argument, sizeof(*argument)));
}

inline int real_register(void*, int fd, unsigned opcode, void* argument, unsigned count) noexcept {
  return result_or_errno(::syscall(__NR_io_uring_register, fd, opcode, argument, count));
}

inline int real_map(void*, int fd, std::size_t bytes, std::uint64_t offset, void** address) noexcept {
  // MAP_POPULATE: a page fault in the middle of the first submission would be a poor place to pay for it.
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                              static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return -errno;
  *address = mapped;
  return 0;
}

}  // namespace detail

inline constexpr Kernel real_kernel{detail::real_setup, detail::real_enter, detail::real_register,
                                    detail::real_map, nullptr};

}  // namespace uring

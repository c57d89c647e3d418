// What this kernel can do: the three ways to find out, none of which looks at a version number.
//
//   features     io_uring_setup reports a word of bits (IORING_FEAT_*)
//   opcodes      IORING_REGISTER_PROBE (5.6) lists them
//   setup flags  cannot be asked for, only tried: a small ring per flag, thrown away at once
//
// Version numbers mislead in both directions: distributions backport, and sandboxes take away. And there is a
// fourth kind of thing, flags inside an SQE (multishot accept, multishot recv), that the kernel lists
// nowhere. For those a server tries and falls back, or takes as a sign something that came in the same
// release; uring_probe says which.
//
// Everything here happens once, at start-up, on rings of one entry.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "uring/abi.hpp"
#include "uring/owned.hpp"
#include "uring/setup.hpp"
#include "uring/syscalls.hpp"

namespace uring {

struct Capabilities {
  /// Why there is no io_uring at all (positive errno), or 0. If not 0, the rest is empty.
  int setup_error = 0;
  /// IORING_FEAT_* and uring::abi::feat_*.
  std::uint32_t features = 0;
  /// IORING_SETUP_* that the kernel accepts, each with what it needs beside it.
  std::uint32_t setup_flags = 0;
  /// IORING_OP_* that it implements; all false before 5.6, which cannot be asked.
  std::array<bool, 256> opcodes{};
  /// The highest opcode it knows.
  unsigned last_opcode = 0;
  /// IORING_REGISTER_RING_FDS works (5.18).
  bool registered_ring_fd = false;
  /// IORING_REGISTER_PBUF_RING works (5.19).
  bool provided_buffer_rings = false;

  bool has_feature(std::uint32_t feature) const noexcept { return (features & feature) != 0; }
  bool has_setup_flag(std::uint32_t flag) const noexcept { return (setup_flags & flag) != 0; }
  bool has_opcode(unsigned opcode) const noexcept { return opcode < opcodes.size() && opcodes[opcode]; }
};

namespace detail {

inline std::size_t page_bytes() noexcept { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

/// Sets up a ring of one entry with `flags`, nothing mapped: its descriptor, or -errno.
inline int try_setup(const Kernel& kernel, std::uint32_t flags, io_uring_params& params,
                     std::byte* memory = nullptr) {
  params = {};
  params.flags = flags;
  params.cq_entries = 2;  // looked at with CQSIZE only
  if ((flags & abi::setup_no_mmap) != 0) {
    // The application brings the memory: one page for the rings, one for the SQEs.
    abi::set_user_addr(params.cq_off, memory);
    abi::set_user_addr(params.sq_off, memory + page_bytes());
  }
  return kernel.setup(kernel.self, 1, &params);
}

/// Flags that the kernel takes only in company.
inline std::uint32_t company_of(std::uint32_t flag) noexcept {
  switch (flag) {
    case IORING_SETUP_SQ_AFF:
      return IORING_SETUP_SQPOLL;
    case IORING_SETUP_TASKRUN_FLAG:
      return IORING_SETUP_COOP_TASKRUN;
    case IORING_SETUP_DEFER_TASKRUN:
      return IORING_SETUP_SINGLE_ISSUER;
    case abi::setup_registered_fd_only:
      return abi::setup_no_mmap;
    case abi::setup_hybrid_iopoll:
      return IORING_SETUP_IOPOLL;
    case abi::setup_sq_rewind:
      return abi::setup_no_sqarray;
    default:
      return 0;
  }
}

inline bool accepts_setup_flag(const Kernel& kernel, std::uint32_t flag) {
  const std::size_t two_pages = 2 * page_bytes();
  Mapping memory;
  if (flag == abi::setup_no_mmap || flag == abi::setup_registered_fd_only) {
    void* const pages =
        ::mmap(nullptr, two_pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return false;
    memory = Mapping(pages, two_pages);
  }
  io_uring_params params;
  const int fd = try_setup(kernel, flag | company_of(flag), params, memory.data());
  if (fd < 0) return false;
  if (flag != abi::setup_registered_fd_only) {
    FileDescriptor(fd).reset();
    return true;
  }
  // Here the kernel answered with an index into this thread's registered rings, not with a descriptor.
  io_uring_rsrc_update update{};
  update.offset = static_cast<std::uint32_t>(fd);
  kernel.register_(kernel.self, fd, IORING_UNREGISTER_RING_FDS | abi::register_use_registered_ring, &update,
                   1);
  return true;
}

inline void probe_opcodes(const Kernel& kernel, int fd, Capabilities& found) {
  // io_uring_probe ends in a flexible array; one buffer for header and 256 entries.
  alignas(io_uring_probe) std::array<std::byte, sizeof(io_uring_probe) + 256 * sizeof(io_uring_probe_op)>
      buffer{};
  if (kernel.register_(kernel.self, fd, IORING_REGISTER_PROBE, buffer.data(), 256) < 0) return;
  io_uring_probe header;
  std::memcpy(&header, buffer.data(), sizeof header);
  found.last_opcode = header.last_op;
  for (unsigned i = 0; i < header.ops_len; ++i) {
    io_uring_probe_op entry;
    std::memcpy(&entry, buffer.data() + sizeof header + i * sizeof entry, sizeof entry);
    if ((entry.flags & IO_URING_OP_SUPPORTED) != 0) found.opcodes[entry.op] = true;
  }
}

inline bool registers_ring_fd(const Kernel& kernel, int fd) {
  io_uring_rsrc_update update{};
  update.offset = ~std::uint32_t{0};
  update.data = static_cast<__u64>(fd);
  if (kernel.register_(kernel.self, fd, IORING_REGISTER_RING_FDS, &update, 1) != 1) return false;
  update.data = 0;  // must be zero here: the index alone says which
  kernel.register_(kernel.self, fd, IORING_UNREGISTER_RING_FDS, &update, 1);
  return true;
}

inline bool registers_buffer_ring(const Kernel& kernel, int fd) {
  void* const page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  const Mapping memory(page, 4096);
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<std::uint64_t>(page);
  registration.ring_entries = 1;
  if (kernel.register_(kernel.self, fd, IORING_REGISTER_PBUF_RING, &registration, 1) < 0) return false;
  io_uring_buf_reg unregistration{};
  kernel.register_(kernel.self, fd, IORING_UNREGISTER_PBUF_RING, &unregistration, 1);
  return true;
}

}  // namespace detail

/// Asks and tries. Never throws: without io_uring, `setup_error` says why (see explain_setup).
inline Capabilities probe_capabilities(const Kernel& kernel = real_kernel) {
  Capabilities found;
  io_uring_params params;
  const FileDescriptor ring(detail::try_setup(kernel, 0, params));
  if (!ring) {
    found.setup_error = -ring.get();
    return found;
  }
  found.features = params.features;
  detail::probe_opcodes(kernel, ring.get(), found);
  found.registered_ring_fd = detail::registers_ring_fd(kernel, ring.get());
  found.provided_buffer_rings = detail::registers_buffer_ring(kernel, ring.get());
  for (const SetupFlag& flag : setup_flag_table) {
    // ATTACH_WQ shares the workers of the ring that wq_fd names, so it is the one flag that needs a second
    // ring.
    if (flag.bit == IORING_SETUP_ATTACH_WQ) {
      io_uring_params attach{};
      attach.flags = flag.bit;
      attach.wq_fd = static_cast<__u32>(ring.get());
      const FileDescriptor second(kernel.setup(kernel.self, 1, &attach));
      if (second) found.setup_flags |= flag.bit;
    } else if (detail::accepts_setup_flag(kernel, flag.bit)) {
      found.setup_flags |= flag.bit;
    }
  }
  return found;
}

}  // namespace uring

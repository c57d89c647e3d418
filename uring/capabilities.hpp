// What this kernel can do: the ways to find out, none of which looks at a version number.
//
//                    from Linux 6.18 on                        before
//   features         IORING_REGISTER_QUERY, and setup          setup reports a word of bits (IORING_FEAT_*)
//   setup flags      IORING_REGISTER_QUERY                     cannot be asked: a small ring per flag, thrown away
//   enter, IOSQE     IORING_REGISTER_QUERY                     cannot be asked
//   opcodes          IORING_REGISTER_PROBE                     the same (5.6)
//
// Version numbers mislead in both directions: distributions backport, and sandboxes take away.
//
// To be known is not to be permitted. The query is one call without a ring, and it is answered even where
// kernel.io_uring_disabled forbids every ring: it says what the kernel was built to know. Whether *you* may use that is
// learned by making a ring (`setup_error`), and for opcodes by trying them (trials.hpp).
//
// And there is another kind of thing, flags and fields inside an SQE (multishot accept, a token for a notification),
// that the kernel lists nowhere. For those a server tries and falls back, trials.hpp has some of the tries; or takes as
// a sign something that came in the same release; uring_probe says which.
//
// Everything here happens once, at start-up, on rings of two entries.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "uring/abi.hpp"
#include "uring/owned.hpp"
#include "uring/setup.hpp"
#include "uring/syscalls.hpp"

namespace uring {

struct Capabilities {
  /// Why there can be no ring here (positive errno), or 0. If not 0, what was queried is all there is.
  int setup_error = 0;
  /// The kernel answers IORING_REGISTER_QUERY (6.18): it has said itself what it knows.
  bool queried = false;
  /// IORING_FEAT_* and uring::abi::feat_*.
  std::uint32_t features = 0;
  /// IORING_SETUP_* that the kernel knows (queried), or accepts, each with what it needs beside it (tried).
  std::uint32_t setup_flags = 0;
  /// IORING_ENTER_* and IOSQE_*; 0 before 6.18, where nobody can ask.
  std::uint32_t enter_flags = 0;
  std::uint32_t sqe_flags = 0;
  /// IORING_REGISTER_* below this number; 0 before 6.18.
  unsigned register_opcodes = 0;
  /// Zero-copy receive: flags of its registration, and how many commands IORING_REGISTER_ZCRX_CTRL has; 0 before 6.19.
  std::uint64_t zcrx_register_flags = 0;
  unsigned zcrx_commands = 0;
  /// IORING_OP_* that it implements, by IORING_REGISTER_PROBE; where no ring can be made, or restrictions forbid the
  /// probe, those that the query counts; all false before 5.6, which cannot be asked.
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

/// Needs Linux 6.18, and neither a ring nor a permission. False if this kernel cannot be asked.
inline bool query(const Kernel& kernel, Capabilities& found) {
  abi::query_zcrx_answer receive{};
  abi::query_header second{};
  second.query_data = reinterpret_cast<std::uintptr_t>(&receive);
  second.query_op = abi::query_zcrx;
  second.size = sizeof receive;
  abi::query_opcodes_answer answer{};
  abi::query_header first{};
  first.next_entry = reinterpret_cast<std::uintptr_t>(&second);
  first.query_data = reinterpret_cast<std::uintptr_t>(&answer);
  first.query_op = abi::query_opcodes;
  first.size = sizeof answer;
  // An old kernel refuses the call: it does not know the number, or looks for a ring called -1.
  if (kernel.register_(kernel.self, -1, abi::register_query, &first, 0) < 0 || first.result < 0) return false;
  found.queried = true;
  found.features = static_cast<std::uint32_t>(answer.feature_flags);
  found.setup_flags = static_cast<std::uint32_t>(answer.ring_setup_flags);
  found.enter_flags = static_cast<std::uint32_t>(answer.enter_flags);
  found.sqe_flags = static_cast<std::uint32_t>(answer.sqe_flags);
  found.register_opcodes = answer.nr_register_opcodes;
  // Until the probe says better: this counts opcodes that the kernel's configuration has left out.
  for (unsigned opcode = 0; opcode < std::min(answer.nr_request_opcodes, 256u); ++opcode)
    found.opcodes[opcode] = true;
  found.last_opcode = answer.nr_request_opcodes - 1;
  if (second.result == 0) {  // not in 6.18, which knows the first question only
    found.zcrx_register_flags = receive.register_flags;
    found.zcrx_commands = receive.nr_ctrl_opcodes;
  }
  return true;
}

inline std::size_t page_bytes() noexcept { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

/// Sets up a ring of two entries with `flags`, nothing mapped: its descriptor, or -errno. Two, because with
/// IORING_SETUP_SQE_MIXED a large SQE must have room: one entry is -EOVERFLOW.
inline int try_setup(const Kernel& kernel, std::uint32_t flags, io_uring_params& params,
                     std::byte* memory = nullptr) {
  params = {};
  params.flags = flags;
  params.cq_entries = 4;  // looked at with CQSIZE only
  if ((flags & abi::setup_no_mmap) != 0) {
    // The application brings the memory: one page for the rings, one for the SQEs.
    abi::set_user_addr(params.cq_off, memory);
    abi::set_user_addr(params.sq_off, memory + page_bytes());
  }
  return kernel.setup(kernel.self, 2, &params);
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
  found.opcodes.fill(false);
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

/// A ring for each flag: what is done where the kernel cannot be asked. `ring` is some ring that exists.
inline std::uint32_t try_setup_flags(const Kernel& kernel, int ring) {
  std::uint32_t accepted = 0;
  for (const SetupFlag& flag : setup_flag_table) {
    // ATTACH_WQ shares the workers of the ring that wq_fd names, so it is the one flag that needs a second
    // ring.
    if (flag.bit == IORING_SETUP_ATTACH_WQ) {
      io_uring_params attach{};
      attach.flags = flag.bit;
      attach.wq_fd = static_cast<__u32>(ring);
      const FileDescriptor second(kernel.setup(kernel.self, 1, &attach));
      if (second) accepted |= flag.bit;
    } else if (accepts_setup_flag(kernel, flag.bit)) {
      accepted |= flag.bit;
    }
  }
  return accepted;
}

}  // namespace detail

/// Asks, and tries what cannot be asked. Never throws: where no ring can be made, `setup_error` says why (see
/// explain_setup).
inline Capabilities probe_capabilities(const Kernel& kernel = real_kernel) {
  Capabilities found;
  const bool queried = detail::query(kernel, found);
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
  if (!queried) found.setup_flags = detail::try_setup_flags(kernel, ring.get());
  return found;
}

}  // namespace uring

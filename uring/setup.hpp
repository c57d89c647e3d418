// How a ring comes into being: flags, fallbacks, descriptor, two mappings.
//
//     io_uring_setup(entries, params) ──► fd, and in params the offsets of everything
//
//     mmap(fd, IORING_OFF_SQ_RING)                        mmap(fd, IORING_OFF_SQES)
//     ┌──────────────────────────────────────────┐        ┌──────────────────────────┐
//     │ SQ head, tail   CQ head, tail            │        │ sqe[0]   64 bytes        │
//     │ masks, sizes, flags, counters            │        │ sqe[1]                   │
//     │ cqe[0] cqe[1] ... 16 bytes each          │        │ ...                      │
//     │ (SQ array: which SQE is next; not with   │        │ sqe[entries - 1]         │
//     │  IORING_SETUP_NO_SQARRAY)                │        └──────────────────────────┘
//     └──────────────────────────────────────────┘        written by us, read by the kernel
//
// The first mapping holds both rings (IORING_FEAT_SINGLE_MMAP, 5.4). Which byte is which comes from `params`,
// never from knowing a kernel version.
//
// Setup flags can be asked for from 6.18 on (capabilities.hpp). To try them works everywhere, so that is what is
// done here: an old kernel answers EINVAL to a flag that it does not know, the same EINVAL that a wrong size
// gets. So sizes are checked here first, and on EINVAL (only then) the optional flags are dropped, newest first,
// until the kernel accepts. What was dropped is reported, never hidden.
//
// A flag that this layer does not *implement* is refused by name instead of passed on: with
// IORING_SETUP_CQE32 the kernel would happily write 32-byte completions into what we read as 16.
#pragma once

#include <linux/io_uring.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>

#include "uring/abi.hpp"
#include "uring/errors.hpp"
#include "uring/indices.hpp"
#include "uring/owned.hpp"
#include "uring/syscalls.hpp"

namespace uring {

/// What a ring is made of. Only `entries` matters to most.
struct RingOptions {
  /// Size of the SQ, 1 to 32768; the kernel rounds up to a power of two. How many SQEs one submit can carry,
  /// *not* how many operations can be in flight: an SQE's slot is free again as soon as the kernel has copied
  /// it.
  unsigned entries = 128;

  /// Size of the CQ, rounded up likewise, at least `entries`, at most 65536. 0: twice the SQ. A server with
  /// multishot operations wants more: one SQE, many CQEs.
  unsigned cq_entries = 0;

  /// IORING_SETUP_*; empty: default_setup_flags, or default_sqpoll_flags for an SqpollRing.
  std::optional<std::uint32_t> flags = {};

  /// SqpollRing only: how long the kernel's thread spins before it sleeps; 0: the kernel's default, one
  /// second.
  unsigned sq_thread_idle_ms = 0;
  /// SqpollRing only: the CPU that the thread stays on (IORING_SETUP_SQ_AFF, without which the kernel ignores
  /// it); -1: any.
  int sq_thread_cpu = -1;

  /// Register the ring's own descriptor (5.18), which saves the look-up of the file in every enter. The index
  /// holds on the registering thread only; say false for a ring without IORING_SETUP_SINGLE_ISSUER that
  /// several threads take turns on.
  bool register_ring_fd = true;
};

/// One thread owns the ring (SINGLE_ISSUER), completions are posted when it asks for them and not by
/// interrupting it (DEFER_TASKRUN), it is told when there is something to ask for (TASKRUN_FLAG), a bad SQE
/// does not hold up those behind it (SUBMIT_ALL), and no array stands between the queue and the SQEs
/// (NO_SQARRAY).
inline constexpr std::uint32_t default_setup_flags =
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
    IORING_SETUP_SUBMIT_ALL | abi::setup_no_sqarray | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;

/// With SQPOLL a kernel thread submits and completes, so there is no task work to defer.
inline constexpr std::uint32_t default_sqpoll_flags = IORING_SETUP_SQPOLL | IORING_SETUP_SINGLE_ISSUER |
                                                      IORING_SETUP_SUBMIT_ALL | abi::setup_no_sqarray |
                                                      IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;

struct SetupFlag {
  std::uint32_t bit;
  const char* name;
  const char* refused;  // why this layer does not implement it; null: it does
};

/// Every setup flag up to Linux 7.3.
inline constexpr std::array setup_flag_table{
    SetupFlag{IORING_SETUP_IOPOLL, "IORING_SETUP_IOPOLL", "completions would have to be polled for"},
    SetupFlag{IORING_SETUP_SQPOLL, "IORING_SETUP_SQPOLL", nullptr},
    SetupFlag{IORING_SETUP_SQ_AFF, "IORING_SETUP_SQ_AFF", nullptr},
    SetupFlag{IORING_SETUP_CQSIZE, "IORING_SETUP_CQSIZE", nullptr},
    SetupFlag{IORING_SETUP_CLAMP, "IORING_SETUP_CLAMP", nullptr},
    SetupFlag{IORING_SETUP_ATTACH_WQ, "IORING_SETUP_ATTACH_WQ", "there is no option to name the other ring"},
    SetupFlag{IORING_SETUP_R_DISABLED, "IORING_SETUP_R_DISABLED", nullptr},
    SetupFlag{IORING_SETUP_SUBMIT_ALL, "IORING_SETUP_SUBMIT_ALL", nullptr},
    SetupFlag{IORING_SETUP_COOP_TASKRUN, "IORING_SETUP_COOP_TASKRUN", nullptr},
    SetupFlag{IORING_SETUP_TASKRUN_FLAG, "IORING_SETUP_TASKRUN_FLAG", nullptr},
    SetupFlag{IORING_SETUP_SQE128, "IORING_SETUP_SQE128", "this layer writes SQEs of 64 bytes"},
    SetupFlag{IORING_SETUP_CQE32, "IORING_SETUP_CQE32", "this layer reads CQEs of 16 bytes"},
    SetupFlag{IORING_SETUP_SINGLE_ISSUER, "IORING_SETUP_SINGLE_ISSUER", nullptr},
    SetupFlag{IORING_SETUP_DEFER_TASKRUN, "IORING_SETUP_DEFER_TASKRUN", nullptr},
    SetupFlag{abi::setup_no_mmap, "IORING_SETUP_NO_MMAP", "this layer maps the kernel's memory"},
    SetupFlag{abi::setup_registered_fd_only, "IORING_SETUP_REGISTERED_FD_ONLY",
              "this layer maps the ring by its fd"},
    SetupFlag{abi::setup_no_sqarray, "IORING_SETUP_NO_SQARRAY", nullptr},
    SetupFlag{abi::setup_hybrid_iopoll, "IORING_SETUP_HYBRID_IOPOLL",
              "completions would have to be polled for"},
    SetupFlag{abi::setup_cqe_mixed, "IORING_SETUP_CQE_MIXED", "this layer reads CQEs of 16 bytes"},
    SetupFlag{abi::setup_sqe_mixed, "IORING_SETUP_SQE_MIXED", "this layer writes SQEs of 64 bytes"},
    SetupFlag{abi::setup_sq_rewind, "IORING_SETUP_SQ_REWIND",
              "this layer's SQ tail runs freely, so that a short submit loses nothing"},
};

/// "IORING_SETUP_CLAMP|IORING_SETUP_SUBMIT_ALL"; unknown bits as "bit 27"; "none" for 0.
inline std::string setup_flag_names(std::uint32_t flags) {
  std::string names;
  for (unsigned bit = 0; bit < 32; ++bit) {
    const std::uint32_t mask = std::uint32_t{1} << bit;
    if ((flags & mask) == 0) continue;
    const auto* const known = std::find_if(setup_flag_table.begin(), setup_flag_table.end(),
                                           [mask](const SetupFlag& flag) { return flag.bit == mask; });
    if (!names.empty()) names += '|';
    names += known != setup_flag_table.end() ? known->name : "bit " + std::to_string(bit);
  }
  return names.empty() ? "none" : names;
}

namespace detail {

[[noreturn]] inline void refuse_setup(const std::string& why) {
  throw SetupError(EINVAL, "create a ring", "Not asked of the kernel, refused by this layer: " + why + ".");
}

/// Sizes and combinations are judged before the kernel is asked, so that its EINVAL means "an unknown flag"
/// (or, with SQPOLL, a CPU that is not there).
inline void check_options(const RingOptions& options, std::uint32_t flags, bool sqpoll) {
  for (unsigned bit = 0; bit < 32; ++bit) {
    const std::uint32_t mask = std::uint32_t{1} << bit;
    if ((flags & mask) == 0) continue;
    const auto* const known = std::find_if(setup_flag_table.begin(), setup_flag_table.end(),
                                           [mask](const SetupFlag& flag) { return flag.bit == mask; });
    if (known == setup_flag_table.end())
      refuse_setup("setup flag " + setup_flag_names(mask) + " is unknown to it");
    if (known->refused != nullptr) refuse_setup(std::string(known->name) + ": " + known->refused);
  }
  const auto has = [flags](std::uint32_t flag) { return (flags & flag) != 0; };
  if (!sqpoll && has(IORING_SETUP_SQPOLL)) refuse_setup("IORING_SETUP_SQPOLL is a type here: use SqpollRing");
  if (has(IORING_SETUP_SQ_AFF) && (!sqpoll || options.sq_thread_cpu < 0)) {
    refuse_setup("IORING_SETUP_SQ_AFF needs an SqpollRing and sq_thread_cpu");
  }
  const std::uint32_t taskrun = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN;
  if (sqpoll && has(taskrun | IORING_SETUP_TASKRUN_FLAG)) {
    refuse_setup("the TASKRUN flags do not go with IORING_SETUP_SQPOLL, whose thread runs all task work");
  }
  if (has(IORING_SETUP_TASKRUN_FLAG) && !has(taskrun)) {
    refuse_setup("IORING_SETUP_TASKRUN_FLAG needs IORING_SETUP_COOP_TASKRUN or IORING_SETUP_DEFER_TASKRUN");
  }
  if (has(IORING_SETUP_DEFER_TASKRUN) && !has(IORING_SETUP_SINGLE_ISSUER)) {
    refuse_setup("IORING_SETUP_DEFER_TASKRUN needs IORING_SETUP_SINGLE_ISSUER");
  }
  constexpr unsigned max_sq = 32768;
  constexpr unsigned max_cq = 2 * max_sq;
  const bool clamp = has(IORING_SETUP_CLAMP);
  if (options.entries == 0) refuse_setup("a ring needs at least one entry");
  if (options.entries > max_sq && !clamp) refuse_setup("more than 32768 entries need IORING_SETUP_CLAMP");
  if (options.cq_entries > max_cq && !clamp)
    refuse_setup("more than 65536 CQ entries need IORING_SETUP_CLAMP");
  if (options.cq_entries != 0 && std::bit_ceil(std::min(options.cq_entries, max_cq)) <
                                     std::bit_ceil(std::min(options.entries, max_sq))) {
    refuse_setup("the CQ must not be smaller than the SQ");
  }
}

/// One rung down the ladder: the newest optional flag goes, with what depends on it. 0 when nothing is left
/// to drop.
inline std::uint32_t without_newest(std::uint32_t flags) noexcept {
  if ((flags & abi::setup_no_sqarray) != 0) return flags & ~abi::setup_no_sqarray;  // 6.6
  if ((flags & IORING_SETUP_DEFER_TASKRUN) != 0) {                                  // 6.1
    return (flags & ~std::uint32_t{IORING_SETUP_DEFER_TASKRUN}) | IORING_SETUP_COOP_TASKRUN;
  }
  if ((flags & IORING_SETUP_SINGLE_ISSUER) != 0)
    return flags & ~std::uint32_t{IORING_SETUP_SINGLE_ISSUER};  // 6.0
  constexpr std::uint32_t coop = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  if ((flags & coop) != 0) return flags & ~coop;                                                       // 5.19
  if ((flags & IORING_SETUP_SUBMIT_ALL) != 0) return flags & ~std::uint32_t{IORING_SETUP_SUBMIT_ALL};  // 5.18
  return 0;
}

/// What the layer cannot do without. All three are there since Linux 5.11.
inline void require_features(std::uint32_t features) {
  const char* missing = nullptr;
  if ((features & IORING_FEAT_SINGLE_MMAP) == 0) missing = "IORING_FEAT_SINGLE_MMAP (5.4)";
  if ((features & IORING_FEAT_NODROP) == 0) missing = "IORING_FEAT_NODROP (5.5)";
  if ((features & IORING_FEAT_EXT_ARG) == 0) missing = "IORING_FEAT_EXT_ARG (5.11)";
  if (missing != nullptr) {
    throw SetupError(EOPNOTSUPP, "use this kernel's io_uring",
                     std::string("it lacks ") + missing + ". This project needs Linux 5.11 or newer.");
  }
}

}  // namespace detail

/// A ring as the kernel made it: owned descriptor and memory, and where everything lies. Not yet something to
/// submit with.
struct RingMemory {
  FileDescriptor fd;
  Mapping rings;  // unmapped before the descriptor is closed: members are destroyed in reverse order
  Mapping sqe_array;
  io_uring_params params{};         // as the kernel filled them in
  std::uint32_t dropped_flags = 0;  // wanted, but not known to this kernel
  SharedWords words{};
  io_uring_sqe* sqes = nullptr;
  io_uring_cqe* cqes = nullptr;
};

namespace detail {

/// Asks for the ring, climbing down the ladder on EINVAL and only on EINVAL: any other errno is the answer.
inline void create(RingMemory& memory, const RingOptions& options, std::uint32_t wanted,
                   const Kernel& kernel) {
  std::uint32_t flags = wanted;
  for (;;) {
    io_uring_params& params = memory.params = io_uring_params{};
    params.flags = flags;
    params.cq_entries = options.cq_entries != 0 ? options.cq_entries : 2 * std::min(options.entries, 32768U);
    params.sq_thread_idle = options.sq_thread_idle_ms;
    params.sq_thread_cpu = options.sq_thread_cpu >= 0 ? static_cast<std::uint32_t>(options.sq_thread_cpu) : 0;
    const int fd = kernel.setup(kernel.self, options.entries, &params);
    if (fd >= 0) {
      memory.fd.reset(fd);
      memory.dropped_flags = wanted & ~flags;
      return;
    }
    const std::uint32_t fewer = fd == -EINVAL ? without_newest(flags) : 0;
    if (fewer == 0) throw SetupError(-fd, "create a ring", explain_setup(-fd, gather_host_facts()));
    flags = fewer;
  }
}

inline Mapping map(const Kernel& kernel, int fd, std::size_t bytes, std::uint64_t offset, const char* what) {
  void* address = nullptr;
  const int error = kernel.map(kernel.self, fd, bytes, offset, &address);
  if (error < 0) throw SetupError(-error, what, explain_setup(-error, gather_host_facts()));
  return Mapping(address, bytes);
}

/// Turns the kernel's offsets into addresses: where in the mapping at `rings` each shared word lies.
inline SharedWords locate_words(std::byte* rings, const io_uring_params& params) {
  const auto word = [rings](std::uint32_t offset) {
    assert(offset % alignof(std::uint32_t) == 0);
    return reinterpret_cast<std::uint32_t*>(rings + offset);
  };
  return {.sq_head = word(params.sq_off.head),
          .sq_tail = word(params.sq_off.tail),
          .sq_flags = word(params.sq_off.flags),
          .sq_dropped = word(params.sq_off.dropped),
          .cq_head = word(params.cq_off.head),
          .cq_tail = word(params.cq_off.tail),
          .cq_overflow = word(params.cq_off.overflow)};
}

/// Sizes are powers of two, so that `index & (size - 1)` is the slot. The kernel says the mask too; the two
/// must agree.
inline void check_mask(std::byte* rings, std::uint32_t mask_offset, std::uint32_t entries) {
  const auto mask = *reinterpret_cast<const std::uint32_t*>(rings + mask_offset);
  if (std::has_single_bit(entries) && mask == entries - 1) return;
  throw SetupError(EPROTO, "use this kernel's io_uring", "its ring sizes and masks contradict each other.");
}

inline void locate(RingMemory& memory) {
  std::byte* const rings = memory.rings.data();
  const io_uring_params& params = memory.params;
  check_mask(rings, params.sq_off.ring_mask, params.sq_entries);
  check_mask(rings, params.cq_off.ring_mask, params.cq_entries);
  memory.words = locate_words(rings, params);
  memory.cqes = reinterpret_cast<io_uring_cqe*>(rings + params.cq_off.cqes);
  memory.sqes = reinterpret_cast<io_uring_sqe*>(memory.sqe_array.data());
  // With NO_SQARRAY the kernel reports offset 0, where SQ head lives: whoever fills "the array" anyway
  // destroys all four indices.
  if ((params.flags & abi::setup_no_sqarray) == 0) {
    fill_identity_array(reinterpret_cast<std::uint32_t*>(rings + params.sq_off.array), params.sq_entries);
  }
}

}  // namespace detail

/// Creates and maps a ring. Throws SetupError with the true errno; whatever had been acquired by then is
/// released.
inline RingMemory create_ring(const RingOptions& options, bool sqpoll, const Kernel& kernel) {
  std::uint32_t flags = options.flags.value_or(sqpoll ? default_sqpoll_flags : default_setup_flags);
  if (sqpoll) flags |= IORING_SETUP_SQPOLL;
  if (sqpoll && options.sq_thread_cpu >= 0) flags |= IORING_SETUP_SQ_AFF;
  // We always state the CQ's size, and always want the hint that an empty-looking CQ has task work behind it.
  flags |= IORING_SETUP_CQSIZE;
  if ((flags & (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN)) != 0)
    flags |= IORING_SETUP_TASKRUN_FLAG;
  detail::check_options(options, flags, sqpoll);

  RingMemory memory;
  detail::create(memory, options, flags, kernel);
  detail::require_features(memory.params.features);
  const io_uring_params& params = memory.params;
  const bool has_array = (params.flags & abi::setup_no_sqarray) == 0;
  const std::size_t cqes_end = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  const std::size_t array_end = params.sq_off.array + params.sq_entries * sizeof(std::uint32_t);
  const std::size_t bytes = has_array ? std::max(cqes_end, array_end) : cqes_end;
  const int fd = memory.fd.get();
  memory.rings = detail::map(kernel, fd, bytes, IORING_OFF_SQ_RING, "map the rings");
  memory.sqe_array =
      detail::map(kernel, fd, params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES, "map the SQEs");
  detail::locate(memory);
  return memory;
}

}  // namespace uring

// --pretend-kernel: a Kernel that does not know what an older Linux did not know, so that the server has to
// find out and fall back.
//
//      ring, server ──► PretendKernel ──► the real kernel
//                          setup      a newer flag: EINVAL;      newer features are not reported
//                          register   a newer opcode: EINVAL;    newer operations are not in the probe's answer
//                          enter      an SQE that asks for something newer gets an opcode that no kernel
//                                     knows, so that its CQE says EINVAL
//
// Nothing in the server asks whether this is in use. It forces our fallbacks, and does not emulate the
// behaviour of old kernels: what they did differently, with the same flags, is not here. So against the real 6.1
// (tests/kernels runs it) the pretended one has these of the kernel below it:
//
//   - a closed slot lets go of its socket, although another slot is in use (6.12 does not either)
//   - a receive that uses the last buffer goes on, and learns that there is none when the next bytes come
//   - reads and writes of pipes complete without a worker thread, and workers do not post CQEs themselves
//   - task work of a DEFER_TASKRUN ring runs in the order in which it came; there it is the other way round
//   - the CQE of an SQE that cannot be parsed comes in the batch's order; there it comes first
//
// tests/kernel/pretend_kernel_test.cpp compares what both say that they can do.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "uring/abi.hpp"
#include "uring/indices.hpp"
#include "uring/setup.hpp"

namespace echo {

/// Of Linux, as 100 * major + minor.
enum class Version : unsigned { linux_5_15 = 515, linux_5_19 = 519, linux_6_0 = 600, linux_6_1 = 601 };

class PretendKernel {
 public:
  explicit PretendKernel(Version version) noexcept : version_(static_cast<unsigned>(version)) {}
  PretendKernel(const PretendKernel&) = delete;  // the ring holds its address
  PretendKernel& operator=(const PretendKernel&) = delete;

  uring::Kernel kernel() noexcept { return {setup, enter, register_, map, this}; }

 private:
  bool is_before(unsigned version) const noexcept { return version_ < version; }

  /// The setup flags that the version knows; 6.1's are those of Debian 12's header.
  std::uint32_t known_flags() const noexcept {
    std::uint32_t flags = IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF |
                          IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_ATTACH_WQ |
                          IORING_SETUP_R_DISABLED;
    if (!is_before(518)) flags |= IORING_SETUP_SUBMIT_ALL;
    if (!is_before(519)) {
      flags |=
          IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SQE128 | IORING_SETUP_CQE32;
    }
    if (!is_before(600)) flags |= IORING_SETUP_SINGLE_ISSUER;
    if (!is_before(601)) flags |= IORING_SETUP_DEFER_TASKRUN;
    return flags;
  }

  static int setup(void* self, unsigned entries, io_uring_params* params) {
    auto& pretend = *static_cast<PretendKernel*>(self);
    if ((params->flags & ~pretend.known_flags()) != 0) return -EINVAL;
    const int result = uring::real_kernel.setup(nullptr, entries, params);
    params->features &= IORING_FEAT_LINKED_FILE - 1;  // up to 5.17's; nobody asks for 5.19's
    if (pretend.is_before(517)) params->features &= ~std::uint32_t{IORING_FEAT_CQE_SKIP};
    // Of the ring that is to be mapped; those that only try flags come and go, also later.
    if (result >= 0 && pretend.sqes_ == nullptr) pretend.params_ = *params;
    return result;
  }

  static int map(void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
    auto& pretend = *static_cast<PretendKernel*>(self);
    const int result = uring::real_kernel.map(nullptr, fd, bytes, offset, address);
    if (result < 0) return result;
    auto* const mapped = static_cast<std::byte*>(*address);
    if (offset == IORING_OFF_SQ_RING) pretend.words_ = uring::detail::locate_words(mapped, pretend.params_);
    if (offset == IORING_OFF_SQES) pretend.sqes_ = reinterpret_cast<io_uring_sqe*>(mapped);
    return result;
  }

  static int register_(void* self, int fd, unsigned opcode, void* argument, unsigned count) {
    auto& pretend = *static_cast<PretendKernel*>(self);
    const bool too_new =
        opcode >= pretend.first_unknown_registration() ||
        (pretend.is_before(519) && opcode == IORING_REGISTER_FILES2 &&
         static_cast<const io_uring_rsrc_register*>(argument)->flags == IORING_RSRC_REGISTER_SPARSE);
    if (too_new) return -EINVAL;
    const int result = uring::real_kernel.register_(nullptr, fd, opcode, argument, count);
    if (result >= 0 && opcode == IORING_REGISTER_PROBE) {
      pretend.trim(*static_cast<io_uring_probe*>(argument), count);
    }
    return result;
  }

  /// The first operation that is too new: 5.19 brought those up to URING_CMD, 6.0 SEND_ZC, 6.1 SENDMSG_ZC.
  std::uint8_t first_unknown() const noexcept {
    if (is_before(519)) return IORING_OP_MSG_RING;
    if (is_before(600)) return IORING_OP_SEND_ZC;
    if (is_before(601)) return IORING_OP_SENDMSG_ZC;
    return IORING_OP_SENDMSG_ZC + 1;
  }

  /// The first registration that is too new; 6.1 brought none. (A call that names the ring by its registered index, 6.3,
  /// has a high bit in its opcode, and is beyond all of them.)
  std::uint32_t first_unknown_registration() const noexcept {
    if (is_before(518)) return IORING_REGISTER_RING_FDS;
    if (is_before(519)) return IORING_REGISTER_PBUF_RING;
    if (is_before(600)) return IORING_REGISTER_SYNC_CANCEL;
    return uring::abi::register_pbuf_status;
  }

  void trim(io_uring_probe& probe, unsigned room) const noexcept {
    probe.last_op = static_cast<std::uint8_t>(first_unknown() - 1);
    probe.ops_len = std::min(probe.ops_len, first_unknown());
    for (unsigned op = first_unknown(); op < room; ++op) probe.ops[op] = {};
  }

  static int enter(void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                   const uring::abi::getevents_arg* argument) {
    auto& pretend = *static_cast<PretendKernel*>(self);
    const std::uint32_t tail = uring::load_own_sq_tail(pretend.words_);
    for (std::uint32_t index = tail - to_submit; index != tail; ++index) {
      io_uring_sqe& sqe = pretend.sqes_[index & (pretend.params_.sq_entries - 1)];
      if (pretend.is_too_new(sqe)) sqe.opcode = no_opcode;
    }
    return uring::real_kernel.enter(nullptr, fd, to_submit, min_complete, flags, argument);
  }

  bool is_too_new(const io_uring_sqe& sqe) const noexcept {
    if (sqe.opcode >= first_unknown()) return true;
    switch (sqe.opcode) {
      case IORING_OP_ACCEPT:
        return is_before(519) && (sqe.ioprio != 0 || sqe.file_index == IORING_FILE_INDEX_ALLOC);
      case IORING_OP_RECV:
        if (uring::abi::sqe_optlen(sqe) != 0) return true;  // 6.17
        return (is_before(600) && (sqe.ioprio & IORING_RECV_MULTISHOT) != 0) ||
               (is_before(519) && sqe.ioprio != 0);
      case IORING_OP_URING_CMD:
        return sqe.cmd_op == uring::abi::socket_getsockname;  // 6.19; the server uses no other
      default:
        return false;
    }
  }

  /// Unknown to every kernel so far, and the CQE of an unknown opcode says EINVAL.
  static constexpr std::uint8_t no_opcode = 255;

  unsigned version_;
  io_uring_params params_{};
  uring::SharedWords words_{};
  io_uring_sqe* sqes_ = nullptr;
};

}  // namespace echo

// Which kernel the mock plays: what each version of Linux knows about rings, as far as a ring layer can
// notice.
//
// A setup flag that a version does not know is -EINVAL, an unknown opcode a CQE with -EINVAL, and a feature
// is a bit in io_uring_params. Between 5.11, the oldest that the ring layer accepts, and 6.18 these are the
// steps. Tests take one of the list, and change a copy where they want a stranger kernel than there ever was.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

#include "uring/abi.hpp"

namespace mock {

namespace abi = uring::abi;

/// What a kernel version knows.
struct Version {
  const char* name;
  std::uint32_t setup_flags;  // any other: -EINVAL
  std::uint32_t features;     // as reported in io_uring_params
  std::uint8_t opcodes;       // how many; the first unknown one
  bool registers_ring_fds;    // 5.18
};

namespace detail {
inline constexpr std::uint32_t features_5_6 = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP |
                                              IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_RW_CUR_POS |
                                              IORING_FEAT_CUR_PERSONALITY;
inline constexpr std::uint32_t features_5_11 = features_5_6 | IORING_FEAT_FAST_POLL |
                                               IORING_FEAT_POLL_32BITS | IORING_FEAT_SQPOLL_NONFIXED |
                                               IORING_FEAT_EXT_ARG;
inline constexpr std::uint32_t features_5_18 = features_5_11 | IORING_FEAT_NATIVE_WORKERS |
                                               IORING_FEAT_RSRC_TAGS | IORING_FEAT_CQE_SKIP |
                                               IORING_FEAT_LINKED_FILE;
inline constexpr std::uint32_t features_6_12 =
    features_5_18 | abi::feat_reg_reg_ring | abi::feat_recvsend_bundle | abi::feat_min_timeout;

inline constexpr std::uint32_t flags_5_6 = IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF |
                                           IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_ATTACH_WQ;
inline constexpr std::uint32_t flags_5_10 = flags_5_6 | IORING_SETUP_R_DISABLED;
inline constexpr std::uint32_t flags_5_18 = flags_5_10 | IORING_SETUP_SUBMIT_ALL;
inline constexpr std::uint32_t flags_5_19 = flags_5_18 | IORING_SETUP_COOP_TASKRUN |
                                            IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SQE128 |
                                            IORING_SETUP_CQE32;
inline constexpr std::uint32_t flags_6_0 = flags_5_19 | IORING_SETUP_SINGLE_ISSUER;
inline constexpr std::uint32_t flags_6_1 = flags_6_0 | IORING_SETUP_DEFER_TASKRUN;
inline constexpr std::uint32_t flags_6_6 =
    flags_6_1 | abi::setup_no_mmap | abi::setup_registered_fd_only | abi::setup_no_sqarray;
inline constexpr std::uint32_t flags_6_18 = flags_6_6 | abi::setup_hybrid_iopoll | abi::setup_cqe_mixed;
}  // namespace detail

inline constexpr Version linux_5_4{"5.4", IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF,
                                   IORING_FEAT_SINGLE_MMAP, 14, false};
inline constexpr Version linux_5_6{"5.6", detail::flags_5_6, detail::features_5_6, 30, false};
inline constexpr Version linux_5_10{"5.10", detail::flags_5_10, detail::features_5_11 & ~IORING_FEAT_EXT_ARG,
                                    34, false};
inline constexpr Version linux_5_11{"5.11", detail::flags_5_10, detail::features_5_11, 37, false};
inline constexpr Version linux_5_18{"5.18", detail::flags_5_18, detail::features_5_18, 41, true};
inline constexpr Version linux_5_19{"5.19", detail::flags_5_19, detail::features_5_18, 46, true};
inline constexpr Version linux_6_0{"6.0", detail::flags_6_0, detail::features_5_18, 48, true};
inline constexpr Version linux_6_1{"6.1", detail::flags_6_1, detail::features_5_18, 49, true};
inline constexpr Version linux_6_6{"6.6", detail::flags_6_6, detail::features_5_18 | abi::feat_reg_reg_ring,
                                   49, true};
inline constexpr Version linux_6_12{"6.12", detail::flags_6_6, detail::features_6_12, 58, true};
inline constexpr Version linux_6_18{
    "6.18", detail::flags_6_18, detail::features_6_12 | abi::feat_rw_attr | abi::feat_no_iowait, 63, true};

}  // namespace mock

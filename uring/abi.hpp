// The kernel's structures and constants: <linux/io_uring.h>, and everything in the interface that is newer than it.
//
// An io_uring program is compiled against one header and runs on another kernel: this header may be from 6.1 (what
// Debian 12 ships), the kernel from 7.3. The kernel's numbers never change once released, so a program can use what
// its header does not name, if somebody writes the number down. That is this file: what came after 6.1, under our own
// spelling, in `namespace uring::abi` and never in the global one. A newer <linux/io_uring.h> therefore cannot clash
// with it, and tests/unit/abi_test.cpp compares the two wherever the header knows a name.
//
//      <linux/io_uring.h>  IORING_OP_RECV ...            what every supported header has (6.1)
//      uring::abi          abi::op_read_multishot ...    newer: same numbers, other spelling, "since" beside each
//
// To name a thing is not to have it. Opcodes are probed (IORING_REGISTER_PROBE), features are reported by setup, setup
// flags are queried (IORING_REGISTER_QUERY, 6.18) or tried: capabilities.hpp. What lies inside an SQE can only be tried:
// trials.hpp.
//
// The structures are shared memory between two programs that were compiled apart, so their layout is asserted here,
// field by field where the ring layer depends on it.
//
// Limits: zero-copy receive (which from 7.1 on can be tried without a card for it), protection information and the BPF
// event loop (7.1) are named as far as one must know them to refuse them.
#pragma once

#include <linux/io_uring.h>
#include <linux/time_types.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef IORING_SETUP_DEFER_TASKRUN
#error "<linux/io_uring.h> is older than Linux 6.1: install newer kernel headers (package linux-libc-dev)."
#endif

namespace uring::abi {

// ---- io_uring_setup: flags ------------------------------------------------------------------------------------------

inline constexpr std::uint32_t setup_no_mmap = 1u << 14;             // 6.5: the caller brings the memory
inline constexpr std::uint32_t setup_registered_fd_only = 1u << 15;  // 6.5: a registered index, no fd
inline constexpr std::uint32_t setup_no_sqarray = 1u << 16;          // 6.6: SQEs in order, no index array
inline constexpr std::uint32_t setup_hybrid_iopoll = 1u << 17;       // 6.13: IOPOLL, but sleep first
inline constexpr std::uint32_t setup_cqe_mixed = 1u << 18;           // 6.18: CQEs of 16 and of 32 bytes
inline constexpr std::uint32_t setup_sqe_mixed = 1u << 19;           // 6.19: SQEs of 64 and of 128 bytes
inline constexpr std::uint32_t setup_sq_rewind = 1u << 20;           // 7.0: each enter starts at SQE 0

// ---- io_uring_setup: features, as reported in io_uring_params::features ---------------------------------------------

inline constexpr std::uint32_t feat_reg_reg_ring = 1u << 13;     // 6.3: register_use_registered_ring exists
inline constexpr std::uint32_t feat_recvsend_bundle = 1u << 14;  // 6.10: recvsend_bundle exists
inline constexpr std::uint32_t feat_min_timeout = 1u << 15;      // 6.12: getevents_arg::min_wait_usec works
inline constexpr std::uint32_t feat_rw_attr = 1u << 16;          // 6.14: attributes (PI) of reads and writes
inline constexpr std::uint32_t feat_no_iowait = 1u << 17;        // 6.15: enter_no_iowait exists

// ---- io_uring_enter: flags ------------------------------------------------------------------------------------------

inline constexpr std::uint32_t enter_abs_timer = 1u << 5;    // 6.12: the time-out is a point in time
inline constexpr std::uint32_t enter_ext_arg_reg = 1u << 6;  // 6.13: the argument is in register_mem_region
inline constexpr std::uint32_t enter_no_iowait = 1u << 7;    // 6.15: waiting does not count as iowait

/// What io_uring_enter reads with IORING_ENTER_EXT_ARG (5.11): 24 bytes, size passed as the sixth argument.
/// The header's io_uring_getevents_arg calls bytes 12..15 `pad`; since 6.12 (feat_min_timeout) they mean: wait that
/// long for the full number of completions, then be content with one. Zero is right for every kernel.
struct getevents_arg {
  std::uint64_t sigmask;        // address of a kernel sigset, or 0
  std::uint32_t sigmask_sz;     // 8 on every 64-bit machine, when sigmask is set
  std::uint32_t min_wait_usec;  // microseconds
  std::uint64_t ts;             // address of a __kernel_timespec, or 0 for "no time-out"
};

static_assert(sizeof(getevents_arg) == 24 && sizeof(getevents_arg) == sizeof(io_uring_getevents_arg));
static_assert(offsetof(getevents_arg, sigmask) == offsetof(io_uring_getevents_arg, sigmask));
static_assert(offsetof(getevents_arg, sigmask_sz) == offsetof(io_uring_getevents_arg, sigmask_sz));
static_assert(offsetof(getevents_arg, min_wait_usec) == 12);
static_assert(offsetof(getevents_arg, ts) == offsetof(io_uring_getevents_arg, ts));

// ---- Opcodes: plain bytes, like io_uring_sqe::opcode (the header's enum need not be able to hold the newest) --------

inline constexpr std::uint8_t op_read_multishot = 49;    // 6.7: read(2) of a pipe and the like, repeated
inline constexpr std::uint8_t op_waitid = 50;            // 6.7: waitid(2), a child changed state
inline constexpr std::uint8_t op_futex_wait = 51;        // 6.7: FUTEX_WAIT_BITSET
inline constexpr std::uint8_t op_futex_wake = 52;        // 6.7: FUTEX_WAKE_BITSET
inline constexpr std::uint8_t op_futex_waitv = 53;       // 6.7: wait for the first of several futexes
inline constexpr std::uint8_t op_fixed_fd_install = 54;  // 6.8: an ordinary fd for a direct descriptor
inline constexpr std::uint8_t op_ftruncate = 55;         // 6.9: ftruncate(2)
inline constexpr std::uint8_t op_bind = 56;              // 6.11: bind(2)
inline constexpr std::uint8_t op_listen = 57;            // 6.11: listen(2)
inline constexpr std::uint8_t op_recv_zc = 58;           // 6.15: zero-copy receive; 7.1: or without its card
inline constexpr std::uint8_t op_epoll_wait = 59;        // 6.15: epoll_wait(2), for programs moving over
inline constexpr std::uint8_t op_readv_fixed = 60;       // 6.15: readv(2) into a registered buffer
inline constexpr std::uint8_t op_writev_fixed = 61;      // 6.15: writev(2) from a registered buffer
inline constexpr std::uint8_t op_pipe = 62;              // 6.16: pipe2(2), also into direct descriptors
inline constexpr std::uint8_t op_nop128 = 63;            // 6.19: NOP in a 128-byte SQE
inline constexpr std::uint8_t op_uring_cmd128 = 64;      // 6.19: URING_CMD in a 128-byte SQE

static_assert(IORING_OP_SENDMSG_ZC == op_read_multishot - 1, "the opcodes above continue the header's list");

// ---- io_uring_register: opcodes -------------------------------------------------------------------------------------

inline constexpr std::uint32_t register_pbuf_status = 26;    // 6.8: the kernel's place in a buffer ring
inline constexpr std::uint32_t register_napi = 27;           // 6.9: busy-poll the card while waiting
inline constexpr std::uint32_t unregister_napi = 28;         // 6.9
inline constexpr std::uint32_t register_clock = 29;          // 6.12: the clock of io_uring_enter's waits
inline constexpr std::uint32_t register_clone_buffers = 30;  // 6.12: share another ring's buffers
inline constexpr std::uint32_t register_send_msg_ring = 31;  // 6.13: MSG_RING without a ring (fd -1)
inline constexpr std::uint32_t register_zcrx_ifq = 32;       // 6.15: a queue of the card, for op_recv_zc
inline constexpr std::uint32_t register_resize_rings = 33;   // 6.13: resize a live DEFER_TASKRUN ring
inline constexpr std::uint32_t register_mem_region = 34;     // 6.13: memory for the wait arguments
inline constexpr std::uint32_t register_query = 35;          // 6.18: what this kernel can do (fd -1)
inline constexpr std::uint32_t register_zcrx_ctrl = 36;      // 6.19: commands to a register_zcrx_ifq
inline constexpr std::uint32_t register_bpf_filter = 37;     // 7.0: a program that refuses SQEs

/// Added to the opcode when `fd` is a registered ring's index (feat_reg_reg_ring, 6.3).
inline constexpr std::uint32_t register_use_registered_ring = 1u << 31;

/// Argument of register_pbuf_status: 40 bytes.
struct buf_status {
  std::uint32_t buf_group;  // in
  std::uint32_t head;       // out: the kernel's read index; the application's tail minus it is what is left
  std::uint32_t resv[8];    // must be zero
};
static_assert(sizeof(buf_status) == 40);

/// Argument of register_clock: 16 bytes. CLOCK_MONOTONIC (the default) or CLOCK_BOOTTIME.
struct clock_register {
  std::uint32_t clockid;
  std::uint32_t resv[3];  // must be zero
};
static_assert(sizeof(clock_register) == 16);

/// Head of each question of register_query: 40 bytes. Questions form a list, so one call can ask several. The call
/// returns 0 even if a question is unknown; `result` says so.
struct query_header {
  std::uint64_t next_entry;  // address of the next header, or 0
  std::uint64_t query_data;  // address of what is to be filled in
  std::uint32_t query_op;    // query_opcodes
  std::uint32_t size;        // in: of query_data; out: how much of it this kernel knows
  std::int32_t result;       // out: 0, or -EOPNOTSUPP: no such question
  std::uint32_t resv[3];     // must be zero
};
static_assert(sizeof(query_header) == 40);

inline constexpr std::uint32_t query_opcodes = 0;  // 6.18: query_opcodes_answer

/// What the kernel was built to know: 48 bytes, the same for every caller, whatever he may use.
struct query_opcodes_answer {
  std::uint32_t nr_request_opcodes;   // IORING_OP_*: one more than the highest
  std::uint32_t nr_register_opcodes;  // IORING_REGISTER_*: one more than the highest
  std::uint64_t feature_flags;        // IORING_FEAT_*
  std::uint64_t ring_setup_flags;     // IORING_SETUP_*
  std::uint64_t enter_flags;          // IORING_ENTER_*
  std::uint64_t sqe_flags;            // IOSQE_*
  std::uint32_t nr_query_opcodes;
  std::uint32_t pad;
};
static_assert(sizeof(query_opcodes_answer) == 48);

inline constexpr std::uint32_t query_zcrx = 1;  // 6.19: query_zcrx_answer

/// What the kernel knows about zero-copy receive: 40 bytes.
struct query_zcrx_answer {
  std::uint64_t register_flags;  // zcrx_reg_nodev, ...
  std::uint64_t area_flags;
  std::uint32_t nr_ctrl_opcodes;  // of register_zcrx_ctrl: 2 in 6.19, 3 in 7.2, 4 in 7.3
  std::uint32_t features;
  std::uint32_t rq_hdr_size;
  std::uint32_t rq_hdr_alignment;
  std::uint64_t resv2;
};
static_assert(sizeof(query_zcrx_answer) == 40);

inline constexpr std::uint32_t zcrx_reg_nodev =
    2;  // 7.1: in flags of register_zcrx_ifq: no card, all is copied

/// Argument of IORING_REGISTER_RESTRICTIONS with fd -1 (7.0): 16 bytes, and behind them `count` io_uring_restriction.
/// They bind every ring that this task and its children create later. Needs no_new_privs or CAP_SYS_ADMIN (-EACCES).
struct task_restriction {
  std::uint16_t flags;    // must be zero
  std::uint16_t count;    // the header's nr_res
  std::uint32_t resv[3];  // must be zero
};
static_assert(sizeof(task_restriction) == 16 && sizeof(io_uring_restriction) == 16);

/// Argument of register_bpf_filter: 72 bytes. A classic BPF program that sees each SQE of one opcode before it is
/// issued (user_data in the first 8 bytes, opcode in byte 8, sqe->flags in byte 9, then what `pdu_size` covers of the
/// opcode's own) and returns 0 to refuse it: its CQE says -EACCES.
struct bpf_filter {
  std::uint16_t cmd_type;    // 1: add a filter
  std::uint16_t cmd_flags;   // must be zero
  std::uint32_t resv;        // must be zero
  std::uint32_t opcode;      // IORING_OP_*
  std::uint32_t flags;       // bpf_filter_*
  std::uint32_t filter_len;  // instructions
  std::uint8_t pdu_size;     // bytes that belong to the opcode: 0 for most, 12 for SOCKET
  std::uint8_t resv1[3];     // must be zero
  std::uint64_t filter_ptr;  // address of the sock_filter array
  std::uint64_t resv2[5];    // must be zero
};
static_assert(sizeof(bpf_filter) == 72);

inline constexpr std::uint32_t bpf_filter_deny_rest = 1;  // every opcode that has no filter yet is refused

// ---- Provided-buffer rings (5.19) -----------------------------------------------------------------------------------

inline constexpr std::uint16_t pbuf_ring_mmap = 1;  // 6.4: the kernel allocates the ring, see off_pbuf_ring
inline constexpr std::uint16_t pbuf_ring_inc = 2;  // 6.12: buffers used up piece by piece, see cqe_f_buf_more

/// mmap(2) offset of group g's ring under pbuf_ring_mmap: off_pbuf_ring | g << off_pbuf_shift. Since 6.4.
inline constexpr std::uint64_t off_pbuf_ring = 0x8000'0000;
inline constexpr unsigned off_pbuf_shift = 16;

/// Argument of IORING_REGISTER_PBUF_RING: io_uring_buf_reg, whose bytes 14..15 are `pad` in a 6.1 header and `flags`
/// in newer ones, and whose bytes 16..19 are reserved before 7.1. One spelling for all.
/// `min_left` is for pbuf_ring_inc only (else -EINVAL): a buffer with fewer bytes left than that is finished, instead
/// of being offered to a receive that its rest is too small for.
struct buf_reg {
  std::uint64_t ring_addr;     // page-aligned; 0 with pbuf_ring_mmap
  std::uint32_t ring_entries;  // a power of two, at most 32768
  std::uint16_t bgid;          // the group: sqe->buf_group of those who take buffers from it
  std::uint16_t flags;         // pbuf_ring_*
  std::uint32_t min_left;      // 7.1, 6.18.44, 6.12.90: see above
  std::uint32_t resv[5];       // must be zero
};

static_assert(sizeof(io_uring_buf_reg) == 40 && sizeof(buf_reg) == 40);
static_assert(offsetof(buf_reg, ring_addr) == offsetof(io_uring_buf_reg, ring_addr));
static_assert(offsetof(buf_reg, ring_entries) == offsetof(io_uring_buf_reg, ring_entries));
static_assert(offsetof(buf_reg, bgid) == offsetof(io_uring_buf_reg, bgid));
static_assert(offsetof(buf_reg, flags) == 14 && offsetof(buf_reg, min_left) == 16);

static_assert(sizeof(io_uring_buf) == 16);
static_assert(offsetof(io_uring_buf, addr) == 0 && offsetof(io_uring_buf, len) == 8);
static_assert(offsetof(io_uring_buf, bid) == 12 && offsetof(io_uring_buf, resv) == 14);

/// Where the tail of a provided-buffer ring lies: the u16 `resv` of its first entry, never used by an entry itself.
inline constexpr std::size_t buf_ring_tail_offset = 14;
static_assert(offsetof(io_uring_buf_ring, tail) == buf_ring_tail_offset);

/// The C++ trap. The ring *is* an array of io_uring_buf that starts at byte 0. The 6.1 header declares it in a union
/// as a flexible array behind an empty struct; an empty struct has no size in C and one byte in C++, so that in C++
/// io_uring_buf_ring::bufs begins at byte 8, and a program that fills bufs[0] writes 8 bytes beside what the kernel
/// reads. Newer headers have offset 0. So: never use `bufs`; treat the memory as io_uring_buf[entries] and the tail as
/// the u16 at byte 14.
inline constexpr std::size_t buf_ring_bufs_offset = offsetof(io_uring_buf_ring, bufs);
static_assert(buf_ring_bufs_offset == 0 || buf_ring_bufs_offset == 8);

// ---- SQE: flags of single operations --------------------------------------------------------------------------------

// In sqe->ioprio of send and recv.
inline constexpr std::uint16_t send_zc_report_usage = 1u << 3;  // 6.2: the notification's res means something
inline constexpr std::uint16_t recvsend_bundle = 1u << 4;       // 6.10: several provided buffers at once
inline constexpr std::uint16_t send_vectorized = 1u << 5;       // 6.17: SEND, SEND_ZC: addr is an iovec array

/// In cqe->res of a zero-copy notification, if send_zc_report_usage was set: the kernel copied after all. Since 6.2.
inline constexpr std::uint32_t notif_usage_zc_copied = 1u << 31;

// In sqe->ioprio of accept. (IORING_ACCEPT_MULTISHOT, bit 0, is 5.19.)
inline constexpr std::uint16_t accept_dontwait = 1u << 1;    // 6.10: -EAGAIN instead of waiting
inline constexpr std::uint16_t accept_poll_first = 1u << 2;  // 6.10: expect to wait, skip the first attempt

// In timeout_flags.
inline constexpr std::uint32_t timeout_multishot = 1u << 6;  // 6.4: fires again and again
inline constexpr std::uint32_t timeout_immediate_arg = 1u
                                                       << 7;  // 7.1: sqe->addr is nanoseconds, not an address

// In rw_flags of reads and writes, as of preadv2(2) and pwritev2(2).
inline constexpr std::uint32_t rwf_atomic =
    0x40;  // 6.11: all of a write, or nothing of it, survives a power cut
inline constexpr std::uint32_t rwf_dontcache = 0x80;  // 6.14: through the page cache, and out of it at once
inline constexpr std::uint32_t rwf_nosignal =
    0x100;  // 6.18: a write to a pipe nobody reads is -EPIPE, no SIGPIPE

// In cancel_flags of async_cancel.
inline constexpr std::uint32_t cancel_userdata = 1u << 4;  // 6.6: match user_data as well as another key
inline constexpr std::uint32_t cancel_op = 1u << 5;        // 6.6: match the opcode in sqe->len

inline constexpr std::uint32_t msg_ring_flags_pass = 1u << 1;  // 6.3: file_index goes to the CQE's flags
inline constexpr std::uint32_t fixed_fd_no_cloexec = 1u << 0;  // 6.8: the new fd survives exec
inline constexpr std::uint32_t uring_cmd_multishot = 1u << 1;  // 6.18: a URING_CMD with several CQEs
inline constexpr std::uint32_t nop_inject_result = 1u << 0;    // 6.10: cqe->res = sqe->len
inline constexpr std::uint32_t nop_file = 1u << 1;             // 6.13: looks up sqe->fd
inline constexpr std::uint32_t nop_fixed_file = 1u << 2;       // 6.13: ... which is a direct descriptor
inline constexpr std::uint32_t nop_fixed_buffer = 1u << 3;     // 6.13: looks up sqe->buf_index
inline constexpr std::uint32_t nop_tw = 1u << 4;               // 6.17: completes by task work
inline constexpr std::uint32_t nop_cqe32 = 1u << 5;            // 6.18: asks for a 32-byte CQE

// In sqe->cmd_op of URING_CMD on a socket.
inline constexpr std::uint32_t socket_siocinq = 0;       // 6.6: unread bytes
inline constexpr std::uint32_t socket_siocoutq = 1;      // 6.6: unsent bytes
inline constexpr std::uint32_t socket_getsockopt = 2;    // 6.7
inline constexpr std::uint32_t socket_setsockopt = 3;    // 6.7
inline constexpr std::uint32_t socket_tx_timestamp = 4;  // 6.17: when what was sent has left; multishot
inline constexpr std::uint32_t socket_getsockname = 5;   // 6.19: the own address, or the peer's

// ---- CQE: flags -----------------------------------------------------------------------------------------------------

inline constexpr std::uint32_t cqe_f_buf_more = 1u << 4;  // 6.12: more will come in this same buffer
inline constexpr std::uint32_t cqe_f_skip = 1u << 5;      // 6.18: filler at the ring's end, ignore it
inline constexpr std::uint32_t cqe_f_32 = 1u << 15;       // 6.18: this CQE has 32 bytes (setup_cqe_mixed)

// ---- Layout ---------------------------------------------------------------------------------------------------------

// The SQE, 64 bytes:   0 opcode  1 flags  2 ioprio  4 fd  8 off  16 addr  24 len  28 *_flags
//                     32 user_data  40 buf_index|buf_group  42 personality  44 file_index|optlen  48 addr3  56 pad
static_assert(sizeof(io_uring_sqe) == 64 && alignof(io_uring_sqe) == 8);
static_assert(offsetof(io_uring_sqe, opcode) == 0 && offsetof(io_uring_sqe, flags) == 1);
static_assert(offsetof(io_uring_sqe, ioprio) == 2 && offsetof(io_uring_sqe, fd) == 4);
static_assert(offsetof(io_uring_sqe, off) == 8 && offsetof(io_uring_sqe, addr2) == 8);
static_assert(offsetof(io_uring_sqe, addr) == 16 && offsetof(io_uring_sqe, splice_off_in) == 16);
static_assert(offsetof(io_uring_sqe, len) == 24 && offsetof(io_uring_sqe, msg_flags) == 28);
static_assert(offsetof(io_uring_sqe, user_data) == 32);
static_assert(offsetof(io_uring_sqe, buf_index) == 40 && offsetof(io_uring_sqe, buf_group) == 40);
static_assert(offsetof(io_uring_sqe, personality) == 42);
static_assert(offsetof(io_uring_sqe, file_index) == 44 && offsetof(io_uring_sqe, splice_fd_in) == 44);
static_assert(offsetof(io_uring_sqe, addr_len) == 44 && sizeof(io_uring_sqe::addr_len) == 2);
static_assert(offsetof(io_uring_sqe, addr3) == 48 && offsetof(io_uring_sqe, __pad2) == 56);

/// sqe->optlen, 6.17: the most bytes that a multishot recv receives in total before it ends by itself (0: no limit).
/// The 6.1 header has no such member, but it has file_index: the same four bytes, of the same type.
inline std::uint32_t& sqe_optlen(io_uring_sqe& sqe) noexcept { return sqe.file_index; }
inline std::uint32_t sqe_optlen(const io_uring_sqe& sqe) noexcept { return sqe.file_index; }

/// The operation's own flags at byte 28, for an operation whose member (nop_flags, pipe_flags, ...) the header lacks.
/// Not `rw_flags`: that one is signed in some headers.
inline std::uint32_t& sqe_op_flags(io_uring_sqe& sqe) noexcept { return sqe.msg_flags; }
inline std::uint32_t sqe_op_flags(const io_uring_sqe& sqe) noexcept { return sqe.msg_flags; }

// The CQE, 16 bytes: 0 user_data  8 res  12 flags. Behind it a flexible array (CQE32): declare no array of CQEs.
static_assert(sizeof(io_uring_cqe) == 16 && alignof(io_uring_cqe) == 8);
static_assert(offsetof(io_uring_cqe, user_data) == 0 && offsetof(io_uring_cqe, res) == 8);
static_assert(offsetof(io_uring_cqe, flags) == 12);

// io_uring_params, 120 bytes, in and out of io_uring_setup.
static_assert(sizeof(io_uring_params) == 120);
static_assert(offsetof(io_uring_params, sq_entries) == 0 && offsetof(io_uring_params, cq_entries) == 4);
static_assert(offsetof(io_uring_params, flags) == 8 && offsetof(io_uring_params, sq_thread_cpu) == 12);
static_assert(offsetof(io_uring_params, sq_thread_idle) == 16 && offsetof(io_uring_params, features) == 20);
static_assert(offsetof(io_uring_params, wq_fd) == 24 && offsetof(io_uring_params, resv) == 28);
static_assert(offsetof(io_uring_params, sq_off) == 40 && offsetof(io_uring_params, cq_off) == 80);

// Where the words of the two rings lie in the mapping: byte offsets, written by io_uring_setup.
static_assert(sizeof(io_sqring_offsets) == 40);
static_assert(offsetof(io_sqring_offsets, head) == 0 && offsetof(io_sqring_offsets, tail) == 4);
static_assert(offsetof(io_sqring_offsets, ring_mask) == 8 && offsetof(io_sqring_offsets, ring_entries) == 12);
static_assert(offsetof(io_sqring_offsets, flags) == 16 && offsetof(io_sqring_offsets, dropped) == 20);
static_assert(offsetof(io_sqring_offsets, array) == 24);
static_assert(sizeof(io_cqring_offsets) == 40);
static_assert(offsetof(io_cqring_offsets, head) == 0 && offsetof(io_cqring_offsets, tail) == 4);
static_assert(offsetof(io_cqring_offsets, ring_mask) == 8 && offsetof(io_cqring_offsets, ring_entries) == 12);
static_assert(offsetof(io_cqring_offsets, overflow) == 16 && offsetof(io_cqring_offsets, cqes) == 20);
static_assert(offsetof(io_cqring_offsets, flags) == 24);

/// IORING_SETUP_NO_MMAP (6.5): where the application's own memory for the rings (in cq_off) and for the SQEs (in
/// sq_off) begins. A u64 in the former padding at the end of both structures: byte 32.
template <class Offsets>
inline void set_user_addr(Offsets& offsets, const void* address) noexcept {
  static_assert(sizeof(Offsets) == 40);
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  std::memcpy(reinterpret_cast<char*>(&offsets) + 32, &value, sizeof value);
}

}  // namespace uring::abi

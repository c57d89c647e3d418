// Our numbers against the installed header, where it knows the name, and against the running kernel, which knows best.
//
// Macros can be asked for with #ifdef. Enumerators cannot, so the newer opcodes are compared by their place behind the
// last one of 6.1, and then used on the running kernel: an ftruncate that truncates has the right number.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#if __has_include(<linux/io_uring/bpf_filter.h>)
#include <linux/io_uring/bpf_filter.h>
#endif
#if __has_include(<linux/io_uring/query.h>)
#include <linux/io_uring/query.h>
#endif
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <vector>

#include "tests/support/skip.hpp"
#include "uring/abi.hpp"
#include "uring/owned.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace abi = uring::abi;
using uring::FileDescriptor;
using uring::Token;

namespace {

// The kernel's word for each opcode: is it there?
std::vector<bool> probe(const uring::Ring& ring) {
  constexpr unsigned slots = 256;
  std::vector<std::uint64_t> memory((sizeof(io_uring_probe) + slots * sizeof(io_uring_probe_op)) / 8);
  const int result =
      uring::real_kernel.register_(nullptr, ring.fd(), IORING_REGISTER_PROBE, memory.data(), slots);
  std::vector<bool> known(slots, false);
  if (result < 0) return known;
  io_uring_probe head;
  std::memcpy(&head, memory.data(), sizeof head);
  const auto* bytes = reinterpret_cast<const unsigned char*>(memory.data());
  for (unsigned i = 0; i < head.ops_len; ++i) {
    io_uring_probe_op op;
    std::memcpy(&op, bytes + sizeof head + i * sizeof op, sizeof op);
    known[op.op] = (op.flags & IO_URING_OP_SUPPORTED) != 0;
  }
  return known;
}

// Submits the SQE that `prepare` fills and returns its cqe->res.
template <class Prepare>
int run(uring::Ring& ring, const Prepare& prepare) {
  io_uring_sqe* const sqe = ring.next_sqe();
  if (sqe == nullptr) return -ENOSPC;
  prepare(*sqe);
  int result = -ETIME;
  if (ring.submit_and_wait(1, std::chrono::seconds(5)).ready == 0) return result;
  ring.harvest([&](const io_uring_cqe& cqe) {
    result = cqe.res;
    return false;
  });
  return result;
}

FileDescriptor temporary_file() { return FileDescriptor(memfd_create("abi_test", MFD_CLOEXEC)); }

}  // namespace

TEST_CASE("our constants have the header's values, where the header knows them") {
  // Asserted when compiled, so that to compile with another header (make headers-check) is to compare with it.
#define SAME_AS(ours, theirs) static_assert((ours) == (theirs))
#ifdef IORING_SETUP_NO_MMAP
  SAME_AS(abi::setup_no_mmap, IORING_SETUP_NO_MMAP);
#endif
#ifdef IORING_SETUP_REGISTERED_FD_ONLY
  SAME_AS(abi::setup_registered_fd_only, IORING_SETUP_REGISTERED_FD_ONLY);
#endif
#ifdef IORING_SETUP_NO_SQARRAY
  SAME_AS(abi::setup_no_sqarray, IORING_SETUP_NO_SQARRAY);
#endif
#ifdef IORING_SETUP_HYBRID_IOPOLL
  SAME_AS(abi::setup_hybrid_iopoll, IORING_SETUP_HYBRID_IOPOLL);
#endif
#ifdef IORING_SETUP_CQE_MIXED
  SAME_AS(abi::setup_cqe_mixed, IORING_SETUP_CQE_MIXED);
#endif
#ifdef IORING_SETUP_SQE_MIXED
  SAME_AS(abi::setup_sqe_mixed, IORING_SETUP_SQE_MIXED);
#endif
#ifdef IORING_SETUP_SQ_REWIND
  SAME_AS(abi::setup_sq_rewind, IORING_SETUP_SQ_REWIND);
#endif
#ifdef IORING_FEAT_REG_REG_RING
  SAME_AS(abi::feat_reg_reg_ring, IORING_FEAT_REG_REG_RING);
#endif
#ifdef IORING_FEAT_RECVSEND_BUNDLE
  SAME_AS(abi::feat_recvsend_bundle, IORING_FEAT_RECVSEND_BUNDLE);
#endif
#ifdef IORING_FEAT_MIN_TIMEOUT
  SAME_AS(abi::feat_min_timeout, IORING_FEAT_MIN_TIMEOUT);
#endif
#ifdef IORING_FEAT_RW_ATTR
  SAME_AS(abi::feat_rw_attr, IORING_FEAT_RW_ATTR);
#endif
#ifdef IORING_FEAT_NO_IOWAIT
  SAME_AS(abi::feat_no_iowait, IORING_FEAT_NO_IOWAIT);
#endif
#ifdef IORING_ENTER_ABS_TIMER
  SAME_AS(abi::enter_abs_timer, IORING_ENTER_ABS_TIMER);
#endif
#ifdef IORING_ENTER_EXT_ARG_REG
  SAME_AS(abi::enter_ext_arg_reg, IORING_ENTER_EXT_ARG_REG);
#endif
#ifdef IORING_ENTER_NO_IOWAIT
  SAME_AS(abi::enter_no_iowait, IORING_ENTER_NO_IOWAIT);
#endif
#ifdef IORING_OFF_PBUF_RING
  SAME_AS(abi::off_pbuf_ring, IORING_OFF_PBUF_RING);
  SAME_AS(abi::off_pbuf_shift, IORING_OFF_PBUF_SHIFT);
#endif
#ifdef IORING_SEND_ZC_REPORT_USAGE
  SAME_AS(abi::send_zc_report_usage, IORING_SEND_ZC_REPORT_USAGE);
  SAME_AS(abi::notif_usage_zc_copied, IORING_NOTIF_USAGE_ZC_COPIED);
#endif
#ifdef IORING_RECVSEND_BUNDLE
  SAME_AS(abi::recvsend_bundle, IORING_RECVSEND_BUNDLE);
#endif
#ifdef IORING_SEND_VECTORIZED
  SAME_AS(abi::send_vectorized, IORING_SEND_VECTORIZED);
#endif
#ifdef IORING_ACCEPT_DONTWAIT
  SAME_AS(abi::accept_dontwait, IORING_ACCEPT_DONTWAIT);
  SAME_AS(abi::accept_poll_first, IORING_ACCEPT_POLL_FIRST);
#endif
#ifdef IORING_TIMEOUT_MULTISHOT
  SAME_AS(abi::timeout_multishot, IORING_TIMEOUT_MULTISHOT);
#endif
#ifdef IORING_ASYNC_CANCEL_USERDATA
  SAME_AS(abi::cancel_userdata, IORING_ASYNC_CANCEL_USERDATA);
  SAME_AS(abi::cancel_op, IORING_ASYNC_CANCEL_OP);
#endif
#ifdef IORING_MSG_RING_FLAGS_PASS
  SAME_AS(abi::msg_ring_flags_pass, IORING_MSG_RING_FLAGS_PASS);
#endif
#ifdef IORING_FIXED_FD_NO_CLOEXEC
  SAME_AS(abi::fixed_fd_no_cloexec, IORING_FIXED_FD_NO_CLOEXEC);
#endif
#ifdef IORING_URING_CMD_MULTISHOT
  SAME_AS(abi::uring_cmd_multishot, IORING_URING_CMD_MULTISHOT);
#endif
#ifdef IORING_NOP_INJECT_RESULT
  SAME_AS(abi::nop_inject_result, IORING_NOP_INJECT_RESULT);
#endif
#ifdef IORING_NOP_FIXED_BUFFER
  SAME_AS(abi::nop_file, IORING_NOP_FILE);
  SAME_AS(abi::nop_fixed_file, IORING_NOP_FIXED_FILE);
  SAME_AS(abi::nop_fixed_buffer, IORING_NOP_FIXED_BUFFER);
#endif
#ifdef IORING_NOP_TW
  SAME_AS(abi::nop_tw, IORING_NOP_TW);
#endif
#ifdef IORING_NOP_CQE32
  SAME_AS(abi::nop_cqe32, IORING_NOP_CQE32);
#endif
#ifdef IORING_CQE_F_BUF_MORE
  SAME_AS(abi::cqe_f_buf_more, IORING_CQE_F_BUF_MORE);
#endif
#ifdef IORING_CQE_F_SKIP
  SAME_AS(abi::cqe_f_skip, IORING_CQE_F_SKIP);
#endif
#ifdef IORING_CQE_F_32
  SAME_AS(abi::cqe_f_32, IORING_CQE_F_32);
#endif
#ifdef IORING_TIMEOUT_IMMEDIATE_ARG
  SAME_AS(abi::timeout_immediate_arg, IORING_TIMEOUT_IMMEDIATE_ARG);
#endif
#ifdef RWF_ATOMIC
  SAME_AS(abi::rwf_atomic, std::uint32_t{RWF_ATOMIC});
#endif
#ifdef RWF_DONTCACHE
  SAME_AS(abi::rwf_dontcache, std::uint32_t{RWF_DONTCACHE});
#endif
#ifdef RWF_NOSIGNAL
  SAME_AS(abi::rwf_nosignal, std::uint32_t{RWF_NOSIGNAL});
#endif
  // Enumerators and structures cannot be asked for, so the macro that came last vouches for them.
#ifdef IORING_TIMEOUT_IMMEDIATE_ARG
  SAME_AS(abi::op_read_multishot, IORING_OP_READ_MULTISHOT);
  SAME_AS(abi::op_waitid, IORING_OP_WAITID);
  SAME_AS(abi::op_futex_wait, IORING_OP_FUTEX_WAIT);
  SAME_AS(abi::op_futex_wake, IORING_OP_FUTEX_WAKE);
  SAME_AS(abi::op_futex_waitv, IORING_OP_FUTEX_WAITV);
  SAME_AS(abi::op_fixed_fd_install, IORING_OP_FIXED_FD_INSTALL);
  SAME_AS(abi::op_ftruncate, IORING_OP_FTRUNCATE);
  SAME_AS(abi::op_bind, IORING_OP_BIND);
  SAME_AS(abi::op_listen, IORING_OP_LISTEN);
  SAME_AS(abi::op_recv_zc, IORING_OP_RECV_ZC);
  SAME_AS(abi::op_epoll_wait, IORING_OP_EPOLL_WAIT);
  SAME_AS(abi::op_readv_fixed, IORING_OP_READV_FIXED);
  SAME_AS(abi::op_writev_fixed, IORING_OP_WRITEV_FIXED);
  SAME_AS(abi::op_pipe, IORING_OP_PIPE);
  SAME_AS(abi::op_nop128, IORING_OP_NOP128);
  SAME_AS(abi::op_uring_cmd128, IORING_OP_URING_CMD128);
  SAME_AS(abi::register_pbuf_status, IORING_REGISTER_PBUF_STATUS);
  SAME_AS(abi::register_napi, IORING_REGISTER_NAPI);
  SAME_AS(abi::unregister_napi, IORING_UNREGISTER_NAPI);
  SAME_AS(abi::register_clock, IORING_REGISTER_CLOCK);
  SAME_AS(abi::register_clone_buffers, IORING_REGISTER_CLONE_BUFFERS);
  SAME_AS(abi::register_send_msg_ring, IORING_REGISTER_SEND_MSG_RING);
  SAME_AS(abi::register_zcrx_ifq, IORING_REGISTER_ZCRX_IFQ);
  SAME_AS(abi::register_resize_rings, IORING_REGISTER_RESIZE_RINGS);
  SAME_AS(abi::register_mem_region, IORING_REGISTER_MEM_REGION);
  SAME_AS(abi::register_query, IORING_REGISTER_QUERY);
  SAME_AS(abi::register_zcrx_ctrl, IORING_REGISTER_ZCRX_CTRL);
  SAME_AS(abi::register_bpf_filter, IORING_REGISTER_BPF_FILTER);
  SAME_AS(abi::register_use_registered_ring, IORING_REGISTER_USE_REGISTERED_RING);
  SAME_AS(abi::socket_siocinq, SOCKET_URING_OP_SIOCINQ);
  SAME_AS(abi::socket_siocoutq, SOCKET_URING_OP_SIOCOUTQ);
  SAME_AS(abi::socket_getsockopt, SOCKET_URING_OP_GETSOCKOPT);
  SAME_AS(abi::socket_setsockopt, SOCKET_URING_OP_SETSOCKOPT);
  SAME_AS(abi::socket_tx_timestamp, SOCKET_URING_OP_TX_TIMESTAMP);
  SAME_AS(abi::socket_getsockname, SOCKET_URING_OP_GETSOCKNAME);
  SAME_AS(abi::pbuf_ring_mmap, IOU_PBUF_RING_MMAP);
  SAME_AS(abi::pbuf_ring_inc, IOU_PBUF_RING_INC);
  SAME_AS(offsetof(abi::buf_reg, flags), offsetof(io_uring_buf_reg, flags));
  SAME_AS(offsetof(abi::buf_reg, min_left), offsetof(io_uring_buf_reg, min_left));
  SAME_AS(offsetof(abi::getevents_arg, min_wait_usec), offsetof(io_uring_getevents_arg, min_wait_usec));
  SAME_AS(sizeof(abi::task_restriction), sizeof(io_uring_task_restriction));
  SAME_AS(offsetof(abi::task_restriction, count), offsetof(io_uring_task_restriction, nr_res));
  SAME_AS(sizeof(abi::query_header), sizeof(io_uring_query_hdr));
  SAME_AS(offsetof(abi::query_header, query_data), offsetof(io_uring_query_hdr, query_data));
  SAME_AS(offsetof(abi::query_header, query_op), offsetof(io_uring_query_hdr, query_op));
  SAME_AS(offsetof(abi::query_header, size), offsetof(io_uring_query_hdr, size));
  SAME_AS(offsetof(abi::query_header, result), offsetof(io_uring_query_hdr, result));
  SAME_AS(abi::query_opcodes, IO_URING_QUERY_OPCODES);
  SAME_AS(sizeof(abi::query_opcodes_answer), sizeof(io_uring_query_opcode));
  SAME_AS(offsetof(abi::query_opcodes_answer, nr_register_opcodes),
          offsetof(io_uring_query_opcode, nr_register_opcodes));
  SAME_AS(offsetof(abi::query_opcodes_answer, feature_flags), offsetof(io_uring_query_opcode, feature_flags));
  SAME_AS(offsetof(abi::query_opcodes_answer, ring_setup_flags),
          offsetof(io_uring_query_opcode, ring_setup_flags));
  SAME_AS(offsetof(abi::query_opcodes_answer, enter_flags), offsetof(io_uring_query_opcode, enter_flags));
  SAME_AS(offsetof(abi::query_opcodes_answer, sqe_flags), offsetof(io_uring_query_opcode, sqe_flags));
  SAME_AS(abi::query_zcrx, IO_URING_QUERY_ZCRX);
  SAME_AS(sizeof(abi::query_zcrx_answer), sizeof(io_uring_query_zcrx));
  SAME_AS(offsetof(abi::query_zcrx_answer, nr_ctrl_opcodes), offsetof(io_uring_query_zcrx, nr_ctrl_opcodes));
  SAME_AS(abi::zcrx_reg_nodev, ZCRX_REG_NODEV);
  SAME_AS(sizeof(abi::bpf_filter), sizeof(io_uring_bpf));
  SAME_AS(offsetof(abi::bpf_filter, opcode), offsetof(io_uring_bpf, filter.opcode));
  SAME_AS(offsetof(abi::bpf_filter, filter_len), offsetof(io_uring_bpf, filter.filter_len));
  SAME_AS(offsetof(abi::bpf_filter, pdu_size), offsetof(io_uring_bpf, filter.pdu_size));
  SAME_AS(offsetof(abi::bpf_filter, filter_ptr), offsetof(io_uring_bpf, filter.filter_ptr));
  SAME_AS(abi::bpf_filter_deny_rest, IO_URING_BPF_FILTER_DENY_REST);
#endif
#undef SAME_AS
  CHECK(IORING_OP_LAST >= abi::op_read_multishot);
  CHECK(IORING_REGISTER_LAST >= abi::register_pbuf_status);
}

TEST_CASE("new flags are new bits: none of ours repeats one of the header's") {
  CHECK((abi::setup_no_mmap & (IORING_SETUP_DEFER_TASKRUN * 2 - 1)) == 0);
  CHECK((abi::feat_reg_reg_ring & (IORING_FEAT_LINKED_FILE * 2 - 1)) == 0);
  CHECK((abi::enter_abs_timer & (IORING_ENTER_REGISTERED_RING * 2 - 1)) == 0);
  CHECK((abi::cqe_f_buf_more & (IORING_CQE_F_NOTIF * 2 - 1)) == 0);
}

TEST_CASE("in C++ the 6.1 header puts io_uring_buf_ring::bufs 8 bytes beside the truth") {
  // 0 with a header that knows about C++. Either way the ring's tail is where the kernel looks for it.
  CHECK((abi::buf_ring_bufs_offset == 8 || abi::buf_ring_bufs_offset == 0));
  alignas(io_uring_buf) std::array<unsigned char, sizeof(io_uring_buf)> entry{};
  io_uring_buf first{};
  first.resv = 0xabcd;
  std::memcpy(entry.data(), &first, sizeof first);
  std::uint16_t tail;
  std::memcpy(&tail, entry.data() + abi::buf_ring_tail_offset, sizeof tail);
  CHECK(tail == 0xabcd);
}

TEST_CASE("sqe_optlen and sqe_op_flags are the u32 at byte 44 and at byte 28") {
  io_uring_sqe sqe{};
  abi::sqe_optlen(sqe) = 0x01020304;
  abi::sqe_op_flags(sqe) = 0x05060708;
  std::uint32_t at[16];
  std::memcpy(at, &sqe, sizeof sqe);
  CHECK(at[11] == 0x01020304);
  CHECK(at[7] == 0x05060708);
  const io_uring_sqe& read_only = sqe;
  CHECK(abi::sqe_optlen(read_only) == 0x01020304);
  CHECK(abi::sqe_op_flags(read_only) == 0x05060708);
}

TEST_CASE("files: the kernel truncates, pipes and reads by our opcode numbers") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  const std::vector<bool> known = probe(ring);
  const FileDescriptor file = temporary_file();
  if (known[abi::op_ftruncate]) {
    CHECK(run(ring, [&](io_uring_sqe& sqe) {
            uring::prep::fill(sqe, abi::op_ftruncate, file.get(), 0, 0, 12345, Token{1});
          }) == 0);
    struct stat status {};
    REQUIRE(fstat(file.get(), &status) == 0);
    CHECK(status.st_size == 12345);
  }
  if (known[abi::op_read_multishot]) {
    // Only what can be polled may be read by multishot, and it says so in its own way.
    CHECK(run(ring, [&](io_uring_sqe& sqe) {
            uring::prep::fill(sqe, abi::op_read_multishot, file.get(), 0, 0, 0, Token{1});
            uring::prep::buffer_select(sqe, uring::BufferGroup{1});
          }) == -EBADFD);
  }
  SKIP_UNLESS(known[abi::op_pipe], "IORING_OP_PIPE needs Linux 6.16");
  int ends[2] = {-1, -1};
  CHECK(run(ring, [&](io_uring_sqe& sqe) {
          uring::prep::fill(sqe, abi::op_pipe, 0, uring::prep::address(ends), 0, 0, Token{1});
          abi::sqe_op_flags(sqe) = O_CLOEXEC;
        }) == 0);
  const FileDescriptor reader(ends[0]);
  const FileDescriptor writer(ends[1]);
  CHECK(write(writer.get(), "x", 1) == 1);
  char byte = 0;
  CHECK(::read(reader.get(), &byte, 1) == 1);
}

TEST_CASE("registered buffers: the kernel reads and writes vectors in them by our opcode numbers") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  SKIP_UNLESS(probe(ring)[abi::op_writev_fixed], "IORING_OP_WRITEV_FIXED needs Linux 6.15");
  alignas(64) static char memory[128];
  iovec whole{memory, sizeof memory};
  REQUIRE(uring::real_kernel.register_(nullptr, ring.fd(), IORING_REGISTER_BUFFERS, &whole, 1) == 0);
  const FileDescriptor file = temporary_file();
  std::memcpy(memory, "hello, world", 12);
  const iovec out[2] = {{memory, 5}, {memory + 7, 5}};
  const auto vectored = [&](std::uint8_t opcode, const iovec* pieces) {
    return run(ring, [&](io_uring_sqe& sqe) {
      uring::prep::fill(sqe, opcode, file.get(), uring::prep::address(pieces), 2, 0, Token{1});
    });
  };
  CHECK(vectored(abi::op_writev_fixed, out) == 10);
  const iovec in[2] = {{memory + 64, 5}, {memory + 80, 5}};
  CHECK(vectored(abi::op_readv_fixed, in) == 10);
  CHECK(std::memcmp(memory + 64, "hello", 5) == 0);
  CHECK(std::memcmp(memory + 80, "world", 5) == 0);
}

TEST_CASE("sockets: the kernel binds and listens by our opcode numbers") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  SKIP_UNLESS(probe(ring)[abi::op_listen], "IORING_OP_BIND and _LISTEN need Linux 6.11");
  const FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(run(ring, [&](io_uring_sqe& sqe) {
          uring::prep::fill(sqe, abi::op_bind, listener.get(), uring::prep::address(&address), 0,
                            sizeof address, Token{1});
        }) == 0);
  CHECK(run(ring, [&](io_uring_sqe& sqe) {
          uring::prep::fill(sqe, abi::op_listen, listener.get(), 0, 1, 0, Token{1});
        }) == 0);
  int listening = 0;
  socklen_t size = sizeof listening;
  CHECK(getsockopt(listener.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0);
  CHECK(listening == 1);
}

TEST_CASE("sockets: the kernel answers getsockopt and setsockopt by our command numbers") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  const FileDescriptor here(ends[0]);
  const FileDescriptor there(ends[1]);
  int type = 0;
  const auto command = [&](std::uint32_t what) {
    return run(ring, [&](io_uring_sqe& sqe) {
      // level and optname share byte 16 with addr, optval is at 48.
      constexpr std::uint64_t level_and_name = SOL_SOCKET | std::uint64_t{SO_TYPE} << 32;
      uring::prep::fill(sqe, IORING_OP_URING_CMD, here.get(), level_and_name, 0, what, Token{1});
      abi::sqe_optlen(sqe) = sizeof type;
      sqe.addr3 = uring::prep::address(&type);
    });
  };
  const int answered = command(abi::socket_getsockopt);
  SKIP_UNLESS(answered != -EOPNOTSUPP, "SOCKET_URING_OP_GETSOCKOPT needs Linux 6.7");
  CHECK(answered == sizeof type);
  CHECK(type == SOCK_STREAM);
  type = 7;
  CHECK(command(abi::socket_setsockopt) == -ENOPROTOOPT);  // SO_TYPE can be asked, not set
}

TEST_CASE("waiting: the kernel knows children, futexes and epoll by our opcode numbers") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  const std::vector<bool> known = probe(ring);
  SKIP_UNLESS(known[abi::op_futex_wake], "IORING_OP_WAITID and _FUTEX_* need Linux 6.7");
  // No such child: an error that only waitid(2) has.
  CHECK(run(ring, [&](io_uring_sqe& sqe) {
          uring::prep::fill(sqe, abi::op_waitid, 1 << 30, 0, P_PID, 0, Token{1});
          sqe.file_index = WEXITED;
        }) == -ECHILD);
  // A futex that has changed already is -EAGAIN to those who would wait, and wakes nobody.
  alignas(4) static std::uint32_t futex = 1;
  const auto futex_op = [&](std::uint8_t opcode, std::uint64_t value) {
    return run(ring, [&](io_uring_sqe& sqe) {
      constexpr int futex2_size_u32_private = 0x02 | 128;
      uring::prep::fill(sqe, opcode, futex2_size_u32_private, uring::prep::address(&futex), 0, value,
                        Token{1});
      sqe.addr3 = 0xffffffff;
    });
  };
  CHECK(futex_op(abi::op_futex_wait, 0) == -EAGAIN);
  CHECK(futex_op(abi::op_futex_wake, 1) == 0);
  SKIP_UNLESS(known[abi::op_epoll_wait], "IORING_OP_EPOLL_WAIT needs Linux 6.15");
  const FileDescriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const FileDescriptor reader(ends[0]);
  const FileDescriptor writer(ends[1]);
  epoll_event interest{.events = EPOLLOUT, .data = {.u64 = 77}};
  REQUIRE(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, writer.get(), &interest) == 0);
  epoll_event event{};
  CHECK(run(ring, [&](io_uring_sqe& sqe) {
          uring::prep::fill(sqe, abi::op_epoll_wait, epoll.get(), uring::prep::address(&event), 1, 0,
                            Token{1});
        }) == 1);
  const std::uint64_t data = event.data.u64;
  CHECK(data == 77);
}

TEST_CASE("direct descriptors: the kernel gives one an ordinary number by our opcode number") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  SKIP_UNLESS(probe(ring)[abi::op_fixed_fd_install], "IORING_OP_FIXED_FD_INSTALL needs Linux 6.8");
  const FileDescriptor file = temporary_file();
  int table[1] = {file.get()};
  REQUIRE(uring::real_kernel.register_(nullptr, ring.fd(), IORING_REGISTER_FILES, table, 1) == 0);
  const auto install = [&](std::uint32_t flags) {
    return FileDescriptor(run(ring, [&](io_uring_sqe& sqe) {
      uring::prep::fill(sqe, abi::op_fixed_fd_install, 0, 0, 0, 0, Token{1});
      uring::prep::fixed_file(sqe);
      abi::sqe_op_flags(sqe) = flags;
    }));
  };
  const FileDescriptor plain = install(0);
  const FileDescriptor inherited = install(abi::fixed_fd_no_cloexec);
  REQUIRE(plain.get() >= 0);
  REQUIRE(inherited.get() >= 0);
  CHECK(fcntl(plain.get(), F_GETFD) == FD_CLOEXEC);
  CHECK(fcntl(inherited.get(), F_GETFD) == 0);
}

TEST_CASE("nop: the kernel injects results and looks up files by our flags") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  const auto nop = [&](std::uint32_t flags, std::uint32_t len, int fd) {
    return run(ring, [&](io_uring_sqe& sqe) {
      uring::prep::nop(sqe, Token{1});
      abi::sqe_op_flags(sqe) = flags;
      sqe.len = len;
      sqe.fd = fd;
    });
  };
  SKIP_UNLESS(nop(abi::nop_inject_result, 4711, -1) == 4711, "IORING_NOP_INJECT_RESULT needs Linux 6.10");
  const int file = nop(abi::nop_file, 0, -1);
  SKIP_UNLESS(file != -EINVAL, "IORING_NOP_FILE needs Linux 6.13");
  SKIP_UNLESS(file != 0, "this kernel looks the file up and forgets that there is none (seen on 6.18.15)");
  CHECK(file == -EBADF);
  CHECK(nop(abi::nop_file, 0, 0) == 0);
  CHECK(nop(abi::nop_file | abi::nop_fixed_file, 0, 0) == -EBADF);
  CHECK(nop(abi::nop_fixed_buffer, 0, -1) == -EFAULT);
  const int by_task_work = nop(abi::nop_tw, 0, -1);
  CHECK((by_task_work == 0 || by_task_work == -EINVAL));
}

TEST_CASE("enter: an absolute time-out that lies in the past is over at once") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  SKIP_UNLESS((ring.features() & abi::feat_min_timeout) != 0, "IORING_ENTER_ABS_TIMER needs Linux 6.12");
  // Taken for a span, "now" would be as long as the machine has been up.
  timespec now{};
  REQUIRE(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
  const __kernel_timespec point{.tv_sec = now.tv_sec, .tv_nsec = now.tv_nsec};
  abi::getevents_arg argument{};
  argument.ts = uring::prep::address(&point);
  constexpr unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | abi::enter_abs_timer;
  CHECK(uring::real_kernel.enter(nullptr, ring.fd(), 0, 1, flags, &argument) == -ETIME);
  if ((ring.features() & abi::feat_no_iowait) != 0) {
    CHECK(uring::real_kernel.enter(nullptr, ring.fd(), 0, 1, flags | abi::enter_no_iowait, &argument) ==
          -ETIME);
  }
  CHECK(uring::real_kernel.enter(nullptr, ring.fd(), 0, 1, flags | 1u << 20, &argument) == -EINVAL);
}

TEST_CASE("register: the kernel knows clocks, clones, queries and bare messages by our numbers") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8});
  const auto call = [](int fd, unsigned opcode, void* argument, unsigned count) {
    return uring::real_kernel.register_(nullptr, fd, opcode, argument, count);
  };
  SKIP_UNLESS((ring.features() & abi::feat_min_timeout) != 0, "IORING_REGISTER_CLOCK needs Linux 6.12");
  abi::clock_register clock{.clockid = CLOCK_BOOTTIME, .resv = {}};
  CHECK(call(ring.fd(), abi::register_clock, &clock, 0) == 0);
  clock.clockid = CLOCK_REALTIME;
  CHECK(call(ring.fd(), abi::register_clock, &clock, 0) == -EINVAL);
  abi::buf_status status{};
  status.buf_group = 7;
  CHECK(call(ring.fd(), abi::register_pbuf_status, &status, 1) == -ENOENT);  // there is no such group
  std::array<std::uint32_t, 8> clone{
      static_cast<std::uint32_t>(ring.fd())};  // io_uring_clone_buffers: src_fd, ...
  CHECK(call(ring.fd(), abi::register_clone_buffers, clone.data(), 1) == -ENXIO);  // it has none
  // With a registered ring's index instead of a descriptor: slot 0 of this thread is our ring.
  if (ring.ring_fd_registered()) {
    std::array<int, 1> file{0};
    CHECK(call(0, IORING_REGISTER_FILES | abi::register_use_registered_ring, file.data(), 1) == 0);
  }
  io_uring_sqe message;
  uring::prep::fill(message, IORING_OP_MSG_RING, ring.fd(), IORING_MSG_DATA, 42, 43, Token{0});
  const int sent = call(-1, abi::register_send_msg_ring, &message, 1);
  SKIP_UNLESS(sent != -EINVAL, "IORING_REGISTER_SEND_MSG_RING needs Linux 6.13");
  CHECK(sent == 0);
  CHECK(ring.submit_and_wait(1, std::chrono::seconds(5)).ready == 1);
  ring.harvest([](const io_uring_cqe& cqe) {
    CHECK(cqe.res == 42);
    CHECK(cqe.user_data == 43);
  });
  std::array<std::uint64_t, 5> query{};  // an empty io_uring_query_hdr: asks for nothing
  const int answered = call(-1, abi::register_query, query.data(), 0);
  CHECK((answered == 0 || answered == -EINVAL));
  CHECK(call(ring.fd(), 200, nullptr, 0) == -EINVAL);
}

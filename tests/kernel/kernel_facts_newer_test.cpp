// Facts about what came with Linux 6.18 and after it, up to 7.3. docs/kernel-facts.md says what they are good for.
//
// Each is tried, never looked up by version: a kernel that does not know the thing says -EINVAL or -EOPNOTSUPP, and the
// test is skipped. (That it says so, and does nothing else, is what the fallbacks of uring/trials.hpp rely on.)

#include <linux/filter.h>
#include <sys/prctl.h>

#include <array>
#include <functional>

#include "tests/kernel/prep_helpers.hpp"
#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"
#include "uring/trials.hpp"

namespace {

using namespace prep_tests;
using namespace std::chrono_literals;
using tests::kernel::in_child;
using tests::kernel::RawRing;

int register_without_ring(unsigned opcode, void* argument, unsigned count) {
  return uring::real_kernel.register_(nullptr, -1, opcode, argument, count);
}

/// What a new ring answers to one SQE: cqe->res.
int answer(const std::function<void(io_uring_sqe&)>& prepare) {
  uring::Ring ring({.entries = 8});
  return uring::trials::detail::result_of(ring, prepare);
}

// ---- Asking -----------------------------------------------------------------------------------------------

FACT("a kernel can be asked what it knows without a ring, and says of each question whether it knows it") {
  SKIP_WITHOUT_IO_URING();
  abi::query_opcodes_answer answer{};
  abi::query_header known{};
  known.query_data = prep::address(&answer);
  known.query_op = abi::query_opcodes;
  known.size = sizeof answer;
  abi::query_header unknown{};
  unknown.query_op = 9999;
  unknown.next_entry = prep::address(&known);
  SKIP_UNLESS(register_without_ring(abi::register_query, &unknown, 0) == 0,
              "IORING_REGISTER_QUERY needs Linux 6.18");
  CHECK(unknown.result == -EOPNOTSUPP);
  CHECK(unknown.size == 0);
  CHECK(known.result == 0);
  CHECK(known.size == sizeof answer);
  CHECK((answer.feature_flags & IORING_FEAT_EXT_ARG) != 0);
  CHECK((answer.enter_flags & IORING_ENTER_GETEVENTS) != 0);
  CHECK((answer.sqe_flags & IOSQE_IO_LINK) != 0);
  // A caller with less room gets less.
  abi::query_opcodes_answer little{};
  known.query_data = prep::address(&little);
  known.size = 8;
  CHECK(register_without_ring(abi::register_query, &known, 0) == 0);
  CHECK(little.nr_register_opcodes == answer.nr_register_opcodes);
  CHECK(little.feature_flags == 0);
}

FACT("an SQE under an unknown personality tells whether its opcode is allowed, and does nothing") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 8, .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED});
  std::array<io_uring_restriction, 1> only_reads{};
  only_reads[0].opcode = IORING_RESTRICTION_SQE_OP;
  only_reads[0].sqe_op = IORING_OP_READ;
  REQUIRE(uring::real_kernel.register_(nullptr, ring.fd(), IORING_REGISTER_RESTRICTIONS, only_reads.data(),
                                       only_reads.size()) == 0);
  REQUIRE(ring.enable() == 0);
  const auto refused = uring::trials::refused_opcodes(ring, IORING_OP_SENDMSG_ZC);
  CHECK(!refused[IORING_OP_READ]);
  CHECK(refused[IORING_OP_NOP]);
  CHECK(refused[IORING_OP_CLOSE]);
  // What is allowed is refused by the name: the read below would have taken the byte.
  const Pair pipe = pipe_pair();
  write_all(pipe.there, "x");
  char byte = 0;
  CHECK(uring::trials::detail::result_of(ring, [&](io_uring_sqe& sqe) {
          prep::read(sqe, pipe.here.get(), &byte, 1, uring::current_position, Token{1});
          sqe.personality = uring::trials::detail::nobody;
        }) == -EINVAL);
  CHECK(read_some(pipe.here) == "x");
}

// ---- Operations -------------------------------------------------------------------------------------------

FACT("a time-out can carry its nanoseconds itself: nothing is read but the SQE; negative is EINVAL") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(uring::trials::timeout_nanoseconds(ring.ring()),
              "IORING_TIMEOUT_IMMEDIATE_ARG needs Linux 7.1");
  const auto began = std::chrono::steady_clock::now();
  prep::timeout(ring.sqe(), 20ms, 0, 0, Token{1});
  CHECK(ring.result(1) == -ETIME);
  CHECK(std::chrono::steady_clock::now() - began >= 20ms);
  prep::timeout(ring.sqe(), std::chrono::steady_clock::now().time_since_epoch(), 0, IORING_TIMEOUT_ABS,
                Token{2});
  CHECK(ring.result(2) == -ETIME);
  prep::timeout(ring.sqe(), -1ns, 0, 0, Token{3});
  CHECK(ring.result(3) == -EINVAL);
  // A deadline for the operation before it, and a clock tick.
  const Pair pipe = pipe_pair();
  char byte = 0;
  io_uring_sqe& read = ring.sqe();
  prep::read(read, pipe.here.get(), &byte, 1, uring::current_position, Token{4});
  prep::link(read);
  prep::link_timeout(ring.sqe(), 1ms, 0, Token{5});
  CHECK(ring.result(4) == -ECANCELED);
  CHECK(ring.result(5) == -ETIME);
  prep::timeout(ring.sqe(), 1ms, 2, abi::timeout_multishot, Token{6});
  CHECK(ring.of(6).more());
  CHECK(!ring.of(6).more());
}

FACT("a send_zc can give its notification a token of its own; F_MORE and F_NOTIF stay as they were") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(uring::trials::notification_token(ring.ring()), "a token for the notification needs Linux 7.1");
  const Pair pair = tcp_pair();
  prep::send_zc(ring.sqe(), pair.here.get(), "hello", 5, 0, 0, Token{1});
  const Completion own = ring.of(1);
  CHECK(own.res == 5);
  CHECK(own.more());
  CHECK(ring.of(1).notification());
  io_uring_sqe& sqe = ring.sqe();
  prep::send_zc(sqe, pair.here.get(), "world", 5, 0, 0, Token{2});
  prep::set_notification_token(sqe, Token{3});
  const Completion sent = ring.of(2);
  CHECK(sent.res == 5);
  CHECK(sent.more());
  CHECK(!sent.notification());
  const Completion let_go = ring.of(3);
  CHECK(let_go.notification());
  CHECK(!let_go.more());
  CHECK(ring.quiet());
  CHECK(read_some(pair.there) == "helloworld");
}

FACT("the addresses of a slot's socket can be asked for; a short buffer is told the true length") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(uring::trials::socket_addresses(ring.ring()), "SOCKET_URING_OP_GETSOCKNAME needs Linux 6.19");
  const Pair pair = tcp_pair();
  std::array<int, 1> table{pair.there.get()};
  REQUIRE(ring.register_(IORING_REGISTER_FILES, table.data(), 1) == 0);
  // Slot 0, which no system call can name.
  const auto ask = [&](bool peer, sockaddr_in& address, socklen_t& length) {
    sockaddr_storage storage{};
    io_uring_sqe& sqe = ring.sqe();
    if (peer) {
      prep::getpeername(sqe, 0, &storage, &length, Token{1});
    } else {
      prep::getsockname(sqe, 0, &storage, &length, Token{1});
    }
    prep::fixed_file(sqe);
    const int result = ring.result(1);
    std::memcpy(&address, &storage, sizeof address);
    return result;
  };
  sockaddr_in address{};
  socklen_t length = sizeof(sockaddr_storage);
  CHECK(ask(true, address, length) == 0);
  CHECK(length == sizeof address);
  CHECK(address.sin_port == local_name(pair.here.get()).sin_port);
  length = sizeof(sockaddr_storage);
  CHECK(ask(false, address, length) == 0);
  CHECK(address.sin_port == local_name(pair.there.get()).sin_port);
  length = 2;  // room for the family only
  CHECK(ask(true, address, length) == 0);
  CHECK(length == sizeof address);
  CHECK(address.sin_family == AF_INET);
  CHECK(address.sin_port == 0);
}

FACT("a write to a pipe that nobody reads kills the process with SIGPIPE, unless it has RWF_NOSIGNAL") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(uring::trials::writes_without_signal(ring.ring()), "RWF_NOSIGNAL needs Linux 6.18");
  for (const bool silent : {false, true}) {
    CAPTURE(silent);
    const int end = in_child([&] {
      std::signal(SIGPIPE, SIG_DFL);
      Pair pipe = pipe_pair();
      pipe.here.reset();
      const int result = answer([&](io_uring_sqe& sqe) {
        prep::write(sqe, pipe.there.get(), "x", 1, uring::current_position, Token{1});
        if (silent) prep::no_signal(sqe);
      });
      return result == -EPIPE ? 0 : 1;
    });
    CHECK(end == (silent ? 0 : 256 + SIGPIPE));
  }
}

FACT("send and recv use registered buffers by index and address, as READ_FIXED does, and copy all the same") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(uring::trials::registered_sends(ring.ring()),
              "SEND and RECV with registered buffers need Linux 7.2");
  std::vector<char> memory(8192, '.');
  iovec whole{memory.data(), memory.size()};
  REQUIRE(ring.register_(IORING_REGISTER_BUFFERS, &whole, 1) == 0);
  const Pair pair = tcp_pair();
  std::memcpy(memory.data(), "hello", 5);
  prep::send_fixed(ring.sqe(), pair.here.get(), memory.data(), 5, 0, 0, Token{1});
  CHECK(ring.result(1) == 5);
  std::memcpy(memory.data(), "later", 5);  // the bytes have been copied: this does not go out
  char* const place = memory.data() + 4096;
  prep::recv_fixed(ring.sqe(), pair.there.get(), place, 5, 0, 0, Token{2});
  CHECK(ring.result(2) == 5);
  CHECK(std::string(place, 5) == "hello");
  prep::send_fixed(ring.sqe(), pair.here.get(), memory.data(), 5, 0, 1, Token{3});  // no such buffer
  CHECK(ring.result(3) == -EFAULT);
  prep::send_fixed(ring.sqe(), pair.here.get(), memory.data() + 8190, 5, 0, 0, Token{4});  // beyond its end
  CHECK(ring.result(4) == -EFAULT);
}

FACT("with min_left an incremental buffer is finished when less than that is left of it") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(uring::trials::buffer_min_left(ring.ring()), "min_left needs Linux 7.1, 6.18.44 or 6.12.90");
  constexpr std::uint32_t size = 64;
  for (const std::uint32_t min_left : {0u, 16u}) {
    CAPTURE(min_left);
    alignas(4096) static std::array<char, 4096> page;
    page.fill(0);
    std::vector<char> memory(size);
    const BufferGroup group{static_cast<std::uint16_t>(min_left)};
    abi::buf_reg registration{};
    registration.ring_addr = prep::address(page.data());
    registration.ring_entries = 1;
    registration.bgid = group.id;
    registration.flags = abi::pbuf_ring_inc;
    registration.min_left = min_left;
    REQUIRE(ring.register_(IORING_REGISTER_PBUF_RING, &registration, 1) == 0);
    auto* const entry = reinterpret_cast<io_uring_buf*>(page.data());
    entry->addr = prep::address(memory.data());
    entry->len = size;
    entry->bid = 7;
    uring::publish_buffer_tail(*reinterpret_cast<std::uint16_t*>(page.data() + abi::buf_ring_tail_offset), 1);
    const Pair pair = tcp_pair();
    write_all(pair.here, std::string(50, 'x'));
    prep::recv_select(ring.sqe(), pair.there.get(), group, 0, 0, Token{1});
    const Completion first = ring.of(1);
    CHECK(first.res == 50);
    CHECK(first.buffer() == 7);
    // 14 of its 64 bytes are left.
    CHECK(((first.flags & abi::cqe_f_buf_more) != 0) == (min_left == 0));
    write_all(pair.here, "y");
    prep::recv_select(ring.sqe(), pair.there.get(), group, 0, 0, Token{2});
    CHECK(ring.result(2) == (min_left == 0 ? 1 : -ENOBUFS));
    abi::buf_reg unregistration{};
    unregistration.bgid = group.id;
    CHECK(ring.register_(IORING_UNREGISTER_PBUF_RING, &unregistration, 1) == 0);
  }
}

// ---- SQEs at other places ---------------------------------------------------------------------------------

FACT("under SQ_REWIND each enter begins at SQE 0: a short submit's rest is not where it looks") {
  SKIP_WITHOUT_IO_URING();
  constexpr std::uint32_t rewind = abi::setup_no_sqarray | abi::setup_sq_rewind;
  SKIP_UNLESS(tests::kernel::try_setup(8, rewind) == 0, "IORING_SETUP_SQ_REWIND needs Linux 7.0");
  const auto fill_four = [](RawRing& ring) {
    for (unsigned slot = 0; slot < 4; ++slot) prep::nop(ring.sqes[slot], Token{slot + 1});
    ring.sqes[1].ioprio = 1;  // which a NOP may not have: the kernel stops behind it
  };
  {
    // What we know: the kernel's head runs on, and so it finds the rest.
    RawRing ring(8, abi::setup_no_sqarray);
    fill_four(ring);
    ring.tail = 4;
    CHECK(ring.submit() == 2);
    CHECK(ring.results(2) == "1:0 2:-EINVAL");
    CHECK(uring::load_sq_head(ring.words) == 2);
    CHECK(ring.submit() == 2);
    CHECK(ring.results(2) == "3:0 4:0");
  }
  RawRing ring(8, rewind);
  fill_four(ring);
  CHECK(ring.enter(4) == 2);
  CHECK(ring.results(2) == "1:0 2:-EINVAL");
  CHECK(uring::load_sq_head(ring.words) == 0);
  // "The rest", says the application; SQE 0, says the kernel. The first is done twice, and the third never.
  CHECK(ring.enter(2) == 2);
  CHECK(ring.results(2) == "1:0 2:-EINVAL");
  // What must be done instead: bring the rest to the front.
  std::memmove(static_cast<void*>(&ring.sqes[0]), &ring.sqes[2], 2 * sizeof(io_uring_sqe));
  CHECK(ring.enter(2) == 2);
  CHECK(ring.results(2) == "3:0 4:0");
}

FACT("with SQE_MIXED a large SQE is two neighbouring slots: it cannot begin in the last one") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::kernel::try_setup(2, abi::setup_sqe_mixed) == 0,
              "IORING_SETUP_SQE_MIXED needs Linux 6.19");
  CHECK(tests::kernel::try_setup(1, abi::setup_sqe_mixed) == -EOVERFLOW);
  CHECK(tests::kernel::try_setup(2, abi::setup_sqe_mixed | IORING_SETUP_SQE128) == -EINVAL);
  RawRing ring(4, abi::setup_sqe_mixed | abi::setup_no_sqarray);
  prep::nop(ring.prepare(), Token{1});
  prep::fill(ring.prepare(), abi::op_nop128, -1, 0, 0, 0, Token{2});
  ring.prepare() = {};  // its second half
  CHECK(ring.submit() == 3);
  CHECK(ring.results(2) == "1:0 2:0");
  prep::fill(ring.prepare(), abi::op_nop128, -1, 0, 0, 0, Token{3});  // slot 3, the last
  ring.prepare() = {};
  ring.submit();
  CHECK(ring.results(1) == "3:-EINVAL");
}

// ---- What a task may do -----------------------------------------------------------------------------------

/// Binds all rings that this task will make: of the opcodes only READ. 0 or -errno.
int restrict_task_to_reads() {
  struct {
    abi::task_restriction head;
    std::array<io_uring_restriction, 1> list;
  } restrictions{};
  restrictions.head.count = 1;
  restrictions.list[0].opcode = IORING_RESTRICTION_SQE_OP;
  restrictions.list[0].sqe_op = IORING_OP_READ;
  return register_without_ring(IORING_REGISTER_RESTRICTIONS, &restrictions, 1);
}

FACT("a task can restrict all rings that it and its children will make: the rest is EACCES") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(uring::trials::task_restrictions(), "restrictions of a task need Linux 7.0");
  const int end = in_child([] {
    uring::Ring before({.entries = 8});
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 1;
    if (restrict_task_to_reads() != 0) return 2;
    if (restrict_task_to_reads() != -EPERM) return 3;
    const auto nop = [](io_uring_sqe& sqe) { prep::nop(sqe, Token{1}); };
    char byte = 0;
    const auto read = [&](io_uring_sqe& sqe) { prep::read(sqe, -1, &byte, 1, 0, Token{1}); };
    if (answer(nop) != -EACCES) return 4;
    if (answer(read) != -EBADF) return 5;  // allowed; that there is no such descriptor is another matter
    if (in_child([&] { return answer(nop) == -EACCES ? 0 : 1; }) != 0) return 6;
    if (uring::trials::detail::result_of(before, nop) != 0) return 7;  // made earlier: not bound
    return 0;
  });
  CHECK(end == 0);
}

FACT("a BPF filter judges SQEs by what they ask for: a refusal is EACCES, filters only add up") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(uring::trials::bpf_filters(), "IORING_REGISTER_BPF_FILTER needs Linux 7.0");
  const int end = in_child([] {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 1;
    const auto filter = [](std::uint8_t opcode, std::uint8_t its_own_bytes, sock_filter* code,
                           unsigned length) {
      abi::bpf_filter argument{};
      argument.cmd_type = 1;
      argument.opcode = opcode;
      argument.filter_len = length;
      argument.pdu_size = its_own_bytes;
      argument.filter_ptr = prep::address(code);
      return register_without_ring(abi::register_bpf_filter, &argument, 1);
    };
    // Behind the 16 bytes that all opcodes have, a SOCKET shows its family: only AF_UNIX may pass.
    std::array<sock_filter, 4> unix_only{sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, 16},
                                         sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, AF_UNIX},
                                         sock_filter{BPF_RET | BPF_K, 0, 0, 1},
                                         sock_filter{BPF_RET | BPF_K, 0, 0, 0}};
    std::array<sock_filter, 1> all_may{sock_filter{BPF_RET | BPF_K, 0, 0, 1}};
    if (filter(IORING_OP_SOCKET, 12, unix_only.data(), unix_only.size()) != 0) return 2;
    const auto socket_of = [](int family) {
      return answer([family](io_uring_sqe& sqe) { prep::socket(sqe, family, SOCK_STREAM, 0, Token{1}); });
    };
    if (socket_of(AF_UNIX) < 0) return 3;
    if (socket_of(AF_INET) != -EACCES) return 4;
    if (filter(IORING_OP_SOCKET, 12, all_may.data(), all_may.size()) != 0) return 5;
    if (socket_of(AF_INET) != -EACCES) return 6;  // the first one still stands
    return 0;
  });
  CHECK(end == 0);
}

}  // namespace

// The kernel that pretends to be older (--pretend-kernel) is one to whoever asks, whatever he asks, and stays one.

#include "servers/m3_echo_server/pretend_kernel.hpp"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <array>

#include "servers/common/descriptor.hpp"
#include "tests/kernel/kernel_support.hpp"
#include "uring/capabilities.hpp"
#include "uring/prep_sockets.hpp"

namespace {

using echo::PretendKernel;
using echo::Version;
using tests::kernel::results;

/// What each version knows: one more than its highest opcode and registration, and its setup flags. The row of 6.1 is
/// what the real one says: in a guest with 6.1 the two are compared.
struct Known {
  Version version;
  unsigned opcodes;
  unsigned registrations;
  std::uint32_t setup_flags;
};
constexpr std::uint32_t flags_5_15 = IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF |
                                     IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_ATTACH_WQ |
                                     IORING_SETUP_R_DISABLED;
constexpr std::uint32_t flags_5_19 = flags_5_15 | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN |
                                     IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SQE128 | IORING_SETUP_CQE32;
constexpr std::uint32_t flags_6_0 = flags_5_19 | IORING_SETUP_SINGLE_ISSUER;
constexpr std::uint32_t flags_6_1 = flags_6_0 | IORING_SETUP_DEFER_TASKRUN;
constexpr Known known[] = {
    {Version::linux_5_15, IORING_OP_LINKAT + 1, IORING_REGISTER_IOWQ_MAX_WORKERS + 1, flags_5_15},
    {Version::linux_5_19, IORING_OP_URING_CMD + 1, IORING_UNREGISTER_PBUF_RING + 1, flags_5_19},
    {Version::linux_6_0, IORING_OP_SEND_ZC + 1, IORING_REGISTER_FILE_ALLOC_RANGE + 1, flags_6_0},
    {Version::linux_6_1, IORING_OP_SENDMSG_ZC + 1, IORING_REGISTER_FILE_ALLOC_RANGE + 1, flags_6_1},
};

TEST_CASE("pretended kernel: the probe lists the opcodes of its version, and none beyond") {
  SKIP_WITHOUT_IO_URING();
  const uring::Capabilities real = uring::probe_capabilities();
  SKIP_UNLESS(real.has_opcode(IORING_OP_SENDMSG_ZC), "a kernel cannot pretend to be newer: needs Linux 6.1");
  for (const Known& each : known) {
    CAPTURE(each.opcodes);
    PretendKernel pretend(each.version);
    const uring::Capabilities found = uring::probe_capabilities(pretend.kernel());
    CHECK(found.last_opcode == each.opcodes - 1);
    for (unsigned opcode = 0; opcode < found.opcodes.size(); ++opcode) {
      CAPTURE(opcode);
      CHECK(found.has_opcode(opcode) == (opcode < each.opcodes && real.has_opcode(opcode)));
    }
  }
}

TEST_CASE("pretended kernel: an opcode beyond the version's last is EINVAL, and the last is none of those") {
  SKIP_WITHOUT_IO_URING();
  const uring::Capabilities real = uring::probe_capabilities();
  SKIP_UNLESS(real.has_opcode(IORING_OP_SENDMSG_ZC), "a kernel cannot pretend to be newer: needs Linux 6.1");
  for (const Known& each : known) {
    CAPTURE(each.opcodes);
    PretendKernel pretend(each.version);
    uring::Ring ring({.entries = 4}, pretend.kernel());
    for (const unsigned opcode : {each.opcodes - 1, each.opcodes}) {
      uring::prep::fill(tests::must(ring.next_sqe()), static_cast<std::uint8_t>(opcode), -1, 0, 0, 0,
                        uring::Token{opcode});
    }
    const std::string one = std::to_string(each.opcodes - 1), beyond = std::to_string(each.opcodes);
    const std::string said = results(ring, 2);
    CHECK(said.find(beyond + ":-EINVAL") != std::string::npos);
    CHECK(said.find(one + ":-EINVAL") == std::string::npos);
  }
}

TEST_CASE(
    "pretended kernel: a registration that is newer than the version is EINVAL, on a ring and without one") {
  SKIP_WITHOUT_IO_URING();
  for (const Known& each : known) {
    PretendKernel pretend(each.version);
    const uring::Kernel kernel = pretend.kernel();
    const uring::Ring ring({.entries = 4}, kernel);
    for (unsigned opcode = each.registrations; opcode < each.registrations + 20; ++opcode) {
      CAPTURE(opcode);
      std::array<std::byte, 64> argument{};
      CHECK(kernel.register_(kernel.self, ring.fd(), opcode, argument.data(), 0) == -EINVAL);
      CHECK(kernel.register_(kernel.self, -1, opcode, argument.data(), 0) == -EINVAL);
    }
  }
}

TEST_CASE("pretended kernel: it takes the setup flags of its version, and no others") {
  SKIP_WITHOUT_IO_URING();
  const std::uint32_t real = uring::probe_capabilities().setup_flags;
  for (const Known& each : known) {
    CAPTURE(each.opcodes);
    PretendKernel pretend(each.version);
    CHECK(uring::probe_capabilities(pretend.kernel()).setup_flags == (each.setup_flags & real));
  }
}

TEST_CASE("pretended kernel: what 6.1 is pretended to know is what the real one knows") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::kernel::linux_at_least(6, 1) && !tests::kernel::linux_at_least(6, 2),
              "the comparison needs a real Linux 6.1");
  PretendKernel pretend(Version::linux_6_1);
  const uring::Capabilities real = uring::probe_capabilities();
  const uring::Capabilities said = uring::probe_capabilities(pretend.kernel());
  CHECK(real.setup_flags == flags_6_1);
  CHECK(said.setup_flags == real.setup_flags);
  CHECK(said.opcodes == real.opcodes);
  CHECK(said.last_opcode == real.last_opcode);
  CHECK(said.registered_ring_fd == real.registered_ring_fd);
  CHECK(said.provided_buffer_rings == real.provided_buffer_rings);
  // Features are masked to 5.17's, since nobody asks for 5.19's.
  CHECK((real.features & ~said.features) == IORING_FEAT_LINKED_FILE);
}

TEST_CASE("pretended kernel: a ring goes on pretending when others are tried beside it") {
  SKIP_WITHOUT_IO_URING();
  PretendKernel pretend(Version::linux_5_19);
  uring::Ring ring({.entries = 64}, pretend.kernel());
  std::array<int, 2> pair{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) == 0);
  const common::Descriptor one(pair[0]), other(pair[1]);
  const auto too_new = [&] {
    uring::prep::recv_multishot(tests::must(ring.next_sqe()), one.get(), uring::BufferGroup{0},
                                uring::Token{1});
    return results(ring, 1) == "1:-EINVAL";
  };
  for (int i = 0; i < 3; ++i) CHECK(too_new());
  uring::probe_capabilities(pretend.kernel());
  for (int i = 0; i < 100; ++i) REQUIRE(too_new());
}

}  // namespace

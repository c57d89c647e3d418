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

struct Known {
  Version version;
  unsigned opcodes;
};
constexpr Known known[] = {
    {Version::linux_5_15, IORING_OP_LINKAT + 1},
    {Version::linux_5_19, IORING_OP_URING_CMD + 1},
    {Version::linux_6_0, IORING_OP_SEND_ZC + 1},
    {Version::linux_6_1, IORING_OP_SENDMSG_ZC + 1},
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

// What the kernel says it can do, held against what it does.

#include "uring/capabilities.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <filesystem>
#include <iterator>

#include "tests/support/skip.hpp"
#include "uring/ring.hpp"

namespace {

long open_descriptors() { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}); }

TEST_CASE("what the probe reports is what a ring gets") {
  SKIP_WITHOUT_IO_URING();
  const uring::Capabilities found = uring::probe_capabilities();
  CHECK(found.setup_error == 0);
  const uring::Ring ring({.entries = 1});
  CHECK(found.features == ring.features());
  CHECK(found.registered_ring_fd == ring.ring_fd_registered());
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    if ((uring::default_setup_flags & flag.bit) == 0) continue;
    CAPTURE(flag.name);
    CHECK(found.has_setup_flag(flag.bit) == ((ring.setup_flags() & flag.bit) != 0));
  }
}

TEST_CASE("the probe lists the opcodes that the first kernels had, and none beyond its last") {
  SKIP_WITHOUT_IO_URING();
  const uring::Capabilities found = uring::probe_capabilities();
  CHECK(found.has_opcode(IORING_OP_NOP));
  CHECK(found.has_opcode(IORING_OP_READV));
  for (unsigned opcode = found.last_opcode + 1; opcode < 300; ++opcode) CHECK(!found.has_opcode(opcode));
}

TEST_CASE("probing leaves no descriptor and no registration behind") {
  SKIP_WITHOUT_IO_URING();
  const long before = open_descriptors();
  // A thread has 16 places for registered rings: a probe that kept one would run out of them here.
  for (int i = 0; i < 20; ++i)
    CHECK(uring::probe_capabilities().registered_ring_fd == uring::probe_capabilities().registered_ring_fd);
  CHECK(open_descriptors() == before);
  const uring::Ring ring({.entries = 1});
  CHECK(ring.ring_fd_registered() == uring::probe_capabilities().registered_ring_fd);
}

TEST_CASE("without io_uring the probe says why and nothing else") {
  uring::Kernel refusing = uring::real_kernel;
  refusing.setup = [](void*, unsigned, io_uring_params*) { return -EPERM; };
  const uring::Capabilities found = uring::probe_capabilities(refusing);
  CHECK(found.setup_error == EPERM);
  CHECK(found.features == 0);
  CHECK(found.setup_flags == 0);
  CHECK(!found.has_opcode(IORING_OP_NOP));
}

TEST_CASE("a kernel that cannot be probed still tells its setup flags") {
  SKIP_WITHOUT_IO_URING();
  uring::Kernel old = uring::real_kernel;
  old.register_ = [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
    const bool newer = opcode == IORING_REGISTER_PROBE || opcode == IORING_REGISTER_RING_FDS ||
                       opcode == IORING_REGISTER_PBUF_RING;
    return newer ? -EINVAL : uring::real_kernel.register_(self, fd, opcode, argument, count);
  };
  const uring::Capabilities found = uring::probe_capabilities(old);
  CHECK(!found.has_opcode(IORING_OP_NOP));
  CHECK(!found.registered_ring_fd);
  CHECK(!found.provided_buffer_rings);
  CHECK(found.has_setup_flag(IORING_SETUP_CLAMP));
}

}  // namespace

// What the kernel says it can do, held against what it does; and kernels that can be asked, and that cannot.

#include "uring/capabilities.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "tests/support/skip.hpp"
#include "uring/ring.hpp"

namespace {

/// A kernel of before 6.18: it does not know IORING_REGISTER_QUERY. Counts the rings that are made.
struct UnaskableKernel {
  unsigned rings = 0;

  uring::Kernel kernel() {
    uring::Kernel kernel = uring::real_kernel;
    kernel.setup = [](void* self, unsigned entries, io_uring_params* params) {
      ++static_cast<UnaskableKernel*>(self)->rings;
      return uring::real_kernel.setup(nullptr, entries, params);
    };
    kernel.register_ = [](void*, int fd, unsigned opcode, void* argument, unsigned count) {
      if (opcode == uring::abi::register_query) return -EINVAL;
      return uring::real_kernel.register_(nullptr, fd, opcode, argument, count);
    };
    kernel.self = this;
    return kernel;
  }
};

/// A kernel of the future, or one that the sysctl has shut: it answers the query, whatever the real one does.
struct AskableKernel {
  std::uint32_t setup_flags = 0;
  bool knows_zero_copy_receive = true;
  int ring_error = 0;  // 0: the real kernel's rings
  unsigned rings = 0;

  uring::Kernel kernel() {
    uring::Kernel kernel = uring::real_kernel;
    kernel.setup = [](void* self, unsigned entries, io_uring_params* params) {
      auto& fake = *static_cast<AskableKernel*>(self);
      ++fake.rings;
      return fake.ring_error != 0 ? fake.ring_error : uring::real_kernel.setup(nullptr, entries, params);
    };
    kernel.register_ = [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
      if (opcode != uring::abi::register_query) {
        return uring::real_kernel.register_(nullptr, fd, opcode, argument, count);
      }
      CHECK(fd == -1);
      CHECK(count == 0);
      auto* next = static_cast<uring::abi::query_header*>(argument);
      for (; next != nullptr; next = reinterpret_cast<uring::abi::query_header*>(next->next_entry)) {
        static_cast<AskableKernel*>(self)->answer(*next);
      }
      return 0;
    };
    kernel.self = this;
    return kernel;
  }

 private:
  void answer(uring::abi::query_header& question) const {
    uring::abi::query_opcodes_answer general{};
    general.nr_request_opcodes = 65;
    general.nr_register_opcodes = 38;
    general.feature_flags = IORING_FEAT_NODROP;
    general.ring_setup_flags = setup_flags;
    general.enter_flags = 0xff;
    general.sqe_flags = 0x7f;
    uring::abi::query_zcrx_answer receive{};
    receive.register_flags = uring::abi::zcrx_reg_nodev;
    receive.nr_ctrl_opcodes = 4;
    if (question.query_op == uring::abi::query_opcodes) {
      REQUIRE(question.size == sizeof general);
      std::memcpy(reinterpret_cast<void*>(question.query_data), &general, sizeof general);
    } else if (question.query_op == uring::abi::query_zcrx && knows_zero_copy_receive) {
      REQUIRE(question.size == sizeof receive);
      std::memcpy(reinterpret_cast<void*>(question.query_data), &receive, sizeof receive);
    } else {
      question.size = 0;
      question.result = -EOPNOTSUPP;
    }
  }
};

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

TEST_CASE("what the kernel says of its setup flags is what trying each of them finds out") {
  SKIP_WITHOUT_IO_URING();
  UnaskableKernel before;
  const uring::Capabilities asked = uring::probe_capabilities();
  const uring::Capabilities tried = uring::probe_capabilities(before.kernel());
  SKIP_UNLESS(asked.queried, "IORING_REGISTER_QUERY needs Linux 6.18");
  CHECK(!tried.queried);
  CHECK(tried.features == asked.features);
  CHECK(tried.opcodes == asked.opcodes);
  CHECK(tried.last_opcode == asked.last_opcode);
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    CAPTURE(flag.name);
    CHECK(tried.has_setup_flag(flag.bit) == asked.has_setup_flag(flag.bit));
  }
}

TEST_CASE("a kernel that can be asked is asked: one ring is made, not one for each flag") {
  SKIP_WITHOUT_IO_URING();
  AskableKernel newer;
  newer.setup_flags = uring::abi::setup_sq_rewind | IORING_SETUP_CLAMP;
  const uring::Capabilities found = uring::probe_capabilities(newer.kernel());
  CHECK(newer.rings == 1);
  CHECK(found.queried);
  CHECK(found.setup_flags == newer.setup_flags);
  CHECK(found.enter_flags == 0xff);
  CHECK(found.sqe_flags == 0x7f);
  CHECK(found.register_opcodes == 38);
  CHECK(found.zcrx_commands == 4);
  CHECK(found.zcrx_register_flags == uring::abi::zcrx_reg_nodev);
  newer.knows_zero_copy_receive = false;  // like 6.18
  CHECK(uring::probe_capabilities(newer.kernel()).zcrx_commands == 0);
  UnaskableKernel before;
  CHECK(uring::probe_capabilities(before.kernel()).enter_flags == 0);
  CHECK(before.rings > uring::setup_flag_table.size());
}

TEST_CASE("where rings are forbidden, a kernel that can be asked still says what it knows") {
  AskableKernel shut;
  shut.setup_flags = IORING_SETUP_CLAMP;
  shut.ring_error = -EPERM;
  const uring::Capabilities found = uring::probe_capabilities(shut.kernel());
  CHECK(found.setup_error == EPERM);
  CHECK(found.queried);
  CHECK(found.has_setup_flag(IORING_SETUP_CLAMP));
  CHECK(found.has_feature(IORING_FEAT_NODROP));
  CHECK(found.has_opcode(uring::abi::op_uring_cmd128));
  CHECK(found.last_opcode == uring::abi::op_uring_cmd128);
  CHECK(!found.provided_buffer_rings);
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
  refusing.register_ = [](void*, int, unsigned, void*, unsigned) { return -EPERM; };
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
                       opcode == IORING_REGISTER_PBUF_RING || opcode == uring::abi::register_query;
    return newer ? -EINVAL : uring::real_kernel.register_(self, fd, opcode, argument, count);
  };
  const uring::Capabilities found = uring::probe_capabilities(old);
  CHECK(!found.has_opcode(IORING_OP_NOP));
  CHECK(!found.registered_ring_fd);
  CHECK(!found.provided_buffer_rings);
  CHECK(found.has_setup_flag(IORING_SETUP_CLAMP));
}

}  // namespace

// What uring/trials.hpp concludes from each answer that a kernel can give, on kernels that are made to give it; and that
// on the real one the trials leave nothing behind.

#include "uring/trials.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <functional>

#include "tests/kernel/seam.hpp"
#include "tests/support/skip.hpp"
#include "uring/capabilities.hpp"

namespace {

using tests::kernel::Seam;
namespace trials = uring::trials;

struct Trial {
  const char* name;
  bool (*ask)(uring::Ring&);
  int yes;  // what a kernel answers that knows the thing
};

constexpr Trial all_trials[] = {
    {"notification_token", trials::notification_token, -EBADF},
    {"timeout_nanoseconds", trials::timeout_nanoseconds, -ETIME},
    {"socket_addresses", trials::socket_addresses, -ENOTCONN},
    {"registered_sends", trials::registered_sends, -ENOTSOCK},
    {"writes_without_signal", trials::writes_without_signal, 1},
};

/// A kernel that completes everything with `result`, by way of a NOP. Needs Linux 6.10.
void answer_everything_with(Seam& seam, int result) {
  seam.rule([result](io_uring_sqe& sqe) {
    uring::prep::fill(sqe, IORING_OP_NOP, -1, 0, static_cast<std::uint32_t>(result), 0,
                      uring::Token{sqe.user_data});
    uring::abi::sqe_op_flags(sqe) = uring::abi::nop_inject_result;
    return false;
  });
}

bool injects_results() {
  uring::Ring ring({.entries = 4});
  const int result = trials::detail::result_of(ring, [](io_uring_sqe& sqe) {
    uring::prep::fill(sqe, IORING_OP_NOP, -1, 0, 7, 0, uring::Token{0});
    uring::abi::sqe_op_flags(sqe) = uring::abi::nop_inject_result;
  });
  return result == 7;
}

}  // namespace

TEST_CASE("a trial believes one answer, and takes every other for no") {
  SKIP_WITHOUT_SEAM();
  SKIP_UNLESS(injects_results(), "IORING_NOP_INJECT_RESULT needs Linux 6.10");
  for (const Trial& trial : all_trials) {
    CAPTURE(trial.name);
    // Too old; another reason to refuse; forbidden by restrictions; no memory.
    for (const int result : {-EINVAL, -EOPNOTSUPP, -EACCES, -ENOMEM, trial.yes}) {
      CAPTURE(result);
      Seam seam;
      answer_everything_with(seam, result);
      uring::Ring ring({.entries = 4}, seam.kernel());
      CHECK(trial.ask(ring) == (result == trial.yes));
      CHECK(ring.ready() == 0);
    }
  }
}

TEST_CASE("trials leave no descriptor, no registration and no completion behind, whatever the kernel knows") {
  SKIP_WITHOUT_IO_URING();
  uring::Ring ring({.entries = 4});
  const std::size_t before = tests::kernel::open_descriptors();
  for (int round = 0; round < 3; ++round) {
    for (const Trial& trial : all_trials) {
      CAPTURE(trial.name);
      const bool first = trial.ask(ring);
      CHECK(trial.ask(ring) == first);
    }
    CHECK(trials::buffer_min_left(ring) == trials::buffer_min_left(ring));
    CHECK(!trials::refuses_nop(ring));
  }
  const auto refused = trials::refused_opcodes(ring, uring::probe_capabilities().last_opcode);
  CHECK(std::count(refused.begin(), refused.end(), true) == 0);
  CHECK(ring.ready() == 0);
  CHECK(tests::kernel::open_descriptors() == before);
}

TEST_CASE("what a task may register is told by the errno: no such call, no permission, or no argument") {
  static int answer = 0;
  uring::Kernel kernel = uring::real_kernel;
  kernel.register_ = [](void*, int fd, unsigned, void* argument, unsigned) {
    CHECK(fd == -1);
    CHECK(argument == nullptr);
    return answer;
  };
  for (const int known : {-EFAULT, -EACCES, -EPERM}) {
    answer = known;
    CHECK(trials::task_restrictions(kernel));
    CHECK(trials::bpf_filters(kernel));
  }
  for (const int unknown : {-EINVAL, -EBADF}) {
    answer = unknown;
    CHECK(!trials::task_restrictions(kernel));
    CHECK(!trials::bpf_filters(kernel));
  }
}

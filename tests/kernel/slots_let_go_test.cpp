// The question that servers with slots ask at their start (servers/common_ring/slots_let_go.hpp). What kernels answer is
// in kernel_facts_slots_test.cpp.

#include <doctest/doctest.h>

#include "servers/common_ring/slots_let_go.hpp"
#include "tests/kernel/kernel_support.hpp"
#include "tests/kernel/seam.hpp"

namespace {

using namespace tests::kernel;
namespace prep = uring::prep;

TEST_CASE(
    "slots_let_go finds out where a closed slot is not let go, and where that cannot be tried says no") {
  SKIP_WITHOUT_SEAM();
  Seam keeps;
  // The CLOSE says 0, and the socket is still there.
  keeps.rule([](io_uring_sqe& sqe) {
    if (sqe.opcode == IORING_OP_CLOSE)
      prep::fill(sqe, IORING_OP_NOP, -1, 0, 0, 0, uring::Token{sqe.user_data});
    return false;
  });
  CHECK_FALSE(common_ring::slots_let_go(keeps.kernel()));
  CHECK(keeps.seen(IORING_OP_ASYNC_CANCEL) == 1);

  Seam refuses;
  refuses.broken = true;
  CHECK_FALSE(common_ring::slots_let_go(refuses.kernel()));
  const std::size_t descriptors = open_descriptors();
  common_ring::slots_let_go();
  CHECK(open_descriptors() == descriptors);
}

}  // namespace

// Batch::take, the cursor that does not ask for room because the batch was opened for it.

#include <cstdint>
#include <vector>

#include "tests/mock/worlds.hpp"
#include "uring/prep_files.hpp"

using mock::in_every_world;
using mock::MockKernel;
using uring::Ring;
using uring::Token;

TEST_CASE("a batch opened for n takes n SQEs, and the kernel gets them in this order") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    std::vector<std::uint64_t> expected;
    std::uint64_t next = 0;
    for (const unsigned need : {4U, 3U, 1U, 4U, 2U, 4U}) {
      auto batch = ring.batch(need);
      REQUIRE(static_cast<bool>(batch));
      for (unsigned i = 0; i < need; ++i) {
        expected.push_back(next);
        uring::prep::nop(batch.take(), Token{next++});
      }
      batch.commit();
      REQUIRE(ring.submit() == static_cast<int>(need));
      ring.harvest([](const io_uring_cqe&) {});
    }
    CHECK(kernel.taken_user_data() == expected);
  });
}

TEST_CASE("take and next move the same cursor") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    auto batch = ring.batch(3);
    REQUIRE(static_cast<bool>(batch));
    uring::prep::nop(batch.take(), Token{0});
    REQUIRE(mock::add(batch, 1));
    uring::prep::nop(batch.take(), Token{2});
    REQUIRE(mock::add(batch, 3));
    CHECK(batch.next() == nullptr);
    batch.commit();
    CHECK(ring.submit() == 4);
    CHECK(kernel.taken_user_data() == std::vector<std::uint64_t>{0, 1, 2, 3});
  });
}

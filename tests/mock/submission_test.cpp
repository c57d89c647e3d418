// From next_sqe to the kernel: every slot used, nothing visible too early, nothing lost and nothing sent
// twice.

#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "tests/mock/worlds.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace {

using mock::add;
using mock::CallKind;
using mock::in_every_world;
using mock::malformed;
using mock::MockKernel;
using mock::numbers;
using uring::Ring;
using List = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("the SQ holds exactly `entries` SQEs, on every lap, across 2^32") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    std::uint64_t next = 0;
    for (int lap = 0; lap < 3; ++lap) {
      CHECK(ring.sq_space() == 8);
      for (unsigned i = 0; i < 8; ++i) REQUIRE(add(ring, next++));
      CHECK(ring.next_sqe() == nullptr);
      CHECK(ring.next_sqe() == nullptr);  // asking does not help
      CHECK(ring.sq_space() == 0);
      CHECK(ring.unsubmitted() == 8);
      CHECK(ring.submit() == 8);
      CHECK(ring.unsubmitted() == 0);
      CHECK(mock::harvest(ring) == numbers(next - 8, 8));
    }
    CHECK(kernel.taken_user_data() == numbers(0, 24));
    CHECK(ring.counters().sqes == 24);
    CHECK(ring.counters().batches == 3);
    CHECK(ring.counters().short_submits == 0);
  });
}

TEST_CASE("the kernel's head is looked at when the SQ looks full, and not before") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (int lap = 0; lap < 3; ++lap) {
      const std::uint32_t head = kernel.memory().sq_head();
      CHECK(ring.sq_space() == 8);
      kernel.memory().commit_sqring(head - 8);  // who looks now finds the SQ full
      for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(add(ring, i));
      kernel.memory().commit_sqring(head);
      CHECK(ring.next_sqe() == nullptr);
      CHECK(ring.submit() == 8);
      mock::harvest(ring);
    }
  });
}

TEST_CASE("slots are not tied to laps: any mix of batch sizes uses all of them") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    std::uint64_t next = 0;
    for (unsigned round = 0; round < 50; ++round) {
      const unsigned count = 1 + round % 4;
      for (unsigned i = 0; i < count; ++i) REQUIRE(add(ring, next++));
      CHECK(ring.sq_space() == 4 - count);
      REQUIRE(ring.submit() == static_cast<int>(count));
      REQUIRE(mock::harvest(ring) == numbers(next - count, count));
    }
    CHECK(kernel.taken_user_data() == numbers(0, next));
  });
}

TEST_CASE("rings of one and of two entries work for ten thousand operations") {
  for (const unsigned entries : {1U, 2U}) {
    in_every_world([&](MockKernel& kernel) {
      Ring ring({.entries = entries}, kernel.seam());
      for (std::uint64_t i = 0; i < 10'000; i += entries) {
        for (unsigned k = 0; k < entries; ++k) REQUIRE(add(ring, i + k));
        REQUIRE(ring.next_sqe() == nullptr);
        REQUIRE(ring.submit() == static_cast<int>(entries));
        REQUIRE(mock::harvest(ring) == numbers(i, entries));
      }
      CHECK(kernel.taken().size() == 10'000);
    });
  }
}

TEST_CASE("user_data is 64 bits and none of its values is special") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    const List values{0,           ~std::uint64_t{0}, 1, std::uint64_t{1} << 63, ~std::uint64_t{0} - 1,
                      0xffff'ffff, 0x1'0000'0000,     42};
    for (const std::uint64_t value : values) REQUIRE(add(ring, value));
    CHECK(ring.submit() == 8);
    CHECK(mock::harvest(ring) == values);
  });
}

TEST_CASE("the kernel sees no SQE before submit: preparing moves a private tail") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    const std::uint32_t before = kernel.memory().sq_tail();
    REQUIRE(add(ring, 1));
    REQUIRE(add(ring, 2));
    {
      auto batch = ring.batch(2);
      REQUIRE(add(batch, 3));
      REQUIRE(add(batch, 4));
      batch.commit();
    }
    CHECK(kernel.memory().sq_tail() == before);
    CHECK(ring.snapshot().private_sq_tail == before + 4);
    CHECK(ring.snapshot().sq_tail == before);
    CHECK(ring.submit() == 4);
    CHECK(kernel.memory().sq_tail() == before + 4);
  });
}

TEST_CASE("a slot that held something else before carries nothing over") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    // Three laps: the mock overwrites each slot with garbage once it has copied the SQE.
    for (std::uint64_t i = 0; i < 12; ++i) {
      io_uring_sqe* const sqe = ring.next_sqe();
      REQUIRE(sqe != nullptr);
      uring::prep::nop(*sqe, uring::Token{i});
      REQUIRE(ring.submit() == 1);
      mock::harvest(ring);
    }
    for (std::uint64_t i = 0; i < 12; ++i) {
      io_uring_sqe clean;
      std::memset(&clean, 0, sizeof clean);
      clean.opcode = IORING_OP_NOP;
      clean.fd = -1;
      clean.user_data = i;
      CHECK(std::memcmp(&kernel.taken()[i], &clean, sizeof clean) == 0);
    }
  });
}

TEST_CASE("submit with nothing prepared makes no system call") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    CHECK(ring.submit() == 0);
    REQUIRE(add(ring, 1));
    CHECK(ring.submit() == 1);
    CHECK(ring.submit() == 0);
    CHECK(kernel.enters() == 1);
  });
}

TEST_CASE("eight operations and the wait for them are one system call") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(add(ring, i));
    const uring::Waited waited = ring.submit_and_wait(8);
    CHECK(waited.submitted == 8);
    CHECK(waited.ready == 8);
    CHECK(waited.error == 0);
    CHECK(kernel.enters() == 1);
    CHECK(mock::harvest(ring) == numbers(0, 8));
    CHECK(kernel.enters() == 1);
  });
}

// --- The batch cursor --------------------------------------------------------------------------------------

TEST_CASE("an abandoned batch leaves no trace: its slots are filled anew") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    for (std::uint64_t lap = 0; lap < 5; ++lap) {
      REQUIRE(add(ring, 10 * lap));
      {
        auto batch = ring.batch(3);
        REQUIRE(static_cast<bool>(batch));
        for (int i = 0; i < 3; ++i) REQUIRE(add(batch, 666));
        CHECK(batch.next() == nullptr);
      }
      CHECK(ring.unsubmitted() == 1);
      CHECK(ring.sq_space() == 3);
      REQUIRE(add(ring, 10 * lap + 1));
      CHECK(ring.submit() == 2);
      CHECK(mock::harvest(ring) == List{10 * lap, 10 * lap + 1});
    }
    for (const std::uint64_t seen : kernel.taken_user_data()) CHECK(seen != 666);
    CHECK(kernel.taken().size() == 10);
  });
}

TEST_CASE("what was committed of a batch stays, what came after the commit goes") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    {
      auto batch = ring.batch(5);
      REQUIRE(add(batch, 1));
      REQUIRE(add(batch, 2));
      batch.commit();
      REQUIRE(add(batch, 3));
      batch.commit();
      REQUIRE(add(batch, 4));
      REQUIRE(add(batch, 5));
    }
    CHECK(ring.unsubmitted() == 3);
    REQUIRE(add(ring, 6));
    CHECK(ring.submit() == 4);
    CHECK(kernel.taken_user_data() == List{1, 2, 3, 6});
  });
}

TEST_CASE("a batch that does not fit is empty, and fits again after a submit") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (int lap = 0; lap < 3; ++lap) {
      for (std::uint64_t i = 0; i < 6; ++i) REQUIRE(add(ring, i));
      CHECK_FALSE(static_cast<bool>(ring.batch(3)));
      CHECK(static_cast<bool>(ring.batch(2)));
      CHECK(ring.unsubmitted() == 6);
      CHECK(ring.submit() == 6);
      CHECK(static_cast<bool>(ring.batch(8)));  // all of the ring
      mock::harvest(ring);
    }
    CHECK(kernel.enters() == 3);
  });
}

TEST_CASE("a batch on a full SQ is empty too") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 2}, kernel.seam());
    REQUIRE(add(ring, 1));
    REQUIRE(add(ring, 2));
    CHECK_FALSE(static_cast<bool>(ring.batch()));
    CHECK(ring.next_sqe() == nullptr);
  });
}

TEST_CASE("a chain that is prepared in a batch of its length is never split over two submits") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8, .cq_entries = 64}, kernel.seam());
    std::uint64_t chain = 0;
    for (unsigned length = 1; length <= 8; ++length) {
      for (unsigned before = 0; before < 8; ++before) {  // every place in the ring, every amount of room left
        for (unsigned i = 0; i < before; ++i) REQUIRE(add(ring, 0));
        ++chain;
        for (int attempts = 0;; ++attempts) {
          REQUIRE(attempts < 2);
          auto batch = ring.batch(length);
          if (!batch) {
            REQUIRE(ring.submit() > 0);
            continue;
          }
          for (unsigned i = 0; i < length; ++i) REQUIRE(add(batch, chain));
          batch.commit();
          break;
        }
        REQUIRE(ring.submit() >= static_cast<int>(length));
        mock::harvest_all(ring);
      }
    }
    std::vector<unsigned> enter_of(chain + 1, 0);
    for (std::size_t i = 0; i < kernel.taken().size(); ++i) {
      const std::uint64_t name = kernel.taken()[i].user_data;
      if (name == 0) continue;
      if (enter_of[name] == 0) enter_of[name] = kernel.taken_by(i);
      CHECK(enter_of[name] == kernel.taken_by(i));
    }
    CHECK(chain == 64);
  });
}

// --- Short submits -----------------------------------------------------------------------------------------

TEST_CASE(
    "without SUBMIT_ALL a malformed SQE ends the submission, and the next one sends the rest in order") {
  in_every_world(mock::linux_5_11, [](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE((ring.setup_flags() & IORING_SETUP_SUBMIT_ALL) == 0);
    for (std::uint64_t i = 0; i < 8; ++i)
      REQUIRE(add(ring, i, i == 2 ? malformed : std::uint8_t{IORING_OP_NOP}));
    CHECK(ring.submit() == 3);  // the bad one included
    CHECK(ring.unsubmitted() == 5);
    CHECK(ring.sq_space() == 3);
    CHECK(ring.counters().short_submits == 1);
    for (std::uint64_t i = 8; i < 11; ++i) REQUIRE(add(ring, i));
    CHECK(ring.next_sqe() == nullptr);
    CHECK(ring.submit() == 8);
    CHECK(ring.unsubmitted() == 0);
    CHECK(kernel.taken_user_data() == numbers(0, 11));
    int bad = 0;
    const int handled = ring.harvest([&](const io_uring_cqe& cqe) {
      CHECK(cqe.res == (cqe.user_data == 2 ? -EINVAL : 0));
      bad += cqe.res == -EINVAL;
    });
    CHECK(handled == 11);
    CHECK(bad == 1);
    CHECK(ring.counters().sqes == 11);
    CHECK(ring.counters().short_submits == 1);
  });
}

TEST_CASE("a short submit that is not followed by new SQEs is finished by the next submit all the same") {
  in_every_world(mock::linux_5_11, [](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    for (int lap = 0; lap < 4; ++lap) {
      REQUIRE(add(ring, 0, malformed));
      REQUIRE(add(ring, 1, malformed));
      REQUIRE(add(ring, 2));
      CHECK(ring.submit() == 1);
      CHECK(ring.submit() == 1);
      CHECK(ring.submit() == 1);
      CHECK(ring.submit() == 0);
      CHECK(mock::harvest(ring) == List{0, 1, 2});
    }
    CHECK(kernel.enters() == 12);
  });
}

TEST_CASE("with SUBMIT_ALL a malformed SQE holds up nobody, and still has its CQE") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    for (std::uint64_t i = 0; i < 8; ++i)
      REQUIRE(add(ring, i, i % 3 == 0 ? malformed : std::uint8_t{IORING_OP_NOP}));
    CHECK(ring.submit() == 8);
    CHECK(ring.counters().short_submits == 0);
    CHECK(kernel.enters() == 1);
    const int handled = ring.harvest(
        [&](const io_uring_cqe& cqe) { CHECK(cqe.res == (cqe.user_data % 3 == 0 ? -EINVAL : 0)); });
    CHECK(handled == 8);
  });
}

TEST_CASE("the kernel runs out of memory after K of N SQEs: the other N - K go with the next submit") {
  for (unsigned taken = 1; taken < 8; ++taken) {
    in_every_world([&](MockKernel& kernel) {
      Ring ring({.entries = 8}, kernel.seam());
      for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(add(ring, i));
      kernel.short_submit_next(taken);
      CHECK(ring.submit() == static_cast<int>(taken));
      CHECK(ring.unsubmitted() == 8 - taken);
      CHECK(ring.submit() == static_cast<int>(8 - taken));
      CHECK(kernel.taken_user_data() == numbers(0, 8));
      CHECK(mock::harvest(ring) == numbers(0, 8));
    });
  }
}

// --- Errors of enter ---------------------------------------------------------------------------------------

TEST_CASE("an error of submit loses nothing: what was offered is offered again") {
  for (const int error : {EAGAIN, EBUSY, ENXIO, ENOMEM}) {
    in_every_world([&](MockKernel& kernel) {
      Ring ring({.entries = 4}, kernel.seam());
      for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(add(ring, i));
      for (int again = 0; again < 3; ++again) {
        kernel.fail_next(CallKind::enter, -error);
        CHECK(ring.submit() == -error);
        CHECK(ring.unsubmitted() == 3);
      }
      REQUIRE(add(ring, 3));
      CHECK(ring.next_sqe() == nullptr);
      CHECK(ring.submit() == 4);
      CHECK(kernel.taken_user_data() == numbers(0, 4));
      CHECK(ring.counters().sqes == 4);
    });
  }
}

TEST_CASE("no memory for even one request is EAGAIN, and nothing was taken") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    REQUIRE(add(ring, 1));
    kernel.short_submit_next(0);
    CHECK(ring.submit() == -EAGAIN);
    CHECK(ring.submit() == 1);
  });
}

TEST_CASE("submit retries EINTR itself, with the same SQEs") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    REQUIRE(add(ring, 1));
    REQUIRE(add(ring, 2));
    for (unsigned nth = 1; nth <= 3; ++nth) kernel.fail(CallKind::enter, nth, -EINTR);
    CHECK(ring.submit() == 2);
    CHECK(kernel.enters() == 4);
    CHECK(kernel.last_call().to_submit == 2);
    CHECK(kernel.taken_user_data() == List{1, 2});
    CHECK(ring.counters().sqes == 2);
  });
}

TEST_CASE("a retry after EINTR may be short or fail, like any submit") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 4}, kernel.seam());
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(add(ring, i));
    kernel.fail(CallKind::enter, 1, -EINTR);
    kernel.short_submit(2, 3);
    CHECK(ring.submit() == 3);
    kernel.fail(CallKind::enter, 3, -EINTR);
    kernel.fail(CallKind::enter, 4, -EBUSY);
    CHECK(ring.submit() == -EBUSY);
    CHECK(ring.submit() == 1);
    CHECK(kernel.taken_user_data() == numbers(0, 4));
  });
}

// The unlucky kernel: whatever goes wrong, at whichever call, each SQE is taken once and in order, and each
// CQE is seen.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <random>
#include <stdexcept>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "tests/mock/worlds.hpp"
#include "uring/ring.hpp"

namespace {

using mock::add;
using mock::CallKind;
using mock::in_every_world;
using mock::MockKernel;
using mock::numbers;
using uring::Ring;
using List = std::vector<std::uint64_t>;

// A program that does what a ring's user does: three laps and more over a small ring by next_sqe and by
// batches, some SQEs malformed, with and without waiting. It answers an error by harvesting and trying again.
class Program {
 public:
  explicit Program(MockKernel& kernel) : kernel_(kernel) {}

  void run() {
    for (unsigned round = 0; round < 12; ++round) {
      prepare_singly(1 + round % 3);
      prepare_batch(1 + round % 2);
      if (round % 2 == 0) {
        submit();
      } else {
        submit_and_wait(1 + round % 4);
      }
      if (round % 3 == 0) harvest();
    }
    for (int again = 0; again < 100 && ring_.unsubmitted() != 0; ++again) submit();
    for (int again = 0; again < 100 && seen_.size() < next_; ++again) harvest();
  }

  void check() const {
    CHECK(kernel_.taken_user_data() == numbers(0, next_));
    CHECK(seen_ == numbers(0, next_));
    CHECK(ring_.counters().sqes == next_);
    CHECK(ring_.counters().cqes == next_);
  }

 private:
  std::uint8_t opcode() const { return next_ % 5 == 3 ? mock::malformed : std::uint8_t{IORING_OP_NOP}; }

  void prepare_singly(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      while (!add(ring_, next_, opcode())) submit();
      ++next_;
    }
  }

  void prepare_batch(unsigned count) {
    for (;;) {
      auto batch = ring_.batch(count);
      if (!batch) {
        submit();
        continue;
      }
      for (unsigned i = 0; i < count; ++i, ++next_) add(batch, next_, opcode());
      batch.commit();
      add(batch, 666);  // and one that is not meant
      return;
    }
  }

  void submit() {
    REQUIRE(++attempts_ < 200);
    if (ring_.submit() < 0) harvest();
  }

  void submit_and_wait(unsigned want) {
    REQUIRE(++attempts_ < 200);
    want = std::min(want,
                    static_cast<unsigned>(next_ - seen_.size()));  // every operation is a NOP: they will come
    const uring::Waited waited = ring_.submit_and_wait(want);
    CHECK(waited.ready == ring_.ready());
    if (waited.error == 0) CHECK(waited.ready >= want);
  }

  void harvest() {
    ring_.harvest([this](const io_uring_cqe& cqe) { seen_.push_back(cqe.user_data); });
  }

  MockKernel& kernel_;
  Ring ring_{{.entries = 4, .cq_entries = 4}, kernel_.seam()};
  std::uint64_t next_ = 0;
  List seen_;
  int attempts_ = 0;
};

// `plan(kernel, position)` for every position at which the lucky program enters, and two more.
template <class Plan>
void at_every_enter(Plan plan) {
  for (const mock::Version& version : {mock::linux_6_18, mock::linux_6_0, mock::linux_5_11}) {
    unsigned enters = 0;
    in_every_world(version, [&](MockKernel& kernel) {
      Program lucky(kernel);
      lucky.run();
      lucky.check();
      enters = kernel.enters();
    });
    REQUIRE(enters > 12);
    for (unsigned position = 1; position <= enters + 2; ++position) {
      CAPTURE(position);
      in_every_world(version, [&](MockKernel& kernel) {
        plan(kernel, position);
        Program unlucky(kernel);
        unlucky.run();
        unlucky.check();
      });
    }
  }
}

}  // namespace

TEST_CASE("EINTR, EAGAIN or EBUSY at any call of enter: nothing is lost, nothing is sent twice") {
  for (const int error : {EINTR, EAGAIN, EBUSY}) {
    CAPTURE(error);
    at_every_enter(
        [=](MockKernel& kernel, unsigned position) { kernel.fail(CallKind::enter, position, -error); });
  }
}

TEST_CASE("errors at two calls in a row are no worse") {
  at_every_enter([](MockKernel& kernel, unsigned position) {
    kernel.fail(CallKind::enter, position, -EINTR);
    kernel.fail(CallKind::enter, position + 1, -EAGAIN);
  });
}

TEST_CASE("a short submit at any call of enter: the rest follows, in order") {
  for (const unsigned sqes : {0U, 1U, 2U}) {
    CAPTURE(sqes);
    at_every_enter([=](MockKernel& kernel, unsigned position) { kernel.short_submit(position, sqes); });
  }
}

// --- Torture -----------------------------------------------------------------------------------------------

namespace {

// Random preparing, submitting, abandoning, harvesting, completing, failing; after each step the ring's story
// must be the kernel's.
class Torture {
 public:
  Torture(MockKernel& kernel, unsigned seed) : kernel_(kernel), random_(seed) {
    kernel_.on_sleep = [this] { return sleep(); };
  }

  void run(int steps) {
    for (int step = 0; step < steps; ++step) {
      one_step();
      compare();
    }
    settle();
  }

 private:
  unsigned roll(unsigned sides) { return std::uniform_int_distribution<unsigned>(0, sides - 1)(random_); }

  void one_step() {
    switch (roll(7)) {
      case 0:
        return prepare_singly(1 + roll(4));
      case 1:
        return prepare_batch(1 + roll(4));
      case 2:
        return submit();
      case 3:
        return submit_and_wait();
      case 4:
        return harvest();
      default:
        return complete_one();
    }
  }

  template <class To>
  bool add_random(To& to) {
    const unsigned kind = roll(8);
    const std::uint8_t opcode = kind == 0  ? mock::malformed
                                : kind < 4 ? mock::pending
                                           : std::uint8_t{IORING_OP_NOP};
    if (!add(to, next_, opcode)) return false;
    ++next_;
    return true;
  }

  void prepare_singly(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      const unsigned space = ring_.sq_space();
      REQUIRE(add_random(ring_) == (space != 0));
    }
  }

  void prepare_batch(unsigned count) {
    const unsigned space = ring_.sq_space();
    auto batch = ring_.batch(count);
    REQUIRE(static_cast<bool>(batch) == (space >= count));
    if (!batch) return;
    const unsigned commits = roll(count + 1);
    for (unsigned i = 0; i < commits; ++i) REQUIRE(add_random(batch));
    if (commits != 0) batch.commit();
    for (unsigned i = commits; i < count; ++i) REQUIRE(add(batch, 666));
  }

  void plan_a_fault() {
    const unsigned nth = kernel_.enters() + 1 + roll(2);
    switch (roll(8)) {
      case 0:
        return kernel_.fail(CallKind::enter, nth, -EINTR);
      case 1:
        return kernel_.fail(CallKind::enter, nth, -EAGAIN);
      case 2:
        return kernel_.fail(CallKind::enter, nth, -EBUSY);
      case 3:
        return kernel_.short_submit(nth, roll(4));
      default:
        return;
    }
  }

  void submit() {
    plan_a_fault();
    const std::size_t before = kernel_.taken().size();
    const int result = ring_.submit();
    CHECK(result == (result < 0 ? result : static_cast<int>(kernel_.taken().size() - before)));
    if (result < 0) CHECK(kernel_.taken().size() == before);
  }

  void submit_and_wait() {
    plan_a_fault();
    const std::size_t before = kernel_.taken().size();
    // Not more than there is to come, or nothing would ever wake us.
    const unsigned want = std::min(roll(12), static_cast<unsigned>(next_ - seen_.size()));
    const bool for_ever = roll(2) == 0;
    const uring::Waited waited =
        ring_.submit_and_wait(want, for_ever ? uring::forever : std::chrono::nanoseconds(roll(50'000)));
    CHECK(waited.submitted == kernel_.taken().size() - before);
    CHECK(waited.ready == kernel_.posted().size() - seen_.size());
    if (waited.error == 0 && for_ever) {
      CHECK(waited.ready >= std::min(want, ring_.cq_entries()));
      CHECK(ring_.unsubmitted() == 0);
    }
    if (waited.error == -ETIME) CHECK(waited.ready < want);
  }

  mock::Wake sleep() {
    switch (roll(4)) {
      case 0:
        return mock::Wake::signal;
      case 1:
        return kernel_.last_call().timed ? mock::Wake::timeout : mock::Wake::signal;
      default:
        break;
    }
    complete_one();
    return mock::Wake::look_again;
  }

  void complete_one() {
    if (const auto some = kernel_.any_in_flight(roll(1000))) kernel_.complete(*some, 0);
  }

  void harvest() {
    const unsigned how = roll(3);
    unsigned left = roll(6);
    try {
      ring_.harvest([&](const io_uring_cqe& cqe) {
        seen_.push_back({cqe.user_data, cqe.res, cqe.flags});
        if (roll(3) == 0) add_random(ring_);
        if (how == 1 && left == 0) throw std::runtime_error("enough");
        return how != 2 || left-- != 0;
      });
    } catch (const std::runtime_error&) {
    }
  }

  void compare() {
    // What the kernel took is what was prepared, from the first on and without a gap.
    REQUIRE(kernel_.taken().size() + ring_.unsubmitted() == next_);
    for (; compared_ < kernel_.taken().size(); ++compared_)
      REQUIRE(kernel_.taken()[compared_].user_data == compared_);
    // What was seen is what was posted, from the first on and without a gap.
    REQUIRE(seen_.size() <= kernel_.posted().size());
    for (; compared_cqes_ < seen_.size(); ++compared_cqes_) {
      REQUIRE(seen_[compared_cqes_] == kernel_.posted()[compared_cqes_]);
    }
  }

  void settle() {
    for (int again = 0; again < 1000 && ring_.unsubmitted() != 0; ++again) ring_.submit();
    while (kernel_.in_flight() != 0) complete_one();
    for (int again = 0; again < 10'000 && ring_.pending(); ++again) harvest();
    for (int again = 0; again < 1000 && ring_.unsubmitted() != 0; ++again) ring_.submit();
    while (kernel_.in_flight() != 0) complete_one();
    for (int again = 0; again < 1000 && ring_.pending(); ++again) {
      ring_.harvest([&](const io_uring_cqe& cqe) { seen_.push_back({cqe.user_data, cqe.res, cqe.flags}); });
    }
    compare();
    List names;
    for (const MockKernel::Cqe& cqe : seen_) names.push_back(cqe.user_data);
    std::sort(names.begin(), names.end());
    CHECK(names == numbers(0, next_));
    CHECK(ring_.counters().sqes == next_);
    CHECK(ring_.counters().cqes == next_);
    CHECK(ring_.counters().enters == kernel_.enters());
  }

  MockKernel& kernel_;
  std::mt19937 random_;
  Ring ring_{{.entries = 8, .cq_entries = 8}, kernel_.seam()};
  std::uint64_t next_ = 0;
  std::vector<MockKernel::Cqe> seen_;
  std::size_t compared_ = 0;
  std::size_t compared_cqes_ = 0;
};

}  // namespace

TEST_CASE(
    "torture: any mix of preparing, submitting, abandoning, waiting, harvesting and misfortune tells one "
    "story") {
  unsigned seed = 1;
  for (const mock::Version& version :
       {mock::linux_6_18, mock::linux_5_19, mock::linux_5_18, mock::linux_5_11}) {
    in_every_world(version, [&](MockKernel& kernel) {
      CAPTURE(seed);
      Torture(kernel, seed++).run(3000);
    });
  }
}

// Is the mock kernel like the real one? Each script below runs on both, and what it observed must be the
// same.
//
// The scripts call the seam directly, so that what is compared is the kernel and not what the ring makes of
// it. What they show is worth knowing by itself: it is why submit_and_wait counts again after every wait.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "tests/mock/worlds.hpp"
#include "tests/support/skip.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace {

using uring::Ring;
using Observed = std::vector<std::int64_t>;

// A kernel, and operations on it that complete when the script says so.
class World {
 public:
  virtual ~World() = default;
  virtual uring::Kernel seam() = 0;
  /// Prepares an operation that ends with res = 1 behind complete(). `number` is below `operations`.
  virtual void prepare_pending(Ring& ring, unsigned number) = 0;
  virtual void complete(unsigned number) = 0;
  static constexpr unsigned operations = 64;
};

class MockWorld : public World {
 public:
  uring::Kernel seam() override { return kernel_.seam(); }
  void prepare_pending(Ring& ring, unsigned number) override {
    REQUIRE(mock::add(ring, number, mock::pending));
  }
  void complete(unsigned number) override { REQUIRE(kernel_.complete(number, 1)); }

 private:
  mock::MockKernel kernel_;
};

// Reads of one byte out of empty pipes.
class RealWorld : public World {
 public:
  RealWorld() {
    for (auto& pipe : pipes_) {
      std::array<int, 2> ends{};
      REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
      pipe.first.reset(ends[0]);
      pipe.second.reset(ends[1]);
    }
  }
  uring::Kernel seam() override { return uring::real_kernel; }
  void prepare_pending(Ring& ring, unsigned number) override {
    io_uring_sqe* const sqe = ring.next_sqe();
    REQUIRE(sqe != nullptr);
    uring::prep::read(*sqe, pipes_[number].first.get(), &bytes_[number], 1, 0, uring::Token{number});
  }
  void complete(unsigned number) override { REQUIRE(::write(pipes_[number].second.get(), "x", 1) == 1); }

 private:
  std::array<std::pair<uring::FileDescriptor, uring::FileDescriptor>, operations> pipes_;
  std::array<char, operations> bytes_{};
};

// Publishes what was prepared, by a submit that the kernel never sees.
uring::Kernel deaf(uring::Kernel kernel) {
  kernel.enter = [](void*, int, unsigned, unsigned, unsigned, const uring::abi::getevents_arg*) {
    return -EBUSY;
  };
  return kernel;
}

// A ring whose SQEs are published by publish() and entered by enter() only.
class BareRing {
 public:
  BareRing(World& world, const uring::RingOptions& options)
      : kernel_(world.seam()), ring_(options, deaf(world.seam())) {}

  Ring& ring() { return ring_; }
  void publish() { ring_.submit(); }
  int enter(unsigned to_submit, unsigned min_complete, unsigned flags,
            const uring::abi::getevents_arg* argument = nullptr) {
    return kernel_.enter(kernel_.self, ring_.fd(), to_submit, min_complete, flags, argument);
  }
  int wait(unsigned to_submit, unsigned min_complete, long milliseconds, std::uint32_t min_wait_usec = 0) {
    const __kernel_timespec time{.tv_sec = 0, .tv_nsec = milliseconds * 1'000'000};
    uring::abi::getevents_arg argument{};
    if (milliseconds >= 0) argument.ts = reinterpret_cast<std::uint64_t>(&time);
    argument.min_wait_usec = min_wait_usec;
    return enter(to_submit, min_complete, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument);
  }
  int register_(unsigned opcode, void* argument, unsigned count) {
    return kernel_.register_(kernel_.self, ring_.fd(), opcode, argument, count);
  }
  /// What both sides see: ready CQEs, SQEs not taken, the SQ flags, lost CQEs.
  void look(Observed& seen) {
    const uring::RingSnapshot now = ring_.snapshot();
    seen.insert(seen.end(),
                {ring_.ready(), ring_.unsubmitted(), now.sq_flags, now.cq_overflow, now.sq_dropped});
  }
  /// Takes what is in the CQ, without any call.
  void take(Observed& seen) {
    while (ring_.ready() != 0) {
      ring_.harvest([&](const io_uring_cqe& cqe) {
        seen.insert(seen.end(), {static_cast<std::int64_t>(cqe.user_data), cqe.res, cqe.flags});
      });
    }
  }

 private:
  uring::Kernel kernel_;
  Ring ring_;
};

std::string text(const Observed& observed) {
  std::string all;
  for (const std::int64_t value : observed) all += std::to_string(value) + ' ';
  return all;
}

template <class Script>
void same_on_both(Script script) {
  MockWorld mock;
  RealWorld real;
  const std::string on_mock = text(script(mock));
  const std::string on_real = text(script(real));
  CHECK(on_mock == on_real);
}

constexpr uring::RingOptions eight{.entries = 8, .flags = 0, .register_ring_fd = false};
constexpr uring::RingOptions eight_all{
    .entries = 8, .flags = IORING_SETUP_SUBMIT_ALL, .register_ring_fd = false};
constexpr uring::RingOptions deferred{.entries = 64,
                                      .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
                                      .register_ring_fd = false};

// The oldest kernel that these comparisons were made for has this.
bool is_new_enough() {
  try {
    return (Ring({.entries = 1}).features() & uring::abi::feat_no_iowait) != 0;
  } catch (const uring::SetupError&) {
    return false;
  }
}

constexpr const char* new_enough = "what the mock plays is Linux 6.15 and newer";

}  // namespace

TEST_CASE("both kernels: a malformed SQE ends a submission, the count includes it, and nobody waits") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  for (const uring::RingOptions& options : {eight, eight_all}) {
    same_on_both([&](World& world) {
      Observed seen;
      BareRing bare(world, options);
      for (std::uint64_t i = 0; i < 5; ++i)
        mock::add(bare.ring(), i, i == 1 ? mock::malformed : std::uint8_t{IORING_OP_NOP});
      bare.publish();
      seen.push_back(bare.enter(5, 5, IORING_ENTER_GETEVENTS));
      bare.look(seen);
      seen.push_back(bare.enter(bare.ring().unsubmitted(), 0, 0));
      bare.look(seen);
      bare.take(seen);
      return seen;
    });
  }
}

TEST_CASE("both kernels: only what is published is taken, and only as much as was said") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, eight);
    for (std::uint64_t i = 0; i < 6; ++i) mock::add(bare.ring(), i);
    seen.push_back(bare.enter(6, 0, 0));  // not published
    bare.publish();
    seen.push_back(bare.enter(2, 0, 0));
    bare.look(seen);
    seen.push_back(bare.enter(100, 1, IORING_ENTER_GETEVENTS));
    bare.look(seen);
    bare.take(seen);
    return seen;
  });
}

TEST_CASE("both kernels: a wait answers with the SQE count, else 0 if anything is there, else the error") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, eight);
    seen.push_back(bare.wait(0, 1, 2));  // nothing submitted, nothing there: -ETIME
    world.prepare_pending(bare.ring(), 0);
    bare.publish();
    seen.push_back(bare.wait(1, 1, 2));  // timed out as well, and says 1
    bare.look(seen);
    mock::add(bare.ring(), 7);
    bare.publish();
    seen.push_back(bare.wait(1, 2, 2));  // 1 of 2
    seen.push_back(bare.wait(0, 2, 2));  // timed out with 1 of 2 there, and says 0
    bare.look(seen);
    bare.take(seen);
    world.complete(0);
    seen.push_back(bare.wait(0, 1, 1000));
    bare.take(seen);
    return seen;
  });
}

TEST_CASE("both kernels: min_wait over, one completion is enough; with no time-out behind it, even none") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, eight);
    mock::add(bare.ring(), 7);
    bare.publish();
    seen.push_back(bare.wait(1, 4, 900, 2000));
    seen.push_back(bare.wait(0, 4, 900, 2000));
    bare.look(seen);
    bare.take(seen);
    seen.push_back(bare.wait(0, 4, -1, 2000));
    return seen;
  });
}

TEST_CASE("both kernels: an overflowing CQ keeps the rest in order; only GETEVENTS brings it, flag and all") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, {.entries = 4, .cq_entries = 4, .flags = 0, .register_ring_fd = false});
    for (std::uint64_t i = 0; i < 12; ++i) {
      mock::add(bare.ring(), i);
      bare.publish();
      seen.push_back(bare.enter(1, 0, 0));
    }
    bare.look(seen);
    bare.take(seen);
    bare.look(seen);
    mock::add(bare.ring(), 12);
    bare.publish();
    seen.push_back(bare.enter(1, 0, 0));  // a submit alone flushes nothing, and its CQE queues up
    bare.look(seen);
    for (int turn = 0; turn < 4; ++turn) {
      seen.push_back(bare.enter(0, 0, IORING_ENTER_GETEVENTS));
      bare.look(seen);
      bare.take(seen);
    }
    return seen;
  });
}

TEST_CASE(
    "both kernels: DEFER_TASKRUN posts at GETEVENTS only, twenty at a time, and says that there is more") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, deferred);
    for (unsigned i = 0; i < 50; ++i) world.prepare_pending(bare.ring(), i);
    bare.publish();
    seen.push_back(bare.enter(50, 0, 0));
    for (unsigned i = 0; i < 50; ++i) world.complete(i);
    bare.look(seen);
    mock::add(bare.ring(), 99);
    bare.publish();
    seen.push_back(bare.enter(1, 0, 0));  // posts its own, which is done at once, and nothing else
    bare.look(seen);
    for (int turn = 0; turn < 4; ++turn) {
      seen.push_back(bare.enter(0, 0, IORING_ENTER_GETEVENTS));
      bare.look(seen);
    }
    bare.take(seen);
    return seen;
  });
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, deferred);
    for (unsigned i = 0; i < 50; ++i) world.prepare_pending(bare.ring(), i);
    bare.publish();
    seen.push_back(bare.enter(50, 0, 0));
    for (unsigned i = 0; i < 50; ++i) world.complete(i);
    seen.push_back(bare.enter(0, 45, IORING_ENTER_GETEVENTS));  // or as many as are waited for
    bare.look(seen);
    return seen;
  });
}

TEST_CASE("both kernels: sizes and flags that setup takes, and what it makes of them") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  constexpr std::uint32_t size = IORING_SETUP_CQSIZE;
  constexpr std::uint32_t clamp = IORING_SETUP_CLAMP;
  struct Row {
    unsigned entries;
    std::uint32_t flags;
    std::uint32_t cq_entries;
  };
  const std::vector<Row> rows{
      {0, 0, 0},
      {1, 0, 0},
      {3, 0, 0},
      {32769, 0, 0},
      {32769, clamp, 0},
      {8, 0, 4096},
      {8, size, 4096},
      {8, size, 0},
      {8, size, 4},
      {9, size, 9},
      {8, size, 65537},
      {8, size | clamp, 65537},
      {8, 1U << 31, 0},
      {8, IORING_SETUP_TASKRUN_FLAG, 0},
      {8, IORING_SETUP_DEFER_TASKRUN, 0},
      {8, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0},
      {8, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0},
      {8, IORING_SETUP_SQ_AFF, 0},
      {8, IORING_SETUP_SQPOLL | IORING_SETUP_COOP_TASKRUN, 0},
      {8, uring::abi::setup_no_sqarray, 0}};
  same_on_both([&](World& world) {
    Observed seen;
    const uring::Kernel kernel = world.seam();
    for (const Row& row : rows) {
      io_uring_params params{};
      params.flags = row.flags;
      params.cq_entries = row.cq_entries;
      const uring::FileDescriptor fd(kernel.setup(kernel.self, row.entries, &params));
      seen.push_back(fd ? 0 : fd.get());
      if (fd) seen.insert(seen.end(), {params.sq_entries, params.cq_entries, params.flags});
    }
    return seen;
  });
}

TEST_CASE("both kernels: the usual layout of the words") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  for (const std::uint32_t flags : {std::uint32_t{0}, uring::abi::setup_no_sqarray}) {
    same_on_both([&](World& world) {
      const uring::Kernel kernel = world.seam();
      io_uring_params params{};
      params.flags = flags;
      const uring::FileDescriptor fd(kernel.setup(kernel.self, 5, &params));
      const io_sqring_offsets& sq = params.sq_off;
      const io_cqring_offsets& cq = params.cq_off;
      return Observed{sq.head, sq.tail, sq.ring_mask, sq.ring_entries, sq.flags,    sq.dropped, sq.array,
                      cq.head, cq.tail, cq.ring_mask, cq.ring_entries, cq.overflow, cq.cqes,    cq.flags};
    });
  }
}

TEST_CASE("both kernels: errors that need no bad luck") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, {.entries = 8, .flags = IORING_SETUP_R_DISABLED, .register_ring_fd = false});
    mock::add(bare.ring(), 1);
    bare.publish();
    seen.push_back(bare.enter(1, 0, 0));  // disabled
    seen.push_back(bare.register_(IORING_REGISTER_ENABLE_RINGS, nullptr, 1));
    seen.push_back(bare.register_(IORING_REGISTER_ENABLE_RINGS, nullptr, 0));
    seen.push_back(bare.register_(IORING_REGISTER_ENABLE_RINGS, nullptr, 0));
    seen.push_back(bare.enter(1, 0, 1U << 31));
    seen.push_back(bare.enter(0, 0, IORING_ENTER_EXT_ARG | IORING_ENTER_GETEVENTS));  // without the argument
    seen.push_back(bare.enter(1, 0, IORING_ENTER_EXT_ARG | IORING_ENTER_GETEVENTS));  // too late to matter
    seen.push_back(bare.register_(999, nullptr, 0));
    io_uring_rsrc_update update{};
    update.offset = ~0U;
    update.data = static_cast<__u64>(bare.ring().fd());
    seen.push_back(bare.register_(IORING_REGISTER_RING_FDS, &update, 1));
    update.data = 0;
    seen.push_back(bare.register_(IORING_UNREGISTER_RING_FDS, &update, 1));
    const uring::Kernel kernel = world.seam();
    for (const int fd : {-1, 9999}) {
      seen.push_back(kernel.enter(kernel.self, fd, 1, 0, 0, nullptr));
      seen.push_back(kernel.register_(kernel.self, fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0));
    }
    for (const int index : {15, 16, -1}) {
      seen.push_back(kernel.enter(kernel.self, index, 1, 0, IORING_ENTER_REGISTERED_RING, nullptr));
    }
    seen.push_back(bare.enter(1, 0, 0));
    bare.take(seen);
    return seen;
  });
}

TEST_CASE("both kernels: a probe lists as many opcodes as there was room for") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    BareRing bare(world, eight);
    constexpr std::size_t room = 8;
    alignas(io_uring_probe) std::array<std::byte, sizeof(io_uring_probe) + room * sizeof(io_uring_probe_op)>
        memory{};
    auto* const probe = reinterpret_cast<io_uring_probe*>(memory.data());
    seen.push_back(bare.register_(IORING_REGISTER_PROBE, probe, room));
    seen.push_back(probe->ops_len);
    const auto* const ops =
        reinterpret_cast<const io_uring_probe_op*>(memory.data() + sizeof(io_uring_probe));
    for (std::size_t i = 0; i < room; ++i) seen.insert(seen.end(), {ops[i].op, ops[i].flags});
    return seen;
  });
}

TEST_CASE("both kernels: an index in the SQ array that is out of range is dropped, counted, and has no CQE") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(is_new_enough(), new_enough);
  same_on_both([](World& world) {
    Observed seen;
    const uring::Kernel kernel = world.seam();
    uring::RingMemory memory = uring::create_ring(eight_all, false, kernel);
    auto* const array = reinterpret_cast<std::uint32_t*>(memory.rings.data() + memory.params.sq_off.array);
    for (std::uint32_t slot = 0; slot < 3; ++slot) {
      uring::prep::nop(memory.sqes[slot], uring::Token{slot});
    }
    array[1] = 1000;
    uring::publish_sq_tail(memory.words, 3);
    for (int turn = 0; turn < 3; ++turn) {
      const unsigned left = 3 - uring::load_sq_head(memory.words);
      seen.push_back(kernel.enter(kernel.self, memory.fd.get(), left, 0, IORING_ENTER_GETEVENTS, nullptr));
      seen.insert(seen.end(), {uring::load_sq_head(memory.words), uring::load_sq_dropped(memory.words),
                               uring::load_cq_tail(memory.words)});
    }
    return seen;
  });
}

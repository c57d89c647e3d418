// How a ring comes into being, on kernels that know less, lie elsewhere, or fail half-way.

#include <doctest/doctest.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "tests/mock/worlds.hpp"
#include "uring/ring.hpp"

namespace {

using mock::CallKind;
using mock::in_every_world;
using mock::MockKernel;
using uring::Ring;

// What the constructor says when it fails: the errno and the sentence. {0, ""} if it does not fail.
struct Failure {
  int error = 0;
  std::string text;
};

template <class AnyRing = Ring>
Failure failure_of(const uring::RingOptions& options, MockKernel& kernel) {
  try {
    AnyRing ring(options, kernel.seam());
  } catch (const std::system_error& error) {
    return {error.code().value(), error.what()};
  }
  return {};
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

std::vector<std::uint32_t> flags_tried(const MockKernel& kernel) {
  std::vector<std::uint32_t> tried;
  for (const mock::Call& call : kernel.calls()) {
    if (call.kind == CallKind::setup) tried.push_back(call.flags);
  }
  return tried;
}

// A ring that can do one round trip: the words were found where they are.
void check_it_works(Ring& ring) {
  for (std::uint64_t i = 0; i < 3 * ring.sq_entries(); ++i) {
    REQUIRE(mock::add(ring, i));
    REQUIRE(ring.submit() == 1);
    REQUIRE(mock::harvest(ring) == std::vector<std::uint64_t>{i});
  }
}

}  // namespace

TEST_CASE("the newest kernel gets all default flags, at the first attempt") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    CHECK(flags_tried(kernel) == std::vector<std::uint32_t>{uring::default_setup_flags});
    CHECK(ring.setup_flags() == uring::default_setup_flags);
    CHECK(ring.dropped_setup_flags() == 0);
    CHECK(ring.features() == mock::linux_6_18.features);
    CHECK(ring.ring_fd_registered());
    check_it_works(ring);
  });
}

TEST_CASE("an older kernel drops the newest flags first, one rung at a time, and the ring says what it got") {
  constexpr std::uint32_t single = IORING_SETUP_SINGLE_ISSUER;
  constexpr std::uint32_t defer = IORING_SETUP_DEFER_TASKRUN;
  constexpr std::uint32_t coop = IORING_SETUP_COOP_TASKRUN;
  constexpr std::uint32_t taskrun = IORING_SETUP_TASKRUN_FLAG;
  constexpr std::uint32_t all = IORING_SETUP_SUBMIT_ALL;
  constexpr std::uint32_t no_array = uring::abi::setup_no_sqarray;
  constexpr std::uint32_t sizes = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  const std::array<std::uint32_t, 6> ladder{
      sizes | all | taskrun | single | defer | no_array,  // 6.6
      sizes | all | taskrun | single | defer,             // 6.1
      sizes | all | taskrun | single | coop,              // 6.0
      sizes | all | taskrun | coop,                       // 5.19
      sizes | all,                                        // 5.18
      sizes,                                              // 5.11
  };
  struct Step {
    mock::Version version;
    std::size_t rungs;
    std::uint32_t dropped;
  };
  const std::array<Step, 6> steps{
      Step{mock::linux_6_6, 1, 0},
      Step{mock::linux_6_1, 2, no_array},
      Step{mock::linux_6_0, 3, no_array | defer},
      Step{mock::linux_5_19, 4, no_array | defer | single},
      Step{mock::linux_5_18, 5, no_array | defer | single | taskrun},
      Step{mock::linux_5_11, 6, no_array | defer | single | taskrun | all},
  };
  for (const Step& step : steps) {
    in_every_world(step.version, [&](MockKernel& kernel) {
      Ring ring({.entries = 4}, kernel.seam());
      CHECK(flags_tried(kernel) ==
            std::vector(ladder.begin(), ladder.begin() + static_cast<long>(step.rungs)));
      CHECK(ring.setup_flags() == ladder[step.rungs - 1]);
      CHECK(ring.dropped_setup_flags() == step.dropped);
      check_it_works(ring);
    });
  }
}

TEST_CASE("each rung of the ladder asks for the same sizes, with nothing left over from the one before") {
  MockKernel kernel({.version = mock::linux_5_11});
  Ring ring({.entries = 3, .cq_entries = 17}, kernel.seam());
  REQUIRE(kernel.count(CallKind::setup) == 6);
  for (const mock::Call& call : kernel.calls()) {
    if (call.kind != CallKind::setup) continue;
    CHECK(call.entries == 3);
    CHECK(call.params.cq_entries == 17);
    CHECK(call.params.sq_entries == 0);
    CHECK(call.params.features == 0);
    CHECK(call.params.sq_off.array == 0);
  }
  CHECK(ring.sq_entries() == 4);
  CHECK(ring.cq_entries() == 32);
}

TEST_CASE("SQPOLL climbs down the same ladder and stays SQPOLL") {
  in_every_world(mock::linux_5_11, [](MockKernel& kernel) {
    uring::SqpollRing ring({.entries = 4, .sq_thread_idle_ms = 77, .sq_thread_cpu = 1}, kernel.seam());
    constexpr std::uint32_t kept =
        IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    constexpr std::uint32_t single = IORING_SETUP_SINGLE_ISSUER;
    constexpr std::uint32_t all = IORING_SETUP_SUBMIT_ALL;
    CHECK(flags_tried(kernel) ==
          std::vector<std::uint32_t>{kept | all | single | uring::abi::setup_no_sqarray, kept | all | single,
                                     kept | all, kept});
    CHECK(ring.setup_flags() == kept);
    CHECK(kernel.calls()[0].params.sq_thread_idle == 77);
    CHECK(kernel.calls()[0].params.sq_thread_cpu == 1);
  });
}

TEST_CASE("an errno other than EINVAL is the answer: nobody climbs down for it") {
  for (const int error : {EPERM, EACCES, ENOMEM, ENOSYS, EMFILE, ENFILE, EFAULT, EBUSY}) {
    MockKernel kernel;
    kernel.fail(CallKind::setup, 1, -error);
    const Failure failure = failure_of({.entries = 8}, kernel);
    CHECK(failure.error == error);
    CHECK(mentions(failure.text, "cannot create a ring"));
    CHECK(mentions(failure.text, uring::errno_name(error)));
    CHECK(kernel.calls().size() == 1);
  }
}

TEST_CASE("an errno in the middle of the ladder is the answer too") {
  MockKernel kernel({.version = mock::linux_5_11});
  kernel.fail(CallKind::setup, 3, -ENOMEM);
  CHECK(failure_of({.entries = 8}, kernel).error == ENOMEM);
  CHECK(kernel.count(CallKind::setup) == 3);
}

TEST_CASE("EINVAL at the foot of the ladder is reported as EINVAL") {
  MockKernel kernel({.version = mock::linux_5_4});  // knows neither CQSIZE nor CLAMP, which are never dropped
  const Failure failure = failure_of({.entries = 8}, kernel);
  CHECK(failure.error == EINVAL);
  CHECK(mentions(failure.text, "5.11"));
  CHECK(kernel.count(CallKind::setup) == 6);
}

TEST_CASE("CQSIZE is always asked for, and TASKRUN_FLAG wherever task work is held back") {
  MockKernel kernel;
  Ring plain({.entries = 4, .flags = 0}, kernel.seam());
  CHECK(kernel.last_call().kind == CallKind::register_);
  CHECK(plain.setup_flags() == IORING_SETUP_CQSIZE);
  MockKernel other;
  Ring coop({.entries = 4, .flags = IORING_SETUP_COOP_TASKRUN}, other.seam());
  CHECK(coop.setup_flags() == (IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG));
}

TEST_CASE("sizes are judged before the kernel is asked, so that its EINVAL means an unknown flag") {
  const std::array<uring::RingOptions, 6> refused{
      uring::RingOptions{.entries = 0},
      uring::RingOptions{.entries = 32769, .flags = 0},
      uring::RingOptions{.entries = 8, .cq_entries = 65537, .flags = 0},
      uring::RingOptions{.entries = 8, .cq_entries = 4},
      uring::RingOptions{.entries = 9, .cq_entries = 8},
      uring::RingOptions{.entries = 100'000, .cq_entries = 16384},
  };
  for (const uring::RingOptions& options : refused) {
    CAPTURE(options.entries);
    CAPTURE(options.cq_entries);
    MockKernel kernel;
    const Failure failure = failure_of(options, kernel);
    CHECK(failure.error == EINVAL);
    CHECK(mentions(failure.text, "refused by this layer"));
    CHECK(kernel.calls().empty());
  }
}

TEST_CASE("sizes are rounded up to powers of two; the CQ is twice the SQ unless told otherwise") {
  struct Sizes {
    unsigned entries, cq_entries, sq, cq;
  };
  const std::array<Sizes, 8> sizes{
      Sizes{1, 0, 1, 2},  Sizes{1, 1, 1, 1},           Sizes{3, 0, 4, 8},           Sizes{5, 5, 8, 8},
      Sizes{8, 9, 8, 16}, Sizes{128, 4096, 128, 4096}, Sizes{100, 1000, 128, 1024}, Sizes{2, 0, 2, 4}};
  for (const Sizes& size : sizes) {
    in_every_world([&](MockKernel& kernel) {
      Ring ring({.entries = size.entries, .cq_entries = size.cq_entries}, kernel.seam());
      CHECK(ring.sq_entries() == size.sq);
      CHECK(ring.cq_entries() == size.cq);
      check_it_works(ring);
    });
  }
}

TEST_CASE("with CLAMP more than the kernel's limit becomes the limit") {
  MockKernel kernel;
  Ring ring({.entries = 1'000'000}, kernel.seam());
  CHECK(ring.sq_entries() == 32768);
  CHECK(ring.cq_entries() == 65536);
  MockKernel other;
  Ring wide({.entries = 8, .cq_entries = 1'000'000}, other.seam());
  CHECK(wide.sq_entries() == 8);
  CHECK(wide.cq_entries() == 65536);
}

TEST_CASE("a setup flag that this layer does not implement is refused by name, never forwarded") {
  unsigned refused = 0;
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    if (flag.refused == nullptr) continue;
    ++refused;
    MockKernel kernel;
    const Failure failure =
        failure_of({.entries = 8, .flags = uring::default_setup_flags | flag.bit}, kernel);
    CHECK(failure.error == EINVAL);
    CHECK(mentions(failure.text, flag.name));
    CHECK(mentions(failure.text, flag.refused));
    CHECK(kernel.calls().empty());
  }
  CHECK(refused == 10);
}

TEST_CASE("a setup flag that nobody has heard of is refused by its bit") {
  for (unsigned bit = 21; bit < 32; ++bit) {
    MockKernel kernel;
    const Failure failure = failure_of({.entries = 8, .flags = std::uint32_t{1} << bit}, kernel);
    CHECK(failure.error == EINVAL);
    CHECK(mentions(failure.text, "bit " + std::to_string(bit)));
    CHECK(kernel.calls().empty());
  }
}

TEST_CASE("flags that contradict each other are refused with the reason") {
  const std::array<std::pair<std::uint32_t, const char*>, 4> refused{
      std::pair{std::uint32_t{IORING_SETUP_SQPOLL}, "use SqpollRing"},
      std::pair{std::uint32_t{IORING_SETUP_SQ_AFF}, "IORING_SETUP_SQ_AFF needs"},
      std::pair{std::uint32_t{IORING_SETUP_TASKRUN_FLAG}, "IORING_SETUP_TASKRUN_FLAG needs"},
      std::pair{std::uint32_t{IORING_SETUP_DEFER_TASKRUN}, "needs IORING_SETUP_SINGLE_ISSUER"}};
  for (const auto& [flags, why] : refused) {
    MockKernel kernel;
    const Failure failure = failure_of({.entries = 8, .flags = flags}, kernel);
    CHECK(failure.error == EINVAL);
    CHECK(mentions(failure.text, why));
    CHECK(kernel.calls().empty());
  }
  for (const std::uint32_t flags :
       {IORING_SETUP_COOP_TASKRUN, IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_TASKRUN_FLAG}) {
    MockKernel kernel;
    const Failure failure = failure_of<uring::SqpollRing>({.entries = 8, .flags = flags}, kernel);
    CHECK(failure.error == EINVAL);
    CHECK(mentions(failure.text, "do not go with IORING_SETUP_SQPOLL"));
    CHECK(kernel.calls().empty());
  }
  MockKernel kernel;
  const Failure no_cpu = failure_of<uring::SqpollRing>({.entries = 8, .flags = IORING_SETUP_SQ_AFF}, kernel);
  CHECK(mentions(no_cpu.text, "sq_thread_cpu"));
  CHECK(kernel.calls().empty());
}

TEST_CASE("the SQ array, where there is one, is filled with the identity once and never again") {
  in_every_world(mock::linux_6_1, [](MockKernel& kernel) {
    Ring ring({.entries = 4, .register_ring_fd = false}, kernel.seam());
    for (std::uint32_t i = 0; i < 4; ++i) CHECK(kernel.memory().array(i) == i);
    // Exchange two entries behind the ring's back. It stays like that, and the kernel takes the SQEs
    // crosswise.
    std::swap(kernel.memory().array(0), kernel.memory().array(1));
    const std::uint32_t first = ring.snapshot().sq_tail;
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(mock::add(ring, first + i));
    REQUIRE(ring.submit() == 4);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::uint32_t position = (first + static_cast<std::uint32_t>(i)) & 3;
      const std::uint64_t seen = kernel.taken()[i].user_data & 3;
      CHECK(seen == (position < 2 ? 1 - position : position));
    }
    CHECK(kernel.memory().array(0) == 1);
    CHECK(kernel.memory().array(1) == 0);
  });
}

TEST_CASE("without an SQ array its offset is 0, where SQ head may lie: nobody writes there") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    CHECK(kernel.memory().offsets().sq.array == 0);
    const uring::RingSnapshot fresh = ring.snapshot();
    CHECK(fresh.sq_head == fresh.sq_tail);
    CHECK(fresh.cq_head == fresh.cq_tail);
    CHECK(fresh.private_sq_tail == fresh.sq_tail);
    CHECK(kernel.memory().untouched());
    check_it_works(ring);
  });
}

TEST_CASE("a fresh ring: all of the SQ is free, nothing is pending, no system call but those of the setup") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8}, kernel.seam());
    CHECK(ring.sq_space() == 8);
    CHECK(ring.unsubmitted() == 0);
    CHECK(ring.ready() == 0);
    CHECK_FALSE(ring.pending());
    CHECK(ring.counters().batches == 0);
    CHECK(kernel.enters() == 0);
    CHECK(kernel.count(CallKind::setup) == 1);
    CHECK(kernel.count(CallKind::map) == 2);  // both rings in one, and the SQEs
    CHECK(kernel.count(CallKind::register_) == 1);
  });
}

TEST_CASE("both rings are mapped at once, up to the end of whatever lies last, and the SQEs beside") {
  for (const mock::Version& version : {mock::linux_6_18, mock::linux_6_1}) {
    in_every_world(version, [](MockKernel& kernel) {
      Ring ring({.entries = 256, .cq_entries = 4096}, kernel.seam());
      std::vector<mock::Call> maps;
      for (const mock::Call& call : kernel.calls()) {
        if (call.kind == CallKind::map) maps.push_back(call);
      }
      REQUIRE(maps.size() == 2);
      CHECK(maps[0].offset == IORING_OFF_SQ_RING);
      CHECK(maps[0].bytes == kernel.memory().offsets().bytes);
      CHECK(maps[1].offset == IORING_OFF_SQES);
      CHECK(maps[1].bytes == 256 * 64);
      CHECK(maps[0].fd == ring.fd());
    });
  }
}

TEST_CASE("a kernel older than 5.11 is refused by the name of what it lacks") {
  const std::array<std::pair<std::uint32_t, const char*>, 3> needed{
      std::pair{std::uint32_t{IORING_FEAT_SINGLE_MMAP}, "IORING_FEAT_SINGLE_MMAP (5.4)"},
      std::pair{std::uint32_t{IORING_FEAT_NODROP}, "IORING_FEAT_NODROP (5.5)"},
      std::pair{std::uint32_t{IORING_FEAT_EXT_ARG}, "IORING_FEAT_EXT_ARG (5.11)"}};
  for (const auto& [feature, name] : needed) {
    mock::Version version = mock::linux_6_18;
    version.features &= ~feature;
    {
      MockKernel kernel({.version = version});
      const Failure failure = failure_of({.entries = 8}, kernel);
      CHECK(failure.error == EOPNOTSUPP);
      CHECK(mentions(failure.text, name));
      CHECK(mentions(failure.text, "5.11"));
      CHECK(kernel.count(CallKind::map) == 0);
    }
    CHECK(mock::leftovers() == mock::Leftovers{});
  }
  for (const mock::Version& version : {mock::linux_5_6, mock::linux_5_10}) {
    MockKernel kernel({.version = version});
    CHECK(mentions(failure_of({.entries = 8}, kernel).text, "IORING_FEAT_EXT_ARG (5.11)"));
  }
}

TEST_CASE("a kernel whose sizes and masks contradict each other is refused, and nothing leaks") {
  static bool of_sq;  // the seam is a plain function: it captures nothing
  for (const bool which : {true, false}) {
    of_sq = which;
    {
      MockKernel kernel;
      uring::Kernel seam = kernel.seam();
      seam.map = [](void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
        MockKernel& inner = *static_cast<MockKernel*>(self);
        const int result = inner.seam().map(self, fd, bytes, offset, address);
        const mock::Offsets& at = inner.memory().offsets();
        if (offset == IORING_OFF_SQ_RING) {
          std::byte* const mask =
              static_cast<std::byte*>(*address) + (of_sq ? at.sq.ring_mask : at.cq.ring_mask);
          *reinterpret_cast<std::uint32_t*>(mask) += 1;
        }
        return result;
      };
      try {
        const Ring ring({.entries = 8}, seam);
        FAIL("accepted");
      } catch (const uring::SetupError& error) {
        CHECK(error.code().value() == EPROTO);
        CHECK(mentions(error.what(), "contradict"));
      }
    }
    CHECK(mock::leftovers() == mock::Leftovers{});
  }
}

TEST_CASE(
    "a setup that fails at any step leaks neither descriptor nor mapping, and the true errno surfaces") {
  struct Step {
    CallKind kind;
    unsigned nth;
    const char* says;
  };
  for (const Step step :
       {Step{CallKind::setup, 1, "cannot create a ring"}, Step{CallKind::map, 1, "cannot map the rings"},
        Step{CallKind::map, 2, "cannot map the SQEs"}}) {
    for (const int error : {ENOMEM, EPERM, EAGAIN, EMFILE}) {
      for (const mock::Version& version : {mock::linux_6_18, mock::linux_6_1}) {
        CAPTURE(step.says);
        CAPTURE(error);
        {
          MockKernel kernel({.version = version});
          // The ladder has one rung more on 6.1; the first setup there fails with EINVAL by itself.
          const bool later = step.kind == CallKind::setup && version.name == mock::linux_6_1.name;
          kernel.fail(step.kind, later ? 2 : step.nth, -error);
          const Failure failure = failure_of({.entries = 8}, kernel);
          CHECK(failure.error == error);
          CHECK(mentions(failure.text, step.says));
          CHECK(mentions(failure.text, "(" + uring::errno_name(error) + ")"));
          CHECK(kernel.count(CallKind::register_) == 0);
          CHECK(mock::leftovers().descriptors == 0);
        }
        CHECK(mock::leftovers() == mock::Leftovers{});
      }
    }
  }
}

TEST_CASE("a thousand rings come and go and leave nothing behind") {
  for (int i = 0; i < 1000; ++i) {
    MockKernel kernel;
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(mock::add(ring, 1));
    REQUIRE(ring.submit() == 1);
  }
  CHECK(mock::leftovers() == mock::Leftovers{});
}

TEST_CASE("a ring whose descriptor cannot be registered works with the plain one") {
  for (const int error : {EBUSY, EINVAL, ENOMEM}) {
    in_every_world([&](MockKernel& kernel) {
      kernel.fail(CallKind::register_, 1, -error);
      Ring ring({.entries = 8}, kernel.seam());
      CHECK_FALSE(ring.ring_fd_registered());
      check_it_works(ring);
      CHECK(kernel.last_call().fd == ring.fd());
      CHECK((kernel.last_call().flags & IORING_ENTER_REGISTERED_RING) == 0);
    });
  }
  in_every_world(mock::linux_5_11, [](MockKernel& kernel) {  // does not know the operation
    Ring ring({.entries = 8}, kernel.seam());
    CHECK_FALSE(ring.ring_fd_registered());
    check_it_works(ring);
  });
}

TEST_CASE("a registered ring enters by its index, and is unregistered before it is closed") {
  MockKernel kernel;
  {
    Ring ring({.entries = 8}, kernel.seam());
    REQUIRE(ring.ring_fd_registered());
    CHECK(kernel.registered_rings() == 1);
    check_it_works(ring);
    const mock::Call& enter = kernel.last_call();
    CHECK(enter.kind == CallKind::enter);
    CHECK(enter.fd == 0);
    CHECK((enter.flags & IORING_ENTER_REGISTERED_RING) != 0);
  }
  CHECK(kernel.last_call().opcode == IORING_UNREGISTER_RING_FDS);
  CHECK(kernel.last_call().result == 1);
  CHECK(kernel.registered_rings() == 0);
  CHECK(mock::leftovers().descriptors == 0);
}

TEST_CASE("who does not want the ring's descriptor registered gets none of it") {
  MockKernel kernel;
  { Ring ring({.entries = 8, .register_ring_fd = false}, kernel.seam()); }
  CHECK(kernel.count(CallKind::register_) == 0);
}

TEST_CASE("a disabled ring answers EBADFD until enable, which registers it for the thread that will use it") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8, .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED}, kernel.seam());
    CHECK(kernel.count(CallKind::register_) == 0);
    CHECK_FALSE(ring.ring_fd_registered());
    REQUIRE(mock::add(ring, 42));
    CHECK(ring.submit() == -EBADFD);
    CHECK(ring.unsubmitted() == 1);
    std::thread worker([&] {
      CHECK(ring.enable() == 0);
      CHECK(ring.ring_fd_registered());
      CHECK(ring.submit() == 1);
      CHECK(mock::harvest(ring) == std::vector<std::uint64_t>{42});
      CHECK(ring.enable() == -EBADFD);  // it runs already, and stays registered once
      CHECK(kernel.registered_rings() == 1);
    });
    worker.join();
  });
}

TEST_CASE(
    "the index of a registered ring dies with its thread's table: another thread must not unregister it") {
  MockKernel kernel;
  std::optional<Ring> ring(std::in_place, uring::RingOptions{.entries = 8}, kernel.seam());
  std::thread([&] { ring.reset(); }).join();
  CHECK(kernel.last_call().opcode == IORING_REGISTER_RING_FDS);
  CHECK(mock::leftovers().descriptors == 0);
}

TEST_CASE("enabling can fail, and then nothing was registered") {
  MockKernel kernel;
  Ring ring({.entries = 8, .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED}, kernel.seam());
  kernel.fail(CallKind::register_, 1, -ENXIO);
  CHECK(ring.enable() == -ENXIO);
  CHECK(kernel.count(CallKind::register_) == 1);
  CHECK_FALSE(ring.ring_fd_registered());
  CHECK(ring.enable() == 0);
  CHECK(ring.ring_fd_registered());
}

TEST_CASE("another thread than the owner gets EEXIST, and nothing is lost") {
  in_every_world([](MockKernel& kernel) {
    Ring ring({.entries = 8, .register_ring_fd = false}, kernel.seam());
    REQUIRE(mock::add(ring, 1));
    std::thread([&] { CHECK(ring.submit() == -EEXIST); }).join();
    CHECK(ring.submit() == 1);
    CHECK(kernel.taken_user_data() == std::vector<std::uint64_t>{1});
  });
}

TEST_CASE("a ring can be moved, and what is left of the old one does nothing when it dies") {
  static_assert(std::is_nothrow_move_constructible_v<Ring>);
  static_assert(!std::is_copy_constructible_v<Ring> && !std::is_move_assignable_v<Ring>);
  in_every_world([](MockKernel& kernel) {
    std::vector<Ring> home;
    {
      Ring ring({.entries = 8}, kernel.seam());
      REQUIRE(mock::add(ring, 1));  // prepared here, submitted there
      home.push_back(std::move(ring));
    }
    CHECK(kernel.count(CallKind::register_) == 1);  // the dead shell has unregistered nothing
    CHECK(kernel.registered_rings() == 1);
    Ring& ring = home.front();
    REQUIRE(mock::add(ring, 2));
    CHECK(ring.submit() == 2);
    CHECK(mock::harvest(ring) == std::vector<std::uint64_t>{1, 2});
    home.clear();
    CHECK(kernel.registered_rings() == 0);
  });
  CHECK(mock::leftovers() == mock::Leftovers{});
}

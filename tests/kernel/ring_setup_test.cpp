// The ring layer on the real kernel: how a ring comes into being, what it holds, and what is left of it.

#include <doctest/doctest.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cstddef>
#include <memory>
#include <string>

#include "tests/kernel/kernel_support.hpp"
#include "tests/support/fact.hpp"
#include "uring/prep_files.hpp"

namespace {

using namespace tests::kernel;
using uring::Ring;
using uring::RingOptions;
using uring::SetupError;
using uring::SqpollRing;
using uring::Token;
namespace abi = uring::abi;
namespace prep = uring::prep;

/// What creating this ring throws; 0 and "" if nothing.
struct Refusal {
  int error = 0;
  std::string text{};
  bool says(const std::string& words) const { return text.find(words) != text.npos; }
};

template <class AnyRing = Ring>
Refusal refusal(const RingOptions& options, const uring::Kernel& kernel = uring::real_kernel) {
  try {
    const AnyRing ring(options, kernel);
  } catch (const SetupError& error) {
    return {error.code().value(), error.what()};
  }
  return {};
}

// ---- Sizes ------------------------------------------------------------------------------------------------

TEST_CASE("a ring of no entries is refused, and no descriptor is lost") {
  SKIP_WITHOUT_IO_URING();
  const std::size_t before = open_descriptors();
  CHECK(refusal({.entries = 0}).error == EINVAL);
  CHECK(open_descriptors() == before);
}

TEST_CASE("sizes are rounded up to powers of two, and the CQ is twice the SQ unless it is given") {
  SKIP_WITHOUT_IO_URING();
  struct Case {
    unsigned entries, cq_entries, sq, cq;
  };
  for (const Case& c : {Case{1, 0, 1, 2},
                        {2, 0, 2, 4},
                        {3, 0, 4, 8},
                        {5, 0, 8, 16},
                        {128, 0, 128, 256},
                        {8, 8, 8, 8},
                        {8, 9, 8, 16},
                        {5, 5, 8, 8},
                        {8, 1000, 8, 1024},
                        {32768, 0, 32768, 65536},
                        {32769, 0, 32768, 65536},  // CLAMP is among the default flags
                        {8, 100'000, 8, 65536}}) {
    const Ring ring({.entries = c.entries, .cq_entries = c.cq_entries});
    CAPTURE(c.entries);
    CAPTURE(c.cq_entries);
    CHECK(ring.sq_entries() == c.sq);
    CHECK(ring.cq_entries() == c.cq);
  }
}

TEST_CASE("without CLAMP more than 32768 entries are refused; a CQ smaller than the SQ always is") {
  SKIP_WITHOUT_IO_URING();
  CHECK(refusal({.entries = 32769, .flags = 0}).error == EINVAL);
  CHECK(refusal({.entries = 32769, .flags = 0}).says("IORING_SETUP_CLAMP"));
  CHECK(refusal({.entries = 8, .cq_entries = 65537, .flags = 0}).error == EINVAL);
  CHECK(refusal({.entries = 8, .cq_entries = 4}).error == EINVAL);
  CHECK(refusal({.entries = 5, .cq_entries = 4}).error == EINVAL);
}

// ---- Flags ------------------------------------------------------------------------------------------------

TEST_CASE("a setup flag that is not implemented is refused by name, and the kernel is not even asked") {
  SKIP_WITHOUT_IO_URING();
  WatchedKernel watched;
  unsigned refused = 0;
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    if (flag.refused == nullptr) continue;
    const Refusal why = refusal({.entries = 4, .flags = flag.bit}, watched.kernel());
    CAPTURE(flag.name);
    CHECK(why.error == EINVAL);
    CHECK(why.says(flag.name));
    ++refused;
  }
  CHECK(refused > 0);
  CHECK(refusal({.entries = 4, .flags = 1u << 27}, watched.kernel()).says("bit 27"));
  CHECK(refusal({.entries = 4, .flags = IORING_SETUP_SQPOLL}, watched.kernel()).says("SqpollRing"));
  CHECK(refusal<SqpollRing>({.entries = 4, .flags = IORING_SETUP_COOP_TASKRUN}, watched.kernel()).error ==
        EINVAL);
  CHECK(watched.setups == 0);
}

TEST_CASE("a setup flag that is taken is kept: rings of every kind run three laps, their indices intact") {
  SKIP_WITHOUT_IO_URING();
  constexpr std::uint32_t single = IORING_SETUP_SINGLE_ISSUER;
  for (const std::uint32_t flags :
       {std::uint32_t{0}, uring::default_setup_flags, uring::default_setup_flags & ~abi::setup_no_sqarray,
        abi::setup_no_sqarray, std::uint32_t{IORING_SETUP_COOP_TASKRUN}, single,
        single | IORING_SETUP_DEFER_TASKRUN, std::uint32_t{IORING_SETUP_SUBMIT_ALL}}) {
    CAPTURE(uring::setup_flag_names(flags));
    Ring ring({.entries = 4, .flags = flags});
    for (std::uint64_t name = 0; name < 12; ++name) {
      prep::nop(next(ring), Token{name});
      CHECK(results(ring, 1) == std::to_string(name) + ":0");
    }
    const uring::RingSnapshot after = ring.snapshot();
    CHECK(after.sq_head == 12);
    CHECK(after.sq_tail == 12);
    CHECK(after.cq_head == 12);
    CHECK(after.cq_tail == 12);
    CHECK(after.sq_dropped == 0);
  }
}

TEST_CASE("the ring reports what it got: on a kernel that knows every default flag, all of them") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_setup_flag(abi::setup_no_sqarray),
              "the newest default flag, NO_SQARRAY, needs Linux 6.6");
  const Ring ring({.entries = 4});
  CHECK(ring.setup_flags() == uring::default_setup_flags);
  CHECK(ring.dropped_setup_flags() == 0);
  CHECK((ring.features() & IORING_FEAT_NODROP) != 0);
}

// ---- Life -------------------------------------------------------------------------------------------------

TEST_CASE("a ring is one descriptor and two mappings; a thousand rings later nothing is left of them") {
  SKIP_WITHOUT_IO_URING();
  const std::size_t descriptors = open_descriptors();
  const std::size_t mappings = ring_mappings();
  WatchedKernel watched;
  {
    const Ring ring({.entries = 4}, watched.kernel());
    CHECK(open_descriptors() == descriptors + 1);
    CHECK(ring_mappings() == mappings + 2);
    CHECK(watched.maps == 2);
  }
  for (std::uint64_t name = 0; name < 1000; ++name) {
    Ring ring({.entries = 4});
    prep::nop(next(ring), Token{name});
    REQUIRE(ring.submit() == 1);
  }
  CHECK(open_descriptors() == descriptors);
  CHECK(ring_mappings() == mappings);
}

TEST_CASE("a ring can be moved with SQEs prepared and completions unread; the old one holds nothing") {
  SKIP_WITHOUT_IO_URING();
  const std::size_t descriptors = open_descriptors();
  {
    auto first = std::make_unique<Ring>(RingOptions{.entries = 4});
    prep::nop(next(*first), Token{1});
    REQUIRE(first->submit() == 1);
    prep::nop(next(*first), Token{2});
    Ring second(std::move(*first));
    first.reset();
    CHECK(second.ring_fd_registered() == this_kernel().registered_ring_fd);
    CHECK(results(second, 2) == "1:0 2:0");
  }
  CHECK(open_descriptors() == descriptors);
}

TEST_CASE("a disabled ring takes SQEs but refuses to submit, with EBADFD, until it is enabled") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4, .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED});
  prep::nop(next(ring), Token{1});
  CHECK(ring.submit() == -EBADFD);
  CHECK(ring.submit_and_wait(1, 1s).error == -EBADFD);
  CHECK(ring.unsubmitted() == 1);
  CHECK_FALSE(ring.ring_fd_registered());
  CHECK(ring.enable() == 0);
  CHECK(ring.ring_fd_registered() == this_kernel().registered_ring_fd);
  CHECK(results(ring, 1) == "1:0");
  CHECK(ring.enable() == -EBADFD);  // it runs already
}

// ---- The ring's own descriptor, registered ----------------------------------------------------------------

TEST_CASE("enter uses the registered index of the ring, and rings do not confuse theirs") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().registered_ring_fd, "registered rings need Linux 5.18");
  WatchedKernel watched;
  Ring one({.entries = 4}, watched.kernel());
  Ring two({.entries = 4}, watched.kernel());
  prep::nop(next(one), Token{1});
  CHECK(one.submit() == 1);
  const int index_of_one = watched.last_fd;
  CHECK((watched.last_flags & IORING_ENTER_REGISTERED_RING) != 0);
  CHECK(index_of_one != one.fd());
  prep::nop(next(two), Token{2});
  CHECK(two.submit() == 1);
  CHECK(watched.last_fd != index_of_one);
  CHECK(results(one, 1) == "1:0");
  CHECK(results(two, 1) == "2:0");

  Ring plain({.entries = 4, .register_ring_fd = false}, watched.kernel());
  prep::nop(next(plain), Token{3});
  CHECK(plain.submit() == 1);
  CHECK(watched.last_fd == plain.fd());
  CHECK(watched.last_flags == 0);
}

TEST_CASE("a thread registers sixteen rings; the next works by descriptor, and destruction frees a place") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().registered_ring_fd, "registered rings need Linux 5.18");
  std::vector<std::unique_ptr<Ring>> rings;
  for (unsigned i = 0; i < 17; ++i) {
    rings.push_back(std::make_unique<Ring>(RingOptions{.entries = 1}));
    CHECK(rings.back()->ring_fd_registered() == (i < 16));
    prep::nop(next(*rings.back()), Token{i});
    CHECK(results(*rings.back(), 1) == std::to_string(i) + ":0");
  }
  rings.erase(rings.begin() + 3);
  Ring again({.entries = 1});
  CHECK(again.ring_fd_registered());
  for (auto& ring : rings) {
    prep::nop(next(*ring), Token{99});
    CHECK(results(*ring, 1) == "99:0");
  }
}

// ---- Why a ring cannot be had -----------------------------------------------------------------------------

/// In a child, which may spoil itself: is a ring then refused with `error` and a sentence that contains
/// `words`?
template <class Spoil>
bool refused_after(Spoil spoil, int error, const std::string& words) {
  return in_child([&] {
           if (!spoil()) return 2;
           const Refusal why = refusal({.entries = 64});
           return why.error == error && why.says(words) ? 0 : 1;
         }) == 0;
}

/// A seccomp filter under which io_uring_setup fails with `error`, as in a container.
bool forbid_io_uring_setup(int error) {
  std::array<sock_filter, 4> program{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error)),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter{program.size(), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_CASE("where seccomp forbids io_uring the error is EPERM and names the filter; ENOSYS stays ENOSYS") {
  SKIP_WITHOUT_IO_URING();
  CHECK(refused_after([] { return forbid_io_uring_setup(EPERM); }, EPERM, "seccomp"));
  CHECK(refused_after([] { return forbid_io_uring_setup(ENOSYS); }, ENOSYS, "no io_uring"));
}

TEST_CASE("without a free descriptor the error is EMFILE, and names ulimit -n") {
  SKIP_WITHOUT_IO_URING();
  const auto no_descriptors = [] {
    const rlimit none{0, 0};
    return ::setrlimit(RLIMIT_NOFILE, &none) == 0;
  };
  CHECK(refused_after(no_descriptors, EMFILE, "ulimit -n, here 0"));
}

FACT("rings count against RLIMIT_MEMLOCK: a user who may lock nothing gets ENOMEM, and is told why") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(::geteuid() == 0, "only root can become somebody else");
  const auto nobody_without_memory = [] {
    const rlimit none{0, 0};
    return ::setrlimit(RLIMIT_MEMLOCK, &none) == 0 && ::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 &&
           ::setuid(65534) == 0;
  };
  const bool has_one_all_the_same =
      in_child([&] { return nobody_without_memory() && refusal({.entries = 64}).error == 0 ? 0 : 1; }) == 0;
  if (has_one_all_the_same) return tests::differs("rings are not counted");
  CHECK(refused_after(nobody_without_memory, ENOMEM, "RLIMIT_MEMLOCK (ulimit -l), here 0 KiB"));
}

}  // namespace

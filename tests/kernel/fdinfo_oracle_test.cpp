// A second opinion: what the kernel says of a ring in /proc/self/fdinfo/<fd> is what the ring layer believes,
// after every step and over several laps of both rings.
//
//   SqHead SqTail CqHead CqTail      the shared words, read by the kernel at its own address
//   CachedSqHead CachedCqTail        the kernel's private copies: how far it has *really* come
//
// The shared words alone would only show that both sides look at the same memory. The cached ones show more:
// with nothing in flight, a head or a tail that the kernel has moved privately must be one that it has
// published. Since Linux 5.16 (SqHead and the others).

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <thread>

#include "tests/support/skip.hpp"
#include "tests/support/sqe.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace {

using uring::Token;

/// The lines "Name: number" of a ring's fdinfo, and how many completions its overflow list holds.
struct KernelView {
  std::map<std::string, std::uint32_t> number;
  unsigned overflowed = 0;

  std::uint32_t operator[](const std::string& name) const {
    const auto found = number.find(name);
    REQUIRE_MESSAGE(found != number.end(), "fdinfo has no " << name);
    return found->second;
  }
};

KernelView read_fdinfo(int fd) {
  std::ifstream file("/proc/self/fdinfo/" + std::to_string(fd));
  KernelView view;
  bool in_overflow_list = false;
  for (std::string line; std::getline(file, line);) {
    if (line[0] == ' ') {
      if (in_overflow_list) ++view.overflowed;
      continue;
    }
    const std::size_t colon = line.find(':');
    const std::string name = line.substr(0, colon);
    in_overflow_list = name == "CqOverflowList";
    const std::string value = colon != line.npos ? line.substr(colon + 1) : "";
    if (value.find_first_of("0123456789") == value.npos) continue;
    if (name.starts_with("Sq") || name.starts_with("Cq") || name.starts_with("Cached") || name == "SQEs" ||
        name == "CQEs") {
      view.number[name] = static_cast<std::uint32_t>(std::stoll(value, nullptr, 0));
    }
  }
  return view;
}

/// The kernel prints nothing while another task holds the ring's lock: an SQPOLL thread, for moments.
KernelView kernel_view(int fd) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    KernelView view = read_fdinfo(fd);
    if (view.number.count("CachedCqTail") != 0) return view;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

bool fdinfo_shows_the_indices() {
  const uring::Ring ring({.entries = 1});
  return kernel_view(ring.fd()).number.count("CachedCqTail") != 0;
}

#define SKIP_WITHOUT_ORACLE()             \
  SKIP_WITHOUT_IO_URING();                \
  SKIP_UNLESS(fdinfo_shows_the_indices(), \
              "fdinfo of this kernel does not show the indices (Linux 5.16, procfs)")

/// Both sides agree on all four indices and on the sizes; nothing is in flight.
template <class Ring>
void expect_agreement(const Ring& ring) {
  const KernelView kernel = kernel_view(ring.fd());
  const uring::RingSnapshot ours = ring.snapshot();
  CHECK(kernel["SqMask"] == ours.sq_entries - 1);
  CHECK(kernel["CqMask"] == ours.cq_entries - 1);
  CHECK(kernel["SqHead"] == ours.sq_head);
  CHECK(kernel["SqTail"] == ours.sq_tail);
  CHECK(kernel["CqHead"] == ours.cq_head);
  CHECK(kernel["CqTail"] == ours.cq_tail);
  CHECK(kernel["CachedSqHead"] == ours.sq_head);
  CHECK(kernel["CachedCqTail"] == ours.cq_tail);
  CHECK(kernel["SQEs"] == ours.sq_tail - ours.sq_head);
  CHECK(kernel["CQEs"] == ours.cq_tail - ours.cq_head);
  CHECK(kernel["CQEs"] == ring.ready());
}

template <class Ring>
void prepare_nops(Ring& ring, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    io_uring_sqe* const sqe = ring.next_sqe();
    REQUIRE(sqe != nullptr);
    uring::prep::nop(*sqe, Token{i});
  }
}

constexpr unsigned entries = 4;  // of the SQ; the CQ has 8

/// Runs `story` on a ring of the default flags, on one with an SQ array, and on the plainest that there is.
template <class Story>
void on_each_kind_of_ring(Story story) {
  for (const std::uint32_t flags :
       {uring::default_setup_flags, uring::default_setup_flags & ~uring::abi::setup_no_sqarray,
        std::uint32_t{IORING_SETUP_CQSIZE}}) {
    CAPTURE(uring::setup_flag_names(flags));
    uring::Ring ring({.entries = entries, .flags = flags});
    expect_agreement(ring);
    story(ring);
    expect_agreement(ring);
  }
}

}  // namespace

TEST_CASE("oracle: preparing moves nothing that the kernel can see, submitting moves all of it") {
  SKIP_WITHOUT_ORACLE();
  on_each_kind_of_ring([](uring::Ring& ring) {
    for (std::uint32_t lap = 0; lap < 5; ++lap) {
      prepare_nops(ring, 3);
      expect_agreement(ring);
      CHECK(kernel_view(ring.fd())["SqTail"] == 3 * lap);
      CHECK(ring.snapshot().private_sq_tail == 3 * lap + 3);
      CHECK(ring.submit() == 3);
      expect_agreement(ring);
      CHECK(kernel_view(ring.fd())["SqTail"] == 3 * lap + 3);
      CHECK(kernel_view(ring.fd())["SqHead"] == 3 * lap + 3);
      CHECK(ring.harvest([](const io_uring_cqe&) {}) == 3);
    }
  });
}

TEST_CASE("oracle: a harvest gives back the CQEs that it handled, and no more") {
  SKIP_WITHOUT_ORACLE();
  on_each_kind_of_ring([](uring::Ring& ring) {
    for (std::uint32_t lap = 0; lap < 5; ++lap) {
      prepare_nops(ring, 4);
      REQUIRE(ring.submit() == 4);
      unsigned seen = 0;
      CHECK(ring.harvest([&](const io_uring_cqe&) { return ++seen != 3; }) == 3);
      expect_agreement(ring);
      CHECK(kernel_view(ring.fd())["CqHead"] == 4 * lap + 3);
      CHECK(kernel_view(ring.fd())["CQEs"] == 1);
      CHECK(ring.harvest([](const io_uring_cqe&) {}) == 1);
      CHECK(kernel_view(ring.fd())["CqHead"] == 4 * lap + 4);
    }
  });
}

TEST_CASE("oracle: while a handler runs, its CQE still belongs to us") {
  SKIP_WITHOUT_ORACLE();
  on_each_kind_of_ring([](uring::Ring& ring) {
    prepare_nops(ring, 2);
    REQUIRE(ring.submit() == 2);
    ring.harvest([&](const io_uring_cqe&) { CHECK(kernel_view(ring.fd())["CqHead"] == 0); });
    CHECK(kernel_view(ring.fd())["CqHead"] == 2);
  });
}

TEST_CASE("oracle: an abandoned batch never existed, a committed one does at the next submit") {
  SKIP_WITHOUT_ORACLE();
  on_each_kind_of_ring([](uring::Ring& ring) {
    {
      auto batch = ring.batch(3);
      REQUIRE(batch);
      while (io_uring_sqe* const sqe = batch.next()) uring::prep::nop(*sqe, Token{1});
    }
    CHECK(ring.submit() == 0);
    expect_agreement(ring);
    CHECK(kernel_view(ring.fd())["SqTail"] == 0);
    {
      auto batch = ring.batch(2);
      REQUIRE(batch);
      for (unsigned i = 0; i < 2; ++i) uring::prep::nop(tests::must(batch.next()), Token{2});
      batch.commit();
    }
    CHECK(kernel_view(ring.fd())["SqTail"] == 0);
    CHECK(ring.submit() == 2);
    CHECK(kernel_view(ring.fd())["SqTail"] == 2);
    ring.harvest([](const io_uring_cqe& cqe) { CHECK(cqe.user_data == 2); });
  });
}

TEST_CASE("oracle: after a short submit the SQEs that the kernel left lie between SqHead and SqTail") {
  SKIP_WITHOUT_ORACLE();
  uring::Ring ring(
      {.entries = entries, .flags = IORING_SETUP_CQSIZE});  // no SUBMIT_ALL: it stops at a bad SQE
  prepare_nops(ring, 1);
  io_uring_sqe* const bad = ring.next_sqe();
  REQUIRE(bad != nullptr);
  uring::prep::nop(*bad, Token{7});
  bad->opcode = 255;
  prepare_nops(ring, 2);
  CHECK(ring.submit() == 2);
  expect_agreement(ring);
  CHECK(kernel_view(ring.fd())["SqHead"] == 2);
  CHECK(kernel_view(ring.fd())["SqTail"] == 4);
  CHECK(kernel_view(ring.fd())["SQEs"] == ring.unsubmitted());
  CHECK(ring.submit() == 2);
  expect_agreement(ring);
  CHECK(kernel_view(ring.fd())["SQEs"] == 0);
}

TEST_CASE(
    "oracle: on overflow the CQ is full, the rest waits in the kernel's list, and a harvest lets it in") {
  SKIP_WITHOUT_ORACLE();
  on_each_kind_of_ring([](uring::Ring& ring) {
    for (unsigned i = 0; i < 3; ++i) {
      prepare_nops(ring, 4);
      REQUIRE(ring.submit() == 4);
    }
    expect_agreement(ring);
    CHECK(kernel_view(ring.fd())["CQEs"] == 8);
    CHECK(kernel_view(ring.fd()).overflowed == 4);
    CHECK(ring.harvest([](const io_uring_cqe&) {}) == 8);
    expect_agreement(ring);
    CHECK(kernel_view(ring.fd()).overflowed == 4);  // giving slots back lets nothing in by itself
    CHECK(ring.harvest([](const io_uring_cqe&) {}) == 4);
    expect_agreement(ring);
    CHECK(kernel_view(ring.fd()).overflowed == 0);
    CHECK(kernel_view(ring.fd())["CqTail"] == 12);
  });
}

TEST_CASE("oracle: an SQPOLL thread takes what is published, awake or asleep") {
  SKIP_WITHOUT_ORACLE();
  uring::SqpollRing ring({.entries = entries, .sq_thread_idle_ms = 1});
  for (unsigned lap = 0; lap < 5; ++lap) {
    prepare_nops(ring, 3);
    CHECK(kernel_view(ring.fd())["SqTail"] == 3 * lap);
    const uring::Waited waited = ring.submit_and_wait(3, std::chrono::seconds(20));
    CHECK(waited.ready == 3);
    CHECK(ring.harvest([](const io_uring_cqe&) {}) == 3);
    // The thread publishes the SQ head after the completions of what it took.
    for (int i = 0; i < 20000 && ring.unsubmitted() != 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    expect_agreement(ring);
    CHECK(kernel_view(ring.fd())["SqHead"] == 3 * lap + 3);
    if (lap % 2 == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // long enough to fall asleep
  }
}

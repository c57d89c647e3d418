// How a test meets the mock kernel: in every world, and with its complaints heard.
//
// A world is where the indices start (0, as on a real ring, and just below 2^32, where no real ring gets
// within a test) times where the words lie (the usual layout and the odd one). A test that holds in one world
// and not in another has found a ring that adds without wrapping or remembers an offset.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "uring/prep_fill.hpp"
#include "uring/ring.hpp"

namespace mock {

/// Runs `body(MockKernel&)` four times, on a new kernel of `version` each. Not for bodies with SUBCASEs.
template <class Body>
void in_every_world(const Version& version, Body body) {
  struct Start {
    std::uint32_t sq, cq;
  };
  for (const Start start : {Start{0, 0}, Start{0U - 5, 0U - 3}}) {
    for (const Layout layout : {Layout::usual, Layout::odd}) {
      const std::string world = std::string("Linux ") + version.name + ", SQ from " +
                                std::to_string(start.sq) + ", CQ from " + std::to_string(start.cq) +
                                (layout == Layout::usual ? ", usual layout" : ", odd layout");
      CAPTURE(world);
      MockKernel kernel({.version = version, .layout = layout, .sq_start = start.sq, .cq_start = start.cq});
      body(kernel);
      CHECK(kernel.complaints() == std::vector<std::string>{});
    }
  }
}

template <class Body>
void in_every_world(Body body) {
  in_every_world(linux_6_18, body);
}

/// Opcodes for add(): one that the mock keeps until complete(), and one that no kernel knows.
inline constexpr std::uint8_t pending = IORING_OP_READ;
inline constexpr std::uint8_t malformed = 0xff;

/// Prepares an SQE in a ring or a batch, a NOP unless told otherwise. False if there is no room.
template <class RingOrBatch>
bool add(RingOrBatch& to, std::uint64_t user_data, std::uint8_t opcode = IORING_OP_NOP) {
  io_uring_sqe* sqe = nullptr;
  if constexpr (requires { to.next_sqe(); }) {
    sqe = to.next_sqe();
  } else {
    sqe = to.next();
  }
  if (sqe == nullptr) return false;
  uring::prep::fill(*sqe, opcode, -1, 0, 0, 0, uring::Token{user_data});
  return true;
}

/// The user_data of one harvest, in order.
template <class Ring>
std::vector<std::uint64_t> harvest(Ring& ring) {
  std::vector<std::uint64_t> seen;
  const int result = ring.harvest([&](const io_uring_cqe& cqe) { seen.push_back(cqe.user_data); });
  CHECK(result == static_cast<int>(seen.size()));
  return seen;
}

/// The user_data of as many harvests as find something, in order.
template <class Ring>
std::vector<std::uint64_t> harvest_all(Ring& ring) {
  std::vector<std::uint64_t> all;
  for (;;) {
    REQUIRE(all.size() < 1'000'000);
    const std::vector<std::uint64_t> some = harvest(ring);
    if (some.empty()) return all;
    all.insert(all.end(), some.begin(), some.end());
  }
}

/// first, first + 1, ... : `count` of them.
inline std::vector<std::uint64_t> numbers(std::uint64_t first, std::size_t count) {
  std::vector<std::uint64_t> all(count);
  std::iota(all.begin(), all.end(), first);
  return all;
}

}  // namespace mock

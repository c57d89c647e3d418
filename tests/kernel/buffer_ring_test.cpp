// Provided buffers on the running kernel: who has which buffer, what the kernel sees and when, and the tail of
// 16 bits, which wraps.

#include "uring/buffer_ring.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "tests/kernel/prep_helpers.hpp"
#include "tests/kernel/watched_registration.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace prep_tests;
using uring::BufferRing;

constexpr BufferGroup group{7};

/// A ring with a group of buffers, and a socket pair to fill them from. The group outlives the ring.
struct Provided {
  BufferRing buffers;
  TestRing ring{};
  Pair pair = unix_pair();

  explicit Provided(std::size_t count, std::size_t size = 64) : buffers(count, size) {
    REQUIRE(buffers.register_with(ring.ring(), group) == 0);
  }

  void say(const std::string& text) {
    REQUIRE(::send(pair.there.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  }

  Completion receive(std::uint64_t token) {
    prep::recv_select(ring.sqe(), pair.here.get(), buffers.group(), 0, 0, Token{token});
    return ring.of(token);
  }

  /// The kernel's own place in the ring (6.8).
  std::optional<std::uint16_t> kernel_head() {
    uring::abi::buf_status status{};
    status.buf_group = group.id;
    if (ring.register_(uring::abi::register_pbuf_status, &status, 1) < 0) return std::nullopt;
    return static_cast<std::uint16_t>(status.head);
  }
};

bool has_buffer_rings() { return this_kernel().provided_buffer_rings; }

TEST_CASE("a registered group has all its buffers with the kernel, which takes them one by one") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_buffer_rings(), "provided-buffer rings need Linux 5.19");
  Provided provided(4);
  CHECK(provided.buffers.with_kernel() == 4);
  CHECK(provided.buffers.in_use() == 0);
  std::set<std::uint16_t> seen;
  for (std::uint64_t i = 1; i <= 4; ++i) {
    provided.say("hello " + std::to_string(i));
    const Completion completion = provided.receive(i);
    REQUIRE(completion.res == 7);
    REQUIRE(completion.has_buffer());
    const std::uint16_t id = provided.buffers.take(completion.flags);
    CHECK(std::string(reinterpret_cast<char*>(provided.buffers.data(id)), 7) == "hello " + std::to_string(i));
    seen.insert(id);
    CHECK(provided.buffers.in_use() == i);
  }
  CHECK(seen.size() == 4);
  CHECK(provided.buffers.in_use_max() == 4);
  for (const std::uint16_t id : seen) provided.buffers.recycle(id);
  CHECK(provided.buffers.spare() == 4);
  provided.buffers.publish();
  CHECK(provided.buffers.with_kernel() == 4);
  CHECK(provided.buffers.in_use() == 0);
  CHECK(provided.buffers.in_use_max() == 4);
}

FACT("of a group in which few buffers are enough, the kernel uses those again that were used last") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_buffer_rings(), "provided-buffer rings need Linux 5.19");
  BufferRing buffers(64, 64);
  TestRing ring;
  const Pair pair = unix_pair();
  REQUIRE(buffers.register_with(ring.ring(), group, 2) == 0);
  CHECK(buffers.with_kernel() == 2);
  CHECK(buffers.spare() == 62);
  std::set<std::uint16_t> seen;
  for (std::uint64_t i = 1; i <= 100; ++i) {
    REQUIRE(::send(pair.there.get(), "x", 1, 0) == 1);
    prep::recv_select(ring.sqe(), pair.here.get(), buffers.group(), 0, 0, Token{i});
    const Completion completion = ring.of(i);
    REQUIRE(completion.res == 1);
    const std::uint16_t id = buffers.take(completion.flags);
    seen.insert(id);
    CHECK(buffers.in_use() == 1);
    buffers.recycle(id);
    buffers.publish(2);
    CHECK(buffers.with_kernel() == 2);
  }
  CHECK(seen.size() == 2);  // and without a number, all 64
  buffers.publish(5);
  CHECK(buffers.with_kernel() == 5);
  buffers.publish(3);  // nothing is taken back from the kernel
  CHECK(buffers.with_kernel() == 5);
  buffers.publish();
  CHECK(buffers.spare() == 0);
}

TEST_CASE("a recycled buffer is seen by the kernel when it is published, and not before") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_buffer_rings(), "provided-buffer rings need Linux 5.19");
  Provided provided(1);
  provided.say("first");
  const Completion first = provided.receive(1);
  REQUIRE(first.res == 5);
  provided.say("second");
  CHECK(provided.receive(2).res == -ENOBUFS);
  provided.buffers.recycle(provided.buffers.take(first.flags));
  CHECK(provided.receive(3).res == -ENOBUFS);
  provided.buffers.publish();
  const Completion second = provided.receive(4);
  CHECK(second.res == 6);  // and nothing was lost meanwhile
  provided.buffers.recycle(provided.buffers.take(second.flags));
}

TEST_CASE("the tail of a buffer ring wraps at 2^16, and the first entry lends it two bytes, unharmed") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_buffer_rings(), "provided-buffer rings need Linux 5.19");
  Provided provided(8);
  // 70,000 buffers through a ring of 8; in lots of 8, each of which uses the first entry once.
  std::uint64_t token = 0;
  for (unsigned lot = 0; lot < 70'000 / 8; ++lot) {
    std::array<std::uint16_t, 8> ids{};
    for (std::uint16_t& id : ids) {
      const auto byte = static_cast<char>(token);
      REQUIRE(::send(provided.pair.there.get(), &byte, 1, 0) == 1);
      const Completion completion = provided.receive(++token);
      REQUIRE(completion.res == 1);
      id = provided.buffers.take(completion.flags);
      REQUIRE(static_cast<char>(*provided.buffers.data(id)) == byte);
    }
    REQUIRE(provided.buffers.with_kernel() == 0);
    for (const std::uint16_t id : ids) provided.buffers.recycle(id);
    provided.buffers.publish();
  }
  if (const auto head = provided.kernel_head()) CHECK(*head == static_cast<std::uint16_t>(token));
}

TEST_CASE("what the kernel has of a buffer ring is what we gave minus what we took") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_buffer_rings(), "provided-buffer rings need Linux 5.19");
  Provided provided(4);
  SKIP_UNLESS(provided.kernel_head().has_value(),
              "the kernel tells its place in a buffer ring since Linux 6.8");
  CHECK(provided.kernel_head() == std::uint16_t{0});
  provided.say("x");
  const Completion completion = provided.receive(1);
  CHECK(provided.kernel_head() == std::uint16_t{1});
  provided.buffers.recycle(provided.buffers.take(completion.flags));
  provided.buffers.publish();
  CHECK(provided.kernel_head() == std::uint16_t{1});
}

TEST_CASE("a group can be registered once, and a refusal leaves nothing behind") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_buffer_rings(), "provided-buffer rings need Linux 5.19");
  tests::kernel::WatchedRegistration old{.refused = IORING_REGISTER_PBUF_RING, .error = -EINVAL};
  BufferRing first(2, 64);
  BufferRing second(2, 64);
  {
    const uring::Ring ring({.entries = 4}, old.kernel());
    CHECK(first.register_with(ring, group) == -EINVAL);
    CHECK(first.with_kernel() == 0);
  }
  const uring::Ring ring({.entries = 4});
  CHECK(first.register_with(ring, group) == 0);
  CHECK(second.register_with(ring, group) == -EEXIST);
  CHECK(second.with_kernel() == 0);
  CHECK(second.register_with(ring, BufferGroup{8}) == 0);
}

}  // namespace

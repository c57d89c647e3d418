// What is shown here of slots: when a file that was taken out of the ring's table is let go.
//
//      slot 0   an operation that waits          peer 0
//      slot 1   CLOSE: its CQE says 0            peer 1: does it see the end of the stream?
//
// A peer that sees the end shows that the socket is gone: nobody else holds it. The rings have no flags, so what a CLOSE
// lets go of is gone when the submission returns, and nothing here waits for what should come at once.

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>

#include "servers/common_ring/slots_let_go.hpp"
#include "tests/kernel/kernel_support.hpp"
#include "tests/support/fact.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"

namespace {

using namespace tests::kernel;
using uring::Ring;
using uring::Token;
namespace prep = uring::prep;

constexpr const char* until_the_others_ended = "only when what was in flight on other slots has ended";

/// Two sockets in the two slots of a ring, and what waits on the first of them.
struct TwoSlots {
  std::array<std::array<uring::FileDescriptor, 2>, 2> sockets{};  // ours, and the peer's
  alignas(4096) std::array<char, 4096> bytes{};                   // the ring goes first
  Ring ring{{.entries = 8, .flags = 0, .register_ring_fd = false}};

  TwoSlots() {
    for (auto& [ours, peer] : sockets) {
      std::array<int, 2> ends{};
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
      ours.reset(ends[0]);
      peer.reset(ends[1]);
    }
    std::array<int, 2> table{sockets[0][0].get(), sockets[1][0].get()};
    REQUIRE(ring.kernel().register_(ring.kernel().self, ring.fd(), IORING_REGISTER_FILES, table.data(), 2) ==
            0);
    sockets[1][0].reset();  // the slot has a reference of its own
  }

  void receive_from_slot_0() {
    io_uring_sqe& sqe = next(ring);
    prep::recv(sqe, 0, bytes.data(), 1, 0, Token{1});
    prep::fixed_file(sqe);
  }
  void close_slot_1() { prep::close_direct(next(ring), {1}, Token{2}); }

  bool sees_the_end(std::chrono::milliseconds time) const {
    ::pollfd end{.fd = sockets[1][1].get(), .events = POLLIN, .revents = 0};
    return ::poll(&end, 1, static_cast<int>(time.count())) == 1;
  }

  /// Ends what waits on the first, and then the peer of the second must see its end. (6.1 takes a second for it.)
  void end_the_other() {
    REQUIRE(::send(sockets[0][1].get(), "x", 1, 0) == 1);
    CHECK(results(ring, 1) == "1:1");
    CHECK(sees_the_end(std::chrono::duration_cast<std::chrono::milliseconds>(patience)));
  }
};

#define SKIP_WITHOUT_SLOTS()                                                 \
  SKIP_WITHOUT_IO_URING();                                                   \
  SKIP_UNLESS((Ring({.entries = 1}).features() & IORING_FEAT_CQE_SKIP) != 0, \
              "CLOSE of a slot (5.15) is known by 5.17's bits")

FACT("a closed slot lets go of its socket at once, although a receive waits on another slot") {
  SKIP_WITHOUT_SLOTS();
  TwoSlots two;
  two.receive_from_slot_0();
  two.close_slot_1();
  CHECK(results(two.ring, 1) == "2:0");
  const bool at_once = two.sees_the_end(0ms);
  CHECK(at_once == common_ring::slots_let_go());
  // It is empty in either case, and nothing tells that its socket is kept.
  prep::close_direct(next(two.ring), {1}, Token{3});
  CHECK(results(two.ring, 1) == "3:-EBADF");
  two.end_the_other();
  if (!at_once) return tests::differs(until_the_others_ended);
}

FACT("a closed slot lets go of its socket, although a READ_FIXED of a descriptor waits") {
  SKIP_WITHOUT_SLOTS();
  TwoSlots two;
  const ::iovec memory{.iov_base = two.bytes.data(), .iov_len = two.bytes.size()};
  ::iovec buffers = memory;
  REQUIRE(two.ring.kernel().register_(two.ring.kernel().self, two.ring.fd(), IORING_REGISTER_BUFFERS,
                                      &buffers, 1) == 0);
  prep::read_fixed(next(two.ring), two.sockets[0][0].get(), two.bytes.data(), 1, 0, 0, Token{1});
  two.close_slot_1();
  CHECK(results(two.ring, 1) == "2:0");
  const bool at_once = two.sees_the_end(0ms);
  two.end_the_other();
  // One count of references for all that is registered, files and buffers.
  if (!at_once) return tests::differs("only when what was in flight with a registered buffer has ended");
}

FACT("a SHUTDOWN hard-linked to the CLOSE of a slot sends FIN, whatever waits on other slots") {
  SKIP_WITHOUT_SLOTS();
  TwoSlots two;
  two.receive_from_slot_0();
  io_uring_sqe& shutdown = next(two.ring);
  prep::shutdown(shutdown, 1, SHUT_RDWR, Token{3});
  prep::fixed_file(shutdown);
  prep::hardlink(shutdown);
  two.close_slot_1();
  CHECK(text_of(sorted(take(two.ring, 2))) == "2:0 3:0");
  CHECK(two.sees_the_end(0ms));
  two.end_the_other();
}

}  // namespace

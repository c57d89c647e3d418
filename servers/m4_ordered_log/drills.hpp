// Drills: one thing that goes wrong, or seems to, made to happen and told.
//
//   m4_ordered_log --drill stall        DRAIN on the ring that serves the clients: one who is silent stops everything
//   m4_ordered_log --drill two-writes   two writes to one place: which is the last? with DRAIN between them, and without
//
// Each ends by itself within seconds, exit code 0: what is told has happened, or this kernel cannot show it and that is
// said ("skipped"); 1: on this kernel it did not happen.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "servers/common/start_error.hpp"
#include "uring/errors.hpp"
#include "uring/owned.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

namespace ordered_log {

enum class Drill : std::uint8_t { none, stall, two_writes };

namespace detail {

using uring::Token;
namespace prep = uring::prep;
using DrillClock = std::chrono::steady_clock;

/// A file without a name, in memory.
inline uring::FileDescriptor scratch_file() {
  uring::FileDescriptor file(::memfd_create("drill", MFD_CLOEXEC));
  if (!file)
    throw common::StartError(common::exit_failed, "no file for the drill: " + common::errno_text(errno));
  return file;
}

struct Socket {
  uring::FileDescriptor ours{};
  uring::FileDescriptor clients{};
};

inline Socket socket_pair() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    throw common::StartError(common::exit_failed, "no sockets for the drill: " + common::errno_text(errno));
  }
  return {.ours = uring::FileDescriptor(pair[0]), .clients = uring::FileDescriptor(pair[1])};
}

inline io_uring_sqe& next_of(uring::Ring& ring) {
  if (io_uring_sqe* const sqe = ring.next_sqe()) return *sqe;
  throw common::StartError(common::exit_failed, "no SQE is free");
}

/// Tells each completion of a ring, with its time.
class Told {
 public:
  Told(uring::Ring& ring, std::vector<const char*> names) : ring_(ring), names_(std::move(names)) {}

  /// Submits, and listens for so long, or until `enough` have come. (One at a time: on a ring with DEFER_TASKRUN a wait
  /// for more can sleep through a DRAIN, see docs/kernel-facts.md.)
  unsigned listen(std::chrono::milliseconds time, unsigned enough) {
    unsigned heard = 0;
    for (const auto end = DrillClock::now() + time; heard < enough && DrillClock::now() < end;) {
      ring_.submit_and_wait(1, end - DrillClock::now());
      ring_.harvest([&](const io_uring_cqe& cqe) {
        ++heard;
        const std::string result = cqe.res < 0 ? "-" + uring::errno_name(-cqe.res) : std::to_string(cqe.res);
        const std::chrono::duration<double, std::milli> since = DrillClock::now() - start_;
        std::printf("  %7.1f ms  CQE  %-34s %s\n", since.count(), names_[cqe.user_data], result.c_str());
      });
    }
    if (heard == 0) std::printf("              nothing for %lld ms\n", static_cast<long long>(time.count()));
    return heard;
  }

 private:
  uring::Ring& ring_;
  std::vector<const char*> names_;
  DrillClock::time_point start_ = DrillClock::now();
};

inline int cancel_without_an_sqe(const uring::Ring& ring, Token target) {
  io_uring_sync_cancel_reg cancel{};
  cancel.addr = target.bits;
  cancel.fd = -1;
  cancel.timeout = {.tv_sec = -1, .tv_nsec = -1};
  return ring.kernel().register_(ring.kernel().self, ring.fd(), IORING_REGISTER_SYNC_CANCEL, &cancel, 1);
}

inline constexpr const char* stall_names[] = {"",
                                              "receive from A, who is silent",
                                              "write of B's record",
                                              "fsync with DRAIN",
                                              "receive from B, whose bytes are there",
                                              "cancellation of A's receive"};

/// A's receive, B's record with its fsync, and B's next request, which has come already.
inline void submit_a_stall(uring::Ring& ring, const Socket& a, const Socket& b, int file, char* bytes) {
  prep::recv(next_of(ring), a.ours.get(), bytes, 8, 0, Token{1});
  prep::write(next_of(ring), file, "record", 6, 0, Token{2});
  io_uring_sqe& fsync = next_of(ring);
  prep::fsync(fsync, file, IORING_FSYNC_DATASYNC, Token{3});
  prep::drain(fsync);
  prep::recv(next_of(ring), b.ours.get(), bytes + 8, 8, 0, Token{4});
}

}  // namespace detail

inline int drill_stall() {
  using namespace detail;
  const uring::FileDescriptor file = scratch_file();
  const Socket a = socket_pair();
  const Socket b = socket_pair();
  char bytes[16];
  if (::send(b.clients.get(), "hello", 5, 0) != 5) return common::exit_failed;
  uring::Ring ring({.entries = 16});
  if (cancel_without_an_sqe(ring, Token{1}) ==
      -EINVAL) {  // known, it would say that there is no such operation
    std::printf(
        "skipped: without IORING_REGISTER_SYNC_CANCEL (6.0) nothing ends the stall that this would show\n");
    return common::exit_clean;
  }
  Told told(ring, {std::begin(stall_names), std::end(stall_names)});

  std::printf(
      "One ring for the clients and for the log. A is a client who says nothing; B wants a record written.\n"
      "Submitted: receive from A, B's write, its fsync with DRAIN, receive from B, who has sent more:\n");
  submit_a_stall(ring, a, b, file.get(), bytes);
  bool as_told = told.listen(std::chrono::milliseconds(300), 2) == 1;
  std::printf(
      "The fsync waits for everything before it, and A's receive is before it. Everything behind it waits "
      "for it.\n"
      "Give up A's receive, by an SQE:\n");
  prep::async_cancel(next_of(ring), Token{1}, Token{5});
  as_told = told.listen(std::chrono::milliseconds(300), 1) == 0 && as_told;
  std::printf(
      "The cancellation stands behind the DRAIN, too. By a system call (IORING_REGISTER_SYNC_CANCEL, "
      "6.0):\n");
  as_told = cancel_without_an_sqe(ring, Token{1}) == 0 && as_told;
  as_told = told.listen(std::chrono::seconds(5), 4) == 4 && as_told;

  std::printf("\nThe same with a ring of the log's own:\n");
  uring::Ring log({.entries = 16});
  Told of_log(log, {std::begin(stall_names), std::end(stall_names)});
  prep::recv(next_of(ring), a.ours.get(), bytes, 8, 0, Token{1});
  ring.submit();
  prep::write(next_of(log), file.get(), "record", 6, 0, Token{2});
  io_uring_sqe& fsync = next_of(log);
  prep::fsync(fsync, file.get(), IORING_FSYNC_DATASYNC, Token{3});
  prep::drain(fsync);
  as_told = of_log.listen(std::chrono::seconds(5), 2) == 2 && as_told;
  std::printf("What happens on one ring is no concern of the other. A speaks at last:\n");
  as_told = ::send(a.clients.get(), "hello", 5, 0) == 5 && as_told;
  as_told = told.listen(std::chrono::seconds(5), 1) == 1 && as_told;
  if (!as_told) std::printf("\nThat is not what was to be shown: this kernel does it in another way.\n");
  return as_told ? common::exit_clean : common::exit_failed;
}

namespace detail {

struct TwoWrites {
  unsigned in_order = 0;
  unsigned failed = 0;
};

/// Writes a large A and then a small B to the same place, again and again: how often is B what stays?
inline TwoWrites write_twice(unsigned rounds, bool drains) {
  const uring::FileDescriptor file = scratch_file();
  uring::Ring ring({.entries = 4});
  const std::string a(std::size_t{1} << 20, 'A');
  const std::string b(4096, 'B');
  TwoWrites all;
  for (unsigned round = 0; round < rounds; ++round) {
    io_uring_sqe& first = next_of(ring);
    prep::write(first, file.get(), a.data(), static_cast<std::uint32_t>(a.size()), 0, Token{1});
    prep::force_async(first);
    io_uring_sqe& second = next_of(ring);
    prep::write(second, file.get(), b.data(), static_cast<std::uint32_t>(b.size()), 0, Token{2});
    if (drains) prep::drain(second);
    for (unsigned completed = 0; completed < 2;) {
      if (ring.submit_and_wait(1).error != 0)
        throw common::StartError(common::exit_failed, "the ring failed");
      ring.harvest([&](const io_uring_cqe& cqe) {
        ++completed;
        if (cqe.res != static_cast<int>(cqe.user_data == 1 ? a.size() : b.size())) ++all.failed;
      });
    }
    char stays = 0;
    if (::pread(file.get(), &stays, 1, 0) != 1) ++all.failed;
    all.in_order += stays == 'B' ? 1 : 0;
  }
  return all;
}

}  // namespace detail

inline int drill_two_writes() {
  constexpr unsigned rounds = 100;
  std::printf(
      "Two writes to one place of a file, submitted together: 1 MiB of A by a worker thread (IOSQE_ASYNC), "
      "then 4 KiB "
      "of B.\n");
  const detail::TwoWrites plain = detail::write_twice(rounds, false);
  std::printf("  without DRAIN     B, the second, is what stays in %3u of %u rounds\n", plain.in_order,
              rounds);
  const detail::TwoWrites drained = detail::write_twice(rounds, true);
  std::printf("  with DRAIN on B   B, the second, is what stays in %3u of %u rounds\n", drained.in_order,
              rounds);
  std::printf(
      "SQEs are begun in order, and finished in any. Without DRAIN (or a link) the order of two writes is "
      "not "
      "promised,\nwhatever the number above says on this machine today.\n");
  const bool as_told = drained.in_order == rounds && plain.failed + drained.failed == 0;
  return as_told ? common::exit_clean : common::exit_failed;
}

inline int run(Drill drill) { return drill == Drill::stall ? drill_stall() : drill_two_writes(); }

}  // namespace ordered_log

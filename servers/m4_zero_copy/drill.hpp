// Two drills, on sockets of their own and without a server: m4_zero_copy --drill early-reuse | notifications
//
//      SEND_ZC ──► CQE, F_MORE: "these bytes are queued" ────────────► CQE, F_NOTIF: "your buffer is free"
//                  ▲                                                   ▲
//                  here the buffer of a plain SEND is free again       only here that of a SEND_ZC
//
// early-reuse changes the buffer between the two, while the bytes still wait for the peer: the peer receives
// what was never sent. No error tells of it. notifications shows which completions each kind of end has,
// successful or not.
//
// The rule that holds in all of them, and that the server is built on: a CQE with F_MORE will be followed by
// a notification, whatever its res is, and the buffer is the kernel's until then. The converse does not hold:
// a CQE without F_MORE may be followed by one, too, so its token must stay recognisable.
//
// Each line says what was seen and whether it is as expected. What other kernels do differently within the
// rule is said, and is no failure. Seen on 6.1, 6.12, 6.18 and 7.3; SEND_ZC came with 6.0, its reports with 6.2.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "servers/common/ending.hpp"
#include "servers/common/start_error.hpp"
#include "uring/capabilities.hpp"
#include "uring/errors.hpp"
#include "uring/owned.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

namespace m4_zero_copy {

// ---- What both drills need --------------------------------------------------------------------------------

/// A completion, or none in the time that it had.
struct Seen {
  bool came = false;
  int res = 0;
  std::uint32_t flags = 0;

  bool more() const { return (flags & IORING_CQE_F_MORE) != 0; }
  bool notification() const { return (flags & IORING_CQE_F_NOTIF) != 0; }
  bool copied() const { return (static_cast<std::uint32_t>(res) & uring::abi::notif_usage_zc_copied) != 0; }

  /// "4096 F_MORE", "-EPIPE", "NOTIF copied"
  std::string text() const {
    if (!came) return "nothing";
    if (notification()) return copied() ? "NOTIF copied" : "NOTIF";
    const std::string result = res < 0 ? "-" + uring::errno_name(-res) : std::to_string(res);
    return result + (more() ? " F_MORE" : "");
  }
};

/// What must come is given this long; what should not come is watched for that long.
inline constexpr std::chrono::seconds long_enough{10};
inline constexpr std::chrono::milliseconds a_while{100};

/// A ring whose completions are asked for one by one, and the lines that a drill prints.
class Trial {
 public:
  void title(const char* text) { std::printf("\n%s\n", text); }
  void say(const char* label, const std::string& text) { std::printf("  %-14s %s\n", label, text.c_str()); }
  void check(const char* label, const std::string& text, bool as_expected) {
    say(label, text + (as_expected ? ": as expected" : ": NOT as expected"));
    failed_ = failed_ || !as_expected;
  }
  int status() const { return failed_ ? common::exit_failed : common::exit_clean; }

  io_uring_sqe& sqe() {
    if (io_uring_sqe* const free = ring_.next_sqe()) return *free;
    throw std::runtime_error("no SQE is free");
  }

  /// The next completion of `token`; the others wait for their turn. Submits first.
  Seen next(uring::Token token, std::chrono::milliseconds patience = long_enough) {
    const auto end = std::chrono::steady_clock::now() + patience;
    for (;;) {
      const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                      [token](const auto& one) { return one.first == token.bits; });
      if (found != waiting_.end()) {
        const Seen seen = found->second;
        waiting_.erase(found);
        return seen;
      }
      const auto left = end - std::chrono::steady_clock::now();
      if (left.count() <= 0) return {};
      ring_.submit_and_wait(1, left);
      ring_.harvest([this](const io_uring_cqe& cqe) {
        waiting_.emplace_back(cqe.user_data, Seen{.came = true, .res = cqe.res, .flags = cqe.flags});
      });
    }
  }

 private:
  uring::Ring ring_{{.entries = 8}};
  std::deque<std::pair<std::uint64_t, Seen>> waiting_{};
  bool failed_ = false;
};

/// Two connected TCP sockets on loopback. The receiver has little room, and nobody reads.
struct Connection {
  uring::FileDescriptor sender{};
  uring::FileDescriptor receiver{};
  std::size_t waiting = 0;  // bytes that were sent and not received

  Connection() : sender(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const uring::FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int little = 4096;
    const int much = 256 << 10;
    ::setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    ::setsockopt(sender.get(), SOL_SOCKET, SO_SNDBUF, &much, sizeof much);
    ::sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::socklen_t size = sizeof name;
    auto* const address = reinterpret_cast<::sockaddr*>(&name);
    if (::bind(listener.get(), address, size) != 0 || ::listen(listener.get(), 1) != 0 ||
        ::getsockname(listener.get(), address, &size) != 0 || ::connect(sender.get(), address, size) != 0) {
      throw std::system_error(errno, std::generic_category(), "a connection on loopback");
    }
    receiver.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const ::timeval patience{.tv_sec = long_enough.count(), .tv_usec = 0};
    ::setsockopt(receiver.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }

  /// More than the receiver has room for: what is sent now stays with the sender until somebody reads.
  void fill() {
    const std::string filler(64 << 10, '-');
    const ::ssize_t taken = ::send(sender.get(), filler.data(), filler.size(), MSG_DONTWAIT);
    waiting += taken > 0 ? static_cast<std::size_t>(taken) : 0;
  }

  /// The next `size` bytes that the receiver gets; fewer at the end, or when none come.
  std::string receive(std::size_t size) const {
    std::string bytes(size, '\0');
    const ::ssize_t got = ::recv(receiver.get(), bytes.data(), size, MSG_WAITALL);
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return bytes;
  }

  /// RST: what was not received is thrown away on both sides.
  static void reset(uring::FileDescriptor& end) {
    const ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(end.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    end.reset();
  }
};

/// Throws StartError, exit code 3, where the kernel has no SEND_ZC; SetupError, where it has no rings.
inline void need_zero_copy() {
  const uring::Capabilities kernel = uring::probe_capabilities();
  if (kernel.setup_error == 0 && !kernel.has_opcode(IORING_OP_SEND_ZC)) {
    throw common::StartError(common::exit_no_io_uring, "SEND_ZC needs Linux 6.0");
  }
}

// ---- early-reuse ------------------------------------------------------------------------------------------

inline constexpr unsigned reused_bytes = 4096;

/// Sends a buffer of 'a', and makes it 'Z' as soon as the first CQE is there.
inline void reuse_early(Trial& trial, bool zero_copy) {
  constexpr uring::Token token{1};
  Connection pair;
  pair.fill();
  std::string buffer(reused_bytes, 'a');
  if (zero_copy) {
    uring::prep::send_zc(trial.sqe(), pair.sender.get(), buffer.data(), reused_bytes, 0, 0, token);
  } else {
    uring::prep::send(trial.sqe(), pair.sender.get(), buffer.data(), reused_bytes, 0, token);
  }
  const Seen sent = trial.next(token);
  trial.check("sent", "4096 bytes of 'a', behind a window that is full; CQE: " + sent.text(),
              sent.res == static_cast<int>(reused_bytes) && sent.more() == zero_copy);
  std::fill(buffer.begin(), buffer.end(), 'Z');
  const Seen early = trial.next(token, a_while);
  trial.check("changed", "the buffer is all 'Z' now; before that came " + early.text(), !early.came);

  pair.receive(pair.waiting);  // what was in front of it
  const std::string got = pair.receive(reused_bytes);
  const auto changed = static_cast<std::size_t>(std::count(got.begin(), got.end(), 'Z'));
  trial.check("received",
              std::to_string(got.size()) + " bytes, of which " + std::to_string(changed) + " are 'Z'",
              got.size() == reused_bytes && changed == (zero_copy ? reused_bytes : 0));
  if (!zero_copy) return;
  const Seen freed = trial.next(token);
  trial.check("notification", "after the peer has received it: " + freed.text(), freed.notification());
}

/// 0, or 1: something is not as this file says. Throws SetupError or StartError where there is nothing to
/// show.
inline int drill_early_reuse() {
  need_zero_copy();
  Trial trial;
  std::printf(
      "A buffer that is changed before its notification. The peer does not read yet, so the bytes wait.\n");
  trial.title("SEND_ZC: the socket's queue points into our buffer, and what lies there goes out");
  reuse_early(trial, true);
  trial.title("SEND: the socket has a copy, and the buffer is ours again with the one CQE");
  reuse_early(trial, false);
  std::printf(
      "\nNothing failed, and the peer has bytes that nobody sent. Hence the ledger: one buffer, one "
      "owner.\n");
  return trial.status();
}

// ---- notifications ----------------------------------------------------------------------------------------

/// Both completions of a SEND_ZC: "-EBADF F_MORE, then NOTIF". Without F_MORE a notification may come, or may
/// not.
struct Ends {
  Seen first{};
  Seen last{};

  std::string text() const { return first.text() + ", then " + last.text(); }
  /// What holds on every kernel: F_MORE promises a notification.
  bool keeps_the_rule() const { return first.came && (!first.more() || last.notification()); }
};

inline Ends watch(Trial& trial, uring::Token token) {
  Ends ends{.first = trial.next(token)};
  ends.last = trial.next(token, ends.first.more() ? std::chrono::milliseconds(long_enough) : a_while);
  return ends;
}

/// A send that fails with `error` (positive).
inline void check_failure(Trial& trial, const char* label, const Ends& ends, int error) {
  const bool holds = ends.keeps_the_rule() && ends.first.res == -error;
  const bool alone = !ends.first.more() && !ends.last.came;
  trial.check(label, ends.text() + (alone ? " (one CQE: this kernel notifies of no failure)" : ""), holds);
}

inline void show_success(Trial& trial) {
  constexpr uring::Token token{1};
  const Connection pair;
  uring::prep::send_zc(trial.sqe(), pair.sender.get(), "hello", 5, 0, 0, token);
  const Ends plain = watch(trial, token);
  trial.check("success", plain.text(), plain.keeps_the_rule() && plain.first.res == 5 && plain.first.more());

  constexpr uring::Token reporting{2};
  uring::prep::send_zc(trial.sqe(), pair.sender.get(), "hello", 5, 0, uring::abi::send_zc_report_usage,
                       reporting);
  const Ends ends = watch(trial, reporting);
  if (ends.first.res == -EINVAL) {
    trial.check("REPORT_USAGE", ends.text() + " (needs Linux 6.2)", ends.keeps_the_rule());
  } else {
    trial.check("REPORT_USAGE", ends.text() + " (over loopback the kernel always copies)",
                ends.keeps_the_rule() && ends.last.copied());
  }
}

/// From Linux 7.1 on the second completion can have a name of its own. Before, an SQE that asks for it is refused.
inline void show_own_token(Trial& trial) {
  constexpr uring::Token token{1};
  constexpr uring::Token of_notification{2};
  const Connection pair;
  io_uring_sqe& sqe = trial.sqe();
  uring::prep::send_zc(sqe, pair.sender.get(), "hello", 5, 0, 0, token);
  uring::prep::set_notification_token(sqe, of_notification);
  const Seen sent = trial.next(token);
  if (sent.res == -EINVAL) {
    trial.check("own token", sent.text() + " (needs Linux 7.1)", !sent.more());
  } else {
    const Seen freed = trial.next(of_notification);
    trial.check("own token", sent.text() + ", then, under another user_data, " + freed.text(),
                sent.res == 5 && sent.more() && freed.notification());
  }
}

inline void show_failures(Trial& trial) {
  constexpr uring::Token token{1};
  uring::prep::send_zc(trial.sqe(), -1, "x", 1, 0, 0, token);
  check_failure(trial, "no descriptor", watch(trial, token), EBADF);

  const Connection shut;
  ::shutdown(shut.sender.get(), SHUT_WR);
  uring::prep::send_zc(trial.sqe(), shut.sender.get(), "x", 1, 0, 0, token);
  check_failure(trial, "after shutdown", watch(trial, token), EPIPE);

  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw std::system_error(errno, std::generic_category(), "a pair of sockets");
  }
  const uring::FileDescriptor here(ends[0]);
  const uring::FileDescriptor there(ends[1]);
  uring::prep::send_zc(trial.sqe(), here.get(), "x", 1, 0, 0, token);
  check_failure(trial, "Unix socket", watch(trial, token), EOPNOTSUPP);
}

/// The one completion that breaks "no F_MORE, so nothing more will come".
inline void show_cancelled_by_link(Trial& trial) {
  constexpr uring::Token token{1};
  constexpr uring::Token failing{2};
  const Connection pair;
  char byte = 0;
  io_uring_sqe& first = trial.sqe();
  uring::prep::read(first, -1, &byte, 1, 0, failing);
  uring::prep::link(first);
  uring::prep::send_zc(trial.sqe(), pair.sender.get(), "x", 1, 0, 0, token);
  trial.next(failing);
  const Ends ends = watch(trial, token);
  std::string text = ends.text();
  if (!ends.first.more()) text += ends.last.came ? " (no F_MORE, and a notification)" : " (one CQE)";
  trial.check("link cancelled", text, ends.keeps_the_rule() && ends.first.res == -ECANCELED);
}

/// The socket is closed, the send long complete, and the buffer is still the kernel's. `reset`: how the peer
/// ends it.
inline void show_late(Trial& trial, bool reset) {
  constexpr uring::Token token{1};
  Connection pair;
  pair.fill();
  const std::string buffer(reused_bytes, 'a');
  uring::prep::send_zc(trial.sqe(), pair.sender.get(), buffer.data(), reused_bytes, 0, 0, token);
  const Seen sent = trial.next(token);
  trial.check("sent", "into a full window: " + sent.text(), sent.res == static_cast<int>(reused_bytes));
  pair.sender.reset();
  const Seen early = trial.next(token, a_while);
  trial.check("closed", "our socket is gone; since then came " + early.text(), !early.came);
  if (reset) {
    Connection::reset(pair.receiver);
  } else {
    pair.receive(pair.waiting + reused_bytes);
  }
  const Seen freed = trial.next(token);
  trial.check(reset ? "peer resets" : "peer reads", freed.text(), freed.notification());
}

/// As drill_early_reuse.
inline int drill_notifications() {
  need_zero_copy();
  Trial trial;
  std::printf(
      "Which completions a SEND_ZC has. The rule: behind F_MORE comes a notification, whatever res says.\n");
  trial.title("On a connection that is well");
  show_success(trial);
  show_own_token(trial);
  trial.title("Sends that fail");
  show_failures(trial);
  show_cancelled_by_link(trial);
  trial.title("Long after the end: the peer has not read yet, and then it does");
  show_late(trial, false);
  trial.title("Long after the end: the peer has not read yet, and never will");
  show_late(trial, true);
  return trial.status();
}

}  // namespace m4_zero_copy

// What the drills need: a small ring whose operations have names, a scratch file, two sockets that are
// connected, and a judge.
//
//      DrillRing ring;
//      prep::link(ring.nop("first"));
//      ring.failing("second");
//      drill.expect("first 0, second -EBADF", ring.results());
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

#include "servers/common/descriptor.hpp"
#include "uring/errors.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

namespace linked {

/// Nothing that a drill waits for takes that long.
inline constexpr std::chrono::seconds drill_patience{10};
/// How long to watch that nothing happens.
inline constexpr std::chrono::milliseconds drill_pause{50};

/// One drill, as it tells itself.
class Drill {
 public:
  explicit Drill(const char* name) { std::printf("== %s\n", name); }

  void tell(const char* text) const { std::printf("   %s\n", text); }

  /// What was foretold, and what came.
  void expect(const std::string& expected, const std::string& got) { judge(expected, got, got == expected); }
  void judge(const std::string& expected, const std::string& got, bool as_expected) {
    std::printf("   expected:    %s\n   kernel said: %s\n   %s\n", expected.c_str(), got.c_str(),
                as_expected ? "as expected" : "NOT as expected");
    std::fflush(stdout);
    ok_ = ok_ && as_expected;
  }

  /// This kernel cannot show it.
  void skip(const char* why) const { std::printf("   skipped: %s\n", why); }

  bool ok() const noexcept { return ok_; }

 private:
  bool ok_ = true;
};

[[noreturn]] inline void drill_fails(const char* what) {
  throw std::system_error(errno, std::system_category(), what);
}

inline std::string result_text(int result) {
  return result < 0 ? "-" + uring::errno_name(-result) : std::to_string(result);
}

class DrillRing {
 public:
  /// Prepares an SQE of this name: `fill(sqe, token)`.
  template <class Fill>
  io_uring_sqe& prepare(const char* name, Fill&& fill) {
    io_uring_sqe* const sqe = ring_.next_sqe();
    if (sqe == nullptr) drill_fails("no SQE");
    fill(*sqe, uring::Token{names_.size()});
    names_.push_back(name);
    return *sqe;
  }

  io_uring_sqe& nop(const char* name) {
    return prepare(name, [&](io_uring_sqe& sqe, uring::Token token) { uring::prep::nop(sqe, token); });
  }
  /// Fails when it runs.
  io_uring_sqe& failing(const char* name) {
    return prepare(name, [&](io_uring_sqe& sqe, uring::Token token) {
      uring::prep::read(sqe, -1, scratch_.data(), 1, 0, token);
    });
  }
  /// Fails before it runs: there is no such opcode.
  io_uring_sqe& unparsable(const char* name) {
    return prepare(name, [&](io_uring_sqe& sqe, uring::Token token) {
      uring::prep::fill(sqe, 255, -1, 0, 0, 0, token);
    });
  }

  void submit() {
    while (ring_.submit() > 0) {
    }
  }

  /// Submits, waits for `count` completions, and forgets the names: "READ 5, NOP 0", in the order in which the
  /// SQEs were prepared. Completions that come although there should be no more of them are in it, too.
  std::string results(std::size_t count) {
    const std::vector<int> results = take(count);
    std::string text;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (results[i] == none) continue;
      text += (text.empty() ? "" : ", ") + std::string(names_[i]) + ' ' + result_text(results[i]);
    }
    names_.clear();
    return text;
  }
  /// A completion for each SQE.
  std::string results() { return results(names_.size()); }

  /// The same as numbers, in the order of the SQEs; `none` where nothing came. The names stay.
  static constexpr int none = -100'000;
  std::vector<int> take(std::size_t count) {
    std::vector<int> results(names_.size(), none);
    const auto store = [&](const io_uring_cqe& cqe) { results.at(cqe.user_data) = cqe.res; };
    std::size_t taken = 0;
    for (const auto end = std::chrono::steady_clock::now() + drill_patience;
         taken < count && std::chrono::steady_clock::now() < end;) {
      ring_.submit_and_wait(static_cast<unsigned>(count - taken), drill_patience);
      taken += static_cast<std::size_t>(std::max(ring_.harvest(store), 0));
    }
    if (count < names_.size()) {  // and nothing more
      ring_.submit_and_wait(1, drill_pause);
      ring_.harvest(store);
    }
    return results;
  }
  void forget_names() { names_.clear(); }

  uring::Ring& ring() { return ring_; }

 private:
  uring::Ring ring_{uring::RingOptions{.entries = 64}};
  std::vector<const char*> names_{};
  std::array<char, 8> scratch_{};
};

/// A file without a name.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& bytes = "") : fd_(::memfd_create("drill", MFD_CLOEXEC)) {
    const auto size = static_cast<::ssize_t>(bytes.size());
    if (!fd_ || ::write(fd_.get(), bytes.data(), bytes.size()) != size) drill_fails("no scratch file");
  }
  int fd() const noexcept { return fd_.get(); }
  std::string content() const {
    std::array<char, 64> bytes{};
    const ::ssize_t size = ::pread(fd_.get(), bytes.data(), bytes.size(), 0);
    return {bytes.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
  }

 private:
  common::Descriptor fd_;
};

/// A client, and the server's end of its connection.
struct Pair {
  common::Descriptor client, server;

  Pair() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) drill_fails("no sockets");
    client.reset(ends[0]);
    server.reset(ends[1]);
  }
  void send(const char* text) const {
    const std::string bytes = text;
    if (::send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) drill_fails("cannot send");
  }
  /// What the client has received by now.
  std::string received() const {
    std::array<char, 64> bytes{};
    const ::ssize_t size = ::recv(client.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    return {bytes.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
  }
};

}  // namespace linked

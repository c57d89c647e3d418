// What the tests on the real kernel share: reading completions, watching the system calls, and the small
// change (pipes, children, signals, other threads) that it takes to put a ring into a situation.
//
// The results of operations are compared as text, in the order in which they arrived:
//
//     CHECK(results(ring, 3) == "1:0 2:-EBADF 3:-ECANCELED");        user_data:res
//
// Invariant: nothing here waits for ever. What should come is given `patience`, a time that no test needs and
// no loaded machine reaches; then the wait returns and the test fails by what it compares.
#pragma once

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/skip.hpp"
#include "tests/support/sqe.hpp"
#include "uring/capabilities.hpp"
#include "uring/errors.hpp"
#include "uring/owned.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"
#include "uring/syscalls.hpp"

namespace tests::kernel {

using namespace std::chrono_literals;

/// How long to wait for what must come.
inline constexpr std::chrono::nanoseconds patience = 20s;

/// How long to watch that something does *not* happen.
inline constexpr std::chrono::milliseconds a_while = 50ms;

using Clock = std::chrono::steady_clock;

// ---- What this kernel can do ------------------------------------------------------------------------------
//
// Asked and tried: a version number knows neither what a distribution brought back nor what a sandbox took away.

/// What uring_probe would print here.
inline const uring::Capabilities& this_kernel() {
  static const uring::Capabilities found = uring::probe_capabilities();
  return found;
}

inline bool has_deferred() { return this_kernel().has_setup_flag(IORING_SETUP_DEFER_TASKRUN); }

/// For flags inside an SQE, which the kernel lists nowhere: whether it can parse what `prepare` writes. What it cannot
/// parse completes at once with -EINVAL. The operation ends with the ring that it is tried on.
template <class Prepare>
bool understands(Prepare prepare) {
  uring::Ring ring({.entries = 1});
  prepare(must(ring.next_sqe()));
  ring.submit_and_wait(0);
  bool refused = false;
  ring.harvest([&](const io_uring_cqe& cqe) { refused = cqe.res == -EINVAL; });
  return !refused;
}

/// A table of empty slots, and accept and socket into a slot, came with it (5.19).
inline bool has_sparse_tables() {
  const uring::Ring ring({.entries = 1});
  io_uring_rsrc_register table{};
  table.nr = 1;
  table.flags = IORING_RSRC_REGISTER_SPARSE;
  return uring::real_kernel.register_(nullptr, ring.fd(), IORING_REGISTER_FILES2, &table, sizeof table) == 0;
}

/// An open into a slot (5.15), tried on a ring without a table: ENXIO is a sign that the kernel has understood.
inline bool opens_into_slots() {
  return understands([](io_uring_sqe& sqe) {
    uring::prep::openat_direct(sqe, AT_FDCWD, "/", O_RDONLY, 0, uring::DirectSlot{0}, uring::Token{1});
  });
}

inline bool has_multishot_poll() {
  const uring::FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
  return understands(
      [&](io_uring_sqe& sqe) { uring::prep::poll_multishot(sqe, event.get(), POLLIN, uring::Token{1}); });
}

/// True from Linux `major`.`minor` on: for what can neither be asked for nor tried.
inline bool linux_at_least(int major, int minor) {
  utsname name{};
  int here_major = 0;
  int here_minor = 0;
  if (::uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &here_major, &here_minor) != 2) return false;
  return here_major != major ? here_major > major : here_minor >= minor;
}

// ---- Completions ------------------------------------------------------------------------------------------

/// A CQE, copied out of the ring.
struct Completion {
  std::uint64_t user_data;
  int res;
  std::uint32_t flags;

  bool more() const { return (flags & IORING_CQE_F_MORE) != 0; }
};

inline Completion copy_of(const io_uring_cqe& cqe) { return {cqe.user_data, cqe.res, cqe.flags}; }

/// "1:0 2:-EBADF": user_data and res of each, in this order.
inline std::string text_of(const std::vector<Completion>& completions) {
  std::string text;
  for (const Completion& completion : completions) {
    if (!text.empty()) text += ' ';
    text += std::to_string(completion.user_data) + ':';
    text += completion.res < 0 ? '-' + uring::errno_name(-completion.res) : std::to_string(completion.res);
  }
  return text;
}

inline std::vector<Completion> sorted(std::vector<Completion> completions) {
  std::sort(completions.begin(), completions.end(),
            [](const Completion& a, const Completion& b) { return a.user_data < b.user_data; });
  return completions;
}

/// Submits, waits until `count` completions have come and harvests them; fewer if `patience` ends. Never
/// more.
template <bool Sqpoll>
std::vector<Completion> take(uring::BasicRing<Sqpoll>& ring, std::size_t count) {
  std::vector<Completion> taken;
  const auto deadline = Clock::now() + patience;
  while (taken.size() < count && Clock::now() < deadline) {
    ring.submit_and_wait(static_cast<unsigned>(count - taken.size()), patience);
    ring.harvest([&](const io_uring_cqe& cqe) {
      taken.push_back(copy_of(cqe));
      return taken.size() < count;
    });
  }
  return taken;
}

template <bool Sqpoll>
std::string results(uring::BasicRing<Sqpoll>& ring, std::size_t count) {
  return text_of(take(ring, count));
}

/// What is there now, without waiting.
template <bool Sqpoll>
std::vector<Completion> harvest_all(uring::BasicRing<Sqpoll>& ring) {
  std::vector<Completion> taken;
  while (ring.harvest([&](const io_uring_cqe& cqe) { taken.push_back(copy_of(cqe)); }) > 0) {
  }
  return taken;
}

/// The next SQE of a ring, or of a batch, that has room.
template <class Source>
io_uring_sqe& next(Source& source) {
  io_uring_sqe* sqe = nullptr;
  if constexpr (requires { source.next_sqe(); }) {
    sqe = source.next_sqe();
  } else {
    sqe = source.next();
  }
  return must(sqe);
}

// ---- The kernel, watched ----------------------------------------------------------------------------------

/// The real kernel behind a counter: what strace would show, without strace.
struct WatchedKernel {
  unsigned setups = 0, enters = 0, registers = 0, maps = 0;
  int last_fd = -1;  // of the last enter
  unsigned last_flags = 0;

  uring::Kernel kernel() {
    return {[](void* self, unsigned entries, io_uring_params* params) {
              ++static_cast<WatchedKernel*>(self)->setups;
              return uring::real_kernel.setup(nullptr, entries, params);
            },
            [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const uring::abi::getevents_arg* argument) {
              auto& watched = *static_cast<WatchedKernel*>(self);
              ++watched.enters;
              watched.last_fd = fd;
              watched.last_flags = flags;
              return uring::real_kernel.enter(nullptr, fd, to_submit, min_complete, flags, argument);
            },
            [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
              ++static_cast<WatchedKernel*>(self)->registers;
              return uring::real_kernel.register_(nullptr, fd, opcode, argument, count);
            },
            [](void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
              ++static_cast<WatchedKernel*>(self)->maps;
              return uring::real_kernel.map(nullptr, fd, bytes, offset, address);
            },
            this};
  }
};

// ---- The process and its surroundings ---------------------------------------------------------------------

/// Two ends: reads from the one are pending until somebody writes to the other.
struct Ends {
  uring::FileDescriptor read_end, write_end;

  /// Writes `count` bytes, fewer than fit in between.
  void put(std::size_t count) const {
    const std::vector<char> bytes(count, 'x');
    CHECK(::write(write_end.get(), bytes.data(), count) == static_cast<ssize_t>(count));
  }
};

/// On some kernels a pending read of a pipe is made by a worker thread when bytes come, and its CQE is a little later.
struct Pipe : Ends {
  Pipe() {
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
  }
};

/// A pending read of a socket is made by its own thread, on all of them.
struct SocketPair : Ends {
  SocketPair() {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
  }
};

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  DIR* const folder = ::opendir("/proc/self/fd");
  REQUIRE(folder != nullptr);
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

/// How many mappings of ring memory this process has.
inline std::size_t ring_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("[io_uring]") != line.npos) ++count;
  }
  return count;
}

/// Runs `body` in a forked child and returns what it returns, 0 to 255; or 256 + the signal that ended it.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(20);
    ::_exit(body());
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/// The value behind `key` in a file of /proc; empty if it is not there.
inline std::string value_of(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) == 0) return line.substr(line.find_first_not_of(" \t", key.size()));
  }
  return {};
}

/// How many of this process's threads are workers that the kernel made for its rings. Before 5.12 these were threads of
/// the kernel's own, whose parent is kthreadd, all over the machine.
inline int workers_here() {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream stream(task.path() / "comm");
    std::string name;
    std::getline(stream, name);
    if (name.rfind("iou-wrk", 0) == 0) ++count;
  }
  return count;
}

// ---- Threads and time -------------------------------------------------------------------------------------

/// Looks every millisecond until `condition` holds, or patience ends.
template <class Condition>
bool eventually(Condition condition) {
  for (const auto deadline = Clock::now() + patience; Clock::now() < deadline;) {
    if (condition()) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

/// Calls `body` on a new thread and returns its result (or throws what it threw).
template <class Body>
auto elsewhere(Body body) {
  return std::async(std::launch::async, body).get();
}

inline pid_t this_thread() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

/// Returns when thread `tid` of this process sleeps in the kernel (or patience ends): it has arrived in its
/// wait.
inline void wait_until_asleep(pid_t tid) {
  eventually([path = "/proc/self/task/" + std::to_string(tid) + "/status"] {
    return value_of(path, "State:").rfind('S', 0) == 0;
  });
}

/// "Cpus_allowed_list" of the SQPOLL thread of the ring `fd`, which must have run already.
inline std::string cpus_of_sqpoll_thread(int fd) {
  const std::string thread = value_of("/proc/self/fdinfo/" + std::to_string(fd), "SqThread:");
  return value_of("/proc/self/task/" + thread + "/status", "Cpus_allowed_list:");
}

/// While it lives, sends SIGUSR1 to the thread that created it every few milliseconds, at most for two
/// seconds. The handler only counts; it is installed with SA_RESTART, which io_uring_enter does not care
/// about.
class SignalStorm {
 public:
  SignalStorm() : target_(::pthread_self()) {
    count_ = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { count_ = count_ + 1; };
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGUSR1, &action, &before_);
    sender_ = std::thread([this] {
      for (int sent = 0; sent < 500 && !stop_; ++sent) {
        std::this_thread::sleep_for(4ms);
        ::pthread_kill(target_, SIGUSR1);
      }
    });
  }
  SignalStorm(const SignalStorm&) = delete;
  SignalStorm& operator=(const SignalStorm&) = delete;
  ~SignalStorm() {
    stop_ = true;
    sender_.join();
    ::sigaction(SIGUSR1, &before_, nullptr);
  }

  static int received() { return count_; }

 private:
  static inline volatile std::sig_atomic_t count_ = 0;
  pthread_t target_;
  struct sigaction before_ {};
  std::atomic<bool> stop_{false};
  std::thread sender_;
};

}  // namespace tests::kernel

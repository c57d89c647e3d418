// A kernel that has bad luck in store for a server: completions that come late and in another order than usual, operations
// that an old kernel does not know, and no memory for requests.
//
//   client ──► server ──────► ring ──► Seam ──► the real kernel
//   (test)     (its own thread)         │ holds an operation back: the kernel sees a NOP without a CQE instead
//              CQE ◄────────────────────┘ and when the test says so, MSG_RING posts what it says as the result
//
// So each interleaving is one that the kernel may produce as well, and here it is produced every time.
//
// ServerThread is what every server on a Seam needs: a thread, a way to complete what was held back, signals, and an end.
#pragma once

#include <doctest/doctest.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "servers/common/counters.hpp"
#include "servers/common/limits.hpp"
#include "tests/kernel/kernel_support.hpp"
#include "tests/support/skip.hpp"
#include "tests/support/sqe.hpp"
#include "uring/prep_control.hpp"
#include "uring/setup.hpp"

namespace tests::kernel {

class Seam {
 public:
  /// Sees each SQE before the kernel does, on the server's thread; true: hold it back.
  using Rule = std::function<bool(io_uring_sqe& sqe)>;

  Seam() = default;
  Seam(const Seam&) = delete;
  Seam& operator=(const Seam&) = delete;

  uring::Kernel kernel() { return {setup, enter, register_, map, this}; }

  void rule(Rule rule) {
    const std::lock_guard lock(mutex_);
    rule_ = std::move(rule);
  }

  /// Called at each enter, on the server's thread.
  std::function<void()> at_enter{};

  /// What kernels may do and 6.18 does not, with all that is posted within an enter: the completions of different
  /// operations come in reverse (those of one operation keep their order); and each has flags that nobody knows yet.
  std::atomic<bool> reverses{false};
  std::atomic<std::uint32_t> unknown_flags{0};

  std::atomic<bool> refuses{false};  // calls that only submit are -EAGAIN: no memory for requests
  std::atomic<bool> pauses{false};   // the server's thread waits before its next enter
  std::atomic<bool> is_paused{false};
  std::atomic<bool> broken{false};  // every call is -EBADF, so that the server ends
  std::atomic<std::uint64_t> enters{0};
  std::atomic<std::uint64_t> refused{0};

  /// How many SQEs of this opcode there were.
  unsigned seen(std::uint8_t opcode) const {
    const std::lock_guard lock(mutex_);
    return seen_[opcode];
  }
  /// The last of them.
  io_uring_sqe last(std::uint8_t opcode) const {
    const std::lock_guard lock(mutex_);
    return last_[opcode];
  }

  /// Waits for the SQE that was the `number`th to be held back, from 0.
  io_uring_sqe held(std::size_t number) const {
    if (!eventually([&] { return count_held() > number; })) {
      throw std::runtime_error("the server never came to the operation that was to be held back");
    }
    const std::lock_guard lock(mutex_);
    return held_[number];
  }
  std::size_t count_held() const {
    const std::lock_guard lock(mutex_);
    return held_.size();
  }

  /// Whether the server has dealt with the completion of the operation of this name.
  bool has_handled(std::uint64_t user_data) const {
    const std::lock_guard lock(mutex_);
    return handled_.contains(user_data);
  }

 private:
  static int setup(void* self, unsigned entries, io_uring_params* params) {
    const int fd = uring::real_kernel.setup(nullptr, entries, params);
    if (fd >= 0) static_cast<Seam*>(self)->params_ = *params;
    return fd;
  }

  static int register_(void*, int fd, unsigned opcode, void* argument, unsigned count) {
    return uring::real_kernel.register_(nullptr, fd, opcode, argument, count);
  }

  static int map(void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
    Seam& seam = *static_cast<Seam*>(self);
    const int result = uring::real_kernel.map(nullptr, fd, bytes, offset, address);
    if (result < 0) return result;
    if (offset == IORING_OFF_SQES) {
      seam.sqes_ = static_cast<io_uring_sqe*>(*address);
    } else {
      auto* const rings = static_cast<std::byte*>(*address);
      seam.words_ = uring::detail::locate_words(rings, seam.params_);
      void* const cqes = rings + seam.params_.cq_off.cqes;
      seam.cqes_ = static_cast<io_uring_cqe*>(cqes);
    }
    return result;
  }

  static int enter(void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                   const uring::abi::getevents_arg* argument) {
    return static_cast<Seam*>(self)->on_enter(fd, to_submit, min_complete, flags, argument);
  }

  int on_enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const uring::abi::getevents_arg* argument) {
    ++enters;
    if (at_enter) at_enter();
    while (pauses && !broken) {
      is_paused = true;
      std::this_thread::sleep_for(1ms);
    }
    is_paused = false;
    if (broken) return -EBADF;
    if (refuses && to_submit > 0 && min_complete == 0 && (flags & IORING_ENTER_GETEVENTS) == 0) {
      ++refused;
      return -EAGAIN;
    }
    look_at_cqes();
    look_at_sqes(to_submit);
    const int result = uring::real_kernel.enter(nullptr, fd, to_submit, min_complete, flags, argument);
    disturb_cqes();
    look_at_cqes();
    return result;
  }

  // What stands in front of the tail is ours until the head passes it: the kernel does not look there again.
  void disturb_cqes() {
    const std::uint32_t end = uring::load_cq_tail(words_);
    const auto at = [&](std::uint32_t index) -> io_uring_cqe& {
      return cqes_[index & (params_.cq_entries - 1)];
    };
    std::vector<io_uring_cqe> posted;
    for (std::uint32_t index = noted_; index != end; ++index) posted.push_back(at(index));
    if (reverses) {
      std::vector<std::uint64_t> names;  // the last to complete first
      for (auto cqe = posted.rbegin(); cqe != posted.rend(); ++cqe) {
        if (std::ranges::find(names, cqe->user_data) == names.end()) names.push_back(cqe->user_data);
      }
      std::ranges::stable_sort(posted, {}, [&](const io_uring_cqe& cqe) {
        return std::ranges::find(names, cqe.user_data) - names.begin();
      });
    }
    for (std::uint32_t index = noted_; index != end; ++index) {
      io_uring_cqe& cqe = at(index);
      cqe = posted[index - noted_];
      cqe.flags |= unknown_flags;
    }
  }

  // A completion need not come inside an enter: a message of another ring may be posted at any time, and on 6.1 a worker
  // posts what it has done. So all that have come since the last look are noted, and what the server has consumed when it
  // enters (or comes back) is handled.
  void look_at_cqes() {
    const std::lock_guard lock(mutex_);
    for (const std::uint32_t end = uring::load_cq_tail(words_); noted_ != end; ++noted_) {
      posted_.push_back(cqes_[noted_ & (params_.cq_entries - 1)].user_data);
    }
    while (posted_.size() > noted_ - uring::load_own_cq_head(words_)) {
      handled_.insert(posted_.front());
      posted_.pop_front();
    }
  }

  void look_at_sqes(unsigned to_submit) {
    const std::lock_guard lock(mutex_);
    const std::uint32_t end = uring::load_sq_head(words_) + to_submit;
    for (; looked_at_ != end; ++looked_at_) {
      io_uring_sqe& sqe = sqes_[looked_at_ & (params_.sq_entries - 1)];
      ++seen_[sqe.opcode];
      last_[sqe.opcode] = sqe;
      if (!rule_ || !rule_(sqe)) continue;
      held_.push_back(sqe);
      uring::prep::fill(sqe, IORING_OP_NOP, -1, 0, 0, 0, uring::Token{sqe.user_data});
      uring::prep::skip_success(sqe);
    }
  }

  mutable std::mutex mutex_{};
  Rule rule_{};
  std::vector<io_uring_sqe> held_{};
  std::array<unsigned, 256> seen_{};
  std::array<io_uring_sqe, 256> last_{};
  std::deque<std::uint64_t> posted_{};  // and not consumed yet
  std::uint32_t noted_ = 0;             // of the CQ: what stands before it is in posted_, or handled
  std::set<std::uint64_t> handled_{};
  std::uint32_t looked_at_ = 0;
  io_uring_params params_{};
  uring::SharedWords words_{};
  io_uring_sqe* sqes_ = nullptr;
  io_uring_cqe* cqes_ = nullptr;
};

/// Bits of a CQE's flags that mean nothing yet (7.3 has 0 to 6, and 15; the buffer's number begins at 16).
inline constexpr std::uint32_t flags_of_the_future = 0x7f00;

/// Returns when the server sleeps in its wait, having dealt with all that came: it has not entered the kernel for a while.
inline void wait_until_quiet(const Seam& seam) {
  eventually([&] {
    const std::uint64_t before = seam.enters;
    std::this_thread::sleep_for(4 * a_while);
    return seam.enters == before;
  });
}

/// What an SQE points to.
template <class T = void>
T* pointer(std::uint64_t address) {
  return reinterpret_cast<T*>(address);
}

/// What a server came to.
struct Outcome {
  int result = -EBADF;  // of run()
  std::uint64_t leaks = 0;
  std::uint64_t descriptors_left = 0;
  common::Counters counters{};
  bool by_force = false;  // it did not end by itself
};

/// A server on a thread of its own. Who derives from it begins with start(), when all that it has is there, and its
/// destructor ends with stop_at_last().
class ServerThread {
 public:
  explicit ServerThread(Seam& seam) : seam_(seam) {}
  ServerThread(const ServerThread&) = delete;
  ServerThread& operator=(const ServerThread&) = delete;

  const std::string& where() const { return where_; }

  /// Completes an operation. On a thread that ends with its ring: a ring goes on ending after its close, and then
  /// interrupts all threads that have used it, wherever they wait.
  /// `flags` of the CQE need Linux 6.3.
  void complete(std::uint64_t user_data, int result, std::uint32_t flags = 0) {
    std::thread([&] {
      uring::Ring sender({.entries = 1});
      io_uring_sqe& sqe = must(sender.next_sqe());
      uring::prep::msg_ring(sqe, ring_fd_, result, uring::Token{user_data}, uring::Token{1});
      if (flags != 0) {
        sqe.msg_ring_flags = 1u << 1;  // IORING_MSG_RING_FLAGS_PASS
        sqe.file_index = flags;
      }
      CHECK(results(sender, 1) == "1:0");
    }).join();
  }

  /// As if a signal had come; the server reads it like one.
  void signal(unsigned number) {
    ::signalfd_siginfo info{};
    info.ssi_signo = number;
    CHECK(::write(signals_.write_end.get(), &info, sizeof info) == sizeof info);
  }

  bool has_ended(std::chrono::milliseconds time) {
    return outcome_.wait_for(time) == std::future_status::ready;
  }

  /// SIGTERM, if it still runs, and what came of it all.
  Outcome stop() {
    if (!has_ended(0ms)) signal(SIGTERM);
    return wait();
  }

  Outcome wait() {
    const bool by_force = !has_ended(std::chrono::duration_cast<std::chrono::milliseconds>(patience));
    if (by_force) {
      seam_.broken = true;
      complete(0, 0);  // wakes it, and means nothing
    }
    Outcome outcome = outcome_.get();
    outcome.by_force = by_force;
    outcome.descriptors_left = common::open_descriptors() - descriptors_;
    return outcome;
  }

  void check_clean_end() { check_clean(stop()); }
  static void check_clean(const Outcome& outcome, std::size_t clients = 0) {
    CHECK(!outcome.by_force);
    CHECK(outcome.result == 0);
    CHECK(outcome.leaks == 0);
    CHECK(outcome.descriptors_left == clients);  // which are in the same process
  }

 protected:
  ~ServerThread() = default;

  /// `serve` runs on the new thread and calls listens() before it serves. Returns when it has.
  void start(std::function<Outcome()> serve) {
    descriptors_ = common::open_descriptors();
    std::future<void> listening = listening_.get_future();
    outcome_ = std::async(std::launch::async, std::move(serve));
    while (listening.wait_for(10ms) != std::future_status::ready) {
      if (has_ended(0ms)) outcome_.get();  // throws why
    }
  }
  void listens(std::string where, int ring_fd) {
    where_ = std::move(where);
    ring_fd_ = ring_fd;
    listening_.set_value();
  }
  void stop_at_last() {
    if (outcome_.valid()) stop();
  }
  int signals() const { return signals_.read_end.get(); }
  Seam& seam() { return seam_; }

 private:
  Seam& seam_;
  Pipe signals_{};
  std::string where_{};
  int ring_fd_ = -1;
  std::uint64_t descriptors_ = 0;  // before it began
  std::promise<void> listening_{};
  std::future<Outcome> outcome_{};
};

}  // namespace tests::kernel

#define SKIP_WITHOUT_SEAM()                         \
  SKIP_WITHOUT_IO_URING();                          \
  SKIP_UNLESS(tests::kernel::linux_at_least(5, 18), \
              "completes operations by MSG_RING, which needs Linux 5.18")

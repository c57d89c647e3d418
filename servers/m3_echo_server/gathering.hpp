// When to wait for more than the first completion.
//
// A loop that wakes up for each message pays for a wake-up and an enter each time. If it waits until a few are
// there (the kernel can: min_wait, 6.12), they share one. But waiting is latency, so it is done where it adds next to none:
//
//   the CPU has time left       wake for the first. There is nothing to save, and the client waits
//   the CPU is nearly used up   whoever comes would stand in line anyway; let a few come, and serve them for
//                               the price of one. What is saved there is throughput
//
// How many: as many as an eighth of the clients who have spoken in the last millisecond. The others are what
// the server and its clients work on meanwhile; to wait for all would have both sides wait in turns. A single
// client is never waited for. (docs/echo.md has what it saves, and why the number must be small.)
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>

#include "servers/common_ring/frame.hpp"

namespace echo {

/// The longest that the first completion waits for others.
inline constexpr std::chrono::microseconds gathering_time{50};

/// To the nanosecond, while getrusage(2) may count in ticks. One system call.
inline std::chrono::nanoseconds thread_cpu_time() noexcept {
  ::timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

class Gathering {
 public:
  /// A client has said something. `window` is its own memory of when it last did.
  void spoke(std::uint32_t& window) noexcept {
    if (window == window_) return;
    window = window_;
    ++speakers_;
  }

  /// Whether a millisecond has passed, and look() has something to see.
  bool due(common_ring::Time now) const noexcept { return now - began_ >= window_length; }

  /// `cpu_time`: what this thread has used of the CPU since it began.
  void look(common_ring::Time now, std::chrono::nanoseconds cpu_time) noexcept {
    const auto length = now - began_;
    const double share = std::chrono::duration<double>(cpu_time - cpu_time_) / length;
    busy_ += (std::min(share, 1.0) - busy_) / 8;  // of some milliseconds: a burst is not a load
    if (busy_ > begin_share) gathers_ = true;
    if (busy_ < end_share) gathers_ = false;
    messages_ = gathers_ ? std::clamp(speakers_ / 8, 1U, most_messages) : 1;
    began_ = now;
    cpu_time_ = cpu_time;
    speakers_ = 0;
    ++window_;
  }

  /// How many messages to wait for, for gathering_time at most. 1: do not gather.
  unsigned messages() const noexcept { return messages_; }

 private:
  static constexpr std::chrono::milliseconds window_length{1};
  static constexpr double begin_share = 0.90;  // of a CPU
  static constexpr double end_share = 0.75;    // gathering itself makes it less busy
  /// Beyond, an enter's share in a message is too small to matter.
  static constexpr unsigned most_messages = 16;

  common_ring::Time began_{};
  std::chrono::nanoseconds cpu_time_{};
  std::uint32_t window_ = 1;  // a client that has never spoken remembers 0
  unsigned speakers_ = 0;
  unsigned messages_ = 1;
  double busy_ = 0;
  bool gathers_ = false;
};

}  // namespace echo

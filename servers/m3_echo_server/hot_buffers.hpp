// How many buffers of the group should lie in the ring.
//
// The kernel takes them in order, so a ring of n buffers uses each of them every n-th time. If n is 1,024 and
// messages are large, every buffer has left the processor's cache when its turn comes again: the bytes are
// written to memory and read from memory, and that costs more than all system calls together. An epoll server
// has one buffer, and it is always warm.
//
// So there should be few, but not too few: a receive that finds none ends with -ENOBUFS, and has to be armed
// again, which costs more than a cold buffer for a small message. Enough is twice as many as any turn of the
// last second or two has asked for.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "servers/common_ring/frame.hpp"

namespace echo {

class HotBuffers {
 public:
  /// To begin with, and the least.
  static constexpr std::size_t least = 8;

  /// A receive took one, or would have.
  void wanted_one() noexcept { ++wanted_; }

  /// At the end of a turn: how many should be there for the next one.
  std::size_t end_turn(common_ring::Time now) noexcept {
    most_ = std::max(most_, wanted_);
    wanted_ = 0;
    const std::size_t enough = std::max(least, 2 * std::max(most_, most_before_));
    if (now - since_ >= memory) {
      since_ = now;
      most_before_ = most_;
      most_ = 0;
    }
    return enough;
  }

 private:
  static constexpr std::chrono::seconds memory{1};

  std::size_t wanted_ = 0;       // in this turn
  std::size_t most_ = 0;         // in a turn of this second
  std::size_t most_before_ = 0;  // and of the one before
  common_ring::Time since_{};
};

}  // namespace echo

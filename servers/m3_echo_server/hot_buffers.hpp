// How many buffers of the group should lie in the ring.
//
// The kernel takes them in order, so a ring of n buffers uses each of them every n-th time. If n is 1,024 and
// messages are large, every buffer has left the processor's cache when its turn comes again: the bytes are
// written to memory and read from memory, and that costs more than all system calls together. An epoll server
// has one buffer, and it is always warm.
//
// So there should be few, but not too few: a receive that finds none ends with -ENOBUFS, and has to be armed
// again. Enough is twice as many as any turn of the last few hundred has taken.
#pragma once

#include <algorithm>
#include <cstddef>

namespace echo {

class HotBuffers {
 public:
  /// To begin with, and the least.
  static constexpr std::size_t least = 8;

  void taken_one() noexcept { ++taken_; }

  /// At the end of a turn: how many should be there for the next one. (If it has taken all, twice as many.)
  std::size_t end_turn() noexcept {
    most_ = std::max(most_, taken_);
    taken_ = 0;
    const std::size_t enough = std::max(least, 2 * std::max(most_, most_before_));
    if (++turns_ == turns_remembered) {
      turns_ = 0;
      most_before_ = most_;
      most_ = 0;
    }
    return enough;
  }

 private:
  static constexpr unsigned turns_remembered = 256;

  std::size_t taken_ = 0;        // in this turn
  std::size_t most_ = 0;         // in a turn of these 256
  std::size_t most_before_ = 0;  // and of the 256 before
  unsigned turns_ = 0;
};

}  // namespace echo

// One connection: a socket, and what it was sent and did not take yet.
//
//   ring  [......#########........]     64 KiB, only while something is queued
//                ^head    ^head + queued
//
// Bytes go from the hot buffer (server.hpp) straight back into the socket they came from. Here lies what did
// not fit: the peer reads more slowly than it sends. While something is queued, what comes is received into
// the ring itself, behind what is there, so the order is kept and nothing is copied twice.
//
// A connection with nothing queued is this struct and nothing else: 64 bytes.
#pragma once

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "servers/common/intrusive_list.hpp"

namespace echo_server {

using Time = std::chrono::steady_clock::time_point;

inline constexpr std::size_t high_water = 64 << 10;  // queued on one connection: receiving stops
inline constexpr std::size_t low_water = 16 << 10;   // and goes on below this

using Ring = std::array<std::byte, high_water>;

/// Rings that are not in use wait here for the next connection that needs one, so that a connection whose
/// socket fills up again and again does not go to the allocator each time.
class RingPool {
 public:
  /// nullptr: no memory.
  std::unique_ptr<Ring> take() {
    std::unique_ptr<Ring> ring;
    if (!spare_.empty()) {
      ring = std::move(spare_.back());
      spare_.pop_back();
    } else {
      ring.reset(new (std::nothrow) Ring);  // uninitialized: a page costs nothing until bytes lie in it
    }
    if (ring) most_ = std::max(most_, ++in_use_);
    return ring;
  }

  void give_back(std::unique_ptr<Ring> ring) {
    --in_use_;
    if (spare_.size() < most_spare) spare_.push_back(std::move(ring));
  }

  std::size_t in_use() const noexcept { return in_use_; }
  std::size_t most_in_use() const noexcept { return most_; }

 private:
  static constexpr std::size_t most_spare = 64;  // 4 MiB

  std::vector<std::unique_ptr<Ring>> spare_{};
  std::size_t in_use_ = 0;
  std::size_t most_ = 0;
};

/// EPOLLRDHUP and EPOLLPRI say when a short recv does not mean that the socket is empty: server.hpp.
inline constexpr std::uint32_t input_events = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET;

struct Connection {
  Connection(int socket, Time now) : fd(socket), last_active(now) {}

  int fd;
  std::uint32_t watched = input_events;  // what epoll was asked to report; 0: it shall be asked again
  bool finished = false;                 // nothing more comes: the peer's FIN
  bool paused = false;                   // the high-water mark was reached
  std::uint32_t head = 0;
  std::uint32_t queued = 0;
  int untaken = -1;  // by the peer, when it seemed to be idle
  std::unique_ptr<Ring> ring{};
  Time last_active;  // when bytes moved, in either direction
  common::Link<Connection> by_activity{};

  /// Where the next bytes go. Shorter than what is free where the ring's end comes first.
  std::span<std::byte> free_piece() const noexcept {
    const std::size_t tail = (head + queued) % high_water;
    return std::span(*ring).subspan(tail, std::min(high_water - queued, high_water - tail));
  }
  void append(std::size_t bytes) noexcept {
    queued += static_cast<std::uint32_t>(bytes);
    paused = queued == high_water;
  }

  /// What the socket gets next.
  std::span<const std::byte> first_piece() const noexcept {
    return std::span<const std::byte>(*ring).subspan(head, std::min<std::size_t>(queued, high_water - head));
  }
  void remove(std::size_t bytes) noexcept {
    queued -= static_cast<std::uint32_t>(bytes);
    head = queued == 0 ? 0 : static_cast<std::uint32_t>((head + bytes) % high_water);
    paused = paused && queued >= low_water;
  }

  /// What epoll should report.
  std::uint32_t interest() const noexcept { return input_events | (queued > 0 ? EPOLLOUT : 0U); }
};
static_assert(sizeof(Connection) == 64, "an idle connection is small");

}  // namespace echo_server

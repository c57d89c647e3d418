// The timetable of an open loop: when each message is due, whatever became of the ones before it.
//
//   message index          0      1      2      3      4      5      6   ...      due at start + index / rate
//   of connection          0      1      2      0      1      2      0            index modulo connections
//
// A closed loop sends the next message when the last one was answered. A server that stalls for 200 ms is
// then asked nothing for 200 ms, and one bad value enters the statistics where a thousand users would have
// met it: "coordinated omission". Here the stalled messages keep the times at which they were due, and their
// latency counts from there. None of those times is stored: a connection's message number says which index it
// is, and the index says when it was due.
//
// The rate is constant, one message every 1/rate seconds, not random arrivals.
#pragma once

#include <cstdint>

#include "bench/load/clock.hpp"

namespace load {

struct Timetable {
  std::uint64_t start = 0;        // ns
  std::uint64_t rate = 0;         // messages a second, all connections together; 0: there is no timetable
  std::uint64_t connections = 1;  // that take turns
  std::uint64_t end = 0;          // indices from here on are never due

  /// When message `index` is due, in ns. Good for 18 * 10^9 messages.
  std::uint64_t due_at(std::uint64_t index) const noexcept { return start + index * second / rate; }

  /// The index of message `number` (0, 1, 2, ...) of connection `connection`.
  std::uint64_t index_of(std::uint64_t connection, std::uint64_t number) const noexcept {
    return number * connections + connection;
  }

  /// How many of the indices below `next` belong to `connection`.
  std::uint64_t messages_below(std::uint64_t next, std::uint64_t connection) const noexcept {
    return next > connection ? (next - connection - 1) / connections + 1 : 0;
  }
};

}  // namespace load

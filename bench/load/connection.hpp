// One connection, and all of one kind together. There is no data in them: what is sent and what must come is
// computed.
//
//   idle ──► open ──► idle                    churn: again and again, closed by RST
//     │       │  └──► finishing ──► idle      our FIN is out; theirs must come, and nothing before it
//     │       └─────► dead                    an error, counted
//     └──► waiting ──► open                   a Unix-domain listener's queue is full: again in 1 ms
//
// Invariant: idle, waiting and dead have no descriptor; `waits_for_room` only while some of a message could
// not be sent.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bench/load/pacing.hpp"
#include "bench/load/result.hpp"
#include "bench/load/traffic.hpp"
#include "bench/load/verify.hpp"
#include "servers/common/descriptor.hpp"

namespace load {

struct Flow;

struct Connection {
  enum class State : std::uint8_t { idle, waiting, open, finishing, dead };

  common::Descriptor fd{};
  State state = State::idle;
  bool waits_for_room = false;  // EPOLLOUT is asked for
  std::uint32_t number = 0;     // within its flow: what it sends depends on it
  std::uint32_t id = 0;         // within the run: how it is called in words
  Flow* flow = nullptr;
  Sending out{};
  Receiving in{};
  std::uint64_t progress = 0;  // when a byte came or went last, or connecting began; ns
  // When message n of a closed loop began, at [n % depth]; ns. An open loop knows that from its timetable.
  std::unique_ptr<std::uint64_t[]> began{};
};

/// Messages of which at least a byte is out.
inline std::uint64_t begun(const Connection& connection) noexcept {
  return connection.out.sent + (connection.out.part > 0 ? 1 : 0);
}

/// True while an answer is due, or the rest of a request.
inline bool busy(const Connection& connection) noexcept { return begun(connection) > connection.in.answered; }

/// One kind of traffic, its connections, and what came of it.
struct Flow {
  const Traffic* traffic = nullptr;
  std::uint32_t first = 0;  // id of its connection number 0
  Timetable timetable{};
  std::uint64_t next_due = 0;        // index in the timetable that was not yet looked at
  std::uint64_t quota = UINT64_MAX;  // messages that may still begin
  TrafficResult result{};
};

}  // namespace load

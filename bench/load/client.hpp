// What one connection does: connect, ask, be answered, end.
//
//   pump() ──► open_connection() ──► fill(), send(2) ──► ...              whenever something may be sent
//   on_readable() ──► recv(2), take() ──► count() ──► pump()              whenever something came
//
// `Run` is all there is: no function keeps anything anywhere else. What may be sent is one number, limit():
// it knows the phase, the depth, the timetable and the quota, and nothing else does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/load/clock.hpp"
#include "bench/load/connection.hpp"
#include "bench/load/options.hpp"
#include "bench/load/result.hpp"

namespace load {

// One buffer of each kind is enough: nothing stays in them from one call to the next. They are small enough
// for a core's own cache, so that what recv(2) copied is still near when it is verified.
inline constexpr std::size_t receive_bytes = 64U << 10;
inline constexpr std::size_t send_bytes = 64U << 10;
inline constexpr int sends_in_a_row = 8;  // then another connection has its turn

enum class Phase : std::uint8_t { opening, running, finishing, parting };

struct Run {
  const Options& options;
  const Target& target;
  const std::string& label;
  common::Descriptor epoll{};
  std::vector<Flow> flows{};
  std::vector<Connection> connections{};
  std::vector<std::byte> received = std::vector<std::byte>(receive_bytes);
  std::vector<std::byte> to_send = std::vector<std::byte>(send_bytes);
  HeadBuffer head{};
  std::vector<std::uint32_t> waiting{};  // connections in State::waiting

  Phase phase = Phase::opening;
  std::uint64_t greeted = 0;  // connections that had their first answer
  std::uint64_t dead = 0;
  std::uint64_t opened = 0;  // sockets so far, churned ones included
  std::uint64_t next_tick = 0;
  std::uint64_t shown = 0;    // messages at the last progress line
  bool late_sending = false;  // finishing: overdue messages of a timetable may still be sent
  // Messages that began (open loop: were due) from the one to the other are among the latencies; ns.
  std::uint64_t window_begin = UINT64_MAX, window_end = UINT64_MAX;
  bool counting = false;  // what is verified now is counted in the rate
  Result result{};
};

/// Sends what may be sent, as far as the socket takes it; opens the connection first where there is none.
void pump(Run& run, Connection& connection);

/// One recv(2), and all that follows from it. Throws WrongAnswer.
void on_readable(Run& run, Connection& connection);

/// Connects. `now` is when its answer began to be waited for.
void open_connection(Run& run, Connection& connection, std::uint64_t now);

/// Our FIN: nothing more will be asked.
void begin_parting(Connection& connection, std::uint64_t now);

/// RST: no TIME_WAIT is left behind, and its port is free at once.
void close_by_reset(Connection& connection);

/// Ends a connection that should not have ended, and counts that. There is no second try: what failed once is
/// to be looked at.
void fail(Run& run, Connection& connection, std::uint64_t Errors::*kind, const std::string& what);

/// The number of the first message that may not begin yet.
std::uint64_t limit(const Run& run, const Connection& connection);

/// Open loop: messages that were due to this connection so far.
std::uint64_t due(const Connection& connection);

/// When message `number` began to count: when it was sent, or, in an open loop, when it was due.
std::uint64_t began_at(const Connection& connection, std::uint64_t number);

/// "connection 3 (127.0.0.1:40112)": the server's tables call it by that address.
std::string name_of(const Connection& connection);

}  // namespace load

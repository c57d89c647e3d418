// What a run has found out, before anybody formats it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/load/bottleneck.hpp"
#include "bench/load/histogram.hpp"

namespace load {

/// Connections that ended otherwise than they should. One is enough for exit code 1.
struct Errors {
  std::uint64_t refused = 0;
  std::uint64_t reset = 0;
  std::uint64_t closed = 0;     // by the server, before it had answered everything
  std::uint64_t timed_out = 0;  // nothing came for --timeout seconds
  std::uint64_t other = 0;
  std::string first{};  // in words

  std::uint64_t all() const noexcept { return refused + reset + closed + timed_out + other; }
};

/// What a process used of the machine, in the window.
struct Usage {
  double cpu = 0;     // seconds
  double waited = 0;  // seconds in which its threads could have run and had no CPU, added up
  std::uint64_t switches = 0;
};

/// For one kind of traffic. "In the window" is after the warm-up and before the end.
struct TrafficResult {
  std::string name{};          // "echo", "get"
  std::uint64_t verified = 0;  // messages whose last byte came, and was right, in the window
  std::uint64_t bytes = 0;     // of content in them
  std::uint64_t verified_all =
      0;                // in the whole run: opening, warm-up and what was under way at the end included
  Histogram latency{};  // ns, of messages sent (open loop: due) in the window
  std::uint64_t unsent =
      0;  // open loop: due in the window and never sent; in `latency` with what they had waited
};

struct Result {
  std::vector<TrafficResult> traffic{};
  double seconds = 0;  // the window's real length
  Histogram lag{};     // ns, see README.md
  bool open_loop = false;
  Usage own{};
  std::optional<Usage> server{};
  Errors errors{};
  std::uint64_t left_open = 0;  // connections that the server did not close after our FIN
  bool measured = false;        // false: not even all connections could be opened

  std::uint64_t verified() const noexcept {
    std::uint64_t sum = 0;
    for (const TrafficResult& one : traffic) sum += one.verified;
    return sum;
  }
  /// Some kind of traffic had no answer in the window: there is nothing to divide by.
  bool silent() const noexcept {
    return std::any_of(traffic.begin(), traffic.end(),
                       [](const TrafficResult& one) { return one.verified == 0; });
  }
  bool ok() const noexcept { return measured && errors.all() == 0; }
  bool late() const noexcept { return open_loop && lag.quantile(990'000) > late_bound; }
  Limit limit() const noexcept {
    if (seconds <= 0) return Limit::unknown;
    return limit_of(own.cpu / seconds, server ? std::optional(server->cpu / seconds) : std::nullopt);
  }
  bool disturbed() const noexcept { return own.waited > disturbed_bound * seconds; }
};

}  // namespace load

// What a server counted: the same keys for an io_uring server and its twin, so that one reader knows both.
//
// The last line on stdout is these as one JSON object, in this order, 0 where a thing does not exist (an
// epoll server has no SQEs, an io_uring server that lost nothing has no overflows). They are plain integers:
// a server of several threads gives each its own and adds them up at the end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

namespace common {

struct Counters {
  std::uint64_t requests = 0;       // answers sent to their end, errors that were answered included
  std::uint64_t bytes_in = 0;       // from clients
  std::uint64_t bytes_out = 0;      // to clients, heads included
  std::uint64_t accepted = 0;       // connections that were served
  std::uint64_t refused = 0;        // connections accepted and closed at once: --max-connections
  std::uint64_t errors = 0;         // connections that ended by an error, files that shrank while served
  std::uint64_t syscalls = 0;       // all that the serving threads made
  std::uint64_t sqes = 0;           // submitted
  std::uint64_t cqes = 0;           // harvested
  std::uint64_t enters = 0;         // io_uring_enter(2)
  std::uint64_t short_submits = 0;  // enters that took fewer SQEs than there were
  std::uint64_t overflows = 0;      // times the CQ was found overfull
  std::uint64_t accept_sqes = 0;    // of them, accepts: one for many clients, where it is a multishot
  std::uint64_t rearms = 0;         // multishots prepared again after they had ended
  std::uint64_t enobufs = 0;        // completions that found no buffer
  std::uint64_t zc_sends = 0;       // sends that were asked to copy nothing, and began
  std::uint64_t zc_copied = 0;      // of them, those that the kernel reported to have copied all the same
  std::uint64_t zc_refused = 0;     // and those that it refused, so that a plain send did the work
  std::uint64_t buffers_in_use_max = 0;
  std::uint64_t leaks =
      0;  // descriptors, buffers, operations still held at the end; more than 0 is exit code 1
};

struct CounterKey {
  const char* key;
  std::uint64_t Counters::*value;
};

inline constexpr CounterKey counter_keys[] = {
    {"requests", &Counters::requests},
    {"bytes_in", &Counters::bytes_in},
    {"bytes_out", &Counters::bytes_out},
    {"accepted", &Counters::accepted},
    {"refused", &Counters::refused},
    {"errors", &Counters::errors},
    {"syscalls", &Counters::syscalls},
    {"sqes", &Counters::sqes},
    {"cqes", &Counters::cqes},
    {"enters", &Counters::enters},
    {"short_submits", &Counters::short_submits},
    {"overflows", &Counters::overflows},
    {"accept_sqes", &Counters::accept_sqes},
    {"rearms", &Counters::rearms},
    {"enobufs", &Counters::enobufs},
    {"zc_sends", &Counters::zc_sends},
    {"zc_copied", &Counters::zc_copied},
    {"zc_refused", &Counters::zc_refused},
    {"buffers_in_use_max", &Counters::buffers_in_use_max},
    {"leaks", &Counters::leaks},
};
static_assert(sizeof(Counters) == std::size(counter_keys) * sizeof(std::uint64_t),
              "each counter has its key");

/// Adds what another thread counted. The most that were in use at once add up too: each thread has buffers of
/// its own, so the sum is what may have been in use together.
inline void add(Counters& sum, const Counters& part) noexcept {
  for (const CounterKey& key : counter_keys) sum.*key.value += part.*key.value;
}

/// {"requests": 12, ..., "leaks": 0}
inline std::string to_json(const Counters& counters) {
  std::string json;
  for (const CounterKey& key : counter_keys) {
    json += json.empty() ? "{\"" : ", \"";
    json += key.key;
    json += "\": " + std::to_string(counters.*key.value);
  }
  return json + "}";
}

/// The last line on stdout, flushed.
inline void print_counters(const Counters& counters) {
  std::printf("%s\n", to_json(counters).c_str());
  std::fflush(stdout);
}

/// What is true at this moment, beside what was counted.
struct Gauges {
  std::uint64_t connections = 0;
  std::uint64_t buffers_in_use = 0;
  std::uint64_t buffers = 0;  // 0: this server has no pool
};

/// The line that --stats puts on stderr: the rates since `before`, `seconds` ago, and what is true now.
inline std::string stats_line(const Counters& before, const Counters& now, double seconds,
                              const Gauges& gauges) {
  const auto since = [&](std::uint64_t Counters::*value) {
    return static_cast<double>(now.*value - before.*value);
  };
  const double requests = since(&Counters::requests);
  const double span = seconds > 0 ? seconds : 1;
  char text[256];
  std::snprintf(
      text, sizeof text,
      "stats: %.0f requests/s, %.1f MB/s out, %.1f MB/s in, %.3f system calls/request, %llu connections",
      requests / span, since(&Counters::bytes_out) / span / 1e6, since(&Counters::bytes_in) / span / 1e6,
      since(&Counters::syscalls) / std::max(requests, 1.0),
      static_cast<unsigned long long>(gauges.connections));
  std::string line = text;
  if (gauges.buffers > 0) {
    line +=
        ", " + std::to_string(gauges.buffers_in_use) + " of " + std::to_string(gauges.buffers) + " buffers";
  }
  if (now.errors > 0) line += ", " + std::to_string(now.errors) + " errors";
  return line;
}

}  // namespace common

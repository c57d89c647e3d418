// Who set the pace. A rate that the generator could not have exceeded says nothing about the server.
//
//   generator's CPU   server's CPU        the limit was
//   ───────────────   ─────────────────   ─────────────────────────────────────────────────────────────────
//   any               >= 95 % of a core   the server
//   >= 90 % of one    below               the generator: the rate is a lower bound
//   >= 90 % of one    not known           perhaps the generator
//   below             below               neither: waiting for each other, for a disk, for the timetable
//
// A generator that waits for a CPU is no bottleneck, it is disturbed: by other programs, or by the server
// itself where both share a core. Its latencies then tell of the machine and not of the server; above
// disturbed_bound that is said.
//
// In an open loop the generator can also be late without being busy (it did not get the CPU), and the
// latencies are then partly its own. It measures by how much it came late to each message; at the 99th
// percentile that must stay below late_bound.
#pragma once

#include <cstdint>
#include <optional>

namespace load {

enum class Limit : std::uint8_t { server, generator, perhaps_generator, neither, unknown };

inline constexpr double generator_full = 0.90;          // of one core
inline constexpr double server_full = 0.95;             // of one core
inline constexpr double disturbed_bound = 0.10;         // of the time
inline constexpr std::uint64_t late_bound = 1'000'000;  // ns

inline Limit limit_of(double generator_share, std::optional<double> server_share) noexcept {
  if (server_share && *server_share >= server_full) return Limit::server;
  if (generator_share >= generator_full) return server_share ? Limit::generator : Limit::perhaps_generator;
  return server_share ? Limit::neither : Limit::unknown;
}

}  // namespace load

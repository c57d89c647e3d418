// The checks: each is a function that returns one sentence about what it saw, or throws Failed or Skipped.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bench/load/target.hpp"
#include "servers/common/limits.hpp"
#include "tests/conformance/crowd.hpp"
#include "tests/conformance/process.hpp"

namespace conformance {

struct Skipped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Suite {
  load::Target target{};
  std::uint32_t pid = 0;             // of the server; 0: not told
  std::uint32_t connections = 1400;  // at once; more than the 1,024 descriptors of select(2)
  std::uint32_t limit = 60;          // s for each check: far more than any needs, on a slow machine too
  std::uint32_t seed = 1;            // of all that is random
  std::size_t descriptors_at_start = 0, descriptors_at_peak = 0;
  std::unique_ptr<Crowd> first{};  // clients that stay from the first check to the last

  Crowd crowd() const { return {target, std::chrono::seconds(limit)}; }
};

inline constexpr std::size_t kib = 1 << 10, mib = 1 << 20;
inline constexpr std::size_t wave = 500;  // connections that wait to be accepted: many backlogs are 511
inline constexpr milliseconds nothing_moves{300};
inline constexpr milliseconds patience{5000};  // of a quiet client; milliseconds are expected

using Random = std::mt19937_64;
inline std::size_t between(Random& random, std::size_t lowest, std::size_t highest) {
  return std::uniform_int_distribution<std::size_t>(lowest, highest)(random);
}

inline std::vector<Peer*> open_many(Crowd& crowd, std::size_t count) {
  std::vector<Peer*> peers;
  for (std::size_t i = 0; i < count; ++i) peers.push_back(&crowd.open());
  return peers;
}

inline bool all_done(const std::vector<Peer*>& peers) {
  return std::all_of(peers.begin(), peers.end(), [](const Peer* peer) { return peer->done(); });
}

/// Modest clients that ask a little every few milliseconds and must not wait long, whatever the others do.
class QuietClients {
 public:
  QuietClients(Crowd& crowd, std::size_t count)
      : crowd_(crowd), peers_(open_many(crowd, count)), answers_(count, 0) {}

  void ask() {
    const auto now = Clock::now();
    for (std::size_t i = 0; i < peers_.size(); ++i) {
      Peer& peer = *peers_[i];
      slowest_ = std::max(slowest_, peer.done() ? peer.answered_in : now - peer.asked);
      if (slowest_ > patience) {
        throw Failed(text("a quiet client waited %.1f s because of the others", seconds(slowest_)));
      }
      if (!peer.done() || now - peer.asked < milliseconds(5)) continue;
      answers_[i] += peer.received > 0 ? 1 : 0;
      crowd_.say(peer, 100 + peer.stream % 1000);
    }
  }
  /// Until each of them had so many more answers. A server that waits for somebody else does not get here.
  void are_served(std::size_t more) {
    std::vector<std::size_t> goals = answers_;
    for (std::size_t& goal : goals) goal += more;
    crowd_.until([&] { return ask(), std::ranges::equal(answers_, goals, std::greater_equal()); });
  }
  std::string said() const {
    const std::size_t all = std::accumulate(answers_.begin(), answers_.end(), std::size_t{0});
    return text("; %zu quiet clients had %zu answers meanwhile, the slowest after %.1f ms", peers_.size(),
                all, seconds(slowest_) * 1000);
  }

 private:
  Crowd& crowd_;
  std::vector<Peer*> peers_;
  std::vector<std::size_t> answers_;
  Clock::duration slowest_{};
};

/// Until no more bytes of those who sleep can be sent. Returns how many are under way then.
inline std::size_t until_stuck(Crowd& crowd, const std::vector<Peer*>& sleepers, QuietClients& quiet) {
  std::size_t under_way = 0;
  auto moved = Clock::now();
  crowd.until([&] {
    quiet.ask();
    std::size_t sent = 0;
    for (const Peer* const peer : sleepers) sent += peer->sent;
    if (sent != under_way) moved = Clock::now();
    under_way = sent;
    return Clock::now() - moved > nothing_moves;
  });
  return under_way;
}

// ---- The bytes --------------------------------------------------------------------------------------------

inline std::string hello(Suite& suite) {
  suite.first = std::make_unique<Crowd>(suite.target, std::chrono::seconds(suite.limit));
  for (Peer* const peer : open_many(*suite.first, 20)) suite.first->say(*peer, 100);
  suite.first->until([&] { return suite.first->all_answered(); });
  return "20 clients were answered; they stay until the end";
}

inline std::string sizes(Suite& suite) {
  constexpr std::size_t all[] = {1,
                                 2,
                                 3,
                                 1000,
                                 4 * kib - 1,
                                 4 * kib,
                                 4097,
                                 16 * kib,
                                 64 * kib - 1,
                                 64 * kib,
                                 64 * kib + 1,
                                 256 * kib,
                                 1 * mib,
                                 5 * mib + 1,
                                 64 * mib};
  Crowd crowd = suite.crowd();
  Peer& peer = crowd.open();
  for (const std::size_t size : all) {
    crowd.say(peer, size);
    crowd.until([&] { return peer.done(); });
  }
  crowd.rest(milliseconds(20));
  return text("%zu messages of 1 B to 64 MiB on one connection", std::size(all));
}

inline std::string dribble(Suite& suite) {
  Crowd crowd = suite.crowd();
  Peer& peer = crowd.open();
  for (int i = 0; i < 500; ++i) {
    crowd.say(peer, 1);
    crowd.until([&] { return peer.done(); });
  }
  peer.write_size = peer.read_size = 1;
  crowd.say(peer, 2000);
  crowd.until([&] { return peer.done(); });
  return "500 single bytes, each waited for; then 2,000 written and read one by one, not waited for";
}

inline std::string talkers(Suite& suite) {
  Crowd crowd = suite.crowd();
  QuietClients quiet(crowd, 4);
  Random random(suite.seed);
  const std::vector<Peer*> peers = open_many(crowd, 64);
  for (Peer* const peer : peers) {
    peer->write_size = between(random, 500, 50'000);
    crowd.say(*peer, 1 * mib);
  }
  crowd.until([&] { return quiet.ask(), all_done(peers); });
  return "64 connections talked at once, 1 MiB each" + quiet.said();
}

inline std::string half_close(Suite& suite) {
  Crowd crowd = suite.crowd();
  Random random(suite.seed);
  for (Peer* const peer : open_many(crowd, 64)) {
    crowd.say(*peer, between(random, 0, 3) == 0 ? between(random, 0, 1) : between(random, 2, 512 * kib));
    crowd.half_close(*peer);
  }
  crowd.until([&] { return crowd.all_answered(); });
  crowd.reset_all();

  // The FIN of clients that sleep. The server owes what is under way and may close only behind that, whether
  // it has room for all of it, waits for room with the FIN in hand, or has not come to the FIN yet.
  QuietClients quiet(crowd, 1);
  const std::vector<Peer*> sleepers = open_many(crowd, 24);
  for (std::size_t i = 0; i < sleepers.size(); ++i)
    crowd.sleep(*sleepers[i]), crowd.say(*sleepers[i], i * 256 * kib);
  const std::size_t bytes = until_stuck(crowd, sleepers, quiet);
  for (Peer* const peer : sleepers) crowd.say_no_more(*peer), crowd.half_close(*peer);
  quiet.are_served(20);
  for (Peer* const peer : sleepers) crowd.wake(*peer);
  crowd.until([&] { return all_done(sleepers); });
  return text("64 clients had 0 to 512 KiB back, then FIN; so had 24 that slept behind %zu MiB", bytes / mib);
}

// ---- Too much, too slowly, too suddenly -------------------------------------------------------------------

inline std::string slow_readers(Suite& suite) {
  Crowd crowd = suite.crowd();
  QuietClients quiet(crowd, 8);
  const std::vector<Peer*> readers = open_many(crowd, 8);
  for (Peer* const reader : readers) crowd.sleep(*reader), crowd.say(*reader, 16 * mib);
  const std::size_t bytes = until_stuck(crowd, readers, quiet);
  quiet.are_served(20);
  for (Peer* const reader : readers) crowd.wake(*reader, 4 * kib);
  quiet.are_served(20);
  for (Peer* const reader : readers) crowd.wake(*reader);
  crowd.until([&] { return quiet.ask(), all_done(readers); });
  return text("8 readers slept with %zu MiB under way, then got 16 MiB each", bytes / mib) + quiet.said();
}

inline std::string flooders(Suite& suite) {
  // The kernel's buffers hold tens of MiB at most. A server that takes more keeps it in memory of its own.
  constexpr std::size_t too_much = 128 * mib;
  Crowd crowd = suite.crowd();
  QuietClients quiet(crowd, 8);
  const std::vector<Peer*> peers = open_many(crowd, 2);
  for (Peer* const peer : peers) crowd.sleep(*peer), crowd.say(*peer, too_much);
  const std::size_t bytes = until_stuck(crowd, peers, quiet);
  quiet.are_served(50);
  for (const Peer* const peer : peers) {
    if (peer->sent < too_much) continue;
    throw Failed(text("%zu MiB were taken from a client that reads nothing: no bound", too_much / mib));
  }
  return text("2 clients that read nothing were stopped at %zu MiB", bytes / mib) + quiet.said();
}

inline std::string resets(Suite& suite) {
  struct Doomed {
    Peer* peer;
    std::size_t bytes;         // that come back before the reset,
    Clock::time_point latest;  // unless it is this late first
  };
  constexpr std::size_t all = 1000, together = 50;
  Crowd crowd = suite.crowd();
  QuietClients quiet(crowd, 4);
  Random random(suite.seed);
  std::vector<Doomed> doomed;
  std::size_t opened = 0;
  crowd.until([&] {
    quiet.ask();
    for (; doomed.size() < together && opened < all; ++opened) {
      Peer& peer = crowd.open();
      if (between(random, 0, 1) == 0) crowd.sleep(peer);
      crowd.say(peer, between(random, 0, 1 * mib));
      if (between(random, 0, 7) == 0) crowd.half_close(peer);
      const auto life = std::chrono::microseconds(between(random, 0, 20'000));
      doomed.push_back({&peer, between(random, 0, peer.goal), Clock::now() + life});
    }
    std::erase_if(doomed, [&](const Doomed& one) {
      if (one.peer->received <= one.bytes && Clock::now() < one.latest) return false;
      crowd.reset(*one.peer);
      return true;
    });
    return doomed.empty() && opened == all;
  });
  quiet.are_served(10);
  return text("%zu connections, reset within 20 ms with up to 1 MiB under way", all) + quiet.said();
}

inline std::string storms(Suite& suite) {
  constexpr std::size_t waves = 6;
  Crowd crowd = suite.crowd();
  const auto start = Clock::now();
  for (std::size_t i = 0; i < waves; ++i) {
    const std::vector<Peer*> peers = open_many(crowd, wave);
    for (Peer* const peer : peers) crowd.say(*peer, 100);
    crowd.until([&] { return crowd.all_answered(); });
    for (std::size_t k = 0; k < peers.size(); k += 3) crowd.leave(*peers[k]);
    for (std::size_t k = 1; k < peers.size(); k += 3) crowd.half_close(*peers[k]);
    crowd.until([&] { return crowd.all_answered(); });
    crowd.reset_all();
  }
  return text("%zu waves of %zu connections, %.0f a second; they left by close, by half-close and by reset",
              waves, wave, waves * wave / seconds(Clock::now() - start));
}

// ---- Many of them, and for a long time --------------------------------------------------------------------

inline std::string crowd_at_once(Suite& suite) {
  const std::size_t needed = suite.connections + 64;  // some descriptors are no connections of this check
  if (const std::size_t limit = common::raise_descriptor_limit(needed); limit < needed) {
    throw Skipped(text("this program may have %zu descriptors and needs %zu (ulimit -Hn)", limit, needed));
  }
  Crowd crowd = suite.crowd();
  while (crowd.peers().size() < suite.connections) {
    crowd.say(crowd.open(), 32);
    crowd.until([&] { return crowd.unanswered() < wave; });
  }
  crowd.until([&] { return crowd.all_answered(); });
  const auto all_ask = [&] {
    const auto start = Clock::now();
    for (const auto& peer : crowd.peers()) crowd.say(*peer, 1000);
    crowd.until([&] { return crowd.all_answered(); });
    return seconds(Clock::now() - start);
  };
  const double at_first = all_ask();
  suite.descriptors_at_peak = descriptors_of(suite.pid);
  crowd.rest(milliseconds(1000));
  const double after_idling = all_ask();
  for (std::size_t i = 0; i < suite.connections; i += 2) crowd.half_close(*crowd.peers()[i]);
  crowd.until([&] { return crowd.all_answered(); });
  crowd.reset_all();
  return text("%u connections at once, all answered within %.2f s, and after lying idle within %.2f s",
              suite.connections, at_first, after_idling);
}

inline std::string still_there(Suite& suite) {
  if (!suite.first) throw Skipped("there are no clients of the beginning");
  Crowd& crowd = *suite.first;
  crowd.begin_again();
  open_many(crowd, 20);
  for (const auto& peer : crowd.peers()) crowd.say(*peer, 100'000), crowd.half_close(*peer);
  crowd.until([&] { return crowd.all_answered(); });
  suite.first.reset();
  return "the 20 clients of the beginning were answered, and 20 new ones";
}

inline std::string descriptors(Suite& suite) {
  if (suite.pid == 0) throw Skipped("--pid says which process has them");
  if (suite.descriptors_at_start == 0) throw Skipped(text("/proc/%u/fd cannot be read", suite.pid));
  suite.first.reset();
  std::size_t now = descriptors_of(suite.pid);
  for (const auto end = Clock::now() + patience; now > suite.descriptors_at_start && Clock::now() < end;) {
    std::this_thread::sleep_for(milliseconds(10));
    now = descriptors_of(suite.pid);
  }
  if (now == 0) throw Failed("the server is gone");
  std::string counts = text("%zu at the start, %zu at the end", suite.descriptors_at_start, now);
  if (const std::size_t peak = suite.descriptors_at_peak; peak > 0)
    counts += text(", %zu with the crowd", peak);
  if (now > suite.descriptors_at_start) throw Failed(counts + text(", for %.0f s", seconds(patience)));
  return counts;
}

struct Check {
  const char* name;
  std::string (*run)(Suite& suite);
};

/// In the order in which they run.
inline constexpr Check checks[] = {
    {"hello", hello},
    {"sizes", sizes},
    {"dribble", dribble},
    {"talkers", talkers},
    {"half-close", half_close},
    {"slow-readers", slow_readers},
    {"flooders", flooders},
    {"resets", resets},
    {"storms", storms},
    {"crowd", crowd_at_once},
    {"still-there", still_there},
    {"descriptors", descriptors},
};

}  // namespace conformance

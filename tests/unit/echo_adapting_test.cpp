// How the echo server follows its load: how many completions to wait for, and how many buffers to keep warm.

#include <doctest/doctest.h>

#include <vector>

#include "servers/m3_echo_server/gathering.hpp"
#include "servers/m3_echo_server/hot_buffers.hpp"

namespace {

using namespace std::chrono_literals;
using echo::Gathering;
using echo::HotBuffers;

/// A server's thread, and its clients.
struct Load {
  Gathering gathering{};
  std::vector<std::uint32_t> clients = std::vector<std::uint32_t>(1000);
  common_ring::Time now{1h};
  std::chrono::nanoseconds cpu_time{};

  /// `count` clients speak in each of `windows` milliseconds, and keep the CPU busy for this share of it.
  unsigned run(unsigned windows, unsigned count, double busy) {
    for (unsigned window = 0; window < windows; ++window) {
      for (unsigned client = 0; client < count; ++client) {
        gathering.spoke(clients[client]);
        gathering.spoke(clients[client]);  // often is not many
      }
      now += 1ms;
      cpu_time += std::chrono::nanoseconds(static_cast<std::int64_t>(busy * 1e6));
      gathering.look(now, cpu_time);
    }
    return gathering.messages();
  }
};

TEST_CASE("gathering: a server that has time wakes up for each message, however many clients speak") {
  Load load;
  CHECK(load.gathering.messages() == 1);
  CHECK(load.run(100, 1000, 0.85) == 1);
}

TEST_CASE("gathering: a busy server waits for an eighth of those who speak, at most 16, and never for one") {
  Load load;
  CHECK(load.run(100, 64, 0.99) == 8);
  CHECK(load.run(1, 1000, 0.99) == 16);
  CHECK(load.run(1, 15, 0.99) == 1);
  CHECK(load.run(1, 1, 0.99) == 1);
  CHECK(load.run(1, 0, 0.99) == 1);
}

TEST_CASE("gathering: a burst does not begin it, and what it saves does not end it") {
  Load load;
  CHECK(load.run(2, 128, 1.0) == 1);
  load.run(50, 128, 0.5);
  CHECK(load.run(2, 128, 1.0) == 1);
  CHECK(load.run(100, 128, 1.0) == 16);
  CHECK(load.run(100, 128, 0.8) == 16);
  CHECK(load.run(100, 128, 0.7) == 1);
}

TEST_CASE("gathering: it looks once a millisecond, and a long silence counts as one") {
  Load load;
  load.run(100, 128, 1.0);
  CHECK(!load.gathering.due(load.now + 999us));
  CHECK(load.gathering.due(load.now + 1ms));
  load.now += 10s;
  load.gathering.look(load.now, load.cpu_time);
  CHECK(load.gathering.messages() == 1);  // nobody has spoken
}

/// A server's turns, a millisecond each.
struct Turns {
  HotBuffers buffers{};
  common_ring::Time now{1h};

  /// `count` turns in which `each` buffers are asked for.
  std::size_t run(unsigned count, unsigned each) {
    std::size_t enough = 0;
    for (unsigned turn = 0; turn < count; ++turn) {
      for (unsigned i = 0; i < each; ++i) buffers.wanted_one();
      enough = buffers.end_turn(now += 1ms);
    }
    return enough;
  }
};

TEST_CASE("hot buffers: twice as many as a turn asks for, and never fewer than the least") {
  Turns turns;
  CHECK(turns.run(1, 0) == HotBuffers::least);
  CHECK(turns.run(10, 1) == HotBuffers::least);
  CHECK(turns.run(1, 40) == 80);
  CHECK(turns.run(1, 80) == 160);
}

TEST_CASE("hot buffers: a peak is remembered for a second or two, and then forgotten") {
  Turns turns;
  turns.run(1, 100);
  CHECK(turns.run(990, 1) == 200);
  CHECK(turns.run(2000, 1) == HotBuffers::least);
}

}  // namespace

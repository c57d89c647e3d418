// What it costs to notice a client that is silent: three ways, on the same sends and receives. `make bench-idle`.
//
//   none       16 Unix-domain sockets in turns: a message is sent into each, received at its other end
//   list       the same, and the connection moves to the end of a list ordered by last activity; the loop's wait has a
//              deadline anyway, so looking at the list's first entry is all that a time-out takes (m3_echo_server)
//   linked     the same, and each send is linked to a LINK_TIMEOUT: one SQE and one CQE more, and a timer that the
//              kernel starts and stops
//
// Blocks of runs in turns, none list linked linked list none; printed is the median of the blocks' ratios, a way's CPU
// time ÷ that of none, with its 95 % bootstrap interval. Below 1 none is dearer, above 1 the way is. (This is the one
// place where a ratio above 1 is no praise: it is a price.)
//
// Exit status: 0; 1, something failed; 3, no io_uring here.

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bench/load/ratio.hpp"
#include "servers/common/intrusive_list.hpp"
#include "uring/owned.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

namespace {

using uring::Token;

constexpr unsigned connections = 16;
constexpr unsigned message_bytes = 64;
constexpr unsigned rounds = 2000;  // of a run
constexpr __kernel_timespec a_minute{.tv_sec = 60, .tv_nsec = 0};

enum class Way : std::uint8_t { none, list, linked };

struct Connection {
  uring::FileDescriptor here{};
  uring::FileDescriptor there{};
  std::array<char, message_bytes> sent{};
  std::array<char, message_bytes> received{};
  std::chrono::steady_clock::time_point last_active{};
  common::Link<Connection> active{};
};

class Clients {
 public:
  Clients() : ring_({.entries = 64}) {
    for (Connection& connection : all_) {
      int pair[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        throw std::runtime_error("cannot make a pair of sockets");
      }
      connection.here.reset(pair[0]);
      connection.there.reset(pair[1]);
      by_activity_.push_back(connection);
    }
  }

  /// CPU time of one run, in nanoseconds for each message.
  double run(Way way) {
    const std::chrono::nanoseconds before = cpu_time();
    for (unsigned round = 0; round < rounds; ++round) turn(way);
    const std::chrono::duration<double, std::nano> spent = cpu_time() - before;
    return spent.count() / (double{rounds} * connections);
  }

 private:
  void turn(Way way) {
    for (Connection& connection : all_) send(connection, way);
    const bool is_linked = way == Way::linked;
    wait_for(connections * (is_linked ? 2 : 1), is_linked ? connections : 0);
    for (Connection& connection : all_) {
      uring::prep::recv(sqe(), connection.there.get(), connection.received.data(), message_bytes, 0,
                        Token{1});
    }
    wait_for(connections, 0);
    if (way == Way::list) note_activity();
  }

  void send(Connection& connection, Way way) {
    io_uring_sqe& message = sqe();
    uring::prep::send(message, connection.here.get(), connection.sent.data(), message_bytes, MSG_WAITALL,
                      Token{1});
    if (way != Way::linked) return;
    uring::prep::link(message);
    uring::prep::link_timeout(sqe(), &a_minute, 0, Token{2});
  }

  void note_activity() {
    const auto now = std::chrono::steady_clock::now();
    for (Connection& connection : all_) {
      connection.last_active = now;
      by_activity_.remove(connection);
      by_activity_.push_back(connection);
    }
    if (now - by_activity_.first()->last_active > std::chrono::minutes(1)) std::abort();
  }

  io_uring_sqe& sqe() {
    if (io_uring_sqe* const free = ring_.next_sqe()) return *free;
    throw std::runtime_error("no SQE is free");
  }

  /// All `count` completions; of time-outs that were not needed exactly `stopped` say so.
  void wait_for(unsigned count, unsigned stopped) {
    unsigned seen = 0;
    unsigned timers = 0;
    while (seen < count) {
      if (ring_.submit_and_wait(1).error != 0) throw std::runtime_error("the ring failed");
      ring_.harvest([&](const io_uring_cqe& cqe) {
        ++seen;
        const bool timer = cqe.user_data == 2;
        timers += timer ? 1 : 0;
        if (cqe.res != (timer ? -ECANCELED : static_cast<int>(message_bytes))) failed_ = true;
      });
    }
    if (failed_ || timers != stopped) throw std::runtime_error("an operation did not do what it should");
  }

  static std::chrono::nanoseconds cpu_time() {
    ::timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  }

  std::array<Connection, connections> all_{};
  common::List<Connection, &Connection::active> by_activity_{};
  uring::Ring ring_;
  bool failed_ = false;
};

struct Prices {
  std::vector<double> list{};
  std::vector<double> linked{};
  std::vector<double> nanoseconds{};  // of none
};

void measure_block(Clients& clients, Prices& prices) {
  double forward[3] = {};
  double backward[3] = {};
  for (const int way : {0, 1, 2}) forward[way] = clients.run(static_cast<Way>(way));
  for (const int way : {2, 1, 0}) backward[way] = clients.run(static_cast<Way>(way));
  for (const double* pass : {forward, backward}) {
    prices.nanoseconds.push_back(pass[0]);
    prices.list.push_back(pass[1] / pass[0]);
    prices.linked.push_back(pass[2] / pass[0]);
  }
}

void print(const char* name, const std::vector<double>& ratios, double base) {
  const load::Interval price = load::bootstrap(ratios);
  std::printf("%-8s %8.0f ns a message   price %.3f  [%.3f, %.3f]%s\n", name, base * price.median,
              price.median, price.low, price.high,
              load::judge(price) == load::Verdict::no_difference ? "  no difference" : "");
}

}  // namespace

int main(int argc, char** argv) {
  const int blocks = argc > 1 ? std::atoi(argv[1]) : 20;
  if (blocks < 1) {
    std::fprintf(stderr, "usage: idle_timeouts [BLOCKS]\n");
    return 2;
  }
  try {
    Clients clients;
    Prices prices;
    clients.run(Way::linked);  // not counted: memory is touched for the first time
    for (int block = 0; block < blocks; ++block) measure_block(clients, prices);
    const double base = load::median_of(prices.nanoseconds);
    std::printf("%u Unix-domain connections, messages of %u bytes; median of %d pairs\n", connections,
                message_bytes, 2 * blocks);
    std::printf("%-8s %8.0f ns a message\n", "none", base);
    print("list", prices.list, base);
    print("linked", prices.linked, base);
  } catch (const uring::SetupError& error) {
    std::fprintf(stderr, "idle_timeouts: %s\n", error.what());
    return 3;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "idle_timeouts: %s\n", error.what());
    return 1;
  }
}

// What servers count and how they stop: counters, signals, the stop protocol, each without a server.

#include <doctest/doctest.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>

#include "servers/common/counters.hpp"
#include "servers/common/lingering.hpp"
#include "servers/common/signals.hpp"

using common::Counters;
using common::StopProtocol;

TEST_CASE("the last line is one JSON object, with the same keys for every server") {
  CHECK(
      common::to_json({}) ==
      "{\"requests\": 0, \"bytes_in\": 0, \"bytes_out\": 0, \"accepted\": 0, \"refused\": 0, \"errors\": 0, "
      "\"syscalls\": 0, \"sqes\": 0, \"cqes\": 0, \"enters\": 0, \"short_submits\": 0, \"overflows\": 0, "
      "\"accept_sqes\": 0, \"rearms\": 0, \"enobufs\": 0, \"zc_sends\": 0, "
      "\"zc_copied\": 0, \"zc_refused\": 0, \"buffers_in_use_max\": 0, \"leaks\": 0}");
  Counters counters;
  counters.requests = 18446744073709551615U;
  counters.leaks = 1;
  CHECK(common::to_json(counters).starts_with("{\"requests\": 18446744073709551615, "));
  CHECK(common::to_json(counters).ends_with(", \"leaks\": 1}"));
}

TEST_CASE("what several threads counted is added up") {
  Counters sum{.requests = 1, .syscalls = 10};
  common::add(sum, {.requests = 2, .errors = 3, .buffers_in_use_max = 4});
  CHECK(sum.requests == 3);
  CHECK(sum.syscalls == 10);
  CHECK(sum.errors == 3);
  CHECK(sum.buffers_in_use_max == 4);
}

TEST_CASE("the statistics line has rates since the one before, and buffers where there is a pool") {
  const Counters before{.requests = 1000, .bytes_out = 5'000'000, .syscalls = 50};
  const Counters now{.requests = 3000, .bytes_in = 1'000'000, .bytes_out = 25'000'000, .syscalls = 150};
  CHECK(common::stats_line(before, now, 2.0, {.connections = 7}) ==
        "stats: 1000 requests/s, 10.0 MB/s out, 0.5 MB/s in, 0.050 system calls/request, 7 connections");
  CHECK(common::stats_line(now, now, 0.0, {.buffers_in_use = 3, .buffers = 64}) ==
        "stats: 0 requests/s, 0.0 MB/s out, 0.0 MB/s in, 0.000 system calls/request, 0 connections, 3 of 64 "
        "buffers");
}

TEST_CASE("the first signal stops accepting, five seconds or a second signal end what is left") {
  using namespace std::chrono_literals;
  using State = StopProtocol::State;
  const StopProtocol::Time start{1000s};

  StopProtocol patient;
  patient.look_at_clock(start + 1h);
  CHECK(patient.serving());
  CHECK(patient.wait(start, 1s) == 1s);
  patient.stop(start);
  CHECK(patient.state() == State::finishing);
  CHECK(patient.wait(start, 1h) == 5s);
  CHECK(patient.wait(start, 1s) == 1s);
  patient.look_at_clock(start + 4999ms);
  CHECK(patient.state() == State::finishing);
  CHECK(patient.wait(start + 4999ms, 1h) == 1ms);
  CHECK(patient.wait(start + 6s, 1h) == 0s);
  patient.look_at_clock(start + 5s);
  CHECK(patient.state() == State::ending);
  CHECK(patient.wait(start + 6s, 1s) == 1s);

  StopProtocol hurried;
  hurried.stop(start);
  hurried.stop(start + 1ms);
  CHECK(hurried.state() == State::ending);
  hurried.stop(start + 2ms);
  CHECK(hurried.state() == State::ending);
}

TEST_CASE("a lingering close ends after a second or a mebibyte") {
  using namespace std::chrono_literals;
  const common::Lingering::Time start{1000s};
  common::Lingering slow(start);
  CHECK(!slow.is_over(start + 999ms));
  CHECK(slow.is_over(start + 1s));
  CHECK(slow.deadline() == start + 1s);
  common::Lingering fast(start);
  fast.discarded((1 << 20) - 1);
  CHECK(!fast.is_over(start));
  fast.discarded(100);
  CHECK(fast.is_over(start));
}

// In a child, because a test binary should keep its signals.
TEST_CASE("signals become something to read, and SIGPIPE an errno") {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const common::Descriptor signals = common::open_signals(true);
    signalfd_siginfo info{};
    const auto next = [&] {
      return ::read(signals.get(), &info, sizeof info) == sizeof info ? info.ssi_signo : 0;
    };
    int wrong = next() == 0 ? 0 : 1;
    for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
      std::raise(signal);
      if (next() != static_cast<unsigned>(signal)) wrong += 2;
    }
    int ends[2];
    if (::pipe(ends) != 0 || ::close(ends[0]) != 0) wrong += 8;
    if (::write(ends[1], "x", 1) != -1) wrong += 16;
    ::_exit(wrong);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(common::meaning_of(SIGUSR1) == common::SignalMeaning::tables);
  CHECK(common::meaning_of(SIGINT) == common::SignalMeaning::stop);
  CHECK(common::meaning_of(SIGTERM) == common::SignalMeaning::stop);
}

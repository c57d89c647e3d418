#include "bench/load/run.hpp"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "bench/load/client.hpp"
#include "bench/load/meter.hpp"
#include "bench/load/origin.hpp"
#include "servers/common/limits.hpp"
#include "servers/common/start_error.hpp"

namespace load {
namespace {

using State = Connection::State;

constexpr std::size_t max_events = 1024;                // of one epoll_wait
constexpr int dispatched_in_a_row = 64;                 // messages of a timetable, then answers are looked at
constexpr std::uint64_t tick_time = 100 * millisecond;  // time-outs are as exact as that
constexpr std::uint64_t retry_time = millisecond;       // of a connect that found a full queue
constexpr std::uint64_t late_sending_time = second;  // open loop: for what is due and could not be sent yet
constexpr std::uint64_t parting_time = 2 * second;   // for the servers' FINs

// ---- The loop ----------------------------------------------------------------------------------------------

// Whether something must come, or go, before this connection can go on.
bool waits_for_server(const Run& run, const Connection& connection) {
  if (connection.state == State::open) return busy(connection) || connection.waits_for_room;
  return connection.state == State::waiting ||
         (connection.state == State::finishing && run.phase != Phase::parting);
}

void tick(Run& run, std::uint64_t now) {
  run.next_tick = now + tick_time;
  for (Connection& connection : run.connections) {
    if (!waits_for_server(run, connection)) continue;
    if (now - std::min(now, connection.progress) < run.options.timeout) continue;
    fail(run, connection, &Errors::timed_out,
         "nothing came or went for " + std::to_string(run.options.timeout / millisecond) + " ms");
  }
  if (::isatty(STDERR_FILENO) == 0) return;
  std::uint64_t messages = 0;
  for (const Flow& flow : run.flows) messages += flow.result.verified_all;
  std::fprintf(stderr, "\r\033[K%s%llu messages verified, %llu/s ", run.label.c_str(),
               static_cast<unsigned long long>(messages),
               static_cast<unsigned long long>((messages - run.shown) * second / tick_time));
  run.shown = messages;
}

// Sends what the timetables say is due now.
void dispatch_due(Run& run) {
  if (run.phase != Phase::running) return;
  for (Flow& flow : run.flows) {
    if (flow.traffic->rate == 0) continue;
    for (int i = 0; i < dispatched_in_a_row && flow.next_due < flow.timetable.end; ++i) {
      const std::uint64_t now = now_ns();
      const std::uint64_t due_at = flow.timetable.due_at(flow.next_due);
      if (due_at > now) break;
      if (due_at >= run.window_begin) run.result.lag.record(now - due_at);
      Connection& connection = run.connections[flow.first + flow.next_due % flow.timetable.connections];
      ++flow.next_due;
      if (!connection.waits_for_room) pump(run, connection);
    }
  }
}

void retry_waiting(Run& run, std::uint64_t now) {
  std::vector<std::uint32_t> again;
  again.swap(run.waiting);
  for (const std::uint32_t id : again) {
    Connection& connection = run.connections[id];
    if (connection.state != State::waiting) continue;
    open_connection(run, connection, now);
    pump(run, connection);
  }
}

std::uint64_t next_wake_up(const Run& run, std::uint64_t now, std::uint64_t until) {
  std::uint64_t wake_up = std::min(until, run.next_tick);
  if (!run.waiting.empty()) wake_up = std::min(wake_up, now + retry_time);
  if (run.phase != Phase::running) return wake_up;
  for (const Flow& flow : run.flows) {
    if (flow.traffic->rate == 0 || flow.next_due >= flow.timetable.end) continue;
    wake_up = std::min(wake_up, flow.timetable.due_at(flow.next_due));
  }
  return wake_up;
}

// One epoll_wait, until `until` at the longest, and everything that it says.
void turn(Run& run, std::uint64_t until) {
  std::array<::epoll_event, max_events> events;
  const std::uint64_t now = now_ns();
  const std::uint64_t wake_up = next_wake_up(run, now, until);
  const std::uint64_t wait = wake_up > now ? wake_up - now : 0;
  const timespec time{.tv_sec = static_cast<time_t>(wait / second),
                      .tv_nsec = static_cast<long>(wait % second)};
  const int ready = ::epoll_pwait2(run.epoll.get(), events.data(), max_events, &time, nullptr);
  if (ready < 0 && errno != EINTR) {
    throw common::StartError(common::exit_failed, "epoll_pwait2 (Linux 5.11): " + common::errno_text(errno));
  }
  const std::uint64_t woken = now_ns();
  if (!run.waiting.empty()) retry_waiting(run, woken);
  for (int i = 0; i < ready; ++i) {
    const ::epoll_event& event = events[static_cast<std::size_t>(i)];
    Connection& connection = run.connections[event.data.u32];
    if (connection.fd && (event.events & ~std::uint32_t{EPOLLOUT}) != 0) on_readable(run, connection);
    if (connection.fd && (event.events & EPOLLOUT) != 0) pump(run, connection);
    if (run.result.open_loop) dispatch_due(run);
  }
  if (run.result.open_loop) {
    dispatch_due(run);
  } else if (run.counting && ready > 0) {
    run.result.lag.record(now_ns() - woken);
  }
  if (woken >= run.next_tick) tick(run, woken);
}

// ---- The five phases ---------------------------------------------------------------------------------------

bool all_dead(const Run& run) { return run.dead == run.connections.size(); }

void set_up(Run& run) {
  const std::uint64_t wanted = connections_of(run.options) + 64;
  if (const std::uint64_t granted = common::raise_descriptor_limit(wanted); granted < wanted) {
    throw common::StartError(common::exit_usage, std::to_string(wanted) +
                                                     " descriptors are needed and the hard limit is " +
                                                     std::to_string(granted) + " (ulimit -Hn)");
  }
  ::prctl(PR_SET_TIMERSLACK, 1UL);  // ns; by default the kernel may wake us 50 us late
  run.epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!run.epoll) throw common::StartError(common::exit_failed, "epoll: " + common::errno_text(errno));
  run.connections = std::vector<Connection>(connections_of(run.options));
  run.flows.resize(run.options.traffic.size());
  std::uint32_t id = 0;
  for (std::size_t i = 0; i < run.flows.size(); ++i) {
    Flow& flow = run.flows[i];
    const Traffic& traffic = run.options.traffic[i];
    flow.traffic = &traffic;
    flow.first = id;
    flow.result.name = name_of(traffic);
    run.result.open_loop = run.result.open_loop || traffic.rate != 0;
    for (std::uint32_t number = 0; number < traffic.connections; ++number, ++id) {
      Connection& connection = run.connections[id];
      connection.number = number;
      connection.id = id;
      connection.flow = &flow;
      connection.began = std::make_unique<std::uint64_t[]>(traffic.depth);
    }
  }
}

// Every connection, with one verified message on it. False if one of them failed: then there is nothing to
// measure.
bool open_all(Run& run) {
  std::uint64_t started = 0;
  while (run.greeted < run.connections.size() && run.result.errors.all() == 0) {
    while (started < run.connections.size() && started - run.greeted < max_unanswered && run.dead == 0) {
      pump(run, run.connections[started++]);
    }
    if (run.dead == 0) turn(run, UINT64_MAX);
  }
  return run.result.errors.all() == 0;
}

void start(Run& run) {
  run.phase = Phase::running;
  const std::uint64_t now = now_ns();
  for (Flow& flow : run.flows) {
    const std::uint64_t span = run.options.warm_up + run.options.duration;
    flow.timetable = {.start = now, .rate = flow.traffic->rate, .connections = flow.traffic->connections};
    if (run.options.messages != 0) {
      flow.quota = flow.timetable.end = run.options.messages;
    } else {
      flow.timetable.end = static_cast<std::uint64_t>(static_cast<double>(span) / 1e9 *
                                                      static_cast<double>(flow.traffic->rate));
    }
  }
  // By their timetable messages belong into the window or not, however late anybody is.
  if (run.result.open_loop) {
    run.window_begin = now + run.options.warm_up;
    run.window_end = run.options.messages != 0 ? UINT64_MAX : run.window_begin + run.options.duration;
  }
  for (Connection& connection : run.connections) pump(run, connection);
}

bool anything_under_way(const Run& run) {
  return std::any_of(run.connections.begin(), run.connections.end(), [&run](const Connection& connection) {
    if (connection.state == State::dead) return false;
    return busy(connection) || connection.state == State::waiting ||
           limit(run, connection) > begun(connection);
  });
}

// All of --messages; or, when connections have died with some of them, all that can still come.
bool quota_verified(const Run& run) {
  if (run.options.messages == 0) return false;
  const Flow& flow = run.flows.front();
  if (flow.result.verified >= run.options.messages) return true;
  const bool all_due = flow.traffic->rate == 0 || flow.next_due == flow.timetable.end;
  return run.dead > 0 && all_due && !anything_under_way(run);
}

void loop_until(Run& run, std::uint64_t time) {
  while (now_ns() < time && !all_dead(run) && !quota_verified(run)) turn(run, time);
}

// What a process has used until now.
struct Reading {
  std::uint64_t cpu, waited, switches;
};

Reading read(ProcessMeter& meter) { return {meter.cpu(), meter.waited(), meter.context_switches()}; }

// Of a thread that has ended, what it waited is gone: then a difference may be below zero.
Usage difference(const Reading& before, const Reading& after) {
  const auto seconds = [](std::uint64_t from, std::uint64_t to) {
    return static_cast<double>(to - std::min(from, to)) / 1e9;
  };
  return {.cpu = seconds(before.cpu, after.cpu),
          .waited = seconds(before.waited, after.waited),
          .switches = after.switches - std::min(before.switches, after.switches)};
}

void warm_up(Run& run) {
  if (run.options.messages != 0) return;
  start(run);
  loop_until(run, run.flows.front().timetable.start + run.options.warm_up);
}

// Without a timetable the window begins when the warm-up is over, however long its last turn was.
void measure(Run& run, ProcessMeter& own, std::optional<ProcessMeter>& server) {
  const Reading own_before = read(own);
  const Reading server_before = server ? read(*server) : Reading{};
  const std::uint64_t begin = now_ns();
  run.counting = true;
  if (!run.result.open_loop) run.window_begin = begin;
  if (run.options.messages != 0) start(run);
  const std::uint64_t until = run.result.open_loop ? run.window_end : begin + run.options.duration;
  loop_until(run, run.options.messages != 0 ? UINT64_MAX : until);
  const std::uint64_t end = now_ns();
  run.counting = false;
  if (!run.result.open_loop) run.window_end = end;
  Result& result = run.result;
  result.measured = true;
  result.seconds = static_cast<double>(end - begin) / 1e9;
  result.own = difference(own_before, read(own));
  if (server) result.server = difference(server_before, read(*server));
}

// What was due and never sent has waited until now, at least; left out it would be an omission.
void count_unsent(Run& run) {
  const std::uint64_t now = now_ns();
  const std::uint64_t end = std::min(now, run.window_end);
  for (Connection& connection : run.connections) {
    Flow& flow = *connection.flow;
    if (flow.traffic->rate == 0) continue;
    for (std::uint64_t number = begun(connection); number < due(connection); ++number) {
      const std::uint64_t began = began_at(connection, number);
      if (began < run.window_begin || began >= end) continue;
      flow.result.latency.record(now - began);
      ++flow.result.unsent;
    }
  }
}

// Answers that are still due; in an open loop also messages that are, if they can go within a second.
void finish(Run& run) {
  run.phase = Phase::finishing;
  for (Flow& flow : run.flows) {
    if (flow.traffic->rate != 0) flow.next_due = flow.timetable.end;
  }
  run.late_sending = true;
  const std::uint64_t end = now_ns() + late_sending_time;
  for (Connection& connection : run.connections) pump(run, connection);
  while (now_ns() < end && anything_under_way(run)) turn(run, end);
  run.late_sending = false;
  count_unsent(run);
  while (anything_under_way(run)) turn(run, UINT64_MAX);
}

void part(Run& run) {
  run.phase = Phase::parting;
  const std::uint64_t now = now_ns();
  for (Connection& connection : run.connections) {
    if (connection.state == State::open) begin_parting(connection, now);
  }
  const auto parting = [](const Connection& connection) { return connection.state == State::finishing; };
  const auto left = [&] { return std::count_if(run.connections.begin(), run.connections.end(), parting); };
  while (left() != 0 && now_ns() < now + parting_time) turn(run, now + parting_time);
  run.result.left_open = static_cast<std::uint64_t>(left());
  for (Connection& connection : run.connections) {
    if (connection.fd) close_by_reset(connection);
  }
}

}  // namespace

Result run(const Options& options, const Target& target, ::pid_t pid, const std::string& label) {
  Run run{.options = options, .target = target, .label = label};
  ProcessMeter own(0);
  std::optional<ProcessMeter> server;
  if (pid != 0) server.emplace(pid);
  try {
    set_up(run);
    if (open_all(run)) {
      warm_up(run);
      measure(run, own, server);
      finish(run);
      part(run);
    }
  } catch (WrongAnswer& wrong) {
    wrong.origin = origin_of(wrong, run.connections);
    wrong.peer = name_of(run.connections[wrong.connection]);
    throw;
  }
  if (::isatty(STDERR_FILENO) != 0) std::fputs("\r\033[K", stderr);
  for (Flow& flow : run.flows) run.result.traffic.push_back(std::move(flow.result));
  return std::move(run.result);
}

}  // namespace load

// sync_file_server: the synchronous baseline. One thread for each connection, every call blocks, no epoll, no
// cache of open files. What one would write first, and what the other servers are there to beat.
//
//   accept ──► a thread:  recv ──► parse ──► openat2, statx ──► pread, send ... ──► close(file) ──► recv
//
// The threads only serve (connection.hpp). The main thread accepts, and it stops them: who is idle then sits in
// recv, and a signal whose handler does nothing gets it out of there (EINTR). The signal may come a moment
// before the recv and get lost, so it is sent again every 10 ms until the thread has gone.
#include <poll.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <thread>
#include <vector>

#include "baseline_epoll/sync_file_server/connection.hpp"
#include "servers/common/error_class.hpp"
#include "servers/common/limits.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/signals.hpp"

namespace {

using sync_server::Client;
using sync_server::Clock;
using sync_server::Options;
using sync_server::Shared;
using Clients = std::list<Client>;

constexpr int wake_signal = SIGUSR2;

constexpr common::Program about{.name = "sync_file_server",
                                .summary = "Serves files, one blocking thread for each connection.",
                                .epilogue =
                                    "\nSIGINT, SIGTERM: finish what was begun (5 s; a second signal: at "
                                    "once). SIGUSR1: connections on stderr.\n"};

// The life of a thread.
void live(Shared& shared, Clients::iterator client) {
  sync_server::Connection(shared, *client).serve();
  const std::lock_guard guard(shared.lock);
  ++shared.counters.syscalls;
  shared.clients.erase(client);
}

// The client that was idle longest goes: its thread finds the end of input.
void make_room(Shared& shared) {
  Client* idlest = nullptr;
  for (Client& client : shared.clients) {
    if (!client.busy && (idlest == nullptr || client.active < idlest->active)) idlest = &client;
  }
  if (idlest != nullptr) ::shutdown(idlest->socket.get(), SHUT_RDWR);
}

// False: no descriptor is left for another connection and its file; try again in a moment.
bool accept_one(Shared& shared, int listener) {
  {
    const std::lock_guard guard(shared.lock);
    if (shared.clients.size() >= shared.most_clients) {
      make_room(shared);
      return false;
    }
  }
  common::Descriptor socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  const int error = errno;
  const std::lock_guard guard(shared.lock);
  ++shared.counters.syscalls;
  if (!socket) {
    if (common::classify(error) != common::ErrorClass::resource) return true;
    make_room(shared);
    return false;
  }
  if (shared.clients.size() >= shared.options.server.max_connections) {
    ++shared.counters.refused;
    return true;
  }
  shared.clients.emplace_front(socket.release());
  try {
    std::thread thread(live, std::ref(shared), shared.clients.begin());
    shared.clients.front().thread = thread.native_handle();
    thread.detach();
    ++shared.counters.accepted;
  } catch (const std::system_error&) {
    ++shared.counters.errors;
    shared.clients.pop_front();
  }
  return true;
}

// Idle threads come out of recv. `at_once`: all come out of everything, and their clients get a reset. (A
// signal that comes just before the blocking call is lost, so this is repeated until all threads have ended.
// shutdown(2) would not be lost, but it sends FIN, and a cut answer must not look like an end.)
void wake(Shared& shared, bool at_once) {
  shared.ending = at_once;
  const std::lock_guard guard(shared.lock);
  for (const Client& client : shared.clients) {
    if (at_once || !client.busy) ::pthread_kill(client.thread, wake_signal);
  }
}

// Without SA_RESTART, so that recv returns.
void catch_wake_signal() {
  struct ::sigaction action {};
  action.sa_handler = [](int) {};
  ::sigaction(wake_signal, &action, nullptr);
}

void print_tables(Shared& shared) {
  const std::lock_guard guard(shared.lock);
  std::fprintf(stderr, "%zu connections\n%8s  %-6s %10s\n", shared.clients.size(), "fd", "state", "idle ms");
  for (const Client& client : shared.clients) {
    const auto idle = Clock::now().time_since_epoch() - Clock::duration(client.active);
    std::fprintf(stderr, "%8d  %-6s %10lld\n", client.socket.get(), client.busy ? "busy" : "idle",
                 static_cast<long long>(std::chrono::duration_cast<std::chrono::milliseconds>(idle).count()));
  }
}

void take_signals(Shared& shared, int signals, common::StopProtocol& stop) {
  ::signalfd_siginfo signal{};
  while (::read(signals, &signal, sizeof signal) == sizeof signal) {
    if (common::meaning_of(signal.ssi_signo) == common::SignalMeaning::tables) {
      print_tables(shared);
    } else {
      stop.stop(Clock::now());
    }
  }
}

struct Stats {
  std::chrono::seconds every;
  Clock::time_point at = Clock::now() + every;
  common::Counters before{};

  void print_if_due(Shared& shared) {
    if (every.count() == 0 || Clock::now() < at) return;
    at += every;
    const std::lock_guard guard(shared.lock);
    const common::Gauges gauges{.connections = shared.clients.size()};
    std::fprintf(
        stderr, "%s\n",
        common::stats_line(before, shared.counters, static_cast<double>(every.count()), gauges).c_str());
    before = shared.counters;
  }
};

// Accepts until told to stop, then waits for the threads.
void run(Shared& shared, common::Listener& listener, int signals) {
  common::StopProtocol stop;
  Stats stats{.every = std::chrono::seconds(shared.options.server.stats_seconds)};
  bool has_room = true;
  for (;;) {
    // 100 ms is how late statistics may be; 10 ms watches threads end, when we stop or lack descriptors.
    ::pollfd fds[] = {{signals, POLLIN, 0}, {has_room ? listener.fd() : -1, POLLIN, 0}};
    ::poll(fds, 2, !stop.serving() || !has_room ? 10 : stats.every.count() > 0 ? 100 : -1);
    take_signals(shared, signals, stop);
    stop.look_at_clock(Clock::now());
    if (!stop.serving()) {
      listener.close();
      shared.stopping = true;
      wake(shared, stop.state() == common::StopProtocol::State::ending);
      const std::lock_guard guard(shared.lock);
      if (shared.clients.empty()) return;
    } else {
      has_room = fds[1].revents == 0 || accept_one(shared, listener.fd());
    }
    stats.print_if_due(shared);
  }
}

common::Counters serve(const Options& options, std::uint64_t descriptors) {
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/true);
  catch_wake_signal();
  const common::Descriptor root = common::open_root(options.server.root);
  common::Listener listener = common::listen_on(options.server, /*nonblocking=*/true);
  Shared shared{.options = options,
                .root = root.get(),
                .most_clients = (std::max<std::uint64_t>(descriptors, 18) - 16) / 2};
  listener.announce();
  run(shared, listener, signals.get());
  return shared.counters;
}

// Descriptors more than `before`, named on stderr. The threads are detached, and the last of them may be on
// their way out still, so it is counted again for up to a second: what has leaked stays.
std::uint64_t leaked_since(std::uint64_t before) {
  for (int tries = 0; tries < 100 && common::open_descriptors() > before; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const std::uint64_t now = common::open_descriptors();
  if (now <= before) return 0;
  std::fprintf(stderr, "leaked: %llu descriptors; open are\n", static_cast<unsigned long long>(now - before));
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::filesystem::path target = std::filesystem::read_symlink(entry, gone);
    std::fprintf(stderr, "  %s %s\n", entry.path().filename().c_str(), target.c_str());
  }
  return now - before;
}

// False: --help was asked for.
bool parse(int argc, char** argv, Options& options) {
  std::vector<common::Option> table = {common::root_option(options.server),
                                       common::unix_option(options.server)};
  for (const auto& more : {common::server_options(options.server), common::chunk_options(options.files)}) {
    table.insert(table.end(), more.begin(), more.end());
  }
  if (!common::parse_options({argv + 1, argv + argc}, about, table)) return false;
  common::check(options.files);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    if (!parse(argc, argv, options)) return common::exit_clean;
    const std::uint64_t limit =
        common::raise_descriptor_limit(std::uint64_t{2} * options.server.max_connections + 16);
    const std::uint64_t descriptors = common::open_descriptors();
    common::Counters counters = serve(options, limit);
    counters.leaks = leaked_since(descriptors);
    common::print_counters(counters);
    return counters.leaks == 0 ? common::exit_clean : common::exit_failed;
  } catch (const common::StartError& error) {
    std::fprintf(stderr, "%s: %s\n", about.name, error.what());
    return error.exit_code();
  }
}

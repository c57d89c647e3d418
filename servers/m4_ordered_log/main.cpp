// m4_ordered_log: a server that appends what it is given to a file, and says OK when it is durable.
//
//   m4_ordered_log --port 9004 --file LOG
//   printf 'PUT 5\nhello' | nc -N 127.0.0.1 9004
//
// Order is all there is to it: writes before their fsync, the fsync before the answer, and answers in the order of the
// log. io_uring completes operations in any order, and offers two ways to say otherwise, IOSQE_IO_DRAIN and
// IOSQE_IO_LINK; a third is to wait for completions before submitting what depends on them. All three are here:
// --order wait|drain|link.
//
// This file is the beginning and the end. The middle is
//
//   record.hpp       what is written, and how it is known again
//   recovery.hpp     opening a log: the torn tail is cut off
//   log.hpp          the rule, and the three ways to keep it; log_impl.hpp is how
//   log_ring.hpp     a second ring in the same thread
//   server.hpp       the clients; server.cpp is how
//   drills.hpp       what goes wrong, one thing at a time
//
// Exit codes: 0 clean, 1 a failure or a leak, 2 usage, 3 no io_uring here.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <vector>

#include "servers/common/limits.hpp"
#include "servers/common/signals.hpp"
#include "servers/common_ring/program.hpp"
#include "servers/m4_ordered_log/drills.hpp"
#include "servers/m4_ordered_log/recovery.hpp"
#include "servers/m4_ordered_log/server.hpp"

namespace {

constexpr const char* program = "m4_ordered_log";

/// What one submit carries. A chain of the log's must fit in when it shares this ring.
constexpr unsigned sq_entries = 1024;
/// Completions wait here until the loop comes round.
constexpr unsigned cq_entries = 8192;
static_assert(sq_entries > ordered_log::most_writes);

enum class RingOfLog : std::uint8_t { own, serving };

struct Options {
  common::ServerOptions server{.port = 9004};
  std::string file{};
  ordered_log::Order order = ordered_log::Order::wait;
  RingOfLog log_ring = RingOfLog::own;
  ordered_log::Drill drill = ordered_log::Drill::none;
};

bool parse(int argc, char** argv, Options& options) {
  std::vector<common::Option> table = common::server_options(options.server);
  table.push_back(common::unix_option(options.server));
  table.push_back(common::text("--file", "LOG", options.file, "the log; created if it is not there"));
  table.push_back(
      common::choice("--order", "wait|drain|link", options.order,
                     "what puts an fsync behind its writes: their completions, IOSQE_IO_DRAIN, or a chain"));
  table.push_back(common::choice("--log-ring", "own|serving", options.log_ring,
                                 "a ring for the log alone, or the one that serves the clients"));
  table.push_back(common::choice("--drill", "none|stall|two-writes", options.drill,
                                 "no server: shows one thing, says what happens, and ends"));
  const common::Program about{.name = program,
                              .summary = "Appends records to a file, and answers when they are durable."};
  if (!common::parse_options({argv + 1, argv + argc}, about, table)) return false;
  if (options.drill == ordered_log::Drill::none && options.file.empty()) {
    throw common::StartError(common::exit_usage, "--file LOG is needed (--help)");
  }
  return true;
}

void warn_of_stall(const Options& options) {
  if (options.log_ring != RingOfLog::serving || options.order != ordered_log::Order::drain) return;
  std::fprintf(
      stderr,
      "%s: --log-ring serving --order drain: an fsync with DRAIN waits for the accept, which never ends, "
      "and for every silent client.\n"
      "%s: the first PUT stops this server, until SIGTERM. That is what it is here to show; "
      "--log-ring own does not.\n",
      program, program);
}

int serve(const Options& options) {
  common::raise_descriptor_limit_or_say(std::uint64_t{options.server.max_connections} + 64, program,
                                        "--max-connections");
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/false);
  std::signal(SIGXFSZ, SIG_IGN);  // a file at its size limit is EFBIG, not death
  const std::uint64_t descriptors_before = common::open_descriptors();

  std::optional<ordered_log::OpenLog> log(ordered_log::open_log(options.file, program));
  std::optional<common::Listener> listener(common::listen_on(options.server, /*nonblocking=*/false));
  std::optional<uring::Ring> ring(std::in_place,
                                  uring::RingOptions{.entries = sq_entries, .cq_entries = cq_entries});
  std::optional<ordered_log::LogRing> log_ring;
  if (options.log_ring == RingOfLog::own) log_ring.emplace();
  uring::Loop loop(*ring);
  std::optional<ordered_log::LogServer> server(
      std::in_place, loop, log_ring ? &*log_ring : nullptr, *listener, signals.get(), log->fd.get(),
      log->found.end, ordered_log::LogServer::Options{.server = options.server, .order = options.order});
  warn_of_stall(options);
  listener->announce();
  const int result = server->run();

  common::Counters counters = server->counters();
  const ordered_log::LogStatistics said = server->log_statistics();
  std::fprintf(stderr, "%s: %llu records acknowledged, by %llu fsyncs; %llu failed\n", program,
               static_cast<unsigned long long>(said.records), static_cast<unsigned long long>(said.fsyncs),
               static_cast<unsigned long long>(said.failed));
  counters.leaks = server->count_leaks();
  // If the ring failed, operations are still in flight, and only the end of the process ends them before the memory
  // that they use.
  if (result < 0 && counters.leaks > 0)
    std::_Exit(common_ring::end_program(program, counters, descriptors_before, result));
  server.reset();
  log_ring.reset();
  ring.reset();
  listener.reset();
  log.reset();
  return common_ring::end_program(program, counters, descriptors_before, result);
}

}  // namespace

int main(int argc, char** argv) {
  return common_ring::run_program(program, [&] {
    Options options;
    if (!parse(argc, argv, options)) return common::exit_clean;
    return options.drill == ordered_log::Drill::none ? serve(options) : ordered_log::run(options.drill);
  });
}

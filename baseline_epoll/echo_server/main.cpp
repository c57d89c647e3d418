// epoll_echo_server: the twin of m3_echo_server, without io_uring.
//
//   build/epoll_echo_server --port 9001
//   build/epoll_echo_server --unix /tmp/echo.sock --idle-timeout 60
//
// The same options, semantics, limits and counters as its twin, and as fast as an epoll server can be. Read
// server.hpp (the loop), server.cpp (a turn), connection.hpp (the queue).
#include <cstdio>
#include <exception>
#include <vector>

#include "baseline_epoll/echo_server/server.hpp"
#include "servers/common/ending.hpp"
#include "servers/common/limits.hpp"

namespace {

using echo_server::Options;

constexpr common::Program about{
    .name = "epoll_echo_server",
    .summary = "Sends back what it receives, by epoll, for comparison with m3_echo_server.",
    .epilogue =
        "\nSIGINT, SIGTERM: finish what was begun (5 s; a second signal: at once). SIGUSR1: the connections, "
        "on stderr.\n"};

// False: --help was asked for.
bool parse(int argc, char** argv, Options& options) {
  std::vector<common::Option> table = common::server_options(options.server);
  table.push_back(common::unix_option(options.server));
  table.push_back(common::number("--idle-timeout", "SECONDS", options.idle_seconds, 0, 86'400,
                                 "closes a connection on which nothing moved for so long; 0: never"));
  return common::parse_options({argv + 1, argv + argc}, about, table);
}

// A connection costs a descriptor; a few are ours.
void raise_limit(const Options& options) {
  const std::uint64_t wanted = std::uint64_t{options.server.max_connections} + 64;
  common::raise_descriptor_limit_or_say(wanted, about.name, "--max-connections");
}

// Serves to the end. Returns what was counted, leaks of connections and rings among it.
common::Counters serve(const Options& options) {
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/true);
  echo_server::Server server(options, signals.get(), common::listen_on(options.server, /*nonblocking=*/true));
  server.announce();
  server.run();
  return server.finish();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    if (!parse(argc, argv, options)) return common::exit_clean;
    raise_limit(options);
    const std::uint64_t descriptors = common::open_descriptors();
    return common::end_with(serve(options), descriptors, about.name);
  } catch (const common::StartError& error) {
    std::fprintf(stderr, "%s: %s\n", about.name, error.what());
    return error.exit_code();
  }
}

// epoll_file_server: the twin of m2_file_server, without io_uring.
//
//   build/epoll_file_server --root /srv                        pread in the loop
//   build/epoll_file_server --root /srv --io pool --threads 64 pread on threads
//   build/epoll_file_server --root /srv --io sendfile          no copy through this program at all
//
// The same options, wire forms, limits and counters as its twin, and as good as an epoll server can be. Read
// server.hpp (the loop), turn.cpp (a request's way), connection.hpp (its state), chunk.hpp, file_cache.hpp.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "baseline_epoll/file_server/server.hpp"
#include "servers/common/ending.hpp"
#include "servers/common/limits.hpp"
#include "servers/common/served_root.hpp"

namespace {

using file_server::Io;
using file_server::Options;

constexpr common::Program about{
    .name = "epoll_file_server",
    .summary =
        "Serves files by epoll, for comparison with m2_file_server: GET PATH [OFFSET LENGTH], or HTTP.",
    .epilogue =
        "\n--io inline    the loop reads: while the disk works, everybody waits\n"
        "     pool      --threads threads read, the loop goes on\n"
        "     sendfile  the kernel sends from its page cache; the loop waits for the disk as well\n"
        "\nSIGINT, SIGTERM: finish what was begun (5 s; a second signal: at once). SIGUSR1: tables on "
        "stderr.\n"};

// False: --help was asked for.
bool parse(int argc, char** argv, Options& options) {
  std::vector<common::Option> table = {common::root_option(options.server)};
  const auto add = [&](const std::vector<common::Option>& more) {
    table.insert(table.end(), more.begin(), more.end());
  };
  add(common::server_options(options.server));
  add({common::unix_option(options.server)});
  add(common::pool_options(options.files));
  add(common::chunk_options(options.files));
  add({common::choice("--io", "inline|pool|sendfile", options.io, "how files are read, see below"),
       common::number("--threads", "N", options.threads, 1, 1024, "of --io pool")});
  if (!common::parse_options({argv + 1, argv + argc}, about, table)) return false;
  common::check(options.files);
  if (options.io == Io::sendfile && options.files.direct) {
    throw common::StartError(common::exit_usage,
                             "--direct with --io sendfile: sendfile sends from the page cache");
  }
  return true;
}

// A connection costs a descriptor, so does an open file; a few are ours.
void raise_limit(const Options& options) {
  const std::uint64_t wanted = std::uint64_t{options.server.max_connections} + options.files.open_files + 64;
  common::raise_descriptor_limit_or_say(wanted, about.name, "--max-connections and --open-files");
}

// Serves to the end. Returns what was counted, leaks of connections, buffers and files among it.
common::Counters serve(const Options& options) {
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/true);
  const common::Descriptor root = common::open_root(options.server.root);
  file_server::Server server(options, root.get(), signals.get(),
                             common::listen_on(options.server, /*nonblocking=*/true));
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

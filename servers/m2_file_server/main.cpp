// Milestone 2: files to clients, everything through one ring.
//
//   build/m2_file_server --root DIR --port 9000
//   printf 'GET some/file\n' | nc -N 127.0.0.1 9000          the line form
//   curl http://127.0.0.1:9000/some/file                     the HTTP form
//
// The story, from top to bottom: a socket that listens; a ring; memory for the files, registered with it; a
// table of direct descriptors, if asked for; then the loop, until a signal comes; and what it all came to.
//
// What follows one request is in servers/common_ring: file_server.hpp first.

#include <cerrno>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>

#include "servers/common/counters.hpp"
#include "servers/common/file_options.hpp"
#include "servers/common/limits.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/common/served_root.hpp"
#include "servers/common/signals.hpp"
#include "servers/common/start_error.hpp"
#include "servers/common_ring/file_server.hpp"
#include "uring/direct_files.hpp"
#include "uring/fixed_buffers.hpp"
#include "uring/loop.hpp"

namespace {

constexpr const char* program = "m2_file_server";

/// How many SQEs one turn can prepare without an extra enter. A turn prepares at most a few for each
/// connection that something happened to.
constexpr unsigned sq_entries = 1024;
/// Completions wait here until the loop comes round. Too few is no loss, only slower (NODROP).
constexpr unsigned cq_entries = 8192;

enum class Io : std::uint8_t { read, fixed };
enum class Files : std::uint8_t { normal, direct };

struct Options {
  common_ring::FileServer::Options server{.server = {.port = 9000}};
  Io io = Io::fixed;
  Files files = Files::normal;
};

bool parse(int argc, char** argv, Options& options) {
  common::ServerOptions& server = options.server.server;
  std::vector<common::Option> table = common::server_options(server);
  table.push_back(common::unix_option(server));
  table.push_back(common::root_option(server));
  table.push_back(common::choice("--io", "read|fixed", options.io,
                                 "plain READ, or READ_FIXED into buffers registered with the ring"));
  table.push_back(common::choice("--files", "normal|direct", options.files,
                                 "ordinary descriptors for files, or slots of the ring's own table"));
  for (const common::Option& option : common::chunk_options(options.server.files)) table.push_back(option);
  for (const common::Option& option : common::pool_options(options.server.files)) table.push_back(option);
  const common::Program about{.name = program,
                              .summary = "Serves the files below a folder, through one io_uring."};
  if (!common::parse_options({argv + 1, argv + argc}, about, table)) return false;
  common::check(options.server.files);
  return true;
}

/// One registration, for the life of the ring. Where it is refused, every READ looks its pages up anew, and
/// all else stays the same.
void register_buffers(uring::BufferPool& pool, const uring::Ring& ring) {
  const int result = pool.register_with(ring);
  if (result >= 0) return;
  const std::size_t kilobytes = pool.capacity() * (pool.headroom() + pool.buffer_size()) / 1024;
  std::fprintf(stderr,
               "%s: the buffers are not registered (%s): plain READ instead of READ_FIXED.\n"
               "  They are %zu KiB of locked memory; `ulimit -l` is the limit in KiB, and --buffers and "
               "--buffer-size say how much is asked for.\n",
               program, common::errno_text(-result).c_str(), kilobytes);
}

/// A slot for each file that may be open: idle in the cache, or in use by a connection.
std::uint32_t slots_for(const common_ring::FileServer::Options& options, std::uint64_t descriptors) {
  const std::uint64_t wanted = std::uint64_t{options.files.open_files} + options.server.max_connections;
  return static_cast<std::uint32_t>(std::min({wanted, descriptors, std::uint64_t{1} << 15}));
}

int serve(const Options& options) {
  const common::ServerOptions& server = options.server.server;
  const common::FileOptions& files = options.server.files;

  const std::uint64_t descriptors_before = common::open_descriptors();
  const std::uint64_t descriptors =
      common::raise_descriptor_limit(std::uint64_t{server.max_connections} + files.open_files + 64);
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/false);
  const common::Descriptor root = common::open_root(server.root);
  std::optional<common::Listener> listener(common::listen_on(server, /*nonblocking=*/false));

  // The pool stands before the ring, and so dies after it: the kernel holds its pages until the ring is gone.
  std::optional<uring::BufferPool> pool(std::in_place, files.buffers, files.buffer_size,
                                        common_ring::buffer_headroom);
  std::optional<uring::Ring> ring(std::in_place,
                                  uring::RingOptions{.entries = sq_entries, .cq_entries = cq_entries});
  if (options.io == Io::fixed) register_buffers(*pool, *ring);
  std::optional<uring::DirectFiles> slots;
  if (options.files == Files::direct) {
    slots.emplace();
    if (const int result = slots->register_with(*ring, slots_for(options.server, descriptors)); result < 0) {
      throw common::StartError(common::exit_failed, "cannot register a table of direct descriptors: " +
                                                        common::errno_text(-result));
    }
  }

  uring::Loop loop(*ring);
  common_ring::FileServer file_server(loop, *pool, slots ? &*slots : nullptr, *listener, root.get(),
                                      signals.get(), options.server);
  listener->announce();
  const int result = file_server.run();

  common::Counters counters = file_server.counters();
  counters.leaks = file_server.count_leaks();
  listener.reset();
  ring.reset();
  // What we opened here is still ours: the folder and the signals.
  const std::uint64_t descriptors_now = common::open_descriptors();
  const std::uint64_t expected = descriptors_before + 2;
  if (descriptors_now > expected) {
    std::fprintf(stderr, "leaked: %llu descriptors\n",
                 static_cast<unsigned long long>(descriptors_now - expected));
    counters.leaks += descriptors_now - expected;
  }
  common::print_counters(counters);
  if (result < 0) {
    std::fprintf(stderr, "%s: stopped by %s\n", program, common::errno_text(-result).c_str());
    return common::exit_failed;
  }
  return counters.leaks == 0 ? common::exit_clean : common::exit_failed;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    return parse(argc, argv, options) ? serve(options) : common::exit_clean;
  } catch (const common::StartError& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return error.exit_code();
  } catch (const uring::SetupError& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return common::exit_no_io_uring;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return common::exit_failed;
  }
}

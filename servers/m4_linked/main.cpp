// Milestone 4: linked chains. What is done for a client is said before the client comes.
//
//   build/m4_linked --port 9003 --message 64
//   build/load churn --port 9003 --size 64
//
// The story, from top to bottom: a socket that listens; a ring with a table of slots and no ordinary descriptors
// for clients; as many chains as there are slots, all handed to the kernel; then the loop, in which a chain that
// is over is queued again; and what it all came to, asked of the kernel slot by slot.
//
// What a chain looks like, and how it breaks: chain.hpp. `--drill all` shows each way to break it by itself.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "servers/common/limits.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/common/signals.hpp"
#include "servers/common/start_error.hpp"
#include "servers/common_ring/program.hpp"
#include "servers/common_ring/slots_let_go.hpp"
#include "servers/m4_linked/chain_server.hpp"
#include "servers/m4_linked/drills.hpp"
#include "servers/m4_linked/splice_server.hpp"
#include "uring/direct_files.hpp"
#include "uring/loop.hpp"

namespace {

constexpr const char* program = "m4_linked";

/// Of the buffers of all chains.
constexpr std::uint64_t most_memory = std::uint64_t{1} << 30;
constexpr std::uint32_t most_chains = 4096;  // seven SQEs each: what the largest ring holds
/// Worker threads for --mode splice: nothing that they do there waits.
constexpr unsigned workers = 2;

enum class Mode : std::uint8_t { echo, splice, file };
enum class How : std::uint8_t { linked, driven };

struct Options {
  common::ServerOptions server{.port = 9003};
  std::uint32_t message = 64;
  std::uint32_t chains = 64;
  Mode mode = Mode::echo;
  How how = How::linked;
  bool skip_success = false;
  std::string file{};
  std::uint32_t client_timeout_seconds = 10;
  std::string drill{};
};

bool parse(int argc, char** argv, Options& options) {
  std::vector<common::Option> table = common::server_options(options.server);
  table.push_back(common::unix_option(options.server));
  table.push_back(
      common::choice("--mode", "echo|splice|file", options.mode,
                     "messages of one length; bytes of any length; one file for whoever connects"));
  table.push_back(common::bytes("--message", "BYTES", options.message, 1, linked::longest,
                                "echo: the length of each message"));
  table.push_back(common::text("--file", "PATH", options.file, "file: which one, of at most 1 MiB"));
  table.push_back(common::number("--chains", "N", options.chains, 1, most_chains,
                                 "echo, file: how many are queued at once, and so clients served at once"));
  table.push_back(
      common::choice("--chain", "linked|driven", options.how,
                     "echo, file: all steps at once, or each upon the completion of the one before"));
  table.push_back(common::flag("--skip-success", options.skip_success,
                               "linked: no completion for links that succeed, but for the last"));
  table.push_back(common::number("--client-timeout", "SECONDS", options.client_timeout_seconds, 0, 86'400,
                                 "echo, file: how long a silent client may hold a chain; 0: for ever"));
  table.push_back(
      common::text("--drill", "NAME", options.drill,
                   "breaks a chain and tells what happens; `list` names the drills, `all` runs them"));
  const common::Program about{
      .name = program,
      .summary = "Serves clients with chains of linked operations, through one io_uring.",
      .epilogue =
          "--max-connections is for --mode splice. In the other modes whoever finds all chains busy "
          "waits in the\nlistener's backlog.\n"};
  return common::parse_options({argv + 1, argv + argc}, about, table);
}

/// Options that make no sense together.
void check(const Options& options) {
  const auto refuse = [](const char* why) { throw common::StartError(common::exit_usage, why); };
  if (options.mode == Mode::splice && (options.how == How::driven || options.skip_success)) {
    refuse("--chain and --skip-success are for --mode echo and file: a splice's result is needed");
  }
  if (options.how == How::driven && options.skip_success) {
    refuse("--skip-success is for --chain linked: what drives a driven chain are its completions");
  }
  if ((options.mode == Mode::file) != !options.file.empty()) refuse("--mode file and --file belong together");
  const std::uint64_t each = options.mode == Mode::file ? linked::longest : options.message;
  if (options.mode != Mode::splice && options.chains * each > most_memory) {
    refuse("--chains times --message (a MiB for a file) must not exceed 1 GiB");
  }
}

/// The table in which clients are accepted: a slot for each chain, as many as RLIMIT_NOFILE allows.
std::uint32_t register_slots(const uring::Ring& ring, std::uint32_t chains) {
  const auto slots =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(chains, common::raise_descriptor_limit(chains)));
  if (slots < chains) {
    std::fprintf(stderr,
                 "%s: %u chains instead of %u: the table of slots counts as descriptors (ulimit -Hn)\n",
                 program, slots, chains);
  }
  const int result = uring::DirectFiles().register_with(ring, slots);
  if (result < 0) {
    throw common::StartError(common::exit_failed,
                             "no table of direct descriptors: " + common::errno_text(-result));
  }
  return slots;
}

/// A chain names a slot that is empty when it is queued. A kernel that looks it up then, and not when the operation
/// runs, finds nothing there; CQE_SKIP_SUCCESS came with the same version.
void check_kernel(const Options& options, const uring::Ring& ring) {
  constexpr std::uint32_t needed = IORING_FEAT_LINKED_FILE | IORING_FEAT_CQE_SKIP;
  if (options.how == How::driven || (ring.features() & needed) == needed) return;
  throw common::StartError(
      common::exit_no_io_uring,
      "chains of direct descriptors need Linux 5.17; --chain driven does the same without");
}

/// Where a closed slot does not let go of its socket (common_ring/slots_let_go.hpp): what becomes of that.
void announce_kept_slots(const Options& options) {
  std::fprintf(stderr, "%s: this kernel keeps the socket of a closed slot as long as another slot is in use",
               program);
  if (options.how == How::driven) {
    std::fprintf(stderr, ": ordinary descriptors instead\n");
    return;
  }
  std::fprintf(
      stderr,
      ".\n  A chain needs slots, so a SHUTDOWN tells each client the end, and its socket stays until all "
      "have gone\n  that were served at the same time");
  if (options.client_timeout_seconds > 0) {
    std::fprintf(stderr, " (at most %u s, --client-timeout, for each step of theirs)",
                 options.client_timeout_seconds);
  } else {
    std::fprintf(stderr, ": with --client-timeout 0 one silent client keeps them for ever");
  }
  std::fprintf(stderr,
               ".\n  --chain driven and --mode splice have ordinary descriptors, of which nothing stays.\n");
}

/// What both kinds of server do once they exist.
template <class Server>
int run(Server& server, std::optional<common::Listener>& listener, std::optional<uring::Ring>& ring,
        std::uint64_t descriptors_before) {
  listener->announce();
  const int result = server.run();
  common::Counters counters = server.counters();
  counters.leaks = server.count_leaks();
  // If the ring failed, operations are still in flight, and only the end of the process ends them before the
  // memory that they write to.
  if (result < 0 && counters.leaks > 0)
    std::_Exit(common_ring::end_program(program, counters, descriptors_before, result));
  listener.reset();
  ring.reset();
  return common_ring::end_program(program, counters, descriptors_before, result);
}

int serve_chains(const Options& options, int signals) {
  std::optional<linked::ServedFile> file;
  if (options.mode == Mode::file) file.emplace(options.file);
  const std::uint64_t descriptors_before = common::open_descriptors();
  std::optional<common::Listener> listener(common::listen_on(options.server, /*nonblocking=*/false));
  std::optional<uring::Ring> ring(
      std::in_place, uring::RingOptions{.entries = linked::ChainServer::sq_entries_for(options.chains)});
  check_kernel(options, *ring);
  const bool let_go = common_ring::slots_let_go();
  if (!let_go) announce_kept_slots(options);
  const linked::Work work{.linked = options.how == How::linked,
                          .skip_success = options.skip_success,
                          .listener = listener->fd(),
                          .file = file ? file->fd() : -1,
                          .length = file ? file->length() : options.message,
                          .patience = {.tv_sec = options.client_timeout_seconds, .tv_nsec = 0},
                          .in_slots = let_go || options.how == How::linked,
                          .slots_let_go = let_go};
  const std::uint32_t chains = work.in_slots ? register_slots(*ring, options.chains) : options.chains;
  if (!work.in_slots) common::raise_descriptor_limit_or_say(std::uint64_t{chains} + 64, program, "--chains");
  uring::Loop loop(*ring);
  linked::ChainServer server(loop, *listener, signals, file ? &*file : nullptr, work, chains,
                             options.server.stats_seconds);
  return run(server, listener, ring, descriptors_before);
}

int serve_splices(const Options& options, int signals) {
  common::raise_descriptor_limit_or_say(
      std::uint64_t{options.server.max_connections} * linked::descriptors_per_client + 64, program,
      "--max-connections");
  const std::uint64_t descriptors_before = common::open_descriptors();
  std::optional<common::Listener> listener(common::listen_on(options.server, /*nonblocking=*/false));
  std::optional<uring::Ring> ring(std::in_place, uring::RingOptions{.entries = 4096, .cq_entries = 16384});
  std::uint32_t limits[] = {workers, workers};  // for files, and for all else
  const uring::Kernel& kernel = ring->kernel();
  const int limited = kernel.register_(kernel.self, ring->fd(), IORING_REGISTER_IOWQ_MAX_WORKERS, limits, 2);
  if (limited < 0) {  // before 5.15: as many as there are clients
    std::fprintf(stderr, "%s: the number of worker threads is not limited: %s\n", program,
                 common::errno_text(-limited).c_str());
  }
  uring::Loop loop(*ring);
  linked::SpliceServer server(loop, *listener, signals, options.server);
  return run(server, listener, ring, descriptors_before);
}

int serve(const Options& options) {
  if (!options.drill.empty()) return linked::run_drill(options.drill);
  check(options);
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/false);
  return options.mode == Mode::splice ? serve_splices(options, signals.get())
                                      : serve_chains(options, signals.get());
}

}  // namespace

int main(int argc, char** argv) {
  return common_ring::run_program(program, [&] {
    Options options;
    return parse(argc, argv, options) ? serve(options) : common::exit_clean;
  });
}

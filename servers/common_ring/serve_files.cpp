// The story of a file server, from top to bottom: a socket that listens; memory for the files; a ring, and that
// memory registered with it; a table of direct descriptors, if asked for; then the loop, until a signal comes;
// and what it all came to.
//
// What follows one request is in file_server.hpp.

#include "servers/common_ring/serve_files.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "servers/common/limits.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/served_root.hpp"
#include "servers/common/signals.hpp"
#include "servers/common/start_error.hpp"
#include "servers/common_ring/program.hpp"
#include "servers/common_ring/slots_let_go.hpp"
#include "uring/direct_files.hpp"
#include "uring/fixed_buffers.hpp"
#include "uring/loop.hpp"

namespace common_ring {

namespace {

/// How many SQEs one turn can prepare without an extra enter. A turn prepares at most a few for each
/// connection that something happened to.
constexpr unsigned sq_entries = 1024;
/// Completions wait here until the loop comes round. Too few is no loss, only slower (NODROP).
constexpr unsigned cq_entries = 8192;
/// The kernel's limit on its table of files.
constexpr std::uint64_t most_slots = std::uint64_t{1} << 20;

/// One registration, for the life of the ring. Where it is refused, every READ looks its pages up anew, and
/// all else stays the same.
void register_buffers(const FileProgram& program, uring::BufferPool& pool, const uring::Ring& ring) {
  const int result = pool.register_with(ring);
  if (result >= 0) return;
  std::fprintf(stderr, "%s: the buffers are not registered (%s): plain READ instead of READ_FIXED.\n",
               program.name, common::errno_text(-result).c_str());
  if (result != -ENOMEM) return;
  std::fprintf(stderr,
               "  They are %zu KiB of locked memory; `ulimit -l` is the limit in KiB, and --buffers and "
               "--buffer-size say how much is asked for.\n",
               pool.capacity() * (pool.headroom() + pool.buffer_size()) / 1024);
}

/// The ring's own table of files, or none. Every file that can be in use at a time gets a slot, as far as the
/// limit of descriptors allows: the kernel wants the table to be below it.
std::optional<uring::DirectFiles> make_slots(const FileProgram& program, const uring::Ring& ring) {
  if (program.files == Files::normal) return std::nullopt;
  if ((ring.features() & IORING_FEAT_CQE_SKIP) == 0) {  // 5.17; direct descriptors came in 5.15
    std::fprintf(stderr, "%s: this kernel is too old for direct descriptors: ordinary ones instead\n",
                 program.name);
    return std::nullopt;
  }
  const FileServer::Options& server = program.server;
  // A READ ends by itself, so what replaced files it keeps open is soon let go. A send out of a registered buffer waits
  // for its client; where such a client keeps every slot that is closed meanwhile, all replaced files would stay open.
  if (server.zero_copy_from && program.io == Io::fixed && !slots_let_go()) {
    std::fprintf(stderr,
                 "%s: this kernel keeps the file of a closed slot as long as a registered buffer is being "
                 "sent: ordinary "
                 "descriptors instead\n",
                 program.name);
    return std::nullopt;
  }
  const std::uint64_t in_use = std::uint64_t{server.server.max_connections} * max_jobs;
  const std::uint64_t slots = std::min(in_use + server.files.open_files, common::raise_descriptor_limit(0));
  std::optional<uring::DirectFiles> table(std::in_place);
  const int result = table->register_with(ring, static_cast<std::uint32_t>(std::min(slots, most_slots)));
  if (result < 0) {
    throw common::StartError(common::exit_failed,
                             "cannot register a table of direct descriptors: " + common::errno_text(-result));
  }
  return table;
}

}  // namespace

std::vector<common::Option> options_of(FileProgram& program) {
  common::ServerOptions& server = program.server.server;
  common::FileOptions& files = program.server.files;
  std::vector<common::Option> table = common::server_options(server);
  table.push_back(common::unix_option(server));
  table.push_back(common::root_option(server));
  table.push_back(common::choice("--io", "read|fixed", program.io,
                                 "plain READ, or READ_FIXED into buffers registered with the ring"));
  table.push_back(common::choice("--files", "normal|direct", program.files,
                                 "ordinary descriptors for files, or slots of the ring's own table"));
  for (const common::Option& option : common::chunk_options(files)) table.push_back(option);
  for (const common::Option& option : common::pool_options(files)) table.push_back(option);
  return table;
}

int serve_files(const FileProgram& program) {
  const common::ServerOptions& server = program.server.server;
  const common::FileOptions& files = program.server.files;
  // A descriptor for each connection and each open file; a few are ours.
  common::raise_descriptor_limit_or_say(std::uint64_t{server.max_connections} + files.open_files + 64,
                                        program.name, "--max-connections and --open-files");
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/false);
  const common::Descriptor root = common::open_root(server.root);
  const std::uint64_t descriptors_before = common::open_descriptors();
  std::optional<common::Listener> listener(common::listen_on(server, /*nonblocking=*/false));

  // The pool stands before the ring, and so dies after it: the kernel holds its pages until the ring is gone.
  uring::BufferPool pool(files.buffers, files.buffer_size, buffer_headroom);
  std::optional<uring::Ring> ring(std::in_place,
                                  uring::RingOptions{.entries = sq_entries, .cq_entries = cq_entries});
  if (program.io == Io::fixed) register_buffers(program, pool, *ring);
  std::optional<uring::DirectFiles> slots = make_slots(program, *ring);

  uring::Loop loop(*ring);
  FileServer file_server(loop, pool, slots ? &*slots : nullptr, *listener, root.get(), signals.get(),
                         program.server);
  listener->announce();
  const int result = file_server.run();

  common::Counters counters = file_server.counters();
  counters.leaks = file_server.count_leaks();
  // If the ring failed, operations are still in flight, and only the end of the process ends them before the
  // memory that they write to.
  if (result < 0 && counters.leaks > 0)
    std::_Exit(end_program(program.name, counters, descriptors_before, result));
  listener.reset();
  ring.reset();
  return end_program(program.name, counters, descriptors_before, result);
}

}  // namespace common_ring

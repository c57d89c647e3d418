// Milestone 3: an echo server that survives everything.
//
//   build/m3_echo_server --port 9001
//   build/load echo --port 9001 --connections 128
//
// The story, from top to bottom: a socket that listens; a ring, with the flags that were asked for; a group of
// provided buffers, from which the kernel takes one when bytes come; then the loop, until a signal comes; and
// what it all came to. The same source, compiled with a ring whose submissions a kernel thread picks up, is
// build/m3_echo_server_sqpoll.
//
// What an echo server must be able to survive, and how: echo_server.hpp.

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
#include "servers/m3_echo_server/echo_server.hpp"
#include "servers/m3_echo_server/pretend_kernel.hpp"
#include "uring/buffer_ring.hpp"
#include "uring/capabilities.hpp"
#include "uring/direct_files.hpp"
#include "uring/loop.hpp"

#ifndef ECHO_SQPOLL
#define ECHO_SQPOLL 0
#endif

namespace {

constexpr bool sqpoll = ECHO_SQPOLL != 0;
constexpr const char* program = sqpoll ? "m3_echo_server_sqpoll" : "m3_echo_server";
using Ring = uring::BasicRing<sqpoll>;

/// How many SQEs one turn can prepare without an extra enter: a send for each connection that spoke.
constexpr unsigned sq_entries = 1024;
/// Completions wait here until the loop comes round. Too few is no loss, but it ends multishots, each of which
/// must then be armed again.
constexpr unsigned cq_entries = 16384;
/// The group. A buffer is in use from the receive to the end of its send, so their number is for clients that
/// speak at the same moment, not for clients. Large enough for a large message in one piece: a receive, a
/// completion and a send for each 4 KiB of it would cost more than the bytes. The 64 MiB are address space:
/// memory becomes of them only what is used, and hot_buffers.hpp sees to it that it is little.
constexpr std::size_t buffers = 1024;
constexpr std::size_t buffer_bytes = 64 << 10;
constexpr uring::BufferGroup group_of_buffers{0};

enum class Submit : std::uint8_t { each, batched };
enum class Taskrun : std::uint8_t { normal, coop, defer };
enum class Recv : std::uint8_t { single, multishot };
enum class Files : std::uint8_t { normal, direct };
enum class Pretend : std::uint8_t { no, linux_5_15, linux_5_19, linux_6_0, linux_6_1 };

struct Options {
  common::ServerOptions server{.port = 9001};
  Submit submit = Submit::batched;
  Taskrun taskrun = Taskrun::defer;
  Recv recv = Recv::multishot;
  Files files = Files::normal;
  Pretend pretend = Pretend::no;
  std::uint32_t idle_timeout_seconds = 0;
};

bool parse(int argc, char** argv, Options& options) {
  std::vector<common::Option> table = common::server_options(options.server);
  table.push_back(common::unix_option(options.server));
  table.push_back(common::number("--idle-timeout", "SECONDS", options.idle_timeout_seconds, 0, 86'400,
                                 "closes a connection on which nothing moved for so long; 0: never"));
  table.push_back(common::choice("--recv", "single|multishot", options.recv,
                                 "a receive for each message, or one for all, into provided buffers"));
  table.push_back(common::choice("--files", "normal|direct", options.files,
                                 "ordinary descriptors for sockets, or slots of the ring's own table"));
  if (!sqpoll) {
    table.push_back(common::choice("--submit", "each|batched", options.submit,
                                   "a system call for each operation, or one for all of a turn"));
    table.push_back(
        common::choice("--taskrun", "default|coop|defer", options.taskrun,
                       "when the kernel completes: by interrupting, when asked, when waited for"));
    table.push_back(
        common::choice("--pretend-kernel", "no|5.15|5.19|6.0|6.1", options.pretend,
                       "refuse what is newer: forces our fallbacks, does not emulate old behaviour"));
  }
  const char* const pretence =
      sqpoll
          ? ""
          : "The pretended 6.1 knows what the real one knows, and does not behave like it. There a closed\n"
            "slot keeps its socket while other slots are in use, a receive that uses the last buffer ends\n"
            "at once, workers read pipes and post completions themselves, and task work runs last in,\n"
            "first out. `make test-kernels KERNELS=6.1` runs the real one.\n";
  const common::Program about{
      .name = program, .summary = "Sends back what it receives, through one io_uring.", .epilogue = pretence};
  return common::parse_options({argv + 1, argv + argc}, about, table);
}

std::uint32_t setup_flags(Taskrun taskrun) {
  if (sqpoll) return uring::default_sqpoll_flags;
  constexpr std::uint32_t asked = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  switch (taskrun) {
    case Taskrun::normal:
      return uring::default_setup_flags & ~asked;
    case Taskrun::coop:
      return (uring::default_setup_flags & ~asked) | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    case Taskrun::defer:
      break;
  }
  return uring::default_setup_flags;
}

/// The kernel as it is, or as it once was.
std::optional<echo::PretendKernel> pretend_kernel(Pretend pretend) {
  switch (pretend) {
    case Pretend::no:
      break;
    case Pretend::linux_5_15:
      return std::optional<echo::PretendKernel>(std::in_place, echo::Version::linux_5_15);
    case Pretend::linux_5_19:
      return std::optional<echo::PretendKernel>(std::in_place, echo::Version::linux_5_19);
    case Pretend::linux_6_0:
      return std::optional<echo::PretendKernel>(std::in_place, echo::Version::linux_6_0);
    case Pretend::linux_6_1:
      return std::optional<echo::PretendKernel>(std::in_place, echo::Version::linux_6_1);
  }
  return std::nullopt;
}

/// The group of buffers, or none: then each connection has a buffer of its own.
bool register_group(uring::BufferRing& group, const Ring& ring) {
  const int result = group.register_with(ring, group_of_buffers, echo::HotBuffers::least);
  if (result >= 0) return true;
  std::fprintf(stderr, "%s: no provided buffers (%s): --recv single instead\n", program,
               common::errno_text(-result).c_str());
  return false;
}

/// The ring's own table, with a slot for each connection; the kernel hands them out (5.19, which is known by
/// the buffer rings that came with it). Returns how many slots it has; 0: there is none.
///
/// Where slots do not let go, one client that is silent would keep the sockets of all that have gone, and their peers
/// would wait for a FIN: no table then. (A SHUTDOWN before each CLOSE would bring the FIN, and free nothing.)
std::uint32_t register_slots(const Ring& ring, std::uint32_t max_connections) {
  const std::uint64_t wanted = std::uint64_t{max_connections} + echo::spare_slots;
  const auto slots = static_cast<std::uint32_t>(std::min(wanted, common::raise_descriptor_limit(wanted)));
  int result = -EINVAL;
  if (uring::probe_capabilities(ring.kernel()).provided_buffer_rings) {
    if (!common_ring::slots_let_go()) {
      std::fprintf(
          stderr,
          "%s: this kernel keeps the socket of a closed slot as long as another slot is in use: ordinary "
          "descriptors instead\n",
          program);
      return 0;
    }
    result = uring::DirectFiles().register_with(ring, slots);
  }
  if (result >= 0) return slots;
  std::fprintf(stderr, "%s: no direct descriptors for sockets (%s): ordinary ones instead\n", program,
               common::errno_text(-result).c_str());
  return 0;
}

/// What was asked for, and is not to be had.
void announce_dropped(const Ring& ring) {
  if (ring.dropped_setup_flags() == 0) return;
  std::fprintf(stderr, "%s: this kernel does without %s\n", program,
               uring::setup_flag_names(ring.dropped_setup_flags()).c_str());
}

int serve(const Options& options) {
  common::raise_descriptor_limit_or_say(std::uint64_t{options.server.max_connections} + 64, program,
                                        "--max-connections");
  const common::Descriptor signals = common::open_signals(/*nonblocking=*/false);
  const std::uint64_t descriptors_before = common::open_descriptors();
  std::optional<common::Listener> listener(common::listen_on(options.server, /*nonblocking=*/false));

  // The group stands before the ring, and so dies after it: the kernel reads from it until the ring is gone.
  uring::BufferRing group(buffers, buffer_bytes);
  std::optional<echo::PretendKernel> pretend = pretend_kernel(options.pretend);
  std::optional<Ring> ring(
      std::in_place,
      uring::RingOptions{
          .entries = sq_entries, .cq_entries = cq_entries, .flags = setup_flags(options.taskrun)},
      pretend ? pretend->kernel() : uring::real_kernel);
  announce_dropped(*ring);
  const bool has_group = options.recv == Recv::multishot && register_group(group, *ring);
  const std::uint32_t slots =
      options.files == Files::direct ? register_slots(*ring, options.server.max_connections) : 0;

  uring::BasicLoop<sqpoll> loop(*ring);
  echo::EchoServer<sqpoll> echo_server(loop, has_group ? &group : nullptr, *listener, signals.get(),
                                       options.server,
                                       {.submit_each = options.submit == Submit::each,
                                        .slots = slots,
                                        .unix_sockets = !options.server.unix_path.empty(),
                                        .idle_timeout_seconds = options.idle_timeout_seconds});
  listener->announce();
  const int result = echo_server.run();

  common::Counters counters = echo_server.counters();
  counters.leaks = echo_server.count_leaks();
  // If the ring failed, operations are still in flight, and only the end of the process ends them before the
  // memory that they write to.
  if (result < 0 && counters.leaks > 0)
    std::_Exit(common_ring::end_program(program, counters, descriptors_before, result));
  listener.reset();
  ring.reset();
  return common_ring::end_program(program, counters, descriptors_before, result);
}

}  // namespace

int main(int argc, char** argv) {
  return common_ring::run_program(program, [&] {
    Options options;
    return parse(argc, argv, options) ? serve(options) : common::exit_clean;
  });
}

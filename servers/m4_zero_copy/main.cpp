// Milestone 4, first part: the file server with the last copy taken out.
//
//   build/m4_zero_copy --root DIR --port 9002
//   build/m4_zero_copy --drill early-reuse
//
//     page cache ── READ_FIXED ──► registered buffer ── SEND ────► socket's memory ──► card      m2: two copies
//     page cache ── READ_FIXED ──► registered buffer ── SEND_ZC ─────────────────────► card      here: one
//
// The packets point into the buffer that the file was read into. That is the whole saving, and the whole
// difficulty: the buffer is the kernel's until the peer has acknowledged its bytes, and only a second completion,
// the notification, says when. Who owns it meanwhile, and what if the peer never does, is servers/common_ring/
// loans.hpp. Everything else is the file server of Milestone 2: serve_files.cpp, then file_server.hpp.
//
// Below --zc-threshold a send copies: keeping the books of a loan costs more than a few KiB of memcpy. And where
// the kernel copies after all (it always does on loopback), it says so, and the last line counts it: zc_copied.

#include <cstdint>

#include "servers/common/options.hpp"
#include "servers/common/start_error.hpp"
#include "servers/common_ring/program.hpp"
#include "servers/common_ring/serve_files.hpp"
#include "servers/m4_zero_copy/drill.hpp"

namespace {

enum class Drill : std::uint8_t { none, early_reuse, notifications };

/// `make bench-zero-copy` on a 2-CPU VM with Linux 6.18: the size from which SEND_ZC out of a registered buffer
/// cost less than SEND, where nothing else copied. README.md has the table.
constexpr std::uint32_t measured_threshold = 8 << 10;

struct Options {
  common_ring::FileProgram program{.name = "m4_zero_copy", .server = {.server = {.port = 9002}}};
  std::uint32_t threshold = measured_threshold;
  Drill drill = Drill::none;
};

bool parse(int argc, char** argv, Options& options) {
  std::vector<common::Option> table = common_ring::options_of(options.program);
  table.push_back(common::bytes("--zc-threshold", "BYTES", options.threshold, 0, 1 << 30,
                                "send at least so much without copying, less with plain SEND"));
  table.push_back(common::choice("--drill", "none|early-reuse|notifications", options.drill,
                                 "no server: show what goes wrong, or which completions there are"));
  for (common::Option& option : table) option.required = false;  // a drill needs no --root
  const common::Program about{
      .name = options.program.name,
      .summary =
          "Serves the files below a folder, through one io_uring, without copying them to the socket."};
  if (!common::parse_options({argv + 1, argv + argc}, about, table)) return false;
  if (options.drill == Drill::none && options.program.server.server.root.empty()) {
    throw common::StartError(common::exit_usage, "--root DIR is needed (--help)");
  }
  common::check(options.program.server.files);
  return true;
}

int run(Options& options) {
  switch (options.drill) {
    case Drill::early_reuse:
      return m4_zero_copy::drill_early_reuse();
    case Drill::notifications:
      return m4_zero_copy::drill_notifications();
    case Drill::none:
      break;
  }
  options.program.server.zero_copy_from = options.threshold;
  return common_ring::serve_files(options.program);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  return common_ring::run_program(
      options.program.name, [&] { return parse(argc, argv, options) ? run(options) : common::exit_clean; });
}

// A load generator that cannot be fooled: it asks a server for as much as it can answer, or for as much as it
// is told, and verifies every byte that comes back. One wrong byte, and it says which one it was; then there
// is no rate.
//
//   traffic.hpp      what goes out and what must come back, computed from (seed, connection, message number)
//   client.hpp       one connection: connect, ask, be answered, end
//   verify.hpp       every byte that comes back
//   pacing.hpp       closed loop: ask when answered. Open loop: ask when it is time to
//   run.hpp          open, warm up, measure, finish, part
//   histogram.hpp    latencies, none of them left out
//   bottleneck.hpp   who set the pace, the server or we?
//   against.hpp      two servers, in turns
//   report.hpp       words and JSON
//
// It is made with epoll and knows nothing of io_uring, so that it is the same stranger to both kinds of
// server. It has one thread, so that its own cost is one figure, and is shown.
//
// Exit code: 0; 1 for a wrong answer or a connection that failed; 2 usage.

#include <cstdio>
#include <optional>

#include "bench/load/against.hpp"
#include "bench/load/made_files.hpp"
#include "bench/load/options.hpp"
#include "bench/load/report.hpp"
#include "bench/load/run.hpp"
#include "servers/common/start_error.hpp"

namespace {

int drive(const load::Options& options) {
  const load::Target* target = &options.target;
  try {
    if (options.against) return load::compare(options, target) ? common::exit_clean : common::exit_failed;
    const load::Result result = load::run(options, *target, options.server_pid, "");
    const std::string report = options.json ? load::to_json(options, *target, result) + "\n"
                                            : load::to_text(options, *target, result);
    std::fputs(report.c_str(), stdout);
    if (result.ok()) return common::exit_clean;
    std::fprintf(stderr, "load: %s\n", load::error_text(result).c_str());
  } catch (const load::WrongAnswer& wrong) {
    if (options.json) std::printf("%s\n", load::to_json(options, *target, wrong).c_str());
    std::fprintf(stderr, "load: %s\n", load::to_text(*target, wrong).c_str());
  }
  return common::exit_failed;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::optional<load::Options> options = load::parse({argv + 1, argv + argc});
    if (!options) return common::exit_clean;
    if (options->mode != "make-files") return drive(*options);
    load::make_files(options->make_files);
    return common::exit_clean;
  } catch (const common::StartError& error) {
    std::fprintf(stderr, "load: %s\n", error.what());
    return error.exit_code();
  }
}

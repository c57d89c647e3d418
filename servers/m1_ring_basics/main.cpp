// Milestone 1: the ring, step by step, and then the same machinery doing a real job.
//
//     m1_ring_basics [FILE]          the tour: eight acts, both rings drawn at each step
//     m1_ring_basics copy SRC DST    a file copy with many reads and writes in flight
//
// Read it in this order: the list of acts below; acts.hpp, top to bottom, beside the running program
// (--step); picture.hpp if you wonder where the pictures come from; copy.hpp, when the acts hold no surprise
// any more.
//
// Limits: the tour is not meant to be fast, and draws small rings only. The copy is one thread and one ring.
#include <getopt.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "servers/m1_ring_basics/acts.hpp"
#include "servers/m1_ring_basics/copy.hpp"
#include "servers/m1_ring_basics/picture.hpp"
#include "uring/errors.hpp"

namespace m1 {
namespace {

constexpr const char* program = "m1_ring_basics";

enum Exit { ok = 0, run_time_failure = 1, usage = 2, no_io_uring = 3 };

struct Act {
  const char* name;
  const char* title;
  void (*play)(Tour&);
};

constexpr std::array acts{
    Act{"setup", "The set-up: one descriptor, two mappings", act_setup},
    Act{"single", "One write and one read", act_single},
    Act{"batch", "Eight operations, one system call", act_batch},
    Act{"errors", "Errors are in res", act_errors},
    Act{"full", "The SQ is full", act_full},
    Act{"overflow", "The CQ overflows, and nothing is lost", act_overflow},
    Act{"partial", "A partial submit, and how to go on", act_partial},
    Act{"devnull", "10,000 writes to /dev/null: what a batch saves", act_devnull},
};

/// The command line makes no sense: exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void print_help() {
  std::printf(
      "usage: %s [--quiet | --step] [--act NAME] [FILE]\n"
      "       %s copy SRC DST [--depth N] [--block BYTES] [--direct]\n\n"
      "The tour shows an io_uring at work: both rings are drawn at each step.\n"
      "  FILE         a file of yours, for the read of act 'single'\n"
      "  --quiet      the facts only, one per line\n"
      "  --step       wait for Enter after each picture\n"
      "  --act NAME   one act only:\n",
      program, program);
  for (const Act& act : acts) std::printf("                 %-9s %s\n", act.name, act.title);
  const CopyOptions defaults;
  std::printf(
      "\ncopy copies one regular file. Holes stay holes; a new DST gets the mode of SRC without\n"
      "the bits of the umask; an existing DST is truncated first. If the copy fails or is\n"
      "interrupted, DST is removed. Like cp, it does not fsync.\n"
      "  --depth N      blocks in flight at a time, 1 to %u; default %u\n"
      "  --block BYTES  size of a block, 1 to %s; default %s (all blocks in\n"
      "                 flight together: at most 1 GiB)\n"
      "  --direct       O_DIRECT on both files: past the page cache, blocks rounded up to\n"
      "                 what the file systems require\n\n"
      "exit codes: 0 ok, 1 failure, 2 usage, 3 io_uring is not available here\n",
      max_depth, defaults.depth, grouped(max_block).c_str(), grouped(defaults.block).c_str());
}

/// A whole decimal number from 1 to `max`.
unsigned parse_number(const char* option, std::string_view digits, unsigned max) {
  unsigned number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc{} || end != digits.data() + digits.size() || number == 0 || number > max) {
    throw UsageError(std::string(option) + " must be a number from 1 to " + grouped(max));
  }
  return number;
}

/// What getopt_long means by '?' and ':'.
[[noreturn]] void refuse_option(char** argv, int result) {
  const std::string word = argv[optind - 1];
  if (result == ':') throw UsageError("a value is missing behind " + word);
  const bool is_long = word.starts_with("--");
  throw UsageError("cannot understand " + (is_long ? word : std::string{'-', static_cast<char>(optopt)}));
}

// ---- The tour ---------------------------------------------------------------------------------------------

struct TourOptions {
  bool help = false;
  Voice voice = Voice::full;
  std::optional<Act> only{};
  std::string file{};
};

Act find_act(std::string_view name) {
  for (const Act& act : acts) {
    if (act.name == name) return act;
  }
  throw UsageError("there is no act '" + std::string(name) + "'");
}

TourOptions parse_tour(int argc, char** argv) {
  static constexpr option long_options[] = {{"quiet", no_argument, nullptr, 'q'},
                                            {"step", no_argument, nullptr, 's'},
                                            {"act", required_argument, nullptr, 'a'},
                                            {"help", no_argument, nullptr, 'h'},
                                            {}};
  TourOptions options;
  bool quiet = false, step = false;
  for (int c; (c = getopt_long(argc, argv, ":", long_options, nullptr)) != -1;) {
    switch (c) {
      case 'q':
        quiet = true;
        break;
      case 's':
        step = true;
        break;
      case 'a':
        options.only = find_act(optarg);
        break;
      case 'h':
        options.help = true;
        break;
      default:
        refuse_option(argv, c);
    }
  }
  if (quiet && step) throw UsageError("--quiet has no steps: choose --quiet or --step");
  if (argc - optind > 1) throw UsageError("more than one FILE");
  if (argc - optind == 1) options.file = argv[optind];
  if (quiet) options.voice = Voice::quiet;
  if (step) options.voice = Voice::step;
  return options;
}

void run_tour(const TourOptions& options) {
  Narrator narrator(options.voice);
  Tour tour(narrator, options.file);
  for (std::size_t i = 0; i < acts.size(); ++i) {
    if (options.only && options.only->name != acts[i].name) continue;
    narrator.begin_act(acts[i].name, i + 1, acts.size(), acts[i].title);
    acts[i].play(tour);
  }
}

// ---- The copy ---------------------------------------------------------------------------------------------

std::optional<CopyOptions> parse_copy(int argc, char** argv) {
  static constexpr option long_options[] = {{"depth", required_argument, nullptr, 'd'},
                                            {"block", required_argument, nullptr, 'b'},
                                            {"direct", no_argument, nullptr, 'D'},
                                            {"help", no_argument, nullptr, 'h'},
                                            {}};
  CopyOptions options;
  for (int c; (c = getopt_long(argc, argv, ":", long_options, nullptr)) != -1;) {
    switch (c) {
      case 'd':
        options.depth = parse_number("--depth", optarg, max_depth);
        break;
      case 'b':
        options.block = parse_number("--block", optarg, max_block);
        break;
      case 'D':
        options.direct = true;
        break;
      case 'h':
        return std::nullopt;
      default:
        refuse_option(argv, c);
    }
  }
  if (argc - optind != 2) throw UsageError("copy needs SRC and DST");
  if (std::uint64_t{options.depth} * options.block > max_buffers) {
    throw UsageError("--depth times --block is " + grouped(max_buffers) + " bytes at most");
  }
  options.source = argv[optind];
  options.destination = argv[optind + 1];
  return options;
}

void run(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "copy") {
    if (const auto options = parse_copy(argc - 1, argv + 1)) return copy_file(*options);
    return print_help();
  }
  const TourOptions options = parse_tour(argc, argv);
  options.help ? print_help() : run_tour(options);
}

/// Behind what was printed so far, also when both go to the same place.
Exit complain(const char* what, Exit code) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", program, what);
  if (code == usage) std::fprintf(stderr, "Try '%s --help'.\n", program);
  return code;
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  try {
    m1::run(argc, argv);
    return std::fflush(stdout) == 0 ? m1::ok : m1::complain("cannot write to stdout", m1::run_time_failure);
  } catch (const m1::UsageError& error) {
    return m1::complain(error.what(), m1::usage);
  } catch (const uring::SetupError& error) {
    return m1::complain(error.what(), m1::no_io_uring);
  } catch (const std::exception& error) {
    return m1::complain(error.what(), m1::run_time_failure);
  }
}

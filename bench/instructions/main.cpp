// How many instructions the ring layer spends in user space, counted by callgrind. `make bench-instructions`.
//
//     bench_instructions                    bench_instructions --count, under valgrind
//     ──────────────────                    ──────────────────────────────────────────
//     makes a folder, starts  ───────────►  each path: once to warm up, then n turns, then 2n turns; what was counted
//     reads the parts         ◄───────────  is dumped behind each, one file per dump
//     subtracts, divides, prints
//
// What 2n turns cost minus what n turns cost is what n turns cost: whatever stands around the loop, the dump included,
// cancels out. Nothing is sampled or timed: two runs of one binary print the same numbers.
//
// bench/README.md says what each line of the table means. Exit status: 0; 1, something failed; 77, no valgrind here.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "bench/instructions/mock.hpp"
#include "bench/instructions/paths.hpp"

namespace {

using bench::Path;

constexpr std::uint64_t turns = 1024;
constexpr int no_valgrind = 77;

// ---- Under valgrind ------------------------------------------------------------------------------------------------

/// From here on io_uring_enter does nothing in this process and returns 0. So the way into the kernel and back can be
/// counted where there is no ring, and without the detour of an error through errno.
void silence_io_uring_enter() {
  constexpr auto number = static_cast<std::uint32_t>(offsetof(seccomp_data, nr));
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_enter, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{sizeof(filter) / sizeof(filter[0]), filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot install a seccomp filter");
  }
  if (syscall(__NR_io_uring_enter, -1, 0, 0, 0, nullptr, 0) != 0) {
    throw std::runtime_error("the seccomp filter does not answer for io_uring_enter");
  }
}

void count(const std::string& who, std::span<const Path> paths) {
  for (const Path& path : paths) {
    const std::string once = who + ' ' + std::string(path.name) + ", once";
    const std::string twice = who + ' ' + std::string(path.name) + ", twice";
    path.run(1);
    CALLGRIND_ZERO_STATS;
    path.run(turns);
    CALLGRIND_DUMP_STATS_AT(once.c_str());
    path.run(2 * turns);
    CALLGRIND_DUMP_STATS_AT(twice.c_str());
  }
}

// ---- Above valgrind ------------------------------------------------------------------------------------------------

class TemporaryFolder {
 public:
  TemporaryFolder() : path_((std::filesystem::temp_directory_path() / "bench_instructions_XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), "cannot create " + path_);
    }
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

bool have_valgrind() { return std::system("valgrind --version >/dev/null 2>&1") == 0; }

/// --toggle-collect turns the counting over on the way into these functions and back on the way out. It begins turned
/// off, unless --collect-atstart comes behind it. --cache-sim is what counts loads and stores.
void run_under_valgrind(const std::string& folder) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      "valgrind --tool=callgrind --quiet --cache-sim=yes --toggle-collect='mock_kernel_*'"
      " --collect-atstart=yes --callgrind-out-file='" +
      folder + "/part' '" + self + "' --count >'" + folder + "/log' 2>&1";
  if (std::system(command.c_str()) == 0) return;
  std::ostringstream log;
  log << std::ifstream(folder + "/log").rdbuf();
  throw std::runtime_error("this failed: " + command + '\n' + log.str());
}

struct Cost {
  double instructions = 0, loads = 0, stores = 0;

  friend Cost operator+(Cost a, Cost b) {
    return {a.instructions + b.instructions, a.loads + b.loads, a.stores + b.stores};
  }
  friend Cost operator-(Cost a, Cost b) {
    return {a.instructions - b.instructions, a.loads - b.loads, a.stores - b.stores};
  }
  friend Cost operator/(Cost a, double n) { return {a.instructions / n, a.loads / n, a.stores / n}; }
};

using Costs = std::map<std::string, Cost>;

/// What each dump counted, by the name that it was given: "ours harvest, once".
Costs read_parts(const std::string& folder) {
  Costs counted;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream part(entry.path());
    const std::string trigger = "desc: Trigger: Client Request: ";
    std::string name;
    for (std::string line; std::getline(part, line);) {
      if (line.rfind(trigger, 0) == 0) name = line.substr(trigger.size());
      if (line.rfind("summary: ", 0) != 0 || name.empty()) continue;
      Cost& cost = counted[name];
      std::istringstream(line.substr(9)) >> cost.instructions >> cost.loads >> cost.stores;
    }
  }
  return counted;
}

/// Per operation: "ours harvest" is per CQE.
Costs per_operation(const Costs& counted) {
  Costs result;
  const auto add = [&](const std::string& who, std::span<const Path> paths) {
    for (const Path& path : paths) {
      const std::string name = who + ' ' + std::string(path.name);
      const Cost difference = counted.at(name + ", twice") - counted.at(name + ", once");
      result[name] = difference / static_cast<double>(turns * path.operations);
    }
  };
  add("ours", bench::our_paths());
  add("liburing", bench::liburing_paths());
  return result;
}

void print(const char* name, Cost ours, Cost theirs, const char* what) {
  std::printf("%-14s  ours %6.2f", name, ours.instructions);
  if (const std::string_view version = bench::liburing_version(); !version.empty()) {
    std::printf("  liburing %.*s %6.2f  ratio %4.2f", static_cast<int>(version.size()), version.data(),
                theirs.instructions, theirs.instructions / ours.instructions);
  }
  std::printf("  loads %5.2f  stores %5.2f  %s\n", ours.loads, ours.stores, what);
}

/// A call of a mock_kernel_ function: the one instruction of it that is counted, and the return address that it stores.
constexpr Cost one_call{.instructions = 1, .loads = 0, .stores = 1};

void print_table(Costs cost) {
  const auto ours = [&](const char* path) { return cost.at(std::string("ours ") + path); };
  const auto theirs = [&](const char* path) { return cost[std::string("liburing ") + path]; };
  const Cost loop = ours("empty");
  const Cost get_sqe = theirs("get_sqe") - loop;
  const Cost harvest = ours("harvest");
  const Cost submit = ours("SQE and submit") - (ours("SQE and call") - one_call);
  const Cost their_submit = theirs("SQE and submit") - theirs("SQE without submit");
  const Cost way_in = ours("enter real") - ours("enter mock");
  const Cost round_trip = ours("round trip") + way_in;
  std::printf("User-space instructions per SQE, CQE or call; batches of %u; built by %s.\n", bench::batch,
              bench::compiler);
  std::printf("ratio: liburing's ÷ ours. loads, stores: ours, of any memory. More: bench/README.md\n\n");
  print("sqe batch", ours("batch, take") - loop, get_sqe, "recv: batch, take | get_sqe, prep_recv, set_data");
  print("sqe checked", ours("batch, next") - loop, get_sqe, "recv: batch, next | the same");
  print("sqe next_sqe", ours("next_sqe") - loop, get_sqe, "recv: next_sqe, as servers do | the same");
  print("cqe harvest", harvest, theirs("for_each_cqe"), "empty handler | for_each_cqe, cq_advance");
  print("cqe peek", harvest, theirs("peek_cqe") - loop, "the same | peek_cqe, cqe_seen");
  print("cqe add", ours("harvest and add"), theirs("for_each_cqe and add"),
        "the handler adds user_data to a sum");
  print("submit", submit, their_submit, "up to the call through the seam | to the system call and back");
  print("submit enter", submit + way_in, their_submit, "to the system call and back");
  print("round trip", round_trip, theirs("round trip") - one_call, "one SQE, submit_and_wait(1), one CQE");
}

int run(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--count") == 0) {
    silence_io_uring_enter();
    count("ours", bench::our_paths());
    count("liburing", bench::liburing_paths());
    return 0;
  }
  if (argc != 1) {
    std::fprintf(stderr, "usage: bench_instructions\n");
    return 2;
  }
  if (!have_valgrind()) {
    std::fprintf(stderr,
                 "bench_instructions: valgrind is not installed, so there is nothing to count with\n");
    return no_valgrind;
  }
  const TemporaryFolder folder;
  run_under_valgrind(folder.path());
  print_table(per_operation(read_parts(folder.path())));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_instructions: %s\n", error.what());
    return 1;
  }
}

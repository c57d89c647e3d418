// How long a NOP takes through our ring and through liburing's, in one process. `make bench`.
//
// A round is: prepare `batch` NOPs, submit them and wait for all of them with one system call, harvest their CQEs. A NOP
// does nothing, so this is the cost of the ring alone: the two user-space halves, which differ, and the kernel's, which
// is the same. Three rings of the same sizes take turns:
//
//     A  ours          with the default flags: NO_SQARRAY where the kernel has it (6.6)
//     B  liburing      the same flags without NO_SQARRAY, which Debian's liburing 2.3 does not know
//     C  ours          with exactly the flags of B
//
//     block:     three new rings, then A B C C B A       whatever drifts meanwhile meets all three alike
//     process:   some blocks of each batch size          where code and memory happen to lie differs from one to the next
//
// A block gives a ratio, liburing's time ÷ ours, above 1 where ours is cheaper; a process gives the median of its blocks.
// Printed are the median of the processes and the interval that holds 95 % of its bootstrap replicas. Processes and not
// blocks are what is drawn: placement alone moves the ratio of one process by a per cent or two, however often it is
// measured. The verdict is "pass" unless the interval lies below 1 as a whole; one that contains 1 means "no difference".
//
// Time is the thread's CPU time, user and system, so that a busy machine disturbs less.
//
// Exit status: 0; 1, something failed; 2, usage; 3, no io_uring here; 4, it was measured, and liburing is faster.

#include <benchmark/benchmark.h>
#include <sched.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/nop_liburing.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace {

constexpr unsigned entries = 128;
constexpr unsigned cq_entries = 256;
constexpr std::array batches{1U, 8U, 32U, 128U};
constexpr int processes = 20;
constexpr int blocks = 5;
constexpr std::chrono::milliseconds run_time{4};  // of each of the six runs of a block
constexpr std::uint64_t rounds_per_call = 16;     // of run() below, so that calling it costs nothing

// ---- What is measured ----------------------------------------------------------------------------------------------

/// As bench::run for liburing, line by line.
[[gnu::noinline]] std::uint64_t run(uring::Ring& ring, std::uint64_t rounds, unsigned batch) {
  std::uint64_t sum = 0;
  while (rounds-- > 0) {
    for (unsigned i = 1; i <= batch; ++i) {
      io_uring_sqe* const sqe = ring.next_sqe();
      if (sqe == nullptr) return 0;
      uring::prep::nop(*sqe, uring::Token{i});
    }
    if (ring.submit_and_wait(batch).submitted != batch) return 0;
    const int count = ring.harvest([&sum](const io_uring_cqe& cqe) { sum += cqe.user_data; });
    if (count != static_cast<int>(batch)) return 0;
  }
  return sum;
}

enum class Who { ours, liburing, ours_with_array };
constexpr std::array turns{Who::ours,     Who::liburing, Who::ours_with_array, Who::ours_with_array,
                           Who::liburing, Who::ours};

const char* name_of(Who who) {
  switch (who) {
    case Who::ours:
      return "ours";
    case Who::liburing:
      return "liburing";
    case Who::ours_with_array:
      return "ours_with_sq_array";
  }
  return "";
}

class Rings {
 public:
  void run(Who who, std::uint64_t rounds, unsigned batch) {
    const std::uint64_t sum = who == Who::liburing ? bench::run(*liburing_, rounds, batch)
                              : who == Who::ours   ? ::run(ours_, rounds, batch)
                                                   : ::run(with_array_, rounds, batch);
    if (sum != rounds * batch * (batch + 1) / 2) throw std::runtime_error("a NOP was lost");
  }

 private:
  uring::Ring ours_{{.entries = entries, .cq_entries = cq_entries}};
  std::uint32_t common_flags_ = ours_.setup_flags() & ~uring::abi::setup_no_sqarray;
  uring::Ring with_array_{{.entries = entries, .cq_entries = cq_entries, .flags = common_flags_}};
  std::unique_ptr<bench::LiburingRing, void (*)(bench::LiburingRing*)> liburing_{
      bench::open_liburing(entries, cq_entries, common_flags_), bench::close_liburing};
};

// ---- One process ---------------------------------------------------------------------------------------------------

/// The last CPU that we may use, as the first tends to get the interrupts.
void stay_on_one_cpu() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (std::size_t cpu = CPU_SETSIZE; cpu-- > 0;) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    CPU_ZERO(&allowed);
    CPU_SET(cpu, &allowed);
    sched_setaffinity(0, sizeof(allowed), &allowed);
    return;
  }
}

/// Rounds that take about `run_time`.
std::uint64_t calibrate(Rings& rings, unsigned batch) {
  using Clock = std::chrono::steady_clock;
  for (std::uint64_t rounds = rounds_per_call;; rounds *= 2) {
    const auto start = Clock::now();
    rings.run(Who::ours, rounds, batch);
    if (Clock::now() - start > run_time / 2) return rounds * 2;
  }
}

/// Google Benchmark writes what it measures to the file that --benchmark_out names. On the terminal: nothing.
class Silence : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

/// The runs come in the order in which they are registered.
void measure() {
  stay_on_one_cpu();
  std::optional<Rings> rings;
  rings.emplace();
  for (const unsigned batch : batches) {
    const auto rounds = static_cast<benchmark::IterationCount>(calibrate(*rings, batch));
    for (int block = 0; block < blocks; ++block) {
      bool first = true;
      for (const Who who : turns) {
        if (who == Who::liburing && bench::liburing_version().empty()) continue;
        const std::string name = std::string("nop/") + name_of(who) + "/batch:" + std::to_string(batch) +
                                 "/block:" + std::to_string(block);
        const auto run = [&rings, first, who, batch](benchmark::State& state) {
          if (first) rings.emplace();
          while (state.KeepRunningBatch(rounds_per_call)) rings->run(who, rounds_per_call, batch);
        };
        benchmark::RegisterBenchmark(name.c_str(), run)->Iterations(rounds);
        first = false;
      }
    }
  }
  Silence silence;
  benchmark::RunSpecifiedBenchmarks(&silence);
}

// ---- All of them ---------------------------------------------------------------------------------------------------

/// CPU time in nanoseconds per round, by what ran: in each process, and there in each block, the sum of the two runs.
using Times = std::map<std::string, std::array<std::array<double, blocks>, processes>>;

/// "ours/batch:8".
std::string key(Who who, unsigned batch) {
  return std::string(name_of(who)) + "/batch:" + std::to_string(batch);
}

/// Reads what Google Benchmark wrote, which has one member per line: of each run first its name, later its cpu_time.
void read_times(const std::string& file, std::size_t process, Times& times) {
  std::ifstream json(file);
  std::string what;
  std::size_t block = blocks;
  for (std::string line; std::getline(json, line);) {
    std::array<char, 64> name{};
    double time = 0;
    if (std::sscanf(line.c_str(), " \"name\": \"nop/%63[^\"]", name.data()) == 1) {
      const std::string run(name.data());
      const std::size_t end = run.find("/block:");
      what = run.substr(0, end);
      block = std::stoul(run.substr(end + std::strlen("/block:")));
    } else if (std::sscanf(line.c_str(), " \"cpu_time\": %lf", &time) == 1) {
      times[what].at(process).at(block) += time;
    }
  }
  if (block != blocks - 1) throw std::runtime_error(file + " lacks what was to be measured");
}

/// Runs one process and keeps its raw JSON below `folder`. Returns its exit status.
int run_process(const std::string& folder, int process, Times& times) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string file = folder + "/process_" + std::to_string(process) + ".json";
  const std::string command =
      "'" + self + "' --benchmark_out='" + file + "' --benchmark_out_format=json --one-process";
  std::filesystem::remove(file);
  const int status = std::system(command.c_str());
  if (!WIFEXITED(status)) return 1;
  if (WEXITSTATUS(status) == 0) read_times(file, static_cast<std::size_t>(process), times);
  return WEXITSTATUS(status);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 != 0) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

struct Interval {
  double low, middle, high;
};

/// The median, and where it would lie if other processes had been measured: 95 % of the medians of samples drawn from
/// these, with replacement. The seed is fixed: the same times give the same interval.
Interval bootstrap(const std::vector<double>& values) {
  constexpr std::size_t replicas = 10000;
  std::mt19937 random(1);
  std::uniform_int_distribution<std::size_t> any(0, values.size() - 1);
  std::vector<double> medians(replicas);
  std::vector<double> sample(values.size());
  for (double& replica : medians) {
    for (double& value : sample) value = values[any(random)];
    replica = median(sample);
  }
  std::sort(medians.begin(), medians.end());
  return {medians[replicas / 40], median(values), medians[replicas - 1 - replicas / 40]};
}

/// liburing's time ÷ that of one of our rings.
Interval ratio(const Times& times, Who who, unsigned batch) {
  std::vector<double> of_processes;
  for (std::size_t process = 0; process < processes; ++process) {
    std::vector<double> of_blocks;
    for (std::size_t block = 0; block < blocks; ++block) {
      of_blocks.push_back(times.at(key(Who::liburing, batch))[process][block] /
                          times.at(key(who, batch))[process][block]);
    }
    of_processes.push_back(median(of_blocks));
  }
  return bootstrap(of_processes);
}

double nanoseconds_per_nop(const Times& times, Who who, unsigned batch) {
  std::vector<double> all;
  for (const auto& process : times.at(key(who, batch))) all.insert(all.end(), process.begin(), process.end());
  return median(all) / 2 / batch;  // two runs in a block
}

/// Prints the line of one batch size. False if liburing is faster.
bool judge(const Times& times, unsigned batch) {
  std::printf("batch %3u   ours %6.1f ns   with SQ array %6.1f ns", batch,
              nanoseconds_per_nop(times, Who::ours, batch),
              nanoseconds_per_nop(times, Who::ours_with_array, batch));
  if (bench::liburing_version().empty()) {
    std::printf("\n");
    return true;
  }
  const Interval plain = ratio(times, Who::ours, batch);
  const Interval array = ratio(times, Who::ours_with_array, batch);
  const bool passes = plain.high >= 1 && array.high >= 1;
  std::printf("   liburing %6.1f ns   ratio %.3f [%.3f, %.3f]   with SQ array %.3f [%.3f, %.3f]   %s\n",
              nanoseconds_per_nop(times, Who::liburing, batch), plain.middle, plain.low, plain.high,
              array.middle, array.low, array.high, passes ? "pass" : "FAIL: liburing is faster");
  return passes;
}

int compare(const std::string& folder) {
  std::filesystem::create_directories(folder);
  Times times;
  for (int process = 0; process < processes; ++process) {
    if (const int status = run_process(folder, process, times); status != 0) return status;
  }
  const std::string version(bench::liburing_version());
  std::printf("CPU time per NOP, SQ of %u, CQ of %u; medians over %d processes; raw JSON in %s\n", entries,
              cq_entries, processes, folder.c_str());
  if (version.empty()) {
    std::printf("liburing-dev is not installed: ours is measured alone\n");
  } else {
    std::printf("ratio: liburing %s's time ÷ ours [95 %%], above 1 if ours is cheaper\n", version.c_str());
  }
  bool passed = true;
  for (const unsigned batch : batches) passed &= judge(times, batch);
  return passed ? 0 : 4;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  try {
    if (argc == 2 && std::strcmp(argv[1], "--one-process") == 0) {
      measure();
      return 0;
    }
    if (argc == 2 && argv[1][0] != '-') return compare(argv[1]);
    std::fprintf(stderr, "usage: nop_round_trips FOLDER     the raw measurements go there\n");
    return 2;
  } catch (const uring::SetupError& error) {
    std::fprintf(stderr, "nop_round_trips: %s\n", error.what());
    return 3;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nop_round_trips: %s\n", error.what());
    return 1;
  }
}

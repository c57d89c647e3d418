// Three ways to put an fsync behind its writes, compared: the log of m4_ordered_log by itself, without sockets.
// `make bench-ordering`; docs/ordering.md says what came out.
//
//   wait     the fsync is submitted when its writes have completed
//   drain    with them, with IOSQE_IO_DRAIN
//   link     with them, at the end of a chain
//
// A run keeps so many records in flight for some time: whoever is acknowledged is appended again. Blocks of runs in turns,
// wait drain link link drain wait, each on a new file. Printed are the medians of the runs, and the ratios against wait
// with their 95 % bootstrap interval: rate ÷ wait's rate, and wait's CPU time for a record ÷ that of the way. Above 1 the
// way is better than wait. The line `noise` is wait against itself.
//
// CPU time is the whole process's, so it includes the kernel's worker threads that write and fsync for us.
//
// What an fsync costs is the disk's business: on one without a cache that must be flushed it is a tenth of a millisecond,
// on a disk that turns it is ten. So the numbers say something about this machine, and the fsyncs per record about others.
//
// Exit status: 0; 1, something failed; 2, usage; 3, no io_uring here.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <list>
#include <string>
#include <vector>

#include "bench/load/histogram.hpp"
#include "bench/load/ratio.hpp"
#include "servers/common/file_content.hpp"
#include "servers/common/options.hpp"
#include "servers/m4_ordered_log/log_ring.hpp"
#include "uring/owned.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using ordered_log::Order;

constexpr std::array orders{Order::wait, Order::drain, Order::link};
constexpr std::array order_names{"wait", "drain", "link"};
constexpr std::uint32_t sizes[] = {128, 4096};
constexpr unsigned depths[] = {1, 16, 128};

struct Options {
  std::string folder = "build";
  std::string json{};
  std::uint32_t blocks = 3;
  std::uint32_t milliseconds = 600;  // of a run
};

struct Cell {
  std::uint32_t size;  // of the bytes of a record
  unsigned depth;      // records in flight
};

/// One run, for each record where nothing else is said.
struct Run {
  double rate = 0;  // records a second
  double cpu = 0;   // microseconds
  double fsyncs = 0;
  double sqes = 0;
  double enters = 0;
  double p50 = 0;  // microseconds
  double p99 = 0;
};

struct Record : ordered_log::Append {
  Clock::time_point appended{};
};

std::chrono::microseconds cpu_time() {
  ::rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto micro = [](const ::timeval& time) {
    return std::chrono::seconds(time.tv_sec) + std::chrono::microseconds(time.tv_usec);
  };
  return micro(usage.ru_utime) + micro(usage.ru_stime);
}

/// A new file that goes with its descriptor.
uring::FileDescriptor new_file(const std::string& folder) {
  const std::string path = folder + "/bench_ordering.log";
  uring::FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file)
    throw common::StartError(common::exit_failed, "cannot open " + path + ": " + common::errno_text(errno));
  ::unlink(path.c_str());
  return file;
}

class Measured {
 public:
  Measured(int file, Order order, const Cell& cell) : log_(ring_.loop(), ring_.operations(), file, 0, order) {
    for (unsigned i = 0; i < cell.depth; ++i) {
      Record& record = records_.emplace_back();
      record.allocate(cell.size);
      common::fill_content(record.bytes(), 1, std::uint64_t{i} * cell.size);
      append(record);
    }
  }

  Run run(std::chrono::milliseconds time) {
    const auto start = Clock::now();
    const auto cpu = cpu_time();
    while (Clock::now() - start < time) turn(true);
    const Run run = figures(Clock::now() - start, cpu_time() - cpu);
    while (!log_.is_idle()) turn(false);  // the memory is in use until then
    return run;
  }

 private:
  void append(Record& record) {
    record.written = record.asked = record.synced = record.answered = false;
    record.appended = Clock::now();
    log_.append(record);
  }

  void turn(bool goes_on) {
    const int result = ring_.turn(log_, uring::forever);
    if (result < 0)
      throw common::StartError(common::exit_failed, "the ring failed: " + common::errno_text(-result));
    log_.answer([&](ordered_log::Append& answered) {
      if (answered.error != 0) {
        throw common::StartError(common::exit_failed,
                                 "a write failed: " + common::errno_text(answered.error));
      }
      auto& record = static_cast<Record&>(answered);
      latency_.record(static_cast<std::uint64_t>((Clock::now() - record.appended).count()));
      if (goes_on) append(record);
    });
  }

  Run figures(std::chrono::duration<double> time, std::chrono::duration<double, std::micro> cpu) {
    const auto records = static_cast<double>(log_.statistics().records);
    const uring::LoopStatistics ring = ring_.loop().statistics();
    return {.rate = records / time.count(),
            .cpu = cpu.count() / records,
            .fsyncs = static_cast<double>(log_.statistics().fsyncs) / records,
            .sqes = static_cast<double>(ring.sqe_submitted) / records,
            .enters = static_cast<double>(ring.io_enter_calls) / records,
            .p50 = static_cast<double>(latency_.quantile(500'000)) / 1e3,
            .p99 = static_cast<double>(latency_.quantile(990'000)) / 1e3};
  }

  ordered_log::LogRing ring_{};
  ordered_log::Log<> log_;
  std::list<Record> records_{};
  load::Histogram latency_{};
};

/// All runs of one way in one cell, in the order in which they were made; two of them in each block.
using Runs = std::vector<Run>;
using Measurement = std::array<Runs, orders.size()>;

Measurement measure(const Options& options, const Cell& cell) {
  Measurement all;
  const auto once = [&](std::size_t way, std::chrono::milliseconds time) {
    const uring::FileDescriptor file = new_file(options.folder);
    return Measured(file.get(), orders[way], cell).run(time);
  };
  for (std::size_t way = 0; way < orders.size(); ++way)
    once(way, std::chrono::milliseconds(50));  // not counted
  const std::chrono::milliseconds time(options.milliseconds);
  for (unsigned block = 0; block < options.blocks; ++block) {
    for (std::size_t way = 0; way < orders.size(); ++way) all[way].push_back(once(way, time));
    for (std::size_t way = orders.size(); way-- > 0;) all[way].push_back(once(way, time));
  }
  return all;
}

double median(const Runs& runs, double Run::*figure) {
  std::vector<double> values;
  for (const Run& run : runs) values.push_back(run.*figure);
  return load::median_of(values);
}

/// Each run of the one against that of the other in the same half of the same block.
load::Interval compare(const Runs& over, const Runs& under, double Run::*figure) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < over.size(); ++i) ratios.push_back(over[i].*figure / (under[i].*figure));
  return load::bootstrap(ratios);
}

/// The two runs of each block, first against second and the other way round.
load::Interval noise(const Runs& runs, double Run::*figure) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i + 1 < runs.size(); i += 2) {
    const bool swapped = i % 4 != 0;
    ratios.push_back(runs[i + (swapped ? 1 : 0)].*figure / (runs[i + (swapped ? 0 : 1)].*figure));
  }
  return load::bootstrap(ratios);
}

std::string text_of(const load::Interval& ratio, bool judged = true) {
  char text[64];
  std::snprintf(text, sizeof text, "%.2f [%.2f, %.2f]%s", ratio.median, ratio.low, ratio.high,
                judged && load::judge(ratio) == load::Verdict::no_difference ? "=" : "");
  return text;
}

void print_head(const Options& options) {
  ::utsname host{};
  ::uname(&host);
  struct ::statfs facts {};
  ::statfs(options.folder.c_str(), &facts);
  std::printf(
      "Linux %s, %ld CPUs, file system type 0x%lx; %u blocks, %u ms a run. (= : no difference seen)\n",
      host.release, ::sysconf(_SC_NPROCESSORS_ONLN), static_cast<unsigned long>(facts.f_type), options.blocks,
      options.milliseconds);
}

void print(const Cell& cell, const Measurement& measured) {
  std::printf("\n%u bytes, %u in flight\n%-6s%12s%9s%12s%10s%12s%9s%9s   %-22s %s\n", cell.size, cell.depth,
              "", "records/s", "CPU us", "fsyncs/rec", "SQEs/rec", "enters/rec", "p50 us", "p99 us",
              "rate ratio", "CPU ratio");
  const Runs& base = measured[0];
  for (std::size_t way = 0; way < orders.size(); ++way) {
    const Runs& runs = measured[way];
    std::printf("%-6s%12.0f%9.1f%12.3f%10.2f%12.3f%9.0f%9.0f", order_names[way], median(runs, &Run::rate),
                median(runs, &Run::cpu), median(runs, &Run::fsyncs), median(runs, &Run::sqes),
                median(runs, &Run::enters), median(runs, &Run::p50), median(runs, &Run::p99));
    if (way > 0) {
      std::printf("   %-22s %s", text_of(compare(runs, base, &Run::rate)).c_str(),
                  text_of(compare(base, runs, &Run::cpu)).c_str());
    }
    std::printf("\n");
  }
  std::printf("%-6s%72s   %-22s %s\n", "noise", "", text_of(noise(base, &Run::rate), false).c_str(),
              text_of(noise(base, &Run::cpu), false).c_str());
  std::fflush(stdout);
}

void write_json(std::FILE* json, const Cell& cell, const Measurement& measured, bool first) {
  for (std::size_t way = 0; way < orders.size(); ++way) {
    for (const Run& run : measured[way]) {
      std::fprintf(
          json,
          "%s\n  {\"bytes\": %u, \"in_flight\": %u, \"order\": \"%s\", \"records_per_second\": %.1f, "
          "\"cpu_us\": %.3f, \"fsyncs\": %.5f, \"sqes\": %.5f, \"enters\": %.5f, \"p50_us\": %.1f, "
          "\"p99_us\": %.1f}",
          first ? "" : ",", cell.size, cell.depth, order_names[way], run.rate, run.cpu, run.fsyncs, run.sqes,
          run.enters, run.p50, run.p99);
      first = false;
    }
  }
}

bool parse(int argc, char** argv, Options& options) {
  const std::vector<common::Option> table{
      common::text("--folder", "DIR", options.folder, "where the log is written"),
      common::text("--json", "FILE", options.json, "every run, for other programs"),
      common::number("--blocks", "N", options.blocks, 1, 1000,
                     "two runs of each way in a block; six ratios are judged"),
      common::number("--milliseconds", "N", options.milliseconds, 10, 60'000, "of a run")};
  const common::Program about{.name = "ordering",
                              .summary = "Compares three ways to put an fsync behind its writes."};
  return common::parse_options({argv + 1, argv + argc}, about, table);
}

void measure_all(const Options& options) {
  std::FILE* const json = options.json.empty() ? nullptr : std::fopen(options.json.c_str(), "w");
  if (json == nullptr && !options.json.empty()) {
    throw common::StartError(common::exit_failed,
                             "cannot write " + options.json + ": " + common::errno_text(errno));
  }
  print_head(options);
  if (json != nullptr) std::fputs("[", json);
  bool first = true;
  for (const std::uint32_t size : sizes) {
    for (const unsigned depth : depths) {
      const Cell cell{.size = size, .depth = depth};
      const Measurement measured = measure(options, cell);
      print(cell, measured);
      if (json != nullptr) write_json(json, cell, measured, std::exchange(first, false));
    }
  }
  if (json == nullptr) return;
  std::fputs("\n]\n", json);
  std::fclose(json);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    if (parse(argc, argv, options)) measure_all(options);
    return common::exit_clean;
  } catch (const common::StartError& error) {
    std::fprintf(stderr, "ordering: %s\n", error.what());
    return error.exit_code();
  } catch (const uring::SetupError& error) {
    std::fprintf(stderr, "ordering: %s\n", error.what());
    return common::exit_no_io_uring;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ordering: %s\n", error.what());
    return common::exit_failed;
  }
}

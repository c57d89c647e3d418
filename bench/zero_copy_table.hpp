// What bench_zero_copy has measured, as a table and as JSON. Everything printed is computed from the runs,
// and the runs are in the JSON.
#pragma once

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "bench/load/ratio.hpp"
#include "bench/zero_copy_net.hpp"
#include "bench/zero_copy_sender.hpp"

namespace bench {

inline constexpr std::size_t KiB = 1024;
inline constexpr std::size_t MiB = 1024 * KiB;

struct Row {
  std::size_t size = 0;
  std::size_t window = 0;
  std::array<std::vector<Run>, ways.size()> runs{};
  std::array<std::string, ways.size()> refused{};  // why there are no runs

  bool has(Way way) const { return !runs[index_of(way)].empty(); }

  double median(Way way, double Run::*value) const {
    std::vector<double> values;
    for (const Run& run : runs[index_of(way)]) values.push_back(run.*value);
    return load::median_of(std::move(values));
  }

  /// Above 1: `way` needs less CPU time than SEND.
  load::Interval ratio(Way way) const {
    std::vector<double> ratios;
    for (std::size_t pass = 0; pass < runs[index_of(way)].size(); ++pass) {
      ratios.push_back(runs[index_of(Way::send)][pass].cpu_nanoseconds /
                       runs[index_of(way)][pass].cpu_nanoseconds);
    }
    return load::bootstrap(ratios);
  }

  std::uint64_t total(Way way, std::uint64_t Run::*value) const {
    std::uint64_t sum = 0;
    for (const Run& run : runs[index_of(way)]) sum += run.*value;
    return sum;
  }
};

struct Table {
  std::string key;
  std::string title;
  std::string remark{};
  std::vector<Row> rows{};
  std::uint64_t sent = 0;  // messages, warm-ups included

  /// The smallest size from which on `way` is cheaper than SEND beyond doubt; 0: none.
  std::size_t crossover(Way way) const {
    std::size_t from = 0;
    for (auto row = rows.rbegin(); row != rows.rend(); ++row) {
      if (!row->has(way) || row->ratio(way).low <= 1) break;
      from = row->size;
    }
    return from;
  }
};

// ---- What is printed --------------------------------------------------------------------------------------

inline std::string size_text(std::size_t size) {
  if (size % MiB == 0) return std::to_string(size / MiB) + " MiB";
  if (size % KiB == 0) return std::to_string(size / KiB) + " KiB";
  return std::to_string(size) + " B";
}

inline std::string share_text(const Row& row, Way way) {
  const std::uint64_t notified = row.total(way, &Run::notified);
  if (notified == 0) return "-";
  const auto free = static_cast<double>(notified - row.total(way, &Run::copied));
  char text[32];
  std::snprintf(text, sizeof text, "%.0f %%", 100 * free / static_cast<double>(notified));
  return text;
}

inline void print_way(const Row& row, Way way) {
  if (!row.has(way)) {
    std::printf("           %-18s  refused: %s\n", way_names[index_of(way)],
                row.refused[index_of(way)].c_str());
    return;
  }
  std::printf("%9s  %-18s %9.0f %9.0f %10s", way == ways.front() ? size_text(row.size).c_str() : "",
              way_names[index_of(way)], row.median(way, &Run::nanoseconds),
              row.median(way, &Run::cpu_nanoseconds), share_text(row, way).c_str());
  if (way != Way::send) {
    const load::Interval ratio = row.ratio(way);
    const load::Verdict verdict = load::judge(ratio);
    std::printf("   %5.2f [%.2f, %.2f]%s", ratio.median, ratio.low, ratio.high,
                verdict == load::Verdict::no_difference ? "  no difference" : "");
  }
  std::printf("\n");
}

inline void print(const Table& table) {
  std::printf("\n==== %s\n     %s\n\n", table.title.c_str(), table.remark.c_str());
  std::printf("     size  %-18s %9s %9s %10s   SEND / this, CPU\n", "", "ns/send", "CPU ns", "not copied");
  for (const Row& row : table.rows) {
    for (const Way way : ways) print_way(row, way);
  }
  for (const Way way : {Way::zero_copy, Way::registered}) {
    const bool measured = !table.rows.empty() && table.rows.back().has(way);
    const std::size_t from = table.crossover(way);
    const std::string said = !measured ? "not measured" : from == 0 ? "none" : size_text(from);
    std::printf("crossover  %-18s %s\n", way_names[index_of(way)], said.c_str());
  }
  std::fflush(stdout);
}

struct Facts {
  std::string kernel{};
  std::string obstacle{};  // why there is no device; empty: there is one
  std::uint64_t datagrams = 0;
  Taken taken{};
  int blocks = 0;
};

inline void write_run(std::FILE* file, const Run& run, bool first) {
  std::fprintf(file,
               "%s{\"ns\": %.1f, \"cpu_ns\": %.1f, \"sends\": %llu, \"notified\": %llu, "
               "\"copied\": %llu}",
               first ? "" : ", ", run.nanoseconds, run.cpu_nanoseconds, 0ULL + run.sends, 0ULL + run.notified,
               0ULL + run.copied);
}

inline void write_row(std::FILE* file, const Row& row) {
  std::fprintf(file, "   {\"size\": %zu, \"window\": %zu, \"ways\": {", row.size, row.window);
  for (const Way way : ways) {
    std::fprintf(file, "%s\n    \"%s\": {", way == ways.front() ? "" : ",", way_names[index_of(way)]);
    if (row.has(way)) {
      const load::Interval ratio = row.ratio(way);
      std::fprintf(file, "\"send_over_this\": {\"median\": %.4f, \"low\": %.4f, \"high\": %.4f}, \"runs\": [",
                   ratio.median, ratio.low, ratio.high);
      bool first = true;
      for (const Run& run : row.runs[index_of(way)]) write_run(file, run, std::exchange(first, false));
      std::fprintf(file, "]}");
    } else {
      std::fprintf(file, "\"refused\": \"%s\"}", row.refused[index_of(way)].c_str());
    }
  }
  std::fprintf(file, "}}");
}

/// Everything that was measured: each run, so that every number above can be computed again.
inline void write_json(const char* path, const std::vector<Table>& tables, const Facts& facts) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "we"), std::fclose);
  if (file == nullptr) throw std::system_error(errno, std::generic_category(), path);
  std::fprintf(file.get(),
               "{\"kernel\": \"%s\", \"obstacle\": \"%s\", \"datagrams\": %llu, \"device_packets\": %llu, "
               "\"device_dropped\": %llu, \"blocks\": %d,\n \"tables\": [",
               facts.kernel.c_str(), facts.obstacle.c_str(), 0ULL + facts.datagrams,
               0ULL + facts.taken.packets, 0ULL + facts.taken.dropped, facts.blocks);
  for (const Table& table : tables) {
    std::fprintf(file.get(),
                 "%s\n  {\"table\": \"%s\", \"crossover\": {\"SEND_ZC\": %zu, \"SEND_ZC registered\": %zu},"
                 " \"rows\": [\n",
                 &table == tables.data() ? "" : ",", table.key.c_str(), table.crossover(Way::zero_copy),
                 table.crossover(Way::registered));
    for (const Row& row : table.rows) {
      if (&row != table.rows.data()) std::fprintf(file.get(), ",\n");
      write_row(file.get(), row);
    }
    std::fprintf(file.get(), "]}");
  }
  std::fprintf(file.get(), "]}\n");
  if (std::fflush(file.get()) != 0) throw std::system_error(errno, std::generic_category(), path);
}

}  // namespace bench

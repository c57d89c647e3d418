#include "bench/load/against.hpp"

#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/load/ratio.hpp"
#include "bench/load/report.hpp"
#include "bench/load/run.hpp"

namespace load {
namespace {

constexpr std::array<bool, 4> is_second{false, true, true, false};  // A B B A

using Block = std::array<Result, 4>;

// One figure of a run, and whether more of it is better.
struct Figure {
  std::string name;
  std::string key;
  bool more_is_better;
  double (*value)(const Result&, std::size_t traffic);
  std::size_t traffic;
};

double rate(const Result& result, std::size_t traffic) {
  return static_cast<double>(result.traffic[traffic].verified) / result.seconds;
}
double cpu(const Result& result, std::size_t) {
  return result.server->cpu * 1e6 / static_cast<double>(result.verified());
}
double p50(const Result& result, std::size_t traffic) {
  return static_cast<double>(result.traffic[traffic].latency.quantile(500'000));
}
double p99(const Result& result, std::size_t traffic) {
  return static_cast<double>(result.traffic[traffic].latency.quantile(990'000));
}

std::vector<Figure> figures_of(const Options& options) {
  std::vector<Figure> figures;
  if (options.server_pid != 0) figures.push_back({"server CPU a message", "server_cpu", false, cpu, 0});
  for (std::size_t i = 0; i < options.traffic.size(); ++i) {
    const std::string name = name_of(options.traffic[i]);
    figures.push_back({name + " messages/s", name + "_rate", true, rate, i});
    figures.push_back({name + " latency p50", name + "_p50", false, p50, i});
    figures.push_back({name + " latency p99", name + "_p99", false, p99, i});
  }
  return figures;
}

double ratio_of(const Result& first, const Result& second, const Figure& figure) {
  const double a = figure.value(first, figure.traffic);
  const double b = figure.value(second, figure.traffic);
  return figure.more_is_better ? a / b : b / a;
}

// A block has two pairs of neighbours: A B, and B A.
Interval interval_of(const std::vector<Block>& blocks, const Figure& figure) {
  std::vector<double> ratios;
  ratios.reserve(blocks.size() * 2);
  for (const Block& block : blocks) {
    ratios.push_back(ratio_of(block[0], block[1], figure));
    ratios.push_back(ratio_of(block[3], block[2], figure));
  }
  return bootstrap(ratios);
}

const char* in_words(Verdict verdict) {
  switch (verdict) {
    case Verdict::first_is_better:
      return "A is better";
    case Verdict::second_is_better:
      return "B is better";
    case Verdict::no_difference:
      return "no difference";
  }
  return "?";
}

void print_text(const Options& options, const std::vector<Block>& blocks) {
  std::printf(
      "\nratios, above 1: A (%s) is better; the median of %zu pairs of turns and its 95 %% interval\n",
      options.target.name.c_str(), blocks.size() * 2);
  for (const Figure& figure : figures_of(options)) {
    const Interval ratio = interval_of(blocks, figure);
    std::printf("  %-22s %.3f  [%.3f, %.3f]  %s\n", figure.name.c_str(), ratio.median, ratio.low, ratio.high,
                in_words(judge(ratio)));
  }
  std::size_t server_bound = 0;
  for (const Block& block : blocks) {
    for (const Result& result : block) server_bound += result.limit() == Limit::server ? 1U : 0U;
  }
  std::printf(
      "  the server was busy (>= 95 %% of a core) in %zu of %zu runs; elsewhere a rate does not rank "
      "servers\n",
      server_bound, blocks.size() * is_second.size());
}

std::string blocks_json(const Options& options, const std::vector<Block>& blocks) {
  std::string json = "[";
  for (const Block& block : blocks) {
    json += json.size() == 1 ? "[" : ", [";
    for (std::size_t turn = 0; turn < block.size(); ++turn) {
      const Target& target = is_second[turn] ? *options.against : options.target;
      json += (turn == 0 ? "" : ", ") + to_json(options, target, block[turn]);
    }
    json += "]";
  }
  return json + "]";
}

void print_json(const Options& options, const std::vector<Block>& blocks) {
  std::string ratios;
  for (const Figure& figure : figures_of(options)) {
    const Interval ratio = interval_of(blocks, figure);
    ratios += ratios.empty() ? "" : ", ";
    ratios += json_string(figure.key) + ": {\"median\": " + json_number(ratio.median) +
              ", \"low\": " + json_number(ratio.low) + ", \"high\": " + json_number(ratio.high) +
              ", \"verdict\": " + json_string(in_words(judge(ratio))) + "}";
  }
  std::printf(
      "{\"mode\": %s, \"ok\": true, \"A\": %s, \"B\": %s, \"above_1\": \"A is better\", \"ratios\": {%s}, "
      "\"blocks\": %s}\n",
      json_string(options.mode).c_str(), json_string(options.target.name).c_str(),
      json_string(options.against->name).c_str(), ratios.c_str(), blocks_json(options, blocks).c_str());
}

void print_turn(const Target& target, const Result& result, bool second) {
  std::string line = std::string("  ") + (second ? "B" : "A") + " " + target.name;
  for (const TrafficResult& traffic : result.traffic) {
    const double per_second = static_cast<double>(traffic.verified) / result.seconds;
    line += "  " + traffic.name + " " + grouped(static_cast<std::uint64_t>(per_second)) + "/s";
  }
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace

bool compare(const Options& options, const Target*& guilty) {
  if (!options.json)
    std::printf("A %s; B %s\n", headline(options, options.target).c_str(), options.against->name.c_str());
  std::vector<Block> blocks(options.blocks);
  for (std::size_t number = 0; number < blocks.size(); ++number) {
    for (std::size_t turn = 0; turn < is_second.size(); ++turn) {
      const bool second = is_second[turn];
      const Target& target = second ? *options.against : options.target;
      guilty = &target;
      const std::string label =
          "block " + std::to_string(number + 1) + " of " + std::to_string(blocks.size()) + ": ";
      Result& result = blocks[number][turn];
      result = run(options, target, second ? options.against_pid : options.server_pid, label);
      if (!result.ok() || result.silent()) {
        std::fprintf(stderr, "load: %s: %s\n", target.name.c_str(),
                     result.ok() ? "nothing was answered in so short a time" : error_text(result).c_str());
        if (options.json) std::printf("%s\n", to_json(options, target, result).c_str());
        return false;
      }
      if (!options.json) print_turn(target, result, second);
    }
  }
  options.json ? print_json(options, blocks) : print_text(options, blocks);
  return true;
}

}  // namespace load

#include "bench/load/report.hpp"

#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "bench/load/made_files.hpp"

namespace load {
namespace {

// Numbers and short texts only: what is longer than a line is cut.
[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...) {
  char line[512];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  return line;
}

struct Quantile {
  const char* name;
  const char* key;
  std::uint64_t per_million;
};

constexpr Quantile quantiles[] = {
    {"p50", "p50", 500'000}, {"p90", "p90", 900'000},     {"p95", "p95", 950'000},
    {"p99", "p99", 990'000}, {"p99.9", "p99_9", 999'000},
};

double microseconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e3; }

std::string latency_line(const Histogram& histogram) {
  std::string line;
  for (const Quantile& quantile : quantiles) {
    line += text("%s %.1f  ", quantile.name, microseconds(histogram.quantile(quantile.per_million)));
  }
  return line + text("max %.1f us", microseconds(histogram.max()));
}

std::string latency_json(const Histogram& histogram) {
  std::string json = "{\"count\": " + std::to_string(histogram.count());
  for (const Quantile& quantile : quantiles) {
    json += std::string(", \"") + quantile.key +
            "\": " + json_number(microseconds(histogram.quantile(quantile.per_million)));
  }
  return json + ", \"max\": " + json_number(microseconds(histogram.max())) +
         ", \"mean\": " + json_number(histogram.mean() / 1e3) + "}";
}

std::string describe_traffic(const Traffic& traffic) {
  std::string line =
      grouped(traffic.connections) + (traffic.connections == 1 ? " connection" : " connections");
  if (traffic.depth > 1) line += ", depth " + std::to_string(traffic.depth);
  if (traffic.kind != Kind::get) {
    line += ", " + grouped(traffic.size) + (traffic.size == 1 ? " byte" : " bytes");
  } else if (traffic.block != 0) {
    line += ", random ranges of " + size_text(traffic.block) + " of " + traffic.files.front().path;
  } else {
    line += traffic.files.size() == 1 ? ", " + traffic.files.front().path
                                      : ", " + grouped(traffic.files.size()) + " files in turn";
  }
  if (traffic.http) line += ", HTTP";
  if (traffic.churn) line += traffic.close == CloseBy::rst ? ", closed by RST" : ", closed by FIN";
  return line + (traffic.rate != 0 ? ", open loop, " + grouped(traffic.rate) + "/s" : ", closed loop");
}

std::string rate_lines(const TrafficResult& traffic, const Result& result) {
  const double per_second = static_cast<double>(traffic.verified) / result.seconds;
  std::string lines = text("  verified %s  %s in %.2f s:  %s/s  %.1f MB/s\n", traffic.name.c_str(),
                           grouped(traffic.verified).c_str(), result.seconds,
                           grouped(static_cast<std::uint64_t>(per_second)).c_str(),
                           static_cast<double>(traffic.bytes) / result.seconds / 1e6);
  lines += "  latency        " + latency_line(traffic.latency) + "\n";
  if (traffic.unsent != 0) {
    lines += "  note: " + grouped(traffic.unsent) +
             " messages were due and could never be sent: too much was asked for.\n"
             "        They are among the latencies with what they had waited\n";
  }
  return lines;
}

std::string share_text(const char* who, const Usage& usage, const Result& result) {
  return text("%s %.1f %% of a core (and waiting for one %.1f %%)", who, usage.cpu / result.seconds * 100,
              usage.waited / result.seconds * 100);
}

std::string cpu_lines(const Result& result) {
  std::string lines = "  CPU            " + share_text("generator", result.own, result) + "\n";
  if (!result.server || result.verified() == 0) return lines;
  const double messages = static_cast<double>(result.verified());
  lines += "                 " + share_text("server", *result.server, result);
  return lines + text(": %.3f us and %.3f context switches a message\n", result.server->cpu * 1e6 / messages,
                      static_cast<double>(result.server->switches) / messages);
}

std::string notes(const Result& result) {
  std::string lines;
  if (result.silent()) lines += "  note: nothing was answered in so short a time; measure longer\n";
  if (result.limit() == Limit::generator) {
    lines += "  note: the generator was the bottleneck, not the server: the rate is a lower bound\n";
  } else if (result.limit() == Limit::perhaps_generator) {
    lines +=
        "  note: the generator used its core up: perhaps it was the bottleneck (--server-pid would tell)\n";
  }
  if (result.disturbed()) {
    lines += text(
        "  note: the generator waited for a CPU for %.0f %% of the time: something else was running here\n",
        result.own.waited / result.seconds * 100);
  }
  if (result.late()) {
    lines +=
        text("  note: the generator was late (lag p99 above %.0f us): the latencies are partly its own\n",
             microseconds(late_bound));
  }
  if (result.left_open != 0) {
    lines +=
        "  note: " + grouped(result.left_open) + " connections were not closed by the server after our FIN\n";
  }
  return lines;
}

const char* name_of(Limit limit) {
  switch (limit) {
    case Limit::server:
      return "server";
    case Limit::generator:
      return "generator";
    case Limit::perhaps_generator:
      return "perhaps generator";
    case Limit::neither:
      return "neither";
    case Limit::unknown:
      return "unknown";
  }
  return "?";
}

std::string traffic_json(const Traffic& asked, const TrafficResult& found, const Result& result) {
  const auto rate = [&](double amount) {
    return result.ok() ? json_number(amount / result.seconds) : "null";
  };
  std::string json = "{\"name\": " + json_string(found.name);
  json += ", \"connections\": " + std::to_string(asked.connections);
  json += ", \"depth\": " + std::to_string(asked.depth);
  json += ", \"size\": " + std::to_string(asked.kind == Kind::get ? asked.block : asked.size);
  json += ", \"files\": " + std::to_string(asked.files.size());
  json += std::string(", \"http\": ") + (asked.http ? "true" : "false");
  json += std::string(", \"churn\": ") + (asked.churn ? "true" : "false");
  json += ", \"rate_wanted\": " + std::to_string(asked.rate);
  json += ", \"verified\": " + std::to_string(found.verified);
  json += ", \"verified_all\": " + std::to_string(found.verified_all);
  json += ", \"bytes\": " + std::to_string(found.bytes);
  json += ", \"unsent\": " + std::to_string(found.unsent);
  json += ", \"per_second\": " + rate(static_cast<double>(found.verified));
  json += ", \"mb_per_second\": " + rate(static_cast<double>(found.bytes) / 1e6);
  return json + ", \"latency_us\": " + latency_json(found.latency) + "}";
}

std::string usage_json(const Usage& usage) {
  return "{\"cpu_seconds\": " + json_number(usage.cpu) +
         ", \"waited_seconds\": " + json_number(usage.waited) +
         ", \"context_switches\": " + std::to_string(usage.switches) + "}";
}

std::string errors_json(const Errors& errors) {
  return "{\"refused\": " + std::to_string(errors.refused) + ", \"reset\": " + std::to_string(errors.reset) +
         ", \"closed\": " + std::to_string(errors.closed) +
         ", \"timed_out\": " + std::to_string(errors.timed_out) +
         ", \"other\": " + std::to_string(errors.other) + ", \"first\": " + json_string(errors.first) + "}";
}

}  // namespace

std::string grouped(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

std::string json_string(std::string_view text_in) {
  std::string json = "\"";
  for (const char c : text_in) {
    if (c == '"' || c == '\\') {
      json += {'\\', c};
    } else if (static_cast<unsigned char>(c) < ' ') {
      json += text("\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      json += c;
    }
  }
  return json + "\"";
}

std::string json_number(double value) { return std::isfinite(value) ? text("%.6g", value) : "null"; }

std::string headline(const Options& options, const Target& target) {
  std::string line = options.mode + " on " + target.name;
  const char* separator = ": ";
  for (const Traffic& traffic : options.traffic) {
    line += separator + describe_traffic(traffic);
    separator = "; and ";
  }
  return line;
}

std::string to_text(const Options& options, const Target& target, const Result& result) {
  std::string lines = headline(options, target) + "\n";
  if (!result.ok()) return lines;
  for (const TrafficResult& traffic : result.traffic) lines += rate_lines(traffic, result);
  lines += "  own lag        " + latency_line(result.lag) + "\n";
  return lines + cpu_lines(result) + notes(result);
}

std::string error_text(const Result& result) {
  const Errors& errors = result.errors;
  if (errors.all() == 0) return "";
  std::string line =
      grouped(errors.all()) + (errors.all() == 1 ? " connection" : " connections") + " failed (";
  const char* separator = "";
  for (const auto& [count, name] :
       {std::pair{errors.refused, "refused"}, std::pair{errors.reset, "reset"},
        std::pair{errors.closed, "closed"}, std::pair{errors.timed_out, "timed out"},
        std::pair{errors.other, "otherwise"}}) {
    if (count == 0) continue;
    line += separator + grouped(count) + " " + name;
    separator = ", ";
  }
  return line + "), so there is no rate. The first: " + errors.first;
}

std::string to_json(const Options& options, const Target& target, const Result& result) {
  std::string json = "{\"mode\": " + json_string(options.mode) + ", \"target\": " + json_string(target.name);
  json += std::string(", \"ok\": ") + (result.ok() ? "true" : "false");
  json += ", \"loop\": " + json_string(result.open_loop ? "open" : "closed");
  json += ", \"seconds\": " + json_number(result.seconds) + ", \"traffic\": [";
  for (std::size_t i = 0; i < result.traffic.size(); ++i) {
    json += (i == 0 ? "" : ", ") + traffic_json(options.traffic[i], result.traffic[i], result);
  }
  json += "], \"lag_us\": " + latency_json(result.lag);
  json += std::string(", \"late\": ") + (result.late() ? "true" : "false");
  json += ", \"generator\": " + usage_json(result.own);
  json += ", \"server\": " + (result.server ? usage_json(*result.server) : "null");
  const double messages = result.ok() ? static_cast<double>(result.verified()) : 0;
  const double cost = result.server ? result.server->cpu * 1e6 / messages : std::nan("");
  json += ", \"server_cpu_us_per_message\": " + json_number(cost);
  json += std::string(", \"disturbed\": ") + (result.disturbed() ? "true" : "false");
  json += ", \"bottleneck\": " + json_string(name_of(result.limit()));
  json += ", \"left_open\": " + std::to_string(result.left_open);
  return json + ", \"errors\": " + errors_json(result.errors) + "}";
}

std::string to_text(const Target& target, const WrongAnswer& wrong) {
  std::string line = target.name + " answered wrongly. " + wrong.what();
  if (!wrong.origin.empty()) line += "\n  " + wrong.origin;
  return line + "\n  " + wrong.peer + "; there is no rate for this";
}

std::string to_json(const Options& options, const Target& target, const WrongAnswer& wrong) {
  return "{\"mode\": " + json_string(options.mode) + ", \"target\": " + json_string(target.name) +
         ", \"ok\": false, \"wrong\": {\"kind\": " + json_string(wrong.kind) +
         ", \"connection\": " + std::to_string(wrong.connection) +
         ", \"message\": " + std::to_string(wrong.message) + ", \"offset\": " + std::to_string(wrong.offset) +
         ", \"expected\": " + json_string(wrong.expected) + ", \"got\": " + json_string(wrong.got) +
         ", \"origin\": " + json_string(wrong.origin) + ", \"sentence\": " + json_string(wrong.what()) + "}}";
}

}  // namespace load

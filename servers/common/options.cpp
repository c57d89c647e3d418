#include "servers/common/options.hpp"

#include <charconv>
#include <cstdio>
#include <optional>

namespace common {
namespace {

[[noreturn]] void wrong(const std::string& sentence) { throw StartError(exit_usage, sentence); }

// "64K" -> 65536. Nothing but digits, and one of K, M, G where `kind` is bytes.
std::optional<std::uint64_t> number_from(std::string_view text, Option::Kind kind) {
  unsigned shift = 0;
  if (kind == Option::Kind::bytes && !text.empty()) {
    constexpr std::string_view suffixes = "KMG";
    if (const auto at = suffixes.find(text.back()); at != suffixes.npos) {
      shift = 10 * (static_cast<unsigned>(at) + 1);
      text.remove_suffix(1);
    }
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (value > (std::numeric_limits<std::uint64_t>::max() >> shift)) return std::nullopt;
  return value << shift;
}

void store_number(const Option& option, std::string_view value) {
  const std::optional<std::uint64_t> number = number_from(value, option.kind);
  if (number && *number >= option.lowest && *number <= option.highest) {
    option.store(option.target, *number);
    return;
  }
  wrong(std::string(option.name) + " " + std::string(value) + ": a number from " +
        std::to_string(option.lowest) + " to " + std::to_string(option.highest) + " is needed" +
        (option.kind == Option::Kind::bytes ? " (K, M and G are understood)" : ""));
}

void store_choice(const Option& option, std::string_view value) {
  std::string_view left = option.value;
  for (std::uint64_t index = 0; !left.empty(); ++index) {
    const std::size_t bar = left.find('|');
    if (left.substr(0, bar) == value) {
      option.store(option.target, index);
      return;
    }
    left = bar == left.npos ? std::string_view{} : left.substr(bar + 1);
  }
  wrong(std::string(option.name) + " " + std::string(value) + ": one of " + option.value + " is needed");
}

void store(const Option& option, std::string_view value) {
  switch (option.kind) {
    case Option::Kind::flag:
      option.store(option.target, 1);
      break;
    case Option::Kind::number:
    case Option::Kind::bytes:
      store_number(option, value);
      break;
    case Option::Kind::choice:
      store_choice(option, value);
      break;
    case Option::Kind::text:
      if (value.empty()) wrong(std::string(option.name) + ": " + option.value + " is empty");
      static_cast<std::string*>(option.target)->assign(value);
      break;
  }
}

const Option& find(std::span<const Option> options, std::string_view name) {
  for (const Option& option : options) {
    if (name == option.name) return option;
  }
  wrong("unknown option " + std::string(name) + " (--help lists them)");
}

// "", or the default in brackets as the help shows it.
std::string default_text(const Option& option) {
  if (option.kind == Option::Kind::flag) return "";
  if (option.required) return " (needed)";
  if (option.kind == Option::Kind::text) {
    const std::string& value = *static_cast<const std::string*>(option.target);
    return value.empty() ? "" : " (" + value + ")";
  }
  const std::uint64_t value = option.load(option.target);
  if (option.kind != Option::Kind::choice) return " (" + std::to_string(value) + ")";
  std::string_view left = option.value;
  for (std::uint64_t index = 0; index < value; ++index) left.remove_prefix(left.find('|') + 1);
  return " (" + std::string(left.substr(0, left.find('|'))) + ")";
}

std::string help_line(const std::string& option, const std::string& help) {
  constexpr std::size_t column = 28;
  std::string line = "  " + option;
  line.append(line.size() < column ? column - line.size() : 1, ' ');
  return line + help + "\n";
}

}  // namespace

std::string help_text(const Program& program, std::span<const Option> options) {
  std::string help = std::string("usage: ") + program.name;
  for (const Option& option : options) {
    if (option.required) help += std::string(" ") + option.name + " " + option.value;
  }
  help += " [options]";
  if (*program.others != '\0') help += std::string(" ") + program.others;
  help += std::string("\n") + program.summary + "\n\n";
  for (const Option& option : options) {
    const std::string name = std::string(option.name) + (*option.value != '\0' ? " " : "") + option.value;
    help += help_line(name, option.help + default_text(option));
  }
  return help + help_line("--help", "this text") + program.epilogue;
}

bool parse_options(std::span<const char* const> arguments, const Program& program,
                   std::span<const Option> options, std::vector<std::string>* others) {
  // First, so that the help shows the defaults and not what stands before it on the line.
  for (const std::string_view word : arguments) {
    if (word != "--help" && word != "-h") continue;
    std::fputs(help_text(program, options).c_str(), stdout);
    return false;
  }
  std::vector<const char*> given;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view word = arguments[i];
    if (word.size() < 2 || word[0] != '-') {
      if (others == nullptr) wrong("'" + std::string(word) + "' belongs to no option (--help lists them)");
      others->emplace_back(word);
      continue;
    }
    const std::size_t equals = word.find('=');
    const Option& option = find(options, word.substr(0, equals));
    const bool is_flag = option.kind == Option::Kind::flag;
    if (equals != word.npos) {
      if (is_flag) wrong(std::string(option.name) + " takes no value");
      store(option, word.substr(equals + 1));
    } else if (is_flag) {
      store(option, "");
    } else if (i + 1 < arguments.size()) {
      store(option, arguments[++i]);
    } else {
      wrong(std::string(option.name) + " needs its value: " + option.value);
    }
    given.push_back(option.name);
  }
  for (const Option& option : options) {
    bool found = !option.required;
    for (const char* const name : given) found = found || std::string_view(name) == option.name;
    if (!found) wrong(std::string(option.name) + " " + option.value + " is needed (--help)");
  }
  return true;
}

std::vector<Option> server_options(ServerOptions& options) {
  return {
      number("--port", "PORT", options.port, 0, 65535, "TCP port; 0 picks a free one"),
      text("--bind", "ADDRESS", options.bind, "IPv4 or IPv6 address to listen on"),
      number("--max-connections", "N", options.max_connections, 1, 1'000'000,
             "more are accepted and closed, and counted as refused"),
      number("--stats", "SECONDS", options.stats_seconds, 0, 86'400,
             "a line of statistics on stderr that often; 0: never"),
  };
}

Option root_option(ServerOptions& options) {
  return required(text("--root", "DIR", options.root, "the folder whose files are served"));
}

Option unix_option(ServerOptions& options) {
  return text("--unix", "PATH", options.unix_path, "listen on a Unix-domain socket there instead");
}

}  // namespace common

// The command line: a table of options, each with its type, its range and its line of help.
//
//   common::ServerOptions server{.port = 9000};
//   bool direct = false;
//   std::vector<common::Option> table = common::server_options(server);
//   table.push_back(common::root_option(server));
//   table.push_back(common::flag("--direct", direct, "read with O_DIRECT"));
//   if (!common::parse_options({argv + 1, argv + argc}, about, table)) return 0;   // --help was asked for
//
// Values are `--port 80` or `--port=80`; the last one wins. Whatever is wrong is one sentence and exit code 2
// (StartError): an unknown option, a value that is missing, not a number or out of its range, a word that
// belongs to no option. An option's target holds its default, which the help shows. Targets must outlive the
// parsing, nothing else.
#pragma once

#include <cassert>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "servers/common/start_error.hpp"

namespace common {

struct Option {
  enum class Kind : std::uint8_t { flag, number, bytes, text, choice };

  Kind kind;
  const char* name;   // "--port"
  const char* value;  // what stands for the value in the help: "PORT", "read|fixed"; "" for a flag
  const char* help;
  void* target;
  void (*store)(void* target,
                std::uint64_t value) = nullptr;  // all but text: the number, or the index of the choice
  std::uint64_t (*load)(const void* target) = nullptr;
  std::uint64_t lowest = 0;
  std::uint64_t highest = 0;
  bool required = false;
};

namespace detail {

template <class T>
void store_as(void* target, std::uint64_t value) {
  *static_cast<T*>(target) = static_cast<T>(value);
}
template <class T>
std::uint64_t load_as(const void* target) {
  return static_cast<std::uint64_t>(*static_cast<const T*>(target));
}

}  // namespace detail

/// `--name`: sets `target`.
inline Option flag(const char* name, bool& target, const char* help) {
  return {Option::Kind::flag, name, "", help, &target, detail::store_as<bool>, detail::load_as<bool>, 0, 1};
}

/// `--name N`, decimal, from `lowest` to `highest`.
template <class T>
Option number(const char* name, const char* value, T& target, std::uint64_t lowest, std::uint64_t highest,
              const char* help) {
  assert(lowest <= highest && highest <= std::numeric_limits<T>::max());
  return {Option::Kind::number, name,   value,  help, &target, detail::store_as<T>,
          detail::load_as<T>,   lowest, highest};
}

/// `--name N`, N in bytes or with K, M or G (powers of 1024) behind it.
template <class T>
Option bytes(const char* name, const char* value, T& target, std::uint64_t lowest, std::uint64_t highest,
             const char* help) {
  Option option = number(name, value, target, lowest, highest, help);
  option.kind = Option::Kind::bytes;
  return option;
}

/// `--name a|b|c`: the enumerators of `target` stand in the order of `value`, from 0.
template <class Enum>
Option choice(const char* name, const char* value, Enum& target, const char* help) {
  return {Option::Kind::choice, name, value, help, &target, detail::store_as<Enum>, detail::load_as<Enum>};
}

/// `--name anything but nothing`.
inline Option text(const char* name, const char* value, std::string& target, const char* help) {
  return {Option::Kind::text, name, value, help, &target};
}

/// The same option, which must now be given.
inline Option required(Option option) {
  option.required = true;
  return option;
}

/// A program in its own words, for --help.
struct Program {
  const char* name;
  const char* summary;        // a sentence or two
  const char* others = "";    // what else may stand on the command line: "SRC DST"
  const char* epilogue = "";  // printed below the options
};

/// Stores what `arguments` (without argv[0]) say. False: --help was among them, and is printed on stdout.
/// Words that are no options go to `others`, in order; without it they are an error. Throws StartError with
/// exit code 2.
bool parse_options(std::span<const char* const> arguments, const Program& program,
                   std::span<const Option> options, std::vector<std::string>* others = nullptr);

/// What --help prints.
std::string help_text(const Program& program, std::span<const Option> options);

/// What every server and every twin understands.
struct ServerOptions {
  std::uint16_t port = 0;
  std::string bind = "127.0.0.1";
  std::string root{};
  std::string unix_path{};
  std::uint32_t max_connections = 16384;
  std::uint32_t stats_seconds = 0;
};

/// --port, --bind, --max-connections, --stats.
std::vector<Option> server_options(ServerOptions& options);

/// --root DIR, required: for servers of files.
Option root_option(ServerOptions& options);

/// --unix PATH: for servers that can listen on a Unix-domain socket instead.
Option unix_option(ServerOptions& options);

}  // namespace common

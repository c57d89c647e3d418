#include "bench/load/options.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "bench/load/clock.hpp"
#include "servers/common/options.hpp"

namespace load {
namespace {

constexpr const char* usage =
    "usage: load file|echo|mixed|churn [--port PORT | --unix PATH] [options]\n"
    "       load make-files DIR [options]\n"
    "Asks a server on this machine for as much as it can answer, or for as much as it is told, verifies "
    "every byte\n"
    "that comes back, and says how fast that was. A wrong byte ends it: what and where it was, no rate, exit "
    "code 1.\n"
    "\n"
    "  file        GETs on a file server, line form or HTTP\n"
    "  echo        messages to an echo server, which must come back\n"
    "  mixed       ECHOs and GETs on the same file server at the same time\n"
    "  churn       a new connection for each message\n"
    "  make-files  writes files whose contents the other modes know without reading them\n"
    "\n"
    "load MODE --help lists the options of that mode. Exit code: 0, 1 (something was wrong), 2 (usage).\n";

constexpr const char* notes =
    "\nPATH of --paths and --path is a file that make-files made, below the folder that the server serves. "
    "Of any\n"
    "other file the checksum must be known: --checksum \"$(cksum < FILE)\", or a line PATH SIZE CKSUM in the "
    "list.\n";

[[noreturn]] void wrong(const std::string& sentence) {
  throw common::StartError(common::exit_usage, sentence);
}

// Everything as it stands on the command line.
struct Words {
  std::uint16_t port = 0;
  std::string host = "127.0.0.1", unix_path{};
  bool allow_remote = false;
  std::uint32_t connections = 16, get_connections = 16, depth = 1;
  std::uint64_t size = 64;
  std::uint32_t rate = 0;
  std::string seconds = "5", warm_up = "1", timeout = "10";
  std::uint64_t messages = 0;
  std::uint32_t server_pid = 0, against_pid = 0, blocks = 4;
  std::string against{};
  std::uint64_t seed = 1;
  bool json = false;
  std::string list{}, path{}, checksum{};
  std::uint64_t block = 0;
  bool http = false;
  CloseBy close = CloseBy::rst;
};

using common::Option;

void add_target_options(std::vector<Option>& table, Words& words) {
  table.push_back(common::number("--port", "PORT", words.port, 1, 65535, "of the server"));
  table.push_back(common::text("--host", "ADDRESS", words.host, "of the server, a literal"));
  table.push_back(common::text("--unix", "PATH", words.unix_path, "a Unix-domain socket instead"));
  table.push_back(
      common::flag("--allow-remote", words.allow_remote, "--host may be another machine (of yours)"));
}

void add_measuring_options(std::vector<Option>& table, Words& words) {
  table.push_back(common::text("--seconds", "S", words.seconds, "how long to measure, 0.5 is understood"));
  table.push_back(common::text("--warmup", "S", words.warm_up, "how long not to measure before that"));
  table.push_back(common::number("--rate", "R", words.rate, 0, 50'000'000,
                                 "open loop, R messages a second; 0: closed loop, as many as are answered"));
  table.push_back(
      common::text("--timeout", "S", words.timeout, "a connection on which nothing comes is an error"));
  table.push_back(
      common::number("--server-pid", "PID", words.server_pid, 0, 1U << 30, "shows the server's CPU"));
  table.push_back(
      common::text("--against", "PORT|PATH", words.against,
                   "a second server: A B B A turns, and the ratio, above 1 if the first is better"));
  table.push_back(
      common::number("--against-pid", "PID", words.against_pid, 0, 1U << 30, "the second server's"));
  table.push_back(common::number("--blocks", "N", words.blocks, 3, 1000, "of A B B A"));
  table.push_back(
      common::number("--seed", "N", words.seed, 0, UINT64_MAX, "of echoed bytes and random ranges"));
  table.push_back(common::flag("--json", words.json, "one JSON object on stdout instead of text"));
}

void add_get_options(std::vector<Option>& table, Words& words) {
  table.push_back(
      common::text("--paths", "FILE", words.list, "a list of files, one a line, asked for in this order"));
  table.push_back(common::text("--path", "PATH", words.path, "one file"));
  table.push_back(common::bytes("--random-ranges", "BLOCK", words.block, 0, std::uint64_t{1} << 32,
                                "of --path, in blocks of that size; 0: whole files"));
  table.push_back(
      common::text("--checksum", "\"CKSUM SIZE\"", words.checksum, "of --path, as cksum(1) prints it"));
  table.push_back(common::flag("--http", words.http, "HTTP/1.1 instead of the line form"));
}

std::vector<Option> table_for(const std::string& mode, Words& words) {
  std::vector<Option> table;
  add_target_options(table, words);
  table.push_back(common::number("--connections", "N", words.connections, 1, 1'000'000, "at the same time"));
  if (mode == "file" || mode == "echo") {
    table.push_back(
        common::number("--depth", "N", words.depth, 1, 65536, "messages under way on each, at most"));
  }
  if (mode != "file") {
    table.push_back(common::bytes("--size", "BYTES", words.size, 1, mode == "mixed" ? 4096 : 1ULL << 30,
                                  "of the echoed messages"));
  }
  if (mode == "mixed") {
    table.push_back(common::number("--get-connections", "N", words.get_connections, 1, 1'000'000,
                                   "more connections, for GETs, closed loop"));
  }
  if (mode != "echo") add_get_options(table, words);
  if (mode == "churn") {
    table.push_back(
        common::choice("--close", "rst|fin", words.close,
                       "rst leaves no TIME_WAIT; fin waits for the server's FIN and changes addresses"));
  }
  if (mode != "mixed") {
    table.push_back(common::number("--messages", "N", words.messages, 0, UINT64_MAX,
                                   "ends after that many, no warm-up; 0: --seconds counts"));
  }
  add_measuring_options(table, words);
  return table;
}

std::uint64_t nanoseconds(const char* option, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size() || !std::isfinite(value) || value < 0 || value > 1e6) {
    wrong(std::string(option) + " " + text + ": a number of seconds is needed");
  }
  return static_cast<std::uint64_t>(value * 1e9);
}

Target second_target(const Words& words) {
  if (words.against.find('/') != std::string::npos) return unix_target(words.against);
  std::uint16_t port = 0;
  const char* const end = words.against.data() + words.against.size();
  const auto [parsed, error] = std::from_chars(words.against.data(), end, port);
  if (error != std::errc{} || parsed != end || port == 0) {
    wrong("--against " + words.against + ": a port, or the path of a Unix-domain socket, is needed");
  }
  return tcp_target(words.host, port, words.allow_remote);
}

void set_targets(Options& options, const Words& words) {
  if ((words.port == 0) == words.unix_path.empty())
    wrong("--port PORT or --unix PATH is needed, one of them");
  options.target = words.unix_path.empty() ? tcp_target(words.host, words.port, words.allow_remote)
                                           : unix_target(words.unix_path);
  if (!words.against.empty()) options.against = second_target(words);
  if (words.against_pid != 0 && !options.against) wrong("--against-pid belongs to --against");
  const bool both = (words.server_pid != 0) == (words.against_pid != 0);
  if (options.against && !both) wrong("--server-pid and --against-pid go together");
  options.server_pid = static_cast<::pid_t>(words.server_pid);
  options.against_pid = static_cast<::pid_t>(words.against_pid);
  options.blocks = words.blocks;
}

std::vector<File> files_of(const Words& words) {
  if (words.list.empty() == words.path.empty()) wrong("--paths FILE or --path PATH is needed, one of them");
  if (words.path.empty() && !words.checksum.empty()) wrong("--checksum belongs to --path");
  if (words.path.empty() && words.block != 0) wrong("--random-ranges belongs to --path");
  std::vector<File> files;
  if (words.path.empty()) {
    files = read_list(words.list);
  } else {
    files.push_back(file_from(words.path, words.checksum));
  }
  if (words.block != 0 && files.front().checksum) {
    wrong("a checksum says nothing about a range: --random-ranges needs a file from make-files");
  }
  if (words.block > files.front().size) wrong("the file is smaller than one block of --random-ranges");
  return files;
}

Traffic traffic_of(const Words& words, Kind kind) {
  Traffic traffic;
  traffic.kind = kind;
  traffic.http = words.http && kind == Kind::get;
  traffic.connections = words.connections;
  traffic.depth = words.depth;
  traffic.rate = words.rate;
  traffic.size = words.size;
  traffic.seed = words.seed;
  if (kind == Kind::get) {
    traffic.block = words.block;
    traffic.files = files_of(words);
  }
  return traffic;
}

std::vector<Traffic> all_traffic(const std::string& mode, const Words& words) {
  if (mode == "echo") return {traffic_of(words, Kind::echo)};
  if (mode == "file") return {traffic_of(words, Kind::get)};
  if (mode == "churn") {
    const bool gets = !words.list.empty() || !words.path.empty();
    Traffic traffic = traffic_of(words, gets ? Kind::get : Kind::echo);
    traffic.churn = true;
    traffic.close = words.close;
    return {traffic};
  }
  Traffic gets = traffic_of(words, Kind::get);
  gets.connections = words.get_connections;
  gets.rate = 0;
  return {traffic_of(words, Kind::echo_line), gets};
}

void refuse_what_cannot_be(const Options& options) {
  const std::uint64_t connections = connections_of(options);
  const bool varies = options.target.family() == AF_INET;
  if (options.target.family() == AF_INET6 && connections > connections_per_source) {
    wrong(std::to_string(connections) + " connections from one IPv6 address: there are not so many ports");
  }
  if (varies && connections > std::uint64_t{connections_per_source} * sources) wrong("too many connections");
  for (const Traffic& traffic : options.traffic) {
    if (std::uint64_t{traffic.connections} * traffic.depth > 1ULL << 26) {
      wrong("more than 67,108,864 messages under way at once");
    }
  }
}

Options from_words(const std::string& mode, const Words& words) {
  Options options;
  options.mode = mode;
  options.warm_up = words.messages == 0 ? nanoseconds("--warmup", words.warm_up) : 0;
  options.duration = nanoseconds("--seconds", words.seconds);
  options.messages = words.messages;
  options.timeout = nanoseconds("--timeout", words.timeout);
  options.json = words.json;
  if (options.duration == 0) wrong("--seconds must be above 0");
  if (options.timeout == 0) wrong("--timeout must be above 0");
  set_targets(options, words);
  options.traffic = all_traffic(mode, words);
  const std::string host = options.target.family() == AF_UNIX ? "localhost" : options.target.name;
  for (Traffic& traffic : options.traffic) prepare(traffic, host);
  refuse_what_cannot_be(options);
  return options;
}

std::vector<std::uint64_t> sizes_from(std::string_view list) {
  std::vector<std::uint64_t> sizes;
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    const std::optional<std::uint64_t> size = size_from(list.substr(0, comma));
    if (!size) wrong("--sizes: '" + std::string(list.substr(0, comma)) + "' is no size (64K, 1M, 1000)");
    sizes.push_back(*size);
    list = comma == list.npos ? std::string_view{} : list.substr(comma + 1);
  }
  return sizes;
}

std::optional<Options> parse_make_files(std::span<const char* const> arguments) {
  Options options;
  options.mode = "make-files";
  std::string sizes = "4K,64K,1M,10M";
  std::uint64_t big = 256 << 20;
  options.make_files.count = 16;
  const std::vector<Option> table{
      common::text("--sizes", "LIST", sizes, "sizes of the files"),
      common::number("--count", "N", options.make_files.count, 1, 1'000'000, "files of each size"),
      common::bytes("--big", "BYTES", big, 0, 1ULL << 45, "one more, for random ranges; 0: none"),
  };
  std::vector<std::string> folders;
  const common::Program program{
      .name = "load make-files",
      .summary = "Writes files below DIR and prints their names: a list for --paths.",
      .others = "DIR"};
  if (!common::parse_options(arguments, program, table, &folders)) return std::nullopt;
  if (folders.size() != 1) wrong("make-files needs one folder: load make-files DIR");
  options.make_files.folder = folders.front();
  options.make_files.sizes = sizes_from(sizes);
  options.make_files.big = big;
  return options;
}

}  // namespace

std::optional<Options> parse(std::span<const char* const> arguments) {
  const std::string mode = arguments.empty() ? "" : arguments.front();
  if (mode == "--help" || mode == "-h") {
    std::fputs(usage, stdout);
    return std::nullopt;
  }
  if (mode == "make-files") return parse_make_files(arguments.subspan(1));
  if (mode != "file" && mode != "echo" && mode != "mixed" && mode != "churn") {
    wrong("the first word says what to do: file, echo, mixed, churn or make-files (load --help)");
  }
  Words words;
  const std::vector<Option> table = table_for(mode, words);
  const std::string name = "load " + mode;
  const common::Program program{
      .name = name.c_str(),
      .summary = "Every byte that comes back is verified; one that is wrong ends the run.",
      .epilogue = mode == "echo" ? "" : notes};
  if (!common::parse_options(arguments.subspan(1), program, table)) return std::nullopt;
  return from_words(mode, words);
}

std::uint64_t connections_of(const Options& options) {
  std::uint64_t sum = 0;
  for (const Traffic& traffic : options.traffic) sum += traffic.connections;
  return sum;
}

}  // namespace load

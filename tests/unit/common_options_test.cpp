// The command line of every server: what is understood, and what the one line says when it is not.

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "servers/common/options.hpp"

using common::Option;
using common::ServerOptions;
using common::StartError;

namespace {

enum class Io : std::uint8_t { read, fixed };

// A server with some options of its own.
struct Server {
  ServerOptions options{.port = 9000};
  bool direct = false;
  std::uint64_t buffer_bytes = 65536;
  Io io = Io::read;

  std::vector<Option> table() {
    std::vector<Option> table = common::server_options(options);
    table.push_back(common::root_option(options));
    table.push_back(common::unix_option(options));
    table.push_back(common::flag("--direct", direct, "read with O_DIRECT"));
    table.push_back(common::bytes("--buffer-size", "BYTES", buffer_bytes, 4096, 1 << 30, "of each buffer"));
    table.push_back(common::choice("--io", "read|fixed", io, "how files are read"));
    return table;
  }
};

constexpr common::Program program{.name = "m2_file_server", .summary = "Serves files."};

bool parse(Server& server, std::vector<const char*> arguments) {
  return common::parse_options(arguments, program, server.table());
}

// The sentence with which it is refused; the code must be 2.
std::string refusal(std::vector<const char*> arguments) {
  Server server;
  try {
    parse(server, std::move(arguments));
  } catch (const StartError& error) {
    CHECK(error.exit_code() == common::exit_usage);
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("each kind of option, with its value behind it or behind an equals sign; the last one wins") {
  Server server;
  CHECK(parse(server, {"--root", "/srv", "--port=0", "--bind", "::1", "--max-connections", "100", "--stats",
                       "5", "--direct", "--io", "fixed", "--buffer-size=64K", "--io=read", "--io", "fixed",
                       "--unix=/tmp/s"}));
  CHECK(server.options.root == "/srv");
  CHECK(server.options.port == 0);
  CHECK(server.options.bind == "::1");
  CHECK(server.options.max_connections == 100);
  CHECK(server.options.stats_seconds == 5);
  CHECK(server.options.unix_path == "/tmp/s");
  CHECK(server.direct);
  CHECK(server.io == Io::fixed);
  CHECK(server.buffer_bytes == 65536);
}

TEST_CASE("defaults stay where nothing is said") {
  Server server;
  CHECK(parse(server, {"--root", "."}));
  CHECK(server.options.port == 9000);
  CHECK(server.options.bind == "127.0.0.1");
  CHECK(!server.direct);
  CHECK(server.io == Io::read);
}

TEST_CASE("what is wrong is said in one line, with exit code 2") {
  CHECK(refusal({}) == "--root DIR is needed (--help)");
  CHECK(refusal({"--root"}) == "--root needs its value: DIR");
  CHECK(refusal({"--root", ""}) == "--root: DIR is empty");
  CHECK(refusal({"--root="}) == "--root: DIR is empty");
  CHECK(refusal({"--rot", "x"}) == "unknown option --rot (--help lists them)");
  CHECK(refusal({"-p", "80"}) == "unknown option -p (--help lists them)");
  CHECK(refusal({"x"}) == "'x' belongs to no option (--help lists them)");
  CHECK(refusal({"-"}) == "'-' belongs to no option (--help lists them)");
  CHECK(refusal({""}) == "'' belongs to no option (--help lists them)");
  CHECK(refusal({"--direct=yes"}) == "--direct takes no value");
  CHECK(refusal({"--io", "mmap"}) == "--io mmap: one of read|fixed is needed");
  CHECK(refusal({"--io="}) == "--io : one of read|fixed is needed");
  for (const char* const port :
       {"65536", "-1", "+1", "80x", " 80", "", "0x50", "1K", "99999999999999999999"}) {
    CHECK(refusal({"--port", port}) ==
          std::string("--port ") + port + ": a number from 0 to 65535 is needed");
  }
  CHECK(refusal({"--max-connections", "0"}) == "--max-connections 0: a number from 1 to 1000000 is needed");
}

TEST_CASE("sizes take K, M and G") {
  const auto size = [](const char* text) {
    Server server;
    return parse(server, {"--root", ".", "--buffer-size", text}) ? server.buffer_bytes : 0;
  };
  CHECK(size("5000") == 5000);
  CHECK(size("4K") == 4096);
  CHECK(size("1M") == 1 << 20);
  CHECK(size("1G") == 1 << 30);
  for (const char* const wrong :
       {"1T", "K", "1KK", "4k", "1K ", "2G", "1", "18014398509481985K", "99999999999G"}) {
    CHECK(refusal({"--root", ".", "--buffer-size", wrong}) ==
          std::string("--buffer-size ") + wrong +
              ": a number from 4096 to 1073741824 is needed (K, M and G are understood)");
  }
}

TEST_CASE("words that belong to no option are handed over where somebody wants them") {
  bool flag = false;
  const std::vector<Option> table = {common::flag("--quiet", flag, "facts only")};
  std::vector<std::string> words;
  const std::vector<const char*> arguments = {"copy", "--quiet", "a", "-"};
  CHECK(common::parse_options(arguments, program, table, &words));
  CHECK(words == std::vector<std::string>{"copy", "a", "-"});
  CHECK(flag);
}

TEST_CASE("the help shows every option with its default, and wins over what is missing") {
  Server server;
  server.options.port = 9001;
  const std::string help = common::help_text(program, server.table());
  const auto has = [&](std::string_view text) { return help.find(text) != help.npos; };
  CHECK(help.starts_with("usage: m2_file_server --root DIR [options]\nServes files.\n\n"));
  CHECK(has("\n  --port PORT               TCP port; 0 picks a free one (9001)\n"));
  CHECK(has("\n  --bind ADDRESS            IPv4 or IPv6 address to listen on (127.0.0.1)\n"));
  CHECK(has("\n  --root DIR                the folder whose files are served (needed)\n"));
  CHECK(has("\n  --direct                  read with O_DIRECT\n"));
  CHECK(has("\n  --io read|fixed           how files are read (read)\n"));
  CHECK(has("\n  --buffer-size BYTES       of each buffer (65536)\n"));
  CHECK(has("\n  --help                    this text\n"));
  server.io = Io::fixed;
  CHECK(common::help_text(program, server.table()).find("how files are read (fixed)") != help.npos);
  CHECK(!parse(server, {"--port", "1", "--help", "--nonsense"}));
}

// What the tests of the file servers share: every variant that must behave alike, a folder of files whose contents
// follow from their names, requests and answers.
//
//   FILE_SERVER_TEST("an empty file is an answer too", ALL_FILE_SERVERS) {
//     FileServer server(variant);
//     tests::Client client(server.where());
//     CHECK(serves(client, "made.0.0"));
//     server.check_clean_end(client);
//   }
//
// defines one test case for each variant, named after it: `an empty file is an answer too<m2 --io fixed>`. There is no
// second truth about what is right: what the io_uring server must do, its twins must do.

#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "bench/load/made_files.hpp"
#include "servers/common/file_content.hpp"
#include "tests/support/client.hpp"
#include "tests/support/server_process.hpp"
#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace file_server_test {

// ---- The variants --------------------------------------------------------------------------------------------

struct Variant {
  const char* program;
  const char* arguments;
  bool uses_io_uring;
  bool has_pool;  // --buffers and --open-files mean something
};

struct M2Read {
  static constexpr Variant variant{"m2_file_server", "--io read", true, true};
};
struct M2Fixed {
  static constexpr Variant variant{"m2_file_server", "--io fixed", true, true};
};
struct M2FixedDirectFiles {
  static constexpr Variant variant{"m2_file_server", "--io fixed --files direct", true, true};
};
/// Everything that it can, it sends without copying.
struct M4ZeroCopy {
  static constexpr Variant variant{"m4_zero_copy", "--zc-threshold 0", true, true};
};
struct EpollInline {
  static constexpr Variant variant{"epoll_file_server", "--io inline", false, true};
};
struct EpollPool {
  static constexpr Variant variant{"epoll_file_server", "--io pool --threads 4", false, true};
};
struct EpollSendfile {
  static constexpr Variant variant{"epoll_file_server", "--io sendfile", false, true};
};
struct Sync {
  static constexpr Variant variant{"sync_file_server", "", false, false};
};

/// For a test that runs all of them side by side, because it waits for something.
inline constexpr Variant all_variants[] = {
    M2Read::variant,      M2Fixed::variant,   M2FixedDirectFiles::variant, M4ZeroCopy::variant,
    EpollInline::variant, EpollPool::variant, EpollSendfile::variant,      Sync::variant};

// The same with O_DIRECT, for the tests in which it matters which bytes are read.
struct M2FixedODirect {
  static constexpr Variant variant{"m2_file_server", "--io fixed --direct", true, true};
};
struct M2ReadODirect {
  static constexpr Variant variant{"m2_file_server", "--io read --files direct --direct", true, true};
};
struct M4ReadODirect {
  static constexpr Variant variant{"m4_zero_copy", "--zc-threshold 0 --io read --files direct --direct", true,
                                   true};
};
struct EpollInlineODirect {
  static constexpr Variant variant{"epoll_file_server", "--io inline --direct", false, true};
};
struct EpollPoolODirect {
  static constexpr Variant variant{"epoll_file_server", "--io pool --threads 4 --direct", false, true};
};
struct SyncODirect {
  static constexpr Variant variant{"sync_file_server", "--direct", false, false};
};

}  // namespace file_server_test

TYPE_TO_STRING_AS("m2 --io read", file_server_test::M2Read);
TYPE_TO_STRING_AS("m2 --io fixed", file_server_test::M2Fixed);
TYPE_TO_STRING_AS("m2 --io fixed --files direct", file_server_test::M2FixedDirectFiles);
TYPE_TO_STRING_AS("m4", file_server_test::M4ZeroCopy);
TYPE_TO_STRING_AS("m4 --io read --files direct --direct", file_server_test::M4ReadODirect);
TYPE_TO_STRING_AS("epoll --io inline", file_server_test::EpollInline);
TYPE_TO_STRING_AS("epoll --io pool", file_server_test::EpollPool);
TYPE_TO_STRING_AS("epoll --io sendfile", file_server_test::EpollSendfile);
TYPE_TO_STRING_AS("sync", file_server_test::Sync);
TYPE_TO_STRING_AS("m2 --io fixed --direct", file_server_test::M2FixedODirect);
TYPE_TO_STRING_AS("m2 --io read --files direct --direct", file_server_test::M2ReadODirect);
TYPE_TO_STRING_AS("epoll --io inline --direct", file_server_test::EpollInlineODirect);
TYPE_TO_STRING_AS("epoll --io pool --direct", file_server_test::EpollPoolODirect);
TYPE_TO_STRING_AS("sync --direct", file_server_test::SyncODirect);

#define POOL_FILE_SERVERS                                                                       \
  file_server_test::M2Read, file_server_test::M2Fixed, file_server_test::M2FixedDirectFiles,    \
      file_server_test::M4ZeroCopy, file_server_test::EpollInline, file_server_test::EpollPool, \
      file_server_test::EpollSendfile
#define ALL_FILE_SERVERS POOL_FILE_SERVERS, file_server_test::Sync
#define O_DIRECT_FILE_SERVERS                                                                         \
  file_server_test::M2FixedODirect, file_server_test::M2ReadODirect, file_server_test::M4ReadODirect, \
      file_server_test::EpollInlineODirect, file_server_test::EpollPoolODirect,                       \
      file_server_test::SyncODirect
/// One of each kind, for what takes seconds by its nature.
#define THREE_FILE_SERVERS file_server_test::M2Fixed, file_server_test::EpollInline, file_server_test::Sync

#define FILE_SERVER_TEST(title, ...) \
  FILE_SERVER_TEST_AS(DOCTEST_ANONYMOUS(file_server_test_body_), title, __VA_ARGS__)
#define FILE_SERVER_TEST_AS(body, title, ...)                             \
  static void body(const file_server_test::Variant& variant);             \
  TEST_CASE_TEMPLATE(title, Server, __VA_ARGS__) {                        \
    if constexpr (Server::variant.uses_io_uring) SKIP_WITHOUT_IO_URING(); \
    body(Server::variant);                                                \
  }                                                                       \
  static void body([[maybe_unused]] const file_server_test::Variant& variant)

namespace file_server_test {

inline std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// How many lines of `text` contain `part`.
inline std::size_t lines_with(const std::string& text, std::string_view part) {
  std::istringstream stream(text);
  std::size_t count = 0;
  for (std::string line; std::getline(stream, line);) count += contains(line, part) ? 1U : 0U;
  return count;
}

// ---- Files ---------------------------------------------------------------------------------------------------

inline constexpr std::uint64_t sizes[] = {0,    1,     255,   256,   4095,          4096,
                                          4097, 65535, 65536, 65537, (1 << 20) + 3, 10 << 20};

/// The name of the file of this size: "made.64K.0".
inline std::string file_of(std::uint64_t size) { return load::made_name(size, 0); }

/// What stands in the file of this name at `offset`.
inline std::string content(std::string_view name, std::uint64_t offset, std::size_t length) {
  std::string bytes(length, '\0');
  common::fill_content(std::as_writable_bytes(std::span(bytes)),
                       common::content_seed(load::last_component(name)), offset);
  return bytes;
}
inline std::string content(std::string_view name) { return content(name, 0, load::made_size(name).value()); }

/// Compares without printing megabytes.
inline bool is_content(std::string_view bytes, std::string_view name, std::uint64_t offset = 0) {
  return common::verify_content(std::as_bytes(std::span(bytes)),
                                common::content_seed(load::last_component(name)), offset) == bytes.size();
}

/// A folder that a server may serve: others can read it, whoever runs the test.
class ServedFolder : public tests::TemporaryFolder {
 public:
  ServedFolder() { std::filesystem::permissions(path(), std::filesystem::perms{0755}); }

  std::string root() const { return path().string(); }
  std::string file(const std::string& name) const { return (path() / name).string(); }
  void make(std::uint64_t size) const { write(file_of(size), content(file_of(size))); }
};

/// One folder for all tests that change nothing in it: a file of each of `sizes`, and their names in `list`,
/// 10 MiB once and the others often.
inline const ServedFolder& made_files() {
  static const ServedFolder folder;
  static const bool made = [] {
    std::string list;
    for (const std::uint64_t size : sizes) {
      folder.make(size);
      if (size < (10 << 20)) list += file_of(size) + "\n";
    }
    folder.write("list", list + list + file_of(10 << 20) + "\n" + list);
    return true;
  }();
  static_cast<void>(made);
  return folder;
}

// ---- Servers -------------------------------------------------------------------------------------------------

inline std::string program_of(const Variant& variant) { return std::string(BUILD_DIR "/") + variant.program; }

inline std::vector<std::string> arguments_of(const Variant& variant, const std::string& root,
                                             const std::string& more) {
  std::vector<std::string> arguments = words_of(variant.arguments);
  for (const std::string& word : words_of(more)) arguments.push_back(word);
  arguments.push_back("--root");
  arguments.push_back(root);
  return arguments;
}

/// A server of a variant, with `more` arguments.
class FileServer : public tests::ServerProcess {
 public:
  explicit FileServer(const Variant& variant, const std::string& more = "",
                      const std::string& root = made_files().root(), const tests::Rights& rights = {})
      : ServerProcess(program_of(variant), arguments_of(variant, root, more), rights) {}

  /// The clients leave, then SIGTERM, unless it has ended already: exit code 0, nothing leaked, the last line as it
  /// must be. (A client that stays is no error. But a server may wait for it, as long as a lingering close may last.)
  template <class... Clients>
  tests::Ended check_clean_end(Clients&... clients) {
    (clients.close(), ...);
    tests::Ended ended = stop();
    CAPTURE(ended.errors);
    CAPTURE(ended.last_line);
    CHECK(ended.status == 0);
    CHECK(ended.has_counters);
    CHECK(ended.counters.leaks == 0);
    return ended;
  }
};

// ---- Answers -------------------------------------------------------------------------------------------------

struct Answer {
  int code = 0;  // 0: there was none
  std::string head{};
  std::string body{};
};

/// The next answer in the line form.
inline Answer line_answer(tests::Client& client) {
  Answer answer;
  answer.head = client.receive_line();
  unsigned long long length = 0;
  if (std::sscanf(answer.head.c_str(), "OK %llu\n", &length) == 1) {
    answer.code = 200;
    answer.body = client.receive_exactly(length);
  } else if (std::sscanf(answer.head.c_str(), "ERR %d ", &answer.code) != 1) {
    answer.code = 0;
  }
  return answer;
}

/// The value of a header, or "".
inline std::string header_of(const Answer& answer, const std::string& name) {
  const std::size_t at = answer.head.find("\r\n" + name + ": ");
  if (at == std::string::npos) return "";
  const std::size_t start = at + name.size() + 4;
  return answer.head.substr(start, answer.head.find("\r\n", start) - start);
}

/// The next answer in the HTTP form; HEAD is answered without the body that Content-Length announces.
inline Answer http_answer(tests::Client& client, bool to_head = false) {
  Answer answer;
  for (std::string line; line != "\r\n"; answer.head += line) {
    line = client.receive_line();
    if (!line.ends_with("\r\n")) return answer;
  }
  if (std::sscanf(answer.head.c_str(), "HTTP/1.1 %d ", &answer.code) != 1) return answer;
  if (!to_head) answer.body = client.receive_exactly(std::stoull("0" + header_of(answer, "Content-Length")));
  return answer;
}

/// One exchange each.
inline Answer ask(tests::Client& client, const std::string& line) {
  client.send_all(line + "\n");
  return line_answer(client);
}
inline Answer ask_http(tests::Client& client, const std::string& path, const std::string& headers = "") {
  client.send_all("GET /" + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n");
  return http_answer(client);
}

/// The whole file of this name came, on a connection that stays.
inline bool serves(tests::Client& client, const std::string& name) {
  const Answer answer = ask(client, "GET " + name);
  return answer.code == 200 && answer.body.size() == load::made_size(name) && is_content(answer.body, name);
}

/// The receive buffer of a client that reads slowly: with it, a server soon has megabytes that it cannot send. Not
/// smaller than a segment on loopback (64 KiB), or the kernel's way of avoiding silly windows makes every read wait.
inline constexpr int small_window = 64 << 10;

/// A new client is served: the server lives.
inline bool serves(const tests::ServerProcess& server) {
  tests::Client client(server.where());
  return serves(client, file_of(4097));
}

/// The connection is one that was accepted and is served, without any file.
inline bool echoes(tests::Client& client) {
  client.send_all("ECHO 5\nhello");
  return line_answer(client).body == "hello";
}

}  // namespace file_server_test

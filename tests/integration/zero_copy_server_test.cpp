// What m4_zero_copy does beyond the file servers' common suite (file_server_*_test.cpp, where it is a variant): when it
// sends without copying, what it says about it, and what it does where it may not.

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/integration/file_server_support.hpp"

namespace {

using namespace file_server_test;

constexpr Variant variant = M4ZeroCopy::variant;
constexpr Variant with_default_threshold{"m4_zero_copy", "", true, true};

}  // namespace

TEST_CASE(
    "m4_zero_copy: on loopback the kernel copies all the same, says so of every send, and the last line "
    "counts it") {
  SKIP_WITHOUT_IO_URING();
  FileServer server(variant);
  tests::Client client(server.where());
  for (const std::uint64_t size : sizes) CHECK(serves(client, file_of(size)));
  const tests::Ended ended = server.check_clean_end(client);
  CHECK(ended.counters.zc_sends > 10);
  CHECK(ended.counters.zc_copied == ended.counters.zc_sends);
  CHECK(ended.counters.zc_refused == 0);
  CHECK(lines_with(ended.errors, "zero copy: ") == 1);
  CHECK(lines_with(ended.errors, std::to_string(ended.counters.zc_sends) + " sends") == 1);
}

TEST_CASE("m4_zero_copy: sends below --zc-threshold copy, the others do not") {
  SKIP_WITHOUT_IO_URING();
  FileServer server(with_default_threshold, "--zc-threshold 60K");
  tests::Client client(server.where());
  CHECK(serves(client, file_of(4096)));
  CHECK(serves(client, file_of(65536)));
  CHECK(server.check_clean_end(client).counters.zc_sends == 1);

  FileServer by_default(with_default_threshold);
  CHECK(serves(by_default));
  tests::Client other(by_default.where());
  CHECK(serves(other, file_of(255)));
  CHECK(serves(other, file_of(65536)));
  CHECK(by_default.check_clean_end(other).counters.zc_sends == 1);
}

TEST_CASE(
    "m4_zero_copy: on a Unix-domain socket it is refused once, announced, and everything is served by plain "
    "SEND") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  FileServer server(variant, "--unix " + (folder.path() / "socket").string());
  tests::Client client(server.where());
  for (const std::uint64_t size : sizes) CHECK(serves(client, file_of(size)));
  const tests::Ended ended = server.check_clean_end(client);
  CHECK(ended.counters.zc_refused == 1);
  CHECK(ended.counters.zc_sends == 0);
  CHECK(lines_with(ended.errors, "EOPNOTSUPP") == 1);
}

TEST_CASE(
    "m4_zero_copy: memory that may not be locked is sent by plain SEND, piece by piece, and nothing is "
    "lost") {
  SKIP_WITHOUT_IO_URING();
  // Enough for the ring, which counts as well, and not for 64 KiB more. It counts by user, and the rings of programs that
  // have just ended still do for some milliseconds.
  constexpr ::rlim_t ring_only = 240 << 10;
  std::optional<FileServer> running;
  const auto starts = [&] {
    try {
      running.emplace(variant, "", made_files().root(),
                      tests::Rights{.locked_memory = ring_only, .nobody = true});
    } catch (const std::runtime_error& error) {
      if (!contains(error.what(), "cannot create a ring")) throw;
    }
    return running.has_value();
  };
  REQUIRE(tests::eventually(starts));
  FileServer& server = *running;
  CHECK(contains(server.errors(), "the buffers are not registered"));
  tests::Client client(server.where());
  for (const std::uint64_t size : sizes) CHECK(serves(client, file_of(size)));
  const tests::Ended ended = server.check_clean_end(client);
  CHECK(ended.counters.zc_refused > 1);            // each is tried: the memory may be there the next time
  CHECK(lines_with(ended.errors, "ENOMEM") == 2);  // the registration, and the first of those sends
  CHECK(contains(ended.errors, "ulimit -l"));
}

TEST_CASE(
    "m4_zero_copy: readers that do not read hold half of the buffers at most, vanish, and all come back") {
  SKIP_WITHOUT_IO_URING();
  constexpr std::uint64_t large = sizes[std::size(sizes) - 1];
  FileServer server(variant, "--buffers 8");
  std::vector<tests::Client> stalled;
  for (int i = 0; i < 24; ++i) {
    stalled.emplace_back(server.where(), small_window);
    stalled.back().send_all("GET " + file_of(large) + "\n");
    CHECK(stalled.back().has_something());
  }
  tests::Client victim(server.where());
  for (int i = 0; i < 20; ++i) REQUIRE(serves(victim, file_of(65536)));
  // Half of them reset; the others stay until the server's patience ends, and are reset by it.
  for (std::size_t i = 0; i < stalled.size(); i += 2) stalled[i].reset();
  REQUIRE(serves(victim, file_of(large)));
  victim.close();
  const tests::Ended ended = server.stop();
  CHECK(ended.status == 0);
  CHECK(ended.counters.leaks == 0);
  CHECK(ended.counters.zc_copied <= ended.counters.zc_sends);
  CHECK(
      !contains(ended.errors, "still held"));  // who is reset acknowledges nothing, and needs nothing either
}

TEST_CASE("m4_zero_copy: without --root there is nothing to serve, and with a drill nothing is needed") {
  CHECK(tests::shell(BUILD_DIR "/m4_zero_copy").status == 2);
  CHECK(contains(tests::shell(BUILD_DIR "/m4_zero_copy 2>&1").output, "--root DIR is needed"));
  CHECK(tests::shell(BUILD_DIR "/m4_zero_copy --drill nothing").status == 2);
}

// The drills of servers/m4_zero_copy/drill.hpp, as m4_zero_copy --drill runs them.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>

#include "servers/m4_zero_copy/drill.hpp"
#include "tests/support/skip.hpp"

namespace {

using namespace m4_zero_copy;

struct Said {
  int status = -1;
  std::string text{};

  bool has(const std::string& part) const { return text.find(part) != std::string::npos; }
};

/// What `drill` returns, and what it writes to stdout meanwhile.
Said listen_to(const std::function<int()>& drill) {
  const uring::FileDescriptor heard(::memfd_create("stdout", MFD_CLOEXEC));
  std::fflush(stdout);
  const uring::FileDescriptor kept(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  ::dup2(heard.get(), STDOUT_FILENO);
  Said said;
  std::string failure;
  try {
    said.status = drill();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  std::fflush(stdout);
  ::dup2(kept.get(), STDOUT_FILENO);
  said.text.resize(65536);
  const ::ssize_t size = ::pread(heard.get(), said.text.data(), said.text.size(), 0);
  said.text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  said.text += failure;
  return said;
}

bool has_zero_copy() { return uring::probe_capabilities().has_opcode(IORING_OP_SEND_ZC); }

TEST_CASE(
    "the drill early-reuse: the peer receives what a SEND_ZC's buffer held later, and a SEND's as it was") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_zero_copy(), "SEND_ZC needs Linux 6.0");
  const Said said = listen_to(drill_early_reuse);
  INFO(said.text);
  CHECK(said.status == 0);
  CHECK(said.has("received       4096 bytes, of which 4096 are 'Z': as expected"));
  CHECK(said.has("received       4096 bytes, of which 0 are 'Z': as expected"));
  CHECK(said.has("notification   after the peer has received it: NOTIF: as expected"));
  CHECK_FALSE(said.has("NOT as expected"));
}

TEST_CASE(
    "the drill notifications: every end of a SEND_ZC keeps the rule that F_MORE promises a notification") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_zero_copy(), "SEND_ZC needs Linux 6.0");
  const Said said = listen_to(drill_notifications);
  INFO(said.text);
  CHECK(said.status == 0);
  for (const char* const line :
       {"success        5 F_MORE, then NOTIF", "own token      ", "no descriptor  -EBADF",
        "after shutdown -EPIPE", "Unix socket    -EOPNOTSUPP", "link cancelled -ECANCELED",
        "peer reads     NOTIF: as expected", "peer resets    NOTIF: as expected"}) {
    CAPTURE(line);
    CHECK(said.has(line));
  }
  CHECK_FALSE(said.has("NOT as expected"));
}

TEST_CASE(
    "a drill that sees something else says so and fails, but not where a kernel stays within the rule") {
  SKIP_WITHOUT_IO_URING();
  const Seen more{.came = true, .res = -EBADF, .flags = IORING_CQE_F_MORE};
  const Seen alone{.came = true, .res = -EBADF};
  const Seen notified{.came = true, .flags = IORING_CQE_F_NOTIF};
  const auto judge = [](const Ends& ends) {
    return listen_to([&] {
      Trial trial;
      check_failure(trial, "no descriptor", ends, EBADF);
      return trial.status();
    });
  };
  CHECK(judge({more, notified}).status == 0);
  CHECK(judge({alone, notified}).status == 0);
  const Said one = judge({alone, {}});  // Linux 6.0
  CHECK(one.status == 0);
  CHECK(one.has("one CQE: this kernel notifies of no failure"));
  const Said broken = judge({more, {}});
  CHECK(broken.status == 1);
  CHECK(broken.has("-EBADF F_MORE, then nothing: NOT as expected"));
  CHECK(judge({{}, {}}).status == 1);
  CHECK(judge({Seen{.came = true, .res = 1}, {}}).status == 1);
}

}  // namespace

// The count at the end of `make test` can be believed: skipped is not passed, and whatever cannot be counted (a crash,
// a hang, a leak found at exit, a suite without tests) counts as a failure.

#include <doctest/doctest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

const std::string example = BUILD_DIR "/example_suite";

std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of('\n');
  const std::size_t start = text.find_last_of('\n', end);
  return text.substr(start + 1, end - start);
}

// Runs the runner over shell scripts that play the suites.
struct Runner {
  tests::TemporaryFolder folder;
  std::string suites;

  Runner& with(const std::string& name, const std::string& script) {
    folder.write(name, "#!/bin/bash\n" + script + "\n");
    const std::filesystem::path path = folder.path() / name;
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    suites += " " + path.string();
    return *this;
  }

  [[nodiscard]] tests::ShellResult run(const std::string& environment = "") const {
    return tests::shell("SUITE_LOGS=" + folder.path().string() + "/logs " + environment +
                        " " SOURCE_DIR "/tests/support/run_suites.sh" + suites);
  }
};

void expect(const tests::ShellResult& result, const std::string& closing_line, bool success) {
  CAPTURE(result.output);
  CHECK(last_line(result.output) == closing_line);
  CHECK((result.status == 0) == success);
}

// Refuses io_uring_setup(2) with EPERM for this process and its children, as the seccomp filter of a container does.
bool refuse_io_uring() {
  std::array<sock_filter, 4> program{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog filter{.len = program.size(), .filter = program.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// Like tests::shell, in a child to which io_uring is refused; status 77 means that seccomp itself was.
tests::ShellResult shell_without_io_uring(const std::string& command) {
  const tests::TemporaryFolder folder;
  const std::string log = folder.path() / "log";
  const std::string redirected = "exec >" + log + " 2>&1; " + command;
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (!refuse_io_uring()) _exit(77);
    execl("/bin/sh", "sh", "-c", redirected.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), tests::shell("cat " + log + " 2>/dev/null").output};
}

}  // namespace

TEST_CASE("a test case that skipped is neither passed nor failed, and counts once") {
  const tests::ShellResult result = tests::shell(example + " '--test-case-exclude=needs io_uring,a fact*'");
  expect(result, "suite: 1 passed, 2 failed, 4 skipped", false);
  CHECK(result.output.find("skipped: skips: arithmetic is as usual (") != std::string::npos);
  CHECK(result.output.find("\nfailed: fails (") != std::string::npos);
}

TEST_CASE("what a filter leaves out is not counted") {
  expect(tests::shell(example + " --test-case=passes,fails"), "suite: 1 passed, 1 failed, 1 skipped", false);
}

TEST_CASE(
    "a fact that differs has passed; one that is none has failed, but on a kernel that nobody knew it has "
    "changed") {
  const tests::TemporaryFolder folder;
  const std::string results = folder.path() / "results";
  const std::string facts = "TEST_RESULTS=" + results + " " + example + " '--test-case=a fact*'";
  expect(tests::shell(facts), "suite: 2 passed, 1 failed, 1 skipped", false);
  CHECK(tests::shell("cat " + results).output ==
        "holds\ta fact that holds\t\n"
        "differs\ta fact that differs\tit is the other way round\n"
        "failed\ta fact that is none\t\n");

  const std::string newer = "TEST_NEWEST_KNOWN_KERNEL=5.0 " + facts;
  const tests::ShellResult changed = tests::shell(newer);
  expect(changed, "suite: 2 passed, 0 failed, 2 skipped", true);
  CHECK(changed.output.find("\nchanged: a fact that is none\n") != std::string::npos);
  // A test that states no fact fails there as anywhere.
  expect(tests::shell("TEST_NEWEST_KNOWN_KERNEL=5.0 " + example + " --test-case=fails"),
         "suite: 0 passed, 1 failed, 1 skipped", false);
}

TEST_CASE("a test binary that dies prints no count, and its runner says in which test") {
  const tests::ShellResult result = tests::shell(example + " --no-skip --test-case=dies*");
  CHECK(result.status == 128 + SIGABRT);
  CHECK(result.output.find("suite:") == std::string::npos);

  Runner runner;
  runner.with("dies", "exec " + example + " --no-skip --test-case=passes,dies*");
  const tests::ShellResult counted = runner.run();
  expect(counted, "0 passed, 1 failed, 0 skipped", false);
  CHECK(counted.output.find("killed by signal 6, in test: dies, with --no-skip\n") != std::string::npos);
}

TEST_CASE("where io_uring is refused its tests skip, unless REQUIRE_IO_URING says that they must not") {
  const std::string suite = example + " '--test-case=needs io_uring'";
  const tests::ShellResult skipping = shell_without_io_uring("REQUIRE_IO_URING= " + suite);
  SKIP_UNLESS(skipping.status != 77, "seccomp filters are refused here");
  expect(skipping, "suite: 0 passed, 0 failed, 2 skipped", true);
  CHECK(skipping.output.find("refused here: Operation not permitted") != std::string::npos);

  expect(shell_without_io_uring("REQUIRE_IO_URING=1 " + suite), "suite: 0 passed, 1 failed, 1 skipped",
         false);
}

TEST_CASE("the closing line adds up all suites") {
  Runner runner;
  runner.with("one", "echo 'suite: 3 passed, 0 failed, 1 skipped'");
  runner.with("two", "echo chatter; echo 'suite: 40 passed, 0 failed, 2 skipped'");
  expect(runner.run(), "43 passed, 0 failed, 3 skipped", true);
  runner.with("three",
              "echo 'failed: a title (x.cpp:1)'; echo 'suite: 5 passed, 1 failed, 0 skipped'; exit 1");
  const tests::ShellResult result = runner.run();
  expect(result, "48 passed, 1 failed, 3 skipped", false);
  CHECK(result.output.find("\n    failed: a title (x.cpp:1)\n") != std::string::npos);
}

TEST_CASE("what cannot be counted is a failure") {
  Runner runner;
  runner.with("good", "echo 'suite: 3 passed, 0 failed, 0 skipped'");
  std::string environment;
  SUBCASE("a suite without a summary") { runner.with("bad", "echo hello"); }
  SUBCASE("a suite that dies") { runner.with("bad", "kill -SEGV $$"); }
  SUBCASE("a suite that does not exist") { runner.suites += " /nonexistent/suite"; }
  SUBCASE("a suite that ran no test") { runner.with("bad", "echo 'suite: 0 passed, 0 failed, 0 skipped'"); }
  SUBCASE("a suite that hangs") {
    runner.with("bad", "sleep 1000");
    environment = "SUITE_SECONDS=1";
  }
  const tests::ShellResult result = runner.run(environment);
  expect(result, "3 passed, 1 failed, 0 skipped", false);
}

TEST_CASE("a leak that is reported at exit, after the summary, is a failure") {
  Runner runner;
  runner.with("leaks", "echo 'suite: 3 passed, 0 failed, 0 skipped'; exit 23");
  expect(runner.run(), "3 passed, 1 failed, 0 skipped", false);
}

TEST_CASE("no tests, or none but skipped ones, are no success") {
  Runner runner;
  expect(runner.run(), "0 passed, 0 failed, 0 skipped", false);
  runner.with("skips", "echo 'suite: 0 passed, 0 failed, 5 skipped'");
  expect(runner.run(), "0 passed, 0 failed, 5 skipped", false);
}

TEST_CASE("a child that a suite leaves behind does not hold the runner up") {
  Runner runner;
  runner.with("leaves", "sleep 5 & echo 'suite: 1 passed, 0 failed, 0 skipped'");
  expect(runner.run(), "1 passed, 0 failed, 0 skipped", true);
}

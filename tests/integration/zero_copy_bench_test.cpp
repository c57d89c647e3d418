// build/bench_zero_copy, as `make bench-zero-copy` runs it, but short: no number is looked at, only what must
// hold on every machine.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

const std::string program = BUILD_DIR "/../bench_zero_copy --quick";

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// How often `part` is there.
std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// The part of the output that begins with that table's title.
std::string table(const std::string& output, const std::string& title) {
  const std::size_t begin = output.find("==== " + title);
  if (begin == std::string::npos) return "";
  return output.substr(begin, output.find("\n====", begin + 1) - begin);
}

/// Makes unshare(2) fail with EPERM in this process and those it becomes, as the seccomp profiles of
/// container engines do.
bool forbid_unshare() {
  std::array program_of_filter{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_unshare, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = program_of_filter.size(), .filter = program_of_filter.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/// A shell command as this user (where we are root), and, if `forbid`, without unshare. Each test has a user of its
/// own: locked memory is counted for each, and a ring's is given back some time after the program has ended.
tests::ShellResult shell_without_rights(const std::string& command, ::uid_t user, bool forbid) {
  const tests::TemporaryFolder folder;
  const std::string output = folder.path() / "output";
  const int file = ::open(output.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(file >= 0);
  const ::pid_t child = ::fork();
  if (child == 0) {
    ::dup2(file, STDOUT_FILENO);
    ::dup2(file, STDERR_FILENO);
    if (::geteuid() == 0 && (::setgid(user) != 0 || ::setuid(user) != 0)) ::_exit(126);
    if (forbid && !forbid_unshare()) ::_exit(126);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(file);
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  std::stringstream text;
  text << std::ifstream(output).rdbuf();
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text.str()};
}

TEST_CASE(
    "bench_zero_copy: datagrams into its own device are not copied, each is one packet; loopback copies") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  const std::string json = folder.path() / "results.json";
  const tests::ShellResult result = tests::shell(program + " --json " + json);
  INFO(result.output);
  REQUIRE(result.status == 0);
  const std::string loopback = table(result.output, "TCP on loopback");
  CHECK(count(loopback, " 0 %") >= 4);  // four sizes; registering may be refused
  CHECK(count(loopback, "100 %") == 0);
  CHECK(contains(loopback, "crossover  SEND_ZC            none"));
  SKIP_UNLESS(!contains(result.output, "no device to send to"), "a network of its own was refused");
  for (const char* const title :
       {"UDP, into a device that drops it, hot", "UDP, into a device that drops it, cold"}) {
    const std::string rows = table(result.output, title);
    CHECK(contains(rows, "60 KiB"));
    CHECK(count(rows, "100 %") >= 9);  // not copied; registering may be refused
    CHECK(count(rows, " 0 %") == 0);
  }
  CHECK(contains(result.output, "the device was given"));

  SKIP_UNLESS(tests::shell("command -v python3").status == 0, "python3 is not installed");
  const tests::ShellResult read = tests::shell(
      "python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print([t[\"table\"] for t in "
      "d[\"tables\"]], "
      "len(d[\"tables\"][0][\"rows\"]), d[\"device_dropped\"] >= d[\"datagrams\"] > 0)' " +
      json);
  CHECK(read.output == "['udp-hot', 'udp-cold', 'tcp-loopback'] 9 True\n");
}

TEST_CASE(
    "bench_zero_copy where no namespace may be made: says which step failed, and measures loopback instead") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult result = shell_without_rights(program, 65533, true);
  INFO(result.output);
  REQUIRE(result.status == 0);
  CHECK(contains(result.output,
                 "no device to send to: unshare(CLONE_NEWNET): Operation not permitted (EPERM); "
                 "unshare(CLONE_NEWUSER | CLONE_NEWNET): Operation not permitted (EPERM)"));
  const std::string rows = table(result.output, "UDP, loopback, nobody reads, hot");
  CHECK(count(rows, " 0 %") >= 9);
  CHECK(count(rows, "100 %") == 0);
  CHECK_FALSE(contains(result.output, "the device was given"));
}

TEST_CASE("bench_zero_copy without rights: a user namespace gives it the device, or it says why not") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult result = shell_without_rights(program, 65532, false);
  INFO(result.output);
  REQUIRE(result.status == 0);
  CHECK(contains(result.output, "no device to send to") != contains(result.output, "the device was given"));
}

// Some sends of a batch are refused then, and the others are packets all the same.
TEST_CASE("bench_zero_copy with little memory to lock: says what was refused, and counts what was sent") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult result = shell_without_rights("ulimit -l 1024; " + program, 65531, false);
  INFO(result.output);
  REQUIRE(result.status == 0);
  CHECK(contains(result.output, "SEND_ZC             refused: Cannot allocate memory (ENOMEM)"));
}

TEST_CASE("bench_zero_copy: a word that it does not know is a usage error") {
  CHECK(tests::shell(program + " --fast").status == 2);
  CHECK(tests::shell(program + " --json").status == 2);
}

}  // namespace

// build/uring_probe as a reader runs it.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

const std::string program = std::string(BUILD_DIR) + "/uring_probe";

/// uring_probe where a container's filter forbids rings, and nothing else: its exit code, and all that it says.
tests::ShellResult without_rings() {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::array<sock_filter, 4> code{sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
                                    sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, __NR_io_uring_setup},
                                    sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
                                    sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    sock_fprog filter{static_cast<unsigned short>(code.size()), code.data()};
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0) {
      ::execl(program.c_str(), program.c_str(), nullptr);
    }
    ::_exit(125);
  }
  ::close(ends[1]);
  tests::ShellResult result{};
  std::array<char, 4096> chunk{};
  for (ssize_t bytes = 0; (bytes = ::read(ends[0], chunk.data(), chunk.size())) > 0;) {
    result.output.append(chunk.data(), static_cast<std::size_t>(bytes));
  }
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

TEST_CASE(
    "uring_probe prints a table that says for each thing since when, whether it is here, and what happens "
    "without") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult result = tests::shell(program);
  CHECK(result.status == 0);
  CHECK(result.output.find("WITHOUT IT") != std::string::npos);
  CHECK(result.output.find("no SQ array") != std::string::npos);
  CHECK(result.output.find("multishot recv") != std::string::npos);
  CHECK(result.output.find("IORING_SETUP_SQ_REWIND: ") != std::string::npos);
}

TEST_CASE("uring_probe --json is JSON, and agrees with the table's kernel") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("command -v python3").status == 0, "python3 is not installed");
  const tests::ShellResult result =
      tests::shell(program +
                   " --json | python3 -c 'import json,sys; d=json.load(sys.stdin); "
                   "print(d[\"opcodes\"][\"IORING_OP_NOP\"], "
                   "d[\"features\"][\"IORING_FEAT_EXT_ARG\"], len(d[\"setup_flags\"]))'");
  CHECK(result.status == 0);
  CHECK(result.output == "True True 21\n");
}

TEST_CASE("uring_probe tells what the kernel knows from what one may use") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult result = without_rings();
  CHECK(result.status == 3);
  CHECK(result.output.find("(EPERM)") != std::string::npos);
  CHECK(result.output.find("seccomp") != std::string::npos);
  SKIP_UNLESS(result.output.find("says of itself") != std::string::npos,
              "IORING_REGISTER_QUERY needs Linux 6.18");
  CHECK(result.output.find("barred") != std::string::npos);
}

TEST_CASE("uring_probe refuses what it does not know with exit code 2") {
  CHECK(tests::shell(program + " --frobnicate").status == 2);
  CHECK(tests::shell(program + " --json --json").status == 2);
  CHECK(tests::shell(program + " --help").status == 0);
}

}  // namespace

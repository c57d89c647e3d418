// "Why can't I create a ring here?": each cause is told apart from the others, in two lines that say what to
// do.
//
// The second half makes the kernel refuse in earnest. That is done to a child process, which writes what it
// was told into a pipe: filters, limits and identities cannot be taken back.

#include "uring/errors.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <set>
#include <string>

#include "tests/support/skip.hpp"
#include "uring/ring.hpp"

namespace {

using uring::HostFacts;

constexpr HostFacts nothing_special{
    .io_uring_disabled = 0, .seccomp_mode = 0, .memlock_bytes = -1, .descriptor_limit = 1024};

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

}  // namespace

TEST_CASE("the causes of EPERM are told apart, the sysctl first") {
  HostFacts host = nothing_special;
  host.io_uring_disabled = 2;
  host.seccomp_mode = 2;
  for (const int error : {EPERM, EACCES}) {
    host.io_uring_disabled = 2;
    CHECK(mentions(uring::explain_setup(error, host), "kernel.io_uring_disabled is 2"));
    CHECK(mentions(uring::explain_setup(error, host), "sysctl kernel.io_uring_disabled=0"));
    host.io_uring_disabled = 1;
    CHECK(mentions(uring::explain_setup(error, host), "kernel.io_uring_disabled is 1"));
    CHECK(mentions(uring::explain_setup(error, host), "kernel.io_uring_group"));
    host.io_uring_disabled = 0;
    CHECK(mentions(uring::explain_setup(error, host), "seccomp filter"));
    CHECK(
        mentions(uring::explain_setup(error, host), "io_uring_setup, io_uring_enter and io_uring_register"));
    host.io_uring_disabled = -1;  // a kernel without the sysctl
    CHECK(mentions(uring::explain_setup(error, host), "seccomp filter"));
    CHECK(mentions(uring::explain_setup(error, nothing_special), "security module"));
    CHECK(mentions(uring::explain_setup(error, HostFacts{}), "security module"));
  }
}

TEST_CASE("the causes of ENOMEM are told apart by the limit that is in force") {
  HostFacts host = nothing_special;
  CHECK_FALSE(mentions(uring::explain_setup(ENOMEM, host), "RLIMIT_MEMLOCK"));
  host.memlock_bytes = 65536;
  CHECK(mentions(uring::explain_setup(ENOMEM, host), "RLIMIT_MEMLOCK (ulimit -l), here 64 KiB"));
  host.memlock_bytes = 0;
  CHECK(mentions(uring::explain_setup(ENOMEM, host), "here 0 KiB"));
}

TEST_CASE("each errno of setup has a sentence of its own, and it fits on one line") {
  std::set<std::string> sentences;
  for (const int error : {ENOSYS, EPERM, ENOMEM, EMFILE, ENFILE, EINVAL, EFAULT, ERANGE}) {
    const std::string sentence = uring::explain_setup(error, nothing_special);
    CHECK(sentences.insert(sentence).second);
    CHECK(sentence.find('\n') == std::string::npos);
    CHECK(sentence.find("  ") == std::string::npos);
    CHECK(sentence.size() > 20);
  }
  CHECK(mentions(uring::explain_setup(ENOSYS, nothing_special), "no io_uring"));
  CHECK(mentions(uring::explain_setup(EMFILE, nothing_special), "1024"));
  CHECK(mentions(uring::explain_setup(ENFILE, nothing_special), "fs.file-max"));
  CHECK(mentions(uring::explain_setup(EINVAL, nothing_special), "5.11"));
}

TEST_CASE("each documented errno of enter and of register has a sentence of its own") {
  std::map<std::string, int> of_enter;
  for (const int error : {EAGAIN, EBADF, EBADFD, EBADR, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, ENXIO,
                          EOPNOTSUPP, EOWNERDEAD, ETIME, ERANGE}) {
    CHECK(++of_enter[uring::explain_enter(error)] == 1);
  }
  CHECK(mentions(uring::explain_enter(ERANGE), "not an error"));
  CHECK(mentions(uring::explain_enter(EEXIST), "SINGLE_ISSUER"));
  CHECK(mentions(uring::explain_enter(EBADFD), "enable()"));
  std::map<std::string, int> of_register;
  for (const int error :
       {EACCES, EBADF, EBADFD, EBUSY, EEXIST, EFAULT, EINVAL, EMFILE, ENOMEM, ENXIO, EOPNOTSUPP, ERANGE}) {
    CHECK(++of_register[uring::explain_register(error)] == 1);
  }
  CHECK(mentions(uring::explain_register(ENOMEM), "RLIMIT_MEMLOCK"));
  CHECK(mentions(uring::explain_register(EACCES), "BPF filter"));
}

TEST_CASE("an errno is said by its text and its name; a number without a name, as a number") {
  CHECK(uring::errno_name(EPERM) == "EPERM");
  CHECK(uring::errno_name(ETIME) == "ETIME");
  CHECK(uring::errno_name(12345) == "errno 12345");
  CHECK(uring::errno_text(EPERM) == "Operation not permitted (EPERM)");
}

TEST_CASE("a setup error is two lines and carries the true errno") {
  const uring::SetupError error(EPERM, "create a ring", "Ask somebody.");
  CHECK(std::string(error.what()) ==
        "cannot create a ring: Operation not permitted (EPERM)\n  Ask somebody.");
  CHECK(error.code() == std::error_code(EPERM, std::system_category()));
  CHECK(error.code() == std::errc::operation_not_permitted);
}

TEST_CASE("facts about this host are what /proc and the limits say") {
  const HostFacts host = uring::gather_host_facts();
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  if (limit.rlim_cur != RLIM_INFINITY)
    CHECK(host.descriptor_limit == static_cast<std::int64_t>(limit.rlim_cur));
  CHECK(host.seccomp_mode == ::prctl(PR_GET_SECCOMP));
  CHECK(host.io_uring_disabled >= -1);
  CHECK(host.io_uring_disabled <= 2);
}

TEST_CASE("a file of /proc that is not there, or says nothing, is unknown and not zero") {
  CHECK(uring::detail::read_proc_int("/proc/no/such/file", "") == -1);
  CHECK(uring::detail::read_proc_int("/proc/self/status", "NoSuchKey:") == -1);
  CHECK(uring::detail::read_proc_int("/proc/self/status", "Name:") == -1);  // not a number
  CHECK(uring::detail::read_proc_int("/proc/self/status", "Pid:") == ::getpid());
  CHECK(uring::detail::read_proc_int("/proc/sys/kernel/pid_max", "") > 0);
}

// --- The kernel's own refusals -----------------------------------------------------------------------------

namespace {

// What a child with `restrict` applied hears when it asks for a ring: "<errno> <text>", or "0 " if it gets
// one.
template <class Restrict>
std::string hears(Restrict restrict, const uring::RingOptions& options = {.entries = 8}) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::string said = "0 ";
    if (!restrict()) ::_exit(2);
    try {
      const uring::Ring ring(options);
    } catch (const std::system_error& error) {
      said = std::to_string(error.code().value()) + " " + error.what();
    }
    const auto written = ::write(ends[1], said.data(), said.size());
    ::_exit(written == static_cast<ssize_t>(said.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string heard;
  std::array<char, 512> chunk{};
  for (ssize_t bytes = 0; (bytes = ::read(ends[0], chunk.data(), chunk.size())) > 0;) {
    heard.append(chunk.data(), static_cast<std::size_t>(bytes));
  }
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return heard;
}

// A filter of the kind that Docker installs: io_uring_setup answers `error`, everything else works.
bool forbid_io_uring(int error) {
  std::array<sock_filter, 4> code{
      sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, __NR_io_uring_setup},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error)},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
  sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

bool set_limit(__rlimit_resource resource, rlim_t soft) {
  const rlimit limit{soft, soft};
  return ::setrlimit(resource, &limit) == 0;
}

// Root is above RLIMIT_MEMLOCK, so it must become somebody first. (Who is not root has no such privilege to
// lose.)
bool become_nobody() {
  if (::geteuid() != 0) return true;
  constexpr unsigned nobody = 65534;
  return ::setgroups(0, nullptr) == 0 && ::setgid(nobody) == 0 && ::setuid(nobody) == 0;
}

bool lines_are_two(const std::string& text) { return std::count(text.begin(), text.end(), '\n') == 1; }

}  // namespace

TEST_CASE("real: with nothing in the way there is a ring") {
  SKIP_WITHOUT_IO_URING();
  CHECK(hears([] { return true; }) == "0 ");
}

TEST_CASE("real: a seccomp filter that answers EPERM is recognised as a seccomp filter") {
  SKIP_WITHOUT_IO_URING();
  const std::string heard = hears([] { return forbid_io_uring(EPERM); });
  CHECK(heard.starts_with(std::to_string(EPERM) +
                          " cannot create a ring: Operation not permitted (EPERM)\n  "));
  CHECK(mentions(heard, "seccomp filter"));
  CHECK(lines_are_two(heard));
}

TEST_CASE("real: a filter that answers ENOSYS looks like a kernel without io_uring, and both are named") {
  SKIP_WITHOUT_IO_URING();
  const std::string heard = hears([] { return forbid_io_uring(ENOSYS); });
  CHECK(heard.starts_with(std::to_string(ENOSYS) + " cannot create a ring: "));
  CHECK(mentions(heard, "(ENOSYS)"));
  CHECK(mentions(heard, "sandbox"));
  CHECK(lines_are_two(heard));
}

TEST_CASE("real: no descriptor left is EMFILE, with the limit in force") {
  SKIP_WITHOUT_IO_URING();
  const std::string heard = hears([] {
    const int lowest_free = ::dup(0);
    if (lowest_free < 0) return false;
    ::close(lowest_free);
    return set_limit(RLIMIT_NOFILE, static_cast<rlim_t>(lowest_free));
  });
  CHECK(heard.starts_with(std::to_string(EMFILE) + " cannot create a ring: "));
  CHECK(mentions(heard, "(EMFILE)"));
  CHECK(mentions(heard, "ulimit -n, here "));
  CHECK(lines_are_two(heard));
}

TEST_CASE("real: more locked memory than RLIMIT_MEMLOCK allows is ENOMEM, with the limit in force") {
  SKIP_WITHOUT_IO_URING();
  const std::string heard =
      hears([] { return set_limit(RLIMIT_MEMLOCK, 65536) && become_nobody(); }, {.entries = 32768});
  SKIP_UNLESS(heard != "0 ", "this kernel does not count rings as locked memory");
  CHECK(heard.starts_with(std::to_string(ENOMEM) + " cannot create a ring: "));
  CHECK(mentions(heard, "(ENOMEM)"));
  CHECK(mentions(heard, "RLIMIT_MEMLOCK (ulimit -l), here 64 KiB"));
  CHECK(lines_are_two(heard));
}

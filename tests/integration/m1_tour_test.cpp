// Milestone 1's tour, run as its readers run it: what it claims, what it draws, and how it ends when it
// cannot.

#include <doctest/doctest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "servers/m1_ring_basics/acts.hpp"
#include "servers/m1_ring_basics/picture.hpp"
#include "tests/integration/m1_support.hpp"
#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

using m1_test::Child;
using m1_test::contains;
using m1_test::count;
using m1_test::run;

const std::vector<std::string> acts{"setup", "single",   "batch",   "errors",
                                    "full",  "overflow", "partial", "devnull"};

/// Makes io_uring_setup(2) fail with `error` in this process, as the seccomp profiles of container engines
/// do.
template <int error>
void refuse_io_uring() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = 4, .filter = program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    _exit(126);
  }
}

}  // namespace

TEST_CASE("the tour plays all acts, draws both rings at each step, and fits a terminal of 80 columns") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult tour = run("");
  CAPTURE(tour.output);
  CHECK(tour.status == 0);
  for (const std::string& act : acts) CHECK(contains(tour.output, "--act " + act + "\n"));
  CHECK(count(tour.output, "▸ ") == count(tour.output, "SQ  │"));
  CHECK(count(tour.output, "▸ ") == count(tour.output, "CQ  │"));
  CHECK(count(tour.output, "▸ ") >= 20);
  CHECK(contains(tour.output, "head  0→ 1 kernel +1"));
  CHECK(contains(tour.output, "tail  0→ 1 we +1"));
  for (const std::string& line : m1_test::lines_of(tour.output)) {
    CAPTURE(line);
    CHECK(m1::columns(line) <= 80);
    CHECK((line.empty() || line.back() != ' '));
  }
}

TEST_CASE("--quiet keeps the facts of every act, one per line, and nothing else") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult tour = run("--quiet");
  CAPTURE(tour.output);
  CHECK(tour.status == 0);
  for (const std::string& line : m1_test::lines_of(tour.output)) {
    CAPTURE(line);
    CHECK(std::any_of(acts.begin(), acts.end(),
                      [&](const std::string& act) { return line.starts_with(act + ": "); }));
  }
  for (const char* fact :
       {"setup: 8 entries asked for: descriptor 3, 8 SQ slots, 16 CQ slots\n",
        "setup: 2 mappings, and /proc/self/maps lists as many\n",
        "single: write: user_data 17 came back, res 24 = all bytes\n",
        "single: read: res 24, and the bytes are those that pread(2) gives\n",
        "batch: 8 SQEs went in with 1 io_uring_enter\n",
        "batch: submitted as 1 2 3 4 5 6 7 8, completed as ",
        "batch: 8 completions matched by user_data",
        "errors: a bad descriptor: res -EBADF",
        "errors: a short read at the end of the file: res 12 of 64\n",
        "errors: at the end of the file: res 0",
        "errors: ENOENT comes from openat",
        "full: the SQ takes 8 SQEs, all its slots; refusing one more took no system call\n",
        "full: 8 operations in flight, 8 slots free",
        "full: the CQ held 16 completions in 16 slots",
        "overflow: 4 of 10 completions are in the CQ, and CQ_OVERFLOW is set\n",
        "overflow: completions that the kernel says it has lost: 0\n",
        "overflow: nothing is lost, and the order is kept: 0 1 2 3 4 5 6 7 8 9\n",
        "overflow: io_uring_enter calls that fetched the list: 2; now the flag is clear\n",
        "partial: offered 5, taken 3, left in the ring 2",
        "partial: submitted again: taken 2, left 0\n",
        "partial: one completion for each, user_data:res = ",
        "partial: short submits that the ring counted: 1\n"}) {
    CHECK_MESSAGE(contains(tour.output, fact), fact);
  }
}

TEST_CASE("each act can run alone and then says nothing about the others") {
  SKIP_WITHOUT_IO_URING();
  for (const std::string& act : acts) {
    const tests::ShellResult alone = run("--quiet --act " + act);
    CAPTURE(alone.output);
    CHECK(alone.status == 0);
    CHECK(!alone.output.empty());
    for (const std::string& line : m1_test::lines_of(alone.output)) CHECK(line.starts_with(act + ": "));
  }
}

TEST_CASE("10,000 writes take 10,000 system calls by write(2), and one per batch by the ring") {
  SKIP_WITHOUT_IO_URING();
  const tests::ShellResult table = run("--quiet --act devnull");
  CAPTURE(table.output);
  using Row = std::vector<std::string>;
  for (const Row& row :
       {Row{"write(2) ", " 10,000 ", " ms ", " ns ", " 1.00"},
        Row{"batch   1 ", " 10,000 ", " ms ", " ns ", "."}, Row{"batch   8 ", " 1,250 ", " ms ", " ns ", "."},
        Row{"batch  32 ", " 313 ", " ms ", " ns ", "."}, Row{"batch 128 ", " 79 ", " ms ", " ns ", "."}}) {
    CHECK_MESSAGE(m1_test::has_line(table.output, row), row.front());
  }
}

TEST_CASE("strace of the batch act shows one io_uring_enter for eight operations") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("strace -f -o /dev/null true").status == 0,
              "strace is missing, or may not trace here");
  // The leak check of AddressSanitizer does not work under a tracer.
  const tests::ShellResult traced =
      tests::shell("ASAN_OPTIONS=detect_leaks=0 strace -f -e trace=io_uring_enter '" + m1_test::program +
                   "' --quiet --act batch");
  CAPTURE(traced.output);
  CHECK(traced.status == 0);
  CHECK(count(traced.output, "io_uring_enter(") == 1);
  CHECK(m1_test::has_line(traced.output, {"io_uring_enter(", ", 8, 8, IORING_ENTER_GETEVENTS", ") = 8"}));
}

TEST_CASE("--step waits for Enter after each picture") {
  SKIP_WITHOUT_IO_URING();
  Child tour({"--step", "--act", "single"});
  const auto prompts = [&tour] { return count(tour.read_for(std::chrono::milliseconds(5)), "[Enter]"); };
  for (std::size_t expected = 1; expected <= 3; ++expected) {
    REQUIRE(m1_test::eventually([&] { return prompts() >= expected; }));
    tour.read_for(std::chrono::milliseconds(100));  // time enough to run on, if it did not wait
    CHECK(count(tour.output, "[Enter]") == expected);
    CHECK(count(tour.output, "SQ  │") == expected);
    tour.write("\n");
  }
  tour.write("\n\n\n\n");
  CHECK(tour.wait() == 0);
  CHECK(count(tour.output, "[Enter]") == count(tour.output, "SQ  │"));
}

TEST_CASE("--step does not wait for an Enter that cannot come any more") {
  SKIP_WITHOUT_IO_URING();
  CHECK(run("--step </dev/null").status == 0);
}

TEST_CASE("the read can be of the reader's own file") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  folder.write("mine", "My first\tline\nand a second\n");
  folder.write("empty", "");
  folder.write("large", std::string(100'000, 'x'));
  const std::string at = folder.path().string() + "/";
  const std::string act = "--quiet --act single ";
  CHECK(contains(run(act + at + "mine").output, "single: they begin \"My first.line\"\n"));
  CHECK(contains(run(act + at + "empty").output, "read: res 0"));
  CHECK(contains(run(act + at + "large").output, "read: res 4096"));

  const tests::ShellResult missing = run(act + at + "missing");
  CHECK(missing.status == 1);
  CHECK(contains(missing.output,
                 "m1_ring_basics: cannot open '" + at + "missing': No such file or directory (ENOENT)\n"));
  CHECK(run(act + at).status == 1);
  CHECK(run(act + "/dev/zero").status == 1);
}

TEST_CASE("colours are for terminals, and for those who want them") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("script -qec true /dev/null").status == 0, "script(1) is missing");
  const auto on_terminal = [](const std::string& environment) {
    return tests::shell("env " + environment + " script -qec \"'" + m1_test::program +
                        "' --act single\" /dev/null </dev/null")
        .output;
  };
  CHECK(contains(on_terminal("-u NO_COLOR TERM=xterm"), "\033["));
  CHECK(!contains(on_terminal("NO_COLOR=1 TERM=xterm"), "\033["));
  CHECK(!contains(on_terminal("-u NO_COLOR TERM=dumb"), "\033["));
  CHECK(!contains(tests::shell("TERM=xterm '" + m1_test::program + "' --act single").output, "\033["));
}

TEST_CASE("a command line that makes no sense ends with 2, one sentence and the way to --help") {
  for (const char* arguments : {"--nonsense",
                                "-x",
                                "--act",
                                "--act nothing",
                                "one two",
                                "--quiet --step",
                                "--quiet=yes",
                                "copy",
                                "copy one",
                                "copy one two three",
                                "copy one two --depth 0",
                                "copy one two --depth 1025",
                                "copy one two --depth many",
                                "copy one two --depth 8x",
                                "copy one two --depth -1",
                                "copy one two --block 0",
                                "copy one two --block 16777217",
                                "copy one two --block 99999999999",
                                "copy one two --depth 1024 --block 16777216",
                                "copy one two --quiet"}) {
    const tests::ShellResult result = run(arguments);
    CAPTURE(arguments);
    CAPTURE(result.output);
    CHECK(result.status == 2);
    CHECK(result.output.starts_with("m1_ring_basics: "));
    CHECK(result.output.ends_with("\nTry 'm1_ring_basics --help'.\n"));
    CHECK(m1_test::lines_of(result.output).size() == 2);
    CHECK(run(std::string(arguments) + " 2>/dev/null").output.empty());
  }
}

TEST_CASE("--help names every act and option, on stdout, and ends with 0") {
  for (const char* arguments : {"--help 2>/dev/null", "copy --help 2>/dev/null"}) {
    const tests::ShellResult help = run(arguments);
    CHECK(help.status == 0);
    for (const std::string& act : acts) CHECK(contains(help.output, " " + act + " "));
    for (const char* option : {"--quiet", "--step", "--act", "FILE", "--depth", "--block", "--direct",
                               "copy SRC DST", "exit codes"}) {
      CHECK_MESSAGE(contains(help.output, option), option);
    }
    for (const std::string& line : m1_test::lines_of(help.output)) CHECK(m1::columns(line) <= 100);
  }
}

TEST_CASE("where io_uring is refused, the program ends with 3 and says why and what to do") {
  SKIP_WITHOUT_IO_URING();
  Child refused({"--quiet"}, refuse_io_uring<EPERM>);
  CHECK(refused.wait() == 3);
  CAPTURE(refused.output);
  CHECK(
      refused.output.starts_with("m1_ring_basics: cannot create a ring: Operation not permitted (EPERM)\n"));
  CHECK(contains(refused.output, "seccomp"));
  Child missing({"--act", "batch"}, refuse_io_uring<ENOSYS>);
  CHECK(missing.wait() == 3);
  CHECK(
      contains(missing.output, "m1_ring_basics: cannot create a ring: Function not implemented (ENOSYS)\n"));
}

TEST_CASE("a copy that gets no ring has not touched the destination") {
  SKIP_WITHOUT_IO_URING();
  const tests::TemporaryFolder folder;
  folder.write("source", "new");
  folder.write("old", "old");
  const std::string at = folder.path().string() + "/";
  Child over({"copy", at + "source", at + "old"}, refuse_io_uring<EPERM>);
  CHECK(over.wait() == 3);
  CHECK(tests::shell("cat " + at + "old").output == "old");
  Child fresh({"copy", at + "source", at + "fresh"}, refuse_io_uring<EPERM>);
  CHECK(fresh.wait() == 3);
  CHECK(!std::filesystem::exists(at + "fresh"));
}

TEST_CASE("output that cannot be written is a failure") {
  SKIP_WITHOUT_IO_URING();
  CHECK(run("--quiet --act setup >/dev/full").status == 1);
}

TEST_CASE("what is not true on this kernel ends the tour instead of being told") {
  m1::Narrator narrator(m1::Voice::quiet);
  CHECK_THROWS_AS(narrator.require(false, "pigs fly"), m1::Failure);
}

// Linux 5.10 and 6.1 post the failure of a bad SQE before what stood in front of it; 6.12 and later do not.
TEST_CASE("the tour wants each of five completions once, with its own result, and in no order") {
  using Five = std::vector<io_uring_cqe>;
  const auto cqe = [](unsigned number, int res) {
    io_uring_cqe made{};
    made.user_data = number;
    made.res = res;
    return made;
  };
  const auto are_complete = [](const Five& five) {
    m1::ResultsOfFive results;
    for (const io_uring_cqe& each : five) results.add(each);
    return results.are_complete();
  };
  const io_uring_cqe bad = cqe(3, -EINVAL);
  CHECK(are_complete({cqe(1, 0), cqe(2, 0), bad, cqe(4, 0), cqe(5, 0)}));
  CHECK(are_complete({bad, cqe(1, 0), cqe(2, 0), cqe(4, 0), cqe(5, 0)}));
  CHECK(are_complete({cqe(5, 0), cqe(4, 0), bad, cqe(2, 0), cqe(1, 0)}));
  CHECK_FALSE(are_complete({cqe(1, 0), cqe(2, 0), bad, cqe(4, 0)}));
  CHECK_FALSE(are_complete({cqe(1, 0), cqe(2, 0), bad, cqe(4, 0), cqe(4, 0)}));
  CHECK_FALSE(are_complete({cqe(1, 0), cqe(2, -EINVAL), bad, cqe(4, 0), cqe(5, 0)}));
  CHECK_FALSE(are_complete({cqe(1, 0), cqe(2, 0), cqe(3, 0), cqe(4, 0), cqe(5, 0)}));
  CHECK_FALSE(are_complete({cqe(1, 0), cqe(2, 0), bad, cqe(4, 0), cqe(5, 0), cqe(5, 0)}));
}

TEST_CASE("a picture shows indices that run past 2^32, and slots that repeat") {
  const m1::View before{
      .shared = {.sq_head = 4294967292u, .sq_tail = 4294967295u, .cq_head = 7, .cq_tail = 7, .sq_flags = 0},
      .prepared = 4294967295u,
      .sq_entries = 8,
      .cq_entries = 4};
  const m1::View now{.shared = {.sq_head = 4294967294u,
                                .sq_tail = 1,
                                .cq_head = 7,
                                .cq_tail = 11,
                                .sq_flags = IORING_SQ_CQ_OVERFLOW},
                     .prepared = 3,
                     .sq_entries = 8,
                     .cq_entries = 4};
  CHECK(m1::draw(before, now, {}) ==
        "      ┌───0───1───2───3───4───5───6───7─┐  8 slots, mask 7   flags: CQ_OVERFLOW\n"
        "  SQ  │   0  +1  +2   ·   ·   ·  94  95 │  head 4294967292→4294967294 kernel +2\n"
        "      └───────t───────────────────h─────┘  tail 4294967295→ 1 we +2   prepared up to 3\n"
        "      ┌──0──1──2──3─┐  4 slots, mask 3\n"
        "  CQ  │  8  9 10  7 │  head  7\n"
        "      └──────────ht─┘  tail  7→11 kernel +4\n");
}

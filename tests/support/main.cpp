// The main() of every test binary, and the count that tests/support/run_suites.sh believes.
//
// doctest knows no skipping at run time: a test case that returns early has passed. Here a listener hears how each
// test case ended, skip.hpp says which ones left early, and the last line is ours:
//
//   suite: P passed, F failed, S skipped
//
// It is printed after doctest has returned, so a binary that dies on the way prints none, and the runner takes the
// missing line for a failure. With TEST_TITLES=FILE in the environment the title of each test case is appended to
// FILE when it starts: the last one is the test that died or hung. With TEST_RESULTS=FILE its result is appended when it
// ends: `outcome <tab> title <tab> words`, where the outcome of a test that passed can be "differs" (fact.hpp).
//
// doctest's signal handlers are off. They would stand in the way of the sanitizers', which say more about a crash,
// and a child that a test forks would inherit them.

#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS
#include <doctest/doctest.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/fact.hpp"
#include "tests/support/skip.hpp"

namespace {

struct Count {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
  int changed = 0;  // of the skipped ones: doctest calls them failed
  std::vector<std::string> failures{};

  const doctest::TestCaseData* running = nullptr;
  bool running_skipped = false;
  std::string differs{};  // how the running test's fact differs here
  std::string words{};    // why it was skipped
};

Count count;

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}

// Appends a line to the file that the environment variable `name` names, if it does.
void append_to(const char* name, const std::string& line) {
  const char* path = std::getenv(name);
  if (path == nullptr) return;
  if (std::FILE* file = std::fopen(path, "ae")) {
    std::fprintf(file, "%s\n", line.c_str());
    std::fclose(file);
  }
}

bool is_fact(const doctest::TestCaseData& test) {
  return test.m_test_suite != nullptr && std::string_view(test.m_test_suite) == tests::fact_suite;
}

/// TEST_NEWEST_KNOWN_KERNEL=5.0 makes every kernel one that nobody knew: for the test of what then happens.
bool kernel_is_newer_than_known() {
  utsname name{};
  int major = 0;
  int minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
  auto [known_major, known_minor] = tests::newest_known_kernel;
  if (const char* known = std::getenv("TEST_NEWEST_KNOWN_KERNEL")) {
    std::sscanf(known, "%d.%d", &known_major, &known_minor);
  }
  return major != known_major ? major > known_major : minor > known_minor;
}

struct Listener : doctest::IReporter {
  explicit Listener(const doctest::ContextOptions&) {}

  void test_case_start(const doctest::TestCaseData& test) override {
    count.running = &test;
    count.running_skipped = false;
    count.differs.clear();
    count.words.clear();
    append_to("TEST_TITLES", test.m_name);
  }

  // Called once per test case, after its last subcase.
  void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
    const std::string title = count.running->m_name;
    if (!stats.testCaseSuccess && is_fact(*count.running) && kernel_is_newer_than_known()) {
      std::printf("changed: %s\n", title.c_str());
      ++count.skipped;
      ++count.changed;
      append_to("TEST_RESULTS", "changed\t" + title + "\t");
    } else if (!stats.testCaseSuccess) {
      ++count.failed;
      count.failures.push_back(title + " (" + count.running->m_file.c_str() + ":" +
                               std::to_string(count.running->m_line) + ")");
      append_to("TEST_RESULTS", "failed\t" + title + "\t");
    } else if (count.running_skipped) {
      ++count.skipped;
      append_to("TEST_RESULTS", "skipped\t" + title + "\t" + count.words);
    } else {
      ++count.passed;
      append_to("TEST_RESULTS",
                (count.differs.empty() ? "holds\t" : "differs\t") + title + "\t" + count.differs);
    }
    count.running = nullptr;
  }

  // Also called for what a filter on the command line leaves out, which nobody asked to run.
  void test_case_skipped(const doctest::TestCaseData& test) override {
    if (test.m_skip) ++count.skipped;
  }

  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
};

REGISTER_LISTENER("count", 1, Listener);

// 0, or the errno with which the kernel refuses the smallest ring there is.
int io_uring_refusal() {
  static const int refusal = [] {
    io_uring_params params{};
    const long fd = syscall(SYS_io_uring_setup, 1, &params);
    if (fd < 0) return errno;
    close(static_cast<int>(fd));
    return 0;
  }();
  return refusal;
}

}  // namespace

void tests::skip(const char* file, int line, std::string_view why) {
  count.running_skipped = true;
  count.words = why;
  std::printf("skipped: %s: %.*s (%s:%d)\n", count.running ? count.running->m_name : "?",
              static_cast<int>(why.size()), why.data(), file, line);
  std::fflush(stdout);
}

void tests::differs(std::string_view how) {
  count.differs = how;
  std::printf("differs: %s: %.*s\n", count.running ? count.running->m_name : "?",
              static_cast<int>(how.size()), how.data());
  std::fflush(stdout);
}

bool tests::skips_without_io_uring(const char* file, int line) {
  const int refusal = io_uring_refusal();
  if (refusal == 0) return false;
  const std::string why = std::string("io_uring_setup(2) is refused here: ") + std::strerror(refusal);
  if (is_set("REQUIRE_IO_URING")) ADD_FAIL_AT(file, line, why << ", and REQUIRE_IO_URING is set");
  skip(file, line, why);
  return true;
}

int main(int argc, char** argv) {
  doctest::Context context;
  context.setOption("no-intro", true);
  context.applyCommandLine(argc, argv);
  int status = context.run();
  if (context.shouldExit()) return status;  // --list-test-cases and the like ran nothing
  if (count.failed == 0 && count.changed > 0) status = 0;
  for (const std::string& failure : count.failures) std::printf("failed: %s\n", failure.c_str());
  std::printf("suite: %d passed, %d failed, %d skipped\n", count.passed, count.failed, count.skipped);
  return status;
}

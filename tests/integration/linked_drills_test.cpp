// m4_linked --drill: each drill is a test. A drill that finds the kernel otherwise exits with 1.

#include <doctest/doctest.h>

#include <string>

#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

struct Drill {
  const char* name;
  const char* heart;  // of what it shows
};

constexpr Drill drills[] = {
    {"middle-fails", "kernel said: NOP 0, READ -EBADF, NOP -ECANCELED, NOP -ECANCELED"},
    {"prep-error", "kernel said: WRITE -ECANCELED, ? -EINVAL"},
    {"all-but-first", "kernel said: A waits, B -EBADF, C -ECANCELED, D -ECANCELED"},
    {"boundary", "kernel said: READ -EBADF, NOP 0"},
    {"no-rollback", "kernel said: the file holds 'hello'"},
    {"silent-chain", "kernel said: READ -EBADF\n"},
    {"guessed-fd", "kernel said: ACCEPT a descriptor, READ -EBADF, WRITE -ECANCELED"},
    {"short-recv", "kernel said: the client got 'abcRET-OF-BEFORE'"},
    {"short-recv-waitall", "kernel said: RECV 3, SEND -ECANCELED"},
    {"cancelled-close", "kernel said: once more CLOSE 0"},
    {"hardlinked-close", "kernel said: once more CLOSE -EBADF"},
    {"kept-slot", "kernel said: B sees "},
    {"three-stages", "kernel said: READ 5, NOP -ECANCELED, WRITE -ECANCELED"},
    {"link-timeout", "kernel said: RECV -ECANCELED, LINK_TIMEOUT -ETIME"},
};

tests::ShellResult run(const std::string& name) {
  return tests::shell(BUILD_DIR "/m4_linked --drill " + name);
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

TEST_CASE("linked drills: each finds the kernel as expected, and says what it saw") {
  SKIP_WITHOUT_IO_URING();
  for (const Drill& drill : drills) {
    CAPTURE(drill.name);
    const tests::ShellResult result = run(drill.name);
    CAPTURE(result.output);
    CHECK(result.status == 0);
    CHECK(contains(result.output, std::string("== ") + drill.name));
    CHECK(contains(result.output, drill.heart));
    CHECK(!contains(result.output, "NOT as expected"));
    CHECK(!contains(result.output, "leaked"));
  }
}

TEST_CASE("linked drills: `list` names them all, `all` runs them, and any other word is exit code 2") {
  SKIP_WITHOUT_IO_URING();
  std::string names;
  for (const Drill& drill : drills) names += std::string(drill.name) + "\n";
  CHECK(run("list").output == names);
  const tests::ShellResult all = run("all");
  CHECK(all.status == 0);
  for (const Drill& drill : drills) CHECK(contains(all.output, std::string("== ") + drill.name + "\n"));
  const tests::ShellResult unknown = run("nothing");
  CHECK(unknown.status == 2);
  CHECK(contains(unknown.output, "no drill is called nothing"));
}

}  // namespace

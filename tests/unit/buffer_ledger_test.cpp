// The second set of books stops whoever breaks the rule, and lets everybody else through.

#include <doctest/doctest.h>

#ifndef NDEBUG

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>

#include "servers/common_ring/buffer_ledger.hpp"

namespace {

using common_ring::BufferLedger;

struct Stopped {
  bool aborted = false;
  std::string words{};
};

/// What becomes of a process that does this.
Stopped stopped_by(const std::function<void(BufferLedger&)>& deed) {
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const ::pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    std::signal(SIGABRT, SIG_DFL);
    ::dup2(pipe[1], STDERR_FILENO);
    BufferLedger ledger(4);
    deed(ledger);
    ::_exit(0);
  }
  ::close(pipe[1]);
  Stopped stopped;
  char text[256];
  for (ssize_t got = 0; (got = ::read(pipe[0], text, sizeof text)) > 0;) {
    stopped.words.append(text, static_cast<std::size_t>(got));
  }
  ::close(pipe[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  stopped.aborted = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
  return stopped;
}

void check_stopped(const std::string& why, const std::function<void(BufferLedger&)>& deed) {
  const Stopped stopped = stopped_by(deed);
  CAPTURE(stopped.words);
  CHECK(stopped.aborted);
  CHECK(stopped.words.find(why) != std::string::npos);
}

}  // namespace

TEST_CASE("buffer ledger: a buffer's whole life, two loans included, is in order") {
  BufferLedger ledger(4);
  ledger.take(1);
  ledger.read_into(1);
  ledger.was_read(1);
  ledger.lend(1);
  ledger.lend(1);
  ledger.let_go(1);
  ledger.let_go(1);
  ledger.give_back(1);
  ledger.take(1);
  ledger.give_back(1);
  ledger.check_nothing_lost(0);
}

TEST_CASE("buffer ledger: early reuse aborts: read into, given back or taken while it is lent") {
  const auto lent = [](BufferLedger& ledger) {
    ledger.take(2);
    ledger.lend(2);
  };
  check_stopped("buffer 2: read into while the kernel still sends out of it", [&](BufferLedger& ledger) {
    lent(ledger);
    ledger.read_into(2);
  });
  check_stopped("buffer 2: given back while the kernel still sends out of it", [&](BufferLedger& ledger) {
    lent(ledger);
    ledger.give_back(2);
  });
  check_stopped("buffer 2: taken while the kernel still sends out of it", [&](BufferLedger& ledger) {
    lent(ledger);
    ledger.take(2);
  });
}

TEST_CASE("buffer ledger: double return aborts, and so does whoever uses what he does not own") {
  check_stopped("given back, and that by somebody who does not own it", [](BufferLedger& ledger) {
    ledger.take(0);
    ledger.give_back(0);
    ledger.give_back(0);
  });
  check_stopped("taken, and that by somebody", [](BufferLedger& ledger) {
    ledger.take(0);
    ledger.take(0);
  });
  check_stopped("given back, and that by somebody", [](BufferLedger& ledger) {
    ledger.take(0);
    ledger.read_into(0);
    ledger.give_back(0);
  });
  check_stopped("sent by somebody who does not own it", [](BufferLedger& ledger) { ledger.lend(3); });
  check_stopped("a read ended that had not begun", [](BufferLedger& ledger) { ledger.was_read(3); });
  check_stopped("notified more often than it was sent", [](BufferLedger& ledger) {
    ledger.take(3);
    ledger.let_go(3);
  });
}

TEST_CASE(
    "buffer ledger: a buffer that never came back aborts at the end; one that is the kernel's does not") {
  check_stopped("buffer 1: lost", [](BufferLedger& ledger) {
    ledger.take(1);
    ledger.check_nothing_lost(0);
  });
  BufferLedger ledger(4);
  ledger.take(1);
  ledger.lend(1);
  ledger.check_nothing_lost(1);
}

#endif

// What the tests of m1_ring_basics share: running it, and talking to it while it runs.

#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/shell.hpp"

namespace m1_test {

inline const std::string program = BUILD_DIR "/m1_ring_basics";

inline tests::ShellResult run(const std::string& arguments) {
  return tests::shell("'" + program + "' " + arguments);
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

/// Some line has all these parts, in this order.
inline bool has_line(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& line : lines_of(text)) {
    std::size_t at = 0;
    for (const std::string& part : parts) {
      if (at != std::string::npos) at = line.find(part, at);
      if (at != std::string::npos) at += part.size();
    }
    if (at != std::string::npos) return true;
  }
  return false;
}

// Anything that takes longer has gone wrong; far more than a slow machine with sanitizers needs.
constexpr auto long_enough = std::chrono::seconds(60);

template <class Condition>
bool eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + long_enough;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

/// The program as a child: its stdin is `input`'s other end, its stdout and stderr arrive in `output`.
class Child {
 public:
  explicit Child(std::vector<std::string> arguments, void (*before_exec)() = nullptr) {
    int in[2], out[2];
    REQUIRE(pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(pipe2(out, O_CLOEXEC) == 0);
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(out[1], STDERR_FILENO);
      // A shell's background job begins with SIGINT ignored; our child shall not depend on who started the
      // tests.
      for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
      if (before_exec != nullptr) before_exec();
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    input_ = in[1];
    output_ = out[0];
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(input_);
    close(output_);
  }

  void write(const std::string& text) const {
    CHECK(::write(input_, text.data(), text.size()) == std::ssize(text));
  }
  void kill(int signal) const { CHECK(::kill(pid_, signal) == 0); }

  /// Everything that comes within `time`, or until the program ends.
  std::string& read_for(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      pollfd ready{.fd = output_, .events = POLLIN, .revents = 0};
      if (left.count() < 0 || poll(&ready, 1, static_cast<int>(left.count())) <= 0) return output;
      char chunk[4096];
      const ssize_t bytes = ::read(output_, chunk, sizeof chunk);
      if (bytes <= 0) return output;
      output.append(chunk, static_cast<std::size_t>(bytes));
    }
  }

  /// Reads until the program has ended: what it exited with, or 128 + the signal that ended it.
  int wait() {
    read_for(long_enough);
    int status = 0;
    REQUIRE(eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }));
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  std::string output{};

 private:
  pid_t pid_ = -1;
  int input_ = -1, output_ = -1;
};

}  // namespace m1_test

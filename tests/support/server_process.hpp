// A server as a child of the test: started, talked about, stopped, and what it said.
//
//   tests::ServerProcess server(BUILD_DIR "/m2_file_server", {"--root", folder});   // --port 0 is added
//   tests::Client client(server.where());                                           // tests/support/client.hpp
//   …
//   const tests::Ended ended = server.stop();                                       // SIGTERM, and waits
//   CHECK(ended.status == 0);
//
// The constructor returns when the server listens, and throws what it wrote on stderr when it does not. It dies with
// the test that forgot it, or died. Its limits can be lowered and its rights taken away: tests run as root in many
// places, and root reads what others may not and locks as much memory as it likes.
//
// stderr goes to a file in memory, so that a server that talks much never waits for a reader; stdout, which has two
// lines, to a pipe. Start servers from the test's own thread: PR_SET_PDEATHSIG means the thread that forked.

#pragma once

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "servers/common/counters.hpp"
#include "servers/common/descriptor.hpp"

namespace tests {

// Anything that takes longer has gone wrong; far more than a slow machine with sanitizers needs.
inline constexpr std::chrono::seconds long_enough{60};

/// Asks again and again until the condition holds. False: it did not within `long_enough`.
template <class Condition>
bool eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + long_enough;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

/// The counters of a server's last line; empty if it is not exactly what print_counters() writes.
inline std::optional<common::Counters> counters_from(const std::string& line) {
  common::Counters counters;
  for (const common::CounterKey& key : common::counter_keys) {
    const std::string name = "\"" + std::string(key.key) + "\": ";
    const std::size_t at = line.find(name);
    if (at == std::string::npos) return std::nullopt;
    counters.*key.value = std::strtoull(line.c_str() + at + name.size(), nullptr, 10);
  }
  return common::to_json(counters) == line ? std::optional(counters) : std::nullopt;
}

struct Ended {
  int status = -1;          // what it exited with, or 128 + the signal that ended it
  std::string last_line{};  // of its stdout, without the newline
  std::string errors{};     // its stderr
  common::Counters counters{};
  bool has_counters = false;  // the last line was what it must be
};

/// What a server may have.
struct Rights {
  std::optional<::rlim_t> descriptors{};    // RLIMIT_NOFILE, soft and hard
  std::optional<::rlim_t> locked_memory{};  // RLIMIT_MEMLOCK, in bytes
  bool nobody = false;                      // runs as uid 65534, where the test itself is root
};

class ServerProcess {
 public:
  ServerProcess(const std::string& program, std::vector<std::string> arguments, const Rights& rights = {}) {
    int out[2];
    errors_ = common::Descriptor(::memfd_create("stderr", MFD_CLOEXEC));
    if (!errors_ || ::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("no pipe for the server");
    output_ = common::Descriptor(out[0]);
    common::Descriptor child_output(out[1]);
    arguments.insert(arguments.begin(), {program, "--port", "0"});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("cannot fork");
    if (pid_ == 0) run(argv, rights, child_output.get(), errors_.get());
    child_output.reset();
    where_ = read_announcement();
    if (where_.empty()) {
      const Ended ended = wait();
      throw std::runtime_error(program + " did not start, exit status " + std::to_string(ended.status) +
                               ": " + ended.errors);
    }
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;
  ~ServerProcess() { end_by_force(); }

  /// What it listens on, in its own words: "127.0.0.1:40321", "[::1]:40321", "unix:/tmp/socket".
  const std::string& where() const noexcept { return where_; }
  std::string port() const { return where_.substr(where_.rfind(':') + 1); }
  ::pid_t pid() const noexcept { return pid_; }

  void signal(int number) const { ::kill(pid_, number); }

  /// What it wrote on stderr until now.
  std::string errors() const {
    struct ::stat facts {};
    ::fstat(errors_.get(), &facts);
    std::string text(static_cast<std::size_t>(facts.st_size), '\0');
    // pread: the kernel keeps one offset for both of us, and the child writes at it.
    const ::ssize_t bytes = ::pread(errors_.get(), text.data(), text.size(), 0);
    text.resize(bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
    return text;
  }

  /// Whether it has not ended yet.
  bool runs() {
    if (pid_ > 0 && !ended_ && ::waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = true;
    return pid_ > 0 && !ended_;
  }

  /// Waits until it ends by itself; by force when that takes for ever. Once it has ended, says the same again.
  Ended wait() {
    if (!eventually([&] { return !runs(); })) end_by_force();
    char chunk[4096];
    for (::ssize_t n; (n = ::read(output_.get(), chunk, sizeof chunk)) > 0;) {
      said_.append(chunk, static_cast<std::size_t>(n));
    }
    std::string text = said_;
    Ended ended;
    ended.status = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
    if (!text.empty() && text.back() == '\n') text.pop_back();
    ended.last_line = text.substr(text.rfind('\n') + 1);
    ended.errors = errors();
    if (const auto counters = counters_from(ended.last_line)) {
      ended.counters = *counters;
      ended.has_counters = true;
    }
    return ended;
  }

  Ended stop() {
    if (runs()) signal(SIGTERM);
    return wait();
  }

  /// CPU time that it has used, in seconds.
  double cpu_seconds() const {
    std::ifstream stat("/proc/" + std::to_string(pid_) + "/stat");
    std::string text;
    std::getline(stat, text, '\0');  // all of it: a name may hold a newline
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th word behind it.
    const char* at = text.c_str() + text.rfind(')') + 1;
    for (int word = 0; word < 11; ++word) at = std::char_traits<char>::find(at + 1, 1000, ' ');
    char* end = nullptr;
    const unsigned long long user = std::strtoull(at, &end, 10);
    const unsigned long long system = std::strtoull(end, nullptr, 10);
    return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }

  /// The most memory that it ever had (VmHWM), in KiB.
  std::uint64_t peak_memory() const {
    std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
    for (std::string word; status >> word;) {
      std::uint64_t kib = 0;
      if (word == "VmHWM:" && status >> kib) return kib;
    }
    return 0;
  }

 private:
  [[noreturn]] static void run(const std::vector<char*>& argv, const Rights& rights, int out, int err) {
    const auto limit = [](int what, const std::optional<::rlim_t>& value) {
      if (!value) return;
      const rlimit both{.rlim_cur = *value, .rlim_max = *value};
      if (::setrlimit(static_cast<__rlimit_resource>(what), &both) != 0) ::_exit(126);
    };
    limit(RLIMIT_NOFILE, rights.descriptors);
    limit(RLIMIT_MEMLOCK, rights.locked_memory);
    if (rights.nobody && ::geteuid() == 0) {
      if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(126);
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // behind setuid, which takes it back
    // A shell's background job begins with SIGINT ignored; our child shall not depend on who started the tests.
    for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGPIPE}) ::signal(number, SIG_DFL);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(err, STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }

  // "127.0.0.1:1234" from `listening 127.0.0.1:1234`; empty if that is not what comes first.
  std::string read_announcement() {
    std::string line;
    const auto end = std::chrono::steady_clock::now() + long_enough;
    for (char byte = 0; byte != '\n';) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      ::pollfd ready{.fd = output_.get(), .events = POLLIN, .revents = 0};
      if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(left.count())) <= 0) return "";
      if (::read(output_.get(), &byte, 1) != 1) return "";
      line += byte;
    }
    constexpr std::string_view start = "listening ";
    if (!line.starts_with(start)) return "";
    line.pop_back();
    return line.substr(start.size());
  }

  void end_by_force() noexcept {
    if (!runs()) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &status_, 0);
    ended_ = true;
  }

  ::pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
  common::Descriptor output_{}, errors_{};
  std::string where_{}, said_{};
};

}  // namespace tests

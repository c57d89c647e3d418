// What a process has used of the machine, seen from outside and to the nanosecond.
//
// Every process has a CPU-time clock, and clock_gettime(2) reads that of any other process as well: user and
// system time of all its threads, those that have ended and io_uring's worker and SQPOLL threads included
// (they are threads of the process since Linux 5.12). /proc/PID/stat says the same in ticks of 10 ms,
// /proc/PID/schedstat for one thread only.
//
// What no clock can tell apart: on the loopback device a send(2) carries its bytes through the receiver's
// half of TCP before it returns. So the sender pays for most of the receiving, whichever of the two processes
// it is.
#pragma once

#include <dirent.h>
#include <sys/types.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <memory>
#include <string>

#include "bench/load/clock.hpp"
#include "servers/common/start_error.hpp"

namespace load {

class ProcessMeter {
 public:
  /// Throws StartError when there is no such process. 0 is this process itself.
  explicit ProcessMeter(::pid_t pid) : pid_(pid) {
    timespec now{};
    if (const int error = ::clock_getcpuclockid(pid, &clock_);
        error != 0 || ::clock_gettime(clock_, &now) != 0) {
      throw common::StartError(common::exit_usage,
                               "there is no process " + std::to_string(pid) + " to measure");
    }
  }

  /// User and system time used so far, in ns. What it was last when the process has gone.
  std::uint64_t cpu() noexcept {
    timespec now{};
    if (::clock_gettime(clock_, &now) == 0) {
      last_ = static_cast<std::uint64_t>(now.tv_sec) * second + static_cast<std::uint64_t>(now.tv_nsec);
    }
    return last_;
  }

  /// How often its threads (those that live) gave up or lost their CPU so far.
  std::uint64_t context_switches() const {
    return sum_over_tasks("status", [](std::istream& status) {
      std::uint64_t sum = 0;
      for (std::string line; std::getline(status, line);) {
        const bool counts = line.find("voluntary_ctxt_switches:") != line.npos;  // and nonvoluntary_...
        if (counts) sum += std::stoull(line.substr(line.find(':') + 1));
      }
      return sum;
    });
  }

  /// For how long its threads (those that live) could have run and had no CPU so far, in ns, added up.
  std::uint64_t waited() const {
    return sum_over_tasks("schedstat", [](std::istream& schedstat) {
      std::uint64_t ran = 0;
      std::uint64_t waited = 0;
      schedstat >> ran >> waited;
      return waited;
    });
  }

 private:
  template <class Read>
  std::uint64_t sum_over_tasks(const char* file, Read read) const {
    const std::string process = "/proc/" + (pid_ == 0 ? "self" : std::to_string(pid_)) + "/task/";
    const std::unique_ptr<DIR, int (*)(DIR*)> tasks(::opendir(process.c_str()), ::closedir);
    if (!tasks) return 0;
    std::uint64_t sum = 0;
    while (const dirent* const task = ::readdir(tasks.get())) {
      if (task->d_name[0] == '.') continue;
      std::ifstream stream(process + task->d_name + "/" + file);
      sum += read(stream);
    }
    return sum;
  }

  ::pid_t pid_;
  ::clockid_t clock_{};
  std::uint64_t last_ = 0;
};

}  // namespace load

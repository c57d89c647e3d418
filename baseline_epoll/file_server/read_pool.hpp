// Threads that block in pread so that the loop does not.
//
//   loop ── submit, submit, flush ──► jobs ──► N workers ──► completed ── eventfd ──► loop
//
// One lock each way, held for a few instructions. flush() hands over what was submitted in one go and wakes one
// worker; a worker that takes a job and sees another one wakes the next before it reads, so one wake-up at a
// time is under way. If reads block, all workers are soon at it; if they come from the page cache, the first
// one is through before the third has woken up, and the others sleep on.
//
// The worker whose chunk finds the list of completions empty writes to the eventfd; the others know that the
// loop will come. The loop takes the whole list at once and never reads the eventfd: it watches it
// edge-triggered, and every write is an edge.
//
// Counted as system calls: the preads, the writes, and a futex call for each sleep and each wake-up. Those of
// a contended lock are invisible.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "baseline_epoll/file_server/chunk.hpp"
#include "servers/common/descriptor.hpp"

namespace file_server {

class ReadPool {
 public:
  /// Throws StartError when there can be no `threads` threads. Block signals first: workers inherit the mask.
  explicit ReadPool(unsigned threads);
  ~ReadPool() { stop(); }
  ReadPool(const ReadPool&) = delete;
  ReadPool& operator=(const ReadPool&) = delete;

  int completions_fd() const noexcept { return eventfd_.get(); }

  /// The chunk belongs to the pool until completed() hands it back.
  void submit(Chunk& chunk) noexcept;
  void flush(std::uint64_t& syscalls);

  /// All that were read since the last call, linked by next_job. Adds the workers' system calls.
  Chunk* completed(std::uint64_t& syscalls);

  /// Finishes what was flushed and ends the threads.
  void stop() noexcept;

 private:
  struct Line {
    Chunk* first = nullptr;
    Chunk* last = nullptr;

    void append(const Line& others) noexcept;
    Chunk* take() noexcept;
  };

  void work();
  bool shall_wake() noexcept;

  common::Descriptor eventfd_;
  std::vector<std::thread> threads_{};

  Line submitted_{};  // the loop's own, until flush()

  std::mutex jobs_lock_{};
  std::condition_variable jobs_there_{};
  Line jobs_{};
  unsigned asleep_ = 0;
  bool waking_ = false;  // one was notified and has not come yet
  bool stopping_ = false;

  std::mutex completions_lock_{};
  Line completions_{};
  std::uint64_t syscalls_ = 0;
};

}  // namespace file_server

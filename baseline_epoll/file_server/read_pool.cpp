#include "baseline_epoll/file_server/read_pool.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace file_server {

void ReadPool::Line::append(const Line& others) noexcept {
  if (others.first == nullptr) return;
  (first == nullptr ? first : last->next_job) = others.first;
  last = others.last;
}

Chunk* ReadPool::Line::take() noexcept {
  Chunk* const chunk = first;
  first = chunk->next_job;
  chunk->next_job = nullptr;
  return chunk;
}

ReadPool::ReadPool(unsigned threads) : eventfd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!eventfd_) {
    throw common::StartError(common::exit_failed, "cannot open an eventfd: " + common::errno_text(errno));
  }
  try {
    threads_.reserve(threads);
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    const std::size_t started = threads_.size();
    stop();
    throw common::StartError(common::exit_failed,
                             "--threads " + std::to_string(threads) + ": only " + std::to_string(started) +
                                 " could be started: " + common::errno_text(error.code().value()));
  }
}

void ReadPool::stop() noexcept {
  {
    const std::lock_guard lock(jobs_lock_);
    stopping_ = true;
  }
  jobs_there_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void ReadPool::submit(Chunk& chunk) noexcept { submitted_.append({&chunk, &chunk}); }

void ReadPool::flush(std::uint64_t& syscalls) {
  if (submitted_.first == nullptr) return;
  bool wake = false;
  {
    const std::lock_guard lock(jobs_lock_);
    jobs_.append(std::exchange(submitted_, {}));
    wake = shall_wake();
  }
  if (!wake) return;
  ++syscalls;
  jobs_there_.notify_one();
}

// With the lock held. True: notify one when it is released.
bool ReadPool::shall_wake() noexcept {
  const bool wake = jobs_.first != nullptr && asleep_ > 0 && !waking_;
  waking_ |= wake;
  return wake;
}

Chunk* ReadPool::completed(std::uint64_t& syscalls) {
  const std::lock_guard lock(completions_lock_);
  syscalls += std::exchange(syscalls_, 0);
  return std::exchange(completions_, {}).first;
}

void ReadPool::work() {
  std::uint64_t syscalls = 0;
  for (;;) {
    Chunk* chunk = nullptr;
    bool wake = false;
    {
      std::unique_lock lock(jobs_lock_);
      while (jobs_.first == nullptr) {
        if (stopping_) return;
        ++asleep_;
        ++syscalls;
        jobs_there_.wait(lock);
        --asleep_;
        waking_ = false;
      }
      chunk = jobs_.take();
      wake = shall_wake();
    }
    if (wake) {
      ++syscalls;
      jobs_there_.notify_one();
    }
    read_chunk(*chunk, syscalls);
    bool first = false;
    {
      const std::lock_guard lock(completions_lock_);
      first = completions_.first == nullptr;
      completions_.append({chunk, chunk});
      syscalls_ += std::exchange(syscalls, 0) + (first ? 1 : 0);
    }
    if (first) {
      const std::uint64_t one = 1;
      (void)!::write(eventfd_.get(), &one, sizeof one);
    }
  }
}

}  // namespace file_server

// One socket, four ways to send on it, and the time that each takes.
//
//      system_call    send(2), one call for each message
//      send           SEND
//      zero_copy      SEND_ZC; the kernel looks up and pins the message's pages for each send
//      registered     SEND_ZC out of a registered buffer: pinned once
//
// All of them send the same messages from the same memory in the same order, and the three that use a ring
// enter it equally often, each time with `batch` SQEs:
//
//      area      | message 0 | message 1 | ...            | message n-1 |     and from the beginning again
//      slots     at most this many are out: sent, and their notification has not come
//
// A message's memory is used again when its slot is free, which for SEND_ZC is after the notification. n is a
// multiple of the number of slots, so the message behind a free slot is free. Each way walks through the area
// by itself: SEND_ZC never touches the bytes, so where it has been says nothing about what the caches hold
// for SEND.
#pragma once

#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "uring/errors.hpp"
#include "uring/owned.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

namespace bench {

enum class Way : std::uint8_t { system_call, send, zero_copy, registered };
inline constexpr std::array ways{Way::system_call, Way::send, Way::zero_copy, Way::registered};
inline constexpr const char* way_names[] = {"send(2)", "SEND", "SEND_ZC", "SEND_ZC registered"};

inline constexpr std::size_t index_of(Way way) { return static_cast<std::size_t>(way); }

/// What one run took, and what the kernel said about it.
struct Run {
  double nanoseconds = 0;      // for each send
  double cpu_nanoseconds = 0;  // of this thread, for each send
  std::uint64_t sends = 0;
  std::uint64_t notified = 0;
  std::uint64_t copied = 0;  // of these, with IORING_NOTIF_USAGE_ZC_COPIED
};

class Sender {
 public:
  struct Shape {
    unsigned slots = 0;
    unsigned batch = 0;          // SQEs for each enter; slots is a multiple of it
    std::size_t area_bytes = 0;  // at least slots messages
    int flags = 0;               // MSG_*
    int reader = -1;             // the other end of a stream: read by us, after each batch
  };

  explicit Sender(const Shape& shape)
      : shape_(shape),
        area_(map(shape.area_bytes)),
        ring_({.entries = shape.slots, .cq_entries = 4 * shape.slots}) {
    // Memory that was never written is one page of zeros, mapped everywhere.
    std::memset(area_.data(), 'm', area_.size());
    iovec whole{area_.data(), area_.size()};
    registration_error_ = std::min(
        0, ring_.kernel().register_(ring_.kernel().self, ring_.fd(), IORING_REGISTER_BUFFERS, &whole, 1));
    busy_.resize(shape.slots);
  }

  /// From here on messages of `size` bytes go to `socket`. `window`: how many there are, a multiple of the
  /// slots; 0: as many as the area holds.
  void aim(int socket, std::size_t size, std::size_t window) {
    const std::size_t most = area_.size() / size / shape_.slots * shape_.slots;
    socket_ = socket;
    size_ = static_cast<std::uint32_t>(size);
    window_ = window == 0 ? most : std::min(window, most);
    next_ = {};
    if (shape_.reader >= 0) received_.resize(size);
  }

  std::size_t window() const { return window_; }

  /// All messages that a socket has taken so far; also those of a run that failed.
  std::uint64_t sent() const { return sent_; }

  /// 0, or the -errno of IORING_REGISTER_BUFFERS: without it there is no way `registered`.
  int registration_error() const { return registration_error_; }

  /// `sends` messages, a multiple of the batch. All notifications are in when it returns. Throws
  /// std::system_error for the first send that failed, and then, too, nothing is left in flight.
  Run run(Way way, std::uint64_t sends) {
    run_ = {.sends = sends};
    error_ = 0;
    const auto began = std::chrono::steady_clock::now();
    const double cpu = cpu_time();
    way == Way::system_call ? run_calls(sends) : run_ring(way, sends);
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - began;
    const auto count = static_cast<double>(sends);
    run_.cpu_nanoseconds = (cpu_time() - cpu) / count;
    run_.nanoseconds = passed.count() / count;
    if (error_ != 0) throw std::system_error(-error_, std::generic_category(), way_names[index_of(way)]);
    return run_;
  }

 private:
  static uring::Mapping map(std::size_t bytes) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return {memory, bytes};
  }

  static double cpu_time() {
    ::timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
  }

  const std::byte* message(Way way) {
    std::size_t& next = next_[index_of(way)];
    const std::byte* const bytes = area_.data() + next * size_;
    next = next + 1 == window_ ? 0 : next + 1;
    return bytes;
  }

  void run_calls(std::uint64_t sends) {
    for (std::uint64_t sent = 0; sent < sends && error_ == 0; ++sent) {
      const ::ssize_t result = ::send(socket_, message(Way::system_call), size_, shape_.flags | MSG_NOSIGNAL);
      sent_ += result >= 0 ? 1U : 0U;
      if (result != static_cast<::ssize_t>(size_)) error_ = result < 0 ? -errno : -EMSGSIZE;
      read_again(1);
    }
  }

  /// By this thread, so that no wake-up is measured: they cost more than what is compared, and differ from
  /// way to way.
  void read_again(unsigned messages) {
    if (shape_.reader < 0 || error_ != 0) return;
    for (unsigned i = 0; i < messages && error_ == 0; ++i) {
      const ::ssize_t result = ::recv(shape_.reader, received_.data(), size_, MSG_WAITALL);
      if (result != static_cast<::ssize_t>(size_)) error_ = result < 0 ? -errno : -ECONNRESET;
    }
  }

  void run_ring(Way way, std::uint64_t sends) {
    unsigned slot = static_cast<unsigned>(next_[index_of(way)] % shape_.slots);
    for (std::uint64_t sent = 0; sent < sends && error_ == 0; sent += shape_.batch) {
      for (unsigned i = 0; i < shape_.batch; ++i) {
        while (busy_[slot]) wait(1);
        prepare(way, slot);
        slot = slot + 1 == shape_.slots ? 0 : slot + 1;
      }
      wait(shape_.batch);
      read_again(shape_.batch);
    }
    while (out_ != 0) wait(1);
  }

  void prepare(Way way, unsigned slot) {
    io_uring_sqe* const sqe = ring_.next_sqe();
    if (sqe == nullptr) throw std::logic_error("no SQE is free");
    const uring::Token token{slot};
    const std::byte* const bytes = message(way);
    if (way == Way::send) {
      uring::prep::send(*sqe, socket_, bytes, size_, shape_.flags, token);
    } else if (way == Way::zero_copy) {
      uring::prep::send_zc(*sqe, socket_, bytes, size_, shape_.flags, uring::abi::send_zc_report_usage,
                           token);
    } else {
      uring::prep::send_zc_fixed(*sqe, socket_, bytes, size_, shape_.flags, uring::abi::send_zc_report_usage,
                                 0, token);
    }
    busy_[slot] = true;
    ++out_;
  }

  /// Submits what is prepared and looks at all that has come. It never waits for more than is out: a SEND_ZC
  /// has two completions, and one of them may have been seen.
  void wait(unsigned completions) {
    if (const uring::Waited waited = ring_.submit_and_wait(std::min(completions, out_)); waited.error != 0) {
      throw std::system_error(-waited.error, std::generic_category(), "io_uring_enter");
    }
    ring_.harvest([this](const io_uring_cqe& cqe) { completed(cqe); });
  }

  void completed(const io_uring_cqe& cqe) {
    if ((cqe.flags & IORING_CQE_F_NOTIF) != 0) {
      ++run_.notified;
      if ((static_cast<std::uint32_t>(cqe.res) & uring::abi::notif_usage_zc_copied) != 0) ++run_.copied;
    } else {
      sent_ += cqe.res >= 0 ? 1U : 0U;
      if (cqe.res != static_cast<int>(size_) && error_ == 0) error_ = cqe.res < 0 ? cqe.res : -EMSGSIZE;
    }
    if ((cqe.flags & IORING_CQE_F_MORE) != 0) return;  // the notification is still to come
    busy_[cqe.user_data] = false;
    --out_;
  }

  Shape shape_;
  uring::Mapping area_;  // before the ring, so that it outlives it
  uring::Ring ring_;
  int registration_error_ = 0;
  int socket_ = -1;
  std::uint32_t size_ = 0;
  std::size_t window_ = 0;
  std::array<std::size_t, ways.size()> next_{};
  std::vector<char> busy_{};  // of each slot
  std::vector<char> received_{};
  unsigned out_ = 0;
  int error_ = 0;
  std::uint64_t sent_ = 0;
  Run run_{};
};

}  // namespace bench

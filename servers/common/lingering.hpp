// The lingering close: how a connection ends when we end it and the client may still be sending.
//
//   last answer sent ──► shutdown(SHUT_WR) ──► read and discard ──► close
//                        the client sees FIN    until it closes, or 1 MiB came, or 1 s is over
//
// close(2) with input unread, or input that comes after it, makes the kernel send RST and forget what it had
// not sent yet; and many a client that meets a RST also forgets what it has received and not yet read (Linux
// keeps that, others do not). Either way the loss is the very answer that says what was wrong. So input is
// read until the client has had time to see the answer. The two limits keep a client that never stops from
// holding the connection for ever.
#pragma once

#include <chrono>
#include <cstddef>

namespace common {

inline constexpr std::chrono::seconds linger_time{1};
inline constexpr std::size_t linger_bytes = std::size_t{1} << 20;

/// How much patience is left with one connection. It has no clock: the caller says what time it is.
class Lingering {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// Begins when the last answer is sent and the writing half is shut down.
  explicit Lingering(Time now) noexcept : deadline_(now + linger_time) {}

  /// `bytes` more were read and thrown away.
  void discarded(std::size_t bytes) noexcept { left_ -= bytes < left_ ? bytes : left_; }

  /// When to close at the latest.
  Time deadline() const noexcept { return deadline_; }
  bool is_over(Time now) const noexcept { return left_ == 0 || now >= deadline_; }

 private:
  Time deadline_;
  std::size_t left_ = linger_bytes;
};

}  // namespace common

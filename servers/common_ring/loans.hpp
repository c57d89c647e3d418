// Buffers lent to the kernel: what a zero-copy send holds, and until when.
//
//   pool ──► READ_FIXED ──► SEND_ZC ──► CQE, F_MORE: "queued" ──────────► CQE, F_NOTIF: "let go" ──► pool
//                             │                                             ▲
//                             └── the kernel reads this memory whenever ────┘
//                                 TCP sends it, or sends it again
//
// A send that copies is done with its memory when it completes. A zero-copy send is not: its completion says
// that the bytes are queued, and the packets point into the buffer until the peer has acknowledged them. Who
// writes into it before that changes what the peer receives (m4_zero_copy --drill early-reuse). So a buffer
// that its owner is done with goes through give_back() here, and stays until the last notification has come.
//
// The rule for what is still to come is one: F_MORE on the send's own completion. It holds for all that was
// seen: a failed send that notifies all the same (6.1 to 7.3), and a short one that is followed by a second send
// out of the same buffer. The owner need not be there any more: a loan belongs to a buffer, not to a connection,
// because a peer that does not read can take minutes.
//
// At most half of the pool is lent at a time. Each slow reader keeps what lies in his socket's queue, up to
// megabytes of it; without a bound, a few of them would hold every buffer, and no cancellation gets those back.
// Beyond it a send copies, and a copying send can be taken back (preempt_stalled in file_requests.cpp).
//
// Nor is anything lent while less than a quarter of the pool is free. Two kinds of buffers may stay away for as long as
// a client likes: those that are lent, and those that were read ahead, for an answer behind another one. Neither comes
// out of the last quarter, so there is always a buffer for somebody's first chunk that is sent with a copy and comes
// back. (Without this rule four clients that read one after another stopped a server with eight buffers: six held what
// was read ahead, two were lent to clients that were not reading yet, and the one that read waited for a buffer.)
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "servers/common/counters.hpp"
#include "servers/common_ring/buffer_ledger.hpp"
#include "uring/fixed_buffers.hpp"

namespace common_ring {

struct Connection;

/// How many buffers must come back soon: the last quarter of the pool, at least one.
inline std::size_t must_come_back(const uring::BufferPool& pool) noexcept {
  return std::max<std::size_t>(pool.capacity() / 4, 1);
}

/// One slot of the pool, as seen from here.
struct Loan {
  Connection* sender = nullptr;  // from the send to its own completion; not to its notification
  unsigned due = 0;              // notifications that are still to come
  bool reports = false;          // the last send asked for a report
  unsigned for_nothing = 0;      // of them, those of sends that failed: their report means nothing
  uring::Buffer kept{};          // nobody needs it any more, but it is lent
};

class Loans {
 public:
  /// The pool must outlive it. Sends of at least `from` bytes are worth a loan; empty: none is.
  Loans(uring::BufferPool& pool, std::optional<std::uint32_t> from)
      : pool_(pool),
        wanted_(from.has_value()),
        enabled_(wanted_),
        threshold_(from.value_or(0)),
        loans_(pool.capacity()),
        ledger_(pool.capacity()) {}

  /// A buffer of the pool to read into; empty when there is none.
  uring::Buffer take();

  /// Whoever took a buffer is done with it. It returns to the pool, at once or when the kernel lets go.
  void give_back(uring::Buffer& buffer);

  /// Whether `bytes` should be sent without copying, now.
  bool worthwhile(std::size_t bytes) const noexcept {
    return enabled_ && bytes >= threshold_ && lent_ < pool_.capacity() / 2 &&
           pool_.available() >= must_come_back(pool_);
  }

  /// Lends a buffer to a zero-copy send (6.0), one at a time. CQEs: to sent(), then, if that one had F_MORE, to
  /// notified().
  Loan& lend(const uring::Buffer& buffer, Connection& sender);
  /// Prepares that send, of `bytes` bytes at `from`, which lie in the buffer.
  void prepare(io_uring_sqe& sqe, const Loan& loan, int fd, const std::byte* from, std::uint32_t bytes,
               uring::Token token) const noexcept;

  /// The send's own completion. `result` becomes 0 where the kernel refused to send this way: nothing is sent,
  /// and the next send copies. Returns who sent it.
  Connection& sent(Loan& loan, int& result, std::uint32_t flags);

  /// Its notification.
  void notified(Loan& loan, int result);

  /// What a read does to a buffer, for the ledger.
  BufferLedger& ledger() noexcept { return ledger_; }
  void check_nothing_lost() const { ledger_.check_nothing_lost(kept_); }

  /// Sends that only wait for their notification.
  std::size_t due() const noexcept { return due_; }
  /// Buffers that nobody needs but the kernel.
  std::size_t kept() const noexcept { return kept_; }
  void add_to(common::Counters& counters) const noexcept;
  /// One line on stderr, if sends are to be lent at all: how many were, and what the kernel reported about them.
  void print() const;

 private:
  void settle(Loan& loan);
  void refused(const Loan& loan, Connection& sender, int result);
  Loan& loan_of(const uring::Buffer& buffer) noexcept { return loans_[buffer.index()]; }
  std::uint16_t slot_of(const Loan& loan) const noexcept {
    return static_cast<std::uint16_t>(&loan - loans_.data());
  }

  uring::BufferPool& pool_;
  bool wanted_;
  bool enabled_;               // and not refused for good
  bool reports_usage_ = true;  // 6.2
  std::uint32_t threshold_;
  std::vector<Loan> loans_;
  BufferLedger ledger_;
  std::size_t lent_ = 0;  // loans with a sender, or something due
  std::size_t due_ = 0;
  std::size_t kept_ = 0;
  int said_ = 0;  // the last refusal that was announced
  std::uint64_t sends_ = 0;
  std::uint64_t copied_ = 0;
  std::uint64_t refusals_ = 0;
};

}  // namespace common_ring

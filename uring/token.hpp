// user_data: how a completion finds its way back to the operation that asked for it.
//
// The kernel copies sqe->user_data into every CQE of that operation, verbatim, and never looks at it. A
// pointer would fit, and is what many programs store; it goes wrong the day a completion arrives after the
// object is gone (a multishot's last CQE, a zero-copy notification, the CQE of a cancelled recv whose
// connection number was reused). So we store a *name* that can be checked:
//
//      63      56 55                      24 23                     0
//     +----------+--------------------------+------------------------+
//     |   kind   |        generation        |          slot          |      8 + 32 + 24 bits
//     +----------+--------------------------+------------------------+
//
//   slot        which entry of a table; the look-up is one array access
//   generation  how often that slot had been handed out; a token from an earlier life does not match any more
//   kind        which operation of that entry completed (accept, recv, send, ...): for the loop's switch
//
// Invariant of InFlight: an entry's generation is odd while it is in use and even while it is free, so a
// token can never match a free slot. A stale token is mistaken for a live one only after 2^31 reuses of one
// slot.
#pragma once

#include <cassert>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace uring {

/// The 64 bits of sqe->user_data and cqe->user_data. Every value is legal, 0 and ~0 included: the kernel
/// reserves none.
struct Token {
  std::uint64_t bits = 0;

  constexpr std::uint8_t kind() const noexcept { return static_cast<std::uint8_t>(bits >> 56); }
  constexpr std::uint32_t generation() const noexcept { return static_cast<std::uint32_t>(bits >> 24); }
  constexpr std::uint32_t slot() const noexcept { return static_cast<std::uint32_t>(bits & 0xff'ffff); }

  friend constexpr bool operator==(Token, Token) = default;
};

/// How many slots fit into a token's 24 bits.
inline constexpr std::size_t max_token_slots = std::size_t{1} << 24;

/// `slot` must be below max_token_slots.
constexpr Token make_token(std::uint8_t kind, std::uint32_t slot, std::uint32_t generation) noexcept {
  assert(slot < max_token_slots);
  return Token{std::uint64_t{kind} << 56 | std::uint64_t{generation} << 24 | slot};
}

/// The operations (or connections) that the kernel may still complete. Every function is O(1) but for growth.
///
/// Use: `start` when an operation is prepared, `find` for each CQE, `finish` at the *last* CQE of the
/// operation (a multishot's CQE without IORING_CQE_F_MORE; for a zero-copy send, the notification). What is
/// left when the program ends was leaked: `size()` says how many, `for_each` which.
template <class Op>
class InFlight {
 public:
  /// At most `capacity` operations at a time; memory grows with use, and is reused last-freed first (it is
  /// warm).
  explicit InFlight(std::size_t capacity = max_token_slots) : capacity_(capacity) {
    assert(capacity <= max_token_slots);
  }

  /// Takes a slot for `op` and names it. Empty when `capacity` operations are in flight already.
  std::optional<Token> start(std::uint8_t kind, Op op) {
    if (first_free_ == none) {
      if (entries_.size() == capacity_) return std::nullopt;
      entries_.emplace_back();
      first_free_ = static_cast<std::uint32_t>(entries_.size() - 1);
    }
    const std::uint32_t slot = first_free_;
    Entry& entry = entries_[slot];
    entry.op.emplace(std::move(op));  // may throw: nothing has changed until it has not
    first_free_ = std::exchange(entry.next_free, none);
    ++entry.generation;
    ++size_;
    return make_token(kind, slot, entry.generation);
  }

  /// The operation that `token` names; nullptr when it is not (or no longer) in flight: a stale completion,
  /// to be ignored and counted. The pointer holds until the next `start` (which may move the table) or the
  /// operation's `finish`.
  Op* find(Token token) noexcept {
    const std::uint32_t slot = token.slot();
    if (slot >= entries_.size() || entries_[slot].generation != token.generation()) return nullptr;
    std::optional<Op>& op = entries_[slot].op;
    return op ? &*op : nullptr;
  }

  /// The same operation under another kind: one connection's recv and send share slot and generation.
  static constexpr Token with_kind(Token token, std::uint8_t kind) noexcept {
    return make_token(kind, token.slot(), token.generation());
  }

  /// Ends the operation: from here on `token` is stale. False (and nothing happens) if it was stale already.
  bool finish(Token token) noexcept {
    if (find(token) == nullptr) return false;
    Entry& entry = entries_[token.slot()];
    entry.op.reset();
    ++entry.generation;
    entry.next_free = first_free_;
    first_free_ = token.slot();
    --size_;
    return true;
  }

  std::size_t size() const noexcept { return size_; }
  std::size_t capacity() const noexcept { return capacity_; }

  /// Calls `visit(Op&)` for each operation in flight: for a report of what leaked.
  template <class Visit>
  void for_each(Visit&& visit) {
    for (Entry& entry : entries_) {
      if (entry.op) visit(*entry.op);
    }
  }

 private:
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();

  struct Entry {
    std::optional<Op> op;
    std::uint32_t generation = 0;
    std::uint32_t next_free = none;
  };

  std::vector<Entry> entries_;
  std::size_t capacity_;
  std::size_t size_ = 0;
  std::uint32_t first_free_ = none;
};

}  // namespace uring

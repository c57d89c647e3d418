// A second set of books for the buffers of a pool, kept in builds with assertions only: whoever breaks the rule
// "one buffer, one owner" is stopped at that moment, with a sentence, and not by a peer who receives garbage.
//
//            take              read_into            lend              notified
//   free ──────────► taken ───────────────► reading ─► taken ─────► lent ─────► ... ─► taken ──► free
//     ▲                                                               give_back: only when nothing is lent │
//     └────────────────────────────────────────────────────────────────────────────────────────────────────┘
//
// It is told what was asked of the kernel and what the kernel said, not what Loans thinks of it: so it can
// disagree. Three sentences, one for each way to break the rule: used while it is lent, given back twice (or
// by nobody), lost.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef NDEBUG
#include <cstdio>
#include <cstdlib>
#include <vector>
#endif

namespace common_ring {

#ifndef NDEBUG

class BufferLedger {
 public:
  explicit BufferLedger(std::size_t slots) : pages_(slots) {}

  void take(std::uint16_t slot) { move(slot, State::free, State::taken, "taken"); }
  void read_into(std::uint16_t slot) { move(slot, State::taken, State::reading, "read into"); }
  void was_read(std::uint16_t slot) {
    if (pages_[slot].state != State::reading) stop(slot, "a read ended that had not begun");
    pages_[slot].state = State::taken;
  }
  void give_back(std::uint16_t slot) { move(slot, State::taken, State::free, "given back"); }

  /// A zero-copy send was prepared; it may be the second one out of the same buffer.
  void lend(std::uint16_t slot) {
    if (pages_[slot].state != State::taken) stop(slot, "sent by somebody who does not own it");
    ++pages_[slot].lent;
  }
  /// Nothing more is to come of one send: its notification came, or its completion without F_MORE.
  void let_go(std::uint16_t slot) {
    if (pages_[slot].lent == 0) stop(slot, "notified more often than it was sent");
    --pages_[slot].lent;
  }

  /// At the end, when `kept` buffers are known to be the kernel's still.
  void check_nothing_lost(std::size_t kept) const {
    std::size_t away = 0;
    for (std::size_t slot = 0; slot < pages_.size(); ++slot) {
      if (pages_[slot].state != State::free && ++away > kept) stop(slot, "lost: nobody gave it back");
    }
  }

 private:
  enum class State : std::uint8_t { free, taken, reading };
  struct Page {
    State state = State::free;
    unsigned lent = 0;
  };

  void move(std::uint16_t slot, State from, State to, const char* what) {
    Page& page = pages_[slot];
    if (page.lent > 0) {
      std::fprintf(stderr, "buffer %u: %s while the kernel still sends out of it\n", unsigned{slot}, what);
      std::abort();
    }
    if (page.state != from) {
      std::fprintf(stderr, "buffer %u: %s, and that by somebody who does not own it\n", unsigned{slot}, what);
      std::abort();
    }
    page.state = to;
  }

  [[noreturn]] static void stop(std::size_t slot, const char* why) {
    std::fprintf(stderr, "buffer %zu: %s\n", slot, why);
    std::abort();
  }

  std::vector<Page> pages_;
};

#else

class BufferLedger {
 public:
  explicit BufferLedger(std::size_t) noexcept {}
  void take(std::uint16_t) noexcept {}
  void read_into(std::uint16_t) noexcept {}
  void was_read(std::uint16_t) noexcept {}
  void give_back(std::uint16_t) noexcept {}
  void lend(std::uint16_t) noexcept {}
  void let_go(std::uint16_t) noexcept {}
  void check_nothing_lost(std::size_t) const noexcept {}
};

#endif

}  // namespace common_ring

// One C-named function around each function of uring/indices.hpp, and around the three that a program calls
// all the time, in both modes: what the compiler makes of the orders. `make asm` prints it for x86-64 and
// arm64, and tests/barriers/asm_test.cpp checks it. Nobody runs it.
//
// gnu::flatten inlines whatever is called, so that all that belongs to a function stands in its listing.

#include "uring/ring.hpp"

#define SHOWN extern "C" [[gnu::noinline, gnu::flatten]]

using uring::Ring;
using uring::SharedWords;
using uring::SqpollRing;

// ---- uring/indices.hpp, in its order ----------------------------------------------------------------------

SHOWN void publish_sq_tail(const SharedWords& words, std::uint32_t tail) {
  uring::publish_sq_tail(words, tail);
}
SHOWN std::uint32_t load_sq_head(const SharedWords& words) { return uring::load_sq_head(words); }
SHOWN std::uint32_t load_cq_tail(const SharedWords& words) { return uring::load_cq_tail(words); }
SHOWN void publish_cq_head(const SharedWords& words, std::uint32_t head) {
  uring::publish_cq_head(words, head);
}
SHOWN std::uint32_t load_sq_flags(const SharedWords& words) { return uring::load_sq_flags(words); }
SHOWN bool needs_wakeup(const SharedWords& words) { return uring::needs_wakeup(words); }
SHOWN std::uint32_t load_sq_dropped(const SharedWords& words) { return uring::load_sq_dropped(words); }
SHOWN std::uint32_t load_cq_overflow(const SharedWords& words) { return uring::load_cq_overflow(words); }
SHOWN std::uint32_t load_own_sq_tail(const SharedWords& words) { return uring::load_own_sq_tail(words); }
SHOWN std::uint32_t load_own_cq_head(const SharedWords& words) { return uring::load_own_cq_head(words); }
SHOWN void publish_buffer_tail(std::uint16_t& shared, std::uint16_t tail) {
  uring::publish_buffer_tail(shared, tail);
}
SHOWN void fill_identity_array(std::uint32_t* array, std::uint32_t n) {
  uring::fill_identity_array(array, n);
}

// ---- uring/ring.hpp: a ring that is entered, and one that a kernel thread watches -------------------------

extern "C" void handle(const io_uring_cqe& cqe) noexcept;  // what a program does with a completion

SHOWN io_uring_sqe* ring_next_sqe(Ring& ring) { return ring.next_sqe(); }
SHOWN int ring_submit(Ring& ring) { return ring.submit(); }
SHOWN int ring_harvest(Ring& ring) { return ring.harvest(handle); }

SHOWN io_uring_sqe* sqpoll_next_sqe(SqpollRing& ring) { return ring.next_sqe(); }
SHOWN int sqpoll_submit(SqpollRing& ring) { return ring.submit(); }
SHOWN int sqpoll_harvest(SqpollRing& ring) { return ring.harvest(handle); }

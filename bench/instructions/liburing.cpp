// The same loops over liburing, where it is installed.

#include "bench/instructions/paths.hpp"

#ifdef LIBURING_VERSION

#include <liburing.h>

#include "bench/instructions/mock.hpp"

namespace bench {
namespace {

/// What io_uring_queue_init_params would have filled in, for the default flags of our own ring as far as liburing looks
/// at them. `features` matters too: without IORING_FEAT_EXT_ARG peeking would cost more.
io_uring* make_ring() {
  static io_uring ring{};
  MockWords& words = *(mock_kernel_ring = mock_rings());
  ring.sq.khead = &words.sq_head;
  ring.sq.ktail = &words.sq_tail;
  ring.sq.kflags = &words.sq_flags;
  ring.sq.kdropped = &words.sq_dropped;
  ring.sq.sqes = static_cast<io_uring_sqe*>(pages(sqes_bytes));
  ring.sq.ring_mask = sq_size - 1;
  ring.sq.ring_entries = sq_size;
  ring.cq.khead = &words.cq_head;
  ring.cq.ktail = &words.cq_tail;
  ring.cq.kflags = &words.cq_flags;
  ring.cq.koverflow = &words.cq_overflow;
  ring.cq.cqes = reinterpret_cast<io_uring_cqe*>(reinterpret_cast<char*>(&words) + cqes_offset);
  ring.cq.ring_mask = cq_size - 1;
  ring.cq.ring_entries = cq_size;
  ring.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
               IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  ring.features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
  ring.ring_fd = ring.enter_ring_fd = -1;
  return &ring;
}

io_uring* ring() {
  static io_uring* const the_ring = make_ring();
  return the_ring;
}

struct Receive {
  int fd = opaque(5);
  void* buffer = opaque(static_cast<void*>(nullptr));
  std::size_t length = opaque(std::size_t{4096});
  std::uint64_t token = opaque(std::uint64_t{7});

  [[gnu::always_inline]] void prepare_if(io_uring_sqe* sqe) const {
    if (sqe == nullptr) std::abort();
    io_uring_prep_recv(sqe, fd, buffer, length, 0);
    io_uring_sqe_set_data64(sqe, token);
  }
};

void get_sqe(std::uint64_t turns) {
  io_uring* const ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    for (unsigned i = 0; i < batch; ++i) receive.prepare_if(io_uring_get_sqe(ring));
    mock_kernel_takes_a_batch();
  }
}

/// The system call inside is kept from doing anything (main.cpp), so the SQ head moves behind it.
void sqe_and_submit(std::uint64_t turns) {
  io_uring* const ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    receive.prepare_if(io_uring_get_sqe(ring));
    io_uring_submit(ring);
    mock_kernel_takes_one();
  }
}

void sqe_without_submit(std::uint64_t turns) {
  io_uring* const ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    receive.prepare_if(io_uring_get_sqe(ring));
    mock_kernel_takes_one();
  }
}

void for_each_cqe(std::uint64_t turns) {
  io_uring* const ring = bench::ring();
  while (turns-- > 0) {
    mock_kernel_posts_a_batch();
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(ring, head, cqe) {
      touch(*cqe);
      ++count;
    }
    io_uring_cq_advance(ring, count);
  }
}

void for_each_cqe_and_add(std::uint64_t turns) {
  io_uring* const ring = bench::ring();
  std::uint64_t sum = 0;
  while (turns-- > 0) {
    mock_kernel_posts_a_batch();
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(ring, head, cqe) {
      sum += cqe->user_data;
      ++count;
    }
    io_uring_cq_advance(ring, count);
  }
  opaque(sum);
}

/// One CQE at a time, until a wait would have to begin.
void peek_cqe(std::uint64_t turns) {
  io_uring* const ring = bench::ring();
  while (turns-- > 0) {
    mock_kernel_posts_a_batch();
    for (unsigned i = 0; i < batch; ++i) {
      io_uring_cqe* cqe;
      if (io_uring_peek_cqe(ring, &cqe) != 0) std::abort();
      touch(*cqe);
      io_uring_cqe_seen(ring, cqe);
    }
  }
}

/// As in sqe_and_submit, the mock kernel comes behind the system call, and costs a call more than in ours.
void round_trip(std::uint64_t turns) {
  io_uring* const ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    receive.prepare_if(io_uring_get_sqe(ring));
    io_uring_submit_and_wait(ring, 1);
    mock_kernel_takes_and_posts_one();
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(ring, head, cqe) {
      touch(*cqe);
      ++count;
    }
    io_uring_cq_advance(ring, count);
  }
}

constexpr Path paths[] = {
    {"get_sqe", batch, get_sqe},
    {"SQE and submit", 1, sqe_and_submit},
    {"SQE without submit", 1, sqe_without_submit},
    {"round trip", 1, round_trip},
    {"for_each_cqe", batch, for_each_cqe},
    {"for_each_cqe and add", batch, for_each_cqe_and_add},
    {"peek_cqe", batch, peek_cqe},
};

}  // namespace

std::span<const Path> liburing_paths() { return paths; }
std::string_view liburing_version() { return LIBURING_VERSION; }

}  // namespace bench

#else

std::span<const bench::Path> bench::liburing_paths() { return {}; }
std::string_view bench::liburing_version() { return {}; }

#endif

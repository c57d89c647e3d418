// The loops over our ring layer.

#include <linux/io_uring.h>

#include "bench/instructions/mock.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

/// Takes what it is offered, and has what it is asked for. The ring calls it through a pointer that it keeps in memory,
/// as it calls the real one.
extern "C" int mock_kernel_enter(void*, int, unsigned to_submit, unsigned min_complete, unsigned,
                                 const uring::abi::getevents_arg*) {
  mock_kernel_ring->sq_head += to_submit;
  mock_kernel_ring->cq_tail += min_complete;
  return static_cast<int>(to_submit);
}

namespace bench {
namespace {

int setup(void*, unsigned, io_uring_params* params) {
  params->sq_entries = sq_size;
  params->cq_entries = cq_size;
  params->features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
  params->sq_off.head = offsetof(MockWords, sq_head);
  params->sq_off.tail = offsetof(MockWords, sq_tail);
  params->sq_off.ring_mask = offsetof(MockWords, sq_mask);
  params->sq_off.ring_entries = offsetof(MockWords, sq_entries);
  params->sq_off.flags = offsetof(MockWords, sq_flags);
  params->sq_off.dropped = offsetof(MockWords, sq_dropped);
  params->cq_off.head = offsetof(MockWords, cq_head);
  params->cq_off.tail = offsetof(MockWords, cq_tail);
  params->cq_off.ring_mask = offsetof(MockWords, cq_mask);
  params->cq_off.ring_entries = offsetof(MockWords, cq_entries);
  params->cq_off.overflow = offsetof(MockWords, cq_overflow);
  params->cq_off.cqes = cqes_offset;
  params->cq_off.flags = offsetof(MockWords, cq_flags);
  return memfd_create("mock ring", MFD_CLOEXEC);
}

int refuse_register(void*, int, unsigned, void*, unsigned) { return -EINVAL; }

int map(void*, int, std::size_t, std::uint64_t offset, void** address) {
  *address = offset == IORING_OFF_SQ_RING ? mock_kernel_ring = mock_rings() : pages(sqes_bytes);
  return 0;
}

constexpr uring::Kernel mock_kernel{setup, mock_kernel_enter, refuse_register, map, nullptr};

uring::Ring& ring() {
  static uring::Ring the_ring({.entries = sq_size, .cq_entries = cq_size}, mock_kernel);
  return the_ring;
}

/// What the SQEs ask for: values in registers.
struct Receive {
  int fd = opaque(5);
  void* buffer = opaque(static_cast<void*>(nullptr));
  std::uint32_t length = opaque(4096U);
  uring::Token token{opaque(std::uint64_t{7})};

  [[gnu::always_inline]] void prepare(io_uring_sqe& sqe) const {
    uring::prep::recv(sqe, fd, buffer, length, 0, token);
  }
  [[gnu::always_inline]] void prepare_if(io_uring_sqe* sqe) const {
    if (sqe == nullptr) std::abort();
    prepare(*sqe);
  }
};

void batch_take(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    auto cursor = ring.batch(batch);
    for (unsigned i = 0; i < batch; ++i) receive.prepare(cursor.take());
    cursor.commit();
    mock_kernel_takes_a_batch();
  }
}

void batch_next(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    auto cursor = ring.batch(batch);
    for (unsigned i = 0; i < batch; ++i) receive.prepare_if(cursor.next());
    cursor.commit();
    mock_kernel_takes_a_batch();
  }
}

void next_sqe(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    for (unsigned i = 0; i < batch; ++i) receive.prepare_if(ring.next_sqe());
    mock_kernel_takes_a_batch();
  }
}

/// The loop of the three above, without a ring.
void empty(std::uint64_t turns) {
  const Receive receive;
  while (turns-- > 0) {
    for (unsigned i = 0; i < batch; ++i) touch(receive);
    mock_kernel_idles();
  }
}

void sqe_and_submit(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    receive.prepare_if(ring.next_sqe());
    ring.submit();
  }
}

/// The same with the smallest call in the place of submit.
void sqe_and_call(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    receive.prepare_if(ring.next_sqe());
    mock_kernel_takes_one();
  }
}

void harvest(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  while (turns-- > 0) {
    mock_kernel_posts_a_batch();
    ring.harvest([](const io_uring_cqe& cqe) { touch(cqe); });
  }
}

void harvest_and_add(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  std::uint64_t sum = 0;
  while (turns-- > 0) {
    mock_kernel_posts_a_batch();
    ring.harvest([&sum](const io_uring_cqe& cqe) { sum += cqe.user_data; });
  }
  opaque(sum);
}

void round_trip(std::uint64_t turns) {
  uring::Ring& ring = bench::ring();
  const Receive receive;
  while (turns-- > 0) {
    receive.prepare_if(ring.next_sqe());
    ring.submit_and_wait(1);
    ring.harvest([](const io_uring_cqe& cqe) { touch(cqe); });
  }
}

/// Through the seam, as submit does it: to the mock, which is not counted, and to the real kernel, which is kept from
/// doing anything (main.cpp).
void enter(const uring::Kernel* kernel, std::uint64_t turns) {
  kernel = opaque(kernel);
  while (turns-- > 0) kernel->enter(kernel->self, -1, 0, 0, 0, nullptr);
}

constexpr Path paths[] = {
    {"batch, take", batch, batch_take},
    {"batch, next", batch, batch_next},
    {"next_sqe", batch, next_sqe},
    {"empty", batch, empty},
    {"SQE and submit", 1, sqe_and_submit},
    {"SQE and call", 1, sqe_and_call},
    {"harvest", batch, harvest},
    {"harvest and add", batch, harvest_and_add},
    {"round trip", 1, round_trip},
    {"enter mock", 1, [](std::uint64_t turns) { enter(&mock_kernel, turns); }},
    {"enter real", 1, [](std::uint64_t turns) { enter(&uring::real_kernel, turns); }},
};

}  // namespace

std::span<const Path> our_paths() { return paths; }

}  // namespace bench

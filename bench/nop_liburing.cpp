#include "bench/nop_liburing.hpp"

#ifdef LIBURING_VERSION

#include <liburing.h>

#include <memory>
#include <system_error>

struct bench::LiburingRing {
  io_uring ring;
};

std::string_view bench::liburing_version() { return LIBURING_VERSION; }

bench::LiburingRing* bench::open_liburing(unsigned entries, unsigned cq_entries, std::uint32_t flags) {
  auto opened = std::make_unique<LiburingRing>();
  io_uring_params params{};
  params.flags = flags;
  params.cq_entries = cq_entries;
  if (const int error = io_uring_queue_init_params(entries, &opened->ring, &params); error < 0) {
    throw std::system_error(-error, std::generic_category(), "io_uring_queue_init_params");
  }
  io_uring_register_ring_fd(&opened->ring);  // where the kernel has it (5.18), as uring::Ring does
  return opened.release();
}

void bench::close_liburing(LiburingRing* opened) {
  io_uring_queue_exit(&opened->ring);
  delete opened;
}

std::uint64_t bench::run(LiburingRing& opened, std::uint64_t rounds, unsigned batch) {
  io_uring* const ring = &opened.ring;
  std::uint64_t sum = 0;
  while (rounds-- > 0) {
    for (unsigned i = 1; i <= batch; ++i) {
      io_uring_sqe* const sqe = io_uring_get_sqe(ring);
      if (sqe == nullptr) return 0;
      io_uring_prep_nop(sqe);
      io_uring_sqe_set_data64(sqe, i);
    }
    if (io_uring_submit_and_wait(ring, batch) != static_cast<int>(batch)) return 0;
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(ring, head, cqe) {
      sum += cqe->user_data;
      ++count;
    }
    io_uring_cq_advance(ring, count);
    if (count != batch) return 0;
  }
  return sum;
}

#else

std::string_view bench::liburing_version() { return {}; }
bench::LiburingRing* bench::open_liburing(unsigned, unsigned, std::uint32_t) { return nullptr; }
void bench::close_liburing(LiburingRing*) {}
std::uint64_t bench::run(LiburingRing&, std::uint64_t, unsigned) { return 0; }

#endif

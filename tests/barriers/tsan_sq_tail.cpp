// SQ tail: a release by the application, an acquire by the kernel. It publishes the 64 bytes of each SQE.
//
// The SQ is filled once and never refilled, so no slot is written twice, and the SQ tail is the only word
// that passes between the two threads. TSan's report for sq_tail_relaxed: the kernel *reads* an SQE that the
// application *wrote*.

#include "tests/barriers/mock_ring.hpp"
#include "uring/prep_files.hpp"

namespace {

constexpr unsigned entries = 256;

unsigned kernel_reads_sqes(const barriers::MockRing& mock, std::uint32_t start) {
  unsigned wrong = 0;
  std::uint32_t cached_sq_head = start;
  while (cached_sq_head - start != entries) {
    const std::uint32_t published = mock.io_sqring_entries(cached_sq_head);
    if (published == 0) std::this_thread::yield();
    for (std::uint32_t left = published; left != 0; --left, ++cached_sq_head) {
      const io_uring_sqe sqe = mock.sqe(cached_sq_head);
      if (sqe.opcode != IORING_OP_NOP || sqe.user_data != cached_sq_head) ++wrong;
    }
  }
  return wrong;
}

unsigned application_submits(uring::SqpollRing& ring, std::uint32_t start) {
  std::uint32_t index = start;
  while (io_uring_sqe* const sqe = ring.next_sqe()) {  // until it is full: nobody gives a slot back
    uring::prep::nop(*sqe, uring::Token{index++});
    ring.submit();
  }
  return index - start == entries ? 0 : 1;
}

unsigned exchange(std::uint32_t start) {
  barriers::MockRing mock(start, entries);
  uring::SqpollRing ring = barriers::application_ring(mock);
  return barriers::run_both([&] { return kernel_reads_sqes(mock, start); },
                            [&] { return application_submits(ring, start); });
}

}  // namespace

int main(int argc, char** argv) { return barriers::run_harness(argc, argv, {0, 0U - entries / 2}, exchange); }

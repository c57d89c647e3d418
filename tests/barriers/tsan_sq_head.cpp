// SQ head: a release by the kernel, an acquire by the application. It says that the kernel has read the SQEs
// before it.
//
// The SQ is so small that every slot is used several times. The SQ tail is there too (how else would the
// kernel know of an SQE?), but its edge leads the other way. TSan's report for sq_head_relaxed: the
// application *writes* an SQE into a slot that the kernel *read*.

#include "tests/barriers/mock_ring.hpp"
#include "uring/prep_files.hpp"

namespace {

constexpr unsigned entries = 16;
constexpr unsigned laps = 8;

unsigned kernel_takes_sqes(barriers::MockRing& mock, std::uint32_t start) {
  unsigned wrong = 0;
  std::uint32_t cached_sq_head = start;
  while (cached_sq_head - start != entries * laps) {
    const std::uint32_t published = mock.io_sqring_entries(cached_sq_head);
    if (published == 0) std::this_thread::yield();
    for (std::uint32_t left = published; left != 0; --left, ++cached_sq_head) {
      const io_uring_sqe sqe = mock.sqe(cached_sq_head);
      if (sqe.opcode != IORING_OP_NOP || sqe.user_data != cached_sq_head) ++wrong;
    }
    mock.io_commit_sqring(cached_sq_head);
  }
  return wrong;
}

unsigned application_refills(uring::SqpollRing& ring, std::uint32_t start) {
  for (std::uint32_t i = 0; i != entries * laps;) {
    if (io_uring_sqe* const sqe = ring.next_sqe()) {
      uring::prep::nop(*sqe, uring::Token{start + i++});
    } else {
      ring.submit();
      std::this_thread::yield();
    }
  }
  ring.submit();
  return 0;
}

unsigned exchange(std::uint32_t start) {
  barriers::MockRing mock(start, entries);
  uring::SqpollRing ring = barriers::application_ring(mock);
  return barriers::run_both([&] { return kernel_takes_sqes(mock, start); },
                            [&] { return application_refills(ring, start); });
}

}  // namespace

int main(int argc, char** argv) {
  return barriers::run_harness(argc, argv, {0, 0U - entries * laps / 2}, exchange);
}

// CQ tail: a release by the kernel, an acquire by the application. It publishes the 16 bytes of each CQE.
//
// The kernel fills the CQ once and never looks at its head, so the CQ tail is the only word that passes
// between the two threads. TSan's report for cq_tail_relaxed: the application *reads* a CQE that the kernel
// *wrote*.

#include "tests/barriers/mock_ring.hpp"

namespace {

constexpr unsigned entries = 256;

unsigned kernel_posts_cqes(barriers::MockRing& mock, std::uint32_t start) {
  for (std::uint32_t cached_cq_tail = start; cached_cq_tail - start != entries;) {
    io_uring_cqe& cqe = mock.cqe(cached_cq_tail);
    cqe.user_data = cached_cq_tail;
    cqe.res = 7;
    cqe.flags = 0;
    mock.io_commit_cqring(++cached_cq_tail);
  }
  return 0;
}

unsigned application_harvests(uring::SqpollRing& ring, std::uint32_t start) {
  unsigned wrong = 0;
  for (std::uint32_t next = start; next - start != entries;) {
    const int handled = ring.harvest([&](const io_uring_cqe& cqe) {
      if (cqe.user_data != next++ || cqe.res != 7) ++wrong;
    });
    if (handled == 0) std::this_thread::yield();
  }
  return wrong;
}

unsigned exchange(std::uint32_t start) {
  barriers::MockRing mock(start, entries);
  uring::SqpollRing ring = barriers::application_ring(mock);
  return barriers::run_both([&] { return kernel_posts_cqes(mock, start); },
                            [&] { return application_harvests(ring, start); });
}

}  // namespace

int main(int argc, char** argv) { return barriers::run_harness(argc, argv, {0, 0U - entries / 2}, exchange); }

// CQ head: a release by the application, an acquire by the kernel. It says that the application has read the
// CQEs before it.
//
// The CQ is so small that every slot is used several times, and nothing is ever submitted: the release of
// an SQ tail would say the same thing, and hide that this one is missing. (A multishot operation completes
// like that: one SQE long ago, and CQEs without end.) TSan's report for cq_head_relaxed: the kernel *writes*
// a CQE into a slot that the application *read*.

#include "tests/barriers/mock_ring.hpp"

namespace {

constexpr unsigned entries = 16;
constexpr unsigned laps = 8;

unsigned kernel_reuses_slots(barriers::MockRing& mock, std::uint32_t start) {
  for (std::uint32_t cached_cq_tail = start; cached_cq_tail - start != entries * laps;) {
    if (mock.io_cqe_cache_refill(cached_cq_tail) == 0) {
      std::this_thread::yield();
      continue;
    }
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
  for (std::uint32_t next = start; next - start != entries * laps;) {
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
  return barriers::run_both([&] { return kernel_reuses_slots(mock, start); },
                            [&] { return application_harvests(ring, start); });
}

}  // namespace

int main(int argc, char** argv) {
  return barriers::run_harness(argc, argv, {0, 0U - entries * laps / 2}, exchange);
}

#include "bench/instructions/mock.hpp"

bench::MockWords* mock_kernel_ring = nullptr;

void mock_kernel_takes_one() noexcept { ++mock_kernel_ring->sq_head; }
void mock_kernel_takes_a_batch() noexcept { mock_kernel_ring->sq_head += bench::batch; }
void mock_kernel_posts_a_batch() noexcept { mock_kernel_ring->cq_tail += bench::batch; }
void mock_kernel_takes_and_posts_one() noexcept {
  ++mock_kernel_ring->sq_head;
  ++mock_kernel_ring->cq_tail;
}
void mock_kernel_idles() noexcept {}

// The shared words, one by one: each function touches its own word and no other, and the arithmetic wraps at
// 2^32. Whether the orders are strong enough is proved in tests/barriers/.

#include "uring/indices.hpp"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

namespace {

using uring::Orders;
using uring::SharedWords;

// Seven words with a value of their own each, so that a wrong one is noticed.
struct Page {
  std::array<std::uint32_t, 7> words{100, 101, 102, 103, 104, 105, 106};

  SharedWords shared() {
    return {.sq_head = &words[0],
            .sq_tail = &words[1],
            .sq_flags = &words[2],
            .sq_dropped = &words[3],
            .cq_head = &words[4],
            .cq_tail = &words[5],
            .cq_overflow = &words[6]};
  }
};

std::vector<std::memory_order> list(const Orders& orders) {
  return {orders.sq_tail_store, orders.sq_head_load,      orders.cq_tail_load,
          orders.cq_head_store, orders.buffer_tail_store, orders.wakeup_fence};
}

}  // namespace

TEST_CASE("each load reads its own word") {
  Page page;
  const SharedWords words = page.shared();
  CHECK(uring::load_sq_head(words) == 100);
  CHECK(uring::load_own_sq_tail(words) == 101);
  CHECK(uring::load_sq_flags(words) == 102);
  CHECK(uring::load_sq_dropped(words) == 103);
  CHECK(uring::load_own_cq_head(words) == 104);
  CHECK(uring::load_cq_tail(words) == 105);
  CHECK(uring::load_cq_overflow(words) == 106);
}

TEST_CASE("the application writes SQ tail and CQ head, and never a word of the kernel's") {
  Page page;
  uring::publish_sq_tail(page.shared(), 7);
  uring::publish_cq_head(page.shared(), 8);
  CHECK(page.words == std::array<std::uint32_t, 7>{100, 7, 102, 103, 8, 105, 106});
}

TEST_CASE("NEED_WAKEUP is one bit among others") {
  Page page;
  page.words[2] = 0;
  CHECK_FALSE(uring::needs_wakeup(page.shared()));
  page.words[2] = IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN;
  CHECK_FALSE(uring::needs_wakeup(page.shared()));
  page.words[2] |= IORING_SQ_NEED_WAKEUP;
  CHECK(uring::needs_wakeup(page.shared()));
}

TEST_CASE("the tail of a buffer ring is 16 bits wide and touches no neighbour") {
  std::array<std::uint16_t, 3> memory{1, 2, 3};
  uring::publish_buffer_tail(memory[1], 0xffff);
  CHECK(memory == std::array<std::uint16_t, 3>{1, 0xffff, 3});
  uring::publish_buffer_tail(memory[1], static_cast<std::uint16_t>(memory[1] + 1));
  CHECK(memory == std::array<std::uint16_t, 3>{1, 0, 3});
}

TEST_CASE("the identity array is the identity, and ends where it ends") {
  std::vector<std::uint32_t> array(10, 0xdead);
  uring::fill_identity_array(array.data() + 1, 8);
  CHECK(array == std::vector<std::uint32_t>{0xdead, 0, 1, 2, 3, 4, 5, 6, 7, 0xdead});
  uring::fill_identity_array(array.data(), 0);
  CHECK(array[0] == 0xdead);
}

TEST_CASE("full and empty differ, and tail - head counts right, on both sides of 2^32") {
  constexpr std::uint32_t entries = 8;
  for (std::uint32_t head = 0U - 20; head != 20; ++head) {
    for (std::uint32_t used = 0; used <= entries; ++used) {
      const std::uint32_t tail = head + used;
      CHECK(tail - head == used);
      CHECK((tail == head) == (used == 0));
      CHECK((tail == head + entries) == (used == entries));
    }
    // The slots of one lap are all different, wherever it begins.
    unsigned slots = 0;
    for (std::uint32_t i = 0; i < entries; ++i) slots |= 1U << ((head + i) & (entries - 1));
    CHECK(slots == 0xff);
  }
}

TEST_CASE("the orders of this build are the correct ones") {
  CHECK(list(uring::orders) == list(uring::mutants::correct));
  CHECK(list(Orders{}) == std::vector{std::memory_order_release, std::memory_order_acquire,
                                      std::memory_order_acquire, std::memory_order_release,
                                      std::memory_order_release, std::memory_order_seq_cst});
}

TEST_CASE("each mutant weakens exactly one order, and every order has a mutant") {
  namespace mutants = uring::mutants;
  const std::vector<std::memory_order> correct = list(mutants::correct);
  std::vector<int> weakened(correct.size(), 0);
  for (const Orders& mutant : {mutants::sq_tail_relaxed, mutants::sq_head_relaxed, mutants::cq_tail_relaxed,
                               mutants::cq_head_relaxed, mutants::buffer_tail_relaxed,
                               mutants::wakeup_fence_missing, mutants::wakeup_fence_acquire}) {
    int differences = 0;
    for (std::size_t i = 0; i < correct.size(); ++i) {
      if (list(mutant)[i] == correct[i]) continue;
      ++differences;
      ++weakened[i];
    }
    CHECK(differences == 1);
  }
  CHECK(weakened == std::vector<int>{1, 1, 1, 1, 1, 2});
}

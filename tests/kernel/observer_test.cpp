// The observer: sees every enter and both rings around it, changes nothing.

#include "uring/observer.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <vector>

#include "tests/support/skip.hpp"
#include "tests/support/sqe.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace {

using uring::EnterEvent;
using uring::Token;

void record(void* context, const EnterEvent& event) {
  static_cast<std::vector<EnterEvent>*>(context)->push_back(event);
}

TEST_CASE("an observer sees what the application moved before an enter and what the kernel moved during it") {
  SKIP_WITHOUT_IO_URING();
  std::vector<EnterEvent> events;
  uring::Observer observer(record, &events);
  uring::Ring ring({.entries = 8}, observer.kernel());
  for (std::uint64_t i = 0; i < 3; ++i) uring::prep::nop(tests::must(ring.next_sqe()), Token{i + 70});
  CHECK(ring.submit() == 3);
  REQUIRE(events.size() == 1);
  const EnterEvent first = events[0];
  CHECK(first.to_submit == 3);
  CHECK(first.result == 3);
  CHECK(first.previous.sq_tail == 0);
  CHECK(first.before.sq_tail == 3);
  CHECK(first.before.sq_head == 0);
  CHECK(first.after.sq_head == 3);
  CHECK(first.before.cq_tail == 0);
  CHECK(first.after.cq_tail == 3);
  for (std::uint32_t i = first.before.sq_head; i != first.before.sq_tail; ++i) {
    CHECK(first.sqes[i & first.sq_mask].opcode == IORING_OP_NOP);
    CHECK(first.sqes[i & first.sq_mask].user_data == 70 + i);
    CHECK(first.cqes[i & first.cq_mask].user_data == 70 + i);
  }

  CHECK(ring.harvest([](const io_uring_cqe&) {}) == 3);
  uring::prep::nop(tests::must(ring.next_sqe()), Token{99});
  CHECK(ring.submit() == 1);
  REQUIRE(events.size() == 2);
  CHECK(events[1].previous.cq_head == 0);
  CHECK(events[1].before.cq_head == 3);  // the harvest, seen at the next enter
}

TEST_CASE("an observer passes errors on as they are") {
  SKIP_WITHOUT_IO_URING();
  std::vector<EnterEvent> events;
  uring::Observer observer(record, &events);
  uring::Ring ring({.entries = 8, .flags = uring::default_setup_flags | IORING_SETUP_R_DISABLED},
                   observer.kernel());
  uring::prep::nop(tests::must(ring.next_sqe()), Token{1});
  CHECK(ring.submit() == -EBADFD);
  REQUIRE(events.size() == 1);
  CHECK(events[0].result == -EBADFD);
  CHECK(events[0].after.sq_head == 0);
}

}  // namespace

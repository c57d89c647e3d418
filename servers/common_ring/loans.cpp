#include "servers/common_ring/loans.hpp"

#include <sys/socket.h>

#include <cassert>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "servers/common/start_error.hpp"
#include "servers/common_ring/connection.hpp"
#include "uring/prep_sockets.hpp"

namespace common_ring {

uring::Buffer Loans::take() {
  uring::Buffer buffer = pool_.take();
  if (buffer) ledger_.take(buffer.index());
  return buffer;
}

void Loans::give_back(uring::Buffer& buffer) {
  if (!buffer) return;
  Loan& loan = loan_of(buffer);
  if (loan.sender != nullptr || loan.due > 0) {
    ++kept_;
    loan.kept = std::move(buffer);
    return;
  }
  ledger_.give_back(buffer.index());
  buffer.give_back();
}

Loan& Loans::lend(const uring::Buffer& buffer, Connection& sender) {
  Loan& loan = loan_of(buffer);
  assert(loan.sender == nullptr);
  if (loan.due == 0) ++lent_;
  loan.sender = &sender;
  loan.reports = reports_usage_;
  ledger_.lend(buffer.index());
  return loan;
}

// MSG_WAITALL as for a send that copies: one completion when all is queued, however often the socket fills up.
void Loans::prepare(io_uring_sqe& sqe, const Loan& loan, int fd, const std::byte* from, std::uint32_t bytes,
                    uring::Token token) const noexcept {
  const std::uint16_t report = loan.reports ? uring::abi::send_zc_report_usage : std::uint16_t{0};
  if (pool_.registered()) {
    uring::prep::send_zc_fixed(sqe, fd, from, bytes, MSG_WAITALL, report, slot_of(loan), token);
  } else {
    uring::prep::send_zc(sqe, fd, from, bytes, MSG_WAITALL, report, token);
  }
}

Connection& Loans::sent(Loan& loan, int& result, std::uint32_t flags) {
  Connection& sender = *std::exchange(loan.sender, nullptr);
  if (result > 0) ++sends_;
  if ((flags & IORING_CQE_F_MORE) != 0) {
    ++loan.due;
    ++due_;
    if (result <= 0) ++loan.for_nothing;
  } else {
    ledger_.let_go(slot_of(loan));
    settle(loan);
  }
  switch (result) {
    case -EOPNOTSUPP:
    case -EINVAL:
    case -ENOMEM:
    case -ENOBUFS:
      refused(loan, sender, std::exchange(result, 0));
      break;
    default:
      break;
  }
  return sender;
}

void Loans::notified(Loan& loan, int result) {
  assert(loan.due > 0 && due_ > 0);
  // res is the usage report, a word of flags whose highest bit makes it look like an errno.
  if (loan.for_nothing > 0) {
    --loan.for_nothing;
  } else if ((static_cast<std::uint32_t>(result) & uring::abi::notif_usage_zc_copied) != 0) {
    ++copied_;
  }
  --loan.due;
  --due_;
  ledger_.let_go(slot_of(loan));
  settle(loan);
}

// Something that was to come has come. If it was the last, the loan is over.
void Loans::settle(Loan& loan) {
  if (loan.sender != nullptr || loan.due > 0) return;
  --lent_;
  if (!loan.kept) return;
  --kept_;
  ledger_.give_back(loan.kept.index());
  loan.kept.give_back();
}

// Which of them is a matter of this kind of socket or kernel, and so of all sends to come, and which of this
// moment: memory comes back.
void Loans::refused(const Loan& loan, Connection& sender, int result) {
  if (result == -EINVAL && loan.reports) {  // 6.0 and 6.1 do not know that flag
    reports_usage_ = false;
    return;
  }
  ++refusals_;
  const bool for_good = result == -EOPNOTSUPP || result == -EINVAL;
  if (for_good) {
    enabled_ = false;
  } else {
    sender.copy_next = true;
  }
  if (std::exchange(said_, result) == result) return;
  std::fprintf(
      stderr, "zero copy: the kernel refused SEND_ZC (%s): %s\n", common::errno_text(-result).c_str(),
      for_good ? "plain SEND from here on" : "plain SEND for this piece; the next one is tried again");
  if (result == -ENOMEM && !pool_.registered()) {
    std::fprintf(stderr, "  What is lent counts as locked memory; `ulimit -l` is the limit in KiB.\n");
  }
}

void Loans::add_to(common::Counters& counters) const noexcept {
  counters.zc_sends = sends_;
  counters.zc_copied = copied_;
  counters.zc_refused = refusals_;
}

void Loans::print() const {
  if (!wanted_) return;
  const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  std::fprintf(stderr,
               "zero copy: %llu sends, %llu of them copied by the kernel all the same%s, %llu refused\n",
               number(sends_), number(copied_), reports_usage_ ? "" : " (this kernel does not report it)",
               number(refusals_));
}

}  // namespace common_ring

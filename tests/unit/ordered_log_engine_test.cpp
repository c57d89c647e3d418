// The log, operation by operation: which SQEs it prepares when, and what it makes of each result. The kernel is the mock,
// so every completion comes when the test says so.

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <list>
#include <string>
#include <vector>

#include "servers/m4_ordered_log/log_ring.hpp"
#include "tests/mock/mock_kernel.hpp"

namespace {

using ordered_log::Order;

constexpr int wrote_all = 1 << 30;  // stands for the length of the write

/// A log whose kernel does nothing by itself.
class Bench {
 public:
  explicit Bench(Order order, int file = 1000, const mock::Options& options = {})
      : kernel_(options), ring_(kernel_.seam()), log_(ring_.loop(), ring_.operations(), file, 0, order) {}

  /// Records of 10 bytes: 30 in the file.
  void append(unsigned count = 1) {
    for (unsigned i = 0; i < count; ++i) {
      records_.emplace_back().allocate(10);
      log_.append(records_.back());
    }
    pump();
  }

  /// Submits, and takes in; answers are collected as "number:OK" and "number:errno".
  void pump() {
    CHECK(ring_.pump(log_) == 0);
    log_.answer([this](ordered_log::Append& answered) {
      std::size_t number = 0;
      for (const auto& record : records_) {
        if (&record == &answered) break;
        ++number;
      }
      answers_ += (answers_.empty() ? "" : " ") + std::to_string(number) + ':' +
                  (answered.error == 0 ? "OK" : std::to_string(answered.error));
    });
  }

  /// What was submitted since this was asked last: W, F and T, each with d for DRAIN or - for a link behind it.
  std::string submitted() {
    std::string text;
    for (; seen_ < kernel_.taken().size(); ++seen_) {
      const io_uring_sqe& sqe = kernel_.taken()[seen_];
      text += sqe.opcode == IORING_OP_WRITE ? 'W' : sqe.opcode == IORING_OP_FSYNC ? 'F' : 'T';
      if ((sqe.flags & IOSQE_IO_DRAIN) != 0) text += 'd';
      if ((sqe.flags & IOSQE_IO_LINK) != 0) text += '-';
    }
    return text;
  }
  /// Completes the SQE that was submitted as the `number`th, from 0.
  void complete(std::size_t number, int result = wrote_all) {
    const io_uring_sqe& sqe = kernel_.taken().at(number);
    if (result == wrote_all) result = sqe.opcode == IORING_OP_WRITE ? static_cast<int>(sqe.len) : 0;
    CHECK(kernel_.complete(sqe.user_data, result));
    pump();
  }
  void complete(std::initializer_list<std::size_t> numbers) {
    for (const std::size_t number : numbers) complete(number);
  }
  const io_uring_sqe& sqe(std::size_t number) const { return kernel_.taken().at(number); }

  std::string answers() { return std::exchange(answers_, {}); }
  const ordered_log::Append& record(std::size_t number) const {
    return *std::next(records_.begin(), static_cast<std::ptrdiff_t>(number));
  }
  ordered_log::Log<>& log() { return log_; }
  mock::MockKernel& kernel() { return kernel_; }

 private:
  mock::MockKernel kernel_;
  ordered_log::LogRing ring_;
  ordered_log::Log<> log_;
  std::list<ordered_log::Append> records_{};
  std::size_t seen_ = 0;
  std::string answers_{};
};

}  // namespace

TEST_CASE("wait: the fsync comes when the writes are back, and one covers what was written meanwhile") {
  Bench bench(Order::wait);
  bench.append(3);
  CHECK(bench.submitted() == "WWW");
  bench.complete(1);
  bench.complete(0);
  CHECK(bench.submitted() == "");
  bench.complete(2);
  CHECK(bench.submitted() == "F");
  bench.append(2);
  CHECK(bench.submitted() == "WW");  // while the fsync runs
  bench.complete(4);
  bench.complete(5);
  CHECK(bench.answers() == "");
  bench.complete(3);
  CHECK(bench.answers() == "0:OK 1:OK 2:OK");
  CHECK(bench.submitted() == "F");
  bench.complete(6);
  CHECK(bench.answers() == "3:OK 4:OK");
  CHECK(bench.record(4).offset == 120);
  CHECK(bench.log().is_idle());
}

TEST_CASE("drain: writes and fsync are submitted together, the next batch behind them") {
  Bench bench(Order::drain);
  bench.append(2);
  CHECK(bench.submitted() == "WWFd");
  bench.append(1);
  CHECK(bench.submitted() == "WFd");
  bench.append(1);
  CHECK(bench.submitted() == "");  // two batches at most
  bench.complete({0, 1, 2});
  CHECK(bench.answers() == "0:OK 1:OK");
  CHECK(bench.submitted() == "WFd");
  bench.complete({3, 4, 5, 6});
  CHECK(bench.answers() == "2:OK 3:OK");
}

TEST_CASE("link: one chain at a time, its fsync at the end") {
  Bench bench(Order::link);
  bench.append(3);
  CHECK(bench.submitted() == "W-W-W-F");
  bench.append(2);
  CHECK(bench.submitted() == "");
  bench.complete({0, 1, 2, 3});
  CHECK(bench.answers() == "0:OK 1:OK 2:OK");
  CHECK(bench.submitted() == "W-W-F");
}

TEST_CASE("a write that fails: nothing new begins, then cut, fsync, and the good prefix is acknowledged") {
  Bench bench(Order::wait);
  bench.append(3);
  bench.complete(1, -ENOSPC);
  bench.append(1);
  CHECK(bench.submitted() == "WWW");  // the fourth waits
  bench.complete(2);
  bench.complete(0);
  CHECK(bench.submitted() == "T");
  CHECK(bench.sqe(3).off == 30);
  CHECK(bench.answers() == "");  // not before the cut is durable
  bench.complete(3);
  CHECK(bench.submitted() == "F");
  bench.complete(4);
  CHECK(bench.answers() == "0:OK 1:28 2:28");
  CHECK(bench.submitted() == "W");  // the fourth, in the place of the second
  CHECK(bench.sqe(5).off == 30);
  bench.complete(5);
  bench.complete(6);
  CHECK(bench.answers() == "3:OK");
}

TEST_CASE("a short write is a failure") {
  Bench bench(Order::wait);
  bench.append(1);
  bench.complete(0, 29);
  CHECK(bench.submitted() == "WT");
  CHECK(bench.sqe(1).off == 0);
  bench.complete(1);
  bench.complete(2);
  CHECK(bench.answers() == "0:28");
}

TEST_CASE("a broken chain says why by its first failure, not by the cancelled ones") {
  Bench bench(Order::link);
  bench.append(3);
  bench.complete(3, -ECANCELED);
  bench.complete(2, -ECANCELED);
  bench.complete(1, -EDQUOT);
  bench.complete(0);
  CHECK(bench.submitted() == "W-W-W-FT");
  CHECK(bench.sqe(4).off == 30);
  bench.complete(4);
  bench.complete(5);
  CHECK(bench.answers() == "0:OK 1:122 2:122");
}

TEST_CASE(
    "an fsync that fails: what was written and not acknowledged is gone, whatever a second fsync says") {
  Bench bench(Order::wait);
  bench.append(1);
  bench.complete(0);
  bench.append(1);
  bench.complete(2);
  bench.complete(1, -EIO);
  CHECK(bench.submitted() == "WFWT");
  CHECK(bench.sqe(3).off == 0);
  bench.complete(3);
  bench.complete(4);
  CHECK(bench.answers() == "0:5 1:5");
}

TEST_CASE("drain: the good news of the second fsync does not help the first batch") {
  Bench bench(Order::drain);
  bench.append(1);
  bench.append(1);
  CHECK(bench.submitted() == "WFdWFd");
  bench.complete(0);
  bench.complete(2);
  bench.complete(1, -EIO);
  bench.complete(3);
  CHECK(bench.answers() == "");
  CHECK(bench.submitted() == "T");
  bench.complete(4);
  bench.complete(5);
  CHECK(bench.answers() == "0:5 1:5");
}

TEST_CASE("a repair that fails makes the log unusable: everything fails, also what comes later") {
  for (const bool cut_fails : {true, false}) {
    Bench bench(Order::wait);
    bench.append(2);
    bench.complete(0, -EIO);
    bench.append(1);
    bench.complete(1);
    bench.complete(2, cut_fails ? -EPERM : 0);
    if (!cut_fails) bench.complete(3, -EIO);
    CHECK(bench.log().unusable() == (cut_fails ? EPERM : EIO));
    CHECK(bench.answers() == (cut_fails ? "0:1 1:1 2:1" : "0:5 1:5 2:5"));
    bench.append(1);
    CHECK(bench.answers() == (cut_fails ? "3:1" : "3:5"));
    bench.submitted();
    bench.append(1);
    CHECK(bench.submitted() == "");
    CHECK(bench.log().is_idle());
  }
}

TEST_CASE("a kernel without FTRUNCATE: the cut is made by ftruncate(2)") {
  const uring::FileDescriptor file(::memfd_create("log", MFD_CLOEXEC));
  CHECK(::ftruncate(file.get(), 77) == 0);
  Bench bench(Order::wait, file.get());
  bench.append(2);
  bench.complete(0);
  bench.complete(1, -EFBIG);
  bench.complete(2, -EINVAL);
  CHECK(::lseek(file.get(), 0, SEEK_END) == 30);
  CHECK(bench.submitted() == "WWTF");
  bench.complete(3);
  CHECK(bench.answers() == "0:OK 1:27");
}

TEST_CASE("a chain of which the kernel took only a part is not believed: the log makes sure by itself") {
  Bench bench(Order::link);
  bench.kernel().short_submit_next(2);
  bench.append(3);
  CHECK(bench.submitted() == "W-W-");
  bench.pump();
  CHECK(bench.submitted() == "W-F");
  bench.complete({0, 1, 2, 3});
  CHECK(bench.answers() == "");
  CHECK(bench.submitted() == "T");
  CHECK(bench.sqe(4).off == 90);  // all of them are written
  bench.complete(4);
  bench.complete(5);
  CHECK(bench.answers() == "0:OK 1:OK 2:OK");
}

TEST_CASE("a kernel that takes nothing for a while: the log is behind, and goes on later") {
  for (const Order order : {Order::wait, Order::drain, Order::link}) {
    Bench bench(order);
    bench.kernel().short_submit_next(0);
    bench.append(2);
    CHECK(bench.submitted() == "");
    bench.pump();
    CHECK(bench.submitted().starts_with("W"));
  }
}

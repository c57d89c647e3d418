// A ring for the log alone, beside the one that serves.
//
//      serving ring:  accept, recv, send, ...  READ of the bell ◄──── eventfd ◄──── log ring:  write, fsync, ...
//                     one thread waits here, and only here                          a completion rings
//
// Two rings, because order on a ring is about everything on it: a DRAIN among the clients' operations waits for the
// client who says nothing. On a ring of its own it waits for the log's writes.
//
// How does a thread that waits on one ring hear of the other? With DEFER_TASKRUN a completion is made when its ring is
// entered, and until then it is task work that waits. poll(2) of the ring's descriptor does not see that, and sleeps; a
// registered eventfd is signalled (docs/kernel-facts.md). So: read the eventfd through the serving ring, and when that
// completes, harvest here.
#pragma once

#include <sys/eventfd.h>

#include "servers/common/descriptor.hpp"
#include "servers/common/start_error.hpp"
#include "servers/m4_ordered_log/log.hpp"

namespace ordered_log {

class LogRing {
 public:
  /// Room for a chain, and for two batches that wait for each other.
  static constexpr unsigned sq_entries = 256;
  static constexpr unsigned cq_entries = 1024;

  /// Throws SetupError.
  explicit LogRing(const uring::Kernel& kernel = uring::real_kernel)
      : ring_({.entries = sq_entries, .cq_entries = cq_entries}, kernel), loop_(ring_), operations_(loop_) {}

  uring::Loop& loop() noexcept { return loop_; }
  Operations& operations() noexcept { return operations_; }
  const Operations& operations() const noexcept { return operations_; }

  /// An eventfd that becomes readable when something has completed. Throws StartError.
  common::Descriptor bell() const {
    common::Descriptor bell(::eventfd(0, EFD_CLOEXEC));
    int fd = bell.get();
    const int result =
        !bell ? -errno
              : ring_.kernel().register_(ring_.kernel().self, ring_.fd(), IORING_REGISTER_EVENTFD, &fd, 1);
    if (result < 0) {
      throw common::StartError(common::exit_failed,
                               "no eventfd for the log's ring: " + common::errno_text(-result));
    }
    return bell;
  }

  /// Begins what can be begun and takes in what has completed, until there is neither. Never waits. 0, or -errno if the
  /// ring has failed.
  ///
  /// Until there is nothing: the bell rings when task work begins to wait, and not again for what joins it. Whoever
  /// leaves some behind (the kernel does twenty at a time, and not all of it makes a CQE) is not called again.
  template <class Rules>
  int pump(Log<Rules>& log) {
    for (;;) {
      log.prepare();
      if (ring_.unsubmitted() > 0) ring_.submit();
      const int harvested =
          ring_.harvest([&](const io_uring_cqe& cqe) { operations_.complete(cqe, to(log)); });
      if (harvested < 0) return harvested;
      if (harvested == 0 && !ring_.pending() && !operations_.some_are_refused()) return 0;
      operations_.fail_refused(to(log));
    }
  }

  /// Waits until something completes, or for `time`, and takes it in: for programs that have no other ring. 0 or -errno.
  template <class Rules>
  int turn(Log<Rules>& log, std::chrono::nanoseconds time) {
    log.prepare();
    const bool refused = operations_.some_are_refused();
    const int result = loop_.run_once([&](const io_uring_cqe& cqe) { operations_.complete(cqe, to(log)); },
                                      refused ? time.zero() : time);
    operations_.fail_refused(to(log));
    return std::min(result, 0);
  }

  /// The kernel had no memory for what is prepared: pump() again, soon.
  bool is_behind() const noexcept { return ring_.unsubmitted() > 0; }

 private:
  template <class Rules>
  static auto to(Log<Rules>& log) {
    return [&log](common_ring::Kind, const Subject& subject, int result, std::uint32_t) {
      log.completed(subject.work, result);
    };
  }

  uring::Ring ring_;
  uring::Loop loop_;
  Operations operations_;
};

}  // namespace ordered_log

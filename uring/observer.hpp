// What a narrator or a recorder can see of a ring, and what it costs when nobody looks: nothing.
//
// A ring reaches the kernel through a Kernel, four function pointers (syscalls.hpp). An Observer is a Kernel
// that stands in between: it passes every call on, and around each io_uring_enter it reads the shared words,
// which are all that the two sides ever tell each other.
//
//        ring ──► Observer::kernel() ──► the real kernel (or the mock)
//                     │  before, after
//                     ▼
//                 on_enter(event)         previous ──────────► before ──────────► after
//                                                 the application        the kernel
//                                                 moved SQ tail, CQ head moved SQ head, CQ tail
//
// So there is no "if (observed)" in the ring, and a ring made without an Observer runs the very same
// instructions as if this file did not exist. The price: what happens *between* two enters is seen at the
// second one. With SQPOLL, whose point is to enter seldom, that is little.
//
// Invariant: one Observer per ring; it outlives the ring and stays where it is (the ring holds its address).
#pragma once

#include <cstdint>

#include "uring/setup.hpp"

namespace uring {

/// The four indices that both sides share, and the kernel's hints.
struct SharedIndices {
  std::uint32_t sq_head = 0, sq_tail = 0, cq_head = 0, cq_tail = 0;
  std::uint32_t sq_flags = 0;  // IORING_SQ_*
};

/// One io_uring_enter.
struct EnterEvent {
  unsigned to_submit, min_complete, flags;  // as passed: flags are IORING_ENTER_*
  int result;                               // SQEs taken, or -errno
  SharedIndices previous;                   // at the end of the enter before this one
  SharedIndices before, after;
  const io_uring_sqe*
      sqes;  // slot `index & sq_mask`; those from before.sq_head to before.sq_tail are on offer
  const io_uring_cqe* cqes;  // slot `index & cq_mask`; those from before.cq_tail to after.cq_tail are new
  std::uint32_t sq_mask, cq_mask;
};

class Observer {
 public:
  using OnEnter = void (*)(void* context, const EnterEvent& event);

  /// `on_enter` is called after each io_uring_enter, on the ring's thread; it must neither use the ring nor
  /// throw.
  explicit Observer(OnEnter on_enter, void* context, const Kernel& inner = real_kernel) noexcept
      : on_enter_(on_enter), context_(context), inner_(inner) {}
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

  /// What to construct the ring with.
  Kernel kernel() noexcept { return {setup, enter, register_, map, this}; }

 private:
  static Observer& observer(void* self) noexcept { return *static_cast<Observer*>(self); }

  static int setup(void* self, unsigned entries, io_uring_params* params) {
    Observer& o = observer(self);
    const int fd = o.inner_.setup(o.inner_.self, entries, params);
    if (fd >= 0) o.params_ = *params;
    return fd;
  }

  static int map(void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
    Observer& o = observer(self);
    const int result = o.inner_.map(o.inner_.self, fd, bytes, offset, address);
    if (result < 0) return result;
    if (offset == IORING_OFF_SQES) {
      o.sqes_ = static_cast<const io_uring_sqe*>(*address);
    } else {
      auto* const rings = static_cast<std::byte*>(*address);
      o.words_ = detail::locate_words(rings, o.params_);
      o.cqes_ = reinterpret_cast<const io_uring_cqe*>(rings + o.params_.cq_off.cqes);
      o.previous_ = o.read();
    }
    return result;
  }

  static int register_(void* self, int fd, unsigned opcode, void* argument, unsigned count) {
    const Kernel& inner = observer(self).inner_;
    return inner.register_(inner.self, fd, opcode, argument, count);
  }

  static int enter(void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                   const abi::getevents_arg* argument) {
    Observer& o = observer(self);
    const SharedIndices before = o.read();
    const int result = o.inner_.enter(o.inner_.self, fd, to_submit, min_complete, flags, argument);
    const SharedIndices after = o.read();
    o.on_enter_(o.context_, {.to_submit = to_submit,
                             .min_complete = min_complete,
                             .flags = flags,
                             .result = result,
                             .previous = o.previous_,
                             .before = before,
                             .after = after,
                             .sqes = o.sqes_,
                             .cqes = o.cqes_,
                             .sq_mask = o.params_.sq_entries - 1,
                             .cq_mask = o.params_.cq_entries - 1});
    o.previous_ = after;
    return result;
  }

  SharedIndices read() const noexcept {
    return {.sq_head = load_sq_head(words_),
            .sq_tail = load_own_sq_tail(words_),
            .cq_head = load_own_cq_head(words_),
            .cq_tail = load_cq_tail(words_),
            .sq_flags = load_sq_flags(words_)};
  }

  OnEnter on_enter_;
  void* context_;
  Kernel inner_;
  io_uring_params params_{};
  SharedWords words_{};
  const io_uring_sqe* sqes_ = nullptr;
  const io_uring_cqe* cqes_ = nullptr;
  SharedIndices previous_{};
};

}  // namespace uring

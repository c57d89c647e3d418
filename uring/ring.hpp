// The ring: prepare SQEs, submit them, wait, harvest CQEs.
//
//        next_sqe / batch            submit                        harvest
//            │                         │                              │
//            ▼                         ▼                              ▼
//   private SQ tail ──────► shared SQ tail ─► kernel ─► shared CQ tail ─► private CQ head ─► shared CQ head
//   (moves per SQE, no       (one release       │         (one acquire      (moves per CQE)     (one release
//    shared word touched)     per submit)       ▼          per harvest)                          per harvest)
//                                         shared SQ head
//                                  (loaded when the SQ looks full)
//
// What each side last said is kept in private members; a shared word is touched once per batch and not per
// entry. That, and writing each SQE field by field, is all the speed there is to be had on this side of the
// system call.
//
// Who may do what: one thread, the one that created the ring (or enabled it, see enable()). With
// SINGLE_ISSUER the kernel answers others with -EEXIST; but an index of a registered ring means another ring,
// or none, on another thread, so that case is asserted here. A fork()ed child inherits the mappings and must
// not touch them.
//
// Errors: construction throws SetupError; after that nothing throws. A result is the kernel's own: >= 0, or
// -errno.
//
// Before a ring is destroyed every operation must have posted its last CQE: closing the descriptor cancels
// what is left, but later, and until then the kernel still writes into the buffers it was given.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <thread>
#include <type_traits>
#include <utility>

#include "uring/setup.hpp"

namespace uring {

/// The time-out of a wait that has none.
inline constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

/// What a wait did. All three can be non-zero at once: SQEs were taken, *and* some completions are there,
/// *and* it failed.
struct Waited {
  unsigned submitted = 0;  // SQEs that the kernel took
  unsigned ready = 0;  // completions to be harvested now: counted afterwards, whatever the kernel returned
  int error = 0;  // 0, or -errno: -ETIME (fewer than wanted in time), -EBUSY, -EAGAIN, -EBADR, -EEXIST, ...
};

/// What happened on a ring since it was created.
struct Counters {
  std::uint64_t enters = 0;         // io_uring_enter calls
  std::uint64_t batches = 0;        // of these, calls that offered SQEs (SQPOLL: publications of new SQEs)
  std::uint64_t sqes = 0;           // SQEs that the kernel took
  std::uint64_t cqes = 0;           // completions handed to handlers
  std::uint64_t short_submits = 0;  // the kernel took fewer SQEs than it was offered; the rest went later
  std::uint64_t overflows = 0;      // the CQ was too small, and the kernel's backlog had to be fetched
};

/// Both rings at one moment. The shared words as anyone sees them, and what this ring keeps for itself.
struct RingSnapshot {
  std::uint32_t sq_head, sq_tail, sq_entries, sq_flags, sq_dropped;
  std::uint32_t cq_head, cq_tail, cq_entries, cq_overflow;
  std::uint32_t private_sq_tail;  // SQEs from sq_tail up to here are prepared, and not published yet
};

template <bool Sqpoll>
class BasicRing {
 public:
  class Batch;

  /// Creates, maps and, where the kernel can, registers the ring (setup.hpp says what is tried). Throws
  /// SetupError.
  explicit BasicRing(const RingOptions& options, const Kernel& kernel = real_kernel);
  BasicRing(BasicRing&& other) noexcept = default;  // leaves `other` fit for destruction only
  BasicRing& operator=(BasicRing&&) = delete;
  ~BasicRing();

  /// Starts a ring that was created with IORING_SETUP_R_DISABLED (5.10) and makes the calling thread its
  /// owner. 0 or -errno.
  int enable() noexcept;

  // --- Submission ------------------------------------------------------------------------------------------

  /// The next free SQE, or nullptr when all `sq_entries()` are prepared: submit(), then ask again. Whoever
  /// takes it must fill it (all 64 bytes; every uring::prep function does) before the next submit.
  io_uring_sqe* next_sqe() noexcept {
    assert(!batch_open_);
    if (sq_tail_ == sq_limit_ && !refresh_sq_limit(1)) [[unlikely]]
      return nullptr;
    io_uring_sqe* const sqe = &sqes_[sq_tail_++ & sq_mask_];
    // No compiler knows that a mapping is not at address 0: told so, it drops the caller's check on this path.
    if (sqe == nullptr) __builtin_unreachable();
    return sqe;
  }

  /// Opens a cursor with room for at least `need` SQEs, or an empty one (false) when the SQ has fewer free:
  /// submit, then try again. A linked chain belongs into one batch opened with the chain's length: it then
  /// never straddles two submits, where the kernel would end it. `need` must not exceed sq_entries(). At most
  /// one batch is open at a time.
  Batch batch(unsigned need = 1) noexcept {
    assert(!batch_open_ && need <= sq_entries());
    if (sq_limit_ - sq_tail_ < need && !refresh_sq_limit(need)) return Batch(nullptr);
    return Batch(this);
  }

  /// How many SQEs can be prepared now.
  unsigned sq_space() noexcept {
    refresh_sq_limit(1);
    return sq_limit_ - sq_tail_;
  }

  /// SQEs that are prepared, or published, and not yet taken by the kernel.
  unsigned unsubmitted() const noexcept { return sq_tail_ - load_sq_head(words_); }

  /// Publishes what was prepared and tells the kernel. Returns how many SQEs the kernel took (no system call
  /// and 0 if there were none; with SQPOLL: how many it was told of), or -errno:
  ///   -EAGAIN, -EBUSY  no resources: harvest, then submit again
  ///   -EEXIST          the wrong thread
  ///   -EBADFD          not enabled yet
  /// Nothing is lost or sent twice, whatever comes back: what the kernel did not take stays in the ring, in
  /// order, and the next submit offers it again. (It takes fewer without IORING_SETUP_SUBMIT_ALL, when an SQE
  /// is malformed.) -EINTR is retried.
  int submit() noexcept {
    if constexpr (Sqpoll) return publish_and_wake();
    const std::uint32_t tail = sq_tail_;  // once: for all the compiler knows, the next store changes it
    publish_sq_tail(words_, tail);
    // Counted from the kernel's own head, not from what we published last: after a short submit the two
    // differ.
    const std::uint32_t offered = tail - load_sq_head(words_);
    if (offered == 0) return 0;
    const int taken = enter(offered, 0, 0, nullptr);
    if (taken != static_cast<int>(offered)) [[unlikely]]
      return after_short_submit(taken);
    return taken;
  }

  // --- Completion ------------------------------------------------------------------------------------------

  /// Completions that can be harvested without a system call.
  unsigned ready() const noexcept { return load_cq_tail(words_) - cq_head_; }

  /// True if a harvest would find something: a CQE is there, or the kernel hints that it holds some back
  /// (overflow, or task work under DEFER_TASKRUN, where the CQ tail alone never moves). This is what a
  /// busy-wait spins on.
  bool pending() const noexcept { return ready() != 0 || held_back(); }

  /// Calls `handler(const io_uring_cqe&)` for each completion that is visible now, oldest first, and no
  /// others: those that arrive meanwhile wait for the next harvest, so a busy ring cannot starve the loop.
  /// Returns how many, or -errno if the CQ was empty and fetching what the kernel held back failed. Never
  /// blocks.
  ///
  /// The handler may prepare and submit SQEs, but not harvest or wait (asserted). It may return bool: false
  /// stops after this CQE. If it throws, its CQE counts as consumed and the rest stay. The reference is valid
  /// during the call only.
  template <class Handler>
  requires std::invocable<Handler&, const io_uring_cqe&>
  int harvest(Handler&& handler) noexcept(std::is_nothrow_invocable_v<Handler&, const io_uring_cqe&>) {
    assert(!harvesting_);
    std::uint32_t tail = load_cq_tail(words_);
    if (cq_head_ == tail) [[unlikely]] {
      if (!held_back()) return 0;
      if (const int error = fetch_held_back(); error < 0) return error;
      tail = load_cq_tail(words_);
    }
    Harvest progress(*this);
    while (progress.head != tail) {
      const io_uring_cqe& cqe = cqes_[progress.head++ & cq_mask_];
      if constexpr (std::is_same_v<std::invoke_result_t<Handler&, const io_uring_cqe&>, bool>) {
        if (!handler(cqe)) break;
      } else {
        handler(cqe);
      }
    }
    return static_cast<int>(progress.head - cq_head_);
  }

  // --- Waiting ---------------------------------------------------------------------------------------------

  /// Submits what was prepared and waits until `want` completions are ready (at most cq_entries()) or
  /// `timeout` has passed; both in one system call, and in none if there is nothing to submit and enough is
  /// ready. A signal does not end the wait, nor stretch it. `want` 0, or a zero time-out: do not wait, but
  /// let the kernel post what it has.
  ///
  /// `min_wait` (6.12; before, `want` is taken to be 1): collect up to `want` for that long; after it, one
  /// completion is enough. It trades latency for larger batches. (A signal, or the completion of an
  /// IORING_OP_TIMEOUT, ends the collecting early if anything is there.)
  ///
  /// error -EBADR: the kernel had no memory for some completions, and they are lost for good.
  Waited submit_and_wait(unsigned want, std::chrono::nanoseconds timeout = forever,
                         std::chrono::microseconds min_wait = {}) noexcept;

  /// SQPOLL (5.10): publishes, then blocks until the kernel's thread has made room in a full SQ. 0 or -errno.
  int wait_for_sq_space() noexcept requires Sqpoll {
    if (const int error = submit(); error < 0) return error;
    // The call says 0, too, when a signal or task work ended it before there was room. So: look.
    while (!refresh_sq_limit(1)) {
      const int result = enter(0, 0, IORING_ENTER_SQ_WAIT, nullptr);
      if (result < 0 && result != -EINTR) return result;
    }
    return 0;
  }

  // --- What the kernel gave us -----------------------------------------------------------------------------

  int fd() const noexcept { return memory_.fd.get(); }
  unsigned sq_entries() const noexcept { return sq_mask_ + 1; }
  unsigned cq_entries() const noexcept { return cq_mask_ + 1; }
  std::uint32_t setup_flags() const noexcept { return memory_.params.flags; }
  std::uint32_t dropped_setup_flags() const noexcept { return memory_.dropped_flags; }  // asked for, refused
  std::uint32_t features() const noexcept { return memory_.params.features; }
  bool ring_fd_registered() const noexcept { return (enter_flags_ & IORING_ENTER_REGISTERED_RING) != 0; }
  const Kernel& kernel() const noexcept { return kernel_; }
  Counters counters() const noexcept {
    Counters total = counters_;
    if constexpr (!Sqpoll) total.enters += total.batches;
    total.sqes += load_sq_head(words_) + sq_entries() - sq_limit_;  // taken since we looked last
    return total;
  }

  RingSnapshot snapshot() const noexcept {
    return {.sq_head = load_sq_head(words_),
            .sq_tail = load_own_sq_tail(words_),
            .sq_entries = sq_entries(),
            .sq_flags = load_sq_flags(words_),
            .sq_dropped = load_sq_dropped(words_),
            .cq_head = load_own_cq_head(words_),
            .cq_tail = load_cq_tail(words_),
            .cq_entries = cq_entries(),
            .cq_overflow = load_cq_overflow(words_),
            .private_sq_tail = sq_tail_};
  }

 private:
  /// How far one harvest has come; publishes the CQ head once, however it ends. The head is a value to which
  /// nothing points, so it stays in a register whatever the handler writes.
  class Harvest {
   public:
    explicit Harvest(BasicRing& ring) noexcept : head(ring.cq_head_), ring_(ring) { ring.harvesting_ = true; }
    Harvest(const Harvest&) = delete;
    Harvest& operator=(const Harvest&) = delete;
    ~Harvest() {
      ring_.counters_.cqes += head - ring_.cq_head_;
      ring_.cq_head_ = head;
      publish_cq_head(ring_.words_, head);
      ring_.harvesting_ = false;
    }

    std::uint32_t head;

   private:
    BasicRing& ring_;
  };

  int enter(unsigned to_submit, unsigned min_complete, unsigned flags,
            const abi::getevents_arg* argument) noexcept {
    assert(!ring_fd_registered() || registered_by_ == std::this_thread::get_id());
    ++(to_submit != 0 ? counters_.batches : counters_.enters);  // counters() adds the two
    return kernel_.enter(kernel_.self, enter_fd_, to_submit, min_complete, flags | enter_flags_, argument);
  }

  bool held_back() const noexcept {
    return (load_sq_flags(words_) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0;
  }

  /// Looks at the kernel's head again: the only shared load of the preparing side. How far it has come is how
  /// many SQEs the kernel took. A call of its own: once in `sq_entries` SQEs that costs nothing, and inlined it costs
  /// the other SQEs an instruction, because two paths then want the mask in the same register.
  [[gnu::cold]] bool refresh_sq_limit(unsigned need) noexcept {
    const std::uint32_t limit = load_sq_head(words_) + sq_entries();
    counters_.sqes += limit - sq_limit_;
    sq_limit_ = limit;
    return limit - sq_tail_ >= need;
  }

  void register_ring_fd() noexcept;
  int after_short_submit(int taken) noexcept;
  template <class Argument>
  Waited submit_and_wait_with(unsigned want, Argument&& argument) noexcept;
  unsigned publish_for_sqpoll() noexcept;
  unsigned publish_for_wait(Waited& waited, unsigned& flags) noexcept;
  int publish_and_wake() noexcept;
  int fetch_held_back() noexcept;
  bool lost_some() noexcept;

  // Submission, by value: everything that preparing an SQE touches.
  io_uring_sqe* sqes_;
  std::uint32_t sq_tail_;   // the next slot to prepare; published by submit
  std::uint32_t sq_limit_;  // = last seen SQ head + entries: the SQ is full when the tail gets here
  std::uint32_t sq_mask_;
  // Completion.
  std::uint32_t cq_mask_;
  io_uring_cqe* cqes_;
  std::uint32_t cq_head_;  // the next CQE to read; published at the end of a harvest
  // Entering.
  std::uint32_t enter_flags_ = 0;
  int enter_fd_;                 // the descriptor, or its registered index
  std::uint32_t reported_lost_;  // of the kernel's counter of lost completions
  bool batch_open_ = false;
  bool harvesting_ = false;
  bool wants_registration_;
  std::thread::id registered_by_{};
  SharedWords words_;
  Kernel kernel_;
  Counters counters_;
  RingMemory memory_;
};

/// SQEs prepared one after the other without touching the ring: tail, mask and array stay in registers.
/// commit() hands them to the ring, for its next submit; destroyed uncommitted, they never existed. Nothing
/// is visible to the kernel before submit.
template <bool Sqpoll>
class BasicRing<Sqpoll>::Batch {
 public:
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() {
    if (ring_ != nullptr) ring_->batch_open_ = false;
  }

  /// False: there was not enough room for what was asked.
  explicit operator bool() const noexcept { return ring_ != nullptr; }

  /// The next SQE of the batch, or nullptr when the SQ is full.
  io_uring_sqe* next() noexcept {
    if (tail_ == limit_) [[unlikely]]
      return nullptr;
    return &sqes_[tail_++ & mask_];
  }

  /// The same for the first `need` SQEs, which the batch was opened for: there was room for all of them then,
  /// so here it is only asserted.
  io_uring_sqe& take() noexcept {
    assert(tail_ != limit_);
    return sqes_[tail_++ & mask_];
  }

  /// Hands what was prepared so far to the ring; it cannot be taken back after that. More may follow.
  void commit() noexcept { ring_->sq_tail_ = tail_; }

 private:
  friend class BasicRing;
  explicit Batch(BasicRing* ring) noexcept : ring_(ring) {
    if (ring == nullptr) return;
    ring->batch_open_ = true;
    sqes_ = ring->sqes_;
    tail_ = ring->sq_tail_;
    limit_ = ring->sq_limit_;
    mask_ = ring->sq_mask_;
  }

  BasicRing* ring_;
  io_uring_sqe* sqes_ = nullptr;
  std::uint32_t tail_ = 0, limit_ = 0, mask_ = 0;
};

/// One thread prepares, submits and harvests; the kernel works inside its system calls.
using Ring = BasicRing<false>;

/// A kernel thread watches the SQ (IORING_SETUP_SQPOLL): submitting needs no system call while it is awake,
/// and a CPU for itself.
using SqpollRing = BasicRing<true>;

}  // namespace uring

#include "uring/ring_impl.hpp"

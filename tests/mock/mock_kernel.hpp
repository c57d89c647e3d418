// A kernel to test against: io_uring played inside the system call, over ordinary memory.
//
//      Ring ──► Kernel { setup, enter, register_, map } ──► MockKernel
//                                                            │ io_uring_setup     a memfd and its layout
//      test ──► complete(), post(), fail(), ... ────────────►│ io_uring_enter     takes SQEs, posts CQEs, "waits"
//                                                            │ io_uring_register  ring fd, enable, probe
//      test ◄── calls(), taken(), posted(), complaints() ◄───┘ mmap               of the memfd
//
// It does what the real one does, in the same order, and each part below names the kernel function that it
// stands for; tests/mock/fidelity_test.cpp runs the same scripts on both and compares. What makes it useful
// is what no real kernel offers: indices that start just below 2^32, another layout, an older version, an
// error at call number N, a look at the SQ tail between two lines of the application.
//
// Operations: NOP completes at once; an opcode that the version does not know gets -EINVAL; every other
// operation waits until the test calls complete(). Nothing happens by itself: where the real kernel would put
// the caller to sleep, `on_sleep` is asked what wakes it.
//
// A slot of the SQ is overwritten with garbage as soon as its SQE has been taken, and a slot of the CQ as
// soon as its CQE was given back: they belong to the other side now, and a ring that still relies on them
// finds garbage.
//
// Invariant: all SQEs that were ever published are, in this order: taken() and then what lies between SQ head
// and tail. Every completion that was ever due is in posted(), the backlog or the task work, or was counted
// as lost.
//
// Limits: one ring at a time (a second setup replaces the first), one thread at a time, no links, no
// restrictions.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/mock/mock_memory.hpp"
#include "tests/mock/mock_versions.hpp"
#include "uring/abi.hpp"
#include "uring/syscalls.hpp"

namespace mock {

struct Options {
  Version version = linux_6_18;
  Layout layout = Layout::usual;
  std::uint32_t sq_start = 0;  // what SQ head and tail of a new ring are
  std::uint32_t cq_start = 0;
};

enum class CallKind { setup, enter, register_, map };

/// A call as it came in, and what was answered. Only the members of its kind mean anything.
struct Call {
  CallKind kind{};
  int result = 0;
  int fd = -1;
  unsigned flags = 0;  // setup: params.flags
  // setup
  unsigned entries = 0;
  io_uring_params params{};  // as they came in
  // enter
  unsigned to_submit = 0;
  unsigned min_complete = 0;
  bool timed = false;  // there was a timespec
  std::chrono::nanoseconds timeout{};
  std::chrono::microseconds min_wait{};
  // register
  unsigned opcode = 0;
  // map
  std::size_t bytes = 0;
  std::uint64_t offset = 0;
};

/// What wakes a caller that sleeps in io_cqring_wait.
enum class Wake { look_again, signal, min_wait_over, timeout, never };

class MockKernel {
 public:
  explicit MockKernel(const Options& options = {}) : options_(options) {}
  /// A test that enters more often has lost its way, and is ended.
  static constexpr unsigned most_enters = 100'000;

  MockKernel(const MockKernel&) = delete;
  MockKernel& operator=(const MockKernel&) = delete;

  /// What a ring is constructed with. This object must outlive it.
  uring::Kernel seam() {
    return {
        .setup =
            [](void* self, unsigned entries, io_uring_params* params) {
              return static_cast<MockKernel*>(self)->setup(entries, *params);
            },
        .enter =
            [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const abi::getevents_arg* argument) {
              return static_cast<MockKernel*>(self)->enter(fd, to_submit, min_complete, flags, argument);
            },
        .register_ =
            [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
              return static_cast<MockKernel*>(self)->register_(fd, opcode, argument, count);
            },
        .map = [](void* self, int fd, std::size_t bytes, std::uint64_t offset,
                  void** address) { return static_cast<MockKernel*>(self)->map(fd, bytes, offset, address); },
        .self = this};
  }

  // --- The plan: what shall go wrong -----------------------------------------------------------------------

  /// The `nth` call of this kind (1 is the first) returns `result` (-errno, or 0) and does nothing else.
  void fail(CallKind kind, unsigned nth, int result) { failures_[{kind, nth}] = result; }
  void fail_next(CallKind kind, int result) { fail(kind, count(kind) + 1, result); }
  /// In the `nth` call of enter the memory for requests runs out behind `sqes` of them: a short submit, or,
  /// with 0, -EAGAIN.
  void short_submit(unsigned nth, unsigned sqes) { request_memory_[nth] = sqes; }
  void short_submit_next(unsigned sqes) { short_submit(enters() + 1, sqes); }
  /// From now on there is memory for so many CQEs in the backlog; what does not fit is lost, and counted.
  void memory_for_backlog(std::size_t cqes) { backlog_memory_ = cqes; }
  /// Asked whenever a caller would sleep. Without it: a min_wait takes its time if it decides anything,
  /// time-outs pass at once, and a wait without time-out returns -EDEADLK, which no real kernel does, instead
  /// of hanging the test.
  std::function<Wake()> on_sleep{};

  // --- The devices: completions from outside ---------------------------------------------------------------

  /// Completes the oldest operation in flight that has this user_data. False if there is none.
  bool complete(std::uint64_t user_data, int res, std::uint32_t flags = 0) {
    const auto found = std::find_if(in_flight_.begin(), in_flight_.end(),
                                    [=](const io_uring_sqe& sqe) { return sqe.user_data == user_data; });
    if (found == in_flight_.end()) return false;
    if ((flags & IORING_CQE_F_MORE) == 0) in_flight_.erase(found);
    finish({user_data, res, flags});
    return true;
  }
  /// A completion that comes from elsewhere (a message from another ring): by task work, where the ring has
  /// that.
  void post(std::uint64_t user_data, int res, std::uint32_t flags = 0) { finish({user_data, res, flags}); }

  /// SQPOLL: the kernel's thread. Awake it takes what is published whenever it gets to run.
  void sq_thread_runs() {
    memory_->clear_sq_flag(IORING_SQ_NEED_WAKEUP);
    submit_sqes(memory_->sq_tail() - cached_sq_head_);
  }
  void sq_thread_sleeps() { memory_->set_sq_flag(IORING_SQ_NEED_WAKEUP); }
  /// True: a wake-up is on its way, but the thread runs no sooner than sq_thread_runs() says.
  bool sq_thread_is_slow = false;

  // --- What was seen ---------------------------------------------------------------------------------------

  const std::vector<Call>& calls() const { return calls_; }
  unsigned count(CallKind kind) const { return counts_[static_cast<std::size_t>(kind)]; }
  unsigned enters() const { return count(CallKind::enter); }
  const Call& last_call() const { return calls_.back(); }

  struct Cqe {
    std::uint64_t user_data;
    std::int32_t res;
    std::uint32_t flags;
    friend bool operator==(const Cqe&, const Cqe&) = default;
  };
  /// The SQEs in the order in which they were taken, and the number of the enter call that took the `nth` of
  /// them.
  const std::vector<io_uring_sqe>& taken() const { return taken_; }
  unsigned taken_by(std::size_t nth) const { return taken_by_[nth]; }
  std::vector<std::uint64_t> taken_user_data() const {
    std::vector<std::uint64_t> seen;
    for (const io_uring_sqe& sqe : taken_) seen.push_back(sqe.user_data);
    return seen;
  }
  const std::vector<Cqe>& posted() const { return posted_; }  // into the CQ
  std::size_t backlog() const { return backlog_.size(); }
  std::size_t task_work() const { return task_work_.size(); }
  std::size_t in_flight() const { return in_flight_.size(); }
  /// The user_data of one of the operations in flight; a different one for each `choice`, as far as there are
  /// any.
  std::optional<std::uint64_t> any_in_flight(std::size_t choice) const {
    if (in_flight_.empty()) return std::nullopt;
    return in_flight_[choice % in_flight_.size()].user_data;
  }
  unsigned registered_rings() const {  // on all threads
    unsigned all = 0;
    for (const auto& [thread, rings] : registered_)
      all += static_cast<unsigned>(std::count(rings.begin(), rings.end(), true));
    return all;
  }
  SharedMemory& memory() { return *memory_; }

  /// Where the application broke the protocol; each is a bug of the ring layer.
  std::vector<std::string> complaints() const {
    std::vector<std::string> all = complaints_;
    if (memory_ && !memory_->untouched()) all.emplace_back("something was written where nothing is");
    return all;
  }

 private:
  // --- io_uring_setup(2) -----------------------------------------------------------------------------------

  int setup(unsigned entries, io_uring_params& params) {
    Call& call = record(CallKind::setup);
    call.entries = entries;
    call.params = params;
    call.flags = params.flags;
    if (is_planned_to_fail(call)) return call.result;
    return call.result = create(entries, params);
  }

  /// io_uring_create: judge the parameters, allocate, and fill in where everything is.
  int create(unsigned entries, io_uring_params& params) {
    if (const int error = sanitise_flags(params.flags); error < 0) return error;
    if (const int error = fill_sizes(entries, params); error < 0) return error;
    params.features = options_.version.features;
    const bool has_array = (params.flags & abi::setup_no_sqarray) == 0;
    const auto layout = options_.layout == Layout::usual ? usual_layout : odd_layout;
    const Offsets offsets = layout(params.sq_entries, params.cq_entries, has_array);
    params.sq_off = offsets.sq;
    params.cq_off = offsets.cq;
    memory_ = std::make_unique<SharedMemory>(offsets, params, options_.sq_start, options_.cq_start);
    params_ = params;
    cached_sq_head_ = last_sq_tail_ = options_.sq_start;
    cached_cq_tail_ = last_cq_head_ = options_.cq_start;
    enabled_ = (params.flags & IORING_SETUP_R_DISABLED) == 0;
    submitter_ = std::this_thread::get_id();
    backlog_.clear();
    task_work_.clear();
    in_flight_.clear();
    return memory_->fd();
  }

  /// io_uring_sanitise_params, and what io_sq_offload_create checks.
  int sanitise_flags(std::uint32_t flags) const {
    const auto has = [flags](std::uint32_t flag) { return (flags & flag) != 0; };
    constexpr std::uint32_t taskrun = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN;
    if ((flags & ~options_.version.setup_flags) != 0) return -EINVAL;
    if (has(IORING_SETUP_SQPOLL) && has(taskrun | IORING_SETUP_TASKRUN_FLAG)) return -EINVAL;
    if (has(IORING_SETUP_TASKRUN_FLAG) && !has(taskrun)) return -EINVAL;
    if (has(IORING_SETUP_DEFER_TASKRUN) && !has(IORING_SETUP_SINGLE_ISSUER)) return -EINVAL;
    if (has(IORING_SETUP_SQ_AFF) && !has(IORING_SETUP_SQPOLL)) return -EINVAL;
    return 0;
  }

  /// io_uring_fill_params: powers of two, limits, the CQ twice the SQ unless CQSIZE says otherwise.
  static int fill_sizes(unsigned entries, io_uring_params& params) {
    constexpr unsigned max_sq = 32768;
    const bool clamp = (params.flags & IORING_SETUP_CLAMP) != 0;
    if (entries == 0 || (entries > max_sq && !clamp)) return -EINVAL;
    params.sq_entries = std::bit_ceil(std::min(entries, max_sq));
    if ((params.flags & IORING_SETUP_CQSIZE) == 0) {
      params.cq_entries = 2 * params.sq_entries;
      return 0;
    }
    if (params.cq_entries == 0 || (params.cq_entries > 2 * max_sq && !clamp)) return -EINVAL;
    params.cq_entries = std::bit_ceil(std::min(params.cq_entries, 2 * max_sq));
    return params.cq_entries < params.sq_entries ? -EINVAL : 0;
  }

  // --- mmap(2) ---------------------------------------------------------------------------------------------

  int map(int fd, std::size_t bytes, std::uint64_t offset, void** address) {
    Call& call = record(CallKind::map);
    call.fd = fd;
    call.bytes = bytes;
    call.offset = offset;
    if (is_planned_to_fail(call)) return call.result;
    if (!is_ring(fd)) return call.result = -EBADF;
    return call.result = memory_->map(bytes, offset, address);
  }

  // --- io_uring_enter(2) -----------------------------------------------------------------------------------

  int enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
            const abi::getevents_arg* argument) {
    Call& call = record(CallKind::enter);
    if (enters() > most_enters) std::abort();  // the application goes round in circles
    call.fd = fd;
    call.to_submit = to_submit;
    call.min_complete = min_complete;
    call.flags = flags;
    copy_argument(argument, call);
    check_indices();
    if (is_planned_to_fail(call)) return call.result;
    const int result = do_enter(call);
    return calls_.back().result = result;
  }

  int do_enter(Call call) {
    constexpr unsigned known = IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT |
                               IORING_ENTER_EXT_ARG | IORING_ENTER_REGISTERED_RING;
    if ((call.flags & ~known) != 0) return -EINVAL;
    if (const int error = find_ring(call); error < 0) return error;
    if (!enabled_) return -EBADFD;

    int submitted = 0;
    if (has(IORING_SETUP_SQPOLL)) {
      if (const int error = run_sq_thread(call.flags); error < 0) return error;
      submitted = static_cast<int>(call.to_submit);  // whatever the thread has taken
    } else if (call.to_submit != 0) {
      if (has(IORING_SETUP_SINGLE_ISSUER) && !is_submitter()) return -EEXIST;
      submitted = submit_sqes(call.to_submit);
      // Nobody waits behind a short submit.
      if (submitted != static_cast<int>(call.to_submit)) return submitted;
    }
    if (has(IORING_SETUP_COOP_TASKRUN))
      run_task_work(task_work_.size());  // on the way out of any system call
    if ((call.flags & IORING_ENTER_GETEVENTS) == 0) return submitted;
    const int bad_argument = check_argument(call);
    const int waited = bad_argument < 0 ? bad_argument : cqring_wait(call);
    if (waited == -EDEADLK) return waited;
    return submitted != 0 ? submitted : waited;  // the count hides the time-out and the signal
  }

  /// io_uring_ctx_get_file: by descriptor, or by the calling thread's table.
  int find_ring(const Call& call) {
    if ((call.flags & IORING_ENTER_REGISTERED_RING) == 0) return is_ring(call.fd) ? 0 : -EBADF;
    const auto index = static_cast<std::size_t>(call.fd);
    if (index >= my_registered_rings().size()) return -EINVAL;
    return my_registered_rings()[index] ? 0 : -EBADF;
  }

  /// The thread of SQPOLL (io_sq_thread) as far as a system call concerns it. 0, or -EDEADLK if the caller
  /// would wait for ever: io_sqpoll_wait_sq on a full SQ whose thread sleeps.
  int run_sq_thread(unsigned flags) {
    const bool told = (flags & IORING_ENTER_SQ_WAKEUP) != 0;
    const bool waits = (flags & IORING_ENTER_SQ_WAIT) != 0;
    const bool awake = (memory_->sq_flags() & IORING_SQ_NEED_WAKEUP) == 0;
    if (!sq_thread_is_slow && (told || (awake && waits))) sq_thread_runs();
    const bool full = memory_->sq_tail() - cached_sq_head_ == params_.sq_entries;
    return waits && full ? -EDEADLK : 0;
  }

  /// io_submit_sqes: take up to `count` SQEs, then publish how far it came. Returns how many, the bad ones
  /// included.
  int submit_sqes(unsigned count) {
    last_sq_tail_ = memory_->sq_tail();
    const std::uint32_t published = last_sq_tail_ - cached_sq_head_;
    const unsigned left = std::min(count, published);
    const auto planned = request_memory_.find(enters());
    const unsigned memory = planned != request_memory_.end() ? planned->second : ~0U;
    unsigned taken = 0;
    while (taken < left) {
      if (taken == memory) break;  // io_alloc_req failed
      io_uring_sqe sqe;
      if (!get_sqe(sqe)) break;
      ++taken;
      const bool good = submit_sqe(sqe);
      if (!good && !has(IORING_SETUP_SUBMIT_ALL)) break;
    }
    memory_->commit_sqring(cached_sq_head_);
    return taken == 0 && memory == 0 && left != 0 ? -EAGAIN : static_cast<int>(taken);
  }

  /// io_get_sqe: the next SQE, by way of the array if there is one. An index out of range is dropped and
  /// counted.
  bool get_sqe(io_uring_sqe& sqe) {
    const std::uint32_t position = cached_sq_head_++ & (params_.sq_entries - 1);
    std::uint32_t slot = position;
    if (!has(abi::setup_no_sqarray)) slot = memory_->array(position);
    if (slot >= params_.sq_entries) {
      memory_->count_dropped();
      return false;
    }
    sqe = memory_->sqe(slot);
    std::memset(&memory_->sqe(slot), 0xee, sizeof sqe);
    return true;
  }

  /// io_submit_sqe: false if the SQE is malformed (it completes with -EINVAL all the same).
  bool submit_sqe(const io_uring_sqe& sqe) {
    taken_.push_back(sqe);
    taken_by_.push_back(enters());
    if (sqe.opcode >= options_.version.opcodes) {
      post_cqe({sqe.user_data, -EINVAL, 0});
      return false;
    }
    if (sqe.opcode == IORING_OP_NOP) {
      post_cqe({sqe.user_data, 0, 0});
    } else {
      in_flight_.push_back(sqe);
    }
    return true;
  }

  // --- Completions -----------------------------------------------------------------------------------------

  /// An operation ended while nobody was in a system call: io_req_task_work_add. With DEFER_TASKRUN or
  /// COOP_TASKRUN its CQE waits until the application enters; without them the kernel interrupts it, and
  /// posts.
  void finish(const Cqe& cqe) {
    if (!has(IORING_SETUP_DEFER_TASKRUN) && !has(IORING_SETUP_COOP_TASKRUN)) return post_cqe(cqe);
    task_work_.push_back(cqe);
    if (has(IORING_SETUP_TASKRUN_FLAG)) memory_->set_sq_flag(IORING_SQ_TASKRUN);
  }

  /// io_run_local_work, io_run_task_work: posts up to `most` of what was held back.
  void run_task_work(std::size_t most) {
    for (; most != 0 && !task_work_.empty(); --most) {
      post_cqe(task_work_.front());
      task_work_.pop_front();
    }
    if (task_work_.empty()) memory_->clear_sq_flag(IORING_SQ_TASKRUN);
  }

  /// io_fill_cqe_req, and io_cqring_event_overflow if there is no room. While there is a backlog everything
  /// goes behind it, so that the order is kept.
  void post_cqe(const Cqe& cqe) {
    if (backlog_.empty() && room_in_cq()) return write_cqe(cqe);
    if (backlog_.size() == backlog_memory_) {
      memory_->count_overflow();
      lost_ = true;
      return;
    }
    backlog_.push_back(cqe);
    memory_->set_sq_flag(IORING_SQ_CQ_OVERFLOW);
  }

  /// io_cqe_cache_refill: the application's head says which slots may be reused.
  bool room_in_cq() {
    const std::uint32_t head = memory_->cq_head();
    if (head - last_cq_head_ > cached_cq_tail_ - last_cq_head_) {
      complain("CQ head went backwards or beyond the tail");
    } else {
      for (; last_cq_head_ != head; ++last_cq_head_) {
        std::memset(&memory_->cqe(last_cq_head_), 0xcc, sizeof(io_uring_cqe));
      }
    }
    return cached_cq_tail_ - head < params_.cq_entries;
  }

  /// The CQE, and then the tail that makes it visible: io_commit_cqring.
  void write_cqe(const Cqe& cqe) {
    io_uring_cqe& slot = memory_->cqe(cached_cq_tail_++);
    slot.user_data = cqe.user_data;
    slot.res = cqe.res;
    slot.flags = cqe.flags;
    posted_.push_back(cqe);
    memory_->commit_cqring(cached_cq_tail_);
  }

  /// io_cqring_do_overflow_flush: as much of the backlog as fits; the flag goes with the last of it.
  void flush_backlog() {
    while (!backlog_.empty() && room_in_cq()) {
      write_cqe(backlog_.front());
      backlog_.pop_front();
    }
    if (backlog_.empty()) memory_->clear_sq_flag(IORING_SQ_CQ_OVERFLOW);
  }

  // --- Waiting ---------------------------------------------------------------------------------------------

  /// io_get_ext_arg. Behind the submission: by then it can only end the wait.
  int check_argument(const Call& call) const {
    if ((call.flags & IORING_ENTER_EXT_ARG) == 0) return 0;
    if (!has_argument_) return -EFAULT;
    const bool knows_min_wait = (options_.version.features & abi::feat_min_timeout) != 0;
    return call.min_wait.count() != 0 && !knows_min_wait ? -EINVAL : 0;  // before 6.12 it was `pad`
  }

  /// io_cqring_wait: post what is held back; if that is not enough, sleep. Any error gives way to "there is
  /// something".
  int cqring_wait(const Call& call) {
    constexpr std::size_t task_work_at_once = 20;  // IO_LOCAL_TW_DEFAULT_MAX
    const unsigned want = std::min(call.min_complete, params_.cq_entries);
    if (has(IORING_SETUP_DEFER_TASKRUN) && !is_submitter()) return -EEXIST;
    run_task_work(std::max<std::size_t>(want, task_work_at_once));
    flush_backlog();
    if (visible() >= want) return 0;
    unsigned wanted = want;
    int result = 0;
    for (unsigned turns = 0;; ++turns) {
      if (lost_) {  // IO_CHECK_CQ_DROPPED_BIT: no sleep before it has been said
        result = -EBADR;
        break;
      }
      const Wake wake = turns < 10'000 ? sleep(call) : Wake::never;
      run_task_work(std::max<std::size_t>(want, task_work_at_once));
      if (wake == Wake::signal) result = -EINTR;
      // io_cqring_min_timer_wakeup: with no time-out behind it, the end of min_wait is the end of the wait.
      if (wake == Wake::timeout || (wake == Wake::min_wait_over && !call.timed)) result = -ETIME;
      if (wake == Wake::never) return -EDEADLK;
      if (result != 0) break;
      if (wake == Wake::min_wait_over) wanted = 1;
      flush_backlog();
      if (visible() >= wanted) break;
    }
    if (memory_->cq_head() != memory_->cq_tail()) return 0;
    if (result == -EBADR) lost_ = false;  // said once
    return result;
  }

  Wake sleep(const Call& call) {
    if (on_sleep) return on_sleep();
    if (call.min_wait.count() != 0 && (visible() != 0 || !call.timed)) {
      std::this_thread::sleep_for(call.min_wait);
      return Wake::min_wait_over;
    }
    if (call.timed) return Wake::timeout;
    return Wake::never;
  }

  std::uint32_t visible() const { return cached_cq_tail_ - memory_->cq_head(); }

  // --- io_uring_register(2) --------------------------------------------------------------------------------

  int register_(int fd, unsigned opcode, void* argument, unsigned count) {
    Call& call = record(CallKind::register_);
    call.fd = fd;
    call.opcode = opcode;
    if (is_planned_to_fail(call)) return call.result;
    if (fd == -1) return call.result = -EINVAL;  // io_uring_register_blind: nothing that is played here
    return call.result = is_ring(fd) ? do_register(opcode, argument, count) : -EBADF;
  }

  int do_register(unsigned opcode, void* argument, unsigned count) {
    if (enabled_ && has(IORING_SETUP_SINGLE_ISSUER) && !is_submitter()) return -EEXIST;
    switch (opcode) {
      case IORING_REGISTER_ENABLE_RINGS:
        if (argument != nullptr || count != 0) return -EINVAL;
        if (enabled_) return -EBADFD;
        enabled_ = true;
        submitter_ = std::this_thread::get_id();
        return 0;
      case IORING_REGISTER_RING_FDS:
      case IORING_UNREGISTER_RING_FDS:
        if (!options_.version.registers_ring_fds || count != 1) return -EINVAL;
        return opcode == IORING_REGISTER_RING_FDS
                   ? register_ring_fd(*static_cast<io_uring_rsrc_update*>(argument))
                   : unregister_ring_fd(*static_cast<io_uring_rsrc_update*>(argument));
      case IORING_REGISTER_PROBE:
        return probe(*static_cast<io_uring_probe*>(argument), count);
      default:
        return -EINVAL;
    }
  }

  /// tctx->registered_rings: an index means something on one thread only.
  std::array<bool, 16>& my_registered_rings() { return registered_[std::this_thread::get_id()]; }

  /// io_ringfd_register: any free one of the calling thread's 16 places. Returns how many were registered.
  int register_ring_fd(io_uring_rsrc_update& update) {
    if (update.offset != ~0U || !is_ring(static_cast<int>(update.data))) return -EINVAL;
    auto& rings = my_registered_rings();
    const auto free = std::find(rings.begin(), rings.end(), false);
    if (free == rings.end()) return -EBUSY;
    *free = true;
    update.offset = static_cast<std::uint32_t>(free - rings.begin());
    return 1;
  }

  int unregister_ring_fd(const io_uring_rsrc_update& update) {
    if (update.resv != 0 || update.data != 0 || update.offset >= my_registered_rings().size()) return -EINVAL;
    my_registered_rings()[update.offset] = false;
    return 1;
  }

  /// io_probe: which opcodes there are.
  int probe(io_uring_probe& answer, unsigned count) const {
    answer.last_op = static_cast<std::uint8_t>(options_.version.opcodes - 1);
    answer.ops_len = static_cast<std::uint8_t>(std::min<unsigned>(count, options_.version.opcodes));
    // Not answer.ops: a flexible array, whose place in C++ depends on the header.
    io_uring_probe_op* const ops = reinterpret_cast<io_uring_probe_op*>(&answer + 1);
    for (std::uint8_t op = 0; op < answer.ops_len; ++op) {
      ops[op].op = op;
      ops[op].flags = IO_URING_OP_SUPPORTED;
    }
    return 0;
  }

  // --- Bookkeeping -----------------------------------------------------------------------------------------

  Call& record(CallKind kind) {
    ++counts_[static_cast<std::size_t>(kind)];
    calls_.push_back({.kind = kind});
    return calls_.back();
  }

  /// True if the plan has a result for this call: it is in `call` then.
  bool is_planned_to_fail(Call& call) {
    const auto planned = failures_.find({call.kind, count(call.kind)});
    if (planned == failures_.end()) return false;
    call.result = planned->second;
    return true;
  }

  /// The protocol's invariant, looked at whenever the application enters.
  void check_indices() {
    if (!memory_) return;
    const std::uint32_t tail = memory_->sq_tail();
    if (tail - cached_sq_head_ > params_.sq_entries) complain("SQ tail is further ahead than the SQ is long");
    if (tail - cached_sq_head_ < last_sq_tail_ - cached_sq_head_) complain("SQ tail went backwards");
    last_sq_tail_ = tail;
    const Call& call = calls_.back();
    if (call.to_submit == 0 && (call.flags & ~IORING_ENTER_REGISTERED_RING) == 0)
      complain("an enter for nothing");
    if (call.to_submit > tail - cached_sq_head_) complain("more SQEs announced than published");
    room_in_cq();
  }

  void copy_argument(const abi::getevents_arg* argument, Call& call) {
    if ((argument != nullptr) != ((call.flags & IORING_ENTER_EXT_ARG) != 0)) {
      complain("a wait argument without IORING_ENTER_EXT_ARG, or the flag without it");
    }
    has_argument_ = argument != nullptr;
    if (!has_argument_) return;
    if (argument->sigmask != 0 || argument->sigmask_sz != 0) complain("a signal mask that nobody set");
    call.min_wait = std::chrono::microseconds(argument->min_wait_usec);
    if (argument->ts == 0) return;
    const auto& time = *reinterpret_cast<const __kernel_timespec*>(argument->ts);
    if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= 1'000'000'000) complain("no valid timespec");
    call.timed = true;
    call.timeout = std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  }

  void complain(const char* about) {
    complaints_.push_back(std::string(about) + " (call " + std::to_string(calls_.size()) + ")");
  }
  bool has(std::uint32_t setup_flag) const { return (params_.flags & setup_flag) != 0; }
  bool is_ring(int fd) const { return memory_ && fd == memory_->fd(); }
  bool is_submitter() const { return submitter_ == std::this_thread::get_id(); }

  // What the kernel keeps per ring: struct io_ring_ctx.
  Options options_;
  std::unique_ptr<SharedMemory> memory_;
  io_uring_params params_{};
  std::uint32_t cached_sq_head_ = 0;
  std::uint32_t cached_cq_tail_ = 0;
  std::deque<Cqe> backlog_;              // cq_overflow_list
  std::deque<Cqe> task_work_;            // work_llist
  std::vector<io_uring_sqe> in_flight_;  // requests that wait for something
  bool enabled_ = false;
  bool has_argument_ = false;
  bool lost_ = false;  // a completion, for want of memory; not yet said
  std::thread::id submitter_{};
  std::map<std::thread::id, std::array<bool, 16>> registered_;

  // The plan.
  std::map<std::pair<CallKind, unsigned>, int> failures_;
  std::map<unsigned, unsigned> request_memory_;
  std::size_t backlog_memory_ = ~std::size_t{0};

  // The record.
  std::vector<Call> calls_;
  std::array<unsigned, 4> counts_{};  // of calls, by kind
  std::vector<io_uring_sqe> taken_;
  std::vector<unsigned> taken_by_;
  std::vector<Cqe> posted_;
  std::vector<std::string> complaints_;
  std::uint32_t last_sq_tail_ = 0;
  std::uint32_t last_cq_head_ = 0;
};

}  // namespace mock

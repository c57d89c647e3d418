// The log: many writes in flight, one fsync for many records, and nobody is told anything too early.
//
//   append ──► queued ──► written ──► covered by an fsync ──► acknowledged, in the order of the log
//                 │ write     │ fsync
//                 └───────────┴── fails, or is short: this record and all behind it fail
//
// The rule is one sentence: a record is acknowledged when it **and everything before it** is written and covered by an
// fsync that came behind those writes. Three ways to get the fsync behind the writes:
//
//   wait    W W W ─► completions ─► F ─► completion     the fsync is submitted when the writes have completed; what
//               W W W ────────────► . . F               comes meanwhile is written meanwhile, and the next one covers it
//   drain   W W W F|DRAIN  W W W F|DRAIN                submitted together; the kernel starts each fsync when
//                                                       everything submitted before has completed
//   link    W→W→W→F                                     submitted together; each starts when the one before succeeded
//
// Never two fsyncs at a time, in none of the ways. When the disk fails, Linux tells one fsync of each open file, and
// the other one succeeds: whoever has two in flight hears the good news first, and acknowledges what is lost. (drain may
// have two submitted: the second starts when the first has completed, and its completion comes behind.)
//
// A chain holds within one submission, and the kernel may take only a part of one when it is short of memory; the rest
// is then a chain of its own, whose fsync waits for nothing. So an fsync does not count if that may have happened.
//
// After a failure nothing new begins. What is in flight comes back, then the log is repaired: truncated to the end of
// the good records, and fsynced. The good ones are acknowledged, the others fail, and it goes on with what was queued.
// The truncation is durable before anybody hears ERR; else a crash could bring back a record that was refused. Good is
// what is written without a gap; but if it was an fsync that failed, only what was acknowledged: the kernel has
// forgotten that those pages were dirty, so a second fsync would succeed and prove nothing. If the repair fails as
// well, the log is unusable, and everything fails until somebody has looked at the disk.
//
// It owns no sockets and no ring: it prepares operations in somebody's loop and is told their results.
//
// Limits: one file, which grows; one process.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "servers/common_ring/operations.hpp"
#include "servers/m4_ordered_log/record.hpp"
#include "uring/prep_files.hpp"

namespace ordered_log {

enum class Order : std::uint8_t { wait, drain, link };

/// What makes it sound. Each of them can be broken by deriving from this: the tests do, and see the records vanish.
struct SoundRules {
  static constexpr bool fsync = true;                  // a write that has completed is in memory, no more
  static constexpr bool ack_after_fsync = true;        // when it has completed, not when it was submitted
  static constexpr bool ack_in_order = true;           // all before it are durable, too
  static constexpr bool failed_fsync_is_final = true;  // the next one proves nothing about these records
  static constexpr bool whole_chains_only =
      true;  // of a chain in two parts, the fsync may have come too early
};

/// What a completion is about: a write (the record with number `from`), an fsync (records `from` up to `to`), or a step
/// of the repair. Numbers count appended records.
struct Work {
  enum class Type : std::uint8_t { none, write, sync, cut, settle };
  Type type = Type::none;
  std::uint64_t from = 0;
  std::uint64_t to = 0;
};

struct Connection;  // of whoever serves; the log has none

struct Subject {
  Connection* connection = nullptr;
  Work work{};
};
using Operations = common_ring::Operations<uring::Loop, Subject>;

/// The kinds of our own operations. The frame passes on what it does not know.
inline constexpr auto kind_of_log = static_cast<common_ring::Kind>(64);
inline constexpr auto kind_of_bell = static_cast<common_ring::Kind>(65);

/// A record on its way: its owner derives from it what he must remember. It is the log's from append() until it is
/// handed to answer().
struct Append {
  std::unique_ptr<std::byte[]> memory{};  // room for the header, then the bytes
  std::uint32_t size = 0;                 // of both
  int error = 0;                          // the answer: 0, and it is durable at `offset`; or why it failed
  std::uint64_t offset = 0;

  bool written = false;
  bool asked = false;     // an fsync is on its way that will cover it
  bool synced = false;    // it has
  bool answered = false;  // it is the owner's again

  void allocate(std::uint32_t length) {
    memory = std::make_unique_for_overwrite<std::byte[]>(header_bytes + length);
    size = static_cast<std::uint32_t>(header_bytes) + length;
  }
  std::span<std::byte> bytes() const noexcept { return {memory.get() + header_bytes, size - header_bytes}; }
};

struct LogStatistics {
  std::uint64_t records = 0;  // acknowledged
  std::uint64_t failed = 0;
  std::uint64_t fsyncs = 0;
  std::uint64_t repairs = 0;
};

/// Writes in flight at most. They wait for one disk; more of them would only be more memory.
inline constexpr unsigned most_writes = 128;

template <class Rules = SoundRules>
class Log {
 public:
  /// Goes on at `end` of the file `fd`, opened for reading and writing. The loop's ring has room for a chain:
  /// most_writes + 1 SQEs.
  Log(uring::Loop& loop, Operations& operations, int fd, std::uint64_t end, Order order)
      : loop_(loop), operations_(operations), fd_(fd), end_(end), order_(order) {}

  /// Takes a record. Its answer comes later, from answer(); but for that, nothing happens before prepare().
  void append(Append& record) {
    entries_.push_back(&record);
    if (unusable_ != 0) fail_all();
  }

  /// Prepares what can be begun now. Call it once a turn, and then submit.
  void prepare();

  /// The result of one of its operations.
  void completed(const Work& work, int result);

  /// Hands back, by `handler(Append&)`, each record whose fate is known: those that are durable in the order of the log.
  template <class Handler>
  void answer(Handler&& handler) {
    for (Append* const record : std::exchange(answered_, {})) handler(*record);
  }

  bool has_answers() const noexcept { return !answered_.empty(); }
  bool is_idle() const noexcept { return entries_.empty() && in_flight_ == 0 && answered_.empty(); }
  /// There is something to begin, and there was no room for it in the ring: prepare() again, soon.
  bool is_starved() const noexcept { return starved_; }
  /// The errno for which the log was given up, or 0.
  int unusable() const noexcept { return unusable_; }
  unsigned in_flight() const noexcept { return in_flight_; }
  std::size_t waiting() const noexcept { return entries_.size(); }
  std::uint64_t end() const noexcept { return end_; }
  const LogStatistics& statistics() const noexcept { return statistics_; }

 private:
  enum class State : std::uint8_t { running, failing, repairing };

  Append& at(std::uint64_t number) { return *entries_[number - first_]; }
  std::uint64_t last() const noexcept { return first_ + entries_.size(); }

  template <class Fill>
  void start(const Work& work, Fill&& fill) {
    ++in_flight_;
    operations_.start(kind_of_log, {.work = work}, fill);
  }
  unsigned start_writes(unsigned most);
  void start_sync(std::uint64_t to);
  void prepare_waiting();
  void prepare_drained();
  void prepare_linked();
  bool was_split() const noexcept;

  void on_written(const Work& work, int result);
  void on_synced(const Work& work, int result);
  bool is_durable(const Append& record) const noexcept;
  void acknowledge();
  void answer_one(Append& record, int error);

  void fail(std::uint64_t from, int error);
  void begin_repair();
  void on_cut(int result);
  void settle();
  void give_up(int error);
  void fail_all();

  uring::Loop& loop_;
  Operations& operations_;
  int fd_;
  std::uint64_t end_;  // where the next record goes
  Order order_;

  // The records without an answer, in the order of the log, and how far each step has come, as record numbers:
  //   first_ ≤ written_ ≤ started_ ≤ last();  first_ ≤ asked_ ≤ started_
  std::deque<Append*> entries_{};
  std::uint64_t first_ = 0;    // the front's number
  std::uint64_t written_ = 0;  // all before it are written
  std::uint64_t asked_ = 0;    // all before it are covered by an fsync, done or submitted
  std::uint64_t started_ = 0;  // all before it are submitted
  std::vector<Append*> answered_{};

  unsigned in_flight_ = 0;
  unsigned syncs_ = 0;  // of them
  bool starved_ = false;
  std::uint64_t short_submits_ = 0;  // of the ring, when the last chain was prepared

  State state_ = State::running;
  std::uint64_t failed_at_ = 0;  // the first record that failed, and why
  int error_ = 0;
  bool sync_failed_ = false;
  std::uint64_t good_ = 0;  // repairing: all before it stay
  std::uint64_t cut_at_ = 0;
  int unusable_ = 0;
  LogStatistics statistics_{};
};

}  // namespace ordered_log

#include "servers/m4_ordered_log/log_impl.hpp"

// How the log does what log.hpp says, in the order of a record's life. Included by it.
#pragma once

#include "servers/m4_ordered_log/log.hpp"

namespace ordered_log {

// ---- Beginning ---------------------------------------------------------------------------------------------

template <class Rules>
void Log<Rules>::prepare() {
  starved_ = false;
  if (state_ != State::running || unusable_ != 0) return;
  switch (order_) {
    case Order::wait:
      prepare_waiting();
      break;
    case Order::drain:
      prepare_drained();
      break;
    case Order::link:
      prepare_linked();
      break;
  }
  acknowledge();
}

// While an fsync runs, what comes is written, and the next one covers it: the slower the disk, the more records share
// one. When none runs, nothing new is begun until the writes in flight are back: an fsync for the first of sixteen would
// make the other fifteen wait for two.
template <class Rules>
void Log<Rules>::prepare_waiting() {
  if (syncs_ > 0 || written_ == asked_) start_writes(most_writes - (in_flight_ - syncs_));
  if (syncs_ > 0) return;
  if constexpr (Rules::ack_in_order) {
    if (written_ > asked_ && in_flight_ == 0) start_sync(written_);
  } else {
    const auto is_next = [](const Append* record) { return record->written && !record->asked; };
    if (std::any_of(entries_.begin(), entries_.end(), is_next)) start_sync(started_);
  }
}

// A batch and its fsync behind it, although the batch before may still be in flight: the kernel keeps them apart. Two
// batches: while one is synced, the next is ready. More of them would only be smaller.
template <class Rules>
void Log<Rules>::prepare_drained() {
  constexpr unsigned batches = 2;
  if (syncs_ < batches && start_writes(most_writes) > 0) start_sync(started_);
}

// One chain at a time, in one submission: where that ends, the kernel ends the chain, and the fsync would not wait for
// the writes. So there must be room for all of it, or it is not begun.
template <class Rules>
void Log<Rules>::prepare_linked() {
  const auto writes = static_cast<unsigned>(std::min<std::uint64_t>(last() - started_, most_writes));
  if (in_flight_ > 0 || writes == 0) return;
  if (!loop_.batch(writes + 1)) {
    starved_ = true;
    return;
  }
  short_submits_ = loop_.statistics().short_submits;
  start_writes(writes);
  start_sync(started_);
}

template <class Rules>
bool Log<Rules>::was_split() const noexcept {
  return Rules::whole_chains_only && order_ == Order::link &&
         loop_.statistics().short_submits != short_submits_;
}

// A record gets its place when its write begins: until then a failure in front of it can still move it.
template <class Rules>
unsigned Log<Rules>::start_writes(unsigned most) {
  unsigned count = 0;
  for (; count < most && started_ < last(); ++count) {
    Append& record = at(started_);
    record.offset = end_;
    seal({record.memory.get(), record.size}, end_);
    start({.type = Work::Type::write, .from = started_, .to = started_ + 1},
          [&](io_uring_sqe& sqe, uring::Token token) {
            uring::prep::write(sqe, fd_, record.memory.get(), record.size, record.offset, token);
            if (order_ == Order::link && Rules::fsync) uring::prep::link(sqe);
          });
    end_ += record.size;
    ++started_;
  }
  return count;
}

// fdatasync: it leaves out the time of the last change, and nothing that reading the records back needs.
template <class Rules>
void Log<Rules>::start_sync(std::uint64_t to) {
  const std::uint64_t from = Rules::ack_in_order ? asked_ : first_;
  for (std::uint64_t number = std::max(from, first_); number < to; ++number) {
    at(number).asked = at(number).written || order_ != Order::wait;
  }
  asked_ = to;
  if constexpr (!Rules::fsync) return;
  ++syncs_;
  ++statistics_.fsyncs;
  start({.type = Work::Type::sync, .from = from, .to = to}, [&](io_uring_sqe& sqe, uring::Token token) {
    uring::prep::fsync(sqe, fd_, IORING_FSYNC_DATASYNC, token);
    if (order_ == Order::drain) uring::prep::drain(sqe);
  });
}

// ---- Completing --------------------------------------------------------------------------------------------

template <class Rules>
void Log<Rules>::completed(const Work& work, int result) {
  --in_flight_;
  switch (work.type) {
    case Work::Type::write:
      on_written(work, result);
      break;
    case Work::Type::sync:
      on_synced(work, result);
      break;
    case Work::Type::cut:
      return on_cut(result);
    case Work::Type::settle:
      return result == 0 ? settle() : give_up(-result);
    case Work::Type::none:
      return;
  }
  acknowledge();
  if (state_ == State::failing && in_flight_ == 0) begin_repair();
}

template <class Rules>
void Log<Rules>::on_written(const Work& work, int result) {
  Append& record = at(work.from);
  record.written = result == static_cast<int>(record.size);
  while (written_ < started_ && at(written_).written) ++written_;
  // A short write says that there was room for a part, and not why there is no more.
  if (!record.written) fail(work.from, result < 0 ? -result : ENOSPC);
}

template <class Rules>
void Log<Rules>::on_synced(const Work& work, int result) {
  --syncs_;
  if (result == 0 && !was_split()) {
    for (std::uint64_t number = std::max(work.from, first_); number < work.to; ++number) {
      at(number).synced = at(number).asked;
    }
  } else if (result == 0 || result == -ECANCELED) {
    fail(work.to, ECANCELED);  // it came too early; or it never began, because a write in front of it failed
  } else {
    sync_failed_ = Rules::failed_fsync_is_final;
    fail(first_, -result);
  }
}

template <class Rules>
bool Log<Rules>::is_durable(const Append& record) const noexcept {
  return record.written && (record.synced || !Rules::fsync || (!Rules::ack_after_fsync && record.asked));
}

template <class Rules>
void Log<Rules>::acknowledge() {
  if constexpr (!Rules::ack_in_order) {
    for (std::uint64_t number = first_; number < started_; ++number) {
      if (is_durable(at(number))) answer_one(at(number), 0);
    }
  }
  while (first_ < started_ && is_durable(at(first_))) {
    answer_one(at(first_), 0);
    entries_.pop_front();
    ++first_;
  }
}

template <class Rules>
void Log<Rules>::answer_one(Append& record, int error) {
  if (std::exchange(record.answered, true)) return;
  record.error = error;
  ++(error == 0 ? statistics_.records : statistics_.failed);
  answered_.push_back(&record);
}

// ---- Failing -----------------------------------------------------------------------------------------------

// The first record in the order of the log says why, not the first to complete: those linked behind it are only
// cancelled.
template <class Rules>
void Log<Rules>::fail(std::uint64_t from, int error) {
  if (state_ == State::failing && from > failed_at_) return;
  state_ = State::failing;
  failed_at_ = from;
  error_ = error;
}

template <class Rules>
void Log<Rules>::begin_repair() {
  state_ = State::repairing;
  good_ = sync_failed_ ? first_ : written_;
  cut_at_ = good_ < started_ ? at(good_).offset : end_;
  start({.type = Work::Type::cut},
        [&](io_uring_sqe& sqe, uring::Token token) { uring::prep::ftruncate(sqe, fd_, cut_at_, token); });
}

template <class Rules>
void Log<Rules>::on_cut(int result) {
  if (result == -EINVAL) {  // before 6.9 the ring cannot
    result = ::ftruncate(fd_, static_cast<::off_t>(cut_at_)) == 0 ? 0 : -errno;
  }
  if (result < 0) return give_up(-result);
  if constexpr (!Rules::fsync) return settle();
  ++statistics_.fsyncs;
  start({.type = Work::Type::settle},
        [&](io_uring_sqe& sqe, uring::Token token) { uring::prep::fsync(sqe, fd_, 0, token); });
}

template <class Rules>
void Log<Rules>::settle() {
  for (; first_ < started_; ++first_) {
    answer_one(*entries_.front(), first_ < good_ ? 0 : error_);
    entries_.pop_front();
  }
  written_ = asked_ = started_;
  end_ = cut_at_;
  sync_failed_ = false;
  state_ = State::running;
  ++statistics_.repairs;
}

template <class Rules>
void Log<Rules>::give_up(int error) {
  unusable_ = error;
  fail_all();
}

template <class Rules>
void Log<Rules>::fail_all() {
  for (Append* const record : entries_) answer_one(*record, unusable_);
  first_ = written_ = asked_ = started_ = last();
  entries_.clear();
}

}  // namespace ordered_log

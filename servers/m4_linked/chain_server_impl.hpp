// How the server of chains does it, in the order of a chain's life. Included by chain_server.hpp.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "servers/m4_linked/chain_server.hpp"

namespace linked {

inline ChainServer::ChainServer(uring::Loop& loop, common::Listener& listener, int signals, ServedFile* file,
                                const Work& work, std::uint32_t chains, std::uint32_t stats_seconds)
    : loop_(loop),
      listener_(listener),
      signals_(signals),
      file_(file),
      work_(work),
      stats_seconds_(stats_seconds),
      chains_(chains),
      // Address space for all; memory for those that are used.
      buffers_(
          std::make_unique_for_overwrite<std::byte[]>(std::size_t{chains} * (file ? longest : work.length))) {
  const std::size_t room = file ? longest : work.length;
  for (std::uint32_t i = 0; i < chains; ++i) {
    chains_[i].slot = {i};
    chains_[i].buffer = buffers_.get() + i * room;
  }
}

// ---- The loop ---------------------------------------------------------------------------------------------

inline int ChainServer::run() {
  now_ = stats_from_ = Clock::now();
  stats_at_ = now_ + std::chrono::seconds(stats_seconds_);
  look_at_ = now_ + look_again_after;
  read_signal();
  for (Chain& chain : chains_) queue(chain);
  while (stop_.serving() || busy_ > 0 || resting_ > 0) {
    if (const int result = turn(wait_time()); result < 0) return result;
    keep_house();
  }
  return end();
}

inline int ChainServer::turn(std::chrono::nanoseconds wait) {
  const int result = loop_.run_once([this](const io_uring_cqe& cqe) { on_cqe(cqe); }, wait);
  now_ = Clock::now();
  if (result >= 0 && work_.linked && loop_.statistics().short_submits > 0) {
    std::fprintf(stderr, "the kernel took a part of a chain: nothing can be said about it any more\n");
    return -EAGAIN;
  }
  return std::min(result, 0);
}

inline std::chrono::nanoseconds ChainServer::wait_time() const {
  std::chrono::nanoseconds wait = stop_.wait(now_, uring::forever);
  const auto until = [&](Time then) {
    wait = std::min(wait, std::max<std::chrono::nanoseconds>(then - now_, {}));
  };
  if (resting_ > 0) until(queue_again_at_);
  if (file_ != nullptr && stop_.serving()) until(look_at_);
  if (!stop_.serving()) until(call_back_at_);
  if (!reads_signal_) until(now_ + queue_again_after);
  if (stats_seconds_ > 0) until(stats_at_);
  return wait;
}

inline void ChainServer::keep_house() {
  stop_.look_at_clock(now_);
  if (!reads_signal_) read_signal();
  if (!stop_.serving() && now_ >= call_back_at_) call_back();
  if (file_ != nullptr && stop_.serving() && now_ >= look_at_) look_again();
  if (resting_ > 0 && now_ >= queue_again_at_) {
    resting_ = 0;
    for (Chain& chain : chains_) {
      if (chain.state != Chain::State::idle) continue;
      chain.must_repair ? repair(chain) : queue(chain);
    }
  }
  if (stats_seconds_ > 0 && now_ >= stats_at_) print_stats();
}

inline void ChainServer::on_cqe(const io_uring_cqe& cqe) {
  const uring::Token token{cqe.user_data};
  const Step step{token.kind()};
  if (static_cast<std::size_t>(step) >= steps_of_chain) {
    --others_;
    if (step == Step::signal) on_signal(cqe.res);
    if (step == Step::audit && cqe.res == 0) ++slots_leaked_;
    if (step == Step::stop_listening) listener_.close();
    return;
  }
  if (token.slot() >= chains_.size() || chains_[token.slot()].round != token.generation()) {
    ++stale_;
    return;
  }
  Chain& chain = chains_[token.slot()];
  chain.result(step) = cqe.res;
  if (work_.linked && work_.skip_success && chain.state == Chain::State::queued) {
    on_linked(chain, step);
  } else if (--chain.missing == 0) {
    work_.linked || chain.state == Chain::State::repair ? settle(chain) : on_driven(chain);
  }
}

// ---- The life of a chain ----------------------------------------------------------------------------------

inline void ChainServer::queue(Chain& chain) {
  chain.state = Chain::State::idle;
  if (!stop_.serving()) return;
  auto batch = loop_.batch(most_sqes);
  if (!batch) return rest(chain);
  ++counters_.accept_sqes;
  ++chain.round;
  chain.results.fill(Chain::not_yet);
  chain.must_repair = chain.must_reset = false;
  chain.length = work_.length;
  chain.stage = Step::accept;
  chain.missing = work_.linked ? prepare_chain(batch, work_, chain) : prepare_step(batch, work_, chain);
  batch.commit();
  chain.state = Chain::State::queued;
  ++busy_;
}

// With CQE_SKIP_SUCCESS. Who speaks has failed, and silenced all behind it, or is the CLOSE of a chain that went
// well. But a timer is no end: it says nothing here even when it fires (6.1 to 7.3). Nor is a SHUTDOWN whose peer has
// gone: CLOSE follows it all the same.
inline void ChainServer::on_linked(Chain& chain, Step step) {
  if (step != Step::fetch_timer && step != Step::send_timer && step != Step::shutdown) settle(chain);
}

// Without links: what the kernel would have done by itself.
inline void ChainServer::on_driven(Chain& chain) {
  switch (chain.stage) {
    case Step::accept:
      chain.fd = chain.result(Step::accept);  // in a slot it is 0, and not used
      return chain.fd >= 0 ? prepare_stage(chain, Step::fetch) : settle(chain);
    case Step::fetch:
      return chain.is_whole(chain.result(Step::fetch)) ? prepare_stage(chain, Step::send) : settle(chain);
    case Step::send:
      return chain.is_whole(chain.result(Step::send)) ? prepare_stage(chain, Step::close) : settle(chain);
    default:
      return settle(chain);
  }
}

inline void ChainServer::prepare_stage(Chain& chain, Step stage) {
  auto batch = loop_.batch(most_sqes);
  if (!batch) return settle(chain);  // without memory for it: it has not been done, so the chain is broken
  chain.stage = stage;
  chain.missing = prepare_step(batch, work_, chain);
  batch.commit();
}

// No SQE of this round is with the kernel any more. What has come of it?
inline void ChainServer::settle(Chain& chain) {
  --busy_;
  if (chain.state == Chain::State::repair) {
    if (chain.result(Step::close) != 0) ++stale_;  // the slot was not as the chain's results said
    chain.must_repair = false;
    return queue(chain);
  }
  if (!was_accepted(chain)) return settle_unaccepted(chain);
  count(chain);
  const int closed = chain.result(Step::close);
  // A descriptor is gone with its close, whatever that says; a second one would be somebody else's.
  if (closed == 0 || (!work_.in_slots && closed != Chain::not_yet)) return queue(chain);
  const int fetched = chain.result(Step::fetch);
  if (file_ != nullptr && fetched != Chain::not_yet && fetched != -ECANCELED && !chain.is_whole(fetched)) {
    look_at_file();  // it is not what it was
  }
  chain.must_reset = is_cut_short(chain) || stop_.state() == common::StopProtocol::State::ending;
  repair(chain);
}

/// There is something to answer with, and not all of it was sent: never padded, never without a word. With
/// CQE_SKIP_SUCCESS the links before the one that spoke were whole.
inline bool ChainServer::is_cut_short(const Chain& chain) const noexcept {
  const bool silent = work_.linked && work_.skip_success;
  const bool close_spoke = silent && chain.result(Step::close) != Chain::not_yet;
  const bool send_spoke = silent && chain.result(Step::send) != Chain::not_yet;
  const bool fetched = close_spoke || send_spoke || chain.is_whole(chain.result(Step::fetch));
  const bool sent = close_spoke || chain.is_whole(chain.result(Step::send));
  return (fetched || work_.from_file()) && !sent;
}

/// When the ACCEPT may skip its completion, no word from it means that it went well.
inline bool ChainServer::was_accepted(const Chain& chain) const noexcept {
  const int accepted = chain.result(Step::accept);
  return accepted >= 0 || accepted == Chain::not_yet;
}

inline void ChainServer::settle_unaccepted(Chain& chain) {
  switch (const int error = -chain.result(Step::accept)) {
    case ECANCELED:  // by us: to stop, or because the file has another length now
    case ECONNABORTED:
    case EINTR:
      return queue(chain);
    case EBADF:
    case EINVAL:
    case ENOTSOCK:
      chain.state = Chain::State::idle;
      if (!stop_.serving()) return;  // the listener was closed in the same turn
      failure_ = -error;
      stop_.stop(now_);
      return begin_stop();
    default:  // EMFILE, ENFILE, ENOMEM, ...: at once it would be the same again
      return rest(chain);
  }
}

inline void ChainServer::count(const Chain& chain) {
  ++counters_.accepted;
  const bool silent = work_.linked && work_.skip_success;
  const bool closed = chain.result(Step::close) == 0;
  const auto bytes = [&](Step step) -> std::uint64_t {
    const int result = chain.result(step);
    const bool reached = closed || (step == Step::fetch && chain.result(Step::send) != Chain::not_yet);
    if (result == Chain::not_yet) return silent && reached ? chain.length : 0;
    return static_cast<std::uint64_t>(std::max(result, 0));
  };
  if (!work_.from_file()) counters_.bytes_in += bytes(Step::fetch);
  const std::uint64_t sent = bytes(Step::send);
  counters_.bytes_out += sent;
  const int fetched = chain.result(Step::fetch);
  const bool left_without_a_word = fetched == 0 && chain.length > 0 && !work_.from_file();
  if (closed && sent == chain.length) {
    ++counters_.requests;
  } else if (!left_without_a_word) {
    ++counters_.errors;
  }
}

// The chain broke, and its CLOSE was cancelled with the rest: the slot is in use, and nobody but us knows it. Again
// a chain, with a hard link: the slot is closed whether or not there is somebody to reset.
inline void ChainServer::repair(Chain& chain) {
  static const ::sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
  chain.must_repair = true;
  auto batch = loop_.batch(3);
  if (!batch) return rest(chain);
  chain.result(Step::close) = Chain::not_yet;
  chain.missing = 1;
  if (chain.must_reset) {
    io_uring_sqe& sqe = batch.take();
    uring::prep::connect(sqe, client_of(work_, chain), &nowhere, sizeof nowhere, chain.token(Step::reset));
    mark_client(sqe, work_);
    uring::prep::hardlink(sqe);
    ++chain.missing;
  }
  if (work_.has_shutdown()) {
    io_uring_sqe& sqe = batch.take();
    prepare_shutdown(sqe, work_, chain);
    uring::prep::hardlink(sqe);
    ++chain.missing;
  }
  prepare_close(batch.take(), work_, chain);
  batch.commit();
  chain.state = Chain::State::repair;
  ++busy_;
}

inline void ChainServer::rest(Chain& chain) {
  chain.state = Chain::State::idle;
  if (resting_++ == 0) queue_again_at_ = now_ + queue_again_after;
}

// ---- The file ---------------------------------------------------------------------------------------------

// Chains that wait have promised the old length: they are called back, and queued anew.
inline void ChainServer::look_at_file() {
  look_at_ = now_ + look_again_after;
  if (!stop_.serving()) return;
  if (!file_->look()) {
    std::fprintf(stderr, "the file has become longer than one chain can serve (1 MiB)\n");
    failure_ = -EFBIG;
    stop_.stop(now_);
    return begin_stop();
  }
  if (std::exchange(work_.length, file_->length()) != file_->length()) cancel_accepts(Step::cancel);
}

// By the clock. Some may have kept the old length: the cancellation came a moment too soon, or there was no memory
// for it. (Or they have a client, and finish with it; then nothing happens to them.)
inline void ChainServer::look_again() {
  const bool some_are_late = std::any_of(chains_.begin(), chains_.end(), [&](const Chain& chain) {
    return chain.state == Chain::State::queued && chain.length != work_.length;
  });
  look_at_file();
  if (some_are_late && stop_.serving()) cancel_accepts(Step::cancel);
}

// ---- Stopping ---------------------------------------------------------------------------------------------

// False: there was no memory for it.
template <class Fill>
bool ChainServer::start(Step step, Fill&& fill) {
  io_uring_sqe* const sqe = loop_.next_sqe();
  if (sqe == nullptr) return false;
  fill(*sqe, uring::make_token(static_cast<std::uint8_t>(step), 0, 0));
  ++others_;
  return true;
}

inline void ChainServer::read_signal() {
  reads_signal_ = start(Step::signal, [&](io_uring_sqe& sqe, uring::Token token) {
    uring::prep::read(sqe, signals_, &signal_, sizeof signal_, 0, token);
  });
}

inline void ChainServer::on_signal(int result) {
  reads_signal_ = false;
  if (ended_) return;
  if (result == static_cast<int>(sizeof signal_)) {
    if (common::meaning_of(signal_.ssi_signo) == common::SignalMeaning::tables) {
      print_tables();
    } else {
      const bool was_serving = stop_.serving();
      stop_.stop(now_);
      call_back_at_ = now_;  // the grace is over
      if (was_serving) begin_stop();
    }
  }
  read_signal();
}

// One SQE for all that accept. What it cancels are the chains that have no client; they settle, and are not
// queued again.
inline bool ChainServer::cancel_accepts(Step step) {
  return start(step, [&](io_uring_sqe& sqe, uring::Token token) {
    uring::prep::async_cancel_all_fd(sqe, listener_.fd(), token);
  });
}

inline void ChainServer::begin_stop() {
  call_back_at_ = now_ + cut_again_after;
  resting_ = 0;
  for (Chain& chain : chains_) {
    if (chain.state == Chain::State::idle && chain.must_repair) rest(chain);
  }
  if (!cancel_accepts(Step::stop_listening)) listener_.close();  // call_back() does it one by one
}

// An ACCEPT that was just looking for a client when all were cancelled still waits for one. (By its token: the
// listener is closed, and only such ACCEPTs keep the socket.) When the grace is over, what a chain is doing is one of
// the three, or will be in a moment. Hence again and again.
inline void ChainServer::call_back() {
  call_back_at_ = now_ + cut_again_after;
  const bool grace_is_over = stop_.state() == common::StopProtocol::State::ending;
  for (const Chain& chain : chains_) {
    if (chain.state != Chain::State::queued) continue;
    for (const Step step : {Step::accept, Step::fetch, Step::send}) {
      if (step != Step::accept && !grace_is_over) break;
      start(Step::cancel, [&](io_uring_sqe& sqe, uring::Token token) {
        uring::prep::async_cancel(sqe, chain.token(step), token);
      });
    }
  }
}

// All chains are settled. Now the kernel is asked, slot by slot, whether the books are right: each is empty, and
// an empty one cannot be closed. What there is no memory for, and a cancellation that comes too soon, is tried again.
inline int ChainServer::end() {
  ended_ = true;
  const uring::Token signal = uring::make_token(static_cast<std::uint8_t>(Step::signal), 0, 0);
  std::size_t audited = work_.in_slots ? 0 : chains_.size();  // what is a descriptor, the process counts
  const auto audit_one = [&] {
    return start(Step::audit, [&](io_uring_sqe& sqe, uring::Token token) {
      uring::prep::close_direct(sqe, chains_[audited].slot, token);
    });
  };
  do {
    if (reads_signal_) {
      start(Step::cancel,
            [&](io_uring_sqe& sqe, uring::Token token) { uring::prep::async_cancel(sqe, signal, token); });
    }
    while (audited < chains_.size() && audit_one()) ++audited;
    if (const int result = turn(cut_again_after); result < 0) return result;
  } while (others_ > 0 || audited < chains_.size());
  listener_.close();
  return failure_;
}

// ---- What it says -----------------------------------------------------------------------------------------

inline std::uint64_t ChainServer::clients() const noexcept {
  return static_cast<std::uint64_t>(std::count_if(chains_.begin(), chains_.end(), [](const Chain& chain) {
    return chain.state != Chain::State::idle && chain.result(Step::accept) >= 0;
  }));
}

inline void ChainServer::print_tables() const {
  const uring::RingSnapshot ring = loop_.ring().snapshot();
  std::fprintf(stderr, "ring: sq head %u tail %u of %u, cq head %u tail %u of %u\n", ring.sq_head,
               ring.sq_tail, ring.sq_entries, ring.cq_head, ring.cq_tail, ring.cq_entries);
  std::fprintf(stderr, "%zu chains, %u with the kernel, %u resting%s\n", chains_.size(), busy_, resting_,
               work_.linked && work_.skip_success ? "; which have a client only the kernel knows" : "");
  std::fprintf(stderr, "%8s  %-10s %10s %8s\n", "slot", "state", "rounds", "missing");
  for (const Chain& chain : chains_) {
    const bool repaired = chain.state == Chain::State::repair;
    if (!repaired && (chain.state == Chain::State::idle || chain.result(Step::accept) < 0)) continue;
    const bool fetched = chain.result(Step::fetch) != Chain::not_yet;
    std::fprintf(stderr, "%8u  %-10s %10u %8u\n", chain.slot.index,
                 repaired  ? "repair"
                 : fetched ? "sends"
                           : "receives",
                 chain.round, chain.missing);
  }
}

inline void ChainServer::print_stats() {
  const common::Counters now = counters();
  const std::chrono::duration<double> seconds = now_ - stats_from_;
  std::fprintf(stderr, "%s\n",
               common::stats_line(stats_before_, now, seconds.count(), {.connections = clients()}).c_str());
  stats_before_ = now;
  stats_from_ = now_;
  stats_at_ = now_ + std::chrono::seconds(stats_seconds_);
}

inline common::Counters ChainServer::counters() const {
  common::Counters counters = counters_;
  const uring::LoopStatistics ring = loop_.statistics();
  counters.sqes = ring.sqe_submitted;
  counters.cqes = ring.cqe_processed;
  counters.enters = ring.io_enter_calls;
  counters.short_submits = ring.short_submits;
  counters.overflows = ring.overflows;
  counters.syscalls += ring.io_enter_calls;
  return counters;
}

inline std::uint64_t ChainServer::count_leaks() const {
  const std::uint64_t leaks = busy_ + others_ + stale_ + slots_leaked_;
  if (leaks > 0) {
    std::fprintf(stderr,
                 "leaked: %u chains, %u other operations, %llu completions that fit nothing, %llu slots\n",
                 busy_, others_, static_cast<unsigned long long>(stale_),
                 static_cast<unsigned long long>(slots_leaked_));
  }
  return leaks;
}

}  // namespace linked

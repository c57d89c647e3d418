// The server of --mode echo and --mode file: N chains, each in the kernel's hands until it is over, then queued
// again.
//
//      queue(chain) ──► the kernel does it ──► the last CQE ──► settle(chain) ──┬──► queue(chain)
//           ▲                                                                   ├──► repair(chain): CLOSE, then queue
//           └───────────── after 100 ms, if there was nothing to accept with ◄──┘
//
// It accepts when it has chains, and has no other limit: whoever comes when all are busy waits in the
// listener's backlog. So a chain that is lost makes the server smaller, and when all are lost it is deaf. Hence
// the two rules that the code below is about: each chain is settled, however it broke; and what a broken chain
// has left open is closed by us.
//
// `driven` is the same work, with the same slots and buffers and the same time-outs, in which each step is
// prepared when the completion of the one before it has come: what a chain saves and costs is the difference.
//
// Stopping: the ACCEPTs are cancelled, all at once by their listener, and then each that has survived. A chain
// whose client is there ends by itself, or is cut when the grace is over, and its client is reset. Which clients are idle nobody can say here: how much a RECV with
// MSG_WAITALL has received is known when it completes.
//
// Limit: if the kernel has no memory for a whole chain, it takes the first part of it, and the rest with the
// next submit, when it is no chain any more. Then nothing is right any longer (SEND might send what was in the
// buffer before), and the server ends with an error.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "servers/common/counters.hpp"
#include "servers/common/error_class.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/signals.hpp"
#include "servers/m4_linked/chain.hpp"
#include "servers/m4_linked/served_file.hpp"
#include "uring/loop.hpp"

namespace linked {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

/// When chains that found nothing to accept with are queued again.
inline constexpr std::chrono::milliseconds queue_again_after{100};
/// How often the file's length is looked at.
inline constexpr std::chrono::seconds look_again_after{1};
/// How often what should end is cancelled, from the first signal on: a cancellation can come a moment too soon,
/// while what it is meant for is about to look whether it must go on waiting.
inline constexpr std::chrono::milliseconds cut_again_after{100};

class ChainServer {
 public:
  /// The ring has a table of `chains` slots, and room in its SQ for all chains at once (sq_entries_for). All
  /// must outlive the server; `file` may be null. `signals` is a signalfd.
  ChainServer(uring::Loop& loop, common::Listener& listener, int signals, ServedFile* file, const Work& work,
              std::uint32_t chains, std::uint32_t stats_seconds);

  /// So that no turn submits in the middle of a chain: all of them, or three cancellations for each.
  static constexpr unsigned sq_entries_for(std::uint32_t chains) noexcept { return chains * most_sqes + 16; }

  /// Serves until a signal says stop and the last client has gone. 0, or -errno if the ring or the listener
  /// failed for good.
  int run();

  /// What was counted so far; `leaks` is 0.
  common::Counters counters() const;
  /// After run(): what is still held, which is said on stderr.
  std::uint64_t count_leaks() const;

 private:
  // ---- The loop
  int turn(std::chrono::nanoseconds wait);
  std::chrono::nanoseconds wait_time() const;
  void keep_house();
  int end();
  void on_cqe(const io_uring_cqe& cqe);

  // ---- The life of a chain
  void queue(Chain& chain);
  void on_linked(Chain& chain, Step step);
  void on_driven(Chain& chain);
  void prepare_stage(Chain& chain, Step stage);
  void settle(Chain& chain);
  bool was_accepted(const Chain& chain) const noexcept;
  bool is_cut_short(const Chain& chain) const noexcept;
  void settle_unaccepted(Chain& chain);
  void count(const Chain& chain);
  void repair(Chain& chain);
  void rest(Chain& chain);

  // ---- The file, the stop, the words
  void look_at_file();
  void look_again();
  void read_signal();
  void on_signal(int result);
  void begin_stop();
  bool cancel_accepts(Step step);
  void call_back();
  template <class Fill>
  bool start(Step step, Fill&& fill);
  void print_tables() const;
  std::uint64_t clients() const noexcept;
  void print_stats();

  uring::Loop& loop_;
  common::Listener& listener_;
  int signals_;
  ServedFile* file_;
  Work work_;
  std::uint32_t stats_seconds_;
  std::vector<Chain> chains_;
  std::unique_ptr<std::byte[]> buffers_;
  std::uint32_t busy_ = 0;     // chains that are with the kernel
  std::uint32_t resting_ = 0;  // and that are to be queued or repaired when the clock says so
  std::uint32_t others_ = 0;   // operations that are no chain's

  common::StopProtocol stop_{};
  ::signalfd_siginfo signal_{};
  bool reads_signal_ = false;  // a READ of the next one is with the kernel
  bool ended_ = false;
  int failure_ = 0;
  Time now_{};
  Time queue_again_at_{};
  Time look_at_{};
  Time call_back_at_{};
  Time stats_at_{};
  Time stats_from_{};
  common::Counters counters_{};
  common::Counters stats_before_{};
  std::uint64_t stale_ = 0;         // completions that are nobody's
  std::uint64_t slots_leaked_ = 0;  // which the audit found open
};

}  // namespace linked

#include "servers/m4_linked/chain_server_impl.hpp"

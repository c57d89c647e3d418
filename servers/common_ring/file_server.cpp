#include "servers/common_ring/file_server.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <span>
#include <utility>

#include "servers/common/error_class.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"

namespace common_ring {

using uring::Token;

FileServer::FileServer(uring::Loop& loop, uring::BufferPool& pool, uring::DirectFiles* slots,
                       common::Listener& listener, int root, int signals, const Options& options)
    : loop_(loop),
      pool_(pool),
      listener_(listener),
      signals_(signals),
      options_(options),
      operations_(loop),
      files_(operations_, {.root = root,
                           .capacity = options.files.open_files,
                           .past_page_cache = options.files.direct,
                           .slots = slots}),
      acceptor_(operations_, listener.fd()) {}

// ---- The loop ----------------------------------------------------------------------------------------------

int FileServer::run() {
  now_ = stats_from_ = Clock::now();
  stats_at_ = now_ + std::chrono::seconds(options_.server.stats_seconds);
  acceptor_.arm();
  read_signal();
  while (stop_.serving() || !connections_.empty()) {
    if (const int result = turn(wait_time()); result < 0) return result;
    keep_house();
  }
  return end();
}

int FileServer::turn(std::chrono::nanoseconds time) {
  const auto handler = [this](Kind kind, const Operation& operation, int result, std::uint32_t flags) {
    dispatch(kind, operation, result, flags);
  };
  clock_was_read_ = false;
  const int result = loop_.run_once(
      [&](const io_uring_cqe& cqe) {
        // One look at the clock a turn, after the wait: all that follows happens "now".
        if (!std::exchange(clock_was_read_, true)) now_ = Clock::now();
        operations_.complete(cqe, handler);
      },
      operations_.some_are_refused() ? std::chrono::nanoseconds::zero() : time);
  if (result < 0) return result;
  if (!clock_was_read_) now_ = Clock::now();
  operations_.fail_refused(handler);
  return 0;
}

// The connections are gone. The signal's read is given up, idle files are closed, and then nothing is in
// flight any more.
int FileServer::end() {
  files_.close_idle();
  if (signal_read_) operations_.cancel(*signal_read_, nullptr);
  ended_ = true;
  while (operations_.size() > 0) {
    if (const int result = turn(uring::forever); result < 0) return result;
  }
  return failure_;
}

void FileServer::dispatch(Kind kind, const Operation& operation, int result, std::uint32_t flags) {
  if (operation.connection != nullptr) {
    dispatch_connection(kind, *operation.connection, result, flags);
  } else if (operation.chunk != nullptr) {
    on_read(*operation.chunk, result);
  } else if (operation.file != nullptr) {
    on_file(kind, *operation.file, result);
  } else if (kind == Kind::accept) {
    on_accept(result, flags);
  } else if (kind == Kind::signal) {
    on_signal(result);
  }
}

void FileServer::dispatch_connection(Kind kind, Connection& connection, int result, std::uint32_t flags) {
  --connection.pending;
  switch (kind) {
    case Kind::receive:
      on_received(connection, result, flags);
      break;
    case Kind::send:
      on_sent(connection, result);
      break;
    case Kind::writable:
      on_writable(connection, result);
      break;
    case Kind::close:
      if (result == -ENOMEM) {  // it got no SQE, so it was not even tried
        ++counters_.syscalls;
        ::close(connection.fd);
      }
      return on_closed(connection);
    default:
      break;  // a cancellation: what it was for reports on its own
  }
  close_when_quiet(connection);
}

// What is not driven by a completion but by the time, or by the state of the whole.
void FileServer::keep_house() {
  serve_line();
  if (!line_.empty()) preempt_stalled();
  while (Connection* const connection = lingering_.first()) {
    if (!connection->linger->is_over(now_)) break;
    begin_close(*connection);
  }
  if (accept_again_at_ && now_ >= *accept_again_at_) descriptor_is_free();
  const bool was_ending = stop_.state() == common::StopProtocol::State::ending;
  stop_.look_at_clock(now_);
  if (!was_ending && stop_.state() == common::StopProtocol::State::ending) reset_all();
  if (options_.server.stats_seconds > 0 && now_ >= stats_at_) print_stats();
}

std::chrono::nanoseconds FileServer::wait_time() const {
  std::chrono::nanoseconds time = stop_.wait(now_, uring::forever);
  const auto at_most_until = [&](Time then) {
    time = std::min(time, std::max<std::chrono::nanoseconds>(then - now_, {}));
  };
  if (options_.server.stats_seconds > 0) at_most_until(stats_at_);
  if (accept_again_at_) at_most_until(*accept_again_at_);
  if (const Connection* const connection = lingering_.first()) at_most_until(connection->linger->deadline());
  if (!line_.empty() && !sends_.empty()) at_most_until(sends_.first()->send_began + patience_with_readers);
  return time;
}

// ---- Clients come ------------------------------------------------------------------------------------------

void FileServer::on_accept(int result, std::uint32_t flags) {
  switch (acceptor_.completed(result, flags)) {
    case Acceptor::Outcome::connection:
      add_connection(result);
      break;
    case Acceptor::Outcome::shortage:
      return short_of_descriptors();
    case Acceptor::Outcome::broken:
      failure_ = result;
      stop_.stop(now_);
      begin_stop();
      break;
    case Acceptor::Outcome::nothing:
      break;
  }
  if (!stop_.serving() && !acceptor_.armed()) listener_.close();
  if (stop_.serving() && !accept_again_at_) acceptor_.arm();
}

// A file that nobody reads is closed first, which nobody will notice; then the connection that was idle
// longest. The close arms the accept again, and so does the clock, in case there was neither.
void FileServer::short_of_descriptors() {
  accept_again_at_ = now_ + accept_again_after;
  if (files_.close_one()) return;
  if (idle_.first() != nullptr) begin_close(*idle_.first());
}

void FileServer::descriptor_is_free() {
  if (!accept_again_at_ || !stop_.serving()) return;
  accept_again_at_.reset();
  acceptor_.arm();
}

void FileServer::add_connection(int fd) {
  if (!stop_.serving() || connections_.size() >= options_.server.max_connections) {
    ++counters_.refused;
    ++counters_.syscalls;
    ::close(fd);  // nothing is in flight on it
    return;
  }
  ++counters_.accepted;
  Connection& connection = connections_.emplace_back();
  connection.self = std::prev(connections_.end());
  connection.fd = fd;
  connection.last_active = now_;
  idle_.push_back(connection);
  receive(connection);
}

// ---- They say something ------------------------------------------------------------------------------------

void FileServer::receive(Connection& connection) {
  connection.receiving = start(Kind::receive, connection, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::recv(sqe, connection.fd, connection.input.get(), input_bytes, 0, token);
    // Nothing was left when we looked last, so do not try at once, wait.
    connection.polled_first = poll_first_ && !connection.more_waits;
    if (connection.polled_first) sqe.ioprio |= IORING_RECVSEND_POLL_FIRST;
  });
}

void FileServer::on_received(Connection& connection, int result, std::uint32_t flags) {
  connection.receiving.reset();
  if (connection.state == Connection::State::closing) return;
  if (result == -EINVAL && connection.polled_first) {  // before 5.19
    poll_first_ = false;
    return receive(connection);
  }
  if (result < 0) return fail(connection);
  counters_.bytes_in += static_cast<std::uint64_t>(result);
  connection.last_active = now_;
  connection.more_waits = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
  if (connection.state == Connection::State::lingering) {
    connection.linger->discarded(static_cast<std::size_t>(result));
    return result == 0 || connection.linger->is_over(now_) ? begin_close(connection) : receive(connection);
  }
  if (result == 0) {
    connection.peer_finished = true;
    connection.state = Connection::State::answering;
  }
  connection.input_begin = 0;
  connection.input_end = static_cast<std::size_t>(result);
  take_requests(connection);
  advance(connection);
}

// Cuts what was received into requests, until there are as many under way as we take at a time.
void FileServer::take_requests(Connection& connection) {
  common::Request request;
  while (connection.state == Connection::State::open && connection.jobs < max_jobs &&
         connection.input_begin < connection.input_end) {
    const std::span<const std::byte> input(connection.input.get() + connection.input_begin,
                                           connection.input_end - connection.input_begin);
    const common::RequestParser::Consumed consumed = connection.parser.consume(input, request, text_);
    connection.input_begin += consumed.used;
    if (consumed.complete) begin_job(connection, request);
  }
  if (connection.parser.deaf() && connection.state == Connection::State::open) {
    connection.state = Connection::State::answering;
  }
}

// Receives when there is room for what comes. A client that asks faster than it is answered fills its own
// socket.
void FileServer::want_input(Connection& connection) {
  if (connection.state != Connection::State::open || connection.receiving || connection.jobs == max_jobs ||
      connection.input_begin < connection.input_end) {
    return;
  }
  if (!stop_.serving() && !connection.parser.started()) return;  // what has begun may end; no more
  receive(connection);
}

// ---- They leave --------------------------------------------------------------------------------------------

// Every request is answered. What now depends on whether more can come.
void FileServer::all_answered(Connection& connection) {
  if (connection.state == Connection::State::answering) return finish(connection);
  if (!stop_.serving() && !connection.parser.started()) return finish(connection);
  idle_.remove(connection);
  idle_.push_back(connection);
}

// The last answer is out. If the client may still be sending, it gets time to read that answer.
// (shutdown(2), because OP_SHUTDOWN always runs on a worker thread, and shutdown never blocks.)
void FileServer::finish(Connection& connection) {
  if (connection.peer_finished) return begin_close(connection);
  ++counters_.syscalls;
  if (::shutdown(connection.fd, SHUT_WR) != 0) return begin_close(connection);
  idle_.remove(connection);
  connection.state = Connection::State::lingering;
  connection.linger.emplace(now_);
  lingering_.push_back(connection);
  if (!connection.receiving) receive(connection);
}

// Something is wrong with the connection itself.
void FileServer::fail(Connection& connection) {
  if (connection.jobs > 0) ++counters_.errors;
  begin_close(connection);
}

// Closing begins with cancelling: a close alone would end none of the operations, nor send a FIN.
void FileServer::begin_close(Connection& connection, bool reset) {
  if (connection.state >= Connection::State::closing) return;
  connection.state = Connection::State::closing;
  connection.reset = reset;
  idle_.remove(connection);
  line_.remove(connection);
  lingering_.remove(connection);
  if (connection.receiving) cancel(connection, *connection.receiving);
  if (connection.sending && !connection.preempted) cancel(connection, *connection.sending);
  if (connection.polling) cancel(connection, *connection.polling);
  abandon_after(connection, nullptr);
  close_when_quiet(connection);
}

void FileServer::cancel(Connection& connection, Token target) {
  ++connection.pending;
  operations_.cancel(target, &connection);
}

void FileServer::close_when_quiet(Connection& connection) {
  if (connection.state != Connection::State::closing || connection.pending > 0) return;
  connection.state = Connection::State::closed;
  if (connection.reset) {
    const ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ++counters_.syscalls;
    ::setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  start(Kind::close, connection,
        [&](io_uring_sqe& sqe, Token token) { uring::prep::close(sqe, connection.fd, token); });
}

void FileServer::on_closed(Connection& connection) {
  connections_.erase(connection.self);
  descriptor_is_free();
}

// ---- Signals -----------------------------------------------------------------------------------------------

void FileServer::read_signal() {
  signal_read_ = operations_.start(Kind::signal, {}, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::read(sqe, signals_, &signal_, sizeof signal_, 0, token);
  });
}

void FileServer::on_signal(int result) {
  signal_read_.reset();
  if (result == static_cast<int>(sizeof signal_)) {
    if (common::meaning_of(signal_.ssi_signo) == common::SignalMeaning::tables) {
      print_tables();
    } else {
      stop_.stop(now_);
      if (stop_.state() == common::StopProtocol::State::finishing) begin_stop();
      if (stop_.state() == common::StopProtocol::State::ending) reset_all();
    }
  }
  if (!ended_) read_signal();
}

// No more clients, and no more requests: idle connections close, the others get five seconds.
void FileServer::begin_stop() {
  accept_again_at_.reset();
  acceptor_.stop();
  if (!acceptor_.armed()) listener_.close();
  for (auto next = connections_.begin(); next != connections_.end();) {
    Connection& connection = *next++;
    if (connection.state == Connection::State::open && connection.jobs == 0 && !connection.parser.started()) {
      begin_close(connection);
    }
  }
}

void FileServer::reset_all() {
  for (auto next = connections_.begin(); next != connections_.end();) begin_close(*next++, true);
}

// ---- What it says ------------------------------------------------------------------------------------------

void FileServer::print_tables() {
  const uring::RingSnapshot ring = loop_.ring().snapshot();
  std::fprintf(stderr,
               "ring: sq head %u tail %u of %u, cq head %u tail %u of %u, %zu operations in flight\n"
               "buffers: %zu of %zu in use, %zu connections in line\n"
               "files: %zu open, of them idle %zu\n"
               "connections: %zu\n",
               ring.sq_head, ring.sq_tail, ring.sq_entries, ring.cq_head, ring.cq_tail, ring.cq_entries,
               operations_.size(), pool_.in_use(), pool_.capacity(), line_.size(), files_.open_files(),
               files_.idle_files(), connections_.size());
  for (const Connection& connection : connections_) {
    const std::chrono::duration<double> quiet = now_ - connection.last_active;
    std::fprintf(stderr, "  fd %d %s: %u pending, %u requests, %zu bytes being sent%s, quiet for %.1f s\n",
                 connection.fd, name_of(connection.state), connection.pending, connection.jobs,
                 connection.sending ? connection.send_size : 0, connection.stalled ? " (stalled)" : "",
                 quiet.count());
  }
}

void FileServer::print_stats() {
  const common::Counters now = counters();
  const std::chrono::duration<double> seconds = now_ - stats_from_;
  const common::Gauges gauges{
      .connections = connections_.size(), .buffers_in_use = pool_.in_use(), .buffers = pool_.capacity()};
  std::fprintf(stderr, "%s\n", common::stats_line(stats_before_, now, seconds.count(), gauges).c_str());
  stats_before_ = now;
  stats_from_ = now_;
  stats_at_ = now_ + std::chrono::seconds(options_.server.stats_seconds);
}

common::Counters FileServer::counters() const {
  common::Counters counters = counters_;
  const uring::LoopStatistics ring = loop_.statistics();
  counters.sqes = ring.sqe_submitted;
  counters.cqes = ring.cqe_processed;
  counters.enters = ring.io_enter_calls;
  counters.short_submits = ring.short_submits;
  counters.overflows = ring.overflows;
  counters.rearms = acceptor_.rearms();
  counters.syscalls += ring.io_enter_calls + files_.syscalls();
  counters.buffers_in_use_max = pool_.in_use_max();
  return counters;
}

std::uint64_t FileServer::count_leaks() const {
  const std::uint64_t jobs = jobs_.size() - free_jobs_.size();
  const std::uint64_t leaks = operations_.size() + operations_.stale() + connections_.size() + jobs +
                              pool_.in_use() + files_.open_files();
  if (leaks > 0) {
    std::fprintf(stderr,
                 "leaked: %zu operations, %llu completions of nothing, %zu connections, %llu requests, "
                 "%zu buffers, %zu files\n",
                 operations_.size(), static_cast<unsigned long long>(operations_.stale()),
                 connections_.size(), static_cast<unsigned long long>(jobs), pool_.in_use(),
                 files_.open_files());
  }
  return leaks;
}

}  // namespace common_ring

#include "servers/m4_ordered_log/server.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "servers/common/error_class.hpp"
#include "uring/prep_sockets.hpp"

namespace ordered_log {

using uring::Token;

/// When to look again after the kernel had no memory for what the log wants.
constexpr std::chrono::milliseconds again_after{1};
/// How long a signal may go unheard behind a DRAIN; and how long the ring stays stuck while we want to end.
constexpr std::chrono::milliseconds deaf_for{200};
constexpr std::chrono::milliseconds stuck_for{20};

LogServer::LogServer(uring::Loop& loop, LogRing* own, common::Listener& listener, int signals, int file,
                     std::uint64_t end, const Options& options)
    : loop_(loop),
      own_(own),
      listener_(listener),
      signals_(signals),
      stalls_(own == nullptr && options.order == Order::drain),
      frame_(*this, loop, listener, signals, options.server),
      operations_(frame_.operations()),
      log_(own != nullptr ? own->loop() : loop, own != nullptr ? own->operations() : operations_, file, end,
           options.order) {
  if (own != nullptr) bell_ = own->bell();
}

// ---- What the frame asks for -------------------------------------------------------------------------------

void LogServer::dispatch(Kind kind, const Subject& subject, int result, std::uint32_t) {
  if (kind == kind_of_log) return log_.completed(subject.work, result);
  if (kind == kind_of_bell) return bell_read_.reset();
  if (subject.connection == nullptr) return;  // a cancellation of the frame's, or ours
  Connection& connection = *subject.connection;
  --connection.pending;
  switch (kind) {
    case Kind::receive:
      on_received(connection, result);
      break;
    case Kind::send:
      on_sent(connection, result);
      break;
    case Kind::close:
      return on_closed(connection, result);
    default:
      break;  // a cancellation: what it was for reports on its own
  }
  close_when_quiet(connection);
}

void LogServer::keep_house() {
  serve_log();
  while (Connection* const connection = lingering_.first()) {
    if (!connection->linger->is_over(frame_.now())) break;
    begin_close(*connection);
  }
  ::pollfd signal{.fd = signals_, .events = POLLIN, .revents = 0};
  if (stalls_ && (!frame_.serving() || ::poll(&signal, 1, 0) > 0)) pry_free();
}

void LogServer::next_deadline(common_ring::Deadline& deadline) const {
  if (!lingering_.empty()) deadline.at_most_until(lingering_.first()->linger->deadline());
  if (log_.is_starved() || (own_ != nullptr && own_->is_behind())) {
    deadline.at_most_until(frame_.now() + again_after);
  }
  if (stalls_) deadline.at_most_until(frame_.now() + (frame_.serving() ? deaf_for : stuck_for));
}

// Somebody to whom nothing is owed, and the one who has been silent longest.
void LogServer::free_a_descriptor() {
  if (leaving_ == 0 && !idle_.empty()) begin_close(*idle_.first());
}

void LogServer::begin_stop() {
  for (auto next = connections_.begin(); next != connections_.end();) {
    Connection& connection = *next++;
    const bool is_idle = connection.requests == 0 && !connection.has_begun();
    if (connection.state == Connection::State::open && is_idle) begin_close(connection);
  }
}

void LogServer::reset_all() {
  for (auto next = connections_.begin(); next != connections_.end();) begin_close(*next++, true);
}

// The frame is about to give up its read of the signals, by an SQE. One that drains would wait for that very read; so
// it ends here, and everything else that may still be in flight.
void LogServer::release_idle() {
  ended_ = true;
  if (bell_read_) operations_.cancel(*bell_read_, {});
  uring::Ring& ring = loop_.ring();
  for (int tries = 0; stalls_ && tries < 1000 && ring.ready() < operations_.size(); ++tries) {
    pry_free();
    ring.submit_and_wait(ring.ready() + 1, std::chrono::milliseconds(1));
  }
}

// ---- The log -----------------------------------------------------------------------------------------------

// Once a turn: what came in this turn is begun together, and what the log has said is answered together.
void LogServer::serve_log() {
  do {
    if (own_ == nullptr) {
      log_.prepare();
    } else if (const int result = own_->pump(log_); result < 0) {
      // Nobody was told anything that is not true; and nothing more can be found out.
      std::fprintf(stderr, "the log's ring has failed: %s\n", common::errno_text(-result).c_str());
      std::_Exit(common::exit_failed);
    }
    log_.answer([this](Append& answered) { on_answer(static_cast<Request&>(answered)); });
    while (Connection* const connection = answered_.pop_front()) advance(*connection);
  } while (log_.has_answers());
  if (log_.unusable() != 0 && !std::exchange(said_unusable_, true)) {
    std::fprintf(stderr, "the log is unusable, every PUT is refused from now on: %s\n",
                 common::errno_text(log_.unusable()).c_str());
  }
  listen_to_bell();
}

void LogServer::on_answer(Request& request) {
  Connection& connection = *request.connection;
  --connection.in_log;
  connection.bytes -= request.size;
  request.memory.reset();
  request.is_done = true;
  request.code = request.error == 0 ? 0 : log_.unusable() != 0 ? 503 : code_of(request.error);
  if (connection.state < Connection::State::closing) {
    if (!answered_.contains(connection)) answered_.push_back(connection);
  } else {
    retire(request);
    close_when_quiet(connection);
  }
}

void LogServer::listen_to_bell() {
  if (own_ == nullptr || bell_read_ || ended_) return;
  bell_read_ = operations_.start(kind_of_bell, {}, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::read(sqe, bell_.get(), &rung_, sizeof rung_, 0, token);
  });
}

// What a DRAIN waits for and what would not end by itself. Each is begun again, behind it; what is behind it now has not
// begun, and is found the next time.
void LogServer::pry_free() {
  if (listener_.fd() >= 0) cancel_now_on(listener_.fd());
  cancel_now_on(signals_);
  for (const Connection& connection : connections_) {
    if (connection.receiving) cancel_now(*connection.receiving);
    if (connection.sending && connection.state == Connection::State::closing) cancel_now(*connection.sending);
  }
}

void LogServer::cancel_now(Token target) {
  io_uring_sync_cancel_reg cancel{};
  cancel.addr = target.bits;
  cancel.fd = -1;
  cancel_now(cancel);
}

void LogServer::cancel_now_on(int fd) {
  io_uring_sync_cancel_reg cancel{};
  cancel.fd = fd;
  cancel.flags = IORING_ASYNC_CANCEL_FD;
  cancel_now(cancel);
}

// A system call, not an SQE. What stood behind a DRAIN is begun by a worker thread, and while that one is at it, the call
// may say 0 and have ended nothing (seen on 6.18). So whoever must be sure waits for the CQE, and asks again.
void LogServer::cancel_now(io_uring_sync_cancel_reg cancel) {
  cancel.timeout = {.tv_sec = 0, .tv_nsec = 1'000'000};
  const uring::Kernel& kernel = loop_.ring().kernel();
  ++counters_.syscalls;
  kernel.register_(kernel.self, loop_.ring().fd(), IORING_REGISTER_SYNC_CANCEL, &cancel, 1);
}

// ---- Clients come ------------------------------------------------------------------------------------------

void LogServer::add_client(int fd) {
  if (frame_.is_full()) {
    ++counters_.refused;
    ++counters_.syscalls;
    ::close(fd);  // nothing is in flight on it
    return;
  }
  ++counters_.accepted;
  Connection& connection = connections_.emplace_back();
  connection.self = std::prev(connections_.end());
  connection.fd = fd;
  connection.last_active = frame_.now();
  idle_.push_back(connection);
  receive(connection);
}

// ---- They say something ------------------------------------------------------------------------------------

// Into the record, when most of it is still to come; what is less than the input buffer holds comes together with the
// next line.
void LogServer::receive(Connection& connection) {
  std::byte* at = connection.input.get();
  std::size_t room = input_bytes;
  if (connection.is_direct()) {
    at = connection.incoming->bytes().data() + connection.filled;
    room = connection.missing();
  }
  connection.receiving = start(Kind::receive, connection, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::recv(sqe, connection.fd, at, static_cast<std::uint32_t>(room), 0, token);
  });
}

// Receives when there is room for what comes. While the server stops: only the rest of what has begun.
void LogServer::want_input(Connection& connection) {
  if (connection.state != Connection::State::open || connection.receiving) return;
  if (connection.input_begin < connection.input_end) return;
  if (connection.incoming == nullptr && connection.is_full()) return;
  if (!frame_.serving() && !connection.has_begun()) return;
  receive(connection);
}

void LogServer::on_received(Connection& connection, int result) {
  connection.receiving.reset();
  if (connection.state >= Connection::State::closing) return;
  if (connection.state == Connection::State::lingering) return on_lingering(connection, result);
  // Transient: also cancelled, by pry_free().
  if (result < 0 && common::classify(-result) == common::ErrorClass::transient) return advance(connection);
  if (result < 0) return fail(connection);
  counters_.bytes_in += static_cast<std::uint64_t>(result);
  connection.last_active = frame_.now();
  if (result == 0) {
    connection.peer_finished = true;
    if (connection.has_begun()) refuse(connection, 400);
    connection.state = Connection::State::answering;
  } else if (connection.is_direct()) {
    connection.filled += static_cast<std::uint32_t>(result);
    if (connection.missing() == 0) hand_over(connection);
  } else {
    connection.input_begin = 0;
    connection.input_end = static_cast<std::size_t>(result);
  }
  advance(connection);
}

void LogServer::on_lingering(Connection& connection, int result) {
  if (result < 0 && result != -ECANCELED) return begin_close(connection);
  counters_.bytes_in += static_cast<std::uint64_t>(std::max(result, 0));
  connection.linger->discarded(static_cast<std::size_t>(std::max(result, 0)));
  const bool is_over = result == 0 || connection.linger->is_over(frame_.now());
  is_over ? begin_close(connection) : receive(connection);
}

// Cuts what was received into records, until there are as many on their way as we take at a time.
void LogServer::take_input(Connection& connection) {
  while (connection.state == Connection::State::open && connection.input_begin < connection.input_end) {
    const std::size_t there = connection.input_end - connection.input_begin;
    if (connection.incoming != nullptr) {
      take_bytes(connection, std::min<std::size_t>(there, connection.missing()));
    } else if (connection.is_full()) {
      return;
    } else {
      take_line(connection);
    }
  }
}

void LogServer::take_line(Connection& connection) {
  Line& line = connection.line;
  while (connection.input_begin < connection.input_end) {
    const char c = static_cast<char>(connection.input[connection.input_begin++]);
    if (c == '\n') {
      const Asked asked = parse_line({line.text.data(), std::exchange(line.size, 0)});
      return asked.code == 0 ? begin_record(connection, asked.length) : refuse(connection, asked.code);
    }
    if (line.size == Line::most) return refuse(connection, 400);
    line.text[line.size++] = c;
  }
}

void LogServer::begin_record(Connection& connection, std::uint32_t length) {
  Request& request = new_request(connection);
  request.allocate(length);
  connection.bytes += request.size;
  connection.incoming = &request;
  connection.filled = 0;
  if (length == 0) hand_over(connection);
}

void LogServer::take_bytes(Connection& connection, std::size_t count) {
  std::memcpy(connection.incoming->bytes().data() + connection.filled,
              connection.input.get() + connection.input_begin, count);
  connection.input_begin += count;
  connection.filled += static_cast<std::uint32_t>(count);
  if (connection.missing() == 0) hand_over(connection);
}

// The record is complete: the log has it now.
void LogServer::hand_over(Connection& connection) {
  Request& request = *std::exchange(connection.incoming, nullptr);
  put_in_line(connection, request);
  idle_.remove(connection);
  ++connection.in_log;
  log_.append(request);
}

// The last thing that is said here.
void LogServer::refuse(Connection& connection, int code) {
  if (connection.incoming != nullptr) retire(*std::exchange(connection.incoming, nullptr));
  Request& request = new_request(connection);
  request.is_done = true;
  request.code = code;
  put_in_line(connection, request);
  idle_.remove(connection);
  connection.line.size = 0;
  connection.state = Connection::State::answering;
}

// ---- Their requests ----------------------------------------------------------------------------------------

Request& LogServer::new_request(Connection& connection) {
  if (free_requests_.empty()) free_requests_.push_back(&requests_.emplace_back());
  Request& request = *free_requests_.back();
  free_requests_.pop_back();
  request.connection = &connection;
  return request;
}

void LogServer::put_in_line(Connection& connection, Request& request) {
  (connection.last != nullptr ? connection.last->next : connection.first) = &request;
  connection.last = &request;
  ++connection.requests;
}

void LogServer::retire(Request& request) {
  request = Request{};
  free_requests_.push_back(&request);
}

// Something has changed: whatever can go on, does.
void LogServer::advance(Connection& connection) {
  if (connection.state > Connection::State::answering) return;
  take_input(connection);
  send(connection);
  if (connection.state <= Connection::State::answering && connection.requests == 0) all_answered(connection);
  want_input(connection);
}

void LogServer::all_answered(Connection& connection) {
  const bool stopping = !frame_.serving() && !connection.has_begun();
  if (connection.state == Connection::State::answering || stopping) return finish(connection);
  idle_.remove(connection);
  idle_.push_back(connection);
}

// All answers that are known, in the order of the requests; one send at a time.
void LogServer::send(Connection& connection) {
  if (connection.sending) return;
  if (connection.answers.empty()) gather_answers(connection);
  if (connection.answers.empty()) return;
  const std::size_t left = connection.answers.size() - connection.sent;
  connection.sending = start(Kind::send, connection, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::send(sqe, connection.fd, connection.answers.data() + connection.sent,
                      static_cast<std::uint32_t>(left), MSG_WAITALL, token);
  });
}

void LogServer::gather_answers(Connection& connection) {
  while (connection.first != nullptr && connection.first->is_done) {
    Request& request = *connection.first;
    connection.answers +=
        request.code == 0 ? ok_text(request.offset) : error_text(request.code, request.error);
    connection.first = request.next;
    if (connection.first == nullptr) connection.last = nullptr;
    ++connection.answers_in_send;
    retire(request);
  }
}

void LogServer::on_sent(Connection& connection, int result) {
  connection.sending.reset();
  if (connection.state >= Connection::State::closing) return;
  if (result < 0 && common::classify(-result) != common::ErrorClass::transient) return fail(connection);
  connection.sent += static_cast<std::size_t>(std::max(result, 0));
  counters_.bytes_out += static_cast<std::uint64_t>(std::max(result, 0));
  if (connection.sent == connection.answers.size()) {
    counters_.requests += connection.answers_in_send;
    connection.requests -= std::exchange(connection.answers_in_send, 0);
    connection.answers.clear();
    connection.sent = 0;
  }
  advance(connection);
}

// ---- They leave --------------------------------------------------------------------------------------------

// The last answer is out. If the client may still be sending, it gets time to read that answer.
void LogServer::finish(Connection& connection) {
  if (connection.peer_finished) return begin_close(connection);
  ++counters_.syscalls;
  if (::shutdown(connection.fd, SHUT_WR) != 0) return begin_close(connection);
  idle_.remove(connection);
  connection.state = Connection::State::lingering;
  connection.linger.emplace(frame_.now());
  lingering_.push_back(connection);
  if (!connection.receiving) receive(connection);
}

// Something is wrong with the connection itself. If answers are owed, its end must not look like a good one.
void LogServer::fail(Connection& connection) {
  if (connection.requests > 0) ++counters_.errors;
  begin_close(connection, connection.requests > 0);
}

// Closing begins with cancelling: a close alone would end none of the operations, nor send a FIN.
void LogServer::begin_close(Connection& connection, bool reset) {
  if (connection.state >= Connection::State::closing) return;
  connection.state = Connection::State::closing;
  ++leaving_;
  connection.reset = reset;
  idle_.remove(connection);
  lingering_.remove(connection);
  answered_.remove(connection);
  if (connection.receiving) cancel(connection, *connection.receiving);
  if (connection.sending) cancel(connection, *connection.sending);
  for (Request* next = std::exchange(connection.first, nullptr); next != nullptr;) {
    Request& request = *std::exchange(next, next->next);
    if (request.is_done) retire(request);  // the others are the log's
  }
  connection.last = nullptr;
  close_when_quiet(connection);
}

void LogServer::cancel(Connection& connection, Token target) {
  ++connection.pending;
  operations_.cancel(target, {.connection = &connection});
  if (stalls_) cancel_now(target);
}

// A record whose bytes were still coming in waits until here: the receive writes to it.
void LogServer::close_when_quiet(Connection& connection) {
  if (connection.state != Connection::State::closing || connection.pending > 0 || connection.in_log > 0)
    return;
  connection.state = Connection::State::closed;
  if (connection.incoming != nullptr) retire(*std::exchange(connection.incoming, nullptr));
  if (connection.reset) {
    const ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ++counters_.syscalls;
    ::setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  start(Kind::close, connection,
        [&](io_uring_sqe& sqe, Token token) { uring::prep::close(sqe, connection.fd, token); });
}

void LogServer::on_closed(Connection& connection, int result) {
  if (result == -ENOMEM) {  // it got no SQE, so it was not even tried
    ++counters_.syscalls;
    ::close(connection.fd);
  }
  connections_.erase(connection.self);
  --leaving_;
  frame_.descriptor_is_free();
}

// ---- What it says ------------------------------------------------------------------------------------------

void LogServer::print_tables() const {
  const LogStatistics& log = log_.statistics();
  std::fprintf(
      stderr,
      "log: ends at %llu, %zu records wait, %u operations in flight; %llu acknowledged by %llu fsyncs, "
      "%llu failed in %llu repairs\nconnections: %zu\n",
      static_cast<unsigned long long>(log_.end()), log_.waiting(), log_.in_flight(),
      static_cast<unsigned long long>(log.records), static_cast<unsigned long long>(log.fsyncs),
      static_cast<unsigned long long>(log.failed), static_cast<unsigned long long>(log.repairs),
      connections_.size());
  for (const Connection& connection : connections_) {
    const std::chrono::duration<double> quiet = frame_.now() - connection.last_active;
    std::fprintf(
        stderr,
        "  fd %d %s: %u pending, %u requests, %u of them in the log, %zu bytes queued, quiet for %.1f s\n",
        connection.fd, name_of(connection.state), connection.pending, connection.requests, connection.in_log,
        connection.answers.size() - connection.sent, quiet.count());
  }
}

common::Counters LogServer::counters() const {
  common::Counters counters = counters_;
  frame_.add_to(counters);
  if (own_ != nullptr) {
    const uring::LoopStatistics log = own_->loop().statistics();
    counters.sqes += log.sqe_submitted;
    counters.cqes += log.cqe_processed;
    counters.enters += log.io_enter_calls;
    counters.short_submits += log.short_submits;
    counters.overflows += log.overflows;
    counters.syscalls += log.io_enter_calls;
  }
  return counters;
}

std::uint64_t LogServer::count_leaks() const {
  const std::size_t in_log = own_ != nullptr ? own_->operations().size() : 0;
  const std::uint64_t stale = operations_.stale() + (own_ != nullptr ? own_->operations().stale() : 0);
  const std::size_t requests = requests_.size() - free_requests_.size();
  const std::uint64_t leaks =
      operations_.size() + in_log + stale + connections_.size() + requests + log_.waiting();
  if (leaks > 0) {
    std::fprintf(
        stderr,
        "leaked: %zu operations, %zu of the log, %llu completions of nothing, %zu connections, %zu requests, "
        "%zu records\n",
        operations_.size(), in_log, static_cast<unsigned long long>(stale), connections_.size(), requests,
        log_.waiting());
  }
  return leaks;
}

}  // namespace ordered_log

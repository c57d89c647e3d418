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
    : pool_(pool),
      loans_(pool, options.zero_copy_from),
      frame_(*this, loop, listener, signals, options.server),
      operations_(frame_.operations()),
      files_(operations_, {.root = root,
                           .capacity = options.files.open_files,
                           .past_page_cache = options.files.direct,
                           .slots = slots}) {}

// ---- What the frame asks for -------------------------------------------------------------------------------

void FileServer::dispatch(Kind kind, const Subject& subject, int result, std::uint32_t flags) {
  if (subject.connection != nullptr) {
    dispatch_connection(kind, *subject.connection, result, flags);
  } else if (subject.chunk != nullptr) {
    on_read(*subject.chunk, result);
  } else if (subject.file != nullptr) {
    on_file(kind, *subject.file, result);
  } else if (subject.loan != nullptr) {
    on_lent(*subject.loan, result, flags);
  }
}

void FileServer::dispatch_connection(Kind kind, Connection& connection, int result, std::uint32_t flags) {
  if ((flags & IORING_CQE_F_MORE) == 0) --connection.pending;
  switch (kind) {
    case Kind::receive:
      on_received(connection, result, flags);
      break;
    case Kind::send:
      on_sent(connection, result);
      break;
    case Kind::writable:
      on_writable(connection, result, flags);
      break;
    case Kind::close:
      return on_closed(connection, result);
    case Kind::cancel:
      on_cancelled(connection, result);
      break;
    default:
      break;
  }
  close_when_quiet(connection);
}

// What is not driven by a completion but by the time, or by the state of the whole.
void FileServer::keep_house() {
  serve_line();
  if (!line_.empty()) preempt_stalled();
  while (Connection* const connection = lingering_.first()) {
    if (!connection->linger->is_over(frame_.now())) break;
    begin_close(*connection);
  }
}

void FileServer::next_deadline(Deadline& deadline) const {
  if (!lingering_.empty()) deadline.at_most_until(lingering_.first()->linger->deadline());
  // The next one that preempt_stalled() will cancel; those that it has cancelled end without the clock.
  std::size_t wanted = line_.size();
  for (const Connection* send = sends_.first(); send != nullptr && wanted > 0;
       send = sends_.next(*send), --wanted) {
    if (send->preempted || send->state == Connection::State::closing) continue;
    return deadline.at_most_until(send->send_began + patience_with_readers);
  }
}

// A file that nobody reads is closed first, which nobody will notice; then the connection that was idle
// longest.
void FileServer::free_a_descriptor() {
  if (files_.close_one()) return;
  if (!idle_.empty()) begin_close(*idle_.first());
}

// No more requests: idle connections close, the others get five seconds.
void FileServer::begin_stop() {
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

// ---- Clients come ------------------------------------------------------------------------------------------

void FileServer::add_client(int fd) {
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
  connection.last_active = frame_.now();
  connection.more_waits = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
  if (connection.state == Connection::State::lingering) {
    connection.linger->discarded(static_cast<std::size_t>(result));
    return result == 0 || connection.linger->is_over(frame_.now()) ? begin_close(connection)
                                                                   : receive(connection);
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
  if (!frame_.serving() && !connection.parser.started()) return;  // what has begun may end; no more
  receive(connection);
}

// ---- They leave --------------------------------------------------------------------------------------------

// Every request is answered. What now depends on whether more can come.
void FileServer::all_answered(Connection& connection) {
  if (connection.state == Connection::State::answering) return finish(connection);
  if (!frame_.serving() && !connection.parser.started()) return finish(connection);
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
  connection.linger.emplace(frame_.now());
  lingering_.push_back(connection);
  if (!connection.receiving) receive(connection);
}

// Something is wrong with the connection itself.
void FileServer::fail(Connection& connection) {
  if (connection.jobs > 0) ++counters_.errors;
  begin_close(connection,
              connection.jobs > 0);  // what is owed will not come: the end must not look like a good one
}

// Closing begins with cancelling: a close alone would end none of the operations, nor send a FIN.
void FileServer::begin_close(Connection& connection, bool reset) {
  if (connection.state >= Connection::State::closing) return;
  connection.state = Connection::State::closing;
  ++leaving_;
  connection.reset = reset;
  idle_.remove(connection);
  line_.remove(connection);
  lingering_.remove(connection);
  cancel_all(connection);
  abandon_after(connection, nullptr);
  close_when_quiet(connection);
}

void FileServer::cancel_all(Connection& connection) {
  for (const std::optional<Token>& target : {connection.receiving, connection.sending, connection.polling}) {
    if (target) cancel(connection, *target);
  }
}

void FileServer::cancel(Connection& connection, Token target) {
  ++connection.pending;
  operations_.cancel(target, {.connection = &connection});
}

// What a cancellation was for reports on its own. But one that found nothing may have come at the one moment in
// which its target cannot be found: between a wake-up, which has put it into task work, and the next wait. So what
// is still in flight is tried again. (Its target's completion would stand in front of this one.)
void FileServer::on_cancelled(Connection& connection, int result) {
  if (result != -ENOENT) return;
  if (connection.state == Connection::State::closing) return cancel_all(connection);
  if (!connection.sending || !std::exchange(connection.preempted, false)) return;
  connection.send_began = frame_.now();
  sends_.remove(connection);
  sends_.push_back(connection);
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

void FileServer::on_closed(Connection& connection, int result) {
  if (result == -ENOMEM) {  // it got no SQE, so it was not even tried
    ++counters_.syscalls;
    ::close(connection.fd);
  }
  connections_.erase(connection.self);
  --leaving_;
  frame_.descriptor_is_free();
}

// ---- What it says ------------------------------------------------------------------------------------------

void FileServer::print_tables() const {
  std::fprintf(stderr,
               "buffers: %zu of %zu in use (%zu of them held by the kernel alone), %zu connections in line\n"
               "files: %zu open, of them idle %zu\n"
               "connections: %zu\n",
               pool_.in_use(), pool_.capacity(), loans_.kept(), line_.size(), files_.open_files(),
               files_.idle_files(), connections_.size());
  for (const Connection& connection : connections_) {
    const std::chrono::duration<double> quiet = frame_.now() - connection.last_active;
    std::fprintf(stderr, "  fd %d %s: %u pending, %u requests, %zu bytes being sent%s, quiet for %.1f s\n",
                 connection.fd, name_of(connection.state), connection.pending, connection.jobs,
                 connection.sending ? connection.send_size : 0, connection.stalled ? " (stalled)" : "",
                 quiet.count());
  }
}

common::Gauges FileServer::gauges() const noexcept {
  return {.connections = connections_.size(), .buffers_in_use = pool_.in_use(), .buffers = pool_.capacity()};
}

common::Counters FileServer::counters() const {
  common::Counters counters = counters_;
  frame_.add_to(counters);
  loans_.add_to(counters);
  counters.syscalls += files_.syscalls();
  counters.buffers_in_use_max = pool_.in_use_max();
  return counters;
}

std::uint64_t FileServer::count_leaks() const {
  const std::uint64_t jobs = jobs_.size() - free_jobs_.size();
  // What peers have not acknowledged is the kernel's, with its pages; it needs neither us nor the process.
  const std::size_t operations = operations_.size() - loans_.due();
  const std::size_t buffers = pool_.in_use() - loans_.kept();
  loans_.print();
  if (operations == 0) loans_.check_nothing_lost();
  if (loans_.due() > 0) {
    std::fprintf(stderr,
                 "still held by the kernel: %zu buffers, for %zu sends that no peer has acknowledged\n",
                 loans_.kept(), loans_.due());
  }
  const std::uint64_t leaks =
      operations + operations_.stale() + connections_.size() + jobs + buffers + files_.open_files();
  if (leaks > 0) {
    std::fprintf(stderr,
                 "leaked: %zu operations, %llu completions of nothing, %zu connections, %llu requests, "
                 "%zu buffers, %zu files\n",
                 operations, static_cast<unsigned long long>(operations_.stale()), connections_.size(),
                 static_cast<unsigned long long>(jobs), buffers, files_.open_files());
  }
  return leaks;
}

}  // namespace common_ring

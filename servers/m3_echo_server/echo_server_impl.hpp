// How the echo server does what echo_server.hpp says, in the order of a connection's life. Included by it.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "servers/common/error_class.hpp"
#include "servers/common/socket_queue.hpp"
#include "servers/m3_echo_server/echo_server.hpp"
#include "uring/prep_control.hpp"

namespace echo {

using uring::Token;

// ---- What the frame asks for -------------------------------------------------------------------------------

template <bool Sqpoll>
void EchoServer<Sqpoll>::dispatch(Kind kind, const Subject& subject, int result, std::uint32_t flags) {
  if (subject.connection == nullptr) return;  // the accept, or the signal's read, has been cancelled
  Connection& connection = *subject.connection;
  if ((flags & IORING_CQE_F_MORE) == 0) --connection.pending;
  switch (kind) {
    case Kind::receive:
      on_received(connection, result, flags);
      break;
    case Kind::send:
      on_sent(connection, result);
      break;
    case Kind::hangup:
      on_hangup(connection, result);
      break;
    case Kind::look:
      on_look(connection, result);
      break;
    case Kind::peer:
      on_peer(result);
      break;
    case Kind::close:
      return on_closed(connection, result);
    default:
      break;  // a cancellation (what it was for reports on its own), or a connection that has been cut off
  }
  close_when_quiet(connection);
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::keep_house() {
  if (stopping_) look_at_quiet();
  if (group_ != nullptr) {
    refill_group();
    feed_starving();
    doubt_promises();
  }
  if (behaviour_.idle_timeout_seconds > 0) close_idle();
  decide_how_to_wait();
}

// A send's completion is there as soon as it is submitted, nearly always; those are not worth waiting for. And
// where this turn has brought many messages, the next one will: to ask for more than that many completions
// would have the kernel make all of them before it returns, and each needs a buffer.
template <bool Sqpoll>
void EchoServer<Sqpoll>::decide_how_to_wait() {
  if (gathering_.due(frame_.now())) {
    gathering_.look(frame_.now(), thread_cpu_time());
    ++counters_.syscalls;
  }
  const unsigned sends = std::exchange(sends_begun_, 0);
  const unsigned messages = gathering_.messages();
  const bool gathers = messages > 1 && sends <= messages;
  loop_.wait_by(gathers ? uring::WaitPolicy{.gather = gathering_time, .enough = messages + sends}
                        : uring::WaitPolicy{});
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::next_deadline(common_ring::Deadline& deadline) const {
  if (behaviour_.idle_timeout_seconds > 0 && !active_.empty()) {
    deadline.at_most_until(active_.first()->last_active + idle_timeout());
  }
  if (!promised_.empty()) deadline.at_most_until(promised_.first()->promise_made + patience_with_promises);
  if (starving_.empty() || sends_.empty()) return;
  const Connection& oldest = *sends_.first();
  if (!oldest.preempted && oldest.state != Connection::State::closing) {
    deadline.at_most_until(oldest.send_began + patience_with_readers);
  }
}

// Somebody who is leaving gives back his own. Otherwise somebody goes, but nobody who has just come: he may have
// taken the very last descriptor, and then nobody else is waiting.
template <bool Sqpoll>
void EchoServer<Sqpoll>::free_a_descriptor() {
  if (client_count() == connection_count()) close_idlest(common_ring::accept_again_after);
}

// The one goes that has been silent longest; where all are owed bytes, the one where nothing moved for longest.
template <bool Sqpoll>
void EchoServer<Sqpoll>::close_idlest(std::chrono::milliseconds at_least) {
  const auto is_old = [&](const Connection* c) {
    return c != nullptr && frame_.now() - c->last_active >= at_least;
  };
  for (Connection* c = active_.first(); is_old(c); c = active_.next(*c)) {
    if (c->queued == 0) return begin_close(*c);
  }
  if (is_old(active_.first())) begin_close(*active_.first(), true);
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::close_idle() {
  while (!active_.empty()) {
    Connection& silent = *active_.first();
    if (frame_.now() - silent.last_active < idle_timeout()) return;
    if (silent.queued > 0 && has_read(silent)) {
      touch(silent);
    } else {
      begin_close(silent, silent.queued > 0);
    }
  }
}

// Whether the peer has taken something since the last time that this was asked, although no send completed.
// (At the first time: it may have.) A slot cannot be asked.
template <bool Sqpoll>
bool EchoServer<Sqpoll>::has_read(Connection& connection) {
  if (has_slots()) return false;
  ++counters_.syscalls;
  const int untaken = common::untaken_bytes(connection.fd);
  return std::exchange(connection.untaken, untaken) != untaken;
}

// Clients may finish what they have begun, which is what has reached us by now.
template <bool Sqpoll>
void EchoServer<Sqpoll>::begin_stop() {
  stopping_ = true;
  for (Connection& connection : connections_) connection.must_look = true;
}

// Nothing is queued for this client; but something may lie in its socket that the receive has not brought yet
// (an SQPOLL thread gets to it when it likes). So the socket is asked, in line with everything else: by a
// receive that takes nothing and does not wait.
template <bool Sqpoll>
void EchoServer<Sqpoll>::look_at_quiet() {
  for (Connection& connection : connections_) {
    if (connection.state != Connection::State::open || connection.queued > 0) continue;
    if (!std::exchange(connection.must_look, false)) continue;
    start(Kind::look, connection, [&](io_uring_sqe& sqe, Token token) {
      uring::prep::recv(sqe, connection.fd, &looked_at_, 1, MSG_PEEK | MSG_DONTWAIT, token);
    });
  }
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::on_look(Connection& connection, int result) {
  if (connection.state != Connection::State::open || connection.queued > 0) return;
  if (result == -ENOMEM) {  // it got no SQE
    connection.must_look = true;
  } else if (result < 0) {
    begin_close(connection);  // EAGAIN: nothing. Otherwise the receive says what is there
  }
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::reset_all() {
  for (auto next = connections_.begin(); next != connections_.end();) begin_close(*next++, true);
}

// One too many becomes a connection as well, and leaves at once: closing has one path, for a slot too.
template <bool Sqpoll>
void EchoServer<Sqpoll>::add_client(int fd) {
  const bool refused = frame_.is_full();
  // The kernel finds out that no slot is free when the client has been accepted, and drops it: so one is free.
  const bool is_last_slot = has_slots() && connections_.size() + spare_slots > behaviour_.slots;
  if (!refused && is_last_slot && client_count() == connection_count()) close_idlest({});
  ++(refused ? counters_.refused : counters_.accepted);
  Connection& connection = connections_.emplace_back();
  connection.self = std::prev(connections_.end());
  connection.fd = fd;
  connection.last_active = frame_.now();
  active_.push_back(connection);
  if (refused) return begin_close(connection);
  if (behaviour_.unix_sockets && group_ != nullptr) watch_for_hangup(connection);
  receive(connection);
}

// ---- Receiving ---------------------------------------------------------------------------------------------

template <bool Sqpoll>
template <class Fill>
Token EchoServer<Sqpoll>::start(Kind kind, Connection& connection, Fill&& fill) {
  ++connection.pending;
  const Token token = operations_.start(kind, {&connection}, [&](io_uring_sqe& sqe, Token name) {
    fill(sqe, name);
    if (has_slots() && kind != Kind::close) uring::prep::fixed_file(sqe);
  });
  if (behaviour_.submit_each) loop_.ring().submit();
  return token;
}

// Receives if it may and does not yet.
template <bool Sqpoll>
void EchoServer<Sqpoll>::receive(Connection& connection) {
  if (connection.state != Connection::State::open || connection.receiving || connection.full ||
      starving_.contains(connection)) {
    return;
  }
  const bool from_group = group_ != nullptr && has_multishot_;
  from_group ? receive_from_group(connection) : receive_alone(connection);
}

// With the cap it ends by itself when the queue could be full; it counts what comes, and not what is queued,
// so a client that reads as fast as it writes has a new receive every 64 KiB. Without the cap a multishot takes
// up to 32 buffers at once from a socket that has so much, before a cancellation is heard; so while a client
// fills buffers, it is received from one by one. So is who may have more to say than a multishot has brought.
template <bool Sqpoll>
void EchoServer<Sqpoll>::receive_from_group(Connection& connection) {
  const bool one_by_one = connection.hung_up || connection.deaf || (connection.fills_buffers && !has_cap_);
  connection.form = one_by_one ? Form::one : has_cap_ ? Form::capped : Form::multishot;
  connection.receiving = start(Kind::receive, connection, [&](io_uring_sqe& sqe, Token token) {
    if (connection.form == Form::one) {
      uring::prep::recv_select(sqe, connection.fd, group_->group(), 0, 0, token);
    } else if (connection.form == Form::capped) {
      uring::prep::recv_multishot_capped(sqe, connection.fd, group_->group(), high_water - connection.queued,
                                         token);
    } else {
      uring::prep::recv_multishot(sqe, connection.fd, group_->group(), token);
    }
  });
}

// A multishot receive on a Unix-domain socket can miss the end of the stream (6.18 and 7.3; 6.1 and 6.12 see it): when
// the FIN and the bytes for some 40 buffers are there already, it takes the bytes and waits for an event that has
// been. (docs/kernel-facts.md; TCP is not affected.) So somebody else waits for the FIN, and then the rest is
// received one by one: each of those looks first. Where the receive sees the end itself, one of the two is cancelled:
// no harm, and no need to know the kernel.
template <bool Sqpoll>
void EchoServer<Sqpoll>::watch_for_hangup(Connection& connection) {
  connection.watching = start(Kind::hangup, connection, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::poll_add(sqe, connection.fd, POLLRDHUP, token);
  });
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::on_hangup(Connection& connection, int result) {
  connection.watching.reset();
  if (connection.state >= Connection::State::closing) return;
  if (result == -ENOMEM) return watch_for_hangup(connection);  // it got no SQE
  connection.hung_up = true;
  if (connection.receiving && is_multishot(connection.form)) cancel(connection, *connection.receiving);
}

// There is one buffer, so nothing is received before it has been sent.
template <bool Sqpoll>
void EchoServer<Sqpoll>::receive_alone(Connection& connection) {
  if (connection.queued > 0 || connection.sending) return;
  if (!connection.memory)
    connection.memory = std::make_unique_for_overwrite<std::byte[]>(single_buffer_bytes);
  connection.form = Form::single;
  connection.receiving = start(Kind::receive, connection, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::recv(sqe, connection.fd, connection.memory.get(), single_buffer_bytes, 0, token);
  });
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::on_received(Connection& connection, int result, std::uint32_t flags) {
  const bool ended = (flags & IORING_CQE_F_MORE) == 0;
  if (ended) connection.receiving.reset();
  if (result > 0 || (flags & IORING_CQE_F_BUFFER) != 0) take_bytes(connection, result, flags);
  if (ended) after_receive_ended(connection, result);
  note_promise(connection, flags);
}

// A multishot receive can go deaf (6.12, 6.18, now and then 7.3; not seen on 6.1; docs/kernel-facts.md): in front of an
// urgent byte TCP says EAGAIN to a receive whose thread has a signal pending. That is how task work is announced without
// DEFER_TASKRUN; the receive waits for the next segment then, with all that has come lying there. But it has said before that there is more
// (SOCK_NONEMPTY), and what nearly always follows in the same turn is missed when it does not. (Where nothing lies in
// front of the urgent byte nothing is said, and nothing helps but DEFER_TASKRUN.)
template <bool Sqpoll>
void EchoServer<Sqpoll>::note_promise(Connection& connection, std::uint32_t flags) {
  promised_.remove(connection);
  const bool brings_more = connection.receiving && is_multishot(connection.form);
  if ((flags & IORING_CQE_F_SOCK_NONEMPTY) == 0 || !brings_more) return;
  if (connection.state != Connection::State::open) return;
  connection.promise_made = frame_.now();
  promised_.push_back(connection);
}

// Perhaps there was nothing but the urgent byte, or this kernel is not one that goes deaf. A receive of one looks first,
// and looks again after each EAGAIN as long as the socket is readable; a doubt for nothing costs two SQEs, once.
template <bool Sqpoll>
void EchoServer<Sqpoll>::doubt_promises() {
  while (!promised_.empty() && frame_.now() - promised_.first()->promise_made >= patience_with_promises) {
    Connection& connection = *promised_.pop_front();
    connection.deaf = true;
    cancel(connection, *connection.receiving);
  }
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::take_bytes(Connection& connection, int result, std::uint32_t flags) {
  const bool from_group = (flags & IORING_CQE_F_BUFFER) != 0;
  const std::int32_t id = from_group ? group_->take(flags) : no_buffer;
  std::byte* const at = from_group ? group_->data(static_cast<std::uint16_t>(id)) : connection.memory.get();
  const Segment segment{.at = at, .size = static_cast<std::uint32_t>(std::max(result, 0)), .buffer = id};
  if (segment.size > 0 && connection.state == Connection::State::closing) connection.reset = true;  // lost
  if (segment.size == 0 || connection.state >= Connection::State::closing) return give_back(segment);
  if (from_group) hot_buffers_.wanted_one();
  connection.fills_buffers = from_group && segment.size == group_->buffer_size();
  connection.deaf = false;
  gathering_.spoke(connection.spoke_in);
  ++counters_.requests;
  counters_.bytes_in += segment.size;
  connection.queue.push_back(segment);
  connection.queued += segment.size;
  touch(connection);
  // Behind private memory that is being sent: from now on there is a buffer to be had here.
  if (from_group && connection.sending && !sends_.contains(connection)) sends_.push_back(connection);
  stop_receiving_when_full(connection);
  send(connection);
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::stop_receiving_when_full(Connection& connection) {
  if (connection.full || connection.queued < high_water) return;
  connection.full = true;
  if (connection.receiving && connection.form == Form::multishot) cancel(connection, *connection.receiving);
}

// The last completion of a receive: why it was the last says what to do.
template <bool Sqpoll>
void EchoServer<Sqpoll>::after_receive_ended(Connection& connection, int result) {
  if (connection.state >= Connection::State::closing) return;
  switch (result) {
    case 0:
      connection.state = Connection::State::draining;
      if (connection.queued == 0) begin_close(connection);
      return;
    case -ENOBUFS:
      ++counters_.enobufs;
      hot_buffers_.wanted_one();
      if (connection.state == Connection::State::open) starving_.push_back(connection);
      return;
    case -EINVAL:
      if (connection.form == Form::single || connection.form == Form::one) break;
      learn_what_is_missing(connection.form);
      return receive(connection);
    default:
      break;
  }
  if (result > 0 && connection.form != Form::single) ++counters_.rearms;
  if (result > 0 || common::classify(-result) == common::ErrorClass::transient) return receive(connection);
  fail(connection);
}

// Which receives a kernel knows cannot be asked, only tried. Said once; many connections may find out at once.
template <bool Sqpoll>
void EchoServer<Sqpoll>::learn_what_is_missing(Form form) {
  if (form == Form::capped && std::exchange(has_cap_, false)) {
    std::fprintf(stderr,
                 "this kernel's receives have no cap (6.17): they are cancelled where they must end\n");
  }
  if (form == Form::multishot && std::exchange(has_multishot_, false)) {
    std::fprintf(stderr, "this kernel has no multishot receive (6.0): --recv single instead\n");
  }
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::refill_group() {
  group_->publish(hot_buffers_.end_turn(frame_.now()));
  if (!starving_.empty() && group_->with_kernel() == 0) preempt_stalled();
}

// Those who found no buffer try again when there are some.
template <bool Sqpoll>
void EchoServer<Sqpoll>::feed_starving() {
  if (starving_.empty() || group_->with_kernel() == 0) return;
  while (Connection* const connection = starving_.pop_front()) {
    ++counters_.rearms;
    receive(*connection);
  }
}

// The group is dry, and somebody has something to say. What lies in front of clients that do not read moves
// out of the way.
template <bool Sqpoll>
void EchoServer<Sqpoll>::preempt_stalled() {
  std::size_t wanted = starving_.size();
  for (Connection* connection = sends_.first(); connection != nullptr && wanted > 0;
       connection = sends_.next(*connection)) {
    if (frame_.now() - connection->send_began < patience_with_readers) return;
    if (connection->preempted || connection->state == Connection::State::closing) continue;
    connection->preempted = true;
    cancel(*connection, *connection->sending);
    wanted -= std::min(wanted, connection->queue.size() - connection->first);
  }
}

// ---- Sending -----------------------------------------------------------------------------------------------

// All that is queued, up to 16 pieces, unless a send is in flight already.
template <bool Sqpoll>
void EchoServer<Sqpoll>::send(Connection& connection) {
  if (connection.sending || connection.queued == 0) return;
  const Segment& front = connection.queue[connection.first];
  const unsigned count = gather(connection);
  connection.sending = start(Kind::send, connection, [&](io_uring_sqe& sqe, Token token) {
    if (count == 1) {
      uring::prep::send(sqe, connection.fd, front.at, front.size, MSG_WAITALL, token);
    } else {
      uring::prep::sendmsg(sqe, connection.fd, &connection.pieces->message, MSG_WAITALL, token);
    }
  });
  ++sends_begun_;
  connection.send_began = frame_.now();
  if (connection.queue.back().buffer != no_buffer) sends_.push_back(connection);
}

template <bool Sqpoll>
unsigned EchoServer<Sqpoll>::gather(Connection& connection) {
  const std::size_t count = std::min(connection.queue.size() - connection.first, max_pieces);
  if (count > 1) connection.pieces = take_pieces();
  for (std::size_t i = 0; i < count; ++i) {
    const Segment& segment = connection.queue[connection.first + i];
    if (count > 1) connection.pieces->piece[i] = {.iov_base = segment.at, .iov_len = segment.size};
  }
  if (count > 1) connection.pieces->message.msg_iovlen = count;
  return static_cast<unsigned>(count);
}

template <bool Sqpoll>
Pieces* EchoServer<Sqpoll>::take_pieces() {
  if (free_pieces_.empty()) {
    Pieces& pieces = all_pieces_.emplace_back();
    pieces.message.msg_iov = pieces.piece.data();
    return &pieces;
  }
  Pieces* const pieces = free_pieces_.back();
  free_pieces_.pop_back();
  return pieces;
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::on_sent(Connection& connection, int result) {
  connection.sending.reset();
  sends_.remove(connection);
  if (connection.pieces != nullptr) free_pieces_.push_back(std::exchange(connection.pieces, nullptr));
  const bool preempted = std::exchange(connection.preempted, false);
  if (result > 0) {
    counters_.bytes_out += static_cast<std::uint64_t>(result);
    mark_sent(connection, static_cast<std::uint32_t>(result));
    touch(connection);
  }
  if (connection.state == Connection::State::closing) return give_all_back(connection);
  if (result < 0 && common::classify(-result) != common::ErrorClass::transient) {
    return fail(connection);
  }
  if (connection.full && connection.queued <= low_water) connection.full = false;
  if (preempted && connection.queued > 0) spill(connection);
  send(connection);
  if (connection.queued == 0 && connection.state == Connection::State::draining)
    return begin_close(connection);
  receive(connection);
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::mark_sent(Connection& connection, std::uint32_t bytes) {
  connection.queued -= bytes;
  std::vector<Segment>& queue = connection.queue;
  while (bytes > 0) {
    Segment& segment = queue[connection.first];
    const std::uint32_t sent = std::min(bytes, segment.size);
    segment.at += sent;
    segment.size -= sent;
    bytes -= sent;
    if (segment.size > 0) return;
    give_back(segment);
    ++connection.first;
  }
  if (connection.first < queue.size()) {
    if (connection.first < 64 || connection.first < queue.size() / 2) return;
    queue.erase(queue.begin(), queue.begin() + connection.first);  // it may never be empty
    connection.first = 0;
    return;
  }
  queue.clear();
  connection.first = 0;
  connection.must_look = stopping_;
  if (connection.form != Form::single) connection.memory.reset();  // what had been spilled
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::give_back(const Segment& segment) {
  if (segment.buffer != no_buffer) group_->recycle(static_cast<std::uint16_t>(segment.buffer));
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::give_all_back(Connection& connection) {
  for (std::size_t i = connection.first; i < connection.queue.size(); ++i) give_back(connection.queue[i]);
  connection.queue.clear();
  connection.first = 0;
  connection.queued = 0;
}

// Moves the queue to private memory, and its buffers back to the group. Nothing more is received until most
// of it is sent, so this is at most high_water bytes, and what the kernel had received before it heard of it.
template <bool Sqpoll>
void EchoServer<Sqpoll>::spill(Connection& connection) {
  auto memory = std::make_unique_for_overwrite<std::byte[]>(connection.queued);
  std::uint32_t filled = 0;
  for (std::size_t i = connection.first; i < connection.queue.size(); ++i) {
    const Segment& segment = connection.queue[i];
    std::memcpy(memory.get() + filled, segment.at, segment.size);
    filled += segment.size;
    give_back(segment);
  }
  connection.memory = std::move(memory);
  connection.queue.assign(1, {.at = connection.memory.get(), .size = filled, .buffer = no_buffer});
  connection.first = 0;
  connection.full = true;
  if (connection.receiving) cancel(connection, *connection.receiving);
}

// ---- Leaving -----------------------------------------------------------------------------------------------

// Something is wrong with the connection itself. If bytes are owed, its end must not look like a good one.
template <bool Sqpoll>
void EchoServer<Sqpoll>::fail(Connection& connection) {
  begin_close(connection, connection.queued > 0);
}

// Closing begins with cancelling: a close alone would end none of the operations, nor send a FIN.
template <bool Sqpoll>
void EchoServer<Sqpoll>::begin_close(Connection& connection, bool reset) {
  if (connection.state >= Connection::State::closing) return;
  connection.state = Connection::State::closing;
  connection.reset = reset;
  if (reset && connection.queued > 0) ++counters_.errors;  // it is owed what is queued, and will not get it
  active_.remove(connection);
  starving_.remove(connection);
  promised_.remove(connection);
  if (connection.receiving) cancel(connection, *connection.receiving);
  if (connection.watching) cancel(connection, *connection.watching);
  if (connection.sending) {
    if (!connection.preempted) cancel(connection, *connection.sending);
  } else {
    give_all_back(connection);
  }
  close_when_quiet(connection);
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::cancel(Connection& connection, Token target) {
  ++connection.pending;
  operations_.cancel(target, {&connection});
}

// So that the close is an RST: a FIN would say that this was all. A slot has no setsockopt (before 6.7), but
// a connect to no address makes TCP disconnect in the same way. A Unix-domain socket has no RST of its own.
template <bool Sqpoll>
void EchoServer<Sqpoll>::cut_off(Connection& connection) {
  if (behaviour_.unix_sockets) return;
  if (!has_slots()) {
    const ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ++counters_.syscalls;
    ::setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    return;
  }
  static constexpr ::sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
  start(Kind::cut_off, connection, [&](io_uring_sqe& sqe, Token token) {
    uring::prep::connect(sqe, connection.fd, &nowhere, sizeof nowhere, token);
  });
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::close_when_quiet(Connection& connection) {
  if (connection.state != Connection::State::closing || connection.pending > 0) return;
  if (connection.reset && !std::exchange(connection.cut, true)) cut_off(connection);
  if (connection.pending > 0) return;
  connection.state = Connection::State::closed;
  start(Kind::close, connection, [&](io_uring_sqe& sqe, Token token) {
    if (has_slots()) {
      uring::prep::close_direct(sqe, {static_cast<std::uint32_t>(connection.fd)}, token);
    } else {
      uring::prep::close(sqe, connection.fd, token);
    }
  });
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::on_closed(Connection& connection, int result) {
  if (result == -ENOMEM) {  // it got no SQE, so it was not even tried
    connection.state = Connection::State::closing;
    return close_when_quiet(connection);
  }
  connections_.erase(connection.self);
  frame_.descriptor_is_free();
}

// Something moved on this connection: it is the last one to be idle too long.
template <bool Sqpoll>
void EchoServer<Sqpoll>::touch(Connection& connection) {
  if (frame_.now() - connection.last_active < activity_grain) return;
  connection.last_active = frame_.now();
  if (connection.state >= Connection::State::closing) return;
  active_.remove(connection);
  active_.push_back(connection);
}

// ---- What it says ------------------------------------------------------------------------------------------

// The kernel is asked first for the addresses of the slots' peers; the table is printed when the last answer is there,
// and at once if there is nothing to ask.
template <bool Sqpoll>
void EchoServer<Sqpoll>::print_tables() {
  if (peers_due_ > 0) return;  // one is coming
  if (has_slots() && can_ask_peers_ && !behaviour_.unix_sockets) ask_for_peers();
  if (peers_due_ == 0) print_connections();
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::ask_for_peers() {
  for (Connection& connection : connections_) {
    if (connection.state >= Connection::State::closing) continue;
    ++peers_due_;
    connection.peer = std::make_unique<PeerAddress>();
    start(Kind::peer, connection, [&](io_uring_sqe& sqe, Token token) {
      uring::prep::getpeername(sqe, connection.fd, &connection.peer->address, &connection.peer->length,
                               token);
    });
  }
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::on_peer(int result) {
  if (result == -EOPNOTSUPP || result == -EINVAL) can_ask_peers_ = false;
  if (--peers_due_ == 0) print_connections();
}

template <bool Sqpoll>
void EchoServer<Sqpoll>::print_connections() {
  if (group_ != nullptr) {
    std::fprintf(stderr, "buffers: %zu of %zu in use, %zu connections wait for one\n", group_->in_use(),
                 group_->capacity(), starving_.size());
  }
  std::fprintf(stderr, "%zu connections\n%8s  %-22s %-10s %8s %14s %10s\n", connections_.size(),
               has_slots() ? "slot" : "fd", "peer", "state", "pending", "queued bytes", "idle ms");
  for (Connection& connection : connections_) {
    const std::unique_ptr<PeerAddress> told = std::move(connection.peer);
    if (!has_slots()) ++counters_.syscalls;
    const std::string peer = told != nullptr ? text_of(*told) : has_slots() ? "?" : peer_of(connection.fd);
    const auto idle =
        std::chrono::duration_cast<std::chrono::milliseconds>(frame_.now() - connection.last_active);
    const char* const state = connection.state != Connection::State::open ? name_of(connection.state)
                              : starving_.contains(connection)            ? "no buffer"
                              : connection.full                           ? "full"
                                                                          : "open";
    std::fprintf(stderr, "%8d  %-22s %-10s %8u %14u %10lld\n", connection.fd, peer.c_str(), state,
                 connection.pending, connection.queued, static_cast<long long>(idle.count()));
  }
}

template <bool Sqpoll>
common::Gauges EchoServer<Sqpoll>::gauges() const noexcept {
  return {.connections = connections_.size(),
          .buffers_in_use = group_ != nullptr ? group_->in_use() : 0,
          .buffers = group_ != nullptr ? group_->capacity() : 0};
}

template <bool Sqpoll>
common::Counters EchoServer<Sqpoll>::counters() const {
  common::Counters counters = counters_;
  frame_.add_to(counters);
  counters.buffers_in_use_max = group_ != nullptr ? group_->in_use_max() : 0;
  return counters;
}

template <bool Sqpoll>
std::uint64_t EchoServer<Sqpoll>::count_leaks() const {
  const std::size_t buffers = group_ != nullptr ? group_->in_use() : 0;
  const std::uint64_t leaks = operations_.size() + operations_.stale() + connections_.size() + buffers;
  if (leaks > 0) {
    std::fprintf(stderr,
                 "leaked: %zu operations, %llu completions of nothing, %zu connections, %zu buffers\n",
                 operations_.size(), static_cast<unsigned long long>(operations_.stale()),
                 connections_.size(), buffers);
  }
  return leaks;
}

}  // namespace echo

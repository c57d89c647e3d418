#include "bench/load/client.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "bench/load/verify.hpp"
#include "servers/common/start_error.hpp"

namespace load {
namespace {

using State = Connection::State;

void fail_by_errno(Run& run, Connection& connection, int error, const char* call) {
  const std::string what = std::string(call) + ": " + common::errno_text(error);
  switch (error) {
    case ECONNREFUSED:
    case ENOENT:
      return fail(run, connection, &Errors::refused, what + ". Does the server listen there?");
    case ECONNRESET:
    case EPIPE:
      return fail(run, connection, &Errors::reset, what);
    case ETIMEDOUT:
      return fail(run, connection, &Errors::timed_out, what);
    default:
      return fail(run, connection, &Errors::other, what);
  }
}

void watch(Run& run, Connection& connection, int operation, std::uint32_t events) {
  ::epoll_event event{};
  event.events = events;
  event.data.u32 = connection.id;
  if (::epoll_ctl(run.epoll.get(), operation, connection.fd.get(), &event) != 0) {
    throw common::StartError(common::exit_failed, "epoll_ctl: " + common::errno_text(errno));
  }
}

void wait_for_room(Run& run, Connection& connection, bool wanted) {
  if (connection.waits_for_room == wanted) return;
  connection.waits_for_room = wanted;
  watch(run, connection, EPOLL_CTL_MOD, EPOLLIN | (wanted ? std::uint32_t{EPOLLOUT} : 0));
}

// Takes an address of 127.0.0.0/8 where there are more connections than one has ports. Churned connections
// that end by FIN leave our port in TIME_WAIT for a minute, so each of them takes the next address.
bool bind_source(Run& run, const Connection& connection) {
  const Traffic& traffic = *connection.flow->traffic;
  const bool turns = traffic.churn && traffic.close == CloseBy::fin;
  const std::uint32_t source =
      turns ? source_address(run.opened, 1) : source_address(connection.id, connections_per_source);
  if (run.target.family() != AF_INET || source == INADDR_LOOPBACK) return true;
  ::sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(source);
  const int on = 1;  // the port is chosen by connect(2), which knows the other three numbers
  ::setsockopt(connection.fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  const void* const any = &address;
  return ::bind(connection.fd.get(), static_cast<const ::sockaddr*>(any), sizeof address) == 0;
}

}  // namespace

// ---- Beginning and ending ---------------------------------------------------------------------------------

void open_connection(Run& run, Connection& connection, std::uint64_t now) {
  const Traffic& traffic = *connection.flow->traffic;
  connection.waits_for_room = false;
  if (connection.state != State::waiting) connection.progress = now;
  connection.fd.reset(::socket(run.target.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!connection.fd) return fail_by_errno(run, connection, errno, "socket");
  if (!bind_source(run, connection)) return fail_by_errno(run, connection, errno, "bind");
  // A churned connection sends once, and there is nothing for Nagle's algorithm to wait for.
  const int on = 1;
  if (run.target.family() != AF_UNIX && !traffic.churn) {
    ::setsockopt(connection.fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  if (::connect(connection.fd.get(), run.target.socket_address(), run.target.length) != 0 &&
      errno != EINPROGRESS) {
    if (errno != EAGAIN) return fail_by_errno(run, connection, errno, "connect");
    connection.fd.reset();
    connection.state = State::waiting;
    run.waiting.push_back(connection.id);
    return;
  }
  ++run.opened;
  connection.state = State::open;
  watch(run, connection, EPOLL_CTL_ADD, EPOLLIN);
}

void begin_parting(Connection& connection, std::uint64_t now) {
  ::shutdown(connection.fd.get(), SHUT_WR);
  connection.state = State::finishing;
  connection.progress = now;
}

void close_by_reset(Connection& connection) {
  const ::linger at_once{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(connection.fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  connection.fd.reset();
  connection.state = State::idle;
}

void fail(Run& run, Connection& connection, std::uint64_t Errors::*kind, const std::string& what) {
  Errors& errors = run.result.errors;
  ++(errors.*kind);
  if (errors.first.empty()) {
    errors.first = name_of(connection) + ": " + what;
    if (busy(connection)) {
      errors.first += "; " + progress_text(*connection.flow->traffic, connection.number, connection.in);
    }
  }
  connection.fd.reset();
  connection.state = State::dead;
  ++run.dead;
}

std::string name_of(const Connection& connection) {
  std::string name = "connection " + std::to_string(connection.id);
  ::sockaddr_in address{};
  ::socklen_t length = sizeof address;
  void* const any = &address;
  const bool known = ::getsockname(connection.fd.get(), static_cast<::sockaddr*>(any), &length) == 0;
  if (known && address.sin_family == AF_INET) {
    char text[INET_ADDRSTRLEN];
    ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
    name += std::string(" (") + text + ":" + std::to_string(ntohs(address.sin_port)) + ")";
  }
  return name;
}

// ---- Asking -----------------------------------------------------------------------------------------------

std::uint64_t due(const Connection& connection) {
  const Flow& flow = *connection.flow;
  return 1 + flow.timetable.messages_below(flow.next_due, connection.number);
}

std::uint64_t limit(const Run& run, const Connection& connection) {
  if (run.phase == Phase::opening) return 1;
  const Flow& flow = *connection.flow;
  const std::uint64_t already = begun(connection);
  const std::uint64_t by_depth = connection.in.answered + flow.traffic->depth;
  if (flow.traffic->rate != 0) {
    const bool on_time = run.phase == Phase::running || run.late_sending;
    return on_time ? std::max(already, std::min(by_depth, due(connection))) : already;
  }
  if (run.phase != Phase::running) return already;
  return std::max(already, by_depth - already > flow.quota ? already + flow.quota : by_depth);
}

namespace {

// As many bytes of as many messages below `end` as fit.
std::size_t fill(Run& run, const Connection& connection, std::uint64_t end) {
  const Traffic& traffic = *connection.flow->traffic;
  std::size_t filled = 0;
  std::uint64_t from = connection.out.part;
  for (std::uint64_t number = connection.out.sent; number < end && filled < send_bytes; ++number, from = 0) {
    const Message message = message_at(traffic, connection.number, number);
    const std::string_view head = request_head(traffic, message, run.head);
    filled += write_request(std::span(run.to_send).subspan(filled), message, head, from);
  }
  return filled;
}

// `bytes` went out, in a send(2) that began at `now`.
void advance(Run& run, Connection& connection, std::size_t bytes, std::uint64_t now) {
  const Traffic& traffic = *connection.flow->traffic;
  connection.progress = now;
  for (std::uint64_t left = bytes; left > 0;) {
    const Message message = message_at(traffic, connection.number, connection.out.sent);
    const std::uint64_t size = request_head(traffic, message, run.head).size() + payload_of(message);
    if (connection.out.part == 0) {
      if (!traffic.churn) connection.began[connection.out.sent % traffic.depth] = now;
      if (run.phase != Phase::opening) --connection.flow->quota;
    }
    const std::uint64_t part = std::min(left, size - connection.out.part);
    left -= part;
    connection.out.part += part;
    if (connection.out.part == size) {
      ++connection.out.sent;
      connection.out.part = 0;
    }
  }
}

}  // namespace

void pump(Run& run, Connection& connection) {
  if (connection.state == State::idle && limit(run, connection) > connection.out.sent) {
    const std::uint64_t now = now_ns();
    if (connection.flow->traffic->churn) connection.began[0] = now;
    open_connection(run, connection, now);
  }
  if (connection.state != State::open) return;
  for (int i = 0; i < sends_in_a_row; ++i) {
    const std::uint64_t end = limit(run, connection);
    if (connection.out.sent >= end) return wait_for_room(run, connection, false);
    const std::size_t filled = fill(run, connection, end);
    const std::uint64_t now = now_ns();
    const ::ssize_t sent = ::send(connection.fd.get(), run.to_send.data(), filled, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN) break;
      if (errno == EINTR) continue;
      return fail_by_errno(run, connection, errno, "send");
    }
    advance(run, connection, static_cast<std::size_t>(sent), now);
    if (static_cast<std::size_t>(sent) < filled) break;
  }
  wait_for_room(run, connection, connection.out.sent < limit(run, connection));
}

// ---- Being answered ---------------------------------------------------------------------------------------

std::uint64_t began_at(const Connection& connection, std::uint64_t number) {
  const Flow& flow = *connection.flow;
  if (flow.traffic->rate == 0 || number == 0) return connection.began[number % flow.traffic->depth];
  return flow.timetable.due_at(flow.timetable.index_of(connection.number, number - 1));
}

namespace {

void count(Run& run, Connection& connection, std::uint64_t number, std::uint64_t now) {
  TrafficResult& result = connection.flow->result;
  ++result.verified_all;
  if (run.counting) {
    ++result.verified;
    result.bytes += message_at(*connection.flow->traffic, connection.number, number).length;
  }
  if (run.phase == Phase::opening) {
    ++run.greeted;
    return;
  }
  const std::uint64_t began = began_at(connection, number);
  if (began >= run.window_begin && began < run.window_end) result.latency.record(now - std::min(began, now));
}

void on_end_of_stream(Run& run, Connection& connection) {
  if (connection.state == State::finishing) {
    connection.fd.reset();
    connection.state = State::idle;
    return pump(run, connection);
  }
  fail(run, connection, &Errors::closed,
       busy(connection) ? "closed by the server before it had answered"
                        : "closed by the server, which owed nothing");
}

void after_answers(Run& run, Connection& connection, std::uint64_t now) {
  const Traffic& traffic = *connection.flow->traffic;
  if (traffic.churn && connection.state == State::open && !busy(connection)) {
    if (traffic.close == CloseBy::rst) {
      close_by_reset(connection);
    } else {
      return begin_parting(connection, now);
    }
  }
  pump(run, connection);
}

}  // namespace

void on_readable(Run& run, Connection& connection) {
  const ::ssize_t came = ::recv(connection.fd.get(), run.received.data(), run.received.size(), 0);
  const std::uint64_t now = now_ns();
  if (came < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    return fail_by_errno(run, connection, errno, "recv");
  }
  if (came == 0) return on_end_of_stream(run, connection);
  connection.progress = now;
  const std::uint64_t first = connection.in.answered;
  const auto bytes = std::span(run.received).first(static_cast<std::size_t>(came));
  const std::uint64_t completed =
      take(*connection.flow->traffic, connection.number, connection.id, connection.out, connection.in, bytes);
  for (std::uint64_t i = 0; i < completed; ++i) count(run, connection, first + i, now);
  if (completed > 0) after_answers(run, connection, now);
}

}  // namespace load

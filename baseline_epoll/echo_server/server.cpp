#include "baseline_epoll/echo_server/server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "servers/common/error_class.hpp"
#include "servers/common/socket_queue.hpp"
#include "servers/common/start_error.hpp"

namespace echo_server {
namespace {

constexpr std::size_t hot_bytes = 64 << 10;        // 128 KiB: 20 to 30 % fewer calls, the same or more CPU
constexpr std::size_t bytes_per_turn = 256 << 10;  // of one connection; then the others have theirs
constexpr int most_accepts = 64;                   // in a turn
constexpr std::chrono::milliseconds accept_pause{100};
constexpr std::chrono::milliseconds activity_grain{10};
constexpr int so_passrights = 83;  // Linux 6.16

bool is_transient(int error) noexcept { return common::classify(error) == common::ErrorClass::transient; }

}  // namespace

Server::Server(const Options& options, int signals, common::Listener listener)
    : options_(options),
      listener_(std::move(listener)),
      signals_(signals),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      hot_(hot_bytes) {
  if (!epoll_) throw common::StartError(common::exit_failed, "epoll_create1: " + common::errno_text(errno));
  // Inherited by those who are accepted. An older kernel, or TCP, says that it knows no such thing.
  constexpr int no = 0;
  ::setsockopt(listener_.fd(), SOL_SOCKET, so_passrights, &no, sizeof no);
  for (void* const tag : {static_cast<void*>(&listener_), static_cast<void*>(&signals_)}) {
    ::epoll_event event{.events = EPOLLIN, .data = {.ptr = tag}};
    const int fd = tag == &signals_ ? signals_ : listener_.fd();
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      throw common::StartError(common::exit_failed, "epoll_ctl: " + common::errno_text(errno));
    }
  }
}

Server::~Server() {
  while (!all_.empty()) close(*all_.first());
}

// ---- The loop ----

void Server::run() {
  std::array<::epoll_event, 256> events;
  now_ = std::chrono::steady_clock::now();
  stats_before_ = counters_;
  if (options_.server.stats_seconds > 0) {
    stats_at_ = now_ + std::chrono::seconds(options_.server.stats_seconds);
  }
  while (stop_.serving() || !all_.empty()) {
    ++counters_.syscalls;
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout());
    now_ = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) {
      const ::epoll_event& event = events[static_cast<std::size_t>(i)];
      if (event.data.ptr == &listener_) {
        client_waits_ = true;
      } else if (event.data.ptr == &signals_) {
        signal_came_ = true;
      } else {
        serve(*static_cast<Connection*>(event.data.ptr), event.events);
      }
    }
    look_at_timers();
  }
}

common::Counters Server::finish() {
  counters_.buffers_in_use_max = rings_.most_in_use();
  counters_.leaks = all_.size() + rings_.in_use();
  if (counters_.leaks > 0) {
    std::fprintf(stderr, "leaked: %zu connections, %zu rings\n", all_.size(), rings_.in_use());
  }
  return counters_;
}

// Milliseconds until something must happen by itself; -1: nothing must.
int Server::timeout() const noexcept {
  Time next = std::min(accept_again_at_, stats_at_);
  if (options_.idle_seconds > 0 && !all_.empty()) {
    next = std::min(next,
                    all_.first()->last_active + std::chrono::seconds(options_.idle_seconds) + activity_grain);
  }
  if (!stop_.serving()) next = std::min(next, now_ + stop_.wait(now_, common::stop_grace));
  if (next == Time::max()) return -1;
  if (next <= now_) return 0;
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(next - now_).count());
}

// Everything that may close a connection other than the one whose event it is happens here, behind the
// events: so each of them is still somebody's, and a connection is freed as soon as it is closed.
void Server::look_at_timers() {
  if (signal_came_) take_signals();
  stop_.look_at_clock(now_);
  if (stop_.state() == common::StopProtocol::State::ending) {
    while (!all_.empty()) fail(*all_.first());
  }
  close_idle();
  if (accept_again_at_ <= now_) listen(true);
  if (!client_waits_) accepts_ = 1;
  if (std::exchange(client_waits_, false) && stop_.serving()) accept_some();
  if (stats_at_ <= now_) print_stats();
}

void Server::close_idle() {
  if (options_.idle_seconds == 0) return;
  const Time limit = now_ - std::chrono::seconds(options_.idle_seconds) - activity_grain;
  while (!all_.empty() && all_.first()->last_active <= limit) {
    Connection& silent = *all_.first();
    silent.queued > 0 && has_read(silent) ? touch(silent) : lost(silent);
  }
}

// Whether the peer has taken something since the last time that this was asked, although there was no EPOLLOUT.
// (At the first time: it may have.)
bool Server::has_read(Connection& c) {
  ++counters_.syscalls;
  const int untaken = common::untaken_bytes(c.fd);
  return std::exchange(c.untaken, untaken) != untaken;
}

// ---- One connection's turn ----

void Server::serve(Connection& c, std::uint32_t events) {
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return lost(c);
  if ((events & EPOLLOUT) != 0 && !flush(c)) return fail(c);
  if ((events & ~EPOLLOUT) != 0 && !receive(c, events)) return fail(c);
  if (c.queued == 0 && (c.finished || (!stop_.serving() && is_quiet(c)))) return close(c);
  watch(c);
}

// Sends what is queued, until the socket is full. False: the connection is broken.
bool Server::flush(Connection& c) {
  while (c.queued > 0) {
    const std::span<const std::byte> piece = c.first_piece();
    const ::ssize_t sent = send(c, piece);
    if (sent < 0) return false;
    c.remove(static_cast<std::size_t>(sent));
    if (sent > 0) touch(c);
    if (static_cast<std::size_t>(sent) < piece.size()) break;
  }
  if (c.queued == 0 && c.ring) rings_.give_back(std::move(c.ring));
  return true;
}

// Receives and sends back. False: the connection is broken, and something was owed.
bool Server::receive(Connection& c, std::uint32_t events) {
  const bool short_is_empty = (events & (EPOLLRDHUP | EPOLLPRI)) == 0;
  for (std::size_t received = 0; !c.finished && !c.paused;) {
    const std::span<std::byte> room = c.queued == 0 ? std::span(hot_) : c.free_piece();
    ++counters_.syscalls;
    const ::ssize_t got = ::recv(c.fd, room.data(), room.size(), 0);
    if (got <= 0) {
      if (got < 0 && is_transient(errno)) return true;
      c.finished = true;
      return got == 0 || c.queued == 0;
    }
    const auto bytes = static_cast<std::size_t>(got);
    ++counters_.requests;
    counters_.bytes_in += bytes;
    touch(c);
    if (c.queued > 0) {
      c.append(bytes);
    } else if (!echo(c, room.first(bytes))) {
      return false;
    }
    if (bytes < room.size() && short_is_empty) return true;
    received += bytes;
    if (received >= bytes_per_turn) {
      c.watched = 0;
      return true;
    }
  }
  return true;
}

// Back into the socket, at once and without asking whether there is room: nearly always there is.
bool Server::echo(Connection& c, std::span<const std::byte> bytes) {
  const ::ssize_t sent = send(c, bytes);
  if (sent < 0) return false;
  bytes = bytes.subspan(static_cast<std::size_t>(sent));
  if (bytes.empty()) return true;
  c.ring = rings_.take();
  if (!c.ring) return false;
  std::memcpy(c.ring->data(), bytes.data(), bytes.size());
  c.append(bytes.size());
  return true;
}

// 0: the socket is full. Below 0: it is broken.
::ssize_t Server::send(const Connection& c, std::span<const std::byte> bytes) {
  ++counters_.syscalls;
  const ::ssize_t sent = ::send(c.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (sent < 0) return is_transient(errno) ? 0 : -1;
  counters_.bytes_out += static_cast<std::uint64_t>(sent);
  return sent;
}

void Server::watch(Connection& c) {
  const std::uint32_t interest = c.interest();
  if (interest == c.watched) return;
  c.watched = interest;
  ::epoll_event event{.events = interest, .data = {.ptr = &c}};
  ++counters_.syscalls;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, c.fd, &event) != 0) fail(c);
}

// Bytes moved. Ten milliseconds more or less do not matter to who was idle longest, and a busy connection is
// spared the stores.
void Server::touch(Connection& c) noexcept {
  if (now_ - c.last_active < activity_grain) return;
  c.last_active = now_;
  all_.remove(c);
  all_.push_back(c);
}

// Nothing is queued, and nothing has come that is not received yet: closing it breaks no promise.
bool Server::is_quiet(const Connection& c) {
  if (c.queued > 0) return false;
  std::byte byte;
  ++counters_.syscalls;
  return ::recv(c.fd, &byte, 1, MSG_PEEK) <= 0;
}

// ---- Connections come and go ----

// As many as may be waiting: one at first, twice as many each time that the listener is reported again.
// "Until EAGAIN" would be a call too many each time, and not a cheap one: accept4 makes a socket and a file
// before it looks whether somebody waits. (Churn over Unix-domain sockets costs 8 to 15 % less this way.)
void Server::accept_some() {
  bool made_room = false;
  bool took_one = false;
  int left = accepts_;
  accepts_ = std::min(accepts_ * 2, most_accepts);
  for (; left > 0; --left) {
    ++counters_.syscalls;
    const int fd = ::accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      add(fd);
      took_one = true;
      made_room = false;
      continue;
    }
    if (errno == EAGAIN) return;
    const common::ErrorClass error = common::classify(errno);
    if (error == common::ErrorClass::application || error == common::ErrorClass::transient) continue;
    // A descriptor is reserved before anybody looks whether somebody waits. So perhaps nobody does, and nobody
    // needs to go; if somebody does, the listener says so again.
    if (error == common::ErrorClass::resource && took_one) return;
    if (error == common::ErrorClass::fatal || std::exchange(made_room, true) || !make_room())
      return listen(false);
  }
}

// Gives back a descriptor: the connection that has been idle longest goes; where all have bytes queued, the
// one where nothing moved for longest. Never one that has just come.
bool Server::make_room() {
  const auto is_old = [this](const Connection* c) {
    return c != nullptr && now_ - c->last_active >= accept_pause;
  };
  Connection* c = all_.first();
  while (is_old(c) && c->queued > 0) c = all_.next(*c);
  if (!is_old(c)) c = all_.first();
  if (!is_old(c)) return false;
  lost(*c);
  return true;
}

// The listener is level-triggered. While no descriptor can be had, it would be reported again and again: it
// is silenced for a moment.
void Server::listen(bool on) {
  accept_again_at_ = on ? Time::max() : now_ + accept_pause;
  ::epoll_event event{.events = on ? EPOLLIN : 0U, .data = {.ptr = &listener_}};
  ++counters_.syscalls;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listener_.fd(), &event);
}

void Server::add(int fd) {
  if (all_.size() >= options_.server.max_connections) {
    ++counters_.refused;
    ++counters_.syscalls;
    ::close(fd);
    return;
  }
  auto connection = std::make_unique<Connection>(fd, now_);
  ::epoll_event event{.events = connection->watched, .data = {.ptr = connection.get()}};
  ++counters_.syscalls;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    ++counters_.errors;
    ++counters_.syscalls;
    ::close(fd);
    return;
  }
  ++counters_.accepted;
  all_.push_back(*connection.release());
}

// close(2) also takes it out of epoll: nothing else holds the socket.
void Server::close(Connection& c) {
  if (c.ring) rings_.give_back(std::move(c.ring));
  ++counters_.syscalls;
  ::close(c.fd);
  all_.remove(c);
  delete &c;
}

// Gone, or it must go.
void Server::lost(Connection& c) { c.queued > 0 ? fail(c) : close(c); }

// Bytes are owed that will not come. The peer gets RST, not FIN.
void Server::fail(Connection& c) {
  constexpr ::linger at_once{.l_onoff = 1, .l_linger = 0};
  ++counters_.errors;
  ++counters_.syscalls;
  ::setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(c);
}

// ---- What the operator wants ----

void Server::take_signals() {
  signal_came_ = false;
  ::signalfd_siginfo signal{};
  for (;;) {
    ++counters_.syscalls;
    if (::read(signals_, &signal, sizeof signal) != sizeof signal) return;
    if (common::meaning_of(signal.ssi_signo) == common::SignalMeaning::tables) {
      print_table();
    } else {
      stop();
    }
  }
}

// The first signal: no more accepting, and whoever has nothing queued and nothing coming is closed. The
// others are served until that is true of them, too.
void Server::stop() {
  const bool first = stop_.serving();
  stop_.stop(now_);
  if (!first) return;
  listener_.close();
  accept_again_at_ = Time::max();
  for (Connection* c = all_.first(); c != nullptr;) {
    Connection& each = *std::exchange(c, all_.next(*c));
    if (is_quiet(each)) close(each);
  }
}

void Server::print_stats() {
  const double seconds = options_.server.stats_seconds;
  stats_at_ = now_ + std::chrono::seconds(options_.server.stats_seconds);
  const common::Gauges gauges{.connections = all_.size()};
  std::fprintf(stderr, "%s\n", common::stats_line(stats_before_, counters_, seconds, gauges).c_str());
  stats_before_ = counters_;
}

void Server::print_table() const {
  const auto state_of = [](const Connection& c) {
    if (c.finished) return "ending";
    if (c.paused) return "paused";
    return c.queued > 0 ? "sending" : "open";
  };
  std::fprintf(stderr, "%zu connections, %zu of them with queued bytes\n", all_.size(), rings_.in_use());
  std::fprintf(stderr, "%8s  %-10s %14s %10s\n", "fd", "state", "queued bytes", "idle ms");
  for (const Connection* c = all_.first(); c != nullptr; c = all_.next(*c)) {
    const auto idle = std::chrono::duration_cast<std::chrono::milliseconds>(now_ - c->last_active);
    std::fprintf(stderr, "%8d  %-10s %14u %10lld\n", c->fd, state_of(*c), c->queued,
                 static_cast<long long>(idle.count()));
  }
}

}  // namespace echo_server

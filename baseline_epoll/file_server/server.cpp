#include "baseline_epoll/file_server/server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <utility>

#include "servers/common/error_class.hpp"
#include "servers/common/start_error.hpp"

namespace file_server {
namespace {

constexpr std::size_t receive_bytes = 16 << 10;
constexpr int accepts_per_turn = 64;
constexpr std::chrono::milliseconds accept_pause{100};

void watch(int epoll, int fd, std::uint32_t events, void* tag) {
  ::epoll_event event{};
  event.events = events;
  event.data.ptr = tag;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
    throw common::StartError(common::exit_failed, "epoll_ctl: " + common::errno_text(errno));
  }
}

}  // namespace

Server::Server(const Options& options, int root, int signals, common::Listener listener)
    : options_(options),
      listener_(std::move(listener)),
      signals_(signals),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      files_(root, options.files.open_files, options.files.direct, counters_),
      chunks_(options.io == Io::sendfile ? 0 : options.files.buffers, options.files.buffer_size),
      window_(std::uint64_t{options.files.buffer_size} * (options.io == Io::pool ? 2 : 1)),
      input_(receive_bytes) {
  if (!epoll_) throw common::StartError(common::exit_failed, "epoll_create1: " + common::errno_text(errno));
  watch(epoll_.get(), listener_.fd(), EPOLLIN | EPOLLET, &listener_);
  watch(epoll_.get(), signals_, EPOLLIN, &signals_);
  if (options_.io != Io::pool) return;
  pool_.emplace(options_.threads);
  watch(epoll_.get(), pool_->completions_fd(), EPOLLIN | EPOLLET, &pool_);
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
        accept_at_ = now_;
      } else if (event.data.ptr == &signals_) {
        signal_came_ = true;
      } else if (event.data.ptr == &pool_) {
        take_completions();
      } else {
        look_at(event.events, *static_cast<Connection*>(event.data.ptr));
      }
    }
    serve_ready();
    serve_line();
    if (pool_) pool_->flush(counters_.syscalls);
    look_at_timers();
    bury();
  }
}

common::Counters Server::finish() {
  if (pool_) {
    pool_->stop();
    take_completions();
  }
  while (files_.close_unused()) continue;
  counters_.buffers_in_use_max = chunks_.in_use_max();
  counters_.leaks = all_.size() + chunks_.in_use() + files_.in_use();
  if (counters_.leaks > 0) {
    std::fprintf(stderr, "leaked: %zu connections, %u buffers, %zu open files\n", all_.size(),
                 chunks_.in_use(), files_.in_use());
  }
  return counters_;
}

// Milliseconds until something must happen by itself; -1: nothing must.
int Server::timeout() const noexcept {
  if (!ready_.empty()) return 0;
  Time next = std::min(accept_at_, stats_at_);
  if (!lingering_.empty()) next = std::min(next, lingering_.front()->lingering->deadline());
  if (!stop_.serving()) next = std::min(next, now_ + stop_.wait(now_, common::stop_grace));
  if (next == Time::max()) return -1;
  if (next <= now_) return 0;
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(next - now_).count());
}

// What epoll said of a connection. Nothing is closed while events are looked at, so each of them is somebody's.
void Server::look_at(std::uint32_t events, Connection& c) {
  const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
  c.hung_up |= broken || (events & EPOLLRDHUP) != 0;
  c.readable |= broken || (events & EPOLLIN) != 0;
  c.writable |= broken || (events & EPOLLOUT) != 0;
  make_ready(c);
}

void Server::take_completions() {
  Chunk* chunk = pool_->completed(counters_.syscalls);
  while (chunk != nullptr) {
    Chunk& done = *std::exchange(chunk, chunk->next_job);
    done.next_job = nullptr;
    if (done.owner == nullptr) {
      give_back(done);
      continue;
    }
    finish_read(done);
    make_ready(*done.owner);
  }
}

void Server::serve_ready() {
  serving_.swap(ready_);
  for (Connection* const c : serving_) {
    c->in_ready = false;
    if (c->phase != Phase::closed) serve(*c);
  }
  serving_.clear();
}

void Server::serve_line() {
  while (!line_.empty() && chunks_.has_free()) {
    Connection& c = *line_.front();
    line_.pop_front();
    c.in_line = false;
    if (c.phase == Phase::closed) continue;
    its_turn_ = true;
    serve(c);
    its_turn_ = false;
  }
}

void Server::look_at_timers() {
  while (!lingering_.empty() && lingering_.front()->lingering->is_over(now_)) close(*lingering_.front());
  if (signal_came_) take_signals();
  stop_.look_at_clock(now_);
  if (stop_.state() == common::StopProtocol::State::ending) {
    while (!all_.empty()) fail(*all_.back());
  }
  if (accept_at_ <= now_ && stop_.serving()) accept_all();
  if (stats_at_ <= now_) print_stats();
}

// Frees what was closed, except what a list still names.
void Server::bury() {
  std::erase_if(dead_, [](const std::unique_ptr<Connection>& c) { return !c->in_ready && !c->in_line; });
}

// ---- Connections come and go ----

void Server::accept_all() {
  accept_at_ = Time::max();
  for (int i = 0; i < accepts_per_turn; ++i) {
    ++counters_.syscalls;
    const int fd = ::accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      add(fd);
      continue;
    }
    if (errno == EAGAIN) return;
    const common::ErrorClass error = common::classify(errno);
    const bool ours = error == common::ErrorClass::resource || error == common::ErrorClass::fatal;
    if (!ours || make_room()) continue;
    // Edge-triggered, the listener will not speak again for those that wait: come back without being told.
    accept_starved_ = true;
    accept_at_ = now_ + accept_pause;
    return;
  }
  accept_at_ = now_;
}

// Gives back a descriptor: a file that nobody reads, else the connection that has been idle longest. accept4
// takes a descriptor before it looks whether somebody waits, so where they run out this is called for nobody;
// what it gives back then is in reserve for the next file or client.
bool Server::make_room() {
  if (files_.close_unused()) return true;
  Connection* idlest = nullptr;
  for (const auto& c : all_) {
    if (c->count == 0 && (idlest == nullptr || c->last_active < idlest->last_active)) idlest = c.get();
  }
  if (idlest == nullptr) return false;
  close(*idlest);
  return true;
}

void Server::add(int fd) {
  ++counters_.syscalls;
  if (all_.size() >= options_.server.max_connections) {
    ++counters_.refused;
    ::close(fd);
    return;
  }
  auto connection = std::make_unique<Connection>(fd, now_);
  ::epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
  event.data.ptr = connection.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    ++counters_.syscalls;
    ++counters_.errors;
    ::close(fd);
    return;
  }
  ++counters_.accepted;
  connection->index = static_cast<std::uint32_t>(all_.size());
  all_.push_back(std::move(connection));
}

// All answers are out; the client shall be able to read the last one (lingering.hpp).
void Server::begin_lingering(Connection& c) {
  ++counters_.syscalls;
  if (::shutdown(c.fd, SHUT_WR) != 0) return fail(c);
  c.phase = Phase::lingering;
  c.lingering.emplace(now_);
  lingering_.push_back(&c);
  discard(c);
}

// close(2) also takes it out of epoll: nothing else holds the socket.
void Server::close(Connection& c) {
  if (c.phase == Phase::lingering) std::erase(lingering_, &c);
  c.phase = Phase::closed;
  drop_chunks(c);
  drop_pending(c, 0);
  ++counters_.syscalls;
  ::close(c.fd);
  if (std::exchange(accept_starved_, false)) accept_at_ = now_;
  all_.back()->index = c.index;
  std::swap(all_[c.index], all_.back());
  dead_.push_back(std::move(all_.back()));
  all_.pop_back();
}

// An error, or no time left. The peer gets RST, not FIN: what it has been promised will not come. A lingering
// connection has had its answers; how it ends is no error.
void Server::fail(Connection& c) {
  if (c.phase == Phase::open) {
    constexpr ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ++counters_.errors;
    ++counters_.syscalls;
    ::setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
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
      print_tables();
    } else {
      stop();
    }
  }
}

// The first signal: no more accepting. Who was idle for long is closed; who was busy a moment ago may have a
// request on its way that will find nobody, and lingers, so that the answer before it survives.
void Server::stop() {
  const bool first = stop_.serving();
  stop_.stop(now_);
  if (!first) return;
  listener_.close();
  accept_at_ = Time::max();
  accept_starved_ = false;
  std::vector<Connection*> idle;
  for (const auto& c : all_) {
    if (c->phase == Phase::open && !c->is_unfinished()) idle.push_back(c.get());
  }
  for (Connection* const c : idle) {
    if (now_ - c->last_active > common::linger_time) {
      close(*c);
    } else {
      begin_lingering(*c);
    }
  }
}

void Server::print_stats() {
  const double seconds = options_.server.stats_seconds;
  stats_at_ = now_ + std::chrono::seconds(options_.server.stats_seconds);
  const common::Gauges gauges{
      .connections = all_.size(), .buffers_in_use = chunks_.in_use(), .buffers = chunks_.size()};
  std::fprintf(stderr, "%s\n", common::stats_line(stats_before_, counters_, seconds, gauges).c_str());
  stats_before_ = counters_;
}

const char* Server::state_of(const Connection& c) const noexcept {
  if (c.phase == Phase::lingering) return "lingering";
  if (c.count > 0 && !c.writable) return "stalled";
  if (c.in_line) return "waiting";
  if (c.count > 0) return c.ending ? "ending" : "answering";
  return c.is_unfinished() ? "reading" : "idle";
}

void Server::print_tables() const {
  std::fprintf(stderr, "%zu connections, %zu files in use, %zu more open, %u of %u buffers in use\n",
               all_.size(), files_.in_use(), files_.unused(), chunks_.in_use(), chunks_.size());
  std::fprintf(stderr, "%8s  %-10s %8s %14s %10s\n", "fd", "state", "pending", "queued bytes", "idle ms");
  for (const auto& c : all_) {
    const auto idle = std::chrono::duration_cast<std::chrono::milliseconds>(now_ - c->last_active);
    std::fprintf(stderr, "%8d  %-10s %8u %14llu %10lld\n", c->fd, state_of(*c), c->count,
                 static_cast<unsigned long long>(c->queued_bytes()), static_cast<long long>(idle.count()));
  }
}

}  // namespace file_server

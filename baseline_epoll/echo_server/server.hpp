// The epoll echo server: one thread, one loop, non-blocking sockets.
//
//   epoll_wait ──► each connection: flush ──► receive ──► send back ──► ... ──► time-outs, accept
//
// The common case is two system calls for a connection that has something: recv into the hot buffer, send out
// of it. The hot buffer is one for all connections, 64 KiB that never leave the processor's cache. Only what
// the socket does not take is copied, into a ring of the connection's own; only then is EPOLLOUT asked for,
// and given up when the ring is empty again. 64 KiB queued: receiving stops, and TCP stops the peer. Below
// 16 KiB it goes on.
//
// Edge-triggered, and why: level-triggered, the kernel keeps each connection that it reported on its list and
// asks the socket again in the next epoll_wait, to find it empty. Measured for a whole turn (epoll_wait, recv,
// send, and the epoll_wait that finds nothing), level against edge: Unix-domain 2.62 and 2.36 us where one
// connection is ready at a time, 1.91 and 1.83 us where 128 are; TCP 5.45 and 5.17, 4.82 and 4.73 us. So epoll
// says once that there is something, and these are the rules that make once enough:
//   - A recv that brought less than it could have has emptied the socket: what comes later is a new event. It
//     has not if the FIN stands behind it (EPOLLRDHUP) or an urgent byte (EPOLLPRI): then recv goes on until
//     there is nothing.
//   - EPOLLERR and EPOLLHUP mean that nothing can be sent any more, so nothing need be received.
//   - A message that carries descriptors (Unix-domain, SCM_RIGHTS) ends a recv, too, and no flag tells. The
//     listener refuses them where it can (Linux 6.16); elsewhere, what stands behind waits for the next event.
//   - A paused connection goes on after an EPOLLOUT, and that event says anew whether there is input.
//   - A connection that had its share of a turn, 256 KiB, is given to epoll_ctl again, which looks at the
//     socket and reports what is left in the next turn: no list of our own, and the others come first.
//
// `requests` counts receives that brought bytes: an echo server cannot know where a message ends. A client
// that leaves or resets while nothing is queued for it is no error; one for whom bytes were owed is.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "baseline_epoll/echo_server/connection.hpp"
#include "servers/common/counters.hpp"
#include "servers/common/descriptor.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/common/signals.hpp"

namespace echo_server {

struct Options {
  common::ServerOptions server{.port = 9001};
  std::uint32_t idle_seconds = 0;  // 0: connections may be idle for ever
};

class Server {
 public:
  /// Throws StartError. `signals` stays the caller's.
  Server(const Options& options, int signals, common::Listener listener);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server();

  /// Serves until it was told to stop and the last connection has gone.
  void run();

  /// The first line on stdout: where it listens.
  void announce() const { listener_.announce(); }

  /// After run(): what was counted, and as a leak what is still held.
  common::Counters finish();

 private:
  int timeout() const noexcept;
  void look_at_timers();
  void close_idle();
  bool has_read(Connection& c);

  // one connection's turn
  void serve(Connection& c, std::uint32_t events);
  bool flush(Connection& c);
  bool receive(Connection& c, std::uint32_t events);
  bool echo(Connection& c, std::span<const std::byte> bytes);
  ::ssize_t send(const Connection& c, std::span<const std::byte> bytes);
  void watch(Connection& c);
  void touch(Connection& c) noexcept;
  bool is_quiet(const Connection& c);

  // connections come and go
  void accept_some();
  bool make_room();
  void listen(bool on);
  void add(int fd);
  void close(Connection& c);
  void lost(Connection& c);
  void fail(Connection& c);

  // what the operator wants
  void take_signals();
  void stop();
  void print_stats();
  void print_table() const;

  const Options options_;
  common::Listener listener_;
  int signals_;
  common::Counters counters_{};
  common::Descriptor epoll_;
  common::List<Connection, &Connection::by_activity> all_{};  // who was idle longest in front
  RingPool rings_{};
  std::vector<std::byte> hot_;

  Time now_{};
  common::StopProtocol stop_{};
  bool signal_came_ = false;
  bool client_waits_ = false;
  int accepts_ = 1;  // in this turn, if somebody waits
  Time accept_again_at_ = Time::max();
  Time stats_at_ = Time::max();
  common::Counters stats_before_{};
};

}  // namespace echo_server

// The server around the log: clients, their PUTs, and the answers when the log has given its word.
//
//   client ── recv ──► Request ──► log ──► acknowledged, or failed ──► send ──► client
//            (wire.hpp)  memory with       (log.hpp, log_ring.hpp)     (all answers that are
//                        room for the                                    known, in order)
//                        header in front
//
// The bytes of a record are received behind the room for its header and written from there: they are never copied, but
// for what came together with the line.
//
// The log lives on a ring of its own, or (--log-ring serving) on this one. There, IOSQE_IO_DRAIN waits for everything
// that was submitted before: the accept, which never ends, and the receive of every client who says nothing. So no
// fsync begins, and what is submitted behind it does not begin either, a cancellation included. And when somebody has
// given all that up, the ring goes on draining as long as anything is in flight (docs/kernel-facts.md), which is always.
// Only a call that needs no SQE gets through (IORING_REGISTER_SYNC_CANCEL, 6.0): with it such a server pries itself free,
// again and again, until it has ended; and so it comes to hear a second signal.
//
// Memory is bounded whatever clients do: for each one 4 KiB of input, 2 MiB of records, and 128 short answers. Who asks
// faster than the disk is fast fills his own socket.
#pragma once

#include <list>
#include <vector>

#include "servers/common/counters.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/m4_ordered_log/connection.hpp"
#include "servers/m4_ordered_log/log_ring.hpp"
#include "servers/m4_ordered_log/wire.hpp"

namespace ordered_log {

class LogServer {
 public:
  struct Options {
    common::ServerOptions server{};
    Order order = Order::wait;
  };

  /// Appends to the log `file` from `end` on. `own` is the log's ring; null: it shares the serving one. All of them
  /// must outlive the server. Throws StartError.
  LogServer(uring::Loop& loop, LogRing* own, common::Listener& listener, int signals, int file,
            std::uint64_t end, const Options& options);

  /// Serves until a signal says stop, and the last connection has gone. 0, or -errno if the ring or the listener failed
  /// for good.
  int run() { return frame_.run(); }

  common::Counters counters() const;
  const LogStatistics& log_statistics() const noexcept { return log_.statistics(); }
  /// After run(): what is still held, which is said on stderr.
  std::uint64_t count_leaks() const;

 private:
  using Kind = common_ring::Kind;
  using Frame = common_ring::Frame<LogServer, uring::Loop, Subject>;
  friend Frame;

  // ---- What the frame asks for
  void dispatch(Kind kind, const Subject& subject, int result, std::uint32_t flags);
  void add_client(int fd);
  void free_a_descriptor();
  void keep_house();
  void next_deadline(common_ring::Deadline& deadline) const;
  void begin_stop();
  void reset_all();
  void release_idle();
  std::size_t connection_count() const noexcept { return connections_.size(); }
  std::size_t client_count() const noexcept { return connections_.size() - leaving_; }
  void print_tables() const;
  common::Gauges gauges() const noexcept { return {.connections = connections_.size()}; }

  // ---- The log
  void serve_log();
  void on_answer(Request& request);
  void listen_to_bell();
  void pry_free();
  void cancel_now(uring::Token target);
  void cancel_now_on(int fd);
  void cancel_now(io_uring_sync_cancel_reg cancel);

  // ---- Clients
  template <class Fill>
  uring::Token start(Kind kind, Connection& connection, Fill&& fill) {
    ++connection.pending;
    return operations_.start(kind, {.connection = &connection}, fill);
  }
  void receive(Connection& connection);
  void want_input(Connection& connection);
  void on_received(Connection& connection, int result);
  void on_lingering(Connection& connection, int result);
  void take_input(Connection& connection);
  void take_line(Connection& connection);
  void take_bytes(Connection& connection, std::size_t count);
  void begin_record(Connection& connection, std::uint32_t length);
  void hand_over(Connection& connection);
  void refuse(Connection& connection, int code);
  Request& new_request(Connection& connection);
  static void put_in_line(Connection& connection, Request& request);
  void retire(Request& request);
  void advance(Connection& connection);
  void all_answered(Connection& connection);
  void send(Connection& connection);
  void gather_answers(Connection& connection);
  void on_sent(Connection& connection, int result);

  // ---- Leaving
  void finish(Connection& connection);
  void fail(Connection& connection);
  void begin_close(Connection& connection, bool reset = false);
  void cancel(Connection& connection, uring::Token target);
  void close_when_quiet(Connection& connection);
  void on_closed(Connection& connection, int result);

  uring::Loop& loop_;
  LogRing* own_;
  common::Listener& listener_;
  int signals_;
  bool stalls_;  // the log drains this ring
  Frame frame_;
  Operations& operations_;
  Log<> log_;
  common::Counters counters_{};

  common::Descriptor bell_{};
  std::uint64_t rung_ = 0;  // what the bell says; nobody reads it
  std::optional<uring::Token> bell_read_{};
  bool ended_ = false;
  bool said_unusable_ = false;

  std::list<Connection> connections_{};
  std::size_t leaving_ = 0;
  common::List<Connection, &Connection::idle> idle_{};
  common::List<Connection, &Connection::lingers> lingering_{};
  common::List<Connection, &Connection::answered> answered_{};  // in this turn
  std::deque<Request> requests_{};
  std::vector<Request*> free_requests_{};
};

}  // namespace ordered_log

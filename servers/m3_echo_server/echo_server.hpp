// The echo server: everything that comes goes back, on one ring, whatever clients do.
//
// Two ways to receive, and no more:
//
//   multishot   one SQE for the life of a connection; the kernel takes a buffer of the group when bytes come,
//               so a client that is silent costs none (6.0)
//   single      one SQE for each message, into a buffer of the connection's own
//
// Who may have how many buffers (backpressure):
//
//   a client that does not read    its queue grows to high_water, then it is not received from any more. Since
//                                  6.17 the receive itself carries that limit; before, it is cancelled, which
//                                  loses nothing: what the kernel has received is a CQE (up to 32 buffers of
//                                  a burst), the rest stays in the socket, and fills the client's own window
//   many of them                   the group runs dry: a receive ends with ENOBUFS. Then sends that have been
//                                  in flight for 10 ms are cancelled, what is queued there is copied to private
//                                  memory, and the buffers are free for those who can use them
//   who met ENOBUFS                stands in line, and receives again when buffers came back, not before: at
//                                  once would be the same answer at once
//
// One send is in flight for each socket: two would mix their bytes. Its size is whatever is queued, up to 16
// buffers, and with MSG_WAITALL it is one completion.
//
// A multishot has ended when IORING_CQE_F_MORE is missing, whatever the result is: also a CQE with bytes can
// be the last one (a full CQ, the cap). Forgetting it is the bug that makes one client in a thousand go deaf.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <vector>

#include "servers/common/counters.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/m3_echo_server/connection.hpp"
#include "servers/m3_echo_server/gathering.hpp"
#include "servers/m3_echo_server/hot_buffers.hpp"
#include "uring/buffer_ring.hpp"
#include "uring/loop.hpp"
#include "uring/prep_sockets.hpp"

namespace echo {

/// Of the ring's table, beyond one for each connection: clients that are one too many, until they are closed.
inline constexpr std::uint32_t spare_slots = 16;

/// How long a send may be in flight while others find no buffer.
inline constexpr std::chrono::milliseconds patience_with_readers{10};

/// How long a multishot receive may say that more is there, and not bring it.
inline constexpr std::chrono::milliseconds patience_with_promises{10};

/// Of a connection's own buffer, where there is no group.
inline constexpr std::uint32_t single_buffer_bytes = 16 << 10;

struct Subject {
  Connection* connection = nullptr;
};

struct Behaviour {
  bool submit_each = false;   // a system call for each SQE: what batching is compared with
  std::uint32_t slots = 0;    // sockets in the ring's table, which has so many; 0: ordinary descriptors
  bool unix_sockets = false;  // of the Unix domain
  std::uint32_t idle_timeout_seconds = 0;
};

template <bool Sqpoll>
class EchoServer {
 public:
  using Loop = uring::BasicLoop<Sqpoll>;

  /// `group` is registered with the loop's ring; null: single receives. All must outlive the server.
  EchoServer(Loop& loop, uring::BufferRing* group, common::Listener& listener, int signals,
             const common::ServerOptions& options, const Behaviour& behaviour)
      : loop_(loop),
        group_(group),
        behaviour_(behaviour),
        frame_(*this, loop, listener, signals, options,
               behaviour.slots > 0 ? common_ring::Sockets::slots : common_ring::Sockets::descriptors),
        operations_(frame_.operations()) {}

  /// Serves until a signal says stop, and the last connection has gone. 0, or -errno if the ring or the
  /// listener failed for good, or there was no memory.
  int run() { return frame_.run(); }

  /// What was counted so far; `leaks` is 0. A request is a receive that brought bytes.
  common::Counters counters() const;
  /// After run(): what is still held, which is said on stderr.
  std::uint64_t count_leaks() const;

 private:
  using Frame = common_ring::Frame<EchoServer, Loop, Subject>;
  using Kind = common_ring::Kind;
  using Time = common_ring::Time;
  friend Frame;

  // ---- What the frame asks for
  void dispatch(Kind kind, const Subject& subject, int result, std::uint32_t flags);
  void add_client(int fd);
  void free_a_descriptor();
  void keep_house();
  void next_deadline(common_ring::Deadline& deadline) const;
  void begin_stop();
  void reset_all();
  void release_idle() const noexcept {}
  std::size_t connection_count() const noexcept { return connections_.size(); }
  std::size_t client_count() const noexcept { return active_.size(); }
  void print_tables();
  common::Gauges gauges() const noexcept;

  // ---- What that takes
  bool has_slots() const noexcept { return behaviour_.slots > 0; }
  std::chrono::milliseconds idle_timeout() const noexcept {
    return std::chrono::seconds(behaviour_.idle_timeout_seconds) + activity_grain;
  }
  void decide_how_to_wait();
  void close_idlest(std::chrono::milliseconds at_least);
  void close_idle();
  bool has_read(Connection& connection);
  void look_at_quiet();
  void on_look(Connection& connection, int result);

  // ---- The table
  void ask_for_peers();
  void on_peer(int result);
  void print_connections();

  // ---- Receiving
  template <class Fill>
  uring::Token start(Kind kind, Connection& connection, Fill&& fill);
  void receive(Connection& connection);
  void receive_from_group(Connection& connection);
  void receive_alone(Connection& connection);
  void watch_for_hangup(Connection& connection);
  void on_hangup(Connection& connection, int result);
  void on_received(Connection& connection, int result, std::uint32_t flags);
  void after_receive_ended(Connection& connection, int result);
  void learn_what_is_missing(Form form);
  void take_bytes(Connection& connection, int result, std::uint32_t flags);
  void stop_receiving_when_full(Connection& connection);
  void note_promise(Connection& connection, std::uint32_t flags);
  void doubt_promises();
  void refill_group();
  void feed_starving();
  void preempt_stalled();

  // ---- Sending
  void send(Connection& connection);
  unsigned gather(Connection& connection);
  void on_sent(Connection& connection, int result);
  void mark_sent(Connection& connection, std::uint32_t bytes);
  void spill(Connection& connection);
  void give_back(const Segment& segment);
  void give_all_back(Connection& connection);
  Pieces* take_pieces();

  // ---- Leaving
  void fail(Connection& connection);
  void begin_close(Connection& connection, bool reset = false);
  void cancel(Connection& connection, uring::Token target);
  void cut_off(Connection& connection);
  void close_when_quiet(Connection& connection);
  void on_closed(Connection& connection, int result);
  void touch(Connection& connection);

  Loop& loop_;
  uring::BufferRing* group_;
  Behaviour behaviour_;
  Frame frame_;
  common_ring::Operations<Loop, Subject>& operations_;
  common::Counters counters_{};
  Gathering gathering_{};
  HotBuffers hot_buffers_{};

  std::list<Connection> connections_{};
  common::List<Connection, &Connection::active> active_{};  // not closing: the clients
  common::List<Connection, &Connection::starving> starving_{};
  common::List<Connection, &Connection::promised> promised_{};  // the oldest promise first
  common::List<Connection, &Connection::sends> sends_{};
  std::list<Pieces> all_pieces_{};
  std::vector<Pieces*> free_pieces_{};
  unsigned sends_begun_ = 0;  // in this turn
  bool stopping_ = false;
  std::byte looked_at_{};      // what a look has seen; nobody reads it
  bool has_cap_ = true;        // 6.17: a multishot receive ends by itself after so many bytes
  bool has_multishot_ = true;  // 6.0
  bool can_ask_peers_ = true;  // 6.19: who is at the other end of a slot's socket
  unsigned peers_due_ = 0;     // the table waits for so many
};

}  // namespace echo

#include "servers/m3_echo_server/echo_server_impl.hpp"

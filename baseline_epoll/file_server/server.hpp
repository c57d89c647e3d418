// The epoll file server: one thread, one loop, non-blocking sockets.
//
//   epoll_wait ──► flags of connections ──► serve() each of them ──► the line for buffers ──► accept, timers
//
// serve() is in turn.cpp, everything else in server.cpp. What it does for a connection, until nothing moves:
//
//   receive, parse, open ──► start reads ──► send ──► and again; enough for one turn: on with the next one
//
// Edge-triggered, and why: sockets here are tried before they are asked (recv when epoll said once that there
// is something, send always), so epoll need not repeat itself. Level-triggered, a connection that we do not
// want to receive from now (16 requests pending) would be reported in every turn, or cost two epoll_ctl calls
// to be silenced and heard again. Edge-triggered it costs nothing: after ADD there is one epoll_ctl in a
// connection's life, when its socket buffer is full for the first time, to hear of room in it from then on.
// The price is a flag for each direction that must be kept right: `readable` falls when a recv returns less
// than it could (unless the end of input is known to be there), `writable` when a send does.
//
// Fair: a connection gets 256 KiB or 64 answers a turn, then the others have theirs. A request that finds no
// free buffer waits in a line; who comes later stands behind it, also if a buffer is free again by then.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "baseline_epoll/file_server/chunk.hpp"
#include "baseline_epoll/file_server/connection.hpp"
#include "baseline_epoll/file_server/file_cache.hpp"
#include "baseline_epoll/file_server/read_pool.hpp"
#include "servers/common/counters.hpp"
#include "servers/common/file_options.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/common/signals.hpp"

namespace file_server {

/// Who waits for the disk: the loop, a thread of a pool, or the loop inside of sendfile.
enum class Io : std::uint8_t { inline_pread, pool, sendfile };

struct Options {
  common::ServerOptions server{.port = 9000};
  common::FileOptions files{};
  Io io = Io::inline_pread;
  std::uint32_t threads = 16;
};

class Server {
 public:
  /// Throws StartError. `root` and `signals` stay the caller's.
  Server(const Options& options, int root, int signals, common::Listener listener);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Serves until it was told to stop and the last connection has gone.
  void run();

  /// The first line on stdout: where it listens.
  void announce() const { listener_.announce(); }

  /// After run(): ends the threads, closes the files, and counts what is still held, which is a leak.
  common::Counters finish();

 private:
  // server.cpp: the loop
  int timeout() const noexcept;
  void look_at(std::uint32_t events, Connection& c);
  void take_completions();
  void serve_ready();
  void serve_line();
  void look_at_timers();
  void bury();

  // server.cpp: connections come and go
  void accept_all();
  bool make_room();
  void add(int fd);
  void begin_lingering(Connection& c);
  void close(Connection& c);
  void fail(Connection& c);

  // server.cpp: what the operator wants
  void take_signals();
  void stop();
  void print_stats();
  void print_tables() const;
  const char* state_of(const Connection& c) const noexcept;

  // turn.cpp
  void serve(Connection& c);
  void rest(Connection& c);
  bool take_requests(Connection& c);
  std::span<const std::byte> receive(Connection& c);
  void discard(Connection& c);
  void answer(Connection& c, const common::Request& request);
  bool start_reads(Connection& c);
  Chunk* take_chunk(Connection& c);
  void plan(Connection& c, Pending& pending, Chunk& chunk) noexcept;
  void finish_read(Chunk& chunk) noexcept;
  bool send_ready(Connection& c);
  bool send_file(Connection& c);
  bool count_sent(Connection& c, ::ssize_t sent, std::size_t wanted);
  void gather(Connection& c, Gathered& gathered) const noexcept;
  void advance(Connection& c, std::uint64_t bytes);
  void stalled(Connection& c);
  void read_failed(Connection& c, std::int64_t result);
  void drop_chunks(Connection& c) noexcept;
  void drop_pending(Connection& c, unsigned keep) noexcept;
  void give_back(Chunk& chunk) noexcept;

  void make_ready(Connection& c) {
    if (c.in_ready) return;
    c.in_ready = true;
    ready_.push_back(&c);
  }

  const Options options_;
  common::Listener listener_;
  int signals_;
  common::Counters counters_{};
  common::Descriptor epoll_;
  FileCache files_;
  ChunkPool chunks_;
  std::optional<ReadPool> pool_{};
  std::uint64_t window_;  // bytes of files that are read ahead for one connection

  Time now_{};
  common::StopProtocol stop_{};
  bool signal_came_ = false;
  bool accept_starved_ = false;  // no descriptor was left
  Time accept_at_ = Time::max();
  Time stats_at_ = Time::max();
  common::Counters stats_before_{};

  std::vector<std::unique_ptr<Connection>> all_{};
  std::vector<std::unique_ptr<Connection>> dead_{};  // closed in this turn; a list may still name them
  std::vector<Connection*> ready_{};
  std::vector<Connection*> serving_{};    // ready_ of this turn
  std::vector<Connection*> lingering_{};  // the one that ends first in front
  std::deque<Connection*> line_{};        // for a buffer
  bool its_turn_ = false;                 // the first of the line is being served

  common::TextBuffer text_{};
  std::vector<std::byte> input_;
};

}  // namespace file_server

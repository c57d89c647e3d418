// A server of files on one ring: connections, their requests, and where the buffers are.
//
//   client ── recv ──► parser ──► Job ──► FileCache ──► reads into buffers ──► send ──► client
//                      (file_wire)        (open, look)   (the next while       (all that is ready,
//                                                         one is sent)          in one operation)
//
// Everything is a completion handler that prepares further operations; the loop submits them all with the
// call that waits. Two files hold the two halves:
//
//   file_server.cpp     clients come and go: receive, close, linger, the end
//   file_requests.cpp   one request: answer, read, send; who gets a buffer
//
// Memory is bounded whatever clients do: the pool, and for each connection 2 KiB, half a request, and at most
// 16 Jobs. A request that finds no free buffer stands in line, by connection, in order of arrival. A reader
// that does not read would keep its buffer for ever; so when there is a line, a send that has been in flight
// for 10 ms is cancelled (which is lossless: the kernel says how many bytes went out), its buffers go to the
// first in line, and the rest is read again when the socket takes more. Nobody starves, and nothing is read
// twice as long as there are buffers for all.
#pragma once

#include <chrono>
#include <deque>
#include <list>
#include <optional>
#include <vector>

#include "servers/common/counters.hpp"
#include "servers/common/file_options.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/common_ring/connection.hpp"
#include "servers/common_ring/file_cache.hpp"
#include "servers/common_ring/frame.hpp"
#include "servers/common_ring/loans.hpp"
#include "uring/fixed_buffers.hpp"
#include "uring/loop.hpp"

namespace common_ring {

/// How long a send may be in flight while others wait for a buffer.
inline constexpr std::chrono::milliseconds patience_with_readers{10};

/// In front of each buffer: room for the head of an answer, so that both go out as one piece. A page, because
/// O_DIRECT wants the contents to begin at one.
inline constexpr std::size_t buffer_headroom = 4096;

class FileServer {
 public:
  struct Options {
    common::ServerOptions server{};
    common::FileOptions files{};
    std::optional<std::uint32_t> zero_copy_from{};  // bytes of a send; none: every send copies
  };

  /// All of them must outlive the server. `root` and `signals` are descriptors; `slots` is null for ordinary
  /// descriptors. The pool has buffer_headroom in front of its buffers.
  FileServer(uring::Loop& loop, uring::BufferPool& pool, uring::DirectFiles* slots,
             common::Listener& listener, int root, int signals, const Options& options);

  /// Serves until a signal says stop, and the last connection has gone. 0, or -errno if the ring or the
  /// listener failed for good.
  int run() { return frame_.run(); }

  /// What was counted so far; `leaks` is 0.
  common::Counters counters() const;
  /// After run(): what is still held, which is said on stderr.
  std::uint64_t count_leaks() const;

 private:
  using Server = Frame<FileServer, uring::Loop, Subject>;
  friend Server;

  // ---- file_server.cpp: what the frame asks for
  void dispatch(Kind kind, const Subject& subject, int result, std::uint32_t flags);
  void add_client(int fd);
  void free_a_descriptor();
  void keep_house();
  void next_deadline(Deadline& deadline) const;
  void begin_stop();
  void reset_all();
  void release_idle() { files_.close_idle(); }
  std::size_t connection_count() const noexcept { return connections_.size(); }
  std::size_t client_count() const noexcept { return connections_.size() - leaving_; }
  std::size_t lent() const noexcept { return loans_.due(); }
  void print_tables() const;
  common::Gauges gauges() const noexcept;

  // ---- file_server.cpp: the life of a connection
  template <class Fill>
  uring::Token start(Kind kind, Connection& connection, Fill&& fill) {
    ++connection.pending;
    return operations_.start(kind, {.connection = &connection}, fill);
  }
  void cancel(Connection& connection, uring::Token target);
  void cancel_all(Connection& connection);
  void on_cancelled(Connection& connection, int result);
  void dispatch_connection(Kind kind, Connection& connection, int result, std::uint32_t flags);
  void on_received(Connection& connection, int result, std::uint32_t flags);
  void on_closed(Connection& connection, int result);
  void receive(Connection& connection);
  void want_input(Connection& connection);
  void take_requests(Connection& connection);
  void all_answered(Connection& connection);
  void finish(Connection& connection);
  void begin_close(Connection& connection, bool reset = false);
  void fail(Connection& connection);
  void close_when_quiet(Connection& connection);

  // ---- file_requests.cpp
  void begin_job(Connection& connection, const common::Request& request);
  void answer(Job& job, const common::Answer& answer);
  void look_up(Job& job, std::string_view path);
  void answer_from_file(Job& job);
  void on_file(Kind kind, File& file, int result);
  void advance(Connection& connection);
  void read_ahead(Connection& connection);
  uring::Buffer take_buffer(bool front);
  void serve_line();
  void preempt_stalled();
  void read_chunk(Job& job, uring::Buffer buffer);
  void start_read(Chunk& chunk);
  void on_read(Chunk& chunk, int result);
  void end_read(Chunk& chunk);
  bool take_in(Chunk& chunk, int result);
  static void make_ready(Chunk& chunk);
  void pop_chunk(Job& job);
  void settle_trouble(Job& job);
  void send(Connection& connection);
  unsigned gather(Connection& connection);
  bool gather_job(Connection& connection, Job& job, unsigned& count);
  void send_lent(Connection& connection);
  void on_lent(Loan& loan, int result, std::uint32_t flags);
  void on_sent(Connection& connection, int result);
  void mark_sent(Connection& connection, std::size_t bytes);
  void stall(Connection& connection);
  void wait_until_writable(Connection& connection, bool again);
  void on_writable(Connection& connection, int result, std::uint32_t flags);
  void go_on_if_writable(Connection& connection);
  void give_buffers_back(Connection& connection);
  void drop_chunks(Job& job);
  void abandon_after(Connection& connection, Job* last_wanted);
  void retire(Job& job);

  uring::BufferPool& pool_;
  Loans loans_;
  Server frame_;
  FileOperations& operations_;
  FileCache files_;
  common::Counters counters_{};

  std::list<Connection> connections_{};
  std::size_t leaving_ = 0;                               // of them: closing, or closed and not yet gone
  common::List<Connection, &Connection::idle> idle_{};    // no request under way; longest first
  common::List<Connection, &Connection::line> line_{};    // waits for a buffer
  common::List<Connection, &Connection::sends> sends_{};  // a send is in flight; oldest first
  common::List<Connection, &Connection::lingers> lingering_{};
  std::deque<Job> jobs_{};
  std::vector<Job*> free_jobs_{};
  common::TextBuffer text_{};
  bool poll_first_ = true;
};

}  // namespace common_ring

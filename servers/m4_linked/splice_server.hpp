// The server of --mode splice: bytes go from the socket into a pipe and from the pipe into the socket, and never
// come to us.
//
//      while the pipe is empty      POLL readable ──link──► SPLICE socket→pipe ──hard link──► SPLICE pipe→socket
//      while something is in it     POLL writable ──link──► SPLICE pipe→socket
//
// Here a chain can have any length, because SPLICE moves what is there, and what is there is in the pipe.
//
// The hard link: a SPLICE that moves less than it was told is a failure of its link, and it is always told more
// than is there. The POLL: SPLICE is done by a worker thread of the kernel (io-wq), always, and one that waits
// for an idle client would hold that thread, one for each client. Behind a POLL it finds something.
//
// And nothing but a POLL ever waits: SPLICE_F_NONBLOCK says so about the pipe, O_NONBLOCK about the socket, and it
// takes both. Without them
//   - at the peer's FIN the first SPLICE moves nothing, and the second waits for the empty pipe for good;
//   - a peer that does not read holds a thread in the second, with the pipe's lock: close(2) of the pipe then
//     hangs, and only SIGKILL ends that. (Seen on 6.18; SPLICE_F_NONBLOCK alone does not reach the socket.)
//   - a LINK_TIMEOUT does not stop what a worker thread does. ASYNC_CANCEL interrupts it, and the result is no
//     errno: -512.
// With them each of these is -EAGAIN, and the next POLL waits for what is missing. So stopping is to cancel
// POLLs, and two worker threads are enough for all clients.
//
// A POLL can say that something is ready when SPLICE finds nothing to do:
//   - SPLICE does not go past an urgent byte (MSG_OOB) of TCP, and POLL sees what is behind it. (With the FIN
//     somewhere behind it SPLICE even says 0, as if all had been read.) SO_OOBINLINE changes neither. A recv(2)
//     of one byte does go past: it drops the urgent one, and what it returns we put into the pipe ourselves.
//   - The kernel adds POLLRDHUP to each POLL. So who has finished sending, and does not read, is "ready" at once.
// After a round that brought nothing we therefore wait for 10 ms. A slow reader who has finished sending costs
// a hundred rounds a second for as long as his socket is full: not free, but no spin.
//
// Backpressure is the pipe: at most 64 KiB for each client, and the socket is not read before it is empty.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <list>
#include <optional>

#include "servers/common/counters.hpp"
#include "servers/common/descriptor.hpp"
#include "servers/common/intrusive_list.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/options.hpp"
#include "servers/common_ring/frame.hpp"
#include "uring/loop.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"

namespace linked {

/// A socket and the two ends of its pipe.
inline constexpr unsigned descriptors_per_client = 3;

/// More than a pipe holds.
inline constexpr std::uint32_t all_there_is = 1 << 20;

/// When to try again what brought nothing, or what there was no memory for.
inline constexpr std::chrono::milliseconds try_again_after{10};

/// A client and its pipe: open → closing → closed, and gone.
struct Spliced {
  enum class State : std::uint8_t { open, closing, closed };

  int fd = -1;
  common::Descriptor pipe_in, pipe_out;
  State state = State::open;
  unsigned pending = 0;     // operations of the round
  std::uint64_t piped = 0;  // bytes that are in the pipe
  bool ended = false;       // the peer sends no more
  bool failed = false;
  bool reset = false;     // before it is closed
  bool ready = false;     // in this round, as POLL says
  bool moved = false;     // in this round, bytes
  bool no_round = false;  // the next one begins when the clock says so
  std::optional<uring::Token> poll{};
  common_ring::Time last_active{};
  common::Link<Spliced> active{};
  std::list<Spliced>::iterator self{};
};

struct SplicedSubject {
  Spliced* client = nullptr;
};

class SpliceServer {
 public:
  /// All must outlive the server.
  SpliceServer(uring::Loop& loop, common::Listener& listener, int signals,
               const common::ServerOptions& options)
      : loop_(loop), frame_(*this, loop, listener, signals, options), operations_(frame_.operations()) {}

  /// Serves until a signal says stop, and the last client has gone. 0 or -errno.
  int run() { return frame_.run(); }

  /// What was counted so far; `leaks` is 0. A request is a SPLICE that brought bytes.
  common::Counters counters() const {
    common::Counters counters = counters_;
    frame_.add_to(counters);
    return counters;
  }

  /// After run(): what is still held, which is said on stderr.
  std::uint64_t count_leaks() const {
    const std::uint64_t leaks = operations_.size() + operations_.stale() + clients_.size();
    if (leaks > 0) {
      std::fprintf(stderr, "leaked: %zu operations, %llu completions of nothing, %zu clients\n",
                   operations_.size(), static_cast<unsigned long long>(operations_.stale()), clients_.size());
    }
    return leaks;
  }

 private:
  using Frame = common_ring::Frame<SpliceServer, uring::Loop, SplicedSubject>;
  using Kind = common_ring::Kind;
  friend Frame;

  // ---- Coming -----------------------------------------------------------------------------------------------

  void add_client(int fd) {
    std::array<int, 2> ends{-1, -1};
    counters_.syscalls += 2;
    if (frame_.is_full() || ::pipe2(ends.data(), O_CLOEXEC) != 0) {
      const bool no_descriptors = !frame_.is_full();
      ++counters_.refused;
      ::close(fd);
      return no_descriptors ? free_a_descriptor() : void();
    }
    ::fcntl(fd, F_SETFL, O_NONBLOCK);  // what SPLICE_F_NONBLOCK says about the pipe, said about the socket
    ++counters_.accepted;
    Spliced& client = clients_.emplace_back();
    client.self = std::prev(clients_.end());
    client.fd = fd;
    client.pipe_out.reset(ends[0]);
    client.pipe_in.reset(ends[1]);
    client.last_active = frame_.now();
    active_.push_back(client);
    begin_round(client);
  }

  // ---- A round ----------------------------------------------------------------------------------------------

  template <class Fill>
  uring::Token start(Kind kind, Spliced& client, Fill&& fill) {
    ++client.pending;
    return operations_.start(kind, {&client}, fill);
  }

  void poll(Spliced& client, std::uint32_t events) {
    client.poll = start(Kind::look, client, [&](io_uring_sqe& sqe, uring::Token token) {
      uring::prep::poll_add(sqe, client.fd, events, token);
      uring::prep::link(sqe);
    });
  }

  void begin_round(Spliced& client) {
    // Room for all three, and then nothing submits between them. (The batch is not used: operations take their
    // SQEs themselves.)
    if (!loop_.batch(3)) return pause(client);
    client.no_round = client.ready = client.moved = false;
    poll(client, client.piped == 0 ? POLLIN | POLLRDHUP : POLLOUT);
    if (client.piped == 0) {
      start(Kind::receive, client, [&](io_uring_sqe& sqe, uring::Token token) {
        uring::prep::splice(sqe, client.fd, uring::current_position, client.pipe_in.get(),
                            uring::current_position, all_there_is, SPLICE_F_NONBLOCK, token);
        uring::prep::hardlink(sqe);
      });
    }
    start(Kind::send, client, [&](io_uring_sqe& sqe, uring::Token token) {
      uring::prep::splice(sqe, client.pipe_out.get(), uring::current_position, client.fd,
                          uring::current_position, all_there_is, SPLICE_F_NONBLOCK, token);
    });
  }

  void dispatch(Kind kind, const SplicedSubject& subject, int result, std::uint32_t) {
    if (subject.client == nullptr || kind == Kind::cancel) return;
    Spliced& client = *subject.client;
    --client.pending;
    switch (kind) {
      case Kind::look:
        client.poll.reset();
        client.ready = result >= 0;
        if (result < 0) on_error(client, result);
        break;
      case Kind::receive:
        on_received(client, result);
        break;
      case Kind::send:
        on_sent(client, result);
        break;
      case Kind::close:
        return on_closed(client, result);
      default:
        break;
    }
    if (client.pending == 0) end_round(client);
  }

  void on_received(Spliced& client, int result) {
    if (result > 0) {
      client.piped += static_cast<std::uint64_t>(result);
      counters_.bytes_in += static_cast<std::uint64_t>(result);
      ++counters_.requests;
      client.moved = true;
      touch(client);
    } else if (result == 0) {
      client.ended = true;
    } else {
      on_error(client, result);
    }
  }

  void on_sent(Spliced& client, int result) {
    if (result < 0) return on_error(client, result);
    client.piped -= static_cast<std::uint64_t>(result);
    counters_.bytes_out += static_cast<std::uint64_t>(result);
    if (result == 0) return;
    client.moved = true;
    touch(client);
  }

  static void on_error(Spliced& client, int result) {
    // -EAGAIN: nothing there, or no room. -ECANCELED: the POLL before it was.
    if (result != -EAGAIN && result != -ECANCELED) client.failed = true;
  }

  void end_round(Spliced& client) {
    if (client.state != Spliced::State::open) return close_when_quiet(client);
    bool nothing = client.ready && !client.moved && !client.failed;
    if (nothing && frame_.serving() && pass_urgent_byte(client)) nothing = false;
    const bool done = client.piped == 0 && (client.ended || !frame_.serving());
    if (client.failed) ++counters_.errors;
    if (client.failed || done) return begin_close(client);
    nothing ? pause(client) : begin_round(client);
  }

  // SPLICE stops in front of an urgent byte, recv(2) skips it. True: it has brought the byte behind it, so what SPLICE
  // said was not the end.
  bool pass_urgent_byte(Spliced& client) {
    if (client.piped > 0) return false;
    std::byte behind{};
    ++counters_.syscalls;
    if (::recv(client.fd, &behind, 1, MSG_DONTWAIT) != 1) return false;  // the next round sees why
    ++counters_.syscalls;
    ++counters_.bytes_in;
    client.ended = false;
    if (::write(client.pipe_in.get(), &behind, 1) == 1) {  // the pipe is empty, so it does not wait
      ++client.piped;
    } else {
      client.failed = true;
    }
    return true;
  }

  void pause(Spliced& client) {
    client.no_round = true;
    if (!std::exchange(some_have_no_round_, true)) try_again_at_ = frame_.now() + try_again_after;
  }

  void touch(Spliced& client) {
    client.last_active = frame_.now();
    if (client.state != Spliced::State::open) return;
    active_.remove(client);
    active_.push_back(client);
  }

  // ---- Leaving ----------------------------------------------------------------------------------------------

  void begin_close(Spliced& client, bool reset = false) {
    client.reset = client.reset || reset;
    if (client.state == Spliced::State::open) active_.remove(client);
    if (client.state == Spliced::State::closed) return;
    client.state = Spliced::State::closing;
    if (client.poll) operations_.cancel(*client.poll, {&client});
    close_when_quiet(client);
  }

  // Only when nothing of the round is in flight: close(2) ends no operation.
  void close_when_quiet(Spliced& client) {
    if (client.pending > 0 || client.state != Spliced::State::closing) return;
    if (std::exchange(client.reset, false)) {
      static const ::sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
      start(Kind::cut_off, client, [&](io_uring_sqe& sqe, uring::Token token) {
        uring::prep::connect(sqe, client.fd, &nowhere, sizeof nowhere, token);
      });
      return;
    }
    client.state = Spliced::State::closed;
    start(Kind::close, client,
          [&](io_uring_sqe& sqe, uring::Token token) { uring::prep::close(sqe, client.fd, token); });
  }

  void on_closed(Spliced& client, int result) {
    if (result == -ENOMEM) {  // it got no SQE, so it was not even tried
      client.state = Spliced::State::closing;
      return close_when_quiet(client);
    }
    counters_.syscalls += 2;  // the pipe's two ends
    clients_.erase(client.self);
    frame_.descriptor_is_free();
  }

  // ---- What else the frame asks for --------------------------------------------------------------------------

  void free_a_descriptor() {
    if (clients_.size() > active_.size()) return;  // somebody is leaving
    Spliced* const idlest = active_.first();
    if (idlest == nullptr || frame_.now() - idlest->last_active < common_ring::accept_again_after) return;
    begin_close(*idlest, idlest->piped > 0);
  }
  void keep_house() {
    if (!some_have_no_round_ || frame_.now() < try_again_at_) return;
    some_have_no_round_ = false;
    for (Spliced& client : clients_) {
      if (client.no_round && client.state == Spliced::State::open) begin_round(client);
    }
  }
  void next_deadline(common_ring::Deadline& deadline) const noexcept {
    if (some_have_no_round_) deadline.at_most_until(try_again_at_);
  }
  void begin_stop() {
    // Those for whom nothing is under way, but a POLL or a pause. A round that has begun ends by itself: end_round
    // sees the rest.
    for (auto it = clients_.begin(); it != clients_.end();) {
      Spliced& client = *it++;
      if (client.state != Spliced::State::open || client.piped > 0) continue;
      if (client.poll || client.no_round) begin_close(client);
    }
  }
  void reset_all() {
    for (auto it = clients_.begin(); it != clients_.end();) begin_close(*it++, true);
  }
  void release_idle() const noexcept {}
  std::size_t connection_count() const noexcept { return clients_.size(); }
  std::size_t client_count() const noexcept { return active_.size(); }
  common::Gauges gauges() const noexcept { return {.connections = clients_.size()}; }

  void print_tables() const {
    std::fprintf(stderr, "%zu clients\n%8s  %-10s %8s %14s %10s\n", clients_.size(), "fd", "state", "pending",
                 "queued bytes", "idle ms");
    for (const Spliced& client : clients_) {
      const auto idle =
          std::chrono::duration_cast<std::chrono::milliseconds>(frame_.now() - client.last_active);
      const char* const state = client.state != Spliced::State::open ? "closing"
                                : client.piped > 0                   ? "full"
                                                                     : "open";
      std::fprintf(stderr, "%8d  %-10s %8u %14llu %10lld\n", client.fd, state, client.pending,
                   static_cast<unsigned long long>(client.piped), static_cast<long long>(idle.count()));
    }
  }

  uring::Loop& loop_;
  Frame frame_;
  common_ring::Operations<uring::Loop, SplicedSubject>& operations_;
  common::Counters counters_{};
  std::list<Spliced> clients_{};
  common::List<Spliced, &Spliced::active> active_{};  // the idlest first
  bool some_have_no_round_ = false;
  common_ring::Time try_again_at_{};
};

}  // namespace linked

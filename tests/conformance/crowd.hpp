// A crowd of clients of one echo server: what they send, what must come back, and who is still waiting.
//
//   Crowd crowd(target, 60s);
//   Peer& peer = crowd.open();
//   crowd.say(peer, 1'000'000);                            // the next million bytes of its stream
//   crowd.until([&] { return crowd.all_answered(); });
//
// Each connection has an endless stream of bytes of its own. Nothing is stored: what stands at a position is
// computed, and eight bytes in a row say whose they are and from where, so that a wrong byte is recognised.
//
// One thread, one epoll, no call that blocks. Whatever a server may not do (a wrong byte, one too many, a FIN
// that nobody asked for, a reset) throws Failed with a sentence, and so does the end of the time. Peers are
// opened and dropped between two steps only.
#pragma once

#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "bench/load/target.hpp"
#include "servers/common/descriptor.hpp"
#include "servers/common/start_error.hpp"

namespace conformance {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct Failed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[gnu::format(printf, 1, 2)]] inline std::string text(const char* format, ...) {
  char line[512];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  return line;
}

inline double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

// ---- What is sent -----------------------------------------------------------------------------------------
//
// Word n of stream s is the number s * 2^40 + n, scrambled so that each of its bytes depends on both.
// Multiplications by an odd number and a shifted XOR can be undone: any word tells its stream and its place.

inline constexpr std::uint64_t factor = 0x9e3779b97f4a7c15, inverse = 0xf1de83e19937733d;
static_assert(factor * inverse == 1, "modulo 2^64");

constexpr std::uint64_t scramble(std::uint64_t x) { return (x * factor ^ x * factor >> 32) * factor; }
constexpr std::uint64_t unscramble(std::uint64_t x) { return (x * inverse ^ x * inverse >> 32) * inverse; }

struct Origin {
  std::size_t stream, position;
};

/// Where the first of these bytes was sent, if it was in one of the first `streams`. 15 bytes are enough: a
/// whole word is among them.
inline std::optional<Origin> origin_of(std::span<const std::byte> bytes, std::size_t streams) {
  constexpr std::size_t longest = 1 << 27;  // words; no connection sends a GiB
  for (std::size_t skip = 0; skip < 8 && skip + 8 <= bytes.size(); ++skip) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + skip, 8);
    const std::uint64_t number = unscramble(word);
    const std::size_t stream = number >> 40, place = number & ((1ULL << 40) - 1);
    if (stream == 0 || stream > streams || place >= longest || place * 8 < skip) continue;
    return Origin{stream, place * 8 - skip};
  }
  return std::nullopt;
}

// ---- One client -------------------------------------------------------------------------------------------

struct Peer {
  explicit Peer(std::size_t number) : stream(number) {}
  bool done() const { return received == goal && (!half_closes || ended); }

  common::Descriptor fd{};
  std::size_t stream;
  std::size_t goal = 0, sent = 0, received = 0;  // bytes of the stream, all of them from its beginning
  std::size_t write_size = SIZE_MAX, read_size = SIZE_MAX;  // the most for one system call
  bool asleep = false;                                      // sends, but does not read
  bool connected = false, half_closes = false, fin_sent = false, ended = false;
  std::uint32_t interest = 0;  // what epoll knows
  Clock::time_point asked{};   // when goal moved away from received
  Clock::duration answered_in{};
};

// ---- All of them ------------------------------------------------------------------------------------------

class Crowd {
 public:
  Crowd(const load::Target& target, std::chrono::seconds limit)
      : target_(target), limit_(limit), end_(Clock::now() + limit), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

  /// Connects; the connection may not be there yet when this returns. From the 28,000th on the next address
  /// of 127.0.0.0/8 is the source, since one address has no more ports.
  Peer& open() {
    static std::size_t streams = 0;  // never twice, so that bytes of connections long gone are recognised too
    streams_ = ++streams;
    peers_.push_back(std::make_unique<Peer>(streams_));
    Peer& peer = *peers_.back();
    peer.fd.reset(::socket(target_.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!peer.fd) lost(peer, "socket", errno);
    const int on = 1;
    ::setsockopt(peer.fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // means nothing to AF_UNIX
    bind_source(peer);
    while (::connect(peer.fd.get(), target_.socket_address(), target_.length) != 0) {
      if (errno == EINPROGRESS) return watch(peer), peer;
      if (errno != EAGAIN) lost(peer, "connect", errno);
      check_time();  // a Unix-domain listener whose queue is full
      std::this_thread::sleep_for(milliseconds(1));
    }
    peer.connected = true;
    return watch(peer), peer;
  }

  void say(Peer& peer, std::size_t bytes) {
    change(peer, [&] { peer.goal += bytes; });
    send_some(peer);
  }
  /// FIN behind the last byte. From then on the server owes the rest of the echo, and its own FIN.
  void half_close(Peer& peer) {
    change(peer, [&] { peer.half_closes = true; });
    send_some(peer);
  }
  /// What was not sent yet never will be.
  void say_no_more(Peer& peer) {
    change(peer, [&] { peer.goal = peer.sent; });
    watch(peer);
  }
  void sleep(Peer& peer) { peer.asleep = true, watch(peer); }
  void wake(Peer& peer, std::size_t sip = SIZE_MAX) {
    peer.asleep = false, peer.read_size = sip, watch(peer);
  }

  /// Plain close(2), the way most clients leave, and what happens to those who are left at the end.
  void leave(const Peer& peer) {
    if (!peer.done()) --busy_;
    std::erase_if(peers_, [&](const auto& each) { return each.get() == &peer; });
  }
  /// By RST: whatever is under way is lost. Its port is free at once, with no TIME_WAIT.
  void reset(const Peer& peer) {
    const ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(peer.fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    leave(peer);
  }
  void reset_all() {
    while (!peers_.empty()) reset(*peers_.back());
  }

  std::size_t unanswered() const { return busy_; }
  bool all_answered() const { return busy_ == 0; }
  const std::vector<std::unique_ptr<Peer>>& peers() const { return peers_; }
  void begin_again() { end_ = Clock::now() + limit_; }

  template <class Condition>
  void until(Condition condition) {
    while (!condition()) step();
  }
  /// Nobody asks for anything; whatever comes is a mistake.
  void rest(milliseconds time) {
    until([end = Clock::now() + time] { return Clock::now() >= end; });
  }

  void step() {
    check_time();
    ::epoll_event events[512];
    const int ready = ::epoll_wait(epoll_.get(), events, static_cast<int>(std::size(events)), 5);
    for (int i = 0; i < ready; ++i) serve(*static_cast<Peer*>(events[i].data.ptr), events[i].events);
  }

 private:
  void bind_source(const Peer& peer) {
    if (target_.family() != AF_INET || peers_.size() <= load::connections_per_source) return;
    const int on = 1;  // connect(2) picks the port, because it knows the other three numbers
    ::setsockopt(peer.fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    ::sockaddr_in source{};
    source.sin_family = AF_INET;
    source.sin_addr.s_addr = htonl(load::source_address(peers_.size() - 1, load::connections_per_source));
    const void* const any = &source;
    const int bound = ::bind(peer.fd.get(), static_cast<const ::sockaddr*>(any), sizeof source);
    if (bound != 0) lost(peer, "bind", errno);
  }

  // Room is watched for while there is something to send or no connection yet, input while awake. A sleeper
  // with nothing to send is taken out, because EPOLLHUP would wake it.
  void watch(Peer& peer) {
    const std::uint32_t in = peer.asleep ? 0 : std::uint32_t{EPOLLIN};
    const std::uint32_t out = !peer.connected || peer.sent < peer.goal ? std::uint32_t{EPOLLOUT} : 0;
    if ((in | out) == peer.interest || !peer.fd) return;
    ::epoll_event event{};
    event.events = in | out;
    event.data.ptr = &peer;
    const int known = event.events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    const int operation = peer.interest == 0 ? EPOLL_CTL_ADD : known;
    if (::epoll_ctl(epoll_.get(), operation, peer.fd.get(), &event) != 0) lost(peer, "epoll_ctl", errno);
    peer.interest = event.events;
  }

  void serve(Peer& peer, std::uint32_t events) {
    if (!peer.connected) {
      int error = 0;
      ::socklen_t size = sizeof error;
      ::getsockopt(peer.fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
      if (error != 0) lost(peer, "connect", error);
      peer.connected = true;
    }
    if ((events & EPOLLOUT) != 0) send_some(peer);
    if ((events & ~std::uint32_t{EPOLLOUT}) != 0 && !peer.asleep) receive_some(peer);
  }

  void send_some(Peer& peer) {
    if (peer.connected && peer.sent < peer.goal) {
      const auto bytes = stretch(peer, peer.sent, std::min(peer.goal - peer.sent, peer.write_size));
      const ::ssize_t n = ::send(peer.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) lost(peer, "send", errno);
      if (n > 0) peer.sent += static_cast<std::size_t>(n);
    }
    if (peer.connected && peer.half_closes && peer.sent == peer.goal && !peer.fin_sent) {
      ::shutdown(peer.fd.get(), SHUT_WR);
      peer.fin_sent = true;
    }
    watch(peer);
  }

  void receive_some(Peer& peer) {
    const std::size_t most = std::min(received_.size(), peer.read_size);
    const ::ssize_t n = ::recv(peer.fd.get(), received_.data(), most, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) lost(peer, "recv", errno);
    const auto bytes = std::span(received_).first(static_cast<std::size_t>(n));
    change(peer, [&] { bytes.empty() ? take_fin(peer) : verify(peer, bytes); });
  }

  static void take_fin(Peer& peer) {
    if (!peer.fin_sent) fail(peer, "the server closed it, and nobody had asked for that");
    if (peer.received != peer.goal) fail(peer, "the server's FIN came before the rest of the echo");
    peer.ended = true;
    peer.fd.reset();
  }

  void verify(Peer& peer, std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size();) {
      const auto due = stretch(peer, peer.received, std::min(bytes.size() - at, peer.sent - peer.received));
      if (due.empty()) fail(peer, text("%zu bytes more than were sent", bytes.size() - at));
      const auto came = bytes.subspan(at, due.size());
      if (std::memcmp(due.data(), came.data(), due.size()) != 0) {
        const auto wrong =
            static_cast<std::size_t>(std::mismatch(due.begin(), due.end(), came.begin()).first - due.begin());
        peer.received += wrong;
        fail(peer, "wrong bytes: " + whose(peer, bytes.subspan(at + wrong)));
      }
      peer.received += due.size();
      at += due.size();
    }
  }

  std::string whose(const Peer& peer, std::span<const std::byte> bytes) const {
    const auto origin = origin_of(bytes, streams_);
    const char* const unknown = bytes.size() < 15 ? "" : ", which nobody sent";
    if (!origin) return text("0x%02x came", std::to_integer<unsigned>(bytes[0])) + unknown;
    if (origin->stream != peer.stream) {
      return text("byte %zu of connection %zu", origin->position, origin->stream);
    }
    const char* const why = origin->position > peer.received ? "others are lost or late" : "again or late";
    return text("its own byte %zu, %s", origin->position, why);
  }

  // The bytes that stand at `position` of a peer's stream, until the next call.
  std::span<const std::byte> stretch(const Peer& peer, std::size_t position, std::size_t size) {
    const std::size_t shift = position % 8, bytes = std::min(size, received_.size());
    std::uint64_t number = peer.stream << 40 | position / 8;
    for (std::size_t i = 0; i < (shift + bytes + 7) / 8; ++i) words_[i] = scramble(number++);
    return std::as_bytes(std::span(words_)).subspan(shift, bytes);
  }

  // Keeps the count of those who wait, and their times.
  template <class Apply>
  void change(Peer& peer, Apply apply) {
    const bool was_done = peer.done();
    apply();
    if (was_done && !peer.done()) ++busy_, peer.asked = Clock::now();
    if (!was_done && peer.done()) --busy_, peer.answered_in = Clock::now() - peer.asked;
  }

  void check_time() const {
    if (Clock::now() < end_) return;
    const auto rank = [](const Peer& peer) { return std::tuple(peer.asleep, peer.asked); };
    const Peer* longest = nullptr;  // has waited longest, and reads
    for (const auto& peer : peers_) {
      if (!peer->done() && (longest == nullptr || rank(*peer) < rank(*longest))) longest = peer.get();
    }
    const std::string limit = text("the time limit of %.0f s is over", seconds(limit_));
    if (longest != nullptr) fail(*longest, limit + text(", %zu wait", busy_));
    throw Failed(limit);
  }

  [[noreturn]] static void lost(const Peer& peer, const char* call, int error) {
    fail(peer, std::string(call) + ": " + common::errno_text(error));
  }
  [[noreturn]] static void fail(const Peer& peer, const std::string& what) {
    throw Failed(text("connection %zu: ", peer.stream) + what +
                 text("; %zu bytes were sent%s, %zu came back", peer.sent, peer.fin_sent ? " and a FIN" : "",
                      peer.received));
  }

  const load::Target& target_;
  std::chrono::seconds limit_;
  Clock::time_point end_;
  common::Descriptor epoll_;
  std::vector<std::unique_ptr<Peer>> peers_{};
  std::size_t busy_ = 0;  // peers that are not done
  std::size_t streams_ = 0;
  std::vector<std::byte> received_ = std::vector<std::byte>(256 << 10);
  std::vector<std::uint64_t> words_ = std::vector<std::uint64_t>((256 << 10) / 8 + 2);
};

}  // namespace conformance

// An echo server with one mistake, for the tests of the conformance suite: each mistake must be caught by the
// check that is meant for it. `right` has none, and must pass.
//
// usage: broken_echo_server --port 0 MISTAKE
//
//   right           nothing is wrong
//   reorders        what comes while the socket is full is sent before what waits
//   loses           a short write loses a byte
//   swaps           now and then a connection gets what another one had sent before
//   repeats         a short write sends its last byte again
//   cuts            at the peer's FIN it closes, whatever it still owes
//   lingers         at the peer's FIN it echoes everything and never sends its own
//   hoards          takes in whatever comes, however much it holds already
//   blocks          waits in send(2) for a client that does not read, and so does everybody else
//   leaks           forgets to close one connection in ten
//   dies            exits when a connection is reset
//   selects         has no place for a descriptor above 1023, as select(2)
//   tires           closes a connection that was silent for half a second
//   stops           goes silent after a mebibyte
//
// One thread, level-triggered epoll, a string of what each connection is owed. It is short, not fast.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "servers/common/limits.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t high_water = 256 << 10;

struct Connection {
  std::string owed{};
  std::size_t received = 0;
  bool fin_received = false;
  Clock::time_point last = Clock::now();
};

class Server {
 public:
  Server(std::string mistake, int listener) : mistake_(std::move(mistake)), listener_(listener) {
    watch(EPOLL_CTL_ADD, listener_, EPOLLIN);
  }

  [[noreturn]] void run() {
    for (;;) {
      epoll_event events[64];
      const int ready = epoll_wait(epoll_, events, 64, 100);
      for (int i = 0; i < ready; ++i) {
        if (events[i].data.fd == listener_) {
          accept_one();
        } else {
          serve(events[i].data.fd);
        }
      }
      if (mistake_ == "tires") close_the_silent();
    }
  }

 private:
  void watch(int operation, int fd, std::uint32_t what) const {
    epoll_event event{};
    event.events = what;
    event.data.fd = fd;
    epoll_ctl(epoll_, operation, fd, &event);
  }

  void accept_one() {
    const int fd =
        accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | (mistake_ == "blocks" ? 0 : SOCK_NONBLOCK));
    if (fd < 0) return;
    if (mistake_ == "selects" && fd >= 1024) {
      close(fd);
      return;
    }
    connections_[fd] = Connection{};
    watch(EPOLL_CTL_ADD, fd, EPOLLIN);
  }

  void serve(int fd) {
    const auto found = connections_.find(fd);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    connection.last = Clock::now();
    const bool full = connection.owed.size() >= high_water && mistake_ != "hoards";
    bool alive = connection.fin_received || full || receive(fd, connection);
    alive = alive && send(fd, connection);
    if (!alive) return forget(fd);
    const bool reads =
        !connection.fin_received && (connection.owed.size() < high_water || mistake_ == "hoards");
    const auto in = reads ? std::uint32_t{EPOLLIN} : 0U;
    watch(EPOLL_CTL_MOD, fd, in | (connection.owed.empty() ? 0U : std::uint32_t{EPOLLOUT}));
  }

  // False: the connection is over.
  bool receive(int fd, Connection& connection) {
    char chunk[16384];
    const ssize_t n = recv(fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return true;
    if (n < 0 && mistake_ == "dies") std::_Exit(1);
    if (n < 0) return false;
    connection.fin_received = n == 0;
    if (n == 0) return mistake_ != "cuts";
    std::string came(chunk, static_cast<std::size_t>(n));
    connection.received += came.size();
    if (mistake_ == "stops" && connection.received > 1 << 20) return true;
    if (mistake_ == "swaps") swap(fd, came);
    connection.owed.insert(mistake_ == "reorders" ? 0 : connection.owed.size(), came);
    return true;
  }

  void swap(int fd, std::string& came) {
    if (++turn_ > 50 && fd != before_from_) {
      turn_ = 0;
      before_.resize(came.size());
      came.swap(before_);
    }
    before_ = came;
    before_from_ = fd;
  }

  // False: the connection is over.
  bool send(int fd, Connection& connection) {
    std::string& owed = connection.owed;
    while (!owed.empty()) {
      const ssize_t n = ::send(fd, owed.data(), owed.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EAGAIN) return true;
      if (n < 0) return false;
      auto sent = static_cast<std::size_t>(n);
      if (sent < owed.size() && mistake_ == "loses") ++sent;
      if (sent < owed.size() && mistake_ == "repeats") --sent;
      owed.erase(0, sent);
    }
    return !connection.fin_received || mistake_ == "lingers";
  }

  void forget(int fd) {
    connections_.erase(fd);
    epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
    shutdown(fd, SHUT_RDWR);
    if (mistake_ != "leaks" || ++turn_ % 10 != 0) close(fd);
  }

  void close_the_silent() {
    const auto limit = Clock::now() - std::chrono::milliseconds(500);
    for (auto each = connections_.begin(); each != connections_.end();) {
      const int fd = each->first;
      const bool silent = each->second.last < limit;
      ++each;
      if (silent) forget(fd);
    }
  }

  std::string mistake_;
  int listener_;
  int epoll_ = epoll_create1(EPOLL_CLOEXEC);
  std::map<int, Connection> connections_{};
  std::string before_{};  // swaps: what came last,
  int before_from_ = -1;  // and from whom
  unsigned turn_ = 0;
};

int listen_somewhere() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  void* const any = &address;
  if (bind(fd, static_cast<sockaddr*>(any), sizeof address) != 0 || listen(fd, 4096) != 0) return -1;
  return fd;
}

void say_where(int listener) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  void* const any = &address;
  getsockname(listener, static_cast<sockaddr*>(any), &size);
  std::printf("listening 127.0.0.1:%d\n", ntohs(address.sin_port));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  common::raise_descriptor_limit(16'384);
  const int listener = listen_somewhere();
  if (argc < 2 || listener < 0) return 2;
  Server server(argv[argc - 1], listener);
  say_where(listener);  // Whoever reads it counts our descriptors, so all are there.
  server.run();
}

// What nobody gets below: a bare recv and send on a socket of this machine, and copying memory. `make bench-ceilings`.
//
//     ceilings [--quick] [--json FILE]
//
// A server of small messages does, for each of them, a receive, a send, and whatever it takes to learn that the
// message is there. Here nothing has to be learnt: one thread holds both ends of N connections and
//
//     the clients     send a request on each of them                                              not timed
//     the server      receives each request and sends its answer: recv, send, recv, send …        timed
//     the clients     receive each answer                                                         not timed
//
// so no call ever waits, nobody is woken, and there is neither epoll nor io_uring. What is left is what the kernel
// does for the bytes. On loopback that is both directions of TCP for the answer: the sender carries a segment through the
// receiver's half before send(2) returns. A server that is busy with messages of this size cannot cost less than this,
// unless it moves several of them with one call; its share of this ceiling is this time ÷ its own.
//
// Three figures of a server are not in it: waking up, which a server at a low rate pays for each message; the cold caches
// of a thread that shares its processor's caches with nobody else's data here; and system calls that carry several
// messages at once.
//
// memcpy: the same bytes again and again (they lie in the caches), and an area larger than the caches from end to end.
//
// All times are CPU time of the thread, medians over the runs. Exit status: 0; 1, something failed; 2, usage.

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "bench/load/ratio.hpp"
#include "uring/owned.hpp"

namespace {

constexpr std::size_t KiB = 1024;
constexpr std::size_t MiB = 1024 * KiB;
constexpr std::size_t most_connections = 128;
constexpr std::size_t most_under_way = 8 * MiB;

struct Effort {
  int runs = 12;
  double run_nanoseconds = 50e6;
};

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

double cpu_nanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

void stay_here() {
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &here);
  if (::sched_setaffinity(0, sizeof here, &here) != 0) fail("sched_setaffinity");
}

// ---- Sockets --------------------------------------------------------------------------------------------------------

struct Connection {
  uring::FileDescriptor client{};
  uring::FileDescriptor server{};
};

/// A message must find room as a whole: who sends it here is the one who receives it.
void give_room(const uring::FileDescriptor& socket, std::size_t bytes) {
  const int wanted = static_cast<int>(4 * bytes);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted);
  int got = 0;
  socklen_t size = sizeof got;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &got, &size);
  if (static_cast<std::size_t>(got) < 2 * bytes) throw std::runtime_error("no room in a socket");
}

Connection unix_connection() {
  std::array<int, 2> both{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both.data()) != 0) fail("socketpair");
  return {.client = uring::FileDescriptor(both[0]), .server = uring::FileDescriptor(both[1])};
}

/// As the servers have theirs: over loopback, with TCP_NODELAY.
Connection tcp_connection() {
  const uring::FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Connection made{.client = uring::FileDescriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof name;
  auto* const address = reinterpret_cast<sockaddr*>(&name);
  if (::bind(listener.get(), address, size) != 0 || ::getsockname(listener.get(), address, &size) != 0 ||
      ::listen(listener.get(), 1) != 0 || ::connect(made.client.get(), address, size) != 0) {
    fail("a socket on loopback");
  }
  made.server.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const int on = 1;
  ::setsockopt(made.client.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(made.server.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return made;
}

void send_all(const uring::FileDescriptor& socket, const std::vector<char>& bytes) {
  if (::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) {
    fail("send");
  }
}

void receive_all(const uring::FileDescriptor& socket, std::vector<char>& bytes) {
  if (::recv(socket.get(), bytes.data(), bytes.size(), MSG_WAITALL) != static_cast<ssize_t>(bytes.size())) {
    fail("recv");
  }
}

// ---- What is measured -----------------------------------------------------------------------------------------------

struct Pair {
  const char* transport;
  std::size_t request;
  std::size_t answer;
  std::size_t connections = 0;
  std::vector<double> nanoseconds{};  // CPU time of a recv and a send, one figure for each run
};

class Rounds {
 public:
  explicit Rounds(Pair& pair) : request_(pair.request, 'q'), answer_(pair.answer, 'a') {
    const std::size_t largest = std::max(pair.request, pair.answer);
    pair.connections = std::min(most_connections, most_under_way / largest);
    const bool tcp = std::strcmp(pair.transport, "tcp") == 0;
    for (std::size_t i = 0; i < pair.connections; ++i) {
      connections_.push_back(tcp ? tcp_connection() : unix_connection());
      give_room(connections_.back().client, pair.request);
      give_room(connections_.back().server, pair.answer);
    }
    received_request_.resize(pair.request);
    received_answer_.resize(pair.answer);
  }

  /// Nanoseconds of the server's half of one round.
  double once() {
    for (const Connection& connection : connections_) send_all(connection.client, request_);
    const double began = cpu_nanoseconds();
    for (const Connection& connection : connections_) {
      receive_all(connection.server, received_request_);
      send_all(connection.server, answer_);
    }
    const double spent = cpu_nanoseconds() - began;
    for (const Connection& connection : connections_) receive_all(connection.client, received_answer_);
    return spent;
  }

  /// Of one message, over at least `nanoseconds` of the server's time.
  double run(double nanoseconds) {
    double spent = 0;
    std::size_t messages = 0;
    while (spent < nanoseconds) {
      spent += once();
      messages += connections_.size();
    }
    return spent / static_cast<double>(messages);
  }

 private:
  std::vector<Connection> connections_{};
  std::vector<char> request_;
  std::vector<char> answer_;
  std::vector<char> received_request_{};
  std::vector<char> received_answer_{};
};

struct Copying {
  const char* what;
  std::size_t area;
  std::vector<double> bytes_per_second{};
};

/// The compiler must believe that somebody looks at the bytes.
void look_at(const char* bytes) { asm volatile("" : : "r"(bytes) : "memory"); }

double copy(std::vector<char>& from, std::vector<char>& to, double nanoseconds) {
  constexpr std::size_t block = 64 * KiB;
  double bytes = 0;
  const double began = cpu_nanoseconds();
  double now = began;
  while (now - began < nanoseconds) {
    for (std::size_t at = 0; at + block <= from.size(); at += block) {
      std::memcpy(to.data() + at, from.data() + at, block);
      look_at(to.data() + at);
    }
    bytes += static_cast<double>(from.size());
    now = cpu_nanoseconds();
  }
  return bytes / ((now - began) / 1e9);
}

// ---- What is printed ------------------------------------------------------------------------------------------------

std::string size_text(std::size_t size) {
  return size % KiB == 0 ? std::to_string(size / KiB) + " KiB" : std::to_string(size) + " B";
}

void print(const Pair& pair) {
  const double typical = load::median_of(pair.nanoseconds);
  const auto [low, high] = std::minmax_element(pair.nanoseconds.begin(), pair.nanoseconds.end());
  std::printf(
      "%-5s recv %7s, send %7s  %4zu connections  %8.0f ns [%.0f, %.0f]  %9.0f messages/s of one CPU\n",
      pair.transport, size_text(pair.request).c_str(), size_text(pair.answer).c_str(), pair.connections,
      typical, *low, *high, 1e9 / typical);
  std::fflush(stdout);
}

void write_list(std::FILE* file, const std::vector<double>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) std::fprintf(file, "%s%.1f", i == 0 ? "" : ", ", values[i]);
}

void write_json(const char* path, const std::vector<Pair>& pairs, const std::vector<Copying>& copies) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "we"), std::fclose);
  if (file == nullptr) throw std::system_error(errno, std::generic_category(), path);
  std::fprintf(file.get(), "{\"pairs\": [");
  for (const Pair& pair : pairs) {
    std::fprintf(file.get(),
                 "%s\n  {\"transport\": \"%s\", \"request\": %zu, \"answer\": %zu, \"connections\": %zu, "
                 "\"ns\": %.1f, \"runs\": [",
                 &pair == pairs.data() ? "" : ",", pair.transport, pair.request, pair.answer,
                 pair.connections, load::median_of(pair.nanoseconds));
    write_list(file.get(), pair.nanoseconds);
    std::fprintf(file.get(), "]}");
  }
  std::fprintf(file.get(), "],\n \"memcpy\": [");
  for (const Copying& copying : copies) {
    std::fprintf(file.get(),
                 "%s\n  {\"what\": \"%s\", \"area\": %zu, \"bytes_per_second\": %.0f, \"runs\": [",
                 &copying == copies.data() ? "" : ",", copying.what, copying.area,
                 load::median_of(copying.bytes_per_second));
    write_list(file.get(), copying.bytes_per_second);
    std::fprintf(file.get(), "]}");
  }
  std::fprintf(file.get(), "]}\n");
  if (std::fflush(file.get()) != 0) throw std::system_error(errno, std::generic_category(), path);
}

void measure_all(const Effort& effort, const char* json) {
  stay_here();
  // Echoed messages, and requests for a file with their answers.
  std::vector<Pair> pairs;
  for (const char* transport : {"tcp", "unix"}) {
    for (const std::size_t size : {std::size_t{64}, std::size_t{512}, 4 * KiB, 16 * KiB, 64 * KiB}) {
      pairs.push_back({.transport = transport, .request = size, .answer = size});
    }
  }
  for (const std::size_t size : {4 * KiB, 64 * KiB}) {
    pairs.push_back({.transport = "tcp", .request = 32, .answer = size});
  }
  std::printf("A bare recv and send, nobody waits, CPU time of both together:\n");
  for (Pair& pair : pairs) {
    Rounds rounds(pair);
    rounds.run(effort.run_nanoseconds / 5);  // touches everything for the first time
    for (int run = 0; run < effort.runs; ++run)
      pair.nanoseconds.push_back(rounds.run(effort.run_nanoseconds));
    print(pair);
  }
  std::vector<Copying> copies{{.what = "hot", .area = 64 * KiB}, {.what = "cold", .area = 256 * MiB}};
  for (Copying& copying : copies) {
    std::vector<char> from(copying.area, 'f');
    std::vector<char> to(copying.area, 't');
    for (int run = 0; run < effort.runs; ++run) {
      copying.bytes_per_second.push_back(copy(from, to, effort.run_nanoseconds));
    }
    std::printf("memcpy, %-4s  %6.1f GB/s\n", copying.what, load::median_of(copying.bytes_per_second) / 1e9);
  }
  if (json != nullptr) write_json(json, pairs, copies);
}

/// Both ends of 128 connections are descriptors of this one process.
void lift_descriptor_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  Effort effort;
  const char* json = nullptr;
  for (int at = 1; at < argc; ++at) {
    if (std::strcmp(argv[at], "--quick") == 0) {
      effort = {.runs = 6, .run_nanoseconds = 10e6};
    } else if (std::strcmp(argv[at], "--json") == 0 && at + 1 < argc) {
      json = argv[++at];
    } else {
      std::fprintf(stderr, "usage: ceilings [--quick] [--json FILE]\n");
      return 2;
    }
  }
  try {
    lift_descriptor_limit();
    measure_all(effort, json);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ceilings: %s\n", error.what());
    return 1;
  }
}

// From which size on is it cheaper not to copy? SEND_ZC against SEND, where zero copy can happen.
//
//     bench_zero_copy [--quick] [--json FILE]    a minute; --quick: a second, and no number to believe
//
// Three tables (`make bench-zero-copy` shows another one behind them, of two servers):
//
//   device, hot    UDP datagrams into a device that drops them (zero_copy_net.hpp). A few messages, again and
//                  again, so that what SEND copies lies in the caches: the best case of SEND
//   device, cold   the same out of an area larger than the last cache: SEND waits for memory
//   loopback       TCP, received by the same thread. Whoever can receive a page could read it after the sender
//                  has changed it, so on the way to a local socket the kernel copies, and SEND_ZC only has more
//                  to do
//
// Where this process may not have a network of its own, UDP on loopback takes the place of the device; the
// notifications say that it was copied, and so does the table.
//
// Each row is measured in blocks of A B C D D C B A after a warm-up; a ratio is SEND's CPU time ÷ the other's
// in one pass, above 1 where the other is cheaper, printed as median and 95 % bootstrap interval. The
// crossover is the smallest size from which on every interval lies above 1 as a whole.
//
// Held equal: the socket, its options and flags, the memory, the order of the messages, the number of sends
// for each enter. One thread on one CPU: with a reader on another CPU, the wake-ups between the two decide
// (SEND_ZC of 64 KiB then seemed to be 1.5 times cheaper on loopback, every byte of it copied).
//
// Not in it: UDP segmentation offload, and a network card. A card's DMA reads the bytes, which costs memory
// bandwidth, though no CPU time.
//
// Needs Linux 6.2, which reports whether it copied. Exit status: 0; 1, something failed; 2, usage; 3, no
// io_uring here.

#include <sched.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "bench/zero_copy_net.hpp"
#include "bench/zero_copy_sender.hpp"
#include "bench/zero_copy_table.hpp"

namespace bench {
namespace {

constexpr std::size_t largest_datagram = 60 * KiB;  // one packet of IPv6, and a message of whole pages

struct Effort {
  int blocks = 12;
  double run_nanoseconds = 15e6;
  std::size_t most_cold = 256 * MiB;
};

// ---- Where to ---------------------------------------------------------------------------------------------

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

/// The thread stays on the CPU where it is, and its caches with it.
void stay_here() {
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &here);
  if (::sched_setaffinity(0, sizeof here, &here) != 0) fail("sched_setaffinity");
}

/// Room for everything that can be out at once, so that no send waits. Returns what the socket got.
int give_room(const uring::FileDescriptor& socket) {
  const int wanted = 4 * MiB;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof wanted) != 0) {
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted);
  }
  int got = 0;
  socklen_t size = sizeof got;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &got, &size);
  return got;
}

/// Two connected sockets on loopback. For UDP nobody reads the second one: once it is full, what comes is
/// dropped, in the sender's system call, after it was copied.
struct Loopback {
  uring::FileDescriptor sender{};
  uring::FileDescriptor receiver{};

  explicit Loopback(int type) : sender(::socket(AF_INET, type | SOCK_CLOEXEC, 0)) {
    uring::FileDescriptor bound(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof name;
    auto* const address = reinterpret_cast<sockaddr*>(&name);
    if (::bind(bound.get(), address, size) != 0 || ::getsockname(bound.get(), address, &size) != 0 ||
        (type == SOCK_STREAM && ::listen(bound.get(), 1) != 0) ||
        ::connect(sender.get(), address, size) != 0) {
      fail("a socket on loopback");
    }
    if (type == SOCK_STREAM) bound.reset(::accept4(bound.get(), nullptr, nullptr, SOCK_CLOEXEC));
    receiver = std::move(bound);
  }
};

// ---- The tables -------------------------------------------------------------------------------------------

/// Whether `way` works for this row, and how many sends take a run's time. Its notifications tell what
/// SEND_ZC does.
std::uint64_t warm_up(Sender& sender, Way way, Row& row, const Sender::Shape& shape, const Effort& effort) {
  std::string& refused = row.refused[index_of(way)];
  if (way == Way::registered && sender.registration_error() != 0) {
    refused = "registering its memory: " + uring::errno_text(-sender.registration_error());
    if (sender.registration_error() == -ENOMEM) refused += ", RLIMIT_MEMLOCK";
    return 0;
  }
  try {
    sender.run(way, 2 * shape.slots);  // touches everything for the first time
    const Run run = sender.run(way, 2 * shape.slots);
    const auto batches = static_cast<std::uint64_t>(effort.run_nanoseconds / (run.nanoseconds * shape.batch));
    return std::max<std::uint64_t>(batches * shape.batch, shape.slots);
  } catch (const std::system_error& error) {
    if (way == Way::system_call || way == Way::send) throw;
    refused = uring::errno_text(error.code().value());
    return 0;
  }
}

void measure(Sender& sender, Row& row, const Sender::Shape& shape, const Effort& effort) {
  std::array<std::uint64_t, ways.size()> sends{};
  for (const Way way : ways) sends[index_of(way)] = warm_up(sender, way, row, shape, effort);
  const auto pass = [&](Way way) {
    if (sends[index_of(way)] == 0) return;
    row.runs[index_of(way)].push_back(sender.run(way, sends[index_of(way)]));
  };
  for (int block = 0; block < effort.blocks; ++block) {
    std::for_each(ways.begin(), ways.end(), pass);
    std::for_each(ways.rbegin(), ways.rend(), pass);
  }
}

void measure(Table& table, const Sender::Shape& shape, const std::vector<std::size_t>& sizes,
             std::size_t window, int socket, const Effort& effort) {
  Sender sender(shape);
  for (const std::size_t size : sizes) {
    Row& row = table.rows.emplace_back();
    row.size = size;
    sender.aim(socket, size, window);
    row.window = sender.window();
    measure(sender, row, shape, effort);
  }
  table.sent = sender.sent();
}

/// Twice the last cache, as far as it is known and `most` allows; at least 64 MiB.
std::size_t cold_area(std::size_t most) {
  const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return std::clamp<std::size_t>(2 * static_cast<std::size_t>(std::max(cache, 0L)), 64 * MiB, most);
}

const std::vector<std::size_t> datagrams{64,      512,      KiB,      2 * KiB,         4 * KiB,
                                         8 * KiB, 16 * KiB, 32 * KiB, largest_datagram};

/// Both UDP tables, over one socket.
void measure_datagrams(std::vector<Table>& tables, int socket, const std::string& where,
                       const Effort& effort) {
  constexpr unsigned slots = 64;
  Table& hot = tables.emplace_back(Table{.key = "udp-hot", .title = "UDP, " + where + ", hot"});
  hot.remark = "64 messages again and again, so that SEND copies out of a cache; 32 sends for each enter";
  measure(hot, {.slots = slots, .batch = 32, .area_bytes = slots * largest_datagram}, datagrams, slots,
          socket, effort);
  const std::size_t area = cold_area(effort.most_cold);
  Table& cold = tables.emplace_back(Table{.key = "udp-cold", .title = "UDP, " + where + ", cold"});
  cold.remark = "an area of " + std::to_string(area / MiB) +
                " MiB from end to end, so that SEND copies out of memory; 32 sends for each enter";
  measure(cold, {.slots = slots, .batch = 32, .area_bytes = area}, datagrams, 0, socket, effort);
}

/// A message must find room in the socket as a whole, since whoever sends it is the one who reads it.
void measure_stream(std::vector<Table>& tables, const Effort& effort) {
  const Loopback pair(SOCK_STREAM);
  const auto room = static_cast<std::size_t>(give_room(pair.sender));
  std::vector<std::size_t> sizes{4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB};
  std::erase_if(sizes, [room](std::size_t size) { return size > room / 2; });
  constexpr unsigned slots = 16;
  Table& table = tables.emplace_back(Table{.key = "tcp-loopback", .title = "TCP on loopback"});
  table.remark =
      "sent, and read again by the same thread: both are in the time; one send for each enter, MSG_WAITALL";
  measure(table,
          {.slots = slots,
           .batch = 1,
           .area_bytes = slots * sizes.back(),
           .flags = MSG_WAITALL,
           .reader = pair.receiver.get()},
          sizes, slots, pair.sender.get(), effort);
}

// ---- The whole of it --------------------------------------------------------------------------------------

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line.empty() ? "unknown" : line;
}

/// The two UDP tables: into the device if there can be one, else on loopback, and why.
void measure_udp(std::vector<Table>& tables, Facts& facts, const Effort& effort) {
  uring::FileDescriptor socket;
  try {
    enter_private_network();
    make_ifb();
    socket = socket_to_neighbour();
  } catch (const NoNetwork& obstacle) {
    facts.obstacle = obstacle.what();
    std::printf("no device to send to: %s\nso UDP goes over loopback, where the kernel copies\n",
                obstacle.what());
    const Loopback pair(SOCK_DGRAM);
    give_room(pair.sender);
    measure_datagrams(tables, pair.sender.get(), "loopback, nobody reads", effort);
    return;
  }
  std::printf("send buffer of the UDP socket: %d KiB\n", give_room(socket) / 1024);
  const Taken before = taken_by_ifb();
  measure_datagrams(tables, socket.get(), "into a device that drops it", effort);
  const Taken after = taken_by_ifb();
  facts.taken = {.packets = after.packets - before.packets, .dropped = after.dropped - before.dropped};
}

/// Whether each datagram became one packet. The stack sends some of its own (it looks for routers).
void check_packets(const Facts& facts) {
  constexpr std::uint64_t own = 100;
  if (!facts.obstacle.empty()) return;
  std::printf("\ndatagrams sent %llu; the device was given %llu packets and dropped %llu\n",
              0ULL + facts.datagrams, 0ULL + facts.taken.packets, 0ULL + facts.taken.dropped);
  if (facts.taken.dropped < facts.datagrams || facts.taken.dropped > facts.datagrams + own) {
    throw std::runtime_error("not every datagram was one packet for the device");
  }
}

void measure_all(const Effort& effort, const char* json) {
  stay_here();
  Facts facts{.kernel = first_line("/proc/sys/kernel/osrelease"), .blocks = effort.blocks};
  std::printf("Linux %s; one thread, which stays on one CPU; transparent huge pages: %s; %d blocks\n",
              facts.kernel.c_str(), first_line("/sys/kernel/mm/transparent_hugepage/enabled").c_str(),
              effort.blocks);
  std::vector<Table> tables;
  measure_udp(tables, facts, effort);
  for (const Table& table : tables) facts.datagrams += table.sent;
  for (const Table& table : tables) print(table);
  check_packets(facts);
  measure_stream(tables, effort);
  print(tables.back());
  if (json != nullptr) write_json(json, tables, facts);
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  bench::Effort effort;
  const char* json = nullptr;
  for (int at = 1; at < argc; ++at) {
    if (std::strcmp(argv[at], "--quick") == 0) {
      effort = {.blocks = 3, .run_nanoseconds = 3e5, .most_cold = 64 * bench::MiB};
    } else if (std::strcmp(argv[at], "--json") == 0 && at + 1 < argc) {
      json = argv[++at];
    } else {
      std::fprintf(stderr, "usage: bench_zero_copy [--quick] [--json FILE]\n");
      return 2;
    }
  }
  try {
    bench::measure_all(effort, json);
  } catch (const uring::SetupError& error) {
    std::fprintf(stderr, "bench_zero_copy: %s\n", error.what());
    return 3;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_zero_copy: %s\n", error.what());
    return 1;
  }
}

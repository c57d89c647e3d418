// Facts about SEND_ZC: when its buffer is free again, and what does and does not bring that moment nearer.
// What its two completions look like is in prep_sockets_test.cpp; docs/kernel-facts.md says what is commonly
// believed.

#include <sys/resource.h>
#include <sys/wait.h>

#include <optional>

#include "tests/kernel/prep_helpers.hpp"
#include "tests/support/fact.hpp"

namespace {

using namespace prep_tests;
using namespace std::chrono_literals;

constexpr unsigned payload = 4096;

/// TCP to a receiver with little room, which does not read: what is sent behind `filler` waits on our side.
struct Stalled {
  FileDescriptor sender{};
  FileDescriptor receiver{};
  std::string filler = std::string(65536, '-');

  Stalled() {
    const FileDescriptor listener = bound(SOCK_STREAM);
    const int little = 4096;
    const int much = 262144;
    REQUIRE(setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &little, sizeof little) == 0);
    sender = connected_to(listener);
    REQUIRE(setsockopt(sender.get(), SOL_SOCKET, SO_SNDBUF, &much, sizeof much) == 0);
    receiver.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    write_all(sender, filler);
  }

  /// The peer's end of everything: FIN or RST.
  std::string read_to_the_end() const {
    std::string all;
    for (std::string part = read_some(receiver); !part.empty(); part = read_some(receiver)) all += part;
    return all;
  }
};

void reset(FileDescriptor& socket) {
  const linger at_once{1, 0};
  REQUIRE(setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
  socket.reset();
}

/// Sends `bytes` and sees the first CQE.
void send_behind_the_filler(TestRing& ring, const Stalled& pair, const std::string& bytes) {
  prep::send_zc(ring.sqe(), pair.sender.get(), bytes.data(), payload, 0, 0, Token{1});
  const Completion sent = ring.of(1);
  REQUIRE(sent.res == static_cast<int>(payload));
  REQUIRE(sent.more());
}

FACT("a notification needs no reader: the peer's TCP has acknowledged the bytes, that is enough") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  const Pair pair = tcp_pair();
  prep::send_zc(ring.sqe(), pair.here.get(), "hello", 5, 0, 0, Token{1});
  CHECK(ring.result(1) == 5);
  CHECK(ring.of(1).notification());
  CHECK(read_some(pair.there) == "hello");
}

FACT("close does not end a send_zc: its notification comes when the peer has read what was in front") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  Stalled pair;
  const std::string bytes(payload, 'a');
  send_behind_the_filler(ring, pair, bytes);
  pair.sender.reset();
  CHECK(ring.quiet());
  CHECK(pair.read_to_the_end() == pair.filler + bytes);
  CHECK(ring.of(1).notification());
}

FACT("a reset brings the notification at once, the peer's or our own with SO_LINGER 0") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  for (const bool ours : {false, true}) {
    CAPTURE(ours);
    TestRing ring;
    Stalled pair;
    const std::string bytes(payload, 'a');
    send_behind_the_filler(ring, pair, bytes);
    CHECK(ring.quiet());
    reset(ours ? pair.sender : pair.receiver);
    CHECK(ring.of(1).notification());
  }
}

FACT("a notification cannot be cancelled: for a cancellation the operation is over, ENOENT") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  Stalled pair;
  const std::string bytes(payload, 'a');
  send_behind_the_filler(ring, pair, bytes);
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == -ENOENT);
  CHECK(ring.quiet());
  reset(pair.sender);
  CHECK(ring.of(1).notification());
}

FACT("a send_zc with MSG_WAITALL, cancelled half-way: res is what is queued, and so much stays lent") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  Stalled pair;
  std::string bytes(4 << 20, 'a');
  prep::send_zc(ring.sqe(), pair.sender.get(), bytes.data(), 4 << 20, MSG_WAITALL, 0, Token{1});
  CHECK(ring.quiet());
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == 0);
  const Completion sent = ring.of(1);
  REQUIRE(sent.res > 0);
  CHECK(sent.res < 4 << 20);
  CHECK(sent.more());
  CHECK(ring.quiet());  // queued is not gone
  pair.sender.reset();
  CHECK(pair.read_to_the_end() == pair.filler + bytes.substr(0, static_cast<std::size_t>(sent.res)));
  CHECK(ring.of(1).notification());
}

FACT("a send_zc that had to wait and is cancelled has sent nothing, and notifies all the same") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  TestRing ring;
  Stalled pair;
  const std::string more(65536, '-');
  while (::send(pair.sender.get(), more.data(), more.size(), MSG_DONTWAIT) > 0) continue;
  prep::send_zc(ring.sqe(), pair.sender.get(), "x", 1, 0, 0, Token{1});
  CHECK(ring.quiet());
  prep::async_cancel(ring.sqe(), Token{1}, Token{2});
  CHECK(ring.result(2) == 0);
  const Completion cancelled = ring.of(1);
  CHECK(cancelled.res == -ECANCELED);
  CHECK(cancelled.more());
  CHECK(ring.of(1).notification());
}

/// In a process without rights: the result of a send_zc of all of `bytes`, registered or not, under a
/// RLIMIT_MEMLOCK that registering has used up.
int result_without_memory_to_lock(int socket, bool registered) {
  static char bytes[65536];
  if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) return 1;
  uring::Ring ring({.entries = 4});
  iovec buffer{bytes, sizeof bytes};
  if (uring::real_kernel.register_(nullptr, ring.fd(), IORING_REGISTER_BUFFERS, &buffer, 1) != 0) return 2;
  const rlimit nothing{0, 0};
  if (setrlimit(RLIMIT_MEMLOCK, &nothing) != 0) return 3;
  if (registered) {
    prep::send_zc_fixed(free_sqe(ring), socket, bytes, sizeof bytes, MSG_WAITALL, 0, 0, Token{1});
  } else {
    prep::send_zc(free_sqe(ring), socket, bytes, sizeof bytes, MSG_WAITALL, 0, Token{1});
  }
  ring.submit_and_wait(2, 5s);
  int result = 0;
  ring.harvest([&](const io_uring_cqe& cqe) {
    if ((cqe.flags & IORING_CQE_F_NOTIF) == 0) result = cqe.res;
  });
  return result == static_cast<int>(sizeof bytes) ? 10 : result == -ENOMEM ? 11 : 4;
}

FACT("out of a registered buffer a send_zc needs no RLIMIT_MEMLOCK: that was charged at registration") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  for (const bool registered : {true, false}) {
    CAPTURE(registered);
    const Pair pair = tcp_pair();
    const pid_t child = fork();
    if (child == 0) _exit(result_without_memory_to_lock(pair.here.get(), registered));
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == (registered ? 10 : 11));
  }
}

/// A page-aligned buffer of 'a' that can be unmapped.
char* mapped_payload() {
  void* const memory = mmap(nullptr, payload, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  std::memset(memory, 'a', payload);
  return static_cast<char*>(memory);
}

FACT("destroying the ring takes no buffer back: what lies there later goes out, and no one is told") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  for (const bool unmapped : {false, true}) {
    CAPTURE(unmapped);
    Stalled pair;
    char* const bytes = mapped_payload();
    {
      uring::Ring ring({.entries = 4});
      prep::send_zc(free_sqe(ring), pair.sender.get(), bytes, payload, 0, 0, Token{1});
      REQUIRE(ring.submit_and_wait(1, 5s).ready == 1);
    }
    if (unmapped) {
      REQUIRE(munmap(bytes, payload) == 0);  // the pages are pinned, and stay as they were
    } else {
      std::memset(bytes, 'Z', payload);
    }
    pair.sender.reset();
    CHECK(pair.read_to_the_end() == pair.filler + std::string(payload, unmapped ? 'a' : 'Z'));
    if (!unmapped) munmap(bytes, payload);
  }
}

FACT("a process that exits before its notifications loses nothing: the peer receives every byte") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SEND_ZC), "SEND_ZC needs Linux 6.0");
  Stalled pair;
  const pid_t child = fork();
  if (child == 0) {
    uring::Ring ring({.entries = 4});
    const std::string bytes(payload, 'a');
    prep::send_zc(free_sqe(ring), pair.sender.get(), bytes.data(), payload, 0, 0, Token{1});
    _exit(ring.submit_and_wait(1, 5s).ready == 1 ? 0 : 1);
  }
  pair.sender.reset();
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(pair.read_to_the_end() == pair.filler + std::string(payload, 'a'));
}

}  // namespace

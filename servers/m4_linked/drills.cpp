// The drills, in the order in which one learns to distrust a chain. Each is a function that breaks one thing.

#include "servers/m4_linked/drills.hpp"

#include <poll.h>

#include <algorithm>
#include <span>
#include <thread>

#include "servers/common/listener.hpp"
#include "servers/common/start_error.hpp"
#include "servers/m4_linked/drill_kit.hpp"
#include "uring/direct_files.hpp"
#include "uring/prep_control.hpp"

namespace linked {
namespace {

namespace prep = uring::prep;
using uring::Token;

// ---- What a link does when something fails ------------------------------------------------------------------

void middle_fails(Drill& drill) {
  drill.tell("NOP -> READ of no file -> NOP -> NOP, all linked. Four SQEs, so four CQEs: none is left out.");
  DrillRing ring;
  prep::link(ring.nop("NOP"));
  prep::link(ring.failing("READ"));
  prep::link(ring.nop("NOP"));
  ring.nop("NOP");
  drill.expect("NOP 0, READ -EBADF, NOP -ECANCELED, NOP -ECANCELED", ring.results());
}

void prep_error(Drill& drill) {
  drill.tell(
      "WRITE -> an SQE with an opcode that does not exist. Parsing comes before running: the WRITE, which");
  drill.tell("is the earlier one and in order, is cancelled, and nothing is written.");
  DrillRing ring;
  const ScratchFile file;
  io_uring_sqe& write = ring.prepare(
      "WRITE", [&](io_uring_sqe& sqe, Token token) { prep::write(sqe, file.fd(), "hello", 5, 0, token); });
  prep::link(write);
  ring.unparsable("?");
  drill.expect("WRITE -ECANCELED, ? -EINVAL", ring.results());
  drill.expect("the file holds ''", "the file holds '" + file.content() + "'");
}

void all_but_first(Drill& drill) {
  drill.tell(
      "A waits for a byte. LINK is set on B and C and not on A: so B starts without waiting for A, and C is");
  drill.tell("linked to D, which belongs to somebody else. B fails, and D pays for it.");
  DrillRing ring;
  const Pair pair;
  char byte = 0;
  ring.prepare(
      "A", [&](io_uring_sqe& sqe, Token token) { prep::recv(sqe, pair.server.get(), &byte, 1, 0, token); });
  prep::link(ring.failing("B"));
  prep::link(ring.nop("C"));
  ring.nop("D");
  const std::vector<int> results = ring.take(3);
  ring.forget_names();
  drill.expect("A waits, B -EBADF, C -ECANCELED, D -ECANCELED",
               std::string(results[0] == DrillRing::none ? "A waits" : "A is done") + ", B " +
                   result_text(results[1]) + ", C " + result_text(results[2]) + ", D " +
                   result_text(results[3]));
  pair.send("x");
  ring.ring().submit_and_wait(1, drill_patience);
}

void boundary(Drill& drill) {
  drill.tell("READ of no file -> NOP, linked, in one submission: a chain, and the NOP is cancelled.");
  DrillRing ring;
  prep::link(ring.failing("READ"));
  ring.nop("NOP");
  drill.expect("READ -EBADF, NOP -ECANCELED", ring.results());
  drill.tell(
      "The same SQEs, with a submit between them: the LINK at the end of a submission links to nothing.");
  prep::link(ring.failing("READ"));
  ring.submit();
  ring.nop("NOP");
  drill.expect("READ -EBADF, NOP 0", ring.results());
  drill.tell("So the SQ must have room for all of a chain before its first SQE is prepared: Loop::batch(n).");
}

void no_rollback(Drill& drill) {
  drill.tell("WRITE 'hello' -> READ of no file. The chain fails; what was written stays written.");
  DrillRing ring;
  const ScratchFile file;
  io_uring_sqe& write = ring.prepare(
      "WRITE", [&](io_uring_sqe& sqe, Token token) { prep::write(sqe, file.fd(), "hello", 5, 0, token); });
  prep::link(write);
  ring.failing("READ");
  drill.expect("WRITE 5, READ -EBADF", ring.results());
  drill.expect("the file holds 'hello'", "the file holds '" + file.content() + "'");
}

void silent_chain(Drill& drill) {
  drill.tell(
      "READ of no file -> NOP -> NOP, with CQE_SKIP_SUCCESS on the first two. The READ fails and says so;");
  drill.tell("the others are cancelled without a word, also the last, which did not ask for silence.");
  drill.tell("Who counts a CQE for each SQE waits for good.");
  DrillRing ring;
  io_uring_sqe& read = ring.failing("READ");
  prep::link(read);
  prep::skip_success(read);
  io_uring_sqe& nop = ring.nop("NOP");
  prep::link(nop);
  prep::skip_success(nop);
  ring.nop("NOP");
  drill.expect("READ -EBADF", ring.results(1));
}

// ---- What a link does not carry: descriptors, lengths ---------------------------------------------------------

void guessed_fd(Drill& drill) {
  drill.tell(
      "ACCEPT -> READ -> WRITE, the last two with fd -1, 'to be filled in by the accept'. Nobody fills it "
      "in.");
  const common::Listener listener = common::listen_tcp("127.0.0.1", 0, /*nonblocking=*/false);
  ::sockaddr_storage address{};
  ::socklen_t size = sizeof address;
  void* const any = &address;
  const common::Descriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::getsockname(listener.fd(), static_cast<::sockaddr*>(any), &size) != 0 ||
      ::connect(client.get(), static_cast<::sockaddr*>(any), size) != 0) {
    drill_fails("cannot connect");
  }
  DrillRing ring;
  std::array<char, 8> bytes{};
  io_uring_sqe& accept = ring.prepare("ACCEPT", [&](io_uring_sqe& sqe, Token token) {
    prep::accept(sqe, listener.fd(), nullptr, nullptr, SOCK_CLOEXEC, token);
  });
  prep::link(accept);
  io_uring_sqe& read = ring.prepare("READ", [&](io_uring_sqe& sqe, Token token) {
    prep::read(sqe, -1, bytes.data(), bytes.size(), 0, token);
  });
  prep::link(read);
  ring.prepare("WRITE", [&](io_uring_sqe& sqe, Token token) {
    prep::write(sqe, -1, bytes.data(), bytes.size(), 0, token);
  });
  const std::vector<int> results = ring.take(3);
  ring.forget_names();
  const common::Descriptor accepted(results[0]);
  drill.expect("ACCEPT a descriptor, READ -EBADF, WRITE -ECANCELED",
               "ACCEPT " + (results[0] >= 0 ? "a descriptor" : result_text(results[0])) + ", READ " +
                   result_text(results[1]) + ", WRITE " + result_text(results[2]));
  drill.tell(
      "A number that was guessed is worse: if it is wrong, it is another connection's. A slot of the ring's");
  drill.tell("own table is known before there is a client; m4_linked accepts into one.");
}

/// RECV of 16 bytes -> SEND of 16 bytes, out of a buffer that holds what another client has sent.
std::string receive_and_send(DrillRing& ring, const Pair& pair, int flags) {
  std::string buffer = "SECRET-OF-BEFORE";
  io_uring_sqe& recv = ring.prepare("RECV", [&](io_uring_sqe& sqe, Token token) {
    prep::recv(sqe, pair.server.get(), buffer.data(), 16, flags, token);
  });
  prep::link(recv);
  ring.prepare("SEND", [&](io_uring_sqe& sqe, Token token) {
    prep::send(sqe, pair.server.get(), buffer.data(), 16, MSG_WAITALL, token);
  });
  return ring.results();
}

void short_recv(Drill& drill) {
  drill.tell(
      "RECV of 16 bytes -> SEND of 16 bytes. The client sends 3. For a link that is no failure, and SEND");
  drill.tell("sends what its SQE says: 16 bytes, of which 13 are what the buffer held before.");
  DrillRing ring;
  const Pair pair;
  pair.send("abc");
  drill.expect("RECV 3, SEND 16", receive_and_send(ring, pair, 0));
  drill.expect("the client got 'abcRET-OF-BEFORE'", "the client got '" + pair.received() + "'");
}

void short_recv_waitall(Drill& drill) {
  drill.tell(
      "The same with MSG_WAITALL, which makes a short RECV a failure. It waits for 16 bytes; the client "
      "sends");
  drill.tell("3 and finishes.");
  DrillRing ring;
  const Pair pair;
  pair.send("abc");
  ::shutdown(pair.client.get(), SHUT_WR);
  drill.expect("RECV 3, SEND -ECANCELED", receive_and_send(ring, pair, MSG_WAITALL));
  drill.expect("the client got ''", "the client got '" + pair.received() + "'");
}

// ---- What a broken chain leaves open --------------------------------------------------------------------------

/// In slot 0 is a connection whose client sends its message and vanishes. RECV -> SEND -> CLOSE of the slot, and
/// then another CLOSE, to see whether it is empty.
void close_behind_send(Drill& drill, bool hard, const char* expected, const char* expected_slot) {
  DrillRing ring;
  if (uring::DirectFiles().register_with(ring.ring(), 1) < 0) drill_fails("no table of slots");
  Pair pair;
  std::array<int, 1> descriptors{pair.server.get()};
  ring.prepare("FILES_UPDATE", [&](io_uring_sqe& sqe, Token token) {
    prep::files_update(sqe, descriptors.data(), 1, {0}, token);
  });
  ring.results();
  pair.send("hello");
  pair.server.reset();  // the slot has a reference of its own
  pair.client.reset();
  std::array<char, 5> bytes{};
  io_uring_sqe& recv = ring.prepare("RECV", [&](io_uring_sqe& sqe, Token token) {
    prep::recv(sqe, 0, bytes.data(), 5, MSG_WAITALL, token);
  });
  prep::fixed_file(recv);
  prep::link(recv);
  io_uring_sqe& send = ring.prepare("SEND", [&](io_uring_sqe& sqe, Token token) {
    prep::send(sqe, 0, bytes.data(), 5, MSG_WAITALL, token);
  });
  prep::fixed_file(send);
  hard ? prep::hardlink(send) : prep::link(send);
  ring.prepare("CLOSE", [&](io_uring_sqe& sqe, Token token) { prep::close_direct(sqe, {0}, token); });
  drill.expect(expected, ring.results());
  ring.prepare("once more CLOSE",
               [&](io_uring_sqe& sqe, Token token) { prep::close_direct(sqe, {0}, token); });
  drill.expect(expected_slot, ring.results());
}

void cancelled_close(Drill& drill) {
  drill.tell(
      "RECV -> SEND -> CLOSE, all soft links. The client has gone when SEND comes: CLOSE is cancelled, and "
      "the");
  drill.tell("slot stays in use. A server that does not notice has one slot less, and then one less.");
  close_behind_send(drill, false, "RECV 5, SEND -EPIPE, CLOSE -ECANCELED", "once more CLOSE 0");
}

void hardlinked_close(Drill& drill) {
  drill.tell(
      "The same with a hard link from SEND to CLOSE: CLOSE runs, however SEND ended, and the slot is empty.");
  close_behind_send(drill, true, "RECV 5, SEND -EPIPE, CLOSE 0", "once more CLOSE -EBADF");
}

/// Whether the client sees the end of the stream within `patience`.
bool sees_the_end(const Pair& pair, std::chrono::milliseconds patience) {
  ::pollfd end{.fd = pair.client.get(), .events = POLLIN, .revents = 0};
  return ::poll(&end, 1, static_cast<int>(patience.count())) == 1 && pair.received().empty();
}

void kept_slot(Drill& drill) {
  drill.tell(
      "Client A in slot 0, client B in slot 1. A is silent, and a RECV waits for it. CLOSE of slot 1 "
      "succeeds, "
      "and the");
  drill.tell("slot is empty. Does B see the end of the stream?");
  DrillRing ring;
  if (uring::DirectFiles().register_with(ring.ring(), 2) < 0) drill_fails("no table of slots");
  Pair a, b;
  std::array<int, 2> descriptors{a.server.get(), b.server.get()};
  ring.prepare("FILES_UPDATE", [&](io_uring_sqe& sqe, Token token) {
    prep::files_update(sqe, descriptors.data(), 2, {0}, token);
  });
  ring.results();
  a.server.reset();  // the slots have references of their own
  b.server.reset();
  char byte = 0;
  io_uring_sqe& recv =
      ring.prepare("RECV", [&](io_uring_sqe& sqe, Token token) { prep::recv(sqe, 0, &byte, 1, 0, token); });
  prep::fixed_file(recv);
  ring.prepare("CLOSE", [&](io_uring_sqe& sqe, Token token) { prep::close_direct(sqe, {1}, token); });
  drill.expect("CLOSE 0", ring.results(1));
  const bool at_once = sees_the_end(b, drill_pause);
  drill.judge("B sees the end, or nothing: kernels differ",
              at_once ? "B sees the end" : "B sees nothing, its socket is kept: as up to 6.12", true);
  if (at_once) return;
  drill.tell(
      "A says a byte, so its RECV ends. Nothing is in flight on any slot, and what was closed goes (6.1 "
      "takes a");
  drill.tell(
      "second for it). A server always has a RECV in flight on some slot: see common_ring/slots_let_go.hpp.");
  a.send("x");
  ring.ring().submit_and_wait(1, drill_patience);
  drill.expect("B sees the end", sees_the_end(b, drill_patience) ? "B sees the end" : "B sees nothing");
}

// ---- Three stages, and time -----------------------------------------------------------------------------------

/// READ of 8 bytes from a file that holds `content` -> NOP -> WRITE of 8 bytes to another.
void copy(Drill& drill, const char* content, const char* expected) {
  DrillRing ring;
  const ScratchFile from(content);
  const ScratchFile to;
  std::array<char, 8> bytes{};
  io_uring_sqe& read = ring.prepare(
      "READ", [&](io_uring_sqe& sqe, Token token) { prep::read(sqe, from.fd(), bytes.data(), 8, 0, token); });
  prep::link(read);
  prep::link(ring.nop("NOP"));
  ring.prepare("WRITE",
               [&](io_uring_sqe& sqe, Token token) { prep::write(sqe, to.fd(), bytes.data(), 8, 0, token); });
  drill.expect(expected, ring.results());
  const std::string holds = std::string_view(content).size() == 8 ? content : "";
  drill.expect("the copy holds '" + holds + "'", "the copy holds '" + to.content() + "'");
}

void three_stages(Drill& drill) {
  drill.tell(
      "READ -> NOP -> WRITE: the NOP is where one would like to look at what was read. It sees nothing: what "
      "is");
  drill.tell("between two links is in the kernel. What it is good for is a CQE of its own.");
  copy(drill, "12345678", "READ 8, NOP 0, WRITE 8");
  drill.tell(
      "The file has become shorter. A short READ fails the link, so nothing wrong is written, and nothing at "
      "all.");
  copy(drill, "12345", "READ 5, NOP -ECANCELED, WRITE -ECANCELED");
}

/// RECV with a deadline, upon which `during` happens while it waits: its two results.
template <class During>
std::vector<int> receive_by(const Pair& pair, std::chrono::microseconds deadline, During during) {
  DrillRing ring;
  std::array<char, 8> bytes{};
  const __kernel_timespec time{.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds(deadline).count()};
  io_uring_sqe& recv = ring.prepare("RECV", [&](io_uring_sqe& sqe, Token token) {
    prep::recv(sqe, pair.server.get(), bytes.data(), bytes.size(), 0, token);
  });
  prep::link(recv);
  ring.prepare("LINK_TIMEOUT",
               [&](io_uring_sqe& sqe, Token token) { prep::link_timeout(sqe, &time, 0, token); });
  ring.submit();
  during();
  return ring.take(2);
}

std::string both(const std::vector<int>& results) {
  return "RECV " + result_text(results[0]) + ", LINK_TIMEOUT " + result_text(results[1]);
}

void link_timeout(Drill& drill) {
  using namespace std::chrono_literals;
  drill.tell(
      "RECV with a LINK_TIMEOUT behind it: always two CQEs, and one of them is an error even when all is "
      "well.");
  drill.tell("1. The client is silent: it fires.");
  drill.expect("RECV -ECANCELED, LINK_TIMEOUT -ETIME", both(receive_by(Pair(), 20ms, [] {})));
  drill.tell("2. The client has spoken: it does not fire.");
  const Pair quick;
  quick.send("abc");
  drill.expect("RECV 3, LINK_TIMEOUT -ECANCELED", both(receive_by(quick, 10s, [] {})));
  drill.tell(
      "3. The client speaks when the time is up, twenty times. Either may win; RECV alone says whether bytes "
      "came.");
  int received = 0;
  bool sane = true;
  for (int i = 0; i < 20; ++i) {
    const Pair late;
    const std::vector<int> results = receive_by(late, 1ms, [&] {
      const auto then = std::chrono::steady_clock::now() + 900us + i * 10us;
      while (std::chrono::steady_clock::now() < then) {
      }
      late.send("abc");
    });
    const int timer = results[1];
    const bool in_time = results[0] == 3;
    received += in_time ? 1 : 0;
    // When RECV is completing as the timer fires, the timer finds nothing to cancel: ENOENT, or EALREADY.
    const bool fits = in_time ? timer == -ECANCELED || timer == -ENOENT || timer == -EALREADY
                              : results[0] == -ECANCELED && timer == -ETIME;
    if (!fits) drill.tell(both(results).c_str());
    sane = sane && fits;
  }
  drill.judge(
      "each time one of the two, and never both or neither",
      std::to_string(received) + " times RECV 3, " + std::to_string(20 - received) + " times RECV -ECANCELED",
      sane);
}

// ---------------------------------------------------------------------------------------------------------------

/// What a kernel must have for a drill to mean anything: an IORING_FEAT_*, and in words what happens without it.
struct Need {
  std::uint32_t feature;
  const char* without;
};
constexpr Need nothing{0, ""};
constexpr Need late_files{IORING_FEAT_LINKED_FILE,
                          "before 5.17 the kernel looks a file up when it takes the SQE, and a bad one "
                          "breaks the chain before it begins"};
constexpr Need skips{IORING_FEAT_CQE_SKIP, "CQE_SKIP_SUCCESS came with 5.17"};
constexpr Need slots{IORING_FEAT_CQE_SKIP,
                     "CLOSE of a slot came with 5.15, and this kernel says nothing that is newer than 5.14"};

struct Entry {
  const char* name;
  void (*run)(Drill&);
  Need need;
};

constexpr Entry drills[] = {
    {"middle-fails", middle_fails, late_files},
    {"prep-error", prep_error, nothing},
    {"all-but-first", all_but_first, late_files},
    {"boundary", boundary, late_files},
    {"no-rollback", no_rollback, late_files},
    {"silent-chain", silent_chain, skips},
    {"guessed-fd", guessed_fd, late_files},
    {"short-recv", short_recv, nothing},
    {"short-recv-waitall", short_recv_waitall, nothing},
    {"cancelled-close", cancelled_close, slots},
    {"hardlinked-close", hardlinked_close, slots},
    {"kept-slot", kept_slot, slots},
    {"three-stages", three_stages, nothing},
    {"link-timeout", link_timeout, nothing},
};

}  // namespace

int run_drill(const std::string& name) {
  if (name == "list") {
    for (const Entry& entry : drills) std::printf("%s\n", entry.name);
    return common::exit_clean;
  }
  const std::uint32_t features = DrillRing().ring().features();
  bool found = false;
  bool ok = true;
  for (const Entry& entry : drills) {
    if (name != "all" && name != entry.name) continue;
    found = true;
    Drill drill(entry.name);
    if ((features & entry.need.feature) != entry.need.feature) {
      drill.skip(entry.need.without);
      continue;
    }
    entry.run(drill);
    ok = ok && drill.ok();
  }
  if (!found) throw common::StartError(common::exit_usage, "no drill is called " + name + "; --drill list");
  return ok ? common::exit_clean : common::exit_failed;
}

}  // namespace linked

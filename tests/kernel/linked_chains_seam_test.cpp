// The server of chains on a kernel that has bad luck in store for it: failures that no client can bring about, at each link
// of a chain (seam.hpp says how). An SQE is changed before the kernel sees it, so what follows is the kernel's own doing:
// who is cancelled, and who is silent.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "servers/common/listener.hpp"
#include "servers/m4_linked/chain_server.hpp"
#include "tests/kernel/seam.hpp"
#include "tests/support/client.hpp"
#include "tests/support/shell.hpp"
#include "uring/direct_files.hpp"

namespace {

using namespace std::chrono_literals;
using linked::ChainServer;
using linked::Step;
using linked::Work;
using tests::kernel::eventually;
using tests::kernel::Outcome;
using tests::kernel::Seam;

struct Way {
  bool linked = true;
  bool skip = false;
  // What servers/common_ring/slots_let_go.hpp finds out. Where closed slots are kept, chains have a SHUTDOWN, and driven
  // ones descriptors; both must be right on every kernel.
  bool slots_let_go = true;

  bool in_slots() const { return linked || slots_let_go; }
};
constexpr Way ways[] = {{true, false},        {true, true},        {false, false},
                        {true, false, false}, {true, true, false}, {false, false, false}};

struct Setup {
  Way way{};
  std::uint32_t chains = 2;
  std::string file{};
};

/// A kernel in front of the seam's.
using Wrap = std::function<uring::Kernel(uring::Kernel)>;

/// A ChainServer on a Seam, for messages of five bytes.
class Server : public tests::kernel::ServerThread {
 public:
  Server(Seam& seam, Setup setup, Wrap wrap = {})
      : ServerThread(seam), setup_(std::move(setup)), wrap_(std::move(wrap)) {
    start([this] { return serve(); });
  }
  ~Server() { stop_at_last(); }

 private:
  Outcome serve() {
    Outcome outcome;
    std::optional<common::Listener> listener(common::listen_tcp("127.0.0.1", 0, /*nonblocking=*/false));
    std::optional<linked::ServedFile> file;
    if (!setup_.file.empty()) file.emplace(setup_.file);
    const uring::Kernel kernel = wrap_ ? wrap_(seam().kernel()) : seam().kernel();
    std::optional<uring::Ring> ring(
        std::in_place, uring::RingOptions{.entries = ChainServer::sq_entries_for(setup_.chains)}, kernel);
    if (uring::DirectFiles().register_with(*ring, setup_.chains) < 0) throw std::runtime_error("no table");
    uring::Loop loop(*ring);
    const Work work{.linked = setup_.way.linked,
                    .skip_success = setup_.way.skip,
                    .listener = listener->fd(),
                    .file = file ? file->fd() : -1,
                    .length = file ? file->length() : 5,
                    .patience = {},
                    .in_slots = setup_.way.in_slots(),
                    .slots_let_go = setup_.way.slots_let_go};
    ChainServer server(loop, *listener, signals(), file ? &*file : nullptr, work, setup_.chains, 0);
    listens(listener->name(), ring->fd());
    outcome.result = server.run();
    outcome.counters = server.counters();
    outcome.leaks = server.count_leaks();
    listener.reset();
    ring.reset();
    // After a failure the kernel cancels what was in flight, but a moment later.
    if (outcome.result < 0) std::this_thread::sleep_for(200ms);
    return outcome;
  }

  Setup setup_;
  Wrap wrap_;
};

bool does(const io_uring_sqe& sqe, Step step) {
  return uring::Token{sqe.user_data}.kind() == static_cast<std::uint8_t>(step);
}

/// Makes it a NOP that fails with `result`, in its place in the chain (IORING_NOP_INJECT_RESULT, 6.10).
void fail(io_uring_sqe& sqe, int result) {
  const std::uint8_t flags = sqe.flags & static_cast<std::uint8_t>(~IOSQE_FIXED_FILE);
  uring::prep::fill(sqe, IORING_OP_NOP, -1, 0, static_cast<std::uint32_t>(result), 0,
                    uring::Token{sqe.user_data});
  sqe.rw_flags = 1;
  sqe.flags = flags;
}

/// The first `times` SQEs that do `step` fail with `result`.
Seam::Rule failing(Step step, int result, int times) {
  return [=, left = times](io_uring_sqe& sqe) mutable {
    if (left > 0 && does(sqe, step)) {
      --left;
      fail(sqe, result);
    }
    return false;
  };
}

std::string answer(const Server& server, std::string_view bytes = "hello") {
  tests::Client client(server.where());
  client.send_all(bytes);
  return client.receive_to_end();
}

}  // namespace

#define SKIP_WITHOUT_INJECTION() \
  SKIP_WITHOUT_SEAM();           \
  SKIP_UNLESS(tests::kernel::linux_at_least(6, 10), "IORING_NOP_INJECT_RESULT needs Linux 6.10")

TEST_CASE("chains: no file for a new connection: they rest, do not spin, and accept again") {
  SKIP_WITHOUT_INJECTION();
  for (const Way& way : ways) {
    for (const int error : {-ENFILE, -EMFILE, -ENOMEM, -EPERM}) {
      CAPTURE(error);
      Seam seam;
      std::atomic<int> accepts{0};
      seam.rule([&](io_uring_sqe& sqe) {
        if (does(sqe, Step::accept) && ++accepts <= 4) fail(sqe, error);
        return false;
      });
      Server server(seam, {.way = way, .chains = 2});
      CHECK(answer(server) == "hello");
      CHECK(accepts <= 12);
      const Outcome outcome = server.stop();
      Server::check_clean(outcome);
      CHECK(outcome.counters.accepted == 1);
    }
  }
}

TEST_CASE(
    "chains: a connection that was aborted before it was accepted is nobody's, and its chain is queued "
    "again") {
  SKIP_WITHOUT_INJECTION();
  for (const Way& way : ways) {
    Seam seam;
    seam.rule(failing(Step::accept, -ECONNABORTED, 6));
    Server server(seam, {.way = way});
    CHECK(answer(server) == "hello");
    server.check_clean_end();
  }
}

TEST_CASE("chains: a broken listener ends the server, with nothing left behind") {
  SKIP_WITHOUT_INJECTION();
  for (const Way& way : ways) {
    Seam seam;
    seam.rule(failing(Step::accept, -EBADF, 1));
    Server server(seam, {.way = way});
    const Outcome outcome = server.wait();
    CHECK(!outcome.by_force);
    CHECK(outcome.result == -EBADF);
    CHECK(outcome.leaks == 0);
  }
}

TEST_CASE("chains: ACCEPTs that survive the cancellation of all are called back soon, not after the grace") {
  SKIP_WITHOUT_INJECTION();
  for (const Way& way : ways) {
    CAPTURE(way.linked);
    CAPTURE(way.skip);
    Seam seam;
    seam.rule(failing(Step::stop_listening, 0, 1));
    Server server(seam, {.way = way});
    CHECK(answer(server) == "hello");
    const auto start = std::chrono::steady_clock::now();
    server.check_clean_end();
    CHECK(std::chrono::steady_clock::now() - start < 4s);  // the grace is five
  }
}

TEST_CASE("chains: whichever step fails, however often, the slot is closed and the next client is served") {
  SKIP_WITHOUT_INJECTION();
  for (const Way& way : ways) {
    for (const Step step : {Step::fetch, Step::send, Step::close, Step::shutdown}) {
      if (step == Step::shutdown && !(way.in_slots() && !way.slots_let_go)) continue;
      if (step == Step::close && !way.in_slots()) continue;  // the next test
      CAPTURE(way.linked);
      CAPTURE(way.skip);
      CAPTURE(way.slots_let_go);
      CAPTURE(static_cast<int>(step));
      Seam seam;
      // One in three: also the CLOSE of a repair, which has the same name. Chains are two, clients nine.
      std::atomic<unsigned> seen{0};
      seam.rule([&](io_uring_sqe& sqe) {
        if (does(sqe, step) && seen++ % 3 == 0) fail(sqe, -EIO);
        return false;
      });
      Server server(seam, {.way = way, .chains = 2});
      const auto is_served = [&] {
        const std::string bytes = answer(server);
        CHECK((bytes == "hello" || (bytes.empty() && step != Step::close && step != Step::shutdown)));
        return bytes == "hello";
      };
      for (int i = 0; i < 9; ++i) is_served();
      seam.rule({});
      // The two chains that wait may have been spoiled before.
      int failed = 0;
      for (int i = 0; i < 6; ++i) failed += is_served() ? 0 : 1;
      CHECK(failed <= 2);
      const Outcome outcome = server.stop();
      CHECK(!outcome.by_force);
      CHECK(outcome.result == 0);
      CHECK(outcome.counters.accepted == 15);
      if (step != Step::close) CHECK(outcome.leaks == 0);  // else it was ours, and the server has noticed
    }
  }
}

TEST_CASE(
    "chains: a descriptor whose close says that it failed is gone all the same, and is not closed again") {
  SKIP_WITHOUT_SEAM();
  Seam seam;
  seam.rule([](const io_uring_sqe& sqe) { return does(sqe, Step::close); });
  Server server(seam, {.way = {.linked = false, .slots_let_go = false}, .chains = 1});
  for (unsigned client = 0; client < 3; ++client) {
    tests::Client one(server.where());
    one.send_all("hello");
    const io_uring_sqe close = seam.held(client);
    CHECK(::close(close.fd) == 0);
    CHECK(one.receive_to_end() == "hello");
    server.complete(close.user_data, -EIO);
  }
  CHECK(eventually([&] { return seam.seen(IORING_OP_ACCEPT) == 4; }));
  CHECK(seam.seen(IORING_OP_CLOSE) == 3);
  server.check_clean_end();
}

TEST_CASE(
    "chains: a file that is shorter when it is read than when it was promised: the client is reset, nothing "
    "leaks") {
  SKIP_WITHOUT_SEAM();
  const tests::TemporaryFolder folder;
  folder.write("file", "0123456789");
  for (const Way& way : ways) {
    CAPTURE(way.linked);
    CAPTURE(way.skip);
    Seam seam;
    std::atomic<int> reads{0};
    seam.rule([&](io_uring_sqe& sqe) {
      if (does(sqe, Step::fetch) && ++reads <= 4) sqe.off = 3;  // as if three bytes were gone
      return false;
    });
    Server server(seam, {.way = way, .chains = 2, .file = (folder.path() / "file").string()});
    unsigned clients = 0;
    for (unsigned resets = 0; resets < 4 && clients < 100; ++clients) {
      std::optional<tests::Client> client;
      try {
        client.emplace(server.where());
      } catch (const std::system_error& error) {  // the reset was here before connect(2) had returned
        CHECK(error.code().value() == ECONNRESET);
        ++resets;
        continue;
      }
      const std::string bytes = client->receive_to_end();
      resets += client->end() == tests::End::reset ? 1U : 0U;
      CHECK(bytes == (client->end() == tests::End::fin ? "0123456789" : ""));
    }
    CHECK(reads >= 4);
    const Outcome outcome = server.stop();
    Server::check_clean(outcome);
    CHECK(outcome.counters.errors == 4);
    CHECK(outcome.counters.requests == clients - 4);
  }
}

namespace {

/// Takes, once, two SQEs less than it is offered: as if there had been no memory for them.
struct ShortOfMemory {
  uring::Kernel below{};
  std::atomic<bool> once{true};

  uring::Kernel kernel(uring::Kernel real) {
    below = real;
    return {[](void* self, unsigned entries, io_uring_params* params) {
              const uring::Kernel& kernel = static_cast<ShortOfMemory*>(self)->below;
              return kernel.setup(kernel.self, entries, params);
            },
            [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const uring::abi::getevents_arg* argument) {
              auto& me = *static_cast<ShortOfMemory*>(self);
              if (to_submit > 4 && me.once.exchange(false)) {
                to_submit -= 2;  // and like the kernel it then does not wait
                min_complete = 0;
                flags &= IORING_ENTER_REGISTERED_RING;
                argument = nullptr;
              }
              return me.below.enter(me.below.self, fd, to_submit, min_complete, flags, argument);
            },
            [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
              const uring::Kernel& kernel = static_cast<ShortOfMemory*>(self)->below;
              return kernel.register_(kernel.self, fd, opcode, argument, count);
            },
            [](void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
              const uring::Kernel& kernel = static_cast<ShortOfMemory*>(self)->below;
              return kernel.map(kernel.self, fd, bytes, offset, address);
            },
            this};
  }
};

}  // namespace

TEST_CASE("chains: if the kernel takes a part of a chain, the server says so and ends, and does not guess") {
  SKIP_WITHOUT_SEAM();
  for (const Way& way : ways) {
    CAPTURE(way.linked);
    Seam seam;
    ShortOfMemory memory;
    Server server(seam, {.way = way, .chains = 8}, [&](uring::Kernel real) { return memory.kernel(real); });
    if (way.linked) {
      const Outcome outcome = server.wait();
      CHECK(!outcome.by_force);
      CHECK(outcome.result == -EAGAIN);
    } else {
      CHECK(answer(server) == "hello");  // single steps have nothing to lose
      server.check_clean_end();
    }
  }
}

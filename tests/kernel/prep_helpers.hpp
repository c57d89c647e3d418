// What the tests of the prep functions share: a ring whose completions can be asked for by token, descriptors to point
// it at, and a group of provided buffers, registered by hand.
#pragma once

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernel/kernel_support.hpp"
#include "tests/support/fact.hpp"
#include "tests/support/skip.hpp"
#include "uring/owned.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"
#include "uring/ring.hpp"

namespace prep_tests {

namespace abi = uring::abi;
namespace prep = uring::prep;
using tests::kernel::has_deferred;
using tests::kernel::this_kernel;
using tests::kernel::understands;
using uring::BufferGroup;
using uring::DirectSlot;
using uring::FileDescriptor;
using uring::Token;

/// The next SQE of a ring that is known to have one.
inline io_uring_sqe& free_sqe(uring::Ring& ring) {
  io_uring_sqe* const next = ring.next_sqe();
  if (next == nullptr) std::abort();
  return *next;
}

struct Completion {
  std::uint64_t token;
  int res;
  std::uint32_t flags;

  bool more() const { return (flags & IORING_CQE_F_MORE) != 0; }
  bool notification() const { return (flags & IORING_CQE_F_NOTIF) != 0; }
  bool has_buffer() const { return (flags & IORING_CQE_F_BUFFER) != 0; }
  std::uint16_t buffer() const { return static_cast<std::uint16_t>(flags >> IORING_CQE_BUFFER_SHIFT); }
};

/// Tokens are small numbers here. The last of them is taken: with it the destructor cancels what a test left in
/// flight, as the kernel would otherwise write into memory that is gone.
class TestRing {
 public:
  explicit TestRing(const uring::RingOptions& options = {.entries = 64}) : ring_(options) {}
  TestRing(const TestRing&) = delete;
  TestRing& operator=(const TestRing&) = delete;

  ~TestRing() {
    for (int round = 0; round < 100; ++round) {
      prep::async_cancel_any(sqe(), last);
      if (wait_for(last.bits).res <= 0) return;
    }
  }

  uring::Ring& ring() { return ring_; }

  io_uring_sqe& sqe() { return free_sqe(ring_); }

  /// Returns how many completions the kernel posted on the spot.
  unsigned submit() {
    REQUIRE(ring_.submit() >= 0);
    return ring_.ready();
  }

  /// The next completion with this token; submits first. Others wait for their turn.
  Completion of(std::uint64_t token) {
    const Completion completion = wait_for(token);
    CHECK_MESSAGE(completion.token == token, "no completion of ", token);
    return completion;
  }

  int result(std::uint64_t token) { return of(token).res; }

  /// The next completion, whatever it is of.
  Completion next() {
    for (int round = 0; round < 50 && stash_.empty(); ++round) collect(std::chrono::milliseconds(100));
    REQUIRE(!stash_.empty());
    const Completion first = stash_.front();
    stash_.pop_front();
    return first;
  }

  /// True if nothing more completes for a while.
  bool quiet(std::chrono::milliseconds time = std::chrono::milliseconds(30)) {
    if (stash_.empty()) collect(time);
    return stash_.empty();
  }

  /// Lets the kernel go on with what it could not do before, without waiting.
  void pump() {
    while (ring_.harvest([&](const io_uring_cqe& cqe) { keep(cqe); }) > 0) continue;
  }

  int register_(unsigned opcode, void* argument, unsigned count) {
    return uring::real_kernel.register_(nullptr, ring_.fd(), opcode, argument, count);
  }

  /// A file table of `count` empty slots (5.19).
  bool make_file_table(unsigned count) {
    io_uring_rsrc_register table{};
    table.nr = count;
    table.flags = IORING_RSRC_REGISTER_SPARSE;
    return register_(IORING_REGISTER_FILES2, &table, sizeof table) == 0;
  }

 private:
  static constexpr Token last{~0ull};

  void keep(const io_uring_cqe& cqe) { stash_.push_back({cqe.user_data, cqe.res, cqe.flags}); }

  void collect(std::chrono::milliseconds time) {
    ring_.submit_and_wait(1, time);
    pump();
  }

  Completion wait_for(std::uint64_t token) {
    for (int round = 0; round < 100; ++round) {
      const auto found =
          std::find_if(stash_.begin(), stash_.end(), [&](const Completion& c) { return c.token == token; });
      if (found != stash_.end()) {
        const Completion completion = *found;
        stash_.erase(found);
        return completion;
      }
      collect(std::chrono::milliseconds(50));
    }
    return {~token, -ETIME, 0};
  }

  uring::Ring ring_;
  std::deque<Completion> stash_;
};

/// True if what a worker thread has done waits for the ring's owner to make its CQE, as with DEFER_TASKRUN it does from
/// some kernel after 6.1 on. Only there a CQE that is present when submit returns shows that no worker was needed.
inline bool workers_leave_the_cqe_to_the_owner() {
  static const bool leave = [] {
    if (!has_deferred()) return false;
    TestRing ring;
    io_uring_sqe& sqe = ring.sqe();
    prep::nop(sqe, Token{1});
    prep::force_async(sqe);
    ring.submit();
    std::this_thread::sleep_for(tests::kernel::a_while);
    const bool waits = ring.ring().ready() == 0;
    ring.result(1);
    return waits;
  }();
  return leave;
}

/// Two connected descriptors.
struct Pair {
  FileDescriptor here;
  FileDescriptor there;
};

inline Pair unix_pair(int type = SOCK_STREAM) {
  int ends[2] = {-1, -1};
  REQUIRE(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

/// `here` reads what is written to `there`.
inline Pair pipe_pair() {
  int ends[2] = {-1, -1};
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

inline sockaddr_in loopback(std::uint16_t port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

inline sockaddr* generic(sockaddr_in& address) { return reinterpret_cast<sockaddr*>(&address); }

inline sockaddr_in local_name(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  REQUIRE(getsockname(fd, generic(address), &size) == 0);
  return address;
}

/// A socket bound to a free port of 127.0.0.1; streams listen.
inline FileDescriptor bound(int type) {
  FileDescriptor socket(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback();
  REQUIRE(::bind(socket.get(), generic(address), sizeof address) == 0);
  if (type == SOCK_STREAM) REQUIRE(::listen(socket.get(), 64) == 0);
  return socket;
}

inline FileDescriptor connected_to(const FileDescriptor& listener) {
  FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = local_name(listener.get());
  REQUIRE(::connect(socket.get(), generic(address), sizeof address) == 0);
  return socket;
}

inline Pair tcp_pair() {
  const FileDescriptor listener = bound(SOCK_STREAM);
  FileDescriptor client = connected_to(listener);
  return {std::move(client), FileDescriptor(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC))};
}

inline void write_all(const FileDescriptor& fd, const std::string& bytes) {
  REQUIRE(::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
}

/// What one read(2) gives; empty at the end.
inline std::string read_some(const FileDescriptor& fd, std::size_t most = 65536) {
  std::string bytes(most, '\0');
  const ssize_t size = ::read(fd.get(), bytes.data(), bytes.size());
  bytes.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return bytes;
}

/// True if read(2) would have to wait.
inline bool nothing_to_read(const FileDescriptor& fd) {
  char byte;
  return ::recv(fd.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

inline FileDescriptor file_with(const std::string& content) {
  FileDescriptor file(memfd_create("prep_test", MFD_CLOEXEC));
  REQUIRE(file.get() >= 0);
  write_all(file, content);
  return file;
}

/// An IORING_OP_TIMEOUT of 50 ms that the next SQE is linked to: what follows has been consumed by submit, and runs
/// later. The link is hard, because a timeout that expires has failed.
inline void run_the_next_one_later(TestRing& ring, Token token) {
  static constexpr __kernel_timespec delay{.tv_sec = 0, .tv_nsec = 50'000'000};
  io_uring_sqe& sqe = ring.sqe();
  prep::timeout(sqe, &delay, 0, 0, token);
  prep::hardlink(sqe);
}

/// Multishot accept came with IORING_OP_SOCKET (5.19), multishot receives with IORING_OP_SEND_ZC (6.0).
inline bool has_multishot_accept() { return this_kernel().has_opcode(IORING_OP_SOCKET); }
inline bool has_multishot_recv() { return this_kernel().has_opcode(IORING_OP_SEND_ZC); }

/// A group of provided buffers (5.19). The ring of the group is one page: io_uring_buf[], its tail the u16 at byte 14.
class Buffers {
 public:
  Buffers(TestRing& ring, BufferGroup group, unsigned count, std::uint32_t size)
      : ring_(ring), group_(group), size_(size), memory_(std::size_t{count} * size, '.') {
    page_ = mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(page_ != MAP_FAILED);
    abi::buf_reg registration{};
    registration.ring_addr = prep::address(page_);
    registration.ring_entries = 64;
    registration.bgid = group.id;
    registered_ = ring.register_(IORING_REGISTER_PBUF_RING, &registration, 1) == 0;
    for (unsigned id = 0; id < count; ++id) give(static_cast<std::uint16_t>(id));
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers() {
    abi::buf_reg registration{};
    registration.bgid = group_.id;
    if (registered_) ring_.register_(IORING_UNREGISTER_PBUF_RING, &registration, 1);
    munmap(page_, page_bytes);
  }

  bool registered() const { return registered_; }

  /// Hands buffer `id` to the kernel.
  void give(std::uint16_t id) {
    char* const slot = static_cast<char*>(page_) + std::size_t{tail_ % 64u} * sizeof(io_uring_buf);
    const std::uint64_t at = prep::address(memory_.data() + std::size_t{id} * size_);
    std::memcpy(slot, &at, sizeof at);
    std::memcpy(slot + 8, &size_, sizeof size_);
    std::memcpy(slot + 12, &id, sizeof id);
    ++tail_;
    auto* const tail =
        reinterpret_cast<std::uint16_t*>(static_cast<char*>(page_) + abi::buf_ring_tail_offset);
    std::atomic_ref(*tail).store(tail_, std::memory_order_release);
  }

  /// What the kernel put into the buffer that `completion` names.
  std::string text(const Completion& completion) const {
    REQUIRE(completion.has_buffer());
    const std::size_t size = completion.res > 0 ? static_cast<std::size_t>(completion.res) : 0;
    return memory_.substr(std::size_t{completion.buffer()} * size_, size);
  }

 private:
  static constexpr std::size_t page_bytes = 4096;

  TestRing& ring_;
  BufferGroup group_;
  std::uint32_t size_;
  std::string memory_;
  void* page_;
  std::uint16_t tail_ = 0;
  bool registered_ = false;
};

}  // namespace prep_tests

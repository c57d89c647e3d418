// Facts about what a file server is made of: reads with and without the page cache, registered buffers, direct
// descriptors, sends that wait, the end of a connection. No ring layer; docs/kernel-facts.md says what is
// commonly believed instead.

#include <doctest/doctest.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/kernel/prep_helpers.hpp"
#include "tests/kernel/raw_ring.hpp"
#include "tests/support/fact.hpp"
#include "uring/buffer_ring.hpp"

namespace {

using namespace tests::kernel;
using prep_tests::Pair;
using prep_tests::read_some;
using prep_tests::tcp_pair;
using prep_tests::unix_pair;
using prep_tests::write_all;
using uring::DirectSlot;
using uring::FileDescriptor;
using uring::Token;
namespace prep = uring::prep;

constexpr std::uint32_t deferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
constexpr std::size_t page = 4096;

// ---- What the tests need ------------------------------------------------------------------------------------

/// `size` bytes none of which looks like its neighbours, nor like those a page further.
std::string pattern(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i % 251);
  return bytes;
}

/// A file without a name, on the disk that the programs are built on: /tmp may be memory.
FileDescriptor disk_file(const std::string& content) {
  std::string name = BUILD_DIR "/kernel_facts.XXXXXX";
  FileDescriptor file(::mkostemp(name.data(), O_CLOEXEC));
  REQUIRE(file);
  ::unlink(name.c_str());
  write_all(file, content);
  REQUIRE(::fsync(file.get()) == 0);
  return file;
}

bool on_ext4(const FileDescriptor& file) {
  struct statfs system {};
  return ::fstatfs(file.get(), &system) == 0 && system.f_type == EXT4_SUPER_MAGIC;
}

/// The same file once more, opened with other flags.
FileDescriptor reopened(const FileDescriptor& file, int flags) {
  return FileDescriptor(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), flags | O_CLOEXEC));
}

/// How many pages of the file the page cache has.
std::size_t cached_pages(const FileDescriptor& file, std::size_t bytes) {
  void* const address = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), 0);
  REQUIRE(address != MAP_FAILED);
  const uring::Mapping mapping(address, bytes);
  std::vector<unsigned char> resident(bytes / page);
  REQUIRE(::mincore(address, bytes, resident.data()) == 0);
  return static_cast<std::size_t>(
      std::count_if(resident.begin(), resident.end(), [](unsigned char state) { return (state & 1) != 0; }));
}

/// Memory that begins on a page.
class Pages {
 public:
  explicit Pages(std::size_t bytes)
      : mapping_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), bytes) {
    REQUIRE(mapping_.data() != MAP_FAILED);
  }
  char* at(std::size_t offset) const { return reinterpret_cast<char*>(mapping_.data()) + offset; }
  std::string_view text(std::size_t offset, std::size_t size) const { return {at(offset), size}; }

 private:
  uring::Mapping mapping_;
};

int register_buffers(RawRing& ring, std::vector<iovec> buffers) {
  return ring.register_(IORING_REGISTER_BUFFERS, buffers.data(), static_cast<unsigned>(buffers.size()));
}

int register_files(RawRing& ring, std::vector<int> files) {
  return ring.register_(IORING_REGISTER_FILES, files.data(), static_cast<unsigned>(files.size()));
}

/// The result of the one operation that was prepared.
std::string done(RawRing& ring) {
  REQUIRE(ring.submit() == 1);
  return ring.results(1);
}

std::string read_slot(RawRing& ring, DirectSlot slot, char* to, std::uint32_t length) {
  io_uring_sqe& sqe = ring.prepare();
  prep::read(sqe, static_cast<int>(slot.index), to, length, 0, Token{1});
  prep::fixed_file(sqe);
  return done(ring);
}

/// Everything that arrives until the peer has finished.
std::string read_to_end(const FileDescriptor& fd) {
  std::string all;
  for (std::string some; !(some = read_some(fd, 1 << 18)).empty();) all += some;
  return all;
}

/// Fills a socket with what it takes without waiting; how much that was.
std::size_t fill(const FileDescriptor& fd) {
  const std::string bytes = pattern(64 << 10);
  std::size_t sent = 0;
  for (;;) {
    const ssize_t taken = ::send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (taken < 0) break;
    sent += static_cast<std::size_t>(taken);
  }
  CHECK(errno == EAGAIN);
  return sent;
}

void set_buffer(const FileDescriptor& fd, int option, int bytes) {
  REQUIRE(::setsockopt(fd.get(), SOL_SOCKET, option, &bytes, sizeof bytes) == 0);
}

/// Bytes that were sent on a TCP socket and not acknowledged.
int unacknowledged(const FileDescriptor& fd) {
  int bytes = 0;
  REQUIRE(::ioctl(fd.get(), SIOCOUTQ, &bytes) == 0);
  return bytes;
}

// ---- Files --------------------------------------------------------------------------------------------------

FACT("a read of what the page cache has is done within io_uring_enter; one of evicted pages is not") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const std::string content = pattern(1 << 20);
  const auto size = static_cast<std::uint32_t>(content.size());
  const FileDescriptor file = disk_file(content);
  SKIP_UNLESS(on_ext4(file), "seen on ext4; tmpfs, for one, reads on a worker thread");
  std::string bytes(content.size(), '\0');
  RawRing ring(4, deferred);  // what does not complete within enter is posted when we ask for it, not before

  prep::read(ring.prepare(), file.get(), bytes.data(), size, 0, Token{1});
  REQUIRE(ring.submit() == 1);
  CHECK(ring.results_now() == "1:1048576");
  CHECK(bytes == content);

  // The submission starts the readahead and returns. A disk that is fast enough has answered before the kernel looks
  // again, and the CQE is there as well: so once is enough, and a disk that always answers proves nothing.
  bool late = false;
  for (int attempt = 0; attempt < 20 && !late; ++attempt) {
    REQUIRE(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
    SKIP_UNLESS(cached_pages(file, content.size()) == 0, "the page cache keeps the file");
    bytes.assign(content.size(), '\0');
    prep::read(ring.prepare(), file.get(), bytes.data(), size, 0, Token{2});
    REQUIRE(ring.submit() == 1);
    late = ring.ready() == 0;
    CHECK(ring.results(1) == "2:1048576");
    CHECK(bytes == content);
  }
  SKIP_UNLESS(late, "this disk has always answered before the kernel looked again");
}

FACT("O_DIRECT wants offset, length and memory aligned, else EINVAL; the file's end is a short read") {
  SKIP_WITHOUT_IO_URING();
  const std::string content = pattern(2 * page + 100);
  const FileDescriptor file = disk_file(content);
  const FileDescriptor direct = reopened(file, O_RDONLY | O_DIRECT);
  SKIP_UNLESS(direct && on_ext4(file), "the file system has no O_DIRECT, or one of its own kind");
  const Pages memory(4 * page);
  RawRing ring(4);
  const auto read = [&](std::size_t to, std::uint32_t length, std::uint64_t offset) {
    prep::read(ring.prepare(), direct.get(), memory.at(to), length, offset, Token{1});
    return done(ring);
  };
  CHECK(read(0, page, page) == "1:4096");
  CHECK(memory.text(0, page) == std::string_view(content).substr(page, page));
  CHECK(read(0, page, 100) == "1:-EINVAL");
  CHECK(read(0, 100, 0) == "1:-EINVAL");
  CHECK(read(1, page, 0) == "1:-EINVAL");
  CHECK(read(0, 2 * page, page) == "1:4196");
  CHECK(memory.text(0, page + 100) == std::string_view(content).substr(page));
  CHECK(read(0, page, 2 * page) == "1:100");
  CHECK(read(0, page, 3 * page) == "1:0");
}

// ---- Registered buffers -------------------------------------------------------------------------------------

FACT("a registered buffer is named by index and address: both must fit, and the address says where") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = prep_tests::file_with("0123456789");
  const Pages memory(2 * page);
  RawRing ring(4);
  REQUIRE(register_buffers(ring, {{memory.at(0), page}, {memory.at(page), page}}) == 0);
  const auto read = [&](std::size_t to, std::uint16_t index) {
    prep::read_fixed(ring.prepare(), file.get(), memory.at(to), 10, 0, index, Token{1});
    return done(ring);
  };
  CHECK(read(page + 7, 1) == "1:10");
  CHECK(memory.text(page + 7, 10) == "0123456789");
  CHECK(read(page + 7, 0) == "1:-EFAULT");
  CHECK(read(page - 5, 0) == "1:-EFAULT");  // begins in buffer 0 and ends in buffer 1, its neighbour
  CHECK(read(page, 2) == "1:-EFAULT");
  CHECK(memory.text(0, page) == std::string(page, '\0'));
}

FACT("READ_FIXED copies from the page cache like any read: later writes do not reach the buffer") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = prep_tests::file_with(std::string(page, 'a'));
  const Pages memory(page);
  RawRing ring(4);
  REQUIRE(register_buffers(ring, {{memory.at(0), page}}) == 0);
  prep::read_fixed(ring.prepare(), file.get(), memory.at(0), page, 0, 0, Token{1});
  REQUIRE(done(ring) == "1:4096");
  REQUIRE(::pwrite(file.get(), "bbbb", 4, 0) == 4);
  CHECK(memory.text(0, page) == std::string(page, 'a'));
}

// ---- Direct descriptors -------------------------------------------------------------------------------------

FACT("there is no statx of a direct descriptor: AT_EMPTY_PATH with IOSQE_FIXED_FILE is EBADF") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = prep_tests::file_with("four");
  struct statx result {};
  RawRing ring(4);
  REQUIRE(register_files(ring, {file.get()}) == 0);
  std::array<char, 4> bytes{};
  REQUIRE(read_slot(ring, DirectSlot{0}, bytes.data(), 4) == "1:4");
  io_uring_sqe& sqe = ring.prepare();
  prep::statx(sqe, 0, "", AT_EMPTY_PATH, STATX_SIZE, &result, Token{1});
  prep::fixed_file(sqe);
  prep::nop(ring.prepare(), Token{2});
  CHECK(ring.submit() == 1);  // refused like an SQE that cannot be parsed: the batch stops behind it
  CHECK(ring.results(1) == "1:-EBADF");
  CHECK(done(ring) == "2:0");
  prep::statx(ring.prepare(), file.get(), "", AT_EMPTY_PATH, STATX_SIZE, &result, Token{1});
  CHECK(done(ring) == "1:0");
}

FACT("an open into a slot takes no O_CLOEXEC: EINVAL") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(opens_into_slots(), "opening into a slot needs Linux 5.15");
  RawRing ring(4);
  REQUIRE(register_files(ring, {-1}) == 0);
  const auto open = [&](std::uint64_t flags) {
    const open_how how{.flags = flags, .mode = 0, .resolve = 0};
    prep::openat2_direct(ring.prepare(), AT_FDCWD, "/proc/self/exe", &how, DirectSlot{0}, Token{1});
    return done(ring);
  };
  CHECK(open(O_RDONLY | O_CLOEXEC) == "1:-EINVAL");
  CHECK(open(O_RDONLY) == "1:0");
}

FACT("close_direct waits for nobody: a read in flight keeps the old file, later ones see the new") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(opens_into_slots(), "opening into a slot needs Linux 5.15");
  Pipe pipe;
  std::array<char, 4> early{};
  std::array<char, 4> late{};
  RawRing ring(4);
  REQUIRE(register_files(ring, {pipe.read_end.get()}) == 0);
  pipe.read_end.reset();  // the table holds it alone
  io_uring_sqe& sqe = ring.prepare();
  prep::read(sqe, 0, early.data(), 4, uring::current_position, Token{7});
  prep::fixed_file(sqe);
  REQUIRE(ring.submit() == 1);
  REQUIRE(ring.results_now().empty());

  prep::close_direct(ring.prepare(), DirectSlot{0}, Token{2});
  CHECK(done(ring) == "2:0");
  CHECK(read_slot(ring, DirectSlot{0}, late.data(), 4) == "1:-EBADF");
  prep::openat_direct(ring.prepare(), AT_FDCWD, "/proc/self/exe", O_RDONLY, 0, DirectSlot{0}, Token{3});
  CHECK(done(ring) == "3:0");
  CHECK(read_slot(ring, DirectSlot{0}, late.data(), 4) == "1:4");
  CHECK(std::string_view(late.data(), 4) == "\177ELF");

  pipe.put(4);
  CHECK(ring.results(1) == "7:4");
  CHECK(std::string_view(early.data(), 4) == "xxxx");
}

// ---- Sends that wait ----------------------------------------------------------------------------------------

/// Sends more than the socket takes, cancels, and compares what the CQE says with what the peer got.
void check_that_nothing_is_lost(const Pair& pair) {
  const std::string large = pattern(1 << 20);
  set_buffer(pair.here, SO_SNDBUF, 64 << 10);
  RawRing ring(4);
  prep::send(ring.prepare(), pair.here.get(), large.data(), 1 << 20, MSG_WAITALL, Token{1});
  REQUIRE(ring.submit() == 1);
  REQUIRE(ring.results_now().empty());
  prep::async_cancel(ring.prepare(), Token{1}, Token{2});
  REQUIRE(ring.submit() == 1);
  const auto ended = sorted(ring.take(2));
  REQUIRE(ended.size() == 2);
  CHECK(ended[1].res == 0);
  REQUIRE(ended[0].res > 0);
  REQUIRE(ended[0].res < 1 << 20);
  REQUIRE(::shutdown(pair.here.get(), SHUT_WR) == 0);
  CHECK(read_to_end(pair.there) == large.substr(0, static_cast<std::size_t>(ended[0].res)));
}

FACT("cancelling a blocked send loses nothing: res is what went out, ECANCELED says nothing did") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SOCKET),
              "sends with MSG_WAITALL go on by themselves from Linux 5.19 on");
  check_that_nothing_is_lost(unix_pair());
  check_that_nothing_is_lost(tcp_pair());

  const Pair full = unix_pair();
  const std::size_t before = fill(full.here);
  RawRing ring(4);
  prep::send(ring.prepare(), full.here.get(), "late", 4, MSG_WAITALL, Token{1});
  REQUIRE(ring.submit() == 1);
  REQUIRE(ring.results_now().empty());
  prep::async_cancel(ring.prepare(), Token{1}, Token{2});
  REQUIRE(ring.submit() == 1);
  CHECK(text_of(sorted(ring.take(2))) == "1:-ECANCELED 2:0");
  REQUIRE(::shutdown(full.here.get(), SHUT_WR) == 0);
  CHECK(read_to_end(full.there).size() == before);
}

FACT("a sendmsg of many pieces with MSG_WAITALL has one CQE, when the socket has taken all of them") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SOCKET),
              "sends with MSG_WAITALL go on by themselves from Linux 5.19 on");
  const Pair pair = tcp_pair();
  set_buffer(pair.here, SO_SNDBUF, 64 << 10);
  const std::string all = pattern(1 << 20);
  std::string first = all.substr(0, 100), second = all.substr(100, 700'000), third = all.substr(700'100);
  std::array<iovec, 3> pieces{iovec{first.data(), first.size()}, iovec{second.data(), second.size()},
                              iovec{third.data(), third.size()}};
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = pieces.size();
  RawRing ring(4);
  prep::sendmsg(ring.prepare(), pair.here.get(), &message, MSG_WAITALL, Token{1});
  REQUIRE(ring.submit() == 1);
  CHECK(ring.results_now().empty());
  auto reader = std::async(std::launch::async, [&] { return read_to_end(pair.there); });
  CHECK(ring.results(1) == "1:1048576");
  CHECK(::shutdown(pair.here.get(), SHUT_WR) == 0);
  CHECK(reader.get() == all);
  CHECK(ring.results_now().empty());
}

FACT("POLLOUT of a full TCP socket waits until about a third of its send buffer is free") {
  SKIP_WITHOUT_IO_URING();
  const Pair pair = tcp_pair();
  set_buffer(pair.here, SO_SNDBUF, 512 << 10);
  set_buffer(pair.there, SO_RCVBUF, 16 << 10);
  fill(pair.here);
  const int full = unacknowledged(pair.here);
  RawRing ring(4);
  prep::poll_add(ring.prepare(), pair.here.get(), POLLOUT, Token{1});
  REQUIRE(ring.submit() == 1);
  std::string bytes(4096, '\0');
  std::string result;
  for (const auto deadline = Clock::now() + patience; result.empty() && Clock::now() < deadline;) {
    if (::recv(pair.there.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) < 0)
      std::this_thread::sleep_for(1ms);
    ring.get_events();
    result = ring.results_now();
  }
  // The rule counts the kernel's buffers and not the bytes in them: free >= used / 2.
  CHECK(unacknowledged(pair.here) < full / 4 * 3);
  CHECK(result == "1:" + std::to_string(POLLOUT));
}

// ---- Receiving, and the end ---------------------------------------------------------------------------------

FACT("with RECVSEND_POLL_FIRST a recv whose data is there completes too, though not in the submit") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  const Pair pair = tcp_pair();
  std::array<char, 8> bytes{};
  RawRing ring(4, deferred);
  write_all(pair.there, "fourmore");
  prep::recv(ring.prepare(), pair.here.get(), bytes.data(), 4, 0, Token{1});
  REQUIRE(ring.submit() == 1);
  CHECK(ring.results_now() == "1:4");
  io_uring_sqe& sqe = ring.prepare();
  prep::recv(sqe, pair.here.get(), bytes.data(), 4, 0, Token{2});
  sqe.ioprio = IORING_RECVSEND_POLL_FIRST;
  REQUIRE(ring.submit() == 1);
  CHECK(ring.results_now().empty());
  CHECK(ring.results(1) == "2:4");
  CHECK(std::string_view(bytes.data(), 4) == "more");
}

FACT("IORING_CQE_F_SOCK_NONEMPTY tells that a recv left something behind") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(IORING_OP_SOCKET), "IORING_CQE_F_SOCK_NONEMPTY needs Linux 5.19");
  const Pair pair = tcp_pair();
  std::array<char, 8> bytes{};
  RawRing ring(4);
  write_all(pair.there, "fourmore");
  std::string more;
  for (int i = 0; i < 2; ++i) {
    prep::recv(ring.prepare(), pair.here.get(), bytes.data(), 4, 0, Token{1});
    REQUIRE(ring.submit() == 1);
    for (const Completion& completion : ring.take(1)) {
      CHECK(completion.res == 4);
      more += (completion.flags & IORING_CQE_F_SOCK_NONEMPTY) != 0 ? "more " : "empty ";
    }
  }
  CHECK(more == "more empty ");
}

/// Receives until something else than bytes comes; how many bytes, and what.
std::pair<std::size_t, std::string> receive_all(const FileDescriptor& fd) {
  std::string bytes(64 << 10, '\0');
  RawRing ring(4);
  std::size_t got = 0;
  for (;;) {
    prep::recv(ring.prepare(), fd.get(), bytes.data(), 64 << 10, 0, Token{1});
    REQUIRE(ring.submit() == 1);
    const auto completions = ring.take(1);
    REQUIRE(completions.size() == 1);
    if (completions[0].res <= 0) return {got, text_of(completions)};
    got += static_cast<std::size_t>(completions[0].res);
  }
}

/// A client that has sent a request and does not read, and a server with more to answer than the way holds.
struct Exchange {
  Pair pair = tcp_pair();  // here: the client; there: the server
  std::size_t answered = 0;

  explicit Exchange(bool server_reads_first) {
    set_buffer(pair.here, SO_RCVBUF, 64 << 10);
    set_buffer(pair.there, SO_SNDBUF, 256 << 10);
    const timeval limit{.tv_sec = patience / 1s, .tv_usec = 0};
    REQUIRE(::setsockopt(pair.there.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    write_all(pair.here, "request");
    if (server_reads_first) CHECK(read_some(pair.there) == "request");
    answered = fill(pair.there);
  }
};

FACT("close of a socket with unread input throws away what it has not sent; a lingering one does not") {
  SKIP_WITHOUT_IO_URING();
  Exchange unread(false);
  unread.pair.there.reset();
  const auto [some, reset] = receive_all(unread.pair.here);
  CHECK(some > 0);  // what had reached the client's socket before the RST
  CHECK(some < unread.answered);
  CHECK(reset == "1:-ECONNRESET");

  Exchange late(true);  // nothing unread at the close, but the client goes on sending
  REQUIRE(::shutdown(late.pair.there.get(), SHUT_WR) == 0);
  late.pair.there.reset();
  write_all(late.pair.here, "more");
  const auto [part, reset_again] = receive_all(late.pair.here);
  CHECK(part < late.answered);
  CHECK(reset_again == "1:-ECONNRESET");

  Exchange lingering(false);
  REQUIRE(::shutdown(lingering.pair.there.get(), SHUT_WR) == 0);
  auto server = std::async(std::launch::async, [&] {
    const std::string discarded = read_to_end(lingering.pair.there);
    lingering.pair.there.reset();
    return discarded;
  });
  write_all(lingering.pair.here, ", and more");
  const auto [all, end] = receive_all(lingering.pair.here);
  CHECK(all == lingering.answered);
  CHECK(end == "1:0");
  CHECK(::shutdown(lingering.pair.here.get(), SHUT_WR) == 0);
  CHECK(server.get() == "request, and more");
}

FACT("a multishot receive on a Unix socket can miss a FIN behind 32 buffers; a poll for RDHUP cannot") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(prep_tests::has_multishot_recv(), "multishot receive needs Linux 6.0");
  constexpr uring::BufferGroup group{1};
  constexpr std::size_t count = 40, size = 64;
  uring::BufferRing buffers(64, size);
  uring::Ring ring({.entries = 8, .cq_entries = 256});
  REQUIRE(buffers.register_with(ring, group) == 0);
  int ends[2] = {-1, -1};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  const uring::FileDescriptor here(ends[0]);
  const uring::FileDescriptor there(ends[1]);
  const std::string bytes(count * size, 'x');
  REQUIRE(::send(there.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  REQUIRE(::shutdown(there.get(), SHUT_WR) == 0);

  prep::recv_multishot(next(ring), here.get(), group, Token{1});
  prep::poll_add(next(ring), here.get(), POLLRDHUP, Token{2});
  std::size_t received = 0;
  bool ended = false;
  bool hung_up = false;
  for (int turn = 0; turn < 10 && !(ended && hung_up); ++turn) {
    ring.submit_and_wait(1, a_while);
    ring.harvest([&](const io_uring_cqe& cqe) {
      if (cqe.user_data == 2) hung_up = (cqe.res & POLLRDHUP) != 0;
      if (cqe.user_data == 1 && cqe.res > 0) received += static_cast<std::size_t>(cqe.res);
      if (cqe.user_data == 1 && cqe.res == 0) ended = true;
    });
  }
  CHECK(received == bytes.size());
  CHECK(hung_up);
  if (ended) return tests::differs("it sees the FIN behind 40 buffers");
  // It still waits for an event that has been. Given up, and asked anew, the socket says it.
  prep::async_cancel(next(ring), Token{1}, Token{3});
  prep::recv_select(next(ring), here.get(), group, 0, 0, Token{4});
  CHECK(results(ring, 3).find("4:0") != std::string::npos);
}

/// What a receive brings of `! behind`, where `!` is urgent, or of `before ! behind`, when another task work is announced
/// while it runs. `late`: what came only when it had been cancelled and asked anew.
struct Urgent {
  std::string at_once, late;
  bool promised = false;  // IORING_CQE_F_SOCK_NONEMPTY in its last CQE

  Urgent(std::uint32_t flags, const std::string& before, bool multishot = true) {
    uring::BufferRing buffers(8, 64);
    uring::Ring ring({.entries = 16, .flags = flags});
    REQUIRE(buffers.register_with(ring, group) == 0);
    const Pair tcp = tcp_pair();
    const Pair pipe = prep_tests::pipe_pair();
    const auto size = static_cast<std::uint32_t>(::fcntl(pipe.there.get(), F_SETPIPE_SZ, page));
    const std::string full(size, 'x');
    std::string drained(size, '\0');
    io_uring_sqe& receive = next(ring);
    prep::recv_select(receive, tcp.here.get(), group, 0, 0, Token{1});
    if (multishot) receive.ioprio = IORING_RECV_MULTISHOT;
    prep::read(next(ring), pipe.here.get(), drained.data(), size, uring::current_position, Token{2});
    REQUIRE(ring.submit() == 2);  // Nothing is there: both wait.

    // All in one system call, so both run one after the other, as task work, when it returns. The read makes room in
    // the pipe; the poll for that is one more task work; and while that is announced, the thread has a signal pending.
    prep::write(next(ring), pipe.there.get(), full.data(), size, uring::current_position, Token{3});
    prep::poll_add(next(ring), pipe.there.get(), POLLOUT, Token{4});
    if (!before.empty()) prep::send(next(ring), tcp.there.get(), before.data(), 6, 0, Token{5});
    prep::send(next(ring), tcp.there.get(), "!", 1, MSG_OOB, Token{6});
    prep::send(next(ring), tcp.there.get(), "behind", 6, 0, Token{7});
    REQUIRE(ring.submit() == (before.empty() ? 4 : 5));
    const auto look = [&](std::string& text) {
      for (int taken = 1; taken > 0;) {  // until nothing more comes for a while
        ring.submit_and_wait(1, 4 * a_while);
        taken = ring.harvest([&](const io_uring_cqe& cqe) {
          if ((cqe.flags & IORING_CQE_F_BUFFER) == 0) return;
          if (&text == &at_once) promised = (cqe.flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
          const std::uint16_t id = buffers.take(cqe.flags);
          const void* const at = buffers.data(id);
          text.append(static_cast<const char*>(at), static_cast<std::size_t>(cqe.res));
        });
      }
    };
    look(at_once);
    prep::async_cancel(next(ring), Token{1}, Token{8});
    prep::recv_multishot(next(ring), tcp.here.get(), group, Token{9});
    look(late);
  }

 private:
  static constexpr uring::BufferGroup group{1};
};

FACT("a multishot receive can go deaf at an urgent byte, where task work is announced by a signal") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_deferred(), "DEFER_TASKRUN needs Linux 6.1");
  unsigned deaf = 0;
  for (const std::string before : {"before", ""}) {
    CAPTURE(before);
    const Urgent announced_otherwise(deferred, before);
    CHECK(announced_otherwise.at_once == before + "behind");
    for (const std::uint32_t flags : {0U, std::uint32_t{IORING_SETUP_COOP_TASKRUN}}) {
      CAPTURE(flags);
      const Urgent by_signal(flags, before);
      CHECK(by_signal.at_once + by_signal.late == before + "behind");
      if (by_signal.late.empty()) continue;
      ++deaf;
      CHECK(by_signal.at_once == before);
      CHECK(by_signal.promised == !before.empty());
      if (before.empty()) CHECK(Urgent(flags, before, /*multishot=*/false).at_once == "behind");
    }
  }
  if (deaf == 0) tests::differs("it was not seen to");
}

FACT("a poll for POLLOUT ends at once when the peer has half-closed; a multishot one says so once") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_multishot_poll(), "multishot polls are of Linux 5.13");
  int ends[2] = {-1, -1};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  const uring::FileDescriptor here(ends[0]);
  const uring::FileDescriptor there(ends[1]);
  const std::string much(4096, 'x');
  std::size_t queued = 0;
  for (::ssize_t n = 0; (n = ::send(here.get(), much.data(), much.size(), MSG_DONTWAIT)) > 0;) {
    queued += static_cast<std::size_t>(n);
  }
  REQUIRE(::shutdown(there.get(), SHUT_WR) == 0);
  uring::Ring ring({.entries = 4});
  std::string bytes(queued, ' ');
  const auto make_room = [&] {
    return ::recv(there.get(), bytes.data(), bytes.size(), MSG_WAITALL) == static_cast<::ssize_t>(queued);
  };
  prep::poll_add(next(ring), here.get(), POLLOUT, Token{1});
  if (ring.submit_and_wait(1, 4 * a_while).ready == 0) {
    REQUIRE(make_room());
    CHECK(results(ring, 1) == "1:" + std::to_string(POLLOUT));
    return tests::differs("it waits for room, as it was asked to");
  }
  CHECK(results(ring, 1) == "1:" + std::to_string(POLLRDHUP));

  prep::poll_multishot(next(ring), here.get(), POLLOUT, Token{2});
  CHECK(results(ring, 1) == "2:" + std::to_string(POLLRDHUP));
  CHECK(ring.submit_and_wait(1, a_while).ready == 0);  // once, and no more
  REQUIRE(make_room());
  bool writable = false;
  for (int turn = 0; turn < 10 && !writable; ++turn) {
    ring.submit_and_wait(1, a_while);
    ring.harvest([&](const io_uring_cqe& cqe) { writable = (cqe.res & POLLOUT) != 0; });
  }
  CHECK(writable);
}

namespace {

/// In a process of its own, which has no workers yet: how many there are when `count` sends wait for peers that do not
/// read, and have finished sending, or not.
int workers_of_waiting_sends(unsigned count, bool finished) {
  const ::pid_t pid = ::fork();
  if (pid == 0) {
    uring::Ring ring({.entries = 16});
    std::vector<uring::FileDescriptor> sockets;
    const std::string much(1 << 20, 'x');
    for (unsigned i = 0; i < count; ++i) {
      int ends[2] = {-1, -1};
      if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) ::_exit(255);
      sockets.emplace_back(ends[0]);
      sockets.emplace_back(ends[1]);
      if (finished) ::shutdown(ends[1], SHUT_WR);
      prep::send(next(ring), ends[0], much.data(), static_cast<std::uint32_t>(much.size()), MSG_WAITALL,
                 Token{i});
    }
    int workers = 0;
    for (int turn = 0; turn < 20; ++turn) {  // task work included
      ring.submit_and_wait(count, std::chrono::milliseconds(10));
      workers = workers_here();
    }
    ::_exit(workers);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

}  // namespace

FACT("a send that waits for a peer that has half-closed takes a worker thread; others take none") {
  SKIP_WITHOUT_IO_URING();
  CHECK(workers_of_waiting_sends(5, false) == 0);
  const int of_half_closed = workers_of_waiting_sends(5, true);
  if (of_half_closed == 0) return tests::differs("none takes one");
  CHECK(of_half_closed == 5);
}

}  // namespace

// SQEs for files on the running kernel: what prep_files.hpp says, seen to be so.

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "tests/kernel/prep_helpers.hpp"
#include "tests/support/fact.hpp"

using namespace prep_tests;

namespace {

/// A directory that is gone at the end of the test.
class Directory {
 public:
  Directory() {
    REQUIRE(mkdtemp(name_.data()) != nullptr);
    fd_ = FileDescriptor(::open(name_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    make("file", "content");
    REQUIRE(symlinkat("file", fd(), "inside") == 0);
    REQUIRE(symlinkat("/etc", fd(), "outside") == 0);
    REQUIRE(mkfifoat(fd(), "fifo", 0600) == 0);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    for (const char* entry : {"file", "inside", "outside", "fifo", "new"}) unlinkat(fd(), entry, 0);
    rmdir(name_.c_str());
  }

  int fd() const { return fd_.get(); }

 private:
  void make(const char* name, const std::string& content) {
    write_all(FileDescriptor(::openat(fd(), name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), content);
  }

  std::string name_ = "/tmp/prep_files_test.XXXXXX";
  FileDescriptor fd_;
};

/// Registers `memory` as buffer 0.
bool register_buffer(TestRing& ring, void* memory, std::size_t size) {
  iovec buffer{memory, size};
  return ring.register_(IORING_REGISTER_BUFFERS, &buffer, 1) == 0;
}

bool register_files(TestRing& ring, std::vector<int> files) {
  return ring.register_(IORING_REGISTER_FILES, files.data(), static_cast<unsigned>(files.size())) == 0;
}

// Reads four bytes at offset 0 of a direct descriptor.
std::string read_direct(TestRing& ring, DirectSlot slot) {
  std::string bytes(4, '?');
  io_uring_sqe& sqe = ring.sqe();
  prep::read(sqe, static_cast<int>(slot.index), bytes.data(), 4, 0, Token{77});
  prep::fixed_file(sqe);
  const int result = ring.result(77);
  return result < 0 ? "error " + std::to_string(-result) : bytes.substr(0, static_cast<std::size_t>(result));
}

}  // namespace

TEST_CASE("a nop completes with 0, and its token comes back whatever its bits are") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  for (const std::uint64_t bits :
       {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0} - 1, std::uint64_t{1} << 63}) {
    prep::nop(ring.sqe(), Token{bits});
    CHECK(ring.result(bits) == 0);
  }
}

TEST_CASE(
    "reads and writes: res is what pread(2) and pwrite(2) return, short at the end of the file and 0 behind "
    "it") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor file = file_with("0123456789");
  char buffer[16] = {};
  prep::write(ring.sqe(), file.get(), "abc", 3, 4, Token{1});
  CHECK(ring.result(1) == 3);
  prep::read(ring.sqe(), file.get(), buffer, 5, 2, Token{2});
  CHECK(ring.result(2) == 5);
  CHECK(std::string(buffer) == "23abc");
  prep::read(ring.sqe(), file.get(), buffer, 16, 7, Token{3});
  CHECK(ring.result(3) == 3);
  prep::read(ring.sqe(), file.get(), buffer, 16, 100, Token{4});
  CHECK(ring.result(4) == 0);
}

TEST_CASE("an offset of -1 is the file position, and moves it") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor file = file_with("0123456789");
  REQUIRE(lseek(file.get(), 3, SEEK_SET) == 3);
  char buffer[4] = {};
  prep::read(ring.sqe(), file.get(), buffer, 2, uring::current_position, Token{1});
  CHECK(ring.result(1) == 2);
  CHECK(std::string(buffer) == "34");
  CHECK(lseek(file.get(), 0, SEEK_CUR) == 5);
  prep::write(ring.sqe(), file.get(), "xy", 2, uring::current_position, Token{2});
  CHECK(ring.result(2) == 2);
  CHECK(lseek(file.get(), 0, SEEK_CUR) == 7);
}

TEST_CASE("the errors of a read: EBADF, EISDIR, EFAULT; ENOENT comes from an open") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  const FileDescriptor file = file_with("x");
  char buffer[4];
  prep::read(ring.sqe(), -1, buffer, 4, 0, Token{1});
  CHECK(ring.result(1) == -EBADF);
  prep::read(ring.sqe(), directory.fd(), buffer, 4, 0, Token{2});
  CHECK(ring.result(2) == -EISDIR);
  prep::read(ring.sqe(), file.get(), nullptr, 4, 0, Token{3});
  CHECK(ring.result(3) == -EFAULT);
  prep::openat(ring.sqe(), directory.fd(), "missing", O_RDONLY, 0, Token{4});
  CHECK(ring.result(4) == -ENOENT);
}

TEST_CASE(
    "a read of what the page cache has is done when submit returns; force_async sends even that to a "
    "worker") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  const FileDescriptor file(::openat(directory.fd(), "file", O_RDWR | O_CLOEXEC));
  struct statfs system {};
  REQUIRE(fstatfs(file.get(), &system) == 0);
  SKIP_UNLESS(workers_leave_the_cqe_to_the_owner(), "a worker posts its CQE itself here: when, is chance");
  SKIP_UNLESS(system.f_type == EXT4_SUPER_MAGIC, "tmpfs, for one, reads on a worker thread; seen on ext4");
  char buffer[8];
  prep::read(ring.sqe(), file.get(), buffer, 7, 0, Token{1});
  CHECK(ring.submit() == 1);
  CHECK(ring.result(1) == 7);
  io_uring_sqe& sqe = ring.sqe();
  prep::read(sqe, file.get(), buffer, 7, 0, Token{2});
  prep::force_async(sqe);
  CHECK(ring.submit() == 0);
  CHECK(ring.result(2) == 7);
}

TEST_CASE("a read of a socket takes offset 0 or -1; any other is ESPIPE") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pair = unix_pair();
  char buffer[8];
  for (const std::uint64_t offset : {std::uint64_t{0}, uring::current_position}) {
    write_all(pair.there, "four");
    prep::read(ring.sqe(), pair.here.get(), buffer, 8, offset, Token{1});
    CHECK(ring.result(1) == 4);
  }
  prep::read(ring.sqe(), pair.here.get(), buffer, 8, 123, Token{2});
  CHECK(ring.result(2) == -ESPIPE);
}

TEST_CASE("OP_WRITE to a socket whose peer is gone raises SIGPIPE; OP_SEND says EPIPE and nothing more") {
  SKIP_WITHOUT_IO_URING();
  // In a child, with a ring of its own: exit status 0 or the signal.
  const auto survives = [](bool with_send) {
    const pid_t child = fork();
    if (child == 0) {
      std::signal(SIGPIPE, SIG_DFL);
      int ends[2];
      if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) _exit(2);
      close(ends[1]);
      uring::Ring ring({.entries = 4});
      if (with_send) {
        prep::send(free_sqe(ring), ends[0], "x", 1, 0, Token{1});
      } else {
        prep::write(free_sqe(ring), ends[0], "x", 1, 0, Token{1});
      }
      ring.submit_and_wait(1, std::chrono::seconds(5));
      int result = 0;
      ring.harvest([&](const io_uring_cqe& cqe) { result = cqe.res; });
      _exit(result == -EPIPE ? 0 : 3);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return status;
  };
  const int by_write = survives(false);
  CHECK(WIFSIGNALED(by_write));
  CHECK(WTERMSIG(by_write) == SIGPIPE);
  const int by_send = survives(true);
  CHECK(WIFEXITED(by_send));
  CHECK(WEXITSTATUS(by_send) == 0);
}

TEST_CASE("the iovec array of a readv or writev may die after submit; what it points to may not") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair pipe = pipe_pair();
  char first[5] = {};
  char second[5] = {};
  auto pieces = std::make_unique<std::array<iovec, 2>>();
  *pieces = {iovec{first, 4}, iovec{second, 4}};
  prep::readv(ring.sqe(), pipe.here.get(), pieces->data(), 2, uring::current_position, Token{1});
  CHECK(ring.submit() == 0);
  *pieces = {iovec{nullptr, 1}, iovec{nullptr, 1}};
  pieces.reset();
  write_all(pipe.there, "abcdefgh");
  CHECK(ring.result(1) == 8);
  CHECK(std::string(first) == "abcd");
  CHECK(std::string(second) == "efgh");

  const std::string filling(65536, '-');
  write_all(pipe.there, filling);
  pieces = std::make_unique<std::array<iovec, 2>>();
  *pieces = {iovec{first, 4}, iovec{second, 4}};
  prep::writev(ring.sqe(), pipe.there.get(), pieces->data(), 2, uring::current_position, Token{2});
  CHECK(ring.submit() == 0);
  pieces.reset();
  CHECK(read_some(pipe.here) == filling);
  CHECK(ring.result(2) == 8);
  CHECK(read_some(pipe.here) == "abcdefgh");
}

TEST_CASE("read_fixed and write_fixed: the address must lie in the registered buffer, else EFAULT") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor file = file_with("0123456789");
  char registered[64] = {};
  char other[64] = {};
  REQUIRE(register_buffer(ring, registered, sizeof registered));
  prep::read_fixed(ring.sqe(), file.get(), registered + 3, 4, 2, 0, Token{1});
  CHECK(ring.result(1) == 4);
  CHECK(std::string(registered + 3) == "2345");
  prep::write_fixed(ring.sqe(), file.get(), registered + 3, 4, 0, 0, Token{2});
  CHECK(ring.result(2) == 4);
  prep::read(ring.sqe(), file.get(), other, 6, 0, Token{3});
  CHECK(ring.result(3) == 6);
  CHECK(std::string(other) == "234545");

  prep::read_fixed(ring.sqe(), file.get(), other, 4, 0, 0, Token{4});
  CHECK(ring.result(4) == -EFAULT);
  prep::read_fixed(ring.sqe(), file.get(), registered, 65, 0, 0, Token{5});
  CHECK(ring.result(5) == -EFAULT);
  prep::read_fixed(ring.sqe(), file.get(), nullptr, 4, 0, 0, Token{6});
  CHECK(ring.result(6) == -EFAULT);
  prep::read_fixed(ring.sqe(), file.get(), registered, 4, 0, 9, Token{7});
  CHECK(ring.result(7) == -EFAULT);
}

TEST_CASE("a registered buffer stays pinned after munmap: the read succeeds, into memory that nobody sees") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor file = file_with("0123456789");
  void* const memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  REQUIRE(register_buffer(ring, memory, 4096));
  REQUIRE(munmap(memory, 4096) == 0);
  prep::read_fixed(ring.sqe(), file.get(), memory, 10, 0, 0, Token{1});
  CHECK(ring.result(1) == 10);
}

TEST_CASE(
    "fixed_file names a descriptor, not a buffer: without a table EBADF, with one perhaps the wrong file") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor a = file_with("AAAA");
  const FileDescriptor b = file_with("BBBB");
  char buffer[5] = {};
  REQUIRE(register_buffer(ring, buffer, 4));
  // Meant: "read file a into registered buffer 0".
  const auto read_with_fixed_file = [&] {
    io_uring_sqe& sqe = ring.sqe();
    prep::read(sqe, a.get(), buffer, 4, 0, Token{1});
    sqe.buf_index = 0;
    prep::fixed_file(sqe);
    return ring.result(1);
  };
  CHECK(read_with_fixed_file() == -EBADF);
  // A table that has b at the index that is a's descriptor.
  std::vector<int> table(static_cast<std::size_t>(a.get()) + 1, -1);
  table.back() = b.get();
  REQUIRE(register_files(ring, table));
  CHECK(read_with_fixed_file() == 4);
  CHECK(std::string(buffer) == "BBBB");
}

TEST_CASE("fsync and fdatasync complete with 0; a socket has nothing to sync") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  const FileDescriptor file(::openat(directory.fd(), "file", O_RDWR | O_CLOEXEC));
  prep::fsync(ring.sqe(), file.get(), 0, Token{1});
  CHECK(ring.result(1) == 0);
  prep::fsync(ring.sqe(), file.get(), IORING_FSYNC_DATASYNC, Token{2});
  CHECK(ring.result(2) == 0);
  const Pair pair = unix_pair();
  prep::fsync(ring.sqe(), pair.here.get(), 0, Token{3});
  CHECK(ring.result(3) == -EINVAL);
  prep::fsync(ring.sqe(), -1, 0, Token{4});
  CHECK(ring.result(4) == -EBADF);
}

FACT("ftruncate makes a file shorter and longer; what it cannot do is -EBADF and -EINVAL") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_opcode(abi::op_ftruncate), "FTRUNCATE needs Linux 6.9");
  TestRing ring;
  const Directory directory;
  const FileDescriptor file(::openat(directory.fd(), "file", O_RDWR | O_CLOEXEC));
  struct stat facts {};
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{9}, std::uint64_t{0}}) {
    prep::ftruncate(ring.sqe(), file.get(), length, Token{1});
    CHECK(ring.result(1) == 0);
    CHECK(fstat(file.get(), &facts) == 0);
    CHECK(static_cast<std::uint64_t>(facts.st_size) == length);
  }
  const FileDescriptor read_only(::openat(directory.fd(), "file", O_RDONLY | O_CLOEXEC));
  prep::ftruncate(ring.sqe(), read_only.get(), 1, Token{2});
  CHECK(ring.result(2) == -EINVAL);
  prep::ftruncate(ring.sqe(), -1, 1, Token{3});
  CHECK(ring.result(3) == -EBADF);
  prep::ftruncate(ring.sqe(), file.get(), ~std::uint64_t{0}, Token{4});
  CHECK(ring.result(4) == -EINVAL);
}

TEST_CASE("splice needs a pipe at one end and no offset there, and never runs inside submit") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor file = file_with("0123456789");
  const Pair pipe = pipe_pair();
  const Pair sockets = unix_pair();
  constexpr auto none = uring::current_position;
  prep::splice(ring.sqe(), file.get(), 4, pipe.there.get(), none, 100, 0, Token{1});
  const unsigned inside = ring.submit();
  if (workers_leave_the_cqe_to_the_owner()) CHECK(inside == 0);
  CHECK(ring.result(1) == 6);
  CHECK(read_some(pipe.here) == "456789");
  prep::splice(ring.sqe(), file.get(), 100, pipe.there.get(), none, 100, 0, Token{2});
  CHECK(ring.result(2) == 0);
  prep::splice(ring.sqe(), file.get(), 0, sockets.here.get(), none, 100, 0, Token{3});
  CHECK(ring.result(3) == -EINVAL);
  prep::splice(ring.sqe(), file.get(), 0, pipe.there.get(), 0, 100, 0, Token{4});
  CHECK(ring.result(4) == -ESPIPE);
  prep::splice(ring.sqe(), sockets.here.get(), 0, pipe.there.get(), none, 100, 0, Token{6});
  CHECK(ring.result(6) == -EINVAL);

  REQUIRE(register_files(ring, {file.get()}));
  prep::splice(ring.sqe(), 0, 0, pipe.there.get(), none, 3, SPLICE_F_FD_IN_FIXED, Token{5});
  CHECK(ring.result(5) == 3);
  CHECK(read_some(pipe.here) == "012");
}

TEST_CASE("splice, hardlink, splice: an echo of any length that never passes through this process") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Pair sockets = tcp_pair();
  const Pair pipe = pipe_pair();
  constexpr auto none = uring::current_position;
  for (const std::string message : {"a", "a longer message"}) {
    write_all(sockets.there, message);
    io_uring_sqe& sqe = ring.sqe();
    prep::splice(sqe, sockets.here.get(), none, pipe.there.get(), none, 4096, 0, Token{1});
    prep::hardlink(sqe);
    prep::splice(ring.sqe(), pipe.here.get(), none, sockets.here.get(), none, 4096, 0, Token{2});
    CHECK(ring.result(1) == static_cast<int>(message.size()));
    CHECK(ring.result(2) == static_cast<int>(message.size()));
    CHECK(read_some(sockets.there) == message);
  }
}

TEST_CASE("openat: the path may die after submit") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  std::string path = "file";
  run_the_next_one_later(ring, Token{1});
  prep::openat(ring.sqe(), directory.fd(), path.c_str(), O_RDONLY | O_CLOEXEC, 0, Token{2});
  CHECK(ring.submit() == 0);
  path.assign("gone");
  const FileDescriptor file(ring.result(2));
  CHECK(read_some(file) == "content");
  prep::openat(ring.sqe(), directory.fd(), "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600, Token{3});
  const FileDescriptor made(ring.result(3));
  CHECK(made.get() >= 0);
}

TEST_CASE("opening a FIFO without O_NONBLOCK: at once inside submit, for ever on a worker") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  const auto open_fifo = [&](int flags, bool on_a_worker) {
    io_uring_sqe& sqe = ring.sqe();
    prep::openat(sqe, directory.fd(), "fifo", flags | O_CLOEXEC, 0, Token{1});
    if (on_a_worker) prep::force_async(sqe);
  };
  SKIP_UNLESS(this_kernel().has_feature(IORING_FEAT_NATIVE_WORKERS),
              "before 5.12 every openat went to a worker");
  // The path is in the cache (it was just made), so the kernel tries inside submit, with O_NONBLOCK.
  open_fifo(O_RDONLY, false);
  FileDescriptor reader(ring.result(1));
  REQUIRE(reader.get() >= 0);
  CHECK((fcntl(reader.get(), F_GETFL) & O_NONBLOCK) == 0);
  reader.reset();
  open_fifo(O_WRONLY, false);
  CHECK(ring.result(1) == -ENXIO);

  open_fifo(O_RDONLY | O_NONBLOCK, true);
  reader.reset(ring.result(1));
  REQUIRE(reader.get() >= 0);
  reader.reset();
  open_fifo(O_RDONLY, true);
  CHECK(ring.quiet());
  const FileDescriptor writer(::openat(directory.fd(), "fifo", O_WRONLY | O_CLOEXEC));
  reader.reset(ring.result(1));
  CHECK(reader.get() >= 0);
}

TEST_CASE("openat2: open_how may die after submit, and RESOLVE_BENEATH stops what leads out") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  auto how = std::make_unique<open_how>();
  how->flags = O_RDONLY | O_CLOEXEC;
  how->resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  run_the_next_one_later(ring, Token{1});
  prep::openat2(ring.sqe(), directory.fd(), "inside", how.get(), Token{2});
  CHECK(ring.submit() == 0);
  how->flags = ~0ull;
  how.reset();
  const FileDescriptor inside(ring.result(2));
  CHECK(read_some(inside) == "content");

  open_how beneath{.flags = O_RDONLY | O_CLOEXEC, .mode = 0, .resolve = RESOLVE_BENEATH};
  for (const char* path : {"../etc/passwd", "/etc/passwd", "outside/passwd"}) {
    prep::openat2(ring.sqe(), directory.fd(), path, &beneath, Token{3});
    CHECK(ring.result(3) == -EXDEV);
  }
  open_how no_links{.flags = O_RDONLY | O_CLOEXEC, .mode = 0, .resolve = RESOLVE_NO_SYMLINKS};
  prep::openat2(ring.sqe(), directory.fd(), "inside", &no_links, Token{4});
  CHECK(ring.result(4) == -ELOOP);
  // A mode where nothing is created: openat ignores it, openat2 does not.
  open_how with_mode{.flags = O_RDONLY | O_CLOEXEC, .mode = 0600, .resolve = 0};
  prep::openat2(ring.sqe(), directory.fd(), "file", &with_mode, Token{5});
  CHECK(ring.result(5) == -EINVAL);
  prep::openat(ring.sqe(), directory.fd(), "file", O_RDONLY | O_CLOEXEC, 0600, Token{6});
  const FileDescriptor by_openat(ring.result(6));
  CHECK(by_openat.get() >= 0);
}

TEST_CASE(
    "direct descriptors: 0 for a slot of our choice, the index for any_slot, ENFILE when all are taken") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  const auto open_into = [&](const char* path, int flags, DirectSlot slot) {
    prep::openat_direct(ring.sqe(), directory.fd(), path, flags, 0, slot, Token{1});
    return ring.result(1);
  };
  CHECK(open_into("file", O_RDONLY, DirectSlot{0}) == -ENXIO);
  prep::close_direct(ring.sqe(), DirectSlot{0}, Token{2});
  CHECK(ring.result(2) == -ENXIO);
  SKIP_UNLESS(ring.make_file_table(3), "sparse file tables need Linux 5.19");
  CHECK(open_into("file", O_RDONLY | O_CLOEXEC, DirectSlot{0}) == -EINVAL);
  CHECK(open_into("file", O_RDONLY, DirectSlot{3}) == -EINVAL);
  CHECK(open_into("file", O_RDONLY, DirectSlot{1}) == 0);
  const int one = open_into("file", O_RDONLY, uring::any_slot);
  open_how how{.flags = O_RDONLY, .mode = 0, .resolve = RESOLVE_BENEATH};
  prep::openat2_direct(ring.sqe(), directory.fd(), "file", &how, uring::any_slot, Token{3});
  const int other = ring.result(3);
  CHECK(std::min(one, other) == 0);
  CHECK(std::max(one, other) == 2);
  CHECK(open_into("file", O_RDONLY, uring::any_slot) == -ENFILE);
  CHECK(read_direct(ring, DirectSlot{2}) == "cont");

  // A slot in use is replaced without a word.
  CHECK(open_into("fifo", O_RDONLY | O_NONBLOCK, DirectSlot{1}) == 0);
  CHECK(read_direct(ring, DirectSlot{1}) == "");

  io_uring_sqe& sqe = ring.sqe();
  prep::close(sqe, 2, Token{4});
  prep::fixed_file(sqe);
  CHECK(ring.result(4) == -EBADF);
  prep::close_direct(ring.sqe(), DirectSlot{2}, Token{5});
  CHECK(ring.result(5) == 0);
  prep::close_direct(ring.sqe(), DirectSlot{2}, Token{6});
  CHECK(ring.result(6) == -EBADF);
}

FACT("statx: the path may die after submit, and it never runs inside submit") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const Directory directory;
  struct statx result {};
  std::string path = "file";
  prep::statx(ring.sqe(), directory.fd(), path.c_str(), 0, STATX_SIZE | STATX_TYPE, &result, Token{1});
  const unsigned inside = ring.submit();
  if (workers_leave_the_cqe_to_the_owner()) CHECK(inside == 0);
  path.assign("gone");
  const int by_path = ring.result(1);
  if (by_path == -ENOENT) {
    tests::differs("the path is read when it runs, and must live until then");
  } else {
    CHECK(by_path == 0);
    CHECK(result.stx_size == 7);
    CHECK(S_ISREG(result.stx_mode));
  }
  prep::statx(ring.sqe(), directory.fd(), "", AT_EMPTY_PATH, STATX_TYPE, &result, Token{2});
  CHECK(ring.result(2) == 0);
  CHECK(S_ISDIR(result.stx_mode));
  prep::statx(ring.sqe(), directory.fd(), "missing", 0, STATX_SIZE, &result, Token{3});
  CHECK(ring.result(3) == -ENOENT);
  prep::statx(ring.sqe(), directory.fd(), "file/x", 0, STATX_SIZE, &result, Token{4});
  CHECK(ring.result(4) == -ENOTDIR);
}

TEST_CASE("close cancels nothing: the recv in flight still receives, and the peer sees no end") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  Pair pair = tcp_pair();
  char buffer[8] = {};
  prep::recv(ring.sqe(), pair.here.get(), buffer, 8, 0, Token{1});
  CHECK(ring.submit() == 0);
  prep::close(ring.sqe(), pair.here.get(), Token{2});
  CHECK(ring.result(2) == 0);
  const int number = pair.here.release();
  CHECK(ring.quiet());
  CHECK(nothing_to_read(pair.there));
  write_all(pair.there, "late");
  CHECK(ring.result(1) == 4);
  CHECK(std::string(buffer) == "late");
  prep::close(ring.sqe(), number, Token{3});
  CHECK(ring.result(3) == -EBADF);
}

TEST_CASE("files_update: fills, empties and skips slots, and says how far it came") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  const FileDescriptor a = file_with("AAAA");
  FileDescriptor b = file_with("BBBB");
  std::array<int, 3> files{a.get(), b.get(), a.get()};
  prep::files_update(ring.sqe(), files.data(), 1, DirectSlot{0}, Token{1});
  CHECK(ring.result(1) == -ENXIO);
  SKIP_UNLESS(ring.make_file_table(4), "sparse file tables need Linux 5.19");
  prep::files_update(ring.sqe(), files.data(), 3, DirectSlot{1}, Token{2});
  CHECK(ring.result(2) == 3);
  b.reset();
  CHECK(read_direct(ring, DirectSlot{0}) == "error " + std::to_string(EBADF));
  CHECK(read_direct(ring, DirectSlot{2}) == "BBBB");
  files = {-1, IORING_REGISTER_FILES_SKIP, -1};
  prep::files_update(ring.sqe(), files.data(), 3, DirectSlot{1}, Token{3});
  CHECK(ring.result(3) == 3);
  CHECK(read_direct(ring, DirectSlot{1}) == "error " + std::to_string(EBADF));
  CHECK(read_direct(ring, DirectSlot{2}) == "BBBB");

  files = {a.get(), 1 << 20, a.get()};
  prep::files_update(ring.sqe(), files.data(), 3, DirectSlot{0}, Token{4});
  CHECK(ring.result(4) == 1);
  CHECK(read_direct(ring, DirectSlot{0}) == "AAAA");
  prep::files_update(ring.sqe(), files.data() + 1, 1, DirectSlot{0}, Token{5});
  CHECK(ring.result(5) == -EBADF);
  CHECK(read_direct(ring, DirectSlot{0}) == "error " + std::to_string(EBADF));  // what had been there is gone
  prep::files_update(ring.sqe(), files.data(), 1, DirectSlot{4}, Token{6});
  CHECK(ring.result(6) == -EINVAL);

  files = {a.get(), a.get(), a.get()};  // all slots but 2 are free
  prep::files_update(ring.sqe(), files.data(), 3, uring::any_slot, Token{7});
  CHECK(ring.result(7) == 3);
  std::sort(files.begin(), files.end());
  CHECK(files == std::array{0, 1, 3});
}

TEST_CASE("files_update reads its array when it runs, not when it is submitted") {
  SKIP_WITHOUT_IO_URING();
  TestRing ring;
  SKIP_UNLESS(ring.make_file_table(1), "sparse file tables need Linux 5.19");
  const FileDescriptor a = file_with("AAAA");
  const FileDescriptor b = file_with("BBBB");
  int file = a.get();
  run_the_next_one_later(ring, Token{1});
  prep::files_update(ring.sqe(), &file, 1, DirectSlot{0}, Token{2});
  CHECK(ring.submit() == 0);
  file = b.get();
  CHECK(ring.result(2) == 1);
  CHECK(read_direct(ring, DirectSlot{0}) == "BBBB");
}

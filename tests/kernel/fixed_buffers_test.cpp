// The buffer pool on the running kernel: who owns a slot, what READ_FIXED may touch, and that a pool which
// could not be registered works all the same.

#include "uring/fixed_buffers.hpp"

#include <doctest/doctest.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/kernel/kernel_support.hpp"
#include "tests/kernel/watched_registration.hpp"

namespace {

using namespace tests::kernel;
using uring::Buffer;
using uring::BufferPool;
using uring::FileDescriptor;
using uring::Ring;
using uring::Token;
namespace prep = uring::prep;

constexpr std::size_t page = 4096;

FileDescriptor ten_bytes() {
  FileDescriptor file(::memfd_create("fixed_buffers_test", MFD_CLOEXEC));
  REQUIRE(file);
  REQUIRE(::write(file.get(), "0123456789", 10) == 10);
  return file;
}

std::string text(const std::byte* at, std::size_t size) { return {reinterpret_cast<const char*>(at), size}; }

bool on_a_page(const Buffer& buffer) { return reinterpret_cast<std::uintptr_t>(buffer.data()) % page == 0; }

/// Reads five bytes from the middle of the file to byte 100 of `buffer`: the opcode, the result, the bytes.
std::string read_into(Ring& ring, const Buffer& buffer, const FileDescriptor& file) {
  io_uring_sqe& sqe = next(ring);
  buffer.prepare_read(sqe, file.get(), 100, 5, 3, Token{1});
  const std::string opcode = sqe.opcode == IORING_OP_READ_FIXED ? "READ_FIXED "
                             : sqe.opcode == IORING_OP_READ     ? "READ "
                                                                : "? ";
  const std::string result = results(ring, 1);
  return opcode + result + ' ' + text(buffer.data() + 100, 5);
}

// ---- Owning a slot ------------------------------------------------------------------------------------------

TEST_CASE("a slot has one owner, goes back when that dies, and the last one back is the next one out") {
  BufferPool pool(3, page);
  CHECK(pool.capacity() == 3);
  CHECK(pool.available() == 3);
  CHECK(pool.in_use_max() == 0);
  {
    const Buffer a = pool.take();
    Buffer b = pool.take();
    CHECK(a.index() == 0);
    CHECK(b.index() == 1);
    CHECK(a.data() != b.data());
    CHECK(pool.in_use() == 2);
    b.give_back();
    CHECK_FALSE(b);
    CHECK(pool.in_use() == 1);
    b.give_back();  // it has none
    CHECK(pool.in_use() == 1);
    CHECK(pool.take().index() == 1);
  }
  CHECK(pool.in_use() == 0);
  CHECK(pool.in_use_max() == 2);
  CHECK(pool.take().index() == 0);  // it died last
}

TEST_CASE("moving a buffer moves the slot, and gives back what the target had") {
  BufferPool pool(2, page);
  Buffer a = pool.take();
  Buffer b(std::move(a));
  CHECK_FALSE(a);
  CHECK(b.index() == 0);
  CHECK(pool.in_use() == 1);
  a = pool.take();
  CHECK(a.index() == 1);
  CHECK(pool.in_use() == 2);
  a = std::move(b);
  CHECK_FALSE(b);
  CHECK(a.index() == 0);
  CHECK(pool.in_use() == 1);
  CHECK(pool.take().index() == 1);
  Buffer& same = a;
  a = std::move(same);
  CHECK(a);
  CHECK(pool.in_use() == 1);
  b = {};
  a = std::move(b);
  CHECK(pool.in_use() == 0);
}

TEST_CASE("a pool that is used up answers with an empty buffer, until one comes back") {
  BufferPool pool(2, page);
  Buffer a = pool.take();
  const Buffer b = pool.take();
  CHECK(pool.available() == 0);
  CHECK_FALSE(pool.take());
  CHECK(pool.in_use_max() == 2);
  a.give_back();
  CHECK(pool.take());
  CHECK(pool.in_use_max() == 2);
}

TEST_CASE("buffers begin on a page, headroom or not, and each has its headroom to itself") {
  for (const std::size_t headroom : {std::size_t{0}, page, 2 * page}) {
    CAPTURE(headroom);
    BufferPool pool(3, 2 * page, headroom);
    CHECK(pool.buffer_size() == 2 * page);
    CHECK(pool.headroom() == headroom);
    std::vector<Buffer> all;
    while (Buffer buffer = pool.take()) all.push_back(std::move(buffer));
    REQUIRE(all.size() == 3);
    for (const Buffer& buffer : all) {
      CHECK(on_a_page(buffer));
      std::memset(buffer.data() - headroom, 'a' + buffer.index(), headroom + pool.buffer_size());
    }
    for (const Buffer& buffer : all) {
      const std::size_t size = headroom + pool.buffer_size();
      CHECK(text(buffer.data() - headroom, size) ==
            std::string(size, static_cast<char>('a' + buffer.index())));
    }
  }
}

// ---- Registered ---------------------------------------------------------------------------------------------

TEST_CASE("all slots are registered in one call, and reads then name them by index") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = ten_bytes();
  WatchedRegistration watched;
  BufferPool pool(8, page);
  Ring ring({.entries = 4}, watched.kernel());
  CHECK_FALSE(pool.registered());
  CHECK(pool.register_with(ring) == 0);
  CHECK(pool.registered());
  CHECK(watched.calls_of(IORING_REGISTER_BUFFERS) == 1);
  CHECK(watched.calls.back().count == 8);
  const Buffer first = pool.take();
  const Buffer second = pool.take();
  CHECK(read_into(ring, first, file) == "READ_FIXED 1:5 34567");
  CHECK(read_into(ring, second, file) == "READ_FIXED 1:5 34567");
  CHECK(watched.calls_of(IORING_REGISTER_BUFFERS) == 1);
}

TEST_CASE("a read leaves the headroom alone, but the headroom belongs to the slot and can be read into") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = ten_bytes();
  BufferPool pool(2, page, page);
  Ring ring({.entries = 4});
  REQUIRE(pool.register_with(ring) == 0);
  const Buffer first = pool.take();
  const Buffer second = pool.take();
  std::memset(second.data() - page, 'h', page);
  second.prepare_read(next(ring), file.get(), 0, 10, 0, Token{1});
  CHECK(results(ring, 1) == "1:10");
  CHECK(text(second.data() - page, page) == std::string(page, 'h'));
  CHECK(text(second.data(), 10) == "0123456789");
  prep::read_fixed(next(ring), file.get(), second.data() - 4, 10, 0, second.index(), Token{2});
  CHECK(results(ring, 1) == "2:10");
  CHECK(text(second.data() - 4, 14) == "0123456789" + std::string("6789"));
}

TEST_CASE("a read that would leave its slot is EFAULT, and the neighbour's bytes are as they were") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = ten_bytes();
  BufferPool pool(3, page);
  Ring ring({.entries = 4});
  REQUIRE(pool.register_with(ring) == 0);
  const Buffer before = pool.take();
  const Buffer own = pool.take();
  const Buffer behind = pool.take();
  REQUIRE(own.data() == before.data() + page);
  REQUIRE(behind.data() == own.data() + page);
  const auto read_to = [&](std::byte* to) {
    prep::read_fixed(next(ring), file.get(), to, 10, 0, own.index(), Token{1});
    return results(ring, 1);
  };
  CHECK(read_to(behind.data()) == "1:-EFAULT");
  CHECK(read_to(behind.data() - 5) == "1:-EFAULT");
  CHECK(read_to(own.data() - 5) == "1:-EFAULT");
  CHECK(text(before.data(), 3 * page) == std::string(3 * page, '\0'));
  CHECK(read_to(behind.data() - 10) == "1:10");
  CHECK(text(behind.data() - 10, 11) == std::string("0123456789") + '\0');
}

TEST_CASE("sixteen thousand buffers can be registered, the last one works, and one more is EINVAL") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(this_kernel().has_feature(IORING_FEAT_RSRC_TAGS), "before 5.13 the limit was 1024");
  SKIP_UNLESS(::geteuid() == 0, "64 MiB of locked memory are more than a user may have");
  const FileDescriptor file = ten_bytes();
  BufferPool pool(uring::max_registered_buffers, page);
  Ring ring({.entries = 4});
  std::vector<iovec> too_many(uring::max_registered_buffers + 1, iovec{&pool, 1});
  CHECK(uring::real_kernel.register_(nullptr, ring.fd(), IORING_REGISTER_BUFFERS, too_many.data(),
                                     static_cast<unsigned>(too_many.size())) == -EINVAL);
  CHECK(pool.register_with(ring) == 0);
  std::vector<Buffer> all;
  while (Buffer buffer = pool.take()) all.push_back(std::move(buffer));
  CHECK(all.size() == uring::max_registered_buffers);
  CHECK(all.back().index() == uring::max_registered_buffers - 1);
  CHECK(read_into(ring, all.back(), file) == "READ_FIXED 1:5 34567");
}

// ---- Not registered -----------------------------------------------------------------------------------------

TEST_CASE("a pool that nobody registered, or whose registration was refused, reads with plain READ") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = ten_bytes();
  WatchedRegistration watched{.refused = IORING_REGISTER_BUFFERS, .error = -ENOMEM};
  BufferPool pool(2, page, page);
  Ring ring({.entries = 4}, watched.kernel());
  const Buffer buffer = pool.take();
  CHECK(read_into(ring, buffer, file) == "READ 1:5 34567");
  CHECK(pool.register_with(ring) == -ENOMEM);
  CHECK_FALSE(pool.registered());
  const Buffer other = pool.take();
  CHECK(other.index() == 1);
  CHECK(read_into(ring, other, file) == "READ 1:5 34567");
}

TEST_CASE("a ring has buffers once: a second pool is EBUSY and works unregistered, the first goes on") {
  SKIP_WITHOUT_IO_URING();
  const FileDescriptor file = ten_bytes();
  BufferPool first(2, page);
  BufferPool second(2, page);
  Ring ring({.entries = 4});
  REQUIRE(first.register_with(ring) == 0);
  CHECK(second.register_with(ring) == -EBUSY);
  CHECK_FALSE(second.registered());
  const Buffer of_first = first.take();
  const Buffer of_second = second.take();
  CHECK(read_into(ring, of_second, file) == "READ 1:5 34567");
  CHECK(read_into(ring, of_first, file) == "READ_FIXED 1:5 34567");
}

/// In a child that is nobody and owns a ring: registers a pool of 256 KiB with `locked` bytes allowed (empty:
/// as many as here), and reads. 0 if registration said `expected` and the read went by the opcode that
/// follows from it.
int register_as_nobody(const FileDescriptor& file, std::optional<rlim_t> locked, int expected) {
  return in_child([&] {
    if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) return 2;
    BufferPool pool(4, 64 << 10);
    Ring ring({.entries = 4});  // charged, too, and before the limit falls
    const rlimit limit{locked.value_or(0), locked.value_or(0)};
    if (locked && ::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return 3;
    if (pool.register_with(ring) != expected) return 4;
    const Buffer buffer = pool.take();
    const std::string opcode = expected == 0 ? "READ_FIXED" : "READ";
    return read_into(ring, buffer, file) == opcode + " 1:5 34567" ? 0 : 5;
  });
}

TEST_CASE("without CAP_IPC_LOCK a pool above RLIMIT_MEMLOCK is ENOMEM, and its reads work all the same") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(::geteuid() == 0, "only root can become somebody else");
  rlimit here{};
  REQUIRE(::getrlimit(RLIMIT_MEMLOCK, &here) == 0);
  SKIP_UNLESS(here.rlim_cur >= 4 << 20, "the limit is low already (ulimit -l)");
  const FileDescriptor file = ten_bytes();
  CHECK(register_as_nobody(file, 64 << 10, -ENOMEM) == 0);
  CHECK(register_as_nobody(file, {}, 0) == 0);
}

}  // namespace

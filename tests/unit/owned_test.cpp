// The two owners: what they hold is given back once, and by the right one.

#include "uring/owned.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <type_traits>
#include <utility>

namespace {

using uring::FileDescriptor;
using uring::Mapping;

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

int open_something() {
  const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  return fd;
}

const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));

// mincore(2) fails with ENOMEM on memory that is not mapped, and needs no access to it.
bool is_mapped(void* address) {
  unsigned char resident = 0;
  return ::mincore(address, page, &resident) == 0;
}

void* map_something(std::size_t bytes = page) {
  void* const address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(address != MAP_FAILED);
  return address;
}

// What self-assignment looks like where the compiler does not see it coming.
template <class Owner>
void move_to(Owner& to, Owner& from) {
  to = std::move(from);
}

}  // namespace

TEST_CASE("a descriptor is closed when its owner dies") {
  const int fd = open_something();
  {
    const FileDescriptor owner(fd);
    CHECK(owner.get() == fd);
    CHECK(static_cast<bool>(owner));
    CHECK(is_open(fd));
  }
  CHECK_FALSE(is_open(fd));
}

TEST_CASE("an empty owner owns nothing, and closes nothing") {
  const FileDescriptor nothing;
  CHECK(nothing.get() == -1);
  CHECK_FALSE(static_cast<bool>(nothing));
  const FileDescriptor failed(-EMFILE);  // the result of a call that went wrong
  CHECK_FALSE(static_cast<bool>(failed));
}

TEST_CASE("descriptor 0 is a descriptor") {
  const int saved = ::dup(0);
  FileDescriptor zero(0);
  CHECK(static_cast<bool>(zero));
  CHECK(zero.release() == 0);
  if (saved >= 0) ::close(saved);
}

TEST_CASE("a moved descriptor is closed once, by its last owner: its number may be somebody else's by then") {
  const int fd = open_something();
  FileDescriptor first(fd);
  {
    const FileDescriptor second(std::move(first));
    CHECK(first.get() == -1);
    CHECK(second.get() == fd);
  }
  CHECK_FALSE(is_open(fd));
  const int same_number = open_something();
  REQUIRE(same_number == fd);
  first.reset();  // holds nothing: must not close what is not its own
  CHECK(is_open(same_number));
  ::close(same_number);
}

TEST_CASE("move assignment closes what was held before") {
  const int one = open_something();
  const int two = open_something();
  FileDescriptor to(one);
  FileDescriptor from(two);
  to = std::move(from);
  CHECK_FALSE(is_open(one));
  CHECK(is_open(two));
  CHECK(to.get() == two);
  CHECK(from.get() == -1);
}

TEST_CASE("a descriptor that is moved to itself stays open") {
  const int fd = open_something();
  FileDescriptor owner(fd);
  move_to(owner, owner);
  CHECK(owner.get() == fd);
  CHECK(is_open(fd));
}

TEST_CASE("reset closes what is held and holds the new one") {
  const int one = open_something();
  const int two = open_something();
  FileDescriptor owner(one);
  owner.reset(two);
  CHECK_FALSE(is_open(one));
  CHECK(owner.get() == two);
  owner.reset();
  CHECK_FALSE(is_open(two));
  CHECK_FALSE(static_cast<bool>(owner));
}

TEST_CASE("a released descriptor is the caller's to close") {
  int fd = -1;
  {
    FileDescriptor owner(open_something());
    fd = owner.release();
    CHECK_FALSE(static_cast<bool>(owner));
  }
  CHECK(is_open(fd));
  CHECK(::close(fd) == 0);
}

TEST_CASE("a mapping is unmapped when its owner dies, all of it") {
  void* const address = map_something(3 * page);
  void* const last = static_cast<std::byte*>(address) + 2 * page;
  {
    const Mapping owner(address, 3 * page);
    CHECK(owner.data() == address);
    CHECK(owner.size() == 3 * page);
    CHECK(static_cast<bool>(owner));
    CHECK(is_mapped(last));
  }
  CHECK_FALSE(is_mapped(address));
  CHECK_FALSE(is_mapped(last));
}

TEST_CASE("an empty mapping is nothing") {
  const Mapping nothing;
  CHECK(nothing.data() == nullptr);
  CHECK(nothing.size() == 0);
  CHECK_FALSE(static_cast<bool>(nothing));
}

TEST_CASE("a moved mapping is unmapped once, by its last owner") {
  void* const address = map_something();
  Mapping first(address, page);
  {
    const Mapping second(std::move(first));
    CHECK(first.data() == nullptr);
    CHECK(first.size() == 0);
    CHECK(second.data() == address);
    CHECK(is_mapped(address));
  }
  CHECK_FALSE(is_mapped(address));
  void* const again =
      ::mmap(address, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  REQUIRE(again == address);
  first.reset();
  CHECK(is_mapped(again));
  ::munmap(again, page);
}

TEST_CASE("moving a mapping onto another unmaps the other") {
  void* const one = map_something();
  void* const two = map_something();
  Mapping to(one, page);
  Mapping from(two, page);
  to = std::move(from);
  CHECK_FALSE(is_mapped(one));
  CHECK(is_mapped(two));
  CHECK(to.data() == two);
  CHECK_FALSE(static_cast<bool>(from));
}

TEST_CASE("a mapping that is moved to itself stays mapped") {
  void* const address = map_something();
  Mapping owner(address, page);
  move_to(owner, owner);
  CHECK(owner.data() == address);
  CHECK(owner.size() == page);
  CHECK(is_mapped(address));
}

TEST_CASE("owners are moved, never copied") {
  static_assert(!std::is_copy_constructible_v<FileDescriptor> && !std::is_copy_assignable_v<FileDescriptor>);
  static_assert(!std::is_copy_constructible_v<Mapping> && !std::is_copy_assignable_v<Mapping>);
  static_assert(std::is_nothrow_move_constructible_v<FileDescriptor> &&
                std::is_nothrow_move_assignable_v<Mapping>);
}

// The ring's file table on the running kernel: two ways to register it, who has which slot, and the life of a
// file that lies in one.

#include "uring/direct_files.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>

#include <array>
#include <optional>
#include <string>

#include "tests/kernel/kernel_support.hpp"
#include "tests/kernel/watched_registration.hpp"
#include "tests/support/fact.hpp"
#include "tests/support/shell.hpp"
#include "uring/prep_files.hpp"

namespace {

using namespace tests::kernel;
using uring::DirectFiles;
using uring::DirectSlot;
using uring::Ring;
using uring::Token;
namespace prep = uring::prep;

constexpr open_how reading{.flags = O_RDONLY, .mode = 0, .resolve = 0};

/// A folder with two files of four bytes.
struct TwoFiles {
  tests::TemporaryFolder folder;
  std::string first = (folder.path() / "first").string();
  std::string second = (folder.path() / "second").string();

  TwoFiles() {
    folder.write("first", "1111");
    folder.write("second", "2222");
  }
};

std::string open_into(Ring& ring, DirectSlot slot, const std::string& path) {
  prep::openat2_direct(next(ring), AT_FDCWD, path.c_str(), &reading, slot, Token{1});
  return results(ring, 1);
}

/// The four bytes of the file in `slot`, or the result that says why not.
std::string read_from(Ring& ring, DirectSlot slot) {
  std::array<char, 4> bytes{};
  io_uring_sqe& sqe = next(ring);
  prep::read(sqe, static_cast<int>(slot.index), bytes.data(), 4, 0, Token{1});
  prep::fixed_file(sqe);
  const std::string result = results(ring, 1);
  return result == "1:4" ? std::string(bytes.data(), 4) : result;
}

std::string close_slot(Ring& ring, DirectSlot slot) {
  prep::close_direct(next(ring), slot, Token{1});
  return results(ring, 1);
}

/// The index of the slot taken, or "none".
std::string taken(DirectFiles& files) {
  const std::optional<DirectSlot> slot = files.take();
  return slot ? std::to_string(slot->index) : "none";
}

TEST_CASE("an empty table is registered in one call where the kernel knows sparse tables") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(has_sparse_tables(), "sparse tables need Linux 5.19");
  WatchedRegistration watched;
  Ring ring({.entries = 4}, watched.kernel());
  DirectFiles files;
  CHECK(files.capacity() == 0);
  CHECK(taken(files) == "none");
  CHECK(files.register_with(ring, 8) == 0);
  CHECK(files.capacity() == 8);
  CHECK(files.in_use() == 0);
  CHECK(watched.calls_of(IORING_REGISTER_FILES2) == 1);
  CHECK(watched.calls_of(IORING_REGISTER_FILES) == 0);
  CHECK(read_from(ring, DirectSlot{0}) == "1:-EBADF");
}

TEST_CASE("a kernel that does not know sparse tables gets an array of -1, which means the same") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(opens_into_slots(), "opening into a slot needs Linux 5.15");
  const TwoFiles disk;
  WatchedRegistration watched{.refused = IORING_REGISTER_FILES2, .error = -EINVAL};
  Ring ring({.entries = 4}, watched.kernel());
  DirectFiles files;
  CHECK(files.register_with(ring, 8) == 0);
  CHECK(files.capacity() == 8);
  CHECK(watched.calls_of(IORING_REGISTER_FILES) == 1);
  CHECK(watched.calls.back().count == 8);
  CHECK(read_from(ring, DirectSlot{0}) == "1:-EBADF");
  CHECK(open_into(ring, DirectSlot{7}, disk.first) == "1:0");
  CHECK(read_from(ring, DirectSlot{7}) == "1111");
  CHECK(open_into(ring, DirectSlot{8}, disk.first) == "1:-EINVAL");
}

TEST_CASE("any other error of the registration is the answer, and leaves no slots") {
  SKIP_WITHOUT_IO_URING();
  WatchedRegistration watched{.refused = IORING_REGISTER_FILES2, .error = -ENOMEM};
  Ring ring({.entries = 4}, watched.kernel());
  DirectFiles files;
  CHECK(files.register_with(ring, 8) == -ENOMEM);
  CHECK(watched.calls_of(IORING_REGISTER_FILES) == 0);
  CHECK(files.capacity() == 0);
  CHECK(taken(files) == "none");
}

TEST_CASE("a slot is taken by one until it comes back; then it is the next one out") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  DirectFiles files;
  REQUIRE(files.register_with(ring, 3) == 0);
  CHECK(taken(files) == "0");
  CHECK(taken(files) == "1");
  CHECK(files.in_use() == 2);
  CHECK(taken(files) == "2");
  CHECK(taken(files) == "none");
  CHECK(files.in_use() == 3);
  files.give_back(DirectSlot{1});
  files.give_back(DirectSlot{0});
  CHECK(files.in_use() == 1);
  CHECK(taken(files) == "0");
  CHECK(taken(files) == "1");
  CHECK(taken(files) == "none");
}

TEST_CASE("a file in a slot: opened, read, closed, and the slot serves the next one; no descriptor is used") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(opens_into_slots(), "opening into a slot needs Linux 5.15");
  const TwoFiles disk;
  Ring ring({.entries = 4});
  DirectFiles files;
  REQUIRE(files.register_with(ring, 2) == 0);
  const std::size_t descriptors = open_descriptors();
  const std::optional<DirectSlot> slot = files.take();
  REQUIRE(slot.has_value());
  CHECK(open_into(ring, *slot, disk.first) == "1:0");
  CHECK(open_descriptors() == descriptors);
  CHECK(read_from(ring, *slot) == "1111");
  CHECK(read_from(ring, DirectSlot{1}) == "1:-EBADF");
  CHECK(close_slot(ring, *slot) == "1:0");
  CHECK(read_from(ring, *slot) == "1:-EBADF");
  files.give_back(*slot);

  const std::optional<DirectSlot> again = files.take();
  REQUIRE(again.has_value());
  CHECK(again->index == slot->index);
  CHECK(open_into(ring, *again, disk.folder.path() / "missing") == "1:-ENOENT");
  files.give_back(*again);
  CHECK(taken(files) == std::to_string(slot->index));
  CHECK(open_into(ring, *slot, disk.second) == "1:0");
  CHECK(read_from(ring, *slot) == "2222");
}

FACT("a slot is known before its file is: open, read and close are one chain and one submit") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(opens_into_slots(), "opening into a slot needs Linux 5.15");
  const TwoFiles disk;
  std::array<char, 4> bytes{};
  Ring ring({.entries = 4});
  DirectFiles files;
  REQUIRE(files.register_with(ring, 1) == 0);
  const std::optional<DirectSlot> slot = files.take();
  REQUIRE(slot.has_value());
  io_uring_sqe& open = next(ring);
  prep::openat2_direct(open, AT_FDCWD, disk.first.c_str(), &reading, *slot, Token{1});
  prep::link(open);
  io_uring_sqe& read = next(ring);
  prep::read(read, static_cast<int>(slot->index), bytes.data(), 4, 0, Token{2});
  prep::fixed_file(read);
  prep::hardlink(read);
  prep::close_direct(next(ring), *slot, Token{3});
  const std::string chain = results(ring, 3);
  if ((ring.features() & IORING_FEAT_LINKED_FILE) == 0 && chain == "1:-ECANCELED 2:-EBADF 3:-ECANCELED")
    return tests::differs("a slot is looked up when its operation is submitted, so the chain is refused");
  CHECK(chain == "1:0 2:4 3:0");
  CHECK(std::string(bytes.data(), 4) == "1111");
}

TEST_CASE("a ring has one table: the second is EBUSY") {
  SKIP_WITHOUT_IO_URING();
  Ring ring({.entries = 4});
  DirectFiles files;
  DirectFiles others;
  REQUIRE(files.register_with(ring, 2) == 0);
  CHECK(others.register_with(ring, 2) == -EBUSY);
  CHECK(others.capacity() == 0);
  CHECK(taken(files) == "0");
}

TEST_CASE("a table has at most RLIMIT_NOFILE slots, open descriptors or not: above it is EMFILE") {
  SKIP_WITHOUT_IO_URING();
  const int result = in_child([] {
    Ring ring({.entries = 4});
    const rlimit limit{64, 64};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 2;
    DirectFiles files;
    if (files.register_with(ring, 65) != -EMFILE) return 3;
    if (files.capacity() != 0) return 4;
    return files.register_with(ring, 64) == 0 ? 0 : 5;
  });
  CHECK(result == 0);
}

}  // namespace

// The small things that the file servers are built of: what statx tells about a file, the range that O_DIRECT
// reads, the list without memory, the descriptors counted, the options.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "servers/common/file_facts.hpp"
#include "servers/common/file_options.hpp"
#include "servers/common/intrusive_list.hpp"
#include "servers/common/limits.hpp"
#include "tests/support/shell.hpp"

using common::AlignedRange;
using common::FileFacts;

namespace {

// ---- Ranges ---------------------------------------------------------------------------------------------------

std::string range(std::uint64_t offset, std::uint32_t length, std::uint32_t alignment) {
  const AlignedRange range = common::covering(offset, length, alignment);
  return std::to_string(range.offset) + '+' + std::to_string(range.length) + " skip " +
         std::to_string(range.skip);
}

// ---- Facts ----------------------------------------------------------------------------------------------------

FileFacts facts_of(const std::string& path) {
  struct ::statx result {};
  REQUIRE(::statx(AT_FDCWD, path.c_str(), 0, common::file_facts_mask, &result) == 0);
  return common::facts_of(result);
}

/// A file of five bytes, and what is known about it before something happens to it.
struct KnownFile {
  tests::TemporaryFolder folder;
  std::string path = (folder.path() / "file").string();
  FileFacts before;

  KnownFile() {
    folder.write("file", "12345");
    before = facts_of(path);
  }

  /// True when the facts are others after `change`. Not every file system counts in nanoseconds: within one
  /// tick of the clock nothing has changed, so it is done again, for a second at most.
  template <class Change>
  bool differs_after(Change change) const {
    for (int i = 0; i < 200; ++i) {
      change();
      if (facts_of(path) != before) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  bool same_file() const { return facts_of(path).same_file(before); }
};

// ---- Lists ----------------------------------------------------------------------------------------------------

struct Element {
  char name;
  common::Link<Element> first_link = {};
  common::Link<Element> second_link = {};
};

using FirstList = common::List<Element, &Element::first_link>;
using SecondList = common::List<Element, &Element::second_link>;

template <class List>
std::string names(const List& list) {
  std::string text;
  for (const Element* element = list.first(); element != nullptr; element = List::next(*element)) {
    text += element->name;
  }
  CHECK(text.size() == list.size());
  CHECK(text.empty() == list.empty());
  return text;
}

// ---- Options --------------------------------------------------------------------------------------------------

/// The sentence with which a server refuses, or "accepted".
std::string answer(const std::vector<const char*>& arguments, common::FileOptions& options) {
  std::vector<common::Option> table = common::chunk_options(options);
  for (const common::Option& option : common::pool_options(options)) table.push_back(option);
  try {
    common::parse_options(arguments, {.name = "server", .summary = "Serves."}, table);
    common::check(options);
  } catch (const common::StartError& error) {
    CHECK(error.exit_code() == common::exit_usage);
    return error.what();
  }
  return "accepted";
}

std::string answer(const std::vector<const char*>& arguments) {
  common::FileOptions options;
  return answer(arguments, options);
}

}  // namespace

TEST_CASE("covering: the aligned range around a range; with alignment 1 the range itself") {
  CHECK(range(0, 0, 1) == "0+0 skip 0");
  CHECK(range(12'345, 678, 1) == "12345+678 skip 0");
  CHECK(range(0, 1, 512) == "0+512 skip 0");
  CHECK(range(0, 512, 512) == "0+512 skip 0");
  CHECK(range(0, 513, 512) == "0+1024 skip 0");
  CHECK(range(511, 1, 512) == "0+512 skip 511");
  CHECK(range(511, 2, 512) == "0+1024 skip 511");
  CHECK(range(512, 512, 512) == "512+512 skip 0");
  CHECK(range(1, 4095, 4096) == "0+4096 skip 1");
  CHECK(range(1, 4096, 4096) == "0+8192 skip 1");
  CHECK(range(4095, 4098, 4096) == "0+12288 skip 4095");
  CHECK(range(8192, 8192, 4096) == "8192+8192 skip 0");
  CHECK(range(8192, 0, 4096) == "8192+0 skip 0");
  CHECK(range((std::uint64_t{1} << 40) + 1, 65'536, 4096) == "1099511627776+69632 skip 1");
}

TEST_CASE("covering: what comes out is aligned, has all that was wanted, and less than two units more") {
  for (const std::uint32_t alignment : {1U, 512U, 4096U}) {
    for (const std::uint64_t base : {std::uint64_t{0}, std::uint64_t{7} * 4096, std::uint64_t{1} << 33}) {
      for (std::uint64_t offset = base; offset < base + 9000; offset += 251) {
        for (const std::uint32_t length : {1U, 511U, 512U, 513U, 4095U, 4096U, 4097U, 65'536U}) {
          const AlignedRange read = common::covering(offset, length, alignment);
          REQUIRE(read.offset % alignment == 0);
          REQUIRE(read.length % alignment == 0);
          REQUIRE(read.offset + read.skip == offset);
          REQUIRE(read.skip < alignment);
          REQUIRE(read.offset + read.length >= offset + length);
          REQUIRE(read.length < length + 2 * alignment);
        }
      }
    }
  }
}

TEST_CASE("facts: size and kind of a file; what nobody touched is equal, another file is another one") {
  const KnownFile file;
  CHECK(file.before.size == 5);
  CHECK(S_ISREG(file.before.mode));
  CHECK(file.before == facts_of(file.path));
  file.folder.write("other", "12345");
  const FileFacts other = facts_of((file.folder.path() / "other").string());
  CHECK(other != file.before);
  CHECK_FALSE(other.same_file(file.before));
  CHECK_FALSE(FileFacts{.device = 1, .inode = 7}.same_file({.device = 2, .inode = 7}));
  CHECK(S_ISDIR(facts_of(file.folder.path().string()).mode));
}

TEST_CASE("facts: a write shows, also one of as many bytes; it is the same file") {
  const KnownFile file;
  CHECK(file.differs_after([&] { file.folder.write("file", "54321"); }));
  CHECK(facts_of(file.path).size == 5);
  CHECK(file.same_file());
}

TEST_CASE("facts: a write is not hidden by setting the modification time back") {
  const KnownFile file;
  struct ::stat times {};
  REQUIRE(::stat(file.path.c_str(), &times) == 0);
  CHECK(file.differs_after([&] {
    file.folder.write("file", "54321");
    const std::array<timespec, 2> as_before{times.st_atim, times.st_mtim};
    REQUIRE(::utimensat(AT_FDCWD, file.path.c_str(), as_before.data(), 0) == 0);
  }));
  struct ::stat later {};
  REQUIRE(::stat(file.path.c_str(), &later) == 0);
  CHECK(later.st_mtim.tv_sec == times.st_mtim.tv_sec);
  CHECK(later.st_mtim.tv_nsec == times.st_mtim.tv_nsec);
  CHECK(file.same_file());
}

TEST_CASE(
    "facts: a file that was renamed over is another file; so is a path that was deleted and made again") {
  const KnownFile file;
  file.folder.write("new", "54321");
  std::filesystem::rename(file.folder.path() / "new", file.path);
  CHECK(facts_of(file.path) != file.before);
  CHECK_FALSE(file.same_file());

  // The inode's number may be used again at once. What differs then is the change time.
  const KnownFile again;
  CHECK(again.differs_after([&] {
    std::filesystem::remove(again.path);
    again.folder.write("file", "12345");
  }));
}

TEST_CASE("facts: what O_DIRECT asks for; 4096 where the kernel does not know, 0 where it cannot be done") {
  struct ::statx result {};
  result.stx_mask = STATX_BASIC_STATS | STATX_DIOALIGN;
  result.stx_dio_offset_align = 512;
  result.stx_dio_mem_align = 4;
  CHECK(common::facts_of(result).offset_alignment == 512);
  CHECK(common::facts_of(result).memory_alignment == 4);
  result.stx_dio_offset_align = 0;
  CHECK(common::facts_of(result).offset_alignment == 0);
  result.stx_mask = STATX_BASIC_STATS;
  CHECK(common::facts_of(result).offset_alignment == 4096);
  CHECK(common::facts_of(result).memory_alignment == 4096);
}

TEST_CASE("facts: device and size keep all their bits") {
  struct ::statx result {};
  result.stx_size = std::numeric_limits<std::uint64_t>::max();
  result.stx_dev_major = 0x8000'0001;
  result.stx_dev_minor = 0xffff'ffff;
  result.stx_ctime.tv_sec = -1;
  result.stx_ctime.tv_nsec = 999'999'999;
  const FileFacts facts = common::facts_of(result);
  CHECK(facts.size == std::numeric_limits<std::uint64_t>::max());
  CHECK(facts.device == 0x8000'0001'ffff'ffff);
  CHECK(facts.changed_seconds == -1);
  CHECK(facts.changed_nanoseconds == 999'999'999);
}

TEST_CASE("an intrusive list is first in, first out") {
  Element a{'a'}, b{'b'}, c{'c'};
  FirstList list;
  CHECK(names(list).empty());
  CHECK(list.pop_front() == nullptr);
  for (Element* element : {&a, &b, &c}) list.push_back(*element);
  CHECK(names(list) == "abc");
  CHECK(list.pop_front() == &a);
  CHECK_FALSE(FirstList::contains(a));
  list.push_back(a);
  CHECK(names(list) == "bca");
  CHECK(list.pop_front() == &b);
  CHECK(list.pop_front() == &c);
  CHECK(list.pop_front() == &a);
  CHECK(list.pop_front() == nullptr);
  CHECK(names(list).empty());
}

TEST_CASE("an element leaves an intrusive list from any place, and leaving twice does nothing") {
  Element a{'a'}, b{'b'}, c{'c'}, d{'d'}, stranger{'x'};
  FirstList list;
  for (Element* element : {&a, &b, &c, &d}) list.push_back(*element);
  list.remove(stranger);
  CHECK(names(list) == "abcd");
  CHECK(FirstList::contains(b));
  list.remove(b);
  CHECK_FALSE(FirstList::contains(b));
  CHECK(names(list) == "acd");
  list.remove(b);
  CHECK(names(list) == "acd");
  list.remove(a);
  CHECK(names(list) == "cd");
  CHECK(list.first() == &c);
  list.remove(d);
  CHECK(names(list) == "c");
  CHECK(FirstList::contains(c));  // alone: linked, with no neighbours
  list.remove(c);
  CHECK(names(list).empty());
  list.push_back(d);
  list.push_back(b);
  CHECK(names(list) == "db");
  list.remove(d);
  list.remove(b);
}

TEST_CASE("an element stands in as many intrusive lists as it has links") {
  Element a{'a'}, b{'b'};
  FirstList first;
  SecondList second;
  first.push_back(a);
  first.push_back(b);
  second.push_back(b);
  second.push_back(a);
  CHECK(names(first) == "ab");
  CHECK(names(second) == "ba");
  first.remove(a);
  CHECK(names(first) == "b");
  CHECK(names(second) == "ba");
  CHECK(SecondList::contains(a));
  CHECK(second.pop_front() == &b);
  CHECK(FirstList::contains(b));
}

TEST_CASE("open descriptors are counted without the one that counts them") {
  const std::uint64_t before = common::open_descriptors();
  const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK(common::open_descriptors() == before + 1);
  ::close(fd);
  CHECK(common::open_descriptors() == before);
}

TEST_CASE("options of file servers: buffers in multiples of 4K, at least two of them") {
  common::FileOptions options;
  CHECK(answer({}, options) == "accepted");
  CHECK(options.buffers == 256);
  CHECK(options.buffer_size == 65536);
  CHECK(options.open_files == 1024);
  CHECK_FALSE(options.direct);
  CHECK(answer({"--buffer-size", "12K", "--buffers=2", "--open-files", "0", "--direct"}, options) ==
        "accepted");
  CHECK(options.buffers == 2);
  CHECK(options.buffer_size == 12288);
  CHECK(options.open_files == 0);
  CHECK(options.direct);
  CHECK(answer({"--buffer-size=16M"}) == "accepted");
  CHECK(answer({"--buffer-size", "5000"}) ==
        "--buffer-size 5000: not a multiple of 4096, which O_DIRECT and registration want");
  for (const char* argument : {"--buffer-size=4095", "--buffer-size=16385K", "--buffers=1", "--buffers=16385",
                               "--open-files=1000001"}) {
    CAPTURE(argument);
    CHECK(answer({argument}).rfind(std::string(argument).substr(0, 9), 0) == 0);
  }
}

// Records and recovery: what is a record and what only looks like one, and where a log ends after its file was cut, torn
// or spoiled at any byte.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "servers/m4_ordered_log/recovery.hpp"
#include "servers/m4_ordered_log/wire.hpp"

namespace {

using namespace ordered_log;
using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// The record of `text` for `offset`, behind what is there.
void append(Bytes& log, std::string_view text) {
  const std::size_t offset = log.size();
  log.resize(offset + header_bytes);
  const Bytes bytes = bytes_of(text);
  log.insert(log.end(), bytes.begin(), bytes.end());
  seal(std::span(log).subspan(offset), offset);
}

common::Descriptor file_of(const Bytes& bytes) {
  common::Descriptor file(::memfd_create("log", MFD_CLOEXEC));
  REQUIRE(::write(file.get(), bytes.data(), bytes.size()) == static_cast<::ssize_t>(bytes.size()));
  return file;
}

/// Three records, and where each begins and the last ends.
struct Example {
  Bytes log{};
  std::vector<std::uint64_t> at{};

  Example() {
    for (const std::string_view text :
         {"the first record", "", "the third one, which is longer than the others"}) {
      at.push_back(log.size());
      append(log, text);
    }
    at.push_back(log.size());
  }
  /// How many whole records lie in front of this byte.
  std::uint64_t whole_before(std::size_t byte) const {
    std::uint64_t count = 0;
    while (count < 3 && at[count + 1] <= byte) ++count;
    return count;
  }
};

}  // namespace

TEST_CASE("CRC32C is the one that everybody has, however the bytes are cut") {
  const Bytes digits = bytes_of("123456789");
  CHECK(crc32c(digits) == 0xe3069283);
  CHECK(crc32c({}) == 0);
  CHECK(crc32c(Bytes(32)) == 0x8a9136aa);  // of RFC 3720
  for (std::size_t cut = 0; cut <= digits.size(); ++cut) {
    const std::span<const std::byte> all(digits);
    CHECK(crc32c(all.subspan(cut), crc32c(all.first(cut))) == 0xe3069283);
  }
}

TEST_CASE("a record is known at its own offset, whole, and nowhere else") {
  const Example example;
  const std::span<const std::byte> all(example.log);
  CHECK(record_at(all, 0) == 36);
  CHECK(record_at(all.subspan(36), 36) == 20);  // an empty one
  CHECK(!record_at(all, 36));                   // moved
  CHECK(!record_at(all.subspan(1), 1));
  CHECK(!record_at(all.first(35), 0));
  CHECK(!record_at({}, 0));
}

TEST_CASE("recovery keeps the whole records in front of a torn tail and cuts it off, wherever it was torn") {
  const Example example;
  for (std::size_t size = 0; size <= example.log.size(); ++size) {
    CAPTURE(size);
    const common::Descriptor file =
        file_of({example.log.begin(), example.log.begin() + static_cast<std::ptrdiff_t>(size)});
    const Found found = recover(file.get());
    CHECK(found.records == example.whole_before(size));
    CHECK(found.end == example.at[found.records]);
    CHECK(found.size == size);
    CHECK(::lseek(file.get(), 0, SEEK_END) == static_cast<::off_t>(found.end));
  }
}

TEST_CASE("no byte of a record can change without being noticed") {
  const Example example;
  // From the second record on: a log whose very first bytes are wrong is none.
  for (std::size_t byte = example.at[1]; byte < example.log.size(); ++byte) {
    for (const unsigned flip : {1u, 0x80u, 0xffu}) {
      CAPTURE(byte);
      Bytes spoiled = example.log;
      spoiled[byte] ^= static_cast<std::byte>(flip);
      CHECK(scan(file_of(spoiled).get(), [](std::uint64_t, std::span<const std::byte>) {}).records ==
            example.whole_before(byte));
    }
  }
}

TEST_CASE("records behind a gap were promised to nobody, and go with the tail") {
  Example example;
  std::memset(example.log.data() + example.at[1], 0, header_bytes);
  const common::Descriptor file = file_of(example.log);
  CHECK(recover(file.get()).end == example.at[1]);
  CHECK(::lseek(file.get(), 0, SEEK_END) == static_cast<::off_t>(example.at[1]));
}

TEST_CASE("a file that is no log is left alone; one whose first record was torn is a log") {
  const common::Descriptor letter = file_of(bytes_of("Dear reader, this is no log"));
  CHECK_THROWS_AS(recover(letter.get()), common::StartError);
  CHECK(::lseek(letter.get(), 0, SEEK_END) == 27);
  for (const char* torn : {"RLOG", "RL", "RLOG and more", ""})
    CHECK(recover(file_of(bytes_of(torn)).get()).end == 0);
  CHECK(recover(file_of(Bytes(5000)).get()).end == 0);  // the size was there before the bytes
}

TEST_CASE("a log of many records of all sizes, longer than the buffer it is read by, is read to its end") {
  Bytes log;
  std::vector<std::size_t> sizes;
  for (const std::size_t length : {0u, 1u, 7u, 300'000u, 700'000u, 1u << 20, 12u, (1u << 20) - 20, 5u}) {
    append(log, std::string(length, 'x'));
    sizes.push_back(length);
  }
  std::size_t seen = 0;
  const Found found = scan(file_of(log).get(), [&](std::uint64_t, std::span<const std::byte> record) {
    CHECK(record.size() == header_bytes + sizes[seen++]);
  });
  CHECK(found.records == sizes.size());
  CHECK(found.end == log.size());
}

TEST_CASE("the line of a PUT: a number of at most 1 MiB, or the code that says what is wrong") {
  CHECK(parse_line("PUT 0").length == 0);
  CHECK(parse_line("PUT 0").code == 0);
  CHECK(parse_line("PUT 1048576").length == 1048576);
  CHECK(parse_line("PUT 0007").length == 7);
  for (const char* line : {"PUT 1048577", "PUT 18446744073709551616", "PUT 99999999999999999999999999"}) {
    CHECK(parse_line(line).code == 413);
  }
  for (const char* line :
       {"", "PUT", "PUT ", "PUT x", "PUT 1 ", "PUT -1", "PUT +1", "put 1", "PUT  1", "GET 1", "PUT 1\r"}) {
    CAPTURE(line);
    CHECK(parse_line(line).code == 400);
  }
}

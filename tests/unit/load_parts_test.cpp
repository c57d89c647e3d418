// The load generator's other parts, each alone: the timetable, the bytes, the names, the heads, the ratios.

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "bench/load/bottleneck.hpp"
#include "bench/load/cksum.hpp"
#include "bench/load/content_check.hpp"
#include "bench/load/http_head.hpp"
#include "bench/load/made_files.hpp"
#include "bench/load/pacing.hpp"
#include "bench/load/ratio.hpp"
#include "bench/load/target.hpp"
#include "bench/load/traffic.hpp"

namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// The whole request, put together from pieces of `piece` bytes.
std::string request_text(const load::Traffic& traffic, std::uint32_t connection, std::uint64_t number,
                         std::size_t piece) {
  load::HeadBuffer buffer;
  const load::Message message = load::message_at(traffic, connection, number);
  const std::string head(load::request_head(traffic, message, buffer));
  const std::uint64_t size = head.size() + load::payload_of(message);
  std::string text(size, '\0');
  for (std::uint64_t from = 0; from < size;) {
    const auto room =
        std::as_writable_bytes(std::span(text)).subspan(from, std::min<std::size_t>(piece, size - from));
    from += load::write_request(room, message, head, from);
  }
  return text;
}

load::Traffic gets(bool http, std::uint64_t block) {
  load::Traffic traffic;
  traffic.kind = load::Kind::get;
  traffic.http = http;
  traffic.block = block;
  traffic.connections = 3;
  for (const char* const path : {"made.8K.0", "a b/x.made"}) {
    load::File file;
    file.path = path;
    file.size = 8192;
    file.seed = common::content_seed(path);
    traffic.files.push_back(file);
  }
  return traffic;
}

}  // namespace

// ---- Pacing ------------------------------------------------------------------------------------------------

TEST_CASE("a timetable gives every index to one connection, and every message its time") {
  const load::Timetable timetable{.start = 5000, .rate = 3'000'000, .connections = 7, .end = 1000};
  for (std::uint64_t next = 0; next < 60; ++next) {
    std::uint64_t sum = 0;
    for (std::uint64_t connection = 0; connection < 7; ++connection) {
      const std::uint64_t messages = timetable.messages_below(next, connection);
      sum += messages;
      if (messages > 0) CHECK(timetable.index_of(connection, messages - 1) < next);
      CHECK(timetable.index_of(connection, messages) >= next);
    }
    CHECK(sum == next);
  }
  CHECK(timetable.due_at(0) == 5000);
  CHECK(timetable.due_at(3) == 6000);
  CHECK(timetable.due_at(3'000'000) == 5000 + load::second);
  CHECK(timetable.due_at(9'000'000'000) == 5000 + 3000 * load::second);
}

// ---- Bytes -------------------------------------------------------------------------------------------------

TEST_CASE("four words at a time say the same as one by one: every alignment, every place of a wrong byte") {
  std::mt19937_64 random(3);
  for (int round = 0; round < 400; ++round) {
    const std::uint64_t seed = random(), offset = random() % 1'000'000;
    std::vector<std::byte> bytes(random() % 4000);
    common::fill_content(bytes, seed, offset);
    REQUIRE(load::check_content(bytes, seed, offset) == bytes.size());
    if (bytes.empty()) continue;
    const std::size_t wrong = random() % bytes.size();
    bytes[wrong] ^= static_cast<std::byte>(1U << (random() % 8));
    REQUIRE(load::check_content(bytes, seed, offset) == wrong);
    REQUIRE(load::content_detail::right_blocks_anywhere(bytes, seed, offset / 8 * 8) <= wrong);
  }
}

TEST_CASE("the checksum is the one that cksum prints, however the bytes are cut") {
  const auto value_of = [](const std::string& text) {
    load::Cksum checksum;
    checksum.add(bytes_of(text));
    return checksum.value();
  };
  CHECK(value_of("") == 4294967295U);
  CHECK(value_of("123456789") == 930766865U);
  CHECK(value_of("io_uring\n") == 2023506102U);
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(i * 7 % 251);
  std::mt19937 random(4);
  for (int round = 0; round < 50; ++round) {
    load::Cksum checksum;
    for (std::span<const std::byte> left = bytes_of(text); !left.empty();) {
      const std::size_t n = std::min<std::size_t>(left.size(), random() % 40);
      checksum.add(left.first(n));
      left = left.subspan(n);
    }
    CHECK(checksum.value() == value_of(text));
  }
}

TEST_CASE("a request is the same bytes, however small the pieces in which it goes out") {
  load::Traffic echo{.kind = load::Kind::echo_line, .size = 100};
  load::prepare(echo, "host");
  for (const std::size_t piece : {1U, 7U, 64U, 1000U}) {
    CHECK(request_text(echo, 1, 5, piece) == request_text(echo, 1, 5, 4096));
  }
  CHECK(request_text(echo, 1, 5, 4096).starts_with("ECHO 100\n"));
  CHECK(request_text(echo, 1, 5, 4096).size() == 109);
}

TEST_CASE("consecutive echoes of a connection are one stream, and no two connections have the same") {
  load::Traffic echo{.size = 24};
  load::prepare(echo, "host");
  std::string stream;
  for (std::uint64_t number = 0; number < 10; ++number) stream += request_text(echo, 2, number, 4096);
  const std::uint64_t seed = common::content_word(echo.seed, 2);
  CHECK(common::verify_content(bytes_of(stream), seed, 0) == stream.size());
  std::set<std::string> seen;
  for (std::uint32_t connection = 0; connection < 50; ++connection) {
    for (std::uint64_t number = 0; number < 20; ++number)
      seen.insert(request_text(echo, connection, number, 4096));
  }
  CHECK(seen.size() == 1000);
}

TEST_CASE("the requests for files, in both forms") {
  load::Traffic lines = gets(false, 0);
  load::prepare(lines, "host");
  CHECK(request_text(lines, 0, 0, 4096) == "GET made.8K.0\n");
  CHECK(request_text(lines, 1, 0, 4096) == "GET a b/x.made\n");
  CHECK(request_text(lines, 2, 0, 4096) == "GET made.8K.0\n");
  CHECK(request_text(lines, 0, 1, 4096) == "GET a b/x.made\n");
  CHECK(load::answer_head(lines, load::message_at(lines, 0, 0)) == "OK 8192\n");

  load::Traffic http = gets(true, 0);
  load::prepare(http, "host:80");
  CHECK(request_text(http, 1, 0, 4096) == "GET /a%20b/x.made HTTP/1.1\r\nHost: host:80\r\n\r\n");

  load::Traffic ranges = gets(true, 4096);
  load::prepare(ranges, "h");
  std::set<std::string> both;
  for (std::uint64_t number = 0; number < 64; ++number) both.insert(request_text(ranges, 0, number, 10));
  const std::string begin = "GET /made.8K.0 HTTP/1.1\r\nHost: h\r\nRange: bytes=";
  CHECK(both == std::set<std::string>{begin + "0-4095\r\n\r\n", begin + "4096-8191\r\n\r\n"});

  load::Traffic line_ranges = gets(false, 8192);
  load::prepare(line_ranges, "h");
  CHECK(request_text(line_ranges, 0, 3, 10) == "GET made.8K.0 0 8192\n");
  CHECK(load::answer_head(line_ranges, load::message_at(line_ranges, 0, 0)) == "OK 8192\n");
}

// ---- Names -------------------------------------------------------------------------------------------------

TEST_CASE("a made name says its size, and nothing else passes for one") {
  for (const std::uint64_t size :
       {0ULL, 1ULL, 1000ULL, 4096ULL, 65536ULL, 10ULL << 20, 2ULL << 30, 3ULL << 40}) {
    const std::string name = load::made_name(size, 7);
    CAPTURE(name);
    CHECK(load::made_size(name) == size);
    CHECK(load::made_size("some/folder/" + name) == size);
  }
  CHECK(load::made_name(65536, 3) == "made.64K.3");
  CHECK(load::made_name(2ULL << 30, 0) == "made.2G.0");
  for (const char* const name :
       {"", "made", "made.", "made.4K", "made.4K.", "made.4K.x", "made.x.1", "made..1", "4K.1", "made.4K.1/",
        "made.-1.1", "made.9999999999G.1", "made.4KK.1", "xmade.4K.1"}) {
    CAPTURE(name);
    CHECK(load::made_size(name) == std::nullopt);
  }
}

TEST_CASE("connections beyond the ports of one address come from the next") {
  CHECK(load::source_address(0, load::connections_per_source) == INADDR_LOOPBACK);
  CHECK(load::source_address(27'999, load::connections_per_source) == INADDR_LOOPBACK);
  CHECK(load::source_address(28'000, load::connections_per_source) == INADDR_LOOPBACK + 1);
  CHECK(load::source_address(100'000, load::connections_per_source) == INADDR_LOOPBACK + 3);
  for (std::uint64_t i = 0; i < 2000; ++i) CHECK((load::source_address(i, 1) >> 8) == INADDR_LOOPBACK >> 8);
}

// ---- Heads -------------------------------------------------------------------------------------------------

TEST_CASE("the head of an HTTP answer must be the right one") {
  const load::ExpectedHead whole{.status = 200, .length = 12};
  const load::ExpectedHead part{.status = 206, .length = 12, .content_range = "bytes 0-11/90"};
  const auto right = [](const std::string& head, const load::ExpectedHead& expected) {
    return load::http_head_problem(head, expected).empty();
  };
  CHECK(right("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", whole));
  CHECK(right("HTTP/1.0 200 Fine\r\nDate: today\r\ncontent-LENGTH:\t12 \r\nA: b:c\r\n\r\n", whole));
  CHECK(right("HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\nContent-Range: bytes 0-11/90\r\n\r\n",
              part));

  CHECK_FALSE(right("HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\n", whole));
  CHECK_FALSE(right("HTTP/1.1 2000 OK\r\nContent-Length: 12\r\n\r\n", whole));
  CHECK_FALSE(right("HTTP/2.0 200 OK\r\nContent-Length: 12\r\n\r\n", whole));
  CHECK_FALSE(right("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n", whole));
  CHECK_FALSE(right("HTTP/1.1 200 OK\r\n\r\n", whole));
  CHECK_FALSE(right("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Length: 12\r\n\r\n", whole));
  CHECK_FALSE(right("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n", whole));
  CHECK_FALSE(right("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nno colon\r\n\r\n", whole));
  CHECK_FALSE(right(
      "HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\nContent-Range: bytes 1-12/90\r\n\r\n", part));
  CHECK_FALSE(right("HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\n\r\n", part));
  CHECK(load::http_head_problem("HTTP/1.1 404 No\r\n\r\n", whole) ==
        "expected 'HTTP/1.1 200 ...', got 'HTTP/1.1 404 No'");
}

// ---- Judgements --------------------------------------------------------------------------------------------

TEST_CASE("the generator says when it was the bottleneck") {
  using load::Limit;
  CHECK(load::limit_of(0.50, 0.99) == Limit::server);
  CHECK(load::limit_of(0.95, 0.96) == Limit::server);
  CHECK(load::limit_of(0.95, 0.60) == Limit::generator);
  CHECK(load::limit_of(0.90, 0.94) == Limit::generator);
  CHECK(load::limit_of(0.50, 0.60) == Limit::neither);
  CHECK(load::limit_of(0.95, std::nullopt) == Limit::perhaps_generator);
  CHECK(load::limit_of(0.50, std::nullopt) == Limit::unknown);
}

TEST_CASE("the median and its interval, on numbers whose answer is known") {
  CHECK(load::median_of({3, 1, 2}) == 2);
  CHECK(load::median_of({4, 1, 2, 3}) == 2.5);
  CHECK(load::median_of({7}) == 7);

  const std::vector<double> same(8, 1.25);
  const load::Interval exact = load::bootstrap(same);
  CHECK(exact.low == 1.25);
  CHECK(exact.median == 1.25);
  CHECK(exact.high == 1.25);

  // Of four ratios the interval comes near the lowest and the highest, and stays between them.
  const std::vector<double> few{0.9, 1.0, 1.1, 1.2};
  const load::Interval wide = load::bootstrap(few);
  CHECK(wide.median == doctest::Approx(1.05));
  CHECK(wide.low >= 0.9);
  CHECK(wide.low <= 0.96);
  CHECK(wide.high <= 1.2);
  CHECK(wide.high >= 1.14);
  CHECK(load::bootstrap(few).low == wide.low);
}

TEST_CASE("a verdict needs the whole interval on one side of 1") {
  using load::Verdict;
  CHECK(load::judge({.low = 1.01, .median = 1.1, .high = 1.2}) == Verdict::first_is_better);
  CHECK(load::judge({.low = 0.8, .median = 0.9, .high = 0.99}) == Verdict::second_is_better);
  CHECK(load::judge({.low = 0.99, .median = 1.1, .high = 1.2}) == Verdict::no_difference);
  CHECK(load::judge({.low = 1, .median = 1, .high = 1}) == Verdict::no_difference);
}

TEST_CASE("equal servers are called different in few comparisons, from six ratios on") {
  std::mt19937_64 random(5);
  std::normal_distribution<double> noise(1.0, 0.05);
  for (const std::size_t size : {6U, 8U, 12U}) {
    int different = 0;
    for (int comparison = 0; comparison < 50; ++comparison) {
      std::vector<double> ratios(size);
      for (double& ratio : ratios) ratio = noise(random);
      different += load::judge(load::bootstrap(ratios)) == load::Verdict::no_difference ? 0 : 1;
    }
    CHECK(different <= 9);  // of 50; 3 or 4 expected, and the seed is fixed
  }
}

TEST_CASE("a difference of three times the noise is seen with eight ratios") {
  std::mt19937_64 random(6);
  std::normal_distribution<double> noise(1.10, 0.03);
  std::vector<double> ratios(8);
  for (double& ratio : ratios) ratio = noise(random);
  CHECK(load::judge(load::bootstrap(ratios)) == load::Verdict::first_is_better);
  for (double& ratio : ratios) ratio = 1 / ratio;
  CHECK(load::judge(load::bootstrap(ratios)) == load::Verdict::second_is_better);
}

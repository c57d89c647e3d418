#include "bench/load/verify.hpp"

#include <algorithm>
#include <cstdio>

#include "bench/load/content_check.hpp"
#include "bench/load/http_head.hpp"

namespace load {
namespace {

constexpr std::size_t max_http_head = 16384;
constexpr std::size_t kept_for_origin = 32;

// One connection's side of a conversation, for as long as take() runs.
struct Place {
  const Traffic& traffic;
  std::uint32_t connection;
  std::uint32_t id;
  const Sending& out;
  Receiving& in;
};

using Bytes = std::span<const std::byte>;

std::string_view as_text(Bytes bytes) {
  const void* const data = bytes.data();
  return {static_cast<const char*>(data), bytes.size()};
}

// 'ERR 404 no such file', 'OK 40\x0d'
std::string quoted(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    if (c >= ' ' && c <= '~') {
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      result += hex;
    }
  }
  return result + "'";
}

std::string hex(std::byte byte) {
  char text[8];
  std::snprintf(text, sizeof text, "0x%02x", std::to_integer<unsigned>(byte));
  return text;
}

// `where` continues "connection 3, message 17 (GET a)": ", byte 5 of 10: expected …, got …".
[[noreturn]] void wrong(const Place& place, const char* kind, std::uint64_t offset, const std::string& where,
                        const std::string& expected, const std::string& got, Bytes bytes) {
  const Message message = message_at(place.traffic, place.connection, place.in.answered);
  WrongAnswer answer(std::string(kind) + ": connection " + std::to_string(place.id) + ", message " +
                     std::to_string(place.in.answered) + " (" + describe(place.traffic, message) + ")" +
                     where);
  answer.kind = kind;
  answer.connection = place.id;
  answer.message = place.in.answered;
  answer.offset = offset;
  answer.expected = expected;
  answer.got = got;
  bytes = bytes.first(std::min(bytes.size(), kept_for_origin));
  answer.bytes.assign(bytes.begin(), bytes.end());
  throw answer;
}

// Bytes that may still come for what has gone out: of the body of an echo; any number for the others once
// their request is out.
std::uint64_t allowed(const Place& place) {
  if (place.traffic.kind == Kind::echo) {
    const std::uint64_t out = place.out.sent * place.traffic.size + place.out.part;
    return out - (place.in.answered * place.traffic.size + place.in.body);
  }
  return place.in.answered < place.out.sent ? UINT64_MAX : 0;
}

[[noreturn]] void trailing(const Place& place, Bytes bytes) {
  const std::string count = std::to_string(bytes.size()) + (bytes.size() == 1 ? " byte" : " bytes");
  const std::string got = quoted(as_text(bytes.first(std::min<std::size_t>(bytes.size(), 16))));
  std::string where = " was not asked for, or not yet, and ";
  where += count + " came: " + got;
  wrong(place, "trailing bytes", place.in.body, where, "nothing", got, bytes);
}

[[noreturn]] void wrong_head(const Place& place, std::string_view expected, std::string_view got) {
  const bool same_words = got.starts_with("OK ") && expected.starts_with("OK ");
  const std::string kind = same_words ? "wrong length" : "wrong status";
  got = got.substr(0, std::min<std::size_t>(got.find('\n'), 200));
  if (expected.ends_with('\n')) expected.remove_suffix(1);
  std::size_t offset = 0;
  while (offset < std::min(expected.size(), got.size()) && expected[offset] == got[offset]) ++offset;
  wrong(place, kind.c_str(), offset, ": expected " + quoted(expected) + ", got " + quoted(got),
        quoted(expected), quoted(got), std::as_bytes(std::span(got)));
}

std::size_t take_line_head(const Place& place, const Message& message, Bytes bytes) {
  const std::string_view expected = answer_head(place.traffic, message);
  std::string& kept = place.in.head;
  const std::string_view came = as_text(bytes);
  if (kept.empty() && came.starts_with(expected)) {
    place.in.head_done = true;
    return expected.size();
  }
  const std::size_t used = std::min(came.size(), expected.size() - kept.size());
  if (expected.substr(kept.size(), used) != came.substr(0, used)) {
    wrong_head(place, expected, kept + std::string(came));
  }
  kept += came.substr(0, used);
  if (kept.size() == expected.size()) {
    place.in.head_done = true;
    kept.clear();
  }
  return used;
}

ExpectedHead expected_http_head(const Traffic& traffic, const Message& message) {
  if (traffic.block == 0) return {.status = 200, .length = message.length};
  return {.status = 206,
          .length = message.length,
          .content_range = "bytes " + std::to_string(message.offset) + "-" +
                           std::to_string(message.offset + message.length - 1) + "/" +
                           std::to_string(message.file->size)};
}

std::size_t take_http_head(const Place& place, const Message& message, Bytes bytes) {
  std::string& kept = place.in.head;
  const std::size_t before = kept.size();
  const std::size_t taken = std::min<std::size_t>(bytes.size(), 512);
  kept += as_text(bytes.first(taken));
  const std::size_t end = kept.find("\r\n\r\n", before < 3 ? 0 : before - 3);
  if (end == kept.npos) {
    const std::string_view begin = "HTTP/1.";
    const bool is_http = std::string_view(kept).substr(0, begin.size()) == begin.substr(0, kept.size());
    if (!is_http || kept.size() > max_http_head) wrong_head(place, "HTTP/1.1 200 OK", kept);
    return taken;
  }
  kept.resize(end + 4);
  const std::string problem = http_head_problem(kept, expected_http_head(place.traffic, message));
  if (!problem.empty()) {
    const char* const kind = problem.find("Content-") != problem.npos ? "wrong length" : "wrong status";
    wrong(place, kind, 0, ": " + problem, "", problem, {});
  }
  const std::size_t used = kept.size() - before;
  kept.clear();
  place.in.head_done = true;
  return used;
}

std::size_t take_body(const Place& place, const Message& message, Bytes bytes) {
  Receiving& in = place.in;
  std::uint64_t fits = std::min<std::uint64_t>(message.length - in.body, bytes.size());
  fits = std::min(fits, allowed(place));
  bytes = bytes.first(fits);
  if (message.file != nullptr && message.file->checksum) {
    in.checksum.add(bytes);
  } else {
    const std::size_t right = check_content(bytes, message.seed, message.offset + in.body);
    if (right != bytes.size()) {
      std::byte expected{};
      common::fill_content({&expected, 1}, message.seed, message.offset + in.body + right);
      wrong(place, "wrong byte", in.body + right,
            ", byte " + std::to_string(in.body + right) + " of " + std::to_string(message.length) +
                ": expected " + hex(expected) + ", got " + hex(bytes[right]),
            hex(expected), hex(bytes[right]), bytes.subspan(right));
    }
  }
  in.body += fits;
  return bytes.size();
}

void finish(const Place& place, const Message& message) {
  Receiving& in = place.in;
  if (message.file != nullptr && message.file->checksum && in.checksum.value() != *message.file->checksum) {
    const std::string expected = std::to_string(*message.file->checksum);
    const std::string got = std::to_string(in.checksum.value());
    wrong(place, "wrong checksum", 0, ": expected " + expected + ", got " + got, expected, got, {});
  }
  ++in.answered;
  in.body = 0;
  in.head_done = false;
  in.checksum = {};
}

}  // namespace

std::uint64_t take(const Traffic& traffic, std::uint32_t connection, std::uint32_t id, const Sending& out,
                   Receiving& in, std::span<const std::byte> bytes) {
  const Place place{traffic, connection, id, out, in};
  const std::uint64_t before = in.answered;
  while (!bytes.empty()) {
    if (allowed(place) == 0) trailing(place, bytes);
    const Message message = message_at(traffic, connection, in.answered);
    if (traffic.kind == Kind::echo) in.head_done = true;
    if (!in.head_done) {
      bytes = bytes.subspan(traffic.http ? take_http_head(place, message, bytes)
                                         : take_line_head(place, message, bytes));
    }
    if (in.head_done) bytes = bytes.subspan(take_body(place, message, bytes));
    if (in.head_done && in.body == message.length) finish(place, message);
  }
  return in.answered - before;
}

std::string progress_text(const Traffic& traffic, std::uint32_t connection, const Receiving& in) {
  const Message message = message_at(traffic, connection, in.answered);
  return "message " + std::to_string(in.answered) + " (" + describe(traffic, message) +
         "): " + std::to_string(in.body) + " of " + std::to_string(message.length) + " bytes had come";
}

}  // namespace load

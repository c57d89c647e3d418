// The head of an HTTP answer, held against the only one that would be right.
//
//   HTTP/1.1 206 Partial Content\r\n       the status must be the one that the request deserves
//   Content-Length: 4096\r\n               and this the length, given once: nothing else ends the answer
//   Content-Range: bytes 0-4095/9000\r\n   of a range: exactly this
//   Whatever: else\r\n                     servers may say more
//   \r\n
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace load {

struct ExpectedHead {
  int status = 200;
  std::uint64_t length = 0;
  std::string content_range{};  // "bytes 0-4095/9000"; empty: not looked at
};

namespace http_detail {

inline bool same_name(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const char lower = a[i] >= 'A' && a[i] <= 'Z' ? static_cast<char>(a[i] + ('a' - 'A')) : a[i];
    if (lower != b[i]) return false;
  }
  return true;
}

inline std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

inline std::string expected_but(const std::string& expected, std::string_view got) {
  return "expected '" + expected + "', got '" + std::string(got) + "'";
}

}  // namespace http_detail

/// What is wrong with `head` (up to and with its empty line), as "expected …, got …"; empty if nothing is.
inline std::string http_head_problem(std::string_view head, const ExpectedHead& expected) {
  using namespace http_detail;
  const std::size_t line_end = head.find("\r\n");
  const std::string_view status_line = head.substr(0, line_end);
  const std::string status = " " + std::to_string(expected.status) + " ";
  if (!(status_line.starts_with("HTTP/1.1") || status_line.starts_with("HTTP/1.0")) ||
      status_line.substr(8, 5) != status) {
    return expected_but("HTTP/1.1" + status + "...", status_line);
  }
  int lengths = 0;
  bool range_seen = false;
  for (std::string_view rest = head.substr(line_end + 2); rest != "\r\n";) {
    const std::size_t end = rest.find("\r\n");
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end + 2);
    const std::size_t colon = line.find(':');
    if (colon == line.npos) return expected_but("Name: value", line);
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (same_name(name, "content-length")) {
      ++lengths;
      const std::string length = std::to_string(expected.length);
      if (value != length) return expected_but("Content-Length: " + length, line);
    } else if (same_name(name, "content-range")) {
      range_seen = true;
      if (!expected.content_range.empty() && value != expected.content_range) {
        return expected_but("Content-Range: " + expected.content_range, line);
      }
    } else if (same_name(name, "transfer-encoding")) {
      return expected_but("Content-Length", line);
    }
  }
  if (lengths != 1) return expected_but("one Content-Length", std::to_string(lengths) + " of them");
  if (!expected.content_range.empty() && !range_seen) {
    return expected_but("Content-Range: " + expected.content_range, "none");
  }
  return "";
}

}  // namespace load

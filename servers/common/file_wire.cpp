#include "servers/common/file_wire.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <limits>
#include <optional>

namespace common {
namespace {

constexpr std::uint64_t max_u64 = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t number_limit = std::uint64_t{1} << 63;

// A line may be this long before we stop waiting for its end.
constexpr std::size_t max_unfinished_bytes = 8192;

// RFC 9110: tchar.
constexpr std::array<bool, 256> token_chars = [] {
  std::array<bool, 256> table{};
  for (const char c : std::string_view("!#$%&'*+-.^_`|~0123456789"
                                       "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")) {
    table[static_cast<unsigned char>(c)] = true;
  }
  return table;
}();

// How many token characters `text` begins with.
std::size_t token_size(std::string_view text) {
  std::size_t size = 0;
  while (size < text.size() && token_chars[static_cast<unsigned char>(text[size])]) ++size;
  return size;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Without its LF, or CR LF.
std::string_view without_end(std::string_view line) {
  line.remove_suffix(1);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// `lower` has small letters and hyphens only. Setting bit 5 maps nothing else onto those but CR onto the
// hyphen, and where this is asked, a CR has been refused.
bool equals_ignoring_case(std::string_view text, std::string_view lower) {
  if (text.size() != lower.size()) return false;
  for (std::size_t i = 0; i < lower.size(); ++i) {
    if ((text[i] | 0x20) != lower[i]) return false;
  }
  return true;
}

// Digits only, at least one. What may not fit, from 2^64 - 6 on, is the greatest number there is.
std::optional<std::uint64_t> number_from(std::string_view text) {
  if (text.empty()) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text) {
    if (!is_digit(c)) return std::nullopt;
    value = value > (max_u64 - 9) / 10 ? max_u64 : value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

// "HTTP/1.1" from a line that ends in a space and HTTP/digit.digit; else empty.
std::string_view http_version(std::string_view line) {
  constexpr std::size_t size = sizeof "HTTP/1.1" - 1;
  if (line.size() <= size || line[line.size() - size - 1] != ' ') return {};
  const std::string_view version = line.substr(line.size() - size);
  const bool is_http =
      version.starts_with("HTTP/") && is_digit(version[5]) && version[6] == '.' && is_digit(version[7]);
  return is_http ? version : std::string_view{};
}

void refuse(Request& request, std::uint16_t code, const char* why) {
  request.refusal = code;
  request.why = why;
  if (code != 403) request.keep = false;
}

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  const int lower = c | 0x20;
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Decodes %XX from `raw` to `out`, which is as long at least. Returns the bytes written; -1: a bad escape, or
// a NUL.
std::ptrdiff_t decode(std::string_view raw, char* out) {
  char* to = out;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '%') {
      *to++ = raw[i];
      continue;
    }
    if (raw.size() - i < 3) return -1;
    const int high = hex_value(raw[i + 1]);
    const int low = hex_value(raw[i + 2]);
    if (high < 0 || low < 0 || high + low == 0) return -1;
    *to++ = static_cast<char>(high * 16 + low);
    i += 2;
  }
  return to - out;
}

// `raw` is shorter than a line, so it fits, and the NUL too.
void take_path(std::string_view raw, bool escaped, Request& request, TextBuffer& text) {
  if (!raw.empty() && raw.front() == '/') raw.remove_prefix(1);
  std::size_t size = raw.size();
  assert(size < sizeof text.bytes);
  if (escaped && std::memchr(raw.data(), '%', raw.size()) != nullptr) {
    const std::ptrdiff_t decoded = decode(raw, text.bytes);
    if (decoded < 0) return refuse(request, 400, "bad escape in the path");
    size = static_cast<std::size_t>(decoded);
  } else {
    std::memcpy(text.bytes, raw.data(), size);
  }
  text.bytes[size] = '\0';
  request.text = {text.bytes, size};
  if (size == 0) return refuse(request, 403, "not a regular file");
  if (text.bytes[0] == '/') return refuse(request, 403, "the path is not relative");
}

// ---- The line form ----

bool is_capital_word(std::string_view text) {
  for (const char c : text) {
    if (c < 'A' || c > 'Z') return false;
  }
  return !text.empty();
}

void parse_line(std::string_view line, Request& request, TextBuffer& text) {
  const std::size_t space = line.find(' ');
  if (space == line.npos) return refuse(request, 400, "malformed request");
  const std::string_view word = line.substr(0, space);
  if (word != "GET") {
    return is_capital_word(word) ? refuse(request, 501, "no such method")
                                 : refuse(request, 400, "malformed request");
  }
  line.remove_prefix(space + 1);
  const std::size_t path_size = std::min(line.find(' '), line.size());
  if (path_size == 0) return refuse(request, 400, "no path");
  if (std::memchr(line.data(), '\0', line.size()) != nullptr) {
    return refuse(request, 400, "NUL in the request");
  }
  if (path_size < line.size()) {
    const std::string_view numbers = line.substr(path_size + 1);
    const std::size_t between = numbers.find(' ');
    if (between == numbers.npos) return refuse(request, 400, "an offset needs a length");
    const auto offset = number_from(numbers.substr(0, between));
    const auto length = number_from(numbers.substr(between + 1));
    if (!offset || !length || *offset >= number_limit || *length >= number_limit) {
      return refuse(request, 400, "not a number below 2^63");
    }
    request.extent = Extent::part;
    request.offset = *offset;
    request.length = *length;
  }
  take_path(line.substr(0, path_size), false, request, text);
}

void take_echo(std::string_view bytes, Request& request, TextBuffer& text) {
  request.method = Method::echo;
  request.length = bytes.size();
  std::memcpy(text.bytes, bytes.data(), bytes.size());
  request.text = {text.bytes, bytes.size()};
}

// ---- The HTTP form ----

// The path of "/path?query" or "http://host/path?query"; data() is null if it is neither.
std::string_view path_of_target(std::string_view target) {
  if (target.size() > 7 && equals_ignoring_case(target.substr(0, 4), "http") &&
      target.substr(4, 3) == "://") {
    target.remove_prefix(7);
    const std::size_t host_size = target.find_first_of("/?");
    if (host_size == 0) return {};
    target = host_size == target.npos || target[host_size] == '?' ? std::string_view("/")
                                                                  : target.substr(host_size);
  }
  if (target.empty() || target.front() != '/') return {};
  return target.substr(0, target.find('?'));
}

bool has_controls(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) return true;
  }
  return false;
}

void parse_request_line(std::string_view line, Request& request, TextBuffer& text) {
  const std::string_view version = http_version(line);
  line.remove_suffix(version.size() + 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return refuse(request, 400, "HTTP/1.0 and HTTP/1.1 only");
  }
  const std::size_t space = line.find(' ');
  if (space == line.npos) return refuse(request, 400, "malformed request line");
  const std::string_view method = line.substr(0, space);
  const std::string_view target = line.substr(space + 1);
  if (method.empty() || token_size(method) < method.size()) {
    return refuse(request, 400, "malformed request line");
  }
  if (method == "HEAD") {
    request.method = Method::head;
  } else if (method != "GET") {
    return refuse(request, 501, "GET and HEAD only");
  }
  const std::string_view path = path_of_target(target);
  if (path.data() == nullptr || has_controls(target)) return refuse(request, 400, "malformed target");
  take_path(path, true, request, text);
}

// What the header lines said, before it is known which of them count.
struct Header {
  bool close = false;
  bool keep_alive = false;
  bool if_range = false;
  int ranges = 0;
  std::string_view range{};
};

void read_connection(std::string_view value, Header& header) {
  while (!value.empty()) {
    const std::size_t comma = std::min(value.find(','), value.size());
    const std::string_view token = trimmed(value.substr(0, comma));
    header.close |= equals_ignoring_case(token, "close");
    header.keep_alive |= equals_ignoring_case(token, "keep-alive");
    value.remove_prefix(std::min(comma + 1, value.size()));
  }
}

void read_range(std::string_view value, Request& request) {
  if (value.size() < 6 || !equals_ignoring_case(value.substr(0, 5), "bytes") || value[5] != '=') return;
  value.remove_prefix(6);
  const std::size_t dash = value.find('-');
  if (dash == value.npos) return;
  const std::string_view first_text = value.substr(0, dash);
  const std::string_view last_text = value.substr(dash + 1);
  const auto first = number_from(first_text);
  const auto last = number_from(last_text);
  if (first_text.empty()) {
    if (!last) return;
    request.extent = Extent::last;
    request.length = *last;
    return;
  }
  if (!first || (!last && !last_text.empty()) || (last && *last < *first)) return;
  request.extent = Extent::part;
  request.offset = *first;
  request.length = last && *last - *first != max_u64 ? *last - *first + 1 : max_u64;
}

// One header line. Returns why it cannot stand, or nullptr.
const char* read_header_line(std::string_view line, Header& header) {
  const std::size_t colon = token_size(line);
  if (colon == 0 || colon == line.size() || line[colon] != ':') return "malformed header line";
  if (std::memchr(line.data(), '\r', line.size()) != nullptr) return "a lonely CR in the header";
  const std::string_view name = line.substr(0, colon);
  const std::string_view value = trimmed(line.substr(colon + 1));
  switch (name.size()) {
    case 5:
      if (!equals_ignoring_case(name, "range")) break;
      ++header.ranges;
      header.range = value;
      break;
    case 8:
      header.if_range |= equals_ignoring_case(name, "if-range");
      break;
    case 10:
      if (equals_ignoring_case(name, "connection")) read_connection(value, header);
      break;
    case 14:
      if (equals_ignoring_case(name, "content-length") && number_from(value) != std::uint64_t{0}) {
        return "a body is not accepted";
      }
      break;
    case 17:
      if (equals_ignoring_case(name, "transfer-encoding")) return "a body is not accepted";
      break;
    default:
      break;
  }
  return nullptr;
}

// The lines behind the request line, the empty one included. Returns why they cannot stand, or nullptr.
const char* parse_header(std::string_view lines, Header& header) {
  if (std::memchr(lines.data(), '\0', lines.size()) != nullptr) return "NUL in the header";
  for (;;) {
    const std::size_t size = lines.find('\n') + 1;
    const std::string_view line = without_end(lines.substr(0, size));
    if (line.empty()) return nullptr;
    if (const char* const why = read_header_line(line, header); why != nullptr) return why;
    lines.remove_prefix(size);
  }
}

void parse_http(std::string_view head, std::size_t line_bytes, Request& request, TextBuffer& text) {
  const std::string_view line = without_end(head.substr(0, line_bytes));
  Header header;
  parse_request_line(line, request, text);
  if (!request.keep) return;
  if (const char* const why = parse_header(head.substr(line_bytes), header); why != nullptr) {
    return refuse(request, 400, why);
  }
  const bool is_1_0 = line.ends_with("HTTP/1.0");
  request.keep = !header.close && (!is_1_0 || header.keep_alive);
  request.say_keep_alive = is_1_0 && request.keep;
  if (header.ranges == 1 && !header.if_range && request.method == Method::get) {
    read_range(header.range, request);
  }
}

}  // namespace

// ---- Finding the end ----

// What a refusal that was found on the way ends with: `bytes` are taken, the rest of the stream means
// nothing.
std::size_t RequestParser::cut_short(std::uint16_t code, const char* why, std::size_t bytes) noexcept {
  refusal_ = code;
  why_ = why;
  return bytes;
}

// `input` begins where the request does. Returns its size, 0 if the end is not in it; remembers what was
// seen.
std::size_t RequestParser::find_end(std::string_view input) {
  if (stage_ == Stage::line) {
    const std::size_t end = end_of_line(input);
    if (stage_ == Stage::line) return end;
  }
  if (stage_ == Stage::header) return end_of_header(input);
  return input.size() >= body_end_ ? body_end_ : 0;
}

// The first line. Returns the size of a request that ends with it, 0 if its end has not come or if more
// belongs to the request; then the stage has moved on.
std::size_t RequestParser::end_of_line(std::string_view input) {
  const std::string_view seen = input.substr(0, max_unfinished_bytes);
  const std::size_t newline = seen.find('\n', scanned_);
  if (newline == seen.npos) {
    scanned_ = seen.size();
    return seen.size() < max_unfinished_bytes ? 0
                                              : cut_short(414, "a line of more than 4096 bytes", seen.size());
  }
  line_bytes_ = newline + 1;
  scanned_ = line_bytes_;
  const std::string_view line = without_end(seen.substr(0, line_bytes_));
  form_ = http_version(line).empty() ? Form::line : Form::http;
  if (line_bytes_ > max_line_bytes) return cut_short(414, "a line of more than 4096 bytes", line_bytes_);
  if (form_ == Form::http) {
    stage_ = Stage::header;
    return 0;
  }
  if (!line.starts_with("ECHO ")) return line_bytes_;
  const auto length = number_from(line.substr(5));
  if (!length || *length > max_echo_bytes) return cut_short(400, "not a length up to 4096", line_bytes_);
  body_end_ = line_bytes_ + static_cast<std::size_t>(*length);
  stage_ = Stage::body;
  return 0;
}

// The end is the first empty line. scanned_ is the beginning of a line, or a place in it where no end comes
// before.
std::size_t RequestParser::end_of_header(std::string_view input) {
  const std::size_t limit = line_bytes_ + max_header_bytes;
  const std::string_view seen = input.substr(0, limit);
  for (;;) {
    const std::size_t newline = seen.find('\n', scanned_);
    if (newline == seen.npos) break;
    scanned_ = newline + 1;
    if (seen[newline - 1] == '\n' || (seen[newline - 1] == '\r' && seen[newline - 2] == '\n')) {
      return scanned_;
    }
  }
  scanned_ = seen.size();
  return seen.size() < limit ? 0 : cut_short(431, "a header of more than 8192 bytes", limit);
}

// How many more bytes this request can have before a limit speaks. Never 0: the limit would have spoken.
std::size_t RequestParser::room() const noexcept {
  switch (stage_) {
    case Stage::line:
      return max_unfinished_bytes - kept_.size();
    case Stage::header:
      return line_bytes_ + max_header_bytes - kept_.size();
    case Stage::body:
      return body_end_ - kept_.size();
  }
  return 0;
}

// ---- Together ----

void RequestParser::finish(std::string_view input, Request& request, TextBuffer& text) {
  request = Request{};
  request.form = form_;
  if (refusal_ != 0) {
    if (form_ == Form::http && input.starts_with("HEAD ")) request.method = Method::head;
    refuse(request, refusal_, why_);
  } else if (stage_ == Stage::body) {
    take_echo(input.substr(line_bytes_), request, text);
  } else if (stage_ == Stage::header) {
    parse_http(input, line_bytes_, request, text);
  } else {
    parse_line(without_end(input), request, text);
  }
  stage_ = Stage::line;
  scanned_ = 0;
  deaf_ = !request.keep;
}

RequestParser::Consumed RequestParser::consume(std::span<const std::byte> bytes, Request& request,
                                               TextBuffer& text) {
  if (deaf_ || bytes.empty()) return {bytes.size(), false};
  const std::string_view input(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (kept_.empty()) {
    const std::size_t size = find_end(input);
    if (size == 0) {
      kept_ = input;
      return {input.size(), false};
    }
    finish(input.substr(0, size), request, text);
    return {size, true};
  }
  // Line by line, so that no more is copied than belongs to this request.
  std::size_t used = 0;
  while (used < input.size()) {
    std::string_view piece = input.substr(used, room());
    if (stage_ != Stage::body) piece = piece.substr(0, std::min(piece.find('\n'), piece.size() - 1) + 1);
    kept_.append(piece);
    used += piece.size();
    const std::size_t size = find_end(kept_);
    if (size == 0) continue;
    assert(size == kept_.size());
    finish(kept_, request, text);
    kept_.clear();
    if (kept_.capacity() > 1024) kept_.shrink_to_fit();
    return {used, true};
  }
  return {used, false};
}

}  // namespace common

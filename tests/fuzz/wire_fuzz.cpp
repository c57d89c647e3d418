// Fuzzing the request parser: whatever a client sends, and however TCP cuts it.
//
//   input = 4 bytes that seed the cuts, then what the client sends; ff fe N C stands for 64 * N times C:
//           the limits of the wire formats (4096, 8192) are then a few bytes away, and not thousands
//
// The stream is fed in one piece, then cut at random, then byte by byte. Three things must hold:
//   - no byte beyond a piece is read: each piece lies in memory of its own size, under AddressSanitizer;
//   - consume() takes no more than it was given, gets on, and takes everything when nothing is complete;
//   - the three runs see the same requests, and each of them gets an answer whose parts fit together.
//
// `make fuzz SECONDS=600` runs it for longer; `make test` runs it for some seconds.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "servers/common/file_answer.hpp"
#include "servers/common/file_wire.hpp"

namespace {

using common::Answer;
using common::Extent;
using common::Form;
using common::Method;
using common::Request;

#define MUST(condition)                                          \
  do {                                                           \
    if (!(condition)) {                                          \
      std::fprintf(stderr, "does not hold: %s\n", (#condition)); \
      std::abort();                                              \
    }                                                            \
  } while (false)

// What a request is, without the memory that it points to.
struct Seen {
  Form form;
  Method method;
  Extent extent;
  bool keep;
  bool say_keep_alive;
  std::uint16_t refusal;
  std::string why;
  std::uint64_t offset;
  std::uint64_t length;
  std::string text;

  bool operator==(const Seen&) const = default;
};

void check_request(const Request& request) {
  if (request.refusal != 0) {
    MUST(request.refusal == 400 || request.refusal == 403 || request.refusal == 414 ||
         request.refusal == 431 || request.refusal == 501);
    MUST(*request.why != '\0');
    MUST(!request.keep || request.refusal == 403);
    return;
  }
  if (request.method == Method::echo) {
    MUST(request.text.size() <= common::max_echo_bytes);
    MUST(request.text.size() == request.length);
    return;
  }
  MUST(!request.text.empty() && request.text.front() != '/');
  MUST(std::strlen(request.text.data()) == request.text.size());
  if (request.form == Form::line) MUST(request.keep && !request.say_keep_alive);
}

void check_answer(const Request& request, const Answer& answer, std::uint64_t size) {
  const std::string_view head = answer.text();
  MUST(head.size() <= answer.head.size());
  MUST(answer.offset <= size && answer.length <= size - answer.offset);
  MUST(!answer.keep || (request.keep && common::keeps_connection(answer.code)));
  if (request.form == Form::line) {
    MUST(head.starts_with("OK ") || head.starts_with("ERR "));
    MUST(head.find('\n') == head.size() - 1);
  } else {
    MUST(head.starts_with("HTTP/1.1 "));
    MUST(head.find("\r\n\r\n") != head.npos);
  }
}

void check_answers(const Request& request) {
  if (request.refusal != 0) return check_answer(request, common::answer_refusal(request), 0);
  if (request.method == Method::echo) return check_answer(request, common::answer_echo(request), 0);
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1000}, ~std::uint64_t{0}}) {
    check_answer(request, common::answer_file(request, size), size);
  }
  for (const int error : {2, 5, 12, 13, 24, 36})
    check_answer(request, common::answer_error(request, error), 0);
}

// A connection's parser, and all that it has seen.
struct Connection {
  common::RequestParser parser;
  std::vector<Seen> seen;

  void feed(std::span<const std::uint8_t> piece) {
    if (piece.empty()) return;
    const auto copy = std::make_unique<std::byte[]>(piece.size());
    std::memcpy(copy.get(), piece.data(), piece.size());
    std::span<const std::byte> left(copy.get(), piece.size());
    while (!left.empty()) {
      Request request;
      common::TextBuffer text;
      const bool was_deaf = parser.deaf();
      const auto [used, complete] = parser.consume(left, request, text);
      MUST(used <= left.size());
      MUST(complete ? used > 0 : used == left.size());
      left = left.subspan(used);
      if (!complete) continue;
      MUST(!was_deaf && !parser.started() && parser.deaf() == !request.keep);
      check_request(request);
      check_answers(request);
      seen.push_back({request.form, request.method, request.extent, request.keep, request.say_keep_alive,
                      request.refusal, request.why, request.offset, request.length,
                      std::string(request.text)});
    }
  }
};

// What the client sends; at most 20,000 bytes, beyond every limit there is.
std::vector<std::uint8_t> expanded(std::span<const std::uint8_t> input) {
  constexpr std::size_t longest = 20'000;
  std::vector<std::uint8_t> stream;
  for (std::size_t i = 0; i < input.size() && stream.size() < longest; ++i) {
    const bool repeats = input.size() - i > 3 && input[i] == 0xff && input[i + 1] == 0xfe;
    stream.insert(stream.end(), repeats ? 64U * input[i + 2] : 1U, repeats ? input[i + 3] : input[i]);
    if (repeats) i += 3;
  }
  return stream;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 5) return 0;
  std::uint32_t random;
  std::memcpy(&random, data, sizeof random);
  const std::vector<std::uint8_t> input = expanded({data + sizeof random, size - sizeof random});
  const std::span<const std::uint8_t> stream(input);

  Connection whole;
  whole.feed(stream);

  Connection cut;
  for (std::size_t at = 0; at < stream.size();) {
    random = random * 1664525 + 1013904223;
    const std::size_t longest = (random >> 16 & 7) == 0 ? 5000 : 40;
    const std::size_t piece = std::min<std::size_t>(1 + (random >> 8) % longest, stream.size() - at);
    cut.feed(stream.subspan(at, piece));
    at += piece;
  }

  Connection dribble;
  std::size_t dribbled = 0;
  while (dribbled < stream.size() && !dribble.parser.deaf()) dribble.feed(stream.subspan(dribbled++, 1));
  dribble.feed(stream.subspan(dribbled));

  MUST(cut.seen == whole.seen);
  MUST(dribble.seen == whole.seen);
  MUST(cut.parser.started() == whole.parser.started() && dribble.parser.started() == whole.parser.started());
  return 0;
}

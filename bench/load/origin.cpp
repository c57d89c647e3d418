#include "bench/load/origin.hpp"

#include <algorithm>

namespace load {
namespace {

constexpr std::size_t enough = 4;                         // bytes; fewer would be found anywhere
constexpr std::uint64_t nearby = std::uint64_t{1} << 20;  // bytes before and behind
constexpr std::uint64_t messages_searched = 64;           // of each connection

using Bytes = std::span<const std::byte>;

bool is_head(Bytes bytes) {
  const void* const data = bytes.data();
  const std::string_view text(static_cast<const char*>(data), bytes.size());
  return text.starts_with("OK ") || text.starts_with("ERR ") || text.starts_with("HTTP/1.");
}

// Searches the surroundings of `offset` in the contents with this seed.
std::optional<std::uint64_t> find_nearby(Bytes bytes, std::uint64_t seed, std::uint64_t offset) {
  const std::uint64_t begin = offset - std::min(offset, nearby);
  std::vector<std::byte> contents(offset - begin + nearby);
  common::fill_content(contents, seed, begin);
  const auto found = std::search(contents.begin(), contents.end(), bytes.begin(), bytes.end());
  if (found == contents.end()) return std::nullopt;
  return begin + static_cast<std::uint64_t>(found - contents.begin());
}

// Whether `bytes` stand in that message where they stood here, or at its beginning.
bool belongs_to(Bytes bytes, const Message& message, std::uint64_t offset) {
  for (const std::uint64_t at : {offset, std::uint64_t{0}}) {
    if (at + bytes.size() > message.length) continue;
    if (common::verify_content(bytes, message.seed, message.offset + at) == bytes.size()) return true;
  }
  return false;
}

std::string search_messages(Bytes bytes, std::uint64_t offset, const Connection& other, bool same) {
  const Traffic& traffic = *other.flow->traffic;
  const std::uint64_t first = other.in.answered - std::min<std::uint64_t>(other.in.answered, 2);
  const std::uint64_t last = std::min(begun(other) + 1, first + messages_searched);
  for (std::uint64_t number = first; number < last; ++number) {
    if (same && number == other.in.answered) continue;
    const Message message = message_at(traffic, other.number, number);
    if (!belongs_to(bytes, message, offset)) continue;
    return "these bytes belong to message " + std::to_string(number) + " of " +
           (same ? "the same connection" : "connection " + std::to_string(other.id)) + " (" +
           describe(traffic, message) + ")";
  }
  return "";
}

}  // namespace

std::string origin_of(const WrongAnswer& wrong, std::span<const Connection> connections) {
  const Bytes bytes = wrong.bytes;
  if (wrong.kind != "wrong byte" || bytes.size() < enough) return "";
  if (is_head(bytes)) {
    return "these bytes are the head of an answer: this one was too short";
  }
  const Connection& connection = connections[wrong.connection];
  const Traffic& traffic = *connection.flow->traffic;
  std::string found = search_messages(bytes, wrong.offset, connection, true);
  if (!found.empty()) return found;
  const Message message = message_at(traffic, connection.number, wrong.message);
  const std::uint64_t place = message.offset + wrong.offset;
  if (const auto at = find_nearby(bytes, message.seed, place)) {
    const std::string distance = std::to_string(*at > place ? *at - place : place - *at);
    return "these bytes belong " + distance +
           (*at > place ? " bytes later: some are missing" : " bytes earlier: some came twice");
  }
  for (const Connection& other : connections) {
    if (&other == &connection) continue;
    found = search_messages(bytes, wrong.offset, other, false);
    if (!found.empty()) return found;
  }
  return "";
}

}  // namespace load

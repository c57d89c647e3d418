// Every byte that comes back is looked at once, where it lies, in the order in which it came.
//
//   bytes as recv(2) cut them ──► take() ──┬─► how many messages they completed
//                                          └─► WrongAnswer: what was wrong, and exactly where
//
// Nothing is tolerated: not a status line that says the same in other words, not a length that is one less,
// not a byte after the last answer. A connection remembers two numbers (which answer is coming, how much of
// it has come) and no data; what must come is computed.
//
// Invariant: an answer is counted when its last byte was right, never before; and no byte is right before the
// request that it answers has gone out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "bench/load/cksum.hpp"
#include "bench/load/traffic.hpp"

namespace load {

/// The server gave a wrong answer, and no number of this run means anything.
struct WrongAnswer : std::runtime_error {
  using std::runtime_error::runtime_error;

  std::string kind{};  // "wrong byte", "wrong length", "wrong status", "wrong checksum", "trailing bytes"
  std::uint32_t connection = 0;
  std::uint64_t message = 0;  // of that connection, from 0
  std::uint64_t offset =
      0;  // of the first wrong byte: in the body; else in the head, or behind the last answer
  std::string expected{};
  std::string got{};
  std::string peer{};              // the connection as the server calls it: "connection 3 (127.0.0.1:40112)"
  std::string origin{};            // whose bytes they are instead, if that can be told
  std::vector<std::byte> bytes{};  // a few of them, from the first wrong one on, for finding that out
};

/// How far a connection has come with asking.
struct Sending {
  std::uint64_t sent = 0;  // messages that are out with their last byte: also the number of the next one
  std::uint64_t part = 0;  // bytes of the next one that are out
};

/// How far it has come with being answered.
struct Receiving {
  std::uint64_t answered = 0;  // messages that were answered and right: also the number of the next one
  std::uint64_t body = 0;      // bytes of the next one's body that came and were right
  bool head_done = false;
  std::string head{};  // of the next answer, while it is incomplete
  Cksum checksum{};    // of the body so far, where that is what will be compared
};

/// Verifies `bytes`. `connection` is its number within `traffic`, `id` the one to blame in words. Throws
/// WrongAnswer. Returns how many messages were completed.
std::uint64_t take(const Traffic& traffic, std::uint32_t connection, std::uint32_t id, const Sending& out,
                   Receiving& in, std::span<const std::byte> bytes);

/// "message 17 (GET made.4K.3): 40 of 4096 bytes had come"
std::string progress_text(const Traffic& traffic, std::uint32_t connection, const Receiving& in);

}  // namespace load

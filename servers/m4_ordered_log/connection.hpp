// One client of the log, and its requests on their way.
//
//   PUT 5\nhello ──► Request ──► Request ──► Request       answered in this order
//                     │ answered    │ in the log   │ its bytes are still coming in
//                     ▼
//                    text to be sent, one send in flight
//
//   open ───────────► answering ──────────► lingering ──► closing ──► closed
//     │   FIN came, or   │ takes no more     │ said all; reads and     ▲ waits for the last completions,
//     │   nonsense       │ requests          │ discards (lingering.hpp)│ and for what is in the log
//     └──────────────────┴─── reset, stop ───┴─────────────────────────┘
//
// What is in the log cannot be called back: a client that vanishes leaves its connection behind until the log has said
// what became of its records.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "servers/common/intrusive_list.hpp"
#include "servers/common/lingering.hpp"
#include "servers/common_ring/frame.hpp"
#include "servers/m4_ordered_log/log.hpp"
#include "uring/token.hpp"

namespace ordered_log {

/// Of one connection: requests that are not answered to their end. More wait in its socket.
inline constexpr unsigned most_requests = 128;
/// Likewise, bytes of records that the log holds. A mark: one record may begin below it.
inline constexpr std::uint32_t most_bytes = 1u << 20;

/// For the lines, and for records that come in small pieces; the rest of a larger one is received where it belongs.
inline constexpr std::size_t input_bytes = 4096;

/// One PUT; or something that is none, which is answered like one.
struct Request : Append {
  Connection* connection = nullptr;
  Request* next = nullptr;
  bool is_done = false;  // its answer is known
  int code = 0;          // of the answer; 0: OK
};

/// "PUT <length>\n", as far as it has come.
struct Line {
  /// Longer than any that makes sense.
  static constexpr std::size_t most = 32;
  std::array<char, most> text{};
  std::size_t size = 0;
};

struct Connection {
  enum class State : std::uint8_t { open, answering, lingering, closing, closed };

  int fd = -1;
  State state = State::open;
  unsigned pending = 0;  // completions that are still to come
  unsigned in_log = 0;   // requests that the log has
  bool peer_finished = false;
  bool reset = false;  // to be closed by RST

  std::optional<uring::Token> receiving{};
  std::optional<uring::Token> sending{};

  std::unique_ptr<std::byte[]> input = std::make_unique_for_overwrite<std::byte[]>(input_bytes);
  std::size_t input_begin = 0;
  std::size_t input_end = 0;
  Line line{};
  Request* incoming = nullptr;  // its bytes are coming in
  std::uint32_t filled = 0;     // so many of them are there

  Request* first = nullptr;  // not answered to their end, in order
  Request* last = nullptr;
  unsigned requests = 0;
  std::uint32_t bytes = 0;  // of records that the log holds

  std::string answers{};  // being sent
  std::size_t sent = 0;
  unsigned answers_in_send = 0;

  common_ring::Time last_active{};
  std::optional<common::Lingering> linger{};
  std::list<Connection>::iterator self{};
  common::Link<Connection> idle{};  // owed nothing; longest first
  common::Link<Connection> lingers{};
  common::Link<Connection> answered{};  // the log has answered some of its requests

  bool has_begun() const noexcept { return line.size > 0 || incoming != nullptr; }
  std::uint32_t missing() const noexcept { return incoming->size - std::uint32_t{header_bytes} - filled; }
  /// What is received next goes into the record itself.
  bool is_direct() const noexcept { return incoming != nullptr && missing() >= input_bytes; }
  bool is_full() const noexcept { return requests >= most_requests || bytes >= most_bytes; }
};

constexpr const char* name_of(Connection::State state) noexcept {
  constexpr const char* names[] = {"open", "answering", "lingering", "closing", "closed"};
  return names[static_cast<std::size_t>(state)];
}

}  // namespace ordered_log

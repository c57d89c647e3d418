// One run: open the connections, warm up, measure, let what is under way finish, part.
//
//            opening                 warm-up     the window            finishing            parting
//   ┌───────────────────────────┬─────────────┬───────────────┬───────────────────┬────────────────────────┐
//   │ each connection: connect, │ as fast as  │ the same, and │ nothing new;      │ our FIN, then theirs;  │
//   │ one message, verified     │ the loop is │ it counts     │ answers still due │ a byte more is an error│
//   └───────────────────────────┴─────────────┴───────────────┴───────────────────┴────────────────────────┘
//
// One thread and one epoll, level-triggered: one recv(2) and one send(2) for each answer, with no third call
// to learn that there is nothing more. The connection whose answer was verified sends its next message at
// once.
//
// No more than max_unanswered connections are unanswered while opening: a backlog of listen(2) that overflows
// drops the SYN, and TCP tries again a second later. The first answer also proves that the connection was
// accepted and not only queued.
#pragma once

#include "bench/load/options.hpp"
#include "bench/load/result.hpp"

namespace load {

inline constexpr std::uint64_t max_unanswered = 256;

/// Drives `target`, whose CPU is measured if `pid` is not 0. Throws WrongAnswer, and StartError for what is
/// not the server's fault. `label` begins the progress line, which appears on a terminal only.
Result run(const Options& options, const Target& target, ::pid_t pid, const std::string& label);

}  // namespace load

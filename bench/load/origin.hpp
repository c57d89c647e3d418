// After a wrong byte: whose bytes are these? The commonest answers tell what kind of mistake the server
// makes.
//
//   bytes of another place of the same stream or file    it lost some, sent some twice, or changed the order
//   bytes of another message of this connection          answers out of order
//   bytes of another connection                          a buffer was reused too early
//   the head of an answer                                the answer before was too short
//
// All contents are computed, so the search needs nothing but the numbers of what is under way.
#pragma once

#include <span>
#include <string>

#include "bench/load/connection.hpp"
#include "bench/load/verify.hpp"

namespace load {

/// A sentence, or nothing when they are nobody's. `wrong.connection` is an index into `connections`.
std::string origin_of(const WrongAnswer& wrong, std::span<const Connection> connections);

}  // namespace load

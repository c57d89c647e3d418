// A ring of liburing's that does NOP round trips. Neither side's io_uring header is included here: liburing brings its
// own copy of it.
#pragma once

#include <cstdint>
#include <string_view>

namespace bench {

struct LiburingRing;

/// "2.3"; empty where there is no liburing.
std::string_view liburing_version();

/// A ring with its descriptor registered, for the calling thread; to be closed by it. Null where there is no liburing.
/// Throws std::system_error.
LiburingRing* open_liburing(unsigned entries, unsigned cq_entries, std::uint32_t flags);
void close_liburing(LiburingRing* ring);

/// `rounds` times: prepares NOPs with the user_data 1 to `batch`, submits them and waits for all with one call, takes
/// their CQEs. Returns the sum of what the CQEs brought back as user_data; 0 if a call failed or a CQE is missing.
std::uint64_t run(LiburingRing& ring, std::uint64_t rounds, unsigned batch);

}  // namespace bench

// The real kernel, with a list of what was registered, and one kind of registration that can be refused as a
// kernel without memory, or an older one, would refuse it.
//
//     WatchedRegistration watched{.refused = IORING_REGISTER_BUFFERS, .error = -ENOMEM};
//     uring::Ring ring({.entries = 4}, watched.kernel());
//
// It must outlive its rings.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "uring/syscalls.hpp"

namespace tests::kernel {

struct WatchedRegistration {
  struct Call {
    unsigned opcode, count;
  };

  std::optional<unsigned> refused = {};
  int error = 0;
  std::vector<Call> calls = {};

  std::size_t calls_of(unsigned opcode) const {
    return static_cast<std::size_t>(std::count_if(
        calls.begin(), calls.end(), [opcode](const Call& call) { return call.opcode == opcode; }));
  }

  uring::Kernel kernel() {
    uring::Kernel kernel = uring::real_kernel;
    kernel.register_ = [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
      auto& watched = *static_cast<WatchedRegistration*>(self);
      watched.calls.push_back({opcode, count});
      if (opcode == watched.refused) return watched.error;
      return uring::real_kernel.register_(nullptr, fd, opcode, argument, count);
    };
    kernel.self = this;
    return kernel;
  }
};

}  // namespace tests::kernel

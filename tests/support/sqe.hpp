// The next SQE of a ring, a loop or a batch that has room; a test that runs out of it has gone wrong.

#pragma once

#include <linux/io_uring.h>

#include <stdexcept>

namespace tests {

/// `sqe`, which must not be null.
inline io_uring_sqe& must(io_uring_sqe* sqe) {
  if (sqe == nullptr) throw std::runtime_error("no free SQE");
  return *sqe;
}

}  // namespace tests

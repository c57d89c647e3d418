// Direct descriptors: the ring's own file table, and which of its slots are free.
//
// An ordinary descriptor is looked up in the process's table for each operation (an atomic reference taken,
// and given back at its end), and opening one takes a number out of that table, under its lock, because the
// whole process sees it. A direct descriptor lives in the ring's table, of which the ring has the only key:
// the operation finds the file by slot (IOSQE_FIXED_FILE) and counts without atomics, and no other thread, no
// /proc/self/fd and no fork ever sees it.
//
//      openat2_direct(slot 7)        read, fd = 7, IOSQE_FIXED_FILE        close_direct(slot 7)
//            └── CQE: slot 7 holds the file ──► any number of them ──► CQE: slot 7 is empty
//
// The kernel can choose the slot itself (any_slot). Here the application does, since it keeps a table of its
// own files anyway: then a slot is named before the open has completed, and a chain of linked operations can
// use it.
//
// What a direct descriptor cannot do: everything that is not an io_uring operation with IOSQE_FIXED_FILE.
// There is no fstat for it (and statx refuses the flag), no sendfile, no fcntl, no setsockopt before 6.7.
// (IORING_OP_FIXED_FD_INSTALL, 6.8, makes an ordinary descriptor beside it, at the price that was saved.)
//
// A slot is given back after the CQE of its close, never before: until then the old file is in it, and an
// operation that looks it up would read the wrong one without any error.
#pragma once

#include <cassert>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <vector>

#include "uring/abi.hpp"
#include "uring/prep_fill.hpp"
#include "uring/ring.hpp"

namespace uring {

class DirectFiles {
 public:
  /// Registers a table of `slots` empty entries with `ring`, which may have one only. 0, or -errno:
  /// -EMFILE: more slots than RLIMIT_NOFILE; -EBUSY: there is a table already. Sparse registration (5.19), or
  /// the same said with an array of -1 (5.5). Direct descriptors as results of open and accept need 5.15.
  template <bool Sqpoll>
  int register_with(const BasicRing<Sqpoll>& ring, std::uint32_t slots) {
    const Kernel& kernel = ring.kernel();
    io_uring_rsrc_register sparse{};
    sparse.nr = slots;
    sparse.flags = IORING_RSRC_REGISTER_SPARSE;
    int result = kernel.register_(kernel.self, ring.fd(), IORING_REGISTER_FILES2, &sparse, sizeof sparse);
    if (result == -EINVAL) {
      std::vector<int> empty(slots, -1);
      result = kernel.register_(kernel.self, ring.fd(), IORING_REGISTER_FILES, empty.data(), slots);
    }
    if (result < 0) return result;
    in_use_.assign(slots, false);
    free_.reserve(slots);
    for (std::uint32_t slot = slots; slot-- > 0;) free_.push_back(slot);
    return 0;
  }

  /// A slot that nothing is in; empty when all are taken. Yours until give_back.
  std::optional<DirectSlot> take() noexcept {
    if (free_.empty()) return std::nullopt;
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    in_use_[slot] = true;
    return DirectSlot{slot};
  }

  /// After the CQE of its close_direct, or of an open that failed.
  void give_back(DirectSlot slot) noexcept {
    assert(slot.index < in_use_.size() && in_use_[slot.index]);
    in_use_[slot.index] = false;
    free_.push_back(slot.index);  // never allocates: room for all was reserved
  }

  std::size_t capacity() const noexcept { return in_use_.size(); }
  std::size_t in_use() const noexcept { return in_use_.size() - free_.size(); }

 private:
  std::vector<std::uint32_t> free_;
  std::vector<bool> in_use_;
};

}  // namespace uring

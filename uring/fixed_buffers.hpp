// Registered buffers: memory that the kernel looked up once, and who owns a piece of it when.
//
// A plain READ hands the kernel an address. For each operation that goes past the page cache it must find the
// pages behind it, take a reference to each of them, and give those back at the end. IORING_REGISTER_BUFFERS does
// that once, for the life of the ring; READ_FIXED then names the buffer by number.
//
//      one mapping     | headroom | buffer 0      | headroom | buffer 1      | headroom | ...
//      one call        IORING_REGISTER_BUFFERS { iovec 0, iovec 1, ... }       one iovec for each slot
//      READ_FIXED      addr: inside the slot          buf_index: the slot
//
// What registration saves is that look-up, and nothing else. The bytes of a page cache hit are copied exactly
// as before; what O_DIRECT reads arrives by DMA in both cases. It shows where the look-up was a large share
// of the work: many small O_DIRECT reads from a fast device.
//
// One slot, one owner:
//
//      free ── take() ──► Buffer ── prepare_read ──► the kernel writes ── CQE ──► Buffer ── ~Buffer ──► free
//                         (yours)                    (nobody touches it)          (yours)
//
// A Buffer must outlive the operation that was given its memory. Nothing here can check that: it is the
// caller's in-flight table that knows. A slot has its own iovec, so a READ_FIXED that would run into the
// neighbour's memory is -EFAULT and not a corrupted answer.
//
// Registered pages are pinned and count against RLIMIT_MEMLOCK (without CAP_IPC_LOCK). Where that is refused,
// the pool works unregistered: prepare_read then prepares a plain READ, and nobody else needs to know.
#pragma once

#include <sys/mman.h>
#include <sys/uio.h>

#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "uring/owned.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"

namespace uring {

class BufferPool;

/// One slot of a BufferPool, which must outlive it; empty, or yours alone. Gives the slot back when it dies.
class Buffer {
 public:
  Buffer() noexcept = default;
  Buffer(Buffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), index_(std::exchange(other.index_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      give_back();
      pool_ = std::exchange(other.pool_, nullptr);
      index_ = std::exchange(other.index_, 0);
    }
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { give_back(); }

  explicit operator bool() const noexcept { return pool_ != nullptr; }

  /// The slot's number: the buf_index of its operations, if the pool is registered.
  std::uint16_t index() const noexcept { return index_; }
  /// Page-aligned, pool.buffer_size() bytes; in front of it pool.headroom() more, which belong to the slot.
  inline std::byte* data() const noexcept;

  /// A read of `length` bytes at `offset` of `fd` to `at` bytes behind data(): READ_FIXED where the pool is
  /// registered, else READ (5.6). CQE: see prep::read and prep::read_fixed.
  inline void prepare_read(io_uring_sqe& sqe, int fd, std::uint32_t at, std::uint32_t length,
                           std::uint64_t offset, Token token) const noexcept;

  inline void give_back() noexcept;

 private:
  friend class BufferPool;
  Buffer(BufferPool* pool, std::uint16_t index) noexcept : pool_(pool), index_(index) {}

  BufferPool* pool_ = nullptr;
  std::uint16_t index_ = 0;
};

/// What a kernel registers at most: buf_index has 16 bits, and this many are accepted since 5.13.
inline constexpr std::size_t max_registered_buffers = std::size_t{1} << 14;

class BufferPool {
 public:
  /// `count` slots (1 to max_registered_buffers) of `size` bytes, each with `headroom` bytes in front of it;
  /// both multiples of the page size (headroom may be 0). Throws std::bad_alloc. The memory is reserved here
  /// and becomes real when it is registered or first used.
  BufferPool(std::size_t count, std::size_t size, std::size_t headroom = 0)
      : size_(size), headroom_(headroom) {
    assert(count > 0 && count <= max_registered_buffers && size % 4096 == 0 && headroom % 4096 == 0);
    const std::size_t bytes = count * (headroom + size);
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = Mapping(memory, bytes);
    in_use_.resize(count);
    free_.reserve(count);
    for (std::size_t slot = count; slot-- > 0;) free_.push_back(static_cast<std::uint16_t>(slot));
  }
  BufferPool(const BufferPool&) = delete;  // buffers point here
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool() { assert(in_use() == 0); }

  /// Registers all slots with `ring`, in one call (5.1; before 5.13 at most 1024). 0, or -errno:
  /// -ENOMEM: above RLIMIT_MEMLOCK (`ulimit -l`); -EBUSY: the ring has buffers already. After an error the
  /// pool works as before, unregistered. The registration ends with the ring, so the ring must go first; the
  /// kernel keeps the pages until then, whatever is unmapped meanwhile.
  template <bool Sqpoll>
  int register_with(const BasicRing<Sqpoll>& ring) {
    std::vector<iovec> slots(in_use_.size());
    for (std::size_t slot = 0; slot < slots.size(); ++slot) slots[slot] = {front(slot), headroom_ + size_};
    const Kernel& kernel = ring.kernel();
    const int result = kernel.register_(kernel.self, ring.fd(), IORING_REGISTER_BUFFERS, slots.data(),
                                        static_cast<unsigned>(slots.size()));
    if (result >= 0) registered_ = true;
    return result;
  }

  /// A free slot, the one that was given back last, since its memory is warm. Empty when there is none.
  Buffer take() noexcept {
    if (free_.empty()) return {};
    const std::uint16_t slot = free_.back();
    free_.pop_back();
    in_use_[slot] = true;
    if (in_use() > in_use_max_) in_use_max_ = in_use();
    return {this, slot};
  }

  bool registered() const noexcept { return registered_; }
  std::size_t buffer_size() const noexcept { return size_; }
  std::size_t headroom() const noexcept { return headroom_; }
  std::size_t capacity() const noexcept { return in_use_.size(); }
  std::size_t available() const noexcept { return free_.size(); }
  std::size_t in_use() const noexcept { return capacity() - available(); }
  std::size_t in_use_max() const noexcept { return in_use_max_; }

 private:
  friend class Buffer;

  std::byte* front(std::size_t slot) const noexcept { return memory_.data() + slot * (headroom_ + size_); }

  void give_back(std::uint16_t slot) noexcept {
    assert(in_use_[slot]);
    in_use_[slot] = false;
    free_.push_back(slot);  // never allocates: room for all was reserved
  }

  Mapping memory_;
  std::size_t size_;
  std::size_t headroom_;
  std::size_t in_use_max_ = 0;
  bool registered_ = false;
  std::vector<std::uint16_t> free_;
  std::vector<bool> in_use_;
};

inline std::byte* Buffer::data() const noexcept { return pool_->front(index_) + pool_->headroom_; }

inline void Buffer::prepare_read(io_uring_sqe& sqe, int fd, std::uint32_t at, std::uint32_t length,
                                 std::uint64_t offset, Token token) const noexcept {
  assert(pool_ != nullptr && at + std::size_t{length} <= pool_->size_);
  if (pool_->registered_) {
    prep::read_fixed(sqe, fd, data() + at, length, offset, index_, token);
  } else {
    prep::read(sqe, fd, data() + at, length, offset, token);
  }
}

inline void Buffer::give_back() noexcept {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(index_);
}

}  // namespace uring

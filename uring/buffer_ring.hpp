// Provided buffers: the kernel takes one out of a ring when there is something to put in.
//
// A recv that names its own buffer occupies it for as long as the client is silent. A thousand idle clients
// are a thousand empty buffers. With a group of provided buffers the recv names the group, and the kernel
// picks a buffer at the moment when bytes have come: an idle connection costs none.
//
//      tail: ours ──────────────────────┐                      (16 bits; wraps at 2^16)
//      io_uring_buf[]  | 3 | 0 | 7 | 1 | ? |                   each entry: address, length, buffer id
//      head: the kernel's ──┘   (it takes the next one from here, and says in the CQE which id that was)
//
// A buffer's life, by id:
//
//      in the ring ── the kernel takes it ──► CQE with F_BUFFER ──► ours: take() ──► recycle(): spare ─┐
//          ▲                                  id = flags >> 16       read it, send it                  │
//          └─────────────────── publish(): the last recycled first, and the kernel sees them ──────────┘
//
// Exactly once is the rule: a buffer that is recycled twice is in the ring twice, the kernel fills it for two
// connections, and one of them reads the other's bytes. A buffer that is never recycled is lost; when the last
// one is, every recv of the group ends with -ENOBUFS. Both are checked here: `in_use()` and an assertion.
//
// The kernel takes buffers in the order of the ring. If all are in it, each is used once a round, and long out
// of the processor's cache when its turn comes. So publish() can be told how many are enough: the others stay
// spare, and the ones used last, which are warm, are used next.
//
// The ring of entries is shared memory, but only one way: we write entries and the tail, the kernel reads
// them. Its head is not shown to us (IORING_REGISTER_PBUF_STATUS, 6.8, tells it for a system call); how many
// buffers it has follows from what we gave and took.
//
// About the type: the header's io_uring_buf_ring does not have the layout of the kernel in C++ (abi.hpp), so
// the memory is treated as what it is, an array of entries whose first one lends its last two bytes to the
// tail. Filling an entry must therefore not write those two bytes.
//
// Needs Linux 5.19; multishot recv, which is what makes it worth while, 6.0.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "uring/abi.hpp"
#include "uring/indices.hpp"
#include "uring/owned.hpp"
#include "uring/prep_fill.hpp"
#include "uring/ring.hpp"

namespace uring {

/// The kernel's limit on the entries of one buffer ring.
inline constexpr std::size_t max_provided_buffers = std::size_t{1} << 15;

class BufferRing {
 public:
  /// `count` buffers (a power of two up to max_provided_buffers) of `size` bytes. Throws std::bad_alloc.
  BufferRing(std::size_t count, std::size_t size)
      : entries_(reserve(count * sizeof(io_uring_buf))),
        memory_(reserve(count * (size + cache_line))),
        size_(static_cast<std::uint32_t>(size)),
        mask_(static_cast<std::uint16_t>(count - 1)),
        state_(count, State::ours) {
    assert(count > 0 && count <= max_provided_buffers && (count & (count - 1)) == 0);
    spare_.reserve(count);
  }
  BufferRing(const BufferRing&) = delete;  // the kernel knows where it lies
  BufferRing& operator=(const BufferRing&) = delete;

  /// Registers the ring as `group` of `ring`, and puts buffers into it: all, or `enough`. 0, or -errno: -EEXIST
  /// (there is such a group), -EINVAL (before 5.19), -ENOMEM (RLIMIT_MEMLOCK too, where the kernel counts the
  /// entries: 6.18 does, 7.3 does not; the buffers are ordinary memory, and none is touched before it is used).
  /// The registration ends with `ring`, which must be destroyed first.
  template <bool Sqpoll>
  int register_with(const BasicRing<Sqpoll>& ring, BufferGroup group,
                    std::size_t enough = max_provided_buffers) {
    abi::buf_reg registration{};
    registration.ring_addr = prep::address(entries_.data());
    registration.ring_entries = mask_ + 1u;
    registration.bgid = group.id;
    const Kernel& kernel = ring.kernel();
    const int result = kernel.register_(kernel.self, ring.fd(), IORING_REGISTER_PBUF_RING, &registration, 1);
    if (result < 0) return result;
    group_ = group;
    for (std::size_t id = capacity(); id > 0; --id) recycle(static_cast<std::uint16_t>(id - 1));
    publish(enough);
    return 0;
  }

  /// The buffer that a CQE whose flags have IORING_CQE_F_BUFFER carries: ours from now on, until recycle.
  std::uint16_t take(std::uint32_t cqe_flags) noexcept {
    assert((cqe_flags & IORING_CQE_F_BUFFER) != 0);
    const auto id = static_cast<std::uint16_t>(cqe_flags >> IORING_CQE_BUFFER_SHIFT);
    assert(id <= mask_ && state_[id] == State::in_ring);
    state_[id] = State::ours;
    --with_kernel_;
    in_use_max_ = std::max(in_use_max_, in_use());
    return id;
  }

  /// Gives a buffer back. The kernel gets it by a publish().
  void recycle(std::uint16_t id) noexcept {
    assert(id <= mask_ && state_[id] == State::ours);
    state_[id] = State::spare;
    spare_.push_back(id);
  }

  /// Puts spare buffers into the ring until `enough` are there, the last recycled first, and makes them visible
  /// with one release store. No system call: the kernel looks when it needs one.
  void publish(std::size_t enough = max_provided_buffers) noexcept {
    if (spare_.empty() || with_kernel_ >= enough) return;
    for (; !spare_.empty() && with_kernel_ < enough; ++with_kernel_) {
      put(spare_.back());
      spare_.pop_back();
    }
    publish_buffer_tail(shared_tail(), tail_);
  }

  /// (At exact multiples of a large power of two all buffers would meet in the same few sets of the cache.)
  std::byte* data(std::uint16_t id) const noexcept {
    return memory_.data() + std::size_t{id} * (size_ + cache_line);
  }
  std::uint32_t buffer_size() const noexcept { return size_; }
  BufferGroup group() const noexcept { return group_; }
  std::size_t capacity() const noexcept { return mask_ + std::size_t{1}; }
  /// In the ring, or in a CQE that was not harvested yet.
  std::size_t with_kernel() const noexcept { return with_kernel_; }
  /// For the next publish().
  std::size_t spare() const noexcept { return spare_.size(); }
  /// Taken and not recycled.
  std::size_t in_use() const noexcept { return capacity() - with_kernel_ - spare_.size(); }
  std::size_t in_use_max() const noexcept { return in_use_max_; }

 private:
  enum class State : std::uint8_t { ours, spare, in_ring };
  static constexpr std::size_t cache_line = 64;

  void put(std::uint16_t id) noexcept {
    state_[id] = State::in_ring;
    io_uring_buf& entry = entries()[tail_++ & mask_];
    entry.addr = prep::address(data(id));  // three members and not `resv`: in the first entry it is the tail
    entry.len = size_;
    entry.bid = id;
  }

  static Mapping reserve(std::size_t bytes) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return {memory, bytes};
  }

  io_uring_buf* entries() const noexcept { return reinterpret_cast<io_uring_buf*>(entries_.data()); }
  std::uint16_t& shared_tail() const noexcept {
    return *reinterpret_cast<std::uint16_t*>(entries_.data() + abi::buf_ring_tail_offset);
  }

  Mapping entries_;
  Mapping memory_;
  std::uint32_t size_;
  std::uint16_t mask_;
  std::uint16_t tail_ = 0;
  std::size_t with_kernel_ = 0;
  std::size_t in_use_max_ = 0;
  BufferGroup group_{};
  std::vector<State> state_;  // by id
  std::vector<std::uint16_t> spare_{};
};

}  // namespace uring

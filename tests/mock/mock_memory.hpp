// The memory of a mock ring: what io_allocate_scq_urings allocates, and what both sides then share.
//
//      application                    one memfd, mapped twice                     MockKernel
//   Ring's mappings ──────► [ rings: words, SQ array, CQEs | SQEs ] ◄────── SharedMemory's own mapping
//
// As in life, the two sides see the same pages at different addresses. The descriptor of the memfd is the
// "ring fd", so that a ring which forgets to close it, or to unmap, leaves a trace in /proc/self/fd and
// /proc/self/maps (leftovers()).
//
// Where the words lie is the kernel's business; `params` tells. The usual layout is the one that every kernel
// so far has used. The odd one is as legal, and no kernel's: a ring that works on it believes `params`.
//
// Every byte that belongs to nobody is filled with a pattern. Whoever writes there (an SQ array that does not
// exist, a word at a remembered offset) is found out by untouched().
//
// Invariant: the kernel writes SQ head, CQ tail, the SQ flags and the counters; the application SQ tail and
// CQ head.
#pragma once

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace mock {

enum class Layout { usual, odd };

/// Where everything lies in the first mapping, and how long it is in bytes.
struct Offsets {
  io_sqring_offsets sq{};
  io_cqring_offsets cq{};
  std::uint32_t bytes = 0;
};

/// rings_size() of the kernel: the four indices in one cache line, CQEs from byte 64, the SQ array behind
/// them. Without an array its offset is 0, which is also where SQ head lies.
inline Offsets usual_layout(std::uint32_t sq_entries, std::uint32_t cq_entries, bool has_array) {
  Offsets at;
  at.sq.head = 0;
  at.sq.tail = 4;
  at.cq.head = 8;
  at.cq.tail = 12;
  at.sq.ring_mask = 16;
  at.cq.ring_mask = 20;
  at.sq.ring_entries = 24;
  at.cq.ring_entries = 28;
  at.sq.dropped = 32;
  at.sq.flags = 36;
  at.cq.flags = 40;
  at.cq.overflow = 44;
  at.cq.cqes = 64;
  at.bytes = at.cq.cqes + cq_entries * std::uint32_t{sizeof(io_uring_cqe)};
  if (has_array) {
    at.sq.array = (at.bytes + 63) & ~63U;
    at.bytes = at.sq.array + sq_entries * std::uint32_t{sizeof(std::uint32_t)};
  }
  return at;
}

/// The words in another order with gaps between them, the SQ array in front of the CQEs, CQ tail at byte 0.
inline Offsets odd_layout(std::uint32_t sq_entries, std::uint32_t cq_entries, bool has_array) {
  Offsets at;
  at.cq.tail = 0;
  at.sq.flags = 68;
  at.cq.head = 132;
  at.sq.head = 200;
  at.cq.overflow = 264;
  at.sq.tail = 328;
  at.sq.dropped = 392;
  at.cq.flags = 456;
  at.sq.ring_mask = 520;
  at.cq.ring_mask = 584;
  at.sq.ring_entries = 648;
  at.cq.ring_entries = 712;
  at.bytes = 780;
  if (has_array) {
    at.sq.array = at.bytes;
    at.bytes += sq_entries * std::uint32_t{sizeof(std::uint32_t)};
  }
  at.cq.cqes = ((at.bytes + 63) & ~63U) + 128;
  at.bytes = at.cq.cqes + cq_entries * std::uint32_t{sizeof(io_uring_cqe)};
  return at;
}

class SharedMemory {
 public:
  static constexpr const char* name = "mock_ring";
  static constexpr std::byte nobodys{0xa5};

  /// Allocates and initialises; the indices start where the caller says (a kernel's: at 0).
  SharedMemory(const Offsets& offsets, const io_uring_params& params, std::uint32_t sq_start,
               std::uint32_t cq_start)
      : at_(offsets), sq_entries_(params.sq_entries), cq_entries_(params.cq_entries) {
    rings_bytes_ = whole_pages(at_.bytes);
    bytes_ = rings_bytes_ + whole_pages(sq_entries_ * sizeof(io_uring_sqe));
    fd_ = ::memfd_create(name, MFD_CLOEXEC);
    if (fd_ < 0 || ::ftruncate(fd_, static_cast<off_t>(bytes_)) != 0) std::abort();
    void* const mapped = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (mapped == MAP_FAILED) std::abort();
    base_ = static_cast<std::byte*>(mapped);
    std::memset(base_, std::to_integer<int>(nobodys), bytes_);
    for (std::uint32_t word : {at_.sq.flags, at_.sq.dropped, at_.cq.flags, at_.cq.overflow}) store(word, 0);
    for (std::uint32_t word : {at_.sq.head, at_.sq.tail}) store(word, sq_start);
    for (std::uint32_t word : {at_.cq.head, at_.cq.tail}) store(word, cq_start);
    store(at_.sq.ring_mask, sq_entries_ - 1);
    store(at_.cq.ring_mask, cq_entries_ - 1);
    store(at_.sq.ring_entries, sq_entries_);
    store(at_.cq.ring_entries, cq_entries_);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory() { ::munmap(base_, bytes_); }  // the descriptor is the application's to close

  int fd() const { return fd_; }
  const Offsets& offsets() const { return at_; }

  /// io_uring_mmap: 0 or -errno.
  int map(std::size_t bytes, std::uint64_t offset, void** address) const {
    const bool wants_sqes = offset == IORING_OFF_SQES;
    if (!wants_sqes && offset != IORING_OFF_SQ_RING && offset != IORING_OFF_CQ_RING) return -EINVAL;
    if (bytes > (wants_sqes ? bytes_ - rings_bytes_ : rings_bytes_)) return -EINVAL;
    void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_,
                                wants_sqes ? static_cast<off_t>(rings_bytes_) : 0);
    if (mapped == MAP_FAILED) return -errno;
    *address = mapped;
    return 0;
  }

  // --- The protocol, seen from the kernel: the other half of each pair in uring/indices.hpp ----------------

  std::uint32_t sq_tail() const { return load(at_.sq.tail, std::memory_order_acquire); }  // io_sqring_entries
  std::uint32_t cq_head() const {
    return load(at_.cq.head, std::memory_order_acquire);
  }  // io_cqe_cache_refill
  void commit_sqring(std::uint32_t head) { store(at_.sq.head, head, std::memory_order_release); }
  void commit_cqring(std::uint32_t tail) { store(at_.cq.tail, tail, std::memory_order_release); }
  void set_sq_flag(std::uint32_t flag) {
    std::atomic_ref(word(at_.sq.flags)).fetch_or(flag, std::memory_order_relaxed);
  }
  void clear_sq_flag(std::uint32_t flag) {
    std::atomic_ref(word(at_.sq.flags)).fetch_and(~flag, std::memory_order_relaxed);
  }
  void count_dropped() { std::atomic_ref(word(at_.sq.dropped)).fetch_add(1, std::memory_order_relaxed); }
  void count_overflow() { std::atomic_ref(word(at_.cq.overflow)).fetch_add(1, std::memory_order_relaxed); }

  // --- What the tests look at ------------------------------------------------------------------------------

  std::uint32_t sq_head() const { return load(at_.sq.head, std::memory_order_relaxed); }
  std::uint32_t cq_tail() const { return load(at_.cq.tail, std::memory_order_relaxed); }
  std::uint32_t sq_flags() const { return load(at_.sq.flags, std::memory_order_relaxed); }
  std::uint32_t cq_overflow() const { return load(at_.cq.overflow, std::memory_order_relaxed); }

  io_uring_sqe& sqe(std::uint32_t slot) const {
    return reinterpret_cast<io_uring_sqe*>(base_ + rings_bytes_)[slot];
  }
  io_uring_cqe& cqe(std::uint32_t index) const {
    return reinterpret_cast<io_uring_cqe*>(base_ + at_.cq.cqes)[index & (cq_entries_ - 1)];
  }
  /// Entry `position` of the SQ array. There must be one.
  std::uint32_t& array(std::uint32_t position) const {
    return word(at_.sq.array + position * std::uint32_t{sizeof(std::uint32_t)});
  }

  /// True while nobody has written where nothing is, nor changed what is constant.
  bool untouched() const {
    if (load(at_.sq.ring_mask) != sq_entries_ - 1 || load(at_.cq.ring_mask) != cq_entries_ - 1) return false;
    if (load(at_.sq.ring_entries) != sq_entries_ || load(at_.cq.ring_entries) != cq_entries_) return false;
    std::vector<bool> owned(rings_bytes_, false);
    const auto own = [&owned](std::size_t from, std::size_t bytes) {
      for (std::size_t i = from; i < from + bytes; ++i) owned[i] = true;
    };
    for (std::uint32_t word :
         {at_.sq.head, at_.sq.tail, at_.sq.flags, at_.sq.dropped, at_.sq.ring_mask, at_.sq.ring_entries,
          at_.cq.head, at_.cq.tail, at_.cq.flags, at_.cq.overflow, at_.cq.ring_mask, at_.cq.ring_entries}) {
      own(word, sizeof(std::uint32_t));
    }
    if (at_.sq.array != 0) own(at_.sq.array, sq_entries_ * sizeof(std::uint32_t));
    own(at_.cq.cqes, cq_entries_ * sizeof(io_uring_cqe));
    for (std::size_t i = 0; i < rings_bytes_; ++i) {
      if (!owned[i] && base_[i] != nobodys) return false;
    }
    return true;
  }

 private:
  static std::size_t whole_pages(std::size_t bytes) {
    const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return (bytes + page - 1) / page * page;
  }
  std::uint32_t& word(std::uint32_t offset) const {
    return *reinterpret_cast<std::uint32_t*>(base_ + offset);
  }
  std::uint32_t load(std::uint32_t offset, std::memory_order order = std::memory_order_relaxed) const {
    return std::atomic_ref(word(offset)).load(order);
  }
  void store(std::uint32_t offset, std::uint32_t value,
             std::memory_order order = std::memory_order_relaxed) const {
    std::atomic_ref(word(offset)).store(value, order);
  }

  Offsets at_;
  std::uint32_t sq_entries_;
  std::uint32_t cq_entries_;
  std::size_t rings_bytes_ = 0;  // of the first mapping; the SQEs follow
  std::size_t bytes_ = 0;
  int fd_ = -1;
  std::byte* base_ = nullptr;
};

/// Descriptors and mappings of mock rings that this process holds: all zero when rings and kernels are gone.
struct Leftovers {
  unsigned descriptors = 0;
  unsigned mappings = 0;
  friend bool operator==(const Leftovers&, const Leftovers&) = default;
};

inline Leftovers leftovers() {
  Leftovers left;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the descriptor that reads this directory is listed, too
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.find(SharedMemory::name) != std::string::npos) ++left.descriptors;
  }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(SharedMemory::name) != std::string::npos) ++left.mappings;
  }
  return left;
}

}  // namespace mock

// The shared indices: who writes which word, in which order, and what breaks otherwise.
//
//      application                     one shared page                      kernel
//   fill sqe[tail & mask]
//   store-release ──────────────►  SQ tail  ────────────►  load-acquire, then read the SQEs
//   load-acquire  ◄──────────────  SQ head  ◄────────────  store-release, after copying the SQEs
//   load-acquire  ◄──────────────  CQ tail  ◄────────────  store-release, after writing the CQEs
//   store-release ──────────────►  CQ head  ────────────►  load, and only then reuse the slots
//
// Two rings, each with one producer and one consumer. The producer owns the tail, the consumer the head; each
// side reads the other's index to learn how far it may go. Nobody ever writes a word that belongs to the
// other side: an application that advances the CQ *tail* (a popular mistake) invents completions.
//
// Invariant of both: 0 <= tail - head <= entries, in arithmetic modulo 2^32. The indices run freely and wrap
// at 2^32, never at the ring's size; only the slot number (index & mask) does. So all `entries` slots are
// usable, and full (tail - head == entries) differs from empty (tail == head).
//
// Every access to a word that both sides touch is a function in this file, and no other file of the ring
// layer or the servers contains an atomic or a barrier (`make check-layers`). All of them use std::atomic_ref
// on the mapped word: there is no std::atomic object in that memory, so a cast to one would be a lie to the
// compiler.
//
// What they cost on x86-64: nothing; every load and store below is a plain `mov`, and the only instruction
// that is more is the full fence of SQPOLL (`make asm` shows it, for arm64 too). They are needed all the
// same: for arm64, and on x86 too, because without them the *compiler* may move the SQE's stores behind the
// tail's.
#pragma once

#include <atomic>
#include <cstdint>

#include "uring/abi.hpp"

#ifndef URING_MUTANT
#define URING_MUTANT correct
#endif

namespace uring {

/// The orders, one entry per place. The functions below, the mutants, and the Relacy models all read this
/// table.
struct Orders {
  /// SQ tail, stored by us; the kernel's io_sqring_entries loads it with acquire. Publishes the 64 bytes of
  /// each SQE. Relaxed would let the kernel read a slot before its SQE is in it.
  std::memory_order sq_tail_store = std::memory_order_release;

  /// SQ head, loaded by us; io_commit_sqring stores it with release when it has copied the SQEs. Relaxed
  /// would let our next SQE's stores start before the kernel finished reading the old one in that slot.
  /// (Without SQPOLL the kernel only reads inside our own system call; we keep one path for both modes, as it
  /// is free.)
  std::memory_order sq_head_load = std::memory_order_acquire;

  /// CQ tail, loaded by us; io_commit_cqring stores it with release behind the CQEs. Relaxed would let us
  /// read a CQE that is not written yet.
  std::memory_order cq_tail_load = std::memory_order_acquire;

  /// CQ head, stored by us, when we have read the CQEs; the kernel's io_cqe_cache_refill loads it and reuses
  /// the slots only if it says so (a control dependency, which the kernel may rely on and C++ may not).
  /// Relaxed would let the kernel overwrite a CQE that we are still reading.
  std::memory_order cq_head_store = std::memory_order_release;

  /// Tail of a provided-buffer ring (u16), stored by us, loaded with acquire when the kernel picks a buffer.
  /// Publishes the entries (address, length, id) before it.
  std::memory_order buffer_tail_store = std::memory_order_release;

  /// SQPOLL only: the fence between *our store* of the SQ tail and *our load* of NEED_WAKEUP. See
  /// needs_wakeup().
  std::memory_order wakeup_fence = std::memory_order_seq_cst;
};

/// Each mutant weakens one entry. The tests must catch every one of them (tests/barriers/): that is how we
/// know that the tests see anything. To try one by hand: make mutant NAME=cq_tail_relaxed
namespace mutants {
inline constexpr Orders correct{};
inline constexpr Orders sq_tail_relaxed{.sq_tail_store = std::memory_order_relaxed};
inline constexpr Orders sq_head_relaxed{.sq_head_load = std::memory_order_relaxed};
inline constexpr Orders cq_tail_relaxed{.cq_tail_load = std::memory_order_relaxed};
inline constexpr Orders cq_head_relaxed{.cq_head_store = std::memory_order_relaxed};
inline constexpr Orders buffer_tail_relaxed{.buffer_tail_store = std::memory_order_relaxed};
inline constexpr Orders wakeup_fence_missing{.wakeup_fence = std::memory_order_relaxed};
/// What io_uring_setup(2) of liburing's man pages teaches: an acquire where only a full fence helps.
inline constexpr Orders wakeup_fence_acquire{.wakeup_fence = std::memory_order_acquire};
}  // namespace mutants

inline constexpr Orders orders = mutants::URING_MUTANT;

/// Lock-free atomic access to a u32 at its natural alignment is what the whole protocol rests on.
static_assert(std::atomic_ref<std::uint32_t>::is_always_lock_free);
static_assert(std::atomic_ref<std::uint32_t>::required_alignment == alignof(std::uint32_t));
static_assert(std::atomic_ref<std::uint16_t>::is_always_lock_free);

/// Where the shared words are: addresses inside the ring mapping, computed once from what io_uring_setup
/// returned. (From Linux 6.12 on the four indices share one cache line, up to 6.1 each has its own: we
/// believe the offsets.)
struct SharedWords {
  std::uint32_t* sq_head = nullptr;      // written by the kernel (release)
  std::uint32_t* sq_tail = nullptr;      // written by us (release)
  std::uint32_t* sq_flags = nullptr;     // written by the kernel: NEED_WAKEUP, CQ_OVERFLOW, TASKRUN
  std::uint32_t* sq_dropped = nullptr;   // written by the kernel: bad entries of the SQ array
  std::uint32_t* cq_head = nullptr;      // written by us (release)
  std::uint32_t* cq_tail = nullptr;      // written by the kernel (release)
  std::uint32_t* cq_overflow = nullptr;  // written by the kernel: completions lost for want of memory
};

/// Makes the SQEs before `tail` visible to the kernel. It looks at them at the next io_uring_enter, or, with
/// SQPOLL, by itself. Pairs with the kernel's load-acquire of the SQ tail (io_sqring_entries).
inline void publish_sq_tail(const SharedWords& words, std::uint32_t tail) noexcept {
  std::atomic_ref(*words.sq_tail).store(tail, orders.sq_tail_store);
}

/// How far the kernel has copied our SQEs; the slots before it may be filled again. Pairs with the kernel's
/// store-release of the SQ head (io_commit_sqring).
inline std::uint32_t load_sq_head(const SharedWords& words) noexcept {
  return std::atomic_ref(*words.sq_head).load(orders.sq_head_load);
}

/// How far the kernel has written CQEs; those before it may be read. Pairs with the kernel's store-release of
/// the CQ tail (io_commit_cqring).
inline std::uint32_t load_cq_tail(const SharedWords& words) noexcept {
  return std::atomic_ref(*words.cq_tail).load(orders.cq_tail_load);
}

/// Gives the CQEs before `head` back to the kernel, which may overwrite them at once. Pairs with the kernel's
/// load of the CQ head when it looks for room (io_cqe_cache_refill).
inline void publish_cq_head(const SharedWords& words, std::uint32_t head) noexcept {
  std::atomic_ref(*words.cq_head).store(head, orders.cq_head_store);
}

/// The kernel's hints: IORING_SQ_NEED_WAKEUP, IORING_SQ_CQ_OVERFLOW (5.8), IORING_SQ_TASKRUN (5.19). They
/// guard no data, and a hint that is seen late is seen next time: relaxed is enough, except before going to
/// sleep (next function).
inline std::uint32_t load_sq_flags(const SharedWords& words) noexcept {
  return std::atomic_ref(*words.sq_flags).load(std::memory_order_relaxed);
}

/// SQPOLL: must the kernel's thread be woken for what was just published? To be called after publish_sq_tail.
///
///        we                                    the kernel's thread, about to sleep
///     1  store SQ tail                      a  store NEED_WAKEUP
///     2  full fence                         b  full fence (smp_mb__after_atomic in io_sq_thread)
///     3  load NEED_WAKEUP                   c  load SQ tail, sleep if nothing is there
///
/// Each side stores its own word and then loads the other's. At least one must see the other: if (3) misses
/// (a) *and* (c) misses (1), the thread sleeps on a ring with work in it, and we never wake it. No release or
/// acquire forbids that: they order neither side's store before its own *later load*, and every CPU, x86 too,
/// holds stores back in a store buffer while loads go ahead. Only a full fence on both sides does. liburing
/// lacked it until 2022 (its issue 541).
inline bool needs_wakeup(const SharedWords& words) noexcept {
  std::atomic_thread_fence(orders.wakeup_fence);
  return (load_sq_flags(words) & IORING_SQ_NEED_WAKEUP) != 0;
}

/// Counters that the kernel only ever increases; they order nothing.
inline std::uint32_t load_sq_dropped(const SharedWords& words) noexcept {
  return std::atomic_ref(*words.sq_dropped).load(std::memory_order_relaxed);
}
inline std::uint32_t load_cq_overflow(const SharedWords& words) noexcept {
  return std::atomic_ref(*words.cq_overflow).load(std::memory_order_relaxed);
}

/// What we published ourselves, read back for a picture or a start value: nobody else writes these two.
inline std::uint32_t load_own_sq_tail(const SharedWords& words) noexcept {
  return std::atomic_ref(*words.sq_tail).load(std::memory_order_relaxed);
}
inline std::uint32_t load_own_cq_head(const SharedWords& words) noexcept {
  return std::atomic_ref(*words.cq_head).load(std::memory_order_relaxed);
}

/// Makes the buffers before `tail` available to the kernel (provided-buffer ring, 5.19). Its tail is 16 bits
/// wide and wraps at 2^16. Pairs with the load-acquire in the kernel's io_ring_buffer_select.
inline void publish_buffer_tail(std::uint16_t& shared_tail, std::uint16_t tail) noexcept {
  std::atomic_ref(shared_tail).store(tail, orders.buffer_tail_store);
}

/// The SQ array, where the kernel still has one (before 6.6, or without IORING_SETUP_NO_SQARRAY): position i
/// of the queue names the SQE to take. We never use that freedom: slot i always holds SQE i, written once,
/// before the kernel can look.
inline void fill_identity_array(std::uint32_t* array, std::uint32_t entries) noexcept {
  for (std::uint32_t i = 0; i < entries; ++i) array[i] = i;
}

}  // namespace uring

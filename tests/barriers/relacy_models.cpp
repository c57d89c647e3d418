// Models of the ring's protocol, run through every execution that C++ allows.
//
// Relacy replaces threads by fibers and atomics by its own, and runs a test again and again: each time it
// switches between the threads somewhere else, and each time an atomic load has a choice it returns another
// of the values that the memory model permits, stale ones included. Its full search ends when no choice is
// left untried. It reports plain accesses that race, and threads that wait for ever. So it can judge what
// ThreadSanitizer cannot: the full fence of the SQPOLL handshake.
//
// What is modelled is small on purpose (the number of executions grows exponentially) and made of three
// parts:
//
//   the functions of uring/indices.hpp    line by line, under the same names, reading the same table;
//                                         barriers_test.cpp compares which function uses which entry
//   what the ring layer does with them    next_sqe, submit and harvest of uring/ring.hpp, reduced to indices
//   the kernel's side                     under the kernel's names, with the orders of Linux 6.18
//
//   usage: relacy_models MODEL MUTANT     MODEL: a name in `models` below
//                                         MUTANT: correct, or another name of namespace uring::mutants
//   Exit status: 0 all executions are right; 1 one is not, and is printed; 2 usage, or nothing was proved
//
// The searches are complete but for wakeup_twice, which allows five preemptions: switches away from a thread
// that could have gone on.
//
// Limits: a load sees one of the last three stores to its word, and never one that is still to come. The
// amount of work is fixed: enough for every slot to be used again, and for the indices to wrap.

#include <array>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string_view>

#include "uring/indices.hpp"

// Last: it redefines new, delete, malloc, assert and memory_order_relaxed.
#include <relacy/relacy.hpp>

namespace {

// ---- uring/indices.hpp, in Relacy's types -----------------------------------------------------------------

/// The table under test: one of uring::mutants.
uring::Orders orders;

/// The shared words of SharedWords, and the tail of a provided-buffer ring.
struct Words {
  rl::atomic<std::uint32_t> sq_head, sq_tail, sq_flags, cq_head, cq_tail;
  rl::atomic<std::uint16_t> buffer_tail;
};

/// Where in this file: what Relacy prints with each step.
rl::debug_info here(const char* function = __builtin_FUNCTION(), const char* file = __builtin_FILE(),
                    unsigned line = __builtin_LINE()) {
  return {function, file, line};
}

rl::memory_order order(std::memory_order from_the_table) {
  switch (from_the_table) {
    case std::memory_order::relaxed:
      return rl::mo_relaxed;
    case std::memory_order::consume:
      return rl::mo_consume;
    case std::memory_order::acquire:
      return rl::mo_acquire;
    case std::memory_order::release:
      return rl::mo_release;
    case std::memory_order::acq_rel:
      return rl::mo_acq_rel;
    case std::memory_order::seq_cst:
      break;
  }
  return rl::mo_seq_cst;
}

void publish_sq_tail(Words& words, std::uint32_t tail) {
  words.sq_tail.store(tail, order(orders.sq_tail_store), here());
}

std::uint32_t load_sq_head(Words& words) { return words.sq_head.load(order(orders.sq_head_load), here()); }

std::uint32_t load_cq_tail(Words& words) { return words.cq_tail.load(order(orders.cq_tail_load), here()); }

void publish_cq_head(Words& words, std::uint32_t head) {
  words.cq_head.store(head, order(orders.cq_head_store), here());
}

std::uint32_t load_sq_flags(Words& words) { return words.sq_flags.load(rl::mo_relaxed, here()); }

bool needs_wakeup(Words& words) {
  // A relaxed fence does nothing in C++, and is an error to Relacy.
  if (orders.wakeup_fence != std::memory_order::relaxed) {
    rl::atomic_thread_fence(order(orders.wakeup_fence), here());
  }
  return (load_sq_flags(words) & IORING_SQ_NEED_WAKEUP) != 0;
}

void publish_buffer_tail(Words& words, std::uint16_t tail) {
  words.buffer_tail.store(tail, order(orders.buffer_tail_store), here());
}

// ---- The kernel's side ------------------------------------------------------------------------------------

std::uint32_t io_sqring_entries(Words& words, std::uint32_t cached_sq_head) {
  return words.sq_tail.load(rl::mo_acquire, here()) - cached_sq_head;
}

void io_commit_sqring(Words& words, std::uint32_t cached_sq_head) {
  words.sq_head.store(cached_sq_head, rl::mo_release, here());
}

/// Linux loads the head without an order and relies on the control dependency: acquire is what C++ has for
/// that.
std::uint32_t io_cqring_room(Words& words, std::uint32_t cached_cq_tail, std::uint32_t entries) {
  return entries - (cached_cq_tail - words.cq_head.load(rl::mo_acquire, here()));
}

void io_commit_cqring(Words& words, std::uint32_t cached_cq_tail) {
  words.cq_tail.store(cached_cq_tail, rl::mo_release, here());
}

// ---- The models -------------------------------------------------------------------------------------------

/// How many executions got to what the model is about. None would mean that it proves nothing.
std::uint64_t reached = 0;

/// All indices begin just below 2^32 (the buffer ring's below 2^16) and wrap on the way.
constexpr std::uint32_t first = 0U - 1;

template <class Model>
struct TwoThreads : rl::test_suite<Model, 2> {
  Words words;

  void before() {
    for (auto* const word : {&words.sq_head, &words.sq_tail, &words.cq_head, &words.cq_tail}) {
      word->store(first, rl::mo_relaxed, here());
    }
    words.sq_flags.store(0, rl::mo_relaxed, here());
    words.buffer_tail.store(static_cast<std::uint16_t>(first), rl::mo_relaxed, here());
  }
  void thread(unsigned index) {
    auto& model = static_cast<Model&>(*this);
    index == 0 ? model.application() : model.kernel();
  }
};

/// Three SQEs through an SQ of one slot, the kernel looking four times.
struct SqModel : TwoThreads<SqModel> {
  rl::var<std::uint32_t> sqe;  // the only slot

  void application() {
    std::uint32_t tail = first;
    std::uint32_t limit = first + 1;
    for (unsigned prepared = 0; prepared != 3; ++prepared) {
      if (tail == limit) limit = load_sq_head(words) + 1;  // next_sqe: it looks full
      if (tail == limit) return;                           // and is: this execution ends here
      sqe(here()) = tail++;
      publish_sq_tail(words, tail);  // submit
      if (prepared == 2) ++reached;
    }
  }
  void kernel() {
    std::uint32_t cached_sq_head = first;
    for (unsigned look = 0; look != 4; ++look) {
      for (std::uint32_t left = io_sqring_entries(words, cached_sq_head); left != 0;
           --left, ++cached_sq_head) {
        RL_ASSERT(sqe(here()) == cached_sq_head);
      }
      io_commit_sqring(words, cached_sq_head);
    }
  }
};

/// Three CQEs through a CQ of one slot, the application harvesting four times.
struct CqModel : TwoThreads<CqModel> {
  rl::var<std::uint32_t> cqe;  // the only slot

  void application() {
    std::uint32_t head = first;
    for (unsigned harvest = 0; harvest != 4; ++harvest) {
      const std::uint32_t tail = load_cq_tail(words);
      if (head == tail) continue;
      for (; head != tail; ++head) RL_ASSERT(cqe(here()) == head);
      publish_cq_head(words, head);
    }
  }
  void kernel() {
    std::uint32_t cached_cq_tail = first;
    for (unsigned look = 0; look != 3; ++look) {
      if (io_cqring_room(words, cached_cq_tail, 1) == 0) continue;
      cqe(here()) = cached_cq_tail++;
      io_commit_cqring(words, cached_cq_tail);
      if (cached_cq_tail == first + 3) ++reached;
    }
  }
};

/// Three buffers provided one by one, the kernel taking what it sees. Slots come back by a CQE, which is
/// another model.
struct BufferModel : TwoThreads<BufferModel> {
  std::array<rl::var<std::uint16_t>, 4> buffer;

  void application() {
    auto tail = static_cast<std::uint16_t>(first);
    for (unsigned provided = 0; provided != 3; ++provided) {
      buffer[tail % 4U](here()) = tail;
      publish_buffer_tail(words, ++tail);
    }
  }
  void kernel() {
    auto head = static_cast<std::uint16_t>(first);
    for (unsigned look = 0; look != 4; ++look) {
      if (words.buffer_tail.load(rl::mo_acquire, here()) == head) continue;  // io_ring_buffer_select: none
      RL_ASSERT(buffer[head % 4U](here()) == head);
      ++head;
      if (look == 3) ++reached;
    }
  }
};

/// SQEs submitted one after the other to a thread that goes to sleep whenever it finds nothing (io_sq_thread,
/// with an idle time of zero). It ends when it has taken them all. A lost wake-up leaves it asleep for ever.
template <unsigned Sqes, bool KernelFence>
struct WakeupModel : TwoThreads<WakeupModel<Sqes, KernelFence>> {
  using Base = TwoThreads<WakeupModel>;
  using Base::words;
  rl::generic_event wake_up;  // remembers a call that comes before the wait, as the kernel's wait queue does

  void before() {
    Base::before();
    wake_up.init(false, false, here());
  }
  void after() { wake_up.deinit(here()); }

  void application() {
    std::uint32_t tail = first;
    for (unsigned submitted = 0; submitted != Sqes; ++submitted) {
      publish_sq_tail(words, ++tail);
      if (tail - load_sq_head(words) != 0 && needs_wakeup(words))
        wake_up.set(here());  // IORING_ENTER_SQ_WAKEUP
    }
  }
  void kernel() {
    std::uint32_t cached_sq_head = first;
    while (cached_sq_head != first + Sqes) {
      if (const std::uint32_t entries = io_sqring_entries(words, cached_sq_head); entries != 0) {
        cached_sq_head += entries;
        io_commit_sqring(words, cached_sq_head);
        continue;
      }
      words.sq_flags.fetch_or(IORING_SQ_NEED_WAKEUP, rl::mo_relaxed, here());
      if constexpr (KernelFence) rl::atomic_thread_fence(rl::mo_seq_cst, here());  // smp_mb__after_atomic
      if (io_sqring_entries(words, cached_sq_head) == 0) {
        ++reached;
        wake_up.wait(false, false, here());  // schedule
      }
      words.sq_flags.fetch_and(~std::uint32_t{IORING_SQ_NEED_WAKEUP}, rl::mo_relaxed, here());
    }
  }
};

// ---- Running them -----------------------------------------------------------------------------------------

constexpr unsigned unlimited = 0;

/// Every execution of the model, or every one with at most so many preemptions.
template <class Model, unsigned Preemptions>
int search(const char* model, const char* mutant) {
  std::ostream nowhere(nullptr);
  rl::test_params parameters;
  parameters.search_type = Preemptions == unlimited ? rl::sched_full : rl::sched_bound;
  parameters.context_bound = Preemptions;
  parameters.iteration_count = 100'000'000;  // more than there are; checked below
  parameters.progress_stream = &nowhere;
  const bool right = rl::simulate<Model>(parameters);
  const auto executions = static_cast<unsigned long long>(parameters.stop_iteration);
  if (!right) {
    std::printf("%s, %s: execution %llu goes wrong: %s\n", model, mutant, executions,
                rl::test_result_str(parameters.test_result));
    return 1;
  }
  const bool complete = parameters.stop_iteration < parameters.iteration_count;
  std::printf("%s, %s: %s executions are right: %llu, of which %llu reach the point\n", model, mutant,
              complete ? "all" : "NOT all", executions, static_cast<unsigned long long>(reached));
  return complete && reached != 0 ? 0 : 2;
}

struct NamedModel {
  std::string_view name;
  int (*search)(const char* model, const char* mutant);
};

constexpr std::array models{
    NamedModel{"sq", search<SqModel, unlimited>},
    NamedModel{"cq", search<CqModel, unlimited>},
    NamedModel{"buffers", search<BufferModel, unlimited>},
    NamedModel{"wakeup", search<WakeupModel<1, true>, unlimited>},
    NamedModel{"wakeup_twice", search<WakeupModel<2, true>, 5>},
    NamedModel{"wakeup_without_kernel_fence", search<WakeupModel<1, false>, unlimited>}};

struct NamedOrders {
  std::string_view name;
  uring::Orders orders;
};

/// Every entry of uring::mutants.
constexpr std::array tables{NamedOrders{"correct", uring::mutants::correct},
                            NamedOrders{"sq_tail_relaxed", uring::mutants::sq_tail_relaxed},
                            NamedOrders{"sq_head_relaxed", uring::mutants::sq_head_relaxed},
                            NamedOrders{"cq_tail_relaxed", uring::mutants::cq_tail_relaxed},
                            NamedOrders{"cq_head_relaxed", uring::mutants::cq_head_relaxed},
                            NamedOrders{"buffer_tail_relaxed", uring::mutants::buffer_tail_relaxed},
                            NamedOrders{"wakeup_fence_missing", uring::mutants::wakeup_fence_missing},
                            NamedOrders{"wakeup_fence_acquire", uring::mutants::wakeup_fence_acquire}};

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3) {
    for (const NamedModel& model : models) {
      for (const NamedOrders& table : tables) {
        if (model.name != argv[1] || table.name != argv[2]) continue;
        orders = table.orders;
        return model.search(argv[1], argv[2]);
      }
    }
  }
  std::fputs("usage: relacy_models MODEL MUTANT, both as named at the end of relacy_models.cpp\n", stderr);
  return 2;
}

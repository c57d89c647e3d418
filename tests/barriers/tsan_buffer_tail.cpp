// Tail of a provided-buffer ring: a release by the application, an acquire by the kernel. It publishes the 16
// bytes of each entry (address, length, buffer id).
//
// The ring of buffers is filled once, so its tail is the only word that passes between the two threads. (In a
// program that goes on, a buffer comes back by a CQE; the acquire of the CQ tail then orders the other
// direction.) The tail is 16 bits wide and lies inside the first entry, at byte 14. TSan's report for
// buffer_tail_relaxed: the kernel *reads* an entry that the application *wrote*.

#include <vector>

#include "tests/barriers/mock_ring.hpp"
#include "uring/abi.hpp"

namespace {

constexpr std::uint16_t entries = 256;
constexpr std::uint32_t buffer_bytes = 4096;

struct BufferRing {
  std::vector<io_uring_buf> entry = std::vector<io_uring_buf>(entries);

  std::uint16_t& tail() {
    return *reinterpret_cast<std::uint16_t*>(reinterpret_cast<char*>(entry.data()) + 14);
  }
  io_uring_buf& at(std::uint16_t index) { return entry[index % entries]; }

  /// The first half of the kernel's io_ring_buffer_select (io_uring/kbuf.c).
  bool io_ring_buffer_select(std::uint16_t head, io_uring_buf& buffer) {
    if (std::atomic_ref(tail()).load(std::memory_order_acquire) == head) return false;
    buffer.addr = at(head).addr;
    buffer.len = at(head).len;
    buffer.bid = at(head).bid;
    return true;
  }
};

unsigned kernel_selects_buffers(BufferRing& ring, std::uint16_t start) {
  unsigned wrong = 0;
  for (std::uint16_t taken = 0; taken != entries;) {
    io_uring_buf buffer;
    if (!ring.io_ring_buffer_select(static_cast<std::uint16_t>(start + taken), buffer)) {
      std::this_thread::yield();
      continue;
    }
    if (buffer.addr != std::uint64_t{buffer_bytes} * taken || buffer.len != buffer_bytes ||
        buffer.bid != taken) {
      ++wrong;
    }
    ++taken;
  }
  return wrong;
}

unsigned application_provides(BufferRing& ring, std::uint16_t start) {
  for (std::uint16_t id = 0; id != entries; ++id) {
    const auto index = static_cast<std::uint16_t>(start + id);
    io_uring_buf& buffer = ring.at(index);
    buffer.addr = std::uint64_t{buffer_bytes} * id;
    buffer.len = buffer_bytes;
    buffer.bid = id;
    uring::publish_buffer_tail(ring.tail(), static_cast<std::uint16_t>(index + 1));
  }
  return 0;
}

unsigned exchange(std::uint32_t start) {
  const auto first = static_cast<std::uint16_t>(start);
  BufferRing ring;
  ring.tail() = first;
  return barriers::run_both([&] { return kernel_selects_buffers(ring, first); },
                            [&] { return application_provides(ring, first); });
}

}  // namespace

int main(int argc, char** argv) {
  return barriers::run_harness(argc, argv, {0, 65536 - entries / 2}, exchange);
}

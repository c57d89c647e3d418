// A chunk: one buffer of the pool, and the read that fills it.
//
//   memory                  + headroom                                              4096 bytes of room
//   |                       |                                                       |
//   [                  head][  skip  ][ bytes of the file, up to --buffer-size ]····]
//                      '-- what is sent, in one piece: begin, size --'
//
// The head of an answer is put in front of the file's first bytes, so that both leave by one send and nothing
// but the head is copied. With O_DIRECT a read begins and ends on a block boundary: `skip` bytes in front are
// not wanted, and the head may overwrite them.
//
// A buffer is held from the start of its read until it is sent, or until the socket takes no more: then it
// goes back at once, and what is missing is read again when the client has made room. So buffers are never
// held by clients that do not read, and memory is bounded whatever the load.
//
// The free list is a stack: the buffer that was used last, which the CPU's caches still hold, is used next.
// A server that reads in its loop works with the same one all the time.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "baseline_epoll/file_server/file_cache.hpp"
#include "servers/common/start_error.hpp"

namespace file_server {

struct Connection;
struct Pending;

inline constexpr std::uint32_t chunk_headroom = 4096;

struct Chunk {
  std::byte* memory = nullptr;
  Chunk* next = nullptr;        // free, or the next one of the same connection
  Chunk* next_job = nullptr;    // in the read pool
  Connection* owner = nullptr;  // nullptr: nobody wants it any more
  Pending* pending = nullptr;   // the answer that it is a part of
  OpenFile* file = nullptr;
  std::uint64_t offset = 0;  // what to read, aligned as the file needs it
  std::uint32_t length = 0;
  std::uint32_t needed = 0;  // of `length`: fewer bytes, and the file has shrunk
  std::uint32_t head = 0;    // bytes of the answer's head that belong in front
  std::byte* begin = nullptr;
  std::uint32_t size = 0;
  std::int64_t result = 0;  // bytes that were read, or -errno
  bool done = false;

  bool failed() const noexcept { return result < std::int64_t{needed}; }
};

/// Reads what the chunk describes; blocks. Adds the system calls it made to `syscalls`.
inline void read_chunk(Chunk& chunk, std::uint64_t& syscalls) noexcept {
  std::uint32_t got = 0;
  chunk.result = 0;
  while (got < chunk.needed) {
    ++syscalls;
    const ::ssize_t bytes = ::pread(chunk.file->fd.get(), chunk.memory + chunk_headroom + got,
                                    chunk.length - got, static_cast<::off_t>(chunk.offset + got));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) {
      chunk.result = -errno;
      return;
    }
    got += static_cast<std::uint32_t>(bytes);
    if (bytes == 0 || chunk.file->direct) break;  // a short O_DIRECT read has met the end of the file
  }
  chunk.result = got;
}

class ChunkPool {
 public:
  /// `count` chunks for reads of up to `buffer_size` bytes. The memory is not touched before it is used.
  ChunkPool(std::uint32_t count, std::uint32_t buffer_size)
      : stride_(std::size_t{chunk_headroom} + buffer_size + 4096), chunks_(count) {
    if (count == 0) return;
    void* const memory = ::mmap(nullptr, stride_ * count, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      throw common::StartError(common::exit_failed, "no memory for --buffers: " + common::errno_text(errno));
    }
    memory_ = static_cast<std::byte*>(memory);
    for (std::size_t i = count; i-- > 0;) {
      chunks_[i].memory = memory_ + i * stride_;
      chunks_[i].next = free_;
      free_ = &chunks_[i];
    }
  }
  ~ChunkPool() {
    if (memory_ != nullptr) ::munmap(memory_, stride_ * chunks_.size());
  }
  ChunkPool(const ChunkPool&) = delete;
  ChunkPool& operator=(const ChunkPool&) = delete;

  /// nullptr: none is free.
  Chunk* take() noexcept {
    Chunk* const chunk = free_;
    if (chunk == nullptr) return nullptr;
    free_ = chunk->next;
    chunk->next = nullptr;
    in_use_max_ = std::max(in_use_max_, ++in_use_);
    return chunk;
  }
  void give_back(Chunk& chunk) noexcept {
    chunk.next = free_;
    free_ = &chunk;
    --in_use_;
  }

  bool has_free() const noexcept { return free_ != nullptr; }
  std::uint32_t in_use() const noexcept { return in_use_; }
  std::uint32_t in_use_max() const noexcept { return in_use_max_; }
  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(chunks_.size()); }

 private:
  std::size_t stride_;
  std::vector<Chunk> chunks_;
  std::byte* memory_ = nullptr;
  Chunk* free_ = nullptr;
  std::uint32_t in_use_ = 0;
  std::uint32_t in_use_max_ = 0;
};

}  // namespace file_server

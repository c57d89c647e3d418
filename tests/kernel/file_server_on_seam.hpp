// A FileServer on a Seam (seam.hpp): what the tests of its bad luck share, whether it copies what it sends or lends it.
#pragma once

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "servers/common/listener.hpp"
#include "servers/common/served_root.hpp"
#include "servers/common_ring/file_server.hpp"
#include "tests/kernel/seam.hpp"
#include "tests/support/client.hpp"
#include "tests/support/shell.hpp"
#include "uring/direct_files.hpp"

namespace tests::kernel {

struct FileServerSetup {
  unsigned sq_entries = 64;
  std::uint32_t buffers = 8;
  std::uint32_t open_files = 1024;
  bool slots = false;
  int send_buffer = 0;  // of each connection
  std::optional<std::uint32_t> zero_copy_from{};
};

/// A FileServer on a Seam.
class FileServerOnSeam : public ServerThread {
 public:
  explicit FileServerOnSeam(Seam& seam, const FileServerSetup& setup = {})
      : ServerThread(seam), setup_(setup), root_(common::open_root(folder_.path().string())) {
    seam.at_enter = [this] { buffers_in_use_ = pool_->in_use(); };
    start([this] { return serve(); });
  }
  ~FileServerOnSeam() { stop_at_last(); }

  const tests::TemporaryFolder& folder() const { return folder_; }
  std::size_t buffers_in_use() const { return buffers_in_use_; }

  /// Performs what was held back, and completes it with what came of it.
  void perform(const io_uring_sqe& sqe) { complete(sqe.user_data, result_of(sqe)); }

 private:
  static int result_of(const io_uring_sqe& sqe) {
    long result = 0;
    switch (sqe.opcode) {
      case IORING_OP_READ:
        result = ::pread(sqe.fd, pointer(sqe.addr), sqe.len, static_cast<::off_t>(sqe.off));
        break;
      case IORING_OP_STATX:
        result = ::statx(sqe.fd, pointer<const char>(sqe.addr), static_cast<int>(sqe.statx_flags), sqe.len,
                         pointer<struct ::statx>(sqe.off));
        break;
      case IORING_OP_SEND:
      case IORING_OP_SEND_ZC:
        result = ::send(sqe.fd, pointer(sqe.addr), sqe.len, MSG_NOSIGNAL);
        break;
      case IORING_OP_CLOSE:
        result = ::close(sqe.fd);
        break;
      default:
        throw std::logic_error("no test performs this operation");
    }
    return result < 0 ? -errno : static_cast<int>(result);
  }

  Outcome serve() {
    Outcome outcome;
    {
      std::optional<common::Listener> listener(common::listen_tcp("127.0.0.1", 0, /*nonblocking=*/false));
      if (setup_.send_buffer > 0) {
        ::setsockopt(listener->fd(), SOL_SOCKET, SO_SNDBUF, &setup_.send_buffer, sizeof setup_.send_buffer);
      }
      uring::BufferPool pool(setup_.buffers, 64 << 10, common_ring::buffer_headroom);
      pool_ = &pool;
      const uring::RingOptions options{.entries = setup_.sq_entries, .cq_entries = 1024};
      std::optional<uring::Ring> ring(std::in_place, options, seam().kernel());
      std::optional<uring::DirectFiles> slots;
      if (setup_.slots) {
        slots.emplace();
        if (slots->register_with(*ring, 64) < 0) throw std::runtime_error("no table of files");
      }
      uring::Loop loop(*ring);
      common_ring::FileServer::Options server_options{};
      server_options.files.open_files = setup_.open_files;
      server_options.zero_copy_from = setup_.zero_copy_from;
      common_ring::FileServer server(loop, pool, slots ? &*slots : nullptr, *listener, root_.get(), signals(),
                                     server_options);
      listens(listener->name(), ring->fd());
      outcome.result = server.run();
      outcome.counters = server.counters();
      outcome.leaks = server.count_leaks();
      listener.reset();
      ring.reset();
      // After a failure the kernel cancels what was in flight, but a moment later.
      if (outcome.result < 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    return outcome;
  }

  FileServerSetup setup_;
  tests::TemporaryFolder folder_{};
  common::Descriptor root_;
  uring::BufferPool* pool_ = nullptr;
  std::atomic<std::size_t> buffers_in_use_{0};
};

inline bool echoes(tests::Client& client) {
  client.send_all("ECHO 5\nhello");
  return client.receive_exactly(10) == "OK 5\nhello";
}

/// GET of a file that fits into one line.
inline std::string get(tests::Client& client, const std::string& name) {
  client.send_all("GET " + name + "\n");
  const std::string head = client.receive_line();
  return head.starts_with("OK ") ? client.receive_exactly(std::stoull(head.substr(3))) : head;
}

}  // namespace tests::kernel

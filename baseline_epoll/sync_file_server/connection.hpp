// One connection of the synchronous server, in its own thread: each call blocks until it is done.
//
// The buffer has room in front for the head of an answer, so that head and first bytes leave by one send, and
// around it for what O_DIRECT reads too much. It belongs to the thread: memory grows with connections.
#pragma once

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>

#include "servers/common/counters.hpp"
#include "servers/common/file_answer.hpp"
#include "servers/common/file_facts.hpp"
#include "servers/common/file_options.hpp"
#include "servers/common/file_wire.hpp"
#include "servers/common/lingering.hpp"
#include "servers/common/served_root.hpp"

namespace sync_server {

using Clock = std::chrono::steady_clock;

struct Options {
  common::ServerOptions server{.port = 9000};
  common::FileOptions files{};
};

// What main knows of a thread.
struct Client {
  explicit Client(int fd) : socket(fd) {}
  common::Descriptor socket;
  ::pthread_t thread{};
  std::atomic<bool> busy = false;  // something was begun; when stopping, a lingering close is, too
  std::atomic<Clock::rep> active = Clock::now().time_since_epoch().count();
};

// What the threads share.
struct Shared {
  const Options& options;
  int root;
  std::uint64_t most_clients;          // each may have a file open, too
  std::atomic<bool> stopping = false;  // end when nothing is under way
  std::atomic<bool> ending = false;    // end
  std::atomic<bool> said_not_direct = false;
  std::mutex lock{};
  std::list<Client> clients{};
  common::Counters counters{};
};

class Connection {
 public:
  Connection(Shared& shared, Client& client)
      : shared_(shared), client_(client), fd_(client.socket.get()), size_(shared.options.files.buffer_size) {
    buffer_.reset(static_cast<char*>(std::aligned_alloc(4096, size_ + 2 * std::size_t{4096})));
  }
  ~Connection() { publish(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void serve() {
    if (!buffer_) return fail();
    std::byte input[16 << 10];
    while (!shared_.stopping || parser_.started()) {
      if (shared_.ending) return fail();
      ++counters_.syscalls;
      const ::ssize_t bytes = ::recv(fd_, input, sizeof input, 0);
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes < 0) return fail();
      if (bytes == 0) return;
      client_.busy = true;
      counters_.bytes_in += static_cast<std::size_t>(bytes);
      if (!answer_all({input, static_cast<std::size_t>(bytes)})) return;
      client_.active = Clock::now().time_since_epoch().count();
      client_.busy = parser_.started();
    }
    const Clock::time_point active{Clock::duration(client_.active)};
    if (Clock::now() - active < common::linger_time) linger();
  }

 private:
  // False: the connection has come to its end.
  bool answer_all(std::span<const std::byte> input) {
    while (!input.empty()) {
      common::Request request;
      const auto [used, complete] = parser_.consume(input, request, text_);
      input = input.subspan(used);
      if (!complete) continue;
      bool keep = false;
      if (!answer(request, keep)) {
        fail();
        return false;
      }
      if ((++counters_.requests & 63) == 0) publish();
      if (keep) continue;
      linger();
      return false;
    }
    return true;
  }

  // False: it could not be sent as promised.
  bool answer(const common::Request& request, bool& keep) {
    if (request.refusal == 0 && request.method != common::Method::echo) return answer_file(request, keep);
    const common::Answer answer =
        request.refusal != 0 ? common::answer_refusal(request) : common::answer_echo(request);
    keep = answer.keep;
    const std::string_view body = request.refusal != 0 ? std::string_view{} : request.text;
    return send_all(answer.text(), body.empty() ? 0 : MSG_MORE) && send_all(body, 0);
  }

  bool answer_file(const common::Request& request, bool& keep) {
    common::FileFacts facts;
    bool direct = shared_.options.files.direct;
    const int fd = open_file(request.text.data(), facts, direct);
    const common::Descriptor file(std::max(fd, -1));
    counters_.syscalls += fd >= 0 ? 1 : 0;
    common::Answer answer =
        fd < 0 ? common::answer_error(request, -fd) : common::answer_file(request, facts.size);
    keep = answer.keep;
    if (answer.length == 0) return send_all(answer.text(), 0);
    const std::uint32_t alignment = direct ? facts.offset_alignment : 1;
    for (std::uint64_t sent = 0; sent < answer.length;) {
      const std::uint64_t offset = answer.offset + sent;
      const auto length = static_cast<std::uint32_t>(
          std::min<std::uint64_t>(answer.length - sent, size_ - (offset & (alignment - 1))));
      const common::AlignedRange range = common::covering(offset, length, alignment);
      char* const data = buffer_.get() + 4096;
      ++counters_.syscalls;
      const ::ssize_t got = ::pread(fd, data, range.length, static_cast<::off_t>(range.offset));
      if (got < 0 && sent == 0) {
        answer = common::answer_error(request, errno);
        keep = answer.keep;
        return send_all(answer.text(), 0);
      }
      if (got < ::ssize_t{range.skip} + length) return false;
      const std::size_t head = sent == 0 ? answer.head_size : 0;
      char* const begin = data + range.skip - head;
      std::memcpy(begin, answer.head.data(), head);
      if (!send_all({begin, head + length}, 0)) return false;
      sent += length;
    }
    return true;
  }

  // A descriptor with its facts, or -errno. `direct` says whether it was opened with O_DIRECT.
  int open_file(const char* path, common::FileFacts& facts, bool& direct) {
    ++counters_.syscalls;
    const int fd = common::open_served(shared_.root, path, direct ? O_DIRECT : 0);
    if (fd == -EINVAL && direct) return open_buffered(path, facts, direct);
    if (fd < 0) return fd;
    common::Descriptor file(fd);
    struct ::statx status;
    ++counters_.syscalls;
    if (::statx(fd, "", AT_EMPTY_PATH, common::file_facts_mask, &status) != 0) return -errno;
    facts = common::facts_of(status);
    if (const int refusal = common::refusal_of_mode(facts.mode); refusal != 0) return -refusal;
    if (!direct || (facts.offset_alignment > 0 && facts.offset_alignment <= 4096)) return file.release();
    file.reset();
    return open_buffered(path, facts, direct);
  }

  int open_buffered(const char* path, common::FileFacts& facts, bool& direct) {
    direct = false;
    const int fd = open_file(path, facts, direct);
    if (fd >= 0 && !shared_.said_not_direct.exchange(true)) {
      std::fprintf(stderr, "%s cannot be read with O_DIRECT; such files are read through the page cache\n",
                   path);
    }
    return fd;
  }

  bool send_all(std::string_view text, int flags) {
    while (!text.empty()) {
      if (shared_.ending) return false;
      ++counters_.syscalls;
      const ::ssize_t sent = ::send(fd_, text.data(), text.size(), flags | MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) return false;
      counters_.bytes_out += static_cast<std::size_t>(sent);
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  // RST instead of FIN: what was promised will not come.
  void fail() {
    constexpr ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ++counters_.errors;
    ++counters_.syscalls;
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }

  void linger() {
    client_.busy = true;
    ::shutdown(fd_, SHUT_WR);
    common::Lingering lingering(Clock::now());
    constexpr ::timeval pause{.tv_sec = 1, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &pause, sizeof pause);
    counters_.syscalls += 2;
    while (!lingering.is_over(Clock::now()) && !shared_.ending) {
      ++counters_.syscalls;
      const ::ssize_t bytes = ::recv(fd_, buffer_.get(), size_, 0);
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes <= 0) return;
      lingering.discarded(static_cast<std::size_t>(bytes));
      counters_.bytes_in += static_cast<std::size_t>(bytes);
    }
  }

  void publish() {
    const std::lock_guard guard(shared_.lock);
    common::add(shared_.counters, counters_);
    counters_ = {};
  }

  struct Free {
    void operator()(char* memory) const noexcept { std::free(memory); }
  };

  Shared& shared_;
  Client& client_;
  int fd_;
  std::size_t size_;
  std::unique_ptr<char, Free> buffer_{};
  common::RequestParser parser_{};
  common::TextBuffer text_{};
  common::Counters counters_{};
};

}  // namespace sync_server

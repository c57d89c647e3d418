// A client for tests: one blocking socket, and how the conversation on it ended.
//
//   tests::Client client(server.where());
//   client.send_all("GET file\n");
//   client.receive_line();           // "OK 5\n"
//   client.receive_exactly(5);
//   client.receive_to_end();         // the rest, and then:
//   client.end() == tests::End::fin
//
// A receive that gets nothing for `long_enough` gives up (End::timeout) instead of hanging the suite. What was received
// is never lost: receive_line() may have read further than its line, and the next call begins there.
//
// A small receive buffer makes a client that reads slowly block its server early: without it the kernel takes megabytes
// in on its behalf. It must be set before connect(2), which announces the window.

#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "servers/common/descriptor.hpp"
#include "tests/support/server_process.hpp"

namespace tests {

/// How a conversation ended: not yet; the server's FIN; a reset; nothing came for too long.
enum class End { open, fin, reset, timeout };

/// The call again when a signal ended it. (Not only signals do: a ring that was closed on this thread interrupts it
/// once more, some milliseconds later; see docs/kernel-facts.md.)
template <class Call>
auto again_after_signal(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

class Client {
 public:
  /// Connects to "127.0.0.1:1234", "[::1]:1234" or "unix:/path". Throws std::system_error with connect's errno.
  explicit Client(std::string_view where, int receive_buffer = 0) {
    ::sockaddr_storage address{};
    const ::socklen_t size = parse(where, address);
    fd_ = common::Descriptor(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (receive_buffer > 0) limit_receive_buffer(receive_buffer);
    const ::timeval time{.tv_sec = long_enough.count(), .tv_usec = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
    const int yes = 1;
    if (address.ss_family != AF_UNIX) ::setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    const void* const any = &address;
    // A ring that this process has closed a moment ago interrupts its threads. The connect goes on meanwhile; the same
    // call then says EALREADY, or EISCONN if it is done.
    int error = 0;
    do {
      error = ::connect(fd_.get(), static_cast<const ::sockaddr*>(any), size) == 0 ? 0 : errno;
    } while (error == EINTR || error == EALREADY);
    if (error != 0 && error != EISCONN) {
      throw std::system_error(error, std::generic_category(), "connect to " + std::string(where));
    }
  }

  /// Also while connected: a larger one opens the window.
  void limit_receive_buffer(int bytes) const {
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }

  /// False: the server has closed or reset.
  bool send_all(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ::ssize_t n =
          again_after_signal([&] { return ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); });
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }

  /// One byte of TCP's urgent data.
  bool send_urgent(char byte) const {
    return again_after_signal([&] { return ::send(fd_.get(), &byte, 1, MSG_NOSIGNAL | MSG_OOB); }) == 1;
  }

  /// Sends as much as the connection takes, and gives up when it takes nothing more for `patience`. Returns the bytes.
  std::size_t send_what_fits(std::string_view bytes, std::chrono::milliseconds patience) const {
    const std::size_t all = bytes.size();
    while (!bytes.empty()) {
      const ::ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(n));
        continue;
      }
      ::pollfd ready{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
      if (errno != EAGAIN ||
          again_after_signal([&] { return ::poll(&ready, 1, static_cast<int>(patience.count())); }) <= 0) {
        break;
      }
    }
    return all - bytes.size();
  }

  /// `size` bytes; fewer if the end comes before.
  std::string receive_exactly(std::size_t size) {
    std::string text(size, '\0');
    std::size_t have = std::min(size, received_.size());
    std::memcpy(text.data(), received_.data(), have);
    received_.erase(0, have);
    while (have < size) {
      const std::size_t n = receive(text.data() + have, size - have);
      if (n == 0) break;
      have += n;
    }
    text.resize(have);
    return text;
  }

  /// Through the next newline; without one if the end comes before.
  std::string receive_line() {
    char chunk[4096];
    std::size_t newline = received_.find('\n');
    while (newline == std::string::npos) {
      const std::size_t n = receive(chunk, sizeof chunk);
      if (n == 0) return std::exchange(received_, {});
      received_.append(chunk, n);
      newline = received_.find('\n', received_.size() - n);
    }
    std::string line = received_.substr(0, newline + 1);
    received_.erase(0, newline + 1);
    return line;
  }

  /// All that comes until the connection ends.
  std::string receive_to_end() {
    std::string text = std::exchange(received_, {});
    char chunk[16384];
    while (const std::size_t n = receive(chunk, sizeof chunk)) text.append(chunk, n);
    return text;
  }

  /// Waits until there is something to receive, the end included.
  bool has_something(std::chrono::milliseconds time = long_enough) const {
    ::pollfd ready{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    return !received_.empty() ||
           again_after_signal([&] { return ::poll(&ready, 1, static_cast<int>(time.count())); }) > 0;
  }

  End end() const noexcept { return end_; }

  /// No more requests; answers may still come.
  void half_close() const { ::shutdown(fd_.get(), SHUT_WR); }

  /// Leaves, as a client that has got what it wanted does.
  void close() { fd_.reset(); }

  /// Closes with a RST: whatever is under way is lost, and no TIME_WAIT is left behind.
  void reset() {
    const ::linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    fd_.reset();
  }

 private:
  static ::socklen_t parse(std::string_view where, ::sockaddr_storage& address) {
    void* const any = &address;
    if (where.starts_with("unix:")) {
      where.remove_prefix(5);
      auto* const local = static_cast<::sockaddr_un*>(any);
      if (where.size() >= sizeof local->sun_path) throw std::runtime_error("the path is too long");
      local->sun_family = AF_UNIX;
      std::memcpy(local->sun_path, where.data(), where.size());
      return sizeof *local;
    }
    const std::size_t colon = where.rfind(':');
    std::string host(where.substr(0, colon));
    const auto port = htons(static_cast<std::uint16_t>(std::stoi(std::string(where.substr(colon + 1)))));
    if (host.starts_with('[')) {
      auto* const six = static_cast<::sockaddr_in6*>(any);
      host = host.substr(1, host.size() - 2);
      six->sin6_family = AF_INET6;
      six->sin6_port = port;
      ::inet_pton(AF_INET6, host.c_str(), &six->sin6_addr);
      return sizeof *six;
    }
    auto* const four = static_cast<::sockaddr_in*>(any);
    four->sin_family = AF_INET;
    four->sin_port = port;
    ::inet_pton(AF_INET, host.c_str(), &four->sin_addr);
    return sizeof *four;
  }

  // 0: the end, and end_ says which.
  std::size_t receive(char* bytes, std::size_t size) {
    const ::ssize_t n = again_after_signal([&] { return ::recv(fd_.get(), bytes, size, 0); });
    if (n > 0) return static_cast<std::size_t>(n);
    end_ = n == 0 ? End::fin : errno == EAGAIN ? End::timeout : End::reset;
    return 0;
  }

  common::Descriptor fd_{};
  std::string received_{};
  End end_ = End::open;
};

}  // namespace tests

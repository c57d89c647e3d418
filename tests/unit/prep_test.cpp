// The prep functions, byte by byte: what each writes, computed here a second time from the offsets of the interface and
// not from the struct, over two different kinds of garbage.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/prep_sockets.hpp"

namespace prep = uring::prep;
using uring::BufferGroup;
using uring::DirectSlot;
using uring::Token;

namespace {

using Bytes = std::array<unsigned char, 64>;

// An SQE as the kernel documents it. Everything that is not named is zero.
struct Expected {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;
  std::uint16_t ioprio = 0;
  std::int32_t fd = 0;
  std::uint64_t off = 0;
  std::uint64_t addr = 0;
  std::uint32_t len = 0;
  std::uint32_t op_flags = 0;
  std::uint16_t buffer = 0;
  std::uint32_t file_index = 0;
  std::uint64_t addr3 = 0;
};

constexpr Token token{0x1122334455667788};

template <class T>
void put(Bytes& bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

Bytes encode(const Expected& expected) {
  Bytes bytes{};
  put(bytes, 0, expected.opcode);
  put(bytes, 1, expected.flags);
  put(bytes, 2, expected.ioprio);
  put(bytes, 4, expected.fd);
  put(bytes, 8, expected.off);
  put(bytes, 16, expected.addr);
  put(bytes, 24, expected.len);
  put(bytes, 28, expected.op_flags);
  put(bytes, 32, token.bits);
  put(bytes, 40, expected.buffer);
  put(bytes, 44, expected.file_index);
  put(bytes, 48, expected.addr3);
  return bytes;
}

template <class Prepare>
Bytes prepared_over(int garbage, const Prepare& prepare) {
  io_uring_sqe sqe;
  std::memset(&sqe, garbage, sizeof sqe);
  prepare(sqe);
  Bytes bytes;
  std::memcpy(bytes.data(), &sqe, sizeof sqe);
  return bytes;
}

template <class Prepare>
void check(const char* name, const Expected& expected, const Prepare& prepare) {
  CAPTURE(name);
  const Bytes wanted = encode(expected);
  for (const int garbage : {0xff, 0x00, 0xa5}) {
    const Bytes got = prepared_over(garbage, prepare);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      CAPTURE(i);
      CHECK(int{got[i]} == int{wanted[i]});
    }
  }
}

std::uint64_t number(const void* pointer) {
  std::uint64_t bits = 0;
  static_assert(sizeof pointer == sizeof bits);
  std::memcpy(&bits, &pointer, sizeof bits);
  return bits;
}

}  // namespace

TEST_CASE("fill writes all 64 bytes, whatever lay in the slot before") {
  check("fill", {.opcode = 0xab, .fd = -7, .off = 0x0102030405060708, .addr = ~0ull, .len = 0xdeadbeef},
        [](io_uring_sqe& sqe) { prep::fill(sqe, 0xab, -7, ~0ull, 0xdeadbeef, 0x0102030405060708, token); });
}

TEST_CASE("the flag setters change one bit each and nothing else") {
  using Setter = void (*)(io_uring_sqe&) noexcept;
  struct Row {
    const char* name;
    Setter set;
    std::uint8_t bit;
  };
  const Row rows[] = {{"fixed_file", prep::fixed_file, 1 << 0},
                      {"drain", prep::drain, 1 << 1},
                      {"link", prep::link, 1 << 2},
                      {"hardlink", prep::hardlink, 1 << 3},
                      {"force_async", prep::force_async, 1 << 4},
                      {"skip_success", prep::skip_success, 1 << 6}};
  for (const Row& row : rows) {
    check(row.name, {.opcode = 0, .flags = row.bit, .fd = -1}, [&](io_uring_sqe& sqe) {
      prep::nop(sqe, token);
      row.set(sqe);
    });
  }
  check("two of them", {.opcode = 0, .flags = 1 << 2 | 1 << 4, .fd = -1}, [](io_uring_sqe& sqe) {
    prep::nop(sqe, token);
    prep::link(sqe);
    prep::force_async(sqe);
  });
  check("buffer_select", {.opcode = 0, .flags = 1 << 5, .fd = -1, .buffer = 0xbeef}, [](io_uring_sqe& sqe) {
    prep::nop(sqe, token);
    prep::buffer_select(sqe, BufferGroup{0xbeef});
  });
}

TEST_CASE("DRAIN is for all operations but the sends that have a notification") {
  io_uring_sqe sqe{};
  for (unsigned opcode = 0; opcode < 256; ++opcode) {
    prep::fill(sqe, static_cast<std::uint8_t>(opcode), -1, 0, 0, 0, Token{1});
    CHECK(prep::can_drain(sqe) == (opcode != IORING_OP_SEND_ZC && opcode != IORING_OP_SENDMSG_ZC));
  }
  prep::nop(sqe, Token{1});
  prep::drain(sqe);  // which asserts it
  CHECK(sqe.flags == IOSQE_IO_DRAIN);
}

TEST_CASE("a direct slot is spelled index + 1, so that 0 can mean an ordinary descriptor") {
  CHECK(prep::file_index(DirectSlot{0}) == 1);
  CHECK(prep::file_index(DirectSlot{41}) == 42);
  CHECK(prep::file_index(uring::any_slot) == IORING_FILE_INDEX_ALLOC);
}

TEST_CASE("reads and writes: where each argument goes") {
  char buffer[16];
  const iovec pieces[2] = {{buffer, 8}, {buffer + 8, 8}};
  const std::uint64_t at = number(buffer);
  const std::uint64_t iov = number(pieces);
  check("nop", {.opcode = 0, .fd = -1}, [&](io_uring_sqe& s) { prep::nop(s, token); });
  check("read", {.opcode = 22, .fd = 5, .off = 1ull << 40, .addr = at, .len = 16},
        [&](io_uring_sqe& s) { prep::read(s, 5, buffer, 16, 1ull << 40, token); });
  check("read at the file position", {.opcode = 22, .fd = 5, .off = ~0ull, .addr = at, .len = 16},
        [&](io_uring_sqe& s) { prep::read(s, 5, buffer, 16, uring::current_position, token); });
  check("write", {.opcode = 23, .fd = 5, .off = 7, .addr = at, .len = 16},
        [&](io_uring_sqe& s) { prep::write(s, 5, buffer, 16, 7, token); });
  check("write without a signal", {.opcode = 23, .fd = 5, .off = 7, .addr = at, .len = 16, .op_flags = 0x100},
        [&](io_uring_sqe& s) {
          prep::write(s, 5, buffer, 16, 7, token);
          prep::no_signal(s);
        });
  check("readv", {.opcode = 1, .fd = 5, .off = 7, .addr = iov, .len = 2},
        [&](io_uring_sqe& s) { prep::readv(s, 5, pieces, 2, 7, token); });
  check("writev", {.opcode = 2, .fd = 5, .off = 7, .addr = iov, .len = 2},
        [&](io_uring_sqe& s) { prep::writev(s, 5, pieces, 2, 7, token); });
  check("read_fixed", {.opcode = 4, .fd = 5, .off = 7, .addr = at, .len = 16, .buffer = 3},
        [&](io_uring_sqe& s) { prep::read_fixed(s, 5, buffer, 16, 7, 3, token); });
  check("write_fixed", {.opcode = 5, .fd = 5, .off = 7, .addr = at, .len = 16, .buffer = 3},
        [&](io_uring_sqe& s) { prep::write_fixed(s, 5, buffer, 16, 7, 3, token); });
  check("fsync", {.opcode = 3, .fd = 5, .op_flags = 1},
        [&](io_uring_sqe& s) { prep::fsync(s, 5, IORING_FSYNC_DATASYNC, token); });
  check("ftruncate", {.opcode = 55, .fd = 5, .off = 4096},
        [&](io_uring_sqe& s) { prep::ftruncate(s, 5, 4096, token); });
  check(
      "splice", {.opcode = 30, .fd = 6, .off = 8, .addr = ~0ull, .len = 16, .op_flags = 1, .file_index = 5},
      [&](io_uring_sqe& s) { prep::splice(s, 5, uring::current_position, 6, 8, 16, SPLICE_F_MOVE, token); });
}

TEST_CASE("opening, asking and closing: where each argument goes") {
  const char* path = "a/path";
  const std::uint64_t name = number(path);
  const open_how how{.flags = O_RDONLY, .mode = 0, .resolve = RESOLVE_BENEATH};
  struct ::statx result;
  int fds[2] = {1, 2};
  constexpr auto flags = static_cast<std::uint32_t>(O_WRONLY | O_CREAT);
  check("openat", {.opcode = 18, .fd = AT_FDCWD, .addr = name, .len = 0640, .op_flags = flags},
        [&](io_uring_sqe& s) { prep::openat(s, AT_FDCWD, path, O_WRONLY | O_CREAT, 0640, token); });
  check("openat_direct",
        {.opcode = 18, .fd = 4, .addr = name, .len = 0640, .op_flags = flags, .file_index = 10},
        [&](io_uring_sqe& s) {
          prep::openat_direct(s, 4, path, O_WRONLY | O_CREAT, 0640, DirectSlot{9}, token);
        });
  check("openat2", {.opcode = 28, .fd = 4, .off = number(&how), .addr = name, .len = 24},
        [&](io_uring_sqe& s) { prep::openat2(s, 4, path, &how, token); });
  check("openat2_direct",
        {.opcode = 28, .fd = 4, .off = number(&how), .addr = name, .len = 24, .file_index = ~0u},
        [&](io_uring_sqe& s) { prep::openat2_direct(s, 4, path, &how, uring::any_slot, token); });
  check("statx",
        {.opcode = 21,
         .fd = 4,
         .off = number(&result),
         .addr = name,
         .len = STATX_SIZE,
         .op_flags = AT_EMPTY_PATH},
        [&](io_uring_sqe& s) { prep::statx(s, 4, path, AT_EMPTY_PATH, STATX_SIZE, &result, token); });
  check("close", {.opcode = 19, .fd = 4}, [&](io_uring_sqe& s) { prep::close(s, 4, token); });
  check("close_direct", {.opcode = 19, .fd = 0, .file_index = 5},
        [&](io_uring_sqe& s) { prep::close_direct(s, DirectSlot{4}, token); });
  check("files_update", {.opcode = 20, .fd = -1, .off = 3, .addr = number(fds), .len = 2},
        [&](io_uring_sqe& s) { prep::files_update(s, fds, 2, DirectSlot{3}, token); });
  check("files_update anywhere", {.opcode = 20, .fd = -1, .off = 0xffffffff, .addr = number(fds), .len = 2},
        [&](io_uring_sqe& s) { prep::files_update(s, fds, 2, uring::any_slot, token); });
}

TEST_CASE("connections: where each argument goes, and multishot is a bit of ioprio") {
  sockaddr peer{};
  socklen_t length = sizeof peer;
  const std::uint64_t at = number(&peer);
  constexpr auto flags = static_cast<std::uint32_t>(SOCK_CLOEXEC);
  check("accept", {.opcode = 13, .fd = 3, .off = number(&length), .addr = at, .op_flags = flags},
        [&](io_uring_sqe& s) { prep::accept(s, 3, &peer, &length, SOCK_CLOEXEC, token); });
  check("accept_multishot", {.opcode = 13, .ioprio = 1, .fd = 3, .op_flags = flags},
        [&](io_uring_sqe& s) { prep::accept_multishot(s, 3, SOCK_CLOEXEC, token); });
  check("accept_direct", {.opcode = 13, .fd = 3, .file_index = 1},
        [&](io_uring_sqe& s) { prep::accept_direct(s, 3, 0, DirectSlot{0}, token); });
  check("accept_multishot_direct", {.opcode = 13, .ioprio = 1, .fd = 3, .file_index = ~0u},
        [&](io_uring_sqe& s) { prep::accept_multishot_direct(s, 3, 0, token); });
  check("connect", {.opcode = 16, .fd = 3, .off = sizeof peer, .addr = at},
        [&](io_uring_sqe& s) { prep::connect(s, 3, &peer, sizeof peer, token); });
  check("socket", {.opcode = 45, .fd = AF_INET, .off = SOCK_STREAM | SOCK_CLOEXEC, .len = 6},
        [&](io_uring_sqe& s) { prep::socket(s, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 6, token); });
  sockaddr_storage name{};
  check("getsockname", {.opcode = 46, .fd = 3, .off = 5, .addr = number(&name), .addr3 = number(&length)},
        [&](io_uring_sqe& s) { prep::getsockname(s, 3, &name, &length, token); });
  check("getpeername",
        {.opcode = 46, .fd = 3, .off = 5, .addr = number(&name), .file_index = 1, .addr3 = number(&length)},
        [&](io_uring_sqe& s) { prep::getpeername(s, 3, &name, &length, token); });
  check("shutdown", {.opcode = 34, .fd = 3, .len = SHUT_WR},
        [&](io_uring_sqe& s) { prep::shutdown(s, 3, SHUT_WR, token); });
}

TEST_CASE("receiving: where each argument goes, and multishot is a bit of ioprio") {
  char buffer[16];
  msghdr message{};
  const std::uint64_t msg = number(&message);
  check("recv", {.opcode = 27, .fd = 3, .addr = number(buffer), .len = 16, .op_flags = MSG_WAITALL},
        [&](io_uring_sqe& s) { prep::recv(s, 3, buffer, 16, MSG_WAITALL, token); });
  check("recv_select", {.opcode = 27, .flags = 1 << 5, .fd = 3, .len = 16, .op_flags = MSG_PEEK, .buffer = 9},
        [&](io_uring_sqe& s) { prep::recv_select(s, 3, BufferGroup{9}, 16, MSG_PEEK, token); });
  check("recv_multishot", {.opcode = 27, .flags = 1 << 5, .ioprio = 2, .fd = 3, .buffer = 9},
        [&](io_uring_sqe& s) { prep::recv_multishot(s, 3, BufferGroup{9}, token); });
  check("recv_multishot_capped",
        {.opcode = 27, .flags = 1 << 5, .ioprio = 2, .fd = 3, .buffer = 9, .file_index = 65536},
        [&](io_uring_sqe& s) { prep::recv_multishot_capped(s, 3, BufferGroup{9}, 65536, token); });
  check("recv_fixed", {.opcode = 27, .ioprio = 4, .fd = 3, .addr = number(buffer), .len = 16, .buffer = 2},
        [&](io_uring_sqe& s) { prep::recv_fixed(s, 3, buffer, 16, 0, 2, token); });
  check("recvmsg", {.opcode = 10, .fd = 3, .addr = msg, .len = 1, .op_flags = MSG_PEEK},
        [&](io_uring_sqe& s) { prep::recvmsg(s, 3, &message, MSG_PEEK, token); });
  check("recvmsg_multishot",
        {.opcode = 10, .flags = 1 << 5, .ioprio = 2, .fd = 3, .addr = msg, .len = 1, .buffer = 9},
        [&](io_uring_sqe& s) { prep::recvmsg_multishot(s, 3, &message, BufferGroup{9}, 0, token); });
}

TEST_CASE("sending: where each argument goes") {
  const char buffer[16] = "";
  const msghdr message{};
  const std::uint64_t at = number(buffer);
  const std::uint64_t msg = number(&message);
  check("send", {.opcode = 26, .fd = 3, .addr = at, .len = 16, .op_flags = MSG_MORE},
        [&](io_uring_sqe& s) { prep::send(s, 3, buffer, 16, MSG_MORE, token); });
  check("send_fixed",
        {.opcode = 26, .ioprio = 4, .fd = 3, .addr = at, .len = 16, .op_flags = MSG_MORE, .buffer = 2},
        [&](io_uring_sqe& s) { prep::send_fixed(s, 3, buffer, 16, MSG_MORE, 2, token); });
  check("sendmsg", {.opcode = 9, .fd = 3, .addr = msg, .len = 1, .op_flags = MSG_MORE},
        [&](io_uring_sqe& s) { prep::sendmsg(s, 3, &message, MSG_MORE, token); });
  check("send_zc", {.opcode = 47, .ioprio = 8, .fd = 3, .addr = at, .len = 16, .op_flags = MSG_WAITALL},
        [&](io_uring_sqe& s) {
          prep::send_zc(s, 3, buffer, 16, MSG_WAITALL, uring::abi::send_zc_report_usage, token);
        });
  check("send_zc_fixed", {.opcode = 47, .ioprio = 4 | 8, .fd = 3, .addr = at, .len = 16, .buffer = 2},
        [&](io_uring_sqe& s) {
          prep::send_zc_fixed(s, 3, buffer, 16, 0, uring::abi::send_zc_report_usage, 2, token);
        });
  check("sendmsg_zc", {.opcode = 48, .ioprio = 8, .fd = 3, .addr = msg, .len = 1}, [&](io_uring_sqe& s) {
    prep::sendmsg_zc(s, 3, &message, 0, uring::abi::send_zc_report_usage, token);
  });
  const sockaddr peer{};
  check("set_notification_token", {.opcode = 47, .fd = 3, .addr = at, .len = 16, .addr3 = 77},
        [&](io_uring_sqe& s) {
          prep::send_zc(s, 3, buffer, 16, 0, 0, token);
          prep::set_notification_token(s, Token{77});
        });
  check("set_destination",
        {.opcode = 26, .fd = 3, .off = number(&peer), .addr = at, .len = 16, .file_index = sizeof peer},
        [&](io_uring_sqe& s) {
          prep::send(s, 3, buffer, 16, 0, token);
          prep::set_destination(s, &peer, sizeof peer);
        });
}

TEST_CASE("polls, timers, cancellations and messages: where each argument goes") {
  const __kernel_timespec time{.tv_sec = 1, .tv_nsec = 2};
  const std::uint64_t at = number(&time);
  constexpr Token target{0x99aabbccddeeff00};
  check("poll_add", {.opcode = 6, .fd = 3, .op_flags = POLLIN | 1u << 28},
        [&](io_uring_sqe& s) { prep::poll_add(s, 3, POLLIN | 1u << 28, token); });
  check("poll_multishot", {.opcode = 6, .fd = 3, .len = 1, .op_flags = POLLOUT},
        [&](io_uring_sqe& s) { prep::poll_multishot(s, 3, POLLOUT, token); });
  check("poll_remove", {.opcode = 7, .fd = -1, .addr = target.bits},
        [&](io_uring_sqe& s) { prep::poll_remove(s, target, token); });
  check("timeout", {.opcode = 11, .fd = -1, .off = 4, .addr = at, .len = 1, .op_flags = 1 << 5},
        [&](io_uring_sqe& s) { prep::timeout(s, &time, 4, IORING_TIMEOUT_ETIME_SUCCESS, token); });
  check("timeout_multishot", {.opcode = 11, .fd = -1, .off = 4, .addr = at, .len = 1, .op_flags = 1 << 6},
        [&](io_uring_sqe& s) { prep::timeout_multishot(s, &time, 4, 0, token); });
  check("timeout_remove", {.opcode = 12, .fd = -1, .addr = target.bits},
        [&](io_uring_sqe& s) { prep::timeout_remove(s, target, token); });
  check("link_timeout", {.opcode = 15, .fd = -1, .addr = at, .len = 1, .op_flags = 1},
        [&](io_uring_sqe& s) { prep::link_timeout(s, &time, IORING_TIMEOUT_ABS, token); });
  check("async_cancel", {.opcode = 14, .fd = -1, .addr = target.bits},
        [&](io_uring_sqe& s) { prep::async_cancel(s, target, token); });
  check("async_cancel_all", {.opcode = 14, .fd = -1, .addr = target.bits, .op_flags = 1},
        [&](io_uring_sqe& s) { prep::async_cancel_all(s, target, token); });
  check("async_cancel_fd", {.opcode = 14, .fd = 3, .op_flags = 2},
        [&](io_uring_sqe& s) { prep::async_cancel_fd(s, 3, token); });
  check("async_cancel_all_fd", {.opcode = 14, .fd = 3, .op_flags = 3},
        [&](io_uring_sqe& s) { prep::async_cancel_all_fd(s, 3, token); });
  check("async_cancel_any", {.opcode = 14, .fd = -1, .op_flags = 4},
        [&](io_uring_sqe& s) { prep::async_cancel_any(s, token); });
  const std::chrono::nanoseconds span{5'000'000'000};
  check("timeout of nanoseconds",
        {.opcode = 11, .fd = -1, .off = 4, .addr = 5'000'000'000, .len = 1, .op_flags = 1 << 7 | 1},
        [&](io_uring_sqe& s) { prep::timeout(s, span, 4, IORING_TIMEOUT_ABS, token); });
  check("link_timeout of nanoseconds",
        {.opcode = 15, .fd = -1, .addr = 5'000'000'000, .len = 1, .op_flags = 1 << 7},
        [&](io_uring_sqe& s) { prep::link_timeout(s, span, 0, token); });
  check("msg_ring", {.opcode = 40, .fd = 3, .off = target.bits, .addr = 0, .len = 0xfffffffe},
        [&](io_uring_sqe& s) { prep::msg_ring(s, 3, -2, target, token); });
}

// A file copy with `depth` blocks in flight: the same ring, doing a real job.
//
//        extents of the source          one piece (a buffer and where it belongs), `depth` of them
//      ┌────────────┐   next block    ┌───────────────────────────────────────────┐
//      │ data  hole │ ──────────────► │ read ──► all of it? ──► write ──► all? ───│──► next block
//      │ data  ...  │                 │  ▲  │ no                  ▲  │ no         │
//      └────────────┘                 │  └──┘                     └──┘            │
//                                     └───────────────────────────────────────────┘
//
// There is no order between pieces: each read and write names its own offset. What the handlers of one
// harvest prepare goes in with the next io_uring_enter, so while the page cache answers at once, a whole
// `depth` of SQEs shares a call.
//
// Invariant: a piece has at most one operation in flight, and its buffer belongs to the kernel while it has.
// So an SQ of depth + 2 never fills up (the two: the read of the signalfd, and its cancellation), and a CQ of
// twice that never overflows.
//
// What is decided here, and documented in README.md:
//   - both must be regular files, and different ones: checked on the open descriptors, before anything is
//     truncated;
//   - the source's size is read once. What it grows by later is left out; if it shrinks, the copy fails;
//   - a file that says it has size 0 and has contents (as below /proc) is refused: where it ends, nobody
//     knows;
//   - a destination that cannot be completed is removed, whoever had made it. So nothing partial is ever left
//     behind, unless the process is killed by a signal that cannot be caught;
//   - no fsync: like cp, this returns when the page cache has it.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "servers/m1_ring_basics/picture.hpp"
#include "uring/loop.hpp"
#include "uring/owned.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_files.hpp"
#include "uring/token.hpp"

namespace m1 {

constexpr unsigned max_depth = 1024;
constexpr unsigned max_block = 16U << 20;          // bytes
constexpr std::uint64_t max_buffers = 1ULL << 30;  // bytes, all pieces together
constexpr std::uint64_t page = 4096;               // buffers begin on a page: enough for any O_DIRECT
constexpr unsigned max_retries = 1000;             // of one block that is told EAGAIN or EINTR

struct CopyOptions {
  std::string source{}, destination{};
  unsigned depth = 32;
  unsigned block = 128 * 1024;  // bytes
  bool direct = false;
};

constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t unit) { return (n + unit - 1) / unit * unit; }
constexpr std::uint64_t round_down(std::uint64_t n, std::uint64_t unit) { return n / unit * unit; }

[[noreturn]] inline void fail(const std::string& what, const std::string& path, int error) {
  throw Failure("cannot " + what + " '" + path + "': " + uring::errno_text(error));
}

// ---- The two files ----------------------------------------------------------------------------------------

inline void require_regular(const struct ::stat& status, const std::string& path) {
  if (S_ISDIR(status.st_mode))
    throw Failure("'" + path + "' is a directory: copy takes one file to one file");
  if (!S_ISREG(status.st_mode)) throw Failure("'" + path + "' is not a regular file");
}

struct Source {
  explicit Source(const std::string& name) : path(name) {
    // O_NONBLOCK: opening a FIFO must not wait for its writer before we can refuse it.
    fd.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd || ::fstat(fd.get(), &status) != 0) fail("read", path, errno);
    require_regular(status, path);
    // But off again: with it, reads through a ring end in EAGAIN on file systems that must block.
    ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
    char first;
    if (status.st_size == 0 && ::pread(fd.get(), &first, 1, 0) > 0) {
      throw Failure("'" + path + "' says it is empty and is not, like files below /proc: use cat(1)");
    }
  }
  std::uint64_t size() const { return static_cast<std::uint64_t>(status.st_size); }

  std::string path;
  uring::FileDescriptor fd{};
  struct ::stat status {};
};

/// From the moment the file's former contents are gone, and until commit(), destroying this removes the file.
class Destination {
 public:
  /// Opens `name`, or makes it with the mode of `source` less the umask. An existing file is not changed yet.
  Destination(const std::string& name, const Source& source) : path_(name) {
    const mode_t mode = source.status.st_mode & 0777;
    fd_.reset(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    spoiled_ = static_cast<bool>(fd_);
    if (!fd_ && errno == EEXIST) open_existing(name);
    if (!fd_ || ::fstat(fd_.get(), &status_) != 0) fail("write", name, errno);
    require_regular(status_, name);
    if (status_.st_dev == source.status.st_dev && status_.st_ino == source.status.st_ino) {
      throw Failure("'" + source.path + "' and '" + name + "' are the same file");
    }
    // Through a symbolic link it is the file that must go in the end, not the link.
    char* const resolved = ::realpath(name.c_str(), nullptr);
    if (resolved != nullptr) path_ = resolved;
    std::free(resolved);
  }
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;
  ~Destination() {
    struct ::stat now {};
    if (!spoiled_ || ::stat(path_.c_str(), &now) != 0) return;
    if (now.st_dev == status_.st_dev && now.st_ino == status_.st_ino) ::unlink(path_.c_str());
  }

  int fd() const { return fd_.get(); }
  bool spoiled() const { return spoiled_; }

  /// The point of no return for what was in it.
  void truncate() {
    spoiled_ = true;
    if (::ftruncate(fd_.get(), 0) != 0) fail("truncate", path_, errno);
  }

  /// Sets the final size (which makes a hole of what was not written) and keeps the file.
  void commit(std::uint64_t size) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) fail("write", path_, errno);
    // Some file systems report a failed write as late as here.
    if (::close(fd_.release()) != 0) fail("write", path_, errno);
    spoiled_ = false;
  }

 private:
  void open_existing(const std::string& name) {
    struct ::stat status {};
    if (::stat(name.c_str(), &status) == 0) require_regular(status, name);
    fd_.reset(::open(name.c_str(), O_WRONLY | O_CLOEXEC));
  }

  std::string path_;
  uring::FileDescriptor fd_{};
  struct ::stat status_ {};
  bool spoiled_ = false;
};

/// Switches O_DIRECT on and returns what offsets and lengths must be multiples of. (Not at open: an open that
/// makes the file and then refuses O_DIRECT leaves the file behind.)
inline std::uint64_t go_direct(int fd, const std::string& path) {
  const int flags = ::fcntl(fd, F_GETFL);
  struct ::statx status {};
  const bool known = ::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
                     (status.stx_mask & STATX_DIOALIGN) != 0;  // 6.1, and not every file system
  if ((known && status.stx_dio_offset_align == 0) || ::fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) {
    throw Failure("the file system of '" + path + "' refuses O_DIRECT: copy without --direct");
  }
  return known ? status.stx_dio_offset_align : page;
}

/// Walks over the data of a file, block by block, and jumps over its holes.
class Extents {
 public:
  struct Block {
    std::uint64_t offset;
    std::uint32_t length;
  };

  Extents(int fd, std::uint64_t size, std::uint32_t block, std::uint64_t alignment)
      : fd_(fd), size_(size), block_(block), alignment_(alignment) {}

  std::optional<Block> next() {
    if (position_ == data_end_ && !find_data()) return std::nullopt;
    const Block block{position_,
                      static_cast<std::uint32_t>(std::min<std::uint64_t>(block_, data_end_ - position_))};
    position_ += block.length;
    return block;
  }

  /// Bytes that were jumped over so far.
  std::uint64_t holes() const { return holes_; }

 private:
  bool find_data() {
    if (position_ == size_) return false;
    const off_t data = ::lseek(fd_, static_cast<off_t>(position_), SEEK_DATA);
    if (data < 0 && errno == ENXIO) {  // from here on there is only a hole
      jump_to(size_);
      return false;
    }
    // Where the file system knows nothing of holes, all is data.
    const off_t hole = data < 0 ? -1 : ::lseek(fd_, data, SEEK_HOLE);
    if (data >= 0) jump_to(round_down(static_cast<std::uint64_t>(data), alignment_));
    data_end_ = hole < 0 ? size_ : std::min(size_, round_up(static_cast<std::uint64_t>(hole), alignment_));
    return position_ < size_;
  }

  /// Never backwards, where rounding down would lead to, nor past the end, where a file that grew has data.
  void jump_to(std::uint64_t to) {
    const std::uint64_t from = position_;
    position_ = data_end_ = std::clamp(to, from, size_);
    holes_ += position_ - from;
  }

  int fd_;
  std::uint64_t size_;
  std::uint32_t block_;
  std::uint64_t alignment_;
  std::uint64_t position_ = 0, data_end_ = 0, holes_ = 0;
};

// ---- What is in flight ------------------------------------------------------------------------------------

/// One block on its way. 0 <= written <= filled <= length; nothing is written before filled == length.
struct Piece {
  std::byte* buffer = nullptr;
  std::uint64_t offset = 0;
  std::uint32_t length = 0, filled = 0, written = 0;
  unsigned retries = 0;
};

enum Kind : std::uint8_t { kind_read = 1, kind_write, kind_signal, kind_cancel };

/// What was ignored at our start (by nohup, for a background job) stays so: a signalfd alone would see it.
inline int unless_ignored(int signal) {
  struct ::sigaction now {};
  ::sigaction(signal, nullptr, &now);
  return now.sa_handler == SIG_IGN ? SIGTERM : signal;
}

/// Members are destroyed from the last to the first: a spoiled destination goes while signals are still held
/// back, and the buffers outlive the ring.
struct Copy {
  Copy(const CopyOptions& o, const uring::Kernel& kernel)
      : options(o),
        signals({SIGTERM, unless_ignored(SIGINT), unless_ignored(SIGHUP)}),
        source(o.source),
        ring({.entries = o.depth + 2}, kernel),
        in_flight(o.depth + 2),
        destination(o.destination, source) {}

  const CopyOptions& options;
  uring::SignalWatch signals;
  Source source;
  uring::Mapping buffers{};
  uring::Ring ring;
  uring::InFlight<Piece*> in_flight;  // null: not a piece, but the signal or its cancellation
  std::vector<Piece> pieces{};
  Destination destination;
  std::uint64_t alignment = 1;  // of offsets and lengths: 1, or what O_DIRECT wants
  std::optional<Extents> extents{};
  std::optional<uring::Token> signal_read{};
  std::uint64_t copied = 0;  // bytes that were read and written
  std::string failure{};     // the first one; from then on nothing new is started
};

/// Reads and writes that the kernel has.
inline std::size_t moving(const Copy& copy) { return copy.in_flight.size() - (copy.signal_read ? 1 : 0); }

inline io_uring_sqe& sqe_for(Copy& copy, Kind kind, Piece* piece, uring::Token& token) {
  const std::optional<uring::Token> started = copy.in_flight.start(kind, piece);
  io_uring_sqe* const sqe = copy.ring.next_sqe();
  if (!started || sqe == nullptr) throw Failure("more operations in flight than there are pieces");
  token = *started;
  return *sqe;
}

// ---- One piece: read, write, next -------------------------------------------------------------------------

/// Asks for what is still missing. With O_DIRECT lengths are rounded up: behind the end of the file a read
/// stops by itself, and what a write adds there is cut off at the end.
inline void read_rest(Copy& copy, Piece& piece) {
  uring::Token token;
  io_uring_sqe& sqe = sqe_for(copy, kind_read, &piece, token);
  const std::uint64_t missing = round_up(piece.length - piece.filled, copy.alignment);
  uring::prep::read(sqe, copy.source.fd.get(), piece.buffer + piece.filled,
                    static_cast<std::uint32_t>(missing), piece.offset + piece.filled, token);
}

inline void write_rest(Copy& copy, Piece& piece) {
  uring::Token token;
  io_uring_sqe& sqe = sqe_for(copy, kind_write, &piece, token);
  const std::uint64_t missing = round_up(piece.length - piece.written, copy.alignment);
  uring::prep::write(sqe, copy.destination.fd(), piece.buffer + piece.written,
                     static_cast<std::uint32_t>(missing), piece.offset + piece.written, token);
}

/// The piece takes the next block of the source, if there is one.
inline void next_block(Copy& copy, Piece& piece) {
  if (!copy.failure.empty()) return;
  const std::optional<Extents::Block> block = copy.extents->next();
  if (!block) return;
  piece = {.buffer = piece.buffer, .offset = block->offset, .length = block->length};
  read_rest(copy, piece);
}

inline void give_up(Copy& copy, const std::string& why) {
  if (copy.failure.empty()) copy.failure = why;
}

/// EAGAIN and EINTR mean "not now"; anything else that is negative is final.
inline bool not_now(Piece& piece, int res) {
  return (res == -EAGAIN || res == -EINTR) && ++piece.retries <= max_retries;
}

inline void on_read(Copy& copy, Piece& piece, int res) {
  if (not_now(piece, res)) return read_rest(copy, piece);
  if (res < 0) {
    return give_up(copy, text("cannot read '%s' at byte %s: %s", copy.source.path.c_str(),
                              grouped(piece.offset + piece.filled).c_str(), uring::errno_text(-res).c_str()));
  }
  piece.filled = std::min(piece.length, piece.filled + static_cast<std::uint32_t>(res));
  if (piece.filled == piece.length) {
    // What O_DIRECT writes behind the end of the file is zeros, not what the buffer held before.
    std::memset(piece.buffer + piece.length, 0, round_up(piece.length, copy.alignment) - piece.length);
    return write_rest(copy, piece);
  }
  // A short read is normal, the rest is read next. Nothing (or, with O_DIRECT, an odd number) is the end.
  if (res == 0 || piece.filled % copy.alignment != 0) {
    return give_up(copy, text("'%s' shrank while it was copied: it had %s bytes, and ended after %s",
                              copy.source.path.c_str(), grouped(copy.source.size()).c_str(),
                              grouped(piece.offset + piece.filled).c_str()));
  }
  read_rest(copy, piece);
}

inline void on_write(Copy& copy, Piece& piece, int res) {
  if (not_now(piece, res)) return write_rest(copy, piece);
  const std::uint64_t whole = piece.written + (res > 0 ? static_cast<std::uint64_t>(res) : 0);
  const auto written =
      static_cast<std::uint32_t>(whole >= piece.length ? piece.length : round_down(whole, copy.alignment));
  if (res < 0 || written == piece.written) {
    return give_up(copy, text("cannot write '%s' at byte %s: %s", copy.options.destination.c_str(),
                              grouped(piece.offset + piece.written).c_str(),
                              res < 0 ? uring::errno_text(-res).c_str() : "the kernel takes nothing"));
  }
  piece.written = written;
  if (piece.written < piece.length) return write_rest(copy, piece);  // a short write
  copy.copied += piece.length;
  next_block(copy, piece);
}

inline void on_signal(Copy& copy, int res) {
  copy.signal_read.reset();
  if (res == -ECANCELED) return;
  const char* const name = res > 0 ? sigabbrev_np(copy.signals.signal()) : nullptr;
  give_up(copy, name != nullptr ? "interrupted by SIG" + std::string(name) : "cannot watch for signals");
}

inline void on_completion(Copy& copy, const io_uring_cqe& cqe) {
  const uring::Token token{cqe.user_data};
  Piece** const found = copy.in_flight.find(token);
  if (found == nullptr) return give_up(copy, "a completion came that belongs to no operation");
  Piece* const piece = *found;
  copy.in_flight.finish(token);
  switch (token.kind()) {
    case kind_read:
      return on_read(copy, *piece, cqe.res);
    case kind_write:
      return on_write(copy, *piece, cqe.res);
    case kind_signal:
      return on_signal(copy, cqe.res);
    default:  // kind_cancel: what counts is the CQE of what was cancelled
      return;
  }
}

// ---- What the user sees -----------------------------------------------------------------------------------

/// A bar on stderr while it lives, if that is a terminal; redrawn at most ten times a second.
class ProgressBar {
 public:
  explicit ProgressBar(std::uint64_t total)
      : total_(std::max<std::uint64_t>(total, 1)), visible_(::isatty(STDERR_FILENO) != 0) {}
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() {
    if (visible_) std::fputs("\r\033[K", stderr);
  }

  void show(std::uint64_t done) {
    const auto now = std::chrono::steady_clock::now();
    if (!visible_ || now < next_) return;
    next_ = now + std::chrono::milliseconds(100);
    const double part = static_cast<double>(done) / static_cast<double>(total_);
    constexpr int width = 50;
    std::string bar;
    for (int i = 0; i < width; ++i) bar += i < part * width ? "█" : "░";
    std::fprintf(stderr, "\r%s %3.0f%%", bar.c_str(), part * 100);
  }

 private:
  std::uint64_t total_;
  bool visible_;
  std::chrono::steady_clock::time_point next_{};
};

/// "2.61 GB/s"
inline std::string rate_text(double bytes_per_second) {
  const char* const units[] = {"B/s", "kB/s", "MB/s", "GB/s"};
  std::size_t unit = 0;
  for (; bytes_per_second >= 1000 && unit + 1 < std::size(units); ++unit) bytes_per_second /= 1000;
  return text("%.2f %s", bytes_per_second, units[unit]);
}

inline void print_summary(const Copy& copy, std::chrono::duration<double> took) {
  const uring::Counters counters = copy.ring.counters();
  const auto sqes = static_cast<double>(counters.sqes), enters = static_cast<double>(counters.enters);
  std::printf("copied           %s bytes in %.3f s, %s\n", grouped(copy.copied).c_str(), took.count(),
              rate_text(static_cast<double>(copy.copied) / took.count()).c_str());
  std::printf("holes kept       %s bytes\n", grouped(copy.extents->holes()).c_str());
  std::printf("SQEs             %s\n", grouped(counters.sqes).c_str());
  std::printf("io_uring_enter   %s calls\n", grouped(counters.enters).c_str());
  std::printf("SQEs per enter   %.1f\n", sqes / enters);
}

// ---- The whole copy ---------------------------------------------------------------------------------------

/// One turn: what the last harvest prepared goes in, and what has completed comes out. Waiting for half of
/// what is in flight makes batches out of completions that trickle in one by one, and leaves the device the
/// other half to work on.
inline void turn(Copy& copy) {
  const auto half = static_cast<unsigned>(moving(copy) / 2);
  const uring::Waited waited = copy.ring.submit_and_wait(std::max(half, 1U));
  const int harvested = copy.ring.harvest([&copy](const io_uring_cqe& cqe) { on_completion(copy, cqe); });
  // Out of memory for requests is for now, as long as completions come in and free some.
  const bool short_of_memory = waited.error == -EAGAIN || waited.error == -EBUSY;
  if (short_of_memory && harvested > 0) return;
  if (waited.error != 0) throw enter_failure(waited.error);
  if (harvested < 0) throw enter_failure(harvested);
}

inline void allocate_pieces(Copy& copy) {
  const std::uint64_t block = round_up(copy.options.block, copy.alignment), room = round_up(block, page);
  const std::uint64_t bytes = room * copy.options.depth;
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw Failure("no memory for the buffers: " + uring::errno_text(errno));
  copy.buffers = uring::Mapping(memory, bytes);
  copy.pieces.resize(copy.options.depth);
  for (std::size_t i = 0; i < copy.pieces.size(); ++i) copy.pieces[i].buffer = copy.buffers.data() + i * room;
  copy.extents.emplace(copy.source.fd.get(), copy.source.size(), static_cast<std::uint32_t>(block),
                       copy.alignment);
}

/// Reads and writes until none is in flight, because all is done or because something failed.
inline void move_data(Copy& copy) {
  ProgressBar progress(copy.source.size());
  uring::Token token;
  io_uring_sqe& sqe = sqe_for(copy, kind_signal, nullptr, token);
  copy.signals.prepare(sqe, token);
  copy.signal_read = token;
  for (Piece& piece : copy.pieces) next_block(copy, piece);
  while (moving(copy) != 0) {
    progress.show(copy.copied + copy.extents->holes());
    turn(copy);
  }
}

/// Nothing may be in flight when the ring goes: the signal is still being waited for.
inline void stop_watching(Copy& copy) {
  if (copy.signal_read) {
    uring::Token token;
    io_uring_sqe& sqe = sqe_for(copy, kind_cancel, nullptr, token);
    uring::prep::async_cancel(sqe, *copy.signal_read, token);
  }
  while (copy.in_flight.size() != 0) turn(copy);
}

inline void run_copy(Copy& copy) {
  const CopyOptions& options = copy.options;
  if (options.direct) {
    copy.alignment = std::max(go_direct(copy.source.fd.get(), options.source),
                              go_direct(copy.destination.fd(), options.destination));
  }
  allocate_pieces(copy);
  const auto start = std::chrono::steady_clock::now();
  copy.destination.truncate();
  move_data(copy);
  stop_watching(copy);
  struct ::stat now {};
  if (::fstat(copy.source.fd.get(), &now) == 0 && now.st_size < copy.source.status.st_size) {
    give_up(copy, "'" + options.source + "' shrank while it was copied");
  }
  if (!copy.failure.empty()) throw Failure(copy.failure);
  copy.destination.commit(copy.source.size());
  print_summary(copy, std::chrono::steady_clock::now() - start);
}

/// Copies, and prints a summary on stdout. Throws Failure, or uring::SetupError before anything was touched.
inline void copy_file(const CopyOptions& options, const uring::Kernel& kernel = uring::real_kernel) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes shall be an error of the write: EFBIG
  Copy copy(options, kernel);
  try {
    run_copy(copy);
  } catch (const Failure& failure) {
    if (!copy.destination.spoiled()) throw;
    throw Failure(failure.what() + ("; '" + options.destination + "' was removed"));
  }
}

}  // namespace m1

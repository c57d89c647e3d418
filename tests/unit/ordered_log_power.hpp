// A machine whose power can go: a kernel for the log's ring, and a disk that keeps what was synced and a part of the rest.
//
//   Log ──► Ring ──► PowerKernel ──► MockKernel         takes SQEs, posts CQEs
//                        │
//                        ├─ starts what may start (links, DRAIN), completes it in any order
//                        ├─ writes come short, or fail; fsyncs fail, and what they were for is forgotten
//                        └─ Disk:  durable bytes | operations that no fsync has covered, in order
//
// One step is: something starts, or something completes. After a number of steps the power goes: from then on every call
// fails, and what was acknowledged until then is what was promised. after_power_cut() makes the file that the next start
// finds: the durable bytes, and of the other operations a random part, each sector of 512 bytes for itself.
//
// What makes the disk as bad as real ones are:
//   - a write that failed, or has not completed, may have left anything of it behind
//   - an fsync covers what had *completed* when it started; what was under way is covered or not
//   - a failed fsync is told once, to one caller: the pages that it could not write are clean from then on, so that the
//     next fsync succeeds without them
//
// Everything follows from one seed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "tests/mock/mock_kernel.hpp"
#include "uring/abi.hpp"

namespace ordered_log_test {

/// splitmix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  /// From 0 to `most`.
  std::size_t up_to(std::size_t most) { return next() % (most + 1); }
  bool percent(unsigned chance) { return next() % 100 < chance; }

 private:
  std::uint64_t state_;
};

using Bytes = std::vector<std::byte>;

/// What has happened to the file and is not known to be on the disk.
struct Change {
  std::uint64_t id = 0;
  bool is_cut = false;
  bool completed = false;
  std::uint64_t offset = 0;  // of the cut: the new length
  Bytes bytes{};
};

class Disk {
 public:
  static constexpr std::size_t sector = 512;

  Change& begin(Change change) {
    change.id = ++last_id_;
    return changes_.emplace_back(std::move(change));
  }
  void complete(std::uint64_t id) {
    for (Change& change : changes_) {
      if (change.id == id) change.completed = true;
    }
  }

  /// What an fsync that starts now will cover.
  std::vector<std::uint64_t> covered(Random& random) const {
    std::vector<std::uint64_t> ids;
    for (const Change& change : changes_) {
      if (change.completed || random.percent(50)) ids.push_back(change.id);
    }
    return ids;
  }
  void synced(const std::vector<std::uint64_t>& ids) {
    std::erase_if(changes_, [&](const Change& change) {
      if (std::find(ids.begin(), ids.end(), change.id) == ids.end()) return false;
      apply(durable_, change);
      return true;
    });
  }
  /// Nothing is dirty any more, and not everything is there.
  void sync_failed(Random& random) {
    std::erase_if(changes_, [&](const Change& change) {
      if (random.percent(50)) apply_in_part(durable_, change, random, 50);
      return true;
    });
  }

  Bytes after_power_cut(Random& random) const {
    Bytes image = durable_;
    const unsigned luck = static_cast<unsigned>(random.up_to(2)) * 50;  // none of it, half of it, all of it
    for (const Change& change : changes_) {
      if (luck == 50) {
        apply_in_part(image, change, random, luck);
      } else if (luck == 100) {
        apply(image, change);
      }
    }
    return image;
  }

 private:
  static void apply(Bytes& image, const Change& change) {
    if (change.is_cut) return image.resize(change.offset);
    if (image.size() < change.offset + change.bytes.size()) image.resize(change.offset + change.bytes.size());
    std::copy(change.bytes.begin(), change.bytes.end(),
              image.begin() + static_cast<std::ptrdiff_t>(change.offset));
  }
  static void apply_in_part(Bytes& image, const Change& change, Random& random, unsigned luck) {
    if (change.is_cut) {
      if (random.percent(luck)) apply(image, change);
      return;
    }
    for (std::size_t done = 0; done < change.bytes.size();) {
      const std::uint64_t at = change.offset + done;
      const std::size_t piece = std::min<std::size_t>(sector - at % sector, change.bytes.size() - done);
      const auto from = change.bytes.begin() + static_cast<std::ptrdiff_t>(done);
      if (random.percent(luck))
        apply(image, {.offset = at, .bytes = {from, from + static_cast<std::ptrdiff_t>(piece)}});
      done += piece;
    }
  }

  Bytes durable_{};
  std::deque<Change> changes_{};
  std::uint64_t last_id_ = 0;
};

/// How much goes wrong, in percent of the operations; and when the power goes.
struct Misfortune {
  unsigned writes = 0;
  unsigned fsyncs = 0;
  unsigned cuts = 0;
  unsigned submits = 0;       // come short
  std::uint64_t steps = ~0U;  // until the power goes
};

class PowerKernel {
 public:
  PowerKernel(Random& random, const Misfortune& misfortune, std::uint32_t indices_start)
      : mock_({.sq_start = indices_start, .cq_start = indices_start}),
        below_(mock_.seam()),
        random_(random),
        misfortune_(misfortune) {
    mock_.on_sleep = [this] { return sleep(); };
  }
  PowerKernel(const PowerKernel&) = delete;
  PowerKernel& operator=(const PowerKernel&) = delete;

  uring::Kernel kernel() {
    return {[](void* self, unsigned entries, io_uring_params* params) {
              const uring::Kernel& below = static_cast<PowerKernel*>(self)->below_;
              return below.setup(below.self, entries, params);
            },
            [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const uring::abi::getevents_arg* argument) {
              return static_cast<PowerKernel*>(self)->enter(fd, to_submit, min_complete, flags, argument);
            },
            [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
              const uring::Kernel& below = static_cast<PowerKernel*>(self)->below_;
              return below.register_(below.self, fd, opcode, argument, count);
            },
            [](void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
              const uring::Kernel& below = static_cast<PowerKernel*>(self)->below_;
              return below.map(below.self, fd, bytes, offset, address);
            },
            this};
  }

  bool is_off() const noexcept { return off_; }
  Bytes after_power_cut() { return disk_.after_power_cut(random_); }
  std::vector<std::string> complaints() const { return mock_.complaints(); }
  /// How often two fsyncs were under way at once.
  unsigned overlapping_fsyncs() const noexcept { return overlapping_fsyncs_; }

 private:
  struct Request {
    std::uint64_t user_data = 0;
    std::uint8_t opcode = 0;
    std::uint8_t flags = 0;
    std::uint64_t offset = 0;
    std::uint64_t address = 0;
    std::uint32_t length = 0;
    bool linked = false;  // behind the one before it
    enum class State : std::uint8_t { waiting, running, done } state = State::waiting;
    int result = 0;
    bool broke = false;  // what is linked behind it is cancelled
    std::uint64_t change = 0;
    std::vector<std::uint64_t> covers{};
  };

  int enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
            const uring::abi::getevents_arg* argument) {
    if (!off_) go_on();
    if (off_) return -ENXIO;
    if (to_submit > 1 && random_.percent(misfortune_.submits)) {
      mock_.short_submit_next(static_cast<unsigned>(1 + random_.up_to(to_submit - 2)));
    }
    const int result = below_.enter(below_.self, fd, to_submit, min_complete, flags, argument);
    take_in();
    if (!off_) go_on();
    return result;
  }

  void go_on() {
    for (std::size_t steps = random_.up_to(4); steps > 0 && !off_; --steps) step();
  }

  mock::Wake sleep() {
    take_in();
    while (!off_) {
      const std::size_t before = completed_;
      if (!step()) return mock::Wake::never;
      if (completed_ != before) return mock::Wake::look_again;
    }
    return mock::Wake::never;
  }

  /// The SQEs that the mock has taken since.
  void take_in() {
    const std::vector<io_uring_sqe>& taken = mock_.taken();
    for (; known_ < taken.size(); ++known_) {
      const bool same_submit = known_ > 0 && mock_.taken_by(known_) == mock_.taken_by(known_ - 1);
      const io_uring_sqe& sqe = taken[known_];
      requests_.push_back({.user_data = sqe.user_data,
                           .opcode = sqe.opcode,
                           .flags = sqe.flags,
                           .offset = sqe.off,
                           .address = sqe.addr,
                           .length = sqe.len,
                           .linked = same_submit && (taken[known_ - 1].flags & IOSQE_IO_LINK) != 0});
    }
  }

  /// Starts or completes one operation; false: there is nothing to be done.
  bool step() {
    std::vector<std::size_t> possible;
    bool all_before_done = true;
    bool held_up = false;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      const Request& request = requests_[i];
      const bool drains = (request.flags & IOSQE_IO_DRAIN) != 0;
      if (request.state == Request::State::waiting) {
        const bool behind_link = request.linked && requests_[i - 1].state != Request::State::done;
        if (!behind_link && !held_up && (!drains || all_before_done)) possible.push_back(i);
        held_up = held_up || drains;
      } else if (request.state == Request::State::running) {
        possible.push_back(i);
      }
      all_before_done = all_before_done && request.state == Request::State::done;
    }
    if (possible.empty()) return false;
    if (misfortune_.steps-- == 0) {
      off_ = true;
      return true;
    }
    const std::size_t chosen = possible[random_.up_to(possible.size() - 1)];
    Request& request = requests_[chosen];
    if (request.state == Request::State::running) {
      finish(request);
    } else if (request.linked && requests_[chosen - 1].broke) {
      post(request, -ECANCELED);
    } else {
      start(request);
    }
    return true;
  }

  void start(Request& request) {
    request.state = Request::State::running;
    if (request.opcode == IORING_OP_WRITE) return start_write(request);
    if (request.opcode == IORING_OP_FSYNC) {
      if (running_fsyncs_++ > 0) ++overlapping_fsyncs_;
      request.covers = disk_.covered(random_);
      request.result = random_.percent(misfortune_.fsyncs) ? -EIO : 0;
      return;
    }
    request.result = random_.percent(misfortune_.cuts) ? -EIO : 0;
    if (request.result == 0) request.change = disk_.begin({.is_cut = true, .offset = request.offset}).id;
  }

  void start_write(Request& request) {
    const auto* const from = reinterpret_cast<const std::byte*>(request.address);
    std::size_t length = request.length;
    request.result = static_cast<int>(length);
    if (random_.percent(misfortune_.writes)) {
      length = random_.up_to(length - 1);
      const int failures[] = {static_cast<int>(length), -EIO, -ENOSPC};
      request.result = failures[random_.up_to(2)];
    }
    request.change = disk_.begin({.offset = request.offset, .bytes = {from, from + length}}).id;
  }

  void finish(Request& request) {
    if (request.opcode == IORING_OP_FSYNC) {
      --running_fsyncs_;
      request.result == 0 ? disk_.synced(request.covers) : disk_.sync_failed(random_);
    } else {
      disk_.complete(request.change);
    }
    post(request, request.result);
  }

  void post(Request& request, int result) {
    const bool is_write = request.opcode == IORING_OP_WRITE;
    request.broke = is_write ? result != static_cast<int>(request.length) : result < 0;
    request.state = Request::State::done;
    ++completed_;
    mock_.complete(request.user_data, result);
  }

  mock::MockKernel mock_;
  uring::Kernel below_;
  Random& random_;
  Misfortune misfortune_;
  Disk disk_{};
  std::deque<Request> requests_{};  // all that there ever were, in order
  std::size_t known_ = 0;
  std::size_t completed_ = 0;
  unsigned running_fsyncs_ = 0;
  unsigned overlapping_fsyncs_ = 0;
  bool off_ = false;
};

}  // namespace ordered_log_test

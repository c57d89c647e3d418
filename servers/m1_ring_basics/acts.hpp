// The acts of the tour, in the order in which an idea needs the one before.
//
// Each act does something with a real ring, shows it, and checks what it showed: if the kernel behaves
// differently, the tour ends with a message and exit code 1 instead of telling a story that is not true here.
// All orders that are shown follow from cause and effect (a read of an empty pipe ends when somebody writes),
// none from timing.
//
// The first five acts share one ring, so the reader sees indices run on past the mask; the others need rings
// that are made differently. Any act can also run alone (--act NAME).
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <ctime>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "servers/m1_ring_basics/picture.hpp"
#include "uring/prep_files.hpp"
#include "uring/ring.hpp"
#include "uring/token.hpp"

namespace m1 {

namespace prep = uring::prep;
using uring::FileDescriptor, uring::Ring, uring::Token;

// ---- What the acts share ----------------------------------------------------------------------------------

/// A Kernel that passes everything on to the real one and keeps what setup and mmap said. The ring has no
/// further use for those offsets; the first act shows them.
struct SetupRecord {
  struct Map {
    const void* address;
    std::size_t bytes;
    std::uint64_t offset;
  };
  io_uring_params params{};
  std::vector<Map> maps{};

  uring::Kernel kernel() {
    uring::Kernel kernel = uring::real_kernel;
    kernel.setup = [](void* self, unsigned entries, io_uring_params* asked) {
      const int fd = uring::real_kernel.setup(nullptr, entries, asked);
      static_cast<SetupRecord*>(self)->params = *asked;
      return fd;
    };
    kernel.map = [](void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
      const int result = uring::real_kernel.map(nullptr, fd, bytes, offset, address);
      if (result == 0) static_cast<SetupRecord*>(self)->maps.push_back({*address, bytes, offset});
      return result;
    };
    kernel.self = this;
    return kernel;
  }
};

struct Tour {
  Tour(Narrator& narrator, std::string reader_file) : tell(narrator), file(std::move(reader_file)) {}

  /// The ring of the first five acts. Not registered (register_ring_fd), so that strace shows its descriptor.
  Ring& ring() {
    if (!main_ring) main_ring.emplace(tell, main_ring_options, record.kernel());
    tell.look_at(main_ring->ring);
    return main_ring->ring;
  }

  static constexpr uring::RingOptions main_ring_options{.entries = 8, .register_ring_fd = false};
  Narrator& tell;
  std::string file;  // the reader's own, for the read; empty: none
  SetupRecord record{};
  std::optional<WatchedRing> main_ring{};
};

struct Pipe {
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw Failure("cannot make a pipe: " + uring::errno_text(errno));
    out.reset(ends[0]);
    in.reset(ends[1]);
  }
  FileDescriptor out, in;
};

/// A file in memory that holds `contents`, without a name, and gone when closed.
inline FileDescriptor memory_file(std::string_view contents) {
  FileDescriptor file(::memfd_create("m1_ring_basics", MFD_CLOEXEC));
  if (!file || ::write(file.get(), contents.data(), contents.size()) != std::ssize(contents)) {
    throw Failure("cannot make a file in memory: " + uring::errno_text(errno));
  }
  return file;
}

/// A slot, where the act knows that one is free.
inline io_uring_sqe& free_sqe(Ring& ring) {
  io_uring_sqe* const sqe = ring.next_sqe();
  if (sqe == nullptr) throw Failure("no SQE is free");
  return *sqe;
}

/// A wait that fails, or takes longer than anything here can, ends the tour.
inline void submit_and_wait(Ring& ring, unsigned want) {
  const uring::Waited waited = ring.submit_and_wait(want, std::chrono::seconds(10));
  if (waited.error != 0) throw enter_failure(waited.error);
}

/// All that one harvest finds, in order.
inline std::vector<io_uring_cqe> harvest(Ring& ring) {
  std::vector<io_uring_cqe> cqes;
  const int count = ring.harvest([&cqes](const io_uring_cqe& cqe) { cqes.push_back(cqe); });
  if (count < 0) throw enter_failure(count);
  return cqes;
}

/// "-EBADF" or "12"
inline std::string result_name(int res) {
  return res < 0 ? "-" + uring::errno_name(-res) : std::to_string(res);
}

// ---- 1. Set-up --------------------------------------------------------------------------------------------

inline std::string flag_list(std::uint32_t flags) {
  std::string names = uring::setup_flag_names(flags);
  constexpr std::string_view prefix = "IORING_SETUP_";
  for (std::size_t at; (at = names.find(prefix)) != std::string::npos;) names.erase(at, prefix.size());
  std::replace(names.begin(), names.end(), '|', ' ');
  return names;
}

inline void show_words(Narrator& tell, const io_uring_params& params) {
  const auto show = [&tell](std::uint32_t offset, const char* what) {
    tell.line(text("  byte %3u  %s", offset, what));
  };
  show(params.sq_off.head, "SQ head    written by the kernel: so far I have taken");
  show(params.sq_off.tail, "SQ tail    written by us:         so far we have filled");
  show(params.cq_off.head, "CQ head    written by us:         so far we have read");
  show(params.cq_off.tail, "CQ tail    written by the kernel: so far I have posted");
  show(params.sq_off.flags, "SQ flags   written by the kernel: hints, such as CQ_OVERFLOW");
  show(params.cq_off.cqes, "CQEs       written by the kernel, 16 bytes each");
}

inline std::size_t mappings_of_rings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("[io_uring]") != std::string::npos;
  return count;
}

inline void act_setup(Tour& tour) {
  Narrator& tell = tour.tell;
  tell.say(
      R"(io_uring_setup(2) makes a ring and returns a descriptor. The queues themselves are memory that this
      process and the kernel share, so the descriptor is then mapped, twice. From here on nothing is copied to
      hand an operation over: we write an SQE (submission queue entry, 64 bytes) into one mapping, and later
      find a CQE (completion queue entry, 16 bytes) in the other.)");
  const Ring& ring = tour.ring();
  const SetupRecord& record = tour.record;
  tell.line(text("io_uring_setup(%u, ...) = %d", Tour::main_ring_options.entries, ring.fd()));
  for (const SetupRecord::Map& map : record.maps) {
    const bool sqes = map.offset == IORING_OFF_SQES;
    tell.line(text("mmap(offset 0x%llx) = %p, %zu bytes: %s", 0ULL + map.offset, map.address, map.bytes,
                   sqes ? "the SQEs, written by us" : "both rings"));
    if (!sqes) show_words(tell, record.params);
  }
  tell.say(
      R"(Each word has one writer; the other side only reads it. That is why no lock is needed. In the
      pictures, h and t are the slots of head and tail, a number is an entry, +1 an SQE that is prepared and
      not published, a dot is free. Both rings are empty: head and tail are equal.)");
  tell.picture(ring, "After the set-up:");
  const uring::RingSnapshot now = ring.snapshot();
  tell.require(now.sq_entries >= Tour::main_ring_options.entries && now.cq_entries == 2 * now.sq_entries,
               text("%u entries asked for: descriptor %d, %u SQ slots, %u CQ slots",
                    Tour::main_ring_options.entries, ring.fd(), now.sq_entries, now.cq_entries));
  tell.require(record.maps.size() == mappings_of_rings(),
               text("%zu mappings, and /proc/self/maps lists as many", record.maps.size()));
  tell.fact("flags: " + flag_list(ring.setup_flags()));
  tell.fact("flags that this kernel does not know: " + flag_list(ring.dropped_setup_flags()));
}

// ---- 2. One write, one read -------------------------------------------------------------------------------

/// The first line of `bytes`, fit for a terminal.
inline std::string quoted(std::string_view bytes) {
  std::string line(bytes.substr(0, std::min<std::size_t>(bytes.find('\n'), 48)));
  for (char& c : line) {
    if (std::isprint(static_cast<unsigned char>(c)) == 0) c = '.';
  }
  return "\"" + line + "\"";
}

/// The reader's file; none if there is no name.
inline FileDescriptor open_own(const std::string& name) {
  if (name.empty()) return FileDescriptor();
  struct ::stat status {};
  if (::stat(name.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw Failure("'" + name + "' is not a regular file");
  }
  FileDescriptor file(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) throw Failure("cannot open '" + name + "': " + uring::errno_text(errno));
  return file;
}

inline io_uring_cqe only_cqe(Ring& ring) {
  const std::vector<io_uring_cqe> cqes = harvest(ring);
  if (cqes.size() != 1) throw Failure(text("one completion was expected, %zu came", cqes.size()));
  return cqes.front();
}

inline void act_single(Tour& tour) {
  constexpr std::string_view letter = "Written through a ring.\n";
  constexpr Token write_token{17}, read_token{18};
  Narrator& tell = tour.tell;
  Ring& ring = tour.ring();
  const FileDescriptor own = open_own(tour.file), memory = memory_file("");

  tell.say(
      R"(First a write, slowly. next_sqe() hands out the next slot, prep::write() fills all 64 bytes of it:
      the arguments of pwrite(2), and user_data, a number of our choice that comes back with the
      completion.)");
  prep::write(free_sqe(ring), memory.get(), letter.data(), letter.size(), 0, write_token);
  tell.picture(ring, "Prepared. No shared word has changed, the kernel knows nothing:");
  tell.show_the_next_enter_twice();
  submit_and_wait(ring, 1);
  tell.picture(ring, "The kernel has taken the SQE (its slot is free again) and posted a CQE:");
  const io_uring_cqe written = only_cqe(ring);
  tell.picture(ring, "Harvested: we have read the CQE, and give its slot back with one store of the head:");
  tell.require(written.user_data == write_token.bits && written.res == std::ssize(letter),
               text("write: user_data %llu came back, res %d = all bytes", written.user_data, written.res));
  tell.say(
      R"(to_submit says how many SQEs are new; min_complete and GETEVENTS, that we wait for one completion;
      EXT_ARG, that there is a time-out. The result counts SQEs taken, never completions.)");

  const int fd = own ? own.get() : memory.get();
  tell.say("Now a read, in one go, of " + (own ? "'" + tour.file + "':" : "what was written:"));
  std::array<char, 4096> through_ring{}, by_pread{};
  prep::read(free_sqe(ring), fd, through_ring.data(), through_ring.size(), 0, read_token);
  submit_and_wait(ring, 1);
  const io_uring_cqe got = only_cqe(ring);
  tell.picture(ring, "Submitted, completed, harvested. Every index has moved by one:");
  if (got.res < 0) throw Failure("cannot read '" + tour.file + "': " + uring::errno_text(-got.res));
  const ssize_t expected = ::pread(fd, by_pread.data(), by_pread.size(), 0);
  tell.require(got.user_data == read_token.bits && got.res == expected && through_ring == by_pread,
               text("read: res %d, and the bytes are those that pread(2) gives", got.res));
  tell.fact("they begin " + quoted({through_ring.data(), static_cast<std::size_t>(got.res)}));
}

// ---- 3. Eight operations, one system call -----------------------------------------------------------------

struct Operation {
  unsigned number;  // of submission, from 1
  const char* what;
  char pipe;  // its name, and the letter that goes through it
};

constexpr std::string_view pipe_names = "ABCD";

inline void prepare_eight(Ring& ring, uring::InFlight<Operation>& in_flight, const std::array<Pipe, 4>& pipes,
                          std::array<char, 4>& received) {
  constexpr std::uint8_t kind_read = 1, kind_write = 2;
  for (unsigned i = 0; i < 4; ++i) {
    const Token token = *in_flight.start(kind_read, {i + 1, "read", pipe_names[i]});
    prep::read(free_sqe(ring), pipes[i].out.get(), &received[i], 1, 0, token);
  }
  for (unsigned i = 4; i-- > 0;) {
    const Token token = *in_flight.start(kind_write, {8 - i, "write", pipe_names[i]});
    prep::write(free_sqe(ring), pipes[i].in.get(), &pipe_names[i], 1, 0, token);
  }
}

/// Kernels differ here, and each is right: no order is promised.
inline const char* why_in_this_order(const std::string& order) {
  if (order == " 5 6 7 8 4 3 2 1") {
    return R"(Why this order? A pipe has room, so each write was done on the spot, inside the call: the writes come
      first. A read that finds its pipe empty is put aside, and the write to that pipe wakes it: D, C, B, A.
      The order of submission promises nothing about the order of completion; user_data alone says whose CQE
      this is.)";
  }
  return R"(Why this order? Up to 6.1 the kernel hands what is read from or written to a pipe to worker threads, and
      6.1 reports first what was finished last; newer kernels do the writes on the spot, and finish each read when
      its pipe is fed. The order of submission promises nothing about the order of completion; user_data alone
      says whose CQE this is.)";
}

inline void act_batch(Tour& tour) {
  Narrator& tell = tour.tell;
  Ring& ring = tour.ring();
  const std::array<Pipe, 4> pipes;
  std::array<char, 4> received{};
  uring::InFlight<Operation> in_flight(8);
  const uring::Counters before = ring.counters();

  tell.say(
      R"(Four pipes, A to D, all empty. In one batch: four reads (1 to 4, of A to D), which cannot complete
      yet, then four writes (5 to 8) that feed the pipes backwards, D first. Each operation gets a token as
      user_data: its kind, its slot in the in-flight table, the generation of that slot.)");
  prepare_eight(ring, in_flight, pipes, received);
  tell.picture(ring, "Eight SQEs are prepared. Still no system call:");
  submit_and_wait(ring, 8);
  tell.picture(ring, "One call carried all eight in, and waited until all eight had completed:");

  std::string order;
  unsigned matched = 0;
  Token last{};
  tell.line("user_data          kind  slot  generation     operation           res");
  for (const io_uring_cqe& cqe : harvest(ring)) {
    last = Token{cqe.user_data};
    const Operation* const found = in_flight.find(last);
    if (found == nullptr) throw Failure("a completion belongs to no operation");
    tell.line(text("%016llx   %4u  %4u  %10u     %u  %-5s pipe %c    %3d", cqe.user_data, last.kind(),
                   last.slot(), last.generation(), found->number, found->what, found->pipe, cqe.res));
    order += " " + std::to_string(found->number);
    matched += in_flight.finish(last);
  }
  tell.say(why_in_this_order(order));
  const uring::Counters after = ring.counters();
  tell.picture(ring, "After the harvest:");
  const std::uint64_t sqes = after.sqes - before.sqes, enters = after.enters - before.enters;
  tell.require(sqes == 8 && enters == 1,
               text("%llu SQEs went in with %llu io_uring_enter", 0ULL + sqes, 0ULL + enters));
  tell.fact("submitted as 1 2 3 4 5 6 7 8, completed as" + order);
  tell.require(
      matched == 8 && in_flight.size() == 0 && std::string_view(received.data(), 4) == pipe_names,
      text("%u completions matched by user_data, and each read got the letter of its pipe", matched));
  tell.require(in_flight.find(last) == nullptr,
               "the table knows none of the tokens any more: a stale CQE would be noticed");
}

// ---- 4. Errors are in res ---------------------------------------------------------------------------------

inline void act_errors(Tour& tour) {
  constexpr std::string_view contents = "twelve bytes";
  Narrator& tell = tour.tell;
  Ring& ring = tour.ring();
  const FileDescriptor file = memory_file(contents);
  std::array<char, 64> buffer{};
  std::array<int, 5> res{};
  const auto run_all = [&](unsigned count) {
    submit_and_wait(ring, count);
    for (const io_uring_cqe& cqe : harvest(ring)) res.at(cqe.user_data) = cqe.res;
  };

  tell.say(
      R"(The result of io_uring_enter speaks of submission only: how many SQEs were taken. How an operation
      ended is in its CQE: res is what the system call of that name would return, or -errno. Four operations,
      of which two fail and two find less than they asked for; then one by a program that does not look at
      res, and reads from what openat returned.)");
  prep::read(free_sqe(ring), -1, buffer.data(), buffer.size(), 0, Token{0});
  prep::read(free_sqe(ring), file.get(), buffer.data(), buffer.size(), 0, Token{1});
  prep::read(free_sqe(ring), file.get(), buffer.data(), buffer.size(), contents.size(), Token{2});
  prep::openat(free_sqe(ring), AT_FDCWD, "/proc/self/no-such-file", O_RDONLY, 0, Token{3});
  run_all(4);
  prep::read(free_sqe(ring), res[3], buffer.data(), buffer.size(), 0, Token{4});
  run_all(1);
  const char* const what[] = {"read of descriptor -1", "read of 64 bytes from a file of 12",
                              "read behind the end of that file", "openat of /proc/self/no-such-file",
                              "read of \"the descriptor\" that openat returned"};
  for (std::size_t i = 0; i < res.size(); ++i) {
    tell.line(text("%-46s  res %s", what[i], result_name(res[i]).c_str()));
  }
  tell.picture(ring, "To the rings, a failed operation is one like any other:");
  tell.require(res[0] == -EBADF, "a bad descriptor: res -EBADF, and io_uring_enter succeeds");
  tell.require(res[1] == std::ssize(contents),
               text("a short read at the end of the file: res %d of %zu", res[1], buffer.size()));
  tell.require(res[2] == 0, "at the end of the file: res 0, which is no error");
  tell.require(res[3] == -ENOENT && res[4] == -EBADF,
               "ENOENT comes from openat; a read has a descriptor and no name, so all it can say is -EBADF");
}

// ---- 5. The SQ is full ------------------------------------------------------------------------------------

inline void act_full(Tour& tour) {
  Narrator& tell = tour.tell;
  Ring& ring = tour.ring();
  const unsigned entries = ring.sq_entries();
  const Pipe pipe;
  std::vector<char> received(entries);
  const uring::Counters before = ring.counters();

  tell.say(
      R"(A full SQ is something between us and our own memory: next_sqe() returns nullptr, and the kernel has
      not been asked. All slots are usable, since indices count on: full is tail - head = entries, empty is
      tail = head.)");
  unsigned prepared = 0;
  for (io_uring_sqe* sqe; (sqe = ring.next_sqe()) != nullptr; ++prepared) {
    prep::read(*sqe, pipe.out.get(), &received[prepared], 1, 0, Token{prepared});
  }
  tell.picture(ring, text("%u reads of an empty pipe are prepared, and next_sqe() says no:", prepared));
  tell.require(prepared == entries && ring.counters().enters == before.enters,
               text("the SQ takes %u SQEs, all its slots; refusing one more took no system call", prepared));
  ring.submit();
  tell.picture(ring,
               "Submitted. Nothing can complete yet, but the kernel has copied the SQEs: the SQ is empty:");
  tell.require(ring.sq_space() == entries && ring.ready() == 0,
               text("%u operations in flight, %u slots free: the SQ bounds a batch, not the work in flight",
                    prepared, ring.sq_space()));

  for (unsigned i = 0; i < entries; ++i) {
    prep::write(free_sqe(ring), pipe.in.get(), "x", 1, 0, Token{entries + i});
  }
  submit_and_wait(ring, 2 * entries);
  tell.picture(ring, text("%u writes later, reads and writes are all done; now the CQ is full:", entries));
  const unsigned ready = ring.ready();
  const std::vector<io_uring_cqe> cqes = harvest(ring);
  tell.picture(ring, "After the harvest:");
  const bool good =
      std::all_of(cqes.begin(), cqes.end(), [](const io_uring_cqe& cqe) { return cqe.res == 1; });
  tell.require(good && ready == ring.cq_entries() && cqes.size() == ready,
               text("the CQ held %u completions in %u slots, none is missing", ready, ring.cq_entries()));
}

// ---- 6. The CQ overflows ----------------------------------------------------------------------------------

inline void act_overflow(Tour& tour) {
  constexpr unsigned operations = 10;
  Narrator& tell = tour.tell;
  WatchedRing watched(tell, {.entries = 4, .cq_entries = 4, .register_ring_fd = false});
  Ring& ring = watched.ring;

  tell.say(
      R"(Ten operations that complete at once, on a ring whose CQ has four slots, and nobody harvests. The
      kernel puts what does not fit on a list of its own and sets IORING_SQ_CQ_OVERFLOW (in the SQ's flags, of
      all places).)");
  for (unsigned i = 0; i < operations; ++i) {
    if (ring.sq_space() == 0) ring.submit();
    prep::nop(free_sqe(ring), Token{i});
  }
  ring.submit();
  const uring::RingSnapshot full = ring.snapshot();
  const unsigned held = full.cq_tail - full.cq_head;
  tell.picture(ring, "All were taken. The CQ holds the first completions, the list the others:");
  tell.require(held == full.cq_entries && (full.sq_flags & IORING_SQ_CQ_OVERFLOW) != 0,
               text("%u of %u completions are in the CQ, and CQ_OVERFLOW is set", held, operations));
  tell.require(full.cq_overflow == 0,
               text("completions that the kernel says it has lost: %u", full.cq_overflow));

  tell.say(
      R"(Harvesting makes room, but does not fill it: what is on the list stays there. When the CQ looks empty
      and the flag is set, harvest() makes one io_uring_enter that submits nothing and waits for nothing; with
      GETEVENTS, that moves as much of the list into the ring as fits.)");
  const std::uint64_t enters = ring.counters().enters;
  std::string order;
  std::array<unsigned, operations> times{};
  for (unsigned round = 1; ring.pending() && round <= operations; ++round) {
    std::string now;
    for (const io_uring_cqe& cqe : harvest(ring)) {
      now += " " + std::to_string(cqe.user_data);
      ++times.at(cqe.user_data);
    }
    order += now;
    tell.picture(ring, text("Harvest %u gave", round) + now + ":");
  }
  const bool in_order = order == " 0 1 2 3 4 5 6 7 8 9";
  tell.require(
      std::count(times.begin(), times.end(), 1U) == operations,
      std::string("nothing is lost, ") + (in_order ? "and the order is kept:" : "in this order:") + order);
  tell.require((ring.snapshot().sq_flags & IORING_SQ_CQ_OVERFLOW) == 0,
               text("io_uring_enter calls that fetched the list: %llu; now the flag is clear",
                    0ULL + ring.counters().enters - enters));
}

// ---- 7. A partial submit ----------------------------------------------------------------------------------

/// Five SQEs, the third with an opcode that does not exist.
inline void prepare_five(Ring& ring) {
  for (unsigned i = 1; i <= 5; ++i) {
    io_uring_sqe& sqe = free_sqe(ring);
    prep::nop(sqe, Token{i});
    if (i == 3) sqe.opcode = 0xff;
  }
}

/// What has come of the five: " 3:-EINVAL 1:0 2:0".
class ResultsOfFive {
 public:
  void add(const io_uring_cqe& cqe) {
    in_order_ += text(" %llu:%s", cqe.user_data, result_name(cqe.res).c_str());
    ++count_;
    const bool as_expected = cqe.res == (cqe.user_data == 3 ? -EINVAL : 0);
    if (as_expected && cqe.user_data < by_number_.size()) ++by_number_[cqe.user_data];
  }
  void harvest_from(Ring& ring) {
    for (const io_uring_cqe& cqe : harvest(ring)) add(cqe);
  }
  const std::string& in_order() const { return in_order_; }
  /// One CQE for each of the five, with its own result, in whatever order. (Up to 6.1 the kernel posts the failure of
  /// the bad one at once, and the others when the batch is over: 3 1 2. Later kernels post 1 2 3. None promises it.)
  bool are_complete() const {
    return count_ == 5 && std::count(by_number_.begin() + 1, by_number_.end(), 1) == 5;
  }

 private:
  std::string in_order_{};
  std::size_t count_ = 0;
  std::array<unsigned, 6> by_number_{};
};

inline void stop_at_the_bad_one(Narrator& tell) {
  constexpr std::uint32_t flags = uring::default_setup_flags & ~std::uint32_t{IORING_SETUP_SUBMIT_ALL};
  WatchedRing watched(tell, {.entries = 8, .flags = flags, .register_ring_fd = false});
  Ring& ring = watched.ring;
  prepare_five(ring);
  const int taken = ring.submit();
  const unsigned left = ring.unsubmitted();
  tell.picture(ring,
               "The bad SQE counts as taken, and has a CQE. Those behind it are published, and not taken:");
  tell.require(
      taken == 3 && left == 2,
      text("offered 5, taken %d, left in the ring %u: only the returned number says so", taken, left));
  ResultsOfFive results;
  results.harvest_from(ring);
  const int rest = ring.submit();
  tell.picture(ring, "The next submit offers tail - head SQEs: what was left, and nothing twice:");
  results.harvest_from(ring);
  tell.require(rest == 2 && ring.unsubmitted() == 0,
               text("submitted again: taken %d, left %u", rest, ring.unsubmitted()));
  tell.require(results.are_complete(), "one completion for each, user_data:res =" + results.in_order());
  tell.require(ring.counters().short_submits == 1,
               text("short submits that the ring counted: %llu", 0ULL + ring.counters().short_submits));
}

inline void act_partial(Tour& tour) {
  Narrator& tell = tour.tell;
  tell.say(
      R"(io_uring_enter may take fewer SQEs than it was offered. Without IORING_SETUP_SUBMIT_ALL (5.18) one
      malformed SQE is enough: the kernel stops behind it. Five SQEs; the third has opcode 255, which does not
      exist. The order of their CQEs is the kernel's affair.)");
  stop_at_the_bad_one(tell);
  WatchedRing watched(tell, {.entries = 8, .register_ring_fd = false});
  if ((watched.ring.setup_flags() & IORING_SETUP_SUBMIT_ALL) == 0) return;
  tell.say("The same five on a ring with SUBMIT_ALL, which is this project's default:");
  prepare_five(watched.ring);
  const int taken = watched.ring.submit();
  ResultsOfFive results;
  results.harvest_from(watched.ring);
  tell.require(taken == 5 && results.are_complete(),
               text("with SUBMIT_ALL: offered 5, taken %d, user_data:res =", taken) + results.in_order());
}

// ---- 8. What a batch saves --------------------------------------------------------------------------------

constexpr unsigned null_writes = 10'000;
constexpr std::string_view null_payload = "64 bytes for a device that will not look at a single one of them";

/// CPU time of this thread, in microseconds. All the work is done in it, inside the calls, so on an idle
/// machine this is what a wall clock shows; on a busy one it leaves out what others use.
inline double cpu_microseconds() {
  ::timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

struct Contender {
  std::string name;
  unsigned batch;  // 0: write(2)
  std::uint64_t system_calls = 0;
  std::vector<double> microseconds{};

  double median() const {
    std::vector<double> sorted = microseconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

/// Returns how many system calls it took.
inline std::uint64_t write_one_by_one(int fd) {
  std::uint64_t calls = 0;
  while (calls < null_writes) {
    if (::write(fd, null_payload.data(), null_payload.size()) != std::ssize(null_payload)) {
      throw Failure("write(2) to /dev/null: " + uring::errno_text(errno));
    }
    ++calls;
  }
  return calls;
}

inline std::uint64_t write_in_batches(Ring& ring, int fd, unsigned batch) {
  const std::uint64_t before = ring.counters().enters;
  for (unsigned left = null_writes; left != 0;) {
    const unsigned now = std::min(left, batch);
    for (unsigned i = 0; i < now; ++i) {
      prep::write(free_sqe(ring), fd, null_payload.data(), null_payload.size(), 0, Token{i});
    }
    ring.submit_and_wait(now);
    unsigned good = 0;
    ring.harvest([&good](const io_uring_cqe& cqe) { good += cqe.res == std::ssize(null_payload); });
    if (good != now) throw Failure(text("%u of %u writes to /dev/null succeeded", good, now));
    left -= now;
  }
  return ring.counters().enters - before;
}

inline void act_devnull(Tour& tour) {
  constexpr int rounds = 9;
  Narrator& tell = tour.tell;
  tell.say(
      R"(A write to /dev/null does nothing, so what is left is the price of getting into the kernel and back:
      once per write with write(2), once per batch with a ring. In each round every contender runs once, and
      the median of the rounds counts. The ratio is write(2)'s time divided by the ring's: above 1, io_uring
      is better.)");
  const FileDescriptor null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (!null) throw Failure("cannot open /dev/null: " + uring::errno_text(errno));
  Ring ring({.entries = 128});
  std::vector<Contender> contenders{{"write(2)", 0}};
  for (const unsigned batch : {1U, 8U, 32U, 128U})
    contenders.push_back({text("ring, batch %3u", batch), batch});
  for (int round = 0; round < rounds; ++round) {
    for (Contender& it : contenders) {
      const double start = cpu_microseconds();
      it.system_calls =
          it.batch == 0 ? write_one_by_one(null.get()) : write_in_batches(ring, null.get(), it.batch);
      it.microseconds.push_back(cpu_microseconds() - start);
    }
  }
  tell.table("                  system calls   CPU time    per write   ratio");
  for (const Contender& it : contenders) {
    const double time = it.median();
    tell.table(text("%-15s   %12s   %5.2f ms   %7.0f ns   %5.2f", it.name.c_str(),
                    grouped(it.system_calls).c_str(), time / 1000, time * 1000 / null_writes,
                    contenders[0].median() / time));
  }
  const bool as_counted = std::all_of(contenders.begin(), contenders.end(), [](const Contender& it) {
    const unsigned batch = std::max(it.batch, 1U);
    return it.system_calls == (null_writes + batch - 1) / batch;
  });
  tell.require(as_counted, text("%s writes of %zu bytes took one system call per batch; median of %d rounds",
                                grouped(null_writes).c_str(), null_payload.size(), rounds));
  tell.say(
      R"(A batch of one saves no call, and pays for two queues on top. A longer batch saves ways into the
      kernel; what such a way costs differs from machine to machine. And each operation of a ring has costs
      that write(2) has not: a request is made and torn down, a CQE is written and read. Where entering the
      kernel is cheap, a ring may lose here even at 128. Then batching is no reason to use one; having many
      operations in flight still is.)");
}

}  // namespace m1

// How Milestone 1 talks: prose, facts, and both rings drawn from what they hold at that moment.
//
//        ┌───0───1───2───3───4───5───6───7─┐  8 slots, mask 7
//    SQ  │  +8   ·   ·   ·   ·   5  +6  +7 │  head  5
//        └───────────────────────h───t─────┘  tail  5→ 6 we +1   prepared up to 9
//
//     5   an entry between head and tail: index 5 lies in slot 5 & 7
//    +8   an SQE that is prepared, and that only we know of: the tail in shared memory has not passed it yet
//     ·   free
//   h, t  the slots that head & mask and tail & mask point to
//
// Indices count up for ever, slots repeat: the 8 above lies in slot 0. What a picture shows comes from
// Ring::snapshot() or from the Observer that stands between the ring and the kernel, and nothing from what
// the text expects. An index that has moved since the last picture says who moved it, which is never a matter
// of opinion: each has one owner.
//
// Limits: rings of at most 16 slots, and the last two digits of an index in a slot: a picture is 80 columns
// wide.
#pragma once

#include <linux/io_uring.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "uring/observer.hpp"
#include "uring/ring.hpp"

namespace m1 {

/// Something did not go as it must: exit code 1, and this sentence.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// `error`: -errno from io_uring_enter.
inline Failure enter_failure(int error) {
  return Failure("io_uring_enter: " + uring::errno_text(-error) + ": " + uring::explain_enter(-error));
}

/// printf into a string.
[[gnu::format(printf, 1, 2)]] inline std::string text(const char* format, ...) {
  std::va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  std::string line(static_cast<std::size_t>(std::vsnprintf(nullptr, 0, format, arguments)), ' ');
  std::vsnprintf(line.data(), line.size() + 1, format, again);
  va_end(again);
  va_end(arguments);
  return line;
}

/// 10485760 -> "10,485,760"
inline std::string grouped(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

/// How many columns a line of UTF-8 takes (each character that we print takes one).
inline std::size_t columns(std::string_view line) {
  return static_cast<std::size_t>(
      std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

/// Escape sequences on a terminal, empty strings anywhere else.
struct Colours {
  const char *bold = "", *dim = "", *ours = "", *kernels = "", *good = "", *plain = "";

  static Colours for_stdout() {
    const char* const terminal = std::getenv("TERM");
    const bool capable = terminal != nullptr && std::string_view(terminal) != "dumb";
    if (::isatty(STDOUT_FILENO) == 0 || !capable || std::getenv("NO_COLOR") != nullptr) return {};
    return {"\033[1m", "\033[2m", "\033[36m", "\033[33m", "\033[32m", "\033[0m"};
  }
};

/// Both rings at one moment, whoever looked.
struct View {
  uring::SharedIndices shared;
  std::uint32_t prepared;  // the private SQ tail
  std::uint32_t sq_entries, cq_entries;
};

inline View view(const uring::Ring& ring) {
  const uring::RingSnapshot now = ring.snapshot();
  return {.shared = {.sq_head = now.sq_head,
                     .sq_tail = now.sq_tail,
                     .cq_head = now.cq_head,
                     .cq_tail = now.cq_tail,
                     .sq_flags = now.sq_flags},
          .prepared = now.private_sq_tail,
          .sq_entries = now.sq_entries,
          .cq_entries = now.cq_entries};
}

/// One ring of a picture: what lies between head and tail (and, in the SQ, between tail and `prepared`).
struct Lane {
  const char* name;
  std::size_t cell;  // columns of a slot
  std::uint32_t entries, head, tail, prepared;
  std::string beside[3];  // what stands to the right of its three lines
};

/// `inner` at the right end of `width` columns, after `filler`s.
inline std::string flush_right(const std::string& inner, std::size_t width, const char* filler) {
  std::string cell;
  for (std::size_t column = columns(inner); column < width; ++column) cell += filler;
  return cell + inner;
}

inline std::string draw(const Lane& lane, const Colours& colours) {
  assert(lane.entries <= 16);
  const std::uint32_t mask = lane.entries - 1;
  std::string top = "      ┌", middle = "  " + std::string(lane.name) + "  │", bottom = "      └";
  for (std::uint32_t slot = 0; slot < lane.entries; ++slot) {
    // The one index in [head, head + entries) that lies in this slot.
    const std::uint32_t index = lane.head + ((slot - lane.head) & mask);
    const bool published = index - lane.head < lane.tail - lane.head;
    const bool prepared = !published && index - lane.head < lane.prepared - lane.head;
    const bool at_head = slot == (lane.head & mask), at_tail = slot == (lane.tail & mask);
    const std::string number = std::to_string(index % 100);
    top += flush_right(std::to_string(slot), lane.cell, "─");
    middle += published ? colours.bold : prepared ? colours.ours : colours.dim;
    middle += flush_right(published ? number : prepared ? "+" + number : "·", lane.cell, " ") + colours.plain;
    bottom += flush_right(std::string(at_head ? "h" : "") + (at_tail ? "t" : ""), lane.cell, "─");
  }
  return top + "─┐  " + lane.beside[0] + "\n" + middle + " │  " + lane.beside[1] + "\n" + bottom + "─┘  " +
         lane.beside[2] + "\n";
}

/// "tail  2→10 we +8" if it has moved, else "tail 10".
inline std::string moved(const char* name, std::uint32_t was, std::uint32_t is, bool ours,
                         const Colours& colours) {
  if (was == is) return text("%s %2u", name, is);
  return text("%s %2u→%2u %s%s +%u%s", name, was, is, ours ? colours.ours : colours.kernels,
              ours ? "we" : "kernel", is - was, colours.plain);
}

inline std::string draw(const View& was, const View& now, const Colours& colours) {
  const uring::SharedIndices &before = was.shared, &after = now.shared;
  std::string flags;
  if ((after.sq_flags & IORING_SQ_CQ_OVERFLOW) != 0) flags += " CQ_OVERFLOW";
  if ((after.sq_flags & IORING_SQ_TASKRUN) != 0) flags += " TASKRUN";
  if (!flags.empty()) flags = "   flags:" + flags;
  std::string unpublished;
  if (now.prepared != after.sq_tail) unpublished = text("   prepared up to %u", now.prepared);
  const Lane sq{"SQ",
                4,
                now.sq_entries,
                after.sq_head,
                after.sq_tail,
                now.prepared,
                {text("%u slots, mask %u", now.sq_entries, now.sq_entries - 1) + flags,
                 moved("head", before.sq_head, after.sq_head, false, colours),
                 moved("tail", before.sq_tail, after.sq_tail, true, colours) + unpublished}};
  const Lane cq{"CQ",
                3,
                now.cq_entries,
                after.cq_head,
                after.cq_tail,
                after.cq_tail,
                {text("%u slots, mask %u", now.cq_entries, now.cq_entries - 1),
                 moved("head", before.cq_head, after.cq_head, true, colours),
                 moved("tail", before.cq_tail, after.cq_tail, false, colours)}};
  return draw(sq, colours) + draw(cq, colours);
}

enum class Voice { full, step, quiet };  // step: full, and waits for Enter; quiet: facts only

class Narrator {
 public:
  explicit Narrator(Voice voice) : voice_(voice), colours_(Colours::for_stdout()) {}

  void begin_act(const char* name, std::size_t number, std::size_t of, const char* title) {
    act_ = name;
    if (quiet()) return;
    const std::string left = text("── %zu of %zu ── %s ", number, of, title), right = text(" --act %s", name);
    const std::size_t used = columns(left) + columns(right);
    std::string rule;
    for (std::size_t column = used; column < width; ++column) rule += "─";
    print("\n" + (colours_.bold + left) + rule + colours_.plain + right + "\n");
    last_kind_ = Kind::none;
  }

  /// Prose: wrapped, and left out by --quiet.
  void say(const std::string& prose) { tell(Kind::prose, wrapped("  ", "  ", prose)); }

  /// A prepared line, as it is. --quiet leaves it out.
  void line(const std::string& prepared) { tell(Kind::lines, "  " + prepared + "\n"); }

  /// What was seen, and checked. --quiet prints "act: fact", one per line.
  void fact(const std::string& seen) {
    if (quiet()) return print(act_ + ": " + seen + "\n");
    tell(Kind::facts, colours_.good + wrapped("  ✓ ", "    ", seen) + colours_.plain);
  }

  /// A row of a table that is itself the fact.
  void table(const std::string& row) {
    quiet() ? print(act_ + ": " + row + "\n") : tell(Kind::table, "    " + row + "\n");
  }

  /// The same, if `holds`. If not, the kernel does not do what this program teaches.
  void require(bool holds, const std::string& claim) {
    if (!holds) throw Failure("act " + act_ + ": on this kernel it is not true that: " + claim);
    fact(claim);
  }

  /// From here on, pictures show `ring` and what has moved since now.
  void look_at(const uring::Ring& ring) { last_ = view(ring); }

  void picture(const uring::Ring& ring, const std::string& caption) { picture(view(ring), caption); }

  void picture(const View& now, const std::string& caption) {
    tell(Kind::picture, wrapped("  ▸ ", "    ", caption) + draw(last_, now, colours_));
    last_ = now;
    pause();
  }

  /// Let the next io_uring_enter be shown in two pictures: what the kernel finds, and what it leaves.
  void show_the_next_enter_twice() { twice_ = true; }

  /// For an Observer: tells every io_uring_enter, as strace would.
  static void on_enter(void* narrator, const uring::EnterEvent& event) {
    static_cast<Narrator*>(narrator)->tell_enter(event);
  }

  void pause() {
    if (voice_ != Voice::step) return;
    print(std::string("\n") + colours_.dim + "  [Enter] " + colours_.plain);
    std::fflush(stdout);
    for (int c = 0; c != '\n' && c != EOF;) c = std::getchar();
    if (::isatty(STDIN_FILENO) == 0) print("\n");
  }

  bool quiet() const { return voice_ == Voice::quiet; }

 private:
  static constexpr std::size_t width = 80;

  static void print(const std::string& what) { std::fputs(what.c_str(), stdout); }

  /// Words between spaces and line ends, filled into lines that begin with `first` and `next`.
  static std::string wrapped(const std::string& first, const std::string& next, const std::string& prose) {
    std::string all, row = first;
    std::istringstream words(prose);
    for (std::string word; words >> word;) {
      const bool begins = row == first || row == next;
      if (!begins && columns(row) + 1 + columns(word) > width - 2) {
        all += row + "\n";
        row = next + word;
      } else {
        row += (begins ? "" : " ") + word;
      }
    }
    return all + row + "\n";
  }

  enum class Kind { none, prose, lines, calls, facts, table, picture };

  /// Paragraphs and pictures stand alone; lines of one kind stand together.
  void tell(Kind kind, const std::string& what) {
    if (quiet()) return;
    const bool alone = kind == Kind::prose || kind == Kind::picture;
    print((alone || kind != last_kind_ ? "\n" : "") + what);
    last_kind_ = kind;
  }

  void tell_enter(const uring::EnterEvent& event) {
    if (std::exchange(twice_, false)) {
      picture({event.before, event.before.sq_tail, event.sq_mask + 1, event.cq_mask + 1},
              "Published, one store-release of the tail. This is what the kernel finds:");
    }
    std::string flags;
    if ((event.flags & IORING_ENTER_GETEVENTS) != 0) flags += "|GETEVENTS";
    if ((event.flags & IORING_ENTER_EXT_ARG) != 0) flags += "|EXT_ARG";
    const std::string result =
        event.result >= 0 ? std::to_string(event.result) : "-" + uring::errno_name(-event.result);
    tell(Kind::calls,
         colours_.bold +
             text("  io_uring_enter(to_submit %u, min_complete %u, %s) = %s\n", event.to_submit,
                  event.min_complete, flags.empty() ? "no flags" : flags.c_str() + 1, result.c_str()) +
             colours_.plain);
  }

  Voice voice_;
  Colours colours_;
  std::string act_;
  Kind last_kind_ = Kind::none;
  View last_{};
  bool twice_ = false;
};

/// A ring that is watched: it calls the observer in place of the kernel, the observer tells the narrator.
struct WatchedRing {
  WatchedRing(Narrator& narrator, const uring::RingOptions& options,
              const uring::Kernel& kernel = uring::real_kernel)
      : observer(Narrator::on_enter, &narrator, kernel), ring(options, observer.kernel()) {
    narrator.look_at(ring);
  }

  uring::Observer observer;
  uring::Ring ring;
};

}  // namespace m1

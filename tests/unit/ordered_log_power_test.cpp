// What an acknowledgement promises, held against a machine whose power goes at any moment (ordered_log_power.hpp): every
// acknowledged record is there after the next start, at its offset, with its bytes; and nothing is there that was refused,
// or that nobody sent.
//
// A test that cannot fail proves nothing. So the log has mutants, each with one rule less, and each must be caught.

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <list>
#include <map>
#include <string>

#include "servers/m4_ordered_log/log_ring.hpp"
#include "servers/m4_ordered_log/recovery.hpp"
#include "tests/unit/ordered_log_power.hpp"

namespace {

using namespace ordered_log_test;
using ordered_log::Order;
using ordered_log::SoundRules;

struct Record : ordered_log::Append {
  Bytes sent{};
  enum class Fate : std::uint8_t { unknown, acknowledged, refused } fate = Fate::unknown;
};

/// Its number, and then bytes that follow from it.
Bytes content(std::uint64_t number, std::size_t length) {
  Bytes bytes(sizeof number + length);
  Random random(number);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
  ordered_log::store_little(bytes.data(), number);
  return bytes;
}

/// What a run came to: empty, or the first thing that is wrong.
struct Run {
  std::string wrong{};
  std::uint64_t acknowledged = 0;
  std::uint64_t refused = 0;
  std::uint64_t repairs = 0;
  bool gave_up = false;
};

Misfortune misfortune_of(Random& random) {
  const bool bad_day = random.percent(60);
  return {.writes = bad_day ? static_cast<unsigned>(random.up_to(12)) : 0,
          .fsyncs = bad_day ? static_cast<unsigned>(random.up_to(15)) : 0,
          .cuts = bad_day && random.percent(20) ? 30u : 0,
          .submits = random.percent(30) ? 30u : 0,
          .steps = random.up_to(160)};
}

/// After the power cut: what recovery finds, against what was promised.
std::string compare(const Bytes& image, const std::list<Record>& records, bool gave_up) {
  const uring::FileDescriptor file(::memfd_create("log", MFD_CLOEXEC));
  if (::write(file.get(), image.data(), image.size()) != static_cast<::ssize_t>(image.size()))
    return "no memory";
  const ordered_log::Found found = ordered_log::recover(file.get());
  std::map<std::uint64_t, Bytes> there;
  const ordered_log::Found again =
      ordered_log::scan(file.get(), [&](std::uint64_t offset, std::span<const std::byte> record) {
        const auto bytes = record.subspan(ordered_log::header_bytes);
        there[offset] = Bytes(bytes.begin(), bytes.end());
      });
  if (again.end != found.end || again.size != found.end) return "the torn tail was not cut off";
  for (const Record& record : records) {
    if (record.fate != Record::Fate::acknowledged) continue;
    const auto at = there.find(record.offset);
    if (at == there.end()) return "an acknowledged record is lost, at " + std::to_string(record.offset);
    if (at->second != record.sent)
      return "an acknowledged record has changed, at " + std::to_string(record.offset);
  }
  std::map<std::uint64_t, const Record*> by_number;
  for (const Record& record : records) {
    by_number[ordered_log::load_little<std::uint64_t>(record.sent.data())] = &record;
  }
  for (const auto& [offset, bytes] : there) {
    const auto sent = by_number.find(ordered_log::load_little<std::uint64_t>(bytes.data()));
    if (sent == by_number.end() || sent->second->sent != bytes) return "a record that nobody sent";
    if (sent->second->fate == Record::Fate::refused && !gave_up) return "a record that was refused";
  }
  return {};
}

template <class Rules>
Run run(std::uint64_t seed, Order order) {
  Random random(seed);
  const std::uint32_t start = random.percent(50) ? 0 : 0U - static_cast<std::uint32_t>(random.up_to(60));
  PowerKernel kernel(random, misfortune_of(random), start);
  std::list<Record> records;
  Run result;
  {
    ordered_log::LogRing ring(kernel.kernel());
    ordered_log::Log<Rules> log(ring.loop(), ring.operations(), 1000, 0, order);
    const auto note = [&](ordered_log::Append& answered) {
      if (kernel.is_off()) return;  // said to nobody
      auto& record = static_cast<Record&>(answered);
      record.fate = answered.error == 0 ? Record::Fate::acknowledged : Record::Fate::refused;
      ++(answered.error == 0 ? result.acknowledged : result.refused);
    };
    const std::size_t wanted = random.up_to(60);
    for (unsigned turn = 0; turn < 2000 && !kernel.is_off(); ++turn) {
      for (std::size_t count = random.up_to(6); count > 0 && records.size() < wanted; --count) {
        Record& record = records.emplace_back();
        record.sent = content(records.size(), random.up_to(random.percent(20) ? 2000 : 200));
        record.allocate(static_cast<std::uint32_t>(record.sent.size()));
        std::copy(record.sent.begin(), record.sent.end(), record.bytes().begin());
        log.append(record);
      }
      if (random.percent(50)) {
        if (ring.pump(log) < 0) break;
      } else {
        log.prepare();
        if (ring.turn(log, log.in_flight() > 0 ? uring::forever : std::chrono::nanoseconds{}) < 0) break;
      }
      log.answer(note);
      if (log.is_idle() && records.size() == wanted) break;
    }
    if (!kernel.is_off() && !log.is_idle()) result.wrong = "the log never came to an end";
    result.gave_up = log.unusable() != 0;
    result.repairs = log.statistics().repairs;
  }
  if (result.wrong.empty() && !kernel.complaints().empty()) result.wrong = kernel.complaints().front();
  if (result.wrong.empty() && kernel.overlapping_fsyncs() > 0) result.wrong = "two fsyncs at once";
  if (result.wrong.empty()) result.wrong = compare(kernel.after_power_cut(), records, result.gave_up);
  return result;
}

constexpr Order orders[] = {Order::wait, Order::drain, Order::link};
std::string name_of(Order order) {
  constexpr const char* names[] = {"wait", "drain", "link"};
  return names[static_cast<std::size_t>(order)];
}

std::uint64_t seed_of(Order order, std::uint64_t number) {
  return (static_cast<std::uint64_t>(order) + 1) << 32 | number;
}

constexpr unsigned schedules = 1000;  // for each order

/// How many schedules it takes until a mutant is found out; 0: it was not.
template <class Rules>
unsigned caught_after(Order order) {
  for (unsigned number = 0; number < schedules; ++number) {
    const std::string wrong = run<Rules>(seed_of(order, number), order).wrong;
    if (wrong.starts_with("an acknowledged record")) return number + 1;
  }
  return 0;
}

template <class Rules>
void check_caught(std::initializer_list<Order> in = {Order::wait, Order::drain, Order::link}) {
  for (const Order order : in) {
    CAPTURE(name_of(order));
    CHECK(caught_after<Rules>(order) > 0);
  }
}

struct NoFsync : SoundRules {
  static constexpr bool fsync = false;
};
struct AckBeforeFsync : SoundRules {
  static constexpr bool ack_after_fsync = false;
};
struct AckOutOfOrder : SoundRules {
  static constexpr bool ack_in_order = false;
};
struct TrustsTheSecondFsync : SoundRules {
  static constexpr bool failed_fsync_is_final = false;
};

struct TrustsSplitChains : SoundRules {
  static constexpr bool whole_chains_only = false;
};

}  // namespace

TEST_CASE("whatever the power cut leaves: what the log acknowledged is there, and nothing that it refused") {
  for (const Order order : orders) {
    Run all;
    unsigned gave_up = 0;
    for (unsigned number = 0; number < schedules; ++number) {
      const std::uint64_t seed = seed_of(order, number);
      const Run one = run<SoundRules>(seed, order);
      CAPTURE(seed);
      CAPTURE(name_of(order));
      CHECK(one.wrong == "");
      all.acknowledged += one.acknowledged;
      all.refused += one.refused;
      all.repairs += one.repairs;
      gave_up += one.gave_up ? 1 : 0;
    }
    // That these were worth running:
    CAPTURE(name_of(order));
    CHECK(all.acknowledged > schedules);
    CHECK(all.refused > schedules / 10);
    CHECK(all.repairs > schedules / 10);
    CHECK(gave_up > 0);
  }
}

TEST_CASE("the power cut finds a log that does not call fsync") { check_caught<NoFsync>(); }
TEST_CASE("the power cut finds a log that acknowledges before the fsync has completed") {
  check_caught<AckBeforeFsync>();
}
TEST_CASE("the power cut finds a log that acknowledges a record before those in front of it") {
  // In a chain nothing can overtake: there the kernel keeps this rule.
  check_caught<AckOutOfOrder>({Order::wait, Order::drain});
}
TEST_CASE("the power cut finds a log that believes the second fsync after one that failed") {
  check_caught<TrustsTheSecondFsync>();
}
TEST_CASE("the power cut finds a log that believes the fsync of a chain that was submitted in two parts") {
  check_caught<TrustsSplitChains>({Order::link});
}

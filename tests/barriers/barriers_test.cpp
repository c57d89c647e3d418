// Every order that uring/indices.hpp asks for is needed, and the tests know it: with the table as it is all
// proofs are silent, and with any one entry weakened at least one proof speaks up. docs/barriers.md explains
// the proofs.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "tests/barriers/proofs.hpp"
#include "tests/support/skip.hpp"

namespace {

using barriers::mutants;

/// An order, and who watches it. A mutant belongs to the order that its name begins with.
struct Order {
  std::string_view name;
  std::string_view model;  // of relacy_models
  std::string_view start;  // an index for the harness, so that it wraps half-way; empty: no harness
  std::string_view race;   // what TSan must report for a mutant: what happened, and what had happened before
};

constexpr std::array watched{
    Order{"sq_tail", "sq", "4294967168", "kernel_reads_sqes: read, application_submits: previous write"},
    Order{"sq_head", "sq", "4294967232", "application_refills: write, kernel_takes_sqes: previous read"},
    Order{"cq_tail", "cq", "4294967168", "application_harvests: read, kernel_posts_cqes: previous write"},
    Order{"cq_head", "cq", "4294967232", "kernel_reuses_slots: write, application_harvests: previous read"},
    Order{"buffer_tail", "buffers", "65408",
          "kernel_selects_buffers: read, application_provides: previous write"},
    Order{"wakeup_fence", "wakeup", "", ""}};

constexpr const char* no_thread_sanitizer =
    "ThreadSanitizer cannot start here: try sysctl vm.mmap_rnd_bits=28";

const Order* order_of(const std::string& mutant) {
  const auto* const found = std::find_if(watched.begin(), watched.end(), [&](const Order& order) {
    return mutant.starts_with(std::string(order.name) + "_");
  });
  return found != watched.end() ? found : nullptr;
}

const Order& order_named(std::string_view name) {
  return *std::find_if(watched.begin(), watched.end(),
                       [&](const Order& order) { return order.name == name; });
}

std::vector<std::string> mutants_of(std::string_view order) {
  std::vector<std::string> names = mutants();
  std::erase_if(names, [&](const std::string& name) {
    return order_of(name) == nullptr || order_of(name)->name != order;
  });
  return names;
}

/// True if ThreadSanitizer reports the mutant from both start indices, and reports what it should.
bool thread_sanitizer_catches(const std::string& mutant) {
  const Order& order = *order_of(mutant);
  bool caught = true;
  for (const std::string& start : {std::string("0"), std::string(order.start)}) {
    const tests::ShellResult result = barriers::run_harness(mutant, start);
    caught &= result.status == 66 && barriers::race_in(result.output) == order.race;
    INFO(mutant, " from index ", start, ":\n", result.output);
    CHECK(result.status == 66);
    CHECK(result.output.find("WARNING: ThreadSanitizer: data race") != std::string::npos);
    CHECK(barriers::race_in(result.output) == order.race);
  }
  return caught;
}

/// True if Relacy finds an execution that the mutant loses.
bool relacy_catches(const std::string& mutant) {
  const tests::ShellResult result = barriers::run_model(std::string(order_of(mutant)->model), mutant);
  INFO(result.output);
  CHECK(result.status == 1);
  CHECK(result.output.find(" goes wrong: ") != std::string::npos);
  return result.status == 1;
}

void expect_silence(std::string_view order) {
  for (const std::string& start : {std::string("0"), std::string(order_named(order).start)}) {
    const tests::ShellResult result = barriers::run_harness(std::string(order) + "_correct", start);
    INFO("from index ", start, ":\n", result.output);
    CHECK(result.status == 0);
    CHECK(result.output.find("\n0 entries were not what they should be") != std::string::npos);
  }
}

void expect_race(std::string_view order) {
  REQUIRE(!mutants_of(order).empty());
  for (const std::string& mutant : mutants_of(order)) thread_sanitizer_catches(mutant);
}

/// Runs the model with the correct table, which no execution may lose.
void expect_all_right(const std::string& model) {
  const tests::ShellResult result = barriers::run_model(model, "correct");
  INFO(result.output);
  CHECK(result.status == 0);
  std::printf("%s", result.output.substr(result.output.rfind('\n', result.output.size() - 2) + 1).c_str());
}

void expect_loss(std::string_view order) {
  REQUIRE(!mutants_of(order).empty());
  for (const std::string& mutant : mutants_of(order)) relacy_catches(mutant);
}

}  // namespace

// ---- Nothing is forgotten ---------------------------------------------------------------------------------

TEST_CASE("every mutant of uring/indices.hpp is watched by the proofs") {
  for (const std::string& mutant : mutants()) {
    CAPTURE(mutant);
    REQUIRE_MESSAGE(order_of(mutant) != nullptr,
                    "add the order to `watched`, with a harness or a model that sees it");
    if (!order_of(mutant)->start.empty()) CHECK(std::filesystem::exists(barriers::built("tsan_" + mutant)));
    const tests::ShellResult model = barriers::run_model(std::string(order_of(mutant)->model), mutant);
    CHECK_MESSAGE(model.status != 2, "add it to `tables` in relacy_models.cpp");
  }
}

TEST_CASE("every entry of the table of orders is used by one function and weakened by a mutant") {
  const std::vector<std::string> entries = barriers::words_after("  std::memory_order ");
  CHECK(entries.size() == watched.size());
  for (const std::string& entry : entries) {
    CAPTURE(entry);
    const auto uses = barriers::uses_of_orders(barriers::indices_header);
    CHECK(std::count_if(uses.begin(), uses.end(), [&](const auto& use) { return use.second == entry; }) == 1);
    CHECK(std::any_of(watched.begin(), watched.end(), [&](const Order& order) {
      return entry.starts_with(order.name) && !mutants_of(order.name).empty();
    }));
  }
}

TEST_CASE("the models use each order in the same function as uring/indices.hpp does") {
  const auto in_header = barriers::uses_of_orders(barriers::indices_header);
  CHECK(in_header.size() == watched.size());
  CHECK(barriers::uses_of_orders(barriers::models_source) == in_header);
}

// ---- ThreadSanitizer --------------------------------------------------------------------------------------

TEST_CASE("SQ tail, released: ThreadSanitizer is silent") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_silence("sq_tail");
}
TEST_CASE("SQ tail, relaxed: the kernel reads an SQE that is still being written") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_race("sq_tail");
}

TEST_CASE("SQ head, acquired: ThreadSanitizer is silent") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_silence("sq_head");
}
TEST_CASE("SQ head, relaxed: an SQE is overwritten while the kernel still reads it") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_race("sq_head");
}

TEST_CASE("CQ tail, acquired: ThreadSanitizer is silent") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_silence("cq_tail");
}
TEST_CASE("CQ tail, relaxed: a CQE is read that the kernel is still writing") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_race("cq_tail");
}

TEST_CASE("CQ head, released: ThreadSanitizer is silent") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_silence("cq_head");
}
TEST_CASE("CQ head, relaxed: the kernel overwrites a CQE that is still being read") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_race("cq_head");
}

TEST_CASE("buffer tail, released: ThreadSanitizer is silent") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_silence("buffer_tail");
}
TEST_CASE("buffer tail, relaxed: the kernel takes a buffer whose address is still being written") {
  SKIP_UNLESS(barriers::thread_sanitizer_runs(), no_thread_sanitizer);
  expect_race("buffer_tail");
}

// ---- Relacy -----------------------------------------------------------------------------------------------

TEST_CASE("no execution of the SQ loses an SQE or reads half of one") { expect_all_right("sq"); }
TEST_CASE("no execution of the CQ loses a CQE or reads half of one") { expect_all_right("cq"); }
TEST_CASE("no execution of the buffer ring hands out half an entry") { expect_all_right("buffers"); }
TEST_CASE("no execution leaves the SQPOLL thread asleep on an SQE") { expect_all_right("wakeup"); }
TEST_CASE("nor does one with a second SQE while the thread wakes up, up to five preemptions") {
  expect_all_right("wakeup_twice");
}

TEST_CASE("Relacy finds the execution that loses with a relaxed SQ tail") { expect_loss("sq_tail"); }
TEST_CASE("Relacy finds the execution that loses with a relaxed SQ head") { expect_loss("sq_head"); }
TEST_CASE("Relacy finds the execution that loses with a relaxed CQ tail") { expect_loss("cq_tail"); }
TEST_CASE("Relacy finds the execution that loses with a relaxed CQ head") { expect_loss("cq_head"); }
TEST_CASE("Relacy finds the execution that loses with a relaxed buffer tail") { expect_loss("buffer_tail"); }
TEST_CASE("without a full fence, or with an acquire instead, a wake-up is lost") {
  expect_loss("wakeup_fence");
}

TEST_CASE("a full fence on one side is none: without the kernel's, ours does not help") {
  const tests::ShellResult result = barriers::run_model("wakeup_without_kernel_fence", "correct");
  INFO(result.output);
  CHECK(result.status == 1);
  CHECK(result.output.find(" goes wrong: DEADLOCK") != std::string::npos);
}

TEST_CASE("a model complains of the orders that it is about, and of no other") {
  for (const std::string model : {"sq", "cq", "buffers", "wakeup"}) {
    for (const std::string& mutant : mutants()) {
      CAPTURE(model);
      CAPTURE(mutant);
      REQUIRE(order_of(mutant) != nullptr);
      CHECK(barriers::run_model(model, mutant).status == (order_of(mutant)->model == model ? 1 : 0));
    }
  }
}

// ---- By hand -------------------------------------------------------------------------------------------------

TEST_CASE("make mutant shows what each proof says of one mutant") {
  std::string all;
  for (const std::string& mutant : mutants()) all += " " + mutant;
  const std::string command = "cd " SOURCE_DIR " && tests/barriers/mutant.sh " + barriers::built("") + " ";
  const tests::ShellResult result = tests::shell(command + "wakeup_fence_acquire" + all);
  INFO(result.output);
  CHECK(result.status == 0);
  CHECK(result.output.find("\n    application  needs_wakeup         acquire fence\n") != std::string::npos);
  CHECK(result.output.ends_with("mutant wakeup_fence_acquire: caught by Relacy's model wakeup\n"));
  CHECK(tests::shell(command + "no_such_mutant" + all).status == 2);
}

// ---- The sum. Last in this file, and this file is last in its suite ---------------------------------------

TEST_CASE("all mutants are caught, each by every proof that watches it") {
  const std::vector<std::string> names = mutants();
  REQUIRE(!names.empty());
  std::size_t caught = 0;
  for (const std::string& mutant : names) {
    if (order_of(mutant) == nullptr) continue;
    bool by_all = relacy_catches(mutant);
    if (!order_of(mutant)->start.empty() && barriers::thread_sanitizer_runs())
      by_all &= thread_sanitizer_catches(mutant);
    if (by_all) ++caught;
  }
  std::printf("barrier mutants: %zu of %zu caught\n", caught, names.size());
  std::fflush(stdout);
  CHECK(caught == names.size());
}

// Running the proofs that tests/barriers/rules.mk built, and reading what they and uring/indices.hpp say.
#pragma once

#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/shell.hpp"

namespace barriers {

inline const std::string indices_header = SOURCE_DIR "/uring/indices.hpp";
inline const std::string models_source = SOURCE_DIR "/tests/barriers/relacy_models.cpp";

/// The path of a proof; it may not exist.
inline std::string built(const std::string& name) { return BUILD_DIR "/../barriers/" + name; }

// ---- Reading ----------------------------------------------------------------------------------------------

inline std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

inline bool is_word(char c) { return c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0; }

/// The word that begins at `from`.
inline std::string word_at(std::string_view text, std::size_t from) {
  std::size_t end = from;
  while (end < text.size() && is_word(text[end])) ++end;
  return std::string(text.substr(from, end - from));
}

/// The word that ends before the first `end`, as `f` in "int f(int)"; empty if there is none.
inline std::string word_before(std::string_view text, char end) {
  const std::size_t to = text.find(end);
  if (to == text.npos) return {};
  std::size_t from = to;
  while (from > 0 && is_word(text[from - 1])) --from;
  return std::string(text.substr(from, to - from));
}

/// The words that follow `prefix` at the beginning of a line of the header.
inline std::vector<std::string> words_after(std::string_view prefix) {
  std::vector<std::string> words;
  for (const std::string& line : lines_of(indices_header)) {
    if (line.starts_with(prefix)) words.push_back(word_at(line, prefix.size()));
  }
  return words;
}

/// The names in namespace uring::mutants, but for `correct`.
inline std::vector<std::string> mutants() {
  std::vector<std::string> names = words_after("inline constexpr Orders ");
  std::erase_if(names, [](const std::string& name) { return name == "correct" || name == "orders"; });
  return names;
}

/// The functions of uring/indices.hpp.
inline std::set<std::string> functions_of_header() {
  std::set<std::string> names;
  for (const std::string& line : lines_of(indices_header)) {
    if (line.starts_with("inline ") && !line.starts_with("inline constexpr "))
      names.insert(word_before(line, '('));
  }
  return names;
}

/// Which function uses which entry of the table of orders: pairs of names.
inline std::set<std::pair<std::string, std::string>> uses_of_orders(const std::string& source) {
  std::set<std::pair<std::string, std::string>> uses;
  std::string function;
  for (const std::string& line : lines_of(source)) {
    if (!line.empty() && is_word(line[0]) && line.find('(') != line.npos) function = word_before(line, '(');
    const std::string_view use = "orders.";
    for (std::size_t at = line.find(use); at != line.npos; at = line.find(use, at + 1)) {
      uses.emplace(function, word_at(line, at + use.size()));
    }
  }
  return uses;
}

/// What a report of ThreadSanitizer is about: both accesses, each with the function of the harness that made
/// it. For example "kernel_reads_sqes: read, application_submits: previous write".
inline std::string race_in(const std::string& report) {
  std::string race;
  std::string access;
  std::istringstream text(report);
  for (std::string line; std::getline(text, line);) {
    for (const std::string_view kind : {"Read", "Write", "Previous read", "Previous write"}) {
      if (line.starts_with("  " + std::string(kind) + " of size")) access = kind;
    }
    if (access.empty() || !line.starts_with("    #")) continue;
    for (const std::string_view side : {"kernel_", "application_"}) {
      const std::size_t at = line.find(side);
      if (at == line.npos || access.empty()) continue;
      access[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(access[0])));
      race += (race.empty() ? "" : ", ") + word_at(line, at) + ": " + access;
      access.clear();
    }
  }
  return race;
}

// ---- Running ----------------------------------------------------------------------------------------------

/// Runs a harness from index `start`, up to its first race; TSan's exit status is then 66. Without address
/// space randomization where that is allowed, see tests/support/run_suites.sh.
inline tests::ShellResult run_harness(const std::string& name, const std::string& start) {
  static const bool fixed_addresses = tests::shell("setarch -R true").status == 0;
  return tests::shell("TSAN_OPTIONS=halt_on_error=1:exitcode=66 timeout 120 " +
                      std::string(fixed_addresses ? "setarch -R " : "") + built("tsan_" + name) + " " +
                      start);
}

/// False where ThreadSanitizer cannot even start: its shadow memory lies where something else is.
inline bool thread_sanitizer_runs() {
  static const bool runs =
      run_harness("sq_tail_correct", "0").output.find("FATAL: ThreadSanitizer") == std::string::npos;
  return runs;
}

/// Runs a model. Exit status 0: all executions are right; 1: one is not.
inline tests::ShellResult run_model(const std::string& model, const std::string& mutant) {
  return tests::shell("timeout 120 " + built("relacy_models") + " " + model + " " + mutant);
}

}  // namespace barriers

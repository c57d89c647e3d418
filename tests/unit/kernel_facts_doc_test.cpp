// docs/kernel-facts.md promises a test for each row of its tables, and a row for each FACT. Prose cannot be compiled, but
// this can be compared.

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

namespace {

using Counts = std::map<std::string, int>;

/// The last cell of each row, and how often it is there.
Counts titles_in_the_book() {
  Counts titles;
  std::ifstream book(SOURCE_DIR "/docs/kernel-facts.md");
  for (std::string line; std::getline(book, line);) {
    if (line.rfind("| ", 0) != 0 || line.size() < 4) continue;
    const std::size_t last_cell = line.rfind("| ", line.size() - 3);
    const std::string title = line.substr(last_cell + 2, line.size() - 2 - (last_cell + 2));
    if (title != "Test") ++titles[title];
  }
  return titles;
}

/// The title of each FACT below tests/kernel. It is one string, on the line of the FACT or on the next.
Counts titles_in_the_tests() {
  Counts titles;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SOURCE_DIR "/tests/kernel")) {
    if (entry.path().extension() != ".cpp") continue;
    std::stringstream source;
    source << std::ifstream(entry.path()).rdbuf();
    const std::string text = source.str();
    const std::string begin = "\nFACT(";
    for (std::size_t at = 0; (at = text.find(begin, at)) != text.npos; at += begin.size()) {
      const std::size_t quote = text.find('"', at);
      ++titles[text.substr(quote + 1, text.find('"', quote + 1) - quote - 1)];
    }
  }
  return titles;
}

TEST_CASE("each row of docs/kernel-facts.md has its FACT, and each FACT has its row, once") {
  const Counts book = titles_in_the_book();
  const Counts tests = titles_in_the_tests();
  CHECK(book.size() >= 100);
  // No structured bindings: clang 14 cannot capture them, as CAPTURE does.
  for (const auto& row : book) {
    CAPTURE(row.first);
    CHECK(row.second == 1);
    CHECK(tests.count(row.first) == 1);
  }
  for (const auto& fact : tests) {
    CAPTURE(fact.first);
    CHECK(fact.second == 1);
    CHECK(book.count(fact.first) == 1);
  }
}

}  // namespace

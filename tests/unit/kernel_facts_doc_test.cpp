// docs/kernel-facts.md promises a test for each of its lines, and a line for each of the fact tests. Prose
// cannot be compiled, but this can be compared.

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

namespace {

std::set<std::string> titles_in_the_book() {
  std::set<std::string> titles;
  std::ifstream book(SOURCE_DIR "/docs/kernel-facts.md");
  for (std::string line; std::getline(book, line);) {
    if (line.rfind("| ", 0) != 0 || line.size() < 4) continue;
    const std::size_t last_cell = line.rfind("| ", line.size() - 3);
    const std::string title = line.substr(last_cell + 2, line.size() - 2 - (last_cell + 2));
    if (title != "Test") titles.insert(title);
  }
  return titles;
}

/// The titles in one folder, of the files whose name begins with `prefix`. A title stands on the line of its
/// TEST_CASE.
std::set<std::string> titles_in_the_tests(const std::string& prefix) {
  std::set<std::string> titles;
  for (const auto& entry : std::filesystem::directory_iterator(SOURCE_DIR "/tests/kernel")) {
    if (entry.path().filename().string().rfind(prefix, 0) != 0) continue;
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      for (const std::string begin : {"TEST_CASE(\"", "FACT(\""}) {
        if (line.rfind(begin, 0) != 0) continue;
        titles.insert(line.substr(begin.size(), line.rfind('"') - begin.size()));
      }
    }
  }
  return titles;
}

TEST_CASE("each line of docs/kernel-facts.md has its test, and each kernel fact test has its line") {
  const std::set<std::string> book = titles_in_the_book();
  const std::set<std::string> tests = titles_in_the_tests("");
  CHECK(book.size() >= 50);
  for (const std::string& title : book) {
    CAPTURE(title);
    CHECK(tests.count(title) == 1);
  }
  for (const std::string& title : titles_in_the_tests("kernel_facts_")) {
    CAPTURE(title);
    CHECK(book.count(title) == 1);
  }
}

}  // namespace

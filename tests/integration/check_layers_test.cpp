// `make check-layers` must be able to fail: one violation of each kind, planted into a small tree that is otherwise
// clean, is found and its file and line are named.

#include <doctest/doctest.h>

#include <string>

#include "tests/support/shell.hpp"

namespace {

// A tree with one lawful file per layer, which together include everything that is allowed.
struct Tree {
  tests::TemporaryFolder folder;

  Tree() {
    folder.write("uring/abi.hpp", "#include <linux/io_uring.h>\n");
    folder.write("uring/indices.hpp",
                 "#include <atomic>\n#include \"uring/abi.hpp\"\nstd::atomic<int> word;\n");
    folder.write("servers/common/wire.hpp", "#include <string>\n#include \"servers/common/options.hpp\"\n");
    folder.write("servers/common_ring/pipeline.hpp",
                 "#include \"uring/indices.hpp\"\n#include \"servers/common/wire.hpp\"\n");
    folder.write("servers/m2_x/main.cpp",
                 "#include \"uring/abi.hpp\"\n#include \"servers/common_ring/pipeline.hpp\"\n"
                 "#include \"servers/common/wire.hpp\"\n#include \"servers/m2_x/story.hpp\"\n");
    folder.write("baseline_epoll/x/main.cpp",
                 "#include <sys/epoll.h>\n#include \"servers/common/wire.hpp\"\n"
                 "#include \"baseline_epoll/x/pool.hpp\"\n#include <atomic>\nstd::atomic<int> pooled;\n");
    folder.write("bench/against.cpp", "#include <liburing.h>\n#include \"uring/abi.hpp\"\n");
    folder.write("tests/unit/x_test.cpp",
                 "#include \"servers/m2_x/story.hpp\"\n#include \"uring/abi.hpp\"\n");
  }

  [[nodiscard]] tests::ShellResult check() const {
    return tests::shell(SOURCE_DIR "/tests/support/check_layers.sh " + folder.path().string());
  }
};

// Plants `text` as a file and expects that exactly its line `line` is complained of.
void expect_refused(const std::string& file, const std::string& text, int line = 1) {
  const Tree tree;
  tree.folder.write(file, text);
  const tests::ShellResult result = tree.check();
  CAPTURE(text.substr(0, 100));
  CAPTURE(result.output);
  CHECK(result.status == 1);
  CHECK(result.output.starts_with(file + ":" + std::to_string(line) + ": "));
  CHECK(result.output.find('\n') == result.output.size() - 1);
}

void expect_accepted(const std::string& file, const std::string& text) {
  const Tree tree;
  tree.folder.write(file, text);
  const tests::ShellResult result = tree.check();
  CAPTURE(text.substr(0, 100));
  CHECK_MESSAGE(result.status == 0, result.output);
}

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "//\n";
  return text;
}

}  // namespace

TEST_CASE("the layers of this tree hold") {
  const tests::ShellResult result = tests::shell(SOURCE_DIR "/tests/support/check_layers.sh");
  CHECK_MESSAGE(result.status == 0, result.output);
}

TEST_CASE("check-layers accepts every include that points downwards") {
  const tests::ShellResult result = Tree().check();
  CHECK_MESSAGE(result.status == 0, result.output);
}

TEST_CASE("check-layers fails where there is nothing to check") {
  const tests::TemporaryFolder empty;
  CHECK(tests::shell(SOURCE_DIR "/tests/support/check_layers.sh " + empty.path().string()).status == 1);
}

TEST_CASE("uring/ includes nothing from above itself") {
  expect_refused("uring/a.hpp", "#include \"servers/common/wire.hpp\"\n");
  expect_refused("uring/a.hpp", "// idea\n\n#  include <servers/common/wire.hpp>\n", 3);
  expect_refused("uring/a.hpp", "#include \"tests/mock/kernel.hpp\"\n");
  expect_refused("uring/a.hpp", "#include \"abi.hpp\"\n");
  expect_refused("uring/a.hpp", "#include \"uring/../servers/common/wire.hpp\"\n");
  expect_refused("uring/a.hpp", "#include HEADER\n");
}

TEST_CASE("servers/common knows neither io_uring nor epoll") {
  expect_refused("servers/common/a.hpp", "#include \"uring/abi.hpp\"\n");
  expect_refused("servers/common/a.hpp", "#include \"servers/common_ring/pipeline.hpp\"\n");
  expect_refused("servers/common/a.cpp", "#include <sys/epoll.h>\n");
  expect_refused("servers/common/a.cpp", "#include <linux/io_uring.h>\n");
}

TEST_CASE("a milestone never includes another milestone's folder, nor common_ring any milestone's") {
  expect_refused("servers/m3_y/main.cpp", "#include \"servers/m2_x/story.hpp\"\n");
  expect_refused("servers/common_ring/a.hpp", "#include \"servers/m2_x/story.hpp\"\n");
  expect_refused("servers/m3_y/main.cpp", "#include \"baseline_epoll/x/pool.hpp\"\n");
}

TEST_CASE("the epoll baseline includes nothing of io_uring") {
  expect_refused("baseline_epoll/y/main.cpp", "#include \"uring/abi.hpp\"\n");
  expect_refused("baseline_epoll/y/main.cpp", "#include <uring/abi.hpp>\n");
  expect_refused("baseline_epoll/y/main.cpp", "#include \"servers/common_ring/pipeline.hpp\"\n");
  expect_refused("baseline_epoll/y/main.cpp", "#include \"servers/m2_x/story.hpp\"\n");
  expect_refused("baseline_epoll/y/main.cpp", "#include <linux/io_uring.h>\n");
}

TEST_CASE("liburing is included below bench/ only") {
  for (const char* file : {"uring/a.hpp", "servers/m2_x/a.hpp", "servers/common/a.hpp",
                           "baseline_epoll/a.hpp", "tests/unit/a_test.cpp"}) {
    expect_refused(file, "#include <liburing.h>\n");
  }
  expect_refused("uring/a.hpp", "#include <liburing/barrier.h>\n");
}

TEST_CASE("no barrier stands outside uring/indices.hpp") {
  for (const char* barrier :
       {"#include <atomic>", "std::atomic<int> word;", "auto x = std::atomic_ref(word).load();",
        "using namespace std; atomic_thread_fence(order);", "std::atomic_signal_fence(order);",
        "auto order = std::memory_order_relaxed;", "__atomic_store_n(&word, 1, 3);", "__sync_synchronize();",
        "asm volatile(\"\" ::: \"memory\");", "__asm__(\"mfence\");", "_mm_mfence();"}) {
    expect_refused("uring/a.hpp", "// idea\n" + std::string(barrier) + "\n", 2);
  }
  expect_refused("servers/m2_x/a.cpp", "int x; /* why */ std::atomic<int> word; // y\n");
  expect_refused("servers/common/a.cpp", "/* a\n   comment */ std::atomic<int> word;\n", 2);
}

TEST_CASE("comments and string literals may speak of barriers") {
  expect_accepted("uring/a.hpp",
                  "// std::atomic_ref and memory_order\n/* asm volatile\n   __atomic_x\n*/ int a;\n");
  expect_accepted("servers/m2_x/a.hpp",
                  "auto s = \"std::atomic \\\" // memory_order\"; int nonatomic_x, plasma;\n");
}

TEST_CASE("no header of uring/ has more than 400 lines") {
  expect_accepted("uring/a.hpp", lines(400));
  expect_refused("uring/a.hpp", lines(401), 401);
}

// `m1_ring_basics copy`, judged by the bytes, blocks, modes and names it leaves behind: also when it cannot
// finish.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "servers/m1_ring_basics/copy.hpp"
#include "tests/integration/m1_support.hpp"
#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

namespace {

using m1_test::Child;
using m1_test::contains;
using m1_test::run;

struct Folder : tests::TemporaryFolder {
  std::string at(const std::string& name) const { return (path() / name).string(); }
  /// "copy 'source' 'destination' options"
  std::string copy(const std::string& source, const std::string& destination,
                   const std::string& options = "") const {
    return "copy '" + at(source) + "' '" + at(destination) + "' " + options;
  }
};

/// Bytes of which no two blocks are alike, so that a block in the wrong place is seen.
std::string noise(std::size_t size) {
  std::string bytes(size, '\0');
  std::uint64_t state = 88172645463325252u;
  for (char& byte : bytes) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    byte = static_cast<char>(state);
  }
  return bytes;
}

std::string contents(const std::string& path) {
  std::string bytes(std::filesystem::file_size(path), '\0');
  std::ifstream(path, std::ios::binary).read(bytes.data(), std::ssize(bytes));
  return bytes;
}

struct ::stat status_of(const std::string& path) {
  struct ::stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status;
}

bool exists(const std::string& path) {
  return std::filesystem::exists(std::filesystem::symlink_status(path));
}

/// A file of `size` bytes that is one hole, but for `data` at each of `offsets`.
void write_sparse(const std::string& path, std::uint64_t size, const std::vector<std::uint64_t>& offsets,
                  const std::string& data) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  REQUIRE(fd >= 0);
  REQUIRE(::ftruncate(fd, static_cast<off_t>(size)) == 0);
  for (const std::uint64_t offset : offsets) {
    REQUIRE(::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset)) == std::ssize(data));
  }
  ::close(fd);
}

/// As many blocks of the disk, give or take what the file system needs to remember where they are.
bool same_blocks(const std::string& a, const std::string& b) {
  return std::abs(status_of(a).st_blocks - status_of(b).st_blocks) * 512 <= 65'536;
}

struct Extent {
  std::uint64_t begin, end;
  bool operator==(const Extent&) const = default;
};

/// Where a file has data. What lies between reads as zeros.
std::vector<Extent> extents(const std::string& path) {
  std::vector<Extent> found;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  for (off_t begin = 0, end = 0; (begin = ::lseek(fd, end, SEEK_DATA)) >= 0;) {
    end = ::lseek(fd, begin, SEEK_HOLE);
    found.push_back({static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end)});
  }
  ::close(fd);
  return found;
}

std::string bytes_of(const std::string& path, const Extent& extent) {
  std::string bytes(extent.end - extent.begin, '\0');
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(extent.begin));
  file.read(bytes.data(), std::ssize(bytes));
  return bytes;
}

/// A number of the summary: of "SQEs             4,884" for the name "SQEs", 4884.
std::uint64_t summary(const std::string& output, const std::string& name) {
  for (const std::string& line : m1_test::lines_of(output)) {
    if (!line.starts_with(name + "  ")) continue;
    std::string number = line.substr(line.find_first_not_of(' ', name.size()));
    std::erase(number, ',');
    return std::stoull(number);
  }
  FAIL("no such line: " << name);
  return 0;
}

bool direct_works_in(const Folder& folder) {
  folder.write("direct_probe", "x");
  return run(folder.copy("direct_probe", "direct_probe_copy", "--direct")).status == 0;
}

/// A kernel that is in a bad mood: it reads and writes half of what it is asked for, and of the completions
/// every third says EAGAIN or EINTR. (What the operation did is then done again, which a read or write at an
/// offset can stand.) From completion number `fatal_from` on, all operations of `fatal_kind` fail with EIO.
class MoodyKernel {
 public:
  explicit MoodyKernel(std::uint32_t unit = 1, m1::Kind fatal_kind = m1::kind_cancel, unsigned fatal_from = 0)
      : unit_(unit), fatal_kind_(fatal_kind), fatal_from_(fatal_from) {}

  uring::Kernel kernel() {
    halving_ = uring::real_kernel;
    halving_.map = [](void* self, int fd, std::size_t bytes, std::uint64_t offset, void** address) {
      const int result = uring::real_kernel.map(nullptr, fd, bytes, offset, address);
      auto& mood = *static_cast<MoodyKernel*>(self);
      if (result == 0 && offset == IORING_OFF_SQES) {
        mood.sqes_ = static_cast<io_uring_sqe*>(*address);
        mood.sqe_count_ = bytes / sizeof(io_uring_sqe);
      }
      return result;
    };
    halving_.enter = [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                        const uring::abi::getevents_arg* argument) {
      static_cast<MoodyKernel*>(self)->halve();
      return uring::real_kernel.enter(nullptr, fd, to_submit, min_complete, flags, argument);
    };
    halving_.self = this;
    observer_.emplace(spoil, this, halving_);
    return observer_->kernel();
  }

  unsigned spoiled() const { return spoiled_; }

 private:
  static bool moves_data(std::uint64_t user_data) {
    const unsigned kind = uring::Token{user_data}.kind();
    return kind == m1::kind_read || kind == m1::kind_write;
  }

  void halve() {
    for (std::size_t i = 0; i < sqe_count_; ++i) {
      const std::uint32_t half = sqes_[i].len / 2 / unit_ * unit_;
      if (moves_data(sqes_[i].user_data) && half != 0) sqes_[i].len = half;
    }
  }

  static void spoil(void* self, const uring::EnterEvent& event) {
    auto& mood = *static_cast<MoodyKernel*>(self);
    for (std::uint32_t at = event.before.cq_tail; at != event.after.cq_tail; ++at) {
      auto& cqe = const_cast<io_uring_cqe&>(event.cqes[at & event.cq_mask]);  // the test plays the kernel
      if (!moves_data(cqe.user_data)) continue;
      const unsigned number = ++mood.completions_;
      const bool fatal = uring::Token{cqe.user_data}.kind() == mood.fatal_kind_ && number >= mood.fatal_from_;
      if (!fatal && number % 3 != 0) continue;
      cqe.res = fatal ? -EIO : number % 2 == 0 ? -EAGAIN : -EINTR;
      ++mood.spoiled_;
    }
  }

  std::uint32_t unit_;
  m1::Kind fatal_kind_;
  unsigned fatal_from_;
  uring::Kernel halving_{};
  std::optional<uring::Observer> observer_{};
  io_uring_sqe* sqes_ = nullptr;
  std::size_t sqe_count_ = 0;
  unsigned completions_ = 0, spoiled_ = 0;
};

/// What the copy says when it fails; empty if it does not.
std::string failure_of(const m1::CopyOptions& options, MoodyKernel& kernel) {
  try {
    m1::copy_file(options, kernel.kernel());
    return "";
  } catch (const m1::Failure& failure) {
    return failure.what();
  }
}

}  // namespace

TEST_CASE(
    "a copy has the bytes of its source, whatever the sizes of file and block and however many are in "
    "flight") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  for (const std::size_t size : std::vector<std::size_t>{0, 1, 4095, 4096, 4097, 300'001}) {
    folder.write("source", noise(size));
    for (const char* options :
         {"", "--depth 1", "--depth 64", "--depth 3 --block 1000", "--block 4097 --depth 7",
          "--block 511 --depth 64", "--block 16777216 --depth 2"}) {
      const tests::ShellResult result = run(folder.copy("source", "copy", options));
      CAPTURE(size);
      CAPTURE(options);
      CAPTURE(result.output);
      CHECK(result.status == 0);
      CHECK(summary(result.output, "copied") == size);
      CHECK((contents(folder.at("copy")) == noise(size)));
    }
  }
}

TEST_CASE("a copy of 10 MB takes several SQEs per io_uring_enter, and its summary says so with units") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  const std::string bytes = noise(10'000'000);
  folder.write("source", bytes);
  for (const char* options : {"--depth 1 --block 65536", "--depth 64 --block 65536"}) {
    const tests::ShellResult result = run(folder.copy("source", "copy", options));
    CAPTURE(result.output);
    CHECK(result.status == 0);
    CHECK((contents(folder.at("copy")) == bytes));
    CHECK(m1_test::has_line(result.output, {"copied           10,000,000 bytes in ", " s, ", "B/s"}));
    CHECK(m1_test::has_line(result.output, {"SQEs per enter   ", "."}));
    CHECK(summary(result.output, "SQEs") >= 2 * 153);
    CHECK(summary(result.output, "holes kept") == 0);
  }
  const tests::ShellResult deep = run(folder.copy("source", "copy", "--depth 64 --block 65536"));
  CAPTURE(deep.output);
  CHECK(summary(deep.output, "SQEs") >= 2 * summary(deep.output, "io_uring_enter"));
}

TEST_CASE("holes stay holes: a sparse file of 5 GiB costs what its data costs") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  constexpr std::uint64_t gib = 1ULL << 30;
  const std::string source = folder.at("source"), copy = folder.at("copy");
  write_sparse(source, 5 * gib, {0, gib + 12'345, 4 * gib - 5'000, 5 * gib - 10'000}, noise(10'000));
  SKIP_UNLESS(status_of(source).st_blocks * 512 < 1'000'000, "this file system knows no holes");
  for (const char* options : {"", "--depth 1 --block 3000"}) {
    const tests::ShellResult result = run(folder.copy("source", "copy", options));
    CAPTURE(result.output);
    CHECK(result.status == 0);
    CHECK(status_of(copy).st_size == 5 * gib);
    CHECK(summary(result.output, "copied") < 1'000'000);
    CHECK(summary(result.output, "copied") + summary(result.output, "holes kept") == 5 * gib);
    CHECK(same_blocks(source, copy));
    const std::vector<Extent> data = extents(source);
    CHECK(data.size() == 4);
    CHECK(extents(copy) == data);
    for (const Extent& extent : data) CHECK((bytes_of(copy, extent) == bytes_of(source, extent)));
  }
}

TEST_CASE("files that are one hole, begin with one, or end with one keep their size") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  const std::string data = noise(5000);
  for (const std::vector<std::uint64_t>& offsets :
       {std::vector<std::uint64_t>{}, {0}, {1'000'000 - 5000}, {300'000, 500'000}}) {
    write_sparse(folder.at("source"), 1'000'000, offsets, data);
    CHECK(run(folder.copy("source", "copy", "--block 4096")).status == 0);
    CHECK((contents(folder.at("copy")) == contents(folder.at("source"))));
    CHECK(same_blocks(folder.at("source"), folder.at("copy")));
  }
}

TEST_CASE("--direct copies files of any size, the unaligned end included") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  SKIP_UNLESS(direct_works_in(folder), "the file system of the temporary folder refuses O_DIRECT");
  for (const std::size_t size : std::vector<std::size_t>{0, 1, 511, 4095, 4096, 4097, 1'000'001}) {
    folder.write("source", noise(size));
    for (const char* options :
         {"--direct", "--direct --depth 1 --block 1", "--direct --block 5000 --depth 64"}) {
      const tests::ShellResult result = run(folder.copy("source", "copy", options));
      CAPTURE(size);
      CAPTURE(options);
      CAPTURE(result.output);
      CHECK(result.status == 0);
      CHECK((contents(folder.at("copy")) == noise(size)));
    }
  }
  write_sparse(folder.at("source"), 1'000'003, {100'001, 600'000}, noise(3001));
  CHECK(run(folder.copy("source", "copy", "--direct")).status == 0);
  CHECK((contents(folder.at("copy")) == contents(folder.at("source"))));
}

TEST_CASE(
    "a new copy gets the mode of its source without the bits of the umask, an existing one keeps its own") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", "x");
  const auto mode_after = [&](mode_t mode, const char* umask) {
    REQUIRE(::chmod(folder.at("source").c_str(), mode) == 0);
    std::filesystem::remove(folder.at("copy"));
    CHECK(tests::shell("umask " + std::string(umask) + "; '" + m1_test::program + "' " +
                       folder.copy("source", "copy"))
              .status == 0);
    return status_of(folder.at("copy")).st_mode & 07777;
  };
  CHECK(mode_after(0666, "022") == 0644);
  CHECK(mode_after(0755, "077") == 0700);
  CHECK(mode_after(0444, "000") == 0444);
  CHECK(mode_after(04755, "000") == 0755);

  REQUIRE(::chmod(folder.at("copy").c_str(), 0640) == 0);
  CHECK(run(folder.copy("source", "copy")).status == 0);
  CHECK((status_of(folder.at("copy")).st_mode & 07777) == 0640);
}

TEST_CASE("an existing destination is replaced, not overlaid, also through a symbolic link") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", "short");
  folder.write("copy", noise(100'000));
  CHECK(run(folder.copy("source", "copy")).status == 0);
  CHECK(contents(folder.at("copy")) == "short");

  folder.write("target", noise(100'000));
  std::filesystem::create_symlink("target", folder.at("link"));
  CHECK(run(folder.copy("source", "link")).status == 0);
  CHECK(contents(folder.at("target")) == "short");
  CHECK(std::filesystem::is_symlink(folder.at("link")));
}

TEST_CASE("a file is not copied onto itself, under whatever name, and loses nothing by the attempt") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", "precious");
  std::filesystem::create_hard_link(folder.at("source"), folder.at("hard"));
  std::filesystem::create_symlink("source", folder.at("soft"));
  for (const char* other : {"source", "hard", "soft", "./source"}) {
    const tests::ShellResult result = run(folder.copy("source", other));
    CAPTURE(result.output);
    CHECK(result.status == 1);
    CHECK(contains(result.output, "are the same file"));
    CHECK(contents(folder.at("source")) == "precious");
  }
  CHECK(run(folder.copy("soft", "hard")).status == 1);
  CHECK(contents(folder.at("source")) == "precious");
}

TEST_CASE("what cannot be copied, or copied to, is named with the reason, and nothing is left behind") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", "x");
  std::filesystem::create_directory(folder.at("directory"));
  std::filesystem::create_symlink("nowhere", folder.at("dangling"));
  REQUIRE(::mkfifo(folder.at("fifo").c_str(), 0600) == 0);
  const auto refuses = [&](const std::string& source, const std::string& destination,
                           const std::string& reason) {
    const tests::ShellResult result = run("copy '" + source + "' '" + destination + "'");
    CAPTURE(result.output);
    CHECK(result.status == 1);
    CHECK(result.output.starts_with("m1_ring_basics: "));
    CHECK(contains(result.output, reason));
    CHECK(m1_test::lines_of(result.output).size() == 1);
  };
  const std::string fresh = folder.at("fresh"), source = folder.at("source");
  refuses(folder.at("missing"), fresh, "missing': No such file or directory (ENOENT)");
  refuses(folder.at("directory"), fresh, "is a directory");
  refuses(source, folder.at("directory"), "is a directory");
  refuses(folder.at("fifo"), fresh, "is not a regular file");
  refuses(source, folder.at("fifo"), "is not a regular file");
  refuses("/dev/zero", fresh, "is not a regular file");
  refuses(source, "/dev/null", "is not a regular file");
  refuses(source, folder.at("dangling"), "No such file or directory (ENOENT)");
  refuses(source, folder.at("no/such/folder"), "No such file or directory (ENOENT)");
  refuses("/proc/self/status", fresh, "says it is empty and is not");
  CHECK(!exists(fresh));
  CHECK(!exists(folder.at("nowhere")));
}

TEST_CASE("a source that may not be read is refused, as is a destination that may not be written") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(::getuid() == 0 && tests::shell("setpriv --version").status == 0,
              "needs root, to become somebody else");
  const Folder folder;
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  // The tree may lie where uid 65534 cannot go.
  std::filesystem::copy_file(m1_test::program, folder.at("program"));
  folder.write("secret", "x");
  folder.write("open", "y");
  folder.write("locked", "z");
  REQUIRE(::chmod(folder.at("secret").c_str(), 0600) == 0);
  REQUIRE(::chmod(folder.at("locked").c_str(), 0444) == 0);
  const std::string as_nobody =
      "setpriv --reuid=65534 --regid=65534 --clear-groups '" + folder.at("program") + "' ";
  const tests::ShellResult unreadable = tests::shell(as_nobody + folder.copy("secret", "fresh"));
  CHECK(unreadable.status == 1);
  CHECK(contains(unreadable.output, "secret': Permission denied (EACCES)"));
  CHECK(!exists(folder.at("fresh")));
  const tests::ShellResult unwritable = tests::shell(as_nobody + folder.copy("open", "locked"));
  CHECK(unwritable.status == 1);
  CHECK(contains(unwritable.output, "locked': Permission denied (EACCES)"));
  CHECK(contents(folder.at("locked")) == "z");
  const tests::ShellResult allowed = tests::shell(as_nobody + folder.copy("open", "fresh"));
  CHECK_MESSAGE(allowed.status == 0, allowed.output);
}

TEST_CASE("a full disk is said to be full, and the partial copy goes") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("unshare -m true").status == 0, "needs a mount namespace of its own");
  const Folder folder;
  folder.write("source", noise(3'000'000));
  std::filesystem::create_directory(folder.at("tiny"));
  const tests::ShellResult result =
      tests::shell("unshare -m sh -c \"mount -t tmpfs -o size=1m none '" + folder.at("tiny") + "' && '" +
                   m1_test::program + "' " + folder.copy("source", "tiny/copy") + "; echo status \\$?; ls '" +
                   folder.at("tiny") + "'\"");
  CAPTURE(result.output);
  CHECK(contains(result.output, "No space left on device (ENOSPC); '" + folder.at("tiny/copy") +
                                    "' was removed\nstatus 1\n"));
  CHECK(result.output.ends_with("status 1\n"));
}

TEST_CASE("a limit on file sizes is an error like any other; a destination that existed goes as well") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", noise(3'000'000));
  folder.write("old", "old");
  folder.write("target", "old");
  std::filesystem::create_symlink("target", folder.at("link"));
  for (const char* destination : {"fresh", "old", "link"}) {
    const tests::ShellResult result =
        tests::shell("ulimit -f 1000; '" + m1_test::program + "' " + folder.copy("source", destination));
    CAPTURE(result.output);
    CHECK(result.status == 1);
    CHECK(contains(result.output, "File too large (EFBIG)"));
    CHECK(contains(result.output, "was removed"));
  }
  CHECK(!exists(folder.at("fresh")));
  CHECK(!exists(folder.at("old")));
  CHECK(!exists(folder.at("target")));  // what the link led to, not the link
  CHECK(std::filesystem::is_symlink(folder.at("link")));
}

TEST_CASE(
    "short reads and writes are continued where they ended, and EAGAIN and EINTR in res are tried again") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  const std::string bytes = noise(1'234'567);
  folder.write("source", bytes);
  for (const unsigned depth : {1U, 5U, 64U}) {
    MoodyKernel kernel;
    CHECK(failure_of({.source = folder.at("source"),
                      .destination = folder.at("copy"),
                      .depth = depth,
                      .block = 10'000},
                     kernel) == "");
    CHECK(kernel.spoiled() > 100);
    CHECK((contents(folder.at("copy")) == bytes));
  }
  SKIP_UNLESS(direct_works_in(folder), "the file system of the temporary folder refuses O_DIRECT");
  MoodyKernel kernel(4096);
  CHECK(failure_of({.source = folder.at("source"),
                    .destination = folder.at("copy"),
                    .depth = 5,
                    .block = 50'000,
                    .direct = true},
                   kernel) == "");
  CHECK((contents(folder.at("copy")) == bytes));
}

TEST_CASE("an error in the middle ends the copy, names file and place, and waits for what is in flight") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", noise(1'000'000));
  for (const m1::Kind kind : {m1::kind_read, m1::kind_write}) {
    MoodyKernel kernel(1, kind, 50);
    const std::string failure = failure_of(
        {.source = folder.at("source"), .destination = folder.at("copy"), .depth = 16, .block = 10'000},
        kernel);
    CAPTURE(failure);
    CHECK(failure.starts_with(kind == m1::kind_read ? "cannot read '" + folder.at("source") + "' at byte "
                                                    : "cannot write '" + folder.at("copy") + "' at byte "));
    CHECK(failure.ends_with(": Input/output error (EIO); '" + folder.at("copy") + "' was removed"));
    CHECK(!exists(folder.at("copy")));
  }
}

TEST_CASE("a file system without O_DIRECT is named, and an existing destination is still what it was") {
  SKIP_WITHOUT_IO_URING();
  const std::string of_sysfs = "/sys/kernel/mm/transparent_hugepage/enabled";
  SKIP_UNLESS(exists(of_sysfs), "sysfs is not there");
  const Folder folder;
  folder.write("old", "old");
  for (const char* destination : {"fresh", "old"}) {
    const tests::ShellResult result = run("copy " + of_sysfs + " '" + folder.at(destination) + "' --direct");
    CAPTURE(result.output);
    CHECK(result.status == 1);
    CHECK(contains(result.output,
                   "the file system of '" + of_sysfs + "' refuses O_DIRECT: copy without --direct"));
  }
  CHECK(!exists(folder.at("fresh")));
  CHECK(contents(folder.at("old")) == "old");
}

TEST_CASE("a source that ends before its size is said to have shrunk") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  // Files of sysfs claim to have one page.
  const std::string of_sysfs = "/sys/kernel/mm/transparent_hugepage/enabled";
  SKIP_UNLESS(exists(of_sysfs) && status_of(of_sysfs).st_size == 4096, "sysfs is not there");
  const tests::ShellResult result = run("copy " + of_sysfs + " '" + folder.at("fresh") + "'");
  CAPTURE(result.output);
  CHECK(result.status == 1);
  CHECK(contains(result.output, "shrank while it was copied: it had 4,096 bytes, and ended after "));
  CHECK(!exists(folder.at("fresh")));
}

TEST_CASE("truncating the source during the copy makes it fail; appending does not") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  const auto begin_slow_copy = [&](std::size_t size) {
    folder.write("source", noise(size));
    auto child = std::make_unique<Child>(std::vector<std::string>{
        "copy", folder.at("source"), folder.at("copy"), "--depth", "1", "--block", "1"});
    CHECK(m1_test::eventually(
        [&] { return exists(folder.at("copy")) && status_of(folder.at("copy")).st_size > 0; }));
    return child;
  };
  const auto cut = begin_slow_copy(8'000'000);
  REQUIRE(::truncate(folder.at("source").c_str(), 1) == 0);
  CHECK(cut->wait() == 1);
  CHECK_MESSAGE(contains(cut->output, "shrank while it was copied"), cut->output);
  CHECK(!exists(folder.at("copy")));

  const auto grown = begin_slow_copy(100'000);
  std::ofstream(folder.at("source"), std::ios::app) << "more";
  CHECK_MESSAGE(grown->wait() == 0, grown->output);
  CHECK((contents(folder.at("copy")) == noise(100'000)));
}

TEST_CASE("SIGINT, SIGTERM or SIGHUP in the middle of a copy leaves no partial file") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", noise(8'000'000));
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    Child copy({"copy", folder.at("source"), folder.at("copy"), "--depth", "4", "--block", "1"});
    REQUIRE(m1_test::eventually(
        [&] { return exists(folder.at("copy")) && status_of(folder.at("copy")).st_size > 0; }));
    copy.kill(signal);
    CHECK(copy.wait() == 1);
    CAPTURE(copy.output);
    CHECK(copy.output == "m1_ring_basics: interrupted by SIG" + std::string(sigabbrev_np(signal)) + "; '" +
                             folder.at("copy") + "' was removed\n");
    CHECK(!exists(folder.at("copy")));
  }
}

TEST_CASE("a signal that nohup has ignored does not stop the copy") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  folder.write("source", noise(100'000));
  Child copy({"copy", folder.at("source"), folder.at("copy"), "--block", "1"},
             [] { ::signal(SIGHUP, SIG_IGN); });
  REQUIRE(m1_test::eventually(
      [&] { return exists(folder.at("copy")) && status_of(folder.at("copy")).st_size > 0; }));
  copy.kill(SIGHUP);
  CHECK_MESSAGE(copy.wait() == 0, copy.output);
  CHECK((contents(folder.at("copy")) == noise(100'000)));
}

TEST_CASE("the progress bar is for terminals") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("script -qec true /dev/null").status == 0, "script(1) is missing");
  const Folder folder;
  folder.write("source", noise(1'000'000));
  const std::string on_terminal = tests::shell("script -qec \"'" + m1_test::program + "' " +
                                               folder.copy("source", "copy") + "\" /dev/null </dev/null")
                                      .output;
  CHECK(contains(on_terminal, "\r░"));
  CHECK(contains(on_terminal, "%"));
  CHECK(contains(on_terminal, "copied "));
  CHECK(!contains(run(folder.copy("source", "copy")).output, "%"));
}

// m4_ordered_log when the disk is full or will not be repaired, and when DRAIN has stopped its ring; and its drills.

#include <doctest/doctest.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <future>
#include <thread>

#include "tests/integration/ordered_log_support.hpp"

using namespace ordered_log_test;
using namespace std::chrono_literals;

namespace {

/// A tmpfs of `size` that only this thread, and what it starts, can see. False: it may not.
bool mount_small_disk(const std::string& where, const char* size) {
  return ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", where.c_str(), "tmpfs", 0, (std::string("size=") + size).c_str()) == 0;
}

/// What happened on a full disk; `may` is false where a small disk cannot be had.
struct FullDisk {
  bool may = false;
  std::uint64_t taken = 0;
  std::uint64_t refused = 0;
  bool all_there = false;
  std::string afterwards{};
  int status = -1;
};

FullDisk fill_disk(const Folder& folder, const char* way) {
  FullDisk disk;
  if (!mount_small_disk(folder.name(), "1m")) return disk;
  disk.may = true;
  tests::shell("head -c 500000 /dev/zero > " + folder.name() + "/other");
  Server server(folder.log(), way);
  tests::Client client(server.where());
  std::string all;
  for (std::uint64_t number = 0; number < 100; ++number) all += put(content(number, 9980));
  std::thread sender([&] { client.send_all(all); });
  Records acknowledged;
  for (std::uint64_t number = 0; number < 100; ++number) {
    const std::string answer = client.receive_line();
    const std::int64_t offset = offset_in(answer);
    if (offset >= 0) acknowledged[static_cast<std::uint64_t>(offset)] = content(number, 9980);
    if (answer.starts_with("ERR 507 ")) ++disk.refused;
  }
  sender.join();
  disk.taken = acknowledged.size();
  disk.all_there = records_in(folder.log()) == acknowledged;
  std::filesystem::remove(folder.path() / "other");
  disk.afterwards = ask(client, content(1, 9980));
  disk.status = server.stop().status;
  ::umount2(folder.name().c_str(), MNT_DETACH);
  return disk;
}

/// chattr +a or -a: what is written stays, and a file cannot be made shorter.
bool set_append_only(const std::string& path, bool on) {
  const common::Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  int flags = 0;
  if (::ioctl(file.get(), FS_IOC_GETFLAGS, &flags) != 0) return false;
  flags = on ? flags | FS_APPEND_FL : flags & ~FS_APPEND_FL;
  return ::ioctl(file.get(), FS_IOC_SETFLAGS, &flags) == 0;
}

}  // namespace

TEST_CASE("a full disk: ERR 507, nothing acknowledged is lost, and it goes on when something was deleted") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    const Folder folder;
    // On a thread of its own: the namespace is the thread's, and goes with it.
    const FullDisk disk = std::async(std::launch::async, [&] { return fill_disk(folder, way); }).get();
    SKIP_UNLESS(disk.may, "needs the right to mount a tmpfs in a namespace of its own");
    CHECK(disk.taken > 10);
    CHECK(disk.refused > 10);
    CHECK(disk.taken + disk.refused == 100);
    CHECK(disk.all_there);
    CHECK(offset_in(disk.afterwards) == static_cast<std::int64_t>(disk.taken * 10'000));
    CHECK(disk.status == 0);
  }
}

TEST_CASE(
    "a log that cannot be repaired is unusable: ERR 503 from then on, said once, and it still ends well") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log());
  tests::Client client(server.where());
  const std::string whole(3980, 'w');  // the limit is for the server's stderr, too, which is a file here
  CHECK(ask(client, whole) == "OK 0\n");
  SKIP_UNLESS(set_append_only(folder.log(), true),
              "needs a file system with chattr +a, and the right to use it");
  server.limit_file_size(4010);
  CHECK(ask(client, "does not fit into the file").starts_with("ERR 503 the log is unusable: "));
  server.limit_file_size(RLIM_INFINITY);
  CHECK(ask(client, "would fit").starts_with("ERR 503 "));
  tests::Client other(server.where());
  CHECK(ask(other, "of somebody else").starts_with("ERR 503 "));
  CHECK(set_append_only(folder.log(), false));
  const tests::Ended ended = server.check_clean_end();
  const std::size_t said = ended.errors.find("the log is unusable");
  CHECK(said != std::string::npos);
  CHECK(ended.errors.find("the log is unusable", said + 1) == std::string::npos);
  // The next start cuts off what is left of it.
  Server again(folder.log());
  CHECK(contains(again.errors(), "holds 1 records, 4000 bytes"));
  again.check_clean_end();
}

// ---- DRAIN on the serving ring -------------------------------------------------------------------------------

TEST_CASE(
    "DRAIN on the serving ring: one PUT stops everything behind it, SIGTERM gets through and ends it "
    "cleanly") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("uname -r").output >= "6.", "SYNC_CANCEL needs Linux 6.0");
  const Folder folder;
  Server server(folder.log(), "--order drain --log-ring serving");
  CHECK(contains(server.errors(), "the first PUT stops this server"));
  tests::Client idle(server.where());
  tests::Client busy(server.where());
  CHECK(busy.send_all(put("record")));
  CHECK(!busy.has_something(300ms));
  // It is not about this client, nor about the disk.
  tests::Client late(server.where());
  CHECK(late.send_all("nonsense\n"));
  CHECK(!late.has_something(300ms));
  server.signal(SIGTERM);
  CHECK(busy.receive_to_end() == "OK 0\n");
  CHECK(idle.receive_to_end().empty());
  busy.close();
  idle.close();
  late.close();
  server.check_clean_end();
  CHECK(records_in(folder.log()) == Records{{0, "record"}});
}

TEST_CASE("behind a DRAIN that waits a second signal is heard, too") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("uname -r").output >= "6.", "SYNC_CANCEL needs Linux 6.0");
  const Folder folder;
  Server server(folder.log(), "--order drain --log-ring serving");
  tests::Client busy(server.where());
  CHECK(busy.send_all(put("record")));
  CHECK(!busy.has_something(100ms));
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] { return contains(server.errors(), "connections: 1"); }));
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] {
    const std::string said = server.errors();
    return said.find("connections: 1") != said.rfind("connections: 1");
  }));
  busy.close();
  server.check_clean_end();
}

TEST_CASE("a client who resets while a DRAIN waits does not keep the server from ending") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("uname -r").output >= "6.", "SYNC_CANCEL needs Linux 6.0");
  const Folder folder;
  Server server(folder.log(), "--order drain --log-ring serving");
  tests::Client busy(server.where());
  CHECK(busy.send_all(put("record") + "PUT 100\nhalf"));
  CHECK(!busy.has_something(100ms));
  busy.reset();
  server.check_clean_end();
}

// ---- Drills --------------------------------------------------------------------------------------------------

TEST_CASE("the drills show what they say") {
  SKIP_WITHOUT_IO_URING();
  SKIP_UNLESS(tests::shell("uname -r").output >= "6.", "SYNC_CANCEL needs Linux 6.0");
  const tests::ShellResult stall = tests::shell(program + " --drill stall");
  CAPTURE(stall.output);
  CHECK(stall.status == 0);
  CHECK(contains(stall.output, "-ECANCELED"));
  const tests::ShellResult writes = tests::shell(program + " --drill two-writes");
  CAPTURE(writes.output);
  CHECK(writes.status == 0);
  CHECK(contains(writes.output, "with DRAIN on B   B, the second, is what stays in 100 of 100 rounds"));
}

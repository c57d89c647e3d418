// m4_ordered_log as its clients and its operator see it. What an acknowledgement means when the power goes is a matter of
// tests/unit/ordered_log_power_test.cpp; here processes die, disks fill up, and clients do what clients do.

#include <doctest/doctest.h>

#include <thread>

#include "tests/integration/ordered_log_support.hpp"

using namespace ordered_log_test;
using namespace std::chrono_literals;

// ---- What is answered ----------------------------------------------------------------------------------------

TEST_CASE("a record is answered with its offset, is in the file, and a new start goes on behind it") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Records written;
  for (const char* way : all_ways) {
    CAPTURE(way);
    Server server(folder.log(), way);
    CHECK(contains(server.errors(), " holds " + std::to_string(written.size()) + " records"));
    tests::Client client(server.where());
    for (const std::size_t length : {5u, 0u, 20'000u, 1u}) {
      const std::string bytes = content(written.size(), length);
      const std::int64_t offset = offset_in(ask(client, bytes));
      CHECK(offset >= 0);
      written[static_cast<std::uint64_t>(offset)] = bytes;
    }
    CHECK(records_in(folder.log()) == written);
    const tests::Ended ended = server.check_clean_end();
    CHECK(ended.counters.requests == 4);
    CHECK(contains(ended.errors, "4 records acknowledged"));
  }
  CHECK(written.size() == 4 * std::size(all_ways));
}

TEST_CASE("many records at once are answered in the order of the requests, which is the order of the log") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    const Folder folder;
    Server server(folder.log(), way);
    tests::Client client(server.where());
    constexpr std::uint64_t count = 1000;
    std::thread sender([&] {
      std::string all;
      for (std::uint64_t number = 0; number < count; ++number) all += put(content(number, number * 7 % 1500));
      client.send_all(all);
    });
    Records expected;
    std::uint64_t end = 0;
    for (std::uint64_t number = 0; number < count; ++number) {
      CHECK(client.receive_line() == "OK " + std::to_string(end) + "\n");
      expected[end] = content(number, number * 7 % 1500);
      end += ordered_log::header_bytes + expected[end].size();
    }
    sender.join();
    CHECK(records_in(folder.log()) == expected);
    const tests::Ended ended = server.check_clean_end();
    CHECK(ended.counters.requests == count);
  }
}

TEST_CASE("a record of 1 MiB is taken, one byte more is refused and ends the connection") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log());
  tests::Client client(server.where());
  const std::string large = content(1, 1 << 20);
  CHECK(ask(client, large) == "OK 0\n");
  CHECK(client.send_all("PUT 1048577\n"));
  CHECK(client.receive_to_end() == "ERR 413 a record has at most 1048576 bytes\n");
  CHECK(client.end() == tests::End::fin);
  CHECK(records_in(folder.log()) == Records{{0, large}});
  server.check_clean_end();
}

TEST_CASE("nonsense is answered behind all earlier answers, and then the connection ends by a FIN") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log());
  std::uint64_t end = 0;
  for (const std::string nonsense :
       {"\n", "GET x\n", "PUT\n", "PUT -1\n", "PUT 1x\n", "PUT 1\r\n", "PUT 99999999999999999999\n"}) {
    CAPTURE(nonsense);
    tests::Client client(server.where());
    // What stands behind it is discarded, and does not turn the end into a reset that swallows the answer.
    CHECK(client.send_all(put("good") + nonsense + std::string(100'000, 'x')));
    const std::string all = client.receive_to_end();
    CHECK(all.starts_with("OK " + std::to_string(end) + "\nERR 4"));
    CHECK(client.end() == tests::End::fin);
    end += 24;
  }
  tests::Client endless(server.where());
  endless.send_all("PUT " + std::string(100, '0'));  // a line without an end
  CHECK(endless.receive_to_end().starts_with("ERR 400 "));
  CHECK(records_in(folder.log()).size() == 7);
  server.check_clean_end();
}

TEST_CASE("after a half-close everything is answered, then FIN; a record that is cut short is refused") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    const Folder folder;
    Server server(folder.log(), way);
    tests::Client client(server.where());
    CHECK(client.send_all(put("one") + put("two") + "PUT 10\nfive"));
    client.half_close();
    const std::string answers = client.receive_to_end();
    CHECK(answers.starts_with("OK 0\nOK 23\nERR 400 "));
    CHECK(client.end() == tests::End::fin);
    CHECK(records_in(folder.log()).size() == 2);
    server.check_clean_end();
  }
}

TEST_CASE("a request may come byte by byte") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log());
  tests::Client client(server.where());
  const std::string all = put("slowly") + put("but surely");
  for (const char byte : all) {
    CHECK(client.send_all({&byte, 1}));
    std::this_thread::sleep_for(1ms);
  }
  CHECK(client.receive_line() == "OK 0\n");
  CHECK(client.receive_line() == "OK 26\n");
  server.check_clean_end();
}

// ---- What clients do -----------------------------------------------------------------------------------------

TEST_CASE("clients that vanish in the middle leave nothing behind, and what they had handed over is whole") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    const Folder folder;
    Server server(folder.log(), way);
    for (int round = 0; round < 20; ++round) {
      tests::Client client(server.where());
      std::string all;
      for (int i = 0; i < round; ++i) all += put(content(1, 3000));
      client.send_all(all + "PUT 1000\nnot all of it");
      round % 2 == 0 ? client.reset() : client.close();
    }
    tests::Client client(server.where());
    CHECK(offset_in(ask(client, "still here")) >= 0);
    server.check_clean_end();
    unsigned of_those_who_stayed = 0;
    for (const auto& [offset, bytes] : records_in(folder.log())) {
      if (bytes != content(1, 3000)) ++of_those_who_stayed;
    }
    CHECK(of_those_who_stayed == 1);
  }
}

TEST_CASE("a client that does not read its answers is not received from any more, and gets them all later") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log());
  tests::Client lazy(server.where(), 4096);
  // Empty records: their answers are larger than they are.
  std::string many;
  for (int i = 0; i < 100'000; ++i) many += "PUT 0\n";
  std::string_view left = many;
  for (std::size_t sent = 1; sent > 0;) {
    sent = lazy.send_what_fits(left, 300ms);
    left.remove_prefix(sent);
  }
  tests::Client other(server.where());
  CHECK(offset_in(ask(other, "meanwhile")) >= 0);
  std::thread sender([&] { lazy.send_all(left); });
  std::int64_t before = -1;
  for (int i = 0; i < 100'000; ++i) {
    const std::int64_t offset = offset_in(lazy.receive_line());
    if (offset <= before) FAIL("not in order");
    before = offset;
  }
  sender.join();
  server.check_clean_end();
}

TEST_CASE("when descriptors run out, the client that was silent longest goes, and new ones are served") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log(), "", {.descriptors = 24});
  std::vector<tests::Client> silent;
  for (int i = 0; i < 40; ++i) silent.emplace_back(server.where());
  for (int i = 0; i < 5; ++i) {
    tests::Client client(server.where());
    CHECK(offset_in(ask(client, "served")) >= 0);
  }
  server.check_clean_end();
}

TEST_CASE("one client too many is accepted and closed") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log(), "--max-connections 1");
  tests::Client client(server.where());
  CHECK(ask(client, "first") == "OK 0\n");
  tests::Client refused(server.where());
  CHECK(refused.receive_to_end().empty());
  client.close();
  CHECK(tests::eventually([&] {
    tests::Client next(server.where());
    return offset_in(ask(next, "second")) > 0;
  }));
  CHECK(server.check_clean_end().counters.refused >= 1);
}

TEST_CASE("the log is served over a Unix-domain socket, too") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log(), "--unix " + folder.name() + "/socket");
  tests::Client client(server.where());
  CHECK(ask(client, "hello") == "OK 0\n");
  server.check_clean_end();
}

// ---- What the operator does ----------------------------------------------------------------------------------

TEST_CASE(
    "a stop finishes what has begun: records in the log are acknowledged, and half a record may be "
    "completed") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    const Folder folder;
    Server server(folder.log(), way);
    tests::Client busy(server.where());
    tests::Client idle(server.where());
    CHECK(ask(busy, "before") == "OK 0\n");
    CHECK(busy.send_all("PUT 10\nunfi"));
    std::this_thread::sleep_for(50ms);
    server.signal(SIGTERM);
    CHECK(idle.receive_to_end().empty());
    CHECK(busy.send_all("nished"));
    CHECK(busy.receive_line() == "OK 26\n");
    CHECK(busy.receive_to_end().empty());
    busy.close();
    CHECK(server.check_clean_end().counters.requests == 2);
    CHECK(records_in(folder.log()) == Records{{0, "before"}, {26, "unfinished"}});
  }
}

TEST_CASE("SIGUSR1 shows the log and the connections") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server server(folder.log());
  tests::Client client(server.where());
  CHECK(ask(client, "hello") == "OK 0\n");
  server.signal(SIGUSR1);
  CHECK(tests::eventually([&] { return contains(server.errors(), "connections: 1"); }));
  CHECK(contains(server.errors(),
                 "log: ends at 25, 0 records wait, 0 operations in flight; 1 acknowledged by 1 fsyncs"));
  server.check_clean_end();
}

TEST_CASE(
    "what cannot be served is said in one sentence: a log in use, a file that is no log, no file at all") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  const auto fails = [](const std::string& arguments, int status, const char* sentence) {
    const tests::ShellResult result = tests::shell(program + " --port 0 " + arguments + " 2>&1");
    CAPTURE(result.output);
    CHECK(result.status == status);
    CHECK(contains(result.output, sentence));
  };
  Server server(folder.log());
  fails("--file " + folder.log(), 1, "is open in another process");
  server.check_clean_end();
  tests::shell("echo 'Dear reader' > " + folder.name() + "/letter");
  fails("--file " + folder.name() + "/letter", 1, "this is no log");
  CHECK(tests::shell("cat " + folder.name() + "/letter").output == "Dear reader\n");
  fails("--file " + folder.name(), 1, "cannot open");
  tests::shell("mkfifo " + folder.name() + "/fifo");
  fails("--file " + folder.name() + "/fifo", 2, "is not a regular file");
  fails("--file " + folder.name() + "/no/such/folder", 1, "No such file or directory");
  fails("", 2, "--file LOG is needed");
  fails("--file x --order sideways", 2, "--order");
}

// ---- What goes wrong -----------------------------------------------------------------------------------------

TEST_CASE("a torn tail is cut off and said, and the log goes on where the last whole record ends") {
  SKIP_WITHOUT_IO_URING();
  const Folder folder;
  Server(folder.log()).check_clean_end();
  {
    Server server(folder.log());
    tests::Client client(server.where());
    CHECK(ask(client, "whole") == "OK 0\n");
    CHECK(ask(client, "torn") == "OK 25\n");
    server.check_clean_end();
  }
  CHECK(::truncate(folder.log().c_str(), 47) == 0);
  Server server(folder.log());
  CHECK(contains(server.errors(), "holds 1 records, 25 bytes"));
  CHECK(contains(server.errors(), "cut off a torn tail of 22 bytes at 25"));
  tests::Client client(server.where());
  CHECK(ask(client, "again") == "OK 25\n");
  server.check_clean_end();
  CHECK(records_in(folder.log()) == Records{{0, "whole"}, {25, "again"}});
}

TEST_CASE("kill -9 under load: every acknowledged record is in the file, at its offset") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    const Folder folder;
    Records acknowledged;
    for (int round = 0; round < 3; ++round) {
      std::vector<Records> of_client(4);
      {
        Server server(folder.log(), way);
        std::vector<std::thread> clients;
        for (std::size_t who = 0; who < of_client.size(); ++who) {
          clients.emplace_back([&of_client, who, client = tests::Client(server.where())]() mutable {
            for (std::uint64_t number = 0;; ++number) {
              const std::string bytes = content(number << 8 | who, number * 131 % 5000);
              const std::int64_t offset = offset_in(ask(client, bytes));
              if (offset < 0) return;
              of_client[who][static_cast<std::uint64_t>(offset)] = bytes;
            }
          });
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(60 + 70 * round));
        server.signal(SIGKILL);
        for (std::thread& client : clients) client.join();
        CHECK(server.wait().status == 128 + SIGKILL);
      }
      for (const Records& one : of_client) acknowledged.insert(one.begin(), one.end());
      Server again(folder.log(), way);
      again.check_clean_end();
      const Records there = records_in(folder.log());
      CHECK(acknowledged.size() > 0);
      for (const auto& [offset, bytes] : acknowledged) {
        const std::uint64_t where = offset;
        const auto found = there.find(where);
        CAPTURE(where);
        REQUIRE(found != there.end());
        CHECK((found->second == bytes));
      }
    }
  }
}

TEST_CASE(
    "a file at its size limit: ERR 507, nothing acknowledged is lost, and it goes on when there is room") {
  SKIP_WITHOUT_IO_URING();
  for (const char* way : all_ways) {
    CAPTURE(way);
    const Folder folder;
    Server server(folder.log(), way);
    server.limit_file_size(10'000);
    tests::Client client(server.where());
    std::string all;
    for (std::uint64_t number = 0; number < 100; ++number) all += put(content(number, 480));
    CHECK(client.send_all(all));
    std::uint64_t taken = 0;
    for (std::uint64_t number = 0; number < 100; ++number) {
      const std::string answer = client.receive_line();
      if (answer == "OK " + std::to_string(taken * 500) + "\n") {
        ++taken;
      } else {
        CAPTURE(answer);
        CHECK(answer.starts_with("ERR 507 "));
      }
    }
    CHECK(taken == 20);
    CHECK(records_in(folder.log()).size() == 20);
    server.limit_file_size(RLIM_INFINITY);
    CHECK(ask(client, content(7, 480)) == "OK 10000\n");
    CHECK(records_in(folder.log()).size() == 21);
    const tests::Ended ended = server.check_clean_end();
    CHECK(ended.counters.requests == 101);
  }
}

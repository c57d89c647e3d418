// Listening sockets, descriptors and the folder that is served: real ones, on loopback and in a temporary
// folder.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

#include "servers/common/limits.hpp"
#include "servers/common/listener.hpp"
#include "servers/common/served_root.hpp"
#include "tests/support/shell.hpp"
#include "tests/support/skip.hpp"

using common::Descriptor;
using common::Listener;
using common::StartError;

namespace {

std::uint16_t port_of(const Listener& listener) {
  return static_cast<std::uint16_t>(std::stoi(listener.name().substr(listener.name().rfind(':') + 1)));
}

Descriptor connect_to(std::uint16_t port) {
  Descriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd.reset();
  return fd;
}

int option_of(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

struct Refusal {
  int code;
  std::string sentence;
};

template <class Function>
Refusal refusal(const Function& function) {
  try {
    function();
  } catch (const StartError& error) {
    return {error.exit_code(), error.what()};
  }
  return {0, "accepted"};
}

}  // namespace

TEST_CASE("port 0 picks a port, which the name tells, and connections inherit TCP_NODELAY") {
  Listener listener = common::listen_tcp("127.0.0.1", 0, false);
  CHECK(listener.name().starts_with("127.0.0.1:"));
  CHECK(port_of(listener) != 0);
  CHECK((::fcntl(listener.fd(), F_GETFL) & O_NONBLOCK) == 0);
  CHECK((::fcntl(listener.fd(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(option_of(listener.fd(), SOL_SOCKET, SO_REUSEADDR) == 1);
  const Descriptor client = connect_to(port_of(listener));
  REQUIRE(client);
  const Descriptor accepted(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
  REQUIRE(accepted);
  CHECK(option_of(accepted.get(), IPPROTO_TCP, TCP_NODELAY) == 1);
  listener.close();
  CHECK(listener.fd() == -1);
  CHECK(!connect_to(port_of(listener)));
}

TEST_CASE("a non-blocking listener says EAGAIN when nobody is there") {
  const Listener listener = common::listen_tcp("127.0.0.1", 0, true);
  CHECK(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC) == -1);
  CHECK(errno == EAGAIN);
}

TEST_CASE("IPv6: the name has brackets, and :: serves IPv4 as well") {
  const Descriptor probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 loopback{};
  loopback.sin6_family = AF_INET6;
  loopback.sin6_addr = in6addr_loopback;
  SKIP_UNLESS(
      probe && ::bind(probe.get(), reinterpret_cast<const sockaddr*>(&loopback), sizeof loopback) == 0,
      "there is no IPv6 loopback here");
  CHECK(common::listen_tcp("::1", 0, false).name().starts_with("[::1]:"));
  const Listener any = common::listen_tcp("::", 0, false);
  CHECK(any.name().starts_with("[::]:"));
  CHECK(connect_to(port_of(any)));
}

TEST_CASE("an address that is none is exit code 2; what the system refuses is 1, with advice") {
  for (const char* const literal :
       {"localhost", "", "127.0.0", "127.0.0.1:80", "[::1]", "1.2.3.4.5", "::g"}) {
    const Refusal refused = refusal([&] { common::listen_tcp(literal, 0, false); });
    CHECK(refused.code == 2);
    CHECK(refused.sentence ==
          std::string("--bind ") + literal + ": an IPv4 or IPv6 address is needed (names are not looked up)");
  }
  const Listener listener = common::listen_tcp("127.0.0.1", 0, false);
  const Refusal taken = refusal([&] { common::listen_tcp("127.0.0.1", port_of(listener), false); });
  CHECK(taken.code == 1);
  CHECK(taken.sentence ==
        "cannot listen on " + listener.name() +
            ": Address already in use (EADDRINUSE); somebody listens there already (--port 0 picks a "
            "free port)");
  const Refusal foreign = refusal([&] { common::listen_tcp("192.0.2.1", 0, false); });
  CHECK(foreign.code == 1);
  CHECK(foreign.sentence.find("no interface of this host has that address") != std::string::npos);
}

TEST_CASE(
    "a Unix-domain socket goes when its listener does, and a dead one is replaced, a living one is not") {
  const tests::TemporaryFolder folder;
  const std::string path = (folder.path() / "echo").string();
  {
    common::ServerOptions options;
    options.unix_path = path;
    const Listener listener = common::listen_on(options, false);
    CHECK(listener.name() == "unix:" + path);
    const Refusal taken = refusal([&] { common::listen_unix(path, false); });
    CHECK(taken.code == 1);
    CHECK(taken.sentence.find("EADDRINUSE") != std::string::npos);
    CHECK(std::filesystem::exists(path));
  }
  CHECK(!std::filesystem::exists(path));
  {
    Descriptor dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    REQUIRE(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }
  REQUIRE(std::filesystem::exists(path));
  Listener first = common::listen_unix(path, false);
  Listener moved = std::move(first);
  CHECK(std::filesystem::exists(path));

  // Somebody removed ours and put another in its place: that one is not ours to remove.
  std::filesystem::remove(path);
  const Listener second = common::listen_unix(path, false);
  moved.close();
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("a path that is a file, or too long, or in no folder, is refused") {
  const tests::TemporaryFolder folder;
  folder.write("file", "precious");
  const std::string path = (folder.path() / "file").string();
  CHECK(refusal([&] { common::listen_unix(path, false); }).code == 1);
  CHECK(std::filesystem::file_size(path) == 8);
  CHECK(refusal([&] { common::listen_unix(path + "/x", false); }).code == 1);
  const Refusal longest = refusal([&] { common::listen_unix(std::string(108, 'x'), false); });
  CHECK(longest.code == 2);
  CHECK(longest.sentence.ends_with(": a path of 1 to 107 bytes is needed"));
}

TEST_CASE("only regular files beneath the root are served, and each refusal has its errno") {
  const tests::TemporaryFolder folder;
  folder.write("root/a/file", "text");
  folder.write("secret", "not for you");
  const auto link = [&](const char* target, const char* name) {
    std::filesystem::create_symlink(target, folder.path() / "root" / name);
  };
  link("a/file", "inside");
  link("../secret", "outside");
  link("/etc/passwd", "absolute");
  link("circle", "circle");
  REQUIRE(::mkfifo((folder.path() / "root/fifo").c_str(), 0600) == 0);
  const Listener socket = common::listen_unix((folder.path() / "root/socket").string(), false);
  const Descriptor root = common::open_root((folder.path() / "root").string());

  // The errno with which it is refused, by the open or by what was opened; 0: it is served.
  const auto refused = [&](const std::string& path) {
    const int fd = common::open_served(root.get(), path.c_str());
    if (fd < 0) return -fd;
    const Descriptor owner(fd);
    struct stat status {};
    REQUIRE(::fstat(fd, &status) == 0);
    return common::refusal_of_mode(status.st_mode);
  };
  CHECK(refused("a/file") == 0);
  CHECK(refused("inside") == 0);
  CHECK(refused("a/../a/file") == 0);
  CHECK(refused("../secret") == EXDEV);
  CHECK(refused("a/../../secret") == EXDEV);
  CHECK(refused("outside") == EXDEV);
  CHECK(refused("absolute") == EXDEV);
  CHECK(refused("/etc/passwd") == EXDEV);
  CHECK(refused("circle") == ELOOP);
  CHECK(refused("missing") == ENOENT);
  CHECK(refused("a/file/") == ENOTDIR);
  CHECK(refused("a") == EISDIR);
  CHECK(refused(".") == EISDIR);
  CHECK(refused("fifo") == EACCES);
  CHECK(refused("socket") == ENXIO);
  CHECK(refused(std::string(256, 'x')) == ENAMETOOLONG);

  const Descriptor proc = common::open_root("/proc");
  CHECK(common::open_served(proc.get(), "self/exe") == -ELOOP);
}

TEST_CASE("a root that is missing or a file is exit code 2") {
  CHECK(refusal([] { common::open_root("/nonexistent"); }).code == 2);
  CHECK(refusal([] { common::open_root("/nonexistent"); }).sentence ==
        "--root /nonexistent: No such file or directory (ENOENT)");
  CHECK(refusal([] { common::open_root("/proc/version"); }).code == 2);
}

TEST_CASE("the descriptor limit goes up as far as the hard one and never down") {
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit low = before;
  low.rlim_cur = 100;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
  CHECK(common::raise_descriptor_limit(50) == 100);
  CHECK(common::raise_descriptor_limit(200) == 200);
  CHECK(common::raise_descriptor_limit(before.rlim_max) == before.rlim_max);
  CHECK(::setrlimit(RLIMIT_NOFILE, &before) == 0);
}

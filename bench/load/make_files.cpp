#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <span>

#include "bench/load/made_files.hpp"
#include "servers/common/descriptor.hpp"
#include "servers/common/file_content.hpp"
#include "servers/common/start_error.hpp"

namespace load {
namespace {

[[noreturn]] void cannot_write(const std::string& path, int error) {
  throw common::StartError(common::exit_failed, "cannot write " + path + ": " + common::errno_text(error));
}

bool is_there(const std::string& path, std::uint64_t size) {
  struct ::stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         static_cast<std::uint64_t>(status.st_size) == size;
}

// Front to back, so that a file that was interrupted is a short one and is_there() sees it.
void write_file(const std::string& path, std::uint64_t seed, std::uint64_t size) {
  const common::Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) cannot_write(path, errno);
  std::vector<std::byte> block(std::size_t{1} << 20);
  for (std::uint64_t offset = 0; offset < size;) {
    const std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), size - offset));
    common::fill_content(std::span(block).first(wanted), seed, offset);
    const ::ssize_t written = ::write(file.get(), block.data(), wanted);
    if (written < 0 && errno != EINTR) cannot_write(path, errno);
    if (written > 0) offset += static_cast<std::uint64_t>(written);
  }
  if (::fdatasync(file.get()) != 0) cannot_write(path, errno);
}

}  // namespace

void make_files(const MakeFiles& wanted) {
  std::error_code error;
  std::filesystem::create_directories(wanted.folder, error);
  if (error) cannot_write(wanted.folder, error.value());
  unsigned written = 0;
  unsigned kept = 0;
  const auto make = [&](std::uint64_t size, unsigned number) {
    std::string name = made_name(size, number);
    const std::string path = wanted.folder + "/" + name;
    if (is_there(path, size)) {
      ++kept;
    } else {
      write_file(path, common::content_seed(name), size);
      ++written;
    }
    return name;
  };
  for (const std::uint64_t size : wanted.sizes) {
    for (unsigned number = 0; number < wanted.count; ++number)
      std::printf("%s\n", make(size, number).c_str());
  }
  if (wanted.big != 0) {
    std::fprintf(stderr, "for random ranges: --path %s\n", make(wanted.big, 0).c_str());
  }
  std::fprintf(stderr, "%u files written, %u were there\n", written, kept);
}

}  // namespace load

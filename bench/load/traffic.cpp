#include "bench/load/traffic.hpp"

#include <cstdio>
#include <fstream>
#include <sstream>

#include "bench/load/made_files.hpp"
#include "servers/common/start_error.hpp"

namespace load {
namespace {

[[noreturn]] void wrong(const std::string& sentence) {
  throw common::StartError(common::exit_usage, sentence);
}

// RFC 3986: everything but unreserved characters and the slash is written as %XX.
std::string escaped(const std::string& path) {
  std::string text;
  for (const char c : path) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~/").find(c) != std::string_view::npos;
    if (plain) {
      text += c;
    } else {
      char hex[4];
      std::snprintf(hex, sizeof hex, "%%%02X", static_cast<unsigned>(static_cast<unsigned char>(c)));
      text += hex;
    }
  }
  return text;
}

File made_or_checked(const std::string& path, std::uint64_t size, std::optional<std::uint32_t> checksum) {
  File file;
  file.path = path.substr(path.starts_with('/') ? 1 : 0);
  file.size = size;
  file.seed = common::content_seed(last_component(path));
  file.checksum = checksum;
  return file;
}

[[noreturn]] void unknown_contents(const std::string& path) {
  wrong("how would the bytes of " + path +
        " be verified? Its name must be one that make-files gave it, or its checksum and size must be known, "
        "as cksum(1) prints them");
}

std::optional<std::uint32_t> checksum_from(const std::string& word) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

}  // namespace

void prepare(Traffic& traffic, const std::string& host) {
  if (traffic.kind == Kind::echo_line) {
    traffic.request_head = "ECHO " + std::to_string(traffic.size) + "\n";
    traffic.answer_head = "OK " + std::to_string(traffic.size) + "\n";
  }
  if (traffic.block != 0) traffic.answer_head = "OK " + std::to_string(traffic.block) + "\n";
  for (File& file : traffic.files) {
    if (traffic.http) {
      const std::string begin = "GET /" + escaped(file.path) + " HTTP/1.1\r\nHost: " + host + "\r\n";
      file.request = begin + "\r\n";
      file.range_request = begin + "Range: bytes=";
    } else {
      file.request = "GET " + file.path + "\n";
      file.range_request = "GET " + file.path + " ";
      file.answer = "OK " + std::to_string(file.size) + "\n";
    }
  }
}

std::vector<File> read_list(const std::string& list) {
  std::ifstream stream(list);
  if (!stream) wrong("cannot read the list of paths " + list);
  std::vector<File> files;
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::string path, size, checksum, more;
    words >> path >> size >> checksum >> more;
    if (path.empty()) continue;
    if (size.empty()) {
      files.push_back(file_from(path, ""));
    } else if (!checksum.empty() && more.empty()) {
      files.push_back(file_from(path, checksum + " " + size));
    } else {
      wrong(list + ": '" + line + "' is neither PATH nor PATH SIZE CKSUM");
    }
  }
  if (files.empty()) wrong("the list of paths " + list + " is empty");
  return files;
}

File file_from(const std::string& path, const std::string& checksum) {
  if (path.find_first_of(" \n\r\t") != path.npos)
    wrong("a path with white space cannot be asked for: " + path);
  if (checksum.empty()) {
    const std::optional<std::uint64_t> size = made_size(path);
    if (!size) unknown_contents(path);
    return made_or_checked(path, *size, std::nullopt);
  }
  std::istringstream words(checksum);
  std::string crc_word, size_word;
  words >> crc_word >> size_word;
  const std::optional<std::uint32_t> crc = checksum_from(crc_word);
  const std::optional<std::uint64_t> size = size_from(size_word);
  if (!crc || !size) wrong("'" + checksum + "' is not a checksum and a size as cksum(1) prints them");
  return made_or_checked(path, *size, crc);
}

}  // namespace load

// Why a server could not start, in one line, and with which code it exits.
//
//   0   clean
//   1   run-time failure, or a leak found at exit
//   2   usage: what was asked for makes no sense
//   3   io_uring is not available here
//
// Only the way to the first connection throws. A server's main ends in
//
//   } catch (const common::StartError& error) {
//     std::fprintf(stderr, "%s: %s\n", program, error.what());
//     return error.exit_code();
//   }
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>

namespace common {

inline constexpr int exit_clean = 0;
inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 2;
inline constexpr int exit_no_io_uring = 3;

/// what() is a sentence that says what is wrong and, where somebody can act on it, what to do.
class StartError : public std::runtime_error {
 public:
  StartError(int exit_code, const std::string& sentence)
      : std::runtime_error(sentence), exit_code_(exit_code) {}
  int exit_code() const noexcept { return exit_code_; }

 private:
  int exit_code_;
};

/// "Address already in use (EADDRINUSE)"
inline std::string errno_text(int error) {
  const char* const name = strerrorname_np(error);
  return std::system_category().message(error) + " (" +
         (name != nullptr ? name : "errno " + std::to_string(error)) + ")";
}

}  // namespace common

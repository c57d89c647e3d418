// A server of files from its start to its last words, for the milestones that differ in how they send.
#pragma once

#include <cstdint>
#include <vector>

#include "servers/common/options.hpp"
#include "servers/common_ring/file_server.hpp"

namespace common_ring {

enum class Io : std::uint8_t { read, fixed };
enum class Files : std::uint8_t { normal, direct };

struct FileProgram {
  const char* name;
  FileServer::Options server{};
  Io io = Io::fixed;
  Files files = Files::normal;
};

/// The table of what every such program understands: ServerOptions, --unix, --root, --io, --files, and
/// file_options.hpp. A program adds what is its own.
std::vector<common::Option> options_of(FileProgram& program);

/// Serves until a signal says stop; the exit code. Throws StartError, SetupError (no io_uring), or what else
/// went wrong before it could begin.
int serve_files(const FileProgram& program);

}  // namespace common_ring

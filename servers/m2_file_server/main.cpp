// Milestone 2: files to clients, everything through one ring.
//
//   build/m2_file_server --root DIR --port 9000
//   printf 'GET some/file\n' | nc -N 127.0.0.1 9000          the line form
//   curl http://127.0.0.1:9000/some/file                     the HTTP form
//
// The story is told in servers/common_ring, which Milestone 4's zero-copy server shares: serve_files.cpp from the
// start of the program to its end, then file_server.hpp, which follows one request.

#include "servers/common/options.hpp"
#include "servers/common/start_error.hpp"
#include "servers/common_ring/program.hpp"
#include "servers/common_ring/serve_files.hpp"

namespace {

bool parse(int argc, char** argv, common_ring::FileProgram& program) {
  const common::Program about{.name = program.name,
                              .summary = "Serves the files below a folder, through one io_uring."};
  if (!common::parse_options({argv + 1, argv + argc}, about, common_ring::options_of(program))) return false;
  common::check(program.server.files);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  common_ring::FileProgram program{.name = "m2_file_server", .server = {.server = {.port = 9000}}};
  return common_ring::run_program(program.name, [&] {
    return parse(argc, argv, program) ? common_ring::serve_files(program) : common::exit_clean;
  });
}

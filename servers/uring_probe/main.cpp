// uring_probe: what can io_uring do on *this* kernel, since when, and what happens where it cannot?
//
//   build/uring_probe          a table for people
//   build/uring_probe --json   everything, for programs
//
// How each line is known is told by its sign:
//   flag     the kernel accepted a ring with that setup flag
//   feature  the kernel reports it
//   opcode   IORING_REGISTER_PROBE lists it
//   tried    the registration worked
//   same     the kernel cannot be asked (a flag inside an SQE); something that came in the same release is there
#include <sys/utsname.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "servers/uring_probe/names.hpp"
#include "uring/capabilities.hpp"
#include "uring/errors.hpp"

namespace {

namespace abi = uring::abi;
using uring::Capabilities;

struct Row {
  const char* what;
  const char* since;
  const char* sign;  // how it is known
  bool (*here)(const Capabilities&);
  const char* without;  // what our ring layer, or a program on top of it, does where this is missing
};

template <std::uint32_t Flag>
bool flag(const Capabilities& c) {
  return c.has_setup_flag(Flag);
}
template <std::uint32_t Feature>
bool feature(const Capabilities& c) {
  return c.has_feature(Feature);
}
template <unsigned Opcode>
bool opcode(const Capabilities& c) {
  return c.has_opcode(Opcode);
}

constexpr Row needed[] = {
    {"both rings in one mapping", "5.4", "feature", feature<IORING_FEAT_SINGLE_MMAP>, "refuses to start"},
    {"no completion is dropped", "5.5", "feature", feature<IORING_FEAT_NODROP>, "refuses to start"},
    {"time-out as argument of enter", "5.11", "feature", feature<IORING_FEAT_EXT_ARG>, "refuses to start"},
};

constexpr Row ring[] = {
    {"size of the CQ chosen", "5.5", "flag", flag<IORING_SETUP_CQSIZE>, "refuses to start"},
    {"parameters may die after submit", "5.5", "feature", feature<IORING_FEAT_SUBMIT_STABLE>,
     "cannot be: 5.11 is needed"},
    {"sizes clamped", "5.6", "flag", flag<IORING_SETUP_CLAMP>, "refuses to start"},
    {"created disabled", "5.10", "flag", flag<IORING_SETUP_R_DISABLED>, "create on the owner thread"},
    {"kernel thread submits (SQPOLL)", "5.11", "flag", flag<IORING_SETUP_SQPOLL>, "use Ring, not SqpollRing"},
    {"a bad SQE stops no others", "5.18", "flag", flag<IORING_SETUP_SUBMIT_ALL>, "submits the rest again"},
    {"ring descriptor registered", "5.18", "tried",
     [](const Capabilities& c) { return c.registered_ring_fd; }, "file look-up per enter"},
    {"no interrupts for completions", "5.19", "flag", flag<IORING_SETUP_COOP_TASKRUN>, "is interrupted"},
    {"told of pending task work", "5.19", "flag", flag<IORING_SETUP_TASKRUN_FLAG>, "not needed"},
    {"one thread submits, enforced", "6.0", "flag", flag<IORING_SETUP_SINGLE_ISSUER>, "not enforced"},
    {"completions when asked for", "6.1", "flag", flag<IORING_SETUP_DEFER_TASKRUN>, "COOP_TASKRUN"},
    {"no SQ array", "6.6", "flag", flag<abi::setup_no_sqarray>, "fills it once"},
    {"wait that gathers (min-wait)", "6.12", "feature", feature<abi::feat_min_timeout>,
     "wakes for the first"},
};

constexpr Row files[] = {
    {"read, write, openat, statx, close", "5.6", "opcode", opcode<IORING_OP_STATX>, "nothing opens files"},
    {"open below a directory (openat2)", "5.6", "opcode", opcode<IORING_OP_OPENAT2>, "refuse to serve files"},
    {"splice", "5.7", "opcode", opcode<IORING_OP_SPLICE>, "read, then write"},
    {"direct descriptors in links", "5.17", "feature", feature<IORING_FEAT_LINKED_FILE>,
     "one step at a time"},
    {"silent success (CQE_SKIP)", "5.17", "feature", feature<IORING_FEAT_CQE_SKIP>, "one CQE per SQE"},
};

constexpr Row sockets[] = {
    {"accept, connect, send, recv", "5.6", "opcode", opcode<IORING_OP_RECV>, "no server starts"},
    {"shutdown", "5.11", "opcode", opcode<IORING_OP_SHUTDOWN>, "shutdown(2)"},
    {"message to another ring", "5.18", "opcode", opcode<IORING_OP_MSG_RING>, "an eventfd"},
    {"multishot accept", "5.19", "same", opcode<IORING_OP_SOCKET>, "accept again each time"},
    {"provided-buffer rings", "5.19", "tried", [](const Capabilities& c) { return c.provided_buffer_rings; },
     "a buffer per connection"},
    {"multishot recv", "6.0", "same", opcode<IORING_OP_SEND_ZC>, "recv again each time"},
    {"zero-copy send", "6.0", "opcode", opcode<IORING_OP_SEND_ZC>, "plain send"},
    {"zero-copy sendmsg", "6.1", "opcode", opcode<IORING_OP_SENDMSG_ZC>, "plain sendmsg"},
    {"bundled send and recv", "6.10", "feature", feature<abi::feat_recvsend_bundle>, "one buffer per CQE"},
};

void print_help() {
  std::puts(
      "usage: uring_probe [--json]\n"
      "Prints what io_uring can do on this kernel. Exit code 3: there is none here; the text says why.");
}

const char* mark(bool here) { return here ? "yes" : "NO"; }

template <std::size_t N>
void print_rows(const char* title, const Row (&rows)[N], const Capabilities& found) {
  std::printf("\n%s\n", title);
  for (const Row& row : rows) {
    std::printf("  %-34s %-5s %-8s %-4s %s\n", row.what, row.since, row.sign, mark(row.here(found)),
                row.without);
  }
}

void print_table(const Capabilities& found, const char* release) {
  unsigned opcodes = 0;
  for (const bool here : found.opcodes) opcodes += here ? 1 : 0;
  std::printf("io_uring on Linux %s: %u opcodes, features 0x%x\n\n", release, opcodes, found.features);
  std::printf("  %-34s %-5s %-8s %-4s %s\n", "WHAT", "SINCE", "KNOWN BY", "HERE", "WITHOUT IT");
  print_rows("Needed by the ring layer", needed, found);
  print_rows("The ring itself", ring, found);
  print_rows("Files", files, found);
  print_rows("Sockets", sockets, found);
  std::printf("\nSetup flags that this kernel takes and our ring layer refuses, by name:\n");
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    if (flag.refused == nullptr || !found.has_setup_flag(flag.bit)) continue;
    std::printf("  %-34s %s\n", flag.name, flag.refused);
  }
}

/// `"name":true,` ... without the last comma.
class JsonObject {
 public:
  explicit JsonObject(const char* name) { std::printf("\"%s\":{", name); }
  JsonObject(const JsonObject&) = delete;
  JsonObject& operator=(const JsonObject&) = delete;
  ~JsonObject() { std::printf("}"); }
  void add(const char* name, bool value) {
    std::printf("%s\"%s\":%s", first_ ? "" : ",", name, value ? "true" : "false");
    first_ = false;
  }

 private:
  bool first_ = true;
};

void print_json(const Capabilities& found, const char* release) {
  std::printf("{\"kernel\":\"%s\",", release);
  {
    JsonObject object("features");
    for (const Name& name : feature_names) object.add(name.name, found.has_feature(name.value));
  }
  std::printf(",");
  {
    JsonObject object("setup_flags");
    for (const uring::SetupFlag& flag : uring::setup_flag_table) {
      object.add(flag.name, found.has_setup_flag(flag.bit));
    }
  }
  std::printf(",");
  {
    JsonObject object("opcodes");
    for (const Name& name : opcode_names) object.add(name.name, found.has_opcode(name.value));
  }
  std::printf(",\"registered_ring_fd\":%s,\"provided_buffer_rings\":%s,\"last_opcode\":%u}\n",
              found.registered_ring_fd ? "true" : "false", found.provided_buffer_rings ? "true" : "false",
              found.last_opcode);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view option = argc == 2 ? argv[1] : "";
  if (option == "--help") {
    print_help();
    return 0;
  }
  const bool json = option == "--json";
  if (argc > 2 || (argc == 2 && !json)) {
    std::fprintf(stderr, "uring_probe: unknown argument. Try --help.\n");
    return 2;
  }
  const Capabilities found = uring::probe_capabilities();
  if (found.setup_error != 0) {
    const std::string why = uring::explain_setup(found.setup_error, uring::gather_host_facts());
    std::fprintf(stderr, "uring_probe: cannot create a ring: %s\n  %s\n",
                 uring::errno_text(found.setup_error).c_str(), why.c_str());
    return 3;
  }
  utsname host{};
  ::uname(&host);
  if (json) {
    print_json(found, host.release);
  } else {
    print_table(found, host.release);
  }
  return 0;
}

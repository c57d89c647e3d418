// uring_probe: what can io_uring do on *this* kernel, since when, and what happens where it cannot?
//
//   build/uring_probe          a table for people
//   build/uring_probe --json   everything, for programs
//
// How each line is known is told by its sign:
//   query    IORING_REGISTER_QUERY says so (6.18)
//   flag     a setup flag: by the same query, or before 6.18 by a ring that was made with it
//   feature  the kernel reports it
//   opcode   IORING_REGISTER_PROBE lists it
//   tried    the registration, or a small operation, worked
//   same     the kernel cannot be asked; something that came in the same release is there
//
// "The kernel knows it" and "you may use it" are two questions. `barred` answers the second with no: rings are
// forbidden here (a sysctl, a container's filter), or restrictions of this task refuse the opcode. `?`: only trying
// could tell, and that is forbidden.
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "servers/uring_probe/names.hpp"
#include "uring/capabilities.hpp"
#include "uring/errors.hpp"
#include "uring/ring.hpp"
#include "uring/trials.hpp"

namespace {

namespace abi = uring::abi;
using uring::Capabilities;

/// What was asked of the kernel, and what was tried.
struct Findings {
  Capabilities asked{};
  std::array<bool, 256> refused_opcodes{};
  bool refuses_nop = false;
  bool notification_token = false;
  bool timeout_nanoseconds = false;
  bool socket_addresses = false;
  bool registered_sends = false;
  bool writes_without_signal = false;
  bool buffer_min_left = false;
  bool task_restrictions = false;
  bool bpf_filters = false;
};

enum class Here : std::uint8_t { no, barred, yes, unknown };

struct Row {
  const char* what;
  const char* since;
  const char* sign;  // how it is known
  Here (*here)(const Findings&);
  const char* without;      // what our ring layer, or a program on top of it, does where this is missing
  const char* is_for = "";  // its name in the header, and what it is for
};

Here known(const Findings& found, bool here) {
  if (!here) return Here::no;
  return found.asked.setup_error != 0 ? Here::barred : Here::yes;
}
template <std::uint32_t Flag>
Here flag(const Findings& found) {
  return known(found, found.asked.has_setup_flag(Flag));
}
template <std::uint32_t Feature>
Here feature(const Findings& found) {
  return known(found, found.asked.has_feature(Feature));
}
template <unsigned Opcode>
Here opcode(const Findings& found) {
  return found.refused_opcodes[Opcode] ? Here::barred : known(found, found.asked.has_opcode(Opcode));
}
std::ptrdiff_t count(const std::array<bool, 256>& opcodes) {
  return std::count(opcodes.begin(), opcodes.end(), true);
}

/// Without a ring nothing can be tried, and where operations are refused a failure says nothing.
template <bool Findings::*Result>
Here tried(const Findings& found) {
  const bool free = found.asked.setup_error == 0 && count(found.refused_opcodes) == 0;
  return found.*Result ? Here::yes : free ? Here::no : Here::unknown;
}
template <bool Capabilities::*Result>
Here registered(const Findings& found) {
  return found.asked.setup_error != 0 ? Here::unknown : known(found, found.asked.*Result);
}
/// Zero-copy receive has more than `Count` commands.
template <unsigned Count>
Here zcrx_commands(const Findings& found) {
  return known(found, found.asked.zcrx_commands > Count);
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
    {"ring descriptor registered", "5.18", "tried", registered<&Capabilities::registered_ring_fd>,
     "file look-up per enter"},
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
    {"provided-buffer rings", "5.19", "tried", registered<&Capabilities::provided_buffer_rings>,
     "a buffer per connection"},
    {"multishot recv", "6.0", "same", opcode<IORING_OP_SEND_ZC>, "recv again each time"},
    {"zero-copy send", "6.0", "opcode", opcode<IORING_OP_SEND_ZC>, "plain send"},
    {"zero-copy sendmsg", "6.1", "opcode", opcode<IORING_OP_SENDMSG_ZC>, "plain sendmsg"},
    {"bundled send and recv", "6.10", "feature", feature<abi::feat_recvsend_bundle>, "one buffer per CQE"},
};

constexpr Row newer[] = {
    {"the kernel says what it knows", "6.18", "query",
     [](const Findings& found) { return found.asked.queried ? Here::yes : Here::no; },
     "tries a ring per setup flag",
     "IORING_REGISTER_QUERY: masks of features, setup, enter and SQE flags, without a ring"},
    {"writes without SIGPIPE", "6.18", "tried", tried<&Findings::writes_without_signal>, "SIGPIPE is ignored",
     "RWF_NOSIGNAL: a write to a pipe that nobody reads is -EPIPE and kills nobody"},
    {"SQEs of two sizes", "6.19", "flag", flag<abi::setup_sqe_mixed>, "refused by name",
     "IORING_SETUP_SQE_MIXED: 128 bytes for commands to drives, 64 for the rest"},
    {"NOP in 128 bytes", "6.19", "opcode", opcode<abi::op_nop128>, "not used",
     "IORING_OP_NOP128: to see such an SQE move"},
    {"commands in 128 bytes", "6.19", "opcode", opcode<abi::op_uring_cmd128>, "not used",
     "IORING_OP_URING_CMD128: URING_CMD with 80 bytes of its own, for NVMe"},
    {"addresses of a direct descriptor", "6.19", "tried", tried<&Findings::socket_addresses>,
     "SIGUSR1 shows no peer of a slot",
     "SOCKET_URING_OP_GETSOCKNAME: who is at the other end of a slot's socket"},
    {"commands to zero-copy receive", "6.19", "query", zcrx_commands<0>, "not used",
     "IORING_REGISTER_ZCRX_CTRL: flush its queue, pass it on to another process"},
    {"each enter begins at SQE 0", "7.0", "flag", flag<abi::setup_sq_rewind>, "refused by name",
     "IORING_SETUP_SQ_REWIND: the same few warm SQEs; a short submit then loses its place"},
    {"restrictions of a task", "7.0", "tried",
     [](const Findings& found) { return found.task_restrictions ? Here::yes : Here::no; }, "not used",
     "IORING_REGISTER_RESTRICTIONS, fd -1: for all rings that this task and its children make"},
    {"filters for SQEs", "7.0", "tried",
     [](const Findings& found) { return found.bpf_filters ? Here::yes : Here::no; },
     "not used; seccomp: all or nothing",
     "IORING_REGISTER_BPF_FILTER: a program that refuses operations by what they ask for"},
    {"a token for the notification", "7.1", "tried", tried<&Findings::notification_token>,
     "two CQEs, one token: F_NOTIF tells",
     "SEND_ZC with sqe->addr3: the second CQE has a user_data of its own"},
    {"nanoseconds in the SQE", "7.1", "tried", tried<&Findings::timeout_nanoseconds>, "a timespec that lives",
     "IORING_TIMEOUT_IMMEDIATE_ARG: a time-out without memory beside it"},
    {"the end of an incremental buffer", "7.1", "tried", tried<&Findings::buffer_min_left>,
     "whole buffers only",
     "io_uring_buf_reg.min_left: a rest too small to be of use is not offered (also late 6.12, 6.18)"},
    {"zero-copy receive without a card", "7.1", "query",
     [](const Findings& found) {
       return known(found, (found.asked.zcrx_register_flags & abi::zcrx_reg_nodev) != 0);
     },
     "not used", "ZCRX_REG_NODEV: for trying it out; everything is copied"},
    {"a BPF program as event loop", "7.1", "same", tried<&Findings::timeout_nanoseconds>, "a loop in C++",
     "io_uring_bpf_ops: enter runs the program, whatever its arguments (if configured)"},
    {"registered buffers for send, recv", "7.2", "tried", tried<&Findings::registered_sends>,
     "plain send and recv", "IORING_RECVSEND_FIXED_BUF: saves the look-up of pages, and no copy"},
    {"registered buffers beyond 1 GiB", "7.2", "same", tried<&Findings::registered_sends>,
     "1 GiB is the limit", "IORING_REGISTER_BUFFERS: up to 1 TiB each; one operation stays below 2 GiB"},
    {"events of zero-copy receive", "7.2", "query", zcrx_commands<2>, "not used",
     "ZCRX_CTRL_ARM_EVENT: a CQE when it had to copy, or found no memory"},
    {"more memory for zero-copy receive", "7.3", "query", zcrx_commands<3>, "not used",
     "ZCRX_CTRL_ADD_AREA: another area while it runs"},
};

void print_help() {
  std::puts(
      "usage: uring_probe [--json]\n"
      "Prints what io_uring can do on this kernel. Exit code 3: you may not use it here; the text says why, "
      "and\n"
      "from Linux 6.18 on the kernel still says what it knows.");
}

const char* mark(Here here) {
  switch (here) {
    case Here::no:
      return "NO";
    case Here::barred:
      return "barred";
    case Here::unknown:
      return "?";
    case Here::yes:
      break;
  }
  return "yes";
}

template <std::size_t N>
void print_rows(const char* title, const Row (&rows)[N], const Findings& found) {
  std::printf("\n%s\n", title);
  for (const Row& row : rows) {
    std::printf("  %-34s %-5s %-8s %-6s %s\n", row.what, row.since, row.sign, mark(row.here(found)),
                row.without);
    if (*row.is_for != '\0') std::printf("      %s\n", row.is_for);
  }
}

void print_head(const Capabilities& asked, const char* release) {
  std::printf("io_uring on Linux %s: %td opcodes, features 0x%x\n", release, count(asked.opcodes),
              asked.features);
  if (asked.queried) {
    std::printf(
        "It says of itself (IORING_REGISTER_QUERY): register opcodes below %u, setup flags 0x%x,\n"
        "enter flags 0x%x, SQE flags 0x%x.\n",
        asked.register_opcodes, asked.setup_flags, asked.enter_flags, asked.sqe_flags);
  } else {
    std::puts("It cannot be asked what it knows (IORING_REGISTER_QUERY, 6.18): setup flags were tried.");
  }
}

void print_table(const Findings& found, const char* release) {
  print_head(found.asked, release);
  std::printf("\n  %-34s %-5s %-8s %-6s %s\n", "WHAT", "SINCE", "KNOWN BY", "HERE", "WITHOUT IT");
  print_rows("Needed by the ring layer", needed, found);
  print_rows("The ring itself", ring, found);
  print_rows("Files", files, found);
  print_rows("Sockets", sockets, found);
  print_rows("From Linux 6.18 on", newer, found);
  std::printf("\nSetup flags that this kernel takes and our ring layer refuses, by name:\n");
  for (const uring::SetupFlag& flag : uring::setup_flag_table) {
    if (flag.refused == nullptr || !found.asked.has_setup_flag(flag.bit)) continue;
    std::printf("  %-34s %s\n", flag.name, flag.refused);
  }
  if (count(found.refused_opcodes) > 0) {
    std::printf("\nRestrictions of this task refuse %td opcodes (-EACCES), though the kernel knows them.\n",
                count(found.refused_opcodes));
  } else if (found.refuses_nop) {
    std::puts("\nA BPF filter refuses even a NOP (-EACCES). What else it refuses, only trying tells.");
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

/// `,"key":{"name":true, ...}`: for each of `names`, what `is_so` says of its value.
template <std::size_t N, class IsSo>
void print_names(const char* key, const Name (&names)[N], const IsSo& is_so) {
  std::printf(",");
  JsonObject object(key);
  for (const Name& name : names) object.add(name.name, is_so(name.value));
}

void print_tried(const Findings& found) {
  std::printf(",");
  JsonObject object("tried");
  object.add("notification_token", found.notification_token);
  object.add("timeout_nanoseconds", found.timeout_nanoseconds);
  object.add("socket_addresses", found.socket_addresses);
  object.add("registered_sends", found.registered_sends);
  object.add("writes_without_signal", found.writes_without_signal);
  object.add("buffer_min_left", found.buffer_min_left);
  object.add("task_restrictions", found.task_restrictions);
  object.add("bpf_filters", found.bpf_filters);
}

void print_json(const Findings& found, const char* release) {
  const Capabilities& asked = found.asked;
  const auto text = [](bool value) { return value ? "true" : "false"; };
  std::printf("{\"kernel\":\"%s\",\"setup_error\":%d,\"queried\":%s", release, asked.setup_error,
              text(asked.queried));
  print_names("features", feature_names, [&](std::uint32_t bit) { return asked.has_feature(bit); });
  std::printf(",");
  {
    JsonObject object("setup_flags");
    for (const uring::SetupFlag& flag : uring::setup_flag_table) {
      object.add(flag.name, asked.has_setup_flag(flag.bit));
    }
  }
  if (asked.queried) {  // otherwise nobody knows
    print_names("enter_flags", enter_flag_names,
                [&](std::uint32_t bit) { return (asked.enter_flags & bit) != 0; });
    print_names("sqe_flags", sqe_flag_names, [&](std::uint32_t bit) { return (asked.sqe_flags & bit) != 0; });
  }
  print_names("opcodes", opcode_names, [&](std::uint32_t opcode) { return asked.has_opcode(opcode); });
  print_names("refused_opcodes", opcode_names,
              [&](std::uint32_t opcode) { return found.refused_opcodes[opcode]; });
  print_tried(found);
  std::printf(
      ",\"registered_ring_fd\":%s,\"provided_buffer_rings\":%s,\"last_opcode\":%u,"
      "\"register_opcodes\":%u}\n",
      text(asked.registered_ring_fd), text(asked.provided_buffer_rings), asked.last_opcode,
      asked.register_opcodes);
}

/// Without a ring, and then with one.
Findings find_out() {
  Findings found;
  found.asked = uring::probe_capabilities();
  found.task_restrictions = uring::trials::task_restrictions();
  found.bpf_filters = uring::trials::bpf_filters();
  if (found.asked.setup_error != 0) return found;
  uring::Ring trial_ring({.entries = 8});
  found.refused_opcodes = uring::trials::refused_opcodes(trial_ring, found.asked.last_opcode);
  found.refuses_nop = uring::trials::refuses_nop(trial_ring);
  found.notification_token = uring::trials::notification_token(trial_ring);
  found.timeout_nanoseconds = uring::trials::timeout_nanoseconds(trial_ring);
  found.socket_addresses = uring::trials::socket_addresses(trial_ring);
  found.registered_sends = uring::trials::registered_sends(trial_ring);
  found.writes_without_signal = uring::trials::writes_without_signal(trial_ring);
  found.buffer_min_left = uring::trials::buffer_min_left(trial_ring);
  return found;
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
  Findings found;
  try {
    found = find_out();
  } catch (const uring::SetupError& error) {  // there are rings, but none that our layer can use
    std::fprintf(stderr, "uring_probe: %s\n", error.what());
    return 3;
  }
  const Capabilities& asked = found.asked;
  utsname host{};
  ::uname(&host);
  if (asked.setup_error == 0 || asked.queried) {
    if (json) {
      print_json(found, host.release);
    } else {
      print_table(found, host.release);
    }
  }
  if (asked.setup_error == 0) return 0;
  std::fflush(stdout);
  const std::string why = uring::explain_setup(asked.setup_error, uring::gather_host_facts());
  std::fprintf(stderr, "uring_probe: cannot create a ring: %s\n  %s\n",
               uring::errno_text(asked.setup_error).c_str(), why.c_str());
  return 3;
}

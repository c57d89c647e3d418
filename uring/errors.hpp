// What an errno means here, in io_uring terms, and what to do about it.
//
// Two kinds of errors never mix:
//   - of the three system calls: this file. Setup throws them with a sentence, the other two return them.
//   - of an operation: cqe->res, the same -errno that read(2), accept(2), ... would have given. One of them can mean
//     io_uring itself: -EACCES, of an operation that needs no permission, is a restriction of the ring (5.10) or of
//     the task (7.0), or a BPF filter (7.0), and then the operation was never begun.
//
// The hard one is "why can't I create a ring here?": EPERM alone has three causes. So the sentence is made
// from the errno *and* from what the host says about itself (HostFacts), gathered only when there is
// something to explain.
#pragma once

#include <sys/resource.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <system_error>

namespace uring {

/// What the host says about io_uring. Unknown values are -1.
struct HostFacts {
  int io_uring_disabled = -1;  // sysctl kernel.io_uring_disabled, Linux 6.6: 0 all, 1 a group only, 2 nobody
  int seccomp_mode = -1;       // of this process: 0 none, 1 strict, 2 filter
  std::int64_t memlock_bytes = -1;     // RLIMIT_MEMLOCK; -1 also when unlimited
  std::int64_t descriptor_limit = -1;  // RLIMIT_NOFILE
};

namespace detail {

/// The first integer behind `key` in a file of /proc; -1 if there is none. `key` "" means at the start.
inline int read_proc_int(const char* path, const char* key) {
  std::FILE* const file = std::fopen(path, "re");
  if (file == nullptr) return -1;
  char line[256];
  int value = -1;
  const std::size_t key_length = std::strlen(key);
  while (value < 0 && std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, key, key_length) != 0) continue;
    if (std::sscanf(line + key_length, "%d", &value) != 1) value = -1;
  }
  std::fclose(file);
  return value;
}

inline std::int64_t soft_limit(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return -1;
  return static_cast<std::int64_t>(limit.rlim_cur);
}

}  // namespace detail

inline HostFacts gather_host_facts() {
  return {.io_uring_disabled = detail::read_proc_int("/proc/sys/kernel/io_uring_disabled", ""),
          .seccomp_mode = detail::read_proc_int("/proc/self/status", "Seccomp:"),
          .memlock_bytes = detail::soft_limit(RLIMIT_MEMLOCK),
          .descriptor_limit = detail::soft_limit(RLIMIT_NOFILE)};
}

/// "ENOMEM"; "errno 12345" for a number that has no name.
inline std::string errno_name(int error) {
  const char* const name = strerrorname_np(error);
  return name != nullptr ? name : "errno " + std::to_string(error);
}

/// "Operation not permitted (EPERM)"
inline std::string errno_text(int error) {
  return std::system_category().message(error) + " (" + errno_name(error) + ")";
}

/// Why io_uring_setup (or mapping the ring) failed with `error` (positive), and what to do about it.
inline std::string explain_setup(int error, const HostFacts& host) {
  switch (error) {
    case ENOSYS:
      return "this kernel has no io_uring: it is older than 5.1 or built without CONFIG_IO_URING, "
             "or a sandbox pretends so. Nothing but another kernel (or another sandbox) helps.";
    case EPERM:
    case EACCES:
      if (host.io_uring_disabled == 2) {
        return "kernel.io_uring_disabled is 2: io_uring is switched off for everyone on this host. "
               "As root: sysctl kernel.io_uring_disabled=0";
      }
      if (host.io_uring_disabled == 1) {
        return "kernel.io_uring_disabled is 1: only processes with CAP_SYS_ADMIN, or in the group "
               "that kernel.io_uring_group names, may create rings. Run as one of those, or as "
               "root: sysctl kernel.io_uring_disabled=0";
      }
      if (host.seccomp_mode == 2) {
        return "a seccomp filter forbids it, as the default profiles of Docker (since 25) and "
               "containerd do. Run the container with a profile that also allows io_uring_setup, "
               "io_uring_enter and io_uring_register.";
      }
      return "neither kernel.io_uring_disabled nor a seccomp filter forbids it, so a security "
             "module (SELinux, AppArmor) or a flag that needs a privilege does; the host's audit "
             "log knows which.";
    case ENOMEM:
      if (host.memlock_bytes >= 0) {
        // Rings were charged up to 5.11 and are again on 6.18, not on 6.1, 6.12 and 7.3. What else
        // a user has registered counts everywhere.
        return "not enough memory, or not enough of it may be locked: registered buffers, and with some "
               "kernels rings, of one user count together against RLIMIT_MEMLOCK (ulimit -l), here " +
               std::to_string(host.memlock_bytes / 1024) + " KiB. Raise it, or ask for fewer entries.";
      }
      return "the kernel has no memory for rings of this size. Ask for fewer entries.";
    case EMFILE:
      return "this process has no file descriptor left (ulimit -n, here " +
             std::to_string(host.descriptor_limit) + "). Close some, or raise the limit.";
    case ENFILE:
      return "the whole system has no file descriptor left (sysctl fs.file-max).";
    case EINVAL:
      return "the kernel refuses these sizes or flags even after every optional flag was dropped. "
             "Entries must be 1 to 32768 (more only with IORING_SETUP_CLAMP), the CQ at least as "
             "large as the SQ and at most 65536; sq_thread_cpu must be a CPU that is online and "
             "allowed; and a kernel older than 5.6 refuses any (this project needs 5.11).";
    case EFAULT:
      return "the kernel could not read or write the parameters: a bug in the caller.";
    default:
      return "not an error that io_uring_setup(2) or mmap(2) document for this call.";
  }
}

/// What -`error` from io_uring_enter means. None of them loses an SQE: what the kernel did not take stays in
/// the ring.
inline const char* explain_enter(int error) {
  switch (error) {
    case EAGAIN:
      return "the kernel has no memory for another request: let some complete, then submit again";
    case EBADF:
      return "not an open file descriptor, or (registered ring) an index that this thread did not register";
    case EBADFD:
      return "the ring is still disabled (IORING_SETUP_R_DISABLED): call enable() on the thread "
             "that will use it";
    case EBADR:
      return "the kernel had no memory to queue overflowing completions: some are lost for good";
    case EBUSY:
      return "completions overflow and cannot be flushed: harvest some, then submit again (kernels "
             "before 5.13)";
    case EEXIST:
      return "the ring belongs to another thread (IORING_SETUP_SINGLE_ISSUER): only the one that "
             "created or enabled it may enter";
    case EFAULT:
      return "the wait argument (time-out or signal mask) is not readable memory";
    case EINTR:
      return "a signal arrived while waiting, and nothing was submitted";
    case EINVAL:
      return "a flag or argument that this kernel does not know";
    case ENXIO:
      return "the ring is being torn down";
    case EOPNOTSUPP:
      return "the descriptor is not an io_uring, or the ring's mode does not allow this";
    case EOWNERDEAD:
      return "the SQPOLL thread has died";
    case ETIME:
      return "the time-out passed before enough completions arrived";
    default:
      return "not an error that io_uring_enter(2) documents";
  }
}

/// What -`error` from io_uring_register means.
inline const char* explain_register(int error) {
  switch (error) {
    case EACCES:
      return "the ring's restrictions forbid this, or restrictions or a BPF filter (7.0) that this task has "
             "put on all its rings";
    case EBADF:
      return "a descriptor in the list is not open, or the ring's own is not";
    case EBADFD:
      return "only a disabled ring can be enabled or restricted, and this one is running";
    case EBUSY:
      return "already registered, or every slot for registered rings (16 per thread) is taken";
    case EEXIST:
      return "the ring belongs to another thread (IORING_SETUP_SINGLE_ISSUER), or the id is taken";
    case EFAULT:
      return "a buffer in the list is not (wholly) mapped memory of this process";
    case EINVAL:
      return "this kernel does not know the operation, or refuses its argument";
    case EMFILE:
      return "more files than RLIMIT_NOFILE (ulimit -n) allows in the table";
    case ENOMEM:
      return "no memory, or the buffers exceed what may be locked (RLIMIT_MEMLOCK, ulimit -l)";
    case ENXIO:
      return "nothing of this kind is registered, or the ring is being torn down";
    case EOPNOTSUPP:
      return "the descriptor is not an io_uring, or the file cannot be registered";
    default:
      return "not an error that io_uring_register(2) documents";
  }
}

/// A ring could not be set up. code() is the true errno; what() is two lines that a person can act on:
///   cannot create a ring: Operation not permitted (EPERM)
///     kernel.io_uring_disabled is 2: io_uring is switched off ...
class SetupError : public std::system_error {
 public:
  /// `step` completes the sentence "cannot ...". `error` is positive.
  SetupError(int error, const std::string& step, const std::string& advice)
      : std::system_error(error, std::system_category()),
        text_("cannot " + step + ": " + errno_text(error) + "\n  " + advice) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

}  // namespace uring

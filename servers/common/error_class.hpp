// Four classes of errors, one errno in one class, one recovery for each class.
//
// The result of an operation is an errno in both kinds of server: -res of a completion, errno after a call.
// What to do about it must not be decided anew at each of the thirty places where one can appear, so it is
// decided here, once:
//
//   class        what it says               the recovery
//   ───────────  ─────────────────────────  ──────────────────────────────────────────────────────────────────
//   application  the client, or what it     This request is answered with an error, or this connection is
//                asked for                  closed. Nothing else is touched; accepting goes on.
//   transient    not now                    The same operation again, when the loop comes round: its memory
//                                           stays where it is. Never at once in a spin.
//   resource     something ran out, here    Give back first, then again: wait until buffers return (ENOBUFS),
//                or in the whole system     close the connection that was idle longest (EMFILE, ENFILE), refuse
//                                           the request with 503. Accepting goes on.
//   fatal        the thing itself is        Never tried again. A file that gave EIO is marked unusable and
//                broken                     answered with 500; where it is the server's own (its ring, its
//                                           listener), the server stops in an orderly way, exit code 1.
//
// Three that people put elsewhere:
//   ENOBUFS       is a matter of resources: trying again at once meets the same empty buffer group
//   ECANCELED     is our own doing and says that nothing was done: transient, if it is still wanted
//   ECONNABORTED  and the network errors that accept(2) can report belong to the connection that was not
//                 accepted, so application: the listener is as good as before
// An errno that is not named is the application's: it ends what it happened to, and nothing more.
#pragma once

#include <cerrno>
#include <cstdint>

namespace common {

enum class ErrorClass : std::uint8_t { application, transient, resource, fatal };

/// The class of a positive errno.
constexpr ErrorClass classify(int error) noexcept {
  switch (error) {
    case EAGAIN:
    case EINTR:
    case EBUSY:
    case EALREADY:
    case EINPROGRESS:
    case ECANCELED:
      return ErrorClass::transient;

    case ENOBUFS:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return ErrorClass::resource;

    case EIO:
    case EFAULT:
    case ENOSPC:
    case EDQUOT:
    case ENODEV:
    case ENXIO:
      return ErrorClass::fatal;

    default:
      return ErrorClass::application;
  }
}

/// For a log line.
constexpr const char* name_of(ErrorClass error_class) noexcept {
  switch (error_class) {
    case ErrorClass::application:
      return "application";
    case ErrorClass::transient:
      return "transient";
    case ErrorClass::resource:
      return "resource";
    case ErrorClass::fatal:
      return "fatal";
  }
  return "?";
}

}  // namespace common

// The drills of --drill NAME: one way for a chain to break at a time, on a ring of its own, told while it happens.
#pragma once

#include <string>

namespace linked {

/// Runs the drill of this name; "all" runs all of them, "list" prints their names. Each says what it expects,
/// what the kernel said, and whether that was as expected; one that needs what this kernel does not have says "skipped"
/// and why. Returns the program's exit code: 1 if something was not as expected, 2 if there is no such drill. Throws uring::SetupError without io_uring.
int run_drill(const std::string& name);

}  // namespace linked

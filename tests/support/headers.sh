#!/usr/bin/env bash
# Does uring/ compile with the oldest and with the newest kernel headers? Both are fetched as Debian packages
# (linux-libc-dev of Debian 12, and the newest in Debian 13's backports; debian_packages.sh), unpacked below
# build/headers, and put in front of the machine's own. One translation unit includes all of uring/ and
# tests/unit/abi_test.cpp, whose static_asserts are what is at stake: a name that a newer header brings must not clash
# with one of ours, and must not have another value.
#
# Where the packages cannot be had, the check is skipped with a reason; with REQUIRE_KERNELS=1 that is a failure.
# Exit codes: 0 compiled or skipped; 1 not. Environment: CXX (default g++).
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/../.."
root=$PWD/build/headers
cxx=${CXX:-g++}

source tests/support/debian_packages.sh

skip() {
  echo "headers-check: skipped: $1" >&2
  [[ -n ${REQUIRE_KERNELS:-} && ${REQUIRE_KERNELS} != 0 ]] && exit 1
  exit 0
}

fetch() { # SUITE: afterwards build/headers/SUITE/usr/include is there; sets version
  debian_open "$root/apt/$1" amd64 "$1" || skip "$debian_reason"
  version=$(debian_version linux-libc-dev)
  [[ $(cat "$root/$1/version" 2>/dev/null) == "$version" ]] && return
  rm -rf "${root:?}/$1"
  mkdir -p "$root/$1"
  debian_unpack linux-libc-dev "$root/$1" || skip "$debian_reason"
  echo "$version" >"$root/$1/version"
}

unit=$root/all.cpp
mkdir -p "$root"
{
  printf '#include "%s"\n' uring/*.hpp
  echo '#include "tests/unit/abi_test.cpp"'
} >"$unit"

for suite in bookworm trixie-backports; do
  fetch "$suite"
  include=$root/$suite/usr/include
  # asm/ lies in a folder with the machine's name where the package is for one machine, and beside the others where it
  # is for all.
  machine=$include/x86_64-linux-gnu
  [[ -d $machine/asm ]] || machine=$include
  flags=(-std=c++20 -I. -pthread -DSOURCE_DIR='""' -DBUILD_DIR='""' -isystem "$include" -isystem "$machine")
  "$cxx" "${flags[@]}" -Wall -Wextra -Werror -fsyntax-only "$unit" ||
    { echo "headers-check: does not compile with linux-libc-dev $version" >&2; exit 1; }
  # To be sure that it was these headers.
  "$cxx" "${flags[@]}" -M -MF "$root/$suite.d" "$unit"
  grep -q "$include/linux/io_uring.h" "$root/$suite.d" ||
    { echo "headers-check: the compiler did not take $include/linux/io_uring.h" >&2; exit 1; }
  echo "headers-check: uring/ compiles with linux-libc-dev $version ($suite)"
done

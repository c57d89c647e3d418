#!/usr/bin/env bash
# Does uring/ compile with the oldest and with the newest kernel headers? Both are fetched as Debian packages
# (linux-libc-dev of Debian 12, and the newest in Debian 13's backports), unpacked below build/headers, and put in front
# of the machine's own. One translation unit includes all of uring/ and tests/unit/abi_test.cpp, whose static_asserts
# and comparisons are what is at stake: a name that a newer header brings must not clash with one of ours, and must not
# have another value. (The values that are no static_assert are compared by the test program, in `make test`.)
#
# apt is given sources, a state and a cache of its own there. Nothing on the machine changes, and root is not needed.
#
# Where the packages cannot be had, the check is skipped with a reason; with REQUIRE_KERNELS=1 that is a failure.
# Exit codes: 0 compiled or skipped; 1 not. Environment: CXX (default g++).
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/../.."
root=$PWD/build/headers
apt=$root/apt
cxx=${CXX:-g++}

skip() {
  echo "headers-check: skipped: $1" >&2
  [[ -n ${REQUIRE_KERNELS:-} && ${REQUIRE_KERNELS} != 0 ]] && exit 1
  exit 0
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  skip "the headers come from Debian's packages, and this machine has no apt-get"
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null |
  head -n 1) || true
[[ -n $mirror ]] || skip "apt knows no Debian mirror here (apt-get update makes it known)"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -r $keyring ]] || skip "$keyring is missing (package debian-archive-keyring)"

fetch() { # SUITE: afterwards build/headers/SUITE/usr/include is there; prints the package's version
  local suite=$1 own=$apt/$1
  mkdir -p "$own"/{lists/partial,cache/archives/partial,packages}
  : >"$own/status"
  echo "deb [signed-by=$keyring] $mirror $suite main" >"$own/sources.list"
  local options=(-q -o Dir::Etc::sourcelist="$own/sources.list" -o Dir::Etc::sourceparts=-
    -o Dir::State::lists="$own/lists" -o Dir::State::status="$own/status" -o Dir::Cache="$own/cache"
    -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root -o Acquire::Languages=none)
  # The lists are good for a day.
  if [[ -z $(find "$own/lists" -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit) ]]; then
    apt-get "${options[@]}" update >"$own/log" 2>&1 || return 1
  fi
  local version
  version=$(apt-cache "${options[@]}" show --no-all-versions linux-libc-dev | sed -n 's/^Version: //p' | head -n 1)
  [[ -n $version ]] || return 1
  if [[ $(cat "$root/$suite/version" 2>/dev/null) != "$version" ]]; then
    rm -rf "${root:?}/$suite" "$own"/packages/*
    (cd "$own/packages" && apt-get "${options[@]}" download linux-libc-dev >"$own/log" 2>&1) || return 1
    mkdir -p "$root/$suite"
    dpkg-deb -x "$own"/packages/linux-libc-dev_*.deb "$root/$suite"
    echo "$version" >"$root/$suite/version"
  fi
  echo "$version"
}

unit=$root/all.cpp
mkdir -p "$root"
{
  printf '#include "%s"\n' uring/*.hpp
  echo '#include "tests/unit/abi_test.cpp"'
} >"$unit"

for suite in bookworm trixie-backports; do
  version=$(fetch "$suite") ||
    skip "linux-libc-dev of $suite cannot be fetched: $(grep -aE '^[EW]:' "$apt/$suite/log" | head -n 1)"
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

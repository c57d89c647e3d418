#!/usr/bin/env bash
# Fetches one kernel of kernels.tsv, and the busybox that its guest runs on, from the mirror that this machine's apt
# already uses.
#
# usage: fetch.sh NAME       afterwards build/kernels/NAME holds `vmlinuz` and `release`, and build/kernels has
#                            `busybox.MACHINE`
#
# All of it happens below build/kernels: apt is given a list of sources, a state and a cache of its own there, so nothing
# on the machine changes and root is not needed. The signatures are checked with Debian's keyring. Nothing is pinned to a
# version, because Debian removes each version when it publishes the next; the newest of a series is what is taken.
#
# Exit codes: 0 it is there; 1 it cannot be fetched, and the last line on stderr says why; 2 usage.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
root=$PWD/build/kernels
name=${1:?usage: fetch.sh NAME}

refuse() {
  echo "fetch: $1" >&2
  exit "${2:-1}"
}

IFS=$'\t' read -r _ machine suites pattern < <(awk -F'\t' -v name="$name" '$1 == name' "$here/kernels.tsv") ||
  refuse "no kernel '$name' in tests/kernels/kernels.tsv; there are: $(awk -F'\t' '!/^#/ { printf "%s ", $1 }' "$here/kernels.tsv")" 2

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  refuse "kernels come from Debian's packages, and this machine has no apt-get"

# ---- apt, in a folder of its own ---------------------------------------------------------------------------------

# Where this machine's own sources are, for the archive that carries this label ("Debian", "Debian-Security").
mirror_of() {
  apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' "Label: $1" 2>/dev/null | head -n 1
}
mirror=$(mirror_of Debian)
security=$(mirror_of Debian-Security)
[[ -n $mirror ]] || refuse "apt knows no Debian mirror here (apt-get update makes it known)"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -r $keyring ]] || refuse "$keyring is missing (package debian-archive-keyring)"

apt=$root/apt/$name
mkdir -p "$apt"/{lists/partial,cache/archives/partial,packages}
: >"$apt/status"
: >"$apt/sources.list"
for suite in $suites bookworm; do
  site=$mirror
  [[ $suite == *-security ]] && site=$security
  [[ -n $site ]] && echo "deb [signed-by=$keyring] $site $suite main" >>"$apt/sources.list"
done
sort -u -o "$apt/sources.list" "$apt/sources.list"
options=(-q -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists"
  -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Architecture="$machine"
  -o APT::Architectures="$machine" -o APT::Sandbox::User=root -o Acquire::Languages=none)

# The lists are good for a day.
if [[ -z $(find "$apt/lists" -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit) ]]; then
  apt-get "${options[@]}" update >"$apt/log" 2>&1 ||
    refuse "apt-get update failed: $(grep -aE '^[EW]:' "$apt/log" | head -n 1)"
fi

newest() { # PATTERN
  apt-cache "${options[@]}" pkgnames | grep -xE "$1" | sort -V | tail -n 1
}
unpack() { # PACKAGE FOLDER
  (cd "$apt/packages" && apt-get "${options[@]}" download "$1" >"$apt/log" 2>&1) ||
    refuse "cannot download $1: $(grep -aE '^[EW]:' "$apt/log" | head -n 1)"
  local files=("$apt/packages/${1}_"*.deb)
  dpkg-deb -x "${files[0]}" "$2"
  rm -f "${files[@]}"
}

# ---- The kernel, and a busybox ---------------------------------------------------------------------------------------

package=$(newest "$pattern") || true
[[ -n $package ]] || refuse "the mirror has no package that matches $pattern in $suites"
version=$(apt-cache "${options[@]}" show --no-all-versions "$package" | sed -n 's/^Version: //p' | head -n 1)

folder=$root/$name
if [[ "$(cat "$folder/package" 2>/dev/null)" != "$package $version" ]]; then
  rm -rf "$folder"
  mkdir -p "$folder/unpacked"
  unpack "$package" "$folder/unpacked"
  image=$(find "$folder/unpacked" -name 'vmlinuz*' -type f | head -n 1)
  [[ -n $image ]] || refuse "$package holds no vmlinuz"
  mv "$image" "$folder/vmlinuz"
  rm -rf "$folder/unpacked"

  unpack busybox-static "$folder/unpacked"
  mv "$(find "$folder/unpacked" -path '*bin/busybox' -type f | head -n 1)" "$root/busybox.$machine"
  rm -rf "$folder/unpacked"
  # The package's version names the stable release that uname hides: "6.1.0-50-cloud-amd64" is 6.1.176.
  echo "${version%%-*}" >"$folder/release"
  echo "$package $version" >"$folder/package"
fi

#!/usr/bin/env bash
# Fetches one kernel of kernels.tsv, and the busybox that its guest runs on, as tests/support/debian_packages.sh says.
#
# usage: fetch.sh NAME       afterwards build/kernels/NAME holds `vmlinuz` and `release`, and build/kernels has
#                            `busybox.MACHINE`
#
# Exit codes: 0 it is there; 1 it cannot be fetched, and the last line on stderr says why; 2 usage.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
root=$PWD/build/kernels
name=${1:?usage: fetch.sh NAME}
source "$here/../support/debian_packages.sh"

refuse() { # WHY [STATUS]
  echo "fetch: $1" >&2
  exit "${2:-1}"
}

IFS=$'\t' read -r _ machine suites pattern < <(awk -F'\t' -v name="$name" '$1 == name' "$here/kernels.tsv") ||
  refuse "no kernel '$name' in tests/kernels/kernels.tsv" 2

# busybox is Debian 12's for all.
# shellcheck disable=SC2086  # the suites are words
debian_open "$root/apt/$name" "$machine" $suites bookworm || refuse "$debian_reason"
package=$(debian_newest "$pattern")
[[ -n $package ]] || refuse "the mirror has no package that matches $pattern in $suites"
version=$(debian_version "$package")

folder=$root/$name
[[ "$(cat "$folder/package" 2>/dev/null)" == "$package $version" && -e $root/busybox.$machine ]] && exit
rm -rf "$folder"
mkdir -p "$folder/unpacked"
debian_unpack "$package" "$folder/unpacked" || refuse "$debian_reason"
image=$(find "$folder/unpacked" -name 'vmlinuz*' -type f | head -n 1)
[[ -n $image ]] || refuse "$package holds no vmlinuz"
mv "$image" "$folder/vmlinuz"
debian_unpack busybox-static "$folder/unpacked" || refuse "$debian_reason"
mv "$(find "$folder/unpacked" -path '*bin/busybox' -type f | head -n 1)" "$root/busybox.$machine"
rm -rf "$folder/unpacked"
# The package's version names the stable release that uname hides: "6.1.0-57-cloud-amd64" is 6.1.192.
echo "${version%%-*}" >"$folder/release"
echo "$package $version" >"$folder/package"

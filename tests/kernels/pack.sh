#!/usr/bin/env bash
# Packs the initramfs of the guests of one machine: busybox, the scripts of tests/kernels/guest, and statically linked
# programs.
#
# usage: pack.sh MACHINE BUILD PROGRAM…       MACHINE is amd64 or arm64; BUILD the folder that the tests were compiled for
set -euo pipefail

cd "$(dirname "$0")/../.."
machine=$1 build=$2
shift 2

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"/{bin,guest,programs,etc}
cp "build/kernels/busybox.$machine" "$folder/bin/busybox"
cp tests/kernels/guest/* "$folder/guest"
mv "$folder/guest/init" "$folder/init"
cp "$@" "$folder/programs"
printf 'SOURCE_DIR=%q\nBUILD_DIR=%q\n' "$PWD" "$PWD/$build" >"$folder/etc/guest"
# What some unit tests read of the tree.
mkdir "$folder/source"
tar -c --exclude='docs/results' README.md docs tests uring | tar -x -C "$folder/source"
(cd "$folder" && find . | cpio -o -H newc --quiet --owner=0:0) >"build/kernels/$machine.cpio.new"
mv "build/kernels/$machine.cpio.new" "build/kernels/$machine.cpio"

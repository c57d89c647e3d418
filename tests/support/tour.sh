#!/usr/bin/env bash
# `make tour`: what this kernel can do, Milestone 1 with its pictures, then the same machinery copying a real file.
#
# Environment: BIN (where the binaries are, default build), FILE (what to copy, default README.md).
set -euo pipefail

bin=${BIN:-build}
file=${FILE:-README.md}
copy=$bin/tour_copy
trap 'rm -f "$copy"' EXIT

section() { printf '\n──── %s\n\n' "$1"; }

section "1. What this kernel can do: $bin/uring_probe"
"$bin/uring_probe"

section "2. Both rings, step by step: $bin/m1_ring_basics (with --step it waits for Enter)"
"$bin/m1_ring_basics" "$file"

section "3. A real job: $bin/m1_ring_basics copy $file"
"$bin/m1_ring_basics" copy "$file" "$copy"
cksum "$file" "$copy"
cmp "$file" "$copy"
echo "Source and copy are the same, byte for byte."

section "What next"
cat <<TEXT
  read    README.md says in which order; uring/indices.hpp is the heart: who writes which word, in which order
  watch   strace -f -e trace=io_uring_setup,io_uring_enter,io_uring_register $bin/m1_ring_basics --quiet
  story   servers/m1_ring_basics/README.md and its main.cpp, top to bottom
  prove   make test
TEXT

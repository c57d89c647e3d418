#!/usr/bin/env bash
# `make asm`: the listings, one after the other, then what orders memory in each function, side by side.
#
# usage: show_asm.sh MUTANT X86_64 ARM64      listings made by asm_listing.awk; one that does not exist had no
#                                             compiler
set -euo pipefail

mutant=$1
shift
names=(x86-64 arm64) present=()
for listing in "$@"; do
  printf '──── %s, %s\n' "${names[0]}" "$mutant"
  names=("${names[@]:1}")
  if [[ -e $listing ]]; then
    present+=("$listing")
    cat "$listing"
  else
    printf '\n    no compiler for it here: make deps installs it, or names it\n'
  fi
  printf '\n'
done

printf '──── What orders memory in each function ("-": plain loads and stores)\n\n'
awk '
  FNR == 1 { ++file; label[file] = FILENAME ~ /x86_64/ ? "x86-64" : "arm64" }
  /^[a-z]/ {
    name = substr($1, 1, length($1) - 1)
    if (file == 1) names[++functions] = name
    next
  }
  /^    (lock|mfence|xchg|dmb|stlr|stlrh|ldar|ldapr|ldarh)( |$)/ {
    found = $1 ($1 == "lock" || $1 == "dmb" ? " " $2 : "")
    orders[file, name] = orders[file, name] (orders[file, name] == "" ? "" : ", ") found
  }
  function row(name, left, right) { printf "    %-22s%-14s%s\n", name, left, right }
  function cell(file, name) { return file > files ? "" : orders[file, name] == "" ? "-" : orders[file, name] }
  END {
    files = file
    row("", label[1], label[2])
    for (i = 1; i <= functions; ++i) row(names[i], cell(1, names[i]), cell(2, names[i]))
  }' "${present[@]}"

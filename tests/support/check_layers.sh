#!/usr/bin/env bash
# The layers, proved: what may include what, and where a barrier may stand.
#
# usage: check_layers.sh [TREE]        prints file:line: what is wrong; exits 1 if anything is
#
#     servers/<milestone>/ ──► servers/common_ring/ ──► uring/        (and system headers below everything)
#              │                        │
#              └────────► servers/common/ ◄──────────── baseline_epoll/
#
#   uring/             knows the kernel and nothing else; no header over 400 lines
#   servers/common/    knows neither io_uring nor epoll
#   servers/<one>/     never includes another milestone's folder
#   baseline_epoll/    never includes uring/, common_ring/ or <linux/io_uring.h>
#   uring/indices.hpp  is the only file of uring/ and servers/ with an atomic access, a fence or inline assembly;
#                      uring/syscalls.hpp may have assembly, for its one system call
#   <liburing.h>       is included below bench/ only
#
# Each file is checked for itself, so no chain of includes can get around it. Our own folders count the same in "" and
# in <>, and a quoted include starts at the root of the tree. Comments and string literals may say what they like.
set -euo pipefail

cd "${1:-$(dirname "$0")/../..}"
max_lines=400
include='^[[:space:]]*#[[:space:]]*include[[:space:]]*(["<])([^">]+)[">]'
our_folders='^(uring|servers|baseline_epoll|tests|bench|docs)/'
violations=0

complain() { # WHERE WHAT
  echo "$1: $2"
  violations=$((violations + 1))
}

# The folders that a file may include from ("*" = any), then the system headers that it may not.
allowed_folders() {
  case $1 in
    uring/*) echo 'uring/' ;;
    servers/common/*) echo 'servers/common/' ;;
    servers/common_ring/*) echo 'uring/ servers/common/ servers/common_ring/' ;;
    servers/*/*) echo "uring/ servers/common/ servers/common_ring/ $(cut -d/ -f1,2 <<<"$1")/" ;;
    baseline_epoll/*) echo 'servers/common/ baseline_epoll/' ;;
    *) echo '*' ;;
  esac
}

refused_headers() {
  case $1 in
    servers/common/*) echo 'liburing linux/io_uring.h sys/epoll.h' ;;
    baseline_epoll/*) echo 'liburing linux/io_uring.h' ;;
    bench/*) echo '' ;;
    *) echo 'liburing' ;;
  esac
}

check_includes() { # FILE
  local file=$1 folder header number text target
  local -a allowed refused
  read -ra allowed <<<"$(allowed_folders "$file")"
  read -ra refused <<<"$(refused_headers "$file")"
  while IFS=: read -r number text; do
    if [[ ! $text =~ $include ]]; then
      complain "$file:$number" 'an include that names no file cannot be checked'
      continue
    fi
    target=${BASH_REMATCH[2]}
    if [[ $target == *..* ]]; then
      complain "$file:$number" "include from the root of the tree, not by '..': $target"
      continue
    fi
    for header in "${refused[@]}"; do
      [[ $target == "$header"* ]] && complain "$file:$number" "may not include <$target>"
    done
    [[ ${allowed[0]} == '*' ]] && continue
    if [[ ${BASH_REMATCH[1]} == '<' && ! $target =~ $our_folders ]]; then
      continue
    fi
    for folder in "${allowed[@]}"; do
      [[ $target == "$folder"* ]] && continue 2
    done
    complain "$file:$number" "may include from ${allowed[*]} only, not $target"
  done < <(grep -nE '^[[:space:]]*#[[:space:]]*include([^_]|$)' "$file" || true)
}

# Prints "line:word" for each barrier outside comments and string literals.
barriers() { # FILE
  awk '
    {
      text = $0
      gsub(/"([^"\\]|\\.)*"/, "\"\"", text)
      if (in_comment) {
        if (!match(text, /\*\//)) next
        text = substr(text, RSTART + 2)
        in_comment = 0
      }
      sub(/\/\/.*/, "", text)
      while (match(text, /\/\*/)) {
        start = RSTART
        rest = substr(text, start + 2)
        if (!match(rest, /\*\//)) { in_comment = 1; rest = "" } else rest = substr(rest, RSTART + 2)
        text = substr(text, 1, start - 1) " " rest
      }
      text = " " text " "
      while (match(text, /[^A-Za-z0-9_](asm|__asm|__asm__)[^A-Za-z0-9_]|std::atomic|[^A-Za-z0-9_]atomic_|memory_order|__atomic_|__sync_|_mm_[lsm]fence|<atomic>|<stdatomic.h>/)) {
        word = substr(text, RSTART, RLENGTH)
        gsub(/[^A-Za-z0-9_:<>.]/, "", word)
        print NR ":" word
        text = substr(text, RSTART + RLENGTH)
      }
    }' "$1"
}

check_barriers() { # FILE
  local number word
  while IFS=: read -r number word; do
    [[ $1 == uring/syscalls.hpp && $word == asm ]] && continue
    complain "$1:$number" "$word belongs into uring/indices.hpp"
  done < <(barriers "$1")
}

folders=()
for folder in uring servers baseline_epoll tests bench docs; do
  [[ -d $folder ]] && folders+=("$folder")
done
files=0
while IFS= read -r file; do
  files=$((files + 1))
  check_includes "$file"
  case $file in
    uring/indices.hpp) ;;
    uring/* | servers/*) check_barriers "$file" ;;
  esac
  if [[ $file == uring/* ]] && (($(wc -l <"$file") > max_lines)); then
    complain "$file:$((max_lines + 1))" "over $max_lines lines: two ideas in one file?"
  fi
done < <(if ((${#folders[@]})); then find "${folders[@]}" -name '*.[ch]pp' -o -name '*.[ch]' -o -name '*.cc' | sort; fi)

((violations)) && exit 1
if ((files == 0)); then
  echo 'check-layers: there is nothing to check here'
  exit 1
fi
echo "check-layers: $files files, the layers hold"

#!/usr/bin/env bash
# `make tour`: what this kernel can do; Milestone 1 with its pictures, then the same machinery copying a real file;
# Milestone 2 serving files, checked byte for byte, and compared with its epoll twin; Milestone 3 echoing under load.
#
# Environment: BIN (where the binaries are, default build), FILE (what to copy, default README.md).
set -euo pipefail

bin=${BIN:-build}
file=${FILE:-README.md}
copy=$bin/tour_copy
served=$bin/tour_files
servers=()
clean_up() {
  rm -rf "$copy" "$served" "$served".*
  if ((${#servers[@]})); then kill "${servers[@]}" 2>/dev/null || true; fi
}
trap clean_up EXIT

section() { printf '\n──── %s\n\n' "$1"; }

# start NAME PROGRAM OPTION…: starts a server on a port that it picks, and sets the variables NAME_pid and NAME_port.
start() {
  local name=$1 said=$served.$1
  shift
  : >"$said"
  "$@" --port 0 >"$said" &
  servers+=($!)
  printf -v "${name}_pid" %s $!
  local tries
  for ((tries = 0; tries < 100; ++tries)); do
    if grep -q listening "$said"; then break; fi
    sleep 0.1
  done
  printf -v "${name}_port" %s "$(sed -n 's/^listening .*://p' "$said")"
}

# check PORT PATH: what comes over the wire is the file, or the tour ends here.
check() {
  local here there
  here=$(cksum <"$2")
  if command -v curl >/dev/null; then
    there="curl got $(curl --silent --show-error --fail --noproxy '*' "http://127.0.0.1:$1/$2" | cksum)"
    [[ $there == "curl got $here" ]]
  else
    "$bin/load" file --port "$1" --path "$2" --checksum "$here" --connections 1 --messages 1 >/dev/null
    there="$bin/load found the same"
  fi
  printf '  %-24s checksum and bytes on disk: %-20s  %s\n' "$2" "$here" "$there"
}

# pin PID…: servers on the first CPU, and what "${on_other_cpu[@]}" begins on the second, where there are two.
on_other_cpu=()
pin() {
  local pid
  if ! command -v taskset >/dev/null || (($(nproc) < 2)); then return 0; fi
  for pid in "$@"; do taskset -cp 0 "$pid" >/dev/null || return 0; done
  on_other_cpu=(taskset -c 1)
}

section "1. What this kernel can do: $bin/uring_probe"
"$bin/uring_probe"

section "2. Both rings, step by step: $bin/m1_ring_basics (with --step it waits for Enter)"
"$bin/m1_ring_basics" "$file"

section "3. A real job: $bin/m1_ring_basics copy $file"
"$bin/m1_ring_basics" copy "$file" "$copy"
cksum "$file" "$copy"
cmp "$file" "$copy"
echo "Source and copy are the same, byte for byte."

section "4. Files to clients, through one ring: $bin/m2_file_server"
mkdir -p "$served"
start files "$bin/m2_file_server" --root .
echo "$bin/m2_file_server --root . listens on 127.0.0.1:$files_port"
for path in README.md uring/indices.hpp "$bin/m2_file_server"; do check "$files_port" "$path"; done
kill "$files_pid"
wait "$files_pid"
echo "Nothing differs, and the server found nothing that leaked. Its last line says what it did:"
tail -n 1 "$served.files"

section "5. The same job without io_uring, measured here: $bin/load --against"
"$bin/load" make-files "$served" --sizes 4K --count 64 --big 0 >"$served.list" 2>/dev/null
start ring "$bin/m2_file_server" --root "$served"
start twin "$bin/epoll_file_server" --root "$served"
pin "$ring_pid" "$twin_pid"
echo "A is $bin/m2_file_server, B is $bin/epoll_file_server; 64 clients, cached files of 4 KiB, every byte verified:"
echo
"${on_other_cpu[@]}" "$bin/load" file --port "$ring_port" --against "$twin_port" --server-pid "$ring_pid" \
  --against-pid "$twin_pid" --paths "$served.list" --connections 64 --seconds 1 --warmup 0.2 --blocks 3
echo
echo "Twelve seconds on one machine are no verdict: \`make bench-file\` measures the whole matrix."

section "6. A thousand clients at once: $bin/m3_echo_server"
start echo "$bin/m3_echo_server"
start echo_twin "$bin/epoll_echo_server"
pin "$echo_pid" "$echo_twin_pid"
echo "1,000 connections, each with four messages of 512 bytes under way; every byte that comes back is verified:"
echo
"${on_other_cpu[@]}" "$bin/load" echo --port "$echo_port" --server-pid "$echo_pid" --connections 1000 --depth 4 \
  --size 512 --seconds 2 --warmup 0.2
echo
echo "A is $bin/m3_echo_server, B is $bin/epoll_echo_server; 128 connections, 64 bytes, one message at a time:"
echo
"${on_other_cpu[@]}" "$bin/load" echo --port "$echo_port" --against "$echo_twin_port" --server-pid "$echo_pid" \
  --against-pid "$echo_twin_pid" --connections 128 --seconds 1 --warmup 0.2 --blocks 3
kill "$echo_pid" "$echo_twin_pid"
wait "$echo_pid" "$echo_twin_pid"
echo
echo "What each of the two did, by its own count. A's system calls per request are the thing to look at; that the time"
echo "does not follow is the kernel's TCP stack, where nearly all of it goes (docs/echo.md):"
tail -qn 1 "$served.echo" "$served.echo_twin"

section "What next"
cat <<TEXT
  read    README.md says in which order; uring/indices.hpp is the heart: who writes which word, in which order
  watch   strace -f -e trace=io_uring_setup,io_uring_enter,io_uring_register $bin/m1_ring_basics --quiet
  story   servers/m1_ring_basics/README.md and its main.cpp, top to bottom; then servers/m2_file_server
  serve   $bin/m2_file_server --root DIR, and curl against it
  break   $bin/m3_echo_server --port 9001, and $bin/conformance 127.0.0.1 9001 (make conformance does both)
  climb   make ladder: the echo server with one idea of io_uring more at each rung
  prove   make test
TEXT

#!/usr/bin/env bash
# `make tour`: what this kernel can do; Milestone 1 with its pictures, then the same machinery copying a real file;
# Milestone 2 serving files, checked byte for byte; Milestone 3 echoing under load; Milestone 4 sending without a copy,
# chaining operations, and writing a log that survives. Then ninety seconds of comparisons with their twins.
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
  "$@" --port 0 >"$said" 2>"$said.stderr" &
  servers+=($!)
  printf -v "${name}_pid" %s $!
  local tries
  for ((tries = 0; tries < 100; ++tries)); do
    if grep -q listening "$said"; then break; fi
    sleep 0.1
  done
  printf -v "${name}_port" %s "$(sed -n 's/^listening .*://p' "$said")"
}

# end NAME…: SIGTERM, and each must say by its exit code that nothing leaked.
end() {
  local name pid
  for name in "$@"; do
    pid=${name}_pid
    kill "${!pid}"
    wait "${!pid}"
  done
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
end files
echo "Nothing differs, and the server found nothing that leaked. Its last line says what it did:"
tail -n 1 "$served.files"

section "5. A thousand clients at once: $bin/m3_echo_server"
start echo "$bin/m3_echo_server"
pin "$echo_pid"
echo "1,000 connections, each with four messages of 512 bytes under way; every byte that comes back is verified:"
echo
"${on_other_cpu[@]}" "$bin/load" echo --port "$echo_port" --server-pid "$echo_pid" --connections 1000 --depth 4 \
  --size 512 --seconds 2 --warmup 0.2
end echo

section "6. The same files without the last copy: $bin/m4_zero_copy"
start zero "$bin/m4_zero_copy" --root .
for path in README.md "$bin/m2_file_server"; do check "$zero_port" "$path"; done
end zero
echo
cat "$served.zero.stderr"
echo "That is loopback: the kernel cannot lend our memory to another process. \`make bench-zero-copy\` shows where it can."
echo "And why a buffer is not ours again when its send has completed:"
echo
"$bin/m4_zero_copy" --drill early-reuse

section "7. Chains: all that is done for a client, said before it comes: $bin/m4_linked"
start linked "$bin/m4_linked" --message 64 --skip-success
echo "ACCEPT, RECV, SEND and CLOSE, linked; 64 such chains are with the kernel. A new connection for each message:"
echo
"$bin/load" churn --port "$linked_port" --size 64 --connections 32 --seconds 1 --warmup 0
end linked
echo
tail -n 1 "$served.linked"
echo "One completion for each client, and less than one enter. But a chain is no transaction:"
echo
"$bin/m4_linked" --drill prep-error
"$bin/m4_linked" --drill short-recv

section "8. A log that keeps its word: $bin/m4_ordered_log"
log=$served/log

# put TEXT: asks for a record, and prints the answer, which comes when it is durable.
put() {
  local answer
  printf 'PUT %d\n%s' "${#1}" "$1" >&"$connection"
  read -r answer <&"$connection"
  printf '  PUT %-24s %s\n' "$1" "$answer"
}

start log "$bin/m4_ordered_log" --file "$log"
exec {connection}<>"/dev/tcp/127.0.0.1/$log_port"
put "the first record"
put "and the second"
kill -KILL "$log_pid"
wait "$log_pid" 2>/dev/null || true
exec {connection}>&-
echo "Killed by SIGKILL; and half a record at the end, as a crash leaves it. It starts again:"
printf 'RLOG and then the power went' >>"$log"
start log "$bin/m4_ordered_log" --file "$log"
cat "$served.log.stderr"
exec {connection}<>"/dev/tcp/127.0.0.1/$log_port"
put "the third"
exec {connection}>&-
end log
echo
echo "Its fsyncs come behind its writes by completions, by DRAIN or by links (--order). DRAIN has a price:"
echo
"$bin/m4_ordered_log" --drill stall

section "9. Ninety seconds of comparisons, measured here: $bin/load --against"
compare_seconds=0.9
# against TITLE MODE OPTION…: the two servers that were started as ours and twin, A B B A.
against() {
  local title=$1 where=(--port "$ours_port")
  shift
  echo
  echo "── $title"
  if [[ $ours_port == *[!0-9]* ]]; then where=(--unix "$ours_port"); fi
  pin "$ours_pid" "$twin_pid"
  "${on_other_cpu[@]}" "$bin/load" "$@" "${where[@]}" --against "$twin_port" --server-pid "$ours_pid" \
    --against-pid "$twin_pid" --seconds "$compare_seconds" --warmup 0.2 --blocks 3
  end ours twin
}
echo "A is the io_uring server, B its epoll twin; every byte is verified. Above 1 means that A is better."
"$bin/load" make-files "$served" --sizes 4K,1M --count 64 --big 0 2>/dev/null | grep '4K' >"$served.list"
ls "$served" | grep '1M' >"$served.large"

start ours "$bin/m2_file_server" --root "$served"
start twin "$bin/epoll_file_server" --root "$served"
against "cached files of 4 KiB, 64 connections" file --paths "$served.list" --connections 64

start ours "$bin/m2_file_server" --root "$served"
start twin "$bin/epoll_file_server" --root "$served" --io sendfile
against "cached files of 1 MiB, 16 connections, and the twin uses sendfile (which copies nothing)" \
  file --paths "$served.large" --connections 16

start ours "$bin/m3_echo_server"
start twin "$bin/epoll_echo_server"
against "echo over TCP, 64 bytes, 128 connections" echo --connections 128

start ours "$bin/m3_echo_server" --unix "$served.a.socket"
start twin "$bin/epoll_echo_server" --unix "$served.b.socket"
ours_port=$served.a.socket twin_port=$served.b.socket
against "the same over a Unix-domain socket: less TCP, so more of what differs" echo --connections 128

start ours "$bin/m3_echo_server"
start twin "$bin/epoll_echo_server"
against "a new connection for each message of 64 bytes, 16 at a time" churn --connections 16 --size 64

start ours "$bin/m4_zero_copy" --root "$served" --zc-threshold 0
start twin "$bin/m2_file_server" --root "$served"
against "zero copy against plain sends (both io_uring), 1 MiB over loopback, where it must lose" \
  file --paths "$served.large" --connections 16
echo
echo "A minute and a half on one machine is no verdict: \`make compare\` measures more of it, and says what it means."

section "What next"
cat <<TEXT
  read    README.md says in which order; uring/indices.hpp is the heart: who writes which word, in which order
  watch   strace -f -e trace=io_uring_setup,io_uring_enter,io_uring_register $bin/m1_ring_basics --quiet
  story   servers/m1_ring_basics/README.md and its main.cpp, top to bottom; then servers/m2_file_server
  serve   $bin/m2_file_server --root DIR, and curl against it
  break   $bin/m3_echo_server --port 9001, and $bin/conformance 127.0.0.1 9001 (make conformance does both)
  climb   make ladder: the echo server with one idea of io_uring more at each rung
  drill   $bin/m4_linked --drill list, $bin/m4_ordered_log --drill stall: what chains and DRAIN do when something fails
  compare make compare: everything against its twin, as one report
  prove   make test
TEXT

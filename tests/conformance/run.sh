#!/usr/bin/env bash
# Runs the conformance program on each variant of our echo servers, and counts as a suite with one test for each.
#
# usage: run.sh [VARIANT…]      names as in the table below, or patterns ('epoll*'); without any: all of them
#
# A variant passes when no check failed and its server, told to stop by SIGTERM, exited with 0 and a last line of
# counters that are as they must be. A server that exits with 3, for want of io_uring, is a skip, or a failure with
# REQUIRE_IO_URING=1 in the environment.
#
# Environment: BIN (default build) is where the programs are.
set -uo pipefail
export LC_ALL=C

cd "$(dirname "$0")/../.."
bin=${BIN:-build}

# name | server and its arguments | arguments for conformance | what must be true of its counters
# @SOCKET stands for a path of a Unix-domain socket; without it the server gets --port 0. Of the counters, a name means
# that it is 0, and few_accepts that one accept served many clients (multishot, since 5.19).
table="
epoll          | epoll_echo_server                       | --connections 10000 | leaks
epoll unix     | epoll_echo_server --unix @SOCKET        |                     | leaks
m3 each        | m3_echo_server --submit each --taskrun default --recv single | | leaks overflows few_accepts
m3 batched     | m3_echo_server --taskrun default --recv single |              | leaks overflows few_accepts
m3 coop        | m3_echo_server --taskrun coop --recv single |                 | leaks overflows few_accepts
m3 defer       | m3_echo_server --recv single            |                     | leaks overflows few_accepts
m3 multishot   | asan/m3_echo_server                     | --connections 10000 | leaks overflows few_accepts
m3 direct      | m3_echo_server --files direct           |                     | leaks overflows few_accepts
m3 unix        | m3_echo_server --unix @SOCKET           |                     | leaks overflows few_accepts
m3 sqpoll      | m3_echo_server_sqpoll                   |                     | leaks overflows few_accepts
m3 sqpoll unix | m3_echo_server_sqpoll --unix @SOCKET    |                     | leaks overflows few_accepts
m3 on 5.15     | m3_echo_server --pretend-kernel 5.15    |                     | leaks overflows
m3 on 5.19     | m3_echo_server --pretend-kernel 5.19    |                     | leaks overflows few_accepts
m3 5.19 direct | m3_echo_server --pretend-kernel 5.19 --files direct |         | leaks overflows few_accepts
m3 on 6.0      | m3_echo_server --pretend-kernel 6.0     |                     | leaks overflows few_accepts
m3 on 6.1      | m3_echo_server --pretend-kernel 6.1     |                     | leaks overflows few_accepts
m4 splice      | m4_linked --mode splice                 |                     | leaks overflows few_accepts
"

no_io_uring=3 # the exit status of a server that cannot have a ring here

folder=$(mktemp -d)
server=
end() {
  [[ -n $server ]] && kill -KILL "$server" 2>/dev/null
  rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM

# Waits until a condition holds, at most as many seconds.
within() { # SECONDS COMMAND…
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}
announced() { grep -qs '^listening ' "$folder/out" || gone; }
gone() { ! kill -0 "$server" 2>/dev/null; }

start_server() { # PROGRAM ARGUMENT…; sets server, and where it listens
  : >"$folder/out"
  "$@" >"$folder/out" 2>"$folder/err" </dev/null &
  server=$!
  within 30 announced
  where=$(sed -n '1s/^listening //p' "$folder/out")
  [[ -n $where ]]
}

# The value of a counter in the server's last line; nothing if it is not there.
value_of() { sed -nE "\$s/.*\"$1\": ([0-9]+)[,}].*/\1/p" "$folder/out"; }

# Asks the server to stop, and judges its end. Prints what is wrong with it.
judge_end() { # COUNTER…
  local counter status accepts clients
  gone || kill -TERM "$server"
  if ! within 30 gone; then
    kill -KILL "$server"
    echo 'it did not stop within 30 s of SIGTERM'
  fi
  wait "$server"
  status=$?
  server=
  if ((status == no_io_uring)) && [[ ${REQUIRE_IO_URING:-} != 1 ]]; then return "$no_io_uring"; fi
  ((status == 0)) || echo "its exit status is $status"
  for counter in "$@"; do
    if [[ $counter == few_accepts ]]; then
      accepts=$(value_of accept_sqes) clients=$(value_of accepted)
      ((accepts > 0 && accepts * 100 < clients)) || echo "it needed ${accepts:-no} accepts for ${clients:-no} clients"
    else
      [[ $(value_of "$counter") == 0 ]] || echo "its counter $counter is not 0"
    fi
  done
  return 0
}

check_variant() { # SERVER CONFORMANCE COUNTERS; prints, and returns 1 for a failure
  local -a command arguments counters
  local wrong line
  read -ra command <<<"${1//@SOCKET/$folder/socket}"
  read -ra arguments <<<"$2"
  read -ra counters <<<"$3"
  [[ $1 == *@SOCKET* ]] || command+=(--port 0)
  if ! start_server "$bin/${command[0]}" "${command[@]:1}"; then
    echo "the server does not listen:"
    cat "$folder/err"
    judge_end && return 1
    echo skipped
    return "$no_io_uring"
  fi
  case $where in
    unix:*) arguments+=(--unix "${where#unix:}") ;;
    *) arguments+=("${where%:*}" "${where##*:}") ;;
  esac
  wrong=
  "$bin/conformance" --pid "$server" "${arguments[@]}" || wrong='not everything is as it should be'
  judge_end "${counters[@]}" >"$folder/end"
  while IFS= read -r line; do wrong+=${wrong:+; }$line; done <"$folder/end"
  [[ -z $wrong ]] && return
  echo "FAILED: $wrong"
  tail -n 1 "$folder/out"
  tail -n 20 "$folder/err"
  return 1
}

is_wanted() { # NAME PATTERN…
  local name=$1 pattern
  shift
  (($# == 0)) && return
  for pattern in "$@"; do
    # shellcheck disable=SC2053  # it is a pattern
    [[ $name == $pattern ]] && return
  done
  return 1
}

trim() { sed 's/^ *//; s/ *$//' <<<"$1"; }

passed=0 skipped=0 failures=()
while IFS='|' read -r name program arguments counters; do
  name=$(trim "$name")
  if [[ -z $name ]] || ! is_wanted "$name" "$@"; then continue; fi
  [[ -n ${TEST_TITLES:-} ]] && echo "$name" >>"$TEST_TITLES"
  printf -- '---- %s: %s\n' "$name" "$(trim "$program")"
  check_variant "$program" "$arguments" "$counters"
  case $? in
    0) passed=$((passed + 1)) ;;
    "$no_io_uring") skipped=$((skipped + 1)) ;;
    *) failures+=("$name") ;;
  esac
  echo
done <<<"$table"

for name in "${failures[@]}"; do echo "failed: $name"; done
echo "suite: $passed passed, ${#failures[@]} failed, $skipped skipped"
((${#failures[@]} == 0 && passed + skipped > 0))

#!/usr/bin/env bash
# Each server under mixed load for half a minute (bench/soak.md), as a suite with one test for each.
#
# usage: run.sh [SERVER…]       as `make soak` names them; without any: those of the list below
#
# A server without io_uring is a skip, or a failure with REQUIRE_IO_URING=1 in the environment.
# Environment: BIN (default build) is where the programs are; MINUTES (default 0.5).
set -uo pipefail

cd "$(dirname "$0")/../.."
bin=${BIN:-build}
servers=("$@")
# With few buffers, the half that may be lent to slow readers is lent from the start, and does not seem to grow.
((${#servers[@]})) || servers=(m3 'zc --zc-threshold 0 --buffers 64')
no_io_uring=3 # what soak.py ends with then

folder=$(mktemp -d)
runs=()
trap '((${#runs[@]})) && kill "${runs[@]}" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

# All at a time: what is judged is what must not grow. How fast they are is not, in runs as short as these.
title_of() { echo "$1 holds for ${MINUTES:-0.5} minute(s) of mixed load"; }
for server in "${servers[@]}"; do
  [[ -n ${TEST_TITLES:-} ]] && title_of "$server" >>"$TEST_TITLES"
  python3 -B bench/soak.py --build "$bin" --server "$server" --minutes "${MINUTES:-0.5}" --results "$bin/soak/suite" \
    >"$folder/${#runs[@]}" 2>&1 &
  runs+=($!)
done

passed=0 skipped=0 failures=()
for number in "${!runs[@]}"; do
  wait "${runs[number]}"
  status=$?
  cat "$folder/$number"
  title=$(title_of "${servers[number]}")
  if ((status == 0)); then
    passed=$((passed + 1))
  elif ((status == no_io_uring)) && [[ ${REQUIRE_IO_URING:-} != 1 ]]; then
    echo "skipped: $title"
    skipped=$((skipped + 1))
  else
    failures+=("$title")
  fi
done
runs=()

((${#failures[@]})) && printf 'failed: %s\n' "${failures[@]}"
echo "suite: $passed passed, ${#failures[@]} failed, $skipped skipped"
((${#failures[@]} == 0 && passed + skipped > 0))

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
((${#servers[@]})) || servers=(m3 'zc --zc-threshold 0')
no_io_uring=3 # what soak.py ends with then

passed=0 skipped=0 failures=()
for server in "${servers[@]}"; do
  title="$server holds for ${MINUTES:-0.5} minute(s) of mixed load"
  [[ -n ${TEST_TITLES:-} ]] && echo "$title" >>"$TEST_TITLES"
  python3 -B bench/soak.py --build "$bin" --server "$server" --minutes "${MINUTES:-0.5}" --results "$bin/soak/suite"
  status=$?
  if ((status == 0)); then
    passed=$((passed + 1))
  elif ((status == no_io_uring)) && [[ ${REQUIRE_IO_URING:-} != 1 ]]; then
    echo "skipped: $title"
    skipped=$((skipped + 1))
  else
    failures+=("$title")
  fi
done

((${#failures[@]})) && printf 'failed: %s\n' "${failures[@]}"
echo "suite: $passed passed, ${#failures[@]} failed, $skipped skipped"
((${#failures[@]} == 0 && passed + skipped > 0))

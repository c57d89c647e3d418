#!/usr/bin/env bash
# Runs the test suites one after another, and counts.
#
# usage: run_suites.sh SUITE…          each SUITE is an executable that needs no argument
#
# A suite ends its output with `suite: P passed, F failed, S skipped` (tests/support/main.cpp prints it). The last line
# here adds them up: `N passed, N failed, N skipped`. What cannot be counted counts as one failure, so that silence is
# never success: a suite that dies or hangs before its line, one that exits non-zero after claiming no failure (a leak
# that the sanitizer found at exit), one that ran no test at all.
#
# Suites run without address space randomization where that is allowed, and so do their children: the ThreadSanitizer of
# GCC 12 places its shadow memory at fixed addresses and stops at start ("unexpected memory mapping") where the kernel
# randomizes more bits than it knew (vm.mmap_rnd_bits = 32).
#
# Environment: SUITE_SECONDS (limit for each, default 900), SUITE_LOGS (default build/logs).
set -uo pipefail
set -m # a process group for each suite, and no SIGINT ignored in it
export LC_ALL=C

limit=${SUITE_SECONDS:-900}
logs=${SUITE_LOGS:-build/logs}
mkdir -p "$logs"
fixed_addresses=()
setarch -R true 2>/dev/null && fixed_addresses=(setarch -R)
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

passed=0 failed=0 skipped=0 complaints=()
pid=
trap '[[ -n $pid ]] && kill -TERM -- "-$pid" 2>/dev/null; exit 130' INT TERM

fail_suite() { # SUITE WHY
  failed=$((failed + 1))
  complaints+=("$1: $2")
}

why_it_ended() { # STATUS
  case $1 in
    124 | 137) echo "stopped after $limit s" ;;
    *) if (($1 > 128)); then echo "killed by signal $(($1 - 128))"; else echo "exit status $1"; fi ;;
  esac
}

# The titles that main.cpp names right above its summary; a failure's own output may quote those of another run.
failures() { # LOG
  awk '/^failed: / { list = list $0 "\n"; next } /^suite: / { last = list } { list = "" } END { printf "%s", last }' "$1"
}

# Adds up what the suite says about itself, and what its exit status says.
judge() { # SUITE STATUS LOG TITLES
  local suite=$1 status=$2 log=$3 titles=$4 line
  line=$(grep -aE '^suite: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
  if [[ ! $line =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped ]]; then
    fail_suite "$suite" "no summary: $(why_it_ended "$status"), in test: $(tail -n 1 "$titles" 2>/dev/null)"
    return
  fi
  local p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[3]}
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  if ((f > 0)); then
    complaints+=("$suite: $f failed")
    while IFS= read -r line; do complaints+=("    $line"); done < <(failures "$log")
  elif ((status != 0)); then
    fail_suite "$suite" "all tests passed, but: $(why_it_ended "$status")"
  elif ((p + s == 0)); then
    fail_suite "$suite" "no test ran"
  fi
}

for suite in "$@"; do
  log=$logs/${suite//\//_}.log
  titles=$log.titles
  rm -f "$titles"
  : >"$log"  # now, or tail could begin with the output of the run before
  echo "== $suite"
  started=${EPOCHREALTIME/./}
  TEST_TITLES=$titles "${fixed_addresses[@]}" timeout --kill-after=10 "$limit" "$suite" >"$log" 2>&1 </dev/null &
  pid=$!
  tail -n +1 -s 0.1 --pid="$pid" -f "$log" # the output as it comes; a child left behind cannot hold us up
  wait "$pid"
  status=$?
  pid=
  judge "$suite" "$status" "$log" "$titles"
  elapsed=$((${EPOCHREALTIME/./} - started))
  printf '== %s took %d.%d s\n\n' "$suite" $((elapsed / 1000000)) $((elapsed / 100000 % 10))
done

if ((${#complaints[@]})); then
  printf '%s\n' "${complaints[@]}" "The whole output of each suite is below $logs/." ""
fi
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed > 0))

#!/usr/bin/env bash
# The tests under AddressSanitizer, as one suite, in two processes at a time: most of their time is waiting. The echo
# servers' are one half of it; all tests that run programs as another user, whose locked memory is counted together, are
# in the other.
#
# Environment: BIN (default build); TEST_TITLES as for any suite: where the title of each test goes when it begins.
set -uo pipefail

bin=${BIN:-build}
echo_servers='*/integration/echo_*,*/integration/conformance_*,*/integration/idle_*'
folder=$(mktemp -d)
parts=()
finish() {
  ((${#parts[@]})) && kill "${parts[@]}" 2>/dev/null
  cat "$folder"/*.titles >>"${TEST_TITLES:-/dev/null}"
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

for filter in source-file source-file-exclude; do
  TEST_TITLES=$folder/$filter.titles "$bin/asan/run_tests" --"$filter=$echo_servers" >"$folder/$filter" 2>&1 &
  parts+=($!)
done

passed=0 failed=0 skipped=0 complaints=()
for filter in source-file source-file-exclude; do
  wait "${parts[0]}"
  status=$?
  parts=("${parts[@]:1}")
  cat "$folder/$filter"
  if [[ $(grep -aE '^suite: ' "$folder/$filter" | tail -n 1) =~ ^suite:\ ([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
    passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
    mapfile -t -O "${#complaints[@]}" complaints < <(grep -aE '^failed: ' "$folder/$filter")
    ((status == 0 || BASH_REMATCH[2] > 0)) && continue
  fi
  # It died, or hung and was killed, or a sanitizer found something at its end.
  failed=$((failed + 1))
  complaints+=("failed: --$filter ended with status $status; its last test: $(tail -n 1 "$folder/$filter.titles")")
done

((${#complaints[@]})) && printf '%s\n' "${complaints[@]}"
echo "suite: $passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed > 0))

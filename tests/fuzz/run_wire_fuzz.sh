#!/usr/bin/env bash
# Runs build/fuzz/wire_fuzz for a while and counts as a suite of one test: the parser held, or an input broke it.
#
# usage: run_wire_fuzz.sh              FUZZ_SECONDS (10) says how long
#
# It begins with tests/fuzz/wire_seeds, a stream of each kind. The inputs that reached something new stay in
# build/fuzz/corpus, so that the next run begins where this one ended. One that breaks something is kept as
# build/fuzz/crash-…; `build/fuzz/wire_fuzz build/fuzz/crash-…` shows it again.
set -uo pipefail

cd "$(dirname "$0")/../.."
if [[ ! -x build/fuzz/wire_fuzz ]]; then
  echo 'skipped: there is no build/fuzz/wire_fuzz: libFuzzer comes with clang++'
  echo 'suite: 0 passed, 0 failed, 1 skipped'
  exit 0
fi
mkdir -p build/fuzz/corpus
# -timeout is for one input: a loop without an end.
export ASAN_OPTIONS=quarantine_size_mb=8:${ASAN_OPTIONS:-}
if build/fuzz/wire_fuzz -max_total_time="${FUZZ_SECONDS:-10}" -timeout=20 -max_len=1000 -len_control=10 \
  -dict=tests/fuzz/wire.dict -artifact_prefix=build/fuzz/ -print_final_stats=1 -verbosity=0 \
  build/fuzz/corpus tests/fuzz/wire_seeds; then
  echo 'suite: 1 passed, 0 failed, 0 skipped'
else
  echo 'failed: wire_fuzz: the input is named above'
  echo 'suite: 0 passed, 1 failed, 0 skipped'
  exit 1
fi

#!/usr/bin/env bash
# `make mutant NAME=cq_tail_relaxed`: one order weakened, and what each proof says about it. The two programs
# that it runs print more; this shows the lines that matter.
#
# usage: mutant.sh FOLDER NAME MUTANT…          FOLDER: where the harnesses and models are
set -uo pipefail

folder=$1 name=$2
shift 2
if [[ " $* " != *" $name "* ]]; then
  [[ -n $name ]] && echo "There is no mutant '$name' in uring/indices.hpp."
  printf 'usage: make mutant NAME=…, one of:\n'
  printf '  %s\n' "$@"
  exit 2
fi

grep -E "^inline constexpr Orders $name[{]" uring/indices.hpp
fixed_addresses=()
setarch -R true 2>/dev/null && fixed_addresses=(setarch -R) # see run_suites.sh

# The two accesses of the report, with the three innermost functions of each.
tsan_report() {
  awk '
    /WARNING: ThreadSanitizer/ { print "    " $0; next }
    /^  (Read|Write|Previous)/ { frames = 3; print "\n    " substr($0, 3); next }
    /^    #/ && frames-- > 0 {
      sub(/ \([^ ]*\+0x.*/, "") # the module and offset
      gsub(/<.*>|\(.*\)/, "") # template arguments and parameters
      print "    " $0
      next
    }
    /^$/ { frames = 0 }'
}

# Each step of the execution that fails: who, in which function, what.
relacy_report() {
  sed -n '/^execution history/,/^$/p' | sed -nE '
    /in (fiber_proc_impl|before),/d
    s/ \(prev value=[0-9]+\),//
    s/ \[NOT CURRENT\]/ (stale)/
    s/4294967295/2^32-1/g
    s/65535/2^16-1/g
    s/^\[[0-9]+\] ([01]): (<0x[0-9a-f]+> )?(.*), in ([a-z_]+), .*/\1|\4|\3/p' |
    awk -F'|' '{ printf "    %-12s %-20s %s\n", $1 == 0 ? "application" : "kernel", $2, $3 }'
}

caught=()
printf '\n──── ThreadSanitizer: a thread plays the kernel over ordinary memory\n\n'
harness=$folder/tsan_$name
if [[ -x $harness ]]; then
  output=$(TSAN_OPTIONS=halt_on_error=1:exitcode=66 "${fixed_addresses[@]}" "$harness" 2>&1)
  if (($? == 66)); then
    tsan_report <<<"$output"
    caught+=(ThreadSanitizer)
  else
    echo "$output"
  fi
else
  echo "    It does not understand fences: there is no harness for this one."
fi

printf '\n──── Relacy: every execution that C++ allows\n\n'
for model in sq cq buffers wakeup; do
  output=$("$folder/relacy_models" "$model" "$name")
  status=$?
  printf '    %s\n' "$(tail -n 1 <<<"$output")"
  ((status == 1)) || continue
  printf '\n%s\n\n' "$(relacy_report <<<"$output")"
  caught+=("Relacy's model $model")
done

printf '\nmutant %s: ' "$name"
if ((${#caught[@]} == 0)); then
  echo 'nothing noticed it'
  exit 1
fi
printf 'caught by %s\n' "$(printf '%s, ' "${caught[@]}" | sed 's/, $//')"

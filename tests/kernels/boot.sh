#!/usr/bin/env bash
# Boots one of the kernels in QEMU, lets the guest do one job, and prints the guest's console.
#
# usage: boot.sh KERNEL JOB [ARGUMENT…]
#
#   boot.sh 6.1 tests run_tests                            all tests of the kernel, the mock and the units
#   boot.sh 6.1 tests run_tests 'a?full?SQ*'               those whose title begins so
#   boot.sh 7.3 programs                                   the programs under load (guest/programs)
#   boot.sh 6.1 shell                                      a prompt; `poweroff -f` or Ctrl-A X ends it
#
# Needs build/kernels/KERNEL (fetch.sh) and build/kernels/MACHINE.cpio (`make build/kernels/amd64.cpio`).
# KVM is used where a guest gets up with it within some seconds, and emulation otherwise: there are machines whose
# /dev/kvm opens and whose guests never start.
# Environment: GUEST_SECONDS (default 900), after which the guest is killed; GUEST_ACCEL=kvm|tcg decides by hand.
set -uo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
root=$PWD/build/kernels
kernel=${1:?usage: boot.sh KERNEL JOB [ARGUMENT…]}
job=${2:?usage: boot.sh KERNEL JOB [ARGUMENT…]}
shift 2
machine=$(awk -F'\t' -v name="$kernel" '$1 == name { print $2 }' "$here/kernels.tsv")
initramfs=$root/$machine.cpio
for file in "$root/$kernel/vmlinuz" "$initramfs"; do
  [[ -r $file ]] || { echo "boot: $file is missing" >&2; exit 2; }
done

# cx16 is masked because Linux 6.12 and later use its instruction at boot in a way that QEMU 7.2 emulates wrongly.
case $machine in
  amd64) qemu=(qemu-system-x86_64) console=ttyS0 emulated=(-cpu max,-cx16) native=x86_64 ;;
  arm64) qemu=(qemu-system-aarch64 -M virt) console=ttyAMA0 emulated=(-cpu max,pauth-impdef=on) native=aarch64 ;;
esac
qemu+=(-smp 2 -m 3G -display none -monitor none -nic none -no-reboot)

folder=$(mktemp -d)
pid=
trap '[[ -n $pid ]] && kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

# The disk is made anew for each guest. Old kernels do not know the newest features of mkfs.
truncate -s 2G "$folder/disk"
mkfs.ext4 -q -F -O ^metadata_csum,^orphan_file "$folder/disk"

start() { # ACCELERATOR… -- COMMAND LINE
  local options=()
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  # shellcheck disable=SC2145  # the words of the job become words of the command line
  timeout --foreground -k 5 "${GUEST_SECONDS:-900}" "${qemu[@]}" "${options[@]}" -serial stdio -kernel "$root/$kernel/vmlinuz" -initrd "$initramfs" \
    -drive "file=$folder/disk,format=raw,if=none,id=disk,cache=unsafe" -device nvme,drive=disk,serial=1 \
    -append "console=$console quiet panic=-1 ${GUEST_APPEND:-} -- $*"
}

# With KVM a guest is up in a second or two. One that has said nothing after ten seconds will never do.
kvm_works() {
  [[ $(uname -m) == "$native" && -w /dev/kvm ]] || return 1
  timeout --foreground -k 1 10 "${qemu[@]}" -accel kvm -cpu host -serial stdio -kernel "$root/$kernel/vmlinuz" \
    -initrd "$initramfs" -append "console=$console quiet panic=-1 -- true" </dev/null 2>/dev/null | grep -q '^guest: '
}
accelerator=${GUEST_ACCEL:-}
if [[ -z $accelerator ]]; then
  # Once an hour is enough to know whether this machine's KVM runs guests.
  answer=$root/kvm.$machine
  if [[ -z $(find "$answer" -mmin -60 2>/dev/null) ]]; then
    if kvm_works; then echo kvm; else echo tcg; fi >"$answer"
  fi
  accelerator=$(cat "$answer")
fi
case $accelerator in
  kvm) options=(-accel kvm -cpu host) ;;
  *) options=(-accel "tcg,thread=multi" "${emulated[@]}") ;;
esac

if [[ $job == shell ]]; then
  start "${options[@]}" -- shell
  exit
fi
: >"$folder/console" # or tail may look for it before it is there
start "${options[@]}" -- "$job" "$@" </dev/null >"$folder/console" 2>&1 &
pid=$!
tail -n +1 -s 0.2 --pid="$pid" -f "$folder/console" | sed -u 's|\r||g'
wait "$pid"
pid=
grep -aq "^guest: $job ended with 0" "$folder/console"

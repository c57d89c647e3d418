#!/usr/bin/env bash
# What a target needs from the distribution, checked before it is used.
#
# usage: deps.sh tour | test | bench | kernels
#
# `tour` asks the compiler itself, since any g++ (or CXX) with the kernel headers will do, however it got there. `test`,
# `bench` and `kernels` ask dpkg for the packages of Debian 12. What is missing is installed when we are root on a system with
# apt-get; otherwise the exact command is printed and the target stops. Elsewhere than on Debian there is nobody to ask:
# the names are printed, and the build goes on to find out.
set -euo pipefail

compiler_packages=(g++ make linux-libc-dev)
test_packages=("${compiler_packages[@]}"
  doctest-dev libbenchmark-dev relacy-dev valgrind liburing-dev clang clang-format clang-tidy libclang-rt-14-dev
  g++-aarch64-linux-gnu linux-libc-dev-arm64-cross strace curl apache2-utils wrk iproute2 python3)
kernel_packages=("${compiler_packages[@]}" doctest-dev python3 debian-archive-keyring
  qemu-system-x86 qemu-system-arm cpio e2fsprogs g++-aarch64-linux-gnu linux-libc-dev-arm64-cross)
bench_packages=("${test_packages[@]}" fio python3-matplotlib)

is_installed() {
  [[ $(dpkg-query -W -f='${Status};' "$1" 2>/dev/null) == *"install ok installed;"* ]]
}

install_packages() {
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    printf 'missing: %s\nOn Debian 12 this installs it; then run make again:\n\n  sudo apt-get install -y --no-install-recommends %s\n\n' \
      "$*" "$*" >&2
    exit 1
  fi
  echo "installing: $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@"
}

need_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "deps: this is not Debian; on Debian 12 the packages would be: $*" >&2
    return
  fi
  local missing=() package
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  if ((${#missing[@]})); then
    install_packages "${missing[@]}"
  fi
}

# C++20 with atomic_ref (GCC 10, clang 12 with its library) and an io_uring header new enough to build on.
compiler_works() {
  "${CXX:-g++}" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null <<'CPP'
#include <atomic>
#include <linux/io_uring.h>
int word;
int read_word() { return std::atomic_ref<int>(word).load(std::memory_order_acquire) + IORING_OP_SENDMSG_ZC; }
CPP
}

need_compiler() {
  compiler_works && return
  need_packages "${compiler_packages[@]}"
  compiler_works && return
  echo "deps: ${CXX:-g++} does not compile C++20 with <linux/io_uring.h> of Linux 6.1 or newer." >&2
  echo "Debian 12 has both: g++ 12 and linux-libc-dev 6.1. Another compiler: make CXX=…" >&2
  exit 1
}

case ${1:-} in
  tour) need_compiler ;;
  test) need_packages "${test_packages[@]}" ;;
  bench) need_packages "${bench_packages[@]}" ;;
  kernels) need_packages "${kernel_packages[@]}" ;;
  *)
    echo "usage: deps.sh tour | test | bench | kernels" >&2
    exit 2
    ;;
esac

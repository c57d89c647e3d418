# The same tests and programs in guests with other kernels (tests/kernels/README.md), included by the main Makefile.
#
#   build/kernels/NAME/          a kernel of kernels.tsv: vmlinuz, release
#   build/kernels/amd64.cpio     an initramfs: busybox, static builds of the tests and the programs, tests/kernels/guest
#   build/kernels/arm64.cpio     the same, made by the cross compiler (CXX=aarch64-linux-gnu-g++)

GUEST_MACHINE := $(if $(IS_ARM64),arm64,amd64)
GUEST_PROGRAMS := $(dir_fast)/static/run_tests \
  $(patsubst %,$(dir_release)/static/%,$(PROGRAMS) load conformance)

.PHONY: guest-programs
guest-programs: $(GUEST_PROGRAMS)
	@tests/kernels/pack.sh $(GUEST_MACHINE) $(dir_fast) $^

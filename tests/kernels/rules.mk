# The same tests and programs in guests with other kernels (tests/kernels/README.md), included by the main Makefile.
#
#   build/kernels/NAME/          a kernel of kernels.tsv: vmlinuz, release
#   build/kernels/amd64.cpio     an initramfs: busybox, static builds of the tests and the programs, tests/kernels/guest
#   build/kernels/arm64.cpio     the same, made by the cross compiler (CXX=aarch64-linux-gnu-g++)
#   build/kernels/results/       what each test gave on each kernel

GUEST_PROGRAMS := $(dir_fast)/static/run_tests $(patsubst %,$(dir_release)/static/%,$(PROGRAMS) load conformance)

TEST_SUITES += tests/kernels/check.py

.PHONY: test-kernels guest-programs facts deps-kernels
test-kernels: deps-kernels  ## the tests and programs on other kernels, in QEMU: make test-kernels [KERNELS='6.1 7.3'] [SUITES=tests]
	@tests/kernels/run.py $(if $(KERNELS),--kernels '$(KERNELS)') $(if $(SUITES),--suites '$(SUITES)')

guest-programs: $(GUEST_PROGRAMS)  ## what the guests run, packed; one guest by hand: tests/kernels/boot.sh 6.1 shell
	@tests/kernels/pack.sh $(if $(IS_ARM64),arm64,amd64) $(dir_fast) $^

facts:  ## docs/kernel-facts.md: its columns anew from what `make test-kernels` found
	@tests/kernels/facts.py --take

deps-kernels:  ## what `make test-kernels` needs: installs it when root on Debian, else prints the command
	@tests/support/deps.sh kernels

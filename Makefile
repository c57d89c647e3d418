# The whole build, in one file. `make help` lists the targets.
#
#   build/         release, -O2 -DNDEBUG: what a reader runs and what is measured
#   build/asan/    AddressSanitizer and UBSan, asserts on: the tests, and the programs that the tests run
#   build/tsan/    ThreadSanitizer, asserts on: the mock-kernel tests
#   build/fast/    no sanitizer, asserts on: `make test-fast`, for the minutes between two edits
#   build/clang/   the same four below one more folder, with `make CXX=clang++ …`
#   build/arm64/   and with `make CXX=aarch64-linux-gnu-g++ …`, for the guests of tests/kernels
#
# Each of them mirrors the source tree below obj/: servers/x/main.cpp becomes build/asan/obj/servers/x/main.o. Two
# stamps stand beside the objects: obj/flags holds the compiler's command line and obj/sources the list of files. Their
# text is compared on every run and their time moves only when the text does, so a changed flag rebuilds what it
# touches, a deleted .cpp relinks, and nothing else happens without cause.
#
# `make` and `make tour` need g++, make and the kernel headers. What the tests need, `make deps` says or installs.
#
# Knobs: CXX=clang++   WERROR=1 (warnings are errors, as in CI)   V=1 (show the commands)   CXXFLAGS, LDFLAGS (added last)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
ifeq (0,$(MAKELEVEL))
MAKEFLAGS += -j$(shell nproc)
endif

# ---- The compiler ------------------------------------------------------------------------------------------------

IS_CLANG := $(findstring clang,$(notdir $(CXX)))
IS_ARM64 := $(findstring aarch64-linux-gnu,$(notdir $(CXX)))
B := build$(if $(IS_CLANG),/clang)$(if $(IS_ARM64),/arm64)

WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Wcast-align \
  -Wnon-virtual-dtor -Woverloaded-virtual -Wnull-dereference -Wdouble-promotion -Wformat=2 -Wimplicit-fallthrough
ifeq (,$(IS_CLANG))
WARNINGS += -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wuseless-cast
endif
ifneq (,$(filter-out 0,$(WERROR)))
WARNINGS += -Werror
endif

# COMPILE has all but the mode. -MMD -MP: the headers of each object are written beside it, and a header that is
# deleted later does not stop the build.
COMPILE = $(CXX) -std=c++20 -I. -pthread $(WARNINGS) -MMD -MP

# -g1: function names and line numbers for the sanitizers' reports, and a quarter less time to compile than -g.
# -Wno-tsan: GCC warns that ThreadSanitizer does not understand atomic_thread_fence. True, and the reason why the
# one full fence of the ring layer is judged by Relacy instead.
# -Wno-maybe-uninitialized: with AddressSanitizer GCC 12 sees it in its own <regex> (GCC bug 105562). The modes without
# a sanitizer keep the warning.
MODES := release asan tsan fast
dir_release := $(B)
dir_asan := $(B)/asan
dir_tsan := $(B)/tsan
dir_fast := $(B)/fast
flags_release := -O2 -g -DNDEBUG
flags_asan := -O1 -g1 -fno-omit-frame-pointer -D_GLIBCXX_ASSERTIONS \
  -fsanitize=address,undefined -fno-sanitize-recover=all $(if $(IS_CLANG),,-Wno-maybe-uninitialized)
flags_tsan := -O1 -g1 -D_GLIBCXX_ASSERTIONS -fsanitize=thread $(if $(IS_CLANG),,-Wno-tsan)
flags_fast := -O1 -g1 -D_GLIBCXX_ASSERTIONS

Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1)  $@")

# $(call objects,MODE,SOURCES): the objects of these sources in that mode.
objects = $(patsubst %.cpp,$(dir_$(1))/obj/%.o,$(2))

# $(call stamp,TEXT): the recipe of a stamp.
define stamp
@mkdir -p $(@D)
@printf '%s\n' '$(1)' | cmp -s - $@ || printf '%s\n' '$(1)' >$@
endef

.PHONY: FORCE

# ---- What there is to build --------------------------------------------------------------------------------------

COMMON := $(wildcard servers/common/*.cpp)
COMMON_RING := $(wildcard servers/common_ring/*.cpp)
MILESTONES := $(patsubst servers/%/main.cpp,%,$(wildcard servers/*/main.cpp))
TWINS := $(patsubst baseline_epoll/%/main.cpp,%,$(wildcard baseline_epoll/*/main.cpp))
# A twin is called epoll_<folder>; a synchronous baseline (sync_<what>) like its folder.
twin_program = $(patsubst epoll_sync_%,sync_%,$(1:%=epoll_%))
PROGRAMS := $(MILESTONES) $(call twin_program,$(TWINS)) m3_echo_server_sqpoll

TEST_SUPPORT := $(wildcard tests/support/*.cpp)
tests_asan := $(wildcard $(addprefix tests/,$(addsuffix /*.cpp,unit mock kernel integration)))
tests_tsan := $(wildcard tests/mock/*.cpp)
tests_fast := $(wildcard $(addprefix tests/,$(addsuffix /*.cpp,unit mock kernel)))

CXX_FOLDERS := $(wildcard uring servers baseline_epoll tests bench)
CXX_FILES := $(if $(CXX_FOLDERS),$(sort $(shell find $(CXX_FOLDERS) -name '*.[ch]pp')))

# ---- How: one set of rules per mode ------------------------------------------------------------------------------

# Tests learn where their programs are (BUILD_DIR) and where the tree is (SOURCE_DIR), both absolute.
test_defines = -DBUILD_DIR=\"$(CURDIR)/$(dir_$(1))\" -DSOURCE_DIR=\"$(CURDIR)\"

define mode_rules
$(dir_$(1))/obj/flags: FORCE
	$$(call stamp,$$(COMPILE) $$(flags_$(1)) $$(CXXFLAGS) $$(call test_defines,$(1)))
$(dir_$(1))/obj/sources: FORCE
	$$(call stamp,$$(LDFLAGS) $$(filter %.cpp,$$(CXX_FILES)))
$(dir_$(1))/obj/tests/%.o: defines = $$(call test_defines,$(1))
$(dir_$(1))/obj/%.o: %.cpp $(dir_$(1))/obj/flags
	$$(call say,CXX)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $$(flags_$(1)) $$(defines) $$(CXXFLAGS) -c -o $$@ $$<
endef
$(foreach mode,$(MODES),$(eval $(call mode_rules,$(mode))))

# $(call binary,MODE,NAME,SOURCES): the program, and the same as static/NAME, without a library that it would have to find.
define binary
$(dir_$(1))/$(2): $(call objects,$(1),$(3)) $(dir_$(1))/obj/sources
	$$(call say,LINK)
	$$(Q)$$(CXX) -pthread $$(flags_$(1)) $$(CXXFLAGS) -o $$@ $$(filter %.o,$$^) $$(LDFLAGS)
$(dir_$(1))/static/$(2): $(call objects,$(1),$(3)) $(dir_$(1))/obj/sources
	$$(call say,LINK)
	@mkdir -p $$(@D)
	$$(Q)$$(CXX) -pthread $$(flags_$(1)) $$(CXXFLAGS) -static -s -o $$@ $$(filter %.o,$$^) $$(LDFLAGS)
endef
$(foreach mode,release asan,\
  $(foreach name,$(MILESTONES),\
    $(eval $(call binary,$(mode),$(name),$(wildcard servers/$(name)/*.cpp) $(COMMON) $(COMMON_RING))))\
  $(foreach name,$(TWINS),\
    $(eval $(call binary,$(mode),$(call twin_program,$(name)),$(wildcard baseline_epoll/$(name)/*.cpp) $(COMMON)))))

# The same echo server on an SqpollRing.
define sqpoll_binary
$(dir_$(1))/obj/sqpoll/%.o: %.cpp $(dir_$(1))/obj/flags
	$$(call say,CXX)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $$(flags_$(1)) -DECHO_SQPOLL=1 $$(CXXFLAGS) -c -o $$@ $$<
$(dir_$(1))/m3_echo_server_sqpoll: $(dir_$(1))/obj/sqpoll/servers/m3_echo_server/main.o $(call objects,$(1),$(COMMON)) \
    $(dir_$(1))/obj/sources
	$$(call say,LINK)
	$$(Q)$$(CXX) -pthread $$(flags_$(1)) $$(CXXFLAGS) -o $$@ $$(filter %.o,$$^) $$(LDFLAGS)
$(dir_$(1))/static/m3_echo_server_sqpoll: $(dir_$(1))/obj/sqpoll/servers/m3_echo_server/main.o \
    $(call objects,$(1),$(COMMON)) $(dir_$(1))/obj/sources
	$$(call say,LINK)
	@mkdir -p $$(@D)
	$$(Q)$$(CXX) -pthread $$(flags_$(1)) $$(CXXFLAGS) -static -s -o $$@ $$(filter %.o,$$^) $$(LDFLAGS)
endef
$(foreach mode,release asan,$(eval $(call sqpoll_binary,$(mode))))

$(foreach mode,asan tsan fast,\
  $(eval $(call binary,$(mode),run_tests,$(tests_$(mode)) $(TEST_SUPPORT) $(COMMON) $(COMMON_RING))))

# A suite with a passing, a failing and skipped tests, on which the tests of the counting itself are run.
$(eval $(call binary,asan,example_suite,tests/support/example/suite.cpp $(TEST_SUPPORT)))

.PHONY: all everything
all: $(PROGRAMS:%=$(dir_release)/%)  ## release binaries in build/ (the default)

EVERYTHING :=
everything: all  ## compile the tests as well, without running them: make CXX=clang++ everything
everything: $(call objects,fast,$(filter tests/unit/% tests/mock/% tests/kernel/% tests/integration/% \
  tests/support/%,$(filter %.cpp,$(CXX_FILES))))

# ---- Reading it for the first time -------------------------------------------------------------------------------

.PHONY: tour
tour:  ## build, then see the milestones at work: make tour FILE=some/file/of/yours
	@CXX='$(CXX)' tests/support/deps.sh tour
	@$(MAKE) all
	@BIN='$(B)' tests/support/tour.sh

# ---- Tests -------------------------------------------------------------------------------------------------------
#
# TEST_BINARIES  what must be built first
# TEST_SUITES    what is then run: one executable per word, without arguments, each of which ends its output with
#                `suite: P passed, F failed, S skipped` (with tests/support/main.cpp it does)
# EVERYTHING     what `make everything` compiles besides
#
# The files included here add to these three and hold the rules of their folders: the proofs of the barriers (asm,
# mutant), the fuzzer (fuzz), the benchmarks (bench, bench-instructions). They may use COMPILE, objects, binary, say
# and Q.

TEST_BINARIES := $(PROGRAMS:%=$(dir_release)/%) $(PROGRAMS:%=$(dir_asan)/%) \
  $(dir_asan)/example_suite $(dir_asan)/run_tests $(dir_tsan)/run_tests
TEST_SUITES := tests/support/run_tests_in_two.sh $(dir_tsan)/run_tests

RULES := $(sort $(wildcard tests/*/rules.mk bench/rules.mk))
include $(RULES)

everything: $(EVERYTHING)

.PHONY: test run-suites test-fast
test: deps  ## everything that must hold, sanitizers and proofs included; installs or names what is missing
	@$(MAKE) run-suites

run-suites: $(TEST_BINARIES)  ## the same without asking for packages, where they have other names than on Debian 12
	@tests/support/run_suites.sh $(TEST_SUITES)

test-fast: $(dir_fast)/run_tests  ## unit, mock and kernel tests, without sanitizers
	@tests/support/run_suites.sh $(dir_fast)/run_tests

# ---- Style, layers, tools ----------------------------------------------------------------------------------------

.PHONY: check-layers headers-check format format-check tidy
check-layers:  ## prove that includes run downwards and that no barrier stands outside uring/indices.hpp
	@tests/support/check_layers.sh

headers-check:  ## compile uring/ with the kernel headers of Linux 6.1 and of the newest, both fetched by apt
	@CXX='$(CXX)' tests/support/headers.sh

format:  ## clang-format all sources, in place
	clang-format -i $(CXX_FILES)

format-check:  ## fail where clang-format would change something
	@clang-format --dry-run -Werror $(CXX_FILES) && echo 'format-check: $(words $(CXX_FILES)) files are clean'

# uring/ has headers only, so clang-tidy gets one translation unit that includes them all.
TIDY_SOURCES := $(filter servers/%.cpp baseline_epoll/%.cpp,$(CXX_FILES))
TIDY_HEADERS := $(B)/tidy/all_headers.cpp
TIDY_CHECKED := $(TIDY_SOURCES:%.cpp=$(B)/tidy/%.ok) $(TIDY_HEADERS:.cpp=.ok)
RUN_TIDY = clang-tidy --quiet $< -- -std=c++20 -I. -pthread 2>&1 | { grep -v ' warnings\? generated\.$$' || true; }

tidy: $(TIDY_CHECKED)  ## clang-tidy (bugprone, performance) over uring/, servers/ and baseline_epoll/
	@echo 'tidy: $(words $^) translation units are clean'

$(TIDY_HEADERS): $(filter uring/%.hpp,$(CXX_FILES))
	@mkdir -p $(@D)
	@printf '#include "%s"\n' $^ >$@

$(TIDY_HEADERS:.cpp=.ok): $(TIDY_HEADERS) .clang-tidy
	$(call say,TIDY)
	$(Q)$(RUN_TIDY)
	@touch $@

$(B)/tidy/%.ok: %.cpp .clang-tidy $(filter %.hpp,$(CXX_FILES))
	$(call say,TIDY)
	@mkdir -p $(@D)
	$(Q)$(RUN_TIDY)
	@touch $@

COMPILED := $(filter %.cpp,$(CXX_FILES))
compile_commands.json: $(dir_fast)/obj/flags $(dir_fast)/obj/sources  ## for clangd and other editors' helpers
	@{ for file in $(COMPILED); do \
	  printf '{"directory": "%s", "file": "%s", "command": "%s"},\n' '$(CURDIR)' "$$file" \
	    '$(subst \,\\\,$(CXX) -std=c++20 -I. -pthread $(flags_fast) $(call test_defines,fast)) -c '"$$file"; \
	done; } | sed '1s/^/[/; $$s/,$$/]/' >$@

.PHONY: deps deps-bench clean help
deps:  ## what `make test` needs: installs it when root on Debian, else prints the command
	@tests/support/deps.sh test

deps-bench:  ## the same for the benchmarks
	@tests/support/deps.sh bench

clean:  ## remove all that was built
	rm -rf build compile_commands.json

help:  ## this list
	@awk -F ':.*## ' '/^[a-zA-Z0-9_.-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' \
	  Makefile $(RULES)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

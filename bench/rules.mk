# The benchmarks (bench/README.md), included by the main Makefile: its objects, binary, stamp and dir_* are used here.
#
#   build/bench_instructions     counts instructions, under callgrind
#   build/nop_round_trips        measures time, with Google Benchmark
#   build/asan/budget_tests      the suite that holds the first one's numbers against the budget
#   build/idle_timeouts          what it costs to notice a silent client: by a list, and by linked time-outs
#   build/bench_zero_copy        from which size on SEND_ZC is cheaper than SEND, where nothing is copied
#   bench/zero_copy.py           compares the file server that does not copy with the one that does
#   bench/file_servers.py        compares the file servers; its data goes to build/bench-file, its files to DATA
#   bench/ladder.py              climbs the echo server's ladder; its data goes to build/ladder
#   bench/soak.py                keeps a server under load and watches it; its CSV and picture go to build/soak
#   bench/echo_servers.py        compares the echo servers; its data goes to build/bench-echo
#   bench/linked.py              linked chains against steps driven by completions; its data goes to build/bench-linked
#   build/ordering               three ways to put an fsync behind its writes; its data goes to build/bench-ordering
#   build/ceilings               what a bare recv and send cost, and copying memory; bench/ceilings.py adds perf's view
#   bench/mixed.py               echoes while cold files are read; its data goes to build/bench-mixed
#   bench/file_copy.py           a cold file copied by io_uring, cp and dd; its data goes to build/bench-copy
#   bench/compare.py             all of them, and one report: build/report
#
# liburing is what both compare with, where it is installed. Its static library, so that calling it costs no detour
# through a table: its best case. The version comes from the pkgconfig file beside it.

LIBURING := $(filter /%,$(shell $(CXX) -print-file-name=liburing.a))
LIBURING_VERSION := $(if $(LIBURING),$(shell sed -n 's/^Version: *//p' $(dir $(LIBURING))pkgconfig/liburing.pc 2>/dev/null))

INSTRUCTIONS := $(filter-out %_test.cpp,$(wildcard bench/instructions/*.cpp))
ROUND_TRIPS := $(wildcard bench/nop_*.cpp)
BENCH_OBJECTS := $(call objects,release,$(INSTRUCTIONS) $(ROUND_TRIPS) bench/idle_timeouts.cpp bench/zero_copy.cpp)

$(dir_release)/obj/liburing: FORCE
	$(call stamp,$(LIBURING) $(LIBURING_VERSION))
$(BENCH_OBJECTS): $(dir_release)/obj/liburing

# -g0: valgrind 3.19 gives up on clang's debugging information.
$(BENCH_OBJECTS): defines = -g0 $(if $(LIBURING_VERSION),-DLIBURING_VERSION=\"$(LIBURING_VERSION)\")
$(dir_release)/bench_instructions: override private LDFLAGS += $(LIBURING)
$(dir_release)/nop_round_trips: override private LDFLAGS += -lbenchmark $(LIBURING)
$(eval $(call binary,release,bench_instructions,$(INSTRUCTIONS)))
$(eval $(call binary,release,nop_round_trips,$(ROUND_TRIPS)))
$(eval $(call binary,release,idle_timeouts,bench/idle_timeouts.cpp))
$(eval $(call binary,release,bench_zero_copy,bench/zero_copy.cpp))

$(dir_asan)/obj/bench/%.o: defines = $(call test_defines,release)
$(eval $(call binary,asan,budget_tests,bench/instructions/budget_test.cpp $(TEST_SUPPORT)))

TEST_BINARIES += $(dir_asan)/budget_tests $(dir_release)/bench_instructions $(dir_release)/idle_timeouts \
  $(dir_release)/bench_zero_copy
TEST_SUITES += $(dir_asan)/budget_tests
EVERYTHING += $(BENCH_OBJECTS) $(dir_asan)/obj/bench/instructions/budget_test.o

.PHONY: bench run-bench bench-instructions run-bench-instructions
bench: deps  ## time per NOP, through our ring and through liburing's; fails if liburing is faster
	@$(MAKE) run-bench
run-bench: $(dir_release)/nop_round_trips
	@$< $(dir_release)/nop_round_trips_raw

bench-instructions: deps  ## instructions per SQE, CQE and submit, ours and liburing's
	@$(MAKE) run-bench-instructions
run-bench-instructions: $(dir_release)/bench_instructions
	@$<

.PHONY: bench-idle
bench-idle: $(dir_release)/idle_timeouts  ## what it costs to notice a silent client: by a list, and by linked time-outs
	@$<

.PHONY: bench-zero-copy
bench-zero-copy: all $(dir_release)/bench_zero_copy  ## SEND_ZC against SEND, where nothing is copied and on loopback
	@mkdir -p $(B)/bench-zero-copy
	@$(dir_release)/bench_zero_copy --json $(B)/bench-zero-copy/results.json
	@echo
	@python3 -B bench/zero_copy.py --build $(B) --results $(B)/bench-zero-copy $(if $(BLOCKS),--blocks $(BLOCKS)) \
	  $(if $(SECONDS),--seconds $(SECONDS))

# BLOCKS, SECONDS, FULL=1, CELL='glob…' and DATA=folder are passed on; bench/file_servers.md says what they mean.
BENCH_FILE = $(if $(BLOCKS),--blocks $(BLOCKS)) $(if $(SECONDS),--seconds $(SECONDS)) \
  $(if $(filter-out 0,$(FULL)),--full) $(foreach cell,$(CELL),--cell '$(cell)') $(if $(DATA),--data '$(DATA)')

.PHONY: bench-file run-bench-file
bench-file: deps-bench  ## the file servers compared: make bench-file [FULL=1] [CELL=cached/random-4K/100] [DATA=folder]
	@$(MAKE) run-bench-file
run-bench-file: all
	@python3 -B bench/file_servers.py --build $(B) $(BENCH_FILE)

# The same BLOCKS, SECONDS, FULL=1 and CELL='glob…'; bench/echo_servers.md.
BENCH_ECHO = $(if $(BLOCKS),--blocks $(BLOCKS)) $(if $(SECONDS),--seconds $(SECONDS)) \
  $(if $(filter-out 0,$(FULL)),--full) $(foreach cell,$(CELL),--cell '$(cell)')

.PHONY: bench-echo run-bench-echo
bench-echo: deps  ## the echo servers compared: make bench-echo [FULL=1] [CELL=ping-pong/64/128]
	@$(MAKE) run-bench-echo
run-bench-echo: all
	@python3 -B bench/echo_servers.py --build $(B) $(BENCH_ECHO)

.PHONY: ladder soak
ladder: all  ## the echo server, one idea of io_uring more at each rung: make ladder [CONNECTIONS=128] [SIZE=64] [DEPTH=1]
	@python3 -B bench/ladder.py --build $(B) --results $(B)/ladder $(if $(BLOCKS),--blocks $(BLOCKS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CONNECTIONS),--connections $(CONNECTIONS)) \
	  $(if $(SIZE),--size $(SIZE)) $(if $(DEPTH),--depth $(DEPTH))

soak: all  ## a server under mixed load, watched: make soak [SERVER=m3|m2|zc|epoll|…] [MINUTES=10]
	@python3 -B bench/soak.py --build $(B) --results $(B)/soak $(if $(SERVER),--server '$(SERVER)') \
	  $(if $(MINUTES),--minutes $(MINUTES))

# BLOCKS and SECONDS as above; bench/linked.py.
.PHONY: bench-linked
bench-linked: all  ## linked chains against the same steps driven by completions: enters, CPU time, latency
	@python3 -B bench/linked.py --build $(B) --results $(B)/bench-linked $(if $(BLOCKS),--blocks $(BLOCKS)) \
	  $(if $(SECONDS),--seconds $(SECONDS))

# The log of m4_ordered_log, driven directly. Its file is written to DATA, or to the build folder.
$(eval $(call binary,release,ordering,bench/ordering.cpp $(COMMON)))
EVERYTHING += $(call objects,release,bench/ordering.cpp)

.PHONY: bench-ordering
bench-ordering: $(dir_release)/ordering  ## wait, drain, link: what puts an fsync behind its writes: make bench-ordering [DATA=folder]
	@mkdir -p $(B)/bench-ordering
	@$< --folder '$(or $(DATA),$(B))' --json $(B)/bench-ordering/results.json $(if $(BLOCKS),--blocks $(BLOCKS))

$(eval $(call binary,release,ceilings,bench/ceilings.cpp))
EVERYTHING += $(call objects,release,bench/ceilings.cpp)

.PHONY: bench-ceilings bench-mixed bench-copy
bench-ceilings: all $(dir_release)/ceilings  ## what a bare recv and send cost here, and where the servers' CPU time goes
	@python3 -B bench/ceilings.py --build $(B) --results $(B)/bench-ceilings

bench-mixed: all  ## echoes while cold files are read, in one process: make bench-mixed [FULL=1] [CELL=mixed/64]
	@python3 -B bench/mixed.py --build $(B) --results $(B)/bench-mixed $(BENCH_FILE)

bench-copy: all  ## a cold file copied by io_uring, cp and dd: make bench-copy [SIZE=512M] [DATA=folder]
	@python3 -B bench/file_copy.py --build $(B) --results $(B)/bench-copy $(if $(SIZE),--size $(SIZE)) \
	  $(if $(BLOCKS),--blocks $(BLOCKS)) $(if $(DATA),--data '$(DATA)')

# Everything, one after another: bench/compare.md. What cannot be built here (no Google Benchmark, no liburing) is a row
# that says so.
COMPARE = --build $(B) --report $(B)/report $(foreach section,$(SECTION),--section $(section)) \
  $(if $(DATA),--data '$(DATA)')
COMPARE_MUST := $(addprefix $(dir_release)/,ceilings bench_zero_copy ordering)
COMPARE_MAY := $(addprefix $(dir_release)/,nop_round_trips bench_instructions)

.PHONY: compare run-compare compare-full run-compare-full compare-programs keep-report
compare: deps-bench  ## all comparisons in seven minutes, and build/report/index.html: make compare [SECTION='echo files']
	@$(MAKE) run-compare
compare-full: deps-bench  ## all of everything, two hours; goes on where it was interrupted
	@$(MAKE) run-compare-full
run-compare: compare-programs
	@python3 -B bench/compare.py $(COMPARE)
run-compare-full: compare-programs
	@python3 -B bench/compare.py $(COMPARE) --full --resume
compare-programs: all $(COMPARE_MUST)
	@$(MAKE) --keep-going $(COMPARE_MAY) || true

# A report that is kept: without the page, the raw data packed, and without what is nobody's business: the names of the
# host and of this folder, and who built the kernel. NAME says what kind of machine it is from.
KEPT = docs/results/$(NAME)
keep-report:  ## build/report becomes docs/results/NAME: make keep-report NAME=2-cpu-kvm-linux-6.18
	@test -n '$(NAME)' || { echo 'make keep-report NAME=kind-of-machine' >&2; exit 2; }
	@rm -rf '$(KEPT)' && mkdir -p '$(KEPT)'
	@cp -r $(B)/report/report.md $(B)/report/tables.txt $(B)/report/results.json $(wildcard $(B)/report/*.svg) $(B)/report/raw '$(KEPT)'
	@find '$(KEPT)' -type f -exec sed -i -e 's,$(CURDIR)/,,g' -e 's,"host_name": "[^"]*","host_name": "",' \
	  -e "s/$$(uname -r)/$$(uname -r | cut -d- -f1)/g" {} +
	@tar -C '$(KEPT)' --remove-files -cJf '$(KEPT)/raw.tar.xz' raw
	@du -sh '$(KEPT)'

-include bench/load/rules.mk

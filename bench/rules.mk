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

-include bench/load/rules.mk

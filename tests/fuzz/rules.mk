# The fuzz target of the wire formats. libFuzzer comes with clang++, whatever CXX is; where there is none, the
# suite says so and is skipped. `make fuzz SECONDS=600` runs it for longer than the ten seconds of `make test`.

FUZZ_CXX := $(shell command -v clang++)
FUZZ_SOURCES := tests/fuzz/wire_fuzz.cpp $(COMMON)
FUZZ_OBJECTS := $(FUZZ_SOURCES:%.cpp=build/fuzz/obj/%.o)
FUZZ_FLAGS := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
FUZZ_WARNINGS := $(filter-out -Wduplicated-% -Wlogical-op -Wuseless-cast,$(WARNINGS))
FUZZ_COMPILE = $(FUZZ_CXX) -std=c++20 -I. $(FUZZ_WARNINGS) -MMD -MP $(FUZZ_FLAGS)

ifneq (,$(FUZZ_CXX))
TEST_BINARIES += build/fuzz/wire_fuzz
endif
TEST_SUITES += tests/fuzz/run_wire_fuzz.sh

build/fuzz/obj/flags: FORCE
	$(call stamp,$(FUZZ_COMPILE))

build/fuzz/obj/%.o: %.cpp build/fuzz/obj/flags
	$(call say,FUZZ)
	@mkdir -p $(@D)
	$(Q)$(FUZZ_COMPILE) -c -o $@ $<

build/fuzz/wire_fuzz: $(FUZZ_OBJECTS)
	$(call say,LINK)
	$(Q)$(FUZZ_CXX) $(FUZZ_FLAGS) -o $@ $^

.PHONY: fuzz
fuzz: $(if $(FUZZ_CXX),build/fuzz/wire_fuzz)  ## fuzz the file servers' wire formats: make fuzz SECONDS=600
	@FUZZ_SECONDS=$(or $(SECONDS),60) tests/fuzz/run_wire_fuzz.sh

-include $(FUZZ_OBJECTS:.o=.d)

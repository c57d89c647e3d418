# The load generator, included by bench/rules.mk.
#
#   build/load         what measures
#   build/asan/load    the same, for its tests: tests/integration/load_test.cpp

LOAD := $(wildcard bench/load/*.cpp)
$(foreach mode,release asan,$(eval $(call binary,$(mode),load,$(LOAD) servers/common/options.cpp)))

# What tests/unit/load_parts_test.cpp tests and is no header.
$(foreach mode,asan fast,$(eval $(dir_$(mode))/run_tests $(dir_$(mode))/static/run_tests: $(call objects,$(mode),bench/load/traffic.cpp)))

all: $(dir_release)/load
TEST_BINARIES += $(dir_asan)/load
EVERYTHING += $(call objects,fast,$(LOAD))

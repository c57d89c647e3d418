# The proofs of the barriers (docs/barriers.md), included by the main Makefile: its COMPILE, dir_*, flags_*,
# binary, say and Q are used here.
#
#   build/barriers/tsan_ORDER_correct        the mock-kernel harness of one order, under ThreadSanitizer
#   build/barriers/tsan_MUTANT               the same, with that order weakened
#   build/barriers/relacy_models             the models; which model and which mutant are its arguments
#   build/barriers/asm_ARCHITECTURE_MUTANT   readable assembly; does not exist where the compiler is missing
#   build/asan/barrier_tests                 the suite that runs and reads all of these

BARRIERS := $(B)/barriers

# A harness is a file, a mutant is a line of uring/indices.hpp, and the names say which belong together.
ORDERS_UNDER_TEST := $(patsubst tests/barriers/tsan_%.cpp,%,$(wildcard tests/barriers/tsan_*.cpp))
MUTANTS := $(filter-out correct,$(shell sed -n 's/^inline constexpr Orders \([a-z_]*\){.*/\1/p' uring/indices.hpp))

# ---- ThreadSanitizer ---------------------------------------------------------------------------------------

# $(call harness,ORDER,NAME,MUTANT)
define harness
BARRIER_PROOFS += $(BARRIERS)/tsan_$(2)
$(BARRIERS)/tsan_$(2): tests/barriers/tsan_$(1).cpp $(dir_tsan)/obj/flags
	$$(call say,TSAN)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $$(flags_tsan) -DURING_MUTANT=$(3) $$(CXXFLAGS) -MF $$@.d -MT $$@ -o $$@ $$< $$(LDFLAGS)
endef
$(foreach order,$(ORDERS_UNDER_TEST),$(eval $(call harness,$(order),$(order)_correct,correct))\
  $(foreach mutant,$(filter $(order)_%,$(MUTANTS)),$(eval $(call harness,$(order),$(mutant),$(mutant)))))

# ---- Relacy ------------------------------------------------------------------------------------------------

# No sanitizer: the models' threads are fibers on stacks that no sanitizer has heard of.
BARRIER_PROOFS += $(BARRIERS)/relacy_models
$(BARRIERS)/relacy_models: tests/barriers/relacy_models.cpp $(dir_release)/obj/flags
	$(call say,RELACY)
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -O1 $(CXXFLAGS) -MF $@.d -MT $@ -o $@ $< $(LDFLAGS)

# ---- Disassembly -------------------------------------------------------------------------------------------

# g++ for both, whatever CXX is, so that the two can be compared: make asm asm_x86_64=clang++ shows another.
MACHINE := $(shell uname -m)
asm_x86_64 := $(if $(filter x86_64,$(MACHINE)),g++,x86_64-linux-gnu-g++)
asm_arm64 := $(if $(filter aarch64,$(MACHINE)),g++,aarch64-linux-gnu-g++)
asm_flags_x86_64 := -masm=intel

# $(call listing,ARCHITECTURE,MUTANT)
define listing
BARRIER_PROOFS += $(BARRIERS)/asm_$(1)_$(2)
$(BARRIERS)/asm_$(1)_$(2): tests/barriers/asm_listing.cpp tests/barriers/asm_listing.awk $(dir_release)/obj/flags
	@mkdir -p $$(@D)
	@if command -v $$(asm_$(1)) >/dev/null; then \
	  echo '  ASM  $$@'; \
	  $$(asm_$(1)) -std=c++20 -I. -O2 -DNDEBUG $$(asm_flags_$(1)) -DURING_MUTANT=$(2) \
	    -MMD -MP -MF $$@.d -MT $$@ -S -o $$@.s $$< && \
	  awk -f tests/barriers/asm_listing.awk $$@.s >$$@; \
	else echo '  ASM  $$@: no $$(asm_$(1)) here (make deps)'; fi
endef
$(foreach mutant,correct $(MUTANTS),$(foreach architecture,x86_64 arm64,\
  $(eval $(call listing,$(architecture),$(mutant)))))

# ---- The suite ---------------------------------------------------------------------------------------------

$(eval $(call binary,asan,barrier_tests,$(wildcard tests/barriers/*_test.cpp) $(TEST_SUPPORT)))

TEST_BINARIES += $(dir_asan)/barrier_tests $(BARRIER_PROOFS)
TEST_SUITES += $(dir_asan)/barrier_tests
EVERYTHING += $(call objects,fast,$(wildcard tests/barriers/*.cpp))

.PHONY: barriers asm mutant
barriers: $(dir_asan)/barrier_tests $(BARRIER_PROOFS)  ## the proofs of the barriers alone
	@tests/support/run_suites.sh $(dir_asan)/barrier_tests

# ---- By hand -----------------------------------------------------------------------------------------------

NAME ?= $(if $(filter asm,$(MAKECMDGOALS)),correct)

asm: $(addsuffix _$(NAME),$(BARRIERS)/asm_x86_64 $(BARRIERS)/asm_arm64)  ## what the orders compile to
	@tests/barriers/show_asm.sh '$(NAME)' $^

PROOFS_OF_NAME := $(filter %/tsan_$(NAME) %/relacy_models,$(BARRIER_PROOFS))
mutant: $(PROOFS_OF_NAME)  ## see one barrier weakened, and caught: make mutant NAME=cq_tail_relaxed
	@tests/barriers/mutant.sh $(BARRIERS) '$(NAME)' $(MUTANTS)

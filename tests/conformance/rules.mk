# The conformance suite of the echo servers (tests/conformance/README.md), included by the main Makefile.
#
#   build/conformance                  the program: any echo server, from outside
#   build/asan/conformance             the same for its own tests, tests/integration/conformance_test.cpp
#   build/asan/broken_echo_server      what those tests hold it against
#   tests/conformance/run.sh           the suite: our servers, one row for each variant

CONFORMANCE := tests/conformance/main.cpp bench/load/target.cpp servers/common/options.cpp
$(foreach mode,release asan,$(eval $(call binary,$(mode),conformance,$(CONFORMANCE))))
$(eval $(call binary,asan,broken_echo_server,tests/conformance/broken_server.cpp))

TEST_BINARIES += $(dir_release)/conformance $(dir_asan)/conformance $(dir_asan)/broken_echo_server
TEST_SUITES += tests/conformance/run.sh
EVERYTHING += $(call objects,fast,$(CONFORMANCE) tests/conformance/broken_server.cpp)

ECHO_SERVERS := $(foreach program,$(PROGRAMS),$(if $(findstring echo_server,$(program)),$(program))) m4_linked

.PHONY: conformance
conformance: $(dir_release)/conformance $(ECHO_SERVERS:%=$(dir_release)/%) $(ECHO_SERVERS:%=$(dir_asan)/%)  ## the echo servers checked from outside: make conformance [VARIANT='epoll*']
	@BIN='$(B)' tests/conformance/run.sh $(if $(VARIANT),'$(VARIANT)')

# Mixed load, as a suite (bench/soak.md), included by the main Makefile.

TEST_BINARIES += $(dir_release)/load
TEST_SUITES += tests/soak/run.sh

# The tests of the comparison's orchestration, with programs that only pretend: nothing is measured, nothing is built.

TEST_SUITES += tests/bench/run.py

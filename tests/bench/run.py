#!/usr/bin/env -S python3 -B
"""Runs the tests of the comparison and counts them as tests/support/main.cpp does for the others:

    suite: P passed, F failed, S skipped
"""

import os
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "bench"))


def title(test):
    return f"{type(test).__name__}: {test._testMethodName.removeprefix('test_').replace('_', ' ')}"


class Counting(unittest.TextTestResult):
    """With TEST_TITLES=FILE the title of each test is appended when it starts: the last one is the one that hung."""

    def startTest(self, test):
        super().startTest(test)
        if path := os.environ.get("TEST_TITLES"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(title(test) + "\n")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"skipped: {title(test)}: {reason}", flush=True)


def main():
    # With names as arguments (test_parts, test_parts.Report) only those.
    loader = unittest.TestLoader()
    sys.path.insert(0, str(HERE))
    tests = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(str(HERE))
    result = unittest.TextTestRunner(stream=sys.stdout, resultclass=Counting).run(tests)
    # A subtest that fails is not the test itself, and a test may fail in several of them.
    failed = {title(getattr(test, "test_case", test)) for test, _ in result.failures + result.errors
              if isinstance(getattr(test, "test_case", test), unittest.TestCase)}
    broken = len(failed) or (0 if result.wasSuccessful() else 1)
    for name in sorted(failed):
        print(f"failed: {name}")
    print(f"suite: {result.testsRun - broken - len(result.skipped)} passed, {broken} failed, "
          f"{len(result.skipped)} skipped")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())

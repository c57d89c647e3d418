#!/usr/bin/env -S python3 -B
"""Runs the tests of the comparison and counts them as tests/support/main.cpp does for the others:

    suite: P passed, F failed, S skipped

With names as arguments (test_parts, test_parts.Report) only those. Without, each file in a process of its own, twice as
many at a time as there are CPUs: most of their time is waiting for programs that pretend.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
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


def run_here(names):
    sys.path.insert(0, str(HERE))
    result = unittest.TextTestRunner(stream=sys.stdout, resultclass=Counting).run(
        unittest.TestLoader().loadTestsFromNames(names))
    # A subtest that fails is not the test itself, and a test may fail in several of them.
    failed = {title(getattr(test, "test_case", test)) for test, _ in result.failures + result.errors
              if isinstance(getattr(test, "test_case", test), unittest.TestCase)}
    broken = len(failed) or (0 if result.wasSuccessful() else 1)
    return sorted(failed), [result.testsRun - broken - len(result.skipped), broken, len(result.skipped)]


def run_elsewhere(name):
    """The same in another process: what failed, and the three numbers. One that says no numbers has failed."""
    done = subprocess.run([sys.executable, "-B", __file__, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    print(done.stdout, end="", flush=True)
    summary = re.search(r"^suite: (\d+) passed, (\d+) failed, (\d+) skipped$", done.stdout, re.MULTILINE)
    if summary is None:
        return [name], [0, 1, 0]
    return re.findall(r"^failed: (.*)$", done.stdout, re.MULTILINE), [int(number) for number in summary.groups()]


def run_all():
    names = sorted(path.stem for path in HERE.glob("test_*.py"))
    with concurrent.futures.ThreadPoolExecutor(2 * len(os.sched_getaffinity(0))) as workers:
        results = list(workers.map(run_elsewhere, names))
    return [name for failed, _ in results for name in failed], [sum(three) for three in zip(*(n for _, n in results))]


def main():
    failed, (passed, broken, skipped) = run_here(sys.argv[1:]) if sys.argv[1:] else run_all()
    for name in failed:
        print(f"failed: {name}")
    print(f"suite: {passed} passed, {broken} failed, {skipped} skipped")
    return 0 if broken == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

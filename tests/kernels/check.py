#!/usr/bin/env python3
"""The tests of what `make test-kernels` and `make facts` make of their input; no guest is started."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import facts  # noqa: E402
import run  # noqa: E402


class Consoles(unittest.TestCase):
    """What a guest prints, read."""

    def test_outcomes_words_and_the_kernels_name(self):
        results, ended, release = run.read_console([
            "guest: 6.1.0-57-cloud-amd64 x86_64, up for 2.5 s\n", "[    2.0] a kernel's word\n",
            "result: holds\ta\t\n", "result: differs\tb\tthe other way round\n", "result: hung\tc\texit status 137\n",
            "result: end\n"])
        self.assertEqual([tuple(result) for result in results],
                         [("holds", "a", ""), ("differs", "b", "the other way round"), ("hung", "c", "exit status 137")])
        self.assertTrue(ended)
        self.assertEqual(release, "6.1.0-57-cloud-amd64")

    def test_a_guest_that_breaks_off_has_not_ended(self):
        self.assertFalse(run.read_console(["result: holds\ta\t\n"])[1])
        self.assertFalse(run.read_console([])[1])

    def test_a_cell_names_what_failed_and_counts_the_rest(self):
        def outcomes(*names):
            return [run.Result(name, "title", "") for name in names]
        self.assertEqual(run.cell(outcomes("holds", "differs", "skipped")), "2, 1 differ, 1 skipped")
        self.assertEqual(run.cell(outcomes("holds", "hung", "died", "failed")), "FAILED 3 of 4")
        self.assertEqual(run.cell(outcomes("holds", "changed")), "1, 1 changed")
        self.assertEqual(run.cell([]), "")


SUITE = """#!/bin/sh
# Four tests: the second hangs, the third dies.
for argument; do case $argument in --first=*) first=${argument#*=} ;; esac; done
for number in 1 2 3 4; do
  [ "$number" -ge "$first" ] || continue
  echo "test $number" >>"$TEST_TITLES"
  case $number in 2) exec sleep 60 ;; 3) kill -SEGV $$ ;; esac
  printf 'holds\\ttest %s\\t\\n' "$number" >>"$TEST_RESULTS"
done
"""


class Guests(unittest.TestCase):
    """What runs in a guest, run here."""

    def test_a_test_that_hangs_or_dies_is_named_and_the_others_go_on(self):
        with tempfile.TemporaryDirectory() as folder:
            suite = pathlib.Path(folder) / "suite"
            suite.write_text(SUITE)
            suite.chmod(0o755)
            ended = subprocess.run(["sh", HERE / "guest/tests", "suite"], capture_output=True, text=True, check=True,
                                   env={**os.environ, "PROGRAMS": folder, "TMPDIR": folder, "HANG_SECONDS": "2"})
        results, complete, _ = run.read_console(ended.stdout.splitlines())
        self.assertTrue(complete)
        self.assertEqual([result[:2] for result in results],
                         [("holds", "test 1"), ("hung", "test 2"), ("died", "test 3"), ("holds", "test 4")])


class Kernels(unittest.TestCase):
    """Kernels that cannot be had."""

    def run_with(self, arguments, **environment):
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run([HERE / "run.py", *arguments], cwd=folder, capture_output=True, text=True, check=False,
                                  env={**os.environ, **environment})

    def without_apt(self, **environment):
        # Without apt-get in its PATH, fetch.sh has nobody to ask.
        with tempfile.TemporaryDirectory() as tools:
            for tool in ("bash", "env", "python3", "awk", "dirname", "cat", "sort", "grep", "sed"):
                where = subprocess.run(["bash", "-c", f"type -P {tool}"], capture_output=True, text=True, check=True)
                os.symlink(where.stdout.strip(), pathlib.Path(tools) / tool)
            return self.run_with(["--kernels", "6.1"], PATH=tools, **environment)

    def test_an_unknown_kernel_is_a_usage_error_that_names_those_there_are(self):
        ended = self.run_with(["--kernels", "2.6"])
        self.assertEqual(ended.returncode, 2)
        self.assertIn("6.1-arm64", ended.stderr)

    def test_a_kernel_that_cannot_be_fetched_is_a_skip_with_its_reason(self):
        ended = self.without_apt(REQUIRE_KERNELS="0")
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertIn("no apt-get", ended.stdout)
        self.assertEqual(ended.stdout.splitlines()[-1], "0 passed, 0 failed, 1 skipped")

    def test_and_a_failure_where_kernels_are_required(self):
        ended = self.without_apt(REQUIRE_KERNELS="1")
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(ended.stdout.splitlines()[-1], "0 passed, 1 failed, 0 skipped")


BOOK = f"""# Facts

{facts.BEGIN}
{facts.END}

| Fact | Since | Test |
|---|---|---|
| It is so, and `a \\| b` too. | 5.1 | a title |
| That is as well. | 6.0 | another |
"""


def result(kernel, tests):
    return {"kernel": kernel, "release": kernel + ".9", "uname": "", "machine": "amd64", "tests": tests}


class Facts(unittest.TestCase):
    """The columns of docs/kernel-facts.md."""

    results = {"6.1": result("6.1", {"a title": ["holds", ""], "another": ["differs", "the other | way"]}),
               "6.1-arm64": result("6.1-arm64", {"a title": ["holds", ""], "another": ["holds", ""]}),
               "6.18": result("6.18", {"a title": ["skipped", "needs Linux 7.0"]})}

    def test_a_column_for_each_kernel_and_words_where_it_differs(self):
        book = facts.rewrite(BOOK, self.results)
        self.assertIn("| Fact | Since | 6.1 | 6.18 | Test |\n|---|---|---|---|---|\n", book)
        self.assertIn("| It is so, and `a \\| b` too. | 5.1 | ✓ | – | a title |", book)
        self.assertIn("| That is as well. | 6.0 | the other \\| way | ? | another |", book)
        self.assertIn("6.18 (6.18.9)", book)
        self.assertIn("On arm64, 6.1 differs", book)

    def test_making_it_anew_changes_nothing(self):
        once = facts.rewrite(BOOK, self.results)
        self.assertEqual(facts.rewrite(once, self.results), once)

    def test_kernels_are_sorted_by_number_and_only_facts_are_kept(self):
        with tempfile.TemporaryDirectory() as folder:
            new, kept = pathlib.Path(folder) / "new", pathlib.Path(folder) / "kept"
            new.mkdir()
            for name, outcome in (("6.12", "holds"), ("6.1", "holds"), ("5.10", "failed")):
                (new / f"{name}.json").write_text(json.dumps(result(name, {"a title": [outcome, ""], "x": ["holds", ""]})))
            complaints = facts.take(kept, new, {"a title"})
            self.assertEqual(complaints, ["5.10: failed: a title"])
            self.assertEqual(list(facts.load(kept)), ["5.10", "6.1", "6.12"])
            self.assertEqual(list(facts.load(kept)["6.12"]["tests"]), ["a title"])

    def test_the_book_says_what_the_kept_results_say(self):
        book = facts.BOOK.read_text()
        kept = facts.load(facts.KEPT)
        self.assertTrue(kept, "no results are kept in tests/kernels/results")
        self.assertEqual(facts.rewrite(book, kept), book, "run `make facts`")


if __name__ == "__main__":
    ended = unittest.main(exit=False, verbosity=0).result
    bad = len(ended.failures) + len(ended.errors)
    print(f"suite: {ended.testsRun - bad - len(ended.skipped)} passed, {bad} failed, {len(ended.skipped)} skipped")
    sys.exit(bad != 0)

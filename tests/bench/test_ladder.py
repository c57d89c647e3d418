"""bench/ladder.py from the outside, with programs that only pretend (fake_ladder_programs.py)."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import ladder

HERE = pathlib.Path(__file__).resolve().parent
SCRIPT = HERE.parent.parent / "bench" / "ladder.py"
PROGRAMS = ("load", "m3_echo_server", "m3_echo_server_sqpoll", "epoll_echo_server")
PATIENCE = 120


class Rungs(unittest.TestCase):
    def test_each_rung_keeps_what_the_one_before_it_has_and_adds_one_thing(self):
        climbed = [row for row in ladder.ROWS if row.key in ("each", "batched", "coop", "defer", "multishot", "direct")]
        for before, row in zip(climbed, climbed[1:]):
            changed = [(a, b) for a, b in zip(before.options, row.options) if a != b]
            self.assertEqual(len(changed), 1, row.key)
            self.assertEqual(row.before, before.key)

    def test_sqpoll_is_compared_with_the_same_without_it(self):
        sqpoll, plain = ladder.BY_KEY["sqpoll"], ladder.BY_KEY["plain"]
        self.assertEqual(sqpoll.before, "plain")
        self.assertEqual((plain.submit, plain.taskrun), ("batched", "default"))
        self.assertEqual(sqpoll.options, ["--recv", "multishot", "--files", "direct"])

    def test_sqpoll_is_ranked_from_three_cpus_on(self):
        self.assertFalse(ladder.is_ranked({"machine": {"cpus": 2}}, "sqpoll"))
        self.assertTrue(ladder.is_ranked({"machine": {"cpus": 3}}, "sqpoll"))
        self.assertTrue(ladder.is_ranked({"machine": {"cpus": 2}}, "direct"))


class Orchestration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="ladder_test_")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        (cls.folder / "build").mkdir()
        source = (HERE / "fake_ladder_programs.py").read_text()
        for program in PROGRAMS:
            path = cls.folder / "build" / program
            path.write_text(f"#!{sys.executable} -BSE\n{source}")
            path.chmod(0o755)

    @classmethod
    def command(cls, results, *words):
        return [sys.executable, "-B", SCRIPT, "--build", cls.folder / "build", "--results", cls.folder / results,
                "--seconds", "0.01", *words]

    @classmethod
    def climb(cls, results, *words, **fakes):
        return subprocess.run(cls.command(results, *words), capture_output=True, text=True, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, env=os.environ | fakes)

    def results(self, name):
        return json.loads((self.folder / name / "results.json").read_text())


class OneClimb(Orchestration):
    """One climb, whole, over TCP; looked at from all sides."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.done = cls.climb("whole", "--transport", "tcp", "--connections", "7", "--size", "99", "--depth", "3",
                             FAKE_SAYS="this kernel does without")

    def test_it_succeeds(self):
        self.assertEqual((self.done.returncode, self.done.stderr.count("Traceback")), (0, 0), self.done.stderr)
        data = self.results("whole")
        self.assertTrue(data["complete"])
        self.assertEqual([len(part["runs"]) for part in data["parts"]], [6 * 9, 6 * 7])

    def test_each_rung_has_its_figures_and_its_ratio_to_the_one_before(self):
        for label in ("batched", r"\+ coop", r"\+ defer", r"\+ multishot", r"\+ direct"):
            # req/s, 2 calls, 30 CQEs an enter, 0.5 switches, the cost, p50, the ratio
            self.assertRegex(self.done.stdout, rf"\n  {label} +[\d,]+ +2\.000 +30\.0 +0\.500 +\d\.\d+ +10\.0 +"
                                               r"1\.11 \[1\.11, 1\.11\]  better\n")
        self.assertRegex(self.done.stdout, r"\n  epoll \(no rung\) +100,000 +2\.000 +– ")
        self.assertRegex(self.done.stdout, r"each ÷ direct, CPU time for a request +1\.69 \[1\.69, 1\.69\]  better")

    def test_passes_go_up_and_down(self):
        runs = self.results("whole")["parts"][0]["runs"]
        passes = [[run["row"] for run in runs if run["pass"] == turn] for turn in range(6)]
        up = [row.key for row in ladder.ROWS]
        self.assertEqual(passes, [up, up[::-1]] * 3)

    def test_all_are_measured_again_at_a_rate_that_all_can_hold(self):
        equal = self.results("whole")["parts"][1]
        self.assertEqual(equal["rate"], 70_000)
        self.assertTrue(all("--rate 70000" in run["commands"]["load"] for run in equal["runs"]))
        self.assertIn("all at 70,000 req/s", self.done.stdout)

    def test_connections_size_and_depth_are_the_generators(self):
        self.assertIn("--connections 7 --size 99 --depth 3",
                      self.results("whole")["parts"][0]["runs"][0]["commands"]["load"])

    def test_sqpoll_is_shown_and_on_two_cpus_not_ranked(self):
        if len(os.sched_getaffinity(0)) >= ladder.CPUS_FOR_SQPOLL:
            self.assertRegex(self.done.stdout, r"\n  SQPOLL .* (no difference|better|WORSE)")
        else:
            self.assertRegex(self.done.stdout, r"\n  SQPOLL .* not ranked .*fewer than 3 CPUs")

    def test_what_a_server_says_about_a_fallback_is_passed_on(self):
        self.assertRegex(self.done.stdout, r"WHAT SERVERS SAID(.|\n)*\+ direct: this kernel does without\n")

    def test_each_rung_is_explained_in_words(self):
        behind = self.done.stdout[self.done.stdout.index("WHAT EACH RUNG CHANGES"):]
        for row in ladder.ROWS:
            self.assertIn(f"\n  {row.label} ", behind)

    def test_the_report_can_be_printed_again_from_the_raw_data(self):
        again = subprocess.run([sys.executable, "-B", SCRIPT, "--report", self.folder / "whole" / "results.json"],
                               capture_output=True, text=True, check=True)
        first = self.done.stdout[:self.done.stdout.rindex("raw data:")]
        self.assertEqual(again.stdout.split(), first.split())


class OtherClimbs(Orchestration):
    def test_both_transports_are_measured_over_their_own_sockets_and_one_block_is_not_judged(self):
        done = self.climb("both", "--blocks", "1", "--no-equal-rate")
        tcp, unix = self.results("both")["parts"]
        self.assertTrue(all("--port 0" in run["commands"]["server"] for run in tcp["runs"]))
        self.assertTrue(all("--unix /" in run["commands"][who] for run in unix["runs"] for who in ("server", "load")))
        self.assertIn("==== a UNIX-DOMAIN SOCKET", done.stdout)
        self.assertRegex(done.stdout, r"\n  batched .*\]  not judged\n")

    def test_a_rung_that_fails_is_a_row_and_the_one_above_it_has_no_ratio(self):
        done = self.climb("dead", "--transport", "tcp", "--blocks", "1", "--no-equal-rate", FAKE_DEAD="coop")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r"\+ coop: FAILED: m3_echo_server ended before it listened, exit code 1: no ring")
        self.assertRegex(done.stdout, r"\n  \+ defer .* –\n")
        self.assertRegex(done.stdout, r"\n  \+ multishot .*1\.11 \[")

    def test_a_wrong_byte_has_no_rate(self):
        done = self.climb("wrong", "--transport", "tcp", "--blocks", "1", FAKE_WRONG_BYTE="1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("each: FAILED: wrong byte: byte 7: expected 0x5a, got 0xc1", done.stdout)
        self.assertEqual(self.results("wrong")["parts"][0]["runs"], [])

    def test_an_interrupted_climb_leaves_valid_raw_data_and_prints_what_there_is(self):
        process = subprocess.Popen(self.command("interrupted", "--blocks", "9"), text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=os.environ | {"FAKE_SLOW": "0.2"})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / "interrupted" / "results.json").exists():  # it is written after the first pass
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 130, errors)
        self.assertNotIn("Traceback", errors)
        data = self.results("interrupted")
        self.assertFalse(data["complete"])
        self.assertGreaterEqual(len(data["parts"][0]["runs"]), len(ladder.ROWS))
        self.assertIn("\n  batched ", output)
        self.assertIn("interrupted", output)

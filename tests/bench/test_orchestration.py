"""bench/file_servers.py from the outside, with programs that only pretend (fake_programs.py)."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
SCRIPT = TREE / "bench" / "file_servers.py"
PROGRAMS = ("load", "fio", "sync_file_server", "epoll_file_server", "m2_file_server", "m4_zero_copy")
PATIENCE = 120


class Orchestration(unittest.TestCase):
    def setUp(self):
        # Not in /tmp, which may be memory, and memory cannot be evicted.
        (TREE / "build").mkdir(exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=TREE / "build", prefix="bench_test_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "build").mkdir()
        source = (HERE / "fake_programs.py").read_text()
        for program in PROGRAMS:
            path = self.folder / "build" / program
            path.write_text(f"#!{sys.executable} -BSE\n{source}")
            path.chmod(0o755)

    def command(self, *words):
        return [sys.executable, "-B", SCRIPT, "--build", self.folder / "build", "--data", self.folder / "data",
                "--results", self.folder / "results", "--seconds", "0.01", *words]

    def measure(self, *words, **fakes):
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, env=os.environ | fakes)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def results(self):
        return json.loads((self.folder / "results" / "results.json").read_text())

    def test_a_cell_has_a_row_for_each_server_and_its_ratios(self):
        done = self.measure("--cell", "cached/whole-10M/1", "--blocks", "3")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for label in ("sync", "epoll inline", "epoll pool 16", "epoll sendfile", "io_uring read", "io_uring fixed", "io_uring zero copy"):
            self.assertIn(f"\n  {label} ", done.stdout)
        # The fake's pools make 1500 and its io_uring server 2000.
        self.assertRegex(done.stdout, r"io_uring fixed ÷ epoll pool \d+, rate +1\.33 \[1\.33, 1\.33\] +io_uring better")
        data = self.results()
        self.assertTrue(data["complete"])
        self.assertEqual(len(data["cells"][0]["runs"]), 7 * 6)

    def test_the_best_are_measured_again_at_a_rate_that_all_can_hold(self):
        done = self.measure("--cell", "cached/whole-10M/1", "--blocks", "1")
        equal = self.results()["cells"][0]["equal_rate"]
        self.assertEqual(equal["rate"], 1050)  # 70 % of the pool's 1500
        self.assertEqual({run["participant"] for run in equal["runs"]} & {"fixed", "read", "zero-copy", "inline"},
                         {"fixed", "read"})
        self.assertIn("--rate 1050", equal["runs"][0]["commands"]["load"])
        self.assertIn("all at 1,050 req/s", done.stdout)

    def test_a_cell_that_was_measured_whole_is_not_measured_again(self):
        words = ("--cell", "open-close/whole-4K/16", "--blocks", "1", "--resume")
        self.measure(*words)
        before = self.results()
        self.assertEqual(self.measure(*words).returncode, 0)
        self.assertEqual(self.results()["cells"], before["cells"])
        self.assertTrue(self.results()["complete"])
        self.measure(*words, "--seconds", "0.02")  # another measurement
        self.assertNotEqual(self.results()["cells"], before["cells"])

    def test_passes_run_forward_and_then_backward(self):
        self.measure("--cell", "open-close/whole-4K/16", "--blocks", "1")
        runs = self.results()["cells"][0]["runs"]
        forward = [run["participant"] for run in runs if run["pass"] == 0]
        backward = [run["participant"] for run in runs if run["pass"] == 1]
        self.assertEqual(forward, backward[::-1])

    def test_fio_is_the_ceiling_in_the_same_passes_and_the_goals_are_decided(self):
        done = self.measure("--cell", "cold-direct/random-4K/256", "--blocks", "3",
                            PATH=f"{self.folder / 'build'}:{os.environ['PATH']}")
        if "could not be evicted" in done.stdout:
            self.skipTest("this file system keeps its files in memory")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"\n  fio, queue depth 128 +2,500 ")
        # The fake's io_uring server makes 2000, its best pool 1500, its inline server 1000, fio 2500 and 1000.
        self.assertRegex(done.stdout, r"fixed ÷ fio at queue depth 128 +>= 0\.85 +0\.80 \[0\.80, 0\.80\] +missed")
        self.assertRegex(done.stdout, r"\(fixed ÷ inline\) ÷ \(fio .*\) +>= 1\.00 +0\.80 \[0\.80, 0\.80\] +missed")
        self.assertRegex(done.stdout, r"fixed ÷ best pool \(.*\), rate +>= 0\.95 +1\.33 \[1\.33, 1\.33\] +met")
        self.assertIn("noise: io_uring fixed against itself", done.stdout)

    def test_with_one_cpu_nothing_is_pinned_and_it_says_so(self):
        one = str(min(os.sched_getaffinity(0)))
        done = subprocess.run(["taskset", "-c", one, *self.command("--cell", "open-close/*", "--blocks", "1")],
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("NOT PINNED", done.stdout)
        self.assertNotIn("taskset", self.results()["cells"][0]["runs"][0]["commands"]["server"])

    def test_a_server_that_does_not_start_is_a_row_and_not_the_end(self):
        done = self.measure("--cell", "open-close/whole-4K/16", "--blocks", "1", FAKE_DEAD="m2_file_server")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, "io_uring, direct files: FAILED: m2_file_server ended before it listened, "
                                      "exit code 1: cannot create a ring")
        self.assertIn("\n  epoll inline ", done.stdout)

    def test_a_server_that_dies_under_load_is_named_and_not_the_generator(self):
        done = self.measure("--cell", "open-close/whole-4K/16", "--blocks", "1", FAKE_DIES_LATER="epoll_file_server")
        self.assertIn("epoll inline: FAILED: epoll_file_server ended with signal 6", done.stdout)

    def test_a_server_that_leaks_has_no_rate(self):
        done = self.measure("--cell", "open-close/whole-4K/16", "--blocks", "1", FAKE_LEAK="epoll_file_server")
        self.assertIn("epoll inline: FAILED: epoll_file_server ended with exit code 1", done.stdout)
        self.assertEqual(done.returncode, 1)

    def test_a_program_that_is_not_there_is_a_row(self):
        (self.folder / "build" / "epoll_file_server").unlink()
        done = self.measure("--cell", "open-close/whole-4K/16", "--blocks", "1")
        self.assertIn("epoll inline: FAILED: ", done.stdout)
        self.assertEqual(done.returncode, 1)

    def test_a_wrong_byte_is_a_row_without_a_rate(self):
        done = self.measure("--cell", "open-close/whole-4K/16", "--blocks", "1", FAKE_WRONG_BYTE="1")
        self.assertIn("epoll inline: FAILED: wrong byte: byte 7: expected 0x5a, got 0xc1", done.stdout)
        self.assertEqual(self.results()["cells"][0]["runs"], [])
        self.assertEqual(done.returncode, 1)

    def test_a_cell_that_cannot_exist_is_a_row_that_says_why(self):
        done = self.measure("--cell", "cached/whole-10M/256")
        self.assertRegex(done.stdout, "cached/whole-10M/256: not measured: .* 2,560 MiB under way at once")

    def test_an_unknown_cell_gets_the_list_of_those_that_exist(self):
        done = self.measure("--cell", "cached/whole-11M/1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("cached/whole-10M/1\n", done.stdout)

    def test_files_that_would_be_read_twice_are_read_once_each_instead(self):
        done = self.measure("--cell", "cold-evict/whole-10M/1", "--blocks", "1")
        cell = self.results()["cells"][0]
        if cell["failures"] and all("could not be evicted" in why for why in cell["failures"].values()):
            self.skipTest("this file system keeps its files in memory")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # 64 files, and the fake answers 800 requests and more in a run of some seconds.
        self.assertTrue(all(run["once"] and run["figures"]["answered"] == 63 for run in cell["runs"]))
        self.assertIn("64 files once each", done.stdout)

    def test_an_interrupted_run_leaves_valid_raw_data_and_prints_what_there_is(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name):
                self.interrupt(number)

    def interrupt(self, number):
        (self.folder / "results").mkdir(exist_ok=True)
        (self.folder / "results" / "results.json").unlink(missing_ok=True)
        process = subprocess.Popen(self.command("--cell", "open-close/whole-4K/16", "--blocks", "9"), text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=os.environ | {"FAKE_SLOW": "0.3"})
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / "results" / "results.json").exists():  # it is written after the first pass
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 130, errors)
        self.assertNotIn("Traceback", errors)
        data = self.results()
        self.assertFalse(data["complete"])
        self.assertGreaterEqual(len(data["cells"][0]["runs"]), 3)
        self.assertIn("\n  epoll inline ", output)
        self.assertIn("interrupted", output)
        self.assertIn("not judged", output)

    def test_the_report_can_be_printed_again_from_the_raw_data(self):
        done = self.measure("--cell", "open-close/*", "--blocks", "1")
        again = subprocess.run([sys.executable, "-B", SCRIPT.parent / "file_report.py",
                                self.folder / "results" / "results.json"], capture_output=True, text=True, check=True)
        first = done.stdout[: done.stdout.rindex("raw data:")]
        self.assertEqual(again.stdout.strip(), first.strip())

    def test_a_disk_without_room_is_refused_before_anything_is_written(self):
        fake = self.folder / "sitecustomize.py"
        fake.write_text("import os\nreal = os.statvfs\n"
                        "os.statvfs = lambda path: os.statvfs_result(real(path)[:4] + (1000,) + real(path)[5:])\n")
        done = self.measure("--cell", "cached/random-4K/1", PYTHONPATH=str(self.folder))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"needs 2\.0 GiB more")
        self.assertIn("DATA=", done.stderr)
        self.assertEqual(list((self.folder / "data").iterdir()), [])

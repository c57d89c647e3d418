"""bench/echo_servers.py from the outside, with programs that only pretend (fake_echo_programs.py)."""

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
SCRIPT = TREE / "bench" / "echo_servers.py"
PROGRAMS = ("load", "epoll_echo_server", "m3_echo_server")
PATIENCE = 120


class EchoOrchestration(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bench_test_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "build").mkdir()
        source = (HERE / "fake_echo_programs.py").read_text()
        for program in PROGRAMS:
            path = self.folder / "build" / program
            path.write_text(f"#!{sys.executable} -BSE\n{source}")
            path.chmod(0o755)

    def command(self, *words):
        return [sys.executable, "-B", SCRIPT, "--build", self.folder / "build", "--results", self.folder / "results",
                "--seconds", "0.01", *words]

    def measure(self, *words, **fakes):
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, env=os.environ | fakes)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def results(self):
        return json.loads((self.folder / "results" / "results.json").read_text())

    def test_a_cell_has_a_row_for_each_server_its_ratios_and_its_goals(self):
        done = self.measure("--cell", "ping-pong/64/128", "--blocks", "3")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # The fake's epoll server makes 1000 messages a second, its io_uring server 1250.
        self.assertRegex(done.stdout, r"\n  epoll +1,000 ")
        self.assertRegex(done.stdout, r"io_uring ÷ epoll, rate +1\.25 \[1\.25, 1\.25\] +io_uring better")
        self.assertRegex(done.stdout, r"epoll ÷ io_uring, CPU per message at 70 % +>= 1\.00 +1\.25 .* met")
        self.assertRegex(done.stdout, r"system calls a message, .* <= 0\.100 +0\.050 +met \(epoll 2\.10")
        self.assertIn("noise: io_uring against itself", done.stdout)
        data = self.results()
        self.assertTrue(data["complete"])
        self.assertEqual(len(data["cells"][0]["runs"]), 3 * 6)

    def test_both_are_measured_again_at_shares_of_the_lower_peak(self):
        done = self.measure("--cell", "pipelined/512/16", "--blocks", "1")
        parts = self.results()["cells"][0]["at_rates"]
        self.assertEqual([part["rate"] for part in parts], [500, 700, 900])
        self.assertEqual({len(part["runs"]) for part in parts}, {4})
        words = parts[1]["runs"][0]["commands"]["load"]
        self.assertIn("--depth 16 --connections 16 --size 512", words)
        self.assertIn("--rate 700", words)
        self.assertIn("both at 700 msg/s, 70 % of the lower peak", done.stdout)

    def test_a_cell_that_was_measured_whole_is_not_measured_again_and_one_that_was_not_is(self):
        words = ("--cell", "unix/64/1", "--cell", "unix/64/16", "--blocks", "1", "--resume")
        self.measure(*words)
        before = self.results()
        self.assertEqual([cell["whole"] for cell in before["cells"]], [True, True])
        before["cells"][1].pop("whole")
        (self.folder / "results" / "results.json").write_text(json.dumps(before))
        self.assertEqual(self.measure(*words).returncode, 0)
        after = self.results()
        self.assertTrue(after["complete"])
        self.assertEqual([cell["cell"] for cell in after["cells"]], ["unix/64/1", "unix/64/16"])
        self.assertEqual(after["cells"][0], before["cells"][0])
        self.assertNotEqual(after["cells"][1]["runs"], before["cells"][1]["runs"])  # their commands name other sockets

    def test_passes_run_forward_and_then_backward(self):
        self.measure("--cell", "unix/64/16", "--blocks", "1")
        runs = self.results()["cells"][0]["runs"]
        self.assertEqual([run["participant"] for run in runs], ["epoll", "uring", "uring", "epoll"])

    def test_a_unix_domain_socket_is_named_to_server_and_generator_and_gone_afterwards(self):
        done = self.measure("--cell", "unix/4K/16", "--blocks", "1")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        commands = self.results()["cells"][0]["runs"][0]["commands"]
        path = commands["server"].split()[-1]
        self.assertIn(f"--unix {path} ", commands["load"])
        self.assertFalse(pathlib.Path(path).parent.exists())

    def test_what_opening_many_connections_costs_is_measured_for_itself(self):
        self.measure("--cell", "ping-pong/64/1000", "--blocks", "1")
        self.assertEqual(set(self.results()["cells"][0]["opening"]), {"epoll_echo_server", "m3_echo_server"})

    def test_churn_opens_a_connection_for_each_message(self):
        done = self.measure("--cell", "churn/64/16", "--blocks", "3")
        self.assertTrue(self.results()["cells"][0]["runs"][0]["load"]["words"][0] == "churn")
        self.assertRegex(done.stdout, r"CPU per message at 70 % +>= 1\.25 +1\.25 .* met")
        self.assertRegex(done.stdout, r"new connections a second +> 1,000 +1,250 +met")

    def test_held_connections_are_asked_at_a_moderate_rate_for_a_minute(self):
        done = self.measure("--cell", "held/*")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        cell = self.results()["cells"][0]
        self.assertIn("--seconds 60", cell["runs"][0]["commands"]["load"])
        self.assertIn("--rate 20000", cell["runs"][0]["commands"]["load"])
        self.assertEqual(cell["at_rates"], [])
        self.assertRegex(done.stdout, r"errors in 60 s +0 +0 +met \(20,000 messages verified; p99 20\.0 us\)")

    def test_idle_connections_are_counted_and_alive(self):
        done = self.measure("--cell", "idle/64/1000")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        run = self.results()["cells"][0]["runs"][0]
        self.assertAlmostEqual(run["figures"]["sockets"], 2, delta=1)  # others may open and close theirs meanwhile
        self.assertRegex(done.stdout, r"\n  io_uring +[\d,-]+ ")

    def test_idle_connections_that_get_another_answer_are_a_failure(self):
        done = self.measure("--cell", "idle/64/1000", FAKE_LIAR="m3_echo_server", FAKE_DEAD="epoll_echo_server")
        self.assertRegex(done.stdout, "io_uring: FAILED: connection 0 got 64 bytes that are not its message")
        self.assertEqual(done.returncode, 1)

    def test_with_one_cpu_nothing_is_pinned_and_it_says_so(self):
        one = str(min(os.sched_getaffinity(0)))
        done = subprocess.run(["taskset", "-c", one, *self.command("--cell", "churn/64/16", "--blocks", "1")],
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("NOT PINNED", done.stdout)
        self.assertNotIn("taskset", self.results()["cells"][0]["runs"][0]["commands"]["server"])

    def test_a_server_that_does_not_start_is_a_row_and_not_the_end(self):
        done = self.measure("--cell", "ping-pong/64/1000", "--blocks", "1", FAKE_DEAD="m3_echo_server")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, "io_uring: FAILED: m3_echo_server ended before it listened, exit code 1: "
                                      "cannot create a ring")
        self.assertIn("\n  epoll ", done.stdout)
        self.assertRegex(done.stdout, r">= 0\.97 +– +missed: io_uring failed")

    def test_a_server_that_dies_under_load_is_named_and_not_the_generator(self):
        done = self.measure("--cell", "ping-pong/64/1", "--blocks", "1", FAKE_DIES_LATER="epoll_echo_server")
        self.assertIn("epoll: FAILED: epoll_echo_server ended with signal 6", done.stdout)

    def test_a_server_that_leaks_has_no_rate(self):
        done = self.measure("--cell", "ping-pong/64/1", "--blocks", "1", FAKE_LEAK="epoll_echo_server")
        self.assertIn("epoll: FAILED: epoll_echo_server ended with exit code 1", done.stdout)
        self.assertEqual(done.returncode, 1)

    def test_a_wrong_byte_is_a_row_without_a_rate(self):
        done = self.measure("--cell", "ping-pong/64/1", "--blocks", "1", FAKE_WRONG_BYTE="1")
        self.assertIn("epoll: FAILED: wrong byte: byte 7: expected 0x5a, got 0xc1", done.stdout)
        self.assertEqual(self.results()["cells"][0]["runs"], [])
        self.assertEqual(done.returncode, 1)

    def test_a_cell_that_cannot_exist_is_a_row_that_says_why(self):
        done = self.measure("--cell", "pipelined/64K/1000")
        self.assertRegex(done.stdout, "pipelined/64K/1000: not measured: .* 1,000 MiB under way at once")

    def test_more_connections_than_descriptors_are_a_row_that_says_why(self):
        done = subprocess.run(["bash", "-c", 'ulimit -n 512 && exec "$@"', "-",
                               *self.command("--cell", "ping-pong/64/1000", "--blocks", "1")],
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertIn("ping-pong/64/1000: not measured: 1,000 connections need more descriptors", done.stdout)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_an_unknown_cell_gets_the_list_of_those_that_exist(self):
        done = self.measure("--cell", "ping-pong/65/1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("unix-pipelined/4K/128\n", done.stdout)

    def test_an_interrupted_run_leaves_valid_raw_data_and_prints_what_there_is(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name):
                self.interrupt(number)

    def interrupt(self, number):
        results = self.folder / "results" / "results.json"
        results.unlink(missing_ok=True)
        process = subprocess.Popen(self.command("--cell", "unix/4K/128", "--blocks", "9"), text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=os.environ | {"FAKE_SLOW": "0.3"})
        deadline = time.monotonic() + PATIENCE
        # It is there from the beginning, and written again after each pass.
        while not results.exists() or not self.results()["cells"] or not self.results()["cells"][0]["runs"]:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 130, errors)
        self.assertNotIn("Traceback", errors)
        data = self.results()
        self.assertFalse(data["complete"])
        self.assertGreaterEqual(len(data["cells"][0]["runs"]), 2)
        self.assertIn("\n  epoll ", output)
        self.assertIn("interrupted", output)
        self.assertIn("not judged", output)

    def test_the_report_can_be_printed_again_from_the_raw_data(self):
        done = self.measure("--cell", "ping-pong/64/16", "--cell", "held/*", "--blocks", "1")
        again = subprocess.run([sys.executable, "-B", SCRIPT.parent / "echo_report.py",
                                self.folder / "results" / "results.json"], capture_output=True, text=True, check=True)
        first = done.stdout[: done.stdout.rindex("raw data:")]
        self.assertEqual(again.stdout.strip(), first.strip())

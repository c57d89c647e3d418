"""bench/zero_copy.py from the outside, with programs that only pretend."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import zero_copy

SCRIPT = pathlib.Path(zero_copy.__file__)
PATIENCE = 60

# A server listens on port 1 (m4) or 2, and ends with its counters. The generator asks nobody: m4 needs 10 us, m2 15.
SERVER = """
import os, signal, sys
m4 = sys.argv[0].endswith("m4_zero_copy")
if not m4 and os.environ.get("FAKE_DEAD"):
    sys.stderr.write("no ring here")
    sys.exit(int(os.environ["FAKE_DEAD"]))
assert m4 == ("--zc-threshold" in sys.argv)
def end(*_):
    os.write(1, b'{"leaks": 0, "zc_sends": 7, "zc_copied": 7}\\n')
    os._exit(0)
signal.signal(signal.SIGTERM, end)
if "FAKE_HANG" in os.environ:
    open(os.path.join(os.environ["FAKE_HANG"], str(os.getpid())), "w").close()
print("listening 127.0.0.1:%d" % (1 if m4 else 2), flush=True)
while True:
    signal.pause()
"""
LOAD = """
import json, os, sys, time
if sys.argv[1] == "make-files":
    sys.exit(0)
words = dict(zip(sys.argv, sys.argv[1:]))
def run(cost):
    return {"ok": True, "traffic": [{"per_second": 1e6 / cost}], "server_cpu_us_per_message": cost}
if "FAKE_HANG" in os.environ:
    open(os.path.join(os.environ["FAKE_HANG"], str(os.getpid())), "w").close()
    time.sleep(600)
if os.environ.get("FAKE_WRONG_BYTE"):
    print(json.dumps({"ok": False, "wrong": {"kind": "wrong byte", "sentence": "byte 7"}}))
    sys.exit(1)
if "--against" in words:
    assert (words["--port"], words["--against"]) == ("1", "2") and int(words["--rate"]) == round(0.7 * 1e6 / 15)
    block = [run(10), run(15), run(15), run(10)]
    ratio = {"median": 1.5, "low": 1.5, "high": 1.5, "verdict": "A is better"}
    print(json.dumps({"ok": True, "ratios": {"server_cpu": ratio}, "blocks": [block] * int(words["--blocks"])}))
else:
    print(json.dumps(run(10 if words["--port"] == "1" else 15)))
"""


def is_running(pid):
    try:
        return ") Z " not in pathlib.Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False


class ZeroCopy(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="zero_copy_test_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name, text in (("m4_zero_copy", SERVER), ("m2_file_server", SERVER), ("load", LOAD)):
            (self.folder / name).write_text(f"#!{sys.executable} -BSE\n{text}")
            (self.folder / name).chmod(0o755)

    def command(self, *words):
        return [sys.executable, "-B", SCRIPT, "--build", self.folder, "--results", self.folder / "results",
                "--seconds", "0.01", *words]

    def run_it(self, *words, **fakes):
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, env=os.environ | fakes)

    def test_each_size_has_a_row_and_the_ratio_is_above_1_where_zero_copy_is_cheaper(self):
        done = self.run_it()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        rows = done.stdout.splitlines()[3:]
        self.assertEqual([row.split()[0] for row in rows], zero_copy.SIZES)
        self.assertEqual(rows[0].split(), "4K 100,000 66,667 46,667 10.0 15.0 1.50 [1.50, 1.50] zero copy better 7 7".split())
        kept = json.loads((self.folder / "results" / "servers.json").read_text())
        self.assertEqual(len(kept["sizes"]), len(zero_copy.SIZES))

    def test_a_wrong_byte_is_a_failure_and_no_row(self):
        done = self.run_it(FAKE_WRONG_BYTE="1")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("wrong byte: byte 7", done.stderr)

    def test_a_server_that_does_not_start_says_why_and_3_means_no_io_uring(self):
        for status in (1, 3):
            done = self.run_it(FAKE_DEAD=str(status))
            self.assertEqual(done.returncode, status)
            self.assertIn("no ring here", done.stderr)

    def test_a_signal_ends_it_and_leaves_nothing_running(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number), tempfile.TemporaryDirectory() as pids:
                script = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                          env=os.environ | {"FAKE_HANG": pids})
                self.addCleanup(script.kill)
                end = time.monotonic() + PATIENCE
                while len(os.listdir(pids)) < 3 and time.monotonic() < end:  # both servers, and the generator
                    time.sleep(0.01)
                script.send_signal(number)
                status = script.wait(PATIENCE)
                started = [int(pid) for pid in os.listdir(pids)]
                end = time.monotonic() + 10  # for those who are being killed
                while any(is_running(pid) for pid in started) and time.monotonic() < end:
                    time.sleep(0.01)
                left = [pid for pid in started if is_running(pid)]
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                self.assertEqual((status, left, len(started)), (130, [], 3))

    def test_fewer_than_three_blocks_could_not_be_judged(self):
        self.assertEqual(self.run_it("--blocks", "2").returncode, 2)


if __name__ == "__main__":
    unittest.main()

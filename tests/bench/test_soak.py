"""bench/soak.py: that it would fail. Its judgement on series that are made up, and the whole of it with servers that
only pretend (fake_soak_programs.py) and have what a soak is to find."""

import csv
import mmap
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.dom.minidom

import soak
import soak_clients
import soak_report

HERE = pathlib.Path(__file__).resolve().parent
SCRIPT = HERE.parent.parent / "bench" / "soak.py"
PATIENCE = 120


def series(count=60, after=None, **functions):
    """Samples of `count` seconds of load: each measure is a constant, or a function of the second."""
    def sample(second, phase):
        values = {"seconds": second, "phase": phase, "rss": 8 << 20, "grown": 2 << 20, "fds": 60, "buffers": 400,
                  "operations": 55, "connections": 50, "cpu_seconds": 0.1 * second}
        return values | {key: function(second) for key, function in functions.items()}
    idle = {"rss": 4 << 20, "grown": 1 << 20, "fds": 6, "buffers": 0, "operations": 1}
    return [sample(0, "before") | idle, *(sample(s, "load") for s in range(count)),
            sample(count, "after") | idle | (after or {})]


def slices(count=15, length=4, rate=lambda middle: 1000, disturbed=lambda middle: False):
    found = []
    for i in range(count):
        start, middle = i * length, i * length + length / 2
        found.append({"stream": "ping-pong", "offered": True, "start": start, "end": start + length,
                      "rate": rate(middle), "disturbed": disturbed(middle)})
    return found


class Growth(unittest.TestCase):
    def complaints(self, **functions):
        return soak_report.growth_complaints(series(**functions))

    def test_a_flat_series_is_flat(self):
        self.assertEqual(self.complaints(), [])

    def test_what_leaks_with_each_second_is_named(self):
        for key, slope, title in (("grown", 64 << 10, "heap"), ("fds", 1, "descriptors"),
                                  ("buffers", 10, "buffers out"), ("operations", 2, "operations in flight")):
            with self.subTest(key):
                found = self.complaints(**{key: lambda second, slope=slope: 100 + slope * second})
                self.assertEqual(len(found), 1)
                self.assertTrue(found[0].startswith(f"{title} grew: "), found)

    def test_the_sentence_says_from_where_to_where(self):
        found = self.complaints(grown=lambda second: (2 << 20) + second * (1 << 20))
        self.assertRegex(found[0], r"grew: \d+\.\d MiB in the first .*, \d+\.\d MiB in the last \(5 % and 0\.5 MiB")

    def test_what_grows_in_the_warm_up_only_is_no_leak(self):
        self.assertEqual(self.complaints(grown=lambda second: (2 << 20) + min(second, 11) * (1 << 20)), [])

    def test_what_swings_is_no_leak(self):
        draw = random.Random(3)
        self.assertEqual(self.complaints(fds=lambda second: 92 if second % 4 else 108,
                                         buffers=lambda second: draw.randint(350, 500)), [])

    def test_a_swing_does_not_hide_a_leak(self):
        draw = random.Random(3)
        self.assertNotEqual(self.complaints(buffers=lambda second: draw.randint(350, 500) + 10 * second), [])

    def test_buffers_that_are_used_for_the_first_time_are_no_leak(self):
        self.assertEqual(self.complaints(rss=lambda second: (8 << 20) + second * (100 << 10)), [])

    def test_what_falls_is_no_leak(self):
        self.assertEqual(self.complaints(grown=lambda second: (20 << 20) - second * 1000), [])

    def test_what_a_server_does_not_have_is_not_judged(self):
        self.assertEqual(self.complaints(buffers=lambda _: None, operations=lambda _: None), [])

    def test_of_few_samples_nothing_is_said(self):
        self.assertEqual(soak_report.growth_complaints(series(count=10, fds=lambda second: 100 * second)), [])


class Idle(unittest.TestCase):
    def test_back_to_where_it_was_is_good(self):
        self.assertEqual(soak_report.idle_complaints(series()), [])

    def test_one_of_anything_that_is_kept_is_named(self):
        for key, title in (("fds", "descriptors"), ("buffers", "buffers out"), ("operations", "operations in flight")):
            with self.subTest(key):
                samples = series()
                samples[-1][key] += 1
                self.assertRegex(soak_report.idle_complaints(samples)[0], f"{title}: .* long after the load had gone")

    def test_a_file_server_may_keep_its_files_open_and_no_more(self):
        self.assertEqual(soak_report.idle_complaints(series(after={"fds": 32}), kept_open=26), [])
        self.assertNotEqual(soak_report.idle_complaints(series(after={"fds": 33}), kept_open=26), [])

    def test_memory_may_stay_what_it_was_under_load_and_no_more(self):
        self.assertEqual(soak_report.idle_complaints(series(after={"grown": 2 << 20})), [])
        self.assertRegex(soak_report.idle_complaints(series(after={"grown": 3 << 20}))[0], "heap: 3.0 MiB")


class Errors(unittest.TestCase):
    def test_one_in_a_thousand_is_too_many(self):
        self.assertEqual(soak_report.error_complaint(0, 0), [])
        self.assertEqual(soak_report.error_complaint(9, 9_991), [])
        self.assertRegex(soak_report.error_complaint(10, 9_990, "churn: reset")[0], "10 errors .* first: churn: reset")

    def test_nothing_but_errors_is_too_many(self):
        self.assertNotEqual(soak_report.error_complaint(1, 0), [])


class Drift(unittest.TestCase):
    def test_a_constant_rate_has_none(self):
        self.assertEqual(soak_report.drift(slices(), 60)[0], 0)
        self.assertEqual(soak_report.drift_complaint(slices(), 60), [])

    def test_a_tenth_is_too_much(self):
        falling = slices(rate=lambda middle: 1000 if middle < 40 else 899)
        self.assertRegex(soak_report.drift_complaint(falling, 60)[0], "drifted by 10 % or more: 1,000/s .* 899/s")
        self.assertEqual(soak_report.drift_complaint(slices(rate=lambda m: 1000 if m < 40 else 901), 60), [])

    def test_one_bad_slice_is_no_drift(self):
        self.assertEqual(soak_report.drift_complaint(slices(rate=lambda middle: 300 if middle == 54 else 1000), 60), [])

    def test_disturbed_slices_say_nothing(self):
        falling = slices(rate=lambda middle: 1000 if middle < 40 else 500, disturbed=lambda middle: middle > 40)
        share, sentence = soak_report.drift(falling, 60)
        self.assertIsNone(share)
        self.assertIn("the generator waited for a CPU", sentence)
        self.assertEqual(soak_report.drift_complaint(falling, 60), [])

    def test_bursts_are_no_part_of_it(self):
        burst = [piece | {"stream": "mixed", "offered": False} for piece in slices(rate=lambda middle: middle)]
        self.assertEqual(soak_report.drift(slices() + burst, 60)[0], 0)


class Tables(unittest.TestCase):
    def test_the_tables_of_an_io_uring_server_are_read(self):
        text = ("ring: sq head 7 tail 7 of 1024, cq head 9 tail 9 of 16384, 53 operations in flight\n"
                "buffers: 529 of 1024 in use, 4 connections wait for one\n52 connections\n      fd  state\n")
        self.assertEqual(soak.read_tables(text), {"operations": 53, "buffers": 529, "connections": 52})

    def test_those_of_the_file_servers_as_well(self):
        self.assertEqual(soak.read_tables("buffers: 4 of 256 in use, 2 connections in line\nconnections: 60\n"),
                         {"operations": None, "buffers": 4, "connections": 60})
        self.assertEqual(soak.read_tables("12 connections, 3 files in use, 5 more open, 7 of 256 buffers in use\n"),
                         {"operations": None, "buffers": 7, "connections": 12})

    def test_a_server_that_has_none_of_it_or_says_nothing(self):
        self.assertEqual(soak.read_tables("5 connections, 1 of them with queued bytes\n")["operations"], None)
        self.assertEqual(set(soak.read_tables("").values()), {None})


class Memory(unittest.TestCase):
    def test_pages_that_were_mapped_before_are_told_from_those_that_came_later(self):
        pid, size = os.getpid(), 8 << 20
        early = mmap.mmap(-1, size)
        self.addCleanup(early.close)
        fixed = soak.mapped(pid)
        before = soak.resident_within(pid, fixed)
        early.write(b"x" * size)
        used = soak.resident_within(pid, fixed)
        self.assertGreaterEqual(used - before, size)
        late = mmap.mmap(-1, size)
        self.addCleanup(late.close)
        late.write(b"x" * size)
        self.assertLess(soak.resident_within(pid, fixed) - used, size // 2)
        self.assertGreater(soak.resident_bytes(pid), 2 * size)


class Files(unittest.TestCase):
    def test_the_csv_has_a_row_for_each_sample(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "soak.csv"
            soak_report.write_csv(path, series(operations=lambda _: None), slices())
            rows = list(csv.DictReader(path.open()))
        self.assertEqual(len(rows), 62)
        self.assertEqual([rows[1][key] for key in ("rss", "operations", "verified_per_second")],
                         ["8388608", "", "1000"])

    def test_the_picture_is_an_svg_with_a_line_for_each_measure_that_there_is(self):
        samples = [sample | {"operations": None} for sample in series()]
        picture = soak_report.draw("a < b", samples, slices())
        text = xml.dom.minidom.parseString(picture).documentElement.toxml()
        for title in ("verified answers a second", "resident memory, MiB", "heap, MiB", "descriptors", "buffers out",
                      "share of a CPU"):
            self.assertIn(title, text)
        self.assertNotIn("operations in flight", text)
        self.assertIn("a &lt; b", text)

    def test_a_picture_of_nothing_is_still_one(self):
        xml.dom.minidom.parseString(soak_report.draw("nothing", series(count=0), []))

    def test_the_axis_ends_at_a_round_number(self):
        self.assertEqual([soak_report.nice_ceiling(x) for x in (0, 0.3, 1, 1.1, 7, 99, 2500)],
                         [1, 0.5, 1, 2, 10, 100, 5000])


class Clients(unittest.TestCase):
    """The clients against a server of a few lines, which changes one byte or leaves some out."""

    def tally_with(self, change):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def serve(client):
            with client:
                try:
                    seen = 0
                    while data := client.recv(1 << 16):
                        client.sendall(change(data, seen))
                        seen += len(data)
                except OSError:
                    pass

        def accept():
            try:
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                pass
        threading.Thread(target=accept, daemon=True).start()
        tally, stop = soak_clients.Tally(), threading.Event()
        everybody = soak_clients.clients(listener.getsockname()[1], soak_clients.echo_talk(), 2, 2)
        for client in everybody[:2]:
            client.begin = lambda client=client: vars(client).update(last_turn=10, half_closed=False)
        thread = threading.Thread(target=soak_clients.drive, args=(everybody, tally, stop))
        thread.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not tally.wrong and not tally.errors and tally.rounds < 8:
            time.sleep(0.05)
        stop.set()
        thread.join()
        return tally

    def test_a_good_server_passes(self):
        tally = self.tally_with(lambda data, _: data)
        self.assertEqual((tally.wrong, tally.errors), ("", 0), tally)
        self.assertGreater(tally.rounds, 0)
        self.assertGreater(tally.verified, 1 << 16)

    def test_a_wrong_byte_is_found_and_its_place_is_told(self):
        tally = self.tally_with(lambda data, seen: bytes([data[0] ^ 1]) + data[1:] if seen > 100_000 else data)
        self.assertRegex(tally.wrong, r"(slow reader|vanishing client) \d+: wrong byte: byte \d+ of its stream: exp")

    def test_bytes_that_are_left_out_are_found(self):
        self.assertIn("wrong byte", self.tally_with(lambda data, seen: data[1:] if seen > 100_000 else data).wrong)

    def test_a_stream_that_ends_too_early_is_an_error(self):
        def cut(data, seen):
            if seen > 300_000:
                raise OSError
            return data
        tally = self.tally_with(cut)
        self.assertGreater(tally.errors, 0, tally)
        self.assertNotEqual(tally.first, "")

    def test_a_file_server_owes_an_answer_for_each_whole_request(self):
        talk = soak_clients.file_talk("x", b"12345")
        self.assertEqual([talk.due(count) for count in (0, 5, 6, 11, 12)], [0, 0, 10, 10, 20])
        self.assertEqual(talk.answered.at(8, 4), b"45OK")
        self.assertEqual(talk.answered.at(0, 25), b"OK 5\n12345OK 5\n12345OK 5\n")


class Whole(unittest.TestCase):
    """soak.py from the outside. Several at once, because each takes its time."""

    def start(self, trouble="", after=0.0, seconds=6):
        folder = tempfile.TemporaryDirectory(prefix="soak_test_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "build").mkdir()
        source = (HERE / "fake_soak_programs.py").read_text()
        for program in ("load", "m3_echo_server"):
            path = self.folder / "build" / program
            path.write_text(f"#!{sys.executable} -BSE\n{source}")
            path.chmod(0o755)
        process = subprocess.Popen(
            [sys.executable, "-B", SCRIPT, "--build", self.folder / "build", "--results", self.folder / "results",
             "--minutes", str(seconds / 60), "--interval", "0.1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"FAKE_TROUBLE": trouble, "FAKE_AFTER": str(after)})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def end_of(self, process):
        """(exit code, what it printed)."""
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertNotIn("Traceback", errors)
        return process.returncode, output

    def assert_all_fail(self, patterns, after=0.0):
        """{trouble: what the last lines must say}."""
        started = {trouble: self.start(trouble, after) for trouble in patterns}
        ends = {trouble: self.end_of(process) for trouble, process in started.items()}
        for trouble, pattern in patterns.items():
            with self.subTest(trouble):
                status, output = ends[trouble]
                self.assertEqual(status, 1, output)
                self.assertRegex(output, f"soak: FAILED: .*{pattern}")
                self.assertNotIn("it held", output)

    def test_a_good_server_holds_and_leaves_a_csv_and_a_picture(self):
        status, output = self.end_of(self.start())
        self.assertEqual(status, 0, output)
        self.assertIn("soak: it held", output)
        rows = list(csv.DictReader((self.folder / "results" / "m3.csv").open()))
        self.assertEqual((rows[0]["phase"], rows[-1]["phase"]), ("before", "after"))
        self.assertTrue(any(int(row["connections"]) > 5 for row in rows))
        xml.dom.minidom.parse(str(self.folder / "results" / "m3.svg"))

    def test_leaks_are_found(self):
        self.assert_all_fail({
            "descriptors": "descriptors grew",
            "memory": "heap grew",
            "operations": "operations in flight grew",
            "buffers": "buffers out grew",
            # Nothing grows here, but it is not given back.
            "keeps": "descriptors: [0-9]+ long after the load had gone, [0-9]+ before it came",
        })

    def test_errors_wrong_bytes_a_rate_that_falls_and_the_death_of_the_server_are_found(self):
        self.assert_all_fail({
            "errors": "errors beside .* verified answers: 0.1 % or more; the first: .*reset by the server",
            "slower": "throughput drifted by 10 % or more",
            "wrong-byte": r"wrong byte: byte \d+ of its stream",
            "load-wrong-byte": "wrong byte: byte 7: expected 0x5a, got 0xc1",
            "dies": "m3_echo_server ended with signal 6",
        }, after=3)

    def test_no_io_uring_is_an_exit_code_of_its_own(self):
        self.assertEqual(self.end_of(self.start("no-ring"))[0], 3)

    def test_an_interrupted_soak_leaves_its_files_and_no_verdict(self):
        process = self.start(seconds=60)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        status, output = self.end_of(process)
        self.assertEqual(status, 130, output)
        self.assertIn("interrupted, and not judged", output)
        self.assertTrue((self.folder / "results" / "m3.csv").exists())

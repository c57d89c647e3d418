"""bench/compare.py from the outside, with sections that only pretend (fake_compare.py, fake_section.py)."""

import html.parser
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
PATIENCE = 60


class Page(html.parser.HTMLParser):
    """What is open at the end, what was closed in the wrong order, and everything that would need a network."""

    ALONE = {"meta", "br", "img", "link", "hr", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.loaded, self.identities, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.ALONE:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.identities.append(value)
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.loaded.append(value)
        if tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.ALONE:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def parsed(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


class Reports(unittest.TestCase):
    """A folder for each test, and what is found in it afterwards."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="compare_test_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.report = self.folder / "report"
        (self.folder / "build").mkdir()
        (self.folder / "build" / "program").write_text("first")
        # Not every test needs pictures, which take matplotlib a second.
        (self.folder / "matplotlib.py").write_text("raise ImportError('not for this test')\n")
        self.environment = os.environ | {"FAKE_RAN": str(self.folder / "ran"), "PYTHONPATH": str(self.folder)}

    def command(self, *words):
        return [sys.executable, "-B", HERE / "fake_compare.py", "--build", self.folder / "build", "--data",
                self.folder / "data", "--report", self.report, *words]

    def compare(self, sections, *words, **environment):
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL,
                              env=self.environment | {"FAKE_SECTIONS": sections} | environment)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def results(self):
        return json.loads((self.report / "results.json").read_text(encoding="utf-8"))

    def status(self, name):
        return next(one for one in self.results()["sections"] if one["name"] == name)

    def ran(self):
        path = self.folder / "ran"
        return path.read_text().split() if path.exists() else []


class Compare(Reports):
    def test_each_section_is_in_both_reports_and_in_the_data(self):
        done = self.compare("good,ceilings")
        self.assertEqual(done.returncode, 0, done.stderr)
        data = self.results()
        self.assertTrue(data["complete"])
        self.assertEqual([one["cell"] for one in data["findings"]], ["good/cell", "ceilings/cell"])
        self.assertEqual(data["findings"][0]["state"], "better")
        self.assertIn("raw/good/results.json", self.status("good")["raw"])
        markdown = (self.report / "report.md").read_text(encoding="utf-8")
        self.assertIn("| ▲ | a workload (`good/cell`) | io_uring | epoll | CPU time | 1.50 [1.50, 1.50] | io_uring "
                      "better |", markdown)
        self.assertIn("[tables.txt](tables.txt)", markdown)
        self.assertIn("a table", (self.report / "tables.txt").read_text(encoding="utf-8"))
        page = parsed(self.report / "index.html")
        self.assertIn("io_uring better", "".join(page.text))
        self.assertRegex(done.stdout, "good/cell +io_uring against epoll: CPU time +1.50 ")

    def test_the_page_is_whole_and_needs_no_network(self):
        self.compare("good,bad")
        page = parsed(self.report / "index.html")
        self.assertEqual((page.open, page.wrong, page.loaded), ([], [], []))
        self.assertEqual(len(page.identities), len(set(page.identities)))

    def test_the_machine_its_limits_and_the_commit_are_in_the_data(self):
        self.compare("good")
        facts = self.results()["machine"]
        self.assertLessEqual({"kernel", "cpu", "mitigations", "commit", "date", "limits", "hypervisor"}, set(facts))
        self.assertIn("descriptors", facts["limits"])

    def test_progress_says_what_runs_and_how_long_is_left_in_all(self):
        done = self.compare("good,ceilings")
        self.assertRegex(done.stderr, r"\[1/2\] the good one: another cell  \(\d+ s left in all\)")
        self.assertRegex(done.stderr, r"\[2/2\] the ceilings one: a cell  \(\d+ s left in all\)")

    def test_a_section_that_fails_is_a_row_and_not_the_end(self):
        done = self.compare("bad,good")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.status("bad")["status"], "failed")
        self.assertIn("the disk is full", self.status("bad")["why"])
        self.assertEqual(self.status("good")["status"], "measured")
        self.assertIn("the disk is full", (self.report / "report.md").read_text(encoding="utf-8"))
        self.assertIn("FAILED  bad", done.stdout)

    def test_a_program_that_is_not_there_is_a_row(self):
        done = self.compare("missing,good")
        self.assertEqual(done.returncode, 1)
        self.assertEqual((self.status("missing")["status"], self.status("missing")["why"]),
                         ("missing", "/nowhere/at_all is not there"))

    def test_a_comparison_that_we_lose_is_no_failure(self):
        self.assertEqual(self.compare("worse").returncode, 0)
        self.assertEqual(self.status("worse")["status"], "measured")

    def test_a_machine_without_io_uring_is_a_row(self):
        self.compare("none,good")
        self.assertEqual(self.status("none")["status"], "missing")
        self.assertIn("no io_uring here", self.status("none")["why"])

    def test_results_that_cannot_be_read_are_a_row(self):
        done = self.compare("garbage,other,good")
        self.assertEqual(done.returncode, 1)
        self.assertIn("results.json is not JSON", self.status("garbage")["why"])
        self.assertIn("could not be read", self.status("other")["why"])
        self.assertEqual(len(self.results()["findings"]), 1)
        self.assertFalse(self.results()["complete"])

    def test_without_matplotlib_the_tables_still_come_and_the_report_says_why_there_are_no_pictures(self):
        done = self.compare("good")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(list(self.report.glob("*.svg")), [])
        self.assertIn("matplotlib is not installed", (self.report / "report.md").read_text(encoding="utf-8"))
        self.assertIn("matplotlib is not installed", "".join(parsed(self.report / "index.html").text))

    def test_an_interrupted_run_leaves_a_valid_report_with_what_there_is(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name):
                self.interrupt(number)

    def interrupt(self, number):
        process = subprocess.Popen(self.command(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=self.environment | {"FAKE_SECTIONS": "good,slow,ceilings"})
        self.wait_for(self.report / "raw" / "slow" / "measuring")
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 130, errors)
        self.assertNotIn("Traceback", errors)
        data = self.results()
        self.assertFalse(data["complete"])
        # The slow one was told to stop, and wrote what it had.
        self.assertEqual([one["cell"] for one in data["findings"]], ["good/cell", "slow/cell"])
        self.assertEqual([one["status"] for one in data["sections"]], ["measured", "interrupted", "not reached"])
        self.assertIn("not complete", (self.report / "report.md").read_text(encoding="utf-8"))
        self.assertEqual(parsed(self.report / "index.html").wrong, [])
        (self.report / "raw" / "slow" / "measuring").unlink()

    def wait_for(self, path):
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_what_was_measured_whole_is_not_measured_again(self):
        self.compare("good,bad", "--resume")
        done = self.compare("good,bad,ceilings", "--resume")
        self.assertEqual(self.ran(), ["good", "bad", "bad", "ceilings"])
        self.assertTrue(self.status("good")["kept"])
        self.assertIn("2 sections", done.stdout)
        self.assertEqual(len(self.results()["findings"]), 2)

    def test_a_program_that_has_changed_is_measured_again(self):
        self.compare("good", "--resume")
        (self.folder / "build" / "program").write_text("second")
        self.compare("good", "--resume")
        self.assertEqual(self.ran(), ["good", "good"])
        self.assertFalse(self.status("good")["kept"])

    def test_without_resume_all_is_measured_anew(self):
        self.compare("good")
        self.compare("good")
        self.assertEqual(self.ran(), ["good", "good"])

    def test_one_section_can_be_asked_for_and_the_others_stay(self):
        self.compare("good,ceilings")
        self.compare("good,ceilings", "--section", "ceilings")
        self.assertEqual(self.ran(), ["good", "ceilings", "ceilings"])
        self.assertEqual(len(self.results()["findings"]), 2)
        self.assertEqual(self.compare("good", "--section", "nothing").returncode, 2)

    def test_the_report_can_be_written_again_without_measuring(self):
        self.compare("good")
        before = self.results()
        (self.report / "report.md").unlink()
        self.assertEqual(self.compare("good", "--report-only").returncode, 0)
        self.assertEqual(self.ran(), ["good"])
        self.assertEqual(self.results()["findings"], before["findings"])
        self.assertEqual(self.results()["machine"], before["machine"])
        self.assertTrue((self.report / "report.md").exists())

    def test_a_report_says_what_was_measured_and_not_what_is_asked_for_now(self):
        self.compare("good,ceilings", "--full")
        self.compare("good,ceilings", "--report-only")
        self.assertTrue(self.results()["full"])
        self.compare("good,ceilings", "--section", "good")
        self.assertFalse(self.results()["full"])
        self.assertIn("some from a selection", (self.report / "report.md").read_text(encoding="utf-8"))

    def test_the_list_of_sections_measures_nothing(self):
        done = self.compare("good", "--list")
        self.assertRegex(done.stdout, r"good +1 s  the good one")
        self.assertEqual(self.ran(), [])


class RealSection(Reports):
    """With the real bench/echo_servers.py, on servers that only pretend."""

    def setUp(self):
        super().setUp()
        source = (HERE / "fake_echo_programs.py").read_text()
        for program in ("load", "epoll_echo_server", "m3_echo_server"):
            path = self.folder / "build" / program
            path.write_text(f"#!{sys.executable} -BSE\n{source}")
            path.chmod(0o755)

    def test_a_cell_is_found_with_its_counters_and_the_command_that_measures_it_again(self):
        done = self.compare("echo")
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        found = [one for one in self.results()["findings"] if one["primary"]]
        self.assertEqual(len(found), 1)
        self.assertEqual(found[0]["command"], "make bench-echo CELL=unix/64/16")
        self.assertEqual(round(found[0]["ratio"]["median"], 2), 1.25)  # of the fake's 1250 and 1000
        self.assertEqual(found[0]["state"], "unjudged")  # one block
        self.assertEqual(found[0]["counters"][0], {"name": "system calls a request", "ours": 0.05, "theirs": 2.1})

    def test_a_dead_server_is_a_row_in_the_report(self):
        done = self.compare("echo", FAKE_DEAD="m3_echo_server")
        self.assertEqual(done.returncode, 1)
        text = (self.report / "report.md").read_text(encoding="utf-8")
        self.assertIn("m3_echo_server ended before it listened, exit code 1: cannot create a ring", text)

    def test_a_wrong_byte_is_a_row_in_the_report_and_no_figure(self):
        done = self.compare("echo", FAKE_WRONG_BYTE="1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("wrong byte: byte 7: expected 0x5a, got 0xc1", done.stdout)
        self.assertEqual(self.results()["findings"], [])


if __name__ == "__main__":
    unittest.main()

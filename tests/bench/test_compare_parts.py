"""The parts of make compare that compute: raw data to findings, findings to reports and pictures. With small samples of
real raw data (samples/), and data by hand where a test must know what comes out."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree

import ceilings
import compare
import compare_programs
import compare_report
import compare_sections
import compare_servers
import file_copy
import file_report
import mixed
from compare_findings import Ceilings, finding, named, sections_result
from measure.record import measured_whole
from measure.stats import Interval
from test_compare import parsed
from test_echo_parts import a_cell as an_echo_cell
from test_echo_parts import an_idle_cell
from test_parts import a_cell as a_file_cell

HERE = pathlib.Path(__file__).resolve().parent
BENCH = HERE.parent.parent / "bench"


def sample(name):
    return json.loads((HERE / "samples" / f"{name}.json").read_text(encoding="utf-8"))


def no_ceilings():
    return Ceilings()


def by_pair(found, ours, theirs, measure=""):
    return next(one for one in found if (one["ours"], one["theirs"]) == (ours, theirs)
                and one["measure"].startswith(measure))


def with_counters(cell, **counters):
    """counters: {participant: {name: value}}"""
    for run in cell["runs"]:
        run["counters"] = {"errors": 0, "cqes": 0, "enters": 0, "buffers_in_use_max": 0} | counters.get(
            run["participant"].replace("-", "_"), {})
    return cell


class Findings(unittest.TestCase):
    def one(self, low, high, count=6, **more):
        return finding("echo", "a/b/1", "a workload", "io_uring", "epoll", "CPU time",
                       Interval(low, (low + high) / 2, high, count), **more)

    def test_the_state_is_what_the_interval_says(self):
        self.assertEqual([self.one(*pair)["state"] for pair in ((1.1, 1.2), (0.8, 0.9), (0.9, 1.1))],
                         ["better", "worse", "same"])
        self.assertEqual(self.one(1.1, 1.2, count=4)["state"], "unjudged")
        self.assertEqual(self.one(1.1, 1.2, why_not="not ranked: busy")["state"], "unranked")
        self.assertEqual(finding("", "", "", "", "", "", None)["state"], "missing")

    def test_what_is_better_is_called_by_its_name(self):
        self.assertEqual(self.one(1.1, 1.2)["said"], "io_uring better")
        self.assertEqual(self.one(0.8, 0.9)["said"], "epoll better")
        self.assertEqual(self.one(1.1, 1.2, group="ways")["said"], "io_uring better")
        drain = finding("", "", "", "drain", "wait", "", Interval(1.1, 1.2, 1.3, 6), group="ways")
        self.assertEqual(drain["said"], "drain better")

    def test_an_end_that_lies_near_1_shows_on_which_side(self):
        text = compare_report.interval_text
        self.assertEqual(text({"median": 1.2, "low": 1.1, "high": 1.3, "count": 8}), "1.20 [1.10, 1.30]")
        self.assertEqual(text({"median": 1.01, "low": 1.003, "high": 1.02, "count": 8}), "1.010 [1.003, 1.020]")
        self.assertEqual(text({"median": 1.68, "low": 1.68, "high": 1.68, "count": 0}), "1.68")  # counted

    def test_a_finding_is_json(self):
        self.assertEqual(json.loads(json.dumps(self.one(1.1, 1.2))), self.one(1.1, 1.2))


class Files(unittest.TestCase):
    def cell(self, name="cached/whole-64K/10", **figures):
        return with_counters(a_file_cell(name, figures), fixed={"cqes": 1000, "enters": 100, "buffers_in_use_max": 10},
                             zero_copy={"cqes": 1500, "enters": 100, "zc_sends": 500, "zc_copied": 500})

    def found(self, cell, ceilings_=None):
        data = {"cells": [cell], "server_cpu": 0, "complete": True}
        return compare_servers.files(data, ceilings_ or no_ceilings())["findings"]

    def test_a_loss_against_sendfile_is_called_likely_where_no_profile_shows_the_copies(self):
        cell = self.cell(inline=(100, 10), sendfile=(100, 5), fixed=(100, 10)) | {"size": 65536}
        one = by_pair(self.found(cell), "fixed", "sendfile", "CPU")
        self.assertEqual((one["state"], one["mechanism"]), ("worse", "copy"))
        self.assertIn("likely", one["why"])

    def test_a_loss_against_sendfile_names_what_perf_saw(self):
        cell = self.cell(inline=(100, 10), sendfile=(100, 5), fixed=(100, 10)) | {"size": 65536}
        shares = {"network": 0.7, "sleeping": 0, "user": 0.1}
        profiles = [{"cell": cell["cell"], "key": key, "shares": shares | {"copying": copying}}
                    for key, copying in (("fixed", 0.4), ("sendfile", 0.01))]
        one = by_pair(self.found(cell, Ceilings({"profiles": profiles, "perf": None})), "fixed", "sendfile", "CPU")
        self.assertIn("perf, at full speed: 40 % of the CPU time goes into copying, against 1 %", one["why"])
        self.assertNotIn("likely", one["why"])
        self.assertEqual(named(one["counters"], "CPU time copying, at full speed (%)"), (40, 1))

    def test_where_sendfile_is_best_the_best_that_copies_is_in_the_verdicts_too(self):
        cell = self.cell(inline=(100, 10), sendfile=(100, 5), fixed=(100, 10))
        cell["equal_rate"] = self.cell(inline=(70, 10), sendfile=(70, 5), fixed=(70, 10)) | {"rate": 70}
        primary = [one["theirs"] for one in self.found(cell) if one["primary"]]
        self.assertEqual(primary, ["sendfile", "inline"])

    def test_a_loss_that_nothing_explains_is_called_that_and_so_is_a_win(self):
        for ours in (5, 20):
            cell = self.cell("cached/random-4K/100", inline=(100, 10), fixed=(100, ours))
            one = by_pair(self.found(cell), "fixed", "inline", "CPU")  # both make the same number of calls
            self.assertEqual(one["mechanism"], "unexplained")
            self.assertIn("No counter here shows why", one["why"])

    def test_a_loss_in_spite_of_fewer_calls_says_what_is_likely(self):
        cell = self.cell("cached/random-4K/100", inline=(100, 5), fixed=(100, 10))
        for run in cell["runs"]:
            run["figures"]["syscalls"] = 1 if run["participant"] == "fixed" else 3
        one = by_pair(self.found(cell), "fixed", "inline", "CPU")
        self.assertEqual((one["state"], one["mechanism"]), ("worse", "arming"))
        self.assertIn("likely", one["why"])

    def test_cpu_time_at_the_peak_says_nothing_where_an_equal_rate_was_measured(self):
        cell = self.cell(inline=(100, 10), fixed=(100, 5))
        cell["equal_rate"] = self.cell(inline=(70, 10), fixed=(70, 5)) | {"rate": 70}
        states = {one["measure"]: one["state"] for one in self.found(cell) if one["ours"] == "fixed"}
        self.assertEqual(states["CPU time a request, all at 70/s"], "better")
        self.assertNotIn("CPU time a request, at the peak", states)
        self.assertEqual(file_report.compare(cell, "fixed", file_report.PER_CPU, "inline")[1], file_report.AT_THE_PEAK)

    def test_who_answered_at_another_rate_than_was_asked_is_not_ranked(self):
        for rate, state in ((70, "better"), (77, "unranked"), (63, "unranked")):
            cell = self.cell(inline=(100, 10), fixed=(100, 5))
            cell["equal_rate"] = self.cell(inline=(70, 10), fixed=(rate, 5)) | {"rate": 70}
            one = by_pair(self.found(cell), "fixed", "inline", "CPU time a request, all at")
            self.assertEqual(one["state"], state, one["said"])

    def test_cells_that_cannot_exist_are_rows_and_no_failures(self):
        cell = self.cell(inline=(100, 10)) | {"impossible": "too much"}
        found = compare_servers.files({"cells": [cell], "server_cpu": 0, "complete": True}, no_ceilings())
        self.assertEqual((found["findings"], found["failures"]), ([], []))
        self.assertEqual(found["absent"][0]["why"], "too much")
        data = everything() | {"absent": found["absent"]}
        self.assertIn("too much", compare_report.markdown(data, NO_PICTURES))

    def test_zero_copy_on_loopback_says_what_the_notifications_said(self):
        cell = self.cell(**{"inline": (100, 10), "fixed": (100, 10), "zero-copy": (100, 12)})
        one = by_pair(self.found(cell), "zero-copy", "inline", "CPU")
        self.assertIn("the kernel copied 100 % of the sends", one["why"])

    def test_cold_reads_are_a_share_of_what_fio_read_in_the_same_passes(self):
        cell = self.cell("cold-direct/random-4K/256", **{"inline": (10, 10), "pool-16": (50, 10), "fixed": (80, 5),
                                                         "fio-1": (10, 5), "fio-128": (100, 2)})
        found = self.found(cell)
        one = by_pair(found, "fixed", "inline", "requests")
        self.assertTrue(one["primary"])
        self.assertEqual((one["ceiling"]["ours"], one["ceiling"]["theirs"]), (0.8, 0.1))
        self.assertTrue(by_pair(found, "fixed", "pool-16", "CPU")["primary"])

    def test_a_rate_that_the_generator_limited_is_not_ranked(self):
        cell = with_counters(a_file_cell("cached/random-4K/100", {"inline": (100, 10), "fixed": (200, 5)},
                                         limit="generator"))
        one = by_pair(self.found(cell), "fixed", "inline", "requests")
        self.assertEqual(one["state"], "unranked")
        self.assertIn("the generator was the limit", one["said"])

    def test_a_server_that_failed_is_a_failure_and_no_finding(self):
        cell = self.cell(inline=(100, 10), fixed=(100, 10))
        cell["failures"] = {"fixed": "wrong byte"}
        result = compare_servers.files({"cells": [cell], "server_cpu": 0, "complete": True}, no_ceilings())
        self.assertEqual(result["findings"], [])
        self.assertEqual(result["failures"][0]["why"], "wrong byte")


class Echo(unittest.TestCase):
    def found(self, cell, ceilings_=None):
        with_counters(cell, uring={"cqes": 1000, "enters": 100, "buffers_in_use_max": 40})
        for part in cell["at_rates"]:
            with_counters(part, uring={"cqes": 300, "enters": 100, "buffers_in_use_max": 40})
        data = {"cells": [cell], "server_cpu": 0, "complete": True}
        for run in [run for part in (cell, *cell["at_rates"]) for run in part["runs"]]:
            run["load"] = {"traffic": [{"latency_us": {"p50": 10, "p99": 20, "p99_9": 40}}]}
        return compare_servers.echo(data, ceilings_ or no_ceilings())

    def test_the_equal_rate_is_the_verdict_and_the_peak_is_not(self):
        cell = an_echo_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (150, 8)},
                            {"epoll": (70, 10), "uring": (70, 8)})
        found = self.found(cell)["findings"]
        self.assertEqual([one["measure"] for one in found if one["primary"]],
                         ["CPU time a message, both at 70/s, 70 % of the lower peak"])

    def test_the_bare_recv_and_send_are_the_ceiling_of_a_message(self):
        cell = an_echo_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (150, 8)})
        bare = Ceilings({"pairs": [{"transport": "tcp", "request": 64, "answer": 64, "ns": 4000}], "perf": None})
        one = by_pair(self.found(cell, bare)["findings"], "io_uring", "epoll", "CPU")
        self.assertEqual((one["ceiling"]["ours"], one["ceiling"]["theirs"]), (0.5, 0.4))

    def test_several_messages_under_way_have_no_such_ceiling(self):
        cell = an_echo_cell("pipelined/64/128", {"epoll": (100, 10), "uring": (150, 8)}) | {"depth": 16}
        bare = Ceilings({"pairs": [{"transport": "tcp", "request": 64, "answer": 64, "ns": 4000}], "perf": None})
        self.assertIsNone(by_pair(self.found(cell, bare)["findings"], "io_uring", "epoll", "CPU")["ceiling"])

    def test_large_messages_that_lose_have_their_buffers_counted_and_the_cause_called_likely(self):
        cell = an_echo_cell("ping-pong/16K/128", {"epoll": (100, 8), "uring": (100, 10)}) | {"size": 16384}
        one = by_pair(self.found(cell)["findings"], "io_uring", "epoll", "CPU")
        self.assertEqual(one["mechanism"], "hot-buffer")
        self.assertRegex(one["why"], "^40 buffers .*likely")

    def test_latencies_become_lines_of_percentiles(self):
        cell = an_echo_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (150, 8)},
                            {"epoll": (70, 10), "uring": (70, 8)})
        plots = self.found(cell)["plots"]
        self.assertEqual(plots["percentiles"][0]["percentiles"], {"p50": 10, "p99": 20, "p99_9": 40})
        self.assertEqual([point["rates"] for point in plots["connections"]], [[100] * 6, [150] * 6])


    def test_memory_that_each_pass_found_the_same_is_judged(self):
        for own, state in ((300, "worse"), (79, "same")):
            cell = an_idle_cell({"epoll": 79, "uring": own})
            one = compare_servers.idle_findings(cell)[0]
            self.assertEqual((one["state"], one["values"]["ours"]), (state, own))


class Mixed(unittest.TestCase):
    def cell(self, figures, **more):
        """figures: {participant: (echo p99, reads a second)}, the same in six passes."""
        def run(key, turn, p99, reads):
            return {"participant": key, "pass": turn, "counters": {"cqes": 100, "enters": 10}, "figures": {
                "rate": 1000, "echo_p50": p99 / 10, "echo_p99": p99, "get_rate": reads, "switches": 0.5, "syscalls": 1,
                "limit": "server", "disturbed": False, "late": False} | more,
                "load": {"traffic": [{"latency_us": {"p50": 1, "p99": p99}}, {}]}}
        return {"cell": "mixed/64", "title": "echoes and reads", "gets": 64, "rate": 1000, "failures": {},
                "participants": [{"key": key, "label": key} for key in figures],
                "runs": [run(key, turn, *values) for turn in range(6) for key, values in figures.items()]}

    def test_the_goals_are_those_against_inline_and_the_best_pool(self):
        cell = self.cell({"inline": (9000, 10), "pool-16": (500, 50), "pool-64": (400, 50), "fixed": (450, 60)})
        rows = mixed.goals({"cells": [cell]})
        self.assertEqual([row[1:] for row in rows], [[">= 10.00", "20.00 [20.00, 20.00]", "met"],
                                                     [">= 1.00", "0.89 [0.89, 0.89]", "missed"]])
        self.assertIn("pool-64", rows[1][0])

    def test_the_echo_side_is_the_verdict_and_the_reads_stand_beside_it(self):
        found = compare_servers.mixed_loads({"cells": [self.cell({"inline": (9000, 10), "fixed": (450, 60)})]},
                                            no_ceilings())["findings"]
        self.assertEqual([one["measure"] for one in found if one["primary"]], ["echo p99"])
        self.assertEqual(by_pair(found, "fixed", "inline", "reads")["ratio"]["median"], 6)

    def test_a_generator_that_was_late_with_the_baseline_alone_ranks_nothing(self):
        cell = self.cell({"inline": (9000, 10), "fixed": (450, 60)})
        for run in cell["runs"]:
            run["figures"]["late"] = run["participant"] == "inline"
        self.assertIn("the generator was late", mixed.compare(cell, "inline", mixed.P99)[1])

    def test_a_server_that_did_not_keep_up_is_named(self):
        cell = self.cell({"inline": (9000, 10), "fixed": (450, 60)}, rate=600)
        self.assertIn("did not keep up with 1,000 echoes a second", mixed.cell_text(cell))


class Programs(unittest.TestCase):
    def test_zero_copy_has_its_goals_its_crossover_and_what_was_copied(self):
        result = compare_programs.zero_copy(sample("zero_copy"), no_ceilings())
        self.assertEqual([row[3] for row in result["goals"]], ["met", "met"])
        loopback = by_pair([one for one in result["findings"] if "tcp-loopback" in one["cell"]], "SEND_ZC registered",
                           "SEND")
        self.assertEqual((loopback["state"], loopback["mechanism"]), ("worse", "zero-copy-loopback"))
        self.assertIn("the kernel copied all the same", loopback["why"])
        self.assertTrue(any(line["crossover"] == 4096 for line in result["plots"]["zero_copy"]))

    def test_zero_copy_without_a_device_decides_no_goal(self):
        data = sample("zero_copy") | {"obstacle": "no right to make a namespace"}
        result = compare_programs.zero_copy(data, no_ceilings())
        self.assertTrue(all(row[3].startswith("no decision") for row in result["goals"]))
        self.assertIn("no right to make a namespace", result["notes"][0])

    def test_the_two_file_servers_of_zero_copy(self):
        one = compare_programs.zero_copy_servers(sample("zero_copy_servers"), no_ceilings())["findings"][0]
        self.assertEqual((one["cell"], one["state"]), ("zero-copy/servers/64K", "worse"))

    def test_linked_chains_are_compared_with_driven_ones(self):
        found = compare_programs.linked_chains(sample("linked"), no_ceilings())["findings"]
        self.assertEqual([(one["ours"], one["theirs"], one["group"]) for one in found],
                         [("linked", "driven", "ways"), ("silent", "driven", "ways"), ("timed", "driven", "ways")])
        self.assertGreater(named(found[1]["counters"], "completions a client")[1], 3)

    def test_the_ladder_is_steps_and_its_rungs_are_compared(self):
        result = compare_servers.the_ladder(sample("ladder"), no_ceilings())
        labels = [rung["label"] for rung in result["plots"]["ladder"][0]["rungs"]]
        self.assertEqual(labels, ["epoll (no rung)", "each", "batched", "+ coop", "+ defer", "+ multishot", "+ direct"])
        self.assertEqual(by_pair(result["findings"], "batched", "each")["state"], "better")

    def test_orderings_are_compared_run_by_run(self):
        runs = [{"bytes": 128, "in_flight": 16, "order": order, "records_per_second": rate, "cpu_us": 10, "fsyncs": 0.1,
                 "sqes": 1.1, "enters": 0.2, "p50_us": 5, "p99_us": 9}
                for _ in range(6) for order, rate in (("wait", 100), ("drain", 50), ("link", 120))]
        found = compare_programs.ordering(runs, no_ceilings())["findings"]
        self.assertEqual(by_pair(found, "fsync by drain", "fsync after its writes", "records")["ratio"]["median"], 0.5)
        self.assertEqual([one["ours"] for one in found if one["primary"]], ["fsync by drain", "fsync by link"])

    def test_the_ring_is_judged_as_nop_round_trips_judges_it(self):
        def process(ours, theirs):
            return {"benchmarks": [{"name": f"nop/{who}/batch:8/block:{block}/iterations:1", "cpu_time": time}
                                   for block in range(5) for who, time in (("ours", ours), ("liburing", theirs)) * 2]}
        text = ("sqe batch       ours  14.52  liburing 2.3  29.06  ratio 2.00  loads  0.19\n"
                "submit          ours  20.00  liburing 2.3  30.00  ratio 1.50  loads  0.19\n")
        result = compare_programs.ring({"processes": [process(80, 88)] * 7, "instructions": text}, no_ceilings())
        one = by_pair(result["findings"], "this ring layer", "liburing", "CPU")
        self.assertEqual((round(one["ratio"]["median"], 3), one["state"], one["values"]["ours"]), (1.1, "better", 10))
        self.assertEqual([row[3] for row in result["goals"]], ["met", "missed"])

    def test_without_liburing_there_is_a_note(self):
        self.assertIn("liburing-dev is not installed", compare_programs.ring({}, no_ceilings())["notes"][0])


class Copies(unittest.TestCase):
    def data(self):
        times = {"uring": 1.0, "large": 0.9, "direct": 2.0, "cp": 1.2, "cp-plain": 0.5, "dd": 1.1}
        return {"settings": {"size": "2G", "bytes": 2 << 30, "blocks": 3}, "failures": {}, "complete": True,
                "traced": {"cp": {"read": 131072, "write": 131072}, "cp-plain": {"copy_file_range": 4 << 20}},
                "runs": [{"participant": key, "pass": turn, "figures": {"seconds": seconds, "cpu_seconds": seconds / 2,
                                                                       "mb_per_second": 2147 / seconds, "switches": 5}}
                         for turn in range(6) for key, seconds in times.items()]}

    def test_how_cp_copies_is_said_from_what_strace_saw(self):
        result = compare_programs.file_copies(self.data(), no_ceilings())
        plain = by_pair(result["findings"], "io_uring", "cp, as it comes", "time")
        self.assertIn("It copies by copy_file_range of 4,096 KiB. Inside the kernel", plain["why"])
        self.assertEqual(plain["state"], "worse")
        self.assertEqual([row[3] for row in result["goals"]], ["met"])
        self.assertNotIn("Inside the kernel", by_pair(result["findings"], "io_uring", "cp", "time")["why"])

    def test_a_trace_is_read_by_the_calls_that_moved_much(self):
        trace = ('read(3, "abc"..., 131072) = 131072\nwrite(4, ""..., 131072) = 131072\nread(3, "", 131072) = 0\n'
                 'read(3, "\\177ELF"..., 832) = 832\n')
        self.assertEqual(file_copy.calls_that_copied(trace), {"read": 131072, "write": 131072})

    def test_a_copy_is_made_checked_and_compared(self):
        """With files of a megabyte, and the programs of this machine; dd in the place of the io_uring copy."""
        (BENCH.parent / "build").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BENCH.parent / "build", prefix="copy_test_") as name:
            folder = pathlib.Path(name)
            (folder / "build").mkdir()
            (folder / "made.1M.0").write_bytes(b"made" * (1 << 18))
            program = folder / "build" / "m1_ring_basics"
            program.write_text('#!/bin/sh\ndd if="$2" of="$3" status=none\n')
            program.chmod(0o755)
            words = [sys.executable, "-B", BENCH / "file_copy.py", "--build", folder / "build", "--data", folder,
                     "--results", folder, "--size", "1M", "--blocks", "1"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            if "could not be evicted" in done.stdout:
                self.skipTest("this file system keeps its files in memory")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            data = json.loads((folder / "results.json").read_text())
            self.assertEqual([run["participant"] for run in data["runs"]][:5],
                             ["uring", "large", "direct", "cp", "cp-plain"])
            self.assertFalse((folder / "copied").exists())
            program.write_text('#!/bin/sh\nhead -c 1048576 /dev/zero >"$3"\n')
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertIn("io_uring: FAILED: the copy differs from its source", done.stdout)


class CeilingsOfThisMachine(unittest.TestCase):
    def test_stacks_are_sorted_by_their_functions(self):
        text = ("  ffff rep_movs_alternative+0x4a ([kernel.kallsyms])\n  ffff tcp_sendmsg_locked+0x1 "
                "([kernel.kallsyms])\n\n  ffff finish_task_switch.isra.0 ([kernel.kallsyms])\n  ffff schedule "
                "([kernel.kallsyms])\n\n  5555 main+0x1 (/a/program)\n\n  ffff io_read ([kernel.kallsyms])\n")
        self.assertEqual(ceilings.shares(ceilings.stacks(text)),
                         {"looks": 4, "network": 0.25, "copying": 0.25, "sleeping": 0.25, "user": 0.25})
        self.assertIsNone(ceilings.shares(ceilings.stacks("")))

    def test_without_perf_there_is_a_note_and_no_failure(self):
        data = sample("ceilings") | {"perf": "perf is not permitted here", "profiles": []}
        result = compare_programs.the_ceilings(data, no_ceilings())
        self.assertEqual((result["failures"], len(result["notes"])), ([], 1))
        self.assertIn("perf is not permitted here", ceilings.report_text(data))

    def test_what_was_not_measured_is_none(self):
        self.assertIsNone(no_ceilings().bare_us("tcp", 64, 64))
        found = Ceilings(sample("ceilings"))
        self.assertGreater(found.bare_us("tcp", 64, 64), found.bare_us("unix", 64, 64))
        self.assertEqual(len(found.profiled("ping-pong/64/128", "uring", "epoll")), 3)


def everything():
    """What compare.py would put together of all samples."""
    found = Ceilings(sample("ceilings"))
    copies = Copies().data()
    cell = Files().cell("cold-direct/random-4K/256", **{"inline": (10, 10), "pool-16": (50, 10), "fixed": (80, 5),
                                                        "fio-1": (10, 5), "fio-128": (100, 2)})
    files = compare_servers.files({"cells": [cell], "server_cpu": 0, "complete": True}, found)
    echo = Echo().found(an_echo_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (150, 8)},
                                     {"epoll": (70, 10), "uring": (70, 8)}))
    more = an_echo_cell("ping-pong/64/1", {"epoll": (10, 10), "uring": (10, 20)})
    mixed_ = Mixed().cell({"inline": (9000, 10), "pool-16": (500, 50), "fixed": (450, 60)})
    data = {"findings": [],
            "failures": [{"section": "echo", "cell": "a|b", "who": "<epoll>", "why": "it <died> & went"}],
            "absent": [], "goals": [], "noise": [["echo", "a", "CPU", "1.00 [0.99, 1.01]"]], "notes": [], "texts": [],
            "plots": {},
            "full": False, "complete": True, "sections": [], "machine": sample("linked")["machine"]}
    for name, result in (("files", files), ("echo", echo), ("echo", Echo().found(more)),
                         ("mixed", compare_servers.mixed_loads({"cells": [mixed_]}, found)),
                         ("ladder", compare_servers.the_ladder(sample("ladder"), found)),
                         ("linked", compare_programs.linked_chains(sample("linked"), found)),
                         ("zero-copy", compare_programs.zero_copy(sample("zero_copy"), found)),
                         ("copy", compare_programs.file_copies(copies, found))):
        section = compare_sections.BY_NAME[name]
        if not any(one["name"] == name for one in data["sections"]):
            data["sections"].append({"name": name, "title": section.title, "status": "measured", "why": "", "raw": []})
        compare.add(data, section, result)
    return data


NO_PICTURES = {"svg": {}, "why": "matplotlib is not installed"}


class Report(unittest.TestCase):
    def test_the_order_is_verdicts_losses_wins_pictures_goals_noise_tables_commands(self):
        text = compare_report.markdown(everything(), NO_PICTURES)
        titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
        wanted = ["Verdicts", "What was not measured", "Where io_uring loses", "Where io_uring wins", "Pictures",
                  "Goals", "Noise", "Tables", "Measure it again"]
        self.assertEqual([title for title in titles if title in wanted], wanted)

    def test_every_loss_is_listed_with_its_mechanism_and_its_counters(self):
        data = everything()
        losses = [one for one in data["findings"] if one["state"] == "worse" and one["group"] == "baseline"]
        self.assertTrue(losses)
        text = compare_report.markdown(data, NO_PICTURES)
        section = text[text.index("## Where io_uring loses"):text.index("## Where io_uring wins")]
        for one in losses:
            self.assertIn(one["cell"], section)
            self.assertIn(one["mechanism"], compare_report.MECHANISMS)
            self.assertTrue(one["why"])

    def test_a_long_table_is_folded_up_and_complete(self):
        data = everything()
        loss = next(one for one in data["findings"] if one["state"] == "worse" and one["group"] == "baseline")
        data["findings"] += [loss | {"cell": f"more/4K/{n}"} for n in range(30)]
        text, page = compare_report.markdown(data, NO_PICTURES), compare_report.html(data, NO_PICTURES)
        for n in range(30):
            self.assertIn(f"| more/4K/{n} |", text)
            self.assertIn(f">more/4K/{n}<", page)
        self.assertRegex(text, r"<details><summary>\d+ more</summary>")
        self.assertEqual(page.count("<details>"), page.count("</details>"))

    def test_missed_goals_come_first(self):
        data = everything() | {"goals": [["a", ">= 1", "1.1", "met"], ["b", ">= 1", "0.9", "missed"]]}
        text = compare_report.markdown(data, NO_PICTURES)
        self.assertIn("1 missed, 0 no decision, 1 met", text)
        self.assertLess(text.index("| b | >= 1"), text.index("| a | >= 1"))

    def test_ideas_of_io_uring_are_not_counted_as_verdicts_against_others(self):
        text = compare_report.markdown(everything(), NO_PICTURES)
        verdicts = text[text.index("## Verdicts"):text.index("## What was not")]
        self.assertNotIn("zero-copy/", verdicts)
        self.assertIn("zero-copy/", text[text.index("## Ideas of io_uring against each other"):])

    def test_a_full_report_has_the_chosen_cells_in_its_verdicts_and_the_others_elsewhere(self):
        data = everything() | {"full": True}
        cells = {one["cell"] for one in data["findings"] if compare_report.is_headline(data, one)}
        self.assertIn("ping-pong/64/128", cells)
        other = next(one for one in data["findings"] if one["cell"] == "ping-pong/64/128" and one["primary"])
        other["cell"] = "ping-pong/512/16"
        self.assertFalse(compare_report.is_headline(data, other))

    def test_the_grid_has_the_best_baseline_of_each_cell_at_equal_rates_where_there_are_such(self):
        def one(cell, theirs, measure, low, high):
            return finding("files", cell, "t", "io_uring fixed", theirs, measure, Interval(low, (low + high) / 2, high, 8))
        found = [one(f"cached/whole-4K/{n}", "epoll inline", "CPU time a request, all at 9/s", 1.2, 1.4)
                 for n in (1, 10, 100, 256)]
        found += [one("cached/random-4K/1", "epoll inline", "CPU time a request, at the peak", 0.2, 0.4),
                  one("cached/random-4K/1", "epoll sendfile", "CPU time a request, all at 9/s", 0.5, 0.7),
                  one("cached/random-4K/1", "epoll inline", "CPU time a request, all at 9/s", 1.1, 1.3),
                  one("cached/random-4K/1", "epoll inline", "requests a second, at the peak", 0.1, 0.2)]
        data = everything()
        self.assertEqual(compare_report.grids(data | {"findings": found}), [])  # five cells are no grid
        found.append(one("cached/random-4K/256", "epoll sendfile", "CPU time a request, all at 9/s", 0.9, 1.1))
        grid, = compare_report.grids(data | {"findings": found})
        self.assertEqual(grid["connections"], [1, 10, 100, 256])
        self.assertEqual([load for load, _ in grid["rows"]], ["random-4K", "whole-4K"])
        self.assertEqual([one and one["theirs"] for one in grid["rows"][0][1]],
                         ["epoll sendfile", None, None, "epoll sendfile"])
        text = compare_report.markdown(data | {"findings": found}, NO_PICTURES)
        self.assertIn("| random-4K | ▼ 0.60 [0.50, 0.70] sendfile | – | – | = 1.00 [0.90, 1.10] sendfile |", text)

    def test_what_stands_in_the_data_is_text_in_the_page_and_in_the_tables(self):
        data = everything()
        page = compare_report.html(data, NO_PICTURES)
        self.assertIn("it &lt;died&gt; &amp; went", page)
        self.assertIn("a\\|b", compare_report.markdown(data, NO_PICTURES))

    def test_all_commands_that_measure_a_cell_again_are_listed(self):
        data = everything()
        text = compare_report.markdown(data, NO_PICTURES)
        again = text[text.index("## Measure it again"):]
        for one in data["findings"]:
            self.assertIn(one["command"], again)
            self.assertTrue(one["command"].startswith("make "))

    def test_a_report_of_nothing_is_a_report(self):
        empty = {"findings": [], "failures": [], "absent": [], "goals": [], "noise": [], "notes": [], "texts": [],
                 "plots": {},
                 "full": False, "complete": False, "machine": sample("linked")["machine"], "sections": [
                     {"name": "echo", "title": "echo servers", "status": "not reached", "why": "", "raw": []}]}
        self.assertIn("Nothing was measured", compare_report.markdown(empty, NO_PICTURES))
        self.assertIn("</html>", compare_report.html(empty, NO_PICTURES))


class Pictures(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pictures_test_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_they_are_valid_and_can_stand_in_one_page(self):
        data = everything()
        echo = next(one for one in data["findings"] if one["section"] == "echo" and one["primary"])
        data["findings"] += [echo | {"cell": f"unix/{size}/{n}"} for size in ("64", "4K") for n in (1, 16, 128)]
        data["plots"]["file_connections"] += [one | {"connections": 1} for one in data["plots"]["file_connections"]]
        compare.write_json(self.folder / "results.json", data)
        pictures = compare.draw(self.folder)
        if not pictures["svg"]:
            self.skipTest(pictures["why"])
        self.assertEqual(set(pictures["svg"]), set(compare_report.CAPTIONS))
        for name, svg in pictures["svg"].items():
            xml.etree.ElementTree.fromstring(svg)
            self.assertNotIn("matplotlib.org", svg)
        compare.write_text(self.folder / "index.html", compare_report.html(data, pictures))
        page = parsed(self.folder / "index.html")
        self.assertEqual((page.open, page.wrong, page.loaded), ([], [], []))
        self.assertEqual(len(page.identities), len(set(page.identities)))

    def test_when_drawing_fails_there_is_none_and_not_an_older_one(self):
        (self.folder / "ratios.svg").write_text("<svg/>")
        (self.folder / "results.json").write_text("not JSON")
        self.assertEqual(compare.draw(self.folder)["svg"], {})
        self.assertEqual([path.name for path in self.folder.iterdir()], ["results.json"])

    def test_what_has_no_data_has_no_picture(self):
        compare.write_json(self.folder / "results.json", {"findings": [], "plots": {}})
        self.assertEqual(compare.draw(self.folder)["svg"], {})


class Sections(unittest.TestCase):
    def settings(self, full=False):
        return compare_sections.Settings(pathlib.Path("build"), pathlib.Path("build/bench-data"), full)

    def test_every_section_says_what_it_runs_and_how_long_that_takes(self):
        for full in (False, True):
            for section in compare_sections.SECTIONS:
                commands = section.commands(self.settings(full), pathlib.Path("raw"))
                self.assertTrue(all(isinstance(word, str) for command in commands for word in command.words),
                                section.name)
                self.assertGreater(section.seconds(self.settings(full)), 0)

    def test_make_compare_takes_minutes(self):
        self.assertLess(sum(section.seconds(self.settings()) for section in compare_sections.SECTIONS), 600)

    def test_everything_takes_an_afternoon(self):
        self.assertLess(sum(section.seconds(self.settings(True)) for section in compare_sections.SECTIONS), 3 * 3600)

    def test_a_full_run_has_at_least_four_blocks_and_goes_on_where_it_was(self):
        words = " ".join(compare_sections.BY_NAME["files"].commands(self.settings(True), pathlib.Path("raw"))[0].words)
        self.assertIn("--blocks 4", words)
        self.assertIn("--resume", words)

    def test_results_that_are_not_there_are_a_reason_and_not_an_error(self):
        for section in compare_sections.SECTIONS:
            found, why = compare_sections.read(section, pathlib.Path("/nowhere"), no_ceilings())
            self.assertEqual(found, sections_result())
            self.assertTrue(why, section.name)

    def test_other_programs_settings_or_scripts_are_another_measurement(self):
        section = compare_sections.BY_NAME["echo"]
        one = compare_sections.signature(section, self.settings(), pathlib.Path("raw"))
        self.assertEqual(one, compare_sections.signature(section, self.settings(), pathlib.Path("raw")))
        self.assertNotEqual(one, compare_sections.signature(section, self.settings(True), pathlib.Path("raw")))


class Ending(unittest.TestCase):
    def test_who_interrupts_again_does_not_leave_running_what_will_not_end(self):
        program = subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"],
                                   stdout=subprocess.PIPE, start_new_session=True)
        self.addCleanup(program.stdout.close)
        self.addCleanup(program.kill)
        self.assertEqual(program.stdout.readline(), b"ready\n")
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        again = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        again.start()
        began = time.monotonic()
        compare.end(program)
        again.join()
        self.assertEqual(program.returncode, -signal.SIGKILL)
        self.assertLess(time.monotonic() - began, compare.STOP_SECONDS)


class Resume(unittest.TestCase):
    PLAN = {"settings": {"blocks": 3}, "programs": "abc", "pins": "none",
            "machine": {"kernel": "6.18", "cpu": "a", "cpus": 2, "mitigations": "none"}}

    def earlier(self, **more):
        with tempfile.TemporaryDirectory() as name:
            path = pathlib.Path(name) / "results.json"
            cells = [{"cell": "a", "whole": True, "failures": {}}, {"cell": "b", "failures": {}},
                     {"cell": "c", "whole": True, "failures": {"epoll": "died"}}]
            path.write_text(json.dumps(self.PLAN | {"cells": cells} | more))
            return [cell["cell"] for cell in measured_whole(path, self.PLAN)]

    def test_only_cells_that_were_measured_whole_and_without_a_failure_are_kept(self):
        self.assertEqual(self.earlier(), ["a"])

    def test_other_programs_settings_or_machines_keep_nothing(self):
        self.assertEqual(self.earlier(programs="abd"), [])
        self.assertEqual(self.earlier(settings={"blocks": 4}), [])
        self.assertEqual(self.earlier(machine=self.PLAN["machine"] | {"kernel": "6.19"}), [])

    def test_what_cannot_be_read_is_nothing(self):
        self.assertEqual(measured_whole("/nowhere", self.PLAN), [])
        self.assertEqual(self.earlier(cells=None), [])


if __name__ == "__main__":
    unittest.main()

"""The parts of bench/measure that compute: ratios, verdicts, text."""

import json
import os
import pathlib
import tempfile
import unittest

import file_report
import file_servers
from measure import fio, load, machine, page_cache, stats, table
from measure.record import Record


class Ratios(unittest.TestCase):
    def test_equal_ratios_have_an_interval_of_no_width(self):
        ratio = stats.bootstrap([1.5] * 6)
        self.assertEqual((ratio.low, ratio.median, ratio.high, ratio.count), (1.5, 1.5, 1.5, 6))

    def test_the_interval_holds_the_median_and_lies_within_the_ratios(self):
        ratio = stats.bootstrap([0.9, 1.0, 1.1, 1.2, 1.3, 1.4])
        self.assertLess(ratio.low, ratio.median)
        self.assertLess(ratio.median, ratio.high)
        self.assertGreaterEqual(ratio.low, 0.9)
        self.assertLessEqual(ratio.high, 1.4)

    def test_the_same_ratios_give_the_same_interval(self):
        self.assertEqual(stats.bootstrap([1, 2, 3, 4, 5, 6]), stats.bootstrap([1, 2, 3, 4, 5, 6]))

    def test_only_runs_of_the_same_pass_are_compared(self):
        self.assertEqual(stats.paired({0: 10, 1: 20, 2: 30}, {1: 10, 2: 10, 3: 10}), {1: 2.0, 2: 3.0})

    def test_a_run_without_a_figure_gives_no_ratio(self):
        self.assertEqual(stats.paired({0: None, 1: 0, 2: 4}, {0: 1, 1: 1, 2: 2}), {2: 2.0})

    def test_nothing_has_no_interval(self):
        self.assertIsNone(stats.bootstrap([]))

    def test_an_interval_that_contains_1_is_no_difference(self):
        def said(low, high):
            return stats.verdict(stats.Interval(low, (low + high) / 2, high, 6))
        self.assertEqual(said(0.98, 1.02), "no difference")
        self.assertEqual(said(1.01, 1.02), "io_uring better")
        self.assertEqual(said(0.97, 0.99), "baseline better")
        self.assertEqual(said(1.0, 1.2), "no difference")

    def test_fewer_than_six_ratios_are_not_judged(self):
        self.assertIn("not judged", stats.verdict(stats.bootstrap([2.0] * 5)))
        self.assertEqual(stats.goal_verdict(stats.bootstrap([2.0] * 5), 1), "no decision")

    def test_a_goal_is_missed_only_when_the_whole_interval_lies_below(self):
        self.assertEqual(stats.goal_verdict(stats.Interval(0.80, 0.82, 0.84, 6), 0.85), "missed")
        self.assertEqual(stats.goal_verdict(stats.Interval(0.80, 0.82, 0.85, 6), 0.85), "no decision")
        self.assertEqual(stats.goal_verdict(stats.Interval(0.85, 0.90, 0.95, 6), 0.85), "met")

    def test_steps_and_quantiles(self):
        self.assertEqual([round(step, 3) for step in stats.steps([100, 98, None, 50])], [0.02])
        self.assertEqual(stats.quantile([3, 1, 2], 0.5), 2)
        self.assertEqual(stats.quantile(list(range(1, 101)), 0.95), 95)


class Generator(unittest.TestCase):
    def test_a_wrong_byte_is_a_failure_in_its_own_words(self):
        raw = {"ok": False, "wrong": {"kind": "wrong byte", "sentence": "connection 3, byte 0"}}
        with self.assertRaisesRegex(load.LoadFailed, "wrong byte: connection 3, byte 0"):
            load.judge(1, json.dumps(raw), "")

    def test_a_failed_connection_is_a_failure(self):
        with self.assertRaisesRegex(load.LoadFailed, "a connection failed: reset"):
            load.judge(1, json.dumps({"ok": False, "errors": {"first": "reset"}}), "")

    def test_output_that_is_no_json_is_a_failure(self):
        with self.assertRaisesRegex(load.LoadFailed, "signal 9"):
            load.judge(-9, "", "")

    def test_a_good_answer_with_a_bad_exit_code_is_a_failure(self):
        with self.assertRaisesRegex(load.LoadFailed, "exit code 1"):
            load.judge(1, json.dumps({"ok": True}), "")


class Ceiling(unittest.TestCase):
    def test_the_figures_of_fio_are_named_as_those_of_a_server(self):
        figures = fio.figures({"usr_cpu": 7.0, "sys_cpu": 43.0, "read": {
            "iops": 100_000.0, "bw_bytes": 409_600_000,
            "clat_ns": {"percentile": {"50.000000": 90_000, "99.000000": 200_000}}}})
        self.assertEqual(figures["rate"], 100_000.0)
        self.assertEqual(figures["p99"], 200)
        self.assertAlmostEqual(figures["cpu_us"], 5.0)


class PageCache(unittest.TestCase):
    def setUp(self):
        # Not in /tmp, which may be memory, and memory cannot be evicted.
        build = pathlib.Path(__file__).resolve().parent.parent.parent / "build"
        build.mkdir(exist_ok=True)
        file = tempfile.NamedTemporaryFile(dir=build, prefix="page_cache_")
        self.addCleanup(file.close)
        file.write(b"x" * (300 * page_cache.PAGE + 1))
        file.flush()
        os.fsync(file.fileno())
        self.file = file

    def test_what_was_read_is_resident_and_what_was_evicted_is_not(self):
        page_cache.warm([self.file.name])
        self.assertEqual(page_cache.resident([self.file.name]), (301, 301))
        page_cache.evict([self.file.name])
        if machine.file_system(self.file.name)["type"] in ("tmpfs", "overlay"):
            self.skipTest("this file system keeps its files in memory, or in another's cache")
        self.assertEqual(page_cache.resident([self.file.name]), (0, 301))

    def test_mincore_counts_the_same(self):
        page_cache.warm([self.file.name])
        self.assertEqual(page_cache.resident_by_mincore(self.file.fileno(), 300 * page_cache.PAGE + 1), 301)


class Text(unittest.TestCase):
    def test_figures_keep_three_digits(self):
        self.assertEqual([table.figure(x) for x in (0.1234, 12.34, 1234.5, None)], ["0.123", "12.3", "1,234", "–"])

    def test_durations(self):
        self.assertEqual([table.duration(x) for x in (42, 600, 7200)], ["42 s", "10 min", "2.0 h"])

    def test_columns_are_aligned(self):
        self.assertEqual(table.columns([["a", "1"], ["bbb", "22"]]), ["a     1", "bbb  22"])
        self.assertEqual(table.sentences([["a", "1"], ["bbb", "22"]]), ["a    1", "bbb  22"])
        self.assertEqual(table.columns([]), [])

    def test_a_record_replaces_the_file_before_as_a_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            record = Record(pathlib.Path(folder) / "results.json", {"cells": []})
            record.save()
            record.data["cells"].append(object())  # what cannot be written must not destroy what was
            with self.assertRaises(TypeError):
                record.save()
            self.assertEqual(json.loads(record.path.read_text()), {"cells": []})

    def test_a_record_is_not_written_again_at_once_unless_it_must_be(self):
        with tempfile.TemporaryDirectory() as folder:
            record = Record(pathlib.Path(folder) / "results.json", {"cells": [1]})
            record.save_if_due()
            record._next_save += 1000  # as if writing had taken long
            record.data["cells"].append(2)
            record.save_if_due()
            self.assertEqual(json.loads(record.path.read_text()), {"cells": [1]})
            record.save()
            self.assertEqual(json.loads(record.path.read_text()), {"cells": [1, 2]})


def a_run(participant, turn, rate, cpu_us, **more):
    figures = {"rate": rate, "cpu_us": cpu_us, "mb_per_second": 1, "p50": 1, "p99": 2, "busy": 1.0, "syscalls": 2,
               "rss": 1 << 20, "limit": "server", "disturbed": False, "answered": 100} | more
    return {"participant": participant, "pass": turn, "figures": figures, "samples": [], "once": False,
            "pages": {"before": 0, "after": 0, "all": 1000}}


def a_cell(name, figures, **more):
    """figures: {participant: (rate, cpu_us)}, the same in six passes."""
    kind = name.split("/")[0]
    return {"cell": name, "table": kind, "title": name, "connections": 100, "files": 1, "size": 4096, "random": True,
            "participants": [{"key": key, "label": key} for key in figures], "impossible": None, "failures": {},
            "equal_rate": None,
            "runs": [a_run(key, turn, *values, **more) for turn in range(6) for key, values in figures.items()]}


class Report(unittest.TestCase):
    def test_the_best_pool_is_another_one_by_rate_than_by_cpu_time(self):
        cell = a_cell("cached/random-4K/100", {"inline": (100, 10), "pool-16": (300, 20), "pool-64": (310, 5),
                                               "pool-256": (200, 1), "read": (150, 10), "fixed": (155, 10)})
        self.assertEqual(file_report.best_pool(cell), "pool-64")
        self.assertEqual(file_report.best_baseline(cell, file_report.RATE), "pool-64")
        self.assertEqual(file_report.best_pool(cell, file_report.PER_CPU), "pool-256")
        self.assertEqual(file_report.best_baseline(cell, file_report.PER_CPU), "pool-256")

    def test_where_sendfile_is_best_the_best_that_copies_is_compared_as_well(self):
        cell = a_cell("cached/whole-1M/10", {"inline": (100, 10), "sendfile": (300, 2), "read": (100, 9),
                                             "fixed": (120, 8)})
        compared = [(ours, theirs) for ours, _, theirs in file_report.pairs(cell)]
        self.assertEqual(compared, [("fixed", "sendfile"), ("fixed", "inline")] * 2 + [("read", "sendfile")] * 2)

    def test_a_ratio_above_1_says_that_io_uring_is_better(self):
        cell = a_cell("cached/random-4K/100", {"inline": (100, 10), "fixed": (200, 8), "read": (100, 10)})
        interval, said = file_report.compare(cell, "fixed", file_report.RATE, "inline")
        self.assertEqual((interval.median, said), (2.0, "io_uring better"))
        interval, said = file_report.compare(cell, "fixed", file_report.PER_CPU, "inline")
        self.assertEqual((interval.median, said), (1.25, "io_uring better"))

    def test_a_cached_rate_of_a_server_that_was_idle_is_not_ranked_but_its_cpu_time_is(self):
        cell = a_cell("cached/random-4K/1", {"inline": (100, 10), "fixed": (200, 8), "read": (100, 10)}, busy=0.6)
        self.assertIn("not ranked", file_report.compare(cell, "fixed", file_report.RATE, "inline")[1])
        self.assertEqual(file_report.compare(cell, "fixed", file_report.PER_CPU, "inline")[1], "io_uring better")

    def test_a_cold_rate_of_a_server_that_was_idle_is_called_device_bound(self):
        cell = a_cell("cold-direct/random-4K/1", {"inline": (100, 10), "fixed": (90, 8), "read": (100, 10)}, busy=0.6)
        self.assertEqual(file_report.compare(cell, "fixed", file_report.RATE, "inline")[1],
                         "baseline better (device-bound)")

    def test_a_rate_that_the_generator_limited_is_not_ranked_and_decides_no_goal(self):
        cell = a_cell("cold-direct/random-4K/256", {"inline": (10, 10), "pool-16": (50, 10), "fixed": (100, 5),
                                                    "read": (100, 5), "fio-1": (10, 5), "fio-128": (100, 2)},
                      limit="generator")
        self.assertIn("the generator was the limit", file_report.compare(cell, "fixed", file_report.RATE, "pool-16")[1])
        self.assertIn("no decision: the generator was the limit", "\n".join(file_report.device_goals(cell)[0]))

    def test_the_goals_of_cold_reads(self):
        cell = a_cell("cold-direct/random-4K/256", {"inline": (10, 10), "pool-16": (120, 6), "fixed": (80, 5),
                                                    "read": (80, 5), "fio-1": (10, 5), "fio-128": (100, 2)})
        lines = file_report.goal_lines({"cells": [cell]})
        self.assertRegex(lines[0], r"fio at queue depth 128 .* 0\.80 .* missed")
        self.assertRegex(lines[1], r"depth 128 ÷ depth 1\) .* 0\.80 .* missed")
        self.assertRegex(lines[2], r"best pool \(pool-16\), rate .* 0\.67 .* missed")
        self.assertRegex(lines[3], r"per CPU-second .* 1\.20 .* missed")

    def test_without_fio_its_goals_are_not_decided(self):
        cell = a_cell("cold-direct/random-4K/256", {"inline": (10, 10), "pool-16": (80, 10), "fixed": (80, 5)})
        cell["failures"] = {"fio-1": "fio is not installed", "fio-128": "fio is not installed"}
        lines = file_report.goal_lines({"cells": [cell]})
        self.assertRegex(lines[0], "no decision: fio is not installed")
        self.assertRegex(lines[2], "met")

    def test_a_server_that_failed_once_has_no_row_and_no_ratio(self):
        cell = a_cell("cached/random-4K/100", {"inline": (10, 10), "fixed": (10, 10)})
        cell["failures"] = {"fixed": "wrong byte"}
        text = "\n".join(file_report.cell_lines(cell))
        self.assertIn("fixed: FAILED: wrong byte", text)
        self.assertNotIn("÷", text)

    def test_a_cell_that_got_warm_or_missed_the_cache_says_so(self):
        cell = a_cell("cold-evict/random-4K/100", {"inline": (10, 10), "fixed": (10, 10)})
        for run in cell["runs"]:
            run["pages"]["after"] = 400
        text = "\n".join(file_report.cell_lines(cell))
        self.assertIn("pages 0 -> 400 (40 %)", text)
        self.assertIn("4.0 pages for each that was asked for", text)
        self.assertIn("partly WARM", text)
        cell["table"] = "cold-direct"
        self.assertIn("NOT PAST THE CACHE", "\n".join(file_report.cell_lines(cell)))

    def test_at_an_equal_rate_the_baseline_is_the_cheapest_at_that_rate(self):
        cell = a_cell("cached/random-4K/100", {"inline": (100, 10), "pool-16": (150, 20), "read": (100, 10),
                                               "fixed": (120, 9)})
        self.assertEqual(file_report.contenders(cell), ["fixed", "read", "inline", "pool-16"])
        slower = a_cell("cached/random-4K/100", {"inline": (100, 10), "pool-16": (101, 9.9), "pool-64": (49, 5),
                                                 "sync": (80, 13), "sendfile": (70, 5), "fixed": (90, 9)})
        # Nearly as good at the peak may be better below it; half as fast sets no rate for the others.
        self.assertEqual(file_report.contenders(slower), ["fixed", "inline", "pool-16", "sendfile"])
        cell["equal_rate"] = a_cell("cached/random-4K/100", {"inline": (70, 14), "pool-16": (70, 12), "fixed": (70, 6)})
        cell["equal_rate"]["rate"] = 70
        text = "\n".join(file_report.cell_lines(cell))
        self.assertIn("all at 70 req/s", text)
        self.assertRegex(text, r"fixed ÷ pool-16, per CPU-second +2\.00 \[2\.00, 2\.00\] +io_uring better")

    def test_the_goal_of_a_cached_cell_is_decided_at_the_equal_rate_where_there_is_one(self):
        cell = a_cell("cached/whole-4K/100", {"inline": (100, 10), "fixed": (120, 20)})
        self.assertRegex(file_report.goal_lines({"cells": [cell]})[0], "per CPU-second +>= .* 0.50 .* missed")
        cell["equal_rate"] = a_cell("cached/whole-4K/100", {"inline": (70, 14), "fixed": (70, 7)})
        self.assertRegex(file_report.goal_lines({"cells": [cell]})[0], "at an equal rate .* 2.00 .* met")

    def test_where_the_baseline_is_better_is_listed(self):
        cell = a_cell("cached/random-4K/100", {"inline": (100, 10), "read": (100, 10), "fixed": (50, 20)})
        data = {"cells": [cell], "server_cpu": 0, "complete": True}
        text = file_report.end_text(data)
        self.assertRegex(text, r"cached/random-4K/100 +fixed ÷ inline, rate +0\.50")

    def test_what_a_server_says_in_each_run_with_other_numbers_is_said_once(self):
        cell = a_cell("cached/random-4K/100", {"fixed": (50, 20)})
        for number, run in enumerate(cell["runs"]):
            run["said"] = f"{number} sends were copied"
        self.assertEqual(file_report.remarks({"cells": [cell]}), ["fixed said: 0 sends were copied"])

    def test_whether_something_else_runs_is_seen_by_looking_and_not_by_what_ran_before(self):
        self.assertIsNotNone(machine.busy_cpus())
        self.assertIsNone(machine.busy_cpus("/nowhere"))
        facts = machine.facts()
        self.assertIn("NOT QUIET", "\n".join(machine.describe(facts | {"busy_cpus": 0.5})))
        self.assertNotIn("NOT QUIET", "\n".join(machine.describe(facts | {"busy_cpus": 0.02})))
        self.assertNotIn("NOT QUIET", "\n".join(machine.describe(facts | {"busy_cpus": None})))

    def test_a_busy_machine_is_named(self):
        cell = a_cell("cached/random-4K/100", {"fixed": (50, 20)}, disturbed=True)
        self.assertRegex(file_report.disturbances({"cells": [cell]})[0], "^6 of 6 runs were disturbed")
        self.assertEqual(file_report.disturbances({"cells": []}), [])

    def test_what_only_we_had_to_bear_does_not_make_our_win_doubtful_and_our_loss_is_none(self):
        for rate, said in ((200, "io_uring better"), (50, "most runs of fixed were disturbed")):
            cell = a_cell("cached/random-4K/100", {"inline": (100, 10), "fixed": (rate, 10)})
            for run in cell["runs"]:
                run["figures"]["disturbed"] = run["participant"] == "fixed"
            self.assertIn(said, file_report.compare(cell, "fixed", file_report.RATE, "inline")[1])
            for run in cell["runs"]:
                run["figures"]["disturbed"] = run["participant"] == "inline"
            self.assertIn("most runs of inline were disturbed",
                          file_report.compare(cell, "fixed", file_report.RATE, "inline")[1])

    def test_a_thread_that_may_leave_the_pinned_cpu_is_named(self):
        cell = a_cell("cached/random-4K/100", {"fixed": (50, 20)})
        cell["runs"][0]["samples"] = [{"rss": 1, "cpus": ["0", "0-1"]}]
        self.assertEqual(len(file_report.worker_cpus({"cells": [cell], "server_cpu": 0})), 1)
        self.assertEqual(file_report.worker_cpus({"cells": [cell], "server_cpu": None}), [])


class Matrix(unittest.TestCase):
    def test_what_is_more_than_256_mib_under_way_is_a_row_and_not_a_run(self):
        impossible = {cell.name for cell in file_servers.ALL_CELLS if cell.impossible}
        self.assertIn("cached/whole-10M/100", impossible)
        self.assertNotIn("cached/whole-1M/256", impossible)

    def test_sendfile_is_not_asked_to_read_past_the_cache(self):
        for cell in file_servers.ALL_CELLS:
            keys = [p.key for p in file_servers.participants_of(cell)]
            if cell.table != "open-close":
                self.assertEqual("sendfile" in keys, cell.table != "cold-direct", cell.name)

    def test_a_pool_with_more_threads_than_all_connections_can_use_is_not_measured_twice(self):
        self.assertEqual([[p.key for p in file_servers.pools_of(n)] for n in (1, 16, 17, 100, 256)],
                         [["pool-16"], ["pool-16"], ["pool-16", "pool-64"], ["pool-16", "pool-64", "pool-256"],
                          ["pool-16", "pool-64", "pool-256"]])

    def test_a_cell_by_its_name_is_measured_as_the_full_run_does_it(self):
        cell, full = file_servers.parse(["--cell", "cached/whole-4K/1"]), file_servers.parse(["--full"])
        self.assertEqual((cell.blocks, cell.seconds, cell.thorough), (full.blocks, full.seconds, full.thorough))
        self.assertGreaterEqual(full.blocks, 4)

    def test_the_quick_run_has_only_cells_that_exist_and_says_what_it_left_out(self):
        self.assertLessEqual(file_servers.QUICK, {cell.name for cell in file_servers.ALL_CELLS})
        cells, thinned = file_servers.plan(file_servers.parse([]))
        self.assertTrue(thinned)
        self.assertLess(len([cell for cell in cells if not cell.impossible]), 20)

    def test_a_cell_is_chosen_by_its_name(self):
        cells, _ = file_servers.plan(file_servers.parse(["--cell", "cached/*/1"]))
        self.assertEqual({cell.connections for cell in cells}, {1})
        self.assertEqual({cell.table for cell in cells}, {"cached"})

"""The parts of the comparison of the echo servers that compute: the matrix, verdicts, goals, what /proc says."""

import socket
import threading
import unittest
from unittest import mock

import echo_report
import echo_servers
from measure import idle, load

# ---- Raw data by hand --------------------------------------------------------------------------------------------


def a_run(participant, turn, rate, cpu_us, **more):
    figures = {"rate": rate, "cpu_us": cpu_us, "mb_per_second": 1, "p50": 10, "p95": 15, "p99": 20, "busy": 1.0,
               "generator_busy": 0.5, "syscalls": 0.05 if participant == "uring" else 2.1, "switches": 0.1,
               "limit": "server", "disturbed": False, "late": False, "answered": 100} | more
    return {"participant": participant, "pass": turn, "figures": figures, "samples": [], "counters": {"errors": 0}}


def a_part(name, figures, **more):
    """figures: {participant: (rate, cpu_us)}, the same in six passes."""
    return {"cell": name, "table": name.split("/")[0], "title": name,
            "participants": [{"key": key, "label": {"uring": "io_uring"}.get(key, key)} for key in figures],
            "failures": {},
            "runs": [a_run(key, turn, *values, **more) for turn in range(6) for key, values in figures.items()]}


def a_cell(name, figures, at_primary=None, **more):
    cell = a_part(name, figures, **more) | {"connections": int(name.split("/")[2]), "size": 64, "depth": 1,
                                            "impossible": None, "opening": {}, "at_rates": []}
    if at_primary:
        rate = next(iter(at_primary.values()))[0]
        cell["at_rates"].append(a_part(name, at_primary) | {"share": 0.7, "rate": rate})
    return cell


def goals(*cells):
    return "\n".join(echo_report.goal_lines({"cells": cells}))


def an_idle_cell(own):
    cell = a_cell("idle/64/10000", {})
    cell["participants"] = [{"key": key, "label": key} for key in ("epoll", "uring")]
    for turn in range(6):
        for key in ("epoll", "uring"):
            figures = {"own": own[key], "kept": 1, "kernel": 8000, "buffers": 0, "sockets": 2, "at_zero": 1, "rss": 1}
            cell["runs"].append({"participant": key, "pass": turn, "figures": figures, "counters": {"errors": 0},
                                 "caches": {"TCP": 4700}, "samples": []})
    return cell


class EchoReport(unittest.TestCase):
    def test_a_ratio_above_1_says_that_io_uring_is_better(self):
        cell = a_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (150, 8)})
        self.assertEqual(echo_report.compare(cell, echo_report.RATE)[0].median, 1.5)
        interval, said = echo_report.compare(cell, echo_report.CPU)
        self.assertEqual((interval.median, said), (1.25, "io_uring better"))

    def test_a_rate_is_ranked_only_where_both_servers_were_busy(self):
        cell = a_cell("ping-pong/64/1", {"epoll": (100, 10), "uring": (150, 8)}, busy=0.6)
        self.assertIn("not ranked: busy 60 % and 60 %", echo_report.compare(cell, echo_report.RATE)[1])
        self.assertEqual(echo_report.compare(cell, echo_report.CPU)[1], "io_uring better")

    def test_a_rate_that_the_generator_limited_is_not_ranked(self):
        cell = a_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (100, 8)}, limit="generator")
        self.assertIn("the generator was the limit", echo_report.compare(cell, echo_report.RATE)[1])
        self.assertIn("generator-bound", "\n".join(echo_report.cell_lines(cell)))

    def test_latencies_are_compared_at_an_equal_rate_and_not_at_the_peak(self):
        cell = a_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (150, 8)},
                      {"epoll": (70, 10), "uring": (70, 8)})
        self.assertNotIn("p50", [measure for measure in echo_report.measures_of(cell)])
        text = "\n".join(echo_report.cell_lines(cell))
        self.assertRegex(text, r"both at 70 msg/s, 70 % of the lower peak")
        self.assertRegex(text, r"epoll ÷ io_uring, p99 +1\.00")

    def test_latencies_of_a_generator_that_was_late_are_not_ranked_but_cpu_time_is(self):
        part = a_part("ping-pong/64/128", {"epoll": (70, 10), "uring": (70, 8)}, late=True) | {"share": 0.7, "rate": 70}
        self.assertIn("the generator was busy or late", echo_report.compare(part, echo_report.P99)[1])
        self.assertEqual(echo_report.compare(part, echo_report.CPU)[1], "io_uring better")

    def test_who_did_not_keep_up_did_other_work_and_is_not_ranked(self):
        part = a_part("ping-pong/64/128", {"epoll": (70, 10), "uring": (50, 8)}) | {"share": 0.7, "rate": 70}
        self.assertIn("io_uring did not keep up", echo_report.compare(part, echo_report.CPU)[1])
        self.assertIn("did not keep up", "\n".join(echo_report.row_lines(part)))

    def test_a_server_that_failed_once_has_no_row_and_no_ratio(self):
        cell = a_cell("ping-pong/64/128", {"epoll": (100, 10), "uring": (100, 10)})
        cell["failures"] = {"uring": "wrong byte"}
        text = "\n".join(echo_report.cell_lines(cell))
        self.assertIn("io_uring: FAILED: wrong byte", text)
        self.assertNotIn("÷", text)
        self.assertRegex(goals(cell), "missed: io_uring failed: wrong byte")

    def test_where_epoll_is_better_is_listed_with_the_command_that_measures_it_again(self):
        cell = a_cell("ping-pong/64K/128", {"epoll": (100, 10), "uring": (50, 20)},
                      {"epoll": (35, 10), "uring": (35, 20)})
        data = {"cells": [cell], "server_cpu": 0, "complete": True}
        text = echo_report.end_text(data)
        self.assertRegex(text, r"ping-pong/64K/128 +io_uring ÷ epoll, rate +0\.50")
        self.assertRegex(text, r"ping-pong/64K/128 +epoll ÷ io_uring, CPU per message at 70 % +0\.50")
        self.assertIn("make bench-echo CELL=ping-pong/64K/128", text)

    def test_a_busy_machine_is_named(self):
        cell = a_cell("ping-pong/64/128", {"uring": (50, 20)}, disturbed=True)
        self.assertIn("6 of 6 runs were disturbed",
                      echo_report.end_text({"cells": [cell], "server_cpu": 0, "complete": True}))

    def test_runs_that_were_mostly_disturbed_rank_nothing_and_decide_nothing(self):
        cell = a_cell("unix/64/128", {"epoll": (100, 10), "uring": (100, 20)}, disturbed=True)
        self.assertIn("were disturbed", echo_report.compare(cell, echo_report.CPU)[1])
        self.assertRegex(goals(cell), "0.50 .* no decision: most runs of .* were disturbed")
        self.assertEqual(echo_report.losses({"cells": [cell]}), ([], 0))

    def test_an_impossible_cell_is_a_sentence(self):
        cell = a_cell("pipelined/64K/1000", {}) | {"impossible": "too much"}
        self.assertEqual(echo_report.cell_lines(cell), ["pipelined/64K/1000: not measured: too much"])
        self.assertEqual(goals(cell), "none was measured")

    def test_idle_connections_have_columns_of_their_own_and_no_ratio(self):
        text = "\n".join(echo_report.cell_lines(an_idle_cell({"epoll": 80, "uring": 300})))
        self.assertRegex(text, r"\n  uring +300 +1 +8,000 .* kernel: TCP 4,700")
        self.assertNotIn("÷", text)


class EchoGoals(unittest.TestCase):
    def test_the_cost_of_a_message_decides_at_70_percent_of_the_lower_peak(self):
        cell = a_cell("ping-pong/4K/128", {"epoll": (100, 10), "uring": (100, 20)},
                      {"epoll": (70, 10), "uring": (70, 10)}, busy=0.5)
        self.assertRegex(goals(cell), r"CPU per message at 70 % +>= 0\.97 +1\.00 .* met")
        cell["at_rates"].clear()
        self.assertRegex(goals(cell), r"CPU per message at the peak +>= 0\.97 +0\.50 .* missed")

    def test_some_cells_have_goals_of_their_own(self):
        for name, goal in (("ping-pong/64/128", "1.00"), ("unix/64/128", "1.10"), ("churn/64/16", "1.25")):
            with self.subTest(name):
                cell = a_cell(name, {"epoll": (100, 10), "uring": (100, 10)}, {"epoll": (70, 21), "uring": (70, 20)})
                self.assertRegex(goals(cell), f">= {goal}")
        self.assertLessEqual(set(echo_report.GOALS) | {echo_report.P95_CELL, echo_report.IDLE_CELL},
                             {cell.name for cell in echo_servers.ALL_CELLS})

    def test_a_ranked_rate_has_a_goal_as_well(self):
        cell = a_cell("ping-pong/64K/16", {"epoll": (100, 10), "uring": (90, 10)})
        self.assertRegex(goals(cell), r"io_uring ÷ epoll, rate +>= 0\.97 +0\.90 .* missed")
        cell = a_cell("ping-pong/64K/16", {"epoll": (100, 10), "uring": (90, 10)}, busy=0.9)
        self.assertNotIn("rate", goals(cell))

    def test_system_calls_count_where_epoll_needs_two_and_there_are_many_connections(self):
        figures = {"epoll": (100, 10), "uring": (100, 10)}
        said = goals(a_cell("ping-pong/64/128", figures))
        self.assertRegex(said, r"system calls a message.* <= 0\.100 +0\.050 +met \(epoll 2\.10; p50 10\.0 us, epoll 10")
        self.assertRegex(goals(a_cell("ping-pong/64/128", figures, syscalls=3)), r"a message.* 3\.000 +missed")
        self.assertNotIn("system calls", goals(a_cell("ping-pong/64/16", figures)))
        self.assertNotIn("system calls", goals(a_cell("pipelined/64/128", figures, syscalls=0.3)))

    def test_the_figures_of_the_server_alone(self):
        self.assertRegex(goals(a_cell("ping-pong/64/128", {"uring": (9, 9)})), r"peak, ms +<= 100\.0 +0\.0 +met")
        self.assertRegex(goals(a_cell("churn/64/16", {"uring": (900, 9)})), r"a second +> 1,000 +900 +missed")
        self.assertRegex(goals(an_idle_cell({"epoll": 80, "uring": 300})), r"<= 512 +300 +met \(epoll 80\)")
        self.assertRegex(goals(an_idle_cell({"epoll": 80, "uring": 600})), r"<= 512 +600 +missed")

    def test_an_error_among_the_held_connections_is_a_missed_goal(self):
        cell = a_cell("held/64/2000", {"uring": (20000, 9)}) | {"rate": 20000, "seconds": 60}
        self.assertRegex(goals(cell), r"errors in 60 s +0 +0 +met")
        cell["runs"][0]["counters"]["errors"] = 2
        self.assertRegex(goals(cell), r"errors in 60 s +0 +2 +missed")
        cell["failures"] = {"uring": "a connection failed: reset"}
        self.assertRegex(goals(cell), r"missed: a connection failed: reset")


class EchoMatrix(unittest.TestCase):
    def setUp(self):
        limit = mock.patch.object(idle, "most_descriptors", lambda: 20000)
        limit.start()
        self.addCleanup(limit.stop)

    def test_what_is_more_than_256_mib_under_way_is_a_row_and_not_a_run(self):
        impossible = {cell.name for cell in echo_servers.ALL_CELLS if cell.impossible}
        self.assertEqual(impossible, {"ping-pong/64K/10000", "pipelined/64K/1000"})

    def test_the_quick_run_has_only_cells_that_exist_and_says_what_it_left_out(self):
        self.assertLessEqual(echo_servers.QUICK | echo_servers.THOROUGH,
                             {cell.name for cell in echo_servers.ALL_CELLS})
        settings = echo_servers.parse([])
        cells, thinned = echo_servers.plan(settings)
        self.assertTrue(thinned)
        self.assertLess(echo_servers.describe_plan(settings, cells, thinned)["estimate_seconds"], 15 * 60)

    def test_every_cell_with_a_peak_is_compared_at_70_percent_and_in_full_at_the_others_too(self):
        quick, full = echo_servers.parse([]), echo_servers.parse(["--full"])
        cell = echo_servers.Cell("ping-pong", "4K", 128)
        self.assertEqual(echo_servers.shares_of(cell, quick), [0.7])
        self.assertEqual(echo_servers.shares_of(cell, full), [0.5, 0.7, 0.9])
        self.assertEqual(echo_servers.shares_of(echo_servers.Cell("held", "64", 2000), full), [])

    def test_runs_are_longer_where_opening_the_connections_is_much_of_them_and_where_they_are_held(self):
        settings = echo_servers.parse(["--full"])
        self.assertEqual(echo_servers.seconds_of(settings, echo_servers.Cell("ping-pong", "64", 1000)), (0.3, 0.075))
        self.assertEqual(echo_servers.seconds_of(settings, echo_servers.Cell("ping-pong", "64", 10000)), (0.6, 0.15))
        self.assertEqual(echo_servers.seconds_of(settings, echo_servers.Cell("held", "64", 2000)), (60, 1))

    def test_a_cell_is_chosen_by_its_name(self):
        cells, _ = echo_servers.plan(echo_servers.parse(["--cell", "unix*/*/128"]))
        self.assertEqual({cell.connections for cell in cells}, {128})
        self.assertEqual({cell.table for cell in cells}, {"unix", "unix-pipelined"})

    def test_calls_that_open_connections_are_not_calls_of_a_message(self):
        whole, opening = {"requests": 11_001, "syscalls": 3_000}, {"requests": 1_001, "syscalls": 2_000}
        self.assertEqual(echo_servers.calls_each(whole, opening), 0.1)
        self.assertIsNone(echo_servers.calls_each(opening, opening))
        self.assertIsNone(echo_servers.calls_each(whole | {"syscalls": 1_999}, opening))


class Idle(unittest.TestCase):
    def test_memory_is_read_from_what_the_kernel_prints(self):
        text = ("5581c0a4f000-7ffd4c5f9000 ---p 00000000 00:00 0                          [rollup]\n"
                "Rss:                7568 kB\nPss:                5012 kB\nPrivate_Dirty:      4612 kB\n")
        self.assertEqual(idle.process_memory(text), {"private_dirty": 4612 << 10, "rss": 7568 << 10})
        text = "sockets: used 12\nTCP: inuse 7 orphan 0 tw 0 alloc 9 mem 14\nUDP: inuse 0 mem 0\n"
        self.assertEqual((idle.sockets_in_use(text), idle.socket_buffers(text)), (7, 14 * 4096))
        text = ("slabinfo - version: 2.1\n# name  <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : x\n"
                "TCP 100 120 2432 13 8 : tunables 0 0 0 : slabdata 10 10 0\n")
        self.assertEqual(idle.parse_slabinfo(text), {"TCP": 243200})

    def test_what_a_connection_costs_is_a_difference_divided_by_their_number(self):
        def look(own, slab, mem, sockets):
            return {"private_dirty": own, "rss": own, "slab": {"TCP": slab, "other": 7}, "socket_buffers": mem,
                    "sockets": sockets}
        looks = {"zero": look(1000, 0, 0, 2), "idle": look(4000, 50_000, 4096, 22), "gone": look(1500, 0, 0, 2)}
        figures = idle.figures(looks, 10)
        self.assertEqual((figures["own"], figures["kept"], figures["kernel"], figures["sockets"]), (300, 50, 5000, 2))
        self.assertEqual(idle.growing_caches(looks, 10), {"TCP": 5000})

    def test_without_a_look_at_the_kernels_objects_there_is_no_figure_of_them(self):
        look = {"private_dirty": 1, "rss": 1, "slab": None, "socket_buffers": 0, "sockets": 0}
        looks = {"zero": look, "idle": look, "gone": look}
        self.assertIsNone(idle.figures(looks, 10)["kernel"])
        self.assertEqual(idle.growing_caches(looks, 10), {})

    def test_all_clients_speak_and_each_gets_its_own_message(self):
        port = self.serve(lambda message: message)
        with idle.IdleClients(port, 300) as clients:
            clients.speak(2)

    def test_another_answer_is_a_failure(self):
        port = self.serve(lambda message: b"x" * len(message))
        with self.assertRaisesRegex(idle.IdleFailed, "connection 0 got 64 bytes that are not its message"):
            idle.IdleClients(port, 1)

    def test_a_server_that_hangs_up_is_a_failure(self):
        port = self.serve(lambda message: b"")
        with self.assertRaisesRegex(idle.IdleFailed, "connection 0 "):
            idle.IdleClients(port, 1)

    def test_nobody_there_is_a_failure(self):
        with socket.socket() as taken:  # bound and not listening: nobody else gets the port
            taken.bind(("127.0.0.1", 0))
            with self.assertRaisesRegex(idle.IdleFailed, "connection 1 could not be opened"):
                idle.IdleClients(taken.getsockname()[1], 1)

    def serve(self, answer):
        """A thread for each connection: what it answers, or nothing more where that is empty."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.addCleanup(listener.close)

        def talk(peer):
            with peer:
                try:
                    while (message := peer.recv(64, socket.MSG_WAITALL)) and (words := answer(message)):
                        peer.sendall(words)
                except ConnectionError:
                    pass

        def accept():
            try:
                while True:
                    threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                pass  # the test is over

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]


class EchoGenerator(unittest.TestCase):
    def test_switches_are_counted_for_each_message_that_was_verified_in_the_window(self):
        raw = {"seconds": 1.0, "bottleneck": "server", "disturbed": False, "generator": {"cpu_seconds": 0.5},
               "server": {"cpu_seconds": 1.0, "context_switches": 50},
               "traffic": [{"per_second": 100, "mb_per_second": 1, "verified": 100, "verified_all": 120,
                            "latency_us": {"p50": 1, "p95": 2, "p99": 3}}]}
        figures = load.figures(raw)
        self.assertEqual((figures["switches"], figures["p95"]), (0.5, 2))

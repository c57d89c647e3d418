#!/usr/bin/env -S python3 -B
"""make bench-echo: the io_uring echo server against its epoll twin, both as they come.

Seven tables: ping-pong and pipelined messages over TCP, the same over Unix-domain sockets, a new connection for each
message, idle connections, and many connections that are held for a minute. How to read them and what they do not say:
bench/echo_servers.md.

The story of one cell (`ping-pong/64/128` is one):

    for each block:
        epoll, io_uring, and then in the opposite order       A B  B A
            a fresh server on the first CPU          measure/servers.py
            the generator on the second              measure/load.py: every byte verified, or there is no rate
            SIGTERM, and the server's own counters
    the same again, both at the same rate, 70 % of the lower peak: what does a message cost? (50 and 90 % in full)

Everything measured is written to results.json after each pass; what is printed is computed from that file alone by
bench/echo_report.py. What fails is a row that says why. Ctrl-C prints what there is.
"""

import argparse
import fnmatch
import pathlib
import shlex
import signal
import sys
import tempfile
from dataclasses import dataclass

import echo_report
from measure import idle, load, machine, stats, table
from measure.record import Progress, Record, measured_whole
from measure.servers import Server, ServerFailed, glance

KIB, MIB = 1 << 10, 1 << 20

# ---- The matrix --------------------------------------------------------------------------------------------------

SIZES = {"64": 64, "512": 512, "4K": 4 * KIB, "16K": 16 * KIB, "64K": 64 * KIB}
CONNECTIONS = (1, 16, 128, 1000, 10000)
DEPTH = 16  # messages under way on each connection that is pipelined
MOST_IN_FLIGHT = 256 * MIB  # connections x size x depth: beyond that the sockets' memory is measured
SPARE_DESCRIPTORS = 64  # what a server and a generator have open besides their connections

UNIX_SIZES = ("64", "4K")  # the cost of the interface, and of copying; TCP's own cost is not there
CHURN_CONNECTIONS = (16, 128)
IDLE_CONNECTIONS = (1000, 10000)
HELD_CONNECTIONS, HELD_RATE = 2000, 20000  # ten messages a second on each

PIPELINED_AT_MOST = 1000

# What the quick run measures of it, chosen to meet each goal and each kind of cell.
QUICK = {
    "ping-pong/64/1", "ping-pong/64/16", "ping-pong/64/128", "ping-pong/64/1000", "ping-pong/64/10000",
    "ping-pong/4K/128", "ping-pong/16K/128", "ping-pong/64K/16", "ping-pong/64K/128",
    "pipelined/64/128", "pipelined/64/1000", "pipelined/16K/128",
    "unix/64/128", "unix/4K/128",
    "churn/64/16", "idle/64/10000", "held/64/2000",
}

# What `make compare` has time for. The peak is only looked for (one block): the ratios that count are those at 70 %.
BRIEF = {"ping-pong/64/1", "ping-pong/64/16", "ping-pong/64/128", "ping-pong/64/1000", "ping-pong/16K/128",
         "unix/64/128", "churn/64/16", "idle/64/10000"}
BRIEF_PEAK_BLOCKS = 1
BRIEF_NOISE_CELL = "ping-pong/64/128"

# Both servers at the same rate, as a share of the lower peak. 70 % is the one that decides.
SHARES = (0.5, echo_report.PRIMARY_SHARE, 0.9)

# The cells in which the quick run takes all three shares, and io_uring is also measured against itself.
THOROUGH = {"ping-pong/64/128", "unix/64/128"}

# A server's own count of system calls has those in it that open and close its connections. With so many of them, and
# so short a run, that would be a large part, so it is measured by itself and subtracted.
MANY_CONNECTIONS = 1000
OPENINGS = 3  # how many come in one turn of a loop is luck
VERY_MANY_CONNECTIONS = 10_000  # runs are twice as long, so that more is left after the subtraction

IDLE_PASSES = 6  # an interval needs as many, though nearly the same bytes come out each time


@dataclass(frozen=True)
class Participant:
    key: str
    label: str
    program: str  # below build/


EPOLL = Participant("epoll", "epoll", "epoll_echo_server")
URING = Participant("uring", "io_uring", "m3_echo_server")
URING_AGAIN = Participant("again", "io_uring, again", "m3_echo_server")


@dataclass(frozen=True)
class Cell:
    table: str
    load: str  # a key of SIZES
    connections: int

    @property
    def name(self):
        return f"{self.table}/{self.load}/{self.connections}"

    @property
    def size(self):
        return SIZES[self.load]

    @property
    def depth(self):
        return DEPTH if "pipelined" in self.table else 1

    @property
    def unix(self):
        return self.table.startswith("unix")

    @property
    def has_peak(self):
        """Whether it is measured at full throttle first and then at equal rates; the others are observed."""
        return self.table not in ("idle", "held")

    @property
    def impossible(self):
        held = self.connections * self.size * self.depth
        if held > MOST_IN_FLIGHT:
            return (f"{self.connections:,} connections x {table.number(self.size / KIB)} KiB x {self.depth} messages "
                    f"are {table.number(held / MIB)} MiB under way at once; more than {MOST_IN_FLIGHT // MIB} MiB are "
                    "not measured")
        if self.connections + SPARE_DESCRIPTORS > idle.most_descriptors():
            return (f"{self.connections:,} connections need more descriptors than the hard limit of a process, "
                    f"{idle.most_descriptors():,} (ulimit -Hn)")
        return None

    @property
    def title(self):
        noun = "connection" if self.connections == 1 else "connections"
        size = f"{self.size} bytes" if self.size < KIB else f"{self.size // KIB} KiB"
        what = {
            "churn": f"a new connection for each {size}, {self.connections} {noun} at a time",
            "idle": f"{self.connections:,} {noun} that have spoken once",
            "held": f"{self.connections:,} {noun} held, {HELD_RATE:,} messages of {size} a second over all of them",
        }
        depth = f", {self.depth} under way on each" if self.depth > 1 else ""
        return what.get(self.table, f"messages of {size}, {self.connections:,} {noun}{depth}")


def matrix():
    cells = [Cell("ping-pong", size, n) for size in SIZES for n in CONNECTIONS]
    pipelined = [n for n in CONNECTIONS if n <= PIPELINED_AT_MOST]
    cells += [Cell("pipelined", size, n) for size in SIZES for n in pipelined]
    cells += [Cell("unix", size, n) for size in UNIX_SIZES for n in CONNECTIONS]
    cells += [Cell("unix-pipelined", size, n) for size in UNIX_SIZES for n in pipelined]
    cells += [Cell("churn", "64", n) for n in CHURN_CONNECTIONS]
    cells += [Cell("idle", "64", n) for n in IDLE_CONNECTIONS]
    return [*cells, Cell("held", "64", HELD_CONNECTIONS)]


ALL_CELLS = matrix()


def participants_of(cell, settings):
    """Who is measured in a cell, in the order of the forward pass."""
    noise = {BRIEF_NOISE_CELL} if settings.brief else THOROUGH
    return [EPOLL, URING, URING_AGAIN] if cell.name in noise else [EPOLL, URING]


def shares_of(cell, settings):
    """At which shares of the lower peak both are measured once more."""
    if not cell.has_peak:
        return []
    thorough = settings.thorough or (cell.name in THOROUGH and not settings.brief)
    return list(SHARES) if thorough else [echo_report.PRIMARY_SHARE]


def passes_of(cell, settings):
    """At equal rates, and at the peak where that is not brief."""
    if cell.table == "held":
        return 1  # it is observed, and not compared
    return IDLE_PASSES if cell.table == "idle" else 2 * settings.blocks


def passes_at_peak(cell, settings):
    return 2 * BRIEF_PEAK_BLOCKS if settings.brief and cell.has_peak else passes_of(cell, settings)


def plan(settings):
    """The cells to be measured, and sentences about what was left out."""
    if settings.cell:
        return [cell for cell in ALL_CELLS if any(fnmatch.fnmatch(cell.name, glob) for glob in settings.cell)], []
    if settings.full:
        return ALL_CELLS, []
    if settings.brief:
        return [cell for cell in ALL_CELLS if cell.name in BRIEF], [
            f"all but {len(BRIEF)} cells, and other rates than 70 % of the peak; make compare-full measures them all"]
    cells = [cell for cell in ALL_CELLS if cell.name in QUICK or cell.impossible]
    possible = [cell for cell in ALL_CELLS if not cell.impossible]
    left_out = [cell for cell in possible if cell.name not in QUICK]
    return cells, [
        f"{len(left_out)} of {len(possible)} cells; make bench-echo FULL=1 measures them all",
        f"50 and 90 % of the lower peak, except in {' and '.join(sorted(THOROUGH))}",
        f"connections are held for {settings.held_seconds:g} s and not for {HELD_SECONDS} s",
    ]


# ---- One run -----------------------------------------------------------------------------------------------------

HELD_SECONDS, HELD_SECONDS_QUICK = 60, 15


def seconds_of(settings, cell):
    """Of one run: what counts, and before it what does not."""
    if cell.table == "held":
        seconds = settings.held_seconds
    else:
        seconds = settings.seconds * (2 if cell.connections >= VERY_MANY_CONNECTIONS else 1)
    return seconds, round(min(1, seconds / 4), 3)


@dataclass(frozen=True)
class Traffic:
    """How the generator asks: as fast as it is answered, or `rate` a second; for `seconds`, or `messages` and no
    more."""
    seed: int
    seconds: float
    warmup: float
    rate: int = 0
    messages: int = 0


def server_command(settings, cell, participant, folder):
    where = ["--unix", folder / "socket"] if cell.unix else ["--port", "0"]
    return [settings.build / participant.program, *where]


def load_options(cell, pid, traffic):
    what = ["churn"] if cell.table == "churn" else ["echo", "--depth", cell.depth]
    span = (["--messages", traffic.messages] if traffic.messages
            else ["--seconds", traffic.seconds, "--warmup", traffic.warmup])
    pace = ["--rate", traffic.rate] if traffic.rate else []
    return [*what, "--connections", cell.connections, "--size", cell.size, *span, *pace, "--seed", traffic.seed,
            "--server-pid", pid]


def measure_server(settings, cell, participant, traffic):
    """One run in a fresh process: everything that is known about it, as it goes into results.json."""
    samples = []
    with tempfile.TemporaryDirectory(prefix="bench_echo_") as folder, \
            Server(server_command(settings, cell, participant, pathlib.Path(folder)), settings.server_cpu) as server:
        words = load.command(settings.build / "load", server.port or server.path,
                             load_options(cell, server.pid, traffic), settings.load_cpu)
        samples.append(glance(server.pid))
        try:
            raw = load.run(words, traffic.seconds + traffic.warmup,
                           on_tick=lambda: samples.append(glance(server.pid)))
        except load.LoadFailed:
            if not server.is_alive():
                server.stop()  # says better than the generator what happened
            raise
        samples.append(glance(server.pid))
        counters = server.stop()
        said = server.said()
    return {
        "figures": load.figures(raw), "samples": samples, "counters": counters, "said": said, "load": raw,
        "commands": {"server": shlex.join(server.command), "load": shlex.join(words)},
    }


def measure_idle(settings, cell, participant):
    with Server(server_command(settings, cell, participant, None), settings.server_cpu) as server:
        try:
            looks = idle.measure(server, cell.connections)
        except idle.IdleFailed:
            if not server.is_alive():
                server.stop()
            raise
        counters = server.stop()
        said = server.said()
    figures, caches = idle.figures(looks, cell.connections), idle.growing_caches(looks, cell.connections)
    for look in looks.values():
        look.pop("slab")  # hundreds of caches, of which the growing ones are kept
    return {"figures": figures, "caches": caches, "looks": looks, "counters": counters, "said": said, "samples": [],
            "commands": {"server": shlex.join(server.command)}}


# ---- One cell ----------------------------------------------------------------------------------------------------


def calls_each(counters, opening):
    """System calls of the server for each message, without those that opened and closed its connections. None of a run
    so short that there is nothing else in it."""
    requests = counters["requests"] - opening["requests"]
    calls = counters["syscalls"] - opening["syscalls"]
    return calls / requests if requests > 0 and calls >= 0 else None


def measure_run(settings, cell, participant, result, seed, rate):
    if cell.table == "idle":
        return measure_idle(settings, cell, participant)
    run = measure_server(settings, cell, participant, Traffic(seed, *seconds_of(settings, cell), rate))
    nothing = {"requests": 0, "syscalls": 0}
    run["figures"]["syscalls"] = calls_each(run["counters"], result["opening"].get(participant.program, nothing))
    return run


def measure_passes(settings, cell, participants, result, part, record, progress):
    """Forward and backward through the participants: into `part`, which is the cell itself or the cell at some rate.
    One that fails is not tried again: it has no rate any more."""
    rate = part.get("rate", 0)
    for turn in range(passes_at_peak(cell, settings) if part is result else passes_of(cell, settings)):
        for participant in participants if turn % 2 == 0 else reversed(participants):
            progress.show(cell.name, participant.label + (f" at {rate:,}/s" if rate else ""))
            if participant.key not in part["failures"]:
                seed = progress.done + 1  # other bytes each time
                try:
                    run = measure_run(settings, cell, participant, result, seed, rate)
                    part["runs"].append({"participant": participant.key, "pass": turn, "seed": seed} | run)
                except (ServerFailed, load.LoadFailed, idle.IdleFailed) as error:
                    part["failures"][participant.key] = str(error)
            progress.step()
        record.save_if_due()


def needs_opening(cell):
    return cell.table != "churn" and cell.table != "idle" and cell.connections >= MANY_CONNECTIONS


def measure_opening(settings, cell, participants, result, progress):
    """What the server counts when the connections are opened, speak once, and are closed: the median."""
    for participant in participants:
        progress.show(cell.name, participant.label + ", opening")
        try:
            traffic = Traffic(1, settings.seconds, 0, messages=1)
            lives = [measure_server(settings, cell, participant, traffic)["counters"] for _ in range(OPENINGS)]
            result["opening"][participant.program] = {key: stats.median([life[key] for life in lives])
                                                      for key in ("requests", "syscalls")}
        except (ServerFailed, load.LoadFailed):
            pass  # it fails again in the first pass, which says so
        progress.step(OPENINGS)


def measure_at_equal_rates(settings, cell, participants, result, record, progress):
    """CPU time and latency of servers that do the same work in the same time. At their peaks they do not: the faster
    one has more messages in each turn of its loop, and they cost less each."""
    shares = shares_of(cell, settings)
    peaks = [echo_report.typical(result, p.key, "rate") for p in participants]
    if not all(peaks):
        progress.step(len(shares) * len(participants) * passes_of(cell, settings))
        return
    for share in shares:
        part = {key: result[key] for key in ("cell", "table", "title", "participants")}
        part |= {"share": share, "rate": max(1, round(share * min(peaks))), "failures": {}, "runs": []}
        result["at_rates"].append(part)
        measure_passes(settings, cell, participants, result, part, record, progress)


def measure_cell(settings, cell, record, progress):
    participants = participants_of(cell, settings)
    result = {"cell": cell.name, "table": cell.table, "title": cell.title, "connections": cell.connections,
              "size": cell.size, "depth": cell.depth,
              "participants": [{"key": p.key, "label": p.label} for p in participants],
              "impossible": cell.impossible, "failures": {}, "opening": {}, "runs": [], "at_rates": []}
    record.data["cells"].append(result)
    if cell.impossible:
        return
    if cell.table == "held":
        result |= {"rate": HELD_RATE, "seconds": settings.held_seconds}
    if needs_opening(cell):
        measure_opening(settings, cell, [EPOLL, URING], result, progress)
    measure_passes(settings, cell, participants, result, result, record, progress)
    measure_at_equal_rates(settings, cell, participants, result, record, progress)
    result["whole"] = True
    record.save_if_due()


# ---- The whole of it ---------------------------------------------------------------------------------------------


def parse(words):
    parser = argparse.ArgumentParser(
        prog="echo_servers.py", allow_abbrev=False,
        description="The io_uring echo server against its epoll twin: bench/echo_servers.md says how.")
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/bench-echo",
                        help="where results.json goes (%(default)s)")
    parser.add_argument("--blocks", type=int, help="of A B B A: 3, 4 with --full or --cell; fewer than 3 are not judged")
    parser.add_argument("--seconds", type=float, default=load.RUN_SECONDS,
                        help=f"of each run (%(default)s), twice that from {VERY_MANY_CONNECTIONS:,} connections on")
    parser.add_argument("--full", action="store_true", help="all cells: about an hour")
    parser.add_argument("--cell", action="append", metavar="GLOB",
                        help="only these cells, at all rates: ping-pong/64/128, 'unix/*/128'")
    parser.add_argument("--brief", action="store_true", help="the selection of make compare: minutes")
    parser.add_argument("--resume", action="store_true",
                        help="keep the cells of an earlier run that were measured whole: with these settings, by these "
                             "programs, on this machine")
    parser.add_argument("--list", action="store_true", help="name the cells and end")
    settings = parser.parse_args(words)
    settings.thorough = bool(settings.full or settings.cell)
    settings.blocks = settings.blocks or (4 if settings.thorough else 3)
    if settings.blocks < 1 or settings.seconds <= 0:
        parser.error("--blocks and --seconds are more than 0")
    settings.held_seconds = HELD_SECONDS if settings.thorough else HELD_SECONDS_QUICK
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    return settings


def count_runs(settings, cell):
    if cell.impossible:
        return 0
    openings = 2 * OPENINGS if needs_opening(cell) else 0
    passes = passes_at_peak(cell, settings) + passes_of(cell, settings) * len(shares_of(cell, settings))
    return openings + len(participants_of(cell, settings)) * passes


def guess_seconds(settings, cell):
    """Of one run: with starting, connecting and stopping."""
    if cell.table == "idle":
        return 2.5 + cell.connections / 10_000
    return sum(seconds_of(settings, cell)) + 0.06 + cell.connections / 20_000


def programs(settings):
    return machine.digest([settings.build / name for name in (EPOLL.program, URING.program, "load")])


def estimate_seconds(settings, cells):
    return sum(count_runs(settings, cell) * guess_seconds(settings, cell) for cell in cells)


def describe_plan(settings, cells, thinned):
    runs = sum(count_runs(settings, cell) for cell in cells)
    estimate = estimate_seconds(settings, cells)
    return {
        "machine": machine.facts(), "pins": machine.pins(), "server_cpu": settings.server_cpu,
        "settings": {name: getattr(settings, name)
                     for name in ("blocks", "seconds", "held_seconds", "full", "cell", "brief")},
        "programs": programs(settings),
        "planned": len([cell for cell in cells if not cell.impossible]), "runs": runs,
        "estimate_seconds": estimate, "guess_seconds": estimate / runs if runs else 0, "thinned": thinned,
        "complete": False, "cells": [],
    }


def begin(settings, cells, thinned):
    """The record, and the cells that are still to be measured."""
    path = settings.results / "results.json"
    data = describe_plan(settings, cells, thinned)
    data["cells"] = measured_whole(path, data) if settings.resume else []
    done = {result["cell"] for result in data["cells"]}
    left = [cell for cell in cells if cell.name not in done]
    data["runs"] = sum(count_runs(settings, cell) for cell in left)
    data["estimate_seconds"] = estimate_seconds(settings, left)
    return Record(path, data), left


def interrupt_on_sigterm():
    """Whoever ends this politely gets the tables so far, as with Ctrl-C."""
    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)


def measure(settings, cells, record, progress):
    """Each table is printed when its last cell is done. Returns whether all of it was measured."""
    kind = None
    record.save()
    try:
        for kind in dict.fromkeys(cell.table for cell in cells):
            for cell in cells:
                if cell.table == kind:
                    measure_cell(settings, cell, record, progress)
            progress.clear()
            print(echo_report.table_text(record.data, kind), flush=True)
        record.data["complete"] = True
    except KeyboardInterrupt:
        progress.clear()
        print(echo_report.table_text(record.data, kind))
        print("interrupted: the tables end here, and what has no six ratios yet is not judged\n")
    finally:
        record.save()
    return record.data["complete"]


def main(words):
    settings = parse(words)
    cells, thinned = plan(settings)
    if settings.list or not cells:
        print("\n".join(cell.name for cell in ALL_CELLS))
        return 0 if settings.list else 2
    interrupt_on_sigterm()
    idle.lift_descriptor_limit()
    try:
        settings.results.mkdir(parents=True, exist_ok=True)
        record, cells = begin(settings, cells, thinned)
        print(echo_report.head_text(record.data), flush=True)
        complete = measure(settings, cells, record, Progress(record.data["runs"], record.data["guess_seconds"]))
        print(echo_report.end_text(record.data))
        print(f"raw data: {record.path}")
    except OSError as error:
        print(f"bench-echo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not complete:
        return 130
    return 1 if any(part["failures"] for part in echo_report.parts_of(record.data)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

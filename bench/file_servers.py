#!/usr/bin/env -S python3 -B
"""make bench-file: the io_uring file server against everything that does its job without io_uring.

Three tables, never mixed: files in the page cache; cold because every server reads past the cache (O_DIRECT); cold
because the cache was emptied before each run, and looked at. A fourth, small one opens and closes a file for each
request. How to read them and what they do not say: bench/file_servers.md.

The story of one cell (`cached/random-4K/100` is one):

    for each block:
        all servers of the cell, one after another, then the same in the opposite order        A B C  C B A
            files: warm or cold, and counted         measure/page_cache.py
            a fresh server on the first CPU          measure/servers.py
            the generator on the second              measure/load.py: every byte verified, or there is no rate
            SIGTERM, and the server's own counters
    the best of them again, all at the same rate, 70 % of the lowest peak: what does a request cost?

Everything measured is written to results.json after each cell; what is printed is computed from that file alone by
bench/file_report.py. What fails is a row that says why. Ctrl-C prints what there is.
"""

import argparse
import fnmatch
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import file_report
from measure import fio, load, machine, page_cache, table
from measure.record import Progress, Record, measured_whole
from measure.servers import Server, ServerFailed, glance

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# ---- The matrix --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    unit: str  # of make-files: 4K, 64K, 1M, 10M, 2G
    size: int  # bytes of one answer
    few: int = 0  # files that stay open and, in the cached table, in the cache
    many: int = 0  # files for the table in which none may be read twice

    @property
    def random(self):
        return self.many == 0


BIG_FILE, BIG_SIZE = "made.2G.0", 2 * GIB

WORKLOADS = {
    "random-4K": Workload("2G", 4 * KIB),
    "whole-4K": Workload("4K", 4 * KIB, few=512, many=16384),
    "whole-64K": Workload("64K", 64 * KIB, few=512, many=4096),
    "whole-1M": Workload("1M", MIB, few=64, many=512),
    "whole-10M": Workload("10M", 10 * MIB, few=8, many=64),
}
CONNECTIONS = (1, 10, 100, 256)
MOST_IN_FLIGHT = 256 * MIB  # connections x size: beyond that the generator's and the sockets' memory is measured

MOST_OPEN = 1000  # files that a server keeps open by itself are 1024, so that opening is not measured, but reading

# To evict or to warm: a page that is held by a process that is just ending stays; one that is on its way is not there.
TRIES = 5

TABLES = ("cached", "cold-direct", "cold-evict")

# What the quick run measures of it, chosen to meet each goal and each kind of cell.
QUICK = {
    "cached/random-4K/1", "cached/random-4K/100", "cached/whole-4K/100", "cached/whole-64K/10", "cached/whole-1M/10",
    "cached/whole-10M/10",
    "cold-direct/random-4K/1", "cold-direct/random-4K/256", "cold-direct/whole-64K/10", "cold-direct/whole-1M/10",
    "cold-evict/random-4K/256", "cold-evict/whole-64K/10",
    "open-close/whole-4K/16",
}

# The cells in which a server is also measured against itself.
NOISE_CELLS = {"cached/random-4K/100", "cold-direct/random-4K/256", "cold-evict/random-4K/256"}
CEILING_CELL = "cold-direct/random-4K/256"

# The cells in which the quick run also compares the best at a rate that all of them can hold.
EQUAL_RATE_CELLS = {"cached/random-4K/100", "cold-direct/random-4K/256"}
LIKELY_AT_EQUAL_RATE = 6  # two io_uring servers, perhaps one of them again, and the baselines that may be the best
EQUAL_SHARE = 0.7  # of the lowest peak

# What `make compare` has time for: who is asked, and whether at an equal rate. There the peak is only looked for (one
# block), because the ratio at the equal rate is the one that counts; elsewhere the peak has all blocks.
BRIEF = {
    "cached/random-4K/1": (("inline", "sendfile", "fixed"), True),
    "cached/random-4K/100": (("inline", "pool-16", "sendfile", "fixed", "fixed-again"), True),
    "cached/whole-64K/10": (("inline", "pool-16", "sendfile", "fixed"), True),
    "cold-direct/random-4K/256": (("inline", "pool-16", "pool-64", "fixed", "fio-1", "fio-128"), False),
}
BRIEF_PEAK_BLOCKS = 1


@dataclass(frozen=True)
class Participant:
    key: str
    label: str
    program: str = ""  # below build/
    options: tuple = ()
    fio_depth: int = 0  # fio and not a server


SYNC = Participant("sync", "sync", "sync_file_server")
INLINE = Participant("inline", "epoll inline", "epoll_file_server", ("--io", "inline"))
POOLS = [Participant(f"pool-{n}", f"epoll pool {n}", "epoll_file_server", ("--io", "pool", "--threads", str(n)))
         for n in (16, 64, 256)]
SENDFILE = Participant("sendfile", "epoll sendfile", "epoll_file_server", ("--io", "sendfile"))
READ = Participant("read", "io_uring read", "m2_file_server", ("--io", "read"))
FIXED = Participant("fixed", "io_uring fixed", "m2_file_server", ("--io", "fixed"))
ZERO_COPY = Participant("zero-copy", "io_uring zero copy", "m4_zero_copy")
FIXED_AGAIN = Participant("fixed-again", "io_uring fixed, again", "m2_file_server", ("--io", "fixed"))
FIO_1 = Participant("fio-1", "fio, queue depth 1", fio_depth=1)
FIO_128 = Participant("fio-128", "fio, queue depth 128", fio_depth=128)

OPEN_CLOSE = [
    Participant("inline", "epoll inline", "epoll_file_server", ("--io", "inline", "--open-files", "0")),
    Participant("normal", "io_uring, normal files", "m2_file_server", ("--open-files", "0", "--files", "normal")),
    Participant("direct", "io_uring, direct files", "m2_file_server", ("--open-files", "0", "--files", "direct")),
]


@dataclass(frozen=True)
class Cell:
    table: str
    load: str  # a key of WORKLOADS
    connections: int

    @property
    def name(self):
        return f"{self.table}/{self.load}/{self.connections}"

    @property
    def workload(self):
        return WORKLOADS[self.load]

    @property
    def cold(self):
        return self.table.startswith("cold")

    @property
    def files(self):
        """How many files it reads; each only once where reading one makes it warm."""
        if self.workload.random:
            return 1
        if self.table == "cold-direct":
            return min(self.workload.many, MOST_OPEN)
        return self.workload.many if self.table == "cold-evict" else self.workload.few

    @property
    def may_read_twice(self):
        """Whether reading a file again is as good as reading it once: not where the first time has warmed it."""
        return self.workload.random or self.table != "cold-evict"

    @property
    def impossible(self):
        held = self.connections * self.workload.size
        if held <= MOST_IN_FLIGHT:
            return None
        return (f"{self.connections} connections x {table.number(self.workload.size / MIB)} MiB are "
                f"{table.number(held / MIB)} MiB under way at once; more than {MOST_IN_FLIGHT // MIB} MiB are not "
                "measured")

    @property
    def title(self):
        noun = "connection" if self.connections == 1 else "connections"
        unit = self.workload.unit
        what = "4 KiB ranges of a 2 GiB file" if self.workload.random else f"whole files of {unit[:-1]} {unit[-1]}iB"
        return f"{what}, {self.connections} {noun}"


ALL_CELLS = [Cell(kind, load, connections)
             for kind in TABLES for load in WORKLOADS for connections in CONNECTIONS]
ALL_CELLS.append(Cell("open-close", "whole-4K", 16))


def pools_of(connections):
    """Up to the first one that has a thread for each connection. With still more threads the same number of reads is
    under way: it is the same server once more, and the best of several equals is too good a baseline."""
    return [pool for i, pool in enumerate(POOLS) if i == 0 or threads_of(POOLS[i - 1]) < connections]


def threads_of(pool):
    return int(pool.options[-1])


def participants_of(cell):
    """Who is measured in a cell, in the order of the forward pass."""
    if cell.table == "open-close":
        return OPEN_CLOSE
    chosen = [SYNC, INLINE, *pools_of(cell.connections)]
    if cell.table != "cold-direct":
        chosen.append(SENDFILE)
    chosen += [READ, FIXED, ZERO_COPY]
    if cell.name in NOISE_CELLS:
        chosen.append(FIXED_AGAIN)
    if cell.name == CEILING_CELL:
        chosen += [FIO_1, FIO_128]
    return chosen


def chosen_participants(settings, cell):
    return [p for p in participants_of(cell) if not settings.brief or p.key in BRIEF[cell.name][0]]


def has_equal_rate(cell, settings):
    if cell.table == "open-close" or not cell.may_read_twice:
        return False
    if settings.brief:
        return BRIEF[cell.name][1]
    return settings.thorough or cell.name in EQUAL_RATE_CELLS


def blocks_at_peak(cell, settings):
    return BRIEF_PEAK_BLOCKS if settings.brief and has_equal_rate(cell, settings) else settings.blocks


def plan(settings):
    """The cells to be measured, and sentences about what was left out."""
    if settings.cell:
        cells = [cell for cell in ALL_CELLS if any(fnmatch.fnmatch(cell.name, glob) for glob in settings.cell)]
        return cells, []
    if settings.full:
        return ALL_CELLS, []
    if settings.brief:
        return [cell for cell in ALL_CELLS if cell.name in BRIEF], [
            f"all but {len(BRIEF)} cells, and some servers in these; make compare-full measures them all"]
    cells = [cell for cell in ALL_CELLS if cell.name in QUICK or cell.impossible]
    possible = [cell for cell in ALL_CELLS if not cell.impossible]
    left_out = [cell for cell in possible if cell.name not in QUICK]
    return cells, [
        f"{len(left_out)} of {len(possible)} cells; make bench-file FULL=1 measures them all",
        "the comparison at an equal rate in most cells",
    ]


# ---- Files -------------------------------------------------------------------------------------------------------


class CannotMeasure(Exception):
    """What ends the whole comparison before it begins, in sentences for a person."""


def file_names(cell):
    if cell.workload.random:
        return [BIG_FILE]
    return [f"made.{cell.workload.unit}.{number}" for number in range(cell.files)]


def missing_bytes(data, names_and_sizes):
    def is_there(name, size):
        try:
            return (data / name).stat().st_size == size
        except OSError:
            return False
    return sum(size for name, size in names_and_sizes if not is_there(name, size))


def make_files(settings, cells):
    """Writes what is missing, after a look at the room that there is."""
    data = settings.data
    data.mkdir(parents=True, exist_ok=True)
    counts = {}
    for cell in cells:
        counts[cell.load] = max(counts.get(cell.load, 0), cell.files)
    wanted = [(BIG_FILE, BIG_SIZE)] if "random-4K" in counts else []
    for name, count in counts.items():
        if not WORKLOADS[name].random:
            wanted += [(f"made.{WORKLOADS[name].unit}.{i}", WORKLOADS[name].size) for i in range(count)]

    missing, room = missing_bytes(data, wanted), os.statvfs(data)
    room = room.f_bavail * room.f_frsize
    if missing and missing + GIB // 2 > room:
        raise CannotMeasure(
            f"{data} needs {missing / GIB:.1f} GiB more, and half a GiB of air, and its file system has "
            f"{room / GIB:.1f} GiB.\n"
            "Somewhere else: make bench-file DATA=/another/folder")
    if not missing:
        return
    print(f"writing {missing / GIB:.1f} GiB of files into {data} (they stay, for the next time)", file=sys.stderr)
    for name, count in counts.items():
        words = ["--count", str(count), "--sizes", WORKLOADS[name].unit, "--big", "0"]
        if WORKLOADS[name].random:
            words = ["--count", "1", "--sizes", "4K", "--big", "2G"]
        made = subprocess.run([settings.build / "load", "make-files", *words, data], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
        if made.returncode != 0:
            raise CannotMeasure(f"make-files: {made.stderr.strip()}")
    os.sync()  # a dirty page cannot be evicted


def list_of_files(settings, cell):
    """The file for --paths, written next to the results."""
    path = settings.results / f"paths.{cell.workload.unit}.{cell.files}"
    path.write_text("".join(name + "\n" for name in file_names(cell)))
    return path


# ---- One run -----------------------------------------------------------------------------------------------------


class NotAsCold(Exception):
    """The page cache did not hold, or did not let go of, what the table's name says."""


def bring_files_to_temperature(cell, paths):
    """Before each run. Returns (pages in the cache, pages)."""
    if cell.cold:
        for _ in range(TRIES):
            page_cache.evict(paths)
            cached, pages = page_cache.resident(paths)
            if cached <= pages // 1000:
                break
            time.sleep(0.1)
        else:
            raise NotAsCold(f"the files could not be evicted: {cached:,} of {pages:,} pages stay in the page cache")
        return cached, pages
    cached, pages = page_cache.resident(paths)
    for _ in range(TRIES):
        if cached == pages:
            break
        page_cache.warm(paths)
        cached, pages = page_cache.resident(paths)
    if cached < pages:
        raise NotAsCold(f"the page cache holds only {cached:,} of the files' {pages:,} pages")
    return cached, pages


def server_command(settings, cell, participant):
    words = [settings.build / participant.program, "--root", settings.data, "--port", "0", *participant.options]
    return words + (["--direct"] if cell.table == "cold-direct" else [])


@dataclass(frozen=True)
class Traffic:
    """How the generator asks: as fast as it is answered, or `rate` a second; for some seconds, or each file `once`."""
    seed: int
    rate: int = 0
    once: bool = False


FILES_WARMUP = 0.3


def warmup_of(settings, cell):
    """What of a run does not count. A quarter of it is too little where files stay open, until each has been opened and
    what waited meanwhile is worked off; and with large answers, until each buffer has been written once and the sockets'
    windows are open. (A request of 1 MiB cost 15 % more after 0.08 s than after 0.3 s, by sendfile 40 %; after 1 s the
    same as after 0.3 s.)"""
    stays_open = not cell.workload.random and cell.may_read_twice
    return max(settings.warmup, FILES_WARMUP if stays_open or cell.workload.size >= MIB else 0)


def load_options(settings, cell, pid, traffic):
    if cell.workload.random:
        what = ["--path", BIG_FILE, "--random-ranges", "4K", "--seed", traffic.seed]
    else:
        what = ["--paths", list_of_files(settings, cell)]
    # Before the clock starts each connection has asked for a file already.
    span = (["--messages", cell.files - cell.connections] if traffic.once
            else ["--seconds", settings.seconds, "--warmup", warmup_of(settings, cell)])
    pace = ["--rate", traffic.rate] if traffic.rate else []
    return ["file", "--connections", cell.connections, *what, *span, *pace, "--server-pid", pid]


def measure_server(settings, cell, participant, traffic):
    """One run in a fresh process: everything that is known about it, as it goes into results.json."""
    paths = [settings.data / name for name in file_names(cell)]
    before, pages = bring_files_to_temperature(cell, paths)
    samples = []
    with Server(server_command(settings, cell, participant), settings.server_cpu) as server:
        words = load.command(settings.build / "load", server.port,
                             load_options(settings, cell, server.pid, traffic), settings.load_cpu)
        samples.append(glance(server.pid))
        try:
            raw = load.run(words, settings.seconds + warmup_of(settings, cell),
                           on_tick=lambda: samples.append(glance(server.pid)))
        except load.LoadFailed:
            if not server.is_alive():
                server.stop()  # says better than the generator what happened
            raise
        samples.append(glance(server.pid))
        counters = server.stop()
        said = server.said()
    after, _ = page_cache.resident(paths)
    requests = counters.get("requests")
    return {
        "figures": load.figures(raw) | {
            "syscalls": counters["syscalls"] / requests if requests else None,
            "rss": max((sample["rss"] for sample in samples if sample["rss"]), default=None),
        },
        "pages": {"before": before, "after": after, "all": pages},
        "once": traffic.once,
        "samples": samples,
        "counters": counters,
        "said": said,
        "load": raw,
        "commands": {"server": shlex.join(server.command), "load": shlex.join(words)},
    }


def measure_fio(settings, cell, participant):
    paths = [settings.data / BIG_FILE]
    bring_files_to_temperature(cell, paths)
    seconds = max(2, round(settings.seconds))  # whole seconds is what its --runtime understands
    words = fio.command(paths[0], participant.fio_depth, seconds, settings.server_cpu)
    raw, figures = fio.run(words, seconds)
    return {"figures": figures, "fio": raw["jobs"][0], "commands": {"fio": shlex.join(words)}}


# ---- One cell ----------------------------------------------------------------------------------------------------


def measure_run(settings, cell, participant, traffic):
    """A run in which no file was read twice where that would have made it warm: one that was faster than there are
    files is not used, and repeated with a count instead of a time."""
    if participant.fio_depth:
        return measure_fio(settings, cell, participant)
    run = measure_server(settings, cell, participant, traffic)
    if not cell.may_read_twice and run["figures"]["answered"] > cell.files:
        run = measure_server(settings, cell, participant, replace(traffic, once=True))
    return run


def measure_passes(settings, cell, participants, result, record, progress, blocks, rate=0):
    """Forward and backward through the participants. One that fails is not tried again: it has no rate any more."""
    for turn in range(2 * blocks):
        for participant in participants if turn % 2 == 0 else reversed(participants):
            progress.show(cell.name, participant.label + (" at an equal rate" if rate else ""))
            if participant.key not in result["failures"]:
                seed = progress.done + 1  # other ranges each time: no run profits from the one before
                # Known by now to be faster than there are files?
                once = any(run.get("once") for run in result["runs"] if run["participant"] == participant.key)
                try:
                    run = measure_run(settings, cell, participant, Traffic(seed, rate, once))
                    result["runs"].append({"participant": participant.key, "pass": turn, "seed": seed} | run)
                except (ServerFailed, load.LoadFailed, fio.FioFailed, NotAsCold) as error:
                    result["failures"][participant.key] = str(error)
            progress.step()
        record.save_if_due()


def measure_at_equal_rate(settings, cell, participants, result, record, progress):
    """CPU time of servers that do the same work in the same time. At their peaks they do not: the faster one has more
    requests in each turn of its loop, and they cost less each."""
    keys = file_report.contenders(result)
    progress.step((min(LIKELY_AT_EQUAL_RATE, len(participants)) - len(keys)) * 2 * settings.blocks)
    if len(keys) < 2:
        return
    rate = round(EQUAL_SHARE * min(file_report.typical(result, key, "rate") for key in keys))
    chosen = [p for p in participants if p.key in keys]
    result["equal_rate"] = result | {"rate": rate, "runs": [], "failures": {}, "equal_rate": None,
                                     "participants": [{"key": p.key, "label": p.label} for p in chosen]}
    measure_passes(settings, cell, chosen, result["equal_rate"], record, progress, settings.blocks, rate)


def measure_cell(settings, cell, record, progress):
    participants = chosen_participants(settings, cell)
    result = {"cell": cell.name, "table": cell.table, "title": cell.title, "connections": cell.connections,
              "files": cell.files, "size": cell.workload.size, "random": cell.workload.random,
              "participants": [{"key": p.key, "label": p.label} for p in participants],
              "impossible": cell.impossible, "failures": {}, "runs": [], "equal_rate": None}
    record.data["cells"].append(result)
    if cell.impossible:
        return
    measure_passes(settings, cell, participants, result, record, progress, blocks_at_peak(cell, settings))
    if has_equal_rate(cell, settings):
        measure_at_equal_rate(settings, cell, participants, result, record, progress)
    result["whole"] = True
    record.save_if_due()


# ---- The whole of it ---------------------------------------------------------------------------------------------


def parse(words):
    parser = argparse.ArgumentParser(
        prog="file_servers.py", allow_abbrev=False,
        description="The io_uring file server against its baselines: bench/file_servers.md says how, and how to read it.")
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--data", type=pathlib.Path, default="build/bench-data",
                        help="where the files are, on the disk that is measured (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/bench-file",
                        help="where results.json goes (%(default)s)")
    parser.add_argument("--blocks", type=int, help="of A B B A: 3, 4 with --full or --cell; fewer than 3 are not judged")
    parser.add_argument("--seconds", type=float, default=load.RUN_SECONDS, help="of each run (%(default)s)")
    parser.add_argument("--full", action="store_true", help="all cells: about an hour")
    parser.add_argument("--cell", action="append", metavar="GLOB",
                        help="only these cells, with all their servers: cached/random-4K/100, 'cold-*/random-4K/*'")
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
    settings.warmup = round(min(1, settings.seconds / 4), 3)
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    return settings


def count_runs(settings, cell):
    """About: who is measured at an equal rate is known when the peak is."""
    if cell.impossible:
        return 0
    everybody = len(chosen_participants(settings, cell))
    contenders = min(LIKELY_AT_EQUAL_RATE, everybody) if has_equal_rate(cell, settings) else 0
    return 2 * blocks_at_peak(cell, settings) * everybody + 2 * settings.blocks * contenders


def guess_seconds(settings, cell):
    """Of one run: with starting and stopping, and with emptying the cache of many files."""
    return settings.seconds + warmup_of(settings, cell) + 0.06 + (0 if cell.may_read_twice else cell.files / 40_000)


def estimate_seconds(settings, cells):
    return sum(count_runs(settings, cell) * guess_seconds(settings, cell) for cell in cells)


def programs(settings):
    names = {p.program for p in (SYNC, INLINE, READ, ZERO_COPY)}
    return machine.digest([settings.build / name for name in sorted(names | {"load"})])


def describe_plan(settings, cells, thinned):
    runs = sum(count_runs(settings, cell) for cell in cells)
    estimate = estimate_seconds(settings, cells)
    facts = machine.facts(settings.data)
    return {
        "machine": facts, "pins": machine.pins(), "server_cpu": settings.server_cpu,
        "settings": {"blocks": settings.blocks, "seconds": settings.seconds, "warmup": settings.warmup,
                     "full": settings.full, "cell": settings.cell, "brief": settings.brief},
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
    try:
        for kind in dict.fromkeys(cell.table for cell in cells):
            for cell in cells:
                if cell.table == kind:
                    measure_cell(settings, cell, record, progress)
            progress.clear()
            print(file_report.table_text(record.data, kind), flush=True)
        record.data["complete"] = True
    except KeyboardInterrupt:
        progress.clear()
        print(file_report.table_text(record.data, kind))
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
    try:
        settings.results.mkdir(parents=True, exist_ok=True)
        make_files(settings, [cell for cell in cells if not cell.impossible])
        record, cells = begin(settings, cells, thinned)
        print(file_report.head_text(record.data), flush=True)
        complete = measure(settings, cells, record, Progress(record.data["runs"], record.data["guess_seconds"]))
        print(file_report.end_text(record.data))
        print(f"raw data: {record.path}")
    except (CannotMeasure, OSError) as error:
        print(f"bench-file: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not complete:
        return 130
    parts = [part for cell in record.data["cells"] for part in (cell, cell["equal_rate"]) if part]
    return 1 if any(part["failures"] for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

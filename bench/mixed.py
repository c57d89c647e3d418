#!/usr/bin/env -S python3 -B
"""make bench-mixed: how long an ECHO waits in a file server that reads cold files at the same time.

    make bench-mixed                             two cells, a minute and a half
    make bench-mixed FULL=1                      three of them, all pools, six blocks
    make bench-mixed CELL=mixed/64               one of these
    bench/mixed.py --report build/bench-mixed/results.json      the tables of an earlier run again

One process serves both: messages of 64 bytes that it only sends back, on a timetable (1,000 a second on 64
connections), and 4 KiB ranges of a 2 GiB file, as fast as they come, on N connections more (the N of mixed/N). Every
server reads with O_DIRECT, so that every read goes to the device and is as cold in the last second as in the first. A
loop that reads inline stops for each of them, and whoever wants an echo stands behind it; threads and io_uring do not
stop.

Passes go through the servers and back, A B C .. C B A, a fresh server on the first CPU for each run, the generator,
which verifies every byte, on the second. A ratio compares two runs of one pass: the baseline's latency ÷ io_uring's, or
its reads a second in the other direction, above 1 where io_uring is better; median and 95 % interval; one that contains
1 is no difference, and fewer than six ratios are not judged. The best pool is the one with the lowest median p99,
chosen from the runs that it is then compared with, which favours the pool.

Latency counts from when a message was due, so a server that cannot keep up with 1,000 echoes a second is charged for
what waits; its p99 then grows with the length of the run, and its row says so.

results.json is written after each pass and valid at every moment. What fails is a row that says why. Ctrl-C prints what
there is. Exit code: 0, 1 (a server failed), 130 (interrupted).
"""

import argparse
import fnmatch
import json
import pathlib
import shlex
import signal
import sys
from dataclasses import dataclass

import file_servers
from file_report import label_of, most, runs_of, typical, why_disturbed
from measure import load, machine, stats, table
from measure.record import Progress, Record, measured_whole
from measure.servers import Server, ServerFailed

ECHO_CONNECTIONS, ECHO_BYTES, ECHO_RATE = 64, 64, 1000
GETS = (16, 64, 256)
QUICK, QUICK_POOLS = (64, 256), 2
NOISE_GETS = 64
COLD_FILE = file_servers.Cell("cold-direct", "random-4K", 256)

INLINE, POOLS, OURS = file_servers.INLINE, file_servers.POOLS, file_servers.FIXED
AGAIN = file_servers.FIXED_AGAIN
GOAL_INLINE, GOAL_POOL = 10, 1
P50, P99, GET_RATE = "echo p50", "echo p99", "reads a second"
FIGURES = {P99: "echo_p99", P50: "echo_p50", GET_RATE: "get_rate"}


@dataclass(frozen=True)
class Cell:
    gets: int

    @property
    def name(self):
        return f"mixed/{self.gets}"

    @property
    def title(self):
        return (f"{ECHO_RATE:,} echoes a second on {ECHO_CONNECTIONS} connections, while {self.gets} others read cold "
                "4 KiB ranges")


ALL_CELLS = [Cell(gets) for gets in GETS]


def participants_of(cell, full):
    """Who is measured in a cell, in the order of the forward pass."""
    return [INLINE, *(file_servers.pools_of(cell.gets) if full else POOLS[:QUICK_POOLS]), OURS,
            *([AGAIN] if full and cell.gets == NOISE_GETS else [])]


# ---- One run -----------------------------------------------------------------------------------------------------


def figures_of(raw, counters):
    echo, get = raw["traffic"]
    verified = (echo["verified"] or 0) + (get["verified"] or 0)
    server, seconds = raw["server"], raw["seconds"]
    return {
        "rate": echo["per_second"],
        "echo_p50": echo["latency_us"]["p50"], "echo_p99": echo["latency_us"]["p99"],
        "echo_p99_9": echo["latency_us"].get("p99_9"),
        "get_rate": get["per_second"], "get_p50": get["latency_us"]["p50"], "get_p99": get["latency_us"]["p99"],
        "cpu_us": raw.get("server_cpu_us_per_message"),
        "switches": server["context_switches"] / verified if server and verified else None,
        "syscalls": counters["syscalls"] / counters["requests"] if counters["requests"] else None,
        "busy": server["cpu_seconds"] / seconds if server and seconds else None,
        "generator_busy": raw["generator"]["cpu_seconds"] / seconds if seconds else None,
        "limit": raw["bottleneck"], "disturbed": raw["disturbed"], "late": raw.get("late", False),
    }


def measure_server(settings, cell, participant, seed):
    """One run in a fresh process: everything that is known about it, as it goes into results.json."""
    file_servers.bring_files_to_temperature(COLD_FILE, [settings.data / file_servers.BIG_FILE])
    with Server(file_servers.server_command(settings, COLD_FILE, participant), settings.server_cpu) as server:
        options = ["mixed", "--connections", ECHO_CONNECTIONS, "--size", ECHO_BYTES, "--rate", ECHO_RATE,
                   "--get-connections", cell.gets, "--path", file_servers.BIG_FILE, "--random-ranges", "4K",
                   "--seconds", settings.seconds, "--warmup", settings.warmup, "--seed", seed,
                   "--server-pid", server.pid]
        words = load.command(settings.build / "load", server.port, options, settings.load_cpu)
        try:
            raw = load.run(words, settings.seconds + settings.warmup)
        except load.LoadFailed:
            if not server.is_alive():
                server.stop()  # says better than the generator what happened
            raise
        counters = server.stop()
        said = server.said()
    return {"figures": figures_of(raw, counters), "counters": counters, "said": said, "load": raw,
            "commands": {"server": shlex.join(server.command), "load": shlex.join(words)}}


def measure_cell(settings, cell, record, progress):
    participants = participants_of(cell, settings.full)
    result = {"cell": cell.name, "title": cell.title, "gets": cell.gets, "rate": ECHO_RATE,
              "participants": [{"key": p.key, "label": p.label} for p in participants], "failures": {}, "runs": []}
    record.data["cells"].append(result)
    for turn in range(2 * settings.blocks):
        for participant in participants if turn % 2 == 0 else reversed(participants):
            progress.show(cell.name, participant.label)
            if participant.key not in result["failures"]:
                seed = progress.done + 1  # other ranges each time
                try:
                    run = measure_server(settings, cell, participant, seed)
                    result["runs"].append({"participant": participant.key, "pass": turn, "seed": seed} | run)
                except (ServerFailed, load.LoadFailed, file_servers.NotAsCold) as error:
                    result["failures"][participant.key] = str(error)
            progress.step()
        record.save_if_due()
    result["whole"] = True
    record.save_if_due()


# ---- The report: a function of results.json ----------------------------------------------------------------------


def best_pool(cell, measure=P99):
    """By its median, from the very runs that it is compared with."""
    medians = {pool.key: stats.median(by_pass(cell, pool.key, measure).values()) for pool in POOLS}
    return max((key for key in medians if medians[key]), key=medians.get, default=None)


def by_pass(cell, key, measure):
    """{pass: what is the better the more there is of it}"""
    name = FIGURES[measure]
    values = {run["pass"]: run["figures"].get(name) for run in runs_of(cell, key)}
    return {turn: value if measure == GET_RATE else 1 / value for turn, value in values.items() if value}


def ratio(cell, theirs, measure, ours=OURS.key):
    return stats.bootstrap(stats.paired(by_pass(cell, ours, measure), by_pass(cell, theirs, measure)).values())


def kept_up(cell, key):
    return (typical(cell, key, "rate") or 0) >= 0.95 * cell["rate"]


def why_not_ranked(cell, theirs, measure, interval):
    if words := why_disturbed(cell, OURS.key, theirs, interval):
        return "not ranked: " + words
    for key in (OURS.key, theirs):
        limits = [run["figures"].get("limit") for run in runs_of(cell, key)]
        limited = sum(limit in ("generator", "perhaps generator") for limit in limits)
        if measure == GET_RATE and 2 * limited > len(limits):
            return f"not ranked: the generator was the limit of {label_of(cell, key)}"
    # A generator that is late makes both latencies longer, and the ratio of the two nearer to 1. Where ours is the one
    # that it was late with, that is to our disadvantage; where it is theirs, to ours.
    if measure != GET_RATE and most(cell, theirs, "late") and not most(cell, OURS.key, "late"):
        return "not ranked: the generator was late, so a part of the baseline's latency is its own"
    return None


def compare(cell, theirs, measure):
    interval = ratio(cell, theirs, measure)
    if interval is None:
        return None, "nothing to compare"
    return interval, why_not_ranked(cell, theirs, measure, interval) or stats.verdict(interval)


def pairs(cell):
    """(measure, theirs)"""
    found = [(measure, theirs) for measure in FIGURES for theirs in (INLINE.key, best_pool(cell, measure))]
    return [(measure, theirs) for measure, theirs in found if theirs and runs_of(cell, theirs)]


COLUMNS = ["", "echoes/s", "p50 us", "p99 us", "p99.9 us", "reads/s", "p50 us", "p99 us", "calls/req", "switches/req",
           "busy", "generator"]


def row(cell, key):
    def of(name):
        return table.figure(typical(cell, key, name))
    return ["  " + label_of(cell, key), table.number(typical(cell, key, "rate")), of("echo_p50"), of("echo_p99"),
            of("echo_p99_9"), table.number(typical(cell, key, "get_rate")), of("get_p50"), of("get_p99"),
            of("syscalls"), of("switches"), table.share(typical(cell, key, "busy")),
            table.share(typical(cell, key, "generator_busy"))]


def note(cell, key):
    runs, notes = runs_of(cell, key), []
    disturbed = sum(bool(run["figures"].get("disturbed")) for run in runs)
    if disturbed:
        notes.append(f"{disturbed} of {len(runs)} runs disturbed")
    if most(cell, key, "late"):
        notes.append("generator late")
    if not kept_up(cell, key):
        notes.append(f"did not keep up with {cell['rate']:,} echoes a second: its p99 grows with the run")
    return "; ".join(notes)


def ratio_name(cell, measure, theirs, ours=OURS.key):
    ours, theirs = label_of(cell, ours), label_of(cell, theirs)
    return f"{ours} ÷ {theirs}, {measure}" if measure == GET_RATE else f"{theirs} ÷ {ours}, {measure}"


def cell_text(cell):
    keys = [p["key"] for p in cell["participants"] if runs_of(cell, p["key"])]
    rows = table.columns([COLUMNS, *(row(cell, key) for key in keys)]) if keys else []
    notes = ["", *(note(cell, key) for key in keys)]
    lines = [f"{cell['cell']}    {cell['title']}", *(f"{text}  {words}".rstrip() for text, words in zip(rows, notes)),
             *(f"  {label_of(cell, key)}: FAILED: {why}" for key, why in cell["failures"].items())]
    found = []
    for measure, theirs in pairs(cell):
        interval, said = compare(cell, theirs, measure)
        if interval is not None:
            found.append(["    " + ratio_name(cell, measure, theirs), table.interval(interval), said])
    for measure in (P99, P50, GET_RATE):
        itself = ratio(cell, OURS.key, measure, AGAIN.key)
        if itself is not None:
            found.append([f"    noise: io_uring against itself, {measure}", table.interval(itself), ""])
    return "\n".join([*lines, *table.sentences(found), ""])


def goals(data):
    """Rows of four words: what, the goal, what was found, met or missed or no decision."""
    found = []
    for cell in data["cells"]:
        pool = best_pool(cell)
        for theirs, goal in ((INLINE.key, GOAL_INLINE), (pool, GOAL_POOL)):
            what = f"{cell['cell']}: {ratio_name(cell, P99, theirs) if theirs else 'best pool ÷ io_uring, echo p99'}"
            interval = ratio(cell, theirs, P99) if theirs else None
            reason = why_not_ranked(cell, theirs, P99, interval) if interval else "not measured"
            said = stats.goal_verdict(interval, goal) if not reason else \
                f"no decision: {reason.removeprefix('not ranked: ')}"
            found.append([what, f">= {goal:.2f}", table.interval(interval), said])
    return found


def head_text(data):
    settings = data["settings"]
    return "\n".join([
        *machine.describe(data["machine"]),
        f"pinning      {data['pins']}",
        f"procedure    {settings['blocks']} blocks, runs of {settings['seconds']:g} s after {settings['warmup']:g} s "
        "of warm-up, a fresh server for each, every byte verified",
        f"             {data['runs']} runs: about {table.duration(data['estimate_seconds'])}",
        "ratios       the baseline's latency ÷ io_uring's; reads a second: io_uring's ÷ the baseline's. Above 1",
        "             io_uring is better.", ""])


def report_text(data):
    lines = [*(cell_text(cell) for cell in data["cells"]), "==== GOALS", "",
             *("  " + line for line in table.sentences(goals(data))), ""]
    if not data["complete"]:
        lines += ["interrupted: what has no six ratios yet is not judged", ""]
    return "\n".join(lines)


# ---- The whole of it ---------------------------------------------------------------------------------------------


def parse(words):
    parser = argparse.ArgumentParser(prog="mixed.py", allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--data", type=pathlib.Path, default="build/bench-data",
                        help="where the file is, on the disk that is measured (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/bench-mixed",
                        help="where results.json goes (%(default)s)")
    parser.add_argument("--blocks", type=int, help="of A B B A: 3, 6 with --full or --cell; fewer than 3 are not judged")
    parser.add_argument("--seconds", type=float, default=1,
                        help="of each run (%(default)s): a thousand echoes, of which the p99 is the tenth worst")
    parser.add_argument("--full", action="store_true", help="all cells, all pools")
    parser.add_argument("--cell", action="append", metavar="GLOB", help="only these cells")
    parser.add_argument("--resume", action="store_true", help="keep the cells that were measured whole before")
    parser.add_argument("--report", type=pathlib.Path, metavar="FILE", help="print the tables of this results.json")
    settings = parser.parse_args(words)
    settings.full = settings.full or bool(settings.cell)  # a cell by its name is measured as the full run does it
    settings.blocks = settings.blocks or (6 if settings.full else 3)
    if settings.blocks < 1 or settings.seconds <= 0:
        parser.error("--blocks and --seconds are more than 0")
    settings.warmup = round(min(1, settings.seconds / 5), 3)
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    return settings


def plan(settings):
    if settings.cell:
        return [cell for cell in ALL_CELLS if any(fnmatch.fnmatch(cell.name, glob) for glob in settings.cell)]
    return ALL_CELLS if settings.full else [cell for cell in ALL_CELLS if cell.gets in QUICK]


def count_runs(settings, cells):
    return sum(2 * settings.blocks * len(participants_of(cell, settings.full)) for cell in cells)


def describe_plan(settings, cells):
    guess = settings.seconds + settings.warmup + 0.1  # for starting, connecting, stopping, evicting
    runs = count_runs(settings, cells)
    return {"machine": machine.facts(settings.data), "pins": machine.pins(),
            "settings": {name: getattr(settings, name) for name in ("blocks", "seconds", "warmup", "full")},
            "programs": file_servers.programs(settings), "runs": runs, "guess_seconds": guess,
            "estimate_seconds": runs * guess, "complete": False, "cells": []}


def measure(settings, cells, record, progress):
    try:
        for cell in cells:
            measure_cell(settings, cell, record, progress)
        record.data["complete"] = True
    except KeyboardInterrupt:
        pass
    finally:
        progress.clear()
        record.save()


def main(words):
    settings = parse(words)
    if settings.report:
        data = json.loads(settings.report.read_text(encoding="utf-8"))
        print(head_text(data), report_text(data), sep="\n")
        return 0

    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)  # whoever ends this politely gets the tables so far, as with Ctrl-C
    cells = plan(settings)
    if not cells:
        print("\n".join(cell.name for cell in ALL_CELLS))
        return 2
    path = settings.results / "results.json"
    try:
        settings.results.mkdir(parents=True, exist_ok=True)
        file_servers.make_files(settings, [COLD_FILE])
        data = describe_plan(settings, cells)
        data["cells"] = measured_whole(path, data) if settings.resume else []
        done = {result["cell"] for result in data["cells"]}
        left = [cell for cell in cells if cell.name not in done]
        record = Record(path, data)
        print(head_text(data), flush=True)
        measure(settings, left, record, Progress(count_runs(settings, left), data["guess_seconds"]))
        print(report_text(data))
        print(f"raw data: {path}")
    except (file_servers.CannotMeasure, OSError) as error:
        print(f"mixed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not data["complete"]:
        return 130
    return 1 if any(cell["failures"] for cell in data["cells"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env -S python3 -B
"""make bench-copy: a file copied by io_uring, by cp(1) and by dd(1), cold, and on the disk when the clock stops.

    make bench-copy                              512 MiB, a minute
    make bench-copy SIZE=2G BLOCKS=4             the file of the goal
    bench/file_copy.py --report build/bench-copy/results.json      the table of an earlier run again

    io_uring          m1_ring_basics copy SRC DST, then sync DST      32 blocks of 128 KiB in flight
    io_uring, 1 MiB   the same with --block 1048576 --depth 2         dd's block, twice
    io_uring, direct  the same with --direct                          past the page cache, both files
    cp                cp --reflink=never --sparse=never, then sync    what it does inside, strace(1) is asked once
    cp, as it comes   cp --sparse=never, then sync                    may copy inside the kernel, or share blocks
    dd                dd bs=1M conv=fsync                             read, write, read, write

Before each run the target is removed, everything dirty is written, and the source is evicted from the page cache, which
is looked at (measure/page_cache.py). The clock runs from the start of the first process to the end of the last, with
the fsync in it; CPU time is that of all of them and of the kernel's workers for them. Then the copy is compared with
the source, byte by byte. Passes go through the ways and back, A B C .. C B A; a ratio compares two runs of one pass,
their time ÷ io_uring's, above 1 where io_uring is faster; median and 95 % interval.

Nothing is pinned: a copy has no partner to be kept apart from, and who can use a second CPU may.

results.json is written after each pass. What fails is a row that says why. Ctrl-C prints what there is. Exit code: 0,
1 (a copy failed, or was not the same), 130 (interrupted).
"""

import argparse
import filecmp
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from measure import machine, page_cache, stats, table
from measure.record import Progress, Record
from measure.servers import how_it_ended, last_words

UNITS = {"M": 1 << 20, "G": 1 << 30}
EVICTED = 1000  # at most one page in so many may stay
TRIES = 5
GOAL = 1.0
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Way:
    key: str
    label: str
    words: tuple  # {build}, {source} and {target} are put in
    then_sync: bool = True

    def commands(self, settings, source, target):
        def put_in(word):
            return word.format(build=settings.build, source=source, target=target)
        first = [put_in(word) for word in self.words]
        return [first, ["sync", str(target)]] if self.then_sync else [first]


WAYS = [
    Way("uring", "io_uring", ("{build}/m1_ring_basics", "copy", "{source}", "{target}")),
    Way("large", "io_uring, 1 MiB blocks", ("{build}/m1_ring_basics", "copy", "{source}", "{target}", "--block", "1048576",
                                            "--depth", "2")),
    Way("direct", "io_uring, direct", ("{build}/m1_ring_basics", "copy", "{source}", "{target}", "--direct")),
    Way("cp", "cp", ("cp", "--reflink=never", "--sparse=never", "{source}", "{target}")),
    Way("cp-plain", "cp, as it comes", ("cp", "--sparse=never", "{source}", "{target}")),
    Way("dd", "dd", ("dd", "if={source}", "of={target}", "bs=1M", "conv=fsync", "status=none"), then_sync=False),
]
BY_KEY = {way.key: way for way in WAYS}
OURS, OTHERS, THEIRS = "uring", ("large", "direct"), ("cp", "cp-plain", "dd")
TIME, CPU = "time", "CPU time"
FIGURES = {TIME: "seconds", CPU: "cpu_seconds"}


class CopyFailed(Exception):
    """One sentence."""


# ---- One run -----------------------------------------------------------------------------------------------------


def make_source(settings):
    """made.SIZE.0, as build/load makes it; it stays, for the next time."""
    path = settings.data / f"made.{settings.size}.0"
    settings.data.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.stat().st_size != settings.bytes:
        room = os.statvfs(settings.data)
        if 2 * settings.bytes > room.f_bavail * room.f_frsize:
            raise CopyFailed(f"{settings.data} has no room for twice {settings.size}: make bench-copy "
                             "DATA=/another/folder")
        print(f"writing {path}", file=sys.stderr)
        made = subprocess.run([settings.build / "load", "make-files", "--sizes", "4K", "--count", "1", "--big",
                               settings.size, settings.data], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True)
        if made.returncode != 0:
            raise CopyFailed(f"make-files: {last_words(made.stderr)}")
    return path


def make_cold(source, target):
    target.unlink(missing_ok=True)
    os.sync()  # nobody else's dirty pages are written at our expense
    for _ in range(TRIES):
        page_cache.evict([source])
        cached, pages = page_cache.resident([source])
        if cached <= pages // EVICTED:
            return cached
        time.sleep(0.1)
    raise CopyFailed(f"the source could not be evicted: {cached:,} of {pages:,} pages stay in the page cache")


def run_one(words):
    """Waits for it; (user + system seconds, context switches) of it and of the kernel's workers for it."""
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   start_new_session=True)
    except OSError as error:
        raise CopyFailed(f"{error.filename}: {error.strerror}") from None
    try:
        said = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait for it again
    process.stderr.close()
    if process.returncode != 0:
        raise CopyFailed(f"{words[0]} ended with {how_it_ended(process.returncode)}: {last_words(said)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_nvcsw + usage.ru_nivcsw


def measure_copy(settings, way, source, target):
    left = make_cold(source, target)
    commands = way.commands(settings, source, target)
    began = time.monotonic()
    spent = [run_one(words) for words in commands]
    seconds = time.monotonic() - began
    if not filecmp.cmp(source, target, shallow=False):
        raise CopyFailed("the copy differs from its source")
    cpu = sum(cpu for cpu, _ in spent)
    return {
        "figures": {"seconds": seconds, "cpu_seconds": cpu, "mb_per_second": settings.bytes / seconds / 1e6,
                    "switches": sum(switches for _, switches in spent)},
        "pages_left": left, "commands": [" ".join(map(str, words)) for words in commands],
    }


def how_cp_copies(folder):
    """Which calls carry the bytes, {way: calls}, by strace(1) and a file of 4 MiB; {} without it."""
    source, target = folder / "copy_traced.source", folder / "copy_traced.target"
    found = {}
    if not shutil.which("strace"):
        return found
    try:
        source.write_bytes(os.urandom(4 << 20))
        for way in (BY_KEY["cp"], BY_KEY["cp-plain"]):
            target.unlink(missing_ok=True)
            words = [word.format(source=source, target=target) for word in way.words]
            done = subprocess.run(["strace", "-e", "trace=read,write,copy_file_range,ioctl", *words],
                                  capture_output=True, text=True, timeout=60)
            found[way.key] = calls_that_copied(done.stderr)
    except (OSError, subprocess.TimeoutExpired):
        pass
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return found


def calls_that_copied(trace):
    """Of strace's lines: the names of the calls that moved at least 64 KiB each, with the size of most of them."""
    sizes = {}
    for name, result in re.findall(r"^(\w+)\(.*\) += (\d+)$", trace, re.MULTILINE):
        if int(result) >= 64 << 10:
            sizes.setdefault(name, []).append(int(result))
    return {name: max(set(values), key=values.count) for name, values in sizes.items()}


def measure(settings, source, record, progress):
    target = settings.data / "copied"
    data = record.data
    try:
        for turn in range(2 * settings.blocks):
            for way in WAYS if turn % 2 == 0 else reversed(WAYS):
                progress.show(f"copy/{settings.size}", way.label)
                if way.key not in data["failures"]:
                    try:
                        run = measure_copy(settings, way, source, target)
                        data["runs"].append({"participant": way.key, "pass": turn} | run)
                    except CopyFailed as error:
                        data["failures"][way.key] = str(error)
                progress.step()
            record.save()
        data["complete"] = True
    except KeyboardInterrupt:
        pass
    finally:
        progress.clear()
        target.unlink(missing_ok=True)
        record.save()


# ---- The report: a function of results.json ----------------------------------------------------------------------


def runs_of(data, key):
    return [] if key in data["failures"] else [run for run in data["runs"] if run["participant"] == key]


def typical(data, key, name):
    return stats.median([run["figures"][name] for run in runs_of(data, key)])


def ratio(data, theirs, measure, ours=OURS):
    def by_pass(key):
        return {run["pass"]: run["figures"][FIGURES[measure]] for run in runs_of(data, key)}
    return stats.bootstrap(stats.paired(by_pass(theirs), by_pass(ours)).values())


def what_cp_does(data, key):
    calls = data["traced"].get(key)
    if not calls:
        return "not traced (no strace here)" if not data["traced"] else "no call that copied was seen"
    return " and ".join(f"{name} of {size >> 10:,} KiB" for name, size in calls.items())


COLUMNS = ["", "seconds", "MB/s", "CPU seconds", "switches"]


def row(data, key):
    return ["  " + BY_KEY[key].label, table.figure(typical(data, key, "seconds")),
            table.figure(typical(data, key, "mb_per_second")), table.figure(typical(data, key, "cpu_seconds")),
            table.number(typical(data, key, "switches"))]


def goals(data):
    """Rows of four words: what, the goal, what was found, met or missed or no decision."""
    found = []
    for theirs in ("cp",):
        interval = ratio(data, theirs, TIME)
        found.append([f"copy/{data['settings']['size']}: {BY_KEY[theirs].label} ÷ io_uring, time with fsync",
                      f">= {GOAL:.2f}", table.interval(interval), stats.goal_verdict(interval, GOAL)])
    return found


def report_text(data):
    keys = [way.key for way in WAYS if runs_of(data, way.key)]
    lines = [f"copy/{data['settings']['size']}    a cold file copied, with fsync",
             *table.columns([COLUMNS, *(row(data, key) for key in keys)]),
             *(f"  {BY_KEY[key].label}: FAILED: {why}" for key, why in data["failures"].items())]
    found = []
    for ours in (OURS, *OTHERS):
        for theirs in THEIRS:
            for measure in FIGURES:
                interval = ratio(data, theirs, measure, ours)
                if interval is not None:
                    found.append([f"    {BY_KEY[theirs].label} ÷ {BY_KEY[ours].label}, {measure}",
                                  table.interval(interval), stats.verdict(interval)])
    lines += [*table.sentences(found), "", f"  cp copied by {what_cp_does(data, 'cp')}; as it comes, by "
              f"{what_cp_does(data, 'cp-plain')}", "", *("  " + line for line in table.sentences(goals(data))), ""]
    if not data["complete"]:
        lines += ["interrupted: what has no six ratios yet is not judged", ""]
    return "\n".join(lines)


# ---- The whole of it ---------------------------------------------------------------------------------------------


def parse(words):
    parser = argparse.ArgumentParser(prog="file_copy.py", allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--data", type=pathlib.Path, default="build/bench-data",
                        help="where the files are, on the disk that is measured (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/bench-copy",
                        help="where results.json goes (%(default)s)")
    parser.add_argument("--size", default="512M", help="of the file: 512M, 2G (%(default)s)")
    parser.add_argument("--blocks", type=int, default=3, help="of A B B A; fewer than 3 are not judged (%(default)s)")
    parser.add_argument("--report", type=pathlib.Path, metavar="FILE", help="print the table of this results.json")
    settings = parser.parse_args(words)
    if not re.fullmatch(r"[1-9][0-9]*[MG]", settings.size) or settings.blocks < 1:
        parser.error("--size is a number and M or G, --blocks is more than 0")
    settings.bytes = int(settings.size[:-1]) * UNITS[settings.size[-1]]
    return settings


def main(words):
    settings = parse(words)
    if settings.report:
        print(report_text(json.loads(settings.report.read_text(encoding="utf-8"))))
        return 0

    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)
    try:
        source = make_source(settings)
        guess = settings.bytes / 400e6 + 0.5
        runs = 2 * settings.blocks * len(WAYS)
        record = Record(settings.results / "results.json", {
            "machine": machine.facts(settings.data),
            "settings": {"size": settings.size, "bytes": settings.bytes, "blocks": settings.blocks},
            "traced": how_cp_copies(settings.data), "runs": [], "failures": {}, "complete": False})
        print("\n".join([*machine.describe(record.data["machine"]), f"procedure    {settings.blocks} blocks, {runs} "
                         f"copies: about {table.duration(runs * guess)}", ""]), flush=True)
        measure(settings, source, record, Progress(runs, guess))
        print(report_text(record.data))
        print(f"raw data: {record.path}")
    except (CopyFailed, OSError) as error:
        print(f"file_copy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not record.data["complete"]:
        return 130
    return 1 if record.data["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

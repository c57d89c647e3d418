#!/usr/bin/env -S python3 -B
"""make ladder: one echo server, one idea of io_uring more at each rung, and what each idea is worth.

    make ladder                                     five minutes
    make ladder CONNECTIONS=16 SIZE=4096 DEPTH=16   another load
    make ladder BLOCKS=6 SECONDS=2                  narrower intervals
    bench/ladder.py --report build/ladder/results.json      the tables of an earlier run again

Each rung keeps what the rungs below it have. Over TCP, where most of a request is TCP's own work and the rungs lie
close together, and over a Unix-domain socket, where they do not. Every run has a fresh server on the first CPU and the
generator, which verifies every byte, on the second; passes go up and down the ladder, A B C .. C B A, and a ratio
compares two runs of one pass. Then all of them again at the same rate, 70 % of the lowest peak: at its peak a faster
server has more to do in each turn of its loop, which makes its requests cheaper; at an equal rate it has not.

The ratio is the CPU time for a request on the rung before ÷ that on this one: above 1 means that this rung is better.
Its median and 95 % interval; one that contains 1 is no difference, and fewer than six ratios are not judged.

results.json is written after each pass and valid at every moment; the tables are computed from it alone. What fails is
a row that says why. Ctrl-C prints what there is. Exit code: 0, 1 (a rung failed), 130 (interrupted).
"""

import argparse
import json
import os
import pathlib
import shlex
import signal
import sys
import tempfile
from dataclasses import dataclass

from measure import load, machine, stats, table
from measure.record import Progress, Record
from measure.servers import Server, ServerFailed, glance

EQUAL_SHARE = 0.7  # of the lowest peak
FULLY_BUSY = 0.95  # of its CPU; below that a rate is no peak
CPUS_FOR_SQPOLL = 3  # server, its polling thread, generator

# ---- The rungs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    key: str
    label: str
    says: str
    program: str = "m3_echo_server"
    submit: str = "batched"
    taskrun: str = "default"
    recv: str = "multishot"
    files: str = "direct"
    before: str = ""  # the key of the row that it is compared with
    at_equal_rate: bool = True

    @property
    def options(self):
        if self.program == "epoll_echo_server":
            return []
        received = ["--recv", self.recv, "--files", self.files]
        if self.program == "m3_echo_server_sqpoll":
            return received
        return ["--submit", self.submit, "--taskrun", self.taskrun, *received]


ROWS = [
    Row("epoll", "epoll (no rung)", program="epoll_echo_server",
        says="epoll_wait, then a recv and a send for each socket that is ready: at least two system calls a request. "
             "What the rungs are to be held against."),
    Row("each", "each", submit="each", recv="single", files="normal",
        says="io_uring used like system calls: an enter for every operation. Look at calls/req: no fewer than epoll, "
             "and each of them does more. Asynchrony alone saves nothing."),
    Row("batched", "batched", recv="single", files="normal", before="each",
        says="one enter submits all that a turn of the loop prepared, and waits. calls/req falls from some to a "
             "fraction of one; CQEs/enter says how many completions share a call."),
    Row("coop", "+ coop", taskrun="coop", recv="single", files="normal", before="batched",
        says="COOP_TASKRUN: when data comes for a receive that waits, the kernel no longer interrupts the thread to "
             "complete it, but does so when the thread enters the kernel next. Interruptions are what is saved, and a "
             "server that waits in the kernel most of the time has few."),
    Row("defer", "+ defer", taskrun="defer", recv="single", files="normal", before="coop",
        says="DEFER_TASKRUN: completions are made only when the thread waits for them, all in one go and without the "
             "locks that a ring with several submitters needs. Look at CQEs/enter, which may rise, and at p50."),
    Row("multishot", "+ multishot", taskrun="defer", files="normal", before="defer",
        says="one receive for a connection's whole life, into buffers that the kernel takes from a ring: no SQE and no "
             "poll to be armed for each message. The other half of the SQEs, the sends, stays; and a buffer must be "
             "taken and given back. What it saves in memory, a buffer for each idle connection, is not in this table."),
    Row("direct", "+ direct", taskrun="defer", before="multishot",
        says="sockets in the ring's own table: no reference to a file taken and dropped for each operation, and no "
             "place in the process's descriptor table at accept and close. Little for long-lived connections. (Up to Linux "
             "6.12 the server has ordinary descriptors here as well, and says why: then this rung is the one before it.)"),
    Row("plain", "direct, default", at_equal_rate=False,
        says="batched, multishot and direct with the default task work: what SQPOLL has, which cannot be combined with "
             "coop or defer, but submitted by enter. No rung; SQPOLL is compared with this row."),
    Row("sqpoll", "SQPOLL", program="m3_echo_server_sqpoll", before="plain", at_equal_rate=False,
        says="a kernel thread looks for SQEs and submits them, so that the server enters the kernel only to wait. It "
             "moves the work to another CPU, and that CPU spins: look at its thread's time, which is part of the CPU "
             "time here. A system call saved is not CPU time saved."),
]
BY_KEY = {row.key: row for row in ROWS}
TITLES = {"tcp": "TCP on the loopback device", "unix": "a UNIX-DOMAIN SOCKET, without the TCP stack"}

# ---- One run -----------------------------------------------------------------------------------------------------


def polling_thread(pid):
    """CPU seconds of the kernel's SQPOLL thread so far, and the CPUs that it may use; None of a ring without one."""
    try:
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            if (thread / "comm").read_text().startswith("iou-sqp"):
                spent = int((thread / "schedstat").read_text().split()[0]) / 1e9
                return {"thread": int(thread.name), "cpu_seconds": spent}
    except (OSError, ValueError, IndexError):
        pass
    return None


def give_polling_thread_a_cpu(settings, pid):
    """The thread does not keep to the server's pin: it may run everywhere, on the generator's CPU too."""
    found = polling_thread(pid)
    if found and settings.sqpoll_cpu is not None:
        try:
            os.sched_setaffinity(found["thread"], {settings.sqpoll_cpu})
        except OSError:
            pass  # a kernel that does not let it be moved: the report has the CPUs that it may use
    return found


def measure_row(settings, transport, row, seed, rate):
    """One run in a fresh process: everything that is known about it, as it goes into results.json."""
    with tempfile.TemporaryDirectory(prefix="ladder-") as folder:  # below /tmp: a socket's path is 107 bytes at most
        where = ["--unix", f"{folder}/socket"] if transport == "unix" else ["--port", "0"]
        command = [settings.build / row.program, *where, *row.options]
        with Server(command, settings.server_cpu) as server:
            options = ["echo", "--connections", settings.connections, "--size", settings.size,
                       "--depth", settings.depth, "--seconds", settings.seconds, "--warmup", settings.warmup,
                       "--seed", seed, "--server-pid", server.pid, *(["--rate", rate] if rate else [])]
            words = load.command(settings.build / "load", server.path or server.port, options, settings.load_cpu)
            poller = give_polling_thread_a_cpu(settings, server.pid)
            try:
                raw = load.run(words, settings.seconds + settings.warmup)
            except load.LoadFailed:
                if not server.is_alive():
                    server.stop()  # says better than the generator what happened
                raise
            polled, cpus = polling_thread(server.pid), glance(server.pid)["cpus"]
            counters = server.stop()
            said = server.said()
    answered = raw["traffic"][0]["verified_all"]
    verified = raw["traffic"][0].get("verified")

    def each(count):
        return count / answered if answered else None
    return {
        "figures": load.figures(raw) | {
            "calls": each(counters["syscalls"]),
            "cqes_per_enter": counters["cqes"] / counters["enters"] if counters["enters"] else None,
            "switches": raw["server"]["context_switches"] / verified if verified else None,
            "poller_us": each((polled["cpu_seconds"] - poller["cpu_seconds"]) * 1e6) if poller and polled else None,
        },
        "cpus": cpus, "counters": counters, "said": said, "load": raw,
        "commands": {"server": shlex.join(server.command), "load": shlex.join(words)},
    }


def measure_passes(settings, transport, part, record, progress):
    """Up and down the ladder. A row that fails is not tried again: it has no figures any more."""
    for turn in range(2 * settings.blocks):
        for key in part["rows"] if turn % 2 == 0 else reversed(part["rows"]):
            row, what = BY_KEY[key], " at an equal rate" if part["rate"] else ""
            progress.show(transport + what, row.label)
            if key not in part["failures"]:
                try:
                    run = measure_row(settings, transport, row, progress.done + 1, part["rate"])
                    part["runs"].append({"row": key, "pass": turn} | run)
                except (ServerFailed, load.LoadFailed) as error:
                    part["failures"][key] = str(error)
            progress.step()
        record.save()


def measure_transport(settings, transport, record, progress):
    part = {"transport": transport, "rate": 0, "rows": [row.key for row in ROWS], "runs": [], "failures": {}}
    record.data["parts"].append(part)
    measure_passes(settings, transport, part, record, progress)
    rows = [row.key for row in ROWS if row.at_equal_rate]
    peaks = [typical(part, key, "rate") for key in rows if runs_of(part, key)]
    if len(peaks) < 2 or settings.no_equal_rate:
        progress.step(2 * settings.blocks * len(rows))
        return
    equal = {"transport": transport, "rate": round(EQUAL_SHARE * min(peaks)), "rows": rows, "runs": [],
             "failures": {key: why for key, why in part["failures"].items() if key in rows}}
    record.data["parts"].append(equal)
    measure_passes(settings, transport, equal, record, progress)


# ---- The report: a function of results.json ----------------------------------------------------------------------


def runs_of(part, key):
    """None of a row that failed: who answers wrongly once has no rate."""
    return [] if key in part["failures"] else [run for run in part["runs"] if run["row"] == key]


def typical(part, key, name):
    return stats.median([run["figures"].get(name) for run in runs_of(part, key)])


def by_pass(part, key, name):
    return {run["pass"]: run["figures"].get(name) for run in runs_of(part, key)}


def cost_ratio(part, before, after):
    """CPU time for a request, `before` ÷ `after`: above 1 means that `after` is better."""
    return stats.bootstrap(stats.paired(by_pass(part, before, "cpu_us"), by_pass(part, after, "cpu_us")).values())


def rate_ratio(part, before, after):
    return stats.bootstrap(stats.paired(by_pass(part, after, "rate"), by_pass(part, before, "rate")).values())


def verdict(ratio):
    words = {"io_uring better": "better", "baseline better": "WORSE"}
    said = stats.verdict(ratio).partition(":")[0]
    return words.get(said, said)


def is_ranked(data, key):
    return key != "sqpoll" or data["machine"]["cpus"] >= CPUS_FOR_SQPOLL


def fewest_cpus():
    return f"not ranked with fewer than {CPUS_FOR_SQPOLL} CPUs: its thread takes one from the server or the generator"


def ratio_words(data, part, key):
    """A row against the one before it."""
    before = BY_KEY[key].before
    if not before or not runs_of(part, before):
        return ["–", ""]
    ratio = cost_ratio(part, before, key)
    return [table.interval(ratio), verdict(ratio) if is_ranked(data, key) else "not ranked"]


def notes(data, part, key):
    runs = runs_of(part, key)
    found = []
    disturbed = sum(bool(run["figures"].get("disturbed")) for run in runs)
    if disturbed:
        found.append(f"{disturbed} of {len(runs)} disturbed")
    limited = sum(run["figures"].get("limit") in ("generator", "perhaps generator") for run in runs)
    if 2 * limited > len(runs):
        found.append("the generator was the limit")
    busy = typical(part, key, "busy")
    if not part["rate"] and busy is not None and busy < FULLY_BUSY:
        found.append(f"busy {table.share(busy)}: this rate is no peak")
    if part["rate"] and (typical(part, key, "rate") or 0) < 0.95 * part["rate"]:
        found.append("did not keep up with that rate")
    polled = typical(part, key, "poller_us")
    if polled is not None:
        found.append(f"its thread {table.figure(polled)} us of that, on CPUs {runs[-1]['cpus'][-1]}")
    if not is_ranked(data, key):
        found.append(fewest_cpus())
    return "; ".join(found)


COLUMNS = ["", "req/s", "calls/req", "CQEs/enter", "switches/req", "CPU us/req", "p50 us", "before ÷ this", ""]


def part_lines(data, part):
    keys = [key for key in part["rows"] if runs_of(part, key)]
    rows = [COLUMNS]
    for key in keys:
        def of(name, key=key):
            return table.figure(typical(part, key, name))
        rows.append(["  " + BY_KEY[key].label, table.number(typical(part, key, "rate")), of("calls"),
                     of("cqes_per_enter"), of("switches"), of("cpu_us"), of("p50"), *ratio_words(data, part, key)])
    # The verdict is words, and words begin at the left.
    numbers = table.columns([row[:-1] for row in rows]) if keys else []
    width = max(map(len, numbers), default=0)
    behind = [[row[-1], notes(data, part, key)] for row, key in zip(rows[1:], keys)]
    tail = ["", *table.sentences(behind)] if keys else []
    lines = [f"{text.ljust(width)}  {words}".rstrip() for text, words in zip(numbers, tail)]
    return lines + [f"  {BY_KEY[key].label}: FAILED: {why}" for key, why in part["failures"].items()]


def whole_ladder(data, part):
    """From the bottom to the top, and the top against epoll."""
    found = []
    for name, before, after in (("the whole ladder, each ÷ direct", "each", "direct"),
                                ("epoll ÷ direct", "epoll", "direct"), ("epoll ÷ multishot", "epoll", "multishot")):
        ratio = cost_ratio(part, before, after)
        if ratio:
            found.append([f"    {name}, CPU time for a request", table.interval(ratio), verdict(ratio)])
    rate = None if part["rate"] else rate_ratio(part, "plain", "sqpoll")
    if rate:
        found.append(["    SQPOLL ÷ direct, default: requests/s", table.interval(rate),
                      verdict(rate) if is_ranked(data, "sqpoll") else fewest_cpus()])
    return table.sentences(found)


def table_text(data, transport):
    lines = [f"==== {TITLES[transport]}", ""]
    for part in (part for part in data["parts"] if part["transport"] == transport):
        lines.append(f"all at {part['rate']:,} req/s, 70 % of the lowest peak; latency from when a request was due"
                     if part["rate"] else "as fast as it goes")
        lines += [*part_lines(data, part), *whole_ladder(data, part), ""]
    return "\n".join(lines)


def head_text(data):
    settings = data["settings"]
    lines = [
        *machine.describe(data["machine"]),
        f"pinning      {data['pins']}",
        f"load         {settings['connections']} connections, {settings['size']} bytes, {settings['depth']} at a time "
        "on each; every byte verified",
        f"procedure    {settings['blocks']} blocks, up and down the ladder; runs of {settings['seconds']:g} s after "
        f"{settings['warmup']:g} s of warm-up, a fresh server for each",
        f"             {data['runs']} runs: about {table.duration(data['estimate_seconds'])}",
        "before ÷ this  CPU time for a request on the rung before ÷ on this one: above 1, this one is better",
        "",
    ]
    return "\n".join(lines)


def wrapped(label, words, width, columns=115):
    """`label` and then the words, in lines that begin behind it."""
    lines, line = [], label.ljust(width)
    for word in words.split():
        if len(line) + len(word) + 1 > columns:
            lines.append(line)
            line = " " * width
        line += " " + word
    return [*lines, line]


def end_text(data):
    lines = ["==== WHAT EACH RUNG CHANGES, AND WHAT TO LOOK FOR", ""]
    for row in ROWS:
        lines += wrapped("  " + row.label, row.says, 18)
    runs = [run for part in data["parts"] for run in part["runs"]]
    disturbed = sum(bool(run["figures"].get("disturbed")) for run in runs)
    if disturbed * 20 > len(runs):
        lines += ["", f"{disturbed} of {len(runs)} runs were DISTURBED by other programs: measure again on a quiet "
                  "machine before believing a ratio"]
    heard = {(BY_KEY[run["row"]].label, run["said"]) for run in runs if run["said"]}
    if heard:  # a server that fell back to something else says so
        lines += ["", "==== WHAT SERVERS SAID", "", *(f"  {label}: {said}" for label, said in sorted(heard))]
    if not data["complete"]:
        lines += ["", "interrupted: runs are missing, and what has no six ratios yet is not judged"]
    return "\n".join([*lines, ""])


def report_text(data):
    transports = dict.fromkeys(part["transport"] for part in data["parts"])
    return "\n".join([head_text(data), *(table_text(data, transport) for transport in transports), end_text(data)])


# ---- The whole of it ---------------------------------------------------------------------------------------------


def parse(words):
    parser = argparse.ArgumentParser(prog="ladder.py", allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/ladder", help="for results.json (%(default)s)")
    parser.add_argument("--connections", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of a message, in bytes (%(default)s)")
    parser.add_argument("--depth", type=int, default=1, help="messages under way on each connection (%(default)s)")
    parser.add_argument("--blocks", type=int, default=3, help="up and down; fewer than 3 are not judged (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="of each run (%(default)s)")
    parser.add_argument("--transport", choices=TITLES, action="append", help="only this one")
    parser.add_argument("--no-equal-rate", action="store_true", help="only as fast as it goes")
    parser.add_argument("--report", type=pathlib.Path, metavar="FILE", help="print the tables of this results.json")
    settings = parser.parse_args(words)
    if min(settings.connections, settings.size, settings.depth, settings.blocks) < 1 or settings.seconds <= 0:
        parser.error("all numbers are more than 0")
    settings.transport = settings.transport or list(TITLES)
    settings.warmup = round(min(1, settings.seconds / 5), 3)
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    cpus = sorted(os.sched_getaffinity(0))
    settings.sqpoll_cpu = cpus[2] if len(cpus) >= CPUS_FOR_SQPOLL else None
    return settings


def describe_plan(settings):
    rows = len(ROWS) + (0 if settings.no_equal_rate else sum(row.at_equal_rate for row in ROWS))
    runs = len(settings.transport) * 2 * settings.blocks * rows
    guess = settings.seconds + settings.warmup + 0.1  # for starting, connecting, stopping
    pins = (f"server on CPU {settings.server_cpu}, generator on CPU {settings.load_cpu}"
            if settings.server_cpu is not None else
            "NOT PINNED: there are fewer than 2 CPUs, and server and generator take them from each other")
    if settings.sqpoll_cpu is not None:
        pins += f", SQPOLL's thread on CPU {settings.sqpoll_cpu}"
    return {
        "machine": machine.facts(), "pins": pins,
        "settings": {name: getattr(settings, name) for name in
                     ("connections", "size", "depth", "blocks", "seconds", "warmup", "transport")},
        "runs": runs, "guess_seconds": guess, "estimate_seconds": runs * guess, "complete": False, "parts": [],
    }


def measure(settings, record, progress):
    """Each transport's tables are printed when they are done."""
    transport = None
    try:
        for transport in settings.transport:
            measure_transport(settings, transport, record, progress)
            progress.clear()
            print(table_text(record.data, transport), flush=True)
        record.data["complete"] = True
    except KeyboardInterrupt:
        progress.clear()
        print(table_text(record.data, transport))
    finally:
        record.save()


def main(words):
    settings = parse(words)
    if settings.report:
        print(report_text(json.loads(settings.report.read_text(encoding="utf-8"))))
        return 0

    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)  # whoever ends this politely gets the tables so far, as with Ctrl-C
    try:
        record = Record(settings.results / "results.json", describe_plan(settings))
        print(head_text(record.data), flush=True)
        measure(settings, record, Progress(record.data["runs"], record.data["guess_seconds"]))
        print(end_text(record.data))
        print(f"raw data: {record.path}")
    except OSError as error:
        print(f"ladder: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not record.data["complete"]:
        return 130
    return 1 if any(part["failures"] for part in record.data["parts"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

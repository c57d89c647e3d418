#!/usr/bin/env -S python3 -B
"""make bench-linked: the same work as one chain, and step by step.

    make bench-linked                    about a minute and a half
    make bench-linked SECONDS=2 BLOCKS=6 narrower intervals
    bench/linked.py --report build/bench-linked/results.json     the tables of an earlier run again

The work is build/m4_linked --mode echo: accept, receive a message, send it back, close. Each client is a new connection
with one message (build/load churn), and every byte is verified. The servers differ in one thing:

    driven     each step is prepared when the completion of the one before it has come
    linked     all steps are one chain, queued before there is a client
    silent     linked, with CQE_SKIP_SUCCESS on all links but the last
    timed      silent, with a LINK_TIMEOUT behind RECV and SEND (--client-timeout 10)

All get the same number of clients a second, 70 % of what the driven one can do, because at its peak a faster server has
more to do in each turn of its loop. A fresh server for each run, on the first CPU, the generator on the second; passes
go A B C D and D C B A, and a ratio compares two runs of one pass. A ratio is driven's CPU time for a request ÷ this
one's: above 1 means that this one is better. Its median and 95 % interval; one that contains 1 is no difference.

Exit code: 0, 1 (a run failed), 130 (interrupted).
"""

import argparse
import json
import pathlib
import shlex
import signal
import sys
import tempfile
from dataclasses import dataclass

from measure import load, machine, stats, table
from measure.record import Progress, Record
from measure.servers import Server, ServerFailed

SHARE_OF_PEAK = 0.7


@dataclass(frozen=True)
class Way:
    key: str
    says: str
    options: tuple


WAYS = [
    Way("driven", "a completion for each step, an enter for nearly each",
        ("--chain", "driven", "--client-timeout", "0")),
    Way("linked", "as many completions, and each of them ends a wait, though there is nothing to do for it",
        ("--client-timeout", "0")),
    Way("silent", "one completion for each client", ("--skip-success", "--client-timeout", "0")),
    Way("timed", "two timers for each client, in the kernel's own hands", ("--skip-success", "--client-timeout", "10")),
]
TITLES = {"tcp": "TCP on the loopback device", "unix": "a UNIX-DOMAIN SOCKET, without the TCP stack"}

# ---- One run -----------------------------------------------------------------------------------------------------


def measure_way(settings, transport, way, seed, rate):
    """One run in a fresh process: everything that is known about it, as it goes into results.json."""
    with tempfile.TemporaryDirectory(prefix="linked-") as folder:  # below /tmp: a socket's path is 107 bytes at most
        where = ["--unix", f"{folder}/socket"] if transport == "unix" else ["--port", "0"]
        command = [settings.build / "m4_linked", *where, "--message", settings.size, "--chains", settings.chains,
                   *way.options]
        with Server(command, settings.server_cpu) as server:
            options = ["churn", "--connections", settings.connections, "--size", settings.size, "--seconds",
                       settings.seconds, "--warmup", settings.warmup, "--seed", seed, "--server-pid", server.pid,
                       *(["--rate", rate] if rate else [])]
            words = load.command(settings.build / "load", server.path or server.port, options, settings.load_cpu)
            raw = load.run(words, settings.seconds + settings.warmup)
            counters = server.stop()
    requests = counters["requests"]
    figures = load.figures(raw)
    figures |= {name: counters[name] / requests for name in ("enters", "sqes", "cqes", "syscalls")}
    return {"way": way.key, "figures": figures, "counters": counters, "load": raw,
            "commands": {"server": shlex.join(server.command), "load": shlex.join(words)}}


def measure_transport(settings, transport, record, progress):
    part = {"transport": transport, "rate": 0, "runs": [], "failures": {}}
    record.data["parts"].append(part)
    progress.show(transport, "how many")
    peak = measure_way(settings, transport, WAYS[0], 1, 0)
    progress.step()
    part["rate"] = round(SHARE_OF_PEAK * peak["figures"]["rate"])
    for turn in range(2 * settings.blocks):
        for way in WAYS if turn % 2 == 0 else reversed(WAYS):
            progress.show(transport, way.key)
            if way.key not in part["failures"]:
                try:
                    part["runs"].append({"pass": turn} | measure_way(settings, transport, way, progress.done + 1,
                                                                     part["rate"]))
                except (ServerFailed, load.LoadFailed) as error:
                    part["failures"][way.key] = str(error)
            progress.step()
        record.save()


# ---- The report: a function of results.json ----------------------------------------------------------------------


def runs_of(part, key):
    """None of a way that failed: who answers wrongly once has no figures."""
    return [] if key in part["failures"] else [run for run in part["runs"] if run["way"] == key]


def typical(part, key, name):
    return stats.median([run["figures"].get(name) for run in runs_of(part, key)])


def ratio(part, key, name="cpu_us"):
    """What driven needs of it for a request, divided by what this one does."""
    def by_pass(which):
        return {run["pass"]: run["figures"].get(name) for run in runs_of(part, which)}
    return stats.bootstrap(stats.paired(by_pass("driven"), by_pass(key)).values())


def verdict(interval):
    words = {"io_uring better": "better", "baseline better": "WORSE"}
    said = stats.verdict(interval).partition(":")[0]
    return words.get(said, said)


COLUMNS = ["", "enters", "SQEs", "CQEs", "calls", "switches", "CPU us", "p50 us", "p99 us", "driven ÷ this: CPU time",
           ""]


def part_lines(part):
    rows = [COLUMNS]
    for way in WAYS:
        if not runs_of(part, way.key):
            continue
        figures = [table.figure(typical(part, way.key, name))
                   for name in ("enters", "sqes", "cqes", "syscalls", "switches", "cpu_us", "p50", "p99")]
        compared = ratio(part, way.key) if way.key != "driven" else None
        rows.append(["  " + way.key, *figures, table.interval(compared), verdict(compared) if compared else ""])
    disturbed = sum(bool(run["figures"].get("disturbed")) for run in part["runs"])
    lines = [f"==== {TITLES[part['transport']]}", "", f"all at {part['rate']:,} clients/s; everything for one client"]
    lines += table.columns(rows)
    lines += [f"  {key}: FAILED: {why}" for key, why in part["failures"].items()]
    if disturbed * 20 > len(part["runs"]):
        lines.append(f"  {disturbed} of {len(part['runs'])} runs were DISTURBED by other programs: measure again")
    return [*lines, ""]


def head_text(data):
    settings = data["settings"]
    return "\n".join([
        *machine.describe(data["machine"]),
        f"pinning      {data['pins']}",
        f"load         {settings['connections']} connections at a time, each new, with one message of "
        f"{settings['size']} bytes; {settings['chains']} chains",
        f"procedure    {settings['blocks']} blocks, A B C D D C B A; runs of {settings['seconds']:g} s, a fresh server "
        f"for each: about {table.duration(data['estimate_seconds'])}",
        "",
        *table.sentences([[f"  {way.key}", way.says] for way in WAYS]),
        "",
    ])


def report_text(data):
    lines = [line for part in data["parts"] for line in part_lines(part)]
    if not data["complete"]:
        lines.append("interrupted: runs are missing, and what has no six ratios yet is not judged")
    return "\n".join([head_text(data), *lines])


# ---- The whole of it ---------------------------------------------------------------------------------------------


def parse(words):
    parser = argparse.ArgumentParser(prog="linked.py", allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/bench-linked",
                        help="for results.json (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="at the same time (%(default)s)")
    parser.add_argument("--chains", type=int, default=64, help="of the server (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of a message, in bytes (%(default)s)")
    parser.add_argument("--blocks", type=int, default=3, help="fewer than 3 are not judged (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="of each run (%(default)s)")
    parser.add_argument("--transport", choices=TITLES, action="append", help="only this one")
    parser.add_argument("--report", type=pathlib.Path, metavar="FILE", help="print the tables of this results.json")
    settings = parser.parse_args(words)
    if min(settings.connections, settings.chains, settings.size, settings.blocks) < 1 or settings.seconds <= 0:
        parser.error("all numbers are more than 0")
    settings.transport = settings.transport or list(TITLES)
    settings.warmup = round(min(1, settings.seconds / 5), 3)
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    return settings


def describe_plan(settings):
    runs = len(settings.transport) * (1 + 2 * settings.blocks * len(WAYS))
    guess = settings.seconds + settings.warmup + 0.1  # for starting, connecting, stopping
    pins = (f"server on CPU {settings.server_cpu}, generator on CPU {settings.load_cpu}"
            if settings.server_cpu is not None else
            "NOT PINNED: there are fewer than 2 CPUs, and server and generator take them from each other")
    return {
        "machine": machine.facts(), "pins": pins,
        "settings": {name: getattr(settings, name) for name in
                     ("connections", "chains", "size", "blocks", "seconds", "warmup", "transport")},
        "runs": runs, "guess_seconds": guess, "estimate_seconds": runs * guess, "complete": False, "parts": [],
    }


def main(words):
    settings = parse(words)
    if settings.report:
        print(report_text(json.loads(settings.report.read_text(encoding="utf-8"))))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data = describe_plan(settings)
    record = Record(settings.results / "results.json", data)
    progress = Progress(data["runs"], data["guess_seconds"])
    failed = ""
    try:
        for transport in settings.transport:
            measure_transport(settings, transport, record, progress)
        data["complete"] = True
    except KeyboardInterrupt:
        pass
    except (ServerFailed, load.LoadFailed) as error:
        failed = str(error)
    progress.clear()
    record.save()
    print(report_text(data))
    if failed:
        print(f"linked.py: {failed}", file=sys.stderr)
        return 1
    if not data["complete"]:
        return 130
    return 1 if any(part["failures"] for part in data["parts"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

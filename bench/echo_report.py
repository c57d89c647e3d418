#!/usr/bin/env -S python3 -B
"""results.json of bench/echo_servers.py as text: the tables, where io_uring loses, the goals.

    bench/echo_report.py build/bench-echo/results.json        prints the report of an earlier run again

Nothing is measured here and nothing is kept in mind: a report is a function of the raw data.
"""

import json
import sys

from file_report import (AS_ASKED, AT_THE_PEAK, FULLY_BUSY, decide, disturbances, generator_was_the_limit, label_of, most,
                         remarks, runs_of, typical, why_disturbed, worker_cpus)
from measure import stats, table
from measure.machine import describe

OURS, THEIRS = "uring", "epoll"
PRIMARY_SHARE = 0.7  # of the lower peak: where the CPU time of a message is compared

TITLES = {
    "ping-pong": "PING-PONG OVER TCP: a connection sends its next message when the last one has come back",
    "pipelined": "PIPELINED OVER TCP: 16 messages under way on each connection",
    "unix": "PING-PONG OVER UNIX-DOMAIN SOCKETS: without TCP the cost of the interface shows",
    "unix-pipelined": "PIPELINED OVER UNIX-DOMAIN SOCKETS",
    "churn": "CHURN: connect, one message, close by RST, and again; a message is a new connection",
    "idle": "IDLE: what a connection costs that is open and says nothing, in bytes",
    "held": "HELD: many connections that all have something to say now and then",
}
WARNINGS = {
    "idle": "own: Private_Dirty at N idle connections, less that at 0, both after a warm-up of 128 connections that\n"
            "sent 100 messages each; ÷ N. kept: the same once the N have gone. kernel: its objects for N connections,\n"
            "both ends of each (the clients live on this machine, and cost the same in both rows). buffers: what lies\n"
            "in sockets.",
}
RATE, CPU, P50, P99 = "rate", "CPU per message", "p50", "p99"
FIGURES = {CPU: "cpu_us", P50: "p50", P99: "p99"}  # what costs: the less the better

# Of ratios: 0.97 where nothing else is said. Measured at the primary share of the lower peak.
GOAL = 0.97
GOALS = {"ping-pong/64/128": 1.00, "unix/64/128": 1.10, "churn/64/16": 1.25, "churn/64/128": 1.25}
CALLS_GOAL, CALLS_FROM = 0.1, 128  # at 128 connections and more
CALLS_OF_EPOLL = 1.95  # where epoll needs two; a little less, because what opening cost is not known so exactly
P95_GOAL_US, P95_CELL = 100_000, "ping-pong/64/128"
CHURN_GOAL = 1000  # new connections a second
IDLE_GOAL, IDLE_CELL = 512, "idle/64/10000"

# ---- One cell, at its peak or at some rate -----------------------------------------------------------------------


def parts_of(data):
    """Everything that has runs: each cell, and each cell at each rate."""
    for cell in data["cells"]:
        yield cell
        yield from cell["at_rates"]


def by_pass(part, key, measure):
    """{pass: what is the better the more there is of it}"""
    if measure == RATE:
        return {run["pass"]: run["figures"]["rate"] for run in runs_of(part, key)}
    return {run["pass"]: 1 / run["figures"][FIGURES[measure]] for run in runs_of(part, key)
            if run["figures"].get(FIGURES[measure])}


def ratio(part, measure, ours=OURS, theirs=THEIRS):
    return stats.bootstrap(stats.paired(by_pass(part, ours, measure), by_pass(part, theirs, measure)).values())


def kept_up(part, key):
    """Or was slower than it should be, or worked off what had waited: not the same work in the same time as the other."""
    return not part.get("rate") or abs((typical(part, key, "rate") or 0) / part["rate"] - 1) <= AS_ASKED


def why_not_ranked(part, measure, interval=None):
    """Why two figures say nothing about the two servers, or None."""
    keys = [key for key in (OURS, THEIRS) if runs_of(part, key)]
    if measure == CPU and part.get("at_rates"):
        return AT_THE_PEAK
    if measure == RATE:
        for key in keys:
            if generator_was_the_limit(part, key):
                return f"not ranked: the generator was the limit of {label_of(part, key)}"
        busy = [typical(part, key, "busy") or 0 for key in keys]
        if min(busy, default=0) < FULLY_BUSY:
            return f"not ranked: busy {' and '.join(table.share(share) for share in busy)} of the time, not 95 %"
    if words := why_disturbed(part, OURS, THEIRS, interval):
        return "not ranked: " + words
    for key in keys:
        if not kept_up(part, key):
            return f"not ranked: {label_of(part, key)} did not keep up with that rate"
        if measure in (P50, P99) and (most(part, key, "late") or generator_was_the_limit(part, key)):
            return "not ranked: the generator was busy or late, so a part of it is its own"
    return None


def measures_of(part):
    """At its peak a server's latency is the length of the queue, which is the number of connections ÷ the rate. What is
    held once is shown, and not compared: two runs are no interval."""
    if part["table"] in ("idle", "held"):
        return ()
    return (CPU, P50, P99) if part.get("rate") else (RATE, CPU)


def compare(part, measure):
    """One ratio and what may be said about it."""
    interval = ratio(part, measure)
    if interval is None:
        return None, "nothing to compare"
    return interval, why_not_ranked(part, measure, interval) or stats.verdict(interval)


# ---- A table -----------------------------------------------------------------------------------------------------

COLUMNS = ("", "msg/s", "MB/s", "p50 us", "p95 us", "p99 us", "CPU us/msg", "calls/msg", "switches/msg", "busy",
           "generator")
IDLE_COLUMNS = ("", "own", "kept", "kernel", "buffers", "sockets", "at 0, MiB", "RSS, MiB")


def row(part, key):
    def of(name):
        return typical(part, key, name)
    if part["table"] == "idle":
        return ["  " + label_of(part, key), table.number(of("own")), table.number(of("kept")),
                table.number(of("kernel")), table.number(of("buffers")), table.figure(of("sockets")),
                table.mebibytes(of("at_zero")), table.mebibytes(of("rss"))]
    return ["  " + label_of(part, key), table.number(of("rate")), table.figure(of("mb_per_second")),
            table.figure(of("p50")), table.figure(of("p95")), table.figure(of("p99")), table.figure(of("cpu_us")),
            table.figure(of("syscalls")), table.figure(of("switches")), table.share(of("busy")),
            table.share(of("generator_busy"))]


def note(part, key):
    """What a reader must know about this row, behind it."""
    runs, notes = runs_of(part, key), []
    disturbed = sum(bool(run["figures"].get("disturbed")) for run in runs)
    if disturbed:
        notes.append(f"{disturbed} of {len(runs)} runs disturbed")
    if generator_was_the_limit(part, key):
        notes.append("generator-bound")
    if most(part, key, "late"):
        notes.append("generator late")
    if not kept_up(part, key):
        notes.append("did not keep up with that rate")
    if part["table"] == "idle" and (grown := runs[-1]["caches"]):
        notes.append("kernel: " + ", ".join(f"{name} {size:,}" for name, size in list(grown.items())[:4]))
    return "; ".join(notes)


def row_lines(part):
    """The rows of those that have a figure, aligned, each with its note; then those that have none, and why."""
    keys = [p["key"] for p in part["participants"] if runs_of(part, p["key"])]
    head = IDLE_COLUMNS if part["table"] == "idle" else COLUMNS
    rows = table.columns([list(head), *(row(part, key) for key in keys)]) if keys else []
    notes = ["", *(note(part, key) for key in keys)]
    return [*(f"{text}  {words}".rstrip() for text, words in zip(rows, notes)),
            *(f"  {label_of(part, key)}: FAILED: {why}" for key, why in part["failures"].items())]


def ratio_name(part, measure):
    ours, theirs = label_of(part, OURS), label_of(part, THEIRS)
    return f"{ours} ÷ {theirs}, {measure}" if measure == RATE else f"{theirs} ÷ {ours}, {measure}"


def ratio_lines(part):
    found = []
    for measure in measures_of(part):
        interval, said = compare(part, measure)
        if interval is not None:
            found.append(["    " + ratio_name(part, measure), table.interval(interval), said])
    return table.sentences(found)


def cell_lines(cell):
    """A heading, aligned rows, and the ratios; then the same at each rate."""
    if cell["impossible"]:
        return [f"{cell['cell']}: not measured: {cell['impossible']}"]
    lines = [f"{cell['cell']}    {cell['title']}", *row_lines(cell), *ratio_lines(cell)]
    for part in cell["at_rates"]:
        lines += [f"  both at {table.number(part['rate'])} msg/s, {table.share(part['share'])} of the lower peak; "
                  "latency from when a message was due", *row_lines(part), *ratio_lines(part)]
    return lines


def noise_lines(cells):
    """A server against itself: once as a member of a cell, and in all neighbouring runs of one server."""
    lines = []
    for cell in cells:
        for part in (cell, *cell["at_rates"]):
            found = [(measure, ratio(part, measure, "again", OURS)) for measure in measures_of(part)]
            where = f" at {table.number(part['rate'])} msg/s" if part.get("rate") else ""
            said = ", ".join(f"{measure} {table.interval(interval)}" for measure, interval in found if interval)
            if said:
                lines.append(f"noise: io_uring against itself ({cell['cell']}{where}): {said}")
    moved = {measure: [] for measure in (RATE, CPU)}
    for cell in cells:
        for participant in cell["participants"]:
            for measure in measures_of(cell):
                values = by_pass(cell, participant["key"], measure)
                moved[measure] += stats.steps([values[turn] for turn in sorted(values)])
    if moved[RATE]:
        said = "; ".join(f"{measure} by {100 * stats.median(found):.1f} % (median), 95 % of them by less than "
                         f"{100 * stats.quantile(found, 0.95):.1f} %" for measure, found in moved.items() if found)
        lines.append(f"noise: from one run of a server to its next: {said}")
    return lines


def table_text(data, kind):
    cells = [cell for cell in data["cells"] if cell["table"] == kind]
    lines = [f"==== {TITLES[kind]}", *WARNINGS.get(kind, "").splitlines(), ""]
    for cell in cells:
        lines += [*cell_lines(cell), ""]
    return "\n".join([*lines, *noise_lines([cell for cell in cells if not cell["impossible"]]), ""])


# ---- Before and behind the tables --------------------------------------------------------------------------------


def head_text(data):
    settings = data["settings"]
    lines = [
        *describe(data["machine"]),
        f"pinning      {data['pins']}",
        f"procedure    {settings['blocks']} blocks A B B A, runs of {settings['seconds']:g} s after a quarter "
        "of that as warm-up, a fresh server for each, every byte verified",
        f"             {data['planned']} cells, {data['runs']} runs: about {table.duration(data['estimate_seconds'])}",
        *(f"left out     {what}" for what in data["thinned"]),
        "ratios       epoll's cost ÷ io_uring's, or the rates the other way round: above 1 means io_uring is better.",
        "             Median and 95 % interval; one that contains 1 is no difference. Rows are medians over the runs.",
        "one cell     make bench-echo CELL=name, with the name as it is printed, e.g. CELL=ping-pong/64/128",
        "",
    ]
    return "\n".join(lines)


def losses(data):
    """Where epoll is better, in the same words as in the tables."""
    found, compared = [], 0
    for cell in data["cells"]:
        for part in (cell, *cell["at_rates"]):
            for measure in measures_of(part):
                interval, said = compare(part, measure)
                compared += interval is not None and interval.judged and not said.startswith("not ranked")
                if said == "baseline better":
                    where = f" at {table.share(part['share'])}" if "share" in part else ""
                    found.append([cell["cell"], ratio_name(part, measure) + where, table.interval(interval)])
    return found, compared


def end_text(data):
    found, compared = losses(data)
    lines = ["==== WHERE EPOLL IS BETTER", ""]
    lines += ["  " + line for line in table.sentences(found)] or ["  in no ratio that was judged"]
    if compared:
        lines += ["", f"  {compared} ratios were judged; of equal servers some 6 in 100 would be called different."]
    if found:
        lines += [f"  One of them again: make bench-echo CELL={found[0][0]} BLOCKS=6"]
    lines += ["", "==== GOALS", "", *(f"  {line}" for line in goal_lines(data)), ""]
    runs = data | {"cells": [part | {"equal_rate": None} for part in parts_of(data)]}
    notes = disturbances(runs) + worker_cpus(runs) + remarks(runs)
    if not data["complete"]:
        notes.append("this run was interrupted: cells are missing")
    if notes:
        lines += ["==== NOTES", "", *(f"  {line}" for line in notes), ""]
    return "\n".join(lines)


# ---- Goals -------------------------------------------------------------------------------------------------------


def primary(cell):
    """The runs that decide what a message costs: those at 70 % of the lower peak; those at the peak where both have no
    other."""
    for part in cell["at_rates"]:
        if part["share"] == PRIMARY_SHARE and all(runs_of(part, key) or part["failures"] for key in (OURS, THEIRS)):
            return part, f"at {table.share(PRIMARY_SHARE)}"
    return cell, "at the peak"


def cost_goals(cell):
    goal = GOALS.get(cell["cell"], GOAL)
    part, where = primary(cell)
    what = f"{cell['cell']}: {ratio_name(part, CPU)} {where}"
    if failed := part["failures"].get(OURS) or cell["failures"].get(OURS):
        return [[what, f">= {goal:.2f}", "–", f"missed: {label_of(cell, OURS)} failed: {failed}"]]
    # 70 % of a peak that was disturbed are 70 % of something else.
    interval = ratio(part, CPU)
    reason = (why_disturbed(cell, OURS, THEIRS, None) or why_not_ranked(part, CPU, interval)
              or next(iter(part["failures"].values()), ""))
    reason = reason.removeprefix("not ranked: ")
    lines = [decide(what, interval, goal, reason)]
    if ratio(cell, RATE) is not None and why_not_ranked(cell, RATE) is None:
        lines.append(decide(f"{cell['cell']}: {ratio_name(cell, RATE)}", ratio(cell, RATE), GOAL))
    return lines


def at_most(what, goal, values, shown, beside=""):
    """A goal for a figure of ours and not for a ratio: met when all runs meet it, missed when none does."""
    if not values:
        return [what, f"<= {shown(goal)}", "–", "no decision: not measured"]
    low, high = min(values), max(values)
    said = "met" if high <= goal else "missed" if low > goal else "no decision"
    seen = shown(stats.median(values)) + (f" [{shown(low)}, {shown(high)}]" if low != high else "")
    return [what, f"<= {shown(goal)}", seen, said + beside]


def figures_of(cell, name):
    return [run["figures"][name] for run in runs_of(cell, OURS) if run["figures"].get(name) is not None]


def calls_goal(cell):
    """Calls alone say little: a server that waits longer for each has fewer. So p50 stands beside them."""
    theirs = typical(cell, THEIRS, "syscalls")
    if cell["connections"] < CALLS_FROM or theirs is None or theirs < CALLS_OF_EPOLL:
        return []
    medians = [table.figure(typical(cell, key, "p50")) for key in (OURS, THEIRS)]
    return [at_most(f"{cell['cell']}: system calls a message, at the peak", CALLS_GOAL, figures_of(cell, "syscalls"),
                    lambda value: f"{value:.3f}",
                    f" (epoll {theirs:.2f}; p50 {medians[0]} us, epoll {medians[1]} us)")]


def churn_goal(cell):
    rates = figures_of(cell, "rate")
    what = f"{cell['cell']}: new connections a second"
    if not rates:
        return [what, f"> {CHURN_GOAL:,}", "–", "no decision: not measured"]
    return [what, f"> {CHURN_GOAL:,}", table.number(stats.median(rates)),
            "met" if min(rates) > CHURN_GOAL else "missed" if max(rates) <= CHURN_GOAL else "no decision"]


def held_goal(cell):
    """Both ends must have been content: the generator ends with a failure at its first one, the server counts."""
    errors = [run["counters"]["errors"] for run in runs_of(cell, OURS)]
    what = f"{cell['cell']}: errors in {cell['seconds']:g} s"
    if cell["failures"].get(OURS):
        return [what, "0", "–", "missed: " + cell["failures"][OURS]]
    if not errors:
        return [what, "0", "–", "no decision: not measured"]
    p99 = table.figure(typical(cell, OURS, "p99"))
    messages = sum(run["figures"]["answered"] for run in runs_of(cell, OURS))
    return [what, "0", str(sum(errors)), ("missed" if any(errors) else "met") +
            f" ({messages:,} messages verified; p99 {p99} us)"]


def goals(data):
    """Rows of four words: what, the goal, what was found, met or missed or no decision."""
    cells = [cell for cell in data["cells"] if not cell["impossible"]]
    with_peak = [cell for cell in cells if cell["table"] not in ("idle", "held")]
    lines = [line for cell in with_peak for line in cost_goals(cell)]
    lines += [line for cell in with_peak if cell["table"] != "churn" for line in calls_goal(cell)]
    for cell in cells:
        if cell["cell"] == P95_CELL:
            lines.append(at_most(f"{cell['cell']}: p95 at the peak, ms", P95_GOAL_US / 1000,
                                 [p95 / 1000 for p95 in figures_of(cell, "p95")], lambda value: f"{value:.1f}"))
        if cell["table"] == "churn":
            lines.append(churn_goal(cell))
        if cell["cell"] == IDLE_CELL:
            lines.append(at_most(f"{cell['cell']}: bytes of the server's own for a connection", IDLE_GOAL,
                                 figures_of(cell, "own"), table.number,
                                 f" (epoll {table.number(typical(cell, THEIRS, 'own'))})"))
        if cell["table"] == "held":
            lines.append(held_goal(cell))
    return lines


def goal_lines(data):
    return table.sentences(goals(data)) or ["none was measured"]


def main(words):
    if len(words) != 1:
        print("usage: echo_report.py results.json", file=sys.stderr)
        return 2
    with open(words[0], encoding="utf-8") as file:
        data = json.load(file)
    print(head_text(data))
    for kind in TITLES:
        if any(cell["table"] == kind for cell in data["cells"]):
            print(table_text(data, kind))
    print(end_text(data))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

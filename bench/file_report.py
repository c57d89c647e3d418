#!/usr/bin/env -S python3 -B
"""results.json of bench/file_servers.py as text: the tables, where io_uring loses, the goals.

    bench/file_report.py build/bench-file/results.json        prints the report of an earlier run again

Nothing is measured here and nothing is kept in mind: a report is a function of the raw data.
"""

import json
import re
import sys
from collections import Counter

from measure import stats, table
from measure.machine import describe

FULLY_BUSY = 0.95  # of its CPU; below that a rate says how long the server waited, not what it can do
WARM_SHARE = 0.25  # of the pages that a cold run may leave in the cache before it is called warm

OURS = ("fixed", "read", "zero-copy")
AGAIN = "fixed-again"  # the same server under another name: what differs is noise
POOL_KEYS = ("pool-16", "pool-64", "pool-256")
TITLES = {
    "cached": "CACHED: every page was in the page cache before each run",
    "cold-direct": "COLD BY O_DIRECT: every server reads past the page cache (sendfile cannot, and is not here)",
    "cold-evict": "COLD BY EVICTION: the page cache was emptied of the files before each run, and looked at",
    "open-close": "OPEN AND CLOSE: no file is kept open (--open-files 0), every page cached",
}
WARNINGS = {
    "cold-direct": "fio is the ceiling of this disk as seen from here. A hypervisor or the disk may hold the blocks in a\n"
                   "memory of its own, so cold is cold for the page cache only: compare rows, and quote no row alone.",
    "cold-evict": "pages A -> B: of the files, in the page cache before and after a run; the most of all runs.\n"
                  "What was said about the disk holds here too.",
}
RATE, PER_CPU, P50, P99 = "rate", "per CPU-second", "p50", "p99"
FIGURES = {RATE: "rate", PER_CPU: "cpu_us", P50: "p50", P99: "p99"}

# ---- One cell ----------------------------------------------------------------------------------------------------


def runs_of(cell, key):
    """None of a server that failed: who answers wrongly once has no rate."""
    return [] if key in cell["failures"] else [run for run in cell["runs"] if run["participant"] == key]


def label_of(cell, key):
    return next((p["label"] for p in cell["participants"] if p["key"] == key), key)


def typical(cell, key, name):
    """The median over the runs of one participant."""
    return stats.median([run["figures"].get(name) for run in runs_of(cell, key)])


def by_pass(cell, key, measure):
    """{pass: what is the better the more there is of it: requests per second, or per second of the server's CPU; of a
    latency, its reciprocal}."""
    name = FIGURES[measure]
    if measure == RATE:
        return {run["pass"]: run["figures"][name] for run in runs_of(cell, key)}
    return {run["pass"]: 1e6 / run["figures"][name] for run in runs_of(cell, key) if run["figures"].get(name)}


def best_of(cell, keys, measure):
    """The one of `keys` with the highest median; None if none has a run."""
    medians = {key: stats.median(by_pass(cell, key, measure).values()) for key in keys}
    return max((key for key in medians if medians[key]), key=medians.get, default=None)


def best_pool(cell, measure=RATE):
    """THE pool of its cell, chosen from the same runs: the choice favours the baseline."""
    return best_of(cell, POOL_KEYS, measure)


COPYING = ("sync", "inline", *POOL_KEYS)  # read into a buffer and send from it, as io_uring does
BASELINES = (*COPYING, "sendfile")


def best_baseline(cell, measure, copying=False):
    return best_of(cell, COPYING if copying else BASELINES, measure)


NEARLY_AS_FAST, NEARLY_AS_CHEAP, FAST_ENOUGH = 0.9, 0.8, 0.5


def contenders(cell):
    """Who is measured again at an equal rate: io_uring, and every baseline that may turn out to be the best there. That is
    one that was nearly as fast, at the peak, as the fastest, or nearly as cheap as the cheapest, or as the cheapest of
    those that copy; for what is best at the peak need not be best below it. But none that is only half as fast as the
    fastest: it would set the rate for all. Not zero copy, for the same reason: on loopback its peak is half of the
    others' (bench/zero_copy.py compares it at an equal rate)."""
    rate = {key: typical(cell, key, "rate") for key in BASELINES if typical(cell, key, "rate")}
    fastest = max(rate.values(), default=0)
    per_cpu = {key: stats.median(by_pass(cell, key, PER_CPU).values()) or 0 for key in rate}
    cheapest = max(per_cpu.values(), default=0)
    cheapest_copying = max((per_cpu[key] for key in rate if key in COPYING), default=0)
    chosen = [key for key in rate if rate[key] >= FAST_ENOUGH * fastest and (
        rate[key] >= NEARLY_AS_FAST * fastest or per_cpu[key] >= NEARLY_AS_CHEAP * cheapest
        or key in COPYING and per_cpu[key] >= NEARLY_AS_CHEAP * cheapest_copying)]
    return [*(key for key in ("fixed", "read") if runs_of(cell, key)), *chosen,
            *([AGAIN] if runs_of(cell, AGAIN) else [])]


def ratio(cell, ours, theirs, measure):
    if theirs is None:
        return None
    return stats.bootstrap(stats.paired(by_pass(cell, ours, measure), by_pass(cell, theirs, measure)).values())


def generator_was_the_limit(cell, key):
    limits = Counter(run["figures"].get("limit") for run in runs_of(cell, key))
    return limits["generator"] + limits["perhaps generator"] > sum(limits.values()) / 2


def most(cell, key, name):
    """More than half of its runs have that mark."""
    runs = runs_of(cell, key)
    return 2 * sum(bool(run["figures"].get(name)) for run in runs) > len(runs)


AS_ASKED = 0.05  # how far from the rate that was asked for a run may be
AT_THE_PEAK = "not ranked: at the peak each did another amount of work; all at one rate stands beside it"


def why_disturbed(cell, ours, theirs, interval):
    """A generator that waits for its CPU sees lower rates and longer latencies: by other programs, or because the kernel
    does the server's work there (a disk's interrupts, with many reads under way). Where only ours had to bear that and is
    better all the same, it is better."""
    if most(cell, theirs, "disturbed"):
        return f"most runs of {label_of(cell, theirs)} were disturbed: something else ran on the generator's CPU"
    if most(cell, ours, "disturbed") and not (interval is not None and interval.judged and interval.low > 1):
        return f"most runs of {label_of(cell, ours)} were disturbed: something else ran on the generator's CPU"
    return None


def why_not_ranked(cell, ours, theirs, measure=RATE, interval=None):
    """Why the two figures say nothing about the two servers, or None."""
    if words := why_disturbed(cell, ours, theirs, interval):
        return "not ranked: " + words
    for key in (ours, theirs):
        if cell.get("rate"):
            found = typical(cell, key, "rate") or 0
            if abs(found / cell["rate"] - 1) > AS_ASKED:
                return f"not ranked: {label_of(cell, key)} answered {table.number(found)}/s and not " \
                       f"{table.number(cell['rate'])}"
        elif generator_was_the_limit(cell, key):
            return f"not ranked: the generator was the limit of {label_of(cell, key)}"
    if measure == PER_CPU:
        return AT_THE_PEAK if cell.get("equal_rate") else None
    if measure in (P50, P99):
        busy_or_late = any(most(cell, key, "late") or generator_was_the_limit(cell, key) for key in (ours, theirs))
        return "not ranked: the generator was busy or late, so a part of it is its own" if busy_or_late else None
    if cell["table"].startswith("cold"):
        return None
    busy = [typical(cell, key, "busy") or 0 for key in (ours, theirs)]
    if min(busy) >= FULLY_BUSY:
        return None
    return f"not ranked: busy {table.share(busy[0])} and {table.share(busy[1])} of the time, not 95 %"


def waits_for_the_device(cell, ours, theirs):
    return cell["table"].startswith("cold") and any((typical(cell, key, "busy") or 0) < FULLY_BUSY
                                                    for key in (ours, theirs))


def pairs(cell):
    """Which ratios a cell gets: (ours, measure, theirs). Where sendfile is the best, fixed also meets the best of those
    that do the same work."""
    if cell["table"] == "open-close":
        return [("direct", measure, other) for other in ("normal", "inline") for measure in (RATE, PER_CPU)]
    found = []
    for ours in (key for key in OURS if runs_of(cell, key)):
        for measure in (RATE, PER_CPU):
            best = best_baseline(cell, measure)
            found.append((ours, measure, best))
            if best == "sendfile" and ours == "fixed":
                found.append((ours, measure, best_baseline(cell, measure, copying=True)))
    return found


def compare(cell, ours, measure, theirs):
    """One ratio and what may be said about it."""
    interval = ratio(cell, ours, theirs, measure)
    said = stats.verdict(interval)
    if interval is not None and cell["table"] == "open-close":
        said = said.replace("io_uring", label_of(cell, ours)).replace("baseline", label_of(cell, theirs))
    if interval is None:
        return None, said
    if reason := why_not_ranked(cell, ours, theirs, measure, interval):
        return interval, reason
    if measure == RATE and waits_for_the_device(cell, ours, theirs):
        said += " (device-bound)"
    return interval, said


# ---- A table -----------------------------------------------------------------------------------------------------

COLUMNS = ("", "req/s", "MB/s", "p50 us", "p99 us", "CPU us/req", "calls/req", "busy", "RSS MiB")


def row(cell, key):
    def of(name):
        return typical(cell, key, name)
    return ["  " + label_of(cell, key), table.number(of("rate")), table.figure(of("mb_per_second")),
            table.figure(of("p50")), table.figure(of("p99")), table.figure(of("cpu_us")), table.figure(of("syscalls")),
            table.share(of("busy")), table.mebibytes(of("rss"))]


def note(cell, key):
    """What a reader must know about this row, behind it."""
    runs = runs_of(cell, key)
    notes = ["the pool of this cell"] if key == best_pool(cell) else []
    disturbed = sum(bool(run["figures"].get("disturbed")) for run in runs)
    if disturbed:
        notes.append(f"{disturbed} of {len(runs)} runs disturbed")
    if runs and generator_was_the_limit(cell, key):
        notes.append("the generator was the limit")
    if runs and 2 * sum(bool(run["figures"].get("late")) for run in runs) > len(runs):
        notes.append("the generator was late: its latencies are partly its own")
    if runs and cell.get("rate") and typical(cell, key, "rate") < 0.95 * cell["rate"]:
        notes.append("did not keep up with that rate")
    notes += page_notes(cell, [run for run in runs if "pages" in run])
    return "; ".join(notes)


def page_notes(cell, runs):
    """What happened to the page cache while a cold run lasted."""
    if not runs or not cell["table"].startswith("cold"):
        return []
    before = max(run["pages"]["before"] for run in runs)
    after = max(run["pages"]["after"] for run in runs)
    pages = runs[0]["pages"]["all"]
    if cell["table"] == "cold-direct":
        return [f"NOT PAST THE CACHE: {after:,} pages came into it"] if after > max(64, pages // 1000) else []
    notes = [f"pages {before:,} -> {after:,} ({table.share(after / pages)})"]
    asked = stats.median([run["figures"]["answered"] for run in runs]) * -(-cell["size"] // 4096)
    ahead = stats.median([run["pages"]["after"] for run in runs]) / asked if asked else 0
    if ahead > 1.2:
        notes.append(f"read ahead: {ahead:.1f} pages for each that was asked for")
    if cell["random"] and after > pages * WARM_SHARE:
        notes.append("partly WARM at the end")
    if any(run["once"] for run in runs):
        notes.append(f"{cell['files']:,} files once each")
    return notes


def row_lines(cell):
    """The rows of those that have a figure, aligned, each with its note; then those that have none, and why."""
    keys = [p["key"] for p in cell["participants"] if runs_of(cell, p["key"])]
    rows = table.columns([list(COLUMNS), *(row(cell, key) for key in keys)]) if keys else []
    notes = ["", *(note(cell, key) for key in keys)]
    return [*(f"{text}  {words}".rstrip() for text, words in zip(rows, notes)),
            *(f"  {label_of(cell, key)}: FAILED: {why}" for key, why in cell["failures"].items())]


def ratio_lines(cell, wanted):
    found = []
    for ours, measure, theirs in wanted:
        interval, said = compare(cell, ours, measure, theirs)
        if interval is not None:
            found.append([f"    {label_of(cell, ours)} ÷ {label_of(cell, theirs)}, {measure}", table.interval(interval),
                          said])
    return table.sentences(found)


def equal_rate_pairs(equal):
    """The baseline with the least CPU time may be another one here than at the peak."""
    others = [p["key"] for p in equal["participants"] if p["key"] not in (*OURS, AGAIN)]
    return [(ours, PER_CPU, best_of(equal, others, PER_CPU)) for ours in OURS if runs_of(equal, ours)]


def cell_lines(cell):
    """A heading, aligned rows, and the ratios."""
    if cell["impossible"]:
        return [f"{cell['cell']}: not measured: {cell['impossible']}"]
    lines = [f"{cell['cell']}    {cell['title']}", *row_lines(cell), *ratio_lines(cell, pairs(cell))]
    equal = cell["equal_rate"]
    if equal:
        lines += [f"  all at {table.number(equal['rate'])} req/s, 70 % of the lowest of their peaks; latency from when a "
                  "request was due", *row_lines(equal), *ratio_lines(equal, equal_rate_pairs(equal))]
    return lines


def noise_lines(cells):
    """A server against itself: once as a member of a cell, and in all neighbouring runs of one server."""
    lines = []
    for cell in cells:
        for part in (cell, cell["equal_rate"]):
            if part and runs_of(part, AGAIN) and runs_of(part, "fixed"):
                of_rate, of_cpu = (ratio(part, AGAIN, "fixed", measure) for measure in (RATE, PER_CPU))
                where = f" at {table.number(part['rate'])} req/s" if part.get("rate") else ""
                lines.append(f"noise: io_uring fixed against itself ({cell['cell']}{where}): rate "
                             f"{table.interval(of_rate)}, per CPU-second {table.interval(of_cpu)}")
    moved = {measure: [] for measure in (RATE, PER_CPU)}
    for cell in cells:
        for participant in cell["participants"]:
            for measure, found in moved.items():
                values = by_pass(cell, participant["key"], measure)
                found += stats.steps([values[turn] for turn in sorted(values)])
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
    measured = [cell for cell in cells if not cell["impossible"]]
    return "\n".join([*lines, *noise_lines(measured), ""])


# ---- Before and behind the tables --------------------------------------------------------------------------------


def head_text(data):
    settings = data["settings"]
    lines = [
        *describe(data["machine"]),
        f"pinning      {data['pins']}",
        f"procedure    {settings['blocks']} blocks A B B A, runs of {settings['seconds']:g} s after "
        f"{settings['warmup']:g} s of warm-up (0.3 s where files stay open, and with answers of 1 MiB and more), a fresh "
        "server for each, every byte verified",
        f"             {data['planned']} cells, {data['runs']} runs: about {table.duration(data['estimate_seconds'])}",
        *(f"left out     {what}" for what in data["thinned"]),
        "ratios       ours ÷ the best baseline's: above 1 means io_uring is better. Median and 95 % interval; one that",
        "             contains 1 is no difference. Rows are medians over the runs.",
        "one cell     make bench-file CELL=name, with the name as it is printed, e.g. CELL=cached/random-4K/100",
        "",
    ]
    return "\n".join(lines)


def losses(data):
    """Where the baseline is better, in the same words as in the tables."""
    found, compared = [], 0
    for cell in data["cells"]:
        if cell["impossible"] or cell["table"] == "open-close":
            continue
        wanted = [(cell, "", pair) for pair in pairs(cell)]
        if cell["equal_rate"]:
            wanted += [(cell["equal_rate"], " at an equal rate", pair) for pair in equal_rate_pairs(cell["equal_rate"])]
        for runs, where, (ours, measure, theirs) in wanted:
            interval, said = compare(runs, ours, measure, theirs)
            compared += interval is not None and interval.judged and not said.startswith("not ranked")
            if said.startswith("baseline better"):
                found.append([cell["cell"], f"{label_of(cell, ours)} ÷ {label_of(cell, theirs)}, {measure}{where}",
                              table.interval(interval)])
    return found, compared


def all_runs(data):
    for cell in data["cells"]:
        for part in (cell, cell["equal_rate"] or {"runs": []}):
            for run in part["runs"]:
                yield cell, run


def disturbances(data):
    """Verdicts of a busy machine are verdicts about the machine."""
    runs = [bool(run["figures"].get("disturbed")) for _, run in all_runs(data)]
    if sum(runs) * 20 <= len(runs):
        return []
    return [f"{sum(runs)} of {len(runs)} runs were disturbed (the generator waited for its CPU): measure again on a quiet "
            "machine before believing a verdict or a goal"]


def worker_cpus(data):
    """CPUs that threads of a pinned server may use besides its own: io-wq workers do not inherit the pin."""
    if data["server_cpu"] is None:
        return []
    strangers = {}
    for cell, run in all_runs(data):
        for cpus in {cpus for sample in run.get("samples", []) for cpus in sample["cpus"]}:
            if cpus != str(data["server_cpu"]):
                strangers.setdefault(cpus, set()).add(label_of(cell, run["participant"]))
    return [f"threads of {', '.join(sorted(labels))} may run on CPUs {cpus}, whatever the pin of the process says "
            "(workers of the kernel, io-wq); their time is counted, but the generator may have lost some"
            for cpus, labels in strangers.items()]


def remarks(data):
    """What servers said on stderr: one that could not do what its row claims says so there. What differs only in its
    numbers is said once."""
    heard = {}
    for cell, run in all_runs(data):
        if run.get("said"):
            label = label_of(cell, run["participant"])
            heard.setdefault((label, re.sub(r"\d+", "N", run["said"])), f"{label} said: {run['said']}")
    return sorted(heard.values())


def end_text(data):
    lines = ["==== WHERE THE BASELINE IS BETTER", ""]
    found, compared = losses(data)
    lines += ["  " + line for line in table.sentences(found)] or ["  in no ratio that was judged"]
    if compared:
        lines += ["", f"  {compared} ratios were judged; of equal servers some 6 in 100 would be called different."]
    lines += ["", "==== GOALS", "", *(f"  {line}" for line in goal_lines(data)), ""]
    notes = disturbances(data) + worker_cpus(data) + remarks(data)
    if not data["complete"]:
        notes.append("this run was interrupted: cells are missing")
    if notes:
        lines += ["==== NOTES", "", *(f"  {line}" for line in notes), ""]
    return "\n".join(lines)


# ---- Goals -------------------------------------------------------------------------------------------------------


def decide(what, interval, goal, reason=None):
    """A line of the list: what, the goal, what was found, and whether that is enough."""
    if interval is None:
        return [what, f">= {goal:.2f}", "–", f"no decision: {reason or 'not measured'}"]
    said = stats.goal_verdict(interval, goal)
    if reason:
        said = f"no decision: {reason}"
    elif not interval.judged:
        said += f": {interval.count} ratios"
    return [what, f">= {goal:.2f}", table.interval(interval), said]


def device_goals(cell):
    def faster(ours, theirs):
        return stats.paired(by_pass(cell, ours, RATE), by_pass(cell, theirs, RATE))
    limited = "the generator was the limit" if generator_was_the_limit(cell, "fixed") else None
    fio = limited or (cell["failures"].get("fio-128") if not runs_of(cell, "fio-128") else None)
    pool, cheapest_pool = best_pool(cell), best_pool(cell, PER_CPU)
    depth_and_inline = stats.paired(faster("fixed", "inline"), faster("fio-128", "fio-1"))
    return [
        decide("cold 4 KiB: fixed ÷ fio at queue depth 128", stats.bootstrap(faster("fixed", "fio-128").values()), 0.85,
               fio),
        decide("cold 4 KiB: (fixed ÷ inline) ÷ (fio depth 128 ÷ depth 1)",
               stats.bootstrap(depth_and_inline.values()), 1, fio),
        decide(f"cold 4 KiB: fixed ÷ best pool ({label_of(cell, pool)}), rate", ratio(cell, "fixed", pool, RATE), 0.95,
               limited),
        decide(f"cold 4 KiB: fixed ÷ best pool ({label_of(cell, cheapest_pool)}), per CPU-second",
               ratio(cell, "fixed", cheapest_pool, PER_CPU), 1.5),
    ]


def cached_goal(cell):
    """At the equal rate, where that was measured: there all do the same work in the same time."""
    part, theirs, where = cell, best_baseline(cell, PER_CPU), ""
    for ours, _, other in equal_rate_pairs(cell["equal_rate"]) if cell["equal_rate"] else []:
        if ours == "fixed" and other:
            part, theirs, where = cell["equal_rate"], other, " at an equal rate"
    interval = ratio(part, "fixed", theirs, PER_CPU)
    reason = (why_not_ranked(part, "fixed", theirs, PER_CPU, interval) or "") if interval else ""
    return decide(f"{cell['cell']}: fixed ÷ {label_of(part, theirs)}, per CPU-second{where}", interval, 0.95,
                  reason.removeprefix("not ranked: "))


def goals(data):
    """Rows of four words: what, the goal, what was found, met or missed or no decision."""
    cells = {cell["cell"]: cell for cell in data["cells"] if not cell["impossible"]}
    lines = []
    if "cold-direct/random-4K/256" in cells:
        lines += device_goals(cells["cold-direct/random-4K/256"])
    lines += [cached_goal(cell) for cell in cells.values() if cell["table"] == "cached"]
    return lines


def goal_lines(data):
    return table.sentences(goals(data)) or ["none was measured"]


def main(words):
    if len(words) != 1:
        print("usage: file_report.py results.json", file=sys.stderr)
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

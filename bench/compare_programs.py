"""The raw data of the measurements without a server as findings: the ceilings, zero copy, the ring, the log's ordering,
file copies. Pure functions, as compare_servers.py."""

import re

import ceilings as ceilings_program
import file_copy
import linked
from compare_findings import counter, counters, failure, finding, pair, rate_ceiling, sections_result, short
from measure import stats, table
from measure.stats import Interval

# ---- The ceilings themselves -------------------------------------------------------------------------------------


def the_ceilings(data, _ceilings):
    failures = [failure("ceilings", one["cell"], f"{one['label']}, perf", one["why"]) for one in data["profiles"]
                if "why" in one]
    notes = [f"shares of the servers' CPU time: {data['perf']}"] if data["perf"] else []
    return sections_result(failures=failures, notes=notes,
                           texts=[("CEILINGS: what nobody gets below here", ceilings_program.report_text(data))])


# ---- Zero copy ---------------------------------------------------------------------------------------------------

WAYS = ("SEND_ZC", "SEND_ZC registered")
ZERO_COPY_TITLES = {"udp-hot": "UDP, hot", "udp-cold": "UDP, cold", "tcp-loopback": "TCP on loopback"}
ZERO_COPY_GOAL, ZERO_COPY_GOAL_SIZE = 1.8, 60 << 10
PRIMARY_SIZES = (4 << 10, ZERO_COPY_GOAL_SIZE, 64 << 10)


def size_text(size):
    return f"{size >> 10} KiB" if size >= 1024 else f"{size} bytes"


def zero_copy(data, ceilings):
    """bench_zero_copy, its head says how."""
    found, lines = [], []
    for part in data["tables"]:
        for row in part["rows"]:
            found += [one for way in WAYS if (one := zero_copy_finding(data, part, row, way, ceilings))]
        for way in WAYS:
            points = [{"size": row["size"]} | row["ways"][way]["send_over_this"] for row in part["rows"]
                      if "send_over_this" in row["ways"].get(way, {})]
            if points:
                lines.append({"table": part["table"], "title": ZERO_COPY_TITLES.get(part["table"], part["table"]),
                              "way": way, "crossover": part["crossover"].get(way, 0), "points": points})
    refused = {(part["table"], way, row["ways"][way]["refused"]) for part in data["tables"] for row in part["rows"]
               for way in row["ways"] if "refused" in row["ways"][way]}
    failures = [failure("zero-copy", part, way, f"refused: {why}") for part, way, why in sorted(refused)]
    notes = [f"there is no device to send to ({data['obstacle']}), so UDP went over loopback, where the kernel "
             "copies"] if data["obstacle"] else []
    return sections_result(found, failures, zero_copy_goals(data), plots={"zero_copy": lines}, notes=notes)


def interval_of(data, row, way):
    said = row["ways"].get(way, {}).get("send_over_this")
    return Interval(said["low"], said["median"], said["high"], 2 * data["blocks"]) if said else None


def medians(row, way, name):
    return stats.median([run[name] for run in row["ways"][way].get("runs", [])])


def zero_copy_finding(data, part, row, way, ceilings):
    interval = interval_of(data, row, way)
    if interval is None:
        return None
    ours, theirs = (medians(row, name, "cpu_ns") for name in (way, "SEND"))
    notified = sum(run["notified"] for run in row["ways"][way]["runs"])
    copied = sum(run["copied"] for run in row["ways"][way]["runs"])
    not_copied = 1 - copied / notified if notified else None
    if notified and copied == notified:
        mechanism = "zero-copy-loopback"
        why = "Every notification says that the kernel copied all the same, and each is one completion more."
    elif interval.median < 1:
        mechanism = "zero-copy-small"
        why = f"{table.share(not_copied)} went without a copy, but a copy of {size_text(row['size'])} is cheaper " \
              "than a second completion."
    else:
        mechanism = "zero-copy"
        why = f"{table.share(not_copied)} of the sends copied nothing, as the kernel's notifications say."
    copying = ceilings.memcpy("cold" if part["table"] == "udp-cold" else "hot")
    return finding(
        "zero-copy", f"zero-copy/{part['table']}/{row['size']}",
        f"{ZERO_COPY_TITLES.get(part['table'], part['table'])}, {size_text(row['size'])}", way, "SEND",
        "CPU time a send", interval, group="ways", values=pair(ours, theirs, "ns"),
        primary=way == WAYS[1] and row["size"] in PRIMARY_SIZES,
        counters=counters(counter("sent without a copy (%)", None if not_copied is None else 100 * not_copied, 0)),
        # Of less than a page most of a send is not the bytes.
        ceiling=rate_ceiling("memcpy of these bytes (above 100 %: faster than one copy)", copying,
                             row["size"] / ours * 1e9 if ours else None, row["size"] / theirs * 1e9 if theirs else None)
        if row["size"] >= 16 << 10 else None,
        mechanism=mechanism, why=why, command="make bench-zero-copy")


def zero_copy_goals(data):
    found = []
    for part in data["tables"]:
        if part["table"] != "udp-hot" and part["table"] != "udp-cold":
            continue
        interval = next((interval_of(data, row, WAYS[1]) for row in part["rows"] if row["size"] == ZERO_COPY_GOAL_SIZE),
                        None)
        what = f"zero copy of 60 KiB, {ZERO_COPY_TITLES[part['table']]}: SEND ÷ SEND_ZC registered, CPU time"
        said = "no decision: there is no device here that does not copy" if data["obstacle"] else \
            stats.goal_verdict(interval, ZERO_COPY_GOAL)
        found.append([what, f">= {ZERO_COPY_GOAL:.2f}", table.interval(interval), said])
    return found


def zero_copy_servers(data, _ceilings):
    """zero_copy.py: the file server that does not copy against the one that does."""
    found = []
    for result in data["sizes"]:
        said = result["load"]["ratios"]["server_cpu"]
        blocks = result["load"]["blocks"]
        interval = Interval(said["low"], said["median"], said["high"], 2 * len(blocks))

        def cpu(places, blocks=blocks):
            return stats.median([block[place]["server_cpu_us_per_message"] for block in blocks for place in places])
        sends, copied = (result["counters"][0].get(name) or 0 for name in ("zc_sends", "zc_copied"))
        found.append(finding(
            "zero-copy", f"zero-copy/servers/{result['size']}",
            f"files of {result['size']}iB over TCP on loopback, cached",
            "m4_zero_copy", "m2_file_server", f"CPU time a request, both at {table.number(result['rate'])}/s", interval,
            group="ways", values=pair(cpu((0, 3)), cpu((1, 2)), "µs"), primary=result["size"] in ("4K", "64K"),
            counters=counters(counter("sends asked to copy nothing", sends, 0),
                              counter("of them copied all the same", copied, None)),
            mechanism="zero-copy-loopback",
            why=f"On loopback the kernel copied {table.share(copied / sends) if sends else 'none'} of the sends that "
                "were to be without a copy, and each has a second completion.", command="make bench-zero-copy"))
    return sections_result(found)


# ---- Linked against driven ---------------------------------------------------------------------------------------

LINKED_COUNTERS = {"enters": "enters a client", "cqes": "completions a client", "switches": "context switches a client",
                   "p50": "p50 (µs)"}


def linked_chains(data, _ceilings):
    found = []
    for part in data["parts"]:
        for way in linked.WAYS[1:]:
            ratio = linked.ratio(part, way.key)
            if ratio is not None:
                found.append(linked_finding(part, way, ratio))
    failures = [failure("linked", part["transport"], key, why) for part in data["parts"]
                for key, why in part["failures"].items()]
    return sections_result(found, failures, texts=[("LINKED: the same work as one chain, and step by step",
                                                    linked.report_text(data))])


def linked_finding(part, way, ratio):
    def of(key, name):
        return linked.typical(part, key, name)
    counted = {name: (of(way.key, name), of("driven", name)) for name in LINKED_COUNTERS}
    disturbed = sum(bool(run["figures"].get("disturbed")) for run in part["runs"])
    return finding(
        "linked", f"linked/{part['transport']}", f"accept, receive, send, close over {part['transport']}", way.key,
        "driven", f"CPU time a client, all at {table.number(part['rate'])}/s", ratio, group="ways",
        why_not="not ranked: most runs were disturbed by other programs" if 2 * disturbed > len(part["runs"]) else None,
        values=pair(of(way.key, "cpu_us"), of("driven", "cpu_us"), "µs"), primary=way.key == "silent",
        counters=counters(*(counter(words, *counted[name]) for name, words in LINKED_COUNTERS.items())),
        mechanism="chain", why=f"{way.says[0].upper()}{way.says[1:]}: {short(counted['enters'][0])} enters a client "
        f"against {short(counted['enters'][1])}, {short(counted['cqes'][0])} completions against "
        f"{short(counted['cqes'][1])}.", command="make bench-linked")


# ---- The ring against liburing -----------------------------------------------------------------------------------

RING_GOAL, INSTRUCTIONS_GOAL = 1.0, 1.6
BATCHES = (1, 8, 32, 128)
INSTRUCTION_LINES = ("sqe next_sqe", "cqe harvest", "submit")  # what a server does; the others are in the table


def ring_times(processes):
    """nop_round_trips: Google Benchmark's JSON of each process. {(who, batch): [[ns of each block] of each process]}"""
    times = {}
    for number, process in enumerate(processes):
        for run in process.get("benchmarks", []):
            if (name := re.match(r"nop/(\w+)/batch:(\d+)/block:(\d+)", run["name"])):
                who = times.setdefault((name[1], int(name[2])), {})
                block = who.setdefault(number, {})
                block[int(name[3])] = block.get(int(name[3]), 0) + run["cpu_time"]
    return times


def ring_ratio(times, who, batch):
    """As nop_round_trips computes it: the median of the blocks is a process's, and processes are what is drawn."""
    theirs, ours = times.get(("liburing", batch)), times.get((who, batch))
    if not theirs or not ours:
        return None
    return stats.bootstrap([stats.median(stats.paired(theirs[n], ours[n]).values())
                            for n in sorted(ours) if n in theirs])


def ring_ns(times, who, batch):
    every = [value for blocks in times.get((who, batch), {}).values() for value in blocks.values()]
    return stats.median(every) / 2 / batch if every else None  # two runs in a block


def ring(data, _ceilings):
    """`data`: {processes: Google Benchmark's JSON of each, instructions: what bench_instructions printed, outputs}"""
    times = ring_times(data.get("processes", []))
    found, goals = [], []
    for batch in BATCHES:
        for who, label in (("ours", "this ring layer"), ("ours_with_sq_array", "the same with an SQ array")):
            ratio = ring_ratio(times, who, batch)
            if ratio is None:
                continue
            found.append(finding(
                "ring", f"ring/nop/{batch}", f"{batch} NOPs an enter", label, "liburing", "CPU time a NOP", ratio,
                group="library", values=pair(ring_ns(times, who, batch), ring_ns(times, "liburing", batch), "ns"),
                primary=who == "ours",
                mechanism="user-space half", why="The kernel's half is the same in both; the setup flag NO_SQARRAY, "
                "which this liburing does not know, is the difference between the two lines of ours." if batch > 1 else
                "The kernel's half is the same in both, and is nearly all of it.", command="make bench"))
            if who == "ours":
                goals.append([f"ring, {batch} NOPs an enter: liburing ÷ ours, CPU time", f">= {RING_GOAL:.2f}",
                              table.interval(ratio), stats.goal_verdict(ratio, RING_GOAL)])
    instructions = parse_instructions(data.get("instructions", ""))
    for line, (ours, theirs, ratio) in instructions.items():
        if line in INSTRUCTION_LINES:
            goals.append([f"ring, user-space instructions, {line}: liburing ÷ ours", f">= {INSTRUCTIONS_GOAL:.2f}",
                          f"{ratio:.2f} (exact)", "met" if ratio >= INSTRUCTIONS_GOAL else "missed"])
        same = Interval(ratio, ratio, ratio, stats.LEAST_RATIOS)  # two runs agree to the digit
        found.append(finding("ring", f"ring/instructions/{line}", f"user-space instructions: {line}", "this ring layer",
                             "liburing", "instructions, counted", same, exact=True, group="library",
                             values=pair(ours, theirs, "instructions"),
                             primary=line in INSTRUCTION_LINES, mechanism="instructions",
                             why="Counted by callgrind, the same in each run; bench/README.md says where they are "
                             "saved and where more are spent.", command="make bench-instructions"))
    notes = [] if found else ["liburing-dev is not installed: there is nothing to compare with"]
    return sections_result(found, goals=goals, notes=notes, texts=data.get("texts", []))


def parse_instructions(text):
    """{line: (ours, liburing's, ratio)} of what bench_instructions prints."""
    pattern = r"^(\S.*?)\s+ours\s+([\d.]+)\s+liburing \S+\s+([\d.]+)\s+ratio\s+([\d.]+)"
    return {name: (float(ours), float(theirs), float(ratio))
            for name, ours, theirs, ratio in re.findall(pattern, text, re.MULTILINE)}


# ---- The log's ordering ------------------------------------------------------------------------------------------

ORDERING_PRIMARY = ((128, 16), (4096, 128))  # bytes, records in flight


def ordering(data, _ceilings):
    """bench/ordering.cpp: a list of runs, in the order in which they ran."""
    cells = {}
    for run in data:
        cells.setdefault((run["bytes"], run["in_flight"]), {}).setdefault(run["order"], []).append(run)
    found = []
    for (size, depth), ways in cells.items():
        for way in ("drain", "link"):
            for measure, name, better in (("records a second", "records_per_second", "more"),
                                          ("CPU time a record", "cpu_us", "less")):
                found += ordering_finding(size, depth, ways, way, measure, name, better)
    return sections_result(found)


def ordering_finding(size, depth, ways, way, measure, name, better):
    mine, wait = ways.get(way, []), ways.get("wait", [])
    pairs = list(zip(mine, wait))
    if not pairs:
        return []
    ratio = stats.bootstrap([a[name] / b[name] if better == "more" else b[name] / a[name] for a, b in pairs
                             if a[name] and b[name]])

    def of(runs, what):
        return stats.median([run[what] for run in runs])
    fsyncs = [of(runs, "fsyncs") for runs in (mine, wait)]
    return [finding(
        "ordering", f"ordering/{size}/{depth}", f"records of {size_text(size)}, {depth} in flight",
        f"fsync by {way}", "fsync after its writes", measure, ratio, group="ways",
        values=pair(of(mine, name), of(wait, name), "/s" if better == "more" else "µs"),
        primary=better == "more" and (size, depth) in ORDERING_PRIMARY,
        counters=counters(counter("fsyncs a record", *fsyncs),
                          counter("SQEs a record", of(mine, "sqes"), of(wait, "sqes")),
                          counter("enters a record", of(mine, "enters"), of(wait, "enters")),
                          counter("p50 (µs)", of(mine, "p50_us"), of(wait, "p50_us"))),
        mechanism="ordering", why=f"{short(fsyncs[0])} fsyncs a record against {short(fsyncs[1])}, "
        f"{short(of(mine, 'enters'))} enters against {short(of(wait, 'enters'))}.",
        command="make bench-ordering")]


# ---- File copies -------------------------------------------------------------------------------------------------


def file_copies(data, ceilings):
    cell = f"copy/{data['settings']['size']}"
    found = []
    for ours in (file_copy.OURS, *file_copy.OTHERS):
        for theirs in file_copy.THEIRS:
            for measure, name in file_copy.FIGURES.items():
                ratio = file_copy.ratio(data, theirs, measure, ours)
                if ratio is not None:
                    found.append(copy_finding(data, cell, ours, theirs, measure, name, ratio, ceilings))
    failures = [failure("copy", cell, file_copy.BY_KEY[key].label, why) for key, why in data["failures"].items()]
    return sections_result(found, failures, file_copy.goals(data), texts=[
        ("FILE COPY: a cold file, with fsync", file_copy.report_text(data))])


def copy_finding(data, cell, ours, theirs, measure, name, ratio, ceilings):
    def of(key, what):
        return file_copy.typical(data, key, what)
    cpu = [of(key, "cpu_seconds") for key in (ours, theirs)]
    switches = [of(key, "switches") for key in (ours, theirs)]
    how = "" if theirs == "dd" else f" It copies by {file_copy.what_cp_does(data, theirs)}."
    if theirs == "dd":
        how = " It reads and writes 1 MiB at a time."
    inside = " Inside the kernel: the bytes do not pass through a buffer of its own." \
        if "copy_file_range" in how else ""
    memcpy = ceilings.memcpy("cold")
    return finding(
        "copy", cell, f"a cold file of {data['settings']['size']}iB copied, with fsync", file_copy.BY_KEY[ours].label,
        file_copy.BY_KEY[theirs].label, measure, ratio, values=pair(of(ours, name), of(theirs, name), "s"),
        primary=ours == file_copy.OURS and measure == file_copy.TIME,
        counters=counters(counter("CPU seconds", *cpu), counter("context switches", *switches),
                          counter("MB/s", of(ours, "mb_per_second"), of(theirs, "mb_per_second"))),
        ceiling=rate_ceiling("memcpy of a cold area, which has no disk behind it", memcpy,
                             of(ours, "mb_per_second") * 1e6, of(theirs, "mb_per_second") * 1e6)
        if measure == file_copy.TIME else None,
        mechanism="copy-in-kernel" if inside else "copy-program",
        why=f"{short(cpu[0])} CPU seconds against {short(cpu[1])}, {table.number(switches[0])} context "
            f"switches against {table.number(switches[1])}.{how}{inside}",
        command=f"make bench-copy SIZE={data['settings']['size']} BLOCKS={data['settings']['blocks']}")

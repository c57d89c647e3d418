"""results.json of make compare as a page and as Markdown. Pure functions: a report is a function of the data.

Both are made of the same blocks, in the order in which a reader who distrusts them would ask: what came out, where
io_uring loses, where it wins, the pictures, the tables, how large the noise is, the goals, how to measure it again.
"""

import html as escaping

import echo_servers
import file_servers
from compare_findings import interval_text, short
from measure import machine, table

NO_MATPLOTLIB = 4  # exit code of compare_plots.py
# Of a full run; the others are in its tables.
HEADLINES = {"files": file_servers.QUICK, "echo": echo_servers.QUICK}
SHOWN_ROWS = 10  # of a long table
MARKS = {"better": "▲", "worse": "▼", "same": "=", "unjudged": "?", "unranked": "–", "missing": "–"}

# In the order of the page; each with the sentence that is true of all of its rows.
MECHANISMS = {
    "copy": ("Bytes are copied that sendfile does not copy",
             "io_uring has no sendfile: a file goes through a buffer, and every byte is copied twice."),
    "nothing-to-batch": ("One client: nothing to batch",
                         "What io_uring saves is shared between operations that wait at the same time. Here is one."),
    "hot-buffer": ("Large messages: many buffers against one",
                   "The epoll server receives into one buffer and sends from it at once; a ring's turn fills many."),
    "turns": ("Latency below the peak", "Whoever came first in a turn of the loop waits for those who came with it."),
    "churn": ("A new connection for each message",
              "Opening and closing is the kernel's work, however it is asked for."),
    "memory": ("Memory of an idle connection", "Bytes of the server's own, from /proc/PID/smaps_rollup."),
    "queue-depth": ("How many reads are under way at once",
                    "A device answers many reads in the time of one; a loop that waits for each asks for one."),
    "threads": ("A thread for each read", "A pool keeps as many reads under way, and pays for it in switches."),
    "calls": ("System calls", "One enter carries what would be many calls. What the calls ask for remains."),
    "arming": ("What an operation costs besides its call",
               "With fewer calls than the other makes, and still dearer. A receive that finds nothing becomes a poll; what "
               "comes wakes it; task work receives, and tries once more until there is nothing left; each completion is "
               "an entry to write and to read. Where system calls are cheap, that is more than they cost."),
    "threshold": ("Zero copy below its threshold", "Nothing was to be sent without a copy here."),
    "zero-copy": ("Zero copy where the device allows it", "The kernel's notifications say that nothing was copied."),
    "zero-copy-small": ("Zero copy of little",
                        "A second completion for each send costs more than copying so few bytes."),
    "zero-copy-loopback": ("Zero copy on loopback", "Whoever receives on the same machine could read the sender's "
                           "memory, so the kernel copies all the same, and says so in each notification."),
    "chain": ("Chains", "The kernel starts the next step by itself; whether that is cheaper depends on who is woken."),
    "ordering": ("Ordering by the kernel", "An fsync behind its writes: waited for, drained, or linked."),
    "copy-in-kernel": ("A copy inside the kernel",
                       "copy_file_range moves pages within the page cache, or shares blocks."),
    "copy-program": ("Copying a file",
                     "Blocks in flight at the same time against one read and one write after another."),
    "user-space half": ("The ring layer's own half", "A NOP does nothing, so what is left is the ring."),
    "instructions": ("The ring layer's own instructions", "Counted, not sampled."),
    "unexplained": ("Not explained", ""),
    "": ("Other", ""),
}

# The matrix of cells, one grid for each: what is compared, in the words with which its findings' measure begins.
GRIDS = [
    ("files", "cached", "io_uring fixed", "CPU time", "Files in the page cache: CPU time a request"),
    ("files", "cold-direct", "io_uring fixed", "requests", "Cold files, past the page cache: requests a second"),
    ("files", "cold-direct", "io_uring fixed", "CPU time", "Cold files, past the page cache: CPU time a request"),
    ("files", "cold-evict", "io_uring fixed", "requests", "Cold files, through the page cache: requests a second"),
    ("files", "cold-evict", "io_uring fixed", "CPU time", "Cold files, through the page cache: CPU time a request"),
    ("echo", "ping-pong", "io_uring", "CPU time", "Echo over TCP, one message under way: CPU time a message"),
    ("echo", "pipelined", "io_uring", "CPU time", "Echo over TCP, 16 messages under way: CPU time a message"),
    ("echo", "unix", "io_uring", "CPU time", "Echo over Unix-domain sockets: CPU time a message"),
    ("echo", "unix-pipelined", "io_uring", "CPU time", "The same, 16 messages under way: CPU time a message"),
]
LOADS = [*file_servers.WORKLOADS, *echo_servers.SIZES]  # in this order
LEAST_CELLS = 6  # fewer are no grid

READING = (
    "A ratio is the baseline's cost ÷ io_uring's (or io_uring's rate ÷ the baseline's): **above 1 io_uring is "
    "better**. It is the median over pairs of runs, each pair from one pass through the servers (A B, then B A), in "
    "brackets the 95 % bootstrap interval. An interval that contains 1 is `no difference`. Fewer than six ratios are not "
    "judged. CPU time a request is compared at the same offered rate where that was measured, and not ranked where one "
    "of the two answered at another rate; the generator may be busy then. A rate is not ranked where the load generator "
    "was the limit, or a server had CPU time to spare; with cold files, where servers wait for a device, it is "
    "(`device-bound`). A latency is not ranked where the generator was busy or late. What servers sent was verified to "
    "the last byte, or there is no figure.")


# ---- What is in it -----------------------------------------------------------------------------------------------


def is_headline(data, one):
    if not one["primary"]:
        return False
    return not data["full"] or one["section"] not in HEADLINES or one["cell"] in HEADLINES[one["section"]]


def primary_share(one):
    """Echoes are also compared at 50 and 90 % of the lower peak, and at the peak; the grid has those at 70 %."""
    return one["section"] != "echo" or one["primary"]


def grids(data):
    """What the whole matrix says, for a table and for a picture: [{title, connections, rows: [(load, [finding or
    None])]}]. Of several baselines the best, that is, the one with the lowest ratio."""
    found = []
    for section, kind, ours, words, title in GRIDS:
        cells = {}
        for one in data["findings"]:
            if (one["section"], one["ours"], one["group"]) != (section, ours, "baseline") or one["ratio"] is None or \
                    not one["measure"].startswith(words) or not primary_share(one):
                continue
            table_name, load, connections = one["cell"].split("/")
            key = load, int(connections)
            if table_name == kind and better_known(one, cells.get(key)):
                cells[key] = one
        if len(cells) >= LEAST_CELLS:
            loads = [load for load in LOADS if any(key[0] == load for key in cells)]
            connections = sorted({number for _, number in cells})
            found.append({"title": title, "connections": connections,
                          "rows": [(load, [cells.get((load, number)) for number in connections]) for load in loads]})
    return found


def better_known(one, other):
    """Whether `one` says more than `other`: what was compared at an equal rate first, then the better baseline."""
    def rank(finding):
        return "at the peak" in finding["measure"], finding["ratio"]["median"]
    return other is None or rank(one) < rank(other)


def against_others(found):
    return [one for one in found if one["group"] in ("baseline", "library")]


def in_state(found, *states):
    return [one for one in found if one["state"] in states]


def count_words(found):
    def of(*states):
        return len(in_state(found, *states))
    return (f"{of('better')} better, {of('worse')} worse, {of('same')} no difference, "
            f"{of('unjudged', 'unranked', 'missing')} not judged or not ranked")


def summary_rows(data):
    """For the terminal: the verdict table without its reasons."""
    rows = [[f"{MARKS[one['state']]} {one['cell']}", f"{one['ours']} against {one['theirs']}: {one['measure']}",
             interval_text(one["ratio"]), one["said"]]
            for one in data["findings"] if is_headline(data, one)]
    failed = [f"FAILED  {row['section']} {row['cell']} {row['who']}: {row['why']}" for row in data["failures"]]
    return [*table.sentences(rows), *failed]


def share_of_ceiling(one):
    found = one["ceiling"]
    if not found or found["ours"] is None:
        return ""
    return " / ".join(table.share(found[who]) for who in ("ours", "theirs") if found[who] is not None)


def value_text(one):
    values = one["values"]
    if not values:
        return "–"
    return f"{short(values['ours'])} / {short(values['theirs'])} {values['unit']}"


def measured_rows(found):
    """The figures themselves, and each row's own reason, with the counters that show it."""
    return [[one["cell"], f"{one['ours']} against {one['theirs']}", one["measure"], interval_text(one["ratio"]),
             value_text(one), one["why"] or "–"] for one in found]


MEASURED_HEAD = ["cell", "who", "measure", "ratio", "values", "why"]


# ---- Blocks ------------------------------------------------------------------------------------------------------
#
# ("h2"|"h3", text)   ("p", text)   ("table", head, rows, class of each row or None)   ("pre", summary, text)
# ("tables", pairs of title and text)   ("img", name, caption)   ("list", texts)   ("more", summary, head, rows, classes): a table that is folded up


def blocks(data, pictures):
    return [
        *head_blocks(data),
        *verdict_blocks(data),
        *grid_blocks(data),
        *failure_blocks(data),
        *grouped_blocks(data, "worse", "Where io_uring loses", "the other is better"),
        *grouped_blocks(data, "better", "Where io_uring wins", "io_uring is better"),
        *picture_blocks(pictures),
        *ways_blocks(data),
        *goal_blocks(data),
        *noise_blocks(data),
        *undecided_blocks(data),
        *table_blocks(data),
        *reproduce_blocks(data),
    ]


def kind_of_machine(facts):
    kind = f"a virtual machine ({facts['hypervisor']})" if facts.get("hypervisor") else "a physical machine"
    return f"{facts['cpus']} CPUs of {kind}, {facts['cpu']}, Linux {facts['kernel']}"


def head_blocks(data):
    facts = data["machine"]
    mode = "everything" if data["full"] else "a fixed selection (make compare-full measures everything)"
    limits = ", ".join(f"{name} {value}" for name, value in facts.get("limits", {}).items())
    found = [("p", f"Measured on {kind_of_machine(facts)}; {facts['date']}; {mode}."),
             ("pre", "machine, kernel, limits, commit",
              "\n".join([*machine.describe(facts), f"pinning      {facts.get('pins', '–')}",
                         f"limits       {limits}"]))]
    if not data["complete"]:
        parts = [f"{one['title']} ({one['status']}{': ' + one['why'] if one['why'] else ''})"
                 for one in data["sections"] if one["status"] != "measured"]
        found.append(("p", f"**This report is not complete.** Missing or partial: {'; '.join(parts)}."))
    if len({one["full"] for one in data["sections"] if "full" in one}) > 1:
        found.append(("p", "Some sections are from a full run and some from a selection; the last table says which."))
    if len({commit_of(one) for one in data["sections"] if "machine" in one}) > 1:
        found.append(("p", "The sections were measured at different commits; the last table says at which."))
    return [*found, ("p", READING)]


def commit_of(section):
    git = section.get("machine", {}).get("commit", {})
    return git.get("commit", "–") + (" and changes" if git.get("dirty") else "")


def verdict_blocks(data):
    ours = [one for one in against_others(data["findings"]) if is_headline(data, one)]
    everything = against_others(data["findings"])
    return [
        ("h2", "Verdicts"),
        ("p", f"Against what does the job without io_uring (the ring layer: against liburing): {count_words(ours)} in "
              "this table; in all comparisons that were made, latencies and further servers included: "
              f"{count_words(everything)}. "
              "Of equal servers some 6 in 100 would be called different."
              + (" Of the file and echo servers this table has the cells of `make bench-file` and `make bench-echo`, "
                 "which were chosen before; the grids below it have all of them." if data["full"] else "")),
        *verdict_tables(data, ours),
        ("p", "*Of the ceiling*: how near the two come to what cannot be had for less, ours and then theirs: for CPU "
              "time, that of a bare recv and send which wait for nothing ÷ the server's; for cold reads, the server's "
              "rate ÷ fio's at queue depth 128 (with 256 reads under way a server may exceed it); for sends and copies, "
              "bytes a second ÷ memcpy's. Blank: no ceiling was measured."),
    ]


VERDICT_HEAD = ["", "workload", "ours", "against", "measure", "ratio", "verdict", "of the ceiling", "why"]


def verdict_tables(data, found):
    """One for each section, so that a reader finds the workload that is like his own."""
    tables = []
    for section in data["sections"]:
        rows = [one for one in found if one["section"] == section["name"]]
        if rows:
            title = section["title"]
            tables += [("h3", title[0].upper() + title[1:]), ("table", VERDICT_HEAD, [
                [MARKS[one["state"]], f"{one['title']} (`{one['cell']}`)", one["ours"], one["theirs"], one["measure"],
                 interval_text(one["ratio"]), one["said"], share_of_ceiling(one), one["why"]] for one in rows],
                [one["state"] for one in rows])]
    return tables or [("p", "Nothing was measured.")]


def grid_blocks(data):
    found = grids(data)
    if not found:
        return []
    result = [("h2", "Every cell at a glance"),
              ("p", "Rows are sizes, columns are connections; against the best baseline of the cell, which is named where "
                    "there are several. At an equal rate where that was measured, else at the peak. In parentheses: not "
                    "ranked or not judged, the last tables say why. A dash: there is no such cell, or no figure of it "
                    "(see *What was not measured*).")]
    for grid in found:
        several = len({one["theirs"] for _, row in grid["rows"] for one in row if one}) > 1
        result += [("h3", grid["title"]),
                   ("table", ["", *(table.number(number) for number in grid["connections"])],
                    [[load, *(grid_cell(one, several) for one in row)] for load, row in grid["rows"]], None)]
    return result


def grid_cell(one, several):
    if one is None:
        return "–"
    theirs = f" {one['theirs'].removeprefix('epoll ')}" if several else ""
    if one["state"] in ("unranked", "unjudged"):
        return f"({one['ratio']['median']:.2f}){theirs}"
    return f"{MARKS[one['state']]} {interval_text(one['ratio'])}{theirs}"


def failure_blocks(data):
    """What failed, and what cannot exist on this machine."""
    rows = [*data["failures"], *data["absent"]]
    if not rows:
        return []
    return [("h2", "What was not measured"),
            ("table", ["section", "cell", "who", "why"],
             [[row["section"], row["cell"] or "all of it", row["who"], row["why"]] for row in rows],
             ["failed"] * len(data["failures"]) + ["missing"] * len(data["absent"]))]


def grouped_blocks(data, state, title, nothing):
    """Every comparison with that verdict, put together by mechanism, the one farthest from 1 first."""
    found = in_state(against_others(data["findings"]), state)
    if not found:
        return [("h2", title), ("p", f"In no comparison that was judged {nothing}.")]
    return [("h2", title),
            ("p", f"{len(found)} comparisons; every one of them, also those that are not in the table above."),
            *by_mechanism(found)]


def by_mechanism(found):
    result = []
    for key, (title, words) in MECHANISMS.items():
        rows = [one for one in found if one["mechanism"] == key]
        if not rows:
            continue
        rows.sort(key=lambda one: one["ratio"]["median"], reverse=rows[0]["state"] == "better")
        likely = sum("likely" in one["why"] for one in rows)
        if likely:
            words += f" In {likely} of {len(rows)} rows the reason is only likely: nothing that was counted shows it."
        result += [("h3", title), *([("p", words.strip())] if words else []),
                   *long_table(MEASURED_HEAD, measured_rows(rows), [one["state"] for one in rows])]
    return result


def long_table(head, rows, states):
    """The first ones at once, the others for whoever wants to see them."""
    if len(rows) <= SHOWN_ROWS + 2:
        return [("table", head, rows, states)]
    return [("table", head, rows[:SHOWN_ROWS], states[:SHOWN_ROWS]),
            ("more", f"{len(rows) - SHOWN_ROWS} more", head, rows[SHOWN_ROWS:], states[SHOWN_ROWS:])]


def ways_blocks(data):
    """Ideas of io_uring against each other."""
    found = [one for one in data["findings"] if one["group"] == "ways"]
    if not found:
        return []
    result = [("h2", "Ideas of io_uring against each other"),
              ("p", "Not against epoll: one way of using io_uring against another. Here a ratio above 1 praises the "
                    f"first named. {count_words(found)}.")]
    for state, title in (("worse", "Ideas that cost more than they bring"), ("better", "Ideas that pay"),
                         ("same", "No difference")):
        rows = in_state(found, state)
        if rows:
            rows.sort(key=lambda one: (one["section"], one["ratio"]["median"]))
            result += [("h3", title), ("table", ["cell", "who", "measure", "ratio", "values", "why"],
                                       [[one["cell"], f"{one['ours']} against {one['theirs']}", one["measure"],
                                         interval_text(one["ratio"]), value_text(one), one["why"]] for one in rows],
                                       [one["state"] for one in rows])]
    return result


def undecided_blocks(data):
    result = []
    for states, title, words in (
            (("same",), "No difference", "The interval contains 1."),
            (("unranked",), "Measured and not ranked", "With the reason: the generator was the limit, a server was not "
             "busy, or something else ran on the machine."),
            (("unjudged", "missing"), "Not judged", "Fewer than six ratios.")):
        rows = in_state(against_others(data["findings"]), *states)
        if rows:
            result += [("h2", title), ("p", words),
                       *long_table(["cell", "who", "measure", "ratio", "values", "said"],
                                   [[one["cell"], f"{one['ours']} against {one['theirs']}", one["measure"],
                                     interval_text(one["ratio"]), value_text(one), one["said"]] for one in rows],
                                   [one["state"] for one in rows])]
    return result


CAPTIONS = {
    "ratios": "Every verdict as a point with its interval. Right of the line at 1 io_uring is better.",
    "cells": "Every cell: the ratio with its interval over the number of connections, a line for each size. Above the "
             "line at 1 io_uring is better.",
    "cold": "Cold random reads a second, by server. The line is what fio reads from the same file in the same passes.",
    "file-connections": "Requests a second at the peak, over the number of connections. Hollow: the generator was the "
                        "limit, so this is a lower bound.",
    "connections": "Messages a second at the peak, over the number of connections; the bars are the lowest and the "
                   "highest run. Hollow: the generator was the limit, so this is a lower bound.",
    "latency": "What a client waits at the same offered rate, from when its message was due. Both axes are "
               "logarithmic: the right one shows the slowest one in a thousand.",
    "ladder": "One idea more at each rung: CPU time of a message; each point is a run.",
    "zero-copy": "SEND's CPU time ÷ SEND_ZC's over the size of a message. Where the line crosses 1, zero copy begins "
                 "to pay.",
}


def picture_blocks(pictures):
    if not pictures["svg"]:
        return [("h2", "Pictures"), ("p", f"There are none: {pictures['why']}. The tables have all of the numbers.")]
    names = [name for name in CAPTIONS if name in pictures["svg"]]
    return [("h2", "Pictures"), *(("img", name, CAPTIONS[name]) for name in names)]


def goal_blocks(data):
    if not data["goals"]:
        return []
    rows = {word: [row for row in data["goals"] if row[3].startswith(word)] for word in ("missed", "no decision", "met")}
    words = ", ".join(f"{len(found)} {word}" for word, found in rows.items())
    found = [("h2", "Goals"),
             ("p", "Those that this project set itself. Met when the whole interval lies at or above the goal, missed "
                   f"when all of it lies below, else no decision. {words}.")]
    head = ["what", "goal", "found", ""]
    if rows["missed"]:
        found.append(("table", head, rows["missed"], ["worse"] * len(rows["missed"])))
    for word, state in (("no decision", "same"), ("met", "better")):
        found += long_table(head, rows[word], [state] * len(rows[word])) if rows[word] else []
    return found


def noise_blocks(data):
    rows = data["noise"]
    found = [("h2", "Noise"), ("p", "The same server against itself, as if it were two: so far from 1 a ratio lies here "
                                    "by chance. How far a figure lies from that of the next run of the same server stands "
                                    "at the end of each table below.")]
    found.append(("table", ["section", "cell", "measure", "ratio"], rows, None) if rows else
                 ("p", "It was not measured in the sections that are here."))
    if data["notes"]:
        found.append(("list", data["notes"]))
    return found


def tables_text(data):
    """The same for a file of its own, beside the Markdown."""
    return "\n".join(f"######## {title}\n\n{text}\n" for _, title, text in data["texts"])


def table_blocks(data):
    return [("h2", "Tables"), ("p", "As the measuring programs print them, every server in every cell."),
            ("tables", [(title, text) for _, title, text in data["texts"]])]


MAKE_NAMES = {"files": "file", "echo": "echo", "mixed": "mixed"}  # those that can measure a single cell


def reproduce_blocks(data):
    failed = [f"make bench-{MAKE_NAMES[row['section']]} CELL={row['cell']}" for row in data["failures"]
              if row["section"] in MAKE_NAMES and row["cell"]]
    commands = list(dict.fromkeys([*(one["command"] for one in data["findings"] if one["command"]), *failed]))
    status = [[one["name"], one["status"] + (", kept from before" if one.get("kept") else ""), one.get("started", "–"),
               table.duration(one["seconds"]) if "seconds" in one else "–",
               "full" if one.get("full") else "selection", commit_of(one), one["why"] or "–"]
              for one in data["sections"]]
    raw = [path for one in data["sections"] for path in one["raw"]]
    return [
        ("h2", "Measure it again"),
        ("p", "Any single cell by one command, on a machine that does nothing else, and with DATA=folder if the files "
              "were elsewhere than in build/. It measures the cell as the full run does: its peak, and then 70 % of that "
              "peak, which may be another rate than here. bench/*.md says how each of them measures; the raw data has the "
              "two commands of every single run."),
        ("pre", f"{len(commands)} commands", "\n".join(commands)),
        ("table", ["section", "status", "measured", "took", "run", "commit", "why"], status, None),
        ("pre", "what was run for this report",
         "\n".join(command for one in data["sections"] for command in one.get("commands", []))),
        ("p", f"Raw data: {', '.join(raw) if raw else 'none'}."),
    ]


# ---- As Markdown -------------------------------------------------------------------------------------------------


def markdown(data, pictures):
    found = ["# io_uring against what does the job without it", ""]
    for block in blocks(data, pictures):
        found += [*MARKDOWN[block[0]](*block[1:]), ""]
    return "\n".join(found)


def markdown_cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def markdown_table(head, rows, _states):
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines]


MARKDOWN = {
    "h2": lambda text: [f"## {text}"],
    "h3": lambda text: [f"### {text}"],
    "p": lambda text: [text],
    "list": lambda texts: [f"- {text}" for text in texts],
    "pre": lambda title, text: [f"{title}:", "", "```", *text.splitlines(), "```"],
    "img": lambda name, caption: [f"![{caption}]({name}.svg)", "", caption],
    "table": markdown_table,
    "tables": lambda _: ["They are in [tables.txt](tables.txt)."],
    "more": lambda title, *table_of: [f"<details><summary>{title}</summary>", "", *markdown_table(*table_of), "",
                                      "</details>"],
}

# ---- As a page ---------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; margin: 0 auto; padding: 1rem 1.5rem 4rem;
  max-width: 84rem; background: #fff; }
h1 { font-size: 1.7rem; margin: 1rem 0 .5rem; } h2 { font-size: 1.3rem; margin: 2.2rem 0 .4rem; padding-top: .6rem;
  border-top: 2px solid #1a1a1a; } h3 { font-size: 1.05rem; margin: 1.4rem 0 .2rem; }
p { max-width: 68rem; margin: .4rem 0; } li { max-width: 68rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #ddd; }
th { border-bottom: 1px solid #1a1a1a; font-weight: 600; } td.ratio { white-space: nowrap; font-weight: 600; }
td.cell, td code { white-space: nowrap; }
tr td:first-child { padding-left: .4rem; }
tr.better { box-shadow: inset 4px 0 #0b62a4; } tr.worse { box-shadow: inset 4px 0 #c8501e; background: #fdf5f1; }
tr.same { box-shadow: inset 4px 0 #999; } tr.unranked, tr.unjudged, tr.missing { color: #666; }
tr.failed { box-shadow: inset 4px 0 #a00; }
pre { font: 12px/1.4 "DejaVu Sans Mono", monospace; background: #f5f5f5; padding: .7rem; overflow-x: auto; margin: .4rem
0; } code { font: 0.92em "DejaVu Sans Mono", monospace; background: #f2f2f2; padding: 0 .2em; }
figure { margin: 1rem 0 2rem; } figure svg { max-width: 100%; height: auto; } figcaption { color: #444; max-width:
60rem; } summary { cursor: pointer; font-weight: 600; margin: .5rem 0; } nav a { margin-right: 1.2rem; }
"""


def html(data, pictures):
    found = blocks(data, pictures)
    titles = [block[1] for block in found if block[0] == "h2"]
    links = "".join(f'<a href="#{anchor(title)}">{escaping.escape(title)}</a> ' for title in titles)
    body = "\n".join(PAGE[block[0]](pictures, *block[1:]) for block in found)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
            'content="width=device-width, initial-scale=1">\n<title>io_uring compared</title>\n'
            f"<style>{STYLE}</style>\n"
            f"</head>\n<body>\n<h1>io_uring against what does the job without it</h1>\n<nav>{links}</nav>\n{body}\n"
            "</body>\n</html>\n")


def anchor(title):
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def inline(text):
    """Escaped, with what Markdown's **, * and ` mean."""
    text = escaping.escape(str(text))
    for mark, tag in (("**", "strong"), ("`", "code")):
        parts = text.split(mark)
        if len(parts) % 2 == 1:
            text = "".join(part if i % 2 == 0 else f"<{tag}>{part}</{tag}>" for i, part in enumerate(parts))
    if text.startswith("*") and text.count("*") == 2:
        _, word, rest = text.split("*")
        text = f"<em>{word}</em>{rest}"
    return text


def page_table(_pictures, head, rows, states):
    cells = "".join(f"<th>{escaping.escape(word)}</th>" for word in head)
    lines = [f"<tr>{cells}</tr>"]
    for number, row in enumerate(rows):
        name = f' class="{states[number]}"' if states else ""
        columns = "".join(f'<td{ratio_class(head[i])}>{inline(word)}</td>' for i, word in enumerate(row))
        lines.append(f"<tr{name}>{columns}</tr>")
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def page_more(pictures, title, *table_of):
    return f"<details><summary>{escaping.escape(title)}</summary>{page_table(pictures, *table_of)}</details>"


def ratio_class(column):
    return f' class="{column}"' if column in ("ratio", "cell") else ""


def page_pre(_pictures, title, text):
    return f"<details><summary>{escaping.escape(title)}</summary><pre>{escaping.escape(text)}</pre></details>"


def page_image(pictures, name, caption):
    return f"<figure>{embedded(name, pictures['svg'][name])}<figcaption>{inline(caption)}</figcaption></figure>"


def embedded(name, svg):
    """The picture as a part of the page: without its prolog."""
    return f'<!-- {name} -->\n{svg[svg.index("<svg"):]}'


PAGE = {
    "h2": lambda _, text: f'<h2 id="{anchor(text)}">{escaping.escape(text)}</h2>',
    "h3": lambda _, text: f"<h3>{escaping.escape(text)}</h3>",
    "p": lambda _, text: f"<p>{inline(text)}</p>",
    "list": lambda _, texts: "<ul>" + "".join(f"<li>{inline(text)}</li>" for text in texts) + "</ul>",
    "pre": page_pre,
    "img": page_image,
    "table": page_table,
    "more": page_more,
    "tables": lambda pictures, pairs: "\n".join(page_pre(pictures, title, text) for title, text in pairs),
}

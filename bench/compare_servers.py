"""The raw data of the measurements of servers as findings: files, echo, mixed, the ladder. Pure functions.

The ratios are computed by the reports of the measuring programs themselves (file_report.py, echo_report.py, mixed.py,
ladder.py), so that make compare and make bench-file say the same about the same runs. What is added here is why: from
what the servers and the kernel counted, and where nothing counted shows it, the sentence says "likely".
"""

import echo_report
import file_report
import file_servers
import ladder
import mixed
from compare_findings import (cost_ceiling, counter, counters, failure, finding, named, pair, rate_ceiling,
                              sections_result, short)
from measure import stats, table

CALLS, SWITCHES, BATCH = "system calls a request", "context switches a request", "completions an enter"
BUFFERS, COPYING = "buffers in use, most", "CPU time copying, at full speed (%)"
SLEEPING = "CPU time going to sleep, waking, at full speed (%)"
TELLING = 10  # points of perf's shares: less is no difference

# ---- What was counted --------------------------------------------------------------------------------------------


def counted(runs, name):
    """The median of one of the servers' own counters."""
    return stats.median([run["counters"].get(name) for run in runs if "counters" in run])


def batch_of(runs):
    """Completions that one enter brought; None of a server without a ring."""
    return stats.median([run["counters"]["cqes"] / run["counters"]["enters"] for run in runs
                         if run.get("counters", {}).get("enters")])


def server_counters(ours, theirs, typical_ours, typical_theirs):
    """`ours`, `theirs`: runs. `typical_…`: a function from a figure's name to its median."""
    return counters(
        counter(CALLS, typical_ours("syscalls"), typical_theirs("syscalls")),
        counter(BATCH, batch_of(ours), batch_of(theirs)),
        counter(SWITCHES, typical_ours("switches"), typical_theirs("switches")),
        counter(BUFFERS, counted(ours, "buffers_in_use_max") or None, counted(theirs, "buffers_in_use_max") or None))


def calls_sentence(found):
    """System calls, and what each of io_uring's brought."""
    (ours, theirs), (batch, _) = named(found, CALLS), named(found, BATCH)
    if ours is None or theirs is None:
        return ""
    brought = f", with {short(batch)} completions an enter," if batch else ""
    return f"{short(ours)} system calls a request{brought} against {short(theirs)}."


# What would be the reason of a win, if the named counter is lower on our side.
SAVES = {"calls": CALLS, "nothing-to-batch": CALLS, "churn": CALLS, "threads": SWITCHES, "queue-depth": SWITCHES}
ARMING = " Fewer calls, and yet dearer: polls, wake-ups, second tries (likely; nothing here counts them)."


def explained(one, mechanism, why):
    """A win that the counters do not show, and a loss that nothing explains, are called that."""
    saved = fewer(one["counters"], SAVES[mechanism]) if mechanism in SAVES else True
    if one["state"] == "better" and not saved or one["state"] == "worse" and mechanism in SAVES:
        if one["state"] == "worse" and saved and mechanism in ("calls", "nothing-to-batch") and \
                one["measure"].startswith("CPU"):
            mechanism, why = "arming", why + ARMING
        else:
            mechanism, why = "unexplained", f"{why} No counter here shows why.".strip()
    elif one["state"] == "better" and mechanism == "nothing-to-batch":
        mechanism = "calls"
    return one | {"mechanism": mechanism, "why": why}


def fewer(found, name):
    """Whether we have less of it."""
    ours, theirs = named(found, name)
    return None not in (ours, theirs) and ours < theirs


def perf_sentence(found, name, words, state):
    """Where perf saw a difference that is one, and that explains the verdict."""
    ours, theirs = named(found, name)
    if ours is None or theirs is None:
        return ""
    more = {"worse": ours - theirs, "better": theirs - ours}.get(state, 0)
    if more < TELLING:
        return ""
    return f" perf, at full speed: {ours:.0f} % of the CPU time {words}, against {theirs:.0f} %."


# ---- Files -------------------------------------------------------------------------------------------------------

PER_CPU, RATE, P50, P99 = file_report.PER_CPU, file_report.RATE, file_report.P50, file_report.P99
FILE_MEASURES = {PER_CPU: "CPU time a request", RATE: "requests a second", P50: "p50", P99: "p99"}


def impossible(section, data):
    """Rows about the cells that cannot exist here."""
    return [failure(section, cell["cell"], cell["title"], cell["impossible"])
            for cell in data["cells"] if cell["impossible"]]


def files(data, ceilings):
    found, noise, plots = [], [], {"file_connections": []}
    for cell in data["cells"]:
        if not cell["impossible"]:
            found += file_cell(cell, ceilings)
            noise += file_noise(cell)
            plots["file_connections"] += file_points(cell)
    cold = [cell for cell in data["cells"] if cell["cell"] == file_servers.CEILING_CELL and cell["runs"]]
    if cold:
        plots["cold"] = cold_bars(cold[0])
    texts = [(file_report.TITLES[kind], file_report.table_text(data, kind)) for kind in file_report.TITLES
             if any(cell["table"] == kind for cell in data["cells"])]
    notes = file_report.disturbances(data) + file_report.worker_cpus(data) + file_report.remarks(data)
    return sections_result(found, file_failures(data), file_report.goals(data), noise, texts, plots, notes,
                           impossible("files", data))


def file_failures(data):
    return [failure("files", part["cell"], file_report.label_of(part, key), why) for cell in data["cells"]
            for part in (cell, cell["equal_rate"]) if part for key, why in part["failures"].items()]


def file_cell(cell, ceilings):
    """At an equal rate, where there is one; then at the peak. The verdict table has CPU time at the equal rate, else at
    the peak, and cold cells their rate as well, since waiting for a device costs no CPU time."""
    equal = cell["equal_rate"]
    has_equal = bool(equal) and any(file_report.runs_of(equal, key) for key in file_report.OURS)
    found = []
    if has_equal:
        for ours, _, theirs in file_report.equal_rate_pairs(equal):
            if theirs:
                found.append(file_finding(cell, equal, ours, PER_CPU, theirs, ceilings, ours != "read"))
                found += [file_finding(cell, equal, ours, measure, theirs, ceilings, False) for measure in (P50, P99)
                          if ours == "fixed"]
        found += copying_pair(cell, equal, ceilings)
    cold = cell["table"].startswith("cold")
    for ours, measure, theirs in file_report.pairs(cell):
        if theirs and not (has_equal and measure == PER_CPU):  # the peak's is in the table
            primary = ours in ("fixed", "direct") and (measure == PER_CPU and not has_equal or cold)
            found.append(file_finding(cell, cell, ours, measure, theirs, ceilings, primary))
    if cold and file_report.runs_of(cell, "fixed"):
        pools = [(RATE, file_report.best_pool(cell)), (PER_CPU, file_report.best_pool(cell, PER_CPU)), (RATE, "inline")]
        found += [file_finding(cell, cell, "fixed", measure, theirs, ceilings, True) for measure, theirs in pools
                  if theirs and file_report.runs_of(cell, theirs) and not (has_equal and measure == PER_CPU)]
    return unique(found)


def copying_pair(cell, equal, ceilings):
    """Where sendfile is the best, which copies nothing: the best of those that do the same work."""
    others = [p["key"] for p in equal["participants"]
              if p["key"] not in (*file_report.OURS, file_report.AGAIN, "sendfile")]
    theirs = file_report.best_of(equal, others, PER_CPU)
    best = file_report.equal_rate_pairs(equal)
    if theirs is None or not best or best[0][2] != "sendfile":
        return []
    return [file_finding(cell, equal, "fixed", PER_CPU, theirs, ceilings, True)]


def unique(found):
    """The best baseline may be the inline server: one row is enough."""
    seen, kept = {}, []
    for one in found:
        key = (one["ours"], one["theirs"], one["measure"])
        if key in seen:
            seen[key]["primary"] |= one["primary"]
        else:
            seen[key] = one
            kept.append(one)
    return kept


def file_finding(cell, part, ours, measure, theirs, ceilings, primary):
    interval, said = file_report.compare(part, ours, measure, theirs)
    at_rate = part is not cell
    runs = [file_report.runs_of(part, key) for key in (ours, theirs)]

    def of(key):
        return lambda name: file_report.typical(part, key, name)
    name = file_report.FIGURES[measure]
    values = pair(of(ours)(name), of(theirs)(name), "/s" if measure == RATE else "µs")
    found = server_counters(*runs, of(ours), of(theirs)) + ceilings.profiled(cell["cell"], ours, theirs)
    if counted(runs[0], "zc_sends"):
        found += [counter("sends asked to copy nothing", counted(runs[0], "zc_sends"), None),
                  counter("of them copied all the same", counted(runs[0], "zc_copied"), None)]
    if measure == RATE:
        found += [counter("CPU busy (%)", *(100 * (of(key)("busy") or 0) for key in (ours, theirs)))]
    one = finding(
        "files", cell["cell"], cell["title"], file_report.label_of(part, ours), file_report.label_of(part, theirs),
        f"{FILE_MEASURES[measure]}, {'all at ' + table.number(part['rate']) + '/s' if at_rate else 'at the peak'}",
        interval, why_not=said if said.startswith("not ranked") else None, values=values, primary=primary,
        remark=" (device-bound)" if said.endswith("(device-bound)") else "",
        counters=found, ceiling=file_ceiling(cell, measure, values, ceilings),
        group="ways" if theirs in (*file_report.OURS, "normal") else "baseline",
        command=f"make bench-file CELL={cell['cell']}")
    return explained(one, *why_files(cell, ours, theirs, one["state"], found))


def file_ceiling(cell, measure, values, ceilings):
    if cell["table"].startswith("cold") and measure == RATE:
        fio = file_report.typical(cell, "fio-128", "rate")
        return rate_ceiling("fio, queue depth 128, in the same passes", fio, values["ours"], values["theirs"])
    if cell["table"] == "cached" and measure == PER_CPU:
        bare = ceilings.bare_us("tcp", 32, cell["size"])
        return cost_ceiling("a bare recv of the request and send of the answer, without reading the file", bare,
                            values["ours"], values["theirs"])
    return None


def why_files(cell, ours, theirs, state, found):
    """(mechanism, sentence), from the counters."""
    calls = calls_sentence(found)
    switches = named(found, SWITCHES)
    if ours == "zero-copy":
        return why_zero_copy(found, theirs, calls)
    if theirs == "sendfile" and state == "worse" and cell["size"] >= 16 << 10:
        shown = perf_sentence(found, COPYING, "goes into copying", state)
        return "copy", ("sendfile hands pages of the page cache to the socket; io_uring copies them into a buffer and "
                        "out of it." + (shown or " (likely: no profile of this cell shows the copies)"))
    if cell["connections"] == 1:
        return "nothing-to-batch", f"One client, nothing to put into the same call: {calls}" \
            + perf_sentence(found, SLEEPING, "goes into sleeping and waking", state)
    if theirs == "inline" and cell["table"].startswith("cold"):
        slept = f", {short(switches[1])} context switches a request (io_uring {short(switches[0])})" \
            if switches[1] is not None else ""
        return "queue-depth", f"The inline server has one read under way at a time and sleeps through it{slept}."
    if theirs.startswith("pool"):
        switched = f"{short(switches[1])} context switches a request against {short(switches[0])}; " \
            if None not in switches else ""
        return "threads", f"The pool hands each read to a thread: {switched}{calls}"
    return "calls", calls


def why_zero_copy(found, theirs, calls):
    asked, copied = named(found, "sends asked to copy nothing")[0], named(found, "of them copied all the same")[0]
    if not asked:
        return "threshold", f"Answers of this size are below its threshold and are sent by plain SEND. {calls}"
    share = table.share(copied / asked) if copied is not None else "unknown"
    against = " sendfile copies nothing on the server's side." if theirs == "sendfile" else ""
    return "zero-copy-loopback", (f"On loopback the kernel copied {share} of the sends that were to be without a copy, "
                                  f"and each has a second completion.{against} {calls}")


def file_noise(cell):
    rows = []
    for part in (cell, cell["equal_rate"]):
        if part and file_report.runs_of(part, file_report.AGAIN):
            where = f", all at {table.number(part['rate'])}/s" if part.get("rate") else ", at the peak"
            for measure in (PER_CPU, RATE) if part is cell else (PER_CPU,):
                interval = file_report.ratio(part, file_report.AGAIN, "fixed", measure)
                rows.append(["files", cell["cell"], FILE_MEASURES[measure] + where, table.interval(interval)])
    return rows


def file_points(cell):
    """For throughput over connections: at the peak, all runs."""
    pool = file_report.best_pool(cell)
    return [point(cell, f"{cell['table']}, {cell['cell'].split('/')[1]}", key, label)
            for key, label in (("inline", "epoll inline"), (pool, "best epoll pool"), ("sendfile", "epoll sendfile"),
                               ("fixed", "io_uring fixed")) if key and file_report.runs_of(cell, key)]


def point(cell, panel, key, label):
    return {"panel": panel, "connections": cell["connections"], "who": label,
            "rates": [run["figures"]["rate"] for run in file_report.runs_of(cell, key)],
            "generator": file_report.generator_was_the_limit(cell, key)}


def cold_bars(cell):
    return {"title": cell["title"], "cell": cell["cell"], "bars": [
        {"label": p["label"], "rate": file_report.typical(cell, p["key"], "rate"), "ours": p["key"] in file_report.OURS,
         "ceiling": p["key"].startswith("fio")}
        for p in cell["participants"] if file_report.runs_of(cell, p["key"]) and p["key"] != file_report.AGAIN]}


# ---- Echo --------------------------------------------------------------------------------------------------------

ECHO_MEASURES = {echo_report.RATE: "messages a second", echo_report.CPU: "CPU time a message", echo_report.P50: "p50",
                 echo_report.P99: "p99"}


def echo(data, ceilings):
    found, noise = [], []
    plots = {"connections": [], "percentiles": []}
    for cell in data["cells"]:
        if cell["impossible"]:
            continue
        for part in (cell, *cell["at_rates"]):
            found += [echo_finding(cell, part, measure, ceilings) for measure in echo_report.measures_of(part)
                      if not (part is cell and cell["at_rates"] and measure == echo_report.CPU)]
            noise += echo_noise(cell, part)
        if cell["table"] == "idle":
            found += idle_findings(cell)
        plots["connections"] += connections_point(cell)
        plots["percentiles"] += percentile_lines(cell)
    texts = [(echo_report.TITLES[kind], echo_report.table_text(data, kind)) for kind in echo_report.TITLES
             if any(cell["table"] == kind for cell in data["cells"])]
    failures = [failure("echo", part["cell"], echo_report.label_of(part, key), why)
                for part in echo_report.parts_of(data) for key, why in part["failures"].items()]
    runs = data | {"cells": [part | {"equal_rate": None} for part in echo_report.parts_of(data)]}
    notes = file_report.disturbances(runs) + file_report.worker_cpus(runs) + file_report.remarks(runs)
    return sections_result([one for one in found if one], failures, echo_report.goals(data), noise, texts, plots, notes,
                           impossible("echo", data))


def where_echo(part):
    if "share" in part:
        return f"both at {table.number(part['rate'])}/s, {table.share(part['share'])} of the lower peak"
    return "at the peak"


def echo_finding(cell, part, measure, ceilings):
    interval, said = echo_report.compare(part, measure)
    if interval is None:
        return None
    ours, theirs = echo_report.OURS, echo_report.THEIRS
    runs = [echo_report.runs_of(part, key) for key in (ours, theirs)]

    def of(key):
        return lambda name: echo_report.typical(part, key, name)
    name = {echo_report.RATE: "rate"} | echo_report.FIGURES
    values = pair(of(ours)(name[measure]), of(theirs)(name[measure]), "/s" if measure == echo_report.RATE else "µs")
    found = server_counters(*runs, of(ours), of(theirs)) + ceilings.profiled(cell["cell"], ours, theirs)
    bare = ceilings.bare_us("unix" if cell["table"].startswith("unix") else "tcp", cell["size"], cell["size"])
    # With several messages under way, one call carries several of them, and the ceiling is none.
    is_cost = measure == echo_report.CPU and cell["table"] != "churn" and cell["depth"] == 1
    primary_part = echo_report.primary(cell)[0]
    one = finding(
        "echo", cell["cell"], cell["title"], "io_uring", "epoll", f"{ECHO_MEASURES[measure]}, {where_echo(part)}",
        interval, why_not=said if said.startswith("not ranked") else None, values=values,
        primary=measure == echo_report.CPU and part is primary_part, counters=found,
        ceiling=cost_ceiling("a bare recv and send of this size, which wait for nothing", bare, values["ours"],
                             values["theirs"]) if is_cost else None,
        command=f"make bench-echo CELL={cell['cell']}")
    return explained(one, *why_echo(cell, measure, one["state"], found, ceilings))


def why_echo(cell, measure, state, found, ceilings):
    """(mechanism, sentence), from the counters."""
    calls = calls_sentence(found)
    sleeping = perf_sentence(found, SLEEPING, "goes into sleeping and waking", state)
    if cell["table"] == "churn":
        return "churn", ("Four things are to be done in the kernel for each connection however they are asked for "
                         "(accept, receive, send, close): " + calls + sleeping)
    if cell["connections"] == 1 and cell["depth"] == 1:
        switches = named(found, SWITCHES)
        slept = f" Context switches a message: {short(switches[0])} and {short(switches[1])}." if switches[0] else ""
        return "nothing-to-batch", f"One client, nothing to put into the same call: {calls}{slept}{sleeping}"
    if state == "worse" and cell["size"] >= 16 << 10:
        ours, _ = named(found, BUFFERS)
        buffers = f"{ours:.0f} buffers of 64 KiB in use at a time, where epoll has one that stays in the cache " \
                  "(likely the reason; no counter here sees caches). " if ours else ""
        return "hot-buffer", buffers + calls
    if state == "worse" and measure in (echo_report.P50, echo_report.P99):
        batch, _ = named(found, BATCH)
        return "turns", (f"A turn of the loop receives all that has come before it sends ({short(batch)} completions "
                         "an enter); who came first waits for the others (likely).")
    network = ceilings.profile(cell["cell"], echo_report.THEIRS)
    stack = f" TCP/IP alone is {table.share(network['network'])} of epoll's CPU time (perf)." \
        if network and network["network"] > 0.1 else ""
    return "calls", calls + stack


def idle_findings(cell):
    ours, theirs = (echo_report.typical(cell, key, "own") for key in (echo_report.OURS, echo_report.THEIRS))
    if not ours or not theirs:
        return []
    both = [echo_report.typical(cell, key, "kernel") for key in (echo_report.OURS, echo_report.THEIRS)]
    found = counters(counter("kernel's bytes, both ends", *both))
    interval = stats.bootstrap(stats.paired(
        *({run["pass"]: run["figures"]["own"] for run in echo_report.runs_of(cell, key)}
          for key in (echo_report.THEIRS, echo_report.OURS))).values())
    return [finding("echo", cell["cell"], cell["title"], "io_uring", "epoll", "memory of its own for a connection",
                    interval, values=pair(ours, theirs, "bytes"), counters=found, mechanism="memory", primary=True,
                    why="A connection's bookkeeping here has its queue, its buffers and its operations in it.",
                    command=f"make bench-echo CELL={cell['cell']}")]


def echo_noise(cell, part):
    rows = []
    for measure in echo_report.measures_of(part):
        interval = echo_report.ratio(part, measure, "again", echo_report.OURS)
        if interval is not None:
            rows.append(["echo", cell["cell"], f"{ECHO_MEASURES[measure]}, {where_echo(part)}",
                         table.interval(interval)])
    return rows


def connections_point(cell):
    """For throughput over connections: at the peak, all runs."""
    if cell["table"] not in ("ping-pong", "pipelined", "unix", "unix-pipelined"):
        return []
    size = cell["size"]
    panel = f"{cell['table']}, {size} bytes" if size < 1024 else f"{cell['table']}, {size >> 10} KiB"
    return [point(cell, panel, key, label)
            for key, label in ((echo_report.THEIRS, "epoll"), (echo_report.OURS, "io_uring"))
            if echo_report.runs_of(cell, key)]


def percentile_lines(cell):
    """Latencies at the primary rate: of each percentile the median over the runs."""
    part, _ = echo_report.primary(cell)
    if not part.get("rate") or cell["table"] in ("idle", "held"):
        return []
    lines = []
    for key, label in ((echo_report.THEIRS, "epoll"), (echo_report.OURS, "io_uring")):
        found = percentiles(echo_report.runs_of(part, key), 0)
        if found:
            lines.append({"cell": cell["cell"], "who": label, "percentiles": found, "rate": part["rate"],
                          "late": echo_report.most(part, key, "late")})
    return lines


def percentiles(runs, traffic):
    """{"p50": microseconds …} of the generator's JSON, without the mean and the count."""
    found = {}
    for name in ("p50", "p90", "p95", "p99", "p99_9"):
        value = stats.median([run["load"]["traffic"][traffic]["latency_us"].get(name) for run in runs])
        if value:
            found[name] = value
    return found


# ---- Mixed -------------------------------------------------------------------------------------------------------


def mixed_loads(data, _ceilings):
    found, noise = [], []
    plots = {"percentiles": []}
    for cell in data["cells"]:
        found += [mixed_finding(cell, measure, theirs) for measure, theirs in mixed.pairs(cell)]
        for measure in (mixed.P99, mixed.P50, mixed.GET_RATE):
            interval = mixed.ratio(cell, mixed.OURS.key, measure, mixed.AGAIN.key)
            if interval is not None:
                noise.append(["mixed", cell["cell"], measure, table.interval(interval)])
        for key in (mixed.INLINE.key, mixed.best_pool(cell), mixed.OURS.key):
            latencies = percentiles(mixed.runs_of(cell, key), 0) if key else {}
            if latencies:
                plots["percentiles"].append({"cell": cell["cell"], "who": mixed.label_of(cell, key),
                                             "percentiles": latencies, "rate": cell["rate"],
                                             "late": mixed.most(cell, key, "late")})
    failures = [failure("mixed", cell["cell"], mixed.label_of(cell, key), why) for cell in data["cells"]
                for key, why in cell["failures"].items()]
    texts = [("MIXED: echoes while cold files are read, in one process",
              "\n".join(map(mixed.cell_text, data["cells"])))]
    return sections_result([one for one in found if one], failures, mixed.goals(data), noise, texts, plots)


def mixed_finding(cell, measure, theirs):
    interval, said = mixed.compare(cell, theirs, measure)
    if interval is None:
        return None
    ours, name = mixed.OURS.key, mixed.FIGURES[measure]
    runs = [mixed.runs_of(cell, key) for key in (ours, theirs)]

    def of(key):
        return lambda name: mixed.typical(cell, key, name)
    found = server_counters(*runs, of(ours), of(theirs))
    found += [counter("reads a second", of(ours)("get_rate"), of(theirs)("get_rate"))]
    switches = named(found, SWITCHES)
    if theirs == mixed.INLINE.key:
        why = f"The inline loop stops for each read ({short(switches[1])} context switches a request, io_uring " \
              f"{short(switches[0])}), and every echo that has come meanwhile stands behind it."
        mechanism = "queue-depth"
    else:
        why = f"A thread waits for each read, and the loop goes on, as io_uring's does: {short(switches[1])} context " \
              f"switches a request against {short(switches[0])}. {calls_sentence(found)}"
        mechanism = "threads"
    one = finding("mixed", cell["cell"], cell["title"], mixed.label_of(cell, ours), mixed.label_of(cell, theirs),
                  measure, interval, why_not=said if said.startswith("not ranked") else None,
                  values=pair(of(ours)(name), of(theirs)(name), "/s" if measure == mixed.GET_RATE else "µs"),
                  primary=measure == mixed.P99, counters=found, command=f"make bench-mixed CELL={cell['cell']}")
    return explained(one, mechanism, why)


# ---- The ladder --------------------------------------------------------------------------------------------------


def the_ladder(data, _ceilings):
    found, steps = [], []
    for part in data["parts"]:
        # The cost at an equal rate is the one that counts; a part that is alone is the one there is.
        alone = sum(other["transport"] == part["transport"] for other in data["parts"]) == 1
        primary = bool(part["rate"]) or alone
        found += ladder_findings(data, part, primary)
        if primary:
            steps.append(ladder_steps(part))
    texts = [(f"THE LADDER: {ladder.TITLES[transport]}", ladder.table_text(data, transport))
             for transport in dict.fromkeys(part["transport"] for part in data["parts"])]
    failures = [failure("ladder", part["transport"], ladder.BY_KEY[key].label, why) for part in data["parts"]
                for key, why in part["failures"].items()]
    return sections_result(found, failures, texts=texts, plots={"ladder": steps})


def ladder_findings(data, part, primary):
    where = f"all at {table.number(part['rate'])}/s" if part["rate"] else "at the peak"
    found = []
    for after, before, group in [("direct", "epoll", "baseline"), ("direct", "each", "ways")] + [
            (row.key, row.before, "ways") for row in ladder.ROWS if row.before and row.key in part["rows"]]:
        if not ladder.runs_of(part, after) or not ladder.runs_of(part, before):
            continue
        ratio = ladder.cost_ratio(part, before, after)
        counted_here = counters(
            counter(CALLS, ladder.typical(part, after, "calls"), ladder.typical(part, before, "calls")),
            counter(BATCH, *(ladder.typical(part, key, "cqes_per_enter") for key in (after, before))),
            counter(SWITCHES, ladder.typical(part, after, "switches"), ladder.typical(part, before, "switches")))
        found.append(finding(
            "ladder", f"ladder/{part['transport']}", f"64-byte echoes over {part['transport']}, 128 connections",
            ladder.BY_KEY[after].label, ladder.BY_KEY[before].label, f"CPU time a message, {where}", ratio, group=group,
            why_not=None if ladder.is_ranked(data, after) else "not ranked: " + ladder.fewest_cpus(),
            values=pair(ladder.typical(part, after, "cpu_us"), ladder.typical(part, before, "cpu_us"), "µs"),
            primary=primary and (before == "each" or after == "batched"), counters=counted_here, mechanism="calls",
            why=calls_sentence(counted_here), command="make ladder"))
    return found


def ladder_steps(part):
    rows = [row for row in ladder.ROWS if row.key in part["rows"] and ladder.runs_of(part, row.key)]
    return {"transport": part["transport"], "rate": part["rate"], "rungs": [
        {"key": row.key, "label": row.label, "calls": ladder.typical(part, row.key, "calls"),
         "cpu_us": [run["figures"]["cpu_us"] for run in ladder.runs_of(part, row.key) if run["figures"]["cpu_us"]]}
        for row in rows if row.key not in ("plain", "sqpoll")]}

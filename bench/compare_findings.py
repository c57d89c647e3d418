"""What make compare says about one pair of figures. Pure functions: raw data in, findings out.

A finding is a dictionary that goes into results.json as it is:

    section, cell, title      what was measured, and where it is found again
    group                     "baseline": io_uring against what does the job without it; "library": our ring layer
                              against another; "ways": one way of using io_uring against another
    ours, theirs              labels; a ratio above 1 praises `ours`
    measure                   what is compared, in words
    ratio                     {median, low, high, count} or null; count is 0 of what was counted and not sampled
    state                     better, worse, same, unjudged (too few ratios), unranked (a reason), missing
    said                      the same in words, with the reason
    values                    {ours, theirs, unit}: medians of the runs
    primary                   whether it belongs into the verdict table, in the quick selection and in the full one
    counters                  [{name, ours, theirs}]: what the servers and the kernel counted meanwhile; and, named "at
                              full speed", shares of perf's profile of the cell, which was taken by itself
    ceiling                   {what, ours, theirs}: shares of what nobody exceeds; null where there is no such thing
    mechanism, why            a key by which losses are put together, and one sentence, from the counters
    command                   what measures this one again
"""

from measure import stats, table

STATES = {"io_uring better": "better", "baseline better": "worse", "no difference": "same"}


def finding(section, cell, title, ours, theirs, measure, ratio, **more):
    """`why_not`: why it is not ranked. `remark`: what stands behind the verdict. `exact`: it was counted, and is the same
    in each run. Everything else as above."""
    why_not, remark, exact = more.pop("why_not", None), more.pop("remark", ""), more.pop("exact", False)
    verdict = stats.verdict(ratio)
    state = "missing" if ratio is None else "unranked" if why_not else STATES.get(verdict, "unjudged")
    group = more.get("group", "baseline")
    return {
        "section": section, "cell": cell, "title": title, "group": group, "ours": ours, "theirs": theirs,
        "measure": measure,
        "ratio": None if ratio is None else {"median": ratio.median, "low": ratio.low, "high": ratio.high,
                                             "count": 0 if exact else ratio.count},
        "state": state,
        "said": why_not or in_words(state, verdict, group, ours, theirs) + remark,
        "values": None, "primary": False, "counters": [], "ceiling": None, "mechanism": "", "why": "", "command": "",
    } | more


def in_words(state, verdict, group, ours, theirs):
    if state == "better":
        return "io_uring better" if group == "baseline" else f"{ours} better"
    if state == "worse":
        return f"{theirs} better"
    return verdict


def interval_text(ratio):
    """With a third digit where two would hide on which side of 1 an end lies."""
    if ratio is None:
        return "–"
    if ratio["count"] == 0:
        return f"{ratio['median']:.2f}"
    digits = 3 if any(abs(ratio[end] - 1) < 0.005 for end in ("low", "high")) else 2
    return f"{ratio['median']:.{digits}f} [{ratio['low']:.{digits}f}, {ratio['high']:.{digits}f}]"


def pair(ours, theirs, unit):
    return {"ours": ours, "theirs": theirs, "unit": unit}


def counter(name, ours, theirs):
    return {"name": name, "ours": ours, "theirs": theirs}


def counters(*found):
    """Those that were counted on one side at least."""
    return [one for one in found if one["ours"] is not None or one["theirs"] is not None]


def short(value):
    """As short as a sentence needs it."""
    if value is None:
        return "–"
    size = abs(value)
    return table.number(value, 3 if 0 < size < 0.1 else 2 if 0 < size < 10 else 1 if 0 < size < 100 else 0)


def named(found, name):
    """(ours, theirs) of a counter; (None, None) if nobody counted it."""
    return next(((one["ours"], one["theirs"]) for one in found if one["name"] == name), (None, None))


def failure(section, cell, who, why):
    return {"section": section, "cell": cell, "who": who, "why": why}


def sections_result(findings=(), failures=(), goals=(), noise=(), texts=(), plots=None, notes=(), absent=()):
    """What an adapter makes of one section's raw data. `goals`: rows of what, goal, found, said. `texts`: (title, lines
    of aligned text), the tables as the measuring program prints them. `plots`: data for compare_plots.py, by name.
    `absent`: as `failures`, cells that cannot exist here; they are no error."""
    return {"findings": list(findings), "failures": list(failures), "goals": [list(row) for row in goals],
            "noise": list(noise), "texts": [list(text) for text in texts], "plots": plots or {}, "notes": list(notes),
            "absent": list(absent)}


PROFILED = {"network": "in TCP/IP", "copying": "copying", "sleeping": "going to sleep, waking"}


class Ceilings:
    """What bench/ceilings.py found, looked up by what a server does; None where it found nothing."""

    def __init__(self, data=None):
        data = data or {}
        self._pairs = {(p["transport"], p["request"], p["answer"]): p["ns"] / 1000 for p in data.get("pairs", [])}
        self._profiles = {(p["cell"], p["key"]): p.get("shares") for p in data.get("profiles", [])}
        self._memcpy = {one["what"]: one["bytes_per_second"] for one in data.get("memcpy", [])}
        self.perf = data.get("perf", "the section `ceilings` was not measured") if data else \
            "the section `ceilings` was not measured"

    def bare_us(self, transport, request, answer):
        """CPU time of a bare recv and send."""
        return self._pairs.get((transport, request, answer))

    def memcpy(self, what):
        """Bytes a second."""
        return self._memcpy.get(what)

    def profile(self, cell, key):
        """{network, copying, sleeping, user: share of the CPU time}"""
        return self._profiles.get((cell, key))

    def profiled(self, cell, ours, theirs):
        """As counters."""
        mine, other = self.profile(cell, ours), self.profile(cell, theirs)
        if not mine or not other:
            return []
        return [counter(f"CPU time {words}, at full speed (%)", 100 * mine[key], 100 * other[key])
                for key, words in PROFILED.items()]


def cost_ceiling(what, bare_us, ours_us, theirs_us):
    """Shares of the ceiling where less is better."""
    if bare_us is None:
        return None
    return {"what": what, "ours": bare_us / ours_us if ours_us else None,
            "theirs": bare_us / theirs_us if theirs_us else None}


def rate_ceiling(what, most, ours, theirs):
    """Shares of the ceiling where more is better."""
    if not most:
        return None
    return {"what": what, "ours": ours / most if ours else None, "theirs": theirs / most if theirs else None}

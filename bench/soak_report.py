"""What bench/soak.py saw: whether it held, as a table of numbers, as a picture. Pure functions of series.

A sample is a dictionary: seconds, phase (before, load, after), and rss, grown, fds, buffers, operations, connections,
cpu_seconds, each None where the server has no such thing or did not say. `grown` is the part of the resident memory
that was not mapped before the load came: heap, and later mappings. What was mapped by then, the buffers above all,
becomes resident when it is first used, perhaps late, and is bounded: judged is `grown`, shown are both.

Flat means: after the warm-up, the level of the last quarter of the time is not above that of the first quarter by more
than 5 % and what is allowed besides. The level is the lower quartile of the samples: a burst lifts some samples, a leak
lifts them all. Growth only: what falls is either nothing or seen by the clients.
"""

import csv
import html
from dataclasses import dataclass

from measure import stats, table

WARMUP_SHARE = 0.2  # of the load's time
GROWTH_SHARE = 0.05
ERROR_SHARE = 0.001
DRIFT = 0.10
LEAST_SAMPLES = 16  # after the warm-up; of fewer a quarter has less than four


@dataclass(frozen=True)
class Measure:
    key: str
    title: str
    allowed: float  # beyond 5 %: what moves although nothing leaks
    unit: float = 1  # what it is divided by to be printed
    name: str = ""

    def text(self, value):
        if value is None:
            return "–"
        return f"{value / self.unit:,.1f}{self.name}" if self.unit > 1 else f"{value:,.0f}"


RSS = Measure("rss", "resident memory", 0, 1 << 20, " MiB")
# A heap does not give back at once what is freed, and how much is held at a moment differs.
GROWN = Measure("grown", "heap", 512 << 10, 1 << 20, " MiB")

MEASURES = [
    GROWN,
    # Connections of churn and of those that vanish, which come and go.
    Measure("fds", "descriptors", 8),
    Measure("buffers", "buffers out", 16),
    Measure("operations", "operations in flight", 24),
]


# ---- Judging -----------------------------------------------------------------------------------------------------


def after_warmup(samples):
    loaded = [sample for sample in samples if sample["phase"] == "load"]
    if not loaded:
        return []
    start = loaded[0]["seconds"] + WARMUP_SHARE * (loaded[-1]["seconds"] - loaded[0]["seconds"])
    return [sample for sample in loaded if sample["seconds"] >= start]


def quarters(samples, key):
    """The levels of the first and the last quarter after the warm-up, or None."""
    values = [sample[key] for sample in after_warmup(samples) if sample[key] is not None]
    if len(values) < LEAST_SAMPLES:
        return None
    count = len(values) // 4
    return stats.quantile(values[:count], 0.25), stats.quantile(values[-count:], 0.25)


def is_above(value, level, measure):
    return value > level * (1 + GROWTH_SHARE) + measure.allowed


def growth_complaints(samples):
    found = []
    for measure in MEASURES:
        levels = quarters(samples, measure.key)
        if levels and is_above(levels[1], levels[0], measure):
            found.append(f"{measure.title} grew: {measure.text(levels[0])} in the first quarter after the warm-up, "
                         f"{measure.text(levels[1])} in the last (5 % and {measure.text(measure.allowed)} are allowed)")
    return found


def idle_complaints(samples, kept_open=0):
    """When the load has gone: what was held for clients is given back, all of it. A file server keeps up to `kept_open`
    files. Memory goes back to the heap, and not always to the kernel: it may be what it was under load, and no more."""
    before = [sample for sample in samples if sample["phase"] == "before"]
    after = [sample for sample in samples if sample["phase"] == "after"]
    if not before or not after:
        return []
    first, last, found = before[-1], after[-1], []
    for measure in MEASURES[1:]:
        was, now = first[measure.key], last[measure.key]
        spare = kept_open if measure.key == "fds" else 0
        if was is not None and now is not None and now > was + spare:
            found.append(f"{measure.title}: {now:,} long after the load had gone, {was:,} before it came")
    levels = quarters(samples, GROWN.key)
    if levels and last["grown"] is not None and is_above(last["grown"], levels[0], GROWN):
        found.append(f"heap: {GROWN.text(last['grown'])} after the load had gone, more than under it "
                     f"({GROWN.text(levels[0])})")
    return found


def error_complaint(errors, answered, first=""):
    if errors == 0 or errors < ERROR_SHARE * (errors + answered):
        return []
    return [f"{errors:,} errors beside {answered:,} verified answers: {100 * ERROR_SHARE:.1f} % or more"
            + (f"; the first: {first}" if first else "")]


def rate_of(slices):
    """Answers a second of all streams together: of each the median over its slices."""
    streams = {}
    for piece in slices:
        streams.setdefault(piece["stream"], []).append(piece["rate"])
    return sum(stats.median(rates) for rates in streams.values()), set(streams)


def drift(slices, seconds):
    """(share or None, sentence). From the first to the last third of the time after the warm-up, of the streams whose
    rate is offered. A slice in which the generator had to wait for a CPU says nothing about the server."""
    start = WARMUP_SHARE * seconds
    third = (seconds - start) / 3
    offered = [piece for piece in slices if piece["offered"]]

    def within(low, high):
        chosen = [piece for piece in offered if low <= (piece["start"] + piece["end"]) / 2 <= high]
        return [piece for piece in chosen if not piece["disturbed"]], chosen
    first, all_first = within(start, start + third)
    last, all_last = within(seconds - third, seconds)
    if 2 * len(first) < len(all_first) or 2 * len(last) < len(all_last):
        return None, "not judged: the generator waited for a CPU in most of the time; something else was running"
    (before, streams), (after, others) = rate_of(first), rate_of(last)
    if not streams or streams != others or not before:
        return None, "not judged: too short"
    share = abs(after / before - 1)
    return share, (f"{before:,.0f}/s in the first third after the warm-up, {after:,.0f}/s in the last: "
                   f"{100 * share:.1f} %")


def drift_complaint(slices, seconds):
    share, sentence = drift(slices, seconds)
    if share is None or share < DRIFT:
        return []
    return [f"throughput drifted by {100 * DRIFT:.0f} % or more: {sentence}"]


def cpu_us(samples, slices):
    """CPU time for an answer in the first and the last third after the warm-up, where all rates are offered; shown, not
    judged: what it costs to serve the other clients is in it."""
    if not all(piece["offered"] for piece in slices):
        return None
    found = []
    loaded = [sample for sample in after_warmup(samples) if sample["cpu_seconds"] is not None]
    count = len(loaded) // 3
    for part in (loaded[:count], loaded[len(loaded) - count:]):
        if len(part) < 2:
            return None
        seconds = part[-1]["seconds"] - part[0]["seconds"]
        rate = stats.median([rate_at(slices, sample["seconds"]) for sample in part])
        if not seconds or not rate:
            return None
        found.append((part[-1]["cpu_seconds"] - part[0]["cpu_seconds"]) / seconds / rate * 1e6)
    return found


def rate_at(slices, second):
    """Verified answers a second at that moment, of all offered streams that ran then; None of none."""
    rates = [piece["rate"] for piece in slices if piece["offered"] and piece["start"] <= second < piece["end"]]
    return sum(rates) if rates else None


# ---- As text -----------------------------------------------------------------------------------------------------


def lines_of(samples, slices, seconds, counts):
    """`counts`: errors, answered, rude (a line about the other clients)."""
    rows = []
    for measure in (RSS, *MEASURES):
        levels = quarters(samples, measure.key)
        idle = [[s[measure.key] for s in samples if s["phase"] == phase][-1:] for phase in ("before", "after")]
        if levels:
            before, after = (measure.text(value[0]) if value else "–" for value in idle)
            rows.append([f"  {measure.title}", f"{measure.text(levels[0])} -> {measure.text(levels[1])}",
                         f"idle before and after: {before}, {after}"])
        elif any(sample[measure.key] is not None for sample in samples):
            rows.append([f"  {measure.title}", "–", "too few samples to judge"])
    rows.append(["  throughput", drift(slices, seconds)[1], ""])
    costs = cpu_us(samples, slices)
    if costs:
        rows.append(["  CPU time for an answer", f"{costs[0]:.1f} -> {costs[1]:.1f} us",
                     "other clients' share included; not judged"])
    streams = {}
    for piece in slices:
        streams.setdefault(piece["stream"], []).append(piece["rate"])
    verified = ", ".join(f"{name} {stats.median(rates):,.0f}/s" for name, rates in sorted(streams.items()))
    rows.append(["  verified", verified, ""])
    rows.append(["  other clients", counts["rude"], ""])
    rows.append(["  errors", f"{counts['errors']:,} of {counts['answered'] + counts['errors']:,}", ""])
    # The first columns are aligned; what is long stands alone.
    short = [row[:2] for row in rows if row[2]]
    width = max((len(row[1]) for row in short), default=0)
    return table.sentences([[row[0], row[1].ljust(width) + ("  " + row[2] if row[2] else "")] for row in rows])


COLUMNS = ["seconds", "phase", "rss", "grown", "fds", "buffers", "operations", "connections", "cpu_seconds",
           "verified_per_second"]


def write_csv(path, samples, slices):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for sample in samples:
            row = sample | {"seconds": round(sample["seconds"], 2),
                            "verified_per_second": rate_at(slices, sample["seconds"])}
            writer.writerow(["" if row[key] is None else row[key] for key in COLUMNS])


# ---- As a picture ------------------------------------------------------------------------------------------------

WIDTH, PANEL, LEFT, RIGHT, TOP = 900, 110, 70, 20, 60


def nice_ceiling(value):
    """The next 1, 2 or 5 of some power of ten."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value > 0:
        power /= 10
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value) if value > 0 else 1


def panel(title, points, top, last_second, warm):
    """One line chart: `points` are (second, value), and a None ends a piece of the line."""
    known = [value for _, value in points if value is not None]
    high = nice_ceiling(max(known, default=0))
    wide, tall = WIDTH - LEFT - RIGHT, PANEL - 40

    def x(second):
        return LEFT + wide * second / last_second

    def y(value):
        return top + 20 + tall * (1 - value / high)
    parts = [f'<rect x="{x(warm[0]):.1f}" y="{top + 20}" width="{x(warm[1]) - x(warm[0]):.1f}" height="{tall}" '
             'fill="#eeeeee"/>',
             f'<path d="M{LEFT} {top + 20}V{top + 20 + tall}H{LEFT + wide}" fill="none" stroke="#888888"/>',
             f'<text x="{LEFT}" y="{top + 13}" font-weight="bold">{html.escape(title)}</text>',
             f'<text x="{LEFT - 6}" y="{top + 25}" text-anchor="end">{high:,g}</text>',
             f'<text x="{LEFT - 6}" y="{top + 20 + tall}" text-anchor="end">0</text>']
    line, pen_is_up = [], True
    for second, value in points:
        if value is None:
            pen_is_up = True
            continue
        line.append(f"{'M' if pen_is_up else 'L'}{x(second):.1f} {y(value):.1f}")
        pen_is_up = False
    parts.append(f'<path d="{"".join(line)}" fill="none" stroke="#1f5fa8" stroke-width="1.4"/>')
    return "\n".join(parts)


def cpu_shares(samples):
    def share(before, after):
        if None in (before["cpu_seconds"], after["cpu_seconds"]):
            return None
        return (after["cpu_seconds"] - before["cpu_seconds"]) / (after["seconds"] - before["seconds"])
    return [(after["seconds"], share(before, after)) for before, after in zip(samples, samples[1:])
            if after["seconds"] > before["seconds"]]


def draw(title, samples, slices):
    """An SVG: a chart below the other, all with the same time. Grey is the warm-up."""
    loaded = [sample["seconds"] for sample in samples if sample["phase"] == "load"] or [0]
    warm = (loaded[0], loaded[0] + WARMUP_SHARE * (loaded[-1] - loaded[0]))
    last = max([sample["seconds"] for sample in samples] + [1e-9])
    charts = [("verified answers a second, of the offered streams",
               [(s["seconds"], rate_at(slices, s["seconds"])) for s in samples])]
    for measure in (RSS, *MEASURES):
        points = [(sample["seconds"], None if sample[measure.key] is None else sample[measure.key] / measure.unit)
                  for sample in samples]
        if any(value is not None for _, value in points):
            charts.append((measure.title + (f", {measure.name.strip()}" if measure.name else ""), points))
    charts.append(("share of a CPU", cpu_shares(samples)))
    height = TOP + PANEL * len(charts) + 20
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
             f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             f'<text x="{LEFT}" y="26" font-size="16">{html.escape(title)}</text>',
             f'<text x="{LEFT}" y="44" fill="#666666">0 to {last:,.0f} s; grey: the warm-up, before which nothing is '
             'judged</text>']
    parts += [panel(name, points, TOP + i * PANEL, last, warm) for i, (name, points) in enumerate(charts)]
    return "\n".join([*parts, "</svg>", ""])

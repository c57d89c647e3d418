"""Ratios, how sure they are, and what may be said about them. Pure functions.

A ratio is written so that above 1 means: io_uring is better. Each compares two runs of one pass, so both servers met
the same machine; the order turns from pass to pass, so what drifts makes one ratio too high and the next one too low.

The interval is the percentile bootstrap of the median, as in bench/load/ratio.hpp, and for the reason given there
fewer than six ratios are shown but not judged: of four, equal servers land on one side of 1 in one comparison of eight.
"""

import functools
import random
import statistics
from dataclasses import dataclass

REPLICAS = 10_000
LEAST_RATIOS = 6


@dataclass(frozen=True)
class Interval:
    low: float
    median: float
    high: float
    count: int  # of ratios

    @property
    def judged(self):
        return self.count >= LEAST_RATIOS


def median(values):
    """Of numbers, None among them left out; None of nothing."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def bootstrap(values, replicas=REPLICAS):
    """The median of `values` with its 95 % interval; None of no values. The same values give the same interval."""
    return _bootstrap(tuple(values), replicas)


@functools.lru_cache(maxsize=None)  # a table, the losses and the goals ask for the same ones
def _bootstrap(values, replicas):
    if not values:
        return None
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(replicas))
    cut = replicas * 25 // 1000
    return Interval(medians[cut], statistics.median(values), medians[-1 - cut], len(values))


def paired(ours, theirs):
    """Of {pass: value} and {pass: value}: {pass: ours ÷ theirs} of the passes that both have."""
    return {turn: ours[turn] / theirs[turn] for turn in sorted(ours) if ours[turn] and theirs.get(turn)}


def verdict(interval):
    if interval is None:
        return "nothing to compare"
    if not interval.judged:
        return f"not judged: {interval.count} ratios, {LEAST_RATIOS} are needed"
    if interval.low > 1:
        return "io_uring better"
    if interval.high < 1:
        return "baseline better"
    return "no difference"


def goal_verdict(interval, goal):
    """A goal is missed only when the whole interval lies below it, and met only when all of it lies above."""
    if interval is None or not interval.judged:
        return "no decision"
    if interval.low >= goal:
        return "met"
    return "missed" if interval.high < goal else "no decision"


def steps(values):
    """How far each value lies from the one before it, as a share: 0.02 for 100 and then 98."""
    return [abs(after / before - 1) for before, after in zip(values, values[1:]) if before and after]


def quantile(values, share):
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]

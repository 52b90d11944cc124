"""Medians, bootstrap intervals, goals, and latency histograms. Pure functions."""

import random
from dataclasses import dataclass

RESAMPLES = 2000
CONFIDENCE = 0.95


def median(values):
    """The middle of `values`, or the mean of the two in the middle; ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("the median of no values")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True)
class Interval:
    """A median with the ends of its confidence interval."""
    median: float
    low: float
    high: float
    count: int

    def as_json(self):
        return {"median": self.median, "low": self.low, "high": self.high, "count": self.count}


def bootstrap(values, seed, figure=median, resamples=RESAMPLES):
    """The median (or another figure) of `values` with the percentile interval of its bootstrap
    distribution. The same values and seed give the same interval."""
    values = list(values)
    middle = figure(values)
    source = random.Random(seed)
    figures = sorted(figure(source.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - CONFIDENCE) / 2
    low = figures[int(tail * resamples)]
    high = figures[min(resamples - 1, int((1 - tail) * resamples))]
    return Interval(middle, low, high, len(values))


def paired_ratio(above, below, seed):
    """The interval of above[i] / below[i], values that were measured side by side. A pair without a
    positive divisor is ValueError: whoever did nothing in a slice has no speed to compare with."""
    if len(above) != len(below):
        raise ValueError(f"{len(above)} values against {len(below)}: they were not measured in pairs")
    if any(b <= 0 for b in below):
        raise ValueError("a pair whose divisor is 0")
    return bootstrap([a / b for a, b in zip(above, below)], seed)


MET, MISSED, NOT_JUDGED = "met", "missed", "not judged"


@dataclass(frozen=True)
class Goal:
    """What a ratio (or a figure of Cistern's own) must reach: `bounds` by the name of the peer, or by
    "" for a figure that is compared with no peer."""
    measure: str
    at_least: bool
    bounds: dict

    def text(self):
        relation = "≥" if self.at_least else "≤"
        parts = {}
        for peer, bound in self.bounds.items():
            parts.setdefault(bound, []).append(peer)
        return ", ".join(
            f"{relation} {bound:g}" + (f"x {' and '.join(peers)}" if any(peers) else "")
            for bound, peers in parts.items())

    def verdict(self, intervals):
        """Of `intervals` by peer. Every bound must be reached by the whole interval: by the lower
        end where the goal is a minimum, by the upper one where it is a maximum."""
        for peer, bound in self.bounds.items():
            if peer not in intervals:
                return NOT_JUDGED
            end = intervals[peer]
            if not (end.low >= bound if self.at_least else end.high <= bound):
                return MISSED
        return MET


def merge_histograms(histograms):
    """One histogram of several: [[upper bound, count], ...] by bound, ascending."""
    counts = {}
    for histogram in histograms:
        for upper, count in histogram:
            if count < 0:
                raise ValueError(f"a bucket up to {upper} with {count} samples")
            counts[upper] = counts.get(upper, 0) + count
    return [[upper, counts[upper]] for upper in sorted(counts)]


def percentile(histogram, share):
    """The upper bound of the bucket that holds the sample of that rank (share 0.99: the 99th
    percentile); ValueError for a histogram of nothing."""
    total = sum(count for _, count in histogram)
    if total == 0:
        raise ValueError("a percentile of no samples")
    # The smallest rank that covers the share; rounded first, since 0.99 * 100 is not quite 99.
    wanted = max(1, -int(-round(share * total, 6) // 1))
    seen = 0
    for upper, count in histogram:
        seen += count
        if seen >= wanted:
            return upper
    return histogram[-1][0]


def merged_ratio(above, below, share, seed):
    """The percentile of all of `above`'s histograms together to that of all of `below`'s, which were
    measured in pairs: a stall in one slice of ten belongs to the whole's p99, though the median of
    the slices' own saw none. The interval is of resampled pairs."""
    if len(above) != len(below):
        raise ValueError(f"{len(above)} histograms against {len(below)}: not measured in pairs")

    def ratio(pairs):
        divisor = percentile(merge_histograms(pair[1] for pair in pairs), share)
        return percentile(merge_histograms(pair[0] for pair in pairs), share) / max(divisor, 1e-3)

    return bootstrap(list(zip(above, below)), seed, ratio, RESAMPLES // 4)

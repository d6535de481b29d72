"""How sure a measured accuracy or difference is. Every interval is a 95 % confidence interval, every test two-sided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The ends of a 95 % confidence interval, in the unit of what was measured."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """difference: a fraction of all pairs, -1 to 1; p_value: how probable one at least as large is if there is none.

    The interval is approximate and the test exact, so one may show a difference where the other does not.
    """

    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class SampleMean:
    """standard_deviation: of the sample, with n - 1. It and the interval of the mean are None for a single value."""

    count: int
    mean: float
    standard_deviation: float | None
    interval: Interval | None


@dataclass(frozen=True)
class MeanDifference:
    """interval and p_value are None where the samples show no spread to measure the difference against."""

    difference: float
    interval: Interval | None
    p_value: float | None


def wilson_interval(successes: int, trials: int) -> Interval:
    """The score interval of a proportion (E. B. Wilson, 1927), without continuity correction."""
    return _interval(stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson"))


def compare_pairs(gained: int, lost: int, count: int) -> PairedDifference:
    """How far two proportions on the same `count` items differ, second minus first.

    `gained` items are successes in the second only, `lost` ones in the first only; the others say nothing about the
    difference. The p-value is that of the exact conditional test (Q. McNemar, 1947): 1 where nothing changed. The
    interval is the adjusted Wald one (D. G. Bonett and R. M. Price, 2012), cut at -1 and 1.
    """
    p_value = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    up, down = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt((up + down - (up - down) ** 2) / (count + 2))
    interval = _interval((up - down - half, up - down + half), -1, 1)
    return PairedDifference((gained - lost) / count, interval, float(p_value))


def summarize_sample(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> SampleMean:
    """Mean, standard deviation, and Student's t interval of the mean, cut at `low` and `high`."""
    center = float(mean(values))
    if len(values) == 1:
        return SampleMean(1, center, None, None)
    spread = stdev(values)
    # SciPy would find a spread of rounding errors, and warn.
    ends = stats.ttest_1samp(values, 0).confidence_interval(LEVEL) if spread else (center, center)
    return SampleMean(len(values), center, spread, _interval(ends, low, high))


def compare_means(first: Sequence[float], second: Sequence[float]) -> MeanDifference:
    """How far the means of two independent samples differ, second minus first, by Welch's t test (B. L. Welch, 1947).

    The test does not assume equal variances. A sample of one value has no variance, and two samples without spread
    give nothing to measure the difference against: interval and p-value are then None.
    """
    difference = float(mean(second)) - float(mean(first))
    if min(len(first), len(second)) == 1 or stdev(first) == stdev(second) == 0:
        return MeanDifference(difference, None, None)
    result: Any = stats.ttest_ind(second, first, equal_var=False)
    return MeanDifference(difference, _interval(result.confidence_interval(LEVEL)), float(result.pvalue))


def _interval(ends: Any, low: float = -math.inf, high: float = math.inf) -> Interval:
    return Interval(max(float(ends[0]), low), min(float(ends[1]), high))

"""How sure a measured accuracy or difference is. Every interval is a 95 % confidence interval, every test two-sided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats

LEVEL = 0.95
_TAIL = (1 + LEVEL) / 2


@dataclass(frozen=True)
class Interval:
    """The ends of a 95 % confidence interval, in the unit of what was measured."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """difference: a fraction of all pairs, -1 to 1; p_value: how probable one at least as large is if there is none.

    The interval is approximate and the test exact, so that one may tell of a difference and the other not.
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
    """The score interval of a proportion (E. B. Wilson, 1927), without continuity correction; 0 to 1 for no trials.

    Raises:
        ValueError: there are more successes than trials, or fewer than none.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return Interval(0.0, 1.0)
    low, high = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Interval(float(low), float(high))


def compare_pairs(gained: int, lost: int, count: int) -> PairedDifference:
    """How far two proportions on the same `count` items differ, second minus first.

    `gained` items are successes in the second only, `lost` ones in the first only; the others, alike in both, tell
    nothing of the difference. The p-value is that of the exact conditional test (Q. McNemar, 1947): 1 where nothing
    changed. The interval is the adjusted Wald one (D. G. Bonett and R. M. Price, 2012), cut at -1 and 1.

    Raises:
        ValueError: there are no items, or more that changed than items.
    """
    if count < 1 or min(gained, lost) < 0 or gained + lost > count:
        raise ValueError(f"{gained} gained and {lost} lost of {count}")
    p_value = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    up, down = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = float(stats.norm.ppf(_TAIL)) * math.sqrt((up + down - (up - down) ** 2) / (count + 2))
    interval = Interval(max(up - down - half, -1.0), min(up - down + half, 1.0))
    return PairedDifference((gained - lost) / count, interval, float(p_value))


def summarize_sample(values: Sequence[float]) -> SampleMean:
    """Mean, standard deviation and Student's t interval of the mean. Values that are all the same have spread 0.

    Raises:
        ValueError: there are no values.
    """
    centre = float(mean(values))
    if len(values) == 1:
        return SampleMean(1, centre, None, None)
    spread = stdev(values)
    half = float(stats.t.ppf(_TAIL, len(values) - 1)) * spread / math.sqrt(len(values))
    return SampleMean(len(values), centre, spread, Interval(centre - half, centre + half))


def compare_means(first: Sequence[float], second: Sequence[float]) -> MeanDifference:
    """How far the means of two independent samples differ, second minus first, by Welch's t test (B. L. Welch, 1947).

    It doesn't take the variances to be equal. A sample of one value has no variance, and two samples without any
    spread have nothing to compare their difference with: interval and p-value are None then.

    Raises:
        ValueError: a sample has no values.
    """
    difference = float(mean(second)) - float(mean(first))
    if min(len(first), len(second)) == 1:
        return MeanDifference(difference, None, None)
    variances = [stdev(values) ** 2 / len(values) for values in (first, second)]  # of the means
    error = math.sqrt(sum(variances))
    if error == 0:
        return MeanDifference(difference, None, None)
    shares = [variance / sum(variances) for variance in variances]
    freedom = 1 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (first, second), strict=True))
    half = float(stats.t.ppf(_TAIL, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(difference) / error, freedom))
    return MeanDifference(difference, Interval(difference - half, difference + half), p_value)

"""Intervals and tests, against worked examples that were published and against counting by hand."""

from itertools import product
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_cifar10.evaluation.statistics import (
    Interval,
    MeanDifference,
    SampleMean,
    compare_means,
    compare_pairs,
    summarize_sample,
    wilson_interval,
)

REPEATABLE = settings(deadline=None, derandomize=True, database=None, max_examples=50)

# Additional hours of sleep with two drugs: "Student", "The probable error of a mean", Biometrika 6 (1908); R's `sleep`.
FIRST_DRUG = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND_DRUG = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_gives_newcombes_examples(successes: int, trials: int, low: float, high: float) -> None:
    """R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
    857-872, table I, method 3."""
    assert ends(wilson_interval(successes, trials)) == pytest.approx((low, high), abs=5e-5)


@REPEATABLE
@given(st.integers(1, 20_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_interval_holds_the_proportion_and_mirrors_that_of_the_failures(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = ends(wilson_interval(successes, trials))
    assert 0 <= low <= successes / trials <= high <= 1
    assert ends(wilson_interval(trials - successes, trials)) == pytest.approx((1 - high, 1 - low))


def test_compare_pairs_gives_fagerlands_example() -> None:
    """Airway hyper-responsiveness of 21 children before and after a transplantation (L. Bentur and others, 2009):
    1 had it before only, 7 after only. p: M. W. Fagerland, S. Lydersen and P. Laake, BMC Medical Research Methodology
    13:91 (2013). Interval: the same, "Recommended tests and confidence intervals for paired binomial proportions",
    Statistics in Medicine 33 (2014), 2850-2875."""
    result = compare_pairs(gained=1, lost=7, count=21)
    assert result.p_value == pytest.approx(0.0703, abs=5e-5)
    assert result.difference == pytest.approx(-6 / 21)
    assert ends(result.interval) == pytest.approx((-0.508, -0.013), abs=5e-4)


def test_p_value_of_pairs_is_the_share_of_coin_throws_as_uneven() -> None:
    for gained, lost in product(range(7), range(7)):
        coins = gained + lost
        as_uneven = [heads for heads in range(coins + 1) if abs(2 * heads - coins) >= abs(gained - lost)]
        expected = sum(comb(coins, heads) for heads in as_uneven) / 2**coins
        assert compare_pairs(gained, lost, 20).p_value == pytest.approx(expected)


@REPEATABLE
@given(st.lists(st.integers(0, 10_000), min_size=3, max_size=3).filter(any))
def test_pairs_in_the_other_order_give_the_mirrored_result(counts: list[int]) -> None:
    gained, lost, count = *counts[:2], sum(counts)
    result, mirrored = compare_pairs(gained, lost, count), compare_pairs(lost, gained, count)
    low, high = ends(result.interval)
    assert -1 <= low <= result.difference <= high <= 1
    assert mirrored.difference == -result.difference
    assert ends(mirrored.interval) == pytest.approx((-high, -low))
    assert mirrored.p_value == pytest.approx(result.p_value)


def test_pairs_without_a_change_show_no_difference() -> None:
    result = compare_pairs(0, 0, 10_000)
    assert (result.difference, result.p_value) == (0, 1)
    assert ends(result.interval) == pytest.approx((-0.000277, 0.000277), abs=1e-6)  # 1.96 sqrt(2) / 10,002


def test_summarize_sample_gives_what_r_gives() -> None:
    """t.test(SECOND_DRUG - FIRST_DRUG) and sd() of R: mean 1.58, interval 0.7001142 to 2.4598858."""
    sample = summarize_sample([second - first for first, second in zip(FIRST_DRUG, SECOND_DRUG, strict=True)])
    assert (sample.count, sample.mean) == (10, pytest.approx(1.58))
    assert sample.standard_deviation == pytest.approx(1.229995, abs=5e-7)
    assert ends(sample.interval) == pytest.approx((0.7001142, 2.4598858), abs=5e-8)


def test_one_value_has_no_spread_and_equal_values_have_spread_zero() -> None:
    assert summarize_sample([0.75]) == SampleMean(1, 0.75, None, None)
    assert summarize_sample([0.1] * 3) == SampleMean(3, 0.1, 0.0, Interval(0.1, 0.1))


def test_interval_of_accuracies_stays_between_zero_and_one() -> None:
    assert ends(summarize_sample([0.1, 0.9], low=0, high=1).interval) == (0, 1)
    assert ends(summarize_sample([0.1, 0.9]).interval) == pytest.approx((0.5 - 0.4 * 12.7062, 0.5 + 0.4 * 12.7062))


def test_compare_means_gives_the_example_of_rs_t_test() -> None:
    """t.test(extra ~ group, data = sleep), in R's documentation: t = -1.8608, df = 17.776, p-value = 0.07939, interval
    -3.3654832 to 0.2054832 of the first minus the second."""
    result = compare_means(SECOND_DRUG, FIRST_DRUG)
    assert result.difference == pytest.approx(-1.58)
    assert result.p_value == pytest.approx(0.07939, abs=5e-6)
    assert ends(result.interval) == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)


@pytest.mark.parametrize(
    ("first", "second"), [([0.1] * 3, [0.1] * 3), ([0.1] * 3, [0.3] * 2), ([0.1], [0.3]), ([0.1], [0.3, 0.4])]
)
def test_means_without_spread_have_neither_interval_nor_p_value(first: list[float], second: list[float]) -> None:
    result = compare_means(first, second)
    assert result == MeanDifference(result.difference, None, None)
    assert result.difference == pytest.approx(sum(second) / len(second) - sum(first) / len(first))

"""Two tables of predictions, compared by hand."""

from collections.abc import Iterable

import pandas as pd
import pytest

from lenet_cifar10.evaluation.comparison import ClassDifference, compare_predictions
from lenet_cifar10.evaluation.statistics import compare_pairs, wilson_interval

# Of 10 images each: cats 8 gained, dogs 1 lost, birds as before.
OUTCOMES = [
    *[("dog", True, True)] * 6,
    *[("dog", True, False)] * 1,
    *[("dog", False, False)] * 3,
    *[("cat", False, True)] * 8,
    *[("cat", True, True)] * 1,
    *[("cat", False, False)] * 1,
    *[("bird", True, True)] * 10,
]


def table(*rows: tuple[int, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["index", "actual", "predicted"])


def tables(outcomes: Iterable[tuple[str, bool, bool]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of two networks from (class, whether the first is right, whether the second is)."""
    first, second = (
        table(*((index, row[0], row[0] if row[network] else "another") for index, row in enumerate(outcomes)))
        for network in (1, 2)
    )
    return first, second


def test_images_are_counted_by_which_network_is_right() -> None:
    result = compare_predictions(*tables(OUTCOMES))
    assert result.count == 30
    assert (result.right_in_both, result.right_in_first_only) == (17, 1)
    assert (result.right_in_second_only, result.wrong_in_both) == (8, 4)
    assert (result.first.value, result.first.interval) == (18 / 30, wilson_interval(18, 30))
    assert (result.second.value, result.second.interval) == (25 / 30, wilson_interval(25, 30))


def test_difference_is_that_of_the_flipped_images() -> None:
    paired = compare_predictions(*tables(OUTCOMES)).paired
    assert paired.difference == pytest.approx(7 / 30)
    assert paired.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # 0 or 1 heads, or tails, of 9 coins
    assert paired == compare_pairs(gained=8, lost=1, count=30)


def test_each_class_is_compared_with_p_adjusted() -> None:
    p_value = 2 / 2**8
    assert compare_predictions(*tables(OUTCOMES)).classes == [
        ClassDifference("bird", 10, 1.0, 1.0, 0.0, 1.0, 1.0, "no"),
        ClassDifference("cat", 10, 0.1, 0.9, 0.8, p_value, 3 * p_value, "up"),
        ClassDifference("dog", 10, 0.7, 0.6, -0.1, 1.0, 1.0, "no"),
    ]


@pytest.mark.parametrize(
    ("lost", "adjusted", "moved"),
    [
        # p = 1/64, 1/32, 1/32, 1: times 4 over the rank, and no more than that of the next rank.
        ((7, 6, 6, 0), [1 / 24, 1 / 24, 1 / 24, 1], ["down", "down", "down", "no"]),
        # p = 1/64, 1/32, 1/16, 1: the first two would be below 0.05, were they the only tests.
        ((7, 6, 5, 0), [1 / 16, 1 / 16, 1 / 12, 1], ["no", "no", "no", "no"]),
    ],
)
def test_classes_move_by_the_method_of_benjamini_and_hochberg(
    lost: tuple[int, ...], adjusted: list[float], moved: list[str]
) -> None:
    outcomes = []
    for name, count in zip("abcd", lost, strict=True):
        outcomes += [(name, True, False)] * count + [(name, True, True)] * (10 - count)
    classes = compare_predictions(*tables(outcomes)).classes
    assert [item.adjusted_p_value for item in classes] == pytest.approx(adjusted)
    assert [item.moved for item in classes] == moved


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (table((4, "cat", "cat")), "2 and 1 images"),
        (table((4, "cat", "cat"), (6, "dog", "cat")), "differs"),
        (table((4, "cat", "cat"), (5, "bird", "cat")), "differs"),
    ],
)
def test_tables_of_other_images_are_refused(second: pd.DataFrame, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compare_predictions(table((4, "cat", "dog"), (5, "dog", "dog")), second)

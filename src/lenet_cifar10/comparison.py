"""The answers of two networks to the same test images: how far they differ, and whether that is significant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from lenet_cifar10.results import Answer
from lenet_cifar10.statistics import Interval, PairedDifference, compare_pairs, wilson_interval

SIGNIFICANCE = 0.05  # a difference with a p-value below it is called significant


@dataclass(frozen=True)
class Accuracy:
    """A fraction of the test images, with the 95 % interval of it on images of this kind."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class ClassDifference:
    """A class of `count` test images: both accuracies, and the second minus the first.

    p_value is the probability of a difference at least as large if there were none; `moved` goes by adjusted_p_value,
    which allows for as many tests as there are classes.
    """

    name: str
    count: int
    first: float
    second: float
    difference: float
    p_value: float
    adjusted_p_value: float
    moved: Literal["up", "down", "no"]


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images. The counts are of images; those right in one only flipped."""

    count: int
    first: Accuracy
    second: Accuracy
    paired: PairedDifference
    right_in_both: int
    right_in_first_only: int
    right_in_second_only: int
    wrong_in_both: int
    classes: list[ClassDifference]


def difference_of_images(first: Sequence[Answer], second: Sequence[Answer]) -> str | None:
    """In what two tables are seen not to be of the same images in the same order; None where nothing shows it."""
    if len(first) != len(second):
        return f"{len(first):,} and {len(second):,} images"
    for row, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        if one.index != other.index:
            return f"row {row} is of image {one.index} and of image {other.index}"
        if one.actual != other.actual:
            return f"image {one.index} is of class {one.actual!r} and of class {other.actual!r}"
    return None


def compare_answers(first: Sequence[Answer], second: Sequence[Answer]) -> Comparison:
    """Compare two networks, image by image; each difference is the second minus the first.

    A class moved if its p-value, adjusted over the classes by the method of Y. Benjamini and Y. Hochberg (1995), is
    below `SIGNIFICANCE`: of the classes that are said to have moved, on average at most that share did by chance.

    Raises:
        ValueError: the tables are empty, or not of the same images.
    """
    if reason := difference_of_images(first, second):
        raise ValueError(reason)
    outcomes = [
        (one.predicted == one.actual, other.predicted == other.actual) for one, other in zip(first, second, strict=True)
    ]
    names = sorted({answer.actual for answer in first})
    members = [[outcome for answer, outcome in zip(first, outcomes, strict=True) if answer.actual == n] for n in names]
    tests = [_compare_outcomes(outcomes_of_class) for outcomes_of_class in members]
    adjusted = stats.false_discovery_control([test.p_value for test in tests], method="bh")
    return Comparison(
        count=len(outcomes),
        first=_accuracy([one for one, _ in outcomes]),
        second=_accuracy([other for _, other in outcomes]),
        paired=_compare_outcomes(outcomes),
        right_in_both=outcomes.count((True, True)),
        right_in_first_only=outcomes.count((True, False)),
        right_in_second_only=outcomes.count((False, True)),
        wrong_in_both=outcomes.count((False, False)),
        classes=[
            _describe_class(name, outcomes_of_class, test, float(p_value))
            for name, outcomes_of_class, test, p_value in zip(names, members, tests, adjusted, strict=True)
        ],
    )


def _compare_outcomes(outcomes: Sequence[tuple[bool, bool]]) -> PairedDifference:
    return compare_pairs(outcomes.count((False, True)), outcomes.count((True, False)), len(outcomes))


def _accuracy(rights: Sequence[bool]) -> Accuracy:
    return Accuracy(sum(rights) / len(rights), wilson_interval(sum(rights), len(rights)))


def _describe_class(
    name: str, outcomes: Sequence[tuple[bool, bool]], test: PairedDifference, adjusted_p_value: float
) -> ClassDifference:
    direction = "up" if test.difference > 0 else "down"
    return ClassDifference(
        name=name,
        count=len(outcomes),
        first=sum(one for one, _ in outcomes) / len(outcomes),
        second=sum(other for _, other in outcomes) / len(outcomes),
        difference=test.difference,
        p_value=test.p_value,
        adjusted_p_value=adjusted_p_value,
        moved=direction if adjusted_p_value < SIGNIFICANCE else "no",
    )

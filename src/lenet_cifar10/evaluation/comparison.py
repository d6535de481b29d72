"""The predictions of two networks for the same test images: how far they differ, and whether by more than chance."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lenet_cifar10.evaluation.statistics import Interval, PairedDifference, compare_pairs, wilson_interval

SIGNIFICANCE = 0.05  # a difference with a p-value below it is called significant

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Accuracy:
    """A fraction of the test images, with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class ClassDifference:
    """A class of `count` test images: both accuracies, and the second minus the first.

    `moved` goes by adjusted_p_value, which allows for as many tests as there are classes.
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
    """Two networks on the same `count` images. Images that are right in one only have flipped."""

    count: int
    first: Accuracy
    second: Accuracy
    paired: PairedDifference
    right_in_both: int
    right_in_first_only: int
    right_in_second_only: int
    wrong_in_both: int
    classes: list[ClassDifference]


def compare_predictions(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    """Compare two tables of predictions image by image; each difference is the second minus the first.

    A class moved if its p-value, adjusted over the classes by the method of Y. Benjamini and Y. Hochberg (1995), is
    below `SIGNIFICANCE`: of the classes reported as moved, on average at most that fraction moved by chance.

    Raises:
        ValueError: the tables are not of the same images.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first):,} and {len(second):,} images")
    if (first[["index", "actual"]].to_numpy() != second[["index", "actual"]].to_numpy()).any():
        raise ValueError("an index or an actual class differs")
    one, other = ((table["predicted"] == table["actual"]).to_numpy() for table in (first, second))
    classes = [(name, (first["actual"] == name).to_numpy()) for name in sorted(set(first["actual"]))]
    tests = [_compare(one[members], other[members]) for _, members in classes]
    adjusted = stats.false_discovery_control([test.p_value for test in tests], method="bh")
    return Comparison(
        count=len(one),
        first=_accuracy(one),
        second=_accuracy(other),
        paired=_compare(one, other),
        right_in_both=int((one & other).sum()),
        right_in_first_only=int((one & ~other).sum()),
        right_in_second_only=int((~one & other).sum()),
        wrong_in_both=int((~one & ~other).sum()),
        classes=[
            ClassDifference(
                name=name,
                count=int(members.sum()),
                first=float(one[members].mean()),
                second=float(other[members].mean()),
                difference=test.difference,
                p_value=test.p_value,
                adjusted_p_value=float(p_value),
                moved="no" if p_value >= SIGNIFICANCE else "up" if test.difference > 0 else "down",
            )
            for (name, members), test, p_value in zip(classes, tests, adjusted, strict=True)
        ],
    )


def _compare(first: Bools, second: Bools) -> PairedDifference:
    return compare_pairs(gained=int((~first & second).sum()), lost=int((first & ~second).sum()), count=len(first))


def _accuracy(right: Bools) -> Accuracy:
    return Accuracy(float(right.mean()), wilson_interval(int(right.sum()), len(right)))

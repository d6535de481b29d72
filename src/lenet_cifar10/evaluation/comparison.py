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


def find_other_images(first: pd.DataFrame, second: pd.DataFrame) -> str | None:
    """Why two tables of predictions are not of the same images in the same order; None where nothing shows it."""
    if len(first) != len(second):
        return f"{len(first):,} and {len(second):,} images"
    for column, label in (("index", "image"), ("actual", "class")):
        differs = first[column].to_numpy() != second[column].to_numpy()
        if differs.any():
            row = int(differs.argmax())
            values = first[column].iloc[row], second[column].iloc[row]
            return f"row {row + 1} is of {label} {values[0]} and of {label} {values[1]}"
    return None


def compare_predictions(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    """Compare two tables of predictions image by image; each difference is the second minus the first.

    A class moved if its p-value, adjusted over the classes by the method of Y. Benjamini and Y. Hochberg (1995), is
    below `SIGNIFICANCE`: of the classes reported as moved, on average at most that fraction moved by chance.

    Raises:
        ValueError: the tables are not of the same images.
    """
    if reason := find_other_images(first, second):
        raise ValueError(reason)
    actual = first["actual"].to_numpy()
    rights = [(table["predicted"] == table["actual"]).to_numpy() for table in (first, second)]
    names = sorted(set(actual))
    members = [[right[actual == name] for right in rights] for name in names]
    tests = [_compare(*rights_of_class) for rights_of_class in members]
    adjusted = stats.false_discovery_control([test.p_value for test in tests], method="bh")
    one, other = rights
    return Comparison(
        count=len(actual),
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
                count=len(rights_of_class[0]),
                first=float(rights_of_class[0].mean()),
                second=float(rights_of_class[1].mean()),
                difference=test.difference,
                p_value=test.p_value,
                adjusted_p_value=float(p_value),
                moved="no" if p_value >= SIGNIFICANCE else "up" if test.difference > 0 else "down",
            )
            for name, rights_of_class, test, p_value in zip(names, members, tests, adjusted, strict=True)
        ],
    )


def _compare(first: Bools, second: Bools) -> PairedDifference:
    return compare_pairs(gained=int((~first & second).sum()), lost=int((first & ~second).sum()), count=len(first))


def _accuracy(right: Bools) -> Accuracy:
    return Accuracy(float(right.mean()), wilson_interval(int(right.sum()), len(right)))

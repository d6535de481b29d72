"""Tables and figures that earlier stages wrote, read back and checked."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lenet_cifar10.errors import UserError


@dataclass(frozen=True)
class Range:
    """Numbers from low to high."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Answer:
    """What a network said of a test image: the names of two classes, and the probability of the predicted one."""

    index: int
    actual: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class ClassCount:
    """Of `count` images of a class, `right` were recognized."""

    name: str
    count: int
    right: int


NUMBERS, FRACTIONS, COUNTS = Range(), Range(0, 1), Range(1)


def read_table(path: Path, columns: Mapping[str, Collection[str] | Range], rows: int | None = None) -> pd.DataFrame:
    """Read a CSV and check the columns asked for: each holds some of the words given, or numbers of the range given.

    Raises:
        UserError: the file is missing, is no such table, or has no rows or not as many as `rows`.
    """
    try:
        # As text first: a class may be called "None" or "NA", which pandas would take for a missing value.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"it lacks the column {missing[0]}")
        for name, expected in columns.items():
            if isinstance(expected, Range):
                table[name] = pd.to_numeric(table[name])
                values = table[name].to_numpy(float)
                if np.isnan(values).any():  # a row was cut off
                    raise ValueError(f"column {name} has a gap")
                strange = values[(values < expected.low) | (values > expected.high)].tolist()
            else:
                strange = sorted(set(table[name]) - set(expected), key=str)
            if strange:
                raise ValueError(f"column {name} holds {strange[0]!r}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro, or git restore {path}") from None
    except ValueError as error:  # pandas raises kinds of it for what it can't parse
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is damaged ({reason}); lenet-cifar10 verify says how to repair it") from None
    if table.empty:
        raise UserError(f"{path}: has no rows; lenet-cifar10 verify says how to repair it")
    if rows not in (None, len(table)):
        raise UserError(
            f"{path}: has {len(table):,} rows, expected {rows:,}, one for each image; "
            f"lenet-cifar10 verify says how to repair it"
        )
    return table


def read_values(path: Path, numbers: Mapping[str, Range]) -> dict[str, Any]:
    """Read the named values of a JSON file and check the numbers asked for.

    Raises:
        UserError: the file is missing, holds no named values, or not one of these numbers.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro, or git restore {path}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); lenet-cifar10 verify says how to repair it") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected values with names; lenet-cifar10 verify says how to repair it")
    for name, expected in numbers.items():
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not expected.low <= value <= expected.high:
            raise UserError(
                f"{path}: {name}: found {value!r}, expected a number from {expected.low:g} to {expected.high:g}; "
                f"lenet-cifar10 verify says how to repair it"
            )
    return values


def count_right(pairs: Iterable[tuple[str, str]], names: Iterable[str]) -> list[ClassCount]:
    """Count (actual class, predicted class) by the actual class, in the order of the names; one may have no images."""
    counts = Counter(pairs)
    totals = Counter(actual for actual, _ in counts.elements())
    return [ClassCount(name, totals[name], counts[name, name]) for name in names]

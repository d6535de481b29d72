"""Tables and figures that earlier stages wrote, read back and checked."""

import csv
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lenet_cifar10.errors import VERIFY, UserError


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; without these, any that are finite."""

    low: float = -sys.float_info.max
    high: float = sys.float_info.max
    is_whole: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether it is such a number; True and False are none."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return not self.is_whole or value == int(value)

    def __str__(self) -> str:
        """How a message names it."""
        low = f" from {self.low:g}" if self.low > -sys.float_info.max else ""
        high = f" to {self.high:g}" if self.high < sys.float_info.max else ""
        return f"a {'whole ' if self.is_whole else ''}number{low}{high}"


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


_EXACT = 2**53  # up to here every whole number is a float
NUMBERS, FRACTIONS = Range(), Range(0, 1)
COUNTS, INDEXES = Range(1, _EXACT, is_whole=True), Range(0, _EXACT, is_whole=True)
WORDS = None

_OPTIONAL_TEST_FIGURES = {"loss": NUMBERS} | dict.fromkeys(
    ("accuracy_low", "accuracy_high", "accuracy_with_flips", "expected_calibration_error"), FRACTIONS
)

Columns = Mapping[str, Collection[str] | Range | None]


def read_table(path: Path, columns: Columns, rows: int | None = None) -> pd.DataFrame:
    """Read a CSV file as `parse_table` does.

    Raises:
        UserError: the file is missing, or as in `parse_table`.
    """
    return parse_table(_read(path), str(path), columns, rows)


def read_predictions(path: Path, class_names: Collection[str], count: int) -> pd.DataFrame:
    """The table of what a network said of `count` test images, a row an image in their order.

    Raises:
        UserError: as in `read_table`, or the rows are in another order.
    """
    columns = {"index": INDEXES, "actual": class_names, "predicted": class_names, "confidence": FRACTIONS}
    table = read_table(path, columns, rows=count)
    if table["index"].tolist() != list(range(count)):
        raise UserError(f"{path}: column index does not count the test images from 0 on; {VERIFY}")
    return table


def parse_table(
    content: bytes, place: str, columns: Columns, rows: int | None = None, remedy: str = VERIFY
) -> pd.DataFrame:
    """The columns asked for of a CSV file: each holds some of the words given, any words, or numbers of a range.

    Raises:
        UserError: it is no such table, or has no rows or not as many as `rows`; the line names `place` and `remedy`.
    """
    try:
        heads, *lines = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)) or [[]]
        if missing := [name for name in columns if name not in heads]:
            raise ValueError(f"it lacks the column {missing[0]}")
        for row, cells in enumerate(lines, 1):
            if len(cells) != len(heads):
                raise ValueError(f"row {row} has {len(cells)} cells, expected {len(heads)}")
        texts = {name: [cells[heads.index(name)] for cells in lines] for name in columns}
        table = pd.DataFrame({name: _parse_column(name, texts[name], expected) for name, expected in columns.items()})
    except (ValueError, csv.Error) as error:
        raise UserError(f"{place}: is damaged ({' '.join(str(error).split())}); {remedy}") from None
    if not lines:
        raise UserError(f"{place}: has no rows; {remedy}")
    if rows not in (None, len(lines)):
        raise UserError(f"{place}: has {len(lines):,} rows, expected {rows:,}, one for each image; {remedy}")
    return table


def parse_answers(content: bytes, place: str, remedy: str = VERIFY) -> list[Answer]:
    """The rows of a table of predictions, whatever the classes are called. Raises as `parse_table` does."""
    columns = {"index": INDEXES, "actual": WORDS, "predicted": WORDS, "confidence": FRACTIONS}
    table = parse_table(content, place, columns, remedy=remedy)
    return [Answer(**row) for row in table.to_dict("records")]


def read_values(path: Path, numbers: Mapping[str, Range]) -> dict[str, Any]:
    """Read a JSON file as `parse_values` does.

    Raises:
        UserError: the file is missing, or as in `parse_values`.
    """
    return parse_values(_read(path), str(path), numbers)


def parse_values(
    content: bytes,
    place: str,
    numbers: Mapping[str, Range],
    remedy: str = VERIFY,
    optional: Mapping[str, Range] | None = None,
) -> dict[str, Any]:
    """The named values of a JSON file, with these numbers; the optional ones may be missing, or null.

    Raises:
        UserError: it holds no named values, or not these numbers; the line names `place` and `remedy`.
    """
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is not JSON ({error}); {remedy}") from None
    _check_values(values, place, numbers, optional or {}, remedy)
    return values


def parse_test_figures(content: bytes, place: str, remedy: str = VERIFY) -> dict[str, Any]:
    """The figures of a test: `accuracy`, `per_class`, accuracies or null by the classes' names, and perhaps others.

    Raises:
        UserError: it is no such JSON file; the line names `place` and `remedy`.
    """
    values = parse_values(content, place, {"accuracy": FRACTIONS}, remedy, _OPTIONAL_TEST_FIGURES)
    shares = values.get("per_class")
    names = shares if isinstance(shares, dict) else ()
    _check_values(shares, f"{place}: per_class", {}, dict.fromkeys(names, FRACTIONS), remedy)
    return values


def count_right(pairs: Iterable[tuple[str, str]], names: Iterable[str]) -> list[ClassCount]:
    """Count (actual class, predicted class) by the actual class, in the order of the names; one may have no images."""
    counts = Counter(pairs)
    totals = Counter(actual for actual, _ in counts.elements())
    return [ClassCount(name, totals[name], counts[name, name]) for name in names]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro, or git restore {path}") from None


def _parse_column(name: str, texts: list[str], expected: Collection[str] | Range | None) -> list[Any]:
    values = [_number(text) for text in texts] if isinstance(expected, Range) else texts
    for text, value in zip(texts, values, strict=True):
        if (not value) if expected is None else value not in expected:
            raise ValueError(f"column {name} holds {text[:40]!r}" if text else f"column {name} has a gap")
    return [int(value) for value in values] if isinstance(expected, Range) and expected.is_whole else values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_values(
    values: Any, place: str, numbers: Mapping[str, Range], optional: Mapping[str, Range], remedy: str
) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{place}: expected values with names; {remedy}")
    for name, expected in {**numbers, **optional}.items():
        value = values.get(name)
        if value not in expected and not (value is None and name in optional):
            raise UserError(f"{place}: {name}: found {value!r:.40}, expected {expected}; {remedy}")

"""Tables read back: the values that were written, or one line that says what is wrong with the file."""

from pathlib import Path

import pytest

from lenet_cifar10.errors import UserError
from lenet_cifar10.results import COUNTS, FRACTIONS, NUMBERS, ClassCount, count_right, read_table


def test_a_class_called_none_is_read_as_a_name(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("index,actual,predicted\n0,None,NA\n")
    table = read_table(path, {"actual": ("None", "NA"), "predicted": ("None", "NA")})
    assert (table["actual"].tolist(), table["predicted"].tolist()) == (["None"], ["NA"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file; run dvc repro, or"),
        (b"", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"a\n1\n", "is damaged"),
        (b"actual,loss\ncat,ten\n", "is damaged"),
        (b"actual,loss\ncow,1\n", "is damaged .column actual holds 'cow'."),
        (b"actual,loss\ncat\n", "is damaged .column loss has a gap."),
        (b"actual,loss\ncat,0.2\ncat,-1\n", "is damaged .column loss holds -1.0."),
        (b"actual,loss\ncat,inf\n", "is damaged .column loss holds inf."),
        (b"actual,loss\n", "has no rows"),
        (b"actual,loss\ncat,0.5\n", "has 1 rows, expected 2, one for each image"),
    ],
)
def test_a_damaged_table_is_told_with_what_to_do(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"table.csv: {words}.*(git restore|verify says how)"):
        read_table(path, {"actual": ("cat",), "loss": FRACTIONS}, rows=2)


def test_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("epoch,loss\n1,0.5\n2,1e-3\n")
    table = read_table(path, {"epoch": COUNTS, "loss": NUMBERS})
    assert (table["epoch"].tolist(), table["loss"].tolist()) == ([1, 2], [0.5, 0.001])


def test_right_answers_are_counted_by_the_actual_class() -> None:
    pairs = [("cat", "cat"), ("dog", "cat"), ("cat", "dog"), ("cat", "cat")]
    assert count_right(pairs, ["dog", "cat", "bird"]) == [
        ClassCount("dog", 1, 0),
        ClassCount("cat", 3, 2),
        ClassCount("bird", 0, 0),
    ]
    assert count_right(iter(pairs), ["cat"]) == [ClassCount("cat", 3, 2)]

"""Tables read back: the values that were written, or one line that says what is wrong with the file."""

import json
from pathlib import Path

import pytest

from lenet_cifar10.errors import UserError
from lenet_cifar10.results import (
    COUNTS,
    FRACTIONS,
    INDEXES,
    NUMBERS,
    WORDS,
    Answer,
    ClassCount,
    Range,
    count_right,
    parse_answers,
    parse_table,
    parse_test_figures,
    parse_values,
    read_predictions,
    read_table,
    read_values,
)


def test_a_class_called_none_is_read_as_a_name(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("index,actual,predicted\n0,None,NA\n")
    table = read_table(path, {"actual": ("None", "NA"), "predicted": ("None", "NA")})
    assert (table["actual"].tolist(), table["predicted"].tolist()) == (["None"], ["NA"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file; run dvc repro, or"),
        (b"", "is damaged .it lacks the column actual."),
        (b"\xff\xfe\x00", "is damaged .'utf-8' codec can't decode"),
        (b"\x89PNG\r\n\x1a\n\x00", "is damaged .'utf-8' codec can't decode"),
        (b"a\n1\n", "is damaged .it lacks the column actual."),
        (b"actual,loss\ncat,ten\n", "is damaged .column loss holds 'ten'."),
        (b"actual,loss\ncow,1\n", "is damaged .column actual holds 'cow'."),
        (b"actual,loss\ncat,\n", "is damaged .column loss has a gap."),
        (b"actual,loss\n,0.5\n", "is damaged .column actual has a gap."),
        (b"actual,loss\ncat,0.5\ncat", "is damaged .row 2 has 1 cells, expected 2."),
        (b"actual,loss\ncat,0.5,9\n", "is damaged .row 1 has 3 cells, expected 2."),
        (b'actual,loss\n"cat,0.5\n', "is damaged .unexpected end of data."),
        (b"actual,loss\ncat,0.2\ncat,-1\n", "is damaged .column loss holds '-1'."),
        (b"actual,loss\ncat,inf\n", "is damaged .column loss holds 'inf'."),
        (b"actual,loss\ncat,nan\n", "is damaged .column loss holds 'nan'."),
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


def test_predictions_are_of_the_images_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    head, *rows = "index,actual,predicted,confidence\n", "0,cat,dog,0.5\n", "1,dog,dog,1\n"
    path.write_text("".join([head, *rows]))
    table = read_predictions(path, ("cat", "dog"), 2)
    assert table.to_dict("list") == {
        "index": [0, 1],
        "actual": ["cat", "dog"],
        "predicted": ["dog", "dog"],
        "confidence": [0.5, 1.0],
    }
    for wrong in (rows[::-1], rows[:1] * 2):
        path.write_text("".join([head, *wrong]))
        with pytest.raises(UserError, match="csv: column index does not count the test images from 0 on; lenet-cifar1"):
            read_predictions(path, ("cat", "dog"), 2)


def test_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("epoch,loss\n1,0.5\n2,1e-3\n")
    table = read_table(path, {"epoch": COUNTS, "loss": NUMBERS})
    assert (table["epoch"].tolist(), table["loss"].tolist()) == ([1, 2], [0.5, 0.001])


@pytest.mark.parametrize(
    ("expected", "cell"),
    [
        (COUNTS, "inf"),
        (COUNTS, "2.5"),
        (COUNTS, "0"),
        (COUNTS, "1e300"),
        (INDEXES, "-1"),
        (NUMBERS, "-inf"),
        (WORDS, ""),
    ],
)
def test_what_a_column_cannot_hold_is_refused(expected: Range | None, cell: str) -> None:
    with pytest.raises(UserError, match=r"table in calm: is damaged \(column value .*\); mend it"):
        parse_table(f"value,more\n{cell},1\n".encode(), "table in calm", {"value": expected}, remedy="mend it")


def test_only_the_columns_asked_for_are_kept_in_the_order_asked_for() -> None:
    table = parse_table(b"c,b,a\n1,0.5,x\n2,1,\n", "table", {"b": NUMBERS, "c": COUNTS})
    assert table.to_dict("list") == {"b": [0.5, 1.0], "c": [1, 2]}


def test_answers_are_read_with_their_columns_in_any_order_and_classes_of_any_name() -> None:
    content = 'confidence,predicted,extra,actual,index\n0.5,None,,"a, ""b""",7\n1,é,,NA,8\n'
    assert parse_answers(content.encode(), "table") == [Answer(7, 'a, "b"', "None", 0.5), Answer(8, "NA", "é", 1)]


@pytest.mark.parametrize("row", ["x,cat,dog,0.5", "0.5,cat,dog,0.5", "0,,dog,0.5", "0,cat,,0.5", "0,cat,dog,1.5"])
def test_answers_that_are_none_are_refused(row: str) -> None:
    with pytest.raises(UserError, match=r"^table in calm: is damaged \(column \w+ .*\); mend it$"):
        parse_answers(f"index,actual,predicted,confidence\n{row}\n".encode(), "table in calm", "mend it")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected values with names"),
        ("{}", "a: found None, expected a whole number from 1"),
        ('{"a": 1.5}', "a: found 1.5, expected a whole number from 1"),
        ('{"a": true}', "a: found True, expected a whole number from 1"),
        ('{"a": Infinity}', "a: found inf, expected a whole number from 1"),
        ('{"a": 1, "b": NaN}', "b: found nan, expected a number"),
        (f'{{"a": 1, "b": 1{"0" * 400}}}', "b: found 10*, expected a number"),
        ('{"a": 1, "b": "2"}', "b: found '2', expected a number"),
    ],
)
def test_values_that_are_none_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "values.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"values in calm: {words}.*; mend it$"):
        parse_values(content.encode(), "values in calm", {"a": COUNTS}, "mend it", {"b": NUMBERS})
    with pytest.raises(UserError, match=f"values.json: {words}.*; lenet-cifar10 verify says how"):
        read_values(path, {"a": COUNTS, "b": NUMBERS})


def test_optional_values_may_be_missing_or_null() -> None:
    for content in (b'{"a": 1}', b'{"a": 1, "b": null}', b'{"a": 1, "b": 0.5, "c": [2]}'):
        assert parse_values(content, "values", {"a": COUNTS}, optional={"b": NUMBERS}) == json.loads(content)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('"per_class": 3', "per_class: expected values with names"),
        ('"per_class": [0.5]', "per_class: expected values with names"),
        ('"per_class": {"cat": 2}', "per_class: cat: found 2, expected a number from 0 to 1"),
        ('"loss": 1', "per_class: expected values with names"),
        ('"per_class": {}, "accuracy_low": NaN', "accuracy_low: found nan, expected a number from 0 to 1"),
        ('"per_class": {}, "accuracy": true', "accuracy: found True, expected a number from 0 to 1"),
    ],
)
def test_test_figures_that_are_none_are_refused(more: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^test.json: {words}; mend it"):
        parse_test_figures(f'{{"accuracy": 0.5, {more}}}'.encode(), "test.json", "mend it")


def test_a_class_without_test_images_has_no_accuracy() -> None:
    found = {"accuracy": 0.5, "loss": None, "per_class": {"cat": None, "dog": 0.5}}
    assert parse_test_figures(json.dumps(found).encode(), "test.json") == found


def test_right_answers_are_counted_by_the_actual_class() -> None:
    pairs = [("cat", "cat"), ("dog", "cat"), ("cat", "dog"), ("cat", "cat")]
    assert count_right(pairs, ["dog", "cat", "bird"]) == [
        ClassCount("dog", 1, 0),
        ClassCount("cat", 3, 2),
        ClassCount("bird", 0, 0),
    ]
    assert count_right(iter(pairs), ["cat"]) == [ClassCount("cat", 3, 2)]

"""Files appear whole or not at all, and the same values give the same bytes."""

import csv
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_cifar10.records import replacing, temporary_path, write_csv, write_json

REPEATABLE = settings(deadline=None, derandomize=True, database=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def umask_027() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def replace_and_fail(path: Path, error: BaseException) -> None:
    with replacing(path) as (temporary,):
        temporary.write_text("half")
        raise error


def test_a_block_that_ends_well_replaces_the_file(path: Path) -> None:
    path.write_text("old")
    with replacing(path) as (temporary,):
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt("stop"), OSError(28, "stop")], ids=repr)
def test_a_block_that_fails_keeps_the_old_file_and_leaves_nothing(path: Path, error: BaseException) -> None:
    path.write_text("old")
    with pytest.raises(type(error), match="stop"):
        replace_and_fail(path, error)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_before_it_writes_keeps_its_own_error(path: Path) -> None:
    with pytest.raises(ValueError, match="nothing yet"), replacing(path):
        raise ValueError("nothing yet")
    assert list(path.parent.iterdir()) == []


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with replacing(path) as (temporary,):
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / "one" / "first", tmp_path / "second"]
    with replacing(*paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text("old")
    with pytest.raises(IsADirectoryError), replacing(*paths) as (first, _):
        tmp_path.write_text(first.read_text() + "new")
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == paths


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError, match=r"folder'$"), replacing(tmp_path / "folder" / "file"):
        pytest.fail("the block ran")


def test_an_error_names_the_path_and_not_the_temporary_one(path: Path) -> None:
    path.with_name(".file.part").mkdir()
    with pytest.raises(OSError, match="Is a directory") as caught, replacing(path):
        pytest.fail("the block ran")
    assert caught.value.filename == str(path)


def test_what_a_killed_process_left_is_overwritten(path: Path) -> None:
    (path.parent / ".file.part").write_text("a long rest of the process before")
    with replacing(path) as (temporary,):
        write_json(temporary, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_what_lies_where_the_temporary_file_goes_is_neither_waited_for_nor_written_through(path: Path) -> None:
    temporary, other = temporary_path(path), path.with_name("other")
    other.write_text("other")
    for make in (os.mkfifo, lambda place: place.symlink_to(other)):
        make(temporary)
        with replacing(path) as (place,):
            place.write_text("new")
        assert path.read_text() == "new"
        assert not temporary.exists()
    assert other.read_text() == "other"


@pytest.mark.usefixtures("umask_027")
def test_the_mode_follows_the_umask(path: Path) -> None:
    with replacing(path) as (temporary,):
        write_json(temporary, {})
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_linked_file_is_replaced_and_not_written_through(path: Path) -> None:
    """DVC can link a stage's outputs to its cache, which must not change."""
    cached = path.with_name("cached")
    cached.write_text("old")
    path.symlink_to(cached)
    with replacing(path) as (temporary,):
        write_json(temporary, {})
    assert cached.read_text() == "old"
    assert not path.is_symlink()


def test_json_has_null_for_numbers_it_cannot_hold(path: Path) -> None:
    write_json(path, {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": np.float64("nan"), "e": 0.5})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, {"c": None}], "d": None, "e": 0.5}


def test_json_keeps_the_order_of_keys_and_ends_with_a_line_end(path: Path) -> None:
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_bytes() == '{\n  "b": 1,\n  "a": "é"\n}\n'.encode()


def test_json_that_cannot_be_written_keeps_the_old_file(path: Path) -> None:
    path.write_text("old")
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert path.read_text() == "old"


def test_json_is_read_back(path: Path) -> None:
    write_json(path, {"a": [1, 0.1, None, "text"]})
    assert json.loads(path.read_text()) == {"a": [1, 0.1, None, "text"]}


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, replacing(path):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(path)


@REPEATABLE
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_csv_floats_read_back_as_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, floats: list[float]
) -> None:
    path = tmp_path_factory.getbasetemp() / "floats.csv"
    write_csv(path, [{"x": number} for number in floats])
    _, *rows = csv.reader(path.read_text().splitlines())
    assert [float(text) for (text,) in rows] == floats


def test_csv_has_a_header_line_ends_of_unix_and_quotes_where_needed(path: Path) -> None:
    write_csv(path, [{"name": "a,b", "value": 1}, {"name": "c", "value": None}])
    assert path.read_bytes() == b'name,value\n"a,b",1\nc,\n'


def test_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        write_csv(path, [{"x": 0.1 + 0.2}, {"x": 1e-300}])
    assert first.read_bytes() == second.read_bytes() == b"x\n0.30000000000000004\n1e-300\n"

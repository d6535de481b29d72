"""Files appear whole or not at all, and the same values give the same bytes."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_cifar10.common.files import (
    atomic_write,
    hash_file,
    parse_json,
    parse_table,
    read_json,
    read_table,
    write_json,
    write_table,
)
from lenet_cifar10.common.stage import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Have the system refuse more bytes of a file, in the middle of writing, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_is_replaced_and_its_folder_is_made(path: Path) -> None:
    umask = os.umask(0o027)
    atomic_write(path, "old")
    atomic_write(path, b"new")
    os.umask(umask)
    assert path.read_bytes() == b"new"
    assert hash_file(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file_and_is_reported_with_its_name(path: Path) -> None:
    atomic_write(path, "old")
    with largest_file(100_000), pytest.raises(OSError, match="File too large") as caught:
        atomic_write(path, bytes(1_000_000))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_overwritten(path: Path) -> None:
    path.parent.mkdir()
    (path.parent / ".file.part").write_text("half of a longer text")
    atomic_write(path, "new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_to_dvcs_cache_is_replaced_and_not_written_through(path: Path) -> None:
    cached = path.parent / "cached"
    atomic_write(cached, "old")
    path.symlink_to(cached)
    atomic_write(path, "new")
    assert cached.read_text() == "old"
    assert not path.is_symlink()


def test_json_keeps_order_and_letters_and_is_read_back(path: Path) -> None:
    values = {"b": [1, 0.1, None], "a": "é"}
    write_json(path, values)
    assert path.read_text() == '{\n  "b": [\n    1,\n    0.1,\n    null\n  ],\n  "a": "é"\n}\n'
    assert read_json(path) == values


def test_a_number_that_json_lacks_keeps_the_old_file(path: Path) -> None:
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b"1"])
def test_what_is_not_a_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^test\.json: .*; run dvc repro, or restore it$"):
        parse_json(content, "test.json")


def test_a_table_is_read_back_also_with_a_class_called_na(path: Path) -> None:
    table = pd.DataFrame({"class": ["NA", "null", "a,b", "é", ""], "images": [1, 2, 3, 4, 5], "accuracy": [0.1] * 5})
    write_table(path, table)
    assert path.read_bytes().startswith(b'class,images,accuracy\nNA,1,0.1\nnull,2,0.1\n"a,b",3,0.1\n')
    read = read_table(path, ["class", "accuracy"])
    assert read.to_dict("list") == table.to_dict("list")
    numbers = pd.DataFrame({"class": [7, 8]})
    write_table(path, numbers)
    assert read_table(path, {"class": str})["class"].tolist() == ["7", "8"]


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_are_read_back_exactly(floats: list[float]) -> None:
    content = pd.DataFrame({"x": floats}).to_csv(index=False)
    assert parse_table(content.encode(), "test.csv", ["x"])["x"].tolist() == floats


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not CSV"),
        (b"\xff\xfe\x00", "is not CSV"),
        (b"index,count\n1,2,3\n4,5,6,7\n", "is not CSV"),
        (b"index,count\n1,many\n", "is not CSV"),
        (b"index,counts\n1,2\n", "has no column count"),
        (b"index,count\n", "has no rows"),
    ],
)
def test_what_is_not_the_table_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^test\.csv: {reason}.*; run dvc repro, or restore it$"):
        parse_table(content, "test.csv", {"index": int, "count": int})


def test_a_missing_file_says_what_to_do(path: Path) -> None:
    for read in (read_json, lambda path: read_table(path, [])):
        with pytest.raises(UserError, match="file: no such file; run dvc repro, or dvc checkout"):
            read(path)

"""Files that appear whole or not at all, and have the same bytes for the same values."""

import fcntl
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pandas as pd

from lenet_cifar10.common.stage import UserError


def atomic_write(path: Path, content: bytes | str) -> None:
    """Replace the file at `path`, or leave it as it was; its folder is made where it is missing.

    Raises:
        OSError: named after `path`.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, message: str) -> Iterator[IO[bytes]]:
    """Hold a lock on a file, which is made where it is missing; say `message` and wait if another process holds it.

    The lock ends with the process, so a killed one leaves none. On a file system without locks nothing waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        with suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(message, file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as indented JSON, in the order given."""
    atomic_write(path, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        UserError: the file is missing, or is not a JSON object.
    """
    return parse_json(_read(path), str(path))


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """The values of a JSON object; messages call it `name`.

    Raises:
        UserError: it is not a JSON object.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: is not JSON ({error}); run dvc repro, or restore it") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{name}: found a {type(values).__name__}, expected a JSON object; run dvc repro, or restore it"
        )
    return values


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV: floats in the shortest form that reads back as the same number, no index."""
    atomic_write(path, table.to_csv(index=False, lineterminator="\n"))


def read_table(path: Path, columns: Sequence[str] | Mapping[str, type]) -> pd.DataFrame:
    """Read what `write_table` wrote.

    Raises:
        UserError: the file is missing, is not CSV, has no rows, or lacks one of the columns.
    """
    return parse_table(_read(path), str(path), columns)


def parse_table(content: bytes, name: str, columns: Sequence[str] | Mapping[str, type]) -> pd.DataFrame:
    """The rows of a CSV file; messages call it `name`. `columns` may map names to types: a class called 7 is then text.

    Raises:
        UserError: it is not CSV, has no rows, or lacks one of the columns or has other types in it.
    """
    types: Any = dict(columns) if isinstance(columns, Mapping) else None
    try:
        # A class may be called NA, which is not a missing value.
        table = pd.read_csv(io.BytesIO(content), dtype=types, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{name}: is not CSV ({' '.join(str(error).split())}); run dvc repro, or restore it") from None
    if missing := [column for column in columns if column not in table]:
        raise UserError(f"{name}: has no column {missing[0]}; run dvc repro, or restore it")
    if table.empty:
        raise UserError(f"{name}: has no rows; run dvc repro, or restore it")
    return table


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro, or dvc checkout") from None

"""What a revision has of some files and folders, read at once; what it lacks is left out."""

import csv
import io
import math
import os
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCM, RevError

from lenet_cifar10.errors import UserError
from lenet_cifar10.revisions import WORKSPACE, project_root


def read_files(places: Collection[str], revision: str = WORKSPACE) -> dict[str, bytes]:
    """The content of files and of all files in folders, by their paths from the project's folder.

    What is not there, or goes while it is being read, is left out: DVC removes a stage's outputs before it runs.

    Raises:
        UserError: there is no such revision.
    """
    root = project_root()
    if revision == WORKSPACE:
        return {path: content for path in _list(root, places) if (content := _read(root / path)) is not None}
    try:
        with closing(SCM(str(root))) as repository:  # whose folders DVC's reader counts from
            folder = root.resolve().relative_to(Path(repository.root_dir).resolve())
        contents = {}
        with Repo.open(str(root), rev=revision, subrepos=True, uninitialized=True) as repo:
            files = DVCFileSystem(repo, subrepos=True)
            for place in places:
                start = (folder / place).as_posix()
                for path in sorted(files.find(start)) if files.exists(start) else []:
                    with files.open(path, mode="rb") as file:
                        contents[Path(path.lstrip("/")).relative_to(folder).as_posix()] = file.read()
        return contents
    except RevError:
        raise UserError(f"{revision}: is no commit, branch, tag or experiment; see git log or dvc exp list") from None
    except DvcException as error:
        raise UserError(f"{revision}: DVC cannot read it: {' '.join(str(error).split())}") from None


def read_table(content: bytes, place: str, numbers: Sequence[str], words: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a CSV file with the columns asked for: finite numbers, and words.

    Raises:
        UserError: it is no such table; the line names `place`.
    """
    try:
        table = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
        if not table:
            raise ValueError("it has no rows")
        if missing := [name for name in (*numbers, *words) if name not in table[0]]:
            raise ValueError(f"it lacks the column {missing[0]}")
        rows = []
        for line, row in enumerate(table, 2):
            if any(row[name] is None for name in (*numbers, *words)):
                raise ValueError(f"row {line - 1} is cut off")
            rows.append({name: row[name] for name in words} | {name: _number(row[name], name) for name in numbers})
    except (ValueError, csv.Error) as error:
        raise UserError(f"{place}: is damaged ({error}); lenet-cifar10 verify says how to repair it") from None
    return rows


def _number(text: str, column: str) -> float | int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"column {column} holds {text[:40]!r}")
    return int(value) if value.is_integer() else value


def _list(root: Path, places: Collection[str]) -> list[str]:
    """The files there, each folder's in the order of their names."""
    paths = []
    for place in places:
        # Unlike Path.rglob, os.walk goes on when a folder goes.
        below = [Path(folder, name) for folder, _, names in os.walk(root / place) for name in names]
        paths += [path.relative_to(root).as_posix() for path in sorted(below) or [root / place] if path.is_file()]
    return paths


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None

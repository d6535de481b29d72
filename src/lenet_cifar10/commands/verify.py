"""Compare every output and its copy in DVC's cache with dvc.lock, byte by byte."""

import hashlib
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from rich.table import Table

from lenet_cifar10.errors import UserError
from lenet_cifar10.terminal import console, say


def verify() -> None:
    """Rehash every output in the workspace and in the cache, and name what differs from dvc.lock.

    DVC itself trusts a file whose time and size are unchanged, and a read-only file in its cache, without reading it.
    """
    try:
        repo = Repo()
        outputs = [(stage, out) for stage in repo.index.stages for out in stage.outs]
    except NotDvcRepoError:
        raise UserError(f"{Path.cwd()}: is in no DVC project; run this in the project's folder") from None
    except DvcException as error:
        raise UserError(f"dvc.yaml or dvc.lock cannot be read: {error}") from None
    table = Table("output", "workspace", "cache")
    mistakes = []
    for stage, out in outputs:
        name, path = str(out), Path(out.fs_path)
        expected = out.hash_info.value if out.hash_info else None
        if expected is None:
            table.add_row(name, "not in dvc.lock", "-")
            mistakes.append(f"{name}: is not in dvc.lock; run dvc repro {stage.addressing}")
            continue
        here = _compare(path, expected)
        if here != "as in dvc.lock":
            mistakes.append(f"{name}: {here}; {_repair(out, stage)}")
        there = "-"
        if out.use_cache:
            kept = Path(out.cache.oid_to_path(expected))
            there = _compare(kept, expected)
            if there != "as in dvc.lock":
                mistakes.append(f"{kept} (the cache's copy of {name}): {there}; {_repair_cache(kept, here, stage)}")
        table.add_row(name, here, there)
    console.print(table)
    if mistakes:
        raise UserError("\n".join(mistakes))
    say(f"{len(outputs)} outputs, all as in dvc.lock")


def _compare(path: Path, expected: str) -> str:
    if not path.exists():
        return "is missing"
    return "as in dvc.lock" if _hash(path) == expected else "differs"


def _hash(path: Path) -> str:
    """The MD5 of a file, or of a folder's list of files as DVC makes it."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    tree = Tree()
    for file in path.rglob("*"):
        if file.is_file():
            tree.add(file.relative_to(path).parts, None, HashInfo("md5", _hash(file)))
    tree.digest()
    return str(tree.hash_info.value if tree.hash_info else None)


def _repair(out: Any, stage: Any) -> str:
    if out.use_cache:
        return f"run dvc checkout --force {out}"
    return f"run git restore {out}, or dvc repro --force {stage.addressing}"


def _repair_cache(kept: Path, here: str, stage: Any) -> str:
    if here == "as in dvc.lock":
        return f"remove that file and run dvc commit --force {stage.addressing}"
    return f"remove that file and run dvc pull, or dvc repro --force {stage.addressing}"

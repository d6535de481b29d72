"""Compare every output and its copy in DVC's cache with dvc.lock, byte by byte."""

import hashlib
import shlex
from pathlib import Path

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from rich.table import Table

from lenet_cifar10.errors import UserError
from lenet_cifar10.terminal import console, say

AS_LOCKED = "as in dvc.lock"


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
        kept = Path(out.cache.oid_to_path(expected)) if out.use_cache else None
        here, there = _compare(path, expected), _compare(kept, expected) if kept else "-"
        table.add_row(name, here, there)
        wrong_here, wrong_copy = here != AS_LOCKED, kept if kept and there != AS_LOCKED else None
        repair = _repair(name, wrong_here, wrong_copy, out.use_cache, stage.addressing)
        if wrong_here:
            mistakes.append(f"{name}: {here}; {repair}")
        if wrong_copy:
            mistakes.append(f"{wrong_copy} (the cache's copy of {name}): {there}; {repair}")
    console.print(table)
    if mistakes:
        raise UserError("\n".join(mistakes))
    say(f"{len(outputs)} outputs, all as in dvc.lock")


def _compare(path: Path, expected: str) -> str:
    if not path.exists():
        return "is missing"
    return AS_LOCKED if _hash(path) == expected else "differs"


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


def _repair(name: str, wrong_here: bool, wrong_copy: Path | None, cached: bool, stage: str) -> str:
    """The command line that puts right whichever of an output and its copy in the cache is wrong."""
    rerun = f"dvc repro --force --single-item {stage}"
    if wrong_copy and wrong_here:
        return f"run {shlex.join(['rm', '-rf', str(wrong_copy), name])} && {rerun}"
    if wrong_copy:  # dvc commit would do, but takes whatever else has changed for right
        copy, protect = ["cp", "--remove-destination", name, str(wrong_copy)], ["chmod", "444", str(wrong_copy)]
        return f"run mkdir -p {shlex.quote(str(wrong_copy.parent))} && {shlex.join(copy)} && {shlex.join(protect)}"
    if cached:
        return f"run rm -rf {name} && dvc checkout {name}"  # checkout alone would trust the file's time and size
    return f"run git restore {name}, or {rerun}"

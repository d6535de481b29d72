"""Every output and its copy in DVC's cache against dvc.lock, byte by byte."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.fs import GitFileSystem
from dvc.output import Output
from dvc.repo import Repo
from dvc.scm import RevError
from dvc_data.hashfile.hash import file_md5
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.fs.local import localfs
from scmrepo.git import Git

from lenet_cifar10.errors import UserError

AS_LOCKED = "as in dvc.lock"


@dataclass(frozen=True)
class Finding:
    """One output: what is said of it in the workspace and in the cache, and a line for each complaint."""

    output: str
    workspace: str
    cache: str
    complaints: list[str]


def find_differences() -> Iterator[Finding]:
    """Rehash every output of the DVC project around the current folder.

    Raises:
        UserError: there is no project, or DVC cannot read it.
    """
    try:
        repo = Repo()
        outputs = [out for stage in repo.index.stages for out in stage.outs]
    except NotDvcRepoError:
        raise UserError(f"{Path.cwd()}: is in no DVC project; run this in the project's folder") from None
    except DvcException as error:
        raise UserError(f"DVC cannot read the project: {error}") from None
    for out in outputs:
        expected = str(out.hash_info.value) if out.hash_info else None
        if expected is None:
            row, found = ("not in dvc.lock", "-"), [f"{out}: is not in dvc.lock; run dvc repro {out.stage.addressing}"]
        elif out.use_cache:
            row, found = _compare_cached(repo, out, expected)
        else:
            row, found = _compare_tracked(repo, out, expected)
        yield Finding(str(out), *row, found)


def _compare_cached(repo: Repo, out: Output, expected: str) -> tuple[tuple[str, str], list[str]]:
    """What is said of an output in the workspace and in the cache, and the complaints."""
    name, copy = _name(repo, out), Path(out.cache.oid_to_path(expected))
    kept = shlex.quote(str(copy))
    here, there = (_compare(_hash_files(path), expected) for path in (Path(out.fs_path), copy))
    if here == AS_LOCKED:
        # dvc commit would do, but takes whatever else has changed for right.
        folder = shlex.quote(str(copy.parent))
        repair = f"{_go(repo)}mkdir -p {folder} && rm -rf {kept} && cp {name} {kept} && chmod 444 {kept}"
    elif there == AS_LOCKED:
        repair = (
            f"{_go(repo)}rm -rf {name} && dvc checkout {name}"  # checkout alone would trust the file's time and size
        )
    else:
        repair = f"{_go(repo)}rm -rf {kept} {name} && {_rerun(out)}"
    complaints = {str(out): here, f"{copy} (the cache's copy of {out})": there}
    return (here, there), [f"{what}: {said}; run {repair}" for what, said in complaints.items() if said != AS_LOCKED]


def _compare_tracked(repo: Repo, out: Output, expected: str) -> tuple[tuple[str, str], list[str]]:
    """The same of an output that Git keeps instead of the cache."""
    files = _hash_files(Path(out.fs_path))
    here = _compare(files, expected)
    if here == AS_LOCKED:
        return (here, "-"), []
    committed = _hash_committed_files(repo, out)
    if _compare(committed, expected) != AS_LOCKED:
        return (here, "-"), [f"{out}: {here}; run {_go(repo)}{_rerun(out)}"]
    names = sorted(name for name in files.keys() | committed.keys() if name and files.get(name) != committed.get(name))
    named = f" ({', '.join(names)})" if files and names else ""
    name = _name(repo, out)
    # Without rm, Git would trust the file's time and size, and leave a file that is too much.
    return (here, "-"), [f"{out}: {here}{named}; run {_go(repo)}rm -rf {name} && git checkout HEAD -- {name}"]


def _name(repo: Repo, out: Output) -> str:
    """An output's path from the project's folder, for a shell."""
    return shlex.quote(os.path.relpath(out.fs_path, repo.root_dir))


def _go(repo: Repo) -> str:
    """The start of a command line: what is to be removed may be the current folder."""
    return "" if Path.cwd() == Path(repo.root_dir) else f"cd {shlex.quote(repo.root_dir)} && "


def _rerun(out: Output) -> str:
    return f"dvc repro --force --single-item {out.stage.addressing}"


def _compare(files: dict[str, str], expected: str) -> str:
    if not files:
        return "is missing"
    found = files.get("")
    if found is None:  # a folder, whose hash is that of its list of files
        tree = Tree()
        for name, md5 in files.items():
            tree.add(tuple(name.split("/")), None, HashInfo("md5", md5))
        tree.digest()
        found = tree.hash_info.value if tree.hash_info else None
    return AS_LOCKED if found == expected else "differs"


def _hash_files(path: Path) -> dict[str, str]:
    """The MD5 of each file below a folder by its name there, or of a file under the name of nothing.

    What is no file that can be read has words instead, which are no MD5.
    """
    if not path.is_dir():
        return {"": _hash(path)} if path.exists() or path.is_symlink() else {}
    unreadable: list[OSError] = []
    found = []
    for folder, folders, files in os.walk(path, onerror=unreadable.append):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        found += [Path(folder, name) for name in files + links]
    found += [Path(error.filename) for error in unreadable]
    return {entry.relative_to(path).as_posix(): _hash(entry) for entry in found}


def _hash(path: Path) -> str:
    if not path.is_file():  # reading from a pipe would wait for ever
        return "no file"
    try:
        return file_md5(str(path), localfs)
    except OSError as error:
        return error.strerror or "unreadable"


def _hash_committed_files(repo: Repo, out: Output) -> dict[str, str]:
    """The same of an output in Git's last commit; nothing where there is none."""
    scm = repo.scm
    if not isinstance(scm, Git):
        return {}
    path = Path(out.fs_path).relative_to(scm.root_dir).as_posix()
    try:
        files = GitFileSystem(scm=scm, rev="HEAD")
        names = [path] if files.isfile(path) else files.find(path)
        return {name.removeprefix(path).lstrip("/"): file_md5(name, files) for name in names}
    except RevError:  # no commit yet
        return {}

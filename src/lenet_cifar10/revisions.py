"""The project's files as they are in the workspace, a commit, a branch, a tag or an experiment, read through DVC."""

import os
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dvc.api
import scmrepo.exceptions
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException, NotDvcRepoError, PathMissingError
from dvc.exceptions import IsADirectoryError as DvcIsADirectoryError
from dvc.repo import Repo
from dvc.scm import SCM, RevError, SCMError, resolve_rev

from lenet_cifar10 import yaml_text
from lenet_cifar10.errors import UserError
from lenet_cifar10.results import Range, parse_values

WORKSPACE = "workspace"  # DVC's word for what is not committed
REMEDY = "run dvc repro, or name a revision that is whole"  # of a result that is damaged


class MissingFileError(UserError):
    """A revision that does exist has no such file."""


@dataclass(frozen=True)
class Lock:
    """What dvc.lock tells of a run.

    hashes: MD5s of the stages' outputs by their paths; params: the parameters that some stage ran with, by their dotted
    keys (where to fetch the archive is none of them), of several values that of the first stage; replaced: for each
    stage those of its inputs that were made anew after it had read them.
    """

    hashes: dict[str, str]
    params: dict[str, Any]
    replaced: dict[str, frozenset[str]]

    def params_of_run(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params`, those of params.yaml, in their order, but with the values that the run had."""
        return {**params, **self.params}


def project_root() -> Path:
    """The folder of the DVC project around the current folder.

    Raises:
        UserError: there is none.
    """
    try:
        return Path(Repo.find_root())
    except NotDvcRepoError:
        raise UserError(f"{Path.cwd()}: is in no DVC project; run this in the project's folder") from None


def read_bytes(path: str, revision: str = WORKSPACE) -> bytes:
    """The content of a file, named from the project's folder, that Git tracks or that DVC's cache or remote has.

    Raises:
        MissingFileError: the revision has no such file.
        UserError: there is no such revision, or DVC cannot read it.
    """
    root = project_root()
    place = describe(path, revision)
    try:
        if revision == WORKSPACE:
            return (root / path).read_bytes()
        commit, folder = _find_commit(root, revision)
        with dvc.api.open(str(folder / path), repo=str(root), rev=commit, mode="rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PathMissingError, DvcIsADirectoryError):
        found = "is not there"
        if revision != WORKSPACE and path != "dvc.lock" and read_hash(path, revision) is not None:
            found = "is in dvc.lock, but in neither Git nor DVC's cache nor a remote"
        raise MissingFileError(f"{place}: {found}; run dvc repro, or name a commit or experiment that has it") from None
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{place}: DVC cannot read it ({reason}); name a commit or experiment that is whole") from None


def read_files(places: Collection[str], revision: str = WORKSPACE) -> dict[str, bytes]:
    """The content of files and of all files in folders, by their paths from the project's folder.

    What is not there, or goes while it is being read, is left out: DVC removes a stage's outputs before it runs.

    Raises:
        UserError: there is no such revision, or DVC cannot read it.
    """
    root, contents = project_root(), {}
    if revision == WORKSPACE:
        for path in _list(root, places):
            with suppress(FileNotFoundError):
                contents[path.relative_to(root).as_posix()] = path.read_bytes()
        return contents
    commit, folder = _find_commit(root, revision)
    try:
        with Repo.open(str(root), rev=commit, subrepos=True, uninitialized=True) as repo:
            files = DVCFileSystem(repo, subrepos=True)
            for start in ((folder / place).as_posix() for place in places):
                for path in sorted(files.find(start)) if files.exists(start) else []:
                    with suppress(FileNotFoundError), files.open(path, mode="rb") as file:
                        contents[Path(path.lstrip("/")).relative_to(folder).as_posix()] = file.read()
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{revision}: DVC cannot read it ({reason}); name a commit or experiment that is whole"
        ) from None
    return contents


def stat_files(places: Collection[str]) -> list[tuple[str, int, int]]:
    """Path, time of change in ns and size of the workspace's files in these places: the same as long as they are."""
    found = []
    for path in _list(project_root(), places):
        with suppress(FileNotFoundError):
            found.append((str(path), path.stat().st_mtime_ns, path.stat().st_size))
    return found


def read_json(path: str, revision: str = WORKSPACE, numbers: Mapping[str, Range] | None = None) -> dict[str, Any]:
    """The named values in a JSON file, with these numbers.

    Raises:
        UserError: as in `read_bytes`, or the file holds no named values, or not these numbers.
    """
    return parse_values(read_bytes(path, revision), describe(path, revision), numbers or {}, REMEDY)


def read_params(revision: str = WORKSPACE) -> dict[str, Any]:
    """The values in params.yaml by their dotted keys, unchecked: another revision may have other keys.

    Raises:
        UserError: as in `read_bytes`, or the file is not YAML with sections.
    """
    return dict(_flatten(_read_yaml("params.yaml", revision)))


def read_lock(revision: str = WORKSPACE) -> Lock:
    """What dvc.lock tells of the run, or nothing where there is no dvc.lock.

    Raises:
        UserError: there is no such revision, or dvc.lock is not one.
    """
    try:
        stages = _read_yaml("dvc.lock", revision).get("stages", {})
        hashes = {output["path"]: output["md5"] for stage in stages.values() for output in stage.get("outs", [])}
        params = [p for stage in stages.values() for p in _flatten(stage.get("params", {}).get("params.yaml", {}))]
        replaced = {
            name: frozenset(
                item["path"] for item in stage.get("deps", []) if hashes.get(item["path"], item["md5"]) != item["md5"]
            )
            for name, stage in stages.items()
        }
    except MissingFileError:
        return Lock({}, {}, {})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{describe('dvc.lock', revision)}: is damaged; {_restore('dvc.lock', revision)}") from None
    return Lock(hashes, dict(reversed(params)), replaced)


def read_hash(path: str, revision: str = WORKSPACE) -> str | None:
    """The MD5 that dvc.lock has for a stage's output; None where it has none, or where there is no dvc.lock.

    Raises:
        UserError: as in `read_lock`.
    """
    return read_lock(revision).hashes.get(path)


def describe(path: str, revision: str) -> str:
    """How a message names a file of a revision."""
    return path if revision == WORKSPACE else f"{path} in {revision}"


def _find_commit(root: Path, revision: str) -> tuple[str, Path]:
    """The hash of the commit that a revision or experiment is, and where the project lies in its repository."""
    name = revision or "''"
    unknown = UserError(f"{name}: is no commit, branch, tag or experiment; see git log or dvc exp list")
    try:
        with closing(SCM(str(root))) as repository:
            if not revision:  # Git would take HEAD
                raise unknown
            commit = resolve_rev(repository, revision)
            # A folder or file of a commit, such as HEAD:plots, resolves as well, but DVC's reader fails on it.
            commit = repository.resolve_rev(f"{commit}^{{commit}}")
            return commit, root.resolve().relative_to(Path(repository.root_dir).resolve())
    except (RevError, scmrepo.exceptions.RevError) as error:
        if "ambiguous" in str(error):
            raise UserError(f"{name}: is the name of several experiments; see dvc exp list -A, give a hash") from None
        raise unknown from None
    except SCMError:
        raise UserError(f"{root}: is no Git repository, so {name} cannot be found; name the workspace") from None


def _list(root: Path, places: Collection[str]) -> list[Path]:
    """The files there, each folder's in the order of their names."""
    paths = []
    for place in places:
        # Unlike Path.rglob, os.walk goes on when a folder goes.
        below = [Path(folder, name) for folder, _, names in os.walk(root / place) for name in names]
        paths += [path for path in sorted(below) or [root / place] if path.is_file()]
    return paths


def _read_yaml(path: str, revision: str) -> dict[str, Any]:
    try:
        values = yaml_text.parse(read_bytes(path, revision))
    except yaml_text.NotYamlError as error:
        raise UserError(
            f"{describe(path, revision)}: is not valid YAML ({error}); {_restore(path, revision)}"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{describe(path, revision)}: has no sections; {_restore(path, revision)}")
    return values


def _restore(path: str, revision: str) -> str:
    """What to do where a file that no stage writes is damaged."""
    return f"git restore {path}" if revision == WORKSPACE else "name a revision that is whole"


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        pairs += _flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs

"""The project's files as they are in the workspace, a commit, a branch, a tag or an experiment, read through DVC."""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dvc.api
import scmrepo.exceptions
from dvc.exceptions import DvcException, NotDvcRepoError, PathMissingError
from dvc.exceptions import IsADirectoryError as DvcIsADirectoryError
from dvc.repo import Repo
from dvc.scm import SCM, RevError, SCMError, resolve_rev
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lenet_cifar10.errors import UserError

WORKSPACE = "workspace"  # DVC's word for what is not committed


class MissingFileError(UserError):
    """A revision that does exist has no such file."""


@dataclass(frozen=True)
class Lock:
    """What dvc.lock tells of a run.

    hashes: MD5s of the stages' outputs by their paths; params: the parameters that some stage ran with, by their dotted
    keys (where to fetch the archive is none of them), of several values that of the first stage; replaced: outputs made
    anew after a later stage had read them.
    """

    hashes: dict[str, str]
    params: dict[str, Any]
    replaced: frozenset[str]


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


def read_json(path: str, revision: str = WORKSPACE) -> Any:
    """The values in a JSON file.

    Raises:
        UserError: as in `read_bytes`, or the file is not JSON.
    """
    try:
        return json.loads(read_bytes(path, revision))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{describe(path, revision)}: is not JSON ({error}); run dvc repro") from None


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
        stages = _read_yaml("dvc.lock", revision).get("stages", {}).values()
        outputs = [(output["path"], output["md5"]) for stage in stages for output in stage.get("outs", [])]
        inputs = [(item["path"], item["md5"]) for stage in stages for item in stage.get("deps", [])]
        params = [pair for stage in stages for pair in _flatten(stage.get("params", {}).get("params.yaml", {}))]
        hashes = dict(outputs)
    except MissingFileError:
        return Lock({}, {}, frozenset())
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{describe('dvc.lock', revision)}: is damaged; restore it, or run dvc repro") from None
    return Lock(hashes, dict(reversed(params)), frozenset(path for path, md5 in inputs if hashes.get(path, md5) != md5))


def read_hash(path: str, revision: str = WORKSPACE) -> str | None:
    """The MD5 that dvc.lock has for a stage's output; None where it has none, or where there is no dvc.lock.

    Raises:
        UserError: as in `read_lock`.
    """
    return read_lock(revision).hashes.get(path)


def read_run_params(revision: str = WORKSPACE) -> dict[str, Any]:
    """The parameters that a run had; those of params.yaml may have been changed since. Raises as `read_lock` does."""
    return read_lock(revision).params


def find_replaced(revision: str = WORKSPACE) -> frozenset[str]:
    """The outputs that were made anew after a later stage had read them. Raises as `read_lock` does."""
    return read_lock(revision).replaced


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


def _read_yaml(path: str, revision: str) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(read_bytes(path, revision).decode("utf-8"))
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{describe(path, revision)}: is not valid YAML: {reason}") from None
    if not isinstance(values, dict):
        raise UserError(f"{describe(path, revision)}: has no sections; restore it, or run dvc repro")
    return values


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        pairs += _flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs

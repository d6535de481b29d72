"""The project's files as they are in the workspace, a commit, a branch, a tag or an experiment, read through DVC.

All functions raise UserError for a revision that is unknown or cannot be read, and for a damaged file.
"""

import subprocess
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo

from lenet_cifar10.common.files import parse_json, parse_table
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml
from lenet_cifar10.data.synthetic import SHAPES
from lenet_cifar10.evaluation.card import CIFAR_10_SHA256

WORKSPACE = "workspace"  # DVC's word for what is not committed


class MissingFileError(UserError):
    """The revision exists, but has no such file."""


def project_root() -> Path:
    """The folder of the DVC project around the current folder.

    Raises:
        UserError: there is none, or DVC would hang in it.
    """
    try:
        root = Path(Repo.find_root())
    except NotDvcRepoError:
        raise UserError(f"{Path.cwd()}: is not in a DVC project; run this in the project's folder") from None
    if _git("rev-parse", "--shared-index-path", folder=root).stdout.strip():
        raise UserError(f"{root}: has a split index, with which DVC hangs; run git update-index --no-split-index")
    return root


def read_file(path: str, revision: str = WORKSPACE) -> bytes:
    """The content of a file that Git tracks or that DVC's cache or remote has; `path` starts at the project's folder.

    Raises:
        MissingFileError: the revision has no such file.
    """
    name = describe(path, revision)
    try:
        if revision == WORKSPACE:
            return (project_root() / path).read_bytes()
        files, prefix = _open(revision)
        return files.cat_file(f"/{prefix}{path}")
    except FileNotFoundError:
        raise MissingFileError(f"{name}: no such file; run dvc repro, or name a revision that has it") from None
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: DVC cannot read it ({reason}); name another revision") from None


def describe(path: str, revision: str) -> str:
    """How messages name a file of a revision."""
    return path if revision == WORKSPACE else f"{path} in {revision}"


def read_params(revision: str = WORKSPACE) -> dict[str, Any]:
    """The values of params.yaml by their dotted keys, not validated: another revision may have other keys."""
    name = describe("params.yaml", revision)
    values = parse_yaml(read_file("params.yaml", revision), name)
    if not isinstance(values, dict):
        raise UserError(f"{name}: has no sections; restore it with git restore, or name another revision")
    return _flatten(values)


def read_stages(revision: str = WORKSPACE) -> dict[str, Any]:
    """What dvc.lock records of each stage's last run; nothing without dvc.lock."""
    try:
        return parse_yaml(read_file("dvc.lock", revision), describe("dvc.lock", revision))["stages"]
    except MissingFileError:
        return {}


def params_of_run(stages: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the stages in dvc.lock ran with, by their dotted keys."""
    return {key: value for stage in stages.values() for key, value in _flatten(_params(stage)).items()}


def output_hashes(stages: dict[str, Any]) -> dict[str, str]:
    """The MD5s of the stages' outputs in dvc.lock, by their paths."""
    return {output["path"]: output["md5"] for stage in stages.values() for output in stage.get("outs", [])}


def differing_params(params: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The parameters that differ between revisions, by their dotted keys; None for a revision that has no such key."""
    values = {key: [some.get(key) for some in params] for key in dict.fromkeys(chain(*params))}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def describe_data(revision: str = WORKSPACE) -> str:
    """Which data the results of a revision are from, by the archive's hash in its dvc.lock, never by params.yaml."""
    stages = read_stages(revision).values()
    hashes = {_params(stage)["data.sha256"] for stage in stages if "data.sha256" in _params(stage)}
    if len(hashes) != 1:  # no dvc.lock, or new data that not all stages have seen yet
        return "data not recorded, see metrics/README.md"
    sha256 = hashes.pop()
    if sha256 == CIFAR_10_SHA256:
        return "CIFAR-10"
    try:
        name = describe("plots/per_class.csv", revision)
        table = parse_table(read_file("plots/per_class.csv", revision), name, {"class": str})
    except MissingFileError:
        return f"archive {sha256[:8]}…"
    return "generated images" if set(table["class"]) <= SHAPES.keys() else f"archive {sha256[:8]}…"


def describe_device(revision: str = WORKSPACE) -> str:
    """The device that a revision's network was trained on, as the stage train recorded it."""
    path = "data/model/environment.json"
    try:
        values = parse_json(read_file(path, revision), describe(path, revision))
    except MissingFileError:
        return "device not recorded, see metrics/README.md"
    return str(values.get("device_name") or values.get("device"))


def commit_of(revision: str = WORKSPACE) -> tuple[str, str] | None:
    """The short id and the date (YYYY-MM-DD) of a revision's commit; of HEAD for the workspace, None without Git."""
    commit = "HEAD" if revision == WORKSPACE else _open(revision)[0].repo.get_rev()
    result = _git("show", "--no-patch", "--format=%h %cs", commit)
    if result.returncode:
        return None
    short, date = result.stdout.split()
    return short, date


def _open(revision: str) -> tuple[Any, str]:
    """The DVCFileSystem of a revision, and the project's folder in its repository, such as "" or "part/"."""
    result = _git("rev-parse", "--show-prefix")
    if result.returncode:  # Git's own words name the cause, such as another owner, and the remedy
        raise UserError(f"{revision}: cannot be read ({' '.join(result.stderr.split())})")
    try:
        files = DVCFileSystem(str(project_root()), rev=revision, subrepos=True)
        files.repo  # noqa: B018 (it finds the revision now)
    except DvcException:
        raise UserError(
            f"{revision}: is no commit, branch, tag or experiment; see git log, or dvc exp list --all"
        ) from None
    return files, result.stdout.strip()


def _git(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A Git command in a folder, the project's if none is given."""
    return subprocess.run(["git", *words], cwd=folder or project_root(), capture_output=True, text=True, check=False)


def _params(stage: dict[str, Any]) -> dict[str, Any]:
    return stage.get("params", {}).get("params.yaml", {})


def _flatten(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

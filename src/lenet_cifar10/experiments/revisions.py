"""The project's files as they are in the workspace, a commit, a branch, a tag or an experiment, read through DVC."""

import subprocess
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo

from lenet_cifar10.common.files import parse_json, parse_table
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml

WORKSPACE = "workspace"  # DVC's word for what is not committed
OFFICIAL_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
GENERATED_CLASSES = {"checkers", "columns", "cross", "disc", "plus", "ring", "rows", "square", "star", "triangle"}


class MissingFileError(UserError):
    """The revision exists, but has no such file."""


def project_root() -> Path:
    """The folder of the DVC project around the current folder.

    Raises:
        UserError: there is none.
    """
    try:
        return Path(Repo.find_root())
    except NotDvcRepoError:
        raise UserError(f"{Path.cwd()}: is not in a DVC project; run this in the project's folder") from None


def read_file(path: str, revision: str = WORKSPACE) -> bytes:
    """The content of a file that Git tracks or that DVC's cache or remote has; `path` starts at the project's folder.

    Raises:
        MissingFileError: the revision has no such file.
        UserError: there is no such revision, or DVC cannot read it.
    """
    name = describe(path, revision)
    try:
        if revision == WORKSPACE:
            return (project_root() / path).read_bytes()
        files, prefix = _open(revision)
        return files.cat_file(f"/{prefix}{path}")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingFileError(f"{name}: no such file; run dvc repro, or name a revision that has it") from None
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: DVC cannot read it ({reason}); name another revision") from None


def describe(path: str, revision: str) -> str:
    """How messages name a file of a revision."""
    return path if revision == WORKSPACE else f"{path} in {revision}"


def read_params(revision: str = WORKSPACE) -> dict[str, Any]:
    """The values of params.yaml by their dotted keys, not validated: another revision may have other keys.

    Raises:
        UserError: as in `read_file`, or the file is not YAML with sections.
    """
    name = describe("params.yaml", revision)
    values = parse_yaml(read_file("params.yaml", revision), name)
    if not isinstance(values, dict):
        raise UserError(f"{name}: has no sections; restore it with git restore, or name another revision")
    return _flatten(values)


def read_lock(revision: str = WORKSPACE) -> dict[str, Any] | None:
    """The content of dvc.lock, or None if there is none.

    Raises:
        UserError: as in `read_file`, or dvc.lock is not YAML with stages.
    """
    name = describe("dvc.lock", revision)
    try:
        values = parse_yaml(read_file("dvc.lock", revision), name)
    except MissingFileError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("stages"), dict):
        raise UserError(f"{name}: has no stages; restore it with git restore, or name another revision")
    return values


def outdated_inputs(lock: dict[str, Any] | None, stage: str) -> list[str]:
    """The inputs of a stage that other stages wrote again after it had read them, by dvc.lock."""
    stages = lock["stages"] if lock else {}
    written = {output["path"]: output.get("md5") for other in stages.values() for output in other.get("outs", [])}
    inputs = stages.get(stage, {}).get("deps", [])
    return [item["path"] for item in inputs if written.get(item["path"], item.get("md5")) != item.get("md5")]


def describe_data(revision: str = WORKSPACE) -> str:
    """Which data the results of a revision are from, by the archive's hash in its dvc.lock, never by params.yaml.

    Raises:
        UserError: as in `read_lock`.
    """
    lock = read_lock(revision)
    sha256 = lock and _flatten(lock["stages"]).get("download.params.params.yaml.data.sha256")
    if not lock or not isinstance(sha256, str):
        return "data not recorded, see metrics/README.md"
    is_trained = _exists(
        "metrics/train.json", revision
    )  # while train runs, later stages have results of an earlier run
    stages = ["prepare", "train", "evaluate", "report"] if is_trained else ["prepare"]
    if any(path.startswith("data/") and "/model/" not in path for s in stages for path in outdated_inputs(lock, s)):
        return "data of several runs, run dvc repro"
    if sha256 == OFFICIAL_SHA256:
        return "CIFAR-10"
    if is_trained and _exists("plots/per_class.csv", revision):
        name = describe("plots/per_class.csv", revision)
        table = parse_table(read_file("plots/per_class.csv", revision), name, ["class"])
        if set(table["class"]) <= GENERATED_CLASSES:
            return "generated images"
    return f"archive {sha256[:8]}…"


def describe_device(revision: str = WORKSPACE) -> str:
    """The device that a revision's network was trained on, as the stage train recorded it.

    Raises:
        UserError: as in `read_file`, or the record is damaged.
    """
    path = "data/model/environment.json"
    try:
        values = parse_json(read_file(path, revision), describe(path, revision))
    except MissingFileError:
        return "device not recorded, see metrics/README.md"
    return str(values.get("device_name") or values.get("device"))


def commit_of(revision: str = WORKSPACE) -> tuple[str, str] | None:
    """The short id and the date (YYYY-MM-DD) of a revision's commit; of HEAD for the workspace, None without Git.

    Raises:
        UserError: there is no such revision.
    """
    if revision == WORKSPACE:
        result = _git("show", "--no-patch", "--format=%h %cs", "HEAD")
        if result.returncode:
            return None
    else:
        result = _git("show", "--no-patch", "--format=%h %cs", _open(revision)[0].repo.get_rev())
    short, date = result.stdout.split()
    return short, date


def _open(revision: str) -> tuple[Any, str]:
    """The DVCFileSystem of a revision, and the project's folder in its repository, such as "" or "part/"."""
    root = project_root()
    result = _git("rev-parse", "--show-prefix")
    if "safe.directory" in result.stderr:
        raise UserError(
            f"{root}: belongs to another user, so Git does not read {revision}; "
            f"if you trust it, run git config --global --add safe.directory '{root}'"
        )
    if result.returncode:
        raise UserError(f"{root}: is not in a Git repository, so {revision} cannot be read; name the workspace")
    try:
        if not revision or ":" in revision:  # DVC takes the first for the workspace, Git the second for a file
            raise DvcException(revision)
        files = DVCFileSystem(str(root), rev=revision, subrepos=True)
        files.repo  # noqa: B018 (it finds the revision now)
    except DvcException:
        raise UserError(
            f"{revision or repr('')}: is no commit, branch, tag or experiment; see git log, or dvc exp list --all"
        ) from None
    return files, result.stdout.strip()


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=project_root(), capture_output=True, text=True, check=False)


def _exists(path: str, revision: str) -> bool:
    try:
        read_file(path, revision)
    except MissingFileError:
        return False
    return True


def _flatten(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

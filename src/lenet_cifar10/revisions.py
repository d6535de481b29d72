"""The project's files as they are in the workspace, a commit, a branch, a tag or an experiment, read through DVC."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dvc.api
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lenet_cifar10.errors import UserError

WORKSPACE = "workspace"  # DVC's word for what is not committed


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
        UserError: there is no such revision, or no such file in it.
    """
    root = project_root()
    try:
        if revision == WORKSPACE:
            return (root / path).read_bytes()
        with dvc.api.open(path, repo=str(root), rev=revision, mode="rb") as file:
            return file.read()
    except RevError:
        raise UserError(f"{revision}: is no commit, branch, tag or experiment; see git log or dvc exp list") from None
    except (FileNotFoundError, IsADirectoryError, DvcException):
        raise UserError(
            f"{describe(path, revision)}: is not there; run dvc repro, or name a commit or experiment that has it"
        ) from None


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


def read_hash(path: str, revision: str = WORKSPACE) -> str | None:
    """The MD5 that dvc.lock has for a stage's output; None where it has none.

    Raises:
        UserError: as in `read_bytes`, or dvc.lock is not YAML.
    """
    stages = _read_yaml("dvc.lock", revision).get("stages", {})
    outputs = [output for stage in stages.values() for output in stage.get("outs", [])]
    return next((output.get("md5") for output in outputs if output.get("path") == path), None)


def describe(path: str, revision: str) -> str:
    """How a message names a file of a revision."""
    return path if revision == WORKSPACE else f"{path} in {revision}"


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

"""One configuration of the project as one DVC experiment, run in a copy of the project.

The experiment's name holds a digest of the code and the parameters: where the name exists already, its results are
used. Logs are below `FOLDER`.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from lenet_cifar10.common.console import say_aside
from lenet_cifar10.common.files import hash_file, locked, parse_json
from lenet_cifar10.common.params import Params, check_params, flatten, load_params
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml
from lenet_cifar10.experiments.revisions import read_file

FOLDER = Path(".checkpoints/experiments")  # Git and DVC ignore it

_DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
_PATIENCE_SECONDS = 30.0


class FailedRunError(UserError):
    """An experiment failed; the message has the reason and the path of its log."""


@dataclass(frozen=True)
class Configuration:
    """A hash of the code in the workspace, the settings that replace values of params.yaml, and all parameters."""

    code: str
    settings: dict[str, Any]
    params: Params

    def having(self, settings: Mapping[str, Any], source: str = "-S") -> "Configuration":
        """The same code with other parameters; messages call them `source`.

        Raises:
            UserError: one line for each mistake.
        """
        values: dict[str, Any] = self.params.model_dump()
        for key, value in settings.items():
            parent, _, name = key.rpartition(".")
            section = values.setdefault(parent, {}) if parent else values
            if not isinstance(section, dict):
                raise UserError(f"{source}: {key}: unknown key; {parent} is no section")
            section[name] = value
        return replace(self, settings={**self.settings, **settings}, params=check_params(values, source))

    def digest(self) -> str:
        """Eight hexadecimal digits of the code and the parameters; a mirror (data.urls) changes no result."""
        return short_hash([self.code, {**flatten(self.params), "data.urls": None}])


def short_hash(values: Any) -> str:
    """Eight hexadecimal digits of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def configure(root: Path, settings: Mapping[str, Any]) -> Configuration:
    """The project as it is in the workspace, with these values instead of those in params.yaml.

    Raises:
        UserError: a parameter is wrong, or DVC cannot run experiments there.
    """
    if not str(root).isascii():
        raise UserError(f"{root}: the path must be ASCII (a DVC limitation); move the project to another folder")
    if _read(root, "git", "rev-parse", "--is-shallow-repository", "HEAD").startswith("true"):
        raise UserError(f"{root}: is a shallow clone, where DVC loses experiments; run git fetch --unshallow")
    stages = parse_yaml((root / "dvc.yaml").read_bytes(), "dvc.yaml")["stages"].values()
    needed = {path for stage in stages for path in stage.get("deps", [])}
    code = sorted(path for path in needed if not path.startswith(("data/", "metrics/", "plots/")))
    paths = _read(root, "git", "ls-files", "-z", "--", "dvc.yaml", *code).split("\0")
    code_hash = short_hash({path: hash_file(root / path) for path in paths if (root / path).is_file()})
    return Configuration(code_hash, {}, load_params(root / "params.yaml")).having(settings)


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """The values of texts such as train.epochs=5, by their keys: what `dvc exp run -S` accepts, but one value each.

    Raises:
        UserError: a text is not KEY=VALUE, or has several values.
    """
    settings = {}
    for text in texts:
        key, equals, value = text.removeprefix("params.yaml:").partition("=")
        if not equals or not key or key[0] in "+~":
            raise UserError(f"-S {text}: expected KEY=VALUE with a key of params.yaml, such as train.epochs=5")
        settings[key] = parse_yaml(value, f"-S {text}")
        is_plain = isinstance(settings[key], str) and value.strip()[0] not in "'\""
        if is_plain and re.search(r",|^\s*(choice|range|interval|glob)\(", value):
            raise UserError(f"-S {text}: found several values, expected one; for a grid see dvc exp run --queue")
    return settings


def measure(root: Path, configuration: Configuration, name: str) -> dict[str, Any]:
    """The metrics of the experiment with this name, which `dvc exp run --temp` makes if it does not exist.

    Raises:
        FailedRunError: dvc failed.
        UserError: the code or params.yaml was changed after `configure`.
    """
    log = FOLDER / f"{name}.log"
    # One experiment at a time: while DVC starts one, it sets the workspace's changes aside.
    with locked(root / FOLDER / "lock", "another experiment runs in this clone; waiting for its end") as lock:
        if name not in list_experiments(root):
            if configure(root, configuration.settings).digest() != configuration.digest():
                raise UserError(f"{root}: the code or params.yaml was changed meanwhile; undo this, or start again")
            say_aside(f"{name}: runs; its output is in {log}")
            if status := _run(root, configuration, name, lock):
                text = (root / log).read_text("utf-8", errors="replace")
                reasons = re.findall("^error: (.*)", text, re.MULTILINE) or [f"dvc ended with {status}"]
                raise FailedRunError(f"{'; '.join(reasons)}; see {log}")
    train, test = (parse_json(read_file(f"metrics/{stage}.json", name), name) for stage in ("train", "test"))
    return train | test


def list_experiments(root: Path) -> set[str]:
    """The names of the project's experiments, of all its commits."""
    return set(_read(root, *_DVC, "exp", "list", "--all-commits", "--name-only").split())


def _run(root: Path, configuration: Configuration, name: str, lock: IO[bytes]) -> int:
    """Run dvc in a process group of its own, all of which ends when this is stopped; its exit status."""
    settings = [f"-S{key}={json.dumps(value, ensure_ascii=False)}" for key, value in configuration.settings.items()]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with (root / FOLDER / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(
            [*_DVC, "exp", "run", "--temp", "--name", name, *settings],
            cwd=root,
            env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"},  # the stages call `python`
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],  # should this process be killed, dvc keeps its turn until it ends
        )
    try:
        return process.wait()
    except BaseException:
        for number in (signal.SIGINT, signal.SIGKILL):  # after the first the stage saves its state, DVC tidies up
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(_PATIENCE_SECONDS)
        raise


def _read(root: Path, *command: str) -> str:
    """What a command prints in the project's folder."""
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = " ".join(result.stderr.split()) or f"status {result.returncode}"
        raise UserError(f"{root}: experiments need a DVC project in a Git repository with a commit ({reason})")
    return result.stdout

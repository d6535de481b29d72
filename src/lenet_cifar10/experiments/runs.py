"""One configuration of the project as one DVC experiment, run in a copy of the project.

The experiment's name holds a digest of the code and the parameters: where the name exists already, its results are
used. Logs are below `FOLDER`.
"""

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from lenet_cifar10.common.console import say_aside
from lenet_cifar10.common.files import hash_file, parse_json
from lenet_cifar10.common.params import Params, check_params, flatten, load_params
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml
from lenet_cifar10.experiments.revisions import read_file

FOLDER = Path(".checkpoints/experiments")  # Git and DVC ignore it

_DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
_METRICS = ("metrics/train.json", "metrics/test.json")
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
            *parents, name = key.split(".")
            section = values
            for parent in parents:
                if not isinstance(section.get(parent), dict):
                    section[parent] = {}  # no such section: the check below says so
                section = section[parent]
            section[name] = value
        return replace(self, settings={**self.settings, **settings}, params=check_params(values, source))

    def digest(self, *details: Any, without: Collection[str] = ()) -> str:
        """Eight hexadecimal digits of code, parameters and `details`; a mirror (data.urls) changes no result."""
        values = {key: value for key, value in flatten(self.params).items() if key not in {"data.urls", *without}}
        return _hash([self.code, values, *details])[:8]


def configure(root: Path, settings: Mapping[str, Any]) -> Configuration:
    """The project as it is in the workspace, with these values instead of those in params.yaml.

    Raises:
        UserError: a parameter is wrong, or DVC cannot run experiments there.
    """
    if not str(root).isascii():
        raise UserError(f"{root}: the path must be ASCII (a DVC limitation); move the project to another folder")
    if _read(root, "git", "rev-parse", "--is-shallow-repository", "HEAD").startswith("true"):
        raise UserError(f"{root}: is a shallow clone, where DVC loses experiments; run git fetch --unshallow")
    return Configuration(_hash_code(root), {}, load_params(root / "params.yaml")).having(settings)


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
    """The metrics of the experiment with this name, which is run if it does not exist.

    Raises:
        FailedRunError: the experiment failed.
        UserError: the code or params.yaml was changed after `configure`.
    """
    run_experiment(root, configuration, name)
    metrics: dict[str, Any] = {}
    for path in _METRICS:
        metrics |= parse_json(read_file(path, name), f"{path} in {name}")
    return metrics


def run_experiment(root: Path, configuration: Configuration, name: str) -> None:
    """Run `dvc exp run --temp` with this name and configuration, unless there is an experiment with this name.

    Raises:
        FailedRunError: dvc failed.
        UserError: the code or params.yaml was changed after `configure`.
    """
    log = FOLDER / f"{name}.log"
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with _turn(root / FOLDER) as turn:
        if name in list_experiments(root):
            return
        if configure(root, configuration.settings).digest() != configuration.digest():
            raise UserError(f"{root}: the code or params.yaml was changed meanwhile; undo this, or start again with it")
        say_aside(f"{name}: runs; its output is in {log}")
        settings = [f"-S{key}={json.dumps(value, ensure_ascii=False)}" for key, value in configuration.settings.items()]
        with (root / log).open("wb") as output:
            status = _call([*_DVC, "exp", "run", "--temp", "--name", name, *settings], root, output, turn)
    if status:
        lines = (root / log).read_text("utf-8", errors="replace").splitlines()
        reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise FailedRunError(f"{'; '.join(reasons) or f'dvc ended with {status}'}; see {log}")


def list_experiments(root: Path) -> set[str]:
    """The names of the project's experiments, of all its commits.

    Raises:
        UserError: dvc failed.
    """
    return set(_read(root, *_DVC, "exp", "list", "--all-commits", "--name-only").split())


@contextmanager
def _turn(folder: Path) -> Iterator[int]:
    """Let one experiment run at a time: while DVC starts one, it sets the workspace's changes aside."""
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say_aside("another experiment runs in this clone; waiting for its end")
            fcntl.flock(number, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield number
    finally:
        os.close(number)


def _call(command: Sequence[str], root: Path, output: IO[bytes], turn: int) -> int:
    """Run dvc in a process group of its own, all of which ends when this is stopped; its status."""
    process = subprocess.Popen(
        command,
        cwd=root,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=[turn],  # should this process be killed, dvc keeps its turn until it ends
    )
    try:
        return process.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):  # after the first the stage saves its state, DVC tidies up
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_SECONDS)


def _environment() -> dict[str, str]:
    """This Python first on PATH, because the stages call `python`; their output line by line, for the log."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}


def _hash_code(root: Path) -> str:
    """A hash of dvc.yaml and of the files that Git tracks among its dependencies, as they are in the workspace."""
    stages = parse_yaml((root / "dvc.yaml").read_bytes(), "dvc.yaml")["stages"].values()
    needed = {path for stage in stages for path in stage.get("deps", [])}
    written = [entry for stage in stages for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    code = needed.difference(*([entry] if isinstance(entry, str) else entry for entry in written))
    paths = _read(root, "git", "ls-files", "-z", "--", "dvc.yaml", *sorted(code)).split("\0")
    return _hash({path: hash_file(root / path) for path in paths if (root / path).is_file()})


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read(root: Path, *command: str) -> str:
    """What a command prints in the project's folder.

    Raises:
        UserError: it failed.
    """
    result = subprocess.run(command, cwd=root, env=_environment(), capture_output=True, text=True, check=False)
    if result.returncode:
        reason = " ".join(result.stderr.split()) or f"status {result.returncode}"
        raise UserError(f"{root}: experiments need a DVC project in a Git repository with a commit ({reason})")
    return result.stdout

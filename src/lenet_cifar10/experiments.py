"""A configuration of the project, run once as a whole DVC experiment in a copy, however often and by whomever.

`dvc exp run --temp` knows an experiment by a name that can be used once. Here the name holds a digest of the code and
the parameters, so an experiment that is there is the answer, also after a stop and for another process.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import BaseModel

from lenet_cifar10 import locks, terminal, yaml_text
from lenet_cifar10.errors import MEND, UserError
from lenet_cifar10.params import Params

FOLDER = Path(".resume/experiments")  # logs and locks; Git and DVC ignore it

_START_LOCK = FOLDER / "start.lock"
_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 10.0  # for a stage's and DVC's own clean-up
_STASH = "refs/exps/stash"  # where DVC puts an experiment for a moment; a process of its takes what it finds there
_TRAINING = "Running stage 'train'"  # DVC's line


class FailedError(UserError):
    """An experiment's parameters made it fail: the message has the reason and the file with its output."""


class StoppedError(Exception):
    """SIGINT or SIGTERM has come and the experiment that ran has been ended; what it had trained is kept."""


class Stop:
    """Whether SIGINT or SIGTERM has come, for any thread to look at."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.status = 0  # 128 + the signal's number

    def request(self, number: int, frame: FrameType | None = None) -> None:
        """Answer a signal."""
        self.status = 128 + number
        self.end()

    def end(self) -> None:
        """Have every thread stop, without a signal."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until a signal.

        Raises:
            StoppedError: one has come.
        """
        if self._event.wait(seconds):
            raise StoppedError


@contextmanager
def answering_signals() -> Iterator[Stop]:
    """Within the block SIGINT and SIGTERM request the stop instead of ending the program."""
    stop = Stop()
    before = {number: signal.signal(number, stop.request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def resumable(finished: Callable[[], int], total: int, say: Callable[[str], None]) -> Iterator[Stop]:
    """As `answering_signals`, around a command that goes on when it is given again; a stop and a mistake say so.

    Raises:
        SystemExit: a signal ended an experiment; with 128 + the signal's number.
    """

    def progress() -> str:
        return f"finished so far: {finished()} of {total}"

    with answering_signals() as stop:
        try:
            yield stop
        except StoppedError:
            say(f"stopped; {progress()}; give the same command again to go on")
            raise SystemExit(stop.status) from None
        except UserError:
            say(f"stopped by a mistake; {progress()}; mend it and give the same command again to go on")
            raise


@dataclass(frozen=True)
class Configuration:
    """The project as it was when it was looked at, and its checked parameters.

    `state` is a hash of dvc.yaml and the code files that it names; `overrides` made the parameters from params.yaml;
    `without` are the parameters that the digest leaves out.
    """

    state: str
    overrides: tuple[str, ...]
    params: Params
    without: frozenset[str]

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of code and parameters; of data.urls not, for a mirror changes nothing."""
        left_out = self.without | {"data.urls"}
        kept = {name: value for name, value in _flatten(self.params).items() if name not in left_out}
        return _digest([self.state, kept])[:8]

    def having(self, values: Mapping[str, Any]) -> "Configuration":
        """The same project with other parameters, by their dotted keys.

        Raises:
            UserError: one line for each that is wrong, alone or beside the others.
        """
        changed = self.params.model_dump()
        for key, value in values.items():
            *sections, name = key.split(".")
            section = changed
            for part in sections:
                section = section[part]
            section[name] = value
        settings = tuple(override_of(key, value) for key, value in values.items())
        params = Params.check(changed, "params.yaml with -S " + " -S ".join(settings))
        return replace(self, overrides=self.overrides + settings, params=params)


def configure(root: Path, overrides: Sequence[str] = (), without: Sequence[str] = ()) -> Configuration:
    """The configuration of the project at `root`, as it is in the workspace, with overrides such as train.epochs=5.

    Raises:
        UserError: an override or a parameter is wrong, or DVC cannot run an experiment there.
    """
    if not str(root).isascii():
        raise UserError(f"{root}: DVC needs a path of ASCII letters to run an experiment in a copy; clone elsewhere")
    for override in overrides:
        key_of(override)
    _git(root, "log", "-1")  # DVC needs a commit
    with _holding(root / _START_LOCK, Stop(), lambda: terminal.say_aside("waiting for an experiment that starts")):
        return _look_at(root, overrides, without)


def _look_at(root: Path, overrides: Sequence[str], without: Iterable[str]) -> Configuration:
    return Configuration(_digest(_hash_code(root)), tuple(overrides), _resolve(root, overrides), frozenset(without))


def override_of(key: str, value: Any) -> str:
    """KEY=VALUE, as DVC reads it, for a plain value."""
    return f"{key}={json.dumps(value)}"


def leaf_types(section: type[BaseModel] = Params, prefix: str = "") -> dict[str, Any]:
    """The type of each parameter by its dotted key."""
    types: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            types |= leaf_types(kind, f"{prefix}{name}.")
        else:
            types[f"{prefix}{name}"] = kind
    return types


def check_key(key: str, source: str) -> None:
    """Raise UserError, with a near name if there is one, where no parameter has this dotted key."""
    known = leaf_types()
    if key in known:
        return
    inner = [name for name in known if name.startswith(f"{key}.")]
    if inner:
        raise UserError(f"{source}: {key} is a section; write a key in full, such as {inner[0]}")
    names = {name.rpartition(".")[2]: name for name in known}
    near = get_close_matches(key.rpartition(".")[2], names, n=1, cutoff=0.7)
    advice = f"did you mean {names[near[0]]}?" if near else "the keys are those of params.yaml, such as train.epochs"
    raise UserError(f"{source}: {key or 'nothing'} is no parameter; {advice}")


def key_of(override: str) -> str:
    """The parameter that an override sets: train.epochs of train.epochs=5.

    Raises:
        UserError: it is no KEY=VALUE for a parameter of params.yaml, or a grid of several values.
    """
    from dvc.utils.cli_parse import to_path_overrides  # here, for importing DVC takes half a second
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.errors import HydraException

    said = f"-S {override}"
    try:
        ((path, (text,)),) = to_path_overrides([override]).items()
        (parsed,) = to_hydra_overrides([text])
    except HydraException as error:
        raise UserError(f"{said}: expected KEY=VALUE, such as train.epochs=5 ({str(error).splitlines()[0]})") from None
    if path != "params.yaml":
        raise UserError(f"{said}: {path} is not params.yaml; name a parameter of params.yaml alone")
    check_key(parsed.key_or_group, said)
    if parsed.is_add() or parsed.is_force_add() or parsed.is_delete():
        raise UserError(f"{said}: no parameter can be added or removed; write KEY=VALUE, such as train.epochs=5")
    if parsed.is_sweep_override():
        raise UserError(f"{said}: is a grid; give one value here, or see dvc exp run --queue")
    return parsed.key_or_group


def existing(root: Path) -> dict[str, str]:
    """The project's experiments, of all its commits: their own commits by their names."""
    refs = _git(root, "for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps/*/*/*").splitlines()
    return {name: commit for commit, _, name in (ref.partition(" ") for ref in refs)}


def run(root: Path, configuration: Configuration, name: str, stop: Stop, say: Callable[[str], None]) -> None:
    """Have an experiment of this name: by running it in a copy, or because there is one.

    Its output goes to a log below `FOLDER`. A second process that wants the same one waits for the first.

    Raises:
        FailedError: its parameters make it fail.
        StoppedError: a signal ended it.
        UserError: it could not be run, or it is not, or no longer, the one that was configured.
    """
    log = FOLDER / f"{name}.log"
    with _holding(root / log.with_suffix(".lock"), stop, lambda: say(f"waiting for another process that runs {name}")):
        while name not in existing(root):
            say(f"{name}: runs, with its output in {log}")
            _run_once(root, configuration, name, log, stop)
        _check_params(root, configuration, name)


def _run_once(root: Path, configuration: Configuration, name: str, log: Path, stop: Stop) -> None:
    with (root / log).open("wb") as output:
        process = _start(root, configuration, name, output.fileno(), log, stop)
        with _ending(process):
            while process.poll() is None:
                stop.wait(_LOOK_SECONDS)
    if name in existing(root):
        return
    told = _read(root / log)
    if process.returncode == 0 and not _has_started(told, name):
        return  # another process of DVC's took it off the stash when its own was done
    reason = _reason(told) or f"dvc ended with {process.returncode}"
    message = f"{reason} (the output is in {log})"
    is_by_parameters = _TRAINING in told and told.rfind("\nerror: ") > told.rfind(_TRAINING) and MEND not in reason
    raise FailedError(message) if is_by_parameters else UserError(f"{name}: {message}")


def _start(
    root: Path, configuration: Configuration, name: str, output: int, log: Path, stop: Stop
) -> subprocess.Popen[bytes]:
    """Start dvc, and wait until it has made the copy.

    While it does so it changes params.yaml in the workspace and puts what is changed there aside, so there is one such
    start at a time.
    """
    with _holding(root / _START_LOCK, stop):
        _check_state(root, configuration, name)
        _check_stash(root, stop)
        before = _branch_and_aside(root)
        settings = [word for override in configuration.overrides for word in ("--set-param", override)]
        command = ["--wait-for-lock", "exp", "run", "--temp", "--name", name, *settings]
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), *command],
            cwd=root,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be ended as a whole
        )
        try:
            while process.poll() is None and not _has_started(_read(root / log), name):
                stop.wait(_LOOK_SECONDS)
            _check_aside(root, before)
            _check_state(root, configuration, name)
        except BaseException:
            _end(process)
            _check_aside(root, before)
            raise
    return process


def _has_started(told: str, name: str) -> bool:
    """Whether DVC has said that the copy is made, and the workspace is the user's again."""
    return f"Reproducing experiment '{name}'" in told


def _check_state(root: Path, configuration: Configuration, name: str) -> None:
    if _look_at(root, configuration.overrides, configuration.without).digest != configuration.digest:
        raise UserError(
            f"{root}: its code or params.yaml is not what it was at the start, so {name} would be of another "
            "configuration; put it back, or give the command again for the new one"
        )


def _check_stash(root: Path, stop: Stop) -> None:
    patience = time.monotonic() + _PATIENCE_SECONDS
    while _git(root, "for-each-ref", _STASH):
        if time.monotonic() > patience:
            raise UserError(
                f"{root}: in {_STASH} is an experiment that a killed dvc did not start, and that the next would start "
                f"beside its own; git update-ref -d {_STASH} removes it"
            )
        stop.wait(_LOOK_SECONDS)


def _branch_and_aside(root: Path) -> tuple[str, str]:
    return _git(root, "rev-parse", "--abbrev-ref", "HEAD").strip(), _git(root, "stash", "list", "--format=%H")


def _check_aside(root: Path, before: tuple[str, str]) -> None:
    """DVC detaches the branch and puts changes aside; killed then, it leaves them there."""
    if _branch_and_aside(root) == before:
        return
    branch, aside = before
    restore = ["git reset --hard", *([f"git switch {branch}"] if branch != "HEAD" else [])]
    restore += ["git stash pop"] if _branch_and_aside(root)[1] != aside else []
    raise UserError(
        f"{root}: dvc was killed while it had put your changes aside; get them back with {' && '.join(restore)}"
    )


def _check_params(root: Path, configuration: Configuration, name: str) -> None:
    """params.yaml can be edited after it was looked at and before DVC copies it."""
    text = _git(root, "show", f"{existing(root)[name]}:./params.yaml")
    found = Params.check(yaml_text.parse(text.encode()), f"params.yaml in {name}")
    mirror = {"data": {"urls"}}
    if found.model_dump(exclude=mirror) != configuration.params.model_dump(exclude=mirror):
        raise UserError(
            f"{name}: has other parameters than its name says, for params.yaml was edited while it started; "
            f"dvc exp remove {name}, and give the command again"
        )


def _environment() -> dict[str, str]:
    """This environment's Python first, for a stage's command calls `python`; each line of output at once."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}


@contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the process and all of its group with the block."""
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGINT to the group lets the stage keep its epochs and DVC remove its copy; SIGKILL follows."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_SECONDS)


@contextmanager
def _holding(path: Path, stop: Stop, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock in the block; unlike `locks.hold`, the wait for it ends at a signal."""
    held = locks.try_to_hold(path)
    if held is None:
        waiting()
    while held is None:
        stop.wait(_LOOK_SECONDS)
        held = locks.try_to_hold(path)
    with held:
        yield


def _reason(output: str) -> str | None:
    """The stage's lines, or DVC's, that say why an experiment failed."""
    for start in ("error: ", "ERROR: "):
        if lines := [line.removeprefix(start) for line in output.splitlines() if line.startswith(start)]:
            return "; ".join(lines)
    return None


def _read(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")


def _resolve(root: Path, overrides: Sequence[str]) -> Params:
    """params.yaml with the overrides, by DVC's own hand, checked as a stage would."""
    from dvc.utils.hydra import apply_overrides  # here, for importing DVC takes half a second

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "params.yaml"
        try:
            shutil.copyfile(root / "params.yaml", copy)
            values = yaml_text.parse(copy.read_bytes())
            if overrides and isinstance(values, dict):
                apply_overrides(copy, list(overrides))
                values = yaml_text.parse(copy.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{root / 'params.yaml'}: no such file; run git checkout params.yaml") from None
        except yaml_text.NotYamlError as error:
            raise UserError(f"params.yaml: is not valid YAML: {error}") from None
    settings = "".join(f" -S {override}" for override in overrides)
    return Params.check(values, f"params.yaml with{settings}" if settings else "params.yaml")


def _flatten(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in section:
        if isinstance(value, BaseModel):
            values |= _flatten(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _hash_code(root: Path) -> dict[str, str | None]:
    """The hash of dvc.yaml, and of each file that a stage in it depends on and none writes; None for a missing one."""
    path = root / "dvc.yaml"
    try:
        stages = yaml_text.parse(path.read_bytes())["stages"].values()
        needed = {entry for stage in stages for entry in stage.get("deps", [])}
        written = {
            entry if isinstance(entry, str) else next(iter(entry))
            for stage in stages
            for kind in ("outs", "metrics", "plots")
            for entry in stage.get(kind, [])
        }
    except (OSError, yaml_text.NotYamlError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}; run git checkout dvc.yaml") from None
    files = ["dvc.yaml", *sorted(needed - written)]
    return {name: _hash_file(root / name) for name in files}


def _hash_file(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _git(root: Path, *words: str) -> str:
    """What git prints.

    Raises:
        UserError: it fails.
    """
    done = subprocess.run(["git", *words], cwd=root, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(
            f"{root}: git {words[0]} failed ({reason}); DVC's experiments need a Git repository with a commit"
        )
    return done.stdout


def _end_with(parent: int) -> None:
    """End this process and its group once the process that started it is gone, which would leave it to run on."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    for number in (signal.SIGINT, signal.SIGKILL):
        os.killpg(os.getpgrp(), number)
        time.sleep(_PATIENCE_SECONDS)


def _be_dvc(arguments: Sequence[str]) -> int:
    """dvc with the arguments after the first, which is the process that it is to end with."""
    threading.Thread(target=_end_with, args=(int(arguments[0]),), daemon=True).start()
    from dvc.cli import main  # here, for importing DVC takes half a second

    return main(list(arguments[1:]))


if __name__ == "__main__":
    sys.exit(_be_dvc(sys.argv[1:]))

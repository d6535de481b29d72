"""A stopped training goes on from its last finished epoch, and ends with the bytes of one that was never stopped."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.progress import Progress

from lenet_cifar10.checkpoint import Checkpoint, Checkpoints, hash_file
from lenet_cifar10.interruption import advise
from lenet_cifar10.terminal import say
from lenet_cifar10.training import EpochRecord, Training
from lenet_cifar10.weights import MisfitError

# Such as ONEDNN_MAX_CPU_ISA and MKL_CBWR, which were seen to change the bits.
_STEERING_VARIABLES = (
    "ATEN_",
    "CUBLAS_",
    "CUDNN_",
    "DNNL_",
    "MKL_",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_",
    "PYTORCH_",
    "TORCH_",
)
_LAUNCHER_VARIABLES = ("TORCH_NCCL_",)  # set by torchrun; they say what happens when a process fails


def fingerprint(params: Mapping[str, Any], data: Sequence[Path], environment: Mapping[str, Any]) -> str:
    """A hash of all that decides a result, 64 hexadecimal digits: parameters, contents of data files, and `program`."""
    parts = {"params": params, "data": [hash_file(path) for path in data], "program": program(environment)}
    return _hash(parts)


def program(environment: Mapping[str, Any]) -> str:
    """A hash of what runs, 64 hexadecimal digits.

    Of the code of the program and of each module of this package that it has imported, the device, the threads, the
    versions, and the variables that steer torch's libraries.
    """
    modules = {name: getattr(module, "__file__", None) for name, module in sorted(sys.modules.items())}
    code = {name: path for name, path in modules.items() if name == "__main__" or name.split(".")[0] == __package__}
    parts = {
        "code": {name: hash_file(Path(path)) for name, path in code.items() if path},
        "environment": environment,
        "variables": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_STEERING_VARIABLES) and not name.startswith(_LAUNCHER_VARIABLES)
        },
    }
    return _hash(parts)


def _hash(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run(training: Training, checkpoints: Checkpoints, bar: Progress) -> Iterator[list[EpochRecord]]:
    """Train from the run's checkpoint on, or from the start -> the whole history, after each epoch and at a resumption.

    Raises:
        UserError: as in `Training.run`.
    """
    epochs = training.section.epochs
    history = _take_up(training, checkpoints)
    training.synchronize()
    steps = training.steps_per_epoch
    task = bar.add_task("training", total=epochs * steps, completed=len(history) * steps)
    if history:
        say(f"resuming at epoch {len(history) + 1}: {len(history)} of {epochs} epochs were kept")
        _advise(len(history))
        yield history
    for record in training.run(after_step=lambda: bar.advance(task)):
        history.append(record)
        checkpoints.write(Checkpoint(training.state(), [asdict(row) for row in history]))
        _advise(len(history))
        say(f"epoch {record.epoch}/{epochs}: {record}")
        yield history


def _advise(epochs: int) -> None:
    advise(f"epochs 1 to {epochs} are kept; give the same command again to go on after them")


def _take_up(training: Training, checkpoints: Checkpoints) -> list[EpochRecord]:
    """The history of the checkpoint, whose state `training` gets; empty where there is no good one, which is said."""
    try:
        checkpoint = checkpoints.read()
        if checkpoint is None:
            return []
        history = parse_history(checkpoint.history)
        training.restore(checkpoint.tensors, len(history))
    except MisfitError as error:
        say(f"{checkpoints.path}: {error}; training starts afresh")
        return []
    return history


def parse_history(rows: object) -> list[EpochRecord]:
    """Rows read from a file -> the records of epochs 1, 2, ...

    Raises:
        MisfitError: they are none.
    """
    if not isinstance(rows, list):
        raise MisfitError("holds no history")
    return [_parse_record(row, epoch) for epoch, row in enumerate(rows, start=1)]


def _parse_record(row: object, epoch: int) -> EpochRecord:
    names = [field.name for field in fields(EpochRecord)]
    if not isinstance(row, dict) or list(row) != names or row["epoch"] != epoch:
        raise MisfitError(f"holds a history that is wrong at epoch {epoch}")
    if all(type(value) in (int, float) for value in row.values()):
        return EpochRecord(**row)
    raise MisfitError(f"holds a history that is wrong at epoch {epoch}")

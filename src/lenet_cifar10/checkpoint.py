"""The state of a training run after one of its epochs, kept in a folder that many runs share.

A run is known by its fingerprint, a hash of everything that decides its result. Its checkpoint is one file: a
safetensors file, followed by its SHA-256, so that a torn or changed one is noticed.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from filelock import AcquireReturnProxy
from safetensors import SafetensorError
from torch import Tensor

from lenet_cifar10 import locks
from lenet_cifar10.records import replacing
from lenet_cifar10.weights import MisfitError

KEPT_RUNS = 10  # checkpoints of other runs, about 7 MB each; the oldest are removed
_LARGEST_BYTES = 100_000_000  # a larger file is not read
_DIGEST_BYTES = 32
_METADATA_KEY = "lenet_cifar10"


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A run after some of its epochs: its state by name, and what was read as one row for each finished epoch."""

    tensors: dict[str, Tensor]
    history: object


class Checkpoints:
    """The checkpoint of one run, in a folder that many share."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.path = folder / f"{fingerprint}.checkpoint"

    def locked(self) -> AcquireReturnProxy:
        """Hold the run as a context: a second process with the same one waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return locks.hold(self.path.with_suffix(".lock"), "waiting for another process that trains the same thing")

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the run's checkpoint, whole or not at all, and remove the oldest ones of other runs."""
        metadata = {_METADATA_KEY: json.dumps({"fingerprint": self.fingerprint, "history": checkpoint.history})}
        data = safetensors.torch.save(checkpoint.tensors, metadata)
        with replacing(self.path) as (path,):
            path.write_bytes(data + hashlib.sha256(data).digest())
        _prune(self.folder, keep=self.path)

    def read(self) -> Checkpoint | None:
        """The run's checkpoint; None where there is none.

        Raises:
            MisfitError: it is torn, damaged, of another version or of another run.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(_LARGEST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MisfitError(f"cannot be read: {error.strerror}") from None
        if len(data) > _LARGEST_BYTES:
            raise MisfitError(f"is larger than {_LARGEST_BYTES:,} bytes, so no checkpoint")
        if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
            raise MisfitError("is torn or damaged: its hash is wrong")
        return self._parse(data[:-_DIGEST_BYTES])

    def _parse(self, data: bytes) -> Checkpoint:
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            content = json.loads(header["__metadata__"][_METADATA_KEY])
            owner, history = content["fingerprint"], content["history"]
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            raise MisfitError("is no checkpoint of this version") from None
        if owner != self.fingerprint:
            raise MisfitError("is the checkpoint of another run")
        return Checkpoint(tensors, history)

    def finish(self, result: Path) -> None:
        """Note that the run has made the file `result`. Its checkpoint stays until `discard_finished`."""
        with replacing(self.folder / f"{hash_file(result)}.finished") as (path,):
            path.write_text(self.path.name)


def discard_finished(folder: Path, result: Path) -> None:
    """Remove the checkpoint of the run that made the file `result`, once that is kept elsewhere."""
    note = folder / f"{hash_file(result)}.finished"
    if note.is_file():
        (folder / Path(note.read_text()).name).unlink(missing_ok=True)
        note.unlink(missing_ok=True)


def _prune(folder: Path, keep: Path) -> None:
    for kind in ("*.checkpoint", "*.finished"):
        ages: dict[Path, float] = {}
        for path in folder.glob(kind):
            with suppress(FileNotFoundError):  # another run has just removed it
                ages[path] = path.stat().st_mtime
        for path in sorted(ages.keys() - {keep}, key=ages.__getitem__, reverse=True)[KEPT_RUNS:]:
            path.unlink(missing_ok=True)

"""The state of a training run after one of its epochs, kept in a folder that many runs share.

A run is known by its fingerprint, a hash of everything that decides its result. Its checkpoint is one file: a
safetensors file, followed by its SHA-256, so that a torn or changed one is noticed.
"""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from filelock import AcquireReturnProxy
from safetensors import SafetensorError
from torch import Tensor

from lenet_cifar10 import locks
from lenet_cifar10.errors import UserError
from lenet_cifar10.records import replacing, temporary_path
from lenet_cifar10.weights import MisfitError

KEPT_RUNS = 10  # checkpoints of other runs, about 7 MB each; the oldest are removed
_LARGEST_BYTES = 100_000_000  # a larger file is not read
_DIGEST_BYTES = 32
_MD5_DIGITS = 32
_METADATA_KEY = "lenet_cifar10"
_NAME = re.compile(r"\.?([0-9a-f]{64})\.(?:checkpoint|finished|lock)(?:\.part)?")


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


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
        self._note = self.path.with_suffix(".finished")
        self._lock = self.path.with_suffix(".lock")

    def locked(self) -> AcquireReturnProxy:
        """Hold the run as a context: a second process with the same one waits."""
        return locks.hold(self._lock, "waiting for another process that trains the same thing")

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the run's checkpoint, whole or not at all, and remove what the oldest other runs left."""
        metadata = {_METADATA_KEY: json.dumps({"fingerprint": self.fingerprint, "history": checkpoint.history})}
        data = safetensors.torch.save(checkpoint.tensors, metadata)
        with replacing(self.path) as (path,):
            path.write_bytes(data + hashlib.sha256(data).digest())
        for run in _without_use(self.folder, keep=self.fingerprint):
            run.discard()

    def read(self) -> Checkpoint | None:
        """The run's checkpoint; None where there is none.

        Raises:
            MisfitError: it is torn, damaged, of another version or of another run.
            UserError: a folder is in its place, which no checkpoint can take.
        """
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder, expected a checkpoint or nothing; remove it")
        if self.path.exists() and not self.path.is_file():  # reading from a pipe would wait for ever
            raise MisfitError("is no regular file")
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
        """Note the MD5 of the file that the run has made. Its checkpoint stays until that file is kept elsewhere."""
        with replacing(self._note) as (path,):
            path.write_text(hash_file(result, "md5"))

    def result(self) -> str | None:
        """The MD5 of the file that the run has made; None where it has not finished."""
        try:
            if not self._note.is_file():
                return None
            with self._note.open("rb") as file:
                return file.read(2 * _MD5_DIGITS).decode("ascii")
        except (OSError, ValueError):
            return None

    def clear(self) -> None:
        """Remove what the run has left; the caller holds it."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)
            temporary_path(path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what the run has left, unless another process holds it."""
        held = locks.try_to_hold(self._lock)
        if held:
            with held, suppress(OSError):  # such as a folder in the checkpoint's place
                self.clear()
                self._lock.unlink(missing_ok=True)


def discard_finished(folder: Path, result: Path) -> None:
    """Remove the checkpoints of the runs that made the file `result`, once that is kept elsewhere."""
    made = hash_file(result, "md5")
    for note in folder.glob("*.finished"):
        run = Checkpoints(folder, note.stem)
        if run.result() == made:
            run.discard()


def _without_use(folder: Path, keep: str) -> list[Checkpoints]:
    """The runs that have left files but no checkpoint, and those with the oldest checkpoints."""
    names = {named[1] for path in folder.iterdir() if (named := _NAME.fullmatch(path.name))}
    ages: dict[str, float] = {}
    for path in folder.glob("*.checkpoint"):
        with suppress(FileNotFoundError):  # another run has just removed it
            ages[path.stem] = path.lstat().st_mtime
    used = sorted(ages.keys() - {keep}, key=ages.__getitem__, reverse=True)[:KEPT_RUNS]
    return [Checkpoints(folder, name) for name in sorted(names - {keep, *used})]

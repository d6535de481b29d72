"""The state of a training run after its last finished epoch, from which a stopped run continues."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from lenet_cifar10.common.console import say
from lenet_cifar10.common.files import atomic_write, hash_file, locked

_PACKAGE = Path(__file__).resolve().parents[1]
_DIGEST_BYTES = 32


def fingerprint(params: Mapping[str, Any], environment: Mapping[str, Any], files: Sequence[Path]) -> str:
    """A hash of all that decides a run's result: parameters, environment, files, and the code that trains."""
    floors = ("common/*.py", "data/arrays.py", "model/*.py", "training/*.py")
    code = [path for floor in floors for path in sorted(_PACKAGE.glob(floor))]
    parts = [params, environment, [hash_file(path) for path in [*files, *code]]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Checkpoint:
    """One file in a folder that many runs share, named by the run's fingerprint: safetensors, then their SHA-256."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / f"{fingerprint[:32]}.checkpoint"

    def locked(self) -> AbstractContextManager[object]:
        """Wait while another process trains the same run, such as in another experiment's copy."""
        return locked(self.path.with_suffix(".lock"), "waiting for another process that trains the same run")

    def save(self, state: Mapping[str, Tensor], history: Sequence[Mapping[str, float]]) -> None:
        """Replace the checkpoint, whole or not at all."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        content = safetensors.torch.save(tensors, {"history": json.dumps(list(history))})
        atomic_write(self.path, content + hashlib.sha256(content).digest())

    def load(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """The history and the state that `save` was given; empty ones where there is no good checkpoint."""
        if not self.path.exists():
            return [], {}
        content = self.path.read_bytes()
        content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            say(f"{self.path}: is damaged; training starts from the beginning")
            return [], {}
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        history = json.loads(header["__metadata__"]["history"])
        say(f"resuming after epoch {len(history)}")
        return history, safetensors.torch.load(content)

    def remove(self) -> None:
        """Forget the run, which has ended well."""
        self.path.unlink(missing_ok=True)

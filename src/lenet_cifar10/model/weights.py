"""The weights that leave the project: safetensors, in which no code can ride."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lenet_cifar10.common.files import atomic_write
from lenet_cifar10.common.params import ModelSection
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.model.lenet import LeNet

# One entry only: the order of several is not fixed, and the same weights are to be the same bytes.
_METADATA_KEY = "lenet_cifar10"


def save_weights(path: Path, network: LeNet, class_names: Sequence[str]) -> None:
    """Write a network's weights and the names of its classes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    atomic_write(path, save(tensors, metadata={_METADATA_KEY: json.dumps({"class_names": list(class_names)})}))


def load_weights(path: Path) -> tuple[LeNet, tuple[str, ...]]:
    """Read what `save_weights` wrote -> the network in eval mode, on the CPU, and the names of its classes.

    Raises:
        UserError: the file is missing, is no safetensors file, or holds other names, shapes or types.
        OSError: it cannot be read.
    """
    try:
        return parse_weights(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro train, or dvc checkout") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a safetensors file; run dvc checkout --force") from None


def parse_weights(content: bytes, name: str, remedy: str = "run dvc checkout --force") -> tuple[LeNet, tuple[str, ...]]:
    """The same of the file's bytes, wherever they come from; messages have its name and what to do.

    Raises:
        UserError: this is no safetensors file, or holds other names, shapes or types.
    """
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:  # KeyError: a type that torch has not
        raise UserError(f"{name}: is no safetensors file ({error}); {remedy}") from None
    class_names = _parse_class_names(header.get("__metadata__"))
    if class_names is None:
        raise UserError(f"{name}: names no classes, so it was not written by this project; {remedy}")
    network = LeNet(ModelSection(dropout=0.0), len(class_names))
    try:
        copy_into(network.state_dict(), tensors)
    except MisfitError as error:
        raise UserError(f"{name}: {error}; these are not this network's weights; {remedy}") from None
    return network.eval(), class_names


class MisfitError(Exception):
    """What was read is not what it should be; the message says why."""


@torch.no_grad()
def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Give each tensor its value.

    Raises:
        MisfitError: a name, a shape or a type differs; nothing has been copied then.
    """
    for name in sorted(tensors.keys() | values.keys()):
        found, expected = _kind(values.get(name)), _kind(tensors.get(name))
        if found != expected:
            shown = name if name.isprintable() else ascii(name)  # a name from a file could steer the terminal
            raise MisfitError(f"tensor {shown}: found {found}, expected {expected}")
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def _parse_class_names(metadata: dict[str, str] | None) -> tuple[str, ...] | None:
    try:
        names = json.loads((metadata or {})[_METADATA_KEY])["class_names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
        return None
    return tuple(names) if 2 <= len(set(names)) == len(names) <= 256 else None


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"

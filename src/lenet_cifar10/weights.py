"""The weights that leave the project: safetensors, in which no code can ride."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lenet_cifar10.errors import UserError
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import ModelSection

# One entry only: the order of several is not fixed, and the same weights are to be the same bytes.
_METADATA_KEY = "lenet_cifar10"


def save_weights(path: Path, network: LeNet, class_names: Sequence[str]) -> None:
    """Write a network's weights and the names of its classes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    # Written by Python: save_file's error for a full disk is no OSError.
    path.write_bytes(save(tensors, metadata={_METADATA_KEY: json.dumps({"class_names": list(class_names)})}))


def load_weights(path: Path) -> tuple[LeNet, tuple[str, ...]]:
    """Read what `save_weights` wrote -> the network in eval mode, on the CPU, and the names of its classes.

    Raises:
        UserError: the file is missing, is no safetensors file, or holds other names, shapes or types.
    """
    try:
        with safe_open(path, framework="pt") as file:
            class_names = _read_class_names(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro train, or dvc checkout") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: is no safetensors file ({error}); lenet-cifar10 verify says how to repair it"
        ) from None
    network = LeNet(ModelSection(dropout=0.0, first_layer="learned"), len(class_names))
    try:
        copy_into(network.state_dict(), tensors)
    except MisfitError as error:
        raise UserError(
            f"{path}: {error}; these are not this network's weights; lenet-cifar10 verify says how to repair it"
        ) from None
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
            raise MisfitError(f"tensor {name}: found {found}, expected {expected}")
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def _read_class_names(path: Path, metadata: dict[str, str] | None) -> tuple[str, ...]:
    try:
        names = json.loads((metadata or {})[_METADATA_KEY])["class_names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
        names = []
    if 2 <= len(set(names)) == len(names) <= 256:
        return tuple(names)
    raise UserError(
        f"{path}: names no classes, so it was not written by this project; lenet-cifar10 verify says how to repair it"
    )


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"

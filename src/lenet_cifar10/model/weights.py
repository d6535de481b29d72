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


def save_weights(path: Path, model: LeNet, class_names: Sequence[str]) -> None:
    """Write a model's weights and the names of its classes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"class_names": json.dumps(class_names)}  # one entry: the order of several is not fixed
    atomic_write(path, save(tensors, metadata))


def load_weights(path: Path) -> tuple[LeNet, tuple[str, ...]]:
    """Read what `save_weights` wrote: the model in eval mode, on the CPU, and the names of its classes.

    Raises:
        UserError: the file is missing, or is not what `save_weights` writes.
    """
    try:
        return parse_weights(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro train, or dvc checkout") from None


def parse_weights(content: bytes, name: str, remedy: str = "run dvc checkout --force") -> tuple[LeNet, tuple[str, ...]]:
    """`load_weights` for the bytes of a file, such as one of another revision; messages have its name and what to do.

    Raises:
        UserError: this is not what `save_weights` writes.
    """
    try:
        return _parse(content)
    except (
        SafetensorError,
        ValueError,
        KeyError,
        RecursionError,
    ) as error:  # KeyError: a type that torch does not have
        raise UserError(f"{name}: is not a model of this project ({' '.join(str(error).split())}); {remedy}") from None


def _parse(content: bytes) -> tuple[LeNet, tuple[str, ...]]:
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    class_names = json.loads(header.get("__metadata__", {}).get("class_names", "null"))
    if not isinstance(class_names, list) or not all(
        isinstance(word, str) and word.isprintable() for word in class_names
    ):
        raise ValueError("found no list of class names")
    with torch.device("meta"):  # takes no memory: a hostile file could name a million classes
        model = LeNet(ModelSection(dropout=0.0), len(class_names))
    found, expected = _describe(tensors), _describe(model.state_dict())
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(f"tensor {name!a}: found {found.get(name)}, expected {expected.get(name)}")
    model.to_empty(device="cpu").load_state_dict(tensors)
    return model.eval(), tuple(class_names)


def _describe(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in tensors.items()}

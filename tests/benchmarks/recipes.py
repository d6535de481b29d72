"""The recipes that are measured, and how one is trained."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lenet_cifar10.common.params import Params, check_params, load_params
from lenet_cifar10.common.yaml import parse_yaml
from lenet_cifar10.data.arrays import Split
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.training.checkpoint import Checkpoint
from lenet_cifar10.training.distributed import World
from lenet_cifar10.training.loop import EpochRecord, train

ROOT = Path(__file__).resolve().parents[2]


def read_classic() -> dict[str, Any]:
    """What `make classic` sets, by dotted keys; the Makefile has the only list of it."""
    definition = (ROOT / "Makefile").read_text().split("\nCLASSIC :=")[1].split("\n\n")[0]
    return {key: parse_yaml(value, key) for key, value in re.findall(r"(\w+\.\w+)=([^\s)]+)", definition)}


def make_params(changes: Mapping[str, Any], seed: int = 0) -> Params:
    """params.yaml with another seed and some values changed by their dotted keys."""
    values: dict[str, Any] = load_params(ROOT / "params.yaml").model_dump() | {"seed": seed}
    for key, value in changes.items():
        section, name = key.split(".")
        values[section][name] = value
    return check_params(values)


def start_training(
    params: Params,
    training: Split,
    validation: Split,
    device: torch.device,
    checkpoint: Checkpoint,
    after_step: Callable[[], object] = lambda: None,
) -> Iterator[tuple[list[EpochRecord], LeNet]]:
    """Each `next` trains an epoch, scores the validation images and writes a checkpoint."""
    return train(
        training,
        validation,
        seed=params.seed,
        augment_section=params.augment,
        model_section=params.model,
        settings=params.train,
        device=device,
        world=World(),
        checkpoint=checkpoint,
        after_step=after_step,
    )

"""Small training runs in one process, for tests."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lenet_cifar10.common.params import AugmentSection, ModelSection, TrainSection
from lenet_cifar10.data.arrays import Split
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.training.checkpoint import Checkpoint
from lenet_cifar10.training.distributed import World
from lenet_cifar10.training.loop import EpochRecord, train

CLASSES = ("up", "down", "left", "right")
MODERATE = AugmentSection(
    flip_probability=0.5,
    translation_pixels=2,
    rotation_degrees=10,
    shear_degrees=10,
    scale=0.2,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    padding_mode="symmetric",
)
NONE = MODERATE.model_copy(
    update=dict.fromkeys(AugmentSection.model_fields.keys() - {"padding_mode"}, 0) | {"padding_mode": "zeros"}
)


def make_settings(**changes: Any) -> TrainSection:
    """Settings for a run of two epochs of four steps, the last of them smaller."""
    values = {
        "threads": 1,
        "micro_batches": 1,
        "cuda_graph": False,
        "precision": "float32",
        "epochs": 2,
        "batch_size": 16,
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "schedule": "linear",
        "warmup_fraction": 0.25,
        "label_smoothing": 0.1,
        "ema_decay": 0.9,
    }
    return TrainSection.model_validate(values | changes)


def make_split(count: int = 56, seed: int = 0) -> Split:
    """Noise with a bright band, whose place is the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = random.integers(0, 128, (count, 3, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 8 * label : 8 * label + 8] += 100
    return Split(images, labels, CLASSES)


def run(
    folder: Path,
    *,
    seed: int = 0,
    augment: AugmentSection = MODERATE,
    dropout: float = 0.5,
    stop_after: int | None = None,
    after_step: Callable[[], object] = lambda: None,
    training: Split | None = None,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> tuple[list[EpochRecord], LeNet]:
    """Train, and end after some epochs if asked to -> the history and the model to keep."""
    epochs = train(
        training or make_split(),
        make_split(20, seed=1),
        seed=seed,
        augment_section=augment,
        model_section=ModelSection(dropout=dropout),
        settings=make_settings(**changes),
        device=torch.device(device),
        world=World(),
        checkpoint=Checkpoint(folder, "run"),
        after_step=after_step,
    )
    return next(result for result in epochs if len(result[0]) == (stop_after or make_settings(**changes).epochs))


def digest(model: torch.nn.Module) -> str:
    """A hash of all weights."""
    return hashlib.sha256(
        b"".join(tensor.cpu().numpy().tobytes() for tensor in model.state_dict().values())
    ).hexdigest()

"""Labelled images in memory and on disk, and the split of the training images."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lenet_cifar10.common.files import atomic_write
from lenet_cifar10.common.params import DataSection
from lenet_cifar10.common.stage import UserError


@dataclass(frozen=True, eq=False)
class Split:
    """images: uint8 (N, 3, 32, 32) in red, green, blue; labels: int64 (N,), positions in `class_names`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: NDArray[np.int64]) -> "Split":
        return Split(self.images[index], self.labels[index], self.class_names)


def train_validation_split(training: Split, test: Split, section: DataSection) -> tuple[Split, Split]:
    """Split the training images in two: (training, validation), the same number of each class in validation.

    Both keep the order of the archive; `split_seed` alone chooses which images are held out. When validation_size
    is 0 nothing is held out and the test set takes the place of validation.

    Raises:
        UserError: validation_size is not a multiple of the number of classes, or would take all images of a class.
    """
    if section.validation_size == 0:
        return training, test
    classes = len(training.class_names)
    share, rest = divmod(section.validation_size, classes)
    smallest = np.bincount(training.labels, minlength=classes).min()
    if rest or share >= smallest:
        raise UserError(
            f"params.yaml: data.validation_size: found {section.validation_size}, expected a multiple of {classes}, "
            f"the number of classes, below {classes * smallest}: the smallest class has {smallest} images"
        )
    random = np.random.default_rng(section.split_seed)
    chosen = [random.permutation(np.flatnonzero(training.labels == label))[:share] for label in range(classes)]
    held_out = np.sort(np.concatenate(chosen))
    kept = np.delete(np.arange(len(training)), held_out)
    return training[kept], training[held_out]


def save_split(path: Path, split: Split) -> None:
    """Write a split as safetensors: the same bytes for the same arrays, on every Python, and no code in it."""
    metadata = {"class_names": json.dumps(split.class_names)}  # one entry: the order of several is not fixed
    atomic_write(path, save({"images": split.images, "labels": split.labels}, metadata))


def load_split(path: Path) -> Split:
    """Read what `save_split` wrote.

    Raises:
        UserError: the file is missing, damaged or not such a file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            names = tuple(json.loads(file.metadata()["class_names"]))
            return Split(file.get_tensor("images"), file.get_tensor("labels"), names)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro prepare, or dvc checkout") from None
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: is not what prepare writes ({error}); run dvc checkout --force") from None

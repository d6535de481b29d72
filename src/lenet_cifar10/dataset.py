"""Labelled images in memory and on disk, and the split of the training images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lenet_cifar10.errors import UserError
from lenet_cifar10.params import DataSection


@dataclass(frozen=True, eq=False)
class Split:
    """images: uint8 (N, 3, 32, 32), red, green, blue; labels: int64 (N,), places in the class names."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: NDArray[np.int64]) -> "Split":
        return Split(self.images[index], self.labels[index])


def hold_out(training: Split, test: Split, section: DataSection, classes: int) -> tuple[Split, Split]:
    """Split the training images in two: (training, validation), the same number of each class in validation.

    Both keep the order of the archive; `split_seed` alone chooses which images are held out. When validation_size
    is 0 nothing is held out and the test set takes the place of validation.

    Raises:
        UserError: validation_size is not a multiple of the number of classes, or a class has too few images.
    """
    if section.validation_size == 0:
        return training, test
    share, rest = divmod(section.validation_size, classes)
    if rest:
        raise UserError(
            f"params.yaml: data.validation_size: found {section.validation_size}, "
            f"expected a multiple of {classes}, the number of classes"
        )
    random = np.random.default_rng(section.split_seed)
    chosen = []
    for label in range(classes):
        members = np.flatnonzero(training.labels == label)
        if share >= len(members):
            raise UserError(
                f"params.yaml: data.validation_size: found {section.validation_size}, which takes {share} images "
                f"of each class, but class {label} has {len(members)} and must keep one; lower it"
            )
        chosen.append(random.permutation(members)[:share])
    held_out = np.sort(np.concatenate(chosen))
    kept = np.setdiff1d(np.arange(len(training)), held_out, assume_unique=True)
    return training[kept], training[held_out]


def save(path: Path, split: Split) -> None:
    """Write a split as an uncompressed .npz: the same bytes for the same arrays."""
    with path.open("wb") as file:
        np.savez(file, images=split.images, labels=split.labels)


def save_class_names(path: Path, class_names: Sequence[str]) -> None:
    """Write the names of the classes, in the order of the labels, as JSON."""
    path.write_text(json.dumps(list(class_names), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_class_names(path: Path) -> tuple[str, ...]:
    """Read what `save_class_names` wrote.

    Raises:
        UserError: the file is missing, or is no list of names.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro prepare, or dvc checkout") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); lenet-cifar10 verify says how to repair it") from None
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: expected a list of two or more names; lenet-cifar10 verify says how to repair it")
    return tuple(names)


def load(path: Path, classes: int) -> Split:
    """Read a split that `save` wrote, without pickle, and check it.

    Raises:
        UserError: the file is missing, damaged or not such a split.
    """
    try:
        content = BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro prepare, or dvc checkout") from None
    try:
        with np.load(content, allow_pickle=False) as file:
            split = Split(file["images"], file["labels"])
    except Exception:  # a damaged byte can lead the readers of zip and npy into any of a dozen kinds
        raise UserError(
            f"{path}: is damaged, or not what prepare wrote; lenet-cifar10 verify says how to repair it"
        ) from None
    images, labels = split.images, split.labels
    shapes = (images.shape[1:], labels.shape)
    if (images.dtype, labels.dtype) != (np.uint8, np.int64) or shapes != ((3, 32, 32), images.shape[:1]):
        raise UserError(
            f"{path}: found images {images.dtype} {images.shape} and labels {labels.dtype} {labels.shape}, "
            f"expected uint8 (N, 3, 32, 32) and int64 (N,); lenet-cifar10 verify says how to repair it"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"{path}: found labels outside 0 to {classes - 1}; lenet-cifar10 verify says how to repair it")
    return split

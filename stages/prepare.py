"""Prepare: the archive in data/raw/ -> images and labels for training, validation and test in data/prepared/."""

from pathlib import Path

from lenet_cifar10.common.console import say
from lenet_cifar10.common.params import load_params
from lenet_cifar10.common.stage import run_stage
from lenet_cifar10.data.archive import read_archive
from lenet_cifar10.data.arrays import save_split, train_validation_split

ARCHIVE = Path("data/raw/cifar-10-python.tar.gz")
PREPARED = Path("data/prepared")


def main() -> None:
    """Read, check and split the archive."""
    section = load_params(Path("params.yaml")).data
    archive = read_archive(ARCHIVE)
    training, validation = train_validation_split(archive.train, archive.test, section)
    if section.validation_size == 0:
        say("data.validation_size is 0: no image is held out, and the validation figures are those of the test set")
    for name, split in {"train": training, "validation": validation, "test": archive.test}.items():
        save_split(PREPARED / f"{name}.safetensors", split)
    say(
        f"prepared {len(training):,} training, {len(validation):,} validation and {len(archive.test):,} test images "
        f"of {len(training.class_names)} classes in {PREPARED}"
    )


if __name__ == "__main__":
    run_stage(main)

"""Prepare: the archive in data/raw/ -> arrays for training, validation and test in data/prepared/."""

from pathlib import Path

from lenet_cifar10 import interruption

interruption.answer_signals()

from lenet_cifar10 import archive, dataset, stage
from lenet_cifar10.params import Params
from lenet_cifar10.records import replacing
from lenet_cifar10.terminal import say

ARCHIVE = Path("data/raw/cifar-10-python.tar.gz")
PREPARED = Path("data/prepared")


def main() -> None:
    """Read, check and split the archive."""
    section = Params.load(Path("params.yaml")).data
    content = archive.read(ARCHIVE)
    training, validation = dataset.hold_out(content.train, content.test, section, len(content.class_names))
    if section.validation_size == 0:
        say("data.validation_size is 0: no image is held out, and validation figures are those of the test set")
    splits = {"train.npz": training, "validation.npz": validation, "test.npz": content.test}
    with replacing(PREPARED / "classes.json", *(PREPARED / name for name in splits)) as (classes, *paths):
        dataset.save_class_names(classes, content.class_names)
        for path, split in zip(paths, splits.values(), strict=True):
            dataset.save(path, split)
    say(
        f"prepared {len(training):,} training, {len(validation):,} validation and {len(content.test):,} test images "
        f"of {len(content.class_names)} classes in {PREPARED}"
    )


if __name__ == "__main__":
    stage.run(main)

"""Figures: tables and training images of the earlier stages -> pictures in plots/images/."""

from pathlib import Path

from lenet_cifar10 import interruption

interruption.answer_signals()

import torch

from lenet_cifar10 import augment, dataset, figures, stage
from lenet_cifar10.params import Params
from lenet_cifar10.plan import plan_epoch
from lenet_cifar10.records import replacing
from lenet_cifar10.results import COUNTS, FRACTIONS, NUMBERS, read_predictions, read_table
from lenet_cifar10.terminal import say

PREPARED, PLOTS, PICTURES = Path("data/prepared"), Path("plots"), Path("plots/images")
PREDICTIONS, PAIRS, MISTAKES = PLOTS / "predictions.csv", 10, 25


def main() -> None:
    """Draw every picture anew."""
    params = Params.load(Path("params.yaml"))
    names = dataset.load_class_names(PREPARED / "classes.json")
    training, test = (dataset.load(PREPARED / name, len(names)) for name in ("train.npz", "test.npz"))
    # The first images of the first epoch, as train augments them.
    order, draws = plan_epoch(len(training), params.seed, 1, params.augment)
    examples = training[order[:PAIRS].numpy()]
    shown = [names[label] for label in examples.labels]
    seen = augment.apply(torch.from_numpy(examples.images), draws[:PAIRS], params.augment.border).numpy()
    curves = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
    history = read_table(PLOTS / "history.csv", dict.fromkeys(("epoch", *curves), NUMBERS))
    predictions = read_predictions(PREDICTIONS, names, len(test))
    bins = {"confidence": FRACTIONS, "accuracy": FRACTIONS, "count": COUNTS}
    pictures = {
        "augmentation.png": figures.draw_augmentation(examples.images, seen, shown),
        "calibration.png": figures.draw_calibration(read_table(PLOTS / "calibration.csv", bins)),
        "confusion.png": figures.draw_confusion(predictions, names, params.figures),
        "curves.png": figures.draw_curves(history),
        "mistakes.png": figures.draw_mistakes(predictions, test.images, MISTAKES),
        "per_class.png": figures.draw_per_class(predictions, names),
    }
    with replacing(*(PICTURES / name for name in pictures)) as paths:
        for path, figure in zip(paths, pictures.values(), strict=True):
            figures.save(figure, path, params.figures)
    say(f"drew {', '.join(pictures)} in {PICTURES}")


if __name__ == "__main__":
    stage.run(main)

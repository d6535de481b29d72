"""Figures: tables and training images of the earlier stages -> pictures in plots/images/."""

from pathlib import Path

from lenet_cifar10 import interruption

interruption.answer_signals()

import torch

from lenet_cifar10 import augment, dataset, figures, stage
from lenet_cifar10.params import Params
from lenet_cifar10.records import replacing
from lenet_cifar10.terminal import say
from lenet_cifar10.training import plan_epoch

PREPARED, PICTURES = Path("data/prepared"), Path("plots/images")
EXAMPLES = 20


def main() -> None:
    """Draw every picture anew."""
    params = Params.load(Path("params.yaml"))
    class_names = dataset.load_class_names(PREPARED / "classes.json")
    training = dataset.load(PREPARED / "train.npz", len(class_names))
    # The first images of the first epoch, as train augments them.
    order, draws = plan_epoch(len(training), params.seed, 1, params.augment)
    examples = training[order[:EXAMPLES].numpy()]
    seen = augment.apply(torch.from_numpy(examples.images), draws[:EXAMPLES], params.augment.border).numpy()
    curves = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
    history = figures.read_table(Path("plots/history.csv"), dict.fromkeys(("epoch", *curves)))
    predictions = figures.read_table(Path("plots/predictions.csv"), {"actual": class_names, "predicted": class_names})
    pictures = {
        "augmentation.png": figures.draw_images(seen, [class_names[label] for label in examples.labels]),
        "curves.png": figures.draw_curves(history),
        "confusion.png": figures.draw_confusion(predictions, class_names, params.figures),
    }
    with replacing(*(PICTURES / name for name in pictures)) as paths:
        for path, figure in zip(paths, pictures.values(), strict=True):
            figures.save(figure, path, params.figures)
    say(f"drew {', '.join(pictures)} in {PICTURES}")


if __name__ == "__main__":
    stage.run(main)

"""Report: what the other stages wrote -> pictures in plots/images/ and data/model/card.md."""

import math
from pathlib import Path

import torch

from lenet_cifar10.common.console import say
from lenet_cifar10.common.files import atomic_write, hash_file, read_json, read_table
from lenet_cifar10.common.params import flatten, load_params
from lenet_cifar10.common.stage import UserError, run_stage
from lenet_cifar10.data.arrays import load_split
from lenet_cifar10.evaluation import figures, metrics
from lenet_cifar10.evaluation.card import Run, write_card
from lenet_cifar10.model import augment

MODEL, PREPARED, METRICS, PLOTS = Path("data/model"), Path("data/prepared"), Path("metrics"), Path("plots")
PAIRS, MISTAKES = 10, 25  # images shown
OF_TRAINING = ("seed", "augment.", "model.", "train.")


def main() -> None:
    """Draw the pictures and write the model card."""
    params = load_params(Path("params.yaml"))
    training, test = load_split(PREPARED / "train.safetensors"), load_split(PREPARED / "test.safetensors")
    names = test.class_names
    predictions = read_table(PLOTS / "predictions.csv", metrics.PREDICTION_COLUMNS)
    run = Run(
        data=params.data,
        settings={key: value for key, value in flatten(params).items() if key.startswith(OF_TRAINING)},
        class_names=names,
        weights_sha256=hash_file(MODEL / "lenet.safetensors"),
        training_images=len(training),
        environment=read_json(MODEL / "environment.json"),
        train=read_json(METRICS / "train.json"),
        test=read_json(METRICS / "test.json"),
        classes=read_table(PLOTS / "per_class.csv", metrics.CLASS_COLUMNS),
    )
    if not math.isclose(sum(run.classes["correct"]) / len(test), run.test["test_accuracy"]):
        raise UserError(f"{METRICS}/test.json and {PLOTS}/per_class.csv: are of different runs; run dvc repro")
    # The first images of the first epoch, as train augments them.
    order, draws = augment.plan_epoch(len(training), params.seed, 1, params.augment)
    first, draws = training[order[:PAIRS].numpy()], draws[:PAIRS]
    augmented = augment.apply(torch.from_numpy(first.images), draws, params.augment.padding_mode).numpy()
    pictures = {
        "augmentation": figures.draw_augmentation(first.images, augmented, [names[label] for label in first.labels]),
        "confusion": figures.draw_confusion(predictions, names, params.figures),
        "curves": figures.draw_curves(read_table(PLOTS / "history.csv", ["epoch"])),
        "mistakes": figures.draw_mistakes(predictions, test.images, MISTAKES),
    }
    atomic_write(MODEL / "card.md", write_card(run))
    for name, figure in pictures.items():
        atomic_write(PLOTS / f"images/{name}.png", figures.render(figure, params.figures))
    say(f"wrote {MODEL}/card.md and {len(pictures)} pictures in {PLOTS}/images")


if __name__ == "__main__":
    run_stage(main)

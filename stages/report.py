"""Report: what the other stages wrote -> pictures in plots/images/ and data/model/card.md."""

from pathlib import Path

import torch

from lenet_cifar10.common.console import say
from lenet_cifar10.common.files import atomic_write, hash_file, read_json, read_table
from lenet_cifar10.common.params import flatten, load_params
from lenet_cifar10.common.stage import UserError, run_stage
from lenet_cifar10.data.arrays import load_split
from lenet_cifar10.evaluation import figures, metrics
from lenet_cifar10.evaluation.card import Run, find_contradiction, write_card
from lenet_cifar10.model import augment
from lenet_cifar10.model.weights import load_weights

WEIGHTS, CARD = Path("data/model/lenet.safetensors"), Path("data/model/card.md")
PREPARED, METRICS, PLOTS = Path("data/prepared"), Path("metrics"), Path("plots")
PAIRS, MISTAKES = 10, 25  # images shown
OF_TRAINING = ("seed", "augment.", "model.", "train.")


def main() -> None:
    """Draw the pictures and write the model card."""
    params = load_params(Path("params.yaml"))
    training, test = load_split(PREPARED / "train.safetensors"), load_split(PREPARED / "test.safetensors")
    network, names = load_weights(WEIGHTS)
    test_metrics = read_json(METRICS / "test.json")
    predictions = read_table(PLOTS / "predictions.csv", metrics.PREDICTION_COLUMNS)
    actual = [names[label] for label in test.labels]
    if reason := find_contradiction(predictions, actual, test_metrics["test_accuracy"]):
        raise UserError(f"{PLOTS}/predictions.csv: {reason}; run dvc repro, or dvc checkout --force")
    # The first images of the first epoch, as train augments them.
    order, draws = augment.plan_epoch(len(training), params.seed, 1, params.augment)
    first, draws = training[order[:PAIRS].numpy()], draws[:PAIRS]
    augmented = augment.apply(torch.from_numpy(first.images), draws, params.augment.padding_mode).numpy()
    pictures = {
        "augmentation": figures.draw_augmentation(first.images, augmented, [names[label] for label in first.labels]),
        "calibration": figures.draw_calibration(read_table(PLOTS / "calibration.csv", metrics.CALIBRATION_COLUMNS)),
        "confusion": figures.draw_confusion(predictions, names, params.figures),
        "curves": figures.draw_curves(read_table(PLOTS / "history.csv", ["epoch"])),
        "mistakes": figures.draw_mistakes(predictions, test.images, MISTAKES),
        "per_class": figures.draw_per_class(read_table(PLOTS / "per_class.csv", metrics.CLASS_COLUMNS)),
    }
    run = Run(
        data=params.data,
        settings={key: value for key, value in flatten(params).items() if key.startswith(OF_TRAINING)},
        class_names=names,
        weights_name=WEIGHTS.name,
        weights_sha256=hash_file(WEIGHTS),
        parameters=sum(tensor.numel() for tensor in network.parameters()),
        training_images=len(training),
        environment=read_json(WEIGHTS.with_name("environment.json")),
        train=read_json(METRICS / "train.json"),
        test=test_metrics,
        predictions=predictions,
    )
    atomic_write(CARD, write_card(run))
    for name, figure in pictures.items():
        atomic_write(PLOTS / f"images/{name}.png", figures.render(figure, params.figures))
    say(f"wrote {CARD} and {len(pictures)} pictures in {PLOTS}/images")


if __name__ == "__main__":
    run_stage(main)

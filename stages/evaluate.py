"""Evaluate: weights and test images -> metrics/test.json and tables in plots/: predictions, per_class, calibration."""

import os
from pathlib import Path

from lenet_cifar10 import interruption

interruption.answer_signals()

import torch

from lenet_cifar10 import dataset, device, evaluation, reporting, stage
from lenet_cifar10.checkpoint import discard_finished
from lenet_cifar10.params import Params
from lenet_cifar10.records import replacing, write_csv, write_json
from lenet_cifar10.terminal import console, figures_table
from lenet_cifar10.weights import load_weights

WEIGHTS, TEST = Path("data/model/lenet.safetensors"), Path("data/prepared/test.npz")
CHECKPOINTS = Path(os.environ.get("DVC_ROOT", ".")) / ".resume/checkpoints"
TABLES = [Path("plots") / name for name in ("predictions.csv", "per_class.csv", "calibration.csv")]


@device.telling_shortage()
def main() -> None:
    """Score the weights on the test set, once."""
    params = Params.load(Path("params.yaml"))
    chosen = device.prepare(params.device, params.train.threads)
    network, class_names = load_weights(WEIGHTS)
    network = network.to(chosen).to(memory_format=torch.channels_last)
    discard_finished(CHECKPOINTS, WEIGHTS)  # this stage runs, so DVC has the weights
    test = dataset.load(TEST, len(class_names))
    images, labels = torch.from_numpy(test.images).to(chosen), torch.from_numpy(test.labels)
    logits = evaluation.predict(network, images)
    with_flips = evaluation.predict_with_flips(network, images) if params.evaluate.test_time_flips else None
    metrics = reporting.summarize(logits, labels, class_names, with_flips)
    per_class = metrics["per_class"]
    with replacing(Path("metrics/test.json"), *TABLES) as (test_json, predictions_csv, per_class_csv, calibration_csv):
        write_json(test_json, metrics)
        write_csv(predictions_csv, reporting.tabulate_predictions(logits, labels, class_names))
        write_csv(per_class_csv, [{"class": name, "accuracy": accuracy} for name, accuracy in per_class.items()])
        write_csv(calibration_csv, reporting.calibrate(logits, labels))
    figures = {name: value for name, value in metrics.items() if name != "per_class"}
    figures |= {f"accuracy: {name}": accuracy for name, accuracy in per_class.items()}
    console.print(figures_table(f"Test set, {len(test):,} images", figures))


if __name__ == "__main__":
    stage.run(main)

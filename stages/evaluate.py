"""Evaluate: weights and test images -> metrics/test.json and tables in plots/."""

from pathlib import Path

import torch

from lenet_cifar10.common.console import console, figures_table
from lenet_cifar10.common.files import write_json, write_table
from lenet_cifar10.common.params import load_params
from lenet_cifar10.common.stage import run_stage
from lenet_cifar10.data.arrays import load_split
from lenet_cifar10.evaluation import metrics
from lenet_cifar10.model import device, scoring
from lenet_cifar10.model.weights import load_weights

PLOTS = Path("plots")


@device.report_out_of_memory()
def main() -> None:
    """Score the network on the test set."""
    params = load_params(Path("params.yaml"))
    chosen = device.resolve_device(params.device)
    device.set_deterministic(params.train.threads)
    device.keep_freed_memory()
    network, class_names = load_weights(Path("data/model/lenet.safetensors"))
    network = network.to(chosen).to(memory_format=torch.channels_last)
    test = load_split(Path("data/prepared/test.safetensors"))
    images, labels = torch.from_numpy(test.images).to(chosen), torch.from_numpy(test.labels)
    logits = scoring.predict(network, images)
    with_flips = scoring.predict_with_flips(network, images) if params.evaluate.test_time_flips else None
    figures = metrics.summarize(logits, labels, with_flips)
    predictions = metrics.tabulate_predictions(logits, labels, class_names)
    write_json(Path("metrics/test.json"), figures)
    write_table(PLOTS / "predictions.csv", predictions)
    write_table(PLOTS / "per_class.csv", metrics.tabulate_classes(predictions, class_names))
    write_table(PLOTS / "calibration.csv", metrics.reliability_bins(logits, labels))
    console.print(figures_table(f"Test set, {len(test):,} images", figures))


if __name__ == "__main__":
    run_stage(main)

"""Train the default and the classic recipe with five seeds each and write what they reach to ACCURACY.md.

The test set is used once for each trained network. An interrupted run continues when it is started again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from benchmarks.recipes import ROOT, make_params, read_classic, start_training
from benchmarks.report import Table, percent, report

from lenet_cifar10.common.console import say
from lenet_cifar10.common.stage import run
from lenet_cifar10.data.arrays import load_split
from lenet_cifar10.experiments.revisions import describe_data
from lenet_cifar10.model.device import describe_environment, keep_freed_memory, resolve_device, set_deterministic
from lenet_cifar10.model.scoring import predict, predict_with_flips, score
from lenet_cifar10.training.checkpoint import Checkpoint, fingerprint

SEEDS = range(5)


def measure_recipes(recipes: Mapping[str, Mapping[str, Any]], device: torch.device) -> Table:
    """Train each recipe with each seed, one after the other."""
    paths = {name: ROOT / f"data/prepared/{name}.safetensors" for name in ("train", "validation", "test")}
    training, validation, test = map(load_split, paths.values())
    images, labels = torch.from_numpy(test.images).to(device), torch.from_numpy(test.labels)
    rows, checkpoints = [], []
    for recipe, changes in recipes.items():
        results = []
        for seed in SEEDS:
            params = make_params(changes, seed)
            set_deterministic(params.train.threads)
            decisive = params.model_dump(include={"seed", "augment", "model", "train"})
            name = fingerprint(decisive, describe_environment(device), [paths["train"], paths["validation"]])
            checkpoint = Checkpoint(ROOT / ".checkpoints", name)
            checkpoints.append(checkpoint)
            *_, (history, model) = start_training(params, training, validation, device, checkpoint)
            accuracies = [score(function(model, images), labels).accuracy for function in (predict, predict_with_flips)]
            results.append([history[-1].validation_accuracy, *accuracies])
            say(f"{recipe}, seed {seed}: {history[-1]}")
        rows.append((recipe, *map(percent, zip(*results, strict=True))))
    for checkpoint in checkpoints:
        checkpoint.remove()
    return Table(
        "What the recipes reach",
        "Accuracy in percent: mean and standard deviation of five seeds (0 to 4). With flips: the logits of each image "
        "and of its mirror image are averaged.",
        ("recipe", "validation", "test", "test, with flips"),
        rows,
    )


def main() -> None:
    """Train on the device that params.yaml names, and write."""
    keep_freed_memory()
    device, path = resolve_device(make_params({}).device), Path(__file__).with_name("ACCURACY.md")
    table = measure_recipes({"default": {}, "classic": read_classic()}, device)
    report("Accuracy", "make accuracy", describe_data(), device, [table], path)


if __name__ == "__main__":
    run(main)

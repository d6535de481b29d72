"""Measure training on the first GPU and write the tables to GPU.md; see README.md."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from benchmarks.accuracy import measure_recipes
from benchmarks.bench import time_once
from benchmarks.recipes import ROOT, make_params, start_training
from benchmarks.report import Table, report

from lenet_cifar10.common.stage import UserError, run
from lenet_cifar10.data.arrays import Split, load_split
from lenet_cifar10.experiments.revisions import describe_data
from lenet_cifar10.model.device import set_deterministic
from lenet_cifar10.training.checkpoint import Checkpoint

RUNS = 3
BATCH_SIZES = (125, 250, 500, 1000, 2000)


def measure_epochs(training: Split, validation: Split, device: torch.device) -> Table:
    """An epoch by batch size; it ends by reading its figures, when the device has done everything."""
    rows = []
    for batch_size in BATCH_SIZES:
        params = make_params({"train.batch_size": batch_size, "train.epochs": RUNS + 1})
        with TemporaryDirectory() as folder:
            epochs = start_training(params, training, validation, device, Checkpoint(Path(folder), "run"))
            next(epochs)
            torch.cuda.reset_peak_memory_stats(device)
            seconds = median(time_once(lambda: next(epochs)) for _ in range(RUNS))  # noqa: B023 (called at once)
            peak = torch.cuda.max_memory_allocated(device)
        row = f"{batch_size}", f"{seconds:.3f}", f"{len(training) / seconds:,.0f}", f"{peak / 1e6:,.0f}"
        rows.append(row)
    return Table(
        "An epoch",
        f"The default recipe but for the batch size, {len(training):,} images, with validation and checkpoint.",
        ("batch size", "seconds", "images a second", "peak memory on the GPU, MB"),
        rows,
    )


def measure_trainings(training: Split, validation: Split, device: torch.device) -> Table:
    """Whole trainings of the default recipe."""
    params, rows = make_params({}), []
    for number in range(1, RUNS + 1):
        with TemporaryDirectory() as folder:
            epochs = start_training(params, training, validation, device, Checkpoint(Path(folder), "run"))
            seconds = time_once(lambda: [*epochs])  # noqa: B023 (called at once)
        rows.append((f"{number}", f"{seconds:.2f}"))
    note = (
        f"{params.train.epochs} epochs of the default recipe, with the upload of the images, validation, checkpoints."
    )
    return Table("A training", note, ("run", "seconds"), rows)


def measure(device: torch.device, seeds: bool) -> Iterator[Table]:
    """Every table, one after the other."""
    training, validation = (load_split(ROOT / f"data/prepared/{name}.safetensors") for name in ("train", "validation"))
    yield measure_epochs(training, validation, device)
    yield measure_trainings(training, validation, device)
    if seeds:
        yield measure_recipes({"default": {}}, device)


def main() -> None:
    """Measure, print and write.

    Raises:
        UserError: there is no GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", action="store_true", help="also train the default recipe with five seeds")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("bench-gpu: torch sees no CUDA GPU here; run it where there is one")
    device = torch.device("cuda", 0)
    set_deterministic(make_params({}).train.threads)
    path = Path(__file__).with_name("GPU.md")
    report("On a GPU", "make bench-gpu", describe_data(), device, measure(device, options.seeds), path)


if __name__ == "__main__":
    run(main)

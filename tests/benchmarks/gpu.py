"""Measure the first GPU: what an epoch costs, what the recipes reach. Prints the tables and writes them to GPU.md.

make bench-gpu      # on data/prepared (after dvc repro): some minutes
"""

import time
from pathlib import Path
from statistics import mean, median, stdev

import torch

from benchmarks.bench import (
    FULL_SIZE,
    ROOT,
    Table,
    describe_data,
    describe_machine,
    endless_epochs,
    load_splits,
    make_params,
    make_training,
    time_once,
)
from benchmarks.recipes import CLASSIC, SHORT, Changes
from lenet_cifar10 import dataset, device, errors
from lenet_cifar10.dataset import Split
from lenet_cifar10.errors import UserError
from lenet_cifar10.evaluation import predict, predict_with_flips, score

RESULTS = Path(__file__).with_name("GPU.md")
RUNS, SEEDS = 3, range(5)

EPOCHS: dict[str, list[Changes]] = {
    "default recipe": [],
    "bfloat16": [{"train": {"precision": "bfloat16"}}],
    "whitened first layer": [{"model": {"first_layer": "whitened"}}],
    "batch_size 500": [{"train": {"batch_size": 500}}],
    "batch_size 1000": [{"train": {"batch_size": 1000}}],
    "shards 2": [{"train": {"shards": 2}}],
    "shards 4": [{"train": {"shards": 4}}],
    "no augmentation": [
        {"augment": dict.fromkeys(("flip_probability", "translation_pixels", "rotation_degrees"), 0)},
        {"augment": dict.fromkeys(("shear_degrees", "scale", "brightness", "contrast", "saturation"), 0)},
    ],
    "classic recipe": [CLASSIC],
}


def measure_epochs(split: Split, validation: Split, where: torch.device) -> Table:
    """An epoch without validation, and the peak of what is allocated on the GPU."""
    trains = {name: endless_epochs(make_params(*changes), split, validation, where) for name, changes in EPOCHS.items()}
    peaks = {}
    for name, train_epoch in trains.items():  # it ends by reading its figures, so the device has done everything then
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        train_epoch()
        peaks[name] = torch.cuda.max_memory_allocated(where) - before
    taken = {name: [] for name in trains}
    for _ in range(RUNS):
        for name, train_epoch in trains.items():
            taken[name].append(time_once(train_epoch))
    base, *_ = taken.values()
    rows = []
    for name, times in taken.items():
        ratio = median(time / usual for time, usual in zip(times, base, strict=True))
        each = median(times)
        rows.append((name, f"{each:.3f}", f"{ratio:.2f}", f"{len(split) / each:,.0f}", f"{peaks[name] / 1e6:,.0f}"))
    return Table(
        "A training epoch",
        f"{len(split):,} images. The memory is what an epoch takes beside the {megabytes(split, validation)} MB "
        "of the images.",
        ("what", "seconds", "times the default", "images a second", "memory, MB"),
        rows,
    )


def megabytes(*splits: Split) -> int:
    """What the images take on the device."""
    return round(sum(split.images.nbytes for split in splits) / 1e6)


def measure_recipes(split: Split, validation: Split, where: torch.device) -> Table:
    """The recipes with five seeds; the test set is scored once for each."""
    classes = len(dataset.load_class_names(ROOT / "data/prepared/classes.json"))
    test = dataset.load(ROOT / "data/prepared/test.npz", classes)
    images, labels = torch.from_numpy(test.images).to(where), torch.from_numpy(test.labels)
    rows = []
    for name, changes in {"default": {}, "short": SHORT}.items():
        reached, seconds = [], []
        for seed in SEEDS:
            start = time.perf_counter()
            run = make_training(split, validation, make_params(changes, seed=seed), where, seed)
            *_, last = run.run()
            seconds.append(time.perf_counter() - start)
            scores = [score(function(run.kept, images), labels) for function in (predict, predict_with_flips)]
            reached.append([last.validation_accuracy, *(found.accuracy for found in scores)])
        told = [f"{100 * mean(kind):.2f} ± {100 * stdev(kind):.2f}" for kind in zip(*reached, strict=True)]
        rows.append((name, *told, f"{median(seconds):.1f}"))
    return Table(
        "What the recipes reach",
        "Accuracy in percent: mean and standard deviation of five seeds (0 to 4); flips: the mirror image votes too. "
        "Seconds of one training, all its epochs and validations.",
        ("recipe", "validation", "test", "test, flips", "seconds"),
        rows,
    )


def main() -> None:
    """Measure, print and write.

    Raises:
        UserError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError("bench-gpu: torch sees no GPU here; run it where there is one")
    where = device.prepare("cuda", make_params().train.threads)
    split, validation = load_splits(FULL_SIZE)
    parts = [
        "# On a GPU",
        f"Made by `make bench-gpu` on {describe_data()}; {torch.cuda.get_device_name(where)}, {describe_machine()}.",
    ]
    for measure in (measure_epochs, measure_recipes):
        parts.append(str(measure(split, validation, where)))
        print(f"\n{parts[-1]}", flush=True)
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    errors.run(main)

"""Measure the project beside a DataLoader baseline, print the tables and write them to RESULTS.md.

    make bench          # everything, on data/prepared (after dvc repro): about half an hour on two cores
    make bench-short    # under two minutes, on fewer and generated images; writes nothing

Both sides of a ratio run in turn (ours, theirs, ours, ...), so that a machine that slows down slows both. A ratio is
the median of the pairs' ratios, a time the median of its runs.
"""

import argparse
import hashlib
import itertools
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from PIL import Image
from project import copy_project, environment
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.baseline import AUGMENTATION, BaselineProcess
from benchmarks.recipes import CLASSIC, SHORT, Changes, dotted
from lenet_cifar10 import augment, dataset, device, errors
from lenet_cifar10.dataset import Split
from lenet_cifar10.drawings import draw_archive
from lenet_cifar10.params import Params
from lenet_cifar10.training import Training

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("RESULTS.md")

# Multiply-adds of one image: forward, and backward, where each layer needs two products more but conv1 only one, for
# its input needs no gradient.
CONV1, LATER_LAYERS = 32 * 32 * 16 * 27, 16 * 16 * 32 * 144 + 8 * 8 * 64 * 288 + 1024 * 500 + 500 * 10
MULTIPLY_ADDS = 2 * CONV1 + 3 * LATER_LAYERS


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    runs: int
    train_images: int
    augmented_images: int


FULL_SIZE = Size(runs=5, train_images=45_000, augmented_images=5_000)
SHORT_SIZE = Size(runs=3, train_images=2_000, augmented_images=1_000)


@dataclass(frozen=True)
class Table:
    """A title, a sentence, a header and rows of texts."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def __str__(self) -> str:
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join([f"## {self.title}", "", self.note, "", *("| " + " | ".join(line) + " |" for line in lines)])


def time_once(action: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Comparison(NamedTuple):
    """Median seconds of both sides, and the median of the pairs' ratios, theirs over ours."""

    ours: float
    theirs: float
    ratio: float


def compare(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> Comparison:
    """Run both in turn, after a warm-up of each."""
    ours()
    theirs()
    pairs = [(time_once(ours), time_once(theirs)) for _ in range(runs)]
    return Comparison(median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs))


def make_params(*changes: Changes, seed: int = 0) -> Params:
    """The parameters of params.yaml with another seed and some sections' values replaced."""
    values: dict[str, Any] = Params.load(ROOT / "params.yaml").model_dump() | {"seed": seed}
    for change in changes:
        for section, settings in change.items():
            values[section] |= settings
    return Params.check(values)


def make_training(split: Split, validation: Split, params: Params, where: torch.device, seed: int = 0) -> Training:
    """A run of ours."""
    return Training(
        split,
        validation,
        classes=10,
        device=where,
        seed=seed,
        augment_section=params.augment,
        model_section=params.model,
        section=params.train,
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_augmentation(split: Split, size: Size) -> Table:
    """The published chain on both sides, from uint8 arrays to uint8 tensors, drawing included, on one core."""
    images = split.images[: size.augmented_images]
    section = make_params(CLASSIC).augment

    def ours() -> None:
        draws = augment.draw(len(images), section, torch.Generator().manual_seed(0))
        augment.apply(torch.from_numpy(images), draws, section.border)

    def theirs() -> None:
        torch.stack([pil_to_tensor(AUGMENTATION(Image.fromarray(image))) for image in images.transpose(0, 2, 3, 1)])

    with threads(1):
        measured = compare(ours, theirs, size.runs)
    each = 1e6 / len(images)
    return Table(
        "Augmentation",
        "Flip, rotation, shear and zoom, three colour operations; from uint8 arrays to uint8 tensors, one core.",
        ("this project, microseconds an image", "torchvision on Pillow", "ratio"),
        [(f"{measured.ours * each:.1f}", f"{measured.theirs * each:.1f}", f"{measured.ratio:.1f}")],
    )


def measure_forms(split: Split, validation: Split) -> dict[int, float]:
    """Seconds of one epoch of the baseline with 0, 1 and 2 workers, the fastest first."""
    seconds = {}
    for workers in (0, 1, 2):
        with BaselineProcess(split, validation, 10, workers) as candidate:
            candidate.train_epoch()  # the workers start
            seconds[workers] = time_once(candidate.train_epoch)
    return dict(sorted(seconds.items(), key=lambda form: form[1]))


def measure_epochs(split: Split, validation: Split, size: Size, forms: dict[int, float]) -> Table:
    """One training epoch, without validation, against the baseline in its fastest form."""
    whitened, bfloat16 = {"model": {"first_layer": "whitened"}}, {"train": {"precision": "bfloat16"}}
    recipes: dict[str, list[Changes]] = {
        "default recipe": [],
        "default recipe, whitened first layer": [whitened],
        "the baseline's own recipe": [CLASSIC],
    }
    if device.computes_bfloat16(torch.device("cpu")):
        recipes["default recipe, bfloat16"] = [bfloat16]
        recipes["the baseline's own recipe, bfloat16"] = [CLASSIC, bfloat16]
    rows = []
    with BaselineProcess(split, validation, 10, next(iter(forms))) as baseline:
        for name, changes in recipes.items():
            train_epoch = endless_epochs(make_params(*changes), split, validation, torch.device("cpu"))
            measured = compare(train_epoch, baseline.train_epoch, size.runs)
            rows.append((name, f"{measured.ours:.2f}", f"{measured.theirs:.2f}", f"{measured.ratio:.2f}"))
    told = ", ".join(f"{seconds:.1f} s with {workers} workers" for workers, seconds in sorted(forms.items()))
    return Table(
        "A training epoch",
        f"{len(split):,} images, two threads. The baseline's forms, once each: {told}; the fastest is compared.",
        ("what", "this project, seconds", "baseline, seconds", "ratio"),
        rows,
    )


def endless_epochs(params: Params, split: Split, validation: Split, where: torch.device) -> Callable[[], object]:
    """A call trains the next epoch of a run that has no last one."""
    endless = params.model_copy(update={"train": params.train.model_copy(update={"epochs": 10_000})})
    training = make_training(split, validation, endless, where)
    epochs = itertools.count(1)
    return lambda: training.train_epoch(next(epochs))


def measure_step(size: Size) -> Table:
    """Forward, backward and optimizer step against their multiply-adds in a large float32 matrix product."""
    batch = 250
    matrix = torch.randn(2048, 2048)
    params = make_params()
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (batch,))
    split = Split(images.numpy(), labels.numpy())
    training = make_training(split, split, params, torch.device("cpu"))
    steps, products = 20, 10

    def step() -> None:
        for index in range(steps):
            training.take_step(index, batch, [(images, labels)])

    def multiply() -> None:
        for _ in range(products):
            torch.mm(matrix, matrix)

    measured = compare(step, multiply, max(size.runs, 7))
    rate = products * 2 * 2048**3 / measured.theirs
    floor = batch * MULTIPLY_ADDS * 2 / rate
    taken = measured.ours / steps
    return Table(
        "A step",
        "Forward, backward and optimizer, batch 250, deterministic mode on, two threads; the floor is the time of "
        "their multiply-adds in a product of two 2048 x 2048 float32 matrices.",
        ("step, milliseconds", "floor, milliseconds", "step / floor", "product, GFLOP/s"),
        [(f"{1e3 * taken:.1f}", f"{1e3 * floor:.1f}", f"{taken / floor:.2f}", f"{rate / 1e9:.0f}")],
    )


def measure_growth(split: Split, validation: Split) -> Table:
    """Seconds of one epoch of the default recipe as one thing grows."""
    rows = []

    def measure(images: int, batch_size: int, count: int) -> None:
        params = make_params({"train": {"batch_size": batch_size, "threads": count}})
        part = Split(split.images[:images], split.labels[:images])
        with threads(count):
            train_epoch = endless_epochs(params, part, validation, torch.device("cpu"))
            train_epoch()
            taken = median(time_once(train_epoch) for _ in range(3))
        rows.append((f"{images:,}", f"{batch_size}", f"{count}", f"{taken:.2f}", f"{1e6 * taken / images:.0f}"))

    usual = make_params().train.batch_size
    for images in (10_000, 20_000, 40_000):
        measure(images, usual, 2)
    for batch_size in (50, 250, 500, 1000):
        measure(20_000, batch_size, 2)
    measure(20_000, usual, 1)
    note = "The default recipe but for these."
    return Table("What an epoch costs", note, ("images", "batch", "threads", "seconds", "microseconds an image"), rows)


def measure_workflow(split: Split) -> Table:
    """A dvc repro with nothing to do, and the memory that training takes, as whole processes."""
    with tempfile.TemporaryDirectory() as name:
        project = copy_project(Path(name))
        project.run("lenet-cifar10", "generate", "data/generated.tar.gz")
        digest = project.run("sha256sum", "data/generated.tar.gz").text.split()[0]
        project.change_params({"data.urls": ["data/generated.tar.gz"], "data.sha256": digest, "train.epochs": 1})
        project.change_params({"data.validation_size": 1000})
        project.dvc("repro")
        idle = median(time_once(lambda: project.dvc("repro")) for _ in range(5))
        dataset.save(project.folder / "data/prepared/train.npz", split)
        peak = watch([sys.executable, "stages/train.py"], project.folder).peak / 1e6
    rows = [("dvc repro with nothing to do, seconds", f"{idle:.2f}")]
    rows += [(f"peak memory of the stage train with {len(split):,} images, MB", f"{peak:.0f}")]
    return Table("The workflow", "Whole processes.", ("what", "measured"), rows)


def measure_time_to_accuracy(split: Split, validation: Split, workers: int) -> Table:
    """From process start to the baseline's accuracy after 20 epochs, with the short recipe."""
    start = time.perf_counter()
    with BaselineProcess(split, validation, 10, workers) as baseline:
        for _ in range(20):
            baseline.train_epoch()
        theirs = time.perf_counter() - start
        target = baseline.validate()
    with tempfile.TemporaryDirectory() as name:
        project = copy_project(Path(name))
        project.change_params(dotted(SHORT))
        save_prepared(project.folder, split, validation)
        ours, reached = time_to_reach(target, project.folder)
    return Table(
        "Time to the baseline's accuracy",
        f"The baseline's 20 epochs (seed 0, {workers} workers) reach a validation accuracy of {target:.4f}; the short "
        "recipe, measured from the start of its process, is stopped at the first epoch that reaches it.",
        ("this project, seconds", "baseline, seconds", "ratio", "validation accuracy reached"),
        [(f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.1f}", reached)],
    )


def time_to_reach(target: float, folder: Path) -> tuple[float, str]:
    """Seconds from the start of stages/train.py until an epoch's line tells at least that validation accuracy."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "stages/train.py"], cwd=folder, env=environment(PYTHONPATH="src"), stdout=-1, text=True
    )
    assert process.stdout is not None
    accuracy = "none"
    for line in process.stdout:
        if line.startswith("epoch"):
            accuracy = line.split()[-1]
            if float(accuracy) >= target:
                break
    taken = time.perf_counter() - start
    process.kill()
    process.wait()
    return (taken, accuracy) if accuracy != "none" and float(accuracy) >= target else (math.nan, accuracy)


# How many shards, processes, and threads of each. One process of two threads and two of one have the same cores.
TEAMS = ((1, 1, 2), (1, 1, 1), (2, 1, 1), (4, 1, 1), (2, 2, 1), (4, 2, 1))


def measure_teams(split: Split, validation: Split, runs: int) -> Table:
    """An epoch of the stage train, validation and checkpoint with it, for numbers of shards and of processes."""
    with tempfile.TemporaryDirectory() as name:
        project = copy_project(Path(name))
        save_prepared(project.folder, split, validation)
        times: dict[tuple[int, int, int], list[float]] = {team: [] for team in TEAMS}
        for _ in range(runs):
            for shards, processes, count in TEAMS:
                project.change_params({"train.shards": shards, "train.threads": count, "train.epochs": 3})
                torchrun = ["torchrun", "--standalone", "--nproc-per-node", str(processes)]
                command = [*(torchrun if processes > 1 else [sys.executable]), "stages/train.py"]
                times[shards, processes, count].append(watch(command, project.folder).epoch)
                shutil.rmtree(project.folder / ".resume")
    base = times[1, 1, 1]
    rows = []
    for team, taken in times.items():
        ratio = median(time / usual for time, usual in zip(taken, base, strict=True))
        rows.append((*map(str, team), f"{median(taken):.2f}", f"{ratio:.2f}"))
    return Table(
        "Shards and processes",
        f"The default recipe on {len(split):,} images, an epoch of the stage `train` with validation and checkpoint; "
        "the third column is of each process, the last the median ratio to one shard and one thread.",
        ("shards", "processes", "threads", "seconds", "times"),
        rows,
    )


class Watched(NamedTuple):
    """A process that has ended: its seconds, its peak memory in bytes, the mean seconds between epochs' lines."""

    seconds: float
    peak: int
    epoch: float


def watch(command: Sequence[str], folder: Path) -> Watched:
    """Run a stage's command in a project's folder, on Linux.

    Raises:
        UserError: it failed.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment(PYTHONPATH="src", PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, text=True
    ) as process:
        peaks, told = [0], []
        looking = threading.Thread(target=look_at_memory, args=(process.pid, peaks))
        looking.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                told.append(time.perf_counter())
    taken = time.perf_counter() - start
    looking.join()
    if process.returncode:
        raise errors.UserError(f"{' '.join(command)}: ended with {process.returncode}; its words are above")
    return Watched(taken, max(peaks), (told[-1] - told[0]) / (len(told) - 1) if len(told) > 1 else math.nan)


def look_at_memory(process: int, peaks: list[int]) -> None:
    """Add the peak that the system tells of a process, in bytes, again and again until it ends."""
    with suppress(OSError, IndexError):  # it has ended
        while True:
            told = Path(f"/proc/{process}/status").read_text()
            peaks.append(int(told.split("VmHWM:")[1].split()[0]) * 1024)
            time.sleep(0.02)


def save_prepared(folder: Path, split: Split, validation: Split) -> None:
    """What the stage prepare would write, into a project's folder."""
    prepared = folder / "data/prepared"
    prepared.mkdir(parents=True)
    dataset.save(prepared / "train.npz", split)
    dataset.save(prepared / "validation.npz", validation)
    dataset.save_class_names(prepared / "classes.json", [f"class {label}" for label in range(10)])


def load_splits(size: Size) -> tuple[Split, Split]:
    """Training and validation images: those of data/prepared for the full size, generated ones for the short."""
    if size is FULL_SIZE:
        folder = ROOT / "data/prepared"
        classes = len(dataset.load_class_names(folder / "classes.json"))
        return dataset.load(folder / "train.npz", classes), dataset.load(folder / "validation.npz", classes)
    drawn = draw_archive(size.train_images, 500, seed=0)
    return drawn.train, drawn.test


def measure_all(size: Size) -> Iterator[Table]:
    """Every table, one after the other."""
    split, validation = load_splits(size)
    yield measure_augmentation(split, size)
    yield measure_step(size)
    forms = measure_forms(split, validation)
    yield measure_epochs(split, validation, size, forms)
    if size is FULL_SIZE:
        yield measure_growth(split, validation)
        yield measure_teams(split, validation, 3)
        yield measure_workflow(split)
        yield measure_time_to_accuracy(split, validation, next(iter(forms)))


def describe_data() -> str:
    """Which archive the images of data/prepared come from: the one that download has left."""
    with (ROOT / "data/raw/cifar-10-python.tar.gz").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{'CIFAR-10' if digest.startswith('6d958be0') else 'the images of the archive'} (SHA-256 {digest[:8]}…)"


def describe_machine() -> str:
    """What the figures were taken on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cores} cores of {device.processor_name()}, {platform.system()}, {versions}, {date.today().isoformat()}"


def main() -> None:
    """Measure, print, and write the full form's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer, generated images; under two minutes")
    size = SHORT_SIZE if parser.parse_args().short else FULL_SIZE
    device.prepare("cpu", make_params().train.threads)
    data = describe_data() if size is FULL_SIZE else "generated images"
    parts = ["# Benchmarks", f"Made by `make bench` on {data}; {describe_machine()}."]
    for table in measure_all(size):
        parts.append(str(table))
        print(f"\n{table}", flush=True)
    if size is FULL_SIZE:
        RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    errors.run(main)

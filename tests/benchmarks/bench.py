"""Measure speed and memory on the CPU and write the tables to RESULTS.md; see README.md.

What is compared runs in turn (ours, theirs, ours, ...), so that a machine that slows down slows both. A ratio is the
median of the pairs' ratios, a time the median of its runs. For Linux.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.baseline import AUGMENTATION, baseline_process
from benchmarks.recipes import ROOT, make_params, read_classic, start_training
from benchmarks.report import Table, report
from PIL import Image
from project import change_params, run, start
from torch.nn import functional
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import pil_to_tensor

from lenet_cifar10.common import stage
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.arrays import Split, load_split
from lenet_cifar10.data.synthetic import write_archive
from lenet_cifar10.experiments.revisions import describe_data
from lenet_cifar10.model import augment
from lenet_cifar10.model.device import keep_freed_memory, set_deterministic, supports_bfloat16
from lenet_cifar10.model.lenet import LeNet, normalize
from lenet_cifar10.training.checkpoint import Checkpoint
from lenet_cifar10.training.distributed import World
from lenet_cifar10.training.steps import Steps

CPU = torch.device("cpu")
ARCHIVE = Path("data/raw/cifar-10-python.tar.gz")

# Micro-batches, processes and threads of each: two processes of one thread have the cores of one process of two.
ARRANGEMENTS = ((1, 1, 2), (1, 1, 1), (2, 1, 1), (4, 1, 1), (2, 2, 1), (4, 2, 1))

# Runs a command and prints the peak memory of its largest process in KiB. A process of its own, because the peak that
# the system reports includes that of the process which started the command.
MEASURE_PEAK = (
    "import resource, subprocess, sys; ended = subprocess.run(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(ended.returncode)"
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    runs: int
    augmented_images: int
    arrangements: Sequence[tuple[int, int, int]]


FULL = Size(runs=3, augmented_images=5_000, arrangements=ARRANGEMENTS)
SHORT = Size(runs=3, augmented_images=1_000, arrangements=ARRANGEMENTS[:1])


def time_once(action: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Comparison(NamedTuple):
    """Median seconds of both sides; ratio: the median of the pairs' ratios, theirs over ours."""

    ours: float
    theirs: float
    ratio: float


def compare(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> Comparison:
    """Time two functions in turn, after a warm-up of each."""
    ours()
    theirs()
    pairs = [(time_once(ours), time_once(theirs)) for _ in range(runs)]
    return Comparison(median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs))


def measure_augmentation(split: Split, size: Size) -> Table:
    """The classic recipe's changes on both sides, on one core."""
    images = split.images[: size.augmented_images]
    section = make_params(read_classic()).augment

    def ours() -> None:
        draws = augment.draw(len(images), section, torch.Generator().manual_seed(0))
        augment.apply(torch.from_numpy(images), draws, section.padding_mode)

    def theirs() -> None:
        torch.stack([pil_to_tensor(AUGMENTATION(Image.fromarray(image))) for image in images.transpose(0, 2, 3, 1)])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measured = compare(ours, theirs, size.runs)
    torch.set_num_threads(threads)
    each = 1e6 / len(images)
    return Table(
        "Augmentation",
        "Flip, rotation, shear, zoom and colours; from uint8 arrays to uint8 tensors, one core.",
        ("this project, microseconds an image", "torchvision on Pillow", "ratio"),
        [(f"{measured.ours * each:.1f}", f"{measured.theirs * each:.1f}", f"{measured.ratio:.1f}")],
    )


def measure_step(size: Size) -> Table:
    """Training steps against a large matrix product of the same floating-point operations."""
    batch, count = 250, 8
    settings = make_params({"train.batch_size": batch}).train
    model = LeNet(make_params({}).model, classes=10).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (count * batch, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count * batch,))
    steps = Steps(model, settings, seed=0, count=10_000, chunk=count, world=World())
    with FlopCounterMode(display=False) as counter:
        model.classify(normalize(images[:batch])).sum().backward()
    operations = counter.get_total_flops()
    matrix, products = torch.randn(2048, 2048), 10

    def take() -> None:
        steps.load(images, labels, batch, range(count))
        for _ in range(count):
            steps.take()

    def multiply() -> None:
        for _ in range(products):
            torch.mm(matrix, matrix)

    measured = compare(take, multiply, 3 * size.runs)
    rate = products * 2 * 2048**3 / measured.theirs
    taken, floor = measured.ours / count, operations / rate
    return Table(
        "A step",
        "Normalization, forward, backward, optimizer and moving average, batch 250, two threads. The floor is the time "
        "that its floating-point operations take in a product of two 2048 x 2048 float32 matrices.",
        ("step, milliseconds", "floor, milliseconds", "step / floor", "product, GFLOP/s"),
        [(f"{1e3 * taken:.1f}", f"{1e3 * floor:.1f}", f"{taken / floor:.2f}", f"{rate / 1e9:.0f}")],
    )


def measure_host(size: Size) -> Table:
    """What Python and the host do for a step and for an epoch, against the same done in the usual way."""
    settings = make_params({"train.batch_size": 1}).train
    models = [LeNet(make_params({}).model, classes=10).to(memory_format=torch.channels_last) for _ in range(3)]
    count = 200
    images, labels = torch.zeros(count, 3, 32, 32, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64)
    steps = Steps(models[0], settings, seed=0, count=10_000, chunk=count, world=World())
    model, average = models[1:]
    optimizer = SGD(model.parameters(), 0.01, settings.momentum, weight_decay=settings.weight_decay, fused=True)

    def take() -> None:
        steps.load(images, labels, 1, range(count))
        for _ in range(count):
            steps.take()

    def take_plainly() -> None:
        losses = []
        for x, y in zip(images.split(1), labels.split(1), strict=True):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y, label_smoothing=settings.label_smoothing)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            with torch.no_grad():
                for old, new in zip(average.parameters(), model.parameters(), strict=True):
                    old.lerp_(new, 0.002)
        torch.stack(losses).tolist()

    def plan() -> None:
        _, draws = augment.plan_epoch(45_000, 0, 1, make_params({}).augment)
        augment.tabulate(draws)

    def plan_plainly() -> None:
        in_bulk = augment._round_to_15_digits
        augment._round_to_15_digits = lambda values: np.array([round(value, 15) for value in values.tolist()])
        plan()
        augment._round_to_15_digits = in_bulk

    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for name, each, action, plainly in (
        ("a step of one image, against a loop in the usual form", count, take, take_plainly),
        ("an epoch's order and tables, 45,000 images, against Python's round", 1, plan, plan_plainly),
    ):
        measured = compare(action, plainly, 3 * size.runs)
        times = (f"{1e3 * seconds / each:.2f}" for seconds in measured[:2])
        rows.append((name, *times, f"{measured.ratio:.2f}"))
    torch.set_num_threads(threads)
    header = ("what", "this project, milliseconds", "the other, milliseconds", "ratio")
    return Table("The host", "What a GPU would wait for, or hide; one thread.", header, rows)


def measure_epochs(split: Split, size: Size) -> Table:
    """A training epoch of ours against one of the baseline's fastest form."""
    forms = {}
    for workers in (0, 1, 2):
        with baseline_process(split, workers) as train_epoch:
            train_epoch()  # the workers start
            forms[workers] = time_once(train_epoch)
    recipes = {"default recipe": {}, "the baseline's own recipe": read_classic()}
    if supports_bfloat16(CPU):
        recipes["default recipe, bfloat16"] = {"train.precision": "bfloat16"}
    rows = []
    with baseline_process(split, min(forms, key=lambda workers: forms[workers])) as theirs:
        for name, changes in recipes.items():
            params = make_params(changes | {"train.epochs": size.runs + 1})
            with TemporaryDirectory() as folder:
                ours = start_training(params, split, split[np.arange(10)], CPU, Checkpoint(Path(folder), "run"))
                measured = compare(lambda: next(ours), theirs, size.runs)  # noqa: B023 (called at once)
            rows.append((name, f"{measured.ours:.2f}", f"{measured.theirs:.2f}", f"{measured.ratio:.2f}"))
    times = ", ".join(f"{seconds:.1f} s with {workers} workers" for workers, seconds in forms.items())
    return Table(
        "A training epoch",
        f"{len(split):,} images, two threads, without validation. The baseline's forms, one epoch each: {times}; the "
        "fastest is compared.",
        ("recipe", "this project, seconds", "baseline, seconds", "ratio"),
        rows,
    )


def make_workspace(folder: Path, checkout: Path, archive: Path, validation_size: int) -> Path:
    """Copy a checkout's stages and prepare an archive with them -> a folder in which its stage train runs."""
    for name in ("src", "stages"):
        shutil.copytree(checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(checkout / "params.yaml", folder / "params.yaml")
    change_params(folder, {"data.validation_size": validation_size, "device": "cpu"})
    (folder / ARCHIVE).parent.mkdir(parents=True)
    shutil.copyfile(archive, folder / ARCHIVE)
    run(folder, sys.executable, "stages/prepare.py", PYTHONPATH="src")
    return folder


@dataclass(frozen=True)
class Variant:
    """A way to run the stage train: where, with which changes to params.yaml, and how many processes."""

    folder: Path
    changes: Mapping[str, int]
    processes: int = 1


def run_training(variant: Variant) -> tuple[float, float]:
    """Run the stage train -> seconds an epoch, without the first, and the peak memory of its largest process in MB.

    Raises:
        UserError: the stage failed.
    """
    change_params(variant.folder, {"train.epochs": 4, **variant.changes})
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", str(variant.processes)]
    launcher = torchrun if variant.processes > 1 else [sys.executable]
    with TemporaryDirectory() as checkpoints:
        command = [sys.executable, "-c", MEASURE_PEAK, *launcher, "stages/train.py"]
        process = start(variant.folder, *command, PYTHONPATH="src", PYTHONUNBUFFERED="1", DVC_ROOT=checkpoints)
        assert process.stdout is not None
        lines, times = [], []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch"):
                times.append(time.perf_counter())
        if process.wait():
            raise UserError(f"stages/train.py has failed:\n{''.join(lines)}")
    return (times[-1] - times[0]) / (len(times) - 1), int(lines[-1]) * 1024 / 1e6


def measure_stage(variants: Mapping[str, Variant], note: str, runs: int) -> Table:
    """The stage train in several ways, in turn."""
    figures = np.array([[run_training(variant) for variant in variants.values()] for _ in range(runs)])
    medians, ratios = np.median(figures, axis=0), np.median(figures / figures[:, :1], axis=0)
    rows = [
        (name, f"{seconds:.3f}", f"{slower:.3f}", f"{peak:.0f}", f"{larger:.3f}")
        for name, (seconds, peak), (slower, larger) in zip(variants, medians, ratios, strict=True)
    ]
    return Table(
        "The stage train",
        f"{note} An epoch with its validation and checkpoint; the peak memory is that of the largest process.",
        ("what", "seconds an epoch", "times the first", "peak memory, MB", "times the first"),
        rows,
    )


def measure(folder: Path, archive: Path, validation_size: int, size: Size, against: Path | None) -> Iterator[Table]:
    """Every table, one after the other, or that against another checkout alone."""
    here = make_workspace(folder / "here", ROOT, archive, validation_size)
    if against:
        there = make_workspace(folder / "there", against, archive, validation_size)
        variants = {"this checkout": Variant(here, {}), "the other": Variant(there, {})}
        yield measure_stage(variants, "Each with its own params.yaml.", size.runs)
        return
    split = load_split(here / "data/prepared/train.safetensors")
    yield measure_augmentation(split, size)
    yield measure_step(size)
    yield measure_host(size)
    yield measure_epochs(split, size)
    variants = {
        f"micro-batches: {parts}, processes: {processes}, threads of each: {threads}": Variant(
            here, {"train.micro_batches": parts, "train.threads": threads}, processes
        )
        for parts, processes, threads in size.arrangements
    }
    yield measure_stage(variants, "The default recipe.", size.runs)


def main() -> None:
    """Measure, print, and write the full form's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="2,000 generated images; writes nothing")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with another checkout; writes nothing")
    options = parser.parse_args()
    set_deterministic(make_params({}).train.threads)
    keep_freed_memory()
    with TemporaryDirectory() as name:
        folder = Path(name)
        if options.short:
            size, archive, validation_size, data = SHORT, folder / "generated.tar.gz", 500, "generated images"
            write_archive(archive, train=2_500, test=500, seed=0)
        else:
            size, archive, data = FULL, ROOT / ARCHIVE, describe_data()
            validation_size = make_params({}).data.validation_size
        path = None if options.short or options.against else Path(__file__).with_name("RESULTS.md")
        tables = measure(folder, archive, validation_size, size, options.against)
        report("Benchmarks", "make bench-short" if options.short else "make bench", data, CPU, tables, path)


if __name__ == "__main__":
    stage.run(main)

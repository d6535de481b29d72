"""Measure the recorded training step on the first GPU, in seven parts, and write GPU.md; see README.md.

Each part is a process of its own and prints as it ends; one that fails does not stop the others. It needs torch, NumPy
and what the training imports. Without prepared data it trains on random images: no check depends on them.
"""

import math
import os
import shutil
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
import torch
from benchmarks.columns import Columns
from benchmarks.recipes import ROOT, make_params, start_training
from benchmarks.report import Table, report
from torch.profiler import ProfilerActivity, profile

from lenet_cifar10.common.stage import UserError, run
from lenet_cifar10.data.arrays import Split, load_split
from lenet_cifar10.model import augment, scoring
from lenet_cifar10.model.device import keep_freed_memory, set_deterministic, supports_bfloat16, supports_tf32
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.training.checkpoint import Checkpoint
from lenet_cifar10.training.distributed import World
from lenet_cifar10.training.steps import Steps

RUNS = 3
PROFILED_STEPS = 20
CHUNKS = (1024, 2048, 4096, 16384)  # beside the usual 8,192: images that the augmentation changes at once


@dataclass
class Machine:
    """Where and on what is measured, and what a part has found, for the verdict."""

    device: torch.device
    training: Split
    validation: Split
    data: str
    epochs: int = 20
    verdict: dict[str, str] = field(default_factory=dict)

    def synchronize(self) -> None:
        """Wait until the GPU has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, action: Callable[[], object]) -> tuple[float, float]:
        """Seconds until a call returns, and until the GPU has done what it was given."""
        self.synchronize()
        start = time.perf_counter()
        action()
        returned = time.perf_counter() - start
        self.synchronize()
        return returned, time.perf_counter() - start


def train(
    machine: Machine, changes: Mapping[str, Any], stop_after: int = 0, after_step: Callable[[], object] = lambda: None
) -> bytes:
    """Train, stopped and resumed after some epochs if asked to -> the last checkpoint: all weights, states, figures."""
    with TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder), "run")
        for last in filter(None, (stop_after, make_params(changes).train.epochs)):
            epochs = start_training(
                make_params(changes), machine.training, machine.validation, machine.device, checkpoint, after_step
            )
            for history, _ in epochs:
                if len(history) == last:
                    break
        return checkpoint.path.read_bytes()


def first_difference(first: bytes, second: bytes) -> str:
    """The first tensor of two checkpoints that differs; "equal" where every byte is."""
    if first == second:
        return "equal"
    tensors, others = (safetensors.torch.load(content[:-32]) for content in (first, second))
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])]
    return f"differ, first in {different[0]}" if different else "differ in the figures"


def compare_bits(machine: Machine, recipes: Mapping[str, Mapping[str, Any]], epochs: int) -> Table:
    """Recorded, recorded again, resumed and eager: the checkpoints after the last epoch."""
    rows, checkpoints = [], {}
    for name, changes in recipes.items():
        recorded, eager = ({**changes, "train.epochs": epochs, "train.cuda_graph": on} for on in (True, False))
        try:
            checkpoints[name] = train(machine, recorded)
            others = (train(machine, recorded), train(machine, recorded, stop_after=1), train(machine, eager))
            found = [first_difference(checkpoints[name], other) for other in others]
        except Exception as error:
            found = [f"FAILED: {' '.join(str(error).split())[:200]}"] * 3
        rows.append((name, *found))
    for column, what in enumerate(("again", "resumed", "eager"), start=1):
        other = [f"{row[0]}: {row[column]}" for row in rows if row[column] != "equal"]
        machine.verdict[f"{what}, {len(machine.training):,} images"] = "; ".join(other) or "equal bits"
    same = [name for name in checkpoints if name != "sgd" and checkpoints[name] == checkpoints.get("sgd")]
    machine.verdict[f"recipes without effect, {len(machine.training):,} images"] = ", ".join(same) or "none"
    note = f"{len(machine.training):,} images, {epochs} epochs: weights, EMA, optimizer, figures, after a recorded run."
    return Table("The same bits", note, ("recipe", "recorded again", "resumed after epoch 1", "eager"), rows)


def part_1(machine: Machine) -> Iterator[Table]:
    """The machine, and what the first use of it costs."""
    start = time.perf_counter()
    torch.zeros(1, device=machine.device).item()
    rows = [("first use", f"{time.perf_counter() - start:.2f} s")]
    rows.append(("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}"))
    if shutil.which("nvidia-smi"):
        query = "nvidia-smi --id=0 --query-gpu=driver_version,clocks.max.sm,power.limit --format=csv,noheader"
        result = subprocess.run(query.split(), capture_output=True, text=True, check=False)
        rows.append(("driver, highest clock, power limit", " ".join((result.stdout + result.stderr).split())))
    yield Table("The machine", "", ("what", "found"), rows)


def part_2(machine: Machine) -> Iterator[Table]:
    """On small data: the bits of every optimizer and precision, with a smaller last batch; and that nothing waits."""
    training, validation = machine.training[np.arange(1000)], machine.validation[np.arange(100)]
    small = Machine(machine.device, training, validation, machine.data, 3, machine.verdict)
    base = {"train.batch_size": 48, "train.precision": "float32"}
    adam = {"train.momentum": 0.0, "train.learning_rate": 0.006}
    recipes: dict[str, dict[str, Any]] = {
        "sgd": base,
        "sgd without momentum, EMA, dropout": base
        | {"train.momentum": 0.0, "train.ema_decay": 0.0, "model.dropout": 0.0},
        "adam": base | adam | {"train.optimizer": "adam"},
        "adamw": base | adam | {"train.optimizer": "adamw"},
    }
    if supports_bfloat16(machine.device):
        recipes["sgd, bfloat16"] = base | {"train.precision": "bfloat16"}
    if supports_tf32(machine.device):
        recipes["sgd, tf32"] = base | {"train.precision": "tf32"}
    yield compare_bits(small, recipes, small.epochs)
    whole = 1000 // 48
    for is_recorded in (False, True) if machine.device.type == "cuda" else ():
        steps = 0

        def after_step() -> None:  # in the second epoch, whose images are loaded before its first step
            nonlocal steps
            steps += 1
            torch.cuda.set_sync_debug_mode("error" if whole + 2 <= steps < 2 * whole else "default")

        train(small, base | {"train.epochs": 2, "train.cuda_graph": is_recorded}, after_step=after_step)
    machine.verdict["waits within the steps"] = "none"


def part_3(machine: Machine) -> Iterator[Table]:
    """All images, two epochs: the same bits."""
    yield compare_bits(machine, {"default": {}}, 2)


def make_steps(
    machine: Machine, changes: Mapping[str, Any], change_model: Callable[[LeNet], object] = lambda model: None
) -> Steps:
    """Steps of an epoch's whole batches, loaded; recorded where the changes ask for it."""
    params = make_params(changes)
    torch.manual_seed(0)
    model = LeNet(params.model, len(machine.training.class_names)).to(machine.device)
    model.to(memory_format=torch.channels_last)
    change_model(model)
    size = params.train.batch_size
    count = len(machine.training) // size
    steps = Steps(model, params.train, 0, 20 * count, count, World())
    images, labels = (
        torch.from_numpy(array[: count * size]).to(machine.device)
        for array in (machine.training.images, machine.training.labels)
    )
    steps.load(images, labels, size, range(count))
    assert bool(steps.batches.replay) == params.train.cuda_graph
    return steps


def take(steps: Steps, count: int | None = None) -> None:
    """All loaded steps from the first on, or `count` of them."""
    steps.position.zero_()
    for _ in range(count or len(steps.loaded)):
        steps.take()


def part_4(machine: Machine) -> Iterator[Table]:
    """Kernels and launches of a step, eager and replayed."""
    os.environ["TEARDOWN_CUPTI"] = "0"  # else a second profile may see no kernels
    rows, slowest = [], []
    for name, is_recorded in (("eager", False), ("replayed", True)):
        steps = make_steps(machine, {"train.cuda_graph": is_recorded})
        take(steps, PROFILED_STEPS)
        times = [machine.time(partial(take, steps)) for _ in range(5)]
        count = len(steps.loaded)
        queued, done = (1e3 * median(seconds) / count for seconds in zip(*times, strict=True))
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            take(steps, PROFILED_STEPS)
            machine.synchronize()
        events = profiler.events() or []
        kernels = [event for event in events if event.device_type.name == "CUDA" and not event.is_user_annotation]
        if machine.device.type == "cuda" and not kernels:
            raise RuntimeError("the profiler saw no kernels")
        microseconds = Counter[str]()
        for event in kernels:
            microseconds[event.name] += event.device_time_total
        launch_names = ("cudaGraphLaunch",) if is_recorded else ("cudaLaunchKernel", "cuLaunchKernel")
        launches = [event.cpu_time_total for event in events if event.name.startswith(launch_names)]
        launch = f"{median(launches):.1f}" if launches else "–"
        each = f"{len(kernels) / PROFILED_STEPS:.1f}", f"{sum(microseconds.values()) / PROFILED_STEPS:.0f}"
        rows.append((name, *each, launch, f"{queued:.3f}", f"{done:.3f}"))
        slowest += [
            (name, kernel[:100].replace("|", "/"), f"{total / PROFILED_STEPS:.1f}")
            for kernel, total in microseconds.most_common(25)
        ]
        machine.verdict[f"kernels a step, {name}"] = each[0]
        machine.verdict[f"ms a step, {name}"] = f"{done:.3f}"
    header = ("step", "kernels", "their us", "us a launch", "ms to queue", "ms until done")
    yield Table("A step", f"Kernels of {PROFILED_STEPS} profiled steps, times of whole epochs.", header, rows)
    yield Table("The slowest kernels", "Microseconds of a step.", ("step", "kernel", "us"), slowest)


def part_5(machine: Machine) -> Iterator[Table]:
    """What an epoch is made of, each piece alone."""
    section, training, device = make_params({}).augment, machine.training, machine.device
    rows: list[tuple[str, float]] = []

    def measure(name: str, action: Callable[[], Any], is_repeated: bool = True) -> Any:
        results: list[Any] = []
        times = [machine.time(lambda: results.append(action()))[1] for _ in range(5 if is_repeated else 1)]
        rows.append((name, median(times)))
        return results[-1]

    order, draws = measure("plan", lambda: augment.plan_epoch(len(training), 0, 1, section))
    tables = measure("tables", lambda: augment.tabulate(draws))
    images = measure("upload of the images, once a run", lambda: torch.from_numpy(training.images).to(device))
    chosen = measure("gather", lambda: images[order.to(device)])
    usual, changed = augment._DEVICE_CHUNK, chosen
    for size in (*CHUNKS, usual):
        augment._DEVICE_CHUNK = size
        name = f"augmentation, {size:,} images at once"
        changed = measure(name, lambda: augment.apply_tables(chosen, tables, section.padding_mode))
    recorded = {"train.cuda_graph": True}
    steps = measure("warm-up, recording, first load, once a run", lambda: make_steps(machine, recorded), False)
    size, numbers = make_params({}).train.batch_size, steps.loaded
    labels = torch.from_numpy(training.labels).to(device)
    number = size * len(numbers)
    measure("load", lambda: steps.load(changed[:number], labels[:number], size, numbers))
    measure(f"{len(numbers)} steps, replayed", lambda: take(steps))
    measure("figures", lambda: [figure.tolist() for figure in steps.figures()])
    validation = torch.from_numpy(machine.validation.images).to(device)
    logits = measure("prediction of the validation images", lambda: scoring.predict(steps.ema_model, validation))
    measure("their score", lambda: scoring.score(logits, torch.from_numpy(machine.validation.labels)))
    with TemporaryDirectory() as folder:
        measure("checkpoint", lambda: Checkpoint(Path(folder), "run").save(steps.state(), []))
    note = "Each piece alone, until the GPU has done it; the median of five."
    yield Table("An epoch", note, ("piece", "ms"), [(name, f"{1e3 * seconds:.2f}") for name, seconds in rows])


def part_6(machine: Machine) -> Iterator[Table]:
    """Whole trainings: wall time, memory and bits."""
    rows, results = [], []
    for name, is_recorded in (("eager", False), *[("recorded", True)] * RUNS):
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(machine.device)
        changes = {"train.epochs": machine.epochs, "train.cuda_graph": is_recorded}
        _, seconds = machine.time(lambda changes=changes: results.append(train(machine, changes)))
        peak = torch.cuda.max_memory_reserved(machine.device) / 1e6 if machine.device.type == "cuda" else math.nan
        rows.append((name, f"{seconds:.2f}", f"{peak:,.0f}", first_difference(results[0], results[-1])))
    for column, what in enumerate((f"seconds of {machine.epochs} epochs", "MB on the GPU", "bits against eager"), 1):
        machine.verdict[f"{what}: eager; recorded"] = "; ".join(row[column] for row in rows)
    note = f"{machine.epochs} epochs, with upload, validation and checkpoints; bits against the first."
    yield Table("A training", note, ("steps", "seconds", "reserved memory, MB", "bits"), rows)


def _in_nchw(model: LeNet) -> None:
    model.to(memory_format=torch.contiguous_format)
    classify = model.classify
    model.classify = lambda features: classify(features.contiguous())


def _in_columns(model: LeNet) -> None:
    model.to(memory_format=torch.contiguous_format)
    for name in ("conv1", "conv2", "conv3"):
        setattr(model, name, Columns(getattr(model, name)))


@contextmanager
def _ten_steps_at_once() -> Iterator[None]:
    """Within this, a recording has ten steps."""
    usual = Steps.record
    Steps.record = staticmethod(lambda step, before: usual(lambda: [step() for _ in range(10)], before))
    try:
        yield
    finally:
        Steps.record = staticmethod(usual)


def part_7(machine: Machine) -> Iterator[Table]:
    """The replayed step in other forms."""
    forms: list[tuple[str, dict[str, Any], Callable[[LeNet], object]]] = [
        ("channels last, float32 (as in training)", {}, lambda model: None),
        ("NCHW", {}, _in_nchw),
        ("convolutions as columns and a product", {}, _in_columns),
        *((f"batch size {size}", {"train.batch_size": size}, lambda model: None) for size in (250, 500, 1000)),
    ]
    if supports_tf32(machine.device):
        forms.append(("tf32", {"train.precision": "tf32"}, lambda model: None))
        forms.append(("NCHW, tf32", {"train.precision": "tf32"}, _in_nchw))
        forms.append(("columns, tf32", {"train.precision": "tf32"}, _in_columns))
    if supports_bfloat16(machine.device):
        forms.append(("bfloat16", {"train.precision": "bfloat16"}, lambda model: None))
        forms.append(("columns, bfloat16", {"train.precision": "bfloat16"}, _in_columns))
    rows = []
    for name, changes, change_model in forms:
        steps = make_steps(machine, {"train.cuda_graph": True, **changes}, change_model)
        rows.append((name, *_time_steps(machine, steps, len(steps.loaded))))
    with _ten_steps_at_once():
        steps = make_steps(machine, {"train.cuda_graph": True})
    rows.append(("ten steps in a graph", *_time_steps(machine, steps, len(steps.loaded) // 10, steps_each=10)))
    yield Table("The step in other forms", "The median of five epochs.", ("form", "ms a step", "us an image"), rows)


def _time_steps(machine: Machine, steps: Steps, calls: int, steps_each: int = 1) -> tuple[str, str]:
    take(steps, calls)
    seconds = median(machine.time(lambda: take(steps, calls))[1] for _ in range(5)) / (calls * steps_each)
    return f"{1e3 * seconds:.3f}", f"{1e6 * seconds / steps.settings.batch_size:.2f}"


PARTS = (part_1, part_2, part_3, part_4, part_5, part_6, part_7)


def run_part(number: int, machine: Machine | None = None) -> tuple[list[Table], dict[str, str]]:
    """The tables of a part, one more if it fails, and its verdict; on the first GPU if no machine is given."""
    start, tables = time.perf_counter(), []
    if machine is None:
        set_deterministic(make_params({}).train.threads)
        keep_freed_memory()
        machine = Machine(torch.device("cuda", 0), *load_data())
    machine.verdict.clear()
    try:
        for table in PARTS[number - 1](machine):
            tables.append(table)
    except Exception:
        machine.verdict[f"part {number}"] = "FAILED"
        tables.append(Table(f"Part {number} failed", f"```\n{traceback.format_exc(limit=-3)}```", ("",), []))
    return tables, machine.verdict | {f"seconds of part {number}": f"{time.perf_counter() - start:.0f}"}


def run_in_process(number: int) -> tuple[list[Table], dict[str, str]]:
    """The same in a process of its own: after a failed recording a process may be of no use."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(run_part, number).result()
    except Exception as error:  # the process has died
        return [], {f"part {number}": f"FAILED: {type(error).__name__}"}


def measure(
    verdict: dict[str, str], run_one: Callable[[int], tuple[list[Table], dict[str, str]]] = run_in_process
) -> Iterator[Table]:
    """The tables of all parts, one after the other; the verdict grows."""
    for number in range(1, len(PARTS) + 1):
        tables, found = run_one(number)
        verdict |= found
        yield from tables


def load_data() -> tuple[Split, Split, str]:
    """Training and validation images, and what they are."""
    paths = [ROOT / f"data/prepared/{name}.safetensors" for name in ("train", "validation")]
    if all(path.exists() for path in paths):
        training, validation = map(load_split, paths)
        return training, validation, "the images in data/prepared"
    random, names = np.random.default_rng(0), tuple(f"class {number}" for number in range(10))
    training, validation = (
        Split(random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count) % 10, names)
        for count in (45_000, 5_000)
    )
    return training, validation, "random images"


def main() -> None:
    """Measure, print and write.

    Raises:
        UserError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError("bench-graphs: torch sees no CUDA GPU here; run it where there is one")
    verdict: dict[str, str] = {}
    path = Path(__file__).with_name("GPU.md")
    report("On a GPU", "make bench-graphs", load_data()[2], torch.device("cuda", 0), measure(verdict), path, verdict)


if __name__ == "__main__":
    run(main)

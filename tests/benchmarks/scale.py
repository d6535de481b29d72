"""Measure what grows with images and with experiments. Prints the tables and writes them to SCALE.md.

    make bench-scale    # on data/raw and data/prepared (after dvc repro): about ten minutes on two cores

What follows for larger sizes is in README.md, beside this file.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from hashlib import file_digest
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from project import Project, copy_project

from benchmarks.bench import (
    FULL_SIZE,
    ROOT,
    Table,
    describe_data,
    describe_machine,
    load_splits,
    save_prepared,
    time_once,
    watch,
)
from lenet_cifar10 import archive, errors
from lenet_cifar10.archive import Archive
from lenet_cifar10.dataset import Split

RESULTS = Path(__file__).with_name("SCALE.md")
RAW = "data/raw/cifar-10-python.tar.gz"
IMAGES, EXPERIMENTS = (4_500, 45_000, 450_000), (10, 100, 1_000)


def take(split: Split, count: int) -> Split:
    """So many images, the same ones again where there are not enough."""
    places = np.arange(count) % len(split)
    return Split(split.images[places], split.labels[places])


def measure_training(project: Project, split: Split, validation: Split) -> Table:
    """The stage train."""
    rows = []
    for count in IMAGES:
        shutil.rmtree(project.folder / "data", ignore_errors=True)
        save_prepared(project.folder, take(split, count), validation)
        project.change_params({"train.epochs": 2})
        found = watch([sys.executable, "stages/train.py"], project.folder)
        size = (project.folder / "data/prepared/train.npz").stat().st_size
        row = (f"{count:,}", f"{found.epoch:.2f}", f"{1e6 * found.epoch / count:.0f}")
        rows.append((*row, f"{found.peak / 1e6:,.0f}", f"{size / 1e6:,.1f}"))
    return Table(
        "Training",
        "The stage `train`, default recipe, two epochs, two threads; the images come again and again where there are "
        "not enough. An epoch with its validation and checkpoint.",
        ("images", "seconds an epoch", "microseconds an image", "peak memory, MB", "arrays on disk, MB"),
        rows,
    )


def measure_preparing(project: Project) -> Table:
    """The stage prepare, on a tenth of the archive and on all of it."""
    whole, raw = ROOT / RAW, project.folder / RAW
    raw.parent.mkdir(parents=True)
    content = archive.read(whole)
    archive.write(raw, Archive(take(content.train, 5_000), take(content.test, 1_000), content.class_names))
    rows = []
    for images in (6_000, 60_000):
        if images == 60_000:
            shutil.copy(whole, raw)
        project.change_params({"data.validation_size": images // 12})
        found = watch([sys.executable, "stages/prepare.py"], project.folder)
        rows.append((f"{images:,}", f"{found.seconds:.1f}", f"{found.peak / 1e6:,.0f}"))
    return Table("Preparing", "The stage `prepare`.", ("images", "seconds", "peak memory, MB"), rows)


def measure_experiments(project: Project) -> Iterator[Table]:
    """What an experiment adds and costs, and what DVC takes to list many."""
    with (ROOT / RAW).open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    project.change_params({"data.urls": [str(ROOT / RAW)], "data.sha256": digest, "data.validation_size": 5_000})
    project.change_params({"train.epochs": 1})
    project.commit("one epoch")
    project.dvc("repro")
    project.commit("run")
    sizes = [(tracked_bytes(project), bytes_below(project.folder / ".dvc/cache"))]
    for seed in (1, 2, 3):
        project.dvc("exp", "run", "--temp", "--name", f"seed-{seed}", "--set-param", f"seed={seed}")
        sizes.append((tracked_bytes(project), bytes_below(project.folder / ".dvc/cache")))
    git, cache = (median(after[kind] - before[kind] for before, after in pairwise(sizes)) / 1e6 for kind in (0, 1))
    project.dvc("exp", "remove", "seed-1")
    repeated = time_once(lambda: project.dvc("exp", "run", "--temp", "--name", "again", "--set-param", "seed=1"))
    yield Table(
        "An experiment",
        "Another seed, on all images; the repeated one comes out of the run-cache and is not trained again.",
        ("added to Git, MB", "added to DVC's cache, MB", "a repeated experiment, seconds"),
        [(f"{git:.2f}", f"{cache:.2f}", f"{repeated:.1f}")],
    )
    rows = []
    for count in EXPERIMENTS:
        copy_experiment(project, "again", count)
        taken = [
            median(time_once(lambda: project.dvc(*words)) for _ in range(3))  # noqa: B023 (called at once)
            for words in (("exp", "list", "--name-only"), ("exp", "show", "--json"), ("repro",))
        ]
        rows.append((f"{count:,}", *(f"{seconds:.1f}" for seconds in taken)))
    yield Table(
        "Many experiments",
        "Seconds; the experiments are copies of one, each with another seed in its params.yaml.",
        ("experiments", "dvc exp list", "dvc exp show", "dvc repro, nothing to do"),
        rows,
    )


def tracked_bytes(project: Project) -> int:
    """What Git's objects take, packed or not."""
    told = dict(line.split(": ") for line in project.git("count-objects", "--verbose").splitlines())
    return (int(told["size"]) + int(told["size-pack"])) * 1024


def bytes_below(folder: Path) -> int:
    """The sizes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def copy_experiment(project: Project, name: str, count: int) -> None:
    """Make experiments copy-1 to copy-`count` of it, where they are not there yet."""
    reference = next(
        line.split()[1]
        for line in project.git("show-ref").splitlines()
        if line.endswith(f"/{name}") and "/exps/" in line
    )
    params = project.git("show", f"{reference}:params.yaml")
    parent = project.git("rev-parse", f"{reference}^").strip()
    there = project.git("for-each-ref", "--format=%(refname)")
    lines = []
    for number in range(1, count + 1):
        copy = f"{reference.removesuffix(name)}copy-{number}"
        if f"{copy}\n" in there:
            continue
        changed = params.replace("\nseed: 1\n", f"\nseed: {number + 10}\n")
        mark = 2 * number
        lines += [f"blob\nmark :{mark}\ndata {len(changed.encode())}\n{changed}\n"]
        lines += [f"commit {copy}\ncommitter test <test@example.com> 0 +0000\ndata 4\ncopy\nfrom {parent}\n"]
        files = project.git("ls-tree", "-r", "--full-tree", reference).splitlines()
        for mode, _, digest, path in (line.replace("\t", " ", 1).split(" ", 3) for line in files):
            lines.append(f"M {mode} {f':{mark}' if path == 'params.yaml' else digest} {path}\n")
        lines.append("\n")
    stream = project.folder / ".git/copies"
    stream.write_text("".join(lines), encoding="utf-8")
    project.run("sh", "-c", "git fast-import --quiet --force < .git/copies")
    stream.unlink()


def main() -> None:
    """Measure, print and write."""
    split, validation = load_splits(FULL_SIZE)
    parts = ["# What grows", f"Made by `make bench-scale` on {describe_data()}; {describe_machine()}."]

    def tables() -> Iterator[Table]:
        for measure in (
            lambda project: [measure_training(project, split, validation)],
            lambda project: [measure_preparing(project)],
            measure_experiments,
        ):
            with tempfile.TemporaryDirectory() as name:
                yield from measure(copy_project(Path(name)))

    for table in tables():
        parts.append(str(table))
        print(f"\n{table}", flush=True)
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    errors.run(main)

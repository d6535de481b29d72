"""The README's commands: the tour, line by line, on small data, and the reference runs of a fresh clone."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from project import SOURCE, run

README = (SOURCE / "README.md").read_text()


def read_tour(with_references: bool) -> list[str]:
    """The commands that name a reference run's commit, or the others."""
    block = README.split("## A short tour")[1].split("```")[1]
    lines = [re.sub(r" {2,}#.*", "", line).strip() for line in block.splitlines() if line.strip()]
    return [line for line in lines if with_references == bool(re.search(r"\b[0-9a-f]{7}\b", line))]


def experiments(folder: Path) -> set[str]:
    return set(run(folder, "dvc", "exp", "list", "--all-commits", "--name-only").stdout.split())


def cached_files(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / ".dvc/cache/files").rglob("*"))


def columns(folder: Path, *options: str) -> list[str]:
    return next(csv.reader(run(folder, "dvc", "exp", "show", "--csv", *options).stdout.splitlines()))


# What the comment beside a line claims, by the line's beginning, checked after the line has run.
CLAIMS: dict[str, Callable[[Path, str], object]] = {
    "dvc repro": lambda folder, output: "up to date" in output,
    "git add": lambda folder, output: not run(folder, "git", "status", "--porcelain").stdout,
    "dvc exp run": lambda folder, output: experiments(folder) == {"calm"},
    "dvc exp show": lambda folder, output: (
        "calm" in output and len(columns(folder, "--only-changed", "--drop", ".*/")) < len(columns(folder)) / 3
    ),
    "dvc plots diff": lambda folder, output: "calm" in (folder / "dvc_plots/index.html").read_text(),
    "lenet-cifar10 page": lambda folder, output: "calm" in (folder / "dvc_plots/report.html").read_text(),
    "lenet-cifar10 predict": lambda folder, output: "photo.jpg" in output,
    "lenet-cifar10 seeds": lambda folder, output: (
        "second mean minus first" in output and len([name for name in experiments(folder) if "seeds-" in name]) == 6
    ),
    "lenet-cifar10 sweep": lambda folder, output: (
        "apply the best: dvc exp apply" in output and len([e for e in experiments(folder) if "sweep-" in e]) == 3
    ),
    "dvc exp apply": lambda folder, output: "Calmer" in run(folder, "git", "log", "-1", "--format=%s").stdout,
    "dvc metrics diff HEAD~1": lambda folder, output: "test_accuracy" in output or "test_loss" in output,
    "make verify": lambda folder, output: True,  # its status says it
    "dvc exp remove": lambda folder, output: not experiments(folder),
    "dvc gc": lambda folder, output: True,  # see below
}


@pytest.mark.slow
def test_every_line_of_the_tour_does_what_its_comment_says(project_copy: Path) -> None:
    run(project_copy, "git", "reset", "--quiet", "--soft", "HEAD~1")  # the run is there, not yet committed
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).save(project_copy / "photo.jpg")
    before = 0
    for line, (beginning, claim) in zip(read_tour(with_references=False), CLAIMS.items(), strict=True):
        assert line.startswith(beginning)
        line = line.replace("make", "make --old-file setup")  # this environment, not one of its own
        before = cached_files(project_copy) if line.startswith("dvc gc") else before
        output = run(project_copy, "bash", "-c", line).stdout
        assert claim(project_copy, output), line
    assert cached_files(project_copy) < before


def test_a_fresh_clone_has_results_to_look_at(tmp_path: Path) -> None:
    lines = read_tour(with_references=True)
    reference = re.findall(r"\b[0-9a-f]{7}\b", lines[0])[0]
    if run(SOURCE, "git", "cat-file", "-e", reference, check=False).returncode:
        pytest.skip("this is a shallow clone")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", SOURCE, "clone")
    assert "test_accuracy" in run(clone, "dvc", "metrics", "show").stdout
    difference = json.loads(run(clone, "dvc", "metrics", "diff", "--json", reference).stdout)
    assert difference["metrics/test.json"]["test_accuracy"]["diff"] > 0.05
    plots = json.loads(run(clone, "dvc", "plots", "show", "--json").stdout)["data"]
    assert {"Loss", "Accuracy", "plots/images/curves.png", "plots/images/confusion.png"} <= plots.keys()
    run(clone, "dvc", "plots", "diff", reference)
    _, text = [run(clone, "bash", "-c", line).stdout for line in lines]
    assert "differ significantly" in text
    assert "data not recorded, see metrics/README.md" in text
    assert "train.optimizer" in text
    run(clone, "lenet-cifar10", "page", reference, "HEAD")
    assert run(clone, "git", "status", "--porcelain").stdout == ""

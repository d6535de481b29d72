"""The README's tour, every line of it, on small data."""

import re
from pathlib import Path

import pytest
from PIL import Image
from project import SOURCE, run

OUTPUTS = {
    "dvc exp show": "calm",
    "lenet-cifar10 compare": "McNemar",
    "lenet-cifar10 page": "dvc_plots/report.html",
    "lenet-cifar10 predict": "photo.jpg",
    "lenet-cifar10 seeds": "second mean minus first",
    "lenet-cifar10 sweep": "apply the best: dvc exp apply",
    "dvc metrics diff": "test_accuracy",
}


@pytest.mark.slow
def test_every_line_of_the_tour_works_in_turn(project_copy: Path) -> None:
    block = (SOURCE / "README.md").read_text().split("## A short tour")[1].split("```")[1]
    lines = [re.sub(r" {2,}#.*", "", line).strip() for line in block.splitlines() if line.strip()]
    lines = [line.replace("make", "make --old-file setup") for line in lines]  # this environment, not one of its own
    run(project_copy, "git", "reset", "--quiet", "--soft", "HEAD~1")  # the run is there, not yet committed
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).save(project_copy / "photo.jpg")
    outputs = {line: run(project_copy, "bash", "-c", line).stdout for line in lines}
    for command, word in OUTPUTS.items():
        (output,) = (output for line, output in outputs.items() if line.startswith(command))
        assert word in output
    assert "Calmer" in run(project_copy, "git", "log", "--oneline").stdout
    assert "calm" not in run(project_copy, "dvc", "exp", "list", "--all-commits", "--name-only").stdout

"""The targets of the Makefile that run the workflow, in a project of the test's own and this environment."""

import csv
import re

from conftest import GeneratedArchive
from project import Project

WITHOUT_SETUP = ("make", "--old-file", "setup")


def experiments_of(project: Project) -> dict[str, dict[str, str]]:
    """The rows of dvc exp show, by the experiments' names."""
    text = project.dvc("exp", "show", "--csv")
    table = csv.DictReader(text[text.index("Experiment,") :].splitlines())  # warnings may come before
    return {row["Experiment"]: row for row in table}


def test_the_demo_learns_shows_its_result_and_leaves_git_clean(bare_project: Project) -> None:
    first = bare_project.run(*WITHOUT_SETUP, "demo").text
    accuracy = re.search(r"test accuracy +│ +(0\.\d+|1\.0+)", first)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9
    page = re.search(r"file://(\S+)", first)
    assert page is not None
    assert page[1] == f"{bare_project.folder}/dvc_plots/index.html"
    assert bare_project.git("status", "--porcelain") == ""
    second = bare_project.run(*WITHOUT_SETUP, "demo").text
    assert "Running stage" not in second
    assert accuracy[0] in second
    assert bare_project.git("status", "--porcelain") == ""


def test_the_classic_recipe_is_the_published_one(pipeline: Project, generated: GeneratedArchive) -> None:
    extra = "-S train.epochs=1 -S seed=1"
    pipeline.run(*WITHOUT_SETUP, "classic", f"SET={extra}")
    classic = experiments_of(pipeline)["classic"]
    expected = {
        "train.optimizer": "adam", "train.momentum": 0, "train.precision": "float32",
        "train.learning_rate": 0.001, "train.weight_decay": 0,
        "train.schedule": "constant", "train.warmup_fraction": 0, "train.batch_size": 100, "train.epochs": 1,
        "train.label_smoothing": 0, "train.averaging_decay": 0, "model.dropout": 0.5,
        "model.first_layer": "learned", "augment.flip_probability": 0.5,
        "augment.translation_pixels": 0, "augment.rotation_degrees": 10, "augment.shear_degrees": 10,
        "augment.scale": 0.2, "augment.brightness": 0.2, "augment.contrast": 0.2, "augment.saturation": 0.2,
        "augment.border": "zero", "seed": 1,
    }  # fmt: skip
    for name, value in expected.items():
        assert classic[name] == value if isinstance(value, str) else float(classic[name]) == value, name


def test_help_lists_every_target(bare_project: Project) -> None:
    listed = re.findall(r"^([a-z-]+) ", bare_project.run("make", "help").text, flags=re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (bare_project.folder / "Makefile").read_text(), flags=re.MULTILINE)
    assert listed == targets

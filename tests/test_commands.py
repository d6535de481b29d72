"""The command lenet-cifar10, as people call it."""

import json
import re
from hashlib import file_digest
from pathlib import Path

import pytest
from project import Project
from typer.testing import CliRunner

from lenet_cifar10 import archive
from lenet_cifar10.commands import app


def test_generate_writes_a_readable_archive_and_prints_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "generated.tar.gz"
    result = CliRunner().invoke(app, ["generate", str(path), "--train", "50", "--test", "20", "--seed", "3"])
    assert result.exit_code == 0, result.output
    with path.open("rb") as file:
        assert result.stdout.strip() == file_digest(file, "sha256").hexdigest()
    content = archive.read(path)
    assert (len(content.train.labels), len(content.test.labels), len(content.class_names)) == (50, 20, 10)


@pytest.mark.parametrize("option", ["--train", "--test"])
def test_generate_refuses_a_count_that_is_not_the_same_for_each_class(tmp_path: Path, option: str) -> None:
    project = Project(tmp_path)
    result = project.run("lenet-cifar10", "generate", "generated.tar.gz", option, "25", check=False)
    assert result.status == 1
    assert result.text.startswith("error: ")
    assert "25" in result.text
    assert list(tmp_path.iterdir()) == []


def test_show_gives_the_figures_of_the_workspace_and_of_a_commit(pipeline: Project) -> None:
    accuracy = json.loads(pipeline.read("metrics/test.json"))["accuracy"]
    (pipeline.folder / "metrics/test.json").write_text('{"loss": 1, "accuracy": 0.125, "per_class": {"disc": null}}')
    assert "0.1250" in pipeline.run("lenet-cifar10", "show").text
    committed = pipeline.run("lenet-cifar10", "show", "HEAD").text
    assert f"{accuracy:.4f}" in committed
    assert "Run: HEAD" in committed


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("nowhere", "error: nowhere: is no commit, branch, tag or experiment;"),
        ("HEAD~2", "error: metrics/train.json in HEAD~2: is not there; run dvc repro"),
    ],
)
def test_show_says_what_to_do_where_there_is_nothing(pipeline: Project, revision: str, words: str) -> None:
    result = pipeline.run("lenet-cifar10", "show", revision, check=False)
    assert result.status == 1
    assert words in result.text
    assert "Traceback" not in result.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"loss": 1}', "epochs: found None, expected a whole number from 1"),
        ('{"epochs": 1, "train_loss": "low"}', "train_loss: found 'low', expected a number"),
        ("[]", "expected values with names"),
        ("{", "is not JSON"),
    ],
)
def test_show_says_when_the_figures_are_not_this_project_s(pipeline: Project, content: str, words: str) -> None:
    (pipeline.folder / "metrics/train.json").write_text(content)
    result = pipeline.run("lenet-cifar10", "show", check=False)
    assert result.status == 1
    assert result.text.startswith(f"error: metrics/train.json: {words}")
    assert result.text.endswith("; run dvc repro, or name a revision that is whole\n")


def test_show_says_when_the_figures_of_the_classes_are_none(pipeline: Project) -> None:
    (pipeline.folder / "metrics/test.json").write_text('{"loss": 1, "accuracy": 0.5, "per_class": 3}')
    result = pipeline.run("lenet-cifar10", "show", check=False)
    assert (result.status, result.text) == (
        1,
        "error: metrics/test.json: per_class: expected values with names; "
        "run dvc repro, or name a revision that is whole\n",
    )


def test_show_works_in_a_subfolder_and_with_figures_that_are_missing(pipeline: Project) -> None:
    train = json.loads(pipeline.read("metrics/train.json")) | {"train_loss": None}
    (pipeline.folder / "metrics/train.json").write_text(json.dumps(train))
    shown = Project(pipeline.folder / "src").run("lenet-cifar10", "show").text
    assert re.search(r"train loss +│ +- ", shown)


def test_show_outside_a_project_says_so(tmp_path: Path) -> None:
    result = Project(tmp_path).run("lenet-cifar10", "show", check=False)
    assert (result.status, result.text) == (
        1,
        f"error: {tmp_path}: is in no DVC project; run this in the project's folder\n",
    )


def test_generate_refuses_a_folder_for_a_file(tmp_path: Path) -> None:
    result = Project(tmp_path).run("lenet-cifar10", "generate", ".", check=False)
    assert result.status == 1
    assert "is a folder, expected the name of a file" in result.text

"""The command lenet-cifar10, as people call it."""

import json
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


def test_show_says_when_the_figures_are_not_this_project_s(pipeline: Project) -> None:
    (pipeline.folder / "metrics/train.json").write_text('{"loss": 1}')
    result = pipeline.run("lenet-cifar10", "show", check=False)
    assert result.status == 1
    assert result.text.startswith("error: metrics/train.json: has no epochs, train_loss")

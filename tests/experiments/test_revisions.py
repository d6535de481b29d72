"""The project's files at any revision, as DVC and Git have them in a real project."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import change_params, commit, run

from lenet_cifar10.common.stage import UserError
from lenet_cifar10.experiments import revisions

WEIGHTS, METRICS = "data/model/lenet.safetensors", "metrics/test.json"


@pytest.fixture
def here(project_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose pipeline has been run, as the current folder."""
    monkeypatch.chdir(project_copy)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return project_copy


def complaint(function: Callable[..., Any], *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_lock(folder: Path, old: str, new: str, count: int = -1) -> None:
    path = folder / "dvc.lock"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, count))


def test_files_of_git_and_dvc_are_read_at_every_kind_of_revision(here: Path) -> None:
    committed = {path: (here / path).read_bytes() for path in (METRICS, WEIGHTS)}
    run(here, "git", "tag", "--annotate", "lenet@v1.0.0", "--message", "first")
    run(here, "dvc", "exp", "save", "--name", "saved")
    for path, content in committed.items():
        (here / path).unlink()
        (here / path).write_bytes(b"changed")
        assert revisions.read_file(path) == b"changed"
        for revision in ("HEAD", "main", "lenet@v1.0.0", "saved", run(here, "git", "rev-parse", "HEAD").stdout[:8]):
            assert revisions.read_file(path, revision) == content, revision


def test_the_project_may_be_a_folder_of_its_repository(here: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "repository/part"
    shutil.copytree(here, folder, symlinks=True)
    shutil.rmtree(folder / ".git")
    run(tmp_path / "repository", "git", "init", "--quiet")
    commit(tmp_path / "repository", "everything")
    monkeypatch.chdir(folder / "plots")
    assert revisions.project_root() == folder
    for path in (METRICS, WEIGHTS):
        assert revisions.read_file(path, "HEAD") == (folder / path).read_bytes()


@pytest.mark.parametrize("name", ["nowhere", "HEAD~9", "-x"])
def test_an_unknown_revision_is_named(here: Path, name: str) -> None:
    for function in (revisions.read_params, revisions.commit_of):
        assert complaint(function, name).startswith(f"{name}: is no commit, branch, tag or experiment; see git log")


def test_missing_files_are_named_with_their_revision(here: Path) -> None:
    shutil.rmtree(here / ".dvc/cache")
    (here / METRICS).unlink()
    for path, revision, name in (
        (METRICS, "HEAD~1", f"{METRICS} in HEAD~1"),
        (METRICS, "workspace", METRICS),
        (WEIGHTS, "HEAD", f"{WEIGHTS} in HEAD"),
    ):
        with pytest.raises(revisions.MissingFileError, match=f"^{re.escape(name)}: no such file; run dvc repro"):
            revisions.read_file(path, revision)


def test_a_revision_whose_dvc_yaml_is_broken_is_named(here: Path) -> None:
    (here / "dvc.yaml").write_text("stages: [")
    commit(here, "broken")
    message = complaint(revisions.read_file, WEIGHTS, "HEAD")
    assert re.match(f"{WEIGHTS} in HEAD: DVC cannot read it .*dvc.yaml.*; name another revision", message)


def test_another_user_s_repository_is_explained_with_git_s_own_remedy(here: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    message = complaint(revisions.read_file, METRICS, "HEAD")
    assert f"git config --global --add safe.directory {here}" in message


def test_a_split_index_is_told_before_dvc_hangs(here: Path) -> None:
    run(here, "git", "update-index", "--split-index")
    message = complaint(revisions.read_file, METRICS)
    run(here, *message.split("; run ")[1].split())
    assert revisions.read_file(METRICS) == (here / METRICS).read_bytes()


def test_without_git_the_workspace_alone_is_read(here: Path) -> None:
    shutil.rmtree(here / ".git")
    assert revisions.read_file(METRICS) == (here / METRICS).read_bytes()
    assert revisions.commit_of() is None
    assert "not a git repository" in complaint(revisions.read_file, METRICS, "HEAD")


def test_params_are_read_by_dotted_keys_as_dvc_reads_them(here: Path) -> None:
    (here / "params.yaml").write_text("seed: 3\ntrain:\n  learning_rate: 1e-3\n  more: {steps: [1, 2]}\n")
    assert revisions.read_params() == {"seed": 3, "train.learning_rate": 0.001, "train.more.steps": [1, 2]}
    assert revisions.read_params("HEAD")["train.batch_size"] == 50
    for text, words in (("a: [", "is not valid YAML"), ("", "has no sections")):
        (here / "params.yaml").write_text(text)
        assert complaint(revisions.read_params).startswith(f"params.yaml: {words}")


def test_the_run_s_parameters_are_those_of_dvc_lock(here: Path) -> None:
    change_params(here, {"train.epochs": 7})
    params, params_of_run = revisions.read_params(), revisions.params_of_run(revisions.read_stages())
    assert params.keys() - params_of_run.keys() == {"data.urls"}
    assert revisions.differing_params([params, params | params_of_run]) == {"train.epochs": [7, 6]}
    assert revisions.differing_params([{"a": 1}, {"a": 1, "b": False}]) == {"b": [None, False]}
    assert revisions.params_of_run(revisions.read_stages("HEAD~1")) == {}


def test_the_data_is_that_of_dvc_lock_never_that_of_params_yaml(here: Path) -> None:
    sha256, official = revisions.read_params()["data.sha256"], revisions.CIFAR_10_SHA256
    change_params(here, {"data.sha256": official})
    assert revisions.describe_data() == revisions.describe_data("HEAD") == "generated images"
    assert revisions.describe_data("HEAD~1") == "data not recorded, see metrics/README.md"
    edit_lock(here, sha256, official, 1)  # while a run on new data has not reached the last stage
    assert revisions.describe_data() == "data not recorded, see metrics/README.md"
    edit_lock(here, sha256, official)
    assert revisions.describe_data() == "CIFAR-10"
    edit_lock(here, official, "2efeb164" * 8)
    classes = here / "plots/per_class.csv"
    classes.write_text(classes.read_text().replace("square", "cat"))
    assert revisions.describe_data() == "archive 2efeb164…"
    classes.unlink()
    assert revisions.describe_data() == "archive 2efeb164…"


def test_device_and_commit_are_told(here: Path) -> None:
    assert revisions.describe_device("HEAD") == revisions.describe_device() != ""
    assert revisions.describe_device("HEAD~1") == "device not recorded, see metrics/README.md"
    expected = tuple(run(here, "git", "log", "-1", "--format=%h %cs", "HEAD~1").stdout.split())
    assert revisions.commit_of("HEAD~1") == expected
    assert revisions.commit_of() == revisions.commit_of("HEAD") != expected

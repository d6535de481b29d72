"""The project's files at any revision, as DVC and Git have them in a real project."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import commit, run

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


def edit_lock(folder: Path, pattern: str, text: str) -> None:
    """Replace what a pattern's first group matches in dvc.lock."""
    path = folder / "dvc.lock"
    lock = path.read_text()
    match = re.search(pattern, lock)
    assert match
    path.write_text(lock[: match.start(1)] + text + lock[match.end(1) :])


@pytest.mark.parametrize("path", [METRICS, WEIGHTS])
def test_a_file_of_git_or_dvc_is_read_at_every_kind_of_revision(here: Path, path: str) -> None:
    committed = (here / path).read_bytes()
    run(here, "git", "tag", "--annotate", "lenet@v1.0.0", "--message", "first")
    run(here, "dvc", "exp", "save", "--name", "saved")
    (here / path).unlink()
    (here / path).write_bytes(b"changed")
    assert revisions.read_file(path) == revisions.read_file(path, "workspace") == b"changed"
    head = run(here, "git", "rev-parse", "HEAD").stdout.strip()
    for revision in ("HEAD", "main", head, head[:8], "lenet@v1.0.0", "saved"):
        assert revisions.read_file(path, revision) == committed, revision


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


@pytest.mark.parametrize("name", ["nowhere", "HEAD~9", "-x", "HEAD:plots", ""])
def test_an_unknown_revision_is_named(here: Path, name: str) -> None:
    expected = f"{name or repr('')}: is no commit, branch, tag or experiment; see git log, or dvc exp list --all"
    assert complaint(revisions.read_file, METRICS, name) == expected
    assert complaint(revisions.commit_of, name) == expected


@pytest.mark.parametrize("path", [METRICS, "plots", "README.md/file"])
def test_a_missing_file_is_named_with_its_revision(here: Path, path: str) -> None:
    shutil.rmtree(here / "metrics")
    for revision, name in (("HEAD~1", f"{path} in HEAD~1"), ("workspace", path)):
        with pytest.raises(revisions.MissingFileError, match=f"^{re.escape(name)}: no such file; run dvc repro"):
            revisions.read_file(path, revision)


def test_data_that_left_the_cache_is_missing_but_git_s_files_are_read(here: Path) -> None:
    shutil.rmtree(here / ".dvc/cache")
    assert revisions.read_file(METRICS, "HEAD") == (here / METRICS).read_bytes()
    assert complaint(revisions.read_file, WEIGHTS, "HEAD").startswith(f"{WEIGHTS} in HEAD: no such file")
    assert revisions.describe_device("HEAD").startswith("device not recorded")


def test_a_revision_whose_dvc_yaml_is_broken_is_named(here: Path) -> None:
    (here / "dvc.yaml").write_text("stages: [")
    commit(here, "broken")
    message = complaint(revisions.read_file, WEIGHTS, "HEAD")
    assert re.match(f"{WEIGHTS} in HEAD: DVC cannot read it .*dvc.yaml.*; name another revision", message)


def test_another_user_s_repository_is_explained_with_git_s_own_remedy(here: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    message = complaint(revisions.read_file, METRICS, "HEAD")
    assert message.startswith(f"{here}: belongs to another user")
    assert f"git config --global --add safe.directory '{here}'" in message


def test_without_git_the_workspace_alone_is_read(here: Path) -> None:
    shutil.rmtree(here / ".git")
    assert revisions.read_file(METRICS) == (here / METRICS).read_bytes()
    assert revisions.commit_of() is None
    assert complaint(revisions.read_file, METRICS, "HEAD").startswith(f"{here}: is not in a Git repository")


def test_outside_of_a_project_nothing_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint(revisions.read_file, METRICS) == (
        f"{tmp_path}: is not in a DVC project; run this in the project's folder"
    )


def test_params_are_read_by_dotted_keys_as_dvc_reads_them(here: Path) -> None:
    (here / "params.yaml").write_text("seed: 3\ntrain:\n  learning_rate: 1e-3\n  more: {steps: [1, 2]}\n")
    assert revisions.read_params() == {"seed": 3, "train.learning_rate": 0.001, "train.more.steps": [1, 2]}
    assert revisions.read_params("HEAD")["train.batch_size"] == 50
    for text, words in (("a: [", "is not valid YAML"), ("- 1", "has no sections")):
        (here / "params.yaml").write_text(text)
        assert complaint(revisions.read_params).startswith(f"params.yaml: {words}")


def test_the_run_s_parameters_are_those_of_dvc_lock(here: Path) -> None:
    path = here / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 6", "epochs: 7"))
    params, params_of_run = revisions.read_params(), revisions.params_of_run(revisions.read_lock())
    assert (params["train.epochs"], params_of_run["train.epochs"]) == (7, 6)
    assert params.keys() - params_of_run.keys() == {"data.urls"}
    assert revisions.differing_params([params, params | params_of_run]) == {"train.epochs": [7, 6]}
    assert revisions.differing_params([{"a": 1}, {"a": 1, "b": False}]) == {"b": [None, False]}
    assert revisions.params_of_run(revisions.read_lock("HEAD~1")) == {}


def test_inputs_that_were_written_again_are_found(here: Path) -> None:
    assert revisions.outdated_inputs(revisions.read_lock("HEAD"), "evaluate") == []
    edit_lock(here, rf"outs:\n(?:    .*\n)*?    - path: {WEIGHTS}\n      hash: md5\n      md5: (\w+)", "f" * 32)
    assert revisions.outdated_inputs(revisions.read_lock(), "evaluate") == [WEIGHTS]
    (here / "dvc.lock").write_text("stages: 3")
    assert complaint(revisions.read_lock).startswith("dvc.lock: has no stages")


def test_the_data_is_that_of_dvc_lock_never_that_of_params_yaml(here: Path) -> None:
    params = here / "params.yaml"
    sha256 = revisions.read_params()["data.sha256"]
    params.write_text(params.read_text().replace(sha256, revisions.OFFICIAL_SHA256))
    assert revisions.describe_data() == revisions.describe_data("HEAD") == "generated images"
    assert revisions.describe_data("HEAD~1") == "data not recorded, see metrics/README.md"
    edit_lock(here, rf"({sha256})", revisions.OFFICIAL_SHA256)
    assert revisions.describe_data() == "CIFAR-10"
    edit_lock(here, rf"({revisions.OFFICIAL_SHA256})", "2efeb164" * 8)
    classes = here / "plots/per_class.csv"
    classes.write_text(classes.read_text().replace("square", "cat"))
    assert revisions.describe_data() == "archive 2efeb164…"


def test_results_of_several_archives_are_not_said_to_be_of_one(here: Path) -> None:
    edit_lock(
        here, r"    outs:\n    - path: data/raw/cifar-10-python.tar.gz\n      hash: md5\n      md5: (\w+)", "f" * 32
    )
    assert revisions.describe_data() == "data of several runs, run dvc repro"


def test_while_training_runs_the_classes_of_an_earlier_evaluation_say_nothing(here: Path) -> None:
    (here / "metrics/train.json").unlink()  # as dvc does before it runs train
    assert re.fullmatch("archive [0-9a-f]{8}…", revisions.describe_data())


def test_device_and_commit_are_told(here: Path) -> None:
    assert revisions.describe_device("HEAD") == revisions.describe_device() != ""
    assert revisions.describe_device("HEAD~1") == "device not recorded, see metrics/README.md"
    expected = tuple(run(here, "git", "log", "-1", "--format=%h %cs", "HEAD~1").stdout.split())
    assert revisions.commit_of("HEAD~1") == expected
    assert revisions.commit_of() == revisions.commit_of("HEAD") != expected

"""The project's files at any revision, as DVC and Git have them in a real project."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import Project

from lenet_cifar10 import revisions
from lenet_cifar10.errors import UserError
from lenet_cifar10.results import COUNTS

WEIGHTS, METRICS, PREDICTIONS = "data/model/lenet.safetensors", "metrics/test.json", "plots/predictions.csv"


@pytest.fixture
def here(pipeline: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project whose pipeline has been run, as the current folder."""
    monkeypatch.chdir(pipeline.folder)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    return pipeline


def complaint(read: Callable[..., Any], *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", [METRICS, WEIGHTS])
def test_a_file_is_read_from_the_workspace_and_from_a_commit(here: Project, path: str) -> None:
    committed = here.read(path)
    (here.folder / path).unlink()
    (here.folder / path).write_bytes(b"changed")
    assert revisions.read_bytes(path) == b"changed"
    assert revisions.read_bytes(path, "workspace") == b"changed"
    for revision in ("HEAD", "main", here.git("rev-parse", "HEAD").strip()):
        assert revisions.read_bytes(path, revision) == committed


def test_a_file_is_read_from_an_annotated_tag_and_from_an_experiment(here: Project) -> None:
    here.git("tag", "--annotate", "lenet@v1.0.0", "--message", "first")
    assert revisions.read_bytes(WEIGHTS, "lenet@v1.0.0") == here.read(WEIGHTS)
    here.dvc("exp", "run", "--temp", "--name", "blurred", "-S", "figures.dpi=60")  # figures alone runs
    assert revisions.read_bytes(WEIGHTS, "blurred") == here.read(WEIGHTS)
    assert revisions.read_params("blurred")["figures.dpi"] == 60
    assert revisions.read_params()["figures.dpi"] == 50


def test_paths_are_named_from_the_project_s_folder_also_where_that_is_a_part_of_a_repository(
    here: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository" / "part"
    shutil.copytree(here.folder, folder, symlinks=True)
    shutil.rmtree(folder / ".git")
    repository = Project(tmp_path / "repository")
    repository.git("init", "--quiet")
    repository.commit("everything")
    monkeypatch.chdir(folder / "plots")
    assert revisions.project_root() == folder
    for path in (METRICS, WEIGHTS):
        assert revisions.read_bytes(path) == revisions.read_bytes(path, "HEAD") == here.read(path)


@pytest.mark.parametrize("name", ["nowhere", "HEAD~9", "-x", "HEAD:plots", f"HEAD:{PREDICTIONS}", "main^{tree}"])
def test_what_is_no_revision_is_told(here: Project, name: str) -> None:
    expected = f"{name}: is no commit, branch, tag or experiment; see git log or dvc exp list"
    assert complaint(revisions.read_bytes, METRICS, name) == expected
    assert complaint(revisions.read_hash, METRICS, name) == expected


def test_no_name_is_not_taken_for_head(here: Project) -> None:
    assert complaint(revisions.read_bytes, METRICS, "").startswith("'': is no commit")


def test_a_name_of_two_experiments_neither_on_this_commit_is_told(here: Project) -> None:
    for commit in ("HEAD~1", "HEAD~2"):
        group = here.git("rev-parse", commit).strip()
        here.git("update-ref", f"refs/exps/{group[:2]}/{group[2:]}/twice", group)  # as DVC keeps them
    assert complaint(revisions.read_bytes, METRICS, "twice").startswith("twice: is the name of several experiments;")


@pytest.mark.parametrize("path", [METRICS, "plots", "README.md/file", "dvc.lock"])
def test_a_file_that_is_missing_is_told_with_its_revision(here: Project, path: str) -> None:
    with pytest.raises(revisions.MissingFileError, match=re.escape(f"{path} in HEAD~1: is not there; run dvc repro")):
        revisions.read_bytes(path, "HEAD~1")
    if path in (METRICS, "dvc.lock"):
        (here.folder / path).unlink()
    with pytest.raises(revisions.MissingFileError, match=f"^{path}: is not there; run dvc repro"):
        revisions.read_bytes(path)


def test_data_that_dvc_has_no_more_is_told(here: Project) -> None:
    shutil.rmtree(here.folder / ".dvc/cache")
    assert revisions.read_bytes(METRICS, "HEAD") == here.read(METRICS)
    expected = f"{WEIGHTS} in HEAD: is in dvc.lock, but in neither Git nor DVC's cache nor a remote; run dvc repro"
    assert complaint(revisions.read_bytes, WEIGHTS, "HEAD").startswith(expected)


def test_a_revision_whose_dvc_yaml_is_broken_is_told(here: Project) -> None:
    (here.folder / "dvc.yaml").write_text("stages: [")
    here.commit("broken")
    told = complaint(revisions.read_bytes, WEIGHTS, "HEAD")
    assert re.match(f"{WEIGHTS} in HEAD: DVC cannot read it .*dvc.yaml.*; name a commit", told)
    assert revisions.read_bytes(WEIGHTS, "HEAD~1") == here.read(WEIGHTS)


def test_without_git_there_is_the_workspace_only(here: Project) -> None:
    shutil.rmtree(here.folder / ".git")
    assert json.loads(revisions.read_bytes(METRICS)) == revisions.read_json(METRICS)
    assert complaint(revisions.read_bytes, METRICS, "HEAD").startswith(f"{here.folder}: is no Git repository")


def test_outside_of_a_project_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint(revisions.read_bytes, METRICS) == (
        f"{tmp_path}: is in no DVC project; run this in the project's folder"
    )


def test_json_is_read_or_refused(here: Project) -> None:
    assert revisions.read_json(METRICS, "HEAD") == json.loads(here.read(METRICS))
    assert complaint(revisions.read_json, METRICS, "HEAD", {"loss": COUNTS}).startswith(
        f"{METRICS} in HEAD: loss: found"
    )
    for text in ("{", "[" * 100_000, "\udcff"):
        (here.folder / METRICS).write_text(text, errors="surrogateescape")
        assert complaint(revisions.read_json, METRICS).startswith(f"{METRICS}: is not JSON (")


def test_files_and_folders_are_read_at_once_without_what_is_not_there(here: Project) -> None:
    places = ["plots/history.csv", "nowhere", "plots/images", WEIGHTS]
    pictures = sorted(path.name for path in (here.folder / "plots/images").iterdir())
    found = revisions.read_files(places, "HEAD")
    assert list(found) == ["plots/history.csv", *(f"plots/images/{name}" for name in pictures), WEIGHTS]
    assert found == revisions.read_files(places) == {path: here.read(path) for path in found}
    shutil.rmtree(here.folder / ".dvc/cache")
    found.pop(WEIGHTS)
    assert revisions.read_files(places, "HEAD") == found


@pytest.mark.parametrize("name", ["nowhere", "HEAD:plots", ""])
def test_files_of_what_is_no_revision_are_refused(here: Project, name: str) -> None:
    assert "is no commit, branch, tag or experiment; see git log" in complaint(revisions.read_files, [METRICS], name)
    shutil.rmtree(here.folder / ".git")
    assert "is no Git repository" in complaint(revisions.read_files, [METRICS], "HEAD")


def test_files_that_go_while_they_are_read_are_left_out(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [here.folder / "params.yaml", here.folder / "plots/gone.csv"]
    monkeypatch.setattr(revisions, "_list", lambda *_: paths)
    assert list(revisions.read_files(["params.yaml", "plots"])) == ["params.yaml"]
    assert [path for path, _, _ in revisions.stat_files(["params.yaml", "plots"])] == [str(paths[0])]


def test_a_change_of_a_file_is_seen_without_reading_it(here: Project) -> None:
    before = revisions.stat_files(["plots", "params.yaml"])
    assert revisions.stat_files(["plots", "params.yaml"]) == before
    (here.folder / "plots/images/new.png").touch()
    assert [entry for entry in revisions.stat_files(["plots", "params.yaml"]) if entry not in before] != []


def test_params_are_read_by_their_dotted_keys_and_a_learning_rate_is_a_number_however_it_is_written(
    here: Project,
) -> None:
    (here.folder / "params.yaml").write_text("seed: 3\ntrain:\n  learning_rate: 1e-3\n  schedule: {steps: [1, 2]}\n")
    assert revisions.read_params() == {"seed": 3, "train.learning_rate": 0.001, "train.schedule.steps": [1, 2]}
    assert revisions.read_params("HEAD")["train.epochs"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", r"is not valid YAML \(.*\)"),
        ("a: 1\na: 2", r"is not valid YAML \(.*\)"),
        ("- 1", "has no sections"),
        ("", "has no sections"),
    ],
)
def test_params_that_are_none_are_refused(here: Project, text: str, words: str) -> None:
    (here.folder / "params.yaml").write_text(text)
    assert re.fullmatch(f"params.yaml: {words}; git restore params.yaml", complaint(revisions.read_params))
    here.commit("damaged")
    expected = f"params.yaml in HEAD: {words}; name a revision that is whole"
    assert re.fullmatch(expected, complaint(revisions.read_params, "HEAD"))


def test_the_hash_of_an_output_is_that_of_dvc_lock(here: Project) -> None:
    found = revisions.read_hash("data/prepared/test.npz", "HEAD")
    assert found is not None
    assert (here.folder / ".dvc/cache/files/md5" / found[:2] / found[2:]).read_bytes() == here.read(
        "data/prepared/test.npz"
    )
    assert revisions.read_hash("data/prepared/test.npz") == found
    assert revisions.read_hash("params.yaml") is None


def test_the_parameters_of_the_run_are_those_of_dvc_lock(here: Project) -> None:
    here.change_params({"train.epochs": 7})
    params, of_run = revisions.read_params(), revisions.read_lock().params
    assert (params["train.epochs"], of_run["train.epochs"]) == (7, 2)
    assert revisions.read_lock().params_of_run(params) == revisions.read_params("HEAD")
    assert list(revisions.read_lock().params_of_run(params)) == list(params)
    assert params.keys() - of_run.keys() == {"data.urls"}
    assert revisions.read_lock("HEAD").params == of_run


def test_without_dvc_lock_there_are_no_hashes_and_no_parameters_of_a_run(here: Project) -> None:
    (here.folder / "dvc.lock").unlink()
    for revision in ("HEAD~1", "workspace"):
        assert revisions.read_hash(WEIGHTS, revision) is None
        assert revisions.read_lock(revision) == revisions.Lock({}, {}, {})


def test_an_output_that_was_made_anew_after_it_was_read_is_found(here: Project) -> None:
    here.change_params({"train.epochs": 1})
    here.dvc("repro", "train")
    none = dict.fromkeys(("download", "prepare", "train"), frozenset[str]())
    assert revisions.read_lock().replaced == none | {
        "evaluate": {WEIGHTS},
        "figures": {"plots/history.csv"},
        "card": {WEIGHTS, "metrics/train.json"},
    }
    assert set().union(*revisions.read_lock("HEAD").replaced.values()) == set()
    here.dvc("repro", "evaluate")
    replaced = revisions.read_lock().replaced
    assert replaced["evaluate"] == frozenset()
    assert replaced["card"] == {WEIGHTS, "metrics/train.json", METRICS, PREDICTIONS}


@pytest.mark.parametrize(
    "text", ["stages: []", "stages: {a: 1}", "stages: {a: {outs: [1]}}", "stages: {a: {params: 2}}", "stages: null"]
)
def test_a_dvc_lock_that_is_none_is_refused(here: Project, text: str) -> None:
    (here.folder / "dvc.lock").write_text(text)
    assert complaint(revisions.read_hash, WEIGHTS) == "dvc.lock: is damaged; git restore dvc.lock"

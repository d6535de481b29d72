"""Runs and weights that leave the clone they were made in, through a DVC remote in a folder or an S3 bucket."""

import json
import shutil
from pathlib import Path

import pytest
import requests
from moto.server import ThreadedMotoServer
from project import read_committed, run, stages_run

WEIGHTS = "data/model/lenet.safetensors"

pytestmark = pytest.mark.slow


@pytest.fixture
def origin(project_copy: Path) -> Path:
    """A Git repository that clones share; the project pushes to it, and to a DVC remote beside it."""
    folder = project_copy.parent / "origin.git"
    run(project_copy, "git", "clone", "--quiet", "--bare", ".", folder)
    run(project_copy, "git", "remote", "add", "origin", folder)
    add_remote(project_copy)
    return folder


def add_remote(folder: Path) -> None:
    run(folder, "dvc", "remote", "add", "--default", "--local", "store", folder.parent / "store")


@pytest.fixture
def clone(origin: Path) -> Path:
    """A clone of the shared repository that has nothing but what Git tracks, and knows the remote."""
    folder = origin.parent / "clone"
    run(origin.parent, "git", "clone", "--quiet", origin, folder)
    add_remote(folder)
    return folder


def test_pushed_data_runs_and_experiments_are_pulled_elsewhere_where_nothing_reruns(
    project_copy: Path, clone: Path
) -> None:
    experiment = ("dvc", "exp", "run", "--temp", "--set-param", "augment.rotation_degrees=0", "--name")
    run(project_copy, *experiment, "calm")
    run(project_copy, "dvc", "push", "--run-cache")
    run(project_copy, "dvc", "exp", "push", "origin", "calm")

    run(clone, "dvc", "pull", "--run-cache")
    assert stages_run(run(clone, "dvc", "repro")) == []
    assert (clone / WEIGHTS).read_bytes() == (project_copy / WEIGHTS).read_bytes()
    assert "calm" in run(clone, "dvc", "exp", "list", "origin").stdout
    run(clone, "dvc", "exp", "pull", "origin", "calm")
    run(clone, "dvc", "exp", "apply", "calm")
    assert stages_run(run(clone, "dvc", "repro")) == []
    assert (clone / "metrics/test.json").read_text() == read_committed(project_copy, "calm", "metrics/test.json")
    assert (clone / WEIGHTS).read_bytes() != (project_copy / WEIGHTS).read_bytes()


def test_a_clone_without_data_pulls_what_a_changed_parameter_needs_and_trains(project_copy: Path, clone: Path) -> None:
    run(project_copy, "dvc", "push")
    pull = ("--pull", "--allow-missing")
    assert stages_run(run(clone, "dvc", "repro", *pull)) == []
    assert run(clone, "git", "ls-files", "--others", "data").stdout == ""
    result = run(clone, "dvc", "exp", "run", *pull, "--set-param", "train.epochs=1")
    assert stages_run(result) == ["train", "evaluate", "report"]
    assert json.loads((clone / "metrics/train.json").read_text())["epochs"] == 1


def test_dvc_get_and_dvc_artifacts_get_fetch_the_weights_from_another_folder(
    project_copy: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    committed = (project_copy / WEIGHTS).read_bytes()
    run(project_copy, "git", "tag", "--annotate", "lenet@v1.0.0", "--message", "first")
    shutil.rmtree(project_copy / "data/model")
    run(elsewhere, "dvc", "get", project_copy, WEIGHTS, "--rev", "main", "--out", "path.safetensors")
    get = ("dvc", "artifacts", "get", project_copy, "lenet")
    run(elsewhere, *get, "--rev", "v1.0.0", "--out", "version.safetensors")
    run(elsewhere, *get, "--out", "newest.safetensors")
    for name in ("path", "version", "newest"):
        assert (elsewhere / f"{name}.safetensors").read_bytes() == committed


def test_an_s3_bucket_is_a_remote(project_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        requests.put(f"{url}/bucket", timeout=60).raise_for_status()
        run(project_copy, "dvc", "remote", "add", "--default", "--local", "store", "s3://bucket/lenet")
        run(project_copy, "dvc", "remote", "modify", "--local", "store", "endpointurl", url)
        run(project_copy, "dvc", "push")
        shutil.rmtree(project_copy / ".dvc/cache")
        shutil.rmtree(project_copy / "data")
        run(project_copy, "git", "checkout", "data")
        run(project_copy, "dvc", "pull")
    finally:
        server.stop()
    assert stages_run(run(project_copy, "dvc", "repro")) == []
    assert (project_copy / WEIGHTS).is_file()

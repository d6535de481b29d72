"""The model in other people's hands: from another folder, through DVC, to a file that predict reads."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from project import Project
from ruamel.yaml import YAML

MODEL = "data/model/lenet.safetensors"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Project:
    """A folder with a picture, in no project of Git or DVC."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    Image.new("RGB", (60, 40), "red").save(folder / "red.png")
    return Project(folder)


def test_dvc_yaml_names_the_model(pipeline: Project) -> None:
    artifacts = YAML(typ="safe").load(pipeline.read("dvc.yaml"))["artifacts"]
    assert artifacts["lenet"]["path"] == MODEL
    assert artifacts["lenet"]["type"] == "model"


def test_dvc_get_and_dvc_artifacts_get_fetch_what_predict_reads(pipeline: Project, elsewhere: Project) -> None:
    """Of a project on this machine its cache is enough, and no remote is needed."""
    committed = pipeline.read(MODEL)
    pipeline.git("tag", "--annotate", "lenet@v1.0.0", "--message", "first")
    shutil.rmtree(pipeline.folder / "data/model")
    elsewhere.dvc("get", pipeline.folder, MODEL, "--rev", "main", "--out", "by-path.safetensors")
    elsewhere.dvc("artifacts", "get", pipeline.folder, "lenet", "--rev", "v1.0.0", "--out", "by-name.safetensors")
    elsewhere.dvc("artifacts", "get", pipeline.folder, "lenet", "--out", "newest.safetensors")
    for name in ("by-path", "by-name", "newest"):
        assert elsewhere.read(f"{name}.safetensors") == committed
    shown = elsewhere.run("lenet-cifar10", "predict", "red.png", "--weights", "by-name.safetensors").text
    assert "Predictions of by-name.safetensors" in shown
    assert "red.png" in shown


def test_dvc_artifacts_get_wants_the_version_of_an_annotated_tag(pipeline: Project, elsewhere: Project) -> None:
    get = ("artifacts", "get", pipeline.folder, "lenet", "--out", "model.safetensors")
    pipeline.git("tag", "lenet@v1.0.0")
    assert "Unable to find artifact" in elsewhere.dvc(*get, "--rev", "v1.0.0", check=False)
    pipeline.git("tag", "--annotate", "lenet@v1.0.1", "--message", "annotated")
    assert "Unable to find artifact" in elsewhere.dvc(*get, "--rev", "lenet@v1.0.1", check=False)
    assert not (elsewhere.folder / "model.safetensors").exists()
    elsewhere.dvc(*get, "--rev", "v1.0.1")
    assert elsewhere.read("model.safetensors") == pipeline.read(MODEL)


def test_from_a_clone_without_data_the_model_comes_from_a_remote(pipeline: Project, elsewhere: Project) -> None:
    """What others clone has neither cache nor data: a remote has them, which the repository or --config names."""
    clone, store = elsewhere.folder / "clone", elsewhere.folder / "store"
    pipeline.git("tag", "--annotate", "lenet@v1.0.0", "--message", "first")
    pipeline.git("clone", "--quiet", pipeline.folder, clone)
    get = ("get", f"file://{clone}", MODEL, "--out", "by-path.safetensors")
    assert "No storage files available" in elsewhere.dvc(*get, check=False)

    pipeline.dvc("remote", "add", "--default", "--local", "store", store)
    pipeline.dvc("push")
    config = pipeline.folder / ".dvc/config.local"
    elsewhere.dvc(*get, "--config", config)
    name = ("artifacts", "get", f"file://{clone}", "lenet", "--rev", "v1.0.0", "--out", "by-name.safetensors")
    elsewhere.dvc(*name, "--config", config)
    for file in ("by-path", "by-name"):
        assert elsewhere.read(f"{file}.safetensors") == pipeline.read(MODEL)


def test_a_clone_that_was_never_pulled_says_so_and_predicts_once_it_was(pipeline: Project, elsewhere: Project) -> None:
    store = elsewhere.folder / "store"
    pipeline.dvc("remote", "add", "--default", "--local", "store", store)
    pipeline.dvc("push")
    pipeline.git("clone", "--quiet", pipeline.folder, elsewhere.folder / "clone")
    clone = Project(elsewhere.folder / "clone")
    predict = ("lenet-cifar10", "predict", "../red.png")
    refused = clone.run(*predict, check=False)
    assert (refused.status, refused.text) == (
        1,
        f"error: {MODEL}: is in dvc.lock, but not here; run dvc checkout, or dvc pull where DVC's cache lacks it\n",
    )
    clone.dvc("remote", "add", "--default", "--local", "store", store)
    assert "Predictions of" in clone.run(*predict, "--rev", "HEAD").text  # straight from the remote
    clone.dvc("pull")
    assert "Predictions of" in clone.run(*predict).text

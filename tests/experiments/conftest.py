"""A small project whose only stage pretends to train, so that DVC's experiments take seconds."""

import os
import shutil
from pathlib import Path

import pytest
from project import SOURCE, commit, environment, run

_DVC_YAML = """
stages:
  train:
    cmd: python stages/train.py
    deps: [stages]
    params: [seed, train]
    metrics:
      - metrics/train.json: {cache: false}
      - metrics/test.json: {cache: false}
  report:
    cmd: cp metrics/test.json card.json
    deps: [metrics/test.json]
    outs: [card.json]
"""

# The accuracy tells by which parameters it was made. A learning rate above 1 fails, 100 epochs take forever.
_TRAIN = """
import json, os, pathlib, sys, time, yaml
params = yaml.safe_load(pathlib.Path("params.yaml").read_text())
train = params["train"]
if train["learning_rate"] > 1:
    sys.exit("error: epoch 1: the loss is nan; choose a smaller learning rate")
if train["epochs"] == 100:
    pathlib.Path(os.environ["DVC_ROOT"], ".checkpoints/pid").write_text(str(os.getpid()))
    time.sleep(600)
accuracy = train["learning_rate"] + params["seed"] / 1000
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/train.json").write_text(json.dumps({"validation_accuracy": accuracy}))
pathlib.Path("metrics/test.json").write_text(json.dumps({"test_accuracy": accuracy / 2}))
"""


@pytest.fixture
def small_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small project, which is the current folder; nothing has been run in it."""
    folder = tmp_path / "small"
    (folder / "stages").mkdir(parents=True)
    for name in ("params.yaml", "sweep.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(SOURCE / name, folder / name)
    (folder / "dvc.yaml").write_text(_DVC_YAML)
    (folder / "stages/train.py").write_text(_TRAIN)
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    commit(folder, "start")
    monkeypatch.chdir(folder)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", os.defpath)  # `dvc` and `python` must be found without an activated environment
    return folder

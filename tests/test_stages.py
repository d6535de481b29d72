"""Stages called by hand on bad input: clear lines, status 1, no traceback, and every file as it was."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from project import STAGES, change_params, hash_outputs, run

OUTPUTS = {
    "download": "data/raw/cifar-10-python.tar.gz",
    "prepare": "data/prepared/test.safetensors",
    "train": "data/model/lenet.safetensors",
    "evaluate": "plots/predictions.csv",
    "report": "plots/images/curves.png",
}


def call(folder: Path, stage: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Call a stage in a shell, after this command."""
    return run(folder, "bash", "-c", f"{before}\nexec python stages/{stage}.py", check=False, PYTHONPATH="src")


def expect_refusal(folder: Path, stage: str, *messages: str, before: str = "") -> None:
    """The stage ends with status 1 and one line for each of these messages, and no file has changed."""
    files = hash_outputs(folder)
    result = call(folder, stage, before)
    assert result.returncode == 1, result.stderr
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    assert re.fullmatch("".join(f"error: .*{message}.*\n" for message in messages), result.stderr), result.stderr
    assert hash_outputs(folder) == files


SLOW_STAGES = [pytest.param(stage, marks=pytest.mark.slow) for stage in ("prepare", "train", "evaluate", "report")]


@pytest.mark.parametrize("stage", ["download", *SLOW_STAGES])
def test_each_stage_reports_all_mistakes_of_the_parameters_first(project_copy: Path, stage: str) -> None:
    mistakes = {"train.epochs": "ten", "augment.scale": 2, "data.split_sead": 1, "train.optimizer": "adamw"}
    change_params(project_copy, mistakes)
    messages = ("data.split_sead: unknown key; did you mean split_seed", "augment.scale: found 2")
    messages += ("train.epochs: found 'ten'", "train.momentum: found 0.9, which has no effect")
    expect_refusal(project_copy, stage, *messages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("download", {"data.sha256": "0" * 64}, "found no file with SHA-256 0{64}(.*\nerror: ){2}"),
        ("prepare", {"data.validation_size": 105}, "data.validation_size: found 105, expected a multiple of 10"),
        ("prepare", {"data.validation_size": 400}, "data.validation_size: found 400"),
        ("train", {"train.batch_size": 301}, "train.batch_size: found 301.*300"),
        ("train", {"device": "cuda:99"}, "device: found cuda:99"),
        ("evaluate", {"device": "cuda:99"}, "device: found cuda:99"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(
    project_copy: Path, stage: str, changes: dict[str, object], message: str
) -> None:
    change_params(project_copy, changes)
    expect_refusal(project_copy, stage, message)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "truncated"])
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("prepare", "data/raw/cifar-10-python.tar.gz"),
        ("train", "data/prepared/train.safetensors"),
        ("evaluate", "data/model/lenet.safetensors"),
        ("report", "plots/predictions.csv"),
        ("report", "data/model/environment.json"),
    ],
)
def test_a_missing_or_damaged_input_is_named(project_copy: Path, stage: str, name: str, damage: str) -> None:
    path = project_copy / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 3])
    expect_refusal(project_copy, stage, re.escape(name))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_is_reported_and_loses_nothing(project_copy: Path, stage: str) -> None:
    if stage == "download":
        (project_copy / OUTPUTS[stage]).unlink()
    expect_refusal(project_copy, stage, "File too large", before="ulimit -f 1")  # no file may grow past 1 KiB


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_without_write_permission_is_named(project_copy: Path, stage: str) -> None:
    # The superuser may write anywhere, unless he gives up this privilege.
    as_others = "setpriv --bounding-set=-dac_override,-dac_read_search " if os.geteuid() == 0 else ""
    if stage == "download":
        (project_copy / OUTPUTS[stage]).unlink()
    files = hash_outputs(project_copy)
    folder = (project_copy / OUTPUTS[stage]).parent
    folder.chmod(0o555)
    result = run(project_copy, "sh", "-c", f"{as_others}python stages/{stage}.py", check=False, PYTHONPATH="src")
    folder.chmod(0o755)
    assert result.returncode == 1
    assert re.fullmatch(rf"error: {Path(OUTPUTS[stage]).parent}.*: Permission denied; .*\n", result.stderr)
    assert hash_outputs(project_copy) == files


@pytest.mark.slow
def test_stages_called_by_hand_write_the_same_bytes_without_dvc(project_copy: Path, tmp_path: Path) -> None:
    expected = hash_outputs(project_copy)
    for name in ("data/raw", "data/prepared", "data/model", "plots", "metrics"):
        shutil.rmtree(project_copy / name)
    for stage in STAGES:
        assert call(project_copy, stage).returncode == 0
    run(project_copy, "git", "restore", "metrics/README.md", "plots/README.md")
    assert hash_outputs(project_copy) == expected

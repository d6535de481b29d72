"""A run that was killed goes on where it was, and ends with the bytes of one that was not."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import kills
import pandas as pd
import pytest
from project import change_params, commit, first_epoch, hash_outputs, run, stages_run, start, wait_for_line


def kill_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> str:
    """Send a signal to a command and all that it started -> what it printed then."""
    os.killpg(process.pid, number)
    return process.communicate(timeout=60)[0]


def test_a_killed_run_of_a_clone_resumes_and_ends_with_the_bytes_of_the_original(
    pipeline: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "a clone"
    run(pipeline, "git", "clone", "--quiet", pipeline, clone)
    (clone / "dvc.lock").unlink()  # so that every stage runs, also those whose outputs came with the clone
    process = start(clone, "dvc", "repro")
    wait_for_line(process, "epoch 2/6")
    assert 1 <= len(pd.read_csv(clone / "plots/history.csv")) < 6  # the curves grow while training goes on
    assert "epoch 6/6" not in kill_group(process)
    result = run(clone, "dvc", "repro")
    assert stages_run(result) == ["train", "evaluate", "report"]
    assert first_epoch(result.stdout) >= 2
    assert hash_outputs(clone) == hash_outputs(pipeline)
    assert list((clone / ".checkpoints").rglob("*.checkpoint")) == []


def test_a_second_run_that_meets_an_orphaned_stage_is_refused(project_copy: Path) -> None:
    """A killed dvc leaves its stage running: it would write its weights under the second run's parameters."""
    change_params(project_copy, {"train.epochs": 5000})
    first = start(project_copy, "dvc", "repro")
    wait_for_line(first, "epoch 1/")
    first.kill()
    first.wait()
    change_params(project_copy, {"train.learning_rate": 0.01})
    result = run(project_copy, "dvc", "repro", check=False)
    kill_group(first)
    assert result.returncode == 255
    assert re.search("^error: another stage is running in this folder;", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_run_says_so_in_one_line_and_resumes(project_copy: Path, number: signal.Signals) -> None:
    train = ("dvc", "repro", "--force", "--single-item", "train")
    change_params(project_copy, {"train.epochs": 60})  # long enough to be hit on a busy machine
    run(project_copy, *train)
    before = hash_outputs(project_copy)
    process = start(project_copy, *train)
    wait_for_line(process, "epoch 2/60")
    output = kill_group(process, number)
    assert output.count(f"stopped by {number.name}") == 1
    assert "Traceback" not in output
    assert not (project_copy / "data/model/lenet.safetensors").exists()
    result = run(project_copy, *train)
    assert first_epoch(result.stdout) >= 2
    assert hash_outputs(project_copy) == before


@pytest.mark.slow
def test_an_experiment_in_a_copy_resumes_one_that_was_killed_and_no_other(project_copy: Path) -> None:
    command = ("dvc", "exp", "run", "--temp", "--set-param", "train.epochs=30", "--name")
    process = start(project_copy, *command, "first")
    wait_for_line(process, "epoch 7/30")
    kill_group(process)
    other = run(project_copy, *command, "other", "--set-param", "train.learning_rate=0.01")
    assert first_epoch(other.stdout) == 1
    code = project_copy / "src/lenet_cifar10/model/augment.py"
    good = code.read_text()
    code.write_text(good + "\n# changed\n")
    assert first_epoch(run(project_copy, *command, "other-code").stdout) == 1
    code.write_text(good)
    assert first_epoch(run(project_copy, *command, "second").stdout) >= 7


@pytest.mark.slow
def test_a_training_whose_evaluation_was_killed_is_not_repeated(project_copy: Path) -> None:
    evaluate = project_copy / "stages/evaluate.py"
    good = evaluate.read_text()
    evaluate.write_text("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")
    commit(project_copy, "evaluate kills the run")
    command = ("dvc", "exp", "run", "--temp", "--set-param", "train.learning_rate=0.01", "--name")
    assert run(project_copy, *command, "killed", check=False).returncode != 0
    evaluate.write_text(good)
    result = run(project_copy, *command, "again")
    assert "Stage 'train' is cached - skipping run" in result.stdout
    assert stages_run(result) == ["evaluate", "report"]


IN_OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c")


def can_mount_a_small_disk() -> bool:
    """Whether this system lets anybody mount one that only his own processes see: most Linux systems do."""
    command = [*IN_OWN_MOUNTS, "mount -t tmpfs none /mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount_a_small_disk(), reason="this system lets nobody mount a small disk")
def test_a_disk_that_fills_up_during_training_keeps_the_epochs_before(project_copy: Path) -> None:
    before = hash_outputs(project_copy)
    (project_copy / ".checkpoints").mkdir(exist_ok=True)
    # Checkpoints are some 7 MB. The first fits on this disk; the second, which must not replace it in place, does not.
    script = """
        export PYTHONPATH=src
        mount -t tmpfs -o size=10m none .checkpoints
        python stages/train.py
        echo status $?
        mount -o remount,size=50m .checkpoints
        python stages/train.py
    """
    result = run(project_copy, *IN_OWN_MOUNTS, script)
    first, second = result.stdout.split("status 1\n")
    assert "epoch 1/6" in first
    assert "epoch 2/6" not in first
    assert re.search(r"^error: .*No space left on device", result.stderr)
    assert "Traceback" not in result.stderr
    assert first_epoch(second) >= 1
    assert "epoch 6/6" in second
    assert hash_outputs(project_copy) == before


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_few_random_kills_change_no_byte(processes: int, tmp_path: Path) -> None:
    assert kills.disturb(tmp_path, kills=3, seed=1, processes=processes) == []

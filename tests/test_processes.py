"""Training on several processes, started by the real torchrun on the CPU: the same bytes, and one end for all."""

import os
import re
import signal
from pathlib import Path

import psutil
import pytest
from project import change_params, commit, first_epoch, read_committed, run, stages_run, start, wait_for_line

OUTPUTS = ("data/model/lenet.safetensors", "data/model/environment.json", "metrics/train.json", "plots/history.csv")


def torchrun(processes: int) -> str:
    """The launcher with which the stage train starts so many processes."""
    return f"torchrun --standalone --nproc-per-node {processes}"


@pytest.fixture
def cut_project(project_copy: Path) -> Path:
    """A project whose batches are cut into micro-batches; of 149 of 300 images the last batch has 2, fewer than 4."""
    changes = {"train.micro_batches": 4, "train.batch_size": 149, "train.epochs": 24, "model.dropout": 0.5}
    change_params(project_copy, changes)
    commit(project_copy, "four micro-batches")
    return project_copy


def read_outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def test_one_process_resumes_two_and_ends_with_the_bytes_of_one(cut_project: Path) -> None:
    """The first epochs are those of two processes, the last those of one: both are the same as of one alone."""
    train = ("dvc", "repro", "--single-item", "train")
    process = start(cut_project, *train, LAUNCHER=torchrun(2))
    wait_for_line(process, "epoch 2/24")
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert output.count("\nstopped by SIGTERM") == 1
    assert output.count("\nepoch 3/24: ") <= 1  # of the main process alone
    result = run(cut_project, *train)
    assert first_epoch(result.stdout) >= 2
    resumed = read_outputs(cut_project)
    run(cut_project, *train, "--force")
    assert read_outputs(cut_project) == resumed


@pytest.mark.slow
def test_2_and_4_processes_give_the_bytes_of_one_and_resume_it(cut_project: Path) -> None:
    run(cut_project, "dvc", "repro", "--single-item", "train")
    expected = read_outputs(cut_project)
    lock = (cut_project / "dvc.lock").read_text()
    for processes in (2, 4):
        process = start(cut_project, "dvc", "repro", "--force", "--single-item", "train")
        wait_for_line(process, "epoch 2/24")
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
        result = run(cut_project, "dvc", "repro", "--force", "--single-item", "train", LAUNCHER=torchrun(processes))
        assert first_epoch(result.stdout) >= 2
        assert read_outputs(cut_project) == expected
        assert (cut_project / "dvc.lock").read_text() == lock
        run(cut_project, "dvc", "repro", "--force", "--single-item", "train", LAUNCHER=torchrun(processes))
        assert read_outputs(cut_project) == expected


@pytest.mark.slow
def test_an_experiment_of_two_processes_is_restored_for_one(cut_project: Path) -> None:
    """How a run was started is no part of its result."""
    run(cut_project, "dvc", "exp", "run", "--temp", "--name", "two", LAUNCHER=torchrun(2))
    result = run(cut_project, "dvc", "repro")
    assert stages_run(result) == []
    assert "Stage 'train' is cached - skipping run" in result.stdout
    assert (cut_project / "dvc.lock").read_text() == read_committed(cut_project, "two", "dvc.lock")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_all_end_and_the_next_run_resumes(cut_project: Path, rank: int) -> None:
    change_params(cut_project, {"train.epochs": 200})
    process = start(cut_project, "dvc", "repro", LAUNCHER=torchrun(2))
    wait_for_line(process, "epoch 2/200")
    children = psutil.Process(process.pid).children(recursive=True)
    (victim,) = [child for child in children if child.environ().get("RANK") == str(rank)]
    victim.kill()
    process.communicate(timeout=60)
    assert process.returncode == 255
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert not (cut_project / OUTPUTS[0]).exists()
    process = start(cut_project, "dvc", "repro", LAUNCHER=torchrun(2))
    line = wait_for_line(process, "epoch ")
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert first_epoch(line) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.micro_batches": 3}, "train.micro_batches: found 3"),
        ({"train.learning_rate": 100.0, "train.weight_decay": 10.0}, "diverged"),
        ({"device": "cuda:0"}, "device: found cuda:0"),
    ],
)
def test_a_mistake_is_reported_once(cut_project: Path, changes: dict[str, object], message: str) -> None:
    change_params(cut_project, changes)
    result = run(cut_project, "dvc", "repro", check=False, LAUNCHER=torchrun(2))
    assert result.returncode == 255
    (line,) = re.findall("^error: .*", result.stderr, re.MULTILINE)
    assert message in line
    assert result.stderr.count("Traceback") == 1  # torchrun's own, which comes after
    assert result.stderr.index(line) < result.stderr.index("Traceback")

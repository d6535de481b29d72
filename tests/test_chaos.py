"""The kill tests see what they are there to see. Some kills themselves: test_reproducibility.py."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from chaos import HISTORY, OF_TRAINING, OWN_FRAME, Run, Undisturbed, find_role, hash_outputs
from project import Project

from lenet_cifar10.checkpoint import Checkpoint, Checkpoints
from lenet_cifar10.records import temporary_path


@pytest.fixture
def undisturbed(pipeline: Project) -> Undisturbed:
    checkpoints = Checkpoints(pipeline.folder / ".resume/checkpoints", "0" * 64)
    checkpoints.write(Checkpoint({"weight": torch.arange(12.0)}, []))
    return Undisturbed(hash_outputs(pipeline), pipeline.read(HISTORY))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def test_whole_and_absent_files_and_the_history_of_the_first_epochs_are_not_torn(
    pipeline: Project, undisturbed: Undisturbed
) -> None:
    assert undisturbed.find_torn(pipeline) == []
    lines = pipeline.read(HISTORY).splitlines(keepends=True)
    (pipeline.folder / HISTORY).write_bytes(b"".join(lines[:-1]))
    assert undisturbed.find_torn(pipeline) == []
    shutil.rmtree(pipeline.folder / "plots")
    shutil.rmtree(pipeline.folder / ".resume")
    for name in OF_TRAINING:
        (pipeline.folder / name).unlink()
    assert undisturbed.find_torn(pipeline) == []


@pytest.mark.parametrize("name", [*OF_TRAINING, HISTORY, f".resume/checkpoints/{'0' * 64}.checkpoint"])
def test_a_torn_file_is_seen(pipeline: Project, undisturbed: Undisturbed, name: str) -> None:
    cut_short(pipeline.folder / name)
    (found,) = undisturbed.find_torn(pipeline)
    assert found.startswith(Path(name).name if ".checkpoint" in name else name)


def test_another_a_missing_and_a_left_over_file_are_seen(pipeline: Project, undisturbed: Undisturbed) -> None:
    (pipeline.folder / "data/prepared/._l_nNsVwslZsQQSl_yMKiA.tmp").touch()  # such as a killed dvc leaves
    assert undisturbed.find_differences(pipeline) == []
    cut_short(pipeline.folder / "dvc.lock")
    (pipeline.folder / HISTORY).unlink()
    temporary_path(pipeline.folder / "metrics/test.json").touch()
    assert undisturbed.find_differences(pipeline) == sorted(["dvc.lock", HISTORY, "metrics/.test.json.part"])


def test_a_traceback_of_this_project_is_told_from_others() -> None:
    frame = '  File "{}", line 3, in main\n    value = 1 / 0\n'
    for own in ("stages/train.py", "/a/project/stages/train.py", "/a/src/lenet_cifar10/training.py"):
        assert OWN_FRAME.search("Traceback (most recent call last):\n" + frame.format(own))
    for other in ("/a/.venv/bin/torchrun", "/a/site-packages/torch/distributed/run.py"):
        assert not OWN_FRAME.search("Traceback (most recent call last):\n" + frame.format(other))
    assert not OWN_FRAME.search("> DVC_PID=$PPID PYTHONPATH=src torchrun stages/train.py\nstages/train.py FAILED\n")


@pytest.mark.parametrize(
    ("words", "rank", "role"),
    [
        (["stages/train.py"], "0", "leader"),
        (["stages/train.py"], "1", "worker"),
        (["stages/train.py"], None, "stage"),
        (["torchrun", "stages/train.py"], None, "agent"),
        (["other.py"], None, None),
    ],
)
def test_a_victim_is_known_by_its_command_and_its_rank(words: list[str], rank: str | None, role: str | None) -> None:
    wait = "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", wait, *words],
        env={"RANK": rank} if rank else {},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert find_role(psutil.Process(process.pid)) == role
        process.communicate(b"\n")


def test_processes_that_do_not_end_are_seen_and_ended(pipeline: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.change_params({"train.shards": 2, "train.epochs": 200})
    run = Run(pipeline, 2)
    assert run.reach("epoch", "worker", random.Random(0))
    members = run.members()
    assert {"leader", "worker", "agent"} < {find_role(member) for member in members}
    monkeypatch.setattr("chaos.LIMIT_SECONDS", 0)
    assert run.outlast() > 0
    assert run.wait() != 0
    _, alive = psutil.wait_procs(members, timeout=60)
    assert alive == []

"""What the train stage does around its main, in the process that leads and in another one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lenet_cifar10 import teamwork

PROGRAM = """
import time
from lenet_cifar10 import interruption
interruption.answer_signals()
from lenet_cifar10 import teamwork
def begin(doing):
    print(doing, flush=True)
    time.sleep(60)
teamwork.follow = lambda team: begin("follows")
teamwork.run(lambda team: begin(f"leads {team}"))
"""
RENDEZVOUS = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def start(folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={"PYTHONPATH": str(Path(teamwork.__file__).parent.parent), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def place(rank: int, size: int) -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return dict(zip(names, map(str, (rank, size, rank, size)), strict=True)) | RENDEZVOUS


@pytest.mark.parametrize(
    ("variables", "doing", "files", "told"),
    [
        ({}, "leads one process", [".resume"], "stopped by SIGTERM: give the same command again to go on\n"),
        (place(0, 2), "leads 2 processes", [".resume"], "stopped by SIGTERM: give the same command again to go on\n"),
        (place(1, 2), "follows", [], ""),
    ],
    ids=["alone", "first", "second"],
)
def test_one_process_has_the_folder_and_tells_of_a_stop(
    tmp_path: Path, variables: dict[str, str], doing: str, files: list[str], told: str
) -> None:
    with start(tmp_path, **variables) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{doing}\n"
        assert [path.name for path in tmp_path.iterdir()] == files
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == ("", told)
    assert process.returncode == 143


def test_what_is_wrong_with_the_launcher_is_one_line(tmp_path: Path) -> None:
    with start(tmp_path, **place(1, 2) | {"LOCAL_RANK": "some"}) as process:
        assert process.communicate(timeout=20) == (
            "",
            "error: params.yaml: train.launcher: LOCAL_RANK is some, expected a number; use torchrun or srun\n",
        )
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []

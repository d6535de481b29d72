"""A signal ends a stage soon, with one line and the signal's own status, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lenet_cifar10 import interruption

SIGNALS = [signal.SIGINT, signal.SIGTERM]
START = """
import os, sys, time
from lenet_cifar10 import interruption
interruption.answer_signals()
print("ready", flush=True)
"""
BODIES = {
    "waiting": "time.sleep(60)",
    "computing": "while True: pass",
    "in main": "from lenet_cifar10 import stage\nstage.run(lambda: time.sleep(60))",
    "importing": "import importlib.util, types\nclass Finder:\n    def find_spec(*_): time.sleep(60)\n"
    "sys.meta_path.insert(0, Finder)\nimport something",
    "deaf": "interruption.unwind()\n"
    "while True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass",
}


def start(folder: Path, body: str, **variables: str) -> subprocess.Popen[str]:
    program = folder / "program.py"
    program.write_text(START + body + "\n", encoding="utf-8")
    source = str(Path(interruption.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, program],
        cwd=folder,
        env={"PYTHONPATH": source, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    return process


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("doing", ["waiting", "computing", "in main", "importing", "deaf"])
def test_a_signal_ends_it_with_one_line_and_its_own_status(tmp_path: Path, doing: str, number: signal.Signals) -> None:
    with start(tmp_path, BODIES[doing]) as process:
        process.send_signal(number)
        _, told = process.communicate(timeout=5)
    assert process.returncode == 128 + number
    assert told == f"stopped by {number.name}: give the same command again to go on\n"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_where_nobody_reads_the_line_any_more_the_status_is_the_same(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, BODIES["waiting"]) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(number)
        process.wait(timeout=5)
    assert process.returncode == 128 + number


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("body", ["", "interruption.unwind()"])
def test_where_somebody_holds_the_pipe_and_does_not_read_it_ends_too(
    tmp_path: Path, body: str, number: signal.Signals
) -> None:
    fill = "os.set_blocking(2, False)\ntry:\n    while True: os.write(2, bytes(999))\nexcept BlockingIOError: pass\n"
    body = f"{body}\n{fill}os.set_blocking(2, True)\nprint('full', flush=True)\ntime.sleep(60)"
    with start(tmp_path, body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "full\n"
        process.send_signal(number)
        process.wait(timeout=5)
        assert process.returncode == 128 + number


def test_a_second_signal_during_the_clean_up_changes_nothing(tmp_path: Path) -> None:
    with start(
        tmp_path,
        "interruption.unwind()\n"
        "try:\n    time.sleep(60)\nfinally:\n    time.sleep(0.5)\n    print('clean', flush=True)",
    ) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        printed, told = process.communicate(timeout=5)
    assert process.returncode == 130
    assert printed == "clean\n"
    assert told.count("stopped by") == 1


def test_the_line_says_what_was_advised(tmp_path: Path) -> None:
    with start(tmp_path, "interruption.advise('three epochs are kept')\ntime.sleep(60)") as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=5)[1] == "stopped by SIGTERM: three epochs are kept\n"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_torch_is_imported_is_answered_as_any_other(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, "import torch, torch._dynamo\nprint('imported', flush=True)\ntime.sleep(60)") as process:
        pass_by = time.monotonic()
        assert process.stdout is not None
        assert process.stdout.readline() == "imported\n"
        seconds = time.monotonic() - pass_by
        process.kill()
    for share in range(10):
        with start(tmp_path, "import torch, torch._dynamo\ntime.sleep(60)") as process:
            time.sleep(seconds * share / 10)
            process.send_signal(number)
            _, told = process.communicate(timeout=5)
        assert (process.returncode, told) == (
            128 + number,
            f"stopped by {number.name}: give the same command again to go on\n",
        )


PARENT = """
import os, subprocess, sys
variables = {**os.environ, "DVC_PID": str(os.getpid())}
child = subprocess.Popen(["sh", "-c", sys.executable + " " + sys.argv[1] + "; true"], env=variables)
child.wait()
"""


def start_below(folder: Path, parent: str, body: str) -> subprocess.Popen[str]:
    """Start a program that starts the stage, and wait until that is ready."""
    program, above = folder / "program.py", folder / "above.py"
    program.write_text(START + body + "\n", encoding="utf-8")
    above.write_text(parent, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, above, program],
        cwd=folder,
        env={"PYTHONPATH": str(Path(interruption.__file__).parent.parent), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_it_ends_when_the_dvc_that_started_it_is_killed(tmp_path: Path, seconds: float) -> None:
    parent = start_below(tmp_path, PARENT, BODIES["in main"])
    time.sleep(seconds)
    parent.kill()
    # The pipe closes when the last process that holds it has ended.
    _, told = parent.communicate(timeout=5)
    assert told == "stopped by SIGTERM: give the same command again to go on\n"


def test_it_ends_at_once_when_the_dvc_that_started_it_is_already_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    with start(tmp_path, BODIES["in main"], DVC_PID=str(dead.pid)) as process:
        _, told = process.communicate(timeout=5)
    assert process.returncode == 143
    assert told == "stopped by SIGTERM: give the same command again to go on\n"


def test_a_dvc_that_died_before_the_shell_asked_for_its_parent_is_noticed(tmp_path: Path) -> None:
    """The shell then names the system's first process, or whatever stands in for it."""
    with subprocess.Popen(["sleep", "60"]) as other:
        with start(tmp_path, BODIES["in main"], DVC_PID=str(other.pid)) as process:
            _, told = process.communicate(timeout=5)
        other.kill()
    assert process.returncode == 143
    assert told == "stopped by SIGTERM: give the same command again to go on\n"


@pytest.mark.parametrize("told", [None, ""])
def test_it_outlives_what_started_it_by_hand(tmp_path: Path, told: str | None) -> None:
    new = "" if told is None else f', "DVC_PID": "{told}"'
    parent = start_below(
        tmp_path,
        PARENT.replace(', "DVC_PID": str(os.getpid())', new),
        "time.sleep(1.5)\nprint('end', flush=True)",
    )
    parent.kill()
    assert parent.communicate(timeout=10)[0] == "end\n"

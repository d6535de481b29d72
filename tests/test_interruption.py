"""A signal ends a stage soon, with one line and the signal's own status, whatever it is doing."""

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
from lenet_cifar10 import errors, interruption
interruption.answer_signals()
print("ready", flush=True)
"""
BODIES = {
    "waiting": "time.sleep(60)",
    "computing": "while True: pass",
    "in main": "errors.run(lambda: time.sleep(60))",
    "importing": "import importlib.util, types\nclass Finder:\n    def find_spec(*_): time.sleep(60)\n"
    "sys.meta_path.insert(0, Finder)\nimport something",
    "deaf": "while True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass",
}


def start(folder: Path, body: str, **variables: str) -> subprocess.Popen[str]:
    program = folder / "program.py"
    program.write_text(START + body + "\n", encoding="utf-8")
    source = str(Path(interruption.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, program],
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
    assert told == f"stopped by {number.name}: run dvc repro again to go on\n"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_where_nobody_reads_the_line_any_more_the_status_is_the_same(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, BODIES["waiting"]) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(number)
        process.wait(timeout=5)
    assert process.returncode == 128 + number


def test_a_second_signal_during_the_clean_up_changes_nothing(tmp_path: Path) -> None:
    with start(
        tmp_path, "try:\n    time.sleep(60)\nfinally:\n    time.sleep(0.5)\n    print('clean', flush=True)"
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


PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, sys.argv[1]], env={**os.environ, "DVC_ROOT": "."})
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("between", ["", "shell"])
def test_it_ends_when_the_dvc_that_started_it_is_killed(tmp_path: Path, between: str) -> None:
    program, dvc = tmp_path / "program.py", tmp_path / "dvc"
    program.write_text(START + "time.sleep(60)\n", encoding="utf-8")
    command = '["sh", "-c", sys.executable + " " + sys.argv[1] + "; true"]'
    dvc.write_text(PARENT.replace("[sys.executable, sys.argv[1]]", command) if between else PARENT, encoding="utf-8")
    source = str(Path(interruption.__file__).parent.parent)
    parent = subprocess.Popen(
        [sys.executable, dvc, program],
        env={"PYTHONPATH": source, "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert {parent.stdout.readline().strip().isdigit(), parent.stdout.readline() == "ready\n"} == {True}
    time.sleep(0.5)
    parent.kill()
    # The pipe closes when the last process that holds it has ended.
    _, told = parent.communicate(timeout=5)
    assert told == "stopped by SIGTERM: run dvc repro again to go on\n"


def test_it_outlives_a_shell_that_started_it_by_hand(tmp_path: Path) -> None:
    program, parent_file = tmp_path / "program.py", tmp_path / "parent"
    program.write_text(START + "time.sleep(1.5)\nprint('end', flush=True)\n", encoding="utf-8")
    parent_file.write_text(PARENT.replace(', "DVC_ROOT": "."', ""), encoding="utf-8")
    source = str(Path(interruption.__file__).parent.parent)
    parent = subprocess.Popen(
        [sys.executable, parent_file, program], env={"PYTHONPATH": source}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    parent.stdout.readline()
    parent.kill()
    assert parent.communicate(timeout=10)[0] == "end\n"

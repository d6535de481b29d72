"""How a stage ends: its exit status, and what it prints."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

START = "import os, time\nfrom lenet_cifar10.common import stage\n"
WAIT = "    print('ready', flush=True)\n    time.sleep(60)\n"
ENVIRONMENT = os.environ | {"PYTHONPATH": ":".join(sys.path)}
STOPPED = "stopped by {}; run the same command again to continue\n"


def start(folder: Path, body: str, *launcher: str, **variables: str) -> subprocess.Popen[str]:
    """Start a stage with this body in this folder; where it waits, wait until it does."""
    program = folder / "program.py"
    program.write_text(f"{START}def main():\n{body}\nstage.run_stage(main)\n")
    process = subprocess.Popen(
        [sys.executable, *launcher, program],
        cwd=folder,
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if body == WAIT:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status and what it printed to standard error."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("body", "status", "errors"),
    [
        ("    pass", 0, ""),
        (r"    raise stage.UserError('a: b; do c\nd: e')", 1, "error: a: b; do c\nerror: d: e\n"),
        (r"    raise stage.UserError('name \033[31m')", 1, "error: 'name \\x1b[31m'\n"),
        (
            "    open('missing/file', 'w')",
            1,
            "error: missing/file: No such file or directory; fix this and run the same command again\n",
        ),
    ],
)
def test_the_end_of_a_stage_is_a_status_and_a_line_for_each_mistake(
    tmp_path: Path, body: str, status: int, errors: str
) -> None:
    assert finish(start(tmp_path, body)) == (status, errors)


def test_a_mistake_of_the_program_keeps_its_traceback(tmp_path: Path) -> None:
    status, errors = finish(start(tmp_path, "    raise OSError('no error of the system')"))
    assert status == 1
    assert errors.startswith("Traceback")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stage_with_one_line_and_its_own_status(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, WAIT)
    process.send_signal(number)
    assert finish(process) == (128 + number, STOPPED.format(number.name))


def test_a_folder_is_one_stages_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    first = start(tmp_path, WAIT)
    line = "error: another stage is running in this folder; wait for its end, or end it\n"
    assert finish(start(tmp_path, "    pass")) == (1, line)
    first.kill()
    first.communicate()
    assert finish(start(tmp_path, "    pass")) == (0, "")


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_a_mistake_that_all_processes_find_is_reported_once(tmp_path: Path) -> None:
    status, errors = finish(start(tmp_path, "    raise stage.UserError('a: b; do c')", *TORCHRUN))
    assert status == 1
    assert errors.count("a: b; do c") == 1


def test_a_mistake_that_one_process_finds_is_reported(tmp_path: Path) -> None:
    body = "    if os.environ['RANK'] == '1': raise stage.UserError('a: b; do c')\n    time.sleep(60)"
    status, errors = finish(start(tmp_path, body, *TORCHRUN))
    assert status == 1
    assert errors.count("a: b; do c") == 1


def test_a_signal_to_all_processes_is_reported_once(tmp_path: Path) -> None:
    process = start(tmp_path, WAIT, *TORCHRUN)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"  # of the second process
    os.killpg(process.pid, signal.SIGINT)
    status, errors = finish(process)
    assert status != 0
    assert errors.count("stopped by SIGINT") == 1

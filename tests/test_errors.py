"""What a user sees when something goes wrong, and the exit status."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lenet_cifar10 import errors
from lenet_cifar10.errors import UserError


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def run_as_program(folder: Path, body: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(
        f"from lenet_cifar10 import errors\ndef main():\n    {body}\nerrors.run(main)\n", encoding="utf-8"
    )
    source = str(Path(errors.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env={"PYTHONPATH": source} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_good_end_is_exit_status_0_and_silence(tmp_path: Path) -> None:
    ended = run_as_program(tmp_path, "pass")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_each_line_of_a_user_error_is_prefixed_and_the_exit_status_is_1(tmp_path: Path) -> None:
    ended = run_as_program(tmp_path, r"raise errors.UserError('one\ntwo')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "error: one\nerror: two\n")


@pytest.mark.parametrize("output", ["print", "from lenet_cifar10.terminal import say; say"])
def test_signs_that_the_output_s_encoding_lacks_are_written_as_escapes(tmp_path: Path, output: str) -> None:
    body = output + "('café 🐱'); raise errors.UserError('é')"
    ended = run_as_program(tmp_path, body, PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "caf\\xe9 \\U0001f431\n", "error: \\xe9\n")


def test_a_standard_output_that_was_closed_is_no_failure(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("from lenet_cifar10 import errors\nerrors.run(lambda: None)\n")
    command = f"exec '{sys.executable}' '{program}' >&-"
    source = str(Path(errors.__file__).parent.parent)
    ended = subprocess.run(["sh", "-c", command], env={"PYTHONPATH": source}, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_programming_error_keeps_its_traceback(tmp_path: Path) -> None:
    ended = run_as_program(tmp_path, "{}['key']")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")
    assert "KeyError: 'key'" in ended.stderr


def test_an_error_of_the_system_names_the_file_and_the_cause(tmp_path: Path) -> None:
    ended = run_as_program(tmp_path, "open('missing/file', 'w')")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: missing/file: No such file or directory; ")
    assert len(ended.stderr.splitlines()) == 1


def test_an_error_of_the_system_without_a_file_names_the_cause() -> None:
    with pytest.raises(SystemExit, match=r"^error: No space left on device; "):
        errors.run(raising(OSError(28, "No space left on device")))


def test_an_os_error_that_the_system_did_not_cause_keeps_its_traceback() -> None:
    with pytest.raises(OSError, match="only words"):
        errors.run(raising(OSError("only words")))


def test_an_interrupt_is_exit_status_130_without_a_traceback() -> None:
    with pytest.raises(SystemExit) as caught:
        errors.run(raising(KeyboardInterrupt()))
    assert caught.value.code == 130


def test_an_exit_status_of_the_program_itself_is_kept() -> None:
    with pytest.raises(SystemExit) as caught:
        errors.run(raising(SystemExit(3)))
    assert caught.value.code == 3


def test_an_empty_message_still_is_a_failure() -> None:
    with pytest.raises(SystemExit) as caught:
        errors.run(raising(UserError("")))
    assert caught.value.code not in (0, None)

"""What every stage does around its main."""

import subprocess
import sys
from pathlib import Path

from lenet_cifar10 import stage

PROGRAM = """
import sys, time
from pathlib import Path
from lenet_cifar10 import errors, stage
def main():
    print("begins", flush=True)
    {body}
    print("ends")
if __name__ == "__main__":
    stage.run(main)
"""
UNTIL = "while not Path(sys.argv[1]).exists(): time.sleep(0.01)"


def start(folder: Path, body: str, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A stage with this body, in this folder."""
    program = folder / f"program-{len(list(folder.iterdir()))}.py"
    program.write_text(PROGRAM.format(body=body), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, *options, program, *words],
        cwd=folder,
        env={"PYTHONPATH": str(Path(stage.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stage_that_ends_well_has_printed_everything_and_ends_with_status_0(tmp_path: Path) -> None:
    with start(tmp_path, "pass") as process:
        assert process.communicate(timeout=10) == ("begins\nends\n", "")
    assert process.returncode == 0


def test_what_the_user_can_mend_is_one_line_and_status_1(tmp_path: Path) -> None:
    with start(tmp_path, "raise errors.UserError('a: found b, expected c; do d')") as process:
        assert process.communicate(timeout=10) == ("begins\n", "error: a: found b, expected c; do d\n")
    assert process.returncode == 1


def test_a_mistake_of_the_program_keeps_its_traceback(tmp_path: Path) -> None:
    with start(tmp_path, "1 / 0") as process:
        assert "ZeroDivisionError" in process.communicate(timeout=10)[1]
    assert process.returncode == 1


def test_a_second_stage_of_the_folder_waits_and_says_so(tmp_path: Path) -> None:
    with start(tmp_path, UNTIL, str(tmp_path / "end")) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "begins\n"
        with start(tmp_path, "pass") as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting for another stage that runs in this folder\n"
            (tmp_path / "end").touch()
            assert first.communicate(timeout=10)[0] == "ends\n"
            assert second.communicate(timeout=10)[0] == "begins\nends\n"


def test_a_stage_that_was_killed_holds_up_nobody(tmp_path: Path) -> None:
    with start(tmp_path, UNTIL, str(tmp_path / "never")) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "begins\n"
        first.kill()
    with start(tmp_path, "pass") as second:
        assert second.communicate(timeout=10)[0] == "begins\nends\n"


def test_a_stage_of_another_folder_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with start(tmp_path, UNTIL, str(tmp_path / "never")) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "begins\n"
        with start(tmp_path / "other", "pass") as second:
            assert second.communicate(timeout=10)[0] == "begins\nends\n"
        first.kill()


def test_a_profiler_s_report_is_not_lost(tmp_path: Path) -> None:
    with start(tmp_path, "pass", options=("-m", "cProfile")) as process:
        printed, _ = process.communicate(timeout=20)
    assert printed.startswith("begins\nends\n")
    assert "function calls" in printed

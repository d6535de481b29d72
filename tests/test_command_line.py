"""What the command line tells of itself, on terminals of all kinds."""

import re
import subprocess
import sys

import pytest
from project import SOURCE, Project, environment
from typer.main import get_command
from typer.testing import CliRunner

from lenet_cifar10.commands import app

COMMANDS = sorted(get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue] (a group of commands)


def test_the_help_lists_every_command_and_the_exit_statuses() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert COMMANDS == [
        "compare", "generate", "offline-plots", "page", "predict", "push-runs", "seeds", "show", "sweep", "verify",
    ]  # fmt: skip
    for name in COMMANDS:
        assert re.search(rf"│ {name} +\w", text), name
    assert "Exit status: 0 done, 1 something to mend" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples_that_are_its_own(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    examples = re.findall(r"^ +(lenet-cifar10 .*)", result.output.split("Examples:")[1], flags=re.MULTILINE)
    assert any(line.startswith(f"lenet-cifar10 {name}") for line in examples)


def test_starting_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, lenet_cifar10.commands; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, cwd=SOURCE
    )
    heavy = {"torch", "dvc", "scipy", "optuna", "matplotlib", "pandas", "vl_convert"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_the_commands(shell: str) -> None:
    script = CliRunner().invoke(app, ["--show-completion", shell], prog_name="lenet-cifar10")
    assert script.exit_code == 0
    assert "_LENET_CIFAR10_COMPLETE" in script.output
    words = {"_LENET_CIFAR10_COMPLETE": "complete_bash", "COMP_WORDS": "lenet-cifar10 comp", "COMP_CWORD": "1"}
    completed = CliRunner().invoke(app, [], prog_name="lenet-cifar10", env=words)
    assert completed.output.split() == ["compare"]


COLOURS = re.compile(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")


def test_bars_are_coloured_on_a_terminal_unless_told_otherwise(pipeline: Project) -> None:
    pipeline.change_params({"train.epochs": 1})
    train = f"{sys.executable} stages/train.py"
    for number, (variables, coloured) in enumerate([({}, True), ({"NO_COLOR": "1"}, False)]):
        pipeline.change_params({"seed": number})  # or it would be resumed at its end, without a bar
        text = pipeline.run(
            "script", "-qec", train, "/dev/null", check=True, PYTHONPATH="src", TERM="xterm-256color", **variables
        ).text
        assert re.search(r"\d/6", text), text  # the bar
        assert bool(COLOURS.search(text)) == coloured
        assert "Trained, figures of the last epoch" in text


def test_a_run_ends_with_tables_of_its_figures_without_colour_in_a_log(pipeline: Project) -> None:
    pipeline.change_params({"seed": 3})
    text = pipeline.dvc("repro")
    assert "\x1b" not in text
    for title, figure in (("Trained, figures of the last epoch", "validation loss"), ("Test", "calibration error")):
        assert re.search(rf"{title}[^\n]*\n┏[^└]*{figure}", text), text

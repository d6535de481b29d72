"""The command lenet-cifar10 as a program: help, exit statuses, what it imports."""

import re
import sys
from pathlib import Path

import pytest
from project import SOURCE, run
from typer.main import get_command
from typer.testing import CliRunner

from lenet_cifar10.commands import app

COMMANDS = sorted(get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue] (a group of commands)
PROGRAM = (sys.executable, "-m", "lenet_cifar10.commands")
PATH = str(SOURCE / "src")


def test_help_lists_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    modules = {path.stem.replace("_", "-") for path in (SOURCE / "src/lenet_cifar10/commands").glob("[a-z]*.py")}
    assert set(COMMANDS) == modules
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples_that_are_its_own(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    examples = re.findall(r"^ +(lenet-cifar10 .*)", result.output.split("Examples:")[1], flags=re.MULTILINE)
    assert any(line.startswith(f"lenet-cifar10 {name}") for line in examples)


def test_starting_imports_nothing_that_is_slow() -> None:
    code = "import sys, lenet_cifar10.commands; print(*{name.split('.')[0] for name in sys.modules})"
    names = run(SOURCE, sys.executable, "-c", code, PYTHONPATH=PATH).stdout.split()
    assert not {"torch", "dvc", "scipy", "optuna", "matplotlib", "pandas", "vl_convert", "jinja2"} & set(names)


@pytest.mark.parametrize(
    ("words", "status", "output", "error"),
    [
        (["--version"], 0, r"lenet-cifar10 \d+\.\d+\.\d+\n", ""),
        (["compare", "a", "b", "c"], 2, "", r"(?s).*unexpected extra argument.*"),
        (["compare"], 1, "", r"error: .*: is not in a DVC project; run this in the project's folder\n"),
        (["page", "--output", "here.html"], 1, "", r"error: .*: is not in a DVC project; .*\n"),
    ],
)
def test_exit_statuses(tmp_path: Path, words: list[str], status: int, output: str, error: str) -> None:
    result = run(tmp_path, *PROGRAM, *words, check=False, PYTHONPATH=PATH)
    assert result.returncode == status
    assert re.fullmatch(output, result.stdout)
    assert re.fullmatch(error, result.stderr)
    assert list(tmp_path.iterdir()) == []

"""What people call by hand: the command lenet-cifar10.

Each command imports what is slow to import (torch, dvc, scipy, optuna) when it is called, so that --help is quick.
"""

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from lenet_cifar10.commands.compare import compare
from lenet_cifar10.commands.generate import generate
from lenet_cifar10.commands.offline_plots import offline_plots
from lenet_cifar10.commands.page import page
from lenet_cifar10.commands.predict import predict
from lenet_cifar10.commands.seeds import seeds
from lenet_cifar10.commands.sweep import sweep
from lenet_cifar10.common import stage

app = typer.Typer(
    help="LeNet on CIFAR-10: what the DVC workflow has beside dvc itself.",
    epilog="Exit status: 0 done, 1 an error (standard error says what to do), 2 wrong usage, 130 or 143 stopped.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
        typer.echo(f"lenet-cifar10 {version('lenet-cifar10')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def _help(command: Callable[..., None]) -> str:
    """A docstring with each paragraph on one line, for the terminal to wrap; the examples stay as they are."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(text if text.startswith("\b") else " ".join(text.split()) for text in paragraphs)


# In the order of the help.
for _command in (page, compare, seeds, sweep, predict, generate, offline_plots):
    app.command(help=_help(_command))(_command)


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit status 1."""
    stage.run(app)

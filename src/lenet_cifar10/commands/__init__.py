"""What people call by hand: the command lenet-cifar10."""

import inspect
from collections.abc import Callable

import typer

from lenet_cifar10 import errors
from lenet_cifar10.commands.compare import compare
from lenet_cifar10.commands.generate import generate
from lenet_cifar10.commands.offline_plots import offline_plots
from lenet_cifar10.commands.page import page
from lenet_cifar10.commands.predict import predict
from lenet_cifar10.commands.push_runs import push_runs
from lenet_cifar10.commands.seeds import seeds
from lenet_cifar10.commands.show import show
from lenet_cifar10.commands.sweep import sweep
from lenet_cifar10.commands.verify import verify

app = typer.Typer(
    help="LeNet on CIFAR-10: what the DVC workflow has beside dvc itself.",
    epilog="Exit status: 0 done, 1 something to mend (standard error says what), 2 wrong usage, 130 or 143 stopped.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _help(command: Callable[..., None]) -> str:
    """A docstring with its paragraphs on one line each, for the terminal to wrap; the examples stay as they are."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(text if text.startswith("\b") else " ".join(text.split()) for text in paragraphs)


for _command in (show, page, compare, seeds, sweep, predict, verify, push_runs, generate, offline_plots):
    app.command(help=_help(_command))(_command)


def main() -> None:
    """Run the command line; what the user can mend ends in one line and exit status 1."""
    errors.run(app)

"""What people call by hand: the command lenet-cifar10."""

import typer

from lenet_cifar10 import errors
from lenet_cifar10.commands.generate import generate
from lenet_cifar10.commands.show import show
from lenet_cifar10.commands.verify import verify

app = typer.Typer(
    help="LeNet on CIFAR-10: what the DVC workflow has beside dvc itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(generate)
app.command()(show)
app.command()(verify)


def main() -> None:
    """Run the command line; what the user can mend ends in one line and exit status 1."""
    errors.run(app)

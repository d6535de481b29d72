"""Show the figures of a run as a table."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError


def show(
    revision: Annotated[
        str, typer.Argument(help="A commit, branch, tag or experiment; without it, the workspace.")
    ] = "workspace",
) -> None:
    """Show the figures of a run: of the workspace, or of any commit or experiment.

    \b
    Examples:
      lenet-cifar10 show
      lenet-cifar10 show HEAD~1
    """
    train = _read("metrics/train.json", revision, ("epochs", "train_loss", "validation_loss", "validation_accuracy"))
    test = _read("metrics/test.json", revision, ("loss", "accuracy", "per_class"))
    table = terminal.table(f"Run: {revision}", "figure", "value")
    table.add_row("epochs", str(train["epochs"]))
    table.add_row("train loss", _shown(train["train_loss"]))
    table.add_row("validation loss", _shown(train["validation_loss"]))
    table.add_row("validation accuracy", _shown(train["validation_accuracy"]))
    table.add_row("test loss", _shown(test["loss"]))
    table.add_row("test accuracy", _shown(test["accuracy"]), end_section="accuracy_with_flips" not in test)
    if "accuracy_with_flips" in test:
        table.add_row("test accuracy with flips", _shown(test["accuracy_with_flips"]), end_section=True)
    for name, accuracy in test["per_class"].items():
        table.add_row(f"test accuracy: {name}", _shown(accuracy))
    terminal.console.print(table)


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def _read(path: str, revision: str, keys: Sequence[str]) -> Any:
    from lenet_cifar10 import revisions  # here, for importing DVC takes half a second

    values = revisions.read_json(path, revision)
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing:
        place = revisions.describe(path, revision)
        raise UserError(f"{place}: has no {', '.join(missing)}, so this project did not write it; run dvc repro")
    return values

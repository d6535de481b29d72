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
    table = terminal.figures_table(f"Run: {revision}", _name_figures(train, test))
    terminal.console.print(table)


def _name_figures(train: dict[str, Any], test: dict[str, Any]) -> dict[str, object]:
    figures = {
        "epochs": train["epochs"],
        "train loss": train["train_loss"],
        "validation loss": train["validation_loss"],
        "validation accuracy": train["validation_accuracy"],
        "test loss": test["loss"],
        "test accuracy": test["accuracy"],
    }
    for name in ("accuracy_low", "accuracy_high", "accuracy_with_flips", "expected_calibration_error"):
        if name in test:  # older runs, and those without flips, have not all of them
            figures[f"test {name}"] = test[name]
    return figures | {f"test accuracy: {name}": accuracy for name, accuracy in test["per_class"].items()}


def _read(path: str, revision: str, keys: Sequence[str]) -> Any:
    from lenet_cifar10 import revisions  # here, for importing DVC takes half a second

    values = revisions.read_json(path, revision)
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing:
        place = revisions.describe(path, revision)
        raise UserError(f"{place}: has no {', '.join(missing)}, so this project did not write it; run dvc repro")
    return values

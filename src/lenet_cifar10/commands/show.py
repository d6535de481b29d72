"""Show the figures of a run as a table."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import dvc.api
import typer
from dvc.exceptions import DvcException
from dvc.scm import RevError
from rich.table import Table

from lenet_cifar10.errors import UserError
from lenet_cifar10.terminal import console


def show(
    revision: Annotated[
        str | None, typer.Argument(help="A commit, branch, tag or experiment; without it, the workspace.")
    ] = None,
) -> None:
    """Show the figures of a run: of the workspace, or of any commit or experiment."""
    train = _read("metrics/train.json", revision, ("epochs", "train_loss", "validation_loss", "validation_accuracy"))
    test = _read("metrics/test.json", revision, ("loss", "accuracy", "per_class"))
    table = Table("figure", "value", title=f"Run: {revision or 'workspace'}", title_justify="left")
    table.add_row("epochs", str(train["epochs"]))
    table.add_row("train loss", f"{train['train_loss']:.4f}")
    table.add_row("validation loss", f"{train['validation_loss']:.4f}")
    table.add_row("validation accuracy", f"{train['validation_accuracy']:.4f}")
    table.add_row("test loss", f"{test['loss']:.4f}")
    table.add_row("test accuracy", f"{test['accuracy']:.4f}", end_section="accuracy_with_flips" not in test)
    if "accuracy_with_flips" in test:
        table.add_row("test accuracy with flips", f"{test['accuracy_with_flips']:.4f}", end_section=True)
    for name, accuracy in test["per_class"].items():
        table.add_row(f"test accuracy: {name}", "-" if accuracy is None else f"{accuracy:.4f}")
    console.print(table)


def _read(path: str, revision: str | None, keys: Sequence[str]) -> Any:
    place = path if revision is None else f"{path} in {revision}"
    try:
        values = json.loads(dvc.api.read(path, rev=revision))
    except RevError:
        raise UserError(f"{revision}: is no commit, branch, tag or experiment; see git log or dvc exp list") from None
    except (FileNotFoundError, DvcException):
        raise UserError(f"{place}: is not there; run dvc repro, or name a commit or experiment that has it") from None
    except ValueError as error:
        raise UserError(f"{place}: is not JSON ({error}); run dvc repro evaluate") from None
    if missing := [key for key in keys if key not in values]:
        raise UserError(f"{place}: has no {', '.join(missing)}, so another version of this project wrote it")
    return values

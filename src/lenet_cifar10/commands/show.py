"""Show the figures of a run as a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import dvc.api
import typer
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
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
    table.add_row("train loss", _shown(train["train_loss"]))
    table.add_row("validation loss", _shown(train["validation_loss"]))
    table.add_row("validation accuracy", _shown(train["validation_accuracy"]))
    table.add_row("test loss", _shown(test["loss"]))
    table.add_row("test accuracy", _shown(test["accuracy"]), end_section="accuracy_with_flips" not in test)
    if "accuracy_with_flips" in test:
        table.add_row("test accuracy with flips", _shown(test["accuracy_with_flips"]), end_section=True)
    for name, accuracy in test["per_class"].items():
        table.add_row(f"test accuracy: {name}", _shown(accuracy))
    console.print(table)


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def _read(path: str, revision: str | None, keys: Sequence[str]) -> Any:
    place = path if revision is None else f"{path} in {revision}"
    try:
        root = Repo.find_root()
        values = json.loads(
            (Path(root) / path).read_text() if revision is None else dvc.api.read(path, repo=root, rev=revision)
        )
    except NotDvcRepoError:
        raise UserError(f"{Path.cwd()}: is in no DVC project; run this in the project's folder") from None
    except RevError:
        raise UserError(f"{revision}: is no commit, branch, tag or experiment; see git log or dvc exp list") from None
    except (FileNotFoundError, DvcException):
        raise UserError(f"{place}: is not there; run dvc repro, or name a commit or experiment that has it") from None
    except ValueError as error:
        raise UserError(f"{place}: is not JSON ({error}); run dvc repro evaluate") from None
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing:
        raise UserError(f"{place}: has no {', '.join(missing)}, so this project did not write it; run dvc repro")
    return values

"""Show the figures of a run as a table."""

from typing import Annotated

import typer

from lenet_cifar10 import terminal

TRAIN, TEST = "metrics/train.json", "metrics/test.json"
# Older runs, and those without flips, have not all of them.
TEST_FIGURES = (
    "loss",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_with_flips",
    "expected_calibration_error",
)


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
    from lenet_cifar10.results import COUNTS, FRACTIONS, NUMBERS, parse_test_figures, parse_values
    from lenet_cifar10.revisions import REMEDY, describe, read_bytes  # here, for importing DVC takes half a second

    others = {"train_loss": NUMBERS, "validation_loss": NUMBERS, "validation_accuracy": FRACTIONS}
    content, place = read_bytes(TRAIN, revision), describe(TRAIN, revision)
    train = parse_values(content, place, {"epochs": COUNTS}, REMEDY, optional=others)
    test = parse_test_figures(read_bytes(TEST, revision), describe(TEST, revision), REMEDY)
    figures = {name: train[name] for name in ("epochs", *others) if name in train}
    figures |= {f"test {name}": test[name] for name in TEST_FIGURES if name in test}
    figures |= {f"test accuracy: {name}": accuracy for name, accuracy in test["per_class"].items()}
    terminal.console.print(terminal.figures_table(f"Run: {revision}", figures))

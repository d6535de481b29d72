"""Compare two runs on the test images."""

import json
from dataclasses import asdict, dataclass
from hashlib import md5
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10.common.console import console, say, table
from lenet_cifar10.common.stage import UserError

if TYPE_CHECKING:
    import pandas as pd

    from lenet_cifar10.evaluation.comparison import Comparison

PREDICTIONS, TEST_IMAGES = "plots/predictions.csv", "data/prepared/test.safetensors"


@dataclass(frozen=True)
class Run:
    """What a revision has of a run."""

    source: dict[str, str]  # data and device
    predictions: "pd.DataFrame"
    images_md5: str | None  # None without dvc.lock
    params: dict[str, Any]
    doubts: list[str]  # why the predictions may not be those of the parameters


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A commit, branch, tag, experiment, or workspace.")
    ] = "HEAD",
    second: Annotated[str, typer.Argument(metavar="B", help="The same.")] = "workspace",
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="List also the classes that did not move.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables, unrounded.")] = False,
) -> None:
    """Compare two runs on the same test images: does B differ from A by more than chance?

    Prints both accuracies, their difference, and how many images flipped each way, with 95 % intervals (Wilson; Bonett
    and Price) and McNemar's exact p; the classes that moved, with p adjusted over the classes; and the parameters that
    differ.

    The test is of two trained networks. Another seed gives other networks: to compare two settings, run several seeds
    of each (lenet-cifar10 seeds).

    \b
    Examples:
      lenet-cifar10 compare
      lenet-cifar10 compare main calm --all-classes
      lenet-cifar10 compare HEAD~1 HEAD --json
    """
    from lenet_cifar10.evaluation.comparison import compare_predictions
    from lenet_cifar10.experiments.revisions import differing_params

    one, other = _read_run(first), _read_run(second)
    try:
        if None not in (one.images_md5, other.images_md5) and one.images_md5 != other.images_md5:
            raise ValueError(f"{TEST_IMAGES} has MD5 {one.images_md5} and {other.images_md5}")
        comparison = compare_predictions(one.predictions, other.predictions)
    except ValueError as error:
        raise UserError(
            f"{first} and {second}: are not of the same test images ({error}); compare runs on the same data"
        ) from None
    runs = {"first": {"revision": first, **one.source}, "second": {"revision": second, **other.source}}
    params = {
        key: dict(zip(runs, values, strict=True))
        for key, values in differing_params([one.params, other.params]).items()
    }
    doubts = list(dict.fromkeys(one.doubts + other.doubts))
    if as_json:
        values = {"revisions": runs, **asdict(comparison), "params": params, "doubts": doubts}
        typer.echo(json.dumps(values, indent=2))
        return
    for letter, run in zip("AB", runs.values(), strict=True):
        say(f"{letter}: {run['revision']} ({run['data']}; {run['device']})")
    for doubt in doubts:
        say(f"Note: {doubt}")
    _print_accuracies(comparison)
    _print_classes(comparison, all_classes)
    if not params:
        say("No parameter differs.")
        return
    rows = table("Parameters that differ", "parameter", "A", "B")
    for key, pair in params.items():
        rows.add_row(key, *("-" if value is None else json.dumps(value).strip('"') for value in pair.values()))
    console.print(rows)


def _read_run(revision: str) -> Run:
    from lenet_cifar10.common.files import parse_table
    from lenet_cifar10.experiments import revisions

    content, name = revisions.read_file(PREDICTIONS, revision), revisions.describe(PREDICTIONS, revision)
    stages, params = revisions.read_stages(revision), revisions.read_params(revision)
    hashes, params_of_run = revisions.output_hashes(stages), revisions.params_of_run(stages)
    doubts = []
    found = md5(content, usedforsecurity=False).hexdigest()
    if hashes.get(PREDICTIONS, found) != found:
        doubts.append(f"{name} is not the one in dvc.lock; run dvc repro")
    if changed := [key for key, value in params.items() if params_of_run.get(key, value) != value]:
        params_name = revisions.describe("params.yaml", revision)
        doubts.append(f"{params_name} was changed after the run ({', '.join(changed)}); run dvc repro")
    return Run(
        source={"data": revisions.describe_data(revision), "device": revisions.describe_device(revision)},
        predictions=parse_table(content, name, {"index": int, "actual": str, "predicted": str}),
        images_md5=hashes.get(TEST_IMAGES),
        params=params | params_of_run,
        doubts=doubts,
    )


def _print_accuracies(comparison: "Comparison") -> None:
    from lenet_cifar10.evaluation.comparison import SIGNIFICANCE

    accuracies = table(f"On {comparison.count:,} test images", "accuracy", "value", "95 % from", "to")
    for name, value, interval, form in (
        ("A", comparison.first.value, comparison.first.interval, ".4f"),
        ("B", comparison.second.value, comparison.second.interval, ".4f"),
        ("B - A", comparison.paired.difference, comparison.paired.interval, "+.4f"),
    ):
        accuracies.add_row(name, *(format(number, form) for number in (value, interval.low, interval.high)))
    console.print(accuracies)
    say(f"Right in A only: {comparison.right_in_first_only:,} images; in B only: {comparison.right_in_second_only:,}.")
    p_value = comparison.paired.p_value
    verdict = "differ significantly" if p_value < SIGNIFICANCE else "do not differ significantly"
    say(f"These two networks {verdict} (5 % level; McNemar's exact p = {_show_p(p_value)}).")


def _print_classes(comparison: "Comparison", all_classes: bool) -> None:
    shown = [item for item in comparison.classes if all_classes or item.moved != "no"]
    if not shown:
        say("No class moved; --all-classes lists them.")
        return
    title = f"{'All classes' if all_classes else 'Classes that moved'}; p is adjusted (Benjamini and Hochberg)"
    classes = table(title, "class", "images", "A", "B", "B - A", "p", "moved")
    for item in shown:
        figures = f"{item.first:.4f}", f"{item.second:.4f}", f"{item.difference:+.4f}", _show_p(item.adjusted_p_value)
        classes.add_row(item.name, f"{item.count:,}", *figures, item.moved)
    console.print(classes)


def _show_p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"

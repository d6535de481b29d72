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

PREDICTIONS, WEIGHTS = "plots/predictions.csv", "data/model/lenet.safetensors"
TEST_IMAGES = "data/prepared/test.safetensors"


@dataclass(frozen=True)
class Run:
    """What a revision has of a run."""

    data: str
    device: str
    predictions: "pd.DataFrame"
    images_md5: str | None  # None where dvc.lock has none
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

    runs = {"first": _read_run(first), "second": _read_run(second)}
    one, other = runs.values()
    try:
        if None not in (one.images_md5, other.images_md5) and one.images_md5 != other.images_md5:
            raise ValueError(f"{TEST_IMAGES} has MD5 {one.images_md5} and {other.images_md5}")
        comparison = compare_predictions(one.predictions, other.predictions)
    except ValueError as error:
        raise UserError(
            f"{first} and {second}: are not of the same test images ({error}); compare runs on the same data"
        ) from None
    params = differing_params([one.params, other.params])
    doubts = list(dict.fromkeys([*one.doubts, *other.doubts]))
    if as_json:
        names = {"first": first, "second": second}
        revisions = {key: {"revision": names[key], "data": run.data, "device": run.device} for key, run in runs.items()}
        pairs = {key: {"first": values[0], "second": values[1]} for key, values in params.items()}
        result = {"revisions": revisions, **asdict(comparison), "params": pairs, "doubts": doubts}
        typer.echo(json.dumps(result, indent=2))
        return
    for letter, name, run in (("A", first, one), ("B", second, other)):
        say(f"{letter}: {name} ({run.data}; {run.device})")
    for doubt in doubts:
        say(f"Note: {doubt}")
    _print_accuracies(comparison)
    say(_conclude(comparison))
    _print_classes(comparison, all_classes)
    _print_params(params)


def _read_run(revision: str) -> Run:
    from lenet_cifar10.common.files import parse_table
    from lenet_cifar10.experiments import revisions

    content, name = revisions.read_file(PREDICTIONS, revision), revisions.describe(PREDICTIONS, revision)
    lock, params = revisions.read_lock(revision), revisions.read_params(revision)
    hashes, params_of_run = revisions.output_hashes(lock), revisions.params_of_run(lock)
    doubts = []
    if TEST_IMAGES not in hashes:
        lock_name = revisions.describe("dvc.lock", revision)
        doubts.append(f"{lock_name} has no {TEST_IMAGES}: only the labels show that the test images are the same")
    digest = md5(content, usedforsecurity=False).hexdigest()
    if hashes.get(PREDICTIONS, digest) != digest:
        doubts.append(f"{name} is not the one in dvc.lock: it was edited, or the run is not complete; run dvc repro")
    if changed := [key for key, value in params.items() if params_of_run.get(key, value) != value]:
        params_name = revisions.describe("params.yaml", revision)
        doubts.append(f"{params_name} was changed after the run ({', '.join(changed)}); run dvc repro")
    if outdated := [path for path in revisions.outdated_inputs(lock, "evaluate") if path in (WEIGHTS, TEST_IMAGES)]:
        doubts.append(f"{name} is of an earlier {' and '.join(outdated)}; run dvc repro")
    return Run(
        data=revisions.describe_data(revision),
        device=revisions.describe_device(revision),
        predictions=parse_table(content, name, {"index": int, "actual": str, "predicted": str}),
        images_md5=hashes.get(TEST_IMAGES),
        params=params | params_of_run,
        doubts=doubts,
    )


def _print_accuracies(comparison: "Comparison") -> None:
    accuracies = table(f"On {comparison.count:,} test images", "accuracy", "value", "95 % from", "to")
    for name, value, interval, form in (
        ("A", comparison.first.value, comparison.first.interval, ".4f"),
        ("B", comparison.second.value, comparison.second.interval, ".4f"),
        ("B - A", comparison.paired.difference, comparison.paired.interval, "+.4f"),
    ):
        accuracies.add_row(name, *(format(number, form) for number in (value, interval.low, interval.high)))
    console.print(accuracies)
    images = table("Test images", "right in", "count", "fraction")
    for name, count in (
        ("both", comparison.right_in_both),
        ("A only", comparison.right_in_first_only),
        ("B only", comparison.right_in_second_only),
        ("neither", comparison.wrong_in_both),
    ):
        images.add_row(name, f"{count:,}", f"{count / comparison.count:.4f}")
    console.print(images)


def _conclude(comparison: "Comparison") -> str:
    from lenet_cifar10.evaluation.comparison import SIGNIFICANCE

    if comparison.right_in_first_only == comparison.right_in_second_only == 0:
        return "No difference: each image is right in both or wrong in both."
    paired, better = comparison.paired, "more" if comparison.paired.difference > 0 else "less"
    p, is_significant = f"McNemar's exact p = {_show_p(paired.p_value)}", paired.p_value < SIGNIFICANCE
    conclusion = (
        f"These two networks differ significantly (5 % level): B is right {better} often than A ({p}). "
        "To compare the settings, run several seeds of each (lenet-cifar10 seeds)."
        if is_significant
        else f"These two networks do not differ significantly (5 % level; {p})."
    )
    if (paired.interval.low > 0 or paired.interval.high < 0) != is_significant:
        conclusion += " The interval is approximate, the test exact: a border case."
    return conclusion


def _print_classes(comparison: "Comparison", all_classes: bool) -> None:
    shown = [item for item in comparison.classes if all_classes or item.moved != "no"]
    method = f"McNemar's exact p, adjusted for {len(comparison.classes)} tests (Benjamini-Hochberg)"
    if not shown:
        say(f"No class moved ({method}); --all-classes lists them.")
        return
    title = f"{'All classes' if all_classes else 'Classes that moved'}, with {method}"
    classes = table(title, "class", "images", "A", "B", "B - A", "p", "moved")
    for item in shown:
        figures = f"{item.first:.4f}", f"{item.second:.4f}", f"{item.difference:+.4f}", _show_p(item.adjusted_p_value)
        classes.add_row(item.name, f"{item.count:,}", *figures, item.moved)
    console.print(classes)


def _print_params(params: dict[str, list[Any]]) -> None:
    if not params:
        say("No parameter differs.")
        return
    rows = table("Parameters that differ", "parameter", "A", "B")
    for key, values in params.items():
        rows.add_row(key, *("-" if value is None else json.dumps(value).strip('"') for value in values))
    console.print(rows)


def _show_p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"

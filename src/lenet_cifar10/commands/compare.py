"""Compare two runs on the test images."""

import json
from dataclasses import asdict, dataclass
from hashlib import md5
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError

if TYPE_CHECKING:
    from lenet_cifar10.comparison import Comparison
    from lenet_cifar10.results import Answer

PREDICTIONS, WEIGHTS, TEST_IMAGES = "plots/predictions.csv", "data/model/lenet.safetensors", "data/prepared/test.npz"


@dataclass(frozen=True)
class Run:
    """What a revision has of a run."""

    revision: str
    answers: "list[Answer]"
    images_hash: str | None  # None where dvc.lock has none
    params: dict[str, Any]
    doubts: list[str]  # why its answers may not be those of its parameters


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A commit, branch, tag, experiment, or workspace.")
    ] = "HEAD",
    second: Annotated[str, typer.Argument(metavar="B", help="The same; without it, the workspace.")] = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables, unrounded.")] = False,
) -> None:
    """Tell whether two runs differ by more than chance: B against A, on the same test images.

    Says the accuracies, their difference and how many images flipped each way, with 95 % intervals (Wilson; Bonett and
    Price) and McNemar's exact p; which classes moved, with p adjusted over the classes; and which parameters differ.

    The test is of two trained networks. Another seed gives other networks: whether two settings differ takes several
    seeds of each. Tables of other test images are refused.

    \b
    Examples:
      lenet-cifar10 compare
      lenet-cifar10 compare main calm
      lenet-cifar10 compare HEAD~1 HEAD --json
    """
    from lenet_cifar10.comparison import compare_answers  # here, for importing SciPy and DVC takes a second

    runs = _read_run(first), _read_run(second)
    _refuse_other_images(*runs)
    doubts = list(dict.fromkeys(doubt for run in runs for doubt in run.doubts))
    comparison = compare_answers(runs[0].answers, runs[1].answers)
    params = _find_differences(runs[0].params, runs[1].params)
    if as_json:
        found = {"revisions": {"first": first, "second": second}, **asdict(comparison), "params": params}
        typer.echo(json.dumps(found | {"doubts": doubts}, indent=2, default=str))
        return
    for doubt in doubts:
        terminal.say(f"Note: {doubt}")
    _print_accuracies(comparison, first, second)
    terminal.say(_conclude(comparison))
    _print_classes(comparison)
    _print_params(params)


def _read_run(revision: str) -> Run:
    from lenet_cifar10 import revisions
    from lenet_cifar10.results import parse_answers

    content, place = revisions.read_bytes(PREDICTIONS, revision), revisions.describe(PREDICTIONS, revision)
    answers = parse_answers(content, place, revisions.REMEDY)
    lock, params = revisions.read_lock(revision), revisions.read_params(revision)
    doubts = []
    if TEST_IMAGES not in lock.hashes:
        name = revisions.describe("dvc.lock", revision)
        doubts.append(f"{name} has no {TEST_IMAGES}, so only the labels show that the test images are the same")
    digest = md5(content, usedforsecurity=False).hexdigest()
    if lock.hashes.get(PREDICTIONS, digest) != digest:
        doubts.append(f"{place} is not the one in dvc.lock: changed by hand, or its run is not whole; run dvc repro")
    if changed := [key for key, value in params.items() if lock.params.get(key, value) != value]:
        name = revisions.describe("params.yaml", revision)
        doubts.append(f"{name} was changed after the run ({', '.join(changed)}); run dvc repro")
    outdated = lock.replaced.get("evaluate", frozenset())
    if replaced := [path for path in (WEIGHTS, TEST_IMAGES) if path in outdated]:
        doubts.append(f"{place} is of an earlier {' and '.join(replaced)}; run dvc repro")
    return Run(revision, answers, lock.hashes.get(TEST_IMAGES), lock.params_of_run(params), doubts)


def _refuse_other_images(first: Run, second: Run) -> None:
    from lenet_cifar10.comparison import difference_of_images

    reason = difference_of_images(first.answers, second.answers)
    hashes = first.images_hash, second.images_hash
    if reason is None and None not in hashes and hashes[0] != hashes[1]:
        reason = f"{TEST_IMAGES} has MD5 {hashes[0]} and {hashes[1]}"
    if reason is not None:
        raise UserError(
            f"{first.revision} and {second.revision}: are not of the same test images ({reason}); "
            "compare runs on the same data"
        )


def _find_differences(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters that differ, with a value for each run that has them."""
    return [
        {"key": key}
        | ({"first": first[key]} if key in first else {})
        | ({"second": second[key]} if key in second else {})
        for key in first | second
        if not (key in first and key in second and first[key] == second[key])
    ]


def _print_accuracies(comparison: "Comparison", first: str, second: str) -> None:
    title = f"A: {first}, B: {second}, on {comparison.count:,} test images"
    table = terminal.table(title, "accuracy", "value", "95 % from", "to")
    for name, accuracy in (("A", comparison.first), ("B", comparison.second)):
        table.add_row(
            name, *(f"{value:.4f}" for value in (accuracy.value, accuracy.interval.low, accuracy.interval.high))
        )
    paired = comparison.paired
    ends = paired.interval.low, paired.interval.high
    table.add_row("B - A", *(f"{value:+.4f}" for value in (paired.difference, *ends)))
    terminal.console.print(table)
    table = terminal.table("Test images", "right in", "count", "share")
    for name, count in (
        ("both", comparison.right_in_both),
        ("A only", comparison.right_in_first_only),
        ("B only", comparison.right_in_second_only),
        ("neither", comparison.wrong_in_both),
    ):
        table.add_row(name, f"{count:,}", f"{count / comparison.count:.4f}")
    terminal.console.print(table)


def _conclude(comparison: "Comparison") -> str:
    from lenet_cifar10.comparison import SIGNIFICANCE

    if comparison.right_in_first_only == comparison.right_in_second_only == 0:
        return "No difference: each image is right in both or wrong in both."
    paired, better = comparison.paired, "more" if comparison.paired.difference > 0 else "less"
    shown, is_significant = f"McNemar's exact p = {_show_p(paired.p_value)}", paired.p_value < SIGNIFICANCE
    told = (
        f"These two networks differ significantly (5 % level): B is right {better} often than A ({shown}). "
        "Whether the settings differ takes several seeds (lenet-cifar10 seeds)."
        if is_significant
        else f"These two networks do not differ significantly (5 % level; {shown})."
    )
    if (paired.interval.low > 0 or paired.interval.high < 0) != is_significant:
        told += " The interval is approximate, the test exact: a border case."
    return told


def _print_classes(comparison: "Comparison") -> None:
    title = f"Classes, with McNemar's exact p adjusted for {len(comparison.classes)} tests (Benjamini-Hochberg)"
    table = terminal.table(title, "class", "images", "A", "B", "B - A", "p", "moved")
    for item in comparison.classes:
        figures = f"{item.first:.4f}", f"{item.second:.4f}", f"{item.difference:+.4f}", _show_p(item.adjusted_p_value)
        table.add_row(item.name, f"{item.count:,}", *figures, item.moved)
    terminal.console.print(table)


def _print_params(params: list[dict[str, Any]]) -> None:
    if not params:
        terminal.say("No parameter differs.")
        return
    table = terminal.table("Parameters that differ", "parameter", "A", "B")
    for entry in params:
        table.add_row(entry["key"], *(_show_param(entry[run]) if run in entry else "-" for run in ("first", "second")))
    terminal.console.print(table)


def _show_p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _show_param(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_show_param, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)

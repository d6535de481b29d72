"""Run a configuration with several seeds and report how sure its accuracy is; compare it with another one."""

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10.common.console import console, say, show_figure, table
from lenet_cifar10.common.stage import UserError

if TYPE_CHECKING:
    from lenet_cifar10.evaluation.statistics import MeanDifference
    from lenet_cifar10.experiments.seeds import Runs


def seeds(
    number: Annotated[int, typer.Argument(help="How many seeds.", min=1, max=10_000)],
    set_param: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="A parameter's value, as for dvc exp run.", metavar="KEY=VALUE"),
    ] = None,
    versus: Annotated[
        list[str] | None,
        typer.Option(help="Compare with a second configuration, which has this value too.", metavar="KEY=VALUE"),
    ] = None,
    first: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a configuration with several seeds; report mean, standard deviation and 95 % interval of the mean.

    Each seed is one DVC experiment, seeds-DIGEST-SEED; the digest is of code and parameters. The same command
    continues where an earlier one was stopped. With --versus a second configuration is run too, and the means are
    compared by Welch's t-test. All figures are over seeds, on one split and one test set: run three seeds or more.

    While an experiment starts, DVC sets your changes aside for a moment: do not edit, and run neither git nor dvc.

    The exit status is 1 if a seed failed; the others are run all the same.

    \b
    Examples:
      lenet-cifar10 seeds 5
      lenet-cifar10 seeds 3 -S train.epochs=5 --versus model.dropout=0.5
    """
    from lenet_cifar10.experiments.revisions import project_root
    from lenet_cifar10.experiments.runs import configure, measure, parse_settings
    from lenet_cifar10.experiments.seeds import Runs, compare_runs, run_seeds

    root = project_root()
    base, change = parse_settings(set_param or []), parse_settings(versus or [])
    if "seed" in base or "seed" in change:
        raise UserError("-S seed: this command varies the seed; choose the seeds with N and --first")
    compared = [Runs(configure(root, base))]
    compared[0].configuration.having({"seed": first + number - 1}, "--first")  # the last seed may be too large
    if versus:
        compared.append(Runs(compared[0].configuration.having(change, "--versus")))
        if compared[0].name(0) == compared[1].name(0):
            raise UserError("--versus: is the same configuration; change a parameter with it")
    run_seeds(compared, range(first, first + number), partial(measure, root))
    differences = compare_runs(*compared) if versus else {}
    if as_json:
        values = {
            "configurations": [_as_dict(runs) for runs in compared],
            "differences": {figure: asdict(difference) for figure, difference in differences.items()},
        }
        typer.echo(json.dumps(values, indent=2))
    else:
        for runs in compared:
            _print(runs)
        for figure, difference in differences.items():
            say(f"{_words(figure)}, second mean minus first: {_describe(difference)}")
    if failures := [f"{runs.name(seed)}: {reason}" for runs in compared for seed, reason in runs.failures.items()]:
        raise UserError("\n".join(failures))


def _as_dict(runs: "Runs") -> dict[str, Any]:
    return {
        "settings": runs.configuration.settings,
        "experiments": {seed: runs.name(seed) for seed in runs.figures.get("test_accuracy", {})},
        "failures": runs.failures,
        "figures": {
            figure: {**asdict(summary), "values": runs.figures[figure]} for figure, summary in runs.summaries().items()
        },
    }


def _print(runs: "Runs") -> None:
    settings = " ".join(f"{key}={value}" for key, value in runs.configuration.settings.items()) or "params.yaml"
    summaries = runs.summaries()
    rows = table(f"{settings} (experiments {runs.name('SEED')})", "seed", *map(_words, summaries))
    for seed in runs.figures.get("test_accuracy", {}):
        rows.add_row(str(seed), *(show_figure(values[seed]) for values in runs.figures.values()))
    rows.add_section()
    rows.add_row("mean", *(show_figure(summary.mean) for summary in summaries.values()))
    rows.add_row("standard deviation", *(show_figure(summary.standard_deviation) for summary in summaries.values()))
    ends = [f"{s.interval.low:.4f} to {s.interval.high:.4f}" if s.interval else "-" for s in summaries.values()]
    rows.add_row("95 % interval of the mean", *ends)
    console.print(rows)


def _describe(found: "MeanDifference") -> str:
    if found.interval is None:
        return f"{found.difference:+.4f} (too few seeds for an interval, or figures that do not vary)"
    ends = f"{found.interval.low:+.4f} to {found.interval.high:+.4f}"
    return f"{found.difference:+.4f} (95 % interval {ends}; Welch's t-test, p = {found.p_value:.2g})"


def _words(figure: str) -> str:
    return figure.replace("_", " ")

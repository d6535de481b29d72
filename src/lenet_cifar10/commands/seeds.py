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

_FEW_SEEDS = {1: "one seed shows no deviation; run three or more", 2: "two seeds say little; run three or more"}


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
    continues where an earlier one was stopped. With --versus a second configuration is run too, and Welch's t-test
    says whether the mean test accuracies differ. All figures are over seeds, on one split and one test set.

    While an experiment starts, DVC sets your changes aside for a moment: do not edit, and run neither git nor dvc.

    The exit status is 1 if a seed failed; the others are run all the same.

    \b
    Examples:
      lenet-cifar10 seeds 5
      lenet-cifar10 seeds 3 -S train.epochs=5 --versus model.dropout=0.5
    """
    from lenet_cifar10.experiments.revisions import project_root
    from lenet_cifar10.experiments.runs import configure, measure, parse_settings
    from lenet_cifar10.experiments.seeds import Runs, run_seeds

    root = project_root()
    settings = [parse_settings(texts) for texts in (set_param or [], versus or [])]
    if any("seed" in values for values in settings):
        raise UserError("-S seed: this command varies the seed; choose the seeds with N and --first")
    configuration = configure(root, settings[0])
    configuration.having({"seed": first + number - 1}, "--first")  # the last seed may be too large
    compared = [Runs(configuration)]
    if versus:
        compared.append(Runs(configuration.having(settings[1], "--versus")))
        if compared[0].name(0) == compared[1].name(0):
            raise UserError("--versus: is the same configuration; change a parameter with it")
    run_seeds(compared, range(first, first + number), partial(measure, root))
    _report(compared, as_json)
    failures = [f"{runs.name(seed)}: {reason}" for runs in compared for seed, reason in runs.failures.items()]
    if failures:
        raise UserError("\n".join(failures))


def _report(compared: "list[Runs]", as_json: bool) -> None:
    from lenet_cifar10.experiments.seeds import compare_runs

    differences = compare_runs(*compared) if len(compared) == 2 else {}
    if as_json:
        values = {"configurations": [_as_dict(runs) for runs in compared]}
        typer.echo(json.dumps(values | {"differences": {key: asdict(d) for key, d in differences.items()}}, indent=2))
        return
    for runs in compared:
        _print(runs)
    for name, difference in differences.items():
        say(f"{_words(name)}, second mean minus first: {_describe(difference)}")
    if len(compared) == 2:
        say(_conclude(differences))


def _as_dict(runs: "Runs") -> dict[str, Any]:
    return {
        "settings": runs.configuration.settings,
        "experiments": {seed: runs.name(seed) for seed in runs.figures},
        "failures": runs.failures,
        "figures": {
            name: {**asdict(summary), "values": {seed: runs.figures[seed][name] for seed in runs.figures}}
            for name, summary in runs.summaries().items()
        },
    }


def _print(runs: "Runs") -> None:
    settings = " ".join(f"{key}={value}" for key, value in runs.configuration.settings.items()) or "params.yaml"
    summaries = runs.summaries()
    figures = table(f"{settings} (experiments {runs.name(0)[:-1]}SEED)", "seed", *map(_words, summaries))
    for seed, values in sorted(runs.figures.items()):
        figures.add_row(str(seed), *(show_figure(values[name]) for name in summaries))
    figures.add_section()
    figures.add_row("mean", *(show_figure(summary.mean) for summary in summaries.values()))
    figures.add_row("standard deviation", *(show_figure(s.standard_deviation) for s in summaries.values()))
    ends = [f"{s.interval.low:.4f} to {s.interval.high:.4f}" if s.interval else "-" for s in summaries.values()]
    figures.add_row("95 % interval of the mean", *ends)
    if runs.figures:
        console.print(figures)
    if len(runs.figures) in _FEW_SEEDS:
        say(_FEW_SEEDS[len(runs.figures)])


def _describe(found: "MeanDifference") -> str:
    if found.interval is None:
        return f"{found.difference:+.4f}"
    return f"{found.difference:+.4f} (95 % interval {found.interval.low:+.4f} to {found.interval.high:+.4f})"


def _conclude(differences: "dict[str, MeanDifference]") -> str:
    """What the test accuracies show. The figures depend on each other, so one alone is judged."""
    if not differences:
        return "No verdict: seeds failed, and the others do not stand for all."
    p_value = differences["test_accuracy"].p_value
    if p_value is None:
        return "No verdict: there are too few seeds, or their accuracies do not vary."
    verdict = "differ significantly" if p_value < 0.05 else "do not differ significantly"
    return f"Over seeds, the mean test accuracies {verdict} (Welch's t-test, p = {p_value:.3g}, 5 % level)."


def _words(name: str) -> str:
    return name.replace("_", " ")

"""Run a configuration with several seeds; how sure is its accuracy, and does another one differ?"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError

if TYPE_CHECKING:
    from lenet_cifar10.experiments import Configuration, Stop
    from lenet_cifar10.params import Params
    from lenet_cifar10.statistics import MeanDifference, SampleMean

LARGEST_SEED = 2**32 - 1
# Where an experiment has the figures that are compared.
FIGURES = {
    "validation_accuracy": ("metrics/train.json", "validation_accuracy"),
    "test_accuracy": ("metrics/test.json", "accuracy"),
    "test_accuracy_with_flips": ("metrics/test.json", "accuracy_with_flips"),
}
JUDGED = "test_accuracy"


@dataclass
class Runs:
    """A configuration's experiments by their seeds: the figures of those that ended well, why the others did not."""

    configuration: "Configuration"
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def name(self, seed: int) -> str:
        """The experiment of a seed."""
        return f"seeds-{self.configuration.digest}-{seed}"

    def described(self) -> str:
        """What makes the configuration, in words."""
        return " ".join(self.configuration.overrides) or "as in params.yaml"

    def values(self, figure: str) -> list[float]:
        """A figure by seed, of each seed that ended well."""
        return [self.figures[seed][figure] for seed in sorted(self.figures)]


def seeds(
    number: Annotated[int, typer.Argument(help="How many seeds: 0, 1, ... unless told otherwise.", min=1, max=10_000)],
    set_param: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="KEY=VALUE for a parameter, as of dvc exp run.", metavar="KEY=VALUE"),
    ] = None,
    versus: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE on top of those, for a second configuration to compare.", metavar="KEY=VALUE"),
    ] = None,
    first: Annotated[int, typer.Option(help="The first seed.", min=0, max=LARGEST_SEED)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every value by its seed.")] = False,
) -> None:
    """Run a configuration with several seeds, as DVC experiments; report mean, deviation and interval of the mean.

    Each seed is an experiment in a copy, seeds-DIGEST-SEED, where the digest is of the code and the parameters.
    The same command goes on where an earlier one was stopped: finished seeds are not run again, and a training that
    was stopped goes on from its last epoch. With --versus a second configuration is run too, and Welch's t test says
    whether the mean test accuracies differ, unless a seed failed. All that is over seeds, on one split and one set of
    test images.

    While an experiment starts DVC puts your changes aside for a moment: leave tracked files, git and dvc alone then,
    or run this in a clone of its own.

    Ends with 0, with 1 if a seed failed (the others are run all the same), with 130 or 143 when it is stopped.

    \b
    Examples:
      lenet-cifar10 seeds 5
      lenet-cifar10 seeds 3 -S train.epochs=5 --versus model.dropout=0.5
    """
    from lenet_cifar10 import experiments, revisions  # here, for importing DVC takes half a second

    if first + number - 1 > LARGEST_SEED:
        raise UserError(
            f"--first {first}: the last of {number} seeds would be above {LARGEST_SEED}; choose a lower one"
        )
    root, wanted = revisions.project_root(), range(first, first + number)
    say: Callable[[str], None] = terminal.say_aside if as_json else terminal.say
    compared = [Runs(_configure(root, overrides)) for overrides in _configurations(set_param or [], versus or [])]
    if len(compared) == 2 and compared[0].configuration.digest == compared[1].configuration.digest:
        raise UserError(f"--versus {' '.join(versus or [])}: is the same configuration; change a parameter with it")
    total = len(wanted) * len(compared)

    def finished() -> int:
        return sum(len(runs.figures) for runs in compared)

    with experiments.resumable(finished, total, say) as stop, _progress(total, as_json) as advance:
        for seed in wanted:
            for runs in compared:
                _run(root, runs, seed, stop, say)
                advance()
    if as_json:
        typer.echo(json.dumps(_as_json(compared), indent=2))
    else:
        _print(compared, number)
    failures = [f"{runs.name(seed)}: {reason}" for runs in compared for seed, reason in sorted(runs.failures.items())]
    if failures:
        raise UserError("\n".join(failures))


def _configurations(shared: list[str], versus: list[str]) -> list[list[str]]:
    return [shared, [*shared, *versus]] if versus else [shared]


def _configure(root: Path, overrides: list[str]) -> "Configuration":
    from lenet_cifar10 import experiments

    for override in overrides:
        if experiments.key_of(override) == "seed":
            raise UserError(f"-S {override}: the seeds are what this command varies; choose them by N and --first")
    return experiments.configure(root, overrides, without=["seed"])


def _run(root: Path, runs: Runs, seed: int, stop: "Stop", say: Callable[[str], None]) -> None:
    """Have the experiment of a seed, and its figures or why it failed."""
    from lenet_cifar10 import experiments

    name = runs.name(seed)
    try:
        experiments.run(root, runs.configuration.having({"seed": seed}), name, stop, say)
        runs.figures[seed] = _read_figures(name, runs.configuration.params)
    except experiments.FailedError as error:
        runs.failures[seed] = str(error)
        say(f"{name}: failed: {error}")
    else:
        told = ", ".join(f"{_words(figure)} {value:.4f}" for figure, value in runs.figures[seed].items())
        say(f"{name}: {told}")


def _read_figures(name: str, params: "Params") -> dict[str, float]:
    """An experiment's figures, of those in `FIGURES` that its parameters have it measure."""
    from lenet_cifar10 import results, revisions

    is_left_out = {
        "validation_accuracy": params.data.validation_size == 0,  # the file has it of the test images then
        "test_accuracy_with_flips": not params.evaluate.test_time_flips,
    }
    return {
        figure: revisions.read_json(path, name, {key: results.FRACTIONS})[key]
        for figure, (path, key) in FIGURES.items()
        if not is_left_out.get(figure)
    }


def _figures_of(compared: list[Runs]) -> list[str]:
    """The figures that every experiment has."""
    found = [figures for runs in compared for figures in runs.figures.values()]
    return [name for name in FIGURES if found and all(name in figures for figures in found)]


def _summaries(runs: Runs, names: list[str]) -> "dict[str, SampleMean]":
    from lenet_cifar10 import statistics

    return {name: statistics.summarize_sample(runs.values(name)) for name in names if runs.figures}


def _differences(compared: list[Runs], names: list[str]) -> "dict[str, MeanDifference]":
    """By figure; without p-values where a seed failed, for those that ended well need not stand for all."""
    from lenet_cifar10 import statistics

    if len(compared) < 2 or not all(runs.figures for runs in compared):
        return {}
    first, second = compared
    found = {name: statistics.compare_means(first.values(name), second.values(name)) for name in names}
    if _count_failures(compared):
        return {name: replace(difference, p_value=None) for name, difference in found.items()}
    return found


def _count_failures(compared: list[Runs]) -> int:
    return sum(len(runs.failures) for runs in compared)


def _print(compared: list[Runs], wanted: int) -> None:
    names = _figures_of(compared)
    for runs in compared:
        if not runs.figures:
            continue
        counted = f"{len(runs.figures)} of {wanted} seeds"
        title = f"{runs.described()}: {counted} (experiments seeds-{runs.configuration.digest}-SEED)"
        table = terminal.table(title, "seed", *(_words(name) for name in names))
        seeds_in_order = sorted(runs.figures)
        for seed in seeds_in_order:
            figures = [f"{runs.figures[seed][name]:.4f}" for name in names]
            table.add_row(str(seed), *figures, end_section=seed == seeds_in_order[-1])
        for row, cells in _summary_rows(_summaries(runs, names)).items():
            table.add_row(row, *cells)
        terminal.console.print(table)
        if len(runs.figures) == 1:
            terminal.say("one seed shows no deviation: run two or more")
    differences = _differences(compared, names)
    for name, difference in differences.items():
        terminal.say(_describe(name, difference))
    if differences:
        terminal.say(_conclude(differences[JUDGED], _count_failures(compared)))


def _summary_rows(summaries: "Mapping[str, SampleMean]") -> dict[str, list[str]]:
    return {
        "mean": [f"{summary.mean:.4f}" for summary in summaries.values()],
        "standard deviation": [terminal.show_figure(summary.standard_deviation) for summary in summaries.values()],
        "95 % interval of the mean": [
            f"{summary.interval.low:.4f} to {summary.interval.high:.4f}" if summary.interval else "-"
            for summary in summaries.values()
        ],
    }


def _describe(figure: str, found: "MeanDifference") -> str:
    """A difference of means in numbers."""
    told = f"{_words(figure)}: the second mean less the first is {found.difference:+.4f}"
    if found.interval is None:
        return told
    return f"{told} (95 % interval {found.interval.low:+.4f} to {found.interval.high:+.4f})"


def _conclude(found: "MeanDifference", failed: int) -> str:
    """What the difference of the test accuracies shows. Of figures that depend on each other one is judged."""
    from lenet_cifar10.comparison import SIGNIFICANCE

    if failed:
        return f"No verdict: {failed} of the runs failed, and those that ended well need not stand for all."
    if found.p_value is None:
        return "No verdict: too few seeds, or none that vary, to say whether the difference is chance."
    verdict = "differ significantly" if found.p_value < SIGNIFICANCE else "do not differ significantly"
    shown = f"Welch's p = {found.p_value:.3g}"
    return f"Over seeds, on these images, the mean test accuracies {verdict} (5 % level; {shown})."


def _as_json(compared: list[Runs]) -> dict[str, Any]:
    names = _figures_of(compared)
    return {
        "configurations": [
            {
                "overrides": list(runs.configuration.overrides),
                "experiments": {str(seed): runs.name(seed) for seed in sorted(runs.figures)},
                "failures": {runs.name(seed): reason for seed, reason in sorted(runs.failures.items())},
                "figures": {
                    name: asdict(summary) | {"values": {str(seed): runs.figures[seed][name] for seed in runs.figures}}
                    for name, summary in _summaries(runs, names).items()
                },
            }
            for runs in compared
        ],
        "differences": {name: asdict(found) for name, found in _differences(compared, names).items()},
    }


@contextmanager
def _progress(total: int, is_quiet: bool) -> Iterator[Callable[[], None]]:
    if is_quiet:
        yield lambda: None
        return
    with terminal.steps_bar() as bar:
        task = bar.add_task("experiments", total=total)
        yield lambda: bar.advance(task)


def _words(name: str) -> str:
    return name.replace("_", " ")

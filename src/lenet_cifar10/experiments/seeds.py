"""Configurations of the project, each run with several seeds: what their figures are and how sure they are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lenet_cifar10.common.console import say_aside, show_figure
from lenet_cifar10.evaluation.statistics import MeanDifference, SampleMean, compare_means, summarize_sample
from lenet_cifar10.experiments.runs import Configuration, FailedRunError

FIGURES = ("validation_accuracy", "test_accuracy", "test_accuracy_with_flips")  # of an experiment's metrics


@dataclass
class Runs:
    """A configuration's experiments by seed: the figures of those that succeeded, why the others failed."""

    configuration: Configuration
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def name(self, seed: int) -> str:
        """The name of a seed's experiment."""
        return f"seeds-{self.configuration.digest(without=['seed'])}-{seed}"

    def summaries(self) -> dict[str, SampleMean]:
        """Mean, deviation and interval of each figure, over the seeds that succeeded."""
        return {name: summarize_sample(self.values(name), 0, 1) for name in self.measured()}

    def measured(self) -> list[str]:
        """The figures that the experiments have."""
        return [name for name in FIGURES if self.figures and all(name in found for found in self.figures.values())]

    def values(self, figure: str) -> list[float]:
        """One figure, in the order of the seeds."""
        return [self.figures[seed][figure] for seed in sorted(self.figures)]


def run_seeds(
    compared: Sequence[Runs], seeds: Iterable[int], measure: Callable[[Configuration, str], dict[str, Any]]
) -> None:
    """Fill in the figures or the failure of each seed; `measure` gets a configuration and a name, gives metrics."""
    for seed in seeds:
        for runs in compared:
            configuration, name = runs.configuration.having({"seed": seed}), runs.name(seed)
            try:
                metrics = measure(configuration, name)
            except FailedRunError as error:
                runs.failures[seed] = str(error)
                say_aside(f"{name}: failed: {error}")
                continue
            has_validation = configuration.params.data.validation_size > 0  # else it is the test accuracy
            wanted = FIGURES if has_validation else FIGURES[1:]
            runs.figures[seed] = {figure: metrics[figure] for figure in wanted if figure in metrics}
            figures = [f"{key.replace('_', ' ')} {show_figure(value)}" for key, value in runs.figures[seed].items()]
            say_aside(f"{name}: {', '.join(figures)}")


def compare_runs(first: Runs, second: Runs) -> dict[str, MeanDifference]:
    """Welch's test of each figure that both have; without a seed that failed, it would not stand for all seeds."""
    if first.failures or second.failures:
        return {}
    names = [name for name in first.measured() if name in second.measured()]
    return {name: compare_means(first.values(name), second.values(name)) for name in names}

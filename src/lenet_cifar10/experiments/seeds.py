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
    """A configuration's experiments: the values of each figure by seed, and why seeds failed."""

    configuration: Configuration
    figures: dict[str, dict[int, float]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def name(self, seed: int | str) -> str:
        """The name of a seed's experiment."""
        return f"seeds-{self.configuration.having({'seed': 0}).digest()}-{seed}"

    def summaries(self) -> dict[str, SampleMean]:
        """Mean, deviation and interval of each figure, over the seeds that succeeded."""
        return {figure: summarize_sample(list(values.values()), 0, 1) for figure, values in self.figures.items()}


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
            for figure in FIGURES[configuration.params.data.validation_size == 0 :]:  # without, it is of test images
                if figure in metrics:
                    runs.figures.setdefault(figure, {})[seed] = metrics[figure]
            say_aside(f"{name}: test accuracy {show_figure(metrics['test_accuracy'])}")


def compare_runs(first: Runs, second: Runs) -> dict[str, MeanDifference]:
    """Welch's test of each figure that both have; without a seed that failed, it would not stand for all seeds."""
    if first.failures or second.failures:
        return {}
    return {
        figure: compare_means(list(values.values()), list(second.figures[figure].values()))
        for figure, values in first.figures.items()
        if figure in second.figures
    }

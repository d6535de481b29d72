"""A search for good parameters: the ranges of sweep.yaml, and an Optuna study whose trials are DVC experiments.

Optuna chooses by a tree-structured Parzen estimator (J. Bergstra et al., "Algorithms for Hyper-Parameter
Optimization", 2011). Commands in several clones may share one study through its database.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from matplotlib import pyplot
from optuna.exceptions import ExperimentalWarning, StorageInternalError, TrialPruned
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, Trial, TrialState
from optuna.visualization import matplotlib as pictures
from sqlalchemy.exc import SQLAlchemyError

from lenet_cifar10.common.console import say_aside, show_figure
from lenet_cifar10.common.params import flatten
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml
from lenet_cifar10.experiments.runs import Configuration, FailedRunError, short_hash

GRACE_SECONDS = 60  # without a heartbeat, after which a trial counts as dead
# PRUNED: training failed; Optuna avoids its neighbourhood. FAIL: it was interrupted; another trial has its parameters.
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

_MOST_DEATHS = 2  # retries of a trial whose workers die
_MOST_FAILURES = 3  # in a row
_FEWEST_FOR_IMPORTANCE = 20  # completed trials, so that the best quarter is five

# Heartbeats and the pictures have been experimental for years; requirements.lock pins Optuna.
warnings.filterwarnings("ignore", category=ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Space:
    """The configuration that trials start from, and a range or choices for each parameter that is searched."""

    base: Configuration
    ranges: dict[str, dict[str, Any]]
    source: str

    def study_name(self) -> str:
        """Other code, other parameters or other ranges are another study."""
        return f"sweep-{short_hash([self.base.digest(), self.ranges])}"

    def suggest(self, trial: BaseTrial) -> Configuration:
        """A trial's configuration.

        Raises:
            FailedRunError: a value is wrong, or does not go with the others.
        """
        known, values = flatten(self.base.params), {}
        for key, entry in self.ranges.items():
            if "choices" in entry:
                values[key] = trial.suggest_categorical(key, **entry)
            elif isinstance(known.get(key), int):
                values[key] = trial.suggest_int(key, **entry)
            else:
                values[key] = trial.suggest_float(key, **entry)
        try:
            return self.base.having(values, self.source)
        except UserError as error:
            raise FailedRunError(str(error)) from None


def read_space(path: Path, configuration: Configuration) -> Space:
    """Read a file such as sweep.yaml; the settings of `configuration` replace its entries.

    Raises:
        UserError: the file is missing or is not YAML, or an entry is wrong.
    """
    entries = parse_yaml(path.read_bytes(), str(path))
    if not isinstance(entries, dict):
        raise UserError(f"{path}: expected lines such as train.learning_rate: {{low: 0.01, high: 0.1}}")
    entries = {str(key): entry for key, entry in entries.items() if key not in configuration.settings}
    ranges = {key: entry for key, entry in entries.items() if isinstance(entry, dict)}
    if not ranges:
        raise UserError(f"{path}: has no range, so there is nothing to search")
    base = configuration.having({key: entry for key, entry in entries.items() if key not in ranges}, str(path))
    for key, entry in ranges.items():
        if not key.startswith(("augment.", "model.", "train.")):
            raise UserError(f"{path}: {key}: cannot be searched (only augment, model and train can); give it one value")
        try:
            for value in entry.get("choices") or [entry["low"], entry["high"]]:
                Space(base, {key: entry}, str(path)).suggest(FixedTrial({key: value}))
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            forms = "{low: 1, high: 5}, perhaps with log: true or step: 2, or {choices: [1, 5]}"
            raise UserError(f"{path}: {key}: found {entry} ({error}), expected {forms}") from None
    return Space(base, ranges, str(path))


@contextmanager
def open_study(url: str, name: str, grace_seconds: int = GRACE_SECONDS) -> Iterator[optuna.Study]:
    """The study in a database (an SQLAlchemy URL), made where there is none, for the block.

    Raises:
        UserError: the database cannot be used, now or later in the block.
    """
    try:
        storage = RDBStorage(
            url,
            heartbeat_interval=max(1, grace_seconds // 4),
            grace_period=grace_seconds,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=_MOST_DEATHS),
        )
        yield optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except (ImportError, SQLAlchemyError, StorageInternalError) as error:  # ImportError: there is no driver
        cause: BaseException = error
        while cause.__cause__:  # Optuna's error, SQLAlchemy's, the driver's
            cause = cause.__cause__
        reason = " ".join(str(cause).split())
        raise UserError(f"--study: the database cannot be used ({reason}); fix this and try again") from None


def run_trials(
    study: optuna.Study, space: Space, number: int, measure: Callable[[Configuration], tuple[str, float]]
) -> None:
    """Run trials, one after another, until the study has this many that are finished.

    `measure` runs a configuration and gives the experiment's name and score. When it is stopped, or fails for another
    reason than the experiment's, the trial's parameters are enqueued for the next run.

    Raises:
        UserError: several trials in a row have failed; or as `measure`.
    """

    def objective(trial: Trial) -> float:
        # Each trial of a study has its own seed, the one that it has in a study that was never stopped.
        before = [other.state for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        study.sampler = TPESampler(seed=sum(state != TrialState.FAIL for state in before))
        try:
            name, score = measure(space.suggest(trial))
        except FailedRunError as error:
            trial.set_user_attr("failure", str(error))
            raise TrialPruned from error
        except BaseException as error:
            study.enqueue_trial(trial.params)
            if not isinstance(error, Exception):  # Optuna leaves those alone
                study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("experiment", name)
        return score

    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        failure = trial.user_attrs.get("failure")
        say_aside(f"trial {trial.number}: {f'failed: {failure}' if failure else show_figure(trial.value)}")
        finished = study.get_trials(deepcopy=False, states=FINISHED)[-_MOST_FAILURES:]
        if failure and [last.state for last in finished] == [TrialState.PRUNED] * _MOST_FAILURES:
            raise UserError(f"{_MOST_FAILURES} trials in a row failed, the last: {failure}")

    if len(study.get_trials(deepcopy=False, states=FINISHED)) < number:
        study.optimize(objective, callbacks=[report, MaxTrialsCallback(number, FINISHED)])


def rank(study: optuna.Study) -> list[FrozenTrial]:
    """The completed trials, the best first; of equal ones the earlier first."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(completed, key=lambda trial: (-(trial.value or 0), trial.number))


def draw(study: optuna.Study, folder: Path) -> list[Path]:
    """Write the study's history as a picture and, once there are enough trials, which parameters matter."""
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    pictures.plot_optimization_history(study, target_name="validation accuracy")
    drawn = [_save(folder / "history.png")]
    if len(rank(study)) >= _FEWEST_FOR_IMPORTANCE:
        pictures.plot_param_importances(study, PedAnovaImportanceEvaluator(target_quantile=0.25))
        drawn.append(_save(folder / "importance.png"))
    return drawn


def _save(path: Path) -> Path:
    """Write pyplot's current figure, on which Optuna draws."""
    pyplot.savefig(path, bbox_inches="tight", metadata={"Software": None})
    pyplot.close()
    return path

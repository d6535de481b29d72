"""A search for good parameters: where to look, which trial comes next, and what the trials have shown.

Optuna chooses by a tree-structured Parzen estimator (J. Bergstra et al., "Algorithms for Hyper-Parameter
Optimization", 2011) and keeps the study in a database that several workers share. The caller says what a trial does.
"""

import hashlib
import json
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, TypeVar

import matplotlib
import optuna
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from lenet_cifar10 import yaml_text
from lenet_cifar10.errors import UserError
from lenet_cifar10.experiments import FailedError, Stop, StoppedError, check_key, leaf_types
from lenet_cifar10.params import Params

Scalar = bool | int | float | str
Value = TypeVar("Value")

SEARCHED_SECTIONS = ("augment", "model", "train")
MOST_DEATHS = 2  # of a trial's workers, after which it is given up
FEWEST_FOR_IMPORTANCE = 20  # completed trials; of fewer the good ones are too few to tell anything
_GOOD_SHARE = 0.25  # of the trials, in importance
_HEARTBEATS_PER_GRACE = 4
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 60  # for a database that another worker holds, or that is started again
_BRIEF_PATIENCE_SECONDS = 2  # at the start, and where somebody waits for the end
_PAUSE_SECONDS = 0.2
_FEWEST_TRIES = 3  # the first may have failed because of another worker, after a long time
# libpq would wait for a server that has vanished from the network for a quarter of an hour, or for ever.
_LIBPQ = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "keepalives_idle": 10, "keepalives_interval": 10}
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}  # of drivers, by the module that is missing
_COLOUR, _BEST_COLOUR = "#0072B2", "#D55E00"  # of the Okabe-Ito palette

# What Optuna calls experimental here has been so for years, and the lock pins its version. The heartbeats that it
# misses with ask and tell are recorded below.
warnings.filterwarnings(
    "ignore", ".*(heartbeat_interval|heartbeat_stale|constant_liar|fail_stale_trials)", ExperimentalWarning
)
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize", UserWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Range(_Entry):
    """Numbers from low to high, both included."""

    low: int | float = Field(description="a finite number")
    high: int | float = Field(description="a finite number")
    log: bool = Field(default=False, description="true or false")
    step: int | float | None = Field(default=None, description="a finite number")

    @model_validator(mode="after")
    def _is_sound(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, found {self.low}")
        if self.step is None:
            return self
        if self.log:
            raise ValueError("log and step exclude each other")
        if self.step <= 0:
            raise ValueError(f"step is to be above 0, found {self.step}")
        try:
            steps = (self.high - self.low) / self.step
            is_whole = math.isclose(steps, round(steps), rel_tol=1e-9)
        except OverflowError:
            is_whole = False
        if not is_whole:
            raise ValueError(f"high {self.high} is no whole number of steps of {self.step} above low {self.low}")
        return self


class Choices(_Entry):
    """One of these values."""

    choices: tuple[Scalar, ...] = Field(min_length=2, strict=False, description="a list of two or more plain values")

    @model_validator(mode="after")
    def _are_different(self) -> "Choices":
        if len({(type(value), value) for value in self.choices}) < len(self.choices):
            raise ValueError("a choice is there twice")
        return self


@dataclass(frozen=True)
class Space:
    """Where to look: a range or choices for some parameters, a value for every trial for others, by dotted keys."""

    ranges: dict[str, Range | Choices]
    fixed: dict[str, Scalar]

    def digest_of(self, configuration: str) -> str:
        """A digest of the ranges and of the configuration (its digest) that they vary."""
        parts = [configuration, {key: entry.model_dump() for key, entry in self.ranges.items()}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[: len(configuration)]


def read_space(path: Path) -> Space:
    """Read a ranges file such as sweep.yaml.

    Raises:
        UserError: it is missing or no YAML, or one line for each mistake in it.
    """
    try:
        entries = yaml_text.parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name one with --ranges, or run git checkout sweep.yaml") from None
    except yaml_text.NotYamlError as error:
        raise UserError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(entries, dict):
        raise UserError(f"{path}: expected lines such as train.learning_rate: {{low: 0.01, high: 0.1}}")
    ranges: dict[str, Range | Choices] = {}
    fixed: dict[str, Scalar] = {}
    mistakes: list[str] = []
    for key, entry in entries.items():
        try:
            check_key(str(key), str(path))
            if isinstance(entry, Scalar):
                fixed[key] = entry
            else:
                ranges[key] = _parse(key, entry)
        except ValidationError as error:
            told = {_explain(mistake, entry): None for mistake in error.errors(include_url=False)}  # one a field
            mistakes += [f"{path}: {key}: {line}" for line in told]
        except UserError as error:
            mistakes.append(str(error))
        except ValueError as error:
            mistakes.append(f"{path}: {key}: {error}")
    if not mistakes and not ranges:
        mistakes = [f"{path}: has no range, so there is nothing to search"]
    if mistakes:
        raise UserError("\n".join(mistakes))
    return Space(ranges, fixed)


def _parse(key: str, entry: object) -> Range | Choices:
    if not isinstance(entry, dict):
        raise ValueError("expected {low: ..., high: ...}, {choices: [...]} or a plain value")
    if key.split(".")[0] not in SEARCHED_SECTIONS:
        raise ValueError(f"is not searched, only the parameters of {', '.join(SEARCHED_SECTIONS)}; give it one value")
    if "choices" in entry:
        return Choices.model_validate(entry)
    found = Range.model_validate(entry)
    kind = leaf_types()[key]
    if kind not in (int, float):
        raise ValueError("is no number; write {choices: [...]}")
    if kind is int and not all(isinstance(end, int) for end in (found.low, found.high, found.step or 1)):
        raise ValueError("is a whole number; low, high and step are to be whole numbers")
    return found


def _explain(mistake: Any, entry: Any) -> str:
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    name = mistake["loc"][0]
    if mistake["type"] == "extra_forbidden":
        return f"unknown word {name}; a range has low, high, log and step, or choices alone"
    if mistake["type"] == "missing":
        return f"{name} is missing"
    fields = Range.model_fields | Choices.model_fields
    return f"{name}: found {short_repr(entry[name])}, expected {fields[name].description}"


def check_space(space: Space, params: Params, source: str) -> None:
    """Check that both ends of each range, and each choice, are right beside the other parameters.

    Raises:
        UserError: one line for each that is not.
    """
    mistakes = []
    for key, entry in space.ranges.items():
        for value in (entry.low, entry.high) if isinstance(entry, Range) else entry.choices:
            values: dict[str, Any] = params.model_dump()
            section, name = key.split(".")
            values[section][name] = value
            try:
                Params.check(values, f"{source}: {key} as {value}")
            except UserError as error:
                mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))


def suggest(trial: Trial, ranges: Mapping[str, Range | Choices]) -> dict[str, Any]:
    """The trial's value for each parameter that is searched."""
    return {key: _suggest_one(trial, key, entry) for key, entry in ranges.items()}


def _suggest_one(trial: Trial, key: str, entry: Range | Choices) -> Any:
    if isinstance(entry, Choices):
        return trial.suggest_categorical(key, entry.choices)
    if leaf_types()[key] is int:
        return trial.suggest_int(key, int(entry.low), int(entry.high), step=int(entry.step or 1), log=entry.log)
    return trial.suggest_float(key, entry.low, entry.high, step=entry.step, log=entry.log)


def open_storage(url: str, grace_seconds: int) -> RDBStorage:
    """The database of a study, made where there is none.

    A trial whose worker has given no sign for so many seconds counts as dead.

    Raises:
        UserError: the URL is none, or its database does not answer.
    """
    try:
        options = _options(make_url(url))
    except (SQLAlchemyError, ValueError):  # the latter of a port that is no number
        raise UserError("--study: is no URL of a database, such as sqlite:///sweep.sqlite3") from None
    try:
        with answering_database_errors(url):
            return _patiently(
                lambda: RDBStorage(
                    url,
                    engine_kwargs=options,
                    heartbeat_interval=max(1, grace_seconds // _HEARTBEATS_PER_GRACE),
                    grace_period=grace_seconds,
                    heartbeat_stale_trial_callback=_retry_after_death,
                ),
                _BRIEF_PATIENCE_SECONDS,
            )
    except (ImportError, ValueError) as error:  # no driver for it; a setting in the URL
        raise _unusable(url, error) from None
    except RuntimeError as error:
        raise UserError(f"--study: another version of Optuna made it ({error}); name a new database") from None


def _options(url: URL) -> dict[str, Any]:
    """What SQLAlchemy's engine is to be told beside the URL, whose own settings go before."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _PATIENCE_SECONDS}}
    settings = _LIBPQ if url.get_driver_name() in _PACKAGES else {}
    return {
        "pool_pre_ping": True,
        "connect_args": {name: value for name, value in settings.items() if name not in url.query},
    }


@contextmanager
def answering_database_errors(url: str) -> Iterator[None]:
    """A database that cannot be used, or no more, in the block is told in one line, without its password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(url, error) from None


def _unusable(url: str, error: Exception) -> UserError:
    shown = make_url(url).render_as_string(hide_password=True)
    cause: BaseException = error
    while cause.__cause__:  # Optuna's error, SQLAlchemy's, the driver's
        cause = cause.__cause__
    reason = " ".join(str(cause).split())[:200]
    if isinstance(cause, ModuleNotFoundError):
        package = _PACKAGES.get(str(cause.name))
        return UserError(
            f"{shown}: its driver is not installed ({reason}); "
            + (f'pip install "{package}"' if package else "install it, or choose another kind of database")
        )
    return UserError(
        f"{shown}: cannot be used ({reason}); see that the database runs and may be written, then give the same "
        "command again"
    )


def _patiently(call: Callable[[], Value], seconds: float = _PATIENCE_SECONDS) -> Value:
    """What the call gives; again, for so long, where the database is busy with another worker or away."""
    end, tries = time.monotonic() + seconds, 0
    while True:
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError):
            tries += 1
            if time.monotonic() >= end and tries >= _FEWEST_TRIES:
                raise
        time.sleep(_PAUSE_SECONDS)


class Search:
    """A study of so many trials, shared with whoever opens the same one."""

    def __init__(self, storage: RDBStorage, name: str, space: Space, trials: int) -> None:
        self.storage = storage
        self.name = name
        self.space = space
        self.trials = trials
        self.study = _patiently(
            lambda: optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        )

    def counted(self) -> list[FrozenTrial]:
        """The trials of the study in their order, but for those that another one retries or that were too many."""
        found = _patiently(lambda: self.study.get_trials(deepcopy=False))
        retried = {trial.user_attrs.get("retries") for trial in found}
        return [trial for trial in found if trial.number not in retried and "is_surplus" not in trial.user_attrs]

    def finished(self) -> list[FrozenTrial]:
        """The counted trials that have completed or failed."""
        return [trial for trial in self.counted() if trial.state.is_finished()]

    def is_done(self) -> bool:
        """Whether the study has as many finished trials as wanted."""
        return len(self.finished()) >= self.trials

    def claim(self) -> Trial | None:
        """The next trial, which is now this worker's; None where others run all that are left.

        With one worker the trials are the same each time, also after a stop: the sampler's seed is the number of
        trials before this one. Workers that ask at the same moment get different ones.
        """
        self._find_dead()
        if sum(trial.state != TrialState.WAITING for trial in self.counted()) >= self.trials:
            return None
        trial = _patiently(self.study.ask)
        _patiently(lambda: self.storage.record_heartbeat(trial._trial_id))
        before = sum(other.number < trial.number for other in self.counted())
        if before < self.trials:
            self.study.sampler = TPESampler(seed=before, constant_liar=True)  # draws when values are suggested
            return trial
        # Another worker asked at the same moment. What was given back keeps its values and its checkpoint.
        if "retries" in trial.user_attrs:
            self.retry(trial)
        else:
            _patiently(lambda: trial.set_user_attr("is_surplus", True))
            _patiently(lambda: self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True))
        return None

    def retry(self, trial: Trial) -> None:
        """Give a trial that was stopped back, for the next worker to take up; else it would be found dead later."""
        frozen = _patiently(lambda: self.storage.get_trial(trial._trial_id), _BRIEF_PATIENCE_SECONDS)
        if frozen.state == TrialState.RUNNING:  # and not taken for dead by another worker
            _enqueue_again(self.study, frozen, frozen.user_attrs.get("deaths", 0))  # first, or it might be lost
            _patiently(lambda: self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True))

    def _find_dead(self) -> None:
        """Give up, or put into the queue again, each trial whose worker has given no sign of life for too long."""
        seen = _patiently(self._seen)
        for trial in _patiently(lambda: self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
            if trial._trial_id not in seen:  # Optuna would wait for ever for a worker that died before its first sign
                _patiently(lambda found=trial: self.storage.record_heartbeat(found._trial_id))
        _patiently(lambda: fail_stale_trials(self.study))

    def _seen(self) -> set[int]:
        """The trials, by their numbers in the database, whose workers have given a sign of life."""
        with self.storage.engine.connect() as connection:
            return {row[0] for row in connection.execute(text("SELECT trial_id FROM trial_heartbeats"))}


def _retry_after_death(study: optuna.Study, trial: FrozenTrial) -> None:
    retried = {other.user_attrs.get("retries") for other in study.get_trials(deepcopy=False)}
    deaths = _deaths(trial)
    if deaths <= MOST_DEATHS and trial.number not in retried:  # its worker may have died as it gave it back
        _enqueue_again(study, trial, deaths)


def _deaths(trial: FrozenTrial) -> int:
    """How many workers died of a trial that failed without a reason."""
    return trial.user_attrs.get("deaths", 0) + 1


def _enqueue_again(study: optuna.Study, trial: FrozenTrial, deaths: int) -> None:
    again = optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs | {"retries": trial.number, "deaths": deaths},
    )
    _patiently(lambda: study.add_trial(again))


@contextmanager
def _giving_signs_of_life(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Record a heartbeat all through the block: with ask and tell Optuna does not."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(storage.get_heartbeat_interval()):
            with suppress(StorageInternalError, SQLAlchemyError):  # the next one may get through
                storage.record_heartbeat(trial_id)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def work(
    search: Search, evaluate: Callable[[dict[str, Any], Trial], float], stop: Stop, report: Callable[[int], None]
) -> None:
    """Run trials until the study has as many as wanted, waiting for those of others too.

    `evaluate` gets a trial's values and gives its score; a FailedError of its fails the trial. `report` gets the
    number of each trial that ends.

    Raises:
        StoppedError: a signal came; the trial that ran waits in the study to be taken up.
        UserError: from `evaluate`; likewise.
    """
    while not _is_over(search, stop):
        trial = search.claim()
        if trial is None:
            stop.wait(_LOOK_SECONDS)
            continue
        try:
            with _giving_signs_of_life(search.storage, trial._trial_id):
                values = _patiently(lambda found=trial: suggest(found, search.space.ranges))
                score = evaluate(values, trial)
            _patiently(lambda done=trial, value=score: search.study.tell(done, value, skip_if_finished=True))
        except FailedError as error:
            _patiently(lambda failed=trial, reason=str(error): failed.set_user_attr("failure", reason))
            _patiently(lambda done=trial: search.study.tell(done, state=TrialState.FAIL, skip_if_finished=True))
        except (StoppedError, UserError):
            search.retry(trial)
            raise
        report(trial.number)


def _is_over(search: Search, stop: Stop) -> bool:
    """Whether the study is done. A trial whose worker died is failed for a moment before it is in the queue again."""
    finished = search.finished()
    died = [trial for trial in finished if trial.state == TrialState.FAIL and "failure" not in trial.user_attrs]
    if died and len(finished) >= search.trials:
        stop.wait(_LOOK_SECONDS)
    return search.is_done()


def failure_of(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    deaths = _deaths(trial)
    return trial.user_attrs.get("failure", "its worker died" if deaths == 1 else f"{deaths} of its workers died")


def rank(trials: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """The best completed trials, best first; of equal ones the earlier."""
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(completed, key=lambda trial: (-_score(trial), trial.number))[:count]


def importance(study: optuna.Study, completed: int) -> dict[str, float] | None:
    """The share of each parameter in what tells the best quarter of the trials, adding up to 1, largest first.

    By PED-ANOVA (S. Watanabe et al., 2023). None where there are too few completed trials to say anything.
    """
    if completed < FEWEST_FOR_IMPORTANCE:
        return None
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_GOOD_SHARE))


def draw_history(trials: Sequence[FrozenTrial], measure: str) -> Figure:
    """The score of each completed trial in their order, and the best so far."""
    figure, axes = _empty_figure(7, 4)
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    numbers, scores = [trial.number for trial in completed], [_score(trial) for trial in completed]
    best = [max(scores[: position + 1]) for position in range(len(scores))]
    axes.step(numbers, best, where="post", color=_BEST_COLOUR, label="best so far")
    axes.plot(numbers, scores, "o", color=_COLOUR, markersize=5, label="trial")
    axes.set(xlabel="Trial", ylabel=measure.capitalize(), title=f"{len(completed)} trials")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_importance(shares: Mapping[str, float]) -> Figure:
    """Bars of the parameters' importance, the largest at the top."""
    figure, axes = _empty_figure(7, 1.2 + 0.35 * len(shares))
    bars = axes.barh(list(shares), list(shares.values()), color=_COLOUR)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="Importance (PED-ANOVA)", xlim=(0, 1.1), title="What tells the best quarter of the trials")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        FigureCanvasAgg(figure)
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def _empty_figure(width: float, height: float) -> tuple[Figure, Any]:
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _score(trial: FrozenTrial) -> float:
    assert trial.value is not None  # of completed trials only
    return trial.value

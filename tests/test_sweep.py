"""The search: its ranges, its trials, and the command, killed and started twice."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GeneratedArchive
from optuna.trial import FrozenTrial, Trial, TrialState
from project import Project, environment
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from lenet_cifar10 import search
from lenet_cifar10.errors import UserError
from lenet_cifar10.experiments import FailedError, Stop, StoppedError
from lenet_cifar10.params import Params
from lenet_cifar10.search import Search, Space

# search.py silences these two for its users; pytest takes no notice of that.
pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used with:UserWarning"),
]

ROOT = Path(__file__).parent.parent
RANGES = {
    "train.learning_rate": search.Range(low=0.01, high=0.1, log=True),
    "augment.translation_pixels": search.Range(low=0, high=4),
    "train.schedule": search.Choices(choices=("linear", "cosine")),
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ranges.yaml"
    path.write_text(text)
    return path


def test_the_ranges_of_the_project_are_right() -> None:
    space = search.read_space(ROOT / "sweep.yaml")
    search.check_space(space, Params.load(ROOT / "params.yaml"), "sweep.yaml")
    assert "train.learning_rate" in space.ranges
    assert list(space.fixed) == ["train.epochs"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected lines such as train.learning_rate: {low: 0.01, high: 0.1}"),
        ("- 1", "expected lines such as"),
        ("a: [", "is not valid YAML"),
        ("train.epochs: 3", "has no range, so there is nothing to search"),
        ("train.epoch: {low: 1, high: 3}", "train.epoch is no parameter; did you mean train.epochs?"),
        ("train: {epochs: {low: 1, high: 3}}", "train is a section; write a key in full, such as train.launcher"),
        ("train.epochs: {low: 3, high: 3}", "train.epochs: low 3 is not below high 3"),
        ("train.epochs: {low: 1}", "train.epochs: high is missing"),
        ("train.epochs: {low: 1, high: 3, max: 4}", "unknown word max; a range has low, high, log and step"),
        ("train.epochs: {low: a, high: 3}", "train.epochs: low: found 'a'"),
        ("train.epochs: {low: 1, high: 2.5}", "is a whole number; low, high and step are to be whole numbers"),
        ("train.epochs: {low: 1, high: .inf}", "train.epochs: high: found inf"),
        ("model.dropout: {low: 0, high: 0.5, log: true}", "log needs a low above 0, found 0"),
        ("model.dropout: {low: 0, high: 0.5, step: 0}", "step is to be above 0"),
        ("model.dropout: {low: 0, high: 0.5, step: 0.2}", "high 0.5 is no whole number of steps of 0.2 above low 0"),
        ("model.dropout: {low: 0, high: 0.5, step: 1.0e-320}", "high 0.5 is no whole number of steps of 1e-320 above"),
        ("model.dropout: {low: 0.1, high: 0.5, step: 0.1, log: true}", "log and step exclude each other"),
        ("model.dropout: {choices: [0.1]}", "model.dropout: choices: found [0.1]"),
        ("model.dropout: {choices: [0.1, 0.1]}", "a choice is there twice"),
        ("model.dropout: [0.1, 0.2]", "expected {low: ..., high: ...}, {choices: [...]} or a plain value"),
        ("train.schedule: {low: 1, high: 2}", "is no number; write {choices: [...]}"),
        ("seed: {low: 0, high: 9}", "seed: is not searched, only the parameters of augment, model, train"),
        ("data.validation_size: {low: 0, high: 9}", "data.validation_size: is not searched"),
    ],
)
def test_a_mistake_in_the_ranges_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        search.read_space(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_several_mistakes_are_several_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        search.read_space(write(tmp_path, "train.epochs: {low: 3}\nmodel.dropout: {low: 1, high: 0}\nx: 1\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_ranges_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; name one with --ranges"):
        search.read_space(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model.dropout: {low: 0, high: 1}", "model.dropout as 1: model.dropout: found 1, expected a number from 0,"),
        ("train.epochs: {low: 0, high: 3}", "train.epochs as 0: train.epochs: found 0, expected a whole number"),
        ("train.schedule: {choices: [linear, steep]}", 'train.schedule as steep: train.schedule: found "steep"'),
        ("train.optimizer: {choices: [sgd, adam]}", "has no effect with train.optimizer adam"),
    ],
)
def test_ends_and_choices_are_to_be_valid_parameters(tmp_path: Path, text: str, words: str) -> None:
    space = search.read_space(write(tmp_path, text))
    with pytest.raises(UserError, match=re.escape(words)):
        search.check_space(space, Params.load(ROOT / "params.yaml"), "ranges.yaml")


def test_other_ranges_or_another_configuration_are_another_study() -> None:
    space = Space(RANGES, {})
    other = Space(RANGES | {"model.dropout": search.Range(low=0, high=0.5)}, {})
    found = {space.digest_of("0" * 8), space.digest_of("1" * 8), other.digest_of("0" * 8)}
    assert len(found) == 3
    assert Space(dict(RANGES), {}).digest_of("0" * 8) in found


@pytest.fixture
def new_search(tmp_path: Path) -> Callable[..., Search]:
    """Opens a study of so many trials; each call is as another process would."""

    def create(trials: int = 4, grace: int = 60, name: str = "study") -> Search:
        storage = search.open_storage(f"sqlite:///{tmp_path / 'study.sqlite3'}", grace)
        return Search(storage, name, Space(RANGES, {}), trials)

    return create


def score(values: dict[str, Any], trial: Trial) -> float:
    return values["train.learning_rate"]


def finish(found: Search, evaluate: Callable[[dict[str, Any], Trial], float] = score, stop: Stop | None = None) -> None:
    search.work(found, evaluate, stop or Stop(), lambda number: None)


def outcomes(found: Search) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in found.finished()]


def test_trials_stay_within_their_ranges_and_are_counted_over_all_calls(new_search: Callable[..., Search]) -> None:
    finish(new_search(3))
    finish(new_search(12))
    found = new_search(12)
    assert [trial.number for trial in found.finished()] == list(range(12))
    for values, value in outcomes(found):
        assert value == values["train.learning_rate"]
        assert 0.01 <= values["train.learning_rate"] <= 0.1
        assert values["augment.translation_pixels"] in range(5)
        assert values["train.schedule"] in ("linear", "cosine")
    assert len({str(values) for values, _ in outcomes(found)}) > 6
    before = outcomes(found)
    finish(new_search(5))  # fewer than there are
    assert outcomes(found) == before


def test_one_worker_finds_the_same_trials_again_also_after_a_stop(new_search: Callable[..., Search]) -> None:
    finish(new_search(14, name="first"))
    expected = outcomes(new_search(14, name="first"))
    stop, calls = Stop(), []

    def until_stopped(values: dict[str, Any], trial: Trial) -> float:
        calls.append(values)
        if len(calls) == 7:
            stop.request(signal.SIGTERM)
            stop.wait(0)
        return score(values, trial)

    with pytest.raises(StoppedError):
        finish(new_search(14, name="second"), until_stopped, stop)
    assert stop.status == 128 + signal.SIGTERM
    assert len(new_search(name="second").finished()) == 6
    finish(new_search(14, name="second"))
    assert outcomes(new_search(14, name="second")) == expected


def test_a_failed_trial_counts_with_its_reason_and_is_not_repeated(new_search: Callable[..., Search]) -> None:
    def evaluate(values: dict[str, Any], trial: Trial) -> float:
        if trial.number == 1:
            raise FailedError("diverged")
        return score(values, trial)

    finish(new_search(4), evaluate)
    trials = new_search(4).finished()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.FAIL, *[TrialState.COMPLETE] * 2]
    assert search.failure_of(trials[1]) == "diverged"
    assert 1 not in [trial.number for trial in search.rank(trials, 5)]


def test_a_mistake_ends_the_worker_and_gives_the_trial_back(new_search: Callable[..., Search]) -> None:
    def evaluate(values: dict[str, Any], trial: Trial) -> float:
        raise UserError("the project changed")

    with pytest.raises(UserError, match="the project changed"):
        finish(new_search(2), evaluate)
    assert new_search(2).finished() == []
    finish(new_search(2))
    assert len(new_search(2).finished()) == 2


def test_a_worker_that_dies_as_it_gives_a_trial_back_neither_loses_nor_doubles_it(
    new_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = new_search(1)
    trial = found.claim()
    assert trial is not None
    values = search.suggest(trial, RANGES)

    def die(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(found.study, "tell", die)
    with pytest.raises(KeyboardInterrupt):
        found.retry(trial)
    given_back, again = found.study.trials
    assert (given_back.state, again.state, again.params) == (TrialState.RUNNING, TrialState.WAITING, values)
    search._retry_after_death(found.study, given_back)  # as Optuna does once it is found dead
    assert [trial.number for trial in new_search(1).counted()] == [1]


def test_a_trial_that_was_given_back_is_not_dropped_as_one_too_many(
    new_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, other = new_search(2), new_search(2)
    trials = [worker.claim() for worker in (found, other)]
    drawn = [search.suggest(trial, RANGES) for trial in trials if trial]
    for trial in trials:
        assert trial is not None
        found.retry(trial)
    found, other = new_search(1), new_search(1)
    ask = found.study.ask

    def ask_after_another() -> Trial:
        assert other.claim() is not None
        return ask()

    monkeypatch.setattr(found.study, "ask", ask_after_another)
    assert found.claim() is None
    states = [(trial.state, trial.params) for trial in found.counted()]
    assert states == [(TrialState.RUNNING, drawn[0]), (TrialState.WAITING, drawn[1])]


def test_a_study_is_not_over_while_a_dead_worker_s_trial_is_on_its_way_back(new_search: Callable[..., Search]) -> None:
    found = new_search(1)
    trial = found.claim()
    assert trial is not None
    values = search.suggest(trial, RANGES)
    found.study.tell(trial, state=TrialState.FAIL)  # what Optuna does first

    class Meanwhile(Stop):
        def wait(self, seconds: float) -> None:
            search._retry_after_death(found.study, found.study.trials[0])  # and what it does then

    finish(found, stop=Meanwhile())
    assert outcomes(found) == [(values, values["train.learning_rate"])]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"failure": "diverged", "deaths": 1}, "diverged"),
        ({}, "its worker died"),
        ({"deaths": 2}, "3 of its workers died"),
    ],
)
def test_a_failed_trial_says_why(attributes: dict[str, Any], words: str) -> None:
    trial = completed(0, None)
    trial.set_user_attr("experiment", "sweep-1")
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    assert search.failure_of(trial) == words


def test_several_workers_share_the_trials_without_one_too_many(new_search: Callable[..., Search]) -> None:
    ran: list[int] = []
    suggested: list[str] = []
    barrier = threading.Barrier(5)

    def evaluate(values: dict[str, Any], trial: Trial) -> float:
        ran.append(trial.number)
        suggested.append(str(values))
        return score(values, trial)

    def work() -> None:
        found = new_search(12)
        barrier.wait()
        finish(found, evaluate)

    workers = [threading.Thread(target=work) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(ran) == len(set(ran)) == 12
    assert sorted(ran) == [trial.number for trial in new_search(12).finished()]
    assert len(set(suggested)) == 12


def test_a_dead_worker_s_trial_is_taken_up_again_twice_and_then_given_up(new_search: Callable[..., Search]) -> None:
    lost = []
    for _ in range(search.MOST_DEATHS + 1):
        found = new_search(1, grace=2)
        while (trial := found.claim()) is None:
            time.sleep(0.2)
        lost.append(search.suggest(trial, RANGES))  # and this worker is no more
    assert lost == lost[:1] * 3
    found = new_search(1, grace=2)
    finish(found)  # waits for what may still live
    (trial,) = found.finished()
    assert (trial.state, trial.params) == (TrialState.FAIL, lost[0])
    assert search.failure_of(trial) == "3 of its workers died"


def test_a_worker_that_dies_before_its_first_sign_of_life_is_found_too(new_search: Callable[..., Search]) -> None:
    new_search(1).study.ask()
    found = new_search(1, grace=2)
    finish(found)
    assert [trial.state for trial in found.finished()] == [TrialState.COMPLETE]


def test_a_long_trial_is_not_taken_for_dead(new_search: Callable[..., Search]) -> None:
    runs = []

    def slow(values: dict[str, Any], trial: Trial) -> float:
        runs.append(trial.number)
        time.sleep(6)
        return score(values, trial)

    workers = [threading.Thread(target=finish, args=(new_search(1, grace=2), slow)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert runs == [0]


def test_a_database_of_another_optuna_is_told(new_search: Callable[..., Search], tmp_path: Path) -> None:
    finish(new_search(1))
    with sqlite3.connect(tmp_path / "study.sqlite3") as connection:
        connection.execute("UPDATE version_info SET schema_version = 1")
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    with pytest.raises(UserError, match="another version of Optuna made it"):
        new_search(1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nowhere", "--study: is no URL of a database"),
        ("postgresql://me:secret@localhost:abc/studies", "--study: is no URL of a database"),
        ("sqlite:////any.sqlite3?timeout=long", "sqlite:////any.sqlite3?timeout=long: cannot be used"),
        ("sqlite:////nowhere/at/all.sqlite3", "sqlite:////nowhere/at/all.sqlite3: cannot be used"),
        ("postgresql+psycopg://me:secret@localhost:1/studies", "postgresql+psycopg://me:***@localhost:1/studies: "),
        ("unheard-of://me:secret@localhost/studies", "--study: is no URL of a database"),
    ],
)
def test_a_database_that_does_not_answer_is_told_without_its_password(url: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        search.open_storage(url, 60)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "module", "advice"),
    [
        ("postgresql+psycopg://me:secret@host/studies", "psycopg", 'pip install "psycopg[binary]"'),
        ("postgresql+psycopg2://me:secret@host/studies", "psycopg2", 'pip install "psycopg2-binary"'),
        ("mysql+pymysql://me:secret@host/studies", "pymysql", "install it, or choose another kind of database"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, advice: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not, wherever it is
    with pytest.raises(UserError, match=re.escape(f"; {advice}")) as caught:
        search.open_storage(url, 60)
    assert str(caught.value).startswith(f"{url.replace('secret', '***')}: its driver is not installed (")
    assert module in str(caught.value)


def test_a_server_that_vanishes_is_not_waited_for_unless_the_url_says_so() -> None:
    def settings(url: str) -> dict[str, Any]:
        return search._options(make_url(url))["connect_args"]

    unlimited = settings("postgresql://me@host/studies")
    assert {"connect_timeout", "tcp_user_timeout", "keepalives_idle"} < set(unlimited)
    limited = settings("postgresql+psycopg2://me@host/studies?connect_timeout=60&tcp_user_timeout=0")
    assert set(unlimited) - set(limited) == {"connect_timeout", "tcp_user_timeout"}
    assert settings("mysql+pymysql://me@host/studies") == {}


def test_a_database_that_is_away_for_a_moment_stops_nobody(
    new_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = new_search(3, grace=2)
    connect, calls = found.storage.engine.connect, []

    def connect_now_and_then() -> Any:
        calls.append(None)
        if len(calls) % 40 > 36:
            raise OperationalError("SELECT", None, Exception("the server is away"))
        return connect()

    monkeypatch.setattr(found.storage.engine, "connect", connect_now_and_then)
    finish(found)
    assert len(calls) > 40
    assert len(found.finished()) == 3


def completed(number: int, value: float | None) -> FrozenTrial:
    state = TrialState.FAIL if value is None else TrialState.COMPLETE
    return FrozenTrial(
        number, state, value, datetime_start=None, datetime_complete=None, params={}, distributions={},
        user_attrs={}, system_attrs={}, intermediate_values={}, trial_id=number,
    )  # fmt: skip


def test_the_best_come_first_and_of_equal_ones_the_earlier() -> None:
    trials = [completed(number, value) for number, value in enumerate([0.5, None, 0.7, 0.7, 0.6])]
    assert [trial.number for trial in search.rank(trials, 3)] == [2, 3, 4]


def test_importance_names_the_parameter_that_matters_once_there_are_enough(new_search: Callable[..., Search]) -> None:
    assert search.importance(new_search().study, search.FEWEST_FOR_IMPORTANCE - 1) is None
    finish(new_search(20))
    shares = search.importance(new_search().study, 20)
    assert shares is not None
    assert next(iter(shares)) == "train.learning_rate"
    assert sum(shares.values()) == pytest.approx(1)


def test_pictures_show_each_trial_and_each_parameter(tmp_path: Path) -> None:
    trials = [completed(number, value) for number, value in enumerate([0.5, None, 0.7, 0.6])]
    (axes,) = search.draw_history(trials, "accuracy").axes
    best, points = axes.get_lines()
    assert np.column_stack(points.get_data()).tolist() == [[0, 0.5], [2, 0.7], [3, 0.6]]
    assert np.asarray(best.get_ydata()).tolist() == [0.5, 0.7, 0.7]
    figure = search.draw_importance({"train.learning_rate": 0.8, "model.dropout": 0.2})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["train.learning_rate", "model.dropout"]
    for path in (tmp_path / "a/one.png", tmp_path / "a/two.png"):
        search.save(figure, path)
    assert (tmp_path / "a/one.png").read_bytes() == (tmp_path / "a/two.png").read_bytes()


def start(project: Project, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["lenet-cifar10", "sweep", *words],
        cwd=project.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_epoch(project: Project, pattern: str, epoch: int) -> Path:
    """Wait until a log of such a name has so many epochs of training -> the log."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        for path in (project.folder / ".resume/experiments").glob(pattern):
            if f"\nepoch {epoch}/" in path.read_text():
                return path
        time.sleep(0.05)
    raise AssertionError(f"no log {pattern} with epoch {epoch}")


def trainings(project: Project, pattern: str) -> int:
    """How many experiments' logs tell of a training, instead of DVC's run-cache."""
    logs = (project.folder / ".resume/experiments").glob(pattern)
    return sum("Running stage 'train'" in path.read_text() for path in logs)


def choose(project: Project, text: str) -> None:
    (project.folder / "sweep.yaml").write_text(text)
    project.commit("what to search")


def test_a_sweep_with_a_trial_that_fails_ends_with_the_best_applied(pipeline: Project) -> None:
    # Beside the others a rate of 100 diverges at once. Three trials of this study have both.
    choose(pipeline, "train.learning_rate: {choices: [0.05, 100]}\ntrain.weight_decay: 10\ntrain.epochs: 1\n")
    told = pipeline.run("lenet-cifar10", "sweep", "--trials", "4").text
    failed = re.findall(r"trial \d: failed: epoch 1: the loss is .*\(the output is in (.*)\)\n", told)
    scored = re.findall(r"trial \d: validation accuracy ([\d.]+), best", told)
    assert failed
    assert scored
    assert len(failed) + len(scored) == 4
    assert all("diverged" in pipeline.read(name).decode() for name in failed)
    assert f"{len(failed)} of 4 trials failed" in told
    assert "importance: too few trials" in told
    assert trainings(pipeline, "sweep-*.log") == 2  # one for each choice, however often it was suggested
    assert "Traceback" not in told
    (best,) = re.findall(r"apply the best: (dvc exp apply (sweep-\w+-\w+))\n", told)
    names = pipeline.dvc("exp", "list", "--name-only").split()
    assert names == [best[1]]
    (picture,) = re.findall(r"pictures: (\S+history\.png)", told)
    assert Path(picture).stat().st_size > 5000
    assert pipeline.git("status", "--porcelain") == ""
    again = json.loads(pipeline.run("lenet-cifar10", "sweep", "--trials", "4", "--json").text.split("\n", 1)[1])
    assert [trial["validation_accuracy"] is None for trial in again["trials"]].count(True) == len(failed)
    assert again["best"] == best[1]
    pipeline.run(*best[0].split())
    assert "learning_rate: 0.05" in pipeline.read("params.yaml").decode()
    accuracy = json.loads(pipeline.read("metrics/train.json"))["validation_accuracy"]
    assert f"{accuracy:.4f}" == max(scored)
    pipeline.git("reset", "--quiet", "--hard")
    pipeline.dvc("exp", "remove", best[1])
    told = pipeline.run("lenet-cifar10", "sweep", "--trials", "4").text
    assert f"\n{best[1]} is not here: it was removed, or run in another clone" in told


def test_a_killed_sweep_is_taken_up_and_the_training_goes_on(pipeline: Project) -> None:
    choose(pipeline, "train.learning_rate: {low: 0.05, high: 0.06}\ntrain.epochs: 60\n")
    killed = start(pipeline, "--trials", "1", "--grace", "2")
    log = wait_for_epoch(pipeline, "sweep-*.log", 5)
    killed.kill()
    killed.communicate()
    text = pipeline.run("lenet-cifar10", "sweep", "--trials", "1", "--grace", "2").text
    assert "0 of 1 trials are finished" in text
    assert "\ntrial 1: validation accuracy" in text  # trial 0 was given up, and this one has its parameters
    assert "\nresuming at epoch " in log.read_text()
    assert len(list((pipeline.folder / ".resume/experiments").glob("sweep-*.log"))) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_sweep_says_how_to_go_on(pipeline: Project, number: signal.Signals) -> None:
    choose(pipeline, "train.learning_rate: {low: 0.05, high: 0.06}\ntrain.epochs: 2000\n")
    stopped = start(pipeline, "--trials", "2", "--workers", "2")
    wait_for_epoch(pipeline, "sweep-*.log", 2)
    stopped.send_signal(number)
    told, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + number
    assert told.endswith("stopped; finished so far: 0 of 2; give the same command again to go on\n")
    assert "Traceback" not in told
    assert list((pipeline.folder / ".dvc/tmp/exps/standalone").glob("tmp*")) == []


def test_two_commands_at_once_run_every_trial_once(pipeline: Project) -> None:
    choose(pipeline, "train.learning_rate: {low: 0.05, high: 0.06}\ntrain.epochs: 1\n")
    pipeline.change_params({"augment.scale": 0.25})  # the starts of experiments put it aside and back
    before = pipeline.read("params.yaml")
    commands = [start(pipeline, "--trials", "3", "--workers", workers) for workers in ("1", "2")]
    texts = [command.communicate(timeout=240)[0] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], texts
    ran = [re.findall(r"\ntrial (\d): validation accuracy", text) for text in texts]
    assert sorted(ran[0] + ran[1]) == ["0", "1", "2"]
    assert trainings(pipeline, "sweep-*.log") == 3
    assert len(pipeline.dvc("exp", "list", "--name-only").split()) == 3
    tables = [text[text.index("Best trials") :] for text in texts]
    assert tables[0] == tables[1]
    assert pipeline.read("params.yaml") == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-S", "data.validation_size=0"], "data.validation_size: found 0, expected images held out to score trials"),
        (["-S", "train.epochs=3"], "has train.epochs too; leave one out"),
        (["-S", "train.learning_rate=3"], "has train.learning_rate too; leave one out"),
        (["-S", "train.epoch=3"], "train.epoch is no parameter; did you mean train.epochs?"),
        (["--ranges", "none.yaml"], "error: none.yaml: no such file"),
        (["--study", "nowhere"], "--study: is no URL of a database"),
    ],
)
def test_a_sweep_that_cannot_be_says_why(bare_project: Project, words: list[str], told: str) -> None:
    result = bare_project.run("lenet-cifar10", "sweep", "--trials", "2", *words, check=False)
    assert result.status == 1
    assert result.text.startswith("error: ")
    assert told in result.text
    assert len(result.text.splitlines()) == 1
    assert bare_project.git("status", "--porcelain") == ""


def test_a_sweep_without_data_says_so_and_goes_on_once_they_are_there(
    bare_project: Project, generated: GeneratedArchive
) -> None:
    choose(bare_project, "train.learning_rate: {low: 0.05, high: 0.06}\ntrain.epochs: 1\n")
    small = {"data.validation_size": 100, "train.batch_size": 50, "train.threads": 1, "figures.dpi": 50}
    bare_project.change_params(small | {"data.sha256": generated.sha256, "data.urls": ["nowhere.tar.gz"]})
    bare_project.commit("no data")
    command = ("lenet-cifar10", "sweep", "--trials", "1")
    result = bare_project.run(*command, check=False)
    assert result.status == 1
    start, running, stopped, mistake = result.text.splitlines()
    assert re.search(r"sweep-\S+: runs, with its output in \.resume/experiments/sweep-\S+\.log$", running)
    assert start.endswith(": 0 of 1 trials are finished")
    assert stopped == (
        "stopped by a mistake; finished so far: 0 of 1; mend it and give the same command again to go on"
    )
    assert re.match(r"error: sweep-\S+: .*nowhere\.tar\.gz", mistake)
    told = bare_project.run(*command, "-S", f"data.urls=[{generated.path}]").text
    assert told.startswith(f"{start}\n")
    assert "\ntrial 1: validation accuracy" in told  # trial 0 was given back, and this one has its parameters


def test_a_sweep_in_which_nothing_completes_ends_with_1(pipeline: Project, tmp_path: Path) -> None:
    choose(pipeline, "train.learning_rate: {low: 99, high: 100}\n")
    command = ["lenet-cifar10", "sweep", "--trials", "1", "--study", f"sqlite:///{tmp_path / 'other.sqlite3'}"]
    for finished in (0, 1):
        result = pipeline.run(*command, "-S", "train.weight_decay=10", check=False)
        assert result.status == 1
        assert f"{finished} of 1 trials are finished" in result.text
        failure, advice = result.text.splitlines()[-2:]
        assert re.match(r"error: trial 0: epoch 1: the loss is .* \(the output is in \S+\)$", failure)
        assert re.match(r"error: study \S+: no trial completed; choose other ranges, or more --trials", advice)
        assert "Traceback" not in result.text

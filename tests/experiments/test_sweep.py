"""The search: its ranges, a study that is stopped, killed and continued, and the command."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from optuna.trial import TrialState
from project import SOURCE, read_committed, run
from typer.testing import CliRunner

from lenet_cifar10.commands.sweep import sweep
from lenet_cifar10.common.params import Params
from lenet_cifar10.common.stage import Stopped, UserError
from lenet_cifar10.experiments.runs import Configuration, FailedRunError, list_experiments
from lenet_cifar10.experiments.sweep import Space, draw, open_study, rank, read_space, run_trials

# experiments/sweep.py silences it for users; pytest has filters of its own.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

_APP = typer.Typer()
_APP.command()(sweep)

RANGES = """
train.learning_rate: {low: 0.01, high: 0.1, log: true}
augment.translation_pixels: {low: 0, high: 4}
train.schedule: {choices: [linear, cosine]}
train.epochs: 5
"""


@pytest.fixture
def base(params: Params) -> Configuration:
    return Configuration("code", {}, params)


@pytest.fixture
def read(tmp_path: Path, base: Configuration) -> Callable[..., Space]:
    def read(text: str, **settings: Any) -> Space:
        path = tmp_path / "ranges.yaml"
        path.write_text(text)
        return read_space(path, base.having(settings))

    return read


def test_the_ranges_of_the_project_are_right(base: Configuration) -> None:
    space = read_space(SOURCE / "sweep.yaml", base)
    assert "train.learning_rate" in space.ranges
    assert space.base.settings == {"train.epochs": 8}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected lines such as train.learning_rate: {low: 0.01, high: 0.1}"),
        ("a: [", "is not valid YAML"),
        ("train.epochs: 3", "has no range, so there is nothing to search"),
        ("train.epoch: 3\ntrain.threads: {low: 1, high: 2}", "train.epoch: unknown key; did you mean epochs?"),
        ("train.epochs: {low: 3, high: 2}", "train.epochs: found {'low': 3, 'high': 2} (`low <= high` must hold"),
        ("train.epochs: {low: 1}", "train.epochs: found {'low': 1} ('high'), expected {low: 1, high: 5}"),
        ("train.epochs: {low: 1, high: 3, max: 4}", "got an unexpected keyword argument 'max'"),
        ("train.epochs: {low: a, high: 3}", "train.epochs: found {'low': 'a', 'high': 3} ("),
        ("train.epochs: {low: 0, high: 3}", "train.epochs: found 0; input should be greater than or equal to 1"),
        ("train.epochs: {low: 1, high: 3, step: 0.5}", "train.epochs: found {'low': 1, 'high': 3, 'step': 0.5} ("),
        ("model.dropout: {low: 0, high: 0.5, log: true}", "(`low > 0` must hold for `log=True`"),
        ("train.schedule: {choices: [linear, steep]}", "train.schedule: found 'steep'"),
        ("train.schedule: {low: 1, high: 2}", "train.schedule: found 1"),
        ("seed: {low: 0, high: 9}", "seed: cannot be searched (only augment, model and train can)"),
    ],
)
def test_a_mistake_in_the_ranges_is_told_in_one_line(read: Callable[..., Space], text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 1
    assert "ranges.yaml: " in str(caught.value)


def test_a_setting_of_the_command_line_replaces_an_entry_of_the_file(read: Callable[..., Space]) -> None:
    space = read(RANGES, **{"train.epochs": 7, "train.learning_rate": 0.05})
    assert space.base.settings == {"train.epochs": 7, "train.learning_rate": 0.05}
    assert list(space.ranges) == ["augment.translation_pixels", "train.schedule"]
    assert len({space.study_name(), read(RANGES).study_name(), read(RANGES.replace("4", "3")).study_name()}) == 3


def measure(configuration: Configuration) -> tuple[str, float]:
    """A score that is best at a learning rate of 0.03."""
    return f"sweep-{configuration.digest()}", 1 - abs(configuration.params.train.learning_rate - 0.03)


def test_a_stopped_study_has_the_trials_of_one_that_was_not_stopped(read: Callable[..., Space], tmp_path: Path) -> None:
    space = read(RANGES)
    with open_study(f"sqlite:///{tmp_path / 'through.db'}", "through") as study:
        run_trials(study, space, 20, measure)
        expected = [trial.params for trial in study.trials][:12]
        assert rank(study)[0].value == study.best_value
        assert [path.name for path in draw(study, tmp_path)] == ["history.png", "importance.png"]
    calls = 0

    def stopped(configuration: Configuration) -> tuple[str, float]:
        nonlocal calls
        calls += 1
        if calls in (3, 11):
            raise Stopped(signal.SIGTERM)
        if calls == 6:
            raise UserError("the code was changed")
        return measure(configuration)

    for end in (Stopped, UserError, Stopped, None):
        with open_study(f"sqlite:///{tmp_path / 'stopped.db'}", "stopped") as study:
            if end:
                with pytest.raises(end):
                    run_trials(study, space, 12, stopped)
            else:
                run_trials(study, space, 12, stopped)
            assert not study.get_trials(states=(TrialState.RUNNING,))
            found = study.get_trials(states=(TrialState.COMPLETE,))
    assert calls == 12 + 3
    assert [trial.params for trial in found] == expected
    with open_study(f"sqlite:///{tmp_path / 'stopped.db'}", "stopped") as study:
        run_trials(study, space, 12, stopped)  # nothing is left to do
    assert calls == 12 + 3


_KILLED = """
import os, sys
from pathlib import Path
from lenet_cifar10.common.params import load_params
from lenet_cifar10.experiments.runs import Configuration
from lenet_cifar10.experiments.sweep import open_study, read_space, run_trials
space = read_space(Path(sys.argv[1]), Configuration("code", {}, load_params(Path("params.yaml"))))
with open_study(sys.argv[2], "killed") as study:
    run_trials(study, space, 3, lambda configuration: os.kill(os.getpid(), 9))
"""


def test_a_killed_trial_is_run_again(read: Callable[..., Space], tmp_path: Path) -> None:
    space, url = read(RANGES), f"sqlite:///{tmp_path / 'study.db'}"
    environment = os.environ | {"PYTHONPATH": str(SOURCE / "src")}
    command = [sys.executable, "-c", _KILLED, space.source, url]
    assert subprocess.run(command, cwd=SOURCE, env=environment, check=False).returncode == -signal.SIGKILL
    with open_study(url, "killed", grace_seconds=1) as study:
        (killed,) = study.trials
        assert killed.state == TrialState.RUNNING
        time.sleep(2.1)  # the database counts whole seconds
        run_trials(study, space, 3, measure)
        completed = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(completed) == 3
    assert completed[0].params == killed.params


def test_two_workers_share_a_study(read: Callable[..., Space], tmp_path: Path) -> None:
    space, url = read(RANGES), f"sqlite:///{tmp_path / 'study.db'}"

    def work(_: int) -> None:
        with open_study(url, "shared") as study:
            run_trials(study, space, 10, measure)

    with open_study(url, "shared") as study, ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
        trials = study.trials
    assert 10 <= len(trials) <= 11  # the other worker may be within a trial when the tenth ends
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.params["train.learning_rate"] for trial in trials}) == len(trials)


def test_failed_trials_count_and_three_in_a_row_end_the_search(read: Callable[..., Space], tmp_path: Path) -> None:
    space, calls = read(RANGES), 0

    def failing(configuration: Configuration) -> tuple[str, float]:
        nonlocal calls
        calls += 1
        if calls % 3 == 1 or calls > 6:
            raise FailedRunError("the loss is nan")
        return measure(configuration)

    with open_study(f"sqlite:///{tmp_path / 'study.db'}", "failing") as study:
        run_trials(study, space, 6, failing)
        assert calls == 6
        assert len(rank(study)) == 4
        with pytest.raises(UserError, match="3 trials in a row failed, the last: the loss is nan"):
            run_trials(study, space, 20, failing)
        assert calls == 9


def test_values_that_do_not_go_together_fail_their_trial(tmp_path: Path, base: Configuration) -> None:
    path = tmp_path / "ranges.yaml"
    path.write_text("train.momentum: {choices: [0, 0.5]}\ntrain.optimizer: {choices: [sgd, adam]}\n")
    space = read_space(path, Configuration("code", {}, base.having({"train.momentum": 0}).params))
    with open_study(f"sqlite:///{tmp_path / 'study.db'}", "together") as study:
        run_trials(study, space, 6, measure)
        failed = study.get_trials(states=(TrialState.PRUNED,))
        assert {(trial.params["train.momentum"], trial.params["train.optimizer"]) for trial in failed} == {
            (0.5, "adam")
        }


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nowhere", "Could not parse SQLAlchemy URL"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("mysql+nodriver://me:secret@localhost/studies", "the database cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(url: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught, open_study(url, "none"):
        pass
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def invoke(*words: str) -> str:
    """What the command prints to standard output."""
    result = CliRunner().invoke(_APP, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_sweep_of_a_small_project_ends_with_the_best(small_project: Path) -> None:
    (small_project / "sweep.yaml").write_text("train.learning_rate: {low: 0.25, high: 0.5, step: 0.05}\n")
    text = invoke("--trials", "2")
    (name,) = re.findall(r"apply the best: dvc exp apply (sweep-[0-9a-f]{8})\n", text)
    scores = re.search(r"validation accuracy +│ +(0\.[2-5]\d00) │ +(0\.[2-5]\d00) │", text)
    assert scores is not None
    assert scores[1] > scores[2]
    assert f"learning_rate: {float(scores[1])}" in read_committed(small_project, name, "params.yaml")
    (picture,) = re.findall(r"pictures: (\S+history\.png)\n", text)
    assert Path(picture).is_file()
    assert len(list_experiments(small_project)) == 2
    assert run(small_project, "git", "status", "--porcelain").stdout == " M sweep.yaml\n"


@pytest.mark.usefixtures("small_project")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-S", "data.validation_size=0"], "data.validation_size: found 0, expected images to score trials on"),
        (["-S", "train.epoch=3"], "train.epoch: unknown key"),
        (["--study", "nowhere"], "--study: the database cannot be used"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke("--trials", "2", *words)
    assert not Path(".checkpoints/experiments").exists()


@pytest.mark.slow
def test_a_sweep_of_two_trials_of_the_pipeline(project_copy: Path) -> None:
    (project_copy / "sweep.yaml").write_text("train.learning_rate: {low: 0.05, high: 0.1}\ntrain.epochs: 1\n")
    text = run(project_copy, "lenet-cifar10", "sweep", "--trials", "2").stdout
    (name,) = re.findall(r"apply the best: dvc exp apply (\S+)\n", text)
    assert len(run(project_copy, "dvc", "exp", "list", "--name-only").stdout.split()) == 2
    run(project_copy, "git", "checkout", "sweep.yaml")
    run(project_copy, "dvc", "exp", "apply", name)
    assert "epochs: 1\n" in (project_copy / "params.yaml").read_text()

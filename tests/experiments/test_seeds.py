"""Several seeds of one or two configurations: what is run, what is reported, what is not concluded."""

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import typer
from project import read_committed, run
from typer.testing import CliRunner

from lenet_cifar10.commands.seeds import seeds
from lenet_cifar10.common.params import Params
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.experiments.runs import Configuration, FailedRunError
from lenet_cifar10.experiments.seeds import FIGURES, Runs, compare_runs, run_seeds

_APP = typer.Typer()
_APP.command()(seeds)


def measure(configuration: Configuration, name: str) -> dict[str, Any]:
    """Metrics as of a training in which more epochs are better, and seed 13 fails."""
    seed, epochs = configuration.params.seed, configuration.params.train.epochs
    if seed == 13:
        raise FailedRunError("the loss is nan")
    return {"validation_accuracy": 0.5, "test_accuracy": epochs / 100 + seed / 1000, "test_loss": 1.0}


def having(params: Params, **settings: Any) -> Runs:
    return Runs(Configuration("code", {}, params).having(settings))


def test_each_seed_of_each_configuration_is_run_and_summarized(params: Params) -> None:
    first, second = having(params, **{"train.epochs": 20}), having(params, **{"train.epochs": 30})
    names: list[str] = []

    def recorded(configuration: Configuration, name: str) -> dict[str, Any]:
        names.append(f"{name} {configuration.params.seed}")
        return measure(configuration, name)

    run_seeds([first, second], range(3), recorded)
    assert len(set(names)) == 6
    assert all(re.fullmatch(r"seeds-[0-9a-f]{8}-(\d) \1", name) for name in names)
    assert list(first.summaries()) == ["validation_accuracy", "test_accuracy"]  # nothing with flips was measured
    summary = first.summaries()["test_accuracy"]
    assert (summary.mean, summary.standard_deviation) == pytest.approx((0.201, 0.001))
    assert compare_runs(first, second)["test_accuracy"].difference == pytest.approx(0.1)


def test_a_validation_accuracy_of_test_images_is_left_out(params: Params) -> None:
    runs = having(params, **{"data.validation_size": 0})
    run_seeds([runs], range(2), measure)
    assert list(runs.summaries()) == ["test_accuracy"]


def test_a_failed_seed_does_not_stop_the_others_and_withholds_the_comparison(params: Params) -> None:
    first, second = having(params), having(params, **{"train.epochs": 30})
    run_seeds([first, second], (12, 13, 14), measure)
    assert list(first.figures["test_accuracy"]) == [12, 14]
    assert first.failures == {13: "the loss is nan"}
    assert compare_runs(first, second) == {}


def invoke(*words: str) -> str:
    """What the command prints to standard output."""
    result = CliRunner().invoke(_APP, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_report(small_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_there(root: Path, configuration: Configuration, name: str) -> dict[str, Any]:
        assert root == small_project
        return measure(configuration, name)

    monkeypatch.setattr("lenet_cifar10.experiments.runs.measure", measure_there)
    command = ("2", "--first", "5", "-S", "train.epochs=20", "--versus", "train.epochs=30")
    report = json.loads(invoke(*command, "--json"))
    first, second = report["configurations"]
    assert (first["settings"], second["settings"]) == ({"train.epochs": 20}, {"train.epochs": 30})
    assert first["experiments"].keys() == {"5", "6"}
    assert first["figures"]["test_accuracy"]["values"] == pytest.approx({"5": 0.205, "6": 0.206})
    assert report["differences"]["test_accuracy"]["difference"] == pytest.approx(0.1)
    difference = "+0.1000 (95 % interval +0.0970 to +0.1030; Welch's t-test, p = 5e-05)"
    assert f"test accuracy, second mean minus first: {difference}\n" in invoke(*command)
    assert "too few seeds" in invoke("1", "--versus", "model.dropout=0.1")


@pytest.mark.usefixtures("small_project")
def test_seeds_that_fail_are_told_with_their_logs() -> None:
    with pytest.raises(UserError) as caught:
        invoke("1", "-S", "train.learning_rate=2")
    assert re.fullmatch(r"seeds-\w{8}-0: epoch 1: the loss is nan; .*; see \S+-0\.log", str(caught.value))


@pytest.mark.usefixtures("small_project")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-S", "seed=3"], "this command varies the seed"),
        (["--versus", "params.yaml:seed=3"], "this command varies the seed"),
        (["--versus", "train.epochs=20"], "is the same configuration"),
        (["-S", "train.epochs=0"], "train.epochs: found 0"),
        (["--first", "4294967295"], "--first: seed: found 4294967296"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke("2", *words)
    assert not Path(".checkpoints").exists()


@pytest.mark.slow
def test_two_seeds_of_the_pipeline(project_copy: Path) -> None:
    command = ("lenet-cifar10", "seeds", "2", "-S", "train.epochs=1", "--json")
    (configuration,) = json.loads(run(project_copy, *command).stdout)["configurations"]
    assert list(configuration["figures"]) == list(FIGURES)
    summary = configuration["figures"]["test_accuracy"]
    names = configuration["experiments"].items()
    values = {
        s: json.loads(read_committed(project_copy, name, "metrics/test.json"))["test_accuracy"] for s, name in names
    }
    assert summary["values"] == values
    assert summary["mean"] == pytest.approx(mean(values.values()))
    assert run(project_copy, "git", "status", "--porcelain").stdout == ""

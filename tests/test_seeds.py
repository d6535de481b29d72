"""Several seeds of a configuration, and two configurations: the report, a stop, a failure."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from statistics import mean, stdev

import pytest
from conftest import GeneratedArchive
from project import Project, environment

from lenet_cifar10.commands.seeds import FIGURES, Runs, _as_json, _conclude, _describe, _print
from lenet_cifar10.experiments import Configuration
from lenet_cifar10.params import Params
from lenet_cifar10.statistics import Interval, MeanDifference

FOUR_DIGITS = r"-?\d\.\d{4}"


def having(*overrides: str) -> Runs:
    """A configuration of which nothing has been run."""
    params = Params.load(Path(__file__).parent.parent / "params.yaml")
    return Runs(Configuration("code", overrides, params, frozenset({"seed"})))


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(0.001, 0.0236), " (95 % interval +0.0010 to +0.0236)"),
        (Interval(-0.03, 0.054), " (95 % interval -0.0300 to +0.0540)"),
        (None, ""),
    ],
)
def test_a_difference_is_said_in_numbers(interval: Interval | None, words: str) -> None:
    told = _describe("test_accuracy", MeanDifference(0.01234, interval, 0.03))
    assert told == f"test accuracy: the second mean less the first is +0.0123{words}"


@pytest.mark.parametrize(
    ("p_value", "failed", "words"),
    [
        (0.0000341, 0, "the mean test accuracies differ significantly (5 % level; Welch's p = 3.41e-05)."),
        (0.0496, 0, "the mean test accuracies differ significantly (5 % level; Welch's p = 0.0496)."),
        (0.05, 0, "the mean test accuracies do not differ significantly (5 % level; Welch's p = 0.05)."),
        (None, 0, "No verdict: too few seeds, or none that vary, to say whether the difference is chance."),
        (0.001, 1, "No verdict: 1 of the runs failed, and those that ended well need not stand for all."),
        (None, 2, "No verdict: 2 of the runs failed, and those that ended well need not stand for all."),
    ],
)
def test_a_difference_is_judged_where_it_can_be(p_value: float | None, failed: int, words: str) -> None:
    interval = None if p_value is None else Interval(0.001, 0.019)
    start = "" if words.startswith("No verdict") else "Over seeds, on these images, "
    assert _conclude(MeanDifference(0.01, interval, p_value), failed) == start + words


def test_seeds_that_failed_are_counted_and_withhold_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = having("train.epochs=3"), having("train.epochs=4")
    for seed in range(3):
        first.figures[seed] = {"test_accuracy": 0.5 + seed / 100}
        second.figures[seed] = {"test_accuracy": 0.6 + seed / 100}
    _print([first, second], 3)
    assert "differ significantly" in capsys.readouterr().out
    assert 0 < _as_json([first, second])["differences"]["test_accuracy"]["p_value"] < 0.05
    del second.figures[1]
    second.failures[1] = "diverged"
    _print([first, second], 3)
    told = " ".join(capsys.readouterr().out.split())
    assert "train.epochs=3: 3 of 3 seeds (experiments" in told
    assert "train.epochs=4: 2 of 3 seeds (experiments" in told
    assert "No verdict: 1 of the runs failed" in told
    assert "significantly" not in told
    difference = _as_json([first, second])["differences"]["test_accuracy"]
    assert difference["p_value"] is None
    assert difference["difference"] == pytest.approx(0.1)
    assert f"{difference['interval']['low']:+.4f} to {difference['interval']['high']:+.4f}" in told


def committed(project: Project, experiment: str, path: str) -> dict[str, float]:
    revision = project.git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{experiment}").strip()
    return json.loads(project.git("show", f"{revision}:{path}"))


def test_two_configurations_stopped_and_taken_up_again_are_compared(pipeline: Project) -> None:
    command = ["lenet-cifar10", "seeds", "2", "-S", "train.epochs=20", "--versus", "model.dropout=0.4", "--json"]
    stopped = subprocess.Popen(
        command,
        cwd=pipeline.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    logs = pipeline.folder / ".resume/experiments"
    deadline = time.monotonic() + 240
    while not (started := [log for log in logs.glob("*-1.log") if "\nepoch 4/" in log.read_text()]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    told, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert told.endswith("stopped; finished so far: 2 of 4; give the same command again to go on\n")
    finished = {log: log.stat().st_mtime_ns for log in logs.glob("*-0.log")}
    assert len(finished) == 2

    result = pipeline.run("sh", "-c", '"$@" 2>progress.txt', "sh", *command)
    (pipeline.folder / "progress.txt").unlink()
    assert {log: log.stat().st_mtime_ns for log in finished} == finished
    assert "\nresuming at epoch " in started[0].read_text()
    report = json.loads(result.text)
    first, second = report["configurations"]
    assert first["overrides"] == ["train.epochs=20"]
    assert second["overrides"] == ["train.epochs=20", "model.dropout=0.4"]
    for configuration in (first, second):
        assert list(configuration["figures"]) == list(FIGURES)
        for figure, (path, key) in FIGURES.items():
            names = configuration["experiments"]
            values = {seed: committed(pipeline, name, path)[key] for seed, name in names.items()}
            told_figure = configuration["figures"][figure]
            assert told_figure["values"] == values
            assert told_figure["mean"] == pytest.approx(mean(values.values()))
            assert told_figure["standard_deviation"] == pytest.approx(stdev(values.values()))
    for figure in FIGURES:
        difference = second["figures"][figure]["mean"] - first["figures"][figure]["mean"]
        assert report["differences"][figure]["difference"] == pytest.approx(difference)

    shown = pipeline.run(*command[:-1]).text  # all is there already
    for figure in FIGURES:
        words = figure.replace("_", " ")
        assert re.search(f"^{words}: the second mean less the first is {'[+-]'}0", shown, re.MULTILINE)
    assert re.search(rf"│ mean +│ +{FOUR_DIGITS} │ +{FOUR_DIGITS} │ +{FOUR_DIGITS} │", shown)
    assert shown.count("95 % interval of the mean") == 2
    assert re.search(r"^train\.epochs=20 model\.dropout=0\.4: 2 of 2 seeds \(", shown, re.MULTILINE)
    assert shown.count("significantly") + shown.count("No verdict") == 1
    assert pipeline.git("status", "--porcelain") == ""


def test_a_seed_that_fails_is_named_and_the_others_run(pipeline: Project) -> None:
    result = pipeline.run(
        "lenet-cifar10", "seeds", "2", "--first", "7", "-S", "train.learning_rate=100", "-S", "train.weight_decay=10",
        check=False,
    )  # fmt: skip
    assert result.status == 1
    errors = [line for line in result.text.splitlines() if line.startswith("error: ")]
    assert [line[: len("error: seeds-12345678-7")][-2:] for line in errors] == ["-7", "-8"]
    for line in errors:
        assert "training has diverged" in line
        (log,) = re.findall(r"the output is in (\S+)\)", line)
        assert b"training has diverged" in pipeline.read(log)
    assert "Traceback" not in result.text


def test_what_is_no_seed_s_fault_stops_at_once(bare_project: Project) -> None:
    result = bare_project.run("lenet-cifar10", "seeds", "2", "-S", "data.urls=[nowhere.tar.gz]", check=False)
    assert result.status == 1
    _, stopped, mistake = result.text.splitlines()
    assert stopped.startswith("stopped by a mistake; finished so far: 0 of 2; mend it and give the same")
    assert re.match(r"error: seeds-\w{8}-0: .*nowhere\.tar\.gz", mistake)
    assert len(list((bare_project.folder / ".resume/experiments").glob("*.log"))) == 1


def test_a_fresh_clone_fetches_its_data_and_shows_of_one_seed_what_was_measured(
    bare_project: Project, generated: GeneratedArchive
) -> None:
    small = [
        f"data.urls=[{generated.path}]",
        f"data.sha256={generated.sha256}",
        "data.validation_size=0",
        "train.epochs=1",
        "train.batch_size=50",
        "evaluate.test_time_flips=false",
    ]
    words = [word for override in small for word in ("-S", override)]
    text = bare_project.run("lenet-cifar10", "seeds", "1", *words).text
    assert re.search(r"┃ seed +┃ test accuracy ┃\n", text)
    assert re.search(rf"│ 0 +│ +{FOUR_DIGITS} │\n", text)
    assert re.search(r"│ standard deviation +│ +- │\n", text)
    assert "one seed shows no deviation: run two or more" in text
    assert re.findall(r"^seeds-\w{8}-0: (.*) [\d.]+$", text, re.MULTILINE) == ["test accuracy"]
    assert bare_project.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["2", "-S", "seed=3"], "-S seed=3: the seeds are what this command varies"),
        (["2", "--versus", "seed=3"], "-S seed=3: the seeds are what this command varies"),
        (["2", "--versus", "train.epochs=20"], "--versus train.epochs=20: is the same configuration"),
        (["2", "-S", "train.epoch=3"], "train.epoch is no parameter; did you mean train.epochs?"),
        (["2", "-S", "train.epochs=0"], "train.epochs: found 0, expected a whole number from 1 to 10000"),
        (["2", "--first", "4294967295"], "would be above 4294967295; choose a lower one"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(bare_project: Project, words: list[str], told: str) -> None:
    result = bare_project.run("lenet-cifar10", "seeds", *words, check=False)
    assert result.status == 1
    assert result.text.startswith("error: ")
    assert told in result.text
    assert len(result.text.splitlines()) == 1
    assert not list((bare_project.folder / ".resume").glob("**/*.log"))

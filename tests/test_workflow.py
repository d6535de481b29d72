"""The workflow as people use it: real dvc and git commands in a repository of the test's own."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GeneratedArchive
from project import Project, environment

PICTURES = {f"{name}.png" for name in ("augmentation", "calibration", "confusion", "curves", "mistakes", "per_class")}


def stages_run(text: str) -> list[str]:
    """The stages that dvc says it ran, in order."""
    return re.findall(r"Running stage '(\w+)'", text)


def read_rows(project: Project, path: str) -> list[dict[str, str]]:
    with (project.folder / path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_outputs_have_the_promised_names_columns_and_keys(pipeline: Project) -> None:
    history = read_rows(pipeline, "plots/history.csv")
    columns = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"]
    assert [list(row) for row in history] == [columns, columns]
    assert [row["epoch"] for row in history] == ["1", "2"]
    train = json.loads(pipeline.read("metrics/train.json"))
    assert list(train) == ["epochs", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    assert train["validation_loss"] == float(history[-1]["validation_loss"])
    test = json.loads(pipeline.read("metrics/test.json"))
    assert list(test) == [
        "loss",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "accuracy_with_flips",
        "expected_calibration_error",
        "per_class",
    ]
    assert 0 <= test["accuracy_low"] < test["accuracy"] < test["accuracy_high"] <= 1
    predictions = read_rows(pipeline, "plots/predictions.csv")
    assert list(predictions[0]) == ["index", "actual", "predicted", "confidence"]
    assert [row["index"] for row in predictions] == [str(index) for index in range(100)]
    right = sum(row["actual"] == row["predicted"] for row in predictions)
    assert test["accuracy"] == pytest.approx(right / 100)
    per_class = {row["class"]: float(row["accuracy"]) for row in read_rows(pipeline, "plots/per_class.csv")}
    assert per_class == test["per_class"]
    assert len(per_class) == 10
    bins = read_rows(pipeline, "plots/calibration.csv")
    assert list(bins[0]) == ["confidence", "accuracy", "count"]
    assert sum(int(row["count"]) for row in bins) == 100
    gaps = sum(int(row["count"]) * abs(float(row["accuracy"]) - float(row["confidence"])) for row in bins)
    assert test["expected_calibration_error"] == pytest.approx(gaps / 100)
    assert {path.name for path in (pipeline.folder / "plots/images").iterdir()} == PICTURES


def test_git_sees_no_output_that_dvc_caches_and_every_one_that_it_does_not(pipeline: Project) -> None:
    tracked = set(pipeline.git("ls-files", "data", "metrics", "plots").split())
    assert {name for name in tracked if name.startswith("data/")} == {"data/.gitignore", "data/README.md"}
    assert {"metrics/train.json", "metrics/test.json", "plots/history.csv", "plots/predictions.csv"} <= tracked
    assert {"plots/per_class.csv", "plots/images/curves.png"} <= tracked
    assert pipeline.git("status", "--porcelain") == ""


def test_a_second_repro_skips_every_stage(pipeline: Project) -> None:
    text = pipeline.dvc("repro")
    assert stages_run(text) == []
    assert "Data and pipelines are up to date." in text
    assert "up to date" in pipeline.dvc("status")


def test_a_changed_augmentation_reruns_train_and_what_follows(pipeline: Project) -> None:
    pipeline.change_params({"augment.rotation_degrees": 5})
    assert stages_run(pipeline.dvc("repro")) == ["train", "evaluate", "figures", "card"]


def test_a_changed_figure_style_reruns_figures_only(pipeline: Project) -> None:
    pipeline.change_params({"figures.colormap": "cividis"})
    assert stages_run(pipeline.dvc("repro")) == ["figures"]


def test_a_changed_picture_s_code_reruns_figures_only(pipeline: Project) -> None:
    module = pipeline.folder / "src/lenet_cifar10/figures.py"
    module.write_text(module.read_text() + "# changed\n")
    assert stages_run(pipeline.dvc("repro")) == ["figures"]


def test_what_only_evaluate_reports_by_does_not_train_again(pipeline: Project) -> None:
    module = pipeline.folder / "src/lenet_cifar10/reporting.py"
    module.write_text(module.read_text() + "# changed\n")
    assert stages_run(pipeline.dvc("repro")) == ["evaluate", "figures"]


def test_another_mirror_reruns_nothing_and_no_local_path_enters_the_lock(
    pipeline: Project, generated: GeneratedArchive
) -> None:
    pipeline.change_params({"data.urls": ["https://example.com/mirror.tar.gz"]})
    assert stages_run(pipeline.dvc("repro")) == []
    assert str(generated.path) not in pipeline.read("dvc.lock").decode()


def test_metrics_params_and_plots_compare_two_commits(pipeline: Project, tmp_path: Path) -> None:
    pipeline.change_params({"train.learning_rate": 0.002})
    pipeline.dvc("repro")
    pipeline.commit("slower")
    shown = json.loads(pipeline.dvc("metrics", "show", "--json"))
    assert set(shown[""]["data"]) == {"metrics/train.json", "metrics/test.json", "metrics/environment.json"}
    compared = json.loads(pipeline.dvc("metrics", "diff", "--json", "HEAD~1"))
    assert {"old", "new", "diff"} <= set(compared["metrics/train.json"]["train_loss"])
    params = json.loads(pipeline.dvc("params", "diff", "--json", "HEAD~1"))
    assert list(params["params.yaml"]) == ["train.learning_rate"]
    assert params["params.yaml"]["train.learning_rate"]["new"] == 0.002
    page = tmp_path / "page"
    pipeline.dvc("plots", "diff", "HEAD~1", "HEAD", "--out", page)
    assert (page / "index.html").stat().st_size > 10_000


def test_plots_show_renders_each_chart_and_picture_once(pipeline: Project) -> None:
    plots = json.loads(pipeline.dvc("plots", "show", "--json", "--split"))["data"]
    charts = {name for name, shown in plots.items() if shown[0]["type"] == "vega"}
    tables = {f"plots/{name}.csv" for name in ("history", "predictions", "per_class", "calibration")}
    assert charts == {"Loss", "Accuracy", *tables}
    pictures = {Path(name).name for name in plots if name not in charts}
    assert pictures == PICTURES
    assert all(len(shown) == 1 for shown in plots.values())
    for name in ("Loss", "Accuracy"):  # two epochs, training and validation on one chart
        points = plots[name][0]["anchor_definitions"]["<DVC_METRIC_DATA>"]
        quantity = name.lower()
        assert {(int(point["epoch"]), point["field"]) for point in points} == {
            (epoch, f"{part}_{quantity}") for epoch in (1, 2) for part in ("train", "validation")
        }


def test_an_experiment_changes_one_parameter_and_shows_beside_its_commit(pipeline: Project) -> None:
    pipeline.dvc("exp", "run", "--name", "slow", "--set-param", "train.learning_rate=0.000001")
    assert "learning_rate: 1e-06" in pipeline.read("params.yaml").decode()
    assert "# Peak step size" in pipeline.read("params.yaml").decode()
    table = list(csv.DictReader(pipeline.dvc("exp", "show", "--csv").splitlines()))
    row = next(row for row in table if row["Experiment"] == "slow")
    assert float(row["train.learning_rate"]) == 1e-06
    assert float(row["train_loss"]) == json.loads(pipeline.read("metrics/train.json"))["train_loss"]
    assert float(row["accuracy"]) == json.loads(pipeline.read("metrics/test.json"))["accuracy"]
    page = pipeline.folder / "page"
    pipeline.dvc("plots", "diff", "HEAD", "slow", "--out", page)
    assert {path.name for path in (page / "static").iterdir()} == {
        f"{revision}_plots_images_{name}" for revision in ("HEAD", "slow") for name in PICTURES
    }
    difference = json.loads(pipeline.dvc("exp", "diff", "--json", "HEAD", "slow"))
    assert difference["params"]["params.yaml"]["train.learning_rate"]["new"] == 1e-06


def test_a_repeated_experiment_restores_train_instead_of_running_it(pipeline: Project) -> None:
    run = ("exp", "run", "--temp", "--name", "again", "--set-param", "train.learning_rate=0.003")
    first = pipeline.dvc(*run)
    assert stages_run(first) == ["train", "evaluate", "figures", "card"]
    pipeline.dvc("exp", "remove", "again")
    second = pipeline.dvc(*run)
    assert stages_run(second) == []
    cached = re.findall(r"Stage '(\w+)' is cached - skipping run, checking out outputs", second)
    assert cached == ["train", "evaluate", "figures", "card"]


def test_a_queued_experiment_runs_the_code_it_was_queued_with(pipeline: Project) -> None:
    module = pipeline.folder / "src/lenet_cifar10/evaluation.py"
    queued = module.read_text()
    pipeline.dvc("exp", "run", "--queue", "--name", "queued", "--set-param", "train.learning_rate=0.004")
    module.write_text(queued + '\nraise RuntimeError("the changed code ran")\n')
    pipeline.dvc("exp", "run", "--run-all")
    difference = json.loads(pipeline.dvc("exp", "diff", "--json", "HEAD", "queued"))
    assert difference["params"]["params.yaml"]["train.learning_rate"]["new"] == 0.004
    assert "train_loss" in difference["metrics"]["metrics/train.json"]
    failed = pipeline.dvc("exp", "run", "--temp", "--set-param", "train.learning_rate=0.005", check=False)
    assert "the changed code ran" in failed


def test_weights_and_their_card_reach_another_folder_by_dvc_get(pipeline: Project, tmp_path: Path) -> None:
    elsewhere = Project(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    for name in ("lenet.safetensors", "card.md"):
        elsewhere.dvc("get", pipeline.folder, f"data/model/{name}", "--rev", "main")
        assert elsewhere.read(name) == pipeline.read(f"data/model/{name}")


def test_lost_outputs_come_back_by_checkout_and_restore(pipeline: Project) -> None:
    good = {name: pipeline.read(name) for name in ("data/model/lenet.safetensors", "plots/history.csv")}
    pipeline.change_params({"train.learning_rate": 100.0, "train.weight_decay": 10.0})
    failed = pipeline.run("dvc", "repro", check=False)
    assert failed.status == 255
    assert "training has diverged" in failed.text
    assert "Traceback" not in failed.text
    assert not (pipeline.folder / "data/model/lenet.safetensors").exists()
    changed = pipeline.read("params.yaml")
    pipeline.git("restore", "dvc.lock", "metrics", "plots")
    pipeline.dvc("checkout")
    assert pipeline.read("params.yaml") == changed
    assert {name: pipeline.read(name) for name in good} == good
    pipeline.git("restore", "params.yaml")
    assert stages_run(pipeline.dvc("repro")) == []


def test_the_history_can_be_plotted_while_training_runs(pipeline: Project) -> None:
    pipeline.change_params({"train.epochs": 5000})
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=pipeline.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        next(line for line in process.stdout if line.startswith("epoch 3/"))  # fails when training ends before
        plots = json.loads(pipeline.dvc("plots", "show", "--json", "--split"))["data"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    points = plots["Loss"][0]["anchor_definitions"]["<DVC_METRIC_DATA>"]
    assert {int(point["epoch"]) for point in points} >= {1, 2, 3}


def test_an_archive_is_named_for_one_run_by_its_path_and_hash(
    bare_project: Project, generated: GeneratedArchive
) -> None:
    before = bare_project.read("params.yaml").decode()
    sets = {"data.urls": f"[{generated.path}]", "data.sha256": generated.sha256, "data.validation_size": "100"}
    small = {"train.epochs": "1", "train.batch_size": "50"}
    options = [word for name, value in (sets | small).items() for word in ("-S", f"{name}={value}")]
    assert stages_run(bare_project.dvc("exp", "run", *options)) == [
        "download",
        "prepare",
        "train",
        "evaluate",
        "figures",
        "card",
    ]
    assert (bare_project.folder / "metrics/test.json").exists()
    comments = [re.findall(r"^ *#.*", text, flags=re.M) for text in (before, bare_project.read("params.yaml").decode())]
    assert comments[0] == comments[1]


def test_a_log_has_one_plain_line_an_epoch_and_a_terminal_a_bar(pipeline: Project) -> None:
    log = pipeline.stage("train").text
    assert re.findall(r"^epoch (\d)/2: train loss [\d.]+, accuracy [\d.]+; validation loss", log, flags=re.M) == [
        "1",
        "2",
    ]
    assert "\x1b" not in log
    assert "\r" not in log
    shutil.rmtree(pipeline.folder / ".resume")  # what it would go on from
    command = f"{sys.executable} stages/train.py"
    terminal = pipeline.run("script", "-qec", command, "/dev/null", PYTHONPATH="src", TERM="xterm").text
    assert "\x1b" in terminal
    assert re.search(r"\d+/12", terminal)  # steps done of all
    assert re.findall(r"epoch (\d)/2: train loss", terminal) == ["1", "2"]

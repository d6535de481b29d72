"""The workflow as people use it: real dvc and git commands in a repository of the test's own."""

import csv
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from project import STAGES, change_params, commit, first_epoch, hash_outputs, read_committed, run, stages_run

PICTURES = {f"{name}.png" for name in ("augmentation", "confusion", "curves", "mistakes")}
WEIGHTS = "data/model/lenet.safetensors"


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_metrics(folder: Path, name: str) -> dict[str, float]:
    return json.loads((folder / f"metrics/{name}.json").read_text())


def test_outputs_have_the_documented_columns_and_agree_with_each_other(pipeline: Path) -> None:
    history = read_rows(pipeline / "plots/history.csv")
    columns = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"]
    assert list(history[0]) == columns
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4", "5", "6"]
    train, test = read_metrics(pipeline, "train"), read_metrics(pipeline, "test")
    assert len(train | test) == len(train) + len(test) <= 12  # what a person reads, and no name twice
    assert train == {"epochs": 6} | {name: float(history[-1][name]) for name in columns[1:5]}

    predictions = read_rows(pipeline / "plots/predictions.csv")
    assert list(predictions[0]) == ["index", "actual", "predicted", "confidence"]
    assert [row["index"] for row in predictions] == [str(index) for index in range(100)]
    correct = sum(row["actual"] == row["predicted"] for row in predictions)
    assert test["test_accuracy"] == pytest.approx(correct / 100)
    assert 0 <= test["test_accuracy_low"] < test["test_accuracy"] < test["test_accuracy_high"] <= 1
    classes = read_rows(pipeline / "plots/per_class.csv")
    assert list(classes[0]) == ["class", "images", "correct", "accuracy", "low", "high"]
    assert sum(int(row["correct"]) for row in classes) == correct
    bins = read_rows(pipeline / "plots/calibration.csv")
    assert list(bins[0]) == ["confidence", "accuracy", "count"]
    gaps = sum(int(row["count"]) * abs(float(row["accuracy"]) - float(row["confidence"])) for row in bins)
    assert test["calibration_error"] == pytest.approx(gaps / 100)
    assert {path.name for path in (pipeline / "plots/images").iterdir()} == PICTURES


def test_git_tracks_metrics_and_plots_and_ignores_what_dvc_caches(pipeline: Path) -> None:
    tracked = set(run(pipeline, "git", "ls-files", "data", "metrics", "plots").stdout.split())
    assert {name for name in tracked if name.startswith("data/")} == {"data/.gitignore", "data/README.md"}
    tables = {f"plots/{name}.csv" for name in ("history", "predictions", "per_class", "calibration")}
    assert {"metrics/train.json", "metrics/test.json", *tables} <= tracked
    assert {f"plots/images/{name}" for name in PICTURES} <= tracked
    assert run(pipeline, "git", "status", "--porcelain").stdout == ""


def test_the_five_commands(project_copy: Path) -> None:
    """Repro, exp run, metrics diff, plots and exp show, as the README has them."""
    result = run(project_copy, "dvc", "repro")
    assert stages_run(result) == []
    assert "up to date" in result.stdout

    result = run(project_copy, "dvc", "exp", "run", "--name", "slow", "--set-param", "train.learning_rate=0.000001")
    assert stages_run(result) == ["train", "evaluate", "report"]

    difference = json.loads(run(project_copy, "dvc", "metrics", "diff", "--json").stdout)
    assert difference["metrics/train.json"]["train_loss"]["new"] == read_metrics(project_copy, "train")["train_loss"]

    page = project_copy.parent / "page"
    plots = json.loads(run(project_copy, "dvc", "plots", "diff", "HEAD", "slow", "--json", "--out", page).stdout)
    tables = {f"plots/{name}.csv" for name in ("history", "predictions", "per_class", "calibration")}
    pictures = {f"plots/images/{name}" for name in PICTURES}
    assert {Path(name).as_posix() for name in plots["data"]} == {"Loss", "Accuracy", *tables, *pictures}

    command = ("dvc", "exp", "show", "--csv", "--only-changed", "--drop", ".*/")
    table = list(csv.DictReader(run(project_copy, *command).stdout.splitlines()))
    (row,) = [row for row in table if row["Experiment"] == "slow"]
    assert float(row["train.learning_rate"]) == 1e-6
    assert float(row["test_loss"]) == read_metrics(project_copy, "test")["test_loss"]
    assert len(row) < 20


OTHER_VALUES: dict[str, Any] = {
    "seed": 1,
    "device": "cpu",
    "data.urls": ["https://example.com/mirror.tar.gz"],
    "data.sha256": "0" * 64,
    "data.validation_size": 50,
    "data.split_seed": 1,
    "augment.rotation_degrees": 5.0,
    "model.dropout": 0.1,
    "train.threads": 2,
    "evaluate.test_time_flips": False,
    "figures.dpi": 60,
}
OTHER_CODE = (
    "src/lenet_cifar10/common/console.py",
    "src/lenet_cifar10/data/archive.py",
    "src/lenet_cifar10/data/arrays.py",
    "src/lenet_cifar10/data/download.py",
    "src/lenet_cifar10/data/synthetic.py",
    "src/lenet_cifar10/evaluation/comparison.py",
    "src/lenet_cifar10/evaluation/figures.py",
    "src/lenet_cifar10/experiments/revisions.py",
    "src/lenet_cifar10/commands/__init__.py",
    "src/lenet_cifar10/model/lenet.py",
    "src/lenet_cifar10/training/loop.py",
    "tests/conftest.py",
    "README.md",
)
RERUN = {  # by the key that dvc.yaml names: a section, or one value of it
    "seed": {"train", "report"},
    "device": {"train", "evaluate"},
    "data.sha256": {"download", "report"},
    "data.validation_size": {"prepare", "report"},
    "data.split_seed": {"prepare"},
    "augment": {"train", "report"},
    "model": {"train", "report"},
    "train": {"train", "report"},
    "train.threads": {"evaluate"},
    "evaluate": {"evaluate"},
    "figures": {"report"},
    "src/lenet_cifar10/common": set(STAGES),
    "src/lenet_cifar10/data/archive.py": {"prepare"},
    "src/lenet_cifar10/data/arrays.py": {"prepare", "train", "evaluate", "report"},
    "src/lenet_cifar10/data/download.py": {"download"},
    "src/lenet_cifar10/evaluation/figures.py": {"report"},
    "src/lenet_cifar10/model": {"train", "evaluate", "report"},
    "src/lenet_cifar10/training": {"train"},
}


def test_what_is_changed_reruns_its_own_stages_and_no_others(project_copy: Path) -> None:
    """So a mirror reruns nothing, a figure or a download never trains again, the loop never prepares again."""
    change_params(project_copy, OTHER_VALUES)
    for name in OTHER_CODE:
        with (project_copy / name).open("a") as file:
            file.write("\n# changed\n")
    found: dict[str, set[str]] = {}
    for stage, entries in json.loads(run(project_copy, "dvc", "status", "--json").stdout).items():
        for entry in entries:
            changed = dict(entry.get("changed deps", {}))
            for name in (*changed.pop("params.yaml", {}), *changed):
                found.setdefault(name, set()).add(stage)
    assert found == RERUN


def test_a_clone_with_windows_line_ends_reruns_nothing(pipeline: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "-c", "core.autocrlf=true", "clone", "--quiet", pipeline, "clone")
    run(tmp_path / "clone", "git", "config", "core.autocrlf", "true")
    texts = [name for name in run(pipeline, "git", "ls-files").stdout.split() if not name.endswith(".png")]
    assert not [name for name in texts if b"\r\n" in (tmp_path / "clone" / name).read_bytes()]
    run(tmp_path / "clone", "dvc", "cache", "dir", "--local", pipeline / ".dvc/cache")
    run(tmp_path / "clone", "dvc", "checkout")
    assert run(tmp_path / "clone", "dvc", "status").stdout == "Data and pipelines are up to date.\n"
    assert run(tmp_path / "clone", "git", "status", "--porcelain").stdout == ""


def test_a_local_path_of_the_archive_stays_out_of_dvc_lock(pipeline: Path) -> None:
    assert str(pipeline.parent) in (pipeline / "params.yaml").read_text()
    assert str(pipeline.parent) not in (pipeline / "dvc.lock").read_text()


def test_a_forced_rerun_gives_every_byte_again(project_copy: Path) -> None:
    before = hash_outputs(project_copy)
    result = run(project_copy, "dvc", "repro", "--force")
    assert stages_run(result) == list(STAGES)
    assert first_epoch(result.stdout) == 1
    assert hash_outputs(project_copy) == before


@pytest.mark.slow
@pytest.mark.skipif("OTHER_PYTHON" not in os.environ, reason="OTHER_PYTHON names no other environment's Python")
def test_another_python_gives_the_same_bytes(project_copy: Path) -> None:
    """All but the records of the environment: data/model/environment.json, the card and dvc.lock."""
    before = hash_outputs(project_copy)
    path = os.pathsep.join([str(Path(os.environ["OTHER_PYTHON"]).parent), os.environ["PATH"]])
    run(project_copy, "dvc", "repro", "--force", PATH=path)
    changed = {name for name, _ in before.items() ^ hash_outputs(project_copy).items()}
    assert changed == {"dvc.lock", "data/model/environment.json", "data/model/card.md"}


@pytest.mark.slow
def test_queued_and_copied_experiments_run_the_code_of_their_time_and_give_the_same_bytes(project_copy: Path) -> None:
    run(project_copy, "dvc", "exp", "run", "--queue", "--force", "--name", "queued")
    run(project_copy, "dvc", "exp", "run", "--queue", "--force", "--name", "other", "-S", "seed=1")
    broken = project_copy / "src/lenet_cifar10/evaluation/metrics.py"
    broken.write_text('raise RuntimeError("the code of later ran")\n')
    assert "the code of later ran" in run(project_copy, "dvc", "exp", "run", "--temp", check=False).stderr
    run(project_copy, "dvc", "queue", "start", "--jobs", "2")
    deadline = time.monotonic() + 300
    while re.search("Running|Queued", status := run(project_copy, "dvc", "queue", "status").stdout):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert status.count("Success") == 2
    run(project_copy, "git", "restore", ".")
    run(project_copy, "dvc", "exp", "run", "--temp", "--force", "--name", "copied")
    for name in ("dvc.lock", "metrics/test.json", "plots/history.csv", "plots/predictions.csv"):
        expected = read_committed(project_copy, "HEAD", name)
        assert read_committed(project_copy, "queued", name) == expected
        assert read_committed(project_copy, "copied", name) == expected
        assert read_committed(project_copy, "other", name) != expected


@pytest.mark.slow
def test_a_repeated_experiment_restores_train_from_the_run_cache(project_copy: Path) -> None:
    command = ("dvc", "exp", "run", "--temp", "--name", "again", "--set-param", "train.learning_rate=0.003")
    assert stages_run(run(project_copy, *command)) == ["train", "evaluate", "report"]
    run(project_copy, "dvc", "exp", "remove", "again")
    result = run(project_copy, *command)
    assert stages_run(result) == []
    restored = re.findall(r"Stage '(\w+)' is cached - skipping run, checking out outputs", result.stdout)
    assert restored == ["train", "evaluate", "report"]


@pytest.mark.slow
def test_changed_code_reruns_what_follows_and_stops_where_nothing_changes(project_copy: Path) -> None:
    download = project_copy / "src/lenet_cifar10/data/download.py"
    download.write_text(download.read_text() + "\n# changed\n")
    change_params(project_copy, {"data.urls": ["/not/there.tar.gz"]})
    assert stages_run(run(project_copy, "dvc", "repro")) == ["download"]  # the archive stays: its hash is right


@pytest.mark.slow
def test_divergence_is_reported_and_the_results_of_before_come_back(project_copy: Path) -> None:
    before = hash_outputs(project_copy)
    change_params(project_copy, {"train.learning_rate": 100.0, "train.weight_decay": 10.0})
    result = run(project_copy, "dvc", "repro", check=False)
    assert result.returncode == 255
    assert re.search(r"^error: .*diverged.*learning_rate", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert not (project_copy / WEIGHTS).exists()
    run(project_copy, "git", "restore", "dvc.lock", "metrics", "plots")
    run(project_copy, "dvc", "checkout")
    assert hash_outputs(project_copy) == before


@pytest.mark.slow
def test_a_shell_s_thread_settings_change_nothing(project_copy: Path) -> None:
    before = hash_outputs(project_copy)
    run(project_copy, "dvc", "repro", "--force", "--single-item", "train", OMP_NUM_THREADS="3")
    assert hash_outputs(project_copy) == before


@pytest.mark.slow
def test_lost_history_of_git_and_a_moved_folder_change_nothing(project_copy: Path, tmp_path: Path) -> None:
    """A project that was downloaded as files, not cloned, and unpacked below a path with spaces."""
    before = hash_outputs(project_copy)
    moved = Path(shutil.copytree(project_copy, tmp_path / "a path with spaces" / "project", symlinks=True))
    shutil.rmtree(moved / ".git")
    run(moved, "git", "init", "--quiet")
    run(moved, "git", "config", "user.name", "test")
    run(moved, "git", "config", "user.email", "test@example.com")
    commit(moved, "start")
    assert stages_run(run(moved, "dvc", "repro")) == []
    assert stages_run(run(moved, "dvc", "repro", "--force")) == list(STAGES)
    assert hash_outputs(moved) == before


@pytest.mark.slow
def test_a_terminal_shows_a_bar_and_a_log_plain_lines(project_copy: Path) -> None:
    command = "PYTHONPATH=src python stages/train.py"
    log = run(project_copy, "sh", "-c", command).stdout
    assert re.findall(r"^epoch (\d)/6", log, re.MULTILINE) == list("123456")
    assert not re.search("[\x1b\r]", log)
    terminal = run(project_copy, "script", "-qec", command, "/dev/null", TERM="xterm").stdout
    assert "\x1b" in terminal
    assert re.findall(r"epoch (\d)/6", terminal) == list("123456")

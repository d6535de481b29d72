"""One configuration as one DVC experiment: its parameters, its name, and runs that succeed, fail or are stopped."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from project import SOURCE, change_params, commit, run

from lenet_cifar10.common.params import Params
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.experiments.runs import (
    FOLDER,
    Configuration,
    FailedRunError,
    configure,
    list_experiments,
    measure,
    parse_settings,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-3", 0.001),
        ("0.5", 0.5),
        ("cosine", "cosine"),
        ('"a,b"', "a,b"),
        ("null", None),
        ("true", True),
        ("[/a/b.tar.gz]", ["/a/b.tar.gz"]),
        ('["https://x.org/a?x=1&y=2",file:///c d/e.tgz]', ["https://x.org/a?x=1&y=2", "file:///c d/e.tgz"]),
    ],
)
def test_settings_are_read_as_dvc_reads_them(text: str, value: Any) -> None:
    assert parse_settings([f"a.b={text}", f"params.yaml:c={text}"]) == {"a.b": value, "c": value}


@pytest.mark.parametrize("text", ["train.epochs", "=3", "+train.epochs=3", "~train.epochs", ""])
def test_a_setting_that_is_no_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected KEY=VALUE") as caught:
        parse_settings([text])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["3,4", "choice(3,4)", "range(1,4)", "linear,cosine"])
def test_a_grid_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="found several values, expected one; for a grid see dvc exp run --queue"):
        parse_settings([f"train.epochs={value}"])


def test_settings_are_checked_beside_the_other_parameters(params: Params) -> None:
    start = Configuration("code", {"seed": 1}, params)
    found = start.having({"train.optimizer": "adam", "train.momentum": 0})
    assert found.params.train.optimizer == "adam"
    assert found.settings == {"seed": 1, "train.optimizer": "adam", "train.momentum": 0}
    assert start.params == params
    for settings, words in (
        ({"train.optimizer": "adam"}, "momentum: found 0.9, which has no effect with train.optimizer adam"),
        ({"train.epoch": 3}, "train.epoch: unknown key; did you mean epochs?"),
        ({"trian.epochs": 3}, "trian: unknown key; did you mean train?"),
        ({"train.epochs.x": 3}, "train.epochs: found {'x': 3}"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            start.having(settings)


def test_the_digest_is_of_code_and_parameters_alone(small_project: Path) -> None:
    def digest(**settings: Any) -> str:
        return configure(small_project, settings).digest()

    start = digest()
    assert re.fullmatch("[0-9a-f]{8}", start)
    (small_project / "README.md").write_text("other words")
    (small_project / "stages/untracked.py").write_text("# DVC's copy lacks it")
    (small_project / "metrics").mkdir()
    (small_project / "metrics/test.json").write_text("{}")  # a dependency that a stage writes
    run(small_project, "git", "add", "README.md", "metrics")
    run(small_project, "git", "commit", "--quiet", "--message", "results")
    assert digest() == start
    assert digest(**{"data.urls": ["/elsewhere.tar.gz"]}) == start
    assert digest(**{"train.epochs": configure(small_project, {}).params.train.epochs}) == start
    assert configure(small_project, {"seed": 5}).digest(without=["seed"]) == configure(small_project, {}).digest(
        without=["seed"]
    )
    found = {start, digest(seed=5)}
    for name in ("dvc.yaml", "stages/train.py"):
        path = small_project / name
        before = path.read_text()
        path.write_text(before + "# changed\n")
        found.add(digest())
        path.write_text(before)
    assert digest() == start
    assert len(found) == 4


def test_a_place_where_dvc_would_lose_or_refuse_experiments_is_refused(small_project: Path, tmp_path: Path) -> None:
    (small_project / "README.md").write_text("a second commit")
    commit(small_project, "second")
    run(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{small_project}", "shallow")
    with pytest.raises(UserError, match="shallow clone, where DVC loses experiments; run git fetch --unshallow"):
        configure(tmp_path / "shallow", {})
    run(small_project, "git", "update-ref", "-d", "HEAD")
    with pytest.raises(UserError, match="need a DVC project in a Git repository with a commit") as caught:
        configure(small_project, {})
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match="the path must be ASCII"):
        configure(small_project.rename(tmp_path / "projet-été"), {})


def test_an_experiment_runs_once_with_the_uncommitted_changes_of_the_workspace(
    small_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_params(small_project, {"train.learning_rate": 0.25})
    status = run(small_project, "git", "status", "--porcelain").stdout
    configuration = configure(small_project, {"seed": 4, "train.schedule": "cosine"})
    for _ in range(2):
        assert measure(small_project, configuration, "once")["validation_accuracy"] == pytest.approx(0.254)
    assert capsys.readouterr().err == f"once: runs; its output is in {FOLDER}/once.log\n"
    assert "Running stage 'train'" in (small_project / FOLDER / "once.log").read_text()
    assert run(small_project, "git", "status", "--porcelain").stdout == status
    shown = run(small_project, "dvc", "exp", "show", "--csv").stdout
    assert re.search("^once,.*cosine", shown, re.MULTILINE)


def test_a_failed_experiment_tells_the_reason_and_the_log(small_project: Path) -> None:
    with pytest.raises(FailedRunError) as caught:
        measure(small_project, configure(small_project, {"train.learning_rate": 2}), "failing")
    log = FOLDER / "failing.log"
    assert str(caught.value) == f"epoch 1: the loss is nan; choose a smaller learning rate; see {log}"
    (small_project / "stages/train.py").write_text("import nothing_like_that\n")
    with pytest.raises(FailedRunError, match=rf"^dvc ended with 255; see {log}$"):
        measure(small_project, configure(small_project, {}), "failing")


def test_code_that_changes_after_the_name_was_made_is_not_run(small_project: Path) -> None:
    configuration = configure(small_project, {})
    with (small_project / "stages/train.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(UserError, match=r"the code or params\.yaml was changed meanwhile"):
        measure(small_project, configuration, "late")
    assert not (small_project / FOLDER / "late.log").exists()


def test_an_experiment_waits_for_the_one_that_runs(small_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # As one of a killed command does: while DVC starts it, the workspace is not as the user left it.
    (small_project / FOLDER).mkdir(parents=True)
    other = os.open(small_project / FOLDER, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    thread = threading.Thread(target=measure, args=(small_project, configure(small_project, {}), "second"))
    thread.start()
    while not (message := capsys.readouterr().err):
        assert thread.is_alive()
        time.sleep(0.05)
    assert message == "another experiment runs in this clone; waiting for its end\n"
    assert not (small_project / FOLDER / "second.log").exists()
    os.close(other)
    thread.join()
    assert list_experiments(small_project) == {"second"}


_SCRIPT = """
from pathlib import Path
from lenet_cifar10.common import stage
from lenet_cifar10.experiments.runs import configure, measure
root = Path.cwd()
stage.run(lambda: measure(root, configure(root, {"train.epochs": 100}), "stopped"))
"""


def test_a_stop_ends_dvc_and_the_stage_and_leaves_no_copy(small_project: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        env=os.environ | {"PYTHONPATH": str(SOURCE / "src")},
        stderr=subprocess.PIPE,
        text=True,
    )
    started = small_project / ".checkpoints/pid"
    while process.poll() is None and not (started.exists() and started.read_text()):
        time.sleep(0.05)
    assert process.poll() is None
    process.terminate()  # Ctrl-C takes the same way: dvc is in a process group of its own
    assert process.stderr is not None
    message = process.stderr.read().splitlines()[-1]
    assert process.wait() == 128 + signal.SIGTERM
    assert message == "stopped by SIGTERM; run the same command again to continue"
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert list((small_project / ".dvc/tmp/exps/standalone").glob("tmp*")) == []

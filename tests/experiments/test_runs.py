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
from project import SOURCE, change_params, commit, read_committed, run

from lenet_cifar10.common.params import Params
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.experiments.runs import (
    FOLDER,
    Configuration,
    FailedRunError,
    configure,
    measure,
    parse_settings,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-3", 0.001),
        ("cosine", "cosine"),
        ('"a,b"', "a,b"),
        ("null", None),
        ('["https://x.org/a?x=1&y=2",file:///c d/e.tgz]', ["https://x.org/a?x=1&y=2", "file:///c d/e.tgz"]),
    ],
)
def test_settings_are_read_as_dvc_reads_them(text: str, value: Any) -> None:
    assert parse_settings([f"a.b={text}", f"params.yaml:c={text}"]) == {"a.b": value, "c": value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, "expected KEY=VALUE") for text in ("train.epochs", "=3", "+train.epochs=3", "~train.epochs")),
        *((f"train.epochs={grid}", "several values, expected one") for grid in ("3,4", "choice(3,4)", "range(1,4)")),
    ],
)
def test_a_setting_that_is_no_key_and_value_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_settings([text])


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
        ({"seed.x": 3}, "seed.x: unknown key; seed is no section"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            start.having(settings)


def test_the_digest_is_of_code_and_parameters_alone(small_project: Path) -> None:
    def digest(**settings: Any) -> str:
        return configure(small_project, settings).digest()

    start = digest()
    (small_project / "README.md").write_text("other words")
    (small_project / "stages/untracked.py").write_text("# DVC's copy lacks it")
    (small_project / "metrics").mkdir()
    (small_project / "metrics/test.json").write_text("{}")  # a dependency that a stage writes
    run(small_project, "git", "add", "README.md", "metrics")
    assert digest() == digest(**{"data.urls": ["/elsewhere.tar.gz"]}) == start
    found = {start, digest(seed=5)}
    for name in ("dvc.yaml", "stages/train.py"):
        with (small_project / name).open("a") as file:
            file.write("# changed\n")
        found.add(digest())
    assert len(found) == 4


def test_a_place_where_dvc_would_lose_or_refuse_experiments_is_refused(small_project: Path, tmp_path: Path) -> None:
    (small_project / "README.md").write_text("a second commit")
    commit(small_project, "second")
    run(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{small_project}", "shallow")
    with pytest.raises(UserError, match="shallow clone, where DVC loses experiments; run git fetch --unshallow"):
        configure(tmp_path / "shallow", {})
    run(small_project, "git", "update-ref", "-d", "HEAD")
    with pytest.raises(UserError, match="need a DVC project in a Git repository with a commit"):
        configure(small_project, {})
    with pytest.raises(UserError, match="the path must be ASCII"):
        configure(small_project.rename(tmp_path / "projet-été"), {})


def test_an_experiment_waits_for_its_turn_and_runs_once_with_the_uncommitted_changes(
    small_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_params(small_project, {"train.learning_rate": 0.25})
    status = run(small_project, "git", "status", "--porcelain").stdout
    configuration = configure(small_project, {"seed": 4, "train.schedule": "cosine"})
    (small_project / FOLDER).mkdir(parents=True)
    # The dvc of a killed command holds this: while it starts, the workspace is not as the user left it.
    with (small_project / FOLDER / "lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=measure, args=(small_project, configuration, "once"))
        thread.start()
        while not (message := capsys.readouterr().err):
            assert thread.is_alive()
            time.sleep(0.05)
        assert message == "another experiment runs in this clone; waiting for its end\n"
        assert not (small_project / FOLDER / "once.log").exists()
    thread.join()
    assert capsys.readouterr().err == f"once: runs; its output is in {FOLDER}/once.log\n"
    assert measure(small_project, configuration, "once")["validation_accuracy"] == pytest.approx(0.254)
    assert capsys.readouterr().err == ""
    assert "Running stage 'train'" in (small_project / FOLDER / "once.log").read_text()
    assert run(small_project, "git", "status", "--porcelain").stdout == status
    assert "schedule: cosine" in read_committed(small_project, "once", "params.yaml")


def test_a_failed_experiment_tells_the_reason_and_the_log(small_project: Path) -> None:
    with pytest.raises(FailedRunError) as caught:
        measure(small_project, configure(small_project, {"train.learning_rate": 2}), "failing")
    log = FOLDER / "failing.log"
    assert str(caught.value) == f"epoch 1: the loss is nan; choose a smaller learning rate; see {log}"


def test_code_that_changes_after_the_name_was_made_is_not_run(small_project: Path) -> None:
    configuration = configure(small_project, {})
    with (small_project / "stages/train.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(UserError, match=r"the code or params\.yaml was changed meanwhile"):
        measure(small_project, configuration, "late")
    assert not (small_project / FOLDER / "late.log").exists()


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

"""One configuration as a DVC experiment, once; and DVC's own grids and cleaning up."""

import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from project import Project, environment
from ruamel.yaml import YAML

from lenet_cifar10 import experiments
from lenet_cifar10.errors import UserError


@pytest.fixture(autouse=True)
def _an_author(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def digest(project: Project, *overrides: str, without: tuple[str, ...] = ()) -> str:
    return experiments.configure(project.folder, overrides, without).digest


def run(project: Project, name: str, *overrides: str) -> list[str]:
    """Have an experiment in this process; what was said."""
    said: list[str] = []
    configuration = experiments.configure(project.folder, overrides)
    experiments.run(project.folder, configuration, name, experiments.Stop(), said.append)
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_with_its_status_and_says_how_far_it_came(number: signal.Signals) -> None:
    said: list[str] = []
    before = signal.getsignal(number)

    def work() -> None:
        with experiments.resumable(lambda: 2, 5, said.append) as stop:
            os.kill(os.getpid(), number)
            stop.wait(60)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 128 + number
    assert said == ["stopped; finished so far: 2 of 5; give the same command again to go on"]
    assert signal.getsignal(number) == before


def test_a_mistake_is_told_after_how_far_it_came() -> None:
    said: list[str] = []
    with pytest.raises(UserError, match="mend me"), experiments.resumable(lambda: 2, 5, said.append):
        raise UserError("mend me")
    assert said == ["stopped by a mistake; finished so far: 2 of 5; mend it and give the same command again to go on"]


def log_of(project: Project, name: str) -> str:
    return project.read(f".resume/experiments/{name}.log").decode()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", "-S train.epochs: expected KEY=VALUE, such as train.epochs=5"),
        ("train.epochs=[", "-S train.epochs=[: expected KEY=VALUE"),
        ("train.epochs=3,4", "-S train.epochs=3,4: is a grid; give one value here"),
        ("train.learning_rat=1", "-S train.learning_rat=1: train.learning_rat is no parameter; did you mean"),
        ("train.seed=1", "train.seed is no parameter; did you mean seed?"),
        ("train.nope=1", "train.nope is no parameter; the keys are those of params.yaml"),
        ("=3", "-S =3: nothing is no parameter"),
        ("train={epochs: 3}", "train is a section; write a key in full, such as train.launcher"),
        ("+train.epochs=3", "no parameter can be added or removed"),
        ("~train.epochs", "no parameter can be added or removed"),
        ("other.yaml:epochs=3", "other.yaml is not params.yaml"),
        ("train.epochs=0", "train.epochs: found 0, expected a whole number from 1 to 10000"),
    ],
)
def test_a_wrong_override_is_told_before_anything_runs(bare_project: Project, override: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        experiments.configure(bare_project.folder, [override])


def test_a_configuration_is_checked_as_a_whole(bare_project: Project) -> None:
    with pytest.raises(UserError, match=r"has no effect with train\.optimizer adam"):
        experiments.configure(bare_project.folder, ["train.optimizer=adam"])
    found = experiments.configure(bare_project.folder, ["train.optimizer=adam", "train.momentum=0"])
    assert (found.params.train.optimizer, found.params.train.momentum) == ("adam", 0)
    assert bare_project.git("status", "--porcelain") == ""


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
@pytest.mark.parametrize("content", [None, "a: [", "- 1", ""])
def test_a_broken_project_is_told_in_one_line(bare_project: Project, name: str, content: str | None) -> None:
    path = bare_project.folder / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        experiments.configure(bare_project.folder, ["train.epochs=3"])
    assert len(str(caught.value).splitlines()) == 1


def test_a_project_without_a_commit_is_told_so(bare_project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "uncommitted"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_bytes(bare_project.read(name))
    Project(folder).git("init", "--quiet")
    with pytest.raises(UserError, match=r"any commits yet\); DVC's experiments need a Git repository with a commit$"):
        experiments.configure(folder)


def test_the_digest_is_of_code_and_parameters_and_of_nothing_else(bare_project: Project) -> None:
    start = digest(bare_project)
    assert re.fullmatch("[0-9a-f]{8}", start)
    assert digest(bare_project, "data.urls=[/elsewhere.tar.gz]") == start
    assert digest(bare_project, "train.epochs=20") == start  # as in params.yaml
    assert digest(bare_project, "seed=5", without=("seed",)) == digest(bare_project, without=("seed",))
    (bare_project.folder / "README.md").write_text("other words")
    assert digest(bare_project) == start
    found = {start, digest(bare_project, "train.epochs=21"), digest(bare_project, "seed=5")}
    for name in ("dvc.yaml", "src/lenet_cifar10/model.py", "stages/train.py"):
        path = bare_project.folder / name
        before = path.read_text()
        path.write_text(before + "# changed\n")
        found.add(digest(bare_project))
        path.write_text(before)
    assert digest(bare_project) == start
    bare_project.commit("other words")
    assert digest(bare_project) == start
    assert len(found) == 6


def test_other_parameters_are_as_if_they_had_been_given(bare_project: Project) -> None:
    start = experiments.configure(bare_project.folder, ["train.epochs=3", "train.epochs=4"])
    values = {"train.learning_rate": 1e-05, "train.epochs": 5, "model.dropout": 0, "train.schedule": "cosine"}
    found = start.having(values)
    assert found == experiments.configure(bare_project.folder, found.overrides)
    assert found.params.train.epochs == 5
    assert found.digest != start.digest
    with pytest.raises(UserError, match=r"model\.dropout: found 1, expected a number from 0, below 1"):
        start.having({"model.dropout": 1})


def test_an_experiment_runs_once_and_from_a_changed_workspace_which_stays_as_it_is(pipeline: Project) -> None:
    pipeline.change_params({"augment.scale": 0.25})
    (pipeline.folder / "README.md").write_text("being written\n")
    before, status = pipeline.read("params.yaml"), pipeline.git("status", "--porcelain")
    results: list[object] = []

    def have(name: str, override: str) -> None:
        results.append(run(pipeline, name, override, "train.epochs=1"))

    threads = [threading.Thread(target=have, args=(name, f"seed={name[-1]}")) for name in ("at-once-1", "at-once-2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(said) for said in results) == [
        f"['at-once-{number}: runs, with its output in .resume/experiments/at-once-{number}.log']" for number in (1, 2)
    ]
    assert set(experiments.existing(pipeline.folder)) == {"at-once-1", "at-once-2"}
    assert (pipeline.read("params.yaml"), pipeline.git("status", "--porcelain")) == (before, status)
    for number in (1, 2):
        shown = pipeline.git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/at-once-{number}").strip()
        params = pipeline.git("show", f"{shown}:params.yaml")
        assert f"seed: {number}\n" in params
        assert "scale: 0.25\n" in params
    log = log_of(pipeline, "at-once-1")
    run(pipeline, "at-once-1", "seed=1", "train.epochs=1")
    assert log_of(pipeline, "at-once-1") == log


def test_a_failed_experiment_tells_its_reason_and_where_its_output_is(pipeline: Project) -> None:
    diverging = ("train.learning_rate=100", "train.weight_decay=10")
    with pytest.raises(experiments.FailedError) as caught:
        run(pipeline, "diverging", *diverging)
    assert re.fullmatch(
        r"epoch \d: the loss is .* \(the output is in \.resume/experiments/diverging\.log\)", str(caught.value)
    )
    assert "Running stage 'train'" in log_of(pipeline, "diverging")
    assert experiments.existing(pipeline.folder) == {}
    assert list((pipeline.folder / ".dvc/tmp/exps/standalone").glob("tmp*")) == []


def test_a_project_that_changed_since_is_not_run(pipeline: Project) -> None:
    configuration = experiments.configure(pipeline.folder)
    pipeline.change_params({"model.dropout": 0.4})
    with pytest.raises(UserError, match=r"its code or params\.yaml is not what it was"):
        experiments.run(pipeline.folder, configuration, "late", experiments.Stop(), print)
    assert experiments.existing(pipeline.folder) == {}


def test_a_path_that_dvc_s_copies_cannot_have_is_told_at_once(bare_project: Project) -> None:
    folder = bare_project.folder.rename(bare_project.folder.with_name("projet-été"))
    with pytest.raises(UserError, match="DVC needs a path of ASCII letters"):
        experiments.configure(folder)


def test_what_is_not_the_parameters_fault_is_no_failed_experiment(bare_project: Project) -> None:
    with pytest.raises(UserError) as caught:
        run(bare_project, "no-data", "data.urls=[nowhere.tar.gz, elsewhere.tar.gz]")
    assert not isinstance(caught.value, experiments.FailedError)
    assert re.fullmatch(
        r"no-data: .*nowhere\.tar\.gz: .*; .*elsewhere\.tar\.gz: .* \(the output is in \S+/no-data\.log\)",
        str(caught.value),
    )


def test_parameters_that_are_edited_while_an_experiment_starts_are_told(
    pipeline: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration, environment_of_dvc = experiments.configure(pipeline.folder), experiments._environment

    def edit_at_the_last_moment() -> dict[str, str]:
        pipeline.change_params({"model.dropout": 0.4})
        return environment_of_dvc()

    monkeypatch.setattr(experiments, "_environment", edit_at_the_last_moment)
    with pytest.raises(UserError, match=r"its code or params\.yaml is not what it was"):
        experiments.run(pipeline.folder, configuration, "edited", experiments.Stop(), print)
    assert experiments.existing(pipeline.folder) == {}
    assert "dropout: 0.4" in pipeline.read("params.yaml").decode()


def test_an_experiment_of_the_name_but_with_other_parameters_is_told(pipeline: Project) -> None:
    run(pipeline, "named", "train.epochs=1")
    with pytest.raises(UserError, match=r"named: has other parameters than its name says.*dvc exp remove named"):
        run(pipeline, "named", "train.epochs=2")
    run(pipeline, "named", "train.epochs=1", "data.urls=[/a/mirror.tar.gz]")


def become_dvc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Have the first dvc that is started do this instead."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\n[ -e "$0.used" ] && exec {sys.executable} "$@"\ntouch "$0.used"\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_an_experiment_that_another_dvc_took_from_the_stash_is_started_again(
    pipeline: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_dvc(monkeypatch, tmp_path, "exit 0")  # as dvc ends then
    run(pipeline, "taken", "train.epochs=1")
    assert list(experiments.existing(pipeline.folder)) == ["taken"]


def test_what_a_killed_dvc_put_aside_is_told_and_comes_back(
    pipeline: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipeline.change_params({"augment.scale": 0.25})
    before = pipeline.read("params.yaml")
    # What DVC does first, and then it is killed; a process cannot be killed by plan at that moment.
    become_dvc(monkeypatch, tmp_path, "git stash --quiet; git switch --quiet --detach; kill -KILL $$")
    with pytest.raises(UserError, match="dvc was killed while it had put your changes aside") as caught:
        run(pipeline, "killed", "train.epochs=1")
    assert pipeline.read("params.yaml") != before
    _, _, restore = str(caught.value).partition("get them back with ")
    assert restore == "git reset --hard && git switch main && git stash pop"
    pipeline.run("sh", "-c", restore)
    assert pipeline.read("params.yaml") == before
    run(pipeline, "killed", "train.epochs=1")
    assert pipeline.read("params.yaml") == before


def test_what_a_killed_dvc_left_to_be_started_is_not_started(
    pipeline: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "_PATIENCE_SECONDS", 0.5)
    pipeline.git("update-ref", "--create-reflog", "refs/exps/stash", "HEAD")
    with pytest.raises(UserError, match="in refs/exps/stash is an experiment that a killed dvc did not") as caught:
        run(pipeline, "new", "train.epochs=1")
    (advice,) = re.findall("git update-ref -d [^ ]+", str(caught.value))
    pipeline.run(*advice.split())
    run(pipeline, "new", "train.epochs=1")
    assert list(experiments.existing(pipeline.folder)) == ["new"]


def weights_in_cache(project: Project, revision: str) -> Path:
    """Where DVC's cache has, or had, the weights of a commit."""
    lock = YAML(typ="safe").load(project.git("show", f"{revision}:dvc.lock"))
    (md5,) = [output["md5"] for output in lock["stages"]["train"]["outs"] if output["path"].startswith("data/model")]
    return project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def test_dvc_s_own_grid_runs_and_what_is_removed_leaves_the_cache(pipeline: Project) -> None:
    grid = ("-S", "train.learning_rate=0.001,0.002", "-S", "train.epochs=1")
    assert pipeline.dvc("exp", "run", "--queue", "--name", "rate", *grid).count("Queued experiment") == 2
    pipeline.dvc("exp", "run", "--run-all")
    rows = list(csv.DictReader(pipeline.dvc("exp", "show", "--csv").splitlines()))
    assert {row["Experiment"]: row["train.learning_rate"] for row in rows if row["Experiment"]} == {
        "rate-1": "0.001",
        "rate-2": "0.002",
    }
    first, second, committed = (
        weights_in_cache(pipeline, pipeline.git("for-each-ref", "--format=%(objectname)", ref).strip())
        for ref in ("refs/exps/*/*/rate-1", "refs/exps/*/*/rate-2", "refs/heads/main")
    )
    pipeline.dvc("exp", "remove", "rate-2")
    assert second.exists()
    pipeline.dvc("gc", "--workspace", "--all-experiments", "--force")
    assert [path.exists() for path in (first, second, committed)] == [True, False, True]
    pipeline.dvc("exp", "remove", "--all-commits")
    pipeline.dvc("gc", "--workspace", "--force")
    assert [path.exists() for path in (first, second, committed)] == [False, False, True]
    assert pipeline.dvc("exp", "list", "--name-only").split() == []
    assert "up to date" in pipeline.dvc("status")
    assert pipeline.git("status", "--porcelain") == ""


def test_a_killed_dvc_leaves_a_copy_that_can_be_removed(pipeline: Project) -> None:
    process = subprocess.Popen(
        ["dvc", "exp", "run", "--temp", "--name", "killed", "-S", "train.epochs=2000"],
        cwd=pipeline.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert any(line.startswith("epoch 2/") for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    copies = pipeline.folder / ".dvc/tmp/exps/standalone"
    assert len(list(copies.glob("tmp*"))) == 1
    pipeline.run("rm", "-rf", ".dvc/tmp/exps/standalone", ".dvc/tmp/exps/run")
    run(pipeline, "after", "train.epochs=1")
    assert list(experiments.existing(pipeline.folder)) == ["after"]


def test_the_end_of_the_process_that_wanted_it_ends_an_experiment(pipeline: Project) -> None:
    code = (
        "from pathlib import Path; from lenet_cifar10 import experiments as e; root = Path.cwd();"
        "e.run(root, e.configure(root, ['train.epochs=2000']), 'orphan', e.Stop(), print)"
    )
    worker = subprocess.Popen(["python", "-c", code], cwd=pipeline.folder, env=environment())
    log = pipeline.folder / ".resume/experiments/orphan.log"
    deadline = time.monotonic() + 120
    while not (log.exists() and "\nepoch 2/" in log.read_text()):
        assert time.monotonic() < deadline
        assert worker.poll() is None
        time.sleep(0.1)
    (dvc,) = psutil.Process(worker.pid).children()
    started = [dvc, *dvc.children(recursive=True)]
    worker.kill()
    worker.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
    assert "\nstopped by SIGINT" in log.read_text()
    assert experiments.existing(pipeline.folder) == {}
    assert list((pipeline.folder / ".dvc/tmp/exps/standalone").glob("tmp*")) == []

"""The same bits again: after a rerun, in another folder, in a copy, beside another run, and after a kill."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from chaos import disturb, hash_outputs
from project import Project, environment
from ruamel.yaml import YAML

RESULTS = ("data/model/lenet.safetensors", "plots/history.csv", "metrics/train.json")


def outputs_in_lock(text: str) -> dict[str, str]:
    """The MD5 of each output in the text of a dvc.lock."""
    stages = YAML(typ="safe").load(text)["stages"].values()
    return {output["path"]: output["md5"] for stage in stages for output in stage["outs"]}


def commit_of(project: Project, experiment: str) -> str:
    """The commit of an experiment."""
    (line,) = project.git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{experiment}").splitlines()
    return line


def lock_of(project: Project, revision: str = "HEAD") -> dict[str, str]:
    return outputs_in_lock(project.git("show", f"{revision}:dvc.lock"))


def test_a_forced_rerun_gives_every_byte_again(pipeline: Project) -> None:
    before = hash_outputs(pipeline)
    assert len(before) > 12
    text = pipeline.dvc("repro", "--force")
    assert text.count("Running stage") == 6
    assert "resuming" not in text
    assert hash_outputs(pipeline) == before


def test_a_forced_training_alone_is_not_answered_from_the_one_before(pipeline: Project) -> None:
    before = pipeline.read(RESULTS[0])
    for _ in range(2):
        text = pipeline.dvc("repro", "--force", "--single-item", "train")
        assert "resuming" not in text
        assert "\nepoch 1/2: " in text
        assert pipeline.read(RESULTS[0]) == before


def test_a_training_that_ended_before_dvc_had_its_weights_is_not_repeated(pipeline: Project) -> None:
    before = {name: pipeline.read(name) for name in RESULTS}
    shutil.rmtree(pipeline.folder / ".dvc/cache")  # as when dvc is killed right after the stage
    shutil.rmtree(pipeline.folder / ".dvc/tmp")
    assert "\nepoch 1/2: " in pipeline.stage("train").text
    for name in RESULTS:
        (pipeline.folder / name).unlink()
    text = pipeline.dvc("repro", "--single-item", "train")
    assert "\nresuming at epoch 3: 2 of 2 epochs were kept\n" in text
    assert {name: pipeline.read(name) for name in RESULTS} == before


def test_a_clone_in_another_folder_gives_every_byte_again(pipeline: Project, tmp_path: Path) -> None:
    clone = Project(tmp_path / "elsewhere" / "a clone with spaces")
    pipeline.git("clone", "--quiet", str(pipeline.folder), str(clone.folder))
    assert clone.dvc("repro", "--force").count("Running stage") == 6
    assert hash_outputs(clone) == hash_outputs(pipeline)
    assert clone.git("status", "--porcelain") == ""


def test_a_forced_experiment_in_a_copy_gives_every_byte_again(pipeline: Project) -> None:
    text = pipeline.dvc("exp", "run", "--temp", "--force", "--name", "copy")
    assert text.count("Running stage") == 6
    assert lock_of(pipeline, commit_of(pipeline, "copy")) == lock_of(pipeline)
    assert pipeline.git("diff", "HEAD", commit_of(pipeline, "copy"), "--", "metrics", "plots") == ""


def test_two_queued_experiments_at_once_give_the_bytes_of_each_alone(pipeline: Project, tmp_path: Path) -> None:
    alone = {}
    for seed in (1, 2):
        clone = Project(tmp_path / f"alone-{seed}")
        pipeline.git("clone", "--quiet", str(pipeline.folder), str(clone.folder))
        clone.change_params({"seed": seed})
        clone.dvc("repro", "--force")
        alone[seed] = outputs_in_lock(clone.read("dvc.lock").decode())
        pipeline.dvc("exp", "run", "--queue", "--force", "--name", f"seed-{seed}", "-S", f"seed={seed}")
    pipeline.dvc("queue", "start", "-j", "2")
    pipeline.dvc("queue", "logs", "--follow", "seed-1", check=False)
    pipeline.dvc("queue", "logs", "--follow", "seed-2", check=False)
    deadline = time.monotonic() + 120
    while "Running" in (status := pipeline.dvc("queue", "status")) or "Queued" in status:
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert status.count("Success") == 2, status
    assert {seed: lock_of(pipeline, commit_of(pipeline, f"seed-{seed}")) for seed in (1, 2)} == alone
    assert alone[1] != alone[2]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "3"},
        {"MKL_NUM_THREADS": "3"},
        {"OMP_THREAD_LIMIT": "1"},
        {"OMP_MAX_ACTIVE_LEVELS": "0"},
        {"OMP_DYNAMIC": "true", "MKL_DYNAMIC": "true"},
    ],
    ids=str,
)
def test_the_environment_s_number_of_threads_changes_nothing(
    pipeline: Project, threads: int, variables: dict[str, str]
) -> None:
    pipeline.change_params({"train.threads": threads})
    outputs = []
    for chosen in ([], [f"{name}={value}" for name, value in variables.items()]):
        shutil.rmtree(pipeline.folder / ".resume", ignore_errors=True)
        told = pipeline.run("env", *chosen, sys.executable, "stages/train.py", PYTHONPATH="src").text
        assert f"{threads} threads" in told
        assert "resuming" not in told
        outputs.append({name: pipeline.read(name) for name in RESULTS})
    assert outputs[0] == outputs[1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="needs a choice of cores")
def test_two_threads_on_one_core_give_the_same_bits(pipeline: Project) -> None:
    pipeline.change_params({"train.threads": 2})
    outputs = []
    for start in ([], ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]):
        shutil.rmtree(pipeline.folder / ".resume", ignore_errors=True)
        pipeline.run(*start, sys.executable, "stages/train.py", PYTHONPATH="src")
        outputs.append({name: pipeline.read(name) for name in RESULTS})
    assert outputs[0] == outputs[1]


def start_training(project: Project, epoch: int, *command: str) -> subprocess.Popen[str]:
    """Run a command in a session of its own until its training has finished so many epochs."""
    process = subprocess.Popen(
        command or ("dvc", "repro"),
        cwd=project.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"epoch {epoch}/"):
            return process
    raise AssertionError(f"{command} ended before epoch {epoch}")


@pytest.fixture
def long_pipeline(pipeline: Project, tmp_path: Path) -> tuple[Project, dict[str, str]]:
    """A project whose training takes seconds, and the hashes of an undisturbed run of it."""
    pipeline.change_params({"train.epochs": 30, "figures.dpi": 51})
    pipeline.commit("longer")
    undisturbed = Project(tmp_path / "undisturbed")
    shutil.copytree(pipeline.folder, undisturbed.folder, symlinks=True)
    undisturbed.dvc("repro")
    return pipeline, hash_outputs(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    long_pipeline: tuple[Project, dict[str, str]], number: signal.Signals
) -> None:
    project, expected = long_pipeline
    process = start_training(project, 7)
    os.killpg(process.pid, number)
    told, _ = process.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert f"stopped by {number.name}: epochs 1 to " in told
    assert "Traceback" not in told
    text = project.dvc("repro")
    assert "\nresuming at epoch " in text
    assert hash_outputs(project) == expected


def test_an_experiment_in_a_copy_goes_on_from_one_that_was_killed(
    long_pipeline: tuple[Project, dict[str, str]],
) -> None:
    project, _ = long_pipeline
    process = start_training(project, 7, "dvc", "exp", "run", "--temp", "--name", "first")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    text = project.dvc("exp", "run", "--temp", "--name", "second")
    assert "\nresuming at epoch " in text


def test_a_second_run_of_the_same_thing_waits_and_is_answered_from_the_first(
    long_pipeline: tuple[Project, dict[str, str]],
) -> None:
    project, _ = long_pipeline
    first = start_training(project, 1, "dvc", "exp", "run", "--temp", "--name", "first")
    children = psutil.Process(first.pid).children(recursive=True)
    (stage,) = [child for child in children if "stages/train.py" in child.cmdline()[-1:]]
    stage.suspend()
    second = subprocess.Popen(
        ["dvc", "exp", "run", "--temp", "--name", "second"],
        cwd=project.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert second.stdout is not None
    assert any(line == "waiting for another process that trains the same thing\n" for line in second.stdout)
    stage.resume()
    first.communicate(timeout=60)
    text, _ = second.communicate(timeout=60)
    assert text.startswith("resuming at epoch 31: 30 of 30 epochs were kept\n")
    assert lock_of(project, commit_of(project, "first")) == lock_of(project, commit_of(project, "second"))


IN_OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c")


def can_mount_a_small_disk() -> bool:
    """Whether this system lets anybody mount one that only his own processes see: most Linux systems do."""
    if not shutil.which("unshare"):
        return False
    return (
        subprocess.run([*IN_OWN_MOUNTS, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_mount_a_small_disk(), reason="this system lets nobody mount a small disk")
def test_a_disk_that_fills_up_keeps_the_epochs_before(pipeline: Project) -> None:
    before = {name: pipeline.read(name) for name in RESULTS}
    shutil.rmtree(pipeline.folder / ".resume")
    (pipeline.folder / ".resume").mkdir()
    # Checkpoints are some 7 MB. The first fits on this disk; the second, which must not replace it in place, does not.
    script = f"""
        mount -t tmpfs -o size=10m none .resume
        {sys.executable} stages/train.py
        echo status $?
        mount -o remount,size=50m .resume
        {sys.executable} stages/train.py
    """
    result = pipeline.run(*IN_OWN_MOUNTS, script, PYTHONPATH="src")
    first, second = result.text.split("status 1\n")
    assert "epoch 1/2: " in first
    assert "epoch 2/2: " not in first
    assert re.search(r"error: \S+\.checkpoint: No space left on device; mend this and run again\n$", first), first
    assert "resuming at epoch 2" in second
    assert {name: pipeline.read(name) for name in RESULTS} == before


def test_another_run_never_goes_on_from_a_checkpoint_that_is_not_its_own(
    long_pipeline: tuple[Project, dict[str, str]],
) -> None:
    project, _ = long_pipeline
    process = start_training(project, 7)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    project.change_params({"train.learning_rate": 0.01})
    assert "resuming" not in project.dvc("repro", "train")
    project.git("restore", "params.yaml")
    code = project.folder / "src/lenet_cifar10/augment.py"
    code.write_text(code.read_text() + "# changed\n")
    assert "resuming" not in project.dvc("repro", "train")
    project.git("restore", "src")
    assert "resuming at epoch" in project.dvc("repro", "train")


def test_a_finished_training_whose_evaluation_was_killed_is_not_repeated(
    long_pipeline: tuple[Project, dict[str, str]],
) -> None:
    project, expected = long_pipeline
    evaluate = project.folder / "stages/evaluate.py"
    good = evaluate.read_text()
    evaluate.write_text(
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    project.commit("evaluate kills dvc")
    project.dvc("exp", "run", "--temp", "--name", "killed", check=False)
    evaluate.write_text(good)
    project.git("reset", "--quiet", "--hard", "HEAD~1")
    text = project.dvc("exp", "run", "--temp", "--name", "again")
    assert "Stage 'train' is cached - skipping run" in text
    project.dvc("exp", "apply", "again")
    assert hash_outputs(project) == expected


def test_after_evaluation_no_checkpoint_is_left(pipeline: Project) -> None:
    pipeline.dvc("repro", "--force")
    assert list((pipeline.folder / ".resume/checkpoints").glob("*.checkpoint")) == []


@pytest.mark.parametrize(("processes", "kills"), [(1, 4), (2, 1)])
def test_a_few_random_kills_change_no_byte(processes: int, kills: int) -> None:
    report = disturb(kills, seed=1, processes=processes, log=False)
    assert report.problems == [], str(report)
    assert report.kills_of(processes) >= kills


def test_environment_json_tells_what_decides_the_bits(pipeline: Project) -> None:
    told = YAML(typ="safe").load(pipeline.read("metrics/environment.json").decode())
    assert list(told) == [
        "device",
        "device_name",
        "cpu_capability",
        "threads",
        "python",
        "torch",
        "torchvision",
        "numpy",
    ]
    assert told["threads"] == 1
    assert "environment.json" not in str(
        YAML(typ="safe").load(pipeline.read("dvc.yaml").decode())["stages"]["evaluate"]
    )

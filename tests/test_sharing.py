"""Runs that leave the clone they were made in: over a folder, over S3, and by a database that two clones share.

The S3 server is moto's, on this machine; nothing here leaves it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from dvc.repo import Repo
from moto.server import ThreadedMotoServer
from PIL import Image
from project import SOURCE, Project, environment
from test_sweep import choose, start, trainings, wait_for_epoch
from test_workflow import stages_run

WEIGHTS = "data/model/lenet.safetensors"
CHANGED = "augment.rotation_degrees=0"  # of the experiment "calm"


@dataclass(frozen=True)
class Remote:
    """Where a DVC remote is, and what DVC has to be told of it beside that."""

    url: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def add_to(self, project: Project) -> None:
        """Make it the project's default remote."""
        project.dvc("remote", "add", "--default", "--local", "store", self.url)
        for name, value in self.settings.items():
            project.dvc("remote", "modify", "--local", "store", name, value)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """A remote in a new bucket, for which the environment has a name and a secret that open nothing."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nothing")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        (tmp_path / name).touch()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    requests.put(f"{s3_server}/bucket", timeout=60).raise_for_status()
    yield Remote("s3://bucket/lenet", {"endpointurl": s3_server})
    requests.post(f"{s3_server}/moto-api/reset", timeout=60).raise_for_status()


@pytest.fixture
def folder(tmp_path: Path) -> Remote:
    """A remote in a folder."""
    return Remote(str(tmp_path / "store"))


@pytest.fixture(params=["folder", "s3"])
def remote(request: pytest.FixtureRequest) -> Remote:
    """Each kind of remote in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def two_runs(pipeline_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a committed run and the experiment calm. Copy it, leave it."""
    folder = tmp_path_factory.mktemp("two_runs") / "project"
    shutil.copytree(pipeline_template, folder, symlinks=True)
    Project(folder).dvc("exp", "run", "--temp", "--name", "calm", "-S", CHANGED)
    return folder


@pytest.fixture
def here(two_runs: Path, tmp_path: Path) -> Project:
    """Where it was run: a project with an experiment, and origin, the Git repository that clones share."""
    return with_origin(Project(Path(shutil.copytree(two_runs, tmp_path / "here", symlinks=True))))


def with_origin(project: Project) -> Project:
    origin = project.folder.parent / "origin.git"
    project.git("clone", "--quiet", "--bare", ".", origin)
    project.git("remote", "add", "origin", origin)
    return project


def clone(project: Project, name: str, remote: Remote | None = None) -> Project:
    """A new clone of the project's origin, in a folder of its own, perhaps with the remote, but without data."""
    folder = project.folder.parent / "elsewhere" / name
    project.git("clone", "--quiet", project.folder.parent / "origin.git", folder)
    cloned = Project(folder)
    if remote:
        remote.add_to(cloned)
    return cloned


def documented(heading: str) -> list[str]:
    """The command lines below a heading of data/README.md, without their comments."""
    text = (SOURCE / "data/README.md").read_text()
    block = text[text.index(heading) :].split("```")[1]
    return [re.sub(r" {2,}#.*", "", line).strip() for line in block.splitlines() if line.strip()]


def follow(project: Project, heading: str, remote: Remote) -> dict[str, str]:
    """What each of these lines prints; the one that names the remote is answered by this one."""
    said = {}
    for line in documented(heading):
        if line.startswith("dvc remote add "):
            remote.add_to(project)
        else:
            said[line] = project.run("bash", "-c", line).text
    return said


def committed(project: Project, experiment: str, path: str) -> str:
    """A file of an experiment."""
    commit = project.git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{experiment}").strip()
    return project.git("show", f"{commit}:{path}")


def data_of(project: Project) -> set[str]:
    """The files in data/ that Git does not track."""
    return set(project.git("ls-files", "--others", "data").split())


def test_no_remote_is_set_and_none_is_needed_to_be_told_so(bare_project: Project) -> None:
    assert bare_project.dvc("remote", "list").strip() == ""
    assert "remote" not in bare_project.read(".dvc/config").decode()
    result = bare_project.run("lenet-cifar10", "push-runs", check=False)
    assert result.status == 1
    assert re.match(r"error: the default remote: .*no remote specified.*dvc remote add", result.text)
    assert len(result.text.splitlines()) == 1


def test_what_is_documented_brings_everything_elsewhere_where_nothing_reruns(here: Project, remote: Remote) -> None:
    pushed = follow(here, "Where it was run", remote)
    assert "7 files pushed" in pushed["dvc push"]
    there = clone(here, "pulled")
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).save(there.folder / "photo.jpg")
    assert data_of(there) == set()
    said = follow(there, "Elsewhere", remote)
    assert "7 files added" in said["dvc pull"]
    assert stages_run(said["dvc repro"]) == []
    assert "Data and pipelines are up to date." in said["dvc repro"]
    assert "calm" in said["dvc exp list origin"]
    assert said["lenet-cifar10 compare HEAD calm"] == here.run("lenet-cifar10", "compare", "HEAD", "calm").text
    assert "in calm\n" in said["lenet-cifar10 predict photo.jpg --rev calm"]
    there.dvc("exp", "apply", "calm")
    assert stages_run(there.dvc("repro")) == []
    assert "all as in dvc.lock" in there.run("lenet-cifar10", "verify").text
    assert there.read(WEIGHTS) != here.read(WEIGHTS)


def test_a_repeated_experiment_comes_from_the_pulled_run_cache_without_training(here: Project, remote: Remote) -> None:
    remote.add_to(here)
    here.dvc("push")
    lacked = here.run("lenet-cifar10", "push-runs").text
    assert re.fullmatch(r"10 runs pushed, with [1-9]\d* files that the remote lacked\n", lacked)
    again = here.run("lenet-cifar10", "push-runs").text
    assert again == "10 runs pushed, with 0 files that the remote lacked\n"
    there = clone(here, "repeats", remote)
    text = there.dvc("exp", "run", "--pull", "--temp", "--name", "again", "-S", CHANGED)
    assert stages_run(text) == []
    assert "Stage 'train' is cached" in text
    for path in ("metrics/train.json", "plots/predictions.csv", "dvc.lock"):
        assert committed(there, "again", path) == committed(here, "calm", path)
    assert there.git("status", "--porcelain") == ""


def test_dvc_alone_leaves_behind_what_git_tracks(here: Project, folder: Remote) -> None:
    """Why there is push-runs: as soon as this fails DVC does it, and the command can go."""
    folder.add_to(here)
    here.dvc("push", "--run-cache")
    assert len(list(Path(folder.url, "runs").glob("*/*/*"))) == 10

    def is_sent(path: str) -> bool:
        md5 = here.run("md5sum", path).text.split()[0]
        return Path(folder.url, "files/md5", md5[:2], md5[2:]).exists()

    assert [is_sent(path) for path in (WEIGHTS, "metrics/train.json")] == [True, False]
    here.run("lenet-cifar10", "push-runs")
    assert [is_sent(path) for path in (WEIGHTS, "metrics/train.json")] == [True, True]


def test_runs_whose_outputs_are_gone_from_the_cache_do_not_stop_the_others(here: Project, folder: Remote) -> None:
    folder.add_to(here)
    for path in (here.folder / ".dvc/cache/files/md5").glob("*/*.dir"):
        path.unlink()
    told = here.run("lenet-cifar10", "push-runs").text
    assert re.search(r"^10 runs pushed, with [1-9]\d* files that the remote lacked\n\Z", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "a-file",
            "remote bad: .*Not a directory.*; see whether dvc remote list has it, and whether you may write to it",
        ),
        ("gs://bucket/lenet", "remote bad: .*requires 'dvc-gs' to be installed; pip install it"),
    ],
)
def test_a_remote_that_cannot_be_used_is_told_in_one_line(pipeline: Project, url: str, words: str) -> None:
    (pipeline.folder / "a-file").touch()
    pipeline.dvc("remote", "add", "--local", "bad", url)
    result = pipeline.run("lenet-cifar10", "push-runs", "--remote", "bad", check=False)
    assert result.status == 1
    assert re.fullmatch(f"error: {words}.*\n", result.text)


def test_a_record_that_did_not_arrive_is_told(pipeline: Project, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "runs").touch()  # in the way: DVC says so, and ends well
    pipeline.dvc("remote", "add", "--default", "--local", "store", store)
    result = pipeline.run("lenet-cifar10", "push-runs", check=False)
    assert result.status == 1
    assert result.text.endswith("error: the default remote: 6 files could not be sent; give the command again\n")


def test_another_dvc_at_work_is_told_in_one_line(pipeline: Project) -> None:
    with Repo(str(pipeline.folder)).lock:
        result = pipeline.run("lenet-cifar10", "push-runs", check=False)
    assert result.status == 1
    assert result.text == (
        f"error: {pipeline.folder}: another dvc is at work there; give the command again when it is done\n"
    )


def test_a_clone_without_data_trains_only_what_changed(here: Project, folder: Remote) -> None:
    folder.add_to(here)
    here.dvc("push")
    there = clone(here, "changes", folder)
    assert stages_run(there.dvc("repro", "--pull", "--allow-missing")) == []
    assert data_of(there) == set()
    there.change_params({"train.epochs": 1})
    text = there.dvc("repro", "--pull", "--allow-missing")
    assert stages_run(text) == ["train", "evaluate", "figures", "card"]
    pulled = {f"data/prepared/{name}" for name in ("train.npz", "validation.npz", "test.npz", "classes.json")}
    assert data_of(there) == {*pulled, WEIGHTS, "data/model/card.md"}


def test_a_sweep_in_two_clones_runs_each_trial_once_also_when_a_worker_is_killed(
    pipeline: Project, folder: Remote, tmp_path: Path
) -> None:
    choose(pipeline, "train.learning_rate: {low: 0.05, high: 0.06}\ntrain.epochs: 30\n")
    with_origin(pipeline)
    folder.add_to(pipeline)
    pipeline.dvc("push")
    clones = [clone(pipeline, name, folder) for name in ("one", "other")]
    for project in clones:
        project.dvc("pull")
    one, other = clones
    words = ("--trials", "2", "--study", f"sqlite:///{tmp_path / 'study.sqlite3'}", "--grace", "10")
    killed, second = start(one, *words), start(other, *words)
    log = wait_for_epoch(one, "sweep-*.log", 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    third = start(one, *words)
    texts = [command.communicate(timeout=300)[0] for command in (third, second)]
    assert [command.returncode for command in (third, second)] == [0, 0], texts

    ran = [re.findall(r"\ntrial (\d+): validation accuracy", text) for text in texts]
    assert len({*ran[0], *ran[1]}) == len(ran[0] + ran[1]) == 2
    found = [set(project.dvc("exp", "list", "--name-only").split()) for project in clones]
    assert len(found[0] | found[1]) == len(found[0]) + len(found[1]) == 2
    assert log.stem in found[0] | found[1]  # the killed worker's, taken up in either clone
    assert [len(names) for names in found] == [len(numbers) for numbers in ran]
    assert trainings(other, "sweep-*.log") == len(found[1])

    report = texts[0] if "is not here" in texts[0] else texts[1]
    assert sum("is not here" in text for text in texts) == 1
    without, having = clones if report is texts[0] else reversed(clones)
    (push,) = re.findall(r"there (dvc exp push origin \S+),", report)
    (pull,) = re.findall(r"here (dvc exp pull origin \S+),", report)
    (apply,) = re.findall(r"apply the best: (dvc exp apply \S+)\n", report)
    having.run(*push.split())
    without.run(*pull.split())
    without.run(*apply.split())
    accuracy = json.loads(without.read("metrics/train.json"))["validation_accuracy"]
    assert f"{accuracy:.4f}" == max(re.findall(r"validation accuracy ([\d.]+), best", "".join(texts)))
    assert stages_run(without.dvc("repro")) == []


def test_seeds_of_two_clones_are_reported_in_one(pipeline: Project, folder: Remote) -> None:
    with_origin(pipeline)
    folder.add_to(pipeline)
    pipeline.dvc("push")
    one, other = (clone(pipeline, name, folder) for name in ("one", "other"))
    command = ("lenet-cifar10", "seeds", "1", "-S", "train.epochs=1", "--first")
    commands = []
    for seed, project in enumerate((one, other)):
        project.dvc("pull")
        commands.append(subprocess.Popen([*command, str(seed)], cwd=project.folder, env=environment()))
    assert [running.wait(timeout=240) for running in commands] == [0, 0]
    assert [trainings(project, "seeds-*.log") for project in (one, other)] == [1, 1]
    other.dvc("exp", "push", "origin")
    one.dvc("exp", "pull", "origin")
    both = one.run("sh", "-c", "lenet-cifar10 seeds 2 -S train.epochs=1 --json 2>/dev/null").text
    (runs,) = json.loads(both)["configurations"]
    values = runs["figures"]["validation_accuracy"]["values"]
    for seed, project in (("0", one), ("1", other)):
        told = json.loads(committed(project, runs["experiments"][seed], "metrics/train.json"))
        assert values[seed] == told["validation_accuracy"]
    assert len(list((one.folder / ".resume/experiments").glob("*.log"))) == 1  # of its own seed; the other was not run

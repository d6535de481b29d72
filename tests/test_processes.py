"""Training on several processes, started by the real torchrun on the CPU: the same bytes, and what happens to the dead.

The batch of 149 of 300 images leaves a last batch of 2, fewer than its 4 parts.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from project import SOURCE, Project, environment
from test_training import start

from lenet_cifar10.errors import UserError
from lenet_cifar10.launcher import Place
from lenet_cifar10.plan import plan_share
from lenet_cifar10.processes import Team, choose_interface

FILES = ("data/model/lenet.safetensors", "plots/history.csv", "metrics/train.json", "metrics/environment.json")
PARAMS = {
    "train.shards": 4,
    "train.threads": 1,
    "train.batch_size": 149,
    "train.epochs": 3,
    "model.dropout": 0.5,
    "augment.rotation_degrees": 10,
}


@pytest.fixture
def cut(pipeline: Project) -> Project:
    """A project with prepared data, whose batches are cut into four parts."""
    pipeline.change_params(PARAMS)
    return pipeline


def launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable]
    return ["torchrun", "--standalone", "--nproc-per-node", str(processes)]


def forget(project: Project) -> None:
    """Remove what trainings have left."""
    shutil.rmtree(project.folder / ".resume", ignore_errors=True)
    for name in FILES:
        (project.folder / name).unlink(missing_ok=True)


def train(project: Project, processes: int) -> str:
    """Train with so many processes; what was said."""
    return project.run(*launcher(processes), "stages/train.py", PYTHONPATH="src").text


def results(project: Project) -> dict[str, bytes]:
    return {name: project.read(name) for name in FILES}


def test_1_2_and_4_processes_give_the_same_bytes(cut: Project) -> None:
    found = []
    for processes in (1, 2, 4):
        forget(cut)
        text = train(cut, processes)
        assert f"{processes} processes: 3 epochs" in text or processes == 1
        assert text.count("\nepoch 3/3: ") == 1  # of the one that leads
        found.append(results(cut))
    assert found[1] == found[0]
    assert found[2] == found[0]
    forget(cut)
    cut.change_params({"train.shards": 2})
    train(cut, 2)
    assert results(cut)[FILES[0]] != found[0][FILES[0]]  # another number of parts is another rounding


def test_processes_without_an_image_change_nothing(cut: Project) -> None:
    cut.change_params({"train.batch_size": 2, "train.epochs": 1})  # of four parts two are empty, in each batch
    found = []
    for processes in (1, 2, 4):
        forget(cut)
        train(cut, processes)
        found.append(results(cut))
    assert found[1] == found[0]
    assert found[2] == found[0]


class Run:
    """A training that has begun, in a process group of its own."""

    def __init__(self, project: Project, processes: int, *words: str) -> None:
        self.log = project.folder / "log.txt"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*launcher(processes), *(words or ["stages/train.py"])],
                cwd=project.folder,
                env=environment(PYTHONPATH="src"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 120
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def workers(self) -> dict[int, psutil.Process]:
        """torchrun's processes by their ranks."""
        return {int(child.environ()["RANK"]): child for child in psutil.Process(self.process.pid).children()}


def test_two_processes_go_on_where_one_was_stopped_and_the_other_way_round(cut: Project) -> None:
    cut.change_params({"train.epochs": 12})
    train(cut, 1)
    expected = results(cut)
    for first, second in ((1, 2), (2, 1)):
        forget(cut)
        run = Run(cut, first)
        run.wait_for("\nepoch 2/12")
        run.process.terminate()
        assert run.process.wait(60) != 0
        assert "stopped by SIGTERM: epochs 1 to " in run.log.read_text()
        assert "\nresuming at epoch " in train(cut, second)
        assert results(cut) == expected


@pytest.mark.parametrize("victim", ["first", "second", "agent"])
def test_the_end_of_one_ends_all_and_the_next_run_goes_on(cut: Project, victim: str) -> None:
    cut.change_params({"train.epochs": 200})
    forget(cut)
    run = Run(cut, 2)
    run.wait_for("\nepoch 2/200")
    workers = run.workers()
    killed = psutil.Process(run.process.pid) if victim == "agent" else workers[["first", "second"].index(victim)]
    killed.kill()
    assert run.process.wait(60) != 0
    _, alive = psutil.wait_procs(list(workers.values()), timeout=60)
    assert alive == []
    assert not (cut.folder / FILES[0]).exists()
    assert "lenet_cifar10" not in "".join(part for part in run.log.read_text().split("Traceback")[1:])
    again = Run(cut, 2)
    again.wait_for("\nresuming at epoch ")
    again.wait_for("\nepoch ")
    os.killpg(again.process.pid, signal.SIGINT)
    assert again.process.wait(60) != 0


@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_can_start_all_again_which_then_go_on(cut: Project, victim: int) -> None:
    cut.change_params({"train.epochs": 12})
    train(cut, 1)
    expected = results(cut)
    forget(cut)
    run = Run(cut, 2, "--max-restarts", "1", "stages/train.py")
    run.wait_for("\nepoch 2/12")
    run.workers()[victim].kill()
    assert run.process.wait(120) == 0, run.log.read_text()
    assert "\nresuming at epoch " in run.log.read_text()
    assert results(cut) == expected


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        (0, "stopped by SIGTERM: epochs 1 to "),
        (1, "error: another process of this run has ended, or no longer answers ("),
    ],
)
def test_one_that_hangs_ends_all(cut: Project, victim: int, words: str) -> None:
    cut.change_params({"train.epochs": 2000})
    forget(cut)
    (cut.folder / "impatient.py").write_text(
        """
import runpy
from datetime import timedelta
from lenet_cifar10 import processes
processes._ANSWER = timedelta(seconds=5)
runpy.run_path("stages/train.py", run_name="__main__")
"""
    )
    run = Run(cut, 2, "impatient.py")
    run.wait_for("\nepoch 2/2000")
    workers = run.workers()
    workers[victim].suspend()
    workers[1 - victim].wait(60)
    workers[victim].resume()  # else torchrun would end it, after 30 seconds more
    assert run.process.wait(60) != 0
    _, alive = psutil.wait_procs(list(workers.values()), timeout=60)
    assert alive == []
    assert run.log.read_text().count(words) == 1
    assert not (cut.folder / FILES[0]).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train.shards": 3},
            "expected a multiple of the 2 processes that train.launcher starts, or a WORLD_SIZE left over tells of",
        ),
        ({"train.learning_rate": 100, "train.weight_decay": 10}, "training has diverged; lower train.learning_rate"),
        ({"device": "cuda:0"}, "device: found cuda:0, but train.launcher starts 2 processes; use auto or cpu"),
    ],
)
def test_a_mistake_is_told_first_and_once(cut: Project, changes: dict[str, float], message: str) -> None:
    before = results(cut)
    cut.change_params(changes)
    result = cut.run(*launcher(2), "stages/train.py", check=False, PYTHONPATH="src")
    assert result.status != 0
    assert result.text.count("\nerror: ") + result.text.startswith("error: ") == 1
    (line,) = [line for line in result.text.splitlines() if line.startswith("error: ")]
    assert line.endswith(message)
    assert result.text.index(line) < result.text.index("ChildFailedError")
    assert {name: content for name, content in results(cut).items() if name != FILES[1]} == {
        name: content for name, content in before.items() if name != FILES[1]
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def node(rank: int, port: int) -> dict[str, str]:
    """The variables by which torchrun is told of two machines."""
    where = {"PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(port)}
    return {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(rank), **where}


@pytest.fixture
def second_node(cut: Project, tmp_path: Path) -> Project:
    """A machine that has nothing but the code."""
    folder = tmp_path / "second-node"
    for part in ("src", "stages"):
        shutil.copytree(cut.folder / part, folder / part)
    return Project(folder)


def start_second(second_node: Project, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["torchrun", "stages/train.py"],
        cwd=second_node.folder,
        env=environment(PYTHONPATH="src", **node(1, port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_nodes_train_an_experiment_of_the_first_which_alone_has_dvc_and_data(
    cut: Project, second_node: Project
) -> None:
    train(cut, 1)
    expected, port = results(cut), free_port()
    cut.commit("four parts")
    second = start_second(second_node, port)
    words = ["exp", "run", "--temp", "--name", "two-nodes", "-S", "train.launcher=torchrun"]
    cut.run("dvc", *words, check=True, **node(0, port))
    told, _ = second.communicate(timeout=60)
    assert second.returncode == 0, told
    assert "epoch" not in told
    cut.dvc("exp", "apply", "two-nodes")
    assert results(cut) == expected
    assert sorted(path.name for path in second_node.folder.iterdir()) == ["src", "stages"]


@pytest.mark.parametrize(
    ("path", "line", "words"),
    [
        ("model.py", "# another version", "has other code, or variables that steer torch, than process 0"),
        (
            "device.py",
            "environment = lambda device: {'device': device.type, 'torch': '1.0', 'library': 'old'}",
            f"has torch 1.0 (process 0: {torch.__version__}), library old (process 0: None), ",
        ),
    ],
)
def test_a_node_with_other_code_or_versions_is_refused(
    cut: Project, second_node: Project, path: str, line: str, words: str
) -> None:
    with (second_node.folder / "src/lenet_cifar10" / path).open("a") as file:
        file.write(f"{line}\n")
    port = free_port()
    second = start_second(second_node, port)
    first = cut.run("torchrun", "stages/train.py", check=False, PYTHONPATH="src", **node(0, port))
    told, _ = second.communicate(timeout=60)
    assert (first.status, second.returncode) == (1, 1)
    assert f"error: process 1: {words}" in told
    assert "; give all the same\n" in told
    assert "error: another process of this run has ended" in first.text


def test_a_mistake_of_the_first_node_ends_the_second_too(cut: Project, second_node: Project) -> None:
    cut.change_params({"train.shards": 3})
    port = free_port()
    second = start_second(second_node, port)
    first = cut.run("torchrun", "stages/train.py", check=False, PYTHONPATH="src", **node(0, port))
    told, _ = second.communicate(timeout=60)
    assert (first.status, second.returncode) == (1, 1)
    assert "error: params.yaml: train.shards: found 3, expected a multiple of the 2 processes" in first.text
    assert "error: another process of this run has ended" in told


def test_processes_that_do_not_come_are_told(tmp_path: Path) -> None:
    """As where RANK and WORLD_SIZE are left over from another run."""
    port = free_port()
    code = """
from datetime import timedelta
from lenet_cifar10 import errors, launcher, processes
processes._ARRIVAL = timedelta(seconds=2)
errors.run(lambda: processes.Team(launcher.find_place()).join())
"""
    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    variables = names | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    result = Project(tmp_path).run(sys.executable, "-c", code, check=False, PYTHONPATH=str(SOURCE / "src"), **variables)
    assert result.status == 1
    assert f"error: of 2 processes not all came to localhost:{port} within 2 seconds; see what the" in result.text


def test_gloo_takes_the_network_that_leads_to_the_first_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is put back after the test
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("MASTER_ADDR", "not an address")
    choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ  # gloo decides
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    choose_interface()
    found = psutil.net_if_addrs()[os.environ["GLOO_SOCKET_IFNAME"]]
    assert "127.0.0.1" in [address.address for address in found]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


def test_validation_is_shared_out_and_comes_back_in_order(cut: Project) -> None:
    script = cut.folder / "validate.py"
    script.write_text(
        """
import sys, torch
from pathlib import Path
from lenet_cifar10 import dataset, device, evaluation, launcher, training
from lenet_cifar10.params import Params
from lenet_cifar10.processes import Team, choose_interface
params, team = Params.load(Path("params.yaml")), Team(launcher.find_place())
evaluation.IMAGES_AT_ONCE = training.IMAGES_AT_ONCE = 7
chosen = device.prepare("cpu", 1, team.place)
images = dataset.load(Path("data/prepared/validation.npz"), 10)
run = training.Training(images, images, 10, chosen, 0, params.augment, params.model,
    params.train.model_copy(update={"batch_size": 50}), team)
team.join()
logits = run._predict_validation()
assert torch.equal(logits, evaluation.predict(run.kept, run.validation_images))
print(f"process {team.place.rank}: {len(logits)} in order", flush=True)
"""
    )
    text = cut.run(*launcher(4), "validate.py", PYTHONPATH="src").text
    assert all(f"process {rank}: 100 in order" in text for rank in range(4))


def test_weights_that_are_not_the_same_everywhere_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(shards=2, team=Team(Place(0, 2)))
    monkeypatch.setattr(run.team, "gather", lambda part: torch.cat([part, part]))
    run._check_agreement(3)
    monkeypatch.setattr(run.team, "gather", lambda part: torch.cat([part, part + 1]))
    with pytest.raises(UserError, match="epoch 3: process 1 has other weights than process 0; give all of them the"):
        run._check_agreement(3)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 3, 149, 150, 298, 300])
def test_every_place_of_an_epoch_is_in_one_part_of_one_process(count: int, size: int) -> None:
    shares = [plan_share(count, 149, 4, rank, size) for rank in range(size)]
    for batches in zip(*shares, strict=True):
        assert {number for number, _ in batches} == {sum(len(part) for _, parts in batches for part in parts)}
        assert all(len(parts) == 4 // size for _, parts in batches)
        sizes = [len(part) for _, parts in batches for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1
    places = [
        place for batches in zip(*shares, strict=True) for _, parts in batches for part in parts for place in part
    ]
    assert places == list(range(count))

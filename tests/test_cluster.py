"""The recipes in stages/cluster/: read by a shell and a schema, and run on this machine as if it were two nodes.

What Slurm and SkyPilot would give, variables and tasks, comes from here instead; stages/README.md says what they
themselves were seen to do.
"""

import os
import random
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Annotated, Any

import pytest
from project import SOURCE, Project, environment
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from ruamel.yaml import YAML

from lenet_cifar10.params import Params

FOLDER = SOURCE / "stages/cluster"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh"))
FILES = ("data/model/lenet.safetensors", "plots/history.csv", "metrics/train.json", "metrics/environment.json")

# Two tasks as srun starts them, with the variables that Slurm 22.05.8 gives. The second is on another machine, where
# DVC_PID is no process, or another one. One that fails ends the other.
SRUN = """#!/bin/bash
tasks=$SLURM_NNODES
export SLURM_STEP_NUM_TASKS=$tasks SLURM_STEP_TASKS_PER_NODE="1(x$tasks)" SLURM_LOCALID=0
[ "${SLURM_KILL_BAD_EXIT:-0}" = 1 ] && [ "${SRUN_CPUS_PER_TASK:-0}" = 1 ] || exit 9
SLURM_PROCID=0 "$@" & first=$!
${DVC_PID:+env DVC_PID=999999999} env SLURM_PROCID=1 "$@" & second=$!
trap 'kill $first $second 2>/dev/null' TERM
wait -n && wait -n && exit 0
status=$?
kill $first $second 2>/dev/null
wait
exit $status
"""
SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames node[1-2]" ] && printf 'localhost\\nnode2\\n'
"""


class Resources(BaseModel):
    """What SkyPilot looks for on offer."""

    model_config = ConfigDict(extra="forbid", strict=True)
    accelerators: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9-]+:[1-9]\d*$")]


class Task(BaseModel):
    """The part of SkyPilot's task that the recipe has; types and names as in the schema of SkyPilot 0.14.1."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    num_nodes: int
    workdir: str
    resources: Resources
    envs: dict[Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_]\w*$")], str]
    setup: str
    run: str


def task() -> dict[str, Any]:
    return YAML(typ="safe").load((FOLDER / "skypilot.yaml").read_text(encoding="utf-8"))


def shell_texts() -> dict[str, str]:
    """Everything that a shell reads, by where it stands."""
    scripts = {name: (FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS}
    return scripts | {f"skypilot.yaml: {block}": task()[block] for block in ("setup", "run")}


def complaint(text: str) -> str:
    """What bash says of a script that it reads and does not run."""
    return subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("text", shell_texts().values(), ids=shell_texts())
def test_a_shell_can_read_it_and_would_see_damage(text: str) -> None:
    assert complaint(text) == ""
    before, _, after = text.rpartition('"')
    assert "unexpected EOF" in complaint(before + after)


@pytest.mark.parametrize("name", SCRIPTS)
def test_slurm_reads_the_options_which_end_at_the_first_command(name: str) -> None:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert options
    assert max(options) < min(commands)
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", lines[number]) for number in options)


def test_skypilot_s_task_has_the_keys_that_there_are() -> None:
    Task.model_validate(task())
    with pytest.raises(ValidationError, match="nodes"):
        Task.model_validate(task() | {"nodes": 2})
    with pytest.raises(ValidationError, match="num_nodes"):
        Task.model_validate(task() | {"num_nodes": "2"})


def test_skypilot_s_variables_are_those_that_it_sets() -> None:
    given = {"SETUP_NODE_RANK", "NODE_RANK", "NODE_IPS", "NUM_NODES", "NUM_GPUS_PER_NODE"}
    assert set(re.findall(r"\bSKYPILOT_(\w+)", task()["setup"] + task()["run"])) == given


def test_every_parameter_that_a_recipe_sets_exists() -> None:
    params = Params.load(SOURCE / "params.yaml").model_dump()
    known = set(params) | {
        f"{section}.{name}" for section, values in params.items() if isinstance(values, dict) for name in values
    }
    for path in FOLDER.iterdir():
        named = set(re.findall(r"-S ([\w.]+)=", path.read_text(encoding="utf-8")))
        assert {"train.launcher", "train.shards"} <= named <= known, path.name


def test_the_readme_names_the_recipes_and_they_name_themselves() -> None:
    readme = (SOURCE / "stages/README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\(cluster/([\w.]+)\)", readme))
    assert named == {path.name for path in FOLDER.iterdir()}
    for name in named:
        assert f"stages/cluster/{name}" in (FOLDER / name).read_text(encoding="utf-8")


@pytest.fixture
def cut(pipeline: Project) -> Project:
    """A project whose training in two parts has not been run, and whose environment is this one."""
    pipeline.change_params({"device": "cpu", "train.shards": 2, "model.dropout": 0.5})
    pipeline.commit("two parts")
    activate(pipeline)
    return pipeline


def activate(project: Project) -> None:
    """An environment to activate: the test's own is on the path already."""
    script = project.folder / ".venv/bin/activate"
    script.parent.mkdir(parents=True)
    script.touch()


def train_alone(project: Project) -> dict[str, bytes]:
    """What one process makes of it; nothing is left of it that others could go on from."""
    project.run("python", "stages/train.py", PYTHONPATH="src")
    made = results(project)
    shutil.rmtree(project.folder / ".resume")
    project.git("restore", "metrics", "plots")
    (project.folder / FILES[0]).unlink()
    return made


def results(project: Project) -> dict[str, bytes]:
    return {name: project.read(name) for name in FILES}


def free_port() -> int:
    """A port of those that a job's number is mapped to."""
    while True:
        port = random.randrange(10000, 30000)
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)):
                return port


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_batch_script_trains_on_two_nodes_as_one_process_does(cut: Project, tmp_path: Path, name: str) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / tool).write_text(text)
        (tools / tool).chmod(0o755)
    variables: dict[str, Any] = {
        "SLURM_JOB_ID": str(free_port() - 10000),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "PATH": os.pathsep.join([str(tools), environment()["PATH"]]),
    }
    expected = train_alone(cut)
    job = cut.run("bash", FOLDER / name, "--name", "many", "train", **variables)
    assert "2 processes: 2 epochs" in job.text
    assert job.text.count("\nepoch 1/2: ") == 1
    cut.dvc("exp", "apply", "many")
    assert results(cut) == expected


def test_skypilot_s_machines_train_as_one_process_does_with_dvc_on_the_first_alone(
    cut: Project, tmp_path: Path
) -> None:
    second = Project(tmp_path / "second")
    for part in ("src", "stages"):
        shutil.copytree(cut.folder / part, second.folder / part)
    activate(second)
    expected, port = train_alone(cut), str(free_port())
    variables = task()["envs"] | {
        "OPTIONS": "--name many train",
        "PORT": port,
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2",
    }
    with subprocess.Popen(
        ["bash", "-c", task()["run"]],
        cwd=second.folder,
        env=environment(SKYPILOT_NODE_RANK="1", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as other:
        first = cut.run("bash", "-c", task()["run"], SKYPILOT_NODE_RANK="0", **variables)
        told, _ = other.communicate(timeout=60)
    assert other.returncode == 0, told
    assert "2 processes: 2 epochs" in first.text
    assert first.text.count("\nepoch 1/2: ") == 1
    assert "epoch" not in told
    cut.dvc("exp", "apply", "many")
    assert results(cut) == expected
    assert sorted(path.name for path in second.folder.iterdir()) == [".venv", "src", "stages"]

"""The recipes in stages/cluster/, with stand-ins for Slurm and DVC: they parse, and start the right processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lenet_cifar10.common.params import flatten, load_params

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "stages/cluster"
SCRIPTS = ("srun.sh", "torchrun.sh")
TASK = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())

# Two tasks, one on each of two nodes, with what Slurm 22.05 sets for each.
SRUN = """#!/bin/bash
[ "$SLURM_KILL_BAD_EXIT" = 1 ] && [ "$SRUN_CPUS_PER_TASK" = 1 ] || exit 9
export SLURM_LOCALID=0
SLURM_PROCID=0 "$@" && SLURM_PROCID=1 "$@"
"""
SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames node[1-2]" ] && printf 'node1\\nnode2\\n'
"""
# What DVC does with the stage's command, and what it was called with.
DVC = """#!/bin/bash
echo "dvc $*"
PYTHONPATH=src ${LAUNCHER:-python} stages/train.py
"""
REPORT = """#!/usr/bin/env python3
import json, os, sys
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
print(json.dumps([sys.argv[-1], {n: v for n, v in os.environ.items() if n in names or n.startswith("PET_")}]))
"""


@pytest.mark.parametrize("text", [*((FOLDER / name).read_text() for name in SCRIPTS), TASK["setup"], TASK["run"]])
def test_bash_can_parse_every_script(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_slurm_reads_the_options_before_the_first_command(name: str) -> None:
    lines = (FOLDER / name).read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line)]
    assert options == [number for number, line in enumerate(lines) if "SBATCH" in line]
    assert max(options) < first


def test_every_parameter_that_a_recipe_sets_exists() -> None:
    known = set(flatten(load_params(ROOT / "params.yaml")))
    for path in FOLDER.iterdir():
        named = set(re.findall(r"\b(train\.\w+)", path.read_text())) - {"train.py"}
        assert "train.micro_batches" in named
        assert named <= known


def test_skypilots_task_has_its_keys_and_variables() -> None:
    assert set(TASK) == {"name", "num_nodes", "workdir", "resources", "envs", "setup", "run"}
    assert all(isinstance(value, str) for value in TASK["envs"].values())  # SkyPilot refuses numbers
    given = {"NODE_RANK", "NODE_IPS", "NUM_NODES", "NUM_GPUS_PER_NODE"}
    assert set(re.findall(r"\bSKYPILOT_(\w+)", TASK["setup"] + TASK["run"])) == given


@pytest.fixture
def run(tmp_path: Path) -> "Run":
    """A shell script run in a project's folder where python, torchrun, srun, scontrol and dvc are stand-ins."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    tools = {"srun": SRUN, "scontrol": SCONTROL, "dvc": DVC, "python": REPORT, "torchrun": REPORT}
    for name, text in tools.items():
        (tmp_path / name).write_text(text.replace("/usr/bin/env python3", sys.executable))
        (tmp_path / name).chmod(0o755)
    return Run(tmp_path)


class Run:
    """Calls a script -> what dvc was called with, and the variables of each process that was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, **variables: str) -> tuple[str, list[dict[str, str]]]:
        inherited = {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", *words], cwd=self.folder, env=inherited | variables, capture_output=True, text=True, check=True
        )
        lines = done.stdout.splitlines()
        calls = [line for line in lines if line.startswith("dvc ")]
        processes = [json.loads(line) for line in lines if line not in calls]
        assert all(script == "stages/train.py" for script, _ in processes)
        return "\n".join(calls), [variables for _, variables in processes]


SLURM = {
    "SLURM_JOB_ID": "20007",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_CPUS_PER_TASK": "1",
    "SLURM_PROCID": "0",  # the batch script itself has it, too
}


def test_srun_gives_each_task_its_rank(run: Run) -> None:
    called, processes = run("stages/cluster/srun.sh", "--name", "large", **SLURM)
    assert called == "dvc exp run --temp -S train.micro_batches=2 --name large"
    same = {
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "10007",
    }
    assert processes == [same | {"RANK": "0"}, same | {"RANK": "1"}]


def test_torchrun_is_started_once_on_each_node(run: Run) -> None:
    called, processes = run("stages/cluster/torchrun.sh", **SLURM, SLURM_GPUS_ON_NODE="4")
    assert called.rstrip() == "dvc exp run --temp -S train.micro_batches=8"
    assert len(processes) == 2
    assert processes[0] == processes[1]
    assert processes[0] == {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "4",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ID": "20007",
        "PET_RDZV_ENDPOINT": "node1:10007",
    }


@pytest.mark.parametrize(("rank", "call"), [("0", "dvc exp run --temp --name large"), ("1", "")])
def test_skypilot_runs_dvc_on_the_first_machine_alone(run: Run, rank: str, call: str) -> None:
    nodes = {"NODE_RANK": rank, "NODE_IPS": "10.0.0.1\n10.0.0.2", "NUM_NODES": "2", "NUM_GPUS_PER_NODE": "4"}
    variables = TASK["envs"] | {"NAME": "large"} | {f"SKYPILOT_{name}": value for name, value in nodes.items()}
    called, processes = run("-c", TASK["run"], **variables)
    assert called == call
    expected = {
        "NNODES": "2",
        "NODE_RANK": rank,
        "NPROC_PER_NODE": "4",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
    }
    assert processes == [{f"PET_{name}": value for name, value in expected.items()}]

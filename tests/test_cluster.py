"""The recipes in stages/cluster/, with stand-ins for Slurm, DVC and torchrun: they start the right processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TASK = yaml.safe_load((ROOT / "stages/cluster/skypilot.yaml").read_text())
# srun starts two tasks, one on each of two nodes; dvc says what it was called with, and runs the stage's command.
REPORT = """#!{python}
import json, os, sys
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
print(json.dumps({{name: v for name, v in os.environ.items() if name in names or name.startswith("PET_")}}))
"""
SRUN = """#!/bin/bash
[ "$SLURM_KILL_BAD_EXIT" = 1 ] && [ "$SRUN_CPUS_PER_TASK" = 1 ] || exit 9
export SLURM_LOCALID=0
SLURM_PROCID=0 "$@" && SLURM_PROCID=1 "$@"
"""
TOOLS = {
    "srun": SRUN,
    "scontrol": '#!/bin/bash\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n',
    "dvc": '#!/bin/bash\necho "dvc $*"\n${LAUNCHER:-python} stages/train.py\n',
    "python": REPORT.format(python=sys.executable),
    "torchrun": REPORT.format(python=sys.executable),
}
SLURM = {"SLURM_JOB_ID": "20007", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_NTASKS": "2"}
SLURM |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "4"}


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., list[str]]:
    """Run a script in a project's folder with these tools -> the lines that dvc and the processes print."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    for name, text in TOOLS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def call(*words: str, **variables: str) -> list[str]:
        path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        command = ["bash", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=path | variables, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()

    return call


def test_srun_gives_each_task_its_rank(call: Callable[..., list[str]]) -> None:
    called, *processes = call("stages/cluster/srun.sh", "--name", "large", **SLURM)
    assert called == "dvc exp run --temp -S train.micro_batches=2 --name large"
    same = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "node1"}
    same |= {"MASTER_PORT": "10007"}
    assert [json.loads(line) for line in processes] == [same | {"RANK": "0"}, same | {"RANK": "1"}]


def test_torchrun_is_started_once_on_each_node(call: Callable[..., list[str]]) -> None:
    called, *processes = call("stages/cluster/torchrun.sh", **SLURM)
    assert called.rstrip() == "dvc exp run --temp -S train.micro_batches=8"
    expected = {"NNODES": "2", "NPROC_PER_NODE": "4", "RDZV_BACKEND": "c10d", "RDZV_ID": "20007"}
    expected |= {"RDZV_ENDPOINT": "node1:10007"}
    assert [json.loads(line) for line in processes] == [{f"PET_{name}": v for name, v in expected.items()}] * 2


@pytest.mark.parametrize(("rank", "called"), [("0", ["dvc exp run --temp --name large"]), ("1", [])])
def test_skypilot_runs_dvc_on_the_first_machine_alone(
    call: Callable[..., list[str]], rank: str, called: list[str]
) -> None:
    nodes = {"NODE_RANK": rank, "NODE_IPS": "10.0.0.1\n10.0.0.2", "NUM_NODES": "2", "NUM_GPUS_PER_NODE": "4"}
    variables = TASK["envs"] | {"NAME": "large"} | {f"SKYPILOT_{name}": value for name, value in nodes.items()}
    *lines, process = call("-c", TASK["run"], **variables)
    assert lines == called
    expected = {"NNODES": "2", "NODE_RANK": rank, "NPROC_PER_NODE": "4", "MASTER_ADDR": "10.0.0.1"}
    expected |= {"MASTER_PORT": "29500"}
    assert json.loads(process) == {f"PET_{name}": value for name, value in expected.items()}

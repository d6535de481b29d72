"""Which of several processes this one is."""

import os

import pytest

from lenet_cifar10.errors import UserError
from lenet_cifar10.launcher import Place, find_place

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_a_process_alone_leads() -> None:
    assert find_place({}) == Place(0, 1, 0, 1, None)
    assert find_place({}).leads


def test_torchrun_s_processes_know_their_place_and_their_agent() -> None:
    assert find_place(TORCHRUN) == Place(5, 8, 1, 4, os.getppid())
    assert not find_place(TORCHRUN).leads
    assert find_place({**TORCHRUN, "RANK": "0"}).leads


def test_srun_s_tasks_know_their_place() -> None:
    assert find_place(SRUN) == Place(5, 8, 1, 4)


def test_a_batch_script_s_own_process_is_alone() -> None:
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}) == Place()


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN])
def test_processes_that_cannot_find_each_other_are_told_so(variables: dict[str, str]) -> None:
    kept = {name: value for name, value in variables.items() if name != "MASTER_PORT"}
    with pytest.raises(UserError, match=r"train\.launcher: started 8 processes without MASTER_PORT, by which"):
        find_place(kept)


def test_one_process_needs_to_find_nobody() -> None:
    one = {name: "1" if name == "WORLD_SIZE" else "0" for name in TORCHRUN if "MASTER" not in name}
    assert find_place(one).size == 1


@pytest.mark.parametrize("name", ["LOCAL_RANK", "WORLD_SIZE"])
def test_a_number_that_is_none_is_told(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is some, expected a number; use torchrun or srun"):
        find_place({**TORCHRUN, name: "some"})


def test_a_number_that_is_missing_is_told() -> None:
    with pytest.raises(UserError, match="LOCAL_RANK is not set, expected a number"):
        find_place({name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"})


@pytest.mark.parametrize("rank", ["8", "9"])
@pytest.mark.parametrize(
    ("variables", "names"), [(TORCHRUN, ("RANK", "WORLD_SIZE")), (SRUN, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))]
)
def test_a_place_that_cannot_be_is_told(variables: dict[str, str], names: tuple[str, str], rank: str) -> None:
    with pytest.raises(UserError, match=f"{names[0]} is {rank}, expected less than {names[1]}, 8; unset both"):
        find_place({**variables, names[0]: rank})
    with pytest.raises(UserError, match=f"{names[0]} is 5, expected less than {names[1]}, 0; unset both"):
        find_place({**variables, names[1]: "0"})


@pytest.mark.parametrize("tasks", ["", "x", "4(x2)", "4,2"])
def test_tasks_for_each_node_may_be_unknown(tasks: str) -> None:
    assert find_place({**SRUN, "SLURM_STEP_TASKS_PER_NODE": tasks}).local_size == (4 if tasks.startswith("4") else 1)


def test_a_rank_that_is_left_over_is_no_torchrun() -> None:
    assert find_place({"RANK": "1"}) == Place()
    assert find_place({**SRUN, "RANK": "0"}) == find_place(SRUN)

"""Which of the processes that train.launcher started this one is. Imports nothing that takes long to import."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lenet_cifar10.errors import UserError


@dataclass(frozen=True)
class Place:
    """One process among those of a run, and among those of its machine, counted from 0.

    `agent` is the process that started it and would not end it if it were killed itself, or None.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    agent: int | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the one process that reads and writes files, and prints."""
        return self.rank == 0


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that torchrun gave this process, or srun, or that of a process alone.

    Raises:
        UserError: the launcher's variables are incomplete, or contradict each other.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        agent = os.getppid() if "TORCHELASTIC_RUN_ID" in environment else None
        rank, size, local_rank, local_size = (_read(environment, name) for name in names)
        place = Place(rank, size, local_rank, local_size, agent)
    elif "SLURM_STEP_NUM_TASKS" in environment:  # set for the tasks of srun alone, also those of torchrun on each node
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        rank, size, local_rank = (_read(environment, name) for name in names)
        tasks = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
        place = Place(rank, size, local_rank, int(tasks[0]) if tasks else 1)
    else:
        return Place()
    if place.rank >= place.size:
        raise UserError(
            f"params.yaml: train.launcher: {names[0]} is {place.rank}, expected less than {names[1]}, {place.size}; "
            "unset both where they are left over, or use torchrun or srun"
        )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if place.size > 1 and missing:
        raise UserError(
            f"params.yaml: train.launcher: started {place.size} processes without {' and '.join(missing)}, by which "
            "they find each other; export them, or use torchrun"
        )
    return place


def _read(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise UserError(
            f"params.yaml: train.launcher: {name} is {value or 'not set'}, expected a number; use torchrun or srun"
        )
    return int(value)

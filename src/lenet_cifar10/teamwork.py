"""How the processes of a run come to train the same thing: the one that leads tells the others all they need."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lenet_cifar10 import device, interruption, launcher, resume, stage
from lenet_cifar10.dataset import Split
from lenet_cifar10.errors import UserError
from lenet_cifar10.params import Params
from lenet_cifar10.processes import Team
from lenet_cifar10.training import Training


@dataclass(frozen=True)
class Work:
    """All that a training run starts from."""

    params: Params
    classes: int
    training: Split
    validation: Split

    def start(self, chosen: torch.device, team: Team) -> Training:
        """The run on this device, one of the team's.

        Raises:
            UserError: as in `Training`.
        """
        params = self.params
        sections = params.augment, params.model, params.train
        return Training(self.training, self.validation, self.classes, chosen, params.seed, *sections, team)


def run(main: Callable[[Team], None]) -> None:
    """As `stage.run`, for a stage of one or several processes: the one that leads calls `main`, the others `follow`.

    The others need no lock, for they write no file, and say nothing of a stop.
    """
    stage.call(lambda: _take_part(main))


def _take_part(main: Callable[[Team], None]) -> None:
    team = Team(launcher.find_place())
    if team.place.agent is not None:
        interruption.end_with(team.place.agent)
    if team.place.leads:
        stage.alone(lambda: main(team))
    else:
        interruption.advise("")
        follow(team)


def tell(team: Team, work: Work, environment: Mapping[str, Any]) -> None:
    """Join as the process that leads, and have the others do what `follow` does.

    Raises:
        UserError: a process has ended.
    """
    team.join()
    program = resume.program(environment)
    told = {"params": work.params.model_dump(), "classes": work.classes, "program": program, "environment": environment}
    team.share(told)
    for split in (work.training, work.validation):
        team.share_tensors({"images": torch.from_numpy(split.images), "labels": torch.from_numpy(split.labels)})


@device.telling_shortage()
def follow(team: Team) -> None:
    """Join, and train beside the process that leads, without files.

    Raises:
        UserError: this process has no device, or other code, versions or kind of device than the one that leads; or
            that one has ended.
    """
    team.join()
    told = team.share()
    training, validation = (
        Split(**{name: tensor.numpy() for name, tensor in team.share_tensors().items()}) for _ in range(2)
    )
    work = Work(Params.check(told["params"]), told["classes"], training, validation)
    chosen = device.prepare(work.params.device, work.params.train.threads, team.place)
    environment = device.environment(chosen)
    if resume.program(environment) != told["program"]:
        raise UserError(
            f"process {team.place.rank}: {_differences(environment, told['environment'])}; give all the same"
        )
    run = work.start(chosen, team)
    run.synchronize()
    try:
        for _ in run.run():
            pass
    except UserError:
        if team.place.local_rank:
            sys.exit(1)  # the first process of each machine says why
        raise


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    pairs = {name: (here.get(name), there.get(name)) for name in {**here, **there}}
    found = [f"{name} {own} (process 0: {other})" for name, (own, other) in pairs.items() if own != other]
    return f"has {', '.join(found)}" if found else "has other code, or variables that steer torch, than process 0"

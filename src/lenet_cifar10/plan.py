"""An epoch before it is trained: the order of its images, the changes to each, and which process computes which."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lenet_cifar10 import augment
from lenet_cifar10.params import AugmentSection
from lenet_cifar10.randomness import generator_for


def plan_epoch(count: int, seed: int, epoch: int, section: AugmentSection) -> tuple[Tensor, augment.Draws]:
    """The order of an epoch's images, int64 (N,), and the changes to each in that order."""
    order = torch.randperm(count, generator=generator_for(seed, epoch, "order"))
    return order, augment.draw(count, section, generator_for(seed, epoch, "augmentation"))


def plan_share(count: int, batch_size: int, shards: int, rank: int, processes: int) -> list[tuple[int, list[range]]]:
    """For each batch of an epoch its images' number, and the parts of it that one of the processes computes.

    A part is a range of places in the epoch's order. The parts of a batch differ by one image at most, the larger ones
    come first; those of a process follow each other. Over all processes every place comes once.
    """
    own = shards // processes
    share = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        whole, more = divmod(size, shards)
        ends = [start + shard * whole + min(shard, more) for shard in range(shards + 1)]
        first = rank * own
        share.append((size, [range(*ends[shard : shard + 2]) for shard in range(first, first + own)]))
    return share


def plan_images(
    share: Sequence[tuple[int, Sequence[range]]], count: int, seed: int, epoch: int, section: AugmentSection
) -> tuple[Tensor, augment.Draws]:
    """As `plan_epoch`, but of a process's share alone, one part after the other."""
    order, draws = plan_epoch(count, seed, epoch, section)
    places = torch.tensor([place for _, parts in share for part in parts for place in part], dtype=torch.int64)
    return order[places], draws[places]

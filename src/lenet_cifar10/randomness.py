"""All randomness comes from (seed, epoch or step, purpose), so an epoch can be repeated without the ones before it."""

from hashlib import blake2b
from typing import Literal

import torch

Purpose = Literal["weights", "order", "augmentation", "dropout"]


def mix(seed: int, number: int, purpose: Purpose, *more: int) -> int:
    """A seed from 0 to 2**63 - 1; torch's generator on the CPU uses its lower 32 bits.

    A cryptographic hash mixes them: a sum would make (0, 1) and (1, 0) alike.
    """
    digest = blake2b(" ".join(map(str, (seed, number, purpose, *more))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(seed: int, epoch: int, purpose: Purpose) -> torch.Generator:
    """A generator on the CPU: a GPU's numbers would depend on its model."""
    return torch.Generator().manual_seed(mix(seed, epoch, purpose))

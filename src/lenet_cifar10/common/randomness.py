"""All randomness comes from (seed, epoch or step, purpose), so an epoch can be repeated without the ones before it."""

from hashlib import blake2b
from typing import Literal

import torch

Purpose = Literal["weights", "order", "augmentation", "dropout"]


def derive_seed(seed: int, number: int, purpose: Purpose, *parts: int) -> int:
    """A seed from 0 to 2**63 - 1; torch's generator on the CPU uses its lower 32 bits.

    A cryptographic hash mixes them: a sum would make (0, 1) and (1, 0) alike.
    """
    digest = blake2b(" ".join(map(str, (seed, number, purpose, *parts))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(seed: int, epoch: int, purpose: Purpose) -> torch.Generator:
    """A generator on the CPU: a GPU's random numbers depend on its model."""
    return torch.Generator().manual_seed(derive_seed(seed, epoch, purpose))

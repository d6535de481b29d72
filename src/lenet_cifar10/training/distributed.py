"""One process, or several under torchrun: who they are, and sums whose bits do not depend on how many there are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from lenet_cifar10.common.stage import UserError

Value = TypeVar("Value")

_TIMEOUT = timedelta(minutes=1)  # a process that hangs, or whose machine is gone, ends the run after it


class World:
    """The processes of a run as torchrun's variables describe them; without these it is one process.

    Raises:
        UserError: the other processes cannot be reached.
    """

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with _report_lost_process():
                distributed.init_process_group(backend, timeout=_TIMEOUT)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def own_parts(self, batch: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Cut a batch into parts -> those that this process computes; `parts` is a multiple of the world size.

        The sizes of the parts differ by one at most.
        """
        each = parts // self.size
        return batch.tensor_split(parts)[self.rank * each : (self.rank + 1) * each]

    def gather(self, own: Tensor) -> Tensor:
        """(N, ...) of each process -> (N * size, ...) on each, by rank; the shapes are the same.

        Raises:
            UserError: another process has ended.
        """
        if self.size == 1:
            return own
        all_parts = own.new_empty((self.size * len(own), *own.shape[1:]))
        with _report_lost_process():
            distributed.all_gather_single(all_parts, own.contiguous())
        return all_parts

    def sum_in_order(self, own: Tensor) -> Tensor:
        """(own parts, ...) -> the sum over all parts, one after the other, so with the same bits for any world size."""
        parts = self.gather(own)
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return total

    def broadcast(self, value: Value) -> Value:
        """The main process's value, which may hold tensors on the CPU, on every process.

        Raises:
            UserError: another process has ended.
        """
        values = [value]
        if self.size > 1:
            with _report_lost_process():
                distributed.broadcast_object_list(values)
        return values[0]

    def close(self) -> None:
        """Leave the other processes, once there is nothing more to exchange."""
        if self.size > 1:
            distributed.destroy_process_group()

    def require_same(self, fingerprint: str) -> None:
        """Refuse a process that would train something else than the main process.

        Raises:
            UserError: the fingerprints differ.
        """
        if self.broadcast(fingerprint) != fingerprint:
            raise UserError(
                f"process {self.rank}: its parameters, data, code, versions or kind of device are not those of process "
                "0; give all processes the same"
            )


@contextmanager
def _report_lost_process() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # among them torch.distributed's own errors
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"another process of this run has ended or does not answer ({reason}); see its own error, then run the "
            "same command again to continue"
        ) from None

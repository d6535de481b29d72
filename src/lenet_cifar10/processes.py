"""The processes that train together: how they find each other and what they tell each other.

By torch.distributed: gloo between CPUs, NCCL between GPUs. A process alone has nothing to tell.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from lenet_cifar10.errors import UserError
from lenet_cifar10.launcher import Place

# The leader reads its files before it joins, and may wait for another run of the same thing first.
_START = timedelta(days=1)
# A process that has died is noticed at once, a machine that has gone after so long.
_ANSWER = timedelta(seconds=50)


class Team:
    """All processes of a run, seen from one of them. The one that leads has read the files."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._group: Any = None  # a ProcessGroup of torch.distributed

    def __str__(self) -> str:
        return "one process" if self.place.size == 1 else f"{self.place.size} processes"

    def join(self) -> None:
        """Wait until all the others have joined too.

        Raises:
            UserError: one of them has ended.
        """
        if self.place.size == 1:
            return
        with _telling():
            _call_aside(self._connect)

    def _connect(self) -> None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, rank=self.place.rank, world_size=self.place.size, timeout=_START)
        self._group = distributed.new_group(timeout=_ANSWER)

    def share(self, value: Any = None) -> Any:
        """What the leader gives, plain values as JSON has them, on every process.

        Raises:
            UserError: a process has ended.
        """
        if self.place.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        self._broadcast(length)
        if not self.place.leads:
            data = torch.empty(int(length), dtype=torch.uint8)
        self._broadcast(data)
        return json.loads(bytes(data.tolist()))

    def share_tensors(self, tensors: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """The leader's tensors, on the CPU and contiguous, on every process.

        Raises:
            UserError: a process has ended.
        """
        if self.place.size == 1:
            assert tensors is not None  # this process leads
            return tensors
        kinds = self.share([(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in (tensors or {}).items()])
        shared = tensors or {
            name: torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch."))) for name, kind, shape in kinds
        }
        for tensor in shared.values():
            self._broadcast(tensor)
        return shared

    def gather(self, part: Tensor) -> Tensor:
        """(N, ...) of each process -> (processes x N, ...) on each, in the order of their ranks; shapes are the same.

        Raises:
            UserError: a process has ended.
        """
        if self.place.size == 1:
            return part
        whole = part.new_empty((self.place.size * len(part), *part.shape[1:]))
        with _telling():
            distributed.all_gather_single(whole, part.contiguous(), group=self._group)
        return whole

    def _broadcast(self, tensor: Tensor) -> None:
        with _telling():
            distributed.broadcast(tensor, src=0, group=self._group)


def _call_aside(call: Callable[[], None]) -> None:
    """Call it in another thread: in this one no signal would be answered as long as it waits for the network."""
    done: Future[None] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    done.result()


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.distributed's kinds of it, and others
        reason = str(error).splitlines()[0]
        raise UserError(
            f"another process of this run has ended, or no longer answers ({reason}); its own error is above, or in "
            "its machine's output: mend that, and give the same command again to go on"
        ) from None

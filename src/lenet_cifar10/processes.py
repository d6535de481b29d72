"""The processes that train together: how they find each other and what they tell each other.

By torch.distributed: gloo between CPUs, NCCL between GPUs. A process alone has nothing to tell.
"""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from lenet_cifar10.errors import UserError
from lenet_cifar10.launcher import Place

Value = TypeVar("Value")

# The leader reads its files before it joins, and may wait for another run of the same thing first.
_START = timedelta(days=1)
# All are started together; those that do not lead join as soon as torch is imported.
_ARRIVAL = timedelta(minutes=5)
# A process that has died is noticed at once, one that hangs or whose machine has vanished after so long. Then torchrun
# gives those of its own that do not answer another 30 seconds.
_ANSWER = timedelta(seconds=25)
_LOOK_SECONDS = 0.5
# Numbers sent at once, so that not all images have to arrive within that time.
_PIECE = 1 << 22


class Team:
    """All processes of a run, seen from one of them. The one that leads has read the files."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __str__(self) -> str:
        return "one process" if self.place.size == 1 else f"{self.place.size} processes"

    def join(self) -> None:
        """Wait until all the others have joined too.

        Raises:
            UserError: one of them has ended, or did not come.
        """
        if self.place.size == 1:
            return
        rank, size = self.place.rank, self.place.size
        start = _ARRIVAL if self.place.leads else _START
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _telling():
            try:
                store, _, _ = _aside(lambda: next(rendezvous("env://", rank, size, timeout=start)), start)
            except TimeoutError:  # the store waits for all to come
                raise _absent(f"of {size} processes not all came", start) from None
            # The store of a torchrun that starts the processes again is the one of its last attempt.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = distributed.PrefixStore(attempt, store)  # pyright: ignore[reportPrivateImportUsage]
            self._meet(store, start)
            choose_interface()
            connect = partial(distributed.init_process_group, backend, timeout=_ANSWER)
            _aside(lambda: connect(store=store, rank=rank, world_size=size), 2 * _ANSWER)

    def _meet(self, store: Any, start: timedelta) -> None:
        """Wait until each process has left its name in the store (of torch.distributed), and this one answers."""
        names = [f"joined/{rank}" for rank in range(self.place.size)]
        _aside(lambda: store.set(names[self.place.rank], ""), _ANSWER)
        end = time.monotonic() + start.total_seconds()
        for rank, name in enumerate(names):
            while not _aside(partial(store.check, [name]), _ANSWER):
                if time.monotonic() > end:
                    raise _absent(f"process {rank} did not come", start)
                time.sleep(_LOOK_SECONDS)

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
            distributed.all_gather_single(whole, part.contiguous())
        return whole

    def _broadcast(self, tensor: Tensor) -> None:
        with _telling():
            for piece in tensor.view(-1).split(_PIECE):
                distributed.broadcast(piece, src=0)


def _absent(what: str, limit: timedelta) -> UserError:
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return UserError(
        f"{what} to {place} within {limit.total_seconds():.0f} seconds; see what the others say, or, where nothing "
        "started them, unset RANK, WORLD_SIZE and SLURM_STEP_NUM_TASKS"
    )


def choose_interface() -> None:
    """Have gloo use the network that leads to the first machine, unless GLOO_SOCKET_IFNAME names another.

    By itself it takes the address that this machine's name has, which many systems give to the machine alone.
    """
    name = find_interface(os.environ.get("MASTER_ADDR", ""))
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def find_interface(host: str) -> str | None:
    """The network interface by which this machine reaches another, or itself; None if it cannot tell."""
    with suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(address)  # which sends nothing
                own = probe.getsockname()[0]
                for name, addresses in psutil.net_if_addrs().items():
                    if own in (found.address for found in addresses):
                        return name
    return None


def _aside(call: Callable[[], Value], limit: timedelta) -> Value:
    """Call it in another thread: in this one no signal would be answered as long as it waits for the network.

    Raises:
        TimeoutError: it took longer; what becomes of it is not known.
    """
    done: Future[Value] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done.result(limit.total_seconds())


def _reason(error: Exception) -> str:
    """The first sentence, without the place in torch's own sources before it."""
    line = (str(error) or "no answer").splitlines()[0]
    return re.sub(r"^\[[^\]]*\] ", "", line).split(". ")[0]


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, TimeoutError) as error:  # the former has torch.distributed's kinds of it
        raise UserError(
            f"another process of this run has ended, or no longer answers ({_reason(error)}); its own error is above, "
            "or in its machine's output: mend that, and give the same command again to go on"
        ) from None

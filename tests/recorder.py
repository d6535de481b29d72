"""A CUDA graph's behaviour without a GPU: operators recorded once and repeated, with no Python between them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostReadError(Exception):
    """A step reads a number from the device."""


class Recorder(TorchDispatchMode):
    """Records the operators that run within it. As in a graph, a number from the host stays what it was, and an array
    that is replaced later is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise HostReadError
        output = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not func.is_view:
            self.calls.append((func, args, kwargs or {}, output))
        return output

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the operators; what they give goes where it went."""
        for func, args, kwargs, output in self.calls:
            for old, new in zip(tree_leaves(output), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record(step: Callable[[], object], before: Callable[[], object]) -> Callable[[], object]:
    """In place of `record_cuda_graph`: the same warm-up, then a recording, which takes a step too."""
    for _ in range(3):
        before()
        step()
    recorder = Recorder()
    with recorder:
        step()
    return recorder.replay

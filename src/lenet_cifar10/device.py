"""The device that a run computes on, and its settings for repeatable results."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from torch.utils import deterministic

from lenet_cifar10.errors import UserError
from lenet_cifar10.launcher import Place

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def choose(name: str, setting: str = "params.yaml: device", place: Place | None = None) -> torch.device:
    """The device called `name`: auto, cpu, cuda, cuda:N or mps.

    auto is the first GPU where there is one, else the CPU. Of several processes each takes the GPU of its number on its
    machine. Messages say that `setting` asked for it.

    Raises:
        UserError: the device is not there, or not one for each process; it is refused, not replaced.
    """
    if place and place.size > 1:
        return _choose_beside_others(name, setting, place)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index or 0
        if index >= count:
            present = f"only {count} such GPUs" if count else "no such GPU"
            raise UserError(f"{setting}: found {name}, but torch sees {present} here; use auto or cpu")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{setting}: found mps, but torch sees no such GPU here; use auto or cpu")
    return device


def _choose_beside_others(name: str, setting: str, place: Place) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UserError(f"{setting}: found {name}, but train.launcher starts {place.size} processes; use auto or cpu")
    if place.local_rank >= count:
        raise UserError(
            f"params.yaml: train.launcher: starts {place.local_size} processes here, but torch sees {count} GPUs, of "
            "which each needs one; start no more than there are, or set device to cpu"
        )
    return torch.device("cuda", place.local_rank)


def prepare(name: str, threads: int, place: Place | None = None) -> torch.device:
    """The device called `name`, as `choose` finds it, with `make_repeatable` and `keep_freed_memory` done."""
    device = choose(name, place=place)
    make_repeatable(threads)
    keep_freed_memory()
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device itself does; what imitates it takes many times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(
        has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16")
    )


def make_repeatable(threads: int) -> None:
    """Have torch compute the same bits again: on the same kind of device, with the same number of threads."""
    torch.set_num_threads(threads)
    # cuBLAS reads this when CUDA starts; without it older versions of torch refuse deterministic mode.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    # No operator here reads memory that it did not write; filling it first costs time in every step.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False
    # The same float32 products on every GPU generation.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step's arrays.

    It would give large arrays back to the system, and take them anew with a page fault every 4 KiB: a fifth of an
    epoch's time, and two fifths with batches of 1,000. The peak stays the same. Elsewhere nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_MMAP_MAX, 0)


@contextmanager
def telling_shortage() -> Iterator[None]:
    """Within this, or in a function that has this as its decorator, a device short of memory is the user's to mend.

    Raises:
        UserError: the device has too little memory left.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". GPU")[0].splitlines()[0].rstrip(".")
        raise UserError(
            f"params.yaml: device: {reason}; end what else uses it, lower train.batch_size, or use another device"
        ) from None


def environment(device: torch.device) -> dict[str, str | int]:
    """What decides the bits of training beside the code, the data and the parameters."""
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: _version(package) for package in ("torchvision", "numpy")},
    }


def describe(device: torch.device) -> str:
    """The same in a few words."""
    facts = environment(device)
    versions = f"torch {facts['torch']}, torchvision {facts['torchvision']}"
    return f"{device} ({facts['device_name']}, {facts['threads']} threads) with {versions}"


def processor_name() -> str:
    """The processor's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"

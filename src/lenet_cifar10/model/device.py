"""The device that a run computes on, and its settings for repeatable results."""

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from torch.utils import deterministic

from lenet_cifar10.common.stage import UserError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h

# Variables that change the bits that torch's libraries compute. A list and not a prefix: torchrun sets others.
_VARIABLES = ("DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA")


def resolve_device(name: str, setting: str = "params.yaml: device") -> torch.device:
    """The device called `name`: auto, cpu, cuda, cuda:N or mps; messages say that `setting` asked for it.

    auto is the first GPU where there is one, else the CPU. Under torchrun each process takes the GPU of its local rank.

    Raises:
        UserError: the device is not there, or not one for each process; it is refused, not replaced.
    """
    gpus = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name == "auto":
        name = "cuda" if gpus["cuda"] else "mps" if gpus["mps"] and processes == 1 else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if processes > 1 and name != "cuda":
        raise UserError(f"{setting}: found {name}, but LAUNCHER starts {processes} processes; use auto or cpu")
    count = gpus[device.type]
    if 0 < count < processes:
        raise UserError(
            f"LAUNCHER: starts {processes} processes here, but torch sees {count} GPUs; start one for each GPU, or set "
            "device to cpu"
        )
    index = device.index or int(os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        raise UserError(f"{setting}: found {name}, but torch sees {count or 'no'} such GPUs here; use auto or cpu")
    return torch.device(device.type, index)


def set_deterministic(threads: int) -> None:
    """Have torch compute the same bits again: on the same kind of device, with the same number of threads.

    Raises:
        UserError: a variable is set with which torch waits for ever for its threads.
    """
    for name in ("OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_THREAD_LIMIT"):
        if name in os.environ:
            raise UserError(f"{name}: found {os.environ[name]}, with which torch can hang; unset this variable")
    torch.set_num_threads(threads)
    # cuBLAS reads this when CUDA starts; without it older versions of torch refuse deterministic mode.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, without seconds of imports
    # No operator here reads memory that it did not write; filling it first costs time in every step.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False
    _allow_tf32(False)  # the same float32 products on every GPU generation


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step's arrays.

    It would return large arrays to the system, and take them anew with a page fault every 4 KiB: a fifth of an
    epoch's time. The peak stays the same. Elsewhere nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_MMAP_MAX, 0)


def supports_tf32(device: torch.device) -> bool:
    """Whether the device has products of float32 values with 10-bit mantissas."""
    return device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8,)


@contextmanager
def tf32() -> Iterator[None]:
    """Within this, a GPU rounds what enters a product or a convolution to TF32."""
    _allow_tf32(True)
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def supports_bfloat16(device: torch.device) -> bool:
    """Whether the device itself computes it; an emulation takes many times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(
        has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16")
    )


@contextmanager
def report_out_of_memory() -> Iterator[None]:
    """Within this, or in a function that has this as its decorator, a lack of device memory is the user's to fix.

    Raises:
        UserError: the device has too little memory left.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". GPU")[0].splitlines()[0].rstrip(".")
        raise UserError(
            f"params.yaml: device: {reason}; end what else uses it, lower train.batch_size, switch "
            "train.cuda_graph off, or use another device"
        ) from None


def record_cuda_graph(step: Callable[[], object], before: Callable[[], object]) -> Callable[[], object]:
    """Record the kernels that `step` launches as one CUDA graph -> a function that launches them all at once.

    `before` is called before each of the steps that are taken to warm up, three as torch's notes on CUDA graphs advise:
    libraries load and choose their kernels in the first ones. The graph reads and writes its arrays where they are now.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            before()
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """What decides the bits of training beside the code, the data and the parameters.

    It is the same in one process and in each of several.
    """
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the kind of build, which the package's metadata lacks
        **{package: metadata.version(package) for package in ("torchvision", "numpy")},
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def processor_name() -> str:
    """The processor's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

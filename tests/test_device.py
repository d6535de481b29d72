"""The device asked for is used or refused, and its settings make results repeatable."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils import deterministic

from lenet_cifar10 import device
from lenet_cifar10.errors import UserError
from lenet_cifar10.launcher import Place

SeeGpus = Callable[..., None]


@pytest.fixture
def see_gpus(monkeypatch: pytest.MonkeyPatch) -> SeeGpus:
    """Have torch see so many GPUs."""

    def see(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return see


@pytest.fixture
def settings_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    places = [
        (torch.utils.deterministic, "fill_uninitialized_memory"),
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"),
    ]
    before = [getattr(*place) for place in places]
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    for (owner, name), value in zip(places, before, strict=True):
        setattr(owner, name, value)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "expected"),
    [
        ("cpu", 0, False, "cpu"),
        ("cpu", 2, True, "cpu"),
        ("auto", 0, False, "cpu"),
        ("auto", 2, False, "cuda:0"),
        ("auto", 0, True, "mps"),
        ("cuda", 2, False, "cuda:0"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps"),
    ],
)
def test_a_device_that_is_there_is_chosen(see_gpus: SeeGpus, name: str, cuda: int, mps: bool, expected: str) -> None:
    see_gpus(cuda, mps)
    assert device.choose(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "cuda", "message"),
    [
        ("cuda", 0, "device: found cuda, but torch sees no such GPU here; use auto or cpu"),
        ("cuda:7", 0, "device: found cuda:7, but torch sees no such GPU here"),
        ("cuda:7", 2, "device: found cuda:7, but torch sees only 2 such GPUs here"),
        ("cuda:2", 2, "device: found cuda:2, but torch sees only 2 such GPUs here"),
        ("mps", 0, "device: found mps, but torch sees no such GPU here; use auto or cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(see_gpus: SeeGpus, name: str, cuda: int, message: str) -> None:
    see_gpus(cuda)
    with pytest.raises(UserError, match=f"^params.yaml: {message}"):
        device.choose(name)
    with pytest.raises(UserError, match=f"^--{message}"):
        device.choose(name, setting="--device")


@pytest.mark.usefixtures("settings_restored")
def test_the_settings_are_those_of_repeatable_results() -> None:
    device.make_repeatable(threads=1)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_description_names_the_threads_of_the_cpu(threads: int) -> None:
    device.make_repeatable(threads)
    described = device.describe(torch.device("cpu"))
    assert described.startswith(f"cpu ({device.processor_name()}, {threads} threads) with torch {torch.__version__}, ")
    assert device.environment(torch.device("cpu"))["threads"] == threads


def test_the_description_names_the_model_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Model of {device}")
    assert device.describe(torch.device("cuda", 1)).startswith("cuda:1 (Model of cuda:1, ")
    facts = device.environment(torch.device("cuda", 1))
    assert (facts["device"], facts["device_name"]) == ("cuda", "Model of cuda:1")
    assert facts["torch"] == torch.__version__


def test_threads_are_set_whatever_the_environment_says() -> None:
    code = "import torch; from lenet_cifar10.device import make_repeatable as m; m(2); print(torch.get_num_threads())"
    environment = {
        "PYTHONPATH": str(Path(device.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "2\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own way")
def test_freed_memory_is_kept_for_the_next_array() -> None:
    code = """
import resource, torch
from lenet_cifar10 import device
device.prepare("cpu", 1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 << 20)  # 64 MiB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    environment = {"PYTHONPATH": str(Path(device.__file__).parent.parent)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 10_000


def beside_others(local_rank: int) -> Place:
    return Place(local_rank, 2, local_rank, 2)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(device.choose(name, place=beside_others(rank))) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert str(device.choose("cpu", place=beside_others(1))) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"train\.launcher: starts 2 processes here, but torch sees 1 GPUs"):
        device.choose(name, place=beside_others(1))


def test_processes_share_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [str(device.choose("auto", place=beside_others(rank))) for rank in range(2)] == ["cpu", "cpu"]
    with pytest.raises(UserError, match="starts 2 processes here, but torch sees 0 GPUs"):
        device.choose("cuda", place=beside_others(0))


@pytest.mark.parametrize("name", ["cuda:0", "mps"])
def test_one_device_is_not_for_several_processes(name: str) -> None:
    with pytest.raises(UserError, match=f"device: found {name}, but train.launcher starts 2 processes; use auto"):
        device.choose(name, place=beside_others(0))


def test_a_device_short_of_memory_is_told_in_one_line() -> None:
    @device.telling_shortage()
    def allocate() -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.00 GiB of which\nmore"
        )

    for _ in range(2):
        with pytest.raises(UserError) as caught:
            allocate()
        assert str(caught.value) == (
            "params.yaml: device: CUDA out of memory. Tried to allocate 20.00 GiB; "
            "end what else uses it, lower train.batch_size, or use another device"
        )

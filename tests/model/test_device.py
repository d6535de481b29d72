"""The device asked for is used or refused, and its settings make results repeatable."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lenet_cifar10.common.stage import UserError
from lenet_cifar10.model import device


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have torch see so many GPUs, and this process be one of several."""

    def set_up(cuda: int = 0, mps: bool = False, rank: int = 0, processes: int = 1) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    return set_up


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "expected"),
    [
        ("cpu", 0, False, "cpu"),
        ("cpu", 2, True, "cpu"),
        ("auto", 0, False, "cpu"),
        ("auto", 2, False, "cuda:0"),
        ("auto", 0, True, "mps:0"),
        ("cuda", 2, False, "cuda:0"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps:0"),
    ],
)
def test_a_device_that_is_there_is_used(machine: Any, name: str, cuda: int, mps: bool, expected: str) -> None:
    machine(cuda, mps)
    assert device.resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "cuda", "count"), [("cuda", 0, "no"), ("cuda:7", 0, "no"), ("cuda:2", 2, "2"), ("mps", 0, "no")]
)
def test_a_device_that_is_not_there_is_refused(machine: Any, name: str, cuda: int, count: str) -> None:
    machine(cuda)
    message = f"^--device: found {name}, but torch sees {count} such GPUs here; use auto or cpu$"
    with pytest.raises(UserError, match=message):
        device.resolve_device(name, setting="--device")


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "expected"),
    [("auto", 2, False, "cuda:1"), ("cuda", 2, False, "cuda:1"), ("cpu", 2, False, "cpu"), ("auto", 0, True, "cpu")],
)
def test_each_of_several_processes_takes_its_own_gpu(
    machine: Any, name: str, cuda: int, mps: bool, expected: str
) -> None:
    machine(cuda, mps, rank=1, processes=2)
    assert device.resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "cuda", "message"),
    [
        ("auto", 1, "LAUNCHER: starts 2 processes here, but torch sees 1 GPUs"),
        ("cuda", 0, "params.yaml: device: found cuda, but torch sees no such GPUs here"),
        ("cuda:0", 2, "params.yaml: device: found cuda:0, but LAUNCHER starts 2 processes; use auto or cpu"),
        ("mps", 0, "params.yaml: device: found mps, but LAUNCHER starts 2 processes; use auto or cpu"),
    ],
)
def test_several_processes_do_not_share_a_gpu(machine: Any, name: str, cuda: int, message: str) -> None:
    for rank in range(2):  # all must refuse, or some wait for the others
        machine(cuda, rank=rank, processes=2)
        with pytest.raises(UserError, match=f"^{message}"):
            device.resolve_device(name)


@pytest.fixture(scope="module")
def prepared_process() -> dict[str, Any]:
    """What another process reports about itself: these are settings of a whole process."""
    code = """
import json, os, resource, torch
from lenet_cifar10.model import device
device.set_deterministic(threads=3)
device.keep_freed_memory()
def count_page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4 << 20)  # 16 MiB: 4,096 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
count_page_faults()
print(json.dumps({
    "threads": torch.get_num_threads(),
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "only warns": torch.is_deterministic_algorithms_warn_only_enabled(),
    "flags": [torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
    "cublas": os.environ["CUBLAS_WORKSPACE_CONFIG"],
    "page faults": count_page_faults(),
}))
"""
    variables = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)} | variables
    return json.loads(
        subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True).stdout
    )


def test_the_settings_are_those_of_repeatable_results(prepared_process: dict[str, Any]) -> None:
    assert prepared_process["threads"] == 3
    assert prepared_process["deterministic"]
    assert not prepared_process["only warns"]
    assert not any(prepared_process["flags"])
    assert prepared_process["cublas"] == ":4096:8"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own way")
def test_freed_memory_is_kept_for_the_next_array(prepared_process: dict[str, Any]) -> None:
    assert prepared_process["page faults"] < 4000


def test_the_environment_is_the_same_alone_and_under_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    alone = device.describe_environment(torch.device("cpu"))
    assert alone["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert (alone["device"], alone["threads"], alone["torch"]) == ("cpu", torch.get_num_threads(), torch.__version__)

    program = tmp_path / "program.py"
    program.write_text(f"""
import json, os, pathlib, torch
from lenet_cifar10.model import device
device.set_deterministic({alone["threads"]})
line = json.dumps(device.describe_environment(torch.device("cpu")))
pathlib.Path(os.environ["RANK"]).write_text(line)
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}, check=True)
    assert [json.loads((tmp_path / rank).read_text()) for rank in "01"] == [alone, alone]


def test_the_environment_names_the_model_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"Model of {gpu}")
    environment = device.describe_environment(torch.device("cuda", 1))
    assert (environment["device"], environment["device_name"]) == ("cuda", "Model of cuda:1")


def test_a_lack_of_device_memory_is_one_line() -> None:
    @device.report_out_of_memory()
    def allocate() -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.00 GiB of which\nmore"
        )

    with pytest.raises(UserError) as caught:
        allocate()
    assert str(caught.value) == (
        "params.yaml: device: CUDA out of memory. Tried to allocate 20.00 GiB; "
        "end what else uses it, lower train.batch_size, switch train.cuda_graph off, or use another device"
    )


@pytest.mark.parametrize("name", ["OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_THREAD_LIMIT"])
def test_a_variable_with_which_torch_hangs_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=f"{name}: found 1, .* unset"):
        device.set_deterministic(threads=1)

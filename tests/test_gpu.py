"""On a real GPU: the CPU's augmentation, the same training again and no waiting in an epoch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from project import change_params, hash_outputs, run
from training_runs import MODERATE, NONE, digest, make_split
from training_runs import run as train

from lenet_cifar10.common.params import AugmentSection
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.model import augment
from lenet_cifar10.model.device import report_out_of_memory, set_deterministic, supports_bfloat16, supports_tf32
from lenet_cifar10.model.lenet import normalize
from lenet_cifar10.model.scoring import predict, predict_with_flips

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.usefixtures("modes"),
]
GPU = torch.device("cuda", 0)


@pytest.fixture
def modes() -> Iterator[None]:
    """Deterministic mode, in which an operator that cannot promise the same bits raises; afterwards all as before."""
    threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    set_deterministic(threads=1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(was_deterministic)
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("padding_mode", ["zeros", "symmetric"])
def test_augmentation_gives_the_bytes_of_the_cpu(padding_mode: augment.PaddingMode) -> None:
    images = torch.randint(0, 256, (4000, 3, 32, 32), dtype=torch.uint8)
    draws = augment.draw(len(images), MODERATE, torch.Generator().manual_seed(1))
    expected = augment.apply(images, draws, padding_mode)
    assert not torch.equal(expected, images)
    assert torch.equal(augment.apply(images.to(GPU), draws, padding_mode).cpu(), expected)


def test_every_pixel_value_is_normalized_as_on_the_cpu() -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    assert torch.equal(normalize(values.to(GPU)).cpu(), normalize(values))


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_the_same_training_gives_the_same_bits_again_recorded_or_not(
    tmp_path: Path, micro_batches: int, optimizer: str, precision: str
) -> None:
    if not {"float32": True, "tf32": supports_tf32(GPU), "bfloat16": supports_bfloat16(GPU)}[precision]:
        pytest.skip(f"this GPU does not support {precision}")
    changes: dict[str, Any] = {"optimizer": optimizer, "micro_batches": micro_batches, "precision": precision}
    changes["momentum"] = 0.9 if optimizer == "sgd" else 0.0
    results = []
    for number, cuda_graph in enumerate((False, False, True, True)):
        history, model = train(tmp_path / f"{number}", device=GPU, cuda_graph=cuda_graph, **changes)
        assert model.output.weight.device == GPU
        results.append((history, digest(model)))
        torch.rand(7, device=GPU)  # random numbers drawn elsewhere change nothing
    assert results == results[:1] * 4


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_resumed_training_ends_with_the_bits_of_one_that_was_not_stopped(tmp_path: Path, cuda_graph: bool) -> None:
    expected_history, expected = train(tmp_path / "whole", device=GPU, epochs=4, cuda_graph=cuda_graph)
    train(tmp_path / "stopped", device=GPU, epochs=4, cuda_graph=cuda_graph, stop_after=2)
    history, model = train(tmp_path / "stopped", device=GPU, epochs=4, cuda_graph=cuda_graph)
    assert history == expected_history
    assert digest(model) == digest(expected)


def test_training_and_prediction_are_those_of_the_cpu_but_for_rounding(tmp_path: Path) -> None:
    """Without dropout, whose random numbers depend on the device."""
    _, expected = train(tmp_path / "cpu", dropout=0, epochs=1)
    _, model = train(tmp_path / "gpu", device=GPU, dropout=0, epochs=1)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name].cpu(), tensor, rtol=1e-3, atol=1e-4, msg=name)
    images = torch.from_numpy(make_split().images)
    for function in (predict, predict_with_flips):
        logits = function(model, images.to(GPU))
        assert logits.device.type == "cpu"
        torch.testing.assert_close(logits, function(expected, images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("section", [NONE, MODERATE])
def test_no_step_waits_for_the_gpu(
    tmp_path: Path, section: AugmentSection, optimizer: str, micro_batches: int, cuda_graph: bool
) -> None:
    """In the second epoch, for the first use of an operator may wait. Its images are loaded before its first step."""
    steps = 0

    def after_step() -> None:
        nonlocal steps
        steps += 1
        torch.cuda.set_sync_debug_mode("error" if 9 <= steps < 16 else "default")

    changes: dict[str, Any] = {"optimizer": optimizer, "micro_batches": micro_batches, "batch_size": 7}
    changes["cuda_graph"] = cuda_graph
    changes["momentum"] = 0.9 if optimizer == "sgd" else 0.0
    train(tmp_path, device=GPU, augment=section, after_step=after_step, **changes)
    assert steps == 16


def test_a_wait_would_be_an_error() -> None:
    value = torch.ones((), device=GPU)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        value.item()


def test_too_little_memory_is_reported_in_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^params.yaml: device: CUDA out of memory. Tried to allocate [\d.]+ GiB; end "),
        report_out_of_memory(),
    ):
        torch.empty(1 << 45, dtype=torch.uint8, device=GPU)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs here")
def test_two_gpus_give_the_bytes_of_one(project_copy: Path) -> None:
    change_params(project_copy, {"device": "cuda", "train.micro_batches": 4})
    results = []
    for processes in (1, 2):
        launcher = f"torchrun --standalone --nproc-per-node {processes}"
        run(project_copy, "dvc", "repro", "--force", "--single-item", "train", LAUNCHER=launcher)
        results.append(hash_outputs(project_copy))
    assert results[0] == results[1]

"""On a real GPU: the CPU's augmentation to the bit, the same training again to the bit, and no waiting in an epoch."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from project import Project
from test_processes import FILES, PARAMS, forget, launcher
from test_training import MOVING, SET, STILL, start

from lenet_cifar10 import augment
from lenet_cifar10.device import computes_bfloat16, make_repeatable, telling_shortage
from lenet_cifar10.errors import UserError
from lenet_cifar10.evaluation import predict, predict_with_flips
from lenet_cifar10.model import normalize
from lenet_cifar10.params import AugmentSection
from lenet_cifar10.training import Training

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.usefixtures("repeatable"),
]
GPU = torch.device("cuda", 0)


@pytest.fixture
def repeatable() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    make_repeatable(threads=1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def train(epochs: int = 2, **changes: Any) -> tuple[Training, list[Any]]:
    run = start(augmentation=MOVING, dropout=0.5, device=GPU, epochs=epochs, **changes)
    return run, list(run.run())


def assert_same_bits(first: Training, second: Training) -> None:
    states = first.state(), second.state()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("border", ["zero", "reflect"])
@pytest.mark.parametrize("size", [32, 30])
def test_augmentation_gives_the_cpu_s_very_bytes(border: str, size: int) -> None:
    images = torch.randint(0, 256, (4000, 3, size, size), dtype=torch.uint8)
    section = AugmentSection.model_validate(MOVING.model_dump() | {"border": border})
    draws = augment.draw(len(images), section, torch.Generator().manual_seed(1))
    expected = augment.apply(images, draws, section.border)
    assert not torch.equal(expected, images)
    assert torch.equal(augment.apply(images.to(GPU), draws, section.border).cpu(), expected)


def test_every_pixel_value_is_normalized_as_on_the_cpu() -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    assert torch.equal(normalize(values.to(GPU)).cpu(), normalize(values))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("first_layer", ["learned", "whitened"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_training_gives_the_same_bits_again(
    shards: int, optimizer: str, first_layer: str, precision: str
) -> None:
    """In deterministic mode, in which an operator that cannot promise it raises."""
    if precision == "bfloat16" and not computes_bfloat16(GPU):
        pytest.skip("this GPU does not compute bfloat16 itself")
    changes = {"shards": shards, "optimizer": optimizer, "first_layer": first_layer, "precision": precision}
    first, records = train(**changes)
    torch.rand(7, device=GPU)  # random numbers drawn elsewhere change nothing
    second, again = train(**changes)
    assert again == records
    assert_same_bits(first, second)
    assert {tensor.device.type for tensor in first._own_tensors().values()} == {"cuda"}


def test_a_resumed_training_ends_with_the_bits_of_one_that_was_never_stopped() -> None:
    whole, records = train(epochs=4)
    stopped = start(augmentation=MOVING, dropout=0.5, device=GPU, epochs=4)
    epochs = stopped.run()
    begun = [next(epochs), next(epochs)]
    resumed = start(augmentation=MOVING, dropout=0.5, device=GPU, epochs=4)
    resumed.restore(stopped.state(), finished_epochs=2)
    assert begun + list(resumed.run()) == records
    assert_same_bits(resumed, whole)


def test_training_and_prediction_are_the_cpu_s_but_for_rounding() -> None:
    there = start(augmentation=MOVING, device=GPU, epochs=1)
    here = start(augmentation=MOVING, epochs=1)
    for run in (there, here):
        assert len(list(run.run())) == 1
    for name, tensor in here.state().items():
        torch.testing.assert_close(there.state()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    images = torch.from_numpy(SET.images)
    for function in (predict, predict_with_flips):
        logits = function(there.kept, images.to(GPU))
        assert logits.device.type == "cpu"
        torch.testing.assert_close(logits, function(here.kept, images), rtol=1e-3, atol=1e-3)


def waits(run: Training) -> int:
    """How often the steps of an epoch wait for the GPU, as torch counts it."""
    run._take_steps(1, after_step=lambda: None)  # whatever is made at first use
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run._take_steps(2, after_step=lambda: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_warn_always(False)
    return sum("synchronizing" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("section", [STILL, MOVING])
def test_no_step_waits_for_the_gpu(section: AugmentSection, optimizer: str, shards: int) -> None:
    changes = {"device": GPU, "optimizer": optimizer, "shards": shards, "dropout": 0.5}
    few, many = (waits(start(augmentation=section, batch_size=size, **changes)) for size in (25, 5))
    assert few == many  # two steps and ten: what waits is the copying before the first
    assert few > 0  # or torch would not have counted


def test_a_wait_would_be_counted() -> None:
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing"):
            _ = torch.ones((), device=GPU).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_warn_always(False)


def test_more_than_the_gpu_s_memory_is_told_in_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^params.yaml: device: CUDA out of memory. Tried to allocate [\d.]+ GiB; end "),
        telling_shortage(),
    ):
        torch.empty(1 << 45, dtype=torch.uint8, device=GPU)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs here")
def test_two_gpus_give_the_bytes_of_one(pipeline: Project) -> None:
    found = []
    for processes in (1, 2):
        pipeline.change_params(PARAMS | {"device": "cuda", "train.shards": 4})
        forget(pipeline)
        pipeline.run(*launcher(processes), "stages/train.py", PYTHONPATH="src")
        found.append({name: pipeline.read(name) for name in FILES})
    assert found[1] == found[0]

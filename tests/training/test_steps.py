"""The training step: the bits of a plain loop, and its operators on a GPU that is not there."""

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from recorder import HostReadError, record
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import CLASSES, digest, make_settings, make_split

import lenet_cifar10.training.steps as module
from lenet_cifar10.common.params import ModelSection, TrainSection
from lenet_cifar10.common.randomness import derive_seed
from lenet_cifar10.model.device import supports_bfloat16
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.training.distributed import World
from lenet_cifar10.training.steps import Steps, ema_weight_at, learning_rate_at

SIZES = (16, 16, 16, 8)  # of the batches of an epoch
CHANGES: list[dict[str, Any]] = [
    {},
    {"momentum": 0.0},
    {"ema_decay": 0.0},
    {"label_smoothing": 0.0},
    {"optimizer": "adam", "momentum": 0.0},
    {"optimizer": "adamw", "momentum": 0.0},
]
PRECISIONS = ["float32", "bfloat16"] if supports_bfloat16(torch.device("cpu")) else ["float32"]


def make_model(device: str, dropout: float = 0.5) -> LeNet:
    torch.manual_seed(0)
    with torch.device(device):
        model = LeNet(ModelSection(dropout=dropout), len(CLASSES))
    return model if device == "cuda" else model.to(memory_format=torch.channels_last)  # a fake tensor stays as it is


def make_steps(settings: TrainSection, device: str = "cpu", dropout: float = 0.5) -> Steps:
    model = make_model(device, dropout)
    return Steps(model, settings, seed=7, count=len(SIZES) * settings.epochs, chunk=3, world=World())


def take_epoch(steps: Steps, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """The steps of an epoch: three whole batches, then a smaller one."""
    training = make_split()
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    torch.manual_seed(derive_seed(7, epoch, "dropout"))
    figures = []
    first = len(SIZES) * (epoch - 1)
    for chunk, size, numbers in (
        (slice(0, 48), 16, range(first, first + 3)),
        (slice(48, 56), 8, range(first + 3, first + 4)),
    ):
        steps.load(images[chunk].to(steps.device), labels[chunk].to(steps.device), size, numbers)
        for _ in numbers:
            steps.take()
        figures.append(steps.figures())
    return figures


def train_plainly(model: LeNet, settings: TrainSection) -> tuple[LeNet, LeNet, list[float]]:
    """The same training as in a textbook -> the model, its moving average and the summed losses of all steps."""
    options = {"lr": 1.0, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        optimizer = SGD(model.parameters(), momentum=settings.momentum, nesterov=settings.momentum > 0, **options)
    else:
        optimizer = {"adam": Adam, "adamw": AdamW}[settings.optimizer](model.parameters(), **options)
    average, losses, step = copy.deepcopy(model), [], 0
    training = make_split()
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    for epoch in range(1, settings.epochs + 1):
        torch.manual_seed(derive_seed(7, epoch, "dropout"))
        for x, y in zip(images.split(SIZES), labels.split(SIZES), strict=True):
            for group in optimizer.param_groups:
                rate = learning_rate_at(step, len(SIZES) * settings.epochs, settings)
                group["lr"] = rate if settings.optimizer == "sgd" else torch.tensor(rate).item()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
                logits = model(x)
            log_probabilities = logits.float().log_softmax(dim=1)
            cross_entropy = functional.nll_loss(log_probabilities, y)
            smoothing = settings.label_smoothing
            (cross_entropy * (1 - smoothing) - log_probabilities.mean() * smoothing).backward()
            optimizer.step()
            losses.append(functional.nll_loss(log_probabilities.detach(), y, reduction="sum").item())
            weight = (1 - settings.ema_decay) / (1 - settings.ema_decay ** (step + 1))
            for old, new in zip(average.parameters(), model.parameters(), strict=True):
                old.data.lerp_(new.data, weight)
            step += 1
    return model, average, losses


def test_the_objective_is_cross_entropy_with_label_smoothing() -> None:
    steps = make_steps(make_settings(), dropout=0)
    training = make_split(16)
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    plain = copy.deepcopy(steps.model)
    functional.cross_entropy(plain(images), labels, label_smoothing=0.1).backward()
    steps.load(images, labels, 16, range(1))
    steps._differentiate(
        images=steps.batches.images[0].permute(0, 3, 1, 2), labels=labels, gradients=steps.batches.gradients[0]
    )
    for weight, expected in zip(steps.weights, plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, expected.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("micro_batches", [3, 12])
def test_micro_batches_give_the_result_of_the_whole_batch_but_for_rounding(micro_batches: int) -> None:
    """Twelve parts of the last eight images: some have none."""
    whole, cut = (make_steps(make_settings(micro_batches=parts), dropout=0) for parts in (1, micro_batches))
    before = torch.cat([weight.detach().flatten() for weight in whole.weights])
    losses, correct = (torch.cat(figures).sum() for figures in zip(*take_epoch(whole, 1), strict=True))
    cut_losses, cut_correct = (torch.cat(figures).sum() for figures in zip(*take_epoch(cut, 1), strict=True))
    assert cut_losses.item() == pytest.approx(losses.item(), rel=1e-5)
    assert cut_correct == correct
    expected, found = (torch.cat([weight.detach().flatten() for weight in steps.weights]) for steps in (whole, cut))
    assert (found - expected).norm() < 1e-4 * (expected - before).norm()


# Recorded steps


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have steps be recorded here as they are on a GPU."""
    monkeypatch.setattr(module, "is_recorded", lambda settings, device, world: True)
    monkeypatch.setattr(Steps, "record", staticmethod(record))


def train_restored(steps: Steps) -> tuple[list[float], str, str]:
    """Two epochs, the second one after a restored state -> the losses of all steps, and digests of both models."""
    figures = take_epoch(steps, 1)
    steps.restore({name: tensor.clone() for name, tensor in steps.state().items()})
    figures += take_epoch(steps, 2)
    return torch.cat([loss for loss, _ in figures]).tolist(), digest(steps.model), digest(steps.ema_model)


@pytest.mark.usefixtures("recording")
def test_a_recording_leaves_no_trace() -> None:
    steps, training = make_steps(make_settings(optimizer="adam", momentum=0.0)), make_split(48)
    before, random = {name: tensor.clone() for name, tensor in steps.state().items()}, torch.get_rng_state()
    steps.load(torch.from_numpy(training.images), torch.from_numpy(training.labels), 16, range(3))
    assert steps.batches.replay
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in steps.state().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("way", ["eager", "recorded"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("changes", CHANGES)
def test_steps_have_the_bits_of_a_plain_loop(
    request: pytest.FixtureRequest, changes: dict[str, Any], dropout: float, precision: str, way: str
) -> None:
    if way == "recorded":
        request.getfixturevalue("recording")
    settings = make_settings(precision=precision, **changes)
    steps = make_steps(settings, dropout=dropout)
    model, average, losses = train_plainly(copy.deepcopy(steps.model), settings)
    assert train_restored(steps) == (losses, digest(model), digest(average))
    assert [batches.replay is not None for batches in steps._by_size.values()] == [way == "recorded", False]


def freeze_rate(steps: Steps) -> None:
    """The learning rate as a number, which the recording keeps."""
    steps.optimizer.param_groups[0]["lr"] = 0.02


def freeze_average(steps: Steps) -> None:
    """The same for the weight in the moving average."""

    def update() -> None:
        steps.optimizer.step()
        steps.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_([*steps.ema_model.parameters()], steps.weights, steps.rate[0, 1].item())  # pyright: ignore

    steps._update = update


def replace_rates(steps: Steps) -> None:
    """Another array at each load."""
    load = steps.load

    def replacing(images: Tensor, labels: Tensor, size: int, steps: range) -> None:
        load(images, labels, size, steps)
        module_steps.batches.rates = module_steps.batches.rates.clone()

    module_steps = steps
    steps.load = replacing


def replace_momentum(steps: Steps) -> None:
    """Other arrays at each restored checkpoint, as by `Optimizer.load_state_dict`."""
    restore = steps.restore

    def replacing(state: Any) -> None:
        restore(state)
        for values in steps.optimizer.state.values():
            values["momentum_buffer"] = values["momentum_buffer"].clone()

    steps.restore = replacing


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("plant", [freeze_rate, freeze_average, replace_rates, replace_momentum])
def test_the_recorder_would_catch_a_step_that_a_gpu_cannot_repeat(plant: Callable[[Steps], None]) -> None:
    settings = make_settings()
    steps = make_steps(settings, dropout=0)
    model, average, losses = train_plainly(copy.deepcopy(steps.model), settings)
    plant(steps)
    with suppress(HostReadError):
        assert train_restored(steps) != (losses, digest(model), digest(average))


def test_arrays_stay_where_they_are() -> None:
    """What a GPU has recorded reads them at their addresses."""
    steps = make_steps(make_settings())

    def addresses() -> dict[str, int]:
        arrays = {name: value for name, value in vars(steps.batches).items() if isinstance(value, Tensor)}
        rate = steps.optimizer.param_groups[0]["lr"]
        others = {"position": steps.position, "rate": steps.rate, "ema_weight": steps.ema_weight, "lr": rate}
        return {name: array.data_ptr() for name, array in (arrays | others | steps.state()).items()}

    training = make_split(48)
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    steps.load(images, labels, 16, range(3))
    before = addresses()
    for _ in range(3):
        steps.take()
    steps.load(images[:16], labels[:16], 16, range(3, 4))
    steps.restore({name: tensor.clone() for name, tensor in steps.state().items()})
    steps.take()
    assert addresses() == before


# The GPU path where there is no GPU


class OperatorLog(TorchDispatchMode):
    """The operators that ran, and how many of them copied from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.transfers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.names.add(name)
        if name in {"_to_copy", "copy_"}:
            self.transfers += args[name == "copy_"].device != result.device
        return result


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_no_step_on_a_gpu_mixes_devices_or_waits(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, micro_batches: int, precision: str
) -> None:
    """A fake GPU raises on tensors of another device and on reading a value, for which a real one would wait."""
    monkeypatch.setattr(Tensor, "backward", lambda tensor, gradient: None)  # it cannot be computed there
    momentum = 0.9 if optimizer == "sgd" else 0.0
    settings = make_settings(optimizer=optimizer, momentum=momentum, micro_batches=micro_batches, precision=precision)
    with FakeTensorMode():
        # A deep copy would be of another fake mode.
        monkeypatch.setattr("lenet_cifar10.training.steps.deepcopy", lambda model: make_model("cuda"))
        steps = make_steps(settings, device="cuda")
        monkeypatch.setattr(steps.optimizer, "step", lambda: None)  # the fused form cannot be computed there either
        monkeypatch.setattr(steps.optimizer, "zero_grad", lambda set_to_none: None)
        for weight in steps.weights:
            weight.grad = torch.zeros_like(weight)
        images = torch.empty(48, 3, 32, 32, dtype=torch.uint8, device="cuda")
        steps.load(images, torch.empty(48, dtype=torch.int64, device="cuda"), 16, range(3))
        with OperatorLog() as log:
            for _ in range(3):
                steps.take()
        losses, correct = steps.figures()
    assert (losses.device.type, correct.device.type) == ("cuda", "cuda")
    assert (losses.shape, correct.shape) == ((3 * micro_batches,), (3 * micro_batches,))
    assert log.transfers == 0


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_an_epoch_with_gradients_runs_away_from_the_cpu(monkeypatch: pytest.MonkeyPatch, micro_batches: int) -> None:
    """On torch's device without memory, which like a GPU accepts no tensor of another device."""
    steps = make_steps(make_settings(micro_batches=micro_batches), "meta")
    monkeypatch.setattr(steps.optimizer, "step", lambda: None)  # the fused form is for devices with memory only
    assert {figure.device.type for figures in take_epoch(steps, 1) for figure in figures} == {"meta"}


# What raises in deterministic mode on CUDA, from the documentation of torch.use_deterministic_algorithms. Its NLLLoss
# is that for images of labels: the one for a label an image has no such check in torch's source.
NON_DETERMINISTIC = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_ctc_loss_backward", "_embedding_bag_backward",
    "_upsample_bicubic2d_aa_backward", "_upsample_bilinear2d_aa_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward", "bincount", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "histc", "kthvalue", "max_unpool2d", "max_unpool3d",
    "median", "nll_loss2d_forward", "put_", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "scatter_reduce", "upsample_bicubic2d_backward", "upsample_bilinear2d_backward",
    "upsample_linear1d_backward", "upsample_trilinear3d_backward",
}  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_no_operator_is_on_the_list_of_non_deterministic_ones(optimizer: str, precision: str) -> None:
    momentum = 0.9 if optimizer == "sgd" else 0.0
    steps = make_steps(make_settings(optimizer=optimizer, momentum=momentum, precision=precision))
    with OperatorLog() as log:
        take_epoch(steps, 1)
    assert log.names >= {"convolution_backward", "max_pool2d_with_indices_backward"}  # it looked
    assert not log.names & NON_DETERMINISTIC


def test_the_average_counts_each_step_by_its_age() -> None:
    average = math.nan
    for step, value in enumerate([1.0, 2.0, 4.0]):
        average = value if step == 0 else average + (value - average) * ema_weight_at(step, 0.5)
    assert ema_weight_at(0, 0.5) == 1
    assert average == pytest.approx((0.25 * 1 + 0.5 * 2 + 1 * 4) / 1.75)

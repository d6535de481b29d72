"""The training loop against plain loops, to the bit where it promises bits; and its operators on a pretended GPU."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_cifar10 import augment, training
from lenet_cifar10 import device as device_module
from lenet_cifar10.dataset import Split
from lenet_cifar10.errors import UserError
from lenet_cifar10.evaluation import predict, score
from lenet_cifar10.model import LeNet, whitening_filters
from lenet_cifar10.params import AugmentSection, ModelSection, TrainSection
from lenet_cifar10.processes import Team
from lenet_cifar10.randomness import generator_for
from lenet_cifar10.training import EpochRecord, Training, learning_rate_at

P = ParamSpec("P")
R = TypeVar("R")

CLASSES = 4
FirstLayer = Literal["learned", "whitened"]
CPU = torch.device("cpu")
STILL = AugmentSection(
    flip_probability=0,
    translation_pixels=0,
    rotation_degrees=0,
    shear_degrees=0,
    scale=0,
    brightness=0,
    contrast=0,
    saturation=0,
    border="zero",
)
MOVING = AugmentSection(
    flip_probability=0.5,
    translation_pixels=2,
    rotation_degrees=10,
    shear_degrees=10,
    scale=0.2,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    border="reflect",
)


def make_section(**changes: Any) -> TrainSection:
    values = {
        "launcher": "python",
        "threads": 1,
        "shards": 1,
        "precision": "float32",
        "epochs": 2,
        "batch_size": 16,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "momentum": 0.0,
        "weight_decay": 0.05,
        "schedule": "linear",
        "warmup_fraction": 0.25,
        "label_smoothing": 0.1,
        "averaging_decay": 0.9,
    }
    return TrainSection.model_validate(values | changes)


def make_split(count: int) -> Split:
    """Noisy images of a brightness that tells their class."""
    random = np.random.default_rng(count)
    labels = np.arange(count) % CLASSES
    noise = random.integers(0, 64, (count, 3, 32, 32))
    return Split((noise + 60 * labels[:, None, None, None]).astype(np.uint8), labels)


SET = make_split(50)  # three batches of 16 and one of 2
VALIDATION = make_split(12)


def start(
    seed: int = 0,
    augmentation: AugmentSection = STILL,
    dropout: float = 0.0,
    first_layer: FirstLayer = "learned",
    device: torch.device = CPU,
    team: Team | None = None,
    **changes: Any,
) -> Training:
    model_section = ModelSection(dropout=dropout, first_layer=first_layer)
    return Training(
        SET,
        VALIDATION,
        classes=CLASSES,
        device=device,
        seed=seed,
        augment_section=augmentation,
        model_section=model_section,
        section=make_section(**changes),
        team=team,
    )


def weights(network: nn.Module) -> Tensor:
    return torch.cat([values.detach().flatten() for values in network.parameters()])


def watch_inputs(run: Training) -> list[Tensor]:
    """The batches that the network will be given to learn from, as they come."""
    batches: list[Tensor] = []

    def keep(network: nn.Module, arguments: tuple[Tensor]) -> None:
        if network.training:
            batches.append(arguments[0].clone())

    run.network.register_forward_pre_hook(keep)
    return batches


def watch_types(*layers: nn.Module) -> list[torch.dtype]:
    """The types of what the layers give, as they give it."""
    types: list[torch.dtype] = []

    def keep(layer: nn.Module, arguments: tuple[Tensor], values: Tensor) -> None:
        types.append(values.dtype)

    for layer in layers:
        layer.register_forward_hook(keep)
    return types


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The learning rate


@pytest.mark.parametrize(
    ("schedule", "warmup_fraction", "rates"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("constant", 0.5, [1 / 3, 2 / 3, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [1 / 3, 2 / 3, 1, 0.5]),
        ("cosine", 0.0, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("cosine", 0.5, [1 / 3, 2 / 3, 1, 0.5]),
        ("linear", 0.99, [0.25, 0.5, 0.75, 1]),
    ],
)
def test_the_learning_rate_warms_up_then_follows_its_schedule(
    schedule: str, warmup_fraction: float, rates: list[float]
) -> None:
    section = make_section(schedule=schedule, warmup_fraction=warmup_fraction, learning_rate=1.0)
    assert [learning_rate_at(step, 4, section) for step in range(4)] == pytest.approx(rates)


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 1000),
    st.data(),
)
def test_the_learning_rate_is_above_zero_up_to_its_peak(
    schedule: str, warmup_fraction: float, steps: int, data: st.DataObject
) -> None:
    section = make_section(schedule=schedule, warmup_fraction=warmup_fraction, learning_rate=0.5)
    assert 0 < learning_rate_at(data.draw(st.integers(0, steps - 1)), steps, section) <= 0.5


# What is learned


def test_the_loss_falls_and_the_images_are_told_apart() -> None:
    first, *_, last = start(epochs=8, averaging_decay=0.5, label_smoothing=0.0).run()
    assert last.train_loss < first.train_loss / 2
    assert last.validation_accuracy == 1.0


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, **options: SGD(parameters, momentum=0.9, nesterov=True, **options),
    "adam": Adam,
    "adamw": AdamW,
}


def train_plainly(network: LeNet, section: TrainSection, seed: int) -> LeNet:
    """The same training as a loop of the textbook -> the average of the weights."""
    optimizer = OPTIMIZERS[section.optimizer](network.parameters(), weight_decay=section.weight_decay, lr=1.0)
    images, labels = torch.from_numpy(SET.images), torch.from_numpy(SET.labels)
    after_each_step = []
    steps = math.ceil(len(SET) / section.batch_size)
    step = 0
    for epoch in range(1, section.epochs + 1):
        order = torch.randperm(len(SET), generator=generator_for(seed, epoch, "order"))
        for batch in order.split(section.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, steps * section.epochs, section)
            optimizer.zero_grad()
            logits = network(images[batch])
            functional.cross_entropy(logits, labels[batch], label_smoothing=section.label_smoothing).backward()
            optimizer.step()
            after_each_step.append([parameter.detach().clone() for parameter in network.parameters()])
            step += 1
    # Decay 0 counts the last step's weights only.
    shares = torch.tensor([section.averaging_decay**age for age in reversed(range(step))])
    for parameter, *values in zip(network.parameters(), *after_each_step, strict=True):
        parameter.data = torch.tensordot(shares / shares.sum(), torch.stack(values), dims=1)
    return network


@pytest.mark.parametrize("averaging_decay", [0.0, 0.4, 0.998])
@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adam", 0.0), ("adamw", 0.0)])
def test_training_equals_a_plain_loop_but_for_rounding(optimizer: str, momentum: float, averaging_decay: float) -> None:
    run = start(
        seed=3,
        optimizer=optimizer,
        momentum=momentum,
        averaging_decay=averaging_decay,
        label_smoothing=0.2,
        learning_rate=0.002,
    )
    first = weights(run.network)
    expected = weights(train_plainly(copy.deepcopy(run.network), run.section, seed=3))
    list(run.run())
    moved = (expected - first).norm()
    assert moved > 0.01
    assert (weights(run.kept) - expected).norm() < 0.001 * moved


def test_without_averaging_the_network_s_own_weights_are_kept() -> None:
    run = start(averaging_decay=0.0)
    assert run.kept is run.network


def test_a_whitened_first_layer_stays_as_it_was_made_while_the_rest_learns() -> None:
    run = start(first_layer="whitened")
    before = {name: values.clone() for name, values in run.network.state_dict().items()}
    assert torch.equal(before["conv1.weight"], whitening_filters(torch.from_numpy(SET.images)))
    list(run.run())
    for network in (run.network, run.kept):
        changed = {name for name, values in network.state_dict().items() if not torch.equal(values, before[name])}
        assert changed == before.keys() - {"conv1.weight", "conv1.bias"}


def test_validation_figures_are_those_of_the_weights_kept() -> None:
    run = start()
    for record in run.run():
        kept = score(predict(run.kept, torch.from_numpy(VALIDATION.images)), torch.from_numpy(VALIDATION.labels))
        learned = score(predict(run.network, torch.from_numpy(VALIDATION.images)), torch.from_numpy(VALIDATION.labels))
        assert (record.validation_loss, record.validation_accuracy) == (kept.loss, kept.accuracy)
        assert kept.loss != learned.loss


def test_train_figures_are_means_over_images_and_not_over_batches() -> None:
    run = start(learning_rate=1e-30, epochs=1)  # so small that the weights stay as they are
    expected = score(predict(run.network, torch.from_numpy(SET.images)), torch.from_numpy(SET.labels))
    (record,) = run.run()
    assert record.train_loss == pytest.approx(expected.loss, rel=1e-6)
    assert record.train_accuracy == expected.accuracy


def test_records_count_epochs_from_1_and_name_the_last_learning_rate() -> None:
    run = start(warmup_fraction=0.0, learning_rate=0.008)
    assert [(record.epoch, record.learning_rate) for record in run.run()] == [
        (1, pytest.approx(0.005)),
        (2, pytest.approx(0.001)),
    ]


# What the network is given


def test_every_image_is_seen_once_an_epoch_also_those_of_a_smaller_last_batch() -> None:
    run = start(epochs=1)
    batches = watch_inputs(run)
    list(run.run())
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    seen = sorted(image.numpy().tobytes() for image in torch.cat(batches))
    assert seen == sorted(image.tobytes() for image in SET.images)


def test_the_size_of_the_augmented_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start(augmentation=MOVING)
    history = list(whole.run())
    monkeypatch.setattr(training, "CPU_CHUNK_IMAGES", 20)
    assert list(start(augmentation=MOVING).run()) == history


def test_images_are_augmented_anew_in_each_epoch() -> None:
    run = start(augmentation=MOVING)
    batches = watch_inputs(run)
    list(run.run())
    seen = {image.numpy().tobytes() for image in torch.cat(batches)}
    assert len(seen) == 2 * len(SET)
    assert not seen & {image.tobytes() for image in SET.images}


def test_the_arrays_given_are_left_as_they_were() -> None:
    before = SET.images.copy(), SET.labels.copy()
    list(start(augmentation=MOVING).run())
    assert np.array_equal(SET.images, before[0])
    assert np.array_equal(SET.labels, before[1])


def test_after_step_is_called_after_each_step() -> None:
    run = start()
    calls: list[int] = []
    list(run.run(after_step=lambda: calls.append(run.finished_epochs)))
    assert run.steps_per_epoch == 4
    assert calls == [0] * 4 + [1] * 4


def test_a_batch_may_be_the_whole_set() -> None:
    assert start(batch_size=len(SET)).steps_per_epoch == 1


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size: found 51, expected at most the 50 training images"):
        start(batch_size=51)


# The same bits


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again = (start(augmentation=MOVING, dropout=0.5) for _ in range(2))
    assert list(first.run()) == list(again.run())
    assert torch.equal(weights(first.kept), weights(again.kept))
    assert torch.equal(weights(first.network), weights(again.network))


@pytest.mark.parametrize("changes", [{"augmentation": MOVING}, {"dropout": 0.5}, {}], ids=str)
def test_another_seed_gives_other_weights(changes: dict[str, Any]) -> None:
    zero, one = start(seed=0, **changes), start(seed=1, **changes)
    assert not torch.equal(weights(zero.network), weights(one.network))
    assert list(zero.run()) != list(one.run())


def test_random_numbers_drawn_elsewhere_change_nothing() -> None:
    expected = list(start(augmentation=MOVING, dropout=0.5).run())
    torch.manual_seed(1234)
    run = start(augmentation=MOVING, dropout=0.5)
    records: list[EpochRecord] = []
    for record in run.run():
        records.append(record)
        torch.rand(7)
    assert records == expected


def test_an_epoch_follows_from_the_weights_the_optimizer_and_its_number_alone() -> None:
    whole = start(augmentation=MOVING, dropout=0.5, epochs=3)
    history = whole.run()
    next(history)
    rest = start(augmentation=MOVING, dropout=0.5, epochs=3)
    rest.network.load_state_dict(whole.network.state_dict())
    rest.kept.load_state_dict(whole.kept.state_dict())
    rest.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    rest.finished_epochs = 1
    assert list(rest.run()) == list(history)
    assert torch.equal(weights(rest.kept), weights(whole.kept))


# Divergence


def test_a_training_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(UserError, match=r"epoch \d+: .*training has diverged; lower train\.learning_rate"):
        list(start(optimizer="sgd", learning_rate=100, epochs=20, weight_decay=10, warmup_fraction=0.0).run())


def test_weights_spoilt_by_the_very_last_step_are_not_kept_in_silence() -> None:
    run = start(epochs=1, averaging_decay=0.0)
    steps: list[int] = []

    def spoil_the_last() -> None:
        steps.append(1)
        if len(steps) == run.steps_per_epoch:
            nn.init.constant_(run.network.output.bias, math.nan)

    with pytest.raises(UserError, match=r"epoch 1: the loss is .* and nan in validation; training has diverged"):
        list(run.run(after_step=spoil_the_last))
    assert run.finished_epochs == 0


# The GPU path where there is no GPU


def outside_of_fakes(function: Callable[P, R]) -> Callable[P, R]:
    """For what the CPU works out in advance: it needs real numbers."""

    def call(*arguments: P.args, **options: P.kwargs) -> R:
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return call


@pytest.fixture
def draws_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((augment, "draw"), (augment, "_plan"), (augment.Draws, "__getitem__")):
        monkeypatch.setattr(owner, name, outside_of_fakes(getattr(owner, name)))
    plan_images = outside_of_fakes(training.plan_images)

    def plan(*arguments: Any) -> tuple[Tensor, augment.Draws]:
        order, draws = plan_images(*arguments)
        return torch.empty(order.shape, dtype=order.dtype), draws  # a fake one, for it is copied to the device

    monkeypatch.setattr(training, "plan_images", plan)


class TransferLog(TorchDispatchMode):
    """How many copies from one device to another there were."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in {"_to_copy", "copy_"}:
            source = args[1] if func.overloadpacket.__name__ == "copy_" else args[0]
            self.count += source.device != result.device
        return result


def start_on_fake_gpu(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, first_layer: FirstLayer, precision: str, shards: int
) -> Training:
    """A run whose tensors are on a GPU that is not there; only within a FakeTensorMode."""
    monkeypatch.setattr(Tensor, "backward", lambda tensor: None)  # it cannot be worked out there
    monkeypatch.setattr(training, "computes_bfloat16", lambda device: True)
    with unset_fake_temporarily():
        run = start(augmentation=MOVING, dropout=0.5, optimizer=optimizer, precision=precision, shards=shards)
    run.device = torch.device("cuda")
    with run.device:
        run.images = torch.empty(len(SET), 3, 32, 32, dtype=torch.uint8)
        run.labels = torch.empty(len(SET), dtype=torch.int64)
        run.network, run.kept = (LeNet(ModelSection(dropout=0.5, first_layer=first_layer), CLASSES) for _ in range(2))
    for network in (run.network, run.kept):
        network.conv1.requires_grad_(first_layer == "learned")
    run.optimizer = training._make_optimizer(run.network, run.section)
    if optimizer == "sgd":  # its fused form cannot be worked out either
        run.optimizer.param_groups[0]["fused"] = False
    for parameter in training._learning(run.network):
        parameter.grad = torch.zeros_like(parameter)
    return run


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.usefixtures("draws_are_real")
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("first_layer", ["learned", "whitened"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_whole_epoch_on_a_gpu_mixes_no_devices_and_never_waits(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, first_layer: FirstLayer, precision: str, shards: int
) -> None:
    """A fake GPU raises on tensors of another device and on reading a value, which a real one would wait for."""
    transfers = []
    with FakeTensorMode():
        run = start_on_fake_gpu(monkeypatch, optimizer, first_layer, precision, shards)
        with TransferLog() as log:
            losses, hits = run._take_steps(1, after_step=lambda: transfers.append(log.count))
    assert (losses.device.type, hits.device.type) == ("cuda", "cuda")
    assert (losses.shape, hits.shape) == ((4, shards), (4, shards))
    assert (losses.dtype, hits.dtype) == (torch.float32, torch.int64)
    assert len(transfers) == 4
    assert transfers[0] > 0  # the order and the draws, before the first step
    assert transfers[-1] == transfers[0]  # a copy during the steps may wait for the device


def test_reading_a_value_within_a_step_would_be_found() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
        torch.empty((), device="cuda").item()


HAS_BFLOAT16 = device_module.computes_bfloat16(CPU)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not compute bfloat16 itself")
def test_in_bfloat16_the_network_computes_in_it_and_the_weights_stay_float32() -> None:
    images, labels = torch.from_numpy(SET.images), torch.from_numpy(SET.labels)
    losses = []
    for precision in ("float32", "bfloat16"):
        run = start(precision=precision)
        computed = watch_types(run.network.conv1, run.network.hidden, run.network.output)
        losses.append(run.take_step(0, len(labels), [(images, labels)])[0].item())
        assert computed == [getattr(torch, precision)] * 3
        assert {values.dtype for values in run.state().values()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not compute bfloat16 itself")
def test_in_bfloat16_the_same_seed_gives_the_same_bits() -> None:
    first, again = (start(precision="bfloat16", augmentation=MOVING, dropout=0.5) for _ in range(2))
    assert list(first.run()) == list(again.run())
    assert torch.equal(weights(first.kept), weights(again.kept))


def test_bfloat16_is_refused_where_the_device_does_not_compute_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "computes_bfloat16", lambda device: False)
    with pytest.raises(UserError, match=r"train\.precision: found bfloat16, .*; use float32"):
        start(precision="bfloat16")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("first_layer", ["learned", "whitened"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_whole_epoch_with_gradients_runs_away_from_the_cpu(
    optimizer: str, first_layer: FirstLayer, shards: int
) -> None:
    """On torch's device without memory, which like a GPU accepts no tensor of another device."""
    meta, changes = torch.device("meta"), {"optimizer": optimizer, "shards": shards}
    run = start(augmentation=MOVING, dropout=0.5, first_layer=first_layer, device=meta, **changes)
    for group in run.optimizer.param_groups:
        group["fused"] = False  # the fused forms are for devices with memory only
    assert {value.device.type for value in run._take_steps(1, after_step=lambda: None)} == {"meta"}


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


class OperatorLog(TorchDispatchMode):
    """The names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"] if HAS_BFLOAT16 else ["float32"])
@pytest.mark.parametrize("first_layer", ["learned", "whitened"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_no_operator_of_an_epoch_is_on_the_list_of_non_deterministic_ones(
    optimizer: str, first_layer: FirstLayer, precision: str
) -> None:
    settings = {"optimizer": optimizer, "precision": precision, "epochs": 1}
    run = start(augmentation=MOVING, dropout=0.5, first_layer=first_layer, **settings)
    with OperatorLog() as log:
        list(run.run())
    assert log.names >= {"convolution_backward", "nll_loss_backward", "max_pool2d_with_indices_backward"}  # it looked
    assert not log.names & NON_DETERMINISTIC


def test_the_log_of_operators_sees_a_backward() -> None:
    images = torch.ones(1, 1, 4, 4, requires_grad=True)
    with OperatorLog() as log:
        functional.interpolate(images, scale_factor=2, mode="bilinear").sum().backward()
    assert "upsample_bilinear2d_backward" in log.names & NON_DETERMINISTIC

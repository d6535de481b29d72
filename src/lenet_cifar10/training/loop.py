"""The training loop."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lenet_cifar10.common.params import AugmentSection, ModelSection, TrainSection
from lenet_cifar10.common.randomness import derive_seed
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.arrays import Split
from lenet_cifar10.model import augment
from lenet_cifar10.model.device import supports_bfloat16, supports_tf32
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.model.scoring import predict, score
from lenet_cifar10.training.checkpoint import Checkpoint
from lenet_cifar10.training.distributed import World
from lenet_cifar10.training.steps import Steps, learning_rate_at

_CPU_CHUNK_IMAGES = 2000  # prepared together on a CPU, to hold few of them as floats; a GPU takes the whole epoch


@dataclass(frozen=True)
class EpochRecord:
    """One row of plots/history.csv: losses are mean cross-entropies in nats, accuracies fractions.

    The training figures are the running ones of the epoch, with augmentation and dropout. The validation figures are
    those of the weights that would be kept. `learning_rate` is that of the epoch's last step.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float

    def __str__(self) -> str:
        return (
            f"train loss {self.train_loss:.4f}, accuracy {self.train_accuracy:.4f}; "
            f"validation loss {self.validation_loss:.4f}, accuracy {self.validation_accuracy:.4f}"
        )

    def summary(self) -> dict[str, float]:
        """The figures of a run that this epoch was the last of: metrics/train.json."""
        figures = asdict(self)
        del figures["learning_rate"]
        return {"epochs": figures.pop("epoch")} | figures


def train(
    training: Split,
    validation: Split,
    *,
    seed: int,
    augment_section: AugmentSection,
    model_section: ModelSection,
    settings: TrainSection,
    device: torch.device,
    world: World,
    checkpoint: Checkpoint,
    after_step: Callable[[], object] = lambda: None,
) -> Iterator[tuple[list[EpochRecord], LeNet]]:
    """Train, from the checkpoint on if there is one -> after each epoch the history so far and the model to keep.

    All randomness of an epoch follows from the seed and the epoch's number, so a run that continues after a stop ends
    with the same bits. So does one with another number of processes, since the gradients of a batch's micro-batches are
    summed in a fixed order.

    Raises:
        UserError: a setting does not fit the data, the device or the processes; the loss is no longer finite; another
            process has ended.
    """
    _check(settings, len(training), device, world)
    torch.manual_seed(derive_seed(seed, 0, "weights"))  # on the CPU, so that every device starts with the same weights
    model = LeNet(model_section, len(training.class_names)).to(device).to(memory_format=torch.channels_last)
    images, labels = torch.from_numpy(training.images).to(device), torch.from_numpy(training.labels).to(device)
    validation_images = torch.from_numpy(validation.images).to(device)

    batches = torch.arange(len(training)).split(settings.batch_size)
    own = [torch.cat(world.own_parts(batch, settings.micro_batches)) for batch in batches]
    chunk = max(1, _CPU_CHUNK_IMAGES // settings.batch_size) if device.type == "cpu" else len(batches)
    steps = Steps(model, settings, seed, settings.epochs * len(batches), chunk, world)

    def plan(epoch: int) -> tuple[Tensor, augment.Tables]:
        """The images that this process takes in an epoch, in order, and their changes."""
        order, draws = augment.plan_epoch(len(training), seed, epoch, augment_section)
        rows = torch.cat(own) if world.size > 1 else slice(None)
        return order[rows], augment.tabulate(draws[rows])

    rows, state = world.broadcast(checkpoint.load() if world.is_main else ([], {}))
    history = [EpochRecord(**row) for row in rows]
    if history:
        steps.restore(state)
        yield history, steps.ema_model

    coming = plan(len(history) + 1)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        order, tables = coming
        torch.manual_seed(derive_seed(seed, epoch, "dropout"))
        figures, start, first_step = [], 0, (epoch - 1) * len(batches)
        for part in _chunks(batches, chunk):
            rows = slice(start, start + sum(map(len, own[part])))
            chosen = order[rows].to(device)
            changed = augment.apply_tables(images[chosen], tables[rows], augment_section.padding_mode)
            numbers = range(first_step + part.start, first_step + part.stop)
            steps.load(changed, labels[chosen], len(batches[part.start]), numbers)
            for _ in numbers:
                steps.take()
                after_step()
            figures.append(steps.figures())
            start = rows.stop
            if part.start == 0 and epoch < settings.epochs:  # while a GPU still works: below its figures are waited for
                coming = plan(epoch + 1)
        losses, correct = (world.gather(torch.cat(parts)).tolist() for parts in zip(*figures, strict=True))
        scores = score(predict(steps.ema_model, validation_images), torch.from_numpy(validation.labels))
        record = EpochRecord(
            epoch=epoch,
            train_loss=math.fsum(losses) / len(training),  # exact, so the order by processes does not matter
            train_accuracy=sum(correct) / len(training),
            validation_loss=scores.loss,
            validation_accuracy=scores.accuracy,
            learning_rate=learning_rate_at(epoch * len(batches) - 1, steps.count, settings),
        )
        _refuse_divergence(record)
        history.append(record)
        if world.is_main:
            checkpoint.save(steps.state(), [asdict(row) for row in history])
        yield history, steps.ema_model


def has_learned_nothing(record: EpochRecord, classes: int) -> bool:
    """Whether the training loss is that of giving each class the same probability, ln(classes), or hardly below."""
    return record.train_loss > 0.99 * math.log(classes)


def _chunks(batches: Sequence[Tensor], most: int) -> Iterator[slice]:
    """Groups of at most `most` batches; a smaller last batch is a group of its own."""
    whole = len(batches) - (len(batches[-1]) < len(batches[0]))
    for first in range(0, whole, most):
        yield slice(first, min(first + most, whole))
    if whole < len(batches):
        yield slice(whole, len(batches))


def _check(settings: TrainSection, images: int, device: torch.device, world: World) -> None:
    if settings.batch_size > images:
        raise UserError(
            f"params.yaml: train.batch_size: found {settings.batch_size}, expected at most the {images} training "
            "images; lower it"
        )
    if settings.precision == "bfloat16" and not supports_bfloat16(device):
        raise UserError("params.yaml: train.precision: found bfloat16, which this device does not support; use float32")
    if settings.precision == "tf32" and not supports_tf32(device):
        raise UserError("params.yaml: train.precision: found tf32, which this device does not support; use float32")
    if settings.micro_batches % world.size:
        raise UserError(
            f"params.yaml: train.micro_batches: found {settings.micro_batches}, expected a multiple of {world.size}, "
            "the number of processes that LAUNCHER starts"
        )


def _refuse_divergence(record: EpochRecord) -> None:
    if not (
        math.isfinite(record.train_loss) and math.isfinite(record.validation_loss)
    ):  # only validation sees the last step
        raise UserError(
            f"epoch {record.epoch}: training has diverged: the loss is {record.train_loss} in training and "
            f"{record.validation_loss} in validation; lower train.learning_rate"
        )

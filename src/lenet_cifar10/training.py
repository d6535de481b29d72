"""The training loop."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lenet_cifar10 import augment
from lenet_cifar10.dataset import Split
from lenet_cifar10.device import computes_bfloat16
from lenet_cifar10.errors import UserError
from lenet_cifar10.evaluation import Scores, predict, score
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import AugmentSection, ModelSection, TrainSection
from lenet_cifar10.randomness import generator_for, mix
from lenet_cifar10.weights import MisfitError, copy_into

# Images augmented together on a CPU, to hold few at a time. A GPU takes the whole epoch at once, so that nothing is
# copied to it, which may make it wait, while the epoch's steps run.
CPU_CHUNK_IMAGES = 2000

# Images that whitened filters are computed from: their mean over 1.8 million patches hardly changes with more.
WHITENING_IMAGES = 2000


@dataclass(frozen=True)
class EpochRecord:
    """One row of the history: losses are mean cross-entropies in nats, accuracies fractions.

    The train figures are the running ones of the epoch, augmentation and dropout on. The validation figures are
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

    def summary(self) -> dict[str, int | float]:
        """The figures of a run that this epoch was the last of."""
        figures = asdict(self)
        del figures["learning_rate"]
        return {"epochs": figures.pop("epoch")} | figures


def learning_rate_at(step: int, steps: int, section: TrainSection) -> float:
    """The learning rate of a step, counted from 0, of `steps` in all: a linear warm-up, then the schedule."""
    warmup_steps = math.floor(section.warmup_fraction * steps)
    if step < warmup_steps:
        return section.learning_rate * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (steps - warmup_steps)
    match section.schedule:
        case "constant":
            return section.learning_rate
        case "linear":
            return section.learning_rate * (1 - progress)
        case "cosine":
            return section.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def plan_epoch(count: int, seed: int, epoch: int, section: AugmentSection) -> tuple[Tensor, augment.Draws]:
    """The order of an epoch's images, int64 (N,), and the changes to each in that order."""
    order = torch.randperm(count, generator=generator_for(seed, epoch, "order"))
    return order, augment.draw(count, section, generator_for(seed, epoch, "augmentation"))


class Training:
    """One training run: the network as it learns, and the average of its weights, which is what is kept.

    Everything of an epoch but the weights and the optimizer's state follows from the seed and the epoch's number.

    Raises:
        UserError: the batch is larger than the training set, or the device has no such precision.
    """

    def __init__(
        self,
        training: Split,
        validation: Split,
        classes: int,
        device: torch.device,
        seed: int,
        augment_section: AugmentSection,
        model_section: ModelSection,
        section: TrainSection,
    ) -> None:
        if section.batch_size > len(training):
            raise UserError(
                f"params.yaml: train.batch_size: found {section.batch_size}, "
                f"expected at most the {len(training)} training images; lower it"
            )
        if section.precision == "bfloat16" and not computes_bfloat16(device):
            raise UserError(
                "params.yaml: train.precision: found bfloat16, which this device does not compute itself; use float32"
            )
        self.device = device
        self.images, self.labels = _place(training, device)
        self.validation_images, _ = _place(validation, device)
        self.validation_labels = torch.from_numpy(validation.labels)
        self.seed = seed
        self.augment_section = augment_section
        self.section = section
        self.finished_epochs = 0
        torch.manual_seed(mix(seed, 0, "weights"))  # drawn on the CPU, so every device starts from the same weights
        network = LeNet(model_section, classes)
        if model_section.first_layer == "whitened":
            network.whiten_first_layer(torch.from_numpy(training.images[:WHITENING_IMAGES]))
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.optimizer = _make_optimizer(self.network, section)
        # Without averaging the weights kept are the network's own.
        self.kept = deepcopy(self.network) if section.averaging_decay else self.network

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch; the last one may have fewer images."""
        return math.ceil(len(self.labels) / self.section.batch_size)

    def run(self, after_step: Callable[[], object] = lambda: None) -> Iterator[EpochRecord]:
        """Train the remaining epochs, one record after each. `after_step` is called after each optimizer step.

        Raises:
            UserError: the loss is no longer a finite number.
        """
        while self.finished_epochs < self.section.epochs:
            epoch = self.finished_epochs + 1
            train = self.train_epoch(epoch, after_step)
            validation = score(predict(self.kept, self.validation_images), self.validation_labels)
            if not (math.isfinite(train.loss) and math.isfinite(validation.loss)):  # only here the last step shows
                raise UserError(
                    f"epoch {epoch}: the loss is {train.loss} in training and {validation.loss} in validation; "
                    f"training has diverged; lower train.learning_rate"
                )
            self.finished_epochs = epoch
            learning_rate = self.learning_rate_at(epoch * self.steps_per_epoch - 1)
            yield EpochRecord(epoch, train.loss, train.accuracy, validation.loss, validation.accuracy, learning_rate)

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on beside the number of finished epochs: copies on the CPU, by name."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self._own_tensors().items()}

    def restore(self, state: Mapping[str, Tensor], finished_epochs: int) -> None:
        """Go on from what `state` gave after so many epochs.

        Raises:
            MisfitError: that was another kind of run; this one is as it was then.
        """
        if not 0 < finished_epochs <= self.section.epochs:
            raise MisfitError(f"has {finished_epochs} finished epochs, expected 1 to {self.section.epochs}")
        _fill_state(self.optimizer)
        copy_into(self._own_tensors(), state)
        self.finished_epochs = finished_epochs

    def _own_tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.kept is not self.network:
            tensors |= {f"kept.{name}": tensor for name, tensor in self.kept.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                values = self.optimizer.state[parameter]
                tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items() if value is not None}
        return tensors

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step of the run, counted from 0."""
        return learning_rate_at(step, self.section.epochs * self.steps_per_epoch, self.section)

    def train_epoch(self, epoch: int, after_step: Callable[[], object] = lambda: None) -> Scores:
        """Take the epoch's steps -> the running figures, which are read from the device at the end."""
        losses, hits = self._take_steps(epoch, after_step)
        count = len(self.labels)
        return Scores(math.fsum(losses.tolist()) / count, sum(hits.tolist()) / count)

    def _take_steps(self, epoch: int, after_step: Callable[[], object]) -> tuple[Tensor, Tensor]:
        """Each step's summed cross-entropy and its number of right answers, (steps,), on the device."""
        torch.manual_seed(mix(self.seed, epoch, "dropout"))
        self.network.train()
        losses, hits = [], []
        for step, (images, labels) in enumerate(self._batches(epoch), start=(epoch - 1) * self.steps_per_epoch):
            loss, correct = self.take_step(step, images, labels)
            losses.append(loss * len(labels))
            hits.append(correct)
            after_step()
        return torch.stack(losses), torch.stack(hits)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's augmented batches in their order: every training image once."""
        count, batch_size = len(self.labels), self.section.batch_size
        order, draws = plan_epoch(count, self.seed, epoch, self.augment_section)
        order = order.to(self.device)
        chunk_images = max(1, CPU_CHUNK_IMAGES // batch_size) * batch_size if self.device.type == "cpu" else count
        for start in range(0, count, chunk_images):
            chunk = slice(start, start + chunk_images)
            images = augment.apply(self.images[order[chunk]], draws[chunk], self.augment_section.border)
            labels = self.labels[order[chunk]]
            yield from zip(images.split(batch_size), labels.split(batch_size), strict=True)

    def take_step(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step -> the batch's mean cross-entropy and its number of right answers, on the device.

        uint8 images (N, 3, 32, 32), labels (N,).
        """
        lower = self.section.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if lower else nullcontext():
            logits = self.network(images)
        log_probabilities = logits.float().log_softmax(dim=1)
        cross_entropy = functional.nll_loss(log_probabilities, labels)
        smoothing = self.section.label_smoothing
        (cross_entropy * (1 - smoothing) - log_probabilities.mean() * smoothing).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.kept is not self.network:
            self._average(step)
        return cross_entropy.detach(), (log_probabilities.argmax(dim=1) == labels).sum()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Keep the mean of the weights after each step so far, each counting `averaging_decay` times the next one.

        Divided by the sum of what they count, as Adam divides its moments (Kingma and Ba, 2015), so that the weights
        from before the first step count nothing.
        """
        decay = self.section.averaging_decay
        average = get_ema_multi_avg_fn(1 - (1 - decay) / (1 - decay ** (step + 1)))
        average(_learning(self.kept), _learning(self.network), step)


def _place(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """The images and labels of a split as tensors on the device, where they stay: 154 MB for 50,000 images."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)


def _learning(network: LeNet) -> list[Tensor]:
    """The parameters that are not fixed."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _make_optimizer(network: LeNet, section: TrainSection) -> Optimizer:
    """The fused form of the optimizer: one pass over all weights."""
    parameters, rate, decay = _learning(network), section.learning_rate, section.weight_decay
    match section.optimizer:
        case "sgd":
            momentum = section.momentum
            return SGD(parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0, fused=True)
        case "adam":
            return Adam(parameters, rate, weight_decay=decay, fused=True)
        case "adamw":
            return AdamW(parameters, rate, weight_decay=decay, fused=True)


def _fill_state(optimizer: Optimizer) -> None:
    """Make the optimizer's state, which it otherwise makes in its first step: zeros."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(optimizer, SGD):
                names = ["momentum_buffer"] if group["momentum"] else []
                state = {}
            else:
                names = ["exp_avg", "exp_avg_sq"]
                state = {"step": torch.zeros((), device=parameter.device)}
            optimizer.state[parameter] = state | {name: torch.zeros_like(parameter) for name in names}

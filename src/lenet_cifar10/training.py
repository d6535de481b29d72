"""The training loop."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lenet_cifar10 import augment
from lenet_cifar10.dataset import Split
from lenet_cifar10.device import computes_bfloat16
from lenet_cifar10.errors import UserError
from lenet_cifar10.evaluation import IMAGES_AT_ONCE, Scores, predict, score
from lenet_cifar10.launcher import Place
from lenet_cifar10.model import LeNet
from lenet_cifar10.params import AugmentSection, ModelSection, TrainSection
from lenet_cifar10.plan import plan_images, plan_share
from lenet_cifar10.processes import Team
from lenet_cifar10.randomness import mix
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


class Training:
    """One training run: the network as it learns, and the average of its weights, which is what is kept.

    Everything of an epoch but the weights and the optimizer's state follows from the seed and the epoch's number.

    Each batch is cut into `section.shards` parts. Each part's gradient is computed alone, by one process of the team,
    and all are summed in the order of the parts: so the bits do not depend on how many processes there are.

    Raises:
        UserError: the batch is larger than the training set, the device has no such precision, or the processes cannot
            share the parts evenly.
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
        team: Team | None = None,
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
        self.team = team or Team(Place())
        if section.shards % self.team.place.size:
            raise UserError(
                f"params.yaml: train.shards: found {section.shards}, expected a multiple of the "
                f"{self.team.place.size} processes that train.launcher starts, or a WORLD_SIZE left over tells of"
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
            UserError: the loss is no longer a finite number, or another process has ended or has other weights.
        """
        while self.finished_epochs < self.section.epochs:
            epoch = self.finished_epochs + 1
            train = self.train_epoch(epoch, after_step)
            validation = score(self._predict_validation(), self.validation_labels)
            if not (math.isfinite(train.loss) and math.isfinite(validation.loss)):  # only here the last step shows
                raise UserError(
                    f"epoch {epoch}: the loss is {train.loss} in training and {validation.loss} in validation; "
                    f"training has diverged; lower train.learning_rate"
                )
            self._check_agreement(epoch)
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

    def synchronize(self) -> None:
        """Have every process go on from where the leader is.

        Raises:
            UserError: a process has ended.
        """
        finished_epochs = self.team.share(self.finished_epochs)
        if finished_epochs:
            state = self.team.share_tensors(self.state() if self.team.place.leads else None)
            if not self.team.place.leads:
                self.restore(state, finished_epochs)

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
        losses, hits = (self.team.gather(figures.flatten()) for figures in self._take_steps(epoch, after_step))
        count = len(self.labels)
        return Scores(math.fsum(losses.tolist()) / count, sum(hits.tolist()) / count)

    def _take_steps(self, epoch: int, after_step: Callable[[], object]) -> tuple[Tensor, Tensor]:
        """The summed cross-entropies and the right answers of each part here, (steps, parts), on the device."""
        torch.manual_seed(mix(self.seed, epoch, "dropout"))
        self.network.train()
        losses, hits = [], []
        for step, (count, parts) in enumerate(self._batches(epoch), start=(epoch - 1) * self.steps_per_epoch):
            loss, correct = self.take_step(step, count, parts)
            losses.append(loss)
            hits.append(correct)
            after_step()
        return torch.stack(losses), torch.stack(hits)

    def _batches(self, epoch: int) -> Iterator[tuple[int, list[tuple[Tensor, Tensor]]]]:
        """The epoch's batches in their order: how many images, and the parts of this process, augmented."""
        place = self.team.place
        share = plan_share(len(self.labels), self.section.batch_size, self.section.shards, place.rank, place.size)
        order, draws = plan_images(share, len(self.labels), self.seed, epoch, self.augment_section)
        together = max(1, CPU_CHUNK_IMAGES // self.section.batch_size) if self.device.type == "cpu" else len(share)
        start = 0
        for first in range(0, len(share), together):
            batches = share[first : first + together]
            sizes = [len(part) for _, parts in batches for part in parts]
            chunk = slice(start, start + sum(sizes))
            chosen = order[chunk].to(self.device)
            images = augment.apply(self.images[chosen], draws[chunk], self.augment_section.border)
            labelled = zip(images.split(sizes), self.labels[chosen].split(sizes), strict=True)
            for count, parts in batches:
                yield count, list(islice(labelled, len(parts)))
            start = chunk.stop

    def take_step(self, step: int, count: int, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """One optimizer step -> summed cross-entropy and right answers of each part of this process, on the device.

        Of a batch of `count` images this process has these parts: uint8 images (N, 3, 32, 32), labels (N,).

        Raises:
            UserError: another process has ended.
        """
        is_cut = self.section.shards > 1
        figures, gradients = [], []
        for shard, (images, labels) in enumerate(parts, start=self.team.place.rank * len(parts)):
            if is_cut:
                torch.manual_seed(mix(self.seed, step, "dropout", shard))
            figures.append(self._differentiate(images, labels, count))
            if is_cut:
                gradients.append(self._take_gradient())
        if is_cut:
            self._put_gradient(_sum_in_order(self.team.gather(torch.stack(gradients))))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.kept is not self.network:
            self._average(step)
        losses, hits = zip(*figures, strict=True)
        return torch.stack(losses), torch.stack(hits)

    def _differentiate(self, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Leave the gradient of a part's share of a batch of `count` images -> as in `take_step`."""
        if not len(labels):  # of a last batch with fewer images than parts
            return torch.zeros((), device=self.device), torch.zeros((), dtype=torch.int64, device=self.device)
        lower = self.section.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if lower else nullcontext():
            logits = self.network(images)
        log_probabilities = logits.float().log_softmax(dim=1)
        cross_entropy = functional.nll_loss(log_probabilities, labels)
        smoothing = self.section.label_smoothing
        objective = cross_entropy * (1 - smoothing) - log_probabilities.mean() * smoothing
        (objective * (len(labels) / count)).backward()
        return cross_entropy.detach() * len(labels), (log_probabilities.argmax(dim=1) == labels).sum()

    def _take_gradient(self) -> Tensor:
        """The gradient, (weights,), which is taken off the weights; zeros where there is none."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in _learning(self.network)
        ]
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    def _put_gradient(self, gradient: Tensor) -> None:
        parameters = _learning(self.network)
        parts = gradient.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))  # with the weights' strides

    def _predict_validation(self) -> Tensor:
        """Logits (N, classes) of the validation images, on the CPU: each process computes some of the batches."""
        place, images = self.team.place, self.validation_images
        if place.size == 1:
            return predict(self.kept, images)
        logits = torch.zeros(len(images), self.network.output.out_features)
        for start in range(place.rank * IMAGES_AT_ONCE, len(images), place.size * IMAGES_AT_ONCE):
            batch = slice(start, start + IMAGES_AT_ONCE)
            logits[batch] = predict(self.kept, images[batch])
        owners = torch.arange(len(images)) // IMAGES_AT_ONCE % place.size
        return self.team.gather(logits[None])[owners, torch.arange(len(images))]

    def _check_agreement(self, epoch: int) -> None:
        """Raise UserError where processes, after the same steps, have other weights than the leader."""
        if self.team.place.size == 1:
            return
        words = [tensor.detach().contiguous().view(torch.int32).sum() for tensor in self._own_tensors().values()]
        sums = self.team.gather(torch.stack(words).sum().cpu()[None]).tolist()
        others = [rank for rank, found in enumerate(sums) if found != sums[0]]
        if others:
            raise UserError(
                f"epoch {epoch}: process {others[0]} has other weights than process 0; give all of them the same kind "
                "of device and the same versions"
            )

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


def _sum_in_order(rows: Tensor) -> Tensor:
    """(N, ...) -> the sum of the N, one after the other: a sum over a dimension may take another order."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


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

"""The training step: forward, gradient, optimizer, moving average and figures, all on the device.

Letters in shapes: S steps, B images of a batch that this process computes, P parts of them, C classes.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer

from lenet_cifar10.common.params import TrainSection
from lenet_cifar10.common.randomness import derive_seed
from lenet_cifar10.model.device import record_cuda_graph, tf32
from lenet_cifar10.model.lenet import LeNet, normalize
from lenet_cifar10.training.distributed import World


def learning_rate_at(step: int, steps: int, settings: TrainSection) -> float:
    """The learning rate of a step, counted from 0, of `steps` in all: a linear warm-up, then the schedule."""
    warmup = math.floor(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    match settings.schedule:
        case "constant":
            return settings.learning_rate
        case "linear":
            return settings.learning_rate * (1 - progress)
        case "cosine":
            return settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def ema_weight_at(step: int, decay: float) -> float:
    """The weight of a step, counted from 0, in the moving average after it.

    It is divided by the sum of all weights so far, as Adam divides its moments (Kingma and Ba, 2015), so that the
    initial network counts nothing.
    """
    return (1 - decay) / (1 - decay ** (step + 1))


def is_recorded(settings: TrainSection, device: torch.device, world: World) -> bool:
    """Whether whole batches are trained on by a recorded step."""
    return settings.cuda_graph and device.type == "cuda" and settings.micro_batches == world.size == 1


@dataclass
class Batches:
    """Some batches of one size, in arrays that are filled again and again and never replaced."""

    images: Tensor  # (S, B, 32, 32, 3) float32, normalized
    labels: Tensor  # (S, B) int64
    gradients: Tensor  # (S, B, C): of the objective, with respect to the log-probabilities
    rates: Tensor  # (S, 2): learning rate, weight in the moving average
    losses: Tensor  # (S, P): cross-entropy, summed over the images of a part
    correct: Tensor  # (S, P): correct predictions
    places: Tensor  # (S, 1): 0, 1, ...
    part_sizes: list[int]  # (P,)
    replay: Callable[[], object] | None = None  # takes a recorded step


class Steps:
    """The steps of a training run, over batches that `load` prepares.

    With one micro-batch a step reads no number from the host: a counter on the device picks batch, learning rate and
    EMA weight from arrays that stay where they are. So nothing waits for the host, and a GPU can record the step.
    """

    record = staticmethod(record_cuda_graph)

    def __init__(self, model: LeNet, settings: TrainSection, seed: int, count: int, chunk: int, world: World) -> None:
        """Prepare `count` steps in all, at most `chunk` of them loaded at a time."""
        self.model = model
        self.ema_model = deepcopy(model) if settings.ema_decay else model
        self.settings, self.seed, self.count, self.chunk, self.world = settings, seed, count, chunk, world
        self.classes, self.device = model.output.out_features, model.output.weight.device
        self.weights: list[Tensor] = list(model.parameters())
        self.sizes = [weight.numel() for weight in self.weights]
        self.is_recorded = is_recorded(settings, self.device, world)
        self.position = torch.zeros(1, dtype=torch.int64, device=self.device)  # among the loaded batches
        self.rate = torch.zeros(1, 2, device=self.device)  # learning rate and EMA weight of the current step
        self.optimizer = _make_optimizer(self.weights, settings, self.rate[0, 0])
        # An EMA weight for each number, in arrays like the layers': the average is then one kernel over all of them.
        self.ema_weight = torch.zeros(sum(self.sizes), device=self.device)
        self.ema_weights = [
            part.as_strided(weight.shape, weight.stride(), part.storage_offset())
            for part, weight in zip(self.ema_weight.split(self.sizes), self.weights, strict=True)
        ]
        self._by_size: dict[int, Batches] = {}

    def load(self, images: Tensor, labels: Tensor, size: int, steps: range) -> None:
        """Load batches of `size` images, one for each of these steps of the run, of which this process has its parts.

        images: uint8 (S * B, 3, 32, 32); labels: (S * B,).
        """
        if size not in self._by_size:
            self._by_size[size] = self._make_batches(size)
        self.batches, self.loaded = self._by_size[size], steps
        count, own = len(steps), self.batches.labels.shape[1]
        for target, source in zip(
            self.batches.images[:count].split(64), images.view(count, own, 3, 32, 32).split(64), strict=True
        ):
            target.copy_(normalize(source.flatten(0, 1)).permute(0, 2, 3, 1).view_as(target))
        self.batches.labels[:count].copy_(labels.view(count, own))
        # The objective is the batch's mean of (1 - smoothing) * cross-entropy - smoothing * the mean log-probability.
        smoothing = torch.tensor(self.settings.label_smoothing, device=self.device)
        other = -smoothing / (size * self.classes)
        is_right = self.batches.labels[:count, :, None] == torch.arange(self.classes, device=self.device)
        torch.where(is_right, (smoothing - 1) / size + other, other, out=self.batches.gradients[:count])
        rates = [
            (learning_rate_at(step, self.count, self.settings), ema_weight_at(step, self.settings.ema_decay))
            for step in steps
        ]
        self.batches.rates[:count].copy_(torch.tensor(rates))
        self.position.zero_()
        self.next_step = steps.start
        if self.is_recorded and size == self.settings.batch_size and not self.batches.replay:
            self.batches.replay = self._record()

    def _record(self) -> Callable[[], object]:
        """Record a step, which leaves no trace: the steps that warm up are undone, also in the random state."""
        before = {name: tensor.clone() for name, tensor in self.state().items()}
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.cuda.device_of(self.position), torch.random.fork_rng(gpus):
            replay = self.record(self._take, self.position.zero_)
        self.restore(before)
        self.position.zero_()
        return replay

    def _make_batches(self, size: int) -> Batches:
        part_sizes = [len(part) for part in self.world.own_parts(torch.arange(size), self.settings.micro_batches)]
        own, parts = sum(part_sizes), len(part_sizes)
        count = self.chunk if size == self.settings.batch_size else 1
        with self.device:
            return Batches(
                images=torch.zeros(count, own, 32, 32, 3),
                labels=torch.zeros(count, own, dtype=torch.int64),
                gradients=torch.zeros(count, own, self.classes),
                rates=torch.zeros(count, 2),
                losses=torch.zeros(count, parts),
                correct=torch.zeros(count, parts, dtype=torch.int64),
                places=torch.arange(count)[:, None],
                part_sizes=part_sizes,
            )

    def take(self) -> None:
        """Take the step of the batch at `position`, and move on to the next."""
        if self.batches.replay:
            self.batches.replay()
        else:
            self._take()

    def _take(self) -> None:
        batches, position = self.batches, self.position
        torch.index_select(batches.rates, 0, position, out=self.rate)
        images, labels, gradients = (
            array.index_select(0, position)[0] for array in (batches.images, batches.labels, batches.gradients)
        )
        images = images.permute(0, 3, 1, 2)  # a view: channels last in memory
        differentiate = self._differentiate if self.settings.micro_batches == 1 else self._differentiate_parts
        with tf32() if self.settings.precision == "tf32" else nullcontext():
            losses, correct = differentiate(images, labels, gradients)
        self._update()
        is_here = batches.places == position
        torch.where(is_here, losses, batches.losses, out=batches.losses)
        torch.where(is_here, correct, batches.correct, out=batches.correct)
        position.add_(1)

    def figures(self) -> tuple[Tensor, Tensor]:
        """Of each part of the loaded batches: the summed cross-entropy and the number of correct predictions."""
        count = len(self.loaded)
        return self.batches.losses[:count].flatten().clone(), self.batches.correct[:count].flatten().clone()

    def state(self) -> dict[str, Tensor]:
        """All that the next steps depend on, by name: the arrays themselves, to be copied or filled in place."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.ema_model is not self.model:
            tensors |= {f"ema_model.{name}": tensor for name, tensor in self.ema_model.state_dict().items()}
        for name, weight in self.model.named_parameters():
            state = self.optimizer.state[weight]
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items() if value is not None}
        return tensors

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Fill the arrays of `state` in place."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def _differentiate(self, images: Tensor, labels: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Leave the gradient in the weights -> the summed cross-entropy and the correct predictions."""
        is_bfloat16 = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if is_bfloat16 else nullcontext():
            logits = self.model.classify(images)
        log_probabilities = logits.float().log_softmax(dim=1)
        log_probabilities.backward(gradients)
        log_probabilities = log_probabilities.detach()
        correct = (log_probabilities.argmax(dim=1) == labels).sum()
        return functional.nll_loss(log_probabilities, labels, reduction="sum"), correct

    def _differentiate_parts(self, images: Tensor, labels: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """The same part by part; the gradient is the sum over the parts of all processes, in their order."""
        losses, correct, own, sizes = [], [], [], self.batches.part_sizes
        parts = zip(images.split(sizes), labels.split(sizes), gradients.split(sizes), strict=True)
        for number, part in enumerate(parts, start=self.world.rank * len(sizes)):
            torch.manual_seed(derive_seed(self.seed, self.next_step, "dropout", number))
            for figures, figure in zip((losses, correct), self._differentiate(*part), strict=True):
                figures.append(figure)
            own.append(torch.cat([weight.grad.reshape(-1) for weight in self.weights]))  # pyright: ignore
            self.optimizer.zero_grad(set_to_none=True)
        total = self.world.sum_in_order(torch.stack(own))
        for weight, gradient in zip(self.weights, total.split(self.sizes), strict=True):
            weight.grad = torch.empty_like(weight).copy_(gradient.view_as(weight))  # with the weight's strides
        self.next_step += 1
        return torch.stack(losses), torch.stack(correct)

    @torch.no_grad()
    def _update(self) -> None:
        if self.is_recorded and self.settings.optimizer != "sgd":  # Adam wants to be told
            is_capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
            self.optimizer.param_groups[0]["capturable"] = is_capturing
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema_model is not self.model:
            self.ema_weight.copy_(self.rate[0, 1])
            ema = [*self.ema_model.parameters()]
            torch._foreach_lerp_(ema, self.weights, self.ema_weights)  # pyright: ignore


def _make_optimizer(weights: list[Tensor], settings: TrainSection, learning_rate: Tensor) -> Optimizer:
    """A fused optimizer, one pass over all weights, that reads its learning rate from a tensor; its state is filled."""
    decay, zeros = settings.weight_decay, ["exp_avg", "exp_avg_sq"]
    match settings.optimizer:
        case "sgd":
            momentum = settings.momentum
            optimizer = SGD(weights, 1, momentum, weight_decay=decay, nesterov=momentum > 0, fused=True)
            zeros = ["momentum_buffer"] if momentum else []
        case "adam":
            optimizer = Adam(weights, 1, weight_decay=decay, fused=True)
        case "adamw":
            optimizer = AdamW(weights, 1, weight_decay=decay, fused=True)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate  # instead of the 1 above; a tensor that `take` fills in each step
    for weight in weights:
        optimizer.state[weight] = {name: torch.zeros_like(weight) for name in zeros}
        if settings.optimizer != "sgd":
            optimizer.state[weight]["step"] = torch.zeros((), device=weight.device)
    return optimizer

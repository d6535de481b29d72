"""Predictions and their scores. Logits and labels are on the CPU."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module, functional

BATCH_SIZE = 1000  # large enough to keep a device busy, small enough for a CPU's caches


@dataclass(frozen=True)
class Scores:
    """loss: mean cross-entropy in nats; accuracy: a fraction."""

    loss: float
    accuracy: float


@torch.inference_mode()
def predict(model: Module, images: Tensor) -> Tensor:
    """uint8 images (N, 3, 32, 32) on the model's device -> logits (N, classes) in eval mode, on the CPU."""
    was_training = model.training
    model.eval()
    logits = torch.cat([model(batch) for batch in images.split(BATCH_SIZE)])
    model.train(was_training)
    return logits.cpu()


def predict_with_flips(model: Module, images: Tensor) -> Tensor:
    """The mean of the logits of each image and of its mirror image; shapes as in `predict`."""
    return (predict(model, images) + predict(model, images.flip(3))) / 2


def score(logits: Tensor, labels: Tensor) -> Scores:
    """logits (N, classes), labels (N,) -> mean loss, computed in float64, and accuracy."""
    correct = int((logits.argmax(dim=1) == labels).sum())
    return Scores(functional.cross_entropy(logits.double(), labels).item(), correct / len(labels))

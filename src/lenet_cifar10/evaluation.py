"""What a network says about images, and how good that is. Logits and labels are on the CPU."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

IMAGES_AT_ONCE = 1000  # large enough to keep a device busy, small enough for a CPU's caches


@dataclass(frozen=True)
class Scores:
    """loss: mean cross-entropy in nats; accuracy: a fraction."""

    loss: float
    accuracy: float


@torch.inference_mode()
def predict(network: Module, images: Tensor) -> Tensor:
    """uint8 images (N, 3, 32, 32) on the network's device -> logits (N, classes) in eval mode, on the CPU."""
    was_training = network.training
    network.eval()
    logits = torch.cat([network(batch) for batch in images.split(IMAGES_AT_ONCE)])
    network.train(was_training)
    return logits.cpu()


def predict_with_flips(network: Module, images: Tensor) -> Tensor:
    """The mean of the logits of each image and of its mirror image; shapes as in `predict`."""
    return (predict(network, images) + predict(network, images.flip(3))) / 2


def score(logits: Tensor, labels: Tensor) -> Scores:
    """logits (N, classes), labels (N,) -> mean loss, computed in float64, and accuracy."""
    correct = int((logits.argmax(dim=1) == labels).sum())
    return Scores(functional.cross_entropy(logits.double(), labels).item(), correct / len(labels))


def score_classes(logits: Tensor, labels: Tensor) -> list[float | None]:
    """logits (N, classes), labels (N,) -> the accuracy within each class; None for a class without images."""
    correct = logits.argmax(dim=1) == labels
    accuracies = []
    for label in range(logits.shape[1]):
        members = correct[labels == label]
        accuracies.append(members.sum().item() / len(members) if len(members) else None)
    return accuracies


def confidences(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits (N, classes) -> the predicted labels (N,) and the probabilities given to them (N,), a fraction."""
    label = logits.argmax(dim=1)  # of the logits, as in `score`: two that differ can have the same probability
    return label, logits.softmax(dim=1).gather(1, label[:, None]).squeeze(1)


def summarize(
    logits: Tensor, labels: Tensor, class_names: Sequence[str], logits_with_flips: Tensor | None = None
) -> dict[str, Any]:
    """logits (N, classes), labels (N,) -> loss, accuracy, accuracy_with_flips if given, per_class."""
    summary: dict[str, Any] = asdict(score(logits, labels))
    if logits_with_flips is not None:
        summary["accuracy_with_flips"] = score(logits_with_flips, labels).accuracy
    return summary | {"per_class": dict(zip(class_names, score_classes(logits, labels), strict=True))}


def tabulate_predictions(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> list[dict[str, object]]:
    """logits (N, classes), labels (N,) -> a row for each image: index, actual, predicted, confidence to 6 digits."""
    predicted, confidence = (values.tolist() for values in confidences(logits))
    return [
        {"index": index, "actual": class_names[actual], "predicted": class_names[label], "confidence": round(share, 6)}
        for index, (actual, label, share) in enumerate(zip(labels.tolist(), predicted, confidence, strict=True))
    ]

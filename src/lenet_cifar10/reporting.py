"""What is reported of a network's answers: figures with their uncertainty, and tables. Logits are on the CPU."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lenet_cifar10.evaluation import score
from lenet_cifar10.statistics import wilson_interval

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class CalibrationBin:
    """Images with about the same confidence: the mean of it and the accuracy are fractions, count is above 0."""

    confidence: float
    accuracy: float
    count: int


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


def calibrate(logits: Tensor, labels: Tensor) -> list[CalibrationBin]:
    """logits (N, classes), labels (N,) -> the bins that have images, from the least confident on.

    Bin m of the 15 holds the confidences above (m - 1)/15 and up to m/15.
    """
    predicted, confidence = confidences(logits)
    places = (confidence.double() * CALIBRATION_BINS).ceil().nan_to_num(1).clamp(1, CALIBRATION_BINS)
    bins = []
    for place in range(1, CALIBRATION_BINS + 1):
        chosen = places == place
        if count := int(chosen.sum()):
            right = int((predicted[chosen] == labels[chosen]).sum())
            bins.append(CalibrationBin(math.fsum(confidence[chosen].tolist()) / count, right / count, count))
    return bins


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Sum over the bins of (count / N) * |accuracy - confidence|, a fraction.

    After C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks" (2017), section 2.
    """
    gaps = math.fsum(part.count * abs(part.accuracy - part.confidence) for part in bins)
    return gaps / sum(part.count for part in bins)


def summarize(
    logits: Tensor, labels: Tensor, class_names: Sequence[str], logits_with_flips: Tensor | None = None
) -> dict[str, Any]:
    """logits (N, classes), labels (N,) -> the figures of metrics/test.json.

    They are loss, accuracy, the ends accuracy_low and accuracy_high of its 95 % interval, accuracy_with_flips if
    given, expected_calibration_error, and per_class, the accuracy within each class.
    """
    scores = score(logits, labels)
    interval = wilson_interval(round(scores.accuracy * len(labels)), len(labels))
    summary: dict[str, Any] = asdict(scores) | {"accuracy_low": interval.low, "accuracy_high": interval.high}
    if logits_with_flips is not None:
        summary["accuracy_with_flips"] = score(logits_with_flips, labels).accuracy
    summary["expected_calibration_error"] = expected_calibration_error(calibrate(logits, labels))
    return summary | {"per_class": dict(zip(class_names, score_classes(logits, labels), strict=True))}


def tabulate_predictions(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> list[dict[str, object]]:
    """logits (N, classes), labels (N,) -> a row for each image: index, actual, predicted, confidence to 6 digits."""
    predicted, confidence = (values.tolist() for values in confidences(logits))
    return [
        {"index": index, "actual": class_names[actual], "predicted": class_names[label], "confidence": round(share, 6)}
        for index, (actual, label, share) in enumerate(zip(labels.tolist(), predicted, confidence, strict=True))
    ]

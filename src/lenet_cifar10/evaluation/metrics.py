"""What is reported of a network's predictions: metrics with their uncertainty, and tables. Logits are on the CPU."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from lenet_cifar10.evaluation.statistics import wilson_interval
from lenet_cifar10.model.scoring import score

CALIBRATION_BINS = 15

# The tables' columns and their types, for `read_table`.
PREDICTION_COLUMNS = {"index": int, "actual": str, "predicted": str, "confidence": float}
CLASS_COLUMNS = {"class": str, "images": int, "correct": int, "accuracy": float, "low": float, "high": float}


def summarize(logits: Tensor, labels: Tensor, logits_with_flips: Tensor | None = None) -> dict[str, float]:
    """logits (N, classes), labels (N,) -> the content of metrics/test.json.

    test_accuracy_low and test_accuracy_high are the ends of the accuracy's 95 % interval (Wilson).
    test_accuracy_with_flips is there only if its logits are given.
    """
    scores = score(logits, labels)
    interval = wilson_interval(round(scores.accuracy * len(labels)), len(labels))
    flips = {} if logits_with_flips is None else {"test_accuracy_with_flips": score(logits_with_flips, labels).accuracy}
    return {
        "test_loss": scores.loss,
        "test_accuracy": scores.accuracy,
        "test_accuracy_low": interval.low,
        "test_accuracy_high": interval.high,
        **flips,
        "calibration_error": expected_calibration_error(reliability_bins(logits, labels)),
    }


def tabulate_predictions(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> pd.DataFrame:
    """logits (N, classes), labels (N,) -> a row for each image: index, actual, predicted, confidence to 6 digits."""
    predicted, confidence = _predict_labels(logits)
    names = np.array(class_names, dtype=object)
    return pd.DataFrame(
        {
            "index": range(len(labels)),
            "actual": names[labels.numpy()],
            "predicted": names[predicted.numpy()],
            "confidence": confidence.numpy().round(6),
        }
    )


def tabulate_classes(predictions: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """A row for each class that has images: class, images, correct, accuracy, and the ends of its 95 % interval."""
    actual, rows = predictions["actual"].to_numpy(), []
    for name in class_names:
        right = predictions["predicted"].to_numpy()[actual == name] == name
        if count := len(right):
            correct = int(right.sum())
            interval = wilson_interval(correct, count)
            rows.append((name, count, correct, correct / count, interval.low, interval.high))
    return pd.DataFrame(rows, columns=list(CLASS_COLUMNS))


def reliability_bins(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """logits (N, classes), labels (N,) -> mean confidence, accuracy and count of each bin that has images.

    Bin m of the 15 holds the confidences above (m - 1) / 15 and up to m / 15.
    """
    predicted, confidence = _predict_labels(logits)
    table = pd.DataFrame({"confidence": confidence.numpy(), "correct": (predicted == labels).numpy()})
    groups = table.groupby(np.ceil(table["confidence"] * CALIBRATION_BINS))
    bins = {"confidence": groups["confidence"].mean(), "accuracy": groups["correct"].mean(), "count": groups.size()}
    return pd.DataFrame(bins).reset_index(drop=True)


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Sum over the bins of (count / N) * |accuracy - confidence|, a fraction.

    After C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks" (2017), section 2.
    """
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    return float(np.average(gaps, weights=bins["count"]))


def _predict_labels(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted labels (N,), as `score` counts them, and the probabilities given to them (N,), float64."""
    predicted = logits.argmax(dim=1)  # of the logits: two that differ can have the same probability
    return predicted, logits.double().softmax(dim=1).gather(1, predicted[:, None]).squeeze(1)

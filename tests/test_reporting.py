"""Figures, calibration and tables of predictions, worked out by hand."""

import math
from itertools import pairwise

import pytest
import torch

from lenet_cifar10 import reporting
from lenet_cifar10.evaluation import score
from lenet_cifar10.reporting import CalibrationBin
from lenet_cifar10.statistics import wilson_interval

LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [math.log(3), 0.0], [math.log(3), 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])  # each right one has the probability 3/4, the wrong one 1/4
NAMES = ("cat", "dog")


def logits_for(confidences: list[float]) -> torch.Tensor:
    """Two classes, of which the first is predicted with these probabilities, each a half or more."""
    return torch.tensor([[math.log(share / (1 - share)), 0.0] for share in confidences], dtype=torch.float64)


def test_each_class_has_its_own_accuracy_and_an_empty_one_has_none() -> None:
    logits = torch.cat([LOGITS, torch.full((4, 1), -9.0)], dim=1)
    assert reporting.score_classes(logits, LABELS) == [1.0, 0.5, None]


def test_a_confidence_is_the_probability_of_the_predicted_class() -> None:
    labels, probabilities = reporting.confidences(LOGITS)
    assert labels.tolist() == [0, 1, 0, 0]
    assert probabilities.tolist() == pytest.approx([0.75] * 4)


def test_predicted_classes_are_those_that_the_accuracy_counts() -> None:
    """Two logits that differ can have the same probability in float32."""
    logits = torch.tensor([[1e-9, 2e-9]])
    labels, _ = reporting.confidences(logits)
    assert labels.tolist() == logits.argmax(dim=1).tolist() == [1]


def test_calibration_gathers_images_of_about_the_same_confidence() -> None:
    """0.62 and 0.66 lie between 9/15 and 10/15, 0.9 between 13/15 and 14/15."""
    logits, labels = logits_for([0.62, 0.9, 0.66, 0.9, 0.9, 0.9]), torch.tensor([0, 0, 1, 0, 0, 1])
    low, high = reporting.calibrate(logits, labels)
    assert (low.confidence, low.accuracy, low.count) == (pytest.approx(0.64), 0.5, 2)
    assert (high.confidence, high.accuracy, high.count) == (pytest.approx(0.9), 0.75, 4)
    assert reporting.expected_calibration_error([low, high]) == pytest.approx((2 * 0.14 + 4 * 0.15) / 6)


def test_confidences_at_both_ends_have_a_bin() -> None:
    even, sure = torch.zeros(1, 20), torch.tensor([[1000.0, *[0.0] * 19]])
    (low,) = reporting.calibrate(even, torch.tensor([0]))
    assert (low.confidence, low.accuracy, low.count) == (pytest.approx(1 / 20), 1.0, 1)
    assert reporting.calibrate(sure, torch.tensor([3])) == [CalibrationBin(1.0, 0.0, 1)]


def test_every_image_is_in_one_bin() -> None:
    random = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(1000, 10, generator=random)
    labels = torch.randint(0, 10, (1000,), generator=random)
    bins = reporting.calibrate(logits, labels)
    assert sum(part.count for part in bins) == 1000
    assert sum(part.accuracy * part.count for part in bins) == pytest.approx(1000 * score(logits, labels).accuracy)
    assert all(math.ceil(low.confidence * 15) < math.ceil(high.confidence * 15) for low, high in pairwise(bins))


@pytest.mark.parametrize(("right", "error"), [(900, 0.0), (400, 0.5), (1000, 0.1)])
def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy(right: int, error: float) -> None:
    labels = torch.tensor([0] * right + [1] * (1000 - right))
    bins = reporting.calibrate(logits_for([0.9] * 1000), labels)
    assert reporting.expected_calibration_error(bins) == pytest.approx(error, abs=1e-9)


def test_gaps_up_and_down_do_not_cancel_out() -> None:
    assert reporting.expected_calibration_error([CalibrationBin(0.6, 0.7, 5), CalibrationBin(0.8, 0.7, 5)]) == (
        pytest.approx(0.1)
    )


def test_the_summary_has_the_figures_of_all_images_and_of_each_class() -> None:
    summary = reporting.summarize(LOGITS, LABELS, NAMES)
    interval = wilson_interval(3, 4)
    assert list(summary) == [
        "loss",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "expected_calibration_error",
        "per_class",
    ]
    assert summary["accuracy"] == 0.75
    assert (summary["accuracy_low"], summary["accuracy_high"]) == (interval.low, interval.high)
    assert summary["expected_calibration_error"] == pytest.approx(0.0, abs=1e-7)  # three of four right, at 3/4
    assert summary["per_class"] == {"cat": 1.0, "dog": 0.5}


def test_the_accuracy_with_flips_is_that_of_the_logits_given_for_it() -> None:
    assert reporting.summarize(LOGITS, LABELS, NAMES, LOGITS.flip(1))["accuracy_with_flips"] == 0.25


def test_predictions_have_a_row_for_each_image_in_order() -> None:
    rows = reporting.tabulate_predictions(LOGITS, LABELS, NAMES)
    assert rows[:2] == [
        {"index": 0, "actual": "cat", "predicted": "cat", "confidence": 0.75},
        {"index": 1, "actual": "dog", "predicted": "dog", "confidence": 0.75},
    ]
    assert [row["predicted"] for row in rows] == ["cat", "dog", "cat", "cat"]


def test_figures_that_are_no_numbers_are_told_as_such_and_not_left_out() -> None:
    logits = torch.full((2, 2), float("nan"))
    assert math.isnan(reporting.summarize(logits, torch.tensor([0, 1]), NAMES)["expected_calibration_error"])

"""Metrics and tables, computed by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet_cifar10.common.files import read_table, write_table
from lenet_cifar10.evaluation import metrics
from lenet_cifar10.evaluation.statistics import wilson_interval

# Each predicted label has the probability 3/4; the third image is misclassified.
LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [math.log(3), 0.0], [math.log(3), 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])
NAMES = ("cat", "dog")


def logits_with_confidences(confidences: list[float]) -> torch.Tensor:
    """Logits of two classes that give the first the probabilities asked for, which are above 1/2."""
    return torch.tensor([[math.log(share / (1 - share)) if share < 1 else 100.0, 0.0] for share in confidences])


def test_summary_has_the_figures_computed_by_hand() -> None:
    interval = wilson_interval(3, 4)
    assert metrics.summarize(LOGITS, LABELS) == {
        "test_loss": pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4),
        "test_accuracy": 0.75,
        "test_accuracy_low": interval.low,
        "test_accuracy_high": interval.high,
        "calibration_error": pytest.approx(0, abs=1e-6),
    }


def test_accuracy_with_flips_is_that_of_the_other_logits() -> None:
    figures = metrics.summarize(LOGITS, LABELS, LOGITS[[0, 1, 1, 0]])
    assert (figures["test_accuracy"], figures["test_accuracy_with_flips"]) == (0.75, 1.0)


def test_a_prediction_has_index_actual_and_predicted_class_and_confidence() -> None:
    table = metrics.tabulate_predictions(LOGITS[1:3], LABELS[1:3], NAMES)
    assert table.to_dict("list") == {
        "index": [0, 1],
        "actual": ["dog", "dog"],
        "predicted": ["dog", "cat"],
        "confidence": [0.75, 0.75],
    }


def test_predictions_are_counted_as_the_accuracy_counts_them_where_probabilities_are_equal() -> None:
    """softmax may round two logits that differ to the same probability."""
    logits = torch.tensor([[50.0, 50.000004]])
    assert metrics.summarize(logits, torch.tensor([1]))["test_accuracy"] == 1
    assert metrics.tabulate_predictions(logits, torch.tensor([1]), NAMES)["predicted"].tolist() == ["dog"]


@pytest.mark.parametrize("names", [("None", "NA"), ("7", "007"), ("True", "1e3"), ('a, "b"', "é")])
def test_tables_are_read_back_as_they_were_written(tmp_path: Path, names: tuple[str, str]) -> None:
    predictions = metrics.tabulate_predictions(LOGITS, LABELS, names)
    tables = [
        (predictions, metrics.PREDICTION_COLUMNS),
        (metrics.tabulate_classes(predictions, names), metrics.CLASS_COLUMNS),
    ]
    for table, columns in tables:
        write_table(tmp_path / "table.csv", table)
        assert read_table(tmp_path / "table.csv", columns).to_dict("list") == table.to_dict("list")
        assert list(columns) == list(table)


def test_classes_are_counted_in_the_order_of_the_names_and_only_those_with_images() -> None:
    predictions = metrics.tabulate_predictions(
        torch.eye(3)[[1, 1, 0, 2]], torch.tensor([1, 1, 1, 0]), ("cat", "dog", "emu")
    )
    dog, cat = wilson_interval(2, 3), wilson_interval(0, 1)
    rows = metrics.tabulate_classes(predictions, ("dog", "emu", "cat")).itertuples(index=False, name=None)
    assert list(rows) == [("dog", 3, 2, 2 / 3, dog.low, dog.high), ("cat", 1, 0, 0.0, cat.low, cat.high)]


def test_confidences_are_binned_from_above_m_minus_1_up_to_m_fifteenths() -> None:
    confidences = [0.52, 0.55, 0.61, 0.64, 0.999, 1.0]  # 8/15 = 0.533, 9/15 = 0.6, 10/15 = 0.667
    bins = metrics.reliability_bins(logits_with_confidences(confidences), torch.tensor([0, 1, 0, 1, 0, 0]))
    assert bins["count"].tolist() == [1, 1, 2, 2]
    assert bins["accuracy"].tolist() == [1, 0, 0.5, 1]
    assert bins["confidence"].tolist() == pytest.approx([0.52, 0.55, 0.625, 0.9995])


def test_bins_agree_with_the_predictions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 10, generator=generator) * 3, torch.randint(10, (500,), generator=generator)
    predictions = metrics.tabulate_predictions(logits, labels, [f"class {label}" for label in range(10)])
    bins = metrics.reliability_bins(logits, labels)
    assert len(bins) > 10
    assert sum(bins["count"]) == 500
    assert np.average(bins["confidence"], weights=bins["count"]) == pytest.approx(predictions["confidence"].mean())
    assert sum(bins["accuracy"] * bins["count"]) == pytest.approx(
        sum(predictions["actual"] == predictions["predicted"])
    )

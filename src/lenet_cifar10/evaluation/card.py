"""The model card: what the files of a run say about its weights, as Markdown for whoever gets them.

After M. Mitchell et al., "Model cards for model reporting" (2019); its head is the Hugging Face Hub's metadata.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lenet_cifar10.common.params import DataSection
from lenet_cifar10.evaluation.metrics import tabulate_classes
from lenet_cifar10.evaluation.statistics import wilson_interval

CIFAR_10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


@dataclass(frozen=True)
class Run:
    """What the files of a run say.

    Attributes:
        settings: the parameters that decide the weights, by dotted key.
        parameters: the number of the network's weights.
        train: the content of metrics/train.json.
        test: the content of metrics/test.json.
        predictions: the rows of plots/predictions.csv.
    """

    data: DataSection
    settings: Mapping[str, object]
    class_names: Sequence[str]
    weights_name: str
    weights_sha256: str
    parameters: int
    training_images: int
    environment: Mapping[str, object]
    train: Mapping[str, float]
    test: Mapping[str, float]
    predictions: pd.DataFrame


def find_contradiction(predictions: pd.DataFrame, actual: Sequence[str], accuracy: float) -> str | None:
    """Why predictions are not those of test images of these actual classes, or do not have this test accuracy."""
    if predictions["actual"].tolist() != list(actual):
        return "its actual classes are not those of the test images"
    correct = sum(predictions["actual"] == predictions["predicted"])
    if not math.isclose(correct / len(predictions), accuracy):
        return f"{correct:,} of {len(predictions):,} predictions are correct, but the test accuracy is {accuracy}"
    return None


def write_card(run: Run) -> str:
    """The whole card: the same text for the same run."""
    # The output is Markdown, not HTML; the filter `md` escapes what comes from outside.
    environment = Environment(
        loader=PackageLoader("lenet_cifar10"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": _escape, "percent": _percent, "interval": _interval, "thousands": "{:,}".format}
    classes = tabulate_classes(run.predictions, run.class_names).to_dict("records")
    correct = sum(row["correct"] for row in classes)
    return environment.get_template("card.md").render(
        run=run,
        is_cifar_10=run.data.sha256 == CIFAR_10_SHA256,
        test_images=len(run.predictions),
        correct=correct,
        classes=[row | {"mistake": _most_frequent_mistake(run.predictions, row["class"])} for row in classes],
        weak=[row for row in classes if row["high"] < run.test["test_accuracy"]],
        mean_confidence=run.predictions["confidence"].mean(),
    )


def _most_frequent_mistake(predictions: pd.DataFrame, name: str) -> tuple[str, int] | None:
    """What the images of a class were most often mistaken for, and how often; the alphabet decides between equals."""
    wrong = predictions[(predictions["actual"] == name) & (predictions["predicted"] != name)]
    counts = Counter(wrong["predicted"])
    return min(counts.items(), key=lambda item: (-item[1], item[0]), default=None)


def _escape(value: object) -> str:
    """A value as Markdown shows it, whatever is in it."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", str(value))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(accuracy: float, images: int) -> str:
    """The 95 % interval of an accuracy on so many images."""
    interval = wilson_interval(round(accuracy * images), images)
    return f"{_percent(interval.low)} to {_percent(interval.high)}"

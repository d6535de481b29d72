"""The model card: what the files of a run say about its weights, as Markdown for whoever gets them.

After M. Mitchell et al., "Model cards for model reporting" (2019); its head is the Hugging Face Hub's metadata.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lenet_cifar10.common.params import DataSection

CIFAR_10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


@dataclass(frozen=True)
class Run:
    """What the files of a run say.

    Attributes:
        settings: the parameters that decide the weights, by dotted key.
        train: the content of metrics/train.json.
        test: the content of metrics/test.json.
        classes: the rows of plots/per_class.csv.
    """

    data: DataSection
    settings: Mapping[str, object]
    class_names: Sequence[str]
    weights_sha256: str
    training_images: int
    environment: Mapping[str, object]
    train: Mapping[str, float]
    test: Mapping[str, float]
    classes: pd.DataFrame


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
    environment.filters |= {"md": _escape, "percent": lambda share: f"{100 * share:.1f} %", "thousands": "{:,}".format}
    is_cifar_10 = run.data.sha256 == CIFAR_10_SHA256
    return environment.get_template("card.md").render(
        run=run,
        is_cifar_10=is_cifar_10,
        data_name="CIFAR-10" if is_cifar_10 else f"archive {run.data.sha256[:8]}",
        test_images=sum(run.classes["images"]),
        correct=sum(run.classes["correct"]),
    )


def _escape(value: object) -> str:
    """A value as Markdown shows it, whatever is in it."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", str(value))

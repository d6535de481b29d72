"""Pictures for the stage report: the curves, and what DVC cannot chart. The user's matplotlib settings are ignored."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lenet_cifar10.common.params import FiguresSection

# Of the Okabe-Ito palette, whose colours stay apart for colour-blind readers.
BLUE, ORANGE = "#0072B2", "#D55E00"

_WIDTH = 8  # inches
_COLUMNS = 5  # images in a row

matplotlib.rcdefaults()


def render(figure: Figure, section: FiguresSection) -> bytes:
    """A figure as PNG: the same bytes for the same figure, without date or program."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=section.dpi, metadata={"Software": None})
    return file.getvalue()


def draw_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy of training and validation over the epochs, from history.csv."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {"loss": "Loss (cross-entropy)", "accuracy": "Accuracy"}
    for axes, (quantity, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for part, color, style in (("train", BLUE, "--"), ("validation", ORANGE, "-")):
            values = history[f"{part}_{quantity}"]
            label = f"{part} {values.iloc[-1]:.3f}"
            axes.plot(history["epoch"], values, style, color=color, marker="o", markersize=3, label=label)
        axes.set(xlabel="Epoch", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(title="last epoch", frameon=False)
    return figure


def draw_confusion(predictions: pd.DataFrame, class_names: Sequence[str], section: FiguresSection) -> Figure:
    """Actual against predicted classes with their counts, in the order of `class_names`, from predictions.csv."""
    table = pd.crosstab(predictions["actual"], predictions["predicted"])
    counts = table.reindex(index=list(class_names), columns=list(class_names), fill_value=0).to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(6.4, 0.64 * len(class_names)), 24)  # inches
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=section.colormap, vmin=0, vmax=1)
    readable = [withStroke(linewidth=2, foreground="white")]  # on every colour
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, path_effects=readable)
    axes.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set_title(f"Test images: {np.trace(counts):,} of {len(predictions):,} correct")
    axes.set(xlabel="Predicted", ylabel="Actual")
    figure.colorbar(image, ax=axes, label="Share of the actual class", shrink=0.8)
    return figure


def draw_augmentation(originals: NDArray[np.uint8], augmented: NDArray[np.uint8], labels: Sequence[str]) -> Figure:
    """Each image above its augmented copy, both uint8 (N, 3, 32, 32), under the name of its class."""
    figure, grid = _make_grid(len(labels), row_height=3.1)
    figure.suptitle("Training images, each above its augmented copy as the network first sees it", fontsize=12)
    gap = np.full((3, 3, 32), 255, dtype=np.uint8)  # white
    for axes, original, changed, label in zip(grid, originals, augmented, labels, strict=False):
        axes.imshow(np.concatenate([original, gap, changed], axis=1).transpose(1, 2, 0))
        axes.set_title(label, fontsize=9)
    return figure


def draw_mistakes(predictions: pd.DataFrame, images: NDArray[np.uint8], most: int) -> Figure:
    """The most confident wrong predictions, `most` at most: image, actual and predicted class, and confidence.

    The images are those of predictions.csv's rows: uint8 (N, 3, 32, 32). Ties come in their order.
    """
    wrong = predictions.reset_index(drop=True).loc[lambda table: table["actual"] != table["predicted"]]
    mistakes = wrong.sort_values("confidence", ascending=False, kind="stable").head(most)
    figure, grid = _make_grid(len(mistakes), row_height=2.1)
    figure.suptitle(f"The {len(mistakes)} most confident mistakes on the test set", fontsize=12)
    columns = (mistakes[name] for name in ("actual", "predicted", "confidence"))
    for axes, image, actual, predicted, confidence in zip(grid, images[mistakes.index], *columns, strict=False):
        axes.imshow(image.transpose(1, 2, 0))
        axes.set_title(f"actual {actual}", fontsize=9, color=BLUE)
        axes.set_xlabel(f"predicted {predicted}\n{confidence:.1%}", fontsize=9, color=ORANGE)
    return figure


def _make_grid(count: int, row_height: float) -> tuple[Figure, list[Axes]]:
    """A figure with places for `count` images in full rows, without frames and ticks; rows in inches."""
    rows = max(-(-count // _COLUMNS), 1)
    figure = Figure(figsize=(_WIDTH, 0.5 + row_height * rows), layout="constrained")
    grid = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in grid:
        axes.set(frame_on=False, xticks=[], yticks=[])
    return figure, grid

"""The pictures. Each function takes plain tables or arrays and gives a matplotlib figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lenet_cifar10.params import FiguresSection
from lenet_cifar10.records import replacing

# Blue and orange of the Okabe-Ito palette, which stay apart for colour-blind readers.
TRAIN_COLOUR, VALIDATION_COLOUR = "#0072B2", "#D55E00"


def draw_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy over the epochs, training and validation, from the columns of history.csv."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    last = history.iloc[-1]
    for axes, quantity, label in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("Loss (cross-entropy)", "Accuracy"), strict=True
    ):
        for part, colour, style in (("train", TRAIN_COLOUR, "--"), ("validation", VALIDATION_COLOUR, "-")):
            column = f"{part}_{quantity}"
            values = history[column]
            text = f"{part} {last[column]:.3f}"
            axes.plot(history["epoch"], values, style, color=colour, marker="o", markersize=3, label=text)
        axes.set(xlabel="Epoch", title=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(title="last epoch", frameon=False)
    return figure


def draw_confusion(predictions: pd.DataFrame, section: FiguresSection) -> Figure:
    """A matrix of actual against predicted classes with counts, from the columns of predictions.csv."""
    names = list(dict.fromkeys([*sorted(predictions["actual"].unique()), *sorted(predictions["predicted"].unique())]))
    counts = pd.crosstab(predictions["actual"], predictions["predicted"]).reindex(
        index=names, columns=names, fill_value=0
    )
    shares = counts.to_numpy() / np.maximum(counts.to_numpy().sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=section.colormap, vmin=0, vmax=1)
    colormap = image.get_cmap()
    for (row, column), count in np.ndenumerate(counts.to_numpy()):
        red, green, blue, _ = colormap(shares[row, column])
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color="white" if is_dark else "black")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="Predicted", ylabel="Actual", title=f"Test images: {int(np.trace(counts.to_numpy())):,} of {len(predictions):,} right")
    figure.colorbar(image, ax=axes, label="Share of the actual class", shrink=0.8)
    return figure


def draw_images(images: NDArray[np.uint8], names: Sequence[str]) -> Figure:
    """A grid of labelled images, uint8 (N, 3, 32, 32), five in a row."""
    columns = 5
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 1.4, rows * 1.6), layout="constrained")
    for axes, image, name in zip(figure.subplots(rows, columns).flat, images, names, strict=False):
        axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(name, fontsize=9)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def save(figure: Figure, path: Path, section: FiguresSection) -> None:
    """Write a figure as PNG: the same bytes for the same figure (no date, no version of the program)."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=section.dpi, metadata={"Software": None})

"""The pictures: tables and arrays become matplotlib figures, whatever the user's matplotlib settings are."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lenet_cifar10.errors import UserError
from lenet_cifar10.params import FiguresSection

# Blue and orange of the Okabe-Ito palette, which stay apart for colour-blind readers.
TRAIN_COLOUR, VALIDATION_COLOUR = "#0072B2", "#D55E00"


def read_table(path: Path, columns: Mapping[str, Collection[str] | None]) -> pd.DataFrame:
    """Read a CSV and check the columns asked for: each holds some of the words given, or numbers where None is given.

    Raises:
        UserError: the file is missing, is no such table, or has no rows.
    """
    try:
        # As text first: a class may be called "None" or "NA", which pandas would take for a missing value.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"it lacks the column {missing[0]}")
        for name, words in columns.items():
            if words is None:
                table[name] = pd.to_numeric(table[name])
                if np.isnan(table[name].to_numpy(float)).any():  # a row was cut off
                    raise ValueError(f"column {name} has a gap")
            elif strange := set(table[name]) - set(words):
                raise ValueError(f"column {name} holds {sorted(map(str, strange))[0]!r}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro, or git restore {path}") from None
    except ValueError as error:  # pandas raises kinds of it for what it can't parse
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is damaged ({reason}); lenet-cifar10 verify says how to repair it") from None
    if table.empty:
        raise UserError(f"{path}: has no rows; lenet-cifar10 verify says how to repair it")
    return table


Arguments = ParamSpec("Arguments")
Drawn = TypeVar("Drawn")


def _in_default_style(draw: Callable[Arguments, Drawn]) -> Callable[Arguments, Drawn]:
    """Whatever the user's own matplotlib settings are: the same inputs are to give the same bytes."""

    @wraps(draw)
    def draw_in_default_style(*arguments: Arguments.args, **options: Arguments.kwargs) -> Drawn:
        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            return draw(*arguments, **options)

    return draw_in_default_style


@_in_default_style
def draw_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy over the epochs, training and validation, from the columns of history.csv."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    last = history.iloc[-1]
    for axes, quantity, title in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("Loss (cross-entropy)", "Accuracy"), strict=True
    ):
        for part, colour, style in (("train", TRAIN_COLOUR, "--"), ("validation", VALIDATION_COLOUR, "-")):
            column = f"{part}_{quantity}"
            label = f"{part} {last[column]:.3f}"
            axes.plot(history["epoch"], history[column], style, color=colour, marker="o", markersize=3, label=label)
        axes.set(xlabel="Epoch", title=title, xlim=(0.5, last["epoch"] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(title="last epoch", frameon=False)
    return figure


@_in_default_style
def draw_confusion(predictions: pd.DataFrame, names: Sequence[str], section: FiguresSection) -> Figure:
    """A matrix of actual against predicted classes with counts, in the order of `names`, from predictions.csv."""
    table = pd.crosstab(predictions["actual"], predictions["predicted"])
    counts = table.reindex(index=list(names), columns=list(names), fill_value=0).to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(6.4, 0.64 * len(names)), 24)  # inches
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=section.colormap, vmin=0, vmax=1)
    luminance = np.asarray(image.to_rgba(shares))[..., :3] ** 2.2 @ [0.2126, 0.7152, 0.0722]
    is_dark = luminance < 0.18  # below it white stands out more than black
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if is_dark[row, column] else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=colour)
    labels, ticks = [_shorten(name) for name in names], range(len(names))
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(ticks, labels, parse_math=False)
    axes.set_title(f"Test images: {np.trace(counts):,} of {len(predictions):,} right")
    axes.set(xlabel="Predicted", ylabel="Actual")
    figure.colorbar(image, ax=axes, label="Share of the actual class", shrink=0.8)
    return figure


@_in_default_style
def draw_images(images: NDArray[np.uint8], names: Sequence[str]) -> Figure:
    """A grid of labelled images, uint8 (N, 3, 32, 32), five in a row."""
    columns = 5
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 1.4, rows * 1.6), layout="constrained")
    for axes, image, name in zip(figure.subplots(rows, columns).flat, images, names, strict=False):
        axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(_shorten(name), fontsize=9, parse_math=False)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


@_in_default_style
def save(figure: Figure, path: Path, section: FiguresSection) -> None:
    """Write a figure as PNG: the same bytes for the same figure (no date, no version of the program)."""
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=section.dpi, metadata={"Software": None})


def _shorten(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"

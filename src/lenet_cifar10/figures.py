"""The pictures: tables and arrays become matplotlib figures, whatever the user's matplotlib settings are."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from lenet_cifar10.params import FiguresSection
from lenet_cifar10.reporting import CALIBRATION_BINS, CalibrationBin, expected_calibration_error
from lenet_cifar10.results import count_right
from lenet_cifar10.statistics import wilson_interval

# Of the Okabe-Ito palette, whose colours stay apart for colour-blind readers.
BLUE, SKY_BLUE, ORANGE = "#0072B2", "#56B4E9", "#D55E00"

_WIDTH = 8  # inches: as wide as a README shows, at 100 dots an inch
_COLUMNS = 5  # images in a row
_GAP = np.full((3, 3, 32), 255, dtype=np.uint8)  # white, between an image and its augmented self


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
        for part, colour, style in (("train", BLUE, "--"), ("validation", ORANGE, "-")):
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
def draw_augmentation(originals: NDArray[np.uint8], augmented: NDArray[np.uint8], names: Sequence[str]) -> Figure:
    """Each image above its augmented self, both uint8 (N, 3, 32, 32), under the name of its class."""
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(_WIDTH, 0.4 + 3.1 * rows), layout="constrained")
    figure.suptitle("Training images, each above its augmented self as the network first sees it", fontsize=12)
    grid = _empty_grid(figure, rows)
    for axes, original, changed, name in zip(grid, originals, augmented, names, strict=False):
        pair = np.concatenate([original, _GAP, changed], axis=1)
        axes.imshow(pair.transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(_shorten(name), fontsize=9, parse_math=False)
    for axes in grid[::_COLUMNS]:
        axes.set_yticks([15.5, 50.5], ["original", "augmented"], rotation=90, va="center", fontsize=9)
    return figure


def find_mistakes(predictions: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows of predictions.csv with the most confident wrong answers, at most so many; ties in the given order."""
    wrong = np.flatnonzero(predictions["actual"] != predictions["predicted"])
    confidences = predictions["confidence"].to_numpy(float)[wrong]
    return predictions.iloc[wrong[np.argsort(-confidences, kind="stable")[:most]]]


@_in_default_style
def draw_mistakes(predictions: pd.DataFrame, images: NDArray[np.uint8], most: int) -> Figure:
    """The most confident wrong answers, at most so many: image, actual, predicted and confidence.

    The images are those of all rows of predictions.csv: uint8 (N, 3, 32, 32).
    """
    mistakes = find_mistakes(predictions, most)
    rows = -(-len(mistakes) // _COLUMNS)
    figure = Figure(figsize=(_WIDTH, 0.8 + 2.1 * rows), layout="constrained")
    if not rows:
        figure.suptitle("No wrong answer on the test set", y=0.5, va="center")
        return figure
    title = f"The {len(mistakes)} most confident wrong answers on the test set"
    grid = _empty_grid(figure, rows)
    columns = (mistakes[name] for name in ("actual", "predicted", "confidence"))
    for axes, image, actual, predicted, confidence in zip(grid, images[mistakes.index], *columns, strict=False):
        axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(_shorten(actual), fontsize=9, color=BLUE, pad=3, parse_math=False)
        answer = f"{_shorten(predicted)}\n{_percent(confidence)}"
        axes.set_xlabel(answer, fontsize=9, color=ORANGE, labelpad=3, parse_math=False)
    legend = [Patch(color=BLUE, label="above: actual class"), Patch(color=ORANGE, label="below: answer and confidence")]
    figure.legend(handles=legend, loc="outside upper center", ncols=2, frameon=False, title=title, title_fontsize=12)
    return figure


@_in_default_style
def draw_per_class(predictions: pd.DataFrame, names: Sequence[str]) -> Figure:
    """The accuracy within each class with its 95 % interval, the best class first, from predictions.csv."""
    classes = count_right(zip(predictions["actual"], predictions["predicted"], strict=True), names)
    classes.sort(key=lambda found: found.right / found.count if found.count else -1, reverse=True)
    right, counts = np.array([(found.right, found.count) for found in classes]).T
    accuracies = np.where(counts, right / np.maximum(counts, 1), np.nan)
    errors = _interval_errors(right, counts)
    overall, places = right.sum() / counts.sum(), range(len(names))
    figure = Figure(figsize=(_WIDTH, 1.3 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, accuracies, height=0.7, color=SKY_BLUE, xerr=errors, error_kw={"linewidth": 1.5, "capsize": 3})
    axes.axvline(overall, color=ORANGE, linestyle="--", linewidth=2, label=f"all test images: {_percent(overall)}")
    for place, accuracy in zip(places, accuracies, strict=True):
        shown = "no images" if np.isnan(accuracy) else _percent(accuracy)
        axes.text(1.02, place, shown, va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(places, [_shorten(found.name) for found in classes], parse_math=False)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), title="Test accuracy by class, with 95 % intervals")
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", frameon=False)
    return figure


@_in_default_style
def draw_calibration(calibration: pd.DataFrame) -> Figure:
    """A reliability diagram with 95 % intervals, and how many images have each confidence, from calibration.csv."""
    confidences, accuracies, counts = (calibration[name].to_numpy() for name in ("confidence", "accuracy", "count"))
    bins = [CalibrationBin(*row) for row in zip(confidences, accuracies, counts, strict=True)]
    errors = _interval_errors(np.rint(accuracies * counts), counts)
    figure = Figure(figsize=(_WIDTH, 4.8), layout="constrained")
    figure.suptitle(
        f"Expected calibration error on the test set: {_percent(expected_calibration_error(bins))}", fontsize=12
    )
    diagram, histogram = figure.subplots(1, 2)
    diagram.plot([0, 1], [0, 1], "--", color="grey", label="confidence = accuracy")
    diagram.errorbar(
        confidences,
        accuracies,
        errors,
        fmt="o",
        color=BLUE,
        capsize=3,
        clip_on=False,
        label="accuracy with its 95 % interval",
    )
    diagram.set(title="Accuracy", ylim=(0, 1), aspect="equal")
    diagram.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    middles = (np.ceil(confidences * CALIBRATION_BINS) - 0.5) / CALIBRATION_BINS
    histogram.bar(middles, counts / counts.sum(), width=0.9 / CALIBRATION_BINS, color=SKY_BLUE)
    histogram.set(title="Share of the test images", box_aspect=1)
    histogram.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    for axes in (diagram, histogram):
        axes.set(xlim=(0, 1), xlabel="Confidence")
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure


@_in_default_style
def save(figure: Figure, path: Path, section: FiguresSection) -> None:
    """Write a figure as PNG: the same bytes for the same figure (no date, no version of the program)."""
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=section.dpi, metadata={"Software": None})


def _interval_errors(right: NDArray[np.number], counts: NDArray[np.number]) -> NDArray[np.float64]:
    """How far the 95 % intervals of right / counts, each (N,), reach down and up, for error bars: (2, N)."""
    intervals = [wilson_interval(int(some), int(all_)) for some, all_ in zip(right, counts, strict=True)]
    shares = right / np.maximum(counts, 1)
    ends = [shares - [part.low for part in intervals], [part.high for part in intervals] - shares]
    return np.maximum(ends, 0)  # rounding may leave a hair less


def _empty_grid(figure: Figure, rows: int) -> list[Axes]:
    """Places for images, five in a row, without frames and ticks, also where no image follows."""
    grid = list(figure.subplots(rows, _COLUMNS, squeeze=False, gridspec_kw={"hspace": 0.07}).flat)
    for axes in grid:
        axes.set(frame_on=False, xticks=[], yticks=[])
        axes.tick_params(length=0)
    return grid


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _shorten(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"

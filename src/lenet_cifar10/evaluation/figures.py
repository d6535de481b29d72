"""The pictures: tables and arrays become matplotlib figures, the same whatever the user's matplotlib settings are."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from lenet_cifar10.common.params import FiguresSection
from lenet_cifar10.evaluation.metrics import CALIBRATION_BINS, expected_calibration_error
from lenet_cifar10.evaluation.statistics import wilson_interval

# Of the Okabe-Ito palette, whose colours stay apart for colour-blind readers.
BLUE, SKY_BLUE, ORANGE = "#0072B2", "#56B4E9", "#D55E00"

_WIDTH = 8  # inches
_COLUMNS = 5  # images in a row
_PERCENT = PercentFormatter(1, symbol=" %")
_in_default_style = matplotlib.rc_context(matplotlib.rcParamsDefault)


@_in_default_style
def render(figure: Figure, section: FiguresSection) -> bytes:
    """A figure as PNG: the same bytes for the same figure, without date or program."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=section.dpi, metadata={"Software": None})
    return file.getvalue()


@_in_default_style
def draw_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy of training and validation over the epochs, from history.csv."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    last = history.iloc[-1]
    titles = {"loss": "Loss (cross-entropy)", "accuracy": "Accuracy"}
    for axes, (quantity, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for part, color, style in (("train", BLUE, "--"), ("validation", ORANGE, "-")):
            values = history[f"{part}_{quantity}"]
            label = f"{part} {values.iloc[-1]:.3f}"
            axes.plot(history["epoch"], values, style, color=color, marker="o", markersize=3, label=label)
        axes.set(xlabel="Epoch", title=title, xlim=(0.5, last["epoch"] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(title="last epoch", frameon=False)
    return figure


@_in_default_style
def draw_confusion(predictions: pd.DataFrame, class_names: Sequence[str], section: FiguresSection) -> Figure:
    """Actual against predicted classes with their counts, in the order of `class_names`, from predictions.csv."""
    table = pd.crosstab(predictions["actual"], predictions["predicted"])
    counts = table.reindex(index=list(class_names), columns=list(class_names), fill_value=0).to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(6.4, 0.64 * len(class_names)), 24)  # inches
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=section.colormap, vmin=0, vmax=1)
    luminance = np.asarray(image.to_rgba(shares))[..., :3] ** 2.2 @ [0.2126, 0.7152, 0.0722]
    colors = np.where(luminance < 0.18, "white", "black")  # whichever contrasts more
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=colors[row, column])
    labels, ticks = [_shorten(name) for name in class_names], range(len(class_names))
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(ticks, labels, parse_math=False)
    axes.set_title(f"Test images: {np.trace(counts):,} of {len(predictions):,} correct")
    axes.set(xlabel="Predicted", ylabel="Actual")
    figure.colorbar(image, ax=axes, label="Share of the actual class", shrink=0.8)
    return figure


@_in_default_style
def draw_augmentation(originals: NDArray[np.uint8], augmented: NDArray[np.uint8], labels: Sequence[str]) -> Figure:
    """Each image above its augmented copy, both uint8 (N, 3, 32, 32), under the name of its class."""
    figure = Figure(figsize=(_WIDTH, 0.4 + 3.1 * _rows(len(labels))), layout="constrained")
    figure.suptitle("Training images, each above its augmented copy as the network first sees it", fontsize=12)
    gap = np.full((3, 3, 32), 255, dtype=np.uint8)  # white
    grid = _empty_grid(figure, len(labels))
    for axes, original, changed, label in zip(grid, originals, augmented, labels, strict=False):
        axes.imshow(np.concatenate([original, gap, changed], axis=1).transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(_shorten(label), fontsize=9, parse_math=False)
    for axes in grid[::_COLUMNS]:
        axes.set_yticks([15.5, 50.5], ["original", "augmented"], rotation=90, va="center", fontsize=9)
    return figure


@_in_default_style
def draw_mistakes(predictions: pd.DataFrame, images: NDArray[np.uint8], most: int) -> Figure:
    """The most confident wrong predictions, `most` at most: image, actual and predicted class, and confidence.

    The images are those of predictions.csv's rows: uint8 (N, 3, 32, 32). Ties come in their order.
    """
    wrong = predictions.reset_index(drop=True).loc[lambda table: table["actual"] != table["predicted"]]
    mistakes = wrong.sort_values("confidence", ascending=False, kind="stable").head(most)
    figure = Figure(figsize=(_WIDTH, 0.8 + 2.1 * _rows(len(mistakes))), layout="constrained")
    if mistakes.empty:
        figure.suptitle("No mistake on the test set", y=0.5, va="center")
        return figure
    columns = (mistakes[name] for name in ("actual", "predicted", "confidence"))
    grid = _empty_grid(figure, len(mistakes))
    for axes, image, actual, predicted, confidence in zip(grid, images[mistakes.index], *columns, strict=False):
        axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(_shorten(actual), fontsize=9, color=BLUE, pad=3, parse_math=False)
        answer = f"{_shorten(predicted)}\n{_percent(confidence)}"
        axes.set_xlabel(answer, fontsize=9, color=ORANGE, labelpad=3, parse_math=False)
    handles = [Patch(color=BLUE, label="above: actual class"), Patch(color=ORANGE, label="below: predicted class")]
    title = f"The {len(mistakes)} most confident mistakes on the test set"
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, title=title, title_fontsize=12)
    return figure


@_in_default_style
def draw_per_class(classes: pd.DataFrame) -> Figure:
    """The accuracy within each class with its 95 % interval, the best class first, from per_class.csv."""
    classes = classes.sort_values("accuracy", ascending=False, kind="stable")
    accuracies, places = classes["accuracy"].to_numpy(), range(len(classes))
    overall = sum(classes["correct"]) / sum(classes["images"])
    figure = Figure(figsize=(_WIDTH, 1.3 + 0.32 * len(classes)), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, accuracies, height=0.7, color=SKY_BLUE)
    ends = [accuracies - classes["low"], classes["high"] - accuracies]
    axes.errorbar(accuracies, places, xerr=np.maximum(ends, 0), fmt="none", ecolor="black", capsize=3, clip_on=False)
    axes.axvline(overall, color=ORANGE, linestyle="--", linewidth=2, label=f"all test images: {_percent(overall)}")
    for place, accuracy in zip(places, accuracies, strict=True):
        axes.text(1.02, place, _percent(accuracy), va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(places, [_shorten(name) for name in classes["class"]], parse_math=False)
    axes.set(xlim=(0, 1), ylim=(len(classes) - 0.4, -0.6), title="Test accuracy by class, with 95 % intervals")
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", frameon=False)
    return figure


@_in_default_style
def draw_calibration(bins: pd.DataFrame) -> Figure:
    """A reliability diagram with 95 % intervals, and how many images have each confidence, from calibration.csv."""
    confidences, accuracies, counts = (bins[name].to_numpy() for name in ("confidence", "accuracy", "count"))
    intervals = [wilson_interval(round(a * n), int(n)) for a, n in zip(accuracies, counts, strict=True)]
    ends = [accuracies - [part.low for part in intervals], [part.high for part in intervals] - accuracies]
    figure = Figure(figsize=(_WIDTH, 4.8), layout="constrained")
    error = _percent(expected_calibration_error(bins))
    figure.suptitle(f"Expected calibration error on the test set: {error}", fontsize=12)
    diagram, histogram = figure.subplots(1, 2)
    diagram.plot([0, 1], [0, 1], "--", color="grey", label="confidence = accuracy")
    bars = {"fmt": "o", "color": BLUE, "capsize": 3, "clip_on": False}
    diagram.errorbar(confidences, accuracies, np.maximum(ends, 0), label="accuracy with its 95 % interval", **bars)
    diagram.set(title="Accuracy", ylim=(0, 1), aspect="equal")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    middles = (np.ceil(confidences * CALIBRATION_BINS) - 0.5) / CALIBRATION_BINS
    histogram.bar(middles, counts / counts.sum(), width=0.9 / CALIBRATION_BINS, color=SKY_BLUE)
    histogram.set(title="Share of the test images", box_aspect=1)
    for axes in (diagram, histogram):
        axes.set(xlim=(0, 1), xlabel="Confidence")
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.yaxis.set_major_formatter(_PERCENT)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure


def _rows(count: int) -> int:
    return -(-count // _COLUMNS)


def _empty_grid(figure: Figure, count: int) -> list[Axes]:
    """Places for `count` images in full rows, without frames and ticks."""
    grid = list(figure.subplots(_rows(count), _COLUMNS, squeeze=False, gridspec_kw={"hspace": 0.07}).flat)
    for axes in grid:
        axes.set(frame_on=False, xticks=[], yticks=[])
        axes.tick_params(length=0)
    return grid


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _shorten(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"

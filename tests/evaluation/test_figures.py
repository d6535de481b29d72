"""Pictures: the right numbers in them, and the same bytes when they are drawn again."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lenet_cifar10.common.params import FiguresSection
from lenet_cifar10.evaluation import figures

SECTION = FiguresSection(dpi=50, colormap="cividis")
NAMES = ("cat", "dog", "emu")
PREDICTIONS = pd.DataFrame(
    [("cat", "cat", 0.9), ("cat", "cat", 0.8), ("cat", "dog", 0.6), ("dog", "dog", 0.7), ("emu", "cat", 0.75)],
    columns=["actual", "predicted", "confidence"],
)


def make_history(epochs: int) -> pd.DataFrame:
    quantities = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    return pd.DataFrame({"epoch": range(1, epochs + 1)} | {name: [0.5] * epochs for name in quantities})


def make_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def save_everything(folder: Path) -> None:
    drawn = {
        "augmentation.png": figures.draw_augmentation(make_images(7), make_images(7), ["cat"] * 7),
        "confusion.png": figures.draw_confusion(PREDICTIONS, NAMES, SECTION),
        "curves.png": figures.draw_curves(make_history(3)),
        "mistakes.png": figures.draw_mistakes(PREDICTIONS, make_images(5), 2),
    }
    folder.mkdir()
    for name, figure in drawn.items():
        (folder / name).write_bytes(figures.render(figure, SECTION))


def axes_of(figure: Figure, place: int = 0) -> Axes:
    return figure.axes[place]


def counts_in(figure: Figure) -> list[list[int]]:
    """The numbers in the fields of a confusion matrix, row by row."""
    places = {
        tuple(map(round, cast(Text, text).get_position())): int(text.get_text()) for text in axes_of(figure).texts
    }
    side = round(len(places) ** 0.5)
    return [[places[column, row] for column in range(side)] for row in range(side)]


def names_along(ticks: list[Text]) -> list[str]:
    return [tick.get_text() for tick in ticks]


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    """Such as a layout that does not fit, or a letter that the font lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_another_process_with_other_settings_draws_the_same_bytes(tmp_path: Path) -> None:
    save_everything(tmp_path / "here")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsavefig.transparent: True\nlines.linewidth: 9\n")
    hostile = {"MATPLOTLIBRC": str(tmp_path), "LANG": "C", "PYTHONHASHSEED": "7", "MPLBACKEND": "svg"}
    search = {"PYTHONPATH": os.pathsep.join([str(Path(figures.__file__).parents[2]), str(Path(__file__).parent)])}
    code = "import sys, pathlib, test_figures; test_figures.save_everything(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], env=os.environ | search | hostile, check=True)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("dpi", [50, 100])
def test_a_picture_has_its_resolution_and_names_no_program_and_no_date(tmp_path: Path, dpi: int) -> None:
    figure = figures.draw_curves(make_history(2))
    path = tmp_path / "curves.png"
    path.write_bytes(figures.render(figure, FiguresSection(dpi=dpi, colormap="cividis")))
    with Image.open(path) as picture:
        assert picture.size == tuple(round(inches * dpi) for inches in figure.get_size_inches())
        assert set(picture.info) <= {"dpi"}


def test_curves_show_training_and_validation_with_the_figures_of_the_last_epoch() -> None:
    history = make_history(3)
    history.loc[2, ["train_loss", "validation_loss", "train_accuracy", "validation_accuracy"]] = 0.1, 0.2, 0.3, 0.4
    figure = figures.draw_curves(history)
    for place, labels in enumerate((["train 0.100", "validation 0.200"], ["train 0.300", "validation 0.400"])):
        assert [line.get_label() for line in axes_of(figure, place).lines] == labels
    assert np.array_equal(axes_of(figure).lines[1].get_xydata(), [(1, 0.5), (2, 0.5), (3, 0.2)])


def test_confusion_has_a_row_for_each_actual_class_in_the_order_of_the_names() -> None:
    figure = figures.draw_confusion(PREDICTIONS, ("emu", "cat", "dog", "gnu"), SECTION)
    axes = axes_of(figure)
    assert names_along(axes.get_xticklabels()) == names_along(axes.get_yticklabels()) == ["emu", "cat", "dog", "gnu"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted", "Actual")
    assert axes.get_title() == "Test images: 3 of 5 correct"
    assert counts_in(figure) == [[0, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    (image,) = axes.images
    assert np.allclose(np.asarray(image.get_array())[1], [0, 2 / 3, 1 / 3, 0])
    assert image.get_clim() == (0, 1)


@pytest.mark.parametrize("count", [1, 6])
def test_each_image_is_above_its_augmented_copy_under_its_name(count: int) -> None:
    originals, augmented = make_images(2 * count)[:count], make_images(2 * count)[count:]
    figure = figures.draw_augmentation(originals, augmented, [f"name {number}" for number in range(count)])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"name {number}" for number in range(count)]
    for axes, original, changed in zip(shown, originals, augmented, strict=True):
        pixels = np.asarray(axes.images[0].get_array())
        assert np.array_equal(pixels[:32], original.transpose(1, 2, 0))
        assert np.array_equal(pixels[-32:], changed.transpose(1, 2, 0))


def test_most_confident_mistakes_come_first_and_ties_in_the_order_of_the_images() -> None:
    rows = [("a", "b", 0.5), ("a", "a", 0.99), ("b", "a", 0.7), ("a", "b", 0.9), ("b", "a", 0.7), ("a", "b", 0.7)]
    images = make_images(6)
    figure = figures.draw_mistakes(pd.DataFrame(rows, columns=["actual", "predicted", "confidence"]), images, 4)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["actual a", "actual b", "actual b", "actual a"]
    assert [axes.get_xlabel() for axes in shown] == [
        f"predicted {line}" for line in ("b\n90.0%", "a\n70.0%", "a\n70.0%", "b\n70.0%")
    ]
    for axes, image in zip(shown, images[[3, 2, 4, 5]], strict=True):
        assert np.array_equal(np.asarray(axes.images[0].get_array()), image.transpose(1, 2, 0))
    assert figure.get_suptitle() == "The 4 most confident mistakes on the test set"


def test_without_mistakes_the_picture_says_so() -> None:
    figure = figures.draw_mistakes(PREDICTIONS.iloc[[0, 1, 3]], make_images(3), 25)
    figures.render(figure, SECTION)
    assert figure.get_suptitle() == "The 0 most confident mistakes on the test set"


@pytest.mark.parametrize("count", [2, 100])
def test_few_and_many_classes_fit(count: int) -> None:
    names = [f"class {number}" for number in range(count)]
    predictions = pd.DataFrame({"actual": names, "predicted": names})
    figures.render(figures.draw_confusion(predictions, names, SECTION), SECTION)

"""Pictures: the right numbers in them, and the same bytes when drawn again."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lenet_cifar10 import figures
from lenet_cifar10.errors import UserError
from lenet_cifar10.params import FiguresSection

SECTION = FiguresSection(dpi=50, colormap="cividis")
NAMES = ("cat", "dog", "emu")
PREDICTIONS = pd.DataFrame(
    [("cat", "cat"), ("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("emu", "cat")], columns=["actual", "predicted"]
)


def make_history(epochs: int) -> pd.DataFrame:
    quantities = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    return pd.DataFrame({"epoch": range(1, epochs + 1)} | {name: [0.5] * epochs for name in quantities})


def make_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def draw_everything(folder: Path) -> None:
    drawn = {
        "curves.png": figures.draw_curves(make_history(3)),
        "confusion.png": figures.draw_confusion(PREDICTIONS, NAMES, SECTION),
        "images.png": figures.draw_images(make_images(7), ["cat"] * 7),
    }
    folder.mkdir(exist_ok=True)
    for name, figure in drawn.items():
        figures.save(figure, folder / name, SECTION)


def axes_of(figure: Figure, place: int = 0) -> Axes:
    return figure.axes[place]


def counts_in(figure: Figure) -> list[list[int]]:
    """The numbers in the fields of a matrix, row by row."""
    axes = axes_of(figure)
    places = {tuple(map(round, cast(Text, text).get_position())): int(text.get_text()) for text in axes.texts}
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


def test_the_bytes_are_the_same_when_drawn_again_in_another_process(tmp_path: Path) -> None:
    draw_everything(tmp_path / "here")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsavefig.transparent: True\nlines.linewidth: 9\n")
    hostile = {"MATPLOTLIBRC": str(tmp_path), "LANG": "C", "PYTHONHASHSEED": "7", "MPLBACKEND": "svg"}
    code = "import sys; from pathlib import Path; import test_figures; test_figures.draw_everything(Path(sys.argv[1]))"
    search = f"{Path(figures.__file__).parent.parent}:{Path(__file__).parent}"
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], env={"PYTHONPATH": search} | hostile, check=True)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("dpi", [50, 100])
def test_a_picture_has_the_resolution_asked_for(tmp_path: Path, dpi: int) -> None:
    figure = figures.draw_curves(make_history(2))
    figures.save(figure, tmp_path / "curves.png", FiguresSection(dpi=dpi, colormap="cividis"))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == tuple(round(inches * dpi) for inches in figure.get_size_inches())


def test_a_picture_names_no_program_and_no_date(tmp_path: Path) -> None:
    figures.save(figures.draw_curves(make_history(2)), tmp_path / "curves.png", SECTION)
    with Image.open(tmp_path / "curves.png") as picture:
        assert set(picture.info) <= {"dpi"}


def test_curves_show_both_parts_with_the_figures_of_the_last_epoch() -> None:
    history = make_history(3)
    history.loc[2, ["train_loss", "validation_loss", "train_accuracy", "validation_accuracy"]] = 0.1, 0.2, 0.3, 0.4
    figure = figures.draw_curves(history)
    for place, labels in enumerate((["train 0.100", "validation 0.200"], ["train 0.300", "validation 0.400"])):
        axes = axes_of(figure, place)
        assert [line.get_label() for line in axes.lines] == labels
    assert np.array_equal(axes_of(figure).lines[1].get_xydata(), [(1, 0.5), (2, 0.5), (3, 0.2)])


@pytest.mark.parametrize("epochs", [1, 2, 20, 1000])
def test_epochs_are_marked_by_whole_numbers(tmp_path: Path, epochs: int) -> None:
    figure = figures.draw_curves(make_history(epochs))
    figures.save(figure, tmp_path / "curves.png", SECTION)
    low, high = axes_of(figure).get_xlim()
    ticks = [tick for tick in axes_of(figure).get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_a_history_that_grows_mid_run_can_have_gaps(tmp_path: Path) -> None:
    history = make_history(3)
    history.loc[1, "validation_loss"] = float("nan")
    figures.save(figures.draw_curves(history), tmp_path / "curves.png", SECTION)
    assert (tmp_path / "curves.png").exists()


def test_the_matrix_counts_actual_in_rows_and_predicted_in_columns() -> None:
    figure = figures.draw_confusion(PREDICTIONS, NAMES, SECTION)
    axes = axes_of(figure)
    assert counts_in(figure) == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert names_along(axes.get_xticklabels()) == names_along(axes.get_yticklabels()) == ["cat", "dog", "emu"]
    assert axes.get_title() == "Test images: 3 of 5 right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted", "Actual")


def test_the_colours_are_shares_of_the_actual_class() -> None:
    (image,) = axes_of(figures.draw_confusion(PREDICTIONS, NAMES, SECTION)).images
    assert np.allclose(np.asarray(image.get_array()), [[2 / 3, 1 / 3, 0], [0, 1, 0], [1, 0, 0]])
    assert image.get_clim() == (0, 1)


def test_the_matrix_keeps_the_order_of_the_classes_and_a_place_for_each() -> None:
    predictions = pd.DataFrame({"actual": ["a", "c"], "predicted": ["a", "b"]})
    figure = figures.draw_confusion(predictions, ("c", "b", "a", "d"), SECTION)
    assert names_along(axes_of(figure).get_xticklabels()) == ["c", "b", "a", "d"]
    assert counts_in(figure) == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_class_called_none_is_read_as_a_name(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("index,actual,predicted\n0,None,NA\n")
    table = figures.read_table(path, {"actual": ("None", "NA"), "predicted": ("None", "NA")})
    assert (table["actual"].tolist(), table["predicted"].tolist()) == (["None"], ["NA"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file; run dvc repro, or"),
        (b"", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"a\n1\n", "is damaged"),
        (b"actual,loss\ncat,ten\n", "is damaged"),
        (b"actual,loss\ncow,1\n", "is damaged .column actual holds 'cow'."),
        (b"actual,loss\ncat\n", "is damaged .column loss has a gap."),
        (b"actual,loss\n", "has no rows"),
    ],
)
def test_a_damaged_table_is_told_with_what_to_do(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"table.csv: {words}.*(git restore|verify says how)"):
        figures.read_table(path, {"actual": ("cat",), "loss": None})


@pytest.mark.parametrize("colormap", get_args(FiguresSection.model_fields["colormap"].annotation))
def test_numbers_stand_out_from_every_colour(colormap: str) -> None:
    shares = np.linspace(0, 1, 11)
    rows = [
        (f"class {row:02d}", f"class {row if number < 100 * share else (row + 1) % 11:02d}")
        for row, share in enumerate(shares)
        for number in range(100)
    ]
    section = FiguresSection.model_validate({"dpi": 50, "colormap": colormap})
    figure = figures.draw_confusion(
        pd.DataFrame(rows, columns=["actual", "predicted"]), [f"class {row:02d}" for row in range(11)], section
    )
    (image,) = axes_of(figure).images
    array = np.asarray(image.get_array())
    for text in axes_of(figure).texts:
        column, row = map(round, text.get_position())
        behind = luminance(np.asarray(image.to_rgba(array[row, column]))[:3])
        front = {"black": 0.0, "white": 1.0}[str(text.get_color())]
        assert (max(front, behind) + 0.05) / (min(front, behind) + 0.05) >= 4.5, f"share {array[row, column]}"


def luminance(colour: np.ndarray) -> float:
    """Relative luminance as in the W3C's guidelines, which ask for a contrast of 4.5 at least."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_names_that_are_long_or_look_like_formulas_are_shown(tmp_path: Path) -> None:
    names = ["x" * 100, "a_$b$", "$$"]
    predictions = pd.DataFrame({"actual": names, "predicted": names})
    for figure in (figures.draw_confusion(predictions, names, SECTION), figures.draw_images(make_images(3), names)):
        figures.save(figure, tmp_path / "picture.png", SECTION)
    assert axes_of(figure, 0).get_title() == "x" * 17 + "…"
    assert axes_of(figure, 1).get_title() == "a_$b$"


@pytest.mark.parametrize("count", [1, 5, 6, 20])
def test_every_image_is_shown_under_its_name(count: int) -> None:
    images = make_images(count)
    figure = figures.draw_images(images, [f"name {number}" for number in range(count)])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"name {number}" for number in range(count)]
    for axes, image in zip(shown, images, strict=True):
        assert np.array_equal(np.asarray(axes.images[0].get_array()), image.transpose(1, 2, 0))
    assert not any(axes.axison for axes in figure.axes)

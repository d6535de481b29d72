"""The charts' specifications: what they hold, and that Vega-Lite takes them."""

from typing import Any

import pytest
import vl_convert

from lenet_cifar10 import charts, vega
from lenet_cifar10.results import Answer, ClassCount

HISTORY = [
    {"epoch": epoch, "train_loss": 2 / epoch, "validation_loss": 3 / epoch, "learning_rate": 0.1} for epoch in (1, 2, 3)
]
LOSS = charts.Curves("Loss", {"training": "train_loss", "validation": "validation_loss"})
RATE = charts.Curves("Rate", {"rate": "learning_rate"}, axis="~%", reading=".1%", from_zero=True)
ANSWERS = [
    Answer(0, "cat", "cat", 0.5),
    Answer(1, "cat", "dog", 0.5),
    Answer(2, "dog", "dog", 0.5),
    Answer(3, "dog", "dog", 0.5),
]
COUNTS = [ClassCount("cat", 2, 1), ClassCount("dog", 2, 2), ClassCount("bird", 0, 0)]
CALIBRATION = [{"confidence": 0.3, "accuracy": 0.25, "count": 40}, {"confidence": 0.9, "accuracy": 0.8, "count": 60}]


def draw_all(runs: int) -> dict[str, charts.Spec]:
    """Every chart, of so many runs."""
    names = [f"run {place}" for place in range(runs)]
    return {
        "curves": charts.draw_curves(dict.fromkeys(names, HISTORY), LOSS, "Loss.", 3),
        "one curve": charts.draw_curves(dict.fromkeys(names, HISTORY), RATE, "Rate.", 9),
        "confusion": charts.draw_confusion(ANSWERS, ["cat", "dog"], "Confusion."),
        "per class": charts.draw_per_class(dict.fromkeys(names, COUNTS), "By class."),
        "calibration": charts.draw_calibration(dict.fromkeys(names, CALIBRATION), "Calibration."),
    }


@pytest.mark.parametrize("runs", [1, 3])
def test_vega_lite_compiles_every_chart(runs: int) -> None:
    for name, spec in draw_all(runs).items():
        compiled = vl_convert.vegalite_to_vega(spec, vl_version=vega.VEGA_LITE)
        assert compiled["marks"], name
        assert compiled["description"] == spec["description"]


@pytest.mark.parametrize("name", draw_all(1))
def test_a_chart_is_as_wide_as_its_place_and_names_no_colour(name: str) -> None:
    spec = draw_all(2)[name]
    assert spec["width"] == "container"
    assert "#" not in str({key: value for key, value in spec.items() if key != "$schema"})


def lines_of(spec: charts.Spec) -> dict[str, Any]:
    return next(layer for layer in spec["layer"] if layer["mark"]["type"] == "line")


def test_the_first_of_two_curves_is_dashed() -> None:
    encoding = lines_of(draw_all(1)["curves"])["encoding"]
    assert encoding["strokeDash"]["scale"] == {"domain": ["training", "validation"], "range": [[6, 4], [1, 0]]}
    assert lines_of(draw_all(1)["one curve"])["encoding"]["strokeDash"]["scale"]["range"] == [[1, 0]]


def test_colours_are_for_the_curves_of_one_run_and_for_the_runs_of_several() -> None:
    assert lines_of(draw_all(1)["curves"])["encoding"]["color"]["field"] == "part"
    assert lines_of(draw_all(2)["curves"])["encoding"]["color"]["field"] == "run"


def test_a_run_keeps_its_colour_where_it_has_no_table() -> None:
    for spec in (
        charts.draw_curves({"old": [], "new": HISTORY}, LOSS, "", 3),
        charts.draw_per_class({"old": [], "new": COUNTS}, ""),
        charts.draw_calibration({"old": [], "new": CALIBRATION}, ""),
    ):
        assert "{'domain': ['old', 'new']}" in str(spec)


def test_curves_leave_room_for_the_epochs_to_come() -> None:
    spec = charts.draw_curves({"run": HISTORY}, LOSS, "", 20)
    scale = lines_of(spec)["encoding"]["x"]
    assert scale["scale"]["domain"] == [1, 20]
    assert scale["axis"]["values"] == [1, 5, 10, 15, 20]


@pytest.mark.parametrize(
    ("last", "ticks"),
    [
        (1, [1]),
        (2, [1, 2]),
        (7, [1, 2, 3, 4, 5, 6, 7]),
        (8, [1, 2, 4, 6, 8]),
        (10_000, [1, *range(2000, 10_001, 2000)]),
    ],
)
def test_epochs_are_counted_in_whole_round_numbers(last: int, ticks: list[int]) -> None:
    assert lines_of(charts.draw_curves({"run": []}, LOSS, "", last))["encoding"]["x"]["axis"]["values"] == ticks


def test_a_reading_tells_what_each_run_has_at_an_epoch() -> None:
    spec = charts.draw_curves({"long": HISTORY, "short": HISTORY[:1]}, LOSS, "", 3)
    reading = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "rule")
    tip = {"epoch": 3, "long, training": "0.6667", "long, validation": "1"}
    assert reading["data"]["values"][2]["tip"] == tip | {"short, training": "-", "short, validation": "-"}


def test_a_quantity_says_how_it_is_written_and_where_its_axis_starts() -> None:
    reading, line = charts.draw_curves({"run": HISTORY}, RATE, "", 3)["layer"]
    assert reading["data"]["values"][0]["tip"] == {"epoch": 1, "rate": "10.0%"}
    assert line["encoding"]["y"]["axis"]["format"] == "~%"
    assert line["encoding"]["y"]["scale"] == {"zero": True}


def test_a_long_training_has_a_bounded_number_of_readings() -> None:
    history = [HISTORY[0] | {"epoch": epoch} for epoch in range(1, 5001)]
    spec = charts.draw_curves({"run": history}, LOSS, "", 5000)
    reading = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "rule")
    assert 300 <= len(reading["data"]["values"]) <= charts.MOST_READINGS
    assert len(lines_of(spec)["data"]["values"]) == 10_000


def test_a_matrix_counts_every_pair_of_classes() -> None:
    cells = charts.draw_confusion(ANSWERS, ["cat", "dog", "bird"], "")["data"]["values"]
    found = {(cell["actual"], cell["predicted"]): (cell["images"], cell["share"]) for cell in cells}
    assert len(cells) == 9
    assert found["cat", "dog"] == (1, 0.5)
    assert found["dog", "dog"] == (2, 1.0)
    assert found["bird", "bird"] == (0, 0.0)


@pytest.mark.parametrize(("classes", "layers"), [(20, 3), (21, 1)])
def test_a_matrix_of_many_classes_is_not_numbered(classes: int, layers: int) -> None:
    names = [f"class {place}" for place in range(classes)]
    spec = charts.draw_confusion([], names, "")
    assert len(spec["layer"]) == layers
    assert spec["layer"][0]["encoding"]["x"]["axis"]["labelOverlap"] == (classes > 20)  # whether labels may be left out


def test_classes_have_their_accuracy_and_interval_the_best_above() -> None:
    spec = charts.draw_per_class({"run": COUNTS}, "")
    cat, dog = spec["data"]["values"]  # no image is a bird
    assert (cat["class"], cat["accuracy"], cat["images"]) == ("cat", 0.5, 2)
    assert cat["low"] < 0.5 < cat["high"]
    assert (dog["accuracy"], dog["high"]) == (1.0, pytest.approx(1.0))
    assert spec["encoding"]["y"]["sort"] == ["dog", "cat"]

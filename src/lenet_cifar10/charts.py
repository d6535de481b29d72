"""The page's charts: tables go in, Vega-Lite specifications come out, as plain dictionaries.

Each table belongs to a run, and an empty one stands for a run that has no such table, so that a run has the same
colour in every chart. Colours, fonts and lines are left to the page. A chart is as wide as its place in the page.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lenet_cifar10.results import Answer, ClassCount
from lenet_cifar10.statistics import wilson_interval

Row = Mapping[str, Any]
Table = Sequence[Row]
Spec = dict[str, Any]

DASHED, SOLID = [6, 4], [1, 0]
MOST_READINGS = 400  # along an axis: more would make the page slow
MOST_DOTS = 40  # on a line, one an epoch
MOST_NUMBERED_CLASSES = 20
HEIGHT = 280  # pixels


@dataclass(frozen=True)
class Curves:
    """Lines over the epochs: columns of a history by what they are called, of two the first dashed.

    `axis` is d3's format of the axis, `reading` Python's of one value.
    """

    title: str
    columns: Mapping[str, str]
    axis: str = "~g"
    reading: str = ".4g"
    from_zero: bool = False


def draw_curves(histories: Mapping[str, Table], curves: Curves, description: str, last_epoch: int) -> Spec:
    """The curves of every run up to `last_epoch`, with what they are where the pointer is."""
    epoch = {
        "field": "epoch",
        "type": "quantitative",
        "title": "epoch",
        "axis": {"values": _ticks(last_epoch), "format": ",d", "grid": False},
        "scale": {"domain": [1, max(last_epoch, 2)], "nice": False},
    }
    return _chart(description, [_reading_layer(histories, curves, epoch), _line_layer(histories, curves, epoch)])


def _reading_layer(histories: Mapping[str, Table], curves: Curves, epoch: Spec) -> Spec:
    tables = {run: {row["epoch"]: row for row in history} for run, history in histories.items()}
    epochs = sorted({number for table in tables.values() for number in table})
    lines = {
        part if len(tables) == 1 else run if len(curves.columns) == 1 else f"{run}, {part}": (table, column)
        for run, table in tables.items()
        for part, column in curves.columns.items()
    }
    readings = [
        {"epoch": number}
        | {
            title: format(table[number][column], curves.reading) if number in table else "-"
            for title, (table, column) in lines.items()
        }
        for number in epochs[:: -(-len(epochs) // MOST_READINGS) or 1]
    ]
    nearest = {"type": "point", "on": "pointerover", "clear": "pointerout", "fields": ["epoch"], "nearest": True}
    return {
        "data": {"values": [{"epoch": reading["epoch"], "tip": reading} for reading in readings]},
        "params": [{"name": "reading", "select": nearest}],
        # The nearest rule's datum is that of an invisible cell around it.
        "mark": {"type": "rule", "style": "reading", "aria": False, "tooltip": {"expr": "(datum.datum || datum).tip"}},
        "encoding": {
            "x": epoch,
            "opacity": {"condition": {"param": "reading", "empty": False, "value": 1}, "value": 0},
        },
    }


def _line_layer(histories: Mapping[str, Table], curves: Curves, epoch: Spec) -> Spec:
    points = [
        {"run": run, "part": part, "epoch": row["epoch"], "value": row[column]}
        for run, history in histories.items()
        for part, column in curves.columns.items()
        for row in history
    ]
    parts = list(curves.columns)
    is_sparse = max(map(len, histories.values())) <= MOST_DOTS
    return {
        "data": {"values": points},
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 18} if is_sparse else False},
        "encoding": {
            "x": epoch,
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": None,
                "axis": {"format": curves.axis, "tickCount": 6},
                "scale": {"zero": curves.from_zero},
            },
            "color": _colour("run", list(histories)) if len(histories) > 1 else _colour("part", parts),
            "strokeDash": {
                "field": "part",
                "type": "nominal",
                "scale": {"domain": parts, "range": [DASHED, SOLID][-len(parts) :]},
                "legend": None,
            },
            "detail": {"field": "run", "type": "nominal"},
        },
    }


def draw_confusion(answers: Sequence[Answer], names: Sequence[str], description: str) -> Spec:
    """A matrix of actual against predicted classes, shaded by the share of the actual class, numbered by images.

    It is as high as its place, too.
    """
    counts = Counter((answer.actual, answer.predicted) for answer in answers)
    totals = Counter(answer.actual for answer in answers)
    cells = [
        {
            "actual": actual,
            "predicted": predicted,
            "images": counts[actual, predicted],
            "share": counts[actual, predicted] / max(totals[actual], 1),
        }
        for actual in names
        for predicted in names
    ]
    labels = {"labelOverlap": len(names) > MOST_NUMBERED_CLASSES}
    place = {
        axis: {"field": field, "type": "nominal", "sort": list(names), "title": field, "axis": labels | settings}
        for axis, field, settings in (("x", "predicted", {"labelAngle": -45}), ("y", "actual", {}))
    }
    # The root lets the few mistakes of a good network be told apart.
    shade = {"field": "share", "type": "quantitative", "legend": None}
    shade["scale"] = {"type": "pow", "exponent": 0.5, "domain": [0, 1]}
    tooltip = [
        {"field": "actual", "type": "nominal"},
        {"field": "predicted", "type": "nominal"},
        {"field": "images", "type": "quantitative", "format": ","},
        {"field": "share", "type": "quantitative", "title": "share of the class", "format": ".1%"},
    ]
    layers: list[Spec] = [{"mark": "rect", "encoding": {**place, "color": shade, "tooltip": tooltip}}]
    if len(names) <= MOST_NUMBERED_CLASSES:
        for style, test in (("low-cell", "datum.share < 0.3"), ("high-cell", "datum.share >= 0.3")):
            numbers = {
                "type": "text",
                "style": style,
                "fontSize": {"expr": "clamp(bandwidth('x') / 2.7, 5, 13)"},
                "tooltip": None,
            }
            seen = {"condition": {"test": "datum.images === 0", "value": 0.35}, "value": 1}
            text = {"field": "images", "type": "quantitative"}
            layers.append(
                {
                    "transform": [{"filter": test}],
                    "mark": numbers,
                    "encoding": {**place, "text": text, "opacity": seen},
                }
            )
    return _chart(description, layers, data=cells, height="container")


def draw_per_class(counts: Mapping[str, Sequence[ClassCount]], description: str) -> Spec:
    """The accuracy of each class with its 95 % interval (Wilson), the best class of the first run above."""
    rows, shares = [], dict[str, float]()
    for run, classes in counts.items():
        for found in classes:
            if found.count:
                interval = wilson_interval(found.right, found.count)
                row = {"run": run, "class": found.name, "accuracy": found.right / found.count}
                row |= {"low": interval.low, "high": interval.high, "images": found.count}
                rows.append(row | {"interval": f"{interval.low:.1%} to {interval.high:.1%}"})
                shares.setdefault(found.name, found.right / found.count)
    order = sorted(shares, key=lambda name: -shares[name])
    share = {"type": "quantitative", "title": "accuracy", "scale": {"zero": False}}
    share["axis"] = {"format": ".0%", "tickCount": 6}
    encoding: Spec = {
        "y": {"field": "class", "type": "nominal", "sort": order, "title": None, "axis": {"grid": True}},
        "color": _colour("run", list(counts)),
    }
    if len(counts) > 1:
        encoding["yOffset"] = {"field": "run", "type": "nominal", "scale": {"domain": list(counts)}, "sort": None}
    tooltip = [
        *([{"field": "run", "type": "nominal"}] if len(counts) > 1 else []),
        {"field": "class", "type": "nominal"},
        {"field": "accuracy", "type": "quantitative", "format": ".1%"},
        {"field": "interval", "type": "nominal", "title": "95 % interval"},
        {"field": "images", "type": "quantitative", "format": ","},
    ]
    interval = {"x": {"field": "low", **share}, "x2": {"field": "high"}, "tooltip": tooltip}
    layers = [
        {"mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6}, "encoding": interval},
        {
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
            "encoding": {"x": {"field": "accuracy", **share}, "tooltip": tooltip},
        },
    ]
    return _chart(description, layers, data=rows, height=len(order) * (14 + 11 * len(counts)), encoding=encoding)


def draw_calibration(calibrations: Mapping[str, Table], description: str) -> Spec:
    """Accuracy against confidence, a point for each bin, larger with more images; the diagonal is exact calibration."""
    rows = [{"run": run, **row} for run, table in calibrations.items() for row in table]
    ends = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": {"format": ".0%", "tickCount": 5}}
    x = {"field": "confidence", "title": "mean confidence", **ends}
    y = {"field": "accuracy", "title": "accuracy", **ends}
    tooltip = [
        *([{"field": "run", "type": "nominal"}] if len(calibrations) > 1 else []),
        {"field": "confidence", "type": "quantitative", "title": "mean confidence", "format": ".1%"},
        {"field": "accuracy", "type": "quantitative", "format": ".1%"},
        {"field": "count", "type": "quantitative", "title": "images", "format": ","},
    ]
    colour = _colour("run", list(calibrations))
    size = {"field": "count", "type": "quantitative", "legend": None, "scale": {"range": [24, 320]}}
    diagonal = [{"confidence": end, "accuracy": end} for end in (0, 1)]
    layers = [
        {"data": {"values": diagonal}, "mark": {"type": "line", "style": "reference"}, "encoding": {"x": x, "y": y}},
        {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"x": x, "y": y, "color": colour}},
        {
            "mark": {"type": "point", "filled": True, "opacity": 0.9},
            "encoding": {"x": x, "y": y, "color": colour, "size": size, "tooltip": tooltip},
        },
    ]
    return _chart(description, layers, data=rows)


def _colour(field: str, domain: Sequence[str]) -> Spec:
    # A domain of its own keeps a run's colour where the run has no data; the page has the key.
    return {"field": field, "type": "nominal", "scale": {"domain": list(domain)}, "legend": None}


def _ticks(last: int) -> list[int]:
    """The first epoch, and about six round ones."""
    steps = (base * 10**power for power in range(12) for base in (1, 2, 5))
    step = next(step for step in steps if last / step <= 7)
    return sorted({1, *range(step, last + 1, step)})


def _chart(
    description: str,
    layers: Sequence[Spec],
    data: Table | None = None,
    height: int | str = HEIGHT,
    encoding: Spec | None = None,
) -> Spec:
    spec: Spec = {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "description": description}
    fit = "fit" if height == "container" else "fit-x"
    spec |= {"width": "container", "height": height, "autosize": {"type": fit, "contains": "padding"}}
    if data is not None:
        spec["data"] = {"values": list(data)}
    if encoding is not None:
        spec["encoding"] = encoding
    return spec | {"layer": list(layers)}

"""Runs become one page of HTML that needs nothing outside of itself: figures, charts, pictures."""

import base64
import hashlib
import json
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath
from string import Template
from typing import Any

from lenet_cifar10 import charts, vega
from lenet_cifar10.charts import Curves, Spec, Table
from lenet_cifar10.results import Answer, ClassCount, count_right

MOST_RUNS = 6  # so many colours can be told apart
CURVES = (
    Curves("Loss (cross-entropy)", {"training": "train_loss", "validation": "validation_loss"}),
    Curves("Accuracy", {"training": "train_accuracy", "validation": "validation_accuracy"}, "~%", ".2%"),
    Curves("Learning rate", {"learning rate": "learning_rate"}, from_zero=True),
)


@dataclass(frozen=True)
class Run:
    """What there is of a run. Tables, figures and pictures that are not there yet are empty.

    `test` is as `results.parse_test_figures` reads it; the pictures are files by their names.
    """

    name: str
    params: Mapping[str, Any]
    history: Table
    is_trained: bool
    test: Mapping[str, Any]
    predictions: Sequence[Answer]
    calibration: Table
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Caption:
    """What stands above a picture, and what it says to those who do not see it."""

    title: str
    alternative: str


@dataclass(frozen=True)
class Figure:
    """A number as it is shown, with what stands in small print below it."""

    value: str
    detail: str = ""


@dataclass(frozen=True)
class Card:
    """A chart under its heading, or a line that says why it is not there."""

    title: str
    spec: Spec | None
    note: str = ""
    key: str = ""
    shape: str = ""


def render(runs: Sequence[Run], captions: Mapping[str, Caption], refresh_seconds: int = 0) -> str:
    """A page of HTML about one run or several, up to `MOST_RUNS`, side by side; with seconds, it loads itself again.

    Whatever the runs hold is text there and nothing else: the page's security policy lets only its own script run and
    nothing be fetched.
    """
    training, test = _training_cards(runs), _test_cards(runs)
    specs = [card.spec for card in (*training, *test) if card.spec is not None]
    title = escape(f"{', '.join(run.name for run in runs)} \N{MIDDLE DOT} LeNet on CIFAR-10")
    script = f"{vega.bundle()}\n{vega.template('theme.js')}\n{vega.template('page.js')}"
    pictures = _pictures(runs, captions)
    sections = [
        f"<h2>Training</h2>\n{_grid(training, 'grid level')}",
        f"<h2>Test</h2>\n{_grid(test, 'grid halves')}",
        f"<h2>Pictures</h2>\n{pictures}",
    ]
    return Template(vega.template("page.html")).substitute(
        refresh=f' data-refresh="{refresh_seconds}"' if refresh_seconds else "",
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=title,
        style=vega.template("theme.css") + vega.template("page.css"),
        script=script,
        header=_header(runs),
        sections="\n".join(sections),
        # In a script element only "<" could end it.
        specs=json.dumps(specs, allow_nan=False).replace("<", "\\u003c"),
    )


def _header(runs: Sequence[Run]) -> str:
    names = " <small>and</small> ".join(escape(run.name) for run in runs)
    states = "".join(
        f'<p class="status">{escape(_prefix(run, runs) + state)}</p>\n' for run in runs if (state := _state(run))
    )
    figures = _tiles(runs[0]) if len(runs) == 1 else _comparison(runs)
    return f'<header>\n<p class="note">LeNet on CIFAR-10</p>\n<h1>{names}</h1>\n{states}{figures}\n</header>'


def _state(run: Run) -> str:
    if run.is_trained:
        return "" if run.test else "Trained; not evaluated yet"
    if not run.history:
        return "No epoch has ended yet; dvc repro trains"
    return f"Epoch {len(run.history)} of {_planned(run)} so far"


def _planned(run: Run) -> int:
    planned = run.params.get("train.epochs")
    return planned if isinstance(planned, int) else len(run.history)


def _figures(run: Run) -> dict[str, Figure]:
    """The figures of a run that are there, by what they are called."""
    test, figures = {name: value for name, value in run.test.items() if value is not None}, {}
    if test:
        has_interval = "accuracy_low" in test and "accuracy_high" in test
        interval = f"{_percent(test['accuracy_low'])} to {_percent(test['accuracy_high'])}" if has_interval else ""
        figures["Test accuracy"] = Figure(_percent(test["accuracy"]), interval)
    if "accuracy_with_flips" in test:
        figures["Test accuracy with flips"] = Figure(_percent(test["accuracy_with_flips"]))
    if "loss" in test:
        figures["Test loss"] = Figure(f"{test['loss']:.4f}")
    if "expected_calibration_error" in test:
        figures["Calibration error"] = Figure(_percent(test["expected_calibration_error"]), "expected, on the test set")
    if run.history:
        last = run.history[-1]
        figures["Validation accuracy"] = Figure(
            _percent(last["validation_accuracy"]), f"training {_percent(last['train_accuracy'])}"
        )
        figures["Validation loss"] = Figure(f"{last['validation_loss']:.4f}", f"training {last['train_loss']:.4f}")
        figures["Epochs"] = Figure(f"{len(run.history):,}", "" if run.is_trained else f"of {_planned(run):,}")
    if "seed" in run.params:
        figures["Seed"] = Figure(str(run.params["seed"]))
    return figures


def _tiles(run: Run) -> str:
    tiles = [
        f"<div><dt>{escape(label)}</dt><dd>{escape(figure.value)}</dd>"
        + (f"<dd>{escape(figure.detail)}</dd>" if figure.detail else "")
        + "</div>"
        for label, figure in _figures(run).items()
    ]
    rows = "\n".join(_row(name, [_show(value)]) for name, value in run.params.items())
    params = f'<details><summary>Parameters</summary>\n<div class="wide"><table>\n{rows}\n</table></div></details>'
    return f'<dl class="figures">\n{"".join(tiles)}\n</dl>\n{params}'


def _comparison(runs: Sequence[Run]) -> str:
    """The figures of several runs, a column each, and the parameters that differ."""
    figures = [_figures(run) for run in runs]
    labels = dict.fromkeys(label for each in figures for label in each if label != "Seed")
    rows = [
        _row(label, [_cell(each[label]) if label in each else "\N{EN DASH}" for each in figures]) for label in labels
    ]
    names = dict.fromkeys(name for run in runs for name in run.params)
    values = {
        name: [_show(run.params[name]) if name in run.params else "\N{EN DASH}" for run in runs] for name in names
    }
    differing = [_row(name, cells) for name, cells in values.items() if len(set(cells)) > 1]
    heads = "".join(f"<th>{_swatch(place)}{escape(run.name)}</th>" for place, run in enumerate(runs, 1))
    told = "Parameters that differ" if differing else "No parameter differs"
    return (
        f'<div class="wide"><table>\n<thead><tr><th>Run</th>{heads}</tr></thead>\n<tbody>\n{"".join(rows)}'
        f'<tr><th colspan="{len(runs) + 1}">{told}</th></tr>\n{"".join(differing)}</tbody>\n</table></div>'
    )


def _row(label: str, cells: Sequence[str]) -> str:
    return f"<tr><th>{escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _cell(figure: Figure) -> str:
    detail = f'<span class="note">{escape(figure.detail)}</span>' if figure.detail else ""
    return escape(figure.value) + detail


def _show(value: object) -> str:
    """A parameter's value, as HTML."""
    return escape(json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else value)


def _training_cards(runs: Sequence[Run]) -> list[Card]:
    histories = {run.name: run.history for run in runs}
    longest = max((len(history) for history in histories.values()), default=0)
    if longest == 0:
        return [Card(curves.title, None, "It comes with the first epoch.") for curves in CURVES]
    # A curve grows into the room that its training will need.
    last_epoch = max([longest, *(_planned(run) for run in runs if run.history and not run.is_trained)])
    missing = _not_there([run.name for run in runs if not run.history])
    cards = []
    for curves in CURVES:
        last = "; ".join(
            f"{run.name}: "
            + ", ".join(f"{part} {run.history[-1][name]:{curves.reading}}" for part, name in curves.columns.items())
            for run in runs
            if run.history
        )
        description = f"{curves.title} over {longest} epochs. At the end {last}."
        spec = charts.draw_curves(histories, curves, description, last_epoch)
        cards.append(Card(curves.title, spec, missing, _curves_key(runs, list(curves.columns))))
    return cards


def _test_cards(runs: Sequence[Run]) -> list[Card]:
    if not any(run.predictions for run in runs):
        later = "It comes when the trained network has been evaluated."
        return [Card(title, None, later) for title in ("Confusion", "Accuracy by class", "Calibration")]
    names = list(dict.fromkeys(name for run in runs for name in _class_names(run)))
    counts = {
        run.name: count_right(((answer.actual, answer.predicted) for answer in run.predictions), names) for run in runs
    }
    return [*_confusion_cards(runs, names, counts), _per_class_card(runs, counts), _calibration_card(runs)]


def _confusion_cards(
    runs: Sequence[Run], names: Sequence[str], counts: Mapping[str, Sequence[ClassCount]]
) -> list[Card]:
    scored = [run for run in runs if run.predictions]
    shape = "matrix tall" if len(scored) == 1 else "matrix"
    cards = []
    for run in scored:
        right = sum(found.right for found in counts[run.name])
        told = f"{right:,} of {len(run.predictions):,} test images right"
        spec = charts.draw_confusion(run.predictions, names, f"Confusion matrix{_of(run, runs)}: {told}.")
        note = f"{told}; shaded by the share of the actual class."
        cards.append(Card("Confusion" + _of(run, runs), spec, note, shape=shape))
    return cards


def _per_class_card(runs: Sequence[Run], counts: Mapping[str, Sequence[ClassCount]]) -> Card:
    extremes = " ".join(_extremes(run.name, counts[run.name]) for run in runs if run.predictions)
    spec = charts.draw_per_class(counts, f"Test accuracy by class with 95 % intervals. {extremes}")
    missing = _not_there([run.name for run in runs if not run.predictions])
    return Card("Accuracy by class", spec, f"With 95 % intervals (Wilson). {missing}".strip(), _runs_key(runs))


def _calibration_card(runs: Sequence[Run]) -> Card:
    if not any(run.calibration for run in runs):
        return Card("Calibration", None, "This run has no table of it.")
    spec = charts.draw_calibration(
        {run.name: run.calibration for run in runs},
        "Accuracy against mean confidence of the test images, in bins of like confidence, beside the diagonal.",
    )
    missing = _not_there([run.name for run in runs if not run.calibration])
    note = f"A point for each bin, larger with more images; on the dashed line confidence is exact. {missing}".strip()
    return Card("Calibration", spec, note, _runs_key(runs))


def _class_names(run: Run) -> list[str]:
    """In the order of their labels, which test figures keep."""
    known = list(run.test.get("per_class", ()))
    seen = {name for answer in run.predictions for name in (answer.actual, answer.predicted)}
    return [*(name for name in known if name in seen), *sorted(seen - set(known))]


def _extremes(run: str, counts: Sequence[ClassCount]) -> str:
    shares = {found.name: found.right / found.count for found in counts if found.count}
    best, worst = max(shares, key=lambda name: shares[name]), min(shares, key=lambda name: shares[name])
    return f"{run}: best {best} with {_percent(shares[best], 1)}, worst {worst} with {_percent(shares[worst], 1)}."


def _pictures(runs: Sequence[Run], captions: Mapping[str, Caption]) -> str:
    """The pictures in the order of their captions, then the others; one that all runs share stands there once."""
    found = {name for run in runs for name in run.pictures}
    names = [*(name for name in captions if name in found), *sorted(found - set(captions))]
    if not names:
        return '<p class="note">They come last, with the stage figures of dvc repro.</p>'
    cards = []
    for name in names:
        stem = PurePosixPath(name).stem.replace("_", " ")
        caption = captions.get(name, Caption(stem.capitalize(), f"The picture {name}"))
        owners = [run for run in runs if name in run.pictures]
        is_shared = len(owners) == len(runs) and len({run.pictures[name] for run in owners}) == 1
        versions = [
            "<figure>"
            + ("" if is_shared else f"<figcaption>{escape(run.name)}</figcaption>")
            + _image(name, run.pictures[name], caption.alternative + ("" if is_shared else _of(run, runs)))
            + "</figure>"
            for run in (owners[:1] if is_shared else owners)
        ]
        note = '<p class="note">The same in all runs.</p>' if is_shared and len(runs) > 1 else ""
        whole = "" if len(runs) == 1 or is_shared else " whole"
        cards.append(
            f'<section class="card{whole}"><h3>{escape(caption.title)}</h3>{note}'
            f'<div class="versions">{"".join(versions)}</div></section>'
        )
    return f'<div class="pictures">\n{"".join(cards)}\n</div>'


def _image(name: str, content: bytes, alternative: str) -> str:
    kind = mimetypes.guess_type(name)[0] or "image/png"
    return f'<img alt="{escape(alternative)}" src="data:{kind};base64,{base64.b64encode(content).decode()}">'


def _grid(cards: Sequence[Card], kind: str) -> str:
    return f'<div class="{kind}">\n{"".join(_card(card) for card in cards)}</div>'


def _card(card: Card) -> str:
    note = f'<p class="note">{escape(card.note)}</p>' if card.note else ""
    chart = f'<div class="chart" role="img" aria-label="{escape(card.spec["description"])}"></div>' if card.spec else ""
    return f'<section class="card {card.shape}"><h3>{escape(card.title)}</h3>{card.key}{note}{chart}</section>\n'


def _curves_key(runs: Sequence[Run], parts: Sequence[str]) -> str:
    if len(runs) > 1:
        lines = [("dashed", 0, parts[0]), ("", 0, parts[1])] if len(parts) > 1 else []
        return _key([*lines, *(("", place, run.name) for place, run in enumerate(runs, 1))])
    return _key([("dashed", 1, parts[0]), ("", 2, parts[1])]) if len(parts) > 1 else ""


def _runs_key(runs: Sequence[Run]) -> str:
    return _key([("", place, run.name) for place, run in enumerate(runs, 1)]) if len(runs) > 1 else ""


def _key(entries: Sequence[tuple[str, int, str]]) -> str:
    lines = "".join(f"<li>{_swatch(place, style)}{escape(label)}</li>" for style, place, label in entries)
    return f'<ul class="key">{lines}</ul>'


def _swatch(place: int, style: str = "") -> str:
    """A short piece of line in a run's colour, or in none for 0."""
    return f'<span class="swatch {style} series-{place}"></span>'


def _of(run: Run, runs: Sequence[Run]) -> str:
    return f", {run.name}" if len(runs) > 1 else ""


def _prefix(run: Run, runs: Sequence[Run]) -> str:
    return f"{run.name}: " if len(runs) > 1 else ""


def _not_there(names: Sequence[str]) -> str:
    return f"Not there yet: {', '.join(names)}." if names else ""


def _percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"

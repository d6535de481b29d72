"""Write one page with the figures, charts and pictures of runs."""

import base64
import json
import mimetypes
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lenet_cifar10.common.console import say
from lenet_cifar10.common.stage import UserError

PAGE = "dvc_plots/report.html"  # beside DVC's own page, where Git ignores it
TRAIN, TEST, HISTORY, IMAGES = "metrics/train.json", "metrics/test.json", "plots/history.csv", "plots/images"
WATCHED = ("params.yaml", "dvc.lock", "metrics", "plots", IMAGES)
CHARTED = {"calibration", "curves", "per_class"}  # pictures that show what charts show
TITLES = {
    "augmentation": "Training images as they are, and as the network sees them",
    "confusion": "Confusion matrix in images: actual against predicted classes",
    "mistakes": "The most confident mistakes on the test set",
}
SEED = "Seed"  # a figure of one run; beside others it is one of the parameters
COLOURS = 6  # as many as the page has, and people can tell apart
SECONDS = 3  # between two looks at the files, and between two loads of the page


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it, with what stands in small print below it."""

    value: str
    detail: str = ""


@dataclass(frozen=True)
class Run:
    """What the page shows of a revision; `hidden` are the files that are of an earlier training."""

    number: int
    name: str
    commit: str
    data: str
    device: str
    state: str
    figures: dict[str, Figure]
    params: dict[str, Any]
    hidden: tuple[str, ...]


def page(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(help="Commits, branches, tags, experiments or workspace; without them, the workspace."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help=f"The file to write; without it, {PAGE}.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again when a file changes, until Ctrl-C.")] = False,
) -> None:
    """Write one page with the figures, charts and pictures of a run, or of several side by side.

    The page is one file that needs no network: open it anywhere, send it to anyone. Its charts are those that
    dvc.yaml defines.

    With --watch the page is written again whenever a file of the workspace changes, and reloads itself every few
    seconds: curves grow while training runs.

    \b
    Examples:
      lenet-cifar10 page
      lenet-cifar10 page main short workspace
      lenet-cifar10 page --watch
    """
    from lenet_cifar10.experiments.revisions import WORKSPACE, project_root

    # The workspace first, as in DVC's charts: colours go by this order.
    names = sorted(dict.fromkeys(revisions or [WORKSPACE]), key=lambda name: name != WORKSPACE)
    if len(names) > COLOURS:
        raise UserError(f"found {len(names)} revisions, expected at most {COLOURS}, a colour each; name fewer")
    if watch and WORKSPACE not in names:
        raise UserError(f"--watch: {', '.join(names)} never change; name workspace too, or leave --watch out")
    path = (output or project_root() / PAGE).resolve()
    if watch:
        _watch(path, names)
    _write(path, names)
    say(path.as_uri())


def _watch(path: Path, names: list[str]) -> None:
    """Write the page when a file has changed, until Ctrl-C."""
    from lenet_cifar10.experiments.revisions import project_root

    signal.signal(signal.SIGINT, signal.default_int_handler)  # the usual end, not an error
    seen, root = None, project_root()
    try:
        while True:
            folders = [root / name for name in WATCHED]
            files = sorted(file for folder in folders for file in (folder, *folder.glob("*")) if file.is_file())
            state = [(file, file.stat().st_mtime_ns) for file in files if file.exists()]
            if state != seen:
                try:
                    _write(path, names, SECONDS)
                    if seen is None:
                        say(f"{path.as_uri()}\nwritten again when a file changes, until Ctrl-C")
                except UserError as error:  # a file may change while it is read: the page stays as it was
                    say(f"waiting: {error}")
                seen = state
            time.sleep(SECONDS)
    except KeyboardInterrupt:
        return


def _write(path: Path, names: list[str], refresh_seconds: int = 0) -> None:
    from lenet_cifar10.commands.html import render
    from lenet_cifar10.common.files import atomic_write
    from lenet_cifar10.experiments.revisions import differing_params

    runs = [_read_run(number, name) for number, name in enumerate(names, 1)]
    data = {run.data for run in runs}
    heading = f"LeNet on {data.pop()}" if len(data) == 1 and not any("," in one for one in data) else "LeNet"
    charts, pictures = _draw(runs)
    html = render(
        "page.html",
        heading=heading,
        runs=runs,
        labels=list(dict.fromkeys(label for run in runs for label in run.figures if label != SEED)),
        params=differing_params([run.params for run in runs]),
        charts=charts,
        pictures=pictures,
        refresh_seconds=refresh_seconds,
    )
    atomic_write(path, html)


def _read_run(number: int, name: str) -> Run:
    """What a revision has of a run, without test figures, charts and pictures of an earlier training.

    While a stage runs, its own outputs are gone, but those of later stages are still there. When it has run, dvc.lock
    shows which of the later stages have read something else.
    """
    from lenet_cifar10.experiments import revisions

    lock, train, test = revisions.read_lock(name), _read_json(TRAIN, name), _read_json(TEST, name)
    is_tested = bool(train and test) and not revisions.outdated_inputs(lock, "evaluate")
    is_reported = is_tested and not revisions.outdated_inputs(lock, "report")
    params, is_trained = revisions.read_params(name), bool(train)
    if train:  # dvc.lock knows no training that still runs
        params |= revisions.params_of_run(lock)
    state = "" if is_tested else "trained, not evaluated yet"
    if not train and (last := _last_epoch(name)):
        state = f"epoch {last.pop('epoch'):g} of {params.get('train.epochs')} so far"
        train = last
    elif not train:
        state = "not trained yet"
    commit = " of ".join(revisions.commit_of(name) or ())
    return Run(
        number=number,
        name=name,
        commit=f"based on {commit}" if commit and name == revisions.WORKSPACE else commit,
        data=revisions.describe_data(name),
        device=revisions.describe_device(name) if is_trained else "",
        state=state,
        figures=_figures(train, test if is_tested else {}, params),
        params=params,
        hidden=(
            *(() if is_tested else ("plots/predictions.csv", "plots/per_class.csv", "plots/calibration.csv")),
            *(() if is_reported else (IMAGES,)),
        ),
    )


def _read_json(path: str, revision: str) -> dict[str, Any]:
    from lenet_cifar10.common.files import parse_json
    from lenet_cifar10.experiments.revisions import MissingFileError, describe, read_file

    try:
        return parse_json(read_file(path, revision), describe(path, revision))
    except MissingFileError:
        return {}


def _last_epoch(revision: str) -> dict[str, Any]:
    """The last row of a history that still grows."""
    from lenet_cifar10.common.files import parse_table
    from lenet_cifar10.experiments.revisions import MissingFileError, describe, read_file

    try:
        history = parse_table(read_file(HISTORY, revision), describe(HISTORY, revision), ["epoch"])
    except MissingFileError:
        return {}
    return history.drop(columns="learning_rate", errors="ignore").iloc[-1].to_dict()


def _figures(train: dict[str, Any], test: dict[str, Any], params: dict[str, Any]) -> dict[str, Figure]:
    """The figures of a run, by what they are called; the ends of an interval stand below its figure."""
    figures = {}
    for key, value in sorted((test | train).items(), key=lambda item: "loss" in item[0]):
        if key.endswith(("_low", "_high")) or key.startswith("train_"):
            continue
        detail = ""
        if {f"{key}_low", f"{key}_high"} <= test.keys():
            detail = f"{_show(key, test[f'{key}_low'])} to {_show(key, test[f'{key}_high'])}"
        elif (training := key.replace("validation", "train")) != key and training in train:
            detail = f"training {_show(key, train[training])}"
        figures[key.replace("_", " ").capitalize()] = Figure(_show(key, value), detail)
    if "seed" in params:
        figures[SEED] = Figure(str(params["seed"]))
    return figures


def _show(key: str, value: object) -> str:
    """Losses to four digits; other fractions as percentages."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if "loss" in key else f"{100 * value:.2f}\N{NO-BREAK SPACE}%"


def _draw(runs: list[Run]) -> tuple[list[dict[str, Any]], dict[str, list[tuple[str, str]]]]:
    """The charts and pictures of all runs that `dvc plots` has; those of an earlier training are left out.

    Raises:
        UserError: DVC cannot draw them, such as for a damaged table.
    """
    from lenet_cifar10.experiments.revisions import WORKSPACE, project_root

    names = [run.name for run in runs]
    # Without a second revision `diff` would take the workspace as well.
    words = ["show"] if names == [WORKSPACE] else ["diff", *(names if len(names) > 1 else names * 2)]
    charts: list[dict[str, Any]] = []
    pictures: dict[str, list[tuple[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dvc", "plots", *words, "--json", "--out", folder]
        result = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"dvc plots {' '.join(words)}: {' '.join(result.stderr.split())}")
        drawn = json.loads(result.stdout)
        for error in drawn.get("errors", []):
            if error["type"] != "FileNotFoundError" and error["name"] != IMAGES:  # a folder that is not there
                message = " ".join(error["msg"].split())
                raise UserError(
                    f"{error['name']} in {error['rev']}: {message}; run dvc repro, or name another revision"
                )
        for name, versions in drawn["data"].items():
            hiding = {run.name for run in runs if name.startswith(run.hidden)}
            stem = Path(name).stem
            for version in versions:
                shown = [revision for revision in version["revisions"] if revision not in hiding]
                if version["type"] == "vega" and shown:
                    charts.append(_chart(version["content"], shown))
                elif version["type"] == "image" and shown and stem not in CHARTED:
                    title = TITLES.get(stem, stem.replace("_", " ").capitalize())
                    pictures.setdefault(title, []).append((shown[0], _data_url(Path(version["url"]))))
    return charts, pictures


def _chart(spec: dict[str, Any], revisions: list[str]) -> dict[str, Any]:
    """A chart of these revisions only; its title becomes the heading above it."""
    spec["data"]["values"] = [row for row in spec["data"]["values"] if row["rev"] in revisions]
    title = spec.pop("title", {}).get("text", "")
    return {"title": title, "spec": spec, "is_wide": "facet" in spec and len(revisions) > 1}


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

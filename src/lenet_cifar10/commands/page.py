"""Write one page with the figures, charts and pictures of runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError

if TYPE_CHECKING:
    from lenet_cifar10.page import Run

PAGE = Path("dvc_plots/report.html")  # where dvc plots writes too, and Git ignores it
TRAIN, TEST, PICTURES = "metrics/train.json", "metrics/test.json", "plots/images/"
HISTORY, PREDICTIONS, CALIBRATION = "plots/history.csv", "plots/predictions.csv", "plots/calibration.csv"
CURVES = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
POLL_SECONDS, REFRESH_SECONDS = 1.0, 3

# Those that show what no chart shows come first.
CAPTIONS = {
    "augmentation.png": ("Augmentation", "Training images as they are and as the network sees them"),
    "mistakes.png": ("Confident mistakes", "The wrongly classified test images of the highest confidence"),
    "curves.png": ("Curves", "Loss and accuracy over the epochs, as in the charts above"),
    "confusion.png": ("Confusion", "Actual against predicted classes, as in the chart above"),
    "per_class.png": ("Accuracy by class", "Test accuracy of each class with its interval, as in the chart above"),
    "calibration.png": ("Calibration", "Accuracy against confidence, as in the chart above"),
}


def page(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(help="Commits, branches, tags or experiments to compare; without them, the workspace."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again whenever a file changes, until Ctrl-C.")
    ] = False,
) -> None:
    """Write one page with the figures, charts and pictures of a run, or of several side by side.

    The page, dvc_plots/report.html, is one file that needs no network: open it anywhere, send it to anyone. What is not
    there yet, while training runs, is said in its place.

    With --watch the page is written anew whenever a file of the workspace changes, and it loads itself again every
    few seconds. Ctrl-C writes it a last time, without that, and ends with status 0.

    \b
    Examples:
      lenet-cifar10 page
      lenet-cifar10 page main short workspace
      lenet-cifar10 page --watch
    """
    from lenet_cifar10.page import MOST_RUNS
    from lenet_cifar10.revisions import WORKSPACE, project_root

    names = list(dict.fromkeys(revisions or [WORKSPACE]))
    if len(names) > MOST_RUNS:
        raise UserError(
            f"found {len(names)} revisions, expected {MOST_RUNS} at most: so many colours can be told apart"
        )
    path = project_root() / PAGE
    if watch:
        _watch(path, names)
    else:
        _write(path, [_read(name) for name in names])
        terminal.say(path.as_uri())


def _watch(path: Path, names: list[str]) -> None:
    """Keep the page up to date until Ctrl-C. Only the workspace changes; commits and experiments stay as they are."""
    import time

    from lenet_cifar10.revisions import WORKSPACE

    kept = {name: _read(name) for name in names if name != WORKSPACE}
    shown, told = None, ""
    try:
        while True:
            try:
                runs = [kept.get(name) or _read(name) for name in names]
            except UserError as error:  # a file may be half there: the page stays as it was
                if str(error) != told:
                    terminal.say(f"waiting: {error}")
                told = str(error)
            else:
                told = ""
                if runs != shown:
                    _write(path, runs, REFRESH_SECONDS)
                    if shown is None:
                        terminal.say(f"{path.as_uri()}\nkept up to date until Ctrl-C")
                    shown = runs
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        if shown is not None:
            _write(path, shown)
            terminal.say(f"written a last time: {path.as_uri()}")


def _write(path: Path, runs: "list[Run]", refresh_seconds: int = 0) -> None:
    from lenet_cifar10 import records
    from lenet_cifar10.page import Caption, render

    captions = {name: Caption(*words) for name, words in CAPTIONS.items()}
    with records.replacing(path) as (temporary,):
        temporary.write_text(render(runs, captions, refresh_seconds), encoding="utf-8")


def _read(revision: str) -> "Run":
    """What a revision has of a run, without what an earlier training left.

    DVC removes a stage's outputs when the stage starts, and no others: those of the later stages are still there.
    """
    from lenet_cifar10.page import Run
    from lenet_cifar10.revisions import describe, find_replaced, read_params, read_run_params
    from lenet_cifar10.snapshot import read_files, read_table

    params = read_params(revision)
    files = read_files((TRAIN, HISTORY, TEST, PREDICTIONS, CALIBRATION, PICTURES), revision)
    is_trained = TRAIN in files
    if is_trained and (ran := read_run_params(revision)):  # params.yaml, whose order is kept, may have changed since
        params = {name: ran[name] for name in params if name in ran} | ran
    is_scored = is_trained and TEST in files and not find_replaced(revision)

    def table(path: str, numbers: tuple[str, ...], words: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        return read_table(files[path], describe(path, revision), numbers, words) if path in files else []

    return Run(
        name=revision,
        params=params,
        history=table(HISTORY, CURVES),
        is_trained=is_trained,
        test=_read_figures(files[TEST], describe(TEST, revision)) if is_scored else {},
        predictions=table(PREDICTIONS, (), ("actual", "predicted")) if is_scored else [],
        calibration=table(CALIBRATION, ("confidence", "accuracy", "count")) if is_scored else [],
        pictures={
            path.removeprefix(PICTURES): content
            for path, content in files.items()
            if is_scored and path.startswith(PICTURES) and path.endswith(".png")
        },
    )


def _read_figures(content: bytes, place: str) -> dict[str, Any]:
    import json

    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is not JSON ({error}); run dvc repro") from None
    if not isinstance(values, dict) or not all(
        isinstance(values.get(name), int | float) for name in ("accuracy", "loss")
    ):
        raise UserError(f"{place}: has no accuracy and loss, so this project did not write it; run dvc repro")
    return values

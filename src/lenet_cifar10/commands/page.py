"""Write one page with the figures, charts and pictures of runs."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError

if TYPE_CHECKING:
    from lenet_cifar10.experiments import Stop
    from lenet_cifar10.page import Run

PAGE = Path("dvc_plots/report.html")  # where dvc plots writes too, and Git ignores it
TRAIN, TEST, PICTURES = "metrics/train.json", "metrics/test.json", "plots/images/"
HISTORY, PREDICTIONS, CALIBRATION = "plots/history.csv", "plots/predictions.csv", "plots/calibration.csv"
FILES = (TRAIN, HISTORY, TEST, PREDICTIONS, CALIBRATION, PICTURES)
CURVES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
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
    few seconds. Ctrl-C writes it a last time, without that, and ends with status 0; SIGTERM does so with status 143.

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
            f"found {len(names)} revisions, expected {MOST_RUNS} at most, for so many colours can be told apart; "
            "name fewer"
        )
    if watch and WORKSPACE not in names:
        raise UserError(f"--watch: nothing of {', '.join(names)} changes; name workspace as well, or leave --watch out")
    path = project_root() / PAGE
    if watch:
        _watch(path, names)
    else:
        _write(path, [_read(name) for name in names])
        terminal.say(path.as_uri())


def _watch(path: Path, names: list[str]) -> None:
    """Keep the page up to date until a signal comes."""
    import signal

    from lenet_cifar10.experiments import answering_signals

    shown, told = None, ""
    with answering_signals() as stop:
        try:
            for found in _follow(names, stop):
                if isinstance(found, UserError):  # a file may be half there: the page stays as it was
                    if str(found) != told:
                        terminal.say(f"waiting: {found}")
                    told = str(found)
                    continue
                told = ""
                if found != shown:
                    _write(path, found, REFRESH_SECONDS)
                    if shown is None:
                        terminal.say(f"{path.as_uri()}\nkept up to date until Ctrl-C")
                    shown = found
        finally:
            if shown is not None:
                _write(path, shown)
                terminal.say(f"written a last time: {path.as_uri()}")
    if stop.status == 128 + signal.SIGTERM:
        raise typer.Exit(stop.status)


def _follow(names: list[str], stop: "Stop") -> "Iterator[list[Run] | UserError]":
    """The runs, or why they cannot be read, now and whenever a file of the workspace has changed, until the stop."""
    from lenet_cifar10.experiments import StoppedError
    from lenet_cifar10.revisions import WORKSPACE, stat_files

    kept = {name: _read(name) for name in names if name != WORKSPACE}
    seen = None
    with suppress(StoppedError):
        while True:
            if (files := stat_files((*FILES, "params.yaml", "dvc.lock"))) != seen:
                seen = files
                try:
                    yield [kept.get(name) or _read(name) for name in names]
                except UserError as error:
                    yield error
            stop.wait(POLL_SECONDS)


def _write(path: Path, runs: "list[Run]", refresh_seconds: int = 0) -> None:
    from lenet_cifar10 import records
    from lenet_cifar10.page import Caption, render

    captions = {name: Caption(*words) for name, words in CAPTIONS.items()}
    with records.replacing(path) as (temporary,):
        temporary.write_text(render(runs, captions, refresh_seconds), encoding="utf-8")


def _read(revision: str) -> "Run":
    """What a revision has of a run, without test figures and pictures of an earlier training.

    While a stage runs, its own outputs are gone and those of later stages are still there. Once it has run, dvc.lock
    tells which of the later stages read something else.
    """
    from lenet_cifar10.page import Run
    from lenet_cifar10.results import COUNTS, FRACTIONS, NUMBERS, Range, parse_answers, parse_table, parse_test_figures
    from lenet_cifar10.revisions import REMEDY, describe, read_files, read_lock, read_params

    params, lock, files = read_params(revision), read_lock(revision), read_files(FILES, revision)
    is_trained, is_tested = TRAIN in files, TRAIN in files and TEST in files
    if not is_tested or lock.replaced.get("evaluate"):
        files = {path: content for path, content in files.items() if path not in (TEST, PREDICTIONS, CALIBRATION)}
    if not is_tested or lock.replaced.get("figures"):
        files = {path: content for path, content in files.items() if not path.startswith(PICTURES)}

    def table(path: str, columns: dict[str, Range]) -> list[dict[Any, Any]]:
        if path not in files:
            return []
        return parse_table(files[path], describe(path, revision), columns, remedy=REMEDY).to_dict("records")

    tests, predictions = describe(TEST, revision), describe(PREDICTIONS, revision)
    return Run(
        name=revision,
        params=lock.params_of_run(params) if is_trained else params,  # dvc.lock knows no training that still runs
        history=table(HISTORY, {"epoch": COUNTS} | dict.fromkeys(CURVES, NUMBERS)),
        is_trained=is_trained,
        test=parse_test_figures(files[TEST], tests, REMEDY) if TEST in files else {},
        predictions=parse_answers(files[PREDICTIONS], predictions, REMEDY) if PREDICTIONS in files else [],
        calibration=table(CALIBRATION, {"confidence": FRACTIONS, "accuracy": FRACTIONS, "count": COUNTS}),
        pictures={
            path.removeprefix(PICTURES): content
            for path, content in files.items()
            if path.startswith(PICTURES) and path.endswith(".png")
        },
    )

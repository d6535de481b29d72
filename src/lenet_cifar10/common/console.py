"""All output: lines, tables, and progress bars on a terminal."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from lenet_cifar10.common.stage import is_main_process

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=not is_main_process())


def say(line: str) -> None:
    """Print one line at once, also above a progress bar."""
    console.print(line)
    console.file.flush()


def say_aside(line: str) -> None:
    """Print one line at once on standard error, where standard output is for JSON alone."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, first: str, *others: str) -> Table:
    """An empty table with these columns, all but the first aligned to the right."""
    new = Table(title=title, title_justify="left")
    new.add_column(first)
    for name in others:
        new.add_column(name, justify="right")
    return new


def figures_table(title: str, figures: Mapping[str, object]) -> Table:
    """A table of named figures, as `show_figure` writes them."""
    new = table(title, "figure", "value")
    for name, value in figures.items():
        new.add_row(name.replace("_", " "), show_figure(value))
    return new


def show_figure(value: object) -> str:
    """A figure for a table: floats with four digits, a dash for None."""
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def transfer_bar() -> Progress:
    """A bar for bytes, with rate and time left; nothing in a log."""
    return _bar(DownloadColumn(), TransferSpeedColumn())


def steps_bar() -> Progress:
    """A bar for counted steps, with time left; nothing in a log."""
    return _bar(MofNCompleteColumn())


def _bar(*columns: ProgressColumn) -> Progress:
    around = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    return Progress(*around, console=console, transient=True, disable=not console.is_terminal)

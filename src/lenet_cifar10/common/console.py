"""One look for all output: progress bars on a terminal, plain lines in a log."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line at once, also in the middle of a bar."""
    console.print(line)
    console.file.flush()


def say_aside(line: str) -> None:
    """Print one line at once on standard error, where standard output is for JSON alone."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, first: str, *others: str) -> Table:
    """An empty table: words in the first column, figures or short words to the right in the others."""
    new = Table(title=title, title_justify="left")
    new.add_column(first)
    for name in others:
        new.add_column(name, justify="right")
    return new


def figures_table(title: str, figures: Mapping[str, object]) -> Table:
    """A table of named figures: fractions and losses to four digits, a dash for what could not be computed."""
    new = table(title, "figure", "value")
    for name, value in figures.items():
        new.add_row(name.replace("_", " "), show_figure(value))
    return new


def show_figure(value: object) -> str:
    """A figure as tables have it."""
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def transfer_bar() -> Progress:
    """A bar for bytes, with rate and time left; nothing in a log."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def steps_bar() -> Progress:
    """A bar for counted steps, with time left; nothing in a log."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

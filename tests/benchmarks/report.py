"""What the benchmarks print and write: Markdown tables below a line on data, machine and date."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import torch

from lenet_cifar10.common.console import say
from lenet_cifar10.common.files import atomic_write
from lenet_cifar10.model.device import processor_name


@dataclass(frozen=True)
class Table:
    """A title, what was measured, a header and rows."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join([f"## {self.title}", "", self.note, "", *(f"| {' | '.join(line)} |" for line in lines)])


def percent(fractions: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    return f"{100 * mean(fractions):.2f} ± {100 * stdev(fractions):.2f}"


def report(
    title: str,
    command: str,
    data: str,
    device: torch.device,
    tables: Iterable[Table],
    path: Path | None,
    verdict: Mapping[str, str] | None = None,
) -> None:
    """Print each table as soon as it is there, and write those so far to `path`, if there is one, the verdict first.

    The verdict may grow with the tables.
    """
    machine = f"{os.cpu_count()} cores of {processor_name()}, {platform.system()}"
    if device.type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)}, {machine}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    head = f"# {title}\n\nMade by `{command}` on {data}; {machine}, {versions}, {date.today().isoformat()}."
    say(head)
    printed: list[str] = []
    summary: list[str] = []
    for table in tables:
        printed.append(str(table))
        say(f"\n{table}")
        if verdict:
            summary = [str(Table("Verdict", "", ("what", "found"), [*verdict.items()]))]
        if path:
            atomic_write(path, "\n\n".join([head, *summary, *printed]) + "\n")
    for text in summary:
        say(f"\n{text}")
    if path:
        say(f"\nwritten to {path}")

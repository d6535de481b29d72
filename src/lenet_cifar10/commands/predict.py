"""Classify pictures of one's own."""

import json
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_cifar10 import pictures, terminal
from lenet_cifar10.errors import UserError
from lenet_cifar10.pictures import printable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from rich.table import Table

    from lenet_cifar10.model import LeNet

WEIGHTS = "data/model/lenet.safetensors"
MOST_WEIGHTS_BYTES = 2**24  # several times what this network can have
DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,2})?|mps")
THREADS = 1  # reading the pictures takes far longer than the network does


@dataclass(frozen=True)
class Classifier:
    """A network and the names of its classes; messages call its weights `name`."""

    name: str
    network: "LeNet"
    class_names: Sequence[str]


def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, or patterns in quotes such as 'photos/*.jpg'.", metavar="FILE..."
        ),
    ],
    revision: Annotated[
        str | None, typer.Option("--rev", help="Take the weights of this commit, branch, tag or experiment.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Take the weights in this file; then no project is needed.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to name for each image.", min=1)] = 3,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Classify images of any size and kind that Pillow reads, with the workspace's weights unless told otherwise.

    A picture is turned upright, its largest centred square is resized to 32x32 (bicubic), its transparent parts are
    white; of an animation the first frame counts. A folder stands for the images right in it, a pattern for the files
    that it matches (** for any depth).

    What cannot be read is told at the end, and the status is 1; the other files are still classified. The JSON is a
    list of {"file": NAME, "predictions": [{"class": NAME, "probability": FRACTION}, ...]} for these, likeliest class
    first.

    \b
    Examples:
      lenet-cifar10 predict cat.jpg
      lenet-cifar10 predict photos 'more/**/*.png' --rev calm --top 1
      lenet-cifar10 predict cat.jpg --weights lenet.safetensors --json
    """
    if revision is not None and weights is not None:
        raise typer.BadParameter("both say which weights to take; give one of them", param_hint="--rev and --weights")
    if not DEVICES.fullmatch(device):
        raise typer.BadParameter(f"found {device}, expected auto, cpu, cuda, cuda:N or mps", param_hint="--device")
    from lenet_cifar10 import device as devices  # here, for importing torch takes seconds

    classifier = _load_weights(revision, weights)
    chosen = devices.choose(device, setting="--device")
    devices.make_repeatable(THREADS)
    paths, mistakes = _find(files)
    with terminal.steps_bar() as bar:
        bar.disable |= as_json
        task = bar.add_task("reading", total=len(paths))
        rows, unread = _classify(classifier, chosen, paths, top, lambda: bar.advance(task))
    mistakes += unread
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        terminal.console.print(_tabulate(rows, classifier.name))
    if mistakes:
        raise UserError("\n".join(mistakes))


def _load_weights(revision: str | None, weights: Path | None) -> Classifier:
    from lenet_cifar10.weights import parse_weights

    if weights is not None:
        name = printable(str(weights))
        remedy = "name one that this project wrote, such as dvc get fetches"
        return Classifier(name, *parse_weights(_read_weights_file(weights, name), name, remedy))
    from lenet_cifar10 import revisions

    revision = revisions.WORKSPACE if revision is None else revision
    name = printable(revisions.describe(WEIGHTS, revision))
    return Classifier(name, *parse_weights(_read_revision(revision, name), name))


def _read_weights_file(path: Path, name: str) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its writer
            raise UserError(f"{name}: is no file; --weights wants a safetensors file, such as dvc get fetches")
        if found.st_size > MOST_WEIGHTS_BYTES:
            raise UserError(
                f"{name}: has {found.st_size:,} bytes, expected at most {MOST_WEIGHTS_BYTES:,}; name another"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{name}: {error.strerror}; --weights wants a safetensors file, such as dvc get fetches"
        ) from None


def _read_revision(revision: str, name: str) -> bytes:
    from lenet_cifar10 import revisions

    try:
        return revisions.read_bytes(WEIGHTS, revision)
    except revisions.MissingFileError:
        if revisions.read_hash(WEIGHTS, revision) is None:
            found = "was never trained; run dvc repro, or name a revision that has it"
        elif revision == revisions.WORKSPACE:
            found = "is in dvc.lock, but not here; run dvc checkout, or dvc pull where DVC's cache lacks it"
        else:
            found = (
                "is in dvc.lock, but neither in DVC's cache nor in a remote; run dvc push (dvc exp push for an "
                "experiment) where it was trained, then dvc pull --all-commits (dvc exp pull) here"
            )
        raise UserError(f"{name}: {found}") from None


def _find(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that the names stand for, and the complaints about names that stand for none."""
    paths, mistakes = [], []
    for name in names:
        try:
            paths += pictures.find(name)
        except UserError as mistake:
            mistakes.append(str(mistake))
    return paths, mistakes


def _classify(
    classifier: Classifier, device: "torch.device", paths: Sequence[Path], top: int, after_each: Callable[[], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The likeliest classes of each file that can be read, and the complaints about the others."""
    import numpy as np
    import torch

    from lenet_cifar10 import evaluation

    network = classifier.network.to(device).to(memory_format=torch.channels_last)
    rows: list[dict[str, Any]] = []
    mistakes: list[str] = []
    for start in range(0, len(paths), evaluation.IMAGES_AT_ONCE):
        images, complaints = _read(paths[start : start + evaluation.IMAGES_AT_ONCE], after_each)
        mistakes += complaints
        if not images:
            continue
        logits = evaluation.predict(network, torch.from_numpy(np.stack([image for _, image in images])).to(device))
        if not logits.isfinite().all():
            raise UserError(
                f"{classifier.name}: gives no finite numbers; its training diverged: train it anew with smaller steps"
            )
        ranked = rank(logits, classifier.class_names, top)
        rows += [{"file": str(path), "predictions": best} for (path, _), best in zip(images, ranked, strict=True)]
    return rows, mistakes


def _read(
    paths: Sequence[Path], after_each: Callable[[], None]
) -> tuple[list[tuple[Path, "NDArray[np.uint8]"]], list[str]]:
    """Each file that can be read with its image, uint8 (3, 32, 32), and the complaints about the others."""
    images, mistakes = [], []
    for path in paths:
        try:
            images.append((path, pictures.read(path)))
        except UserError as mistake:
            mistakes.append(str(mistake))
        after_each()
    return images, mistakes


def rank(logits: "torch.Tensor", class_names: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
    """logits (N, classes) -> the likeliest classes of each image, with probabilities to 6 digits."""
    labels = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]  # of the logits, as evaluation does
    return [
        [{"class": class_names[label], "probability": round(shares[label], 6)} for label in best]
        for best, shares in zip(labels.tolist(), logits.softmax(dim=1).tolist(), strict=True)
    ]


def _tabulate(rows: Sequence[dict[str, Any]], name: str) -> "Table":
    places = [str(place + 1) for place in range(len(rows[0]["predictions"]))]
    table = terminal.table(f"Predictions of {name}", "file", *places)
    table.columns[0].overflow = "fold"  # all of a long name
    for row in rows:
        best = [f"{guess['class']} {guess['probability']:.4f}" for guess in row["predictions"]]
        table.add_row(printable(row["file"]), *best)
    return table

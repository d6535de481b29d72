"""Classify pictures of one's own."""

import glob
import io
import json
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image, ImageChops, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from lenet_cifar10.common import console
from lenet_cifar10.common.stage import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from lenet_cifar10.model.lenet import LeNet

PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # bytes; Pillow refuses pictures with a comment or profile above 1 MB

SIDE = 32  # pixels
THREADS = 1  # reading the pictures takes far longer than the network does

_NOT_READ = {"EPS", "MPEG"}  # for EPS, which is a program, Pillow starts Ghostscript; films it only recognizes
_JPEG_END = b"\xff\xd9"
# Bits that a JPEG decoder takes for whatever is missing, between restart markers.
_JPEG_FILLER = b"".join(b"\0" + b"\x55" * 63 + bytes([0xFF, 0xD0 + number % 8]) for number in range(16))


def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, or patterns in quotes such as 'photos/*.jpg'.", metavar="FILE..."
        ),
    ],
    revision: Annotated[
        str | None, typer.Option("--rev", help="Use the weights of this commit, branch, tag or experiment.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Use the weights in this file; this needs no project.")] = None,
    top: Annotated[int, typer.Option(help="How many classes to name for each image.", min=1)] = 3,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Classify images of any size and format that Pillow reads, by default with the weights of the workspace.

    Each image is turned upright as its EXIF says, and its largest centred square is resized to 32x32. Transparent
    parts become white. Of an animation the first frame counts. A folder stands for the images directly in it. In a
    pattern ** stands for folders at any depth.

    Files that cannot be read are reported at the end, with exit status 1; the others are still classified. The JSON is
    a list of {"file": NAME, "predictions": [{"class": NAME, "probability": FRACTION}, ...]}, likeliest class first.

    \b
    Examples:
      lenet-cifar10 predict cat.jpg
      lenet-cifar10 predict photos 'more/**/*.png' --rev calm --top 1
      lenet-cifar10 predict cat.jpg --weights lenet.safetensors --json
    """
    if revision is not None and weights is not None:
        raise typer.BadParameter("both choose the weights; give one of them", param_hint="--rev and --weights")
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?|mps", device):
        raise typer.BadParameter(f"found {device}, expected auto, cpu, cuda, cuda:N or mps", param_hint="--device")
    import torch  # here, because importing it takes seconds, and --help needs it not

    from lenet_cifar10.model import scoring
    from lenet_cifar10.model.device import resolve_device, set_deterministic

    network, class_names, title = _load_weights(revision, weights)
    chosen = resolve_device(device, setting="--device")
    set_deterministic(THREADS)
    found, mistakes = [], []
    for name in files:
        try:
            found += find_files(name)
        except UserError as mistake:
            mistakes.append(str(mistake))
    images, rows = [], []
    with console.steps_bar() as bar:
        for file in bar.track(found, description="reading"):
            try:
                images.append(read_image(file))
                rows.append({"file": file})
            except UserError as mistake:
                mistakes.append(str(mistake))
    if images:
        network.to(chosen).to(memory_format=torch.channels_last)
        logits = scoring.predict(network, torch.stack(images).to(chosen))
        for row, best in zip(rows, rank(logits, class_names, top), strict=True):
            row["predictions"] = best
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        _show(rows, title)
    if mistakes:
        raise UserError("\n".join(mistakes))


def find_files(name: str) -> list[str]:
    """The name of a file, a folder or a pattern -> the files that it stands for, sorted.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.is_dir():
        endings = {ending for ending, format in Image.registered_extensions().items() if format in _formats()}
        visible = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        found = [str(entry) for entry in visible if entry.suffix.lower() in endings and entry.is_file()]
    elif path.exists():
        found = [name]
    else:  # not by Path.glob, whose ** means something else in each version of Python
        found = [match for match in glob.glob(name, recursive=True) if Path(match).is_file()]  # noqa: PTH207
    if not found:
        advice = "name a file, a folder of images or a quoted pattern such as 'photos/**/*.jpg'"
        raise UserError(f"{printable(name)}: no image found; {advice}")
    return sorted(found)


def read_image(file: str) -> "Tensor":
    """An image file of any size and mode -> uint8 (3, 32, 32): red, green, blue.

    Raises:
        UserError: it is missing, damaged, too large or not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return preprocess(_decode(file))
    except Exception as error:  # damaged bytes lead Pillow's readers into exceptions of a dozen types
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if is_unknown else getattr(error, "strerror", None) or str(error) or repr(error)
        remedy = "save it anew as PNG or JPEG, or smaller"
        raise UserError(printable(f"{file}: is not an image that can be read ({reason}); {remedy}")) from None


def preprocess(image: Image.Image) -> "Tensor":
    """A decoded image of any size and mode -> uint8 (3, 32, 32): upright, its centred square, white where transparent.

    Raises:
        ValueError: its values are floats.
    """
    import numpy as np
    from torchvision.transforms import InterpolationMode, v2

    with suppress(Exception):  # of a damaged EXIF; in place the pixels are turned before Pillow writes the EXIF anew
        ImageOps.exif_transpose(image, in_place=True)
    square = v2.CenterCrop(min(image.size))(image)
    if square.mode[0] == "F":
        raise ValueError("its values are floats, for which no white is agreed")
    if square.mode[0] == "I":  # 16 bits: Pillow's own conversion would cut off what is above 255
        square = Image.fromarray((np.asarray(square, np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    # Pillow does not see the transparency of some palettes, such as those of ICNS files.
    mode = "RGBA" if square.mode == "P" or square.has_transparency_data else "RGB"
    square = v2.Resize([SIDE, SIDE], InterpolationMode.BICUBIC)(square.convert(mode))
    if mode == "RGBA":
        square = Image.alpha_composite(Image.new(mode, square.size, "white"), square).convert("RGB")
    return v2.PILToTensor()(square)


def rank(logits: "Tensor", class_names: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
    """logits (N, classes) -> the likeliest classes of each image, with probabilities to 6 digits."""
    labels = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]  # as evaluation breaks a tie
    return [
        [{"class": class_names[label], "probability": round(fractions[label], 6)} for label in best]
        for best, fractions in zip(labels.tolist(), logits.softmax(dim=1).tolist(), strict=True)
    ]


def printable(text: str) -> str:
    """A text whose control characters and undecodable bytes are escaped: a file's name could steer the terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _load_weights(revision: str | None, weights: Path | None) -> "tuple[LeNet, Sequence[str], str]":
    """The network, the names of its classes, and what to call its weights."""
    from lenet_cifar10.model.weights import parse_weights

    if weights is not None:
        title = printable(str(weights))
        remedy = "name a file that this project wrote, such as dvc get fetches"
        return *parse_weights(weights.read_bytes(), title, remedy), title
    from lenet_cifar10.experiments import revisions  # imports dvc, which a file needs not

    path, revision = "data/model/lenet.safetensors", revisions.WORKSPACE if revision is None else revision
    title = printable(revisions.describe(path, revision))
    try:
        return *parse_weights(revisions.read_file(path, revision), title), title
    except revisions.MissingFileError:
        raise UserError(f"{title}: not found; run dvc pull, or dvc repro if it was never trained") from None


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name not in _NOT_READ]


def _decode(file: str) -> Image.Image:
    image = _open(file)
    try:
        image.load()
    except OSError:
        if not isinstance(image, JpegImageFile):
            raise
        # Without its end marker Pillow refuses a whole JPEG; with one it accepts half a JPEG. No pixel of a whole one
        # comes from what is put between.
        content = Path(file).read_bytes()
        image, filled = (_open(io.BytesIO(content + extra + _JPEG_END)) for extra in (b"", _JPEG_FILLER))
        if ImageChops.difference(image, filled).getbbox():
            raise
    return image


def _open(file: str | io.BytesIO) -> Image.Image:
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # forgives damaged comments; the pixels are not read yet
    try:
        return Image.open(file, formats=_formats())
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _show(rows: Sequence[dict[str, Any]], name: str) -> None:
    places = [str(place + 1) for place in range(len(rows[0]["predictions"]))]
    table = console.table(f"Predictions of {name}", "file", *places)
    table.columns[0].overflow = "fold"  # shows the whole of a long name
    for row in rows:
        best = [f"{guess['class']} {guess['probability']:.4f}" for guess in row["predictions"]]
        table.add_row(printable(row["file"]), *best)
    console.console.print(table)

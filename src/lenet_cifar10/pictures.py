"""Anybody's pictures: whatever image file Pillow reads -> the 32x32 colours that the network takes.

A picture is turned as its EXIF or XMP orientation says, its largest centred square is resized to 32x32 by Pillow's
antialiased bicubic filter, and what shows through its transparent parts is white. One of 32x32 opaque RGB pixels is
taken as it is. Of an animation or a document the first frame or page counts; colour profiles are not applied.

Grey levels of more than 8 bits are scaled to 8, not cut off: 65,535 is white in 16 bits. Formats of 32 bits and of
floats have no agreed white, so it is the first of 1, 255, 65,535 and the square's own largest value that none of the
square's values exceeds.
"""

import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, UnidentifiedImageError

from lenet_cifar10.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 32  # pixels

# What Pillow knows but does not read itself: Ghostscript would run an EPS file, a program; the others it can only name.
_NOT_READ = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find(name: str) -> list[Path]:
    """The files that a file's name, a folder's or a pattern stands for, sorted.

    A folder stands for the files right in it whose names end as those of images do, but for hidden ones; a pattern
    (*, ?, [...] and ** for any depth) for what it matches, but for what is hidden and for folders.

    Raises:
        UserError: there is no such file, the folder has no images, or the pattern matches nothing.
    """
    path, shown = Path(name), printable(name)
    try:
        if name and path.is_dir():
            return _find_in_folder(path, shown)
        if name and path.exists():
            return [path]
        if any(sign in name for sign in "*?["):
            return _match(path, shown)
    except OSError as error:
        raise UserError(f"{shown}: {error.strerror}; name a file that can be read") from None
    raise UserError(f"{shown or repr(name)}: no such file; name an image, a folder of images or a quoted pattern")


def read(path: Path) -> "NDArray[np.uint8]":
    """An image file -> uint8 (3, 32, 32): red, green, blue, as the module's text says.

    Raises:
        UserError: it is no file, empty, too large, damaged, no image, or may not be read.
    """
    name = printable(str(path))
    try:
        _check_file(path, name)
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}; name a file that can be read") from None
    try:
        with file, _silent_libraries(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats()) as image:
                return to_pixels(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        found = re.search(r"\d+", str(error))
        pixels = f"{int(found[0]):,} pixels" if found else "more"
        raise UserError(f"{name}: has {pixels}, expected at most {Image.MAX_IMAGE_PIXELS:,}; make it smaller") from None
    except UnidentifiedImageError:
        raise UserError(f"{name}: is no image that can be read here; save it as PNG or JPEG") from None
    except Exception as error:  # a damaged byte can lead Pillow's readers into any of a dozen kinds
        reason = printable(str(error) or type(error).__name__)
        raise UserError(f"{name}: is a damaged image ({reason}); get it anew, or save it as PNG or JPEG") from None


def to_pixels(image: Image.Image) -> "NDArray[np.uint8]":
    """The same of an image in any of Pillow's modes.

    Raises:
        ValueError: it has no pixels, or values that are no numbers.
        Exception: others, of Pillow's many readers, where the file is damaged.
    """
    import numpy as np  # here, for importing it takes a tenth of a second, and commands that only help need it not

    image.load()
    if 0 in image.size:
        raise ValueError("it has no pixels")
    square = _in_colour(_centre_square(_upright(image))).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if square.mode == "RGBA":  # only now, for it takes three full-size copies; the resizing weighs colours by opacity
        square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square).convert("RGB")
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def printable(text: str) -> str:
    """A text, such as a file's name, whose line breaks, control signs and broken letters are written as escapes."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _find_in_folder(folder: Path, shown: str) -> list[Path]:
    entries = sorted(folder.iterdir())
    if not entries:
        raise UserError(f"{shown}: is an empty folder; put images in it, or name another")
    Image.init()
    endings = {ending for ending, format in Image.registered_extensions().items() if format in formats()}
    found = [
        entry
        for entry in entries
        if entry.suffix.lower() in endings and not entry.name.startswith(".") and not entry.is_dir()
    ]
    if not found:
        raise UserError(
            f"{shown}: has no file whose name ends as an image's does; name its files, or a pattern such as "
            f"'{shown}/*' or, for all folders below, '{shown}/**/*.jpg'"
        )
    return found


def _match(pattern: Path, shown: str) -> list[Path]:
    root = Path(pattern.anchor)
    try:
        found = [
            path
            for path in root.glob(str(pattern.relative_to(root)))
            if not path.is_dir() and (_is_hidden(pattern) or not _is_hidden(path))
        ]
    except ValueError as error:
        raise UserError(f"{shown}: is no pattern ({error})") from None
    if not found:
        raise UserError(f"{shown}: matches no file; mend the pattern")
    return sorted(found)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _check_file(path: Path, name: str) -> None:
    """Before anything is opened: opening a pipe waits for its writer, and a device may act."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{name}: is a folder, expected an image")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{name}: is a pipe or a device, expected an image; save it as a file first")
    if found.st_size == 0:
        raise UserError(f"{name}: is an empty file, expected an image; get it anew")


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """libtiff prints its complaints itself, several for a file; the one line that counts is the caller's."""
    if sys.__stderr__ is None:  # it was closed at the start, so its number is another file's by now
        yield
        return
    kept = os.dup(2)
    try:
        os.dup2(_nowhere(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)


def formats() -> list[str]:
    """Those of Pillow that are read, in the order in which it tries them."""
    Image.init()
    return [name for name in Image.ID if name not in _NOT_READ]


def _upright(image: Image.Image) -> Image.Image:
    """ImageOps.exif_transpose writes the EXIF anew, too, and fails where it finds that odd."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged in any of a dozen ways; the picture itself may be whole, and viewers show it unturned
        return image
    return image if turn is None else image.transpose(turn)


def _centre_square(image: Image.Image) -> Image.Image:
    """Cut out, so that what is outside has no part in the resizing; half a pixel goes to the right or below."""
    side = min(image.size)
    if image.size == (side, side):
        return image  # crop would copy it
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _in_colour(image: Image.Image) -> Image.Image:
    """The image in mode RGB, or RGBA where parts of it may be transparent."""
    if image.mode[0] in "IF":
        return _from_deep_grey(image)
    # Of some palettes, such as those in ICNS files, Pillow fails to say.
    mode = "RGBA" if image.mode == "P" or image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)  # which would copy it


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of floats; Pillow's own conversion would cut off what is above 255."""
    import numpy as np

    values = np.array(image, dtype=np.float32)
    largest = values.max()
    if not np.isfinite(values).all():
        raise ValueError("some of its values are no numbers")
    whites = (65535,) if image.mode.startswith("I;16") else (1, 255, 65535)
    white = next((white for white in whites if largest <= white), largest)
    transparent = image.info.get("transparency")
    opacity = None if transparent is None else np.where(values == transparent, 0, 255).astype(np.uint8)
    values *= 255 / white
    values.clip(0, 255, out=values)
    values += 0.5
    grey = Image.fromarray(values.astype(np.uint8))
    if opacity is None:
        return grey.convert("RGB")
    grey.putalpha(Image.fromarray(opacity))
    return grey.convert("RGBA")

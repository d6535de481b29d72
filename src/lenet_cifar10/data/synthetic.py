"""Ten classes of drawn shapes in the layout of CIFAR-10, so that the workflow runs without the network.

Each image has one shape of any place, size, tilt and colour, on a shaded ground with blots and noise. A shape keeps its
class when it is mirrored left to right, turned a little, moved, or coloured anew.

The same seed draws the same pixels everywhere: but for comparisons there are only sums, products, quotients, roots and
roundings, which IEEE 754 defines to the last bit, as it does not define sines and normal deviates.
"""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenet_cifar10.common.files import atomic_write
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.archive import META_MEMBER, ROW_LENGTH, TEST_MEMBER, TRAIN_MEMBERS

Floats = NDArray[np.float64]

# How far the point (x, y) is from the edge of a shape that about fills a circle of radius 1: below zero inside.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "columns": lambda x, y: np.maximum(abs(abs(abs(x) - 0.4) - 0.25) - 0.15, abs(y) - 0.9),
    "cross": lambda x, y: np.maximum(np.minimum(abs(x + y), abs(x - y)) - 0.35, abs(x) + abs(y) - 1.5),
    "diamond": lambda x, y: (abs(x) + abs(y) - 1) * 0.7,
    "disc": lambda x, y: np.sqrt(x * x + y * y) - 0.9,
    "hourglass": lambda x, y: np.maximum(abs(x) - abs(y) - 0.1, abs(y) - 0.9),
    "plus": lambda x, y: np.maximum(np.minimum(abs(x), abs(y)) - 0.3, np.maximum(abs(x), abs(y)) - 1),
    "ring": lambda x, y: abs(np.sqrt(x * x + y * y) - 0.75) - 0.25,
    "rows": lambda x, y: np.maximum(abs(abs(abs(y) - 0.4) - 0.25) - 0.15, abs(x) - 0.9),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) - 0.8,
    "triangle": lambda x, y: np.maximum(abs(x) * 0.9 + y * 0.45, -y) - 0.55,
}


def write_archive(path: Path, train: int, test: int, seed: int) -> None:
    """Draw images, equally many of each shape, and write them as an archive in CIFAR-10's layout.

    The same arguments give the same bytes wherever zlib compresses alike.

    Raises:
        UserError: a number of images is not a positive multiple of ten.
    """
    for name, count in (("train", train), ("test", test)):
        if count < 1 or count % len(SHAPES):
            raise UserError(f"{name}: found {count} images, expected a positive multiple of {len(SHAPES)}")
    train_random, test_random = np.random.default_rng(seed).spawn(2)
    images, labels = draw(train_random, train)
    members = {
        name: {"labels": labels[part].tolist(), "data": images[part]}
        for name, part in zip(TRAIN_MEMBERS, np.array_split(np.arange(train), len(TRAIN_MEMBERS)), strict=True)
    }
    images, labels = draw(test_random, test)
    members[TEST_MEMBER] = {"labels": labels.tolist(), "data": images}
    members[META_MEMBER] = {"label_names": list(SHAPES)}
    content = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=content, mtime=0) as stream,
        tarfile.open(mode="w", fileobj=stream, format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, values in members.items():
            body = b"\x80\x02" + _pickle(values) + b"."
            info = tarfile.TarInfo(name)  # without time and owner
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    atomic_write(path, content.getvalue())


def _pickle(value: Any) -> bytes:
    """A value in opcodes of Python 2, whose text is bytes: Python 3's pickle writes no such text."""
    match value:
        case int():
            return b"J" + pack("<i", value)
        case str():
            return b"U" + pack("<B", len(value)) + value.encode("ascii")
        case list():
            return b"](" + b"".join(map(_pickle, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_pickle(key) + _pickle(item) for key, item in value.items()) + b"u"
    # An array of uint8: made by _reconstruct(ndarray, (0,), "b"), then given version, shape, dtype, order and pixels.
    dtype = b"cnumpy\ndtype\n(U\2u1K\0K\1tR(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    shape = b"(" + _pickle(len(value)) + _pickle(ROW_LENGTH) + b"t"
    state = b"(K\1" + shape + dtype + b"\x89T" + pack("<i", value.size) + value.tobytes() + b"tb"
    return b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR" + state


def draw(random: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Equally many images of each shape, uint8 (count, 3, 32, 32), in random order, and their labels."""
    labels = random.permutation(np.arange(count) % len(SHAPES))
    images = np.empty((count, 3, 32, 32), np.uint8)
    for label, distance in enumerate(SHAPES.values()):
        images[labels == label] = _draw_shape(random, distance, count // len(SHAPES))
    return images, labels


def _draw_shape(
    random: np.random.Generator, distance: Callable[[Floats, Floats], Floats], count: int
) -> NDArray[np.uint8]:
    def uniform(low: float, high: float, channels: int = 1) -> Floats:
        return low + (high - low) * random.random((count, channels, 1, 1))

    row, column = np.mgrid[:32, :32] - 15.5  # (32, 32), from the middle

    # A light shape on a dark ground or the reverse; the ground changes its colour towards one side and has blots.
    light, dark = uniform(0.5, 1, channels=3), uniform(0, 0.5, channels=3)
    is_light = uniform(0, 1) < 0.5
    image, figure = np.where(is_light, light, dark), np.where(is_light, dark, light)
    slope = np.clip(0.5 + (uniform(-1, 1) * column + uniform(-1, 1) * row) / 32, 0, 1)
    image = image + (uniform(0, 1, channels=3) - image) * slope * uniform(0, 0.5)
    for _ in range(3):
        x, y = column - uniform(-16, 16), row - uniform(-16, 16)
        cover = np.clip(uniform(1, 5) - np.sqrt(x * x + y * y), 0, 1) * uniform(0.1, 0.5)
        image = image + (uniform(0, 1, channels=3) - image) * cover

    # The shape is moved, tilted by up to 14 degrees, widened or narrowed; its edges are smooth.
    radius, stretch, half_tangent = uniform(8, 13), uniform(0.87, 1.15), uniform(-0.12, 0.12)
    x, y = column - uniform(-1, 1) * (16 - radius), uniform(-1, 1) * (16 - radius) - row
    square = half_tangent * half_tangent
    cosine, sine = (1 - square) / (1 + square), 2 * half_tangent / (1 + square)
    x, y = (x * cosine - y * sine) / radius * stretch, (x * sine + y * cosine) / radius / stretch
    image = image + (figure - image) * np.clip(0.5 - distance(x, y) * radius, 0, 1) * uniform(0.7, 1)

    # The sum of three uniform numbers comes close to a normal deviate.
    noise = random.random((3, *image.shape)).sum(axis=0) - 1.5
    return np.rint(np.clip(image + uniform(0, 0.2) * noise, 0, 1) * 255).astype(np.uint8)

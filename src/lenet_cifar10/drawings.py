"""Ten classes of drawn shapes in the layout of CIFAR-10, so that the workflow runs without the network.

Each image has one shape of any place, size, tilt and colour, on a plain or shaded ground with clutter and noise.
A shape keeps its class when it is mirrored left to right, turned a little, moved, or coloured anew.

The same seed draws the same bytes everywhere: but for comparisons there are only sums, products, quotients, roots
and roundings, which IEEE 754 defines to the last bit, as it does not define sines and normal deviates.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from lenet_cifar10.archive import Archive
from lenet_cifar10.dataset import Split
from lenet_cifar10.errors import UserError

SIDE = 32  # pixels
BLOTS = 3  # behind each shape


def draw_archive(train_count: int, test_count: int, seed: int) -> Archive:
    """Draw equally many images of each of the ten shapes, in random order.

    The test images depend on `test_count` and `seed` alone.

    Raises:
        UserError: a count is not a positive multiple of ten.
    """
    for name, count in (("training", train_count), ("test", test_count)):
        if count < 1 or count % len(SHAPES):
            raise UserError(f"found {count} {name} images to draw, expected a positive multiple of {len(SHAPES)}")
    train_random, test_random = np.random.default_rng(seed).spawn(2)
    return Archive(_draw_split(train_random, train_count), _draw_split(test_random, test_count), tuple(SHAPES))


def _draw_split(random: np.random.Generator, count: int) -> Split:
    labels = random.permutation(np.arange(count) % len(SHAPES))
    images = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for label, distance in enumerate(SHAPES.values()):
        places = np.flatnonzero(labels == label)
        images[places] = _draw_shape(random, distance, len(places))
    return Split(images, labels)


# The shapes: how far each point (x, y) is from the edge, below zero inside, where the shape fills a circle of radius 1
# about (0, 0) and y points up. Arrays are (N, 1, 32, 32), one point a pixel.

Floats = NDArray[np.float64]
Distance = Callable[[Floats, Floats], Floats]


def _disc(x: Floats, y: Floats) -> Floats:
    return np.sqrt(x * x + y * y) - 1


def _ring(x: Floats, y: Floats) -> Floats:
    return abs(np.sqrt(x * x + y * y) - 0.75) - 0.25


def _box(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    return np.maximum(abs(x) - half_width, abs(y) - half_height)


def _square(x: Floats, y: Floats) -> Floats:
    return _box(x, y, 0.8, 0.8)


def _triangle(x: Floats, y: Floats) -> Floats:
    return np.maximum(abs(x) * (sqrt(3) / 2) + y / 2, -y) - 0.55


def _plus(x: Floats, y: Floats) -> Floats:
    return np.minimum(_box(x, y, 1, 0.3), _box(x, y, 0.3, 1))


def _cross(x: Floats, y: Floats) -> Floats:
    return _plus((x + y) / sqrt(2), (x - y) / sqrt(2))


def _rows(x: Floats, y: Floats) -> Floats:
    nearest = 0.7 * np.clip(np.rint(y / 0.7), -1, 1)
    return _box(x, y - nearest, 0.9, 0.2)


def _columns(x: Floats, y: Floats) -> Floats:
    return _rows(y, x)


def _checkers(x: Floats, y: Floats) -> Floats:
    """Four by four fields, every other one filled."""
    across, upward = (abs(along - np.floor(along) - 0.5) - 0.25 for along in (x / 0.9 + 0.25, y / 0.9 + 0.25))
    unlike = np.maximum(np.minimum(across, upward), -np.maximum(across, upward))
    return np.maximum(unlike * 0.9, _box(x, y, 0.9, 0.9))


def _star(x: Floats, y: Floats) -> Floats:
    """The points inside at least four of the five lines that join every other corner of a pentagon."""
    normals = (
        (0, 1),
        (sqrt(10 + 2 * sqrt(5)) / 4, (sqrt(5) - 1) / 4),  # sine and cosine of 72 degrees
        (sqrt(10 - 2 * sqrt(5)) / 4, -(sqrt(5) + 1) / 4),  # of 144 degrees
        (-sqrt(10 - 2 * sqrt(5)) / 4, -(sqrt(5) + 1) / 4),
        (-sqrt(10 + 2 * sqrt(5)) / 4, (sqrt(5) - 1) / 4),
    )
    return np.sort([x * across + y * upward - 0.36 for across, upward in normals], axis=0)[-2]


# In the order of their labels.
SHAPES: dict[str, Distance] = {
    "checkers": _checkers,
    "columns": _columns,
    "cross": _cross,
    "disc": _disc,
    "plus": _plus,
    "ring": _ring,
    "rows": _rows,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}


def _draw_shape(random: np.random.Generator, distance: Distance, count: int) -> NDArray[np.uint8]:
    """Images of one shape, uint8 (count, 3, 32, 32)."""

    def uniform(low: float, high: float) -> Floats:
        return low + (high - low) * random.random((count, 1, 1, 1))

    def muted_colour() -> Floats:
        return _colour(uniform(0, 1), uniform(0.2, 0.8), uniform(0.3, 0.8))

    row, column = np.mgrid[:SIDE, :SIDE] + 0.5  # (32, 32)

    # Colours: a light shape on a dark ground or the reverse, of unlike hues.
    hue, ground_is_light = uniform(0, 1), uniform(0, 1) < 0.5
    light = _colour(hue, uniform(0.1, 0.7), uniform(0.75, 1))
    dark = _colour(hue + uniform(0.2, 0.8), uniform(0.4, 0.9), uniform(0.15, 0.5))
    ground, figure = np.where(ground_is_light, light, dark), np.where(ground_is_light, dark, light)

    # The ground: half of them plain, half shaded towards another hue; faint blots on all.
    slope = (uniform(-1, 1) * (column - SIDE / 2) + uniform(-1, 1) * (row - SIDE / 2)) / SIDE + 0.5
    strength = np.where(uniform(0, 1) < 0.5, 0, uniform(0.2, 0.6))
    image = _blend(ground, muted_colour(), strength * np.clip(slope, 0, 1))
    for _ in range(BLOTS):
        x, y = column - uniform(0, SIDE), row - uniform(0, SIDE)
        cover = np.clip(0.5 + uniform(1, 5) - np.sqrt(x * x + y * y), 0, 1)
        image = _blend(image, muted_colour(), uniform(0.1, 0.5) * cover)

    # The shape: moved, tilted by up to 14 degrees, widened or narrowed, its edges smooth.
    radius, stretch, half_tangent = uniform(8, 13), uniform(0.87, 1.15), uniform(-0.12, 0.12)
    x = column - SIDE / 2 - uniform(-1, 1) * (SIDE / 2 - radius)
    y = SIDE / 2 - row - uniform(-1, 1) * (SIDE / 2 - radius)
    square = half_tangent * half_tangent
    cosine, sine = (1 - square) / (1 + square), 2 * half_tangent / (1 + square)
    x, y = (x * cosine - y * sine) / radius * stretch, (x * sine + y * cosine) / radius / stretch
    image = _blend(image, figure, uniform(0.7, 1) * np.clip(0.5 - distance(x, y) * radius, 0, 1))

    # Noise: the sum of three uniform numbers comes close to a normal deviate.
    noise = random.random((3, *image.shape)).sum(axis=0) - 1.5
    return np.rint(np.clip(image + uniform(0, 0.2) * noise, 0, 1) * 255).astype(np.uint8)


def _colour(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Red, green and blue, (N, 3, 1, 1) from 0 to 1; a hue of 1 is once round the colour wheel."""
    pure = abs((hue * 6 + np.array([[[0]], [[4]], [[2]]])) % 6 - 3) - 1
    return value * (1 - saturation * (1 - np.clip(pure, 0, 1)))


def _blend(below: Floats, above: Floats, share: Floats) -> Floats:
    """The colours below covered by a share, 0 to 1, of those above."""
    return below + (above - below) * share

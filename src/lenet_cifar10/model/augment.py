"""Random changes to training images, in batches, equal to torchvision's on Pillow images to the bit.

On the CPU, `draw` takes random numbers for each image and `tabulate` turns them into coordinates and factors. `apply`
changes images by them on the images' device. Coordinates are 16.16 fixed point, colours are whole numbers in float32,
and each step rounds as Pillow does, so a CPU and a GPU give the same pixels.

N in shapes is the number of images; 32 is SIDE.
"""

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lenet_cifar10.common.params import AugmentSection, PaddingMode
from lenet_cifar10.common.randomness import make_generator

SIDE = 32  # pixels; a power of two, which keeps `_mirror` fast, and mean grey values and centers exact
BRIGHTNESS, CONTRAST, SATURATION = range(3)
COLOUR_ORDERS = tuple(permutations((BRIGHTNESS, CONTRAST, SATURATION)))

_CENTER = SIDE / 2
# Red, green and blue in Pillow's grey, whole numbers over 65536: any sum of such terms is exact in float32.
_GREY_WEIGHTS = (19595 / 65536, 38470 / 65536, 7471 / 65536)
_FAR = 16384  # pixels: no warp brings a sample back from there, and 16.16 fixed point still holds it
_CPU_CHUNK = 128  # images: what one chunk touches stays in the second-level cache
_DEVICE_CHUNK = 8192  # images: bounds the memory of intermediate values to about half a gigabyte


@dataclass(frozen=True)
class Draws:
    """The random numbers for N images.

    Attributes:
        flip: (N,) bool, mirror left to right.
        angle: (N,) float64, rotation in degrees, counter-clockwise.
        shear: (N,) float64, horizontal shear in degrees.
        scale: (N,) float64, zoom factor; above 1 enlarges.
        factors: (N, 3) float64, of brightness, contrast and saturation; 1 changes nothing.
        colour_order: (N, 3) int64, the order of the colour operations: 0 brightness, 1 contrast, 2 saturation.
        translation: (N, 2) int64, shift in whole pixels, rightwards and downwards.
    """

    flip: NDArray[np.bool_]
    angle: NDArray[np.float64]
    shear: NDArray[np.float64]
    scale: NDArray[np.float64]
    factors: NDArray[np.float64]
    colour_order: NDArray[np.int64]
    translation: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, index: slice | NDArray[np.int64] | Tensor) -> "Draws":
        """The draws of some of the images."""
        rows = index if isinstance(index, slice) else np.asarray(index)  # NumPy takes a tensor of one for a number
        return Draws(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Tables:
    """What `apply_tables` needs of the draws for N images; None for changes that no image asks for.

    Attributes:
        warp: (N, 71) int32, 16.16 fixed point. Columns: 32 for the source x of each output column in row 0; 32 for
            the source y of each output row, which a horizontal shear leaves the same along the row; 1 for the step
            in x from row to row; 6 for the rotation and the mirror.
        blend: (N, 3, 3) float32: for each of three colour operations its factor, and whether it blends with grey or
            with mean grey.
    """

    warp: NDArray[np.int32] | None
    blend: NDArray[np.float32] | None

    def __getitem__(self, index: slice) -> "Tables":
        """The tables of some of the images."""
        return Tables(
            warp=None if self.warp is None else self.warp[index],
            blend=None if self.blend is None else self.blend[index],
        )


def draw(count: int, section: AugmentSection, generator: torch.Generator) -> Draws:
    """Draw the changes to `count` images, with the distributions of torchvision's random transforms.

    Those are RandomHorizontalFlip, RandomRotation, RandomAffine and ColorJitter, each uniform around the value that
    changes nothing; the shift is uniform over whole pixels. Each image takes ten uniform numbers, whatever the
    strengths: a change of one strength leaves the draws of the others as they were.

    Args:
        count: how many images.
        section: the strengths; zero always draws the value that changes nothing.
        generator: a generator on the CPU, since a GPU's numbers depend on its model.
    """
    uniform = torch.rand(count, 10, dtype=torch.float64, generator=generator).numpy()  # in [0, 1)
    signed = uniform * 2 - 1
    reach = section.translation_pixels
    return Draws(
        flip=uniform[:, 0] < section.flip_probability,
        angle=signed[:, 1] * section.rotation_degrees,
        shear=signed[:, 2] * section.shear_degrees,
        scale=1 + signed[:, 3] * section.scale,
        factors=1 + signed[:, 4:7] * [section.brightness, section.contrast, section.saturation],
        colour_order=np.array(COLOUR_ORDERS)[(uniform[:, 7] * len(COLOUR_ORDERS)).astype(np.int64)],
        translation=(uniform[:, 8:10] * (2 * reach + 1)).astype(np.int64) - reach,
    )


def plan_epoch(count: int, seed: int, epoch: int, section: AugmentSection) -> tuple[Tensor, Draws]:
    """The order of an epoch's images, int64 (N,), and the changes to each in that order."""
    order = torch.randperm(count, generator=make_generator(seed, epoch, "order"))
    return order, draw(count, section, make_generator(seed, epoch, "augmentation"))


def apply(images: Tensor, draws: Draws, padding_mode: PaddingMode = "zeros") -> Tensor:
    """Change each image by its own draws.

    With padding_mode "zeros" each result equals, to the bit, that of these functions of
    `torchvision.transforms.functional` on the Pillow image, all nearest-neighbour: `hflip` if drawn, `rotate`,
    `affine` with the drawn translation, scale and horizontal shear, then `adjust_brightness`, `adjust_contrast` and
    `adjust_saturation` in the drawn order. (A build of Pillow that fuses multiplication and addition, as on some ARM
    machines, may round a colour otherwise.)

    With "symmetric" the two warps see the picture mirrored at its edges, the edge pixel repeated (NumPy's
    "symmetric"), over and over, where "zeros" sees black.

    Args:
        images: (N, 3, 32, 32) uint8, on any device; left as they are.
        draws: N draws, within the ranges that the augment section allows.
        padding_mode: what a warp finds outside the picture.

    Returns:
        (N, 3, 32, 32) uint8, a new contiguous tensor on the same device.

    Raises:
        ValueError: the images are of another type or shape, or not as many as the draws.
    """
    if images.dtype != torch.uint8 or images.shape != (len(draws), 3, SIDE, SIDE):
        raise ValueError(
            f"found {images.dtype} {tuple(images.shape)} and {len(draws)} draws, expected uint8 "
            f"(N, 3, {SIDE}, {SIDE}) and N draws"
        )
    return apply_tables(images, tabulate(draws), padding_mode)


def tabulate(draws: Draws) -> Tables:
    """The tables with which `apply_tables` does what `apply` does; they need no images, so they can be made ahead."""
    moved = draws.flip.any() or draws.angle.any() or draws.shear.any() or draws.translation.any()
    warped = moved or (draws.scale != 1).any()
    blended = (draws.factors != 1).any()
    return Tables(
        warp=np.concatenate([*_tabulate_affine(draws), _tabulate_rotation(draws)], axis=1) if warped else None,
        blend=_tabulate_blend(draws) if blended else None,
    )


def apply_tables(images: Tensor, tables: Tables, padding_mode: PaddingMode) -> Tensor:
    """`apply` with tables that are ready. Nothing waits for the device."""
    device = images.device
    warp, blend = (
        None if table is None else torch.from_numpy(table).to(device, non_blocking=True)
        for table in (tables.warp, tables.blend)
    )
    output = torch.empty_like(images, memory_format=torch.contiguous_format)
    size = _CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK
    for start in range(0, len(images), size):
        chunk = slice(start, start + size)
        pixels = images[chunk]
        if warp is not None:
            pixels = _warp(pixels, warp[chunk], padding_mode)
        if blend is not None:
            pixels = _blend(pixels, blend[chunk])
        output[chunk] = pixels
    return output


def _tabulate_affine(draws: Draws) -> tuple[NDArray, NDArray, NDArray]:
    """The map of torchvision's `affine`: source x in row 0 (N, 32), source y (N, 32), step in x per row (N, 1).

    Sums here and below have the order of the originals, in float64, so that they round alike.
    """
    shift_x, shift_y = draws.translation.T
    zoom = 1.0 / draws.scale
    slant = np.array([math.tan(shear) for shear in np.radians(draws.shear).tolist()]) / draws.scale
    offset_x = zoom * (-_CENTER - shift_x) + slant * (-_CENTER - shift_y) + _CENTER
    offset_y = zoom * (-_CENTER - shift_y) + _CENTER

    steps = _fix(zoom)[:, None] * np.arange(SIDE, dtype=np.int32)
    source_x = _fix(offset_x + zoom * 0.5 + slant * 0.5)[:, None] + steps
    source_y = _fix(offset_y + zoom * 0.5)[:, None] + steps
    # A map without shear goes another way in Pillow: it adds up the zoom in floating point, pixel after pixel.
    straight = slant == 0
    for source, offset in ((source_x, offset_x), (source_y, offset_y)):
        walk = np.repeat(zoom[straight, None], SIDE, axis=1)
        walk[:, 0] = (offset + zoom * 0.5)[straight]
        source[straight] = np.floor(np.cumsum(walk, axis=1)).astype(np.int32) << 16
    return source_x, source_y, _fix(slant)[:, None]


def _tabulate_rotation(draws: Draws) -> NDArray[np.int32]:
    """The map of Pillow's `Image.rotate`, then the mirror: x and y from (x, y, 1), (N, 6)."""
    # The math module's sine and cosine, as in Pillow: NumPy's may differ in the last digit.
    turns = (-np.radians(draws.angle % 360)).tolist()
    cosine = _round_to_15_digits(np.array([math.cos(turn) for turn in turns]))
    sine = _round_to_15_digits(np.array([math.sin(turn) for turn in turns]))
    offset_x = _CENTER - _CENTER * (cosine + sine)
    offset_y = _CENTER - _CENTER * (cosine - sine)
    from_x = _fix(np.stack([cosine, sine, offset_x + cosine * 0.5 + sine * 0.5], axis=1))
    from_y = _fix(np.stack([-sine, cosine, offset_y - sine * 0.5 + cosine * 0.5], axis=1))
    # The mirror of column floor(x) is floor of (32 - x), less the smallest fraction: exact in fixed point.
    mirrored = np.array([0, 0, (SIDE << 16) - 1], dtype=np.int32) - from_x
    return np.concatenate([np.where(draws.flip[:, None], mirrored, from_x), from_y], axis=1)


def _round_to_15_digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Python's round(value, 15) for values from -1 to 1, in bulk; NumPy's rounds some of them otherwise."""
    scaled = values * 1e15
    rounded = np.rint(scaled) / 1e15
    # The product is itself rounded: it can become a half, but never pass one.
    unsure = scaled % 1 == 0.5
    rounded[unsure] = [round(value, 15) for value in values[unsure].tolist()]
    return rounded


def _fix(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Round to 16.16 fixed point as Pillow does."""
    return np.floor(values * 65536.0 + 0.5).astype(np.int32)


def _tabulate_blend(draws: Draws) -> NDArray[np.float32]:
    order = draws.colour_order
    factors = np.take_along_axis(draws.factors, order, axis=1)
    return np.stack([factors, order == SATURATION, order == CONTRAST], axis=2).astype(np.float32)


def _warp(images: Tensor, table: Tensor, padding_mode: PaddingMode) -> Tensor:
    """Mirror, rotate and map images affinely: both warps become one index for each output pixel, then one gather.

    The order is that of the look-up, last warp first: output pixel, affine map, rotation with mirror, source pixel.
    """
    affine_x, affine_y, step_per_row, rotation = table.split([SIDE, SIDE, 1, 6], dim=1)
    x_x, x_y, x_1, y_x, y_y, y_1 = rotation[:, :, None].unbind(1)  # (N, 1) each

    rows = torch.arange(SIDE, dtype=torch.int32, device=images.device)
    x = affine_x[:, None, :] + (step_per_row * rows)[:, :, None]  # (N, 32, 32), columns of the rotated image
    x.bitwise_right_shift_(16)
    y = affine_y >> 16  # (N, 32), its rows
    x, y = (_mirror(x), _mirror(y)) if padding_mode == "symmetric" else (_send_outside_far(x), _send_outside_far(y))

    source_x = x * x_x[:, :, None]
    source_x += (y * x_y + x_1)[:, :, None]
    source_x.bitwise_right_shift_(16)
    source_y = x.mul_(y_x[:, :, None])
    source_y += (y * y_y + y_1)[:, :, None]
    source_y.bitwise_right_shift_(16)

    if padding_mode == "symmetric":
        source_x, source_y = _mirror(source_x), _mirror(source_y)
    else:  # a black frame, one pixel wide, is what all samples outside find
        images = functional.pad(images, (1, 1, 1, 1))
        source_x.clamp_(-1, SIDE).add_(1)
        source_y.clamp_(-1, SIDE).add_(1)
    index = source_y.mul_(images.shape[3]).add_(source_x).long().flatten(1)[:, None]
    return images.flatten(2).gather(2, index.expand(-1, 3, -1)).view(-1, 3, SIDE, SIDE)


def _mirror(positions: Tensor) -> Tensor:
    """Reflect whole positions outside [0, 32) about the edges, as often as it takes; changes `positions`."""
    positions.bitwise_and_(2 * SIDE - 1)  # the remainder, a hundred times as fast
    return torch.minimum(positions, 2 * SIDE - 1 - positions)


def _send_outside_far(positions: Tensor) -> Tensor:
    """Move positions outside [0, 32) so far that a rotation, which keeps distances, leaves them outside."""
    outside = (SIDE - 1 - positions).bitwise_or_(positions).bitwise_right_shift_(31)  # -1 outside, 0 inside
    return positions.sub_(outside, alpha=_FAR)


def _blend(images: Tensor, table: Tensor) -> Tensor:
    """Brightness, contrast and saturation: each a blend, or an extrapolation, of the image and a duller one.

    The duller image is black for brightness, its mean grey for contrast, its grey values for saturation. Values stay
    whole numbers in float32; multiplication and addition are apart, lest a device fuse their roundings.
    """
    pixels = images.flatten(2).float()  # (N, 3, 1024)
    red, green, blue = pixels.split(1, dim=1)  # views, (N, 1, 1024)
    for operation in table[:, :, :, None, None].unbind(1):
        factor, grey_share, mean_share = operation.unbind(1)  # (N, 1, 1)
        grey = red * _GREY_WEIGHTS[0]
        grey.add_(green, alpha=_GREY_WEIGHTS[1]).add_(blue, alpha=_GREY_WEIGHTS[2]).add_(0.5).floor_()
        mean = grey.mean(2, keepdim=True).add_(0.5).floor_()
        duller = grey.mul_(grey_share).add_(mean * mean_share)
        pixels.sub_(duller).mul_(factor).add_(duller).clamp_(0, 255).floor_()
    return pixels.to(torch.int16).view_as(images)  # from int16 to uint8 is vectorized on a CPU, from float32 is not

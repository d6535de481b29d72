"""Random changes to training images, in batches, equal to torchvision's on Pillow images to the bit.

`draw` takes one set of random numbers an image, on the CPU; `apply` turns images by them, on the images' device.
The geometry is whole-number arithmetic, the colours are float32 with every step rounded as Pillow rounds it, so that
a CPU and a GPU give the same pixels for the same draws.

Letters in shapes: N images, H rows, W columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenet_cifar10.common.params import AugmentSection
from lenet_cifar10.common.randomness import make_generator

PaddingMode = Literal["zeros", "symmetric"]
_Change = Callable[[Tensor, Tensor, PaddingMode], Tensor]  # images, its table for them, padding_mode

LARGEST_SIDE = 256  # up to here the sum of an image's grey values is exact in float32
BRIGHTNESS, CONTRAST, SATURATION = range(3)
COLOUR_ORDERS = tuple(permutations((BRIGHTNESS, CONTRAST, SATURATION)))

# Red, green and blue in Pillow's grey, whole numbers over 65536: any sum of such terms is exact in float32.
_GREY_WEIGHTS = (19595 / 65536, 38470 / 65536, 7471 / 65536)
_FAR = 16384  # pixels: no warp brings a sample back from there, and 16.16 fixed point still holds it
_CPU_CHUNK = 128  # images: what one chunk touches stays in the second-level cache
_DEVICE_CHUNK = 8192  # images: bounds the memory of intermediate values to about half a gigabyte


@dataclass(frozen=True)
class Draws:
    """The random numbers for N images, always on the CPU: only what `apply` derives from them moves to a device.

    Attributes:
        flip: (N,) bool, mirror left to right.
        angle: (N,) float64, rotation in degrees, counter-clockwise.
        shear: (N,) float64, horizontal shear in degrees.
        scale: (N,) float64, zoom factor, above 1 enlarges.
        brightness: (N,) float64, factor; 1 changes nothing.
        contrast: (N,) float64, factor; 1 changes nothing.
        saturation: (N,) float64, factor; 1 changes nothing.
        colour_order: (N, 3) int64, the order of the colour operations: 0 brightness, 1 contrast, 2 saturation.
        translation: (N, 2) int64, shift in whole pixels, rightwards and downwards.
    """

    flip: Tensor
    angle: Tensor
    shear: Tensor
    scale: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    colour_order: Tensor
    translation: Tensor

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, images: slice | Tensor) -> "Draws":
        """The draws of some of the images: a slice, or a tensor of indices or of bools."""
        return Draws(**{name: values[images] for name, values in vars(self).items()})


def draw(count: int, section: AugmentSection, generator: torch.Generator) -> Draws:
    """Draw the changes to `count` images, with the distributions of torchvision's random transforms.

    Those are RandomHorizontalFlip, RandomRotation, RandomAffine and ColorJitter, each uniform around the value that
    changes nothing, strength to either side; the shift is uniform over whole pixels. Each image takes ten uniform
    numbers, whatever the strengths: turning one knob leaves the draws of the others as they were.

    Args:
        count: how many images.
        section: the strengths; zero always draws the value that changes nothing.
        generator: a generator on the CPU, since a GPU's numbers depend on its model.
    """
    uniform = torch.rand(count, 10, dtype=torch.float64, generator=generator)  # in [0, 1)
    signed = uniform * 2 - 1
    orders = torch.tensor(COLOUR_ORDERS)  # (6, 3)
    reach = section.translation_pixels
    return Draws(
        flip=uniform[:, 0] < section.flip_probability,
        angle=signed[:, 1] * section.rotation_degrees,
        shear=signed[:, 2] * section.shear_degrees,
        scale=1 + signed[:, 3] * section.scale,
        brightness=1 + signed[:, 4] * section.brightness,
        contrast=1 + signed[:, 5] * section.contrast,
        saturation=1 + signed[:, 6] * section.saturation,
        colour_order=orders[(uniform[:, 7] * len(orders)).long()],
        translation=(uniform[:, 8:10] * (2 * reach + 1)).long() - reach,
    )


def apply(images: Tensor, draws: Draws, padding_mode: PaddingMode = "zeros") -> Tensor:
    """Change each image by its own draws.

    With padding_mode "zeros" each result equals, to the bit, that of these functions of
    `torchvision.transforms.functional` on the Pillow image, all nearest-neighbour: `hflip` if drawn, `rotate`, `affine` with the drawn translation, scale
    and horizontal shear, then `adjust_brightness`, `adjust_contrast` and `adjust_saturation` in the drawn order.
    The translation is part of the affine map: it moves the picture by whole pixels, after all else and at no cost.
    (A build of Pillow that fuses multiplication and addition, as on some ARM machines, may round a colour otherwise.)

    With padding_mode "symmetric" the same two warps see the picture mirrored at its edges, the edge pixel repeated
    (NumPy's "symmetric"), over and over, where "zeros" sees black.

    Nothing waits for the device: all that depends on a drawn value is decided on the CPU.

    Args:
        images: (N, 3, H, W) uint8, on any device; sides up to 256 pixels. It is left as it is.
        draws: N draws on the CPU, within the ranges that the augment section allows.
        padding_mode: what a warp finds outside the picture.

    Returns:
        (N, 3, H, W) uint8, a new contiguous tensor on the same device.

    Raises:
        ValueError: the images are of another type, shape or size, or the draws are not as many or not on the CPU.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: found {images.dtype} {tuple(images.shape)}, expected uint8 (N, 3, H, W)")
    count, _, height, width = images.shape
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"images: found {height} by {width} pixels, expected sides up to {LARGEST_SIDE}")
    if len(draws) != count:
        raise ValueError(f"draws: found {len(draws)} for {count} images")
    if draws.flip.device.type != "cpu":
        raise ValueError(f"draws: found them on {draws.flip.device}, expected the CPU; apply moves what it needs")

    device = images.device
    steps = [
        (change, torch.tensor(table).to(device, non_blocking=True)) for change, table in _plan(draws, height, width)
    ]
    if not steps:
        return images.clone(memory_format=torch.contiguous_format)

    output = torch.empty_like(images, memory_format=torch.contiguous_format)
    size = _CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK
    for start in range(0, count, size):
        chunk = slice(start, start + size)
        pixels = images[chunk]
        for change, table in steps:
            pixels = change(pixels, table[chunk], padding_mode)
        output[chunk] = pixels
    return output


def _plan(draws: Draws, height: int, width: int) -> list[tuple[_Change, NDArray]]:
    """The changes that the draws ask for, each with its table, one row an image; an idle change is left out."""
    plan: list[tuple[_Change, NDArray]] = []
    identity = {"flip": False, "angle": 0, "shear": 0, "scale": 1, "translation": 0}
    if any((getattr(draws, name).numpy() != value).any() for name, value in identity.items()):
        plan.append((_warp, _tabulate_warps(draws, height, width)))
    if any((factor.numpy() != 1).any() for factor in (draws.brightness, draws.contrast, draws.saturation)):
        plan.append((_blend, _tabulate_blends(draws)))
    return plan


def _tabulate_warps(draws: Draws, height: int, width: int) -> NDArray[np.int32]:
    """Everything that `_warp` needs, in 16.16 fixed point: (N, W + H + 7) int32.

    The columns: W for the source x of each output column in row 0; H for the source y of each output row, which a
    horizontal shear leaves the same along the row; 1 for the step in x from row to row; 6 for the rotation. Every sum
    has the order of the original, in float64, so that it rounds alike.
    """
    steps_x, steps_y, step_per_row = _tabulate_affine(draws, height, width)
    return np.concatenate([steps_x, steps_y, step_per_row[:, None], _tabulate_rotation(draws, height, width)], axis=1)


def _tabulate_affine(draws: Draws, height: int, width: int) -> tuple[NDArray, NDArray, NDArray]:
    """The map of torchvision's `affine`: source x in row 0 (N, W), source y (N, H), step in x per row (N,)."""
    center_x, center_y = width * 0.5, height * 0.5
    scale = draws.scale.numpy()
    shear = draws.shear.numpy()
    shift_x, shift_y = draws.translation.numpy().T
    zoom = 1.0 / scale
    slant = np.array([math.tan(math.radians(degrees)) for degrees in shear.tolist()]) / scale
    offset_x = zoom * (-center_x - shift_x) + slant * (-center_y - shift_y) + center_x
    offset_y = zoom * (-center_y - shift_y) + center_y

    zoom_steps = _fix(zoom)[:, None]
    steps_x = _fix(offset_x + zoom * 0.5 + slant * 0.5)[:, None] + zoom_steps * np.arange(width, dtype=np.int32)
    steps_y = _fix(offset_y + zoom * 0.5)[:, None] + zoom_steps * np.arange(height, dtype=np.int32)
    # A map without shear goes another way in Pillow: it adds up the zoom in floating point, pixel after pixel.
    straight = slant == 0
    if straight.any():
        steps_x[straight] = _walk((offset_x + zoom * 0.5)[straight], zoom[straight], width)
        steps_y[straight] = _walk((offset_y + zoom * 0.5)[straight], zoom[straight], height)
    return steps_x, steps_y, _fix(slant)


def _walk(start: NDArray, step: NDArray, count: int) -> NDArray[np.int32]:
    """Whole parts of start, start + step, ... as 16.16 fixed point: (N, count)."""
    steps = np.repeat(step[:, None], count, axis=1)
    steps[:, 0] = start
    return np.floor(np.cumsum(steps, axis=1)).astype(np.int32) << 16


def _tabulate_rotation(draws: Draws, height: int, width: int) -> NDArray[np.int32]:
    """The map of Pillow's `Image.rotate`, then the mirror: x and y from (x, y, 1), (N, 6)."""
    center_x, center_y = width / 2, height / 2
    # The math module and round, as in Pillow: NumPy's sine, cosine and rounding may differ in the last digit.
    turns = [-math.radians(degrees % 360.0) for degrees in draws.angle.tolist()]
    cosine = np.array([round(math.cos(turn), 15) for turn in turns])
    sine = np.array([round(math.sin(turn), 15) for turn in turns])
    offset_x = cosine * -center_x + sine * -center_y + center_x
    offset_y = -sine * -center_x + cosine * -center_y + center_y
    x_coefficients = [_fix(cosine), _fix(sine), _fix(offset_x + cosine * 0.5 + sine * 0.5)]
    y_coefficients = [_fix(-sine), _fix(cosine), _fix(offset_y + -sine * 0.5 + cosine * 0.5)]
    # The mirror of column floor(x) is floor of (width - x), less the smallest fraction: exact in fixed point.
    mirrored = draws.flip.numpy()
    for coefficients, constant in zip(x_coefficients, (0, 0, (width << 16) - 1), strict=True):
        np.subtract(constant, coefficients, out=coefficients, where=mirrored)
    return np.stack(x_coefficients + y_coefficients, axis=1)


def _fix(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Round to 16.16 fixed point as Pillow does."""
    return np.floor(values * 65536.0 + 0.5).astype(np.int32)


def _tabulate_blends(draws: Draws) -> NDArray[np.float32]:
    """For each of three colour operations in a row: its factor, and whether it blends with grey or mean: (N, 3, 3)."""
    order = draws.colour_order.numpy()
    factors = np.stack([draws.brightness.numpy(), draws.contrast.numpy(), draws.saturation.numpy()], axis=1)
    factors = np.take_along_axis(factors, order, axis=1)
    return np.stack([factors, order == SATURATION, order == CONTRAST], axis=2).astype(np.float32)


def _warp(images: Tensor, table: Tensor, padding_mode: PaddingMode) -> Tensor:
    """Mirror, rotate and map images affinely: both warps become one index for each output pixel, then one gather.

    The order is that of the look-up, last warp first: output pixel, affine map, rotation with mirror, source pixel.
    """
    count, _, height, width = images.shape
    affine_x, affine_y, step_per_row, rotation = table.split([width, height, 1, 6], dim=1)
    a0, a1, a2, a3, a4, a5 = rotation[:, :, None].unbind(1)  # (N, 1) each

    v = affine_y >> 16  # (N, H): rows of the rotated image
    y = torch.arange(height, dtype=torch.int32, device=images.device)
    u = affine_x[:, None, :] + (step_per_row * y)[:, :, None]  # (N, H, W), as all that follows
    u.bitwise_right_shift_(16)
    if padding_mode == "symmetric":
        u, v = _reflect(u, width), _reflect(v, height)
    else:
        u, v = _send_outside_far(u, width), _send_outside_far(v, height)

    source_x = u * a0[:, :, None]
    source_x += (v * a1 + a2)[:, :, None]
    source_x.bitwise_right_shift_(16)
    source_y = u.mul_(a3[:, :, None])
    source_y += (v * a4 + a5)[:, :, None]
    source_y.bitwise_right_shift_(16)

    if padding_mode == "symmetric":
        source_x, source_y = _reflect(source_x, width), _reflect(source_y, height)
    else:  # a black frame, one pixel wide, is what all samples outside find
        images = torch.nn.functional.pad(images, (1, 1, 1, 1))
        source_x.clamp_(-1, width).add_(1)
        source_y.clamp_(-1, height).add_(1)
    index = source_y.mul_(images.shape[3]).add_(source_x).long().view(count, 1, height * width)
    return images.flatten(2).gather(2, index.expand(-1, 3, -1)).view(count, 3, height, width)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect whole positions outside [0, size) about the edges, as often as it takes; changes `positions`."""
    period = 2 * size
    if period & (period - 1) == 0:
        positions.bitwise_and_(period - 1)  # the remainder of a power of two, 20 times as fast
    else:
        positions.remainder_(period)
    return torch.minimum(positions, period - 1 - positions)


def _send_outside_far(positions: Tensor, size: int) -> Tensor:
    """Move positions outside [0, size) so far that a rotation, which keeps distances, leaves them outside."""
    outside = (size - 1 - positions).bitwise_or_(positions).bitwise_right_shift_(31)  # -1 outside, 0 inside
    return positions.sub_(outside, alpha=_FAR)


def _blend(images: Tensor, table: Tensor, _: PaddingMode) -> Tensor:
    """Brightness, contrast and saturation: each a blend, or an extrapolation, of the image and a duller one.

    The duller image is black for brightness, its mean grey for contrast, its grey values for saturation. Values stay
    whole numbers in float32 throughout; multiplication and addition are apart, lest a device fuse their roundings.
    """
    pixels = images.flatten(2).float()  # (N, 3, H * W)
    size = pixels.shape[2]
    red, green, blue = pixels.split(1, dim=1)  # views, (N, 1, H * W)
    for operation in table[:, :, :, None, None].unbind(1):
        factor, grey_share, mean_share = operation.unbind(1)  # (N, 1, 1)
        grey = red * _GREY_WEIGHTS[0]
        grey.add_(green, alpha=_GREY_WEIGHTS[1]).add_(blue, alpha=_GREY_WEIGHTS[2]).add_(0.5).floor_()
        total = grey.sum(2, keepdim=True).to(torch.int32)
        mean = torch.div(2 * total + size, 2 * size, rounding_mode="floor")  # rounded half up
        duller = grey.mul_(grey_share).add_(mean * mean_share)
        pixels.sub_(duller).mul_(factor).add_(duller).clamp_(0, 255).floor_()
    return pixels.to(torch.int16).view_as(images)  # from int16 to uint8 is vectorised on a CPU, from float32 is not


def plan_epoch(count: int, seed: int, epoch: int, section: AugmentSection) -> tuple[Tensor, Draws]:
    """The order of an epoch's images, int64 (N,), and the changes to each in that order."""
    order = torch.randperm(count, generator=make_generator(seed, epoch, "order"))
    return order, draw(count, section, make_generator(seed, epoch, "augmentation"))

"""`augment` against its oracle, torchvision's functions on one Pillow image at a time, and its draws against chance."""

import math
from collections.abc import Iterator
from importlib.resources import files
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from lenet_cifar10 import augment
from lenet_cifar10.augment import COLOUR_ORDERS, Draws, apply, draw
from lenet_cifar10.params import AugmentSection

IDLE: dict[str, Any] = {
    "flip_probability": 0.0,
    "translation_pixels": 0,
    "rotation_degrees": 0.0,
    "shear_degrees": 0.0,
    "scale": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "border": "zero",
}
MILD = IDLE | {
    "flip_probability": 0.5,
    "translation_pixels": 2,
    "rotation_degrees": 10.0,
    "shear_degrees": 10.0,
    "scale": 0.2,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
}
STRONGEST = IDLE | {
    "flip_probability": 0.5,
    "translation_pixels": 16,
    "rotation_degrees": 45.0,
    "shear_degrees": 45.0,
    "scale": 0.6,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
}
COLOURS = ("brightness", "contrast", "saturation")
ADJUST = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_with(count: int, knobs: dict[str, Any], seed: int = 0) -> Draws:
    return draw(count, AugmentSection(**knobs), seeded(seed))


def choose_draws(rows: list[dict[str, Any]]) -> Draws:
    """Draws with chosen values, one row an image; what a row leaves out changes nothing."""
    idle = {"flip": False, "angle": 0.0, "shear": 0.0, "scale": 1.0, "colour_order": (0, 1, 2), "translation": (0, 0)}
    idle |= dict.fromkeys(COLOURS, 1.0)
    types = {"flip": torch.bool, "colour_order": torch.int64, "translation": torch.int64}
    columns = {name: [row.get(name, value) for row in rows] for name, value in idle.items()}
    return Draws(**{name: torch.tensor(v, dtype=types.get(name, torch.float64)) for name, v in columns.items()})


def transform_with_pillow(images: Tensor, draws: Draws) -> Tensor:
    """The oracle: torchvision's functions on one Pillow image after the other."""
    results = []
    for index, pixels in enumerate(images):
        image: Any = Image.fromarray(pixels.permute(1, 2, 0).numpy())  # torchvision's annotations know only tensors
        if draws.flip[index]:
            image = functional.hflip(image)
        image = functional.rotate(image, draws.angle[index].item())
        shift = draws.translation[index].tolist()
        image = functional.affine(image, 0, shift, draws.scale[index].item(), [draws.shear[index].item(), 0.0])
        for operation in draws.colour_order[index].tolist():
            factor = getattr(draws, COLOURS[operation])[index].item()
            image = ADJUST[operation](image, factor)
        results.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(results)


def transform_with_mirrored_pillow(images: Tensor, draws: Draws) -> Tensor:
    """The same oracle, where each of Pillow's warps works on an image with wide, mirrored margins."""
    transform, margin = Image.Image.transform, 192

    def transform_padded(image: Image.Image, size: Any, method: Any, matrix: Any, *rest: Any, **more: Any) -> Any:
        padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
        a, b, c, d, e, f = matrix
        moved = (a, b, c + margin, d, e, f + margin)
        return transform(Image.fromarray(padded), size, method, moved, *rest, **more)

    with patch.object(Image.Image, "transform", transform_padded):
        return transform_with_pillow(images, draws)


def make_noise(count: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=seeded(9))


def make_shapes(count: int) -> Tensor:
    """Gradients in random directions, and discs of random colours, (count, 3, 32, 32)."""
    random = torch.rand(count, 12, 1, 1, generator=seeded(8))
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    gradients = 255 * (random[:, :3] * x + (1 - random[:, :3]) * y)
    inside = (x - random[:, 3:4]).square() + (y - random[:, 4:5]).square() < random[:, 5:6] / 4
    return torch.where(inside, 255 * random[:, 6:9], gradients).to(torch.uint8)


def cut_photographs(count: int) -> Tensor:
    """Tiles of the pictures that Matplotlib ships, (count, 3, 32, 32)."""
    tiles = []
    for name in ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png"):
        with (files("matplotlib") / "mpl-data" / "sample_data" / name).open("rb") as file:
            pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB")))
        rows = pixels.unfold(0, 32, 32).unfold(1, 32, 32)  # (rows, columns, 3, 32, 32)
        tiles.append(rows.flatten(0, 1))
    tiles = torch.cat(tiles)
    return tiles[torch.randint(len(tiles), (count,), generator=seeded(7))].contiguous()


def make_extremes(count: int) -> Tensor:
    """All black, all white, and single primary colours, (count, 3, 32, 32)."""
    colours = torch.tensor(list(product((0, 255), repeat=3)), dtype=torch.uint8)
    return colours[torch.arange(count) % 8][:, :, None, None].expand(-1, -1, 32, 32)


IMAGES = {"photographs": cut_photographs, "shapes": make_shapes, "noise": make_noise, "extremes": make_extremes}


# Equality with Pillow, border "zero"


@pytest.mark.parametrize("knobs", [MILD, STRONGEST], ids=["mild", "strongest"])
@pytest.mark.parametrize("kind", IMAGES)
def test_images_equal_those_of_torchvision(kind: str, knobs: dict[str, Any]) -> None:
    images = IMAGES[kind](800)
    draws = draw_with(800, knobs, seed=1)
    assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


@pytest.mark.parametrize("knob", [name for name in IDLE if name != "border"])
def test_each_change_alone_equals_that_of_torchvision(knob: str) -> None:
    images = cut_photographs(200)
    draws = draw_with(200, IDLE | {knob: STRONGEST[knob]}, seed=2)
    assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


def test_round_values_take_the_special_paths_of_pillow() -> None:
    rows = [
        {"flip": flip, "angle": angle, "shear": shear, "scale": scale, "translation": shift}
        for flip, angle, shear, scale, shift in product(
            (False, True),
            (-45.0, -1e-14, -0.0, 1e-14, 30.0, 45.0),
            (-45.0, -0.0, 1e-15, 30.0),
            (0.4, 0.5, 0.8, 1.0, 1.25, 1.6),
            ((0, 0), (3, -2), (-16, 16)),
        )
    ]
    images, draws = make_noise(len(rows)), choose_draws(rows)
    assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


def test_quarter_turns_equal_those_of_pillow() -> None:
    angles = (-180.0, -90.0, 90.0, 180.0, 270.0, 360.0, 135.0)
    rows = [{"flip": flip, "angle": angle} for flip, angle in product((False, True), angles)]
    images, draws = make_noise(len(rows)), choose_draws(rows)
    assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


def test_every_colour_order_and_the_ends_of_every_factor() -> None:
    factors = (0.0, 0.37, 1.0, 2.0)
    rows = [
        {"colour_order": order, "brightness": brightness, "contrast": contrast, "saturation": saturation}
        for order, brightness, contrast, saturation in product(COLOUR_ORDERS, factors, factors, factors)
    ]
    draws = choose_draws(rows)
    for images in (cut_photographs(len(rows)), make_noise(len(rows))):
        assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    row=st.fixed_dictionaries(
        {
            "flip": st.booleans(),
            "angle": st.floats(-45, 45),
            "shear": st.floats(-45, 45),
            "scale": st.floats(0.4, 1.6),
            "colour_order": st.sampled_from(COLOUR_ORDERS),
            "translation": st.tuples(st.integers(-16, 16), st.integers(-16, 16)),
        }
        | dict.fromkeys(COLOURS, st.floats(0, 2))
    )
)
def test_awkward_values_equal_those_of_torchvision(row: dict[str, Any]) -> None:
    images, draws = make_noise(1), choose_draws([row])
    assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


@pytest.mark.parametrize(("height", "width"), [(20, 33), (48, 32), (1, 1)])
def test_other_sizes(height: int, width: int) -> None:
    images = make_noise(200, height, width)
    draws = draw_with(200, MILD, seed=3)
    assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


def test_the_largest_images_keep_their_mean_exact() -> None:
    images = torch.cat([make_noise(2, 256, 256), torch.full((2, 3, 256, 256), 255, dtype=torch.uint8)])
    images[3, :, 0, 0] = 0
    draws = draw_with(4, STRONGEST | {"scale": 0.2}, seed=4)
    assert torch.equal(apply(images, draws), transform_with_pillow(images, draws))


# Border "reflect"


@pytest.mark.parametrize("knobs", [MILD, STRONGEST], ids=["mild", "strongest"])
def test_reflected_images_equal_those_of_padded_pillow_images(knobs: dict[str, Any]) -> None:
    images = cut_photographs(400)
    draws = draw_with(400, knobs, seed=5)
    assert torch.equal(apply(images, draws, "reflect"), transform_with_mirrored_pillow(images, draws))


def test_reflection_without_shear_and_at_sides_that_are_no_powers_of_two() -> None:
    images = make_noise(100, 20, 33)
    draws = draw_with(100, MILD | {"shear_degrees": 0.0}, seed=6)
    assert torch.equal(apply(images, draws, "reflect"), transform_with_mirrored_pillow(images, draws))


def test_the_border_changes_only_what_lies_outside() -> None:
    geometry = STRONGEST | dict.fromkeys(COLOURS, 0.0)
    images, draws = make_noise(300), draw_with(300, geometry, seed=7)
    inside = apply(torch.full_like(images, 255), draws) == 255
    assert inside.any()
    assert not inside.all()
    zero, reflect = apply(images, draws, "zero"), apply(images, draws, "reflect")
    assert torch.equal(reflect[inside], zero[inside])
    assert not zero[~inside].any()
    assert apply(torch.full_like(images, 255), draws, "reflect").eq(255).all()


# Translation


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_translation_moves_by_whole_pixels(border: Any) -> None:
    images = make_noise(49)
    shifts = list(product(range(-3, 4), repeat=2))
    moved = apply(images, choose_draws([{"translation": shift} for shift in shifts]), border)
    mode = "symmetric" if border == "reflect" else "constant"
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode=mode)
    for image, source, (right, down) in zip(moved.numpy(), padded, shifts, strict=True):
        assert np.array_equal(image, source[:, 3 - down : 35 - down, 3 - right : 35 - right])


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_translation_moves_the_warped_picture(border: Any) -> None:
    geometry = MILD | dict.fromkeys(COLOURS, 0.0) | {"translation_pixels": 0}
    images, still = make_noise(200), draw_with(200, geometry, seed=8)
    values = vars(still) | {"translation": torch.tensor([3, -2]).expand(200, 2)}
    moved, unmoved = apply(images, Draws(**values), border), apply(images, still, border)
    differing = moved[:, :, :-2, 3:] != unmoved[:, :, 2:, :-3]
    assert differing.float().mean() < 0.002  # fixed point: a shift by zoom times pixels rounds a few samples otherwise


# What apply promises besides


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_strength_zero_is_the_identity(border: Any) -> None:
    images = make_noise(300)
    result = apply(images, draw_with(300, IDLE), border)
    assert torch.equal(result, images)
    assert result.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_draws_that_change_nothing_beside_others_that_do(border: Any) -> None:
    images = make_noise(300)
    draws = choose_draws([{}, {"angle": 20.0, "contrast": 0.5}] * 150)
    assert torch.equal(apply(images, draws, border)[::2], images[::2])


def test_a_flip_is_the_mirrored_image() -> None:
    images = make_shapes(10)
    assert torch.equal(apply(images, draw_with(10, IDLE | {"flip_probability": 1.0})), images.flip(3))


def test_the_images_are_left_as_they_are_and_need_not_be_contiguous() -> None:
    images = cut_photographs(20)
    before, draws = images.clone(), draw_with(20, STRONGEST)
    expected = apply(images, draws)
    assert torch.equal(images, before)
    result = apply(images.contiguous(memory_format=torch.channels_last), draws)
    assert torch.equal(result, expected)
    assert result.is_contiguous()


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 300])
def test_an_image_depends_only_on_its_own_draws(count: int) -> None:
    images, draws = make_noise(count), draw_with(count, MILD)
    whole = apply(images, draws, "reflect")
    assert whole.shape == images.shape
    cuts = [slice(0, 50), slice(50, 51), slice(51, None)]
    assert torch.equal(torch.cat([apply(images[cut], draws[cut], "reflect") for cut in cuts]), whole)
    backwards = torch.arange(count).flip(0)
    assert torch.equal(apply(images[backwards], draws[backwards], "reflect"), whole[backwards])


@pytest.fixture
def deterministic_algorithms() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("deterministic_algorithms")
@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_deterministic_mode_and_threads_change_nothing(border: Any) -> None:
    images, draws, threads = make_noise(200), draw_with(200, MILD), torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(apply(images, draws, border))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(result, apply(images, draws, border)) for result in results)


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_a_gpu_would_neither_wait_nor_mix_devices(border: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake GPU raises on tensors of another device and on anything that needs a value back."""
    draws, plan = draw_with(20_000, MILD), augment._plan

    def plan_with_real_tensors(*arguments: Any) -> Any:
        with unset_fake_temporarily():
            return plan(*arguments)

    monkeypatch.setattr(augment, "_plan", plan_with_real_tensors)
    with FakeTensorMode():
        images = torch.zeros(20_000, 3, 32, 32, dtype=torch.uint8, device="cuda")
        result = apply(images, draws, border)
    assert (result.device.type, result.dtype, result.shape) == ("cuda", torch.uint8, images.shape)


@pytest.mark.parametrize(
    ("images", "count", "message"),
    [
        (torch.zeros(2, 3, 32, 32), 2, r"found torch\.float32 \(2, 3, 32, 32\), expected uint8 \(N, 3, H, W\)"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), 2, r"found torch\.uint8 \(2, 1, 32, 32\)"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), 3, r"found torch\.uint8 \(3, 32, 32\)"),
        (torch.zeros(2, 3, 8, 257, dtype=torch.uint8), 2, "found 8 by 257 pixels, expected sides up to 256"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 3, "found 3 for 2 images"),
    ],
)
def test_wrong_images_are_refused(images: Tensor, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(images, draw_with(count, MILD))


def test_draws_on_a_device_are_refused() -> None:
    draws = Draws(**{name: values.to("meta") for name, values in vars(draw_with(2, MILD)).items()})
    with pytest.raises(ValueError, match="found them on meta, expected the CPU"):
        apply(make_noise(2), draws)


# Draws

COUNT = 20_000


def column(draws: Draws, name: str) -> np.ndarray:
    values = getattr(draws, name)
    return values.double().numpy().reshape(len(draws), -1)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("angle", -45, 45),
        ("shear", -45, 45),
        ("scale", 0.4, 1.6),
        ("brightness", 0, 2),
        ("contrast", 0, 2),
        ("saturation", 0, 2),
    ],
)
def test_a_continuous_knob_is_uniform(name: str, low: float, high: float) -> None:
    """Kolmogorov and Smirnov's statistic stays below the level that chance passes once in a thousand times."""
    values = np.sort(column(draw_with(COUNT, STRONGEST), name)[:, 0])
    assert low <= values[0]
    assert values[-1] <= high
    position = (values - low) / (high - low)
    rank = np.arange(COUNT) / COUNT
    distance = max((position - rank).max(), (rank + 1 / COUNT - position).max())
    assert distance * math.sqrt(COUNT) < 1.95


def assert_equal_shares(counts: np.ndarray) -> None:
    """Chi-squared within four deviations of its mean."""
    expected, freedom = COUNT / len(counts), len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_the_six_colour_orders_come_equally_often() -> None:
    orders, counts = np.unique(draw_with(COUNT, MILD).colour_order.numpy(), axis=0, return_counts=True)
    assert [tuple(order) for order in orders.tolist()] == sorted(COLOUR_ORDERS)
    assert_equal_shares(counts)


@pytest.mark.parametrize("reach", [1, 2, 16])
def test_all_shifts_come_equally_often(reach: int) -> None:
    translation = draw_with(COUNT, MILD | {"translation_pixels": reach}).translation
    for axis in translation.numpy().T:
        shifts, counts = np.unique(axis, return_counts=True)
        assert shifts.tolist() == list(range(-reach, reach + 1))
        assert_equal_shares(counts)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_flips(probability: float) -> None:
    share = draw_with(COUNT, MILD | {"flip_probability": probability}).flip.double().mean().item()
    assert abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / COUNT)


def test_knobs_and_images_are_independent() -> None:
    draws = draw_with(COUNT, STRONGEST)
    columns = np.concatenate([column(draws, name) for name in vars(draws) if name != "colour_order"], axis=1)
    order = column(draws, "colour_order") @ [9, 3, 1]
    columns = np.column_stack([columns, order])  # (COUNT, 10)
    limit = 4.5 / math.sqrt(COUNT)  # deviations: the largest of hundreds of chance correlations stays below
    correlations = np.corrcoef(columns, rowvar=False)
    assert np.abs(correlations - np.eye(10)).max() < limit
    neighbours = np.corrcoef(columns[:-1], columns[1:], rowvar=False)[:10, 10:]
    assert np.abs(neighbours).max() < limit


@pytest.mark.parametrize("knob", [name for name in IDLE if name != "border"])
def test_a_knob_leaves_the_draws_of_the_others(knob: str) -> None:
    draws_of = {
        "flip_probability": "flip",
        "translation_pixels": "translation",
        "rotation_degrees": "angle",
        "shear_degrees": "shear",
    }
    mine = draws_of.get(knob, knob)
    with_it, without_it = draw_with(100, STRONGEST), draw_with(100, STRONGEST | {knob: IDLE[knob]})
    same = {name for name in vars(with_it) if torch.equal(getattr(with_it, name), getattr(without_it, name))}
    assert same == set(vars(with_it)) - {mine}


def test_the_same_state_gives_the_same_draws() -> None:
    generator = seeded(3)
    first, second = (draw(50, AugmentSection(**MILD), generator) for _ in range(2))
    again = draw_with(50, MILD, seed=3)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in vars(first))
    assert not torch.equal(first.angle, second.angle)


def test_types_and_shapes_of_draws_and_of_their_parts() -> None:
    draws = draw_with(30, MILD)
    for part, count in ((draws, 30), (draws[10:20], 10), (draws[torch.tensor([3, 1])], 2), (draw_with(0, MILD), 0)):
        assert len(part) == count
        for name, values in vars(part).items():
            width = {"colour_order": (3,), "translation": (2,)}.get(name, ())
            kind = {"flip": torch.bool, "colour_order": torch.int64, "translation": torch.int64}
            assert values.shape == (count, *width)
            assert values.dtype == kind.get(name, torch.float64)
    assert torch.equal(draws[10:20].angle, draws.angle[10:20])
